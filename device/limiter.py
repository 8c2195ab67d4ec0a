"""The last thing before the speaker: no sample louder than it may be, without a click. Pure: it knows no card.

It works on the card's own samples: what they draw between them is loud too, and a voice of 24 kHz has twice
the samples there that it needs, so that little of its true peak stays unseen; CEILING leaves room for that.
"""

from __future__ import annotations

import numpy as np

CEILING = 29_203  # of 32,767: 1 dB below full scale
AHEAD = 0.005  # s that a peak is seen before it is heard: so long the gain takes to go down
RELEASE = 0.5  # s that the gain would take from nothing back to 1: a peak of 1 dB is forgotten in 55 ms


class Limiter:
    """Streams at `rate` Hz: `limit` gives out all but the last 5 ms, `flush` those. How the sound is cut into calls changes nothing.

    Quiet sound passes bit for bit.
    """

    def __init__(self, rate: int, ceiling: int = CEILING) -> None:
        self._ceiling = ceiling
        self._ahead = round(AHEAD * rate)
        self._rise = 1 / (RELEASE * rate)
        self._held = np.zeros(0, np.float32)  # seen, not given out; all of int16 is exact in it
        self._lowered = np.zeros(self._ahead)  # by how much below 1 the gain was to be for the last samples given out
        self._fresh = True  # what comes next has nothing before it

    @property
    def held(self) -> int:
        """Samples that were taken and not given out."""
        return len(self._held)

    def limit(self, sound: np.ndarray) -> np.ndarray:
        """Samples (n,), any type, int16's scale and as loud as they like. int16 of what the last 5 ms may no longer change."""
        self._held = np.concatenate([self._held, np.asarray(sound, np.float32)])
        return self._give(len(self._held) - self._ahead)

    def flush(self) -> np.ndarray:
        """The end has come: the rest, int16."""
        self._held = np.concatenate([self._held, np.zeros(self._ahead, np.float32)])
        rest = self._give(len(self._held) - self._ahead)
        self._held, self._fresh = self._held[:0], True
        return rest

    def _give(self, count: int) -> np.ndarray:
        """The first `count` samples of what is held, limited. There are `ahead` more, which are looked at."""
        if count <= 0:
            return np.zeros(0, np.int16)
        sound = self._held
        given = sound[:count]
        if max(sound.max(), -sound.min()) > self._ceiling or self._lowered.any():
            given = given * self._gain(1 - self._ceiling / np.maximum(np.abs(sound), self._ceiling, dtype=np.float64), count)
        self._held, self._fresh = sound[count:], False
        return np.rint(given).astype(np.int16)

    def _gain(self, wanted: np.ndarray, count: int) -> np.ndarray:
        """(count,), from by how much below 1 each of the samples (count + ahead,) wants it."""
        ahead, before, window = self._ahead, self._lowered, wanted
        width = 1
        while width < ahead + 1:  # the most of each sample and the `ahead` after it, by doubling
            step = min(width, ahead + 1 - width)
            window = np.maximum(window, np.concatenate([window[step:], np.zeros(step)]))
            width += step
        window = window[:count]
        # Down at once and up slowly: the most of all that was wanted before, each less by what the gain has risen since.
        if self._fresh:
            before = np.maximum(before, window[0])
        at = np.arange(1, count + 1) * self._rise
        lowered = np.maximum(np.maximum.accumulate(np.concatenate([before[-1:], window + at]))[1:] - at, 0.0)
        # The mean of the last 5 ms: a slope in place of a step, and low enough by when the peak comes.
        every = np.concatenate([before, lowered])
        self._lowered = every[-ahead:]
        total = np.concatenate([[0.0], np.cumsum(every)])
        return 1 - (total[ahead + 1 :] - total[: -ahead - 1]) / (ahead + 1)
