"""The native engine against PyTorch: products, whole frames, threads, sanitizers, and what happens where it can't run."""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from torch import nn  # noqa: E402

from device.voice import native, quantize  # noqa: E402
from device.voice.build import start_engine  # noqa: E402
from device.voice.csm import Csm, Sampling  # noqa: E402
from device.voice.native.engine import Native, misfit  # noqa: E402
from device.voice.random_weights import random_csm  # noqa: E402
from device.voice.rows import Int4Rows, Int8Rows  # noqa: E402
from device.voice.shape import Shape, StackShape  # noqa: E402

if why := native.reason():
    pytest.skip(f"no native engine here: {why}", allow_module_level=True)

torch.set_num_threads(1)  # matrices this small are slower on two
logging.getLogger("torchao").setLevel(logging.ERROR)

FOLDER = Path(native.__file__).parent
SHAPE = Shape(StackShape(256, 2, 4, 2, 64, 384, 200), StackShape(128, 2, 4, 2, 32, 256, 6), codebooks=6, ids=67, sounds=64, text_ids=300)
PRECISIONS = ["fp32", "bf16", "int8", "int4"]


def kernels_here() -> list[str]:
    out = []
    for name in ("portable", "avx2", "avx512", "vnni"):
        try:
            out.append(native.kernels(name))
        except native.NativeFault:
            continue
    return out


KERNELS = kernels_here()


def weight(precision: str, rows: int, width: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    layer = nn.Linear(width, rows, bias=False)
    if precision == "int4":  # whose rows must suit ATen's kernel too, when quantise() makes it
        layer.to(torch.bfloat16)
        quantize.KERNELS["cpu"]["int4"](layer)
    else:
        quantize.quantise("heads.1", layer, precision, "cpu")
    return layer.weight.data


def plain(found: torch.Tensor) -> torch.Tensor:
    """float64 of a weight in any of our formats."""
    if isinstance(found, Int4Rows):
        return found.codes().double() * found.scale.double().repeat_interleave(128, 1)
    if isinstance(found, Int8Rows):
        return found.codes.double() * found.scale.double()[:, None]
    return found.double()


def product(found: torch.Tensor, x: torch.Tensor, kernels: str, threads: int) -> torch.Tensor:
    owner: Any = Native.__new__(Native)
    owner._kept = []
    out = torch.full((len(x), len(found)), torch.nan)
    at = [ctypes.c_void_p(t.data_ptr()) for t in (x, out)]
    native.library().csm_multiply(ctypes.byref(owner._matrix(found)), kernels.encode(), threads, at[0], len(x), at[1])
    return out


def with_engine(csm: Csm, kernels: str = "", threads: int = 1) -> Csm:
    csm.engine = Native(csm, threads, kernels)
    return csm


def dequantised(csm: Csm) -> Csm:
    """An fp32 model in PyTorch with the same weights: what rounds nothing would say this."""
    with torch.device("meta"):
        out = Csm(csm.shape)
    state = {name: plain(tensor).float() if tensor.ndim == 2 else tensor.float() for name, tensor in csm.state_dict().items()}
    out.load_state_dict(state, assign=True)
    out.requires_grad_(False)
    out.text = csm.text
    out.allocate("cpu", torch.float32)
    return out


@torch.inference_mode()
def told(csm: Csm, frames: int = 8, cut: tuple[int, ...] = (40,)) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy codes (frames, codebooks) after 70 rows of text, heard in pieces that end at `cut`, and all hidden states."""
    rows = csm.text_rows(list(range(1, 71)))
    edges = [0, *cut, 70]
    heard = [csm.listen(rows[a:b], a) for a, b in itertools.pairwise(edges)]
    hidden, out = heard[-1][-1:], []
    for number in range(frames):
        codes, _ = csm.frame(hidden, Sampling(csm.shape.sounds, greedy=True))
        out.append(codes)
        hidden = csm.listen(csm.sound_rows(codes[None]), 70 + number)
        heard.append(hidden)
    return torch.stack(out), torch.cat(heard).float()


# Products ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-6), ("bf16", 1e-6), ("int8", 1e-4), ("int4", 1e-4)])
def test_a_product_is_that_of_the_plain_numbers(kernels: str, precision: str, bound: float) -> None:
    for rows, width, count in ((1, 128, 1), (67, 256, 2), (16, 1024, 3), (130, 384, 70), (48, 160, 5), (5, 96, 9)):
        if precision == "int4" and width % 128:
            continue
        found = weight(precision, rows, width, seed=rows)
        x = torch.randn(count, width) * torch.logspace(-3, 3, count)[:, None]
        wanted = x.double() @ plain(found).T
        made = product(found, x, kernels, 1)
        away = (made - wanted).norm(dim=1) / (x.double().norm(dim=1) * plain(found).norm() / width**0.5)
        assert away.max() < bound, (rows, width, count)
        for threads in (2, 3, 5):
            assert torch.equal(product(found, x, kernels, threads), made)
        assert torch.equal(torch.cat([product(found, row[None], kernels, 1) for row in x]), made)


def test_int4_rows_are_torchaos_codes_in_half_a_byte() -> None:
    torch.manual_seed(0)
    codes, scale = torch.randint(-8, 8, (48, 384), dtype=torch.int8), torch.rand(48, 3).bfloat16()
    found = Int4Rows.pack(codes, scale)
    assert torch.equal(found.codes(), codes)
    assert found.words.nbytes == 48 * 384 // 2
    x = torch.randn(5, 384, dtype=torch.bfloat16)
    wanted = x.double() @ plain(found).T
    assert (torch.nn.functional.linear(x, found) - wanted).abs().max() < 0.02 * wanted.abs().max()  # bf16 out of ATen


def test_kernels_of_another_processor_are_refused() -> None:
    with pytest.raises(native.NativeFault, match="the kernels 'neon9' do not run on this processor"):
        native.kernels("neon9")
    assert native.kernels() == KERNELS[-1]
    for name in {"portable", "avx2", "avx512", "vnni"} - set(KERNELS):
        with pytest.raises(native.NativeFault, match="do not run"):
            native.kernels(name)


# Whole frames --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_at_fp32_codes_and_hidden_states_are_pytorchs(kernels: str, threads: int) -> None:
    csm = random_csm(SHAPE, "fp32", "cpu")
    wanted, hidden = told(csm)
    codes, found = told(with_engine(csm, kernels, threads))
    assert torch.equal(codes, wanted)
    assert torch.allclose(found, hidden, atol=2e-5)
    assert len(codes.unique()) > 10


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_fewer_bits_say_what_an_fp32_model_with_these_weights_says(precision: str) -> None:
    """Only the cache is rounded, to bf16: less than the weights themselves were, and than all that PyTorch rounds."""
    csm = random_csm(SHAPE, precision, "cpu")
    exact, whole = dequantised(csm), random_csm(SHAPE, "fp32", "cpu")
    wanted, _ = told(exact)
    text, forced = csm.text_rows(list(range(1, 71))), wanted[0]

    def logits(model: Csm) -> torch.Tensor:
        with torch.inference_mode():
            return model.forced_logits(model.listen(text.to(model.dtype), 0)[-1:].to(model.dtype), forced)

    pytorch, weights = (logits(csm) - logits(exact)).norm(), (logits(whole) - logits(exact)).norm()
    with_engine(csm)
    away = (logits(csm) - logits(exact)).norm()
    assert away < 0.4 * weights
    assert away < 0.4 * pytorch


def test_the_cut_of_a_history_does_not_change_a_bit() -> None:
    for precision in PRECISIONS:
        csm = with_engine(random_csm(SHAPE, precision, "cpu"), threads=2)
        codes, hidden = told(csm, cut=())
        for cut in ((64,), (1, 2, 5, 9, 40, 69), tuple(range(1, 70))):
            again, other = told(csm, cut=cut)  # over the rows of before: going back needs nothing else
            assert torch.equal(other, hidden)
            assert torch.equal(again, codes)


def test_the_last_position_is_like_any_other() -> None:
    csm = random_csm(SHAPE, "fp32", "cpu")
    rows = torch.randn(200, 256)
    with torch.inference_mode():
        wanted = csm.listen(rows, 0)
        found = with_engine(csm).listen(rows, 0)
        assert torch.allclose(found, wanted, atol=5e-5)
        with pytest.raises(AssertionError):
            csm.listen(rows[:1], 200)


def test_a_sampled_frame_is_pytorchs_for_the_same_chance() -> None:
    csm = random_csm(SHAPE, "fp32", "cpu")
    hidden = csm.listen(csm.text_rows([4, 5, 6]), 0)[-1:].clone()

    def drawn(**how: Any) -> list[tuple[list[int], list[float]]]:
        sampling = Sampling(csm.shape.sounds, generator=torch.Generator().manual_seed(3), **how)
        return [(codes.tolist(), readings.tolist()) for codes, readings in (csm.frame(hidden, sampling) for _ in range(30))]

    for how in ({}, {"temperature": 0.3}, {"top_k": 3}, {"top_k": 1000}, {"temperature": 5.0, "top_k": 64}):
        csm.engine = None
        csm.allocate("cpu", torch.float32)
        wanted = drawn(**how)
        with_engine(csm, threads=2)
        found = drawn(**how)
        assert [codes for codes, _ in found] == [codes for codes, _ in wanted]
        for (_, a), (_, b) in zip(found, wanted, strict=True):
            assert a == pytest.approx(b, rel=1e-4)
        assert drawn(**how) == found
        assert max(max(codes) for codes, _ in found) < SHAPE.sounds


@pytest.mark.parametrize("what", [torch.nan, torch.inf])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_numbers_that_break_are_reported(what: float, precision: str) -> None:
    csm = with_engine(random_csm(SHAPE, precision, "cpu"))
    rows = csm.text_rows([1, 2, 3])
    rows[1, 7] = what
    with torch.inference_mode():
        _, readings = csm.frame(csm.listen(rows, 0)[-1:], Sampling(64))
        assert not readings[0].isfinite()
        _, readings = csm.frame(csm.listen(csm.text_rows([1, 2, 3]), 0)[-1:], Sampling(64))
        assert readings[0].isfinite()  # and it is over


def test_two_embeddings_that_differ_stay_two() -> None:
    shape = replace(SHAPE, tied=False)
    csm = random_csm(shape, "fp32", "cpu")
    assert not torch.equal(csm.depth_embedding.weight, csm.audio_embedding.weight)
    wanted, _ = told(csm)
    assert torch.equal(told(with_engine(csm))[0], wanted)


# Threads -------------------------------------------------------------------------------------


def threads_now() -> int:
    return len(os.listdir("/proc/self/task"))


def within(seconds: float, true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_no_thread_spins_between_frames_and_all_end_with_the_engine() -> None:
    csm, before = random_csm(SHAPE, "int8", "cpu"), threads_now()
    with_engine(csm, threads=4)
    told(csm, 2)
    assert threads_now() == before + 3
    used = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - used < 0.1  # three that spin would take half a second on two cores
    csm.engine = None
    assert within(5, lambda: threads_now() == before)


# Where it can't run --------------------------------------------------------------------------


@pytest.fixture
def _fresh() -> Any:
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.mark.usefixtures("_fresh")
def test_without_the_library_pytorch_speaks_and_says_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("importlib.machinery.EXTENSION_SUFFIXES", [".none"])
    csm = random_csm(SHAPE, "int8", "cpu")
    with caplog.at_level(logging.WARNING):
        said = start_engine(csm)
    assert said.endswith("it was not built here: install g++ and run scripts/setup again.")
    assert "csm_engine_missing" in caplog.text
    assert csm.engine is None
    assert told(csm, 1)[0].shape == (1, 6)


@pytest.mark.usefixtures("_fresh")
def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "VERSION", 99)
    assert f"is of version {native_version()}, this program of 99: run scripts/setup again" in str(native.reason())


def native_version() -> int:
    return int(ctypes.CDLL(str(next(FOLDER.glob("_csm*.so")))).csm_version())


def test_a_shape_that_does_not_fit_names_the_size() -> None:
    for shape, said in (
        (replace(SHAPE, backbone=replace(SHAPE.backbone, width=200)), "its backbone's width is 200, no multiple of"),
        (replace(SHAPE, depth=replace(SHAPE.depth, ffn=200)), "its depth decoder's inner width is 200, no multiple of"),
        (replace(SHAPE, depth=replace(SHAPE.depth, heads=64, head=2)), "its depth decoder's heads have 2 numbers, no multiple of"),
    ):
        assert said in str(misfit(shape, native.kernels()))
    assert misfit(SHAPE, native.kernels()) is None


def test_weights_it_does_not_know_are_left_to_pytorch() -> None:
    csm = random_csm(SHAPE, "bf16", "cpu")
    quantize._through_torchao(csm.projection, "torchao.quantization", "Int8WeightOnlyConfig", version=2)
    assert "it has weights of the kind Int8Tensor" in start_engine(csm)
    assert csm.engine is None
    assert told(csm, 1)[0].shape == (1, 6)  # its caches are PyTorch's again


STARVED = """
import resource, torch
from device.voice.build import start_engine
from device.voice.random_weights import random_csm
from test_native import SHAPE
csm = random_csm(SHAPE, "int8", "cpu")
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, -1))
try:
    start_engine(csm, threads=200)
except RuntimeError as error:
    print(type(error).__name__, error)
"""


def test_threads_that_can_not_be_had_are_one_sentence() -> None:
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ran = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, env=where, timeout=120)
    assert "VoiceFault CSM's working memory for 200 threads can't be had: stop other programs, or set voice.threads lower." in ran.stdout


# Sanitizers, and a Jetson's instruction set ---------------------------------------------------


def check_program(compiler: str, folder: Path, *flags: str) -> Path:
    """The whole engine without Python (native_check.cpp)."""
    sources = [Path(__file__).parent / "native_check.cpp", *sorted(FOLDER.glob("kernels_*.cpp"))]
    common = ["-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-w", "-pthread", f"-I{FOLDER}", *flags]
    objects = []
    for source in sources:
        objects.append(folder / f"{source.stem}.o")
        subprocess.run([compiler, *common, "-c", str(source), "-o", str(objects[-1])], check=True)
    subprocess.run([compiler, *common, *map(str, objects), "-o", str(folder / "check")], check=True)
    return folder / "check"


def assert_runs(*command: object) -> None:
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.startswith("4 formats, ")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(kind: str, tmp_path: Path) -> None:
    """A small model of every format through the C interface, with one thread and with three: equal bits, and no complaint."""
    assert_runs(check_program("g++", tmp_path, "-O1", "-g", f"-fsanitize={kind}", "-fno-sanitize-recover=all"))


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")), reason="needs g++-aarch64-linux-gnu and qemu-user"
)
def test_a_jetsons_instruction_set_runs_every_format(tmp_path: Path) -> None:
    assert_runs("qemu-aarch64", check_program("aarch64-linux-gnu-g++", tmp_path, "-O2", "-static"))
