"""A container with a systemd of its own: this machine's root, read only under an overlay, and the device installed in it as on a Jetson.

It knows no scenario. What is not real in it: the pins (pins.py), the card (PulseAudio with a null sink each way), udev, memory limits.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vm.bench_files import BEDSIDE, CONFIG, DROP_IN, SOUND, SOUND_UNIT, TARGET, VOICE_DROP_IN

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = ROOT / "systemd"
MODELS = Path("~/.cache/bedside/models").expanduser()


class Unable(RuntimeError):
    """The bench can't run here; one sentence says what is missing."""


class NotInTime(AssertionError):
    """Something did not happen within its time."""


def check() -> None:
    """Raise Unable where root, a program or the kernel is missing."""
    if os.geteuid() != 0:
        raise Unable("systemd-nspawn needs root: run scripts/test-vm as root.")
    for program in ("systemd-nspawn", "nsenter", "pulseaudio", "dbus-daemon"):
        if shutil.which(program) is None:
            raise Unable(f"{program} is not installed: scripts/test-vm installs it.")
    if not (MODELS / "whisper-tiny").is_dir():
        raise Unable(f"no models in {MODELS}: bedside models fetch.")
    trial = subprocess.run(["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "mount", "-t", "tmpfs", "t", "/mnt"],
                           capture_output=True, text=True, check=False)  # fmt: skip
    if trial.returncode:
        raise Unable(f"this kernel or container gives no namespaces to root: {trial.stderr.strip()}")


def until(true: Callable[[], Any], what: str, seconds: float) -> Any:
    """What `true()` returns once it is something; NotInTime naming `what`."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return found


def _children(pid: int) -> list[int]:
    return [int(word) for word in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has ended since
        return ""


def _descendants(pid: int) -> list[int]:
    return [one for child in _children(pid) for one in (child, *_descendants(child))]


class Container:
    """Made on entering, gone on leaving. `boot()` and `stop()` may follow each other; what was on the disk stays in between."""

    def __init__(self, name: str = "bench", size: str = "1g") -> None:
        """`size`: of its disk, which is memory."""
        self.name, self.size, self.leader = name, size, 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Container:
        check()
        self._alone = (Path(tempfile.gettempdir()) / "bedside-bench.lock").open("w")
        fcntl.flock(self._alone, fcntl.LOCK_EX)  # two systemds without a cgroup namespace kill each other's processes
        self.folder = Path(tempfile.mkdtemp(prefix="bench"))
        try:
            self._mount()
            self._install()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for folder in (self.root, self.folder):
            subprocess.run(["umount", "-R", "-l", str(folder)], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._alone.close()

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def _mount(self) -> None:
        def mount(*arguments: str) -> None:
            done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unable(f"mount {' '.join(arguments)}: {done.stderr.strip()}")

        mount("-t", "tmpfs", "-o", f"mode=755,size={self.size}", "bench", str(self.folder))
        for name in ("up", "work", "root"):
            (self.folder / name).mkdir()
        mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={self.folder}/up,workdir={self.folder}/work", "overlay", str(self.root))
        for source, target in ((sys.base_prefix, "opt/python"), (next(p for p in sys.path if p.endswith("site-packages")), "opt/site"),
                               (str(MODELS), "opt/models")):  # fmt: skip
            (self.root / target).mkdir(parents=True, exist_ok=True)
            mount("--bind", "-o", "ro", source, str(self.root / target))

    def _install(self) -> None:
        """As README's "As services" says, with this machine's Python in the place of a new .venv."""
        root, home = self.root, self.root / "opt/bedside"
        for folder in ("device", "firmware_config", "systemd"):
            shutil.copytree(ROOT / folder, home / folder)
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (home / f".venv/lib/{python}").mkdir(parents=True)
        (home / f".venv/lib/{python}/site-packages").symlink_to("/opt/site")
        (home / ".venv/bin").mkdir()
        (home / ".venv/bin/python").symlink_to(f"/opt/python/bin/{python}")
        (home / ".venv/pyvenv.cfg").write_text("home = /opt/python/bin\ninclude-system-site-packages = false\n")
        self.write("opt/bedside/.venv/bin/bedside", BEDSIDE, 0o755)
        self.write("etc/ld.so.conf.d/bench.conf", "/opt/python/lib\n")
        subprocess.run(["ldconfig", "-r", str(root)], check=True)
        shutil.copy(Path(__file__).parent / "pins.py", self._folder("opt/bench") / "bench_pins.py")
        self.write("opt/bench/bench-0.dist-info/METADATA", "Metadata-Version: 2.1\nName: bench\nVersion: 0\n")
        self.write("opt/bench/bench-0.dist-info/entry_points.txt", "[gpiozero_pin_factories]\nbench = bench_pins:BenchFactory\n")
        self.write("opt/bench/asound.conf", "pcm.!default { type pulse }\nctl.!default { type pulse }\n")
        shutil.rmtree(root / "etc/systemd/system")
        for file in UNITS.glob("*.service"):
            self.write(f"etc/systemd/system/{file.name}", file.read_text())
        for name in ("companion", "safe"):
            self.write(f"etc/systemd/system/bedside-{name}.service.d/bench.conf", DROP_IN)
        self.write("etc/systemd/system/bedside-voice.service.d/bench.conf", VOICE_DROP_IN)
        self.write("etc/systemd/system/bench-sound.service", SOUND_UNIT)
        self.write("etc/systemd/system/bench.target", TARGET)
        self.write("usr/lib/sysusers.d/bedside.conf", (UNITS / "bedside.sysusers").read_text())
        self.write("usr/lib/tmpfiles.d/bedside.conf", (UNITS / "bedside.tmpfiles").read_text())
        self.write("etc/systemd/journald.conf.d/bedside.conf", (UNITS / "bedside.journald.conf").read_text())
        self.write("etc/machine-id", "")
        self.configure(CONFIG)
        self.write("etc/bedside/memory.key", secrets.token_hex(32) + "\n", 0o600)  # as 'bedside memory key' makes it
        subprocess.run(["systemd-sysusers", f"--root={root}", str(root / "usr/lib/sysusers.d/bedside.conf")], check=True)
        shutil.rmtree(root / "var/log/journal", ignore_errors=True)

    def configure(self, text: str) -> None:
        self.write("etc/bedside/companion.toml", text)

    def _folder(self, path: str) -> Path:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self._folder(str(Path(path).parent)) / Path(path).name
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)

    # Running -----------------------------------------------------------------------------------

    def boot(self, *more: str) -> float:
        """Start PID 1; returns when it answers. Seconds that it took. `more`: options of systemd-nspawn."""
        began = time.monotonic()
        log = (self.folder / "console").open("ab")
        self._process = subprocess.Popen(
            ["systemd-nspawn", "-q", "-D", str(self.root), "-b", "--register=no", "--keep-unit", f"--machine={self.name}",
             *(more or ("--private-network",)), "--console=passive", "systemd.unit=bench.target", "systemd.show_status=0"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

        def answers() -> bool:
            self.leader = self._child()  # systemd-nspawn's first child is not the last
            return bool(self.leader) and self.run("systemctl", "is-system-running", check=False).stdout.strip() not in ("", "offline")

        until(answers, "an answer of the container's systemd", 30)
        return time.monotonic() - began

    def _child(self) -> int:
        assert self._process is not None
        if self._process.poll() is not None:
            raise Unable(f"systemd-nspawn ended: {(self.folder / 'console').read_text()[-500:].strip()}")
        # systemd-nspawn's own helper may be its child, too.
        return next((pid for pid in _children(self._process.pid) if _name(pid) == "systemd"), 0)

    def stop(self) -> None:
        """The plug is pulled. Every process is gone at return: a second container would share its cgroups."""
        if self._process is None:
            return
        for pid in [*_descendants(self._process.pid), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._process.wait(20)
        until(lambda: not self.leader or not Path(f"/proc/{self.leader}").exists(), "the end of the container's PID 1", 20)
        self._process, self.leader = None, 0

    def run(self, *command: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command as root in the container."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", "--", "env", f"PULSE_SERVER=unix:{SOUND}/native", *command],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["nsenter", "-t", str(self.leader), "-a", "--", "env", f"PULSE_SERVER=unix:{SOUND}/native", *command],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip

    def show(self, unit: str, key: str) -> str:
        return self.run("systemctl", "show", "-P", key, f"{unit}.service").stdout.strip()

    def pid(self, unit: str) -> int:
        """Of the main process, as the container numbers it; 0: there is none."""
        return int(self.show(unit, "MainPID") or 0)

    def kill(self, unit: str, signal: str) -> None:
        self.run("systemctl", "kill", f"--signal={signal}", "--kill-whom=main", f"{unit}.service")

    def journal(self, *arguments: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", *arguments).stdout

    # Hands, eyes, ears -------------------------------------------------------------------------

    def hands(self, line: str) -> list[tuple[float, str, int]]:
        """Move a pin (pins.py); what the outputs have done. OSError while nobody holds the pins."""
        path = f"/proc/{self.leader}/root/run/bedside/hands.sock"
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(5)
            door.connect(path)
            door.sendall(line.encode() + b"\n")
            with door.makefile() as answer:
                return [tuple(row) for row in json.loads(answer.readline())]

    def lights(self) -> list[tuple[float, tuple[int, int, int]]]:
        """(monotonic seconds, (red, green, blue)) of every change that lasted over 30 ms, and the last one; [] while nobody holds it."""
        lamps = {"GPIO5": 0, "GPIO6": 1, "GPIO13": 2}
        try:
            driven = [row for row in self.hands("look") if row[1] in lamps]
        except (OSError, ValueError):
            return []
        out, now = [], [0, 0, 0]
        for index, (at, pin, level) in enumerate(driven):
            now[lamps[pin]] = level
            if index + 1 == len(driven) or driven[index + 1][0] - at > 0.03:
                out.append((at, (now[0], now[1], now[2])))
        return out

    def light(self) -> tuple[int, int, int] | None:
        seen = self.lights()
        return seen[-1][1] if seen else None

    def turns(self) -> list[dict[str, Any]]:
        """What the memory has of every turn, oldest first."""
        self.run("rm", "-rf", "/tmp/export")
        self.run("/opt/bedside/.venv/bin/bedside", "memory", "export", "/tmp/export", "--config", "/etc/bedside/companion.toml")
        told: list[dict[str, Any]] = json.loads(self.run("cat", "/tmp/export/memory.json").stdout)["turns"]
        return told
