"""The EEG recordings of tests/data/eeg, and noise that looks like a brain at rest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "data/eeg"
EEGMAT = FOLDER / "eegmat18_14ch_128hz_int16.npz"
RATE = 250.0
NAMES = ["Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"]
OPEN, CLOSED = (19.0, 27.0), (29.0, 73.0)  # seconds of the Cyton recording
SPOILT = {"blink": [(3.5, 7.5), (14.0, 18.5)], "jaw": [(8.0, 13.5), (82.0, 85.0)], "motion": [(85.5, 90.0)]}

Array = NDArray[np.float64]


@cache
def openbci(name: str) -> Array:
    """[8, samples] in uV of an OpenBCI text file."""
    lines = (FOLDER / name).read_text(encoding="ascii").splitlines()
    rows = [line.split(",")[1:9] for line in lines if line[:1].isdigit()]
    return np.array([row for row in rows if len(row) == 8], dtype=np.float64).T


def cyton() -> Array:
    return openbci("OpenBCI_GUI-v6-blinks-jawClench-alpha.txt")


def railed() -> Array:
    return openbci("OpenBCI_2016-02-13_Jordan_focus.txt")


def brain(seconds: float, rate: float = RATE, channels: int = 8, alpha_uv: float = 0.0, seed: int = 0) -> Array:
    """1/f noise of 10 uV rms on an electrode's offset, with 10 Hz of `alpha_uv` amplitude on the second half of the channels."""
    random, count = np.random.default_rng(seed), round(seconds * rate)
    bins = np.fft.rfft(random.normal(size=(channels, count)))
    out = np.fft.irfft(bins / np.sqrt(np.maximum(np.arange(bins.shape[1]), count / rate)), count)
    out *= 10 / out.std(axis=1, keepdims=True)
    out[channels // 2 :] += alpha_uv * np.sin(2 * np.pi * 10 * np.arange(count) / rate)
    return out + 20_000.0
