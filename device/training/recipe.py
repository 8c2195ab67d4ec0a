"""The recipe of the packaged voice, from nothing to a checkpoint: stages that each go on where they stopped.

`corpus`, `hearing`, `codec` and `codes` come one after the other; `csm` and `decoder` both need only the codes, so they may
run side by side; `ship` takes what both have reached. All of it lies in one working folder outside the repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device.training import alphabet, codec, corpus, decoder, encoded, export, semantics, small
from device.training.dialogues import Batch, Mixer, Utterance, batch
from device.training.lesson import Lesson
from device.training.loop import Loop, Plan, validation
from device.voice.mimi import network
from device.voice.tokens import Tokens

SEED = 0
HEARD = 144_000  # frames of the corpus that Whisper is asked about, 3.2 hours: what the codec learns from
CODEC_STEPS, CSM_STEPS, DECODER_STEPS, CRITICS_FROM = 4500, 12_000, 40_000, 12_000
# (share of the steps from which, positions, sequences, noise). One to three words first, one text before one sound: where in
# the text it is, a model finds out on short ones, if there are so many that it can't learn them by heart (of two thousand it
# did in ten rounds). Then whole sentences, then conversations, less and less disturbed.
LESSONS = (
    (0.0, 50, 40, 0.3), (0.06, 80, 25, 0.2), (0.12, 110, 18, 0.2), (0.2, 160, 12, 0.15),
    (0.35, 256, 8, 0.1), (0.6, 512, 4, 0.1), (0.85, 1024, 2, 0.1),
)  # fmt: skip
CSM = Plan(CSM_STEPS, rate=1.5e-3, rise=300, log_every=50, check_every=500, save_every=250, seed=SEED)
SHARE = 1 / 8  # of the frames teach the depth decoder: twice Sesame's, for a small decoder costs little


class Recipe:
    """The stages, over one working folder. `minutes` is how long a stage may train before it stops, to go on later."""

    def __init__(self, work: Path, minutes: float) -> None:
        self.work, self.minutes = work, minutes
        self.stages: dict[str, Callable[[], None]] = {
            "corpus": self.corpus,
            "hearing": self.hearing,
            "codec": self.codec,
            "codes": self.codes,
            "csm": self.csm,
            "decoder": self.decoder,
        }

    def corpus(self) -> None:
        if not (self.work / "corpus" / corpus.INDEX).is_file():
            corpus.make(self.work / "corpus", 1.0, SEED, os.cpu_count() or 1)

    def hearing(self) -> None:
        from device.config import Settings

        folder = self.work / "corpus"
        if not (folder / semantics.FILE).is_file():
            semantics.hear(corpus.read(folder), "embedded:whisper-base", Path(Settings().models.folder), folder, HEARD)

    def codec(self) -> None:
        heard = np.load(self.work / "corpus" / semantics.FILE, mmap_mode="r")
        codec.train(corpus.read(self.work / "corpus").sound, heard, self.work / "codec", CODEC_STEPS, self.minutes)

    def codes(self) -> None:
        folder = self.work / "codes"
        if (folder / encoded.CODES).is_file():
            return
        state = torch.load(self.work / "codec" / "codec.pt", weights_only=True)
        if state["step"] < CODEC_STEPS:
            raise ValueError(f"the codec has learnt {state['step']} of {CODEC_STEPS} steps: run the stage codec to its end first")
        mimi = network(codec.CONFIG, codec.CONFIG["num_quantizers"], "cpu").eval()
        mimi.load_state_dict(state["mimi"])
        export.keep_zero_free(mimi)
        mimi.to(torch.bfloat16).float()  # as it ships: the device must hear the codes that the model was taught
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(mimi.state_dict(), folder / encoded.NETWORK)
        alphabet.write(folder)
        encoded.encode(self.work / "corpus", folder, os.cpu_count() or 1)

    def csm(self) -> None:
        device, patient, held_out = self._utterances()
        model, _ = small.begin(Tokens(self.work / "codes").count, SEED)
        loop = Loop(Lesson(model, SHARE), Plan(**{**vars(CSM), "minutes": self.minutes}), self.work / "csm")
        loop.resume()
        mixers = [Mixer(device, patient, positions, SEED + loop.step) for _, positions, _, _ in LESSONS]
        kept = _portions(held_out)
        # The same sounds under each other's words: as easy to guess, unless the words are read.
        swapped = _portions([replace(one, ids=other.ids) for one, other in zip(held_out, [*held_out[7:], *held_out[:7]], strict=True)])

        def check(step: int) -> dict[str, Any]:
            return validation(loop.bare, kept) | {"unread": validation(loop.bare, swapped)["validation"][0]}

        def draw() -> Batch:
            now = sum(begins <= loop.step / CSM_STEPS for begins, *_ in LESSONS) - 1
            _, _, sequences, loop.bare.noise = LESSONS[now]
            return batch([mixers[now].draw() for _ in range(sequences)])

        loop.run(draw, check)

    def decoder(self) -> None:
        mimi = encoded.load_network(self.work / "codes")
        clips = [decoder.Spoken(*pair) for pair in encoded.spoken(self.work / "codes", corpus.read(self.work / "corpus"))]
        decoder.train(decoder.Decoder(mimi, DECODER_STEPS, CRITICS_FROM), clips, self.work / "decoder", self.minutes)

    def ship(self, out: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
        """Write the checkpoint of what `csm` and `decoder` have reached so far into `out`. Returns it."""
        model, told = small.begin(Tokens(self.work / "codes").count, SEED)
        loop = Loop(Lesson(model), CSM, self.work / "csm")
        if not loop.resume():
            raise ValueError(f"{self.work} has no CSM yet: run the stage csm first")
        mimi = encoded.load_network(self.work / "codes")
        if (self.work / "decoder" / "decoder.pt").is_file():
            half = decoder.Decoder(mimi, DECODER_STEPS, CRITICS_FROM)
            half.load(self.work / "decoder" / "decoder.pt")
            half.settle()
        export.write(out, model, told, export.codec_tensors(mimi), dtype, twice=False)  # 6 MB
        alphabet.write(out)
        return out

    def _utterances(self) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
        return encoded.read(self.work / "codes", corpus.read(self.work / "corpus"))


def _portions(said: list[Utterance]) -> list[Batch]:
    return [batch([[one] for one in said[n : n + 20]]) for n in range(0, len(said), 20)]


def stages(recipe: Recipe, wanted: list[str]) -> list[tuple[str, Callable[[], Any]]]:
    """(name, stage) of those that are wanted, or of all, in order. Raises ValueError for an unknown one."""
    for name in wanted:
        if name not in recipe.stages:
            raise ValueError(f"no stage is called {name!r}; there are {', '.join(recipe.stages)}")
    return [(name, stage) for name, stage in recipe.stages.items() if not wanted or name in wanted]
