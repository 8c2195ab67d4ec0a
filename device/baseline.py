"""The wearer's own quiet: eyes open for 60 s, then closed for 30 s, as medians and spreads that later windows are held against.

It holds for one wearer and one fitting of the headset, for an hour. Pure: the voice that leads through it lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.eeg_features import FEATURES
from device.eeg_quality import POSTERIOR
from device.eeg_windows import Window

Array = NDArray[np.float64]

OPEN_SECONDS, CLOSED_SECONDS = 60.0, 30.0
NEEDED = 30  # clean windows with open eyes
NEEDED_CLOSED = 8  # clean windows with closed eyes; fewer, and the reactivity was not tested
EXPIRES_SECONDS = 3600.0
SET_BACK_SECONDS = 60.0  # that a clock may be set back by, and the baseline is still not one of the future
REACTIVE = 1.3  # alpha power, eyes closed over open, at one posterior or temporal electrode
CLIP = 6.0
# The smallest spread (log10 units): it keeps a lucky still minute from turning noise into a large z.
FLOOR = 0.03
MUSCLE_FLOOR = 0.1
CAP = 0.3  # of confidence, where alpha did not react: the one check that this is a brain's signal failed
ALPHA, ABOVE = FEATURES.index("alpha"), FEATURES.index("alpha_above")


@dataclass(frozen=True)
class Baseline:
    """Medians and spreads [channels, FEATURES] (NaN: too seldom clean), of muscle likewise by channel.

    `reactivity` is the largest closed/open ratio of alpha power over the posterior channels; None: never tested. `made` is in
    seconds of the clock that the windows had.
    """

    names: tuple[str, ...]
    median: Array
    spread: Array
    muscle: tuple[tuple[float, float] | None, ...]
    reactivity: float | None
    windows: int
    made: float

    @property
    def seen(self) -> bool:
        """Whether alpha rose when the eyes closed."""
        return self.reactivity is not None and self.reactivity >= REACTIVE

    @property
    def validity(self) -> float:
        """The cap of every confidence that rests on this baseline."""
        return 1.0 if self.seen else CAP

    @property
    def words(self) -> str:
        if self.reactivity is None:
            return "alpha reactivity: not tested"
        return f"alpha reactivity: {'seen' if self.seen else 'not seen'} ({self.reactivity:.2f} times)"

    def expired(self, now: float) -> bool:
        return not -SET_BACK_SECONDS <= now - self.made <= EXPIRES_SECONDS

    def z(self, features: Array) -> Array:
        """Robust z-scores of [channels, FEATURES], clipped to +-6; NaN where either side has no value."""
        return np.clip((features - self.median) / self.spread, -CLIP, CLIP)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; NaN as None."""
        return {
            "names": list(self.names),
            "median": _listed(self.median),
            "spread": _listed(self.spread),
            "muscle": [None if m is None else list(m) for m in self.muscle],
            "reactivity": self.reactivity,
            "windows": self.windows,
            "made": self.made,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Baseline:
        """ValueError when `stored` is not what `to_dict` gave."""
        try:
            names = tuple(str(n) for n in stored["names"])
            median, spread = (np.array(stored[k], dtype=np.float64) for k in ("median", "spread"))
            muscle = tuple(None if m is None else (float(m[0]), float(m[1])) for m in stored["muscle"])
            reactivity = None if stored["reactivity"] is None else float(stored["reactivity"])
            made = cls(names, median, spread, muscle, reactivity, int(stored["windows"]), float(stored["made"]))
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"not a stored baseline: {error!r}") from None
        shape = (len(names), len(FEATURES))
        if median.shape != shape or spread.shape != shape or len(muscle) != len(names) or (spread <= 0).any():
            raise ValueError(f"not a stored baseline: {len(names)} channels, medians of shape {median.shape}")
        return made


@dataclass
class QuietMinute:
    """Collects windows until a Baseline can be made of them. A refused window is not taken."""

    names: Sequence[str]
    opened: list[Window] = field(default_factory=list)
    closed: list[Window] = field(default_factory=list)

    def take(self, window: Window, closed: bool = False) -> None:
        if not window.refusal:
            (self.closed if closed else self.opened).append(window)

    @property
    def lacks(self) -> str:
        """Why there is no baseline yet, or ""."""
        count = len(self.opened)
        return "" if count >= NEEDED else f"no baseline yet: {count} of {NEEDED} quiet windows collected."

    def baseline(self) -> Baseline:
        """ValueError with `lacks` when there is too little."""
        if self.lacks:
            raise ValueError(self.lacks)
        values = np.stack([w.features for w in self.opened])  # [windows, channels, FEATURES]
        enough = np.isfinite(values[:, :, 0]).sum(axis=0) >= NEEDED / 2
        values[:, ~enough] = 0.0
        median = np.nanmedian(values, axis=0)
        spread = np.maximum(1.4826 * np.nanmedian(np.abs(values - median), axis=0), FLOOR)
        median[~enough] = spread[~enough] = np.nan
        muscle = tuple(self._muscle(row) if enough[row] else None for row in range(len(self.names)))
        newest = (self.closed or self.opened)[-1].at
        return Baseline(tuple(self.names), median, spread, muscle, self._reactivity(), len(self.opened), newest)

    def _muscle(self, row: int) -> tuple[float, float]:
        values = np.array([w.channels[row].muscle for w in self.opened if not w.channels[row].fault])
        centre = float(np.median(values))
        return centre, max(1.4826 * float(np.median(np.abs(values - centre))), MUSCLE_FLOOR)

    def _reactivity(self) -> float | None:
        """Largest ratio of median alpha power, closed over open. A broadband rise (muscle, a poorer contact) is no alpha:
        alpha above the trend must have risen as well."""
        if len(self.closed) < NEEDED_CLOSED:
            return None
        opened, closed = (np.stack([w.features for w in part]) for part in (self.opened, self.closed))
        rows = [i for i, n in enumerate(self.names) if n.lower() in POSTERIOR] or range(len(self.names))
        ratios = [0.0]
        for row in rows:
            kept = [part[np.isfinite(part[:, row, 0]), row] for part in (opened, closed)]
            if min(len(part) for part in kept) >= NEEDED_CLOSED:
                rise = np.median(kept[1], axis=0) - np.median(kept[0], axis=0)
                ratios.append(float(10 ** min(rise[ALPHA], rise[ABOVE])))
        return max(ratios)


def _listed(values: Array) -> list[list[float | None]]:
    return [[None if np.isnan(v) else round(float(v), 5) for v in row] for row in values]
