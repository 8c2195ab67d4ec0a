"""`bedside eeg …` as a technician meets it: in a process of its own on the real synthetic board, and in a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_cli import bedside, imported, sentence

from device.__main__ import main
from device.bdf import Reader
from device.blocks import Block
from device.config import FIRMWARE
from device.eeg_quality import Channel
from device.eeg_table import ADVICE, Table, lines
from device.quiet import load
from device.recording import GAP
from device.sounds import texts

ROOT = Path(__file__).parent.parent
CYTON = FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv"
NAMES = ["Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"]
RATE = 250


@pytest.fixture(scope="module")
def cyton() -> np.ndarray:
    return np.loadtxt(CYTON, usecols=range(1, 9)).T.astype(np.float32)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 s of the synthetic board, by the command itself."""
    pytest.importorskip("brainflow")
    file = tmp_path_factory.mktemp("eeg") / "session.bdf"
    done = bedside("eeg", "record", str(file), "--board", "synthetic", "--seconds", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{file}: 5.0 s, 16 channels at 250 Hz\n"
    return file


def test_help_needs_nothing_heavy() -> None:
    code = "from device.__main__ import main\ntry: main(['eeg', '--help'])\nexcept SystemExit: pass"
    assert imported(code, "numpy", "brainflow", "matplotlib", "pydantic", "device.eeg") == []


def test_what_was_recorded_is_what_the_board_sends(recorded: Path) -> None:
    read = Reader(recorded)
    assert (read.seconds, read.rate, len(read.names), read.marks) == (5.0, 250, 16, [])
    wave = read.samples(0, 1250)[0]  # BrainFlow's synthetic Fz: 5 Hz
    spectrum = np.abs(np.fft.rfft(wave - wave.mean()))
    assert np.fft.rfftfreq(1250, 1 / 250)[spectrum.argmax()] == 5.0


def test_ctrl_c_ends_a_recording_well(tmp_path: Path) -> None:
    pytest.importorskip("brainflow")
    file = tmp_path / "s.bdf"
    command = [sys.executable, "-m", "device", "eeg", "record", str(file), "--board", "synthetic"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (file.exists() and file.stat().st_size > 20_000):
        assert time.monotonic() < deadline, "nothing was recorded"
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=15)
    assert (child.returncode, err) == (0, "")
    assert "16 channels at 250 Hz" in out
    assert Reader(file).whole


def test_a_signal_never_cuts_the_second_that_is_being_written(sitting: Any, cyton: np.ndarray, tmp_path: Path, monkeypatch: Any) -> None:
    """Ctrl-C just between a record and its count in the header."""
    sitting(cyton)
    write = os.pwrite

    def interrupted(handle: int, data: bytes, at: int) -> int:
        if data.startswith(b"3"):
            os.kill(os.getpid(), signal.SIGINT)
        return write(handle, data, at)

    monkeypatch.setattr(os, "pwrite", interrupted)
    assert main(["eeg", "record", str(tmp_path / "s.bdf"), "--board", "synthetic"]) == 0
    assert Reader(tmp_path / "s.bdf").whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_more_than_was_asked_is_recorded(sitting: Any, cyton: np.ndarray, tmp_path: Path) -> None:
    """Several blocks come at once, and the end lies within the first of them."""
    sitting()
    blocks = [Block(cyton[:, at : at + 100], at, RATE, NAMES) for at in range(0, 3000, 100)]
    played = Played(cyton)
    played.blocks = lambda: blocks  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("device.eeg.open_headset", lambda _: played)
        assert main(["eeg", "record", str(tmp_path / "s.bdf"), "--board", "synthetic", "--seconds", "5"]) == 0
    read = Reader(tmp_path / "s.bdf")
    assert (read.seconds, read.marks) == (5.0, [])


def test_replay_shows_the_recording_at_its_own_speed(recorded: Path) -> None:
    began = time.monotonic()
    done = bedside("eeg", "replay", str(recorded), "--seconds", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began > 4
    tables = done.stdout.strip().split("\n\n")
    assert [table.splitlines()[0].split(",")[0] for table in tables] == [f"session.bdf: {n} of 5 s" for n in range(1, 5)]
    assert "waiting" in tables[2]
    assert re.search(r"\nFz +10\.\d µV  █+░+  clean\n", tables[3] + "\n")
    assert all(len(line) <= 79 for line in done.stdout.splitlines())


def test_a_brainflow_recording_is_replayed_through_the_playback_board() -> None:
    pytest.importorskip("brainflow")
    done = bedside("eeg", "replay", str(CYTON), "--seconds", "1.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "playback: streaming" in done.stdout
    assert re.search(r"^Fp1 ", done.stdout, re.M)


def test_the_table_covers_itself_in_a_terminal(recorded: Path) -> None:
    """80 columns, as SSH gives: each table moves up over the last, and no line wraps."""
    leader, follower = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "24"], stdin=follower, check=True)
    command = [sys.executable, "-m", "device", "eeg", "replay", str(recorded), "--speed", "20"]
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    environment.pop("NO_COLOR", None)
    environment.pop("COLUMNS", None)
    child = subprocess.Popen(command, cwd=ROOT, stdout=follower, stderr=follower, stdin=follower, env=environment)
    os.close(follower)
    seen, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([leader], [], [], 0.1)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the terminal is closed with its last user
                break
    assert child.wait(10) == 0
    os.close(leader)
    text = seen.decode()
    assert text.count("\x1b[17A\x1b[J") == 4
    assert "\x1b[32mFz" in text
    assert "\x1b[33m" in text
    bare = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    assert max(len(line) for line in bare.split("\r\n")) <= 79


@pytest.mark.parametrize("fault", ["", "missing", "railed", "flat", "no contact", "mains", "moving", "muscle", "waiting"])
def test_every_fault_has_its_advice_and_no_line_is_too_wide(fault: str) -> None:
    assert fault in ADVICE
    for width in (79, 40):
        for line in lines("title " * 30, [Channel("a very long name", fault)], [1e6], width, False):
            assert len(line) <= width


def test_the_table_names_the_fault_of_each_channel(cyton: np.ndarray, capsys: Any) -> None:
    """A real wearer with eyes closed: one channel railed, one flat, one that moves, and after a gap it waits again."""
    part = cyton[:, 40 * RATE : 46 * RATE].copy()
    part[0], part[1] = 187_500, 5.0
    part[2] += 150 * np.sin(2 * np.pi * 1.5 * np.arange(part.shape[1]) / RATE).astype(np.float32)
    table = Table(sys.stdout, 187_500)
    table.hear(Block(part, 0, RATE, NAMES))
    table.draw("cyton")
    table.hear(Block(part[:, :300], 9000, RATE, NAMES, gap=True))
    table.draw("cyton")
    first, second = capsys.readouterr().out.strip().split("\n\n")
    words = {line.split()[0]: line for line in first.splitlines()[1:]}
    for name, word in (("Fp1", "railed"), ("Fp2", "flat"), ("C3", "moving"), ("O1", "clean"), ("P7", "clean")):
        assert f"  {word}" in words[name], words[name]
    assert "5 of 8 channels clean" in first
    assert second.count("waiting") == 8


class Played:
    """A headset that gives a recording, faster than it was: 1 s with each look, and a gap at second `gap`."""

    def __init__(self, samples: np.ndarray, gap: int = -1) -> None:
        self.samples, self.at, self.gap = samples, 0, gap
        self.state, self.reason = SimpleNamespace(value="streaming"), ""

    def start(self) -> None: ...
    def close(self) -> None: ...

    def blocks(self) -> list[Block]:
        second, self.at = self.at, self.at + 1
        part = self.samples[:, second * RATE : (second + 1) * RATE]
        return [Block(part, second * RATE, RATE, NAMES, second == self.gap)] if part.shape[1] else []


@pytest.fixture
def sitting(cyton: np.ndarray, tmp_path: Path, monkeypatch: Any) -> Any:
    """(settings file, a function that puts a played headset in place of the real one); looks take no time."""
    settings = tmp_path / "s.toml"
    settings.write_text(f'[headset]\nboard = "synthetic"\n[memory]\nfile = "{tmp_path}/state/memory.db"\n')
    monkeypatch.setattr("device.eeg_live.LOOK", 0.001)
    once = cyton[:, 19 * RATE : 27 * RATE]
    opened = np.tile(np.concatenate([once, once[:, ::-1]], axis=1), 4)[:, : 60 * RATE]
    closed = cyton[:, 29 * RATE : 73 * RATE]
    session = np.concatenate([opened[:, :RATE], opened, closed], axis=1)

    def play(samples: np.ndarray = session, gap: int = -1) -> Path:
        monkeypatch.setattr("device.eeg.open_headset", lambda _: Played(samples, gap))
        return settings

    return play


def test_a_baseline_is_led_kept_and_says_what_alpha_did(sitting: Any, tmp_path: Path, capsys: Any) -> None:
    assert main(["eeg", "baseline", "--silent", "--config", str(sitting())]) == 0
    out = capsys.readouterr().out.splitlines()
    words = texts(FIRMWARE / "sounds")
    assert (out[0], out[2], out[4]) == (words["quiet_open"], words["quiet_closed"], words["quiet_done"])
    assert (out[1].split(",")[0], out[3].split(",")[0]) == ("Eyes OPEN", "Eyes CLOSED")
    assert re.fullmatch(r"Alpha reactivity: seen \([1-9]\.\d+ times\): more alpha with eyes closed, as it should be\.", out[5])
    file = tmp_path / "state" / "eeg-baseline.json"
    baseline = load(file)
    assert baseline.seen
    assert abs(baseline.made - time.time()) < 60
    assert file.stat().st_size < 20_000
    assert file.stat().st_mode & 0o077 == 0


def test_a_baseline_without_clean_signal_or_with_a_gap_is_not_kept(sitting: Any, cyton: np.ndarray, tmp_path: Path, capsys: Any) -> None:
    railed = np.full((8, 100 * RATE), 187_500, np.float32)
    assert main(["eeg", "baseline", "--silent", "--config", str(sitting(railed))]) == 1
    assert re.search(r"no baseline: 0 of 5\d windows were clean, 30 are needed \(Fp1 railed 5\d,.*eeg quality", capsys.readouterr().err)
    assert main(["eeg", "baseline", "--silent", "--config", str(sitting(gap=20))]) == 1
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_baseline_that_is_skipped_leaves_the_older_one(sitting: Any, tmp_path: Path, monkeypatch: Any) -> None:
    words = ["eeg", "baseline", "--silent", "--config", str(sitting())]
    assert main(words) == 0
    file = tmp_path / "state" / "eeg-baseline.json"
    before = file.read_bytes()

    def interrupted(played: Played) -> list[Block]:
        if played.at == 30:
            os.kill(os.getpid(), signal.SIGINT)
        return blocks(played)

    blocks = Played.blocks
    monkeypatch.setattr(Played, "blocks", interrupted)
    assert main(words) == 130
    assert file.read_bytes() == before


def test_a_gap_while_recording_is_marked_and_told(sitting: Any, cyton: np.ndarray, tmp_path: Path, capsys: Any) -> None:
    file, played = tmp_path / "s.bdf", Played(cyton)
    sitting()
    skipped = np.delete(np.arange(20), [8, 9, 10])  # seconds that never came
    played.blocks = lambda: [Block(cyton[:, s * RATE : (s + 1) * RATE], int(s) * RATE, RATE, NAMES) for s in skipped]  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("device.eeg.open_headset", lambda _: played)
        assert main(["eeg", "record", str(file), "--seconds", "20", "--board", "synthetic"]) == 0
    assert "3.0 s of it without signal" in capsys.readouterr().out
    assert [(m.text, m.onset, m.seconds) for m in Reader(file).marks] == [(GAP, 8.0, 3.0)]
    np.testing.assert_allclose(Reader(file).samples(11 * RATE, 12 * RATE), cyton[:, 11 * RATE : 12 * RATE], atol=0.0224)


def test_report_is_a_command(recorded: Path, tmp_path: Path, capsys: Any) -> None:
    shorter = main(["eeg", "report", str(recorded)])
    assert (shorter, "needs 10 s" in capsys.readouterr().err) == (1, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["record", "s.bdf"], "no headset is configured: set headset.board"),
        (["quality", "--board", "cyton"], "needs its serial port: set headset.port"),
        (["quality", "--board", "nonsense"], "headset.board = 'nonsense'"),
        (["record", "README.md", "--board", "synthetic"], "a recording's name ends in .bdf"),
        (["record", "nowhere/s.bdf", "--board", "synthetic"], "no folder that may be written to"),
        (["record", "s.bdf", "--board", "synthetic", "--seconds", "-1"], "a number above 0"),
        (["replay", "nowhere.bdf"], "nowhere.bdf: No such file"),
        (["replay", "nowhere.csv"], "nowhere.csv: No such file"),
        (["replay", "README.md"], "is not text. It must be a BrainFlow recording"),
        (["replay", str(CYTON), "--speed", "2"], "--speed is for BDF recordings"),
        (["report", "README.md"], "is not a BDF file"),
        (["report", "README.md", "--quiet", "now"], "give seconds of the recording, such as 0-60"),
        (["report", "README.md", "--out", "page.pdf"], "ends in .html or .png"),
        (["baseline", "--board", "synthetic", "--open", "1"], "needs 10 s with eyes open"),
        (["emulate", "nowhere.csv", "--link", "x"], "no such recording"),
        (["emulate", str(CYTON), "--link", "x", "--speed", "99"], "0 to 40"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], says: str, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["eeg", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bedside: ")
    assert says in line


def test_an_existing_recording_is_kept(recorded: Path) -> None:
    before = recorded.read_bytes()
    assert "exists already" in sentence(bedside("eeg", "record", str(recorded), "--board", "synthetic", "--seconds", "1"))
    assert recorded.read_bytes() == before


def test_emulate_calls_the_emulator(monkeypatch: Any, tmp_path: Path) -> None:
    asked: list[Any] = []
    module = types.ModuleType("device.emulator")
    module.emulate = lambda *words: asked.append(words) or 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "device.emulator", module)
    words = ["eeg", "emulate", str(CYTON), "--link", str(tmp_path / "tty"), "--speed", "4", "--fault", "stall@5", "--fault", "noise@9"]
    assert main(words) == 3
    assert asked == [(CYTON, tmp_path / "tty", 4.0, ["stall@5", "noise@9"])]


def test_from_baseline_and_record_to_report_by_commands_alone(sitting: Any, tmp_path: Path, capsys: Any) -> None:
    """From record to report by commands alone, with the baseline of the same sitting."""
    settings = sitting()
    assert main(["eeg", "baseline", "--silent", "--config", str(settings)]) == 0
    sitting()
    file = tmp_path / "s.bdf"
    assert main(["eeg", "record", str(file), "--seconds", "30", "--config", str(settings)]) == 0
    assert main(["eeg", "report", str(file), "--config", str(settings)]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1]).read_text(encoding="utf-8")
    assert "Relative to the quiet baseline of" in page
    assert "alpha reactivity: seen" in page
    assert json.loads((tmp_path / "state" / "eeg-baseline.json").read_text())["windows"] >= 30
