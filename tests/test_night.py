"""When it is night: by the clock over midnight, and by a room that stays dark. No light is dimmed here."""

from __future__ import annotations

from datetime import time
from typing import Any

import pytest

from device import config
from device.night import SETTLED, Night, within


@pytest.mark.parametrize(
    ("now", "begins", "ends", "night"),
    [
        ("21:29", "21:30", "07:00", False),
        ("21:30", "21:30", "07:00", True),
        ("23:59", "21:30", "07:00", True),
        ("00:00", "21:30", "07:00", True),
        ("06:59", "21:30", "07:00", True),
        ("07:00", "21:30", "07:00", False),
        ("12:00", "21:30", "07:00", False),
        ("13:30", "13:00", "14:00", True),  # a nap
        ("14:00", "13:00", "14:00", False),
        ("03:00", "03:00", "03:00", False),
    ],
)
def test_the_clock_knows_the_night_over_midnight(now: str, begins: str, ends: str, night: bool) -> None:
    assert within(time.fromisoformat(now), time.fromisoformat(begins), time.fromisoformat(ends)) is night


class Room:
    """A room whose light and clocks a test turns."""

    def __init__(self, **settings: Any) -> None:
        self.dark, self.seconds, self.wall = False, 0.0, time(12)
        self.night = Night(config.Panel(**settings), lambda: self.dark, lambda: self.seconds, lambda: self.wall)

    def after(self, seconds: float) -> bool:
        """Whether it is night when asked each second for so long."""
        for _ in range(int(seconds)):
            self.seconds += 1
            self.night.now()
        return self.night.now()


@pytest.mark.parametrize(("by", "night"), [("never", False), ("always", True)])
def test_never_and_always_ask_nobody(by: str, night: bool) -> None:
    room = Room(night=by)
    room.dark, room.wall = not night, time(0 if not night else 12)
    assert room.after(60) is night


def test_by_the_clock_the_sensor_does_not_count() -> None:
    room = Room(night="clock", night_begins="22:00", night_ends="06:00")
    room.dark = True
    assert not room.night.now()
    room.wall = time(22, 0, 1)
    assert room.night.now()
    room.wall = time(6)
    assert not room.night.now()


def test_a_room_is_dark_when_it_stays_so() -> None:
    """A hand over the sensor, or a torch at night, changes nothing."""
    room = Room(night="ambient")
    room.dark = True
    assert not room.after(SETTLED - 1)
    room.dark = False
    assert not room.after(1)
    room.dark = True
    assert not room.after(SETTLED - 1)
    assert room.after(2)
    room.dark = False
    assert room.after(SETTLED - 1)
    assert not room.after(2)


def test_a_device_that_starts_in_the_dark_is_dim_at_once() -> None:
    assert Night(config.Panel(night="ambient"), lambda: True).now()
