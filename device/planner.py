"""What a reply is asked for and how it is cut: persona, memory and affect to a prompt, text to clauses.

Pure. It knows no model: `voice/words.py` writes the words, this file says from what and in which pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

REMEMBERED = 6  # turns in the prompt; a small model loses the thread beyond that
BUDGET = 1024  # tokens of a prompt, where nobody says otherwise

# A clause ends at . ! ? ; or a line's end always, and at a comma or dash once it is long enough to be spoken alone.
_END = re.compile(r"(?<=[.!?;…])[\"')\]]*\s+|(?<=[,:—–])\s+|(?<=\S) *\n\s*")
# No end: the last is a list's number.
_ABBREVIATED = re.compile(r"(?:\b(?:Dr|Mr|Mrs|Ms|Prof|St|No|vs|approx|[Ee]\.\s?g|[Ii]\.\s?e)|^\d{1,2})\.$", re.M)
_SOFT_WORDS = 5

# Who speaks next, in a model that writes the patient's lines too.
_ROLE = re.compile(r"[\W_]*(patient|user|human|system|assistant|companion|ai)\b[\W_]*:[\W_]*", re.IGNORECASE)
_OWN = ("assistant", "companion", "ai")
_LOOP = re.compile(r"\b(\w+)(?: \1){3,}\b|\b(\w+(?: \w+){1,7})(?: \2){2,}\b")  # "no, no, no" is how people speak


def about_tokens(text: str) -> int:
    """Tokens of a text, on the safe side, where no tokenizer is at hand."""
    return len(text) // 3 + 1


def messages(
    persona: str,
    before: Sequence[tuple[str, str]],
    heard: str,
    affect: str = "",
    remembered: Sequence[str] = (),
    count: Callable[[str], int] = about_tokens,
    budget: int = BUDGET,
) -> list[dict[str, str]]:
    """The chat prompt in at most `budget` tokens, as `count` tells them (the chat format's own marks are not counted).

    Persona and `affect`, one sentence, are always in it, and the end of what was `heard`, up to half the budget. Then come what is
    `remembered`, the most useful first, up to a quarter, and of the last (heard, reply) pairs as many as there is room for.
    """
    words = heard.split()
    while len(words) > 1 and count(" ".join(words)) > budget // 2:
        words = words[max(1, len(words) // 8) :]
    heard = " ".join(words) if len(words) < len(heard.split()) else heard
    system = " ".join(part for part in (persona.strip(), affect) if part)
    room = budget - count(system) - count(heard)
    kept: list[str] = []
    for line in remembered:
        if count("\n".join([*kept, line])) > min(budget // 4, room):
            break
        kept.append(line)
    if kept:
        room -= count("\n".join(kept))
        system += "\nWhat you remember of this patient:\n" + "\n".join(kept)
    turns: list[dict[str, str]] = []
    for patient, reply in reversed(before[-REMEMBERED:]):
        room -= count(patient) + count(reply)
        if room < 0:
            break
        turns = [{"role": "user", "content": patient}, {"role": "assistant", "content": reply}, *turns]
    return [{"role": "system", "content": system}, *turns, {"role": "user", "content": heard}]


def begun(text: str) -> bool:
    """Whether the first clause is there, so that it can be spoken."""
    return bool(_first_clause(text)[0]) or text.rstrip().endswith((".", "!", "?"))


def steady(written: Iterable[str]) -> Iterator[str]:
    """`written` clauses up to the first that was there before, runs in a circle, or speaks for the patient.

    One without a word in it is left out, and so is the model's own name before its first.
    """
    said: set[str] = set()
    for clause in written:
        role = _ROLE.match(clause)
        if role and not said and role[1].lower() in _OWN:
            clause, role = clause[role.end() :], None
        words = " ".join(re.findall(r"[\w'’]+", clause.lower()))
        if not words:
            continue
        if role or words in said or _LOOP.search(words):
            return
        said.add(words)
        yield clause


def to_sum_up(said: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """The prompt for a summary of a session of (heard, reply) pairs."""
    talk = "\n".join(f"Patient: {heard}\nCompanion: {reply}" for heard, reply in said)
    system = (
        "You keep notes for a bedside companion. Sum up what the patient told in this conversation in two short plain sentences, "
        "in the third person: who and what matters to them, what they worry about, what helped. Add nothing that was not said."
    )
    return [{"role": "system", "content": system}, {"role": "user", "content": talk}]


def aloud(pieces: Iterable[str]) -> Iterator[str]:
    """Streamed text without what a reasoning model thinks, however it is cut: from <think> to </think>, or to the end.

    Of each piece something comes, be it nothing: who waits may look at the clock.
    """
    text, thinking = "", False
    for piece in pieces:
        text += piece
        while (at := text.find(mark := "</think>" if thinking else "<think>")) >= 0:
            if not thinking and at:
                yield text[:at]
            text, thinking = text[at + len(mark) :], not thinking
        kept = next(n for n in range(len(mark), -1, -1) if text.endswith(mark[:n]))  # it may be the mark's beginning
        cut = len(text) - kept
        yield "" if thinking else text[:cut]
        text = text[cut:]
    if text and not thinking:
        yield text


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
        if clause and not _ABBREVIATED.search(clause) and not (soft and len(clause.split()) < _SOFT_WORDS):
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
