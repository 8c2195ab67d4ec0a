"""`bedside bench eeg`: every figure of the headset and the estimate, and whether it holds. Each part is measured elsewhere."""

from __future__ import annotations

import json as json_module
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from device import bench_estimate, bench_faults, bench_headset

Figures = dict[str, float]

# In the order in which they are run, and how each is measured: in a folder of its own, `seconds` being of the long run.
PARTS: dict[str, Callable[[Path, float], Figures]] = {
    "real_time": lambda folder, seconds: bench_headset.fidelity(folder, 60.0, 1.0),
    "times_20": lambda folder, seconds: bench_headset.fidelity(folder, 89.0, 20.0),
    "end_to_end": lambda folder, seconds: bench_estimate.end_to_end(folder),
    "cyton8": lambda folder, seconds: bench_estimate.people("cyton8"),
    "muse4": lambda folder, seconds: bench_estimate.people("muse4"),
    "silence": lambda folder, seconds: bench_estimate.silence(),
    "muse_file": lambda folder, seconds: bench_estimate.flicker(),
    "faults": lambda folder, seconds: bench_faults.faults(folder),
    "unplug": lambda folder, seconds: bench_headset.cycles(folder, bench_headset.CYCLES),
    "cost": lambda folder, seconds: bench_estimate.cost(),
    "long_run": lambda folder, seconds: bench_headset.long_run(seconds),
    "day": lambda folder, seconds: bench_estimate.day(),
}
# (part, figure): the least and the most it may be.
LIMITS: dict[tuple[str, str], tuple[float, float]] = {
    ("real_time", "error_lsb"): (0, 0.5),
    ("real_time", "gaps"): (0, 0),
    ("real_time", "cpu_percent"): (0, 2),
    ("times_20", "error_lsb"): (0, 0.5),
    ("times_20", "gaps"): (0, 0),
    ("end_to_end", "alpha_ratio_o1"): (2, 100),
    ("end_to_end", "alpha_ratio_o2"): (2, 100),
    ("end_to_end", "blink_refused"): (0.95, 1),
    ("end_to_end", "jaw_refused"): (0.95, 1),
    ("end_to_end", "motion_refused"): (0.95, 1),
    ("end_to_end", "clean_kept"): (0.95, 1),
    ("cyton8", "auc"): (0.84, 1),
    ("cyton8", "auc_null"): (0.45, 0.55),
    ("cyton8", "ece"): (0, 0.08),
    ("muse4", "auc"): (0.77, 1),
    ("muse4", "auc_null"): (0.45, 0.55),
    ("muse4", "ece"): (0, 0.08),
    ("silence", "railed_abstained"): (1, 1),
    ("silence", "confidence_without_alpha"): (0, 0.3),
    ("muse_file", "snr_tp9"): (2.5, 100),
    ("muse_file", "snr_tp10"): (2.5, 100),
    ("faults", "without_a_message"): (0, 0),
    ("faults", "most_messages"): (1, 1),
    ("unplug", "stale_s"): (0, 2),
    ("unplug", "streaming_s"): (0, 3),
    ("unplug", "threads_left"): (0, 0),
    ("unplug", "memory_growth_mb"): (-100, 2),
    ("unplug", "idle_cpu_percent"): (0, 5),
    ("cost", "core_percent"): (0, 2),
    ("long_run", "gaps"): (0, 0),
    ("long_run", "memory_growth_mb"): (-100, 5),
    ("day", "memory_growth_mb"): (-100, 5),
}


class BenchFault(Exception):
    """What can't be measured, and the way out, in one sentence."""


def bench_eeg(parts: Sequence[str], json: str | None, seconds: float) -> int:
    """Print the figures of `parts` (none: all of them) as they come, and whether each holds; 0 if all do."""
    if unknown := [part for part in parts if part not in PARTS]:
        raise BenchFault(f"{unknown[0]!r} is no part of bench eeg; there are {', '.join(PARTS)}.")
    figures: dict[str, Figures] = {}
    missed = []
    for part in parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="bedside-eeg-") as folder:
            figures[part] = PARTS[part](Path(folder), seconds)
        for key, value in figures[part].items():
            least, most = LIMITS.get((part, key), (-float("inf"), float("inf")))
            said = f"   {'ok' if least <= value <= most else 'MISSED'} ({least:g} to {most:g})" if (part, key) in LIMITS else ""
            print(f"{part:>10}  {key:<26} {value:10.3f}{said}", flush=True)
            missed += [] if least <= value <= most else [f"{part}.{key}"]
    if json:
        Path(json).write_text(json_module.dumps({"figures": figures, "missed": missed}, indent=2), encoding="utf-8")
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
