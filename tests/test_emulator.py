"""The fake Cyton without a driver: what a technician types, which recordings it reads, the bytes it sends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from device.config import FIRMWARE
from device.emulator import EmulatorFault, Fault, emulate, parse_fault, read_recording
from device.fake_cyton import FULL_SCALE, LSB_UV, FakeCyton, packages

GUI = Path(__file__).parent / "data/eeg/OpenBCI_GUI-v6-blinks-jawClench-alpha.txt"
CSV = FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("unplug@10", Fault("unplug", 0, 10.0)),
        ("drop:25@3.5", Fault("drop", 25, 3.5)),
        ("drop@2", Fault("drop", 1, 2.0)),
        ("noise", Fault("noise", 500, 0.0)),
        (" rail:2\n", Fault("rail", 2, 0.0)),
    ],
)
def test_a_fault_is_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "write it like unplug@10"),
        ("unplug@", "write it like unplug@10"),
        ("drop:-1", "write it like unplug@10"),
        ("explode@3", "there are unplug, replug, stall"),
        ("unplug:3@1", "takes no number"),
        ("rail@1", "needs a channel, like rail:2"),
        ("flat:9", "channels 1 to 8"),
    ],
)
def test_a_fault_that_is_none_says_what_would_be(text: str, sentence: str) -> None:
    with pytest.raises(EmulatorFault, match=sentence):
        parse_fault(text)


def test_both_kinds_of_recording_are_the_same_samples() -> None:
    """The packaged CSV was made from the GUI's recording."""
    gui, csv = read_recording(GUI), read_recording(CSV)
    assert gui.shape == (8, 22_490)
    np.testing.assert_array_equal(gui[:, :3].T[0], [61379.36, 49492.89, -16597.06, -21309.75, 6703.91, -3284.86, 7223.10, 1740.11])
    np.testing.assert_allclose(gui, csv, atol=0.01)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no samples"),
        (b"\xff\xfe\x00", "it is not text"),
        (b"1,2,3\n", "has 3 columns"),
        (b"%Number of channels = 4\n0, 1, 2, 3, 4\n", "has 4 channels"),
        (b"%Number of channels = 8\n%Sample Rate = 200 Hz\n0,1,2,3,4,5,6,7,8\n", "was sampled at 200 Hz"),
        (b"%Number of channels = 8\n0,1,2,3,4,5,6,seven,8\n", "seven"),
        (b"%Number of channels = 8\n0,1,2,3,4,5,6,nan,8\n", "a sample that is no number"),
    ],
)
def test_a_recording_that_can_not_be_played_says_why(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(EmulatorFault, match=sentence):
        read_recording(file)
    with pytest.raises(EmulatorFault, match="No such file"):
        read_recording(tmp_path / "none.txt")


def test_what_can_not_be_emulated_is_said_before_anything_is_made(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    for link, speed, faults, sentence in (
        (taken, 1.0, [], "is no link"),
        (tmp_path / "port", 41.0, [], "between 0 and 40"),
        (tmp_path / "port", 1.0, ["melt"], "'melt' is no fault"),
        (tmp_path / "nowhere" / "port", 1.0, [], "can't be made"),
    ):
        with pytest.raises(EmulatorFault, match=sentence):
            emulate(CSV, link, speed, faults)
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]


def test_a_package_is_openbcis() -> None:
    """The worked example of its page: A0, number, big-endian 24 bits, C0; the number goes round after 255."""
    codes = np.tile(np.array([[0x7FFFFF, -0x800000, -1]]), (8, 1))
    first, second, third = packages(codes, 255)
    assert bytes(first[:5]) == b"\xa0\xff\x7f\xff\xff"
    assert bytes(second[:5]) == b"\xa0\x00\x80\x00\x00"
    assert bytes(third[2:26]) == b"\xff" * 24
    assert first[32] == 0xC0


def test_a_late_reader_loses_nothing_unless_an_overrun_is_asked_for(tmp_path: Path) -> None:
    """40 times real time for 0.2 s is four times what a tty holds, and nobody reads meanwhile."""
    ramp = np.tile(np.arange(2000) * LSB_UV, (8, 1))
    wanted = packages(np.tile(np.arange(2000), (8, 1)), 0).tobytes()
    with FakeCyton(ramp, tmp_path / "port", 40, loop=True) as cyton:
        reader = os.open(tmp_path / "port", os.O_RDWR | os.O_NOCTTY)
        os.write(reader, b"b")
        time.sleep(0.2)
        data = b""
        while len(data) < len(wanted) // 2:
            data += os.read(reader, 1000)
        assert data == wanted[: len(data)]
        assert cyton.thrown == 0
        deadline = time.monotonic() + 10
        cyton.overrun(20_000)  # 660 kB at once: more than a tty and the kernel's queue before it hold together, however empty
        while cyton.thrown == 0 and time.monotonic() < deadline:
            os.read(reader, 1000)
            time.sleep(0.005)  # a reader without a pause keeps up with it now and then, and nothing is lost
        assert cyton.thrown > 0
        os.close(reader)


def test_a_technician_types_faults(tmp_path: Path) -> None:
    """The function as the command runs it: the link comes, goes and comes again; Ctrl-C ends it cleanly."""
    link = tmp_path / "port"
    code = "import sys; from pathlib import Path as P; from device.emulator import emulate"
    code += "; emulate(P(sys.argv[1]), P(sys.argv[2]), 1, ['rail:2@0.1'])"
    command = [sys.executable, "-c", code, str(CSV), str(link)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert "90 s of cyton-eyes-open-closed.csv is plugged in" in said[0]
        assert "rail:2" in said[2]
        for typed, there in (("unplug\n", False), ("nonsense\n", False), ("replug\n", True)):
            process.stdin.write(typed)
            process.stdin.flush()
            said.append(process.stdout.readline())
            assert link.exists() is there
        assert "'nonsense' is no fault" in said[4]
        process.send_signal(2)
        assert process.wait(5) == 0
    assert not link.is_symlink()


def test_a_lead_sticks_and_is_mended(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="channels 1 to 8"):
        FakeCyton(np.zeros((8, 1)), tmp_path / "port").rail(9)
    with pytest.raises(ValueError, match="8 channels, or 16"):
        FakeCyton(np.zeros((4, 9)), tmp_path / "port")
    assert round(FULL_SCALE * LSB_UV) == 187_500
