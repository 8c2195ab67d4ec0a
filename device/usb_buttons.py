"""A USB button, keypad or accessibility switch as talk and call buttons, through the kernel's input devices (evdev).

For carriers without a header, and for people who press with something else than a finger. It posts nothing itself.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import glob
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from device.logs import log

AGAIN = 2.0  # s before a button that is not there is looked for again
EVIOCSCLOCKID, CLOCK_MONOTONIC = 0x400445A0, 1


class ButtonLost(RuntimeError):
    """No such button, or not ours to read. One sentence names it and the way out."""


def _nothing(*at: float) -> None:
    pass


@dataclass(frozen=True)
class Key:
    """What a key does: `down` and `up` get the kernel's time of the edge in seconds; `held` comes once in a press."""

    down: Callable[[float], None] = _nothing
    up: Callable[[float], None] = _nothing
    held: Callable[[], None] = _nothing


def key_code(setting: str, name: str) -> int:
    """The number of a key such as KEY_SPACE. Raises ButtonLost with the nearest right name."""
    from evdev import ecodes

    code = ecodes.ecodes.get(name) if name.startswith(("KEY_", "BTN_")) else None
    if code is None:
        near = difflib.get_close_matches(name.upper(), [key for key in ecodes.ecodes if key.startswith(("KEY_", "BTN_"))], n=1)
        raise ButtonLost(f"{setting} = '{name}' is no key: {f'did you mean {near[0]}?' if near else 'name one such as KEY_SPACE.'}")
    return int(code)


def find_button(name: str) -> Any:
    """The evdev.InputDevice whose name has `name` in it, for us alone and with times on the steady clock. Raises ButtonLost."""
    import evdev

    devices = [evdev.InputDevice(path) for path in evdev.list_devices()]
    fitting = [device for device in devices if name.lower() in device.name.lower()]
    for device in devices:
        if device not in fitting[:1]:
            device.close()
    if not fitting:
        denied = sorted(set(glob.glob("/dev/input/event*")) - {device.path for device in devices})
        names = ", ".join(f"'{device.name}'" for device in devices) or "none"
        hint = f", and no permission for {', '.join(denied)}: add this user to the group input" if denied else ": is it plugged in?"
        raise ButtonLost(f"panel.usb_device = '{name}' fits no input device (here: {names}){hint}")
    button = fitting[0]
    try:
        button.grab()  # else a talk button that is a space bar also types into the console
        fcntl.ioctl(button.fd, EVIOCSCLOCKID, struct.pack("i", CLOCK_MONOTONIC))
    except OSError as error:
        button.close()
        said = f"panel.usb_device = '{name}' ({button.path}) can't be had alone ({error.strerror}): end what reads it."
        raise ButtonLost(said) from error
    return button


class UsbButtons:
    """The keys of one device, read by a thread that finds it, loses it and finds it again. `keys` by their codes."""

    def __init__(self, name: str, keys: Mapping[int, Key], hold_seconds: float, find: Callable[[str], Any] = find_button) -> None:
        self._name, self._keys, self._hold_seconds, self._find = name, dict(keys), hold_seconds, find
        self._down: dict[int, float | None] = {}  # key -> when it will have been held long enough; None: it has
        self.found = ""  # what the device calls itself; empty: it is not there
        self._ear, self._bell = os.pipe()
        self._thread = threading.Thread(target=self._run, name="usb buttons", daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.write(self._bell, b"x")
        self._thread.join()
        os.close(self._ear)
        os.close(self._bell)

    def _run(self) -> None:
        said = ""
        while True:
            try:
                button = self._find(self._name)
            except (ButtonLost, OSError) as error:
                if str(error) != said:
                    log("usb_button_lost", reason=error)
                    said = str(error)
                if select.select([self._ear], [], [], AGAIN)[0]:
                    return
                continue
            said, self.found = "", button.name
            log("usb_button", name=button.name)
            try:
                if self._read(button):
                    return
            except OSError as error:  # ENODEV: unplugged
                log("usb_button_lost", reason=error.strerror)
            except Exception:  # of a handler: the button is opened anew, not deaf
                logging.getLogger("bedside").exception("a USB button's press failed")
            finally:
                self.found = ""
                for code in list(self._down):  # nobody holds a button that is not there
                    self._edge(code, False, time.monotonic())
                button.close()

    def _read(self, button: Any) -> bool:
        """Until the button is gone (OSError) or close() rings: then True."""
        from evdev import ecodes

        while True:
            due = [at for at in self._down.values() if at is not None]
            ready, _, _ = select.select([button.fd, self._ear], [], [], max(min(due) - time.monotonic(), 0) if due else None)
            self._tell_held()
            if self._ear in ready:
                return True
            for event in self._events(button) if button.fd in ready else ():
                if event.type == ecodes.EV_KEY:  # 1 down, 0 up; 2 is the keyboard's own repeat, and no second press
                    self._edge(event.code, bool(event.value), event.timestamp())
                elif event.type == ecodes.EV_SYN and event.code == ecodes.SYN_DROPPED:
                    self._look_again(button, event.timestamp())

    @staticmethod
    def _events(button: Any) -> list[Any]:
        try:
            events = list(button.read())
        except BlockingIOError:  # woken for nothing
            return []
        if not events:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return events

    def _look_again(self, button: Any, at: float) -> None:
        """The kernel's queue ran over: what is down now is what counts."""
        held = set(button.active_keys())
        for code in self._keys:
            self._edge(code, code in held, at)

    def _edge(self, code: int, down: bool, at: float) -> None:
        if code not in self._keys or down == (code in self._down):
            return
        if down:
            self._down[code] = time.monotonic() + self._hold_seconds
            self._keys[code].down(at)
        else:
            del self._down[code]
            self._keys[code].up(at)

    def _tell_held(self) -> None:
        now = time.monotonic()
        for code, at in self._down.items():
            if at is not None and at <= now:
                self._down[code] = None
                self._keys[code].held()
