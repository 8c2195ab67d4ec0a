"""The measures of speech, on real recordings and with the real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from device import sounds, wavs  # noqa: E402
from device.config import FIRMWARE  # noqa: E402
from device.models import ModelMissing  # noqa: E402
from device.turn import MIC_RATE, VOICE_RATE  # noqa: E402
from device.voice.quality import Mos, SpeakerEncoder, longest_silence, mel_filters, similarity  # noqa: E402

SPEECH = Path(__file__).parent / "data/speech"
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def encoder(models_folder: Path) -> SpeakerEncoder:
    return SpeakerEncoder(models_folder)


@pytest.fixture(scope="module")
def mos(models_folder: Path) -> Mos:
    return Mos(models_folder)


def read(name: str) -> np.ndarray:
    return wavs.read(SPEECH / name, MIC_RATE)


def recorded() -> dict[str, np.ndarray]:
    """Messages in the plain voice, at 24 kHz."""
    return sounds.load(FIRMWARE / "sounds")


def test_a_voice_is_nearer_to_itself_than_to_another(encoder: SpeakerEncoder) -> None:
    johnson = [encoder.embed(read(f"LJ001-00{number}.wav"), MIC_RATE) for number in (11, 16, 20)]
    plain = [encoder.embed(recorded()[name], VOICE_RATE) for name in ("cant_answer", "crisis", "again")]
    kennedy = encoder.embed(read("jfk.flac"), MIC_RATE)
    for voice in (johnson, plain):
        assert min(similarity(voice[0], other) for other in voice[1:]) > 0.85
    assert max(similarity(one, other) for one in johnson for other in [*plain, kennedy]) < 0.7
    assert max(similarity(one, kennedy) for one in plain) < 0.5


def test_the_voice_is_what_the_package_itself_gives(encoder: SpeakerEncoder) -> None:
    """Resemblyzer 0.1.4 with librosa 0.11.0: its embed_utterance on the samples as they are; the last window is padded."""
    vector = encoder.vector(read("LJ001-0016.wav").astype(np.float32) / 32768)
    assert vector.shape == (256,)
    assert vector[[81, 90, 102, 180]].tolist() == pytest.approx([0.266055, 0.223235, 0.182749, 0.178325], abs=2e-6)
    short = encoder.vector(read("LJ001-0008.wav").astype(np.float32) / 32768)
    assert similarity(vector, short) == pytest.approx(0.780731, abs=2e-6)


def test_loudness_and_silence_are_no_part_of_a_voice(encoder: SpeakerEncoder) -> None:
    sound = read("LJ001-0016.wav")
    voice = encoder.embed(sound, MIC_RATE)
    assert similarity(voice, encoder.embed(sound // 16, MIC_RATE)) > 0.99
    middle = len(sound) // 2
    holed = np.concatenate([sound[:middle], np.zeros(4 * MIC_RATE, np.int16), sound[middle:], np.zeros(4 * MIC_RATE, np.int16)])
    assert similarity(voice, encoder.embed(holed, MIC_RATE)) > 0.98
    assert similarity(voice, encoder.vector(holed.astype(np.float32) / 32768)) < 0.95  # so it matters


@pytest.mark.parametrize("samples", [0, 1, 700, MIC_RATE])
def test_a_sound_without_speech_has_figures_all_the_same(encoder: SpeakerEncoder, mos: Mos, samples: int) -> None:
    """A voice that says nothing must not break the bench."""
    nothing = np.zeros(samples, np.int16)
    assert np.isfinite(encoder.embed(nothing, MIC_RATE)).all()
    assert 1 <= mos.score(nothing, MIC_RATE) < 2.5
    assert longest_silence(nothing, MIC_RATE) == samples / MIC_RATE


def test_the_opinion_is_what_the_package_itself_gives(mos: Mos) -> None:
    """DistillMOS 0.9.1, its own model on the same samples; jfk.flac is longer than one stretch."""
    for name, wanted in {"LJ001-0002.wav": 3.8893, "LJ001-0013.wav": 4.5103, "jfk.flac": 3.0066}.items():
        assert mos.score(read(name), MIC_RATE) == pytest.approx(wanted, abs=2e-4)


def test_noise_lowers_the_opinion(mos: Mos) -> None:
    sound = recorded()["calling"].astype(np.float64)
    noise = np.random.default_rng(0).normal(size=len(sound)) * np.sqrt(np.mean(sound**2))
    found = [mos.score((sound + noise * 10 ** (-snr / 20)).astype(np.int16), VOICE_RATE) for snr in (60, 20, 5)]
    assert found[0] > 4.3
    assert found[0] - found[1] > 0.5
    assert found[1] - found[2] > 0.5


def test_only_a_silence_inside_counts() -> None:
    tone = (np.sin(np.arange(VOICE_RATE // 2) / 10) * 8000).astype(np.int16)
    quiet = (np.random.default_rng(0).normal(size=3 * VOICE_RATE) * 20).astype(np.int16)  # -64 dB
    first, inside, last = quiet, quiet[: int(1.2 * VOICE_RATE)], quiet
    sound = np.concatenate([first, tone, inside, tone, quiet[: VOICE_RATE // 4], tone, last])
    assert longest_silence(sound, VOICE_RATE) == pytest.approx(1.2, abs=0.04)
    assert longest_silence(np.concatenate([first, tone, last]), VOICE_RATE) == 0
    assert longest_silence(quiet, VOICE_RATE) == 3


def test_the_mel_bands_are_librosas() -> None:
    """librosa 0.11.0's filters.mel(sr=16000, n_fft=400, n_mels=40): a band below 1 kHz, two above it, the last one."""
    filters = mel_filters(MIC_RATE, 400, 40)
    assert filters.shape == (40, 201)
    bands = [0, 12, 20, 39]
    assert filters.argmax(1)[bands].tolist() == [2, 24, 44, 185]
    assert filters.max(1)[bands].tolist() == pytest.approx([0.01240452, 0.01281834, 0.00719192, 0.00172494], rel=1e-5)


def test_weights_that_are_missing_or_spoiled_name_the_way_out(tmp_path: Path, models_folder: Path) -> None:
    with pytest.raises(ModelMissing, match=r"resemblyzer isn't in .*run 'bedside models fetch'"):
        SpeakerEncoder(tmp_path)
    place = tmp_path / "distillmos"
    place.mkdir()
    (place / "MANIFEST.json").write_text("{}")
    (place / "distill_mos_v7.pt").write_bytes(b"spoiled")
    with pytest.raises(ModelMissing, match=r"distill_mos_v7\.pt can't be read .*run 'bedside models fetch distillmos'\.$") as caught:
        Mos(tmp_path)
    assert "\n" not in str(caught.value)
