"""How well the shipped classifier tells mental work from rest in people it has not seen. Trains nothing.

A file holds, for each subject NN, `sNN_rest` and `sNN_task` [channels, samples] as integers of `uv_per_lsb` uV at `fs` Hz, and the
names in `channels`. The wearer's baseline is the first 60 s of rest; what follows of rest is held against the task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.baseline import OPEN_SECONDS, QuietMinute
from device.eeg_windows import WINDOW_SECONDS, Windows
from device.engagement import SMOOTH_SECONDS, Classifier, load, regions
from device.trajectory import Smoother

Array = NDArray[np.float64]

REST, TASK = 0, 1
HALF_SECONDS = 120.0  # rest up to here is early, from here late, in the null comparison
BINS = 10
COVERAGES = (1.0, 0.8, 0.6, 0.4, 0.2)
CYTON8 = {"Fp1": "Fp1", "Fp2": "Fp2", "C3": "C3", "C4": "C4", "P7": "T5", "P8": "T6", "O1": "O1", "O2": "O2"}


class DataFault(Exception):
    """The file can't be evaluated, in one sentence."""


@dataclass(frozen=True)
class Subject:
    """`pairs` [windows, pairs, FEATURES] of z-scores at second `at`, `task` 0 or 1; `baseline` is None where it failed.

    `offered` counts the windows there were; those that the gate refused are missing from the rest.
    """

    name: str
    at: Array
    task: NDArray[np.int64]
    pairs: Array
    offered: int


def montage(signals: dict[str, Array], layout: str) -> tuple[list[str], Array]:
    """(names, [channels, samples]) as the layout's headset would give them.

    The Muse's are derived (facts/eeg.md, 2.4): its reference Fpz is taken as (Fp1 + Fp2) / 2, AF7 as (Fp1 + F7) / 2, and the ears
    as the recording's own reference, the linked ears, because A2 - A1 is not among the 14. TP9 and TP10 are therefore equal.
    """
    if layout == "cyton8":
        return list(CYTON8), np.stack([signals[s] for s in CYTON8.values()])
    fpz = (signals["Fp1"] + signals["Fp2"]) / 2
    left, right = ((signals["Fp1"] + signals["F7"]) / 2 - fpz, (signals["Fp2"] + signals["F8"]) / 2 - fpz)
    return ["TP9", "AF7", "AF8", "TP10"], np.stack([-fpz, left, right, -fpz])


def recordings(file: Path, layout: str) -> Iterator[tuple[str, list[str], Array, Array, float]]:
    """(subject, names, rest, task, rate) of each subject in `file`, in uV."""
    try:
        with np.load(file) as data:
            channels, rate, scale = [str(c) for c in data["channels"]], float(data["fs"]), float(data["uv_per_lsb"])
            for key in sorted(k for k in data.files if k.endswith("_rest")):
                name = key.removesuffix("_rest")
                parts = [dict(zip(channels, data[f"{name}_{part}"] * scale, strict=True)) for part in ("rest", "task")]
                (names, rest), (_, task) = (montage(part, layout) for part in parts)
                yield name, names, rest, task, rate
    except (OSError, KeyError, ValueError) as error:
        raise DataFault(f"{file}: {error}") from None


def subject(name: str, names: Sequence[str], rest: Array, task: Array, rate: float, layout: str) -> Subject:
    """What the gate leaves of one person, against their own first minute. DataFault where that minute is too poor."""
    windows, quiet, baseline = Windows(names, rate), QuietMinute(names), None
    at: list[float] = []
    label: list[int] = []
    pairs: list[Array] = []
    offered = 0
    for part, signal in ((REST, rest), (TASK, task)):
        for window in windows.hear(signal, gap=part == TASK):
            if window.at <= OPEN_SECONDS:
                quiet.take(window)
                continue
            if baseline is None:
                if quiet.lacks:
                    raise DataFault(f"{name}: {quiet.lacks}")
                baseline = quiet.baseline()
                windows.usual = baseline.muscle
            if window.refusal == "the signal is settling." or (part == REST and window.at < OPEN_SECONDS + WINDOW_SECONDS):
                continue
            offered += 1
            if not window.refusal:
                at.append(window.at)
                label.append(part)
                pairs.append(regions(baseline.z(window.features), names, layout))
    return Subject(name, np.array(at), np.array(label), np.array(pairs), offered)


def subjects(file: Path, layout: str) -> tuple[list[Subject], list[str]]:
    """(those who can be evaluated, why the others can't)."""
    out, faults = [], []
    for name, names, rest, task, rate in recordings(file, layout):
        try:
            out.append(subject(name, names, rest, task, rate, layout))
        except DataFault as fault:
            faults.append(str(fault))
    if not out:
        raise DataFault(f"{file}: no subject can be evaluated. {' '.join(faults)}")
    return out, faults


def smoothed(person: Subject, score: Callable[[Array], float]) -> Array:
    """[windows] of the score of each window, smoothed as a wearer's is, from rest through the task."""
    smooth = Smoother(SMOOTH_SECONDS)
    return np.array([smooth(t, score(p)) for t, p in zip(person.at, person.pairs, strict=True)])


def auc(values: Array, positive: NDArray[Any]) -> float:
    """Area under the ROC curve (Mann and Whitney's U, ties counted half); NaN where one class is empty."""
    yes = positive.astype(bool)
    n, m = int(yes.sum()), int((~yes).sum())
    if not n or not m:
        return float("nan")
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return float((ranks[yes].sum() - n * (n + 1) / 2) / (n * m))


def balanced(label: NDArray[Any]) -> Array:
    """Weights that make rest and task count the same, summing to 1."""
    share = label.mean()
    return np.where(label == 1, 0.5 / share, 0.5 / (1 - share)) / len(label)


def calibration_error(p: Array, label: NDArray[Any]) -> float:
    """Expected calibration error: over ten bins of `p`, the mean gap between what was said and what was so, classes balanced."""
    weight, total = balanced(label), 0.0
    which = np.minimum((p * BINS).astype(int), BINS - 1)
    for b in range(BINS):
        mine = which == b
        if mine.any():
            total += abs(float((weight[mine] * (p[mine] - label[mine])).sum()))
    return total


def coverage(p: Array, label: NDArray[Any]) -> list[dict[str, float]]:
    """Balanced accuracy when only the surest share of windows is spoken of."""
    sure, out = np.abs(p - 0.5), []
    for share in COVERAGES:
        kept = sure >= np.quantile(sure, 1 - share)
        yes, no = kept & (label == 1), kept & (label == 0)
        right = [float((p[m] > 0.5).mean()) if m is yes else float((p[m] <= 0.5).mean()) for m in (yes, no) if m.any()]
        out.append({"coverage": share, "confidence": round(0.5 + float(sure[kept].min()), 3), "accuracy": round(float(np.mean(right)), 3)})
    return out


def report(people: Sequence[Subject], predicted: Sequence[Array]) -> dict[str, Any]:
    """The figures over `people`, whose calibrated probabilities are `predicted`. All windows pooled, but where it says otherwise."""
    p, label = np.concatenate(predicted), np.concatenate([s.task for s in people])
    if len(set(label.tolist())) < 2:
        raise DataFault("no window of the rest or none of the task passed the gate: there is nothing to hold apart.")
    apart = []
    for person, q in zip(people, predicted, strict=True):
        rest = person.task == REST
        late = person.at[rest] >= HALF_SECONDS + WINDOW_SECONDS
        if late.any() and not late.all():
            apart.append((q[rest], late))
    each = [auc(q, s.task) for s, q in zip(people, predicted, strict=True)]
    known = np.array([a for a in each if not np.isnan(a)])
    offered = sum(s.offered for s in people)
    # None where every rest is too short to have a late part.
    null = round(auc(np.concatenate([q for q, _ in apart]), np.concatenate([h for _, h in apart])), 4) if apart else None
    return {
        "auc": round(auc(p, label), 4),
        "auc_null": null,
        "ece": round(calibration_error(p, label), 4),
        "coverage": coverage(p, label),
        "auc_subjects": {
            "median": round(float(np.median(known)), 3),
            "quartiles": [round(float(v), 3) for v in np.percentile(known, [25, 75])],
            "lowest": round(float(known.min()), 3),
            "share_below_0.6": round(float((known < 0.6).mean()), 3),
        },
        "subjects": len(people),
        "windows": len(p),
        "kept": round(len(p) / offered, 4),
    }


def evaluate(file: Path, layout: str, classifier: Classifier | None = None) -> dict[str, Any]:
    """The shipped classifier on every subject of `file`."""
    shipped = classifier or load(layout)
    people, faults = subjects(file, layout)
    predicted = [np.array([shipped.probability(v) for v in smoothed(s, shipped.score)]) for s in people]
    return {"layout": layout, **report(people, predicted), "left_out": faults}
