"""The one seam between the headset and the estimate: what is new since the last look goes in, once.

`Headset.window()` gives the newest seconds and no count, so what is new is found by where the last sample heard lies in them.
It knows neither threads nor replies. Without scipy (the eeg extra) it says so and nothing else changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from device.turn import Affect

if TYPE_CHECKING:
    from device.affect import Estimator

LOOKED_SECONDS = 4.0  # of the headset's window: a loop that was held up for longer has lost samples
MATCHED = 32  # samples that must agree


class Feed:
    """Give it the headset and look() often; `estimator` is None until the headset has described itself."""

    def __init__(self, headset: Any, board: str = "") -> None:
        self.headset = headset
        self.estimator: Estimator | None = None
        self._board, self._fault = board, ""
        self._tail: NDArray[np.float32] | None = None

    def look(self) -> list[Affect]:
        """Hear what is new. Never raises; at most one Affect a second."""
        window, rate, names = self.headset.window(LOOKED_SECONDS)
        if window is None:
            self._tail = None  # it has stopped: what comes next comes after a gap
            return []
        if not self._ready(rate, names) or self.estimator is None:
            return []
        new = self._new(window)
        gap = new is None
        new = window if new is None else new
        self._tail = window[:, -MATCHED:].copy()
        return self.estimator.hear(new, gap=gap)

    def affect(self) -> Affect:
        """What can be said now, or why not."""
        if self.headset.reason:
            return Affect(reason=self.headset.reason)
        if self.estimator is None:
            return Affect(reason=self._fault or "the signal is settling.")
        return self.estimator.latest()

    def _ready(self, rate: float, names: list[str]) -> bool:
        known = self.estimator
        if known is not None and (known.rate, known.names) == (rate, tuple(names)):
            return True
        try:
            from device.affect import RAIL_UV, Estimator
            from device.eeg_quality import RAILS_UV

            self.estimator, self._tail = Estimator(names, rate, RAILS_UV.get(self._board, RAIL_UV)), None
        except (ImportError, OSError, ValueError) as error:  # no scipy, no coefficients, or a headset that is too slow
            self.estimator, self._fault = None, f"no estimate: {error}."
        return self.estimator is not None

    def _new(self, window: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """What follows the last sample heard; None where that is not in the window: then samples were lost."""
        tail = self._tail
        if tail is None or tail.shape[1] < MATCHED:
            return None
        for end in range(window.shape[1], MATCHED - 1, -1):
            if window[0, end - 1] == tail[0, -1] and np.array_equal(window[:, end - MATCHED : end], tail):
                return window[:, end:]
        return None
