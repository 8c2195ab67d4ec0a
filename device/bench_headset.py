"""The headset's side of `bedside bench eeg`, measured on BrainFlow's real driver and a fake Cyton. It judges no figure.

The fake Cyton runs in a process of its own, so that the CPU and memory told here are those of
BrainFlow, device/eeg.py and the estimate alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from device import config
from device.config import FIRMWARE
from device.eeg import Block, Headset, HeadsetState, open_headset
from device.eeg_feed import Feed
from device.eeg_filter import sections
from device.emulator import read_recording
from device.fake_cyton import LSB_UV

RECORDING = FIRMWARE / "eeg" / "cyton-eyes-open-closed.csv"
CYCLES = 20
PLAY = """
import sys
from pathlib import Path
from device.emulator import emulate
emulate(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), [])
"""


def memory_mb() -> float:
    """This process's resident memory now, in MB (10^6 bytes); the peak's growth would not show a leak that is freed late."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def threads() -> int:
    """Threads of this process, BrainFlow's included."""
    return len(os.listdir("/proc/self/task"))


@contextlib.contextmanager
def fake_cyton(folder: Path, speed: float = 1.0, recording: Path = RECORDING) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """(its port, a function that types a fault) of a fake Cyton in another process."""
    link = folder / "cyton"
    command = [sys.executable, "-c", PLAY, str(recording), str(link), str(speed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        typed = process.stdin

        def fault(text: str) -> None:
            typed.write(text + "\n")
            typed.flush()

        try:
            wait_for(link.exists, 20.0, "the fake Cyton")
            yield link, fault
        finally:
            process.terminate()


def wait_for(happened: Callable[[], bool], seconds: float, what: str, pause: float = 0.01) -> float:
    """How long it took, in s; TimeoutError naming `what` never came."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)
    return time.monotonic() - began


@contextlib.contextmanager
def reading(**settings: Any) -> Iterator[Headset]:
    headset = open_headset(config.Headset.model_validate(settings))
    headset.start()
    try:
        yield headset
    finally:
        headset.close()


def collect(headset: Headset, count: int, seconds: float, hear: Callable[[list[Block]], object] = lambda blocks: None) -> list[Block]:
    """At least `count` samples, each look's blocks given to `hear`; TimeoutError after `seconds`."""
    out: list[Block] = []

    def enough() -> bool:
        new = headset.blocks()
        hear(new)
        out.extend(new)
        return sum(block.samples.shape[1] for block in out) >= count

    wait_for(enough, seconds, f"{count} samples ({headset.reason})", 0.25)  # seldom: its own cost is not to count
    return out


def fidelity(folder: Path, seconds: float, speed: float) -> dict[str, float]:
    """The recording against what came through the driver: largest error in LSB, gaps, CPU of driver and estimate in % of one core."""
    sent = read_recording(RECORDING)
    count = round(seconds * 250)
    with fake_cyton(folder, speed) as (port, _), reading(board="cyton", port=str(port)) as headset:
        wait_for(lambda: headset.arriving, 10.0, "the first sample")
        sections(250.0)  # scipy is loaded with the first filter, once and for all
        burnt, began = time.process_time(), time.monotonic()
        blocks = collect(headset, count - 1, seconds / speed * 3 + 10, Feed(headset, "cyton").hear)
        cpu = (time.process_time() - burnt) / (time.monotonic() - began)
    worst = 0.0
    for block in blocks:  # the fake begins anew at the recording's end
        places = (block.first + np.arange(block.samples.shape[1])) % sent.shape[1]
        worst = max(worst, float(np.abs(np.rint(block.samples / LSB_UV) - sent[:, places] / LSB_UV).max()))
    samples = sum(block.samples.shape[1] for block in blocks)
    return {"samples": samples, "error_lsb": worst, "gaps": sum(block.gap for block in blocks), "cpu_percent": 100 * cpu}


def cycles(folder: Path, count: int) -> dict[str, float]:
    """Unplug and replug: the slowest s to STALE and to samples again, and what is left over after `count` times."""
    stale, again, idle, memory = [], [], [], []
    with fake_cyton(folder) as (port, fault):
        before = threads()
        with reading(board="cyton", port=str(port)) as headset:
            for i in range(count):
                wait_for(lambda: headset.arriving, 10.0, "samples")
                collect(headset, 100, 10.0)
                fault("unplug")
                wait_for(lambda: not port.exists(), 2.0, "the unplugging")
                stale.append(wait_for(lambda: headset.state is HeadsetState.STALE, 10.0, "stale"))
                wait_for(lambda: headset.state is HeadsetState.ABSENT, 10.0, "absent")
                burnt, began = time.process_time(), time.monotonic()
                time.sleep(0.5)
                idle.append((time.process_time() - burnt) / (time.monotonic() - began))
                fault("replug")
                wait_for(port.exists, 2.0, "the replugging")
                again.append(wait_for(lambda: headset.arriving, 10.0, "samples again"))
                memory.append(memory_mb())
                print(f"cycle {i + 1:2}: stale {stale[-1]:.2f} s, samples again {again[-1]:.2f} s, {memory[-1]:.1f} MB", file=sys.stderr)
        with contextlib.suppress(TimeoutError):  # a joined thread is gone from /proc a moment later
            wait_for(lambda: threads() <= before, 1.0, "the threads to end")
        left_over = max(0, threads() - before)
    return {
        "cycles": count,
        "stale_s": max(stale),
        "streaming_s": max(again),
        "threads_left": left_over,
        "memory_growth_mb": memory[-1] - memory[min(2, count - 1)],  # the first cycles fill the allocator
        "idle_cpu_percent": 100 * max(idle),
    }


def long_run(seconds: float) -> dict[str, float]:
    """The synthetic board and the estimate for `seconds` of the clock, read as the companion reads them.

    The growth begins once everything that fills up is full: the headset's minute, the estimate's ten.
    """
    names = ("Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2", "Fz", "Cz", "Pz", "Oz", "F3", "F4", "T7", "T8")
    with reading(board="synthetic", channels=names) as headset:
        feed, first, highest, gaps, looked = Feed(headset), 0.0, 0.0, 0, 0.0
        wait_for(lambda: headset.arriving, 10.0, "the synthetic board")
        burnt, began = time.process_time(), time.monotonic()
        while (ran := time.monotonic() - began) < seconds:
            blocks = headset.blocks()
            gaps += sum(block.gap for block in blocks)
            feed.hear(blocks)
            feed.affect()
            if ran > min(630.0, seconds / 2) and ran - looked > 5:  # to look costs more than all the rest
                now, looked = memory_mb(), ran
                first, highest = first or now, max(highest, now)
            time.sleep(0.25)
        cpu = (time.process_time() - burnt) / (time.monotonic() - began)
        estimates = len(feed.estimator.history) if feed.estimator else 0
    return {"seconds": seconds, "gaps": gaps, "estimates": estimates, "memory_growth_mb": highest - first, "cpu_percent": 100 * cpu}
