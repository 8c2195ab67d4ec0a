"""Settings as a technician meets them: right files load, wrong ones say what to do. No hardware."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from device.config import FIRMWARE, OVERRIDES, ConfigError, Settings, load, rows
from device.provisioning import check_provisioned


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


def fault(file: Path, text: str) -> str:
    """What load() says about `text`."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load(file, env={})
    return str(error.value)


def test_no_file_gives_the_defaults() -> None:
    assert load(env={}) == Settings()


def test_an_unknown_key_names_the_nearest_one(file: Path) -> None:
    said = fault(file, '[panel]\ntalk_pinn = "BOARD7"\n')
    assert "panel.talk_pinn" in said
    assert "did you mean 'talk_pin'?" in said
    assert str(file) in said


def test_an_unknown_section_names_the_nearest_one(file: Path) -> None:
    assert "did you mean 'headset'?" in fault(file, '[headsett]\nboard = "none"\n')


def test_a_key_like_no_other_lists_what_is_known(file: Path) -> None:
    assert "known here: kind, board, talk_pin, call_pin" in fault(file, "[panel]\nxyzzy = 1\n")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('[panel]\nkind = "usbb"\n', "panel.kind", "'usbb'"),
        ("[voice]\nthreads = 0\n", "voice.threads", "0"),
        ('[audio]\npreroll_seconds = "long"\n', "audio.preroll_seconds", "'long'"),
        ('[headset]\nboard = "cytom"\n', "headset.board", "'cytom'"),
        ("[listen]\nmin_confidence = 1.5\n", "listen.min_confidence", "1.5"),
        ('[panel]\nlight_pins = ["BOARD29"]\n', "panel.light_pins", "BOARD29"),
    ],
)
def test_a_bad_value_names_file_key_and_value(
    file: Path, text: str, key: str, value: str
) -> None:
    said = fault(file, text)
    assert said.startswith(f"{file}:2: {key} = ")
    assert value in said


def test_every_wrong_setting_is_told_at_once(file: Path) -> None:
    assert len(fault(file, '[panel]\nkind = "usbb"\ntap_seconds = 9\n').splitlines()) == 2


def test_a_missing_file_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*bedside config show"):
        load(tmp_path / "none.toml", env={})


@pytest.mark.parametrize("text", ["[panel\n", "panel = \n", "[panel]\n[panel]\n"])
def test_broken_toml_names_the_file_and_the_line(file: Path, text: str) -> None:
    said = fault(file, text)
    assert str(file) in said
    assert "line" in said


def test_a_file_that_is_not_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"my\.toml"):
        load(file, env={})


def test_the_environment_overrides_the_file(file: Path) -> None:
    file.write_text('[voice]\ncsm_model = "a"\ndevice = "cpu"\n', encoding="utf-8")
    env = {"CSM_MODEL_NAME": "b", "CSM_DEVICE": "cuda", "NO_TORCH_COMPILE": "1"}
    voice = load(file, env=env).voice
    assert (voice.csm_model, voice.device, voice.compile) == ("b", "cuda", False)


@pytest.mark.parametrize(("value", "compiles"), [("1", False), ("0", True), ("", True)])
def test_no_torch_compile_is_read_as_people_set_it(value: str, compiles: bool) -> None:
    assert load(env={"NO_TORCH_COMPILE": value}).voice.compile is compiles


def test_an_empty_variable_overrides_nothing(file: Path) -> None:
    file.write_text('[voice]\ncsm_model = "a"\n', encoding="utf-8")
    assert load(file, env=dict.fromkeys(OVERRIDES, "")).voice.csm_model == "a"


def test_a_bad_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"voice\.device = 'tpu'"):
        load(env={"CSM_DEVICE": "tpu"})


def test_sections_given_by_the_caller_come_over_the_file(file: Path) -> None:
    file.write_text('[words]\nmodel = "x"\nmax_words = 20\n', encoding="utf-8")
    words = load(file, env={}, words={"max_words": 30}).words
    assert (words.model, words.max_words) == ("x", 30)


def test_the_device_settings_load() -> None:
    s = load(FIRMWARE / "companion.toml", env={})
    assert (s.panel.kind, s.audio.kind, s.headset.board) == ("gpio", "card", "none")
    assert (s.voice.engine, s.voice.csm_model) == ("csm", "sesame/csm-1b")
    paths = (s.memory.file, s.models.folder, s.safety.folder)
    assert all(p.startswith("/var/lib/bedside/") for p in paths)
    assert s.voice.socket.startswith("/run/bedside/")
    assert s.safety.socket.startswith("/run/bedside/")
    with pytest.raises(ConfigError, match=r"emergency_number = ''.*\n.*crisis_number = ''.*\n.*would reach nobody"):
        check_provisioned(s)


def test_the_simulated_settings_load() -> None:
    s = load(FIRMWARE / "sim.toml", env={})
    assert (s.panel.kind, s.audio.kind, s.headset.board) == ("simulated", "wav", "none")
    paths = (s.memory.file, s.safety.folder, s.safety.socket, s.voice.socket)
    assert not any(Path(p).is_absolute() for p in paths)


def test_settings_are_frozen() -> None:
    settings = load(env={})
    with pytest.raises(ValidationError):
        settings.voice.threads = 3
    with pytest.raises(ValidationError):
        settings.voice = settings.voice


def test_every_setting_says_what_it_means() -> None:
    assert all(meaning for _, _, meaning in rows())
