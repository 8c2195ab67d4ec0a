"""A quiet stretch of EEG as a baseline, and the file that keeps it beside the memory. It leads nobody and estimates nothing."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from device.baseline import NEEDED, Baseline, QuietMinute
from device.eeg_windows import Windows

if TYPE_CHECKING:
    from device.config import Settings


class BaselineError(Exception):
    """A baseline that can't be made or read; the message says what to do."""


@dataclass(frozen=True)
class Learnt:
    """What a quiet stretch gave: a baseline, or None, and how often which channel was refused (`O1 muscle`) of `offered` windows."""

    baseline: Baseline | None
    offered: int
    clean: int
    refusals: Counter[str]

    @property
    def lacks(self) -> str:
        """Why there is no baseline, or ""."""
        worst = ", ".join(f"{what} {count}" for what, count in self.refusals.most_common(4))
        short = f"{self.clean} of {self.offered} windows were clean, {NEEDED} are needed ({worst or 'too short'})"
        return "" if self.baseline else short


def learn(
    opened: NDArray[Any], closed: NDArray[Any], rate: float, names: Sequence[str], rail_uv: float, made: float
) -> Learnt:
    """From quiet EEG [channels, samples] in uV with eyes open, and with eyes closed (may be empty: reactivity is not tested).

    `made`: the time of day, in seconds since 1970, that the baseline counts from.
    """
    windows, quiet = Windows(names, rate, rail_uv), QuietMinute(names)
    offered, refusals = 0, Counter[str]()
    for part, eyes_closed in ((opened, False), (closed, True)):
        for window in windows.hear(part):
            quiet.take(window, eyes_closed)
            if not eyes_closed and window.channels:
                offered += 1
                refusals.update(f"{c.name} {c.fault}" for c in window.channels if window.refusal and c.fault)
    baseline = None if quiet.lacks else replace(quiet.baseline(), made=made)
    return Learnt(baseline, offered, len(quiet.opened), refusals)


def baseline_file(settings: Settings) -> Path:
    """In the folder of the device's state, beside its memory."""
    return Path(settings.memory.file).parent / "eeg-baseline.json"


def save(file: Path, baseline: Baseline) -> None:
    """A small JSON file, readable by its owner alone; an older one is replaced in one step. Raises BaselineError."""
    beside = file.with_name(file.name + ".new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as out:
            json.dump(baseline.to_dict(), out)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(file)
    except OSError as error:
        raise BaselineError(f"{file} can't be written ({error.strerror}): set memory.file to a folder that may be written to.") from None


def load(file: Path) -> Baseline:
    """Raises BaselineError."""
    try:
        baseline = Baseline.from_dict(json.loads(file.read_text(encoding="utf-8")))
        datetime.fromtimestamp(baseline.made)
    except OSError as error:
        raise BaselineError(f"{file}: {error.strerror}. 'bedside eeg baseline' makes one.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise BaselineError(f"{file} is not a baseline: 'bedside eeg baseline' makes one.") from None
    return baseline
