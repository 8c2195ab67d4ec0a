"""Exercises in the whole device: offered into silence, taken or declined by voice, led by sound and light, ended by any hand."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import time as wall
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from home import REPLY, SOUNDS, SPEECH, acknowledge, becomes, bedside, ends_with, heard, press, until

from device import exercises
from device.disclosure import clock
from device.exercises import EXERCISES, Exercise
from device.offers import APART, REST, STANDS, choose
from device.states import LIGHTS, Event, State
from device.turn import VOICE_RATE, Affect, Heard, Turn
from device.voice.tone import ToneVoice

pytestmark = pytest.mark.anyio
SHORT = (("breathe_in", 0.05), ("breathe_out", 0.25), ("exercise_done", 0.45))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="bedside")
    monkeypatch.setattr(exercises, "LOOK", 0.02)
    for name, whole in EXERCISES.items():
        short = Exercise(whole.offer, whole.begin, tuple((at, sentence) for sentence, at in SHORT))
        monkeypatch.setitem(EXERCISES, name, short)
    for sentence in ("offer_breathing", "offer_grounding", "offer_declined", "breathe_begin", "calling", "cant_answer", "forget_sure"):
        monkeypatch.setitem(SOUNDS, sentence, SOUNDS[sentence][-VOICE_RATE * 2 :])


class Later:
    """The companion's clock, moved by hand; the time of day is late."""

    def __init__(self, home: Any, at: wall = wall(23)) -> None:
        self.seconds = APART
        home.companion.clock = lambda: clock() + self.seconds
        home.companion.exercises.wall = lambda: at


async def talk(home: Any, sentence: str) -> None:
    home.ears.sentence = sentence
    await press(home)
    await becomes(home, State.SPEAKING)


async def offered(home: Any, later: Later, seconds: float = 25.0) -> None:
    """A turn, then silence until an exercise is offered."""
    await talk(home, "I had toast")
    await becomes(home, State.READY)
    later.seconds += seconds
    await becomes(home, State.SPEAKING)
    await becomes(home, State.READY)


def said(*names: str) -> Any:
    return np.concatenate([SOUNDS[name] for name in names])


async def test_a_yes_begins_it_light_and_voice_lead_through_it_and_no_turn_is_kept(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 3) as home:
        later = Later(home)
        await offered(home, later)
        assert ends_with(heard(home), "offer_breathing")
        assert home.panel.lit() == LIGHTS[State.READY].rgb
        before = len(heard(home))
        await talk(home, "Yes, please.")
        await becomes(home, State.EXERCISE)
        assert home.panel.lit() == LIGHTS[State.EXERCISE].rgb
        await becomes(home, State.READY)
        assert np.array_equal(heard(home)[before:], said("breathe_begin", "breathe_in", "breathe_out", "exercise_done"))
        assert [turn.heard.text for turn in home.memory.recent(5)] == ["I had toast"]
        await talk(home, "Yes, please.")  # nothing is offered any more: it is talked about
        await becomes(home, State.READY)
        assert home.companion.turns[-1].reply == REPLY
        assert home.seen.count(State.EXERCISE) == 1


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each look found."""
    found: list[Any] = []
    choose = exercises.choose
    monkeypatch.setattr(exercises, "choose", lambda moment: found.append(choose(moment)) or found[-1])
    return found


async def nothing_is_offered(looks: list[Any]) -> None:
    count = len(looks)
    await until(lambda: len(looks) > count + 3, "some looks")
    assert looks[count:] == [None] * len(looks[count:])


async def test_a_no_is_answered_calmly_and_nothing_more_is_offered(tmp_path: Path, looks: list[Any]) -> None:
    async with bedside(tmp_path, [SPEECH] * 5) as home:
        later = Later(home)
        await offered(home, later)
        await talk(home, "No, thank you.")
        await becomes(home, State.READY)
        assert ends_with(heard(home), "offer_declined")
        later.seconds += APART
        for _ in range(3):
            await talk(home, "I'm worried")
            await becomes(home, State.READY)
        later.seconds += 25
        await nothing_is_offered(looks)


async def test_a_sure_rise_offers_the_same_words_as_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rising = Affect(engagement=0.1, arousal=0.2, confidence=0.8, arousal_trend="rising")
    async with bedside(tmp_path, [SPEECH]) as home:
        later = Later(home, at=wall(12))
        monkeypatch.setattr(home.companion.feed, "affect", lambda: rising)
        await offered(home, later, 11.0)
        assert ends_with(heard(home), "offer_breathing")


async def test_other_words_close_an_offer_and_so_does_time(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 5) as home:
        later = Later(home)
        await offered(home, later)
        for sentence in ("Yes, but my leg hurts", "yes"):
            await talk(home, sentence)
            await becomes(home, State.READY)
            assert home.companion.turns[-1].heard.text == sentence
        later.seconds += REST
        await offered(home, later)
        later.seconds += STANDS
        await talk(home, "yes")
        await becomes(home, State.READY)
        assert home.companion.turns[-1].heard.text == "yes"
        assert State.EXERCISE not in home.seen


async def test_a_press_cuts_an_offer_off_and_may_already_say_yes(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 2) as home:
        later = Later(home)
        await talk(home, "I had toast")
        await becomes(home, State.READY)
        later.seconds += 25
        await becomes(home, State.SPEAKING)
        await until(lambda: home.card.played > 0.3, "a part of the offer")
        home.ears.sentence = "yes"
        await press(home)
        await becomes(home, State.EXERCISE)
        led = heard(home)[-len(SOUNDS["breathe_begin"]) :]
        assert np.array_equal(led, SOUNDS["breathe_begin"])


async def lead(home: Any) -> None:
    """An exercise that runs, with its first sentence in the speaker."""
    await offered(home, Later(home))
    await talk(home, "yes")
    await becomes(home, State.EXERCISE)
    await until(lambda: home.card.pending > 0, "the first breath")


async def test_the_button_ends_it_at_once(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 4) as home:
        await lead(home)
        home.panel.press_talk()
        await becomes(home, State.LISTENING)
        home.panel.release_talk()  # a tap: nobody wants to talk
        await becomes(home, State.READY)
        silent = len(heard(home))
        await talk(home, "I had tea")
        await becomes(home, State.READY)
        assert home.companion.turns[-1].reply == REPLY
        reply = sum(len(frame) for clause in ("That sounds hard.", "Tell me more.") for frame in ToneVoice().frames(clause))
        assert len(heard(home)) == silent + reply  # no breath was led into it


async def test_an_alert_ends_it_and_nothing_is_offered_while_a_person_is_called_nor_after(tmp_path: Path, looks: list[Any]) -> None:
    async with bedside(tmp_path, [SPEECH] * 4, panel={"nurse_call_pin": "BOARD37"}) as home:
        await lead(home)
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        assert home.panel.calling()
        await until(lambda: home.card.pending == 0, "the message")
        assert ends_with(heard(home), "calling")
        count = len(looks)
        Later(home).seconds += 2 * REST
        home.companion.exercises.heard(Turn(Heard("I had tea", 1.0, 0.9), "", Affect()))
        moment = replace(home.companion.exercises._moment(), now=home.companion.clock() + 25)
        assert choose(moment) is None
        assert choose(replace(moment, busy=False)) is not None
        await acknowledge(home)
        assert len(looks) == count  # none while it was open
        await becomes(home, State.READY)


async def test_a_call_during_an_offer_is_a_call(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        later = Later(home)
        await talk(home, "I had toast")
        await becomes(home, State.READY)
        later.seconds += 25
        await becomes(home, State.SPEAKING)
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        await until(lambda: home.card.pending == 0, "the message")
        assert ends_with(heard(home), "calling")
        await acknowledge(home)
        await becomes(home, State.READY)
        later.seconds += REST
        assert home.companion.exercises._moment().turns == ()  # what was before the call is no reason any more


async def test_nobody_who_cannot_answer_is_asked(tmp_path: Path, looks: list[Any]) -> None:
    """Muted, a yes could not be heard; and asked whether all shall be forgotten, a yes means that."""
    async with bedside(tmp_path, [SPEECH] * 3, panel={"mute_pin": "BOARD22"}) as home:
        home.panel.switch_mute(False)
        await until(lambda: not home.companion.muted, "the microphone")
        later = Later(home)
        await talk(home, "I had toast")
        await becomes(home, State.READY)
        home.panel.switch_mute(True)
        await until(lambda: home.companion.muted, "the switch")
        later.seconds += 25
        await nothing_is_offered(looks)
        later.seconds -= 25
        home.panel.switch_mute(False)
        await talk(home, "forget everything")
        await becomes(home, State.READY)
        later.seconds += 25
        await nothing_is_offered(looks)
        await talk(home, "yes")
        await becomes(home, State.READY)
        assert ends_with(heard(home), "forgotten_all")
        later.seconds += 25
        await nothing_is_offered(looks)  # what was forgotten is no reason


async def test_silence_counts_from_the_last_word_also_where_nothing_of_it_is_kept(tmp_path: Path, looks: list[Any]) -> None:
    async with bedside(tmp_path, [SPEECH] * 4) as home:
        later = Later(home)
        for sentence in ("I had toast", "I had tea"):
            await talk(home, sentence)
            await becomes(home, State.READY)
        later.seconds += 15
        await talk(home, "forget that")
        await becomes(home, State.READY)
        assert ends_with(heard(home), "forgotten")
        later.seconds += 15
        await nothing_is_offered(looks)
        later.seconds += 10
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert ends_with(heard(home), "offer_breathing")


async def test_a_voice_that_is_lost_ends_it_with_the_calm_sentence(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 2) as home:
        await lead(home)
        home.companion.post(Event.LOST)
        await becomes(home, State.FAULT)
        await becomes(home, State.READY)
        assert ends_with(heard(home), "cant_answer")
