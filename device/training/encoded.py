"""The corpus as the model reads it: text ids and codes of every clip, made once with the tokenizer and the codec that ship.

It knows no model but Mimi.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from device.training.corpus import Corpus
from device.training.dialogues import Utterance
from device.turn import FRAME
from device.voice.mimi import Mimi
from device.voice.plain import clean
from device.voice.tokens import Tokens

CODES, IDS = "codes.npy", "ids.jsonl"


def encode(corpus: Corpus, tokens: Tokens, mimi: Mimi, out: Path) -> None:
    """Write uint16 codes (frames, codebooks) and a line of ids a clip into `out`. Each clip begins with an empty codec, as a turn does."""
    out.mkdir(parents=True, exist_ok=True)
    codes, lines = [], []
    for number, clip in enumerate(corpus.clips, 1):
        codes.append(mimi.encode_all((corpus.samples(clip) / 32768).astype(np.float32)).numpy().astype(np.uint16))
        lines.append(json.dumps({"speaker": clip.speaker, "source": clip.source, "ids": tokens.ids(clip.speaker, clean(clip.text))}))
        if number % 100 == 0 or number == len(corpus.clips):
            print(f"\rencoded {number}/{len(corpus.clips)} clips", end="", flush=True)
    print()
    (out / IDS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(out / CODES, np.concatenate(codes))


def read(folder: Path, corpus: Corpus) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """(the device's utterances, a patient's, the held-out ones) that `encode` wrote. Raises ValueError if they are of another corpus."""
    codes = np.load(folder / CODES, mmap_mode="r")
    lines = [json.loads(line) for line in (folder / IDS).read_text(encoding="utf-8").splitlines()]
    sizes = [math.ceil(clip.size / FRAME) for clip in corpus.clips]
    if len(lines) != len(sizes) or len(codes) != sum(sizes):
        raise ValueError(f"{folder} holds the codes of another corpus: delete it, and it is made again.")
    device: list[Utterance] = []
    patient: list[Utterance] = []
    held_out: list[Utterance] = []
    at = 0
    for line, size in zip(lines, sizes, strict=True):
        mine = line["speaker"] == "0"
        said = held_out if line["source"] == "held_out" else device if mine else patient
        said.append(Utterance(tuple(line["ids"]), np.asarray(codes[at : at + size]), learn=mine))
        at += size
    return device, patient, held_out
