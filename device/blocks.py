"""Samples on the board's own time line: what was lost is counted, what can't be trusted is left out. Pure.

A board numbers its packages; the time at which they reach us says little, because USB and Bluetooth
deliver in bursts. So the numbers are the clock, and a jump in them is a gap.

A serial line has no checksum: after lost bytes, 33 random bytes that happen to begin with A0 and end
with C0 are a package to the driver, with any value up to full scale (65 mV was seen). Such a package
does not count on from its neighbours. So a sample passes only if the count is unbroken on both sides
of it: two good samples fewer at each gap, and noise has to guess its place right to get through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counter:
    """How a board numbers its packages: `period` numbers, `step` apart, each on `samples` samples."""

    period: int = 256
    step: int = 1
    samples: int = 1


@dataclass(frozen=True)
class Block:
    """Consecutive samples: none is lost inside a block."""

    samples: NDArray[np.float32]  # [channels, n], uV
    first: int  # index of the first sample since connecting, the lost ones counted
    rate: float  # Hz
    names: list[str] = field(default_factory=list)
    gap: bool = False  # samples were lost, or the headset was reconnected, before this block
    settled: bool = True  # False while the electrodes' offsets still drift after connecting


Runs = list[tuple[int, NDArray[np.float32], bool]]


class TimeLine:
    """Places the packages of one connection. `counter` None: a board without usable numbers."""

    def __init__(self, counter: Counter | None, rate: float) -> None:
        self.lost = 0  # samples that never came or were not to be trusted, so far
        self._counter = counter
        self._rate = rate
        self._last: tuple[int, int] | None = None  # the last sample's number, and how many had it by then
        self._run = 0  # samples up to the last one that count on from each other
        self._place = 0  # of the last sample
        self._held: NDArray[np.float32] | None = None  # the last sample, until the next one vouches for it
        self._anchor: tuple[int, int, int] | None = None  # place, number, repeats of the last sample that another one vouches for
        self._tail = 0, 0  # number and repeats of the held sample
        self._missing = 0  # samples since the anchor that the numbers can't tell
        self._passed = -1  # place of the last sample given out

    def take(self, samples: NDArray[np.float32], numbers: NDArray[np.float64], silent: float) -> Runs:
        """Runs of unbroken samples, as (index of the first, samples [channels, n], gap before it).

        `samples` [channels, n] in uV and their package `numbers` [n]; `silent` is the time in s since
        the last call that had samples, which alone tells of lost whole periods of the counter.
        """
        if samples.shape[1] == 0:
            return []
        if self._counter is None:
            return self._by_time(samples, silent)
        joined, lost, repeats = self._compare(numbers)
        if self._last is not None:
            whole = self._counter.period // self._counter.step * self._counter.samples
            periods = int((silent * self._rate - len(numbers) - lost.sum()) / whole + 0.1)  # a tenth for the clock
            if periods > 0:
                self._missing += periods * whole
                joined[0] = False
        self._last = int(numbers[-1]), int(repeats[-1])
        out: Runs = []
        bounds = sorted({0, *np.flatnonzero(~joined).tolist(), len(numbers)})
        for begin, end in pairwise(bounds):
            if not joined[begin]:
                self._begin(int(numbers[begin]))
            out += self._extend(samples[:, begin:end], numbers[begin:end], repeats[begin:end])
        return out

    def _compare(self, numbers: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """For each sample: does it count on from the one before, how many are lost between, how many had its number."""
        c = self._counter
        assert c is not None
        number, repeat = self._last or (int(numbers[0]) - c.step, c.samples)
        if c.samples == 1:
            new_ones = numbers.astype(np.int64)
            steps = (new_ones - np.concatenate(([number], new_ones[:-1]))) % c.period
            repeats = np.ones(len(steps), np.int64)
        else:
            steps, repeats = np.empty((2, len(numbers)), np.int64)
            for i, new in enumerate(numbers.astype(int).tolist()):
                same = new == number and repeat < c.samples
                repeat = repeat + 1 if same else 1
                steps[i], repeats[i], number = (c.step if same else (new - number) % c.period), repeat, new
        lost = (-(-np.where(steps == 0, c.period, steps) // c.step) - 1) * c.samples
        joined = steps == c.step
        if self._last is None:
            joined[0] = False
        return joined, lost, repeats

    def _begin(self, number: int) -> None:
        """A run begins: its place follows from the last run that had more than one sample."""
        self._run, self._held, self._place = 0, None, 0
        if self._anchor is not None:
            c = self._counter
            assert c is not None
            place, last, repeats = self._anchor
            steps = -(-(((number - last) % c.period) or c.period) // c.step)
            self._place = place + steps * c.samples - repeats + 1 + self._missing

    def _extend(self, new: NDArray[np.float32], numbers: NDArray[np.float64], repeats: NDArray[np.int64]) -> Runs:
        """More samples of the run: all pass but its first (unless it is the connection's) and its last so far."""
        part = new if self._held is None else np.concatenate((self._held, new), axis=1)
        first = 1 if self._run <= 1 and self._anchor is not None else 0
        place = self._place + first
        passing = part[:, first:-1]
        self._run += new.shape[1]
        self._place += part.shape[1] - 1
        self._held = part[:, -1:].copy()
        if len(numbers) > 1:
            self._tail = int(numbers[-2]), int(repeats[-2])
        if self._run > 1:
            self._anchor, self._missing = (self._place - 1, *self._tail), 0
        self._tail = int(numbers[-1]), int(repeats[-1])
        return [self._pass(place, passing)] if passing.shape[1] else []

    def _pass(self, place: int, samples: NDArray[np.float32]) -> tuple[int, NDArray[np.float32], bool]:
        lost, self._passed = place - self._passed - 1, place + samples.shape[1] - 1
        self.lost += lost
        return place, samples.copy(), lost != 0

    def _by_time(self, samples: NDArray[np.float32], silent: float) -> Runs:
        """Without numbers, half a second more of silence than of samples is a gap."""
        missing = 0 if self._passed < 0 else round(silent * self._rate) - samples.shape[1]
        return [self._pass(self._passed + 1 + (missing if missing > self._rate / 2 else 0), samples)]
