"""CSM in its own process, a real companion beside it: turns, a barge-in, a kill, and a restart that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_csm
from home import SOUNDS, becomes, bedside, ends_with, heard, press, until

from device import wavs
from device.states import State
from device.turn import FRAME, MIC_RATE, VOICE_RATE

pytestmark = pytest.mark.anyio
SPEECH = Path(__file__).parent / "data/speech"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class VoiceProcess:
    """`bedside voice` with a tiny CSM and whisper-tiny, and what it logs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, str(folder / "v.sock")
        checkpoint = tiny_csm.build(folder / "csm", seed=3)
        self.config = folder / "settings.toml"
        self.config.write_text(
            f'[voice]\nsocket = "{self.socket}"\nengine = "csm"\ncsm_model = "{checkpoint}"\nthreads = 1\n'
            f'[listen]\nmodel = "embedded:whisper-tiny"\n'
        )
        self.log = folder / "voice.log"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Come back when it is ready."""
        with self.log.open("w") as log:
            self.child = subprocess.Popen([sys.executable, "-m", "device", "voice", "--config", str(self.config)], stderr=log)
        deadline = time.monotonic() + 120
        while not self.lines("voice_ready"):
            assert self.child.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        assert self.child is not None
        os.kill(self.child.pid, signal.SIGKILL)
        self.child.wait(10)

    def lines(self, event: str) -> list[dict[str, str]]:
        """The fields of each log line of this event."""
        found = [line.split() for line in self.log.read_text().splitlines() if line.startswith(event + " ")]
        return [dict(field.split("=", 1) for field in line[1:] if "=" in field) for line in found]


def told(home: Any) -> list[tuple[str, str, int]]:
    """(speaker, words, frames) of each segment that the memory keeps."""
    return [(s.speaker, s.text, len(s.codes)) for s in home.memory.spoken(tiny_csm.CODEBOOKS, 10**6)]


@pytest.fixture
def voice(tmp_path: Path, models_folder: Path) -> Iterator[VoiceProcess]:
    process = VoiceProcess(tmp_path)
    yield process
    if process.child is not None and process.child.poll() is None:
        process.kill()


def clip(name: str) -> Any:
    return wavs.read(SPEECH / name, MIC_RATE)


async def test_three_turns_a_barge_in_a_kill_and_a_restart_that_goes_on(voice: VoiceProcess, tmp_path: Path) -> None:
    voice.start()
    clips = [clip("LJ001-0002.wav"), clip("LJ001-0008.wav"), clip("LJ001-0002.wav"), clip("LJ001-0008.wav"), clip("LJ001-0002.wav")]
    async with bedside(tmp_path, clips, socket=voice.socket, pen=object()) as home:
        for number in (1, 2):
            await press(home)
            await becomes(home, State.SPEAKING, 30)
            await becomes(home, State.READY, 60)
            await until(lambda number=number: [s for s, _, _ in told(home)].count("1") == number, "the turn on disk")
        turns = home.memory.recent(5)
        assert [turn.engine for turn in turns] == ["csm", "csm"]
        whole = told(home)
        assert {text for speaker, text, _ in whole if speaker == "1"} == {turn.heard.text for turn in turns}
        # Every word of a reply that was played to its end is in CSM's conversation, with the sound that was played.
        said = " ".join(text for speaker, text, _ in whole if speaker == "0")
        assert sorted(said.split()) == sorted(" ".join(turn.reply for turn in turns).split())
        played = sum(frames for speaker, _, frames in whole if speaker == "0")
        assert played * FRAME / VOICE_RATE == pytest.approx(sum(turn.played for turn in turns), abs=0.2)

        await press(home)  # the third turn, which the fourth press interrupts
        await becomes(home, State.SPEAKING, 30)
        await until(lambda: home.card.played > 1.0, "a second of the reply")
        await press(home)
        await becomes(home, State.SPEAKING, 30)
        await becomes(home, State.READY, 60)
        await until(lambda: [s for s, _, _ in told(home)].count("1") == 4, "the fourth turn on disk")
        cut = next(turn for turn in home.memory.recent(5) if turn.reply.endswith("—"))
        third = told(home)[len(whole) :]
        third = third[: next(n for n, s in enumerate(third) if n and s[0] == "1")]
        assert " ".join(text for _, text, _ in third[1:]) == cut.reply.removesuffix(" —")
        assert sum(frames for _, _, frames in third[1:]) * FRAME / VOICE_RATE == pytest.approx(cut.played, abs=0.1)

        before = told(home)
        voice.kill()
        await becomes(home, State.FAULT)
        home.panel.press_talk()
        home.panel.release_talk()
        await until(lambda: ends_with(heard(home), "cant_answer"), "the recorded sentence that takes over")
        assert "cant_answer" in SOUNDS
        voice.start()
        await becomes(home, State.READY, 30)
        (resumed,) = voice.lines("conversation_resumed")
        assert int(resumed["segments"]) == len(before)
        await press(home)
        await becomes(home, State.SPEAKING, 30)
        await becomes(home, State.READY, 60)
        await until(lambda: len(told(home)) > len(before), "the fifth turn on disk")
        assert told(home)[: len(before)] == before


async def test_what_it_cost_is_told_with_each_sentence(voice: VoiceProcess, tmp_path: Path) -> None:
    voice.start()
    async with bedside(tmp_path, [clip("LJ001-0002.wav")], socket=voice.socket, pen=object()) as home:
        await press(home)
        await becomes(home, State.SPEAKING, 30)
        await becomes(home, State.READY, 60)
    spoke = voice.lines("voice_spoke")
    assert spoke
    for line in spoke:
        assert 0 < float(line["first_frame"]) < 20
        assert 0 < float(line["rtf"]) < 20
        assert 0.2 < float(line["peak_memory_gb"]) < 5
        assert int(line["under_runs"]) >= 0
    assert f'voice_status text="loading CSM from {tmp_path}/csm as int8, 50 %"' in voice.log.read_text()
    (loaded,) = voice.lines("csm_loaded")
    assert loaded["precision"] == "int8"
