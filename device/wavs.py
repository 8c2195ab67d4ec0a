"""Sound files in and out, as 16-bit mono samples at the rate that is asked for.

It knows nothing of microphones, models or what is said in a file, and needs no torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr


class WavError(ValueError):
    """A sound file that can't be used. The message names the file and the way out."""


def read(path: Path | str, rate: int) -> np.ndarray:
    """int16 mono samples of any WAV, FLAC or Ogg file, channels averaged, resampled to `rate` Hz.

    Raises WavError for a file that is missing, holds no samples or isn't sound.
    """
    file = Path(path)
    if not file.is_file():
        raise WavError(f"{file}: no such sound file.")
    try:
        samples, own_rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise WavError(
            f"{file}: can't be read as sound ({error}); give a WAV, FLAC or Ogg file."
        ) from None
    if not len(samples):
        raise WavError(f"{file}: holds no samples; give a recording that isn't empty.")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():  # a float WAV may hold anything
        raise WavError(f"{file}: holds samples that aren't numbers; save it again as 16-bit WAV.")
    if own_rate != rate:
        mono = soxr.resample(mono, own_rate, rate)
    return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)


def write(path: Path | str, pcm: np.ndarray, rate: int) -> None:
    """Save int16 mono samples as a 16-bit WAV. Raises WavError where the file can't be written."""
    if pcm.dtype != np.int16 or pcm.ndim != 1:
        raise WavError(
            f"{path}: samples are {pcm.dtype} of shape {pcm.shape}; int16 of one channel is needed."
        )
    try:
        soundfile.write(path, pcm, rate, subtype="PCM_16", format="WAV")
    except (soundfile.LibsndfileError, OSError) as error:
        raise WavError(f"{path}: can't be written ({error}).") from None


def faded(pcm: np.ndarray, samples: int) -> np.ndarray:
    """The first `samples` of int16 `pcm`, dying away: a voice that is cut off must not click."""
    tail = pcm[:samples]
    return (tail * np.linspace(1, 0, len(tail))).astype(np.int16)
