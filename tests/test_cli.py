"""The command line as a person meets it: in a process of its own, one sentence when it can't, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from device import models

ROOT = Path(__file__).parent.parent


def bedside(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "device", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, env={**os.environ})


def imported(code: str, *modules: str) -> list[str]:
    """Which of `modules` a fresh interpreter holds after `code`."""
    code += f"\nimport sys; print(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that could not be done."""
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("bedside: ")
    return line


def test_help_names_every_command() -> None:
    done = bedside("--help")
    assert done.returncode == 0
    for command in ("run", "voice", "demo", "say", "listen", "config", "models", "eeg", "bench"):
        assert f"\n    {command} " in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = "from device.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert imported(code, "torch", "transformers", "pydantic", "numpy", "anyio") == []


def test_the_package_itself_imports_nothing() -> None:
    assert imported("import device", "torch", "pydantic", "numpy") == []


def test_the_companion_imports_no_model() -> None:
    assert imported("import device.daemon, device.run", "torch", "transformers", "onnxruntime", "scipy") == []


def test_good_settings_are_called_good(tmp_path: Path) -> None:
    file = tmp_path / "good.toml"
    file.write_text('[voice]\nengine = "csm"\n')
    done = bedside("config", "check", "--config", str(file))
    assert (done.returncode, done.stdout) == (0, f"{file}: every setting is good\n")


def test_a_mistyped_setting_is_one_line_with_the_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[voice]\nengin = "csm"\n')
    line = sentence(bedside("config", "check", "--config", str(file)))
    assert line == f"bedside: {file}:2: unknown setting 'voice.engin': did you mean 'engine'?"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("none.wav", None, "no such sound file"),
        ("empty.wav", b"", "can't be read as sound"),
        ("garbage.wav", b"\x00\x01garbage" * 400, "can't be read as sound"),
    ],
)
def test_a_file_that_is_no_sound_is_one_sentence(tmp_path: Path, name: str, data: bytes | None, says: str) -> None:
    file = tmp_path / name
    if data is not None:
        file.write_bytes(data)
    line = sentence(bedside("listen", str(file)))
    assert str(file) in line
    assert says in line


def test_every_model_is_listed() -> None:
    done = bedside("models", "list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*models.TABLE, "words"]


def test_no_command_is_wrong_usage() -> None:
    done = bedside()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
