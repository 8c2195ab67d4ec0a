"""The real units, the real processes and the real models under a real systemd, broken on purpose. Prints a table of figures.

    scripts/test-vm container [SCENARIO …]    all of them take about half an hour on two cores; without names all are run
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from vm.nspawn import ROOT, Container, Unable, until
from vm.person import CYAN, GREEN, LOAD, RED, SPEECH, YELLOW, Recorder, acknowledge, ask, begins, ready, restarts, shows, turn
from vm.provisioning import provision
from vm.shut import hardening, logs, no_network
from vm.spoken import answer, edges, own_voice

# The scenarios: each returns its figure in words, or raises AssertionError ---------------------------------


def boots(home: Container, count: int = 10) -> str:
    """Power on to the green light, and a turn the moment that it is green."""
    to_button, to_green = [], []
    for number in range(count):
        home.stop()
        began = time.monotonic()
        home.boot()
        until(lambda: home.light(), "the light of a companion", 60)
        to_button.append(home.lights()[0][0] - began)
        green = ready(home)
        assert home.pid("bedside-voice"), "green without a voice"
        to_green.append(green - began)
        turn(home)
        print(f"  boot {number + 1}: button after {to_button[-1]:.1f} s, green after {to_green[-1]:.1f} s, and a turn worked", flush=True)
    greens = f"green {np.median(to_green):.0f} s (median), {max(to_green):.0f} s at most"
    return f"{count} of {count}: button {max(to_button):.1f} s at most, {greens}; a turn at once"


def kill_voice(home: Container) -> str:
    ready(home)
    began = ask(home)
    shows(home, CYAN, 60, began)
    record = Recorder(home, 8)
    killed = time.monotonic()
    home.kill("bedside-voice", "KILL")
    fault = shows(home, YELLOW, 10, killed) - killed
    calm = begins(record.sound(), "cant_answer") - (killed - record.began)
    again = ready(home) - killed
    turn(home)
    assert max(fault, calm) < 1, f"light {fault:.2f} s, sentence {calm:.2f} s"
    return f"FAULT light after {fault:.2f} s, recorded sentence after {calm:.2f} s, ready by itself after {again:.0f} s"


def kill_companion(home: Container) -> str:
    ready(home)
    turn(home)
    before = home.turns()
    killed = time.monotonic()
    home.kill("bedside-companion", "KILL")
    again = shows(home, GREEN, LOAD, killed) - killed
    after = home.turns()
    assert [t["at"] for t in after] == [t["at"] for t in before], f"{len(before)} turns before, {len(after)} after"
    turn(home)
    return f"green again after {again:.1f} s; {len(before)} turns before, {len(after)} after"


def freeze_companion(home: Container) -> str:
    return _frozen(home, "bedside-companion", lambda: home.kill("bedside-companion", "STOP"), 20.0)


def freeze_sound(home: Container) -> str:
    """Capture and playback blocked: the sound server is frozen, and PortAudio does not come back from it."""
    try:
        return _frozen(home, "bedside-companion", lambda: home.kill("bench-sound", "STOP"), 20.0, lambda: home.kill("bench-sound", "CONT"))
    finally:
        home.kill("bench-sound", "CONT")


def freeze_voice(home: Container) -> str:
    return _frozen(home, "bedside-voice", lambda: home.kill("bedside-voice", "STOP"), 120.0)


def _frozen(home: Container, unit: str, freeze: Callable[[], None], period: float, then: Callable[[], None] = lambda: None) -> str:
    ready(home)
    count, frozen = restarts(home, unit), time.monotonic()
    freeze()
    pressed = ""
    if unit == "bedside-voice":  # the light must say so before the watchdog does
        began = ask(home)
        pressed = f"; a press meanwhile: FAULT light after {shows(home, YELLOW, 40, began) - began:.0f} s"
    until(lambda: restarts(home, unit) > count, f"a restart of {unit}", period + 20)
    killed = time.monotonic() - frozen
    then()
    assert "watchdog" in home.run("journalctl", "--no-pager", "-u", f"{unit}.service", "-n", "60").stdout
    again = shows(home, GREEN, LOAD, frozen + killed) - frozen
    turn(home)
    return f"killed by the watchdog and started again after {killed:.0f} s (WatchdogSec {period:.0f}), green after {again:.0f} s{pressed}"


def disk_full(home: Container) -> str:
    """/var/lib/bedside is a tmpfs of 8 MB, filled to the last byte."""
    home.stop()
    home.boot("--private-network", "--tmpfs=/var/lib/bedside:size=8m,mode=0700")
    ready(home)
    turn(home)
    kept = len(home.turns())
    home.run("sh", "-c", "cat /dev/zero > /var/lib/bedside/full", check=False)
    first = turn(home)
    home.hands("BOARD15 0")
    home.hands("BOARD15 1")
    called = shows(home, RED, 5)
    home.run("rm", "/var/lib/bedside/full")
    until(lambda: len(home.turns()) > kept, "the turn that waited, on the disk", 60)
    assert restarts(home, "bedside-companion") == 0
    acknowledge(home, called)
    home.stop()
    home.boot()
    return f"a turn in {first:.1f} s, the call button works, no restart; the turn that waited is on the disk once there is room"


def safe_mode(home: Container) -> str:
    ready(home)
    began = time.monotonic()
    while home.show("bedside-safe", "ActiveState") != "active":
        assert time.monotonic() - began < 180, "no safe mode"
        if home.pid("bedside-companion") and home.show("bedside-companion", "ActiveState") in ("active", "activating"):
            home.kill("bedside-companion", "KILL")
    entered = time.monotonic() - began
    fault = shows(home, YELLOW, 20)
    assert fault
    assert home.show("bedside-companion", "ActiveState") == "inactive"
    until(lambda: home.run("pactl", "list", "short", "sink-inputs").stdout, "safe mode's card", 20)
    assert not home.run("pactl", "list", "short", "source-outputs").stdout, "a microphone is open in safe mode"
    record = Recorder(home, 6)
    pressed = time.monotonic()
    home.hands("BOARD7 0")
    home.hands("BOARD7 1")
    sentence = begins(record.sound(), "cant_answer") - (pressed - record.began)
    home.hands("BOARD15 0")
    home.hands("BOARD15 1")
    called = shows(home, RED, 5)
    relay = lambda: [level for _, pin, level in home.hands("look") if pin == "GPIO26"][-1:] == [1]  # noqa: E731
    until(relay, "the relay, held", 2)
    acknowledge(home, called)
    said = home.show("bedside-safe", "StatusText")
    assert said.startswith("SAFE MODE"), said
    exposure = home.run("systemd-analyze", "security", "bedside-safe.service", "--no-pager").stdout
    # Its time is over: it leaves with 0, here at once. The companion is back without a hand.
    leaves = time.monotonic()
    home.kill("bedside-safe", "TERM")
    until(lambda: home.show("bedside-companion", "ActiveState") == "active", "the companion again", 60)
    until(lambda: home.show("bedside-safe", "ActiveState") == "inactive", "the end of safe mode", 20)
    back = time.monotonic() - leaves
    ready(home)
    turn(home)
    score = re.search(r"Overall exposure level.*?: ([\d.]+)", exposure)
    return (f"entered {entered:.0f} s after the first of 10 kills; button to sentence {sentence:.2f} s; call button: red, relay, "
            f"acknowledged; back after {back:.0f} s when it leaves; exposure {score[1] if score else '?'}")  # fmt: skip


def by_hand(home: Container) -> str:
    """A technician's `systemctl start` ends safe mode, and nothing of the two runs at the same time."""
    ready(home)
    home.run("systemctl", "start", "bedside-safe")
    assert home.show("bedside-companion", "ActiveState") == "inactive"
    until(lambda: home.light() in (YELLOW, (0, 0, 0)), "safe mode's light", 20)
    home.run("systemctl", "start", "bedside-companion")
    assert home.show("bedside-safe", "ActiveState") == "inactive"
    began = time.monotonic()
    green = shows(home, GREEN, LOAD) - began
    turn(home)
    return f"systemctl start, either way: the other one had ended; green {max(green, 0):.0f} s after"


def doctor(home: Container) -> str:
    """As a technician runs it beside a companion that runs: a microphone that is silent is all that is wrong, until somebody speaks."""
    home.run("systemctl", "restart", "bedside-companion", timeout=LOAD)  # it has the last minute in its ears
    ready(home)
    command = ["/opt/bedside/.venv/bin/bedside", "doctor", "--config", "/etc/bedside/companion.toml"]
    silent = home.run(*command, check=False)
    assert [line.split()[1] for line in silent.stdout.splitlines() if line.startswith("WRONG")] == ["sound"], silent.stdout + silent.stderr
    assert (silent.returncode, "digital silence" in silent.stdout) == (1, True), silent.stdout
    turn(home)
    well = home.run(*command, check=False)
    assert well.returncode == 0, well.stdout + well.stderr
    print(well.stdout, flush=True)
    return f"{len(well.stdout.splitlines())} findings: a silent microphone is wrong, and nothing once somebody has spoken"


SCENARIOS: dict[str, Callable[[Container], str]] = {
    "answer": answer,
    "edges": edges,
    "own-voice": own_voice,
    "doctor": doctor,
    "hardening": hardening,
    "kill-voice": kill_voice,
    "kill-companion": kill_companion,
    "freeze-companion": freeze_companion,
    "freeze-sound": freeze_sound,
    "freeze-voice": freeze_voice,
    "disk-full": disk_full,
    "no-network": no_network,
    "logs": logs,
    "by-hand": by_hand,
    "safe-mode": safe_mode,
    "boots": boots,
    "provision": lambda home: provision(home, lambda unit: (ready(unit), turn(unit))),
}


def main(names: list[str]) -> int:
    if unknown := set(names) - set(SCENARIOS):
        print(f"no scenario {sorted(unknown)[0]!r}: there is {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no container and no mount behind
    rows: list[tuple[str, str, str]] = []
    try:
        with Container(size="8g") as home:
            clips = home.root / "opt/bench/speech"
            clips.mkdir()
            (clips / SPEECH).write_bytes((ROOT / "tests/data/speech" / SPEECH).read_bytes())
            home.boot()
            for name in names or list(SCENARIOS):
                began = time.monotonic()
                try:
                    # Ten starts in five minutes are safe mode's: on a fast machine the scenarios before would add up to them.
                    home.run("systemctl", "reset-failed")
                    outcome = ("pass", SCENARIOS[name](home))
                except (AssertionError, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
                    outcome = ("FAIL", str(error).splitlines()[0] if str(error) else type(error).__name__)
                    print(home.journal("-n", "25", "-u", "bedside-*"), flush=True)
                    home.stop()
                    # An open call outlives a power cut: the next scenario must not begin in it.
                    (home.root / "var/lib/bedside/safety/call.json").unlink(missing_ok=True)
                    home.boot()
                rows.append((name, *outcome))
                print(f"{name}: {outcome[0]} in {time.monotonic() - began:.0f} s: {outcome[1]}", flush=True)
    except Unable as error:
        print(f"skipped: {error}")
        return 0 if not rows else 1
    print("\n| scenario | | figure |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return 1 if any(row[1] == "FAIL" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
