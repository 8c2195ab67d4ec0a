"""When a captured sound was in the room, and whether the device itself was speaking then: by counting samples. Pure.

A block that reaches us late is no later sound: a microphone delivers without a gap, so its count of samples is its
clock, and the block that came soonest sets it. It knows no card and holds no sound.
"""

from __future__ import annotations

from collections import deque

ECHO = 0.15  # s for which a room may still answer after the speaker's last sample
CREEP = 1e-2  # s a second by which the clock follows blocks that come later and later: a crystal that is off, or a loss unseen
KEPT = 10.0  # s that what was spoken is remembered: no block is as late


class HalfDuplex:
    """`rate` of the microphone in Hz; `latency` in s is what the card says of its way from the air to a block.

    All times are those of one steady clock, in s.
    """

    def __init__(self, rate: int, latency: float = 0.0) -> None:
        self._rate, self._latency = rate, latency
        self._end: float | None = None  # when the last sample of the last block was captured; never later than it came
        self._spoken: deque[tuple[float, float]] = deque()

    def spoke(self, begins: float, until: float) -> None:
        """Sound leaves the speaker no sooner than `begins` and no later than `until`."""
        if self._spoken and begins <= self._spoken[-1][1] + ECHO:
            begins, until = self._spoken[-1][0], max(until, self._spoken.pop()[1])
        self._spoken.append((begins, until))

    def hear(self, now: float, samples: int, lost: bool) -> bool:
        """A block of so many came at `now`. Whether the device's own voice may be in it. `lost`: others were lost before it."""
        seconds = samples / self._rate
        begin = now - seconds if self._end is None or lost else min(now - seconds, self._end + seconds * CREEP)
        self._end = begin + seconds
        while self._spoken and self._spoken[0][1] < now - KEPT:
            self._spoken.popleft()
        return any(begins < now and begin < until + self._latency + ECHO for begins, until in self._spoken)

    def behind(self, now: float) -> float:
        """Seconds of sound that were captured by `now` and have not come yet."""
        return 0.0 if self._end is None else max(0.0, now - self._end)
