"""One exchange with the voice process: blocks out, words back, clauses checked, frames into the speaker.

It lives as long as its turn. What was really said and heard of it is asked with `turn()`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from device import safety
from device.conditioning import conditioning
from device.disclosure import SENTENCE, without
from device.planner import REMEMBERED, part_heard
from device.reply_rules import INSTEAD, broken
from device.spoken import spoken
from device.states import Event
from device.turn import FRAME, VOICE_RATE, Alert, Heard, Turn
from device.voice.link import Message, Voice, VoiceLost

if TYPE_CHECKING:
    from device.daemon import Companion

LOOK = 0.02  # seconds between two looks at the sound card: four to each 80 ms frame
SECONDS_A_WORD = 0.4  # of calm speech, where the real length is not known yet
SHORT_PRESS = 0.6  # seconds: silence in a press this short needs no answer
# What is told of earlier replies, so that none is said twice: 16 KB at most, for the wire's line is
# 64 KB and a session lasts weeks.
AVOIDED, BEGINNING = 200, 80


class Exchange:
    def __init__(self, companion: Companion, voice: Voice, number: int) -> None:
        self._home, self._voice, self.number = companion, voice, number
        self._in, self._out = anyio.create_memory_object_stream[Message | None](10_000)
        self._history = companion.history  # this turn's own list: the next press begins another
        self._about = companion.about or {}  # the voice that speaks, should it be gone at the end
        self._pressed = time.monotonic()
        self._released = 0.0
        self.heard: Heard | None = None
        self.alert: Alert | None = None
        # Talking moves the jaw, and a jaw drowns a brain: what was sure as the button went down counts for this turn.
        self.affect = companion.affect()
        self.latency: dict[str, float] = {}
        self._clauses: list[str] = []  # asked to be spoken, in order
        self._seconds: list[float] = []  # of audio that came for each
        self._spoken = 0  # clauses whose sound has come whole
        self._reply: str | None = None
        self._played = 0.0

    def deliver(self, message: Message) -> None:
        """A message of the voice process; one of an older turn is dropped."""
        if message.turn == self.number:
            self._in.send_nowait(message)

    def lost(self) -> None:
        self._in.send_nowait(None)

    async def run(self) -> Event | None:
        """The turn. Returns the event that ends it; None when a rule fired and the alert takes over."""
        await self._listen()
        heard = await self._recognise()
        settings = self._home.settings
        if not heard.text:
            return Event.NOTHING if self._released - self._pressed < SHORT_PRESS else await self._say_again()
        self.alert = safety.check(heard.text)  # first of all: pure, no model, no disk
        if self.alert is not None:
            self._home.alarm.heard(self.alert)
            self.heard = heard
            return None
        if heard.confidence < settings.listen.min_confidence:
            return await self._say_again()
        self.heard = heard
        if self.affect.reason:
            self.affect = self._home.affect()
        if (taken := self._home.exercises.answer(heard.text)) is not None:
            self.heard = None  # a yes or a no to an offer is nothing to remember
            await self._say_recorded(taken[0])
            return taken[1]
        answer = await self._home.remembering.answer(heard.text)
        if answer is not None and answer.sound:  # "forget that": of the wish itself nothing is kept either
            self.heard = None
            return await self._say_recorded(answer.sound)
        await self._answer(heard, answer.clauses if answer is not None else ())
        if "release_to_first_audio" not in self.latency:
            return await self._say_again()  # a plan without a word that can be spoken
        return Event.SPOKEN

    async def _listen(self) -> None:
        """Blocks go to the voice process while the patient speaks, so that little is left at release."""
        home = self._home
        # The tone now, not with the words: CSM listens to its history anew for another, and has until the release for it.
        await self._voice.send("press", self.number, tone=conditioning(self.affect)[1])
        done = False
        while not done:
            pcm, done = home.audio.take()
            if len(pcm):
                await self._voice.send("block", self.number, pcm)
            if not done:
                await anyio.sleep(LOOK)

    async def _recognise(self) -> Heard:
        # The patient's own clock: it starts when the button came up, not when the tail was recorded.
        self._released = next(t for t, state in reversed(self._history) if state == "thinking")
        await self._voice.send("release", self.number)
        message = await self._next("heard")
        self._mark("release_to_heard")
        return Heard(message.fields["text"], message.fields["seconds"], message.fields["confidence"])

    async def _say_again(self) -> Event:
        return await self._say_recorded("again")

    async def _say_recorded(self, name: str) -> Event:
        self._home.audio.begin()
        self._home.say(self._home.sounds[name])
        self._home.post(Event.FIRST_AUDIO)
        await self._drain()
        return Event.SPOKEN

    async def _answer(self, heard: Heard, known: Sequence[str] = ()) -> None:
        """Plan, check and speak, clause by clause, until the speaker has drained. `known`: clauses that need no plan."""
        home, number = self._home, 0
        if not known:
            await self._plan(heard, number, bank=False)
        home.said.append("")
        home.audio.begin()
        for part in known:
            if clause := INSTEAD.get(self._refused(part), spoken(part)):
                await self._speak(clause)
        planned, chat = bool(known), self._about["words"] != "bank"
        while not (planned and self._spoken == len(self._clauses)):
            message = await self._next("clause", "planned", "audio", "spoken")
            if message.kind == "audio":
                self._seconds[self._spoken] += len(message.pcm) / VOICE_RATE
                home.say(message.pcm)
                if "release_to_first_audio" not in self.latency:
                    self._mark("release_to_first_audio")
                    home.post(Event.FIRST_AUDIO)
            elif message.kind == "spoken":
                self._spoken += 1
            elif message.fields["number"] != number:
                continue  # of a plan that was given up
            elif message.kind == "planned" and (self._clauses or number or not chat):
                planned = True
            elif message.kind == "clause" and not (rule := self._refused(message.fields["text"])):
                if clause := spoken(message.fields["text"]):
                    await self._speak(clause)
            elif chat and number == 0:
                number = 1  # the chat model said nothing, or what must not be said: the reviewed bank answers
                await self._plan(heard, number, bank=True)
            elif INSTEAD[rule] not in self._clauses:
                await self._speak(INSTEAD[rule])
        await self._drain()
        if not self.cut:  # else the press that cut it counted, and the card has begun to count anew
            self._played = home.audio.played

    async def _plan(self, heard: Heard, number: int, bank: bool) -> None:
        before = self._home.turns[-REMEMBERED:]
        chat = self._about["words"] != "bank" and not bank
        await self._voice.send(
            "plan",
            self.number,
            number=number,
            bank=bank,
            heard=heard.text,
            before=[[turn.heard.text, without(turn.reply)] for turn in before],
            avoid=[reply[:BEGINNING] for reply in self._home.said[-AVOIDED:]],
            affect=conditioning(self.affect)[0],
            remembered=await self._home.remembering.lines(heard.text) if chat else [],
        )

    def _refused(self, clause: str) -> str:
        """The rule that `clause` breaks, "" for none; counted, without its words."""
        if rule := broken(clause):
            self._home.alarm.refused(rule)
        return rule

    async def _speak(self, clause: str) -> None:
        home = self._home
        if not self._clauses:
            self._mark("release_to_first_clause")
            if home.disclosure.due(home.clock()):
                await self._send(SENTENCE)
        home.said[-1] = f"{home.said[-1]} {clause}".strip()
        await self._send(clause)

    async def _send(self, clause: str) -> None:
        self._clauses.append(clause)
        self._seconds.append(0.0)
        await self._voice.send("speak", self.number, text=clause)

    async def _drain(self) -> None:
        while self._home.audio.pending > 0:
            await anyio.sleep(LOOK)

    async def _next(self, *kinds: str) -> Message:
        while True:
            message = await self._out.receive()
            if message is None:
                raise VoiceLost("the voice process went away in the middle of a turn")
            if message.kind == "failed":
                raise VoiceLost(f"the voice could not {message.fields['work']}: {message.fields['error']}")
            if message.kind in kinds:
                return message

    def _mark(self, name: str) -> None:
        self.latency[name] = round(time.monotonic() - self._released, 3)

    @property
    def cut(self) -> bool:
        return self._reply is not None

    def cut_short(self, played: float) -> None:
        """The turn was cancelled: only the `played` seconds that left the speaker count as said."""
        if self.cut:
            return
        self._played = played
        self._reply = part_heard(self._lengths(), self._played)

    def _lengths(self) -> list[tuple[str, float]]:
        """(clause, seconds of it). One whose sound is still coming is longer than what has come of it."""
        return [
            (clause, seconds if index < self._spoken else max(seconds, SECONDS_A_WORD * len(clause.split())))
            for index, (clause, seconds) in enumerate(zip(self._clauses, self._seconds, strict=True))
        ]

    @property
    def disclosed(self) -> bool:
        """Whether it was said, and heard to its end, that a machine is speaking."""
        return self._clauses[:1] == [SENTENCE] and part_heard(self._lengths()[:1], self._played) == SENTENCE

    def spoken(self) -> list[tuple[str, int]]:
        """For the voice's own history, in order: (the words of each clause that were heard, their frames)."""
        out, left = [], self._played
        for (clause, length), seconds in zip(self._lengths(), self._seconds, strict=True):
            heard = part_heard([(clause, length)], left).removesuffix(" —")
            out.append((heard, round(min(left, seconds) * VOICE_RATE / FRAME)))
            left = max(0.0, left - length)
        return out

    def turn(self) -> Turn | None:
        """What memory keeps, None when nobody spoke."""
        if self.heard is None:
            return None
        return Turn(
            heard=self.heard,
            reply=" ".join(self._clauses) if self._reply is None else self._reply,
            affect=self.affect,
            alert=self.alert,
            engine=self._about.get("engine", ""),
            precision=self._about.get("precision", ""),
            played=round(self._played, 3),
            states=tuple((round(t - self._pressed, 3), name) for t, name in self._history),
            latency=self.latency,
        )
