"""All that a bedside does to a headset and its port, as a table of faults; each must end in one message. It judges no figure.

What BrainFlow answers with an error code to a wrong order of calls can't happen here: one thread owns the one board (device/eeg.py).
"""

from __future__ import annotations

import fcntl
import os
import pty
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device import config
from device.config import FIRMWARE
from device.eeg import Headset, HeadsetState, open_headset
from device.emulator import read_recording
from device.fake_cyton import FakeCyton

RECORDING = FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv"
PATIENCE = 15.0  # seconds until a message must be there: BrainFlow gives a silent port 6 of them
CONNECTING = "the headset is being connected."
MUSE = ("no Bluetooth adapter", "can't be loaded", "was not found", "Bluetooth library failed")


@dataclass(frozen=True)
class Laid:
    """A fault as it was laid out: the headset's settings, and what happens once samples arrive (None: none ever do)."""

    settings: dict[str, Any]
    then: Callable[[], object] | None = None


@contextmanager
def _settings(**settings: Any) -> Iterator[Laid]:
    yield Laid(settings)


@contextmanager
def _written(folder: Path, text: str) -> Iterator[Laid]:
    file = folder / "recording.csv"
    file.write_text(text, encoding="ascii")
    yield Laid({"board": "playback", "file": str(file)})


@contextmanager
def _made(port: Path, make: Callable[[Path], object]) -> Iterator[Laid]:
    make(port)
    yield Laid({"board": "cyton", "port": str(port)})


@contextmanager
def _silent_tty(port: Path) -> Iterator[Laid]:
    master, silent = pty.openpty()
    port.symlink_to(os.ttyname(silent))
    try:
        yield Laid({"board": "cyton", "port": str(port)})
    finally:
        os.close(master)
        os.close(silent)


@contextmanager
def _cyton(port: Path, first: Callable[[FakeCyton], object], then: Callable[[FakeCyton], object] | None = None) -> Iterator[Laid]:
    with FakeCyton(read_recording(RECORDING)[:, :5000], port, loop=True) as cyton:
        first(cyton)
        yield Laid({"board": "cyton", "port": str(port)}, None if then is None else lambda: then(cyton))


@contextmanager
def _taken(port: Path) -> Iterator[Laid]:
    with _cyton(port, lambda cyton: None) as laid:
        other = os.open(os.path.realpath(port), os.O_RDWR | os.O_NOCTTY)
        fcntl.flock(other, fcntl.LOCK_EX)
        try:
            yield laid
        finally:
            os.close(other)


@contextmanager
def _second() -> Iterator[Laid]:
    with closing(open_headset(config.Headset(board="synthetic"))) as first:
        first.start()
        began = time.monotonic()
        while not first.arriving and time.monotonic() - began < PATIENCE:
            time.sleep(0.02)
        yield Laid({"board": "synthetic"})


def _nothing(_: object) -> None: ...


# What is done -> (how it is laid out in a folder, words of the message; any of them will do).
FAULTS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no dongle": (lambda f: _made(f / "port", _nothing), ("is not plugged in",)),
    "no port is set": (lambda f: _settings(board="cyton"), ("headset.port is empty",)),
    "the port is a folder": (lambda f: _made(f / "port", Path.mkdir), ("is a folder",)),
    "the port is a file": (lambda f: _made(f / "port", Path.touch), ("is not a serial port",)),
    "the port is /dev/null": (lambda f: _made(f / "port", lambda p: p.symlink_to("/dev/null")), ("is not a serial port",)),
    "the board is off": (lambda f: _cyton(f / "port", FakeCyton.switch_off), ("is it switched on and charged?",)),
    "a port that says nothing": (lambda f: _silent_tty(f / "port"), ("nothing answers at",)),
    "another program has the port": (lambda f: _taken(f / "port"), ("is open in another program",)),
    "a second headset": (lambda f: _second(), ("another headset is still open",)),
    "unplugged": (lambda f: _cyton(f / "port", _nothing, FakeCyton.unplug), ("it was unplugged.",)),
    "stalled": (lambda f: _cyton(f / "port", _nothing, FakeCyton.stall), ("sent no sample for 1.5 s",)),
    "no adapter for a Muse": (lambda f: _settings(board="muse_2"), MUSE),
    "no recording": (lambda f: _settings(board="playback", file=str(f / "none.csv")), ("No such file",)),
    "a recording with a heading": (lambda f: _written(f, "%OpenBCI Raw EXG Data\n"), ("columns, not 24",)),
    "another board's recording": (lambda f: _written(f, "1\t2\t3\n" * 9), ("3 columns, not 24",)),
    "channels that do not fit": (lambda f: _settings(board="synthetic", channels=("Fz",)), ("has 1 names",)),
}


def messages(headset: Headset, laid: Laid) -> list[str]:
    """What the started headset says, in order, until it has had the time to say a second thing about one fault."""
    said: list[str] = []
    began, first, done = time.monotonic(), 0.0, laid.then is None
    while (now := time.monotonic()) - began < PATIENCE and not (first and now - first > 0.5):
        if not done and headset.arriving and laid.then is not None:
            laid.then()
            done = True
        reason = headset.reason
        expected = headset.arriving or reason == CONNECTING
        if done and not expected and reason not in said:
            said.append(reason)
            first = first or now
        time.sleep(0.01)
    return said


def faults(folder: Path) -> dict[str, float]:
    """Every fault of the table, its message on standard error; how many had none of their own, and the most that one had."""
    without, most = 0, 0
    for number, (name, (lay, words)) in enumerate(FAULTS.items()):
        place = folder / str(number)
        place.mkdir()
        with lay(place) as laid, closing(open_headset(config.Headset.model_validate(laid.settings))) as headset:
            headset.start()
            said = messages(headset, laid)
            assert headset.state in (HeadsetState.ABSENT, HeadsetState.STALE, HeadsetState.CONNECTING)
        right = [line for line in said if any(w in line for w in words)]
        without, most = without + (not right), max(most, len(said))
        print(f"{name}: {' | '.join(said) or 'nothing'}", file=sys.stderr)
    return {"faults": len(FAULTS), "without_a_message": without, "most_messages": most}
