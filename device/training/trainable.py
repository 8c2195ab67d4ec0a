"""A checkpoint as a model that can learn: floats, gradients, and its own tokenizer and Mimi."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from device.voice import quantize
from device.voice.build import Built
from device.voice.checkpoint import Checkpoint, fill, open_checkpoint
from device.voice.csm import Csm
from device.voice.hub import locate
from device.voice.mimi import Mimi
from device.voice.plain import VoiceFault
from device.voice.tokens import Tokens


@dataclass(frozen=True)
class Trainable:
    """`csm` in float32 on the host; nothing of it learns until somebody says so."""

    csm: Csm
    checkpoint: Checkpoint
    tokens: Tokens
    mimi: Mimi


def load(name: str) -> Trainable:
    """The checkpoint `name`, a folder or a hub name, in either layout. Raises VoiceFault in one sentence."""
    folder = locate(name)
    if (folder / quantize.MANIFEST).is_file():
        raise VoiceFault(f"{name} is quantised, and whole numbers can't learn: give the checkpoint that it was made from.")
    checkpoint = open_checkpoint(folder, name)
    with torch.device("meta"):
        csm = Csm(checkpoint.shape)
    fill(csm, checkpoint, "cpu", torch.float32)
    # A parameter: it moves to the GPU with the rest. A copy: what was read is pages of the file.
    csm.text = nn.Parameter(csm.text.to(torch.float32, copy=True), requires_grad=False)
    csm.device, csm.dtype = torch.device("cpu"), torch.float32  # where Mimi is made: sound is encoded once, on the host
    built = Built(csm, name, folder, checkpoint.config, "fp32", checkpoint.codec)
    return Trainable(csm, checkpoint, built.tokens(), built.mimi())


def bare(csm: Csm, tensors: dict[str, torch.Tensor]) -> Csm:
    """A Csm of the same shape that holds `tensors`, the same memory and no copies; "text" among them."""
    with torch.device("meta"):
        out = Csm(csm.shape)
    out.text = nn.Parameter(tensors["text"], requires_grad=False)
    out.load_state_dict({name: tensor.detach() for name, tensor in tensors.items()}, assign=True)
    return out.requires_grad_(False)
