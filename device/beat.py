"""What a service tells systemd: READY, STATUS and the watchdog's beat. It knows nothing of turns."""

from __future__ import annotations

import os
import time

from device.logs import log


def notify(*lines: str) -> bool:
    """Send `READY=1`, `STATUS=…`, `WATCHDOG=1` to systemd; False when nobody listens."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return False
    try:
        from systemd import daemon

        return bool(daemon.notify("\n".join(lines)))
    except ImportError:
        log("systemd_missing", reason="NOTIFY_SOCKET is set but systemd-python is not installed: pip install systemd-python")
    except OSError as error:
        log("systemd_unreachable", reason=error)
    return False


def watchdog_seconds() -> float:
    """The period within which systemd wants a beat, 0 for none. (systemd.daemon has no reader for it.)"""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6


class Beat:
    """The watchdog's beat: `beat()` as often as one likes, systemd hears a third of its period.

    `every` is that third in seconds, 0 without a watchdog. Only the work that must not hang may call it.
    """

    def __init__(self) -> None:
        self.every = watchdog_seconds() / 3
        self._last = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if self.every and now - self._last >= self.every:
            self._last = now
            notify("WATCHDOG=1")
