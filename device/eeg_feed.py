"""The one seam between the headset and the estimate: each block that it sends goes in, once.

It knows neither threads nor replies. Without scipy (the eeg extra) it says so and nothing else changes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.blocks import Block
from device.logs import log
from device.turn import Affect

if TYPE_CHECKING:
    from device.affect import Estimator
    from device.baseline import Baseline


class Feed:
    """Give it the headset, and what the headset sent. `estimator` is None until the headset has described itself.

    `stored` is the file with the wearer's baseline: one of these electrodes that is at most an hour old holds from the start.
    """

    def __init__(self, headset: Any, board: str = "", stored: Path | None = None) -> None:
        self.headset = headset
        self.estimator: Estimator | None = None
        self._board, self._stored, self._fault = board, stored, ""
        self._form: tuple[float, tuple[str, ...]] | None = None
        self._broken = True  # what comes next follows nothing

    def load(self) -> None:
        """Import what the estimate stands on: a second, and ten times that on a slow machine. In a thread, before a loop calls hear()."""
        with contextlib.suppress(ImportError):  # hear() says so
            from scipy import signal  # noqa: F401

            from device import affect  # noqa: F401

    def hear(self, blocks: Iterable[Block]) -> list[Affect]:
        """What is new, oldest first. Never raises; one Affect for each second of signal."""
        out: list[Affect] = []
        for block in blocks:
            if not block.settled or not self._ready(block) or self.estimator is None:
                self._broken = True
                continue
            gap = block.gap or self._broken
            # The samples are the clock; the time of day sets it after a gap, and where it has gone wrong by a second.
            begun = time.time() - block.samples.shape[1] / block.rate
            wrong = gap or abs(begun - self.estimator.windows.seconds) > 1
            self._broken = False
            out += self.estimator.hear(block.samples, gap=gap, seconds=begun if wrong else None)
        return out

    def affect(self) -> Affect:
        """What can be said now, or why not."""
        if self.headset.reason:
            return Affect(reason=self.headset.reason)
        if self.estimator is None:
            return Affect(reason=self._fault or "the signal is settling.")
        return self.estimator.latest(time.time())

    def _ready(self, block: Block) -> bool:
        form = block.rate, tuple(block.names)
        if form != self._form:
            self._form, self.estimator = form, None
            try:
                from device.affect import Estimator
                from device.boards import full_scale_uv

                self.estimator = Estimator(block.names, block.rate, full_scale_uv(self._board), self._baseline(block.names))
            except (ImportError, OSError, ValueError) as error:  # no scipy, no coefficients, or a headset that is too slow
                self._fault = f"no estimate: {error}."
        return self.estimator is not None

    def _baseline(self, names: list[str]) -> Baseline | None:
        from device.quiet import BaselineError, load

        if self._stored is None or not self._stored.is_file():
            return None
        try:
            baseline = load(self._stored)
        except BaselineError as error:
            log("baseline", level=logging.WARNING, reason=error)
            return None
        return baseline if baseline.names == tuple(names) and not baseline.expired(time.time()) else None
