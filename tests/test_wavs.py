"""Sound files: any rate and channels come in as 16-bit mono, what is unusable is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from device import wavs


def test_a_stereo_file_at_44100_hz_comes_in_as_mono_at_the_asked_rate(tmp_path: Path) -> None:
    """A 440 Hz tone in one channel only keeps its pitch and its length, at half its height."""
    time = np.arange(44_100) / 44_100
    left = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, np.zeros_like(left)], axis=1), 44_100)
    pcm = wavs.read(tmp_path / "stereo.wav", 16_000)
    assert pcm.dtype == np.int16
    assert pcm.shape == (16_000,)
    spectrum = np.abs(np.fft.rfft(pcm))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert abs(np.abs(pcm[2000:-2000]).max() / 32768 - 0.25) < 0.01


def test_a_loud_float_file_is_clipped_and_not_wrapped(tmp_path: Path) -> None:
    """A sample above full scale becomes the largest one, not a negative one."""
    soundfile.write(tmp_path / "loud.wav", np.array([2.0, -2.0, 1.0]), 16_000, subtype="FLOAT")
    assert wavs.read(tmp_path / "loud.wav", 16_000).tolist() == [32767, -32768, 32767]


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    """No dither and no scaling between write and read at the same rate."""
    pcm = np.random.default_rng(1).integers(-32768, 32767, 5000, dtype=np.int16)
    wavs.write(tmp_path / "a.wav", pcm, 24_000)
    assert np.array_equal(wavs.read(tmp_path / "a.wav", 24_000), pcm)


def test_only_int16_mono_is_written(tmp_path: Path) -> None:
    """Floats would be scaled by somebody's guess."""
    with pytest.raises(wavs.WavError, match="float64"):
        wavs.write(tmp_path / "a.wav", np.zeros(4), 16_000)


def test_an_unusable_file_is_named_in_one_sentence(tmp_path: Path) -> None:
    """Missing, empty, garbage and not-a-number files each say what is wrong."""
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    (tmp_path / "garbage.wav").write_bytes(b"not sound at all" * 40)
    (tmp_path / "nothing.wav").write_bytes(b"")
    soundfile.write(tmp_path / "nan.wav", np.array([np.nan, 0.0]), 16_000, subtype="FLOAT")
    wrong = {"missing": "no such", "empty": "no samples", "garbage": "can't be read",
             "nothing": "can't be read", "nan": "numbers"}  # fmt: skip
    for name, part in wrong.items():
        with pytest.raises(wavs.WavError, match=rf"{name}\.wav: .*{part}") as caught:
            wavs.read(tmp_path / f"{name}.wav", 16_000)
        assert "\n" not in str(caught.value)


def test_a_voice_that_is_cut_off_dies_away() -> None:
    left = np.full(1000, -8000, np.int16)
    fade = wavs.faded(left, 240)
    assert len(fade) == 240
    assert (fade[0], fade[-1]) == (-8000, 0)
    assert np.all(np.diff(fade.astype(int)) >= 0)
    assert len(wavs.faded(left[:3], 240)) == 3
    assert len(wavs.faded(left[:0], 240)) == 0
