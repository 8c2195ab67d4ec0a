"""Settings as people get them wrong: each is one clear message with file, line and key, through the real command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device.__main__ import main
from device.config import ROOT, light_of
from device.states import LIGHTS, State

# (the line and what the message says after it, the file)
CORPUS: list[tuple[int, str, str]] = [
    # a key that is not quite right
    (2, "unknown setting 'panel.talk_pinn': did you mean 'talk_pin'?", '[panel]\ntalk_pinn = "BOARD7"'),
    (3, "unknown setting 'panel.cal_pin': did you mean 'call_pin'?", '[panel]\nkind = "gpio"\ncal_pin = "BOARD15"'),
    (2, "unknown setting 'panel.light_pin': did you mean 'light_pins'?", '[panel]\nlight_pin = ["BOARD29", "BOARD31", "BOARD33"]'),
    (2, "unknown setting 'panel.Talk_Pin': did you mean 'talk_pin'?", '[panel]\nTalk_Pin = "BOARD7"'),
    (2, "unknown setting 'panel.tap-seconds': did you mean 'tap_seconds'?", "[panel]\ntap-seconds = 0.1"),
    (4, "unknown setting 'audio.imput': did you mean 'input'?", '[panel]\nkind = "gpio"\n[audio]\nimput = "USB"'),
    (2, "unknown setting 'audio.preroll': did you mean 'preroll_seconds'?", "[audio]\npreroll = 0.5"),
    (2, "unknown setting 'voice.engin': did you mean 'engine'?", '[voice]\nengin = "csm"'),
    (2, "unknown setting 'voice.thread': did you mean 'threads'?", "[voice]\nthread = 4"),
    (2, "unknown setting 'memory.flie': did you mean 'file'?", '[memory]\nflie = "memory.db"'),
    (2, "unknown setting 'log.levle': did you mean 'level'?", '[log]\nlevle = "debug"'),
    (3, "unknown setting 'headset.bord': did you mean 'board'?", '# a comment\n[headset]\n"bord" = "cyton"'),
    # a key in the wrong place
    (2, "unknown setting 'audio.talk_pin': it belongs in [panel].", '[audio]\ntalk_pin = "BOARD7"'),
    (1, "unknown setting 'talk_pin': it belongs in [panel].", 'talk_pin = "BOARD7"'),
    (2, "unknown setting 'panel.engine': it belongs in [voice].", '[panel]\nengine = "plain"'),
    (2, "unknown setting 'voice.csm': did you mean 'csm_model'?", '[voice]\ncsm = "sesame/csm-1b"'),
    (2, "unknown setting 'panel.xyzzy': known here: kind, board, talk_pin", "[panel]\nxyzzy = 1"),
    # a section that is not quite right
    (1, "unknown setting 'pannel': did you mean 'panel'?", '[pannel]\nkind = "gpio"'),
    (3, "unknown setting 'headsett': did you mean 'headset'?", '[log]\nlevel = "info"\n[headsett]\nboard = "none"'),
    (1, "unknown setting 'Voice': did you mean 'voice'?", '[Voice]\nengine = "plain"'),
    (1, "unknown setting 'wifi': known here: panel, audio", "[wifi]\non = true"),
    (1, "panel = 'gpio': this is a section, so write [panel]", 'panel = "gpio"'),
    (1, "log = 3: this is a section, so write [log]", "log = 3"),
    (1, "unknown setting 'panel.buttons'", '[panel.buttons]\ntalk = "BOARD7"'),
    # a word that is none of the words
    (2, "panel.kind = 'gpoi': input should be 'gpio', 'usb' or 'simulated'", '[panel]\nkind = "gpoi"'),
    (2, "panel.kind = 'GPIO': input should be 'gpio'", '[panel]\nkind = "GPIO"'),
    (2, "panel.board = 'orin': input should be 'auto', 'orin-nano'", '[panel]\nboard = "orin"'),
    (2, "panel.talk = 'push': input should be 'hold' or 'toggle'", '[panel]\ntalk = "push"'),
    (2, "panel.night = 'yes': input should be 'never', 'clock'", '[panel]\nnight = "yes"'),
    (2, "audio.kind = 'alsa': input should be 'card' or 'wav'", '[audio]\nkind = "alsa"'),
    (2, "headset.board = 'cytom': input should be", '[headset]\nboard = "cytom"'),
    (2, "voice.engine = 'sesame': input should be 'plain' or 'csm'", '[voice]\nengine = "sesame"'),
    (2, "voice.precision = 'fp16': input should be", '[voice]\nprecision = "fp16"'),
    (2, "voice.device = 'gpu': input should be 'auto', 'cpu' or 'cuda'", '[voice]\ndevice = "gpu"'),
    (2, "log.level = 'verbose': input should be", '[log]\nlevel = "verbose"'),
    # a number that is out of range or no number
    (2, "panel.tap_seconds = -1: input should be greater than or equal to 0", "[panel]\ntap_seconds = -1"),
    (2, "panel.tap_seconds = 160: input should be less than or equal to 1", "[panel]\ntap_seconds = 160"),
    (2, "panel.acknowledge_seconds = 0: input should be greater than 0", "[panel]\nacknowledge_seconds = 0"),
    (2, "panel.acknowledge_seconds = '2s': input should be a valid number", '[panel]\nacknowledge_seconds = "2s"'),
    (2, "audio.volume = 11: input should be less than or equal to 5", "[audio]\nvolume = 11"),
    (2, "audio.volume = 2.5: input should be a valid integer", "[audio]\nvolume = 2.5"),
    (2, "voice.threads = 0: input should be greater than or equal to 1", "[voice]\nthreads = 0"),
    (2, "listen.min_confidence = 30: input should be less than or equal to 1", "[listen]\nmin_confidence = 30"),
    (2, "words.max_words = 'many': input should be a valid integer", '[words]\nmax_words = "many"'),
    # a value of another kind
    (2, "panel.talk_pin = 7: input should be a valid string", "[panel]\ntalk_pin = 7"),
    (2, "panel.light_pins = ['BOARD29', 'BOARD31']: more values are needed", '[panel]\nlight_pins = ["BOARD29", "BOARD31"]'),
    (2, "panel.light_pins = ['1', '2', '3', '4']: tuple should have at most 3 items", '[panel]\nlight_pins = ["1", "2", "3", "4"]'),
    (2, "panel.light_pins = 'BOARD29': input should be a valid tuple", '[panel]\nlight_pins = "BOARD29"'),
    (2, "panel.night_begins = '25:00': a time of day is needed, such as 21:30", '[panel]\nnight_begins = "25:00"'),
    (2, "panel.night_ends = '7 am': a time of day is needed, such as 21:30", '[panel]\nnight_ends = "7 am"'),
    (2, "voice.compile = 'maybe': input should be a valid boolean", '[voice]\ncompile = "maybe"'),
    (2, "memory.file = True: input should be a valid string", "[memory]\nfile = true"),
    # no TOML at all: Python's reader says the line
    (0, "line 2", "[panel]\nkind = gpio"),
    (0, "line 1", "[panel\nkind = 'gpio'"),
    (0, "line 2", '[panel]\nkind: "gpio"'),
    (0, "line 3", '[panel]\nkind = "gpio"\nkind = "usb"'),
    (0, "line 2", '[panel]\nkind = "gpio'),
    (0, "line 2", "[panel]\ntap_seconds = 0,16"),
    (0, "line 2", "[panel]\n[panel]"),
]


@pytest.mark.parametrize(("line", "said", "text"), CORPUS, ids=range(len(CORPUS)))
def test_a_bad_file_is_one_message_with_file_line_key_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: int, said: str, text: str
) -> None:
    file = tmp_path / "companion.toml"
    file.write_text(text + "\n", encoding="utf-8")
    assert main(["config", "check", "--config", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (message,) = err.splitlines()
    place = f"{file}:{line}: " if line else f"{file}: this is not TOML: "
    assert message.startswith(f"bedside: {place}")
    assert said in message


def test_the_corpus_is_fifty_files_and_more() -> None:
    assert len({text for _, _, text in CORPUS}) == len(CORPUS) >= 50


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xfe\x00", "no text in UTF-8"), (None, "no such file"), ("a folder", "can't be read")]
)
def test_a_file_that_can_not_be_read_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, said: str) -> None:
    file = tmp_path / "companion.toml"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        file.mkdir()
    assert main(["config", "check", "--config", str(file)]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"bedside: {file}")
    assert said in message


# The FAULT light ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pins"),
    [
        ('[panel]\nkind = "gpio"\ntalk_pinn = 1', ("BOARD29", "BOARD31", "BOARD33")),
        ('[panel]\nlight_pins = ["BOARD11", "BOARD12", "BOARD13"]\nkind = "gpio"\ntalk = many', ("BOARD11", "BOARD12", "BOARD13")),
        ('[panel]\nkind = "gpio"\nlight_pins = ["BOARD11"]', None),
        ('[panel]\nkind = "gpoi"', None),
        ('[panel]\nkind = "simulated"\ntap_seconds = 9', None),
        ("[panel\nkind = 'gpio'", None),
        ("panel = 3", None),
        ("", None),
    ],
)
def test_the_light_of_a_bad_file_is_known_as_far_as_it_can_be_read(tmp_path: Path, text: str, pins: tuple[str, ...] | None) -> None:
    file = tmp_path / "companion.toml"
    file.write_text(text, encoding="utf-8")
    panel = light_of(file)
    assert (panel and panel.light_pins) == pins


START = """
import sys, threading, time
from gpiozero import Device
from gpiozero.pins.mock import MockFactory
Device.pin_factory = factory = MockFactory()
def tell():
    lamps = [factory.pin(name) for name in ("BOARD29", "BOARD31", "BOARD33")]
    seen = ""
    while True:
        now = str(tuple(int(lamp.state) for lamp in lamps))
        if now != seen: print(now, flush=True)
        seen = now
        time.sleep(0.01)
threading.Thread(target=tell, daemon=True).start()
from device.__main__ import main
code = main(["run", "--config", sys.argv[1]])
time.sleep(0.05)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[panel]\nkind = "gpio"\ntalk_pinn = "BOARD7"', ":3: unknown setting 'panel.talk_pinn': did you mean 'talk_pin'?"),
        ('[panel]\nkind = "gpio"\ncall_pin = "BOARD7"', "panel.call_pin = 'BOARD7' is the pin that panel.talk_pin uses already"),
        ('[panel]\nkind = "gpio"\ntalk_pin = "BOARD99"', "panel.talk_pin = 'BOARD99' is not a pin"),
        ('[panel]\nkind = "gpio"\n[safety]\ncrisis_number = "116 123"\ncommand = ["x"]', "safety.emergency_number = '': the emergency"),
    ],
    ids=["a typing error", "two buttons on one pin", "a wrong pin", "no number to say"],
)
def test_a_device_that_can_not_start_says_why_and_flashes_yellow_until_it_is_ended(tmp_path: Path, text: str, said: str) -> None:
    """The real command in a process of its own, on mock pins; systemd ends it with SIGTERM."""
    file = tmp_path / "companion.toml"
    rest = f'\n[audio]\nkind = "wav"\n[voice]\nsocket = "{tmp_path}/v.sock"\n[memory]\nfile = "{tmp_path}/m.db"\n'
    if "[safety]" not in text:
        rest += f'[safety]\nemergency_number = "112"\ncrisis_number = "116 123"\ncommand = ["/bin/true"]\nsocket = "{tmp_path}/c.sock"\n'
    file.write_text(text + rest, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("NOTIFY_SOCKET", None)
    with subprocess.Popen(
        [sys.executable, "-c", START, str(file)], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        fault, seen = str(LIGHTS[State.FAULT].rgb), ""
        deadline = time.monotonic() + 30
        while seen != fault:
            assert time.monotonic() < deadline
            seen = process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        rest_of_lights = process.stdout.read().split("\n")
        errors = process.stderr.read()
    assert process.returncode == 1
    assert [line for line in rest_of_lights if line][-1] == "(0, 0, 0)"  # dark when nobody watches any more
    told = [line for line in errors.splitlines() if line.startswith("bedside: ")]
    assert len(told) == 1
    assert said in told[0]
    assert "Traceback" not in errors
