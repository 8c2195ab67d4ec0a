"""`bedside bench planner`: how soon the words of a reply are there, and how fast they come. No safety rules, no sound."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import numpy as np

from device.chat import answer, open_pen
from device.config import FIRMWARE, ROOT, Settings
from device.spoken import spoken
from device.voice.replies import load_replies


def bench_planner(settings: Settings, turns: int, report: str | None) -> int:
    """Print p50 and p95 of the first clause and of the whole reply, and the chat model's tokens a second, over `turns` utterances."""
    rows = (ROOT / "tests/data/utterances.tsv").read_text(encoding="utf-8").splitlines()[1:]
    utterances = [row.split("\t")[0] for row in rows]
    # The model's own time, not that after which the bank answers.
    patient = settings.model_copy(update={"words": settings.words.model_copy(update={"late_seconds": 600.0})})
    pen = open_pen(patient)
    count = pen.count
    reviewed = {spoken(reply.says) for reply in load_replies(FIRMWARE / "replies.toml")}
    list(answer(pen, utterances[0], []))  # the first is slower: kernels are loaded
    first, whole, words, tokens, bank = [], [], [], [], 0
    before: list[tuple[str, str]] = []
    for number in range(turns):
        heard, began, said = utterances[number % len(utterances)], time.monotonic(), list[str]()
        for clause in answer(pen, heard, before):
            if not said:
                first.append(time.monotonic() - began)
            said.append(clause)
        whole.append(time.monotonic() - began)
        text = " ".join(said)
        words.append(len(text.split()))
        bank += any(text.endswith(reply) for reply in reviewed)
        if count:
            tokens.append(count(text) / whole[-1])
        before.append((heard, text))
    figures: dict[str, object] = {
        "words": pen.name, "turns": turns,
        "first_clause_s": _spread(first), "whole_reply_s": _spread(whole), "reply_words": round(float(np.mean(words)), 1),
    }  # fmt: skip
    if count:
        figures["tokens_a_second"], figures["answered_by_the_bank"] = _spread(tokens), bank
    print(f"words {pen.name}; {os.cpu_count()} cores, {platform.machine()}; {turns} turns")
    for name, value in figures.items():
        if name not in ("words", "turns"):
            shown = f"p50 {value['p50']:.3f}   p95 {value['p95']:.3f}" if isinstance(value, dict) else value
            print(f"{name.replace('_', ' '):<22}{shown}")
    if report:
        Path(report).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if pen.name == settings.words.model else 1


def _spread(values: list[float]) -> dict[str, float]:
    return {"p50": round(float(np.percentile(values, 50)), 4), "p95": round(float(np.percentile(values, 95)), 4)}
