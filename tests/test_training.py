"""The training loop and what it stands on: the same numbers as the device's own path, every utterance once, an end that is learnt."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("moshi")

import test_mimi  # noqa: E402
import tiny_csm  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from lively_csm import lively, logits, their_logits  # noqa: E402

from device.training import alphabet, export, forward, small  # noqa: E402
from device.training.dialogues import Deck, Mixer, Utterance, batch, cut, learnable, sequence  # noqa: E402
from device.training.forward import gaze, rows, through  # noqa: E402
from device.training.lesson import Lesson, Losses  # noqa: E402
from device.training.loop import BEST, LOG, STATE, Loop, Plan, learning, restore, validation  # noqa: E402
from device.turn import FRAME  # noqa: E402
from device.voice.build import build  # noqa: E402
from device.voice.checkpoint import open_checkpoint  # noqa: E402
from device.voice.codes import generate  # noqa: E402
from device.voice.conversation import Conversation, Segment  # noqa: E402
from device.voice.csm import Csm  # noqa: E402
from device.voice.mimi import from_csm, from_kyutai  # noqa: E402
from device.voice.shape import CSM_1B, FLAVOURS, Rope, Shape, StackShape, read_shape  # noqa: E402

torch.set_num_threads(1)

BOOKS, IDS = 4, 11
TINY = Shape(StackShape(32, 2, 4, 2, 8, 48, 64), StackShape(24, 2, 2, 1, 12, 32, BOOKS), BOOKS, IDS, IDS - 3, 20)
UNTIED = replace(TINY, tied=False, backbone=replace(TINY.backbone, kv_heads=4, rope=Rope(factor=32.0, original=16)))


def utterance(chance: np.random.Generator, text: int = 0, frames: int = 0, learn: bool = True) -> Utterance:
    text, frames = text or int(chance.integers(1, 6)), frames or int(chance.integers(1, 9))
    return Utterance(tuple(chance.integers(0, 20, text).tolist()), chance.integers(1, IDS - 3, (frames, BOOKS)).astype(np.uint16), learn)


@pytest.fixture
def said() -> list[Utterance]:
    chance = np.random.default_rng(0)
    return [utterance(chance, learn=number != 1) for number in range(3)]


# The forward pass ----------------------------------------------------------------------------------


def as_the_device_has_it(csm: Csm, said: Sequence[Utterance]) -> Conversation:
    csm.allocate("cpu", torch.float32)
    talk = Conversation(csm)
    for one in said:
        talk.append(Segment("0", "", list(one.ids), torch.from_numpy(one.codes.astype(np.int64))))
    return talk


@pytest.mark.parametrize("shape", [TINY, UNTIED], ids=["tied", "untied"])
def test_a_sequence_is_what_the_device_would_hear_and_say(shape: Shape, said: list[Utterance]) -> None:
    csm = lively(shape)
    talk = as_the_device_has_it(csm, said)
    other = [utterance(np.random.default_rng(5), 2, 2)]
    both = batch([said, other])  # the second is shorter: what fills it up must not be learnt or change anything
    with torch.inference_mode():
        heard = csm.listen(talk._rows(0, talk.rows), 0)
        found = through(csm.backbone, rows(csm, both.ids, both.codes))
        assert torch.allclose(found[0], heard, atol=2e-5)
        assert heard.std() > 0.3
        wanted = []
        for number, start in ((0, 0), (2, talk.starts_at(talk.segments[2]))):  # who is not learnt is only heard
            one = said[number]
            frames = [*torch.from_numpy(one.codes.astype(np.int64)), torch.zeros(BOOKS, dtype=torch.long)]  # the end is said too
            for at, frame in enumerate(frames, start + len(one.ids) - 1):
                wanted.append(F.cross_entropy(csm.force(heard[at : at + 1], frame), frame, reduction="none"))
        first, rest, _ = Lesson(csm, share=1.0).eval()(batch([said]))
    assert torch.allclose(torch.cat([first[None], rest]), torch.stack(wanted).mean(0), atol=1e-4)


@pytest.mark.parametrize("how", ["run again", "torch's attention", "fused"])
def test_layers_give_the_same_gradients_however_they_run(how: str, said: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for other in (False, True):
        csm = lively(TINY)
        if other and how == "torch's attention":
            monkeypatch.setattr(forward, "EXPLICIT", 0)
        if how == "fused":  # without a C++ compiler's minute
            monkeypatch.setattr(forward, "_fused", lambda: torch.compile(forward._layer, dynamic=True, backend="aot_eager"))
        lesson = Lesson(csm, share=1.0, remember=not (other and how == "run again"), fused=other and how == "fused")
        first, rest, _ = lesson(batch([said]))
        (first + rest.mean()).backward()
        found.append({name: p.grad for name, p in csm.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-5), name
        assert gradient.abs().max() > 0, name  # each weight of both transformers learns


def timed(chance: np.random.Generator, text: int, frames: int) -> Utterance:
    """An utterance whose ids sound one after the other, the last of them being the end."""
    one = utterance(chance, text, frames)
    return replace(one, ends=(*np.linspace(0, frames, text)[1:].tolist(), frames + 1.0))


def test_each_frame_belongs_to_the_text_that_sounds_in_it() -> None:
    chance = np.random.default_rng(0)
    first, second, unknown = timed(chance, 4, 6), replace(timed(chance, 3, 2), learn=False), timed(chance, 2, 1)
    given = batch([[first, second, unknown]])
    wanted = Lesson._wanted(given)[0]
    own = wanted[3:10, :4]  # the last row of text and six frames ask for six frames and the end
    assert torch.equal(own.argmax(-1), torch.tensor([0, 0, 1, 1, 2, 2, 3]))
    assert torch.allclose(own.amax(-1), torch.ones(7))
    assert wanted.sum() == 7 + 2  # of the second nothing is learnt; the third has one frame and its end
    assert wanted[given.learn[0]].sum(-1).tolist() == [1.0] * 9
    half = replace(timed(chance, 3, 2), ends=(0.5, 2.0, 3.0))
    assert torch.allclose(Lesson._wanted(batch([[half]]))[0, 2, :3], torch.tensor([0.5, 0.5, 0.0]))


def test_a_gaze_is_where_the_first_head_looks(said: list[Utterance]) -> None:
    csm, seen = lively(TINY), []
    given = batch([said])
    with torch.inference_mode():
        through(csm.backbone, rows(csm, given.ids, given.codes), watch=lambda number, x: seen.append(x))
        layer, x = csm.backbone.layers[1], seen[1]
        looked = gaze(csm.backbone, layer, x).exp()[0]
        assert torch.allclose(looked.sum(-1), torch.ones(len(looked)), atol=1e-5)
        assert looked.triu(1).abs().max() < 1e-9
        # With values that are the rows' own numbers, the first head's output is that look.
        size, s = x.shape[1], layer.shape
        layer.out.weight.copy_(torch.eye(s.width, s.heads * s.head))
        layer.qkv.weight[-s.kv_heads * s.head :] = 0
        values = torch.randn(s.width)
        layer.qkv.weight[-s.kv_heads * s.head] = values
        layer.down.weight.zero_()
        told = layer.attention_norm(x)[0] @ values
        both = batch([said])
        after = through_one(layer, x, csm)
        assert torch.allclose(after[0, :, 0] - x[0, :, 0], looked @ told, atol=1e-4)
        assert size == len(both.ids[0])


def through_one(layer: Any, x: Any, csm: Csm) -> Any:
    from device.training.forward import _angles, _layer

    return _layer(layer, x, _angles(csm.backbone, x))


def test_a_model_that_is_shown_where_to_look_looks_there() -> None:
    shape = replace(TINY, backbone=replace(TINY.backbone, layers=3))
    found = {}
    for show in (0.0, 1.0):
        torch.manual_seed(0)
        chance = np.random.default_rng(0)
        csm = lively(shape)
        lesson = Lesson(csm.requires_grad_(True), share=0.1, show=show)
        best = torch.optim.AdamW(lesson.parameters(), 5e-3)
        for _ in range(60):
            given = batch([[timed(chance, 5, 8)] for _ in range(8)])
            losses = lesson.train()(given)
            best.zero_grad()
            lesson.total(losses).backward()
            best.step()
        lesson.show = 1.0
        found[show] = lesson.eval()(batch([[timed(np.random.default_rng(9), 5, 8)]])).looks.item()
    assert found[1.0] < found[0.0] - 0.5


def test_a_share_of_the_frames_teaches_the_depth_decoder_and_each_end(said: list[Utterance], monkeypatch: pytest.MonkeyPatch) -> None:
    taught = []
    from device.training import lesson

    real = lesson.frame_logits
    monkeypatch.setattr(lesson, "frame_logits", lambda csm, hidden, codes, *how: (taught.append(codes), real(csm, hidden, codes))[1])
    Lesson(lively(TINY), share=1e-9)(batch([said]))
    assert [codes.tolist() for codes in taught] == [[[0] * BOOKS] * 2]


def test_each_codebook_counts_as_it_is_told() -> None:
    losses = Losses(torch.tensor(1.0), torch.tensor([2.0, 4.0, 8.0]), torch.tensor(3.0))
    csm = lively(TINY)
    assert Lesson(csm).total(losses).item() == pytest.approx(1 + 14 / 3)
    assert Lesson(csm, fall=0.5, show=0.1).total(losses).item() == pytest.approx(1 + 2 + 2 + 2 + 0.3)


def test_noise_changes_what_is_heard_but_not_what_is_learnt(said: list[Utterance]) -> None:
    lesson, given = Lesson(lively(TINY), noise=0.5), batch([said])
    torch.manual_seed(0)
    wrong = lesson._disturbed(given.codes)
    assert 0.3 < (wrong != given.codes)[given.codes > 0].float().mean() < 0.9
    assert torch.equal(wrong.any(-1), given.codes.any(-1))  # text and ends stay what they are
    assert int(wrong.max()) < TINY.sounds
    plain = Lesson(lesson.csm).eval()(given)
    assert torch.equal(lesson.eval()(given)[0], plain[0])  # validation is undisturbed


# What is learnt ------------------------------------------------------------------------------------


def test_a_sequence_has_the_rows_of_a_conversation() -> None:
    one = Utterance((7, 8), np.array([[1, 2], [3, 4]], np.uint16))
    ids, codes, after, learn, *_ = sequence([one, replace(one, learn=False)])
    assert ids.tolist() == [7, 8, -1, -1, -1] * 2
    assert codes[:5].tolist() == [[0, 0], [0, 0], [1, 2], [3, 4], [0, 0]]
    assert learn.tolist() == [False, True, True, True, False] + [False] * 5
    assert after[learn].tolist() == [[1, 2], [3, 4], [0, 0]]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20), st.booleans()), min_size=1, max_size=14), st.integers(4, 60))
def test_each_utterance_is_learnt_once_and_no_sequence_is_too_long(sizes: list[tuple[int, int, bool]], positions: int) -> None:
    whole = [Utterance((number,) * text, np.full((frames, 2), 1, np.uint16), learn) for number, (text, frames, learn) in enumerate(sizes)]
    taught: list[int] = []
    for said in cut(whole, positions):
        assert sum(one.rows for one in said) <= positions
        order = [one.ids[0] for one in said]
        assert order == list(range(order[0], order[0] + len(order))) or any(one.rows > positions for one in whole)
        taught += [one.ids[0] for one in said if one.learn]
    assert taught == [number for number, one in enumerate(whole) if one.learn and one.rows <= positions]
    assert all(any(one.learn for one in said) for said in learnable([whole], positions))


def test_a_cut_conversation_goes_on_from_its_context() -> None:
    chance = np.random.default_rng(1)
    whole = [utterance(chance, 2, 5) for _ in range(12)]
    later = list(cut(whole, 40))[1:]
    assert later
    assert all(not said[0].learn and said[-1].learn for said in later)


def test_a_deck_learns_each_once_before_it_begins_again() -> None:
    chance = np.random.default_rng(2)
    talks = [[utterance(chance) for _ in range(int(chance.integers(1, 6)))] for _ in range(7)]
    deck, every = Deck(talks, 40, 2, seed=3), sum(len(talk) for talk in talks)
    lengths = set()
    for _ in range(4):
        dealt = deck._deal()
        lengths.add(len(dealt))
        assert sum(one.learn for said in dealt for one in said) == every
    assert len(lengths) > 1  # cut at other lengths each time
    assert torch.equal(Deck(talks, 40, 2, seed=3).draw().codes, Deck(talks, 40, 2, seed=3).draw().codes)
    assert not torch.equal(Deck(talks, 40, 2, seed=3).draw().codes, Deck(talks, 40, 2, seed=3, rank=1).draw().codes)
    with pytest.raises(ValueError, match="nothing of 7 conversations"):
        Deck(talks, 2, 2, seed=3)


def test_a_mixer_uses_each_utterance_before_it_begins_again() -> None:
    chance = np.random.default_rng(4)
    own = [Utterance((number,), np.ones((int(chance.integers(3, 12)), 2), np.uint16)) for number in range(20)]
    asked = [Utterance((100 + number,), np.ones((3, 2), np.uint16), learn=False) for number in range(5)]
    mixer, counted = Mixer(own, asked, 30, seed=1), [0] * 20
    while sum(counted) < 200:
        said = mixer.draw()
        assert sum(one.rows for one in said) <= 30
        assert said[-1].learn
        for one in said:
            if one.learn:
                counted[one.ids[0]] += 1
    assert max(counted) - min(counted) <= 2
    with pytest.raises(ValueError, match="none of the 20 utterances"):
        Mixer(own, asked, 4, seed=1)


# The loop ------------------------------------------------------------------------------------------


def taught(out: Path, steps: int = 6, seed: int = 0, **how: Any) -> Loop:
    """A small model after so many steps on two clips, or what is left of them."""
    chance = np.random.default_rng(0)
    talks = [[utterance(chance, 3, 4), utterance(chance, 4, 6)], [utterance(chance, 2, 5)]]
    plan = Plan(**{"steps": steps, "rise": 2, "log_every": 2, "check_every": 3, "save_every": 3, "seed": seed, **how})
    loop = Loop(Lesson(lively(TINY, layers=0.5), share=0.5), plan, out)
    loop.resume()
    deck = Deck(talks, 40, 2, seed=plan.seed + loop.step)
    loop.run(deck.draw, lambda step: validation(loop.bare, [batch(talks)]))
    return loop


def test_a_seeded_run_is_repeatable(tmp_path: Path) -> None:
    one, again, other = (learning(taught(tmp_path / str(n), seed=seed).bare) for n, seed in enumerate((1, 1, 2)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["csm.heads.0.weight"], other["csm.heads.0.weight"])


def moments(loop: Loop, name: str) -> list[torch.Tensor]:
    return [state[name] for best in loop.best for state in best.state_dict()["state"].values() if name in state]


@pytest.mark.parametrize("muon", [False, True])
def test_a_stopped_run_goes_on(tmp_path: Path, muon: bool) -> None:
    before = taught(tmp_path, minutes=1e-9, muon=muon)
    assert before.step == 0
    first = taught(tmp_path, steps=3, muon=muon)
    again = Loop(Lesson(lively(TINY, seed=9)), first.plan, tmp_path)  # other weights, which the state replaces
    assert again.resume()
    assert (again.step, again.least) == (3, first.least)
    for name, p in learning(first.bare).items():
        assert torch.equal(p, learning(again.bare)[name])
    for name, some in (("exp_avg", True), ("momentum_buffer", muon)):
        assert bool(moments(first, name)) == some
        assert all(torch.equal(a, b) for a, b in zip(moments(first, name), moments(again, name), strict=True))
    last = taught(tmp_path, steps=7, muon=muon)
    assert last.step == 7
    assert {int(step) for step in moments(last, "step")} == {7}
    assert not torch.equal(learning(last.bare)["csm.heads.0.weight"], learning(first.bare)["csm.heads.0.weight"])
    told = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["step"] for line in told if "validation" in line] == [3, 6, 7]
    assert all(len(line["validation"]) == BOOKS for line in told if "validation" in line)
    larger = replace(TINY, depth=replace(TINY.depth, ffn=40))
    with pytest.raises(ValueError, match="does not fit this model"):
        Loop(Lesson(lively(larger)), first.plan, tmp_path).resume()


def test_the_best_state_is_that_of_the_least_validation_loss(tmp_path: Path) -> None:
    loop = Loop(Lesson(lively(TINY)), Plan(steps=3, check_every=1, save_every=1, log_every=9), tmp_path)
    found, kept = iter([2.0, 1.0, 1.5]), {}

    def check(step: int) -> dict[str, Any]:
        kept[step] = {name: p.clone() for name, p in learning(loop.bare).items()}
        return {"validation": [next(found)] * BOOKS}

    loop.run(Deck([[utterance(np.random.default_rng(0))]], 40, 1, 0).draw, check)
    best = torch.load(tmp_path / BEST)
    assert best["step"] == 2
    assert all(torch.equal(kept[2][name], p) for name, p in best["weights"].items())
    restore(loop.bare, best["weights"])
    assert torch.equal(loop.bare.csm.heads[0].weight, kept[2]["csm.heads.0.weight"])
    assert not torch.equal(kept[2]["csm.heads.0.weight"], kept[3]["csm.heads.0.weight"])
    assert torch.load(tmp_path / STATE)["least"] == 2.0


def test_accumulated_batches_are_one_large_one(tmp_path: Path) -> None:
    chance, found = np.random.default_rng(0), []
    talks = [[utterance(chance, 3, 5)], [utterance(chance, 3, 5)]]  # of one size: the mean of means is the mean
    for accumulate, batches in ((2, [batch(talks[:1]), batch(talks[1:])]), (1, [batch(talks)])):
        left = iter(batches)
        loop = Loop(Lesson(lively(TINY), share=1.0), Plan(steps=1, accumulate=accumulate), tmp_path / str(accumulate))
        loop.run(lambda left=left: next(left))  # type: ignore[misc]
        found.append(learning(loop.bare))
    for name, p in found[0].items():
        assert torch.allclose(p, found[1][name], atol=1e-5), name


def test_validation_counts_frames_and_not_batches() -> None:
    chance = np.random.default_rng(0)
    lesson, talks = Lesson(lively(TINY), share=0.1), [[utterance(chance, 3, 2)], [utterance(chance, 3, 30)]]
    apart = validation(lesson, [batch([talk]) for talk in talks])["validation"]
    assert apart == pytest.approx(validation(lesson, [batch(talks)])["validation"], abs=2e-4)
    assert lesson.share == 0.1


def test_a_gradient_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    loop = Loop(Lesson(lively(TINY)), Plan(steps=2), tmp_path)
    with torch.no_grad():
        loop.bare.csm.projection.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="at step 1: lower the rate"):
        loop.run(Deck([[utterance(np.random.default_rng(0))]], 40, 1, 0).draw)


def test_a_model_learns_two_clips_by_heart_and_ends_them_by_itself(tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    clips = [utterance(chance, 3, 7), utterance(chance, 4, 5)]
    loop = Loop(Lesson(lively(TINY, layers=0.5), share=0.5), Plan(steps=120, rate=1e-2, rise=5, log_every=60), tmp_path)
    loop.run(Deck([clips[:1], clips[1:]], 40, 2, 0).draw)
    csm = loop.bare.csm
    for clip in clips:
        talk = as_the_device_has_it(csm, [])
        opening = talk.append(Segment("0", "", list(clip.ids), closed=False))
        assert generate(talk, opening, 20, True, None) == [*clip.codes.tolist(), [0] * BOOKS]


# On disk -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=256, **tiny_csm.SHAPES["scaled"])


def trained(source: Path, tied: bool) -> tuple[Csm, dict[str, Any], dict[str, Any]]:
    """A model with the shape of `source`, its config and its codec."""
    checkpoint = open_checkpoint(source)
    return lively(replace(checkpoint.shape, tied=tied)), checkpoint.config, checkpoint.codec()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_layout_is_read_alike_by_us_and_by_transformers(source: Path, tmp_path: Path, tied: bool) -> None:
    from transformers import CsmForConditionalGeneration

    csm, config, codec = trained(source, tied)
    export.write(tmp_path / "csm", csm, config, codec, torch.float32)
    shutil.copy(source / "tokenizer.json", tmp_path / "csm")
    built = build(str(tmp_path / "csm"), "fp32", "cpu")
    assert built.csm.shape.tied == tied
    wanted, mine = {**csm.state_dict()}, {**built.csm.state_dict(), "text": built.csm.text}
    assert wanted.keys() == mine.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], mine[name])] == []
    theirs = CsmForConditionalGeneration.from_pretrained(tmp_path / "csm").eval()
    frame = torch.tensor([5, 63, 0, 7])
    ours = logits(csm, [3, 200, 17, 90], frame)
    assert torch.allclose(their_logits(theirs, [3, 200, 17, 90], frame), ours, atol=1e-4)
    assert ours.std() > 0.3
    sound = test_mimi.noise(4000)
    assert torch.equal(built.mimi().encode_all(sound), build(str(source), "fp32", "cpu").mimi().encode_all(sound))


def test_sesames_layout_is_read_back(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csm, config, _ = trained(source, True)
    with pytest.raises(ValueError, match="no name for a backbone of this shape"):
        export.write(tmp_path / "none", csm, config, {}, torch.float32, "sesame")
    assert not (tmp_path / "none").exists()
    # Named as CSM-1B's are, with the rotary angles said in Sesame's way and not in transformers'.
    rope = Rope(factor=32.0)
    for name, stack in (("mine", csm.shape.backbone), ("my-depth", csm.shape.depth)):
        monkeypatch.setitem(FLAVOURS, name, replace(stack, rope=rope))
    assert csm.shape.backbone.rope != rope
    export.write(tmp_path / "csm", csm, config, {}, torch.float32, "sesame")
    told = json.loads((tmp_path / "csm" / "config.json").read_text())
    assert (told["backbone_flavor"], told["decoder_flavor"]) == ("mine", "my-depth")
    opened = open_checkpoint(tmp_path / "csm")
    assert (opened.layout, opened.codec()) == ("sesame", {})
    assert any(name.startswith("backbone.layers.0.attn.q_proj") for name in opened.sizes)
    again = build(str(tmp_path / "csm"), "fp32", "cpu").csm
    wanted, mine = csm.state_dict(), {**again.state_dict(), "text": again.text}
    assert [name for name in wanted if not torch.equal(wanted[name], mine[name])] == []
    ids, frame = [3, 200, 17], torch.tensor([1, 2, 3, 4])
    assert torch.allclose(logits(again, ids, frame), logits(csm, ids, frame), atol=1e-4)
    with pytest.raises(ValueError, match="one audio embedding and this model two"):
        export.write(tmp_path / "two", trained(source, False)[0], config, {}, torch.float32, "sesame")


def test_sesames_names_are_those_of_an_independent_converter(source: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    checkpoint = open_checkpoint(source)
    csm = build(str(source), "fp32", "cpu").csm
    wanted = load_file(tiny_csm.to_sesame(source, tmp_path / "sesame") / "model.safetensors")
    found = export.stored(csm, "sesame")
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert export.stored(csm, "transformers").keys() == {name for name in checkpoint.sizes if not name.startswith("codec_model.")} | {
        "backbone_model.embed_tokens.embed_audio_tokens.weight"
    }


@pytest.mark.parametrize("shape", [CSM_1B, replace(TINY, backbone=replace(TINY.backbone, positions=128))], ids=["CSM-1B", "default"])
def test_a_config_for_transformers_is_the_same_shape(shape: Shape) -> None:
    told = export.transformers_config(shape, shape.text_ids - 256 if shape is CSM_1B else 5, {"codebook_size": shape.sounds})
    told = json.loads(json.dumps(told))
    assert read_shape(told, "csm") == shape
    if shape is CSM_1B:
        from transformers import CsmConfig

        published = CsmConfig()
        for name in ("bos_token_id", "audio_token_id", "pad_token_id", "audio_eos_token_id", "codebook_pad_token_id", "eos_token_id"):
            assert told[name] == getattr(published, name), name


def test_csm_1b_from_transformers_layout_has_sesames_flavours() -> None:
    original = {"original": 1024, "low": 0.125, "high": 0.5}
    depth = {"original": 16, "low": 0.001953125, "high": 0.0078125}
    shape = replace(
        CSM_1B,
        backbone=replace(CSM_1B.backbone, rope=Rope(factor=32.0, **original)),
        depth=replace(CSM_1B.depth, rope=Rope(factor=32.0, **depth)),
    )
    told = export.sesame_config(shape, {})
    assert (told["backbone_flavor"], told["decoder_flavor"]) == ("llama-1B", "llama-100M")
    assert read_shape(told, "csm") == CSM_1B


def test_csm_small_is_written_in_both_layouts(tmp_path: Path) -> None:
    count = alphabet.write(tmp_path / "alphabet")
    csm, config = small.begin(count)
    assert all(p.requires_grad for p in csm.parameters())
    assert small.begin(count)[0].heads[3].weight.equal(csm.heads[3].weight)
    ids = torch.randint(0, count, (9,), generator=torch.Generator().manual_seed(1)).tolist()
    frame = torch.arange(8) * 100
    for layout in ("transformers", "sesame"):
        export.write(tmp_path / layout, csm, config, {}, torch.float32, layout)
        shutil.copy(tmp_path / "alphabet" / "tokenizer.json", tmp_path / layout)
        again = build(str(tmp_path / layout), "fp32", "cpu")
        assert again.csm.shape == csm.shape
        assert torch.allclose(logits(again.csm, ids, frame), logits(csm, ids, frame), atol=1e-5)
        assert max(again.tokens().ids("0", "Hello, dear.")) < count
    begin = config["bos_token_id"]
    made = export.transformers_config(csm.shape, begin, config["codec_config"])
    for name in ("bos_token_id", "audio_token_id", "pad_token_id", "audio_eos_token_id", "codebook_pad_token_id"):
        assert made[name] == config[name], name


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return test_mimi.built(tmp_path_factory.mktemp("mimi"), test_mimi.TINY)


def test_mimi_is_written_under_both_its_names(codec: tuple[Any, ...], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs, config, tensors = codec
    mimi = from_csm(config, tensors, "cpu", 6)
    sound = test_mimi.noise(9 * FRAME + 700)
    wanted = mimi.encode_all(sound)
    assert len(torch.unique(wanted)) > 20
    written = export.codec_tensors(mimi.moshi)
    assert written.keys() == tensors.keys()
    assert torch.equal(from_csm(config, written, "cpu", 6).encode_all(sound), wanted)
    save_file(export.kyutai_tensors(mimi.moshi), tmp_path / "mimi.safetensors")
    assert torch.equal(from_kyutai(tmp_path / "mimi.safetensors", "cpu", 6, config=config).encode_all(sound), wanted)
    # transformers itself, with our tensors in its own model
    from transformers import MimiModel

    theirs.save_pretrained(tmp_path / "theirs")
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    assert torch.equal(test_mimi.theirs(MimiModel.from_pretrained(tmp_path / "theirs").eval(), sound)[:, :6], wanted)


def test_code_zero_of_the_first_codebook_means_only_the_end(codec: tuple[Any, ...]) -> None:
    _, config, tensors = codec
    name = "quantizer.semantic_residual_vector_quantizer.layers.0.codebook."
    sound = test_mimi.noise(60 * FRAME, seed=3)
    often = int(from_csm(config, tensors, "cpu", 6).encode_all(sound)[:, 0].mode().values)
    order = torch.arange(64)
    order[0], order[often] = often, 0  # what is heard most often is code 0
    tensors = tensors | {name + part: tensors[name + part][order] for part in ("embed_sum", "cluster_usage")}
    before, after = (from_csm(config, tensors, "cpu", 6) for _ in range(2))
    book = after.moshi.quantizer.rvq_first.vq.layers[0]._codebook
    plain = before.encode_all(sound)
    book.cluster_usage = 1.0 + torch.bincount(plain[:, 0], minlength=64).float()  # as training counts them
    usage = book.cluster_usage
    book.embedding_sum = book.embedding_sum * usage[:, None]
    book.register_buffer("_embedding", None, persistent=False)
    seldom = int(usage.argmin())
    assert (plain[:, 0] == 0).any()
    export.keep_zero_free(after.moshi)
    found = after.encode_all(sound)
    assert not (found[:, 0] == 0).any()
    kept = (plain[:, 0] != 0) & (plain[:, 0] != seldom)
    assert torch.equal(found[kept, 0], plain[kept, 0])
    assert (found[plain[:, 0] == 0, 0] == seldom).all()  # what 0 was has the least used code
    again = from_csm(config, export.codec_tensors(after.moshi), "cpu", 6)  # and stays so on disk
    assert torch.equal(again.encode_all(sound), found)
