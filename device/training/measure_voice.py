"""How a CSM speaks, sentence by sentence, through the device's own voice: words, cleanness, likeness, how it ends, how fast it is.

The gate of CSM-small, and the before and after of fine-tuning. It does not train anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from device.bench import normaliser, word_errors
from device.bench_consistency import EARS, watched
from device.training import kept_codec
from device.turn import MIC_RATE, VOICE_RATE
from device.voice.build import Built, build
from device.voice.listen import Listener
from device.voice.mimi import Mimi
from device.voice.plain import PlainVoice, to_int16
from device.voice.quality import Mos, SpeakerEncoder, similarity
from device.voice.speak import CsmVoice

Hears = Callable[[np.ndarray], torch.Tensor]  # float32 sound (n,) at 24 kHz -> long codes (frames, codebooks)
Reference = tuple[str, np.ndarray]  # (words, float32 sound at 24 kHz)


@dataclass(frozen=True)
class Spoken:
    """One sentence as it was spoken. `alike`: to the voice it is held against, 0 to 1; `factor`: time taken over time spoken."""

    text: str
    words: int
    wrong: int  # of the words, as whisper-base writes them back
    mos: float
    alike: float
    seconds: float
    ended: str = ""  # by what: end is its own; budget, silence and likely are the device's
    first: float = 0.0  # s to the first sound
    factor: float = 0.0


class Judge:
    """The three models that hear a sentence, on the CPU wherever it was spoken."""

    def __init__(self, models: Path, voice: np.ndarray, threads: int) -> None:
        """`voice`: int16 sound at 24 kHz that likeness is measured against. Raises ModelMissing."""
        self._ears, self._words = Listener(EARS, models, threads=threads), normaliser()
        self._mos, self._encoder = Mos(models), SpeakerEncoder(models)
        self._voice = self._encoder.embed(voice, VOICE_RATE)

    def hear(self, text: str, pcm: np.ndarray, **more: Any) -> Spoken:
        """int16 `pcm` (n,) at 24 kHz that should say `text`."""
        said = self._words(text)
        if not len(pcm):
            return Spoken(text, len(said), len(said), 1.0, 0.0, 0.0, **more)
        heard = self._words(self._ears.transcribe(soxr.resample(pcm, VOICE_RATE, MIC_RATE)).text)
        alike = similarity(self._encoder.embed(pcm, VOICE_RATE), self._voice)
        mos = self._mos.score(pcm, VOICE_RATE)
        return Spoken(text, len(said), word_errors(said, heard), round(mos, 3), round(alike, 4), round(len(pcm) / VOICE_RATE, 2), **more)


def measure(built: Built, sentences: Sequence[str], reference: Reference | None, judge: Judge, seed: int) -> Iterator[Spoken]:
    """Each of `sentences` by itself after the `reference`, as the device speaks a clause. Raises VoiceFault."""
    voice = CsmVoice(built.csm, built.tokens(), built.mimi(), built.sampling(seed), built.precision, reference)
    try:
        with watched() as watch:
            voice.warm_up()
            for text in sentences:
                frames, first, began = [], 0.0, time.perf_counter()
                with closing(voice.frames(text)) as making:
                    for frame in making:
                        first = first or time.perf_counter() - began
                        frames.append(frame)
                took = time.perf_counter() - began
                voice.said("", 0)  # forgotten: the next one begins where this one did
                pcm = np.concatenate([np.zeros(0, np.int16), *frames])
                factor = took / (len(pcm) / VOICE_RATE) if frames else 0.0
                ended = watch.clauses[-1]["ended"]
                yield judge.hear(text, pcm, ended=ended, first=round(first, 3), factor=round(factor, 3))
    finally:
        voice.close()


def measure_plain(sentences: Sequence[str], judge: Judge, mimi: Mimi | None = None, hears: Hears | None = None) -> Iterator[Spoken]:
    """The same of the plain voice; with `mimi`, of what is left of it after its codes: the best that a CSM with it can be.

    `hears` gives the codes in the place of Mimi's own encoder.
    """
    voice = PlainVoice()
    for text in sentences:
        pcm = np.concatenate([np.zeros(0, np.int16), *voice.sounds(text)])
        yield judge.hear(text, copied(mimi, pcm, hears) if mimi else pcm)


def copied(mimi: Mimi, pcm: np.ndarray, hears: Hears | None = None) -> np.ndarray:
    """int16 `pcm` to codes and back, a frame at a time as the device decodes."""
    codes = (hears or mimi.encode_all)((pcm / 32768).astype(np.float32))
    mimi.start_decoding()
    return np.concatenate([np.zeros(0, np.int16), *(to_int16(mimi.decode(frame)) for frame in codes)])[: len(pcm)]


def summary(spoken: Sequence[Spoken]) -> dict[str, Any]:
    """What a whole run comes to. The word error rate is over all words, the other figures are means or medians over sentences."""
    own = [one for one in spoken if one.ended]
    return {
        "sentences": len(spoken),
        "wer": round(sum(one.wrong for one in spoken) / sum(one.words for one in spoken), 4),
        "mos": round(float(np.mean([one.mos for one in spoken])), 3),
        "similarity": round(float(np.mean([one.alike for one in spoken])), 4),
        "seconds": round(sum(one.seconds for one in spoken), 1),
        "ended": dict(Counter(one.ended for one in own)),
        "runaways": sum(one.ended == "budget" for one in own),
        "first_audio": round(float(np.median([one.first for one in own])), 3) if own else None,
        "real_time_factor": round(float(np.median([one.factor for one in own])), 3) if own else None,
    }


@dataclass(frozen=True)
class Options:
    """As scripts/judge-voice has them."""

    checkpoint: tuple[str, ...]
    models: Path
    reference: Reference | None
    towards: np.ndarray  # int16 at 24 kHz
    sentences: int = 100
    seed: int = 0
    precision: str = "auto"
    device: str = "cpu"
    threads: int = 2
    codec_only: bool = False


def judge_voice(options: Options) -> dict[str, Any]:
    """Print a row for the plain voice and one for each checkpoint, or for its codec. Raises VoiceFault, ModelMissing."""
    from device.training.sentences import held_out

    torch.set_num_threads(options.threads)
    said = [sentence.text for sentence in held_out()][: options.sentences]
    judge, out = Judge(options.models, options.towards, options.threads), dict[str, Any]()
    print(f"{len(said)} sentences that nothing is trained on, seed {options.seed}, {options.precision} on {options.device}")
    print(f"{'WER':>7}{'MOS':>7}{'alike':>8}{'s':>8}{'cut off':>9}{'first, s':>10}{'factor':>8}  voice")
    _row(out, "the plain voice", measure_plain(said, judge))
    for name in options.checkpoint:
        if (file := Path(name) / kept_codec.MIMI).is_file():
            mimi = kept_codec.ready(file.parent)
            _row(out, f"{name}: heard by the ear, sounded by Mimi", measure_plain(said, judge, mimi, kept_codec.ear_of(file.parent)))
            _row(out, f"{name}: heard and sounded by Mimi", measure_plain(said, judge, mimi))
            continue
        built = build(name, options.precision, options.device)
        if options.codec_only:
            _row(out, f"{name}, its codec alone", measure_plain(said, judge, built.mimi()))
        else:
            _row(out, name, measure(built, said, options.reference, judge, options.seed))
    return out


def _row(out: dict[str, Any], name: str, spoken: Iterator[Spoken]) -> None:
    each = list(spoken)
    total = summary(each)
    out[name] = {**total, "each": [asdict(one) for one in each]}
    speed = ["-" if total[key] is None else f"{total[key]:.2f}" for key in ("first_audio", "real_time_factor")]
    figures = f"{100 * total['wer']:>6.1f}%{total['mos']:>7.2f}{total['similarity']:>8.3f}{total['seconds']:>8.1f}{total['runaways']:>9}"
    print(f"{figures}{speed[0]:>10}{speed[1]:>8}  {name}", flush=True)
