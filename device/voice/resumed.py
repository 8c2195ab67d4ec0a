"""A conversation as the memory has it, and going on from it. It runs no model: who calls listens to what was appended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from device.logs import log
from device.memory_rows import Segment as Kept
from device.voice.conversation import Conversation, Segment
from device.voice.shape import Shape


def kept(segment: Segment) -> Kept:
    return Kept(segment.speaker, segment.text, segment.codes.cpu().numpy().astype(np.int16))


def resume(talk: Conversation, told: Sequence[Kept], shape: Shape, segment: Callable[[str, str, torch.Tensor], Segment]) -> None:
    """Put `told` in the place of all that `talk` holds but its reference; what it holds already is not listened to again.

    Codes of another model are left out with a line in the log: they must not keep a patient waiting. `segment`: of (speaker, text, codes).
    """
    if wrong := [t for t in told if t.codes.shape[1] != shape.codebooks or ((t.codes < 0) | (t.codes >= shape.sounds)).any()]:
        log("conversation_not_resumed", level=logging.WARNING, segments=len(wrong), reason="its codes are of another model")
        told = []
    own = talk.segments[talk.pinned :]
    begin = next((n for n, t in enumerate(told) if own and _same(own[0], t)), len(told))  # older ones were forgotten for room
    same = 0
    while same < min(len(own), len(told) - begin) and _same(own[same], told[begin + same]):
        same += 1
    for gone in own[same:]:
        talk.remove(gone)
    for t in told[begin + same :] if same else told:
        talk.append(segment(t.speaker, t.text, torch.from_numpy(t.codes.astype(np.int64))))


def _same(segment: Segment, told: Kept) -> bool:
    return (segment.speaker, segment.text) == (told.speaker, told.text) and np.array_equal(segment.codes.cpu().numpy(), told.codes)
