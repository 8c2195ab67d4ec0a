"""turn.png: what was said and answered over time, the states behind it, the EEG beneath. It decides nothing."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device.states import LIGHTS, State
from device.turn import MIC_RATE, VOICE_RATE

if TYPE_CHECKING:
    from device.demo import Story


def draw(file: Path, story: Story, clips: list[Any], answers: list[tuple[float, Any]], eeg: Any) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    end = max([t for t, _ in story.states] + [1.0]) + 1.0
    figure, (talk, answer, brain) = plt.subplots(3, 1, figsize=(14, 8), sharex=True, height_ratios=(2, 2, 3))
    figure.suptitle("Bedside Companion: what was said, what was answered, and what the headset saw")
    _bands(story, end, (talk, answer, brain))
    pressed = [t for t, name in story.states if name == "listening"]
    for start, clip in zip(pressed, clips, strict=False):
        _wave(talk, start, clip, MIC_RATE, "#1f4e9c")
    for start, pcm in answers:
        _wave(answer, start, pcm, VOICE_RATE, "#0a7d7d")
    for turn, states in zip(story.turns, story.told, strict=True):
        _words(talk, states[0][0], turn.heard.text)
        spoken = [t for t, name in states if name in ("speaking", "alerting")]
        if spoken:
            _words(answer, spoken[0], turn.reply or f"[{turn.alert.message}]" if turn.alert else turn.reply)
    talk.set_ylabel("patient")
    answer.set_ylabel("companion")
    for axis in (talk, answer):
        axis.set_ylim(-1, 2.2)
        axis.set_yticks([])
    _eeg(brain, eeg, end)
    brain.set_xlabel("seconds since the demo began")
    start = max(0.0, (pressed[0] if pressed else 0.0) - 2.0)
    brain.set_xlim(start, end)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _bands(story: Story, end: float, axes: Any) -> None:
    """The light of each moment behind everything."""
    ends = [t for t, _ in story.states[1:]] + [end]
    seen = set()
    for (t, name), until in zip(story.states, ends, strict=True):
        for axis in axes:
            label = name if axis is axes[0] and name not in seen else None
            blinks = LIGHTS[State(name)].blink > 0  # hatched, as it looks beside the bed
            axis.axvspan(t, until, facecolor=LIGHTS[State(name)].rgb, alpha=0.13, hatch="//" if blinks else None, label=label)
        seen.add(name)
    axes[0].legend(loc="upper right", ncols=7, fontsize=8)


def _wave(axis: Any, start: float, pcm: Any, rate: int, colour: str) -> None:
    """Loudest sample of each 20 ms, both ways."""
    step = rate // 50
    rows = np.abs(pcm[: len(pcm) // step * step].astype(np.float32)).reshape(-1, step).max(axis=1) / 32768
    time = start + np.arange(len(rows)) / 50
    axis.fill_between(time, -rows, rows, color=colour, lw=0)


def _words(axis: Any, start: float, text: str) -> None:
    axis.text(start, 2.1, textwrap.fill(text, 42), fontsize=8, va="top")


def _eeg(axis: Any, eeg: Any, end: float) -> None:
    """The last minute of each channel, detrended, at a common scale."""
    window, rate, names = eeg
    if window is None or not window.shape[1]:
        axis.text(0.5, 0.5, "no headset", transform=axis.transAxes, ha="center")
        axis.set_yticks([])
        return
    time = end - 1.0 - np.arange(window.shape[1])[::-1] / rate
    gap = 150.0  # microvolts between two channels
    for row, channel in enumerate(window):
        smooth = channel - np.convolve(np.pad(channel, 125, mode="edge"), np.ones(251) / 251, "valid")[: len(channel)]
        axis.plot(time, np.clip(smooth, -gap, gap) - row * gap, lw=0.4, color="#444")
    axis.set_yticks([-row * gap for row in range(len(names))], names)
    axis.set_ylabel(f"EEG, {gap:.0f} µV apart")
