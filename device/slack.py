"""Slack for recognition errors: words that are one slip of the ear or the pen away from a key term are read as that term.

It knows no rule: the terms, and what is near one and means something else, are firmware_config/safety.toml's.
"""

from __future__ import annotations

import functools
import re

# How English consonants fall together in a poor recording; vowels, h, w and y are dropped (after Russell's Soundex, kept in full).
_SOUNDS = str.maketrans({
    "b": "p", "p": "p", "f": "f", "v": "f", "c": "k", "g": "k", "k": "k", "q": "k", "j": "s", "s": "s", "x": "s", "z": "s", "d": "t",
    "t": "t", "l": "l", "m": "m", "n": "m", "r": "r", "a": "-", "e": "-", "i": "-", "o": "-", "u": "-", "y": "-", "h": "-", "w": "-",
})  # fmt: skip
MOST_WORDS = 5  # of a window that is held against a term: 'sue a side' is three for one


@functools.lru_cache(4096)
def sounds(letters: str) -> str:
    """How `letters` (no spaces) sound, roughly: 'suicide' and 'sueaside' are both 'sst'."""
    soft = re.sub(r"c(?=[eiy])", "s", letters).replace("ph", "f").replace("th", "f").replace("gh", "").replace("kn", "n")
    return re.sub(r"(.)\1+", r"\1", soft.translate(_SOUNDS)).replace("-", "")


def distance(a: str, b: str, most: int) -> int:
    """Edit distance of two strings with neighbours swapped counted once (optimal string alignment); `most` + 1 where it is more."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return row[-1]


@functools.lru_cache(8192)
def _term(window: tuple[str, ...], terms: tuple[str, ...]) -> str | None:
    """The term that these words are near to, or None."""
    letters = "".join(window)
    for term in terms:
        joined = term.replace(" ", "")
        slip, most = 1 if len(joined) < 13 else 2, 2 if len(window) == 1 else 3
        if abs(len(letters) - len(joined)) > 3 or (letters[:1] != joined[:1] and sounds(letters)[:1] != sounds(joined)[:1]):
            continue
        if distance(letters, joined, slip) <= slip or (sounds(letters) == sounds(joined) and distance(letters, joined, most) <= most):
            return term
    return None


def near(words: str, terms: tuple[str, ...], not_terms: frozenset[str]) -> str:
    """`words` with every window of up to MOST_WORDS that is near a term replaced by it. Windows never cross a '.'"""
    tokens, out, at = words.split(" "), [], 0
    longest = max((len(term.replace(" ", "")) for term in terms), default=0) + 3
    while at < len(tokens):
        for width in range(1, MOST_WORDS + 1):
            window = tokens[at : at + width]
            letters = sum(map(len, window))
            if len(window) < width or window[-1] == "." or letters > longest:
                width = 0
                break
            text = " ".join(window)
            if any(f" {text} ".endswith(f" {term} ") for term in terms):
                width = 0  # it is written right: a wider window would swallow a neighbour
                break
            term = None if any(f" {other} " in f" {text} " for other in not_terms) else _term(tuple(window), terms)
            if term:
                out.append(term)
                break
        else:
            width = 0
        if not width:
            out.append(tokens[at])
        at += width or 1
    return " ".join(out)
