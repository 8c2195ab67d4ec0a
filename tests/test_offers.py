"""When an exercise is offered: each row of the table, what keeps it from being said, and what counts as a yes."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from device import offers
from device.config import FIRMWARE
from device.exercises import BREATH, EXERCISES
from device.offers import APART, REST, ROWS, Moment, Spoke, choose, spoke, taken
from device.reply_rules import broken
from device.sounds import NAMES, texts
from device.states import TIMEOUTS, State
from device.turn import Affect

NOW = 50_000.0
RISING = Affect(engagement=0.1, arousal=0.2, confidence=0.8, arousal_trend="rising")
AGO = NOW - 30.0
PLAIN, SAD, WORRY = Spoke(), Spoke(sad=True), Spoke(worried=True)
# One moment for each row, at which nothing but this row holds.
HOLDS: dict[str, Moment] = {
    "rising arousal": Moment(NOW, AGO, affect=RISING, turns=(PLAIN,)),
    "silence after a sad turn": Moment(NOW, NOW - 200.0, turns=(SAD,)),
    "repeated worry": Moment(NOW, AGO, turns=(WORRY, PLAIN, WORRY, PLAIN, WORRY)),
    "late at night": Moment(NOW, AGO, late=True, turns=(PLAIN,)),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row_offers_its_exercise_where_it_holds(row: offers.Row) -> None:
    assert choose(HOLDS[row.name]) is row
    assert row.exercise in EXERCISES
    assert list(HOLDS) == [each.name for each in ROWS]


@pytest.mark.parametrize("name", HOLDS)
def test_nothing_is_offered_too_early_too_late_to_nobody_or_where_it_would_disturb(name: str) -> None:
    moment, row = HOLDS[name], next(row for row in ROWS if row.name == name)
    last = moment.spoken
    for now, offered in (
        (last + row.after - 1, False),
        (last + row.after, True),
        (last + row.before - 1, True),
        (last + row.before, False),
    ):
        assert (choose(replace(moment, now=now)) is row) is offered, now - last
    assert choose(replace(moment, turns=())) is None
    assert choose(replace(moment, busy=True)) is None  # an alert is open, or somebody speaks


@pytest.mark.parametrize("name", HOLDS)
def test_there_is_at_most_one_offer_in_ten_minutes_and_none_of_the_same_reason_or_after_a_no_within_the_hour(name: str) -> None:
    moment = HOLDS[name]
    assert choose(replace(moment, offers=((NOW - APART + 1, "a start"),))) is None
    assert choose(replace(moment, offers=((NOW - APART, "a start"),))) is not None
    assert choose(replace(moment, offers=((NOW - APART + 1, "another"), (NOW - APART + 1, "a start")))) is None
    assert choose(replace(moment, offers=((NOW - REST + 1, name),))) is None
    assert choose(replace(moment, offers=((NOW - REST, name),))) is not None
    assert choose(replace(moment, declined=NOW - REST + 1)) is None
    assert choose(replace(moment, declined=NOW - REST)) is not None


def test_the_clock_of_a_whole_night_gives_no_two_offers_within_ten_minutes() -> None:
    """Everything holds all the time, somebody talks every two minutes: the rule alone keeps the offers apart."""
    made: list[tuple[float, str]] = []
    for second in range(0, 8 * 3600, 10):
        last = second - second % 120
        moment = Moment(float(second), float(last), True, RISING, (Spoke(True, True),) * 5, tuple(made))
        if row := choose(moment):
            made.append((float(second), row.name))
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(made)]
    assert len(made) >= 16
    assert min(gaps) >= APART


@pytest.mark.parametrize(
    "affect",
    [
        replace(RISING, confidence=0.69),
        replace(RISING, arousal_trend="steady", trend="rising"),  # engagement is another thing
        replace(RISING, arousal=-0.1),
        Affect(arousal_trend="rising", confidence=0.9, reason="only 20% of the last 15 s were clean."),
        Affect(reason="no headset"),
    ],
)
def test_an_estimate_that_is_unsure_or_abstains_offers_nothing(affect: Affect) -> None:
    assert choose(replace(HOLDS["rising arousal"], affect=affect)) is None


def test_by_night_a_sad_silence_is_left_alone_and_too_few_or_old_worries_are_none() -> None:
    assert choose(replace(HOLDS["silence after a sad turn"], late=True)) is None
    assert choose(Moment(NOW, NOW - 200.0, turns=(SAD, PLAIN))) is None
    assert choose(Moment(NOW, AGO, turns=(PLAIN, WORRY, WORRY))) is None
    assert choose(Moment(NOW, AGO, turns=(WORRY, WORRY, WORRY, PLAIN))) is None
    assert choose(Moment(NOW, AGO, turns=(WORRY, WORRY, PLAIN, PLAIN, PLAIN, WORRY))) is None


@pytest.mark.parametrize(
    ("heard", "sad", "worried"),
    [
        ("I'm so lonely today.", True, False),
        ("I miss my husband, you know.", True, False),
        ("Nobody comes to see me any more.", True, False),
        ("My brother died last year.", True, False),
        ("I've been feeling a bit down.", True, False),
        ("I'm worried about the operation.", False, True),
        ("I can't stop thinking about the results.", False, True),
        ("What if it comes back?", False, True),
        ("I feel sad and I'm scared.", True, True),
        ("I'm not worried about it.", False, False),
        ("I don't feel lonely, I'm not sad at all.", False, False),
        ("I slept well and had toast.", False, False),
        ("I sat down and looked out of the window.", False, False),
        ("The garden is lovely.", False, False),
    ],
)
def test_sad_and_worried_words_are_told_from_others(heard: str, sad: bool, worried: bool) -> None:
    assert spoke(heard) == Spoke(sad, worried)


@pytest.mark.parametrize(
    ("heard", "answer"),
    [
        *((yes, True) for yes in ("Yes.", "Yes, please.", "Yeah, OK.", "Oh yes, let's do that.", "Okay, let's try.", "I'd like that.",
                                  "Sure, why not?", "Please do.", "All right then.", "Yes, I would like to.")),
        *((no, False) for no in ("No.", "No, thank you.", "No thanks, not now.", "Not really.", "Maybe later.", "I'd rather not.",
                                 "I don't want to.", "No, I'm fine.", "Not tonight, thanks.")),
        *((other, None) for other in ("Yes, but my leg hurts.", "No, it was my sister who came.", "My leg hurts.", "I said no to him.",
                                      "Okay, so yesterday my son came.", "Not a day goes by.", "")),
    ],
)  # fmt: skip
def test_a_yes_and_a_no_are_whole_utterances(heard: str, answer: bool | None) -> None:
    assert taken(heard) is answer


def test_what_is_said_names_no_feeling_and_no_signal_and_breaks_no_rule() -> None:
    """The sentence is the same for every reason, so it can't tell what was seen."""
    words = texts(FIRMWARE / "sounds")
    for exercise in EXERCISES.values():
        for name in {exercise.offer, exercise.begin, "offer_declined", *(sentence for _, sentence in exercise.steps)}:
            assert name in NAMES
            assert not broken(words[name])
            assert not re.search(
                r"(?i)sad|worr|afraid|calm|tense|stress|brain|headset|signal|night|you (?:are|seem|sound|look)\b", words[name]
            ), name
        assert "yes" in words[exercise.offer]
        assert "If you like" in words[exercise.offer]
        assert "The button ends it" in words[exercise.begin]


def test_breath_and_light_keep_one_pace_and_an_exercise_fits_its_state() -> None:
    for at, sentence in EXERCISES["breathing"].steps[:-1]:
        assert sentence == ("breathe_in" if at % BREATH == 0 else "breathe_out")
        assert at % BREATH in (0, BREATH / 2)
    for exercise in EXERCISES.values():
        assert exercise.steps[-1][1] == "exercise_done"
        assert 50 < exercise.steps[-1][0] < TIMEOUTS[State.EXERCISE] - 10
