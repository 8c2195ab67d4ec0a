"""How loud a recording is, and what a technician should do about it. Pure: it knows no card.

All levels are in dB of full scale: 0 is as loud as int16 goes, speech at a good gain is at -35 to -15.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

NOTHING = -120.0  # dB; digital silence has no logarithm
SILENT = -90.0  # dB of a peak: one step of int16, which is all that a resampler's dither makes of digital silence
CLIPPED = 32_000  # of 32,767: where a converter is at its end
PIECE = 0.1  # s; the floor is judged by pieces of this length
MINUTE = 60.0  # s of a microphone whose level is always known


@dataclass(frozen=True)
class Level:
    """`rms` and `peak` of the whole, `floor` of its softest tenth, all in dB; `clipped` is a share of the samples, 0 to 1."""

    rms: float
    peak: float
    floor: float
    clipped: float


def level(pcm: np.ndarray, rate: int) -> Level:
    """Of int16 samples (n,). An empty recording is digital silence."""
    if not len(pcm):
        return Level(NOTHING, NOTHING, NOTHING, 0.0)
    size = max(1, round(PIECE * rate))
    sound = pcm.astype(np.float64) / 32768
    pieces = sound[: len(sound) // size * size].reshape(-1, size) if len(sound) >= size else sound[None]
    softest = float(np.quantile(np.sqrt((pieces**2).mean(axis=1)), 0.1))
    clipped = float((np.abs(pcm.astype(np.int32)) >= CLIPPED).mean())
    return Level(decibels(float(np.sqrt((sound**2).mean()))), decibels(float(np.abs(sound).max())), decibels(softest), clipped)


class Meter:
    """How loud a microphone was over its last `blocks` blocks. It keeps three numbers of each, and no sound."""

    def __init__(self, blocks: int) -> None:
        self._blocks: deque[tuple[float, float, float]] = deque(maxlen=blocks)  # power, peak, share clipped

    def hear(self, pcm: np.ndarray) -> None:
        """int16 samples (n,), n at least 1. Took 8 us for 1920 on a core of a Xeon."""
        sound = np.abs(pcm.astype(np.float32))
        self._blocks.append((float(sound @ sound) / len(sound) / 32768**2, float(sound.max()) / 32768, float((sound >= CLIPPED).mean())))

    def level(self) -> Level | None:
        """None before the first block. From any thread."""
        if not (blocks := tuple(self._blocks)):
            return None
        power, peak, clipped = np.array(blocks).T
        softest = float(np.quantile(np.sqrt(power), 0.1))
        return Level(decibels(float(np.sqrt(power.mean()))), decibels(float(peak.max())), decibels(softest), float(clipped.mean()))


def decibels(amplitude: float) -> float:
    """20 log10, and NOTHING for nothing."""
    return NOTHING if amplitude <= 1e-6 else 20 * float(np.log10(amplitude))


def tone(pcm: np.ndarray, rate: int, hertz: float) -> float:
    """How loud a steady tone of `hertz` is in int16 samples (n,), in dB: its own level, whatever else is heard."""
    if not len(pcm):
        return NOTHING
    sound = pcm.astype(np.float64) / 32768 * np.hanning(len(pcm))
    turn = np.exp(-2j * np.pi * hertz * np.arange(len(pcm)) / rate)
    return decibels(float(np.abs(sound @ turn)) / np.hanning(len(pcm)).sum() * np.sqrt(2))


@dataclass(frozen=True)
class Rule:
    """What is wrong when `holds`(quiet, speech), and the way out. Some rules need no speech."""

    holds: Callable[[Level, Level], bool]
    says: str
    speech: bool = True


# The first that holds is said; each hides what follows.
RULES = (
    Rule(
        lambda quiet, _: quiet.peak <= SILENT,
        "The microphone gives digital silence: it is muted in the mixer (alsamixer, F4), switched off, or audio.input names another.",
        speech=False,
    ),
    Rule(lambda quiet, _: quiet.clipped > 0.001, "Silence clips: the capture gain is far too high, or the cable hums.", speech=False),
    Rule(
        lambda quiet, _: quiet.floor > -45,
        "The room or the gain is loud: {quiet.floor:.0f} dB without speech, where -50 and below is good. "
        "Lower the capture gain, or move the microphone away from fans.",
        speech=False,
    ),
    Rule(
        lambda _, speech: speech.clipped > 0.001,
        "Speech clips ({speech.clipped:.1%} of it): lower the capture gain by 6 dB and measure again.",
    ),
    Rule(
        lambda quiet, speech: speech.rms - quiet.rms < 10,
        "Speech is only {gain:.0f} dB above the room, where 15 and more is good: bring the microphone nearer, or speak up.",
    ),
    Rule(lambda _, speech: speech.rms < -42, "Speech is soft ({speech.rms:.0f} dB, where -35 to -15 is good): raise the capture gain."),
)


def advice(quiet: Level, speech: Level | None = None) -> str:
    """What to do about the microphone, or "" where it is good. `quiet`: while nobody spoke."""
    for rule in RULES:
        if speech is None and rule.speech:
            continue
        heard = speech or quiet
        if rule.holds(quiet, heard):
            return rule.says.format(quiet=quiet, speech=heard, gain=heard.rms - quiet.rms)
    return ""


def advice_of(heard: Level) -> str:
    """The same of what was heard in a while, whoever spoke in it or not: only its softest tenth is taken for the room."""
    if wrong := advice(replace(heard, clipped=0.0)):
        return wrong
    clips = heard.clipped > 0.001
    return f"The microphone clips ({heard.clipped:.1%} of what it heard): lower the capture gain by 6 dB." if clips else ""
