"""`bedside bench load`: is the companion still quick beside a voice at full load? Presses, the loop and the sound card are timed.

The companion is the real one, on mock pins and a private sound server; the voice is `bench_talker.py`. What other programs
take of the cores meanwhile is counted too, for they hold up the companion as well as a voice does.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import queue
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from device import logs
from device.audio import Sound, open_audio
from device.bench_report import check
from device.bench_sound import CountingCard, Pulse, sound_server
from device.bench_talker import talk
from device.bench_voice import Job, _ask, _name, _progress, _workers, _write
from device.config import Settings
from device.daemon import Companion
from device.demo import EEG, home, simulated, until
from device.panel import SimulatedPanel
from device.run import NICE
from device.states import LIGHTS, State

LIMIT = 0.1  # s from the button to the light, at p99
ROUNDS = 2  # of all settings in turn: A B A B
TICK = 0.01  # s between two looks at how late the loop is
HOLDS = (0.05, 0.05, 0.4)  # s: two taps, then a turn whose answer is being spoken when the next press comes
PAUSE = 0.05, 0.7  # s from the device being ready to the next press, by chance
UNANSWERED = 5.0  # s after which a press counts as lost, and as so late
QUIET = 0.2  # cores that other programs may take before a miss may be theirs
UNITS = f"nice {NICE}"  # the load that the units allow


@dataclass(frozen=True)
class Load:
    """What the voice process may take. No threads: it makes no frames."""

    nice: int
    threads: int


@dataclass
class Seen:
    """What was measured beside one load, over all rounds: seconds, and blocks of sound."""

    light: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    blocks: int = 0
    late: int = 0
    gap: float = 0.0  # the longest between two blocks for the speaker
    others: list[float] = field(default_factory=list)  # cores that other programs took, in each round
    frames: list[float] = field(default_factory=list)  # a second, one of each round


def loads(cores: int) -> dict[str, Load]:
    """The settings that are compared, the units' own among them."""
    every = {"idle": Load(NICE, 0), "nice 0": Load(0, cores), UNITS: Load(NICE, cores)}
    return every if cores == 1 else {**every, f"nice {NICE}, a core free": Load(NICE, cores - 1)}


def bench_load(settings: Settings, checkpoint: str, device: str, precision: str, seconds: float, report: str | None) -> int:
    """Print button to light, lateness of loop and sound, and the voice's speed beside each load. 1: the units' own is too much.

    `seconds`: of each load in each round. `checkpoint` "": random weights of CSM-1B's shape.
    """
    check(report, None)
    cores = len(os.sched_getaffinity(0))
    compared = loads(cores)
    seen = {name: Seen() for name in compared}
    with tempfile.TemporaryDirectory(prefix="bedside-load-") as name, sound_server() as server:
        folder = Path(name)
        jobs: dict[str, Job] = {
            str(nice): (talk, (str(folder / f"{nice}.sock"), nice, checkpoint, precision, device))
            for nice in sorted({load.nice for load in compared.values()})
        }
        logs.setup("warning")
        own = simulated(settings, folder, str(EEG))
        with _workers(jobs, cores) as asked:
            for number, (name, load) in itertools.product(range(ROUNDS), compared.items()):
                _progress(f"round {number + 1} of {ROUNDS}: {name}")
                pipe = asked[str(load.nice)]
                pipe.send(load.threads)
                voice = own.voice.model_copy(update={"socket": str(folder / f"{load.nice}.sock")})
                began, taken = time.monotonic(), _others(server)
                anyio.run(_beside, own.model_copy(update={"voice": voice}), seen[name], seconds, server is not None)
                seen[name].others.append((_others(server) - taken) / (time.monotonic() - began))
                seen[name].frames.append(_ask(pipe, None))
            about = _ask(asked[str(NICE)], "end")
    figures = {
        "checkpoint": _name(checkpoint),
        **{"precision": precision, **about, "cores": cores, "rounds": ROUNDS, "seconds": seconds},
        "audio": "a private PulseAudio with a null sink" if server else None,
        "loads": {name: summary(compared[name], seen[name], server is not None) for name in compared},
    }
    figures["misses"] = misses(figures)
    _write(report, figures)
    show(figures)
    return 1 if figures["misses"] else 0


def summary(load: Load, seen: Seen, card: bool) -> dict[str, Any]:
    """The figures of one load: milliseconds, counts, frames a second."""
    return {
        "nice": load.nice,
        "threads": load.threads,
        "presses": len(seen.light),
        "light_ms": _spread(seen.light),
        "loop_ms": _spread(seen.loop),
        "audio_blocks": seen.blocks if card else None,
        "late_blocks": seen.late if card else None,
        "block_gap_ms": round(seen.gap * 1000, 1) if card else None,
        "others_cores": [max(0.0, round(value, 2)) for value in seen.others],
        "frames_per_s": [round(value, 2) for value in seen.frames] if load.threads else None,
    }


def _spread(values: list[float]) -> dict[str, float]:
    found = np.percentile(np.array(values) * 1000, (50, 99, 100))
    return dict(zip(("p50", "p99", "max"), (round(float(value), 2) for value in found), strict=True))


def _others(server: Pulse | None) -> float:
    """Seconds of the cores that neither we, our processes nor the sound server have had since the machine started."""
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    ours = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    ours += [server.process.pid] if server and server.process else []
    times = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in ours]
    own = sum(int(part) for parts in times for part in parts)
    return (user + nice + system + irq + softirq + steal - own) / tick


def misses(figures: dict[str, Any]) -> list[str]:
    """What the load that the units allow did to the companion, one sentence each; empty is good."""
    row, out = figures["loads"][UNITS], []
    if (light := row["light_ms"]["p99"]) >= LIMIT * 1000:
        out.append(f"button to light took {light:.0f} ms (p99) beside the voice at {UNITS}; the limit is {LIMIT * 1000:.0f} ms")
    if row["late_blocks"]:
        out.append(f"{row['late_blocks']} of {row['audio_blocks']} blocks of sound came too late beside the voice at {UNITS}")
    if out and (others := max(row["others_cores"])) > QUIET:
        out[-1] += f" (other programs took up to {others:.1f} of {figures['cores']} cores meanwhile: stop them and measure again)"
    return out


def show(figures: dict[str, Any]) -> None:
    """The table, for a terminal of 125 columns."""
    print(f"{figures['checkpoint']}, {figures['precision']}, {figures['engine']}; {figures['cores']} cores")
    print(f"sound: {figures['audio'] or 'no PulseAudio or no PyAudio here, so none was measured'}")
    print(f"{'':<38}{'button to light, ms':>21}{'loop late, ms':>21}{'late':>13}{'longest':>9}{'frames a':>10}{'others,':>9}")
    times = f"{'p50':>7}{'p99':>7}{'max':>7}"
    print(f"{'':<22}{'threads':>8}{'presses':>8}{times}{times}{'blocks':>13}{'gap, ms':>9}{'second':>10}{'cores':>9}")
    for name, row in figures["loads"].items():
        spread = "".join(f"{row[what][part]:>7.1f}" for what in ("light_ms", "loop_ms") for part in ("p50", "p99", "max"))
        late = "-" if row["late_blocks"] is None else f"{row['late_blocks']} of {row['audio_blocks']}"
        gap = "-" if row["block_gap_ms"] is None else f"{row['block_gap_ms']:.0f}"
        speed = " ".join(f"{value:.1f}" for value in row["frames_per_s"] or []) or "-"
        others = " ".join(f"{value:.1f}" for value in row["others_cores"])
        print(f"{name:<22}{row['threads']:>8}{row['presses']:>8}{spread}{late:>13}{gap:>9}{speed:>10}{others:>9}")
    for sentence in figures["misses"]:
        print(f"MISSED: {sentence}")


# The companion's side ------------------------------------------------------------------------------


async def _beside(settings: Settings, seen: Seen, seconds: float, card: bool) -> None:
    """The companion for `seconds`, its buttons pressed by a thread of their own."""
    audio = settings.audio.model_copy(update={"kind": "card" if card else "wav", "input": "", "output": ""})
    sound: Sound = CountingCard(audio) if card else open_audio(audio)
    lit: queue.Queue[float] = queue.Queue()

    def watch(kind: str, value: Any) -> None:
        if kind == "cue" and panel.lit() == LIGHTS[State.LISTENING].rgb:
            lit.put(time.monotonic())  # the light is on its pins already

    async with home(settings, sound, watch) as (companion, panel):
        await until(lambda: companion.state is State.READY, 30, "the voice and the sound card")
        if isinstance(sound, CountingCard):
            sound.count()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_lateness, seen.loop)
            seen.light += await anyio.to_thread.run_sync(_press, companion, panel, lit, seconds)
            tasks.cancel_scope.cancel()
        if isinstance(sound, CountingCard):
            seen.blocks, seen.late, seen.gap = seen.blocks + sound.blocks, seen.late + sound.late, max(seen.gap, sound.gap)


def _press(companion: Companion, panel: SimulatedPanel, lit: queue.Queue[float], seconds: float) -> list[float]:
    """Press for `seconds`. Seconds from each press to the light of listening."""
    chance, over = random.Random(0), time.monotonic() + seconds
    out: list[float] = []
    for hold in itertools.cycle(HOLDS):
        while companion.state not in (State.READY, State.SPEAKING) and time.monotonic() < over:
            time.sleep(0.005)
        time.sleep(chance.uniform(*PAUSE))
        if time.monotonic() >= over and out:
            return out
        pressed = time.monotonic()
        panel.press_talk()
        try:
            out.append(lit.get(timeout=UNANSWERED) - pressed)
        except queue.Empty:
            out.append(UNANSWERED)
        time.sleep(hold)
        panel.release_talk()
    raise AssertionError("unreachable")


async def _lateness(late: list[float]) -> None:
    while True:
        due = time.monotonic() + TICK
        await anyio.sleep(TICK)
        late.append(time.monotonic() - due)
