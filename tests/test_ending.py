"""A sentence of CSM always ends, and not before it is said."""

from __future__ import annotations

import numpy as np
import pytest

from device.turn import FRAME
from device.voice.ending import BREATH, LOST, PAUSE, Ending, frame_budget

LOUD = np.full(FRAME, 0.1, np.float32)
QUIET = np.full(FRAME, 0.001, np.float32)


def run(ending: Ending, frames: list[tuple[np.ndarray, float]]) -> tuple[int, str]:
    """(frames until it is over, the reason); (0, "") when it goes on."""
    for number, (sound, chance) in enumerate(frames, 1):
        if reason := ending.over(sound, chance):
            return number, reason
    return 0, ""


@pytest.mark.parametrize(
    ("text", "frames"),
    [("Hello you.", 25), ("", 13), ("Incomprehensibilities.", 39), ("one two three four five six", 50), ("five, six: seven!", 32)],
)
def test_the_budget_follows_words_and_letters(text: str, frames: int) -> None:
    assert frame_budget(text) == frames


def test_speech_as_fast_as_people_speak_is_far_within_the_budget() -> None:
    sentence = "It sounds as if rest won't come easily just now, and the night is long."
    assert frame_budget(sentence) / 12.5 > 1.5 * len(sentence) / 15  # 15 letters a second


def test_a_sentence_that_never_ends_is_ended_at_its_budget() -> None:
    assert run(Ending(40), [(LOUD, 0.0)] * 99) == (40, "budget")


def test_silence_after_speech_is_an_end_and_a_comma_is_none() -> None:
    assert run(Ending(500), [(LOUD, 0.0)] * 9 + [(QUIET, 0.0)] * 99) == (9 + BREATH, "silence")
    comma = [(LOUD, 0.0)] * 9 + [(QUIET, 0.0)] * (BREATH - 1)
    assert run(Ending(500), comma * 4) == (0, "")


def test_silence_from_the_start_is_given_up_later() -> None:
    assert run(Ending(500), [(QUIET, 0.9)] * 99) == (LOST, "silence")


def test_a_likely_end_in_a_pause_is_an_end_but_not_within_a_word() -> None:
    assert run(Ending(500), [(LOUD, 0.9)] * 9 + [(QUIET, 0.9)] * 9) == (9 + PAUSE, "likely")
    assert run(Ending(500), [(LOUD, 0.9)] * 50) == (0, "")
