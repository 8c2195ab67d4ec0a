"""`bedside bench safety --speech`: the noise is as loud as it says, figures are of what was heard, and one sentence goes all the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from device.bench_safety import Row
from device.bench_speech import AFTER, BEFORE, SNR, SPEEDS, Told, in_noise, spoken_figures
from device.turn import MIC_RATE, Heard

SPEECH = (3000 * np.sin(np.arange(2 * MIC_RATE) / 9)).astype(np.int16)


def test_the_noise_is_ten_decibels_below_the_speech_and_around_it() -> None:
    heard = in_noise(SPEECH, np.random.default_rng(0)).astype(float)
    begin = round(BEFORE * MIC_RATE)
    assert len(heard) == len(SPEECH) + round((BEFORE + AFTER) * MIC_RATE)
    noise = heard.copy()
    noise[begin : begin + len(SPEECH)] -= SPEECH
    power = np.mean(SPEECH.astype(float) ** 2) / np.mean(noise**2)
    assert 10 * np.log10(power) == pytest.approx(SNR, abs=0.1)
    octaves = [np.sum(np.abs(np.fft.rfft(noise))[low : 2 * low] ** 2) for low in (500, 1000, 2000, 4000)]
    assert max(octaves) / min(octaves) < 1.5  # pink


def test_the_figures_are_of_what_was_heard_not_of_what_was_said() -> None:
    risk, other = Row(True, "ours", "I want to die"), Row(False, "ours", "I like the sky")
    told = [
        Told(risk, SPEEDS[0], Heard("I want to die", 1.0, 0.9)),
        Told(risk, SPEEDS[1], Heard("I want a tie", 1.0, 0.9)),
        Told(other, SPEEDS[0], Heard("I like to die", 1.0, 0.9)),
        Told(other, SPEEDS[1], Heard("", 0.0, 0.0)),
    ]
    found = spoken_figures(told, lambda text: text.lower().split())
    assert found["recall_counts"] == [1, 2]
    assert found["sources"]["ours"]["recall"] == 0.5
    assert found["speeds"][str(SPEEDS[0])]["recall_counts"] == [1, 1]
    assert found["speeds"][str(SPEEDS[1])]["recall_counts"] == [0, 1]
    assert found["words_wrong"] == round((0 + 2 + 2 + 4) / 16, 4)


def test_a_sentence_is_spoken_heard_and_judged(tmp_path: Path, models_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("hibari")
    from device.__main__ import main

    file, config, report = tmp_path / "one.tsv", tmp_path / "settings.toml", tmp_path / "out.json"
    file.write_text("risk\tsource\ttext\n1\tours\tI want to kill myself\n")
    config.write_text('[listen]\nmodel = "embedded:whisper-tiny"\n')
    assert main(["bench", "safety", str(file), "--speech", "--config", str(config), "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["recall_counts"] == [1, 1]
    assert found["speech"]["recall_counts"] == [2, 2]
    assert set(found["speech"]["speeds"]) == {str(speed) for speed in SPEEDS}
    printed = capsys.readouterr().out
    assert "pink noise at 10 dB, heard by embedded:whisper-tiny" in printed
    assert "at speed 1.15" in printed
