"""The memory on real files: durable, private, forgetful when asked. It knows no voice and no loop."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from device.memory import MIGRATIONS, Memory, MemoryFault
from device.turn import Affect, Alert, Heard, Turn

SECRET = "the patient's daughter is called Wilhelmina"


def turn(text: str = "hello", **rest: object) -> Turn:
    return Turn(Heard(text, 1.5, 0.9), f"you said {text}", Affect(reason="no headset"), **rest)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "memory.db"


def test_a_whole_turn_comes_back_as_it_was(file: Path) -> None:
    whole = Turn(
        Heard("ich möchte “Tee” 🙂", 2.25, 0.75), "Of course.",
        Affect(engagement=0.4, arousal=-0.2, confidence=0.6, usable=0.75, reason=""),
        Alert("call_someone", "wants_a_person", "calling"), "csm", "bf16", 3.5,
        ((0.0, "listening"), (1.25, "thinking")), {"first_audio": 0.31},
    )  # fmt: skip
    memory = Memory(file)
    assert memory.add(whole) == 1
    assert memory.recent(5) == [whole]
    memory.close()
    assert Memory(file).recent(5) == [whole]


def test_recent_gives_the_last_turns_oldest_first(file: Path) -> None:
    memory = Memory(file)
    for number in range(5):
        memory.add(turn(str(number)))
    assert [t.heard.text for t in memory.recent(3)] == ["2", "3", "4"]
    assert memory.recent(0) == []


def test_every_opening_is_a_session_of_its_own(file: Path) -> None:
    first = Memory(file)
    first.add(turn("a"))
    first.close()
    second = Memory(file)
    second.add(turn("b"))
    assert second.session > first.session
    with sqlite3.connect(file) as db:
        assert [r[0] for r in db.execute("SELECT session FROM turns ORDER BY id")] == [
            first.session, second.session,
        ]  # fmt: skip


def test_a_turn_is_on_the_disk_when_add_returns(file: Path) -> None:
    """The writer is killed right after add(); another process finds the turn, and FULL is set."""
    script = f"""
        import os, signal
        from device.memory import Memory
        from device.turn import *
        m = Memory({str(file)!r})
        assert m._db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert m._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        m.add(Turn(Heard("kept", 1.0, 0.9), "yes", Affect()))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).resolve().parent.parent
    code = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=root, timeout=60, check=False
    ).returncode
    assert code == -signal.SIGKILL
    assert [t.heard.text for t in Memory(file).recent(9)] == ["kept"]


def test_nobody_else_may_read_the_files(file: Path) -> None:
    old = os.umask(0)
    try:
        memory = Memory(file)
        memory.add(turn())
    finally:
        os.umask(old)
    kept = list(file.parent.iterdir())
    assert file in kept
    assert len(kept) == 3  # the database, its log and the index of the log
    assert {stat.S_IMODE(f.stat().st_mode) for f in kept} == {0o600}


def test_forget_leaves_no_word_in_any_file(file: Path) -> None:
    memory = Memory(file)
    for _ in range(50):
        memory.add(turn(SECRET))
    here = b"".join(f.read_bytes() for f in file.parent.iterdir())
    assert b"Wilhelmina" in here  # else the next search would prove nothing
    memory.forget()
    assert memory.recent(9) == []
    for left in file.parent.iterdir():
        assert b"Wilhelmina" not in left.read_bytes(), left.name
    assert memory.add(turn("new")) == 1


def test_forget_takes_damaged_files_too(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(SECRET.encode() * 100)
    memory = Memory(file)
    assert memory.set_aside is not None
    assert memory.set_aside.exists()
    memory.forget()
    assert not memory.set_aside.exists()


def test_a_newer_file_is_refused_and_left_untouched(file: Path) -> None:
    Memory(file).close()
    with sqlite3.connect(file) as db:
        db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    db.close()
    before = file.read_bytes()
    with pytest.raises(MemoryFault, match="newer version"):
        Memory(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("harm", ["head", "middle", "cut"])
def test_a_damaged_file_is_set_aside_and_a_fresh_one_begun(
    file: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(file)
    for _ in range(200):
        memory.add(turn(SECRET))
    memory.close()
    data = bytearray(file.read_bytes())
    if harm == "head":
        data[:100] = b"x" * 100
    elif harm == "middle":
        data[4096 * 2 : 4096 * 6] = b"\xff" * (4096 * 4)
    else:
        del data[4096 * 5 :]
    file.write_bytes(data)
    again = Memory(file)
    assert again.set_aside == file.with_name(file.name + ".damaged-1")
    assert again.set_aside.read_bytes() == data
    assert again.recent(9) == []
    again.add(turn("fresh"))
    assert [t.heard.text for t in again.recent(9)] == ["fresh"]
    assert "memory_damaged" in caplog.text
    assert "Wilhelmina" not in caplog.text
    again.close()
    file.write_bytes(b"bad" * 999)
    assert Memory(file).set_aside == file.with_name(file.name + ".damaged-2")


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may grow over 40 kB while the fixture holds: the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, old)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_one_sentence_and_costs_no_earlier_turn(file: Path) -> None:
    memory = Memory(file)
    memory.add(turn("early"))
    with pytest.raises(MemoryFault, match="turns can't be kept") as fault:
        memory.add(turn("x" * 200_000))
    assert str(file) in str(fault.value)
    assert "\n" not in str(fault.value)
    assert [t.heard.text for t in memory.recent(9)] == ["early"]


def test_a_place_that_cannot_be_written_is_a_memory_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MemoryFault, match="turns can't be kept"):
        Memory(tmp_path / "file" / "memory.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_file_is_a_memory_fault_and_not_damage(file: Path) -> None:
    Memory(file).close()
    file.parent.chmod(0o500)
    try:
        with pytest.raises(MemoryFault, match="turns can't be kept"):
            Memory(file)
        assert list(file.parent.glob("*damaged*")) == []
    finally:
        file.parent.chmod(0o700)


def test_threads_may_share_it(file: Path) -> None:
    memory = Memory(file)
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda n: memory.add(turn(str(n))), range(20)))
    assert sorted(ids) == list(range(1, 21))
