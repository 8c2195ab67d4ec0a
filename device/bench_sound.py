"""A sound server of its own and a card that counts its late blocks, for `bedside bench load`, `bench sound` and the tests.

It does not know what is played, nor who looks at the counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device.config import Audio as AudioSettings
from device.soundcard import SoundCard

ALSA = "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
# A reader that is late leaves a block of shared memory unread; where the server dies then, libpulse (16.1) waits for it with its lock held,
# and closing the card never returns (11 of 18 such deaths, none of 25 without).
CLIENT = "enable-shm = no\n"
SINK = "module-null-sink", "sink_name=loop", "rate=48000", "channels=1"
PATIENCE = 10.0  # s that the server may take to start
LOST = 2 | 4  # PortAudio's paInputOverflow and paOutputUnderflow: sound was lost


class Pulse:
    """A PulseAudio daemon with one null sink, whose monitor is the microphone. Every file of it is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "native"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What makes it the only and default card of a process that has not opened ALSA yet."""
        own = dict.fromkeys(("XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH", "XDG_CONFIG_HOME"), str(self.folder))
        server = {"PULSE_COOKIE": str(self.folder / "cookie"), "PULSE_SERVER": f"unix:{self.socket}"}
        files = {"ALSA_CONFIG_PATH": str(self.folder / "asound.conf"), "PULSE_CLIENTCONFIG": str(self.folder / "client.conf")}
        return {**own, **server, **files}

    def start(self) -> None:
        """Returns when it answers. Raises OSError with what it said."""
        command = [
            "pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1",
            "--disallow-exit", "--log-target=stderr",
            f"--load=module-native-protocol-unix socket={self.socket} auth-anonymous=1",
            f"--load={' '.join(SINK)}",
        ]  # fmt: skip
        if not (asound := self.folder / "asound.conf").exists():  # PortAudio aborts where it changes while it counts the cards
            asound.write_text(ALSA, encoding="ascii")
            (self.folder / "client.conf").write_text(CLIENT, encoding="ascii")
        environment, file = {**os.environ, **self.environment}, self.folder / "log"
        with file.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment)
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(["pactl", "info"], capture_output=True, env=environment).returncode:
            if time.monotonic() > deadline:
                self.kill()
                raise OSError(f"pulseaudio did not answer in {PATIENCE:.0f} s; it said: {file.read_text()[-500:]}")
            time.sleep(0.05)

    def pull(self) -> None:
        """The card is pulled out; the server stays."""
        self._control("unload-module", SINK[0])

    def plug(self) -> None:
        """The card is put back."""
        self._control("load-module", *SINK)

    def _control(self, *words: str) -> None:
        subprocess.run(["pactl", *words], check=True, capture_output=True, timeout=PATIENCE, env={**os.environ, **self.environment})

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@contextmanager
def sound_server() -> Iterator[Pulse | None]:
    """A PulseAudio that is this process's only card while the block lasts; None where a sound server or PyAudio is missing."""
    try:
        import pyaudio  # noqa: F401
    except ImportError:
        yield None
        return
    if not (shutil.which("pulseaudio") and shutil.which("pactl")):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="bed"))  # short: a socket's path has 108 characters
    server = Pulse(folder)
    before = {name: os.environ.get(name) for name in server.environment}
    try:
        server.start()
        os.environ.update(server.environment)
        yield server
    finally:
        server.kill()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)


class CountingCard(SoundCard):
    """The real card. It counts its blocks, and each time that sound was lost because one of them came too late."""

    def __init__(self, settings: AudioSettings) -> None:
        super().__init__(settings)
        self.count()

    def count(self) -> None:
        """From here on, anew."""
        self.blocks = self.late = 0
        self.gap = 0.0  # s; the longest from one block for the speaker to the next, 0.04 at PulseAudio's own pace
        self._at = time.monotonic()

    def _hear(self, raw: bytes, frames: int, when: Any, status: int) -> tuple[None, int]:
        self._tally(status)
        return super()._hear(raw, frames, when, status)

    def _speak(self, raw: None, frames: int, when: Any, status: int) -> tuple[bytes, int]:
        self._tally(status)
        now = time.monotonic()
        self.gap, self._at = max(self.gap, now - self._at), now
        return super()._speak(raw, frames, when, status)

    def _tally(self, status: int) -> None:
        self.blocks += 1
        self.late += bool(status & LOST)
