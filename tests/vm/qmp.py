"""QEMU's monitor (QMP): plug and pull devices of a running machine. It knows no scenario."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class Monitor:
    """A connection to the monitor's socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._file.readline()  # its greeting
        self.do("qmp_capabilities")

    def do(self, command: str, **arguments: Any) -> Any:
        """Raises RuntimeError with QEMU's own words."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            answer = json.loads(self._file.readline())
            if "error" in answer:
                raise RuntimeError(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def plug(self, driver: str, name: str, **properties: Any) -> None:
        self.do("device_add", driver=driver, id=name, **properties)

    def pull(self, name: str) -> None:
        self.do("device_del", id=name)

    def close(self) -> None:
        self._socket.close()
