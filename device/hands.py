"""What hands mean: press, release and tap of the talk button, call and acknowledgement. Pins and USB keys tell it alike.

It knows no pin, no key and no state.
"""

from __future__ import annotations

from collections.abc import Callable

from device.config import Panel as PanelSettings
from device.states import Control, Event

Post = Callable[[Event | Control], None]


class Hands:
    """Posts what a hand meant. Times are seconds on any steady clock, the same for both edges of a press."""

    def __init__(self, settings: PanelSettings, post: Post) -> None:
        self._settings, self._post = settings, post
        self._pressed_at: float | None = None

    def talk_down(self, at: float) -> None:
        """The press is told at once. With talk = "toggle" the state decides whether it begins or ends what is said."""
        self._pressed_at = at
        self._post(Event.PRESS)

    def talk_up(self, at: float) -> None:
        if self._pressed_at is None:  # held since before we started: nobody was heard pressing
            return
        held, self._pressed_at = at - self._pressed_at, None
        if self._settings.talk == "hold":
            self._post(Event.TAP if held < self._settings.tap_seconds else Event.RELEASE)

    def call_down(self) -> None:
        """A patient's call waits for no release. A caregiver's hold therefore calls first, which changes nothing while ALERTING."""
        self._post(Event.CALL)

    def call_held(self) -> None:
        self._post(Event.ACKNOWLEDGE)

    def louder_held(self) -> None:
        """The way to the quiet minute on a panel without a button of its own; what it says is then a step louder, too."""
        self._post(Event.QUIET)

    def mute(self, on: bool) -> None:
        self._post(Control.MUTE if on else Control.UNMUTE)

    def louder(self) -> None:
        self._post(Control.LOUDER)

    def quieter(self) -> None:
        self._post(Control.QUIETER)
