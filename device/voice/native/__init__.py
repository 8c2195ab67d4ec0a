"""The native engine's library: C++ that makes a whole CSM frame in one call. `device.voice.native.engine` drives it.

It is built with the package where there is a C++ compiler; where there is none, `reason` says so and PyTorch's own
path speaks in its place.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from pathlib import Path

VERSION = 1  # of model.h
AMOUNT = 512 << 20  # bytes that are read for the bandwidth: more than any cache


class NativeFault(RuntimeError):
    """The library is missing or is not this program's. The message says which."""


@functools.cache
def library() -> ctypes.CDLL:
    """Raises NativeFault."""
    folder = Path(__file__).parent
    found = [file for end in importlib.machinery.EXTENSION_SUFFIXES if (file := folder / f"_csm{end}").is_file()]
    if not found:
        raise NativeFault("it was not built here: install g++ and run scripts/setup again")
    try:
        loaded = ctypes.CDLL(str(found[0]))
        version = loaded.csm_version()
    except (OSError, AttributeError) as error:
        raise NativeFault(f"{found[0].name} can't be loaded ({error}): run scripts/setup again") from None
    if version != VERSION:
        raise NativeFault(f"{found[0].name} is of version {version}, this program of {VERSION}: run scripts/setup again")
    loaded.csm_kernels.restype = ctypes.c_char_p
    loaded.csm_new.restype = ctypes.c_void_p
    loaded.csm_bandwidth.restype = loaded.csm_peak.restype = ctypes.c_double
    return loaded


def reason() -> str | None:
    """Why there is no native engine here; None where there is one."""
    try:
        library()
    except NativeFault as fault:
        return str(fault)
    return None


def kernels(asked: str = "") -> str:
    """The kernels that run here: of the best instruction set, or those `asked` for. Raises NativeFault."""
    found: bytes | None = library().csm_kernels(asked.encode())
    if found is None:
        raise NativeFault(f"the kernels '{asked}' do not run on this processor")
    return found.decode()


def shorts(name: str) -> int:
    """16-bit numbers in a vector of these kernels: widths must be multiples of it."""
    return int(library().csm_shorts(name.encode()))


def bandwidth(threads: int) -> float:
    """GB/s that `threads` read of memory which no cache holds, with the engine's own four streams each."""
    import torch

    memory = torch.ones(AMOUNT, dtype=torch.uint8)
    speed = library().csm_bandwidth(kernels().encode(), threads, ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(AMOUNT))
    return float(speed) / 1e9


def peak_gflops(threads: int) -> float:
    """GFLOP/s of the engine's own product of 16-bit codes where everything is in registers; a product and its sum are two."""
    return 2 * float(library().csm_peak(kernels().encode(), threads, ctypes.c_size_t(20_000_000))) / 1e9
