"""Recordings as other programs meet them: MNE-Python and EDFlib (EDFbrowser's own reader) open every file, cut or whole."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from home import SPEECH, becomes, bedside, lines, press, until

from device.bdf import BdfError, Mark, Reader, repair
from device.blocks import Block
from device.recording import GAP, LOST, Recorder, Session
from device.states import Event, State

ROOT = Path(__file__).parent.parent
STEP = 187_500 / (2**23 - 1)  # uV, of a Cyton at gain 24
NAMES = ["Fp1", "Fp2", "O1", "O2"]


def block(samples: Any, first: int = 0, rate: float = 250, names: list[str] = NAMES, gap: bool = False) -> Block:
    return Block(np.asarray(samples, np.float32), first, float(rate), names, gap)


def ramp(seconds: float, rate: int = 250, channels: int = 4) -> np.ndarray:
    """Every channel another slow ramp, in whole steps of a Cyton."""
    return (np.arange(round(seconds * rate)) * STEP + 1000 * STEP * np.arange(channels)[:, None]).astype(np.float32)


def record(file: Path, samples: np.ndarray, rate: int = 250, marks: tuple[tuple[float, str], ...] = ()) -> Recorder:
    """The samples in blocks of 0.1 s, as a headset gives them, and marks at their seconds."""
    names = [f"C{i}" for i in range(len(samples))] if len(samples) != 4 else NAMES
    recorder, size = Recorder(file, names, rate), rate // 10
    waiting = list(marks)
    for at in range(0, samples.shape[1], size):
        part = samples[:, at : at + size]
        while waiting and waiting[0][0] < (at + size) / rate:
            second, text = waiting.pop(0)
            recorder.mark(text, 100 + second)
        recorder.take(block(part, at, rate, names), 100 + (at + part.shape[1]) / rate)
    recorder.close(100 + samples.shape[1] / rate)
    return recorder


def mne_raw(file: Path) -> Any:
    mne = pytest.importorskip("mne")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut file is told of, rightly
        return mne.io.read_raw_bdf(file, preload=True, verbose="error")


def edflib(file: Path) -> Any:
    """EDFbrowser's own reader and its strictness, by pyedflib."""
    return pytest.importorskip("pyedflib").EdfReader(str(file))


@pytest.mark.parametrize("rate", [125, 200, 250, 256])
def test_three_readers_see_the_same_samples_marks_and_time(tmp_path: Path, rate: int) -> None:
    file, samples = tmp_path / "session.bdf", ramp(5, rate)
    record(file, samples, rate, ((1.5, "press"), (2.25, "reply"), (4.0, "alert: fall")))
    ours, raw, strict = Reader(file), mne_raw(file), edflib(file)
    assert (ours.rate, ours.names, ours.seconds, ours.whole) == (rate, NAMES, 5.0, True)
    assert abs((datetime.now() - ours.began).total_seconds()) < 60
    np.testing.assert_allclose(ours.samples(0, 10**9), samples, atol=1e-4)
    np.testing.assert_allclose(ours.samples(rate + 7, 3 * rate + 9), samples[:, rate + 7 : 3 * rate + 9], atol=1e-4)
    assert (raw.info["sfreq"], raw.ch_names) == (rate, NAMES)
    np.testing.assert_allclose(raw.get_data() * 1e6, samples, atol=1e-4)
    assert [(round(a["onset"], 2), a["description"]) for a in raw.annotations] == [(1.5, "press"), (2.25, "reply"), (4.0, "alert: fall")]
    assert [m.text for m in ours.marks] == list(raw.annotations.description) == list(strict.readAnnotations()[2])
    assert [round(m.onset, 3) for m in ours.marks] == [1.5, 2.25, 4.0]
    assert (strict.filetype, strict.getStartdatetime()) == (3, ours.began)  # 3: BDF+
    np.testing.assert_allclose(strict.readSignal(3), samples[3], atol=1e-4)
    strict.close()


def test_every_code_of_a_cyton_comes_back_as_itself(tmp_path: Path) -> None:
    """One digital step is one step of the board: float32 microvolts go in, the board's own integers are in the file."""
    rng = np.random.default_rng(1)
    codes = np.concatenate([[-(2**23 - 1), -1, 0, 1, 2**23 - 1], rng.integers(-(2**23) + 1, 2**23, 4 * 5000 - 5)]).reshape(4, 5000)
    file = tmp_path / "codes.bdf"
    record(file, (codes * STEP).astype(np.float32))
    np.testing.assert_array_equal(edflib(file).readSignal(2, digital=True), codes[2])
    assert np.abs(mne_raw(file).get_data() * 1e6 - codes * STEP).max() < STEP / 100


def test_no_name_of_a_person_is_in_the_header(tmp_path: Path) -> None:
    file = tmp_path / "s.bdf"
    record(file, ramp(1))
    head = file.read_bytes()[:256].decode("latin-1")
    assert head[8:88].strip() == "X X X X"
    assert head[88:168].split()[2:] == ["X", "X", "Bedside_Companion"]
    assert os.stat(file).st_mode & 0o077 == 0


def test_out_of_range_and_missing_samples_are_stored_as_the_rail_and_zero(tmp_path: Path) -> None:
    samples = ramp(1)
    samples[0, 10], samples[1, 10], samples[2, 10] = 1e9, -np.inf, np.nan
    record(tmp_path / "s.bdf", samples)
    np.testing.assert_allclose(Reader(tmp_path / "s.bdf").samples(10, 11)[:3, 0], [187_500, -187_500, 0])


def test_a_file_cut_anywhere_opens_and_holds_every_whole_second(tmp_path: Path) -> None:
    """A power cut may end the file at any byte; repaired, EDFbrowser opens it too."""
    whole, samples = tmp_path / "whole.bdf", ramp(6)
    record(whole, samples, marks=((0.5, "press"), (2.5, "reply")))
    data, begin = whole.read_bytes(), 256 * 6
    second = (len(data) - begin) // 6
    cuts = [begin + second * 3, *np.random.default_rng(2).integers(begin + second, len(data), 12).tolist()]
    for number, cut in enumerate(cuts):
        file = tmp_path / f"cut{number}.bdf"
        file.write_bytes(data[:cut])
        left = (cut - begin) // second
        for raw in (mne_raw(file).get_data() * 1e6, Reader(file).samples(0, 10**9)):
            np.testing.assert_allclose(raw, samples[:, : 250 * left], atol=1e-4)
        assert [m.text for m in Reader(file).marks] == ["press", "reply"][: 1 + (left > 2)]
        assert repair(file)
        assert not repair(file)
        strict = edflib(file)
        assert strict.datarecords_in_file == left
        strict.close()


WRITES = """
import sys, time, numpy as np
from pathlib import Path
from device.blocks import Block
from device.recording import Session
session, at, began = Session(sys.argv[1], "cyton"), 0, time.monotonic()
session.start()
while True:
    due = int((time.monotonic() - began) * 250)
    if due > at:
        session.hear([Block(np.full((8, due - at), 1.0, np.float32), at, 250.0, list("abcdefgh"))])
        at = due
        session.mark("press")
        print(at / 250, flush=True)
    time.sleep(0.05)
"""


def test_kill_9_loses_at_most_two_seconds(tmp_path: Path) -> None:
    """The process is gone without a word; what it had said to be heard is on the disk, and opens everywhere."""
    child = subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    heard = 0.0
    while heard < 3.5:
        heard = float(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    (file,) = tmp_path.glob("*.bdf")
    raw, strict = mne_raw(file), edflib(file)
    assert raw.times[-1] >= heard - 2
    assert strict.file_duration >= heard - 2
    assert len(raw.annotations) > 20
    strict.close()


def test_every_second_is_on_the_disk_before_the_next(tmp_path: Path, monkeypatch: Any) -> None:
    """A power cut is no kill: what was not synced is lost. So each record is, with its count in the header before it."""
    seen: list[int] = []
    sync = os.fsync

    def watched(handle: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{handle}")) == tmp_path / "s.bdf":
            seen.append(Reader(tmp_path / "s.bdf").records if seen else 0)
            assert Reader(tmp_path / "s.bdf").whole or len(seen) == 1
        sync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    record(tmp_path / "s.bdf", ramp(4))
    assert seen == [0, 1, 2, 3, 4]


def test_missing_packets_are_filled_with_the_last_value_and_marked(tmp_path: Path) -> None:
    """Time stays true: what came after the gap is where the board's counter says."""
    file, samples = tmp_path / "gap.bdf", ramp(6)
    recorder = Recorder(file, NAMES, 250)
    recorder.take(block(samples[:, :600], 0), 102.4)
    recorder.take(block(samples[:, 850:], 850, gap=True), 106.0)
    recorder.close(106.0)
    ours = Reader(file)
    assert ours.marks == [Mark(2.4, GAP, 1.0)]
    got = ours.samples(0, 1500)
    np.testing.assert_allclose(got[:, 850:], samples[:, 850:], atol=1e-4)
    np.testing.assert_allclose(got[:, 600:850], np.repeat(samples[:, 599:600], 250, axis=1), atol=1e-4)
    assert recorder.missing == 250
    mne = pytest.importorskip("mne")
    epochs = mne.make_fixed_length_epochs(mne_raw(file), 1.0, verbose="error")
    assert len(epochs.get_data(verbose="error")) == 4  # MNE leaves the two that touch the gap out by itself


@pytest.mark.parametrize("first", [0, 1100])
def test_another_connection_goes_on_by_the_clock(tmp_path: Path, first: int) -> None:
    """Unplugged for 10 s: the file's time goes on meanwhile, presses have their place, the counter begins anew, wherever."""
    file, recorder = tmp_path / "again.bdf", Recorder(tmp_path / "again.bdf", NAMES, 250)
    recorder.take(block(ramp(4), 0), 100.0)
    for quarter in range(1, 41):
        recorder.tick(100 + quarter / 4)
        if quarter == 20:
            recorder.mark("press", 105.0)
            assert Reader(file).seconds >= 7  # what happens in a gap is on the disk as well
    recorder.take(block(ramp(2), first, gap=True), 112.0)
    recorder.close(112.0)
    ours = Reader(file)
    assert ours.seconds == 16.0
    assert [(m.text, round(m.onset, 2), round(m.seconds, 2)) for m in ours.marks] == [
        (LOST, 4.0, 0), (GAP, 4.0, 10.0), ("press", 9.0, 0)
    ]  # fmt: skip
    np.testing.assert_allclose(ours.samples(14 * 250, 16 * 250), ramp(2), atol=1e-4)


def test_more_marks_than_a_record_holds_all_arrive(tmp_path: Path) -> None:
    record(tmp_path / "s.bdf", ramp(2), marks=tuple((0.5 + n / 100, f"mark {n} é" + "x" * 200) for n in range(40)))
    texts = [m.text for m in Reader(tmp_path / "s.bdf").marks if m.text != GAP]
    assert [t.split()[1] for t in texts] == [str(n) for n in range(40)]
    assert list(mne_raw(tmp_path / "s.bdf").annotations.description[:2]) == texts[:2]


def test_no_recording_is_overwritten(tmp_path: Path) -> None:
    record(tmp_path / "s.bdf", ramp(1))
    with pytest.raises(BdfError, match="exists already"):
        Recorder(tmp_path / "s.bdf", NAMES, 250)
    with pytest.raises(BdfError, match="can't be written"):
        Recorder(tmp_path / "no" / "s.bdf", NAMES, 250)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "No such file"),
        (b"", "is not a BDF file"),
        (b"0       " + b" " * 300, "is not a BDF file"),
        (b"\xffBIOSEMI" + b"x" * 300, "header is damaged"),
        (b"\xffBIOSEMI" + b" " * 244 + b"9   " + b" " * 100, "header is damaged"),
    ],
)
def test_what_is_no_bdf_is_one_sentence(tmp_path: Path, data: bytes | None, says: str) -> None:
    file = tmp_path / "bad.bdf"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(BdfError, match=r"bad\.bdf") as caught:
        Reader(file)
    assert says in str(caught.value)


def test_another_devices_file_is_read_and_never_repaired(tmp_path: Path) -> None:
    """pyedflib's own BDF+, of millivolts, cut short."""
    pyedflib = pytest.importorskip("pyedflib")
    file = tmp_path / "other.bdf"
    writer = pyedflib.EdfWriter(str(file), 1, file_type=pyedflib.FILETYPE_BDFPLUS)
    limits = {"physical_max": 10.0, "physical_min": -10.0, "digital_max": 2**23 - 1, "digital_min": -(2**23)}
    writer.setSignalHeader(0, {"label": "Cz", "dimension": "mV", "sample_frequency": 100, "prefilter": "", "transducer": "", **limits})
    writer.writeSamples([np.linspace(-5, 5, 300)])
    writer.close()
    read = Reader(file)
    assert (read.names, read.rate) == (["Cz"], 100)
    np.testing.assert_allclose(read.samples(0, 300)[0], np.linspace(-5000, 5000, 300), atol=0.01)
    file.write_bytes(file.read_bytes()[:-7])
    assert not repair(file)


# The companion's own recording -------------------------------------------------------------------


def wait(happened: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_session_begins_another_file_for_another_headset_and_repairs_old_ones(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, logger="bedside")
    record(tmp_path / "eeg-old.bdf", ramp(3))
    (tmp_path / "notes.bdf").write_text("not a recording")
    with (tmp_path / "eeg-old.bdf").open("r+b") as old:
        old.truncate(old.seek(0, 2) - 1)
    session = Session(str(tmp_path), "cyton")
    session.start()
    session.hear([block(ramp(1.5))])
    session.mark("press")
    session.hear([block(ramp(1, 200, 2), 0, 200, ["A", "B"])])
    session.close()
    session.close()
    first, second = sorted(tmp_path.glob("eeg-2*.bdf"), key=lambda f: len(f.name))
    assert ([m.text for m in Reader(first).marks], Reader(second).rate) == (["press", GAP], 200)
    assert Reader(tmp_path / "eeg-old.bdf").whole
    assert len(lines(caplog, "recording repaired=eeg-old.bdf")) == 1
    assert not [t for t in threading.enumerate() if t.name == "recording"]


def test_a_file_ends_when_the_headset_is_gone_for_long(tmp_path: Path, monkeypatch: Any) -> None:
    """A night without a headset is no file of a night; what comes after begins another."""
    monkeypatch.setattr("device.recording.ENDED", 0.5)
    session = Session(str(tmp_path), "cyton")
    session.start()
    session.hear([block(ramp(1.5))])
    wait(lambda: [f for f in tmp_path.glob("*.bdf") if Reader(f).seconds == 2.0])
    session.mark("press")  # nothing is recorded now: it has no place
    session.hear([block(ramp(1))])
    session.close()
    first, second = sorted(tmp_path.glob("*.bdf"), key=os.path.getmtime)
    assert (Reader(first).seconds, Reader(second).seconds) == (2.0, 1.0)
    assert [m.text for m in Reader(second).marks] == []


def test_a_full_disk_ends_the_recording_with_one_line(tmp_path: Path, caplog: Any) -> None:
    """A real file system of 100 KB; what was written before is whole, and whoever records goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        session = Session(str(disk), "cyton")
        session.start()
        for second in range(60):
            session.hear([block(ramp(1), second * 250)])
        wait(lambda: not session.running)
        session.hear([block(ramp(1))])
        session.mark("press")
        session.close()
        (line,) = lines(caplog, "recording stopped=")
        assert "No space left" in line
        (file,) = disk.glob("*.bdf")
        read, strict = Reader(file), edflib(file)
        assert read.whole
        assert 20 < read.seconds < 60
        assert strict.datarecords_in_file == read.seconds
        np.testing.assert_allclose(read.samples(0, 250), ramp(1), atol=1e-4)
        strict.close()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_file_that_may_not_grow_keeps_its_whole_seconds(tmp_path: Path) -> None:
    """The same without root: the limit is in a process of its own."""
    code = "import numpy as np; from pathlib import Path; from datetime import datetime; from device.bdf import *\n" + (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))\n"
        f"w = Writer(Path({str(tmp_path / 's.bdf')!r}), ['a'], 250, 187500, datetime.now())\n"
        "try:\n    [w.add(np.ones((1, 250))) for _ in range(50)]\nexcept BdfError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "File too large" in done.stdout, done.stderr
    assert Reader(tmp_path / "s.bdf").whole
    assert Reader(tmp_path / "s.bdf").seconds == 9


def test_an_unwritable_folder_is_one_line(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    session = Session(str(tmp_path / "file" / "folder"), "cyton")
    session.start()
    wait(lambda: not session.running)
    assert len(lines(caplog, "recording stopped=")) == 1


def test_nothing_is_recorded_unless_asked(tmp_path: Path) -> None:
    for session in (Session("", "cyton"), Session(str(tmp_path / "x"), "none")):
        session.start()
        session.mark("press")
        assert not session.running
    assert not (tmp_path / "x").exists()


def test_events_are_told_without_anybodys_words() -> None:
    session = Session("", "none")
    told: list[str] = []
    session.mark = told.append  # type: ignore[method-assign]
    session.saw(Event.PRESS, State.READY, State.LISTENING)
    session.saw(Event.FIRST_AUDIO, State.THINKING, State.SPEAKING)
    session.saw(Event.CALL, State.SPEAKING, State.ALERTING, "call_someone")
    session.saw(Event.TIMEOUT, State.ALERTING, State.ALERTING, "call_someone")
    assert told == ["press", "reply", "call button", "alert: call_someone"]


@pytest.mark.parametrize("full", [False, True])
def test_the_companion_records_its_session(tmp_path: Path, full: bool, monkeypatch: Any) -> None:
    """The real synthetic board beside a real turn; with a disk that is full the turn is the same."""
    pytest.importorskip("brainflow")
    import anyio

    if full:
        monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    async def turn() -> None:
        folder = tmp_path / "eeg"
        async with bedside(tmp_path, [SPEECH], headset={"board": "synthetic", "record": str(folder)}) as home:
            await until(lambda: list(folder.glob("*.bdf")), "the recording")
            await press(home)
            await until(lambda: State.SPEAKING in home.seen, "the reply")
            await becomes(home, State.READY)
            if full:
                await until(lambda: not home.companion.recording.running, "the end of the recording")

    anyio.run(turn)
    if not full:
        (file,) = (tmp_path / "eeg").glob("*.bdf")
        read = Reader(file)
        told = [m.text for m in read.marks if m.text != GAP]
        assert told[told.index("press") :] == ["press", "release", "reply", "ready"]  # it may begin before the device is ready
        assert len(read.names) == 16
        assert read.samples(0, 250).std() > 1
