"""The one training loop: CSM-small from nothing, and the fine-tuning of any checkpoint.

It steps, logs, saves and goes on; what a batch is and what is saved, its caller says. Devices, precision and several GPUs are
accelerate's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from device.training.dialogues import Batch
from device.training.lesson import Lesson

STATE, BEST = "state.pt", "best.pt"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Plan:
    """How long and how fast. Rates are per step of `accumulate` batches."""

    steps: int
    rate: float = 1e-3
    end_rate: float = 0.05  # of `rate`, at the last step
    rise: int = 200  # steps to the full rate
    decay: float = 0.05  # of the weights
    clip: float = 1.0  # of the gradient's norm
    accumulate: int = 1
    log_every: int = 50
    check_every: int = 500  # validation
    save_every: int = 250
    minutes: float = math.inf  # then save and stop, to go on later
    seed: int = 0
    muon: bool = False  # the layers' matrices by Muon (Jordan et al. 2024; torch.optim.Muon): for a model that begins from nothing

    def rate_at(self, step: int) -> float:
        """Up in a line, then down in half a cosine."""
        if step < self.rise:
            return self.rate * (step + 1) / self.rise
        share = min(1.0, (step - self.rise) / max(1, self.steps - self.rise))
        return self.rate * (self.end_rate + (1 - self.end_rate) * 0.5 * (1 + math.cos(math.pi * share)))


class Loop:
    """A lesson, its optimiser, and how far it has come. `out` holds the state and the log."""

    def __init__(self, lesson: Lesson, plan: Plan, out: Path, accelerator: Accelerator | None = None) -> None:
        self.plan, self.out, self.step = plan, out, 0
        self.least = math.inf  # of the validation losses so far
        self.accelerator = accelerator or Accelerator(gradient_accumulation_steps=plan.accumulate)
        if self.accelerator.gradient_accumulation_steps != plan.accumulate:
            raise ValueError(f"the plan accumulates {plan.accumulate} batches, its accelerator another number")
        self.lesson, *self.best = self.accelerator.prepare(lesson, *_optimisers(lesson, plan))
        out.mkdir(parents=True, exist_ok=True)

    @property
    def bare(self) -> Lesson:
        """The lesson itself, without what accelerate put around it."""
        return self.accelerator.unwrap_model(self.lesson)

    def resume(self) -> bool:
        """Go on from `out`, if it holds a state. The data begins at another place: its seed is the step."""
        file = self.out / STATE
        if not file.is_file():
            return False
        state = torch.load(file, map_location="cpu", weights_only=True)
        restore(self.bare, state["weights"])
        for best, stored in zip(self.best, state["best"], strict=True):
            best.load_state_dict(stored)
        self.step, self.least = state["step"], state.get("least", math.inf)
        return True

    def save(self) -> None:
        """Only what learns, whole or not at all."""
        told = {"step": self.step, "least": self.least, "plan": asdict(self.plan)}
        self._write_state(STATE, {"weights": learning(self.bare), "best": [best.state_dict() for best in self.best], **told})

    def _write_state(self, name: str, state: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            new = self.out / f"{name}.new"
            torch.save(state, new)
            new.replace(self.out / name)

    def run(self, draw: Callable[[], Batch], check: Callable[[int], dict[str, Any]] = lambda step: {}) -> None:
        """Until the plan's steps are done or its minutes are over. `check(step)` gives more to log: validation, samples."""
        plan, began = self.plan, time.monotonic()
        set_seed(plan.seed + self.step)
        sums, counted = torch.zeros(0), 0
        while self.step < plan.steps and not self._late(began):
            losses, norm = self._learn([draw() for _ in range(plan.accumulate)])
            sums, counted = (losses if not counted else sums + losses), counted + 1
            self.step += 1
            if self.step % plan.log_every == 0 or self.step == plan.steps:
                self._log(began, sums / counted, norm)
                counted = 0
            if self.step % plan.check_every == 0 or self.step == plan.steps:
                self._write({"step": self.step, **self._checked(check)})
            if self.step % plan.save_every == 0:
                self.save()
        self.save()

    def _late(self, began: float) -> bool:
        """Are the plan's minutes over? The processes must agree: one that stopped alone would leave the others waiting."""
        if math.isinf(self.plan.minutes):
            return False
        over = torch.tensor(float(time.monotonic() - began >= 60 * self.plan.minutes), device=self.accelerator.device)
        return bool(self.accelerator.reduce(over, reduction="sum") > 0)

    def _learn(self, batches: list[Batch]) -> tuple[Tensor, float]:
        """One step of the optimiser. (codebooks + 1,) losses, the last of them where it looks, and the gradient's norm."""
        for group in (group for best in self.best for group in best.param_groups):
            group["lr"] = self.plan.rate_at(self.step)
        self.lesson.train()
        total, norm = torch.zeros(0), 0.0
        for batch in batches:
            with self.accelerator.accumulate(self.lesson):  # prepare() made its forward one with autocast
                found = self.lesson(Batch(*(part.to(self.accelerator.device) for part in batch)))
                self.accelerator.backward(self.bare.total(found))
                if self.accelerator.sync_gradients:
                    norm = float(self.accelerator.clip_grad_norm_(self.lesson.parameters(), self.plan.clip))
                    if not math.isfinite(norm):
                        raise FloatingPointError(
                            f"the gradient is no number any more at step {self.step + 1}: lower the rate, and go on from the last {STATE}"
                        )
                for best in self.best:
                    best.step()
                    best.zero_grad(set_to_none=True)
            losses = torch.cat([found.first[None], found.rest, found.looks[None]]).detach().float().cpu()
            total = losses if not len(total) else total + losses
        return total / len(batches), norm

    def _checked(self, check: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        self.lesson.eval()
        found = check(self.step)
        if losses := found.get("validation"):
            loss = losses[0] + sum(losses[1:]) / len(losses[1:])  # as it is learnt
            if loss < self.least:
                self.least = loss
                self._write_state(BEST, {"weights": learning(self.bare), "step": self.step})
        return found

    def _log(self, began: float, losses: Tensor, norm: float) -> None:
        rest, looks = losses[1:-1].mean().item(), losses[-1].item()
        self._write(
            {
                "step": self.step,
                "seconds": round(time.monotonic() - began, 1),
                "rate": round(self.plan.rate_at(self.step), 7),
                "first": round(losses[0].item(), 4),
                "rest": round(rest, 4),
                **({"looks": round(looks, 4)} if self.bare.show else {}),
                "norm": round(norm, 2),
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with (self.out / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(line, flush=True)


def _optimisers(lesson: Lesson, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where the plan says so: of the matrices between two layers, as its authors advise, with AdamW's rates."""
    named = [(name, p) for name, p in lesson.named_parameters() if p.requires_grad]
    between = [p for name, p in named if plan.muon and ".layers." in name and p.dim() == 2]
    others = [p for _, p in named if not any(p is one for one in between)]
    groups = [  # norms and single numbers are not pulled towards nothing
        {"params": [p for p in others if p.dim() > 1], "weight_decay": plan.decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    out: list[torch.optim.Optimizer] = []
    if groups := [group for group in groups if group["params"]]:
        out.append(torch.optim.AdamW(groups, plan.rate, betas=(0.9, 0.95), fused=True))
    if between:
        out.append(torch.optim.Muon(between, plan.rate, weight_decay=plan.decay, adjust_lr_fn="match_rms_adamw"))
    return out


def learning(lesson: Lesson) -> dict[str, Tensor]:
    """The weights that learn, by name."""
    return {name: p.detach().cpu() for name, p in lesson.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore(lesson: Lesson, stored: dict[str, Tensor]) -> None:
    """Give the weights that learn what `learning` gave. Raises ValueError where they are of another model."""
    own = {name: p for name, p in lesson.named_parameters() if p.requires_grad}
    other = sorted(own.keys() ^ stored.keys()) or [name for name, p in own.items() if p.shape != stored[name].shape]
    if other:
        raise ValueError(f"the state does not fit this model: {other[0]} is of one of them alone; start in another --out")
    for name, p in own.items():
        p.copy_(stored[name])


@torch.no_grad()
def validation(lesson: Lesson, batches: list[Batch]) -> dict[str, Any]:
    """Mean loss of each codebook over the frames of `batches`, every frame of them teaching the depth decoder."""
    lesson.eval()
    share, lesson.share = lesson.share, 1.0
    total, frames = torch.zeros(lesson.csm.shape.codebooks), 0
    try:
        for batch in batches:
            first, rest, _ = lesson(Batch(*(part.to(lesson.csm.text.device) for part in batch)))
            said = int(batch.learn.sum())
            total += said * torch.cat([first[None], rest]).float().cpu()
            frames += said
    finally:
        lesson.share = share
    return {"validation": [round(value, 4) for value in (total / frames).tolist()]}
