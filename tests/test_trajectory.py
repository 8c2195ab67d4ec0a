"""Smoothing by time, and directions only where there is one; what of it may change a reply."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from device.conditioning import TONES, conditioning, steady
from device.trajectory import Smoother, trend
from device.turn import Affect

MINUTE = [float(t) for t in range(61)]


def test_smoothing_has_a_time_constant_of_its_seconds() -> None:
    """A step is 63 % through after 5 s, however often it is asked."""
    for hop in (1.0, 0.25):
        smooth = Smoother(5.0)
        smooth(0.0, 0.0)
        for t in np.arange(hop, 5 + hop / 2, hop):
            value = smooth(float(t), 1.0)
        assert value == pytest.approx(1 - math.exp(-1))


def test_after_a_long_gap_the_new_value_stands_alone() -> None:
    smooth = Smoother(5.0)
    smooth(0.0, 1.0)
    assert smooth(60.0, -1.0) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize(("slope", "word"), [(1.0, "rising"), (-1.0, "falling"), (0.0, "steady")])
def test_a_direction_is_named_with_its_slope_per_minute(slope: float, word: str) -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, 61)
    found = trend(MINUTE, [slope * t / 60 + n for t, n in zip(MINUTE, noise, strict=True)])
    assert found.word == word
    assert found.slope == pytest.approx(slope, abs=0.25)
    assert found.low <= found.slope <= found.high
    assert (found.low <= 0 <= found.high) == (word == "steady")


def test_one_outlier_turns_nothing() -> None:
    values = [t / 60 for t in MINUTE]
    values[56] = -50.0
    assert trend(MINUTE, values).word == "rising"


def test_noise_seldom_rises_or_falls() -> None:
    """Windows of 4 s each second overlap, so neighbours are alike; still less than 5 % of looks name a direction."""
    random = np.random.default_rng(0)
    values = np.convolve(random.normal(size=8000), np.ones(4) / 4, "valid")
    words = [trend(MINUTE, list(values[i : i + 61])).word for i in range(0, len(values) - 61, 7)]
    assert np.mean([w != "steady" for w in words]) < 0.05


def test_too_little_of_a_minute_has_no_direction() -> None:
    assert trend(MINUTE[:25], MINUTE[:25]).word == ""
    assert trend([0.0, 30.0, 60.0], [0.0, 1.0, 2.0]).word == ""
    old = [t - 100 for t in MINUTE[:40]] + MINUTE[-10:]
    assert trend(old, old).word == ""


def story(engagement: float | None, confidence: float, seconds: int, start: int = 0) -> list[Affect]:
    return [Affect(engagement=engagement, confidence=confidence, at=float(start + t)) for t in range(seconds + 1)]


def newest(history: list[Affect]) -> Affect:
    """As the Estimator gives it: with the time for which it has held."""
    return replace(history[-1], held=steady(history))


@pytest.mark.parametrize(
    ("history", "words", "tone"),
    [
        ([Affect(reason="no headset")], "", "neutral"),
        (story(0.8, 0.7, 10), "more engaged", "neutral"),
        (story(0.8, 0.9, 10), "more engaged", "neutral"),
        (story(-0.8, 0.9, 10), "less engaged", "calm"),
        (story(0.8, 0.9, 9), "", "neutral"),
        (story(0.8, 0.69, 60), "", "neutral"),
        (story(None, 0.9, 60), "", "neutral"),
        (story(-0.8, 0.9, 20) + story(0.8, 0.9, 5, 21), "", "neutral"),
        (story(0.8, 0.9, 6) + story(0.8, 0.9, 6, 11), "", "neutral"),  # a silence between
        ([*story(0.8, 0.9, 20), Affect(reason="signal too poor", at=21.0)], "", "neutral"),
    ],
)
def test_a_reply_changes_only_after_ten_sure_seconds(history: list[Affect], words: str, tone: str) -> None:
    sentence, chosen = conditioning(newest(history))
    assert bool(sentence) == bool(words)
    assert words in sentence
    assert chosen == tone
    assert chosen in TONES


@pytest.mark.parametrize("way", [0.9, -0.9])
def test_no_sentence_states_a_feeling_as_a_fact(way: float) -> None:
    sentence = conditioning(newest(story(way, 0.99, 30)))[0].lower()
    assert "compared with their own quiet baseline" in sentence
    assert "may be wrong" in sentence
    assert "do not mention it" in sentence
    for feeling in ("happy", "sad", "anxious", "calm", "relaxed", "stress", "angry", "afraid", "tired", "feels", "is engaged"):
        assert feeling not in sentence
