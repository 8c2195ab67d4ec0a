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
from collections import deque
from contextlib import nullcontext
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device import config
from device.blocks import Block, TimeLine
from device.boards import BOARDS, HeadsetError, Layout, check_recording, layout, sentence
from device.logs import log
from device.port import claim, identity

__all__ = ["Block", "Headset", "HeadsetError", "HeadsetState", "check_recording", "open_headset"]

POLL_SECONDS = 0.1  # each look costs 0.4 ms of CPU, whatever there is
KEEP_SECONDS = 60.0
STALE_SECONDS = 1.5  # 0.6 s fired falsely under CPU load
FIRST_SAMPLE_SECONDS = 3.0  # a headset may take longer to send its first sample than its next
CLOSE_SECONDS = 3.0
LOOK_SECONDS = 0.1  # while waiting: how often to look whether the port is there again
BACK_OFF = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)


class HeadsetState(Enum):
    ABSENT = "absent"  # none is configured, or it can't be reached; quiet retries go on
    CONNECTING = "connecting"  # the first try after a start, a loss or a plugging in
    SETTLING = "settling"  # samples arrive, the electrodes' offsets still drift
    STREAMING = "streaming"
    STALE = "stale"  # was connected, but samples stopped


ARRIVING = (HeadsetState.SETTLING, HeadsetState.STREAMING)

# Dropping a second BoardShim of a board releases the first one's session, so no second is made.
_BOARD_IN_USE = threading.Lock()


def open_headset(settings: config.Headset) -> Headset:
    """A headset, not yet started. Touches no hardware."""
    return Headset(settings)


class Headset:
    """EEG of the configured board: start(), blocks() or window(), close(); safe to ask from any thread."""

    def __init__(self, settings: config.Headset) -> None:
        self._settings = settings
        self._blocks: deque[Block] = deque(maxlen=round(KEEP_SECONDS / POLL_SECONDS))
        self._appended = self._drained = 0  # blocks since start(), and how many of them blocks() has passed
        self._lock = threading.Lock()  # held for the copy of a list of references, no longer
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._rate = 0.0
        self._names: list[str] = []
        self._state = HeadsetState.ABSENT
        self._reason = "the headset is not started."
        self._samples = self._lost_samples = self._failures = 0
        self._seen: tuple[int, ...] | None = None  # the port or file, as it was when last tried
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
    def arriving(self) -> bool:
        """Whether samples arrive now, settled or not: what a plugging in is timed by."""
        return self._state in ARRIVING

    @property
    def samples_seen(self) -> int:
        """Samples of each channel since start(), over all connections, settling included."""
        return self._samples

    @property
    def samples_lost(self) -> int:
        """Samples of each channel that were lost or not to be trusted while connected, since start()."""
        return self._lost_samples

    def blocks(self) -> list[Block]:
        """What came since the last call, oldest first, settling included; for one consumer.

        At most the newest minute waits to be asked for; a Block says of itself if any is missing before it.
        """
        with self._lock:
            new = self._appended - self._drained
            self._drained = self._appended
            out = list(self._blocks)[-new:] if new else []
        if new > len(out):
            out[0] = replace(out[0], gap=True)
        return out

    def window(self, seconds: float) -> tuple[NDArray[np.float32] | None, float, list[str]]:
        """The newest `seconds`: ([channels, samples] in uV, rate in Hz, channel names).

        The array is None unless STREAMING with that much signal since the last gap (at most 60 s
        is kept); rate and names are 0 and [] until a board was first connected.
        """
        with self._lock:
            kept, rate, names = list(self._blocks), self._rate, list(self._names)
        wanted = round(seconds * rate)
        if wanted <= 0 or self._state is not HeadsetState.STREAMING:
            return None, rate, names
        parts: list[NDArray[np.float32]] = []
        have = 0
        for block in reversed(kept):
            if not block.settled:
                break
            parts.append(block.samples)
            have += block.samples.shape[1]
            if have >= wanted:
                return np.concatenate(parts[::-1], axis=1)[:, -wanted:], rate, names
            if block.gap:
                break
        return None, rate, names

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

    # The thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        """Connect, read until a fault, release, wait, again; until close()."""
        while not self._stop.is_set():
            if not self._failures or self._state is HeadsetState.STALE:
                self._become(HeadsetState.CONNECTING, "the headset is being connected.")
            began, self._seen = time.monotonic(), self._place()
            try:
                self._session()
            except Exception as error:  # whatever a driver throws, the voice must go on
                self._lost(sentence(error, self._settings, time.monotonic() - began))
            else:
                break
            self._wait(BACK_OFF[min(self._failures, len(BACK_OFF)) - 1])
        self._become(HeadsetState.ABSENT, "the headset is closed.")

    def _place(self) -> tuple[int, ...] | None:
        path = self._settings.file if self._settings.board == "playback" else self._settings.port
        return identity(path) if path and BOARDS[self._settings.board].port != "wireless" else None

    def _wait(self, seconds: float) -> None:
        """Wait, but no longer than until the port is there anew: a headset comes back by being plugged in."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stop.wait(LOOK_SECONDS):
            now = self._place()
            if now is not None and now != self._seen:
                self._failures = 0
                return
            self._seen = now

    def _lost(self, reason: str) -> None:
        """Count a failure in a row and show it: STALE if this connection had sent samples."""
        sent = self.arriving or self._state is HeadsetState.STALE
        self._failures += 1
        self._become(HeadsetState.STALE if sent else HeadsetState.ABSENT, reason)

    def _session(self) -> None:
        """One connection, from preparing to its release: returns on close(), or raises."""
        kind = BOARDS[self._settings.board]
        plan = layout(self._settings)
        if not _BOARD_IN_USE.acquire(blocking=False):
            raise HeadsetError("another headset is still open in this process: close it first.")
        board = None
        try:
            with claim(self._settings.port) if kind.port == "serial" else nullcontext(lambda: None) as seal:
                try:
                    board = plan.shim(plan.board_id, plan.params)
                    board.prepare_session()
                    seal()
                    if self._settings.board == "playback":
                        board.config_board("loopback_true")
                    board.start_stream(int(plan.rate * KEEP_SECONDS))
                    self._read(board, plan, kind.settle)
                finally:
                    if board is not None and board.is_prepared():
                        board.release_session()
        finally:
            del board  # its __del__ would release again at interpreter exit, noisily
            _BOARD_IN_USE.release()

    def _read(self, board: Any, plan: Layout, settle: float) -> None:
        """Poll until close(); raises HeadsetError when samples stop arriving."""
        with self._lock:
            self._rate, self._names = plan.rate, plan.names
        line = TimeLine(BOARDS[self._settings.board].counter, plan.rate)
        lost_before, again = self._lost_samples, self._appended > 0
        newest = time.monotonic()
        allowed, settled = FIRST_SAMPLE_SECONDS, 0.0
        while not self._stop.wait(POLL_SECONDS):
            data = board.get_board_data()
            now = time.monotonic()
            if data.shape[1] == 0:
                if now - newest > allowed:
                    reason = f"the headset sent no sample for {allowed} s: {self._cause()}"
                    if self.arriving:  # told now: releasing a silent board takes up to a second more
                        self._become(HeadsetState.STALE, reason)
                    raise HeadsetError(reason)
                continue
            if allowed != STALE_SECONDS:
                allowed, settled = STALE_SECONDS, now + settle
                self._become(HeadsetState.SETTLING, "the headset's signal is settling.")
            elif now >= settled:
                self._become(HeadsetState.STREAMING, "")
                self._failures = 0
            self._samples += data.shape[1]
            for first, samples, gap in line.take(data[plan.rows].astype(np.float32), data[plan.package_row], now - newest):
                self._append(Block(samples, first, plan.rate, plan.names, gap or again, self._state is HeadsetState.STREAMING))
                again = False
            newest = now
            self._lost_samples = lost_before + line.lost

    def _append(self, block: Block) -> None:
        with self._lock:
            self._blocks.append(block)
            self._appended += 1

    def _cause(self) -> str:
        gone = BOARDS[self._settings.board].port == "serial" and self._place() != self._seen
        return "it was unplugged." if gone else "is it on, charged and near?"

    def _become(self, state: HeadsetState, reason: str) -> None:
        changed = state is not self._state
        self._reason = reason  # first: who sees the new state is to find its reason
        self._state = state
        if changed:
            log("headset", state=state.value, board=self._settings.board, reason=reason)
