"""How a checkpoint asks to be sampled, and the voices that come with the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from device.voice import hub
from device.voice.generation import GENERATION, read_sampling
from device.voice.plain import VoiceFault


def test_a_checkpoint_says_how_its_codes_are_drawn(tmp_path: Path) -> None:
    assert read_sampling(tmp_path) == {}
    (tmp_path / GENERATION).write_text('{"temperature": 0.6, "top_k": 20, "do_sample": false}')
    assert read_sampling(tmp_path) == {"temperature": 0.6, "top_k": 20}


@pytest.mark.parametrize(("text", "says"), [("{", "can't be read"), ("[]", "can't be read"), ('{"temperature": 9}', "temperature is 9.0")])
def test_what_can_not_be_meant_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / GENERATION).write_text(text)
    with pytest.raises(VoiceFault, match=says):
        read_sampling(tmp_path)


def test_a_voice_that_comes_with_the_device_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "FIRMWARE", tmp_path)
    (tmp_path / "csm-tiny").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "csm-tiny" / file).touch()
    assert hub.locate("embedded:csm-tiny") == tmp_path / "csm-tiny"
    assert hub.label("embedded:csm-tiny") == "csm-tiny"
    assert hub.label("sesame/csm-1b") == "csm-1b"
    with pytest.raises(VoiceFault, match="embedded:csm-tiny"):
        hub.locate("embedded:csm-huge")
