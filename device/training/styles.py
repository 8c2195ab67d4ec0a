"""A small set of conversations in another voice, to show fine-tuning with: made from the packaged voice, so that anyone can make it.

It speaks slower and its throat is larger: another person, and calmer. Patients who talk with it have a voice of their own.
"""

from __future__ import annotations

import json
import random
from itertools import count
from pathlib import Path

import numpy as np

from device import wavs
from device.training import sentences
from device.training.corpus import shifted, spoken
from device.turn import VOICE_RATE
from device.voice.plain import PlainVoice

SPEED, PACE = 0.85, 0.87  # of the new voice: how fast it speaks, and how much of that and of its pitch is left
PATIENT = 1.15  # a patient's pace
EXCHANGES = 4  # in a conversation
SHOWN = 30.0  # s of the voice alone, in sentences of no conversation: what a speaker's likeness is measured against
FILE, VOICE = "conversations.json", "voice.wav"


def styled(voice: PlainVoice, text: str, pace: float = PACE) -> np.ndarray:
    """int16 samples of `text` in the new voice."""
    return _int16(shifted(spoken(voice, text, SPEED), pace))


def make(out: Path, minutes: float, seed: int, pace: float = PACE) -> str:
    """Write conversations.json, its WAVs and voice.wav into `out`: `minutes` of the new voice, speaker 0. Returns a line on them.

    None of the held-out sentences is said. `pace` nearer to 1 is less of another person. Raises OSError.
    """
    voice, chance = PlainVoice(), random.Random(seed)
    wanted = max(60, round(minutes * 30))  # sentences: more than enough
    said = sentences.training({"bank": 10_000, "pattern": 2 * wanted}, seed)
    asked = sentences.training({"patient": 10_000}, seed)
    replies, questions = (iter([one.text for one in part] * 20) for part in (said, asked))
    (out / "wavs").mkdir(parents=True, exist_ok=True)
    shown, clips = 0.0, []
    while shown < SHOWN:
        clips.append(styled(voice, next(replies), pace))
        shown += len(clips[-1]) / VOICE_RATE
    wavs.write(out / VOICE, np.concatenate(clips), VOICE_RATE)
    talks: list[list[dict[str, object]]] = []
    seconds, number = 0.0, count(1)
    while seconds < 60 * minutes:
        talk: list[dict[str, object]] = []
        for _ in range(EXCHANGES):
            question, reply = next(questions), next(replies)
            heard = _int16(shifted(spoken(voice, question), PATIENT * chance.uniform(0.97, 1.03)))
            answer = styled(voice, reply, pace)
            seconds += len(answer) / VOICE_RATE
            for text, sound, speaker in ((question, heard, 1), (reply, answer, 0)):
                name = f"wavs/{next(number):04}.wav"
                wavs.write(out / name, sound, VOICE_RATE)
                talk.append({"text": text, "audio_path": name, "speaker": speaker})
        talks.append(talk)
    (out / FILE).write_text(json.dumps(talks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return (
        f"{out / FILE}: {len(talks)} conversations, {seconds / 60:.1f} minutes of the new voice; {out / VOICE}: {shown:.0f} s of it alone"
    )


def _int16(sound: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(sound), -32768, 32767).astype(np.int16)
