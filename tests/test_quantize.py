"""Weights of 8 and 4 bits, with the real torchao and its real kernels on small layers."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")  # CUDA parts, which a CPU can't load
torch = pytest.importorskip("torch")
pytest.importorskip("torchao")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from device.voice import quantize  # noqa: E402
from device.voice.plain import VoiceFault  # noqa: E402

logging.getLogger("torchao").setLevel(logging.ERROR)
MADE_BY = {"scheme": "int8", "device": "cpu", "source": "a small one", "source_sha256": "0" * 64}


def linear(rows: int, width: int, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(width, rows, bias=False)


def decibels(wanted: torch.Tensor, found: torch.Tensor) -> float:
    wanted = wanted.detach()
    return 10 * math.log10(wanted.pow(2).sum() / (wanted - found.float()).pow(2).sum())


def layers(scheme: str) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {"depth.layers.0.gate_up": linear(48, 128), "heads.0": linear(51, 128), "heads.7": linear(51, 128)}
    made["audio_embedding"] = nn.Embedding(60, 128)
    for name, module in made.items():
        quantize.quantise(name, module, scheme, "cpu")
    return made


def state(scheme: str) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": module.weight.detach() for name, module in layers(scheme).items()}


def sentence(caught: pytest.ExceptionInfo[VoiceFault]) -> str:
    """One sentence, without a stack in it or behind it."""
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert caught.value.__cause__ is None
    return said


@pytest.mark.parametrize(
    ("scheme", "name", "kind"),
    [
        ("int8", "backbone.layers.15.down", "int8"),
        ("int8", "heads.31", "int8"),
        ("int8", "audio_embedding", "int8"),
        ("int4", "heads.0", "int8"),
        ("int4", "depth.layers.3.down", "int8"),
        ("int4", "depth.layers.3.gate_up", "int4"),
        ("int4", "backbone.layers.15.down", "int4"),
        ("int4", "projection", "int8"),
        ("int4", "audio_embedding", "int8"),
        ("bf16", "backbone.layers.0.qkv", "keep"),
    ],
)
def test_the_table_gives_each_layer_its_bits(scheme: str, name: str, kind: str) -> None:
    assert quantize.kind_of(name, scheme) == kind


@pytest.mark.parametrize(("scheme", "floor", "most"), [("fp32", 100, 4), ("bf16", 45, 2), ("int8", 38, 1.02), ("int4", 18, 0.54)])
def test_a_layer_computes_the_same_in_fewer_bytes(scheme: str, floor: float, most: float) -> None:
    layer = linear(256, 1024)
    x = torch.randn(60, 1024)
    wanted = layer(x)
    quantize.quantise("depth.layers.0.gate_up", layer, scheme, "cpu")
    dtype = quantize.compute_dtype(scheme, "cpu")
    with torch.inference_mode():
        found = layer(x.to(dtype))
    assert found.dtype == dtype
    assert decibels(wanted, found) > floor
    assert held(layer.weight) <= most * 256 * 1024


def held(weight: torch.Tensor) -> int:
    """Bytes of a weight, of one made of several tensors too."""
    inner = getattr(weight, "__tensor_flatten__", None)
    return sum(getattr(weight, name).nbytes for name in inner()[0]) if inner else weight.nbytes


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_row_does_not_depend_on_the_rows_beside_it(scheme: str) -> None:
    """Or a reply would depend on how its history was cut into prefills."""
    layer = linear(96, 256)
    quantize.quantise("depth.layers.0.gate_up", layer, scheme, "cpu")
    x = torch.randn(60, 256, dtype=torch.bfloat16)
    with torch.inference_mode():
        together = layer(x)
        assert torch.equal(together, torch.cat([layer(row[None]) for row in x]))
        assert torch.equal(together, layer(x))


def test_int8_takes_views_and_batches() -> None:
    """ATen's kernel reads aligned vectors and ends the process on others; csm.py passes views of a wider row."""
    layer = linear(51, 128)
    quantize.quantise("heads.1", layer, "int8", "cpu")
    wide = torch.randn(1, 300, dtype=torch.bfloat16)
    for start in range(0, 40):
        view = wide[:, start : start + 128]
        assert torch.equal(layer(view), layer(view.clone()))
    many = torch.randn(2, 3, 128, dtype=torch.bfloat16)
    assert layer(many).shape == (2, 3, 51)
    assert torch.equal(layer(many)[1, 2], layer(many[1, 2][None])[0])
    assert layer(many[:, :, ::1].transpose(0, 1)).shape == (3, 2, 51)


class Largest(TorchDispatchMode):  # type: ignore[misc]
    """The size of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, made.numel())
        return made


def test_an_embedding_is_int8_and_only_its_rows_are_converted() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(5000, 64)  # more rows than are quantised at once
    plain = table.weight.detach().clone()
    ids = torch.tensor([[0, 4095, 4096], [4999, 7, 7]])
    quantize.quantise("audio_embedding", table, "int4", "cpu")
    with torch.no_grad(), Largest() as largest:
        found = table(ids)
    assert largest.elements == 6 * 64
    assert (found.shape, found.dtype) == ((2, 3, 64), torch.bfloat16)
    assert decibels(plain[ids], found) > 38
    assert held(table.weight) == 5000 * (64 + 2)


def test_sizes_that_do_not_fit_are_refused_by_name_and_nothing_changes() -> None:
    for rows, width, said in (
        (48, 32, "widths that are multiples of 128; depth.layers.0.gate_up has 32"),
        (51, 128, "heights that are multiples of 16; depth.layers.0.gate_up has 51"),
    ):
        layer = linear(rows, width)
        before = layer.weight
        with pytest.raises(VoiceFault) as caught:
            quantize.quantise("depth.layers.0.gate_up", layer, "int4", "cpu")
        assert f"voice.precision = 'int4' needs {said}" in sentence(caught)
        assert "choose int8" in str(caught.value)
        assert layer.weight is before
    with pytest.raises(VoiceFault) as caught:
        quantize.quantise("heads.1", linear(51, 24), "int8", "cpu")
    assert "multiples of 16; heads.1 has 24: choose bf16." in sentence(caught)


@pytest.mark.parametrize("scheme", list(quantize.SCHEMES))
def test_every_scheme_runs_on_this_cpu_and_asking_costs_no_randomness(scheme: str) -> None:
    before = torch.get_rng_state()
    quantize.choose("cpu", scheme)
    assert torch.equal(before, torch.get_rng_state())


def test_what_does_not_run_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VoiceFault) as caught:
        quantize.choose("cpu", "int3")
    assert "'int3'" in sentence(caught)
    assert "fp32, bf16, int8, int4" in str(caught.value)
    if not torch.cuda.is_available():
        with pytest.raises(VoiceFault) as caught:
            quantize.choose("orin", "int4")
        assert "orin" in sentence(caught)
        assert "no GPU" in str(caught.value)

    def broken(module: nn.Linear) -> None:
        raise NotImplementedError("no such kernel.\n  File somewhere")

    monkeypatch.setitem(quantize.KERNELS["cpu"], "int4", broken)
    with pytest.raises(VoiceFault) as caught:
        quantize.choose("cpu", "int4")
    assert "int4" in sentence(caught)
    assert "(no such kernel): choose 'int8' or 'bf16'." in str(caught.value)
    quantize.choose("cpu", "int8")

    monkeypatch.setitem(quantize.KERNELS["cpu"], "int8", lambda layer: layer.weight.zero_())
    with pytest.raises(VoiceFault, match="wrong numbers"):
        quantize.choose("cpu", "int8")


@pytest.mark.parametrize("scheme", ["bf16", "int8", "int4"])
def test_a_file_gives_the_very_same_numbers(tmp_path: Path, scheme: str) -> None:
    made = layers(scheme)
    quantize.save({f"{n}.weight": m.weight.detach() for n, m in made.items()}, tmp_path / "new", {**MADE_BY, "scheme": scheme})
    loaded, manifest = quantize.load(tmp_path / "new", "cpu")
    assert (manifest["scheme"], manifest["source"]) == (scheme, "a small one")
    x, ids = torch.randn(3, 128, dtype=torch.bfloat16), torch.tensor([0, 59, 3])
    for name, module in made.items():
        with torch.device("meta"):
            rows, width = module.weight.shape
            fresh = nn.Embedding(rows, width) if isinstance(module, nn.Embedding) else nn.Linear(width, rows, bias=False)
        fresh.load_state_dict({"weight": loaded[f"{name}.weight"]}, assign=True)
        given = ids if isinstance(module, nn.Embedding) else x
        with torch.inference_mode():
            assert torch.equal(fresh(given), module(given)), name
        if isinstance(fresh.weight, quantize.Int8Rows):  # the kernel reads aligned vectors out of the mapped file
            assert fresh.weight.codes.data_ptr() % 64 == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bedside.json", "weights.pt"]


def test_a_quantised_weight_can_be_moved_and_compiled() -> None:
    """Compiled from torch 2.13 on (2.9 can't trace it): nothing compiles on a CPU, and a GPU has torchao's own weights."""
    layer = nn.Sequential(linear(51, 128))
    quantize.quantise("heads.1", layer[0], "int8", "cpu")
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    wanted = layer(x)
    if torch.__version__ >= (2, 13):
        torch.compiler.reset()  # a process compiles a function eight times at most, and other tests have had theirs
        with torch.no_grad():
            assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), wanted)
    assert torch.equal(layer.to("cpu", torch.bfloat16)(x), wanted)
    layer.to(torch.float32)
    assert (layer[0].weight.codes.dtype, layer[0].weight.dtype) == (torch.int8, torch.float32)
    assert decibels(layer(x.float()), wanted) > 40


def test_a_row_of_a_large_tensor_is_saved_without_the_rest(tmp_path: Path) -> None:
    quantize.save({"norm": torch.zeros(1000, 1000)[3]}, tmp_path, {**MADE_BY, "scheme": "fp32"})
    assert (tmp_path / "weights.pt").stat().st_size < 20_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 99}, "in format 99, here is 2"),
        ({"torch": "2.0.1"}, "quantised with torch 2.0.1, here is"),
        ({"torchao": "0.1"}, "quantised with torchao 0.1, here is"),
        ({"device": "orin"}, "for device orin, here is cpu"),
    ],
)
def test_a_file_made_for_something_else_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    quantize.save(state("int8"), tmp_path, MADE_BY)
    manifest = json.loads((tmp_path / "bedside.json").read_text())
    (tmp_path / "bedside.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(VoiceFault) as caught:
        quantize.load(tmp_path, "cpu")
    assert said in sentence(caught)
    assert "run 'bedside models quantize' again from a small one" in str(caught.value)


def test_a_file_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    quantize.save(state("int8"), tmp_path, MADE_BY)
    weights, notes = tmp_path / "weights.pt", tmp_path / "bedside.json"
    whole = weights.read_bytes()

    def refused() -> str:
        with pytest.raises(VoiceFault) as caught:
            quantize.load(tmp_path, "cpu")
        return sentence(caught)

    weights.write_bytes(whole[:-100])
    assert f"has {len(whole) - 100} bytes of {len(whole)}" in refused()
    middle = len(whole) // 2
    weights.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])  # one flipped bit
    assert "damaged" in refused()
    garbage = b"not weights" * 50
    weights.write_bytes(garbage)
    facts = json.loads(notes.read_text())
    notes.write_text(json.dumps({**facts, "bytes": len(garbage), "sha256": quantize.fingerprint([weights])}))
    assert "can't be read" in refused()
    weights.unlink()
    assert "weights.pt: No such file" in refused()
    for broken in ("{", "[]", "{}", "\x00\xff"):
        notes.write_text(broken)
        assert "not a manifest" in refused()
    notes.unlink()
    assert "bedside.json: No such file" in refused()


def test_an_interrupted_save_leaves_nothing_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize.save(state("int8"), tmp_path, MADE_BY)

    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(VoiceFault) as caught:
        quantize.save(state("int8"), tmp_path, MADE_BY)
    assert "can't be written" in sentence(caught)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    with pytest.raises(VoiceFault, match="No such file"):
        quantize.load(tmp_path, "cpu")


def test_a_fingerprint_tells_names_and_bytes_apart_and_not_folders(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "a.safetensors").write_bytes(b"1234")
        (folder / "b.safetensors").write_bytes(b"5678")
    files = [one / "a.safetensors", one / "b.safetensors"]
    mark = quantize.fingerprint(files)
    assert mark == quantize.fingerprint(files[::-1]) == quantize.fingerprint([two / "b.safetensors", two / "a.safetensors"])
    (two / "b.safetensors").write_bytes(b"5679")
    assert mark != quantize.fingerprint([two / "a.safetensors", two / "b.safetensors"])
