"""Listens while the button is held: finds the speech, has it written down, and says what was heard.

It doesn't know the button, the sound card or what the words are for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from device.models import path as fetched
from device.turn import MIC_RATE, Heard
from device.voice.whisper import Whisper, Words

WINDOW = 512  # samples: the only length silero-vad takes at 16 kHz, 32 ms
SPEECH, SILENCE = 0.5, 0.35  # probabilities at which speech begins and ends: silero-vad's own
PAUSE = 0.6  # s of silence that close a stretch, so that it's written down before the release
LONGEST = 25.0  # s: Whisper takes 30, less the margins
CUT_FROM = 15.0  # s into a too long stretch, where the search for its quietest window begins
KEEP = 0.2  # s of silence kept on both sides of a stretch


def windows(seconds: float) -> int:
    return round(seconds * MIC_RATE / WINDOW)


class Stretches:
    """Turns one speech probability a window into stretches (first, last + 1), in windows."""

    def __init__(self) -> None:
        self.probabilities: list[float] = []
        self.first = -1  # the open stretch's first window; -1: nobody is speaking
        self.last = -1  # its last window with speech

    def add(self, probability: float) -> tuple[int, int] | None:
        """The stretch that this window closes, if any."""
        now = len(self.probabilities)
        self.probabilities.append(probability)
        if self.first < 0:
            if probability >= SPEECH:
                self.first = self.last = now
            return None
        if probability >= SILENCE:
            self.last = now
        if now - self.last >= windows(PAUSE):
            return self.close()
        if now - self.first >= windows(LONGEST):
            begin = self.first + windows(CUT_FROM)
            cut = begin + int(np.argmin(self.probabilities[begin:now]))
            closed = (self.first, cut)
            self.first = cut
            return closed
        return None

    def close(self) -> tuple[int, int] | None:
        """The open stretch, at the release or after a pause."""
        if self.first < 0:
            return None
        closed = (self.first, self.last + 1)
        self.first = self.last = -1
        return closed


class Listener:
    """One patient at a time: start(), feed() while they speak, finish(). Not thread-safe."""

    def __init__(
        self,
        model: str,
        models: Path,
        *,
        device: str = "cpu",
        threads: int = 2,
        min_speech: float = 0.25,
        status: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Load Whisper (`model`: embedded:whisper-base, a folder or a hub name) and silero-vad.

        `threads` is for the whole process; `min_speech` is in seconds. Raises ModelMissing or
        ValueError in one sentence.
        """
        torch.set_num_threads(threads)
        self.min_speech = min_speech
        vad = fetched("silero-vad", models) / "silero_vad.jit"
        self.vad = torch.jit.load(str(vad), map_location="cpu").eval()
        self.whisper = Whisper(model, models, device)
        status("warming up speech recognition")
        self.whisper.write_down(np.zeros(MIC_RATE, np.int16))
        self.start()

    def start(self) -> None:
        """A new press: forget everything of the last one."""
        self.vad.reset_states()
        self.stretches = Stretches()
        self.pcm = np.zeros(0, np.int16)  # what was fed and not yet written down
        self.gone = 0  # windows that were cut off the front of `pcm`
        self.words: list[Words] = []
        self.seconds = 0.0

    def feed(self, pcm: np.ndarray) -> None:
        """More of the press: int16 samples at 16 kHz, any number.

        Returns late (about a tenth of the stretch's length) whenever a pause closes a stretch.
        """
        if pcm.dtype != np.int16 or pcm.ndim != 1:
            raise ValueError(
                f"Samples are {pcm.dtype} of shape {pcm.shape}; int16 of one channel is needed."
            )
        self.pcm = np.concatenate([self.pcm, pcm])
        while len(self.pcm) >= self._at(len(self.stretches.probabilities) + 1):
            closed = self.stretches.add(self._probability())
            if closed:
                self._write_down(*closed)
        self._forget()

    def finish(self) -> Heard:
        """The release: the rest is written down, and the words of the whole press come back.

        `text` is empty when there was less than `min_speech` seconds of speech, or only sounds.
        """
        rest = -len(self.pcm) % WINDOW
        if rest:
            self.feed(np.zeros(rest, np.int16))
        closed = self.stretches.close()
        if closed:
            self._write_down(*closed)
        kept = [words for words in self.words if words.believable]
        logprobs = [value for words in kept for value in words.logprobs]
        if self.seconds < self.min_speech or not logprobs:
            return Heard("", self.seconds, 0.0)
        text = " ".join(words.text for words in kept)
        return Heard(text, self.seconds, math.exp(sum(logprobs) / len(logprobs)))

    def transcribe(self, pcm: np.ndarray) -> Heard:
        """A whole press at once."""
        self.start()
        self.feed(pcm)
        return self.finish()

    def _at(self, window: int) -> int:
        """Where a window begins in `pcm`."""
        return (window - self.gone) * WINDOW

    @torch.inference_mode()
    def _probability(self) -> float:
        """Speech in the next window; silero-vad keeps its state between windows."""
        begin = self._at(len(self.stretches.probabilities))
        samples = self.pcm[begin : begin + WINDOW].astype(np.float32) / 32768
        return float(self.vad(torch.from_numpy(samples)[None], MIC_RATE))

    def _write_down(self, first: int, last: int) -> None:
        seconds = (last - first) * WINDOW / MIC_RATE
        self.seconds += seconds
        if seconds < self.min_speech:  # a cough, a click: nothing that Whisper should guess at
            return
        margin = windows(KEEP)
        begin = max(0, self._at(first - margin))
        self.words.append(self.whisper.write_down(self.pcm[begin : self._at(last + margin)]))

    def _forget(self) -> None:
        """Drop what can't be needed any more, so that a stuck button doesn't fill the memory."""
        if self.stretches.first >= 0:
            keep_from = self.stretches.first - windows(KEEP)
        else:
            keep_from = len(self.stretches.probabilities) - 2 * windows(KEEP)
        drop = keep_from - self.gone
        if drop > 0:
            self.pcm = self.pcm[drop * WINDOW :]
            self.gone = keep_from
