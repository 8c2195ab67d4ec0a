"""The systemd units, read by systemd itself. It knows no Python of the device.

`systemd-analyze verify` returns 0 for an unknown key, so what it prints is read too.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from device.memory_key import CREDENTIAL
from device.safe import MINUTES

UNITS = Path(__file__).resolve().parent.parent / "systemd"
NAMES = ("bedside-companion", "bedside-voice", "bedside-caller", "bedside-safe")
FOR_EVER = ("bedside-caller", "bedside-safe")  # there is nothing below them: they never give up starting
ANALYZE = shutil.which("systemd-analyze")
pytestmark = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")


class Keys(dict):  # type: ignore[type-arg]
    """A unit may give a key twice: the values are joined."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and key in self:
            value = [*self[key], *value]
        super().__setitem__(key, value)


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, dict_type=Keys, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / f"{name}.service")
    return parser


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The units with a program that exists here in the place of the installed one."""
    for name in (*NAMES, "bedside-health"):
        text = (UNITS / f"{name}.service").read_text()
        text, count = re.subn(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", text)
        assert count == 1
        (tmp_path / f"{name}.service").write_text(text)
    return tmp_path


def analyze(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(ANALYZE), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def complaints(folder: Path) -> list[str]:
    """What verify says about our own files; other units of the machine are not our business."""
    code, said = analyze("verify", "--man=no", *sorted(folder.glob("*.service")))
    ours = [line for line in said.splitlines() if "bedside" in line]
    return ours if code == 0 else [f"status {code}", *ours]


def test_systemd_understands_every_line(copies: Path) -> None:
    assert complaints(copies) == []


def test_a_misspelt_key_is_noticed(copies: Path) -> None:
    """verify returns 0 here, so this shows that the test above can fail."""
    file = copies / "bedside-voice.service"
    file.write_text(file.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert any("Unknown key" in line for line in complaints(copies))


@pytest.mark.parametrize(
    ("name", "limit"), [("bedside-companion", 2.0), ("bedside-voice", 3.5), ("bedside-caller", 2.5), ("bedside-safe", 2.0)]
)
def test_the_exposure_stays_below_its_limit(copies: Path, name: str, limit: float) -> None:
    file = copies / f"{name}.service"
    code, said = analyze("security", "--offline=true", f"--threshold={int(limit * 10)}", file)
    if "unrecognized option" in said:
        pytest.skip("systemd older than 250 cannot score a file")
    score = re.search(r"Overall exposure level.*?: ([\d.]+)", said)
    assert score, said
    assert float(score[1]) < limit
    assert code == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_hung_process_is_found_and_restarted(name: str) -> None:
    service = unit(name)["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert int(service["WatchdogSec"]) > 0
    assert service["Restart"] == ("always" if name == "bedside-caller" else "on-failure")
    if name in FOR_EVER:
        assert unit(name)["Unit"]["StartLimitIntervalSec"] == "0"
    else:
        assert int(unit(name)["Unit"]["StartLimitBurst"]) > 0
    assert (service["User"], service["RuntimeDirectory"]) == ("bedside", "bedside")


def test_the_companion_outlives_the_voice() -> None:
    ours = unit("bedside-companion")["Unit"]
    assert "bedside-voice.service" in ours["Wants"]
    # Type=notify: 'after the voice' would be after its models have loaded, and the call button would wait for them.
    assert "bedside-voice.service" not in ours["After"]
    assert "bedside-companion.service" in unit("bedside-voice")["Unit"]["After"]
    assert not {"Requires", "BindsTo", "PartOf", "Requisite"} & set(ours)
    score = {name: int(unit(name)["Service"]["OOMScoreAdjust"]) for name in NAMES}
    assert score["bedside-companion"] < 0 < score["bedside-voice"]


def test_what_is_plugged_in_later_is_allowed() -> None:
    """systemd knows a char-… group only while its driver is loaded: each driver that may come late is loaded before the start."""
    drivers = {"char-alsa": "snd", "char-ttyUSB": "usbserial", "char-ttyACM": "cdc_acm"}
    always = {"char-gpiochip", "char-input"}  # the kernel's own, or of the board itself
    companion = unit("bedside-companion")
    allowed = {word for word in companion["Service"]["DeviceAllow"].split() if word.startswith("char-")}
    assert allowed == always | set(drivers)
    for key in ("Wants", "After"):
        assert {f"modprobe@{driver}.service" for driver in drivers.values()} <= set(companion["Unit"][key].split())


def test_the_socket_folder_stays_while_one_of_the_two_restarts() -> None:
    """Without it, the companion's stop would delete the folder under the voice's feet."""
    assert {unit(n)["Service"]["RuntimeDirectoryPreserve"] for n in NAMES} == {"yes"}


def test_only_the_voice_may_make_code_at_run_time() -> None:
    for name in set(NAMES) - {"bedside-voice"}:
        assert unit(name)["Service"]["MemoryDenyWriteExecute"] == "yes"
    assert "MemoryDenyWriteExecute" not in unit("bedside-voice")["Service"]


def test_the_journal_is_bounded_and_kept() -> None:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / "bedside.journald.conf")
    journal = parser["Journal"]
    assert (journal["Storage"], journal["ForwardToSyslog"]) == ("persistent", "no")
    assert {"SystemMaxUse", "SystemKeepFree", "RuntimeMaxUse", "MaxRetentionSec", "RateLimitIntervalSec", "RateLimitBurst"} <= set(journal)
    for name in NAMES:
        assert int(unit(name)["Service"]["LogRateLimitBurst"]) <= int(journal["RateLimitBurst"])


def test_the_programs_are_the_installed_ones() -> None:
    start = "/opt/bedside/.venv/bin/bedside {} --config /etc/bedside/companion.toml"
    assert unit("bedside-companion")["Service"]["ExecStart"] == start.format("run")
    assert unit("bedside-voice")["Service"]["ExecStart"] == start.format("voice")
    assert unit("bedside-caller")["Service"]["ExecStart"] == start.format("caller")
    assert unit("bedside-safe")["Service"]["ExecStart"] == start.format("safe")


def test_a_companion_that_fails_again_and_again_is_followed_by_safe_mode_and_followed_again() -> None:
    """The cycle itself runs in tests/vm."""
    companion, safe = unit("bedside-companion")["Unit"], unit("bedside-safe")["Unit"]
    assert companion["OnFailure"] == "bedside-safe.service"
    assert safe["OnSuccess"] == safe["Conflicts"] == "bedside-companion.service"  # never both at the pins and the card
    assert "bedside-companion.service" in safe["After"]
    # Its start limit is lifted, or a start within it would end safe mode and begin nothing.
    assert unit("bedside-safe")["Service"]["ExecStartPost"] == "+systemctl reset-failed bedside-companion.service"
    again = MINUTES * 60
    assert again > int(companion["StartLimitIntervalSec"])  # else its first failure would be its last
    # Ten failures fit into the interval, be they found by the watchdog.
    service = unit("bedside-companion")["Service"]
    each = int(service["WatchdogSec"]) + int(service["RestartSec"]) + 5
    assert each * int(companion["StartLimitBurst"]) <= int(companion["StartLimitIntervalSec"])
    assert {"DeviceAllow", "SupplementaryGroups", "User"} <= set(unit("bedside-safe")["Service"])


def test_no_service_may_write_the_settings() -> None:
    """ProtectSystem=strict leaves a unit's ConfigurationDirectory= writable (seen in tests/vm); tmpfiles makes the folder."""
    for name in NAMES:
        service = unit(name)["Service"]
        assert (service["ProtectSystem"], "ConfigurationDirectory" in service) == ("strict", False)
    assert "d /etc/bedside " in (UNITS / "bedside.tmpfiles").read_text()


def test_only_the_caller_has_a_network() -> None:
    for name in NAMES:
        service = unit(name)["Service"]
        families = service["RestrictAddressFamilies"]
        assert ("AF_INET" in families, service.get("PrivateNetwork")) == ((True, None) if name == "bedside-caller" else (False, "yes"))


def test_the_key_of_the_memory_is_passed_and_its_absence_does_not_stop_the_call_button() -> None:
    """systemd starts a unit whose LoadCredential= fails only where SetCredential= has a default (systemd.exec)."""
    service = unit("bedside-companion")["Service"]
    assert service["LoadCredential"].startswith(f"{CREDENTIAL}:/etc/")
    assert service["SetCredential"].startswith(f"{CREDENTIAL}:")
    for name in set(NAMES) - {"bedside-companion"}:  # nobody else opens the memory
        assert "LoadCredential" not in unit(name)["Service"]


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers")
def test_the_user_and_every_group_of_the_units_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "bedside.sysusers")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    groups = {line.split(":")[0] for line in (tmp_path / "etc/group").read_text().splitlines()}
    wanted = {g for n in NAMES for g in unit(n)["Service"].get("SupplementaryGroups", "").split()}
    assert wanted | {"bedside"} <= groups
    assert "bedside:" in (tmp_path / "etc/passwd").read_text()


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="no systemd-tmpfiles")
def test_systemd_understands_the_folders(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nbedside:x:0:0::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nbedside:x:0:\n")
    done = subprocess.run(
        ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "bedside.tmpfiles")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for folder in ("etc/bedside", "var/lib/bedside", "var/cache/bedside", "run/bedside"):
        assert (tmp_path / folder).is_dir()
