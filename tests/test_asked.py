"""What a patient asks of the memory, in the words people use, and what only sounds like it."""

from __future__ import annotations

import pytest

from device.asked import Asked, Wish, asked


@pytest.mark.parametrize(
    ("heard", "wish"),
    [
        ("Forget that.", Wish.FORGET_LAST),
        ("Please forget that", Wish.FORGET_LAST),
        ("Oh no, forget that, please!", Wish.FORGET_LAST),
        ("Can you forget what I just said?", Wish.FORGET_LAST),
        ("Forget I said anything.", Wish.FORGET_LAST),
        ("Could you please delete the last thing I said?", Wish.FORGET_LAST),
        ("Don’t remember that, please.", Wish.FORGET_LAST),
        ("Forget everything.", Wish.FORGET_ALL),
        ("I want you to forget everything I've told you.", Wish.FORGET_ALL),
        ("Please erase everything you know about me.", Wish.FORGET_ALL),
        ("Wipe your memory", Wish.FORGET_ALL),
        ("Forget all of that now", Wish.FORGET_ALL),
        ("Yes.", Wish.YES),
        ("Yes, do it, I'm sure.", Wish.YES),
    ],
)
def test_a_wish_to_forget_is_understood(heard: str, wish: Wish) -> None:
    assert asked(heard) == Asked(wish)


@pytest.mark.parametrize(
    "heard",
    [
        "",
        "I can't forget that day.",
        "Don't forget that I take sugar in it.",
        "I'll never forget that.",
        "Oh, forget it.",
        "Forget about that.",
        "They seem to forget everything I tell them.",
        "I forget everything these days.",
        "Did you forget that?",
        "Don't forget everything I said!",
        "Please don't forget that.",
        "I want to forget everything.",
        "Yes, I slept well, thank you.",
        "I remember my mother's kitchen.",
        "Do you remember?",
    ],
)
def test_what_only_sounds_like_it_is_talked_about(heard: str) -> None:
    assert asked(heard) is None


@pytest.mark.parametrize(
    ("heard", "topic"),
    [
        ("Do you remember what I told you about my daughter?", "my daughter"),
        ("Do you still remember my dog Bess?", "dog bess"),
        ("Do you remember when I told you about the operation?", "the operation"),
        ("What did I tell you about the garden?", "the garden"),
        ("Have I told you anything about Peter?", "peter"),
    ],
)
def test_a_question_about_earlier_words_names_its_topic(heard: str, topic: str) -> None:
    assert asked(heard) == Asked(Wish.RECALL, topic)
