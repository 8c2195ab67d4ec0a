"""What a person does at the container's bed, sees of its light and hears of its speaker. It knows no scenario."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from device import wavs
from device.config import FIRMWARE
from device.states import LIGHTS, State
from device.turn import VOICE_RATE
from vm.nspawn import Container, until

GREEN, YELLOW, RED, CYAN = ((0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 1, 1))
assert [LIGHTS[s].rgb for s in (State.READY, State.FAULT, State.ALERTING, State.SPEAKING)] == [GREEN, YELLOW, RED, CYAN]
SPEECH = "LJ001-0008.wav"  # "has never been surpassed."
SAID = "surpassed"
CLIPS = Path("/opt/bench/speech")  # in the container
LOAD = 240.0  # s that the models may take on a busy machine
RAW = ["--raw", "--format=s16le", f"--rate={VOICE_RATE}", "--channels=1", "--latency-msec=20"]


def shows(home: Container, colour: tuple[int, int, int], seconds: float, since: float = 0.0) -> float:
    """When the light first was `colour` after `since`, both in monotonic seconds."""
    return until(lambda: next((at for at, seen in home.lights() if seen == colour and at >= since), 0.0), f"light {colour}", seconds)


def ready(home: Container, seconds: float = LOAD) -> float:
    """Until the light is green and stays so; when it became so."""
    def green() -> float:
        seen = home.lights()
        return seen[-1][0] if seen and seen[-1][1] == GREEN else 0.0
    return until(green, f"green light; systemd says: {home.show('bedside-companion', 'StatusText')!r}", seconds)


def ask(home: Container, clip: str = SPEECH) -> float:
    """Hold the button, say `clip` into the microphone, let go. When it was let go."""
    home.hands("BOARD7 0")
    home.run("paplay", "--device=microphone", str(CLIPS / clip))
    home.hands("BOARD7 1")
    return time.monotonic()


def turn(home: Container) -> float:
    """A whole turn. Seconds from the release to the first sample of the answer, as the light has it."""
    began = ask(home)
    spoke = shows(home, CYAN, 60, began)
    shows(home, GREEN, 90, spoke)
    return spoke - began


class Recorder:
    """What leaves the speaker (or another source) from now on, for `seconds`. `began`: of its first sample, in monotonic seconds;
    returns when it came."""

    def __init__(self, home: Container, seconds: float, source: str = "speaker.monitor") -> None:
        self._process = home.start("timeout", str(seconds), "parec", "-d", source, *RAW)
        assert self._process.stdout is not None
        self._first = self._process.stdout.read(2 * VOICE_RATE // 50)
        self.began = time.monotonic() - 0.02

    def sound(self) -> np.ndarray:
        """int16 samples, once the time is over."""
        raw = self._first + self._process.communicate(timeout=60)[0]
        return np.frombuffer(raw[: len(raw) // 2 * 2], np.int16).astype(float)


def begins(sound: np.ndarray, name: str) -> float:
    """Seconds into `sound` at which the recorded message `name` begins. AssertionError where it is not in it."""
    return place(sound, wavs.read(FIRMWARE / f"sounds/{name}.wav", VOICE_RATE)[:VOICE_RATE], name)


def place(sound: np.ndarray, pcm: np.ndarray, name: str, least: float = 0.9) -> float:
    """Seconds into `sound` at which `pcm` begins, both at VOICE_RATE. AssertionError where nothing in it is alike to `least`."""
    wanted = pcm.astype(float)
    assert len(sound) > len(wanted), f"only {len(sound) / VOICE_RATE:.1f} s were recorded"
    size = 1 << (len(sound) + len(wanted)).bit_length()
    match = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(wanted, size)), size)[: len(sound) - len(wanted)]
    at = int(np.argmax(match))
    piece = sound[at : at + len(wanted)]
    likeness = match[at] / (np.linalg.norm(piece) * np.linalg.norm(wanted) + 1e-9)
    assert likeness > least, f"'{name}' was not heard (likeness {likeness:.2f})"
    return at / VOICE_RATE


def restarts(home: Container, unit: str) -> int:
    return int(home.show(unit, "NRestarts"))


def acknowledge(home: Container, since: float) -> None:
    until(lambda: time.monotonic() > since + 1.2, "an alert that may be ended", 5)
    home.hands("BOARD15 0")
    until(lambda: home.light() not in (RED, (0, 0, 0)), "the acknowledgement", 10)
    home.hands("BOARD15 1")
