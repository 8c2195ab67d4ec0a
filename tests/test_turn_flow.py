"""Whole turns over the real socket, panel, states, memory and recorded sounds; the neural parts are light peers."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from home import LONG, REPLY, SENTENCE, SILENCE, SOUNDS, SPEECH, AskedPen, becomes, bedside, ends_with, heard, lines, press, until
from peers import LevelEars

from device import edges
from device.audio import WavCard
from device.control import ask
from device.exchange import Exchange
from device.planner import clauses
from device.reply_rules import INSTEAD, REPLY_RULES
from device.states import LIGHTS, STAND_IN, TIMEOUTS, Event, State
from device.turn import MIC_RATE, Affect, Heard
from device.voice.tone import ToneVoice

pytestmark = pytest.mark.anyio
WHOLE_TURN = [State.READY, State.LISTENING, State.THINKING, State.SPEAKING, State.READY]


class SpokenTexts(ToneVoice):
    """The tone voice, keeping every text it was given, and in which tone."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tones: list[str] = []
        self.heard: list[tuple[str, int]] = []

    def frames(self, text: str) -> Any:
        self.texts.append(text)
        return super().frames(text)

    def tone(self, name: str) -> None:
        self.tones.append(name)

    def said(self, text: str, frames: int) -> None:
        self.heard.append((text, frames))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _all_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="bedside")


async def test_a_press_is_answered_and_remembered(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
    assert turn.heard.text == SENTENCE
    assert turn.reply == REPLY
    assert turn.engine == "tone"
    assert set(turn.latency) == {"release_to_heard", "release_to_first_clause", "release_to_first_audio"}
    assert home.seen == WHOLE_TURN
    # Pre-roll, the whole clip and the tail reached the recogniser.
    assert home.ears.clips[0] >= 1.8 * MIC_RATE
    spoken = [frame for clause in ("That sounds hard.", "Tell me more.") for frame in ToneVoice().frames(clause)]
    assert np.array_equal(heard(home), np.concatenate(spoken))
    assert turn.played == pytest.approx(len(heard(home)) / 24_000, abs=1e-3)


async def test_every_state_of_a_turn_shows_its_row_on_the_pins(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
    assert [state for state, _ in home.entered] == WHOLE_TURN
    for state, pins in home.entered:
        assert pins == LIGHTS[state].rgb, state


async def test_events_without_a_row_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with bedside(tmp_path, []) as home:
        for event in (Event.RELEASE, Event.SPOKEN, Event.FIRST_AUDIO, Event.ACKNOWLEDGE, Event.NOTHING):
            home.companion.post(event)
        await until(lambda: len(lines(caplog, "ignored state=ready")) == 5, "five ignored events")
        assert home.seen == [State.READY]
        assert len(heard(home)) == 0


async def test_fifteen_fast_taps_say_nothing_and_the_next_press_is_answered(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH] * 16) as home:
        for _ in range(15):
            home.panel.press_talk()
            home.panel.release_talk()
        await until(lambda: len(home.seen) == 31, "fifteen taps")
        assert home.seen == [State.READY] + [State.LISTENING, State.READY] * 15
        assert home.panel.lit() == LIGHTS[State.READY].rgb
        assert home.memory.recent(5) == []
        assert len(heard(home)) == 0
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
        assert (turn.reply, home.pen.asked) == (REPLY, [(SENTENCE, False)])
        assert len(home.ears.clips) == 1


async def test_a_press_while_thinking_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with bedside(tmp_path, [SPEECH, SPEECH]) as home:
        home.pen.gate.clear()
        await press(home)
        await until(lambda: home.pen.asked, "the plan")
        for _ in range(3):
            home.panel.press_talk()
            home.panel.release_talk()
        await until(lambda: len(lines(caplog, "ignored state=thinking")) == 6, "six ignored events")
        assert home.companion.state is State.THINKING
        home.pen.gate.set()
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
        assert (turn.heard.text, turn.reply) == (SENTENCE, REPLY)
        assert home.card.clips_left == 1
    assert home.seen == WHOLE_TURN


async def test_a_stuck_button_is_answered_after_its_time_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TIMEOUTS, State.LISTENING, 0.5)
    async with bedside(tmp_path, [np.tile(SPEECH, 60)]) as home:
        home.panel.press_talk()
        await becomes(home, State.THINKING)
        assert not home.card.clip_over
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert lines(caplog, "state was=listening now=thinking event=timeout")
        home.panel.release_talk()
        await until(lambda: lines(caplog, "ignored state=ready event=release"), "the late release")
        (turn,) = home.memory.recent(5)
        assert turn.reply == REPLY
    assert home.seen == WHOLE_TURN


async def test_silence_is_asked_to_say_it_again(tmp_path: Path) -> None:
    async with bedside(tmp_path, [np.tile(SILENCE, 8)]) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert np.array_equal(heard(home), SOUNDS["again"])
        assert home.memory.recent(5) == []
    assert home.pen.asked == []


class Hears(LevelEars):
    """As sure as it is told to be."""

    def __init__(self, sentence: str, confidence: float) -> None:
        super().__init__(sentence)
        self.confidence = confidence

    def finish(self) -> Heard:
        return replace(super().finish(), confidence=self.confidence)


async def test_garbled_speech_is_asked_for_again_and_answered_when_it_is_clear(tmp_path: Path) -> None:
    """Nobody answers what may not have been said; a crisis in it is not lost for that (the rules read it first)."""
    ears = Hears("Zorp flim the gantle", 0.1)
    async with bedside(tmp_path, [SPEECH, SPEECH, SPEECH], ears=ears) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert np.array_equal(heard(home), SOUNDS["again"])
        assert (home.memory.recent(5), home.pen.asked) == ([], [])
        ears.sentence, ears.confidence = SENTENCE, 0.9
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert [turn.reply for turn in home.memory.recent(5)] == [REPLY]
        ears.sentence, ears.confidence = "I want to kill myself", 0.1
        await press(home)
        await becomes(home, State.ALERTING)


@pytest.mark.parametrize("sentence", ["Ich konnte heute Nacht nicht schlafen.", "昨夜は眠れませんでした。", "and then " * 400])
async def test_another_language_and_a_minutes_speech_are_answered_and_kept_whole(tmp_path: Path, sentence: str) -> None:
    async with bedside(tmp_path, [SPEECH], sentence=sentence) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
    assert (turn.heard.text, turn.reply) == (sentence, REPLY)
    assert home.pen.asked == [(sentence, False)]
    assert home.seen == WHOLE_TURN


async def test_a_short_silent_press_stays_quiet(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SILENCE]) as home:
        await press(home)
        await becomes(home, State.READY)
        assert len(heard(home)) == 0
        assert home.memory.recent(5) == []
    assert home.seen == [State.READY, State.LISTENING, State.THINKING, State.READY]


async def test_barge_in_silences_at_once_and_keeps_what_was_heard(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH, np.tile(SPEECH, 4)], replies=(LONG, REPLY)) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await until(lambda: home.card.played > 2.0, "two seconds of the reply")
        home.panel.press_talk()
        await becomes(home, State.LISTENING)
        of_old = len(heard(home))
        await until(lambda: home.card.clip_over, "the end of the recording")
        assert len(heard(home)) == of_old
        home.panel.release_talk()
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        first, second = home.memory.recent(5)
        assert len(heard(home)) == of_old + round(second.played * 24_000)
    assert first.reply.endswith("—")
    kept = first.reply.removesuffix(" —")
    assert LONG.startswith(kept)
    assert 2 < len(kept.split()) < len(LONG.split())
    assert first.played == pytest.approx(of_old / 24_000, abs=1e-3)
    assert (second.heard.text, second.reply) == (SENTENCE, REPLY)
    assert home.seen == [*WHOLE_TURN[:-1], *WHOLE_TURN[1:]]


async def test_a_turn_that_ends_as_it_is_cut_keeps_what_was_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waiting for the speaker to run dry, and the press made it so: it goes on to its end before it is cancelled."""

    async def drained(exchange: Exchange) -> None:
        with anyio.CancelScope(shield=True):
            await until(lambda: exchange.cut, "the press")

    async with bedside(tmp_path, [SPEECH] * 2, replies=(LONG, REPLY)) as home:
        with monkeypatch.context() as patch:
            patch.setattr(Exchange, "_drain", drained)
            await press(home)
            await becomes(home, State.SPEAKING)
            await until(lambda: home.card.played > 1.0, "a second of the reply")
            home.panel.press_talk()
            await becomes(home, State.LISTENING)
            of_old = len(heard(home))
            await until(lambda: home.companion.turns, "the turn to be kept")
        home.panel.release_talk()
        await becomes(home, State.READY)
        first = home.companion.turns[0]
    assert first.played == pytest.approx(of_old / 24_000, abs=1e-3)
    assert LONG.startswith(first.reply.removesuffix(" —"))


class Notebook(AskedPen):
    """Keeps whole requests."""

    def __init__(self, *replies: str) -> None:
        super().__init__(*replies)
        self.requests: list[dict[str, Any]] = []

    def plan(self, request: dict[str, Any], bank: bool) -> Any:
        self.requests.append(request)
        return super().plan(request, bank)


POOR = Affect(reason="signal too poor: Fp1 muscle.")
SURE = Affect(engagement=-0.8, relaxation=0.3, arousal=0.0, confidence=0.9, held=12.0, trend="falling", slope=-0.4, slope_low=-0.6,
              slope_high=-0.1, minute=((1.0, -0.7, 0.2), (0.0, -0.8, 0.3)))  # fmt: skip


@pytest.mark.parametrize(
    ("before", "at_reply", "kept", "words", "tone"),
    [
        (SURE, POOR, SURE, "less engaged", "calm"),  # talking moved the jaw
        (POOR, SURE, SURE, "less engaged", "neutral"),  # known too late for the tone
        (POOR, POOR, POOR, "", "neutral"),
        (replace(SURE, held=9.0), POOR, replace(SURE, held=9.0), "", "neutral"),
    ],
)
async def test_a_sure_estimate_changes_one_sentence_and_the_tone_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Affect, at_reply: Affect, kept: Affect, words: str, tone: str
) -> None:
    """What was sure at the press counts; the trajectory comes back from the memory with the turn; abstaining changes nothing."""
    throat, pen, asked = SpokenTexts(), Notebook(REPLY), iter([before, at_reply])
    async with bedside(tmp_path, [SPEECH], throat=throat, pen=pen) as home:
        monkeypatch.setattr(home.companion.feed, "affect", lambda: next(asked))
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(1)
    assert turn.affect == kept
    assert (words in pen.requests[0]["affect"]) if words else pen.requests[0]["affect"] == ""
    assert throat.tones == [tone]


async def test_the_pen_is_told_of_the_turns_before_as_they_were_heard(tmp_path: Path) -> None:
    pen = Notebook("First reply.", "Second reply.")
    async with bedside(tmp_path, [SPEECH] * 2, pen=pen) as home:
        for _ in range(2):
            await press(home)
            await becomes(home, State.SPEAKING)
            await becomes(home, State.READY)
    first, second = pen.requests
    assert first["before"] == []
    assert second["before"] == [[SENTENCE, "First reply."]]
    assert second["avoid"] == ["First reply."]


async def test_a_clause_that_must_not_be_said_is_never_sent_to_the_voice(tmp_path: Path) -> None:
    throat = SpokenTexts()
    async with bedside(tmp_path, [SPEECH], replies=("Thank you. You should take two tablets now.",), throat=throat) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
    assert throat.texts == ["Thank you.", INSTEAD["dose"]]
    assert turn.reply == f"Thank you. {INSTEAD['dose']}"


BAD = {
    "harm": "Then kill yourself.", "dose": "Take two paracetamol tablets.", "diagnosis": "It sounds like depression.",
    "human": "I am a real person.", "feeling": "You are very sad.",
}  # fmt: skip


async def test_what_was_refused_is_counted_by_its_rule_and_kept_without_the_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, in the audit log and at the door; a sentence that stands for two clauses is said once."""
    assert list(BAD) == [name for name, _, _ in REPLY_RULES]
    throat = SpokenTexts()
    async with bedside(tmp_path, [SPEECH] * 2, replies=(" ".join(BAD.values()), BAD["dose"]), throat=throat) as home:
        for _ in range(2):
            await press(home)
            await becomes(home, State.SPEAKING)
            await becomes(home, State.READY)
        kept = lambda: [json.loads(line) for line in home.audit.read_text().splitlines() if "reply refused" in line]  # noqa: E731
        await until(lambda: len(kept()) == 6, "six entries")
        door = home.settings.safety.socket
        assert (await anyio.to_thread.run_sync(lambda: ask(door, status=True)))["refused"] == {name: 1 + (name == "dose") for name in BAD}
        written = home.audit.read_text()
    assert sorted((entry["rule"], entry["count"]) for entry in kept()) == sorted([*((name, 1) for name in BAD), ("dose", 2)])
    assert throat.texts == [*dict.fromkeys(INSTEAD[name] for name in BAD), INSTEAD["dose"]]
    assert len(lines(caplog, "reply_refused rule=")) == 6
    logged = "\n".join(record.getMessage() for record in caplog.records) + written
    assert not [words for words in ("kill yourself", "paracetamol", "depression", "real person", "very sad") if words in logged]


async def test_the_bank_answers_when_the_chat_model_says_what_must_not_be_said(tmp_path: Path) -> None:
    throat, pen = SpokenTexts(), AskedPen("You should take two tablets now.", name="chat", from_bank="What helped before?")
    async with bedside(tmp_path, [SPEECH], pen=pen, throat=throat) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
    assert throat.texts == ["What helped before?"]
    assert turn.reply == "What helped before?"
    assert pen.asked == [(SENTENCE, False), (SENTENCE, True)]


async def test_a_voice_that_stands_in_is_said_by_the_light(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with bedside(tmp_path, [], about={"stand_in": "no CUDA"}) as home:
        assert home.panel.lit() == STAND_IN.rgb
        await until(lambda: home.panel.lit() == (0, 0, 0), "the dark half")
        await until(lambda: home.panel.lit() == STAND_IN.rgb, "the lit half")
        assert home.companion.state is State.READY
    assert lines(caplog, "stand_in") == ['stand_in voice=tone reason="no CUDA"']


class Stalled(WavCard):
    """Its microphone gives nothing for as long as it says."""

    came: float | None = None

    def flow(self) -> tuple[float, float]:
        return (super().flow()[0] if self.came is None else self.came, super().flow()[1])


async def test_the_light_says_that_it_listens_once_a_sample_has_come(tmp_path: Path) -> None:
    card = Stalled([SPEECH], tail=0.3, preroll=0.5)
    async with bedside(tmp_path, [], card=card) as home:
        card.came = time.monotonic()
        home.panel.press_talk()
        await until(lambda: home.companion.state is State.LISTENING, "the press")
        await anyio.sleep(5 * edges.SOON)
        home.companion.show()  # nor does anything else that shows it again
        assert home.panel.lit() == LIGHTS[State.READY].rgb
        card.came = None
        await until(lambda: home.panel.lit() == LIGHTS[State.LISTENING].rgb, "the light of listening")
        card.came = 0.0
        home.panel.release_talk()
        await becomes(home, State.THINKING)


async def test_a_session_of_a_thousand_turns_is_still_answered(tmp_path: Path) -> None:
    """The replies of a long session must not outgrow the wire's longest line."""
    async with bedside(tmp_path, [SPEECH]) as home:
        home.companion.said += [f"{number} {LONG}" for number in range(1000)]
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert home.memory.recent(5)[-1].reply == REPLY
    assert home.seen == WHOLE_TURN


@pytest.mark.parametrize("nothing", ["", " … "])
async def test_a_plan_without_words_asks_to_say_it_again(tmp_path: Path, nothing: str) -> None:
    async with bedside(tmp_path, [SPEECH], replies=(nothing,)) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert ends_with(heard(home), "again")


async def test_the_bank_answers_when_the_chat_model_says_nothing(tmp_path: Path) -> None:
    pen = AskedPen("", name="chat", from_bank="What helped before?")
    async with bedside(tmp_path, [SPEECH], pen=pen) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert home.memory.recent(1)[0].reply == "What helped before?"
    assert [bank for _, bank in pen.asked] == [False, True]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("**Hello** (again). It is 10:30.", ["Hello, again.", "It is ten thirty."]),
        ("- \n***\n", ["What helped before?"]),  # markup alone
        ("no no no no no no no no", ["What helped before?"]),  # runs in a circle
        ("Patient: I am sad.", ["What helped before?"]),  # writes the patient's lines
        ("Have 5 tablets.", ["What helped before?"]),  # forbidden as written
        ("I hear you. I hear you. I hear you.", ["I hear you."]),
    ],
)
async def test_what_a_chat_model_writes_is_spoken_in_words_or_the_bank_answers(tmp_path: Path, written: str, said: list[str]) -> None:
    throat, pen = SpokenTexts(), AskedPen(written, name="chat", from_bank="What helped before?")
    async with bedside(tmp_path, [SPEECH], pen=pen, throat=throat) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert home.memory.recent(1)[0].reply == " ".join(said)
    assert throat.texts == said
    assert home.seen == WHOLE_TURN


async def test_the_voice_is_told_which_words_of_each_clause_were_heard(tmp_path: Path) -> None:
    throat = SpokenTexts()
    async with bedside(tmp_path, [SPEECH, SPEECH], throat=throat, replies=(LONG, REPLY)) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await until(lambda: home.card.played > 2.0, "two seconds of the reply")
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        first, second = home.memory.recent(2)
    cut = len(throat.heard) - len(list(clauses([REPLY])))
    assert " ".join(text for text, _ in throat.heard[:cut] if text) == first.reply.removesuffix(" —")
    assert sum(frames for _, frames in throat.heard[:cut]) == pytest.approx(first.played / 0.08, abs=2)
    assert " ".join(text for text, _ in throat.heard[cut:]) == second.reply == REPLY

