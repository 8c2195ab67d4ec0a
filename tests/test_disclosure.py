"""It says that it is a machine: when, as a pure rule, and in whole turns where the clock jumps, hands interrupt and patients change."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from home import LONG, REPLY, SPEECH, AskedPen, acknowledge, becomes, bedside, heard, press, until

from device import remembering
from device.disclosure import EVERY, SENTENCE, Disclosure, clock, without
from device.memory import BREAK, Memory
from device.reply_rules import broken
from device.spoken import spoken
from device.states import State
from device.voice.tone import ToneVoice

pytestmark = pytest.mark.anyio
LAST = Disclosure(said=1000.0, turn=5000.0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("known", "now", "due"),
    [
        (Disclosure(), 0.0, True),  # the first turn after a start
        (LAST, 5000.0 + BREAK, False),
        (LAST, 5001.0 + BREAK, True),  # another session
        (Disclosure(1000.0, 999.0 + EVERY), 999.0 + EVERY, False),
        (Disclosure(1000.0, 999.0 + EVERY), 1000.0 + EVERY, True),  # three hours of one
        (LAST.after(5100.0, told=False), 5200.0, False),
        (LAST.after(5100.0 + BREAK, told=False), 5200.0 + BREAK, True),  # it was due, and nobody heard it
        (LAST.after(5100.0 + BREAK, told=True), 5200.0 + BREAK, False),
    ],
)
def test_it_is_due_at_a_sessions_first_turn_and_after_three_hours(known: Disclosure, now: float, due: bool) -> None:
    assert known.due(now) is due


def test_it_is_a_clause_that_may_be_said_and_is_left_out_of_what_words_are_found_from() -> None:
    assert not broken(SENTENCE)
    assert spoken(SENTENCE) == SENTENCE
    assert without(f"{SENTENCE} {REPLY}") == without(REPLY) == REPLY
    assert without(SENTENCE) == without("Just so you —") == without("") == ""
    assert without("I am —") == "I am —"


async def say(home: Any) -> str:
    """One whole turn; the reply as the memory has it."""
    await press(home)
    await becomes(home, State.SPEAKING)
    await becomes(home, State.READY)
    return str(home.companion.turns[-1].reply)


def tone(*clauses: str) -> Any:
    return np.concatenate([frame for clause in clauses for frame in ToneVoice().frames(clause)])


async def test_it_begins_the_first_reply_in_the_companions_own_voice_and_comes_again_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = [0.0]
    pen = AskedPen("That sounds hard. Tell me more.", "What else?")
    async with bedside(tmp_path, [SPEECH] * 5, pen=pen, told=False) as home:
        home.companion.clock = lambda: clock() + later[0]
        assert await say(home) == f"{SENTENCE} {REPLY}"
        assert np.array_equal(heard(home), tone(SENTENCE, "That sounds hard.", "Tell me more."))
        assert home.companion.said == [REPLY]  # else the bank would not know that it said this
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + 5 * 3600)  # a wall clock that was set is no reason
        assert await say(home) == "What else?"
        monkeypatch.setattr(time, "time", lambda: wall() - 90 * 86_400)
        assert not (await say(home)).startswith(SENTENCE)
        monkeypatch.undo()
        later[0] = BREAK + 10
        assert (await say(home)).startswith(SENTENCE)
        later[0] += BREAK - 60
        assert not (await say(home)).startswith(SENTENCE)


async def test_after_a_restart_it_is_said_again(tmp_path: Path) -> None:
    for socket in ("", str(tmp_path / "v.sock")):
        async with bedside(tmp_path, [SPEECH], socket=socket, told=False) as home:
            assert await say(home) == f"{SENTENCE} {REPLY}"


async def test_a_press_that_cuts_it_off_leaves_it_to_the_next_reply(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 3, told=False) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await until(lambda: home.card.played > 0.5, "a part of it")
        assert (await say(home)).startswith(SENTENCE)
        cut = home.companion.turns[0].reply.removesuffix(" —")
        assert SENTENCE.startswith(cut)
        assert not (await say(home)).startswith(SENTENCE)


async def test_a_press_after_it_leaves_it_said(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 2, replies=(LONG, REPLY), told=False) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await until(lambda: home.card.played > len(tone(SENTENCE)) / 24_000 + 1, "more than it")
        assert await say(home) == REPLY


async def test_neither_a_crisis_message_nor_a_recorded_answer_waits_for_it(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 4, sentence="forget that", told=False) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        home.ears.sentence = "I want to kill myself"
        await press(home)
        await becomes(home, State.ALERTING)
        await until(lambda: home.companion.turns, "the turn of the alert")  # the light comes first
        assert home.companion.turns[-1].reply == ""
        await acknowledge(home)
        await becomes(home, State.READY)
        home.ears.sentence = "I slept badly"
        assert (await say(home)).startswith(SENTENCE)


async def test_another_patient_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "LOOK", 0.05)
    async with bedside(tmp_path, [SPEECH] * 2, told=False) as home:
        assert (await say(home)).startswith(SENTENCE)
        await until(lambda: home.companion.remembering._patient, "a look at who lies here")
        other = Memory(tmp_path / "memory.db")
        other.admit("bed 12")
        other.close()
        await until(lambda: home.companion.turns == [], "the companion to see it")
        assert (await say(home)).startswith(SENTENCE)
