"""The memory in the loop: turns onto the disk, what the patient asks of it, and its housekeeping while nobody talks.

It knows no SQL (`memory.py`) and no rule of what is worth remembering (`remembered.py`). Nothing here blocks the loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from device.asked import Wish, asked
from device.disclosure import Disclosure
from device.logs import log
from device.memory import BREAK, Memory, MemoryFault
from device.memory_rows import Said, Segment
from device.planner import REMEMBERED
from device.remembered import answer, facts, grounded, lines, summary
from device.reply_rules import check_reply
from device.states import State
from device.turn import Turn
from device.voice.link import Message, Voice, VoiceLost, pack_segments, unpack_segments

if TYPE_CHECKING:
    from device.daemon import Companion

T = TypeVar("T")
LOOK = 1.0  # seconds between two looks while nobody talks
AGAIN = 30.0  # seconds before a memory that could not be opened is tried again
HOUR = 3600.0  # between two looks for turns that are too old
WAITING = 500  # turns that wait for a full disk; the oldest go first
FRAMES = 2048  # of what was spoken, for the voice to go on from: as much as CSM-1B has positions
PATIENCE = 120.0  # seconds for a model's summary
LINE, LINES = 300, 20  # of what the prompt is told: the wire's header has room for it
TALK = 40_000  # characters of a session that a model is asked to sum up


@dataclass(frozen=True)
class Answer:
    """What the memory itself answers: a recorded sentence, or clauses for the voice. A recorded one leaves no turn."""

    sound: str = ""
    clauses: tuple[str, ...] = ()


class Remembering:
    """`fault`: something that was said is not on the disk, and the light says so."""

    def __init__(self, home: Companion, memory: Memory | None) -> None:
        self._home, self.memory = home, memory
        self.fault = memory is None
        self._waiting: list[tuple[int, float, Turn]] = []  # (exchange, when, turn) that are not on the disk yet
        self._ids: dict[int, int] = {}  # exchange: its turn's id
        self._codes: dict[int, list[Segment]] = {}  # exchange: what was spoken, until its turn is on the disk
        self._said = ""  # the fault that the log has already
        self._writing = anyio.Lock()
        self._sure = False  # "forget everything" was said, and the patient is being asked
        self._changes = -1  # never looked
        self._patient = ""  # who lay in the bed when we looked
        self._spoke = time.time()  # when the last turn was stored
        self._expired = self._tried = float("-inf")
        self._summary: tuple[float, tuple[Said, ...], int] | None = None  # (asked when, its turns, session) of the voice

    # A turn ------------------------------------------------------------------------------------

    async def store(self, number: int, turn: Turn) -> None:
        """Durable before the next turn begins. A full disk must not silence the device: the turn waits, and the light says so."""
        self._spoke = time.time()
        self._waiting = [*self._waiting, (number, self._spoke, turn)][-WAITING:]
        try:
            await self._write()
        except MemoryFault as error:
            self._failed(error)

    def kept(self, message: Message) -> None:
        """The voice tells what was spoken in a turn, as codes."""
        self._codes[message.turn] = unpack_segments(message)
        self._codes = dict(list(self._codes.items())[-WAITING:])

    async def _write(self) -> None:
        async with self._writing:
            while self._waiting:
                number, at, turn = self._waiting[0]
                if self.memory is None:
                    return
                self._ids = dict([*self._ids.items(), (number, await self._disk(self.memory.add, turn, at))][-WAITING:])
                if self._waiting and self._waiting[0][0] == number:  # it was not forgotten meanwhile
                    del self._waiting[0]
            for number in [number for number in self._codes if number in self._ids]:
                assert self.memory is not None
                await self._disk(self.memory.add_codes, self._ids[number], self._codes[number])
                self._codes.pop(number, None)
                self._ids.pop(number, None)
            if self.fault and self.memory is not None:
                self.fault, self._said = False, ""
                log("memory_whole")
                self._home.show()

    def _failed(self, error: MemoryFault) -> None:
        if str(error) != self._said:
            self._said = str(error)
            log("memory_fault", level=logging.WARNING, reason=error, waiting=len(self._waiting))
        if not self.fault:
            self.fault = True
            self._home.show()
            if self._home.exchange is None:  # nobody is speaking into it
                self._home.audio.begin()
                self._home.say(self._home.sounds["not_kept"])

    @property
    def asks(self) -> bool:
        """Whether the patient is being asked if everything shall be forgotten: a yes is the answer to that."""
        return self._sure

    # What the patient asks of it -----------------------------------------------------------------

    async def answer(self, heard: str) -> Answer | None:
        """What the memory answers to `heard`; None where it was not spoken to."""
        wish, sure = asked(heard), self._sure
        self._sure = False
        if wish is None or (self.memory is None and not self._waiting):
            return None
        try:
            if wish.wish is Wish.RECALL:
                return await self._recall(wish.topic)
            if wish.wish is Wish.FORGET_LAST:
                await self._forget(last=True)
                return Answer("forgotten")
            if sure:  # asked, and said again or confirmed
                await self._forget(last=False)
                return Answer("forgotten_all")
            self._sure = wish.wish is Wish.FORGET_ALL
            return Answer("forget_sure") if self._sure else None
        except MemoryFault as error:
            log("memory_fault", level=logging.WARNING, reason=error)
            return Answer("cant_forget")

    async def lines(self, heard: str) -> list[str]:
        """What the prompt is told of earlier, for a reply to `heard`."""
        if self.memory is None:
            return []
        try:
            return await self._disk(self._lines, heard)
        except MemoryFault as error:
            log("memory_fault", level=logging.WARNING, reason=error)
            return []

    def _lines(self, heard: str) -> list[str]:
        assert self.memory is not None
        in_prompt = {turn.heard.text for turn in self._home.turns[-REMEMBERED:]}
        near = [said for said in self.memory.recall(heard, 3 + REMEMBERED) if said.heard not in in_prompt]
        told = lines(self.memory.facts(), self.memory.sessions(3), near[:3], time.time())
        return [line[:LINE] for line in told[:LINES]]

    async def _recall(self, topic: str) -> Answer | None:
        if self.memory is None:
            return None
        found = await self._disk(self.memory.recall, topic, 1)
        return Answer(clauses=answer(found[0] if found else None, time.time()))

    async def _forget(self, last: bool) -> None:
        """Raises MemoryFault; then too it is told by nobody any more."""
        log("forget", last=last)
        self._home.exercises.forget(last)
        async with self._writing:
            waited = last and self._waiting
            self._waiting = self._waiting[:-1] if last else []
            self._codes.clear()
            self._ids.clear()
            try:
                if self.memory is not None and not waited:
                    await self._disk(self.memory.forget_last if last else self.memory.forget_patient)
            finally:
                await self._reload()

    # Housekeeping --------------------------------------------------------------------------------

    async def keep(self) -> None:
        """While nobody talks: write what waits, see what others erased, sum up what is over, erase what is too old."""
        while True:
            await anyio.sleep(LOOK)
            try:
                if self._home.state is State.READY:
                    await self._look()
                elif self._home.state in (State.ALERTING, State.FAULT) and self._waiting:  # either may last for hours
                    await self._write()
            except MemoryFault as error:
                self._failed(error)

    async def _look(self) -> None:
        now = time.time()
        if self.memory is None and not await self._open():
            return
        memory = self.memory
        assert memory is not None
        await self._write()
        if await self._disk(memory.changes) != self._changes:
            await self._reload()
        if self._home.turns and now - self._spoke > BREAK:
            self._home.turns.clear()
        if memory.unshredded:
            await self._disk(memory.shred)
        days = self._home.settings.memory.retention_days
        if days and now - self._expired > HOUR:
            self._expired = now
            if gone := await self._disk(memory.forget_older, now - days * 86400):
                log("memory_expired", turns=gone, days=days)
        await self._sum_up(memory, now)

    async def _open(self) -> bool:
        """A memory that could not be had at the start: the disk may have room again, or its key be back."""
        if time.monotonic() - self._tried < AGAIN:
            return False
        self._tried = time.monotonic()
        settings = self._home.settings.memory
        self.memory = await self._disk(Memory, Path(settings.file), settings.key)
        return True

    async def _reload(self) -> None:
        """Something was erased, or another patient lies here: nobody goes on from what they no longer know."""
        if self.memory is None:
            return
        self._changes = await self._disk(self.memory.changes)
        before, self._patient = self._patient, await self._disk(self.memory.patient)
        if before not in ("", self._patient):
            self._home.disclosure = Disclosure()  # another ear, which has not been told
            self._home.exercises.forget()
        kept = await self._disk(self.memory.ongoing, time.time())
        self._home.turns[:] = [*kept, *(turn for _, _, turn in self._waiting)]
        if self._home.voice is not None and self._home.about is not None:
            await self.resume(self._home.voice, self._home.about)

    async def resume(self, voice: Voice, about: dict[str, Any]) -> bool:
        """Tell a voice that keeps a conversation what it was; it answers `resumed`. False for one that keeps none."""
        if not about.get("codebooks"):
            return False
        told: list[Segment] = []
        try:
            if self.memory is not None:
                told = await self._disk(self.memory.spoken, about["codebooks"], FRAMES)
        except MemoryFault as error:
            log("memory_fault", level=logging.WARNING, reason=error)
        fields, codes = pack_segments(told, about["codebooks"])
        try:
            await voice.send("resume", 0, codes, **fields)
        except VoiceLost:
            return False  # its reader notices
        return True

    async def _sum_up(self, memory: Memory, now: float) -> None:
        """One session that is over: by the chat model where there is one, and always by rules."""
        if self._summary is not None and time.monotonic() - self._summary[0] < PATIENCE:
            return
        tried = self._summary is not None  # the model took too long, or its process went: rules alone
        self._summary = None
        session = await self._disk(memory.untold, now)
        if session is None:
            return
        voice, about = self._home.voice, self._home.about or {}
        if voice is not None and about.get("words", "bank") != "bank" and session.turns and not tried:
            said: list[tuple[str, str]] = []
            for turn in session.turns:
                if sum(len(a) + len(b) for a, b in said) < TALK:
                    said.append((turn.heard, turn.reply))
            self._summary = time.monotonic(), session.turns, session.id
            try:
                await voice.send("summarise", 0, number=session.id, said=said)
            except VoiceLost:
                self._summary = None
            return
        await self._disk(memory.tell, session.id, summary(session.turns), facts(session.turns))

    async def summarised(self, message: Message) -> None:
        """The chat model's summary: kept only if it says nothing that was not said, and nothing that must not be said."""
        if self._summary is None or self.memory is None or message.fields["number"] != self._summary[2]:
            return
        _, turns, session = self._summary
        self._summary = None
        text = " ".join(str(message.fields["text"]).split())[:LINE]
        good = grounded(text, turns) and check_reply(text) == text
        log("summary", by="model" if good else "rules", turns=len(turns))
        try:
            await self._disk(self.memory.tell, session, text if good else summary(turns), facts(turns))
        except MemoryFault as error:
            self._failed(error)

    async def _disk(self, do: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(do, *arguments)
