"""A fake OpenBCI Cyton on a pseudo-terminal: BrainFlow's real serial driver reads it as if it were the dongle.

The protocol is OpenBCI's (docs.openbci.com, "Cyton Data Format" and "Cyton Board SDK"): one-byte commands, text replies
that end in $$$, and packages of 33 bytes: A0, a number, eight 24-bit samples, 6 bytes of acceleration, C0. With 16
channels it is a Cyton with a Daisy: two packages a sample, the Daisy's with an even number before the Cyton's.

It can do to the driver what a bedside does: be unplugged, stall, lose and damage bytes. What it can't: a pty has no
baud rate and no FTDI chip, and its hanging up stands in for a USB unplug.
"""

from __future__ import annotations

import os
import pty
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGES_PER_SECOND = 250
FULL_SCALE = 2**23 - 1
LSB_UV = 4.5 / FULL_SCALE / 24 * 1e6  # 0.02235 uV at gain 24
PACKAGE = 33  # bytes
TICK = 0.004  # s
BURST = 100  # packages made at once: less than a tty's 4 kB buffer holds
BANNER = b"OpenBCI V3 8-16 channel\nOn Board ADS1299 Device ID: 0x3E\nLIS3DH Device ID: 0x33\nFirmware: v3.1.2\n$$$"
NO_BOARD = b"Failure: Communications timeout - Device failed to poll Host$$$"
GRAVITY = bytes((0, 0, 0, 0, 0x1F, 0x40))  # acceleration of a board that lies flat: x, y, z


def packages(codes: NDArray[np.int64], first: int) -> NDArray[np.uint8]:
    """[n, 33] bytes of n packages numbered from `first`; `codes` is [8, n], 24-bit samples."""
    count = codes.shape[1]
    out = np.zeros((count, PACKAGE), np.uint8)
    out[:, 0] = 0xA0
    out[:, 1] = (first + np.arange(count)) % 256
    for byte, shift in enumerate((16, 8, 0)):
        out[:, 2 + byte : 26 : 3] = (codes.T >> shift) & 0xFF
    out[:, 26:32] = np.frombuffer(GRAVITY, np.uint8)
    out[:, 32] = 0xC0
    return out


class FakeCyton:
    """Streams `recording` ([8 or 16, n] in uV) through a pty that `link` leads to, once the driver asks for it.

    `speed` times real time, at most 40. It never writes more than the tty can hold: a driver that is
    late is waited for, unless overrun() is asked for. With `loop` it begins anew at the end.
    Use it as a context; every method may be called from any thread.
    """

    def __init__(self, recording: NDArray[np.float64], link: Path, speed: float = 1.0, loop: bool = False) -> None:
        if recording.ndim != 2 or recording.shape[0] not in (8, 16) or recording.shape[1] == 0:
            raise ValueError(f"a Cyton has 8 channels, or 16 with its Daisy; the recording is {recording.shape}")
        if not 0 < speed <= 40:
            raise ValueError(f"the speed must be between 0 and 40 times real time, not {speed:g}")
        codes = np.clip(np.rint(recording / LSB_UV), -FULL_SCALE - 1, FULL_SCALE).astype(np.int64)
        if len(codes) == 16:  # the order of a Daisy's packages
            codes = np.stack((codes[8:], codes[:8]), axis=2).reshape(8, -1)
        self.link, self.loop = link, loop
        self.commands = ""  # every byte the driver sent
        self.sent = 0  # packages written
        self.thrown = 0  # bytes lost by overrun()
        self.plugged = False
        self._codes = codes
        self._pace = PACKAGES_PER_SECOND * speed
        self._master = -1
        self._pending = b""  # bytes that the tty had no room for yet
        self._streaming = self._stalled = False
        self._on = True
        self._place = self._number = 0  # the next package: in the recording, and its number
        self._began, self._made = 0.0, 0  # since the stream began: monotonic s, packages
        self._drop = self._corrupt = self._overrun = 0
        self._noise = b""
        self._levels: dict[int, int] = {}  # channel -> the code it is stuck at
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake cyton", daemon=True)

    def __enter__(self) -> FakeCyton:
        self.replug()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.unplug()

    # Faults ------------------------------------------------------------------------------------

    def unplug(self) -> None:
        """Pull the dongle out: the tty hangs up and its link is gone. Plugged out, nothing happens."""
        with self._lock:
            if not self.plugged:
                return
            self.link.unlink(missing_ok=True)
            os.close(self._master)
            self._master, self.plugged, self._streaming, self._pending = -1, False, False, b""

    def replug(self) -> None:
        """Plug it in: another tty, and the same link leads to it, as udev's by-id does."""
        with self._lock:
            if self.plugged:
                return
            self._master, terminal = pty.openpty()
            tty.setraw(terminal)
            new = self.link.with_name(f".{self.link.name}.new")
            new.unlink(missing_ok=True)
            new.symlink_to(os.ttyname(terminal))
            os.close(terminal)  # the driver is to be its only opener
            os.set_blocking(self._master, False)
            new.replace(self.link)
            self.plugged = True

    def stall(self) -> None:
        """Send nothing, though all is plugged in and on; the board goes on counting."""
        self._set(_stalled=True)

    def resume(self) -> None:
        self._set(_stalled=False)

    def switch_off(self) -> None:
        """The dongle stays in, and answers that it can't reach the board."""
        self._set(_on=False, _streaming=False, _pending=b"")

    def switch_on(self) -> None:
        self._set(_on=True)

    def drop(self, count: int = 1) -> None:
        """Lose the next `count` packages on the radio."""
        self._set(_drop=count)

    def corrupt(self, count: int = 1) -> None:
        """Damage the last byte of the next `count` packages."""
        self._set(_corrupt=count)

    def noise(self, data: bytes | int) -> None:
        """Put these bytes, or so many random ones, between two packages."""
        self._set(_noise=os.urandom(data) if isinstance(data, int) else data)

    def overrun(self, count: int = 1000) -> None:
        """Write the next `count` packages at once; what the tty has no room for is lost, in mid-package."""
        self._set(_overrun=count)

    def rail(self, channel: int) -> None:
        """Channel 1 to 8 sits at full scale, as a lead that came off."""
        self._stick(channel, FULL_SCALE)

    def flat(self, channel: int) -> None:
        self._stick(channel, 0)

    def mend(self, channel: int) -> None:
        """The lead is as it was recorded again."""
        with self._lock:
            self._levels.pop(channel, None)

    def _stick(self, channel: int, level: int) -> None:
        if not 1 <= channel <= 8:
            raise ValueError(f"a Cyton has channels 1 to 8, not {channel}")
        with self._lock:
            self._levels[channel] = level

    def _set(self, **values: object) -> None:
        with self._lock:
            for name, value in values.items():
                setattr(self, name, value)

    # The board ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            with self._lock:
                if self.plugged:
                    self._listen()
                    self._stream()

    def _listen(self) -> None:
        try:
            data = os.read(self._master, 256)
        except OSError:  # nothing to read, or nobody has the tty open
            return
        for letter in data.decode("ascii", "replace"):
            self.commands += letter
            self._command(letter)

    def _command(self, letter: str) -> None:
        """x…X and z…Z set a channel and its lead-off test; everything else is one letter."""
        opened = max(self.commands.rfind("x"), self.commands.rfind("z"))
        inside = self.commands[opened:] if opened >= 0 else ""
        if inside and len(inside) <= 9 and not inside[1:-1].strip("0123456789"):
            if letter in "XZ" and not self._streaming:
                what = "Channel set" if letter == "X" else "Lead off set"
                self._write(f"Success: {what} for {inside[1]}$$$".encode())
            return
        replies: dict[str, bytes] = {"v": BANNER, "d": b"updating channel settings to default$$$", "V": b"v3.1.2$$$"}
        if not self._on:
            self._write(NO_BOARD)
        elif letter == "b":
            self._number = self._made = 0
            self._began, self._streaming = time.monotonic(), True
        elif letter in ("s", "v"):
            self._streaming = False
        if self._on and letter in replies:
            self._write(replies[letter])

    def _stream(self) -> None:
        if self._pending:
            self._write(b"")
        while self._streaming and not self._pending:
            due = int((time.monotonic() - self._began) * self._pace) - self._made
            count = min(due, BURST)
            if self._overrun:
                count = self._overrun
            elif count <= 0:
                return
            self._made += count
            self._send(count)

    def _send(self, count: int) -> None:
        size = self._codes.shape[1]
        if not self.loop:
            count = min(count, size - self._place)
            self._streaming = count > 0
        codes = self._codes[:, (self._place + np.arange(count)) % size].copy()
        for channel, level in self._levels.items():
            codes[channel - 1] = level
        out = packages(codes, self._number)
        self._place, self._number = self._place + count, self._number + count
        damaged = out[self._drop :]
        self._drop = max(0, self._drop - count)
        damaged[: self._corrupt, -1] = 0x55
        self._corrupt = max(0, self._corrupt - len(damaged))
        if self._stalled:
            return
        self._write(self._noise + damaged.tobytes())
        self._noise = b""
        if self._overrun:
            self.thrown += len(self._pending)
            self._overrun, self._pending = 0, b""
        self.sent += len(damaged)

    def _write(self, data: bytes) -> None:
        """As much as the tty takes; the rest waits."""
        self._pending += data
        try:
            self._pending = self._pending[os.write(self._master, self._pending) :]
        except OSError:  # full
            return


COMMANDS: dict[str, Callable[[FakeCyton, int], None]] = {
    "unplug": lambda cyton, n: cyton.unplug(),
    "replug": lambda cyton, n: cyton.replug(),
    "stall": lambda cyton, n: cyton.stall(),
    "resume": lambda cyton, n: cyton.resume(),
    "off": lambda cyton, n: cyton.switch_off(),
    "on": lambda cyton, n: cyton.switch_on(),
    "drop": FakeCyton.drop,
    "corrupt": FakeCyton.corrupt,
    "noise": FakeCyton.noise,
    "overrun": FakeCyton.overrun,
    "rail": FakeCyton.rail,
    "flat": FakeCyton.flat,
    "mend": FakeCyton.mend,
}
# What each means without a number; None: it needs one, 0: it takes none.
NUMBERS: dict[str, int | None] = {"drop": 1, "corrupt": 1, "noise": 500, "overrun": 1000, "rail": None, "flat": None, "mend": None}
