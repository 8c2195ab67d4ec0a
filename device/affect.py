"""What the headset supports saying about the wearer, against their own quiet baseline; it abstains with a reason otherwise.

Claimed: "more or less engaged (as if working something out) or relaxed than in this wearer's own quiet minute". Not claimed: any
feeling, anything between people, anything about the jaw. Valence is never estimated: from EEG across people it is chance
(EEGain, leave-one-subject-out on DEAP: 0.51-0.53 against 0.57 for the trivial answer), and nobody's own labels are collected yet.

This file is the public face: `Estimator`, and `python -m device.affect evaluate FILE.npz --layout cyton8`. It knows no headset,
thread or reply.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from device.baseline import CAP, Baseline, QuietMinute
from device.conditioning import steady
from device.eeg_features import FEATURES
from device.eeg_quality import POSTERIOR, RAIL_UV, Channel
from device.eeg_windows import HOP_SECONDS, WINDOW_SECONDS, Window, Windows
from device.engagement import LAYOUTS, SMOOTH_SECONDS, layout_of, load, regions
from device.trajectory import TREND_SECONDS, Smoother, trend
from device.turn import Affect

Array = NDArray[np.float64]

__all__ = ["RAIL_UV", "Baseline", "Channel", "Estimator", "bench_estimate"]

LEAST_CLEAN = 0.5  # of the last 15 s
LEAST_CONFIDENCE = 0.6
MIN_GOOD = 2  # channels
STALE_SECONDS = 2.5  # no estimate for that long, and the last one is no longer the wearer's
AROUSAL_CAP = 0.4  # beta over alpha is a poor man's arousal: a heart rate would be better
MUSCLE_PENALTY = 0.5  # of relaxation's z, for each z of muscle: a tense jaw is not relaxed
ALPHA, BETA, ABOVE = (FEATURES.index(f) for f in ("alpha", "beta_low", "alpha_above"))
MIXED = round(WINDOW_SECONDS / HOP_SECONDS)
OFF = ("railed", "no contact", "flat")  # what an electrode in the air sends
OFF_SECONDS = 10  # with fewer than MIN_GOOD electrodes on the skin, and the headset was taken off
AWAY_SECONDS = 300.0  # without a sample, and nobody knows how it sits now
NO_MINUTE = "no baseline yet: no quiet minute was recorded."
TAKEN_OFF = "the headset was taken off or away: a new quiet minute is needed."
TOO_OLD = "the baseline is more than an hour old: a new quiet minute is needed."
KEEP = 600  # estimates: ten minutes
NOT_LAID_OUT = "engagement: not calibrated for these electrodes"


class Estimator:
    """Blocks of EEG in, one Affect a second out. ValueError for a rate below 100 Hz.

    `layout` is one of LAYOUTS, or "" to see it from `names`; without one that fits, engagement is not estimated and so nothing is.
    All times are of the one clock that `hear` is given, the baseline's age too.
    """

    def __init__(
        self,
        names: Sequence[str],
        rate: float,
        rail_uv: float = RAIL_UV,
        baseline: Baseline | None = None,
        layout: str = "",
    ) -> None:
        self.names, self.rate = tuple(names), float(rate)
        self.windows = Windows(self.names, self.rate, rail_uv)
        self.layout = layout or layout_of(self.names)
        self._classifier = load(self.layout) if self.layout else None
        self.history: deque[Affect] = deque(maxlen=KEEP)
        self.probability: float | None = None  # calibrated, of the newest window, before any abstaining
        self.judged = 0  # windows, one for each second of signal
        self._quiet: QuietMinute | None = None
        self._closed = False
        self._off = 0  # windows in a row
        self._lacking = NO_MINUTE
        self._mixed = 0  # windows to come that reach back before what the wearer was asked last
        self._set(baseline)

    # The baseline ------------------------------------------------------------------------------

    def begin_baseline(self) -> None:
        """The wearer was asked to sit quietly with open eyes: windows from now on are collected. Estimates abstain meanwhile."""
        self._set(None)
        self._quiet, self._closed, self._mixed = QuietMinute(self.names), False, MIXED

    def between(self) -> None:
        """The wearer is being told to close their eyes: what comes until `eyes_closed` is of neither kind."""
        self._mixed = KEEP

    def eyes_closed(self) -> None:
        """The wearer was asked to close their eyes."""
        self._closed, self._mixed = True, MIXED

    def finish_baseline(self) -> str:
        """End the collection. Returns "" and estimates from now on, or why there is too little to."""
        quiet, self._quiet = self._quiet, None
        if quiet is None:
            return "no baseline was begun."
        if quiet.lacks:
            return quiet.lacks
        self._set(quiet.baseline())
        return ""

    def go_back_to(self, baseline: Baseline | None) -> None:
        """What was begun is given up, and `baseline` holds on."""
        self._quiet = None
        self._set(baseline)

    def reseated(self) -> None:
        """The headset was taken off, or another person wears it: what was learned no longer holds."""
        if self.baseline is not None or self._quiet is not None:
            self._lacking = TAKEN_OFF
        self._set(None)
        self._quiet = None

    def _set(self, baseline: Baseline | None) -> None:
        if baseline is not None and baseline.names != self.names:
            raise ValueError(f"the baseline is of {', '.join(baseline.names)}, the headset has {', '.join(self.names)}")
        self.baseline = baseline
        self.windows.usual = None if baseline is None else baseline.muscle
        self._smooth = [Smoother(SMOOTH_SECONDS) for _ in range(3)]
        self._points: deque[tuple[float, float, float]] = deque(maxlen=round(TREND_SECONDS) + 1)
        self.history.clear()
        self.probability = None

    # The estimate ------------------------------------------------------------------------------

    def hear(self, samples_uv: ArrayLike, gap: bool = False, seconds: float | None = None) -> list[Affect]:
        """One Affect for each second that ends in `samples_uv` [channels, n] in uV. Never raises for bad samples.

        `gap`: samples were lost before these; the filters start anew and nothing is said for 6 s. `seconds`: the time of the
        first sample; without it time is counted in samples.
        """
        if gap and seconds is not None and self.judged and seconds - self.windows.seconds > AWAY_SECONDS:
            self.reseated()
        return [self.judge(window) for window in self.windows.hear(samples_uv, gap, seconds)]

    def quality(self) -> list[Channel]:
        """The newest verdict on each channel, at most 0.5 s of signal old; [] while the signal is settling."""
        return list(self.windows.channels)

    def latest(self, now: float | None = None) -> Affect:
        """The newest estimate with its trajectory, or why there is none; `now` is on the clock of `hear`'s `seconds`."""
        if not self.history:
            return Affect(reason="the signal is settling.")
        newest = self.history[-1]
        if now is not None and now - newest.at > STALE_SECONDS:
            return Affect(usable=newest.usable, at=newest.at, reason=f"stale: no signal for {now - newest.at:.0f} s.")
        return replace(newest, minute=tuple(self._minute(newest.at)))

    def _minute(self, now: float) -> Iterator[tuple[float, float, float]]:
        for past in self.history:
            if now - past.at <= TREND_SECONDS and past.engagement is not None and past.relaxation is not None:
                yield round(now - past.at, 1), round(past.engagement, 3), round(past.relaxation, 3)

    def judge(self, window: Window) -> Affect:
        """The estimate of one window, which must be the next in time."""
        on = sum(c.fault not in OFF for c in window.channels)
        self._off = self._off + 1 if window.channels and on < MIN_GOOD else 0
        if self._off == OFF_SECONDS:
            self.reseated()
        affect = self._estimate(window)
        self.judged += 1
        if self._quiet is not None and not self._mixed:
            self._quiet.take(window, self._closed)
        self._mixed = max(0, self._mixed - 1)
        self.history.append(affect)
        held = steady(self.history)
        if held:
            affect = self.history[-1] = replace(affect, held=held)
        return affect

    def _estimate(self, window: Window) -> Affect:
        self.probability = None
        total = len(window.channels)
        usable = sum(not c.fault for c in window.channels) / total if total else 0.0
        silent = Affect(usable=usable, at=window.at)
        if self.baseline is not None and self.baseline.expired(window.at):
            self._set(None)
            self._lacking = TOO_OLD
            return replace(silent, reason=TOO_OLD)
        if window.refusal:
            return replace(silent, reason=window.refusal)
        if window.good < MIN_GOOD:
            return replace(silent, reason=f"too few channels: {window.good} clean for 4 s, at least {MIN_GOOD} are needed.")
        if self._quiet is not None:
            return replace(silent, reason=self._quiet.lacks or "the quiet minute is being recorded.")
        if self.baseline is None:
            return replace(silent, reason=self._lacking)
        return self._against(self.baseline, window, silent)

    def _against(self, baseline: Baseline, window: Window, silent: Affect) -> Affect:
        z = baseline.z(window.features)
        known = np.isfinite(z[:, 0])
        if known.sum() < MIN_GOOD:
            return replace(silent, reason="too few channels that were clean in the quiet minute, too.")
        relaxation = self._smooth[0](window.at, self._relaxation(baseline, window, z, known))
        aroused = float((z[known, BETA] - z[known, ALPHA]).mean()) / 2
        arousal = self._smooth[1](window.at, aroused)
        if self._classifier is None:
            return replace(silent, reason=f"{NOT_LAID_OUT} ({', '.join(self.names)}).")
        score = self._classifier.score(regions(z, self.names, self.layout))
        p = self.probability = self._classifier.probability(self._smooth[2](window.at, score))
        self._points.append((window.at, 2 * self._classifier.probability(score) - 1, aroused))
        confidence = min(max(p, 1 - p) * window.clean, baseline.validity)
        times, engaged, arousals = zip(*self._points, strict=True)
        found = trend(times, engaged)
        out = replace(
            silent,
            confidence=confidence,
            trend=found.word,
            slope=found.slope,
            slope_low=found.low,
            slope_high=found.high,
            arousal_trend=trend(times, arousals).word,
        )
        if window.clean < LEAST_CLEAN:
            return replace(_silenced(out), reason=f"only {window.clean:.0%} of the last 15 s were clean.")
        if confidence < LEAST_CONFIDENCE:
            why = baseline.words if baseline.validity <= CAP else "the signal looks much as usual, or was often poor"
            return replace(out, reason=f"confidence {confidence:.2f} is below {LEAST_CONFIDENCE}: {why}.")
        squashed = float(np.tanh(relaxation / 3))
        capped = AROUSAL_CAP * float(np.tanh(arousal / 3))
        return replace(out, engagement=2 * p - 1, relaxation=squashed, arousal=capped)

    def _relaxation(self, baseline: Baseline, window: Window, z: Array, known: NDArray[np.bool_]) -> float:
        """z of alpha above the trend at the back (everywhere, where no posterior channel is clean), less a muscle penalty.

        More alpha also comes from closing the eyes or from drowsiness, which this can't tell from relaxing.
        """
        rows = [i for i, n in enumerate(self.names) if known[i] and n.lower() in POSTERIOR] or list(np.flatnonzero(known))
        usual = [(c.muscle, u) for c, u in zip(window.channels, baseline.muscle, strict=True) if u is not None and not c.fault]
        tense = float(np.mean([(m - u[0]) / u[1] for m, u in usual])) if usual else 0.0
        return float(z[rows, ABOVE].mean()) - MUSCLE_PENALTY * max(0.0, tense)


def _silenced(affect: Affect) -> Affect:
    """Without its direction: too little of the minute was signal."""
    return replace(affect, trend="", slope=0.0, slope_low=0.0, slope_high=0.0, arousal_trend="")


def bench_estimate(channels: int = 8, rate: float = 250.0, seconds: int = 120) -> dict[str, float]:
    """What the whole estimate costs: CPU microseconds for a second of data, in blocks of 50 ms, and that as a share of one core.

    The data are 1/f noise with a baseline, so that every stage runs each second.
    """
    names = ("Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2")[:channels]
    count = round(rate * (seconds + 100))
    bins = np.fft.rfft(np.random.default_rng(0).normal(size=(len(names), count)))
    noise = np.fft.irfft(bins / np.sqrt(np.maximum(np.arange(bins.shape[1]), 1)), count)
    noise *= 10 / noise.std(axis=1, keepdims=True)
    estimator, block = Estimator(names, rate), round(rate / 20)
    estimator.begin_baseline()
    estimator.hear(noise[:, : round(100 * rate)])
    fault = estimator.finish_baseline()
    assert not fault, fault
    blocks = [noise[:, i : i + block] for i in range(round(100 * rate), count - block + 1, block)]
    begun = time.process_time()
    given = sum(len(estimator.hear(b)) for b in blocks)
    spent = time.process_time() - begun
    each = spent / (len(blocks) * block / rate)
    return {"channels": len(names), "rate": rate, "estimates": given, "us_per_second": round(each * 1e6, 1), "core_share": round(each, 6)}


def main(words: Sequence[str] | None = None) -> int:
    from device.eeg_evaluate import DataFault, evaluate

    parser = argparse.ArgumentParser(prog="python -m device.affect", description="The estimate of engagement, measured.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    told = verbs.add_parser("evaluate", help="the shipped coefficients on a file of rest and mental arithmetic; JSON on stdout")
    told.add_argument("file", type=Path)
    told.add_argument("--layout", choices=sorted(LAYOUTS), required=True)
    verbs.add_parser("bench", help="what a second of 8-channel EEG costs; JSON on stdout")
    given = parser.parse_args(words)
    try:
        answer: dict[str, Any] = bench_estimate() if given.verb == "bench" else evaluate(given.file, given.layout)
    except (DataFault, OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    json.dump(answer, sys.stdout, indent=2)
    print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
