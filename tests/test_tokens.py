"""The ids of what is said: those of transformers' processor, and a clear word where there is no tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_csm

from device.voice.plain import VoiceFault
from device.voice.tokens import BEGIN, Tokens

TEXTS = [
    "Hello there.",
    "I can't sleep — it's 3:45, isn't it?!  (Well…)",
    " two  spaces,\nand a new line ",
    "Good night 😴👩‍⚕️",
    "Grüße, señor; 你好, Ελένη.",
    "",
    "[1]<|not_a_token|>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer as Llama 3's own is: it would set a begin before any text by itself."""
    from transformers import AutoProcessor

    folder = tiny_csm.build(tmp_path_factory.mktemp("csm"))
    stored = json.loads((folder / "tokenizer.json").read_text())
    begin = AutoProcessor.from_pretrained(folder).tokenizer.bos_token_id
    stored["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BEGIN: {"id": BEGIN, "ids": [begin], "tokens": [BEGIN]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    return folder


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("speaker", ["0", "7"])
def test_the_ids_are_those_of_transformers_processor(folder: Path, processor: Any, speaker: str, text: str) -> None:
    talk = [{"role": speaker, "content": [{"type": "text", "text": text}]}]
    wanted = processor.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"]
    assert Tokens(folder).ids(speaker, text) == list(wanted[0])


def test_padding_and_truncation_that_were_stored_change_nothing(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.enable_padding(length=40)
    stored.enable_truncation(5)
    stored.save(str(tmp_path / "tokenizer.json"))
    assert Tokens(tmp_path).ids("0", "Hello there.") == Tokens(folder).ids("0", "Hello there.")


@pytest.mark.parametrize("spoil", ["lose", "empty", "cut", "foreign"])
def test_a_tokenizer_that_is_none_is_one_sentence(folder: Path, tmp_path: Path, spoil: str) -> None:
    whole, file = (folder / "tokenizer.json").read_text(), tmp_path / "tokenizer.json"
    if spoil != "lose":
        foreign = whole.replace("<|begin_of_text|>", "<s>")
        file.write_text({"empty": "", "cut": whole[: len(whole) // 2], "foreign": foreign}[spoil])
    says = {"lose": "has no tokenizer.json", "foreign": "does not know <|begin_of_text|>"}.get(spoil, "can't be read as a tokenizer")
    with pytest.raises(VoiceFault) as caught:
        Tokens(tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "CSM" in str(caught.value) or "fetch the checkpoint again" in str(caught.value)
    assert "\n" not in str(caught.value)
