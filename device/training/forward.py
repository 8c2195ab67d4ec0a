"""CSM's own layers, run over whole sequences at once and with gradients: the same weights, the same numbers, no cache.

Beside `Csm.listen` and `Csm.force`, which tests compare it with. It knows no optimiser and no data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from device.voice.csm import Angles, Block, Csm, Stack, frequencies, rotate


def through(stack: Stack, x: Tensor, remember: bool = True, watch: Callable[[int, Tensor], None] | None = None) -> Tensor:
    """x (batch, rows, width) through all layers and the last norm. Not `remember`: layers are run again for their gradients.

    `watch` is shown each layer's number and what goes into it.
    """
    angles = _angles(stack, x)
    for number, layer in enumerate(stack.layers):
        if watch:
            watch(number, x)
        x = _layer(layer, x, angles) if remember else checkpoint(_layer, layer, x, angles, use_reentrant=False)
    return stack.norm(x)


def _angles(stack: Stack, x: Tensor) -> Angles:
    turn = torch.outer(torch.arange(x.shape[1], device=x.device).float(), frequencies(stack.shape.rope, stack.shape.head).to(x.device))[
        :, None
    ]
    both = torch.cat([turn, turn], -1)
    return both.cos().to(x.dtype), both.sin().to(x.dtype)


def _layer(layer: Block, x: Tensor, angles: Angles) -> Tensor:
    s = layer.shape
    qkv = layer.qkv(layer.attention_norm(x)).unflatten(-1, (s.heads + 2 * s.kv_heads, s.head))
    turned = rotate(qkv[..., : s.heads + s.kv_heads, :], angles)
    query, keys = turned[..., : s.heads, :].transpose(1, 2), turned[..., s.heads :, :].transpose(1, 2)
    values = qkv[..., s.heads + s.kv_heads :, :].transpose(1, 2)
    shared = s.heads // s.kv_heads
    if shared > 1:
        keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
    kind = values.dtype  # autocast's: turning made the others float32
    heard = F.scaled_dot_product_attention(query.to(kind), keys.to(kind), values, is_causal=True)
    x = x + layer.out(heard.transpose(1, 2).flatten(2))
    gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
    return x + layer.down(F.silu(gate) * up)


def gaze(stack: Stack, layer: Block, x: Tensor) -> Tensor:
    """(batch, rows, rows) log-probabilities: where the first head of `layer` looks from each row of its input x (batch, rows, width)."""
    s = layer.shape
    qkv = layer.qkv(layer.attention_norm(x)).unflatten(-1, (s.heads + 2 * s.kv_heads, s.head))
    turned = rotate(qkv[..., [0, s.heads], :], _angles(stack, x)).float()
    seen = turned[..., 0, :] @ turned[..., 1, :].transpose(1, 2) * s.head**-0.5
    later = torch.ones(seen.shape[1:], dtype=torch.bool, device=seen.device).triu(1)
    return seen.masked_fill(later, -1e9).log_softmax(-1)


def rows(csm: Csm, ids: Tensor, codes: Tensor) -> Tensor:
    """(batch, rows, width) of ids (batch, rows), -1 where a row is sound, and codes (batch, rows, codebooks), unread where it is text."""
    spoken = ids < 0
    text = F.embedding(ids.clamp(min=0), csm.text)
    sound = csm.audio_embedding(codes + _offsets(csm, codes)).sum(-2)
    return torch.where(spoken[..., None], sound.to(text.dtype), text)


def frame_logits(csm: Csm, hidden: Tensor, codes: Tensor, remember: bool = True) -> Tensor:
    """(frames, codebooks - 1, ids): of codebooks 1 on, for hidden (frames, width) and the true codes (frames, codebooks)."""
    before = csm.depth_embedding((codes + _offsets(csm, codes))[:, :-1]).to(hidden.dtype)
    x = through(csm.depth, csm.projection(torch.cat([hidden[:, None], before], 1)), remember)
    return torch.stack([csm.heads[book](x[:, book]) for book in range(1, csm.shape.codebooks)], 1)


def _offsets(csm: Csm, codes: Tensor) -> Tensor:
    return torch.arange(csm.shape.codebooks, device=codes.device) * csm.shape.ids
