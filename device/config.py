"""Settings: strict, frozen sections read from one TOML file. The only place that reads the environment."""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device.setting_values import Clock, Local, Number, Webhook

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FIRMWARE = ROOT / "firmware_config"


class ConfigError(ValueError):
    """A setting that can't be used. The message names the file, the key, the value and the way out."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Panel(Section):
    kind: Literal["gpio", "usb", "simulated"] = Field(
        "simulated", description="gpio: real pins; usb: a USB button alone, without a light; simulated: gpiozero's MockFactory"
    )
    board: Literal["auto", "orin-nano", "agx-orin", "thor"] = Field("auto", description="carrier of the header; auto: the device tree's")
    talk_pin: str = Field("BOARD7", description="pin of the talk button")
    call_pin: str = Field("BOARD15", description="pin of the caregiver call button")
    light_pins: tuple[str, str, str] = Field(("BOARD29", "BOARD31", "BOARD33"), description="pins of the red, green and blue light")
    mute_pin: str = Field("", description="pin of the mute switch, closed when the microphone is on; empty: no switch")
    mute_light_pin: str = Field("", description="pin of the mute switch's own light; empty: none, or wired to the switch itself")
    louder_pin: str = Field("", description="pin of the louder button; empty: none")
    quieter_pin: str = Field("", description="pin of the quieter button; empty: none")
    talk: Literal["hold", "toggle"] = Field("hold", description="hold: held while speaking; toggle: a press begins, the next one ends")
    tap_seconds: float = Field(0.16, ge=0, le=1, description="hold: a press shorter than this is a tap and is ignored")
    acknowledge_seconds: float = Field(2.0, gt=0, le=10, description="hold call so long to acknowledge an alert, louder for a quiet minute")
    usb_device: str = Field("", description="part of the name of a USB button or switch, beside the pins or without; empty: none")
    usb_talk: str = Field("KEY_SPACE", description="its key that is the talk button")
    usb_call: str = Field("KEY_ENTER", description="its key that is the call button")
    usb_louder: str = Field("KEY_VOLUMEUP", description="its key that is the louder button")
    usb_quieter: str = Field("KEY_VOLUMEDOWN", description="its key that is the quieter button")
    night: Literal["never", "clock", "ambient", "always"] = Field("never", description="when the light only glimmers")
    night_begins: Clock = Field("21:30", description="clock: from this time, of the device's own time zone")
    night_ends: Clock = Field("07:00", description="clock: to this time")
    nurse_call_pin: str = Field("", description="pin of the nurse-call relay, held while a person is being called; empty: none")
    nurse_call_level: Literal["high", "low"] = Field("high", description="the level at which the relay calls")
    ambient_pin: str = Field("", description="ambient: pin that a light sensor closes to ground when the room is dark")


class Audio(Section):
    kind: Literal["card", "wav"] = Field("card", description="card: PyAudio; wav: files in and out")
    input: str = Field("", description="part of the input card's name; empty: the default card")
    output: str = Field("", description="part of the output card's name; empty: the default card")
    volume: int = Field(5, ge=1, le=5, description="how loud the voice begins; an alert is always as loud as 5")
    night_volume: int = Field(2, ge=1, le=5, description="the loudest that the voice gets at night (panel.night); an alert is as loud as 5")
    half_duplex: bool = Field(True, description="the microphone gives silence while the speaker sounds; false: with headphones alone")
    preroll_seconds: float = Field(0.5, ge=0, le=2, description="sound kept from before the press")
    tail_seconds: float = Field(0.3, ge=0, le=2, description="sound kept from after the release")


Board = Literal[
    "none", "synthetic", "playback", "cyton", "cyton_daisy", "ganglion", "muse_2", "muse_s", "muse_s_athena", "neuropawn_knight"
]


class Headset(Section):
    board: Board = Field("none", description="EEG headset; none: no headset")
    port: str = Field("", description="serial port or MAC address of the headset")
    file: Local = Field("", description="recording for the playback board")
    channels: tuple[str, ...] = Field((), description="10-20 position of each channel's electrode; empty: as the board has them")
    record: Local = Field("", description="folder for recordings of the EEG (BDF+); empty: nothing is recorded")


class Voice(Section):
    socket: Local = Field("~/.local/state/bedside/voice.sock", description="Unix socket between the two processes")
    engine: Literal["plain", "csm"] = Field("csm", description="csm: Sesame's CSM; plain: the packaged neural voice")
    csm_model: str = Field(
        "embedded:csm-small", description="CSM checkpoint: hub name, folder, or embedded:csm-small (CSM_MODEL_NAME overrides)"
    )
    precision: Literal["auto", "fp32", "bf16", "int8", "int4"] = Field("auto", description="of CSM's weights; auto: what suits the machine")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the models run (CSM_DEVICE overrides)")
    compile: bool = Field(True, description="torch.compile on CUDA (NO_TORCH_COMPILE=1 turns it off)")
    threads: int = Field(2, ge=1, le=64, description="CPU threads of the models")


class Listen(Section):
    model: str = Field("embedded:whisper-base", description="Whisper: hub name, folder, or embedded:whisper-tiny, embedded:whisper-base")
    min_speech_seconds: float = Field(0.25, ge=0, description="less speech than this is nobody speaking")
    min_confidence: float = Field(0.3, ge=0, le=1, description="below this the device asks to hear it again")


class Words(Section):
    model: str = Field("bank", description="bank: the reviewed reply bank; else a chat model, hub name or folder")
    precision: Literal["auto", "int8", "int4"] = Field(
        "auto", description="of a chat model's weights, by torchao; int4: on a GPU; auto: bf16 on a GPU, fp32 on a CPU"
    )
    max_words: int = Field(60, ge=5, le=200, description="longest reply in words")
    late_seconds: float = Field(4.0, gt=0, description="no first clause by then: the reply bank answers in the chat model's place")
    prompt_tokens: int = Field(1024, ge=256, le=32768, description="longest prompt: persona, what is remembered, the last turns")


class Memory(Section):
    file: Local = Field("~/.local/state/bedside/memory.db", description="what was said, encrypted (SQLCipher)")
    key: Local = Field("~/.local/state/bedside/memory.key", description="its key, where systemd passes no credential memory-key")
    retention_days: int = Field(90, ge=0, le=36500, description="turns that are older are erased; 0: never")


class Models(Section):
    folder: Local = Field("~/.cache/bedside/models", description="where fetched models live")


class Safety(Section):
    region: str = Field("", description="country or region whose numbers these are, for the audit log")
    emergency_number: Number = Field("", description="spoken in a crisis and an emergency; needed at a bedside, and none is built in")
    crisis_number: Number = Field("", description="a crisis line, open day and night, spoken in a crisis; needed at a bedside")
    device_name: str = Field("bedside", description="which bed it is, told to who is called")
    webhook: Webhook = Field("", description="address that a call is POSTed to, as JSON; empty: none")
    command: tuple[str, ...] = Field((), description="program and arguments, run for a call, the JSON on standard input; empty: none")
    retry_seconds: float = Field(10.0, ge=0.1, le=60, description="after a telling that failed")
    tell_again_seconds: float = Field(60.0, ge=0.1, le=600, description="between tellings that were taken, until a caregiver acknowledges")
    folder: Local = Field("~/.local/state/bedside/safety", description="the audit log and the call that waits for an acknowledgement")
    socket: Local = Field("~/.local/state/bedside/companion.sock", description="where bedside caller and bedside acknowledge ask")


class Log(Section):
    level: Literal["debug", "info", "warning"] = Field("info", description="how much is logged")


class Settings(Section):
    panel: Panel = Panel()
    audio: Audio = Audio()
    headset: Headset = Headset()
    voice: Voice = Voice()
    listen: Listen = Listen()
    words: Words = Words()
    memory: Memory = Memory()
    models: Models = Models()
    safety: Safety = Safety()
    log: Log = Log()


# The environment may override four settings, as users of CSM expect. HF_TOKEN is read by huggingface_hub itself.
OVERRIDES: dict[str, tuple[str, str]] = {
    "CSM_MODEL_NAME": ("voice", "csm_model"),
    "CSM_DEVICE": ("voice", "device"),
    "NO_TORCH_COMPILE": ("voice", "compile"),
}


def load(path: Path | str | None = None, env: Mapping[str, str] = os.environ, **sections: Mapping[str, Any]) -> Settings:
    """Settings from `path` (none: the defaults), then `sections`, then the environment.

    Raises ConfigError for a missing file, broken TOML, an unknown key (with the nearest right one)
    or a value out of range.
    """
    tree: dict[str, Any] = {}
    text = ""
    if path is not None:
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
            tree = tomllib.loads(text)
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such file. 'bedside config show' prints the defaults to start from.") from None
        except OSError as error:
            raise ConfigError(f"{file} can't be read ({error.strerror}): run as its owner, or name another file.") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{file} is no text in UTF-8: save it as such.") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file}: this is not TOML: {error}.") from None
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    for variable, (section, key) in OVERRIDES.items():
        value = env.get(variable, "")
        if value and isinstance(tree.setdefault(section, {}), dict):
            tree[section][key] = value in ("0", "false", "no") if variable == "NO_TORCH_COMPILE" else value
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(path, text, e) for e in error.errors())) from None


def light_of(path: Path | str | None) -> Panel | None:
    """The panel of a file that load() may refuse, as far as its light can be read; None where it has no light on pins."""
    try:
        lines = Path(path or "").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    while lines:
        try:
            table = tomllib.loads("\n".join(lines)).get("panel", {})
            panel = Panel.model_validate({key: table[key] for key in ("kind", "board", "light_pins") if key in table})
            return panel if panel.kind == "gpio" else None
        except tomllib.TOMLDecodeError:
            lines.pop()  # what stands before the mistake
        except (ValidationError, TypeError, AttributeError):
            return None
    return None


def _sentence(path: Path | str | None, text: str, error: Any) -> str:
    """One pydantic error as 'file:line: section.key = value: what is wrong, and the way out'."""
    place = [str(part) for part in error["loc"]]
    where = ".".join(place)
    line = _line(text, place)
    source = f"{path}:{line}: " if line else f"{path}: " if path is not None else ""
    if error["type"] == "extra_forbidden":
        return f"{source}unknown setting '{where}': {_hint(place)}"
    if error["type"] == "model_type":
        return f"{source}{where} = {error['input']!r}: this is a section, so write [{where}] and its settings below."
    where = ".".join(place[:2])  # of a list, the whole of it
    said = "more values are needed" if error["type"] == "missing" else error["msg"].removeprefix("Value error, ")
    return f"{source}{where} = {error['input']!r}: {said[:1].lower()}{said[1:]}"


def _hint(place: list[str]) -> str:
    """The nearest right key, or the section in which this one belongs."""
    homes = {key: name for name, section in _sections().items() for key in section}
    section, key = (place[0], place[-1]) if len(place) > 1 else ("", place[0])
    known = _sections().get(section, list(Settings.model_fields))
    if homes.get(key, section) != section:
        return f"it belongs in [{homes[key]}]."
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}."


def _sections() -> dict[str, list[str]]:
    annotations: dict[str, Any] = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {name: list(model.model_fields) for name, model in annotations.items()}


def _line(text: str, place: list[str]) -> int | None:
    """The line, from 1, on which the setting at `place` stands in the TOML `text`; the section's own for a section."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            section = [part.strip(" \"'") for part in head[1].split(".")]
            if section == place:
                return number
        elif key := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            found = section + [part.strip(" \"'") for part in key[1].split(".")]
            if found == place[: len(found)] and len(found) >= min(len(place), 2):
                return number
    return None


def rows() -> list[tuple[str, str, str]]:
    """(setting, default, meaning) for every setting: the README's table."""
    out = []
    for section, field in Settings.model_fields.items():
        model: Any = field.annotation
        for key, entry in model.model_fields.items():
            out.append((f"{section}.{key}", repr(entry.default), entry.description or ""))
    return out


def make_socket_folder(settings: Settings) -> None:
    """The folder of the voice's socket, for this user alone. Raises ConfigError."""
    folder = Path(settings.voice.socket).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} can't be made ({error.strerror}): set voice.socket, or run as its owner") from None


def dump(settings: Settings) -> str:
    """The settings as TOML that `load` reads back to the same."""
    lines = []
    for section, values in settings.model_dump().items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # JSON's strings, numbers and booleans are TOML's too (DEL, the one exception, is in no setting).
    return json.dumps(value, ensure_ascii=False)
