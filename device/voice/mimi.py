"""Mimi, the codec CSM hears and speaks with: sound to codes and back, an 80 ms frame at a time.

It does not know CSM, text, or whose voice it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from moshi.models.loaders import get_mimi
from moshi.modules.conv import StreamingConv1d
from moshi.modules.transformer import set_attention_context
from moshi.quantization.core_vq import EuclideanCodebook
from moshi.utils.compile import no_compile
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch.nn import functional
from transformers import MimiConfig

from device.turn import FRAME, VOICE_RATE
from device.voice.mimi_decoder import STEPS, FrameDecoder, suits
from device.voice.plain import VoiceFault

BLOCK = 25  # frames encoded in one call, 2 s: longer sound is cut, for their memory is allocated once

# What moshi's Mimi can't be told (every published one is so), and what it is told from the config.
_FIXED = {
    "sampling_rate": VOICE_RATE, "audio_channels": 1, "use_causal_conv": True, "trim_right_ratio": 1.0,
    "pad_mode": "constant", "hidden_act": "gelu", "norm_eps": 1e-5, "attention_bias": False,
}
_SHAPE = {
    "seanet": {
        "channels": "audio_channels", "dimension": "hidden_size", "n_filters": "num_filters", "compress": "compress",
        "n_residual_layers": "num_residual_layers", "ratios": "upsampling_ratios", "pad_mode": "pad_mode",
        "kernel_size": "kernel_size", "last_kernel_size": "last_kernel_size",
        "residual_kernel_size": "residual_kernel_size", "dilation_base": "dilation_growth_rate",
    },
    "quantizer": {
        "dimension": "codebook_dim", "bins": "codebook_size", "n_q_semantic": "num_semantic_quantizers",
        "input_dimension": "hidden_size", "output_dimension": "hidden_size",
    },
    "transformer": {
        "d_model": "hidden_size", "input_dimension": "hidden_size", "dim_feedforward": "intermediate_size",
        "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "context": "sliding_window",
        "layer_scale": "layer_scale_initial_scale",
    },
}  # fmt: skip

# A name in moshi's Mimi, as transformers stores it (4.57 and 5.23 alike).
_CSM = [
    (r"^(encoder|decoder)\.model\.", r"\1.layers."), (r"\b(conv|convtr)(?:\.\1)+\b", "conv"),
    (r"_transformer\.transformer\.", "_transformer."), (r"\bout_projs\.0\b", "o_proj"), (r"\blinear([12])\b", r"mlp.fc\1"),
    (r"\bnorm1\b", "input_layernorm"), (r"\bnorm2\b", "post_attention_layernorm"),
    (r"\blayer_scale_1\b", "self_attn_layer_scale"), (r"\blayer_scale_2\b", "mlp_layer_scale"),
    (r"\brvq_first\b", "semantic_residual_vector_quantizer"), (r"\brvq_rest\b", "acoustic_residual_vector_quantizer"),
    (r"\.vq\.layers\.", ".layers."), (r"\._codebook\._?", ".codebook."), (r"\bembedding_sum$", "embed_sum"),
]  # fmt: skip
_CODEBOOK = re.compile(r"^quantizer\.\w+\.(?:vq\.)?layers\.(\d+)\.")

Tensors = Mapping[str, "torch.Tensor | Callable[[], torch.Tensor]"]
Config = Mapping[str, Any]
Sound = NDArray[np.float32]


class Mimi:
    """Two streams that don't disturb each other: sound to codes, and codes to sound.

    Not for two threads at once. Sound is float32 mono in [-1, 1] at 24 kHz.
    """

    def __init__(self, model: Any) -> None:
        """`model`: moshi's MimiModel with its weights in place."""
        self._model = model
        self._device = next(model.parameters()).device
        self._rest: Sound = np.zeros(0, np.float32)
        self.codebooks: int = model.num_codebooks
        self.memory = sum(int(tensor.nbytes) for tensor in model.state_dict().values())
        for module in model.modules():
            if isinstance(module, StreamingConv1d) and module._stride > 1:
                module.register_forward_pre_hook(_whole_steps)
        # None: moshi's own modules decode.
        self._decoder = FrameDecoder(model) if suits(model) else None
        for net in (model.upsample.convtr, model.decoder_transformer, model.decoder):
            net.set_streaming_detached(self._decoder is not None)
        # moshi remembers as many positions as one may look back on, and writes the new ones before
        # the first of them looks: past 10 s it saw one position too few (BLOCK frames: 49).
        networks = {model.encoder_transformer: BLOCK, model.decoder_transformer: 1}
        contexts = {net: net.transformer.layers[0].self_attn.context for net in networks}
        for net, frames in networks.items():
            set_attention_context(net, contexts[net] + STEPS * frames - 1)
        model.streaming_forever(1)
        for net, context in contexts.items():
            set_attention_context(net, context)

    @property
    def moshi(self) -> Any:
        """moshi's MimiModel, for its tensors."""
        return self._model

    def start(self) -> None:
        """Forget what was encoded and decoded before."""
        self.start_encoding()
        self.start_decoding()

    @torch.inference_mode()
    def start_encoding(self) -> None:
        """Forget what was encoded before, and sound that isn't a frame yet."""
        self._rest = np.zeros(0, np.float32)
        for net in (self._model.encoder, self._model.encoder_transformer, self._model.downsample.conv):
            net.reset_streaming()

    @torch.inference_mode()
    def start_decoding(self) -> None:
        """Forget what was decoded before."""
        if self._decoder is not None:
            return self._decoder.start()
        for net in (self._model.upsample.convtr, self._model.decoder_transformer, self._model.decoder):
            net.reset_streaming()

    def encode(self, sound: Sound) -> torch.Tensor:
        """`sound` of any length; long (frames, codebooks): the frames that became whole.

        The samples after them are kept for the next call. Raises TypeError unless float32.
        """
        if sound.dtype != np.float32:
            raise TypeError(f"Mimi hears float32 samples in [-1, 1], not {sound.dtype}.")
        self._rest = np.concatenate([self._rest, sound])
        codes = [torch.zeros(0, self.codebooks, dtype=torch.long, device=self._device)]
        while frames := min(len(self._rest) // FRAME, BLOCK):
            codes.append(self._codes(self._rest[: frames * FRAME]))
            self._rest = self._rest[frames * FRAME :]
        return torch.cat(codes)

    def encode_rest(self) -> torch.Tensor:
        """Long (0 or 1, codebooks): the last, incomplete frame. The stream ends with it.

        It is filled up as transformers does it (after each layer), not with silence: the two
        give other codes for that frame.
        """
        codes = self._codes(self._rest) if len(self._rest) else self.encode(self._rest)
        self.start_encoding()
        return codes

    def encode_all(self, sound: Sound) -> torch.Tensor:
        """Long (ceil(n / 1920), codebooks) of `sound` (n,) alone. Ends the stream of encode()."""
        self.start_encoding()
        return torch.cat([self.encode(sound), self.encode_rest()])

    @torch.inference_mode()
    @no_compile()
    def decode(self, codes: torch.Tensor) -> Sound:
        """float32 (1920,): the next frame, of long (codebooks,).

        Raises ValueError for another shape. An id past the codebook is an IndexError on a CPU and
        the end of the process on a GPU: looking first would wait for the GPU.
        """
        if codes.shape != (self.codebooks,):
            raise ValueError(f"A frame is {self.codebooks} codes, not {tuple(codes.shape)}.")
        if self._decoder is not None:
            return self._decoder.step(codes).numpy().copy()
        sound = self._model.decode(codes.to(self._device).view(1, -1, 1))
        return sound.view(-1).float().cpu().numpy()

    @torch.inference_mode()
    @no_compile()  # moshi would, on a GPU: the device has no compiler, and need not wait for one
    def _codes(self, sound: Sound) -> torch.Tensor:
        """Long (frames, codebooks) of the next frames; only the last may be incomplete."""
        x = torch.from_numpy(sound).to(self._device).view(1, 1, -1)
        if len(sound) == FRAME:  # on a GPU this is a CUDA graph, which knows a single shape
            codes = self._model.encode(x)
        else:
            latent = self._model.downsample(*self._model.encoder_transformer(self._model.encoder(x)))
            codes = self._model.quantizer.encode(latent)
        return codes[0].T


def from_csm(config: Config, tensors: Tensors, device: str, codebooks: int, dtype: torch.dtype = torch.float32) -> Mimi:
    """Mimi out of a CSM checkpoint, with its first `codebooks` codebooks.

    `config` is "codec_config" of its config.json, `tensors` what is stored under "codec_model."
    (without that prefix), or functions that read it. `dtype` is the decoder's; the encoder stays
    float32, for its codes must not depend on it. Raises VoiceFault naming what is wrong.
    """
    return _fill(network(config, codebooks), tensors, stored_names, "codec_model.", device, dtype)


def from_kyutai(file: Path, device: str, codebooks: int, dtype: torch.dtype = torch.float32, config: Config | None = None) -> Mimi:
    """Mimi out of Kyutai's own safetensors file (names of moshi), else like from_csm().

    The file has no config: Mimi's published shape is taken unless `config` says another.
    """
    try:
        with safe_open(file, "pt") as stored:
            tensors = {name: partial(stored.get_tensor, name) for name in stored.keys()}  # noqa: SIM118
            return _fill(network(config or {}, codebooks), tensors, kyutai_names, f"{file.name}: ", device, dtype)
    except (OSError, SafetensorError) as error:
        raise VoiceFault(f"{file} can't be read ({error}): fetch it again.") from None


def network(config: Config, codebooks: int, device: str = "meta") -> Any:
    """moshi's MimiModel in the shape of transformers' `config`, with random weights; "meta" has no memory for them."""
    full = MimiConfig(**config)
    # transformers 4.57 writes rope_theta, 5 rope_parameters; each reads the other's as it likes.
    rope = config.get("rope_parameters") or {}
    fixed = _FIXED | {
        "upsample_groups": full.hidden_size,
        "head_dim": full.hidden_size // full.num_attention_heads,
        "codebook_dim": full.vector_quantization_hidden_dimension,
    }
    wrong = [f"{key} {getattr(full, key)} (not {value})" for key, value in fixed.items() if getattr(full, key) != value]
    if rope.get("rope_type", "default") != "default":
        wrong.append(f"rope_type {rope['rope_type']} (not default)")
    if STEPS * math.prod(full.upsampling_ratios) != FRAME:
        wrong.append(f"upsampling_ratios {full.upsampling_ratios} (not {FRAME} samples a frame)")
    if not full.num_semantic_quantizers < codebooks <= full.num_quantizers:
        wrong.append(f"{full.num_quantizers} codebooks (not the {codebooks} asked for)")
    if wrong:
        raise VoiceFault(f"The codec of this checkpoint can't be used, it has {', '.join(wrong)}: choose another.")
    shape: dict[str, Any] = {"sample_rate": VOICE_RATE, "channels": 1, "frame_rate": VOICE_RATE / FRAME}
    for part, keys in _SHAPE.items():
        shape[part] = {key: getattr(full, theirs) for key, theirs in keys.items()}
    shape["seanet"] |= {"causal": True, "true_skip": not full.use_conv_shortcut}
    shape["quantizer"] |= {"n_q": codebooks}
    shape["transformer"] |= {
        "causal": True, "conv_layout": True, "output_dimensions": [full.hidden_size], "positional_embedding": "rope",
        "kv_repeat": full.num_attention_heads // full.num_key_value_heads,
        "max_period": float(config.get("rope_theta") or rope.get("rope_theta") or 10_000),
    }  # fmt: skip
    with torch.device(device):
        return get_mimi(None, shape, device=device, num_codebooks=codebooks)


def _fill(model: Any, tensors: Tensors, names: Callable[[str], list[str]], where: str, device: str, dtype: torch.dtype) -> Mimi:
    """`model` with its weights: each from the stored tensors that `names` gives for it."""
    half = model.dimension // model.encoder_transformer.transformer.layers[0].self_attn.num_heads // 2
    used: set[str] = set()
    weights = {}
    for target, empty in model.state_dict().items():
        stored = names(target)
        used.update(stored)
        size = model.dimension  # queries have it, keys and values may have fewer heads
        rows = [size, *[(len(empty) - size) // 2] * 2] if len(stored) == 3 else [len(empty)]
        parts = [_read(tensors, name, (n, *empty.shape[1:]), where) for name, n in zip(stored, rows, strict=True)]
        if len(stored) == 3:  # transformers turns a head's halves against each other, moshi neighbours
            parts[:2] = [part.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2) for part in parts[:2]]
        kind = dtype if target.startswith(("decoder", "upsample")) else torch.float32
        # cat copies: weights that are pages of a file may be dropped, and come back amid a word.
        weights[target] = torch.cat(parts).to(device, kind)
    kept = model.num_codebooks - model.quantizer.n_q_semantic
    for name in tensors.keys() - used:
        codebook = _CODEBOOK.match(name)
        if codebook is None or int(codebook[1]) < kept:
            raise VoiceFault(f"{where}{name} is in the checkpoint, but this Mimi has no place for it: fetch it again.")
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, EuclideanCodebook):
            module.embedding_sum = module.embedding  # else both stay: 67 MB
            module.cluster_usage.fill_(1)
    model.upsample.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    return Mimi(model)


def _read(tensors: Tensors, name: str, shape: tuple[int, ...], where: str) -> torch.Tensor:
    """The stored tensor `name`. Raises VoiceFault unless it is there and of `shape`."""
    if name not in tensors:
        raise VoiceFault(f"{where}{name} is missing from the checkpoint: fetch it again.")
    found = tensors[name]
    tensor = found if isinstance(found, torch.Tensor) else found()
    if tuple(tensor.shape) != shape:
        raise VoiceFault(f"{where}{name} has shape {tuple(tensor.shape)}, not {shape}: fetch the checkpoint again.")
    return tensor


def stored_names(target: str) -> list[str]:
    """The stored tensors that make up moshi's `target`: the query, key and value, or the one."""
    for pattern, instead in _CSM:
        target = re.sub(pattern, instead, target)
    return [target.replace("in_projs.0", f"{part}_proj") for part in "qkv"] if "in_projs" in target else [target]


def kyutai_names(target: str) -> list[str]:
    """The one tensor of Kyutai's file that is moshi's `target`: the file is older than moshi's names."""
    return [target.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0", "out_proj")]


def _whole_steps(conv: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
    """Fill the last step of a strided layer, as transformers does: only sound's end needs it."""
    short = -inputs[0].shape[-1] % conv._stride
    return (functional.pad(inputs[0], (0, short), conv.pad_mode),) if short else None
