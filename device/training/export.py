"""A trained model as a checkpoint on disk, in either layout that `bedside` loads: the way back of `device/voice/checkpoint.py`.

It knows nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from device.voice.checkpoint import CODEC, REST, Part, expected_sizes, recipe
from device.voice.csm import Csm, frequencies
from device.voice.mimi import kyutai_names, stored_names
from device.voice.shape import FLAVOURS, Shape, StackShape

NOWHERE = 10.0  # times the longest vector: where no sound's ever is


def stored(csm: Csm, layout: str, twice: bool = True) -> dict[str, Tensor]:
    """Every tensor of `csm` under its name in `layout`, "transformers" or "sesame", as that layout has it. Raises ValueError."""
    state = {**csm.state_dict(), "text": csm.text}
    if layout == "sesame" and not csm.shape.tied:
        raise ValueError("Sesame's layout has one audio embedding and this model two: write transformers' layout.")
    parts, sizes = recipe(csm.shape, layout, {}), expected_sizes(csm.shape, layout)
    out: dict[str, Tensor] = {}
    heads: dict[str, list[Tensor]] = {}
    for name, part in parts.items():
        if part.book is not None:
            heads.setdefault(part.sources[0], []).append(state[name].detach().t())
            continue
        out.update(split(state[name].detach(), part, sizes))
    if layout == "transformers" and csm.shape.tied and twice:
        out[REST[layout]["audio_embedding"]] = out[REST[layout]["depth_embedding"]]
    return out | {name: torch.stack(books).contiguous() for name, books in heads.items()}


def split(ours: Tensor, part: Part, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The stored tensors that were stacked, row on row, to make `ours`; rotary pairs as that layout has them."""
    out, row = {}, 0
    for number, source in enumerate(part.sources):
        rows = sizes[source][0]
        piece = ours[row : row + rows]
        if part.rope and part.rope[number]:
            piece = neighbours(piece, part.rope[number])
        out[source] = piece.contiguous()
        row += rows
    return out


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k whose halves are the rotary pairs, re-ordered so that neighbours are: `checkpoint.halves` undone."""
    out, width = weight.shape
    return weight.view(heads, 2, out // heads // 2, width).transpose(1, 2).reshape(out, width)


def codec_tensors(mimi: nn.Module) -> dict[str, Tensor]:
    """moshi's `mimi` under transformers' names."""
    half = mimi.dimension // mimi.encoder_transformer.transformer.layers[0].self_attn.num_heads // 2
    out: dict[str, Tensor] = {}
    for name, tensor in mimi.state_dict().items():
        names = stored_names(name)
        if len(names) == 1:
            out[names[0]] = tensor.detach().contiguous()
            continue
        for number, (part, piece) in enumerate(zip(names, tensor.detach().chunk(3), strict=True)):
            if number < 2:  # transformers turns a head's halves against each other, moshi neighbours
                piece = piece.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)
            out[part] = piece.contiguous()
    return out


def kyutai_tensors(mimi: nn.Module) -> dict[str, Tensor]:
    """moshi's `mimi` under the names of Kyutai's own file."""
    return {kyutai_names(name)[0]: tensor.detach().contiguous() for name, tensor in mimi.state_dict().items()}


@torch.no_grad()
def keep_zero_free(mimi: nn.Module) -> None:
    """Code 0 of the first codebook never is a sound: it begins the all-zero frame, so that nothing else looks like the end.

    The first code that sounds are closest to least often gives its place; its sounds go to the next nearest one.
    """
    book = mimi.quantizer.rvq_first.vq.layers[0]._codebook
    vectors = book.embedding.clone()
    seldom = int(book.cluster_usage.argmin())
    vectors[seldom] = vectors[0]
    vectors[0] = NOWHERE * vectors[vectors.norm(dim=1).argmax()]
    book.embedding_sum.copy_(vectors)
    book.cluster_usage.fill_(1)
    book.register_buffer("_embedding", None, persistent=False)


def write(
    folder: Path,
    csm: Csm,
    config: Mapping[str, Any],
    codec: Mapping[str, Tensor],
    dtype: torch.dtype,
    layout: str = "transformers",
    codec_dtype: torch.dtype | None = None,
    twice: bool = True,
) -> Path:
    """config.json and model.safetensors in `folder`, with Mimi inside where the layout has a place for it.

    `codec_dtype`: Mimi's, where it is not `dtype`: rounded weights hear other codes. `twice`: a tied embedding under both of transformers'
    names, for not every version ties what it loads (transformers#48999). Raises ValueError.
    """
    from safetensors.torch import save_file

    told = {**config, "tie_codebooks_embeddings": csm.shape.tied} if layout == "transformers" else sesame_config(csm.shape, config)
    tensors = {name: tensor.to(dtype) for name, tensor in stored(csm, layout, twice).items()}
    tensors |= {CODEC + name: tensor.to(codec_dtype or dtype) for name, tensor in codec.items() if layout == "transformers"}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return folder


def sesame_config(shape: Shape, config: Mapping[str, Any]) -> dict[str, Any]:
    """Sesame's config.json: the names of two flavours, so only a shape that has a name can be written. Raises ValueError."""
    names = {}
    for key, stack in (("backbone_flavor", shape.backbone), ("decoder_flavor", shape.depth)):
        found = [name for name, flavour in FLAVOURS.items() if _same(flavour, stack)]
        if not found:
            raise ValueError(f"Sesame's layout has no name for a {key.split('_')[0]} of this shape: write transformers' layout.")
        names[key] = found[0]
    told = {"audio_num_codebooks": shape.codebooks, "audio_vocab_size": shape.ids, "text_vocab_size": shape.text_ids}
    return {**names, **told, "codec_config": config.get("codec_config")}


def _same(flavour: StackShape, stack: StackShape) -> bool:
    """Are they the same layers? Rotary angles are compared as numbers: two configs may say the same ones differently."""
    if replace(flavour, positions=stack.positions, rope=stack.rope) != stack:
        return False
    return torch.allclose(frequencies(flavour.rope, stack.head), frequencies(stack.rope, stack.head), rtol=1e-6, atol=0)


def transformers_config(shape: Shape, begin: int, codec_config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json for a model that came in Sesame's layout. `begin`: the id of <|begin_of_text|>.

    The other special ids follow it, as in Llama 3's tokenizer with CSM's names: 128000, and 128002 for sound, 128003 for its end.
    """
    from transformers import CsmConfig

    def stack(s: StackShape, positions: int) -> dict[str, Any]:
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": s.rope.theta}
        if s.rope.factor != 1:
            rope |= {"rope_type": "llama3", "factor": s.rope.factor, "low_freq_factor": s.rope.low, "high_freq_factor": s.rope.high}
            rope["original_max_position_embeddings"] = s.rope.original
        return {
            "hidden_size": s.width, "intermediate_size": s.ffn, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads, "head_dim": s.head, "max_position_embeddings": positions, "rms_norm_eps": s.eps,
            "rope_parameters": rope, "vocab_size": shape.ids, "num_codebooks": shape.codebooks,
        }  # fmt: skip

    depth = {**stack(shape.depth, shape.codebooks + 1), "backbone_hidden_size": shape.backbone.width}
    special = {"bos_token_id": begin, "audio_token_id": begin + 2, "pad_token_id": begin + 2, "audio_eos_token_id": begin + 3}
    codes = {"codebook_pad_token_id": shape.ids - 1, "codebook_eos_token_id": 0, "text_vocab_size": shape.text_ids}
    whole = CsmConfig(
        **stack(shape.backbone, shape.backbone.positions), **special, **codes, eos_token_id=None,
        tie_codebooks_embeddings=shape.tied, depth_decoder_config=depth, codec_config=dict(codec_config),
    )  # fmt: skip
    return whole.to_dict()
