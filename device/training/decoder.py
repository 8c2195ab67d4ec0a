"""The codec's second half: from codes that no longer change to the sound they stand for.

First by the distance of mel spectra alone; then critics make it crisp. What a language model has learned of the codes stays
true however long this goes on. It can stop and go on at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from device.training.critic import Critics
from device.training.halves import rate_at
from device.training.spectra import MelDistance
from device.turn import FRAME

CLIPS, FRAMES = 4, 16  # in a step: 1.3 s each
COLD = 2  # frames at the start of a piece from the middle of a clip: the decoder has not heard what came before
RATE = 5e-4
CRITIC_RATE = 2e-4
# How much each loss pulls at the sound, once critics judge: their gradients are brought to these lengths (the balancer of EnCodec,
# arXiv 2210.13438, section 3.4).
PULLS = {"mel": 1.0, "taken": 0.3, "alike": 0.7}
ALONE = 100  # steps in which the critics learn before they are listened to: of one that knows nothing the sound gets worse
STEADY = 0.99  # a loss's length is the running mean over a hundred steps
HEARD = 11_520  # samples of each piece that the critics hear: with all of it a step takes four times as long as without critics
AVERAGE = 0.999  # what is kept is a running mean of the weights: calmer than any one step


@dataclass(frozen=True)
class Spoken:
    """A clip as the decoder learns it: codes (frames, codebooks) and its sound int16 (samples,)."""

    codes: np.ndarray
    sound: np.ndarray


class Decoder:
    """The half of Mimi that makes sound, its optimiser, its critics, and how far it has come."""

    def __init__(self, mimi: nn.Module, steps: int, critics_from: int, device: str = "cpu") -> None:
        self.mimi, self.device = mimi.requires_grad_(False).eval().to(device), device
        self.steps, self.critics_from, self.step = steps, critics_from, 0
        self.parts = nn.ModuleList([mimi.upsample, mimi.decoder_transformer, mimi.decoder]).requires_grad_(True).train()
        self.mean = [p.detach().clone() for p in self.parts.parameters()]
        self.spectra, self.critics = MelDistance().to(device), Critics().to(device)
        self.best = torch.optim.AdamW(self.parts.parameters(), RATE, betas=(0.8, 0.99), weight_decay=1e-3, fused=True)
        self.critics_best = torch.optim.AdamW(self.critics.parameters(), CRITIC_RATE, betas=(0.8, 0.99), fused=True)
        self.lengths: dict[str, float] = {}

    def sound(self, codes: Tensor) -> Tensor:
        """Float (batch, samples) of codes (batch, codebooks, frames)."""
        with torch.no_grad():
            latent = self.mimi.quantizer.decode(codes)
        (rows,) = self.mimi.decoder_transformer(self.mimi.upsample(latent))
        return self.mimi.decoder(rows)[:, 0, : codes.shape[-1] * FRAME]

    def learn(self, codes: Tensor, real: Tensor, cold: Tensor) -> dict[str, float]:
        """One step on codes (batch, codebooks, frames), their sound, and which pieces (batch,) begin amid a clip. The losses."""
        rate = rate_at(self.step, self.steps, RATE)
        for group in self.best.param_groups:
            group["lr"] = rate
        whole = self.sound(codes)
        bare = whole.detach().requires_grad_()
        first = (torch.arange(bare.shape[-1], device=bare.device) < COLD * FRAME) & cold[:, None]
        made = torch.where(first, real, bare)
        losses = {"mel": self.spectra(made, real)}
        told = {}
        if self.step >= self.critics_from:
            at = int(torch.randint(made.shape[-1] - HEARD + 1, ()))
            heard, wanted = made[:, at : at + HEARD], real[:, at : at + HEARD]
            judged = self.critics.judge(heard, wanted)
            self.critics_best.zero_grad(set_to_none=True)
            judged.backward()
            self.critics_best.step()
            if self.step >= self.critics_from + ALONE:
                losses["taken"], losses["alike"] = self.critics.convince(heard, wanted)
            told["judged"] = judged.item()
        self.best.zero_grad(set_to_none=True)
        whole.backward(self._pull(losses, bare))
        norm = torch.nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
        self.best.step()
        share = min(AVERAGE, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.parts.parameters()], 1 - share)
        self.step += 1
        return {"norm": norm.item(), **told, **{name: loss.item() for name, loss in losses.items()}}

    def _pull(self, losses: dict[str, Tensor], sound: Tensor) -> Tensor:
        """The gradient at `sound` of all losses, each as long as PULLS says."""
        total = torch.zeros_like(sound)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, sound, retain_graph=True)
            length = float(gradient.norm())
            self.lengths[name] = STEADY * self.lengths.get(name, length) + (1 - STEADY) * length
            total += gradient * (PULLS[name] / max(self.lengths[name], 1e-9))
        return total

    def save(self, file: Path) -> None:
        """Whole or not at all, so that it can be stopped at any time."""
        modules = {name: getattr(self, name).state_dict() for name in ("parts", "critics", "best", "critics_best")}
        torch.save({**modules, "mean": self.mean, "lengths": self.lengths, "step": self.step}, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def load(self, file: Path) -> None:
        state = torch.load(file, map_location=self.device, weights_only=True)
        for name in ("parts", "critics", "best", "critics_best"):
            getattr(self, name).load_state_dict(state[name])
        self.mean, self.lengths, self.step = state["mean"], state["lengths"], state["step"]

    @torch.no_grad()
    def settle(self) -> None:
        """Let the model be the running mean."""
        for p, mean in zip(self.parts.parameters(), self.mean, strict=True):
            p.copy_(mean)


class Pieces:
    """Pieces of clips, at frame borders."""

    def __init__(self, clips: Sequence[Spoken], seed: int) -> None:
        self.clips = [clip for clip in clips if len(clip.codes) > FRAMES]
        self.chance = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """codes (CLIPS, codebooks, FRAMES), float sound (CLIPS, samples), and which pieces begin amid a clip."""
        codes, sounds, cold = [], [], []
        for _ in range(CLIPS):
            clip = self.clips[int(self.chance.integers(len(self.clips)))]
            at = int(self.chance.integers(0, len(clip.codes) - FRAMES + 1))
            sound = clip.sound[at * FRAME : (at + FRAMES) * FRAME]
            sounds.append(np.pad(sound, (0, FRAMES * FRAME - len(sound))).astype(np.float32) / 32768)
            codes.append(clip.codes[at : at + FRAMES].T.astype(np.int64))
            cold.append(at > 0)
        return torch.from_numpy(np.stack(codes)), torch.from_numpy(np.stack(sounds)), torch.tensor(cold)
