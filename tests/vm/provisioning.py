"""A technician provisions a unit over SSH; then with settings that lack a number, and with a release that does not start.

A scenario of the container's bench. The unit is the container: its sshd, its systemd, its own disk. The packages of the new `.venv`
come from where pip finds them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from vm.bench_files import CONFIG
from vm.nspawn import ROOT, Container, until

PORT = 2222
PATIENCE = 150  # s that a new release has to get READY: the models of the bench are small
PINS = "[Service]\nEnvironment=PYTHONPATH=/opt/bench\n"


def provision(home: Container, works: Callable[[Container], object]) -> str:
    """`works`: raises unless the unit answers."""
    home.stop()
    for name in ("companion", "safe"):
        home.write(f"etc/systemd/system/bedside-{name}.service.d/pins.conf", PINS)
    home.write("etc/systemd/system/bedside-health.service.d/bench.conf", f"[Service]\nEnvironment=BEDSIDE_PATIENCE={PATIENCE}\n")
    home.boot("--capability=all")  # with this machine's network: pip's packages come over it
    keys = home.folder / "ssh"
    keys.mkdir()
    for name in ("host", "technician"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
        home.write(f"opt/bench/ssh/{name}", (keys / name).read_text(), 0o600)
    home.write("opt/bench/ssh/authorized", (keys / "technician.pub").read_text(), 0o600)
    home.run("mkdir", "-p", "/run/sshd")
    sshd = home.start("/usr/sbin/sshd", "-D", "-e", "-p", str(PORT), "-o", "ListenAddress=127.0.0.1", "-o", "HostKey=/opt/bench/ssh/host",
                      "-o", "AuthorizedKeysFile=/opt/bench/ssh/authorized", "-o", "StrictModes=no")  # fmt: skip
    try:
        return _both(home, keys, works)
    finally:
        sshd.terminate()
        sshd.wait(10)


def _both(home: Container, keys: Path, works: Callable[[Container], object]) -> str:
    settings = keys / "ward3.toml"
    settings.write_text(CONFIG)
    checkout = keys / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    options = f"-p {PORT} -i {keys}/technician -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"

    def put() -> tuple[int, str]:
        put_there = [str(checkout / "scripts/provision"), "root@127.0.0.1", str(settings)]
        own = {**os.environ, "SSH_OPTIONS": options}
        done = subprocess.run(put_there, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1500, env=own, check=False)
        said = [line for line in done.stdout.splitlines() if not line.startswith("WARNING: ")]  # of pip
        return done.returncode, " / ".join(said[-12:])

    runs = lambda: home.run("readlink", "-f", "/opt/bedside").stdout.strip()  # noqa: E731
    code, said = put()
    assert code == 0, said
    first = runs()
    assert first.startswith("/opt/bedside-releases/"), first
    assert not home.run("ls", f"{first}/.unproven", check=False).stdout
    works(home)

    settings.write_text(CONFIG.replace('emergency_number = "112"', 'emergency_number = ""'))
    code, said = put()
    assert (code, "safety.emergency_number" in said, runs()) == (1, True, first), said
    works(home)

    settings.write_text(CONFIG)
    daemon = checkout / "device/daemon.py"
    begin = "async def run(self) -> None:"
    daemon.write_text(daemon.read_text().replace(begin, f"{begin}\n        raise OSError('broken')"))
    subprocess.run(["git", "-C", str(checkout), "-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qam", "Break it"], check=True)
    code, said = put()
    assert (code, "did not get READY" in said) == (1, True), said
    until(lambda: runs() == first, "the release before", 30)
    works(home)
    shutil.rmtree(keys)
    return (
        "a turn on the new release; settings without a number were refused, and what ran went on; a release that does not start "
        "gave way to the one before, and a turn again"
    )
