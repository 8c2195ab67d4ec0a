"""Critics for the decoder: networks that learn to tell decoded speech from real speech, in three resolutions of its spectrum.

After the multi-resolution discriminators of UnivNet and Vocos (arXiv 2106.07889, 2306.00814), with a quarter of their channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOWS = (1024, 512, 256)
CHANNELS = 16


class Critic(nn.Module):
    """One resolution: real and imaginary parts in, a map of verdicts out."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        size, step = (3, 9), (1, 2)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(2 if first else CHANNELS, CHANNELS, size, step, (1, 4)))
            for first in (True, False, False, False)
        )
        self.verdict = nn.utils.parametrizations.weight_norm(nn.Conv2d(CHANNELS, 1, 3, 1, 1))

    def forward(self, sound: Tensor) -> list[Tensor]:
        """What each layer makes of float sound (batch, samples); the last one is the verdicts, 1 real and 0 not."""
        window = self.get_buffer("window")
        spectra = torch.stft(sound, len(window), len(window) // 4, window=window, return_complex=True)
        x = torch.view_as_real(spectra).permute(0, 3, 2, 1)  # (batch, 2, times, bins)
        x = x / (x.square().sum(1, keepdim=True) + 1e-4) ** 0.35  # loud and soft alike
        out = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            out.append(x)
        return [*out, self.verdict(x)]


class Critics(nn.Module):
    """All resolutions, and the losses of both sides (least squares, arXiv 1611.04076; feature matching as in MelGAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.critics = nn.ModuleList(Critic(window) for window in WINDOWS)

    def judge(self, made: Tensor, real: Tensor) -> Tensor:
        """What the critics learn by: real sound (batch, samples) is 1, made sound 0."""
        loss = made.new_zeros(())
        for critic in self.critics:
            loss = loss + (critic(real)[-1] - 1).square().mean() + critic(made.detach())[-1].square().mean()
        return loss / len(self.critics)

    def convince(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder learns by: (to be taken for real, to look alike to every layer)."""
        taken, alike = made.new_zeros(()), made.new_zeros(())
        for critic in self.critics:
            *seen, verdict = critic(made)
            with torch.no_grad():
                wanted = critic(real)[:-1]
            taken = taken + (verdict - 1).square().mean()
            for a, b in zip(seen, wanted, strict=True):
                alike = alike + (a - b).abs().mean() / b.abs().mean().clamp(min=1e-3)
        return taken / len(self.critics), alike / (len(self.critics) * len(wanted))
