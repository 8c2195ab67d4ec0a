"""The embedded models: whole, or named as damaged, and never half in place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device import models
from device.voice import whisper_import


def _silero(folder: Path, into: Path) -> Path:
    """A copy of the smallest model that may be spoiled."""
    return Path(shutil.copytree(folder / "silero-vad", into / "silero-vad"))


def test_every_fetched_model_is_whole(models_folder: Path) -> None:
    """Every file of every model has the hash that its manifest gives."""
    assert [row for row in models.verify(models_folder) if not row[1]] == []


def test_a_whole_model_is_not_fetched_again(
    models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no network at all a second fetch returns the folder and changes no file."""
    place = _silero(models_folder, tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
    _cut_the_network(monkeypatch)
    assert models.fetch("silero-vad", tmp_path, lambda sentence: None) == place
    assert {file.name: file.stat().st_mtime_ns for file in place.iterdir()} == before


@pytest.mark.parametrize(
    "spoil", ["flip", "cut", "lose", "manifest", "no manifest", "other package"]
)
def test_a_damaged_model_is_named(models_folder: Path, tmp_path: Path, spoil: str) -> None:
    """A changed, shortened or lost file, and a half-written or foreign manifest, are each found."""
    place = _silero(models_folder, tmp_path)
    weights, manifest = place / "silero_vad.jit", place / models.MANIFEST
    data = weights.read_bytes()
    if spoil == "flip":
        weights.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    elif spoil == "cut":
        weights.write_bytes(data[:5000])
    elif spoil == "lose":
        weights.unlink()
    elif spoil == "manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif spoil == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace("6.2.3", "6.2.2"))
    whole, sentence = next(row[1:] for row in models.verify(tmp_path) if row[0] == "silero-vad")
    assert not whole
    assert "silero-vad" in sentence
    assert "bedside models fetch" in sentence


def test_a_fetch_that_fails_leaves_the_old_model_and_no_scraps(
    models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network a damaged model stays as it was, and the error is one sentence of pip's."""
    place = _silero(models_folder, tmp_path)
    (place / "silero_vad.jit").write_bytes(b"spoiled")
    _cut_the_network(monkeypatch)
    with pytest.raises(models.ModelMissing, match=r"silero-vad==6\.2\.3.*pip said") as caught:
        models.fetch("silero-vad", tmp_path, lambda sentence: None)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["silero-vad"]
    assert (place / "silero_vad.jit").read_bytes() == b"spoiled"


def test_unknown_and_missing_models_say_the_way_out(tmp_path: Path) -> None:
    """An unknown name lists the known ones; a missing model names the command."""
    with pytest.raises(ValueError, match="whisper-tiny, whisper-base, silero-vad, minilm"):
        models.fetch("whisper-huge", tmp_path)
    with pytest.raises(models.ModelMissing, match="bedside models fetch"):
        models.path("minilm", tmp_path)


def test_nothing_heavy_is_imported_with_the_table() -> None:
    """The companion process may read the table without loading torch."""
    code = "import sys, device.models; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_converted_weights_are_complete_and_each_used(models_folder: Path) -> None:
    """transformers finds every tensor it wants, of the right shape, and none too many."""
    from transformers import WhisperForConditionalGeneration

    for name in ("whisper-tiny", "whisper-base"):
        net, found = WhisperForConditionalGeneration.from_pretrained(
            models_folder / name, local_files_only=True, output_loading_info=True
        )
        assert not any(found.values()), found
        # transformers builds these from sines, the file brings them from the training.
        positions = net.model.encoder.embed_positions.weight.detach().numpy().astype(np.float32)
        assert abs(positions[0, : positions.shape[1] // 2]).max() < 1e-3  # sin(0)


def test_a_tiny_and_a_base_know_their_own_tokens(models_folder: Path) -> None:
    """The packaged tiny is English-only, so its special tokens are one lower than the base's."""
    for name, end, many in (("whisper-tiny", 50256, False), ("whisper-base", 50257, True)):
        options = json.loads((models_folder / name / "generation_config.json").read_text())
        assert (options["eos_token_id"], options["is_multilingual"]) == (end, many)
        assert options["decoder_start_token_id"] == end + 1
        assert end not in options["suppress_tokens"]


@pytest.mark.parametrize("size", [0, 3, 40, 4000])
def test_a_cut_or_foreign_model_bin_is_refused(tmp_path: Path, size: int) -> None:
    """Random bytes of any length are no Whisper, and the file is named."""
    file = tmp_path / "model.bin"
    file.write_bytes(np.random.default_rng(size).bytes(size))
    with pytest.raises(whisper_import.NotWhisper, match=r"model\.bin"):
        whisper_import.read_tensors(file)


def _cut_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip sees an index on a port of this machine where nobody listens, and no cache."""
    for key, value in {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(key, value)
    for key in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(key, raising=False)
