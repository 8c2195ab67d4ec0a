"""The corpus: which sentences are spoken, by whom, and that what is held out stays out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from device.training import corpus, sentences
from device.voice.tokens import PHONEMES, Tokens

OURS = {"bank": 2000, "patient": 2000, "lexicon": 50, "pattern": 800}  # without what is downloaded


def plain(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()


def test_nothing_is_said_twice_and_nothing_that_is_held_out() -> None:
    said = sentences.training(OURS)
    kept = {plain(one.text) for one in sentences.held_out()}
    texts = [plain(one.text) for one in said]
    assert len(kept) == 100
    assert len(texts) == len(set(texts))
    assert not kept & set(texts)
    found = {source: sum(one.source == source for one in said) for source in OURS}
    assert (found["pattern"], found["lexicon"]) == (800, 50)
    assert min(found["bank"], found["patient"]) > 400


def test_a_pattern_has_no_place_left_open() -> None:
    assert all("{" not in one.text for one in sentences.training({"pattern": 800}))


def test_the_same_seed_gives_the_same_sentences_and_another_others() -> None:
    first, again, other = (sentences.training({"pattern": 50}, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus.make(folder, 1.0, 0, 1, counts={"patient": 3, "pattern": 3}, held_out=4)
    return folder


def test_every_sentence_is_spoken_and_a_patients_in_two_voices(spoken: Path) -> None:
    read = corpus.read(spoken)
    by_source = {source: [clip for clip in read.clips if clip.source == source] for source in ("held_out", "patient", "pattern")}
    assert [len(clips) for clips in by_source.values()] == [4, 6, 3]
    assert {clip.speaker for clip in by_source["patient"]} == {"1"}
    assert {clip.speaker for clip in by_source["pattern"]} == {"0"}
    for clip in read.clips:
        sound = read.samples(clip)
        assert 0.5 < clip.size / 24_000 < 12
        assert np.abs(sound).max() > 1500
    assert not {clip.text for clip in by_source["held_out"]} & {clip.text for clip in read.clips if not clip.held_out}


def test_a_corpus_that_is_cut_short_is_told(spoken: Path, tmp_path: Path) -> None:
    for file in (corpus.SOUND, corpus.INDEX):
        (tmp_path / file).write_bytes((spoken / file).read_bytes())
    lines = (tmp_path / corpus.INDEX).read_text().splitlines()
    (tmp_path / corpus.INDEX).write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="not whole"):
        corpus.read(tmp_path)


def test_the_alphabet_spells_every_sentence(tmp_path: Path) -> None:
    from device.training import alphabet
    from device.voice.phonemes import phonemes

    alphabet.write(tmp_path)
    tokens = Tokens(tmp_path)
    known = set(tokens._tokenizer.get_vocab())
    assert PHONEMES in known
    for one in [*sentences.held_out(), *sentences.training({"bank": 40, "pattern": 40, "lexicon": 20})]:
        assert set(phonemes(one.text)) <= known, one.text


def test_words_that_sound_alike_are_spelt_alike_and_others_not(tmp_path: Path) -> None:
    from device.training import alphabet

    alphabet.write(tmp_path)
    tokens = Tokens(tmp_path)
    assert tokens.ids("0", "I read the sign.") == tokens.ids("0", "I red the sign.")
    assert tokens.ids("0", "I hear you.") != tokens.ids("1", "I hear you.")
    assert tokens.ids("0", "I hear you.") != tokens.ids("0", "I hear two.")
