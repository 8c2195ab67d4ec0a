"""`bedside bench load` on a tiny checkpoint: its figures, its judgement and its sound server. It asserts no latency."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import tiny_csm  # noqa: E402
from pulse import until  # noqa: E402

from device import bench_load, config  # noqa: E402
from device.bench_load import UNITS, Load, Seen, misses, show, summary  # noqa: E402
from device.bench_sound import CountingCard, sound_server  # noqa: E402
from device.run import NICE  # noqa: E402
from device.voice.build import build  # noqa: E402
from device.voice.measure import chatter  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=64)


def bedside(*words: object, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, where `before` is done first."""
    program = f"import sys; from device import bench_load; {before}; from device.__main__ import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, timeout=280)


def figures(**row: Any) -> dict[str, Any]:
    """Figures in which the units' own load did this, and every other load far worse."""
    bad = {"light_ms": {"p99": 900.0}, "late_blocks": 99, "audio_blocks": 100, "others_cores": [0.0]}
    good = {"light_ms": {"p99": 2.0}, "late_blocks": 0, "audio_blocks": 100, "others_cores": [0.0, 0.1]}
    return {"cores": 2, "loads": {"idle": bad, "nice 0": bad, UNITS: {**good, **row}}}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, []),
        ({"light_ms": {"p99": 99.9}}, []),
        ({"light_ms": {"p99": 100.0}}, ["button to light took 100 ms (p99) beside the voice at nice 5; the limit is 100 ms"]),
        ({"late_blocks": 1}, ["1 of 100 blocks of sound came too late beside the voice at nice 5"]),
        ({"late_blocks": None, "audio_blocks": None}, []),
        ({"light_ms": {"p99": 240.0}, "late_blocks": 3}, ["button to light took 240 ms", "3 of 100 blocks"]),
        ({"late_blocks": 1, "others_cores": [0.1, 1.3]}, ["other programs took up to 1.3 of 2 cores meanwhile"]),
        ({"others_cores": [2.0, 2.0]}, []),
    ],
)
def test_only_the_load_of_the_units_is_judged(row: dict[str, Any], says: list[str]) -> None:
    found = misses(figures(**row))
    assert len(found) == len(says)
    for sentence, part in zip(found, says, strict=True):
        assert part in sentence


def test_milliseconds_counts_and_frames_of_all_rounds() -> None:
    seen = Seen(light=[0.001] * 98 + [0.1, 0.3], loop=[0.002, 0.004], blocks=500, late=2, gap=0.25, others=[0.5, 1.0], frames=[4.0, 5.0])
    row = summary(Load(5, 2), seen, card=True)
    assert (row["presses"], row["light_ms"]["p50"], row["light_ms"]["max"]) == (100, 1.0, 300.0)
    assert 100 <= row["light_ms"]["p99"] <= 300
    assert row["loop_ms"]["p50"] == 3.0
    assert (row["late_blocks"], row["audio_blocks"], row["block_gap_ms"]) == (2, 500, 250.0)
    assert (row["others_cores"], row["frames_per_s"]) == ([0.5, 1.0], [4.0, 5.0])


def test_the_units_load_is_the_one_of_the_unit() -> None:
    unit = (config.ROOT / "systemd" / "bedside-voice.service").read_text()
    assert re.findall(r"(?m)^Nice=(.*)$", unit) == [str(NICE)]
    compared = bench_load.loads(2)
    assert compared == {"idle": Load(5, 0), "nice 0": Load(0, 2), UNITS: Load(5, 2), "nice 5, a core free": Load(5, 1)}
    assert all(load.threads <= 1 for load in bench_load.loads(1).values())


def test_the_report_has_every_figure(checkpoint: Path, tmp_path: Path) -> None:
    """Two processes of the tiny voice, the real companion, and the real sound card where there is a server for it.

    No light is as fast as nothing at all: so much of a miss is certain, and is said.
    """
    with sound_server() as server:
        audible = server is not None
    words = ["--checkpoint", checkpoint, "--seconds", "2", "--json", tmp_path / "out.json"]
    done = bedside("bench", "load", *words, before="bench_load.LIMIT = 0.0")
    assert done.returncode == 1, done.stderr
    assert "MISSED: button to light took" in done.stdout, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert done.stdout.count("MISSED: ") == len(found["misses"])
    assert (found["audio"] is not None) == audible
    assert found["engine"].startswith("native ")
    assert found["device"] in ("cpu", "cuda")
    for name, row in found["loads"].items():
        assert row["presses"] >= 2, name
        assert row["light_ms"]["p50"] <= row["light_ms"]["p99"] <= row["light_ms"]["max"] < 1000 * bench_load.UNANSWERED
        assert 0 <= row["loop_ms"]["p50"] <= row["loop_ms"]["max"]
        assert (row["frames_per_s"] is None) == (name == "idle")
        assert name == "idle" or min(row["frames_per_s"]) > 1
        assert len(row["others_cores"]) == 2
        assert all(0 <= cores < found["cores"] + 0.5 for cores in row["others_cores"])
        if audible:
            assert row["audio_blocks"] > 100  # 65 a second both ways, over 4 s
    assert all(name in done.stdout for name in found["loads"])


def test_without_a_sound_server_the_report_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with sound_server() as server:
        assert server is None
    row = summary(Load(5, 2), Seen(light=[0.001], loop=[0.001], others=[0.0], frames=[2.0]), card=False)
    assert (row["audio_blocks"], row["late_blocks"], row["block_gap_ms"]) == (None, None, None)
    head = {"checkpoint": "x", "precision": "int8", "engine": "native", "cores": 2, "audio": None}
    show({**head, "loads": {UNITS: row}, "misses": []})
    said = capsys.readouterr().out
    assert "no PulseAudio or no PyAudio here, so none was measured" in said
    assert re.search(r"nice 5 +2 +1 .* - +- +2\.0 +0\.0$", said, re.M)


def test_a_block_that_comes_too_late_is_counted_once() -> None:
    """The speaker's callback stands still for half a second, on a sound server of its own."""
    before = dict(os.environ)
    with sound_server() as server:
        if server is None:
            pytest.skip("no PulseAudio, or no PyAudio")
        card = CountingCard(config.Audio(kind="card"))
        card.open()
        card.count()
        until(lambda: card.blocks > 40, "blocks are counted")
        late = card.late  # on a busy machine it may have happened already
        with card._lock:
            time.sleep(0.5)
        until(lambda: card.late > late, "the loss is counted")
        assert card.gap > 0.4  # the callback that stood still had begun already
        card.close()
    assert {key: os.environ.get(key) for key in before} == before
    assert "ALSA_CONFIG_PATH" not in os.environ or "ALSA_CONFIG_PATH" in before


def test_a_voice_that_speaks_without_a_pause_begins_anew_where_its_positions_end(checkpoint: Path) -> None:
    built = build(str(checkpoint), "int8", "cpu")
    frames = chatter(built.csm, built.mimi(), text=60)
    starts: list[int] = []
    listen = built.csm.listen
    built.csm.listen = lambda rows, start: starts.append(start) or listen(rows, start)  # type: ignore[method-assign, func-returns-value]
    for _ in range(9):
        next(frames)
    assert starts == [0, 60, 61, 62, 63, 0, 60, 61, 62, 63, 0, 60]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "bench load needs either --checkpoint NAME or --shape csm-1b --random-weights"),
        (["--checkpoint", "x", "--precisions", "int8,int4"], "bench load takes one of --precisions"),
        (["--checkpoint", "x", "--seconds", "0"], "--seconds from 1 to 3600"),
        (["--checkpoint", "x", "--json", "/nowhere/out.json"], "/nowhere/out.json can't be written: there is no folder /nowhere"),
        (["--checkpoint", "/nowhere"], "/nowhere (voice.csm_model): no such folder"),
    ],
)
def test_a_wrong_bench_is_one_sentence(words: list[str], says: str) -> None:
    done = bedside("bench", "load", *words)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
