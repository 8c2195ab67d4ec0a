"""Checkpoints on disk: every layout gives the same weights, what is broken is named, and no second copy is held."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_csm  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from device.voice.build import build  # noqa: E402
from device.voice.checkpoint import expected_sizes, fill, open_checkpoint  # noqa: E402
from device.voice.csm import Csm, frequencies  # noqa: E402
from device.voice.plain import VoiceFault  # noqa: E402
from device.voice.shape import CSM_1B, read_shape  # noqa: E402

OWN, SHARED = "backbone_model.embed_tokens.embed_audio_tokens.weight", "depth_decoder.model.embed_tokens.weight"
SESAMES_CONFIG = {
    "audio_num_codebooks": 32,
    "audio_vocab_size": 2051,
    "backbone_flavor": "llama-1B",
    "decoder_flavor": "llama-100M",
    "text_vocab_size": 128256,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformers' layout in one file, the audio embedding under the depth decoder's name only."""
    folder = tiny_csm.build(tmp_path_factory.mktemp("source"), **tiny_csm.SHAPES["wide"])
    stored = load_file(folder / "model.safetensors")
    stored.pop(OWN, None)  # transformers up to 5.20 writes it as well
    assert SHARED in stored
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return folder


def weights(folder: Path, precision: str = "fp32") -> dict[str, Any]:
    csm = build(str(folder), precision, "cpu").csm
    return {**csm.state_dict(), "text": csm.text}


def changed(source: Path, into: Path, change: Callable[[dict[str, Any]], None], **settings: Any) -> Path:
    """A copy of the checkpoint with other tensors, and other settings in its config.json."""
    folder = Path(shutil.copytree(source, into))
    state = load_file(source / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


def nothing(state: dict[str, Any]) -> None:
    pass


def sharded(source: Path, into: Path) -> Path:
    from transformers import CsmForConditionalGeneration

    model = CsmForConditionalGeneration.from_pretrained(source)
    tiny_csm.tie(model)
    model.save_pretrained(into, max_shard_size="100KB")
    assert len(list(into.glob("model-*.safetensors"))) > 2
    return into


def as_on_the_hub(source: Path, into: Path) -> Path:
    """sesame/csm-1b: shards under another name, which config.json gives, beside a model.safetensors that must not be read."""
    sharded(source, into)
    for file in into.glob("model-*.safetensors"):
        file.rename(file.with_name(file.name.replace("model-", "transformers-")))
    index = into / "model.safetensors.index.json"
    (into / "transformers.safetensors.index.json").write_text(index.read_text().replace('"model-', '"transformers-'))
    index.unlink()
    config = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps({**config, "transformers_weights": "transformers.safetensors.index.json"}))
    (into / "model.safetensors").write_bytes(b"not these")
    return into


def both_embeddings(source: Path, into: Path) -> Path:
    return changed(source, into, lambda state: state.update({OWN: state[SHARED].clone()}))


def backbones_embedding(source: Path, into: Path) -> Path:
    return changed(source, into, lambda state: state.update({OWN: state.pop(SHARED)}))


def nested_pickle(source: Path, into: Path) -> Path:
    folder = tiny_csm.to_sesame(source, into, "ckpt.pt")
    torch.save({"model": torch.load(folder / "ckpt.pt")}, folder / "ckpt.pt")
    return folder


LAYOUTS: dict[str, Callable[[Path, Path], Path]] = {
    "shards": sharded,
    "as on the hub": as_on_the_hub,
    "both embeddings": both_embeddings,
    "the backbone's embedding": backbones_embedding,
    "Sesame's safetensors": lambda source, into: tiny_csm.to_sesame(source, into, "model.safetensors"),
    "Sesame's ckpt.pt": lambda source, into: tiny_csm.to_sesame(source, into, "ckpt.pt"),
    "a ckpt.pt within 'model'": nested_pickle,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(source: Path, tmp_path: Path, layout: str) -> None:
    wanted, found = weights(source), weights(LAYOUTS[layout](source, tmp_path / "csm"))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert min(float(tensor.std()) for name, tensor in wanted.items() if "norm" not in name) > 0  # equal zeros would mean nothing


def test_stacked_weights_keep_their_order(source: Path) -> None:
    stored, found = load_file(source / "model.safetensors"), weights(source)
    for book, head in enumerate(stored["depth_decoder.codebooks_head.weight"], 1):
        assert torch.equal(found[f"heads.{book}.weight"], head.T)
    for ours, parts in (
        ("qkv", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        ("gate_up", ["mlp.gate_proj", "mlp.up_proj"]),
    ):
        rows = torch.cat([stored[f"backbone_model.layers.1.{part}.weight"] for part in parts])
        assert torch.equal(found[f"backbone.layers.1.{ours}.weight"], rows)


@pytest.mark.parametrize("tied", [False, True])
def test_two_embeddings_that_differ_both_stay_whatever_the_config_says(source: Path, tmp_path: Path, tied: bool) -> None:
    own = torch.randn_like(load_file(source / "model.safetensors")[SHARED])
    folder = changed(source, tmp_path / "csm", lambda state: state.update({OWN: own}), tie_codebooks_embeddings=tied)
    found, wanted = weights(folder), weights(source)
    assert torch.equal(found["audio_embedding.weight"], own)
    assert torch.equal(found["depth_embedding.weight"], wanted["depth_embedding.weight"])
    assert not torch.equal(own, wanted["depth_embedding.weight"])


def test_bf16_rounds_each_weight_once(source: Path) -> None:
    wanted, built = weights(source), build(str(source), "bf16", "cpu")
    assert all(torch.equal(tensor, wanted[name].bfloat16()) for name, tensor in built.csm.state_dict().items())
    rows = built.csm.text_rows([5, 6])
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, wanted["text"][[5, 6]].bfloat16())


def test_progress_rises_to_the_end(source: Path) -> None:
    checkpoint, shares, said = open_checkpoint(source), list[float](), list[str]()
    with torch.device("meta"):
        csm = Csm(checkpoint.shape)
    fill(csm, checkpoint, "cpu", torch.float32, shares.append)
    assert shares == sorted(set(shares))
    assert shares[0] < 0.1
    assert shares[-1] == 1.0
    build(str(source), "fp32", "cpu", said.append)
    assert said[-1].startswith(f"loading CSM from {source}")
    assert said[-1].endswith(", 100 %")
    assert len(said) == 10


def test_sesames_config_is_csm_1b() -> None:
    assert read_shape(SESAMES_CONFIG, "csm") == CSM_1B


def test_transformers_config_of_csm_1b_is_the_same_model(tmp_path: Path) -> None:
    """Written by transformers, which leaves out what is its default; the rotary angles agree though their parameters differ."""
    from transformers import CsmConfig

    rope = {"rope_type": "llama3", "rope_theta": 500_000, "factor": 32.0}
    backbone = {"original_max_position_embeddings": 1024, "low_freq_factor": 0.125, "high_freq_factor": 0.5}
    depth = {"original_max_position_embeddings": 16, "low_freq_factor": 0.001953125, "high_freq_factor": 0.0078125}
    config = CsmConfig(rope_parameters={**rope, **backbone}, depth_decoder_config={"rope_parameters": {**rope, **depth}})
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    for absent in ("num_key_value_heads", "num_attention_heads", "hidden_size", "head_dim", "tie_codebooks_embeddings"):
        for part in (stored, stored["depth_decoder_config"]):
            part.pop(absent, None)
    for text in (config.to_json_string(use_diff=False), json.dumps(stored)):
        shape = read_shape(json.loads(text), "csm")
        for layout in ("transformers", "sesame"):
            assert expected_sizes(shape, layout) == expected_sizes(CSM_1B, layout)
        for ours, known in ((shape.backbone, CSM_1B.backbone), (shape.depth, CSM_1B.depth)):
            assert (ours.positions, ours.heads, ours.kv_heads, ours.eps) == (known.positions, known.heads, known.kv_heads, known.eps)
            assert torch.allclose(frequencies(ours.rope, ours.head), frequencies(known.rope, known.head), rtol=1e-6, atol=0)
        assert (shape.codebooks, shape.ids, shape.sounds, shape.text_ids, shape.tied) == (32, 2051, 2048, 128_256, True)


def fault(folder: Path) -> str:
    """What is said of a checkpoint that can't be loaded: one sentence that names it."""
    with pytest.raises(VoiceFault) as caught:
        build(str(folder), "fp32", "cpu")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.count(". ") == 0
    assert str(folder) in sentence
    return sentence


QUERY, NORM = "backbone_model.layers.1.self_attn.q_proj.weight", "depth_decoder.model.norm.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop(QUERY), f"the tensor {QUERY} is missing: fetch the checkpoint again"),
        (lambda state: state.pop(SHARED), f"the tensor {SHARED} is missing"),
        (lambda state: state.pop("embed_text_tokens.weight"), "the tensor embed_text_tokens.weight is missing"),
        (lambda state: state.update({QUERY: torch.zeros(64, 63)}), f"{QUERY} is 64×63, but its config.json asks for 64×64"),
        (lambda state: state.update({NORM: torch.zeros(1, 32)}), f"{NORM} is 1×32, but its config.json asks for 32"),
        (lambda state: state.update({"backbone_model.layers.3.x": torch.zeros(1)}), "the tensor backbone_model.layers.3.x has no place"),
        (lambda state: state.update(a=torch.zeros(1), b=torch.zeros(1)), "the tensor a and 1 more has no place"),
    ],
)
def test_a_missing_extra_or_misshapen_tensor_is_named(
    source: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    assert says in fault(changed(source, tmp_path / "csm", change))


def test_in_sesames_layout_tensors_are_named_as_sesame_does(source: Path, tmp_path: Path) -> None:
    folder = tiny_csm.to_sesame(source, tmp_path / "csm", "ckpt.pt")
    state = torch.load(folder / "ckpt.pt")
    torch.save({**state, "audio_head": state["audio_head"][1:]}, folder / "ckpt.pt")
    assert "the tensor audio_head is 2×32×67, but its config.json asks for 3×32×67" in fault(folder)
    state.pop("decoder.layers.0.mlp.w3.weight")
    torch.save(state, folder / "ckpt.pt")
    assert "the tensor decoder.layers.0.mlp.w3.weight is missing" in fault(folder)


def test_weights_of_another_model_are_not_csms(source: Path, tmp_path: Path) -> None:
    def bert(state: dict[str, Any]) -> None:
        state.clear()
        state["bert.embeddings.word_embeddings.weight"] = torch.zeros(2, 2)

    sentence = fault(changed(source, tmp_path / "csm", bert))
    assert "bert.embeddings.word_embeddings.weight" in sentence
    assert "give a CSM checkpoint in voice.csm_model" in sentence


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("file", ["model.safetensors", "ckpt.pt"])
def test_a_half_written_file_is_named(source: Path, tmp_path: Path, file: str, share: float) -> None:
    folder = tiny_csm.to_sesame(source, tmp_path / "csm", file)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: int(len(data) * share)])
    sentence = fault(folder)
    assert f"{folder / file} can't be read as weights" in sentence
    assert "half downloaded; delete it and fetch it again" in sentence
    assert "mmap" not in sentence  # torch's own words for an empty file


def test_of_a_link_into_the_hubs_cache_the_file_behind_it_is_named(source: Path, tmp_path: Path) -> None:
    """The hub's library would link a broken blob again, however often the link is deleted."""
    folder = changed(source, tmp_path / "csm", nothing)
    blob = (folder / "model.safetensors").rename(tmp_path / "blob")
    blob.write_bytes(blob.read_bytes()[:1000])
    (folder / "model.safetensors").symlink_to(blob)
    assert f"delete {blob} and fetch it again" in fault(folder)


def test_a_pickle_that_would_run_code_is_refused(source: Path, tmp_path: Path) -> None:
    folder = tiny_csm.to_sesame(source, tmp_path / "csm", "ckpt.pt")
    torch.save({"model": Trap(tmp_path / "ran")}, folder / "ckpt.pt")
    assert "ckpt.pt can't be read as weights" in fault(folder)
    assert not (tmp_path / "ran").exists()


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_shard_that_is_not_there_is_named(source: Path, tmp_path: Path) -> None:
    folder = as_on_the_hub(source, tmp_path / "csm")
    gone = sorted(folder.glob("transformers-*.safetensors"))[1]
    gone.unlink()
    assert f"{gone} is missing, though transformers.safetensors.index.json names it: fetch the checkpoint again." in fault(folder)


@pytest.mark.parametrize("index", ["", "[]", '{"weight_map"', "{}", '{"weight_map": [1]}', '{"weight_map": null}'])
def test_an_index_that_is_none_is_named(source: Path, tmp_path: Path, index: str) -> None:
    folder = changed(source, tmp_path / "csm", nothing)
    (folder / "model.safetensors.index.json").write_text(index)
    assert f"{folder / 'model.safetensors.index.json'} is no index of shards" in fault(folder)


def test_a_folder_without_weights_or_config_says_so(source: Path, tmp_path: Path) -> None:
    folder = changed(source, tmp_path / "csm", nothing)
    (folder / "model.safetensors").unlink()
    assert "has no weights (model.safetensors, its index, or ckpt.pt)" in fault(folder)
    (folder / "config.json").unlink()
    assert "has no config.json: give the folder or hub name of a CSM checkpoint in voice.csm_model." in fault(folder)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("", "config.json can't be read"),
        ('{"model_type": "csm",\n', "config.json can't be read"),
        ("[]", "config.json does not describe a CSM"),
        ('{"model_type": "bert"}', "is a checkpoint of the kind 'bert', not CSM: give a CSM checkpoint in voice.csm_model."),
        ('{"model_type": "csm"}', "it has no 'depth_decoder_config'"),
        ('{"model_type": "csm", "depth_decoder_config": null}', "config.json does not describe a CSM"),
        (json.dumps({**SESAMES_CONFIG, "backbone_flavor": "llama-8B"}), "backbone_flavor 'llama-8B'; known are llama-1B, llama-100M"),
    ],
)
def test_a_config_that_is_none_of_csms_is_named(source: Path, tmp_path: Path, config: str, says: str) -> None:
    folder = changed(source, tmp_path / "csm", nothing)
    (folder / "config.json").write_text(config)
    assert says in fault(folder)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn'; known are default and llama3"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "it has no 'factor'"),
        ({"attention_bias": True}, "attention_bias = True, which CSM has not"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu', which CSM has not"),
        ({"num_codebooks": 5}, "its two transformers disagree about the codebooks"),
        ({"num_attention_heads": 0, "head_dim": 8}, "0 heads of 8"),
        ({"num_attention_heads": 0, "head_dim": None}, "does not describe a CSM"),
        ({"num_hidden_layers": 0}, "0 layers"),
        ({"num_key_value_heads": 3}, "8 heads of 8 on 3 key and value heads"),
        ({"hidden_size": "wide"}, "does not describe a CSM"),
        ({"hidden_size": 72}, "but its config.json asks for"),
    ],
)
def test_a_setting_that_csm_can_not_have_is_named(source: Path, tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    assert says in fault(changed(source, tmp_path / "csm", nothing, **settings))


# Prints, for each folder, the most private memory that opening and filling took, as a share of the weights it made.
FILLING = """
import sys
from pathlib import Path
import torch
from device.voice.checkpoint import fill, open_checkpoint
from device.voice.csm import Csm

def private():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

torch.set_num_threads(1)
for name in sys.argv[1:]:
    seen, before = [], private()
    checkpoint = open_checkpoint(Path(name))
    with torch.device("meta"):
        csm = Csm(checkpoint.shape)
    fill(csm, checkpoint, "cpu", torch.float32, lambda share: seen.append(private()))
    size = sum(p.numel() * 4 for p in csm.parameters())
    assert size > 100e6
    print((max(seen) - before) / size)
    del csm, checkpoint
"""


def test_filling_never_holds_two_copies(tmp_path: Path) -> None:
    """120 MB of weights cost 120 MB of private memory, read from either layout; the text table costs none."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to read the memory of a process")
    config = tiny_csm.config(64, width=1024, heads=16, kv=4, layers=2, ffn=4096).to_dict()
    config["text_vocab_size"] = 16_384
    names = []
    try:
        for layout, file in (("transformers", "model.safetensors"), ("sesame", "ckpt.pt")):
            folder = tmp_path / layout
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            sizes = expected_sizes(read_shape(config, "csm"), layout)
            state = {name: torch.zeros(size) for name, size in sizes.items()}
            (save_file if layout == "transformers" else torch.save)(state, folder / file)
            names.append(str(folder))
        done = subprocess.run([sys.executable, "-c", FILLING, *names], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        shares = [float(line) for line in done.stdout.split()]
    finally:
        for name in names:
            shutil.rmtree(name)
    assert len(shares) == 2
    for share in shares:
        assert 0.9 < share < 1.25


def test_the_one_file_beside_kyutais_mimi_is_csms_whatever_its_name(source: Path, tmp_path: Path) -> None:
    folder = tiny_csm.to_sesame(source, tmp_path / "csm", "csm_1b.pt")
    (folder / "mimi.safetensors").write_bytes(b"not read here")
    assert open_checkpoint(folder).files == (folder / "csm_1b.pt",)
