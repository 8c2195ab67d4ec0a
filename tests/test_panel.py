"""The panel on mock pins: what hands do becomes events, and the light is what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gpio_bench import BENCHES, PeerBench

from device import config
from device.jetson_boards import ORIN_NANO
from device.jetson_pins import JetsonFactory
from device.panel import Panel, PanelLost, SimulatedPanel, open_panel
from device.panel_pins import button_pins
from device.states import LIGHTS, Control, Event, State


def until(true: Callable[[], bool], what: str, seconds: float = 5.0) -> None:
    """Wait for `true()`, at most `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


@contextmanager
def opened(**settings: object) -> Iterator[tuple[SimulatedPanel, list[Event | Control]]]:
    """A simulated panel and the list of the events it posts."""
    events: list[Event | Control] = []
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


def test_who_can_not_hold_a_button_taps_to_begin_and_taps_to_end() -> None:
    """Each press is told, no release is, however short or long it was: the state decides what a press means."""
    with opened(talk="toggle", tap_seconds=1.0) as (panel, events):
        for _ in range(2):
            panel.press_talk()
            panel.release_talk()
        assert events == [Event.PRESS, Event.PRESS]


def test_the_mute_switch_tells_and_its_own_light_follows() -> None:
    """Open, as with a cut wire, nothing hears; the light is lit as long as that is so and dark before something hears again."""
    seen: list[tuple[Control, bool]] = []
    settings = config.Panel(mute_pin="BOARD18", mute_light_pin="BOARD22")
    holder: list[SimulatedPanel] = []
    panel = open_panel(settings, lambda event: seen.append((event, holder[0].mute_lit())))
    assert isinstance(panel, SimulatedPanel)
    holder.append(panel)
    assert (panel.muted, panel.mute_lit()) == (True, True)
    panel.switch_mute(False)
    assert (panel.muted, panel.mute_lit()) == (False, False)
    panel.switch_mute(True)
    assert (panel.muted, panel.mute_lit()) == (True, True)
    assert seen == [(Control.UNMUTE, False), (Control.MUTE, False)]  # never lit while something may hear
    panel.close()


def test_without_a_mute_switch_nothing_is_muted() -> None:
    with opened() as (panel, _):
        assert not panel.muted
        assert not panel.dark


def test_two_buttons_turn_the_volume() -> None:
    with opened(louder_pin="BOARD18", quieter_pin="BOARD22") as (panel, events):
        panel.press("louder_pin")
        panel.press("quieter_pin")
        panel.press("quieter_pin")
        assert events == [Control.LOUDER, Control.QUIETER, Control.QUIETER]


def test_a_light_sensor_sees_the_dark() -> None:
    with opened(ambient_pin="BOARD18") as (panel, events):
        assert not panel.dark
        panel.darken(True)
        assert panel.dark
        panel.darken(False)
        assert not panel.dark
        assert events == []


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
        ({"mute_pin": "BOARD7"}, "BOARD7"),
        ({"mute_light_pin": "BOARD31"}, "BOARD31"),
        ({"louder_pin": "BOARD99"}, "BOARD99"),
    ],
    ids=["no such pin", "no pin name", "a supply pin", "taken", "taken by another name", "light", "mute", "mute light", "volume"],
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


# On a Jetson's pins: our own pin factory over gpio-sim, or over the peer of gpiod ---------------------------------


@pytest.fixture(params=BENCHES, ids=lambda bench: bench.__name__)
def bench(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@contextmanager
def on_a_jetson(bench: Any, **settings: Any) -> Iterator[tuple[Panel, list[Event | Control]]]:
    chosen = config.Panel(kind="gpio", board="orin-nano", **settings)
    for pin in button_pins(chosen).values():
        bench.pull(LINES.get(pin, "PAC.06"), True)  # the soldered resistors
    factory = JetsonFactory("orin-nano", dict.fromkeys([p for p in button_pins(chosen).values() if p in LINES], "up"), bench.chips)
    events: list[Event | Control] = []
    try:
        panel = Panel(chosen, events.append, factory)
        yield panel, events
        panel.close()
    finally:
        factory.close()


LINES = {line.board: line.name for line in ORIN_NANO}
LAMPS = [LINES[pin] for pin in config.Panel().light_pins]


def test_buttons_and_light_work_on_a_jetsons_pins(bench: Any) -> None:
    """Two turns, a call that is acknowledged, and the light of each state on the lines themselves."""
    with on_a_jetson(bench, tap_seconds=0.05, acknowledge_seconds=0.1, mute_pin="BOARD18", mute_light_pin="BOARD22") as (panel, events):
        assert panel.muted
        assert bench.level(LINES["BOARD22"])
        bench.pull(LINES["BOARD18"], False)
        until(lambda: events == [Control.UNMUTE], "the microphone switched on")
        assert not bench.level(LINES["BOARD22"])
        for _ in range(2):
            bench.pull("PAC.06", False)
            until(lambda: events[-1] is Event.PRESS, "the press")
            time.sleep(0.1)
            bench.pull("PAC.06", True)
            until(lambda: events[-1] is Event.RELEASE, "the release")
        bench.pull("PN.01", False)
        until(lambda: events[-2:] == [Event.CALL, Event.ACKNOWLEDGE], "the call and its acknowledgement")
        bench.pull("PN.01", True)
        for state in State:
            panel.show(LIGHTS[state])
            if not LIGHTS[state].blink:
                assert tuple(float(bench.level(lamp)) for lamp in LAMPS) == LIGHTS[state].rgb
            until(lambda rgb=LIGHTS[state].rgb: tuple(float(bench.level(lamp)) for lamp in LAMPS) == rgb, f"the light of {state}")
    assert not any(bench.level(lamp) for lamp in LAMPS)


def test_a_storm_of_bounces_leaves_the_panel_usable(bench: Any) -> None:
    """Ten thousand edges, then a press and a release: no stuck state, no lost press."""
    with on_a_jetson(bench, tap_seconds=0.05) as (_, events):
        for _ in range(5000):
            bench.pull("PAC.06", False)
            bench.pull("PAC.06", True)
        until(lambda: not events or events[-1] is not Event.PRESS, "the storm's last release")
        time.sleep(0.1)
        bench.pull("PAC.06", False)
        until(lambda: events[-1:] == [Event.PRESS], "a press after the storm")
        time.sleep(0.1)
        bench.pull("PAC.06", True)
        until(lambda: events[-2:] == [Event.PRESS, Event.RELEASE], "its release")  # a bounce's is a tap


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"talk_pin": "GPIO12"}, r"panel\.talk_pin = 'GPIO12': 'GPIO12' is ambiguous.*BOARD32.*BOARD15"),
        ({"call_pin": "BOARD6"}, r"panel\.call_pin = 'BOARD6': BOARD6 is GND"),
        ({"call_pin": "BCM4"}, r"panel\.call_pin = 'BCM4' is the pin that panel\.talk_pin uses already"),
        ({"mute_pin": "PAC.06"}, r"panel\.mute_pin = 'PAC\.06' is the pin that panel\.talk_pin uses already"),
    ],
)
def test_a_wrong_pin_of_a_jetson_is_one_sentence(settings: dict[str, str], said: str) -> None:
    with pytest.raises(PanelLost, match=said) as caught, on_a_jetson(PeerBench(), **settings):
        pass
    assert str(caught.value).endswith(".")


def test_a_pin_that_another_program_holds_is_named_with_that_program(bench: Any) -> None:
    bench.take("PQ.05", "kitchen-timer")
    said = r"panel\.light_pins.*BOARD29 \(line 105 of tegra234-gpio\) is in use by 'kitchen-timer'"
    with pytest.raises(PanelLost, match=said), on_a_jetson(bench):
        pass


def test_a_usb_panel_without_a_device_says_what_is_missing() -> None:
    with pytest.raises(PanelLost, match=r"panel\.kind = 'usb' needs panel\.usb_device"):
        open_panel(config.Panel(kind="usb"), lambda event: None)
