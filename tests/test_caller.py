"""Who is told of a call, and how: a real HTTP server, a real program, a real companion's door, restarts and refusals."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device.audit import Audit, verify
from device.caller import caller, tell_once
from device.caregiver import FILE, Caregiver
from device.config import ConfigError, Safety, Settings
from device.control import ControlLost, ask
from device.provisioning import check_provisioned
from device.turn import Alert

HEART = Alert("medical", "heart", "medical", "high")


class Pager:
    """A server that a webhook may point to. `status` is what it answers; `got` what it was told."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status = 200
        pager = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                pager.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(pager.status)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ward"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def pager() -> Iterator[Pager]:
    pager = Pager()
    yield pager
    pager.server.shutdown()
    pager.server.server_close()


class Door:
    """A companion's door in a thread: the real server, with this call open."""

    def __init__(self, path: Path, call: dict[str, Any] | None) -> None:
        self.path, self.call = path, call
        self.told: list[tuple[str, str]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait(path.exists)

    def _run(self) -> None:
        import anyio

        from device import control

        async def serve() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(control.serve, self.path, self.answer)
                await anyio.to_thread.run_sync(self._end.wait)
                tasks.cancel_scope.cancel()

        anyio.run(serve)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "told" in request:
            self.told.append((request["told"], request["result"]))
        return {"call": self.call}

    def close(self) -> None:
        self._end.set()
        self._thread.join(10)


def wait(ready: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.fixture
def calling() -> Iterator[Callable[[Safety], None]]:
    """Starts a caller in a thread, ended with the test."""
    end = threading.Event()
    threads: list[threading.Thread] = []

    def start(settings: Safety) -> None:
        threads.append(threading.Thread(target=caller, args=(settings, end.is_set)))
        threads[-1].start()

    yield start
    end.set()
    for thread in threads:
        thread.join(20)


OPEN = {"id": "1", "kind": "medical", "level": "high", "rule": "heart", "at": "2026-01-01T00:00:00"}


def test_a_person_is_told_again_and_again_until_the_call_is_over(
    tmp_path: Path, pager: Pager, calling: Callable[[Safety], None]
) -> None:
    """Refused at first, then taken; and by the program as well. No more once a caregiver has come."""
    door, heard = Door(tmp_path / "c.sock", OPEN), tmp_path / "heard"
    pager.status = 503
    settings = Safety(
        webhook=pager.url, command=("/bin/sh", "-c", f"cat >> {heard}; echo >> {heard}"), device_name="bed 12", socket=str(door.path),
        retry_seconds=0.1, tell_again_seconds=0.1,
    )  # fmt: skip
    calling(settings)
    wait(lambda: len(pager.got) >= 2)
    pager.status = 200
    wait(lambda: ("webhook", "taken") in door.told and ("command", "taken") in door.told)
    assert ("webhook", "failed: HTTPError") in door.told
    assert pager.got[0] == {"device": "bed 12", "attempt": 1, **OPEN}
    assert pager.got[1]["attempt"] == 2
    assert json.loads(heard.read_text().splitlines()[0])["kind"] == "medical"
    before = len(pager.got)
    wait(lambda: len(pager.got) > before)  # taken, but nobody has come
    door.call = None
    time.sleep(1.5)  # longer than the caller's own look
    after = len(pager.got)
    time.sleep(0.5)
    assert len(pager.got) == after
    door.call = {**OPEN, "id": "2"}
    wait(lambda: pager.got[-1]["id"] == "2" and pager.got[-1]["attempt"] >= 1)
    door.close()


def test_a_companion_that_goes_away_does_not_end_the_telling(tmp_path: Path, pager: Pager, calling: Callable[[Safety], None]) -> None:
    door = Door(tmp_path / "c.sock", OPEN)
    calling(Safety(webhook=pager.url, socket=str(door.path), retry_seconds=0.1, tell_again_seconds=0.1))
    wait(lambda: pager.got)
    door.close()
    time.sleep(1.2)
    before = len(pager.got)
    wait(lambda: len(pager.got) > before)


def test_a_test_call_says_what_became_of_it(pager: Pager) -> None:
    settings = Safety(webhook=pager.url, command=("/bin/false",))
    assert tell_once(settings) == [("webhook", "taken"), ("command", "failed: status 1")]
    assert pager.got[0]["kind"] == "test"
    gone = Safety(webhook="http://127.0.0.1:9/x", command=("/nowhere/page",))
    assert all(outcome.startswith("failed: ") for _, outcome in tell_once(gone))


def test_a_caller_with_nobody_to_tell_says_so() -> None:
    with pytest.raises(ConfigError, match=r"set safety\.webhook or safety\.command"):
        caller(Safety())


def test_asking_where_no_companion_is_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(ControlLost, match=r"no companion answers at .*c\.sock .*is bedside-companion running"):
        ask(tmp_path / "c.sock", status=True)


def test_a_call_outlives_the_process_and_ends_with_the_acknowledgement(tmp_path: Path) -> None:
    disk, run = tmp_path / "disk", tmp_path / "run"
    first = Caregiver((disk, run), Audit(disk))
    call = first.begin(HEART)
    first.keep(call)
    again = Caregiver((disk, run), Audit(disk))
    assert again.call == call
    assert again.call.alert("medical") == HEART
    again.forget(again.acknowledge(), "button")
    assert Caregiver((disk, run), Audit(disk)).call is None
    assert list(tmp_path.rglob(FILE)) == []
    assert verify(disk)[0] == 2


@pytest.mark.parametrize("broken", ["disk", "run"])
def test_a_call_is_kept_where_one_of_its_folders_can_not_be_written(tmp_path: Path, broken: str) -> None:
    (tmp_path / broken).write_text("no folder")
    folders = (tmp_path / "disk", tmp_path / "run")
    first = Caregiver(folders, Audit(tmp_path / "disk"))
    call = first.begin(HEART)
    first.keep(call)
    assert Caregiver(folders, Audit(tmp_path / "disk")).call == call


def test_a_call_that_can_not_be_read_calls_all_the_same(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"id": "1", "ki')
    call = Caregiver((tmp_path,), Audit(tmp_path)).call
    assert call is not None
    assert call.rule == "unreadable call"


def test_a_call_that_is_over_is_not_kept_by_a_late_disk(tmp_path: Path) -> None:
    caregiver = Caregiver((tmp_path,), Audit(tmp_path))
    call = caregiver.begin(HEART)
    caregiver.forget(caregiver.acknowledge(), "button")
    caregiver.keep(call)
    assert Caregiver((tmp_path,), Audit(tmp_path)).call is None


GOOD = {"emergency_number": "112", "crisis_number": "116 123", "webhook": "https://ward.example/call"}


@pytest.mark.parametrize(
    ("panel", "safety", "told"),
    [
        ({"kind": "gpio"}, {**GOOD, "emergency_number": ""}, r"safety\.emergency_number = '': the emergency number of the place"),
        ({"kind": "gpio"}, {**GOOD, "crisis_number": ""}, r"safety\.crisis_number = ''"),
        ({"kind": "usb"}, {**GOOD, "webhook": ""}, r"an alert would reach nobody"),
    ],
)  # fmt: skip
def test_a_device_without_a_number_or_anybody_to_call_is_refused(panel: dict[str, Any], safety: dict[str, Any], told: str) -> None:
    check_provisioned(Settings.model_validate({"panel": panel, "safety": GOOD}))
    check_provisioned(Settings.model_validate({"panel": {"kind": "simulated"}, "safety": safety}))
    with pytest.raises(ConfigError, match=told):
        check_provisioned(Settings.model_validate({"panel": panel, "safety": safety}))


def test_a_relay_alone_is_somebody_to_call() -> None:
    panel = {"kind": "gpio", "nurse_call_pin": "BOARD37"}
    check_provisioned(Settings.model_validate({"panel": panel, "safety": {**GOOD, "webhook": ""}}))
