"""`bedside memory`: what a caregiver and a technician may do with it. What a patient says is printed by nobody: it goes into a file."""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from device.config import Settings
    from device.memory import Memory

SPEAKERS = {"0": "companion", "1": "patient"}  # CSM's, as segments name them


def add_parser(commands: Any) -> None:
    memory = commands.add_parser("memory", help="who lies in the bed; export or erase what is remembered; make the key")
    whats = memory.add_subparsers(required=True, metavar="WHAT")

    def command(name: str, do: Any, text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = whats.add_parser(name, help=text, description=text)
        sub.set_defaults(do=lambda arguments: do(_settings(arguments), arguments))
        sub.add_argument("--config", metavar="FILE")
        return sub

    command("key", _key, "make the key that the memory is encrypted with, in memory.key; never replaces one")
    command("patients", _patients, "who is remembered, and who lies in the bed")
    admit = command("admit", _admit, "another patient lies in the bed; who was here before is remembered apart")
    admit.add_argument("label", metavar="LABEL", help="a bed, a number or initials; a name only if it must be")
    export = command("export", _export, "write all that is remembered of a patient into a new folder")
    export.add_argument("folder", metavar="DIR")
    export.add_argument("--patient", metavar="LABEL", help="default: who lies in the bed")
    export.add_argument("--audio", action="store_true", help="the sound too, as WAV: kept where CSM spoke")
    erase = command("erase", _erase, "erase what is remembered of a patient, for good")
    erase.add_argument("--patient", metavar="LABEL", help="default: who lies in the bed")
    erase.add_argument("--older-than", type=float, metavar="DAYS", help="of every patient, only what is older")
    erase.add_argument("--sure", action="store_true", help="without it nothing is erased, only said what would be")


def _settings(arguments: argparse.Namespace) -> Settings:
    from device import config, logs

    settings = config.load(arguments.config)
    logs.setup(settings.log.level)
    return settings


def _open(settings: Settings) -> Memory:
    """A memory that is there: a command does not begin one. Raises MemoryFault."""
    from device.memory import Memory, MemoryFault

    if not Path(settings.memory.file).exists():
        raise MemoryFault(f"{settings.memory.file}: there is no memory here; name the device's settings with --config.")
    return Memory(settings.memory.file, settings.memory.key)


def _key(settings: Settings, arguments: argparse.Namespace) -> None:
    from device.memory_key import make_key

    make_key(Path(settings.memory.key))
    print(f"{settings.memory.key}: a new key. Keep a copy where only you can read it: without it the memory is lost.")


def _patients(settings: Settings, arguments: argparse.Namespace) -> None:
    memory = _open(settings)
    here = memory.patient()
    for label, turns in memory.patients():
        print(f"{'*' if label == here else ' '} {label}  {turns} turns")
    memory.close()


def _admit(settings: Settings, arguments: argparse.Namespace) -> None:
    memory = _open(settings)
    memory.admit(arguments.label)
    print(f"{memory.patient()} lies in the bed now")
    memory.close()


def _export(settings: Settings, arguments: argparse.Namespace) -> None:
    memory = _open(settings)
    told, spoken = memory.everything(arguments.patient)
    memory.close()
    folder = Path(arguments.folder)
    folder.mkdir(mode=0o700, parents=True)  # a new one: nobody's export is mixed with another's
    for row in [*told["turns"], *told["sessions"]]:
        for key in ("at", "started"):
            if key in row:
                row[key] = datetime.fromtimestamp(row[key]).astimezone().isoformat(timespec="seconds")
    with open(os.open(folder / "memory.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump(told, out, indent=1, ensure_ascii=False)
        out.write("\n")
    print(f"{folder}/memory.json: {len(told['turns'])} turns of {told['patient']}")
    if arguments.audio:
        print(_audio(settings, folder, spoken))


def _audio(settings: Settings, folder: Path, spoken: list[tuple[int, Any]]) -> str:
    if not spoken:
        return "no sound is kept: the plain voice keeps none, CSM keeps its codes"
    from device import wavs
    from device.turn import VOICE_RATE
    from device.voice.replay import decoded

    place: dict[int, int] = {}
    for (turn, segment), pcm in zip(spoken, decoded(settings, [segment for _, segment in spoken]), strict=True):
        place[turn] = place.get(turn, 0) + 1
        file = folder / f"turn-{turn:06}-{place[turn]}-{SPEAKERS.get(segment.speaker, segment.speaker)}.wav"
        wavs.write(file, pcm, VOICE_RATE)
        file.chmod(0o600)
    return f"{folder}: {len(spoken)} WAV files"


def _erase(settings: Settings, arguments: argparse.Namespace) -> int:
    memory = _open(settings)
    label = arguments.patient or memory.patient()
    if arguments.older_than is not None:
        what = f"what is older than {arguments.older_than:g} days, of every patient"
    else:
        turns = dict(memory.patients()).get(label)
        if turns is None:
            memory.everything(label)  # says who is known
        what = f"{turns} turns of {label}, and files that were set aside"
    if not arguments.sure:
        print(f"This would erase {what}. To do it, add --sure.")
        return 1
    if arguments.older_than is not None:
        gone = memory.forget_older(time.time() - arguments.older_than * 86_400)
    else:
        gone = memory.forget_patient(label)
    print(f"erased: {what} ({gone} turns)" if arguments.older_than is not None else f"erased: {what}")
    memory.close()
    return 0
