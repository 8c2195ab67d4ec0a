"""Quality and relaxation on a real Cyton recording; it knows no live headset.

The spans are read from the recording's spectrogram (firmware_config/eeg/README.md).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from device import affect
from device.affect import Baseline, estimate, inspect, refused
from device.config import FIRMWARE
from device.turn import Affect

RATE = 250.0
NAMES = ["Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2"]
OPEN, CLOSED = (19.0, 27.0), (29.0, 73.0)

Recording = NDArray[np.float64]


@pytest.fixture(scope="module")
def recording() -> Recording:
    return np.loadtxt(FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv", usecols=range(1, 9)).T


@pytest.fixture(scope="module")
def quiet(recording: Recording) -> Baseline:
    """A baseline of the whole eyes-closed span, a window each second."""
    baseline = Baseline()
    for window in windows(recording, *CLOSED):
        baseline.collect(window, RATE, NAMES)
    assert baseline.ready
    return baseline


def windows(
    recording: Recording, begin: float, end: float, hop: float = 1.0, length: float = 4.0
) -> list[Recording]:
    """Windows of `length` seconds that lie wholly within [begin, end] seconds."""
    starts = np.arange(begin, end - length + 1e-6, hop)
    return [recording[:, round(t * RATE) : round((t + length) * RATE)] for t in starts]


def noise(channels: int = 8, scale: float = 8.0, seconds: float = 4.0) -> Recording:
    return np.random.default_rng(0).normal(0, scale, (channels, round(seconds * RATE)))


def test_eyes_closed_alpha_is_twice_eyes_open_at_the_back(recording: Recording) -> None:
    """Mean power of 9-12.5 Hz (this wearer's alpha is at 11) at O1 and O2, closed over open.

    Over whole spans in 2 s pieces, as Welch: longer ones see less of the short span's edges.
    """
    for channel in (6, 7):
        power = {}
        for span in (OPEN, CLOSED):
            found = [affect.spectrum(w[channel], RATE) for w in windows(recording, *span, length=2)]
            power[span] = np.mean([p[(f >= 9) & (f <= 12.5)].sum() for f, p in found])
        assert power[CLOSED] / power[OPEN] >= 2


def test_alpha_above_trend_tells_closed_from_open(recording: Recording) -> None:
    """The feature that the estimate uses rises at O1 and O2 too, and by less at the forehead."""

    def rise(channel: int) -> float:
        levels = [
            np.median([inspect(w, RATE, NAMES)[channel].alpha for w in windows(recording, *span)])
            for span in (OPEN, CLOSED)
        ]
        return float(levels[1] - levels[0])

    assert min(rise(6), rise(7)) > 0.2
    assert rise(0) < min(rise(6), rise(7))


@pytest.mark.parametrize(
    "span", [(3.5, 7.5), (14.0, 18.5), (8.0, 13.5), (81.0, 85.0), (85.5, 89.9)]
)
def test_blinks_jaw_and_movement_are_refused(
    recording: Recording, quiet: Baseline, span: tuple[float, float]
) -> None:
    """No window of them is used, with or without a baseline, and the reason names channels."""
    cut = windows(recording, *span, hop=0.25)
    found = [estimate(w, RATE, b, NAMES) for w in cut for b in (None, quiet)]
    assert found
    for result in found:
        assert result.relaxation is None
        assert result.reason.startswith("signal too poor: ")
        assert result.usable <= 0.75


def test_quiet_spans_are_kept(recording: Recording) -> None:
    """Every window of the quiet spans is used, and nearly all their channels."""
    for span in (OPEN, CLOSED):
        found = [inspect(w, RATE, NAMES) for w in windows(recording, *span, hop=0.5)]
        assert [refused(channels) for channels in found] == [""] * len(found)
        assert np.mean([not c.fault for channels in found for c in channels]) > 0.9


def test_a_clenched_jaw_is_muscle_in_more_than_two_channels(recording: Recording) -> None:
    """The 30-45 Hz power sees it at C3, C4, P7 and P8 even where the swing is not looked at."""
    jaw = [inspect(w, RATE, NAMES) for w in windows(recording, 81.0, 85.0)]
    calm = [inspect(w, RATE, NAMES) for w in windows(recording, *CLOSED)]
    limit = 2 * np.log10(affect.MUSCLE_UV)
    for channel in (2, 3, 4, 5):
        assert min(c[channel].muscle for c in jaw) > limit
        assert max(c[channel].muscle for c in calm) < limit


def test_a_really_railed_recording_abstains() -> None:
    """Electrodes at full scale are named, and nothing is estimated."""
    window = np.loadtxt(Path(__file__).parent / "data/eeg/cyton-railed.csv", delimiter=",").T
    result = estimate(window, RATE, Baseline(needed=1), NAMES)
    assert result.relaxation is None
    assert "C3 railed" in result.reason
    assert "O2 railed" in result.reason
    assert result.usable <= 0.25


def test_railed_flat_and_broken_channels_are_named() -> None:
    """Each fault is found in its own channel only."""
    window = noise()
    window[0, 100:200] = 187_500.0
    window[3] = 12.0
    window[5, 7] = np.nan
    channels = inspect(window, RATE, NAMES)
    assert [(c.name, c.fault) for c in channels if c.fault] == [
        ("Fp1", "railed"),
        ("C4", "flat"),
        ("P8", "has missing samples"),
    ]
    assert refused(channels) == "signal too poor: Fp1 railed, C4 flat, P8 has missing samples."


def test_one_bad_channel_of_eight_is_not_a_refusal() -> None:
    """A single loose electrode at the back costs that channel, not the window."""
    window = noise()
    window[7] = 187_500.0
    result = estimate(window, RATE, None, NAMES)
    assert result.usable == 7 / 8
    assert result.reason.startswith("no baseline yet: ")


def test_without_a_full_baseline_it_abstains(recording: Recording) -> None:
    """None and a half-filled baseline both abstain; the second counts its windows."""
    window = windows(recording, 40, 44)[0]
    baseline = Baseline()
    assert baseline.collect(window, RATE, NAMES) == ""
    for given, words in ((None, "no quiet minute"), (baseline, "1 of 30 quiet windows")):
        result = estimate(window, RATE, given, NAMES)
        assert result == Affect(usable=1.0, reason=result.reason)
        assert result.reason.startswith("no baseline yet: ")
        assert words in result.reason


def test_a_baseline_takes_no_blinks(recording: Recording) -> None:
    """A window of blinks is refused with its reason and not counted."""
    baseline = Baseline()
    assert "Fp1 swings" in baseline.collect(windows(recording, 14, 18)[0], RATE, NAMES)
    assert baseline.windows == 0


def test_relaxation_falls_when_the_eyes_open(recording: Recording, quiet: Baseline) -> None:
    """Against an eyes-closed baseline, closed is about usual and open is well below."""
    closed, opened = (
        [estimate(w, RATE, quiet, NAMES).relaxation for w in windows(recording, *span)]
        for span in (CLOSED, OPEN)
    )
    assert None not in closed + opened
    assert abs(np.median(closed)) < 0.15
    assert np.median(opened) < -0.2
    assert max(opened) < np.median(closed)


def test_what_is_not_calibrated_is_none_and_confidence_is_capped(
    recording: Recording, quiet: Baseline
) -> None:
    """Engagement, arousal and valence stay None, and the reason says so."""
    for window in windows(recording, *CLOSED):
        result = estimate(window, RATE, quiet, NAMES)
        assert (result.engagement, result.arousal, result.valence) == (None, None, None)
        assert "engagement is not calibrated" in result.reason
        assert 0 < result.confidence <= 0.3
        assert result.relaxation is not None
        assert -1 <= result.relaxation <= 1


@pytest.mark.parametrize(
    "window",
    [
        None,
        np.zeros((8, 1000)),
        np.full((8, 1000), np.nan),
        np.full((8, 1000), np.inf),
        np.zeros((8, 0)),
        np.zeros((0, 1000)),
        np.zeros((8, 3)),
        np.zeros(1000),
        np.full((8, 1000), 1e30),
        noise(1),
        noise(2, scale=0.01),
        noise(12),
    ],
)
def test_any_window_gives_a_reason_and_no_nan(window: Recording | None, quiet: Baseline) -> None:
    """Silence, nothing, garbage, too short, too few or unknown channels: no number, a reason."""
    for rate in (RATE, 0.0):
        for names in (NAMES, []):
            result = estimate(window, rate, quiet, names)
            assert result.reason
            assert np.isfinite([result.confidence, result.usable]).all()
            assert result.relaxation is None or np.isfinite(result.relaxation)


def test_a_sine_of_10_microvolts_reads_50() -> None:
    """The spectrum is in real units: BrainFlow's own reads 18.75 here, with a Hann window."""
    t = np.arange(1000) / RATE
    frequency, power = affect.spectrum(10 * np.sin(2 * np.pi * 10 * t), RATE)
    assert power.sum() * frequency[1] == pytest.approx(50, rel=0.01)


@pytest.mark.parametrize("mains", [50.0, 60.0, 50.1, 59.93])
def test_mains_does_not_pass_the_filter(mains: float) -> None:
    """250 uV of mains, also a little off its frequency, leaves less than 5 uV; 10 Hz stays."""
    t = np.arange(1000) / RATE
    hum, alpha = 250 * np.sin(2 * np.pi * mains * t + 1), 20 * np.sin(2 * np.pi * 10 * t)
    assert np.ptp(affect.band_pass(hum, RATE)) < 5
    assert np.ptp(affect.band_pass(hum + alpha, RATE)) == pytest.approx(40, abs=3)
