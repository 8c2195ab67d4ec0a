"""A session on disk: blocks of the headset and what happened meanwhile, second by second, as BDF+.

It does not know what the samples mean. A gap is filled with each channel's last value and marked "bad: no signal", a text that
MNE-Python leaves out of every analysis by itself. Discontinuous files (BDF+D) would be the other way, but EDFbrowser
does not open them and MNE-Python reads them as if nothing were missing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device.bdf import BdfError, Mark, Writer, repair
from device.blocks import Block
from device.boards import full_scale_uv
from device.logs import log
from device.states import Event, State

GAP = "bad: no signal"
LOST = "signal lost"
LATE = 2.0  # seconds without a sample; the headset is connected anew after 1.5
ENDED = 60.0  # seconds without a sample, after which the next one begins another file
LOOK = 0.2  # seconds between two looks of the writing thread: with records of 1 s, a power cut takes at most 2 s
KEPT = 3000  # blocks and marks that may wait for a slow disk: 2 minutes

# What happens at the bedside, in the words of the annotations. Nobody's words are among them.
EVENTS = {Event.PRESS: "press", Event.RELEASE: "release", Event.CALL: "call button", Event.ACKNOWLEDGE: "alert acknowledged"}
STATES = {State.SPEAKING: "reply", State.ALERTING: "alert", State.READY: "ready", State.FAULT: "fault", State.QUIET: "quiet minute",
          State.EXERCISE: "exercise"}  # fmt: skip


class Recorder:
    """One file from blocks and marks. Times are `time.monotonic()` of when a block or a mark came.

    The file's time is that of the samples: a board's clock is up to 0.2 % off ours, and a mark must stay beside what it marks.
    Raises BdfError when the file can't be made or the disk is full.
    """

    def __init__(self, file: Path, names: list[str], rate: float, board: str = "", full_scale: float = 0.0) -> None:
        self._writer = Writer(file, names, rate, full_scale or full_scale_uv(board), datetime.now())
        self.file, self.names, self.rate = file, list(names), rate
        self._held: NDArray[np.float32] = np.zeros((len(names), 0), np.float32)  # less than a record
        self._last = np.zeros((len(names), 1), np.float32)
        self.samples, self.missing = 0, 0  # of each channel in the file's time so far; how many of them were filled in
        self._due: int | None = None  # `first` of the block that would follow without a gap
        self._arrived = 0.0
        self._lost: float | None = None  # onset of the gap that is still open

    def take(self, block: Block, now: float) -> None:
        """The board's samples, with what is missing before them filled in."""
        missing = 0
        if self._due is not None:
            missing = block.first - self._due
            possible = (now - self._arrived + 5) * self.rate
            # A count that began anew, or after so long a silence, is another connection: the clock must tell.
            if self._lost is not None or not 0 <= missing <= possible:
                missing = max(0, round((now - self._arrived) * self.rate) - block.samples.shape[1])
        if missing or self._lost is not None:
            begin = self.samples / self.rate if self._lost is None else self._lost
            self._fill(missing)
            if self.samples / self.rate > begin:
                self._writer.mark(Mark(begin, GAP, self.samples / self.rate - begin))
            self._lost = None
        self._due, self._arrived = block.first + block.samples.shape[1], now
        self._append(block.samples)

    def tick(self, now: float) -> None:
        """Go on without samples, so that what happens meanwhile has its place and is on the disk."""
        if self._due is None or now - self._arrived < LATE:
            return
        if self._lost is None:
            self._lost = self.samples / self.rate
            self._writer.mark(Mark(self._lost, LOST))
        self._fill(round((now - self._arrived) * self.rate))
        self._arrived = now

    def mark(self, text: str, now: float) -> None:
        """Annotate what happens now, after the newest sample."""
        behind = max(0.0, now - self._arrived) if self._due is not None else 0.0
        self._writer.mark(Mark(self.samples / self.rate + behind, text))

    def close(self, now: float) -> None:
        """The begun second is filled up and marked, and every mark is on the disk. Raises BdfError for a full disk."""
        try:
            self.tick(now)
            if self._lost is not None:
                self._writer.mark(Mark(self._lost, GAP, self.samples / self.rate - self._lost))
            rest = -self.samples % int(self.rate)
            while rest or self._writer.waiting:  # marks of the last moment may need a second of their own
                rest = rest or int(self.rate)
                self._writer.mark(Mark(self.samples / self.rate, GAP, rest / self.rate))
                self._fill(rest)
                rest = 0
        finally:
            self._writer.close()

    def _fill(self, count: int) -> None:
        self.missing += count
        while count > 0:  # an hour of nothing must not be an hour in memory
            part = min(count, int(self.rate))
            self._append(np.repeat(self._last, part, axis=1))
            count -= part

    def _append(self, samples: NDArray[np.float32]) -> None:
        if samples.shape[1] == 0:
            return
        self._last, self.samples = samples[:, -1:], self.samples + samples.shape[1]
        held, size = np.concatenate([self._held, samples], axis=1), int(self.rate)
        while held.shape[1] >= size:
            self._writer.add(held[:, :size])
            held = held[:, size:]
        self._held = held


class Session:
    """The companion's recording: a file in `folder` for each stretch with a headset, written by a thread of its own.

    `start` once; `hear` and `mark` never wait. A full disk ends the recording with one line in the log, and nothing else.
    An empty `folder` records nothing. Files that a power cut left behind are put right first.
    """

    def __init__(self, folder: str, board: str) -> None:
        self._folder, self._board = Path(folder), board
        self._queue: deque[tuple[float, Block | str]] = deque(maxlen=KEPT)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._recorder: Recorder | None = None
        self._came = 0.0
        self.wanted = bool(folder) and board != "none"

    def start(self) -> None:
        if self.wanted and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
            self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def hear(self, blocks: Iterable[Block]) -> None:
        """What the headset sent since the last call."""
        now = time.monotonic()
        if self.running:
            self._queue.extend((now, block) for block in blocks)

    def mark(self, text: str) -> None:
        if self.running:
            self._queue.append((time.monotonic(), text))

    def saw(self, event: Event, before: State, after: State, alert: str = "") -> None:
        """Annotate an event of the companion and the state that it led to."""
        if event in EVENTS:
            self.mark(EVENTS[event])
        if after is not before and after in STATES:
            self.mark(f"{STATES[after]}: {alert}" if alert and after is State.ALERTING else STATES[after])

    def close(self) -> None:
        """What came is on the disk within 3 s, or the disk is too slow and the rest is given up."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(3.0)

    def _run(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file in sorted(self._folder.glob("*.bdf")):
                with contextlib.suppress(BdfError):  # another's file, or none at all: it is not ours to judge
                    if repair(file):
                        log("recording", repaired=file.name)
            while not self._stop.wait(LOOK):
                self._write(time.monotonic())
            self._write(time.monotonic())
            self._finish(time.monotonic())
        except (BdfError, OSError) as error:
            self._queue.clear()
            log("recording", level=logging.WARNING, stopped=error)

    def _write(self, now: float) -> None:
        while self._queue:
            at, what = self._queue.popleft()
            if isinstance(what, str):
                if self._recorder is not None:  # what happens while nothing is recorded has no place to stand
                    self._recorder.mark(what, at)
                continue
            old = self._recorder
            if old is not None and (at - self._came > ENDED or (old.names, old.rate) != (what.names, what.rate)):
                self._finish(self._came)
            if self._recorder is None:
                self._recorder = Recorder(self._name(), what.names, what.rate, self._board)
                log("recording", file=self._recorder.file.name)
            self._came = at
            self._recorder.take(what, at)
        if self._recorder is not None and now - self._came > ENDED:
            self._finish(now)
        elif self._recorder is not None:
            self._recorder.tick(now)

    def _finish(self, now: float) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close(now)

    def _name(self) -> Path:
        """By the second it began; a second file of that second is numbered."""
        stem = datetime.now().strftime("eeg-%Y%m%d-%H%M%S")
        names = [f"{stem}.bdf", *(f"{stem}-{n}.bdf" for n in range(2, 100))]
        return next(self._folder / name for name in names if not (self._folder / name).exists())
