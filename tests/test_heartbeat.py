"""The watchdog's beat: it needs capture, the loop and playback, each of them. A real card on a real sound server, a real notify socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from home import until

from device import heartbeat, soundcard
from device.audio import WavCard
from device.bench_sound import Pulse
from device.config import Audio
from device.heartbeat import CAPTURE, LOOP, PLAYBACK, Heartbeat, Round
from device.soundcard import SoundCard
from device.states import Event, State

pytestmark = pytest.mark.anyio
STAGES = (CAPTURE, LOOP, PLAYBACK)
WATCHDOG = 0.75  # s; a beat is due every third of it


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("left_out", STAGES)
def test_no_beat_goes_round_without_every_stage(left_out: str) -> None:
    beats: list[None] = []
    round_ = Round(STAGES, lambda: beats.append(None))
    for _ in range(5):
        round_.passed(*(stage for stage in STAGES if stage != left_out))
    assert (beats, round_.missing) == ([], {left_out})
    round_.passed(left_out)
    assert len(beats) == 1
    round_.passed(left_out)  # the next one needs all of them again
    assert len(beats) == 1


class Stuck(SoundCard):
    """A card either of whose callbacks can be blocked, as by a driver that does not come back."""

    def __init__(self, settings: Audio) -> None:
        super().__init__(settings)
        self.capture, self.playback = threading.Event(), threading.Event()
        self.capture.set()
        self.playback.set()
        self.silent = False  # no sample comes, and nothing is blocked

    def _hear(self, *arguments: Any) -> Any:
        self.capture.wait(30)
        return (None, 0) if self.silent else super()._hear(*arguments)

    def _speak(self, *arguments: Any) -> Any:
        self.playback.wait(30)
        return super()._speak(*arguments)


class Body:
    """What a heartbeat needs around it: a queue that the loop empties. `beats()`: when systemd was told of each."""

    def __init__(self, audio: Any, notified: socket.socket) -> None:
        self.audio, self.state, self.since = audio, State.STARTING, time.monotonic()
        self.heartbeat, self.stuck = Heartbeat(self), False
        self._events_in, self._events = anyio.create_memory_object_stream[Callable[[], None]](1000)
        self._notified, self._beats = notified, list[float]()

    def post(self, event: Event) -> None:
        pass

    def in_turn(self, work: Callable[[], None]) -> None:
        self._events_in.send_nowait(work)

    async def take(self) -> None:
        async for work in self._events:
            while self.stuck:
                await anyio.sleep(0.01)
            work()

    def beats(self) -> list[float]:
        with contextlib.suppress(BlockingIOError):
            while True:
                if b"WATCHDOG=1" in self._notified.recv(4096):
                    self._beats.append(time.monotonic())
        return self._beats

    async def goes_on(self) -> None:
        count = len(self.beats())
        await until(lambda: len(self.beats()) > count + 2, "three beats")

    async def ends(self) -> None:
        """No beat within a whole period, soon."""
        await until(lambda: time.monotonic() - self.beats()[-1] > WATCHDOG, "the end of the beat")


@contextlib.asynccontextmanager
async def beating(audio: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Body]:
    pytest.importorskip("systemd", reason="systemd-python is not installed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "notify"))
        notified.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG * 1e6)))
        body = Body(audio, notified)
        async with anyio.create_task_group() as tasks:
            for keep in (body.heartbeat.keep_sound, body.heartbeat.keep_beat, body.take):
                tasks.start_soon(keep)
            try:
                yield body
            finally:
                for gate in ("capture", "playback"):
                    getattr(audio, gate, threading.Event()).set()
                tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(audio.close)


@pytest.mark.parametrize("stage", ["capture", "playback"])
async def test_a_blocked_way_of_the_card_ends_the_beat(stage: str, pulse: Pulse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Stuck(Audio(kind="card"))
    async with beating(card, tmp_path, monkeypatch) as body:
        await body.goes_on()
        getattr(card, stage).clear()
        await body.ends()


async def test_a_blocked_loop_ends_the_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with beating(WavCard([], tail=0.3, preroll=0.5), tmp_path, monkeypatch) as body:
        await body.goes_on()
        body.in_turn(lambda: time.sleep(2 * WATCHDOG))
        before = len(body.beats())
        await body.goes_on()
        assert max(b - a for a, b in pairwise(body.beats()[before - 1 :])) > WATCHDOG


async def test_a_card_that_gives_no_sample_any_more_ends_the_beat(pulse: Pulse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens again, and stays silent. When its samples are back the beat is, too."""
    monkeypatch.setattr(soundcard, "FIRST_SAMPLE", 2.0)
    monkeypatch.setattr(heartbeat, "AGAIN", 0.1)
    card = Stuck(Audio(kind="card"))
    async with beating(card, tmp_path, monkeypatch) as body:
        await body.goes_on()
        card.silent = True
        await body.ends()
        await until(lambda: "gave no sample" in body.heartbeat.refused, "the reason")
        card.silent = False
        await body.goes_on()
        assert body.heartbeat.refused == ""


async def test_a_card_that_is_not_there_is_no_reason_to_restart(pulse: Pulse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The light says FAULT and the call button works: a new process could do no more, and would be deaf to the button meanwhile."""
    async with beating(SoundCard(Audio(kind="card", input="no such card")), tmp_path, monkeypatch) as body:
        await until(lambda: "no such card" in body.heartbeat.refused, "the reason")
        await body.goes_on()


async def test_a_queue_that_nobody_empties_ends_the_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns, and yet no press would be taken."""
    async with beating(WavCard([], tail=0.3, preroll=0.5), tmp_path, monkeypatch) as body:
        await body.goes_on()
        body.stuck = True
        await body.ends()
