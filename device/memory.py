"""The turns that were spoken, kept in one SQLite file that survives a power cut.

It knows nothing of the loop or the voice: whoever calls it runs it in a thread of their own.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from device.logs import log
from device.turn import Affect, Alert, Heard, Turn

# One entry per version of the file; user_version counts how many were applied. Append, never edit.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, started REAL NOT NULL);
    CREATE TABLE turns (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session INTEGER NOT NULL REFERENCES sessions(id),
        at REAL NOT NULL,
        heard TEXT NOT NULL,
        reply TEXT NOT NULL,
        affect TEXT NOT NULL,
        alert TEXT,
        engine TEXT NOT NULL,
        precision TEXT NOT NULL,
        played REAL NOT NULL,
        states TEXT NOT NULL,
        latency TEXT NOT NULL
    );
    """,
)


class MemoryFault(RuntimeError):
    """The turns can't be kept. One sentence: the file, what is wrong, and the way out."""


class Memory:
    """The memory file at `path`, opened or begun.

    `set_aside` is where a damaged file was moved, or None; `session` is this opening's id.
    Raises MemoryFault if the file is newer than this program or can't be opened or written.
    Safe to use from any thread, one call at a time.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.set_aside: Path | None = None
        self._lock = threading.Lock()
        with self._faults():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                if not _damaged(error):
                    raise
                self.set_aside = _move_aside(self.path)
                log("memory_damaged", level=logging.WARNING, kept_as=self.set_aside.name)
                self._db = self._open()
            self.session = self._begin_session()

    def add(self, turn: Turn) -> int:
        """Keep `turn`; it is on the disk before its id is returned. Raises MemoryFault."""
        row = (
            self.session,
            time.time(),
            _json(turn.heard),
            turn.reply,
            _json(turn.affect),
            _json(turn.alert) if turn.alert else None,
            turn.engine,
            turn.precision,
            turn.played,
            json.dumps(turn.states),
            json.dumps(turn.latency),
        )
        with self._lock, self._faults(), self._db:
            cursor = self._db.execute(
                "INSERT INTO turns (session, at, heard, reply, affect, alert, engine, precision,"
                " played, states, latency) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return int(cursor.lastrowid or 0)

    def recent(self, n: int) -> list[Turn]:
        """The last `n` turns of every session, oldest first. Raises MemoryFault."""
        with self._lock, self._faults():
            rows = self._db.execute(
                "SELECT heard, reply, affect, alert, engine, precision, played, states, latency"
                " FROM turns ORDER BY id DESC LIMIT ?",
                (max(0, n),),
            ).fetchall()
        return [_turn(row) for row in reversed(rows)]

    def forget(self) -> None:
        """Erase every turn and session, and the pages they lay on. Raises MemoryFault.

        Damaged files that were set aside hold words too: they go as well.
        """
        with self._lock, self._faults():
            with self._db:
                self._db.execute("DELETE FROM turns")
                self._db.execute("DELETE FROM sessions")
                self._db.execute("DELETE FROM sqlite_sequence WHERE name = 'turns'")
            self._db.execute("VACUUM")
            # The log still holds the old pages until it is folded in and cut to nothing.
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                raise MemoryFault(f"{self.path}: another program is reading it; close it, try again.")
            for old in self.path.parent.glob(f"{self.path.name}*.damaged-*"):
                old.unlink()
            self.session = self._begin_session()

    def close(self) -> None:
        with self._lock, self._faults():
            self._db.close()

    def _open(self) -> sqlite3.Connection:
        """A connection with the newest tables. Raises sqlite3.Error or MemoryFault."""
        if self.path.exists() and self.path.stat().st_size:
            self._refuse_newer()
        # Made here, so that no moment exists in which others may read it.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        self.path.chmod(0o600)
        db = sqlite3.connect(self.path, check_same_thread=False, timeout=5.0)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            # NORMAL lost up to 21 confirmed turns per power cut in a VM; FULL lost none in 12.
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA secure_delete=ON")
            db.execute("PRAGMA foreign_keys=ON")
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("database disk image is malformed")
            for number in range(_version(db), len(MIGRATIONS)):
                db.executescript(
                    f"BEGIN;{MIGRATIONS[number]};PRAGMA user_version={number + 1};COMMIT;"
                )
        except BaseException:
            db.close()
            raise
        return db

    def _refuse_newer(self) -> None:
        """Look through a read-only door first: a file we refuse is left as it was."""
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            version = _version(db)
        if version > len(MIGRATIONS):
            raise MemoryFault(
                f"{self.path}: written by a newer version ({version}, this one knows "
                f"{len(MIGRATIONS)}); update the device or set memory.file to another name."
            )

    def _begin_session(self) -> int:
        with self._db:
            cursor = self._db.execute("INSERT INTO sessions (started) VALUES (?)", (time.time(),))
        return int(cursor.lastrowid or 0)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Whatever SQLite or the disk says, as one MemoryFault."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise MemoryFault(
                f"{self.path}: the turns can't be kept: {why}; "
                "check the free space and that the service may write there."
            ) from error


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _damaged(error: sqlite3.DatabaseError) -> bool:
    """Damage, not a full disk or a missing right: those are subclasses and leave the file alone."""
    return type(error) is sqlite3.DatabaseError


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


def _json(part: Heard | Affect | Alert) -> str:
    return json.dumps(dataclasses.asdict(part), ensure_ascii=False)


def _affect(stored: dict[str, Any]) -> Affect:
    """JSON has no tuples."""
    return Affect(**{**stored, "minute": tuple((at, engaged, relaxed) for at, engaged, relaxed in stored.get("minute", ()))})


def _turn(row: tuple[str, str, str, str | None, str, str, float, str, str]) -> Turn:
    heard, reply, affect, alert, engine, precision, played, states, latency = row
    return Turn(
        heard=Heard(**json.loads(heard)),
        reply=reply,
        affect=_affect(json.loads(affect)),
        alert=Alert(**json.loads(alert)) if alert else None,
        engine=engine,
        precision=precision,
        played=played,
        states=tuple((float(at), str(name)) for at, name in json.loads(states)),
        latency=json.loads(latency),
    )
