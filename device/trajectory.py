"""What one window's number becomes over time: smoothed by 5 s, and a direction only where the last minute really has one. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

TREND_SECONDS = 60.0
LEAST = 8  # points; fewer than this in the last minute, and nothing is said
APART = 4.0  # seconds between the points of a trend: one window's length, so that no two share a sample
CERTAIN = 0.99  # of the interval: one is looked at every second, and neighbouring windows are alike


class Smoother:
    """Exponential smoothing by time, not by count: after a gap of more than a few time constants the new value stands alone."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = self._value = math.nan

    def __call__(self, at: float, value: float) -> float:
        passed = at - self._at
        new = 1.0 if not passed > 0 else 1 - math.exp(-passed / self._seconds)
        self._value = value if math.isnan(self._value) else self._value + new * (value - self._value)
        self._at = at
        return self._value


@dataclass(frozen=True)
class Trend:
    """`slope` per minute with its interval; `word` is "rising" or "falling" only where the interval leaves out 0.

    "" where there is too little signal to say, "steady" otherwise.
    """

    word: str = ""
    slope: float = 0.0
    low: float = 0.0
    high: float = 0.0


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Theil and Sen's slope with its interval (Sen 1968) over the last 60 s of `values` at `times` (seconds, rising).

    The values must not be smoothed, and are thinned to one in 4 s: the interval is that of independent points, and from
    overlapping or smoothed ones noise would rise and fall all the time.
    """
    kept: list[tuple[float, float]] = []
    for t, v in zip(reversed(times), reversed(values), strict=True):
        if times[-1] - t > TREND_SECONDS:
            break
        if not kept or kept[-1][0] - t >= APART - 1e-6:
            kept.append((t, v))
    n = len(kept)
    if n < LEAST:
        return Trend()
    t, v = np.array(kept).T
    i, j = np.triu_indices(n, 1)
    slopes = np.sort((v[i] - v[j]) / (t[i] - t[j])) * 60
    width = NormalDist().inv_cdf(0.5 + CERTAIN / 2) * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    lowest = math.floor((len(slopes) - width) / 2)
    if lowest < 0:
        return Trend()
    low, high = float(slopes[lowest]), float(slopes[len(slopes) - 1 - lowest])
    word = "rising" if low > 0 else "falling" if high < 0 else "steady"
    return Trend(word, float(np.median(slopes)), low, high)
