"""Logs as key=value lines on standard error, one for each transition and turn, never a patient's words."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO


def pairs(event: str, /, **fields: object) -> str:
    """`event key=value …`; a value with spaces is quoted."""
    out = [event]
    for key, value in fields.items():
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        if text == "" or any(c in text for c in ' "='):
            text = '"' + text.replace('"', "'") + '"'
        out.append(f"{key}={text}")
    return " ".join(out)


def log(event: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    logging.getLogger("bedside").log(level, pairs(event, **fields))


def setup(level: str = "info") -> None:
    """Write to standard error, where systemd's journal reads. Libraries speak only from WARNING up."""
    logging.basicConfig(stream=_stream(), format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("bedside").setLevel(level.upper())


def _stream() -> TextIO:
    """Standard error; where that is descriptor 2 a copy of it, for that one is sent away while a sound library probes (cards.quiet)."""
    try:
        real = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # none, or a test's own
        real = False
    return os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace") if real else sys.stderr
