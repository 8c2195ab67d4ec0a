"""The limiter in front of the speaker: never too loud, never a click, and the quiet as it was."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from device.config import FIRMWARE
from device.limiter import AHEAD, CEILING, Limiter
from device.sounds import load
from device.turn import FRAME

RATE = 48_000


def limited(sound: np.ndarray, cuts: Iterable[int] = (), rate: int = RATE) -> np.ndarray:
    limiter = Limiter(rate)
    pieces = [limiter.limit(piece) for piece in np.split(sound, list(cuts))]
    return np.concatenate([*pieces, limiter.flush()])


def voice(loudest: float, seconds: float = 2.0) -> np.ndarray:
    """Two tones that swell and fade twice a second."""
    at = np.arange(int(seconds * RATE)) / RATE
    sound = (np.sin(2 * np.pi * 180 * at) + 0.5 * np.sin(2 * np.pi * 470 * at)) * (1.1 + np.sin(2 * np.pi * 2 * at))
    return sound / np.abs(sound).max() * loudest


def frames(sound: np.ndarray) -> range:
    return range(2 * FRAME, len(sound), 2 * FRAME)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_no_sample_is_above_the_ceiling_whatever_comes(rate: int) -> None:
    """Noise four times full scale, a click, a square at int16's ends, and a word that begins at its loudest."""
    chance = np.random.default_rng(0)
    click = np.zeros(rate // 4)
    click[rate // 8] = 90_000
    square = np.repeat(np.array([32767, -32768] * 100, np.int16), 50)
    for sound in (chance.normal(0, 40_000, rate), click, square, np.full(rate // 10, -32768, np.int16), np.full(1, 60_000)):
        for cuts in ((), range(FRAME, len(sound), FRAME), range(7, len(sound), 1001)):
            out = limited(sound, cuts, rate)
            assert (len(out), out.dtype) == (len(sound), np.int16)
            assert np.abs(out.astype(int)).max() <= CEILING
            assert np.abs(out.astype(int)).max() >= CEILING - 1  # and not more softly than it must


def test_quiet_sound_passes_bit_for_bit() -> None:
    """All of int16's values up to the ceiling, and every recorded message that is not above it, at any cuts."""
    every = np.arange(-CEILING, CEILING + 1).astype(np.int16)
    messages = [sound for sound in load(FIRMWARE / "sounds").values() if np.abs(sound.astype(int)).max() <= CEILING]
    assert messages
    for sound in (every, *messages):
        np.testing.assert_array_equal(limited(sound, range(777, len(sound), FRAME)), sound)


def test_after_a_peak_the_quiet_is_exact_again() -> None:
    sound = np.concatenate([voice(60_000), voice(20_000).round()])
    out = limited(sound, frames(sound))
    np.testing.assert_array_equal(out[-RATE:], sound[-RATE:].astype(np.int16))


def test_how_the_sound_is_cut_changes_nothing() -> None:
    sound = voice(50_000)
    whole = limited(sound)
    for cuts in (frames(sound), range(1, 5000), [100, 100, 101, 60_000]):
        assert np.abs(limited(sound, cuts).astype(int) - whole).max() <= 1  # one is rounding


def test_the_gain_never_jumps() -> None:
    """A loud word in a soft one: from sample to sample the gain changes by no more than a slope over 5 ms has it."""
    steady = np.full(RATE, 20_000.0)
    steady[RATE // 2 : RATE // 2 + 4 * FRAME] = 58_406  # a step to twice the ceiling, at a border of two frames and not
    for cuts in (frames(steady), range(RATE // 2, RATE, 960)):
        gain = limited(steady, cuts) / steady
        assert gain.min() == pytest.approx(0.5, abs=1e-3)
        assert np.abs(np.diff(gain)).max() <= 0.5 / (AHEAD * RATE) + 1e-4


def test_it_holds_back_5_ms_and_no_more() -> None:
    limiter = Limiter(RATE)
    given = 0
    for piece in np.array_split(voice(30_000), 25):
        given += len(limiter.limit(piece))
        assert limiter.held <= AHEAD * RATE
    assert given + limiter.held == 2 * RATE
    assert len(limiter.flush()) == AHEAD * RATE
    assert limiter.held == 0


def test_a_sound_after_the_end_of_another_begins_low_enough() -> None:
    """The end was told too early: what comes next had no 5 ms to be seen in."""
    limiter = Limiter(RATE)
    out = [limiter.limit(voice(20_000)), limiter.flush(), limiter.limit(np.full(RATE, 60_000.0)), limiter.flush()]
    assert np.abs(np.concatenate(out).astype(int)).max() <= CEILING
