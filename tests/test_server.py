"""The voice process's server on its real socket: who may bind and connect, and how soon a stop takes effect."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import LevelEars, ListPen, serve

from device.voice.link import Message, Wire
from device.voice.plain import VoiceFault
from device.voice.server import bind
from device.voice.tone import ToneVoice


class SteppedVoice(ToneVoice):
    """Gives a frame only when it is let; an endless sentence unless it is stopped."""

    def __init__(self) -> None:
        self.step = threading.Semaphore(0)
        self.given = 0
        self.closed = threading.Event()

    def frames(self, text: str) -> Any:
        (frame, *_) = ToneVoice.frames(self, "a")
        try:
            while self.step.acquire(timeout=20):
                self.given += 1
                yield frame
        finally:
            self.closed.set()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "v.sock")


@pytest.fixture
def call(path: str) -> Iterator[Any]:
    """Connect to the server as a companion does; every connection is closed at the end."""
    wires: list[Wire] = []

    def connect() -> Wire:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(10)
        for _ in range(500):
            try:
                link.connect(path)
                break
            except OSError:
                threading.Event().wait(0.01)
        else:
            pytest.fail(f"nobody serves on {path}")
        wires.append(Wire(link))
        return wires[-1]

    yield connect
    for wire in wires:
        wire.close()


def kinds(wire: Wire, last: str) -> list[str]:
    """The kinds received up to `last`; fails when the connection ends first."""
    out: list[str] = []
    while not out or out[-1] != last:
        message = wire.receive()
        assert message is not None, out
        out.append(message.kind)
    return out


def test_a_dead_process_leaves_a_socket_that_is_replaced(path: str) -> None:
    first = bind(path)
    first.close()
    assert Path(path).is_socket()
    with bind(path), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)


def test_a_live_socket_is_refused_and_keeps_serving(path: str) -> None:
    with bind(path):
        with pytest.raises(OSError, match=r"another voice process is serving here; stop it first"):
            bind(path)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)


def test_only_the_owner_may_connect(path: str) -> None:
    with bind(path):
        assert Path(path).stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere: no such folder; create it, or set voice\.socket$"):
        bind(str(tmp_path / "nowhere" / "v.sock"))


def test_a_stop_ends_a_long_speech_between_two_frames(path: str, call: Any) -> None:
    throat = SteppedVoice()
    serve(path, LevelEars("x"), ListPen("x"), throat)
    wire = call()
    kinds(wire, "ready")
    wire.send(Message("speak", 1, {"text": "endless"}))
    throat.step.release(2)
    assert kinds(wire, "audio") == ["audio"]
    assert kinds(wire, "audio") == ["audio"]
    wire.send(Message("stop", 1))
    wire.send(Message("said", 1, {"spoken": []}))
    for _ in range(40):  # each frame that is let may be the last
        throat.step.release()
        if throat.closed.wait(0.05):
            break
    assert throat.closed.is_set()
    wire.send(Message("press", 2))
    wire.send(Message("release", 2))
    after = kinds(wire, "heard")
    assert "spoken" not in after
    assert len(after) < 200


def test_work_of_a_stopped_turn_is_not_done(path: str, call: Any) -> None:
    throat = SteppedVoice()
    serve(path, LevelEars("x"), ListPen("x"), throat)
    wire = call()
    kinds(wire, "ready")
    wire.send(Message("stop", 4))
    wire.send(Message("speak", 4, {"text": "too late"}))
    wire.send(Message("press", 5))
    wire.send(Message("release", 5))
    assert kinds(wire, "heard") == ["heard"]
    assert throat.given == 0


def test_a_second_companion_is_told_busy_and_the_first_is_served(path: str, call: Any) -> None:
    serve(path, LevelEars("x"), ListPen("x"))
    first = call()
    kinds(first, "ready")
    second = call()
    told = second.receive()
    assert told is not None
    assert (told.kind, told.fields["text"]) == ("busy", "another companion is using this voice")
    assert second.receive() is None
    first.send(Message("speak", 1, {"text": "aha"}))
    assert kinds(first, "spoken").count("audio") == 4


def test_the_next_companion_is_served_when_the_first_has_gone(path: str, call: Any) -> None:
    serve(path, LevelEars("x"), ListPen("x"))
    first = call()
    kinds(first, "ready")
    first.close()
    for _ in range(200):
        message = call().receive()
        assert message is not None
        if message.kind == "ready":
            return
    pytest.fail("the voice stayed taken")


def test_a_peer_that_speaks_something_else_is_dropped_and_the_voice_lives(path: str, call: Any) -> None:
    serve(path, LevelEars("x"), ListPen("x"))
    first = call()
    kinds(first, "ready")
    first._socket.sendall(b"GET / HTTP/1.1\n")
    assert first.receive() is None
    test = call()
    message = test.receive()
    assert message is not None
    assert message.kind in ("ready", "busy")


class Recorded(ToneVoice):
    """Keeps what it is told; fails at the text "break"."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start(self) -> None:
        self.calls.append("start")

    def feed(self, pcm: Any) -> None:
        self.calls.append(len(pcm))

    def hear(self, text: str) -> None:
        self.calls.append(text)

    def frames(self, text: str) -> Any:
        yield from ToneVoice.frames(self, "a")
        if text == "break":
            raise VoiceFault("CSM ran out of memory: stop other programs.")


def test_the_throat_hears_the_patient_while_they_speak_and_their_words_once(path: str, call: Any) -> None:
    throat = Recorded()
    serve(path, LevelEars("I slept badly"), ListPen("Oh."), throat)
    wire = call()
    kinds(wire, "ready")
    wire.send(Message("press", 1))
    for _ in range(2):
        wire.send(Message("block", 1, {}, np.full(1280, 9000, np.int16)))
    wire.send(Message("release", 1))
    kinds(wire, "heard")
    for number in range(2):  # the chat model's plan, and the bank's in its place
        fields = {"number": number, "bank": True, "heard": "I slept badly", "before": [], "avoid": [], "affect": ""}
        wire.send(Message("plan", 1, fields))
        kinds(wire, "planned")
    assert throat.calls == ["start", 1280, 1280, "I slept badly"]


def test_a_fault_amid_a_sentence_reaches_the_companion_as_its_sentence_and_the_voice_lives(path: str, call: Any) -> None:
    serve(path, LevelEars("x"), ListPen("x"), Recorded())
    wire = call()
    kinds(wire, "ready")
    wire.send(Message("speak", 1, {"text": "break"}))
    message = wire.receive()
    while message is not None and message.kind == "audio":
        message = wire.receive()
    assert message is not None
    assert (message.kind, message.fields) == ("failed", {"work": "speak", "error": "CSM ran out of memory: stop other programs."})
    wire.send(Message("speak", 2, {"text": "fine"}))
    assert kinds(wire, "spoken").count("audio") == 2


def test_the_technician_sees_what_the_last_sentence_cost(path: str, call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        serve(path, LevelEars("x"), ListPen("x"))
        wire = call()
        kinds(wire, "ready")
        wire.send(Message("speak", 1, {"text": "aha"}))
        kinds(wire, "spoken")
        said = systemd.recv(4096).decode()
        while "last sentence" not in said:
            said = systemd.recv(4096).decode()
    assert re.search(r"^STATUS=ready; tone none, last sentence: first frame 0\.\d+, rtf 0\.\d+, under runs 0, peak memory gb \d", said)
