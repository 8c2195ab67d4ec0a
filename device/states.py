"""States, lights and time-outs as tables, and the one pure step between them.

It knows nothing of buttons, sound or models: `daemon.py` acts, this file decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    STARTING = "starting"  # the voice is loading; a press is answered by a recorded sentence
    READY = "ready"  # waiting for the button
    LISTENING = "listening"  # the button is held, the microphone is live
    THINKING = "thinking"  # words are being recognised and a reply is planned
    SPEAKING = "speaking"  # the reply is in the speaker
    QUIET = "quiet"  # the wearer of the headset sits quietly and is led through it; a press ends it
    EXERCISE = "exercise"  # the patient said yes to an exercise and is led through it; a press ends it
    ALERTING = "alerting"  # a person is being called; only a caregiver ends it
    FAULT = "fault"  # the voice or the sound card is lost; the call button still works


class Event(Enum):
    VOICE_READY = "voice_ready"  # the voice process has loaded and warmed up
    PRESS = "press"  # the talk button went down
    RELEASE = "release"  # the talk button came up after a real press
    TAP = "tap"  # the press was shorter than anyone speaks
    NOTHING = "nothing"  # nobody spoke
    FIRST_AUDIO = "first_audio"  # the first sample of the reply is in the speaker
    SPOKEN = "spoken"  # the speaker has drained
    ALERT = "alert"  # a safety rule fired
    CALL = "call"  # the call button was pressed
    ACKNOWLEDGE = "acknowledge"  # a caregiver is here
    LOST = "lost"  # the voice process or the sound card is gone
    TIMEOUT = "timeout"  # the state lasted longer than it may
    OFFER = "offer"  # an exercise is being offered (device/offers.py)
    EXERCISE = "exercise"  # and the patient said yes
    QUIET = "quiet"  # the louder button was held: the quiet minute is asked for, or has been enough


class Control(Enum):
    """What hands also do; it changes no state."""

    MUTE = "mute"  # the switch is off: nothing hears
    UNMUTE = "unmute"
    LOUDER = "louder"
    QUIETER = "quieter"


@dataclass(frozen=True)
class Light:
    """What the wearer sees. `rgb` in [0, 1] each; `blink` is the period in seconds, 0 for steady.

    `paces`: somebody breathes by it, so that night does not shorten it.
    """

    rgb: tuple[float, float, float]
    blink: float
    words: str
    paces: bool = False

    @property
    def warns(self) -> bool:
        """Whether it flashes red or yellow."""
        red, _, blue = self.rgb
        return self.blink > 0 and red > 0 and blue == 0


S, E = State, Event

# Flashing yellow and red are kept for fault and alert (IEC 60601-1-8's meaning of the colours).
LIGHTS: dict[State, Light] = {
    S.STARTING: Light((1, 1, 1), 2.0, "white, slow"),
    S.READY: Light((0, 1, 0), 0.0, "green"),
    S.LISTENING: Light((0, 0, 1), 0.0, "blue"),
    S.THINKING: Light((0, 0, 1), 1.0, "blue, slow"),
    S.SPEAKING: Light((0, 1, 1), 0.0, "cyan"),
    S.QUIET: Light((1, 1, 1), 0.0, "white"),
    S.EXERCISE: Light((0, 1, 1), 10.0, "cyan, as one breathes", paces=True),
    S.ALERTING: Light((1, 0, 0), 0.5, "red, fast"),
    S.FAULT: Light((1, 1, 0), 1.0, "yellow, slow"),
}

# The mute switch is off: ready, but deaf.
MUTED = Light((1, 0, 1), 0.0, "violet")
# What was asked for can't run (CSM, a chat model) and its embedded peer stands in: said, never hidden.
STAND_IN = Light((0, 1, 0), 3.0, "green, slow")

# What covers a state's own light, the first row that applies. Nothing covers an alert, a fault or a start; and while the
# device thinks or speaks it does so, muted or not.
COVERS: tuple[tuple[str, frozenset[State], Light], ...] = (
    ("muted", frozenset({S.READY, S.LISTENING}), MUTED),
    ("stand_in", frozenset({S.READY}), STAND_IN),
)

TRANSITIONS: dict[tuple[State, Event], State] = {
    (S.STARTING, E.VOICE_READY): S.READY,
    (S.READY, E.PRESS): S.LISTENING,
    (S.LISTENING, E.RELEASE): S.THINKING,
    (S.LISTENING, E.PRESS): S.THINKING,  # talk = "toggle": the second press ends what the first began
    (S.LISTENING, E.TAP): S.READY,
    (S.THINKING, E.NOTHING): S.READY,
    (S.THINKING, E.FIRST_AUDIO): S.SPEAKING,
    # No (THINKING, PRESS): it could cancel words that the safety check has not read.
    (S.SPEAKING, E.PRESS): S.LISTENING,
    (S.SPEAKING, E.SPOKEN): S.READY,
    (S.READY, E.QUIET): S.QUIET,
    (S.QUIET, E.QUIET): S.READY,
    (S.QUIET, E.PRESS): S.LISTENING,  # who wants to talk need not wait
    (S.QUIET, E.SPOKEN): S.READY,
    (S.READY, E.OFFER): S.SPEAKING,
    (S.SPEAKING, E.EXERCISE): S.EXERCISE,
    (S.EXERCISE, E.PRESS): S.LISTENING,
    (S.EXERCISE, E.SPOKEN): S.READY,
    (S.ALERTING, E.ACKNOWLEDGE): S.STARTING,  # READY only after the voice has answered again
    (S.FAULT, E.VOICE_READY): S.READY,
    # A person in danger or in need comes first, wherever we are.
    **{(s, e): S.ALERTING for s in State for e in (E.ALERT, E.CALL)},
    **{(s, E.LOST): S.FAULT for s in State if s not in (S.ALERTING, S.FAULT)},
    # The time-outs of TIMEOUTS, below.
    (S.STARTING, E.TIMEOUT): S.FAULT,
    (S.LISTENING, E.TIMEOUT): S.THINKING,  # a stuck button must not hold the words for ever
    (S.THINKING, E.TIMEOUT): S.FAULT,
    (S.SPEAKING, E.TIMEOUT): S.READY,
    (S.QUIET, E.TIMEOUT): S.READY,
    (S.EXERCISE, E.TIMEOUT): S.READY,
    (S.ALERTING, E.TIMEOUT): S.ALERTING,  # stay present: the call and the message are repeated
    (S.FAULT, E.TIMEOUT): S.STARTING,  # try again, by itself
}

# Seconds that a state may last. Every state but READY has one: the field's most reported fault
# is a device stuck in a state behind a lying light.
TIMEOUTS: dict[State, float] = {
    S.STARTING: 180.0,
    S.LISTENING: 60.0,
    S.THINKING: 20.0,
    S.SPEAKING: 60.0,
    S.QUIET: 240.0,  # it takes 2 minutes, and longer where samples are lost
    S.EXERCISE: 120.0,
    S.ALERTING: 30.0,
    S.FAULT: 15.0,
}


def light(state: State, stand_in: bool = False, muted: bool = False) -> Light:
    """What the light shows. `stand_in`: CSM or the chat model was asked for and can't run. `muted`: the mute switch is off."""
    holds = {"stand_in": stand_in, "muted": muted}
    return next((over for what, states, over in COVERS if holds[what] and state in states), LIGHTS[state])


def step(state: State, event: Event) -> State:
    """The state after `event`. An event without a row changes nothing (the caller logs it)."""
    return TRANSITIONS.get((state, event), state)
