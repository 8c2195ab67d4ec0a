"""What CSM is asked while it learns: the first code of every frame, and on a share of the frames all the others.

After Sesame's own account: the depth decoder learns on a random sixteenth of the frames, which costs it nothing
("Crossing the uncanny valley of conversational voice", compute amortization). The frames that end speech are always among them:
a model that never learnt the end never stops.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from device.training.dialogues import Batch
from device.training.forward import frame_logits, rows, through
from device.voice.csm import Csm


class Lesson(nn.Module):
    """Calls the model on a batch. `share` of the frames also teach the depth decoder; `noise` of the input codes are random."""

    def __init__(self, csm: Csm, share: float = 1 / 16, noise: float = 0.0, remember: bool = True) -> None:
        super().__init__()
        self.csm, self.share, self.noise, self.remember = csm, share, noise, remember

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(the mean loss of codebook 0, (codebooks - 1,) mean losses of the others), in nats."""
        codes = self._disturbed(batch.codes) if self.training and self.noise else batch.codes
        hidden = through(self.csm.backbone, rows(self.csm, batch.ids, codes), self.remember)[batch.learn]
        after = batch.after[batch.learn]
        first = F.cross_entropy(self.csm.heads[0](hidden).float(), after[:, 0])
        chosen = ~after.any(1) | (torch.rand(len(after), device=after.device) < self.share)
        logits = frame_logits(self.csm, hidden[chosen], after[chosen], self.remember).float()
        rest = F.cross_entropy(logits.transpose(1, 2), after[chosen][:, 1:], reduction="none")
        return first, rest.mean(0)

    def _disturbed(self, codes: Tensor) -> Tensor:
        """Some frames and some single codes are others: what the model hears of itself is never quite what it was taught."""
        frames = torch.rand(codes.shape[:-1], device=codes.device) < self.noise
        single = torch.rand(codes.shape, device=codes.device) < self.noise / 2
        wrong = (frames[..., None] | single) & codes.any(-1, keepdim=True)
        return torch.where(wrong, torch.randint_like(codes, 1, self.csm.shape.sounds), codes)
