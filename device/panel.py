"""The talk button, the call button and the light, on real pins or on gpiozero's mock pins.

It does not know the states of the house: it posts what hands do and shows the light it is given.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from device.config import Panel as PanelSettings
from device.states import Event, Light

if TYPE_CHECKING:
    from gpiozero import Button
    from gpiozero.pins import Factory

BOUNCE = 0.01  # s; what a worn button chatters. Mock pins ignore it.
GLIMMER = 0.1  # s that a light shows at night
NIGHT_PERIOD = 2.0  # s from one glimmer of a steady light to the next


class PanelLost(RuntimeError):
    """The buttons or the light can't be used. One sentence names the pin and the way out."""


def open_panel(settings: PanelSettings, post: Callable[[Event], None]) -> Panel:
    """The panel that the settings ask for, its buttons live at return.

    `post` is called from gpiozero's threads (simulated: from the thread that presses) and must
    only hand the event over. Raises PanelLost.
    """
    if settings.kind == "simulated":
        return SimulatedPanel(settings, post)
    return Panel(settings, post, _default_factory())


class Panel:
    """Two buttons to ground (pulled up) and one three-colour light, on the pins of `factory`."""

    def __init__(
        self, settings: PanelSettings, post: Callable[[Event], None], factory: Factory
    ) -> None:
        from gpiozero import RGBLED, Button

        _check_pins(settings, factory)
        self._post = post
        self._tap_seconds = settings.tap_seconds
        self._factory = factory
        self._pressed_at: float | None = None
        self._shown: tuple[Light, bool] | None = None
        self._parts: list[Any] = []
        down: dict[str, Any] = {"pull_up": True, "bounce_time": BOUNCE, "pin_factory": factory}
        try:
            self._talk = self._add(Button(settings.talk_pin, **down))
            hold = settings.acknowledge_seconds
            self._call = self._add(Button(settings.call_pin, hold_time=hold, **down))
            self._light = self._add(RGBLED(*settings.light_pins, pwm=False, pin_factory=factory))
        except Exception as error:  # every pin library has its own errors
            self.close()
            raise PanelLost(
                f"The panel on {', '.join(_pins(settings).values())} can't be used ({error}): "
                "end the program that holds the pin, or name another one."
            ) from error
        self._talk.when_pressed = self._talk_down
        self._talk.when_released = self._talk_up
        # A patient's call is immediate. A caregiver's hold therefore posts CALL first, which
        # changes nothing while ALERTING, and then ACKNOWLEDGE.
        self._call.when_pressed = lambda: post(Event.CALL)
        self._call.when_held = lambda: post(Event.ACKNOWLEDGE)

    def show(self, light: Light, night: bool = False) -> None:
        """Show `light` from now on; it blinks in the background. The same light again is no change.

        At night a light only glimmers. Its colour stays, for red and yellow have a meaning of
        their own here and pins without PWM know no half tones; flashing red or yellow stays whole.
        """
        if self._shown == (light, night):
            return
        self._shown = (light, night)
        colour = tuple(int(part >= 0.5) for part in light.rgb)
        lit, dark = _rhythm(light, night)
        self._light.color = colour  # at once; the blinking thread starts when it starts
        if dark:
            self._light.blink(lit, dark, on_color=colour)

    def close(self) -> None:
        """Dark and deaf. A light that stayed on after us would be a lie."""
        if hasattr(self, "_light"):
            with suppress(Exception):
                self._light.off()
        while self._parts:
            self._parts.pop().close()

    def _add(self, part: Any) -> Any:
        self._parts.append(part)
        return part

    def _talk_down(self, button: Button) -> None:
        # The pin's own time of the edge, so that a late thread does not turn a press into a tap.
        self._pressed_at = self._factory.ticks() - (button.active_time or 0.0)
        self._post(Event.PRESS)

    def _talk_up(self, button: Button) -> None:
        if self._pressed_at is None:  # held since before we started: nobody was heard pressing
            return
        released_at = self._factory.ticks() - (button.inactive_time or 0.0)
        held = self._factory.ticks_diff(released_at, self._pressed_at)
        self._pressed_at = None
        self._post(Event.TAP if held < self._tap_seconds else Event.RELEASE)


class SimulatedPanel(Panel):
    """The same panel on gpiozero's mock pins, with verbs for the hands and an eye for the light."""

    def __init__(self, settings: PanelSettings, post: Callable[[Event], None]) -> None:
        from gpiozero.pins.mock import MockFactory

        factory = MockFactory()
        super().__init__(settings, post, factory)
        self._talk_wire: Any = factory.pin(settings.talk_pin)
        self._call_wire: Any = factory.pin(settings.call_pin)
        self._lamps: list[Any] = [factory.pin(pin) for pin in settings.light_pins]

    def press_talk(self) -> None:
        self._talk_wire.drive_low()

    def release_talk(self) -> None:
        self._talk_wire.drive_high()

    def press_call(self) -> None:
        self._call_wire.drive_low()

    def release_call(self) -> None:
        self._call_wire.drive_high()

    def lit(self) -> tuple[float, float, float]:
        """Red, green and blue as the pins have them now, 0.0 or 1.0 each."""
        red, green, blue = (float(lamp.state) for lamp in self._lamps)
        return red, green, blue


def _rhythm(light: Light, night: bool) -> tuple[float, float]:
    """Seconds lit and seconds dark; dark 0 is steady."""
    red, _, blue = light.rgb
    warning = light.blink > 0 and red > 0 and blue == 0
    if not night or warning:
        return light.blink / 2, light.blink / 2
    period = light.blink or NIGHT_PERIOD
    return GLIMMER, max(period - GLIMMER, GLIMMER)


def _pins(settings: PanelSettings) -> dict[str, str]:
    names = {"panel.talk_pin": settings.talk_pin, "panel.call_pin": settings.call_pin}
    for colour, pin in zip(("red", "green", "blue"), settings.light_pins, strict=True):
        names[f"panel.light_pins ({colour})"] = pin
    return names


def _check_pins(settings: PanelSettings, factory: Factory) -> None:
    """Raise PanelLost for a name that is no pin, and for one pin under two names."""
    users: dict[Any, str] = {}
    for setting, name in _pins(settings).items():
        try:
            pin = factory.pin(name)
        except Exception as error:  # PinInvalidPin, or what the pin library raises
            raise PanelLost(
                f"{setting} = '{name}' is not a pin that can be used ({type(error).__name__}): "
                "name a GPIO pin of the 40-pin header such as BOARD7."
            ) from error
        if pin in users:
            raise PanelLost(
                f"{setting} = '{name}' is the pin that {users[pin]} uses already: "
                "give each its own pin."
            )
        users[pin] = setting


def _default_factory() -> Factory:
    """gpiozero's own choice of pin library; GPIOZERO_PIN_FACTORY overrides it."""
    from gpiozero import Device

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one line for each library it tries
            Device.ensure_pin_factory()
    except Exception as error:  # BadPinFactory, or what the named library raises
        raise PanelLost(
            f"No GPIO pins can be used here ({error}): set GPIOZERO_PIN_FACTORY to a pin library "
            "of this board, or panel.kind to 'simulated'."
        ) from error
    return Device.pin_factory
