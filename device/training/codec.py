"""A small Mimi of our own: moshi's classes with fewer filters and codebooks, trained on the corpus.

This is its middle: the codebooks. A network of waveforms learns slowly (a step of ten seconds of sound takes one fifth of a
second), and what is to be kept of speech is in its spectrum. So the codebooks are learnt between two small networks on mel
spectra, fifty times as fast: one that hears a frame's spectra as Mimi's latent, and one that reads them off what the codebooks
keep. With the codes fixed, Mimi's own encoder learns to say that latent (`encoder.py`) and its decoder to sound it
(`decoder.py`), while a language model learns the codes. It can stop and go on at any step.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device.training import phones
from device.training.halves import rate_at
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
SPECTRA = FRAME // LogMel.STEP  # of a frame
FRAMES, CLIPS = 64, 24  # of 80 ms in one piece of sound, and pieces in a step
RATE = 1e-3
UNQUANTISED = 300  # steps before there are codebooks: they begin as the means of what the ear then says
MANY = 1000  # frames whose spectra are made at once
SAMPLE = 8192  # frames that the codebooks' first means are made of
# Which of the codebooks a step uses, each as often as it is listed: a language model is surest of the first two, so they alone
# should be understood.
BOOKS = (8, 8, 8, 4, 2)
COMMITMENT, MEANING = 0.25, 0.3  # weights of the two other losses beside the spectrum's
MIDDLE, SPREAD = -4.5, 2.0  # of log-mel spectra, about


class Past(nn.Module):
    """A convolution over frames that sees this one and the two before it."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width_in, width_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (2, 0)))


class Ear(nn.Module):
    """Mel spectra of each frame -> Mimi's latent."""

    def __init__(self, width: int, inner: int = 768) -> None:
        super().__init__()
        self.mel = LogMel()
        self.hears = nn.Sequential(
            Past(SPECTRA * LogMel.BANDS, inner), nn.GELU(), nn.Conv1d(inner, inner, 1), nn.GELU(), nn.Conv1d(inner, width, 1)
        )  # fmt: skip

    @torch.no_grad()
    def spectra(self, sound: Tensor) -> Tensor:
        """(batch, SPECTRA * bands, frames), of about -2 to 2, of float sound (batch, samples), whole frames."""
        mel = (self.mel(sound) - MIDDLE) / SPREAD
        return mel.unflatten(-1, (-1, SPECTRA)).permute(0, 3, 1, 2).flatten(1, 2)

    def forward(self, spectra: Tensor) -> Tensor:
        """(batch, width, frames)."""
        return self.hears(spectra)


class Reader(nn.Module):
    """What the codebooks keep -> mel spectra of each frame."""

    def __init__(self, width: int, inner: int = 768) -> None:
        super().__init__()
        self.reads = nn.Sequential(
            Past(width, inner), nn.GELU(), nn.Conv1d(inner, inner, 1), nn.GELU(), nn.Conv1d(inner, SPECTRA * LogMel.BANDS, 1)
        )  # fmt: skip

    def forward(self, latent: Tensor, spectra: Tensor) -> Tensor:
        """Mean distance in nepers between what is read off latent (batch, width, frames) and the ear's spectra."""
        return SPREAD * (self.reads(latent) - spectra).abs().mean()


class Teacher(nn.Module):
    """Reads the phonemes off the first codebooks, so that their codes follow the sounds of speech."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reads = nn.Linear(width, phones.PER_FRAME * phones.COUNT)

    def forward(self, first: Tensor, spoken: Tensor) -> Tensor:
        """Nats a label, of the codebooks' vectors (batch, width, frames) and the labels (batch, frames, PER_FRAME)."""
        read = self.reads(first.transpose(1, 2)).unflatten(-1, (phones.PER_FRAME, phones.COUNT))
        known = spoken != phones.UNKNOWN
        return F.cross_entropy(read[known], spoken[known]) if known.any() else read.sum() * 0


class Codec:
    """The codebooks and the networks around them, their optimiser, and how far they have come."""

    def __init__(self, steps: int, device: str = "cpu") -> None:
        width, self.device = CONFIG["hidden_size"], device
        self.mimi = network(CONFIG, CONFIG["num_quantizers"], device).train()
        even_out(self.mimi)
        self.ear, self.reader, self.teacher = Ear(width).to(device), Reader(width).to(device), Teacher(width).to(device)
        self.steps, self.step = steps, 0
        parts = (self.ear, self.reader, self.teacher, self.mimi.quantizer)
        learning = [p for part in parts for p in part.parameters()]
        self.best = torch.optim.AdamW(learning, RATE, betas=(0.8, 0.99), weight_decay=1e-3, fused=True)

    def _quantised(self, latent: Tensor, books: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the first codebook keeps of `latent` (batch, width, frames), what the first two do, what `books` do; the commitment."""
        first, rest = self.mimi.quantizer.rvq_first(latent, self.mimi.frame_rate), self.mimi.quantizer.rvq_rest
        wanted = rest.input_proj(latent)
        kept, codes, far, _ = rest.vq(wanted, n_q=books - 1)
        second = wanted + (rest.vq.layers[0].decode(codes[0]) - wanted).detach()
        penalty = (first.penalty + (books - 1) * far.mean()) / books
        return first.x, first.x + rest.output_proj(second), first.x + rest.output_proj(kept), penalty

    def learn(self, spectra: Tensor, spoken: Tensor) -> dict[str, float]:
        """One step on the ear's spectra (batch, SPECTRA * bands, frames) and their labels (batch, frames, PER_FRAME). The losses."""
        for group in self.best.param_groups:
            group["lr"] = rate_at(self.step, self.steps, RATE)
        latent, losses = self.ear(spectra), dict[str, Tensor]()
        if self.step >= UNQUANTISED:
            first, two, latent, penalty = self._quantised(latent, random.choice(BOOKS))
            meaning = (self.teacher(first, spoken) + self.teacher(two, spoken)) / 2
            losses = {"commitment": COMMITMENT * penalty, "meaning": MEANING * meaning}
        losses["mel"] = self.reader(latent, spectra)
        self.best.zero_grad(set_to_none=True)
        torch.stack([*losses.values()]).sum().backward()
        parameters = [p for group in self.best.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.best.step()
        self.step += 1
        return {"norm": norm.item(), **{name: loss.item() for name, loss in losses.items()}}

    @torch.no_grad()
    def begin_codebooks(self, latent: Tensor) -> None:
        """Means of latent (1, width, frames), a codebook after the other: the next one needs the rest that the last one leaves."""
        self.mimi.quantizer.rvq_rest.q_dropout = False
        for _ in range(CONFIG["num_quantizers"]):
            self.mimi.quantizer(latent, self.mimi.frame_rate)

    def save(self, file: Path) -> None:
        """Whole or not at all, so that it can be stopped at any time."""
        parts = {name: getattr(self, name).state_dict() for name in ("mimi", "ear", "reader", "teacher", "best")}
        state = {**parts, "step": self.step}
        torch.save(state, file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)

    def load(self, file: Path) -> None:
        state = torch.load(file, map_location=self.device, weights_only=True)
        for name in ("mimi", "ear", "reader", "teacher", "best"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


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
    """Pieces of the corpus's spectra, with the phonemes in them. Clips follow each other without a gap."""

    def __init__(self, spectra: np.ndarray, spoken: np.ndarray, seed: int) -> None:
        self.spectra, self.spoken, self.chance = spectra, spoken, np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Spectra (CLIPS, SPECTRA * bands, FRAMES) and labels (CLIPS, FRAMES, PER_FRAME)."""
        starts = self.chance.integers(0, len(self.spoken) - FRAMES, CLIPS)
        spectra, spoken = (np.stack([whole[at : at + FRAMES] for at in starts]) for whole in (self.spectra, self.spoken))
        return torch.from_numpy(spectra).transpose(1, 2).float(), torch.from_numpy(spoken.astype(np.int64))


def heard(sound: np.ndarray, file: Path, device: str = "cpu") -> np.ndarray:
    """float16 (frames, SPECTRA * bands): the ear's spectra of all int16 `sound`, made once and kept in `file`.

    To make them anew for each piece is a third of a step.
    """
    if not file.is_file():
        ear, whole = Ear(1).to(device), np.pad(sound[: len(sound) // FRAME * FRAME], FRAME)  # a frame before and after
        parts = []
        for at in range(FRAME, len(whole) - FRAME, FRAME * MANY):
            part = torch.from_numpy(whole[at - FRAME : at + (MANY + 1) * FRAME].astype(np.float32) / 32768).to(device)
            parts.append(ear.spectra(part[None])[0, :, 1:-1].T.half().cpu().numpy())
        with file.with_suffix(".new").open("wb") as out:
            np.save(out, np.concatenate(parts))
        file.with_suffix(".new").replace(file)
    return np.asarray(np.load(file, mmap_mode="r"))


def train(
    sound: np.ndarray, spoken: np.ndarray, out: Path, steps: int, minutes: float, every: int = 100, device: str = "cpu"
) -> Codec:
    """Learn `sound` and its labels. Go on from `out`/codec.pt until `steps`, or for `minutes`. Losses go to `out`/codec.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    codec, file, ends = Codec(steps, device), out / "codec.pt", time.monotonic() + 60 * minutes
    if file.is_file():
        codec.load(file)
    torch.manual_seed(codec.step)
    random.seed(codec.step)
    pieces = Pieces(heard(sound, out / "spectra.npy", device), spoken, seed=codec.step)
    sums, began = dict[str, float](), time.monotonic()

    def draw() -> list[Tensor]:
        return [part.to(device) for part in pieces.draw()]

    while codec.step < steps and time.monotonic() < ends:
        if codec.step == UNQUANTISED:
            with torch.no_grad():
                many = [codec.ear(draw()[0]) for _ in range(-(-SAMPLE // (CLIPS * FRAMES)))]
            codec.begin_codebooks(torch.cat([*torch.cat(many)], -1)[None])
        for name, value in codec.learn(*draw()).items():
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
