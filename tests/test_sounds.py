"""The recorded messages are whole, loud enough and checked; nothing here plays them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device.config import FIRMWARE, ROOT
from device.sounds import NAMES, SPOKEN, SUMS, SoundsError, load, texts

FOLDER = FIRMWARE / "sounds"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "sounds"))


def test_every_name_is_there_and_of_a_fit_length_and_loudness() -> None:
    sounds = load(FOLDER)
    assert set(sounds) == set(NAMES)
    for name in SPOKEN:
        sound = sounds[name].astype(float) / 32768
        assert (0.3 if name.startswith(("digit_", "breathe_")) else 1) < len(sound) / 24_000 < 15, name
        assert 0.03 < np.sqrt(np.mean(sound**2)) < 0.2, name
        assert 0.5 < np.abs(sound).max() < 0.9, name


def test_the_listening_cue_is_short_soft_and_free_of_clicks() -> None:
    cue = load(FOLDER)["listening"].astype(float) / 32768
    assert len(cue) == 2_880  # 120 ms
    assert 0.05 < np.abs(cue).max() < 0.2
    assert abs(cue[0]) < 1e-3
    assert abs(cue[-1]) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_one_altered_byte_is_found_and_the_file_named(copy: Path, name: str) -> None:
    file = copy / f"{name}.wav"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(SoundsError, match=rf"{name}\.wav is altered"):
        load(copy)


def test_a_missing_file_or_list_is_named(copy: Path) -> None:
    (copy / "crisis.wav").unlink()
    with pytest.raises(SoundsError, match=r"crisis\.wav"):
        load(copy)
    (copy / SUMS).unlink()
    with pytest.raises(SoundsError, match=SUMS):
        load(copy)


def test_a_file_that_is_not_listed_is_refused(copy: Path) -> None:
    lines = (copy / SUMS).read_text().splitlines(keepends=True)
    (copy / SUMS).write_text("".join(line for line in lines if "again.wav" not in line))
    with pytest.raises(SoundsError, match=r"again\.wav is not listed"):
        load(copy)


def test_the_page_beside_the_sounds_has_the_words_of_the_table() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
        if ".wav |" in line
    ]
    said = {row[0].removesuffix(".wav"): row[3] for row in rows}
    assert set(said) == set(NAMES)
    assert {name: said[name] for name in SPOKEN} == texts(FOLDER)


def test_the_crisis_message_says_what_it_must() -> None:
    words = texts(FOLDER)["crisis"].lower()
    for part in ("not a person", "calling a person", "stay", "out of reach", "emergency number"):
        assert part in words


def test_a_table_that_lacks_a_message_is_named(copy: Path) -> None:
    (copy / "messages.toml").write_text('again = "Again?"\n')
    with pytest.raises(SoundsError, match="unknown or missing"):
        texts(copy)


def test_make_sounds_makes_a_set_that_loads(tmp_path: Path) -> None:
    """The script's own output passes the check; its bytes may differ between processors."""
    pytest.importorskip("hibari")
    script = [sys.executable, str(ROOT / "scripts" / "make-sounds"), str(tmp_path)]
    subprocess.run(script, check=True, capture_output=True, timeout=120)
    made, shipped = load(tmp_path), load(FOLDER)
    for name in NAMES:
        assert abs(len(made[name]) - len(shipped[name])) < 2_400, name
