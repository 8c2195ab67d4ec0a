"""What `systemctl status` says of the companion, in one sentence that a technician understands, and what `bedside doctor` asks of it.

Never a patient's words.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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


def facts_of(home: Companion) -> dict[str, Any]:
    """How each part stands. Sentences are "" where there is nothing to say, `level` is that of device/levels.py or None."""
    level, about = home.audio.meter.level(), home.about or {}
    return {
        "says": status_of(home),
        "voice": {"name": about.get("engine", ""), "stand_in": about.get("stand_in", ""), "says": "" if home.about else home.voice_says},
        "sound": {"refused": home.heartbeat.refused, "open": home.audio.alive(), "level": asdict(level) if level else None},
        "headset": {"state": home.headset.state.value, "reason": home.headset.reason},
        "kept": not home.remembering.fault,
        "muted": home.muted,
    }
