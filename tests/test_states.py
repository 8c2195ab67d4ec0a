"""The laws of the state table, over every (state, event) pair. It knows no button and no sound."""

from __future__ import annotations

import copy
from itertools import product

import pytest

from device import states
from device.lamp import rhythm
from device.states import COVERS, LIGHTS, MUTED, STAND_IN, TIMEOUTS, TRANSITIONS, Event, Light, State, light, step
from device.status import WORDS

PAIRS = list(product(State, Event))
NOT_READY = [s for s in State if s is not State.READY]
FLASHING_RED, FLASHING_YELLOW = (1, 0, 0), (1, 1, 0)


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_step_is_total_and_pure(state: State, event: Event) -> None:
    before = copy.copy(TRANSITIONS)
    first = step(state, event)
    assert isinstance(first, State)
    assert step(state, event) is first
    assert before == TRANSITIONS
    if (state, event) not in TRANSITIONS:
        assert first is state


def test_every_state_has_a_light_of_its_own() -> None:
    assert set(LIGHTS) == set(State)
    assert len({(light.rgb, light.blink) for light in LIGHTS.values()}) == len(State)
    assert len({light.words for light in LIGHTS.values()}) == len(State)


def test_every_state_has_words_for_a_technician() -> None:
    assert set(WORDS) == set(State)


def test_no_light_is_dark() -> None:
    assert all(max(shown.rgb) > 0 for shown in [*LIGHTS.values(), MUTED, STAND_IN])


# The order in which lights cover each other, highest first, as a nurse would say it.
ORDER = ["calls a person", "is broken", "is starting", "thinks", "speaks", "leads", "paces", "hears nobody", "listens",
         "stands in", "is ready"]  # fmt: skip


def what_is_true(state: State, muted: bool, stand_in: bool) -> set[str]:
    """All that could be shown at once."""
    said = {
        State.ALERTING: "calls a person", State.FAULT: "is broken", State.STARTING: "is starting", State.THINKING: "thinks",
        State.SPEAKING: "speaks", State.LISTENING: "listens", State.READY: "is ready",
        State.QUIET: "leads", State.EXERCISE: "paces",
    }  # fmt: skip
    more = {"hears nobody"} if muted else set()
    return {said[state]} | more | ({"stands in"} if stand_in and state is State.READY else set())


SHOWN: dict[str, Light] = {
    "calls a person": LIGHTS[State.ALERTING], "is broken": LIGHTS[State.FAULT], "is starting": LIGHTS[State.STARTING],
    "thinks": LIGHTS[State.THINKING], "speaks": LIGHTS[State.SPEAKING], "hears nobody": MUTED, "listens": LIGHTS[State.LISTENING],
    "leads": LIGHTS[State.QUIET], "paces": LIGHTS[State.EXERCISE], "stands in": STAND_IN, "is ready": LIGHTS[State.READY],
}  # fmt: skip


@pytest.mark.parametrize(("state", "muted", "stand_in", "night"), list(product(State, (False, True), (False, True), (False, True))))
def test_the_most_important_truth_is_what_the_light_shows(state: State, muted: bool, stand_in: bool, night: bool) -> None:
    """Over every combination; by night the colour stays, and only what warns or paces a breath is as bright as by day."""
    first = min(what_is_true(state, muted, stand_in), key=ORDER.index)
    shown = light(state, stand_in, muted)
    assert shown is SHOWN[first]
    lit, dark = rhythm(shown, night)
    by_day = rhythm(shown, False)
    if state in (State.ALERTING, State.FAULT, State.EXERCISE):
        assert (lit, dark) == by_day
    elif night:
        assert 0 < lit <= 0.1 * (lit + dark)
    else:
        assert (lit, dark) == (shown.blink / 2, shown.blink / 2)


def test_covers_have_lights_of_their_own() -> None:
    own = {(shown.rgb, shown.blink) for shown in LIGHTS.values()}
    covers = [(shown.rgb, shown.blink) for _, _, shown in COVERS]
    assert len(own | set(covers)) == len(own) + len(covers)
    assert not any(shown.warns for _, _, shown in COVERS)


def test_flashing_red_and_yellow_are_kept_for_alert_and_fault() -> None:
    flashing = {s: light.rgb for s, light in LIGHTS.items() if light.blink}
    assert [s for s, rgb in flashing.items() if rgb == FLASHING_RED] == [State.ALERTING]
    assert [s for s, rgb in flashing.items() if rgb == FLASHING_YELLOW] == [State.FAULT]
    fastest = min(flashing, key=lambda s: LIGHTS[s].blink)
    assert fastest is State.ALERTING


@pytest.mark.parametrize("state", NOT_READY)
def test_every_state_but_ready_ends_by_itself(state: State) -> None:
    assert TIMEOUTS[state] > 0
    assert (state, Event.TIMEOUT) in TRANSITIONS


def test_ready_waits_for_ever() -> None:
    assert State.READY not in TIMEOUTS
    assert step(State.READY, Event.TIMEOUT) is State.READY


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", [Event.ALERT, Event.CALL])
def test_a_call_is_answered_from_anywhere(state: State, event: Event) -> None:
    assert step(state, event) is State.ALERTING


@pytest.mark.parametrize("event", list(Event))
def test_only_a_caregiver_ends_an_alert_and_it_leads_to_starting(event: Event) -> None:
    expected = State.STARTING if event is Event.ACKNOWLEDGE else State.ALERTING
    assert step(State.ALERTING, event) is expected


@pytest.mark.parametrize("state", list(State))
def test_a_lost_part_is_a_fault_except_during_an_alert(state: State) -> None:
    expected = State.ALERTING if state is State.ALERTING else State.FAULT
    assert step(state, Event.LOST) is expected


def test_a_press_while_thinking_cancels_nothing() -> None:
    assert (State.THINKING, Event.PRESS) not in TRANSITIONS
    assert step(State.THINKING, Event.PRESS) is State.THINKING


@pytest.mark.parametrize("state", list(State))
def test_acknowledging_means_nothing_outside_an_alert(state: State) -> None:
    if state is not State.ALERTING:
        assert step(state, Event.ACKNOWLEDGE) is state


def reached(start: State, without: State) -> set[State]:
    """Every state that some row of events leads to from `start`, never passing `without`."""
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        for event in Event:
            there = step(here, event)
            if there is not without and there not in seen:
                seen.add(there)
                waiting.append(there)
    return seen


def test_ready_comes_back_after_an_alert_only_through_starting() -> None:
    assert reached(State.ALERTING, without=State.STARTING) == {State.ALERTING}
    assert State.READY in reached(State.STARTING, without=State.ALERTING)


@pytest.mark.parametrize("state", NOT_READY)
def test_ready_can_be_reached_again_from_everywhere(state: State) -> None:
    nowhere = None  # nothing is left out
    assert State.READY in reached(state, without=nowhere)  # type: ignore[arg-type]


def test_every_state_and_event_is_used() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert set(TRANSITIONS.values()) == set(State)
    assert {s for s, _ in TRANSITIONS} == set(State)


def test_a_light_cannot_be_changed_by_accident() -> None:
    with pytest.raises(AttributeError):
        states.LIGHTS[State.READY].blink = 1.0  # type: ignore[misc]
