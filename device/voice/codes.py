"""`bedside csm codes`: the codes that CSM gives for a conversation, so that anyone can check them against another implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device import wavs
from device.turn import VOICE_RATE
from device.voice.build import Built
from device.voice.conversation import Conversation, Segment, read_segments
from device.voice.csm import Sampling, is_end
from device.voice.mimi import Mimi
from device.voice.plain import VoiceFault


def codes(
    built: Built, conversation: Path | None, prompt: Path | None, text: str, speaker: str, frames: int, greedy: bool, seed: int | None
) -> list[list[int]]:
    """Up to `frames` frames of codes that speak `text` after `conversation`, or after the raw text ids of `prompt`.

    Ends with the frame that ends the speech, as transformers' generate() does. Raises VoiceFault.
    """
    if frames < 1:
        raise VoiceFault(f"{frames} frames are nothing to say: give at least 1 in --frames.")
    talk = Conversation(built.csm)
    if prompt is not None:
        opening = Segment(speaker, "", _prompt_ids(prompt, built.csm.shape.text_ids), closed=False)
    else:
        if not text.strip():
            raise VoiceFault("There is nothing to say: give a sentence in --text.")
        tokens = built.tokens()
        for segment in _segments(conversation, built) if conversation else []:
            talk.append(Segment(segment["speaker"], segment["text"], tokens.ids(segment["speaker"], segment["text"]), segment["codes"]))
        opening = Segment(speaker, text, tokens.ids(speaker, text), closed=False)
    talk.append(opening)
    if talk.rows + frames > talk.capacity:
        raise VoiceFault(
            f"The conversation takes {talk.rows} positions and {frames} frames as many more, but CSM has {talk.capacity}: shorten either."
        )
    return generate(talk, opening, frames, greedy, seed)


@torch.inference_mode()
def generate(talk: Conversation, opening: Segment, frames: int, greedy: bool, seed: int | None) -> list[list[int]]:
    """Up to `frames` frames that speak `opening`, the last segment of `talk`; the end's frame included where it comes."""
    csm = talk.csm
    generator = torch.Generator(csm.device)
    generator.seed() if seed is None else generator.manual_seed(seed)
    sampling = Sampling(csm.shape.sounds, greedy=greedy, generator=generator)
    out: list[list[int]] = []
    while len(out) < frames:
        hidden = talk.catch_up()
        assert hidden is not None
        frame, _ = csm.frame(hidden, sampling)
        out.append(frame.tolist())
        if is_end(out[-1]):
            break
        talk.add_frame(opening, frame)
    return out


def _segments(file: Path, built: Built) -> list[dict[str, Any]]:
    """The segments of a conversation file; sound is read from beside it, or from here, and encoded."""
    shape = built.csm.shape
    segments = read_segments(_json(file), str(file), shape.codebooks, shape.ids)
    mimi: Mimi | None = None
    for segment in segments:
        if "audio" in segment:
            beside = file.parent / segment["audio"]
            sound = wavs.read(beside if beside.is_file() else Path(segment["audio"]), VOICE_RATE)
            mimi = mimi or built.mimi()
            segment["codes"] = mimi.encode_all((sound / 32768).astype(np.float32))
    return segments


def _prompt_ids(file: Path, most: int) -> list[int]:
    data = _json(file)
    ids = data.get("prompt_ids") if isinstance(data, dict) else None
    if not isinstance(ids, list) or not ids or any(type(i) is not int or not 0 <= i < most for i in ids):
        raise VoiceFault(f'{file} must hold {{"prompt_ids": [text ids from 0 to {most - 1}]}}.')
    return ids


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise VoiceFault(f"{file} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise VoiceFault(f"{file} is not JSON: {error}.") from None
