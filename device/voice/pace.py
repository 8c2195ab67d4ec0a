"""How a sentence came: first frame, real-time factor, under-runs, memory. It knows no model and no socket."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device.turn import FRAME, VOICE_RATE

FRAME_SECONDS = FRAME / VOICE_RATE


class Pace:
    """Watches frames leave. A speaker that starts with the first one must never wait for a later one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._first = self._last = 0.0
        self._due = 0.0  # when the speaker needs the next frame
        self.frames = self.under_runs = 0

    def frame(self) -> None:
        """A frame has left."""
        now = self._last = self._clock()
        if not self.frames:
            self._first = self._due = now
        elif now > self._due:
            self.under_runs += 1
            self._due = now  # the speaker waited, and goes on from here
        self._due += FRAME_SECONDS
        self.frames += 1

    def figures(self) -> dict[str, Any]:
        """first_frame: s from the words; rtf: s of work a second of sound, below 1 is faster than speech; under_runs."""
        if not self.frames:
            return {}
        return {
            "first_frame": round(self._first - self._began, 3),
            "rtf": round((self._last - self._began) / (self.frames * FRAME_SECONDS), 3),
            "under_runs": self.under_runs,
        }


def memory_gb() -> float:
    """Most memory this process has held, in GB: the kernel's count, and what torch has taken of a GPU, CUDA graphs too."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
    held = int(peak[1]) * 1024 if peak else 0
    torch = sys.modules.get("torch")  # only where a model has loaded it
    if torch is not None and torch.cuda.is_initialized():
        held += torch.cuda.max_memory_reserved()
    return round(held / 1e9, 2)


def forget_peak() -> None:
    """From here on memory_gb() counts anew (Linux: proc(5), clear_refs)."""
    with contextlib.suppress(OSError):  # a container may forbid it: the figure is then the higher one
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
