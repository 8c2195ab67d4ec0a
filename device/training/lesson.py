"""What CSM is asked while it learns: the first code of every frame, and on a share of the frames all the others.

After Sesame's own account: the depth decoder learns on a random sixteenth of the frames, which costs it nothing
("Crossing the uncanny valley of conversational voice", compute amortization). The frames that end speech are always among them:
a model that never learnt the end never stops.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device.training.dialogues import Batch
from device.training.forward import frame_logits, gaze, rows, through
from device.voice.csm import Csm

LAYERS = (2, 3, 4)  # of the backbone, whose first heads are shown where to look: after what comes before is known, before it is used


class Losses(NamedTuple):
    """In nats: the mean of codebook 0, (codebooks - 1,) means of the others, and how far from the right text the model looks."""

    first: Tensor
    rest: Tensor
    looks: Tensor


class Lesson(nn.Module):
    """Calls the model on a batch. `share` of the frames also teach the depth decoder; `noise` of the input codes are random.

    `show` is the weight of teaching where to look: a few heads should attend to the phonemes that sound in the frame that follows
    (after guided attention, arXiv 1710.08969). A model may find that out by itself; on two cores nobody has seen it happen.
    """

    def __init__(
        self,
        csm: Csm,
        share: float = 1 / 16,
        noise: float = 0.0,
        remember: bool = True,
        show: float = 0.0,
        fall: float | None = None,
        fused: bool = False,
    ) -> None:
        """`fall`: each codebook counts so much of the one before it, codebook 1 as much as 0; None: all but 0 together as much as 0.

        `fused`: the layers by torch.compile.
        """
        super().__init__()
        self.csm, self.share, self.noise, self.remember, self.show, self.fall = csm, share, noise, remember, show, fall
        self.fused = fused

    def forward(self, batch: Batch) -> Losses:
        codes = self._disturbed(batch.codes) if self.training and self.noise else batch.codes
        shown: list[Tensor] = []
        wanted = self._wanted(batch) if self.show else None

        def watch(number: int, x: Tensor) -> None:
            if wanted is not None and number in LAYERS:
                backbone = self.csm.backbone
                shown.append(-(gaze(backbone, backbone.layers[number], x) * wanted).sum() / wanted.sum().clamp(min=1))

        hidden = through(self.csm.backbone, rows(self.csm, batch.ids, codes), self.remember, self.fused, watch)[batch.learn]
        after = batch.after[batch.learn]
        first = F.cross_entropy(self.csm.heads[0](hidden).float(), after[:, 0])
        chosen = ~after.any(1) | (torch.rand(len(after), device=after.device) < self.share)
        logits = frame_logits(self.csm, hidden[chosen], after[chosen], self.remember, self.fused).float()
        rest = F.cross_entropy(logits.transpose(1, 2), after[chosen][:, 1:], reduction="none")
        return Losses(first, rest.mean(0), torch.stack(shown).mean() if shown else first.new_zeros(()))

    def total(self, losses: Losses) -> Tensor:
        """What is to become less."""
        rest = losses.rest
        others = rest.mean() if self.fall is None else (rest * self.fall ** torch.arange(len(rest), device=rest.device)).sum()
        return losses.first + others + self.show * losses.looks

    @staticmethod
    def _wanted(batch: Batch) -> Tensor:
        """(batch, rows, rows): which share of the frame that follows each row belongs to which row of text. Rows sum to 1 or 0."""
        begin, end = batch.sounds.unbind(-1)
        reads = batch.reads[..., None]
        common = torch.minimum(end[:, None], reads + 1) - torch.maximum(begin[:, None], reads)
        common = common.clamp(min=0) * (reads >= 0)
        return common / common.sum(-1, keepdim=True).clamp(min=1e-6)

    def _disturbed(self, codes: Tensor) -> Tensor:
        """Some frames and some single codes are others: what the model hears of itself is never quite what it was taught."""
        frames = torch.rand(codes.shape[:-1], device=codes.device) < self.noise
        single = torch.rand(codes.shape, device=codes.device) < self.noise / 2
        wrong = (frames[..., None] | single) & codes.any(-1, keepdim=True)
        return torch.where(wrong, torch.randint_like(codes, 1, self.csm.shape.sounds), codes)
