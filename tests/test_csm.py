"""CSM against transformers: the same codes, the same logits, in both layouts, on checkpoints of unlike shapes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import soundfile  # noqa: E402
import tiny_csm  # noqa: E402

from device.__main__ import main  # noqa: E402
from device.turn import VOICE_RATE  # noqa: E402
from device.voice.build import build  # noqa: E402
from device.voice.codes import codes  # noqa: E402
from device.voice.csm import Csm, Sampling  # noqa: E402
from device.voice.graphs import fuse  # noqa: E402
from device.voice.shape import CSM_1B  # noqa: E402

FRAMES = 64

torch.set_num_threads(1)  # matrices this small are slower on two


@pytest.fixture(scope="module", params=tiny_csm.SHAPES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp(request.param), **tiny_csm.SHAPES[request.param])


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    from transformers import CsmForConditionalGeneration

    return CsmForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def conversation(folder: Path) -> Path:
    """Two speakers, three turns; sound of lengths that are and are not whole frames."""
    rng = np.random.default_rng(0)
    talk = []
    for number, (speaker, text, samples) in enumerate([(0, "Hello there.", 9 * 1920), (1, "I can't sleep.", 20_000), (0, "Oh no.", 5_001)]):
        sound = (rng.normal(size=samples) * 0.1).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", sound, VOICE_RATE, subtype="PCM_16")
        talk.append({"speaker": speaker, "text": text, "audio": f"{number}.wav"})
    file = folder / "conversation.json"
    file.write_text(json.dumps({"segments": talk}))
    return file


@pytest.fixture(params=["native", "torch"])
def _engine(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways through a CSM: the native engine where there is one, and PyTorch's own path."""
    if request.param == "torch":
        monkeypatch.setattr("device.voice.build.start_engine", lambda csm, **how: "")


@pytest.fixture(autouse=True)
def _no_handler_is_left() -> Iterator[None]:
    """main() logs to this test's standard error, which is closed after it."""
    yield
    logging.getLogger().handlers.clear()


def generated(model: Any, frames: int = FRAMES, **inputs: Any) -> list[list[int]]:
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=frames, do_sample=False, depth_decoder_do_sample=False)
    return out[0].tolist()


def prompt(folder: Path, conversation: Path, text: str) -> dict[str, Any]:
    """The inputs that transformers' own processor makes of the conversation."""
    from transformers import AutoProcessor

    talk = []
    for segment in json.loads(conversation.read_text())["segments"]:
        sound, _ = soundfile.read(folder / segment["audio"], dtype="float32")
        content = [{"type": "text", "text": segment["text"]}, {"type": "audio", "audio": sound}]
        talk.append({"role": str(segment["speaker"]), "content": content})
    talk.append({"role": "0", "content": [{"type": "text", "text": text}]})
    return dict(AutoProcessor.from_pretrained(folder).apply_chat_template(talk, tokenize=True, return_dict=True))


@pytest.mark.usefixtures("_engine")
def test_greedy_codes_after_a_conversation_are_those_of_transformers(folder: Path, theirs: Any, conversation: Path) -> None:
    wanted = generated(theirs, **prompt(folder, conversation, "What keeps you awake?"))
    ours = codes(build(str(folder), "fp32", "cpu"), conversation, None, "What keeps you awake?", "0", FRAMES, True, None)
    assert ours == wanted
    assert len({tuple(frame) for frame in ours}) > 10  # a constant would be equal too


@pytest.fixture(scope="module")
def reference(folder: Path, theirs: Any) -> tuple[Path, list[list[int]]]:
    """A file of raw text ids, and the codes that transformers gives after them."""
    ids = [7, 200, 45, 3, 99, 121, 5]
    file = folder / "ids.json"
    file.write_text(json.dumps({"prompt_ids": ids}))
    return file, generated(theirs, input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("file", ["transformers", "model.safetensors", "ckpt.pt"])
def test_every_layout_gives_the_codes_of_transformers(folder: Path, reference: Any, tmp_path: Path, file: str) -> None:
    prompt_ids, wanted = reference
    source = folder if file == "transformers" else tiny_csm.to_sesame(folder, tmp_path / "sesame", file)
    assert codes(build(str(source), "fp32", "cpu"), None, prompt_ids, "", "0", FRAMES, True, None) == wanted


@pytest.mark.usefixtures("_engine")
def test_logits_are_within_1e_4_of_transformers(folder: Path, theirs: Any) -> None:
    csm = build(str(folder), "fp32", "cpu").csm
    rng = torch.Generator().manual_seed(5)
    text = torch.randint(0, 256, (1, 12), generator=rng)
    frame = torch.randint(0, csm.shape.sounds, (csm.shape.codebooks,), generator=rng)
    with torch.inference_mode():
        hidden = theirs.backbone_model(inputs_embeds=theirs.embed_text_tokens(text)).last_hidden_state[0, -1:]
        known = torch.cat([torch.zeros(1, dtype=torch.long), frame[:-1]])[None]
        rest = theirs.depth_decoder(input_ids=known, backbone_last_hidden_state=hidden.clone()).logits[0]
        ours_hidden = csm.listen(csm.text_rows(text[0].tolist()), 0)[-1:]
        ours = csm.forced_logits(ours_hidden, frame)
        first = theirs.lm_head(hidden)[0]
    assert torch.allclose(ours_hidden, hidden, atol=1e-4)
    assert torch.allclose(ours[0], first, atol=1e-4)
    assert torch.allclose(ours[1:], rest, atol=1e-4)
    assert ours.std() > 100 * 1e-4  # else the bound would mean nothing


def test_the_command_prints_the_same_codes(folder: Path, theirs: Any, conversation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = generated(theirs, 8, **prompt(folder, conversation, "Tell me."))
    arguments = ["csm", "codes", str(folder), "--conversation", str(conversation), "--text", "Tell me.", "--speaker", "0"]
    assert main([*arguments, "--greedy", "--frames", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"codes": wanted}


def test_codes_in_the_conversation_are_as_good_as_its_sound(folder: Path, theirs: Any, conversation: Path, tmp_path: Path) -> None:
    talk = json.loads(conversation.read_text())["segments"]
    for segment in talk:
        sound, _ = soundfile.read(folder / segment.pop("audio"), dtype="float32")
        with torch.inference_mode():
            found = theirs.codec_model.encode(torch.from_numpy(sound)[None, None]).audio_codes[0]
        segment["codes"] = found.T.tolist()
    (tmp_path / "codes.json").write_text(json.dumps(talk))
    built = build(str(folder), "fp32", "cpu")
    given = [codes(built, file, None, "And then?", "1", 8, True, None) for file in (conversation, tmp_path / "codes.json")]
    assert given[0] == given[1]


@pytest.fixture(scope="module")
def csm(tmp_path_factory: pytest.TempPathFactory) -> Csm:
    return build(str(tiny_csm.build(tmp_path_factory.mktemp("one"))), "fp32", "cpu").csm


def drawn(csm: Csm, sampling: Sampling, frames: int = 20) -> list[list[int]]:
    """Frames from one and the same place in the conversation."""
    with torch.inference_mode():
        hidden = csm.listen(csm.text_rows([1, 2, 3]), 0)[-1:]
        return [csm.frame(hidden, sampling)[0].tolist() for _ in range(frames)]


def test_a_seed_repeats_the_codes_and_another_does_not(csm: Csm) -> None:
    def with_seed(seed: int) -> list[list[int]]:
        return drawn(csm, Sampling(csm.shape.sounds, generator=torch.Generator().manual_seed(seed)))

    assert with_seed(1) == with_seed(1)
    assert with_seed(1) != with_seed(2)


def test_ids_that_are_no_sound_are_never_drawn(csm: Csm) -> None:
    with torch.no_grad():
        for head in csm.heads:
            head.weight[csm.shape.sounds :] += 1.0
    try:
        assert max(max(frame) for frame in drawn(csm, Sampling(csm.shape.sounds, top_k=500))) < csm.shape.sounds
    finally:
        with torch.no_grad():
            for head in csm.heads:
                head.weight[csm.shape.sounds :] -= 1.0


def test_sampling_draws_what_the_softmax_of_the_top_k_says() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.1]]))
    sampling = Sampling(4, temperature=0.5, top_k=2, generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[sampling(logits, sampling.noise(1, torch.device("cpu"))[0])] += 1
    assert counts[2:].sum() == 0
    assert counts[0] / 4000 == pytest.approx(0.8, abs=0.03)  # 0.5² : 0.25²


def test_the_readings_tell_broken_numbers_and_the_chance_of_an_end(csm: Csm) -> None:
    sampling = Sampling(csm.shape.sounds, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        hidden = csm.listen(csm.text_rows([1, 2, 3]), 0)[-1:]
        finite, end = csm.frame(hidden, sampling)[1].tolist()
        wanted = (csm.heads[0](hidden)[0] / sampling.temperature).softmax(-1)[0]
        broken, _ = csm.frame(hidden * torch.nan, sampling)[1].tolist()
    assert np.isfinite(finite)
    assert end == pytest.approx(float(wanted))
    assert not np.isfinite(broken)


def test_nothing_within_a_frame_waits_for_the_host() -> None:
    """On the meta device there are no numbers, so whatever looks at one fails: a copy to the host, a size that depends on values."""
    with torch.device("meta"):
        csm = Csm(CSM_1B)
    csm.allocate("meta", torch.bfloat16)
    csm.to(torch.bfloat16)
    with torch.inference_mode():
        hidden = csm.listen(torch.zeros(20, 2048, device="meta", dtype=torch.bfloat16), 0)[-1:]
        for position in range(20, 23):
            codes, readings = csm.frame(hidden, Sampling(csm.shape.sounds))
            hidden = csm.listen(csm.sound_rows(codes[None]), position)
        assert (codes.shape, readings.shape, hidden.shape) == ((32,), (2,), (1, 2048))
        for look in (codes.tolist, readings[0].item, codes.nonzero):
            with pytest.raises((RuntimeError, NotImplementedError)):
                look()


def test_fused_layers_give_the_same_codes(tmp_path: Path) -> None:
    """Through torch.compile's front end, without the compiler itself: that is what a GPU's owner turns on."""
    (tmp_path / "ids.json").write_text('{"prompt_ids": [5, 6, 7, 8]}')
    built = build(str(tiny_csm.build(tmp_path / "csm", seed=5)), "fp32", "cpu")
    plain = codes(built, None, tmp_path / "ids.json", "", "0", 6, True, None)
    layer = built.csm.depth.layers[0]
    before = layer.finish
    fuse(built.csm, "aot_eager")
    assert layer.finish is not before
    assert codes(built, None, tmp_path / "ids.json", "", "0", 6, True, None) == plain


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"segments": 3}', "is no conversation"),
        ('[{"speaker": 0}]', "segment 1: it must have a speaker and a text"),
        ('[{"speaker": 0, "text": "a"}]', "segment 1: it must have either codes or audio"),
        ('[{"speaker": 0, "text": "a", "codes": [[1, 2]]}]', "frame 1 has 2 codes and not 4"),
        ('[{"speaker": 0, "text": "a", "codes": [[1, 2, 3, 67]]}]', "frame 1 holds 67, which is no code from 0 to 66"),
        ('[{"speaker": 0, "text": "a", "sound": "x"}]', "the key 'sound' is unknown"),
        ("[", "is not JSON"),
        (None, "can't be read"),
    ],
)
def test_a_conversation_that_is_none_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    checkpoint = tiny_csm.build(tmp_path / "csm", positions=64)
    if content is not None:
        (tmp_path / "talk.json").write_text(content)
    assert main(["csm", "codes", str(checkpoint), "--conversation", str(tmp_path / "talk.json"), "--text", "Yes."]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--text", "  "], "There is nothing to say"),
        (["--text", "word " * 400], "takes 2005 positions and 64 frames as many more, but CSM has 240"),
        (["--text", "Hello.", "--frames", "300"], "but CSM has 240"),
        (["--text", "Hello.", "--frames", "0"], "give at least 1 in --frames"),
    ],
)
def test_text_that_is_none_or_too_long_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    checkpoint = tiny_csm.build(tmp_path / "csm", positions=240)
    assert main(["csm", "codes", str(checkpoint), *arguments]) == 1
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
