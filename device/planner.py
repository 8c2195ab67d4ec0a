"""What a reply is asked for and how it is cut: persona, memory and affect to a prompt, text to clauses.

Pure. It knows no model: `voice/words.py` writes the words, this file says from what and in which pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

REMEMBERED = 6  # turns in the prompt; a small model loses the thread beyond that

# A clause ends at . ! ? or ; always, and at a comma or dash once it is long enough to be spoken alone.
_END = re.compile(r"(?<=[.!?;…])[\"')\]]*\s+|(?<=[,:—–])\s+")
_SOFT_WORDS = 5


def messages(persona: str, before: Sequence[tuple[str, str]], heard: str, affect: str = "") -> list[dict[str, str]]:
    """The chat prompt: persona, the last (heard, reply) pairs, what was heard; `affect` is one sentence."""
    system = " ".join(part for part in (persona.strip(), affect) if part)
    out = [{"role": "system", "content": system}]
    for patient, reply in before[-REMEMBERED:]:
        out.append({"role": "user", "content": patient})
        out.append({"role": "assistant", "content": reply})
    out.append({"role": "user", "content": heard})
    return out


def clauses(pieces: Iterable[str]) -> Iterator[str]:
    """Streamed text cut into speakable clauses, each as soon as it is complete."""
    text = ""
    for piece in pieces:
        text += piece
        while True:
            clause, text = _first_clause(text)
            if not clause:
                break
            yield clause
    if text.strip():
        yield text.strip()


def _first_clause(text: str) -> tuple[str, str]:
    """(the first complete clause or nothing, the rest)."""
    for cut in _END.finditer(text):
        clause = text[: cut.start()].strip()
        soft = clause.endswith((",", ":", "—", "–"))
        if clause and not (soft and len(clause.split()) < _SOFT_WORDS):
            return clause, text[cut.end() :]
    return "", text


def part_heard(spoken: Sequence[tuple[str, float]], played: float) -> str:
    """The words that reached the listener: whole clauses, and of the last one its share of words.

    `spoken` is (clause, seconds of its audio) in order; `played` is the seconds that left the speaker.
    """
    out: list[str] = []
    for clause, seconds in spoken:
        if seconds > 0 and played >= seconds - 0.05:
            out.append(clause)
            played -= seconds
            continue
        words = clause.split()
        kept = words[: int(len(words) * max(played, 0.0) / seconds)] if seconds > 0 else []
        if kept:
            out.append(" ".join(kept) + " —")
        break
    return " ".join(out)
