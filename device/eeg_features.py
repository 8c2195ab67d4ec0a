"""Spectra and features of conditioned EEG: band powers, and alpha above the 1/f trend.

No delta (eye movement) and no gamma (muscle) among the features: on EEGMAT, power of 30-44 Hz alone tells arithmetic from
rest better than any rhythm of the brain does, and it is the jaw and the brow that it tells of. It is kept apart, for the gate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SEGMENT_SECONDS = 2.0  # one Hann segment: bins of 0.5 Hz
FEATURES = ("theta", "alpha", "beta_low", "beta_high", "alpha_above", "exponent")
BANDS = ((4.0, 8.0), (8.0, 13.0), (13.0, 20.0), (20.0, 30.0))  # Hz, of the first four features
MUSCLE = (30.0, 45.0)
TREND, PEAK = (2.0, 40.0), (7.0, 14.0)  # the fit, and what it leaves out
TINY = 1e-12  # uV^2/Hz, so that a dead input has a logarithm


class Spectrum:
    """Everything of one sampling rate that need not be computed twice."""

    def __init__(self, rate: float) -> None:
        self.size = round(SEGMENT_SECONDS * rate)
        self._window = np.hanning(self.size)
        self._scale = 2 / (rate * (self._window**2).sum())
        self.frequency: Array = np.fft.rfftfreq(self.size, 1 / rate).astype(np.float64)
        self.step = float(self.frequency[1])
        f = self.frequency
        self._bands = np.stack([(f >= a) & (f < b) for a, b in (*BANDS, MUSCLE)]).astype(float) * self.step
        self._fit = (f >= TREND[0]) & (f <= TREND[1]) & ((f < PEAK[0]) | (f > PEAK[1]))
        self._alpha = (f >= BANDS[1][0]) & (f < BANDS[1][1])
        self._log = np.log10(np.maximum(f, self.step))

    def power(self, segment: Array) -> Array:
        """One-sided power [channels, bins] in uV^2/Hz of [channels, size] in uV, Hann: a sine of 10 uV sums to 50 uV^2."""
        bins = np.fft.rfft((segment - segment.mean(axis=1, keepdims=True)) * self._window)
        return (bins.real**2 + bins.imag**2) * self._scale

    def features(self, power: Array) -> Array:
        """[channels, bins] in uV^2/Hz -> [channels, FEATURES]: log10 uV^2 by band, alpha above the trend, its steepness."""
        bands = np.log10(power @ self._bands[:-1].T + TINY)
        level, slope = self.trend(power)
        expected = level[:, None] + slope[:, None] * self._log[self._alpha]
        above = (np.log10(power[:, self._alpha] + TINY) - expected).mean(axis=1)
        return np.column_stack([bands, above, -slope])

    def muscle(self, power: Array) -> Array:
        """log10 power (uV^2) of 30-45 Hz, by channel."""
        return np.log10(power @ self._bands[-1] + TINY)

    def share(self, power: Array, low: float, high: float) -> Array:
        """Power (uV^2) between two frequencies, both included, by channel."""
        band = (self.frequency >= low) & (self.frequency <= high)
        return power[:, band].sum(axis=1) * self.step

    def trend(self, power: Array) -> tuple[Array, Array]:
        """(level, slope) of log10 power on log10 frequency by channel: least squares over 2-40 Hz less 7-14 Hz.

        The mask is what keeps alpha out of its own baseline. A reweighted fit was tried and left out: it drifted more within
        rest (late against early rest 0.55 for 0.53, 4 channels) and told work no better.
        """
        x, y = self._log[self._fit], np.log10(power[:, self._fit] + TINY)
        off = x - x.mean()
        slope = (y @ off) / (off @ off)
        return y.mean(axis=1) - slope * x.mean(), slope
