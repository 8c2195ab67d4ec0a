"""`bedside demo --live`: this machine's sound card, and the space bar as the talk button.

A terminal reports no key release: space begins, space again ends. `c` calls, `a` acknowledges, `q` leaves.
"""

from __future__ import annotations

import sys
import tempfile
import termios
import tty
from pathlib import Path

import anyio

from device import logs, sounds
from device.audio import open_audio
from device.config import FIRMWARE, Settings
from device.daemon import Companion
from device.demo import DemoFault, Story, simulated
from device.eeg import open_headset
from device.memory import Memory
from device.panel import SimulatedPanel, open_panel
from device.run import voice_process


def live_demo(settings: Settings) -> int:
    if not sys.stdin.isatty():
        raise DemoFault("--live needs a terminal: the space bar is the button")
    card = settings.audio.model_copy(update={"kind": "card"})
    print("space: speak, space again: done; c: call; a: hold the call button (acknowledge); q: leave")
    with tempfile.TemporaryDirectory(prefix="bedside-live-") as folder:
        settings = simulated(settings, Path(folder), "").model_copy(update={"audio": card})
        logs.setup(settings.log.level)  # the time line is what a person reads here
        with voice_process(settings):
            anyio.run(_live, settings)
    return 0


async def _live(settings: Settings) -> None:
    holder: list[Companion] = []
    panel = open_panel(settings.panel, lambda event: holder[0].post(event))
    assert isinstance(panel, SimulatedPanel)
    memory = Memory(settings.memory.file, settings.memory.key)
    headset = open_headset(settings.headset)
    holder.append(Companion(settings, panel, open_audio(settings.audio), headset, memory, sounds.load(FIRMWARE / "sounds"), Story().watch))
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(holder[0].run)
            await _keys(panel)
            tasks.cancel_scope.cancel()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        panel.close()
        memory.close()


async def _keys(panel: SimulatedPanel) -> None:
    down = holding = False
    while (key := await anyio.to_thread.run_sync(sys.stdin.read, 1, abandon_on_cancel=True)) not in ("q", ""):
        if key == " ":
            (panel.release_talk if down else panel.press_talk)()
            down = not down
        elif key == "c":
            panel.press_call()
            panel.release_call()
        elif key == "a":
            (panel.release_call if holding else panel.press_call)()
            holding = not holding
