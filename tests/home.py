"""A whole bedside for tests: the real companion, panel, states, memory, messages, server and socket, with light peers.

It knows no test: it gives them hands, a deadline and something to look at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
from peers import LevelEars, ListPen, serve

from device import sounds
from device.audio import WavCard
from device.config import FIRMWARE, load
from device.daemon import Companion
from device.disclosure import Disclosure
from device.eeg import open_headset
from device.memory import Memory
from device.panel import open_panel
from device.states import State, light
from device.turn import MIC_RATE

SPEECH = (3000 * np.sin(np.arange(MIC_RATE) / 9)).astype(np.int16)
SILENCE = np.zeros(MIC_RATE, np.int16)
SENTENCE = "I slept badly"
REPLY = "That sounds hard. Tell me more."
LONG = "I am glad that you are telling me about it and " * 6 + "I am here."  # one clause of 12 s
SPEED = 8.0  # sound runs this much faster than the clock
HOLD = 0.3  # seconds of acknowledge_seconds here
SOUNDS = sounds.load(FIRMWARE / "sounds")


class AskedPen(ListPen):
    """Keeps what it was asked: (what was heard, whether the bank was asked for)."""

    def __init__(self, *replies: str, name: str = "bank", from_bank: str = "") -> None:
        super().__init__(*replies)
        self.name, self.from_bank = name, from_bank
        self.asked: list[tuple[str, bool]] = []

    def plan(self, request: dict[str, Any], bank: bool) -> Any:
        self.asked.append((request["heard"], bank))
        return iter([self.from_bank]) if bank else super().plan(request, bank)


@contextlib.asynccontextmanager
async def bedside(
    folder: Path,
    clips: list[Any],
    sentence: str = SENTENCE,
    replies: tuple[str, ...] = (REPLY,),
    voice: bool = True,
    socket: str = "",
    ears: Any = None,
    pen: Any = None,
    throat: Any = None,
    about: dict[str, Any] | None = None,
    headset: dict[str, str] | None = None,
    panel: dict[str, str] | None = None,
    audio: dict[str, Any] | None = None,
    card: Any = None,
    safety: dict[str, Any] | None = None,
    told: bool = True,
) -> AsyncIterator[Any]:
    """A companion that runs, with everything a test may want to look at or pull.

    `socket`: another voice than the one this would serve itself; the companion is yielded when READY
    if there is a voice. `entered` is every state with the pins of the light as they were then.
    `told`: that it is a machine was just said, and no first reply begins with it.
    """
    settings = load(
        None,
        {},
        voice={"socket": socket or str(folder / "v.sock")},
        memory={"file": str(folder / "memory.db"), "key": str(folder / "memory.key")},
        safety={"folder": str(folder / "safety"), "socket": str(folder / "c.sock"), **(safety or {})},
        headset=headset or {},
        audio=audio or {},
        panel={"acknowledge_seconds": HOLD, "tap_seconds": 0.05, **(panel or {})},
    )
    ears, pen = ears or LevelEars(sentence), pen or AskedPen(*replies)
    server = serve(settings.voice.socket, ears, pen, throat, about) if voice and not socket else None
    holder: list[Companion] = []
    hands = open_panel(settings.panel, lambda event: holder[0].post(event))
    card = card or WavCard(clips, tail=0.3, preroll=0.5, speed=SPEED)
    memory = Memory(folder / "memory.db")
    seen: list[State] = []
    entered: list[tuple[State, tuple[float, float, float]]] = []

    def watch(kind: str, value: Any) -> None:
        if kind == "state":
            seen.append(value[1])
            entered.append((value[1], hands.lit()))

    companion = Companion(settings, hands, card, open_headset(settings.headset), memory, SOUNDS, watch)
    holder.append(companion)
    if told:
        companion.disclosure = Disclosure(companion.clock(), companion.clock())
    home = SimpleNamespace(
        companion=companion, panel=hands, card=card, memory=memory, ears=ears, pen=pen, server=server,
        seen=seen, entered=entered, settings=settings, audit=folder / "safety" / "audit.log",
    )  # fmt: skip
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(companion.run)
        if voice:
            await becomes(home, State.READY)
        else:
            await until(lambda: hasattr(companion, "_events_in") and card.alive(), "the companion's loop")
        yield home
        tasks.cancel_scope.cancel()
    hands.close()
    memory.close()


async def until(ready: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
    """Wait until `ready()`, or fail naming what never came."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        await anyio.sleep(0.005)


async def becomes(home: Any, state: State, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while home.companion.state is not state:
        assert time.monotonic() < deadline, f"still {home.companion.state}, never {state}: {home.seen}"
        await anyio.sleep(0.005)
    shown = light(state, muted=home.companion.muted)
    if state is State.LISTENING:  # the light waits for a sample
        await until(lambda: home.panel.lit() == shown.rgb, "the light of listening", 1.0)
    assert home.panel.lit() == shown.rgb or shown.blink or home.companion.night


async def press(home: Any) -> None:
    """Hold until the recording is over, then let go."""
    home.panel.press_talk()
    await becomes(home, State.LISTENING)
    await until(lambda: home.card.clip_over, "the end of the recording")
    home.panel.release_talk()


async def acknowledge(home: Any) -> None:
    """A caregiver comes, once the alert is old enough to be ended, and holds the call button."""
    home.panel.release_call()
    old_enough = home.companion.alarm.began + 0.5
    await until(lambda: time.monotonic() > old_enough + 0.05, "the alert to be old enough")
    home.panel.press_call()
    await until(lambda: home.companion.state is not State.ALERTING, "the acknowledgement")
    home.panel.release_call()


def heard(home: Any) -> Any:
    """All that the speaker really played."""
    return home.card.heard_by_patient


def ends_with(played: Any, message: str) -> bool:
    """Whether what was played ends with this recorded message, whole and unaltered."""
    sound = SOUNDS[message]
    return np.array_equal(played[-len(sound) :], sound)


def lines(caplog: Any, start: str) -> list[str]:
    """The log lines that begin so."""
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(start)]
