"""The sound card kept open, and the watchdog's beat, which goes round through capture, the loop and playback.

The companion and safe mode both live by it. It posts events and touches no state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import anyio

from device.audio import SoundLost, SoundSilent, SoundStuck
from device.beat import Beat, notify
from device.cards import unquiet
from device.logs import log
from device.states import TRANSITIONS, Event, State

LOOK = 0.25  # seconds between two looks
AGAIN = 0.5  # seconds before a lost card is tried again; opening it may take 2, and deaf it must be 3 at most
STUCK = 15.0  # seconds that an attempt may take: 6 for the first sample, and whatever a driver needs to close
GONE = 300.0  # seconds without a card, after which PortAudio may be what is broken
SOUND_PATIENCE = 8.0  # seconds that a card may take to give its first sample
REFUSAL = 10.0  # seconds that a refusal counts as an answer: the next try takes AGAIN and SOUND_PATIENCE at most
CAPTURE, LOOP, PLAYBACK = "capture", "loop", "playback"


class Home(Protocol):
    """What is beaten for: the companion, or safe mode."""

    audio: Any
    state: State
    since: float

    def post(self, event: Event) -> None: ...
    def in_turn(self, work: Callable[[], None]) -> None: ...


class Round:
    """A beat that has to pass every one of `stages` before it is told. `missing` are those that it has not passed yet."""

    def __init__(self, stages: Iterable[str], beat: Callable[[], None]) -> None:
        self._stages, self._beat = frozenset(stages), beat
        self.missing = set(self._stages)

    def passed(self, *stages: str) -> None:
        self.missing.difference_update(stages)
        if not self.missing:
            self.missing = set(self._stages)
            self._beat()


class Heartbeat:
    """`stages`: those that this process has. `refused` is why there is no sound, "" when there is."""

    def __init__(self, home: Home, stages: Iterable[str] = (CAPTURE, LOOP, PLAYBACK)) -> None:
        self._home, self._stages = home, tuple(stages)
        self.refused = ""
        self._refused_at = float("-inf")

    async def keep_sound(self) -> None:
        """Open the card, and open it again by its name, PortAudio begun anew, whenever its samples stop.

        Raises SoundStuck, under systemd alone, where only a new process may help (`beyond_us`).
        """
        home, again, lost_since = self._home, self._home.audio.open, 0.0
        while True:
            if not home.audio.alive():
                waiting = home.state is State.STARTING and time.monotonic() - home.since < SOUND_PATIENCE
                if not waiting and (home.state, Event.LOST) in TRANSITIONS:
                    home.post(Event.LOST)
                lost_since = lost_since or time.monotonic()
                error, again = await _attempt(home, again), home.audio.reopen
                if error is not None:
                    if str(error) != self.refused:
                        log("sound_lost", reason=error)
                    self.refused = str(error)
                    # A card that says no has answered, and a new process could not ask it better. One that is there and
                    # gives no sample is what the watchdog is for.
                    self._refused_at = float("-inf") if isinstance(error, SoundSilent) else time.monotonic()
                    if (why := beyond_us(time.monotonic() - lost_since, 0.0, home.state)) and notify(f"STATUS={why}"):
                        raise SoundStuck(f"{why}; the last reason was: {error}")
                    await anyio.sleep(AGAIN)
                    continue
                log("sound_back", seconds=time.monotonic() - lost_since)
                self.refused, lost_since = "", 0.0
            await anyio.sleep(LOOK)

    async def keep_beat(self) -> None:
        """Go round for ever. A stage that no longer passes ends the beat, and systemd the process."""
        watchdog = Beat()
        last, told, asked = time.monotonic(), False, False

        def beat() -> None:
            nonlocal last, told
            last, told = time.monotonic(), False
            watchdog.beat()

        round_, before = Round(self._stages, beat), (0.0, 0.0)

        def through() -> None:
            nonlocal asked
            asked = False
            round_.passed(LOOP)

        while True:
            if not asked:  # behind every press and time-out that waits: the loop that takes those lives
                asked = True
                self._home.in_turn(through)
            now, flow = time.monotonic(), self._home.audio.flow()
            answered = now - self._refused_at < REFUSAL
            round_.passed(*(stage for stage, was, at in zip((CAPTURE, PLAYBACK), before, flow, strict=True) if at > was or answered))
            before = flow
            if watchdog.every and now - last > watchdog.every and not told:
                told = True
                log("no_beat", seconds=now - last, missing="+".join(sorted(round_.missing)))
            await anyio.sleep(LOOK)


def beyond_us(lost: float, attempt: float, state: State) -> str:
    """Why only a new process can bring the sound back, or "". `lost`: s without a card, `attempt`: s that this one took so far.

    An alert that runs is left alone while the loop can go on trying: its call would pause with the process.
    """
    if attempt > STUCK:
        return f"the sound card's driver has not answered for {attempt:.0f} s"
    if lost > GONE and state is not State.ALERTING:
        return f"the sound card has not come back in {lost:.0f} s"
    return ""


async def _attempt(home: Home, work: Callable[[], None]) -> SoundLost | None:
    """Why `work` could not open the card, or None. It takes seconds or hangs: not on the loop, nor in a thread that an end waits for."""
    outcome: list[Exception | None] = []

    def run() -> None:
        try:
            work()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    threading.Thread(target=run, name="sound", daemon=True).start()
    began = time.monotonic()
    while not outcome:
        await anyio.sleep(LOOK / 10)
        if (why := beyond_us(0.0, time.monotonic() - began, home.state)) and notify(f"STATUS={why}"):
            unquiet()
            raise SoundStuck(f"{why}: it hangs.")
    error = outcome[0]
    if error is None or isinstance(error, SoundLost):
        return error
    raise error
