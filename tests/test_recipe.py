"""The whole recipe of the packaged voice in small: from sentences to a checkpoint that the device loads and speaks with."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_csm
import torch
from accelerate.state import AcceleratorState
from test_codec_training import TINY

from device.training import codec, corpus, decoder, encoded, forward, kept_codec, loop, recipe, small
from device.training.recipe import Recipe, stages
from device.voice.plain import VoiceFault

NOWHERE = Path("/nowhere")  # no codec comes with the project, unless a test says so


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for module, name in ((codec, "CONFIG"), (encoded, "CONFIG"), (small, "CODEC")):
        monkeypatch.setattr(module, name, TINY)
    monkeypatch.setattr(kept_codec, "CONFIG", TINY)
    monkeypatch.setattr(kept_codec, "FOLDER", NOWHERE)
    monkeypatch.setattr(codec, "UNQUANTISED", 2)
    monkeypatch.setattr(codec, "BOOKS", (3, 2))
    monkeypatch.setattr(codec, "SAMPLE", 256)
    monkeypatch.setattr(recipe, "STEPS", {"codec": 6, "csm": 4, "encoder": 4, "decoder": 4})
    monkeypatch.setattr(recipe, "CRITICS_FROM", 2)
    monkeypatch.setattr(recipe, "CSM", recipe.Plan(4, log_every=1, check_every=2, save_every=2, rise=1, muon=True))
    monkeypatch.setattr(forward, "_fused", lambda: forward._layer)  # without a C++ compiler's minute
    monkeypatch.setattr(recipe, "LESSONS", ((0.0, 160, 1, 0.5), (0.5, 320, 1, 0.1)))
    monkeypatch.setattr(encoded, "ProcessPoolExecutor", _Here)  # the patches above are this process's
    AcceleratorState._reset_state(True)  # one a process, and other tests train in another precision
    yield
    AcceleratorState._reset_state(True)
    torch.set_num_threads(threads)
    encoded._tools.cache_clear()


class _Here:
    """An executor that works in this process."""

    def __init__(self, processes: int) -> None:
        self.map = map

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *failure: object) -> None:
        pass


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose corpus is made."""
    work = tmp_path_factory.mktemp("work")
    corpus.make(work / "corpus", 1.0, 0, 1, counts={"pattern": 6, "patient": 2}, held_out=2)
    return work


def test_from_sentences_to_a_voice(spoken: Path, tmp_path: Path) -> None:
    from device.voice.build import build
    from device.voice.speak import CsmVoice

    work = Recipe(spoken, minutes=10)
    for _, stage in stages(work, []):
        stage()
    folder = work.ship(tmp_path / "csm-tiny")
    built = build(str(folder), "int8", "cpu")
    assert built.csm.shape.codebooks == 3
    voice = CsmVoice(built.csm, built.tokens(), built.mimi(), built.sampling(1), built.precision)
    frames = [frame for frame, _ in zip(voice.frames("Hello there."), range(3), strict=False)]
    assert frames
    assert all(frame.shape == (1920,) and frame.dtype == np.int16 for frame in frames)
    voice.close()
    on = Recipe(tmp_path / "on", minutes=0, begin=str(folder))  # another working folder goes on from what was shipped
    for name in ("corpus", "codes"):
        (on.work / name).parent.mkdir(exist_ok=True)
        (on.work / name).symlink_to(spoken / name)
    on.csm()
    begun = torch.load(on.work / "csm" / loop.STATE)["weights"]
    reached = torch.load(spoken / "csm" / loop.STATE)["weights"]
    assert all(torch.equal(begun[name].to(torch.bfloat16), weight.to(torch.bfloat16)) for name, weight in reached.items())
    rates = [torch.load(run.work / "csm" / loop.STATE)["plan"]["rate"] for run in (work, on)]
    assert rates[1] == recipe.AGAIN * rates[0]
    with pytest.raises(ValueError, match="another shape than CSM-small: fine-tune it"):
        Recipe(on.work, minutes=0, begin=str(tiny_csm.build(tmp_path / "other"))).csm()
    shipped = torch.cat([p.flatten() for p in encoded.load_network(spoken / "codes").decoder.parameters()])
    half = decoder.Decoder(encoded.load_network(spoken / "codes"), 4, 2)
    half.load(spoken / "decoder" / "decoder.pt")
    half.settle()
    assert not torch.equal(shipped, torch.cat([p.flatten() for p in half.mimi.decoder.parameters()]))


def test_a_codec_that_comes_with_the_project_gives_the_same_codes_untrained(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Recipe(spoken, minutes=10)
    for _, stage in stages(first, ["codec", "codes", "encoder", "decoder"]):
        stage()
    monkeypatch.setattr(kept_codec, "FOLDER", first.ship_codec(tmp_path / "mimi-tiny"))
    work = tmp_path / "again"
    work.mkdir()
    (work / "corpus").symlink_to(spoken / "corpus")
    again = Recipe(work, minutes=10)
    assert [name for name, _ in stages(again, [])] == ["corpus", "codes", "csm", "encoder", "decoder"]
    again.codes()
    codes = [np.load(folder / "codes" / encoded.CODES) for folder in (spoken, work)]
    assert (codes[0] == codes[1]).mean() > 0.95  # the ear was rounded to bf16
    again.decoder()
    assert kept_codec.learnt(again.ship_codec(tmp_path / "third")) == ["encoder", "decoder"]  # the encoder is the one that came
    sound = np.random.default_rng(0).normal(0, 0.1, 3 * 1920 + 5).astype(np.float32)
    assert kept_codec.ear_of(tmp_path / "mimi-tiny")(sound).shape == (4, 3)
    # What was learnt of hearing and sounding is in it, and the device's own Mimi is filled by it.
    shipped, _ = first._mimi()
    kept = kept_codec.ready(tmp_path / "mimi-tiny").moshi
    for name, weight in shipped.decoder.state_dict().items():
        assert torch.equal(weight.to(torch.bfloat16).float(), kept.decoder.state_dict()[name].float()), name


def test_codebooks_can_come_alone(tmp_path: Path) -> None:
    """Then the halves begin as those of a new codec do: a signal keeps its size through them."""
    made = codec.Codec(1)
    made.begin_codebooks(torch.randn(1, TINY["hidden_size"], 300))
    folder = kept_codec.write(tmp_path / "mimi-tiny", made.mimi, made.ear, ())
    with pytest.raises(VoiceFault, match="no decoder and no encoder"):
        kept_codec.ready(folder)
    mimi, ear = kept_codec.read(folder)
    latent = torch.randn(1, TINY["hidden_size"], 20)
    assert (mimi.quantizer.encode(latent) == made.mimi.eval().quantizer.encode(latent)).float().mean() > 0.95
    assert not torch.equal(mimi.decoder.model[0].conv.conv.weight, made.mimi.decoder.model[0].conv.conv.weight)
    with torch.no_grad():
        assert 0.001 < mimi.decoder(torch.randn(1, TINY["hidden_size"], 40)).std() < 1
    assert torch.allclose(ear.hears[0].conv.weight, made.ear.hears[0].conv.weight, atol=0.01)


def test_a_codec_of_another_shape_is_named(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mimi, ear = codec.Codec(1).mimi, codec.Codec(1).ear
    folder = kept_codec.write(tmp_path / "mimi-tiny", mimi, ear)
    monkeypatch.setattr(kept_codec, "CONFIG", TINY | {"codebook_size": 64})
    with pytest.raises(ValueError, match="another codebook_size"):
        kept_codec.read(folder)


def test_a_stage_that_is_done_is_not_done_again(spoken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "make", functools.partial(pytest.fail, "the corpus was made again"))
    Recipe(spoken, minutes=10).corpus()


def test_another_seed_reads_other_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_corpus = functools.partial(corpus.make, counts={"pattern": 4}, held_out=1)
    monkeypatch.setattr(corpus, "make", lambda folder, share, seed, processes: small_corpus(folder, share, seed, 1))
    said = []
    for seed in (0, 1):
        work = Recipe(tmp_path / str(seed), minutes=10, seed=seed)
        work.corpus()
        said.append([clip.text for clip in corpus.index(work.work / "corpus")])
    assert said[0][0] == said[1][0]  # what is held out is the same
    assert not {*said[0][1:]} & {*said[1][1:]}


def test_codes_are_not_made_with_a_codec_that_is_still_learning(spoken: Path, tmp_path: Path) -> None:
    (tmp_path / "codec").mkdir()
    torch.save({"step": 3}, tmp_path / "codec" / "codec.pt")
    with pytest.raises(ValueError, match="3 of 6 steps"):
        Recipe(tmp_path, minutes=1).codes()


def test_an_unknown_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'polish'.*corpus, codec, codes, csm, encoder, decoder"):
        stages(Recipe(tmp_path, 1), ["polish"])
