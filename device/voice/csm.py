"""CSM itself: a backbone that hears rows of text and sound, and a depth decoder that finishes each frame.

Plain PyTorch with caches that are allocated once; no framework runs inside the frame loop, and nothing
in it waits for the host. It does not know whose turn it is, what a text means, or how codes become sound.

A row is one position of the backbone: a text id, or one frame of codes (the sum of its codebooks'
embeddings). Source: Sesame, "Crossing the uncanny valley of conversational voice" and SesameAILabs/csm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device.voice.shape import Rope, Shape, StackShape

Angles = tuple[Tensor, Tensor]  # cosines and sines (rows, 1, head) of the rows' positions


class Matrix(nn.Linear):
    """A linear layer without bias, whose weight comes from a checkpoint: random ones are never made (1.5 s of start)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        pass


class Table(nn.Embedding):
    """An embedding whose weight comes from a checkpoint."""

    def reset_parameters(self) -> None:
        pass


class Norm(nn.Module):
    """Root-mean-square norm, computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width), requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Block(nn.Module):
    """One layer. q, k and v are one matrix, and so are gate and up: fewer and larger reads."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        s = self.shape = shape
        self.attention_norm, self.mlp_norm = Norm(s.width, s.eps), Norm(s.width, s.eps)
        self.qkv = Matrix(s.width, (s.heads + 2 * s.kv_heads) * s.head)
        self.out = Matrix(s.heads * s.head, s.width)
        self.gate_up = Matrix(s.width, 2 * s.ffn)
        self.down = Matrix(s.ffn, s.width)

    def forward(self, x: Tensor, angles: Angles, keys: Tensor, values: Tensor, at: Tensor, end: int, mask: Tensor | None) -> Tensor:
        """x (rows, width) at positions `at` (rows,); keys, values (kv_heads, positions, head): written there, seen up to `end`."""
        query = self.project(x, angles, keys, values, at)
        heard = F.scaled_dot_product_attention(query[None], keys[None, :, :end], values[None, :, :end], attn_mask=mask)[0]
        return self.finish(x, heard)

    def project(self, x: Tensor, angles: Angles, keys: Tensor, values: Tensor, at: Tensor) -> Tensor:
        """What each key head is asked: (kv_heads, heads a key · rows, head). The heads that share a key are stacked: keys are read once."""
        s, rows = self.shape, x.shape[0]
        qkv = self.qkv(self.attention_norm(x)).view(rows, s.heads + 2 * s.kv_heads, s.head)
        turned = rotate(qkv[:, : s.heads + s.kv_heads], angles)
        keys.index_copy_(1, at, turned[:, s.heads :].transpose(0, 1))
        values.index_copy_(1, at, qkv[:, s.heads + s.kv_heads :].transpose(0, 1))
        return turned[:, : s.heads].view(rows, s.kv_heads, -1, s.head).permute(1, 2, 0, 3).reshape(s.kv_heads, -1, s.head)

    def finish(self, x: Tensor, heard: Tensor) -> Tensor:
        """`heard`: the answer, shaped as the query."""
        s, rows = self.shape, x.shape[0]
        x = x + self.out(heard.view(s.kv_heads, -1, rows, s.head).permute(2, 0, 1, 3).reshape(rows, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Stack(nn.Module):
    """The layers of one transformer, their norm, and its cache of keys and values."""

    keys: Tensor
    values: Tensor
    cos: Tensor
    sin: Tensor
    places: Tensor  # every position, for the device to count with

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width, shape.eps)

    def allocate(self, device: str, dtype: torch.dtype) -> None:
        """Caches and angles for every position, once."""
        s = self.shape
        room = (s.layers, s.kv_heads, s.positions, s.head)
        self.keys, self.values = torch.zeros(room, device=device, dtype=dtype), torch.zeros(room, device=device, dtype=dtype)
        angle = torch.outer(torch.arange(s.positions).float(), frequencies(s.rope, s.head))[:, None]
        both = torch.cat([angle, angle], -1)
        self.cos, self.sin = both.cos().to(device, dtype), both.sin().to(device, dtype)
        self.places = torch.arange(s.positions, device=device)

    def forward(self, x: Tensor, start: int) -> Tensor:
        """x (rows, width) enters at `start`, after what is already cached. (rows, width) after the last norm."""
        rows, end = x.shape[0], start + x.shape[0]
        mask = None if rows == 1 else self._mask(rows, start, x)
        return self._through(x, (self.cos[start:end], self.sin[start:end]), self.places[start:end], end, mask)

    def step(self, x: Tensor, position: Tensor, end: int) -> Tensor:
        """One row x (1, width) at `position` (1,), which only the device need know: the first `end` are looked at, the later masked."""
        mask = torch.zeros(1, end, device=x.device, dtype=x.dtype).masked_fill_(self.places[:end] > position, -torch.inf)
        return self._through(x, (self.cos.index_select(0, position), self.sin.index_select(0, position)), position, end, mask)

    def _through(self, x: Tensor, angles: Angles, at: Tensor, end: int, mask: Tensor | None) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(x, angles, self.keys[number], self.values[number], at, end, mask)
        return self.norm(x)

    def _mask(self, rows: int, start: int, like: Tensor) -> Tensor:
        """(heads a key · rows, start + rows): each row sees itself and what came before."""
        hidden = torch.full((rows, rows), -torch.inf, device=like.device, dtype=like.dtype).triu(1)
        mask = F.pad(hidden, (start, 0))
        return mask.repeat(self.shape.heads // self.shape.kv_heads, 1)


def frequencies(rope: Rope, size: int) -> Tensor:
    """(size / 2,) angles a position, in radians. In fp32, as training rounded them: at position 2000 it shows.

    Source: Llama 3.1; torchtune's Llama3ScaledRoPE, with which CSM was trained.
    """
    fast = 1.0 / rope.theta ** (torch.arange(0, size, 2).float() / size)
    if rope.factor == 1:
        return fast
    turns = rope.original * fast / (2 * math.pi)  # over the length that Llama was trained on
    share = ((turns - rope.low) / (rope.high - rope.low)).clamp(0, 1)
    return (1 - share) * fast / rope.factor + share * fast


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotary positions on x (rows, heads, head), the halves of a head being the pairs."""
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


@dataclass
class Sampling:
    """How a code is drawn from its logits. `sounds`: ids from there on can't be drawn (they crash Mimi)."""

    sounds: int
    temperature: float = 0.9
    top_k: int = 50
    greedy: bool = False  # the arg-max of all ids, as transformers' generate(do_sample=False)
    generator: torch.Generator | None = None

    def noise(self, codebooks: int, device: torch.device) -> Tensor:
        """One frame's chance, (codebooks, top_k), drawn at once."""
        room = torch.empty(codebooks, min(self.top_k, self.sounds), device=device)
        return room.exponential_(generator=self.generator)

    def __call__(self, logits: Tensor, noise: Tensor) -> Tensor:
        """(1,) id of logits (1, ids). The exponential race draws from the soft-max without asking the host."""
        if self.greedy:
            return logits.argmax(-1)
        top, ids = logits[0, : self.sounds].float().topk(noise.shape[0])
        return ids[((top / self.temperature).softmax(-1) / noise).argmax(-1, keepdim=True)]


def is_end(codes: Sequence[float]) -> bool:
    """Is this the all-zero frame that ends speech? The last code may differ, as in transformers: it is drawn by chance."""
    return not any(codes[:-1])


class Engine(Protocol):
    """A faster way through the same weights: Csm's calls, each with Csm's meaning."""

    name: str

    def listen(self, rows: Tensor, start: int) -> Tensor: ...

    def frame(self, hidden: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]: ...

    def forced_logits(self, hidden: Tensor, codes: Tensor) -> Tensor: ...


class Csm(nn.Module):
    """The model. Fill its weights with `checkpoint.fill`, then `allocate`."""

    engine: Engine | None = None  # does the work where there is one
    text: Tensor  # (text_ids, width) in host memory, often a mapped file: a turn reads twenty rows of it
    dtype: torch.dtype
    device: torch.device

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        wide, narrow = shape.backbone.width, shape.depth.width
        self.audio_embedding = Table(shape.codebooks * shape.ids, wide)
        self.depth_embedding = self.audio_embedding if shape.tied else Table(shape.codebooks * shape.ids, wide)
        self.backbone, self.depth = Stack(shape.backbone), Stack(shape.depth)
        self.projection = Matrix(wide, narrow)
        self.heads = nn.ModuleList(Matrix(wide if c == 0 else narrow, shape.ids) for c in range(shape.codebooks))

    def allocate(self, device: str, dtype: torch.dtype) -> None:
        self.dtype, self.device = dtype, torch.device(device)
        self.backbone.allocate(device, dtype)
        self.depth.allocate(device, dtype)
        self._offsets = torch.arange(self.shape.codebooks, device=device) * self.shape.ids

    def text_rows(self, ids: list[int]) -> Tensor:
        """(len(ids), width) of text ids."""
        return self.text[torch.tensor(ids, dtype=torch.long)].to(self.device, self.dtype)

    def sound_rows(self, codes: Tensor) -> Tensor:
        """(frames, width) of codes (frames, codebooks)."""
        return self.audio_embedding(codes.to(self.device).long() + self._offsets).sum(1, dtype=torch.float32).to(self.dtype)

    def listen(self, rows: Tensor, start: int) -> Tensor:
        """Rows (n, width) enter the backbone at position `start`. (n, width): what it makes of each."""
        return self.engine.listen(rows, start) if self.engine else self.backbone(rows, start)

    def frame(self, hidden: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """The next frame after `hidden` (1, width): codes (codebooks,), and two float readings (2,).

        The readings: the sum of the largest logits, which is finite unless something broke; and the
        chance of code 0 in codebook 0, without which the frame can't be the all-zero one that ends speech.
        """
        books = self.shape.codebooks
        return self.engine.frame(hidden, sampling) if self.engine else self.draw(hidden, sampling, sampling.noise(books, self.device))

    def draw(self, hidden: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`frame` without an engine, with its chance given: nothing but work for the device."""
        logits = self.heads[0](hidden).float()
        ending = (logits[0] / sampling.temperature).softmax(-1)[0]
        broken = logits.max()
        code = sampling(logits, noise[0])
        codes = [code]
        x = self.depth(self.projection(torch.cat([hidden, self._embed(code, 0)])), 0)[1:]
        for book in range(1, self.shape.codebooks):
            logits = self.heads[book](x).float()
            broken = broken + logits.max()
            code = sampling(logits, noise[book])
            codes.append(code)
            if book + 1 < self.shape.codebooks:
                x = self.depth(self.projection(self._embed(code, book)), book + 1)
        return torch.cat(codes), torch.stack([broken, ending])

    def forced_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits (codebooks, ids) in fp32 of a frame whose codes (codebooks,) are known: one depth pass."""
        return self.engine.forced_logits(hidden, codes) if self.engine else self.force(hidden, codes)

    def force(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """`forced_logits` without an engine."""
        rows = self.depth_embedding(codes.to(self.device).long()[:-1] + self._offsets[:-1]).to(self.dtype)
        x = self.depth(self.projection(torch.cat([hidden, rows])), 0)
        after = [self.heads[book](x[book : book + 1]) for book in range(1, self.shape.codebooks)]
        return torch.cat([self.heads[0](hidden), *after]).float()

    def _embed(self, code: Tensor, book: int) -> Tensor:
        return self.depth_embedding(code + book * self.shape.ids).to(self.dtype)
