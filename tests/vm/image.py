"""The virtual machine's disk: a Debian 12 with the real units, the real packages, and simulated pins and card. Built once, kept in a cache.

It starts no machine. Every layer is kept: a new commit of the project costs only the last one, about ten seconds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from device.config import FIRMWARE, ROOT, dump, load
from device.memory_key import make_key

HERE = Path(__file__).resolve().parent
HOST_PACKAGES = (
    "qemu-system-x86", "qemu-utils", "mmdebstrap", "e2fsprogs", "kmod", "busybox-static", "cpio", "gcc", "make", "xz-utils",
    "portaudio19-dev", "libsystemd-dev", "pkg-config", "python3-dev",
)  # fmt: skip
GUEST_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "python3", "alsa-utils", "libportaudio2", "procps", "libgomp1", "libstdc++6",
    "e2fsprogs",
)  # fmt: skip
# What the companion stands on; no torch (unusable in an emulated machine) and no matplotlib (it draws, on no device).
PIP = (
    "anyio", "numpy", "pydantic", "soundfile", "soxr", "gpiozero", "sqlcipher3", "gpiod", "pyaudio", "systemd-python", "brainflow", "scipy",
    "setuptools<82",
)  # fmt: skip
# Of the kernel's modules only what this machine uses: a smaller tree boots faster.
MODULES = (
    "drivers/virtio", "drivers/block/virtio_blk.ko", "drivers/char/virtio_console.ko", "drivers/char/hw_random", "fs/ext4", "fs/jbd2",
    "fs/mbcache.ko", "fs/configfs", "fs/autofs", "lib", "crypto/crc32c_generic.ko", "crypto/crct10dif_common.ko",
    "crypto/crct10dif_generic.ko", "sound/core", "sound/drivers", "sound/soundcore.ko", "drivers/usb/host", "drivers/usb/core",
    "drivers/usb/common", "drivers/usb/serial", "drivers/usb/class/cdc-acm.ko", "drivers/acpi/button.ko", "drivers/input/evdev.ko",
    "drivers/gpio",
)  # fmt: skip
# Units and udev rules that only cost time under emulation.
MASKED = (
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "modprobe@drm.service", "modprobe@fuse.service", "modprobe@loop.service",
    "modprobe@efi_pstore.service", "modprobe@dm_mod.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "systemd-pstore.service", "systemd-tmpfiles-clean.timer",
    "systemd-timesyncd.service", "systemd-networkd.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "serial-getty@ttyS0.service", "getty.target",
    "systemd-update-utmp.service", "systemd-hwdb-update.service", "ldconfig.service", "systemd-journal-catalog-update.service",
    "systemd-update-done.service", "remote-fs.target",
)  # fmt: skip
INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
while read -r m; do $B insmod /m/$m; done < /m/order
i=0; while [ ! -b /dev/vda ] && [ $i -lt 200 ]; do $B sleep 0.05; i=$((i+1)); done
$B mount -t ext4 /dev/vda /new || exec $B poweroff -f
$B mount -o move /dev /new/dev; $B mount -o move /sys /new/sys; $B mount -o move /proc /new/proc
exec $B switch_root /new /lib/systemd/systemd
"""


class CannotRun(Exception):
    """The bench can't be run here. One sentence says why."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"{' '.join(map(str, command))[:200]}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def build(cache: Path, say: Callable[[str], None]) -> tuple[Path, Path, Path]:
    """(kernel, initrd, disk) in `cache`, newly made where what they are made of has changed. Raises CannotRun."""
    _check_host(say)
    cache.mkdir(parents=True, exist_ok=True)
    version = _kernel(cache, say)
    _gpio_sim(cache, version, say)
    system = _system(cache, version, say)
    disk = _disk(cache, system, say)
    return cache / "kernel/boot" / f"vmlinuz-{version}", _initrd(cache, version), disk


def _check_host(say: Callable[[str], None]) -> None:
    if os.geteuid() != 0:
        raise CannotRun("building the image needs root (mmdebstrap, chroot).")
    release = Path("/etc/os-release").read_text()
    if "VERSION_CODENAME=bookworm" not in release or sys.version_info[:2] != (3, 11) or os.uname().machine != "x86_64":
        raise CannotRun("the image is a Debian 12 for x86-64 whose packages are built on the host: it needs a Debian 12 with Python 3.11.")
    missing = [
        name for name in HOST_PACKAGES
        if "install ok installed" not in subprocess.run(["dpkg-query", "-W", "-f=${Status}", name], capture_output=True, text=True).stdout
    ]  # fmt: skip
    if missing:
        say(f"installing {' '.join(missing)}")
        run("apt-get", "update", "-qq")
        run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)


def _deb(cache: Path, name: str) -> Path:
    folder = cache / "debs"
    folder.mkdir(exist_ok=True)
    if not list(folder.glob(f"{name}_*.deb")):
        run("apt-get", "download", name, cwd=folder)
    return next(folder.glob(f"{name}_*.deb"))


def _kernel(cache: Path, say: Callable[[str], None]) -> str:
    """The distribution's own kernel, unpacked from its package; its version."""
    known = cache / "kernel.version"
    if not known.exists():
        found = re.search(r"Depends: linux-image-(\S+)", run("apt-cache", "depends", "linux-image-amd64"))
        if found is None:
            raise CannotRun("apt knows no linux-image-amd64: is a Debian mirror configured?")
        say(f"kernel {found[1]}")
        run("dpkg-deb", "-x", _deb(cache, f"linux-image-{found[1]}"), cache / "kernel")
        known.write_text(found[1])
    return known.read_text()


def _gpio_sim(cache: Path, version: str, say: Callable[[str], None]) -> None:
    """gpio-sim.ko, which no Debian kernel has: built out of tree from the distribution's own source, with irq_sim linked in."""
    made = cache / "gpiosim/gpio-sim.ko"
    if made.exists():
        return
    say("building gpio-sim.ko from the distribution's kernel source")
    series, headers = ".".join(version.split(".")[:2]), cache / "headers"
    for name in (f"linux-headers-{version}", f"linux-headers-{version.removesuffix('-amd64')}-common", f"linux-kbuild-{series}"):
        run("dpkg-deb", "-x", _deb(cache, name), headers)
    tree = headers / f"usr/src/linux-headers-{version}"
    makefile = (tree / "Makefile").read_text()
    (tree / "Makefile").write_text(re.sub(r"(?<!\w)/usr/src/", f"{headers}/usr/src/", makefile))
    work = cache / "gpiosim"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    run("dpkg-deb", "-x", _deb(cache, f"linux-source-{series}"), work / "deb")
    with tarfile.open(work / f"deb/usr/src/linux-source-{series}.tar.xz") as source:
        for member in source:
            for end, name in (
                ("drivers/gpio/gpio-sim.c", "main.c"),
                ("kernel/irq/irq_sim.c", "irq.c"),
                ("drivers/gpio/gpiolib.h", "gpiolib.h"),
            ):
                if member.name.endswith(f"/{end}"):
                    (work / name).write_bytes(source.extractfile(member).read())  # type: ignore[union-attr]
    irq = (work / "irq.c").read_text().replace("irq_to_desc(irqnum)", "irq_data_to_desc(irq_get_irq_data(irqnum))")  # not exported
    (work / "irq.c").write_text(irq.replace("#include <linux/irq.h>", "#include <linux/irq.h>\n#include <linux/irqdesc.h>", 1))
    (work / "Makefile").write_text("obj-m := gpio-sim.o\ngpio-sim-y := main.o irq.o\n")
    run("make", "-s", "-C", tree, f"M={work}", "modules")
    run("strip", "--strip-debug", made)
    shutil.rmtree(work / "deb")


def _system(cache: Path, version: str, say: Callable[[str], None]) -> Path:
    """The root's tree but for the project: Debian, the pruned modules, and the Python packages in /opt/bedside/.venv."""
    tree, stamp = cache / "system", cache / "system.stamp"
    pins = (ROOT / "scripts/constraints.txt").read_text()
    want = hashlib.sha256(repr((version, GUEST_PACKAGES, PIP, MODULES, MASKED, pins)).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == want:
        return tree
    stamp.unlink(missing_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    say("Debian 12 (mmdebstrap, about a minute)")
    quiet = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "doc")] + ["--dpkgopt=force-unsafe-io"]
    run("mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(GUEST_PACKAGES)}", *quiet,
        "--aptopt=APT::Install-Recommends \"false\"", "bookworm", tree)  # fmt: skip
    kernel = f"usr/lib/modules/{version}"
    for part in ("modules.order", "modules.builtin", "modules.builtin.modinfo", *(f"kernel/{name}" for name in MODULES)):
        source, target = cache / "kernel/lib/modules" / version / part, tree / kernel / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():  # some are built in, depending on the kernel
            shutil.copy(source, target)
    shutil.copy(cache / "gpiosim/gpio-sim.ko", tree / kernel)
    run("depmod", "-b", tree, version)
    say("Python packages")
    site = tree / "opt/bedside/.venv/lib/python3.11/site-packages"
    constraints = ["-c", str(ROOT / "scripts/constraints.txt")]
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile", "--target", site, *constraints, *PIP)
    run("chroot", tree, "python3", "-m", "compileall", "-q", "/opt/bedside/.venv/lib")
    run("chroot", tree, "systemctl", "-q", "mask", *MASKED)
    stamp.write_text(want)
    return tree


def _disk(cache: Path, system: Path, say: Callable[[str], None]) -> Path:
    """The disk with this checkout installed as the README says, and the bench's own hands and voice beside it."""
    say("disk")
    for folder in ("device", "firmware_config", "systemd", "tests/vm"):
        target = system / "opt/bedside" / folder
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("peers.py", "gpio_bench.py"):
        shutil.copy(ROOT / "tests" / name, system / "opt/bedside/tests")

    def write(path: str, text: str, mode: int = 0o644) -> None:
        file = system / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)

    venv = "opt/bedside/.venv"
    write(f"{venv}/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n")
    (system / venv / "bin").mkdir(exist_ok=True)
    (system / venv / "bin/python").unlink(missing_ok=True)
    (system / venv / "bin/python").symlink_to("/usr/bin/python3")
    write(f"{venv}/lib/python3.11/site-packages/bedside.pth", "/opt/bedside\n/opt/bedside/tests\n")
    start = "#!/opt/bedside/.venv/bin/python\nimport sys\nfrom device.__main__ import main\nsys.exit(main())\n"
    write(f"{venv}/bin/bedside", start, 0o755)
    for unit in (ROOT / "systemd").glob("*.service"):
        write(f"etc/systemd/system/{unit.name}", unit.read_text())
    for kind in ("sysusers", "tmpfiles"):
        write(f"usr/lib/{kind}.d/bedside.conf", (ROOT / f"systemd/bedside.{kind}").read_text())
    write("etc/udev/rules.d/99-bedside.rules", (FIRMWARE / "udev/99-bedside.rules").read_text())
    write("etc/asound.conf", (FIRMWARE / "asound.conf").read_text())
    write("etc/bedside/companion.toml", _settings())
    (system / "etc/bedside/memory.key").unlink(missing_ok=True)
    make_key(system / "etc/bedside/memory.key")
    # The bench: a simulated card and pins, the hands of a patient, and a voice without a model.
    write("etc/modules-load.d/bench.conf", "snd-aloop\ngpio-sim\nvirtio_console\n")
    write("etc/modprobe.d/bench.conf", "options snd-aloop id=Bedside pcm_substreams=1\n")
    peer = f"/{venv}/bin/python /opt/bedside/tests/vm/peer.py /run/bedside/voice.sock"
    write("etc/systemd/system/bedside-voice.service.d/peer.conf", f"[Service]\nExecStart=\nExecStart={peer}\n")
    write("etc/systemd/system/hands.service", (HERE / "hands.service").read_text())
    write("etc/fstab", "/dev/vda / ext4 rw,relatime 0 0\n")
    write("etc/hostname", "bedside\n")
    write("etc/systemd/journald.conf.d/bench.conf", "[Journal]\nSystemMaxUse=32M\nRateLimitBurst=0\n")
    (system / "var/log/journal").mkdir(exist_ok=True)
    write("etc/machine-id", hashlib.md5(b"bedside bench").hexdigest() + "\n")
    run("chroot", system, "systemd-sysusers")
    run("chroot", system, "systemctl", "-q", "set-default", "multi-user.target")
    run("chroot", system, "systemctl", "-q", "enable", "hands.service", "bedside-companion.service", "bedside-voice.service")
    run("chroot", system, "python3", "-m", "compileall", "-q", "/opt/bedside/device")
    disk = cache / "root.ext4"
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(2 * 2**30)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", system, disk)
    return disk


def _settings() -> str:
    """The device's own settings with a header, numbers, a headset and somebody to call; the light by day at all hours."""
    return dump(
        load(
            FIRMWARE / "companion.toml",
            {},
            panel={"board": "orin-nano", "night": "never", "nurse_call_pin": "BOARD37"},
            headset={"board": "cyton", "port": "/dev/ttyUSB0"},
            safety={"region": "bench", "emergency_number": "112", "crisis_number": "113"},
        )
    )


def _initrd(cache: Path, version: str) -> Path:
    """busybox and the modules of the disk: it boots far quicker under emulation than the distribution's own."""
    folder, modules = cache / "initrd", cache / "system"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("bin", "dev", "proc", "sys", "new", "m"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    order: list[str] = []
    for name in ("virtio_pci", "crc32c_generic", "virtio_blk", "ext4"):
        for line in run("modprobe", "-d", modules, "-S", version, "--show-depends", name).splitlines():
            file = line.split()[1] if line.startswith("insmod") else ""
            if file and Path(file).name not in order:
                shutil.copy(file, folder / "m")
                order.append(Path(file).name)
    (folder / "m/order").write_text("\n".join(order) + "\n")
    (folder / "init").write_text(INIT)
    (folder / "init").chmod(0o755)
    made = cache / "initrd.img"
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    packed = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=folder, input=names.encode(), capture_output=True)
    made.write_bytes(packed.stdout)
    return made
