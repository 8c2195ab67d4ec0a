"""What the first codebook should tell apart: which phoneme sounds when, four times a frame.

Mimi's first codebook was distilled from WavLM so that its codes follow the sounds of speech and a language model can
predict them from text (Moshi, arXiv 2410.00037, section 3.3.2). Here the voice itself says what it speaks, and when.
"""

from __future__ import annotations

import numpy as np

from device.training.alphabet import CONSONANTS, STRESS, VOWELS
from device.training.corpus import Clip, Corpus
from device.turn import FRAME
from device.voice.phonemes import phonemes
from device.voice.plain import clean

PER_FRAME = 4  # labels, 20 ms each
STEP = FRAME // PER_FRAME
SILENCE, UNKNOWN = 0, 255  # pauses, spaces and punctuation; nobody said what this is
CLASSES = {sound: number for number, sound in enumerate(VOWELS + CONSONANTS, 1)}
COUNT = len(CLASSES) + 1


def labels(corpus: Corpus) -> np.ndarray:
    """uint8 (frames of the whole sound, PER_FRAME): the class that sounds at the middle of each 20 ms."""
    out = np.full(len(corpus.sound) // FRAME * PER_FRAME, UNKNOWN, np.uint8)
    for clip in corpus.clips:
        if clip.ends:
            first, last = -(-clip.start // STEP), min((clip.start + clip.size) // STEP, len(out))
            middles = np.arange(first, last) * STEP + STEP // 2 - clip.start
            out[first:last] = _classes(clip)[np.searchsorted(clip.ends, middles, side="right")]
    return out.reshape(-1, PER_FRAME)


def _classes(clip: Clip) -> np.ndarray:
    """(characters + 1,) class of each; a stress mark belongs to the vowel that follows, and after the last there is silence."""
    said = phonemes(clean(clip.text)) + " "
    after = said[1:] + " "
    return np.array([CLASSES.get(next_ if sound in STRESS else sound, SILENCE) for sound, next_ in zip(said, after, strict=True)], np.uint8)
