"""The audit log: what the device did and who came, one JSON line each, chained by hashes. Never a patient's words.

Each line holds the hash of the line before it, and a file beside it the number and hash of the last, so that an edited, removed or
moved line is found. It does not keep out who owns the machine: compare the last hash with the journal's, which has each of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections import deque
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from device.config import FIRMWARE, Settings, dump
from device.logs import log

LOG, HEAD = "audit.log", "audit.head"
FIRST = "0" * 64  # what the first line has in the place of a hash before it
WAITING = 1000  # entries kept while the disk is full; the newest count
# What may be written of an entry: names and numbers, none of which a patient says.
FIELDS = ("kind", "level", "rule", "call", "by", "channel", "result", "count", "name", "sha256", "bytes")


class AuditFault(ValueError):
    """The log does not hold together. The message names the file, the line and what is wrong with it."""


def digest(line: dict[str, Any]) -> str:
    """The hash of a line without its own hash: sha256 of its JSON, keys sorted."""
    plain = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Audit:
    """Appends to the log in `folder`. A full disk stops nothing: what can't be written waits in memory for the next entry."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, str, dict[str, Any]]] = deque(maxlen=WAITING)

    def note(self, what: str, **fields: str | int) -> None:
        """One entry, on disk at return if the disk can. `fields` are of FIELDS; another is a mistake of ours and raises ValueError."""
        if wrong := set(fields) - set(FIELDS):
            raise ValueError(f"an audit entry has no field {sorted(wrong)[0]!r}")
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        with self._lock:
            self._waiting.append((at, what, fields))
            try:
                self._write()
            except OSError as error:
                log("audit_waits", entries=len(self._waiting), reason=error)

    def changed(self, name: str, sha256: str) -> None:
        """Note what runs here (settings, rules, software) where it is another than the log has last."""
        try:
            last = [line for line in _lines(self._folder / LOG) if line.get("name") == name and line.get("what") == "runs"]
        except (OSError, AuditFault):
            last = []
        if not last or last[-1].get("sha256") != sha256:
            self.note("runs", name=name, sha256=sha256)

    def _write(self) -> None:
        """Raises OSError; what was written whole before stays written."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self._folder / LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # a command may write too
            number, before = self._end(file)
            while self._waiting:
                at, what, fields = self._waiting[0]
                line = {"n": number + 1, "at": at, "what": what, **fields, "before": before}
                line["hash"] = digest(line)
                _append(file, (json.dumps(line, ensure_ascii=False) + "\n").encode())
                self._waiting.popleft()
                number, before = number + 1, str(line["hash"])
                log("audit", n=number, what=what, hash=before)
                _replace(self._folder / HEAD, f"{number} {before}\n")
        finally:
            os.close(file)

    def _end(self, file: int) -> tuple[int, str]:
        """(number, hash) of the last line. A torn one, from a power cut, is taken away and said in the next entry."""
        size = os.fstat(file).st_size
        tail = os.pread(file, min(size, 65536), max(0, size - 65536))
        torn = len(tail) - (tail.rfind(b"\n") + 1)
        if torn:
            os.ftruncate(file, size - torn)
            self._waiting.appendleft((datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "torn line removed", {"bytes": torn}))
            tail = tail[:-torn]
        lines = tail.split(b"\n")[:-1]
        if not lines:
            return 0, FIRST
        try:
            last = json.loads(lines[-1])
            return int(last["n"]), str(last["hash"])
        except (ValueError, KeyError, TypeError):
            # Damaged by another hand: 'verify' will say so. We go on from what stands there.
            return -1, hashlib.sha256(lines[-1]).hexdigest()


def note_what_runs(audit: Audit, settings: Settings) -> None:
    """The settings, the safety rules and the software, where one of them is another than the log has last; and that we run."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        software = version("bedside-companion")
    except PackageNotFoundError:
        software = "a checkout"
    rules, recorded = (FIRMWARE / name for name in ("safety.toml", "sounds/SHA256SUMS"))
    for name, data in (
        ("settings", dump(settings).encode()),
        ("safety rules", rules.read_bytes()),
        ("recorded messages", recorded.read_bytes()),
        (f"software {software}", b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.rglob("*.py")))),
    ):
        audit.changed(name, hashlib.sha256(data).hexdigest())
    audit.note("started")


def _append(file: int, data: bytes) -> None:
    """All of `data` or none of it, durable. Raises OSError."""
    size = os.fstat(file).st_size
    try:
        if os.write(file, data) != len(data):
            raise OSError(28, "No space left on device")
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _replace(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)


def _lines(file: Path) -> list[dict[str, Any]]:
    out = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        try:
            out.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            raise AuditFault(f"{file}:{number}: this is no entry: it was edited or torn.") from None
    return out


def verify(folder: Path | str) -> tuple[int, str]:
    """(how many entries, the last hash) of a log that holds together. Raises AuditFault, or OSError where there is none."""
    file, head = Path(folder) / LOG, Path(folder) / HEAD
    previous, before, count = FIRST, FIRST, 0
    for line in _lines(file):
        if line.get("hash") != digest(line):
            raise AuditFault(f"{file}:{count + 1}: entry {line.get('n')} was edited: its hash does not fit it.")
        if line.get("n") != count + 1 or line.get("before") != before:
            raise AuditFault(f"{file}:{count + 1}: entry {line.get('n')} stands here: one was removed, added or moved.")
        previous, before, count = before, line["hash"], count + 1
    try:
        number, _, last = head.read_text(encoding="utf-8").strip().partition(" ")
    except FileNotFoundError:
        raise AuditFault(f"{head} is missing: entries may have been removed from the end.") from None
    # A power cut may come between the line and the head: then the log is one ahead.
    if (number, last) not in ((str(count), before), (str(count - 1), previous)):
        raise AuditFault(f"{file}: it ends with entry {count}, but {number} were written: entries were removed from the end.")
    return count, before
