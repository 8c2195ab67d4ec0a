"""When a sentence of CSM is over. Its end frame is drawn by chance, and about one in six never comes. Pure."""

from __future__ import annotations

import math
import re

import numpy as np

from device.turn import FRAME, VOICE_RATE

FRAME_RATE = VOICE_RATE / FRAME  # 12.5 frames a second
SILENT = 10 ** (-50 / 20)  # of full scale: below it is nothing that a patient hears
BREATH = 15  # silent frames (1.2 s) that no comma takes
LOST = 30  # silent frames (2.4 s) at the start: speech will not come
LIKELY, PAUSE = 0.5, 4  # chance of the end frame, and silent frames, that together are an end


def frame_budget(text: str) -> int:
    """Most frames that `text` may take: 1 s, and half a second a word or a tenth a letter, whichever is more.

    Calm speech has two to three words and twelve to fifteen letters a second.
    """
    words = re.findall(r"\w+", text)
    return math.ceil(FRAME_RATE * (1.0 + max(0.5 * len(words), 0.1 * sum(map(len, words)))))


class Ending:
    """Watches the frames of one sentence. `over` names the reason to end after this frame, or is empty."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._frames = self._silent = 0
        self._spoke = False

    def over(self, sound: np.ndarray, end_probability: float) -> str:
        """sound: float32 (1920,) in [-1, 1]; end_probability: of the end frame's first code, 0 to 1."""
        self._frames += 1
        quiet = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) < SILENT
        self._silent = self._silent + 1 if quiet else 0
        self._spoke = self._spoke or not quiet
        if self._frames >= self._budget:
            return "budget"
        if self._silent >= (BREATH if self._spoke else LOST):
            return "silence"
        if self._spoke and self._silent >= PAUSE and end_probability >= LIKELY:
            return "likely"
        return ""
