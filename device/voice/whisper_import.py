"""Turns a Whisper in CTranslate2's format into a folder that transformers loads.

It knows nothing of packages, of downloading or of listening, and needs no torch.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

# DataType in CTranslate2's include/ctranslate2/types.h; 5 (bfloat16) has no numpy type.
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
SPEC, VERSIONS = "WhisperSpec", (5, 6)
BLANK = 220  # a lone space
MULTILINGUAL = 51865  # size of the vocabulary; an English-only Whisper has one less, ids shifted

Tensors = dict[str, np.ndarray]


class NotWhisper(ValueError):
    """The file isn't a CTranslate2 Whisper of a version this reader knows."""


class _Reader:
    """Little-endian fields of model.bin, in order."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return int(value)

    def string(self) -> str:
        size = self.number("H")  # the length counts the closing zero byte
        text = self.data[self.at : self.at + size - 1].decode()
        self.at += size
        return text

    def array(self) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = np.dtype(DTYPES[self.number("B")])
        size = self.number("I")
        values = np.frombuffer(self.data, dtype, count=size // dtype.itemsize, offset=self.at)
        self.at += size
        return values.reshape(shape)


def read_tensors(model_bin: Path) -> Tensors:
    """Every tensor of a CTranslate2 model.bin by its name there. Raises NotWhisper."""
    reader = _Reader(model_bin.read_bytes())
    try:
        version, spec = reader.number("I"), reader.string()
        if spec != SPEC or version not in VERSIONS:
            raise NotWhisper(
                f"{model_bin}: holds {spec} in version {version}; only {SPEC}, version 5 or 6, can be read."
            )
        reader.number("I")  # revision of the specification
        tensors: Tensors = {}
        for _ in range(reader.number("I")):
            name = reader.string()
            tensors[name] = reader.array()
        for _ in range(reader.number("I")):  # names that share a tensor
            alias, name = reader.string(), reader.string()
            tensors[alias] = tensors[name]
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise NotWhisper(
            f"{model_bin}: is cut short or isn't a CTranslate2 model ({error})."
        ) from None
    except ValueError as error:
        if isinstance(error, NotWhisper):
            raise
        raise NotWhisper(f"{model_bin}: is cut short ({error}).") from None
    return tensors


def to_transformers(source: Tensors) -> Tensors:
    """The same weights under the names of WhisperForConditionalGeneration.

    CTranslate2 stacks q, k and v of self-attention in one matrix, and k and v of cross-attention
    in another; k has no bias in Whisper. proj_out is tied to the embedding and left out.
    """
    out: Tensors = {}

    def copy(old: str, new: str, names: dict[str, str]) -> None:
        for ours, theirs in names.items():
            if f"{old}/{ours}" in source:
                out[f"{new}.{theirs}"] = source[f"{old}/{ours}"]

    def linear(old: str, new: str) -> None:
        copy(old, new, {"weight": "weight", "bias": "bias"})

    def norm(old: str, new: str) -> None:
        copy(old, new, {"gamma": "weight", "beta": "bias"})

    def split(old: str, new: str, parts: str) -> None:
        weights = np.split(source[f"{old}/weight"], len(parts))
        biases = np.split(source[f"{old}/bias"], len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            out[f"{new}.{part}_proj.weight"] = weight
            if part != "k":
                out[f"{new}.{part}_proj.bias"] = bias

    for number in (1, 2):
        linear(f"encoder/conv{number}", f"model.encoder.conv{number}")
    for side in ("encoder", "decoder"):
        out[f"model.{side}.embed_positions.weight"] = source[f"{side}/position_encodings/encodings"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for number in range(layers(source, side)):
            old, new = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
            split(f"{old}/self_attention/linear_0", f"{new}.self_attn", "qkv")
            linear(f"{old}/self_attention/linear_1", f"{new}.self_attn.out_proj")
            norm(f"{old}/self_attention/layer_norm", f"{new}.self_attn_layer_norm")
            if side == "decoder":
                linear(f"{old}/attention/linear_0", f"{new}.encoder_attn.q_proj")
                split(f"{old}/attention/linear_1", f"{new}.encoder_attn", "kv")
                linear(f"{old}/attention/linear_2", f"{new}.encoder_attn.out_proj")
                norm(f"{old}/attention/layer_norm", f"{new}.encoder_attn_layer_norm")
            linear(f"{old}/ffn/linear_0", f"{new}.fc1")
            linear(f"{old}/ffn/linear_1", f"{new}.fc2")
            norm(f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
    out["model.decoder.embed_tokens.weight"] = source["decoder/embeddings/weight"]
    return out


def layers(source: Tensors, side: str) -> int:
    """How many layers one side has."""
    prefix = f"{side}/layer_"
    found = (n[len(prefix) :].split("/")[0] for n in source if n.startswith(prefix))
    return len({name for name in found if name.isdigit()})


def config(source: Tensors, tokens: dict[str, int]) -> dict[str, Any]:
    """config.json of transformers, read from the shapes. Every Whisper has heads 64 wide."""
    vocabulary, width = source["decoder/embeddings/weight"].shape
    heads = width // 64
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "torch_dtype": "float16",
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": source["encoder/conv1/weight"].shape[1],
        "encoder_layers": layers(source, "encoder"),
        "decoder_layers": layers(source, "decoder"),
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * width,
        "decoder_ffn_dim": 4 * width,
        "max_source_positions": source["encoder/position_encodings/encodings"].shape[0],
        "max_target_positions": source["decoder/position_encodings/encodings"].shape[0],
        **_ends(tokens),
    }


def generation(source: dict[str, Any], vocabulary: int, tokens: dict[str, int]) -> dict[str, Any]:
    """generation_config.json from CTranslate2's config.json and the tokenizer's special tokens.

    `suppress_ids` are the non-speech symbols ("[", "(", "♪") and the special tokens: without them
    Whisper writes "[Music]" and "(coughs)".
    """
    out = {
        **_ends(tokens),
        "max_length": 448,
        "is_multilingual": vocabulary >= MULTILINGUAL,
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "suppress_tokens": [i for i in source.get("suppress_ids", []) if i >= 0],
        "begin_suppress_tokens": [BLANK, tokens["<|endoftext|>"]],
        "return_timestamps": False,
    }
    if out["is_multilingual"]:
        languages = range(tokens["<|startoftranscript|>"] + 1, tokens["<|translate|>"])
        out["lang_to_id"] = {t: i for t, i in tokens.items() if i in languages}
        out["task_to_id"] = {t: tokens[f"<|{t}|>"] for t in ("transcribe", "translate")}
    return out


def _ends(tokens: dict[str, int]) -> dict[str, int]:
    end = tokens["<|endoftext|>"]
    start = tokens["<|startoftranscript|>"]
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return {**ends, "decoder_start_token_id": start}


def write(model_bin: Path, ct2_config: Path, tokenizer: Path, folder: Path) -> None:
    """A folder that transformers loads: config, weights in float16, tokenizer, feature extractor."""
    from safetensors.numpy import save_file

    source = read_tensors(model_bin)
    words = json.loads(tokenizer.read_text(encoding="utf-8"))
    tokens = {t["content"]: t["id"] for t in words["added_tokens"]}
    shape = config(source, tokens)
    options = json.loads(ct2_config.read_text(encoding="utf-8"))
    files: dict[str, Any] = {
        "config.json": shape,
        "generation_config.json": generation(options, shape["vocab_size"], tokens),
        "preprocessor_config.json": {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "processor_class": "WhisperProcessor",
            "feature_size": shape["num_mel_bins"],
            "sampling_rate": 16000,
            "hop_length": 160,
            "n_fft": 400,
            "chunk_length": 30,
            "padding_value": 0.0,
            "return_attention_mask": False,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "WhisperProcessor",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    half = {
        n: np.ascontiguousarray(v, dtype=np.float16) for n, v in to_transformers(source).items()
    }
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
