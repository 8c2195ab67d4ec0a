"""Weights of 8 and 4 bits, row after row, for F.linear and F.embedding on a CPU.

They keep torchao's codes and scales plainly, so that the native engine reads them where they lie; PyTorch's path
calls ATen's kernels with them. They know no model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP = 128  # weights that share an int4 scale
_COPIES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default, torch.ops.aten.clone.default)


class Int8Rows(torch.Tensor):  # type: ignore[misc]
    """An int8 weight (rows, width) with one scale a row, for F.linear and F.embedding.

    torchao's own Int8Tensor converts the whole matrix at each product unless it is compiled (1.6 ms for
    3072x2048, where this takes 0.24 and bf16 0.7: two AVX2 cores, one row), and the whole table at each
    look-up (0.6 to 1.2 s). This keeps its codes and calls ATen's kernel.
    """

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Int8Rows:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype, device=codes.device)

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        """codes int8 (rows, width); scale (rows,) in the dtype of the activations."""
        self.codes, self.scale = codes, scale

    def __repr__(self) -> str:
        return f"Int8Rows({tuple(self.shape)}, {self.scale.dtype}, {self.codes.device})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> Int8Rows:
        return Int8Rows(inner["codes"], inner["scale"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        if func is F.embedding:
            ids, table = args[:2]
            return F.embedding(ids, table.codes).to(table.scale.dtype) * table.scale[ids][..., None]
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _COPIES:
            return cls(func(args[0].codes), func(args[0].scale))
        if func is torch.ops.aten._to_copy.default:  # to another device; the codes stay int8
            device, dtype = (kwargs or {}).get("device"), (kwargs or {}).get("dtype")
            return cls(args[0].codes.to(device=device), args[0].scale.to(device=device, dtype=dtype))
        raise NotImplementedError(f"{func} of an Int8Rows")


torch.serialization.add_safe_globals([Int8Rows])


def _linear(x: Tensor, weight: Int8Rows, bias: None = None) -> Tensor:
    """x (…, width) -> (…, rows). ATen's kernel loads aligned vectors: a view at an odd offset would end the process."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    if not torch.compiler.is_compiling() and rows.data_ptr() % 64:
        rows = rows.clone()
    return torch._weight_int8pack_mm(rows, weight.codes, weight.scale).view(*x.shape[:-1], -1)


class Int4Rows(torch.Tensor):  # type: ignore[misc]
    """An int4 weight (rows, width) with one scale a group of 128 along the width, symmetric: codes from -8 to 7.

    A group is 32 words of 16 bits; word i holds the numbers i, 32 + i, 64 + i and 96 + i, each plus 8, lowest bits
    first: one shift and one mask unpack a whole vector of any instruction set (native/kernels.h).
    """

    _tiles: tuple[Tensor, Tensor] | None = None  # the same in ATen's layout, made when PyTorch's path first needs it

    @staticmethod
    def __new__(cls, words: Tensor, scale: Tensor) -> Int4Rows:
        return torch.Tensor._make_wrapper_subclass(cls, (len(words), 4 * words.shape[1]), dtype=scale.dtype, device=words.device)

    def __init__(self, words: Tensor, scale: Tensor) -> None:
        """words int16 (rows, width / 4); scale (rows, width / 128) in the dtype of the activations."""
        self.words, self.scale = words, scale

    @staticmethod
    def pack(codes: Tensor, scale: Tensor) -> Int4Rows:
        """From codes int8 (rows, width), -8 to 7."""
        nibbles = codes.to(torch.int32).view(len(codes), -1, 4, 32) + 8
        words = nibbles[:, :, 0] | nibbles[:, :, 1] << 4 | nibbles[:, :, 2] << 8 | nibbles[:, :, 3] << 12
        return Int4Rows(words.to(torch.int16).view(len(codes), -1), scale)

    def codes(self) -> Tensor:
        """int8 (rows, width), -8 to 7."""
        words = self.words.to(torch.int32).view(len(self.words), -1, 1, 32)
        nibbles = words >> torch.tensor([0, 4, 8, 12]).view(1, 1, 4, 1) & 15
        return (nibbles - 8).to(torch.int8).view(len(self.words), -1)

    def __repr__(self) -> str:
        return f"Int4Rows({tuple(self.shape)}, {self.scale.dtype}, {self.words.device})"

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["words", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> Int4Rows:
        return Int4Rows(inner["words"], inner["scale"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return _linear_int4(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _COPIES:
            return cls(func(args[0].words), func(args[0].scale))
        raise NotImplementedError(f"{func} of an Int4Rows")

    def tiles(self) -> tuple[Tensor, Tensor]:
        """What _weight_int4pack_mm_for_cpu wants: its own order of the codes, and (groups, rows, 2) of scale and zero."""
        if self._tiles is None:
            codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(self.codes().to(torch.int32) + 8, 1)
            scales = torch.stack([self.scale, torch.zeros_like(self.scale)], -1)
            self._tiles = codes, scales.transpose(0, 1).contiguous()
        return self._tiles


torch.serialization.add_safe_globals([Int4Rows])


def _linear_int4(x: Tensor, weight: Int4Rows, bias: None = None) -> Tensor:
    """x (…, width) -> (…, rows)."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    tiles, scales = weight.tiles()
    return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, tiles, GROUP, scales).view(*x.shape[:-1], -1)
