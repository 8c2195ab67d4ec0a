"""The safety rules as a clinician wrote them: firmware_config/safety.toml, read, compiled and held against its own examples.

It decides nothing about what was heard (device/safety.py does).
"""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.config import FIRMWARE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = FIRMWARE / "safety.toml"
KINDS = ("suicide", "self_harm", "harm_to_others", "abuse", "medical", "call_someone")
LEVELS = ("low", "moderate", "high")
GAP = r"(?:[\w']+ ){0,4}"
KEYS = {"kind", "level", "reason", "says", "also", "unless", "hears", "spares", "signs", "need"}


class SafetyTableError(ValueError):
    """The table of rules can't be used. The message names the file, the rule, the value and the way out."""


@dataclass(frozen=True)
class Rule:
    """One thing to recognise, in device.safety.plain()'s words.

    `says` must be found in one sentence and `also`, where there is one, anywhere in what was heard; `unless`, in the same part of
    the sentence, spares it. In place of `says` a rule may have `signs`: it fires when `need` of them are anywhere in what was heard.
    """

    name: str
    kind: str
    level: str
    reason: str
    hears: tuple[str, ...]
    spares: tuple[str, ...]
    says: re.Pattern[str] | None
    also: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    signs: tuple[re.Pattern[str], ...]
    need: int


@dataclass(frozen=True)
class Table:
    """`misheard` is (words the recogniser writes, what was said); `terms` are the key terms that have slack, `not_terms` what looks
    or sounds like one and is none."""

    rules: tuple[Rule, ...]
    misheard: tuple[tuple[str, str], ...]
    terms: tuple[str, ...]
    not_terms: frozenset[str]


@functools.cache
def shipped() -> Table:
    """The device's own table. Raises SafetyTableError."""
    return read(TABLE)


def read(file: Path) -> Table:
    """The table in `file`. Raises SafetyTableError for anything that would leave a rule silent."""
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SafetyTableError(f"{file}: {error}: restore it from the release.") from None
    words = tree.get("words", {})
    rules = tuple(_rule(file, name, entry, words) for name, entry in tree.get("rule", {}).items())
    if not rules:
        raise SafetyTableError(f"{file}: it has no rule: restore it from the release.")
    slack = tree.get("slack", {})
    misheard = sorted(tree.get("misheard", {}).items(), key=lambda pair: -len(pair[0]))
    return Table(rules, tuple(misheard), tuple(slack.get("terms", ())), frozenset(slack.get("not", ())))


def _rule(file: Path, name: str, entry: dict[str, Any], words: dict[str, list[str]]) -> Rule:
    if wrong := set(entry) - KEYS:
        raise SafetyTableError(f"{file}: rule '{name}' has an unknown key '{sorted(wrong)[0]}'; known are {', '.join(sorted(KEYS))}.")
    for key, known in (("kind", KINDS), ("level", LEVELS)):
        if entry.get(key) not in known:
            raise SafetyTableError(f"{file}: rule '{name}': {key} = {entry.get(key)!r}: it must be one of {', '.join(known)}.")
    for key in ("reason", "signs" if "signs" in entry else "says", "hears", "spares"):
        if not entry.get(key):
            raise SafetyTableError(f"{file}: rule '{name}' has no '{key}': write one.")
    phrases: dict[str, list[str]] = {key: entry[key] for key in ("says", "also", "unless") if key in entry}
    phrases |= {f"signs.{key}": signs for key, signs in entry.get("signs", {}).items()}
    need = entry.get("need", 0)
    if "signs" in entry and not (type(need) is int and 2 <= need <= len(entry["signs"])):
        raise SafetyTableError(f"{file}: rule '{name}': need = {need!r}: of its {len(entry['signs'])} signs, at least two.")
    patterns: dict[str, re.Pattern[str]] = {}
    for key, listed in phrases.items():
        try:
            patterns[key] = compiled(listed, words)
        except ValueError as error:
            raise SafetyTableError(f"{file}: rule '{name}', {key}: {error}; the head of the file says how a phrase is written.") from None
    signs = tuple(pattern for key, pattern in patterns.items() if key.startswith("signs."))
    return Rule(
        name, entry["kind"], entry["level"], entry["reason"], tuple(entry["hears"]), tuple(entry["spares"]),
        patterns.get("says"), patterns.get("also"), patterns.get("unless"), signs, need,
    )  # fmt: skip


def compiled(phrases: list[str], words: dict[str, list[str]]) -> re.Pattern[str]:
    """The phrases of the table's own small language (described at its head) as one pattern over ' < the words > '."""
    parts = []
    for phrase in phrases:
        try:
            parts.append(_phrase(phrase, words))
        except ValueError as error:
            raise ValueError(f'"{phrase}": {error}') from None
        if re.fullmatch(parts[-1], ""):
            raise ValueError(f'"{phrase}": every word of it may be missing')
    return re.compile("(?<= )(?:" + "|".join(parts) + ")")


def _phrase(phrase: str, words: dict[str, list[str]]) -> str:
    out = ""
    for part in re.findall(r"\([^)]*\)|\[[^\]]*\]|\S+", phrase):
        if part == "...":
            out += GAP
        elif part[0] == "(":
            out += f"(?:{_one(part[1:-1], words)})?"
        else:
            out += _one(part, words)
    if not out:
        raise ValueError("an empty phrase")
    return out


def _one(part: str, words: dict[str, list[str]]) -> str:
    """One place of a phrase: a list's name in brackets, or words parted by '/'; each ends with its space."""
    if " " in part.strip("[]"):
        return _phrase(part, words)
    if part[0] == "[":
        name = part[1:-1]
        if name not in words:
            raise ValueError(f"no list of words is called [{name}]")
        return "(?:" + "|".join(_phrase(entry, words) for entry in words[name]) + ")"
    choices = []
    for word in part.split("/"):
        if not re.fullmatch(r"[\w']+\*?|[<>]", word):
            raise ValueError(f"{word!r} is no word")
        choices.append(re.sub(r"\*$", r"[\\w']*", word))
    return "(?:" + "|".join(choices) + ") "
