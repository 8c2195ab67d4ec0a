"""What `systemctl status` says of the companion: one sentence that a technician understands. Never a patient's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device.states import State

if TYPE_CHECKING:
    from device.daemon import Companion

WORDS: dict[State, str] = {
    State.STARTING: "starting",
    State.READY: "ready",
    State.LISTENING: "listening: the talk button is held",
    State.THINKING: "thinking of an answer",
    State.SPEAKING: "speaking",
    State.QUIET: "leading through the quiet minute",
    State.EXERCISE: "leading through an exercise that the patient asked for",
    State.ALERTING: "ALERT: a person is being called, until the call button is held or 'bedside acknowledge' is run",
    State.FAULT: "FAULT: trying again by itself",
}


def status(state: State, *, voice: str = "", sound: str = "", memory: bool = True, stand_in: str = "", muted: bool = False) -> str:
    """`voice`: what the voice is doing, or why there is none, until it is ready; `sound`: why there is none; `memory`: whether it keeps."""
    notes = [
        f"voice: {voice}" if voice else "",
        f"no sound: {sound}" if sound else "",
        "" if memory else "nothing that is said is kept on the disk",
        stand_in if state is State.READY else "",
        "the microphone is switched off" if muted else "",
    ]
    return "; ".join([WORDS[state], *(note for note in notes if note)])


def status_of(home: Companion) -> str:
    return status(
        home.state,
        voice="" if home.about else home.voice_says,
        sound=home.heartbeat.refused,
        memory=not home.remembering.fault,
        stand_in=(home.about or {}).get("stand_in", ""),
        muted=home.muted,
    )
