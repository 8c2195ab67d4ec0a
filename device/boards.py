"""The boards we know by name, what BrainFlow needs to read each, and why it can't, in a nurse's words.

A board's electrodes are named by their 10-20 positions, which are also where they sit; `headset.channels`
names them for a board that BrainFlow has no names for, or for a cap that is wired differently.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device import config
from device.blocks import Counter

BUILD_PAGE = "https://brainflow.readthedocs.io/en/stable/BuildBrainFlow.html"


ONE_BY_ONE = Counter()


@dataclass(frozen=True)
class Board:
    """`name` in BrainFlow's BoardIds, the kind of port, how it counts, seconds until electrodes have settled."""

    name: str
    port: str = ""  # "serial", "wireless" (empty: the first one found) or ""
    counter: Counter | None = ONE_BY_ONE
    settle: float = 5.0
    library: str = ""  # what BrainFlow loads for this board besides its own


# How each board counts was read in BrainFlow 5.23's sources; the Cyton's and the synthetic board's were run.
BOARDS: dict[str, Board] = {
    "synthetic": Board("SYNTHETIC_BOARD", settle=0.5),
    "playback": Board("CYTON_BOARD", settle=0.5),  # the board that recorded the file
    "cyton": Board("CYTON_BOARD", "serial"),
    # Two packages make one sample: eight channels with an even number, eight with the odd one after it.
    "cyton_daisy": Board("CYTON_DAISY_BOARD", "serial", Counter(step=2)),
    # Its compressed packages are numbered 1-100 or 101-200 with a whole one between, by its mode.
    "ganglion": Board("GANGLION_BOARD", "serial", None, library="libGanglionLib.so"),
    "muse_2": Board("MUSE_2_BOARD", "wireless", Counter(65_536, samples=12), library="libsimpleble-c.so"),
    "muse_s": Board("MUSE_S_BOARD", "wireless", Counter(65_536, samples=12), library="libsimpleble-c.so"),
    # One number serves EEG, motion and light alike, so the EEG's own packages skip some.
    "muse_s_athena": Board("MUSE_S_ATHENA_BOARD", "wireless", None, library="libsimpleble-c.so"),
    "neuropawn_knight": Board("NEUROPAWN_KNIGHT_BOARD", "serial"),
}

# (exit code, kind of port) -> what a nurse or a technician can do. "" stands for any port.
EXIT_CODES: dict[tuple[int, str], str] = {
    (2, "serial"): "its port can't be opened: is the dongle plugged in, and may this user open it?",
    (2, "wireless"): "there is no Bluetooth adapter: is it plugged in and on?",
    (3, ""): "that port is not a serial port.",
    (4, ""): "its port went away: is the dongle plugged in?",
    (7, "serial"): "the dongle answers but the headset does not: is it switched on and charged?",
    (7, "wireless"): "the headset was not found: is it switched on, charged and near?",
    (13, ""): "BrainFlow does not accept headset.port or headset.file.",
    (16, ""): "it is open already in this process.",
    (17, "wireless"): "BrainFlow's Bluetooth library failed: is the service bluetooth running?",
    (18, "serial"): "its dongle did not find it: is it switched on, charged and near?",
}
SILENT = "nothing answers at {port}: is that the headset's dongle?"
SILENT_SECONDS = 4.0  # a dongle whose board is off answers within 1 s; BrainFlow gives up a silent port after 6


class HeadsetError(Exception):
    """Why the headset can't be read, in one sentence. It never leaves the headset."""


@dataclass(frozen=True)
class Layout:
    """What BrainFlow says of a board, with the config's names: all that is needed to open and read it."""

    shim: Any  # brainflow's BoardShim
    params: Any
    board_id: int
    rate: float  # Hz
    names: list[str]
    rows: list[int]  # of get_board_data(): the EEG channels
    package_row: int


def layout(settings: config.Headset) -> Layout:
    """How to open and read the configured board. Raises HeadsetError; touches no hardware."""
    kind = BOARDS[settings.board]
    if kind.port == "serial" and not settings.port:
        raise HeadsetError(f"headset.port is empty: {settings.board} needs a /dev/serial/by-id/ path.")
    shim, ids, params_of = load_driver(kind)
    master = int(ids[kind.name])
    description = shim.get_board_descr(master)
    params, board_id = params_of(), master
    if settings.board == "playback":
        check_recording(Path(settings.file), description["num_rows"], description["timestamp_channel"])
        params.file, params.master_board = settings.file, master
        board_id = int(ids.PLAYBACK_FILE_BOARD)
    elif kind.port == "wireless":
        params.mac_address = settings.port
    else:
        params.serial_port = settings.port
    rows = list(description["eeg_channels"])
    return Layout(
        shim,
        params,
        board_id,
        float(description["sampling_rate"]),
        _names(settings, description.get("eeg_names", ""), len(rows)),
        rows,
        int(description["package_num_channel"]),
    )


def _names(settings: config.Headset, given: str, count: int) -> list[str]:
    """The config's channel names, else BrainFlow's; some boards have none."""
    if not settings.channels:
        return given.split(",") if given else [f"channel {i + 1}" for i in range(count)]
    names = list(settings.channels)
    if len(names) != count:
        raise HeadsetError(f"headset.channels has {len(names)} names, but {settings.board} has {count} channels.")
    if len(set(names)) != count:
        raise HeadsetError(f"headset.channels names a channel twice: {', '.join(names)}.")
    return names


def load_driver(kind: Board) -> tuple[Any, Any, Any]:
    """(BoardShim, BoardIds, BrainFlowInputParams), or HeadsetError naming what is missing and how to get it."""
    spec = importlib.util.find_spec("brainflow")
    if spec is None or not spec.submodule_search_locations:
        raise HeadsetError("BrainFlow is not installed: pip install 'bedside-companion[eeg]'.")
    if platform.system() == "Linux":
        check_libraries(Path(spec.submodule_search_locations[0]) / "lib", kind.library)
    # BrainFlow finds its library through pkg_resources on Python < 3.12, and that warns.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    try:
        from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams

        BoardShim.disable_board_logger()  # a lost board wrote 25 MB/s of log
    except ModuleNotFoundError as error:
        way_out = "pip install 'setuptools<82'" if error.name == "pkg_resources" else "install the 'eeg' extra"
        raise HeadsetError(f"BrainFlow can't be loaded, {error.name} is missing: {way_out}.") from None
    except (ImportError, OSError) as error:
        raise HeadsetError(f"BrainFlow can't be loaded ({error}): install the 'eeg' extra.") from None
    return BoardShim, BoardIds, BrainFlowInputParams


MACHINES = {0x3E: ("x86_64", "amd64"), 0xB7: ("aarch64", "arm64"), 0x28: ("armv7l", "armv6l"), 0x03: ("i386", "i686")}


def check_libraries(folder: Path, extra: str = "") -> None:
    """Raise HeadsetError unless BrainFlow's library in `folder`, and `extra`, can be loaded on this processor.

    BrainFlow's one wheel holds x86-64 libraries alone on Linux (issue #354): it installs on a Jetson, and the first call fails.
    """
    here = platform.machine()
    for name in ("libBoardController.so", extra):
        if not name:
            continue
        file = folder / name
        option = "with Bluetooth (--ble), " if name == "libsimpleble-c.so" else ""
        build = f"build BrainFlow on this machine {option}as {BUILD_PAGE} says, and install its Python package"
        try:
            with file.open("rb") as source:
                head = source.read(20)
        except OSError:
            raise HeadsetError(f"BrainFlow has no {name} for {here}: {build}.") from None
        machines = MACHINES.get(int.from_bytes(head[18:20], "little"), ())
        if not head.startswith(b"\x7fELF") or here.lower() not in machines:
            built = f"is for {machines[0]}" if machines else "is no library"
            raise HeadsetError(f"BrainFlow's {name} {built}, this processor is {here}: {build}.")
    if extra:
        try:
            ctypes.CDLL(str(folder / extra))
        except OSError as error:  # names what is missing in its turn, as libdbus-1.so.3
            raise HeadsetError(f"BrainFlow's {extra} can't be loaded ({error}): install the system package that has it.") from None


def check_recording(file: Path, columns: int, timestamp: int, lines: int = 500) -> None:
    """Raise HeadsetError unless BrainFlow can play `file`: it streams silence from a wrong one.

    Looks at the first `lines` lines: `columns` numbers in each, split by tabs, else by commas, as
    BrainFlow splits them, and rising times in column `timestamp`, by which it paces the playback.
    """
    way_out = f"It must be a BrainFlow recording of a Cyton: {columns} numbers a line, no heading."
    if str(file) in ("", "."):
        raise HeadsetError("headset.file is empty: the playback board needs a recording.")
    try:
        with file.open(encoding="ascii") as source:
            head = [line for _, line in zip(range(lines), source, strict=False)]
    except OSError as error:
        raise HeadsetError(f"{file}: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise HeadsetError(f"{file} is not text. {way_out}") from None
    if not head:
        raise HeadsetError(f"{file} is empty. {way_out}")
    times = []
    for number, line in enumerate(head, 1):
        fields = [f for f in line.split("\t" if "\t" in line else ",") if f != "\n"]
        if len(fields) != columns:
            found = f"{len(fields)} columns, not {columns}"
            raise HeadsetError(f"{file}, line {number}: {found}. {way_out}")
        try:
            times.append([float(field) for field in fields][timestamp])
        except ValueError as error:
            raise HeadsetError(f"{file}, line {number}: {error}. {way_out}") from None
    if len(times) < 2 or not times[-1] > times[0]:
        raise HeadsetError(f"{file}: the times in column {timestamp + 1} don't rise. {way_out}")


def sentence(error: Exception, settings: config.Headset, seconds: float = 0.0) -> str:
    """One sentence for a person: `error` as it was raised after `seconds` of trying to connect."""
    code, kind = getattr(error, "exit_code", None), BOARDS[settings.board].port
    if code is None:
        return str(error) or type(error).__name__
    if code == 7 and kind == "serial" and seconds > SILENT_SECONDS:
        return f"the headset can't be connected: {SILENT.format(port=settings.port)}"
    told = EXIT_CODES.get((code, kind)) or EXIT_CODES.get((code, ""))
    return f"the headset can't be connected: {told or f'BrainFlow says {error}.'}"


# Full scale in uV either way. A value beyond it is stored as full scale. OpenBCI: 4.5 V / gain 24, and 1.2 V / gain 51 with the
# Ganglion's 1.5; NeuroPawn: 4 V / gain 12; Muse: 2048 or 8192 steps of 0.488 or 0.0885 uV.
FULL_SCALE_UV = {
    "ganglion": 15_687.0,
    "neuropawn_knight": 333_334.0,
    "muse_2": 1_000.0,
    "muse_s": 1_000.0,
    "muse_s_athena": 1_000.0,
}
CYTON_FULL_SCALE_UV = 187_500.0  # at gain 24: 2**23 - 1 steps of 0.02235 uV


def full_scale_uv(board: str) -> float:
    return FULL_SCALE_UV.get(board, CYTON_FULL_SCALE_UV)
