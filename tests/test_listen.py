"""The ears, on real speech, and on sounds that must not become words."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from device import models, wavs
from device.bench import word_errors as errors
from device.turn import BLOCK, MIC_RATE, Heard
from device.voice.listen import WINDOW, Listener, Stretches, windows
from device.voice.whisper import Whisper, Words

SPEECH = Path(__file__).parent / "data" / "speech"
QUIET = np.zeros(MIC_RATE, np.int16)


@pytest.fixture(scope="module")
def base(models_folder: Path) -> Listener:
    return Listener("embedded:whisper-base", models_folder, threads=1)


def plain(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]", "", text.lower().replace("-", " ")).split()


def clips() -> list[tuple[str, np.ndarray]]:
    with (SPEECH / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(row["text"], wavs.read(SPEECH / row["file"], MIC_RATE)) for row in rows]


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_real_speech_is_written_down(models_folder: Path, size: str) -> None:
    """At most 12 % of the words of six LJSpeech clips are wrong."""
    ears = Listener(f"embedded:whisper-{size}", models_folder, threads=1)
    wrong = total = 0
    for text, pcm in clips():
        heard = ears.transcribe(pcm)
        assert heard.confidence > 0.5
        wrong += errors(plain(text), plain(heard.text))
        total += len(plain(text))
    assert wrong / total <= 0.12


def test_what_is_heard_does_not_depend_on_the_blocks(base: Listener) -> None:
    """Blocks of 80 ms, odd blocks and all at once give the same words, some before the release."""
    pcm = wavs.read(SPEECH / "jfk.flac", MIC_RATE)
    whole = base.transcribe(pcm)
    assert errors(plain("And so my fellow Americans ask not what your country can do for you "
                        "ask what you can do for your country"), plain(whole.text)) <= 1  # fmt: skip
    assert 5 < whole.seconds < 11
    for size in (BLOCK, 997):
        base.start()
        for begin in range(0, len(pcm), size):
            base.feed(pcm[begin : begin + size])
        assert base.words, "the pause before 'ask not' closes a stretch"
        assert base.finish() == whole


def test_two_presses_do_not_mix(base: Listener) -> None:
    """The second press gives what it gives alone, and an empty one gives nothing."""
    (_, first), (_, second) = clips()[:2]
    alone = base.transcribe(second)
    base.transcribe(first)
    assert base.transcribe(second) == alone
    assert base.transcribe(np.zeros(0, np.int16)) == Heard("", 0.0, 0.0)


def sounds() -> dict[str, np.ndarray]:
    """Silence, noise, mains hum, a chord, an arpeggio and a voice-like vibrato: 5 s each."""
    rng = np.random.default_rng(0)
    time = np.arange(5 * MIC_RATE) / MIC_RATE
    noise = rng.normal(size=len(time))

    def note(hertz: float, seconds: np.ndarray = time) -> np.ndarray:
        return sum(
            (np.sin(2 * np.pi * hertz * k * seconds) / k for k in range(1, 6)),
            np.zeros(len(seconds)),
        )

    pluck = time[: MIC_RATE // 4]
    arpeggio = np.concatenate(
        [note(f, pluck) * np.exp(-6 * pluck) for f in (262, 330, 392, 523) * 5]
    )
    waves = {
        "noise": noise / 10,
        "hum": np.sin(2 * np.pi * 50 * time),
        "chord": note(261.6) + note(329.6) + note(392) + noise / 20,
        "arpeggio": arpeggio + noise / 20,
        "vibrato": np.sin(2 * np.pi * 220 * time + 3 * np.sin(2 * np.pi * 5.5 * time)),
    }
    pcm = {n: (wave / np.abs(wave).max() * 10_000).astype(np.int16) for n, wave in waves.items()}
    return {"silence": np.zeros(5 * MIC_RATE, np.int16), **pcm}


@pytest.mark.parametrize("name", list(sounds()))
def test_sounds_that_are_not_speech_give_no_words(base: Listener, name: str) -> None:
    """Nothing is heard, and Whisper's own gate refuses most of it even without silero-vad."""
    pcm = sounds()[name]
    assert base.transcribe(pcm).text == ""
    assert not base.whisper.write_down(pcm[: 3 * MIC_RATE]).believable


def test_a_spoken_thank_you_survives(base: Listener) -> None:
    """Whisper's favourite phantom is also what patients say."""
    heard = base.transcribe(wavs.read(SPEECH / "thank_you.wav", MIC_RATE))
    assert plain(heard.text) == ["thank", "you"]
    assert heard.confidence > 0.5


def test_speech_shorter_than_the_least_is_nobody(base: Listener) -> None:
    """A fifth of a second out of the middle of a word isn't a turn."""
    pcm = clips()[0][1]
    heard = base.transcribe(np.concatenate([QUIET, pcm[8000:10_400], QUIET]))
    assert (heard.text, heard.confidence) == ("", 0.0)


def test_a_long_press_keeps_little_and_loses_nothing(base: Listener) -> None:
    """After two minutes of silence the sound before a sentence is forgotten, the sentence isn't."""
    text, pcm = clips()[1]
    base.start()
    for _ in range(120):
        base.feed(QUIET)
    assert len(base.pcm) < MIC_RATE
    base.feed(pcm)
    assert errors(plain(text), plain(base.finish().text)) <= 1


def test_endless_speech_is_cut_at_its_quietest_window() -> None:
    """60 s without a pause come out in stretches of at most 25 s that join without a gap."""
    stretches, found = Stretches(), []
    dips = {windows(20.0), windows(38.0)}
    for window in range(windows(60.0)):
        closed = stretches.add(0.6 if window in dips else 0.95)
        found += [closed] if closed else []
    last = stretches.close()
    assert last is not None
    found.append(last)
    assert found == [
        (0, windows(20.0)),
        (windows(20.0), windows(38.0)),
        (windows(38.0), windows(60.0)),
    ]
    assert stretches.close() is None


def test_a_loop_is_not_believed() -> None:
    """Whisper's repeated sentence is refused, a patient's own repetition isn't."""
    good = (-0.1,) * 8
    assert not Words("I love you so much. " * 12, good).believable
    assert not Words("...", good).believable
    assert Words("No, no, no, no, please, no.", good).believable


def test_wrong_samples_and_missing_models_are_named(base: Listener, tmp_path: Path) -> None:
    """Floats, an unfetched model, a folder that isn't there and one that holds no Whisper."""
    with pytest.raises(ValueError, match="float64"):
        base.feed(np.zeros(WINDOW))
    with pytest.raises(models.ModelMissing, match="bedside models fetch"):
        Listener("embedded:whisper-base", tmp_path)
    with pytest.raises(ValueError, match="isn't a Whisper"):
        Whisper("embedded:minilm", tmp_path)
    with pytest.raises(models.ModelMissing, match="doesn't exist"):
        Whisper(str(tmp_path / "none"), tmp_path)
    with pytest.raises(models.ModelMissing, match="can't be loaded"):
        Whisper(str(tmp_path), tmp_path)
