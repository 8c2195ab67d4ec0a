"""CSM's own layers, run over whole sequences at once and with gradients: the same weights, the same numbers, no cache.

Beside `Csm.listen` and `Csm.force`, which tests compare it with. It knows no optimiser and no data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from device.voice.csm import Angles, Block, Csm, Stack, frequencies, rotate

Layer = Callable[[Block, Tensor, Angles], Tensor]

# Rows up to which attention is written out on a CPU: the gradients of torch's own take a fifth of CSM-small's training step there, these
# nearly nothing. But they keep every share, rows x rows.
EXPLICIT = 1024


def through(
    stack: Stack, x: Tensor, remember: bool = True, fused: bool = False, watch: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """x (batch, rows, width) through all layers and the last norm. Not `remember`: layers are run again for their gradients.

    `fused`: by torch.compile, which the first steps wait a minute for. `watch` is shown each layer's number and what goes into it.
    """
    angles, run = _angles(stack, x), _fused() if fused else _layer
    for number, layer in enumerate(stack.layers):
        if watch:
            watch(number, x)
        x = run(layer, x, angles) if remember else checkpoint(run, layer, x, angles, use_reentrant=False)
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
    turned = rotate(qkv[..., : s.heads + s.kv_heads, :], angles).to(qkv.dtype)  # autocast's: turning made it float32
    query, keys = turned[..., : s.heads, :].transpose(1, 2), turned[..., s.heads :, :].transpose(1, 2)
    values = qkv[..., s.heads + s.kv_heads :, :].transpose(1, 2)
    x = x + layer.out(_attention(query, keys, values).transpose(1, 2).flatten(2))
    gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
    return x + layer.down(F.silu(gate) * up)


@functools.cache
def _fused() -> Layer:
    return torch.compile(_layer, dynamic=True)


def _attention(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(batch, heads, rows, head) of a query of that size; keys, values (batch, kv_heads, rows, head): each row sees itself and before."""
    batch, heads, rows, head = query.shape
    shared = heads // keys.shape[1]
    if query.is_cuda or rows > EXPLICIT:
        if shared > 1:
            keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
        return F.scaled_dot_product_attention(query, keys, values, is_causal=True)
    # Heads that share a key are stacked.
    asked = query.reshape(-1, shared * rows, head)
    seen = torch.bmm(asked, keys.reshape(-1, rows, head).transpose(1, 2)).view(-1, shared, rows, rows) * head**-0.5
    later = torch.ones(rows, rows, dtype=torch.bool, device=query.device).triu(1)
    share = seen.float().masked_fill(later, -torch.inf).softmax(-1).to(values.dtype)
    return torch.bmm(share.view(-1, shared * rows, rows), values.reshape(-1, rows, head)).view(batch, heads, rows, head)


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


def frame_logits(csm: Csm, hidden: Tensor, codes: Tensor, remember: bool = True, fused: bool = False) -> Tensor:
    """(frames, codebooks - 1, ids): of codebooks 1 on, for hidden (frames, width) and the true codes (frames, codebooks)."""
    before = csm.depth_embedding((codes + _offsets(csm, codes))[:, :-1]).to(hidden.dtype)
    x = through(csm.depth, csm.projection(torch.cat([hidden[:, None], before], 1)), remember, fused)
    return torch.stack([csm.heads[book](x[:, book]) for book in range(1, csm.shape.codebooks)], 1)


def _offsets(csm: Csm, codes: Tensor) -> Tensor:
    return torch.arange(csm.shape.codebooks, device=codes.device) * csm.shape.ids
