"""The buttons, the mute switch and the lights, on real pins, on gpiozero's mock pins, or at a USB port.

It does not know the states of the house: it posts what hands do and shows the light it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from device.config import Panel as PanelSettings
from device.hands import Hands, Post
from device.lamp import Lamp
from device.panel_pins import PanelLost, check_pins, pin_library, unusable
from device.states import Light
from device.usb_buttons import ButtonLost, Key, UsbButtons, key_code

if TYPE_CHECKING:
    from gpiozero import Button
    from gpiozero.pins import Factory

__all__ = ["Panel", "PanelLost", "SimulatedPanel", "open_panel"]

BOUNCE = 0.01  # s; what a worn button chatters. Mock pins ignore it.


def open_panel(settings: PanelSettings, post: Post) -> Panel:
    """The panel that the settings ask for, its buttons live at return.

    `post` is called from gpiozero's threads (simulated: from the thread that presses) and must
    only hand the event over. Raises PanelLost.
    """
    if settings.kind == "simulated":
        return SimulatedPanel(settings, post)
    return Panel(settings, post, pin_library(settings) if settings.kind == "gpio" else None)


class Panel:
    """Buttons to ground (pulled up) and lights on the pins of `factory` (None: no pins), and the keys of a USB button."""

    def __init__(self, settings: PanelSettings, post: Post, factory: Factory | None) -> None:
        self._settings, self._post, self._factory = settings, post, factory
        self._hands = Hands(settings, post)
        self._parts: list[Any] = []
        self._lamp: Lamp | None = None
        self._mute: Any = None
        self._mute_lamp: Any = None
        self._ambient: Any = None
        self._relay: Any = None
        try:
            if factory is not None:
                check_pins(settings, factory)
                self._open_lights(factory)
                self._open_buttons()
                self._open_relay(factory)
            if settings.usb_device:
                self._open_usb()
            elif factory is None:
                raise PanelLost("panel.kind = 'usb' needs panel.usb_device: part of the button's name, as 'libinput list-devices' has it.")
        except Exception:
            self.close()
            raise

    def show(self, light: Light, night: bool = False) -> None:
        """Show `light` from now on; it blinks in the background. The same light again is no change."""
        if self._lamp is not None:
            self._lamp.show(light, night)

    def nurse_call(self, on: bool) -> None:
        """Hold the nurse-call relay, or let it go. Without one, nothing."""
        if self._relay is not None:
            self._relay.on() if on else self._relay.off()

    @property
    def muted(self) -> bool:
        """Whether the mute switch is off now. It closes to ground when on, so that a cut wire mutes."""
        return self._mute is not None and not self._mute.is_pressed

    @property
    def dark(self) -> bool:
        """Whether the light sensor pulls its pin to ground: the room is dark."""
        return self._ambient is not None and bool(self._ambient.is_pressed)

    def close(self) -> None:
        """Dark and deaf."""
        while self._parts:
            self._parts.pop().close()

    def _open_lights(self, factory: Factory) -> None:
        from gpiozero import LED

        pins = self._settings.light_pins
        self._lamp = self._open("panel.light_pins", ", ".join(pins), lambda: Lamp(pins, factory))
        if name := self._settings.mute_light_pin:
            self._mute_lamp = self._open("panel.mute_light_pin", name, lambda: LED(name, pin_factory=factory))

    def _open_relay(self, factory: Factory) -> None:
        from gpiozero import OutputDevice

        if name := self._settings.nurse_call_pin:
            high = self._settings.nurse_call_level == "high"
            make = lambda: OutputDevice(name, active_high=high, initial_value=False, pin_factory=factory)  # noqa: E731
            self._relay = self._open("panel.nurse_call_pin", name, make)

    def _open_buttons(self) -> None:
        hands = self._hands
        self._talk = self._button("talk_pin")
        self._call = self._button("call_pin", hold_time=self._settings.acknowledge_seconds)
        self._talk.when_pressed, self._talk.when_released = self._talk_down, self._talk_up
        self._call.when_pressed, self._call.when_held = hands.call_down, hands.call_held
        if self._settings.louder_pin:
            louder = self._button("louder_pin", hold_time=self._settings.acknowledge_seconds)
            louder.when_pressed, louder.when_held = hands.louder, hands.louder_held
        if self._settings.quieter_pin:
            self._button("quieter_pin").when_pressed = hands.quieter
        if self._settings.mute_pin:
            self._mute = self._button("mute_pin")
            self._mute.when_pressed, self._mute.when_released = self._switched_on, self._switched_off
            if self._mute_lamp is not None:
                self._mute_lamp.value = self.muted
        if self._settings.ambient_pin:
            self._ambient = self._button("ambient_pin")

    def _button(self, setting: str, **more: Any) -> Any:
        from gpiozero import Button

        name = getattr(self._settings, setting)
        return self._open(
            f"panel.{setting}", name, lambda: Button(name, pull_up=True, bounce_time=BOUNCE, pin_factory=self._factory, **more)
        )

    def _open(self, setting: str, name: str, make: Callable[[], Any]) -> Any:
        """One part, which is closed with the panel. Raises PanelLost."""
        try:
            part = make()
        except Exception as error:  # every pin library has its own errors
            raise PanelLost(unusable(setting, name, error)) from error
        self._parts.append(part)
        return part

    def _open_usb(self) -> None:
        s, hands = self._settings, Hands(self._settings, self._post)  # its own, for a press has two edges
        try:
            keys = {
                key_code("panel.usb_talk", s.usb_talk): Key(hands.talk_down, hands.talk_up),
                key_code("panel.usb_call", s.usb_call): Key(lambda at: hands.call_down(), held=hands.call_held),
                key_code("panel.usb_louder", s.usb_louder): Key(lambda at: hands.louder(), held=hands.louder_held),
                key_code("panel.usb_quieter", s.usb_quieter): Key(lambda at: hands.quieter()),
            }
        except ButtonLost as error:
            raise PanelLost(str(error)) from error
        except ImportError as error:
            raise PanelLost(f"panel.usb_device needs the package evdev ({error}): pip install evdev.") from error
        if len(keys) < 4:
            raise PanelLost(f"Two of panel.usb_talk, usb_call, usb_louder and usb_quieter are one key ({s.usb_talk}, {s.usb_call}, "
                            f"{s.usb_louder}, {s.usb_quieter}): give each its own.")  # fmt: skip
        self._parts.append(UsbButtons(s.usb_device, keys, s.acknowledge_seconds))

    # The pins' own times of the edges, so that a late thread does not turn a press into a tap.

    def _talk_down(self, button: Button) -> None:
        self._hands.talk_down(self._factory.ticks() - (button.active_time or 0.0))  # type: ignore[union-attr]

    def _talk_up(self, button: Button) -> None:
        self._hands.talk_up(self._factory.ticks() - (button.inactive_time or 0.0))  # type: ignore[union-attr]

    # The mute light is lit as long as nothing hears, and a moment less: never while something does.

    def _switched_off(self) -> None:
        self._hands.mute(True)
        if self._mute_lamp is not None:
            self._mute_lamp.on()

    def _switched_on(self) -> None:
        if self._mute_lamp is not None:
            self._mute_lamp.off()
        self._hands.mute(False)


class SimulatedPanel(Panel):
    """The same panel on gpiozero's mock pins, with verbs for the hands and an eye for the light.

    A mute switch is off at first, for a mock pin with nothing at it is one with a cut wire.
    """

    def __init__(self, settings: PanelSettings, post: Post) -> None:
        from gpiozero.pins.mock import MockFactory

        factory = MockFactory()
        super().__init__(settings, post, factory)
        self._lamps: list[Any] = [factory.pin(pin) for pin in settings.light_pins]

    def press_talk(self) -> None:
        self._pull(self._factory, self._settings.talk_pin, False)

    def release_talk(self) -> None:
        self._pull(self._factory, self._settings.talk_pin, True)

    def press_call(self) -> None:
        self._pull(self._factory, self._settings.call_pin, False)

    def release_call(self) -> None:
        self._pull(self._factory, self._settings.call_pin, True)

    def switch_mute(self, on: bool) -> None:
        """True: the microphone is switched off."""
        self._pull(self._factory, self._settings.mute_pin, on)

    def press(self, setting: str) -> None:
        """Press and release the button of louder_pin or quieter_pin."""
        self.hold(setting)
        self.let_go(setting)

    def hold(self, setting: str) -> None:
        self._pull(self._factory, getattr(self._settings, setting), False)

    def let_go(self, setting: str) -> None:
        self._pull(self._factory, getattr(self._settings, setting), True)

    def darken(self, dark: bool) -> None:
        """What the light sensor says of the room."""
        self._pull(self._factory, self._settings.ambient_pin, not dark)

    def lit(self) -> tuple[float, float, float]:
        """Red, green and blue as the pins have them now, 0.0 or 1.0 each."""
        red, green, blue = (float(lamp.state) for lamp in self._lamps)
        return red, green, blue

    def calling(self) -> bool:
        """Whether the nurse-call relay is held, as its pin has it now."""
        factory: Any = self._factory
        return bool(factory.pin(self._settings.nurse_call_pin).state) == (self._settings.nurse_call_level == "high")

    def mute_lit(self) -> bool:
        """The mute switch's own light, as its pin has it now."""
        factory: Any = self._factory
        return bool(factory.pin(self._settings.mute_light_pin).state)

    @staticmethod
    def _pull(factory: Any, pin: str, high: bool) -> None:
        wire = factory.pin(pin)
        wire.drive_high() if high else wire.drive_low()
