"""turn.png: what was said and answered over time, the states behind it, the EEG beneath. It decides nothing."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device.eeg_filter import band_pass
from device.states import LIGHTS, State
from device.turn import MIC_RATE, VOICE_RATE

if TYPE_CHECKING:
    from device.demo import Story

STRIP = 30.0  # seconds in one row of the picture
GAP = 100.0  # microvolts between two channels
PATIENT, COMPANION = "#1f4e9c", "#0a7d7d"


def draw(file: Path, story: Story, clips: list[Any], answers: list[tuple[float, Any]]) -> None:
    """One strip for every 30 s: voices above, EEG below. `answers` is (second, int16 samples at 24 kHz)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    pressed = [t for t, name in story.states if name == "listening"]
    start = max(0.0, (pressed[0] if pressed else 0.0) - 1.0)
    end = max([t for t, _ in story.states] + [start + 1.0]) + 0.5
    rows = math.ceil((end - start) / STRIP)
    size, heights = (15, 4.2 * rows + 0.8), (3, 2) * rows
    figure, axes = plt.subplots(2 * rows, 1, figsize=size, height_ratios=heights, squeeze=False, layout="constrained")
    figure.suptitle("Bedside Companion: what was said (blue), what was answered (teal), and what the headset saw", fontsize=12)
    for row in range(rows):
        talk, brain = axes[2 * row][0], axes[2 * row + 1][0]
        left = start + row * STRIP
        for axis in (talk, brain):
            axis.set_xlim(left, left + STRIP)
            _bands(axis, story, end)
        for second, clip in zip(pressed, clips, strict=False):
            _wave(talk, second, clip, MIC_RATE, PATIENT)
        for second, pcm in answers:
            _wave(talk, second, pcm, VOICE_RATE, COMPANION)
        _captions(talk, story, left)
        talk.set(ylim=(-2.2, 2.6), yticks=[], xticks=[])
        _eeg(brain, story)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
    axes[-1][0].set_xlabel("seconds since the demo began")
    figure.savefig(file, dpi=75)
    plt.close(figure)


def _bands(axis: Any, story: Story, end: float) -> None:
    """The light of each moment; hatched where it blinks."""
    ends = [t for t, _ in story.states[1:]] + [end]
    seen = set()
    for (t, name), until in zip(story.states, ends, strict=True):
        shown = LIGHTS[State(name)]
        label = None if name in seen else f"{name} ({shown.words})"
        hatch = "//" if shown.blink else None
        axis.axvspan(t, until, facecolor=(*shown.rgb, 0.13), edgecolor=(0, 0, 0, 0.15), hatch=hatch, lw=0, label=label)
        seen.add(name)


def _wave(axis: Any, start: float, pcm: Any, rate: int, colour: str) -> None:
    """Loudest sample of each 20 ms, both ways."""
    step = rate // 50
    rows = np.abs(pcm[: len(pcm) // step * step].astype(np.float32)).reshape(-1, step).max(axis=1) / 32768
    time = start + np.arange(len(rows)) / 50
    axis.fill_between(time, -rows, rows, color=colour, lw=0)


def _captions(axis: Any, story: Story, left: float) -> None:
    """The words of each turn that begins in this strip, as wide as the time they took."""
    for turn, states in zip(story.turns, story.told, strict=True):
        answered = [t for t, name in states if name in ("speaking", "alerting")]
        reply = turn.reply or (f"[recorded message: {turn.alert.message}]" if turn.alert else "")
        if left <= states[0][0] < left + STRIP:
            _caption(axis, states[0][0], min(states[-1][0], left + STRIP), 2.5, turn.heard.text, PATIENT)
        if answered and left <= answered[0] < left + STRIP:
            _caption(axis, answered[0], min(states[-1][0], left + STRIP), -0.95, reply, COMPANION)


def _caption(axis: Any, begin: float, end: float, height: float, text: str, colour: str) -> None:
    letters = max(18, int((end - begin) * 6.5))  # 6.5 letters of this size to a second of this width
    axis.text(begin + 0.1, height, textwrap.fill(text, letters), fontsize=8, va="top", color=colour, clip_on=True)


def _eeg(axis: Any, story: Story) -> None:
    """Each channel as the estimate sees it: 1 to 45 Hz, mains notched."""
    names: list[str] = []
    drawn = 0.0  # the windows overlap: each adds what is new
    for ended, (window, rate, channels) in story.eeg:
        if window is None:
            continue
        names = channels
        for row, channel in enumerate(window):
            clean = band_pass(channel.astype(np.float64), rate)
            edge = (len(channel) - len(clean)) // 2  # the filter's own ends are left out
            time = ended - (np.arange(len(clean))[::-1] + edge) / rate
            new = time > drawn
            axis.plot(time[new], np.clip(clean[new], -GAP, GAP) - row * GAP, lw=0.3, color="#333")
        drawn = ended - edge / rate
    axis.set_yticks([-row * GAP for row in range(len(names))], names, fontsize=7)
    axis.set_ylim(-(max(1, len(names)) - 0.3) * GAP, 0.7 * GAP)
    axis.set_ylabel(f"EEG, {GAP:.0f} µV apart" if names else "no headset", fontsize=8)
