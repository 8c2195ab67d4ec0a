"""The one place of recording, report and commands that knows affect.py: blocks in, a verdict a second out.

`Judge` has the shape of affect.py's coming Estimator, whose name will stand in its place; `learn` and `load` likewise for its
baseline. Until then it asks the windowed functions of today once a second.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.affect import POSTERIOR, WINDOW_SECONDS, Baseline, Channel, estimate, inspect, refused
from device.turn import Affect

REACTIVE = 1.3  # alpha with eyes closed over open on at least one posterior channel; some people have little
CLOSED_WINDOWS = 8  # clean ones, without which alpha reactivity can't be judged

# What a technician can do something about, in the order of the words that affect.py's faults may hold.
KINDS: dict[str, tuple[str, ...]] = {
    "railed": ("railed",),
    "no contact": ("contact", "lead"),
    "flat": ("flat",),
    "mains": ("mains", "50 hz", "60 hz"),
    "muscle": ("muscle", "emg"),
    "moving": ("swing", "mov", "blink", "motion"),
    "waiting": ("has only", "missing", "no signal", "waiting"),
}


class BaselineError(Exception):
    """A baseline that can't be made or read; the message says what to do."""


def kind(fault: str) -> str:
    """railed, no contact, flat, mains, muscle, moving, waiting or poor; empty for a clean channel."""
    if not fault:
        return ""
    return next((name for name, words in KINDS.items() if any(word in fault.lower() for word in words)), "poor")


class Judge:
    """Hear samples as they come; one Affect for each second of them, and the channels' quality now."""

    def __init__(self, names: Sequence[str], rate: float, rail_uv: float, baseline: Baseline | None = None) -> None:
        self._names, self._rate, self._rail, self._baseline = list(names), rate, rail_uv, baseline
        self._window: NDArray[np.float32] = np.zeros((len(self._names), 0), np.float32)
        self._since = 0
        self._channels = [Channel(name, "waiting for the first seconds") for name in self._names]

    def hear(self, samples: NDArray[np.float32], gap: bool = False) -> list[Affect]:
        """`samples` [channels, n] in uV; `gap`: some before them are missing. One Affect a second."""
        if gap:
            self._window, self._since = self._window[:, :0], 0
        out, at, size, second = [], 0, round(WINDOW_SECONDS * self._rate), round(self._rate)
        while at < samples.shape[1]:
            part = samples[:, at : at + second - self._since]
            at, self._since = at + part.shape[1], self._since + part.shape[1]
            self._window = np.concatenate([self._window, part], axis=1)[:, -size:]
            if self._since == second:
                self._since = 0
                self._channels = inspect(self._window, self._rate, self._names, self._baseline, self._rail)
                out.append(estimate(self._window, self._rate, self._baseline, self._names, self._rail))
        return out

    def quality(self) -> list[Channel]:
        """Of each channel over the newest 4 s: `.name`, and `.fault`, empty for a clean one."""
        return self._channels


@dataclass(frozen=True)
class Learnt:
    """A baseline, and what was seen on the way. `seen` is None where alpha reactivity could not be judged."""

    baseline: Baseline
    offered: int
    refusals: dict[str, int]
    ratios: dict[str, float] = field(default_factory=dict)  # alpha above 1/f, eyes closed over open

    @property
    def seen(self) -> bool | None:
        return max(self.ratios.values()) >= REACTIVE if self.ratios else None


def learn(opened: NDArray[np.float32], closed: NDArray[np.float32], rate: float, names: Sequence[str], rail_uv: float) -> Learnt:
    """From quiet EEG [channels, samples] in uV with eyes open, and with eyes closed (may be empty: reactivity is not judged)."""
    baseline, refusals = Baseline(), dict[str, int]()
    windows = _windows(opened, rate)
    for window in windows:
        why = baseline.collect(window, rate, names, rail_uv)
        for channel in inspect(window, rate, names, rail_uv=rail_uv) if why else ():
            if channel.fault:
                refusals[f"{channel.name} {kind(channel.fault)}"] = refusals.get(f"{channel.name} {kind(channel.fault)}", 0) + 1
    alpha: dict[str, list[float]] = {}
    for window in _windows(closed, rate):
        channels = inspect(window, rate, names, rail_uv=rail_uv)
        if not refused(channels):
            for channel in channels:
                if not channel.fault:
                    alpha.setdefault(channel.name, []).append(channel.alpha)
    usual = {name: baseline.alpha(name) for name in alpha if name.lower() in POSTERIOR}
    ratios = {n: 10 ** (float(np.median(alpha[n])) - u[0]) for n, u in usual.items() if u and len(alpha[n]) >= CLOSED_WINDOWS}
    return Learnt(baseline, len(windows), refusals, ratios)


def _windows(samples: NDArray[np.float32], rate: float) -> list[NDArray[np.float32]]:
    size, hop = round(WINDOW_SECONDS * rate), round(rate)
    return [samples[:, at : at + size] for at in range(0, samples.shape[1] - size + 1, hop)]


def save(file: Path, learnt: Learnt, board: str, rate: float) -> None:
    """The baseline as a small JSON file, readable by its owner alone; an older one is replaced in one step."""
    channels = {
        name: {"alpha": [round(v, 4) for v in learnt.baseline._alpha[name]], "muscle": [round(v, 4) for v in learnt.baseline._muscle[name]]}
        for name in learnt.baseline._alpha
    }
    reactivity = {None: "not judged", True: "seen", False: "not seen"}[learnt.seen]
    ratios = {name: round(value, 3) for name, value in learnt.ratios.items()}
    made = datetime.now().isoformat(timespec="seconds")
    tree = {"made": made, "board": board, "rate": rate, "windows": learnt.baseline.windows}
    tree |= {"alpha_reactivity": reactivity, "alpha_closed_over_open": ratios, "channels": channels}
    beside = file.with_name(file.name + ".new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as out:
            json.dump(tree, out)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    except OSError as error:
        raise BaselineError(f"{file} can't be written ({error.strerror}): set memory.file to a folder that may be written to.") from None


def load(file: Path) -> tuple[Baseline, dict[str, Any]]:
    """The baseline and all that its file says. Raises BaselineError."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        baseline = Baseline()
        baseline.windows = int(tree["windows"])
        for name, values in tree["channels"].items():
            for kept, what in ((baseline._alpha, "alpha"), (baseline._muscle, "muscle")):
                kept[name] = deque((float(v) for v in values[what]), maxlen=baseline._keep)
        datetime.fromisoformat(tree["made"])
    except OSError as error:
        raise BaselineError(f"{file}: {error.strerror}. 'bedside eeg baseline' makes one.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BaselineError(f"{file} is not a baseline: 'bedside eeg baseline' makes one.") from None
    return baseline, tree
