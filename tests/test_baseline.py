"""The wearer's quiet minute: what it takes, what it says of alpha, how it is kept, when it is over."""

from __future__ import annotations

import json

import numpy as np
import pytest
from eeg_data import CLOSED, NAMES, OPEN, RATE, brain, cyton

from device.baseline import CAP, EXPIRES_SECONDS, NEEDED, REACTIVE, Baseline, QuietMinute
from device.eeg_windows import Window, Windows


def quiet(alpha_open: float, alpha_closed: float, names: list[str] = NAMES, louder: float = 1.0) -> QuietMinute:
    """60 s and 30 s of noise with 10 Hz of these amplitudes, the second part `louder` in all."""
    out, windows = QuietMinute(names), Windows(names, RATE)
    for closed, seconds, alpha in ((False, 60, alpha_open), (True, 30, alpha_closed)):
        x = brain(seconds, RATE, len(names), alpha, seed=closed) - 20_000
        for w in windows.hear(x * (louder if closed else 1), gap=closed):
            out.take(w, closed)
    return out


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    return list(Windows(NAMES, RATE).hear(cyton()))


def test_alpha_that_rises_with_closed_eyes_is_seen() -> None:
    baseline = quiet(3, 10).baseline()
    assert baseline.seen
    assert baseline.validity == 1
    assert "alpha reactivity: seen" in baseline.words


@pytest.mark.parametrize(("alpha", "louder"), [((0, 0), 1.0), ((5, 5), 1.0), ((10, 3), 1.0), ((3, 3), 1.6)])
def test_alpha_that_does_not_is_not_seen(alpha: tuple[float, float], louder: float) -> None:
    """None, as much, less; and a broadband rise is no alpha."""
    baseline = quiet(*alpha, louder=louder).baseline()
    assert not baseline.seen
    assert baseline.reactivity is not None
    assert baseline.reactivity < REACTIVE
    assert baseline.validity == CAP == 0.3
    assert baseline.words.startswith("alpha reactivity: not seen")


def test_a_real_wearers_alpha_is_seen(windows: list[Window]) -> None:
    """The Cyton recording's few seconds of open eyes, taken several times to fill the minute."""
    minute = QuietMinute(NAMES)
    for _ in range(8):
        for w in windows:
            if OPEN[0] + 4 <= w.at <= OPEN[1]:
                minute.take(w)
    for w in windows:
        if CLOSED[0] + 4 <= w.at <= CLOSED[1]:
            minute.take(w, closed=True)
    baseline = minute.baseline()
    assert baseline.reactivity is not None
    assert baseline.reactivity > 1.5


def test_without_closed_eyes_it_was_not_tested() -> None:
    minute = quiet(3, 10)
    minute.closed.clear()
    baseline = minute.baseline()
    assert (baseline.reactivity, baseline.seen, baseline.validity) == (None, False, CAP)
    assert baseline.words == "alpha reactivity: not tested"


def test_blinks_are_not_taken_and_thirty_windows_are_needed(windows: list[Window]) -> None:
    minute = QuietMinute(NAMES)
    for w in windows:
        if w.at <= 18:
            minute.take(w)
    assert minute.opened == []
    clean = [w for w in windows if not w.refusal]
    for w in clean[: NEEDED - 1]:
        minute.take(w)
    assert minute.lacks == "no baseline yet: 29 of 30 quiet windows collected."
    with pytest.raises(ValueError, match="29 of 30"):
        minute.baseline()
    minute.take(clean[NEEDED])
    assert minute.lacks == ""


def test_z_is_robust_clipped_and_none_where_a_channel_was_never_clean() -> None:
    minute = QuietMinute(NAMES)
    x = brain(60)
    x[3] = 187_500.0
    for w in Windows(NAMES, RATE).hear(x):
        minute.take(w)
    baseline = minute.baseline()
    assert baseline.muscle[3] is None
    z = np.array([baseline.z(w.features) for w in minute.opened])
    assert np.isnan(z[:, 3]).all()
    known = np.delete(z, 3, axis=1)
    assert np.abs(np.median(known, axis=0)).max() < 1e-9
    assert np.abs(known).max() <= 6
    assert (baseline.z(np.full((8, 6), 99.0))[0] == 6).all()


def test_it_is_kept_as_plain_numbers() -> None:
    minute = quiet(3, 10)
    made = minute.baseline()
    again = Baseline.from_dict(json.loads(json.dumps(made.to_dict())))
    w = minute.opened[5]
    np.testing.assert_allclose(again.z(w.features), made.z(w.features), atol=1e-3)
    assert (again.names, again.reactivity, again.windows, again.made) == (made.names, made.reactivity, made.windows, made.made)
    assert len(json.dumps(made.to_dict())) < 4000


@pytest.mark.parametrize(
    "broken", [{}, {"names": ["O1"]}, {"median": [[1.0]]}, {"muscle": [1]}, {"spread": [[0.0] * 6] * 8}, {"made": None}]
)
def test_a_broken_one_is_a_clear_fault(broken: dict[str, object]) -> None:
    stored = quiet(3, 10).baseline().to_dict() | broken if broken else {}
    with pytest.raises(ValueError, match="not a stored baseline"):
        Baseline.from_dict(stored)


def test_it_is_over_after_an_hour() -> None:
    made = quiet(3, 10).baseline()
    assert not made.expired(made.made + EXPIRES_SECONDS)
    assert made.expired(made.made + EXPIRES_SECONDS + 1)
    assert not made.expired(made.made - 1)  # the clock was set right
    assert made.expired(made.made - 3601)  # another clock
