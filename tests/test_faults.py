"""What goes wrong: a crisis, the call button, a voice that dies, fails or is taken, a memory that can't be kept."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from home import LONG, REPLY, SOUNDS, SPEECH, AskedPen, acknowledge, becomes, bedside, ends_with, heard, lines, press, until
from peers import LevelEars, serve

from device.memory import Memory
from device.states import LIGHTS, STAND_IN, TIMEOUTS, State
from device.turn import Heard
from device.voice.tone import ToneVoice

pytestmark = pytest.mark.anyio
CRISIS = "I want to kill myself"
SERVE = """
import sys
from peers import LevelEars, ListPen
from device.voice.server import Server
from device.voice.tone import ToneVoice
parts = LevelEars("I slept badly"), ListPen(sys.argv[2]), ToneVoice(), {}
Server(sys.argv[1], lambda status: parts).run()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _all_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def voice_process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real server in a process of its own, on tmp_path/v.sock."""
    tests = Path(__file__).parent
    command = [sys.executable, "-c", SERVE, str(tmp_path / "v.sock"), LONG]
    path = f"{tests}:{tests.parent}"
    child = subprocess.Popen(command, env={"PYTHONPATH": path}, cwd=tmp_path)
    yield child
    child.kill()
    child.wait(10)


async def test_a_frozen_voice_is_not_said_to_be_ready(
    tmp_path: Path, voice_process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket stays open: until systemd's watchdog comes, only the voice itself can say that it is well again."""
    monkeypatch.setitem(TIMEOUTS, State.THINKING, 1.0)
    async with bedside(tmp_path, [SPEECH, SPEECH], socket=str(tmp_path / "v.sock")) as home:
        voice_process.send_signal(signal.SIGSTOP)
        await press(home)
        await becomes(home, State.FAULT)
        seen = len(home.seen)
        monkeypatch.setitem(TIMEOUTS, State.FAULT, 0.5)
        await until(lambda: home.companion.state is State.STARTING, "another try")
        monkeypatch.setitem(TIMEOUTS, State.STARTING, 0.5)
        await until(lambda: home.seen[seen:].count(State.FAULT) == 2, "a third")
        assert State.READY not in home.seen[seen:]
        voice_process.send_signal(signal.SIGCONT)
        await becomes(home, State.READY)
        await press(home)
        await becomes(home, State.SPEAKING)


async def test_a_crisis_calls_a_person_and_plays_the_recorded_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with bedside(tmp_path, [SPEECH, SPEECH], sentence=CRISIS) as home:
        await press(home)
        await becomes(home, State.ALERTING)
        assert home.entered[-1] == (State.ALERTING, LIGHTS[State.ALERTING].rgb)
        home.panel.press_talk()
        home.panel.release_talk()
        await until(lambda: lines(caplog, "ignored state=alerting event=press"), "the ignored press")
        await until(lambda: home.card.pending == 0, "the whole message")
        assert np.array_equal(heard(home), SOUNDS["crisis"])
        assert home.companion.state is State.ALERTING
        await acknowledge(home)
        await becomes(home, State.READY)
        assert home.seen[-3:] == [State.ALERTING, State.STARTING, State.READY]
        await until(lambda: '"acknowledged"' in home.audit.read_text(), "the logged acknowledgement")
        (turn,) = home.memory.recent(5)
        assert turn.alert is not None
        assert (turn.alert.kind, turn.reply) == ("suicide", "")
    assert home.pen.asked == []


@pytest.mark.parametrize("begin", [State.READY, State.SPEAKING, State.FAULT, State.STARTING])
async def test_the_call_button_calls_from_everywhere_and_its_own_hold_does_not_end_it(
    tmp_path: Path, begin: State, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_voice = begin in (State.READY, State.SPEAKING)
    if begin is State.FAULT:
        monkeypatch.setitem(TIMEOUTS, State.STARTING, 0.1)
    async with bedside(tmp_path, [SPEECH], replies=(LONG,), voice=with_voice) as home:
        if begin is State.SPEAKING:
            await press(home)
        await becomes(home, begin)
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        assert home.panel.lit() == LIGHTS[State.ALERTING].rgb
        await until(lambda: lines(caplog, "ignored state=alerting event=acknowledge"), "the hold that began it")
        await until(lambda: home.card.pending == 0, "the whole message")
        assert ends_with(heard(home), "calling")
        assert home.companion.state is State.ALERTING
        await until(lambda: '"rule": "call button"' in home.audit.read_text(), "the entry")
        await acknowledge(home)
        await becomes(home, State.READY if with_voice else State.STARTING)


async def test_a_voice_that_dies_in_mid_reply_is_a_fault_until_a_new_one_serves(
    tmp_path: Path, voice_process: subprocess.Popen[bytes]
) -> None:
    path = str(tmp_path / "v.sock")
    async with bedside(tmp_path, [SPEECH, SPEECH], socket=path) as home:
        await press(home)
        await becomes(home, State.SPEAKING)
        await until(lambda: home.card.played > 2.0, "two seconds of the reply")
        voice_process.kill()
        await becomes(home, State.FAULT)
        assert home.entered[-1] == (State.FAULT, LIGHTS[State.FAULT].rgb)
        await until(lambda: ends_with(heard(home), "cant_answer"), "the recorded sentence")
        (cut,) = home.memory.recent(5)
        assert cut.reply.endswith("—")
        assert cut.engine == "tone"
        before = len(heard(home))
        home.panel.press_talk()
        home.panel.release_talk()
        await until(lambda: home.card.pending > 0, "an answer to the press")
        await until(lambda: home.card.pending == 0, "the recorded sentence")
        assert np.array_equal(heard(home)[before:], SOUNDS["cant_answer"])
        serve(path, LevelEars("I am back"), AskedPen(REPLY))
        await becomes(home, State.READY)
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert [turn.reply for turn in home.memory.recent(5)] == [cut.reply, REPLY]


async def test_no_voice_at_all_is_said_and_becomes_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TIMEOUTS, State.STARTING, 2.0)
    async with bedside(tmp_path, [], voice=False) as home:
        assert home.companion.state is State.STARTING
        home.panel.press_talk()
        home.panel.release_talk()
        await until(lambda: home.card.pending > 0, "an answer to the press")
        await until(lambda: home.card.pending == 0, "the recorded sentence")
        assert np.array_equal(heard(home), SOUNDS["starting"])
        await becomes(home, State.FAULT)


async def test_a_second_companion_is_told_and_the_first_is_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TIMEOUTS, State.STARTING, 1.3)
    (tmp_path / "second").mkdir()
    async with (
        bedside(tmp_path, [SPEECH]) as home,
        bedside(tmp_path / "second", [], voice=False, socket=home.settings.voice.socket) as second,
    ):
        await becomes(second, State.FAULT)  # by then it has asked three times
        assert State.READY not in second.seen
        assert len([line for line in lines(caplog, "voice_lost") if "another companion is using this voice" in line]) == 1
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)


async def test_a_memory_that_fails_does_not_silence_the_device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        home.memory.close()
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert home.companion.turns[-1].played > 0
        await until(lambda: ends_with(heard(home), "not_kept"), "the calm sentence that says so")
        assert home.companion.panel.lit() == STAND_IN.rgb
    assert lines(caplog, "memory_fault")
    assert State.FAULT not in home.seen


class FailsOnce(ToneVoice):
    """Its first sentence breaks off after a frame; the error quotes the text, as errors do."""

    broken = False

    def frames(self, text: str) -> Any:
        frames = super().frames(text)
        if not self.broken:
            self.broken = True
            yield next(frames)
            raise ValueError(f"can't say {text!r}")
        yield from frames


class DeafOnce(LevelEars):
    def finish(self) -> Heard:
        if not self.clips:
            self.clips.append(0)
            raise RuntimeError(f"lost {self.sentence!r}")
        return super().finish()


@pytest.mark.parametrize("part", ["throat", "ears"])
async def test_a_part_that_fails_once_is_a_fault_and_then_ready_by_itself(tmp_path: Path, part: str) -> None:
    parts: dict[str, Any] = {part: FailsOnce() if part == "throat" else DeafOnce("I slept badly")}
    async with bedside(tmp_path, [SPEECH, SPEECH], **parts) as home:
        await press(home)
        await becomes(home, State.FAULT)
        await becomes(home, State.READY)
        assert ends_with(heard(home), "cant_answer")
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        assert home.memory.recent(5)[-1].reply == REPLY
    assert home.seen.count(State.FAULT) == 1


async def test_the_log_never_holds_the_words_of_anyone(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    said, reply = "the marmalade zebra", "A porcupine sonata. It hums."
    async with bedside(tmp_path / ".", [SPEECH, SPEECH], sentence=said, replies=(reply, reply), throat=FailsOnce()) as home:
        await press(home)
        await becomes(home, State.FAULT)
        await becomes(home, State.READY)
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        home.ears.sentence = f"{said} {CRISIS}"
        home.card._inputs.append(SPEECH)
        await press(home)
        await becomes(home, State.ALERTING)
        await until(lambda: home.audit.exists() and '"call"' in home.audit.read_text(), "the entry")
    printed = capfd.readouterr()
    told = " ".join([caplog.text, home.audit.read_text(), printed.out, printed.err]).lower()
    assert "caregiver_called" in told
    assert "voice_failed" in told
    for word in ("marmalade", "zebra", "porcupine", "sonata", "hums", CRISIS.lower()):
        assert word not in told


async def test_the_call_button_does_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH, SPEECH]) as home:
        other = Memory(tmp_path / "memory.db")
        other._db.execute("BEGIN EXCLUSIVE")  # a real lock: storing waits for it
        await press(home)
        await becomes(home, State.SPEAKING)
        home.panel.press_talk()  # barge-in: the cut turn wants to be stored
        await becomes(home, State.LISTENING)
        home.panel.press_call()
        await becomes(home, State.ALERTING, 1.0)
        await until(lambda: ends_with(heard(home), "calling"), "the recorded message")
        other._db.execute("ROLLBACK")
        other.close()
        await until(lambda: home.memory.recent(5), "the turn that waited to be stored")
