"""How speech sounds, in numbers that need no listener: whose voice it is, how clean it is, where it falls silent.

Both networks are small enough for a CPU, and both are built here: of their packages only the weights are used
(`device/models.py`), because one imports webrtcvad and the other torchaudio, which does not load beside a CPU torch.
It does not know who speaks, or why.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device import models
from device.turn import MIC_RATE
from device.voice.ending import SILENT

WINDOW = 0.02  # s in which a level is taken
# Resemblyzer 0.1.4's own values (hparams.py, voice_encoder.py).
MELS, MEL_WINDOW, MEL_STEP = 40, 400, 160  # 25 ms every 10 ms
PARTIAL, PARTIAL_STEP, COVERED = 160, 77, 0.75  # rows of mel in a partial window, 1.3 of them a second; share of the last that is sound
# Ours: the level, of full scale, that all speech is brought to. The package only raises what is below -30 dB, and there
# speech that gets 6 dB quieter loses 0.05 (tests/data/speech). At -20 dB voices lie as far apart as with the package.
LOUDNESS = 10 ** (-20 / 20)
VOICED, AROUND = 0.03, 3  # s of a voicing decision, and how many of them are kept on both sides of speech
# DistillMOS 0.9.1's (sqa.py).
STRETCH, HOP = 122_880, 16_000  # samples that are judged at once, and at most so many between two stretches
CHANNELS = (2, 64, 64, 128, 256, 256, 256)
WIDTH, HEADS, LAYERS, ROWS = 200, 8, 7, 384


def longest_silence(pcm: np.ndarray, rate: int) -> float:
    """Seconds of the longest silence inside int16 `pcm` (n,), the lead-in and the end left out; all of it where nothing sounds.

    Silence is 20 ms windows below -50 dB of full scale: what `ending.py` calls silent.
    """
    size = round(WINDOW * rate)
    loud = np.flatnonzero(_levels(pcm.astype(np.float64) / 32768, size) >= SILENT)
    if not len(loud):
        return len(pcm) / rate
    return float((np.diff(loud, prepend=loud[0] - 1).max() - 1) * size / rate)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of two voices as SpeakerEncoder gives them, 0 to 1 (they have no negative numbers).

    Ten LibriSpeech speakers, four clips each: 0.89 within, 0.54 between speakers; clips below 3 s lie some 0.1 lower.
    """
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


class SpeakerEncoder(nn.Module):
    """A voice as a point on a sphere: an LSTM trained with GE2E (Wan et al. 2018), with Resemblyzer 0.1.4's weights (Apache-2.0)."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of the fetched models. Raises ModelMissing."""
        super().__init__()
        self.lstm = nn.LSTM(MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        state = _weights("resemblyzer", "pretrained.pt", folder)["model_state"]
        self.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("similarity_")})
        self.eval().requires_grad_(False)
        self._filters = torch.from_numpy(mel_filters(MIC_RATE, MEL_WINDOW, MELS))

    def embed(self, pcm: np.ndarray, rate: int) -> np.ndarray:
        """The voice of int16 `pcm` (n,) at `rate` Hz: float32 (256,) of length 1.

        All speech is brought to one loudness and silence taken out first, so that neither counts as a voice. Where the
        package asks webrtcvad what is speech, here it is the level.
        """
        return self.vector(_spoken(_at_16k(pcm, rate)))

    @torch.inference_mode()
    def vector(self, sound: np.ndarray) -> np.ndarray:
        """The same of float32 `sound` (n,) at 16 kHz as it is: the mean over windows of 1.6 s, one every 0.77 s."""
        rows = math.ceil((len(sound) + 1) / MEL_STEP)
        starts = list(range(0, max(1, rows - PARTIAL + PARTIAL_STEP + 1), PARTIAL_STEP))
        if len(starts) > 1 and (len(sound) / MEL_STEP - starts[-1]) / PARTIAL < COVERED:
            starts.pop()
        padded = np.pad(sound, (0, max(0, (starts[-1] + PARTIAL) * MEL_STEP - len(sound))))
        mel = self._mel(torch.from_numpy(padded.astype(np.float32)))
        _, (hidden, _) = self.lstm(torch.stack([mel[start : start + PARTIAL] for start in starts]))
        mean = F.normalize(F.relu(self.linear(hidden[-1])), dim=1).mean(0)
        return F.normalize(mean, dim=0).numpy()

    def _mel(self, sound: Tensor) -> Tensor:
        """(rows, 40) powers in mel bands, no logarithm, as librosa's melspectrogram gives them."""
        window = torch.hann_window(MEL_WINDOW)
        spectrum = torch.stft(sound, MEL_WINDOW, MEL_STEP, window=window, center=True, pad_mode="constant", return_complex=True)
        return (self._filters @ spectrum.abs().square()).T


def mel_filters(rate: int, size: int, bands: int) -> np.ndarray:
    """float32 (bands, size // 2 + 1): triangles over the bins of an FFT of `size`, of equal area (Slaney's Auditory Toolbox, 1998).

    Slaney's mel scale: linear to 1 kHz, three mel for 200 Hz, then logarithmic, 27 mel for a factor of 6.4.
    """
    top = 15 + 27 * math.log(rate / 2 / 1000) / math.log(6.4)
    mel = np.linspace(0, top, bands + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    bins = np.linspace(0, rate / 2, size // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))
    return (triangles * 2 / (high - low)).astype(np.float32)


class Mos(nn.Module):
    """DistillMOS 0.9.1 (Stahl and Gamper 2025, MIT): the mean opinion, 1 bad to 5 excellent, that listeners would give of a recording."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of the fetched models. Raises ModelMissing."""
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(CHANNELS)):
            stride = (1 if number == 0 else 2, 2 if number == len(CHANNELS) - 2 else 1)
            layers += [nn.Conv2d(before, after, 3, stride, padding=(0, 1)), nn.LeakyReLU(0.1)]
        self.cnn = nn.Sequential(*layers)
        self.norm_input, self.norm, self.norm_trans = nn.BatchNorm1d(1024), nn.BatchNorm1d(1024), nn.BatchNorm1d(WIDTH)
        self.linear_proj = nn.Linear(1024, WIDTH)
        self.register_buffer("pe", torch.zeros(1, ROWS, WIDTH))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True) for _ in range(LAYERS))
        self.linear1, self.linear2, self.linear3 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, 1), nn.Linear(WIDTH, 1)
        state = _weights("distillmos", "distill_mos_v7.pt", folder)["model"]
        self.load_state_dict({_our_name(name): tensor for name, tensor in state.items()})
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def score(self, pcm: np.ndarray, rate: int) -> float:
        """Of int16 `pcm` (n,) at `rate` Hz: the mean over stretches of 7.68 s that overlap; what is shorter is padded."""
        sound = torch.from_numpy(_at_16k(pcm, rate))
        sound = F.pad(sound, (0, max(0, STRETCH - len(sound))))
        over = len(sound) - STRETCH
        starts = np.linspace(0, 1, math.ceil(over / HOP) + 1) * over
        return float(np.mean([self._judge(sound[int(start) : int(start) + STRETCH]) for start in starts]))

    def _judge(self, sound: Tensor) -> float:
        spectrum = torch.stft(
            F.pad(sound[None] / (sound.abs().max() + 1e-8), (80, 80), mode="reflect"),
            320, 160, window=torch.hann_window(320), center=False, return_complex=True,
        )  # fmt: skip
        size = spectrum.abs().clamp(min=1e-12)
        pressed = torch.view_as_real(spectrum * size**-0.7).permute(0, 3, 1, 2)  # loudness as the ear has it, phase kept
        x = _normalised(self.norm_input, self.cnn(pressed).flatten(1, 2).transpose(1, 2))
        x = self.linear_proj(_normalised(self.norm, x)) + self.pe
        for layer in self.layers:
            x = layer(x)
        x = _normalised(self.norm_trans, x)
        weight = self.linear2(F.relu(self.linear1(x))).softmax(1)
        return 1 + 4 * float(torch.sigmoid(self.linear3((weight * x).sum(1))))


def _our_name(name: str) -> str:
    """DistillMOS's modules lie in one another; here they lie side by side."""
    for outer in ("transformer_pool_attn.", "transformer.", "transformer_encoder.", "position_encoding.", "pool.", "cnn."):
        name = name.removeprefix(outer)
    return name if not name[0].isdigit() else f"cnn.{name}"


def _normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """Batch norm over the last axis of (batch, rows, channels)."""
    out: Tensor = norm(x.transpose(1, 2))
    return out.transpose(1, 2)


def _weights(name: str, file: str, folder: Path) -> Any:
    """A fetched model's tensors. Raises ModelMissing."""
    place = models.path(name, folder) / file
    try:
        return torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:  # the disk's, zip's, pickle's: torch has no one error for a file that is not whole
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise models.ModelMissing(f"{place} can't be read ({why}): run 'bedside models fetch {name}'.") from None


def _at_16k(pcm: np.ndarray, rate: int) -> np.ndarray:
    """float32 (n,) in [-1, 1] at 16 kHz."""
    sound = pcm.astype(np.float32) / 32768
    return sound if rate == MIC_RATE else soxr.resample(sound, rate, MIC_RATE)


def _spoken(sound: np.ndarray) -> np.ndarray:
    """`sound` at 16 kHz without its silences, the rest brought to LOUDNESS; as it is where all is silence."""
    size = round(VOICED * MIC_RATE)
    if not len(sound) or _loudness(sound) < SILENT:
        return sound
    voiced = _levels(sound * (LOUDNESS / _loudness(sound)), size) >= SILENT
    kept = np.convolve(voiced, np.ones(2 * AROUND + 1))[AROUND : AROUND + len(voiced)] > 0
    sound = sound[: len(kept) * size][np.repeat(kept, size)]
    return sound * (LOUDNESS / _loudness(sound)) if len(sound) else sound


def _loudness(sound: np.ndarray) -> float:
    """RMS of all of `sound`."""
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def _levels(sound: np.ndarray, size: int) -> np.ndarray:
    """RMS (windows,) of each whole window of `size` samples of `sound` in [-1, 1]."""
    whole = np.square(sound[: len(sound) // size * size], dtype=np.float64).reshape(-1, size)
    return np.asarray(np.sqrt(whole.mean(axis=1)))
