"""What the settings ask for is what is loaded; what can't be had is announced. Real bank, real tiny chat model."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import tiny_csm
from tiny_chat import build

from device.bench import normaliser, word_errors
from device.config import FIRMWARE, ConfigError, Settings, load
from device.training.sentences import held_out
from device.turn import MIC_RATE, VOICE_RATE
from device.voice.listen import Listener
from device.voice.load import Writer, choose_device, load_csm, load_throat
from device.voice.replies import load_replies

BANK = {reply.says for reply in load_replies(FIRMWARE / "replies.toml")}
REQUEST: dict[str, Any] = {"heard": "I can't sleep at all", "before": [], "avoid": [], "affect": ""}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("chat"))


def writer(folder: Path, **words: Any) -> Writer:
    pen = Writer(load(None, {}, words=words), folder, "cpu", lambda text: None)
    if pen._chat:  # random weights may also say nothing, or a whole clause at once
        pen._chat.stream = functools.partial(pen._chat.stream, seed=0)  # type: ignore[method-assign]
    return pen


def test_the_bank_never_says_what_it_has_begun_to_say(models_folder: Path) -> None:
    pen = writer(models_folder)
    first = "".join(pen.plan(REQUEST, bank=False))
    assert first in BANK
    again = "".join(pen.plan({**REQUEST, "avoid": [first[:40]]}, bank=False))
    assert again in BANK - {first}


def test_a_reply_with_quotes_is_known_again_by_what_was_spoken(models_folder: Path) -> None:
    """Quotes are not spoken, so what the companion remembers of the reply has none."""
    (quoted, *_) = [reply for reply in load_replies(FIRMWARE / "replies.toml") if '"what if"' in reply.says]
    pen = writer(models_folder)
    heard = {**REQUEST, "heard": quoted.hears[0]}
    assert "".join(pen.plan(heard, bank=True)) == quoted.says
    assert "".join(pen.plan({**heard, "avoid": [quoted.says.replace('"', "")[:80]]}, bank=True)) != quoted.says


def test_a_chat_model_writes_in_its_own_words(models_folder: Path, model: Path) -> None:
    pen = writer(models_folder, model=str(model), late_seconds=60, max_words=20)
    assert pen.name == str(model)
    said = "".join(pen.plan(REQUEST, bank=False))
    assert said.strip()
    assert said not in BANK
    assert "".join(pen.plan(REQUEST, bank=True)) in BANK


def test_a_chat_model_that_writes_no_sentence_is_late(models_folder: Path, model: Path) -> None:
    """One that only makes tokens without text, or never ends its first clause, gives way in the time it has."""
    pen = writer(models_folder, model=str(model), late_seconds=0.5, max_words=200)
    for piece in ("", "word "):
        pen._chat.stream = lambda *_, piece=piece: (time.sleep(0.01) or piece for _ in range(10_000))  # type: ignore[union-attr]
        began = time.monotonic()
        assert "".join(pen.plan(REQUEST, bank=False)) in BANK
        assert time.monotonic() - began < 20


def test_the_prompt_fits_the_budget_and_the_model(models_folder: Path, model: Path) -> None:
    """The tiny model's tokens are bytes: the turns that don't fit are left out, what is remembered is told."""
    pen = writer(models_folder, model=str(model), late_seconds=60, max_words=20, prompt_tokens=1500)
    asked: list[list[dict[str, str]]] = []
    pen._chat.stream = lambda prompt, words: asked.append(prompt) or iter(["Yes. "])  # type: ignore[union-attr]
    before = [[f"{n} " * 80, "Oh."] for n in range(6)]
    told = "".join(pen.plan({**REQUEST, "before": before, "remembered": ["Her cat is Tom."]}, bank=False))
    assert told == "Yes. "
    assert "Her cat is Tom." in asked[0][0]["content"]
    assert 0 < len(asked[0]) - 2 < 12
    assert pen._chat.count("".join(m["content"] for m in asked[0])) <= 1500 + 40  # type: ignore[union-attr]


def test_a_chat_model_that_is_late_gives_way_to_the_bank(models_folder: Path, model: Path) -> None:
    pen = writer(models_folder, model=str(model), late_seconds=1e-9)
    assert "".join(pen.plan(REQUEST, bank=False)) in BANK


def test_a_chat_model_that_can_not_be_had_is_announced(models_folder: Path, tmp_path: Path) -> None:
    pen = writer(models_folder, model=str(tmp_path / "nothing"))
    assert pen.name == "bank"
    assert str(tmp_path / "nothing") in pen.stand_in
    assert "".join(pen.plan(REQUEST, bank=False)) in BANK


def test_a_csm_without_a_name_is_announced_by_what_to_set() -> None:
    settings: Settings = load(None, {}, voice={"engine": "csm", "csm_model": ""})
    throat, stand_in = load_throat(settings, "cpu", lambda text: None)
    assert throat.name == "plain"
    assert "csm_model" in stand_in


def test_the_csm_that_comes_with_the_device_says_most_of_the_words(models_folder: Path) -> None:
    """Of sentences that it was not taught; one word in ten is wrong on the whole (its card), and of babble nearly all are."""
    voice, slow = load_csm(load(None, {}, voice={"engine": "csm", "threads": 1}), "cpu", lambda text: None, seed=1)
    ears, words = Listener("embedded:whisper-base", models_folder, threads=1), normaliser()
    wrong = said = 0
    try:
        for one in held_out()[:6]:
            pcm = np.concatenate(list(voice.frames(one.text)))
            voice.said("", 0)
            wanted = words(one.text)
            wrong += word_errors(wanted, words(ears.transcribe(soxr.resample(pcm, VOICE_RATE, MIC_RATE)).text))
            said += len(wanted)
    finally:
        voice.close()
    assert not slow
    assert wrong < said / 3, f"{wrong} of {said} words"


def test_a_csm_that_breaks_at_its_first_frames_is_announced(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint = tiny_csm.build(tmp_path / "csm")
    weights = load_file(checkpoint / "model.safetensors")
    weights["backbone_model.norm.weight"].fill_(float("nan"))
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    settings: Settings = load(None, {}, voice={"engine": "csm", "csm_model": str(checkpoint)})
    throat, stand_in = load_throat(settings, "cpu", lambda text: None)
    assert throat.name == "plain"
    assert "CSM's numbers broke (NaN)" in stand_in


def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    import torch

    if torch.cuda.is_available():
        assert choose_device("cuda") == "cuda"
        return
    with pytest.raises(ConfigError, match=r"voice\.device.*auto"):
        choose_device("cuda")
