"""`bedside doctor`: what it finds of a bedside that runs and of one that does not, on the real door, card, headset driver and files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import soundfile
from home import REPLY, SENTENCE, SPEECH, becomes, bedside, press, until

from device import config, doctor
from device.bench_sound import Pulse
from device.doctor import Finding, Verdict, examine, judge_units
from device.fake_cyton import FakeCyton
from device.soundcard import SoundCard
from device.states import Event, State
from device.turn import VOICE_RATE

ROOM = np.random.default_rng(0).normal(0, 33, VOICE_RATE * 30)  # at -60 dB


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def settings(folder: Path, **sections: Any) -> config.Settings:
    """Of a unit that nobody started, all of it in `folder`."""
    own = {
        "memory": {"file": str(folder / "memory.db"), "key": str(folder / "memory.key")},
        "safety": {"folder": str(folder / "safety"), "socket": str(folder / "c.sock")},
        "audio": {"kind": "wav"},
    }
    return config.load(None, {}, **{name: {**own.get(name, {}), **sections.get(name, {})} for name in {*own, *sections}})


def found(of: config.Settings) -> dict[str, Finding]:
    return dict(examine(of))


class Somebody:
    """Sound into the card's microphone for as long as the block lasts."""

    def __init__(self, pulse: Pulse, file: Path, pcm: np.ndarray) -> None:
        soundfile.write(file, np.clip(pcm, -32768, 32767).astype(np.int16), VOICE_RATE)
        self._command, self._environment = ["paplay", str(file)], {**os.environ, **pulse.environment}

    def __enter__(self) -> None:
        self._player = subprocess.Popen(self._command, env=self._environment)

    def __exit__(self, *_: object) -> None:
        self._player.kill()
        self._player.wait(10)


@pytest.mark.anyio
async def test_a_bedside_that_runs_is_asked_and_says_no_words(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        await press(home)
        await until(lambda: home.memory.recent(5), "the turn")
        await becomes(home, State.READY)
        seen = await anyio.to_thread.run_sync(found, home.settings)
    assert seen["companion"] == Finding(Verdict.GOOD, "ready")
    assert seen["voice"] == Finding(Verdict.GOOD, "tone speaks")
    assert seen["memory"] == Finding(Verdict.GOOD, "every turn is on the disk")
    assert seen["headset"].verdict is Verdict.ABSENT
    said = " ".join(finding.text for finding in seen.values()).lower()
    assert not set(f"{SENTENCE} {REPLY}".lower().replace(".", "").split()) & set(said.split()) - {"i", "me", "more", "that"}


@pytest.mark.anyio
async def test_a_microphone_is_measured_while_the_companion_holds_the_card(pulse: Pulse, tmp_path: Path) -> None:
    """Its last minute: first a quiet room, then somebody whom it cuts off."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    async with bedside(tmp_path, [], card=SoundCard(config.Audio(kind="card")), audio={"kind": "card"}) as home:
        meter = home.companion.audio.meter
        with Somebody(pulse, tmp_path / "room.wav", ROOM):
            await until(lambda: (heard := meter.level()) and heard.floor > -65, "the room alone", 20)
            room = await anyio.to_thread.run_sync(found, home.settings)
        with Somebody(pulse, tmp_path / "loud.wav", ROOM * 3000):
            await until(lambda: meter.level().clipped > 0.005, "somebody who is cut off", 20)
            loud = await anyio.to_thread.run_sync(found, home.settings)
    assert room["sound"].verdict is Verdict.GOOD, room["sound"]
    assert "room -6" in room["sound"].text
    assert loud["sound"].verdict is Verdict.WRONG
    assert "clips" in loud["sound"].text


@pytest.mark.anyio
async def test_a_voice_that_is_lost_and_a_memory_that_keeps_nothing_are_said(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH]) as home:
        home.companion.remembering.fault = True
        home.companion.voice = home.companion.about = None
        home.companion.post(Event.LOST)
        await becomes(home, State.FAULT)
        seen = await anyio.to_thread.run_sync(found, home.settings)
    assert seen["companion"].verdict is Verdict.WRONG
    assert "FAULT" in seen["companion"].text
    assert seen["voice"].verdict is Verdict.NOTED
    assert seen["memory"].verdict is Verdict.WRONG


def test_without_a_companion_each_part_is_tried(pulse: Pulse, tmp_path: Path) -> None:
    """A real card that gives digital silence, a header that this machine has not, nobody to call, a key that went."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    (tmp_path / "memory.db").write_bytes(b"something")
    seen = found(settings(tmp_path, audio={"kind": "card"}, panel={"kind": "gpio", "board": "orin-nano"}))
    wrong = {name: finding.text for name, finding in seen.items() if finding.verdict is Verdict.WRONG}
    assert "digital silence" in wrong["sound"]
    assert "safety.emergency_number = ''" in wrong["people"]
    assert "memory.key" in wrong["memory"]
    assert wrong["panel"]
    assert "no companion answers" in seen["companion"].text


def test_a_headset_is_found_by_its_samples_and_one_that_is_not_there_by_its_port(tmp_path: Path) -> None:
    with FakeCyton(np.random.default_rng(1).normal(0, 20, (8, 2500)), tmp_path / "cyton", loop=True):
        seen = found(settings(tmp_path, headset={"board": "cyton", "port": str(tmp_path / "cyton")}))
    assert seen["headset"].verdict is Verdict.GOOD, seen["headset"]
    assert "samples arrive" in seen["headset"].text


def test_a_headset_that_is_not_plugged_in_is_only_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 1.0)
    seen = found(settings(tmp_path, headset={"board": "cyton", "port": str(tmp_path / "none")}))
    assert seen["headset"].verdict is Verdict.NOTED
    assert f"there is no {tmp_path / 'none'}" in seen["headset"].text


@pytest.mark.parametrize(("free", "verdict"), [(50e9, Verdict.GOOD), (0.9e9, Verdict.NOTED), (0.1e9, Verdict.WRONG)])
def test_a_disk_that_fills_up_is_said_before_it_is_full(free: float, verdict: Verdict, tmp_path: Path, monkeypatch: Any) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(0, 0, free))
    assert found(settings(tmp_path))["disk"].verdict is verdict


def shown(**states: str) -> str:
    """What `systemctl show` prints; a unit that is not named is not installed."""
    return "\n\n".join(
        f"NRestarts=2\nId={unit}.service\nLoadState={'loaded' if unit in of else 'not-found'}\nActiveState={of.get(unit, 'inactive')}"
        for of in [{f"bedside-{name}": state for name, state in states.items()}]
        for unit in doctor.UNITS
    )


@pytest.mark.parametrize(
    ("states", "verdict", "says"),
    [
        ({}, Verdict.ABSENT, "not installed"),
        ({"companion": "active", "voice": "active", "caller": "inactive", "safe": "inactive"}, Verdict.GOOD, "voice (restarted 2 times)"),
        ({"companion": "active", "voice": "activating", "safe": "inactive"}, Verdict.WRONG, "journalctl -u bedside-voice"),
        ({"companion": "active", "voice": "active", "caller": "failed"}, Verdict.WRONG, "bedside-caller is failed"),
        ({"companion": "inactive", "voice": "active", "safe": "active"}, Verdict.WRONG, "SAFE MODE"),
    ],
)
def test_what_systemd_says_is_judged(states: dict[str, str], verdict: Verdict, says: str) -> None:
    finding = judge_units(shown(**states))
    assert finding.verdict is verdict
    assert says in finding.text


def test_a_check_that_fails_itself_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(settings: Any, told: Any) -> Finding:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(doctor, "CHECKS", (("first", broken), *doctor.CHECKS))
    seen = found(settings(tmp_path))
    assert seen["first"] == Finding(Verdict.WRONG, "the check itself failed: ZeroDivisionError: by zero")
    assert seen["disk"].verdict is Verdict.GOOD


def test_the_command_prints_a_line_each_and_its_exit_says_whether_all_is_well(tmp_path: Path, capsys: Any) -> None:
    well = settings(tmp_path)
    code = doctor.doctor(well, str(tmp_path / "d.json"))
    lines, rows = capsys.readouterr().out.splitlines(), json.loads((tmp_path / "d.json").read_text())
    assert len(lines) == len(rows) == 1 + len(doctor.CHECKS)
    assert code == int(any(row["verdict"] == "wrong" for row in rows))
    (tmp_path / "safety").mkdir()
    (tmp_path / "safety/audit.log").write_text('{"n": 1, "hash": "nothing"}\n')
    assert doctor.doctor(well, None) == 1
    assert "WRONG audit log" in capsys.readouterr().out
