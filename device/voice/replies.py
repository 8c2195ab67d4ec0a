"""Reads the reviewed replies and the persona from their files, strictly.

It does not know how a reply is chosen: `words.py` does.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OTHER = "other"  # the theme whose replies fit anything a patient says


class WordsFault(RuntimeError):
    """The words cannot be loaded. The message is one sentence: the thing, its value, the way out."""


def short(error: Exception) -> str:
    """The first words of a library's error, for a sentence of ours."""
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


@dataclass(frozen=True)
class Reply:
    """One entry of the bank: what it answers (`hears`) and what is spoken (`says`)."""

    theme: str
    feeling: str
    hears: tuple[str, ...]
    says: str


@dataclass(frozen=True)
class Persona:
    """Who speaks. `speaker` and `patient` are CSM's speaker ids of the device and of the patient."""

    name: str
    system: str
    speaker: int
    patient: int


def load_persona(path: Path | str) -> Persona:
    """The persona in a TOML file; WordsFault for a missing, unknown or mistyped key."""
    entry = _toml(path)
    _check(entry, Persona, str(path))
    for key in ("name", "system"):
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise WordsFault(f"{path}: {key} = {entry[key]!r} must be some text.")
    for key in ("speaker", "patient"):
        if type(entry[key]) is not int or entry[key] < 0:
            raise WordsFault(f"{path}: {key} = {entry[key]!r} must be a whole number from 0 up.")
    return Persona(entry["name"].strip(), entry["system"].strip(), entry["speaker"], entry["patient"])


def load_replies(path: Path | str) -> list[Reply]:
    """Every reply of the bank in file order; WordsFault names the first entry that is wrong."""
    tree = _toml(path)
    if set(tree) != {"reply"} or not isinstance(tree["reply"], list):
        raise WordsFault(f"{path}: it holds {sorted(tree)}, but must be [[reply]] entries and nothing else.")
    out: list[Reply] = []
    seen: dict[str, int] = {}
    for number, entry in enumerate(tree["reply"], 1):
        says = entry.get("says", "") if isinstance(entry, dict) else ""
        where = f"{path}: reply {number} ({str(says)[:40]!r})"
        _check(entry, Reply, where)
        for key in ("theme", "feeling", "says"):
            if not isinstance(entry[key], str) or not entry[key].strip():
                raise WordsFault(f"{where}: {key} = {entry[key]!r} must be some text.")
        hears = entry["hears"]
        if not isinstance(hears, list) or not hears or not all(isinstance(h, str) and h.strip() for h in hears):
            raise WordsFault(f"{where}: hears = {hears!r} must be a list of one or more example utterances.")
        if says in seen:
            raise WordsFault(f"{where}: says the same as reply {seen[says]}; change or remove one of them.")
        seen[says] = number
        out.append(Reply(entry["theme"], entry["feeling"], tuple(hears), says))
    if not any(r.theme == OTHER for r in out):
        raise WordsFault(f"{path}: no reply has theme = '{OTHER}', which answers what nothing else resembles; add one.")
    return out


def _toml(path: Path | str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WordsFault(f"{path}: no such file; it is part of firmware_config/.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WordsFault(f"{path}: {error}.") from None


def _check(entry: Mapping[str, Any], kind: type, where: str) -> None:
    """Refuse an unknown or a missing key of the dataclass `kind`."""
    known = [f.name for f in fields(kind)]
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}."
            raise WordsFault(f"{where}: unknown key '{key}': {hint}")
    for key in known:
        if key not in entry:
            raise WordsFault(f"{where}: '{key}' is missing.")
