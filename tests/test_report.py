"""The report of a recording with known stretches; it knows no headset. What it looks like was looked at."""

from __future__ import annotations

import base64
import io
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device.bdf import BdfError, Reader
from device.blocks import Block
from device.config import FIRMWARE
from device.quiet import BaselineError, learn, load, save
from device.recording import GAP, Recorder
from device.report import NOT, ReportError, figures, report
from device.review import VERDICTS, choose_baseline, powers, review

NAMES = ["Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"]
RATE = 250
CLOSED, OPEN, BLINKS = (29, 73), (19, 27), (3, 7)  # seconds of the recording (firmware_config/eeg/README.md)


@pytest.fixture(scope="module")
def cyton() -> np.ndarray:
    return np.loadtxt(FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv", usecols=range(1, 9)).T.astype(np.float32)


def opened(cyton: np.ndarray) -> np.ndarray:
    """The recording has 8 quiet seconds with eyes open; to make a minute they are repeated, forth and back so that no edge jumps."""
    once = cyton[:, OPEN[0] * RATE : OPEN[1] * RATE]
    return np.tile(np.concatenate([once, once[:, ::-1]], axis=1), 4)


@pytest.fixture(scope="module")
def session(cyton: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 s quiet, 40 s with eyes closed, 4 s of blinks, 10 s lost, 30 s with eyes closed and O1 railed; a press, a reply and an alert."""
    file = tmp_path_factory.mktemp("report") / "session.bdf"
    railed = cyton[:, CLOSED[0] * RATE : (CLOSED[0] + 30) * RATE].copy()
    railed[6] = 187_500
    recorder = Recorder(file, NAMES, RATE, "cyton")
    recorder.take(Block(opened(cyton), 0, RATE, NAMES), 64)
    recorder.take(Block(cyton[:, CLOSED[0] * RATE : (CLOSED[0] + 40) * RATE], 64 * RATE, RATE, NAMES), 104)
    recorder.mark("press", 104)
    recorder.take(Block(cyton[:, BLINKS[0] * RATE : BLINKS[1] * RATE], 104 * RATE, RATE, NAMES), 108)
    recorder.mark("reply", 108)
    for second in range(110, 119):
        recorder.tick(second)
    recorder.take(Block(railed, 0, RATE, NAMES, True), 148)
    recorder.mark("alert: <call_someone>", 148)
    recorder.close(148)
    return file


def test_each_second_has_its_verdict_and_a_gap_is_blank(session: Path) -> None:
    recording = Reader(session)
    seen = review(recording, *choose_baseline(recording, None, None, (0, 64), (66, 104)))
    verdicts = np.array(VERDICTS)[seen.verdicts]
    assert seen.seconds == 149
    assert (verdicts[:, :3] == "waiting").all()
    assert (verdicts[:, 70:104] == "clean").mean() > 0.95  # what was tiled has edges, at which mains rings
    assert (verdicts[:2, 106:108] == "moving").all()  # blinks, at Fp1 and Fp2
    assert (verdicts[:, 108:118] == "no signal").all()
    assert (verdicts[6, 124:148] == "railed").all()
    assert (verdicts[:, 148] == "no signal").all()  # filled up, for the mark of the last moment
    assert np.isfinite(seen.relaxation[75:104]).mean() > 0.9
    assert np.nanmedian(seen.relaxation[75:104]) > 0.3  # more alpha than with open eyes
    assert np.isnan(seen.relaxation[105:123]).all()  # blinks, gap, and the window that fills again
    assert np.isfinite(seen.relaxation[130:148]).mean() > 0.7  # one channel less
    assert "seconds 0 to 64" in seen.reference
    assert "reactivity: seen" in seen.reference


def test_without_a_baseline_or_without_alpha_nothing_is_said(session: Path) -> None:
    recording = Reader(session)
    seen = review(recording, *choose_baseline(recording, None, session.with_name("none.json"), None))
    assert np.isnan(seen.relaxation).all()
    assert "No quiet baseline" in seen.reference
    assert figures(seen)[2][:2] == ("0%", "of the time relaxation was estimated")
    assert seen.usable() > 0.7
    untested = review(recording, *choose_baseline(recording, None, None, (0, 64)))
    assert np.isnan(untested.relaxation).all()
    assert untested.reasons.most_common(1)[0][0].startswith("confidence 0.3")


def test_a_stored_baseline_counts_only_for_its_own_sitting(session: Path, cyton: np.ndarray, tmp_path: Path) -> None:
    file, recording = tmp_path / "baseline.json", Reader(session)
    quiet = opened(cyton)
    learnt = learn(quiet, quiet[:, :0], RATE, NAMES, 187_500, time.time())
    assert learnt.baseline is not None
    save(file, learnt.baseline)
    baseline, reference = choose_baseline(recording, None, file, None)
    assert baseline is not None
    assert "not tested" in reference
    save(file, replace(learnt.baseline, made=time.time() - 86_400))
    assert choose_baseline(recording, None, file, None)[0] is None
    assert choose_baseline(recording, file, None, None)[0] is not None  # asked for by name
    with pytest.raises(BaselineError, match="longer quiet stretch"):
        choose_baseline(recording, None, None, (104, 120))


def test_alpha_reactivity_of_a_real_wearer_is_seen_and_of_noise_is_not(cyton: np.ndarray, tmp_path: Path) -> None:
    learnt = learn(opened(cyton), cyton[:, CLOSED[0] * RATE : CLOSED[1] * RATE], RATE, NAMES, 187_500, 0.0)
    assert learnt.baseline is not None
    assert learnt.baseline.seen
    noise = np.random.default_rng(0).normal(0, 8, (8, 70 * RATE)).astype(np.float32)
    noise = np.cumsum(noise, axis=1) - np.cumsum(noise, axis=1).mean(axis=1, keepdims=True)
    noise = (noise / noise.std(axis=1, keepdims=True) * 10).astype(np.float32)
    flat = learn(noise, noise[:, : 30 * RATE], RATE, NAMES, 187_500, 5.0)
    assert flat.baseline is not None, flat.lacks
    assert flat.baseline.reactivity is not None
    assert not flat.baseline.seen
    save(tmp_path / "b.json", flat.baseline)
    loaded = load(tmp_path / "b.json")
    assert "not seen" in loaded.words
    assert np.allclose(loaded.median, flat.baseline.median, atol=1e-4, equal_nan=True)
    assert loaded.made == 5.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made": "x", "windows": 1, "channels": {}}', '{"windows": "a"}'])
def test_what_is_no_baseline_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BaselineError, match="is not a baseline"):
        load(tmp_path / "b.json")


def test_band_powers_are_in_microvolts() -> None:
    """A sine of 10 uV at 10 Hz is 7.07 uV rms of alpha, on any offset and drift, and of nothing else."""
    t = np.arange(4 * RATE) / RATE
    wave = (10 * np.sin(2 * np.pi * 10 * t) + 20_000 + 50 * t)[None].astype(np.float32)
    got = powers(wave, RATE)
    assert got["alpha"][0] == pytest.approx(7.07, abs=0.05)
    assert got["theta"][0] < 0.3
    assert got["beta"][0] < 0.1


def test_the_page_is_one_file_with_its_picture_and_figures(session: Path) -> None:
    file = report(session, None, None, None, (0, 64), (66, 104))
    assert file == session.with_suffix(".html")
    text = file.read_text(encoding="utf-8")
    assert NOT in text
    assert "not a medical device" in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    for words in ("<td>O1</td>", "railed", "no signal", "alert: &lt;call_someone&gt;", "seconds 0 to 64", GAP):
        assert words in text
    assert "call_someone>" not in text


def test_the_picture_leaves_blank_what_is_not_known(session: Path, tmp_path: Path) -> None:
    """The row of relaxation: its line's colour stands in the quiet stretch and is missing in the gap."""
    import matplotlib.image

    file = report(session, tmp_path / "page.png", None, None, (0, 64), (66, 104))
    image = matplotlib.image.imread(io.BytesIO(file.read_bytes()), format="png")[..., :3]
    height, width = image.shape[:2]
    row = image[round(0.63 * height) : round(0.78 * height)]
    line = (np.abs(row - np.array([0x1C, 0x6E, 0x8C]) / 255).max(axis=2) < 0.03).any(axis=0)

    def share(begin: float, end: float) -> float:
        left, right = (round(width * (0.115 + 0.79 * second / 149)) for second in (begin, end))
        return float(line[left:right].mean())

    assert share(78, 102) > 0.95
    assert share(110, 121) == 0
    assert share(132, 146) > 0.6


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
