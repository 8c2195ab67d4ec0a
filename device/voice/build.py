"""From the name of a checkpoint to a CSM that runs: found, opened, filled, quantised, with its tokenizer and Mimi.

`quantise_to` writes a quantised checkpoint: a folder that is complete in itself, and that `build` takes like any other.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from device.logs import log
from device.voice import quantize
from device.voice.checkpoint import CODEC, Checkpoint, fill, open_checkpoint
from device.voice.csm import Csm, Sampling
from device.voice.generation import GENERATION, read_sampling
from device.voice.hub import locate
from device.voice.mimi import Mimi, from_csm, from_kyutai
from device.voice.native import NativeFault
from device.voice.plain import VoiceFault, as_fault, out_of_memory
from device.voice.shape import read_shape
from device.voice.tokens import Tokens

# What "auto" means, by kind of device. A CPU: less than half of bf16's time and nearly its codes; int4 saves a fifth
# more and loses far more. An Orin moves 102 GB/s and bf16 asks for 115.
AUTO = {"cpu": "int8", "orin": "int4", "cuda": "bf16"}
TEXT, SOUND = "text.safetensors", "mimi-of-csm.safetensors"  # beside the quantised weights: the text table, and Mimi

Status = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A model in memory and where it came from; the tokenizer and Mimi are read when they are asked for."""

    csm: Csm
    name: str
    folder: Path
    config: dict[str, Any]
    precision: str
    codec: Callable[[], dict[str, Tensor]]
    slow: str = ""  # why PyTorch's own path runs in an engine's place, or nothing

    def tokens(self) -> Tokens:
        return Tokens(self.folder)

    def sampling(self, seed: int | None = None) -> Sampling:
        """As the checkpoint's generation_config.json asks for, or as CSM-1B is sampled; with `seed`, the same each time."""
        generator = torch.Generator(self.csm.device)
        generator.seed() if seed is None else generator.manual_seed(seed)
        return Sampling(self.csm.shape.sounds, **read_sampling(self.folder), generator=generator)

    def mimi(self) -> Mimi:
        """From the checkpoint's own tensors, from a file of Kyutai's beside them, or from Kyutai on the hub."""
        device, books = self.csm.device.type, self.csm.shape.codebooks
        # int4 is for a GPU with little memory: half of Mimi's decoder is 80 MB. (A CPU is slower in bf16.)
        dtype = torch.bfloat16 if self.precision == "int4" and device != "cpu" else torch.float32
        if codec := self.codec():
            return from_csm(self.config.get("codec_config") or {}, codec, device, books, dtype)
        file = next(iter(_mimi_files(self.folder)), None) or _kyutais(self.name)
        return from_kyutai(file, device, books, dtype, self.config.get("codec_config"))


def build(name: str, precision: str, device: str, status: Status = lambda text: None, fuse: bool = False) -> Built:
    """Load the checkpoint `name` (folder or hub name) as fp32, bf16, int8, int4, or what suits `device`: auto.

    `fuse`: let torch.compile fuse its layers on a GPU, which the start waits for. Raises VoiceFault in one sentence, also
    when memory runs out.
    """
    folder, began = locate(name), time.monotonic()
    kind = quantize.device_kind(device)
    load = _load_quantised if (folder / quantize.MANIFEST).is_file() else _load_float
    try:
        built = load(folder, name, precision, device, kind, status)
    except VoiceFault:
        raise
    except (MemoryError, RuntimeError) as error:
        why, memory = _line(error), out_of_memory(error)
    else:
        log("csm_loaded", source=name, precision=built.precision, seconds=time.monotonic() - began)
        if kind != "cpu":
            status("recording CSM's CUDA graphs")
        return replace(built, slow=start_engine(built.csm, fuse=fuse))
    # Here, where torch's error is gone and with it all that was filled so far: the plain voice needs the room.
    if memory:
        raise VoiceFault(f"{name} does not fit into memory ({why}): stop other programs, or set voice.precision to 'int8' or 'int4'.")
    raise VoiceFault(f"{name} can't be loaded on {device} ({why}): try voice.device = 'cpu', or voice.engine = 'plain'.")


def start_engine(csm: Csm, threads: int = 0, fuse: bool = False) -> str:
    """Give `csm` the fastest engine that runs here: on a CPU with `threads` (torch's own number), on a GPU with `fuse` or not.

    Returns why there is none, or "". Raises VoiceFault out of memory.
    """
    if csm.device.type == "cuda":
        return _start_graphs(csm, fuse)
    from device.voice.native.engine import Native

    try:
        csm.engine = Native(csm, threads or torch.get_num_threads())
    except NativeFault as fault:
        reason = f"CSM speaks several times slower than it could, for its native engine does not run: {fault}."
        log("csm_engine_missing", level=logging.WARNING, reason=fault)
        return reason
    log("csm_engine", name=csm.engine.name, threads=csm.engine.threads)
    return ""


def _start_graphs(csm: Csm, fuse: bool) -> str:
    """start_engine on a GPU."""
    from device.voice import graphs

    # cuDNN's attention makes a plan for each new length (pytorch#155958): every prefill has one.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.cuda.empty_cache()
    before, began = torch.cuda.memory_reserved(), time.monotonic()
    if fuse:
        graphs.fuse(csm)
    try:
        csm.engine = graphs.Graphs(csm, graphs.Recorder())
    except RuntimeError as error:
        first = error.__context__ or error  # a recording that broke says only that it did, when it is closed
        memory, why = out_of_memory(error) or out_of_memory(first), _line(first)
    else:
        torch.cuda.empty_cache()  # of what the warm-up used
        size = (torch.cuda.memory_reserved() - before) / 1e6
        log("csm_engine", name=csm.engine.name, fused=fuse, memory_mb=size, seconds=time.monotonic() - began)
        return ""
    if memory:
        raise as_fault(MemoryError())
    if fuse:
        graphs.loosen(csm)  # what can't be compiled can't be run either
    log("csm_engine_missing", level=logging.WARNING, reason=why)
    return f"CSM speaks slower than it could, for its CUDA graphs can't be recorded: {why}."


def _load_float(folder: Path, name: str, precision: str, device: str, kind: str, status: Status) -> Built:
    """From a checkpoint in floats, quantised layer by layer where `precision` asks for it."""
    checkpoint = open_checkpoint(folder, name)
    scheme = AUTO[kind] if precision == "auto" else precision
    quantize.choose(kind, scheme)
    dtype = quantize.compute_dtype(scheme, kind)
    csm = _empty(checkpoint)

    def finish(layer: str, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            quantize.quantise(layer, module, scheme, kind)

    fill(csm, checkpoint, device, dtype, _percent(f"loading CSM from {name} as {scheme}", status), finish)
    csm.allocate(device, dtype)
    return Built(csm, name, folder, checkpoint.config, scheme, checkpoint.codec)


def _empty(checkpoint: Checkpoint) -> Csm:
    with torch.device("meta"):
        return Csm(checkpoint.shape)


def _load_quantised(folder: Path, name: str, precision: str, device: str, kind: str, status: Status) -> Built:
    """From what quantise_to wrote. Its file is mapped: nothing is read twice."""
    from safetensors import safe_open

    state, manifest = quantize.load(folder, kind)
    scheme = manifest["scheme"]
    if precision not in ("auto", scheme):
        raise VoiceFault(
            f"{name} is quantised as {scheme}, but voice.precision = '{precision}': set it to '{scheme}' or 'auto', "
            f"or run 'bedside models quantize' from {manifest['source']}."
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            csm = Csm(read_shape(config, name))
        csm.load_state_dict(state, assign=True)
        csm.requires_grad_(False)
        text: Any = safe_open(folder / TEXT, "pt")
        csm.text = text.get_tensor("text")
    except (VoiceFault, MemoryError):
        raise
    except Exception as error:  # json, safetensors, torch: each has its own errors for a file that is not whole
        raise _not_whole(folder, error, manifest) from None
    if device != "cpu":
        csm.to(device)
    csm.allocate(device, quantize.compute_dtype(scheme, kind))
    return Built(csm, name, folder, config, scheme, lambda: _stored_codec(folder, manifest))


def _not_whole(folder: Path, error: Exception, manifest: dict[str, Any]) -> VoiceFault:
    return VoiceFault(f"{folder} is not whole ({_line(error)}): run 'bedside models quantize' again from {manifest['source']}.")


def quantise_to(name: str, precision: str, device: str, out: Path, status: Status = lambda text: None) -> Built:
    """Write checkpoint `name` at `precision` for this kind of `device` into the folder `out`. Raises VoiceFault.

    The folder is complete in itself; only a checkpoint without Mimi still takes Kyutai's from the hub's cache.
    """
    if precision not in quantize.SCHEMES or precision == "fp32":
        raise VoiceFault(f"A checkpoint can't be quantised to {precision!r}: choose bf16, int8 or int4.")
    folder = locate(name)
    if (folder / quantize.MANIFEST).is_file():
        raise VoiceFault(f"{name} is quantised already: give the checkpoint that it was made from.")
    if any(file.is_file() for pattern in ("model.safetensors", "*.index.json", "ckpt.pt") for file in out.glob(pattern)):
        raise VoiceFault(f"{out} holds a checkpoint in floats: give another folder in --out.")
    built = build(name, precision, device, status)
    checkpoint = open_checkpoint(folder, name)
    status("reading the checkpoint for its sha256")
    source = quantize.fingerprint(list(checkpoint.files))
    status(f"writing {out}")
    manifest = {"scheme": precision, "device": quantize.device_kind(device), "source": name, "source_sha256": source}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in (quantize.MANIFEST, TEXT, SOUND):  # of an older one: half of each would speak
            (out / file).unlink(missing_ok=True)
        _store({"text": built.csm.text.to(torch.bfloat16).contiguous()}, out / TEXT)
        if codec := checkpoint.codec():
            _store({CODEC + key: value.contiguous() for key, value in codec.items()}, out / SOUND)
        config = {**checkpoint.config, "tie_codebooks_embeddings": checkpoint.shape.tied}
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        for source_file in [*folder.glob("tokenizer.json"), *folder.glob(GENERATION), *_mimi_files(folder)]:
            shutil.copyfile(source_file, out / source_file.name)
    except Exception as error:  # safetensors has its own error for a full disk
        raise VoiceFault(f"{out} can't be written ({_line(error)}): free space there, or choose another folder.") from None
    quantize.save(built.csm.state_dict(), out, manifest)  # its manifest comes last: without it the folder is no checkpoint
    return built


def _mimi_files(folder: Path) -> list[Path]:
    """Mimi as Kyutai publishes it, beside a checkpoint that has none inside."""
    return [file for file in (folder / "mimi.safetensors", *sorted(folder.glob("tokenizer-*.safetensors"))) if file.is_file()]


def _store(tensors: dict[str, Tensor], file: Path) -> None:
    """A new file, with the rights of any other: safetensors' own is its writer's alone, and a service is another user."""
    from safetensors.torch import save_file

    file.touch()
    rights = file.stat().st_mode
    save_file(tensors, file)
    file.chmod(rights)


def _stored_codec(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not (folder / SOUND).is_file():
        return {}
    try:
        return {name.removeprefix(CODEC): tensor for name, tensor in load_file(folder / SOUND).items()}
    except Exception as error:  # safetensors' own
        raise _not_whole(folder, error, manifest) from None


def _kyutais(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from moshi.models.loaders import DEFAULT_REPO, MIMI_NAME

    try:
        return Path(hf_hub_download(DEFAULT_REPO, MIMI_NAME))
    except Exception as error:  # the hub's own, the disk's, and httpx's, which are no OSErrors: a cut line
        raise VoiceFault(
            f"{name} has no Mimi in it and {DEFAULT_REPO} can't be fetched ({type(error).__name__}): put its {MIMI_NAME} "
            "into the checkpoint's folder."
        ) from None


def _line(error: BaseException) -> str:
    """The first sentence of what a library said, without torch's own line numbers before it."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return said.rpartition("Allocator: ")[2].partition(". ")[0].rstrip(".")


def _percent(text: str, status: Status) -> Callable[[float], None]:
    """Tell `status` every tenth of the way."""
    told = 0

    def progress(share: float) -> None:
        nonlocal told
        if int(share * 10) > told:
            told = int(share * 10)
            status(f"{text}, {told * 10} %")

    return progress
