"""Mimi's decoder, a frame at a time, on a CPU: the weights are moshi's, the steps are our own.

A frame reads every weight once (160 MB) for little arithmetic, so it is the products that cost, and each is laid out
for reading its weight in order. moshi's own modules are made for long sound and for CUDA graphs: the same frame took
them twice as long. They stay what loads and names the weights, what a GPU runs, and what the tests compare with.

Everything here is rows: (steps, channels), float32. It does not know how codes come about, or sound is heard.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from moshi.modules.conv import StreamingConv1d, StreamingConvTranspose1d
from moshi.modules.seanet import SEANetResnetBlock
from torch import Tensor

STEPS = 2  # positions of the transformers in a frame: 25 a second
FEW = 4  # rows up to which a product is its weight's reading


def suits(model: Any) -> bool:
    """Whether moshi's `model` decodes here: on a CPU, in float32. Elsewhere moshi's own modules do."""
    weight = model.upsample.convtr.convtr.convtr.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32


class FrameDecoder:
    """One stream of codes to sound. Not for two threads at once; call it in inference mode."""

    def __init__(self, model: Any) -> None:
        """`model`: moshi's MimiModel. Its decoder's convolutions are laid out anew, in place: their values stay."""
        kinds = (model.quantizer.rvq_first, model.quantizer.rvq_rest)
        self._books = [[layer.embedding for layer in kind.vq.layers] for kind in kinds]
        self._projections = [kind.output_proj.weight[..., 0] for kind in kinds]
        # Depthwise, a kernel of two strides: each step is a part of this frame and a part of the last one.
        now, before = model.upsample.convtr.convtr.convtr.weight[:, 0].T.contiguous().split(STEPS)
        self._now, self._before = now, before  # (STEPS, width)
        self._last = torch.zeros(now.shape[1])
        self._transformer = _Transformer(model.decoder_transformer.transformer)
        self._layers: list[_Conv | _Upward | _Residual] = []
        rows = STEPS
        for module in model.decoder.model:
            if isinstance(module, StreamingConv1d):
                self._layers.append(_Conv(module, rows, elu=bool(self._layers)))
            elif isinstance(module, StreamingConvTranspose1d):
                self._layers.append(_Upward(module, rows))
                rows *= module._stride
            elif isinstance(module, SEANetResnetBlock):
                self._layers.append(_Residual(module, rows))
            else:  # it is done by the convolution behind it
                assert isinstance(module, torch.nn.ELU), module

    def start(self) -> None:
        """Forget what was decoded before."""
        self._last.zero_()
        self._transformer.start()
        for layer in self._layers:
            layer.start()

    def step(self, codes: Tensor) -> Tensor:
        """The next frame's samples (1920,), to be read before the next step, of long `codes` (codebooks,).

        Raises IndexError for an id that its codebook has not.
        """
        latent = self._latent(codes.tolist())
        x = torch.addcmul(self._last * self._before, latent, self._now)
        self._last = latent
        x = self._transformer.step(x)
        for layer in self._layers:
            x = layer.step(x)
        return x.view(-1)

    def _latent(self, ids: list[int]) -> Tensor:
        """(width,): what the codes stand for, all codebooks of one kind added before they are projected."""
        if min(ids) < 0:  # or Python counts from the end
            raise IndexError(f"{min(ids)} is no code.")
        rows = iter(ids)
        points = [torch.stack([book[next(rows)] for book in books]).sum(0) for books in self._books]
        meaning, sound = map(torch.mv, self._projections, points)
        return meaning + sound


def _product(weight: Tensor, x: Tensor) -> Tensor:
    """(rows, out) of weight (out, in) and x (rows, in).

    For two rows MKL reads a weight on the left 1.3 to 3 times as fast as F.linear does, for many there's no difference.
    """
    return (weight @ x.T).T.contiguous() if len(x) <= FEW else F.linear(x, weight)


class _Transformer:
    """moshi's layers with one cache each, and what they share worked out once a frame."""

    def __init__(self, net: Any) -> None:
        self._layers = list(net.layers)
        attention = net.layers[0].self_attn
        self._heads, self._kv_heads = attention.num_heads, attention.num_heads // attention.kv_repeat
        self._head = attention.embed_dim // attention.num_heads
        self._context = attention.context
        # moshi's formula, in moshi's order of rounding: far positions turn by large angles.
        self._turns = torch.exp(torch.arange(self._head // 2).float() * (-math.log(net.rope.max_period) * 2 / self._head))
        # The first of a frame's positions looks back as far as the second has forgotten. A frame's places are neighbours.
        places = -(-(self._context + STEPS - 1) // STEPS) * STEPS
        self._cache = torch.zeros(len(net.layers), 2, self._kv_heads, places, self._head)
        self._places = torch.arange(places)
        self.start()

    def start(self) -> None:
        self._position = 0

    def step(self, x: Tensor) -> Tensor:
        """(STEPS, width) of x (STEPS, width)."""
        places = len(self._places)
        at = self._position % places
        positions = torch.arange(self._position, self._position + STEPS)
        used = min(self._position + STEPS, places)  # no place is read that wasn't written
        behind = positions[:, None] - (positions[-1] - (at + STEPS - 1 - self._places[:used]) % places)
        bias = torch.zeros(STEPS, used).masked_fill_((behind < 0) | (behind >= self._context), -math.inf)
        bias = bias.repeat(self._heads // self._kv_heads, 1)
        angle = positions[:, None] * self._turns
        turn = torch.complex(angle.cos(), angle.sin())[:, None]
        for layer, cache in zip(self._layers, self._cache, strict=True):
            mixed = self._attend(layer.self_attn, layer.norm1(x), cache, at, bias, turn)
            x = torch.addcmul(x, layer.layer_scale_1.scale, mixed)
            inner = F.gelu(_product(layer.linear1.weight, layer.norm2(x)))
            x = torch.addcmul(x, layer.layer_scale_2.scale, _product(layer.linear2.weight, inner))
        self._position += STEPS
        return x

    def _attend(self, attention: Any, x: Tensor, cache: Tensor, at: int, bias: Tensor, turn: Tensor) -> Tensor:
        """(STEPS, width) of x; its keys and values go to `cache` (2, heads, places, head) from place `at` on."""
        rows = _product(attention.in_projs[0].weight, x).view(STEPS, -1, self._head)
        turned = torch.view_as_complex(rows[:, : self._heads + self._kv_heads].unflatten(-1, (-1, 2)))
        turned.mul_(turn)
        queries, entries = rows[:, : self._heads], rows[:, self._heads :].unflatten(1, (2, -1))
        cache[:, :, at : at + STEPS] = entries.permute(1, 2, 0, 3)
        keys, values = cache[:, :, : bias.shape[1]]
        # Heads that share keys are more rows of the same product.
        queries = queries.unflatten(1, (self._kv_heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)
        weights = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=self._head**-0.5).softmax(-1)
        mixed = (weights @ values).view(self._heads, STEPS, self._head).transpose(0, 1)
        return _product(attention.out_projs[0].weight, mixed.reshape(STEPS, -1))


class _Conv:
    """A causal convolution with a stride of 1: one product with its inputs laid side by side."""

    def __init__(self, module: Any, rows: int, elu: bool) -> None:
        """For `rows` steps at a time, which pass ELU before if `elu`."""
        conv = module.conv.conv
        out, width, kernel = conv.weight.shape
        assert (conv.stride, conv.groups) == ((1,), 1), conv
        weight = conv.weight.permute(0, 2, 1).contiguous()
        conv.weight = torch.nn.Parameter(weight.permute(0, 2, 1), requires_grad=False)  # the same memory
        self._weight, self._bias, self._elu = weight.view(out, -1), conv.bias, elu
        self._past = module._effective_kernel_size - 1
        self._buffer = torch.zeros(self._past + rows, width)  # what came before, then what comes in
        windows = self._buffer.as_strided((rows, kernel, width), (width, conv.dilation[0] * width, 1))
        self._windows = windows if kernel > 1 else None
        self._columns = torch.empty(rows, kernel, width) if kernel > 1 else self._buffer
        self._out = torch.empty(rows, out)

    def start(self) -> None:
        self._buffer[: self._past].zero_()

    def step(self, x: Tensor) -> Tensor:
        """(rows, out) of x (rows, in), to be read before the next step."""
        here = self._buffer[self._past :]
        torch.ops.aten.elu.out(x, out=here) if self._elu else here.copy_(x)
        if self._windows is not None:
            self._columns.copy_(self._windows)
            self._buffer[: self._past] = self._buffer[len(x) :].clone()  # the two may overlap
        columns = self._columns.view(len(x), -1)
        if len(x) <= FEW:
            return _product(self._weight, columns).add_(self._bias)
        return torch.addmm(self._bias, columns, self._weight.T, out=self._out)


class _Upward:
    """ELU and a transposed convolution whose kernel is two strides long: a product with this step and one with the last."""

    def __init__(self, module: Any, rows: int) -> None:
        conv, stride = module.convtr.convtr, module._stride
        width, self._channels, kernel = conv.weight.shape
        assert (kernel, conv.groups) == (2 * stride, 1), conv
        # (kernel, out, in): as a product's result it is steps after steps already.
        weight = conv.weight.permute(2, 1, 0).contiguous()
        conv.weight = torch.nn.Parameter(weight.permute(2, 1, 0), requires_grad=False)  # the same memory
        self._now, self._before = weight.view(2, -1, width)
        self._bias = conv.bias.repeat(stride)
        self._buffer = torch.zeros(1 + rows, width)
        self._out = torch.empty(rows, len(self._now))

    def start(self) -> None:
        self._buffer[0].zero_()

    def step(self, x: Tensor) -> Tensor:
        """(rows * stride, out) of x (rows, in), to be read before the next step."""
        buffer = self._buffer
        torch.ops.aten.elu.out(x, out=buffer[1:])
        if len(x) <= FEW:
            out = torch.addmm(self._now @ buffer[1:].T, self._before, buffer[:-1].T).T + self._bias
        else:
            out = torch.addmm(self._bias, buffer[1:], self._now.T, out=self._out).addmm_(buffer[:-1], self._before.T)
        buffer[0] = buffer[-1]
        return out.reshape(-1, self._channels)


class _Residual:
    """A residual block."""

    def __init__(self, module: Any, rows: int) -> None:
        convs = [part for part in module.block if isinstance(part, StreamingConv1d)]
        self._block = [_Conv(conv, rows, elu=True) for conv in convs]
        own = isinstance(module.shortcut, StreamingConv1d)
        self._shortcut = _Conv(module.shortcut, rows, elu=False) if own else None

    def start(self) -> None:
        for conv in self._block:
            conv.start()

    def step(self, x: Tensor) -> Tensor:
        """(rows, channels) of x alike, to be read before the next step."""
        short = self._shortcut.step(x) if self._shortcut is not None else x
        for conv in self._block:
            x = conv.step(x)
        return x.add_(short)
