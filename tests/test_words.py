"""The words of a reply: the bank as written, the bank by meaning, and a chat model. No safety rules here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_chat import build

from device.planner import clauses
from device.reply_rules import check_reply
from device.voice.replies import WordsFault, load_persona, load_replies

FIRMWARE = Path(__file__).resolve().parent.parent / "firmware_config"
REPLIES = FIRMWARE / "replies.toml"
UTTERANCES = Path(__file__).parent / "data" / "utterances.tsv"
MARKUP = re.compile(r"[0-9*_#<>\[\]{}|`~]|\n")
CLAIMS = re.compile(r"\b(I feel|I felt|I am a person|I'm human|I'm a (nurse|doctor|therapist)|as a (nurse|doctor)|my body)\b", re.I)
TOLD = re.compile(r"\b(you should|you must|you ought|you need to|try to|you are (sad|angry|afraid|lonely|depressed))\b", re.I)
ENTRY = '[[reply]]\ntheme = "{theme}"\nfeeling = "calm"\nhears = ["Hello"]\nsays = "{says}"\n'


@pytest.fixture(scope="module")
def bank(models_folder: Path):
    from device.voice.words import Bank

    return Bank(REPLIES, models_folder / "minilm", threads=1)


def test_the_bank_is_large_and_says_nothing_twice() -> None:
    """At least 150 replies, each said once, each example in one place."""
    replies = load_replies(REPLIES)
    examples = [h.lower() for r in replies for h in r.hears]
    assert len(replies) >= 150
    assert len({r.says for r in replies}) == len(replies)
    assert sorted({h for h in examples if examples.count(h) > 1}) == []


@pytest.mark.parametrize("banned", [MARKUP, CLAIMS, TOLD])
def test_no_reply_has_banned_content(banned: re.Pattern[str]) -> None:
    """No digit, markup, claim of being a person, advice, or feeling told as fact."""
    assert [r.says for r in load_replies(REPLIES) if banned.search(r.says)] == []


def test_every_reply_is_short_and_begins_early() -> None:
    """8 to 45 words, and speech can start after at most 20 words."""
    for reply in load_replies(REPLIES):
        assert 8 <= len(reply.says.split()) <= 45, reply.says
        assert len(re.split(r"(?<=[.!?])\s", reply.says)[0].split()) <= 20, reply.says


def test_every_reply_passes_the_rules_for_replies_and_comes_out_whole() -> None:
    """What a reviewed reply says is never replaced, and its clauses put together are the reply again."""
    for reply in load_replies(REPLIES):
        pieces = list(clauses([reply.says]))
        assert [piece for piece in pieces if check_reply(piece) != piece] == []
        assert " ".join(pieces) == reply.says


def test_the_examples_find_their_own_theme(bank) -> None:
    """At least nine in ten of the bank's examples are answered from their own theme."""
    found = [bank.theme(bank.reply(h)) == r.theme for r in bank.replies for h in r.hears[:2]]
    assert sum(found) / len(found) >= 0.9


def test_bedside_utterances_are_answered_on_theme(bank) -> None:
    """At least four in five of thirty utterances. (The bank was tuned on them: a guard, not a figure.)"""
    rows = [line.split("\t") for line in UTTERANCES.read_text(encoding="utf-8").splitlines()[1:]]
    known = {r.theme for r in bank.replies}
    assert len(rows) == 30
    assert {t for _, themes in rows for t in themes.split(",")} <= known
    missed = [heard for heard, themes in rows if bank.theme(bank.reply(heard)) not in themes.split(",")]
    assert len(missed) <= 6, missed


def test_a_session_never_repeats_until_all_is_said(bank) -> None:
    """150 turns about one thing bring 150 replies; when all are used the oldest returns."""
    said: list[str] = []
    for _ in range(150):
        said.append(bank.reply("I can't sleep", before=said[-1:], avoid=said))
    assert len(set(said)) == 150
    everything = [r.says for r in bank.replies]
    oldest = [*everything[7:], *everything[:7]]
    assert bank.reply("I can't sleep", avoid=oldest) == everything[7]


def test_nothing_like_it_is_answered_generally(bank) -> None:
    """Gibberish, a passage read aloud and an empty text get a reply that fits anything."""
    assert bank.theme(bank.reply("Zorp flim the gantle")) == "other"
    assert bank.theme(bank.reply("Typeset pages were locked in an iron frame and inked by hand.")) in ("interesting", "craft")
    assert bank.reply("") == bank.reply("")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ENTRY.format(theme="other", says="One.") + 'mood = "x"\n', "unknown key 'mood'"),
        (ENTRY.format(theme="other", says="One.").replace("feeling", "feelin"), "did you mean 'feeling'"),
        (ENTRY.format(theme="other", says=" "), "reply 1 .*says"),
        (ENTRY.format(theme="other", says="One.") * 2, "reply 2 .*same as reply 1"),
        (ENTRY.format(theme="pain", says="One."), "theme = 'other'"),
        (ENTRY.format(theme="other", says="One.").replace('["Hello"]', "[]"), "hears"),
        ("title = 1\n", "must be"),
        ("[[reply", "replies.toml"),
    ],
)
def test_a_wrong_bank_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    """The error names the entry, what is wrong and the nearest right key."""
    file = tmp_path / "replies.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(WordsFault, match=says):
        load_replies(file)


def test_the_persona_is_read_strictly(tmp_path: Path) -> None:
    """The packaged persona says it is a machine; a mistyped key is named with the right one."""
    persona = load_persona(FIRMWARE / "persona.toml")
    assert "machine" in persona.system
    assert persona.speaker != persona.patient
    wrong = tmp_path / "persona.toml"
    wrong.write_text((FIRMWARE / "persona.toml").read_text().replace("speaker =", "speeker ="), encoding="utf-8")
    with pytest.raises(WordsFault, match="did you mean 'speaker'"):
        load_persona(wrong)
    with pytest.raises(WordsFault, match="no such file"):
        load_persona(tmp_path / "none.toml")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory):
    """The tiny random chat model, loaded as any other."""
    from device.voice.chat_model import Chat

    told: list[str] = []
    folder = build(tmp_path_factory.mktemp("chat"))
    out = Chat(str(folder), device="cpu", persona=load_persona(FIRMWARE / "persona.toml"), status=told.append)
    assert told
    return out


def test_a_chat_model_streams_and_repeats_with_its_seed(chat) -> None:
    """Pieces come one by one; the same seed brings the same text and the prompt holds the persona."""
    talk = [{"role": "user", "content": "Hello there"}]
    pieces = list(chat.stream(talk, 20, seed=5))
    assert len(pieces) > 1
    assert pieces == list(chat.stream(talk, 20, seed=5))
    assert "".join(pieces) != "".join(chat.stream(talk, 20, seed=6))
    assert chat.persona.system in chat.prompt(talk)
    assert len("".join(pieces).split()) <= 20
    long = [{"role": "system", "content": "Speak."}, *talk]
    assert all(len("".join(chat.stream(long, 3, seed=s)).split()) <= 3 for s in range(4))


def test_a_quantised_chat_model_writes_and_predicts_what_the_whole_one_does(chat) -> None:
    """int8 in every linear layer, the embedding whole; what can't run here is one sentence with the way out."""
    import torch
    from torchao.quantization import Int8Tensor

    from device.voice.chat_model import Chat

    load = lambda precision: Chat(chat.model.name_or_path, device="cpu", persona=chat.persona, status=print, precision=precision)  # noqa: E731
    small = load("int8")
    linear = [layer for layer in small.model.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(linear) == 15
    assert all(isinstance(layer.weight, Int8Tensor) for layer in linear)
    assert not isinstance(small.model.get_input_embeddings().weight, Int8Tensor)
    ids = small.tokenizer("The night was long.", return_tensors="pt").input_ids
    with torch.inference_mode():
        whole, eighth = chat.model(ids).logits, small.model(ids).logits
    assert 0 < (whole - eighth).abs().max() < 0.05 * whole.abs().max()
    assert "".join(small.stream([{"role": "user", "content": "Hello"}], 20, seed=5))
    with pytest.raises(WordsFault, match=r"words\.precision = 'int4' does not run on cpu \(it needs a GPU\); choose another"):
        load("int4")


def test_closing_the_stream_stops_the_model(chat) -> None:
    """After close() the model is not run again."""
    runs: list[int] = []
    handle = chat.model.register_forward_hook(lambda *_: runs.append(1))
    try:
        stream = chat.stream([{"role": "user", "content": "Hello"}], 60, seed=5)
        next(stream)
        stream.close()
        done = len(runs)
        assert 1 <= done < 30
        assert list(stream) == []
        assert len(runs) == done
    finally:
        handle.remove()


def test_a_reply_ends_at_the_word_limit() -> None:
    """Later sentences come whole or not at all; one endless sentence is cut at the limit."""
    from device.voice.chat_model import measured

    two = list("It sounds hard. What is it like for you tonight? And one more thing")
    assert "".join(measured(two, 12)).strip() == "It sounds hard. What is it like for you tonight?"
    assert "".join(measured(two, 8)).strip() == "It sounds hard."
    assert "".join(measured(list("and so " * 50), 9)).split() == ["and", "so"] * 4 + ["and"]
    assert "".join(measured(["Hello. ", "No full stop"], 9)) == "Hello. No full stop"


def test_a_missing_model_is_one_sentence(tmp_path: Path) -> None:
    """Both kinds of model name themselves and the way out."""
    pytest.importorskip("transformers")
    from device.voice.chat_model import Chat
    from device.voice.words import Meaning

    with pytest.raises(WordsFault, match="sentence model could not be loaded"):
        Meaning(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    persona = load_persona(FIRMWARE / "persona.toml")
    with pytest.raises(WordsFault, match="or 'bank'"):
        Chat(str(tmp_path / "empty"), device="cpu", persona=persona, status=lambda _: None)
