"""`bedside bench turn`: how long each stage of a turn takes here, over real recordings and real models."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path

import anyio
import numpy as np

from device import wavs
from device.config import ROOT, Settings
from device.demo import EEG, LOADING, Story, press_and_wait, simulated, stage, until
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
