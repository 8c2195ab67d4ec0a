"""CSM-small: the shape of the packaged voice, with random weights to begin from. It knows no training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from device.training.codec import CONFIG as CODEC
from device.voice.csm import Csm, Norm
from device.voice.shape import SPECIALS, read_shape

POSITIONS = 1024  # of the backbone: about forty seconds of both text and sound
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def config(text_ids: int) -> dict[str, Any]:
    """config.json of CSM-small, as transformers writes it."""
    from transformers import CsmConfig

    ids, books = CODEC["codebook_size"] + SPECIALS, CODEC["num_quantizers"]
    both = {"vocab_size": ids, "num_codebooks": books, "rope_parameters": ROPE, "rms_norm_eps": 1e-5}
    depth = {
        "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "backbone_hidden_size": 384, "max_position_embeddings": books + 1,
    }  # fmt: skip
    backbone = {
        "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2,
        "head_dim": 64, "max_position_embeddings": POSITIONS, "text_vocab_size": text_ids,
    }  # fmt: skip
    special = {"bos_token_id": -5, "audio_token_id": -3, "pad_token_id": -3, "audio_eos_token_id": -2}  # from the end: see alphabet.write
    numbers = {name: text_ids + place for name, place in special.items()} | {"codebook_pad_token_id": ids - 1, "codebook_eos_token_id": 0}
    whole = CsmConfig(**both, **backbone, **numbers, eos_token_id=None, depth_decoder_config={**both, **depth}, codec_config=CODEC)
    return whole.to_dict()


def begin(text_ids: int, seed: int = 0) -> tuple[Csm, dict[str, Any]]:
    """(a model that knows nothing, its config). Every weight can learn."""
    torch.manual_seed(seed)
    told = config(text_ids)
    shape = read_shape(told, "CSM-small")
    csm = Csm(shape)
    csm.text = nn.Parameter(torch.randn(text_ids, shape.backbone.width) * 0.3)
    for name, module in csm.named_modules():
        if isinstance(module, Norm):
            module.weight.requires_grad_(True)
        elif isinstance(module, nn.Linear | nn.Embedding):
            layers = (shape.depth if name.startswith("depth") else shape.backbone).layers
            # A signal keeps its size through a matrix; what a layer adds is the smaller the more layers add (GPT-2).
            spread = {"audio_embedding": 0.1, "heads": 0.02}.get(name.partition(".")[0], module.weight.shape[1] ** -0.5)
            nn.init.normal_(module.weight, 0, spread / (2 * layers) ** 0.5 if name.endswith((".out", ".down")) else spread)
    return csm, told
