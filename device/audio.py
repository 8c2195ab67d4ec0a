"""The microphone and the speaker: what the loop may ask of them, and the simulated peer that a clock moves.

It does not know what is said or why: the loop calls its verbs every 20 ms, and nothing calls back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from device.config import Audio as AudioSettings
from device.levels import Meter
from device.limiter import Limiter
from device.turn import MIC_RATE, VOICE_RATE


class SoundLost(RuntimeError):
    """The sound card can't be used. One sentence says which and the way out."""


class SoundStuck(SoundLost):
    """Only another process can use the card now: this one ends, and systemd starts it anew."""


class SoundSilent(SoundLost):
    """The card opened, and gave or took no sample."""


class Sound(Protocol):
    """What the loop may ask. Every verb but open, reopen and close returns within 5 ms; play, of a message of 10 s, within 25.

    Captured samples are int16 at MIC_RATE, played ones int16 at VOICE_RATE, both mono.
    """

    def open(self) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...
    def alive(self) -> bool: ...
    def flow(self) -> tuple[float, float]: ...
    def listen(self, on: bool) -> None: ...
    def take(self) -> tuple[np.ndarray, bool]: ...
    def begin(self) -> None: ...
    def play(self, pcm: np.ndarray) -> None: ...
    def mute(self, on: bool) -> None: ...
    def stop(self) -> float: ...
    @property
    def played(self) -> float: ...
    @property
    def pending(self) -> float: ...
    @property
    def meter(self) -> Meter: ...


def open_audio(
    settings: AudioSettings,
    inputs: Sequence[np.ndarray] = (),
    *,
    speed: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
) -> Sound:
    """The card that the settings ask for, not yet open; `inputs`, `speed`, `clock` are for kind "wav"."""
    if settings.kind == "wav":
        tail, preroll = settings.tail_seconds, settings.preroll_seconds
        return WavCard(inputs, tail=tail, preroll=preroll, speed=speed, clock=clock)
    from device.soundcard import SoundCard

    return SoundCard(settings)


class WavCard:
    """A simulated card without threads: what it hears and plays is a function of `clock`.

    Each press hears the next of `inputs` (int16, MIC_RATE), after a pre-roll of silence, and
    silence once the clip is over. `speed` is how much faster than `clock` the sound runs.
    """

    def __init__(
        self,
        inputs: Sequence[np.ndarray],
        *,
        tail: float,
        preroll: float,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inputs = deque(np.asarray(clip, np.int16) for clip in inputs)
        self._tail, self._preroll = samples_in(tail, MIC_RATE), samples_in(preroll, MIC_RATE)
        self._speed, self._clock = speed, clock
        self._open = False
        self._clip = np.zeros(0, np.int16)
        self._pressed_at = 0.0
        self._clip_on, self._complete = False, False
        self._given = 0  # samples taken of this clip
        self._end: int | None = None  # samples the clip will have, once released
        self._limiter = Limiter(VOICE_RATE)
        self._queue = np.zeros(0, np.int16)
        self._heard: list[np.ndarray] = []
        self._settled = self._now(VOICE_RATE)  # the speaker's sample that comes next
        self._dry: int | None = None  # samples of silence since the queue ran dry in an utterance
        self._played = 0
        self._underrun = 0
        self._muted = False
        self.meter = Meter(0)  # a file says nothing of a room

    def open(self) -> None:
        self._open = True

    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        self._open = False

    def alive(self) -> bool:
        return self._open

    def flow(self) -> tuple[float, float]:
        """When the last sample came and the last one went, in monotonic seconds."""
        return (time.monotonic(), time.monotonic()) if self._open else (0.0, 0.0)

    def listen(self, on: bool) -> None:
        """True: the next clip begins, with the pre-roll. False: it ends once the tail is in."""
        if on:
            self._clip = self._inputs.popleft() if self._inputs else np.zeros(0, np.int16)
            self._pressed_at, self._given, self._end = self._clock(), 0, None
            self._clip_on, self._complete = True, False
        elif self._clip_on and self._end is None:
            self._end = self._captured() + self._tail

    def take(self) -> tuple[np.ndarray, bool]:
        """(samples captured since the last take, whether the clip is complete)."""
        if not self._clip_on:
            return np.zeros(0, np.int16), self._complete
        upto = self._captured()
        if self._end is not None and upto >= self._end:
            upto = self._end
            self._clip_on, self._complete = False, True
        out = np.zeros(upto - self._given, np.int16)
        first = self._given - self._preroll  # of the clip; negative inside the pre-roll
        piece = self._clip[max(first, 0) : max(upto - self._preroll, 0)]
        at = max(-first, 0)
        out[at : at + len(piece)] = 0 if self._muted else piece
        self._given = upto
        return out, self._complete

    def mute(self, on: bool) -> None:
        """True: from now on the microphone gives silence, whatever else is asked of it."""
        self._muted = on

    @property
    def clip_over(self) -> bool:
        """Whether the present clip has no samples left: time to let go of the button."""
        return self._captured() - self._preroll >= len(self._clip)

    @property
    def clips_left(self) -> int:
        """Clips that no press has heard yet."""
        return len(self._inputs)

    def begin(self) -> None:
        """A new utterance: `played` counts from zero."""
        self._settle()
        self._played, self._dry = 0, None

    def play(self, pcm: np.ndarray) -> None:
        """Append to the speaker's queue; a gap since it ran dry in this utterance was silence."""
        self._settle()
        if self._dry:
            self._heard.append(np.zeros(self._dry, np.int16))
            self._underrun += self._dry
        self._dry = 0
        self._queue = np.concatenate([self._queue, self._limiter.limit(np.asarray(pcm, np.int16))])

    def stop(self) -> float:
        """Drop the queue, silence at once. Returns what `played` ends at, then resets it."""
        self._settle()
        played, self._played = self._played, 0
        self._queue, self._dry, self._limiter = self._queue[:0], None, Limiter(VOICE_RATE)
        return played / VOICE_RATE

    @property
    def played(self) -> float:
        """Seconds of audio that left the speaker since begin() or stop(), silence not counted."""
        self._settle()
        return self._played / VOICE_RATE

    @property
    def pending(self) -> float:
        """Seconds still queued; 0 is drained."""
        self._settle()
        return (len(self._queue) + self._limiter.held) / VOICE_RATE

    @property
    def underrun(self) -> float:
        """Seconds of silence inside utterances because the next words came late."""
        return self._underrun / VOICE_RATE

    @property
    def heard_by_patient(self) -> np.ndarray:
        """All that was really played, int16 at VOICE_RATE, cut where stop() cut it."""
        self._settle()
        return np.concatenate([np.zeros(0, np.int16), *self._heard])

    def _now(self, rate: int) -> int:
        return samples_in(self._clock() * self._speed, rate)

    def _captured(self) -> int:
        """Samples of this clip that the clock has brought, the pre-roll first."""
        since = (self._clock() - self._pressed_at) * self._speed
        return self._preroll + samples_in(since, MIC_RATE)

    def _settle(self) -> None:
        """Play what the clock says has been played by now."""
        now = self._now(VOICE_RATE)
        due, self._settled = now - self._settled, now
        if due > len(self._queue):
            self._queue = np.concatenate([self._queue, self._limiter.flush()])
        sound, self._queue = self._queue[:due], self._queue[due:]
        self._played += len(sound)
        if len(sound):
            self._heard.append(sound)
        if self._dry is not None:
            self._dry += due - len(sound)


def samples_in(seconds: float, rate: int) -> int:
    """Whole samples in `seconds`; a clock's rounding error costs none."""
    return int(seconds * rate + 1e-3)
