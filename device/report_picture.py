"""The picture of a report: events, quality, band powers and trajectory on one axis of time. It judges nothing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.recording import GAP, LOST
from device.review import VERDICTS, Array, Review

COLUMNS = 1200  # of a picture; longer recordings are drawn in bins
_FILLS = ("#bfe0d2", "#f4c95d", "#e8894a", "#9b7fc7", "#c9b79c", "#8d99a6", "#55606e", "#b3372f", "#f3f3f3", "#ffffff")
COLOURS = dict(zip(VERDICTS, _FILLS, strict=True))
LEGEND: dict[str, Any] = {"fontsize": 8.5, "frameon": False, "borderpad": 0.1}
BESIDE: dict[str, Any] = {**LEGEND, "loc": "center left", "bbox_to_anchor": (1.005, 0.5), "handlelength": 1.0, "handletextpad": 0.4}
WORDS = {"waiting": "first seconds", "no signal": "no signal"}
INK, SOFT, BLANK = "#22303c", "#6b7885", "#eef0f2"
RELAXED, ENGAGED = "#1c6e8c", "#a3541f"
BAND_COLOURS = {"theta": "#7a6fb0", "alpha": "#1c6e8c", "beta": "#c2803a"}
BAND_WORDS = {"theta": "theta, 4–8 Hz", "alpha": "alpha, 8–13 Hz", "beta": "beta, 13–30 Hz"}
# Text before ":" of a mark -> (word, colour, marker); what is no such mark is a grey tick.
EVENTS = {
    "press": ("press", "#1f4e9c", "v"),
    "reply": ("reply", "#0a7d7d", "o"),
    "alert": ("alert", "#b3261e", "D"),
    "call button": ("call button", "#b3261e", "^"),
}


def draw(seen: Review, figures: list[tuple[str, str, str]], caution: str) -> bytes:
    """The picture as PNG. `figures` (large, what it is, why) and `caution` stand above it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = len(seen.names)
    heights = [0.55, 0.2 * rows + 0.25, 1.5, 1.7, 1.1]
    style = {"font.family": "DejaVu Sans", "font.size": 10, "axes.edgecolor": "#c5ccd3", "text.color": INK, "axes.labelcolor": INK}
    with plt.rc_context(style):
        size = (14, sum(heights) + 4.3)
        figure = plt.figure(figsize=size)
        room = {"left": 0.115, "right": 0.905, "top": 1 - 2.25 / size[1], "bottom": 0.95 / size[1]}
        grid = figure.add_gridspec(5, 1, height_ratios=heights, hspace=0.42, **room)
        axes = [figure.add_subplot(grid[0])]
        axes += [figure.add_subplot(grid[i], sharex=axes[0]) for i in range(1, 5)]
        _heading(figure, figures, caution, size[1])
        scale, unit = _time(seen.seconds)
        axes[0].set_xlim(0, seen.seconds / scale)
        _events(axes[0], seen, scale)
        _quality(axes[1], seen, scale)
        _bands(axes[2], seen, scale)
        _trajectory(axes[3], seen.relaxation, seen, scale, "Relaxation", RELAXED, ("more relaxed", "less relaxed"))
        _trajectory(axes[4], seen.engagement, seen, scale, "Engagement", ENGAGED, ("more engaged", "less engaged"))
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(length=0, colors=SOFT, labelbottom=axis is axes[-1])
        _lines(axes[1:], seen, scale)
        axes[-1].tick_params(axis="x", length=3)
        axes[-1].set_xlabel(f"{unit} since {seen.began:%H:%M:%S}", color=SOFT)
        legend = "Grey: left blank, because the signal did not support an estimate."
        figure.text(0.115, 0.2 / size[1], f"{seen.reference}  {legend}", fontsize=9, color=SOFT)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, facecolor="white")
        plt.close(figure)
    return out.getvalue()


def _time(seconds: int) -> tuple[float, str]:
    """(seconds in a unit of the axis, its name)."""
    return (1.0, "seconds") if seconds < 180 else (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def _heading(figure: Any, figures: list[tuple[str, str, str]], caution: str, height: float) -> None:
    top = 1 - 0.36 / height
    figure.text(0.03, top, "EEG session: was the signal good, and what did it support?", fontsize=17, weight="bold", va="center")
    figure.text(0.03, top - 0.33 / height, caution, fontsize=10, color="#9a2f28", va="center")
    for column, (large, what, why) in enumerate(figures):
        left = 0.03 + column * 0.196
        figure.text(left, top - 0.83 / height, large, fontsize=19, weight="bold", color=RELAXED, va="center")
        figure.text(left, top - 1.13 / height, what, fontsize=9, va="center")
        figure.text(left, top - 1.33 / height, why, fontsize=8.5, color=SOFT, va="center")


def _title(axis: Any, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10.5, weight="bold", pad=5)


def _events(axis: Any, seen: Review, scale: float) -> None:
    _title(axis, "At the bedside")
    axis.set(ylim=(0, 1), yticks=[])
    axis.spines["left"].set_visible(False)
    shown = set()
    for mark in seen.marks:
        text = mark.text.split(":")[0]
        if text in EVENTS:
            word, colour, shape = EVENTS[text]
            axis.plot(mark.onset / scale, 0.45, shape, color=colour, ms=7, label=None if text in shown else word, clip_on=False)
            shown.add(text)
        elif text not in (GAP.split(":")[0], LOST, "release", "ready"):
            axis.axvline(mark.onset / scale, color=SOFT, lw=0.8)
            axis.annotate(mark.text[:24], (mark.onset / scale, 0.5), xytext=(3, 0), textcoords="offset points", fontsize=7.5, color=SOFT)
    if shown:
        axis.legend(**BESIDE, labelspacing=0.2)


def _lines(axes: list[Any], seen: Review, scale: float) -> None:
    """Each press and alert down through what the headset saw, unless there are too many to tell apart."""
    found = [mark for mark in seen.marks if mark.text.split(":")[0] in ("press", "alert")]
    for mark in found if len(found) <= 60 else []:
        for axis in axes:
            axis.axvline(mark.onset / scale, color=EVENTS[mark.text.split(":")[0]][1], lw=0.9, alpha=0.45)


def _binned(verdicts: NDArray[np.int8]) -> NDArray[np.int8]:
    """The most frequent verdict of each bin, at most COLUMNS of them."""
    step = -(-verdicts.shape[1] // COLUMNS)
    if step == 1:
        return verdicts
    short = verdicts[:, : verdicts.shape[1] // step * step].reshape(len(verdicts), -1, step)
    return np.asarray(np.stack([(short == code).sum(axis=2) for code in range(len(VERDICTS))]).argmax(axis=0), np.int8)


def _mean(values: Array, seconds: int) -> tuple[Array, Array]:
    """(second, mean of the values there) in bins; NaN where more than half of a bin has none, so that a blank stays one."""
    step = -(-max(1, seconds) // COLUMNS)
    short = values[: len(values) // step * step].reshape(-1, step)
    there = np.isfinite(short)
    total = np.where(there, short, 0).sum(axis=1)
    mean = np.where(there.mean(axis=1) >= 0.5, total / np.maximum(1, there.sum(axis=1)), np.nan)
    return np.asarray((np.arange(len(short)) + 0.5) * step, np.float64), np.asarray(mean, np.float64)


def _quality(axis: Any, seen: Review, scale: float) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    _title(axis, "Signal of each channel")
    palette = ListedColormap([COLOURS[verdict] for verdict in VERDICTS])
    extent = (0, seen.seconds / scale, len(seen.names) - 0.5, -0.5)
    limits = {"vmin": -0.5, "vmax": len(VERDICTS) - 0.5}
    axis.imshow(_binned(seen.verdicts), cmap=palette, **limits, aspect="auto", interpolation="nearest", extent=extent)
    missing = (_binned(seen.verdicts) == VERDICTS.index("no signal")).all(axis=0)
    width = seen.seconds / scale / len(missing)
    for begin, end in _stretches(missing):
        axis.axvspan(begin * width, end * width, facecolor="white", edgecolor="#c3cbd2", hatch="////", lw=0)
    for row in range(1, len(seen.names)):
        axis.axhline(row - 0.5, color="white", lw=1.5)
    axis.set_yticks(range(len(seen.names)), seen.names, fontsize=9)
    for row, share in enumerate(seen.clean()):
        colour = INK if share >= 0.5 else "#9a2f28"
        axis.text(1.008, row, f"{share:.0%} clean", transform=axis.get_yaxis_transform(), fontsize=8.5, va="center", color=colour)
    there = [VERDICTS[code] for code in np.unique(seen.verdicts)]
    hatch = {"no signal": "/////"}
    patches = [Patch(facecolor=COLOURS[v], edgecolor="#b5bdc5", lw=0.5, hatch=hatch.get(v), label=WORDS.get(v, v)) for v in there]
    above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": len(there), "handlelength": 1.1, "columnspacing": 1.2}
    axis.legend(handles=patches, **LEGEND, **above)


def _stretches(there: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(begin, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _smooth(values: Array, width: int) -> Array:
    """Mean of up to `width` values around each one that is there; a blank stays a blank, and nothing crosses it."""
    out = np.full(len(values), np.nan)
    for begin, end in _stretches(np.isfinite(values)):
        kernel = np.ones(min(width, end - begin))
        out[begin:end] = np.convolve(values[begin:end], kernel, "same") / np.convolve(np.ones(end - begin), kernel, "same")
    return out


def _blanks(axis: Any, values: Array, seen: Review, scale: float) -> None:
    """Grey where there is no value."""
    time, mean = _mean(values, seen.seconds)
    step = time[0] * 2 / scale
    for begin, end in _stretches(np.isnan(mean)):
        axis.axvspan(begin * step, min(end * step, seen.seconds / scale), color=BLANK, lw=0, zorder=0)


def _bands(axis: Any, seen: Review, scale: float) -> None:
    _title(axis, "Band powers, middle one of the clean channels (µV rms)")
    _blanks(axis, seen.bands["alpha"], seen, scale)
    for name, values in seen.bands.items():
        time, mean = _mean(_smooth(values, max(5, seen.seconds // 150)), seen.seconds)
        axis.plot(time / scale, mean, color=BAND_COLOURS[name], lw=1.6, label=BAND_WORDS[name], marker=".", ms=1.5)
    axis.set_ylim(bottom=0)
    axis.legend(**BESIDE)


def _trajectory(axis: Any, values: Array, seen: Review, scale: float, title: str, colour: str, ends: tuple[str, str]) -> None:
    _title(axis, f"{title}, relative to the wearer’s own quiet baseline")
    _blanks(axis, values, seen, scale)
    axis.axhline(0, color="#9aa5b0", lw=1, ls=(0, (4, 3)))
    axis.set(ylim=(-1.05, 1.05), yticks=[0.9, 0, -0.9])
    axis.set_yticklabels([ends[0], "own baseline", ends[1]], fontsize=8.5)
    time, raw = _mean(values, seen.seconds)
    axis.plot(time / scale, raw, ".", color=colour, ms=2, alpha=0.35)
    time, mean = _mean(_smooth(values, max(10, seen.seconds // 100)), seen.seconds)
    axis.plot(time / scale, mean, color=colour, lw=2.2, marker=".", ms=2)
    if not np.isfinite(values).any():
        patch = {"facecolor": BLANK, "edgecolor": "none"}  # over the dashed line
        middle = {"zorder": 5, "ha": "center", "va": "center", "transform": axis.transAxes}
        axis.text(0.5, 0.5, "not estimated in this recording", color=SOFT, fontsize=11, bbox=patch, **middle)
