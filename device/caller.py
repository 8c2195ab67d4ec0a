"""`bedside caller`: tells a person, by a webhook and a command, as long as a call at the bedside is open.

A process of its own, for the companion has no network and must never wait for one. It decides nothing about safety: it asks the
companion what is open, and tells it what became of the telling.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from device.config import Safety
from device.control import ControlLost, ask
from device.logs import log

LOOK = 1.0  # seconds between two looks at the companion
TIMEOUT = 10.0  # seconds that one telling may take


def channels(settings: Safety) -> dict[str, Callable[[dict[str, Any]], None]]:
    """Name -> what tells a person there. Each returns when it was taken and raises OSError or ValueError when it was not."""
    out: dict[str, Callable[[dict[str, Any]], None]] = {}
    if settings.webhook:
        out["webhook"] = lambda message: _post(settings.webhook, message)
    if settings.command:
        out["command"] = lambda message: _run(settings.command, message)
    return out


def _post(url: str, message: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # any status but 2xx raises HTTPError, an OSError
        answer.read(4096)


def _run(command: tuple[str, ...], message: dict[str, Any]) -> None:
    try:
        done = subprocess.run(list(command), input=json.dumps(message), text=True, timeout=TIMEOUT, stdout=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"it took more than {TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise OSError(f"status {done.returncode}")


class Channel(threading.Thread):
    """One way to a person, told again and again while a call is open. A thread each: one that hangs holds up no other."""

    def __init__(self, name: str, tell: Callable[[dict[str, Any]], None], settings: Safety) -> None:
        super().__init__(name=name, daemon=True)
        self._tell, self._settings = tell, settings
        self._wake = threading.Event()
        self._call: dict[str, Any] | None = None
        self._done = False
        self.start()

    def show(self, call: dict[str, Any] | None) -> None:
        """The open call, or None."""
        new = call is not None and (self._call is None or call["id"] != self._call["id"])
        self._call = call
        if new:
            self._wake.set()

    def end(self) -> None:
        self._call, self._done = None, True
        self._wake.set()

    def run(self) -> None:
        attempt, last = 0, ""
        while True:
            pause = None
            if (call := self._call) is not None:
                attempt = attempt + 1 if call["id"] == last else 1
                last = call["id"]
                pause = self._settings.tell_again_seconds if self._once(call, attempt) else self._settings.retry_seconds
            self._wake.wait(pause)
            self._wake.clear()
            if self._done:
                return

    def _once(self, call: dict[str, Any], attempt: int) -> bool:
        message = {"device": self._settings.device_name, "attempt": attempt, **call}
        try:
            self._tell(message)
            result = "taken"
        except (OSError, ValueError, urllib.error.URLError) as error:
            result = f"failed: {type(error).__name__}"
            log("call_not_taken", channel=self.name, attempt=attempt, reason=error)
        else:
            log("call_taken", channel=self.name, attempt=attempt, call=call["id"])
        try:
            ask(self._settings.socket, told=self.name, result=result)
        except ControlLost as error:
            log("companion_lost", reason=error)
        return result == "taken"


def caller(settings: Safety, until: Callable[[], bool] = lambda: False) -> int:
    """Runs until `until()`, asked every second. Raises ConfigError where there is nobody to tell."""
    from device.beat import Beat, notify
    from device.config import ConfigError

    ways = channels(settings)
    if not ways:
        raise ConfigError("bedside caller has nobody to tell: set safety.webhook or safety.command, or stop bedside-caller.service.")
    threads = [Channel(name, tell, settings) for name, tell in ways.items()]
    notify("READY=1")
    watchdog, said = Beat(), ""
    while not until():
        try:
            call = ask(settings.socket, status=True)["call"]
            for thread in threads:
                thread.show(call)
            said = ""
        except ControlLost as error:  # a call that was open stays open: the companion will be back, or a person is needed all the more
            if str(error) != said:
                log("companion_lost", reason=error)
                said = str(error)
        watchdog.beat()
        time.sleep(LOOK)
    for thread in threads:
        thread.end()
    return 0


def tell_once(settings: Safety) -> list[tuple[str, str]]:
    """A test call by every channel: (channel, what became of it)."""
    message = {"device": settings.device_name, "attempt": 1, "id": "test", "kind": "test", "level": "low", "rule": "test", "at": ""}
    out = []
    for name, tell in channels(settings).items():
        try:
            tell(message)
            out.append((name, "taken"))
        except (OSError, ValueError) as error:
            out.append((name, f"failed: {error}"))
    return out
