"""`scripts/finetune`: recorded conversations teach a CSM another voice, or another way of speaking.

It puts together what the other modules do: the data, the adapters, the loop, and the folders that `bedside` loads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from device.training import adapters, layouts, recordings, samples, trainable
from device.training.dialogues import Deck, Utterance, batch, learnable
from device.training.lesson import Lesson
from device.training.loop import BEST, STATE, Loop, Plan, restore, validation
from device.training.trainable import Trainable
from device.voice.ending import FRAME_RATE
from device.voice.plain import VoiceFault
from device.voice.shape import FLAVOURS

ABOUT = "finetune.json"  # what a folder was begun with
PRECISIONS = {"fp32": "no", "bf16": "bf16"}


@dataclass(frozen=True)
class Options:
    """As scripts/finetune has them."""

    checkpoint: str
    out: Path
    data: Path | None = None
    valid: Path | None = None
    valid_share: float = 0.05
    adapter: Path | None = None
    lora: int = 16  # 0: all weights learn
    alpha: float = 0.0  # 0: as the rank, so that B·A counts once
    steps: int = 500
    rate: float = 0.0  # 0: what suits
    precision: str = "fp32"
    batch: int = 4
    accumulate: int = 1
    positions: int = 0  # 0: the checkpoint's own
    share: float = 1 / 16
    checkpointing: bool = False
    check_every: int = 50
    sample: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    minutes: float = math.inf
    seed: int = 0
    cpu: bool = False
    merge_only: bool = False

    @property
    def begun(self) -> dict[str, Any]:
        """What must be the same to go on."""
        return {
            "checkpoint": self.checkpoint,
            "adapter": str(self.adapter or ""),
            "lora": self.lora,
            "alpha": self.alpha or float(self.lora),
        }

    def plan(self) -> Plan:
        return Plan(
            self.steps,
            self.rate or (2e-4 if self.lora else 3e-5),
            rise=max(1, min(200, self.steps // 10)),
            accumulate=self.accumulate,
            log_every=min(10, self.check_every),
            check_every=self.check_every,
            save_every=self.check_every,
            minutes=self.minutes,
            seed=self.seed,
        )


def finetune(options: Options) -> None:
    """Learn, or go on learning, and write what was learnt. Raises VoiceFault, ValueError, FloatingPointError."""
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[options.precision], gradient_accumulation_steps=options.accumulate, cpu=options.cpu
    )
    set_seed(options.seed)  # of the adapters' first weights
    given = options.adapter if options.merge_only else None
    if options.merge_only and given is None:
        options = _as_begun(options)
    base = trainable.load(options.checkpoint)
    if options.adapter is not None:
        adapters.merge_into(base.csm, options.adapter)
    if given is not None:
        return write(base, options)
    if options.lora:
        adapters.add(base.csm, options.lora, options.alpha or options.lora)
    else:
        base.csm.requires_grad_(True)
    lesson = Lesson(base.csm, options.share, remember=not options.checkpointing)
    if not options.merge_only:
        _begin(options, accelerator)
        lesson = _learn(base, lesson, options, accelerator).bare
    if accelerator.is_main_process:
        lesson.to("cpu")
        _take_best(lesson, options.out)
        write(base, options)


def _take_best(lesson: Lesson, out: Path) -> None:
    """The weights of the best validation, or the last ones where nothing was validated. Raises VoiceFault."""
    file = next((out / name for name in (BEST, STATE) if (out / name).is_file()), None)
    if file is None:
        raise VoiceFault(f"{out} holds no {STATE}: nothing was learnt there that could be merged.")
    restore(lesson, torch.load(file, map_location="cpu", weights_only=True)["weights"])


def _learn(base: Trainable, lesson: Lesson, options: Options, accelerator: Accelerator) -> Loop:
    positions = _positions(base, options)
    with accelerator.main_process_first():  # the others find the codes made
        said, held = _data(base, options, positions, accelerator.print)
    loop = Loop(lesson, options.plan(), options.out, accelerator)
    if loop.resume():
        accelerator.print(f"going on after step {loop.step} of {options.steps}")
    counted = sum(p.numel() for p in loop.bare.parameters() if p.requires_grad)
    heard = [one for conversation in said for one in conversation]
    minutes = sum(len(one.codes) for one in heard if one.learn) / FRAME_RATE / 60
    accelerator.print(
        f"{counted:,} weights learn from {len(heard)} utterances ({minutes:.1f} minutes of them are learnt), "
        f"{sum(map(len, held))} are held out; on {accelerator.device}, {options.precision}"
    )
    deck = Deck(said, positions, options.batch, options.seed + loop.step, accelerator.process_index)
    loop.run(deck.draw, _check(base, loop, said, held, positions, options))
    return loop


def _positions(base: Trainable, options: Options) -> int:
    most = base.checkpoint.shape.backbone.positions
    if not 0 <= options.positions <= most:
        raise VoiceFault(f"--positions {options.positions}: this checkpoint has {most}; give at most that.")
    return options.positions or most


def _data(
    base: Trainable, options: Options, positions: int, tell: Callable[[str], None]
) -> tuple[list[list[Utterance]], list[list[Utterance]]]:
    """(conversations to learn from, conversations to validate with)."""
    if options.data is None:
        raise VoiceFault("There is nothing to learn from: give a JSON list of conversations in --data.")
    encoder = recordings.Encoder(base.tokens, base.mimi, options.out / "codes", tell)
    said = encoder.utterances(recordings.read(options.data), positions, options.speakers)
    if options.valid is None:
        return recordings.split(said, options.valid_share, options.seed)
    return said, encoder.utterances(recordings.read(options.valid), positions, options.speakers)


def _check(
    base: Trainable, loop: Loop, said: list[list[Utterance]], held: list[list[Utterance]], positions: int, options: Options
) -> Callable[[int], dict[str, Any]]:
    """Validation and samples, every so many steps."""
    sequences = learnable(held, positions)
    batches = [batch(sequences[n : n + options.batch]) for n in range(0, len(sequences), options.batch)]
    first, folder = samples.reference(said, base.checkpoint.shape.backbone.positions), options.out / "samples"

    def check(step: int) -> dict[str, Any]:
        found = validation(loop.bare, batches) if batches else {}
        if loop.accelerator.is_main_process:
            folder.mkdir(exist_ok=True)
            for number, text in enumerate(options.sample, 1):
                file = folder / f"step-{step:06}-{number}.wav"
                found[file.name] = samples.speak(loop.bare.csm, base.tokens, base.mimi, first, text, file, options.seed)
        return found

    return check


def write(base: Trainable, options: Options) -> None:
    """The adapters and the merged weights, in both layouts."""
    out, told = options.out, []
    if options.lora and any(adapters.adapted(base.csm)):
        for layout, name in (("transformers", "adapter"), ("sesame", "adapter-sesame")):
            told.append(adapters.write(base.csm, out / name, layout, options.checkpoint))
    csm = adapters.merged(base.csm)
    layouts.write(base, csm, out / "merged")
    told.append(out / "merged")
    try:
        layouts.write_sesames(base, csm, out / "merged-sesame")
        told.append(out / "merged-sesame")
    except ValueError as error:
        print(f"{out / 'merged-sesame'} was not written: {error} (It has names for {', '.join(FLAVOURS)}.)", flush=True)
    print("written: " + ", ".join(map(str, told)), flush=True)


def _begin(options: Options, accelerator: Accelerator) -> None:
    """Keep what the folder was begun with, or check that it is the same. Raises VoiceFault."""
    file = options.out / ABOUT
    if (options.out / STATE).is_file() and file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        for key, value in options.begun.items():
            if before.get(key) != value:
                raise VoiceFault(f"{options.out} was begun with {key} {before.get(key)!r}, not {value!r}: give the same, or another --out.")
    elif accelerator.is_main_process:
        options.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(options.begun, indent=1) + "\n", encoding="utf-8")


def _as_begun(options: Options) -> Options:
    """The options that the folder was begun with, for its state to be merged."""
    from dataclasses import replace

    file = options.out / ABOUT
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise VoiceFault(
            f"{file} can't be read ({error.strerror}): --merge-only needs a folder that was trained in, or --adapter."
        ) from None
    adapter = Path(before["adapter"]) if before["adapter"] else None
    return replace(options, checkpoint=before["checkpoint"], adapter=adapter, lora=before["lora"], alpha=before["alpha"])
