"""The estimate: what it says against a wearer's own quiet, when it is silent, and how good the shipped numbers are."""

from __future__ import annotations

import itertools
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from eeg_data import EEGMAT, NAMES, RATE, Array, brain, cyton, railed
from scipy import signal

from device import eeg_evaluate
from device.affect import Estimator, bench_estimate, main
from device.baseline import Baseline, QuietMinute
from device.blocks import Block
from device.eeg_evaluate import DataFault, auc, calibration_error, coverage, evaluate, recordings, smoothed, subject
from device.eeg_feed import Feed
from device.engagement import FILE, LAYOUTS, layout_of, load, tomllib
from device.quiet import learn, save
from device.turn import Affect

Person = tuple[str, list[str], Array, Array, float]
SCRIPT = Path(__file__).parent.parent / "scripts/train-engagement"


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    """Three of EEGMAT as an 8-channel headset gives them: subject, names, rest, task, rate."""
    return {p[0]: p for p in itertools.islice(recordings(EEGMAT, "cyton8"), 3)}


def reacting(baseline: Baseline) -> Baseline:
    """As if alpha had been seen to react: EEGMAT has no part with closed eyes."""
    return replace(baseline, reactivity=2.0)


def wearer(person: Person) -> Estimator:
    """An estimator that has heard this person's first minute, and is now at its end."""
    _, names, rest, _, rate = person
    out = Estimator(names, rate)
    out.begin_baseline()
    out.hear(rest[:, : round(60 * rate)])
    assert out.finish_baseline() == ""
    assert out.baseline is not None
    out._set(reacting(out.baseline))
    return out


def test_work_is_more_engaged_than_rest(people: dict[str, Person]) -> None:
    """One person end to end: signs, ranges, and a direction held."""
    person = people["s00"]
    _, _, rest, task, rate = person
    estimator = wearer(person)
    quiet = estimator.hear(rest[:, round(60 * rate) :])
    busy = estimator.hear(task, gap=True)
    said = {k: [a.engagement for a in part if a.engagement is not None] for k, part in (("quiet", quiet), ("busy", busy))}
    assert min(len(said["quiet"]), len(said["busy"])) >= 10
    assert np.median(said["quiet"]) < 0 < np.median(said["busy"])
    for a in quiet + busy:
        assert a.valence is None
        assert 0 <= a.confidence <= 1
        assert (a.engagement is None) == bool(a.reason)
        for value in (a.engagement, a.relaxation, a.arousal):
            assert value is None or -1 <= value <= 1
        assert a.arousal is None or abs(a.arousal) <= 0.4
        if a.engagement is not None:
            assert a.confidence >= 0.6
    assert max(a.held for a in busy) >= 10
    told = estimator.latest()
    assert told.at == busy[-1].at
    lately = [a for a in busy if busy[-1].at - a.at <= 60 and a.engagement is not None]
    assert [(m[0], m[1]) for m in told.minute] == [(round(told.at - a.at, 1), round(a.engagement or 0, 3)) for a in lately]
    assert json.loads(json.dumps([a.__dict__ for a in busy]))


def test_there_is_one_estimate_a_second_whatever_the_blocks(people: dict[str, Person]) -> None:
    """The same numbers from one block, from 20 ms and from odd ones; `seconds` sets the clock."""
    person = people["s00"]
    _, _, rest, _, rate = person
    part = rest[:, round(60 * rate) : round(100 * rate)]
    whole = wearer(person).hear(part)
    assert len(whole) == 40
    assert whole[-1].at == pytest.approx(100)
    for sizes in ([round(rate / 50)], [1, 700, 33]):
        estimator, out, at = wearer(person), [], 0
        for size in itertools.cycle(sizes):
            if at >= part.shape[1]:
                break
            out += estimator.hear(part[:, at : at + size])
            at += size
        assert [a.reason for a in out] == [a.reason for a in whole]
        np.testing.assert_allclose([a.confidence for a in out], [a.confidence for a in whole], atol=1e-9)
    late = wearer(person).hear(part, seconds=60.0 + 1000)
    assert late[0].at == pytest.approx(1061)


@pytest.mark.parametrize("rate", [125.0, 200.0, 250.0, 256.0])
def test_other_rates_say_the_same(people: dict[str, Person], rate: float) -> None:
    """The probability of work over a rest and a task, at 128 Hz and resampled."""
    name, names, rest, task, given = people["s02"]
    up, down = int(rate), int(given)
    there = [signal.resample_poly(x, up, down, axis=1) for x in (rest, task)]
    shipped = load("cyton8")
    one = subject(name, names, rest, task, given, "cyton8")
    two = subject(name, names, there[0], there[1], rate, "cyton8")
    a, b = ([shipped.probability(v) for v in smoothed(s, shipped.score)] for s in (one, two))
    assert abs(np.mean(a) - np.mean(b)) < 0.1
    assert abs(auc(np.array(a), one.task) - auc(np.array(b), two.task)) < 0.06


def test_what_is_evaluated_is_what_the_wearer_gets(people: dict[str, Person]) -> None:
    """The evaluation's probabilities are the estimator's, window by window."""
    person = people["s04"]
    name, names, rest, task, rate = person
    judged = subject(name, names, rest, task, rate, "cyton8")
    shipped = load("cyton8")
    expected = {round(t, 3): shipped.probability(v) for t, v in zip(judged.at, smoothed(judged, shipped.score), strict=True)}
    estimator = Estimator(names, rate)
    estimator.begin_baseline()
    found: dict[float, float] = {}
    for gap, part in ((False, rest), (True, task)):
        for window in estimator.windows.hear(part, gap=gap):
            if window.at > 60 and estimator.baseline is None:
                assert estimator.finish_baseline() == ""
            if window.at >= 64 or estimator.baseline is None:
                estimator.judge(window)
            if estimator.probability is not None:
                found[round(window.at, 3)] = estimator.probability
    assert found.keys() == expected.keys()
    assert list(found.values()) == pytest.approx(list(expected.values()))


def test_a_minute_without_alpha_reactivity_caps_confidence(people: dict[str, Person]) -> None:
    """EEGMAT's rest as both halves of the quiet minute: not seen, at most 0.3, and nothing is said."""
    _, names, rest, task, rate = people["s00"]
    estimator = Estimator(names, rate)
    estimator.begin_baseline()
    estimator.hear(rest[:, : round(60 * rate)])
    estimator.eyes_closed()
    estimator.hear(rest[:, round(60 * rate) : round(90 * rate)])
    assert estimator.finish_baseline() == ""
    assert estimator.baseline is not None
    assert estimator.baseline.words.startswith("alpha reactivity: not seen")
    said = estimator.hear(task, gap=True)
    judged = [a for a in said if a.confidence > 0]
    assert len(judged) > 30
    assert all(a.confidence <= 0.3 and a.engagement is None and a.relaxation is None for a in said)
    assert "alpha reactivity: not seen" in judged[-1].reason


def test_the_whole_quiet_minute_makes_it_speak() -> None:
    """Open, closed, and a baseline that is valid; the estimates of it are kept from nobody else's headset."""
    estimator = Estimator(NAMES, RATE)
    estimator.begin_baseline()
    said = estimator.hear(brain(60, alpha_uv=3))
    assert all(a.engagement is None for a in said)
    assert "0 of 30" in said[5].reason
    estimator.between()
    estimator.hear(brain(20, alpha_uv=3))  # "Now close your eyes"
    estimator.eyes_closed()
    estimator.hear(brain(30, alpha_uv=10, seed=1), gap=True)
    assert estimator.finish_baseline() == ""
    assert estimator.baseline is not None
    assert estimator.baseline.seen
    assert estimator.baseline.made == pytest.approx(110)
    assert estimator.baseline.windows == 55  # of the minute, those wholly after its begin and the filters' settling
    with pytest.raises(ValueError, match="the baseline is of"):
        Estimator(["TP9", "AF7", "AF8", "TP10"], 256.0, baseline=estimator.baseline)


def test_a_quiet_minute_that_is_given_up_leaves_the_older_baseline(people: dict[str, Person]) -> None:
    estimator = wearer(people["s00"])
    older = estimator.baseline
    estimator.begin_baseline()
    estimator.hear(people["s00"][2][:, : round(20 * estimator.rate)])
    assert estimator.baseline is None
    estimator.go_back_to(older)
    assert estimator.baseline is older
    assert "quiet" not in estimator.hear(people["s00"][2][:, : round(8 * estimator.rate)])[-1].reason


def test_too_short_a_quiet_minute_is_refused() -> None:
    estimator = Estimator(NAMES, RATE)
    assert estimator.finish_baseline() == "no baseline was begun."
    estimator.begin_baseline()
    estimator.hear(brain(20))
    assert "of 30 quiet windows" in estimator.finish_baseline()
    assert estimator.baseline is None


def test_it_abstains_while_there_is_no_baseline_or_an_old_one(people: dict[str, Person]) -> None:
    person = people["s00"]
    _, names, rest, _, rate = person
    part = rest[:, round(60 * rate) : round(80 * rate)]
    (*_, last) = Estimator(names, rate).hear(part)
    assert (last.engagement, last.reason) == (None, "no baseline yet: no quiet minute was recorded.")
    estimator = wearer(person)
    old = estimator.hear(part, seconds=4000.0)
    assert "more than an hour old" in old[0].reason
    assert "more than an hour old" in old[-1].reason
    estimator = wearer(person)
    estimator.reseated()
    assert "taken off" in estimator.hear(part)[-1].reason


def test_a_headset_that_was_taken_off_needs_a_new_quiet_minute(people: dict[str, Person]) -> None:
    """Ten seconds in the air, or five minutes away. A touch, or one electrode that slipped, leaves the baseline."""
    person = people["s00"]
    rest, rate = person[2], round(person[4])
    air = np.random.default_rng(0).normal(size=(8, 20 * rate)) * 5000
    part = rest[:, : 12 * rate]
    estimator = wearer(person)
    estimator.hear(air[:, : 6 * rate])
    estimator.hear(np.concatenate([air[:6], rest[6:, : 20 * rate]]))
    estimator.hear(part, gap=True, seconds=estimator.windows.seconds + 200)
    assert estimator.baseline is not None
    estimator.hear(air)
    assert estimator.baseline is None
    assert estimator.hear(part)[-1].reason == "the headset was taken off or away: a new quiet minute is needed."
    away = wearer(person)
    away.hear(part, gap=True, seconds=away.windows.seconds + 400)
    assert away.baseline is None


def test_a_gap_and_a_silence_are_told(people: dict[str, Person]) -> None:
    """Six seconds after a gap nothing is said; what is old is stale."""
    person = people["s00"]
    _, _, rest, _, rate = person
    estimator = wearer(person)
    assert Estimator(NAMES, RATE).latest().reason == "the signal is settling."
    after = estimator.hear(rest[:, : round(8 * rate)], gap=True)
    assert [a.reason for a in after[:5]] == ["the signal is settling."] * 5
    assert [a.confidence for a in after[:5]] == [0.0] * 5
    assert replace(estimator.latest(after[-1].at + 1), minute=()) == after[-1]
    stale = estimator.latest(after[-1].at + 30)
    assert (stale.engagement, stale.reason) == (None, "stale: no signal for 30 s.")


def test_a_mostly_spoilt_quarter_minute_is_not_spoken_of(people: dict[str, Person]) -> None:
    """Clean at last, but less than half of the last 15 s was."""
    person = people["s00"]
    _, _, rest, _, rate = person
    estimator = wearer(person)
    part = rest[:, round(60 * rate) : round(90 * rate)].copy()
    part[:, : round(20 * rate)] += 150 * np.sin(2 * np.pi * 3 * np.arange(round(20 * rate)) / rate)
    said = estimator.hear(part)
    at = {round(a.at - 60): a for a in said}
    assert "signal too poor: Fp1 moving" in at[15].reason
    assert "of the last 15 s were clean" in at[25].reason
    assert at[25].engagement is None
    assert at[25].trend == ""


def test_arousal_rises_only_where_fast_waves_do(people: dict[str, Person]) -> None:
    """16 Hz that grows over a minute of rest; the direction of engagement is another matter."""
    person = people["s00"]
    _, _, rest, _, rate = person
    minute = rest[:, : round(64 * rate)]
    time = np.arange(minute.shape[1]) / rate
    growing = minute + 0.15 * time * np.sin(2 * np.pi * 16 * time)
    words = {name: wearer(person).hear(part)[-1].arousal_trend for name, part in (("rest", minute), ("rising", growing))}
    words["falling"] = wearer(person).hear(growing[:, ::-1])[-1].arousal_trend
    assert words["rising"] == "rising"
    assert words["falling"] == "falling"
    assert words["rest"] != "rising"


def test_a_railed_recording_abstains_throughout() -> None:
    """Jordan_focus, with a baseline of someone: no number in any window."""
    minute = QuietMinute(NAMES)
    for w in Estimator(NAMES, RATE).windows.hear(brain(60)):
        minute.take(w)
    said = Estimator(NAMES, RATE, baseline=reacting(replace(minute.baseline(), made=0.0))).hear(railed())
    assert len(said) > 60
    assert all(a.reason and a.engagement is None and a.relaxation is None and a.arousal is None and a.confidence == 0 for a in said)
    assert "railed" in said[-1].reason


def test_relaxation_falls_when_the_eyes_open() -> None:
    """A real wearer, against their own closed eyes: open is below. The muscle of a clenched jaw is never spoken of."""
    estimator = Estimator(NAMES, RATE)
    estimator.begin_baseline()
    estimator.hear(cyton()[:, round(29 * RATE) : round(73 * RATE)])
    assert estimator.finish_baseline() == ""
    assert estimator.baseline is not None
    values: dict[bool, list[float]] = {True: [], False: []}
    for w in Estimator(NAMES, RATE).windows.hear(cyton()):
        if not w.refusal and (23 <= w.at <= 27 or 33 <= w.at <= 73):
            z = estimator.baseline.z(w.features)
            values[w.at < 28].append(estimator._relaxation(estimator.baseline, w, z, np.isfinite(z[:, 0])))
    assert np.median(values[True]) < -0.5
    assert abs(np.median(values[False])) < 0.5


def test_electrodes_that_were_not_trained_on_give_no_engagement() -> None:
    names = [f"channel {i + 1}" for i in range(8)]
    estimator = Estimator(names, RATE)
    estimator.begin_baseline()
    estimator.hear(brain(60))
    estimator.finish_baseline()
    (*_, last) = estimator.hear(brain(20, seed=2))
    assert last.engagement is None
    assert last.reason.startswith("engagement: not calibrated for these electrodes")
    assert layout_of(NAMES) == "cyton8"
    assert layout_of(["AF7", "TP9", "TP10", "AF8", "Right AUX"]) == "muse4"
    assert layout_of(["Fp1", "C3", "T5", "O2"]) == "cyton8"
    assert layout_of(["O1", "O2"]) == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 0.0])
@pytest.mark.parametrize("count", [0, 2000])
def test_any_block_gives_a_reason_and_no_nan(value: float, count: int) -> None:
    estimator, block = Estimator(NAMES, RATE), np.full((8, count), value)
    for a in estimator.hear(block) + estimator.hear(brain(2)):
        assert a.reason
        assert a.engagement is None
        assert np.isfinite([a.confidence, a.usable, a.slope, a.at]).all()
    assert [c.name for c in estimator.quality()] in ([], NAMES)


def test_an_old_rows_affect_is_still_read() -> None:
    """What memory stored before there were times and trends."""
    row = {"engagement": None, "relaxation": 0.1, "arousal": None, "valence": None, "confidence": 0.2, "usable": 1.0, "reason": "x"}
    assert Affect(**row).at == 0.0  # type: ignore[arg-type]


# The headset's side ----------------------------------------------------------------------------


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, which goes on with the samples: [seconds since 1970]."""
    clock = [1.8e9]
    monkeypatch.setattr("time.time", lambda: clock[0])
    return clock


def sent(recording: Array, now: list[float], start: int = 0, gap: bool = False, settled: bool = True) -> Iterator[Block]:
    """Blocks of odd lengths, as a headset sends them."""
    at = start
    for size in itertools.cycle([61, 190, 250, 7, 500]):
        part = recording[:, at : at + size].astype(np.float32)
        now[0] += part.shape[1] / RATE
        yield Block(part, at, RATE, NAMES, gap and at == start, settled)
        at += size
        if at >= recording.shape[1]:
            return


def test_blocks_of_any_length_are_heard_as_one_stream(now: list[float]) -> None:
    feed = Feed(SimpleNamespace(reason=""))
    said = [affect for block in sent(brain(30), now) for affect in feed.hear([block])]
    assert feed.estimator is not None
    assert feed.estimator.windows.seconds == pytest.approx(now[0])
    assert len(said) == 30
    assert {a.reason for a in said[6:]} == {"no baseline yet: no quiet minute was recorded."}
    assert feed.affect() == said[-1]
    now[0] += 4
    assert "stale" in feed.affect().reason


def test_a_gap_begins_anew_and_a_lost_headset_has_its_own_reason(now: list[float]) -> None:
    headset = SimpleNamespace(reason="")
    feed = Feed(headset)
    said = [affect for block in sent(brain(20), now) for affect in feed.hear([block])]
    assert "settling" not in said[-1].reason
    said = [affect for block in sent(brain(20), now, gap=True) for affect in feed.hear([block])]
    assert "settling" in said[0].reason
    assert "settling" not in said[-1].reason
    assert [a for block in sent(brain(5), now, settled=False) for a in feed.hear([block])] == []
    said = [affect for block in sent(brain(3), now) for affect in feed.hear([block])]
    assert all("settling" in a.reason for a in said)  # what was left out is a gap, too
    headset.reason = "the headset sent no sample for 1.5 s: is it on?"
    assert feed.affect().reason == headset.reason


def test_a_clock_that_runs_away_from_the_samples_is_set_right(now: list[float]) -> None:
    """A headset at 248 Hz that calls itself 250 loses 11 minutes a day, and must not be stale for it."""
    feed = Feed(SimpleNamespace(reason=""))
    for block in sent(brain(300), now):
        now[0] += 0.01 * block.samples.shape[1] / RATE
        feed.hear([block])
    assert feed.estimator is not None
    assert abs(feed.estimator.windows.seconds - now[0]) < 2.1
    assert "stale" not in feed.affect().reason


def test_a_stored_baseline_holds_for_an_hour_and_its_own_electrodes(now: list[float], tmp_path: Path) -> None:
    quiet = brain(70).astype(np.float32)
    learnt = learn(quiet, quiet[:, :0], RATE, NAMES, 187_500, now[0] - 600)
    assert learnt.baseline is not None
    save(tmp_path / "b.json", learnt.baseline)

    def reason(names: list[str]) -> str:
        feed = Feed(SimpleNamespace(reason=""), "cyton", tmp_path / "b.json")
        for block in sent(brain(20), now):
            feed.hear([replace(block, names=names)])
        return feed.affect().reason

    assert "alpha reactivity: not tested" in reason(NAMES)  # so the baseline was taken
    assert "no baseline" in reason(["Fz", *NAMES[1:]])
    now[0] += 3300
    assert "no baseline" in reason(NAMES)
    (tmp_path / "b.json").write_text("{}")
    assert "no baseline" in reason(NAMES)


def test_a_headset_that_is_too_slow_is_told_and_raises_nothing() -> None:
    feed = Feed(SimpleNamespace(reason=""))
    assert feed.hear([Block(np.zeros((8, 400), np.float32), 0, 50.0, NAMES)]) == []
    assert "50 Hz is too slow" in feed.affect().reason


# The shipped numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_shipped_numbers_say_where_they_come_from_and_meet_their_marks(layout: str) -> None:
    text = FILE.read_text(encoding="utf-8")
    stored = tomllib.loads(text)
    assert "Zyma" in stored["source"]
    assert "ODC-By" in stored["source"]
    figures = stored[layout]["figures"]
    assert figures["auc"] >= {"cyton8": 0.84, "muse4": 0.77}[layout]
    assert 0.45 <= figures["auc_null"] <= 0.55
    assert figures["ece"] <= 0.08
    assert figures["subjects"] == 18
    load(layout)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Three subjects as a file of their own."""
    with np.load(EEGMAT) as data:
        keep = {k: data[k] for k in ("channels", "fs", "uv_per_lsb", *(f"s{n}_{p}" for n in ("00", "02", "04") for p in ("rest", "task")))}
    np.savez(tmp_path / "few.npz", **keep)
    return tmp_path / "few.npz"


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_evaluate_prints_the_figures_of_a_file(few: Path, layout: str) -> None:
    """From the outside, as others run it; trains nothing."""
    run = subprocess.run(
        [sys.executable, "-m", "device.affect", "evaluate", str(few), "--layout", layout], capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert found["subjects"] == 3
    assert found["auc"] > 0.75
    assert 0 <= found["ece"] <= 1
    assert 0 <= found["auc_null"] <= 1
    assert [c["coverage"] for c in found["coverage"]] == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert found["kept"] > 0.8


def test_a_file_that_is_not_one_ends_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.npz").write_text("no")
    one = np.zeros((1, 9000))
    np.savez(tmp_path / "y.npz", channels=np.array(["O1"]), fs=128.0, uv_per_lsb=0.05, s00_rest=one, s00_task=one)
    for name in ("x.npz", "y.npz", "z.npz"):
        assert main(["evaluate", str(tmp_path / name), "--layout", "cyton8"]) == 1
        assert name in capsys.readouterr().err


def test_a_subject_without_a_quiet_minute_is_left_out_by_name() -> None:
    dead = np.zeros((8, 128 * 100))
    with pytest.raises(DataFault, match="s99: no baseline yet: 0 of 30"):
        subject("s99", NAMES, dead, dead, 128.0, "cyton8")


def test_the_figures_are_what_they_are_called() -> None:
    label = np.array([0, 0, 0, 1, 1, 1])
    assert auc(np.array([1, 2, 3, 4, 5, 6.0]), label) == 1
    assert auc(np.array([6, 5, 4, 3, 2, 1.0]), label) == 0
    assert auc(np.ones(6), label) == 0.5
    assert auc(np.array([1, 2, 4, 3, 5, 6.0]), label) == pytest.approx(8 / 9)
    assert np.isnan(auc(np.ones(3), np.zeros(3)))
    assert calibration_error(np.array([0.0, 0, 0, 1, 1, 1]), label) == 0
    assert calibration_error(np.full(6, 0.9), label) == pytest.approx(0.4)
    curve = coverage(np.array([0.1, 0.2, 0.6, 0.4, 0.8, 0.9]), label)
    assert curve[0]["accuracy"] == pytest.approx(2 / 3, abs=1e-3)
    assert curve[2]["accuracy"] == 1


def test_it_costs_less_than_a_fiftieth_of_a_core() -> None:
    found = bench_estimate(seconds=60)
    print(found)
    assert found["estimates"] == 60
    assert found["core_share"] <= 0.02


def test_training_leaks_nothing_and_finds_nothing_in_noise() -> None:
    """With labels that mean nothing, those left out are predicted no better than by a coin."""
    script = runpy.run_path(str(SCRIPT))
    random = np.random.default_rng(0)
    crowd = []
    for number in range(12):
        own = random.normal(size=(1, 4, 6))  # what is peculiar to this person, in both parts
        label = np.repeat([0, 1], 60)
        pairs = random.normal(size=(120, 4, 6)) + own + np.where(label, 1, -1)[:, None, None] * random.normal(size=(1, 4, 6))
        crowd.append(eeg_evaluate.Subject(f"s{number}", np.arange(120.0) + 64, label, pairs, 120))
    found = script["leave_one_out"]("cyton8", crowd)
    assert 0.3 < found["auc"] < 0.7
    told = [replace(s, pairs=s.pairs + np.where(s.task, 0.5, -0.5)[:, None, None]) for s in crowd]
    assert script["leave_one_out"]("cyton8", told)["auc"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_leave_one_subject_out_gives_the_figures_in_the_file(layout: str) -> None:
    """The whole training, as the script does it."""
    script = runpy.run_path(str(SCRIPT))
    everyone, faults = eeg_evaluate.subjects(EEGMAT, layout)
    found = script["leave_one_out"](layout, everyone)
    print(json.dumps(found, indent=2))
    stored = tomllib.loads(FILE.read_text(encoding="utf-8"))[layout]["figures"]
    assert faults == []
    assert found["auc"] == pytest.approx(stored["auc"], abs=0.002)
    assert found["auc_null"] == pytest.approx(stored["auc_null"], abs=0.002)
    assert found["ece"] == pytest.approx(stored["ece"], abs=0.01)
    np.testing.assert_allclose(script["train"](layout, everyone).weights, load(layout).weights, atol=1e-3)
    assert evaluate(EEGMAT, layout)["auc"] > found["auc"]  # in-sample: flattering, and not a figure to quote
