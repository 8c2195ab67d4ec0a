"""Which setting of the panel is which pin, and the pin library of this board. It opens no button and no light."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from device.config import Panel as PanelSettings

if TYPE_CHECKING:
    from gpiozero.pins import Factory


class PanelLost(RuntimeError):
    """The buttons or the light can't be used. One sentence names the setting and the way out."""


BUTTONS = ("talk_pin", "call_pin", "mute_pin", "louder_pin", "quieter_pin", "ambient_pin")  # each to ground, pulled up


def button_pins(settings: PanelSettings) -> dict[str, str]:
    """Setting -> pin of everything that is pulled up and switched to ground, as far as it is there."""
    return {f"panel.{name}": getattr(settings, name) for name in BUTTONS if getattr(settings, name)}


def lamp_pins(settings: PanelSettings) -> dict[str, str]:
    pins = {f"panel.light_pins ({colour})": pin for colour, pin in zip(("red", "green", "blue"), settings.light_pins, strict=True)}
    return pins | {f"panel.{name}": getattr(settings, name) for name in ("mute_light_pin", "nurse_call_pin") if getattr(settings, name)}


def check_pins(settings: PanelSettings, factory: Factory) -> None:
    """Raise PanelLost for a name that is no pin, and for one pin under two settings."""
    users: dict[Any, str] = {}
    for setting, name in (button_pins(settings) | lamp_pins(settings)).items():
        try:
            pin = factory.pin(name)
        except Exception as error:  # PinInvalidPin, or what the pin library raises
            raise PanelLost(unusable(setting, name, error)) from error
        if pin in users:
            raise PanelLost(f"{setting} = '{name}' is the pin that {users[pin]} uses already: give each its own pin.")
        users[pin] = setting


def unusable(setting: str, name: str, error: Exception) -> str:
    """One sentence. Our own pin library's errors are sentences already; gpiozero's are words for programmers."""
    said = str(error)
    if said.endswith("."):
        return f"{setting} = '{name}': {said}"
    kind = type(error).__name__
    return f"{setting} = '{name}' is not a pin that can be used ({kind}): name a GPIO pin of the 40-pin header such as BOARD7."


def pin_library(settings: PanelSettings) -> Factory:
    """Ours on a Jetson, else gpiozero's own choice; GPIOZERO_PIN_FACTORY overrides both. Raises PanelLost."""
    from gpiozero import Device

    from device.jetson_boards import is_jetson

    try:
        if "GPIOZERO_PIN_FACTORY" not in os.environ and (settings.board != "auto" or is_jetson()):
            if Device.pin_factory is None:
                Device.pin_factory = _jetson(settings)  # gpiozero closes it as the interpreter ends, and only then
            return Device.pin_factory
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one line for each library it tries
            Device.ensure_pin_factory()
    except Exception as error:  # BadPinFactory, or what the named library raises
        said = str(error).rstrip(".")
        raise PanelLost(
            f"No GPIO pins can be used here ({said}): set panel.board, or GPIOZERO_PIN_FACTORY to a pin library of this board, "
            "or panel.kind to 'usb' or 'simulated'."
        ) from error
    return Device.pin_factory


def _jetson(settings: PanelSettings) -> Factory:
    from device.jetson_boards import CARRIERS, compatible_strings, find_carrier, find_line
    from device.jetson_pins import JetsonFactory

    carrier = find_carrier(compatible_strings()) if settings.board == "auto" else CARRIERS[settings.board]
    # A name that is no pin is told later, by check_pins, which knows whose it is.
    soldered = [pin for pin in button_pins(settings).values() if find_line(carrier, pin)]
    return JetsonFactory(settings.board, pulls=dict.fromkeys(soldered, "up"))
