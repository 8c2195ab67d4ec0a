"""The corpus: sentences spoken by the packaged neural voice, and by a second speaker made from it.

On disk it is one array of samples and one line a clip. It knows no codec and no model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from device.training import sentences
from device.training.sentences import Sentence
from device.training.timed import TimedVoice
from device.turn import VOICE_RATE
from device.voice.plain import PlainVoice

COUNTS = {"bank": 2000, "patient": 2000, "chatter": 1600, "bible": 6000, "word": 4000, "lexicon": 8000, "pattern": 3000}
# How much faster a clip is played to make it another person's: lower and larger, or higher and smaller.
PATIENTS = (0.74, 0.80, 0.87, 1.15)
SOUND, INDEX = "sound.npy", "clips.jsonl"
PORTION = 64  # sentences that a process takes at once


@dataclass(frozen=True)
class Clip:
    """One sentence as it was spoken: samples `start` to `start + size` of the corpus, int16 mono at 24 kHz."""

    text: str
    source: str
    speaker: str  # "0" the device's voice, "1" a patient's
    start: int
    size: int
    ends: tuple[int, ...] = ()  # for each character of its phonemes the sample, from `start`, at which it is over; a patient's has none

    @property
    def held_out(self) -> bool:
        return self.source == "held_out"


@dataclass(frozen=True)
class Corpus:
    """`sound` int16 (samples,), mapped from its file, and the clips that it is made of."""

    sound: np.ndarray
    clips: tuple[Clip, ...]

    def samples(self, clip: Clip) -> np.ndarray:
        """int16 (n,) of one clip."""
        return self.sound[clip.start : clip.start + clip.size]


def index(folder: Path) -> tuple[Clip, ...]:
    """The clips of the corpus in `folder`, without their sound: all that a language model is taught with beside their codes."""
    told = [json.loads(line) for line in (folder / INDEX).read_text(encoding="utf-8").splitlines()]
    return tuple(Clip(**clip | {"ends": tuple(clip["ends"])}) for clip in told)


def read(folder: Path) -> Corpus:
    """The corpus that `make` wrote into `folder`. Raises FileNotFoundError, ValueError."""
    corpus = Corpus(np.load(folder / SOUND, mmap_mode="r"), index(folder))
    if sum(clip.size for clip in corpus.clips) != len(corpus.sound):
        raise ValueError(f"{folder} is not whole: its clips don't fill its sound; run scripts/make-corpus again.")
    return corpus


def make(folder: Path, share: float, seed: int, processes: int, counts: Mapping[str, int] = COUNTS, held_out: int | None = None) -> Corpus:
    """Speak `share` (0 to 1) of `counts` sentences of each source into `folder`, on so many processes, and those that are held out."""
    said = sentences.held_out()[:held_out] + sentences.training({source: round(number * share) for source, number in counts.items()}, seed)
    portions = [said[n : n + PORTION] for n in range(0, len(said), PORTION)]
    folder.mkdir(parents=True, exist_ok=True)
    clips, sounds, at = [], [], 0
    with ProcessPoolExecutor(processes) as pool:
        for number, portion in enumerate(pool.map(_speak, portions, range(len(portions)), [seed] * len(portions)), 1):
            for sentence, speaker, sound, ends in portion:
                clips.append(Clip(sentence.text, sentence.source, speaker, at, len(sound), ends))
                sounds.append(sound)
                at += len(sound)
            print(f"\r{number}/{len(portions)} portions, {at / VOICE_RATE / 3600:.2f} h", end="", flush=True)
    print()
    np.save(folder / SOUND, np.concatenate(sounds))
    (folder / INDEX).write_text("".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips), encoding="utf-8")
    return read(folder)


def _speak(portion: Sequence[Sentence], number: int, seed: int) -> list[tuple[Sentence, str, np.ndarray, tuple[int, ...]]]:
    """(sentence, speaker, int16 samples, ends) of each; a patient's sentence once in each of their voices."""
    voice, chance = TimedVoice(), random.Random(seed * 1000 + number)
    out: list[tuple[Sentence, str, np.ndarray, tuple[int, ...]]] = []
    for sentence in portion:
        _, sound, ends = voice.timed(sentence.text)
        if not len(sound):
            continue
        if sentence.source == "patient":
            for pace in chance.sample(PATIENTS, 2):
                out.append((sentence, "1", as_another(sound, pace * chance.uniform(0.97, 1.03), chance), ()))
        else:
            out.append((sentence, "0", sound, tuple(ends.tolist())))
    return out


def spoken(voice: PlainVoice, text: str, speed: float = 1.0) -> np.ndarray:
    """int16 samples of `text` as the plain voice says it, not padded to whole frames. `speed` above 1 is faster."""
    return np.concatenate([np.zeros(0, np.int16), *voice.sounds(text, speed)])


def shifted(sound: np.ndarray, pace: float) -> np.ndarray:
    """float32 samples, still on int16's scale, played at `pace` times the speed: below 1 a larger throat, lower and slower."""
    import soxr

    return np.asarray(soxr.resample(sound.astype(np.float32), VOICE_RATE * pace, VOICE_RATE))


def as_another(sound: np.ndarray, pace: float, chance: random.Random) -> np.ndarray:
    """int16 samples of the same words by somebody else, in a room: pitch and throat times `pace`, less loud, with noise."""
    other = shifted(sound, pace)
    noise = np.random.default_rng(chance.getrandbits(32)).normal(0, chance.uniform(5, 60), len(other))
    return np.clip(other * chance.uniform(0.3, 1.0) + noise, -32768, 32767).astype(np.int16)
