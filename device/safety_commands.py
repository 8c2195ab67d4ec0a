"""`bedside status`, `caller`, `acknowledge` and `audit`, for systemd, a caregiver and a technician. Each imports only what it needs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from device.config import Settings


def add_parser(commands: Any) -> None:
    """The four, as subparsers of `commands`."""

    def command(name: str, do: Callable[[argparse.Namespace], int], text: str) -> Any:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(do=do)
        sub.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")
        return sub

    status = command("status", _status, "what the companion does now, and whom it calls")
    status.add_argument("--wait", type=float, metavar="SECONDS", help="until it is READY or has answered; 1 where it is not by then")
    caller = command("caller", _caller, "tell a person while a call is open, as systemd does")
    caller.add_argument("--test", action="store_true", help="one test call by the webhook and the command, and leave")
    command("acknowledge", _acknowledge, "a caregiver is here: end the alert, as the held call button does")
    audit = command("audit", _audit, "check the log of alerts, acknowledgements and changes")
    audit.add_argument("what", choices=["verify"])


def _settings(arguments: argparse.Namespace) -> Settings:
    from device import config, logs

    settings = config.load(arguments.config)
    logs.setup(settings.log.level)
    return settings


def _status(arguments: argparse.Namespace) -> int:
    from device.control import ControlLost, ask

    socket, well = _settings(arguments).safety.socket, ("ready", "listening", "thinking", "speaking", "alerting")
    ends = time.monotonic() + (arguments.wait or 0.0)
    while True:
        try:
            told, fault = ask(socket, status=True), ""
        except ControlLost as error:
            told, fault = {"state": ""}, str(error)
        if told["state"] in well or time.monotonic() >= ends:
            break
        time.sleep(min(0.5, max(0.0, ends - time.monotonic())))
    if fault:
        raise OSError(fault)
    print(told["state"].upper())
    if call := told["call"]:
        print(f"calling a person: {call['kind']}, since {call['at']}")
    if refused := told.get("refused"):
        print("not said since the start: " + ", ".join(f"{rule} {count}" for rule, count in sorted(refused.items())))
    return 0 if arguments.wait is None or told["state"] in well else 1


def _caller(arguments: argparse.Namespace) -> int:
    import signal

    from device.caller import caller, tell_once

    settings = _settings(arguments).safety
    if arguments.test:
        outcomes = tell_once(settings)
        for name, outcome in outcomes:
            print(f"{name}: {outcome}")
        if not outcomes:
            raise OSError("nobody to tell: set safety.webhook or safety.command")
        return 0 if all(outcome == "taken" for _, outcome in outcomes) else 1
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: ended.append(got))
    return caller(settings, lambda: bool(ended))


def _acknowledge(arguments: argparse.Namespace) -> int:
    from device.control import ask

    ask(_settings(arguments).safety.socket, acknowledge=True)
    print("The alert is over: a caregiver is here.")
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from device.audit import LOG, verify

    folder = _settings(arguments).safety.folder
    count, last = verify(folder)
    print(f"{folder}/{LOG}: {count} entries hold together; the last has the hash {last}")
    return 0
