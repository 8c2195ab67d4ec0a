"""The time line from package numbers alone: what passes is in its place, and nothing else passes. Pure, so by property."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.blocks import Counter, TimeLine

RATE = 250.0
CYTON, DAISY, MUSE = Counter(), Counter(step=2), Counter(65_536, samples=12)


def numbered(counter: Counter, places: np.ndarray) -> np.ndarray:
    return (places // counter.samples * counter.step) % counter.period


def through(line: TimeLine, places: np.ndarray, numbers: np.ndarray, cuts: list[int]) -> list[tuple[int, np.ndarray, bool]]:
    """What comes out of `line` when one channel whose samples are their own places comes in, cut into calls."""
    out = []
    for part, count in zip(np.split(places, cuts), np.split(numbers, cuts), strict=True):
        out += line.take(part[None].astype(np.float32), count.astype(float), len(part) / RATE)
    return out


@pytest.mark.parametrize("counter", [CYTON, DAISY, MUSE, None])
@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 900), max_size=20).map(sorted))
def test_an_unbroken_stream_is_passed_on_whole(counter: Counter | None, cuts: list[int]) -> None:
    """However it is cut into calls, all but the last sample, which has no successor yet, and no gap."""
    places = np.arange(900)
    line = TimeLine(counter, RATE)
    runs = through(line, places, numbered(counter or CYTON, places), cuts)
    passed = np.concatenate([samples[0] for _, samples, _ in runs])
    assert passed.tolist() == places[: 899 if counter else 900].tolist()
    assert [samples[0, 0] for _, samples, _ in runs] == [first for first, _, _ in runs]
    assert not any(gap for _, _, gap in runs)
    assert line.lost == 0


@pytest.mark.parametrize("counter", [CYTON, DAISY, MUSE])
@settings(max_examples=25)
@given(
    lost=st.lists(st.tuples(st.integers(1, 55), st.integers(1, 3)), min_size=1, max_size=3, unique_by=lambda pair: pair[0]),
    cuts=st.lists(st.integers(0, 400), max_size=20).map(sorted),
)
def test_lost_packages_are_gaps_and_every_sample_keeps_its_place(counter: Counter, lost: list[tuple[int, int]], cuts: list[int]) -> None:
    """Whole packages are lost anywhere: what passes is where it belongs, and each jump is told as a gap."""
    places = np.arange(60 * 12)
    gone = {package for begin, count in lost for package in range(begin, begin + count)}
    places = places[~np.isin(places // 12, list(gone))]
    runs = through(TimeLine(counter, RATE), places, numbered(counter, places), [c for c in cuts if c < len(places)])
    last = -1
    for first, samples, gap in runs:
        assert samples[0].tolist() == list(range(first, first + samples.shape[1]))
        assert gap == (first != last + 1)
        last = first + samples.shape[1] - 1
    edges = sum(1 for package in gone if package - 1 not in gone and package < 60)
    assert sum(samples.shape[1] for _, samples, _ in runs) >= len(places) - 2 * edges - 1


@settings(max_examples=25)
@given(
    at=st.integers(2, 290), number=st.integers(0, 255), ate=st.integers(0, 20), cuts=st.lists(st.integers(0, 280), max_size=9).map(sorted)
)
def test_a_package_made_of_noise_does_not_pass(at: int, number: int, ate: int, cuts: list[int]) -> None:
    """Whatever number it claims, and however many good ones it swallowed: only its neighbours go with it."""
    places = np.arange(600)
    numbers = numbered(CYTON, places)
    keep = np.r_[places[:at], -1, places[at + ate :]]
    counted = np.r_[numbers[:at], number, numbers[at + ate :]]
    runs = through(TimeLine(CYTON, RATE), keep, counted, cuts)
    passed = np.concatenate([samples[0] for _, samples, _ in runs])
    fits = ate == 1 and number == at % 256  # a perfect forgery: no count can tell it
    assert fits or -1 not in passed
    for first, samples, _ in runs:
        assert fits or samples[0].tolist() == list(range(first, first + samples.shape[1]))


def test_whole_periods_of_the_counter_are_told_by_the_clock() -> None:
    """A silence of 1.1 s after which the count goes on as if nothing were lost: 256 samples are."""
    line = TimeLine(CYTON, RATE)
    line.take(np.zeros((1, 100), np.float32), np.arange(100.0), 0.4)
    ((first, _, gap),) = line.take(np.zeros((1, 20), np.float32), np.arange(100.0, 120.0), 1.1)
    assert (first, gap) == (357, True)
    assert line.take(np.zeros((1, 300), np.float32), np.arange(120.0, 420.0) % 256, 1.2)[0][2] is False


def test_a_board_without_numbers_is_timed() -> None:
    line = TimeLine(None, RATE)
    block = np.zeros((1, 50), np.float32)
    assert line.take(block, np.zeros(50), 5.0)[0][::2] == (0, False)
    assert line.take(block, np.zeros(50), 0.3)[0][::2] == (50, False)
    assert line.take(block, np.zeros(50), 1.2)[0][::2] == (350, True)
