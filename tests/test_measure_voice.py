"""scripts/judge-voice and the small set that fine-tuning is shown with: known sounds get the figures they must have."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hibari")

import tiny_csm  # noqa: E402

from device import wavs  # noqa: E402
from device.training import recordings, sentences, styles  # noqa: E402
from device.training.corpus import as_another, shifted, spoken  # noqa: E402
from device.training.measure_voice import Judge, Options, Spoken, copied, judge_voice, measure_plain, summary  # noqa: E402
from device.turn import FRAME, VOICE_RATE  # noqa: E402
from device.voice.build import build  # noqa: E402
from device.voice.load import reference  # noqa: E402
from device.voice.plain import PlainVoice, to_int16  # noqa: E402

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("style")
    styles.make(folder, 0.3, seed=1)
    return folder


def test_conversations_in_another_voice_are_what_fine_tuning_reads(style: Path, tmp_path: Path, models_folder: Path) -> None:
    talks = recordings.read(style / styles.FILE)
    assert all([one.speaker for one in talk] == ["1", "0"] * styles.EXCHANGES for talk in talks)
    held = {sentence.text for sentence in sentences.held_out()}
    assert not held & {one.text for talk in talks for one in talk}
    own = [wavs.read(one.audio, VOICE_RATE) for talk in talks for one in talk if one.speaker == "0"]
    assert 0.3 * 60 <= sum(map(len, own)) / VOICE_RATE < 60
    styles.make(tmp_path, 0.3, seed=1)
    assert (tmp_path / styles.FILE).read_bytes() == (style / styles.FILE).read_bytes()
    assert (tmp_path / "wavs" / "0002.wav").read_bytes() == (style / "wavs" / "0002.wav").read_bytes()
    # Another person by the measure that it is shown with; and the words can still be understood.
    judge = Judge(models_folder, wavs.read(style / styles.VOICE, VOICE_RATE), 1)
    text = "There is a jar of honey on the kitchen table, and the window is open."
    (plain,) = measure_plain([text], judge)
    other = judge.hear(text, styles.styled(PlainVoice(), text))
    assert other.alike > plain.alike + 0.1
    assert other.seconds > 1.2 * plain.seconds
    assert plain.seconds * VOICE_RATE < len(styles.styled(PlainVoice(), text, 0.95)) < other.seconds * VOICE_RATE  # less of it
    assert (plain.wrong, other.wrong, plain.words) == (0, 0, 15)


def test_a_shifted_voice_is_lower_and_slower() -> None:
    tone = (np.sin(np.arange(VOICE_RATE) * 2 * np.pi * 200 / VOICE_RATE) * 9000).astype(np.int16)
    low = shifted(tone, 0.8)
    assert len(low) == pytest.approx(VOICE_RATE / 0.8, abs=2)
    assert np.argmax(np.abs(np.fft.rfft(low))) * VOICE_RATE / len(low) == pytest.approx(160, abs=2)
    assert as_another(tone, 0.8, random.Random(0)).dtype == np.int16


def test_a_style_fetches_no_package_that_it_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "download", lambda *_: pytest.fail("fetched"))
    said = sentences.training({"bank": 5, "pattern": 5}, 0)
    assert sorted(one.source for one in said) == ["bank"] * 5 + ["pattern"] * 5


def test_wrong_words_and_silence_are_counted(models_folder: Path) -> None:
    sound = spoken(PlainVoice(), "The garden is quiet this morning.")
    judge = Judge(models_folder, sound, 1)
    right = judge.hear("The garden is quiet this morning.", sound, ended="end", first=0.1, factor=0.5)
    assert (right.wrong, right.words, right.ended) == (0, 6, "end")
    assert right.alike == pytest.approx(1.0, abs=1e-4)
    assert right.mos > 3.5
    other = judge.hear("The kitchen is quiet this evening.", sound)
    assert other.wrong == 2
    nothing = judge.hear("Are you there?", np.zeros(0, np.int16))
    assert (nothing.wrong, nothing.words, nothing.seconds) == (3, 3, 0.0)
    total = summary([right, replace(other, ended="budget", factor=1.5, first=0.3), nothing])
    assert (total["sentences"], total["wer"], total["runaways"]) == (3, round(5 / 15, 4), 1)
    assert total["ended"] == {"end": 1, "budget": 1}
    assert (total["first_audio"], total["real_time_factor"]) == (0.2, 1.0)
    assert summary([Spoken("x", 1, 0, 4.0, 1.0, 1.0)])["real_time_factor"] is None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=512)


def test_a_checkpoint_is_judged_through_the_devices_voice(
    checkpoint: Path, models_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packaged = reference()
    options = Options((str(checkpoint),), models_folder, packaged, to_int16(packaged[1]), sentences=2, precision="fp32", threads=1)
    found = judge_voice(options)
    said = [sentence.text for sentence in sentences.held_out()[:2]]
    ours, plain = found[str(checkpoint)], found["the plain voice"]
    for part in (ours, plain):
        assert [one["text"] for one in part["each"]] == said
    assert plain["wer"] < 0.3 < ours["wer"]  # it speaks noise
    assert plain["mos"] > ours["mos"] + 1
    assert plain["ended"] == {}
    assert sum(ours["ended"].values()) == 2
    assert ours["first_audio"] > 0
    assert all(one["seconds"] / 0.08 == pytest.approx(round(one["seconds"] / 0.08)) for one in ours["each"])
    assert str(checkpoint) in capsys.readouterr().out


def test_a_copy_is_the_decoded_codes(checkpoint: Path) -> None:
    mimi = build(str(checkpoint), "fp32", "cpu").mimi()
    sound = (np.random.default_rng(0).normal(size=3 * FRAME + 70) * 3000).astype(np.int16)
    codes = mimi.encode_all((sound / 32768).astype(np.float32))
    mimi.start_decoding()
    wanted = np.concatenate([to_int16(mimi.decode(frame)) for frame in codes])[: len(sound)]
    assert np.array_equal(copied(mimi, sound), wanted)
    assert np.array_equal(copied(mimi, sound), wanted)  # nothing is left over from the one before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--checkpoint", "/nowhere", "--towards", "/nowhere.wav"], "/nowhere.wav: no such sound file"),
        (["--checkpoint", "x", "--reference", "a.wav"], "--reference needs its words in --reference-text"),
    ],
)
def test_a_wrong_command_is_one_sentence(words: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts/judge-voice"), *words], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_figures_are_written(checkpoint: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", checkpoint, "--sentences", 1, "--threads", 1, "--codec-only", "--json", tmp_path / "a.json"]
    done = subprocess.run([sys.executable, str(ROOT / "scripts/judge-voice"), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, copy = json.loads((tmp_path / "a.json").read_text()).values()
    assert plain["wer"] < 0.5 < copy["wer"]  # its Mimi makes noise
    assert copy["each"][0]["seconds"] == plain["each"][0]["seconds"]
    assert f"{checkpoint}, its codec alone" in done.stdout
