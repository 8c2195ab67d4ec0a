"""The headset over BrainFlow's real playback and synthetic boards; it knows no physical headset."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from device.config import FIRMWARE
from device.config import Headset as Settings
from device.eeg import Headset, HeadsetError, HeadsetState, check_recording, open_headset

pytest.importorskip("brainflow")

RECORDING = FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv"
CYTON = ["Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"]


@pytest.fixture
def opened() -> Iterator[Callable[..., Headset]]:
    """Opens headsets from settings, and closes them after the test."""
    headsets: list[Headset] = []

    def start(**settings: str) -> Headset:
        headsets.append(open_headset(Settings.model_validate(settings)))
        headsets[-1].start()
        return headsets[-1]

    yield start
    for headset in headsets:
        headset.close()


def until(happened: Callable[[], bool], seconds: float = 7.0) -> None:
    """Wait for `happened`; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def rows(count: int, columns: int = 24, step: float = 0.004) -> list[list[float]]:
    """A small recording in the Cyton's layout: a counter in every channel, times from 1 s."""
    lines = [[float(i)] * columns for i in range(count)]
    for i, line in enumerate(lines):
        line[-2] = 1 + i * step
    return lines


def write(file: Path, lines: list[list[float]], mark: str = "\t") -> Path:
    file.write_text("".join(mark.join(f"{v:.3f}" for v in line) + "\n" for line in lines))
    return file


def test_playback_streams_the_real_recording(opened: Callable[..., Headset]) -> None:
    """Two seconds of the playback board are two consecutive seconds of the file."""
    headset = opened(board="playback", file=str(RECORDING))
    until(lambda: headset.window(2.0)[0] is not None)
    window, rate, names = headset.window(2.0)
    assert (rate, names) == (250.0, CYTON)
    assert (headset.state, headset.reason) == (HeadsetState.STREAMING, "")
    assert window is not None
    assert window.shape == (8, 500)
    assert window.dtype == np.float32
    assert headset.samples_seen >= 500
    recorded = np.loadtxt(RECORDING, usecols=range(1, 9), max_rows=5000).T
    distance = np.abs(recorded - window[:, :1]).max(axis=0)
    begin = int(distance.argmin())
    np.testing.assert_allclose(window, recorded[:, begin : begin + 500], atol=0.01)


def test_states_are_logged_once_each(
    opened: Callable[..., Headset], caplog: pytest.LogCaptureFixture
) -> None:
    """A synthetic board goes connecting, settling, streaming, and absent at the close."""
    caplog.set_level(logging.INFO, logger="bedside")
    headset = opened(board="synthetic")
    until(lambda: headset.window(0.5)[0] is not None)
    window, rate, names = headset.window(0.5)
    assert window is not None
    assert window.shape == (16, 125)
    assert len(names) == 16
    assert rate == 250.0
    assert window.std() > 0
    headset.close()
    assert (headset.state, headset.window(0.5)[0]) == (HeadsetState.ABSENT, None)
    assert "closed" in headset.reason
    seen = [record.getMessage().split()[1] for record in caplog.records]
    assert seen == ["state=connecting", "state=settling", "state=streaming", "state=absent"]


def test_no_headset_is_absent_and_starts_nothing(opened: Callable[..., Headset]) -> None:
    """Without a headset there is no thread, no signal, and a sentence that says so."""
    before = threading.active_count()
    headset = opened(board="none")
    assert threading.active_count() == before
    assert (headset.state, headset.reason) == (HeadsetState.ABSENT, "no headset is configured.")
    assert headset.window(1.0) == (None, 0.0, [])
    assert headset.samples_seen == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"board": "playback", "file": "nowhere.csv"}, "nowhere.csv: No such file"),
        ({"board": "playback", "file": str(FIRMWARE / "eeg" / "LICENSE")}, "columns, not 24"),
        ({"board": "playback"}, "headset.file is empty"),
        ({"board": "cyton"}, "headset.port is empty"),
        ({"board": "cyton", "port": "/dev/no-such-port"}, "not plugged in: there is no /dev/no-such-port"),
        ({"board": "cyton", "port": "/dev/null"}, "not a serial port"),
    ],
)
def test_an_unreachable_headset_is_absent_with_its_reason(
    opened: Callable[..., Headset], settings: dict[str, str], sentence: str
) -> None:
    """What can't be read is absent, says why, and raises nothing."""
    headset = opened(**settings)
    until(lambda: sentence in headset.reason)
    assert headset.state is HeadsetState.ABSENT
    assert headset.window(1.0)[0] is None


def test_a_recording_that_appears_later_is_played(
    opened: Callable[..., Headset], tmp_path: Path
) -> None:
    """Retries go on while absent."""
    file = tmp_path / "later.csv"
    headset = opened(board="playback", file=str(file))
    until(lambda: "No such file" in headset.reason)
    write(file, rows(500))
    until(lambda: headset.state is HeadsetState.STREAMING)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts native threads in /proc")
def test_close_leaves_no_thread_and_no_session(opened: Callable[..., Headset]) -> None:
    """After close neither our thread nor BrainFlow's is left, and the same board opens again."""
    import brainflow.board_shim  # noqa: F401  (its import may start threads of its own)

    before = set(os.listdir("/proc/self/task"))  # an earlier test's may end meanwhile
    first = opened(board="synthetic")
    until(lambda: first.samples_seen > 0)
    assert set(os.listdir("/proc/self/task")) - before
    first.close()
    first.close()
    until(lambda: set(os.listdir("/proc/self/task")) <= before, 1.0)  # a joined thread is gone a moment later
    assert not [t for t in threading.enumerate() if t.name == "headset"]
    second = opened(board="synthetic")
    until(lambda: second.samples_seen > 0)


def test_a_second_headset_does_not_kill_the_first(opened: Callable[..., Headset]) -> None:
    """The second waits, absent; the first's samples keep coming; then the second has its turn."""
    first = opened(board="synthetic")
    until(lambda: first.samples_seen > 0)
    second = opened(board="synthetic")
    until(lambda: "another headset is still open" in second.reason)
    already = first.samples_seen
    until(lambda: first.samples_seen > already + 50)
    first.close()
    until(lambda: second.samples_seen > 0)


@pytest.mark.parametrize("mark", ["\t", ","])
def test_recordings_that_brainflow_can_play_pass(tmp_path: Path, mark: str) -> None:
    """Tabs and commas both pass."""
    check_recording(write(tmp_path / "good.csv", rows(10), mark), 24, 22)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\x00\xff\xfe\x80 not text", "is not text"),
        (b"%OpenBCI Raw EXG Data\n", "line 1: 1 columns, not 24"),
        ("\t".join(["Fp1"] * 24).encode() + b"\n", "line 1: could not convert string to"),
        (b"1\t2\t3\n", "line 1: 3 columns, not 24"),
        (("\t".join(["1"] * 24) + "\n").encode() * 5, "the times in column 23 don't rise"),
    ],
)
def test_recordings_that_brainflow_would_stream_as_silence_are_named(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    """Each way to be wrong has its own sentence, with the file's name in it."""
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    with pytest.raises(HeadsetError, match=r"bad\.csv") as caught:
        check_recording(file, 24, 22)
    assert sentence in str(caught.value)
