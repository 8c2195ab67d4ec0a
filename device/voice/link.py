"""The wire between the two processes: one JSON line, then raw PCM, over a Unix socket.

It knows no model and no hardware. Companion to voice: resume, press, block, release, plan, speak, stop, said, summarise.
Voice to companion: status, ready, busy, resumed, heard, clause, planned, audio, spoken, kept, summary, failed.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import numpy as np
from numpy.typing import NDArray

from device.memory_rows import Segment

MAX_LINE = 64 * 1024  # bytes; a longer header is not ours
MAX_PCM = 16 * 1024 * 1024  # bytes: more than five minutes at 24 kHz

Pcm = NDArray[np.int16]


class VoiceLost(Exception):
    """The voice process went away, or spoke something that is not this wire."""


@dataclass(frozen=True)
class Message:
    """One message: `kind`, the turn it belongs to, its fields, and int16 mono PCM (often empty)."""

    kind: str
    turn: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    pcm: Pcm = field(default_factory=lambda: np.zeros(0, np.int16))


def pack(message: Message) -> bytes:
    body = message.pcm.astype("<i2", copy=False).tobytes()
    head = {"kind": message.kind, "turn": message.turn, "bytes": len(body), **message.fields}
    return json.dumps(head, ensure_ascii=False).encode() + b"\n" + body


def unpack_head(line: bytes) -> tuple[dict[str, Any], int]:
    """(fields, bytes of PCM that follow). Raises VoiceLost for a line that is not a header."""
    try:
        head = json.loads(line)
        size = int(head.pop("bytes"))
        head["kind"], head["turn"] = str(head["kind"]), int(head["turn"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        # Not the line itself: it may hold a patient's words, and this sentence is logged.
        raise VoiceLost(f"the voice socket carried a line of {len(line)} bytes that is no header") from error
    if not 0 <= size <= MAX_PCM or size % 2:
        raise VoiceLost(f"the voice socket announced {size} bytes of sound")
    return head, size


def build(head: dict[str, Any], body: bytes) -> Message:
    kind, turn = head.pop("kind"), head.pop("turn")
    return Message(kind, turn, head, np.frombuffer(body, "<i2").astype(np.int16))


def pack_segments(segments: Sequence[Segment], codebooks: int) -> tuple[dict[str, Any], Pcm]:
    """(fields, int16 codes one after another) of the newest segments that a header has room for, oldest first."""
    told: list[Segment] = []
    for segment in reversed(segments):
        if sum(len(s.text) + 60 for s in told) + len(segment.text) > MAX_LINE // 8:  # JSON may write a letter in six bytes
            break
        told.insert(0, segment)
    fields = {"codebooks": codebooks, "segments": [[s.speaker, s.text, len(s.codes)] for s in told]}
    return fields, np.concatenate([np.zeros(0, np.int16), *(s.codes.reshape(-1) for s in told)])


def unpack_segments(message: Message) -> list[Segment]:
    """What `pack_segments` packed. Raises VoiceLost for anything else."""
    try:
        codebooks, out, at = int(message.fields["codebooks"]), [], 0
        for speaker, text, frames in message.fields["segments"]:
            size = int(frames) * codebooks
            out.append(Segment(str(speaker), str(text), message.pcm[at : at + size].reshape(frames, codebooks)))
            at += size
        if at != len(message.pcm):
            raise ValueError
    except (KeyError, ValueError, TypeError) as error:
        raise VoiceLost("the voice socket carried segments whose codes are of another length") from error
    return out


class Wire:
    """The blocking end, for the voice process. `receive` returns None when the peer has gone."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()
        self.stopped: float = -1  # every turn up to this one has been stopped by the companion

    def send(self, message: Message) -> None:
        """Raises VoiceLost when the companion has gone."""
        try:
            with self._lock:
                self._socket.sendall(pack(message))
        except OSError as error:
            raise VoiceLost("the companion has gone") from error

    def receive(self) -> Message | None:
        try:
            line = self._file.readline(MAX_LINE)
            if not line.endswith(b"\n"):
                return None
            head, size = unpack_head(line)
            body = self._file.read(size)
        except OSError:
            return None
        return build(head, body) if len(body) == size else None

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the peer was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Voice:
    """The companion's end. `messages()` ends by raising VoiceLost when the voice process dies."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._lock = anyio.Lock()

    @classmethod
    async def connect(cls, path: str) -> Voice:
        """Raises VoiceLost while nobody listens on `path`."""
        try:
            return cls(await anyio.connect_unix(path))
        except OSError as error:
            raise VoiceLost(f"no voice process on {path} ({error.strerror or error})") from error

    async def send(self, kind: str, turn: int = 0, pcm: Pcm | None = None, **fields: Any) -> None:
        """Send one message whole: a cancelled turn must not leave half a message on the wire."""
        message = Message(kind, turn, fields, np.zeros(0, np.int16) if pcm is None else pcm)
        with anyio.CancelScope(shield=True):
            async with self._lock:
                try:
                    with anyio.fail_after(2.0):
                        await self._stream.send(pack(message))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError, TimeoutError) as error:
                    raise VoiceLost("the voice process has gone") from error

    async def messages(self) -> AsyncIterator[Message]:
        while True:
            line = await self._until_newline()
            head, size = unpack_head(line)
            while len(self._buffer) < size:
                await self._more()
            body = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield build(head, body)

    async def close(self) -> None:
        await self._stream.aclose()

    async def _until_newline(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE:
                raise VoiceLost("the voice socket carried a line without an end")
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _more(self) -> None:
        try:
            self._buffer += await self._stream.receive(65536)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise VoiceLost("the voice process has gone") from error
