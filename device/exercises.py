"""Offers an exercise and leads it, by recorded sentences and the light's slow pace. Any button ends it; an alert does at once.

When it is offered, and what an answer means, is device/offers.py's. It knows no model and no EEG.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from datetime import time as Wall
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from device.guide import say
from device.logs import log
from device.night import within
from device.offers import LATE, STANDS, Moment, Spoke, choose, spoke, taken
from device.states import LIGHTS, Event, State
from device.turn import Turn

if TYPE_CHECKING:
    from device.daemon import Companion

LOOK = 1.0  # seconds between two looks while nobody talks
TURNS = 20  # of the session, that are looked back upon
BREATH = LIGHTS[State.EXERCISE].blink  # seconds: in while the light is lit, out while it is dark


@dataclass(frozen=True)
class Exercise:
    """Recorded sentences: what offers it, what begins it, and (seconds from then, sentence) of what leads through it."""

    offer: str
    begin: str
    steps: tuple[tuple[float, str], ...]


EXERCISES: dict[str, Exercise] = {
    "breathing": Exercise(
        "offer_breathing",
        "breathe_begin",
        (*((BREATH * n / 2, ("breathe_in", "breathe_out")[n % 2]) for n in range(12)), (6 * BREATH, "exercise_done")),
    ),
    "grounding": Exercise(
        "offer_grounding", "ground_begin", ((2.0, "look_around"), (20.0, "ground_hear"), (38.0, "held_up"), (55.0, "exercise_done"))
    ),
}


class Exercises:
    """One offer or one exercise at a time. `wall` is the time of day."""

    def __init__(self, home: Companion, wall: Callable[[], Wall] = lambda: datetime.now().time()) -> None:
        self._home, self.wall = home, wall
        self._scope = anyio.CancelScope()
        self._turns: tuple[Spoke, ...] = ()
        self._spoken = home.clock()
        self._offers: tuple[tuple[float, str], ...] = ((home.clock(), "a start"),)  # what was offered before it nobody knows
        self._declined = float("-inf")
        self._open = ""  # the exercise that waits for an answer
        self._taken = ""  # the one that was said yes to

    def heard(self, turn: Turn | None) -> None:
        """The patient and the device have spoken; None where that is no turn to keep ("forget that", or a yes to an offer)."""
        self._spoken = self._home.clock()
        if turn is not None and turn.alert is None:
            self._turns = (*self._turns, spoke(turn.heard.text))[-TURNS:]

    def forget(self, last: bool = False) -> None:
        """What was said is no reason any more: it is forgotten, all of it or the `last` turn; or a person is being called, or
        another patient lies here."""
        self._turns, self._open = self._turns[:-1] if last else (), ""

    def answer(self, heard: str) -> tuple[str, Event] | None:
        """The recorded sentence that answers to an open offer, and the event that follows it; None where `heard` is no answer."""
        exercise, self._open = self._open, ""
        word = taken(heard) if exercise and self._home.clock() - self._offers[-1][0] < STANDS else None
        if word is None:
            return None
        log("offer", exercise=exercise, taken=word)
        if not word:
            self._declined = self._home.clock()
            return "offer_declined", Event.SPOKEN
        self._taken = exercise
        return EXERCISES[exercise].begin, Event.EXERCISE

    def begin(self, tasks: TaskGroup) -> None:
        """Lead through what was taken and post SPOKEN; nothing is said or posted after `stop`."""
        self._scope = anyio.CancelScope()
        tasks.start_soon(self._lead, EXERCISES[self._taken], self._scope)

    def stop(self) -> None:
        self._scope.cancel()

    async def keep(self) -> None:
        """While nobody talks: look whether it is time for an offer."""
        while True:
            await anyio.sleep(LOOK)
            if self._home.state is State.READY and (row := choose(self._moment())) is not None:
                self._offers = (*self._offers, (self._home.clock(), row.name))[-TURNS:]
                log("offer", reason=row.name, exercise=row.exercise)
                self._home.take(Event.OFFER)
                self._scope = anyio.CancelScope()
                with self._scope:
                    self._open = row.exercise
                    await say(self._home, EXERCISES[row.exercise].offer)
                    self._home.post(Event.SPOKEN)

    def _moment(self) -> Moment:
        home = self._home
        busy = bool(home.alarm.kind) or home.muted or home.remembering.asks or home.exchange is not None or home.audio.pending > 0
        late = within(self.wall(), *LATE)
        return Moment(home.clock(), self._spoken, late, home.affect(), self._turns, self._offers, self._declined, busy)

    async def _lead(self, exercise: Exercise, scope: anyio.CancelScope) -> None:
        with scope:
            began = self._home.since  # of the light's pace, too
            for at, sentence in exercise.steps:
                await anyio.sleep(max(0.0, began + at - time.monotonic()))
                await say(self._home, sentence)
            self._home.post(Event.SPOKEN)
