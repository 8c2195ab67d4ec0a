"""An alert in the whole device: the order of what happens, the relay, the prompts, the restart, and everything else gone."""

from __future__ import annotations

import http.server
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from home import SOUNDS, SPEECH, acknowledge, becomes, bedside, ends_with, heard, press, until

from device.__main__ import main
from device.audit import LOG, verify
from device.caregiver import FILE
from device.control import ControlLost, ask
from device.sounds import with_numbers
from device.states import TIMEOUTS, State
from device.turn import VOICE_RATE

pytestmark = pytest.mark.anyio
CRISIS = "I want to kill myself"
RELAY = {"nurse_call_pin": "BOARD37"}
NUMBERS = {"emergency_number": "112", "crisis_number": "116 123"}
WITH_NUMBERS = with_numbers(SOUNDS, "112", "116 123")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def entries(home: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.audit.read_text().splitlines()] if home.audit.exists() else []


def whats(home: Any) -> list[str]:
    return [entry["what"] for entry in entries(home) if entry["what"] not in ("runs", "started")]


async def test_light_message_relay_and_call_come_in_that_order_and_a_caregiver_ends_them(tmp_path: Path) -> None:
    order: list[str] = []
    async with bedside(tmp_path, [SPEECH], sentence=CRISIS, panel=RELAY, safety=NUMBERS) as home:
        companion, play, relay = home.companion, home.card.play, home.panel.nurse_call

        def played(pcm: Any) -> None:
            order.append(f"message, light {home.panel.lit()}")
            play(pcm)

        def called(on: bool) -> None:
            order.append(f"relay {on}")
            relay(on)

        home.card.play, home.panel.nurse_call = played, called
        companion.watch = lambda kind, value: order.append("call") if kind == "call" else None
        assert not home.panel.calling()
        await press(home)
        await becomes(home, State.ALERTING)
        assert order == ["message, light (1.0, 0.0, 0.0)", "relay True", "call"]
        assert home.panel.calling()
        await until(lambda: home.card.pending == 0, "the whole message", 30)
        assert np.array_equal(heard(home), WITH_NUMBERS["crisis"])
        assert len(heard(home)) > len(SOUNDS["crisis"]) + VOICE_RATE  # nine digits more
        await until(lambda: whats(home) == ["call"], "the entry")
        assert [entries(home)[-1][key] for key in ("kind", "level", "rule")] == ["suicide", "moderate", "kill_myself"]
        await acknowledge(home)
        await becomes(home, State.READY)
        assert not home.panel.calling()
        await until(lambda: whats(home) == ["call", "acknowledged"], "the acknowledgement")
        assert entries(home)[-1]["by"] == "button"
    assert verify(home.audit.parent)[0] == len(entries(home))
    assert not (tmp_path / "safety" / FILE).exists()
    assert not (tmp_path / FILE).exists()


async def test_nothing_a_patient_does_stops_the_message(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH, SPEECH], sentence=CRISIS) as home:
        await press(home)
        await becomes(home, State.ALERTING)
        for _ in range(3):
            home.panel.press_talk()
            home.panel.release_talk()
            home.panel.press_call()
            home.panel.release_call()
        await until(lambda: home.card.pending == 0, "the whole message", 30)
        assert ends_with(heard(home), "crisis")
        assert home.companion.state is State.ALERTING


@pytest.mark.parametrize(
    ("said", "message", "prompts"),
    [(CRISIS, "crisis", ["still_here", "slow_breath"]), ("my chest hurts so much", "medical", ["keep_still", "still_here"]),
     ("the night carer hits me", "danger", ["still_here", "slow_breath"])],
)  # fmt: skip
async def test_the_device_stays_and_speaks_until_someone_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, message: str, prompts: list[str]
) -> None:
    monkeypatch.setitem(TIMEOUTS, State.ALERTING, 2.0)
    async with bedside(tmp_path, [SPEECH], sentence=said) as home:
        await press(home)
        await becomes(home, State.ALERTING)
        whole = np.concatenate([SOUNDS[name] for name in (message, *prompts)])
        await until(lambda: len(heard(home)) >= len(whole), "two prompts", 30)
        assert np.array_equal(heard(home)[: len(whole)], whole)
        assert home.companion.state is State.ALERTING


async def test_a_call_is_open_again_after_a_restart_until_a_command_says_that_a_caregiver_came(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH], sentence=CRISIS, panel=RELAY) as home:
        await press(home)
        await becomes(home, State.ALERTING)
        await until((tmp_path / "safety" / FILE).exists, "the kept call")
        door = home.settings.safety.socket
        call = (await anyio.to_thread.run_sync(lambda: ask(door, status=True)))["call"]
        assert (call["kind"], call["level"]) == ("suicide", "moderate")
        assert set(call) == {"id", "kind", "level", "rule", "at"}
    async with bedside(tmp_path, [], voice=False, panel=RELAY) as home:
        await becomes(home, State.ALERTING)
        assert home.panel.calling()
        await until(lambda: ends_with(heard(home), "crisis"), "the message again", 30)
        assert (await anyio.to_thread.run_sync(lambda: ask(door, status=True)))["call"] == call
        await anyio.to_thread.run_sync(lambda: ask(door, acknowledge=True))
        await becomes(home, State.STARTING)
        assert not home.panel.calling()
        await until(lambda: whats(home)[-1] == "acknowledged", "the entry")
        assert entries(home)[-1]["by"] == "command"
        with pytest.raises(ControlLost, match="nobody is being called; it is starting"):
            await anyio.to_thread.run_sync(lambda: ask(door, acknowledge=True))
    assert whats(home) == ["call", "call goes on", "acknowledged"]


async def test_a_technician_asks_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'[safety]\nsocket = "{tmp_path / "c.sock"}"\n')

    async def status(*more: str) -> tuple[int, list[str]]:
        code = await anyio.to_thread.run_sync(main, ["status", "--config", str(file), *more])
        said = capsys.readouterr()
        return code, (said.out or said.err).splitlines()

    code, said = await status("--wait", "0.2")
    assert (code, "no companion answers" in said[0]) == (1, True)
    async with bedside(tmp_path, [SPEECH]) as home:
        assert await status() == (0, ["READY"])
        home.companion.alarm.refused("dose")
        assert await status() == (0, ["READY", "not said since the start: dose 1"])
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        code, said = await status("--wait", "0.2")
        assert (code, said[0]) == (0, "ALERTING")
        assert said[1].startswith("calling a person: call_someone, since 20")
        await acknowledge(home)


async def test_after_an_update_it_is_waited_for(tmp_path: Path) -> None:
    """First nobody answers, then a companion without a voice, and only then one that is READY."""
    file, ended = tmp_path / "settings.toml", anyio.Event()
    file.write_text(f'[safety]\nsocket = "{tmp_path / "c.sock"}"\n')

    async def waits() -> None:
        assert await anyio.to_thread.run_sync(main, ["status", "--config", str(file), "--wait", "30"]) == 0
        ended.set()

    for folder in ("mute", "well"):
        (tmp_path / folder).mkdir()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waits)
        async with bedside(tmp_path / "mute", [SPEECH], voice=False, safety={"socket": str(tmp_path / "c.sock")}):
            assert await anyio.to_thread.run_sync(main, ["status", "--config", str(file), "--wait", "1"]) == 1
            assert not ended.is_set()
        async with bedside(tmp_path / "well", [SPEECH], safety={"socket": str(tmp_path / "c.sock")}):
            with anyio.fail_after(10):
                await ended.wait()



async def test_the_call_button_alerts_with_the_voice_dead_and_the_headset_off(tmp_path: Path) -> None:
    async with bedside(tmp_path, [], voice=False, panel=RELAY) as home:
        assert home.settings.headset.board == "none"
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        assert home.panel.calling()
        await until(lambda: ends_with(heard(home), "calling"), "the message", 30)
        await until(lambda: whats(home) == ["call"], "the entry")


async def test_an_alert_needs_no_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the log's folder should be stands a file: every write to it fails, as on a full disk."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "safety").write_text("in the way")
    async with bedside(tmp_path, [SPEECH], sentence=CRISIS, panel=RELAY) as home:
        await press(home)
        await becomes(home, State.ALERTING)
        assert home.panel.calling()
        await until(lambda: ends_with(heard(home), "crisis"), "the message", 30)
        door = home.settings.safety.socket
        assert (await anyio.to_thread.run_sync(lambda: ask(door, status=True)))["call"]["kind"] == "suicide"
        await until(lambda: "call_not_kept" in caplog.text and "audit_waits" in caplog.text, "what the journal says")
        (tmp_path / "safety").unlink()  # there is room again
        await acknowledge(home)
        await becomes(home, State.READY)
        await until(lambda: whats(home) == ["call", "acknowledged"], "both entries")
    assert verify(home.audit.parent)[0] == len(entries(home))


async def test_an_alert_needs_no_network_and_is_told_once_there_is_one(tmp_path: Path) -> None:
    """The real caller as a process of its own: refused at first, then taken, then quiet when a caregiver has come."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as free:
        port = free.server_port
    url = f"http://127.0.0.1:{port}/"
    told: list[dict[str, Any]] = []

    class Ward(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

    async with bedside(tmp_path, [SPEECH], sentence=CRISIS) as home:
        config = tmp_path / "c.toml"
        config.write_text(f'[safety]\nsocket = "{home.settings.safety.socket}"\nwebhook = "{url}"\nretry_seconds = 0.2\n')
        command = [sys.executable, "-m", "device", "caller", "--config", str(config)]
        child = subprocess.Popen(command, cwd=ROOT)  # noqa: ASYNC220 (a test may wait for it)
        try:
            await press(home)
            await becomes(home, State.ALERTING)
            await until(lambda: ends_with(heard(home), "crisis"), "the message", 30)
            await until(lambda: "told" in whats(home), "the first, vain attempt", 30)
            assert entries(home)[-1]["result"] == "failed: URLError"
            with http.server.ThreadingHTTPServer(("127.0.0.1", port), Ward) as ward:
                threading.Thread(target=ward.serve_forever, daemon=True).start()
                await until(lambda: told, "the telling", 30)
                ward.shutdown()
            await until(lambda: entries(home)[-1]["result"] == "taken", "the entry", 30)
            assert CRISIS not in json.dumps(told) + home.audit.read_text()
        finally:
            child.terminate()
            assert child.wait(20) == 0
    assert (home.audit.parent / LOG).exists()
