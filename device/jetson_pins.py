"""A gpiozero pin factory for NVIDIA Jetson, over the kernel's GPIO character devices (libgpiod v2).

gpiozero's own factories stop at "unable to locate Pi revision". With this one its devices work unchanged:

    from gpiozero import LED, Button
    from device.jetson_pins import JetsonFactory

    factory = JetsonFactory(pulls={"BOARD7": "up"})     # 10 kOhm from pin 7 to 3V3, button to ground
    button = Button("BOARD7", bounce_time=0.01, pin_factory=factory)
    led = LED("BOARD15", pin_factory=factory)           # through a transistor: a pin gives less than 1 mA

or, with GPIOZERO_PIN_FACTORY=jetson in the environment, `Button("BOARD7", pull_up=None, active_state=False)`.

Pins are called BOARD7, BCM4 or PAC.06. GPIO9, or a bare 7, means different pins to NVIDIA and to the Raspberry Pi and is refused.
Debounce is the kernel's (255 ms at most), edges are stamped by the kernel, and a line once used stays held until the factory is
closed, even when its device is: see `jetson_lines.Line`. What these pins cannot do is refused with a sentence: the GPIO controller
has no bias (declare the resistor you soldered as `pulls`), and PWM belongs to another controller.

It knows nothing of talk buttons and lights.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from gpiozero import exc
from gpiozero.pins import Factory, Pin

from device.jetson_boards import CARRIERS, NoHeader, board_info, compatible_strings, find_carrier, find_line, not_a_line
from device.jetson_lines import EdgeWatch, Line, LineFault, open_chips

logger = logging.getLogger(__name__)

LONGEST_BOUNCE = 0.255  # s; tegra186_gpio_set_config refuses more


class JetsonFactory(Factory):
    """Pins of the 40-pin header of a Jetson carrier.

    `board`: 'auto' (the device tree decides) or one of jetson_boards.CARRIERS. `pulls`: pin -> 'up' or 'down' for each resistor
    that is soldered to a pin, for the controller has none of its own. `chips` opens GPIO chips by label; the tests give their own.
    Raises BadPinFactory where there are no such pins.
    """

    def __init__(
        self, board: str = "auto", pulls: Mapping[str, str] | None = None, chips: Callable[..., dict[str, Any]] = open_chips
    ) -> None:
        super().__init__()
        compatible = compatible_strings()
        try:
            self.carrier = find_carrier(compatible) if board == "auto" else CARRIERS[board]
            self._chips = chips(*sorted({line.chip for line in self.carrier.lines}))
        except KeyError:
            raise exc.BadPinFactory(f"'{board}' is no carrier: auto, {', '.join(CARRIERS)} are known.") from None
        except (NoHeader, LineFault) as error:
            raise exc.BadPinFactory(str(error)) from error
        soldered = {}
        for name, pull in (pulls or {}).items():
            line = find_line(self.carrier, name)
            if line is None:
                raise exc.PinInvalidPin(not_a_line(self.carrier, name))
            if pull not in ("up", "down"):
                raise exc.PinInvalidPull(f"'{pull}' is no resistor of {name}: 'up' or 'down'.")
            soldered[line.board] = pull
        self._info = board_info(self.carrier, compatible[0] if compatible else board, soldered)
        self._watch = EdgeWatch()
        self._pins: dict[str, JetsonPin] = {}

    def pin(self, name: object) -> JetsonPin:
        """The one JetsonPin of this name. Raises PinInvalidPin with the way out."""
        line = find_line(self.carrier, name)
        if line is None:
            raise exc.PinInvalidPin(not_a_line(self.carrier, name))
        if line.board not in self._pins:
            try:
                held = Line(self._chips[line.chip], line.offset, line.name, line.board)
            except LineFault as error:
                raise exc.PinInvalidPin(str(error)) from error
            ((_, info),) = self._info.find_pin(line.board)
            self._pins[line.board] = JetsonPin(self, info, held, self._watch, line.number in self.carrier.output_only)
        return self._pins[line.board]

    def close(self) -> None:
        """Let go of every line. gpiozero calls it as the interpreter ends; to call it earlier can cost a pin (see Line)."""
        for pin in self._pins.values():
            pin.close()
        self._watch.close()
        for pin in self._pins.values():
            pin.release()
        self._pins.clear()
        for chip in self._chips.values():
            chip.close()
        self._chips = {}

    def ticks(self) -> float:
        """Seconds on the clock with which the kernel stamps edges."""
        return time.monotonic()

    def ticks_diff(self, later: float, earlier: float) -> float:
        return later - earlier

    def _get_board_info(self) -> Any:
        return self._info


class JetsonPin(Pin):
    """One GPIO line as gpiozero sees it. Made by JetsonFactory.pin()."""

    def __init__(self, factory: JetsonFactory, info: Any, line: Line, watch: EdgeWatch, output_only: bool) -> None:
        super().__init__()
        self._factory, self._info, self._line = weakref.ref(factory), info, line
        self._watch, self._output_only = watch, output_only
        self._lock = threading.RLock()  # gpiozero's blinking threads and ours share the line
        self._function = ""  # as the kernel has it, until we hold the line
        self._bounce: float | None = None
        self._edges = "both"
        self._handler: Any = None  # a weak reference, as in gpiozero's own pins

    def __repr__(self) -> str:
        return str(self._info.name)

    @property
    def factory(self) -> JetsonFactory | None:
        return self._factory()

    def close(self) -> None:
        """Deaf, and an input again: what is soldered to the pin decides its level. The line stays held."""
        with self._lock:
            self._bounce, self._edges = None, "both"
            self.when_changed = None
            if not self._line.held:
                return
            if self._output_only:
                self._line.write(False)
            else:
                self._become("input", False)

    def release(self) -> None:
        with self._lock:
            self._line.release()

    def output_with_state(self, state: float) -> None:
        """An output that never shows another level than `state`."""
        self._become("output", self._level(state))

    def input_with_pull(self, pull: str) -> None:
        self._check_pull(pull)
        self._set_function("input")

    def _get_info(self) -> Any:
        return self._info

    def _get_function(self) -> str:
        return self._function or ("output" if self._line.is_output() else "input")

    def _set_function(self, value: str) -> None:
        if value not in ("input", "output"):
            raise exc.PinInvalidFunction(f"'{value}' is no function of {self!r}: 'input' or 'output'.")
        if value == "input" and self._output_only:
            raise exc.PinInvalidFunction(f"{self!r} is behind an output buffer of this carrier and can't be an input: choose another pin.")
        if value != self._function:
            self._become(value, self._get_state() if value == "output" else False)

    def _get_state(self) -> bool:
        with self._lock:
            if not self._line.held:
                self._hold()  # as it is
            return self._line.read()

    def _set_state(self, value: float) -> None:
        with self._lock:
            if self._get_function() != "output":
                raise exc.PinSetInput(f"{self!r} is an input: its level is not ours to set.")
            self._line.write(self._level(value))

    def _get_pull(self) -> str:
        return self._info.pull or "floating"

    def _set_pull(self, value: str) -> None:
        if self._get_function() != "input" and value in ("up", "down", "floating"):
            raise exc.PinFixedPull(f"{self!r} is an output: a pull means nothing there.")
        self._check_pull(value)

    def _get_frequency(self) -> None:
        return None

    def _set_frequency(self, value: float | None) -> None:
        if value is None:
            return
        pwm = self._info.interfaces.get("pwm")
        raise exc.PinPWMUnsupported(
            f"{self!r} can't be dimmed: "
            + (f"its PWM is the controller {pwm}, which the pinmux has to connect in the GPIO's place." if pwm else "it has no PWM.")
            + " Use pwm=False."
        )

    def _get_bounce(self) -> float | None:
        return self._bounce

    def _set_bounce(self, value: float | None) -> None:
        if value is not None and not 0 <= value <= LONGEST_BOUNCE:
            raise exc.PinInvalidBounce(f"{self!r} can be debounced for 0 to {LONGEST_BOUNCE} s, not {value}.")
        with self._lock:
            self._bounce = value or None
            self._apply()

    def _get_edges(self) -> str:
        return self._edges

    def _set_edges(self, value: str) -> None:
        if value not in ("none", "rising", "falling", "both"):
            raise exc.PinInvalidEdges(f"'{value}' are no edges: 'none', 'rising', 'falling' or 'both'.")
        with self._lock:
            self._edges = value
            self._apply()

    def _get_when_changed(self) -> Callable[[float, bool], None] | None:
        return None if self._handler is None else self._handler()

    def _set_when_changed(self, value: Callable[[float, bool], None] | None) -> None:
        with self._lock:
            if value is not None and self._get_function() != "input":
                raise exc.PinEdgeDetectUnsupported(f"{self!r} is an output: it has no edges to wait for.")
            was = self._handler is not None
            self._handler = None if value is None else weakref.WeakMethod(value) if inspect.ismethod(value) else weakref.ref(value)
            self._apply()
            if (value is not None) == was:
                return
            if was:
                self._watch.drop(self._line.fileno())
            else:
                self._watch.add(self._line.fileno(), self._changed)

    def _changed(self) -> None:
        """In the watching thread: an edge has come."""
        with self._lock:
            edges = self._line.edges()
        for ticks, high in edges:
            handler = self._get_when_changed()
            if handler is None:
                self.when_changed = None  # its owner is gone
                return
            try:
                handler(ticks, high)
            except Exception:  # the next edge is still due, and so are the other pins'
                logger.exception("a handler of %r failed", self)

    def _check_pull(self, value: str) -> None:
        if value not in ("up", "down", "floating"):
            raise exc.PinInvalidPull(f"'{value}' is no pull of {self!r}: 'up', 'down' or 'floating'.")
        soldered = self._get_pull()
        if value == soldered:
            return
        if soldered != "floating":
            raise exc.PinFixedPull(f"{self!r} has a resistor soldered that pulls it {soldered}: it can't be {value}.")
        raise exc.PinFixedPull(
            f"{self!r} can't be pulled {value}: a Jetson's GPIO controller has no bias. Solder a resistor (10 kOhm) and declare it, "
            f"JetsonFactory(pulls={{'{self!r}': '{value}'}}), or use pull_up=None with active_state."
        )

    def _level(self, state: float) -> bool:
        if state not in (0, 1):
            raise exc.PinInvalidState(f"{state} is no level of {self!r}: without PWM it is 0 or 1.")
        return bool(state)

    def _become(self, function: str, level: bool) -> None:
        with self._lock:
            if function == "output":
                self.when_changed = None
            before, self._function = self._function, function
            try:
                self._hold(level)
            except Exception:
                self._function = before
                raise

    def _apply(self) -> None:
        if self._line.held and self._get_function() == "input":
            self._hold()
        elif self._handler is not None:
            self._become("input", False)

    def _hold(self, level: bool = False) -> None:
        """Tell the kernel what the pin is now, without letting go of the line."""
        edges = self._edges if self._handler is not None else "none"
        try:
            self._line.hold(self._function, level, edges, self._bounce or 0.0)
        except LineFault as error:
            raise (exc.GPIOPinInUse if error.busy else exc.PinError)(str(error)) from error
