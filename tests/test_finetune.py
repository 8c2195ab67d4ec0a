"""Fine-tuning from the outside and from within: data that is wrong is named, adapters are exact, what is written speaks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("moshi")

import test_mimi  # noqa: E402
import tiny_csm  # noqa: E402
from lively_csm import lively, logits, their_logits  # noqa: E402

from device import wavs  # noqa: E402
from device.training import adapters, export, finetune, layouts, recordings, samples, trainable  # noqa: E402
from device.training.dialogues import Utterance  # noqa: E402
from device.training.recordings import Recording  # noqa: E402
from device.turn import VOICE_RATE  # noqa: E402
from device.voice.build import build, quantise_to  # noqa: E402
from device.voice.checkpoint import open_checkpoint  # noqa: E402
from device.voice.codes import codes  # noqa: E402
from device.voice.conversation import Conversation  # noqa: E402
from device.voice.plain import VoiceFault  # noqa: E402
from device.voice.shape import FLAVOURS  # noqa: E402

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "tests/data/speech"
IDS, FRAME = [3, 200, 17, 90], torch.tensor([5, 63, 0, 7])


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Its precision is the process's, whoever asked first."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(True)


def checkpoint(folder: Path, untied: bool = False, **shape: Any) -> Path:
    """A tiny checkpoint whose layers matter, in transformers' layout."""
    plain = tiny_csm.build(folder / "plain", positions=160, **tiny_csm.SHAPES["wide"], **shape)
    opened = open_checkpoint(plain)
    csm = lively(replace(opened.shape, tied=not untied), layers=0.5)
    export.write(folder / "csm", csm, opened.config, opened.codec(), torch.float32)
    for file in plain.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder / "csm")
    return folder / "csm"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def sesames(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in Sesame's layout, with Mimi beside it. Its config.json is transformers', for the shape has no name."""
    from safetensors.torch import save_file

    folder = tiny_csm.to_sesame(source, tmp_path_factory.mktemp("sesame") / "csm")
    mimi = build(str(source), "fp32", "cpu").mimi()
    save_file({name: tensor.clone() for name, tensor in export.kyutai_tensors(mimi.moshi).items()}, folder / "mimi.safetensors")
    return folder


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three conversations of the recordings that the tests have."""
    folder = tmp_path_factory.mktemp("data")
    with (SPEECH / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        told = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    said = [{"text": row["text"], "audio_path": row["file"], "speaker": number % 2} for number, row in enumerate(told)]
    for row in told:
        shutil.copy(SPEECH / row["file"], folder)
    (folder / "conversations.json").write_text(json.dumps([said[:2], said[2:4], said[4:]]))
    return folder / "conversations.json"


def mirror(csm: Any, folder: Path) -> Any:
    from transformers import CsmForConditionalGeneration

    return CsmForConditionalGeneration.from_pretrained(folder).eval()


# The data ------------------------------------------------------------------------------------------

GOOD = {"text": "Hello.", "audio_path": "a.wav", "speaker": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", np.zeros(4000, np.float32) + 0.1, 8000)
    return tmp_path


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("{", "c.json is not JSON"),
        ("7", "c.json holds 7, not a list of conversations"),
        ([], "c.json holds no conversation"),
        ([[], []], "c.json holds no conversation"),
        ([[GOOD], "x"], "conversation 2 is a text, not a list of utterances"),
        ([[GOOD, 3]], "conversation 1, utterance 2 is 3, not an object"),
        (
            [GOOD, {**GOOD, "audio": "a.wav"}],
            "conversation 1, utterance 2: the key 'audio' is unknown; known are text, audio_path and speaker",
        ),
        ([[{"text": "x", "speaker": 0}]], "utterance 1: the key 'audio_path' is missing"),
        ([[{**GOOD, "text": " … "}]], "text is ' … ', which nobody can say"),
        ([[{**GOOD, "text": None}]], "text is None"),
        ([[{**GOOD, "audio_path": ""}]], "audio_path is ''"),
        ([[{**GOOD, "audio_path": "b.wav"}]], "audio_path 'b.wav' is no file"),
        ([[{**GOOD, "speaker": True}]], "speaker is True: give a whole number"),
        ([[{**GOOD, "speaker": "Ann"}]], "speaker is 'Ann': give a whole number"),
    ],
)
def test_wrong_data_is_one_sentence_that_says_where(folder: Path, told: Any, says: str) -> None:
    file = folder / "c.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(VoiceFault) as caught:
        recordings.read(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flat_list_is_one_conversation(folder: Path) -> None:
    file = folder / "c.json"
    file.write_text(json.dumps([GOOD, {**GOOD, "speaker": "1"}]))
    assert [[one.speaker for one in said] for said in recordings.read(file)] == [["0", "1"]]
    with pytest.raises(VoiceFault, match=r"nothing.json can't be read \(No such file or directory\)"):
        recordings.read(folder / "nothing.json")


def test_recordings_are_encoded_once_with_the_checkpoints_own_mimi(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = trainable.load(str(source))
    sound = test_mimi.noise(3 * VOICE_RATE // 2)
    soundfile.write(folder / "a.wav", sound, VOICE_RATE, subtype="PCM_16")
    soundfile.write(folder / "other.flac", sound[::-1], VOICE_RATE)
    talks = [[Recording("Hello.", folder / "a.wav", "0", "here"), Recording("**Yes?**", folder / "other.flac", "1", "there")]]
    encoder = recordings.Encoder(base.tokens, base.mimi, folder / "codes")
    ((one, two),) = encoder.utterances(talks, 160, ["1"])
    assert np.array_equal(one.codes, base.mimi.encode_all((wavs.read(folder / "a.wav", VOICE_RATE) / 32768).astype(np.float32)).numpy())
    assert (one.ids, two.ids) == (tuple(base.tokens.ids("0", "Hello.")), tuple(base.tokens.ids("1", "Yes?")))
    assert (one.learn, two.learn) == (False, True)
    assert not np.array_equal(one.codes, two.codes)
    shutil.copy(folder / "a.wav", folder / "copy.wav")
    with monkeypatch.context() as patch:
        patch.setattr(base.mimi, "encode_all", lambda sound: pytest.fail("encoded again"))
        again = recordings.Encoder(base.tokens, base.mimi, folder / "codes")
        found = again.utterances([[replace(talks[0][0], audio=folder / "copy.wav")]], 160, [])
    assert np.array_equal(found[0][0].codes, one.codes)
    base.mimi.moshi.quantizer.rvq_first.input_proj.weight.mul_(-1)  # another codec: other codes
    another = recordings.Encoder(base.tokens, base.mimi, folder / "codes").utterances(talks, 160, [])
    assert not np.array_equal(another[0][0].codes, one.codes)


def test_what_does_not_fit_or_nobody_says_is_named(source: Path, folder: Path) -> None:
    base = trainable.load(str(source))
    encoder = recordings.Encoder(base.tokens, base.mimi, folder / "codes")
    talks = [[Recording("Hello.", folder / "a.wav", "0", "conversation 1, utterance 1")]]
    with pytest.raises(
        VoiceFault, match=r"utterance 1: a.wav takes 19 positions \(11 of text, 7 frames of sound, the end\), but there are 18"
    ):
        encoder.utterances(talks, 18, [])
    assert encoder.utterances(talks, 19, [])
    with pytest.raises(VoiceFault, match="Nobody of --speakers 3 speaks in --data; it has 0"):
        encoder.utterances(talks, 99, ["3"])
    (folder / "a.wav").write_bytes(b"no sound at all")
    with pytest.raises(VoiceFault, match=r"utterance 1: audio_path: .*can't be read as sound"):
        encoder.utterances(talks, 99, [])


def test_a_share_is_held_out() -> None:
    one = Utterance((1,), np.ones((2, 2), np.uint16))
    talks = [[replace(one, ids=(number,))] for number in range(40)]
    learn, valid = recordings.split(talks, 0.05, 0)
    assert (len(learn), len(valid)) == (38, 2)
    assert sorted(said[0].ids[0] for said in learn + valid) == list(range(40))
    assert recordings.split(talks, 0.05, 0) == (learn, valid)
    assert recordings.split([[one] * 9], 0.05, 0) == ([[one] * 8], [[one]])
    assert recordings.split([[one]], 0, 0) == ([[one]], [])
    with pytest.raises(VoiceFault, match="too few utterances to hold some out"):
        recordings.split([[one]], 0.05, 0)
    with pytest.raises(VoiceFault, match="too few utterances to hold some out"):
        recordings.split([[one], [replace(one, learn=False)]], 0.5, 0)


# The checkpoint ------------------------------------------------------------------------------------


def test_both_layouts_are_taken_and_a_quantised_one_is_not(source: Path, sesames: Path, tmp_path: Path) -> None:
    wanted = logits(build(str(source), "fp32", "cpu").csm, IDS, FRAME)
    for folder in (source, sesames):
        base = trainable.load(str(folder))
        assert torch.allclose(logits(base.csm, IDS, FRAME), wanted, atol=1e-4)
        assert "text" in dict(base.csm.named_parameters())
        assert not any(p.requires_grad for p in base.csm.parameters())
    quantise_to(str(source), "int8", "cpu", tmp_path / "int8")
    with pytest.raises(VoiceFault, match="is quantised, and whole numbers can't learn"):
        trainable.load(str(tmp_path / "int8"))


def test_what_is_merged_is_complete_in_both_layouts(source: Path, sesames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoProcessor

    shape = open_checkpoint(source).shape
    monkeypatch.setitem(FLAVOURS, "tiny-backbone", shape.backbone)
    monkeypatch.setitem(FLAVOURS, "tiny-depth", shape.depth)
    monkeypatch.setattr("device.voice.build._kyutais", lambda name: pytest.fail(f"{name} is not complete"))
    wanted = codes(build(str(source), "fp32", "cpu"), None, None, "Say it.", "0", 12, True, None)
    sound = test_mimi.noise(9999)
    heard = build(str(source), "fp32", "cpu").mimi().encode_all(sound)
    for number, origin in enumerate((source, sesames)):
        base = trainable.load(str(origin))
        layouts.write(base, base.csm, tmp_path / f"{number}-merged")
        layouts.write_sesames(base, base.csm, tmp_path / f"{number}-merged-sesame")
        for name, layout in ((f"{number}-merged", "transformers"), (f"{number}-merged-sesame", "sesame")):
            assert open_checkpoint(tmp_path / name).layout == layout
            built = build(str(tmp_path / name), "fp32", "cpu")
            assert codes(built, None, None, "Say it.", "0", 12, True, None) == wanted
            assert torch.equal(built.mimi().encode_all(sound), heard)
        theirs = mirror(base.csm, tmp_path / f"{number}-merged")
        assert torch.allclose(their_logits(theirs, IDS, FRAME), logits(base.csm, IDS, FRAME), atol=1e-4)
    AutoProcessor.from_pretrained(tmp_path / "0-merged")
    # Sesame's own config, which names flavours, comes back as one of transformers'.
    base = trainable.load(str(tmp_path / "0-merged-sesame"))
    assert "backbone_flavor" in base.checkpoint.config
    layouts.write(base, base.csm, tmp_path / "back")
    assert torch.allclose(their_logits(mirror(base.csm, tmp_path / "back"), IDS, FRAME), logits(base.csm, IDS, FRAME), atol=1e-4)
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("0-merged", "back"))
    for key in ("bos_token_id", "audio_token_id", "audio_eos_token_id", "pad_token_id", "codebook_eos_token_id", "eos_token_id"):
        assert after[key] == before[key], key


def test_csm_keeps_its_dtype_and_mimi_its_own(source: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(source)
    half = export.write(
        tmp_path / "half", trainable.load(str(source)).csm, opened.config, opened.codec(), torch.bfloat16, codec_dtype=torch.float32
    )
    shutil.copy(source / "tokenizer.json", half)
    base = trainable.load(str(half))
    assert base.csm.projection.weight.dtype == torch.float32  # it learns in
    layouts.write(base, base.csm, tmp_path / "merged")
    again = open_checkpoint(tmp_path / "merged")
    assert {again.read(name).dtype for name in again.sizes if not name.startswith("codec_model.")} == {torch.bfloat16}
    assert again.codec().keys() == opened.codec().keys()
    assert all(torch.equal(tensor, again.codec()[name]) for name, tensor in opened.codec().items())


def test_an_index_that_is_not_written_is_not_named(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "hub"))
    (folder / "model.safetensors").rename(folder / "transformers.safetensors")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "transformers_weights": "transformers.safetensors"}))
    base = trainable.load(str(folder))
    layouts.write(base, base.csm, tmp_path / "merged")
    assert "transformers_weights" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    mirror(base.csm, tmp_path / "merged")


# Adapters ------------------------------------------------------------------------------------------


def with_adapters(source: Path) -> Any:
    """A trainable whose adapters are not zero any more."""
    base = trainable.load(str(source))
    torch.manual_seed(0)
    adapters.add(base.csm, 3, 6.0)
    for _, layer in adapters.adapted(base.csm):
        torch.nn.init.normal_(layer.lora_B[adapters.NAME].weight, 0, 0.05)
    return base


def test_adapters_alone_learn_and_merge_exactly(source: Path) -> None:
    base, plain = with_adapters(source), trainable.load(str(source))
    names = {name for name, p in base.csm.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in names)
    assert len(names) == 2 * 4 * (base.csm.shape.backbone.layers + base.csm.shape.depth.layers)
    merged = adapters.merged(base.csm)
    assert merged.state_dict().keys() == plain.csm.state_dict().keys()
    ours = logits(base.csm, IDS, FRAME)
    assert torch.allclose(logits(merged, IDS, FRAME), ours, atol=1e-4)
    assert (ours - logits(plain.csm, IDS, FRAME)).abs().max() > 0.1
    for name, tensor in plain.csm.state_dict().items():
        changed = not torch.equal(tensor, merged.state_dict()[name])
        assert changed == name.endswith(("qkv.weight", "out.weight", "gate_up.weight", "down.weight")), name
    assert torch.equal(
        dict(base.csm.named_parameters())["backbone.layers.0.qkv.base_layer.weight"], plain.csm.backbone.layers[0].qkv.weight
    )


def test_peft_loads_the_adapters_onto_transformers_own_model(source: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file

    base = with_adapters(source)
    folder = adapters.write(base.csm, tmp_path / "adapter", "transformers", str(source))
    key = "base_model.model.backbone_model.layers.0.self_attn.{}_proj.lora_{}.weight"
    stored = load_file(folder / "adapter_model.safetensors")
    assert torch.equal(stored[key.format("q", "A")], stored[key.format("v", "A")])
    assert stored[key.format("q", "B")].shape[0] > stored[key.format("v", "B")].shape[0]
    theirs = mirror(base.csm, source)
    before = their_logits(theirs, IDS, FRAME)
    loaded = PeftModel.from_pretrained(theirs, folder).eval()
    touched = {name for name, _ in loaded.named_parameters() if ".lora_" in name}
    assert len(touched) == len(stored)  # nothing of Mimi's
    found = their_logits(loaded.base_model.model, IDS, FRAME)
    assert torch.allclose(found, logits(adapters.merged(base.csm), IDS, FRAME), atol=1e-4)
    assert (found - before).abs().max() > 0.1


@pytest.mark.parametrize("layout", ["transformers", "sesame"])
def test_adapters_are_read_back_in_both_names(source: Path, sesames: Path, tmp_path: Path, layout: str) -> None:
    base = with_adapters(source)
    folder = adapters.write(base.csm, tmp_path / "adapter", layout, str(source))
    wanted = adapters.merged(base.csm)
    for origin in (source, sesames):  # whatever layout the checkpoint has
        again = trainable.load(str(origin))
        adapters.merge_into(again.csm, folder)
        for name, tensor in wanted.state_dict().items():
            assert torch.allclose(again.csm.state_dict()[name], tensor, atol=1e-5), name


def test_sesames_adapter_turns_sesames_own_weights(source: Path, sesames: Path, tmp_path: Path) -> None:
    """Added to the tensors as Sesame's file has them, without our reader of adapters."""
    from safetensors.torch import load_file, save_file

    base = with_adapters(source)
    stored = load_file(adapters.write(base.csm, tmp_path / "adapter", "sesame", "x") / "adapter_model.safetensors")
    tensors = load_file(sesames / "model.safetensors")
    for key in [name for name in stored if name.endswith("lora_A.weight")]:
        name = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        tensors[name] = tensors[name] + 2.0 * stored[key.replace("lora_A", "lora_B")] @ stored[key]  # alpha 6, rank 3
    Path(shutil.copytree(sesames, tmp_path / "added"))
    save_file(tensors, tmp_path / "added" / "model.safetensors")
    found = logits(build(str(tmp_path / "added"), "fp32", "cpu").csm, IDS, FRAME)
    assert torch.allclose(found, logits(adapters.merged(base.csm), IDS, FRAME), atol=1e-4)


def test_an_adapter_that_peft_made_for_transformers_is_merged(source: Path, tmp_path: Path) -> None:
    """As unsloth makes them: query, key and value with an A each, other scaling, some layers without any."""
    from peft import LoraConfig, get_peft_model

    theirs = mirror(None, source)
    names = r"backbone_model\.layers\.[02]\.self_attn\.(q|k|o)_proj"
    torch.manual_seed(1)
    tuned = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=names, init_lora_weights=False))
    tuned.save_pretrained(tmp_path)
    base = trainable.load(str(source))
    before = logits(base.csm, IDS, FRAME)
    adapters.merge_into(base.csm, tmp_path)
    found = logits(base.csm, IDS, FRAME)
    assert torch.allclose(found, their_logits(tuned.base_model.model.eval(), IDS, FRAME), atol=1e-4)
    assert (found - before).abs().max() > 0.05


def test_an_adapter_that_can_not_be_merged_is_refused(source: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = with_adapters(source)
    folder = adapters.write(base.csm, tmp_path / "a", "transformers", "x")
    told, stored = json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")

    def refused(says: str, config: dict[str, Any] | None = None, change: Callable[[dict[str, Any]], None] = lambda state: None) -> None:
        state = dict(stored)
        change(state)
        save_file(state, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({**told, **(config or {})}))
        with pytest.raises(VoiceFault, match=says):
            adapters.merge_into(trainable.load(str(source)).csm, folder)

    name = "base_model.model.backbone_model.layers.0.self_attn.q_proj.lora_B.weight"
    refused("use_dora = True: only plain LoRA", {"use_dora": True})
    refused(
        "has an adapter of 63×64, not 64×64: it is of another checkpoint",
        None,
        lambda state: state.update({name: state[name][:-1].clone()}),
    )
    refused(
        "lm_head.lora_A.weight has no place", None, lambda state: state.update({"base_model.model.lm_head.lora_A.weight": torch.ones(1)})
    )
    refused("q_proj.lora_A.weight has no place", None, lambda state: state.pop(name))
    with pytest.raises(VoiceFault, match="holds no adapter of peft's that can be read"):
        adapters.merge_into(base.csm, tmp_path / "none")


# The whole -----------------------------------------------------------------------------------------


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/finetune"), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd="/")


def lines(out: Path, key: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if key in line]


def test_the_script_learns_is_stopped_goes_on_and_merges(source: Path, spoken: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--checkpoint", source, "--data", spoken, "--out", out, "--check-every", 4, "--valid-share", 0.3, "--lora", 2, "--cpu"]
    words += ["--rate", 5e-3, "--batch", 2, "--share", "1/4", "--sample", "Hi.", "--sample", "No."]
    done = run(*words, "--steps", 8)
    assert done.returncode == 0, done.stderr
    assert "encoded 6 of 6 recordings" in done.stdout
    assert "weights learn from 4 utterances" in done.stdout
    assert "merged-sesame was not written: Sesame's layout has no name" in done.stdout
    assert [line["step"] for line in lines(out, "validation")] == [4, 8]
    assert sorted(file.name for file in (out / "samples").iterdir()) == [f"step-00000{step}-{n}.wav" for step in (4, 8) for n in (1, 2)]
    assert soundfile.info(out / "samples" / "step-000008-1.wav").samplerate == VOICE_RATE
    assert codes(build(str(out / "merged"), "fp32", "cpu"), None, None, "Say it.", "0", 4, True, None)
    before = torch.load(out / "state.pt")
    done = run(*words, "--steps", 12)
    assert done.returncode == 0, done.stderr
    assert "going on after step 8 of 12" in done.stdout
    after = torch.load(out / "state.pt")
    assert (before["step"], after["step"]) == (8, 12)
    assert any(not torch.equal(p, after["weights"][name]) for name, p in before["weights"].items())
    # What is written is the best state's, and the adapter's folder says the same as the merged weights.
    merged = build(str(out / "merged"), "fp32", "cpu").csm
    again = trainable.load(str(source)).csm
    assert not torch.allclose(logits(again, IDS, FRAME), logits(merged, IDS, FRAME), atol=1e-3)
    adapters.merge_into(again, out / "adapter")
    assert torch.allclose(logits(again, IDS, FRAME), logits(merged, IDS, FRAME), atol=1e-4)
    shutil.rmtree(out / "merged")
    done = run("--out", out, "--merge-only", "--cpu")
    assert done.returncode == 0, done.stderr
    assert torch.equal(logits(build(str(out / "merged"), "fp32", "cpu").csm, IDS, FRAME), logits(merged, IDS, FRAME))
    # The rest in this process: to start is most of its time.
    only = finetune.Options(str(source), tmp_path / "other", adapter=out / "adapter-sesame", merge_only=True, cpu=True)
    finetune.finetune(only)
    found = logits(build(str(tmp_path / "other" / "merged"), "fp32", "cpu").csm, IDS, FRAME)
    assert torch.allclose(found, logits(merged, IDS, FRAME), atol=1e-4)
    with pytest.raises(VoiceFault, match="was begun with lora 2, not 5: give the same, or another --out"):
        finetune.finetune(finetune.Options(str(source), out, spoken, lora=5, cpu=True))
    with pytest.raises(VoiceFault, match="--merge-only needs a folder that was trained in, or --adapter"):
        finetune.finetune(finetune.Options("", tmp_path / "nothing", merge_only=True, cpu=True))
    with pytest.raises(VoiceFault, match="nothing to learn from: give a JSON list of conversations in --data"):
        finetune.finetune(finetune.Options(str(source), tmp_path / "nothing", cpu=True))


@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
def test_all_weights_learn_in_bf16_with_checkpointing(spoken: Path, tmp_path: Path, untied: bool) -> None:
    source = checkpoint(tmp_path, untied)
    out = tmp_path / "out"
    options = finetune.Options(
        str(source), out, spoken, lora=0, steps=4, rate=5e-3, precision="bf16", accumulate=2, batch=2, checkpointing=True, check_every=2,
        valid=spoken, speakers=("0",), positions=155, cpu=True,
    )  # fmt: skip
    stored = (source / "model.safetensors").read_bytes()
    finetune.finetune(options)
    assert (source / "model.safetensors").read_bytes() == stored
    state = torch.load(out / "best.pt")["weights"]
    assert all(p.dtype == torch.float32 for p in state.values())
    before, after = (build(str(folder), "fp32", "cpu").csm for folder in (source, out / "merged"))
    assert after.shape.tied == (not untied)
    told = [name for name, tensor in {**before.state_dict(), "text": before.text}.items()
            if torch.equal(tensor, {**after.state_dict(), "text": after.text}[name])]  # fmt: skip
    assert told == []
    for name, tensor in after.named_parameters():
        assert torch.equal(tensor, state[f"csm.{name}"]), name
    assert not (out / "adapter").exists()
    first, *_, last = (line["validation"] for line in lines(out, "validation"))
    assert sum(last) < sum(first)
    with pytest.raises(VoiceFault, match="this checkpoint has 160; give at most that"):
        finetune.finetune(replace(options, positions=161, out=tmp_path / "more"))


def test_a_sample_is_what_the_device_would_say(source: Path, tmp_path: Path) -> None:
    base = with_adapters(source)
    chance = np.random.default_rng(0)
    said = [[Utterance((1, 2), chance.integers(1, 60, (frames, 4)).astype(np.uint16), frames != 60) for frames in (20, 60, 55, 90)]]
    first = samples.reference(said, 160)
    assert first is not None
    assert len(first.codes) == 55  # 60 is nearer to five seconds, but nobody learns it; 90 is too long
    told = samples.speak(base.csm, base.tokens, base.mimi, first, "Hi.", tmp_path / "a.wav", 1)
    merged = build_like(base)
    talk = Conversation(merged, first)
    segment = talk.append(samples.Segment("0", "Hi.", base.tokens.ids("0", "Hi."), closed=False))
    wanted = samples.generate(talk, segment, 90, False, 1)
    frames = int(told.split()[0])
    assert soundfile.info(tmp_path / "a.wav").frames == frames * 1920
    base.mimi.start_decoding()
    sound = np.concatenate([samples.to_int16(base.mimi.decode(torch.tensor(frame))) for frame in wanted[:frames]])
    assert np.array_equal(wavs.read(tmp_path / "a.wav", VOICE_RATE), sound)
    assert samples.reference([[replace(one, learn=False) for one in said[0]]], 160) is None


def build_like(base: Any) -> Any:
    csm = adapters.merged(base.csm)
    csm.allocate("cpu", torch.float32)
    return csm


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "/tmp/x"], "--checkpoint is needed"),
        (["--out", "/tmp/x", "--checkpoint", "/nowhere"], "/nowhere (voice.csm_model): no such folder"),
        (["--out", "/tmp/x", "--checkpoint", "x", "--lora", "0"], "--lora must be at least 1"),
        (["--out", "/tmp/x", "--checkpoint", "x", "--share", "0"], "--share must be above 0"),
    ],
)
def test_a_wrong_command_is_one_sentence(words: list[str], says: str) -> None:
    done = run(*words)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_instant() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "scripts/finetune"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "--checkpointing" in done.stdout
    assert not {"torch", "numpy", "accelerate"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
