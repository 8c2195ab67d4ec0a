"""A CSM whose every layer changes what comes out, so that a wrong one is seen: fresh weights of transformers hardly matter.

It does not know the tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from device.voice.csm import Csm, Norm
from device.voice.shape import Shape


def lively(shape: Shape, seed: int = 0, layers: float = 1.0) -> Csm:
    """Random weights of unit size behind each layer, unequal norms; all of them learn. `layers`: how much each adds."""
    torch.manual_seed(seed)
    csm = Csm(shape)
    csm.text = nn.Parameter(torch.randn(shape.text_ids, shape.backbone.width))
    for name, module in csm.named_modules():
        if isinstance(module, Norm):
            module.weight = nn.Parameter(torch.rand_like(module.weight) + 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, (layers if name.endswith((".out", ".down")) else 1.0) * module.weight.shape[1] ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, 0, shape.codebooks**-0.5)
    return csm


def logits(csm: Csm, ids: list[int], frame: torch.Tensor) -> torch.Tensor:
    """(codebooks, ids) of `frame` (codebooks,) forced after the text `ids`."""
    with torch.inference_mode():
        csm.allocate("cpu", torch.float32)
        return csm.force(csm.listen(csm.text_rows(ids), 0)[-1:], frame)


def their_logits(model: Any, ids: list[int], frame: torch.Tensor) -> torch.Tensor:
    """The same of transformers' CsmForConditionalGeneration."""
    with torch.inference_mode():
        hidden = model.backbone_model(inputs_embeds=model.embed_text_tokens(torch.tensor([ids]))).last_hidden_state[0, -1:]
        known = torch.cat([torch.zeros(1, dtype=torch.long), frame[:-1]])[None]
        rest = model.depth_decoder(input_ids=known, backbone_last_hidden_state=hidden.clone()).logits[0]
        return torch.cat([model.lm_head(hidden), rest])
