"""What may not leave the device, be read or be written: the container's scenarios of privacy and hardening."""

from __future__ import annotations

import re
import subprocess
import time

from vm.bench_files import CONFIG
from vm.nspawn import Container
from vm.person import GREEN, LOAD, SAID, ready, shows, turn


def hardening(home: Container) -> str:
    ready(home)
    bad, scores = [], []
    for unit in ("bedside-companion", "bedside-voice"):
        pid = home.pid(unit)
        status = dict(re.findall(r"^(\w+):\s+(.*)$", home.run("cat", f"/proc/{pid}/status").stdout, re.M))
        user = home.run("id", "-u", "bedside").stdout.strip()
        for key, value in {"Seccomp": "2", "NoNewPrivs": "1", "CapEff": "0000000000000000", "CapBnd": "0000000000000000"}.items():
            if status[key] != value:
                bad.append(f"{unit}: {key} is {status[key]}")
        if status["Uid"].split()[0] != user:
            bad.append(f"{unit}: uid {status['Uid']}")
        inside = ["nsenter", "-t", str(pid), "-m", "-S", user, "-G", user, "--"]
        for path in ("/etc/x", "/usr/x", "/opt/bedside/x", "/var/log/x", "/etc/bedside/x"):
            if home.run("nsenter", "-t", str(pid), "-m", "--", "touch", path, check=False).returncode == 0:  # as root, even
                bad.append(f"{unit}: {path} could be written")
        for path in ("/root", "/home/."):
            if home.run(*inside, "ls", path, check=False).stdout.strip():
                bad.append(f"{unit}: {path} can be read")
        if home.run(*inside, "cat", "/etc/bedside/memory.key", check=False).returncode == 0:
            bad.append(f"{unit}: the memory's key can be read")
        table = home.run("systemd-analyze", "security", "--no-pager", f"{unit}.service", check=False).stdout
        score = re.search(r"Overall exposure level.*?: ([\d.]+)", table)
        scores.append(f"{unit.removeprefix('bedside-')} {score[1] if score else '?'}")
    assert not bad, "; ".join(bad)
    return f"seccomp, no capability, no new privilege, static user, nothing but its own folders to write; exposure: {', '.join(scores)}"


def no_network(home: Container) -> str:
    """A wire that counts: all that leaves the container, with an address and a route, in a boot and a turn."""
    home.stop()
    home.boot("--network-veth")
    wire = f"ve-{home.name}"
    subprocess.run(["ip", "link", "set", wire, "up"], check=True)  # a wire without a carrier counts nothing
    home.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/host0/disable_ipv6; ip link set host0 up; ip addr add 192.0.2.2/24 dev host0; "
                         "ip route add default via 192.0.2.1; ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev host0")  # fmt: skip
    count = lambda: int(home.run("cat", "/sys/class/net/host0/statistics/tx_packets").stdout)  # noqa: E731
    before = count()
    ready(home)
    turn(home)
    packets = count() - before
    home.run("bash", "-c", "echo > /dev/udp/192.0.2.1/53")  # the meter itself works
    meter = count() - before - packets
    own = [home.run("cat", f"/proc/{home.pid(unit)}/net/dev").stdout.count(":") for unit in ("bedside-companion", "bedside-voice")]
    assert (packets, own) == (0, [1, 1]), f"{packets} packets left; interfaces of companion and voice: {own}"
    assert meter > 0, f"the counter of {wire} does not count"
    home.stop()
    home.boot()
    return f"a boot and a turn: {packets} packets ({meter} when the bench sends one); both processes have no interface but lo"


def logs(home: Container) -> str:
    """A turn and an open call at each level; then all that any log of the machine holds is searched for what was said."""
    found, sizes = [], []
    for level in ("debug", "info", "warning"):
        home.configure(CONFIG.replace('level = "debug"', f'level = "{level}"'))
        home.run("systemctl", "restart", "bedside-voice", "bedside-companion", timeout=LOAD)
        began = time.monotonic()
        shows(home, GREEN, LOAD, began)
        turn(home)
        home.run("journalctl", "--sync")
        told = home.turns()[-1]
        words = set(re.findall(r"[a-z]{5,}", f"{told['heard']['text']} {told['reply']}".lower()))
        journal, audit = home.run("journalctl", "--no-pager", "-o", "export"), home.run("cat", "/var/lib/bedside/safety/audit.log")
        text = (journal.stdout + audit.stdout).lower()
        assert SAID in told["heard"]["text"].lower(), f"recognised: {told['heard']['text']!r}"
        found += [f"{level}: {word}" for word in words if re.search(rf"\b{word}\b", text) and word not in OURS]
        sizes.append(len(text))
    home.configure(CONFIG)
    assert not found, f"in a log: {found}"
    return f"3 levels, {sizes[-1]:,} letters of journal and audit log: no word of 5 letters or more of what was heard or answered"


OURS = {"never", "still", "there", "voice", "about", "machine"}  # words that our own messages, or those of systemd, use too
