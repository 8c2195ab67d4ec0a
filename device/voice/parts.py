"""What the voice process is made of: ears, pen and throat, as the server sees them. It knows none of those there are."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol

from device.memory_rows import Segment
from device.turn import Heard
from device.voice.link import Pcm


class Ears(Protocol):
    """Streaming speech recognition: int16 mono at 16 kHz in, one Heard out."""

    def start(self) -> None: ...
    def feed(self, pcm: Pcm) -> None: ...
    def finish(self) -> Heard: ...


class Pen(Protocol):
    """Writes the words of a reply. `plan` yields text pieces; `bank` asks for the reviewed replies only."""

    name: str

    def plan(self, request: dict[str, Any], bank: bool) -> Iterator[str]: ...


class Chronicler(Pen, Protocol):
    """A pen with a chat model behind it: it also sums up [[heard, reply], …], in pieces."""

    def summarise(self, said: list[list[str]]) -> Iterator[str]: ...


class Throat(Protocol):
    """Speaks: 80 ms frames, int16 mono at 24 kHz. It is told what the patient says, int16 mono at 16 kHz, and its words.

    `tone` is one of conditioning.TONES, for what is spoken from now on; one that a voice does not know is its usual one.
    """

    name: str
    precision: str

    def warm_up(self) -> None: ...
    def tone(self, name: str) -> None: ...
    def start(self) -> None: ...
    def feed(self, pcm: Pcm) -> None: ...
    def hear(self, text: str) -> None: ...
    def frames(self, text: str) -> Generator[Pcm, None, None]: ...
    def said(self, text: str, frames: int) -> None: ...


class Mindful(Throat, Protocol):
    """A throat with a conversation behind it, as CSM has: `codebooks`, in what `load` tells of it, says so.

    `spoken` gives what the last turn left in it; `resume` puts older turns in the place of all that it holds, and returns how many
    segments it goes on from.
    """

    def spoken(self) -> list[Segment]: ...
    def resume(self, told: list[Segment]) -> int: ...
