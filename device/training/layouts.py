"""A trained model as folders that are complete in themselves, in both layouts that `bedside` loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from device.training import export
from device.training.trainable import Trainable
from device.voice.checkpoint import CODEC
from device.voice.csm import Csm
from device.voice.plain import VoiceFault
from device.voice.tokens import BEGIN

TOKENIZER, MIMI = "tokenizer.json", "mimi.safetensors"
# What transformers' processor needs beside the weights, where the first checkpoint had it.
BESIDE = ("tokenizer*.json", "special_tokens_map.json", "*processor_config.json", "generation_config.json", "*.jinja")


def write(base: Trainable, csm: Csm, folder: Path) -> None:
    """`csm`, made from `base`, in transformers' layout: Mimi, tokenizer and processor with it. In the dtype of `base`."""
    codec, config = base.checkpoint.codec(), dict(base.checkpoint.config)
    config.pop("transformers_weights", None)  # names a file that is not here
    if not codec:
        codec = export.codec_tensors(base.mimi.moshi)
        config = _config(base, config)
    _weights(base, csm, folder, "transformers", config, codec)
    for pattern in BESIDE:
        for file in base.checkpoint.folder.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def write_sesames(base: Trainable, csm: Csm, folder: Path) -> None:
    """The same in Sesame's layout, Mimi beside it under Kyutai's names. Raises ValueError for a shape that it can't say."""
    from safetensors.torch import save_file

    _weights(base, csm, folder, "sesame", base.checkpoint.config, {})
    for name in (TOKENIZER, "generation_config.json"):
        for file in base.checkpoint.folder.glob(name):
            shutil.copyfile(file, folder / name)
    save_file({name: tensor.clone() for name, tensor in export.kyutai_tensors(base.mimi.moshi).items()}, folder / MIMI)


def _weights(base: Trainable, csm: Csm, folder: Path, layout: str, config: dict[str, Any], codec: dict[str, Tensor]) -> None:
    kind = next(base.checkpoint.read(name).dtype for name in base.checkpoint.sizes if not name.startswith(CODEC))
    try:
        export.write(folder, csm, config, codec, kind, layout, next((tensor.dtype for tensor in codec.values()), None))
    except OSError as error:
        raise VoiceFault(f"{folder} can't be written ({error.strerror}): free space there, or choose another --out.") from None


def _config(base: Trainable, config: dict[str, Any]) -> dict[str, Any]:
    """transformers' config.json, whatever kind `base` has, with a codec of as many codebooks as are written."""
    from tokenizers import Tokenizer
    from transformers import MimiConfig

    codec = MimiConfig(**(config.get("codec_config") or {})).to_dict() | {"num_quantizers": base.mimi.codebooks}
    if "depth_decoder_config" in config:
        return {**config, "codec_config": codec}
    begin = Tokenizer.from_file(str(base.checkpoint.folder / TOKENIZER)).token_to_id(BEGIN)
    assert begin is not None  # base.tokens would not have been read without it
    return export.transformers_config(base.checkpoint.shape, begin, codec)
