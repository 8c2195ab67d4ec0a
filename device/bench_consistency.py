"""`bedside bench consistency`: does the voice stay itself through a long conversation, its forgetting and its restarts?

One conversation, spoken as the device speaks it: patients' recordings in, replies of the bank out, clause by clause.
Each reply is measured by itself (device/voice/quality.py); bench_gates.py judges the run.
"""

from __future__ import annotations

import csv
import gc
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from device import logs, wavs
from device.bench import normaliser, word_errors
from device.bench_gates import Reply, gates, quarters, row, show
from device.bench_report import check
from device.config import FIRMWARE, ROOT, Settings
from device.planner import clauses
from device.turn import MIC_RATE, VOICE_RATE

EARS = "embedded:whisper-base"  # whatever the device itself listens with: word errors of two runs can be compared
BLOCK = 1280  # samples of the patient at once, as the companion sends them: 80 ms
RESTARTS = 2


class Watch(logging.Handler):
    """What the voice logs: how clauses ended, what was forgotten, what was resumed. Its warnings are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.clauses: list[dict[str, str]] = []
        self.forgot: list[int] = []  # segments, each time
        self.resumed: list[int] = []  # segments, after each restart

    def emit(self, record: logging.LogRecord) -> None:
        event, *pairs = record.getMessage().split()
        if event == "voice_clause":
            self.clauses.append(dict(pair.split("=", 1) for pair in pairs))
        elif event in ("voice_forgot", "conversation_resumed"):
            (self.forgot if event == "voice_forgot" else self.resumed).append(int(pairs[0].partition("=")[2]))
        elif record.levelno >= logging.WARNING:
            print(record.getMessage(), file=sys.stderr)


def bench_consistency(settings: Settings, device: str, turns: int, seed: int, out: str | None, report: str | None) -> int:
    """Print a line for each turn, the first and the last quarter, and a verdict for each gate. 1: a gate is not met.

    The voice is the settings' own; `out`: a folder for what was said, a WAV for each turn. Raises OSError, VoiceFault, ModelMissing.
    """
    from device.voice.load import choose_device, hush_libraries

    check(report, None)
    hush_libraries()
    device = choose_device(device)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
    replies: list[Reply] = []
    with watched() as watch:
        voice = _voice(settings, device, seed)
        measures = Measures(settings)
        _head(settings, voice, turns, seed)
        patients, says = _patients(), _says(turns, seed)
        restarts = [turns * (number + 1) // (RESTARTS + 1) for number in range(RESTARTS)]
        for turn in range(1, turns + 1):
            words, sound = patients[turn % len(patients)]
            before = len(watch.clauses)
            pcm = _speak(voice, words, sound, says[turn - 1])
            replies.append(measures.reply(turn, pcm, says[turn - 1], watch.clauses[before:]))
            row(replies[-1])
            if out:
                wavs.write(Path(out) / f"turn-{turn:03}.wav", pcm, VOICE_RATE)
            if turn in restarts:
                told, history = len(watch.resumed), voice.history() if voice.name == "csm" else []
                _close(voice)
                del voice
                gc.collect()
                voice = _voice(settings, device, seed + turn)
                if voice.name == "csm":
                    voice.resume(history)
                resumed = f"; segments that it resumed: {sum(watch.resumed[told:])}" if voice.name == "csm" else ""
                print(f"      the voice was closed and built again{resumed}")
        _close(voice)
    remembers = voice.name == "csm"
    figures = {
        "voice": settings.voice.csm_model if remembers else voice.name,
        **{"precision": voice.precision, "device": device, "seed": seed, "remembers": remembers},
        **{"restarts": restarts, "resumed": watch.resumed, "forgot": watch.forgot},
        "turns": [asdict(reply) for reply in replies],
        "runaways": sum(reason != "end" for reply in replies for reason in reply.ended),
        "quarters": quarters(replies),
    }
    figures["gates"] = gates(figures)
    if report:
        Path(report).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    show(figures)
    return 0 if all(gate["met"] for gate in figures["gates"]) else 1


# The conversation ----------------------------------------------------------------------------------


@contextmanager
def watched() -> Iterator[Watch]:
    """The device's log, read and not shown, whatever level the settings ask for."""
    logger, watch = logging.getLogger("bedside"), Watch()
    logs.setup("info")
    logger.addHandler(watch)
    logger.propagate = False
    try:
        yield watch
    finally:
        logger.propagate = True
        logger.removeHandler(watch)


def _voice(settings: Settings, device: str, seed: int) -> Any:
    """The voice as the device loads it, but that a CSM which can't be loaded is an error: nothing stands in."""
    from device.voice.load import load_csm, load_throat

    if settings.voice.engine == "csm":
        return load_csm(settings, device, lambda text: None, seed)[0]
    return load_throat(settings, device, lambda text: None)[0]


def _close(voice: Any) -> None:
    if voice.name == "csm":
        voice.close()


def _patients() -> list[tuple[str, np.ndarray]]:
    """(words, int16 samples at 16 kHz) of each recording of a person."""
    folder = ROOT / "tests/data/speech"
    with (folder / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(row["text"], wavs.read(folder / row["file"], MIC_RATE)) for row in rows]


def _says(turns: int, seed: int) -> list[str]:
    """So many replies of the bank, by chance, none twice before all have been said."""
    from device.voice.replies import load_replies

    chance, bank = random.Random(seed), [reply.says for reply in load_replies(FIRMWARE / "replies.toml")]
    out: list[str] = []
    while len(out) < turns:
        out += chance.sample(bank, len(bank))
    return out[:turns]


def _speak(voice: Any, heard: str, sound: np.ndarray, reply: str) -> np.ndarray:
    """One turn, in the order in which the voice process asks for it: int16 (n,) at 24 kHz of all the clauses."""
    voice.start()
    for begin in range(0, len(sound), BLOCK):
        voice.feed(sound[begin : begin + BLOCK])
    voice.hear(heard)
    spoken = [(clause, list(voice.frames(clause))) for clause in clauses([reply])]
    for clause, frames in spoken:
        voice.said(clause, len(frames))
    return np.concatenate([np.zeros(0, np.int16), *(frame for _, frames in spoken for frame in frames)])


def _head(settings: Settings, voice: Any, turns: int, seed: int) -> None:
    name = settings.voice.csm_model if voice.name == "csm" else "the plain voice, which keeps no history: nothing can drift"
    print(f"{name}, {voice.precision}; {turns} turns of one conversation, seed {seed}")
    print(f"{'turn':>4}{'s':>7}{'to ref.':>9}{'to turn 1':>11}{'MOS':>6}{'silence, s':>12}{'wrong words':>13}{'positions':>11}  ended by")


# The measures --------------------------------------------------------------------------------------


class Measures:
    """Everything that a reply is measured with, on the CPU wherever the voice runs: the figures of two machines can be compared."""

    def __init__(self, settings: Settings) -> None:
        from device.voice.listen import Listener
        from device.voice.load import reference
        from device.voice.plain import to_int16
        from device.voice.quality import Mos, SpeakerEncoder

        folder = Path(settings.models.folder)
        self._ears = Listener(EARS, folder, threads=settings.voice.threads)
        self._words: Callable[[str], list[str]] = normaliser()
        self._encoder, self._mos = SpeakerEncoder(folder), Mos(folder)
        self._reference = self._encoder.embed(to_int16(reference()[1]), VOICE_RATE)
        self._first: np.ndarray | None = None

    def reply(self, turn: int, pcm: np.ndarray, says: str, spoken: list[dict[str, str]]) -> Reply:
        """`pcm`: int16 (n,) at 24 kHz; `says`: its words; `spoken`: what the voice logged of its clauses."""
        import soxr

        from device.voice.quality import longest_silence, similarity

        voice, said = self._encoder.embed(pcm, VOICE_RATE), self._words(says)
        self._first = voice if self._first is None else self._first
        heard = self._words(self._ears.transcribe(soxr.resample(pcm, VOICE_RATE, MIC_RATE)).text)
        return Reply(
            turn,
            round(len(pcm) / VOICE_RATE, 2),
            round(similarity(voice, self._reference), 4),
            round(similarity(voice, self._first), 4),
            round(self._mos.score(pcm, VOICE_RATE), 3),
            round(longest_silence(pcm, VOICE_RATE), 2),
            word_errors(said, heard),
            len(said),
            [clause["ended"] for clause in spoken],
            int(spoken[-1]["positions"]) if spoken else 0,
        )
