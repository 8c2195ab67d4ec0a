"""`bedside demo --live` as a person runs it: a terminal, the space bar, a sound card (PulseAudio's null sink)."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from device.bench_sound import Pulse

CLIP = Path(__file__).parent / "data/speech/LJ001-0008.wav"


class Terminal:
    """A real pseudo-terminal with the demo in it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "device", "demo", "--live"]
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.shown = ""

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def shows(self, text: str, seconds: float = 60.0) -> None:
        """Wait until `text` is on the screen."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} within {seconds:.0f} s:\n{self.shown}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += os.read(self._ours, 4096).decode(errors="replace")


def test_what_the_microphone_hears_is_answered(pulse: Pulse, models_folder: Path) -> None:
    if pulse.process is None:
        pulse.start()
    screen = Terminal()
    try:
        screen.shows("ready      light green", 120)
        screen.press(" ")
        screen.shows("listening  light blue")
        subprocess.run(["paplay", "--device=loop", str(CLIP)], check=True, timeout=30)
        screen.press(" ")
        screen.shows("latency")
        assert "never been surpassed" in screen.shown
        assert "Traceback" not in screen.shown
        screen.press("q")
        assert screen.process.wait(20) == 0
    finally:
        screen.process.kill()
        screen.process.wait(10)
