"""The report of a recording with known stretches; it knows no headset. What it looks like was looked at."""

from __future__ import annotations

import base64
import io
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from device import judge
from device.bdf import BdfError, Reader
from device.blocks import Block
from device.config import FIRMWARE
from device.judge import BaselineError
from device.recording import GAP, Recorder
from device.report import NOT, ReportError, figures, report
from device.review import VERDICTS, choose_baseline, powers, review

NAMES = ["Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"]
RATE = 250
CLOSED, OPEN, BLINKS = (29, 73), (19, 27), (3, 7)  # seconds of the recording (firmware_config/eeg/README.md)


@pytest.fixture(scope="module")
def cyton() -> np.ndarray:
    return np.loadtxt(FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv", usecols=range(1, 9)).T.astype(np.float32)


@pytest.fixture(scope="module")
def session(cyton: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 s quiet, 4 s of blinks, 10 s lost, 30 s quiet with O1 railed; a press, a reply and an alert."""
    file = tmp_path_factory.mktemp("report") / "session.bdf"
    railed = cyton[:, CLOSED[0] * RATE : (CLOSED[0] + 30) * RATE].copy()
    railed[6] = 187_500
    recorder = Recorder(file, NAMES, RATE, "cyton")
    quiet, blinks = (cyton[:, a * RATE : b * RATE] for a, b in (CLOSED, BLINKS))
    recorder.take(Block(quiet, 0, RATE, NAMES), 44)
    recorder.mark("press", 44)
    recorder.take(Block(blinks, 44 * RATE, RATE, NAMES), 48)
    recorder.mark("reply", 48)
    for second in range(50, 59):
        recorder.tick(second)
    recorder.take(Block(railed, 0, RATE, NAMES, True), 88)
    recorder.mark("alert: <call_someone>", 88)
    recorder.close(88)
    return file


def test_each_second_has_its_verdict_and_a_gap_is_blank(session: Path) -> None:
    recording = Reader(session)
    seen = review(recording, *choose_baseline(recording, None, None, (0, 44)))
    verdicts = np.array(VERDICTS)[seen.verdicts]
    assert seen.seconds == 89
    assert (verdicts[:, :3] == "waiting").all()
    assert (verdicts[:, 3:44] == "clean").mean() > 0.95
    assert (verdicts[:2, 45:48] == "moving").all()  # blinks, at Fp1 and Fp2
    assert (verdicts[:, 48:58] == "no signal").all()
    assert (verdicts[6, 61:88] == "railed").all()
    assert (verdicts[:, 88] == "no signal").all()  # filled up, for the mark of the last moment
    assert np.isfinite(seen.relaxation[3:44]).mean() > 0.9
    assert np.isnan(seen.relaxation[45:61]).all()  # blinks, gap, and the window that fills again
    assert np.isfinite(seen.relaxation[61:88]).mean() > 0.9
    assert np.isnan(seen.engagement).all()
    assert abs(np.nanmedian(seen.relaxation)) < 0.15  # against itself
    assert "seconds 0 to 44" in seen.reference


def test_without_a_baseline_nothing_is_said(session: Path) -> None:
    recording = Reader(session)
    seen = review(recording, *choose_baseline(recording, None, session.with_name("none.json"), None))
    assert np.isnan(seen.relaxation).all()
    assert "No quiet baseline" in seen.reference
    assert figures(seen)[2][:2] == ("0%", "of the time relaxation was estimated")
    assert seen.usable() > 0.7


def test_a_stored_baseline_counts_only_for_its_own_sitting(session: Path, cyton: np.ndarray, tmp_path: Path) -> None:
    file, recording = tmp_path / "baseline.json", Reader(session)
    quiet = cyton[:, CLOSED[0] * RATE : CLOSED[1] * RATE]
    judge.save(file, judge.learn(quiet, quiet[:, :0], RATE, NAMES, 187_500), "cyton", RATE)
    baseline, reference = choose_baseline(recording, None, file, None)
    assert baseline is not None
    assert "not judged" in reference
    tree = json.loads(file.read_text())
    file.write_text(json.dumps(tree | {"made": (datetime.now() - timedelta(days=1)).isoformat()}))
    assert choose_baseline(recording, None, file, None)[0] is None
    assert choose_baseline(recording, file, None, None)[0] is not None  # asked for by name
    with pytest.raises(BaselineError, match="longer quiet stretch"):
        choose_baseline(recording, None, None, (44, 60))


def test_alpha_reactivity_of_a_real_wearer_is_seen_and_of_noise_is_not(cyton: np.ndarray, tmp_path: Path) -> None:
    """The recording has 8 quiet seconds with eyes open; to make a minute they are repeated, forth and back so that no edge jumps."""
    once = cyton[:, OPEN[0] * RATE : OPEN[1] * RATE]
    opened = np.tile(np.concatenate([once, once[:, ::-1]], axis=1), 4)
    learnt = judge.learn(opened, cyton[:, CLOSED[0] * RATE : CLOSED[1] * RATE], RATE, NAMES, 187_500)
    assert learnt.baseline.ready
    assert learnt.seen
    assert max(learnt.ratios["O1"], learnt.ratios["O2"]) > 1.3
    noise = np.random.default_rng(0).normal(0, 8, (8, 60 * RATE)).astype(np.float32)
    flat = judge.learn(noise, noise[:, : 30 * RATE], RATE, NAMES, 187_500)
    assert flat.seen is False
    judge.save(tmp_path / "b.json", flat, "cyton", RATE)
    loaded, told = judge.load(tmp_path / "b.json")
    assert told["alpha_reactivity"] == "not seen"
    assert loaded.ready
    assert loaded.alpha("O1") == pytest.approx(flat.baseline.alpha("O1"), abs=1e-3)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made": "x", "windows": 1, "channels": {}}', '{"windows": "a"}'])
def test_what_is_no_baseline_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BaselineError, match="is not a baseline"):
        judge.load(tmp_path / "b.json")


def test_band_powers_are_in_microvolts() -> None:
    """A sine of 10 uV at 10 Hz is 7.07 uV rms of alpha, on any offset and drift, and of nothing else."""
    t = np.arange(4 * RATE) / RATE
    wave = (10 * np.sin(2 * np.pi * 10 * t) + 20_000 + 50 * t)[None].astype(np.float32)
    got = powers(wave, RATE)
    assert got["alpha"][0] == pytest.approx(7.07, abs=0.05)
    assert got["theta"][0] < 0.3
    assert got["beta"][0] < 0.1


def test_the_page_is_one_file_with_its_picture_and_figures(session: Path) -> None:
    file = report(session, None, None, None, (0, 44))
    assert file == session.with_suffix(".html")
    text = file.read_text(encoding="utf-8")
    assert NOT in text
    assert "not a medical device" in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    for words in ("<td>O1</td>", "railed", "no signal", "alert: &lt;call_someone&gt;", "seconds 0 to 44", GAP):
        assert words in text
    assert "call_someone>" not in text


def test_the_picture_leaves_blank_what_is_not_known(session: Path, tmp_path: Path) -> None:
    """The row of relaxation: its line's colour stands in the quiet stretch and is missing in the gap."""
    import matplotlib.image

    file = report(session, tmp_path / "page.png", None, None, (0, 44))
    image = matplotlib.image.imread(io.BytesIO(file.read_bytes()), format="png")[..., :3]
    height, width = image.shape[:2]
    row = image[round(0.63 * height) : round(0.78 * height)]
    line = (np.abs(row - np.array([0x1C, 0x6E, 0x8C]) / 255).max(axis=2) < 0.03).any(axis=0)

    def share(begin: float, end: float) -> float:
        left, right = (round(width * (0.115 + 0.79 * second / 89)) for second in (begin, end))
        return float(line[left:right].mean())

    assert share(6, 42) > 0.95
    assert share(47, 60) == 0
    assert share(64, 86) > 0.95


def test_a_recording_that_a_power_cut_ended_has_a_report(session: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.bdf"
    cut.write_bytes(session.read_bytes()[:-70_000])
    text = report(cut, None, None, None, None).read_text(encoding="utf-8")
    assert "ended without being closed" in text


def test_hours_are_drawn_in_bins(tmp_path: Path) -> None:
    """Two hours of two channels; the second hour's second channel is flat, and the picture can say so."""
    from device.report_picture import COLUMNS, _binned, _mean

    verdicts = np.zeros((2, 7200), np.int8)
    verdicts[1, 3600:] = VERDICTS.index("flat")
    binned = _binned(verdicts)
    assert binned.shape[1] <= COLUMNS
    assert (np.array(VERDICTS)[binned[1]] == "flat").mean() == 0.5
    time, mean = _mean(np.where(np.arange(7200) < 3600, 2.0, np.nan), 7200)
    assert np.isfinite(mean).mean() == 0.5
    assert time[-1] == pytest.approx(7197)


def test_what_has_no_report_is_one_sentence(session: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"\.html or \.png"):
        report(session, tmp_path / "page.pdf", None, None, None)
    with pytest.raises(ReportError, match="can't be written"):
        report(session, tmp_path / "no" / "page.html", None, None, None)
    short = tmp_path / "short.bdf"
    short.write_bytes(session.read_bytes()[:20_000])
    with pytest.raises(ReportError, match="10 s at least"):
        report(short, None, None, None, None)
    with pytest.raises(BdfError, match="not a BDF"):
        report(FIRMWARE / "eeg" / "README.md", None, None, None, None)
