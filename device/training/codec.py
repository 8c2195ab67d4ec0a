"""A small Mimi of our own: moshi's classes with fewer filters and codebooks, trained on the corpus.

This is its first half: the encoder and the codebooks, which learn to keep a mel spectrum, read off them by a small head that
is thrown away. A decoder of waveforms needs ten times as long, and what it has not learnt yet must not shape the codes. With
these fixed it learns by itself (`decoder.py`), while a language model learns the codes. It can stop and go on at any step.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device.training import phones
from device.training.spectra import LogMel
from device.turn import FRAME
from device.voice.mimi import network

# transformers' names, as "codec_config" of a CSM checkpoint has them; what isn't here is as in Kyutai's.
CONFIG: dict[str, Any] = {
    "num_filters": 24, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "head_dim": 64, "intermediate_size": 1024, "sliding_window": 100, "upsample_groups": 256, "codebook_size": 1024,
    "codebook_dim": 128, "vector_quantization_hidden_dimension": 128, "num_quantizers": 8, "num_semantic_quantizers": 1,
    "upsampling_ratios": [4, 5, 6, 8],
}  # fmt: skip
FRAMES, CLIPS = 16, 8  # of 80 ms in one piece of sound, and pieces in a step
RATE, END_RATE, RISE = 5e-4, 3e-5, 100  # the learning rate's top, its end, and steps to the top
UNQUANTISED = 300  # steps before there are codebooks: they begin as the means of what the encoder then says
SAMPLE = 4096  # frames that the codebooks' first means are made of
DROPOUT = 0.25  # share of the steps that use only some of the codebooks
COMMITMENT, MEANING = 0.25, 0.25  # weights of the two other losses beside the spectrum's


class Teacher(nn.Module):
    """Reads the phonemes off the first codebook, so that its codes follow the sounds of speech."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reads = nn.Linear(width, phones.PER_FRAME * phones.COUNT)

    def forward(self, first: Tensor, spoken: Tensor) -> Tensor:
        """Nats a label, of the first codebook's vectors (batch, width, frames) and the labels (batch, frames, PER_FRAME)."""
        read = self.reads(first.transpose(1, 2)).unflatten(-1, (phones.PER_FRAME, phones.COUNT))
        known = spoken != phones.UNKNOWN
        return F.cross_entropy(read[known], spoken[known]) if known.any() else read.sum() * 0


class Reader(nn.Module):
    """Reads the mel spectrum of 40 ms off one row of the decoder's transformer: 25 rows a second, four spectra each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reads = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 4 * LogMel.BANDS))
        self.mel = LogMel()

    def forward(self, latent: Tensor, sound: Tensor) -> Tensor:
        """Mean distance in nepers between what is read off latent (batch, width, rows) and the spectra of sound (batch, samples)."""
        with torch.no_grad():
            real = self.mel(sound)  # (batch, bands, 4 rows)
        read = self.reads(latent.transpose(1, 2)).unflatten(-1, (4, LogMel.BANDS)).flatten(1, 2).transpose(1, 2)
        return (read - real[..., : read.shape[-1]]).abs().mean()


class Codec:
    """The model, its optimiser, and how far it has come."""

    def __init__(self, steps: int) -> None:
        width = CONFIG["hidden_size"]
        self.mimi = network(CONFIG, CONFIG["num_quantizers"], "cpu").train()
        even_out(self.mimi)
        self.teacher, self.reader, self.steps, self.step = Teacher(width), Reader(width), steps, 0
        learning = [*self.mimi.parameters(), *self.teacher.parameters(), *self.reader.parameters()]
        self.best = torch.optim.AdamW(learning, RATE, betas=(0.8, 0.99), weight_decay=1e-3, fused=True)
        self._first: Tensor | None = None
        self.mimi.quantizer.rvq_first.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, result: Any) -> None:
        self._first = result.x

    def learn(self, sound: Tensor, spoken: Tensor) -> dict[str, float]:
        """One step on float sound (batch, samples) and its labels (batch, frames, PER_FRAME). The losses."""
        for group in self.best.param_groups:
            group["lr"] = rate_at(self.step, self.steps)
        latent, losses = self._latent(sound), dict[str, Tensor]()
        if self.step >= UNQUANTISED:
            self.mimi.quantizer.rvq_rest.q_dropout = random.random() < DROPOUT
            result = self.mimi.quantizer(latent, self.mimi.frame_rate)
            assert self._first is not None
            latent = result.x
            losses = {"commitment": COMMITMENT * result.penalty, "meaning": MEANING * self.teacher(self._first, spoken)}
        (rows,) = self.mimi.decoder_transformer(self.mimi.upsample(latent))
        losses["mel"] = self.reader(rows, sound)
        self.best.zero_grad(set_to_none=True)
        sum(losses.values(), torch.zeros(())).backward()
        parameters = [p for group in self.best.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.best.step()
        self.step += 1
        return {"norm": norm.item(), **{name: loss.item() for name, loss in losses.items()}}

    def _latent(self, sound: Tensor) -> Tensor:
        (latent,) = self.mimi.encoder_transformer(self.mimi.encoder(sound[:, None]))
        return self.mimi.downsample(latent)

    @torch.no_grad()
    def begin_codebooks(self, latent: Tensor) -> None:
        """Means of latent (1, width, frames), a codebook after the other: the next one needs the rest that the last one leaves."""
        self.mimi.quantizer.rvq_rest.q_dropout = False
        for _ in range(CONFIG["num_quantizers"]):
            self.mimi.quantizer(latent, self.mimi.frame_rate)

    def save(self, file: Path) -> None:
        """Whole or not at all, so that it can be stopped at any time."""
        parts = {name: getattr(self, name).state_dict() for name in ("mimi", "teacher", "reader", "best")}
        state = {**parts, "step": self.step}
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def load(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        for name in ("mimi", "teacher", "reader", "best"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def rate_at(step: int, steps: int) -> float:
    """The learning rate: up in a line, down in half a cosine."""
    if step < RISE:
        return RATE * (step + 1) / RISE
    return END_RATE + (RATE - END_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


@torch.no_grad()
def even_out(mimi: nn.Module) -> None:
    """Weights with which a signal keeps its size through every layer: with PyTorch's own it ends as a thousandth."""
    for layer in mimi.modules():
        if isinstance(layer, nn.Conv1d):
            layer.weight.normal_(0, (layer.weight.shape[1] * layer.weight.shape[2]) ** -0.5)
        elif isinstance(layer, nn.ConvTranspose1d):  # two strides wide: each sample is the sum of two
            layer.weight.normal_(0, (2 * layer.in_channels / layer.groups) ** -0.5)
        else:
            continue
        if layer.bias is not None:
            layer.bias.zero_()
    mimi.decoder.model[-1].conv.conv.weight.mul_(0.1)  # speech is a tenth of full scale


class Pieces:
    """Pieces of the corpus's sound at frame borders, with the phonemes in them. Clips follow each other without a gap."""

    def __init__(self, sound: np.ndarray, spoken: np.ndarray, seed: int) -> None:
        self.sound, self.spoken, self.chance = sound, spoken, np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Float sound (CLIPS, FRAMES * 1920) and labels (CLIPS, FRAMES, PER_FRAME)."""
        clips, frames = CLIPS, FRAMES
        starts = self.chance.integers(0, len(self.spoken) - frames, clips)
        sound = np.stack([self.sound[at * FRAME : (at + frames) * FRAME] for at in starts]).astype(np.float32) / 32768
        return torch.from_numpy(sound), torch.from_numpy(np.stack([self.spoken[at : at + frames] for at in starts]).astype(np.int64))


def train(sound: np.ndarray, spoken: np.ndarray, out: Path, steps: int, minutes: float, every: int = 100) -> Codec:
    """Learn `sound` and its labels. Go on from `out`/codec.pt until `steps`, or for `minutes`. Losses go to `out`/codec.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    codec, file, ends = Codec(steps), out / "codec.pt", time.monotonic() + 60 * minutes
    if file.is_file():
        codec.load(file)
    torch.manual_seed(codec.step)
    random.seed(codec.step)
    pieces, sums, began = Pieces(sound, spoken, seed=codec.step), dict[str, float](), time.monotonic()
    while codec.step < steps and time.monotonic() < ends:
        if codec.step == UNQUANTISED:
            with torch.no_grad():
                many = [codec._latent(pieces.draw()[0]) for _ in range(SAMPLE // (CLIPS * FRAMES))]
            codec.begin_codebooks(torch.cat([*torch.cat(many)], -1)[None])
        for name, value in codec.learn(*pieces.draw()).items():
            sums[name] = sums.get(name, 0.0) + value
        if codec.step % every == 0 or codec.step == steps:
            line = {"step": codec.step, "seconds": round(time.monotonic() - began, 1)} | {k: round(v / every, 4) for k, v in sums.items()}
            with (out / "codec.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)
            sums.clear()
        if codec.step % (5 * every) == 0:
            codec.save(file)
    codec.save(file)
    return codec
