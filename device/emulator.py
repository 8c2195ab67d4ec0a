"""`bedside eeg emulate`: a recording played as a Cyton at a serial port, with faults on command.

For a technician who has no headset at hand, and for the tests: the companion and BrainFlow's real
serial driver can't tell it from a dongle.
"""

from __future__ import annotations

import re
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device.fake_cyton import COMMANDS, NUMBERS, FakeCyton

CHANNELS = {24: 8, 32: 16}  # columns of BrainFlow's CSV of a Cyton, and of one with a Daisy
RATES = {8: 250, 16: 125}  # Hz, by channels


class EmulatorFault(ValueError):
    """What is wrong with the recording, the link or a fault, and what would be right."""


@dataclass(frozen=True)
class Fault:
    """One command to the fake Cyton, `at` seconds after it was plugged in."""

    kind: str
    number: int = 0
    at: float = 0.0

    def __str__(self) -> str:
        return self.kind + (f":{self.number}" if self.kind in NUMBERS else "")


def parse_fault(text: str) -> Fault:
    """'unplug@10' or 'drop:25@3.5' or 'rail:2' as a Fault. Raises EmulatorFault."""
    match = re.fullmatch(r"([a-z]+)(?::(\d{1,6}))?(?:@(\d{1,6}(?:\.\d{1,3})?))?", text.strip())
    if match is None:
        raise EmulatorFault(f"'{text}' is no fault: write it like unplug@10, drop:25@3.5 or rail:2")
    kind, number, at = match.groups()
    if kind not in COMMANDS:
        raise EmulatorFault(f"'{kind}' is no fault: there are {', '.join(COMMANDS)}")
    if number is None and kind in NUMBERS:
        default = NUMBERS[kind]
        if default is None:
            raise EmulatorFault(f"'{kind}' needs a channel, like {kind}:2")
        number = str(default)
    elif number is not None and kind not in NUMBERS:
        raise EmulatorFault(f"'{kind}' takes no number")
    if kind in ("rail", "flat", "mend") and not 1 <= int(number or 0) <= 8:
        raise EmulatorFault(f"'{text}': a Cyton has channels 1 to 8")
    return Fault(kind, int(number or 0), float(at or 0.0))


def read_recording(file: Path) -> NDArray[np.float64]:
    """[8 or 16, samples] in uV, of the OpenBCI GUI's txt or of BrainFlow's CSV. Raises EmulatorFault."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise EmulatorFault(f"{file} can't be read: {reason}") from None
    header = [line for line in lines[:50] if line.startswith("%")]
    body = [line for line in lines if line.strip() and not line.startswith("%")]
    if not body:
        raise EmulatorFault(f"{file} holds no samples")
    mark = "\t" if "\t" in body[0] else ","
    if header:
        said = dict(re.findall(r"%\s*([^=]+?)\s*=\s*(\d+)", "\n".join(header)))
        channels, rate = int(said.get("Number of channels", 8)), said.get("Sample Rate") or said.get("Sample Rate (Hz)")
    else:
        columns = len([field for field in body[0].split(mark) if field])
        channels, rate = CHANNELS.get(columns, 0), None
        if not channels:
            known = " or ".join(f"{c} columns ({n} channels)" for c, n in CHANNELS.items())
            raise EmulatorFault(f"{file} has {columns} columns: a BrainFlow recording of a Cyton has {known}")
    if channels not in RATES:
        raise EmulatorFault(f"{file} has {channels} channels: a Cyton has 8, or 16 with its Daisy")
    if rate is not None and int(rate) != RATES[channels]:
        raise EmulatorFault(f"{file} was sampled at {rate} Hz: a Cyton with {channels} channels sends {RATES[channels]}")
    if header and not body[0].split(",")[0].strip().lstrip("-").replace(".", "").isdigit():
        body = body[1:]  # the names of the columns
    try:
        samples = np.loadtxt(body, delimiter=mark, usecols=range(1, channels + 1), ndmin=2).T
    except (ValueError, IndexError) as error:
        raise EmulatorFault(f"{file}: {error}") from None
    if samples.shape[1] == 0 or not np.isfinite(samples).all():
        raise EmulatorFault(f"{file} holds no samples" if samples.shape[1] == 0 else f"{file} holds a sample that is no number")
    return samples


def emulate(recording: Path, link: Path, speed: float, faults: Sequence[str]) -> int:
    """Play `recording`, over and over, as a Cyton at `link` until Ctrl-C; faults may also be typed in.

    Each of `faults` as parse_fault() reads it, in seconds since the plugging in. Returns the exit status.
    """
    waiting = sorted((parse_fault(text) for text in faults), key=lambda fault: fault.at)
    samples = read_recording(recording)
    if link.exists() and not link.is_symlink():
        raise EmulatorFault(f"{link} exists and is no link: choose another place for the port")
    try:
        cyton = FakeCyton(samples, link, speed, loop=True)
    except ValueError as error:
        raise EmulatorFault(str(error)) from None
    seconds = samples.shape[1] / RATES[len(samples)]
    try:
        with cyton:
            began = time.monotonic()
            print(f'a Cyton with {seconds:.0f} s of {recording.name} is plugged in at {link}: headset.port = "{link}"')
            print(f"faults, with Enter: {', '.join(COMMANDS)}; Ctrl-C ends", flush=True)
            _obey(cyton, waiting, began)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        raise EmulatorFault(f"{link} can't be made: {error.strerror}") from None
    return 0


def _obey(cyton: FakeCyton, waiting: list[Fault], began: float) -> None:
    """Faults as their time comes or as they are typed, for ever."""
    typing = sys.stdin is not None and not sys.stdin.closed
    streaming = False
    while True:
        while waiting and time.monotonic() - began >= waiting[0].at:
            _do(cyton, waiting.pop(0), began)
        pause = min(0.1, max(0.0, waiting[0].at - (time.monotonic() - began))) if waiting else 0.1
        if not typing:
            time.sleep(pause)
        elif select.select([sys.stdin], [], [], pause)[0]:
            line = sys.stdin.readline()
            typing = bool(line)  # at the end of the input it goes on without
            if line.strip():
                try:
                    _do(cyton, parse_fault(line), began)
                except EmulatorFault as error:
                    print(error, flush=True)
        if (cyton.sent > 0) is not streaming:
            streaming = True
            print(f"{time.monotonic() - began:8.2f} s  the driver is reading", flush=True)


def _do(cyton: FakeCyton, fault: Fault, began: float) -> None:
    COMMANDS[fault.kind](cyton, fault.number)
    print(f"{time.monotonic() - began:8.2f} s  {fault}", flush=True)
