"""A CSM and a Mimi of a given shape with random weights, for measuring where the real ones can't be had.

Speed and memory are those of the real weights, which are read whatever they hold. What it says is noise.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from device.voice import quantize
from device.voice.csm import Csm, Norm
from device.voice.mimi import Mimi, from_csm
from device.voice.shape import Shape

SPREAD = 3.0  # of the logits: as undecided as a trained CSM, whose sharpest guesses are a few nats above the rest
BLOCK = (1 << 22) + 37  # numbers drawn once and repeated with a shift: a billion of them would take minutes


class Noise:
    """Normal numbers of any amount, the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed))
        self._shift = 0

    def tensor(self, size: tuple[int, ...], spread: float) -> Tensor:
        out = torch.empty(math.prod(size))
        at = 0
        while at < len(out):
            self._shift = (self._shift * 31 + 7919) % BLOCK
            piece = self._block[self._shift : self._shift + len(out) - at]
            out[at : at + len(piece)] = piece
            at += len(piece)
        return out.mul_(spread).view(size)


def random_csm(shape: Shape, scheme: str, device: str, progress: Callable[[float], None] = lambda share: None, seed: int = 0) -> Csm:
    """A CSM of `shape`, quantised layer by layer, never whole in floats. Equal weights for equal seeds, whatever the scheme."""
    kind, noise = quantize.device_kind(device), Noise(seed)
    quantize.choose(kind, scheme)
    dtype = quantize.compute_dtype(scheme, kind)
    with torch.device("meta"):
        csm = Csm(shape)
    filled = [(name, module) for name, module in csm.named_modules() if isinstance(module, nn.Linear | nn.Embedding | Norm)]
    for done, (name, module) in enumerate(filled, 1):
        if isinstance(module, Norm):
            module.weight = nn.Parameter(torch.ones(module.weight.shape, device=device, dtype=dtype), requires_grad=False)
            continue
        # Of unit size after each layer, so that nothing overflows or dies away in the depth of the stack.
        spread = (SPREAD if name.startswith("heads.") else 1.0) / math.sqrt(module.weight.shape[1])
        if isinstance(module, nn.Embedding):
            spread = 1.0 / math.sqrt(shape.codebooks)  # their sum is of unit size
        module.weight = nn.Parameter(noise.tensor(tuple(module.weight.shape), spread).to(device, dtype), requires_grad=False)
        quantize.quantise(name, module, scheme, kind)
        progress(done / len(filled))
    csm.text = noise.tensor((shape.text_ids, shape.backbone.width), 1.0).to(torch.bfloat16)
    csm.allocate(device, dtype)
    return csm


def random_mimi(codebooks: int, device: str, seed: int = 0) -> Mimi:
    """Mimi in its published shape."""
    from safetensors.torch import load_file
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(seed)
    model = MimiModel(MimiConfig(num_quantizers=codebooks))
    for name, value in model.state_dict().items():
        if name.endswith("embed_sum"):
            value.normal_()
        if name.endswith("cluster_usage"):
            value.fill_(1.0)
    with tempfile.TemporaryDirectory(prefix="bedside-mimi-") as folder:  # what it stores has the names that from_csm reads
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
    return from_csm(model.config.to_dict(), tensors, device, codebooks)
