"""The voice process of the virtual machine, where torch can't run: the real server on the real socket, with the tests' light peers.

Whoever is louder than silence has slept badly; what is answered stands in a file, if there is one, and is spoken as tones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers import LevelEars, ListPen

from device import logs
from device.voice.server import Server
from device.voice.tone import ToneVoice

REPLY = "I hear you."


class FilePen(ListPen):
    """Says what `file` says now."""

    def __init__(self, file: Path) -> None:
        super().__init__(REPLY)
        self.file = file

    def plan(self, request: dict[str, Any], bank: bool) -> Iterator[str]:
        yield self.file.read_text() if self.file.exists() else REPLY


if __name__ == "__main__":
    logs.setup()
    socket = Path(sys.argv[1])
    Server(str(socket), lambda status: (LevelEars("I slept badly"), FilePen(socket.with_name("reply")), ToneVoice(), {})).run()
