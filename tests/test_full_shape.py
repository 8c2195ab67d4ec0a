"""CSM-1B's own shape with random weights, once: what the tiny checkpoints claim holds there. Minutes, 6 GB of memory, 13 of disk.

`pytest -m slow -s tests/test_full_shape.py` also prints the figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import full_csm  # noqa: E402
import soundfile  # noqa: E402

from device.turn import VOICE_RATE  # noqa: E402
from device.voice import random_weights  # noqa: E402
from device.voice.build import Built, build  # noqa: E402
from device.voice.codes import codes  # noqa: E402
from device.voice.conversation import DEVICE, PATIENT, Conversation, Segment  # noqa: E402
from device.voice.csm import Csm, Sampling, frequencies  # noqa: E402
from device.voice.measure import weight_bytes  # noqa: E402
from device.voice.mimi import from_csm  # noqa: E402
from device.voice.shape import CSM_1B, Rope, Shape  # noqa: E402

pytestmark = pytest.mark.slow

FRAMES, FEW = 64, 8
SAID = "What keeps you awake?"


@pytest.fixture(scope="module", autouse=True)
def _every_core() -> Iterator[None]:
    """The tests of tiny checkpoints leave torch with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Reference:
    """A checkpoint on disk, and what transformers makes of it."""

    folder: Path
    talk: Path  # two speakers, three turns of text and sound
    after_talk: list[list[int]]
    ids: Path  # raw text ids
    after_ids: list[list[int]]
    text: list[int]  # the prompt of the logits: text, then frames
    frames: Any
    frame: Any  # the codes that are forced
    hidden: Any
    logits: Any


def bare(shape: Shape) -> Shape:
    """Without what the two config.json write differently: the rotary scaling, whose angles are compared instead."""
    return replace(shape, backbone=replace(shape.backbone, rope=Rope()), depth=replace(shape.depth, rope=Rope()))


def show(text: str) -> None:
    print(f"\n  {text}", end="", flush=True)


@pytest.mark.parametrize(("scheme", "mimis", "most"), [("int8", torch.float32, 2.0), ("int4", torch.bfloat16, 1.2)])
def test_the_weights_the_cache_and_mimi_fit_the_memory_of(scheme: str, mimis: Any, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In GB of 10⁹ bytes, Mimi's decoder being float32 or bf16. The text table stays a mapped file and is not among them."""
    began = time.monotonic()
    csm = random_weights.random_csm(CSM_1B, scheme, "cpu")
    held = weight_bytes(csm)
    sampling = Sampling(CSM_1B.sounds, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        frame, readings = csm.frame(csm.listen(csm.text_rows([1, 2, 3]), 0)[-1:], sampling)
    del csm
    monkeypatch.setattr(random_weights, "from_csm", partial(from_csm, dtype=mimis))
    mimi = random_weights.random_mimi(CSM_1B.codebooks, "cpu").memory
    total = (held["weights"] + held["cache"] + mimi) / 1e9
    parts = " + ".join(f"{name} {size / 1e9:.3f}" for name, size in {**held, "mimi": mimi}.items() if name != "text_on_disk")
    show(f"{scheme}, Mimi's decoder {mimis}: {parts} = {total:.3f} GB (at most {most}); {time.monotonic() - began:.0f} s")
    assert frame.shape == (CSM_1B.codebooks,)
    assert torch.isfinite(readings).all()
    assert held["cache"] >= 2 * CSM_1B.kv_numbers  # bf16
    assert total <= most


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    folder = tmp_path_factory.mktemp("full")
    try:
        began = time.monotonic()
        full_csm.build(folder)
        written = time.monotonic()
        made = _transformers(folder)
        show(f"the checkpoint was written in {written - began:.0f} s, transformers was asked in {time.monotonic() - written:.0f} s")
        yield made
    finally:
        shutil.rmtree(folder)


def _transformers(folder: Path) -> Reference:
    from transformers import CsmForConditionalGeneration

    theirs, told = CsmForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(told.values()), told  # no weight is missing, left over or of another size
    theirs.eval()

    def generated(frames: int, **inputs: Any) -> list[list[int]]:
        with torch.inference_mode():
            out = theirs.generate(**inputs, max_new_tokens=frames, do_sample=False, depth_decoder_do_sample=False)
        return out[0].tolist()

    rng = np.random.default_rng(0)
    segments, turns = [], []
    for number, (speaker, text, samples) in enumerate([(0, "Hello there.", 9 * 1920), (1, "I can't sleep.", 20_000), (0, "Oh no.", 5_001)]):
        file = folder / f"{number}.wav"
        soundfile.write(file, (rng.normal(size=samples) * 0.1).astype(np.float32), VOICE_RATE, subtype="PCM_16")
        segments.append({"speaker": speaker, "text": text, "audio": file.name})
        sound, _ = soundfile.read(file, dtype="float32")
        turns.append({"role": str(speaker), "content": [{"type": "text", "text": text}, {"type": "audio", "audio": sound}]})
    turns.append({"role": "0", "content": [{"type": "text", "text": SAID}]})
    (folder / "talk.json").write_text(json.dumps({"segments": segments}))
    prompt = dict(full_csm.processor().apply_chat_template(turns, tokenize=True, return_dict=True))

    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, CSM_1B.text_ids, (1, 17), generator=chance)
    (folder / "ids.json").write_text(json.dumps({"prompt_ids": ids[0].tolist()}))

    text = torch.randint(0, CSM_1B.text_ids, (1, 60), generator=chance)
    frames = torch.randint(0, CSM_1B.sounds, (140, CSM_1B.codebooks), generator=chance)
    frame = torch.randint(0, CSM_1B.sounds, (CSM_1B.codebooks,), generator=chance)
    with torch.inference_mode():
        rows = torch.cat([theirs.embed_text_tokens(text), theirs.backbone_model.embed_tokens(frames[None])], 1)
        hidden = theirs.backbone_model(inputs_embeds=rows).last_hidden_state[0, -1:]
        known = torch.cat([torch.zeros(1, dtype=torch.long), frame[:-1]])[None]
        rest = theirs.depth_decoder(input_ids=known, backbone_last_hidden_state=hidden.clone()).logits[0]
        logits = torch.cat([theirs.lm_head(hidden), rest])
    return Reference(
        folder,
        folder / "talk.json",
        generated(FRAMES, **prompt),
        folder / "ids.json",
        generated(FEW, input_ids=ids, attention_mask=torch.ones_like(ids)),
        text[0].tolist(),
        frames,
        frame,
        hidden.clone(),
        logits.clone(),
    )


# Prints what loading costs a process that has done nothing else: in this one, memory that was freed may be used again.
LOADING = """
import json, sys, time
import full_csm
from device.voice.build import build
from device.voice.measure import weight_bytes
began = time.monotonic()
with full_csm.Memory() as memory:
    csm = build(sys.argv[1], "fp32", "cpu").csm
print(json.dumps({"seconds": time.monotonic() - began, "peak": memory.peak, **weight_bytes(csm)}))
"""


def no_second_copy_is_held_while_loading(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    size = {name: found[name] / 1e9 for name in ("peak", "weights", "cache", "text_on_disk")}
    show(
        f"loaded in {found['seconds']:.1f} s; private memory at most {size['peak']:.2f} GB for {size['weights']:.2f} GB of weights"
        f" and {size['cache']:.2f} of cache; the text table of {size['text_on_disk']:.2f} stays a file"
    )
    assert 0.9 < size["peak"] / (size["weights"] + size["cache"]) < 1.1


@pytest.fixture(scope="module")
def built(reference: Reference) -> Built:
    return build(str(reference.folder), "fp32", "cpu")


def test_loading_never_holds_two_copies(reference: Reference) -> None:
    no_second_copy_is_held_while_loading(reference.folder)


def test_the_shape_is_csm_1bs(built: Built) -> None:
    """The one of Sesame's own config.json: both write the same angles in other words."""
    shape = built.csm.shape
    assert bare(shape) == bare(CSM_1B)
    assert weight_bytes(built.csm)["weights"] + weight_bytes(built.csm)["text_on_disk"] > 4 * 1.5e9
    for found, wanted in ((shape.backbone, CSM_1B.backbone), (shape.depth, CSM_1B.depth)):
        assert torch.equal(frequencies(found.rope, found.head), frequencies(wanted.rope, wanted.head))


def test_greedy_codes_after_a_conversation_are_those_of_transformers(reference: Reference, built: Built) -> None:
    began = time.monotonic()
    ours = codes(built, reference.talk, None, SAID, "0", FRAMES, True, None)
    same = sum(a == b for a, b in zip(ours, reference.after_talk, strict=True))
    ids = {code for frame in ours for code in frame}
    show(f"{same} of {len(ours)} frames are those of transformers, {len(ids)} ids among them; {time.monotonic() - began:.0f} s")
    assert len(ours) == FRAMES
    assert len(ids) > 100  # a constant would be equal too
    assert len({tuple(frame) for frame in ours}) > FRAMES // 2
    assert ours == reference.after_talk


def test_logits_after_200_rows_are_within_1e_4_of_transformers(reference: Reference, built: Built) -> None:
    """The bound is absolute, on logits as wide as a trained CSM's."""
    csm = built.csm
    with torch.inference_mode():
        hidden = csm.listen(torch.cat([csm.text_rows(reference.text), csm.sound_rows(reference.frames)]), 0)[-1:]
        ours = csm.forced_logits(hidden, reference.frame)
    apart, most, spread = (ours - reference.logits).abs(), ours.abs().max(), ours.std()
    show(
        f"logits: {apart.max():.1e} apart at most, {apart.mean():.1e} on average, {apart[0].max():.1e} in the first codebook; "
        f"their spread is {spread:.2f}, the largest {most:.1f}; hidden: {(hidden - reference.hidden).abs().max():.1e}"
    )
    assert spread > 1
    assert apart.max() <= 1e-4


def test_with_reuse_forgetting_and_a_barge_in_the_codes_are_those_of_a_history_heard_afresh(built: Built) -> None:
    csm, began = built.csm, time.monotonic()
    tokens = built.tokens()

    def segment(speaker: str, text: str, frames: int, seed: int) -> Segment:
        sound = torch.randint(0, csm.shape.sounds, (frames, csm.shape.codebooks), generator=torch.Generator().manual_seed(seed))
        return Segment(speaker, text, tokens.ids(speaker, text), sound)

    def answer(talk: Conversation, text: str, frames: int) -> Segment:
        spoken = talk.append(Segment(DEVICE, text, tokens.ids(DEVICE, text), closed=False))
        for _ in range(frames):
            hidden = talk.catch_up()
            assert hidden is not None
            with torch.inference_mode():
                talk.add_frame(spoken, csm.frame(hidden, Sampling(csm.shape.sounds, greedy=True))[0])
        spoken.closed = True
        return spoken

    talk = Conversation(csm, segment(DEVICE, "I am here.", 12, 100))
    forgotten = 0
    for turn in range(4):
        heard = segment(PATIENT, f"This is turn {turn}.", 15 + turn, turn)
        forgotten += talk.make_room(heard.rows + csm.shape.backbone.positions - 200)
        talk.append(heard)
        talk.catch_up()
        first = answer(talk, "It sounds hard.", 5)
        second = answer(talk, "Go on.", 3)
        if turn in (1, 3):  # the patient speaks into it: some of the first clause was heard, nothing of the second
            talk.cut(first, "It sounds", tokens.ids(DEVICE, "It sounds"), 2)
            talk.remove(second)
    assert forgotten > 0
    kept, reused = talk.rows, talk.filled
    assert reused > kept // 2
    with_reuse = answer(talk, "And then?", FEW).codes.clone()
    talk.remove(talk.segments[-1])
    fresh = Conversation(csm)
    for old in talk.segments:
        fresh.append(Segment(old.speaker, old.text, list(old.ids), old.codes.clone(), old.closed))
    assert (fresh.rows, fresh.filled) == (kept, 0)
    found = answer(fresh, "And then?", FEW).codes
    same = int((found == with_reuse).all(1).sum())
    show(f"{forgotten} segments forgotten, {reused} of {kept} rows reused, {same} of {FEW} frames equal; {time.monotonic() - began:.0f} s")
    assert torch.equal(with_reuse, found)


def after_ids(built: Built, reference: Reference) -> list[list[int]]:
    return codes(built, None, reference.ids, "", "0", FEW, True, None)


def weights(csm: Csm) -> dict[str, Any]:
    return {**csm.state_dict(), "text": csm.text}


def test_sesames_layout_gives_the_same_weights_and_the_codes_of_transformers(reference: Reference, built: Built, tmp_path: Path) -> None:
    assert after_ids(built, reference) == reference.after_ids
    try:
        folder = full_csm.to_sesame(reference.folder, tmp_path / "sesame")
        no_second_copy_is_held_while_loading(folder)
        sesames = build(str(folder), "fp32", "cpu")
        assert sesames.csm.shape == CSM_1B
        found, wanted = weights(sesames.csm), weights(built.csm)
        assert found.keys() == wanted.keys()
        assert [name for name, weight in found.items() if not torch.equal(weight, wanted[name])] == []
        assert after_ids(sesames, reference) == reference.after_ids
    finally:
        shutil.rmtree(tmp_path / "sesame", ignore_errors=True)
