"""The corpus as the model reads it: text ids and codes of every clip, made once with the tokenizer and the codec that ship.

It knows no model but Mimi.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device.training.codec import CONFIG
from device.training.corpus import Clip, Corpus
from device.training.corpus import read as read_corpus
from device.training.dialogues import Utterance
from device.training.export import codec_tensors
from device.turn import FRAME
from device.voice.mimi import Mimi, from_csm, network
from device.voice.plain import clean
from device.voice.tokens import Tokens

CODES, IDS, NETWORK = "codes.npy", "ids.jsonl", "mimi.pt"
PORTION = 50  # clips that a process takes at once


def encode(corpus_folder: Path, folder: Path, processes: int) -> None:
    """Write uint16 codes (frames, codebooks) and a line of ids a clip, made with the tokenizer and the codec in `folder`, into it.

    Each clip begins with an empty codec, as a turn does.
    """
    clips = len(read_corpus(corpus_folder).clips)
    codes, lines = [], []
    with ProcessPoolExecutor(processes) as pool:
        starts = range(0, clips, PORTION)
        for made in pool.map(_encode, [corpus_folder] * len(starts), [folder] * len(starts), starts):
            for ids, frames in made:
                lines.append(json.dumps(ids))
                codes.append(frames)
            print(f"\rencoded {len(lines)}/{clips} clips", end="", flush=True)
    print()
    (folder / IDS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / CODES, np.concatenate(codes))


def _encode(corpus_folder: Path, folder: Path, start: int) -> list[tuple[list[int], np.ndarray]]:
    """(ids, codes) of a portion of the clips."""
    corpus, tokens, mimi = _tools(corpus_folder, folder)
    out = []
    for clip in corpus.clips[start : start + PORTION]:
        codes = mimi.encode_all((corpus.samples(clip) / 32768).astype(np.float32))
        out.append((tokens.ids(clip.speaker, clean(clip.text)), codes.numpy().astype(np.uint16)))
    return out


@functools.cache
def _tools(corpus_folder: Path, folder: Path) -> tuple[Corpus, Tokens, Mimi]:
    """Once a process."""
    torch.set_num_threads(1)
    return read_corpus(corpus_folder), Tokens(folder), ears(load_network(folder))


def load_network(folder: Path) -> Any:
    """moshi's network of the codec in `folder`."""
    mimi = network(CONFIG, CONFIG["num_quantizers"], "cpu").eval()
    mimi.load_state_dict(torch.load(folder / NETWORK, weights_only=True))
    return mimi


def ears(mimi: Any) -> Mimi:
    """The device's own Mimi out of moshi's network."""
    return from_csm(CONFIG, codec_tensors(mimi), "cpu", CONFIG["num_quantizers"])


def _clips(folder: Path, corpus: Corpus) -> Iterator[tuple[Clip, list[int], np.ndarray]]:
    """(clip, ids, codes) of every clip. Raises ValueError if they are of another corpus."""
    codes = np.load(folder / CODES, mmap_mode="r")
    lines = [json.loads(line) for line in (folder / IDS).read_text(encoding="utf-8").splitlines()]
    sizes = [math.ceil(clip.size / FRAME) for clip in corpus.clips]
    if len(lines) != len(sizes) or len(codes) != sum(sizes):
        raise ValueError(f"{folder} holds the codes of another corpus: delete it, and it is made again.")
    at = 0
    for clip, ids, size in zip(corpus.clips, lines, sizes, strict=True):
        yield clip, ids, np.asarray(codes[at : at + size])
        at += size


def read(folder: Path, corpus: Corpus) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """(the device's utterances, a patient's, the held-out ones) that `encode` wrote. Raises ValueError."""
    device: list[Utterance] = []
    patient: list[Utterance] = []
    held_out: list[Utterance] = []
    for clip, ids, codes in _clips(folder, corpus):
        mine = clip.speaker == "0"
        said = held_out if clip.held_out else device if mine else patient
        said.append(Utterance(tuple(ids), codes, learn=mine))
    return device, patient, held_out


def spoken(folder: Path, corpus: Corpus) -> list[tuple[np.ndarray, np.ndarray]]:
    """(codes (frames, codebooks), int16 samples) of every clip but the held-out ones. Raises ValueError."""
    return [(codes, corpus.samples(clip)) for clip, _, codes in _clips(folder, corpus) if not clip.held_out]
