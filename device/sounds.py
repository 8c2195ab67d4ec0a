"""The recorded messages, checked byte for byte: what the device can say when no model runs.

It does not know when a message is due, nor how it was recorded (scripts/make-sounds).
"""

from __future__ import annotations

import hashlib
import io
import sys
import wave
from pathlib import Path

import numpy as np

from device.turn import VOICE_RATE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# name: when it is played. `listening` is two notes, the others are spoken.
NAMES: dict[str, str] = {
    "starting": "the button is pressed while the voice is loading",
    "again": "nothing was understood, or too little of it",
    "cant_answer": "the button is pressed while the voice is lost",
    "calling": "the call button was pressed",
    "crisis": "a safety rule on suicide or self-harm fired",
    "medical": "a safety rule on a medical emergency fired",
    "danger": "a safety rule on harm to others or abuse fired",
    "emergency_number_is": "after crisis, medical and danger, before the number's digits",
    "crisis_number_is": "after crisis, before the number's digits",
    **{f"digit_{digit}": "in a number" for digit in range(10)},
    "still_here": "while a person is on the way",
    "still_calling": "the same, after the call button",
    "slow_breath": "the same, in a crisis",
    "held_up": "the same",
    "look_around": "the same",
    "keep_still": "the same, in a medical emergency",
    "muted": "the button is pressed while the mute switch is off",
    "forgotten": "the patient asked to forget what they last said, and it is erased",
    "forget_sure": "the patient asked to forget everything",
    "forgotten_all": "the patient asked again, and it is erased",
    "cant_forget": "it could not be erased at once",
    "not_kept": "what is said can't be kept: the disk is full, or the memory can't be opened",
    "quiet_begin": "the louder button is held: the quiet minute begins",
    "quiet_open": "its first minute, with open eyes",
    "quiet_closed": "its last half minute, with closed eyes",
    "quiet_done": "it is over, and there is a baseline",
    "quiet_failed": "it is over, and the signal was too poor for a baseline",
    "quiet_no_signal": "the headset sends nothing in it",
    "offer_breathing": "a breathing exercise is offered (device/offers.py says when)",
    "offer_grounding": "a grounding exercise is offered",
    "offer_declined": "the patient said no to it",
    "breathe_begin": "the patient said yes: the breathing exercise begins",
    "breathe_in": "in it, six times, as the light goes on",
    "breathe_out": "the same, as the light goes off",
    "ground_begin": "the patient said yes: the grounding exercise begins",
    "ground_hear": "in it, between look_around and held_up",
    "exercise_done": "an exercise is over",
    "listening": "the volume was turned: so loud it is now",
}
SPOKEN = tuple(name for name in NAMES if name != "listening")
SUMS = "SHA256SUMS"
# What is said while a person is on the way, in turn, for each kind of alert (device/safety.py).
PROMPTS: dict[str, tuple[str, ...]] = {
    "suicide": ("still_here", "slow_breath", "held_up", "look_around", "crisis"),
    "self_harm": ("still_here", "slow_breath", "held_up", "look_around", "crisis"),
    "harm_to_others": ("still_here", "slow_breath", "danger"),
    "abuse": ("still_here", "slow_breath", "danger"),
    "medical": ("keep_still", "still_here", "medical"),
    "call_someone": ("still_calling", "still_here"),
}
NUMBERS: dict[str, tuple[str, ...]] = {"crisis": ("emergency", "crisis"), "medical": ("emergency",), "danger": ("emergency",)}
PAUSE = 0.2  # seconds before a number's lead and between its digits
AGAIN = "run scripts/make-sounds, or restore the file from the release."


class SoundsError(ValueError):
    """A recorded message is missing or altered. The message names the file and the way out."""


def load(folder: Path | str) -> dict[str, np.ndarray]:
    """Every message of NAMES as int16 mono samples at 24 kHz, shape (samples,).

    Raises SoundsError naming the first file that is missing, altered or of another format.
    """
    folder = Path(folder)
    sums = _sums(folder / SUMS)
    return {name: _read(folder / f"{name}.wav", sums) for name in NAMES}


def whole(folder: Path | str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The messages that are whole, the others without a sample; and what is wrong with those. For safe mode, which calls all the same."""
    folder, out, wrong = Path(folder), {}, []
    try:
        sums = _sums(folder / SUMS)
    except SoundsError as error:
        return {name: np.zeros(0, np.int16) for name in NAMES}, [str(error)]
    for name in NAMES:
        try:
            out[name] = _read(folder / f"{name}.wav", sums)
        except SoundsError as error:
            out[name] = np.zeros(0, np.int16)
            wrong.append(str(error))
    return out, wrong


def with_numbers(recorded: dict[str, np.ndarray], emergency: str, crisis: str) -> dict[str, np.ndarray]:
    """`recorded`, the messages of NUMBERS followed by the numbers of the settings; an empty number is left out."""
    numbers = {"emergency": emergency, "crisis": crisis}
    pause = np.zeros(int(PAUSE * VOICE_RATE), np.int16)
    out = dict(recorded)
    for message, which in NUMBERS.items():
        parts = [recorded[message]]
        for name in which:
            digits = [digit for digit in numbers[name] if digit.isdigit()]
            if digits:
                parts += [pause, recorded[f"{name}_number_is"]]
                parts += [part for digit in digits for part in (pause, recorded[f"digit_{digit}"])]
        out[message] = np.concatenate(parts)
    return out


def texts(folder: Path | str) -> dict[str, str]:
    """The words of every spoken message, from messages.toml. Raises SoundsError."""
    file = Path(folder) / "messages.toml"
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SoundsError(f"{file}: {error}: restore it from the release.") from None
    wrong = set(table) ^ set(SPOKEN)
    if wrong:
        raise SoundsError(f"{file}: {sorted(wrong)[0]} is unknown or missing; it needs {SPOKEN}.")
    return {name: str(table[name]) for name in SPOKEN}


def _sums(file: Path) -> dict[str, str]:
    """{file name: sha256} from a file in the format of sha256sum."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SoundsError(f"{file}: {error}: {AGAIN}") from None
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def _read(file: Path, sums: dict[str, str]) -> np.ndarray:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SoundsError(f"{file}: {error.strerror}: {AGAIN}") from None
    if file.name not in sums:
        raise SoundsError(f"{file} is not listed in {SUMS}: {AGAIN}")
    if hashlib.sha256(data).hexdigest() != sums[file.name]:
        raise SoundsError(f"{file} is altered (its sha256 is not the one in {SUMS}): {AGAIN}")
    try:
        with wave.open(io.BytesIO(data)) as sound:
            form = (sound.getnchannels(), sound.getsampwidth(), sound.getframerate())
            samples = sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise SoundsError(f"{file} is not a WAV file ({error}): {AGAIN}") from None
    if form != (1, 2, VOICE_RATE):
        raise SoundsError(f"{file}: (channels, bytes, rate) is {form}, not (1, 2, 24000): {AGAIN}")
    return np.frombuffer(samples, dtype="<i2").astype(np.int16)
