"""The codec of our own: codebooks, encoder and decoder learn, stop and go on, and the two halves leave the codes alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from device import wavs
from device.config import ROOT
from device.training import codec, decoder, encoded, encoder, export, halves, phones
from device.training.spectra import RESOLUTIONS, LogMel, MelDistance, mel_filters
from device.turn import FRAME, VOICE_RATE
from device.voice.mimi import network

TINY = codec.CONFIG | {"num_filters": 2, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
TINY |= {"head_dim": 8, "intermediate_size": 32, "upsample_groups": 16, "codebook_size": 32, "codebook_dim": 8, "num_quantizers": 3}
TINY |= {"vector_quantization_hidden_dimension": 8}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for module in (codec, encoded):
        monkeypatch.setattr(module, "CONFIG", TINY)
    monkeypatch.setattr(codec, "UNQUANTISED", 4)
    monkeypatch.setattr(codec, "SAMPLE", 256)
    monkeypatch.setattr(codec, "BOOKS", (3, 2))
    monkeypatch.setattr(halves, "RISE", 2)
    for name, value in (("RATE", 5e-3), ("CLIPS", 4), ("FRAMES", 8)):
        for module in (codec, encoder, decoder):
            monkeypatch.setattr(module, name, value)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """int16 (n,) at 24 kHz, whole frames."""
    sound = wavs.read(ROOT / "tests/data/speech/jfk.flac", VOICE_RATE)
    return sound[: len(sound) // FRAME * FRAME]


@pytest.fixture
def labels(speech: np.ndarray) -> np.ndarray:
    """Loud is one phoneme and soft another: something that can be learnt; of the last second nothing is known."""
    pieces = np.abs(speech.astype(np.float32)).reshape(-1, phones.PER_FRAME, phones.STEP).mean(-1)
    out = (pieces > np.median(pieces)).astype(np.uint8)
    out[-12:] = phones.UNKNOWN
    return out


def losses(out: Path, name: str, kind: str) -> list[float]:
    import json

    return [json.loads(line)[kind] for line in (out / name).read_text().splitlines()]


def test_the_codebooks_learn_the_spectrum_and_go_on_where_they_stopped(speech: np.ndarray, labels: np.ndarray, tmp_path: Path) -> None:
    codec.train(speech, labels, tmp_path, 48, 10, every=12)
    found = losses(tmp_path, "codec.jsonl", "mel")
    assert found[-1] < found[0] - 0.2
    assert losses(tmp_path, "codec.jsonl", "meaning")[-1] < 0.6 * codec.MEANING * np.log(phones.COUNT)
    again = codec.train(speech, labels, tmp_path, 60, 10, every=12)
    assert again.step == 60
    assert len(losses(tmp_path, "codec.jsonl", "mel")) == 5
    book = again.mimi.quantizer.rvq_first.vq.layers[0]._codebook
    assert book.initialized
    assert len(torch.unique(book.embedding, dim=0)) > 16


def test_spectra_are_made_in_parts_without_a_seam(speech: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MANY", 10)
    kept = codec.heard(speech, tmp_path / "spectra.npy")
    whole = codec.Ear(1).spectra(torch.from_numpy(speech.astype(np.float32) / 32768)[None])[0].T
    assert kept.shape == whole.shape == (len(speech) // FRAME, 8 * LogMel.BANDS)
    np.testing.assert_allclose(kept, whole, atol=2e-3)  # half precision
    again = codec.heard(np.zeros_like(speech), tmp_path / "spectra.npy")
    assert (again == kept).all()  # kept, not made again


def with_codebooks(seed: int = 0) -> Any:
    """A tiny Mimi whose codebooks know noise."""
    torch.manual_seed(seed)
    mimi = network(TINY, 3, "cpu").train()
    codec.even_out(mimi)
    latent = torch.randn(1, TINY["hidden_size"], 512)
    for _ in range(3):
        mimi.quantizer(latent, 12.5)
    return mimi.eval()


def test_the_encoder_learns_to_hear_as_the_ear_and_changes_no_code(speech: np.ndarray, tmp_path: Path) -> None:
    mimi = with_codebooks()
    half = encoder.Encoder(mimi, codec.Ear(TINY["hidden_size"], 16), 40)
    before = {name: tensor.clone() for name, tensor in mimi.state_dict().items()}
    halves.train(half, encoder.Pieces(speech, 0), tmp_path / "encoder.pt", 10, every=8)
    found = losses(tmp_path, "encoder.jsonl", "rest")
    assert found[-1] < 0.8 * found[0]
    for name, tensor in mimi.state_dict().items():
        changed = not torch.equal(tensor, before[name])
        assert changed == name.startswith(("encoder", "downsample")), name
    again = encoder.Encoder(network(TINY, 3, "cpu"), codec.Ear(TINY["hidden_size"], 16), 40)
    again.load(tmp_path / "encoder.pt")
    again.settle()
    assert again.step == 40
    assert all(torch.equal(p, mean) for p, mean in zip(again.parts.parameters(), half.mean, strict=True))


def test_an_ear_hears_a_frame_and_the_two_before_it_and_nothing_that_comes(speech: np.ndarray) -> None:
    ear = codec.Ear(TINY["hidden_size"], 16)
    sound = torch.from_numpy(speech[: 12 * FRAME].astype(np.float32) / 32768)[None]
    spectra = ear.spectra(sound)
    assert spectra.shape == (1, 8 * LogMel.BANDS, 12)
    assert torch.allclose(spectra[0, :, 3].view(8, -1), ((LogMel()(sound)[0, :, 24:32] + 4.5) / 2).T)
    other = spectra.clone()
    other[..., 5] += 1
    changed = (ear(other) != ear(spectra)).any(1)[0]
    assert changed.nonzero().flatten().tolist() == [5, 6, 7]


def test_the_decoder_learns_the_sound_and_changes_no_code(speech: np.ndarray, tmp_path: Path) -> None:
    mimi = with_codebooks()
    ears = encoded.ears(mimi)
    codes = ears.encode_all((speech / 32768).astype(np.float32)).numpy().astype(np.uint16)
    half = decoder.Decoder(mimi, 24, critics_from=20)
    before = {name: tensor.clone() for name, tensor in mimi.state_dict().items()}
    halves.train(half, decoder.Pieces([decoder.Spoken(codes, speech)], 0), tmp_path / "decoder.pt", 10, every=6)
    found = losses(tmp_path, "decoder.jsonl", "mel")
    assert found[-1] < found[0]
    assert "judged" in (tmp_path / "decoder.jsonl").read_text().splitlines()[-1]
    for name, tensor in mimi.state_dict().items():
        changed = not torch.equal(tensor, before[name])
        assert changed == name.startswith(("upsample", "decoder")), name
    again = decoder.Decoder(network(TINY, 3, "cpu"), 24, critics_from=20)
    again.load(tmp_path / "decoder.pt")
    again.settle()
    assert again.step == 24
    assert all(torch.equal(p, mean) for p, mean in zip(again.parts.parameters(), half.mean, strict=True))


def test_code_0_of_the_first_codebook_is_never_a_sound(speech: np.ndarray) -> None:
    mimi = with_codebooks()
    sound = (speech / 32768).astype(np.float32)
    before = encoded.ears(mimi).encode_all(sound)
    export.keep_zero_free(mimi)
    after = encoded.ears(mimi).encode_all(sound)
    assert not (after[:, 0] == 0).any()
    # The codes that changed are those that were 0, or the seldom one that gave its place.
    moved = before[:, 0] != after[:, 0]
    assert len(set(before[moved, 0].tolist())) <= 2
    assert torch.equal(before[:, 1:], after[:, 1:])


def test_the_distance_is_nothing_for_the_same_and_grows_with_noise(speech: np.ndarray) -> None:
    sound = torch.from_numpy(speech[:VOICE_RATE].astype(np.float32) / 32768)[None]
    distance, noise = MelDistance(), torch.randn(1, VOICE_RATE)
    found = [distance(sound + level * noise, sound).item() for level in (0, 0.001, 0.01, 0.1)]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] > 1


def test_a_tone_is_where_it_belongs_in_the_mel_spectrum() -> None:
    tone = torch.sin(torch.arange(VOICE_RATE) * 2 * torch.pi * 1000 / VOICE_RATE)[None]
    mel = LogMel()(tone)
    assert mel.shape == (1, LogMel.BANDS, 100)
    edges = 700 * (10 ** (torch.linspace(0, 2595 * np.log10(1 + 12_000 / 700), LogMel.BANDS + 2) / 2595) - 1)
    loudest = int(mel[0, :, 50].argmax())
    assert edges[loudest] < 1000 < edges[loudest + 2]


def test_every_band_of_every_resolution_hears_something() -> None:
    for window, bands in ((1024, LogMel.BANDS), *RESOLUTIONS):
        assert (mel_filters(window, bands).sum(1) > 0).all()
