"""What the patient says, as Mimi's codes: at CSM's rate, encoded in pieces while they go on speaking. It knows no conversation."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
import torch

from device.turn import FRAME, MIC_RATE, VOICE_RATE
from device.voice.mimi import Mimi

ENCODE = 5 * FRAME  # samples that are encoded at once: frame by frame it takes four times as long (57 ms, not 14)


class Hearing:
    """start(), feed() while they speak, finish(). On the model's thread alone."""

    def __init__(self, mimi: Mimi) -> None:
        self._mimi = mimi
        self._sound: list[np.ndarray] = []  # not yet encoded
        self._codes: list[torch.Tensor] = []  # of what came before it
        self._resampler: Any = None

    def start(self) -> None:
        """Forget what was said and not finished."""
        self._mimi.start_encoding()
        # A context segment at the wrong rate is heard as another, slower person.
        self._resampler = soxr.ResampleStream(MIC_RATE, VOICE_RATE, 1, dtype="float32")
        self._sound.clear()
        self._codes.clear()

    def feed(self, pcm: np.ndarray, last: bool = False) -> None:
        """A block, int16 (n,) at 16 kHz; without a start() before it, nothing."""
        if self._resampler is not None:
            self._sound.append(self._resampler.resample_chunk(pcm.astype(np.float32) / 32768, last=last))
            if last or sum(map(len, self._sound)) >= ENCODE:
                self._codes.append(self._mimi.encode(np.concatenate(self._sound)))
                self._sound.clear()

    def finish(self) -> torch.Tensor:
        """[frames, codebooks] of all that was fed since start()."""
        self.feed(np.zeros(0, np.int16), last=True)
        codes = torch.cat([*self._codes, self._mimi.encode_rest()])
        self._resampler = None
        self._codes.clear()
        return codes
