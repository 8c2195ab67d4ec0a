"""Open the edges that the settings name and run the companion until systemd or Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio

from device import safety_table, sounds
from device.config import FIRMWARE, Settings, dump, make_socket_folder
from device.logs import log
from device.memory import Memory, MemoryFault
from device.provisioning import check_provisioned

NICE = 5  # of the voice process, here and in its unit; `bedside bench load` measures what it is for


def open_memory(settings: Settings) -> Memory | None:
    """The memory on disk. Where that can't be opened the device still answers, says so with its light, and tries again."""
    try:
        return Memory(settings.memory.file, settings.memory.key)
    except MemoryFault as error:
        log("memory_fault", reason=error, consequence="nothing is on the disk until it opens")
        return None


def run(settings: Settings, config: str | None, with_voice: bool = False) -> int:
    """0 after SIGTERM or SIGINT. Raises PanelLost and the like when there is nothing to be a device with."""
    check_provisioned(settings)
    make_socket_folder(settings)
    safety_table.shipped()  # read now: a table that can't be used is a fault to be seen, not a rule that stays silent
    from device.audio import open_audio
    from device.daemon import Companion
    from device.eeg import open_headset
    from device.panel import open_panel

    recorded, memory = sounds.load(FIRMWARE / "sounds"), open_memory(settings)

    async def companion() -> None:
        homes: list[Companion] = []  # a button may be pressed before there is one
        panel = open_panel(settings.panel, lambda event: homes[0].post(event) if homes else None)
        home = Companion(settings, panel, open_audio(settings.audio), open_headset(settings.headset), memory, recorded)
        homes.append(home)
        with contextlib.closing(panel):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_signal, tasks.cancel_scope)
                await home.run()

    with contextlib.ExitStack() as others:
        if with_voice:
            others.enter_context(voice_process(settings))
            if settings.safety.webhook or settings.safety.command:
                others.enter_context(other_process(settings, "caller"))
        anyio.run(companion)
    if memory is not None:
        memory.close()
    return 0


async def _until_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


@contextlib.contextmanager
def voice_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The real voice process with these settings, on `settings.voice.socket`; ended with the block."""
    with other_process(settings, "voice") as child:
        # The models' threads must not starve the loop on a two-core machine.
        os.setpriority(os.PRIO_PROCESS, child.pid, NICE)  # before it has threads: they inherit it
        yield child


@contextlib.contextmanager
def other_process(settings: Settings, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """`bedside voice` or `bedside caller` with these settings; ended with the block."""
    with tempfile.TemporaryDirectory(prefix="bedside-") as folder:
        file = Path(folder) / "settings.toml"
        file.write_text(dump(settings), encoding="utf-8")
        command = [sys.executable, "-m", "device", name, "--config", str(file)]
        child = subprocess.Popen(command)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
