"""The headset through BrainFlow's real Cyton driver on a fake one's tty: values, gaps, faults, and coming back.

"Streaming again" here is samples arriving again (Headset.arriving): the electrodes' settling is not waited for.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from device import boards, eeg
from device.bench_headset import memory_mb
from device.boards import HeadsetError, check_libraries
from device.config import Headset as Settings
from device.eeg import Block, Headset, HeadsetState, open_headset
from device.emulator import read_recording
from device.fake_cyton import LSB_UV, FakeCyton

pytest.importorskip("brainflow")

GUI = Path(__file__).parent / "data/eeg/OpenBCI_GUI-v6-blinks-jawClench-alpha.txt"


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return read_recording(GUI)


@pytest.fixture
def port(tmp_path: Path) -> Path:
    return tmp_path / "usb-FTDI_FT231X_USB_UART_DQ0084QN-if00-port0"


@pytest.fixture
def opened(port: Path) -> Iterator[Callable[..., Headset]]:
    """Opens headsets from settings, a Cyton at the port by default, and closes them after the test."""
    headsets: list[Headset] = []

    def start(**settings: object) -> Headset:
        headsets.append(open_headset(Settings.model_validate({"board": "cyton", "port": str(port), **settings})))
        headsets[-1].start()
        return headsets[-1]

    yield start
    for headset in headsets:
        headset.close()


def until(happened: Callable[[], object], seconds: float = 7.0) -> float:
    """Wait for `happened`; fail the test after `seconds`. How long it took."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() < began + seconds, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - began


def collect(headset: Headset, count: int, seconds: float = 7.0) -> list[Block]:
    """Blocks until they hold `count` samples."""
    got: list[Block] = []

    def enough() -> bool:
        got.extend(headset.blocks())
        return sum(block.samples.shape[1] for block in got) >= count

    until(enough, seconds)
    return got


def worst(blocks: list[Block], sent: np.ndarray) -> float:
    """The largest error in LSB against what was recorded at each block's own place on the time line.

    A float32 at 60 mV is good to a tenth of an LSB, so its code is taken, as a recorder would.
    """
    return max(float(np.abs(np.rint(b.samples / LSB_UV) - sent[:, b.first : b.first + b.samples.shape[1]] / LSB_UV).max()) for b in blocks)


@pytest.mark.parametrize(("speed", "samples", "seconds"), [(1.0, 500, 9.0), (20.0, 22_489, 30.0)])
def test_every_sample_is_the_recorded_one(
    opened: Callable[..., Headset], port: Path, recording: np.ndarray, speed: float, samples: int, seconds: float
) -> None:
    """Within half an LSB, in its place, none lost: 2 s at real speed, and all 90 s at 20 times that."""
    with FakeCyton(recording, port, speed):
        headset = opened()
        blocks = collect(headset, samples, seconds)
    assert worst(blocks, recording) <= 0.5
    assert not any(block.gap for block in blocks)
    assert (blocks[0].first, blocks[0].rate, blocks[0].names[:2]) == (0, 250.0, ["Fp1", "Fp2"])
    assert blocks[0].samples.dtype == np.float32
    assert headset.samples_lost == 0


def test_a_daisy_has_sixteen_channels(opened: Callable[..., Headset], port: Path) -> None:
    """Two packages make one sample, the Daisy's half first."""
    sent = np.arange(16)[:, None] * 1000.0 + np.arange(4000) * LSB_UV
    with FakeCyton(sent, port, 4):
        blocks = collect(opened(board="cyton_daisy"), 800)
    assert blocks[0].rate == 125.0
    assert len(blocks[0].names) == 16
    assert worst(blocks, sent) <= 0.5
    assert not any(block.gap for block in blocks)


NOISE = np.random.default_rng(7)
FORGED = b"\xa0\x2a" + b"\x7f\x00\x00" * 8 + bytes(6) + b"\xc0"  # reads as 186 mV in every channel


FAULTS: list[tuple[str, Callable[[FakeCyton], None], int, int]] = [  # and how many samples may be lost, at least and at most
    ("dropped", lambda cyton: cyton.drop(25), 25, 27),  # the two at its edges go with it
    ("corrupted", lambda cyton: cyton.corrupt(3), 3, 5),
    ("forged", lambda cyton: cyton.noise(FORGED), 2, 2),
    ("noise", lambda cyton: cyton.noise(NOISE.bytes(500)), 0, 12),
]


def test_what_is_lost_is_a_gap_and_what_is_noise_does_not_pass(opened: Callable[..., Headset], port: Path, recording: np.ndarray) -> None:
    """Around each fault every sample is the recorded one at its place, so nothing bogus came through, and jumps are gaps."""
    with FakeCyton(recording, port, 4) as cyton:
        headset = opened()
        blocks = collect(headset, 300)
        assert not any(block.gap for block in blocks)
        for name, fault, least, most in FAULTS:
            lost = headset.samples_lost
            fault(cyton)
            new = collect(headset, 700)
            assert least <= headset.samples_lost - lost <= most, name
            assert any(block.gap for block in new) or least == 0, name
            assert worst(new, recording) <= 0.5, name
            blocks += new
        ends = [block.first + block.samples.shape[1] for block in blocks]
        assert [block.gap for block in blocks[1:]] == [block.first != end for block, end in zip(blocks[1:], ends, strict=False)]
        cyton.overrun(1000)
        assert any(block.gap for block in collect(headset, 1200))
        assert cyton.thrown > 0


def test_railed_and_flat_leads_arrive_as_such(opened: Callable[..., Headset], port: Path, recording: np.ndarray) -> None:
    with FakeCyton(recording, port, 4) as cyton:
        cyton.rail(2)
        cyton.flat(5)
        samples = np.concatenate([block.samples for block in collect(opened(), 500)], axis=1)
    assert samples[1].min() == pytest.approx(187_500, abs=1)
    assert np.abs(samples[4]).max() == 0
    np.testing.assert_allclose(samples[0], recording[0, : samples.shape[1]], atol=0.02)


def test_a_window_does_not_span_a_gap(
    opened: Callable[..., Headset], port: Path, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After lost samples the window waits until there are enough since."""
    monkeypatch.setitem(boards.BOARDS, "cyton", boards.Board("CYTON_BOARD", "serial", settle=0.2))
    with FakeCyton(recording, port, 4) as cyton:
        headset = opened()
        until(lambda: headset.window(2.0)[0] is not None)
        assert headset.state is HeadsetState.STREAMING
        cyton.drop(10)
        until(lambda: headset.window(2.0)[0] is None, 2.0)
        window: list[np.ndarray] = []

        def again() -> bool:
            found = headset.window(1.0)[0]
            window.extend([] if found is None else [found])
            return bool(window)

        until(again)
    at = int(np.abs(recording - window[0][:, :1]).sum(axis=0).argmin())
    np.testing.assert_allclose(window[0], recording[:, at : at + 250], atol=0.02)


def test_blocks_that_nobody_asked_for_are_a_gap(opened: Callable[..., Headset], monkeypatch: pytest.MonkeyPatch) -> None:
    """The deque is bounded: a consumer that comes late is told that it missed some."""
    monkeypatch.setattr(eeg, "KEEP_SECONDS", 0.5)
    headset = opened(board="synthetic", port="")
    until(lambda: headset.samples_seen > 200)
    late = headset.blocks()
    assert len(late) == 5
    assert late[0].gap
    assert late[0].first > 0
    assert headset.blocks() == [] or not headset.blocks()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts native threads in /proc")
def test_unplugged_it_is_stale_and_plugged_in_it_comes_back(
    opened: Callable[..., Headset], port: Path, recording: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """Two cycles: stale within 2 s, samples again within 3 s, an idle CPU between, no thread and no memory left over."""
    import brainflow.board_shim  # noqa: F401  (its import may start threads of its own)

    caplog.set_level("INFO", logger="bedside")
    with FakeCyton(recording, port, loop=True) as cyton:
        before = set(os.listdir("/proc/self/task"))
        headset = opened()
        until(lambda: headset.arriving)
        memory = []
        for _ in range(2):
            cyton.unplug()
            assert until(lambda: headset.state is HeadsetState.STALE) < 2.0
            headset.blocks()
            assert "it was unplugged" in headset.reason
            assert headset.window(0.1)[0] is None
            if not memory:
                until(lambda: headset.state is HeadsetState.ABSENT)
                assert "not plugged in" in headset.reason
                burnt, began = time.process_time(), time.monotonic()
                time.sleep(0.5)
                assert (time.process_time() - burnt) / (time.monotonic() - began) < 0.2  # 1.0 while BrainFlow's reader spins
            cyton.replug()
            assert until(lambda: headset.arriving) < 3.0
            first = collect(headset, 50)
            assert [block.gap for block in first] == [True] + [False] * (len(first) - 1)
            memory.append(memory_mb())
        headset.close()
        until(lambda: set(os.listdir("/proc/self/task")) <= before, 1.0)  # a joined thread is gone from there a moment later
        assert not [thread for thread in threading.enumerate() if thread.name == "headset"]
    assert memory[-1] - memory[0] < 2.0
    seen = [record.getMessage().split()[1].split("=")[1] for record in caplog.records]
    again = ["connecting", "settling"]
    assert seen == [*again, "stale", "connecting", "absent", *again, "stale", *again, "absent"]


def test_a_stalled_board_is_stale_and_tried_again(
    opened: Callable[..., Headset], port: Path, recording: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short pause is a gap; a long one is stale; a board that answers but never sends is absent."""
    monkeypatch.setattr(eeg, "FIRST_SAMPLE_SECONDS", 0.5)
    monkeypatch.setattr(eeg, "BACK_OFF", (0.1,))
    with FakeCyton(recording, port, loop=True) as cyton:
        headset = opened()
        blocks = collect(headset, 100)
        cyton.stall()
        time.sleep(0.6)
        cyton.resume()
        blocks += collect(headset, 200)
        assert [block.gap for block in blocks].count(True) == 1
        assert worst(blocks, recording) <= 0.5
        cyton.stall()
        assert until(lambda: headset.state is HeadsetState.STALE) < 2.0
        assert headset.reason == "the headset sent no sample for 1.5 s: is it on, charged and near?"
        until(lambda: headset.state is HeadsetState.ABSENT)
        assert "the headset sent no sample for 0.5 s" in headset.reason


def test_a_board_that_is_off_is_named_and_found_when_it_is_on(opened: Callable[..., Headset], port: Path, recording: np.ndarray) -> None:
    with FakeCyton(recording, port) as cyton:
        cyton.switch_off()
        headset = opened()
        until(lambda: "is it switched on and charged?" in headset.reason, 4.0)
        assert headset.state is HeadsetState.ABSENT
        cyton.switch_on()
        until(lambda: headset.arriving, 5.0)


def test_a_port_that_another_has_open_is_refused_by_whatever_name(
    opened: Callable[..., Headset], port: Path, recording: np.ndarray, tmp_path: Path
) -> None:
    """A second reader would steal the first one's samples: it is refused, and the first goes on."""
    with FakeCyton(recording, port):
        other = os.open(os.path.realpath(port), os.O_RDWR | os.O_NOCTTY)
        fcntl.flock(other, fcntl.LOCK_EX)
        headset = opened()
        until(lambda: "is open in another program or headset" in headset.reason)
        assert headset.state is HeadsetState.ABSENT
        os.close(other)
        until(lambda: headset.arriving)
        second = opened(port=os.path.realpath(port))
        until(lambda: "another headset is still open" in second.reason)
        headset.blocks()
        assert not any(block.gap for block in collect(headset, 100))


def test_channels_are_named_by_the_config(opened: Callable[..., Headset]) -> None:
    names = [f"E{i}" for i in range(16)]
    headset = opened(board="synthetic", port="", channels=names)
    until(lambda: headset.arriving)
    assert headset.window(0.0)[2] == names
    headset.close()
    for wrong, sentence in ((names[:3], "has 3 names, but synthetic has 16"), (["Fz"] * 16, "names a channel twice")):
        headset = opened(board="synthetic", port="", channels=wrong)
        until(lambda headset=headset, sentence=sentence: sentence in headset.reason)  # type: ignore[misc]


def test_a_library_for_another_processor_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BrainFlow's wheel installs on a Jetson and holds x86-64 libraries alone."""
    folder = Path(__import__("brainflow").__file__).parent / "lib"
    check_libraries(folder, "libsimpleble-c.so")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(HeadsetError, match=r"libBoardController\.so is for x86_64, this processor is aarch64: build BrainFlow"):
        check_libraries(folder)
    with pytest.raises(HeadsetError, match=r"has no libBoardController\.so for aarch64: build .*BuildBrainFlow\.html"):
        check_libraries(tmp_path)
    (tmp_path / "libBoardController.so").write_bytes(b"\x7fELF" + bytes(14) + b"\xb7\x00")
    with pytest.raises(HeadsetError, match=r"has no libsimpleble-c\.so for aarch64: .* with Bluetooth \(--ble\)"):
        check_libraries(tmp_path, "libsimpleble-c.so")


def test_a_driver_that_can_not_be_loaded_is_a_reason_not_a_crash(opened: Callable[..., Headset], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    headset = opened(board="synthetic", port="")
    until(lambda: "this processor is aarch64" in headset.reason)
    assert headset.state is HeadsetState.ABSENT
