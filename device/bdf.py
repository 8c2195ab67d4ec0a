"""BDF+ files: one written second by second so that a power cut spares it, any read back. It knows no headset.

BDF is BioSemi's 24-bit form of EDF, BDF+ its form with annotations (edfplus.info/specs). The libraries that write it do not meet
the need: pyedflib keeps every annotation in memory and the number of records at -1 until the file is closed (killed after 20 s: no
annotation left, and EDFlib, so EDFbrowser too, refuses the file); edfio writes a whole file at once.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STEPS = 2**23 - 1  # either way: so that a Cyton's step, full scale / (2**23 - 1), is the file's own
TEXT_BYTES = 180  # of annotations in a record; what doesn't fit goes with the next
LABEL = "BDF Annotations"
EQUIPMENT = "Bedside_Companion"
COUNT_AT = 236  # where the header holds the number of records
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")  # never the locale's
UNITS = {"uV": 1.0, "µV": 1.0, "mV": 1e3, "V": 1e6, "nV": 1e-3}


class BdfError(Exception):
    """A recording that can't be written or read. The message names the file and the way out."""


@dataclass(frozen=True)
class Mark:
    """An annotation: `onset` and `seconds` in seconds of the file's own time; 0 seconds is a moment."""

    onset: float
    text: str
    seconds: float = 0.0


class Writer:
    """A BDF+C file that is whole after every `add`: header, records and their number, on the disk.

    Raises BdfError, and never overwrites a file. Continuous on purpose: MNE-Python and EDFbrowser refuse or misread BDF+D,
    so who records fills a gap and marks it.
    """

    def __init__(self, file: Path, names: list[str], rate: float, full_scale_uv: float, began: datetime) -> None:
        if rate != int(rate) or not 1 <= rate <= 16_000:
            raise BdfError(f"{file}: {rate} Hz can't be recorded: a record of one second needs a whole number of samples.")
        self.file, self.channels, self.rate, self.records = file, len(names), int(rate), 0
        self._full_scale, self._waiting = full_scale_uv, deque[Mark]()
        header = _header(names, self.rate, full_scale_uv, began)
        try:
            # A wearer's EEG is nobody else's; and no recording is ever overwritten.
            self._handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            raise BdfError(f"{file} exists already, and no recording is overwritten: give another name.") from None
        except OSError as error:
            raise BdfError(f"{file} can't be written ({error.strerror}): give a folder that exists and may be written to.") from None
        self._good = 0  # bytes of whole records, header included
        try:
            self._store(header)
        except BdfError:
            file.unlink(missing_ok=True)  # not even a header: no file
            raise
        folder = os.open(file.parent, os.O_RDONLY)  # the file's name must survive a power cut, too
        with contextlib.suppress(OSError):
            os.fsync(folder)
        os.close(folder)

    def mark(self, mark: Mark) -> None:
        """Written with the next record that has room."""
        self._waiting.append(mark)

    @property
    def waiting(self) -> int:
        """Marks that are not on the disk yet."""
        return len(self._waiting)

    def add(self, samples: NDArray[np.floating]) -> None:
        """One second, [channels, rate] in uV: on the disk when this returns. Beyond full scale is stored as full scale.

        Raises BdfError when the disk is full or gone; the file then ends with its last whole record.
        """
        within = np.clip(np.nan_to_num(samples.astype(np.float64)), -self._full_scale, self._full_scale)
        whole = np.rint(within * (STEPS / self._full_scale)).astype("<i4")
        values = whole.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
        text, taken = self._texts()
        self._store(values + text)
        for _ in range(taken):
            self._waiting.popleft()

    def _texts(self) -> tuple[bytes, int]:
        """The record's annotations, and how many marks they hold; the first tells the record's own time."""
        out, taken = b"+%d\x14\x14\x00" % self.records, 0
        for mark in self._waiting:
            span = f"\x15{mark.seconds:.3f}" if mark.seconds else ""
            text = "".join(c if c >= " " else " " for c in mark.text).encode()[:80].decode(errors="ignore")
            entry = f"{mark.onset:+.3f}{span}\x14{text}\x14\x00".encode()
            if len(out) + len(entry) > TEXT_BYTES:
                break
            out, taken = out + entry, taken + 1
        return out.ljust(TEXT_BYTES, b"\x00"), taken

    def _store(self, data: bytes) -> None:
        """Append, count, and wait for the disk. The count in the header is what EDFbrowser believes."""
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._handle, left) :]
            if self._good:
                os.pwrite(self._handle, b"%-8d" % (self.records + 1), COUNT_AT)
            os.fsync(self._handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._good)
                os.pwrite(self._handle, b"%-8d" % (self.records or -1), COUNT_AT)
            self.close()
            reason = error.strerror or "it can't be written"
            raise BdfError(f"{self.file}: the recording stopped after {self.records} s: {reason}.") from None
        self.records += bool(self._good)
        self._good += len(data)

    def close(self) -> None:
        """Closing twice, or after a failure, is fine."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            with contextlib.suppress(OSError):
                os.close(handle)


def _header(names: list[str], rate: int, full_scale_uv: float, began: datetime) -> bytes:
    """256 bytes, and 256 for each channel and the annotations. It names the device and nobody."""
    scale = f"{full_scale_uv:.0f}"
    if len(scale) > 7:
        raise BdfError(f"a full scale of {scale} uV has no room in a BDF header.")
    count = len(names) + 1
    date = f"{began.day:02}-{MONTHS[began.month - 1]}-{began.year}"
    head = [
        ("X X X X", 80),
        (f"Startdate {date} X X {EQUIPMENT}", 80),
        (began.strftime("%d.%m.%y%H.%M.%S"), 16),
        (str(256 * (count + 1)), 8),
        ("BDF+C", 44),
        ("-1", 8),
        ("1", 8),
        (str(count), 4),
    ]
    signals = [
        ([*names, LABEL], 16),
        (["EEG electrode"] * len(names) + [""], 80),
        (["uV"] * len(names) + [""], 8),
        ([f"-{scale}"] * len(names) + ["-1"], 8),
        ([scale] * len(names) + ["1"], 8),
        ([str(-STEPS)] * len(names) + [str(-STEPS - 1)], 8),
        ([str(STEPS)] * count, 8),
        ([""] * count, 80),  # no filter: what the board sent
        ([str(rate)] * len(names) + [str(TEXT_BYTES // 3)], 8),
        ([""] * count, 32),
    ]
    fields = head + [(text, size) for texts, size in signals for text in texts]
    return b"\xffBIOSEMI" + b"".join(text.encode("ascii", "replace")[:size].ljust(size) for text, size in fields)


class Reader:
    """A BDF file with one sample rate, read piece by piece; a cut one as far as its last whole record.

    `names`, `rate` in Hz, `began`, `seconds`, `marks` in order, `full_scale_uv`, `whole` (False: cut, or never closed).
    Raises BdfError.
    """

    def __init__(self, file: Path) -> None:
        try:
            with file.open("rb") as source:
                head = source.read(256)
                signals = source.read(256 * int(head[252:256])) if head[:8] == b"\xffBIOSEMI" else b""
                size = os.fstat(source.fileno()).st_size
        except OSError as error:
            raise BdfError(f"{file}: {error.strerror}.") from None
        except ValueError:
            raise BdfError(f"{file}: its header is damaged; it can't be read.") from None
        if not signals:
            raise BdfError(f"{file} is not a BDF file: give a recording that 'bedside eeg record' or the companion wrote.")
        try:
            self._read(file, head, signals, size)
        except (ValueError, IndexError, ZeroDivisionError, OverflowError):
            raise BdfError(f"{file}: its header is damaged; it can't be read.") from None

    def _read(self, file: Path, head: bytes, signals: bytes, size: int) -> None:
        if head[192:197] == b"BDF+D":
            raise BdfError(f"{file} is discontinuous (BDF+D), which is not read: convert it with EDFbrowser.")
        count, duration, told = int(head[252:256]), float(head[244:252]), int(head[236:244])
        self.began = datetime.strptime(head[168:184].decode("ascii"), "%d.%m.%y%H.%M.%S")
        labels = _column(signals, count, 0, 16)
        unit, low, high, least, most, _, held = (_column(signals, count, at, size) for at, size in _PLACES)
        lengths = [int(n) for n in held]
        eeg = [i for i, label in enumerate(labels) if label not in (LABEL, "Status")]
        if len({lengths[i] for i in eeg}) != 1:
            raise BdfError(f"{file}: its channels have different sample rates, which is not read.")
        self.file, self.names, self._length = file, [labels[i] for i in eeg], lengths[eeg[0]]
        self.rate = self._length / duration
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self._starts, self._texts = starts[eeg], [(starts[i], starts[i + 1]) for i, label in enumerate(labels) if label == LABEL]
        factors = [UNITS.get(unit[i], 1.0) for i in eeg]
        steps = [(float(high[i]) - float(low[i])) / (int(most[i]) - int(least[i])) for i in eeg]
        self._steps = np.array(steps) * factors
        offsets = [float(low[i]) - int(least[i]) * step for i, step in zip(eeg, steps, strict=True)]
        self._offsets = np.round(np.array(offsets), 6) * factors  # our own have none; a division's rest is none
        self.full_scale_uv = max(abs(float(high[i])) * f for i, f in zip(eeg, factors, strict=True))
        begin, record = int(head[184:192]), 3 * int(starts[-1])
        self.records = max(0, (size - begin) // record)
        self.whole = told == self.records and begin + record * told == size
        self.seconds = self.records * duration
        shape = (self.records, int(starts[-1]), 3)
        self._bytes = np.memmap(file, np.uint8, "r", begin, shape) if self.records else np.zeros(shape, np.uint8)
        self.marks = sorted((m for a, b in self._texts for r in self._bytes[:, a:b] for m in _marks(r.tobytes())), key=lambda m: m.onset)

    @property
    def samples_held(self) -> int:
        return self.records * self._length

    def samples(self, start: int, stop: int) -> NDArray[np.float32]:
        """float32 [channels, stop - start] in uV; fewer at the end of the file."""
        start, stop = max(0, start), min(stop, self.samples_held)
        if stop <= start:
            return np.zeros((len(self.names), 0), np.float32)
        first, last = start // self._length, -(-stop // self._length)
        out = np.empty((len(self.names), (last - first) * self._length), np.float32)
        for row, (at, step, offset) in enumerate(zip(self._starts, self._steps, self._offsets, strict=True)):
            raw = np.zeros((last - first, self._length, 4), np.uint8)
            raw[..., 1:] = self._bytes[first:last, at : at + self._length]
            out[row] = (raw.view("<i4").ravel() >> 8) * step + offset  # the sign comes down with the shift
        return out[:, start - first * self._length : stop - first * self._length]


# Where unit, physical and digital limits, prefilter and samples a record stand, as (byte for one channel, length).
_PLACES = ((96, 8), (104, 8), (112, 8), (120, 8), (128, 8), (136, 80), (216, 8))


def _column(signals: bytes, count: int, at: int, size: int) -> list[str]:
    field = signals[at * count : (at + size) * count]
    return [field[i * size : (i + 1) * size].decode("latin-1").strip() for i in range(count)]


def _marks(record: bytes) -> list[Mark]:
    """The annotations of one record; the one without text tells the record's own time. Damaged ones are left out."""
    out = []
    for entry in record.split(b"\x00"):
        when, *texts = entry.split(b"\x14")
        onset, _, seconds = when.partition(b"\x15")
        for text in filter(None, texts):
            with contextlib.suppress(ValueError):
                out.append(Mark(float(onset), text.decode(errors="replace"), float(seconds or 0)))
    return out


def repair(file: Path) -> bool:
    """Cut a file of ours that a power cut ended to whole records, and count them. False when nothing had to be done.

    A power cut may keep the newest record and lose its count, or the other way round; MNE-Python sees through that,
    EDFbrowser does not. A file of another device is never touched.
    """
    with file.open("rb") as source:
        head = source.read(256)
    if EQUIPMENT.encode() not in head[88:168]:
        return False
    read = Reader(file)
    if read.whole:
        return False
    begin = int(head[184:192])
    size = begin + read.records * (read._bytes.shape[1] * 3)
    handle = os.open(file, os.O_WRONLY)
    try:
        os.ftruncate(handle, size)
        os.pwrite(handle, b"%-8d" % (read.records or -1), COUNT_AT)
        os.fsync(handle)
    except OSError as error:
        raise BdfError(f"{file} can't be repaired: {error.strerror}.") from None
    finally:
        os.close(handle)
    return True
