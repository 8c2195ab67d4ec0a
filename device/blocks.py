"""What a headset gives: blocks of samples, each with its place on the board's own time line. It knows no board.

`source` is the only thing here that knows eeg.py; it goes when `Headset.blocks()` is there for everyone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from device.config import Headset as Settings


class Block(Protocol):
    """Samples of all channels that came together; eeg.py's own Block is one.

    `samples` is float32 [channels, n] in uV; `first` counts samples since the board was connected,
    by its package counter; `rate` is in Hz; `gap` says that samples before this block are missing.
    """

    @property
    def samples(self) -> NDArray[np.float32]: ...
    @property
    def first(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def gap(self) -> bool: ...


@dataclass(frozen=True)
class Samples:
    """A Block of our own making: from a file, or from a headset that has no `blocks()` yet."""

    samples: NDArray[np.float32]
    first: int
    rate: float
    names: list[str]
    gap: bool = False


# Full scale in uV either way. A value beyond it is stored as full scale. OpenBCI: 4.5 V / gain 24, and 1.2 V / gain 51 with the
# Ganglion's 1.5; NeuroPawn: 4 V / gain 12; Muse: 2048 or 8192 steps of 0.488 or 0.0885 uV.
FULL_SCALE_UV = {
    "ganglion": 15_687.0,
    "neuropawn_knight": 333_334.0,
    "muse_2": 1_000.0,
    "muse_s": 1_000.0,
    "muse_s_athena": 1_000.0,
}
CYTON_FULL_SCALE_UV = 187_500.0  # at gain 24: 2**23 - 1 steps of 0.02235 uV


def full_scale_uv(board: str) -> float:
    return FULL_SCALE_UV.get(board, CYTON_FULL_SCALE_UV)


def source(headset: Any, settings: Settings) -> Callable[[], list[Block]]:
    """A function that drains what came since it was last called; it must be the only reader of `headset`."""
    if settings.board == "none":
        return list
    if hasattr(headset, "blocks"):
        return headset.blocks  # type: ignore[no-any-return]
    newest: list[Any] = []
    first = [0]

    def drain() -> list[Block]:
        """Until `Headset.blocks()` is merged: the arrays that its window is made of, each once."""
        with headset._lock:
            held, rate, names = list(headset._blocks), headset._rate, list(headset._names)
        known = [i for i, array in enumerate(held) if newest and array is newest[0]]
        fresh = held[known[0] + 1 :] if known else held
        gap = bool(newest) and not known
        if gap and fresh:
            first[0] = 0
        blocks: list[Block] = []
        for array in fresh:
            blocks.append(Samples(array, first[0], rate, names, gap and not blocks))
            first[0] += array.shape[1]
            newest[:] = [array]
        return blocks

    return drain
