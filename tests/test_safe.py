"""Safe mode: the light, the recorded sentence and the call button without anything else of the device."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from home import SOUNDS, ends_with, heard, until
from pulse import until as wait

from device import sounds
from device.audio import WavCard
from device.audit import Audit
from device.bench_sound import Pulse
from device.caregiver import FILE, Caregiver
from device.config import FIRMWARE, load
from device.control import ask
from device.doctor import Verdict, examine
from device.panel import open_panel
from device.safe import Safe, Speaker
from device.states import LIGHTS, State
from device.turn import Alert

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def opens(door: Path) -> bool:
    """Whether somebody listens: the file is there a moment sooner."""
    with socket.socket(socket.AF_UNIX) as hand:
        return hand.connect_ex(str(door)) == 0


@contextlib.asynccontextmanager
async def safe_mode(folder: Path, recorded: Any = SOUNDS, seconds: float = 600.0) -> AsyncIterator[Any]:
    settings = load(
        None, {},
        panel={"acknowledge_seconds": 0.3, "nurse_call_pin": "BOARD37"},
        voice={"socket": str(folder / "v.sock")},
        safety={"folder": str(folder / "safety"), "socket": str(folder / "c.sock")},
    )  # fmt: skip
    homes: list[Safe] = []
    panel = open_panel(settings.panel, lambda event: homes[0].post(event))
    card = WavCard([], tail=0.3, preroll=0.5, speed=8.0)
    home = Safe(settings, panel, card, recorded)
    homes.append(home)
    audit = folder / "safety" / "audit.log"
    over = anyio.Event()

    async def run() -> None:
        await home.run(seconds)
        over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(lambda: card.alive() and opens(folder / "c.sock"), "the card and the door")
        yield SimpleNamespace(
            safe=home, panel=panel, card=card, over=over, door=folder / "c.sock",
            entries=lambda: [json.loads(line)["what"] for line in audit.read_text().splitlines()] if audit.exists() else [],
        )  # fmt: skip
        tasks.cancel_scope.cancel()
    panel.close()


async def in_state(home: Any, state: State) -> None:
    await until(lambda: home.safe.state is state, state.value)


async def test_the_light_says_fault_and_a_press_gets_the_recorded_sentence(tmp_path: Path) -> None:
    async with safe_mode(tmp_path) as home:
        assert home.panel.lit() == LIGHTS[State.FAULT].rgb
        home.panel.press_talk()
        home.panel.release_talk()
        await until(lambda: ends_with(heard(home), "cant_answer"), "the recorded sentence")
        await until(lambda: "safe mode" in home.entries(), "the entry in the audit log")


async def test_the_call_button_calls_a_person_until_one_has_come(tmp_path: Path) -> None:
    async with safe_mode(tmp_path) as home:
        home.panel.press_call()
        home.panel.release_call()
        await in_state(home, State.ALERTING)
        assert home.panel.lit() == LIGHTS[State.ALERTING].rgb
        assert home.panel.calling()
        await until(lambda: ends_with(heard(home), "calling"), "the message")
        assert (await anyio.to_thread.run_sync(lambda: ask(home.door, status=True)))["call"]["kind"] == "call_someone"
        old = home.safe.alarm.began + 0.85
        await until(lambda: time.monotonic() > old, "an alert that may be ended")
        home.panel.press_call()
        await in_state(home, State.FAULT)
        assert not home.panel.calling()
        await until(lambda: home.entries()[-1] == "acknowledged", "the entry")
        assert "call" in home.entries()


async def test_a_call_that_was_open_when_the_companion_failed_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "safety"
    caregiver = Caregiver((folder,), Audit(folder))
    caregiver.keep(caregiver.begin(Alert("medical", "heart", "medical", "high")))
    assert (folder / FILE).exists()
    async with safe_mode(tmp_path, seconds=1.0) as home:
        began = time.monotonic()
        await in_state(home, State.ALERTING)
        assert home.panel.calling()
        await until(lambda: ends_with(heard(home), "medical"), "the message of that call")
        await until(lambda: time.monotonic() > began + 1.2, "the end of its time")
        assert not home.over.is_set()  # but a person is still being called
        await anyio.to_thread.run_sync(lambda: ask(home.door, acknowledge=True))
        with anyio.fail_after(5):
            await home.over.wait()


async def test_it_gives_way_to_the_companion_when_its_time_is_over(tmp_path: Path) -> None:
    async with safe_mode(tmp_path, seconds=1.0) as home:
        assert not home.over.is_set()
        with anyio.fail_after(5):
            await home.over.wait()
        assert not home.card.alive()  # the card is free for the companion


async def test_a_damaged_message_is_named_and_a_person_is_called_all_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "sounds"
    shutil.copytree(FIRMWARE / "sounds", copy)
    (copy / "calling.wav").write_bytes((copy / "calling.wav").read_bytes()[:-2] + b"xx")
    recorded, wrong = sounds.whole(copy)
    assert [text for text in wrong if "calling.wav" in text and "altered" in text]
    assert len(wrong) == 1
    async with safe_mode(tmp_path, recorded) as home:
        home.panel.press_call()
        await in_state(home, State.ALERTING)
        assert home.panel.calling()


def test_nothing_that_may_have_broken_the_companion_is_loaded(tmp_path: Path) -> None:
    """The real command until SIGTERM, which it answers with 0; its modules are told as it ends."""
    pytest.importorskip("systemd", reason="systemd-python is not installed")
    config = tmp_path / "c.toml"
    config.write_text(
        f'[audio]\nkind = "wav"\n[voice]\nsocket = "{tmp_path}/v.sock"\n[safety]\nfolder = "{tmp_path}/s"\nsocket = "{tmp_path}/c.sock"\n'
    )
    code = "import sys\nfrom device.__main__ import main\ncode = main()\nprint(*sys.modules)\nsys.exit(code)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "safe", "--config", str(config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        wait((tmp_path / "c.sock").exists, "the door", 30)
        child.send_signal(signal.SIGTERM)
        loaded, said = child.communicate(timeout=20)
    finally:
        child.kill()
    assert (child.returncode, "Traceback" in said) == (0, False), said
    unwanted = ("torch", "brainflow", "sqlcipher3", "transformers", "onnxruntime", "scipy", "device.voice", "device.memory", "device.eeg")
    found = {name for name in loaded.split() for bad in unwanted if name == bad or name.startswith(f"{bad}.")}
    assert not found
    assert not {"device.daemon", "device.safety_commands", "device.eeg_commands"} & set(loaded.split())


def test_it_speaks_through_the_card_and_opens_no_microphone(pulse: Pulse, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    card = Speaker(load(None, {}, audio={"kind": "card"}).audio)
    card.open()
    try:
        card.begin()
        card.play(SOUNDS["cant_answer"])
        wait(lambda: card.played > 0.3, "the first words")
        listed = [
            subprocess.run(["pactl", "list", "short", what], capture_output=True, text=True, timeout=10, check=True).stdout
            for what in ("source-outputs", "sink-inputs")
        ]
        assert (listed[0], bool(listed[1])) == ("", True)
        assert card.alive()
    finally:
        card.close()


async def test_doctor_says_that_it_is_safe_mode_and_leaves_its_parts_alone(tmp_path: Path) -> None:
    async with safe_mode(tmp_path) as home:
        await until(lambda: home.safe._told, "what systemd is told")
        seen = await anyio.to_thread.run_sync(lambda: dict(examine(home.safe.settings)))
    assert seen["companion"].verdict is Verdict.WRONG
    assert seen["companion"].text.startswith("SAFE MODE")
    assert (seen["sound"].text, seen["panel"].text) == ("held by safe mode", "held by safe mode")
