"""Builds a tiny CSM checkpoint with random weights and its processor, offline, in a second or two.

It does not know the tests; what it makes speaks noise in the right shapes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CODEBOOKS, CODEBOOK = 4, 64  # CSM-1B: 32 and 2048
TEMPLATE = (
    "{% for message in messages %}<|begin_of_text|>[{{ message['role'] }}]"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|end_of_text|>"
    "{% for part in message['content'] if part['type'] == 'audio' %}"
    "<|AUDIO|><|audio_eos|>{% endfor %}{% endfor %}"
)
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>"]


# Shapes as unlike each other as CSM's config allows: widths, heads, key heads, codebooks, seed.
SHAPES: dict[str, dict[str, Any]] = {
    "square": {"seed": 1},
    "wide": {"seed": 2, "width": 64, "heads": 8, "kv": 2, "depth_width": 32, "depth_heads": 4, "depth_kv": 2, "layers": 3},
    "many": {"seed": 3, "width": 48, "heads": 3, "kv": 3, "depth_width": 64, "depth_heads": 2, "depth_kv": 1, "codebooks": 8},
    "scaled": {"seed": 4, "width": 64, "heads": 4, "kv": 1, "depth_width": 32, "depth_heads": 2, "depth_kv": 2, "scaled": True},
}


def build(folder: Path, positions: int = 2048, seed: int = 0, **shape: Any) -> Path:
    """A checkpoint as save_pretrained writes it; `positions` is its longest prompt and answer."""
    import torch
    from transformers import CsmForConditionalGeneration

    torch.manual_seed(seed)
    model = CsmForConditionalGeneration(config(positions, **shape)).eval()
    model.generation_config.update(do_sample=True, temperature=0.9, top_k=50)
    with torch.no_grad():
        tie(model)
        # An untrained codebook has one and the same entry everywhere: all sound would be one code.
        for name, buffer in model.codec_model.named_buffers():
            if name.endswith("embed_sum"):
                buffer.normal_()
            if name.endswith("cluster_usage"):
                buffer.fill_(1.0)
    model.save_pretrained(folder)
    _processor().save_pretrained(folder)
    return folder


def tie(model: Any) -> None:
    """One audio embedding, as CSM has: transformers up to 5.20 makes two that differ, and does not tie what it loads."""
    model.backbone_model.embed_tokens.embed_audio_tokens.weight.data.copy_(model.depth_decoder.model.embed_tokens.weight.data)


def config(
    positions: int,
    width: int = 32,
    heads: int = 2,
    kv: int = 1,
    layers: int = 2,
    depth_width: int = 32,
    depth_heads: int = 2,
    depth_kv: int = 1,
    codebooks: int = CODEBOOKS,
    scaled: bool = False,
    ffn: int = 64,
):  # type: ignore[no-untyped-def]
    """A tiny CsmConfig. `scaled` gives it CSM-1B's own rotary scaling, as its config.json has it."""
    from transformers import CsmConfig, MimiConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    # Mimi's strides stay: 8·6·5·4·2 = 1920 samples a frame, which the processor counts with.
    mimi = MimiConfig(
        **small,
        num_filters=4,
        codebook_size=CODEBOOK,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=codebooks,
        upsample_groups=32,
        sliding_window=250,
    )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 500_000.0}
    rope_depth = rope
    if scaled:
        rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "original_max_position_embeddings": 1024}
        rope |= {"low_freq_factor": 0.125, "high_freq_factor": 0.5}
        rope_depth = rope | {"original_max_position_embeddings": 16, "low_freq_factor": 0.001953125, "high_freq_factor": 0.0078125}
    start = 256
    return CsmConfig(
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        num_codebooks=codebooks,
        rope_parameters=rope,
        vocab_size=CODEBOOK + 3,
        codebook_pad_token_id=CODEBOOK + 2,
        codebook_eos_token_id=0,
        text_vocab_size=start + len(SPECIALS),
        bos_token_id=start,
        eos_token_id=None,
        audio_token_id=start + 2,
        pad_token_id=start + 2,
        audio_eos_token_id=start + 3,
        max_position_embeddings=positions,
        depth_decoder_config={
            "hidden_size": depth_width,
            "intermediate_size": ffn,
            "num_hidden_layers": 2,
            "num_attention_heads": depth_heads,
            "num_key_value_heads": depth_kv,
            "num_codebooks": codebooks,
            "backbone_hidden_size": width,
            "vocab_size": CODEBOOK + 3,
            "max_position_embeddings": codebooks + 1,
            "rope_parameters": rope_depth,
        },
        codec_config=mimi.to_dict(),
    )


# Sesame's names for transformers' tensors.
SESAME = [
    ("depth_decoder.model.embed_tokens.weight", "audio_embeddings.weight"),
    ("depth_decoder.model.inputs_embeds_projector", "projection"),
    ("depth_decoder.codebooks_head.weight", "audio_head"),
    ("depth_decoder.model.", "decoder."),
    ("backbone_model.", "backbone."),
    ("embed_text_tokens", "text_embeddings"),
    ("lm_head", "codebook0_head"),
    ("self_attn.o_proj", "attn.output_proj"),
    ("self_attn.", "attn."),
    ("mlp.gate_proj", "mlp.w1"),
    ("mlp.up_proj", "mlp.w3"),
    ("mlp.down_proj", "mlp.w2"),
    ("post_attention_layernorm.weight", "mlp_norm.scale"),
    ("input_layernorm.weight", "sa_norm.scale"),
    ("norm.weight", "norm.scale"),
]


# transformers up to 5.20 writes the tied audio embedding twice, later ones only the depth decoder's.
TIED = "backbone_model.embed_tokens.embed_audio_tokens.weight"


def to_sesame(source: Path, folder: Path, file: str = "model.safetensors") -> Path:
    """The checkpoint of `source` in Sesame's own layout: its names, interleaved rotary pairs, no Mimi in the weights."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shape = json.loads((source / "config.json").read_text())
    out = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.startswith("codec_model.") or name == TIED:
            continue
        stack = shape["depth_decoder_config"] if name.startswith("depth_decoder") else shape
        for part, heads in (("q_proj", stack["num_attention_heads"]), ("k_proj", stack["num_key_value_heads"])):
            if part in name:  # the halves of a head become neighbours
                tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape).contiguous()
        for theirs, ours in SESAME:
            name = name.replace(theirs, ours)
        out[name] = tensor
    folder.mkdir()
    if file.endswith(".pt"):
        torch.save(out, folder / file)
    else:
        save_file(out, folder / file)
    for extra in ("config.json", "tokenizer.json"):
        shutil.copy(source / extra, folder)
    return folder


def _processor():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CsmProcessor, EncodecFeatureExtractor, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, *SPECIALS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
        pad_token=SPECIALS[2],
    )
    ears = EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000)
    return CsmProcessor(ears, fast, chat_template=TEMPLATE)
