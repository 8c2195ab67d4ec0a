"""What `bedside bench voice` found: the sums, the table, the projection and the picture. It measures nothing itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

FRAME = 0.08  # seconds of speech in a frame
# GB/s of memory by the data sheets (NVIDIA's Jetson module data sheets).
BOARDS = {"Orin Nano Super / Orin NX": 102.4, "AGX Orin 64": 204.8, "Thor": 273.0}
BYTES = "all its bytes at the memory's speed"
OURS, THEIRS, FLOOR = "#0a7d7d", "#9aa7b5", "#b03a2e"

Figures = dict[str, Any]


def check(report: str | None, picture: str | None) -> None:
    """Raise OSError, before anything is measured, for a file that can't be written."""
    for file in filter(None, (report, picture)):
        _check(file, Path(file))
    if picture and Path(picture).suffix not in (".svg", ".png"):
        raise OSError(f"{picture} can't be drawn: name it .svg or .png")


def _check(file: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise OSError(f"{file} can't be written: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OSError(f"{file} can't be written: name another file")


def gather(rounds: Mapping[str, list[dict[str, float]]], about: Mapping[str, Figures], precisions: list[str]) -> Figures:
    """The figures of `--json`: what is asked of most often at the top by precision, everything under "precisions"."""
    from device.voice.measure import summary

    bandwidth = median(row["gb_per_s"] for row in rounds["memory"])
    peak = median(row["gflop_per_s"] for row in rounds["memory"])
    peers = {name: median(row[name] for row in found) for found in _peers(rounds) for name in found[0]}
    best = min(peers.values()) if peers else None
    rows = {}
    for precision in precisions:
        row: Figures = {**summary(rounds[precision]), **about[precision]}
        row["gb_per_s"] = round(row["frame_bytes"] / 1e9 / row["seconds_per_frame"], 2)
        row["bandwidth_share"] = round(row["gb_per_s"] / bandwidth, 3)
        row["prefill_gflop_per_s"] = round(row["prefill_flop"] / 1e9 / row["prefill_s"], 1)
        row["prefill_share"] = round(row["prefill_gflop_per_s"] / peak, 3) if peak else None
        row["ratio"] = round(best / row["seconds_per_frame"], 2) if best else None
        rows[precision] = row
    last = rows[precisions[-1]]
    top = ("ratio", "seconds_per_frame", "rtf", "gb_per_s", "bandwidth_share", "peak_memory_gb", "engine")
    return {
        "bandwidth_gb_per_s": round(bandwidth, 2),
        "bandwidth_kernel": about["memory"]["kernel"],
        "peak_gflop_per_s": round(peak, 1),
        "peers": {name: round(value, 4) for name, value in peers.items()},
        **{key: {precision: row[key] for precision, row in rows.items()} for key in top},
        **{key: round(median(row[key] for row in rows.values()), 4) for key in ("mimi_decode_s", "mimi_encode_s")},
        "first_frame_s": last["first_frame_s"],  # of the last precision named; the others' are below
        "precisions": rows,
        "projection": _project(rows),
    }


def _peers(rounds: Mapping[str, list[dict[str, float]]]) -> list[list[dict[str, float]]]:
    return [found for name, found in rounds.items() if name.startswith("transformers ")]


def _project(rows: Mapping[str, Figures]) -> Figures:
    """Real-time factors of CSM alone on boards that were not measured: bytes over bandwidth, at the least share reached here.

    A processor with a large cache reads more of int8 and int4 than its memory gives; a Jetson has none.
    """
    share = min(1.0, *(row["bandwidth_share"] for row in rows.values()))
    return {
        board: {name: round(row["frame_bytes"] / 1e9 / (speed * share) / FRAME, 2) for name, row in rows.items()}
        for board, speed in BOARDS.items()
    }


def show(figures: Figures) -> None:
    """The tables, for a terminal of 140 columns."""
    rows = figures["precisions"]
    print(f"{figures['checkpoint']} on {figures['device']}, {figures['threads']} threads of {figures['cores']} cores")
    print(f"memory read at {figures['bandwidth_gb_per_s']:.1f} GB/s ({figures['bandwidth_kernel']})")
    histories = list(next(iter(rows.values()))["first_frame_s"])
    head = "first sound after " + " / ".join(histories) + " rows"
    columns = f"{'':<6}{'s/frame':>8}{'ratio':>7}{'depth':>7}{'back.':>7}{'RTF':>6}{'GB/s':>7}{'share':>7}{'60 rows':>9}"
    print(f"{columns}  {head}{'GB':>7}  engine")
    for name, row in rows.items():
        first = " / ".join(f"{value:.2f}" for value in row["first_frame_s"].values())
        ratio = f"{row['ratio']:.1f}" if row["ratio"] else "-"
        print(
            f"{name:<6}{row['seconds_per_frame']:>8.3f}{ratio:>7}{row['depth_s']:>7.3f}{row['backbone_s']:>7.3f}{row['rtf']:>6.2f}"
            f"{row['gb_per_s']:>7.1f}{row['bandwidth_share']:>7.0%}{row['prefill_s']:>7.2f} s"
            f"  {first:<{len(head)}}{row['model_gb']:>7.2f}  {row['engine']}"
        )
    decode, encode = (figures[f"mimi_{way}_s"] * 1000 for way in ("decode", "encode"))
    print(f"RTF has Mimi in it, {decode:.0f} ms a frame; a frame of the patient's is encoded in {encode:.0f} ms")
    print("GB: weights, caches, Mimi; the text table is a file")
    if peak := figures["peak_gflop_per_s"]:
        shares = ", ".join(f"{name} {row['prefill_gflop_per_s']:.0f}" for name, row in rows.items())
        print(f"60 rows at once, GFLOP/s: {shares}; the engine's product in registers {peak:.0f}")
    for name, value in figures["peers"].items():
        print(f"transformers {name:<14}{value:>8.3f} s/frame")
    print("PROJECTION, not measured: RTF of CSM alone at the least share of the memory's speed that was reached here")
    for board, found in figures["projection"].items():
        print(f"  {board:<28}" + "".join(f"{name:>7} {value:.2f}" for name, value in found.items()))


def draw(file: Path, figures: Figures) -> None:
    """Bars of seconds a frame, and what the memory alone would need. `file`: .svg or .png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "bedside"  # the same figures, the same file
    rows, bandwidth = figures["precisions"], figures["bandwidth_gb_per_s"]
    names = [f"transformers {name}" for name in figures["peers"]] + [f"ours, {name}" for name in rows]
    values = [*figures["peers"].values(), *(row["seconds_per_frame"] for row in rows.values())]
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(names) + 1.6), layout="constrained")
    axis.barh(names, values, color=[THEIRS] * len(figures["peers"]) + [OURS] * len(rows), height=0.62)
    floors = [row["frame_bytes"] / 1e9 / bandwidth for row in rows.values()]
    places = range(len(figures["peers"]), len(names))
    axis.vlines(floors, [place - 0.4 for place in places], [place + 0.4 for place in places], FLOOR, linewidth=2, label=BYTES)
    for place, (value, end) in enumerate(zip(values, [0.0] * len(figures["peers"]) + floors, strict=True)):
        axis.annotate(f"{value:.2f} s", (max(value, end), place), (5, 0), textcoords="offset points", va="center")
    axis.axvline(FRAME, color="black", linewidth=0.8, linestyle=":", label="real time, 0.08 s")
    axis.invert_yaxis()
    axis.set_xlim(0, max(values) * 1.12)
    axis.set_xlabel(f"seconds for 80 ms of speech ({figures['threads']} threads, memory {bandwidth:.0f} GB/s)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    metadata = {"Date": None} if file.suffix == ".svg" else None
    figure.savefig(file, metadata=metadata)
    plt.close(figure)
