"""The audit log on a real disk: what is written, what 'verify' finds, and what a full disk or a power cut leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from device.__main__ import main
from device.audit import HEAD, LOG, Audit, AuditFault, digest, verify

ROOT = Path(__file__).parent.parent
FULL = """
import resource, signal, sys
from device.audit import Audit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
audit = Audit(sys.argv[1])
audit.note("call", kind="medical")
size = __import__("os").path.getsize(sys.argv[1] + "/audit.log")
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))  # the disk takes a part of the next line
audit.note("told", channel="webhook")
print(open(sys.argv[1] + "/audit.log").read().count("\\n"))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
audit.note("acknowledged", by="button")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    audit = Audit(tmp_path / "safety")
    for number in range(5):
        audit.note("call", kind="medical", level="high", rule="heart", call=str(number))
    return tmp_path / "safety"


def test_a_log_that_nobody_touched_holds_together(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3, 4, 5]
    assert verify(folder) == (5, lines[-1]["hash"])
    assert (folder / LOG).stat().st_mode & 0o077 == 0
    config = tmp_path / "c.toml"
    config.write_text(f'[safety]\nfolder = "{folder}"\n')
    assert main(["audit", "verify", "--config", str(config)]) == 0
    assert f"5 entries hold together; the last has the hash {lines[-1]['hash']}" in capsys.readouterr().out
    (folder / LOG).write_text((folder / LOG).read_text().replace("heart", "fallen", 1))
    assert main(["audit", "verify", "--config", str(config)]) == 1
    assert "entry 1 was edited" in capsys.readouterr().err


def _edit(lines: list[str]) -> list[str]:
    return [lines[0].replace('"heart"', '"nothing"'), *lines[1:]]


def _forge(lines: list[str]) -> list[str]:
    """Edited, and its own hash made to fit: the next line tells."""
    entry = json.loads(lines[2])
    entry["rule"] = "nothing"
    entry["hash"] = digest(entry)
    return [*lines[:2], json.dumps(entry), *lines[3:]]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_edit, r"audit\.log:1: entry 1 was edited"),
        (_forge, r"audit\.log:4: entry 4 stands here: one was removed, added or moved"),
        (lambda lines: [*lines[:2], *lines[3:]], r"audit\.log:3: entry 4 stands here"),
        (lambda lines: lines[1:], r"audit\.log:1: entry 2 stands here"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], r"audit\.log:2: entry 3 stands here"),
        (lambda lines: [*lines, lines[-1]], r"audit\.log:6: entry 5 stands here"),
        (lambda lines: lines[:-1], r"ends with entry 4, but 5 were written: entries were removed from the end"),
        (lambda lines: lines[:1], r"ends with entry 1, but 5 were written"),
        (lambda lines: [], r"ends with entry 0, but 5 were written"),
        (lambda lines: [*lines[:4], "nonsense"], r"audit\.log:5: this is no entry"),
    ],
)  # fmt: skip
def test_an_edited_removed_or_moved_line_is_found(folder: Path, harm: Callable[[list[str]], list[str]], told: str) -> None:
    lines = harm((folder / LOG).read_text().splitlines())
    (folder / LOG).write_text("".join(line + "\n" for line in lines))
    with pytest.raises(AuditFault, match=told):
        verify(folder)


def test_a_head_that_was_taken_away_is_found(folder: Path) -> None:
    (folder / HEAD).unlink()
    with pytest.raises(AuditFault, match=r"audit\.head is missing"):
        verify(folder)


def test_a_power_cut_between_a_line_and_its_head_is_no_forgery(folder: Path) -> None:
    head = (folder / HEAD).read_text()
    Audit(folder).note("acknowledged", by="button")
    (folder / HEAD).write_text(head)
    assert verify(folder)[0] == 6


def test_a_torn_line_is_taken_away_and_said(folder: Path) -> None:
    with (folder / LOG).open("a") as log:
        log.write('{"n": 6, "at": "20')
    Audit(folder).note("acknowledged", by="button")
    assert verify(folder)[0] == 7
    torn, last = [json.loads(line) for line in (folder / LOG).read_text().splitlines()[-2:]]
    assert (torn["what"], torn["bytes"], last["what"]) == ("torn line removed", 18, "acknowledged")


def test_a_full_disk_loses_no_entry(tmp_path: Path) -> None:
    """A real limit of the kernel: a part of the line is written, and then no more."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"
    assert verify(tmp_path)[0] == 3
    told = [json.loads(line)["what"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert told == ["call", "told", "acknowledged"]


def test_two_processes_keep_one_chain(folder: Path) -> None:
    code = f"from device.audit import Audit\nfor n in range(20): Audit({str(folder)!r}).note('told', count=n)"
    others = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [child.wait(60) for child in others] == [0, 0]
    assert verify(folder)[0] == 45


def test_what_a_patient_says_has_no_field(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no field 'text'"):
        Audit(tmp_path).note("call", text="I want to die")


def test_only_a_change_of_what_runs_is_noted(tmp_path: Path) -> None:
    for sha in ("a", "a", "b", "b", "a"):
        Audit(tmp_path).changed("settings", sha)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["sha256"] for line in lines] == ["a", "b", "a"]
    assert os.listdir(tmp_path)
