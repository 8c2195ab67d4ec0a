"""`bedside bench consistency`: its judgement on figures that are known, and a whole run on a tiny checkpoint that speaks noise."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_csm  # noqa: E402

from device import config, wavs  # noqa: E402
from device.bench_consistency import _says, watched  # noqa: E402
from device.bench_gates import Reply, fall, gates, quarters  # noqa: E402
from device.logs import log  # noqa: E402
from device.turn import VOICE_RATE  # noqa: E402
from device.voice.load import load_csm  # noqa: E402

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=512)


def bedside(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "device", "bench", "consistency", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)


def judged(turns: int = 40, own: float = 0.93, lost: float = 0.0, mos: float = 4.5, fell: float = 0.0, **more: Any) -> list[bool]:
    """Which gates a run meets that loses so much of its similarity and its MOS, evenly, beside the noise of the plain voice."""
    chance, way = np.random.default_rng(1), np.linspace(0, 1, turns)
    alike = own - lost * way + chance.normal(0, 0.016, turns) * (way > 0)
    opinion = mos - fell * way + chance.normal(0, 0.12, turns)
    silences = more.pop("silences", [0.4] * turns)
    seconds = more.pop("seconds", 5.0)
    replies = [Reply(n + 1, seconds, float(alike[n]), 0.9, float(opinion[n]), silences[n], 0, 20, ["end"], 900) for n in range(turns)]
    figures = {"remembers": True, "restarts": [13, 26], "resumed": [9, 8], "forgot": [7, 6], **more}
    found = gates({**figures, "turns": [asdict(reply) for reply in replies], "quarters": quarters(replies)})
    return [gate["met"] for gate in found]


@pytest.mark.parametrize(
    ("run", "missed"),
    [
        ({}, []),
        ({"own": 0.6}, [0]),
        ({"lost": 0.04}, []),
        ({"lost": 0.09}, [1]),
        ({"fell": 0.05}, []),
        ({"fell": 0.4}, [2]),
        ({"fell": -0.5}, []),  # it got better
        ({"turns": 7}, [2]),  # too few to tell
        ({"silences": [0.4] * 39 + [1.1]}, [3]),
        ({"seconds": 0.0}, [3]),
        ({"forgot": []}, [4]),
        ({"resumed": [9]}, [5]),
        ({"resumed": [9, 0]}, [5]),
        ({"remembers": False, "forgot": [], "resumed": []}, []),
    ],
)
def test_each_gate_is_missed_for_its_own_reason(run: dict[str, Any], missed: list[int]) -> None:
    assert [number for number, met in enumerate(judged(**run)) if not met] == missed


def test_chance_alone_is_called_a_fall_once_in_twenty() -> None:
    chance = np.random.default_rng(3)
    alarms = 0
    for _ in range(200):
        fell, limit = fall(list(chance.normal(3.0, 0.5, 12)))
        alarms += fell > limit
    assert 2 <= alarms <= 20
    assert fall([5.0, 4.0, 3.0, 2.0])[0] == pytest.approx(3.0)


def test_replies_are_not_said_twice_before_all_have_been_said() -> None:
    said = _says(300, 0)
    assert len(said) == 300
    assert len(set(said[:218])) == 218
    assert said[:218] != _says(218, 1)
    assert said == _says(300, 0)


def test_the_log_is_read_whatever_level_the_settings_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("bedside").setLevel("WARNING")
    with watched() as watch:
        log("voice_clause", frames=3, budget=9, ended="budget", positions=77)
        log("voice_forgot", segments=4, positions=200)
        log("conversation_not_resumed", level=logging.WARNING, file="x", reason="damaged")
    assert watch.clauses == [{"frames": "3", "budget": "9", "ended": "budget", "positions": "77"}]
    assert (watch.forgot, watch.resumed) == ([4], [])
    assert "conversation_not_resumed" in capsys.readouterr().err
    assert watch not in logging.getLogger("bedside").handlers


def test_the_seed_makes_the_sampling_repeatable(checkpoint: Path) -> None:
    settings = config.Settings(voice=config.Voice(engine="csm", csm_model=str(checkpoint), precision="fp32", threads=1))
    said = []
    for seed in (5, 5, 6):
        voice, _ = load_csm(settings, "cpu", lambda text: None, seed)
        said.append(np.concatenate(list(voice.frames("Hello."))))
        voice.close()
    assert np.array_equal(said[0], said[1])
    assert not np.array_equal(said[0], said[2])


def test_a_voice_of_noise_runs_to_the_end_and_misses_its_gates(checkpoint: Path, tmp_path: Path, models_folder: Path) -> None:
    """Three turns with both restarts: every figure is there, the WAVs too, and nothing calls noise a voice."""
    words = ["--csm", checkpoint, "--precision", "fp32", "--turns", 3, "--json", tmp_path / "out.json", "--out", tmp_path / "said"]
    done = bedside(*words, "--device", "cpu")
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["restarts"] == [1, 2]
    assert done.stdout.count("the voice was closed and built again; segments that it resumed:") == 2
    assert len(found["resumed"]) == 2
    assert all(count > 0 for count in found["resumed"])
    assert sum(found["forgot"]) > 0  # 512 positions hold no three turns
    assert [gate["met"] for gate in found["gates"]] == [False, True, False, True, True, True]
    assert done.stdout.count("\nMISSED  ") == 2
    for number, turn in enumerate(found["turns"], 1):
        sound = wavs.read(tmp_path / "said" / f"turn-{number:03}.wav", VOICE_RATE)
        assert turn["seconds"] == pytest.approx(len(sound) / VOICE_RATE, abs=0.006)
        assert turn["wrong"] >= turn["words"] / 2
        assert turn["mos"] < 2.5
        assert turn["to_reference"] < 0.7
        assert len(turn["ended"]) >= 2
        assert 0 < turn["positions"] <= 512
    assert found["turns"][0]["to_first"] == pytest.approx(1)
    assert found["runaways"] == sum(reason != "end" for turn in found["turns"] for reason in turn["ended"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--turns", 2], "--turns from 3 to 1000"),
        (["--precisions", "int8,int4"], "takes one of --precisions"),
        (["--csm", "/nowhere", "--device", "cpu"], "/nowhere (voice.csm_model): no such folder"),
        (["--json", "/nowhere/out.json"], "/nowhere/out.json can't be written: there is no folder /nowhere"),
    ],
)
def test_a_wrong_bench_is_one_sentence(words: list[object], says: str) -> None:
    done = bedside(*words)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_weights_name_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "no-models.toml").write_text(f'[models]\nfolder = "{tmp_path}/none"\n')
    done = bedside("--config", tmp_path / "no-models.toml")
    assert done.returncode == 1
    assert "run 'bedside models fetch'" in done.stderr
    assert "Traceback" not in done.stderr
