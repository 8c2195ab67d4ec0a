"""Leads the wearer of the headset through the quiet minute by recorded sentences, and keeps the baseline that it gives.

It judges no signal: the Estimator says which windows were quiet. Any button ends it, and then the older baseline holds on.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from device.baseline import CLOSED_SECONDS, OPEN_SECONDS
from device.config import FIRMWARE, Settings
from device.logs import log
from device.quiet import BaselineError, baseline_file, save
from device.states import Event

if TYPE_CHECKING:
    from device.affect import Estimator
    from device.daemon import Companion

LOOK = 0.1  # seconds between two looks at the signal
PATIENCE = 10.0  # seconds without a signal, after which it is given up


class Guide:
    """One quiet minute at a time, while the companion is in State.QUIET."""

    def __init__(self, home: Companion) -> None:
        self._home, self._scope = home, anyio.CancelScope()

    def begin(self, tasks: TaskGroup) -> None:
        """Lead through it and post SPOKEN; nothing is said or posted after `stop`."""
        self._scope = anyio.CancelScope()
        tasks.start_soon(self._run, self._scope)

    def stop(self) -> None:
        self._scope.cancel()

    async def _run(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self._say("quiet_begin")
            await self._say(await self._lead())
            self._home.post(Event.SPOKEN)

    async def _lead(self) -> str:
        """The two stretches. Returns the name of the sentence that ends them."""
        home, file = self._home, baseline_file(self._home.settings)
        if (estimator := await self._found()) is None:
            return self._without_signal()
        before = estimator.baseline
        try:
            await self._say("quiet_open")
            estimator.begin_baseline()
            home.recording.mark("quiet minute: eyes open")
            if not await self._listened(estimator, OPEN_SECONDS):
                return self._without_signal()
            estimator.between()
            await self._say("quiet_closed")
            estimator.eyes_closed()
            home.recording.mark("quiet minute: eyes closed")
            if not await self._listened(estimator, CLOSED_SECONDS):
                return self._without_signal()
            if lacks := estimator.finish_baseline():
                log("baseline", level=logging.WARNING, reason=lacks)
                return "quiet_failed"
        finally:
            home.recording.mark("quiet minute: over")
            if estimator.baseline is None:
                estimator.go_back_to(before)
        assert estimator.baseline is not None
        log("baseline", windows=estimator.baseline.windows, alpha=estimator.baseline.words)
        try:
            await anyio.to_thread.run_sync(save, file, estimator.baseline)
        except BaselineError as error:  # it holds, but not over a restart
            log("baseline", level=logging.WARNING, reason=error)
        return "quiet_done"

    def _without_signal(self) -> str:
        log("baseline", level=logging.WARNING, reason=self._home.affect().reason)
        return "quiet_no_signal"

    async def _found(self) -> Estimator | None:
        """The estimator of a headset that streams; a moment of settling is waited for."""
        with anyio.move_on_after(PATIENCE):
            while self._home.headset.reason or self._home.feed.estimator is None:
                await anyio.sleep(LOOK)
            return self._home.feed.estimator
        return None

    async def _listened(self, estimator: Estimator, seconds: float) -> bool:
        """Wait for so many seconds of signal; what is lost meanwhile is waited for, too. False: the headset is gone."""
        until, newest = estimator.judged + seconds, time.monotonic()
        before = estimator.judged
        while estimator.judged < until:
            if estimator.judged != before:
                before, newest = estimator.judged, time.monotonic()
            if self._home.feed.estimator is not estimator or time.monotonic() - newest > PATIENCE:
                return False
            await anyio.sleep(LOOK)
        return True

    async def _say(self, name: str) -> None:
        await say(self._home, name)


async def say(home: Companion, name: str) -> None:
    """A recorded sentence, to its end."""
    home.audio.begin()
    home.say(home.sounds[name])
    while home.audio.pending > 0:
        await anyio.sleep(LOOK)


@contextlib.contextmanager
def spoken(settings: Settings, aloud: bool, over: Callable[[], bool] = lambda: False) -> Iterator[Callable[[str], None]]:
    """A function that prints a recorded sentence and, `aloud`, speaks it to its end or until `over()`.

    A card that can't be used is told of once.
    """
    from device import sounds
    from device.audio import SoundLost, open_audio
    from device.volume import at_volume

    folder = FIRMWARE / "sounds"
    words, recorded = sounds.texts(folder), sounds.load(folder)
    with contextlib.ExitStack() as kept:
        card = None
        if aloud:
            card = open_audio(settings.audio)
            kept.callback(card.close)
            try:
                card.open()
            except SoundLost as error:
                print(f"bedside: nothing is spoken, read it out: {error}", file=sys.stderr)
                card = None

        def say(name: str) -> None:
            print(words[name], flush=True)
            if card is not None:
                card.begin()
                card.play(at_volume(recorded[name], settings.audio.volume))
                while card.pending > 0 and card.alive() and not over():
                    time.sleep(LOOK)

        yield say
