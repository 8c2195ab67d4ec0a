"""The CSM voice on a tiny random checkpoint: shapes, context, limits and stopping, not beauty."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_csm  # noqa: E402

from device.turn import FRAME, MIC_RATE, VOICE_RATE  # noqa: E402
from device.voice.csm import CsmVoice, frame_budget  # noqa: E402
from device.voice.plain import VoiceFault, to_int16  # noqa: E402

POSITIONS = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=POSITIONS)


@pytest.fixture
def voice(folder: Path) -> CsmVoice:
    torch.manual_seed(1)
    return CsmVoice(str(folder), device="cpu", threads=1)


def speech(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=int(seconds * 16_000)) * 3000).astype(np.int16)


def test_a_turn_is_int16_frames_within_the_budget(voice: CsmVoice) -> None:
    voice.warm_up()
    frames = list(voice.frames("Hello you."))
    assert 0 < len(frames) <= frame_budget("Hello you.") == 25
    assert all(f.shape == (FRAME,) and f.dtype == np.int16 for f in frames)
    assert np.abs(np.concatenate(frames).astype(int)).max() > 0
    assert (voice.name, voice.precision) == ("csm", "fp32")


def test_text_without_words_gives_no_frames(voice: CsmVoice) -> None:
    assert list(voice.frames(" … ")) == []


def test_the_patients_sound_is_in_the_prompt_at_24_khz(voice: CsmVoice) -> None:
    voice.hear("I slept badly.", speech(1.0))
    prompt, _ = voice._prompt("Oh no.")
    config = voice._model.config
    assert int((prompt["input_ids"] == config.audio_token_id).sum()) == 13  # ceil(12.5)
    assert prompt["input_values"].shape[-1] == pytest.approx(24_000, abs=2)
    assert "[1]I slept badly." in voice._processor.tokenizer.decode(prompt["input_ids"][0])
    assert len(list(voice.frames("Oh no."))) > 0


def test_only_what_was_played_enters_the_history_and_the_first_turn_stays(voice: CsmVoice) -> None:
    for number in range(3):
        frames = list(voice.frames("Hello you."))
        assert len(frames) > 4
        voice.said("Hello", 4)
        voice.hear(f"Word {number}.", speech(0.5))
    own = [voice._reference, *(s for s in voice._past if s.speaker == "0")]
    assert [len(s.sound) for s in own if s] == [4 * FRAME] * 3
    voice.said("Nothing was said since", 4)
    assert len(voice._past) == 5
    for _ in range(30):
        voice.hear("On and on.", speech(1.0))
    voice._prompt("Yes.")
    assert own[0] is voice._reference


def test_the_prompt_never_passes_the_positions_and_loses_the_oldest_first(voice: CsmVoice) -> None:
    for number in range(12):
        voice.hear(f"Sentence {number}.", speech(1.5))
        prompt, budget = voice._prompt("I see.")
        assert prompt["input_ids"].shape[1] + budget <= POSITIONS
    kept = [s.text for s in voice._past]
    assert 1 < len(kept) < 12
    assert kept == [f"Sentence {n}." for n in range(12 - len(kept), 12)]
    assert len(list(voice.frames("I see."))) > 0


def test_the_context_is_bounded_in_seconds_too(folder: Path) -> None:
    voice = CsmVoice(str(folder), device="cpu", threads=1, context_seconds=2.0)
    for number in range(3):
        voice.hear(f"{number}", speech(0.9))
    voice._prompt("Yes.")
    assert [s.text for s in voice._past] == ["1", "2"]


def test_a_reply_longer_than_the_model_is_refused_in_one_sentence(voice: CsmVoice) -> None:
    with pytest.raises(VoiceFault, match=r"lower words\.max_words"):
        next(voice.frames("word " * 100))


def test_closing_ends_the_generation_and_the_next_turn_works(voice: CsmVoice) -> None:
    long = "one two three four five six"
    frames = voice.frames(long)
    next(frames)
    codes = voice._codes
    frames.close()
    assert voice._codes is None
    assert codes is not None
    assert codes.ready.qsize() < frame_budget(long) - 10  # the model itself stopped making codes
    assert len(list(voice.frames("Hello."))) > 0


def test_cancel_from_another_thread_ends_the_frames(voice: CsmVoice) -> None:
    long = "one two three four five six"
    frames = voice.frames(long)
    got = [next(frames)]
    other = threading.Thread(target=voice.cancel)
    other.start()
    other.join(timeout=10)
    got += list(frames)
    assert len(got) < frame_budget(long)


def test_frames_made_along_the_way_equal_one_decoding_at_the_end(voice: CsmVoice) -> None:
    codes = [torch.randint(0, tiny_csm.CODEBOOK, (tiny_csm.CODEBOOKS,)) for _ in range(20)]
    assert np.allclose(voice._decode(codes)[:7], voice._decode(codes[:7]), atol=1e-5)


@pytest.mark.parametrize("wrong", ["missing", "empty", "other", "broken"])
def test_a_wrong_checkpoint_gives_one_sentence(folder: Path, tmp_path: Path, wrong: str) -> None:
    place = tmp_path / wrong
    if wrong != "missing":
        place.mkdir()
    if wrong == "other":
        (place / "config.json").write_text('{"model_type": "bert"}')
    if wrong == "broken":
        for file in folder.iterdir():
            data = file.read_bytes()
            cut = len(data) // 2 if file.suffix == ".safetensors" else len(data)
            (place / file.name).write_bytes(data[:cut])
    with pytest.raises(VoiceFault, match=wrong) as fault:
        CsmVoice(str(place), device="cpu", threads=1)
    assert "\n" not in str(fault.value)
    assert "csm_model" in str(fault.value)


def test_no_name_gives_the_setting_to_fill() -> None:
    with pytest.raises(VoiceFault, match=r"voice\.csm_model is empty"):
        CsmVoice("")


def test_each_clause_of_a_reply_enters_the_history_with_its_own_sound(folder: Path) -> None:
    voice = CsmVoice(str(folder), "cpu", reference=("Hello.", np.zeros(VOICE_RATE, np.float32)))
    voice.warm_up()
    voice.hear("What now?", np.zeros(MIC_RATE, np.int16))
    first, second = list(voice.frames("One two three.")), list(voice.frames("Four five six seven."))
    voice.said("One two three.", len(first))
    voice.said("Four", 3)
    voice.said("and a third that never began", 0)
    patient, one, two = voice._past
    assert patient.text == "What now?"
    assert (one.text, two.text) == ("One two three.", "Four")
    assert np.array_equal(to_int16(one.sound), np.concatenate(first))
    assert np.array_equal(to_int16(two.sound), np.concatenate(second[:3]))

