"""Whole turns over the real socket, panel, states, memory and recorded sounds; the neural parts are light peers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest
from peers import LevelEars, ListPen, serve

from device import sounds
from device.audio import WavCard
from device.config import FIRMWARE, load
from device.daemon import Companion
from device.eeg import open_headset
from device.memory import Memory
from device.panel import open_panel
from device.states import Event, State, light
from device.turn import MIC_RATE

SPEECH = (3000 * np.sin(np.arange(MIC_RATE) / 9)).astype(np.int16)
SILENCE = np.zeros(MIC_RATE, np.int16)
REPLY = "That sounds hard. Tell me more."
SPEED = 8.0  # sound runs this much faster than the clock


@contextlib.asynccontextmanager
async def bedside(
    folder: Path, clips: list[Any], sentence: str = "I slept badly", replies: tuple[str, ...] = (REPLY,), voice: bool = True
) -> AsyncIterator[Any]:
    """A companion that runs, with everything a test may want to look at or pull."""
    settings = load(
        None,
        {},
        voice={"socket": str(folder / "v.sock")},
        memory={"file": str(folder / "memory.db")},
        safety={"call_log": str(folder / "calls.log")},
        panel={"acknowledge_seconds": 0.3, "tap_seconds": 0.05},
    )
    ears, pen = LevelEars(sentence), ListPen(*replies)
    if voice:
        serve(settings.voice.socket, ears, pen)
    holder: list[Companion] = []
    panel = open_panel(settings.panel, lambda event: holder[0].post(event))
    card = WavCard(clips, tail=0.3, preroll=0.5, speed=SPEED)
    memory = Memory(folder / "memory.db")
    seen: list[State] = []
    companion = Companion(
        settings, panel, card, open_headset(settings.headset), memory, sounds.load(FIRMWARE / "sounds"),
        lambda kind, value: seen.append(value[1]) if kind == "state" else None,
    )
    holder.append(companion)
    home = SimpleNamespace(companion=companion, panel=panel, card=card, memory=memory, ears=ears, pen=pen, seen=seen, settings=settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(companion.run)
        if voice:
            await becomes(home, State.READY)
        yield home
        tasks.cancel_scope.cancel()
    panel.close()
    memory.close()


async def becomes(home: Any, state: State, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while home.companion.state is not state:
        assert time.monotonic() < deadline, f"still {home.companion.state}, never {state}: {home.seen}"
        await anyio.sleep(0.005)
    assert home.panel.lit() == light(state).rgb or light(state).blink


async def press(home: Any) -> None:
    """Hold until the recording is over, then let go."""
    home.panel.press_talk()
    await becomes(home, State.LISTENING)
    while not home.card.clip_over:
        await anyio.sleep(0.005)
    home.panel.release_talk()


@pytest.mark.anyio
async def test_a_press_is_answered_and_remembered(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
    assert turn.heard.text == "I slept badly"
    assert turn.reply == "That sounds hard. Tell me more."
    assert turn.engine == "tone"
    assert set(turn.latency) == {"release_to_heard", "release_to_first_clause", "release_to_first_audio"}
    assert home.seen == [State.READY, State.LISTENING, State.THINKING, State.SPEAKING, State.READY]
    # Pre-roll, the whole clip and the tail reached the recogniser.
    assert home.ears.clips[0] >= 1.8 * MIC_RATE
    assert len(home.card.heard_by_patient) == pytest.approx(turn.played * 24_000, abs=24)
    assert turn.played > 0.5


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_events_without_a_row_change_nothing(tmp_path: Path) -> None:
    async with bedside(tmp_path, []) as home:
        home.companion.post(Event.RELEASE)
        home.companion.post(Event.SPOKEN)
        await anyio.sleep(0.05)
        assert home.companion.state is State.READY
