"""What comes out of the memory: plain data, and how a row becomes it. It knows no file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from device.turn import Affect, Alert, Heard, Turn

T = TypeVar("T")


@dataclass(frozen=True)
class Segment:
    """One thing as the voice keeps it: who, the words, and codes int16 (frames, codebooks)."""

    speaker: str
    text: str
    codes: NDArray[np.int16]


@dataclass(frozen=True)
class Said:
    """An older turn: its id, when (seconds since 1970), what was heard and what was answered."""

    turn: int
    at: float
    heard: str
    reply: str


@dataclass(frozen=True)
class Fact:
    """Something durable that the patient said, in their own words, with the turn it comes from."""

    turn: int
    kind: str
    text: str
    at: float = 0.0


@dataclass(frozen=True)
class Session:
    """Turns without a long break between them. `summary` is empty until it is written."""

    id: int
    started: float
    summary: str
    turns: tuple[Said, ...] = ()


def as_json(part: Affect | Alert) -> str:
    return json.dumps(dataclasses.asdict(part), ensure_ascii=False)


def _of(kind: type[T], text: str) -> T:
    """`kind` from its JSON; what another version of it also knew is left out."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in json.loads(text).items() if key in known})


def _affect(text: str) -> Affect:
    """JSON has no tuples."""
    affect = _of(Affect, text)
    return dataclasses.replace(affect, minute=tuple((at, engaged, relaxed) for at, engaged, relaxed in affect.minute))


def as_codes(blob: bytes, codebooks: int) -> NDArray[np.int16]:
    return np.frombuffer(blob, "<i2").astype(np.int16).reshape(-1, codebooks)


def as_turn(row: Any) -> Turn:
    return Turn(
        heard=Heard(row["heard"], row["seconds"], row["confidence"]),
        reply=row["reply"],
        affect=_affect(row["affect"]),
        alert=_of(Alert, row["alert"]) if row["alert"] else None,
        engine=row["engine"],
        precision=row["precision"],
        played=row["played"],
        states=tuple((float(at), str(name)) for at, name in json.loads(row["states"])),
        latency=json.loads(row["latency"]),
    )
