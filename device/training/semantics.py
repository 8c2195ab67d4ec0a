"""What the first codebook should tell apart: Whisper's hearing of the corpus, one vector a frame of 80 ms.

Mimi's first codebook was distilled from WavLM so that its codes follow the sounds of speech and a language model can
predict them from text (Moshi, arXiv 2410.00037, section 3.3.2). Whisper's encoder comes in an ordinary package; WavLM does not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr
import torch

from device.training.corpus import Corpus
from device.turn import FRAME, MIC_RATE, VOICE_RATE
from device.voice.whisper import Whisper

WINDOW = 375  # frames of 80 ms: the 30 s that Whisper was trained on
PER_FRAME = 4  # of Whisper's own, 20 ms each
FILE = "hearing.npy"


@torch.inference_mode()
def hear(corpus: Corpus, model: str, models_folder: Path, out: Path, most: int) -> None:
    """Write float16 (frames, width) for the first `most` frames of the corpus's sound, clip after clip, into `out`/hearing.npy."""
    whisper = Whisper(model, models_folder)
    frames = min(most, len(corpus.sound) // FRAME)
    heard = np.lib.format.open_memmap(out / (FILE + ".new"), mode="w+", dtype=np.float16, shape=(frames, whisper.net.config.d_model))
    for start in range(0, frames, WINDOW):
        end = min(start + WINDOW, frames)
        sound = corpus.sound[start * FRAME : end * FRAME].astype(np.float32) / 32768
        ears = whisper.ears(soxr.resample(sound, VOICE_RATE, MIC_RATE), sampling_rate=MIC_RATE, return_tensors="pt")
        states = whisper.net.model.encoder(ears.input_features).last_hidden_state[0]
        heard[start:end] = states.unflatten(0, (-1, PER_FRAME)).mean(1)[: end - start].half().numpy()
        print(f"\rheard {end}/{frames} frames", end="", flush=True)
    heard.flush()
    print()
    (out / (FILE + ".new")).replace(out / FILE)
