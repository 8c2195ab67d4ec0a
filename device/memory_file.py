"""The memory's file: encrypted with SQLCipher, opened or begun, brought up to date, and set aside when damaged.

It knows no turn: `memory.py` says what is kept in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlcipher

from device.logs import log
from device.memory_key import KeyFault, find_key

PLAIN = b"SQLite format 3\0"  # how a file begins that is not encrypted: those of the first version
PATIENCE = 5.0  # seconds for another process to finish writing

# One entry per version of the file, each a list of statements; user_version counts how many were applied. Append, never edit.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, started REAL NOT NULL)",
        """CREATE TABLE turns (id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL REFERENCES sessions(id),
           at REAL NOT NULL, heard TEXT NOT NULL, reply TEXT NOT NULL, affect TEXT NOT NULL, alert TEXT, engine TEXT NOT NULL,
           precision TEXT NOT NULL, played REAL NOT NULL, states TEXT NOT NULL, latency TEXT NOT NULL)""",
    ),
    (
        "CREATE TABLE patients (id INTEGER PRIMARY KEY AUTOINCREMENT, label TEXT NOT NULL UNIQUE, admitted REAL NOT NULL)",
        "INSERT INTO patients (label, admitted) VALUES ('patient', unixepoch())",
        # Who lies in the bed, and how often something was erased: other processes look at it.
        """CREATE TABLE bed (one INTEGER PRIMARY KEY CHECK (one = 1), patient INTEGER NOT NULL REFERENCES patients(id),
           changes INTEGER NOT NULL)""",
        "INSERT INTO bed VALUES (1, 1, 0)",
        "ALTER TABLE sessions RENAME TO sessions_1",
        "ALTER TABLE turns RENAME TO turns_1",
        """CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, patient INTEGER NOT NULL REFERENCES patients(id) ON DELETE CASCADE,
           started REAL NOT NULL, told INTEGER NOT NULL DEFAULT 0, summary TEXT NOT NULL DEFAULT '')""",
        """CREATE TABLE turns (id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
           at REAL NOT NULL, heard TEXT NOT NULL, seconds REAL NOT NULL, confidence REAL NOT NULL, reply TEXT NOT NULL,
           affect TEXT NOT NULL, alert TEXT, engine TEXT NOT NULL, precision TEXT NOT NULL, played REAL NOT NULL,
           states TEXT NOT NULL, latency TEXT NOT NULL)""",
        "CREATE INDEX turns_of_session ON turns (session)",
        "INSERT INTO sessions (id, patient, started) SELECT id, 1, started FROM sessions_1",
        """INSERT INTO turns SELECT id, session, at, json_extract(heard, '$.text'), json_extract(heard, '$.seconds'),
           json_extract(heard, '$.confidence'), reply, affect, alert, engine, precision, played, states, latency FROM turns_1""",
        "DROP TABLE turns_1",
        "DROP TABLE sessions_1",
        # What was said in a turn as the voice keeps it: int16 codes, little-endian, (frames, codebooks).
        """CREATE TABLE segments (turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE, place INTEGER NOT NULL,
           speaker TEXT NOT NULL, text TEXT NOT NULL, codebooks INTEGER NOT NULL, codes BLOB NOT NULL, PRIMARY KEY (turn, place))""",
        """CREATE TABLE facts (id INTEGER PRIMARY KEY AUTOINCREMENT, turn INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
           kind TEXT NOT NULL, text TEXT NOT NULL)""",
        "CREATE INDEX facts_of_turn ON facts (turn)",
        """CREATE VIRTUAL TABLE words USING fts5(heard, reply, content = 'turns', content_rowid = 'id',
           tokenize = 'porter unicode61 remove_diacritics 2')""",
        # Without it a deleted word stays in the index until its pages are merged.
        "INSERT INTO words (words, rank) VALUES ('secure-delete', 1)",
        """CREATE TRIGGER turn_added AFTER INSERT ON turns BEGIN
           INSERT INTO words (rowid, heard, reply) VALUES (new.id, new.heard, new.reply); END""",
        """CREATE TRIGGER turn_gone AFTER DELETE ON turns BEGIN
           INSERT INTO words (words, rowid, heard, reply) VALUES ('delete', old.id, old.heard, old.reply); END""",
        "INSERT INTO words (words) VALUES ('rebuild')",
    ),
)


class MemoryFault(RuntimeError):
    """The turns can't be kept. One sentence: the file, what is wrong, and the way out."""


def open_file(path: Path, key_file: Path) -> tuple[Any, Path | None]:
    """(a connection with the newest tables, where a damaged file was moved or None). Raises MemoryFault.

    The connection commits by itself; `writing` groups statements.
    """
    with faults(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        head = path.read_bytes()[:16] if path.exists() else b""
        key = find_key(key_file, begin=head in (b"", PLAIN))
        aside = None
        try:
            if head == PLAIN:
                _encrypt(path, key)
            return _open(path, key), None
        except sqlcipher.DatabaseError as error:
            if not damaged(error):
                raise
            if head != PLAIN and _another_key(path, key):
                raise MemoryFault(f"{path}: this key opens not a page of it; put the right key back, or move the file away.") from None
            aside = _move_aside(path)
            log("memory_damaged", level=logging.WARNING, kept_as=aside.name)
            return _open(path, key), aside


def damaged(error: Exception) -> bool:
    """Damage, not a full disk or a missing right: those are subclasses and leave the file alone."""
    return type(error) is sqlcipher.DatabaseError


@contextmanager
def writing(db: Any) -> Iterator[None]:
    """One transaction, on the disk when the block ends: all of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled it back already
            db.execute("ROLLBACK")
        raise


def shred(path: Path, db: Any) -> None:
    """What was deleted leaves the file and its log. Raises MemoryFault while another program is reading."""
    db.execute("INSERT INTO words (words) VALUES ('rebuild')")
    db.execute("VACUUM")
    # The log still holds the old pages until it is folded in and cut to nothing.
    if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise MemoryFault(f"{path}: another program is reading it, so what was erased is still in its log; try again.")


def drop_set_aside(path: Path) -> None:
    """Damaged files that were set aside hold words too."""
    for old in path.parent.glob(f"{path.name}*.damaged-*"):
        old.unlink()


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Whatever SQLite or the disk says, as one MemoryFault."""
    try:
        yield
    except KeyFault as error:
        raise MemoryFault(str(error)) from error
    except (sqlcipher.Error, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MemoryFault(f"{path}: the turns can't be kept: {why}; check the free space and that the service may write there.") from error


def _connect(path: Path, key: bytes, mode: str = "rw") -> Any:
    where = f"{path.resolve().as_uri()}?mode={mode}"
    db = sqlcipher.connect(where, uri=True, check_same_thread=False, timeout=PATIENCE, isolation_level=None)
    db.execute("PRAGMA cipher_log_level = NONE")  # it would write to standard error
    db.row_factory = sqlcipher.Row
    unlock(db, key)
    return db


def unlock(db: Any, key: bytes) -> None:
    db.execute(f'PRAGMA key = "{_spelt(key)}"')


def _spelt(key: bytes) -> str:
    """As SQLCipher takes a raw key and its salt. The salt follows from the key: a file with a damaged head still shows whose it is."""
    salt = hashlib.sha256(b"bedside memory" + key).digest()[:16]
    return f"x'{key.hex()}{salt.hex()}'"


def _open(path: Path, key: bytes) -> Any:
    """Raises sqlcipher.Error or MemoryFault."""
    if path.exists() and path.stat().st_size:
        _refuse_newer(path, key)
    # Made here, so that no moment exists in which others may read it.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    db = _connect(path, key)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # NORMAL lost up to 21 confirmed turns per power cut in a VM; FULL lost none in 12.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlcipher.DatabaseError("database disk image is malformed")
        with writing(db):
            for number in range(_version(db), len(MIGRATIONS)):
                for statement in MIGRATIONS[number]:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute("PRAGMA foreign_keys = ON")  # not before: a migration may take a table's place
    except BaseException:
        db.close()
        raise
    return db


def _refuse_newer(path: Path, key: bytes) -> None:
    """Look through a read-only door first: a file we refuse is left as it was."""
    with closing(_connect(path, key, "ro")) as db:
        version = _version(db)
    if version > len(MIGRATIONS):
        raise MemoryFault(
            f"{path}: written by a newer version ({version}, this one knows {len(MIGRATIONS)}); "
            "update the device or set memory.file to another name."
        )


def _version(db: Any) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _encrypt(path: Path, key: bytes) -> None:
    """A plain file of the first version, encrypted in its place. The old one is overwritten before it goes."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with closing(sqlcipher.connect(path, isolation_level=None, timeout=PATIENCE)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        version = _version(db)
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        db.execute("ATTACH DATABASE ? AS locked KEY ?", (str(new), _spelt(key)))
        db.execute("SELECT sqlcipher_export('locked')")
        db.execute(f"PRAGMA locked.user_version = {version}")
        db.execute("DETACH DATABASE locked")
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    with path.open("rb+") as old:
        size = path.stat().st_size
        new.replace(path)
        old.write(b"\0" * size)
        os.fsync(old.fileno())
    log("memory_encrypted", file=path.name)


def _another_key(path: Path, key: bytes) -> bool:
    """Whether not one page can be read with `key`: damage leaves some."""
    pages = path.stat().st_size // 4096
    with closing(_connect(path, key, "ro")) as db:
        wrong = sum(1 for row in db.execute("PRAGMA cipher_integrity_check") if "HMAC" in row[0])
    return 0 < pages <= wrong


def _move_aside(path: Path) -> Path:
    """Rename the damaged file and its log to .damaged-N, so that a person can still look at them."""
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(kept)
    for tail in ("-wal", "-shm"):
        side = path.with_name(path.name + tail)
        if side.exists():
            side.rename(path.with_name(f"{path.name}{tail}.damaged-{number}"))
    return kept
