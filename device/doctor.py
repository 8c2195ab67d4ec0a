"""`bedside doctor`: what a technician checks of a unit, a line each, with the way out. It changes nothing, and knows no patient's words.

Where the companion runs, it is asked at its door (device/control.py). Where it does not, its parts are tried here, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from device.config import Settings
from device.levels import Level, advice_of
from device.states import State

UNITS = ("bedside-companion", "bedside-voice", "bedside-caller", "bedside-safe")
SAFE_HOLDS = ("sound", "panel")  # opened here beside safe mode, they would look broken
LITTLE, LEAST = 1.0, 0.2  # GB free: worth a note, and too little for a memory that grows
LISTENED = 2.0  # s that the microphone is measured for where no companion does
PATIENCE = 20.0  # s that a headset has to give its first sample


class Verdict(Enum):
    """`value` is what stands before the line."""

    GOOD = "ok"
    NOTED = "note"
    WRONG = "WRONG"
    ABSENT = "-"  # not part of this unit


@dataclass(frozen=True)
class Finding:
    verdict: Verdict
    text: str


Told = dict[str, Any]  # what the companion said of itself; {} where none runs


def examine(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """(part, what was found) of every check, as it is made. One that can't be made is a finding too, and no other is lost with it."""
    told, finding = _companion(settings)
    yield "companion", finding
    safe = not told and finding.verdict is Verdict.WRONG  # it answers, and is no companion
    for name, check in CHECKS:
        try:
            yield name, _absent("held by safe mode") if safe and name in SAFE_HOLDS else check(settings, told)
        except Exception as error:
            ours = type(error).__module__.startswith("device.") or isinstance(error, OSError)
            yield name, _wrong(str(error) if ours else f"the check itself failed: {type(error).__name__}: {error}")


def _good(text: str) -> Finding:
    return Finding(Verdict.GOOD, text)


def _noted(text: str) -> Finding:
    return Finding(Verdict.NOTED, text)


def _wrong(text: str) -> Finding:
    return Finding(Verdict.WRONG, text)


def _absent(text: str) -> Finding:
    return Finding(Verdict.ABSENT, text)


# The checks ------------------------------------------------------------------------------------


def _companion(settings: Settings) -> tuple[Told, Finding]:
    from device.control import ControlLost, ask

    try:
        told = ask(settings.safety.socket, status=True)
    except ControlLost as error:
        return {}, _noted(f"{error} Its parts are tried without it.")
    facts = told.get("facts", {})
    if told["state"] == State.FAULT.value or "sound" not in facts:  # safe mode tells of nothing else
        return facts if "sound" in facts else {}, _wrong(facts.get("says", told["state"]))
    return facts, _good(facts["says"])


def _people(settings: Settings, told: Told) -> Finding:
    from device.provisioning import check_provisioned

    if settings.panel.kind == "simulated":
        return _absent("panel.kind is 'simulated': nobody is called")
    check_provisioned(settings)
    safety, ways = settings.safety, []
    if settings.panel.nurse_call_pin:
        ways.append(f"the relay at {settings.panel.nurse_call_pin}")
    ways += [name for name, value in (("the webhook", safety.webhook), ("the command", safety.command)) if value]
    return _good(f"an alert reaches a person by {' and '.join(ways)}; said are {safety.emergency_number} and {safety.crisis_number}")


def _voice(settings: Settings, told: Told) -> Finding:
    if not told:
        return _absent("asked of the companion, which does not run")
    voice = told["voice"]
    if voice["says"]:
        return _noted(voice["says"])
    return _wrong(voice["stand_in"]) if voice["stand_in"] else _good(f"{voice['name']} speaks")


def _sound(settings: Settings, told: Told) -> Finding:
    if settings.audio.kind != "card":
        return _absent(f"audio.kind is '{settings.audio.kind}'")
    if not told:
        return _heard_here(settings)
    sound = told["sound"]
    if not sound["open"]:
        return _wrong(sound["refused"] or "no sound comes and goes; the companion opens the card again by itself")
    if told["muted"]:
        return _noted("the card is open; the mute switch is off, so the microphone is not measured")
    return _microphone(Level(**sound["level"]), "the last minute, whoever spoke") if sound["level"] else _noted("nothing was heard yet")


def _heard_here(settings: Settings) -> Finding:
    from device.audio_check import opened
    from device.levels import level
    from device.turn import MIC_RATE

    with opened(settings) as card:
        return _microphone(level(card.record(LISTENED), MIC_RATE), f"{LISTENED:.0f} s")


def _microphone(heard: Level, when: str) -> Finding:
    """Input level, clipping and noise floor."""
    figures = f"room {heard.floor:.0f} dB, loudest {heard.peak:.0f} dB, {heard.clipped:.1%} clipped ({when})"
    wrong = advice_of(heard)
    return _wrong(f"{wrong} Heard: {figures}") if wrong else _good(f"the card is open; microphone: {figures}")


def _panel(settings: Settings, told: Told) -> Finding:
    if settings.panel.kind == "simulated":
        return _absent("panel.kind is 'simulated'")
    if told:
        return _good(f"held by the companion ({settings.panel.kind})")
    from device.panel import open_panel

    open_panel(settings.panel, lambda event: None).close()
    return _good(f"every pin and button of the settings opens ({settings.panel.kind})")


def _headset(settings: Settings, told: Told) -> Finding:
    from device.eeg import ARRIVING, HeadsetState, open_headset

    if settings.headset.board == "none":
        return _absent("none is set")
    if told:
        state, reason = HeadsetState(told["headset"]["state"]), told["headset"]["reason"]
    else:
        headset = open_headset(settings.headset)
        with contextlib.closing(headset):
            headset.start()
            until = time.monotonic() + PATIENCE
            while not headset.arriving and time.monotonic() < until:
                time.sleep(0.05)
            state, reason = headset.state, headset.reason
    if state in ARRIVING:
        return _good(f"{settings.headset.board}: samples arrive ({state.value})")
    return _noted(f"{settings.headset.board}: {reason}")  # switched off, or not worn: the bedside answers without it


def _models(settings: Settings, told: Told) -> Finding:
    from device.models import verify

    found = verify(Path(settings.models.folder))
    wrong = [sentence for _, whole, sentence in found if not whole]
    return _wrong(" ".join(wrong)) if wrong else _good(f"{len(found)} packaged models are whole in {settings.models.folder}")


def _memory(settings: Settings, told: Told) -> Finding:
    if told:
        if told["kept"]:
            return _good("every turn is on the disk")
        return _wrong("what was said is not all on the disk: journalctl -u bedside-companion says why")
    from device.memory_key import find_key

    file, key = Path(settings.memory.file).expanduser(), Path(settings.memory.key).expanduser()
    if not file.exists() and not key.exists():
        return _noted(f"nothing is kept in {file} yet")
    find_key(key, begin=False)  # the file itself is the companion's alone: opened by another user it could be closed to it
    return _good(f"{file}, and its key is there")


def _audit(settings: Settings, told: Told) -> Finding:
    from device.audit import verify

    try:
        count, _ = verify(settings.safety.folder)
    except FileNotFoundError:
        return _noted(f"no alert was ever logged in {settings.safety.folder}")
    return _good(f"{count} entries hold together")


def _disk(settings: Settings, told: Told) -> Finding:
    place = Path(settings.memory.file).expanduser().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    text = f"{free:.1f} GB free at {place}"
    if free < LEAST:
        return _wrong(f"{text}: too little for the memory to grow; remove something")
    return _noted(f"{text}: it fills up") if free < LITTLE else _good(text)


def _services(settings: Settings, told: Told) -> Finding:
    if not (Path("/run/systemd/system").is_dir() and shutil.which("systemctl")):
        return _absent("no systemd runs here")
    show = ["systemctl", "show", "-p", "Id,LoadState,ActiveState,NRestarts", *UNITS]
    return judge_units(subprocess.run(show, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout)


def judge_units(shown: str) -> Finding:
    """Of what `systemctl show` prints: a block of KEY=VALUE for each unit, with an empty line between."""
    units = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n")]
    here = {u["Id"].removesuffix(".service"): u for u in units if u.get("LoadState") == "loaded"}
    if not here:
        return _absent("not installed as services (README: As services)")
    if here.get("bedside-safe", {}).get("ActiveState") == "active":
        return _wrong("SAFE MODE: the companion failed again and again; journalctl -u bedside-companion says why")
    state = {name: unit["ActiveState"] for name, unit in here.items()}
    off = [name for name in UNITS if name in here and (state[name] == "failed" or (name in UNITS[:2] and state[name] != "active"))]
    if off:
        return _wrong("; ".join(f"{name} is {state[name]}: journalctl -u {name}" for name in off))
    on = [f"{name.removeprefix('bedside-')} (restarted {here[name]['NRestarts']} times)" for name in here if state[name] == "active"]
    return _good(", ".join(on))


CHECKS: tuple[tuple[str, Callable[[Settings, Told], Finding]], ...] = (
    ("services", _services),
    ("people", _people),
    ("voice", _voice),
    ("sound", _sound),
    ("panel", _panel),
    ("headset", _headset),
    ("memory", _memory),
    ("audit log", _audit),
    ("models", _models),
    ("disk", _disk),
)


def doctor(settings: Settings, file: str | None) -> int:
    """Print each finding, and write all of them to `file` as JSON. 1 where something is WRONG. Raises OSError."""
    found = []
    for name, finding in examine(settings):
        print(f"{finding.verdict.value:<6}{name:<11}{finding.text}", flush=True)
        found.append({"part": name, "verdict": finding.verdict.name.lower(), "text": finding.text})
    if file:
        Path(file).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(row["verdict"] == "wrong" for row in found))
