"""What is written becomes what is said: figures, units, times, names and marks. Pure."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.planner import clauses
from device.spoken import STOPS, spoken
from device.voice.replies import load_replies

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware_config"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        # Times
        ("Lunch is at 10:30.", "Lunch is at ten thirty."),
        ("10:00", "ten o'clock"),
        ("7:05 p.m. today", "seven oh five in the evening today"),
        ("at 8am, or 12 pm", "at eight in the morning, or twelve in the afternoon"),
        ("22:15 and 00:30", "ten fifteen at night and twelve thirty at night"),
        ("3-4 times, 24/7", "three to four times, day and night"),
        # Doses and amounts
        ("500 mg", "five hundred milligrams"),
        ("1mg", "one milligram"),
        ("2.5 mg/kg", "two point five milligrams a kilogram"),
        ("a 20-mg dose", "a twenty milligrams dose"),
        ("37.5°C", "thirty-seven point five degrees Celsius"),
        ("120/80", "one hundred twenty over eighty"),
        ("50% of £20 is $10", "fifty percent of twenty pounds is ten dollars"),
        ("1/2 a cup", "half a cup"),
        # Numbers
        ("1,200.5 people", "one thousand two hundred point five people"),
        ("1000000 and 0", "one million and zero"),
        ("in 1987, in 2005, in 1905, in 1900", "in nineteen eighty-seven, in two thousand five, in nineteen oh five, in nineteen hundred"),
        ("on May 3rd, 1942", "on May third, nineteen forty-two"),
        ("the 1990s", "the nineteen nineties"),
        ("the 1st, 12th and 20th", "the first, twelfth and twentieth"),
        ("vitamin B12, COVID-19", "vitamin B twelve, COVID nineteen"),
        ("-3 outside", "minus three outside"),
        ("call 112 or 0800 123 4567", "call one one two or zero eight zero zero one two three four five six seven"),
        # Names and abbreviations
        ("Dr. Smith and Mrs O'Brien", "Doctor Smith and Missus O'Brien"),
        ("room No. 12", "room number twelve"),
        ("tea, e.g. mint, i.e. no milk", "tea, for example mint, that is no milk"),
        ("Anne-Marie McDonald & Zoë", "Anne-Marie McDonald and Zoë"),
        # Brackets, quotes, dashes, markup
        ("you (and me) talk", "you, and me, talk"),
        ("[sighs] Oh.", "Oh."),
        ("she said “rest” and 'sleep', don't", "she said rest and sleep, don't"),
        ("the dogs' beds", "the dogs' beds"),
        ("yes — no – maybe… so", "yes, no, maybe... so"),
        ("**Bold**, `code` and [a link](http://x.y)", "Bold, code and a link"),
        ("1. Breathe\n2. Rest", "Breathe. Rest"),
        ("# Title\n- one\n- two", "Title. one. two"),
        ("<think>secret</think>Hello", "Hello"),
        ("😀 *** ```x```", ""),
    ],
)
def test_what_is_written_is_said_in_words(written: str, said: str) -> None:
    assert spoken(written) == said
    assert spoken(said) == said


@given(st.text(alphabet="ab1205 .,;:?!'\"()[]{}<>*#%&+=/\\-—…°£mgApm\n😀", max_size=60))
def test_only_letters_and_stops_are_ever_spoken(text: str) -> None:
    said = spoken(text)
    assert all(c.isalpha() or c in STOPS or c == " " for c in said)
    assert not said or any(c.isalpha() for c in said)


def test_the_reviewed_replies_are_spoken_as_they_stand_but_for_quotes() -> None:
    for reply in load_replies(FIRMWARE / "replies.toml"):
        assert " ".join(spoken(clause) for clause in clauses([reply.says])) == reply.says.replace('"', "")
