"""A Jetson's GPIO chip for tests, seen from the side of the hands: the kernel's own gpio-sim where there is one, else a peer of gpiod.

The peer stands only at the thinnest edge, `gpiod.Chip` and its `LineRequest`: the settings, events and infos that pass it are
gpiod's own classes. It knows no debounce and no permission: those are proven on gpio-sim (in a virtual machine, as root with the
module loaded) and on a board.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections import deque
from pathlib import Path
from typing import Any

import gpiod
from gpiod import ChipInfo, EdgeEvent, LineInfo, LineSettings
from gpiod.line import Direction, Edge, Value

from device.jetson_boards import ORIN_NANO
from device.jetson_lines import open_chips, pick_chips

CONFIGFS = Path("/sys/kernel/config/gpio-sim")
LABEL = ORIN_NANO[0].chip
OFFSETS = {line.name: line.offset for line in ORIN_NANO}


class PeerLine:
    """What the kernel knows of one line."""

    def __init__(self, name: str) -> None:
        self.name, self.settings, self.consumer = name, LineSettings(direction=Direction.INPUT), ""
        self.pull = self.driven = False
        self.request: PeerRequest | None = None

    @property
    def level(self) -> bool:
        return self.driven if self.settings.direction is Direction.OUTPUT else self.pull


class PeerRequest:
    def __init__(self, line: PeerLine, offset: int) -> None:
        self.line, self.offset, self.count = line, offset, 0
        self.fd, self._bell = os.pipe()
        self._events: deque[EdgeEvent] = deque()

    def reconfigure_lines(self, config: dict[int, LineSettings]) -> None:
        (self.line.settings,) = config.values()
        self.line.driven = bool(self.line.settings.output_value)

    def get_value(self, offset: int) -> Value:
        return Value.ACTIVE if self.line.level else Value.INACTIVE

    def set_value(self, offset: int, value: Value) -> None:
        if self.line.settings.direction is not Direction.OUTPUT:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.line.driven = bool(value)

    def edge(self, high: bool) -> None:
        kind = EdgeEvent.Type.RISING_EDGE if high else EdgeEvent.Type.FALLING_EDGE
        if self.line.settings.edge_detection in (Edge.BOTH, Edge.RISING if high else Edge.FALLING):
            self.count += 1
            self._events.append(EdgeEvent(kind.value, time.monotonic_ns(), self.offset, self.count, self.count))
            os.write(self._bell, b"e")

    def wait_edge_events(self, timeout: float | None = None) -> bool:
        return bool(select.select([self.fd], [], [], timeout)[0])

    def read_edge_events(self, max_events: int | None = None) -> list[EdgeEvent]:
        return [self._events.popleft() for _ in os.read(self.fd, 64)]

    def release(self) -> None:
        self.line.request, self.line.consumer = None, ""
        os.close(self.fd)
        os.close(self._bell)


class PeerChip:
    def __init__(self, label: str, names: dict[int, str]) -> None:
        self.label, self.open = label, True
        self.lines = {offset: PeerLine(name) for offset, name in names.items()}

    def get_info(self) -> ChipInfo:
        return ChipInfo("gpiochip0", self.label, len(self.lines))

    def get_line_info(self, offset: int) -> LineInfo:
        line = self.lines[offset]
        s, used = line.settings, bool(line.consumer)
        microseconds = int(s.debounce_period.total_seconds() * 1e6)
        return LineInfo(
            offset, line.name, used, line.consumer, s.direction.value, False, s.bias.value, s.drive.value,
            s.edge_detection.value, s.event_clock.value, microseconds > 0, microseconds,
        )  # fmt: skip

    def request_lines(self, config: dict[int, LineSettings], consumer: str) -> PeerRequest:
        ((offset, settings),) = config.items()
        line = self.lines[offset]
        if line.consumer:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        line.consumer, line.request = consumer, PeerRequest(line, offset)
        if settings.direction is not Direction.AS_IS:
            line.request.reconfigure_lines(config)
        return line.request

    def close(self) -> None:
        self.open = False


class PeerBench:
    """A simulated Orin Nano header; every line is low until a hand pulls it."""

    def __init__(self, label: str = LABEL, names: dict[int, str] | None = None) -> None:
        self.chip = PeerChip(label, {line.offset: line.name for line in ORIN_NANO} if names is None else names)

    def chips(self, *labels: str) -> dict[str, Any]:
        return pick_chips(labels, ["/dev/gpiochip0"], lambda path: self.chip)

    def pull(self, name: str, high: bool) -> None:
        line = self.chip.lines[OFFSETS[name]]
        before, line.pull = line.level, high
        if line.request is not None and line.level != before:
            line.request.edge(high)

    def level(self, name: str) -> bool:
        return self.chip.lines[OFFSETS[name]].level

    def info(self, name: str) -> LineInfo:
        return self.chip.get_line_info(OFFSETS[name])

    def take(self, name: str, consumer: str) -> None:
        """Another program holds the line from now on."""
        self.chip.request_lines({OFFSETS[name]: LineSettings()}, consumer)

    def close(self) -> None:
        pass


class KernelBench:
    """The same header on the kernel's gpio-sim, through the real gpiod."""

    def __init__(self) -> None:
        self._folder = CONFIGFS / "bedside"
        bank = self._folder / "bank0"
        bank.mkdir(parents=True)
        (bank / "num_lines").write_text("164")
        (bank / "label").write_text(LABEL)
        for line in ORIN_NANO:
            (bank / f"line{line.offset}").mkdir()
            (bank / f"line{line.offset}" / "name").write_text(line.name)
        (self._folder / "live").write_text("1")
        chip = (bank / "chip_name").read_text().strip()
        self.hands = Path("/sys/devices/platform") / (self._folder / "dev_name").read_text().strip() / chip
        self._chip = gpiod.Chip(f"/dev/{chip}")
        self._others: list[Any] = []
        self.chips = open_chips

    def pull(self, name: str, high: bool) -> None:
        (self.hands / f"sim_gpio{OFFSETS[name]}" / "pull").write_text("pull-up" if high else "pull-down")

    def level(self, name: str) -> bool:
        return (self.hands / f"sim_gpio{OFFSETS[name]}" / "value").read_text().strip() == "1"

    def info(self, name: str) -> LineInfo:
        return self._chip.get_line_info(OFFSETS[name])

    def take(self, name: str, consumer: str) -> None:
        self._others.append(self._chip.request_lines({OFFSETS[name]: LineSettings()}, consumer=consumer))

    def close(self) -> None:
        for other in self._others:
            other.release()
        self._chip.close()
        (self._folder / "live").write_text("0")
        for line in ORIN_NANO:
            (self._folder / "bank0" / f"line{line.offset}").rmdir()
        (self._folder / "bank0").rmdir()
        self._folder.rmdir()


BENCHES = [PeerBench, *([KernelBench] if CONFIGFS.is_dir() else [])]
