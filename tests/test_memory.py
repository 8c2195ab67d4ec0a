"""The memory on real files: durable, private, patients apart, and forgetful when asked. It knows no voice and no loop."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from device import memory_file
from device.memory import BREAK, Fact, Memory, MemoryFault, Segment
from device.turn import Affect, Alert, Heard, Turn

SECRET = "my daughter is called Wilhelmina"
ROOT = Path(__file__).resolve().parent.parent
NOW = time.time()


def turn(text: str = "hello", **rest: object) -> Turn:
    return Turn(Heard(text, 1.5, 0.9), f"you said {text}", Affect(reason="no headset"), **rest)  # type: ignore[arg-type]


def texts(memory: Memory) -> list[str]:
    return [t.heard.text for t in memory.recent(9)]


def codes(frames: int, seed: int = 0, codebooks: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2051, (frames, codebooks)).astype(np.int16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "memory.db"


@pytest.fixture
def memory(file: Path) -> Iterator[Memory]:
    memory = Memory(file)
    yield memory
    memory.close()


def test_a_whole_turn_comes_back_as_it_was(memory: Memory, file: Path) -> None:
    whole = Turn(
        Heard("ich möchte “Tee” 🙂", 2.25, 0.75), "Of course.",
        Affect(engagement=0.4, arousal=-0.2, confidence=0.6, usable=0.75, reason=""),
        Alert("call_someone", "wants_a_person", "calling"), "csm", "bf16", 3.5,
        ((0.0, "listening"), (1.25, "thinking")), {"first_audio": 0.31},
    )  # fmt: skip
    assert memory.add(whole) == 1
    assert memory.recent(5) == [whole]
    assert Memory(file).recent(5) == [whole]


def test_recent_gives_the_last_turns_oldest_first(memory: Memory) -> None:
    for number in range(5):
        memory.add(turn(str(number)))
    assert [t.heard.text for t in memory.recent(3)] == ["2", "3", "4"]
    assert memory.recent(0) == []


def test_a_long_break_and_no_restart_begins_a_session(memory: Memory, file: Path) -> None:
    memory.add(turn("a"), NOW - 2 * BREAK - 60)
    memory.add(turn("b"), NOW - BREAK - 60)
    memory.add(turn("c"), NOW - 60)
    again = Memory(file)
    again.add(turn("d"), NOW)
    assert [t.heard.text for t in again.ongoing(NOW)] == ["c", "d"]
    assert again.ongoing(NOW + BREAK + 1) == []
    first = again.untold(NOW)
    assert first is not None
    assert [said.heard for said in first.turns] == ["a"]


# Durable -----------------------------------------------------------------------------------------


def test_a_killed_process_loses_no_turn_that_it_was_told_is_kept(file: Path) -> None:
    """It is killed at ten moments while it stores turns as fast as it can; each number that it printed must be there."""
    script = f"""
        import sys
        from device.memory import Memory
        from device.turn import *
        m = Memory({str(file)!r})
        assert m._db.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert m._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        while True:
            print(m.add(Turn(Heard("x" * 999, 1.0, 0.9), "yes", Affect())), flush=True)
    """
    kept = 0
    for wait in range(10):
        child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(1 + 3 * wait)]
        child.send_signal(signal.SIGKILL)
        told += child.stdout.read().splitlines()
        assert child.wait(30) == -signal.SIGKILL
        numbers = [int(line) for line in told if line.strip()]
        memory = Memory(file)
        assert memory.set_aside is None
        ids = [row[0] for row in memory._db.execute("SELECT id FROM turns ORDER BY id")]
        memory.close()
        assert set(numbers) <= set(ids)
        assert len(ids) - kept <= len(numbers) + 1  # at most the turn that was in flight
        kept = len(ids)


def test_threads_and_a_second_process_share_one_file(memory: Memory, file: Path) -> None:
    script = f"""
        from device.memory import Memory
        from device.turn import *
        m = Memory({str(file)!r})
        for n in range(20):
            m.add(Turn(Heard(f"b{{n}}", 1.0, 0.9), "yes", Affect()))
    """
    other = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: memory.add(turn(f"a{n}")), range(20)))
    assert other.wait(60) == 0
    heard = [t.heard.text for t in memory.recent(99)]
    assert sorted(heard) == sorted([f"a{n}" for n in range(20)] + [f"b{n}" for n in range(20)])


# What is kept of a patient -----------------------------------------------------------------------


def test_patients_are_apart(memory: Memory) -> None:
    memory.add_codes(memory.add(turn(SECRET), NOW - 9999), [Segment("1", SECRET, codes(3))])
    session = memory.untold(NOW)
    assert session is not None
    memory.tell(session.id, "about a daughter", [Fact(1, "person", SECRET)])
    memory.admit("bed 2")
    memory.add(turn("I like tea"))
    assert texts(memory) == ["I like tea"]
    assert (memory.recall("daughter Wilhelmina"), memory.facts(), memory.sessions(9), memory.spoken(32, 99)) == ([], [], [], [])
    assert memory.patients() == [("patient", 1), ("bed 2", 1)]
    memory.admit("patient")
    assert texts(memory) == [SECRET]
    assert [said.heard for said in memory.recall("Wilhelmina")] == [SECRET]
    assert [fact.text for fact in memory.facts()] == [SECRET]
    with pytest.raises(MemoryFault, match=r"No patient 'bed 9' .* known are patient, bed 2"):
        memory.everything("bed 9")
    with pytest.raises(MemoryFault, match="empty"):
        memory.admit(" ")


def test_recall_finds_a_turn_by_other_forms_of_its_words_and_nothing_by_common_ones(memory: Memory) -> None:
    for text in ("My daughters visited on Sunday", "The soup was cold", "I was a postman", "Ich möchte Käse"):
        memory.add(turn(text))
    assert memory.recall("Did I mention my daughter's visit?")[0].heard == "My daughters visited on Sunday"
    assert memory.recall("kase")[0].heard == "Ich möchte Käse"
    assert memory.recall("what was that about the thing") == []
    assert memory.recall('") OR 1 --') == []
    assert memory.recall("postman", before=0) == []


def test_spoken_gives_whole_turns_of_these_codebooks_back_as_they_were(memory: Memory) -> None:
    for number in range(3):
        said = [Segment("1", f"heard {number}", codes(40, number)), Segment("0", f"said {number}", codes(30, 9 + number))]
        memory.add_codes(memory.add(turn(str(number))), said)
    memory.add_codes(memory.add(turn("other voice")), [Segment("1", "x", codes(3, 0, 8))])
    told = memory.spoken(32, 100)
    assert [segment.text for segment in told] == ["heard 1", "said 1", "heard 2", "said 2"]
    assert np.array_equal(told[0].codes, codes(40, 1))
    assert told[1].codes.dtype == np.int16
    memory.add_codes(999, [Segment("1", "of a turn that was forgotten", codes(3))])
    assert [segment.text for segment in memory.spoken(32, 9999)][-1] == "said 2"


def test_a_summary_and_its_facts_go_with_the_turns_they_come_from(memory: Memory) -> None:
    first, second = memory.add(turn("a"), NOW - 9999), memory.add(turn("b"), NOW - 9998)
    session = memory.untold(NOW)
    assert session is not None
    memory.tell(session.id, "a and b", [Fact(first, "life", "a"), Fact(second, "worry", "b"), Fact(777, "life", "of another session")])
    assert memory.untold(NOW) is None
    assert [(fact.turn, fact.text) for fact in memory.facts()] == [(second, "b"), (first, "a")]
    assert [s.summary for s in memory.sessions(3)] == ["a and b"]
    memory.forget_last()
    assert [fact.text for fact in memory.facts()] == ["a"]
    assert memory.sessions(3) == []  # it told of b: to be written anew
    again = memory.untold(NOW)
    assert again is not None
    assert [said.heard for said in again.turns] == ["a"]


# Erasing -----------------------------------------------------------------------------------------


@pytest.fixture
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code on a file that is not encrypted: what is in it can be searched for."""
    monkeypatch.setattr(memory_file, "unlock", lambda db, key: None)


def anywhere(file: Path, what: bytes) -> list[str]:
    return [each.name for each in file.parent.iterdir() if what in each.read_bytes()]


@pytest.mark.usefixtures("without_a_key")
@pytest.mark.parametrize("erase", ["last", "patient", "older", "another"])
def test_what_is_erased_is_gone_from_every_byte_of_every_file(file: Path, erase: str) -> None:
    memory, mark = Memory(file), codes(64).tobytes()[:64]
    for _ in range(60):
        memory.add(turn("something else"), NOW - 20000)
    for _ in range(1 if erase == "last" else 60):
        memory.add_codes(memory.add(turn(SECRET), NOW - 9999), [Segment("1", SECRET, codes(64))])
    session = memory.untold(NOW)
    assert session is not None
    memory.tell(session.id, SECRET, [])
    session = memory.untold(NOW)
    assert session is not None
    memory.tell(session.id, SECRET, [Fact(session.turns[0].turn, "person", SECRET)])
    assert anywhere(file, b"Wilhelmina")  # else the next search would prove nothing
    assert anywhere(file, b"wilhelmina")  # the index of words
    assert anywhere(file, mark)
    if erase == "last":
        memory.forget_last()
    elif erase == "older":
        memory.forget_older(NOW - 5000)
    else:
        if erase == "another":
            memory.admit("bed 2")
        memory.forget_patient("patient")
    memory._db.execute("UPDATE sessions SET summary = '' WHERE summary != ''")  # of the other session, in the test "last"
    memory._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert anywhere(file, b"ilhelmina") == []
    assert anywhere(file, mark) == []
    assert memory.add(turn("new")) > 1
    assert "new" in texts(memory)


def test_nothing_that_was_said_can_be_read_in_the_files(memory: Memory, file: Path) -> None:
    for _ in range(50):
        memory.add(turn(SECRET))
    assert anywhere(file, b"ilhelmina") == []
    memory.close()
    assert anywhere(file, b"ilhelmina") == []
    assert anywhere(file, b"SQLite format") == []


def test_a_set_aside_file_goes_when_all_is_forgotten(file: Path) -> None:
    Memory(file).close()
    file.write_bytes(SECRET.encode() * 50)
    memory = Memory(file)
    assert memory.set_aside is not None
    assert memory.set_aside.exists()
    memory.forget_patient()
    assert not memory.set_aside.exists()


def test_another_process_sees_that_something_was_erased(memory: Memory, file: Path) -> None:
    memory.add(turn(SECRET))
    before, other = memory.changes(), Memory(file)
    assert other.forget_last()
    assert memory.changes() > before
    assert texts(memory) == []
    assert not other.forget_last()


def test_what_can_not_leave_the_log_is_said_and_goes_later(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "PATIENCE", 0.1)
    memory = Memory(file)
    memory.add(turn(SECRET))
    reader = Memory(file)
    reader._db.execute("BEGIN")
    reader._db.execute("SELECT * FROM turns").fetchall()
    with pytest.raises(MemoryFault, match=r"try again"):
        memory.forget_last()
    assert texts(memory) == []
    assert memory.unshredded
    reader._db.execute("COMMIT")
    memory.shred()
    assert not memory.unshredded


# A full disk, and rights -------------------------------------------------------------------------


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_one_sentence_and_costs_no_earlier_turn(file: Path) -> None:
    memory = Memory(file)
    memory.add(turn("early"))
    with pytest.raises(MemoryFault, match="turns can't be kept") as fault:
        memory.add(turn("x" * 600_000))
    assert str(file) in str(fault.value)
    assert "\n" not in str(fault.value)
    assert texts(memory) == ["early"]
    memory.add(turn("late"))
    assert texts(memory) == ["early", "late"]


def test_a_place_that_cannot_be_written_is_a_memory_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MemoryFault, match="turns can't be kept"):
        Memory(tmp_path / "file" / "memory.db")


def test_nobody_else_may_read_the_files(file: Path) -> None:
    old = os.umask(0)
    try:
        memory = Memory(file)
        memory.add(turn())
    finally:
        os.umask(old)
    kept = {each.name: stat.S_IMODE(each.stat().st_mode) for each in file.parent.iterdir()}
    assert kept == dict.fromkeys(("memory.db", "memory.db-wal", "memory.db-shm", "memory.key"), 0o600)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


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
