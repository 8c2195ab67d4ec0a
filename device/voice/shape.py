"""The shape of a CSM checkpoint, read from its config.json. It knows no tensor.

Sources: SesameAILabs/csm models.py (its two flavours); transformers' CsmConfig (everything else).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from device.voice.plain import VoiceFault

SPECIALS = 3  # ids after Mimi's own in each codebook: 2048, 2049 and 2050 are never a sound


@dataclass(frozen=True)
class Rope:
    """Rotary positions with Llama 3's scaling: beyond `original` positions, slow angles are `factor` slower. 1 is none."""

    theta: float = 500_000.0
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


@dataclass(frozen=True)
class StackShape:
    """One of the two transformers: widths, heads, and how many positions it can see."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    positions: int
    eps: float = 1e-5
    rope: Rope = Rope()


@dataclass(frozen=True)
class Shape:
    """A whole CSM: CSM-1B has 32 codebooks of 2048 sounds and 3 other ids."""

    backbone: StackShape
    depth: StackShape
    codebooks: int = 32
    ids: int = 2051  # of each codebook
    sounds: int = 2048  # of them, the ids that Mimi can decode
    text_ids: int = 128_256
    tied: bool = True  # one audio embedding for both transformers

    @property
    def kv_numbers(self) -> int:
        """Keys and values that the backbone's cache holds."""
        b = self.backbone
        return 2 * b.layers * b.kv_heads * b.head * b.positions


_SCALED = Rope(factor=32.0)
FLAVOURS = {
    "llama-1B": StackShape(2048, 16, 32, 8, 64, 8192, 2048, rope=_SCALED),
    "llama-100M": StackShape(1024, 4, 8, 2, 128, 8192, 32, rope=_SCALED),
    # Not Sesame's: the two of CSM-small (device/training/small.py), so that it can be written in that layout.
    "csm-small-backbone": StackShape(384, 8, 6, 2, 64, 1024, 1024, rope=Rope(10_000.0)),
    "csm-small-depth": StackShape(256, 3, 4, 2, 64, 768, 8, rope=Rope(10_000.0)),
}
CSM_1B = Shape(FLAVOURS["llama-1B"], FLAVOURS["llama-100M"])


def read_shape(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that `config` (config.json) gives. `name` is for errors. Raises VoiceFault."""
    try:
        if not isinstance(config, Mapping):
            raise TypeError("it is no object of settings")
        if config.get("model_type") == "csm" or "depth_decoder_config" in config:
            return _transformers(config)
        if "backbone_flavor" in config:
            return _sesame(config)
        kind = config.get("model_type", "unknown")
        raise VoiceFault(f"{name} is a checkpoint of the kind {kind!r}, not CSM: give a CSM checkpoint in voice.csm_model.")
    except KeyError as error:
        raise VoiceFault(f"{name}/config.json does not describe a CSM (it has no {error}): fetch it again.") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise VoiceFault(f"{name}/config.json does not describe a CSM ({error}): fetch it again.") from error


def _sesame(config: Mapping[str, Any]) -> Shape:
    parts = []
    for key in ("backbone_flavor", "decoder_flavor"):
        if config[key] not in FLAVOURS:
            raise ValueError(f"{key} {config[key]!r}; known are {', '.join(FLAVOURS)}")
        parts.append(FLAVOURS[config[key]])
    books, ids = int(config["audio_num_codebooks"]), int(config["audio_vocab_size"])
    return Shape(parts[0], replace(parts[1], positions=books), books, ids, ids - SPECIALS, int(config["text_vocab_size"]))


def _transformers(config: Mapping[str, Any]) -> Shape:
    books, ids = int(config.get("num_codebooks", 32)), int(config.get("vocab_size", 2051))
    depth = config["depth_decoder_config"]
    if int(depth.get("num_codebooks", 32)) != books or int(depth.get("vocab_size", 2051)) != ids:
        raise ValueError("its two transformers disagree about the codebooks")
    backbone = _stack(config, FLAVOURS["llama-1B"], int(config.get("max_position_embeddings", 2048)))
    return Shape(
        backbone,
        _stack(depth, FLAVOURS["llama-100M"], books),
        books,
        ids,
        int((config.get("codec_config") or {}).get("codebook_size", ids - SPECIALS)),
        int(config.get("text_vocab_size", 128_256)),
        bool(config.get("tie_codebooks_embeddings", True)),
    )


def _stack(config: Mapping[str, Any], default: StackShape, positions: int) -> StackShape:
    for key, value in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if config.get(key, value) != value:
            raise ValueError(f"{key} = {config[key]!r}, which CSM has not")
    width = int(config.get("hidden_size", default.width))
    heads = int(config.get("num_attention_heads", default.heads))
    kv_heads = int(config.get("num_key_value_heads", default.kv_heads) or heads)  # null is as many as heads
    head = int(config.get("head_dim") or width // heads)
    if min(width, heads, kv_heads, head) < 1 or heads % kv_heads or head % 2:
        raise ValueError(f"{heads} heads of {head} on {kv_heads} key and value heads")
    layers, ffn = int(config.get("num_hidden_layers", default.layers)), int(config.get("intermediate_size", default.ffn))
    if min(layers, ffn, positions) < 1:
        raise ValueError(f"{layers} layers of {ffn} for {positions} positions")
    return StackShape(
        width,
        layers,
        heads,
        kv_heads,
        head,
        ffn,
        positions,
        float(config.get("rms_norm_eps", 1e-5)),
        _rope(config),
    )


def _rope(config: Mapping[str, Any]) -> Rope:
    """transformers 5 says rope_parameters; 4 says rope_scaling and rope_theta."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(found.get("rope_theta", config.get("rope_theta") or 500_000.0))
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind != "llama3":
        raise ValueError(f"rope_type {kind!r}; known are default and llama3")
    return Rope(
        theta,
        float(found["factor"]),
        float(found["low_freq_factor"]),
        float(found["high_freq_factor"]),
        int(found["original_max_position_embeddings"]),
    )
