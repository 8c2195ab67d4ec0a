"""A USB button's events, read by evdev itself: from a real uinput device where the kernel has one, else from a recording.

The recording is the kernel's own format (struct input_event) in a pipe, which evdev's compiled reader takes as it takes a device.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import evdev
import pytest
from evdev import ecodes

from device import config
from device.panel import Panel, PanelLost
from device.states import Control, Event
from device.usb_buttons import ButtonLost, Key, UsbButtons, find_button, key_code

UINPUT = os.access("/dev/uinput", os.W_OK)
NAME = "Bedside test switch"
KEYS = [ecodes.KEY_SPACE, ecodes.KEY_ENTER, ecodes.KEY_VOLUMEUP, ecodes.KEY_VOLUMEDOWN]


def until(true: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.002)


class PipeDevice(evdev.InputDevice):  # type: ignore[misc]
    """An InputDevice whose descriptor is a pipe; all but opening is evdev's own."""

    def __init__(self) -> None:
        self.fd, self.hand = os.pipe()
        os.set_blocking(self.fd, False)
        self.path, self.name, self.held = "/dev/input/event7", NAME, []

    def active_keys(self) -> Any:
        return self.held

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


class RecordedButton:
    """Hands on a PipeDevice. Unplugged, its pipe ends."""

    def __init__(self) -> None:
        self._device: PipeDevice | None = None
        self.plug()

    def plug(self) -> None:
        self._device = PipeDevice()

    def unplug(self) -> None:
        device, self._device = self._device, None
        assert device is not None
        os.close(device.hand)

    def find(self, name: str) -> Any:
        if self._device is None or self._device.fd < 0:
            raise ButtonLost(f"panel.usb_device = '{name}' fits no input device (here: none): is it plugged in?")
        return self._device

    def key(self, code: int, value: int) -> None:
        self.send(ecodes.EV_KEY, code, value)

    def send(self, kind: int, code: int, value: int) -> None:
        assert self._device is not None
        now = time.monotonic()
        event = struct.pack("llHHi", int(now), int(now % 1 * 1e6), kind, code, value)
        os.write(self._device.hand, event + struct.pack("llHHi", int(now), int(now % 1 * 1e6), ecodes.EV_SYN, ecodes.SYN_REPORT, 0))

    def overrun(self, held: list[int]) -> None:
        """The kernel dropped events; these keys are down now."""
        assert self._device is not None
        self._device.held = held
        self.send(ecodes.EV_SYN, ecodes.SYN_DROPPED, 0)

    def close(self) -> None:
        if self._device is not None:
            self.unplug()


class UinputButton:
    """A keyboard that the kernel believes in."""

    def __init__(self) -> None:
        self.find = find_button
        self.plug()

    def plug(self) -> None:
        self._keyboard = evdev.UInput({ecodes.EV_KEY: KEYS}, name=NAME)

    def unplug(self) -> None:
        self._keyboard.close()

    def key(self, code: int, value: int) -> None:
        self._keyboard.write(ecodes.EV_KEY, code, value)
        self._keyboard.syn()

    def close(self) -> None:
        self._keyboard.close()


@pytest.fixture(params=[RecordedButton, *([UinputButton] if UINPUT else [])], ids=lambda kind: kind.__name__)
def button(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


class Seen:
    """What the keys told, and the thread that reads them."""

    def __init__(self, button: Any, hold: float = 0.1) -> None:
        self.told: list[str] = []
        self.times: list[float] = []
        talk = Key(lambda at: self.note("down", at), lambda at: self.note("up", at), lambda: self.told.append("held"))
        keys = {ecodes.KEY_SPACE: talk, ecodes.KEY_ENTER: Key(lambda at: self.note("call", at))}
        self.buttons = UsbButtons(NAME, keys, hold, button.find)
        until(lambda: bool(self.buttons.found), "the button")

    def note(self, what: str, at: float) -> None:
        self.told.append(what)
        self.times.append(at)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel makes a uinput device at once, and udev its file a moment later."""
    monkeypatch.setattr("device.usb_buttons.AGAIN", 0.05)


@pytest.fixture
def seen(button: Any) -> Iterator[Seen]:
    made = Seen(button)
    yield made
    made.buttons.close()


def test_a_key_goes_down_is_held_and_comes_up_with_the_kernels_times(button: Any, seen: Seen) -> None:
    """The keyboard's own repeat is no press, other keys are nobody's, and times are on the steady clock."""
    before = time.monotonic()
    button.key(ecodes.KEY_SPACE, 1)
    until(lambda: seen.told == ["down", "held"], "press and hold")
    button.key(ecodes.KEY_SPACE, 2)
    button.key(ecodes.KEY_VOLUMEUP, 1)
    button.key(ecodes.KEY_SPACE, 0)
    until(lambda: seen.told == ["down", "held", "up"], "the release")
    down, up = seen.times
    assert before - 0.01 < down < up < time.monotonic() + 0.01
    assert up - down >= 0.1


def test_a_short_press_is_never_held(button: Any, seen: Seen) -> None:
    for value in (1, 0):
        button.key(ecodes.KEY_SPACE, value)
    button.key(ecodes.KEY_ENTER, 1)
    time.sleep(0.2)
    assert seen.told == ["down", "up", "call"]


def test_a_button_that_is_pulled_out_is_let_go_and_works_when_it_is_back(button: Any, seen: Seen) -> None:
    """Nobody holds what is not there: what was being said ends, and the next press counts."""
    button.key(ecodes.KEY_SPACE, 1)
    until(lambda: "down" in seen.told, "the press")
    button.unplug()
    until(lambda: seen.told[-1] == "up", "the release that never came")
    button.plug()
    until(lambda: bool(seen.buttons.found), "the button that is back")
    told = len(seen.told)
    for value in (1, 0):
        button.key(ecodes.KEY_SPACE, value)
    until(lambda: seen.told[told:] == ["down", "up"], "a press of it")


def test_after_an_overrun_what_is_down_now_is_what_counts() -> None:
    """The kernel drops events of a reader that sleeps; the release may be among them."""
    button = RecordedButton()
    seen = Seen(button, hold=60)
    button.key(ecodes.KEY_SPACE, 1)
    until(lambda: seen.told == ["down"], "the press")
    button.overrun([ecodes.KEY_ENTER])
    until(lambda: seen.told == ["down", "up", "call"], "what the overrun hid")
    seen.buttons.close()


def test_a_usb_button_is_a_whole_panel(button: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a carrier without a header: talk, call, acknowledge, volume; and no light to be wrong."""
    monkeypatch.setattr("device.panel.UsbButtons", functools.partial(UsbButtons, find=button.find))
    events: list[Event | Control] = []
    panel = Panel(config.Panel(kind="usb", usb_device=NAME, tap_seconds=0.05, acknowledge_seconds=0.1), events.append, None)
    until(lambda: bool(panel._parts[-1].found), "the button")
    button.key(ecodes.KEY_SPACE, 1)
    time.sleep(0.1)
    button.key(ecodes.KEY_SPACE, 0)
    until(lambda: events == [Event.PRESS, Event.RELEASE], "a turn")
    button.key(ecodes.KEY_ENTER, 1)
    until(lambda: events[2:] == [Event.CALL, Event.ACKNOWLEDGE], "a call, held")
    button.key(ecodes.KEY_ENTER, 0)
    button.key(ecodes.KEY_VOLUMEDOWN, 1)
    until(lambda: events[-1] is Control.QUIETER, "the volume")
    panel.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"usb_talk": "KEY_SPCAE"}, r"panel\.usb_talk = 'KEY_SPCAE' is no key: did you mean KEY_SPACE\?"),
        ({"usb_call": "the big one"}, r"panel\.usb_call = 'the big one' is no key"),
        ({"usb_call": "KEY_SPACE"}, r"usb_talk, usb_call.*KEY_SPACE, KEY_SPACE"),
    ],
)
def test_a_wrong_key_is_named(settings: dict[str, str], said: str) -> None:
    with pytest.raises(PanelLost, match=said):
        Panel(config.Panel(kind="usb", usb_device=NAME, **settings), lambda event: None, None)


def test_a_button_that_is_not_there_is_told_once_and_looked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        buttons = UsbButtons("No such button", {key_code("", "BTN_TRIGGER"): Key()}, 1.0)
        time.sleep(0.2)
        buttons.close()
    said = [record.getMessage() for record in caplog.records if "usb_button_lost" in record.getMessage()]
    assert len(said) == 1
    assert "panel.usb_device = 'No such button' fits no input device (here: " in said[0]
