"""`bedside bench safety FILE.tsv --speech`: the same sentences spoken, in noise, written down by the device, and judged from that.

The voice is the packaged one, at two speeds; real patients' voices are another matter. It knows no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from device.bench import normaliser, word_errors
from device.bench_safety import Row, figures, table
from device.config import Settings
from device.safety import check
from device.turn import MIC_RATE, VOICE_RATE, Heard

SPEEDS = (0.85, 1.15)
SNR = 10.0  # dB: the speech's power over the noise's, the pauses before and after not counted
BEFORE, AFTER = 0.5, 0.3  # seconds of noise alone: the device's pre-roll and tail


@dataclass(frozen=True)
class Told:
    """A sentence as it was spoken, and what the recogniser made of it."""

    row: Row
    speed: float
    heard: Heard

    @property
    def as_heard(self) -> Row:
        return replace(self.row, text=self.heard.text)


def in_noise(speech: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int16 samples in pink noise of SNR, with BEFORE and AFTER seconds of it around. Pink: as loud in each octave, like a ward."""
    count = len(speech) + round((BEFORE + AFTER) * MIC_RATE)
    bins = np.fft.rfft(random.normal(size=count))
    noise = np.fft.irfft(bins / np.sqrt(np.maximum(np.arange(len(bins)), 1)), count)
    noise *= np.sqrt(np.mean(speech.astype(float) ** 2)) * 10 ** (-SNR / 20) / noise.std()
    begin = round(BEFORE * MIC_RATE)
    noise[begin : begin + len(speech)] += speech
    return np.clip(np.rint(noise), -32768, 32767).astype(np.int16)


def speak(rows: Sequence[Row], settings: Settings) -> list[Told]:
    """Every sentence at every speed, through silero-vad and the settings' Whisper."""
    import soxr

    from device.voice.listen import Listener
    from device.voice.load import hush_libraries
    from device.voice.plain import PlainVoice

    hush_libraries()
    voice = PlainVoice(settings.voice.threads)
    ears = Listener(
        settings.listen.model,
        Path(settings.models.folder),
        threads=settings.voice.threads,
        min_speech=settings.listen.min_speech_seconds,
    )
    out = []
    for row in rows:
        for speed in SPEEDS:
            sound = soxr.resample(np.concatenate(list(voice.sounds(row.text, speed))), VOICE_RATE, MIC_RATE)
            random = np.random.default_rng(crc32(f"{speed} {row.text}".encode()))  # the same noise in whatever part of a file
            out.append(Told(row, speed, ears.transcribe(in_noise(sound, random))))
    return out


def spoken_figures(told: Sequence[Told], words: Callable[[str], list[str]]) -> dict[str, Any]:
    """The figures over all that was heard and over each speed, and the share of the words (`words(text)`) that was written wrong."""
    pairs = [(words(each.row.text), words(each.heard.text)) for each in told]
    out = figures([each.as_heard for each in told])
    out["words_wrong"] = round(sum(word_errors(*pair) for pair in pairs) / sum(len(said) for said, _ in pairs), 4)
    out["speeds"] = {str(speed): figures([each.as_heard for each in told if each.speed == speed]) for speed in SPEEDS}
    for part in out["speeds"].values():
        del part["sources"]
    return out


def bench_speech(rows: Sequence[Row], settings: Settings, wrong: bool) -> dict[str, Any]:
    """Print the table of what was heard. Returns its figures."""
    told = speak(rows, settings)
    found = spoken_figures(told, normaliser())
    found["snr_db"] = SNR
    speeds = {f"at speed {speed}": part for speed, part in found["speeds"].items()}
    print(
        f"\nspoken at two speeds, pink noise at {SNR:.0f} dB, heard by {settings.listen.model}; {found['words_wrong']:.1%} of words wrong"
    )
    print("\n".join(table({**found, "sources": {**found["sources"], **speeds}})))
    for each in told if wrong else ():
        alert = check(each.heard.text)
        if (alert is not None) != each.row.risk:
            print(f"{'missed' if each.row.risk else alert.rule if alert else ''}\t{each.speed}\t{each.row.text}\theard: {each.heard.text}")
    return found
