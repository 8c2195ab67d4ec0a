"""Calling a person: the call that waits for an acknowledgement, kept over a restart, and what the audit log says of it.

It knows no model and no network: the relay is the panel's, and `bedside caller` (device/caller.py) asks here what to tell whom.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from device.audit import Audit
from device.logs import log
from device.turn import Alert

FILE = "call.json"


@dataclass(frozen=True)
class Call:
    """A person was called and none has come yet. `at` is ISO 8601, UTC. Never a patient's words."""

    id: str
    kind: str
    level: str
    rule: str
    at: str

    def alert(self, message: str) -> Alert:
        return Alert(self.kind, self.rule, message, self.level)


class Caregiver:
    """The one open call. `folders`: where it is kept, on disk and, for a full disk, in memory that outlives the process (/run)."""

    def __init__(self, folders: tuple[Path, ...], audit: Audit) -> None:
        self._files = tuple(folder / FILE for folder in folders)
        self._audit = audit
        self._told: dict[str, str] = {}  # channel -> its last result
        self._disk = threading.Lock()  # a call that is still being kept must not outlive its end
        self.call: Call | None = self._restored()

    def begin(self, alert: Alert) -> Call:
        """The call for `alert`; at once and in memory, so that nothing waits for a disk. `keep()` makes it durable."""
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.call = Call(uuid.uuid4().hex, alert.kind, alert.level, alert.rule, at)
        self._told = {}
        log("caregiver_called", kind=alert.kind, grave=alert.level, rule=alert.rule, call=self.call.id)
        return self.call

    def keep(self, call: Call, again: bool = False) -> None:
        """On disk, and in the audit log. Blocks for the disk: never on the loop."""
        with self._disk:
            for file in self._files if self.call is call else ():
                try:
                    _write(file, json.dumps(asdict(call)))
                except OSError as error:
                    log("call_not_kept", file=file, reason=error)
        self._audit.note("call goes on" if again else "call", kind=call.kind, level=call.level, rule=call.rule, call=call.id)

    def told(self, channel: str, result: str) -> None:
        """What became of telling a person by `channel`; noted when it changes. Blocks for the disk."""
        if self.call is not None and self._told.get(channel) != result:
            self._told[channel] = result
            self._audit.note("told", channel=channel, result=result, call=self.call.id)

    def acknowledge(self) -> Call | None:
        """The call that ends now. `forget()` ends it on disk."""
        call, self.call = self.call, None
        log("caregiver_here", call=call.id if call else "")
        return call

    def forget(self, call: Call | None, by: str) -> None:
        """Blocks for the disk: never on the loop."""
        with self._disk:
            for file in self._files:
                try:
                    file.unlink(missing_ok=True)
                except OSError as error:
                    log("call_not_ended", file=file, reason=error)
        self._audit.note("acknowledged", by=by, call=call.id if call else "")

    def _restored(self) -> Call | None:
        damaged = False
        for file in self._files:
            try:
                tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
                return Call(**{key: str(tree[key]) for key in ("id", "kind", "level", "rule", "at")})
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                log("call_unreadable", file=file, reason=error)
                damaged = damaged or not isinstance(error, OSError)
        if not damaged:
            return None
        # Someone was being called, as far as we can read: call rather than guess.
        return Call(uuid.uuid4().hex, "call_someone", "high", "unreadable call", datetime.now(timezone.utc).isoformat())


def _write(file: Path, text: str) -> None:
    """Whole or not at all, durable. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
