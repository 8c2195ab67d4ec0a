"""A real sound server for the tests: PulseAudio with one null sink, whose monitor is the microphone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def until(true: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait for `true()`, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Pulse:
    """A PulseAudio daemon with one null sink, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "native"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"

    def start(self) -> None:
        command = [
            "pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1",
            "--disallow-exit", "--log-target=stderr",
            f"--load=module-native-protocol-unix socket={self.socket} auth-anonymous=1",
            "--load=module-null-sink sink_name=loop rate=48000 channels=1",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)

        def answers() -> bool:
            return subprocess.run(["pactl", "info"], capture_output=True).returncode == 0

        until(answers, f"pulseaudio answers; it said: {self.log.read_text()[-500:]}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None
