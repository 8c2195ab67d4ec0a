"""The three-colour light: it shows what it is told, and blinks by itself. It knows no state."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from device.states import Light

if TYPE_CHECKING:
    from gpiozero.pins import Factory

GLIMMER = 0.1  # s that a light shows at night
NIGHT_PERIOD = 2.0  # s from one glimmer of a steady light to the next


class Lamp:
    """Red, green and blue on three pins of `factory`, each through a transistor, lit by a high level."""

    def __init__(self, pins: tuple[str, str, str], factory: Factory) -> None:
        from gpiozero import RGBLED

        self._led: Any = RGBLED(*pins, pwm=False, pin_factory=factory)  # no PWM on most pins of a Jetson
        self._shown: tuple[Light, bool] | None = None

    def show(self, light: Light, night: bool = False) -> None:
        """Show `light` from now on. The same light again is no change.

        At night a light only glimmers. Its colour stays, for red and yellow have a meaning of
        their own here and pins without PWM know no half tones; flashing red or yellow stays whole, and so does the pace of a breath.
        """
        if self._shown == (light, night):
            return
        self._shown = (light, night)
        colour = tuple(int(part >= 0.5) for part in light.rgb)
        lit, dark = rhythm(light, night)
        self._led.color = colour  # at once; the blinking thread starts when it starts
        if dark:
            self._led.blink(lit, dark, on_color=colour)

    def close(self) -> None:
        """Dark. A light that stayed on after us would be a lie."""
        with suppress(Exception):
            self._led.off()
        self._led.close()


def rhythm(light: Light, night: bool) -> tuple[float, float]:
    """Seconds lit and seconds dark; dark 0 is steady."""
    if not night or light.warns or light.paces:
        return light.blink / 2, light.blink / 2
    period = light.blink or NIGHT_PERIOD
    return GLIMMER, max(period - GLIMMER, GLIMMER)
