"""Signal quality, alpha and relaxation from one window of EEG, against the wearer's own baseline.

It does not know headsets, threads or replies; numpy only, no state but the `Baseline` it is given.

What is claimed: "more or less relaxed than this wearer's own quiet baseline", nothing else.
Engagement waits for a calibrated classifier. Valence is never estimated: from EEG across people it
is chance (EEGain, leave-one-subject-out on DEAP: 0.51-0.53 against 0.57 for the trivial answer).

This is the thin form: notch and band-pass are zeroed FFT bins on one window, with nothing carried
from window to window, and relaxation is a fixed squashing of one z-score, fitted to nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.turn import Affect

Array = NDArray[np.float64]

WINDOW_SECONDS = 4.0  # shorter windows make alpha too noisy, longer ones act too late
RAIL_UV = 187_500.0  # full scale of an OpenBCI Cyton at gain 24; pass your own for another headset
RAILED_SHARE = 0.01  # this share of samples within 5 % of full scale, and the electrode is off
FLAT_UV = 0.3  # SD of a shorted or unplugged input
SWING_UV = 120.0  # peak to peak, 1-45 Hz: above it are blinks and movement, not a resting brain
# rms, 30-45 Hz, where there is no baseline. On the Cyton recording rest is 5-7.5 and a clenched jaw
# 12-35 at C3 C4 P7 P8.
MUSCLE_UV = 10.0
MUSCLE_RISE = 0.45  # log10 power, 30-45 Hz, above the wearer's own baseline
MIN_GOOD = 2  # channels
TAPER_SECONDS = 0.5  # faded at each end, so that mains doesn't ring into the band at the edges
CONFIDENCE_CAP = 0.3  # until a classifier is calibrated on many people
QUIET_WINDOWS = 30  # clean windows that make a baseline
FRONTAL = ("fp1", "fp2", "af7", "af8")
POSTERIOR = ("o1", "o2", "oz", "po7", "po8", "p7", "p8", "pz", "tp9", "tp10")


@dataclass(frozen=True)
class Channel:
    """One channel of one window. `fault` is empty for a clean signal, else why it is not used.

    `alpha` is log10 power of 8-12.5 Hz above the 1/f fit, `muscle` log10 power (uV^2) of 30-45 Hz;
    both are NaN when the channel has no signal to measure.
    """

    name: str
    fault: str
    alpha: float = float("nan")
    muscle: float = float("nan")


class Baseline:
    """Median and MAD, by channel, of alpha and muscle over the wearer's quiet windows.

    It holds for one wearer and one fitting of the headset: begin a new one when it is re-seated.
    Only windows that pass the quality gate are taken, the newest `keep` of them.
    """

    def __init__(self, needed: int = QUIET_WINDOWS, keep: int = 300) -> None:
        self.needed = needed
        self._alpha: dict[str, deque[float]] = {}
        self._muscle: dict[str, deque[float]] = {}
        self._keep = keep
        self.windows = 0

    @property
    def ready(self) -> bool:
        return self.windows >= self.needed

    def collect(
        self,
        window_uv: NDArray[np.floating],
        rate: float,
        names: Sequence[str],
        rail_uv: float = RAIL_UV,
    ) -> str:
        """Take one quiet window [channels, samples] in uV. Returns "" when taken, else why not."""
        channels = inspect(window_uv, rate, names, rail_uv=rail_uv)
        refusal = refused(channels)
        if refusal:
            return refusal
        for c in channels:
            if not c.fault:
                self._alpha.setdefault(c.name, deque(maxlen=self._keep)).append(c.alpha)
                self._muscle.setdefault(c.name, deque(maxlen=self._keep)).append(c.muscle)
        self.windows += 1
        return ""

    def alpha(self, name: str) -> tuple[float, float] | None:
        """(median, spread) of log10 alpha above 1/f, or None where `name` was too seldom clean."""
        return self._summary(self._alpha.get(name))

    def muscle(self, name: str) -> tuple[float, float] | None:
        """(median, spread) of log10 power of 30-45 Hz, or None, likewise."""
        return self._summary(self._muscle.get(name))

    def _summary(self, values: deque[float] | None) -> tuple[float, float] | None:
        if values is None or len(values) < self.needed / 2:
            return None
        centre = float(np.median(values))
        # 1.4826 makes the MAD a standard deviation; the floor keeps a lucky still minute from
        # turning noise into a large z.
        return centre, max(1.4826 * float(np.median(np.abs(np.array(values) - centre))), 0.05)


def estimate(
    window_uv: NDArray[np.floating] | None,
    rate: float,
    baseline: Baseline | None,
    names: Sequence[str],
    rail_uv: float = RAIL_UV,
) -> Affect:
    """The wearer's state in the newest 4 s of `window_uv` [channels, samples] in uV at `rate` Hz.

    Relaxation is tanh(z / 3), z being alpha above 1/f against `baseline`, clipped to +-6 and
    averaged over the clean posterior channels (all clean channels where none is posterior): 0 is
    the wearer's usual quiet, +-0.76 is three spreads away. More alpha also comes from closing the
    eyes or from drowsiness, which this can't tell from relaxing. Confidence is the usable share
    times 0.3. Abstains with a reason otherwise; never raises for bad samples, never returns NaN.
    """
    channels = inspect(window_uv, rate, names, baseline, rail_uv)
    good = [c for c in channels if not c.fault]
    usable = len(good) / len(channels) if channels else 0.0
    refusal = refused(channels)
    if refusal:
        return Affect(usable=usable, reason=refusal)
    if baseline is None:
        return Affect(usable=usable, reason="no baseline yet: no quiet minute was recorded.")
    if not baseline.ready:
        counted = f"{baseline.windows} of {baseline.needed} quiet windows collected."
        return Affect(usable=usable, reason=f"no baseline yet: {counted}")
    scores = _alpha_scores(good, baseline)
    if not scores:
        listed = ", ".join(c.name for c in good)
        return Affect(usable=usable, reason=f"the baseline has no values of {listed}.")
    return Affect(
        relaxation=float(np.tanh(np.mean(scores) / 3)),
        confidence=CONFIDENCE_CAP * usable,
        usable=usable,
        reason="engagement is not calibrated; valence is not estimated from EEG.",
    )


def _alpha_scores(good: Sequence[Channel], baseline: Baseline) -> list[float]:
    """z of alpha of each posterior channel with a baseline; of all where none is posterior."""
    known = [(c, s) for c in good if (s := baseline.alpha(c.name)) is not None]
    posterior = [(c, s) for c, s in known if c.name.lower() in POSTERIOR]
    return [float(np.clip((c.alpha - s[0]) / s[1], -6, 6)) for c, s in posterior or known]


def refused(channels: Sequence[Channel]) -> str:
    """Why this window can't be used as a whole, or "".

    Too poor: fewer than 2 clean channels, more than a quarter of them bad, or every frontal one bad
    (a blink reaches the others too, below their gates).
    """
    if not channels:
        return "no signal: the window is empty, or sampled below 100 Hz."
    bad = [c for c in channels if c.fault]
    frontal = [c for c in channels if c.name.lower() in FRONTAL]
    blink = bool(frontal) and all(c.fault for c in frontal)
    if len(channels) - len(bad) >= MIN_GOOD and len(bad) <= len(channels) / 4 and not blink:
        return ""
    if not bad:
        return f"too few channels: {len(channels)}, at least {MIN_GOOD} are needed."
    return f"signal too poor: {', '.join(f'{c.name} {c.fault}' for c in bad)}."


def inspect(
    window_uv: NDArray[np.floating] | None,
    rate: float,
    names: Sequence[str],
    baseline: Baseline | None = None,
    rail_uv: float = RAIL_UV,
) -> list[Channel]:
    """Quality and features of each channel in the newest 4 s; [] when there is no sample."""
    if window_uv is None or np.ndim(window_uv) != 2 or np.size(window_uv) == 0 or rate < 100:
        return []  # below 100 Hz there is no 30-45 Hz band to judge muscle by
    window = np.asarray(window_uv, dtype=np.float64)[:, -round(WINDOW_SECONDS * rate) :]
    labels = [names[i] if i < len(names) else f"channel {i + 1}" for i in range(len(window))]
    if window.shape[1] < WINDOW_SECONDS * rate * 0.9:
        short = f"has only {window.shape[1] / rate:.1f} s of {WINDOW_SECONDS:.0f} s"
        return [Channel(label, short) for label in labels]
    pairs = zip(labels, window, strict=True)
    return [_channel(label, x, rate, baseline, rail_uv) for label, x in pairs]


def _channel(
    name: str, x: Array, rate: float, baseline: Baseline | None, rail_uv: float
) -> Channel:
    if not np.isfinite(x).all():
        return Channel(name, "has missing samples")
    if np.mean(np.abs(x) >= 0.95 * rail_uv) >= RAILED_SHARE:
        return Channel(name, "railed")
    clean = band_pass(x, rate)
    if x.std() < FLAT_UV or clean.std() < FLAT_UV:
        return Channel(name, "flat")
    frequency, power = spectrum(x, rate)
    alpha = alpha_over_trend(frequency, power)
    band = (frequency >= 30) & (frequency < 45)
    muscle = float(np.log10(power[band].sum() * frequency[1] + 1e-12))
    fault = ""
    swing = float(np.ptp(clean))
    usual = baseline.muscle(name) if baseline is not None else None
    limit = 2 * np.log10(MUSCLE_UV) if usual is None else usual[0] + MUSCLE_RISE
    if swing > SWING_UV:
        fault = f"swings {swing:.0f} uV"
    elif muscle > limit:
        fault = f"has muscle noise of {10 ** (muscle / 2):.0f} uV"
    return Channel(name, fault, alpha, muscle)


def band_pass(x: Array, rate: float) -> Array:
    """`x` [samples] in uV, 1-45 Hz without 49-51 Hz, less the faded 0.5 s at each end.

    60 Hz lies outside the band. The taper is what makes a plain FFT filter do: the Cyton recording
    carries 188 uV rms of mains, which rings across the whole band from hard edges.
    """
    n, fade = x.size, round(TAPER_SECONDS * rate)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(fade) / fade)
    window = np.concatenate([ramp, np.ones(n - 2 * fade), ramp[::-1]])
    bins = np.fft.rfft(_detrended(x) * window)
    frequency = np.fft.rfftfreq(n, 1 / rate)
    bins[(frequency < 1) | (frequency > 45) | (np.abs(frequency - 50) <= 1)] = 0
    return np.fft.irfft(bins, n)[fade : n - fade]


def spectrum(x: Array, rate: float) -> tuple[Array, Array]:
    """(frequency in Hz, one-sided power in uV^2/Hz), Hann: a sine of 10 uV sums to 50 uV^2."""
    window = np.hanning(x.size)
    power: Array = np.abs(np.fft.rfft(_detrended(x) * window)) ** 2 * 2 / (rate * (window**2).sum())
    frequency: Array = np.fft.rfftfreq(x.size, 1 / rate).astype(np.float64)
    return frequency, power


def alpha_over_trend(frequency: Array, power: Array) -> float:
    """log10 of power at 8-12.5 Hz above a straight log-log fit of 2-40 Hz with 7-14 Hz left out."""
    trend = (frequency >= 2) & (frequency <= 40) & ((frequency < 7) | (frequency > 14))
    alpha = (frequency >= 8) & (frequency <= 12.5)
    slope, level = np.polyfit(np.log10(frequency[trend]), np.log10(power[trend] + 1e-12), 1)
    # The mean of power, not of its log: alpha waxes in bursts, and the log would weigh the gaps.
    expected = level + slope * np.log10(frequency[alpha])
    return float(np.log10(np.mean(power[alpha] / 10**expected) + 1e-12))


def _detrended(x: Array) -> Array:
    """`x` less its straight line: electrodes drift, and offsets are a thousand times the signal."""
    t = np.arange(x.size) - (x.size - 1) / 2
    straight: Array = x - x.mean() - t * ((x * t).sum() / (t * t).sum())
    return straight
