"""`bedside bench voice` and `bench fidelity` on a tiny checkpoint, and the sums behind their tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import tiny_csm  # noqa: E402

from device.bench_report import gather  # noqa: E402
from device.voice.build import build  # noqa: E402
from device.voice.csm import Csm, Sampling  # noqa: E402
from device.voice.measure import compare, forced, frame_bytes, prefill_flop, sampled, summary, weight_bytes  # noqa: E402
from device.voice.shape import CSM_1B  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=700)


def bedside(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "device", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_bench_voice_reports_each_precision_in_one_run(checkpoint: Path, tmp_path: Path) -> None:
    done = bedside("bench", "voice", "--checkpoint", checkpoint, "--precisions", "fp32,int8", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())["precisions"]
    assert list(figures) == ["fp32", "int8"]
    for row in figures.values():
        assert list(row["first_frame_s"]) == ["0", "500"]  # what fits 700 positions
        assert all(0 < value < 30 for value in row["first_frame_s"].values())
        assert row["seconds_per_frame"] == pytest.approx(row["depth_s"] + row["backbone_s"], abs=2e-4)
        assert row["rtf"] > 0
        assert 0.2 < row["peak_memory_gb"] < 4
    assert figures["int8"]["bytes"]["weights"] < 0.5 * figures["fp32"]["bytes"]["weights"]
    assert "s/frame" in done.stdout


def test_bench_voice_is_held_against_transformers_and_the_memory(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--precisions", "bf16,int8", "--peers", "transformers", "--json", tmp_path / "out.json", "--picture", tmp_path / "out.svg"]
    done = bedside("bench", "voice", "--checkpoint", checkpoint, *words)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    assert list(figures["peers"]) == ["fp32 dynamic", "fp32 static", "bf16 dynamic", "bf16 static"]
    for name in ("bf16", "int8"):
        assert figures["ratio"][name] == pytest.approx(min(figures["peers"].values()) / figures["seconds_per_frame"][name], rel=0.05)
        assert figures["bandwidth_share"][name] == pytest.approx(figures["gb_per_s"][name] / figures["bandwidth_gb_per_s"], abs=0.01)
        assert figures["engine"][name].startswith("native ")
        assert figures["peak_memory_gb"][name] > 0.2
        assert figures["precisions"][name]["prefill_s"] > 0
    assert list(figures["first_frame_s"]) == ["0", "500"]
    assert figures["mimi_decode_s"] > 0
    assert figures["mimi_encode_s"] > 0
    assert set(figures["projection"]["Thor"]) == {"bf16", "int8"}
    assert "PROJECTION, not measured" in done.stdout
    assert "transformers bf16 static" in done.stdout
    assert "real time" in (tmp_path / "out.svg").read_text()


def test_the_sums_of_the_report() -> None:
    ours = [
        {"depth": d, "backbone": 0.1, "decode": 0.02, "encode": 0.01, "spoken": 0.42, "prefill": 0.5, "first_0": 1.0}
        for d in (0.1, 0.3, 0.2)
    ]
    memory = [{"gb_per_s": speed, "gflop_per_s": 100.0} for speed in (10.0, 30.0, 20.0)]
    peers = [{"fp32 dynamic": 2.0, "fp32 static": 1.5}]
    about: dict[str, dict[str, Any]] = {"memory": {"kernel": "mine"}}
    about["int8"] = {"frame_bytes": 3_000_000_000, "prefill_flop": 25e9, "peak_memory_gb": 2.0, "engine": "torch"}
    figures = gather({"int8": ours, "memory": memory, "transformers fp32": peers}, about, ["int8"])
    assert figures["seconds_per_frame"]["int8"] == pytest.approx(0.3)
    assert figures["ratio"]["int8"] == 5.0
    assert figures["gb_per_s"]["int8"] == 10.0
    assert figures["bandwidth_share"]["int8"] == 0.5
    assert figures["precisions"]["int8"]["prefill_share"] == 0.5
    assert figures["projection"]["AGX Orin 64"]["int8"] == pytest.approx(3 / 102.4 / 0.08, abs=0.01)
    faster = gather(
        {"int8": ours, "int4": ours, "memory": memory}, {**about, "int4": {**about["int8"], "frame_bytes": 10**10}}, ["int8", "int4"]
    )
    assert faster["bandwidth_share"]["int4"] > 1
    assert faster["projection"]["AGX Orin 64"]["int4"] == pytest.approx(10 / 102.4 / 0.08, abs=0.01)


def test_a_frame_reads_the_backbone_once_and_the_depth_decoder_for_each_code() -> None:
    with torch.device("meta"):
        csm = Csm(CSM_1B)
    csm.backbone.keys = csm.backbone.values = torch.zeros(16, 8, 2048, 64, device="meta", dtype=torch.bfloat16)
    cache = 2 * 16 * 8 * 500 * 64 * 2
    assert frame_bytes(csm) - cache == pytest.approx(4 * 4553.4e6, rel=1e-3)  # csm.md, section 4
    assert prefill_flop(csm, 1, 0) == pytest.approx(1.95e9, rel=0.01)


def test_bench_fidelity_compares_with_bf16(checkpoint: Path, tmp_path: Path) -> None:
    done = bedside("bench", "fidelity", "--checkpoint", checkpoint, "--precisions", "int8", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())["precisions"]
    assert set(figures["bf16"]["kl"]) == {0.0}  # against itself
    assert set(figures["bf16"]["same"]) == {1.0}
    assert len(figures["int8"]["same"]) == tiny_csm.CODEBOOKS
    assert all(0.8 < same <= 1 for same in figures["int8"]["same"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["voice", "--random-weights"], "needs either --checkpoint NAME or --shape csm-1b --random-weights"),
        (["fidelity", "--checkpoint", "/nowhere"], "/nowhere (voice.csm_model): no such folder"),
        (["voice", "--shape", "csm-1b", "--random-weights", "--precisions", "int5"], "--precisions 'int5' is not known"),
        (["voice", "--checkpoint", "x", "--json", "/nowhere/out.json"], "/nowhere/out.json can't be written: there is no folder /nowhere"),
        (["voice", "--checkpoint", "x", "--picture", "/tmp"], "/tmp can't be written"),
        (["voice", "--checkpoint", "x", "--picture", "out.bmpx"], "out.bmpx can't be drawn: name it .svg or .png"),
    ],
)
def test_a_wrong_bench_is_one_sentence(words: list[str], says: str) -> None:
    done = bedside("bench", *words)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_divergence_and_agreement_are_what_the_textbook_says() -> None:
    wanted = torch.log(torch.tensor([[[0.5, 0.5, 1e-9], [0.8, 0.1, 0.1]]]))
    found = torch.log(torch.tensor([[[0.25, 0.75, 1e-9], [0.8, 0.1, 0.1]]]))
    figures = compare(wanted, found)
    assert figures["kl"] == [pytest.approx(0.1438, abs=1e-4), 0.0]  # 0.5 ln 2 + 0.5 ln 2/3
    assert figures["same"] == [0.0, 1.0]


def test_forced_logits_are_those_that_sampling_drew_from(checkpoint: Path) -> None:
    csm = build(str(checkpoint), "fp32", "cpu").csm
    codes = sampled(csm, [1, 2, 3], 6)
    logits = forced(csm, [1, 2, 3], codes)
    assert logits.shape == (6, tiny_csm.CODEBOOKS, tiny_csm.CODEBOOK + 3)
    # Greedy codes are the arg-max of their own forced logits, at every codebook of every frame.
    greedy = []
    with torch.inference_mode():
        hidden = csm.listen(csm.text_rows([1, 2, 3]), 0)[-1:]
        for position in range(3, 9):
            greedy.append(csm.frame(hidden, Sampling(64, greedy=True))[0])
            hidden = csm.listen(csm.sound_rows(greedy[-1][None]), position)
    assert torch.equal(forced(csm, [1, 2, 3], torch.stack(greedy)).argmax(-1), torch.stack(greedy))


def test_medians_are_taken_part_by_part() -> None:
    rounds: list[dict[str, Any]] = [
        {"depth": depth, "backbone": 0.1, "decode": 0.02, "encode": 0.01, "spoken": 0.42, "prefill": 3.0, "first_0": 1.0, "first_500": 2.0}
        for depth in (0.2, 9.0, 0.3)
    ]
    figures = summary(rounds)
    assert (figures["seconds_per_frame"], figures["rtf"]) == (0.4, 5.25)
    assert figures["first_frame_s"] == {"0": 1.0, "500": 2.0}


def test_bytes_count_shared_weights_once(checkpoint: Path) -> None:
    csm = build(str(checkpoint), "fp32", "cpu").csm
    csm.allocate("cpu", torch.float32)  # the native engine's caches are whole blocks
    numbers = sum(parameter.numel() for parameter in set(csm.parameters()))
    size = weight_bytes(csm)
    assert size["weights"] == 4 * numbers
    s = csm.shape
    assert size["cache"] == 4 * (s.kv_numbers + 2 * s.depth.layers * s.depth.kv_heads * s.depth.head * s.codebooks)
    assert size["text_on_disk"] == 4 * s.text_ids * s.backbone.width
