"""No word of a patient reaches a log: whole turns through the real voice at the loudest level, then all that was written is read."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from home import becomes, bedside, press, until

from device import wavs
from device.logs import setup
from device.states import State
from device.turn import MIC_RATE

pytestmark = pytest.mark.anyio
SPEECH = Path(__file__).parent / "data/speech"
SAID = {"LJ001-0013.wav": "operations ugly", "LJ001-0020.wav": "invented middle ages"}  # words that no message of ours has


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def everything(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def voice_output(tmp_path: Path, models_folder: Path) -> Iterator[Path]:
    """What `bedside voice`, serving tmp_path/v.sock, writes on standard output and error."""
    config, output = tmp_path / "v.toml", tmp_path / "voice.out"
    config.write_text(
        f'[voice]\nsocket = "{tmp_path}/v.sock"\nthreads = 1\n[listen]\nmodel = "embedded:whisper-tiny"\n[log]\nlevel = "debug"\n', "utf-8"
    )
    with output.open("w") as out:
        voice = subprocess.Popen([sys.executable, "-m", "device", "voice", "--config", str(config)], stdout=out, stderr=out)
    yield output
    voice.kill()
    voice.wait(20)


async def test_no_word_that_was_said_is_in_any_log(
    tmp_path: Path, voice_output: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The voice in a process of its own, the companion here; whatever either writes, on standard output and error, and the audit log."""
    setup("debug")
    logging.getLogger().setLevel(logging.DEBUG)  # the libraries, too
    caplog.set_level(logging.DEBUG)
    await until(lambda: "voice_ready" in voice_output.read_text(), "the voice", 130)
    clips = [wavs.read(SPEECH / name, MIC_RATE) for name in SAID]
    async with bedside(tmp_path, clips, socket=f"{tmp_path}/v.sock", pen=object()) as home:
        for number in (1, 2):
            await press(home)
            await becomes(home, State.SPEAKING, 60)
            await becomes(home, State.READY, 60)
            await until(lambda number=number: len(home.companion.turns) == number, "the turn")
        turns, audit = home.memory.recent(2), home.audit.read_text()
    heard = " ".join(turn.heard.text.lower() for turn in turns)
    for words in SAID.values():
        assert set(words.split()) <= set(re.findall("[a-z]+", heard)), heard  # it was heard, so it could have been logged
    wrote = capfd.readouterr()
    logs = "\n".join([everything(voice_output), wrote.out, wrote.err, caplog.text, audit]).lower()
    assert "voice_spoke" in logs
    assert "turn number=2" in logs
    ours = {"thinking", "speaking", "listening", "ready", "voice", "words"}  # of our own messages
    words = {word for turn in turns for word in re.findall("[a-z]{5,}", f"{turn.heard.text} {turn.reply}".lower())} - ours
    assert len(words) > 8
    assert sorted(word for word in words if re.search(rf"\b{word}\b", logs)) == []
