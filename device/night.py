"""When it is night for the light: by the clock, or by a sensor that sees the room. It dims nothing itself."""

from __future__ import annotations

import time as clocks
from collections.abc import Callable
from datetime import datetime, time

from device.config import Panel as PanelSettings

SETTLED = 10.0  # s that a room must stay dark or bright: a passing torch is neither night nor day


def within(now: time, begins: time, ends: time) -> bool:
    """Whether `now` is in the night from `begins` to `ends`, over midnight or not. Equal times are no night."""
    return begins <= now < ends if begins <= ends else now >= begins or now < ends


class Night:
    """Asked every second or so. `dark` reads the sensor; `steady` and `wall` are the clocks."""

    def __init__(
        self,
        settings: PanelSettings,
        dark: Callable[[], bool],
        steady: Callable[[], float] = clocks.monotonic,
        wall: Callable[[], time] = lambda: datetime.now().time(),
    ) -> None:
        self._by, self._dark, self._steady, self._wall = settings.night, dark, steady, wall
        self._begins, self._ends = time.fromisoformat(settings.night_begins), time.fromisoformat(settings.night_ends)
        self._is = self._by == "always" or (self._by == "ambient" and dark())
        self._otherwise_since: float | None = None

    def now(self) -> bool:
        if self._by == "clock":
            return within(self._wall(), self._begins, self._ends)
        if self._by == "ambient":
            self._look(self._steady())
        return self._is

    def _look(self, at: float) -> None:
        if self._dark() == self._is:
            self._otherwise_since = None
        elif self._otherwise_since is None:
            self._otherwise_since = at
        elif at - self._otherwise_since >= SETTLED:
            self._is, self._otherwise_since = not self._is, None
