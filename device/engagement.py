"""The shipped classifier: z-scores against the wearer's own quiet -> how much a window looks like mental work.

Logistic regression on the mean z of each pair of electrodes, so that one bad electrode of a pair costs noise only. Its numbers
are data (firmware_config/eeg/engagement.toml); scripts/train-engagement writes them and says from what.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.config import FIRMWARE
from device.eeg_features import FEATURES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Array = NDArray[np.float64]

FILE = FIRMWARE / "eeg/engagement.toml"
SMOOTH_SECONDS = 5.0
# Pairs of electrodes, old names of the 10-20 system (T5, T6) beside the new (P7, P8). The 4 of a Muse are referenced
# to Fpz; its two frontal ones differ by what each is close to and are weighed apart, TP9 and TP10 are one electrode in the training data.
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "cyton8": {"frontal": ("fp1", "fp2"), "central": ("c3", "c4"), "parietal": ("p7", "p8", "t5", "t6"), "occipital": ("o1", "o2")},
    "muse4": {"temporal": ("tp9", "tp10"), "left": ("af7",), "right": ("af8",)},
}


def layout_of(names: Sequence[str]) -> str:
    """The layout whose every pair `names` have an electrode of, or ""."""
    have = {n.lower() for n in names}
    return next((layout for layout, pairs in LAYOUTS.items() if all(have & set(p) for p in pairs.values())), "")


def regions(z: Array, names: Sequence[str], layout: str) -> Array:
    """[channels, FEATURES] of z -> [pairs, FEATURES]: the mean of the clean electrodes; 0, the wearer's usual, where none is."""
    rows = [[i for i, n in enumerate(names) if n.lower() in pair and np.isfinite(z[i, 0])] for pair in LAYOUTS[layout].values()]
    return np.stack([z[r].mean(axis=0) if r else np.zeros(len(FEATURES)) for r in rows])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-min(max(x, -30.0), 30.0)))


@dataclass(frozen=True)
class Classifier:
    """`weights` [pairs, FEATURES] of z-scores; `slope` and `shift` are Platt's, fitted on smoothed scores of unseen people."""

    layout: str
    weights: Array
    intercept: float
    slope: float
    shift: float

    def score(self, pairs: Array) -> float:
        """Log odds of work against rest, before smoothing and calibration."""
        return float((self.weights * pairs).sum() + self.intercept)

    def probability(self, smoothed: float) -> float:
        """Calibrated probability of work, rest and work being equally likely before."""
        return sigmoid(self.slope * smoothed + self.shift)


def parse(layout: str, stored: Mapping[str, Any]) -> Classifier:
    """ValueError when `stored` lacks a number of `layout`."""
    try:
        table = [[float(stored["weights"][pair][f]) for f in FEATURES] for pair in LAYOUTS[layout]]
        numbers = [float(stored[k]) for k in ("intercept", "slope", "shift")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"engagement.toml, {layout}: {error!r}") from None
    return Classifier(layout, np.array(table), *numbers)


@cache
def load(layout: str, file: Path = FILE) -> Classifier:
    """The shipped numbers for `layout`. OSError or ValueError when the file is missing or broken."""
    return parse(layout, tomllib.loads(file.read_text(encoding="utf-8"))[layout])
