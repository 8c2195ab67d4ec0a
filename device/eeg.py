"""The headset: the one owner of the one BrainFlow board, read in one background thread.

It does not know what the samples mean (affect.py judges them) and never raises into the companion.

BrainFlow hides two faults, so both are judged here: an unplugged board looks healthy and merely
sends nothing (only arriving samples tell), and a second BoardShim of the same board destroys the
first one's session when it is dropped (so there is one, and only this thread touches it).
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections import deque
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device import config
from device.logs import log

POLL_SECONDS = 0.05
KEEP_SECONDS = 60.0
STALE_SECONDS = 1.5  # 0.6 s fired falsely under CPU load
FIRST_SAMPLE_SECONDS = 3.0  # a headset may take longer to send its first sample than its next
CLOSE_SECONDS = 3.0
BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class HeadsetState(Enum):
    ABSENT = "absent"  # none is configured, or it can't be reached; quiet retries go on
    CONNECTING = "connecting"  # the first try after a start or after a loss
    SETTLING = "settling"  # samples arrive, the electrodes' offsets still drift
    STREAMING = "streaming"
    STALE = "stale"  # connected, but samples stopped


@dataclass(frozen=True)
class _Board:
    """`name` in BrainFlow's BoardIds, the kind of port, seconds until electrodes have settled."""

    name: str
    port: str = ""  # "serial", "wireless" (empty: the first one found) or ""
    settle: float = 5.0


BOARDS: dict[str, _Board] = {
    "synthetic": _Board("SYNTHETIC_BOARD", settle=0.5),
    "playback": _Board("CYTON_BOARD", settle=0.5),  # the board that recorded the file
    "cyton": _Board("CYTON_BOARD", "serial"),
    "cyton_daisy": _Board("CYTON_DAISY_BOARD", "serial"),
    "ganglion": _Board("GANGLION_BOARD", "serial"),
    "muse_2": _Board("MUSE_2_BOARD", "wireless"),
    "muse_s": _Board("MUSE_S_BOARD", "wireless"),
    "muse_s_athena": _Board("MUSE_S_ATHENA_BOARD", "wireless"),
    "neuropawn_knight": _Board("NEUROPAWN_KNIGHT_BOARD", "serial"),
}

# BrainFlow's exit codes that a nurse or a technician can do something about.
EXIT_CODES = {
    2: "its port can't be opened: is it plugged in, or the Bluetooth adapter on?",
    3: "that port is not a serial port.",
    7: "the dongle answers but the headset does not: is it switched on?",
}

# Dropping a second BoardShim of a board releases the first one's session, so no second is made.
_BOARD_IN_USE = threading.Lock()


class HeadsetError(Exception):
    """Why the headset can't be read, in one sentence. It never leaves this file."""


def open_headset(settings: config.Headset) -> Headset:
    """A headset, not yet started. Touches no hardware."""
    return Headset(settings)


class Headset:
    """EEG of the configured board: start(), window(), close(); safe to ask from any thread."""

    def __init__(self, settings: config.Headset) -> None:
        self._settings = settings
        self._blocks: deque[NDArray[np.float32]] = deque(maxlen=round(KEEP_SECONDS / POLL_SECONDS))
        self._lock = threading.Lock()  # held for the copy of a list of references, no longer
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._rate = 0.0
        self._names: list[str] = []
        self._state = HeadsetState.ABSENT
        self._reason = "the headset is not started."
        self._samples = 0
        self._failures = 0
        if settings.board == "none":
            self._reason = "no headset is configured."

    @property
    def state(self) -> HeadsetState:
        return self._state

    @property
    def reason(self) -> str:
        """Why there is no signal, in one sentence; empty while STREAMING."""
        return self._reason

    @property
    def samples_seen(self) -> int:
        """Samples of each channel since start(), over all connections, settling included."""
        return self._samples

    def window(self, seconds: float) -> tuple[NDArray[np.float32] | None, float, list[str]]:
        """The newest `seconds`: ([channels, samples] in uV, rate in Hz, channel names).

        The array is None unless STREAMING with that much signal since the last gap (at most 60 s
        is kept); rate and names are 0 and [] until a board was first connected.
        """
        with self._lock:
            blocks, rate, names = list(self._blocks), self._rate, list(self._names)
        wanted = round(seconds * rate)
        if wanted <= 0 or sum(b.shape[1] for b in blocks) < wanted:
            return None, rate, names
        return np.concatenate(blocks, axis=1)[:, -wanted:], rate, names

    def start(self) -> None:
        """Begin reading in the background; returns at once. Nothing happens without a headset.

        Starting twice does nothing, and neither does starting a closed one: open another.
        """
        if self._settings.board == "none" or self._thread is not None or self._stop.is_set():
            return
        self._thread = threading.Thread(target=self._run, name="headset", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Release the board and join the thread, within 3 s. Closing twice is fine."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            # BrainFlow can't be interrupted: it tries a silent serial port for 6 s, and playback
            # sleeps through a gap in the recording's times. The thread ends itself after that.
            log("headset", level=logging.WARNING, close="BrainFlow is busy, its thread ends later")

    def _run(self) -> None:
        """Connect, read until a fault, release, wait, again; until close()."""
        while not self._stop.is_set():
            if not self._failures or self._state is HeadsetState.STALE:
                self._become(HeadsetState.CONNECTING, "the headset is being connected.")
            try:
                self._session()
            except Exception as error:  # whatever a driver throws, the voice must go on
                self._lost(_sentence(error))
            else:
                break
            self._stop.wait(BACK_OFF[min(self._failures, len(BACK_OFF)) - 1])
        self._become(HeadsetState.ABSENT, "the headset is closed.")

    def _lost(self, reason: str) -> None:
        """Count a failure in a row and show it: STALE if this connection had sent samples."""
        sent = self._state in (HeadsetState.SETTLING, HeadsetState.STREAMING)
        self._failures = 1 if self._state is HeadsetState.STREAMING else self._failures + 1
        self._become(HeadsetState.STALE if sent else HeadsetState.ABSENT, reason)

    def _session(self) -> None:
        """One connection, from preparing to its release: returns on close(), or raises."""
        kind = BOARDS[self._settings.board]
        shim, params, board_id, master = _board(self._settings)
        description = shim.get_board_descr(master)
        if self._settings.board == "playback":
            columns, timestamp = description["num_rows"], description["timestamp_channel"]
            check_recording(Path(self._settings.file), columns, timestamp)
        if not _BOARD_IN_USE.acquire(blocking=False):
            raise HeadsetError("another headset is still open in this process: close it first.")
        board = None
        try:
            board = shim(board_id, params)
            board.prepare_session()
            if self._settings.board == "playback":
                board.config_board("loopback_true")
            board.start_stream(int(description["sampling_rate"] * KEEP_SECONDS))
            self._describe(description)
            self._read(board, description["eeg_channels"], kind.settle)
        finally:
            with self._lock:
                self._blocks.clear()  # a window must not span a gap
            try:
                if board is not None and board.is_prepared():
                    board.release_session()
            finally:
                del board  # its __del__ would release again at interpreter exit, noisily
                _BOARD_IN_USE.release()

    def _describe(self, description: dict[str, Any]) -> None:
        """Take rate and channel names from BrainFlow's description; some boards have no names."""
        given = description.get("eeg_names", "")
        count = len(description["eeg_channels"])
        with self._lock:
            self._rate = float(description["sampling_rate"])
            self._names = given.split(",") if given else [f"channel {i + 1}" for i in range(count)]

    def _read(self, board: Any, rows: list[int], settle: float) -> None:
        """Poll until close(); raises HeadsetError when samples stop arriving."""
        newest = time.monotonic()
        allowed, settled = FIRST_SAMPLE_SECONDS, 0.0
        while not self._stop.wait(POLL_SECONDS):
            block = board.get_board_data()[rows].astype(np.float32)
            now = time.monotonic()
            if block.shape[1] == 0:
                if now - newest > allowed:
                    raise HeadsetError(f"the headset sent no sample for {allowed} s: is it on?")
                continue
            newest = now
            self._samples += block.shape[1]
            if allowed != STALE_SECONDS:
                allowed, settled = STALE_SECONDS, now + settle
                self._become(HeadsetState.SETTLING, "the headset's signal is settling.")
            if now >= settled:
                self._become(HeadsetState.STREAMING, "")
                with self._lock:
                    self._blocks.append(block)

    def _become(self, state: HeadsetState, reason: str) -> None:
        changed, self._state, self._reason = state is not self._state, state, reason
        if changed:
            log("headset", state=state.value, board=self._settings.board, reason=reason)


def _board(settings: config.Headset) -> tuple[Any, Any, int, int]:
    """(BoardShim, its parameters, board id, id of the board whose layout the samples have)."""
    kind = BOARDS[settings.board]
    if kind.port == "serial" and not settings.port:
        raise HeadsetError(
            f"headset.port is empty: {settings.board} needs a /dev/serial/by-id/ path."
        )
    # brainflow reads its version through pkg_resources on Python < 3.12, and that warns.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    try:
        from brainflow.board_shim import BoardIds, BoardShim, BrainFlowInputParams

        BoardShim.disable_board_logger()  # a lost board wrote 25 MB/s of log
    except (ImportError, OSError) as error:
        message = f"BrainFlow can't be loaded ({error}): install the 'eeg' extra."
        raise HeadsetError(message) from None
    params = BrainFlowInputParams()
    master = int(BoardIds[kind.name])
    if settings.board == "playback":
        params.file, params.master_board = settings.file, master
        return BoardShim, params, int(BoardIds.PLAYBACK_FILE_BOARD), master
    if kind.port == "wireless":
        params.mac_address = settings.port
    else:
        params.serial_port = settings.port
    return BoardShim, params, master, master


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


def _sentence(error: Exception) -> str:
    code = getattr(error, "exit_code", None)
    if code in EXIT_CODES:
        return f"the headset can't be connected: {EXIT_CODES[code]}"
    return str(error) or type(error).__name__
