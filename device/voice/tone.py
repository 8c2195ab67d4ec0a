"""The simulated voice: a tone for each syllable, a peer of CSM and of the plain voice. It knows no words."""

from __future__ import annotations

import re
from collections.abc import Generator

import numpy as np

from device.turn import FRAME, VOICE_RATE
from device.voice.link import Pcm


class ToneVoice:
    """Speaks 160 ms at 220 Hz and up for each group of vowels, as int16 frames of 80 ms at 24 kHz."""

    name = "tone"
    precision = "none"

    def warm_up(self) -> None:
        """A tone is always warm."""

    def tone(self, name: str) -> None:
        """It has one."""

    def start(self) -> None:
        """A tone has no ear."""

    def feed(self, pcm: Pcm) -> None:
        """Nor does it hear the sound."""

    def hear(self, text: str) -> None:
        """Nor the words."""

    def said(self, text: str, frames: int) -> None:
        """Nor does it learn."""

    def frames(self, text: str) -> Generator[Pcm, None, None]:
        time = np.arange(2 * FRAME) / VOICE_RATE
        fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
        for number, _ in enumerate(re.findall(r"[aeiouy]+", text.lower())):
            tone = 6000 * fade * np.sin(2 * np.pi * (220 + 20 * (number % 5)) * time)
            yield from np.split(tone.astype(np.int16), 2)
