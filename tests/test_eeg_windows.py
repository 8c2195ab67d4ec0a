"""Conditioning, the gate and the features, on real Cyton recordings and on signals whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from eeg_data import CLOSED, NAMES, OPEN, RATE, SPOILT, Array, brain, cyton, railed

from device.bench_estimate import alpha_ratio, flicker, refused_share, verdicts, within
from device.eeg_features import FEATURES, Spectrum
from device.eeg_filter import Conditioner, band_pass
from device.eeg_windows import Windows

RATES = [125.0, 128.0, 200.0, 250.0, 256.0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("mains", [50.0, 60.0, 50.1, 59.93])
def test_mains_does_not_pass_and_alpha_does(rate: float, mains: float) -> None:
    t = np.arange(round(6 * rate)) / rate
    x = 20_000 + 250 * np.sin(2 * np.pi * mains * t + 1) + 20 * np.sin(2 * np.pi * 10 * t)
    clean = Conditioner(rate)(x[None, :])[0][round(3 * rate) :]
    spectrum = Spectrum(rate)
    power = spectrum.power(clean[None, -spectrum.size :])
    assert spectrum.share(power, 8, 13)[0] == pytest.approx(200, rel=0.05)
    assert np.ptp(clean) == pytest.approx(40, abs=4 if mains in (50.0, 60.0) else 22)  # of 500: a grid drifts by 0.1 Hz at most


def test_blocks_are_filtered_as_one_stream() -> None:
    """State is carried: the same numbers whatever the blocks; after reset() the past is forgotten."""
    x, whole = brain(4), Conditioner(RATE)
    together, parts = whole(x), Conditioner(RATE)
    cut = np.concatenate([parts(x[:, a:b]) for a, b in ((0, 1), (1, 14), (14, 700), (700, 1000))], axis=1)
    np.testing.assert_allclose(cut, together, atol=1e-6)
    whole.reset()
    np.testing.assert_allclose(whole(x), together)


def test_the_filter_is_causal() -> None:
    """What comes later changes nothing that was said before."""
    x = brain(4)
    changed = x.copy()
    changed[:, 500:] += 1000
    np.testing.assert_array_equal(Conditioner(RATE)(x)[:, :500], Conditioner(RATE)(changed)[:, :500])


def test_an_offset_does_not_ring() -> None:
    """20 mV of electrode offset is not a step: it was there for ever."""
    assert np.abs(Conditioner(RATE)(np.full((1, 500), 20_000.0))).max() < 1e-3


def test_a_picture_is_drawn_without_its_edges() -> None:
    assert band_pass(brain(4)[0], RATE).shape == (750,)


@pytest.mark.parametrize("rate", [99.0, 0.0])
def test_a_rate_without_a_muscle_band_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="too slow"):
        Windows(NAMES, rate)


@pytest.mark.parametrize("rate", RATES)
def test_features_are_in_real_units(rate: float) -> None:
    """A sine of 10 uV is 50 uV^2 of alpha; a 1/f^2 spectrum has the exponent 2, and a peak above it is measured above it."""
    spectrum = Spectrum(rate)
    t = np.arange(spectrum.size) / rate
    sine = spectrum.features(spectrum.power(10 * np.sin(2 * np.pi * 10 * t)[None]))[0]
    assert 10 ** sine[FEATURES.index("alpha")] == pytest.approx(50, rel=0.01)
    falling = (1 / np.maximum(spectrum.frequency, 0.5) ** 2)[None]
    peaked = np.where((spectrum.frequency >= 8) & (spectrum.frequency < 13), 10 * falling, falling)
    for power, above in ((falling, 0.0), (peaked, 1.0)):
        found = dict(zip(FEATURES, spectrum.features(power)[0], strict=True))
        assert found["exponent"] == pytest.approx(2, abs=0.01)
        assert found["alpha_above"] == pytest.approx(above, abs=0.01)


def test_no_feature_sees_muscle_or_eye_movement() -> None:
    """Power below 4 Hz other than through the trend, and from 40 Hz, changes no feature."""
    spectrum = Spectrum(RATE)
    power = (1 / np.maximum(spectrum.frequency, 0.5))[None]
    more = np.where((spectrum.frequency > 40) | (spectrum.frequency < 2), 100 * power, power)
    np.testing.assert_array_equal(spectrum.features(power), spectrum.features(more))


def test_eyes_closed_alpha_is_twice_eyes_open_at_the_back() -> None:
    """Power of 9-12.5 Hz (this wearer's alpha is at 11), causally conditioned, closed over open."""
    assert alpha_ratio(cyton())[6:].min() >= 2


def test_a_muses_file_shows_the_light_that_flickered() -> None:
    """20 Hz at the ears, behind which the visual cortex is nearest, and not at the forehead."""
    ratios = flicker()
    assert min(ratios["snr_tp9"], ratios["snr_tp10"]) >= 2.5
    assert max(ratios["snr_af7"], ratios["snr_af8"]) < 2


@pytest.mark.parametrize("learned", [False, True])
def test_the_gate_refuses_what_is_no_resting_brain_and_keeps_what_is(learned: bool) -> None:
    """With the wearer's own muscle and without it."""
    usual = None
    if learned:
        rows = [w for w in Windows(NAMES, RATE).hear(cyton()) if not w.refusal and CLOSED[0] + 4 <= w.at <= CLOSED[1]]
        values = np.array([[c.muscle for c in w.channels] for w in rows])
        usual = [(float(np.median(v)), 0.1) for v in values.T]
    found = verdicts(cyton(), usual)
    for name, spans in SPOILT.items():
        assert refused_share(found, spans) >= 0.95, name
        assert all(why.startswith("signal too poor: ") for why in within(found, spans) if why)
    for span in (OPEN, CLOSED):
        assert refused_share(found, [span]) <= 0.05


def test_a_railed_recording_is_refused_throughout() -> None:
    """Jordan_focus: a reason for each channel, in every window."""
    found = list(Windows(NAMES, RATE).hear(railed()))
    settled = [w for w in found if w.channels]
    assert len(settled) > 60
    assert all(w.refusal and w.good == 0 for w in found)
    words = {c.fault for w in settled for c in w.channels}
    assert {"railed", "no contact"} <= words


def spoilt(x: Array, fault: str) -> Array:
    """`x` with channel C3 spoilt in one way for its last 2 s."""
    x, late = x.copy(), slice(-round(2 * RATE), None)
    t = np.arange(round(2 * RATE)) / RATE
    if fault == "missing":
        x[2, -200] = np.nan
    elif fault == "railed":
        x[2, late] = 187_500.0
    elif fault == "flat":
        x[2] = 20_000.0
    elif fault == "no contact":
        x[2] += np.random.default_rng(3).normal(0, 3000, x.shape[1])
    elif fault == "mains":
        x[2] += 5000 * np.sin(2 * np.pi * 50 * np.arange(x.shape[1]) / RATE)
    elif fault == "moving":
        x[2, late] += 80 * np.sin(2 * np.pi * 2 * t)
    elif fault == "muscle":
        x[2] += 17 * np.sin(2 * np.pi * 37 * np.arange(x.shape[1]) / RATE)
    return x


@pytest.mark.parametrize("fault", ["missing", "railed", "flat", "no contact", "mains", "moving", "muscle"])
def test_each_fault_is_named_in_its_own_channel_only(fault: str) -> None:
    """And one bad channel of eight costs that channel, not the window."""
    windows = Windows(NAMES, RATE)
    (*_, last) = windows.hear(spoilt(brain(10), fault))
    assert [(c.name, c.fault) for c in last.channels if c.fault] == [("C3", fault)]
    assert last.refusal == ""
    assert last.good == 7
    assert np.isnan(last.features[2]).all()


def test_the_rail_is_the_headsets_own() -> None:
    """A Muse is at full scale at 1 mV."""
    x = brain(8, 256.0, 4) - 20_000
    x[1, -256:] = 1000.0
    (*_, last) = Windows(["TP9", "AF7", "AF8", "TP10"], 256.0, rail_uv=1000.0).hear(x)
    assert [c.fault for c in last.channels] == ["", "railed", "", ""]


@pytest.mark.parametrize(
    ("names", "bad", "kept"),
    [
        (NAMES, [2, 5], True),
        (NAMES, [2, 5, 6], False),
        (NAMES, [0, 1], False),  # both frontal: a blink
        (["TP9", "AF7", "AF8", "TP10"], [0], True),
        (["TP9", "AF7", "AF8", "TP10"], [0, 1], False),
        (["TP9", "AF7", "AF8", "TP10"], [1, 2], False),
        (["O1"], [], False),
    ],
)
def test_how_many_bad_channels_refuse_a_window(names: list[str], bad: list[int], kept: bool) -> None:
    x = brain(8, channels=len(names))
    x[bad] = 187_500.0
    (*_, last) = Windows(names, RATE).hear(x)
    assert (last.refusal == "") == kept


def test_a_gap_resets_the_filters_and_drops_the_window() -> None:
    """Six seconds of nothing (2 to settle, 4 of a window), then the same features as if the stream had begun there."""
    x = brain(12)
    windows = Windows(NAMES, RATE)
    list(windows.hear(brain(10, seed=5)))
    after = list(windows.hear(x, gap=True))
    fresh = list(Windows(NAMES, RATE).hear(x))
    assert [w.refusal for w in after[:5]] == ["the signal is settling."] * 5
    assert [w.refusal for w in after[5:]] == [""] * 7
    for a, b in zip(after, fresh, strict=True):
        np.testing.assert_array_equal(a.features, b.features)
    assert after[0].at == pytest.approx(11)


def test_one_old_blink_costs_noise_and_not_silence() -> None:
    """The newest 2 s and one more segment must be clean; a blink in the newest refuses."""
    x = brain(12)
    blink = 300 * np.hanning(100)
    x[:2, 2000:2100] += blink  # at 8.0-8.4 s
    found = {round(w.at): w for w in Windows(NAMES, RATE).hear(x)}
    assert "moving" in found[9].refusal
    assert "moving" in found[10].refusal
    assert found[11].refusal == "the signal was too poor a moment ago."
    assert found[12].refusal == ""
    assert found[7].clean < found[12].clean < 1


def test_any_block_is_survived() -> None:
    """Nothing, NaN, infinities, absurd numbers: refused, and clean again some seconds later."""
    windows = Windows(NAMES, RATE)
    for block in (np.zeros((8, 0)), np.full((8, 300), np.nan), np.full((8, 700), np.inf), np.full((8, 500), 1e30), np.zeros((8, 3))):
        assert all(w.refusal for w in windows.hear(block))
    assert [w.refusal for w in windows.hear(brain(12), gap=True)][-1] == ""
    with pytest.raises(ValueError, match="8 rows"):
        list(windows.hear(np.zeros((3, 10))))
