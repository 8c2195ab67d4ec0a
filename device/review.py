"""A recording judged second by second, as it would have been live: quality, band powers, trajectory. It draws nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device.affect import Estimator
from device.baseline import NEEDED, Baseline
from device.bdf import Mark, Reader
from device.quiet import BaselineError, learn, load
from device.recording import GAP, LOST

Array = NDArray[np.float64]
Span = tuple[float, float]  # seconds of the recording

BANDS = {"theta": (4.0, 8.0), "alpha": (8.0, 13.0), "beta": (13.0, 30.0)}  # Hz
VERDICTS = ("clean", "moving", "muscle", "mains", "flat", "no contact", "railed", "missing", "waiting", "no signal")
WINDOW = 4  # seconds
FITTING = timedelta(hours=1)  # a baseline holds for one fitting of the headset, and no longer than this before the recording


@dataclass(frozen=True)
class Review:
    """`verdicts` is [channels, seconds], an index of VERDICTS. Values of `bands` (uV rms, the middle clean channel) and of the
    trajectory are [seconds], NaN where the signal did not support one. `reference` says in a sentence what relaxation is relative to.
    """

    file: Path
    began: datetime
    rate: float
    names: list[str]
    verdicts: NDArray[np.int8]
    bands: dict[str, Array]
    relaxation: Array
    engagement: Array
    confidence: Array
    reasons: Counter[str]
    reference: str
    whole: bool
    marks: list[Mark] = field(default_factory=list)

    @property
    def seconds(self) -> int:
        return self.verdicts.shape[1]

    def clean(self) -> Array:
        """Share of seconds in which each channel was clean, [channels]; those before the first window don't count."""
        judged = self.verdicts != VERDICTS.index("waiting")
        return np.asarray((self.verdicts == 0).sum(axis=1) / np.maximum(1, judged.sum(axis=1)), np.float64)

    def usable(self) -> float:
        """Share of seconds in which the signal gave band powers: enough clean channels."""
        return float(np.isfinite(self.bands["alpha"]).mean()) if self.seconds else 0.0


def powers(window: NDArray[np.float32], rate: float, bands: dict[str, tuple[float, float]] = BANDS) -> dict[str, Array]:
    """uV rms in each of `bands` (Hz), [channels], of a window [channels, samples]; Hann, so that a sine of 10 uV gives 7.07."""
    x = window.astype(np.float64)
    t = np.arange(x.shape[1]) - (x.shape[1] - 1) / 2
    x = x - x.mean(axis=1, keepdims=True)
    x -= np.outer(x @ t / (t @ t), t)  # electrodes drift
    taper = np.hanning(x.shape[1])
    power = np.abs(np.fft.rfft(x * taper)) ** 2 * 2 / (x.shape[1] * (taper**2).sum())
    frequency = np.fft.rfftfreq(x.shape[1], 1 / rate)
    return {name: np.sqrt(power[:, (frequency >= low) & (frequency < high)].sum(axis=1)) for name, (low, high) in bands.items()}


def choose_baseline(
    recording: Reader, given: Path | None, usual: Path | None, quiet: Span | None, closed: Span | None = None
) -> tuple[Baseline | None, str]:
    """(the baseline or None, what the trajectory is relative to, in a sentence). Raises BaselineError for what was asked and can't be.

    `quiet`: seconds of the recording itself in which the wearer sat quietly, `closed`: those with closed eyes, without which alpha
    reactivity is not tested; `usual` is only taken from this fitting of the headset.
    """
    if quiet is not None:
        opened, shut = (recording.samples(*(round(s * recording.rate) for s in span or (0, 0))) for span in (quiet, closed))
        learnt = learn(opened, shut, recording.rate, recording.names, recording.full_scale_uv, recording.began.timestamp())
        if learnt.baseline is None:
            counted = f"only {learnt.clean} of {NEEDED} clean windows"
            raise BaselineError(f"{recording.file}, seconds {quiet[0]:.0f} to {quiet[1]:.0f}: {counted}; name a longer quiet stretch.")
        named = f"seconds {quiet[0]:.0f} to {quiet[1]:.0f} of this recording, named as quiet"
        return learnt.baseline, f"Relative to {named} ({learnt.baseline.words})."
    if given is not None:
        baseline = load(given)
        return _of(recording, baseline), _relative(baseline)
    if usual is None or not usual.is_file():
        return None, "No quiet baseline was recorded, so nothing is said about relaxation or engagement."
    baseline = load(usual)
    made = datetime.fromtimestamp(baseline.made)
    if not recording.began - FITTING <= made <= recording.began + timedelta(seconds=recording.seconds):
        return None, f"The stored baseline ({made:%d %b %Y, %H:%M}) is of another sitting, so nothing is said about relaxation."
    return _of(recording, baseline), _relative(baseline)


def _of(recording: Reader, baseline: Baseline) -> Baseline:
    """It holds for the whole of this recording, be it made before, within or, where somebody says so, long ago."""
    return replace(baseline, made=recording.began.timestamp())


def _relative(baseline: Baseline) -> str:
    return f"Relative to the quiet baseline of {datetime.fromtimestamp(baseline.made):%d %b %Y, %H:%M} ({baseline.words})."


def review(recording: Reader, baseline: Baseline | None, reference: str) -> Review:
    """Judge every second of the recording by the 4 s that end with it. A gap empties the window."""
    estimator = Estimator(recording.names, recording.rate, recording.full_scale_uv, baseline)
    seconds, rate = int(recording.seconds), round(recording.rate)
    verdicts = np.full((len(recording.names), seconds), VERDICTS.index("waiting"), np.int8)
    bands = {name: np.full(seconds, np.nan) for name in BANDS}
    trajectory = {name: np.full(seconds, np.nan) for name in ("relaxation", "engagement", "confidence")}
    reasons: Counter[str] = Counter()
    missing = _missing(recording.marks, seconds)
    fresh = 0  # seconds since the last gap
    for second in range(seconds):
        if missing[second]:
            verdicts[:, second], fresh = VERDICTS.index("no signal"), 0
            continue
        samples = recording.samples(second * rate, (second + 1) * rate)
        affects = estimator.hear(samples, gap=fresh == 0, seconds=recording.began.timestamp() + second)
        fresh += 1
        faults = [channel.fault or "clean" for channel in estimator.quality()]
        if fresh < WINDOW or not faults:
            continue
        verdicts[:, second] = [VERDICTS.index(fault) for fault in faults]
        good = [i for i, fault in enumerate(faults) if fault == "clean"]
        if len(good) >= max(2, len(faults) / 2):  # what blinks and jaws do to most channels reaches the others, too
            for name, values in powers(recording.samples((second + 1 - WINDOW) * rate, (second + 1) * rate), rate).items():
                bands[name][second] = np.median(values[good])
        for affect in affects:
            for name, values in trajectory.items():
                value = getattr(affect, name)
                values[second] = np.nan if value is None else value
            if affect.relaxation is None and affect.engagement is None:
                reasons[affect.reason.split(":")[0]] += 1
    return Review(
        recording.file, recording.began, recording.rate, recording.names, verdicts, bands,
        trajectory["relaxation"], trajectory["engagement"], trajectory["confidence"], reasons, reference, recording.whole, recording.marks,
    )  # fmt: skip


def _missing(marks: list[Mark], seconds: int) -> NDArray[np.bool_]:
    """Seconds in which samples were filled in. A power cut leaves "signal lost" without its length: it lasted to the end."""
    out = np.zeros(seconds, np.bool_)
    closed = {mark.onset for mark in marks if mark.text == GAP}
    for mark in marks:
        if mark.text == GAP:
            out[int(mark.onset) : int(np.ceil(mark.onset + mark.seconds))] = True
        elif mark.text == LOST and mark.onset not in closed:
            out[int(mark.onset) :] = True
    return out
