"""One virtual machine: power on, ask its hands, see its light and its log, cut the power. It knows no scenario."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image import CannotRun, run
from qmp import Monitor

# No la57, smap, … and no xsave: what an emulated processor needs not do costs no time. A third less of it for a boot.
CPU = "max,la57=off,smap=off,smep=off,pku=off,umip=off,xsave=off"
KERNEL = (
    "console=ttyS0 quiet mitigations=off nokaslr audit=0 apparmor=0 selinux=0 cryptomgr.notests raid=noautodetect random.trust_cpu=on "
    "tsc=reliable no_timer_check 8250.nr_uarts=2 systemd.show_status=false"
)
BOOT = 300.0  # s that a start may take on a loaded host
GREEN, BLUE, CYAN, DARK = (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 0, 0)
Json = dict[str, Any]


class Failed(AssertionError):
    """A scenario's promise was not kept; the sentence says which."""


class Guest:
    """A machine on an overlay of `disk`, in `folder`. `lights` and `log` are what its hands told since power_on(): (guest's s, what)."""

    def __init__(self, kernel: Path, initrd: Path, disk: Path, folder: Path) -> None:
        self.folder, self._kernel, self._initrd = folder, kernel, initrd
        self.disk = folder / "disk.qcow2"
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[Any] = queue.Queue()
        self.lights: list[tuple[float, tuple[int, ...]]] = []
        self.log: list[tuple[float, str]] = []
        self.boots: list[tuple[list[tuple[float, tuple[int, ...]]], list[tuple[float, str]]]] = []  # lights and log of those that ended
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", self.disk)

    def power_on(self, drive: list[str] | None = None) -> None:
        """Start, and wait until its hands answer. `drive`: QEMU's options for a disk "d0" in the place of the machine's own."""
        self.lights, self.log, self._answers = [], [], queue.Queue()
        for name in ("hands.sock", "qmp.sock"):
            (self.folder / name).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "q35,usb=off,vmport=off,smbus=off", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU,
             "-m", "1024", "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none", "-nic", "none",
             "-kernel", self._kernel, "-initrd", self._initrd, "-append", KERNEL,
             *(drive or ["-drive", f"if=none,id=d0,file={self.disk},format=qcow2,cache=writeback,discard=unmap"]),
             "-device", "virtio-blk-pci,drive=d0",
             "-device", "virtio-rng-pci", "-device", "qemu-xhci,id=xhci", "-device", "virtio-serial-pci",
             "-chardev", f"socket,id=hands,path={self.folder}/hands.sock,server=on,wait=off",
             "-device", "virtserialport,chardev=hands,name=hands",
             "-serial", f"file:{self.folder}/console.log", "-qmp", f"unix:{self.folder}/qmp.sock,server=on,wait=off"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.folder / "qemu.err").open("w"),
        )  # fmt: skip
        self._line = self._connect("hands.sock")
        self.monitor = Monitor(self.folder / "qmp.sock")
        threading.Thread(target=self._read, args=(self._line, self._answers), daemon=True).start()
        self.ask("hello", wait=BOOT)

    def cut(self) -> None:
        """The power is gone, this instant. What the guest had not synced is lost; what it had stays in the host's cache."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.boots.append((self.lights, self.log))
            self.monitor.close()
            self._line.close()

    @property
    def on(self) -> bool:
        return self._process is not None

    def ask(self, do: str, wait: float = 60.0, **arguments: Any) -> Any:
        """Let the hands do something and return what they say of it."""
        self._line.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
        try:
            answer = self._answers.get(timeout=wait + float(arguments.get("seconds", 0)))
        except queue.Empty:
            raise Failed(f"the guest's hands did not answer '{do}' within {wait:.0f} s") from None
        if answer is None:
            raise Failed(f"the machine ended: {(self.folder / 'qemu.err').read_text().strip() or 'no word of why'}")
        if "failed" in answer:
            raise Failed(f"the guest's hands can't '{do}': {answer['failed']}")
        return answer["done"]

    def sh(self, command: str, seconds: float = 60.0, check: bool = True) -> str:
        """What a command in the guest prints. With `check` a failing one is a failure."""
        done = self.ask("sh", command=command, seconds=seconds)
        if check and done["rc"]:
            raise Failed(f"in the guest: {command}: {done['out'][-400:]}")
        return str(done["out"])

    def uptime(self) -> float:
        return float(self.ask("hello")["uptime"])

    def until(self, ready: Callable[[], Any], what: str, seconds: float) -> Any:
        """Wait until `ready()` is something, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            if time.monotonic() > deadline:
                tail = "; ".join(line for _, line in self.log[-4:])
                raise Failed(f"waited {seconds:.0f} s for {what}; light {self.lights[-1:]}, log: {tail}")
            time.sleep(0.02)
        return found

    def shows(self, light: tuple[int, ...], since: float, seconds: float, what: str) -> float:
        """When, from the guest's time `since` on, the light was first this one."""
        found = self.until(lambda: self._when(light, since), what, seconds)
        return float(found[0])

    def ready(self, since: float = 0.0, seconds: float = 120.0, what: str = "READY") -> float:
        """When the companion first said that it is READY from `since` on, with the light truly green by then and now."""
        at = self.told(" now=ready", since, seconds, what)
        self.until(lambda: self.lights[-1][1] == GREEN, f"the green light ({what})", 5)
        return at

    def told(self, words: str, since: float, seconds: float, what: str) -> float:
        """When the companion's log first had these words, from the guest's time `since` on."""
        return float(self.until(lambda: self.logged(words, since), what, seconds)[0])

    def logged(self, words: str, since: float = 0.0) -> list[float]:
        return [at for at, line in list(self.log) if at >= since and words in line]

    def _when(self, light: tuple[int, ...], since: float) -> list[float]:
        history = list(self.lights)
        for number, (at, shown) in enumerate(history):
            until = history[number + 1][0] if number + 1 < len(history) else float("inf")
            if shown == light and until > since:
                return [max(at, since)]
        return []

    def _connect(self, name: str) -> socket.socket:
        deadline = time.monotonic() + 20
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.folder / name))
                return line
            except OSError:
                line.close()
                if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                    raise CannotRun(f"QEMU does not start: {(self.folder / 'qemu.err').read_text().strip()}") from None
                time.sleep(0.05)

    def _read(self, line: socket.socket, answers: queue.Queue[Any]) -> None:
        try:
            for text in line.makefile("r"):
                told = json.loads(text)
                if "light" in told:
                    self.lights.append((told["at"], tuple(told["light"])))
                elif "log" in told:
                    self.log.append((told["at"], told["log"]))
                else:
                    answers.put(told)
        except (OSError, ValueError):  # cut in the middle of a line
            pass
        answers.put(None)
