"""The bench's pins: gpiozero's mock pins in the real process, moved and read from outside through a Unix socket.

gpiozero finds them as GPIOZERO_PIN_FACTORY=bench, by an entry point of the bench's own. A line `BOARD7 0` pulls a pin to ground,
`BOARD7 1` lets it go, `look` does nothing; each is answered by what the outputs have done: [[monotonic seconds, pin, level], …].
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

from gpiozero.pins.mock import MockFactory, MockPin

SOCKET = "/run/bedside/hands.sock"


class DrivenPin(MockPin):
    """A mock pin whose factory keeps when it was driven."""

    def _change_state(self, value: Any) -> Any:
        changed = super()._change_state(value)
        if changed and self._function == "output":
            self.factory.driven.append((time.monotonic(), self.info.name, int(value)))
        return changed


class BenchFactory(MockFactory):
    def __init__(self) -> None:
        super().__init__(pin_class=DrivenPin)
        self.driven: list[tuple[float, str, int]] = []
        if os.path.exists(SOCKET):  # of a process that was killed
            os.unlink(SOCKET)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(SOCKET)
        listener.listen(4)
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            hand, _ = listener.accept()
            with hand, hand.makefile("rw") as lines:
                for line in lines:
                    name, _, level = line.strip().partition(" ")
                    if name != "look":
                        pin = self.pin(name)
                        pin.drive_high() if level == "1" else pin.drive_low()
                    lines.write(json.dumps(self.driven[-400:]) + "\n")
                    lines.flush()
