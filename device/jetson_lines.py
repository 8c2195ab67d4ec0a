"""The kernel's GPIO lines through libgpiod v2 (PyPI `gpiod`): chips by label, one held line, and edges as they come.

The only file that speaks to gpiod. It knows no header, no gpiozero and no panel.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import select
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

logger = logging.getLogger(__name__)


class LineFault(OSError):
    """A chip or a line can't be used. One sentence names it and the way out. `busy`: another program holds the line."""

    def __init__(self, sentence: str, busy: bool = False) -> None:
        super().__init__(sentence)
        self.busy = busy


def open_chips(*labels: str) -> dict[str, Any]:
    """The chips with these labels, open, by label. Raises LineFault.

    By label, because the numbers in /dev/gpiochipN are given in the order in which drivers happen to load.
    """
    try:
        import gpiod
    except ImportError as error:
        raise LineFault(f"GPIO lines need the package gpiod ({error}): pip install 'gpiod>=2.2'.") from error
    if not hasattr(gpiod, "LineSettings"):  # Ubuntu's python3-libgpiod
        raise LineFault(f"gpiod {gpiod.__version__} is libgpiod's first interface, which knows no debounce: pip install 'gpiod>=2.2'.")
    paths = sorted(glob.glob("/dev/gpiochip*"))
    return pick_chips(labels, paths, gpiod.Chip)


def pick_chips(labels: tuple[str, ...], paths: list[str], open_chip: Callable[[str], Any]) -> dict[str, Any]:
    """Of the chips at `paths` those with these labels; the others are closed again. Raises LineFault."""
    found: dict[str, Any] = {}
    denied: list[str] = []
    seen: list[str] = []
    for path in paths:
        try:
            chip = open_chip(path)
        except PermissionError:
            denied.append(path)
            continue
        except OSError as error:  # it went away, or is no chip
            logger.debug("%s: %s", path, error)
            continue
        label = chip.get_info().label
        seen.append(label)
        if label in labels and label not in found:
            found[label] = chip
        else:
            chip.close()
    missing = [label for label in labels if label not in found]
    if not missing:
        return found
    for chip in found.values():
        chip.close()
    if denied:
        raise LineFault(
            f"No permission for {', '.join(denied)}: add this user to the group gpio (sudo usermod -aG gpio {_user()}), log in again, "
            "and install firmware_config/udev/99-bedside.rules."
        )
    raise LineFault(
        f"No GPIO chip is labelled {', '.join(missing)} (here: {', '.join(seen) or 'none'}): choose the carrier that this board is."
    )


class Line:
    """One line, held from its first hold() until release(), so that nothing lets go of the pad in between.

    On JetPack 6.0 to 6.2.1 a line that user space lets go is a dead pin until its pinmux is written again (fixed in R36.5).
    """

    def __init__(self, chip: Any, offset: int, name: str, pin: str) -> None:
        """`name`: what the kernel must call the line, if it names its lines. `pin`: what a person calls it."""
        self._chip, self._offset, self._pin = chip, offset, pin
        self._request: Any = None
        info = chip.get_line_info(offset)
        if info.name and info.name != name:
            raise LineFault(
                f"{pin} should be {name}, but the kernel calls line {offset} of {chip.get_info().label} '{info.name}': "
                "choose the carrier that this board is."
            )

    @property
    def held(self) -> bool:
        return self._request is not None

    def is_output(self) -> bool:
        """Asked of the kernel; holds nothing."""
        from gpiod.line import Direction

        return bool(self._chip.get_line_info(self._offset).direction == Direction.OUTPUT)

    def hold(self, function: str = "", high: bool = False, edges: str = "none", bounce: float = 0.0) -> None:
        """Request the line, or change what is held without letting go of it. Raises LineFault.

        `function`: 'input', 'output' (from the first moment `high` or not), or '' to leave it as it is. `edges`: 'none', 'rising',
        'falling' or 'both'. `bounce`: seconds that a level must last before the kernel believes it.
        """
        from gpiod import LineSettings
        from gpiod.line import Direction, Edge, Value

        settings = LineSettings()
        if function == "output":
            settings = LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE if high else Value.INACTIVE)
        elif function == "input":
            quiet = timedelta(seconds=bounce)
            settings = LineSettings(direction=Direction.INPUT, edge_detection=Edge[edges.upper()], debounce_period=quiet)
        try:
            if self._request is None:
                self._request = self._chip.request_lines({self._offset: settings}, consumer="gpiozero")
            else:
                self._request.reconfigure_lines({self._offset: settings})
        except OSError as error:
            raise self._fault(error) from error

    def read(self) -> bool:
        return bool(self._request.get_value(self._offset))

    def write(self, high: bool) -> None:
        from gpiod.line import Value

        self._request.set_value(self._offset, Value.ACTIVE if high else Value.INACTIVE)

    def fileno(self) -> int:
        return int(self._request.fd)

    def edges(self) -> list[tuple[float, bool]]:
        """(seconds on CLOCK_MONOTONIC as the kernel stamped it, high afterwards) for each edge since the last call; never waits."""
        from gpiod import EdgeEvent

        if self._request is None or not self._request.wait_edge_events(0):
            return []
        return [(event.timestamp_ns / 1e9, event.event_type is EdgeEvent.Type.RISING_EDGE) for event in self._request.read_edge_events()]

    def release(self) -> None:
        if self._request is not None:
            self._request.release()
            self._request = None

    def _fault(self, error: OSError) -> LineFault:
        where = f"{self._pin} (line {self._offset} of {self._chip.get_info().label})"
        if isinstance(error, PermissionError):
            return LineFault(f"No permission for {where}: add this user to the group gpio (sudo usermod -aG gpio {_user()}).")
        info = self._chip.get_line_info(self._offset)
        if info.used:
            return LineFault(f"{where} is in use by '{info.consumer}': end that program, or choose another pin.", busy=True)
        return LineFault(f"{where} can't be set up so ({error.strerror}): choose another pin.")


class EdgeWatch:
    """One thread that waits for the edges of all lines. A line that fails must not make the others deaf."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._waiting: dict[int, Callable[[], None]] = {}
        self._ear, self._bell = os.pipe()  # rung to end the thread
        self._poll.register(self._ear, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def add(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Call `ready` in the thread whenever `descriptor` can be read."""
        self._waiting[descriptor] = ready
        self._poll.register(descriptor, select.EPOLLIN)
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="gpio edges", daemon=True)
            self._thread.start()

    def drop(self, descriptor: int) -> None:
        if self._waiting.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def close(self) -> None:
        """End the thread. After it no handler runs (but the one that closes, if it is one)."""
        if self._thread is not None:
            os.write(self._bell, b"x")
            if self._thread is not threading.current_thread():
                self._thread.join()
            self._thread = None
        with contextlib.suppress(OSError):
            self._poll.close()
            os.close(self._ear)
            os.close(self._bell)

    def _watch(self) -> None:
        while True:
            try:
                ready = self._poll.poll()
            except (OSError, ValueError):  # closed by a handler
                return
            for descriptor, what in ready:
                if descriptor == self._ear:
                    return
                if what & (select.EPOLLHUP | select.EPOLLERR):  # its chip was unplugged
                    logger.error("a GPIO chip is gone: its lines are deaf until the program starts again")
                    self.drop(descriptor)
                    continue
                try:
                    self._waiting.get(descriptor, lambda: None)()
                except Exception:
                    logger.exception("a GPIO line can't be read")


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())
