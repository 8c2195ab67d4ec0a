"""The plain voice speaks real frames; these tests know nothing of the socket or the speaker."""

from __future__ import annotations

import numpy as np
import pytest

from device.turn import FRAME
from device.voice.plain import ASSETS, PlainVoice, VoiceFault, check_assets, clean


@pytest.fixture(scope="module")
def voice() -> PlainVoice:
    pytest.importorskip("hibari")
    return PlainVoice(threads=1)


def test_speech_comes_in_whole_frames_and_can_be_heard(voice: PlainVoice) -> None:
    frames = list(voice.frames("Good morning. How did you sleep?"))
    assert all(f.shape == (FRAME,) and f.dtype == np.int16 for f in frames)
    assert 1.2 < len(frames) * 0.08 < 5
    sound = np.concatenate(frames).astype(float)
    assert 0.02 < np.sqrt(np.mean(sound**2)) / 32768 < 0.3
    assert np.abs(sound).max() < 32767


def test_the_same_words_sound_the_same(voice: PlainVoice) -> None:
    first, second = (np.concatenate(list(voice.frames("Hello there."))) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("text", ["", "   \n", "👋🏽", "***", "...", "你好"])
def test_what_has_no_words_gives_no_frames(voice: PlainVoice, text: str) -> None:
    assert list(voice.frames(text)) == []


def test_calm_is_a_little_slower_until_it_is_over(voice: PlainVoice) -> None:
    text = "It is quiet here, and there is no hurry at all."
    usual = len(list(voice.frames(text)))
    try:
        voice.tone("calm")
        assert 1.05 < len(list(voice.frames(text))) / usual < 1.2
    finally:
        voice.tone("neutral")
    assert len(list(voice.frames(text))) == usual


def test_a_long_text_starts_before_all_of_it_is_made(voice: PlainVoice) -> None:
    made: list[int] = []
    run = voice._hibari.from_ids

    def counted(ids: list[int], **options: object) -> np.ndarray:
        made.append(len(ids))
        return run(ids, **options)

    voice._hibari.from_ids = counted
    try:
        speech = voice.frames("One sentence is here. " * 20)
        next(speech)
        speech.close()
        assert len(made) == 1
        list(voice.frames("we walk on and on " * 60))  # no clause to cut at
    finally:
        voice._hibari.from_ids = run
    assert max(made) <= 402
    assert list(speech) == []


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("**Hi** 👋 you", "Hi you"),
        ("# Today\n- rest\n- [tea](http://a.b)", "Today\nrest\ntea"),
        ("Call 911, please.", "Call nine one one, please."),
        ("Take 112 mg.", "Take 112 mg."),
        ("For 100 years.", "For 100 years."),
        ("Ring 555-0123-99.", "Ring five five five zero one two three nine nine."),
        ("Count 10 20 30.", "Count 10 20 30."),
        ("It was 120/80 at 7:30.", "It was 120 over 80 at 7:30."),
        ("In 1999 it was 37.5°C.", "In 1999 it was 37.5°C."),
        ("Your nurse/doctor, e.g. Dr. Smith", "Your nurse or doctor, for example Dr. Smith"),
    ],
)
def test_text_is_cleaned_for_reading_aloud(text: str, read: str) -> None:
    assert clean(text) == read


def test_an_altered_or_missing_asset_is_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(VoiceFault, match=r"hibari\.onnx.*setup"):
        check_assets(tmp_path)
    for name in ASSETS:
        (tmp_path / name).write_bytes(b"not a voice")
    with pytest.raises(VoiceFault, match=r"hibari\.onnx has sha256"):
        check_assets(tmp_path)
