"""What was spoken, as sound again: the codes that the memory keeps, through the Mimi of the voice that made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from device.config import Settings
from device.memory_rows import Segment
from device.voice.build import build
from device.voice.load import choose_device, hush_libraries
from device.voice.plain import VoiceFault, to_int16


def decoded(settings: Settings, segments: Iterable[Segment]) -> Iterator[np.ndarray]:
    """int16 (n,) at 24 kHz of each segment. Raises VoiceFault in one sentence, also where no CSM is set."""
    hush_libraries()
    mimi = None
    for segment in segments:
        if mimi is None:
            built = build(settings.voice.csm_model, settings.voice.precision, choose_device(settings.voice.device))
            mimi, books = built.mimi(), built.csm.shape.codebooks
        if segment.codes.shape[1] != books:
            raise VoiceFault(f"This was spoken with {segment.codes.shape[1]} codebooks, and {settings.voice.csm_model} has {books}.")
        mimi.start_decoding()
        frames = [mimi.decode(frame) for frame in torch.from_numpy(segment.codes.astype(np.int64)).to(built.csm.device)]
        yield to_int16(np.concatenate(frames))
