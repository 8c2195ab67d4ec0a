"""A reply cut into clauses, and what was heard of it. Pure, so by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.planner import aloud, begun, clauses, messages, part_heard, steady

TEXT = st.text(alphabet="ab .,;:!?…—–\"')\n", max_size=80)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("That sounds hard. Tell me more.", ["That sounds hard.", "Tell me more."]),
        ("Yes, I am here.", ["Yes, I am here."]),
        ("When you woke up this morning, were you warm?", ["When you woke up this morning,", "were you warm?"]),
        ("Rest; then tell me!", ["Rest;", "then tell me!"]),
        ('She said "stop." Then she left', ['She said "stop.', "Then she left"]),
        ("It was 3.5 degrees. Cold!", ["It was 3.5 degrees.", "Cold!"]),
        ("no end at all", ["no end at all"]),
        ("Dr. Smith came, e.g. today. Good.", ["Dr. Smith came, e.g. today.", "Good."]),
        ("Two things:\n1. Rest\n2. Tea", ["Two things:\n1. Rest", "2. Tea"]),
        ("  \n ", []),
    ],
)
def test_a_reply_is_cut_where_a_speaker_breathes(text: str, cut: list[str]) -> None:
    assert list(clauses([text])) == cut


def test_a_clause_is_spoken_before_the_next_is_written() -> None:
    written: list[str] = []

    def pen() -> object:
        for piece in ("That sounds hard. ", "Tell me more."):
            written.append(piece)
            yield piece

    assert next(clauses(pen())) == "That sounds hard."  # type: ignore[arg-type]
    assert written == ["That sounds hard. "]


@given(TEXT)
def test_streaming_by_the_letter_cuts_as_the_whole_does(text: str) -> None:
    assert list(clauses(text)) == list(clauses([text]))


@given(st.text(alphabet="ab .,;:!?…—–\n", max_size=80))
def test_no_word_is_lost(text: str) -> None:
    assert " ".join(clauses([text])).split() == text.split()


CLAUSES = [("That sounds hard.", 1.2), ("Please tell me more.", 2.0)]


@pytest.mark.parametrize(
    ("played", "words"),
    [
        (0.0, ""),
        (-1.0, ""),
        (0.5, "That —"),
        (1.2, "That sounds hard."),
        (2.2, "That sounds hard. Please tell —"),
        (3.2, "That sounds hard. Please tell me more."),
        (99.0, "That sounds hard. Please tell me more."),
    ],
)
def test_what_was_heard_is_told_by_the_seconds_played(played: float, words: str) -> None:
    assert part_heard(CLAUSES, played) == words


def test_a_clause_without_sound_was_not_heard() -> None:
    assert part_heard([("Never spoken.", 0.0)], 0.0) == ""


@given(st.floats(0, 10))
def test_more_played_is_never_fewer_words(played: float) -> None:
    def count(seconds: float) -> int:
        return len(part_heard(CLAUSES, seconds).replace("—", "").split())

    assert count(played) <= count(played + 0.3) <= 7


def test_the_prompt_holds_the_last_six_turns_and_the_persona() -> None:
    prompt = messages(" Be kind. ", [(f"q{n}", f"a{n}") for n in range(8)], "hello", "More engaged.")
    assert prompt[0] == {"role": "system", "content": "Be kind. More engaged."}
    assert [m["content"] for m in prompt[1:3]] == ["q2", "a2"]
    assert prompt[-1] == {"role": "user", "content": "hello"}
    assert len(prompt) == 14


def test_a_prompt_keeps_to_its_budget_and_the_newest_turns() -> None:
    """Words are tokens here. Persona and affect always; a quarter for what is remembered; then turns, newest first."""
    turns = [(f"question number {n}", f"answer number {n}") for n in range(6)]
    remembered = ["Her daughter is Anna.", "She likes the garden.", "x " * 30]

    def prompt(budget: int, heard: str = "hello") -> list[dict[str, str]]:
        return messages("Be kind.", turns, heard, "Calm.", remembered, lambda text: len(text.split()), budget)

    whole = prompt(1000)
    assert len(whole) == 14
    assert whole[0]["content"].startswith("Be kind. Calm.\nWhat you remember of this patient:\nHer daughter is Anna.\nShe likes")
    small = prompt(40)
    assert "Anna" in small[0]["content"]
    assert "x x" not in small[0]["content"]
    assert [m["content"] for m in small[1:]] == [text for turn in turns[-4:] for text in turn] + ["hello"]
    assert prompt(5)[0]["content"] == "Be kind. Calm."
    assert len(prompt(5)) == 2
    long = prompt(40, " ".join(str(n) for n in range(500)))[-1]["content"].split()
    assert 10 < len(long) <= 20
    assert long[-1] == "499"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("I hear you. Tell me more. I hear you. Tell me more. I hear", "I hear you. Tell me more."),
        ("Oh, no no no no no no no no", ""),
        ("That is hard. and so and so and so and so on", "That is hard."),
        ("No, no, no. It was hard, very hard.", "No, no, no. It was hard, very hard."),
        ("Companion: I hear you. Patient: I am sad. Companion: Oh.", "I hear you."),
        ("**Assistant:** Hello.", "Hello."),
        ("User: what?", ""),
        ("*** \n --- \n Hello.", "Hello."),
        ("", ""),
    ],
)
def test_a_reply_ends_before_it_runs_in_a_circle_or_speaks_for_the_patient(written: str, spoken: str) -> None:
    assert " ".join(steady(clauses(written))) == spoken


def test_a_reply_has_begun_with_its_first_clause() -> None:
    assert not begun("That sounds as if it was")
    assert begun("That sounds hard.")
    assert begun("When you woke up this morning, were")


THOUGHT = "Well. <think>The patient is sad. I should\n say so. Maybe ask?</think>That sounds hard. What helped < before?"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 200])
def test_what_a_model_thinks_is_never_a_clause_however_it_comes(size: int) -> None:
    pieces = [THOUGHT[at : at + size] for at in range(0, len(THOUGHT), size)]
    assert list(clauses(aloud(pieces))) == ["Well.", "That sounds hard.", "What helped < before?"]
    assert list(clauses(aloud([*pieces, " <think>And. So on."]))) == ["Well.", "That sounds hard.", "What helped < before?"]
    assert len(list(aloud(pieces))) >= len(pieces)  # it can be interrupted while it thinks
    assert "".join(aloud(["A <th", "ing."])) == "A <thing."
