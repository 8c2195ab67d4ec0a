"""The memory in the loop: what the patient asks of it, what it does while nobody talks, and a disk without room.

The real companion, memory, server and socket; light ears, pen and throat (tests/home.py).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from home import REPLY, SPEECH, AskedPen, becomes, bedside, ends_with, heard, lines, press, until
from peers import LevelEars

from device import remembering
from device.memory import BREAK, Memory, Segment
from device.states import STAND_IN, Event, State
from device.turn import Affect, Heard, Turn
from device.voice.tone import ToneVoice

pytestmark = pytest.mark.anyio
YESTERDAY = time.time() - 86_400


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "LOOK", 0.05)
    monkeypatch.setattr(remembering, "AGAIN", 0.1)


class Says(LevelEars):
    """Hears one sentence after the other."""

    def __init__(self, *sentences: str) -> None:
        super().__init__("")
        self.sentences = list(sentences)

    def finish(self) -> Heard:
        self.sentence = self.sentences.pop(0)
        return super().finish()


def turn(text: str) -> Turn:
    return Turn(Heard(text, 1.5, 0.9), "Oh.", Affect())


def texts(home: Any) -> list[str]:
    return [turn.heard.text for turn in home.memory.recent(9)]


async def talk(home: Any, turns: int) -> None:
    for _ in range(turns):
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)


async def test_forget_that_takes_back_the_last_turn_and_leaves_none_of_its_own(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 3, ears=Says("I like tea", "My son steals", "Oh, forget that, please.")) as home:
        await talk(home, 3)
        assert texts(home) == ["I like tea"]
        assert [t.heard.text for t in home.companion.turns] == ["I like tea"]
        assert ends_with(heard(home), "forgotten")


async def test_forget_everything_is_asked_again_first(tmp_path: Path) -> None:
    words = ("I like tea", "Forget everything", "I like soup", "yes", "Forget everything", "Yes, please.")
    async with bedside(tmp_path, [SPEECH] * 6, ears=Says(*words)) as home:
        await talk(home, 2)
        assert ends_with(heard(home), "forget_sure")
        await talk(home, 2)  # something else was said: the question is over, and a later yes is an ordinary word
        assert texts(home) == ["I like tea", "I like soup", "yes"]
        await talk(home, 2)
        assert ends_with(heard(home), "forgotten_all")
        assert texts(home) == []
        assert home.companion.turns == []


async def test_a_crisis_in_the_same_breath_comes_first(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH], sentence="I want to kill myself, forget that") as home:
        await press(home)
        await becomes(home, State.ALERTING)


async def test_do_you_remember_is_answered_from_the_memory(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db")
    memory.add(turn("My daughter Anna is coming on Sunday."), YESTERDAY)
    memory.close()
    words = ("Do you remember what I told you about my daughter?", "Do you remember what I said about the zebra?")
    async with bedside(tmp_path, [SPEECH] * 2, ears=Says(*words)) as home:
        await talk(home, 2)
        first, second = (turn.reply for turn in home.memory.recent(2))
        assert "Yesterday you said: My daughter Anna is coming on Sunday." in first
        assert second == "I don't remember that. Will you tell me about it?"
        assert home.pen.asked == []


async def test_a_session_that_is_over_is_summed_up_and_the_next_prompt_knows_it(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db")
    for text in ("My daughter Anna is coming on Sunday.", "I'm worried about the operation on Sunday."):
        memory.add(turn(text), YESTERDAY)
    memory.close()
    told: list[Any] = []

    class Pen(AskedPen):
        def plan(self, request: dict[str, Any], bank: bool) -> Any:
            told.append(request["remembered"])
            return super().plan(request, bank)

        def summarise(self, said: list[list[str]]) -> Iterator[str]:
            yield "They are worried "
            yield f"about the operation. It was told in {['x', 'one', 'two'][len(said)]} turns."

    async with bedside(tmp_path, [SPEECH], pen=Pen(REPLY, name="some/chat"), sentence="Anna is late") as home:
        await until(lambda: home.memory.untold(time.time()) is None, "the summary")
        assert [s.summary for s in home.memory.sessions(3)] == ["They are worried about the operation. It was told in two turns."]
        assert {fact.kind for fact in home.memory.facts()} == {"person", "worry"}
        await talk(home, 1)
    (remembered,) = told
    assert remembered[0] == "Yesterday they said: “My daughter Anna is coming on Sunday.”"  # it touches what was said now
    assert any("They are worried about the operation." in line for line in remembered)
    assert any("I'm worried about the operation on Sunday." in line for line in remembered)


@pytest.mark.parametrize("made_up", ["They spoke of Zelda.", "", "You have cancer."])
async def test_a_summary_that_was_made_up_is_not_kept(tmp_path: Path, made_up: str) -> None:
    memory = Memory(tmp_path / "memory.db")
    memory.add(turn("The soup was cold."), YESTERDAY)
    memory.close()

    class Pen(AskedPen):
        def summarise(self, said: list[list[str]]) -> Iterator[str]:
            yield made_up

    async with bedside(tmp_path, [], pen=Pen(REPLY, name="some/chat")) as home:
        await until(lambda: home.memory.untold(time.time()) is None, "the summary")
        assert [s.summary for s in home.memory.sessions(3)] == ["The soup was cold."]


async def test_turns_that_are_too_old_are_erased(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.db")
    memory.add(turn("old"), YESTERDAY - 90 * 86_400)
    memory.add(turn("new"), YESTERDAY)
    memory.close()
    async with bedside(tmp_path, []) as home:
        await until(lambda: texts(home) == ["new"], "the old turn to be erased")


async def test_the_next_session_begins_without_the_turns_of_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        await talk(home, 1)
        assert len(home.companion.turns) == 1
        home.companion.remembering._spoke -= BREAK + 1
        await until(lambda: home.companion.turns == [], "the session to end")


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("called", [False, True], ids=["", "while a person is being called"])
async def test_a_full_disk_is_seen_and_said_and_nothing_is_lost(tmp_path: Path, called: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with bedside(tmp_path, [SPEECH] * 2, ears=Says("I slept badly", "I like tea")) as home:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        await talk(home, 1)
        await until(lambda: ends_with(heard(home), "not_kept"), "the calm sentence that says so")
        assert home.panel.lit() == STAND_IN.rgb
        assert home.companion.remembering.fault
        assert texts(home) == []
        await talk(home, 1)
        if called:
            home.companion.post(Event.CALL)
            await becomes(home, State.ALERTING)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # somebody made room
        await until(lambda: not home.companion.remembering.fault, "the light to be whole")
        assert texts(home) == ["I slept badly", "I like tea"]


async def test_a_memory_that_opens_later_keeps_what_was_said_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The key was missing at the start; a technician puts it back."""
    caplog.set_level("INFO", logger="bedside")
    async with bedside(tmp_path, [SPEECH], sentence="I like tea") as home:
        await until(lambda: home.companion.remembering._changes >= 0, "the first look")
        home.companion.remembering.memory, home.companion.remembering.fault = None, True
        key = (tmp_path / "memory.key").rename(tmp_path / "away")
        await talk(home, 1)
        await until(lambda: lines(caplog, "memory_fault"), "the reason in the log")
        assert "key of the memory is missing" in lines(caplog, "memory_fault")[0]
        key.rename(tmp_path / "memory.key")
        await until(lambda: texts(home) == ["I like tea"], "the turn that waited")
        await until(lambda: lines(caplog, "memory_whole"), "the light to be whole")


class Mindful(ToneVoice):
    """A tone with a conversation behind it, as CSM has: two codes for a frame."""

    def __init__(self) -> None:
        self.heard = ""
        self.resumed: list[list[str]] = []

    def hear(self, text: str) -> None:
        self.heard = text

    def spoken(self) -> list[Segment]:
        return [Segment("1", self.heard, np.ones((3, 2), np.int16)), Segment("0", "reply", np.zeros((4, 2), np.int16))]

    def resume(self, told: list[Segment]) -> int:
        self.resumed.append([segment.text for segment in told])
        return len(told)


async def test_the_voice_goes_on_from_the_memory_and_forgets_with_it(tmp_path: Path) -> None:
    """One memory, not two: what is erased by the patient, or by a command beside the companion, the voice no longer knows."""
    memory = Memory(tmp_path / "memory.db")
    memory.add_codes(memory.add(turn("old")), [Segment("1", "old", np.ones((3, 2), np.int16))])
    throat = Mindful()
    ears = Says("I like tea", "My son steals", "forget that")
    async with bedside(tmp_path, [SPEECH] * 3, ears=ears, throat=throat, about={"codebooks": 2}) as home:
        assert throat.resumed[0] == ["old"]
        await talk(home, 2)
        everything = ["old", "I like tea", "reply", "My son steals", "reply"]
        await until(lambda: [s.text for s in home.memory.spoken(2, 99)] == everything, "the codes on the disk")
        await talk(home, 1)
        await until(lambda: throat.resumed[-1] == everything[:3], "the voice to forget the last turn")
        memory.forget_patient()  # another process: bedside memory erase
        await until(lambda: throat.resumed[-1] == [] and home.companion.turns == [], "the voice to forget everything")
    memory.close()
