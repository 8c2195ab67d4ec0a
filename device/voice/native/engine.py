"""The native engine: a Csm's two calls, listen and frame, in C++ over the Csm's own weights.

It describes the weights where they lie (model.h) and keeps the caches, whose keys stand upright. Activations are
fp32 and, before a product with int8 or int4, 16-bit codes with a scale for each 128.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_void_p
from typing import Any

import torch
from torch import Tensor

from device.voice.csm import Block, Csm, Sampling, Stack, frequencies
from device.voice.native import NativeFault, kernels, library, shorts
from device.voice.plain import VoiceFault
from device.voice.rows import Int4Rows, Int8Rows
from device.voice.shape import Shape, StackShape

FP32, BF16, INT8, INT4 = range(4)  # kernels.h: Format
BLOCK = 64  # kernels.h: positions


class _Matrix(Structure):
    _fields_ = [("format", c_int32), ("rows", c_int32), ("width", c_int32), ("weights", c_void_p), ("scales", c_void_p)]


class _Layer(Structure):
    _fields_ = [(name, _Matrix) for name in ("qkv", "out", "gate_up", "down")] + [("attention_norm", c_void_p), ("mlp_norm", c_void_p)]


class _Stack(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("width", "layers", "heads", "kv_heads", "head", "ffn", "positions", "bf16_cache")),
        ("eps", c_float),
        *((name, c_void_p) for name in ("cos", "sin", "keys", "values")),
        ("plans", POINTER(_Layer)),
        ("norm", c_void_p),
    ]


class _Plan(Structure):
    _fields_ = [
        ("backbone", _Stack),
        ("depth", _Stack),
        ("embedding", _Matrix),
        ("projection", _Matrix),
        ("heads", POINTER(_Matrix)),
        *((name, c_int32) for name in ("codebooks", "ids", "sounds")),
    ]


class _Sampling(Structure):
    _fields_ = [
        ("top_k", c_int32),
        ("greedy", c_int32),
        ("temperature", c_float),
        *((name, c_void_p) for name in ("noise", "forced", "logits")),
    ]


def misfit(shape: Shape, kernel: str) -> str | None:
    """Why these kernels can't run this shape, or None."""
    wide = shorts(kernel)
    for name, stack in (("backbone", shape.backbone), ("depth decoder", shape.depth)):
        for what, size in (("width", stack.width), ("heads' width", stack.heads * stack.head), ("inner width", stack.ffn)):
            if size % wide:
                return f"its {name}'s {what} is {size}, no multiple of {wide}"
        if stack.head % (wide // 2):
            return f"its {name}'s heads have {stack.head} numbers, no multiple of {wide // 2}"
    return None


class Native:
    """An Engine for `csm`, whose weights must stay on the CPU and unchanged.

    Raises NativeFault where the library is missing or the shape does not fit the kernels, VoiceFault out of memory.
    """

    def __init__(self, csm: Csm, threads: int, asked: str = "") -> None:
        """`asked`: the kernels to use, for tests; those of the best instruction set without it."""
        self._library, self.kernels = library(), kernels(asked)
        if why := misfit(csm.shape, self.kernels):
            raise NativeFault(why)
        self.name = f"native {self.kernels}"
        self.shape, self.threads = csm.shape, threads
        self._kept: list[Any] = []  # memory that C++ points at
        self._caches: dict[Stack, tuple[Tensor, Tensor]] = {}
        bf16 = csm.audio_embedding.weight.dtype == torch.bfloat16
        heads = (_Matrix * csm.shape.codebooks)(*(self._matrix(head.weight) for head in csm.heads))
        plan = _Plan(
            self._stack(csm.backbone, bf16),
            self._stack(csm.depth, False),
            self._matrix(csm.depth_embedding.weight),
            self._matrix(csm.projection.weight),
            heads,
            *(csm.shape.codebooks, csm.shape.ids, csm.shape.sounds),
        )
        self._model = self._library.csm_new(ctypes.byref(plan), self.kernels.encode(), threads)
        if not self._model:
            raise VoiceFault(f"CSM's working memory for {threads} threads can't be had: stop other programs, or set voice.threads lower.")
        for stack, caches in self._caches.items():  # in place of PyTorch's, now that nothing can go wrong any more
            stack.keys, stack.values = caches

    def __del__(self) -> None:
        if model := getattr(self, "_model", None):
            self._library.csm_free(c_void_p(model))

    def listen(self, rows: Tensor, start: int) -> Tensor:
        """As Csm.listen; rows and result fp32."""
        rows = rows.float().contiguous()
        out = torch.empty_like(rows)
        end = start + len(rows)
        assert rows.shape[1] == self.shape.backbone.width
        assert 0 <= start <= end <= self.shape.backbone.positions
        self._library.csm_listen(c_void_p(self._model), _at(rows), len(rows), start, _at(out))
        return out

    def frame(self, hidden: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """As Csm.frame."""
        noise = sampling.noise(self.shape.codebooks, hidden.device)
        how = _Sampling(noise.shape[1], sampling.greedy, sampling.temperature, noise.data_ptr(), None, None)
        return self._frame(hidden, how)

    def forced_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """As Csm.forced_logits."""
        forced, logits = codes.to(torch.int32).contiguous(), torch.empty(self.shape.codebooks, self.shape.ids)
        self._frame(hidden, _Sampling(1, 0, 1.0, None, forced.data_ptr(), logits.data_ptr()))
        return logits

    def _frame(self, hidden: Tensor, how: _Sampling) -> tuple[Tensor, Tensor]:
        hidden = hidden.float().contiguous()
        codes, readings = torch.empty(self.shape.codebooks, dtype=torch.int32), torch.empty(2)
        assert hidden.numel() == self.shape.backbone.width
        self._library.csm_frame(c_void_p(self._model), _at(hidden), ctypes.byref(how), _at(codes), _at(readings))
        return codes.long(), readings

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _matrix(self, weight: Tensor) -> _Matrix:
        rows, width = weight.shape
        weight = weight.data  # a parameter's own class
        if isinstance(weight, Int4Rows):
            return _Matrix(INT4, rows, width, self._keep(weight.words.contiguous()), self._keep(weight.scale.bfloat16().contiguous()))
        if isinstance(weight, Int8Rows):
            return _Matrix(INT8, rows, width, self._keep(weight.codes.contiguous()), self._keep(weight.scale.float().contiguous()))
        if type(weight) is not Tensor or weight.dtype not in (torch.float32, torch.bfloat16):
            raise NativeFault(f"it has weights of the kind {type(weight).__name__}, {weight.dtype}")
        return _Matrix(BF16 if weight.dtype == torch.bfloat16 else FP32, rows, width, self._keep(weight.contiguous()), None)

    def _stack(self, stack: Stack, bf16: bool) -> _Stack:
        """With caches of its own, in the order that kernels.h gives."""
        s = stack.shape
        room, dtype = (s.layers, s.kv_heads, -(-s.positions // BLOCK) * BLOCK * s.head), torch.bfloat16 if bf16 else torch.float32
        keys, values = self._caches[stack] = torch.zeros(room, dtype=dtype), torch.zeros(room, dtype=dtype)
        layers = (_Layer * s.layers)(*(self._layer(block) for block in stack.layers))  # type: ignore[arg-type]
        self._kept.append(layers)
        cos, sin = _angles(s)
        tables = (self._keep(table) for table in (cos, sin, keys, values))
        sizes = (s.width, s.layers, s.heads, s.kv_heads, s.head, s.ffn, s.positions, bf16)
        return _Stack(*sizes, s.eps, *tables, layers, self._keep(stack.norm.weight.float().contiguous()))

    def _layer(self, block: Block) -> _Layer:
        matrices = (self._matrix(part.weight) for part in (block.qkv, block.out, block.gate_up, block.down))
        return _Layer(*matrices, *(self._keep(norm.weight.float().contiguous()) for norm in (block.attention_norm, block.mlp_norm)))


def _angles(s: StackShape) -> tuple[Tensor, Tensor]:
    """Cosines and sines (positions, head / 2) in fp32."""
    angle = torch.outer(torch.arange(s.positions).float(), frequencies(s.rope, s.head))
    return angle.cos().contiguous(), angle.sin().contiguous()


def _at(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())
