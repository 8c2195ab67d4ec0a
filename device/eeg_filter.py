"""Causal conditioning of EEG: mains notches and a band-pass, with state carried from block to block.

It knows no quality and no feeling. Causal, because a zero-phase filter needs the future: what is learned from one would
not hold for a wearer who is being listened to now. scipy is loaded where a filter is made: the companion starts without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BAND = (1.0, 45.0)  # Hz: below are sweat and drifting electrodes, above muscle and mains
ORDER = 4
MAINS = (50.0, 60.0)  # Hz, both: the device does not know the country, and a notch costs little
NOTCH_Q = 25.0
LOWEST_RATE = 100.0  # Hz: below, there is no 30-45 Hz band to judge muscle by
EDGE_SECONDS = 0.5  # what `band_pass` leaves out at each end


def sections(rate: float) -> Array:
    """Second-order sections [n, 6] at `rate` Hz. ValueError below 100 Hz."""
    if rate < LOWEST_RATE:
        raise ValueError(f"{rate:g} Hz is too slow: at least {LOWEST_RATE:g} Hz are needed")
    from scipy import signal

    notches = [signal.tf2sos(*signal.iirnotch(f, NOTCH_Q, fs=rate)) for f in MAINS if f < 0.49 * rate]
    band = signal.butter(ORDER, BAND, "bandpass", fs=rate, output="sos")
    return np.concatenate([*notches, band])


class Conditioner:
    """Filters a stream of [channels, samples] in uV, block by block, as if it were one.

    Electrode offsets are a thousand times the signal: the state starts as if the first sample had lasted for ever.
    """

    def __init__(self, rate: float) -> None:
        from scipy import signal

        self._sections, self._filter = sections(rate), signal.sosfilt
        self._rest = signal.sosfilt_zi(self._sections)
        self._state: Array | None = None

    def reset(self) -> None:
        """After a gap: what was before says nothing about what comes."""
        self._state = None

    def __call__(self, block: Array) -> Array:
        """`block` [channels, samples], finite. Same shape back, in uV."""
        if self._state is None:
            self._state = self._rest[:, None, :] * block[None, :, :1]
        out, self._state = self._filter(self._sections, block, axis=1, zi=self._state)
        return out


def band_pass(x: Array, rate: float) -> Array:
    """`x` [samples] in uV through the same filter both ways, less 0.5 s at each end: for pictures, not for estimates."""
    from scipy import signal

    edge = round(EDGE_SECONDS * rate)
    out: Array = signal.sosfiltfilt(sections(rate), x - np.median(x), padlen=min(len(x) - 1, round(rate)))
    return out[edge : len(x) - edge]
