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


def test_the_clock_says_when_each_phoneme_sounds() -> None:
    from device.training.timed import TimedVoice
    from device.voice.phonemes import phonemes
    from device.voice.plain import PlainVoice

    text = "How did you sleep? I hope it was a quiet night, sweet and long."
    said = TimedVoice().timed(text)
    assert np.array_equal(said.sound, np.concatenate(list(PlainVoice().sounds(text))))
    assert said.phonemes == phonemes(text)
    assert len(said.ends) == len(said.phonemes)
    assert (np.diff(said.ends) >= 0).all()
    assert 0 < said.ends[0] < said.ends[-1] <= len(said.sound)
    spectra = np.abs(np.fft.rfft(said.sound[: len(said.sound) // 600 * 600].reshape(-1, 600).astype(float))) ** 2
    high = spectra[:, 100:].sum(1) / (spectra.sum(1) + 1)  # above 4 kHz, of each 25 ms: a hiss has most of it there
    begins = np.concatenate([[0], said.ends[:-1]])
    heard: dict[str, list[float]] = {}
    for sound, begin, end in zip(said.phonemes, begins, said.ends, strict=True):
        heard.setdefault(sound, []).append(high[min((begin + end) // 1200, len(high) - 1)])
    assert np.mean(heard["s"]) > 5 * np.mean(heard["i"] + heard["W"] + heard["I"])


def test_every_20_ms_of_the_devices_clips_has_its_phoneme(spoken: Path) -> None:
    from device.training import phones

    read = corpus.read(spoken)
    labels = phones.labels(read).reshape(-1)
    for clip in read.clips:
        within = labels[-(-clip.start // phones.STEP) : (clip.start + clip.size) // phones.STEP]
        assert (within == phones.UNKNOWN).all() == (clip.source == "patient")
        if clip.ends:
            sounds = np.abs(read.samples(clip)[: len(within) * phones.STEP].astype(float).reshape(-1, phones.STEP)).mean(1)
            assert np.isin(within, [*phones.CLASSES.values(), phones.SILENCE]).all()
            assert sounds[within != phones.SILENCE].mean() > 3 * sounds[-10:].mean()


def test_every_id_of_a_clip_has_its_time(spoken: Path, tmp_path: Path) -> None:
    from device.training import alphabet, encoded

    alphabet.write(tmp_path)
    tokens = Tokens(tmp_path)
    for clip in corpus.read(spoken).clips:
        ends = encoded._ends(clip, tokens.spans(clip.speaker, clip.text))
        frames = -(-clip.size // 1920)
        if clip.source == "patient":
            assert ends == []
            continue
        assert len(ends) == len(tokens.ids(clip.speaker, clip.text))
        assert ends[:4] == [0.0] * 4  # the beginning and "[0]" take no time
        assert ends == sorted(ends)
        assert ends[4] > 0
        assert ends[-2:] == [frames, frames + 1]
