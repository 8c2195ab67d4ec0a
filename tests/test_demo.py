"""The whole device from the outside: real voice process, real models, real recordings, simulated edges."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_csm import build

from device import wavs
from device.bench import word_errors as errors
from device.turn import MIC_RATE

SPEECH = Path(__file__).parent / "data/speech"
CLIP = SPEECH / "LJ001-0002.wav"  # "in being comparatively modern."
DEADLINE = 240


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "device", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)


def settings(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return file


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.fixture(scope="module")
def conversation(tmp_path_factory: pytest.TempPathFactory, models_folder: Path) -> Any:
    """Two turns: one of a clip as it is, one of the same reader at 44.1 kHz in stereo."""
    return converse(tmp_path_factory.mktemp("demo"))


def converse(folder: Path, *more: object) -> tuple[Path, Any, str]:
    sound, _ = soundfile.read(SPEECH / "LJ001-0008.wav")
    upsampled = np.interp(np.arange(0, len(sound), 0.5), np.arange(len(sound)), sound)
    soundfile.write(folder / "stereo.wav", np.stack([upsampled, upsampled * 0.8], axis=1), 44_100)
    done = run_demo("--wav", CLIP, "--wav", folder / "stereo.wav", "--out", folder / "out", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out", json.loads((folder / "out/turn.json").read_text()), done.stdout


def test_every_turn_is_heard_and_answered(conversation: Any) -> None:
    _, report, _ = conversation
    first, second = report["turns"]
    assert errors(words("in being comparatively modern"), words(first["heard"]["text"])) <= 1
    assert errors(words("has never been surpassed"), words(second["heard"]["text"])) <= 1
    assert first["reply"] != second["reply"]
    for turn in (first, second):
        assert turn["reply"]
        assert 0 < turn["heard"]["confidence"] <= 1
        names = [name for _, name in turn["states"]]
        assert names == ["listening", "thinking", "speaking", "ready"]
        assert turn["voice"] == {"engine": "csm", "precision": "int8"}
        latency = turn["latency"]
        assert 0 < latency["release_to_heard"] < latency["release_to_first_clause"] < latency["release_to_first_audio"]
    assert report["models"]["listen"] == "embedded:whisper-base"
    assert report["models"]["voice"] == "csm-small"
    assert report["stand_in"] == ""


def spoken_wrong(out: Path, report: Any, models: Path) -> tuple[int, int]:
    """(words of reply.wav that whisper-base writes back wrong, words)."""
    from device.voice.listen import Listener

    said = words(" ".join(turn["reply"] for turn in report["turns"]))
    heard = words(Listener("embedded:whisper-base", models, threads=2).transcribe(wavs.read(out / "reply.wav", MIC_RATE)).text)
    return errors(said, heard), len(said)


def test_what_csm_spoke_can_be_understood(conversation: Any, models_folder: Path) -> None:
    out, report, _ = conversation
    wrong, said = spoken_wrong(out, report, models_folder)
    assert wrong <= said / 3, f"{wrong} of {said} words"  # by chance up to a quarter of one reply


def test_what_the_plain_voice_spoke_is_what_was_written(tmp_path: Path, models_folder: Path) -> None:
    out, report, _ = converse(tmp_path, "--config", settings(tmp_path, '[voice]\nengine = "plain"\n'))
    assert {turn["voice"]["engine"] for turn in report["turns"]} == {"plain"}
    wrong, said = spoken_wrong(out, report, models_folder)
    assert wrong <= max(1, 0.1 * said), f"{wrong} of {said} words"


def test_another_demos_transcripts_are_named(conversation: Any) -> None:
    out, _, _ = conversation
    command = [sys.executable, "-m", "device", "bench", "score", "--demo", out, "--transcripts", SPEECH / "transcripts.tsv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"turn.json has 2 turns, {SPEECH}/transcripts.tsv 6 lines: give the words of its recordings")


def test_the_headset_streamed_and_the_estimate_gives_its_reason(conversation: Any) -> None:
    _, report, _ = conversation
    for turn in report["turns"]:
        affect = turn["affect"]
        assert affect["valence"] is None
        assert affect["reason"]
        assert "no headset" not in affect["reason"]


def test_the_time_line_and_the_picture_are_there(conversation: Any) -> None:
    out, _, printed = conversation
    for piece in ("ready      light green", "listening  light blue", "speaking   light cyan", "heard", "affect", "latency"):
        assert piece in printed
    assert (out / "turn.png").read_bytes()[:4] == b"\x89PNG"


def test_csm_speaks_through_both_processes(tmp_path: Path, models_folder: Path) -> None:
    checkpoint = build(tmp_path / "csm")
    config = settings(tmp_path, f'[voice]\nengine = "csm"\ncsm_model = "{checkpoint}"\n[listen]\nmodel = "embedded:whisper-tiny"\n')
    done = run_demo("--wav", CLIP, "--out", tmp_path / "out", "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/turn.json").read_text())
    assert report["turns"][0]["voice"] == {"engine": "csm", "precision": "int8"}
    assert report["stand_in"] == ""
    assert soundfile.info(tmp_path / "out/reply.wav").duration > 0.5


def test_a_csm_that_can_not_run_is_announced_never_hidden(tmp_path: Path, models_folder: Path) -> None:
    config = settings(tmp_path, f'[voice]\nengine = "csm"\ncsm_model = "{tmp_path}/nothing"\n')
    done = run_demo("--wav", CLIP, "--out", tmp_path / "out", "--config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/turn.json").read_text())
    assert report["turns"][0]["voice"]["engine"] == "plain"
    assert f"{tmp_path}/nothing" in report["stand_in"]
    assert "light green, slow" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("missing.wav", None, "missing.wav"), ("empty.wav", b"", "empty.wav"), ("noise.wav", b"not sound" * 99, "noise.wav")],
)
def test_a_recording_that_can_not_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run_demo("--wav", tmp_path / name, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_models_that_are_missing_are_one_sentence_with_the_way_out(tmp_path: Path) -> None:
    config = settings(tmp_path, f'[models]\nfolder = "{tmp_path}/none"\n')
    done = run_demo("--wav", CLIP, "--out", tmp_path / "out", "--config", config)
    assert done.returncode == 1
    assert "bedside models fetch" in done.stderr
    assert "Traceback" not in done.stderr
