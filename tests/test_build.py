"""From a checkpoint's name to a CSM that speaks: quantised folders that stand alone, and every one that is not whole."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")  # CUDA parts, which a CPU can't load
torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
pytest.importorskip("moshi")
pytest.importorskip("transformers")

import tiny_csm  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from device.__main__ import main  # noqa: E402
from device.config import load as settings  # noqa: E402
from device.turn import FRAME  # noqa: E402
from device.voice.build import Built, build, quantise_to  # noqa: E402
from device.voice.checkpoint import expected_sizes  # noqa: E402
from device.voice.codes import codes  # noqa: E402
from device.voice.load import load_throat  # noqa: E402
from device.voice.plain import VoiceFault  # noqa: E402
from device.voice.shape import read_shape  # noqa: E402

ROOT = Path(__file__).parent.parent
FITS: dict[str, Any] = {"positions": 240, "width": 128, "depth_width": 128, "ffn": 256, "layers": 1, "codebooks": 6}  # int4 too
SMALL: dict[str, Any] = {"positions": 240, "width": 64, "layers": 1}  # int8, not int4
AGAIN = "run 'bedside models quantize' again from "

torch.set_num_threads(1)  # matrices this small are slower on two


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("fits"), **FITS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("small"), **SMALL)


@pytest.fixture(scope="module")
def int8(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` as int8; whoever breaks it makes a copy."""
    out = tmp_path_factory.mktemp("int8")
    quantise_to(str(small), "int8", "cpu", out)
    return out


@pytest.fixture(autouse=True)
def _no_handler_is_left() -> Iterator[None]:
    """main() logs to this test's standard error, which is closed after it."""
    yield
    logging.getLogger().handlers.clear()


@pytest.fixture
def mine(int8: Path, tmp_path: Path) -> Path:
    return shutil.copytree(int8, tmp_path / "mine")


def kyutai(built: Built, file: Path) -> None:
    """The checkpoint's Mimi as Kyutai's file stores it."""
    names = {"in_projs.0.weight": "in_proj_weight", "out_projs.0.weight": "out_proj.weight"}
    tensors = {}
    for name, tensor in built.mimi()._model.state_dict().items():
        for ours, stored in names.items():
            name = name.replace(ours, stored)
        tensors[name] = tensor.contiguous()
    save_file(tensors, file)


def laid_out(source: Path, folder: Path, layout: str) -> Path:
    """A copy of `source` in one of the two layouts, each with its Mimi."""
    if layout == "transformers":
        return shutil.copytree(source, folder)
    tiny_csm.to_sesame(source, folder)
    kyutai(build(str(source), "fp32", "cpu"), folder / "tokenizer-e351c8d8-checkpoint125.safetensors")
    return folder


def spoken(built: Built, frames: int = 12) -> list[list[int]]:
    return codes(built, None, None, "Good night.", "0", frames, True, None)


def logits(built: Built) -> Any:
    csm = built.csm
    with torch.inference_mode():
        hidden = csm.listen(csm.text_rows([7, 200, 45, 3]), 0)[-1:]
        return csm.forced_logits(hidden, torch.arange(csm.shape.codebooks))


def through_mimi(built: Built) -> tuple[Any, np.ndarray]:
    """Codes of a second of noise, and the sound of some codes."""
    mimi, rng = built.mimi(), np.random.default_rng(0)
    heard = mimi.encode_all((rng.normal(size=9 * FRAME + 77) * 0.1).astype(np.float32))
    said = [mimi.decode(torch.from_numpy(rng.integers(0, tiny_csm.CODEBOOK, mimi.codebooks))) for _ in range(6)]
    return heard, np.concatenate(said)


def sentence(error: object) -> str:
    said = str(error)
    assert said.endswith(".")
    assert "\n" not in said
    return said


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(VoiceFault) as caught:
        work()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence(caught.value)


# What a quantised folder is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "layout"), [("bf16", "transformers"), ("int8", "transformers"), ("int8", "sesame"), ("int4", "sesame")]
)
def test_a_quantised_folder_alone_speaks_as_its_source_at_that_precision(source: Path, tmp_path: Path, precision: str, layout: str) -> None:
    origin = laid_out(source, tmp_path / "origin", layout)
    direct = build(str(origin), precision, "cpu")
    wanted, numbers, ids, (heard, said) = spoken(direct), logits(direct), direct.tokens().ids("1", "It's late."), through_mimi(direct)
    weights = hashlib.sha256((origin / "model.safetensors").read_bytes()).hexdigest()

    quantise_to(str(origin), precision, "cpu", tmp_path / "out")
    shutil.rmtree(origin)
    assert build(str(tmp_path / "out"), precision, "cpu").precision == precision
    alone = build(str(tmp_path / "out"), "auto", "cpu")
    assert alone.precision == precision
    assert spoken(alone) == wanted
    assert torch.equal(logits(alone), numbers)
    assert alone.tokens().ids("1", "It's late.") == ids
    found_heard, found_said = through_mimi(alone)
    assert torch.equal(found_heard, heard)
    assert np.array_equal(found_said, said)
    assert len({tuple(frame) for frame in wanted}) > 6  # a constant would be equal too
    assert len(heard.unique()) > 6
    assert said.std() > 1e-4

    manifest = json.loads((tmp_path / "out/bedside.json").read_text())
    assert (manifest["scheme"], manifest["device"], manifest["source"]) == (precision, "cpu", str(origin))
    assert manifest["source_sha256"] == weights
    for package in ("torch", "torchao"):
        assert manifest[package] == version(package).split("+")[0]


def test_fewer_bits_are_fewer_bytes_and_other_numbers(source: Path, tmp_path: Path) -> None:
    """Or a folder that was never quantised would equal a source that was not either."""
    found, sizes = {}, {}
    for precision in ("bf16", "int8", "int4"):
        quantise_to(str(source), precision, "cpu", tmp_path / precision)
        sizes[precision] = (tmp_path / precision / "weights.pt").stat().st_size
        found[precision] = logits(build(str(tmp_path / precision), "auto", "cpu"))
    exact = logits(build(str(source), "fp32", "cpu"))
    away = {precision: float((numbers - exact).norm() / exact.norm()) for precision, numbers in found.items()}
    assert 0 < away["bf16"] < away["int8"] < away["int4"] < 0.5
    assert sizes["int8"] < 0.62 * sizes["bf16"]
    assert sizes["int4"] < 0.8 * sizes["int8"]


def test_whoever_may_read_the_folder_may_read_every_file_in_it(source: Path, tmp_path: Path) -> None:
    """It is written by a technician and read by the service's own user."""
    before = os.umask(0o022)
    try:
        quantise_to(str(laid_out(source, tmp_path / "origin", "transformers")), "int8", "cpu", tmp_path / "out")
    finally:
        os.umask(before)
    rights = {file.name: oct(file.stat().st_mode & 0o777) for file in (tmp_path / "out").iterdir()}
    assert len(rights) >= 6
    assert rights == dict.fromkeys(rights, "0o644")


def test_a_folder_used_again_keeps_nothing_of_what_was_in_it(source: Path, tmp_path: Path) -> None:
    """The Mimi of another checkpoint would be taken for this one's."""
    out = tmp_path / "out"
    quantise_to(str(tiny_csm.build(tmp_path / "other", **{**FITS, "seed": 5})), "int4", "cpu", out)
    origin = laid_out(source, tmp_path / "origin", "sesame")
    quantise_to(str(origin), "int8", "cpu", out)
    direct, alone = build(str(origin), "int8", "cpu"), build(str(out), "auto", "cpu")
    assert spoken(alone) == spoken(direct)
    assert torch.equal(through_mimi(alone)[0], through_mimi(direct)[0])


def test_progress_rises_to_all_of_it(small: Path) -> None:
    told: list[str] = []
    build(str(small), "int8", "cpu", told.append)
    shares = [int(text.removeprefix(f"loading CSM from {small} as int8, ").removesuffix(" %")) for text in told]
    assert len(shares) >= 5
    assert shares == sorted(set(shares))
    assert shares[-1] == 100


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 99}, "in format 99, here is 2"),
        ({"torch": "2.0.1"}, "with torch 2.0.1, here is"),
        ({"torchao": "0.1"}, "with torchao 0.1, here is"),
        ({"device": "orin"}, "for device orin, here is cpu"),
    ],
)
def test_a_folder_made_for_something_else_says_how_to_make_it_anew(mine: Path, small: Path, change: dict[str, Any], says: str) -> None:
    manifest = json.loads((mine / "bedside.json").read_text())
    (mine / "bedside.json").write_text(json.dumps(manifest | change))
    said = refused(lambda: build(str(mine), "auto", "cpu"))
    assert f"{mine} was quantised {says}" in said
    assert AGAIN + str(small) in said


def missing(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))


def another(file: Path) -> None:
    """Whole, but of something else."""
    if file.suffix == ".json":
        file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 32}))
    else:
        save_file({"else": torch.zeros(3)}, file)


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("weights.pt", cut, "a copy that did not end"),
        ("weights.pt", garbage, "is damaged (its sha256 has changed)"),
        ("weights.pt", missing, "weights.pt: No such file"),
        ("text.safetensors", cut, "is not whole ("),
        ("text.safetensors", garbage, "is not whole ("),
        ("text.safetensors", missing, "is not whole (No such file"),
        ("text.safetensors", another, "is not whole ("),
        ("config.json", cut, "is not whole ("),
        ("config.json", garbage, "is not whole ("),
        ("config.json", missing, "is not whole ("),
        ("config.json", another, "is not whole ("),
        ("mimi-of-csm.safetensors", cut, "is not whole ("),
        ("mimi-of-csm.safetensors", garbage, "is not whole ("),
    ],
)
def test_a_folder_that_is_not_whole_says_how_to_make_it_anew(
    mine: Path, small: Path, file: str, damage: Callable[[Path], None], says: str
) -> None:
    damage(mine / file)
    said = refused(lambda: build(str(mine), "auto", "cpu").mimi())
    assert str(mine) in said
    assert says in said
    assert AGAIN + str(small) in said


def test_another_precision_than_the_folders_is_refused_with_both_ways_out(int8: Path, small: Path) -> None:
    for asked in ("bf16", "int4", "fp32"):
        said = refused(lambda asked=asked: build(str(int8), asked, "cpu"))  # type: ignore[misc]
        assert f"is quantised as int8, but voice.precision = '{asked}': set it to 'int8' or 'auto'" in said
        assert f"from {small}" in said


def test_what_can_not_be_quantised_is_refused_and_nothing_is_written(small: Path, int8: Path, tmp_path: Path) -> None:
    before = sorted(small.iterdir()), sorted(int8.iterdir())
    out = tmp_path / "out"
    for name, precision, into, says in (
        (int8, "int8", out, f"{int8} is quantised already: give the checkpoint that it was made from"),
        (small, "int8", small, f"{small} holds a checkpoint in floats: give another folder in --out"),
        (small, "int8", small / ".." / small.name, "holds a checkpoint in floats"),
        (small, "fp32", out, "can't be quantised to 'fp32': choose bf16, int8 or int4"),
        (small, "int3", out, "choose bf16, int8 or int4"),
        (small, "int4", out, "widths that are multiples of 128; backbone.layers.0.qkv has 64: choose int8"),
        (tmp_path / "none", "int8", out, "no such folder"),
    ):
        said = refused(lambda name=name, precision=precision, into=into: quantise_to(str(name), precision, "cpu", into))  # type: ignore[misc]
        assert says in said
        assert not out.exists()
    assert (sorted(small.iterdir()), sorted(int8.iterdir())) == before
    out.write_text("")
    assert f"{out} can't be written" in refused(lambda: quantise_to(str(small), "int8", "cpu", out))


# What does not fit -------------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing past `size` fails, as on a disk that is full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("layout", "room"), [("transformers", 1_000), ("transformers", 80_000), ("bare", 80_000)], ids=["text", "mimi", "weights"]
)
def test_a_disk_that_fills_leaves_no_folder_that_loads(source: Path, tmp_path: Path, layout: str, room: int) -> None:
    """Not even where an older one was: half of each would speak."""
    out, origin = tmp_path / "out", tmp_path / "origin"
    quantise_to(str(tiny_csm.build(tmp_path / "other", **{**FITS, "seed": 5})), "int8", "cpu", out)
    shutil.copytree(source, origin) if layout == "transformers" else tiny_csm.to_sesame(source, origin)
    with largest_file(room):
        said = refused(lambda: quantise_to(str(origin), "int8", "cpu", out))
    assert f"{out} can't be written (" in said
    assert "free space there, or choose another folder" in said
    refused(lambda: build(str(out), "auto", "cpu"))
    quantise_to(str(origin), "int8", "cpu", out)
    assert spoken(build(str(out), "auto", "cpu")) == spoken(build(str(origin), "int8", "cpu"))


OUT_OF_MEMORY = """
import json, resource, sys
from pathlib import Path
import torch
from device.voice.build import build
from device.voice.plain import VoiceFault

torch.set_num_threads(1)
big, endless, whole = sys.argv[1:]
build(whole, "auto", "cpu")  # now everything is imported
size = (Path(big) / "model.safetensors").stat().st_size  # which is mapped, perhaps twice, and read as twice as much
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * size + 64 * 2**20,) * 2)
said = []
for name in (big, endless):
    try:
        build(name, "fp32" if name == big else "auto", "cpu")
    except VoiceFault as error:
        torch.empty(size, dtype=torch.uint8)  # what was filled so far is free again: the plain voice needs room
        said.append(str(error))
said.append(build(whole, "auto", "cpu").precision)
print(json.dumps(said))
"""


def zeros(folder: Path) -> Path:
    """A checkpoint of 230 MB in bf16, all holes: it takes no disk."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_csm.config(64, width=1024, ffn=8192, layers=4).to_dict()))
    header, end = {}, 0
    for name, size in expected_sizes(read_shape(json.loads((folder / "config.json").read_text()), ""), "transformers").items():
        begin, end = end, end + 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def test_memory_that_runs_out_is_one_sentence_and_what_was_filled_is_given_back(source: Path, mine: Path, tmp_path: Path) -> None:
    big, whole = zeros(tmp_path / "big"), tmp_path / "whole"
    quantise_to(str(source), "int4", "cpu", whole)  # whose classes are torchao's: a new process has not met them yet
    config = json.loads((mine / "config.json").read_text())  # a quantised one whose caches are too large
    (mine / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 30_000_000}))
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(big), str(mine), str(whole)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    filled, cached, after = json.loads(done.stdout.splitlines()[-1])
    for said, name in ((filled, big), (cached, mine)):
        assert f"{name} does not fit into memory (" in sentence(said)
        assert "can't allocate memory: you tried to allocate" in said
        assert ". " not in said
        assert "set voice.precision to 'int8' or 'int4'" in said
    assert after == "int4"


# What the companion makes of it ------------------------------------------------------------------


@pytest.mark.parametrize("file", ["weights.pt", "mimi-of-csm.safetensors", "tokenizer.json"])
def test_the_plain_voice_stands_in_for_a_folder_that_is_not_whole(mine: Path, file: str) -> None:
    cut(mine / file)
    try:
        throat, stand_in = load_throat(settings(None, {}, voice={"engine": "csm", "csm_model": str(mine)}), "cpu", lambda text: None)
    finally:
        torch.set_num_threads(1)
    assert throat.name == "plain"
    assert stand_in.startswith("The plain voice stands in for CSM. ")
    assert str(mine) in sentence(stand_in)


@pytest.fixture
def broken_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub that closes the connection amid its answer."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    line.recv(65536)
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name, value in {"ENDPOINT": url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": False}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        yield
        server.shutdown(socket.SHUT_RDWR)


def test_a_mimi_that_can_not_be_fetched_is_one_sentence(source: Path, tmp_path: Path, broken_line: None) -> None:
    origin = tiny_csm.to_sesame(source, tmp_path / "origin")
    said = refused(build(str(origin), "int8", "cpu").mimi)
    assert f"{origin} has no Mimi in it" in said
    assert "put its tokenizer-e351c8d8-checkpoint125.safetensors into the checkpoint's folder" in said


def test_a_folder_that_the_command_quantised_speaks_in_a_new_process_as_its_source(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["models", "quantize", str(source), "--precision", "int8", "--out", str(out)]) == 0
    *told, last = capsys.readouterr().out.splitlines()
    assert f"loading CSM from {source} as int8, 100 %" in told
    assert last == f"{out}: int8; name it in voice.csm_model"
    wanted = spoken(build(str(source), "int8", "cpu"), 3)
    command = [sys.executable, "-m", "device", "csm", "codes", str(out), "--text", "Good night.", "--precision", "int8"]
    done = subprocess.run([*command, "--greedy", "--frames", "3", "--json"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"codes": wanted}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["models", "quantize"], "models quantize needs one checkpoint and --out DIR"),
        (["models", "quantize", "SMALL"], "models quantize needs one checkpoint and --out DIR"),
        (["models", "quantize", "SMALL", "SMALL", "--out", "OUT"], "models quantize needs one checkpoint and --out DIR"),
        (["models", "quantize", "INT8", "--out", "OUT"], "is quantised already"),
        (["csm", "codes", "INT8", "--text", "Hello."], "is quantised as int8, but voice.precision = 'fp32': set it to 'int8'"),
    ],
)
def test_wrong_words_on_the_command_line_are_one_sentence(
    small: Path, int8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    places = {"SMALL": str(small), "INT8": str(int8), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bedside: ")
    assert says in line
    assert not (tmp_path / "out").exists()


def test_two_audio_embeddings_stay_two_in_a_quantised_folder(tmp_path: Path) -> None:
    source = tiny_csm.build(tmp_path / "csm", seed=9)
    stored = load_file(source / "model.safetensors")
    stored[tiny_csm.TIED] = torch.randn_like(stored["depth_decoder.model.embed_tokens.weight"])
    save_file(stored, source / "model.safetensors", {"format": "pt"})
    quantise_to(str(source), "int8", "cpu", tmp_path / "int8")
    directly, again = (build(str(folder), "int8", "cpu").csm for folder in (source, tmp_path / "int8"))
    frame = torch.arange(tiny_csm.CODEBOOKS)[None]
    assert again.depth_embedding is not again.audio_embedding
    assert torch.equal(directly.sound_rows(frame), again.sound_rows(frame))
    assert torch.equal(directly._embed(frame[0, :1], 1), again._embed(frame[0, :1], 1))
