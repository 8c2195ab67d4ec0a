"""What the estimate may change in a reply: one sentence for the planner and the voice's tone, nothing else. Pure.

Both only after 10 s of one direction at confidence 0.7 or more. When the estimate abstains, nothing changes. The sentence tells
the planner how to answer; it never says what the listener feels, for nothing here knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from device.turn import Affect

SPEAK_OF_AFFECT = 0.7  # confidence below which the estimate changes nothing
HOLD_SECONDS = 10.0
LOST_SECONDS = 3.0  # between two estimates: what held before a longer silence is forgotten
TONES = ("neutral", "calm")  # what each is in a voice, the voice knows

_QUIET = (
    "Compared with their own quiet baseline, the listener's signal looks less engaged (this may be wrong): "
    "answer briefly and without hurry; do not mention it."
)
_BUSY = (
    "Compared with their own quiet baseline, the listener's signal looks more engaged (this may be wrong): "
    "answer plainly and to the point; do not mention it."
)


def steady(history: Sequence[Affect]) -> float:
    """Seconds up to the newest of `history` (oldest first) for which one direction of engagement was sure."""
    if not history or _way(history[-1]) == 0:
        return 0.0
    oldest = newest = history[-1]
    for affect in reversed(history):
        if _way(affect) != _way(newest) or oldest.at - affect.at > LOST_SECONDS:
            break
        oldest = affect
    return newest.at - oldest.at


def conditioning(affect: Affect) -> tuple[str, str]:
    """(a sentence for the planner's prompt or "", the tone of the voice: one of TONES). The estimate carries how long it has held."""
    way = _way(affect) if affect.held >= HOLD_SECONDS else 0
    return {0: ("", "neutral"), 1: (_BUSY, "neutral"), -1: (_QUIET, "calm")}[way]


def _way(affect: Affect) -> int:
    if affect.engagement is None or affect.confidence < SPEAK_OF_AFFECT:
        return 0
    return (affect.engagement > 0) - (affect.engagement < 0)
