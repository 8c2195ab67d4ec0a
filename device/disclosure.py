"""When the device says that it is a machine: at the first turn of a session, and every three hours of one. Pure; it says nothing.

A session is the memory's: turns with less than half an hour between them. What was interrupted counts as not said.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from device.memory import BREAK

SENTENCE = "Just so you know, I am a machine, not a person."
EVERY = 3 * 3600.0  # seconds of one session
NEVER = float("-inf")


@dataclass(frozen=True)
class Disclosure:
    """`said`: when it was heard whole in this session, `turn`: when the last turn ended. Seconds of `clock()`."""

    said: float = NEVER
    turn: float = NEVER

    def due(self, now: float) -> bool:
        """Whether the reply that begins now must say it."""
        return now - self.turn > BREAK or now - self.said >= EVERY

    def after(self, now: float, told: bool) -> Disclosure:
        """What is known once a turn has ended; `told`: it was heard whole in it."""
        kept = NEVER if now - self.turn > BREAK else self.said
        return Disclosure(now if told else kept, now)


def clock() -> float:
    """Seconds that no setting of the wall clock moves, and that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def without(reply: str) -> str:
    """`reply` without the sentence or the heard part of it: what the next words are found from."""
    part = reply.removesuffix(" —")
    return "" if part and SENTENCE.startswith(part) else reply.removeprefix(SENTENCE).lstrip()
