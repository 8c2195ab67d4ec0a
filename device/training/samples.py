"""What a model in training sounds like: sentences spoken by the device's own frame loop, as WAV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from device import wavs
from device.training.dialogues import Utterance
from device.turn import VOICE_RATE
from device.voice.codes import generate
from device.voice.conversation import DEVICE, Conversation, Segment
from device.voice.csm import Csm, is_end
from device.voice.ending import frame_budget
from device.voice.mimi import Mimi
from device.voice.plain import clean, to_int16
from device.voice.tokens import Tokens

FRAMES = 62  # of the reference, about: five seconds say who speaks


def reference(conversations: Sequence[Sequence[Utterance]], positions: int) -> Segment | None:
    """The learnt utterance that is nearest to five seconds and leaves half of the positions free, or None."""
    fitting = [one for said in conversations for one in said if one.learn and one.rows <= positions // 2]
    if not fitting:
        return None
    one = min(fitting, key=lambda one: abs(len(one.codes) - FRAMES))
    return Segment(DEVICE, "", list(one.ids), torch.from_numpy(one.codes.astype(np.int64)))


def speak(csm: Csm, tokens: Tokens, mimi: Mimi, first: Segment | None, text: str, file: Path, seed: int) -> str:
    """`text` after the reference `first`, into `file`. How long it is and how it ended. `csm` may have adapters.

    A sentence that does not end gets the frames that the device would give it. Raises VoiceFault where it does not fit.
    """
    csm.allocate(str(csm.text.device), csm.text.dtype)
    try:
        talk = Conversation(csm, first)
        opening = talk.append(Segment(DEVICE, text, tokens.ids(DEVICE, clean(text)), closed=False))
        budget = min(frame_budget(clean(text)), talk.capacity - talk.rows)
        frames = generate(talk, opening, budget, greedy=False, seed=seed)
    finally:
        for stack in (csm.backbone, csm.depth):  # room that training needs
            del stack.keys, stack.values
    ended = bool(frames) and is_end(frames[-1])
    frames = frames[:-1] if ended else frames
    mimi.start_decoding()
    sound = [to_int16(mimi.decode(torch.tensor(codes))) for codes in frames]
    wavs.write(file, np.concatenate([np.zeros(0, np.int16), *sound]), VOICE_RATE)
    return f"{len(frames)} frames, {'ended by itself' if ended else 'cut off'}"
