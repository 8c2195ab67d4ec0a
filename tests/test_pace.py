"""First frame, real-time factor and under-runs, on a clock that the test winds."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from device.voice.pace import Pace, memory_gb


def pace(*times: float) -> dict[str, float]:
    """Figures of frames that leave at `times`, after words at 0."""
    clock = iter([0.0, *times])
    watched = Pace(lambda: next(clock))
    for _ in times:
        watched.frame()
    return watched.figures()


def test_frames_faster_than_speech_never_let_the_speaker_wait() -> None:
    assert pace(0.3, 0.34, 0.38, 0.42) == {"first_frame": 0.3, "rtf": pytest.approx(1.312, abs=1e-3), "under_runs": 0}


def test_each_frame_that_the_speaker_waits_for_is_counted_once() -> None:
    late = pace(0.1, 0.3, 0.37, 0.46)  # needed at 0.18; from then on at 0.38, 0.46
    assert late["under_runs"] == 1
    assert pace(0.1, 0.3, 0.5, 0.7)["under_runs"] == 3


def test_nothing_said_has_no_figures() -> None:
    assert pace() == {}


def test_memory_is_the_most_that_the_process_has_held_until_it_is_forgotten() -> None:
    code = """
from device.voice.pace import forget_peak, memory_gb
before = memory_gb()
block = bytearray(300_000_000)
block[::4096] = b"x" * len(block[::4096])
del block
held = memory_gb() - before
forget_peak()
print(held, memory_gb() - before)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    held, after = map(float, told.split())
    assert held == pytest.approx(0.3, abs=0.05)
    assert after < 0.05


def test_what_torch_holds_on_a_gpu_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = memory_gb()
    gpu = SimpleNamespace(is_initialized=lambda: True, max_memory_reserved=lambda: 2_000_000_000)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpu))
    assert memory_gb() == pytest.approx(alone + 2.0, abs=0.05)
