"""The panel on mock pins: what hands do becomes events, and the light is what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from device import config
from device.panel import PanelLost, SimulatedPanel, open_panel
from device.states import LIGHTS, Event, State


def until(true: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Wait for `true()`, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


@contextmanager
def opened(**settings: object) -> Iterator[tuple[SimulatedPanel, list[Event]]]:
    """A simulated panel and the list of the events it posts."""
    events: list[Event] = []
    panel = open_panel(config.Panel(kind="simulated", **settings), events.append)
    assert isinstance(panel, SimulatedPanel)
    try:
        yield panel, events
    finally:
        panel.close()


def test_fifteen_fast_taps_are_fifteen_presses_and_fifteen_taps() -> None:
    """None is lost, none is taken for speech, and the light still shows what it is told."""
    with opened(tap_seconds=1.0) as (panel, events):
        panel.show(LIGHTS[State.READY])
        for _ in range(15):
            panel.press_talk()
            panel.show(LIGHTS[State.LISTENING])
            panel.release_talk()
            panel.show(LIGHTS[State.READY])
        assert events == [Event.PRESS, Event.TAP] * 15
        assert panel.lit() == LIGHTS[State.READY].rgb


def test_a_press_longer_than_a_tap_ends_in_a_release() -> None:
    """The time between the pin's two edges decides."""
    with opened(tap_seconds=0.05) as (panel, events):
        panel.press_talk()
        pressed = time.monotonic()
        until(lambda: time.monotonic() > pressed + 0.06, "the press is long enough")
        panel.release_talk()
        assert events == [Event.PRESS, Event.RELEASE]


def test_the_call_button_calls_as_it_goes_down() -> None:
    """A patient's call waits for no release, and a short press acknowledges nothing."""
    with opened(acknowledge_seconds=10) as (panel, events):
        panel.press_call()
        assert events == [Event.CALL]
        panel.release_call()
        panel.press_call()
        panel.release_call()
        assert events == [Event.CALL, Event.CALL]


def test_a_held_call_button_acknowledges_once() -> None:
    """The hold posts ACKNOWLEDGE after its CALL, and letting go posts nothing more."""
    with opened(acknowledge_seconds=0.05) as (panel, events):
        panel.press_call()
        until(lambda: Event.ACKNOWLEDGE in events, "the hold acknowledges")
        panel.release_call()
        panel.press_talk()
        assert events == [Event.CALL, Event.ACKNOWLEDGE, Event.PRESS]


@pytest.mark.parametrize("state", list(State))
def test_every_state_shows_its_own_colour_at_once(state: State) -> None:
    """The light is right when show() returns, blinking or not."""
    with opened() as (panel, _):
        panel.show(LIGHTS[state])
        assert panel.lit() == LIGHTS[state].rgb


def test_the_alert_flashes_and_a_steady_light_ends_the_flashing() -> None:
    """Red, dark and red again; then green, with no blinking thread left to write over it."""
    red, dark = LIGHTS[State.ALERTING].rgb, (0.0, 0.0, 0.0)
    with opened() as (panel, _):
        panel.show(LIGHTS[State.ALERTING])
        for colour in (red, dark, red, dark):
            until(lambda colour=colour: panel.lit() == colour, f"the light is {colour}")
        panel.show(LIGHTS[State.READY])
        over = time.monotonic() + 2 * LIGHTS[State.ALERTING].blink
        while time.monotonic() < over:
            assert panel.lit() == LIGHTS[State.READY].rgb
            time.sleep(0.01)


def test_the_night_dims_the_green_light_but_not_the_alert() -> None:
    """At night green is mostly dark; flashing red spends half its time lit, as by day."""
    share = {}
    with opened() as (panel, _):
        for state in (State.READY, State.ALERTING):
            panel.show(LIGHTS[state], night=True)
            seen, over = [], time.monotonic() + 1.0
            while time.monotonic() < over:
                seen.append(panel.lit() == LIGHTS[state].rgb)
                time.sleep(0.005)
            share[state] = sum(seen) / len(seen)
    assert 0 < share[State.READY] < 0.25
    assert 0.35 < share[State.ALERTING] < 0.65


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"talk_pin": "BOARD99"}, "BOARD99"),
        ({"call_pin": "the red one"}, "the red one"),
        ({"talk_pin": "BOARD1"}, "BOARD1"),
        ({"call_pin": "BOARD7"}, "BOARD7"),
        ({"call_pin": "GPIO4"}, "GPIO4"),
        ({"light_pins": ("BOARD29", "BOARD15", "BOARD33")}, "BOARD15"),
    ],
    ids=["no such pin", "no pin name", "a supply pin", "taken", "taken by another name", "light"],
)
def test_a_wrong_pin_is_named_in_one_sentence(settings: dict[str, object], named: str) -> None:
    """The message names the setting and the pin."""
    with pytest.raises(PanelLost, match=f"panel.*= '{named}'") as caught, opened(**settings):
        pass
    assert str(caught.value).count(". ") == 0
    assert str(caught.value).endswith(".")


def test_a_board_without_pins_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pin library that does not exist is PanelLost, with the way out."""
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "nonesuch")
    with pytest.raises(PanelLost, match="GPIOZERO_PIN_FACTORY"):
        open_panel(config.Panel(kind="gpio"), lambda event: None)


def test_two_panels_share_nothing_and_a_closed_one_is_dark_and_deaf() -> None:
    """Each simulated panel has pins of its own."""
    with opened() as (one, heard_by_one), opened() as (two, heard_by_two):
        one.show(LIGHTS[State.FAULT])
        two.show(LIGHTS[State.READY])
        one.press_talk()
        assert (heard_by_one, heard_by_two) == ([Event.PRESS], [])
        one.close()
        one.release_talk()
        assert heard_by_one == [Event.PRESS]
        assert one.lit() == (0.0, 0.0, 0.0)
        assert two.lit() == LIGHTS[State.READY].rgb
