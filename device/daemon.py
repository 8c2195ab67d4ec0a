"""The companion: an event loop that turns presses into answered turns, and the turn as one coroutine.

It owns the button, the light, the sound, the headset, the safety rules and the memory. It imports no
torch, and nothing here blocks the loop for longer than a frame of sound.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import anyio

from device import edges
from device.alarm import Alarm
from device.beat import notify
from device.config import Settings
from device.disclosure import Disclosure, clock
from device.eeg_feed import Feed
from device.exchange import Exchange
from device.exercises import Exercises
from device.guide import Guide
from device.heartbeat import Heartbeat
from device.logs import log
from device.loop import Loop
from device.memory import Memory
from device.quiet import baseline_file
from device.recording import Session
from device.remembering import Remembering
from device.states import TIMEOUTS, TRANSITIONS, Control, Event, State, light, step
from device.status import facts_of, status_of
from device.turn import Affect, Turn
from device.voice.link import Voice, VoiceLost
from device.volume import Volume

# A press that can't open a turn is answered by a recorded sentence.
SENTENCES: dict[State, str] = {State.STARTING: "starting", State.FAULT: "cant_answer"}
# In these the device is heard, until a press or a fault silences it.
LEADS = (State.SPEAKING, State.QUIET, State.EXERCISE)


class Companion(Loop):
    """Runs until cancelled. `watch` is told of every state and finished turn (the demo's time line)."""

    def __init__(
        self,
        settings: Settings,
        panel: Any,
        audio: Any,
        headset: Any,
        memory: Memory | None,
        sounds: dict[str, Any],
        watch: Callable[[str, Any], None] = lambda kind, value: None,
    ) -> None:
        super().__init__()
        self.settings, self.panel, self.audio, self.headset = settings, panel, audio, headset
        self.sounds, self.watch = sounds, watch
        self.remembering = Remembering(self, memory)
        self.recording = Session(settings.headset.record, settings.headset.board)
        self.feed = Feed(headset, settings.headset.board, baseline_file(settings))
        self.guide = Guide(self)
        self.alarm = Alarm(self, sounds)
        self.heartbeat = Heartbeat(self)
        self.volume, self.muted, self.night = Volume(settings.audio.volume, settings.audio.night_volume), False, False
        self.state = State.STARTING
        self.since = time.monotonic()
        self.history: list[tuple[float, str]] = []  # (monotonic seconds, state) since the last press
        self.voice: Voice | None = None
        self.about: dict[str, Any] | None = None  # what the voice said of itself when READY
        self.voice_says = "waiting for bedside-voice"  # what it does until then, or why there is none
        self.turns: list[Turn] = []  # of this session, oldest first
        self.said: list[str] = []  # every reply of this session, whole, so that none is said twice
        self.disclosure = Disclosure()
        self.clock: Callable[[], float] = clock
        self.exercises = Exercises(self)
        self.exchange: Exchange | None = None
        self._scope: anyio.CancelScope | None = None
        self._told = ""  # to systemd
        self._over = anyio.Event()  # set when no turn runs and the last one is stored
        self._over.set()
        self._number, self.overdue = 0, False

    facts = facts_of

    def post(self, event: Event | Control) -> None:
        if event in (Control.MUTE, Control.UNMUTE):  # in the switch's own thread, before anything the loop may do
            self.audio.mute(event is Control.MUTE)
        super().post(event)

    def handle(self, event: Event | Control) -> None:
        self._turn_control(event) if isinstance(event, Control) else self.take(event)

    async def run(self) -> None:
        self.begin()
        self.muted = self.panel.muted
        self.audio.mute(self.muted)
        self.show()
        self.headset.start()
        notify("READY=1")
        self.tell()
        try:
            async with anyio.create_task_group() as self._tasks:
                for keep in (edges.keep_voice, edges.keep_time, edges.keep_night, edges.keep_headset):
                    self._tasks.start_soon(keep, self)
                for keep_on in (self.heartbeat.keep_sound, self.heartbeat.keep_beat, self.remembering.keep, self.exercises.keep):
                    self._tasks.start_soon(keep_on)
                self.alarm.start()
                await self.take_events()
        finally:
            notify("STOPPING=1")
            self.headset.close()
            self.recording.close()
            self.audio.close()

    # Events and states -------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Never waits: the call button must not stand in line behind a slow disk or a hung voice."""
        before = self.state
        if (before, event) not in TRANSITIONS or self._too_early(event) or self._no_wearer(event):
            log("ignored", state=before.value, event=event.value)
            if event is Event.PRESS and before in SENTENCES and self.audio.pending == 0:
                self._play(SENTENCES[before])
            return
        after = step(before, event)
        if self.muted and after is State.LISTENING:
            return self._answer_muted(before)
        self.recording.saw(event, before, after, self.alarm.kind)
        if after is State.LISTENING:
            self.history = []
        self._enter(after, event)
        if after is State.THINKING:
            self.audio.listen(False)
        elif after is State.LISTENING:
            self._silence_turn()
            self._begin_turn()
            self.beside(edges.cue, self)
        elif after is State.ALERTING:
            self._sound_alarm(before, event)
        elif after is State.QUIET:
            self.guide.begin(self._tasks)
        elif after is State.EXERCISE:
            self.exercises.begin(self._tasks)
        elif event in (Event.TAP, Event.LOST, Event.TIMEOUT, Event.QUIET):
            if event is Event.TIMEOUT and before in (State.THINKING, State.SPEAKING) and self.voice and self.audio.pending == 0:
                self.beside(self.voice.close)  # it answers no longer, and READY were a lie until it has said again that it can
            self._silence_turn()
            if after is State.FAULT and before in (State.LISTENING, State.THINKING, *LEADS):
                self._play("cant_answer")
        elif event is Event.ACKNOWLEDGE:
            self.alarm.end()

    def _too_early(self, event: Event) -> bool:
        """Two events that may be older than the state they meet.

        The hold that began an alert must not end it: a patient in need holds the call button long.
        A time-out that was queued behind the event which ended its state is no time-out.
        """
        now = time.monotonic()
        if event is Event.TIMEOUT:
            return now - self.since <= TIMEOUTS[self.state]
        return event is Event.ACKNOWLEDGE and now - self.alarm.began < self.settings.panel.acknowledge_seconds + 0.5

    def _no_wearer(self, event: Event) -> bool:
        return event is Event.QUIET and self.settings.headset.board == "none"

    def _enter(self, state: State, event: Event) -> None:
        now = time.monotonic()
        if state is not self.state:
            log("state", was=self.state.value, now=state.value, event=event.value, seconds=now - self.since)
        self.state, self.since, self.overdue = state, now, False
        self.history.append((now, state.value))
        self.show()
        self.tell()
        self.watch("state", (now, state))

    def tell(self) -> None:
        """systemd, and so a technician, how it stands; once, when it has changed."""
        if (now := status_of(self)) != self._told:
            self._told = now
            notify(f"STATUS={now}")

    def show(self) -> None:
        if self.state is State.LISTENING and not edges.hears(self):
            return  # it is blue once that is true (edges.cue)
        stand_in = self.remembering.fault or bool(self.about and self.about.get("stand_in"))
        self.panel.show(light(self.state, stand_in, self.muted), self.night)

    def say(self, pcm: Any) -> None:
        """Sound for the patient, at the volume that they chose, and at night no louder than the settings allow."""
        self.audio.play(self.volume.of(pcm, self.night, goes_on=self.audio.pending > 0))

    def _play(self, name: str) -> None:
        self.audio.begin()
        self.say(self.sounds[name])

    # Mute and volume ---------------------------------------------------------------------------

    def _turn_control(self, control: Control) -> None:
        if control in (Control.MUTE, Control.UNMUTE):
            self.muted = control is Control.MUTE
            if self.muted and self.state is State.LISTENING:
                self.take(Event.TAP)  # what was begun is dropped
        else:
            self.volume.turn(1 if control is Control.LOUDER else -1, self.night)
            if self.state is State.READY and self.audio.pending == 0:
                self._play("listening")  # so loud it is now
        log("control", control=control.value, volume=self.volume.chosen)
        self.show()

    def _answer_muted(self, before: State) -> None:
        """A press that nobody may hear: it still silences a reply, and says why nothing listens."""
        log("ignored", state=before.value, event="press", reason="muted")
        if before in LEADS:
            self._silence_turn()
            self._enter(State.READY, Event.SPOKEN)
        if self.audio.pending == 0:
            self._play("muted")

    def _sound_alarm(self, before: State, event: Event) -> None:
        if event is Event.TIMEOUT:
            self.alarm.goes_on()
        elif before is not State.ALERTING:  # else a person is being called already
            self._silence_turn()
            self.exercises.forget()
            self.alarm.begin()

    # The turn ----------------------------------------------------------------------------------

    def _begin_turn(self) -> None:
        """The microphone first, so that no word is lost while the last turn is still being stored."""
        self.audio.listen(True)
        self._number += 1
        before, self._over = self._over, anyio.Event()
        if self.voice is None:
            self.post(Event.LOST)
            self._over = before
            return
        self.exchange, self._scope = Exchange(self, self.voice, self._number), anyio.CancelScope()
        self._tasks.start_soon(self._turn, self.voice, self.exchange, self._scope, before, self._over)

    def _silence_turn(self) -> None:
        """Cancel the turn that runs, if any, and silence it now; storing goes on behind."""
        played = self.audio.stop()
        self.audio.listen(False)
        self.guide.stop()
        self.exercises.stop()
        if self._scope is not None and self.exchange is not None:
            self.exchange.cut_short(played)
            self._scope.cancel()

    async def _turn(self, voice: Voice, exchange: Exchange, scope: anyio.CancelScope, before: anyio.Event, over: anyio.Event) -> None:
        """One turn, from the press to the last sample. Barge-in, alert and fault cancel it.

        It begins when the turn `before` is stored and sets `over` when it is stored itself.
        """
        outcome: Event | None = None
        with scope:
            await before.wait()
            try:
                outcome = await exchange.run()
            except VoiceLost as error:
                log("voice_lost", reason=error)
                outcome = Event.LOST
        with anyio.CancelScope(shield=True):
            if self.exchange is exchange:
                self.exchange = self._scope = None
            if outcome is Event.LOST:
                if not exchange.cut:  # else the loop was first, and its calm sentence is being spoken
                    exchange.cut_short(self.audio.stop())
                self.post(Event.LOST)  # at once: the light and the calm sentence don't wait for the disk
            if scope.cancelled_caught or outcome is Event.LOST:
                await self._tell(voice, "stop", exchange.number)
            await self._tell(voice, "said", exchange.number, spoken=exchange.spoken())
            await before.wait()
            await self._store(exchange)
            over.set()
            if outcome is not None and outcome is not Event.LOST and not scope.cancelled_caught:
                self.post(outcome)

    async def _tell(self, voice: Voice, kind: str, number: int, **fields: Any) -> None:
        with contextlib.suppress(VoiceLost):  # then there is nobody left to tell
            await voice.send(kind, number, **fields)

    async def _store(self, exchange: Exchange) -> None:
        self.exercises.heard(turn := exchange.turn())
        if turn is None:
            return
        self.turns.append(turn)
        self.disclosure = self.disclosure.after(self.clock(), exchange.disclosed)
        await self.remembering.store(exchange.number, turn)
        log("turn", number=len(self.turns), engine=turn.engine, **dict[str, Any](turn.latency))
        self.watch("turn", turn)

    def affect(self) -> Affect:
        """What the headset supports saying right now; it abstains with the reason otherwise."""
        return self.feed.affect()
