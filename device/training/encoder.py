"""The codec's first half: Mimi's own encoder learns to say of sound what the ear of `codec.py` says of its spectra.

The codebooks no longer change, so it can learn beside the language model and the decoder. It can stop and go on at any step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from device.training.codec import Ear
from device.training.halves import rate_at
from device.turn import FRAME

CLIPS, FRAMES = 8, 20  # in a step: 1.6 s each
COLD = 3  # frames at the start of a piece: neither the ear nor the encoder has heard what came before
RATE = 6e-4
AVERAGE = 0.999  # what is kept is a running mean of the weights


class Encoder:
    """The half of Mimi that hears, its optimiser, and how far it has come. `ear` is what it learns from."""

    def __init__(self, mimi: nn.Module, ear: Ear, steps: int, device: str = "cpu") -> None:
        self.mimi, self.ear = mimi.requires_grad_(False).to(device), ear.requires_grad_(False).eval().to(device)
        self.device, self.steps, self.step = device, steps, 0
        self.parts = nn.ModuleList([mimi.encoder, mimi.encoder_transformer, mimi.downsample]).requires_grad_(True).train()
        self.mean = [p.detach().clone() for p in self.parts.parameters()]
        self.best = torch.optim.AdamW(self.parts.parameters(), RATE, betas=(0.8, 0.99), weight_decay=1e-3, fused=True)

    def learn(self, sound: Tensor) -> dict[str, float]:
        """One step on float sound (batch, samples). The loss: how much of what reaches the codebooks is wrong, 0 to about 1 each."""
        for group in self.best.param_groups:
            group["lr"] = rate_at(self.step, self.steps, RATE)
        with torch.no_grad():
            wanted = self.ear(self.ear.spectra(sound))[..., COLD:]
        (latent,) = self.mimi.encoder_transformer(self.mimi.encoder(sound[:, None]))
        said = self.mimi.downsample(latent)[..., COLD:]
        quantizer, losses = self.mimi.quantizer, {}
        for name, part in (("first", quantizer.rvq_first), ("rest", quantizer.rvq_rest)):
            # The codebooks see the latent through a projection: what that leaves out need not be learnt.
            a, b = part.input_proj(said), part.input_proj(wanted)
            losses[name] = (a - b).square().mean() / b.var(dim=(0, 2)).mean()
        self.best.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.best.step()
        share = min(AVERAGE, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.parts.parameters()], 1 - share)
        self.step += 1
        return {"norm": norm.item(), **{name: loss.item() for name, loss in losses.items()}}

    def save(self, file: Path) -> None:
        """Whole or not at all, so that it can be stopped at any time."""
        state = {"parts": self.parts.state_dict(), "best": self.best.state_dict(), "mean": self.mean, "step": self.step}
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def load(self, file: Path) -> None:
        state = torch.load(file, map_location=self.device, weights_only=True)
        self.parts.load_state_dict(state["parts"])
        self.best.load_state_dict(state["best"])
        self.mean, self.step = state["mean"], state["step"]

    @torch.no_grad()
    def settle(self) -> None:
        """Let the model be the running mean."""
        for p, mean in zip(self.parts.parameters(), self.mean, strict=True):
            p.copy_(mean)


class Pieces:
    """Pieces of the corpus's sound at frame borders. Clips follow each other without a gap."""

    def __init__(self, sound: np.ndarray, seed: int) -> None:
        self.sound, self.chance = sound, np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor]:
        """Float sound (CLIPS, FRAMES * 1920)."""
        starts = self.chance.integers(0, len(self.sound) - FRAMES * FRAME, CLIPS)
        return (torch.from_numpy(np.stack([self.sound[at : at + FRAMES * FRAME] for at in starts]).astype(np.float32) / 32768),)
