"""One way to train a part of the codec: for so many minutes, from where it stopped, with its losses in a log."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

RISE, END = 100, 0.05  # steps to the full rate; share of it at the last step


def rate_at(step: int, steps: int, top: float) -> float:
    """The learning rate: up in a line to `top`, down in half a cosine."""
    if step < RISE:
        return top * (step + 1) / RISE
    return top * (END + (1 - END) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


class Half(Protocol):
    device: str
    step: int
    steps: int

    def learn(self, *given: Tensor) -> dict[str, float]: ...
    def save(self, file: Path) -> None: ...
    def load(self, file: Path) -> None: ...


class Data(Protocol):
    def draw(self) -> tuple[Tensor, ...]: ...


def train(half: Half, data: Data, file: Path, minutes: float, every: int = 100) -> None:
    """Until all steps are done, or for `minutes`. The state goes into `file`, mean losses beside it into FILE.jsonl."""
    file.parent.mkdir(parents=True, exist_ok=True)
    began, sums = time.monotonic(), dict[str, float]()
    while half.step < half.steps and time.monotonic() - began < 60 * minutes:
        for name, value in half.learn(*(part.to(half.device) for part in data.draw())).items():
            sums[name] = sums.get(name, 0.0) + value
        if half.step % every == 0 or half.step == half.steps:
            line: dict[str, Any] = {"step": half.step, "seconds": round(time.monotonic() - began, 1)}
            line |= {name: round(value / every, 4) for name, value in sums.items()}
            with file.with_suffix(".jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
            sums.clear()
        if half.step % (5 * every) == 0:
            half.save(file)
    half.save(file)
