"""The live table of signal quality that a technician reads in a terminal. It judges nothing and knows no headset."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from device.affect import Estimator
from device.blocks import Block
from device.eeg_quality import Channel
from device.review import WINDOW, powers

CELLS = 20
RANGE_UV = (1.0, 300.0)  # of the bar, which is logarithmic: a resting brain is in its middle
ADVICE = {
    "": "",
    "railed": "off the skin? reference on?",
    "no contact": "wet it, press it on",
    "flat": "shorted or unplugged?",
    "mains": "move cables off power",
    "muscle": "loosen jaw and brow",
    "moving": "sit still, eyes quiet",
    "missing": "is it still switched on?",
    "waiting": "needs 4 s of signal",
}
BAD = ("railed", "no contact", "flat")
GREEN, YELLOW, RED, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"


class Quality(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def fault(self) -> str: ...


def lines(title: str, channels: Sequence[Quality], rms: Sequence[float], columns: int, colour: bool, plain: bool = False) -> list[str]:
    """The title and a line a channel, none wider than `columns`. `rms` is in uV, 1-45 Hz; `plain` keeps to ASCII."""
    out = [title[:columns]]
    full, empty, unit = ("#", ".", "uV") if plain else ("█", "░", "µV")
    for channel, value in zip(channels, rms, strict=True):
        what = channel.fault
        low, high = np.log10(RANGE_UV)
        filled = round(CELLS * float(np.clip((np.log10(max(value, 1e-9)) - low) / (high - low), 0, 1)))
        shown = f"{value:7.1f}" if value < 1e5 else "  >100k"
        bar = full * filled + empty * (CELLS - filled)
        line = f"{channel.name[:10]:<10} {shown} {unit}  {bar}  {what or 'clean':<10} {ADVICE[what]}".rstrip()[:columns]
        paint = RED if what in BAD else YELLOW if what else GREEN
        out.append(f"{paint}{line}{PLAIN}" if colour else line)
    return out


class Table:
    """Blocks in, a table each second out: over itself in a terminal, one after the other elsewhere."""

    def __init__(self, out: TextIO, rail_uv: float) -> None:
        self._out, self._rail = out, rail_uv
        self._terminal = out.isatty()
        self._colour = self._terminal and "NO_COLOR" not in os.environ
        self._plain = "utf" not in (getattr(out, "encoding", "") or "").lower()
        self._drawn = 0  # lines above the cursor that the next table covers
        self._judge: Estimator | None = None
        self._form: Any = None
        self._window: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.seconds = 0.0  # of signal so far
        self.clean = 0

    def hear(self, block: Block) -> None:
        form = (block.rate, tuple(block.names))
        if self._judge is None or form != self._form:
            self._judge, self._form = Estimator(block.names, block.rate, self._rail), form
            self._window = np.zeros((len(block.names), 0), np.float32)
        self._judge.hear(block.samples, gap=block.gap)
        held = block.samples if block.gap else np.concatenate([self._window, block.samples], axis=1)
        self._window = held[:, -round(WINDOW * block.rate) :]
        self.seconds += block.samples.shape[1] / block.rate

    def draw(self, title: str) -> None:
        """`title` says whose signal it is and how it stands; without a signal yet it stands alone."""
        width = shutil.get_terminal_size().columns - 1 if self._terminal else 79
        shown = [title[:width]]
        if self._judge is not None:
            channels = self._judge.quality() or [Channel(name, "waiting") for name in self._form[1]]
            self.clean = sum(not channel.fault for channel in channels)
            enough = self._window.shape[1] >= self._form[0]
            rms = powers(self._window, self._form[0], {"eeg": (1.0, 45.0)})["eeg"] if enough else np.zeros(len(channels))
            title = f"{title}, {self.clean} of {len(channels)} channels clean"
            shown = lines(title, channels, rms.tolist(), width, self._colour, self._plain)
        if self._terminal and self._drawn:
            self._out.write(f"\x1b[{self._drawn}A\x1b[J")
        self._out.write("\n".join(shown) + ("\n" if self._terminal else "\n\n"))
        self._out.flush()
        self._drawn = len(shown)
