"""How loud the device is: five steps, the one that the patient chose, and at night no further than the settings allow. Pure."""

from __future__ import annotations

import numpy as np

VOLUMES = (0.2, 0.35, 0.5, 0.75, 1.0)  # of what the voice gives, for audio.volume 1 to 5


TURNED = 240  # samples at VOICE_RATE in which the volume changes within a sentence: 10 ms, so that it does not click


def at_volume(pcm: np.ndarray, volume: int, before: int = 0) -> np.ndarray:
    """int16 samples at one of the five volumes; at 5 the very same. `before`: what the sound that this goes on from had."""
    if volume == len(VOLUMES) and before in (0, volume):
        return pcm
    gain = np.full(len(pcm), VOLUMES[volume - 1])
    if before:
        slope = np.linspace(VOLUMES[before - 1], VOLUMES[volume - 1], TURNED)[: len(pcm)]
        gain[: len(slope)] = slope
    return (pcm * gain).astype(np.int16)


class Volume:
    """`chosen` is a step, 1 to 5; `at_night` is the loudest one of the night. An alert asks for neither."""

    def __init__(self, chosen: int, at_night: int) -> None:
        self.chosen, self._at_night, self._before = chosen, at_night, chosen

    def loudest(self, night: bool) -> int:
        return self._at_night if night else len(VOLUMES)

    def turn(self, steps: int, night: bool) -> None:
        """Louder or softer than it is now; beyond the end it stays, and the day's own volume with it for the day."""
        wanted = min(self.chosen, self.loudest(night)) + steps
        if 1 <= wanted <= self.loudest(night):
            self.chosen = wanted

    def of(self, pcm: np.ndarray, night: bool, goes_on: bool) -> np.ndarray:
        """int16 samples (n,) as loud as they may be now. `goes_on`: from sound before it, so that a change does not click."""
        before, self._before = self._before, min(self.chosen, self.loudest(night))
        return at_volume(pcm, self._before, before if goes_on else 0)
