"""Logs as key=value lines on standard error, one for each transition and turn, never a patient's words."""

from __future__ import annotations

import logging
import sys


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
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("bedside").setLevel(level.upper())
