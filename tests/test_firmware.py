"""What is installed beside the program: pinmux overlays, udev rules, ALSA's configuration. Read by dtc and libasound where they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from device.config import FIRMWARE, Panel
from device.jetson_boards import AON_234, CARRIERS, find_carrier

OVERLAYS = {"orin-nano": FIRMWARE / "panel" / "orin-nano.dts", "agx-orin": FIRMWARE / "panel" / "agx-orin.dts"}
RULES = (FIRMWARE / "udev" / "99-bedside.rules").read_text(encoding="utf-8")
WIRING = (FIRMWARE / "panel" / "README.md").read_text(encoding="utf-8")
DTC = shutil.which("dtc")


def muxed(board: str) -> dict[int, tuple[str, str]]:
    """Header pin -> (pinmux controller, name of the pad) that an overlay sets."""
    out: dict[int, tuple[str, str]] = {}
    for controller, body in re.findall(r"target = <&(\w+)>;(.*?)\n\t};", OVERLAYS[board].read_text(), re.DOTALL):
        for number, pad in re.findall(r'hdr40-pin(\d+) \{.*?nvidia,pins = "(\w+)"', body, re.DOTALL):
            out[int(number)] = (controller, pad)
    return out


@pytest.mark.parametrize("board", OVERLAYS)
def test_an_overlay_names_the_pads_of_the_lines_that_the_pins_are(board: str) -> None:
    """soc_gpio59_pac6 is PAC.06; the always-on controller has its own pinmux."""
    lines = {line.number: line for line in CARRIERS[board].lines}
    for number, (controller, pad) in muxed(board).items():
        line = lines[number]
        assert pad.endswith("_" + line.name.lower().replace(".0", "")), (number, pad, line.name)
        assert controller == ("pinmux_aon" if line.chip == AON_234 else "pinmux")


@pytest.mark.parametrize("board", OVERLAYS)
def test_an_overlay_has_every_pin_of_the_panel_and_of_its_wiring_notes(board: str) -> None:
    panel = Panel()
    wanted = {panel.talk_pin, panel.call_pin, *panel.light_pins}
    column = list(OVERLAYS).index(board) + 2
    rows = [line.strip("|").split("|") for line in WIRING.splitlines() if line.startswith("|") and "_pin" in line]
    wanted |= {pin for row in rows for pin in re.findall(r"BOARD\d+", row[column])}
    assert {f"BOARD{number}" for number in muxed(board)} == wanted


@pytest.mark.parametrize("board", OVERLAYS)
def test_an_overlay_is_for_the_carrier_that_the_factory_finds(board: str) -> None:
    strings = re.findall(r'"(nvidia,p[^"]+)"', OVERLAYS[board].read_text())
    assert strings
    assert {find_carrier([text]).model for text in strings} == {CARRIERS[board].model}


@pytest.mark.skipif(DTC is None, reason="no device-tree-compiler on this machine")
@pytest.mark.parametrize("board", OVERLAYS)
def test_an_overlay_compiles_and_applies_to_a_tree_with_its_controllers(board: str, tmp_path: Path) -> None:
    base = tmp_path / "base.dts"
    base.write_text("/dts-v1/; / { pinmux: pinmux { }; pinmux_aon: pinmux-aon { }; };")
    for source, target in ((base, "base.dtb"), (OVERLAYS[board], "panel.dtbo")):
        done = subprocess.run([str(DTC), "-@", "-O", "dtb", "-o", tmp_path / target, source], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    whole = tmp_path / "whole.dtb"
    subprocess.run(["fdtoverlay", "-i", tmp_path / "base.dtb", "-o", whole, tmp_path / "panel.dtbo"], check=True, timeout=20)
    tree = subprocess.run([str(DTC), "-O", "dts", whole], capture_output=True, text=True, check=True).stdout
    for pad in dict(muxed(board).values()).values():
        assert f'nvidia,pins = "{pad}"' in tree


def rules() -> list[list[tuple[str, str, str]]]:
    """Each rule as (key, operator, value)."""
    out = []
    for line in RULES.splitlines():
        if line.strip() and not line.startswith("#"):
            parts = [re.fullmatch(r'([A-Z]+(?:\{[\w./]+\})?)(==|!=|=|\+=)"([^"]*)"', part.strip()) for part in line.split(",")]
            assert all(parts), line
            out.append([part.groups() for part in parts if part])
    return out  # type: ignore[return-value]


def test_every_udev_rule_matches_something_and_sets_something() -> None:
    known = {"SUBSYSTEM", "SUBSYSTEMS", "KERNEL", "KERNELS", "DRIVER", "ACTION", "GROUP", "MODE", "SYMLINK", "ATTR", "ATTRS"}
    for rule in rules():
        assert {re.sub(r"\{.*", "", key) for key, _, _ in rule} <= known
        assert any(operator == "==" for _, operator, _ in rule)
        assert any(operator in ("=", "+=") for _, operator, _ in rule)


def test_the_rules_give_what_the_device_needs() -> None:
    """Tried by hand in a virtual machine's udev: see README.md."""
    assert [part for rule in rules() for part in rule if part[0] == "GROUP"] == [("GROUP", "=", "gpio")]
    assert "gpio" in (FIRMWARE.parent / "systemd" / "bedside.sysusers").read_text()
    (latency,) = [rule for rule in rules() if ("ATTR{latency_timer}", "=", "1") in rule]
    assert ("DRIVER", "==", "ftdi_sio") in latency
    (card,) = [rule for rule in rules() if ("ATTR{id}", "=", "Bedside") in rule]
    assert ("SUBSYSTEMS", "==", "usb") in card


ALSA = """
import ctypes, ctypes.util
library = ctypes.CDLL(ctypes.util.find_library("asound"))
library.snd_config_update()
top = ctypes.c_void_p.in_dll(library, "snd_config")
for name in (b"pcm.bedside.playback.pcm.slave.pcm", b"pcm.default.capture.pcm.slave.pcm", b"ctl.default.card"):
    node, text = ctypes.c_void_p(), ctypes.c_char_p()
    if library.snd_config_search_definition(top, None, name, ctypes.byref(node)) >= 0:
        library.snd_config_get_string(node, ctypes.byref(text))
        print(text.value.decode())
"""


@pytest.mark.parametrize(("cut", "names"), [("", ["hw:Bedside,0", "hw:Bedside,0", "Bedside"]), ("type asym\n", [])])
def test_libasound_reads_the_configuration(tmp_path: Path, cut: str, names: list[str]) -> None:
    """As /etc/asound.conf would be read: the default is the card that udev names. A file with a line torn out names none."""
    (tmp_path / "asound.conf").write_text((FIRMWARE / "asound.conf").read_text().replace(cut, "type {" if cut else ""))
    (tmp_path / "alsa.conf").write_text(f"<{tmp_path}/asound.conf>\n")
    environment = {"ALSA_CONFIG_PATH": str(tmp_path / "alsa.conf"), "PATH": os.environ["PATH"]}  # find_library runs ldconfig
    done = subprocess.run([sys.executable, "-c", ALSA], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == names, done.stderr
