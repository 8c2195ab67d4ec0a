"""`bedside run` and `bedside voice` as systemd starts them: notify, watchdog, the end by SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest


class Systemd:
    """The other end of NOTIFY_SOCKET, in a folder with a short name: a socket's path has 108 characters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.settimeout(0.2)
        self.told: list[tuple[float, str]] = []
        self.child: subprocess.Popen[str] | None = None

    def start(self, command: str, *, watchdog: float = 0.0, extra: str = "", state: str = "") -> subprocess.Popen[str]:
        config = self.folder / "settings.toml"
        config.write_text(
            f'[panel]\nkind = "simulated"\n[audio]\nkind = "wav"\n[voice]\nsocket = "{self.folder}/v.sock"\n'
            f'[memory]\nfile = "{state or self.folder}/memory.db"\n'
            f'[safety]\nfolder = "{state or self.folder}/safety"\nsocket = "{self.folder}/c.sock"\n{extra}'
        )
        env = {**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": str(int(watchdog * 1e6))}
        arguments = [sys.executable, "-m", "device", *command.split(), "--config", str(config)]
        self.child = subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE, text=True)
        return self.child

    def hears(self, line: str, seconds: float = 30.0, times: int = 1) -> None:
        deadline = time.monotonic() + seconds
        while sum(line in text.splitlines() for _, text in self.told) < times:
            assert time.monotonic() < deadline, f"never {times} times {line!r}: {self.told}"
            try:
                self.told.append((time.monotonic(), self.socket.recv(4096).decode()))
            except TimeoutError:
                continue


    def silence(self, seconds: float) -> float:
        """Listen for `seconds`; how long ago the last word came then. What was on its way still arrives."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.told.append((time.monotonic(), self.socket.recv(4096).decode()))
            except TimeoutError:
                continue
        return deadline - self.told[-1][0]


@pytest.fixture
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    pytest.importorskip("systemd", reason="systemd-python is not installed")
    here = Systemd(tmp_path_factory.mktemp("sd"))
    yield here
    if here.child is not None:
        here.child.kill()
        here.child.wait(10)
    here.socket.close()


def test_the_companion_is_ready_without_a_voice_and_beats_and_stops(systemd: Systemd) -> None:
    child = systemd.start("run", watchdog=2.0)
    systemd.hears("READY=1")
    systemd.hears("STATUS=starting; voice: waiting for bedside-voice")
    systemd.hears("WATCHDOG=1", times=4)
    beats = [when for when, text in systemd.told if "WATCHDOG=1" in text]
    assert max(b - a for a, b in pairwise(beats)) < 2.0
    child.send_signal(signal.SIGTERM)
    systemd.hears("STOPPING=1")
    assert child.wait(10) == 0
    assert "Traceback" not in child.stderr.read()


def test_a_disk_that_can_not_be_written_does_not_stop_the_companion(systemd: Systemd) -> None:
    child = systemd.start("run", watchdog=2.0, state="/dev/null/nowhere")
    systemd.hears("WATCHDOG=1", times=2)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0
    said = child.stderr.read()
    assert "memory_fault" in said
    assert "Traceback" not in said


def test_a_companion_that_is_frozen_does_not_beat(systemd: Systemd) -> None:
    child = systemd.start("run", watchdog=2.0)
    systemd.hears("WATCHDOG=1")
    child.send_signal(signal.SIGSTOP)
    assert systemd.silence(2.0) > 1.0


def test_the_voice_says_what_it_loads_and_when_it_is_ready(systemd: Systemd, models_folder: Path) -> None:
    systemd.start("voice", extra='[listen]\nmodel = "embedded:whisper-tiny"\n')
    systemd.hears("STATUS=loading the reply bank", 90)
    systemd.hears("READY=1", 90)


def test_the_voice_beats_while_it_waits_and_not_while_it_is_frozen(systemd: Systemd, models_folder: Path) -> None:
    child = systemd.start("voice", watchdog=1.5, extra='[listen]\nmodel = "embedded:whisper-tiny"\n')
    systemd.hears("READY=1", 90)
    systemd.hears("WATCHDOG=1", times=4)
    child.send_signal(signal.SIGSTOP)
    assert systemd.silence(2.0) > 1.0


def test_both_from_one_command_reach_ready(systemd: Systemd, models_folder: Path) -> None:
    child = systemd.start("run --with-voice", extra='[listen]\nmodel = "embedded:whisper-tiny"\n')
    systemd.hears("STATUS=ready", 90)
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 0


def test_a_second_voice_on_the_same_socket_is_refused_in_one_sentence(systemd: Systemd, models_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(systemd.folder / "v.sock"))
        first.listen()
        child = systemd.start("voice")
        assert child.wait(60) == 1
    said = child.stderr.read().strip().splitlines()
    assert len(said) == 1
    assert "another voice process" in said[0]
