"""From a stream of blocks to one Window a second: conditioned, gated, and turned into features. Nothing of a person yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from device.eeg_features import FEATURES, Spectrum
from device.eeg_filter import Conditioner
from device.eeg_quality import RAIL_UV, Channel, inspect, refused

Array = NDArray[np.float64]

HOP_SECONDS = 1.0  # one window a second
GATE_SECONDS = 0.5  # one verdict each half second, of the last 2 s
SETTLE_SECONDS = 2.0  # after a reset the high-pass and the notches ring; nothing is judged meanwhile
WINDOW_SECONDS = 4.0  # shorter windows make alpha too noisy, longer ones act too late
ABSURD_UV = 1e9  # no amplifier's full scale: a number like that is no sample
CLEAN_SECONDS = 15.0  # what the clean share is of


@dataclass(frozen=True)
class Window:
    """The newest 4 s at second `at` of the stream.

    `refusal` says why it can't be used ("" when it can); `features` [channels, FEATURES] is NaN for a channel that is not
    clean, and all NaN when refused. `clean` is the share of the last 15 s whose 2 s verdicts passed.
    """

    at: float
    channels: tuple[Channel, ...]
    refusal: str
    features: Array
    clean: float

    @property
    def good(self) -> int:
        """Channels with features."""
        return int(np.isfinite(self.features[:, 0]).sum())


@dataclass(frozen=True)
class _Verdict:
    channels: tuple[Channel, ...]
    refusal: str
    power: Array


class Windows:
    """Blocks of [channels, samples] in uV at `rate` Hz in, Windows out. ValueError for a rate below 100 Hz.

    Each 2 s segment is transformed once: a window is the mean of three of them, half overlapping (Welch), less those that the
    gate refused. It needs the newest and one more; a single blink long ago costs noise, not silence.
    """

    def __init__(self, names: Sequence[str], rate: float, rail_uv: float = RAIL_UV) -> None:
        self.names, self.rate = tuple(names), float(rate)
        self.usual: Sequence[tuple[float, float] | None] | None = None  # muscle of the wearer's own baseline
        self.channels: tuple[Channel, ...] = ()  # of the newest verdict
        self.seconds = 0.0  # of the stream's end
        self._rail = rail_uv
        self._condition, self._spectrum = Conditioner(self.rate), Spectrum(self.rate)
        self._passed: deque[bool] = deque(maxlen=round(CLEAN_SECONDS / GATE_SECONDS))
        self._held = np.zeros(len(self.names))
        self._reset()

    def _reset(self) -> None:
        self._condition.reset()
        self._raw = self._clean = np.zeros((len(self.names), 0))
        self._absent = np.zeros((len(self.names), 0), dtype=bool)
        self._count = self._gates = 0
        self._verdicts: deque[_Verdict] = deque(maxlen=5)  # the ends of 2, 2.5, 3, 3.5 and 4 s

    def hear(self, samples_uv: ArrayLike, gap: bool = False, seconds: float | None = None) -> Iterator[Window]:
        """The windows that end in this block. `gap`: samples were lost before it. `seconds`: the time of its first sample.

        Samples that are not finite count as missing; the channel is refused while they are in its window.
        """
        block = np.asarray(samples_uv, dtype=np.float64)
        if block.ndim != 2 or len(block) != len(self.names):
            raise ValueError(f"a block of {len(self.names)} rows was expected, not shape {block.shape}")
        if gap:
            self._reset()
        if seconds is not None:
            self.seconds = float(seconds)
        if not block.shape[1]:
            return
        absent: NDArray[np.bool_] = np.asarray(~np.isfinite(block) | (np.abs(block) > ABSURD_UV))
        block = self._filled(block, absent)
        keep = self._spectrum.size
        self._clean = np.concatenate([self._clean[:, -keep:], self._condition(block)], axis=1)
        self._raw = np.concatenate([self._raw[:, -keep:], block], axis=1)
        self._absent = np.concatenate([self._absent[:, -keep:], absent], axis=1)
        size, begun = block.shape[1], self.seconds
        start, self._count = self._count, self._count + size
        self.seconds = begun + size / self.rate
        while (end := round((self._gates + 1) * GATE_SECONDS * self.rate)) <= self._count:
            self._gates += 1
            self._judge(self._raw.shape[1] - (self._count - end), end)
            if self._gates % 2 == 0:
                yield self._window(begun + (end - start) / self.rate)

    def _filled(self, block: Array, absent: NDArray[np.bool_]) -> Array:
        """Missing samples repeat the last one of their channel: a filter must never be fed a NaN."""
        if absent.any():
            newest = np.where(absent, 0, np.arange(1, block.shape[1] + 1))
            newest = np.maximum.accumulate(newest, axis=1)
            padded = np.concatenate([self._held[:, None], np.where(absent, 0.0, block)], axis=1)
            block = np.take_along_axis(padded, newest, axis=1)
        self._held = block[:, -1].copy()
        return block

    def _judge(self, end: int, count: int) -> None:
        """The gate's verdict on the 2 s that end at column `end`, if they lie wholly after the settling."""
        size = self._spectrum.size
        if count < round(SETTLE_SECONDS * self.rate) + size:
            self._passed.append(False)
            self.channels = ()
            return
        raw, clean = self._raw[:, end - size : end], self._clean[:, end - size : end]
        power = self._spectrum.power(clean)
        missing: NDArray[np.bool_] = np.asarray(self._absent[:, end - size : end].any(axis=1))
        self.channels = tuple(inspect(raw, clean, missing, self.names, self._spectrum, power, self._rail, self.usual))
        refusal = refused(self.channels)
        self._passed.append(not refusal)
        self._verdicts.append(_Verdict(self.channels, refusal, power))

    def _window(self, at: float) -> Window:
        nothing = np.full((len(self.names), len(FEATURES)), np.nan)
        clean = sum(self._passed) / (self._passed.maxlen or 1)
        if len(self._verdicts) < 5:
            return Window(at, self.channels, "the signal is settling.", nothing, clean)
        segments = (self._verdicts[0], self._verdicts[2], self._verdicts[4])
        newest, kept = segments[-1], [s for s in segments if not s.refusal]
        if newest.refusal or len(kept) < 2:
            return Window(at, self.channels, newest.refusal or "the signal was too poor a moment ago.", nothing, clean)
        fine = np.array([[not c.fault for c in s.channels] for s in kept])  # [segments, channels]
        times = fine.sum(axis=0)
        total = sum(np.where(f[:, None], s.power, 0.0) for f, s in zip(fine, kept, strict=True))
        features = self._spectrum.features(np.where(times[:, None] >= 2, total / np.maximum(times, 1)[:, None], 1.0))
        features[(times < 2) | ~fine[-1]] = np.nan
        return Window(at, self.channels, "", features, clean)


