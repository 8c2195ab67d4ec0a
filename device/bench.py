"""`bedside bench`: how long each stage of a turn takes here, and how many words are heard and spoken right."""

from __future__ import annotations

import csv
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio
import numpy as np

from device import logs, wavs
from device.config import ROOT, Settings
from device.demo import EEG, LOADING, DemoFault, Story, press_and_wait, simulated, stage, until
from device.run import voice_process
from device.states import State
from device.turn import MIC_RATE

STAGES = ("release_to_heard", "release_to_first_clause", "release_to_first_audio")


def bench_turn(settings: Settings, turns: int, report: str | None) -> int:
    """Print p50 and p95 of each stage over `turns` turns. Latency counts from the release, tail included."""
    files = sorted((ROOT / "tests/data/speech").glob("LJ*.wav"))
    clips = [wavs.read(files[n % len(files)], MIC_RATE) for n in range(turns)]
    story = Story()
    story.line = lambda at, text: None  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="bedside-bench-") as folder:
        settings = simulated(settings, Path(folder), str(EEG))
        logs.setup(settings.log.level)
        with voice_process(settings) as voice:
            anyio.run(_turns, settings, clips, story, voice)
    figures = {
        stage: {"p50": round(float(np.percentile(values, 50)), 3), "p95": round(float(np.percentile(values, 95)), 3)}
        for stage in STAGES
        if (values := [turn.latency[stage] for turn in story.turns if stage in turn.latency])
    }
    print(f"{len(story.turns)} of {turns} turns answered; {os.cpu_count()} cores, {platform.machine()}")
    print(f"hearing {settings.listen.model}, words {settings.words.model}, voice {settings.voice.engine}")
    print(f"{'stage':<26}{'p50 s':>8}{'p95 s':>8}")
    for name, row in figures.items():
        print(f"{name.replace('_', ' '):<26}{row['p50']:>8.2f}{row['p95']:>8.2f}")
    if report:
        Path(report).write_text(json.dumps({"turns": len(story.turns), **figures}, indent=2) + "\n", encoding="utf-8")
    return 0 if len(story.turns) == turns else 1


async def _turns(settings: Settings, clips: list, story: Story, voice: object) -> None:  # type: ignore[type-arg]
    async with stage(settings, clips, story) as (companion, panel, card):
        await until(lambda: companion.state is State.READY, LOADING, "the voice to load", voice)
        for number, _ in enumerate(clips):
            await press_and_wait(story, companion, panel, card)
            print(f"\rturn {number + 1} of {len(clips)}", end="\n" if number + 1 == len(clips) else "", flush=True)


def bench_score(settings: Settings, demo: Path, transcripts: Path, report: str | None) -> int:
    """Word error rates of a demo: `heard` against the transcripts, `reply.wav` written down against `reply`."""
    from device.voice.listen import Listener
    from device.voice.load import choose_device, hush_libraries

    hush_libraries()
    words = normaliser()
    turns = json.loads((demo / "turn.json").read_text(encoding="utf-8"))["turns"]
    with transcripts.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if len(rows) != len(turns):
        raise DemoFault(f"{demo}/turn.json has {len(turns)} turns, {transcripts} {len(rows)} lines: give the words of its recordings")
    pairs = [(words(row["text"]), words(turn["heard"]["text"])) for row, turn in zip(rows, turns, strict=True)]
    ears = Listener(settings.listen.model, Path(settings.models.folder), device=choose_device(settings.voice.device))
    spoken = ears.transcribe(wavs.read(demo / "reply.wav", MIC_RATE)).text
    figures = {
        "turns": len(turns),
        "answered": sum(bool(turn["reply"]) for turn in turns),
        "heard_wer": round(sum(word_errors(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs), 4),
        "spoken_wer": round(_rate(words(" ".join(turn["reply"] for turn in turns)), words(spoken)), 4),
    }
    for name, value in figures.items():
        print(f"{name:<12}{value}")
    if report:
        Path(report).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def normaliser() -> Callable[[str], list[str]]:
    """Text to words by Whisper's own rules of what is the same: case, punctuation, numbers, contractions."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normal = EnglishTextNormalizer({})
    return lambda text: normal(text).split()


def _rate(said: list[str], heard: list[str]) -> float:
    return word_errors(said, heard) / max(1, len(said))


def word_errors(said: list[str], heard: list[str]) -> int:
    """Edit distance in words: wrong, missing and extra ones (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]
