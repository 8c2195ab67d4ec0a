"""bedside audio, through the real PortAudio on a real sound server whose speaker is its own microphone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from device.bench_sound import Pulse


def audio(*words: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "device", "audio", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **more)


@pytest.fixture
def pactl(pulse: Pulse) -> Any:
    def run(*words: str) -> None:
        subprocess.run(["pactl", *words], check=True, timeout=10, capture_output=True)

    yield run
    run("set-source-mute", "loop.monitor", "0")
    run("set-sink-mute", "loop", "0")


def test_a_card_that_hears_its_own_speaker_works(pactl: Any, tmp_path: Path) -> None:
    done = audio("test", "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert "works, both ways" in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    # 0.3 of full scale is -13.5 dB of a sine's rms: nothing is lost on the way, and nothing is added.
    assert found["tone_db"] == pytest.approx(-13.5, abs=1.5)
    assert found["without_db"] < -60
    assert found["wrong"] == ""


def test_a_microphone_that_is_muted_is_said(pactl: Any) -> None:
    pactl("set-source-mute", "loop.monitor", "1")
    done = audio("test")
    assert done.returncode == 1
    assert "digital silence" in done.stderr


def test_the_gain_is_judged_by_what_is_really_heard(pactl: Any, pulse: Pulse, tmp_path: Path) -> None:
    """A room at -60 dB and then somebody who speaks: played into the sink whose monitor is the microphone."""
    chance = np.random.default_rng(0)
    room = chance.normal(0, 33, 24_000 * 60)
    speech = chance.normal(0, 3300, 24_000 * 60) * (np.sin(np.arange(24_000 * 60) / 24_000 * 2 * np.pi * 2) > -0.5)
    files = {}
    for name, sound in (("room", room), ("speech", room + speech)):
        files[name] = tmp_path / f"{name}.wav"
        soundfile.write(files[name], np.clip(sound, -32768, 32767).astype(np.int16), 24_000)
    player = subprocess.Popen(["paplay", files["room"]])
    try:
        command = [sys.executable, "-u", "-m", "device", "audio", "calibrate", "--json", str(tmp_path / "c.json")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asked:
            assert asked.stdout is not None
            for line in asked.stdout:
                if line.startswith("Now speak"):
                    player.kill()
                    player = subprocess.Popen(["paplay", files["speech"]])
                    break
            said, wrong = asked.communicate(timeout=60)
    finally:
        player.kill()
        player.wait(10)
    assert asked.returncode == 0, said + wrong
    assert "The gain is right" in said
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["room"]["rms"] == pytest.approx(-60, abs=3)
    assert found["speech"]["rms"] == pytest.approx(-21, abs=4)


def test_every_card_is_listed_and_the_chosen_ones_are_marked(pactl: Any, tmp_path: Path) -> None:
    done = audio("devices", "--json", tmp_path / "d.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "d.json").read_text())
    names = {card["index"]: card["name"] for card in found["cards"]}
    assert names[found["chosen"]["input"]] in done.stdout
    assert any(line.startswith("<>") or line.startswith("<") for line in done.stdout.splitlines())
    (tmp_path / "other.toml").write_text('[audio]\ninput = "Jabra"\n')
    done = audio("devices", "--config", tmp_path / "other.toml")
    assert done.returncode == 1
    assert "audio.input = 'Jabra', which fits none of them" in done.stdout


@pytest.mark.parametrize("what", ["test", "calibrate"])
def test_a_card_that_does_not_open_is_one_sentence(what: str, pulse: Pulse, tmp_path: Path) -> None:
    done = audio(what, env={**os.environ, "PULSE_SERVER": f"unix:{tmp_path}/none"})
    assert done.returncode == 1
    assert done.stderr.startswith("bedside: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_simulated_card_has_nothing_to_measure(tmp_path: Path) -> None:
    (tmp_path / "sim.toml").write_text('[audio]\nkind = "wav"\n')
    done = audio("test", "--config", tmp_path / "sim.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "audio.kind is 'wav'" in done.stderr
