"""`bedside audio …`, for technicians: devices, test, calibrate. It only names them; `audio_check.py` does the work."""

from __future__ import annotations

import argparse
import importlib
from typing import Any


def add_parser(commands: Any) -> None:
    """`audio` and what it does, as subparsers of `commands`."""
    text = "the sound card: devices, test, calibrate"
    whats = commands.add_parser("audio", help=text, description=text).add_subparsers(required=True, metavar="WHAT")
    for name, text in (
        ("devices", "every card, and what audio.input and audio.output choose"),
        ("test", "play a tone and listen for it: does the card work, both ways"),
        ("calibrate", "measure the room, then speech: is the microphone's gain right"),
    ):
        sub = whats.add_parser(name, help=text, description=text)
        sub.set_defaults(do=_do, what=name)
        sub.add_argument("--json", metavar="FILE", help="write the figures there too")
        sub.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")


def _do(arguments: argparse.Namespace) -> int:
    work = getattr(importlib.import_module("device.audio_check"), arguments.what)  # numpy is not for --help
    return int(work(arguments))
