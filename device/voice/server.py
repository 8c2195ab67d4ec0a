"""The voice process: load the models, say READY, and answer one companion, one piece of work at a time.

It touches no hardware and decides nothing about safety. A reader thread receives; the main thread
works. `stop` takes effect between two frames, because the reader marks the turn as stopped at once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from device.beat import Beat, notify
from device.logs import log
from device.planner import clauses, steady
from device.voice.link import Message, VoiceLost, Wire, pack_segments, unpack_segments
from device.voice.pace import Pace, memory_gb
from device.voice.parts import Chronicler, Ears, Mindful, Pen, Throat
from device.voice.plain import VoiceFault


class Server:
    """Serves one companion on a Unix socket; a second one is told that the voice is taken."""

    def __init__(self, path: str, load: Callable[[Callable[[str], None]], tuple[Ears, Pen, Throat, dict[str, Any]]]) -> None:
        self._path = path
        self._load = load
        self._work: queue.Queue[tuple[Wire, Message | None]] = queue.Queue()
        self._wire: Wire | None = None  # the companion that is being served
        self._lock = threading.Lock()
        self._status = "starting"
        self._ready: dict[str, Any] | None = None
        self._unheard = False  # the patient has spoken, and the throat has not been told the words
        self._watchdog = Beat()  # fed by the worker alone: a model that hangs is what it is for

    def run(self) -> None:
        """Bind, load, serve until killed. Raises OSError when the path can't be bound."""
        listener = bind(self._path)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        began = time.monotonic()
        self.ears, self.pen, self.throat, about = self._load(self._say_status)
        self._ready = {"engine": self.throat.name, "precision": self.throat.precision, "words": self.pen.name, **about}
        log("voice_ready", seconds=time.monotonic() - began, engine=self.throat.name, words=self.pen.name)
        notify("READY=1", "STATUS=ready")
        self._tell(Message("ready", 0, self._ready))
        self._serve()

    def _say_status(self, text: str) -> None:
        self._status = text
        log("voice_status", text=text)
        notify(f"STATUS={text}", "EXTEND_TIMEOUT_USEC=60000000")
        self._tell(Message("status", 0, {"text": text}))

    def _tell(self, message: Message) -> None:
        """To the companion that is here now, if any; its reader notices when it has gone."""
        with self._lock:
            wire = self._wire
        if wire is not None:
            _send(wire, message)

    # The reader's side -------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            wire = Wire(connection)
            with self._lock:
                taken = self._wire is not None
                if not taken:
                    self._wire = wire
                    first = Message("ready", 0, self._ready) if self._ready else Message("status", 0, {"text": self._status})
            if taken:
                _send(wire, Message("busy", 0, {"text": "another companion is using this voice"}))
                wire.close()
                continue
            _send(wire, first)
            threading.Thread(target=self._read, args=(wire,), daemon=True).start()

    def _read(self, wire: Wire) -> None:
        try:
            while (message := wire.receive()) is not None:
                if message.kind == "stop":
                    wire.stopped = max(wire.stopped, message.turn)
                self._work.put((wire, message))
        except VoiceLost as error:
            log("voice_link", reason=error)
        wire.stopped = math.inf  # nobody is left to hear the rest
        with self._lock:
            self._wire = None
        self._work.put((wire, None))
        wire.close()
        log("companion_gone")

    # The worker's side -------------------------------------------------------------------------

    def _serve(self) -> None:
        plan: Plan | None = None
        while True:
            self._watchdog.beat()
            try:
                wire, message = self._work.get(block=plan is None, timeout=self._watchdog.every or None)
            except queue.Empty:
                plan = plan if plan is not None and self._plan_on(plan) else None
                continue
            if message is None or wire is not self._wire:
                plan = None
                continue
            try:
                if message.kind == "summarise":
                    plan = Plan(wire, message, cast(Chronicler, self.pen).summarise(message.fields["said"]))
                elif message.kind == "plan":
                    plan = Plan(wire, message, self._pieces(message))
                elif message.kind == "stop":
                    plan = None
                else:
                    if plan is not None and plan.message.kind == "summarise":
                        plan = None  # a patient comes first; the companion asks again
                    self._do(wire, message)
            except Exception as error:  # one turn fails, the process lives: the companion is told
                _failed(wire, message, error)

    def _do(self, wire: Wire, message: Message) -> None:
        if message.kind == "press":
            self._unheard = True
            self.throat.tone(message.fields.get("tone", "neutral"))
            self.ears.start()
            self.throat.start()
        elif message.kind == "said":
            for text, frames in message.fields["spoken"]:
                self.throat.said(text, frames)
            if codebooks := (self._ready or {}).get("codebooks"):
                fields, codes = pack_segments(cast(Mindful, self.throat).spoken(), codebooks)
                _send(wire, Message("kept", message.turn, fields, codes))
        elif message.kind == "resume":
            _send(wire, Message("resumed", 0, {"segments": cast(Mindful, self.throat).resume(unpack_segments(message))}))
        elif message.turn <= wire.stopped:
            return
        elif message.kind == "block":
            self.throat.feed(message.pcm)
            self.ears.feed(message.pcm)
        elif message.kind == "release":
            heard = self.ears.finish()
            _send(wire, Message("heard", message.turn, asdict(heard)))
        elif message.kind == "speak":
            self._speak(wire, message)

    def _pieces(self, message: Message) -> Iterator[str]:
        """The reply's clauses. The patient's segment enters the voice's history first."""
        if self._unheard and message.fields.get("heard"):
            self._unheard = False
            self.throat.hear(message.fields["heard"])
        yield from steady(clauses(self.pen.plan(message.fields, bool(message.fields.get("bank")))))

    def _plan_on(self, plan: Plan) -> bool:
        """One more clause of the plan; False when it is done, stopped or failed."""
        turn, number = plan.message.turn, plan.message.fields.get("number", 0)
        summary = plan.message.kind == "summarise"
        if turn <= plan.wire.stopped and not summary:
            return False
        try:
            clause = next(plan.pieces, None)
        except Exception as error:
            _failed(plan.wire, plan.message, error)
            return False
        if clause is None:
            end = Message("summary", 0, {"number": number, "text": plan.text}) if summary else Message("planned", turn, {"number": number})
            _send(plan.wire, end)
            return False
        if summary:
            plan.text += clause
            return True
        _send(plan.wire, Message("clause", turn, {"number": number, "text": clause}))
        return True

    def _speak(self, wire: Wire, message: Message) -> None:
        pace, frames = Pace(), self.throat.frames(message.fields["text"])
        for pcm in frames:
            if message.turn <= wire.stopped:
                frames.close()
                break
            pace.frame()
            _send(wire, Message("audio", message.turn, {}, pcm))
            self._watchdog.beat()
        else:
            _send(wire, Message("spoken", message.turn))
        if figures := pace.figures():
            figures["peak_memory_gb"] = memory_gb()
            log("voice_spoke", frames=pace.frames, **figures)
            shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
            notify(f"STATUS=ready; {self.throat.name} {self.throat.precision}, last sentence: {shown}")


@dataclass
class Plan:
    """A reply or a summary that is being written, a clause or a piece at a time, whenever no other work waits."""

    wire: Wire
    message: Message
    pieces: Iterator[str]
    text: str = ""  # of a summary, so far


def _send(wire: Wire, message: Message) -> None:
    """A companion that has gone is its reader's business, not the worker's."""
    with contextlib.suppress(VoiceLost):
        wire.send(message)


def _failed(wire: Wire, message: Message, error: Exception) -> None:
    # The error's own words may quote the patient: only its type and place are logged.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    at = f"{Path(frame.filename).name}:{frame.lineno}"
    log("voice_failed", level=logging.WARNING, work=message.kind, error=type(error).__name__, at=at)
    # Our own sentences quote nobody: a technician gets them whole.
    reason = str(error) if isinstance(error, VoiceFault) else type(error).__name__
    _send(wire, Message("failed", message.turn, {"work": message.kind, "error": reason}))


def bind(path: str) -> socket.socket:
    """A listening socket at `path`, mode 0600. A dead process's socket is replaced, a live one is not."""
    file = Path(path)
    if file.is_socket():
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(path)
        except OSError:
            file.unlink()
        else:
            raise OSError(f"{path}: another voice process is serving here; stop it first")
        finally:
            probe.close()
    if not file.parent.is_dir():
        raise OSError(f"{file.parent}: no such folder; create it, or set voice.socket")
    listener = socket.socket(socket.AF_UNIX)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(4)
    return listener
