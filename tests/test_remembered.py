"""What is worth remembering, and how it is said later. Pure."""

from __future__ import annotations

import time

import pytest

from device.memory import Fact, Said, Session
from device.remembered import MOST, answer, facts, grounded, lines, summary

DAY = 86_400.0
NOW = time.time()


def said(*texts: str, at: float = NOW) -> list[Said]:
    return [Said(number, at, text, "Oh.") for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("heard", "kind"),
    [
        ("My name is Margaret.", "name"),
        ("Please call me Peg.", "name"),
        ("My daughter Anna is coming on Sunday.", "person"),
        ("We lost my husband Peter.", "person"),
        ("My little dog was called Bess.", "person"),
        ("I’m really worried about the operation.", "worry"),
        ("I keep thinking what if the biopsy comes back bad.", "worry"),
        ("The nights frighten me. It's on my mind.", "worry"),
        ("Music helps me when I can't sleep.", "helps"),
        ("I always feel better after a walk.", "helps"),
        ("I was a postman for thirty years.", "life"),
        ("We used to go out, and I used to dance.", "life"),
    ],
)
def test_a_durable_thing_is_kept_in_the_patients_own_words(heard: str, kind: str) -> None:
    found = facts(said("Good morning.", heard))
    assert [(fact.turn, fact.kind) for fact in found] == [(1, kind)]
    assert found[0].text in heard.replace("’", "'")


@pytest.mark.parametrize(
    "heard",
    [
        "",
        "I slept badly.",
        "I'm not worried about it.",
        "The pills don't help me at all.",
        "Nothing helps me.",
        "Could you help me?",
        "Are you called Margaret?",
        "My daughter is coming.",
        "I was a bit tired.",
        "x " * 100 + "my name is Margaret",
    ],
)
def test_what_only_sounds_like_it_is_not(heard: str) -> None:
    assert facts(said(heard)) == []


def test_each_thing_is_kept_once_and_not_too_many() -> None:
    assert len(facts(said("My name is Margaret.", "My name is Margaret. I was a nurse."))) == 2
    assert len(facts(said(*(f"I'm worried about the number {n}." for n in range(40))))) == MOST


def test_a_summary_is_the_sentences_that_say_most_of_what_the_others_say() -> None:
    talk = said("Good morning.", "The operation is on Friday.", "I like soup.", "I worry about Friday and the operation.", "Yes.")
    assert summary(talk) == "The operation is on Friday. I worry about Friday and the operation."
    assert summary(said("Yes.", "Hm.")) == ""
    assert summary([]) == ""


def test_a_models_summary_is_kept_only_if_every_name_and_number_was_said() -> None:
    talk = said("My daughter Anna comes on Friday at 10.")
    assert grounded("They look forward to Friday. Anna is coming at 10.", talk)
    assert not grounded("Their daughter Anne comes on Friday.", talk) or "Anne" in talk[0].heard
    assert not grounded("They spoke of Anna and of Paul.", talk)
    assert not grounded("They are 78 years old.", talk)
    assert not grounded(" ", talk)


def test_the_prompt_is_told_the_name_first_then_what_touches_this_turn() -> None:
    known = [Fact(3, "worry", "I'm worried about Friday.", NOW - DAY), Fact(1, "name", "My name is Margaret.", NOW - 30 * DAY)]
    told = lines(known, [Session(1, NOW - 8 * DAY, "The garden.")], said("The soup was cold.", at=NOW - 3 * DAY), NOW)
    assert [line.split("“")[-1].split(": ")[-1].strip("”") for line in told] == [
        "My name is Margaret.", "The soup was cold.", "The garden.", "I'm worried about Friday.",
    ]  # fmt: skip
    assert told[0] == "How they are called (some weeks ago): “My name is Margaret.”"
    assert told[1].startswith(f"On {time.strftime('%A', time.localtime(NOW - 3 * DAY))} they said")
    assert told[2].startswith("Last week they spoke of this")
    assert "(yesterday)" in told[3]


def test_do_you_remember_is_answered_with_the_patients_own_words_or_with_none() -> None:
    assert answer(said("The soup was cold!", at=NOW - DAY)[0], NOW)[1] == "Yesterday you said: The soup was cold."
    assert answer(None, NOW) == ("I don't remember that.", "Will you tell me about it?")
