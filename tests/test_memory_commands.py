"""`bedside memory` on a real file, and beside a process that has it open."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from device.__main__ import main
from device.memory import Memory, Segment
from device.turn import Affect, Heard, Turn

SECRET = "my daughter is called Wilhelmina"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "companion.toml"
    file.write_text(f'[memory]\nfile = "{tmp_path}/memory.db"\nkey = "{tmp_path}/key/memory.key"\n')
    return file


@pytest.fixture
def memory(config: Path, tmp_path: Path) -> Memory:
    memory = Memory(tmp_path / "memory.db", tmp_path / "key" / "memory.key")
    memory.add(Turn(Heard(SECRET, 1.5, 0.9), "Oh.", Affect(engagement=0.5)))
    return memory


def bedside(config: Path, *words: str) -> int:
    return main(["memory", *words, "--config", str(config)])


def test_a_key_is_made_once(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bedside(config, "key") == 0
    key = (tmp_path / "key" / "memory.key").read_text()
    assert len(bytes.fromhex(key)) == 32
    assert bedside(config, "key") == 1
    said = capsys.readouterr()
    assert "there is a key already" in said.err
    assert key.strip() not in said.out + said.err


def test_patients_come_and_are_listed_without_their_words(config: Path, memory: Memory, capsys: pytest.CaptureFixture[str]) -> None:
    assert bedside(config, "admit", "bed 2") == 0
    assert bedside(config, "patients") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == ["  patient  1 turns", "* bed 2  0 turns"]
    assert "Wilhelmina" not in out
    assert memory.recent(9) == []


def test_an_export_is_whole_and_for_its_owner_alone(
    config: Path, memory: Memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bedside(config, "export", str(tmp_path / "out"), "--audio") == 0
    told = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert told["patient"] == "patient"
    assert told["turns"][0]["heard"]["text"] == SECRET
    assert told["turns"][0]["affect"]["engagement"] == 0.5
    assert told["turns"][0]["at"][:2] == "20"
    assert stat.S_IMODE((tmp_path / "out" / "memory.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert "no sound is kept" in capsys.readouterr().out
    assert bedside(config, "export", str(tmp_path / "out")) == 1  # never into a folder that is there
    assert bedside(config, "export", str(tmp_path / "two"), "--patient", "nobody") == 1
    assert "No patient 'nobody'" in capsys.readouterr().err


def test_the_sound_of_a_conversation_with_csm_is_exported(config: Path, memory: Memory, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import tiny_csm

    from device import wavs

    checkpoint = tiny_csm.build(tmp_path / "csm")
    config.write_text(config.read_text() + f'[voice]\nengine = "csm"\ncsm_model = "{checkpoint}"\nprecision = "fp32"\nthreads = 1\n')
    codes = np.random.default_rng(0).integers(0, tiny_csm.CODEBOOK, (7, tiny_csm.CODEBOOKS)).astype(np.int16)
    memory.add_codes(1, [Segment("1", SECRET, codes), Segment("0", "Oh.", codes[:3])])
    assert bedside(config, "export", str(tmp_path / "out"), "--audio") == 0
    assert sorted(each.name for each in (tmp_path / "out").glob("*.wav")) == ["turn-000001-1-patient.wav", "turn-000001-2-companion.wav"]
    sound = wavs.read(tmp_path / "out" / "turn-000001-1-patient.wav", 24_000)
    assert len(sound) == 7 * 1920
    assert np.abs(sound).max() > 0


def test_erasing_asks_to_be_sure_and_then_leaves_nothing(config: Path, memory: Memory, capsys: pytest.CaptureFixture[str]) -> None:
    assert bedside(config, "erase") == 1
    assert "This would erase 1 turns of patient" in capsys.readouterr().out
    assert len(memory.recent(9)) == 1
    assert bedside(config, "erase", "--older-than", "1", "--sure") == 0
    assert len(memory.recent(9)) == 1
    assert bedside(config, "erase", "--sure") == 0
    assert memory.recent(9) == []
    assert bedside(config, "erase", "--patient", "nobody", "--sure") == 1


def test_a_command_begins_no_memory(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bedside(config, "patients") == 1
    assert "there is no memory here" in capsys.readouterr().err
    assert not (tmp_path / "memory.db").exists()
