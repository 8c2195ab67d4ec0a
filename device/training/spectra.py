"""How far two sounds are apart, as an ear would say it: mel spectra in several resolutions. Pure."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device.turn import VOICE_RATE

# (window, mel bands): short windows for consonants, long ones for pitch. After DAC (arXiv 2306.06546, section 3.4).
RESOLUTIONS = ((2048, 160), (1024, 100), (512, 50), (128, 12))
FLOOR = 1e-3  # of a full-scale spectrum's 512: far below what is heard


class MelDistance(nn.Module):
    """L1 distance of log-mel and of mel spectra, the mean over the resolutions."""

    def __init__(self) -> None:
        super().__init__()
        for window, bands in RESOLUTIONS:
            self.register_buffer(f"window{window}", torch.hann_window(window), persistent=False)
            self.register_buffer(f"mels{window}", mel_filters(window, bands), persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Of float sounds (batch, samples) at 24 kHz; a scalar. No gradient goes to the real one."""
        total = made.new_zeros(())
        for window, _ in RESOLUTIONS:
            a = self._mel(made, window)
            with torch.no_grad():
                b = self._mel(real, window)
            total = total + (a.clamp(min=FLOOR).log() - b.clamp(min=FLOOR).log()).abs().mean() + (a - b).abs().mean()
        return total / len(RESOLUTIONS)

    def _mel(self, sound: Tensor, window: int) -> Tensor:
        spectra = torch.stft(sound, window, window // 4, window=self.get_buffer(f"window{window}"), return_complex=True)
        return self.get_buffer(f"mels{window}") @ torch.view_as_real(spectra).square().sum(-1).add(1e-9).sqrt()


class LogMel(nn.Module):
    """The log-mel spectrum a hundred times a second, each of 43 ms around the middle of its 10 ms."""

    BANDS, WINDOW, STEP = 100, 1024, 240

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(self.WINDOW), persistent=False)
        self.register_buffer("mels", mel_filters(self.WINDOW, self.BANDS), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """(batch, BANDS, samples / STEP) in nepers, of float sound (batch, samples) at 24 kHz."""
        before = (self.WINDOW - self.STEP) // 2
        padded = F.pad(sound, (before, self.WINDOW - self.STEP - before))
        spectra = torch.stft(padded, self.WINDOW, self.STEP, window=self.get_buffer("window"), center=False, return_complex=True)
        return (self.get_buffer("mels") @ torch.view_as_real(spectra).square().sum(-1).add(1e-9).sqrt()).clamp(min=FLOOR).log()


def mel_filters(window: int, bands: int, rate: int = VOICE_RATE) -> Tensor:
    """(bands, window / 2 + 1) triangles, evenly spaced in mel (O'Shaughnessy's 2595 log10(1 + f / 700)), each summing to about 1."""
    most = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, most, bands + 2) / 2595) - 1)
    bins = torch.linspace(0, rate / 2, window // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    return filters / filters.sum(1, keepdim=True).clamp(min=1)
