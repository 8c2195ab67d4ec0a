"""Calling a person: a line in a call log that survives a power cut, and one in the journal.

It knows no model and no network. (The nurse-call relay and the webhook come with the issue on safety.)
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from device.logs import log


class Caregiver:
    """Every call and acknowledgement as one fsynced line: time, what, kind, rule. Never a patient's words."""

    def __init__(self, call_log: str) -> None:
        self._file = Path(call_log).expanduser()
        self.calls = 0

    def call(self, kind: str, rule: str) -> None:
        self.calls += 1
        log("caregiver_called", kind=kind, rule=rule)
        self._write(f"call kind={kind} rule={rule}")

    def acknowledged(self) -> None:
        log("caregiver_here")
        self._write("acknowledged")

    def _write(self, line: str) -> None:
        """A full disk must not stop the call: it is said in the journal and the alert goes on."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as out:
                out.write(f"{datetime.now(timezone.utc).isoformat(timespec='milliseconds')} {line}\n")
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            log("call_log_fault", file=self._file, reason=error)
