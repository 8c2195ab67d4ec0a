"""The companion's own door: a Unix socket at which a command asks what a person is being called for, or says that a person is here.

One JSON line in, one out. It decides nothing: the companion does.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from device.logs import log

LONGEST = 4096  # bytes of a request
PATIENCE = 5.0  # seconds that either side waits for the other


class ControlLost(RuntimeError):
    """The companion can't be asked. One sentence says where and the way out."""


async def serve(path: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer until cancelled. A socket that can't be made is said, and the companion goes on without."""
    try:
        _clear(path)
        listener = await anyio.create_unix_listener(path, mode=0o600)
    except OSError as error:
        log("control_lost", file=path, reason=error)
        return
    async def one(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with anyio.move_on_after(PATIENCE):
                try:
                    asked = json.loads(await _line(stream))
                    reply = answer(asked if isinstance(asked, dict) else {})
                except (ValueError, anyio.EndOfStream):
                    reply = {"error": "one line of JSON is needed"}
                try:
                    await stream.send(json.dumps(reply).encode() + b"\n")
                except (OSError, anyio.BrokenResourceError):
                    return

    async with listener:
        await listener.serve(one)


def _clear(path: Path) -> None:
    """A folder for the socket, and nothing of a companion that was killed in it. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)


async def _line(stream: anyio.abc.SocketStream) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        data += await stream.receive()
        if len(data) > LONGEST:
            raise ValueError("too long")
    return data


def ask(path: Path | str, **request: Any) -> dict[str, Any]:
    """What the companion at `path` answers. Raises ControlLost."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(PATIENCE)
            door.connect(str(path))
            door.sendall(json.dumps(request).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                part = door.recv(LONGEST)
                if not part:
                    raise ControlLost(f"the companion at {path} broke off.")
                data += part
    except OSError as error:
        said = error.strerror or str(error)
        raise ControlLost(f"no companion answers at {path} ({said}): is bedside-companion running, and are you its user?") from None
    reply: dict[str, Any] = json.loads(data)
    if "error" in reply:
        raise ControlLost(f"the companion says: {reply['error']}.")
    return reply
