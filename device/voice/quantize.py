"""Weights of 8 and 4 bits: which layer gets which, which kernel multiplies it here, and the file it is kept in.

It knows layers by name and nothing of speech. The two tables are what a fidelity or a speed measurement changes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from device.voice.plain import VoiceFault
from device.voice.rows import GROUP, Int4Rows, Int8Rows

# Which layer gets what; the first match wins, and a layer without one is kept as it is computed.
# int4 was chosen by `bedside bench fidelity` at CSM-1B's shape: mean KL 0.96 nats with every layer of both stacks
# in int4, 0.55 with three of the depth decoder's four in int8 (21 MB more; it is small, but read 31 times a frame).
# bf16 heads changed nothing. That was with asymmetric codes; with the symmetric ones of today it is 0.67.
# An embedding is only ever int8: its rows are gathered, so only memory is won.
SCHEMES: dict[str, tuple[tuple[str, str], ...]] = {
    "fp32": (),
    "bf16": (),
    "int8": (("*", "int8"),),
    "int4": (
        ("backbone.layers.*", "int4"),
        ("depth.layers.*.gate_up", "int4"),
        ("*", "int8"),
    ),
}
FORMAT, MANIFEST, WEIGHTS = 2, "bedside.json", "weights.pt"


def _holder(weight: Tensor) -> nn.Linear:
    """A layer with this weight; on meta first, because initialising one draws from the generator that speech samples from."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _through_torchao(module: nn.Module, where: str, config: str, **options: Any) -> None:
    """quantize_ one layer. Without set_inductor_config: it would slow every later torch.compile of the process."""
    from torchao.quantization import quantize_  # type: ignore[import-untyped,import-not-found,unused-ignore]

    quantize_(module, getattr(importlib.import_module(where), config)(set_inductor_config=False, **options))


def _int8_torchao(module: nn.Linear | nn.Embedding) -> None:
    """Int8Tensor: fast on a GPU once torch.compile has fused the conversion into the product."""
    # Version 2 is Int8Tensor; torchao 0.15 to 0.17 still make version 1 unless asked.
    _through_torchao(module, "torchao.quantization", "Int8WeightOnlyConfig", version=2)


def _int8_rows(module: nn.Linear | nn.Embedding) -> None:
    """The same symmetric codes, one scale a row, kept as Int8Rows."""
    dtype = module.weight.dtype
    codes, scales = [], []
    for part in module.weight.detach().split(4096):  # in parts: the fp32 copies of an embedding would take 2 GB
        holder = _holder(part.float())
        _int8_torchao(holder)
        codes.append(holder.weight.qdata)
        scales.append(holder.weight.scale.reshape(-1).to(dtype))
    module.weight = nn.Parameter(Int8Rows(torch.cat(codes), torch.cat(scales)), requires_grad=False)


def _int4_rows(module: nn.Linear | nn.Embedding) -> None:
    """torchao's symmetric int4 codes, one bf16 scale a group, kept as Int4Rows."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    dtype = module.weight.dtype
    holder = _holder(module.weight.detach().float())
    quantize_(holder, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP)))
    made: Any = holder.weight
    module.weight = nn.Parameter(Int4Rows.pack(made.qdata, made.scale.to(dtype)), requires_grad=False)


def _int4_tiles(module: nn.Linear | nn.Embedding) -> None:
    """PyTorch's own tinygemm: compute capability 8.0 and up, no compiled part of torchao."""
    _through_torchao(module, "torchao.quantization", "Int4WeightOnlyConfig", group_size=GROUP, int4_packing_format="tile_packed_to_4d")


KERNELS: dict[str, dict[str, Callable[[nn.Linear | nn.Embedding], None]]] = {
    "cpu": {"int8": _int8_rows, "int4": _int4_rows},
    "orin": {"int8": _int8_torchao, "int4": _int4_tiles},
    "cuda": {"int8": _int8_torchao, "int4": _int4_tiles},
}
# (rows, width) must be multiples of these; tinygemm on a GPU pads both to its tiles by itself.
_FITS = {("cpu", "int8"): (1, 16), ("cpu", "int4"): (16, GROUP), ("orin", "int4"): (1, GROUP), ("cuda", "int4"): (1, GROUP)}


def device_kind(device: str) -> str:
    """cpu, orin (compute capability 8.7) or cuda, for torch's device name."""
    return "cpu" if device == "cpu" else "orin" if torch.cuda.get_device_capability() == (8, 7) else "cuda"


def compute_dtype(scheme: str, device: str) -> torch.dtype:
    """What activations should be. On a CPU ATen's kernels, without the native engine, are vectorised for bf16 alone."""
    return torch.float32 if scheme == "fp32" else torch.bfloat16


def choose(device: str, scheme: str) -> None:
    """Multiply one small matrix in every way that `scheme` needs. Raises VoiceFault where one does not run here."""
    if scheme not in SCHEMES:
        raise VoiceFault(f"voice.precision = '{scheme}' is not known: choose one of {', '.join(SCHEMES)}.")
    if device != "cpu" and not torch.cuda.is_available():
        raise VoiceFault(f"voice.precision = '{scheme}' was asked for on {device}, but torch sees no GPU here: set voice.device to 'cpu'.")
    where = "cpu" if device == "cpu" else "cuda"
    for kind in sorted({kind for _, kind in SCHEMES[scheme]} - {"keep"}):
        way_out = "choose 'int8' or 'bf16'" if kind == "int4" else "choose 'bf16'"
        if importlib.util.find_spec("torchao") is None:
            raise VoiceFault(f"voice.precision = '{scheme}' needs the package torchao: run scripts/setup again, or {way_out}.")
        try:
            layer = _holder(torch.linspace(-1, 1, 16 * GROUP, device=where, dtype=torch.bfloat16).view(16, GROUP))
            wanted = layer.weight.float().sum(1)
            KERNELS[device][kind](layer)
            found = layer(torch.ones(1, GROUP, device=where, dtype=torch.bfloat16))[0].float()
        except Exception as error:  # whatever a kernel's library raises, the technician needs one sentence
            why = f"torch {_version('torch')} and torchao {_version('torchao')} ({_reason(error)})"
            raise VoiceFault(f"voice.precision = '{scheme}' does not run on {device} with {why}: {way_out}.") from None
        if not torch.allclose(wanted, found, rtol=0.02, atol=1):  # sums from -120 to 120
            raise VoiceFault(f"voice.precision = '{scheme}' computes wrong numbers on {device} with torch {_version('torch')}: {way_out}.")


def kind_of(name: str, scheme: str) -> str:
    """keep, int8 or int4 for the layer `name`."""
    return next((kind for pattern, kind in SCHEMES[scheme] if fnmatchcase(name, pattern)), "keep")


def quantise(name: str, module: nn.Linear | nn.Embedding, scheme: str, device: str) -> None:
    """In place: move one layer to its device and dtype, then to the bits that `scheme` gives it. `device` is a kind.

    Raises VoiceFault, with the layer untouched, when its sizes do not fit the kernel.
    """
    kind = kind_of(name, scheme)
    if isinstance(module, nn.Linear):
        way_out = "choose int8" if kind == "int4" else "choose bf16"
        for what, size, of in zip(("heights", "widths"), module.weight.shape, _FITS.get((device, kind), (1, 1)), strict=True):
            if size % of:
                raise VoiceFault(f"voice.precision = '{scheme}' needs {what} that are multiples of {of}; {name} has {size}: {way_out}.")
    module.requires_grad_(False)
    module.to(device="cpu" if device == "cpu" else "cuda", dtype=compute_dtype(scheme, device))
    if kind != "keep":
        (_int8_rows if isinstance(module, nn.Embedding) else KERNELS[device][kind])(module)


def _reason(error: Exception) -> str:
    """The first line of what a library said."""
    said: str = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return said.splitlines()[0].rstrip(".")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "none"


def fingerprint(files: list[Path]) -> str:
    """sha256 over the names and the bytes of `files`, in the order of their names. Raises OSError."""
    whole = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        if len(files) > 1:
            whole.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                whole.update(block)
    return whole.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def save(state: dict[str, Tensor], folder: Path, manifest: dict[str, Any]) -> None:
    """Write WEIGHTS, then MANIFEST; a crash between leaves a folder that load refuses.

    `manifest` holds scheme, device (a kind), source and source_sha256. Raises VoiceFault when the disk does not take it.
    """
    assert set(manifest) >= {"scheme", "device", "source", "source_sha256"}
    # torch.save writes whole storages: a row of a mapped checkpoint would bring the checkpoint with it.
    state = {k: v.clone() if type(v) in (Tensor, nn.Parameter) and v.untyped_storage().nbytes() > v.nbytes else v for k, v in state.items()}
    part, notes = folder / f".{WEIGHTS}.part", folder / f".{MANIFEST}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        torch.save(state, part)
        _sync(part)
        facts: dict[str, Any] = {"format": FORMAT, "torch": _version("torch"), "torchao": _version("torchao")}
        facts |= {"bytes": part.stat().st_size, "sha256": fingerprint([part])}
        part.replace(folder / WEIGHTS)
        notes.write_text(json.dumps({**manifest, **facts}, indent=1) + "\n")
        _sync(notes)
        notes.replace(folder / MANIFEST)
        _sync(folder)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        for path in (part, notes):
            path.unlink(missing_ok=True)
        raise VoiceFault(f"{folder} can't be written ({_reason(error)}): free space there, or choose another folder.") from None


def load(folder: Path, device: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What save wrote, mapped and not read into memory; for load_state_dict(assign=True), outside inference_mode.

    `device` is the kind here. Raises VoiceFault when the file is not whole, or was not made for these versions and this kind of device.
    """
    again = f"run 'bedside models quantize' again into {folder}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        again = f"run 'bedside models quantize' again from {manifest['source']}"
        here = {"in format": FORMAT, "with torch": _version("torch"), "with torchao": _version("torchao"), "for device": device}
        for how, wanted in here.items():
            if (found := manifest[how.split()[1]]) != wanted:
                raise VoiceFault(f"{folder} was quantised {how} {found}, here is {wanted}: {again}.")
        size, wanted = (folder / WEIGHTS).stat().st_size, manifest["bytes"]
        if size != wanted:
            raise VoiceFault(f"{folder / WEIGHTS} has {size} bytes of {wanted}, a copy that did not end: copy it again, or {again}.")
        if fingerprint([folder / WEIGHTS]) != manifest["sha256"]:  # this also brings the file into the page cache
            raise VoiceFault(f"{folder / WEIGHTS} is damaged (its sha256 has changed): copy it again, or {again}.")
        choose(device, manifest["scheme"])  # and so the classes that the file names are known
    except OSError as error:
        raise VoiceFault(f"{error.filename}: {error.strerror}: {again}.") from None
    except (ValueError, KeyError, TypeError):
        raise VoiceFault(f"{folder / MANIFEST} is not a manifest of this program: {again}.") from None
    try:
        return torch.load(folder / WEIGHTS, mmap=True, weights_only=True), manifest
    except Exception as error:
        raise VoiceFault(f"{folder / WEIGHTS} can't be read ({_reason(error)}): {again}.") from None
