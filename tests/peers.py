"""Light peers of the neural parts, behind the real server and the real socket: what a test can steer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from device.turn import MIC_RATE, Heard
from device.voice.server import Server
from device.voice.tone import ToneVoice


class LevelEars:
    """Hears `sentence` wherever the clip is louder than silence; its seconds are counted from real samples."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        self.clips: list[int] = []  # samples of each finished clip
        self._loud = self._all = 0

    def start(self) -> None:
        self._loud = self._all = 0

    def feed(self, pcm: Any) -> None:
        self._loud += int((np.abs(pcm) > 500).sum())
        self._all += len(pcm)

    def finish(self) -> Heard:
        self.clips.append(self._all)
        return Heard(self.sentence if self._loud else "", self._loud / MIC_RATE, 0.9 if self._loud else 0.0)


class ListPen:
    """Says the given replies in turn. `gate`, when cleared, holds the plan back."""

    name = "bank"

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.gate = threading.Event()
        self.gate.set()

    def plan(self, request: dict[str, Any], bank: bool) -> Iterator[str]:
        self.gate.wait(30)
        yield self.replies[len(request["avoid"]) % len(self.replies)]


def serve(path: str, ears: Any, pen: Any, throat: Any = None, about: dict[str, Any] | None = None) -> Server:
    """The real server on `path`, in a thread of its own."""
    server = Server(path, lambda status: (ears, pen, throat or ToneVoice(), about or {}))
    threading.Thread(target=server.run, daemon=True).start()
    return server
