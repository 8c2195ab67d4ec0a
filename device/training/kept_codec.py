"""The codec that comes with the project, firmware_config/mimi-small: its codebooks, which are final, and those of its halves that are.

What was learnt of these codes at one time fits to what is learnt of them at another. In Kyutai's own layout; beside it the ear that
the codes are made with. It knows nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from device.config import FIRMWARE
from device.training.codec import CONFIG, Ear, even_out
from device.training.export import kyutai_tensors
from device.turn import FRAME
from device.voice.mimi import Mimi, from_kyutai, kyutai_names, network
from device.voice.plain import VoiceFault

FOLDER = FIRMWARE / "mimi-small"
HALVES = {"encoder": ("encoder", "encoder_transformer", "downsample"), "decoder": ("decoder", "decoder_transformer", "upsample")}
MIMI, EAR, SHAPE = "mimi.safetensors", "ear.safetensors", "config.json"


def write(folder: Path, mimi: Any, ear: Ear, halves: Collection[str] = HALVES, dtype: torch.dtype = torch.bfloat16) -> Path:
    """moshi's network `mimi`, or its codebooks and those of its `halves` that have learnt, and its `ear` into `folder`. Returns it."""
    from safetensors.torch import save_file

    learnt = [part for half in halves for part in HALVES[half]]
    kept = {name: tensor for name, tensor in kyutai_tensors(mimi).items() if name.partition(".")[0] in ("quantizer", *learnt)}
    folder.mkdir(parents=True, exist_ok=True)
    # The ear in float16, which rounds eight times finer: of the first codebook's codes bfloat16 changed one in four hundred.
    for name, tensors, kind in ((MIMI, kept, dtype), (EAR, ear.state_dict(), torch.float16)):
        save_file({key: _small(tensor, kind) for key, tensor in tensors.items()}, folder / name, {"format": "pt"})
    (folder / SHAPE).write_text(json.dumps({"model_type": "mimi", **CONFIG}, indent=1) + "\n", encoding="utf-8")
    return folder


def _small(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().clone()


def read(folder: Path) -> tuple[Any, Ear]:
    """(moshi's network, its ear) that `write` wrote, in float32; a half that is not there has yet to learn.

    Raises ValueError where they are of another shape.
    """
    from safetensors.torch import load_file

    told = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
    if other := sorted(name for name, value in CONFIG.items() if told.get(name) != value):
        raise ValueError(f"{folder / SHAPE} has another {other[0]} than device/training/codec.py: train a codec anew, stage 'codec'.")
    mimi, ear = network(CONFIG, CONFIG["num_quantizers"], "cpu").eval(), Ear(CONFIG["hidden_size"]).eval()
    even_out(mimi)
    stored, begun = load_file(folder / MIMI), mimi.state_dict()
    known = {name: stored[kyutai] for name in begun if (kyutai := kyutai_names(name)[0]) in stored}
    mimi.load_state_dict(begun | {name: tensor.to(begun[name].dtype) for name, tensor in known.items()})
    ear.load_state_dict(load_file(folder / EAR))
    return mimi, ear


def learnt(folder: Path) -> list[str]:
    """The halves that are there."""
    with safe_open(folder / MIMI, "pt") as stored:
        parts = {name.partition(".")[0] for name in stored.keys()}  # noqa: SIM118
    return [half for half in HALVES if half in parts]


def ready(folder: Path) -> Mimi:
    """The device's own Mimi out of it. Raises VoiceFault, also where it has codebooks alone."""
    if missing := sorted(set(HALVES) - set(learnt(folder))):
        raise VoiceFault(f"{folder} has no {' and no '.join(missing)}: scripts/train-voice has yet to teach it, stage {missing[0]!r}.")
    return from_kyutai(folder / MIMI, "cpu", CONFIG["num_quantizers"], config=CONFIG)


def ear_of(folder: Path) -> Callable[[np.ndarray], Tensor]:
    """What gives long codes (frames, codebooks) of float32 sound (n,) as the corpus's were made: by the ear, in place of Mimi's encoder."""
    mimi, ear = read(folder)

    @torch.inference_mode()
    def codes(sound: np.ndarray) -> Tensor:
        whole = torch.from_numpy(np.pad(sound, (0, -len(sound) % FRAME)))
        return mimi.quantizer.encode(ear(ear.spectra(whole[None])))[0].T

    return codes
