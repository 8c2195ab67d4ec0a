"""`bedside chat` and `bedside bench planner` on the real bank and the real tiny chat model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_chat import build

from device import models
from device.bench_planner import bench_planner
from device.chat import answer, chat
from device.config import FIRMWARE, Settings, load
from device.reply_rules import INSTEAD
from device.spoken import spoken
from device.voice.replies import load_replies

BANK = {spoken(reply.says) for reply in load_replies(FIRMWARE / "replies.toml")}


def settings(folder: Path, **words: Any) -> Settings:
    return load(None, {}, words=words, models={"folder": str(folder)}, voice={"device": "cpu", "threads": 1})


def test_typed_lines_are_answered_and_a_crisis_gets_no_reply(models_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat(settings(models_folder), ["I can't sleep\n", "\n", "I want to kill myself\n", "I can't sleep\n"]) == 0
    first, alert, second = capsys.readouterr().out.splitlines()
    assert first.strip() in BANK
    assert second.strip() in BANK - {first.strip()}
    assert alert.startswith("ALERT")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("It is 10:30. Rest.", ["It is ten thirty.", "Rest."]),
        ("Yes. You should take two tablets now. Rest.", ["Yes.", "The bank.", INSTEAD["dose"]]),
        ("***", ["The bank.", INSTEAD["dose"]]),
    ],
)
def test_a_chat_models_words_take_the_path_that_they_take_aloud(written: str, said: list[str]) -> None:
    class Pen:
        name = "chat"

        def plan(self, request: dict[str, Any], bank: bool) -> Iterator[str]:
            return iter(["The bank. You should take two tablets now."] if bank else [written])

    assert list(answer(Pen(), "hello", [])) == said


def test_the_planner_is_timed_and_its_tokens_counted(
    models_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(build(tmp_path / "chat"))
    report = tmp_path / "planner.json"
    assert bench_planner(settings(models_folder, model=model, max_words=8), 2, str(report)) == 0
    figures = json.loads(report.read_text())
    assert figures["words"] == model
    assert figures["turns"] == 2
    assert 0 < figures["first_clause_s"]["p50"] <= figures["whole_reply_s"]["p95"]
    assert figures["tokens_a_second"]["p50"] > 0
    assert bench_planner(settings(models_folder), 2, str(report)) == 0
    figures = json.loads(report.read_text())
    assert figures["words"] == "bank"
    assert "tokens_a_second" not in figures
    assert bench_planner(settings(models_folder, model=str(tmp_path / "none")), 1, None) == 1
    assert "stands in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: x", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: 'llama3.2'\n---\n", "llama3.2"),
        ("# no card", "no licence in"),
        (None, "no licence in"),
    ],
)
def test_the_language_models_licence_is_read_from_its_card(tmp_path: Path, card: str | None, licence: str) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert f"({licence}" in models.words_line(str(tmp_path))
    (tmp_path / "m.gguf").touch()
    assert f"({licence}" in models.words_line(str(tmp_path / "m.gguf"))


def test_a_licence_that_is_not_known_offline_says_where_to_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "licence not known here: see https://huggingface.co/no-such/model-of-ours" in models.words_line("no-such/model-of-ours")
    assert "no language model" in models.words_line("bank")
