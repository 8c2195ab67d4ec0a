"""`bedside chat`: what the device would say, typed and printed, for a technician. No sound, no memory, nobody is called.

It knows the words' own path alone: safety rules, pen, clauses, rules for replies, as `exchange.py` walks it aloud.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from device import safety
from device.config import Settings
from device.planner import REMEMBERED, clauses, steady
from device.reply_rules import INSTEAD, broken
from device.spoken import spoken

if TYPE_CHECKING:
    from device.voice.load import Writer
    from device.voice.parts import Pen


def chat(settings: Settings, typed: Iterable[str] = sys.stdin) -> int:
    """Answer each line until the end of the input."""
    pen, waits = open_pen(settings), sys.stdin.isatty()
    if waits:
        print(f"The words come from {pen.name}. Type what a patient says; Ctrl-D ends.")
    before: list[tuple[str, str]] = []
    for line in typed:
        if not (heard := line.strip()):
            continue
        if alert := safety.check(heard):
            print(f"ALERT {alert.kind} ({alert.rule}): a recorded message is played and a person is called; no reply is written.")
            continue
        said: list[str] = []
        for clause in answer(pen, heard, before):
            print(clause, end=" ", flush=True)
            said.append(clause)
        print()
        before.append((heard, " ".join(said)))
    return 0


def open_pen(settings: Settings) -> Writer:
    """The pen that the settings ask for. A bank that stands in for a chat model says so on standard error."""
    from device.voice.load import Writer, choose_device, hush_libraries

    hush_libraries()
    pen = Writer(settings, Path(settings.models.folder), choose_device(settings.voice.device), lambda text: None)
    if pen.stand_in:
        print(f"bedside: {pen.stand_in}", file=sys.stderr)
    return pen


def answer(pen: Pen, heard: str, before: list[tuple[str, str]]) -> Iterator[str]:
    """The clauses of the reply to `heard` as they are spoken, each as soon as it is written."""
    request = {"heard": heard, "before": before[-REMEMBERED:], "avoid": [reply for _, reply in before], "affect": ""}
    for bank in (False, True) if pen.name != "bank" else (True,):
        silent = True
        for clause in steady(clauses(pen.plan(request, bank))):
            rule = broken(clause)
            if rule and not bank:
                silent = True  # what it must not say: the reviewed bank answers
                break
            if said := INSTEAD[rule] if rule else spoken(clause):
                silent = False
                yield said
        if not silent:
            return
