"""The EEG recordings of tests/data/eeg, and noise that looks like a brain at rest."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from device.bench_estimate import ALPHA_AND_ARTEFACTS, CLOSED, EEGMAT, NAMES, OPEN, RAILED, RATE, SPOILT
from device.emulator import read_recording

__all__ = ["CLOSED", "EEGMAT", "NAMES", "OPEN", "RATE", "SPOILT", "Array", "brain", "cyton", "railed"]
Array = NDArray[np.float64]


@cache
def cyton() -> Array:
    return read_recording(ALPHA_AND_ARTEFACTS)


@cache
def railed() -> Array:
    return read_recording(RAILED)


def brain(seconds: float, rate: float = RATE, channels: int = 8, alpha_uv: float = 0.0, seed: int = 0) -> Array:
    """1/f noise of 10 uV rms on an electrode's offset, with 10 Hz of `alpha_uv` amplitude on the second half of the channels."""
    random, count = np.random.default_rng(seed), round(seconds * rate)
    bins = np.fft.rfft(random.normal(size=(channels, count)))
    out = np.fft.irfft(bins / np.sqrt(np.maximum(np.arange(bins.shape[1]), count / rate)), count)
    out *= 10 / out.std(axis=1, keepdims=True)
    out[channels // 2 :] += alpha_uv * np.sin(2 * np.pi * 10 * np.arange(count) / rate)
    return out + 20_000.0
