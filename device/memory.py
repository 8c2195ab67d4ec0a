"""What was said at this bed: turns in sessions of one patient each, what is known of them, and the codes of what was spoken.

It knows nothing of the loop or the voice: whoever calls it runs it in a thread of their own. `memory_file.py` keeps the file.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from device.memory_file import MemoryFault, drop_set_aside, faults, open_file, shred, writing
from device.memory_rows import Fact, Said, Segment, Session, as_codes, as_json, as_turn
from device.turn import Turn

__all__ = ["Fact", "Memory", "MemoryFault", "Said", "Segment", "Session"]

BREAK = 30 * 60.0  # seconds without a turn after which a session is over
# In every other sentence, so a turn that shares only these is not about the same thing.
_COMMON = re.compile(
    "about|all|and|are|but|can|did|don|for|from|had|has|have|her|him|his|how|into|just|like|mine|not|now|our|out|said|say|she|some|tell|that"
    "|the|their|them|then|there|they|thing|this|told|very|was|were|what|when|where|who|why|will|with|would|you|your"
)
# Of the patient in the bed.
_THEIRS = "JOIN sessions ON sessions.id = turns.session AND sessions.patient = (SELECT patient FROM bed)"


class Memory:
    """The memory file at `path`, opened or begun, with the patient who lies in the bed.

    `key_file` is where its key is or will be (none: beside it); a systemd credential comes first. `set_aside` is where a damaged
    file was moved, or None. Raises MemoryFault if the file is newer than this program, encrypted with another key, or can't be
    opened or written. Safe to use from any thread, one call at a time, and beside another process.
    """

    def __init__(self, path: Path | str, key_file: Path | str | None = None) -> None:
        self.path = Path(path)
        self.key_file = Path(key_file) if key_file else self.path.with_name("memory.key")
        self.unshredded = False  # something was erased and may still lie in the file
        self._lock = threading.Lock()
        self._db, self.set_aside = open_file(self.path, self.key_file)

    def close(self) -> None:
        with self._lock, faults(self.path):
            self._db.close()

    # Turns -------------------------------------------------------------------------------------

    def add(self, turn: Turn, at: float | None = None) -> int:
        """Keep `turn`, spoken at `at` (now); it is on the disk before its id is returned. Raises MemoryFault."""
        at = time.time() if at is None else at
        with self._lock, faults(self.path), writing(self._db):
            row = {
                "session": self._session(at),
                "at": at,
                "heard": turn.heard.text,
                "seconds": turn.heard.seconds,
                "confidence": turn.heard.confidence,
                "reply": turn.reply,
                "affect": as_json(turn.affect),
                "alert": as_json(turn.alert) if turn.alert else None,
                "engine": turn.engine,
                "precision": turn.precision,
                "played": turn.played,
                "states": json.dumps(turn.states),
                "latency": json.dumps(turn.latency),
            }
            columns = ", ".join(row)
            cursor = self._db.execute(f"INSERT INTO turns ({columns}) VALUES (:{', :'.join(row)})", row)
        return int(cursor.lastrowid)

    def add_codes(self, turn: int, segments: Sequence[Segment]) -> None:
        """Keep the codes of what was spoken in a turn. One that was forgotten meanwhile stays forgotten. Raises MemoryFault."""
        rows = [(turn, n, s.speaker, s.text, s.codes.shape[1], s.codes.astype("<i2").tobytes()) for n, s in enumerate(segments)]
        with self._lock, faults(self.path), writing(self._db):
            if self._db.execute("SELECT 1 FROM turns WHERE id = ?", (turn,)).fetchone():
                self._db.executemany("INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?)", rows)

    def recent(self, n: int) -> list[Turn]:
        """The patient's last `n` turns, oldest first. Raises MemoryFault."""
        rows = self._rows(f"SELECT turns.* FROM turns {_THEIRS} ORDER BY turns.id DESC LIMIT ?", (max(0, n),))
        return [as_turn(row) for row in reversed(rows)]

    def ongoing(self, now: float) -> list[Turn]:
        """The turns of the session that goes on at the time `now`, oldest first; none after a break. Raises MemoryFault."""
        rows = self._rows(
            f"""SELECT turns.* FROM turns {_THEIRS} WHERE sessions.told = 0 AND session =
            (SELECT session FROM turns {_THEIRS} WHERE at > ? ORDER BY turns.id DESC LIMIT 1) ORDER BY turns.id""",
            (now - BREAK,),
        )
        return [as_turn(row) for row in rows]

    def spoken(self, codebooks: int, frames: int) -> list[Segment]:
        """The patient's last segments of so many codebooks, oldest first, whole turns up to about `frames` frames."""
        rows = self._rows(
            f"""SELECT segments.turn, segments.speaker, segments.text, segments.codes FROM segments JOIN turns ON turns.id = segments.turn
            {_THEIRS} WHERE segments.codebooks = ? ORDER BY segments.turn DESC, segments.place DESC LIMIT 2000""",
            (codebooks,),
        )
        out: list[tuple[int, Segment]] = []
        for row in rows:
            if sum(len(segment.codes) for _, segment in out) >= frames and row["turn"] != out[-1][0]:
                break
            out.append((row["turn"], Segment(row["speaker"], row["text"], as_codes(row["codes"], codebooks))))
        return [segment for _, segment in reversed(out)]

    def recall(self, text: str, n: int = 5, before: float = float("inf")) -> list[Said]:
        """The patient's turns before the time `before` that share the rarest words with `text`, the best first (FTS5's bm25)."""
        words = sorted({word for word in re.findall(r"\w+", text.lower()) if len(word) > 2 and not _COMMON.fullmatch(word)})
        if not words:
            return []
        asked = " OR ".join(f'"{word}"' for word in words[:32])
        rows = self._rows(
            f"""SELECT turns.id, turns.at, turns.heard, turns.reply FROM words JOIN turns ON turns.id = words.rowid {_THEIRS}
            WHERE words MATCH ? AND turns.at < ? AND turns.alert IS NULL ORDER BY bm25(words, 1.0, 0.2) LIMIT ?""",
            (asked, min(before, 1e12), n),
        )
        return [Said(*row) for row in rows]

    # What is known of the patient ----------------------------------------------------------------

    def untold(self, now: float) -> Session | None:
        """The oldest session of the patient that is over and whose summary is not written."""
        rows = self._rows(
            """SELECT sessions.id, sessions.started, sessions.summary FROM sessions JOIN turns ON turns.session = sessions.id
            WHERE sessions.told = 0 AND sessions.patient = (SELECT patient FROM bed) GROUP BY sessions.id
            HAVING MAX(turns.at) < ? ORDER BY sessions.id LIMIT 1""",
            (now - BREAK,),
        )
        if not rows:
            return None
        session, started, summary = rows[0]
        said = self._rows("SELECT id, at, heard, reply FROM turns WHERE session = ? AND alert IS NULL ORDER BY id", (session,))
        return Session(session, started, summary, tuple(Said(*row) for row in said))

    def tell(self, session: int, summary: str, facts: Iterable[Fact]) -> None:
        """Keep the summary and the facts of a session that is over. Raises MemoryFault."""
        with self._lock, faults(self.path), writing(self._db):
            self._db.execute("DELETE FROM facts WHERE turn IN (SELECT id FROM turns WHERE session = ?)", (session,))
            for fact in facts:
                self._db.execute(
                    "INSERT INTO facts (turn, kind, text) SELECT id, ?, ? FROM turns WHERE id = ? AND session = ?",
                    (fact.kind, fact.text, fact.turn, session),
                )
            self._db.execute("UPDATE sessions SET told = 1, summary = ? WHERE id = ?", (summary, session))

    def facts(self) -> list[Fact]:
        """What is known of the patient, the newest first."""
        rows = self._rows(
            f"""SELECT facts.turn, facts.kind, facts.text, turns.at FROM facts JOIN turns ON turns.id = facts.turn {_THEIRS}
            ORDER BY facts.id DESC"""
        )
        return [Fact(*row) for row in rows]

    def sessions(self, n: int) -> list[Session]:
        """The patient's last `n` sessions with a summary, the newest first, without their turns."""
        rows = self._rows(
            """SELECT id, started, summary FROM sessions WHERE summary != '' AND patient = (SELECT patient FROM bed)
            ORDER BY id DESC LIMIT ?""",
            (n,),
        )
        return [Session(*row) for row in rows]

    # Forgetting --------------------------------------------------------------------------------

    def changes(self) -> int:
        """Grows whenever something was erased or another patient came, by whatever process."""
        return int(self._rows("SELECT changes FROM bed")[0][0])

    def forget_last(self) -> bool:
        """Erase the patient's last turn, its codes and what was made of it. False if there was none. Raises MemoryFault."""
        return self._erase(f"turns.id = (SELECT MAX(turns.id) FROM turns {_THEIRS})") > 0

    def forget_patient(self, label: str | None = None) -> int:
        """Erase every turn of a patient (the one in the bed), and damaged files. Returns the turns that went. Raises MemoryFault.

        The label goes too, unless the patient lies in the bed.
        """
        label = self.patient() if label is None else label
        self._known(label)
        gone = self._erase("patients.label = ?", (label,), label)
        with faults(self.path):
            drop_set_aside(self.path)
        return gone

    def forget_older(self, than: float) -> int:
        """Erase every turn of every patient before the time `than`. Returns how many went. Raises MemoryFault."""
        if not self._rows("SELECT 1 FROM turns WHERE at < ? LIMIT 1", (than,)):
            return 0
        return self._erase("turns.at < ?", (than,))

    def _erase(self, which: str, values: Sequence[Any] = (), label: str = "") -> int:
        """Delete turns, sessions that are left empty, and the pages they lay on. A session's summary is written anew."""
        with self._lock, faults(self.path):
            with writing(self._db):
                rows = self._db.execute(
                    f"""SELECT turns.id, turns.session FROM turns JOIN sessions ON sessions.id = turns.session
                    JOIN patients ON patients.id = sessions.patient WHERE {which}""",
                    values,
                ).fetchall()
                for turn, session in rows:
                    self._db.execute("DELETE FROM turns WHERE id = ?", (turn,))
                    self._db.execute("UPDATE sessions SET told = 0, summary = '' WHERE id = ?", (session,))
                self._db.execute("DELETE FROM sessions WHERE id NOT IN (SELECT session FROM turns)")
                self._db.execute("DELETE FROM patients WHERE label = ? AND id != (SELECT patient FROM bed)", (label,))
                self._db.execute("UPDATE bed SET changes = changes + 1")
            self.unshredded = True
        self.shred()
        return len(rows)

    def shred(self) -> None:
        """What was deleted leaves the file and its log. Raises MemoryFault, on a full disk or while another program reads: try again."""
        with self._lock, faults(self.path):
            shred(self.path, self._db)
            self.unshredded = False

    # Patients ----------------------------------------------------------------------------------

    def patient(self) -> str:
        """The label of the patient in the bed."""
        return str(self._rows("SELECT label FROM patients WHERE id = (SELECT patient FROM bed)")[0][0])

    def patients(self) -> list[tuple[str, int]]:
        """(label, turns kept) of every patient, in the order of their admission."""
        rows = self._rows(
            """SELECT label, COUNT(turns.id) FROM patients LEFT JOIN sessions ON sessions.patient = patients.id
            LEFT JOIN turns ON turns.session = sessions.id GROUP BY patients.id ORDER BY patients.id"""
        )
        return [(str(row[0]), int(row[1])) for row in rows]

    def admit(self, label: str) -> None:
        """Another patient lies in the bed; one who was here before is remembered. Raises MemoryFault."""
        if not label.strip():
            raise MemoryFault(f"The label of a patient is empty: name a bed, a number or initials in place of {label!r}.")
        with self._lock, faults(self.path), writing(self._db):
            self._db.execute("INSERT OR IGNORE INTO patients (label, admitted) VALUES (?, ?)", (label.strip(), time.time()))
            self._db.execute(
                "UPDATE bed SET patient = (SELECT id FROM patients WHERE label = ?), changes = changes + 1", (label.strip(),)
            )

    def everything(self, label: str | None = None) -> tuple[dict[str, Any], list[tuple[int, Segment]]]:
        """(all that is kept of a patient as JSON can hold it, (turn, segment) of all that was spoken). Raises MemoryFault."""
        label = self.patient() if label is None else label
        patient = self._known(label)
        mine = "JOIN sessions ON sessions.id = turns.session WHERE sessions.patient = ?"
        turns = self._rows(f"SELECT turns.* FROM turns {mine} ORDER BY turns.id", (patient,))
        facts = self._rows(f"SELECT facts.* FROM facts JOIN turns ON turns.id = facts.turn {mine} ORDER BY facts.id", (patient,))
        sessions = self._rows("SELECT id, started, summary FROM sessions WHERE patient = ? ORDER BY id", (patient,))
        spoken = f"SELECT segments.* FROM segments JOIN turns ON turns.id = segments.turn {mine} ORDER BY turn, place"
        told = {
            "patient": label,
            "sessions": [dict(row) for row in sessions],
            "turns": [{"id": row["id"], "session": row["session"], "at": row["at"], **dataclasses.asdict(as_turn(row))} for row in turns],
            "facts": [dict(row) for row in facts],
        }
        rows = self._rows(spoken, (patient,))
        return told, [(row["turn"], Segment(row["speaker"], row["text"], as_codes(row["codes"], row["codebooks"]))) for row in rows]

    def _known(self, label: str) -> int:
        rows = self._rows("SELECT id FROM patients WHERE label = ?", (label,))
        if not rows:
            known = ", ".join(name for name, _ in self.patients())
            raise MemoryFault(f"No patient {label!r} in {self.path}; known are {known}.")
        return int(rows[0][0])

    def _session(self, at: float) -> int:
        """The session that goes on at the time `at`, or a new one. Within a transaction."""
        row = self._db.execute(
            """SELECT session, at FROM turns WHERE id = (SELECT MAX(turns.id) FROM turns JOIN sessions ON sessions.id = turns.session
            WHERE sessions.patient = (SELECT patient FROM bed) AND sessions.told = 0)"""
        ).fetchone()
        if row is not None and at - row[1] < BREAK:
            return int(row[0])
        cursor = self._db.execute("INSERT INTO sessions (patient, started) SELECT patient, ? FROM bed", (at,))
        return int(cursor.lastrowid)

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, faults(self.path):
            return list(self._db.execute(sql, values))
