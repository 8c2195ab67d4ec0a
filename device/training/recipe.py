"""The recipe of the packaged voice, from nothing to a checkpoint: stages that each go on where they stopped.

`corpus`, `codec` and `codes` come one after the other; `csm`, `encoder` and `decoder` need only the codes, so they may
run side by side; `ship` takes what each has reached. The codec that comes with the project spares `codec`, and the two
halves of it go on learning. All of it lies in one working folder outside the repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from device.training import alphabet, codec, corpus, decoder, encoded, encoder, export, kept_codec, phones, small, trainable
from device.training.codec import Ear
from device.training.decoder import Decoder
from device.training.dialogues import Batch, Mixer, Utterance, batch
from device.training.encoder import Encoder
from device.training.halves import train
from device.training.lesson import Lesson
from device.training.loop import Loop, Plan, validation
from device.voice.generation import GENERATION
from device.voice.mimi import network
from device.voice.tokens import Tokens

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = {"codec": 2500, "csm": 8000, "encoder": 12_000, "decoder": 16_000}
CRITICS_FROM = 3000  # of the decoder's; one that comes with the project has heard them before
# (share of the steps from which, positions, sequences, noise). Short texts first, one before one sound; then whole sentences, then
# conversations, less and less disturbed: what the model hears of itself is never quite what it was taught.
LESSONS = (
    (0.0, 100, 22, 0.15), (0.12, 180, 12, 0.12), (0.4, 300, 7, 0.1), (0.7, 512, 4, 0.08), (0.92, 1024, 2, 0.05),
)  # fmt: skip
LEARNT = "learnt.json"  # beside the codes: the halves of their codec that need not begin from nothing
# What goes on from a CSM-small begins at this share of the lessons, past the short texts, and learns at this share of the rate.
READS, AGAIN = 0.4, 0.5
CSM = Plan(STEPS["csm"], rate=2e-3, rise=150, log_every=25, check_every=500, save_every=250, muon=True)
SHARE = 1 / 4  # of the frames teach the depth decoder: a small one costs little
# Without codebook 1 no word is understood, with the true 0 and 1 half of them are, with 0 to 3 nine in ten: so they count in this order.
FALL = 0.7
SHOW = 0.3  # weight of showing the model where to look
SAMPLING = {"do_sample": True, "temperature": 0.2, "top_k": 30}  # the best of those that were tried


class Recipe:
    """The stages, over one working folder. `minutes` is how long a stage may train before it stops, to go on later.

    `begin`: a CSM-small from which `csm` begins in the place of nothing, a folder or a name as voice.csm_model has them. `steps`: of a
    stage, in the place of its own. `seed`: of chance, and of which sentences are spoken; what goes on learning should read others.
    """

    def __init__(self, work: Path, minutes: float, begin: str = "", steps: Mapping[str, int] | None = None, seed: int = 0) -> None:
        self.work, self.minutes, self.begin, self.steps, self.seed = work, minutes, begin, {**STEPS, **(steps or {})}, seed
        self.stages: dict[str, Callable[[], None]] = {
            "corpus": self.corpus,
            "codec": self.codec,
            "codes": self.codes,
            "csm": self.csm,
            "encoder": self.encoder,
            "decoder": self.decoder,
        }

    def corpus(self) -> None:
        if not (self.work / "corpus" / corpus.INDEX).is_file():
            corpus.make(self.work / "corpus", 1.0, self.seed, os.cpu_count() or 1)

    def codec(self) -> None:
        made = corpus.read(self.work / "corpus")
        codec.train(made.sound, phones.labels(made), self.work / "codec", self.steps["codec"], self.minutes, device=DEVICE)

    def codes(self) -> None:
        folder = self.work / "codes"
        if (folder / encoded.CODES).is_file():
            return
        own = self.own_codec.is_file()
        mimi, ear = self._codec() if own else kept_codec.read(kept_codec.FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LEARNT).write_text(json.dumps([] if own else kept_codec.learnt(kept_codec.FOLDER)), encoding="utf-8")
        torch.save(mimi.state_dict(), folder / encoded.NETWORK)
        torch.save(ear.state_dict(), folder / encoded.EAR)
        alphabet.write(folder)
        encoded.encode(self.work / "corpus", folder, os.cpu_count() or 1)

    @property
    def own_codec(self) -> Path:
        """Where the stage codec has its codec: it is taken where there is one, and else the one that comes with the project."""
        return self.work / "codec" / "codec.pt"

    def _codec(self) -> tuple[Any, Ear]:
        state = torch.load(self.own_codec, map_location="cpu", weights_only=True)
        if state["step"] < (steps := self.steps["codec"]):
            raise ValueError(f"the codec has learnt {state['step']} of {steps} steps: run the stage codec to its end first")
        mimi, ear = network(codec.CONFIG, codec.CONFIG["num_quantizers"], "cpu").eval(), Ear(codec.CONFIG["hidden_size"])
        mimi.load_state_dict(state["mimi"])
        ear.load_state_dict(state["ear"])
        export.keep_zero_free(mimi)
        return mimi.to(torch.bfloat16).float(), ear  # the codebooks, as they ship

    def csm(self) -> None:
        device, patient, held_out = self._utterances()
        ids = Tokens(self.work / "codes").count
        model, _ = small.begin(ids, self.seed)
        if self.begin:
            begun = trainable.load(self.begin).csm
            if begun.shape != model.shape:
                raise ValueError(f"{self.begin} is of another shape than CSM-small: fine-tune it with scripts/finetune")
            model = begun.requires_grad_(True)
        half = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        accelerator = Accelerator(mixed_precision="bf16" if half else "no")
        lesson = Lesson(model, SHARE, show=SHOW, fall=FALL, fused=True)
        rate = CSM.rate * (AGAIN if self.begin else 1.0)
        plan = replace(CSM, steps=self.steps["csm"], rate=rate, minutes=self.minutes, seed=self.seed)
        loop = Loop(lesson, plan, self.work / "csm", accelerator)
        loop.resume()
        mixers = [Mixer(device, patient, positions, self.seed + loop.step) for _, positions, _, _ in LESSONS]
        kept = _portions(held_out)
        # The same sounds under each other's words: as easy to guess, unless the words are read.
        others = held_out[7:] + held_out[:7]
        swapped = _portions([replace(one, ids=other.ids, ends=()) for one, other in zip(held_out, others, strict=True)])

        def check(step: int) -> dict[str, Any]:
            return validation(loop.bare, kept) | {"unread": validation(loop.bare, swapped)["validation"][0]}

        def draw() -> Batch:
            share = max(loop.step / loop.plan.steps, READS if self.begin else 0.0)
            now = sum(begins <= share for begins, *_ in LESSONS) - 1
            _, _, sequences, loop.bare.noise = LESSONS[now]
            return batch([mixers[now].draw() for _ in range(sequences)])

        loop.run(draw, check)

    def encoder(self) -> None:
        half = self._encoder(encoded.load_network(self.work / "codes"), encoded.load_ear(self.work / "codes"), DEVICE)
        if (file := self._half("encoder")).is_file():
            half.load(file)
        train(half, encoder.Pieces(corpus.read(self.work / "corpus").sound, half.step), file, self.minutes)

    def decoder(self) -> None:
        half = self._decoder(encoded.load_network(self.work / "codes"), DEVICE)
        if (file := self._half("decoder")).is_file():
            half.load(file)
        clips = [decoder.Spoken(*pair) for pair in encoded.spoken(self.work / "codes", corpus.read(self.work / "corpus"))]
        train(half, decoder.Pieces(clips, half.step), file, self.minutes)

    def ship(self, out: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
        """Write the checkpoint of what `csm`, `encoder` and `decoder` have reached so far into `out`. Returns it."""
        model, told = small.begin(Tokens(self.work / "codes").count, self.seed)
        loop = Loop(Lesson(model), CSM, self.work / "csm")
        if not loop.resume():
            raise ValueError(f"{self.work} has no CSM yet: run the stage csm first")
        mimi, _ = self._mimi()
        export.write(out, model, told, export.codec_tensors(mimi), dtype, twice=False)  # 6 MB
        alphabet.write(out)
        (out / GENERATION).write_text(json.dumps(SAMPLING, indent=1) + "\n", encoding="utf-8")
        return out

    def ship_codec(self, out: Path) -> Path:
        """Write the codebooks, and as far as they have come `encoder` and `decoder`, into `out`. Returns it."""
        learnt = [half for half in kept_codec.HALVES if self._half(half).is_file() or half in self._kept()]
        return kept_codec.write(out, *self._mimi(), learnt)

    def _kept(self) -> list[str]:
        """The halves that came with the codec of which the codes were made."""
        file = self.work / "codes" / LEARNT
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []

    def _encoder(self, mimi: Any, ear: Ear, device: str = "cpu") -> Encoder:
        return Encoder(mimi, ear, self.steps["encoder"], device)

    def _decoder(self, mimi: Any, device: str = "cpu") -> Decoder:
        return Decoder(mimi, self.steps["decoder"], 0 if "decoder" in self._kept() else CRITICS_FROM, device)

    def _mimi(self) -> tuple[Any, Ear]:
        """(moshi's network with what `encoder` and `decoder` have reached so far, its ear)."""
        mimi, ear = encoded.load_network(self.work / "codes"), encoded.load_ear(self.work / "codes")
        halves: dict[str, Encoder | Decoder] = {
            "encoder": self._encoder(mimi, ear),
            "decoder": self._decoder(mimi),
        }
        for name, half in halves.items():
            if (file := self._half(name)).is_file():
                half.load(file)
                half.settle()
        return mimi, ear

    def _half(self, name: str) -> Path:
        return self.work / name / f"{name}.pt"

    def _utterances(self) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
        return encoded.read(self.work / "codes", corpus.index(self.work / "corpus"))


def _portions(said: list[Utterance]) -> list[Batch]:
    return [batch([[one] for one in said[n : n + 20]]) for n in range(0, len(said), 20)]


def stages(recipe: Recipe, wanted: list[str]) -> list[tuple[str, Callable[[], Any]]]:
    """(name, stage) of those that are wanted, or of all that are needed, in order. Raises ValueError for an unknown one."""
    for name in wanted:
        if name not in recipe.stages:
            raise ValueError(f"no stage is called {name!r}; there are {', '.join(recipe.stages)}")
    kept = kept_codec.FOLDER.is_dir() and not recipe.own_codec.is_file()  # codebooks come with the project
    needed = [name for name in recipe.stages if not (kept and name == "codec")]
    return [(name, stage) for name, stage in recipe.stages.items() if name in (wanted or needed)]
