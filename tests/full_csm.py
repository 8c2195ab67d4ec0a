"""A checkpoint of CSM-1B's own shape with random weights, written shard by shard: 6.2 GB on disk, 2 GB in memory.

Its Mimi is a tiny one with CSM's codebooks. It does not know the tests; delete what it writes.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tiny_csm

SHARD = 900_000_000  # bytes; the text table is longer and has its own
# sesame/csm-1b's config.json, in its two files: the repository's own, and the one for transformers.
SESAMES_CONFIG = {
    "audio_num_codebooks": 32,
    "audio_vocab_size": 2051,
    "backbone_flavor": "llama-1B",
    "decoder_flavor": "llama-100M",
    "text_vocab_size": 128_256,
}
ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0}
BACKBONE_ROPE = ROPE | {"original_max_position_embeddings": 1024, "low_freq_factor": 0.125, "high_freq_factor": 0.5}
DEPTH_ROPE = ROPE | {"original_max_position_embeddings": 16, "low_freq_factor": 0.001953125, "high_freq_factor": 0.0078125}
FIRST_SPECIAL = 128_000  # of text ids: the four of tiny_csm.SPECIALS, in Llama 3's and CSM's order


def config() -> Any:
    """transformers' defaults are CSM-1B's but for the rotary scaling; Mimi's strides stay, which the processor counts with."""
    from transformers import CsmConfig, MimiConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    mimi = MimiConfig(
        **small,
        num_filters=4,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=32,
        upsample_groups=32,
        sliding_window=250,
    )
    return CsmConfig(
        rope_parameters=BACKBONE_ROPE,
        depth_decoder_config={"rope_parameters": DEPTH_ROPE, "max_position_embeddings": 33},
        codec_config=mimi.to_dict(),
    )


def build(folder: Path, seed: int = 0) -> Path:
    """The checkpoint in transformers' layout, with its tokenizer."""
    from device.voice.checkpoint import expected_sizes
    from device.voice.random_weights import Noise
    from device.voice.shape import read_shape

    shape = config()
    shape.save_pretrained(folder)
    processor().tokenizer.save_pretrained(folder)
    sizes = expected_sizes(read_shape(json.loads((folder / "config.json").read_text()), "full"), "transformers")
    del sizes["backbone_model.embed_tokens.embed_audio_tokens.weight"]  # tied: transformers 5 writes the depth decoder's alone
    noise = Noise(seed)

    def tensors() -> Iterator[tuple[str, Any]]:
        for name, size in sizes.items():
            if "norm" in name:
                yield name, noise.tensor(size, 0.1).add_(1)
            else:
                yield name, noise.tensor(size, _spread(name, size))
        yield from _codec(shape.codec_config, seed).items()

    _write(folder, tensors())
    return folder


def _spread(name: str, size: tuple[int, ...]) -> float:
    """Each layer's output is of unit size, and the logits are three times that: no arg-max is a near tie by design."""
    if name == "embed_text_tokens.weight":
        return 1.0
    if name == "depth_decoder.model.embed_tokens.weight":
        return 1 / math.sqrt(32)  # a frame is the sum of 32 rows
    if name in ("lm_head.weight", "depth_decoder.codebooks_head.weight"):
        return 3 / math.sqrt(size[1])
    return 1 / math.sqrt(size[1])


def _codec(shape: Any, seed: int) -> dict[str, Any]:
    """As save_pretrained names them, which are not the names in memory."""
    import torch
    from safetensors.torch import load_file
    from transformers import MimiModel

    torch.manual_seed(seed)
    model = MimiModel(shape)
    for name, buffer in model.named_buffers():  # untrained, all sound would be one code
        if name.endswith("embed_sum"):
            buffer.normal_()
        if name.endswith("cluster_usage"):
            buffer.fill_(1.0)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return {f"codec_model.{name}": tensor.clone() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}


def _write(folder: Path, tensors: Iterator[tuple[str, Any]]) -> None:
    """Shards and their index."""
    from safetensors.torch import save_file

    where: dict[str, str] = {}
    shard: dict[str, Any] = {}
    number = 0

    def end() -> None:
        nonlocal number
        number += 1
        file = f"model-{number:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD:
            end()
        shard[name] = tensor
    end()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def to_sesame(source: Path, folder: Path) -> Path:
    """The same weights in Sesame's layout with Sesame's config.json: its names, interleaved rotary pairs, no Mimi."""
    from safetensors import safe_open

    where: Mapping[str, str] = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    heads = {"backbone_model": {"q_proj": 32, "k_proj": 8}, "depth_decoder": {"q_proj": 8, "k_proj": 2}}

    def tensors() -> Iterator[tuple[str, Any]]:
        for file in sorted(set(where.values())):
            with safe_open(source / file, "pt") as stored:
                for name in stored.keys():  # noqa: SIM118 (it is no dict)
                    if name.startswith("codec_model."):
                        continue
                    tensor = stored.get_tensor(name)
                    for part, count in heads.get(name.partition(".")[0], {}).items():
                        if part in name:  # the halves of a head become neighbours
                            tensor = tensor.view(count, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape).contiguous()
                    for theirs, ours in tiny_csm.SESAME:
                        name = name.replace(theirs, ours)
                    yield name, tensor

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SESAMES_CONFIG))
    _write(folder, tensors())
    return folder


def processor() -> Any:
    """transformers' processor with a tokenizer of bytes whose ids are spread over the whole text table."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CsmProcessor, EncodecFeatureExtractor, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: 499 * number for number, letter in enumerate(alphabet)}
    vocab |= {special: FIRST_SPECIAL + number for number, special in enumerate(tiny_csm.SPECIALS)}
    taken = set(vocab.values())
    vocab |= {f"<{number}>": number for number in range(FIRST_SPECIAL) if number not in taken}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tiny_csm.SPECIALS)
    begin, end, pad = tiny_csm.SPECIALS[:3]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=pad)
    return CsmProcessor(EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000), fast, chat_template=tiny_csm.TEMPLATE)


class Memory:
    """The most private memory, in bytes, that this process took while the block ran, looked at every 5 ms."""

    def __enter__(self) -> Memory:
        self._began = private()
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.peak = max(self.peak, private() - self._began)


def private() -> int:
    """Bytes of anonymous memory, which no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
