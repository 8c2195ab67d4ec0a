"""LoRA (Hu et al. 2021, through peft) on CSM's layers, and its files in the names of both layouts.

Our layers are fused: one matrix makes query, key and value. What an adapter adds to it is B·A with one A, and the rows of
B are those of the three: so each of the three has an adapter of the same A and its rows of B, and nothing is approximated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from device.training.export import split
from device.training.trainable import bare
from device.voice.checkpoint import Part, expected_sizes, halves, recipe
from device.voice.csm import Csm
from device.voice.plain import VoiceFault

NAME = "voice"  # peft's: of the one adapter
LAYERS = r"(backbone|depth)\.layers\.\d+\.(qkv|out|gate_up|down)"
# The same layers as each layout calls them; the codec has layers of such names too, and must not be touched.
TARGETS = {
    "transformers": r"(backbone_model|depth_decoder\.model)\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    "sesame": r"(backbone|decoder)\.layers\.\d+\.(attn\.(q_proj|k_proj|v_proj|output_proj)|mlp\.w[123])",
}
WEIGHTS, CONFIG, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."


def add(csm: Csm, rank: int, alpha: float) -> None:
    """Give every layer of both transformers an adapter, which alone learns. It adds nothing yet: B is zero."""
    from peft import LoraConfig, inject_adapter_in_model

    csm.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=LAYERS, lora_dropout=0.0, bias="none"), csm, NAME)


def adapted(csm: Csm) -> Iterator[tuple[str, Any]]:
    """(our name, peft's layer) of each layer that has an adapter."""
    from peft.tuners.lora import LoraLayer

    yield from ((name, module) for name, module in csm.named_modules() if isinstance(module, LoraLayer))


@torch.no_grad()
def merged(csm: Csm) -> Csm:
    """A Csm without adapters that says the same. It shares the tensors that no adapter changes; `csm` stays as it is."""
    state = {**csm.state_dict(), "text": csm.text}
    for name, layer in adapted(csm):
        state[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight(NAME)
    return bare(csm, {name: tensor for name, tensor in state.items() if ".base_layer." not in name and ".lora_" not in name})


def write(csm: Csm, folder: Path, layout: str, base: str) -> Path:
    """The adapters as peft's own files, with the names of `layout`; `base`: the checkpoint that they were made for.

    Those of "transformers" are what PeftModel.from_pretrained loads onto transformers' CsmForConditionalGeneration.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    parts, sizes = recipe(csm.shape, layout, {}), expected_sizes(csm.shape, layout)
    out: dict[str, Tensor] = {}
    rank, alpha = 0, 0.0
    for name, layer in adapted(csm):
        a, b = layer.lora_A[NAME].weight.detach(), layer.lora_B[NAME].weight.detach()
        rank, alpha = len(a), layer.lora_alpha[NAME]
        for source, rows in split(b, parts[f"{name}.weight"], sizes).items():
            key = PREFIX + source.removesuffix(".weight")
            out[f"{key}.lora_A.weight"], out[f"{key}.lora_B.weight"] = a.cpu().clone(), rows.cpu().clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(out, folder / WEIGHTS, {"format": "pt"})
    told = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=TARGETS[layout], lora_dropout=0.0, bias="none", base_model_name_or_path=base,
        inference_mode=True,
    )  # fmt: skip
    told.save_pretrained(str(folder))
    return folder


@torch.no_grad()
def merge_into(csm: Csm, folder: Path) -> None:
    """Add the adapters in `folder` to the weights of `csm`, which has none of its own.

    Any LoRA that peft wrote for CSM's layers, in the names of either layout, ours or another tool's. Raises VoiceFault.
    """
    tensors, scaling = _read(folder)
    layout = "sesame" if any(".attn." in name for name in tensors) else "transformers"
    state, sizes = dict(csm.named_parameters()), expected_sizes(csm.shape, layout)
    used: set[str] = set()
    for ours, part in recipe(csm.shape, layout, {}).items():
        if not re.fullmatch(LAYERS + r"\.weight", ours):
            continue
        row = 0
        for number, source in enumerate(part.sources):
            rows = sizes[source][0]
            keys = [f"{PREFIX}{source.removesuffix('.weight')}.lora_{half}.weight" for half in "AB"]
            if all(key in tensors for key in keys):
                added = _delta(tensors[keys[0]], tensors[keys[1]], part, number, sizes[source], f"{folder}: {source}")
                state[ours][row : row + rows] += scaling * added.to(state[ours].dtype)
                used.update(keys)
            row += rows
    if left := sorted(tensors.keys() - used):
        raise VoiceFault(f"{folder}: {left[0]} has no place in this CSM: give an adapter of its layers' attention and MLP.")


def _delta(a: Tensor, b: Tensor, part: Part, number: int, size: tuple[int, ...], where: str) -> Tensor:
    """B·A with the rotary rows as we have them."""
    if (len(b), a.shape[1]) != size or len(a) != b.shape[1]:
        raise VoiceFault(f"{where} has an adapter of {len(b)}×{a.shape[1]}, not {size[0]}×{size[1]}: it is of another checkpoint.")
    added = b.float() @ a.float()
    return halves(added, part.rope[number]) if part.rope and part.rope[number] else added


def _read(folder: Path) -> tuple[dict[str, Tensor], float]:
    """(tensors by name, what B·A is multiplied with). Raises VoiceFault."""
    from safetensors.torch import load_file

    try:
        told: Mapping[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:  # the disk's, json's, safetensors' own
        raise VoiceFault(f"{folder} holds no adapter of peft's that can be read ({error}): it needs {CONFIG} and {WEIGHTS}.") from None
    for key, plain in (("peft_type", "LORA"), ("use_dora", False), ("rank_pattern", {}), ("alpha_pattern", {}), ("fan_in_fan_out", False)):
        if (told.get(key) or plain) != plain:
            raise VoiceFault(f"{folder}/{CONFIG} has {key} = {told[key]!r}: only plain LoRA can be merged here; merge it with peft.")
    rank, alpha = int(told["r"]), float(told["lora_alpha"])
    return tensors, alpha / (rank**0.5 if told.get("use_rslora") else rank)
