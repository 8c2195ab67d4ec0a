"""What is worth remembering of a session, and how it is said later. Pure: rules over the patient's own words, no model.

A fact is a sentence that the patient said, kept as they said it with its turn: nothing is put into their mouth. It knows no file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from device.memory_rows import Fact, Said, Session

LONGEST = 160  # characters of a sentence that is kept
MOST = 12  # facts of one session
_KIN = (
    "husband|wife|partner|son|daughter|boy|girl|brother|sister|mother|father|mum|mam|mom|dad|grandson|granddaughter|grandchildren|grandchild|"
    "grandmother|grandfather|nan|gran|granddad|uncle|aunt|nephew|niece|cousin|friend|neighbou?r|nurse|carer|dog|cat|terrier|budgie"
)
_FEAR = "worried|worrying|scared|afraid|frightened|anxious|nervous|terrified"

# (kind, how the prompt calls it, what a sentence of it holds, what it does not hold)
KINDS: tuple[tuple[str, str, re.Pattern[str], re.Pattern[str] | None], ...] = (
    ("name", "How they are called", re.compile(r"\b(?:[Mm]y name is|(?:[Pp]lease )?[Cc]all me|(?:I'm|I am) called) [A-Z][a-z]+"), None),
    ("person", "Somebody near them", re.compile(rf"\b[Mm]y (?:\w+ )?(?:{_KIN})s?\b,? (?:is |was )?(?:called |named )?[A-Z][a-z]+"), None),
    (
        "worry",
        "A worry",
        re.compile(
            rf"\bI(?:'m| am|'ve been| have been| was| feel| get)(?: \w+){{0,2}} (?:{_FEAR})\b"
            r"|\bI (?:keep|can't stop) (?:thinking|worrying)|\bI(?:'m| am)? dread(?:ing)?\b"
            r"|\b(?:worries|frightens|scares|bothers) me\b|\bon my mind\b"
        ),
        re.compile(rf"\b(?:not|never|no longer)\b(?: \w+){{0,2}} (?:{_FEAR})"),
    ),
    (
        "helps",
        "What helped",
        re.compile(
            r"(?i)\b(?:help(?:s|ed)|calm(?:s|ed)|soothe[sd]|comfort(?:s|ed)|cheer(?:s|ed)) me\b|\bmakes me feel (?:better|calm)"
            r"|\bfeel(?:s|ing)? better (?:when|if|with|after)\b"
            r"|\b(?:that|it|this|talking|music|singing|praying|breathing|reading)(?: really| always)? help(?:s|ed)\b"
        ),
        re.compile(r"(?i)(?:n't|\bnot|\bnever|\bno longer|\bnothing|\bhardly)\b[^.]{0,20}(?:help|calm|sooth|comfort|cheer|better)"),
    ),
    (
        "life",
        "Their life",
        re.compile(
            r"\bI (?:was|used to be|worked as|have been) (?:a|an|the) \w+|\bI used to \w+"
            r"|\bI(?:'ve| have)? (?:always )?love[ds]? \w+|\b[Mm]y favou?rite\b"
        ),
        re.compile(r"\bI was (?:a|the) (?:bit|little|lot|one)\b"),
    ),
)
_CALLED = {kind: called for kind, called, _, _ in KINDS}


def sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?…])\s+", text.replace("’", "'")) if part.strip()]


def facts(turns: Iterable[Said]) -> list[Fact]:
    """The durable things that the patient said, in their own sentences, each once, in order; at most MOST."""
    out: dict[str, Fact] = {}
    for turn in turns:
        for sentence in sentences(turn.heard):
            kind = _kind(sentence)
            if kind and len(sentence) <= LONGEST:
                out.setdefault(sentence.lower(), Fact(turn.turn, kind, sentence, turn.at))
    return list(out.values())[:MOST]


def _kind(sentence: str) -> str:
    if sentence.endswith("?"):
        return ""
    return next((kind for kind, _, holds, lacks in KINDS if holds.search(sentence) and not (lacks and lacks.search(sentence))), "")


def summary(turns: Sequence[Said]) -> str:
    """The one or two sentences of the patient that say most of what the others say too (Luhn 1958), in their order."""
    spoken = [sentence for turn in turns for sentence in sentences(turn.heard)]
    common = Counter(word for sentence in spoken for word in _words(sentence))
    told = [sentence for sentence in spoken if len(_words(sentence)) >= 2 and len(sentence) <= LONGEST]
    best = sorted(told, key=lambda sentence: -sum(common[word] for word in set(_words(sentence))))[:2]
    return " ".join(sentence for sentence in dict.fromkeys(told) if sentence in best)


def grounded(text: str, turns: Sequence[Said]) -> bool:
    """Whether every name and number of a model's summary was really said: what it made up is not kept."""
    said = set(re.findall(r"[\w']+", " ".join(turn.heard + " " + turn.reply for turn in turns).lower()))
    inner = re.findall(r"(?<![.!?] )(?<!^)\b[A-Z][a-z]+\b|\d+", text)
    return bool(text.strip()) and all(word.lower() in said for word in inner)


def lines(known: Sequence[Fact], sessions: Sequence[Session], recalled: Sequence[Said], now: float) -> list[str]:
    """What the prompt is told, the most useful first: how they are called, what touches this turn, the last sessions, the rest."""
    names = [_fact(fact, now) for fact in known if fact.kind == "name"][:1]
    near = [f"{_when(said.at, now)} they said: “{said.heard}”" for said in recalled]
    before = [f"{_when(session.started, now)} they spoke of this: {session.summary}" for session in sessions]
    rest = [_fact(fact, now) for fact in known if fact.kind != "name"]
    return list(dict.fromkeys([*names, *near, *before, *rest]))


def answer(found: Said | None, now: float) -> tuple[str, ...]:
    """What is said to "do you remember …?", in clauses: the patient's own words of then, or that there are none."""
    if found is None:
        return ("I don't remember that.", "Will you tell me about it?")
    words = found.heard.strip().rstrip(".!?…")
    return ("Yes, I remember.", f"{_when(found.at, now)} you said: {words}.", "How is it for you today?")


def _fact(fact: Fact, now: float) -> str:
    when = _when(fact.at, now)
    return f"{_CALLED.get(fact.kind, 'They said')} ({when[0].lower()}{when[1:]}): “{fact.text}”"


def _when(at: float, now: float) -> str:
    then = datetime.fromtimestamp(at)
    days = (datetime.fromtimestamp(now).date() - then.date()).days
    if days <= 0:
        return "Earlier today"
    if days == 1:
        return "Yesterday"
    return f"On {then:%A}" if days < 7 else "Last week" if days < 14 else "Some weeks ago"


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z']+", text.lower()) if len(word) > 3]
