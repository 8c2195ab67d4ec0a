"""`bedside bench eeg`: its cheaper parts run and hold, and a figure that is missed is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device import bench_eeg
from device.__main__ import main

PARTS = ["end_to_end", "silence", "muse_file"]


def test_figures_are_printed_with_their_limits_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eyes, blinks, jaw and movement through a pty and BrainFlow's driver among them."""
    pytest.importorskip("brainflow")
    assert main(["bench", "eeg", "--parts", ",".join(PARTS), "--json", str(tmp_path / "f.json")]) == 0
    out = capsys.readouterr().out
    kept = json.loads((tmp_path / "f.json").read_text())
    assert list(kept["figures"]) == PARTS
    assert kept["missed"] == []
    assert kept["figures"]["end_to_end"]["verdicts"] > 150
    for part, key in bench_eeg.LIMITS:
        assert part in bench_eeg.PARTS
        if part in PARTS:
            assert key in kept["figures"][part]
    assert out.count(" ok (") == sum(part in PARTS for part, _ in bench_eeg.LIMITS)


def test_a_missed_figure_and_an_unknown_part_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_eeg.LIMITS, ("muse_file", "snr_tp10"), (100, 200))
    assert main(["bench", "eeg", "--parts", "muse_file"]) == 1
    said = capsys.readouterr()
    assert "MISSED (100 to 200)" in said.out
    assert "missed: muse_file.snr_tp10" in said.err
    assert main(["bench", "eeg", "--parts", "snr"]) == 1
    assert "'snr' is no part of bench eeg; there are real_time" in capsys.readouterr().err
