"""CSM checkpoints on disk: where they are, which layout they have, and what each tensor becomes.

Two layouts exist: Sesame's own (torchtune names, interleaved rotary pairs, one file) and transformers' (half-split
pairs, shards, Mimi inside). Files are memory-mapped and read a tensor at a time, so no second copy is ever held.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from device.voice.csm import Csm
from device.voice.plain import VoiceFault
from device.voice.shape import Shape, StackShape, read_shape

# One layer's matrices and norms: our name -> the stored tensors that are stacked, row on row.
LAYER = {
    "transformers": {
        "attention_norm": ("input_layernorm.weight",),
        "qkv": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        "out": ("self_attn.o_proj.weight",),
        "mlp_norm": ("post_attention_layernorm.weight",),
        "gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "down": ("mlp.down_proj.weight",),
    },
    "sesame": {
        "attention_norm": ("sa_norm.scale",),
        "qkv": ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight"),
        "out": ("attn.output_proj.weight",),
        "mlp_norm": ("mlp_norm.scale",),
        "gate_up": ("mlp.w1.weight", "mlp.w3.weight"),
        "down": ("mlp.w2.weight",),
    },
}
REST = {
    "transformers": {
        "backbone": "backbone_model.",
        "depth": "depth_decoder.model.",
        "norm": "norm.weight",
        "text": "embed_text_tokens.weight",
        "audio_embedding": "backbone_model.embed_tokens.embed_audio_tokens.weight",
        "depth_embedding": "depth_decoder.model.embed_tokens.weight",
        "projection": "depth_decoder.model.inputs_embeds_projector.weight",
        "first_head": "lm_head.weight",
        "heads": "depth_decoder.codebooks_head.weight",
    },
    "sesame": {
        "backbone": "backbone.",
        "depth": "decoder.",
        "norm": "norm.scale",
        "text": "text_embeddings.weight",
        "audio_embedding": "audio_embeddings.weight",
        "depth_embedding": "audio_embeddings.weight",
        "projection": "projection.weight",
        "first_head": "codebook0_head.weight",
        "heads": "audio_head",
    },
}
CODEC = "codec_model."  # Mimi's tensors in transformers' layout
UNUSED = ("backbone_model.embed_tokens.audio_tokens_offsets",)  # a counter that some versions stored


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been found and opened; `read` gives one stored tensor, mapped from its file."""

    name: str
    folder: Path
    config: dict[str, Any]
    shape: Shape
    files: tuple[Path, ...]
    sizes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]

    @property
    def layout(self) -> str:
        return "sesame" if any(name.startswith("backbone.layers.") for name in self.sizes) else "transformers"

    def codec(self) -> dict[str, Tensor]:
        """Mimi's tensors, named without their prefix; empty in Sesame's layout, which has none."""
        return {name.removeprefix(CODEC): self.read(name) for name in self.sizes if name.startswith(CODEC)}


def open_checkpoint(folder: Path, name: str = "") -> Checkpoint:
    """Open the checkpoint in `folder`. Raises VoiceFault, naming what is broken and the way out."""
    name = name or str(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VoiceFault(f"{name} has no config.json: give the folder or hub name of a CSM checkpoint in voice.csm_model.") from None
    except (OSError, ValueError) as error:
        raise VoiceFault(f"{name}/config.json can't be read ({error}): fetch the checkpoint again.") from error
    shape = read_shape(config, name)
    files = weight_files(folder, config, name)
    sizes: dict[str, tuple[int, ...]] = {}
    readers: dict[str, Callable[[], Tensor]] = {}
    for file in files:
        for tensor, size, reader in _open(file):
            sizes[tensor], readers[tensor] = size, reader
    names = (REST["transformers"]["audio_embedding"], REST["transformers"]["depth_embedding"])
    both = [readers[tensor] for tensor in names if tensor in sizes]
    if shape.tied and len(both) == 2 and not torch.equal(both[0](), both[1]()):
        shape = replace(shape, tied=False)  # as transformers 5: two tables that differ are two, whatever the config says
    return Checkpoint(name, folder, config, shape, files, sizes, lambda tensor: readers[tensor]())


def weight_files(folder: Path, config: Mapping[str, Any], name: str) -> tuple[Path, ...]:
    """The files that hold the weights: what config.json names, an index's shards, or the one file there is."""
    wanted = [str(config["transformers_weights"])] if config.get("transformers_weights") else []
    wanted += ["model.safetensors.index.json", "transformers.safetensors.index.json", "model.safetensors", "ckpt.pt"]
    found = next((folder / file for file in wanted if (folder / file).is_file()), None)
    if found is None:
        others = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.pt"))]
        others = [file for file in others if not file.name.startswith(("mimi", "tokenizer"))]  # Kyutai's Mimi
        if len(others) != 1:
            raise VoiceFault(f"{name} has no weights (model.safetensors, its index, or ckpt.pt): fetch the checkpoint again.")
        found = others[0]
    if found.suffix != ".json":
        return (found,)
    try:
        shards = sorted({str(shard) for shard in json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VoiceFault(f"{found} is no index of shards ({error}): fetch the checkpoint again.") from error
    for shard in shards:
        if not (folder / shard).is_file():
            raise VoiceFault(f"{folder / shard} is missing, though {found.name} names it: fetch the checkpoint again.")
    return tuple(folder / shard for shard in shards)


def _open(file: Path) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """(name, size, reader) of each tensor in a file, without reading it."""
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            archive: Any = safe_open(file, "pt")
            for name in archive.keys():  # noqa: SIM118 (it is no dict)
                yield name, tuple(archive.get_slice(name).get_shape()), lambda name=name: archive.get_tensor(name)  # type: ignore[misc,no-untyped-call]
        else:
            if not zipfile.is_zipfile(file):  # torch's own words for it are misleading
                raise ValueError("it is no whole archive of torch.save's")
            state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            for name, tensor in state.get("model", state).items():
                yield name, tuple(tensor.shape), lambda tensor=tensor: tensor  # type: ignore[misc]
    # safetensors, zipfile and pickle each have their own errors; a half-downloaded file shows as any of them.
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
        it = file.resolve() if file.is_symlink() else "it"  # the hub's cache would link a broken file again
        raise VoiceFault(f"{file} can't be read as weights ({why}): it may be half downloaded; delete {it} and fetch it again.") from error


@dataclass(frozen=True)
class Part:
    """Where one of our tensors comes from: stored tensors stacked by rows; `book` picks one of the stacked heads."""

    sources: tuple[str, ...]
    book: int | None = None
    rope: tuple[int, ...] = ()  # heads in each source whose rotary pairs are interleaved


def recipe(shape: Shape, layout: str, sizes: Mapping[str, Any]) -> dict[str, Part]:
    """Our parameter's name -> where it comes from, for every parameter of Csm, and `text`."""
    rest, out = REST[layout], {}
    for stack, dims in (("backbone", shape.backbone), ("depth", shape.depth)):
        for number in range(dims.layers):
            for ours, stored in LAYER[layout].items():
                turned = (dims.heads, dims.kv_heads, 0) if layout == "sesame" and ours == "qkv" else ()
                sources = tuple(f"{rest[stack]}layers.{number}.{name}" for name in stored)
                out[f"{stack}.layers.{number}.{ours}.weight"] = Part(sources, rope=turned)
        out[f"{stack}.norm.weight"] = Part((rest[stack] + rest["norm"],))
    shared, own = rest["depth_embedding"], rest["audio_embedding"]
    if shape.tied:  # transformers 5.23 writes one of the two, others both
        out["audio_embedding.weight"] = Part((shared if shared in sizes or own not in sizes else own,))
    else:
        out["audio_embedding.weight"], out["depth_embedding.weight"] = Part((own,)), Part((shared,))
    out["projection.weight"] = Part((rest["projection"],))
    out["heads.0.weight"] = Part((rest["first_head"],))
    for book in range(1, shape.codebooks):
        out[f"heads.{book}.weight"] = Part((rest["heads"],), book=book - 1)
    out["text"] = Part((rest["text"],))
    return out


def check(checkpoint: Checkpoint, parts: Mapping[str, Part]) -> None:
    """Every tensor is there, none is left over, and each has its size. Raises VoiceFault, naming the first."""
    shape, sizes = checkpoint.shape, checkpoint.sizes
    if not any(name.startswith(("backbone.layers.", "backbone_model.")) for name in sizes):
        some = ", ".join(list(sizes)[:2]) or "nothing"
        raise VoiceFault(f"{checkpoint.name} holds {some} …: these are not CSM's tensors; give a CSM checkpoint in voice.csm_model.")
    wanted = expected_sizes(shape, checkpoint.layout)
    needed = {source for part in parts.values() for source in part.sources}
    for name in sorted(needed):
        if name not in sizes:
            raise VoiceFault(f"{checkpoint.name}: the tensor {name} is missing: fetch the checkpoint again.")
        if sizes[name] != wanted[name]:
            found, right = "×".join(map(str, sizes[name])), "×".join(map(str, wanted[name]))
            raise VoiceFault(f"{checkpoint.name}: the tensor {name} is {found}, but its config.json asks for {right}.")
    known = needed | set(wanted) | set(UNUSED)
    extra = [name for name in sizes if name not in known and not name.startswith(CODEC)]
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise VoiceFault(f"{checkpoint.name}: the tensor {extra[0]}{more} has no place in a CSM of this config.json.")


def expected_sizes(shape: Shape, layout: str) -> dict[str, tuple[int, ...]]:
    """The size of each stored tensor in this layout."""
    rest = REST[layout]
    wide, narrow, books, ids = shape.backbone.width, shape.depth.width, shape.codebooks, shape.ids
    out: dict[str, tuple[int, ...]] = {
        rest["text"]: (shape.text_ids, wide),
        rest["audio_embedding"]: (books * ids, wide),
        rest["depth_embedding"]: (books * ids, wide),
        rest["projection"]: (narrow, wide),
        rest["first_head"]: (ids, wide),
        rest["heads"]: (books - 1, narrow, ids),
    }
    for stack, dims in (("backbone", shape.backbone), ("depth", shape.depth)):
        out[rest[stack] + rest["norm"]] = (dims.width,)
        for number in range(dims.layers):
            for ours, stored in LAYER[layout].items():
                for name, size in zip(stored, _layer_sizes(dims)[ours], strict=True):
                    out[f"{rest[stack]}layers.{number}.{name}"] = size
    return out


def _layer_sizes(s: StackShape) -> dict[str, tuple[tuple[int, ...], ...]]:
    query, key = s.heads * s.head, s.kv_heads * s.head
    return {
        "attention_norm": ((s.width,),),
        "qkv": ((query, s.width), (key, s.width), (key, s.width)),
        "out": ((s.width, query),),
        "mlp_norm": ((s.width,),),
        "gate_up": ((s.ffn, s.width), (s.ffn, s.width)),
        "down": ((s.width, s.ffn),),
    }


def fill(
    model: Csm,
    checkpoint: Checkpoint,
    device: str,
    dtype: torch.dtype,
    progress: Callable[[float], None] = lambda share: None,
    finish: Callable[[str, nn.Module], None] = lambda name, module: None,
) -> None:
    """Give `model` (built on torch's meta device) its weights, one module at a time.

    `finish(name, module)` may quantise a Linear or Embedding in place as soon as it is filled, so that
    the float weights of one module at most are held. `progress` gets the share done, 0 to 1.
    """
    parts = recipe(checkpoint.shape, checkpoint.layout, checkpoint.sizes)
    check(checkpoint, parts)
    for done, (name, part) in enumerate(parts.items()):
        if name == "text":
            model.text = checkpoint.read(part.sources[0])  # stays a mapped file
        else:
            owner, _, _ = name.rpartition(".")
            module = model.get_submodule(owner)
            module.weight = nn.Parameter(_assemble(checkpoint, part, device, dtype), requires_grad=False)
            finish(owner, module)
        progress((done + 1) / len(parts))


def _assemble(checkpoint: Checkpoint, part: Part, device: str, dtype: torch.dtype) -> Tensor:
    """One of our tensors, in memory of its own."""
    stored = [checkpoint.read(source) for source in part.sources]
    if part.book is not None:
        stored = [stored[0][part.book].t()]
    for number, heads in enumerate(part.rope):
        if heads:
            stored[number] = halves(stored[number], heads)
    rows = sum(tensor.shape[0] for tensor in stored)
    out = torch.empty((rows, *stored[0].shape[1:]), device=device, dtype=dtype)
    row = 0
    for tensor in stored:
        out[row : row + tensor.shape[0]].copy_(tensor)
        row += tensor.shape[0]
    return out


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k with interleaved rotary pairs, re-ordered so that the halves of each head are the pairs."""
    out, width = weight.shape
    return weight.view(heads, out // heads // 2, 2, width).transpose(1, 2).reshape(out, width)
