"""What a disk with a cache of its own may hold after a power cut: everything up to a flush, and of what came after it any part.

`kill -9` of QEMU can't show that, for the host keeps what it was given. So QEMU logs every write of one run (its driver blklogwrites, in
the format of the kernel's dm-log-writes), and disks are made of that log. Each must mount, and hold every turn that was called stored.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from acts import Row, Sizes
from guest import GREEN, Failed, Guest
from image import run

from device.memory import Memory, MemoryFault

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512  # bytes that a disk writes whole or not at all
TURNS = 12
LOST, TORN = 0.5, 0.2  # shares of the writes after the flush


@dataclass(frozen=True)
class Write:
    """One entry of a log: `size` bytes for the disk's `place`, found at `at` of the log; `end`, where the log goes on."""

    place: int
    size: int
    flags: int
    at: int
    end: int


def entries(log: Path) -> Iterator[Write]:
    """Of a log in the format of dm-log-writes, version 1 (Documentation/admin-guide/device-mapper/log-writes.rst). Raises ValueError."""
    with log.open("rb") as file:
        magic, version, count, sector = struct.unpack("<QQQI", file.read(28))
        if (magic, version) != (MAGIC, 1):
            raise ValueError(f"{log} is no log of writes")
        position = sector
        for _ in range(count):
            file.seek(position)
            start, sectors, flags, _ = struct.unpack("<QQQQ", file.read(32))
            at = position + sector
            size = sectors * sector
            position = at + (0 if flags & DISCARD else size)
            yield Write(start * sector, size, flags, at, position)


def survivors(writes: list[Write], flush: int, dice: random.Random) -> Iterator[tuple[Write, int]]:
    """(write, how many of its bytes) that are on the disk, when the power went between that `flush` of the log and the next."""
    for number, write in enumerate(writes):
        if number > flush and write.flags & FLUSH:
            return
        if write.flags & DISCARD or not write.size:
            continue
        if number <= flush or write.flags & FUA:
            yield write, write.size
        elif dice.random() >= LOST:
            sectors = write.size // SECTOR
            torn = sectors > 1 and dice.random() < TORN
            yield write, SECTOR * dice.randrange(1, sectors) if torn else write.size


def torn_writes(guest: Guest, sizes: Sizes) -> Row:
    """Turns are spoken on a disk whose every write is logged; then as many disks as `sizes.torn` says are made of the log, and read."""
    guest.cut()
    base, disk, log = (guest.folder / name for name in ("base.raw", "disk.raw", "writes.log"))
    run("qemu-img", "convert", "-O", "raw", guest.disk, base)
    run("cp", "--sparse=always", base, disk)
    log.write_bytes(b"")
    guest.power_on(
        ["-blockdev", f"driver=file,node-name=f0,filename={disk}", "-blockdev", f"driver=file,node-name=l0,filename={log}",
         "-blockdev", f"driver=blklogwrites,node-name=d0,file=f0,log=l0,log-sector-size={SECTOR}"]
    )  # fmt: skip
    guest.ready(0, 240, "READY on a disk that is watched")
    before = _turns(guest, base)
    stored = _speak(guest, log)
    guest.sh("sync")
    guest.cut()
    writes, dice, damaged = list(entries(log)), random.Random(7), []
    flushes = [number for number, write in enumerate(writes) if write.flags & FLUSH and write.end >= stored[0]][:-1]
    for number in range(sizes.torn):
        flush = dice.choice(flushes)
        run("cp", "--sparse=always", base, disk)
        with log.open("rb") as source, disk.open("r+b") as target:
            for write, size in survivors(writes, flush, dice):
                source.seek(write.at)
                target.seek(write.place)
                target.write(source.read(size))
        promised = before + sum(mark <= writes[flush].end for mark in stored)
        try:
            if (kept := _turns(guest, disk)) < promised:
                damaged.append(f"disk {number + 1} has {kept} of {promised} turns")
        except (Failed, MemoryFault) as error:
            damaged.append(f"disk {number + 1}: {error}")
    for file in (base, disk, log):
        file.unlink()
    told = f"{len(writes)} writes, {len(flushes)} flushes, {len(stored)} turns; {sizes.torn} disks made of them, {len(damaged)} with a loss"
    return "; ".join([told, *damaged]), not damaged


def _speak(guest: Guest, log: Path) -> list[int]:
    """So many turns. How long the log was when each was called stored."""
    since, marks, deadline = guest.uptime(), list[int](), time.monotonic() + 240
    guest.ask("speak", on=True)
    while len(marks) < TURNS:
        if guest.lights[-1][1] == GREEN:
            guest.ask("press", seconds=0.3)
        told = len(guest.logged("turn number=", since))
        marks += [log.stat().st_size] * (told - len(marks))
        if time.monotonic() > deadline:
            raise Failed(f"only {len(marks)} of {TURNS} turns in four minutes")
        time.sleep(0.02)
    return marks


def _turns(guest: Guest, disk: Path) -> int:
    """How many turns the memory on a disk holds, as its next start would find it. Raises Failed where that finds damage."""
    copy, out = disk.with_suffix(".mended"), guest.folder / "dumped"
    run("cp", "--sparse=always", disk, copy)
    _fsck("replaying the journal", "-y", "-E", "journal_only", str(copy))
    _fsck("checking", "-f", "-n", str(copy))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for order in (f"rdump /var/lib/bedside {out}", f"dump /etc/bedside/memory.key {out}/memory.key"):
        run("debugfs", "-R", order, copy)
    copy.unlink()
    if not (out / "bedside/memory.db").is_file():
        return 0
    (out / "memory.key").chmod(0o600)
    memory = Memory(out / "bedside/memory.db", str(out / "memory.key"))
    try:
        if memory.set_aside:
            raise Failed(f"the memory was damaged: {memory.set_aside}")
        return len(memory.recent(100_000))
    finally:
        memory.close()


def _fsck(what: str, *arguments: str) -> None:
    done = subprocess.run(["e2fsck", *arguments], capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise Failed(f"{what}: e2fsck says {done.stdout.strip().splitlines()[-1:]} (exit {done.returncode})")
