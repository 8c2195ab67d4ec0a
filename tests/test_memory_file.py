"""The memory's file and its key: versions, damage, other keys, and files from before there was a key."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path

import pytest

from device import memory_file
from device.memory import Memory, MemoryFault
from device.memory_file import MIGRATIONS
from device.memory_key import CREDENTIAL, KeyFault, find_key, make_key
from device.turn import Affect, Heard, Turn

SECRET = "my daughter is called Wilhelmina"


def turn(text: str = "hello") -> Turn:
    return Turn(Heard(text, 1.5, 0.9), f"you said {text}", Affect(reason="no headset"))


def texts(memory: Memory) -> list[str]:
    return [t.heard.text for t in memory.recent(9)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "memory.db"


@pytest.mark.parametrize("harm", ["head", "middle", "cut", "bit"])
def test_a_damaged_file_is_set_aside_whole_and_a_fresh_one_begun(file: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(file)
    for _ in range(60):
        memory.add(turn(SECRET))
    memory.close()
    data = bytearray(file.read_bytes())
    if harm == "head":
        data[:100] = b"x" * 100
    elif harm == "middle":
        data[4096 * 2 : 4096 * 6] = b"\xff" * (4096 * 4)
    elif harm == "bit":
        data[4096 * 3 + 50] ^= 1
    else:
        del data[4096 * 5 :]
    file.write_bytes(data)
    again = Memory(file)
    assert again.set_aside == file.with_name(file.name + ".damaged-1")
    assert again.set_aside.read_bytes() == data
    again.add(turn("fresh"))
    assert texts(again) == ["fresh"]
    assert "memory_damaged" in caplog.text
    assert "Wilhelmina" not in caplog.text
    again.close()
    file.write_bytes(b"bad" * 999)
    assert Memory(file).set_aside == file.with_name(file.name + ".damaged-2")


def test_another_key_is_no_damage(file: Path, tmp_path: Path) -> None:
    """Else a technician who brings the wrong key would begin a new memory without noticing."""
    memory = Memory(file)
    memory.add(turn(SECRET))
    memory.close()
    before, key = file.read_bytes(), file.with_name("memory.key").read_bytes()
    other = tmp_path / "other.key"
    make_key(other)
    with pytest.raises(MemoryFault, match="put the right key back"):
        Memory(file, other)
    file.with_name("memory.key").unlink()
    with pytest.raises(MemoryFault, match=r"key of the memory is missing; put it back"):
        Memory(file)
    assert file.read_bytes() == before
    assert list(file.parent.glob("*damaged*")) == []
    file.with_name("memory.key").write_bytes(key)
    file.with_name("memory.key").chmod(0o600)
    assert texts(Memory(file)) == [SECRET]


def test_a_newer_file_is_refused_and_left_untouched(file: Path) -> None:
    memory = Memory(file)
    memory._db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    memory.close()
    before = file.read_bytes()
    with pytest.raises(MemoryFault, match=rf"newer version \({len(MIGRATIONS) + 1}, this one knows {len(MIGRATIONS)}\); update the device"):
        Memory(file)
    assert file.read_bytes() == before


def first_version(file: Path) -> None:
    """As the first version of this program wrote it: plain, with two sessions."""
    file.parent.mkdir()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version = 1")
        heard = json.dumps({"text": SECRET, "seconds": 1.5, "confidence": 0.9})
        affect = json.dumps({"engagement": 0.5, "reason": "", "a field of then": 3})
        for session in (1, 2):
            db.execute("INSERT INTO sessions VALUES (?, 1000.0)", (session,))
            db.execute(
                "INSERT INTO turns VALUES (?, ?, ?, ?, 'Oh.', ?, NULL, 'plain', 'int8', 1.0, '[[0.0, \"ready\"]]', '{}')",
                (session, session, 1000.0 + session, heard, affect),
            )
    db.close()


def test_a_file_of_the_first_version_is_brought_up_to_date_and_encrypted(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    first_version(file)
    caplog.set_level("INFO", logger="bedside")
    memory = Memory(file)
    assert texts(memory) == [SECRET, SECRET]
    old = memory.recent(1)[0]
    assert (old.affect, old.states, old.reply) == (Affect(engagement=0.5), ((0.0, "ready"),), "Oh.")
    assert [said.heard for said in memory.recall("Wilhelmina")] == [SECRET] * 2
    memory.add(turn("new"))
    assert "memory_encrypted" in caplog.text
    for each in file.parent.iterdir():
        assert b"ilhelmina" not in each.read_bytes(), each.name
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_power_cut_amid_encrypting_costs_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_version(file)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "power cut")))
        with pytest.raises(MemoryFault, match="power cut"):
            Memory(file)
    assert file.read_bytes().startswith(memory_file.PLAIN)
    assert texts(Memory(file)) == [SECRET, SECRET]


def test_a_migration_that_breaks_leaves_the_old_version(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(file)
    memory.add(turn(SECRET))
    memory.close()
    with monkeypatch.context() as patch:
        patch.setattr(memory_file, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE more (a)", "INSERT INTO nowhere VALUES (1)")))
        with pytest.raises(MemoryFault, match="no such table: nowhere"):
            Memory(file)
    assert texts(Memory(file)) == [SECRET]


# The key -----------------------------------------------------------------------------------------


def test_a_credential_of_systemd_comes_before_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    key = make_key(folder / CREDENTIAL)
    assert find_key(tmp_path / "memory.key", begin=True, env={"CREDENTIALS_DIRECTORY": str(folder)}) == key
    assert not (tmp_path / "memory.key").exists()
    begun = find_key(tmp_path / "memory.key", begin=True, env={})
    assert find_key(tmp_path / "memory.key", begin=False, env={}) == begun != key
    assert stat.S_IMODE((tmp_path / "memory.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (b"missing", 0o600, "this is no key of 64 hexadecimal digits"),
        (b"ab" * 31, 0o600, "this is no key of 64 hexadecimal digits"),
        (b"\xff" * 64, 0o600, "this is no key of 64 hexadecimal digits"),
        (b"ab" * 32, 0o644, "others may read the key of the memory; run 'chmod 600"),
    ],
)
def test_what_is_no_key_is_one_sentence(tmp_path: Path, content: bytes, mode: int, sentence: str) -> None:
    (tmp_path / "memory.key").write_bytes(content)
    (tmp_path / "memory.key").chmod(mode)
    with pytest.raises(KeyFault, match=sentence):
        find_key(tmp_path / "memory.key", begin=True, env={})


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    key = make_key(tmp_path / "memory.key")
    with pytest.raises(KeyFault, match="there is a key already"):
        make_key(tmp_path / "memory.key")
    assert find_key(tmp_path / "memory.key", begin=False, env={}) == key
    assert [each.name for each in tmp_path.iterdir()] == ["memory.key"]
