"""Levels in dB of full scale, and the one thing to do about them."""

from __future__ import annotations

import numpy as np
import pytest

from device.levels import NOTHING, Level, Meter, advice, advice_of, level, tone

RATE = 16_000


def sine(decibels: float, seconds: float = 1.0, hertz: float = 1000.0) -> np.ndarray:
    """int16 of a sine whose rms is at `decibels`."""
    at = np.arange(int(seconds * RATE))
    return np.round(10 ** (decibels / 20) * 2**0.5 * 32768 * np.sin(2 * np.pi * hertz * at / RATE)).astype(np.int16)


def test_a_sine_has_the_level_it_was_made_with() -> None:
    found = level(sine(-20), RATE)
    assert (found.rms, found.floor, found.clipped) == (pytest.approx(-20, abs=0.1), pytest.approx(-20, abs=0.1), 0)
    assert found.peak == pytest.approx(-17, abs=0.1)


def test_the_floor_is_what_is_left_between_words() -> None:
    found = level(np.concatenate([sine(-20), sine(-60, 0.5), sine(-20)]), RATE)
    assert found.floor == pytest.approx(-60, abs=0.5)
    assert found.rms == pytest.approx(-21, abs=0.2)


def test_silence_and_an_empty_recording_are_nothing() -> None:
    for pcm in (np.zeros(0, np.int16), np.zeros(800, np.int16), np.zeros(3, np.int16)):
        assert level(pcm, RATE) == Level(NOTHING, NOTHING, NOTHING, 0.0)


def test_what_stands_at_the_end_of_the_scale_is_clipped() -> None:
    loud = np.clip(sine(-3).astype(np.int32) * 4, -32768, 32767).astype(np.int16)
    assert 0.5 < level(loud, RATE).clipped < 1
    assert level(np.full(100, -32768, np.int16), RATE).clipped == 1


def test_a_tone_is_told_from_noise_and_from_another_tone() -> None:
    noise = np.random.default_rng(0).normal(0, 3000, RATE)
    mixed = np.clip(noise + sine(-30), -32768, 32767).astype(np.int16)
    assert tone(mixed, RATE, 1000) == pytest.approx(-30, abs=1.5)
    assert tone(mixed, RATE, 2500) < -45
    assert tone(sine(-30), RATE, 1100) < -80
    assert tone(np.zeros(0, np.int16), RATE, 1000) == NOTHING


def at(rms: float, floor: float | None = None, clipped: float = 0.0) -> Level:
    return Level(rms, min(0.0, rms + 10), rms if floor is None else floor, clipped)


@pytest.mark.parametrize(
    ("quiet", "speech", "says"),
    [
        (at(NOTHING), None, "digital silence"),
        (at(-30, clipped=0.1), None, "Silence clips"),
        (at(-40), None, "loud: -40 dB"),
        (at(-60), None, ""),
        (at(-60), at(-20, clipped=0.02), "Speech clips (2.0%"),
        (at(-50), at(-45), "only 5 dB above"),
        (at(-70), at(-48), "Speech is soft (-48 dB"),
        (at(-60), at(-25), ""),
        (at(NOTHING), at(-25), "digital silence"),
    ],
)
def test_the_first_thing_to_do_is_said(quiet: Level, speech: Level | None, says: str) -> None:
    said = advice(quiet, speech)
    assert said.startswith(says) if not says else says in said
    assert bool(said) == bool(says)


def test_a_meter_has_the_level_of_the_blocks_it_heard_last() -> None:
    """Of 1600 samples each, as level() cuts its pieces; older ones are forgotten."""
    sound = np.concatenate([sine(-20), sine(-60, 0.5), sine(-6), np.full(1600, -32768, np.int16)])
    meter = Meter(len(sound) // 1600)
    assert meter.level() is None
    for block in np.split(np.concatenate([sine(-1), sound]), len(sound) // 1600 + 10):
        meter.hear(block)
    found = meter.level()
    assert found is not None
    for mine, its in zip(vars(found).values(), vars(level(sound, RATE)).values(), strict=True):
        assert mine == pytest.approx(its, abs=0.01)


def test_a_while_with_words_in_it_is_not_taken_for_a_loud_room() -> None:
    """Only its softest tenth is the room; but a microphone at its end is said, whoever spoke."""
    room, words = sine(-60, 2.0), sine(-12, 4.0)
    assert advice_of(level(np.concatenate([room, words]), RATE)) == ""
    loud = np.clip(words.astype(np.int32) * 8, -32768, 32767).astype(np.int16)
    assert "clips" in advice_of(level(np.concatenate([room, loud]), RATE))
    assert "is loud" in advice_of(level(words, RATE))
    assert "digital silence" in advice_of(level(np.zeros(RATE, np.int16), RATE))
