"""The corpus as the model reads it: text ids and codes of every clip, made once with the tokenizer and the codec that ship.

It knows no model but Mimi.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device.training.codec import CONFIG, Ear
from device.training.corpus import Clip, Corpus
from device.training.corpus import read as read_corpus
from device.training.dialogues import Utterance
from device.training.export import codec_tensors
from device.turn import FRAME
from device.voice.mimi import Mimi, from_csm, network
from device.voice.plain import clean
from device.voice.tokens import Tokens

CODES, IDS, NETWORK, EAR = "codes.npy", "ids.jsonl", "mimi.pt", "ear.pt"
PORTION = 50  # clips that a process takes at once


def encode(corpus_folder: Path, folder: Path, processes: int) -> None:
    """Write uint16 codes (frames, codebooks) and a line of ids a clip, made with the tokenizer, ear and codebooks in `folder`, into it.

    Each clip begins with an empty codec, as a turn does.
    """
    clips = len(read_corpus(corpus_folder).clips)
    codes, lines = [], []
    with ProcessPoolExecutor(processes) as pool:
        starts = range(0, clips, PORTION)
        for made in pool.map(_encode, [corpus_folder] * len(starts), [folder] * len(starts), starts):
            for ids, ends, frames in made:
                lines.append(json.dumps({"ids": ids, "ends": ends}))
                codes.append(frames)
            print(f"\rencoded {len(lines)}/{clips} clips", end="", flush=True)
    print()
    (folder / IDS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / CODES, np.concatenate(codes))


def _encode(corpus_folder: Path, folder: Path, start: int) -> list[tuple[list[int], list[float], np.ndarray]]:
    """(ids, their ends, codes) of a portion of the clips."""
    corpus, tokens, mimi, ear = _tools(corpus_folder, folder)
    out = []
    for clip in corpus.clips[start : start + PORTION]:
        sound = np.pad(corpus.samples(clip), (0, -clip.size % FRAME)).astype(np.float32) / 32768
        with torch.inference_mode():
            codes = mimi.quantizer.encode(ear(ear.spectra(torch.from_numpy(sound)[None])))[0].T
        text = clean(clip.text)
        out.append((tokens.ids(clip.speaker, text), _ends(clip, tokens.spans(clip.speaker, text)), codes.numpy().astype(np.uint16)))
    return out


def _ends(clip: Clip, spans: Sequence[tuple[int, int]]) -> list[float]:
    """The frame at which each id of a clip is over: the last phoneme at the last frame's end, the end of the text one later."""
    if not clip.ends:
        return []
    ends = [round(clip.ends[end - 1] / FRAME, 2) if end > 0 else 0.0 for _, end in spans]
    frames = math.ceil(clip.size / FRAME)
    return [*ends[:-2], float(frames), frames + 1.0]


@functools.cache
def _tools(corpus_folder: Path, folder: Path) -> tuple[Corpus, Tokens, Any, Ear]:
    """Once a process."""
    torch.set_num_threads(1)
    return read_corpus(corpus_folder), Tokens(folder), load_network(folder), load_ear(folder)


def load_ear(folder: Path) -> Ear:
    """What hears spectra as the codebooks were learnt with."""
    ear = Ear(CONFIG["hidden_size"]).eval()
    ear.load_state_dict(torch.load(folder / EAR, weights_only=True))
    return ear


def load_network(folder: Path) -> Any:
    """moshi's network of the codec in `folder`."""
    mimi = network(CONFIG, CONFIG["num_quantizers"], "cpu").eval()
    mimi.load_state_dict(torch.load(folder / NETWORK, weights_only=True))
    return mimi


def ears(mimi: Any) -> Mimi:
    """The device's own Mimi out of moshi's network."""
    return from_csm(CONFIG, codec_tensors(mimi), "cpu", CONFIG["num_quantizers"])


def _clips(folder: Path, clips: Sequence[Clip]) -> Iterator[tuple[Clip, dict[str, list[Any]], np.ndarray]]:
    """(clip, its ids and their ends, codes) of every clip. Raises ValueError if they are of another corpus."""
    codes = np.load(folder / CODES, mmap_mode="r")
    lines = [json.loads(line) for line in (folder / IDS).read_text(encoding="utf-8").splitlines()]
    sizes = [math.ceil(clip.size / FRAME) for clip in clips]
    if len(lines) != len(sizes) or len(codes) != sum(sizes):
        raise ValueError(f"{folder} holds the codes of another corpus: delete it, and it is made again.")
    at = 0
    for clip, told, size in zip(clips, lines, sizes, strict=True):
        yield clip, told, np.asarray(codes[at : at + size])
        at += size


def read(folder: Path, clips: Sequence[Clip]) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """(the device's utterances, a patient's, the held-out ones) that `encode` wrote. Raises ValueError."""
    device: list[Utterance] = []
    patient: list[Utterance] = []
    held_out: list[Utterance] = []
    for clip, told, codes in _clips(folder, clips):
        mine = clip.speaker == "0"
        said = held_out if clip.held_out else device if mine else patient
        said.append(Utterance(tuple(told["ids"]), codes, mine, tuple(told["ends"])))
    return device, patient, held_out


def spoken(folder: Path, corpus: Corpus) -> list[tuple[np.ndarray, np.ndarray]]:
    """(codes (frames, codebooks), int16 samples) of every clip but the held-out ones. Raises ValueError."""
    return [(codes, corpus.samples(clip)) for clip, _, codes in _clips(folder, corpus.clips) if not clip.held_out]
