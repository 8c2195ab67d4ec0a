"""`bedside bench voice` and `bedside bench fidelity`: what CSM costs here at each precision, and what each loses.

Each precision has a process of its own, so that its memory is its own; they take their rounds in turn (A B A B).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from device.config import Settings

ROUNDS = 5
FRAMES = 48  # of forced speech in `bench fidelity`: 3.8 s
SENTENCE = list(range(1000, 1024))  # text ids; with random weights any are as good


class BenchFault(RuntimeError):
    """A measurement could not be made. The message says which and why."""


def bench_voice(settings: Settings, checkpoint: str, device: str, precisions: list[str], report: str | None) -> int:
    """Print seconds a frame, real-time factor, first sound by length of history and memory. `checkpoint` "": random CSM-1B."""
    with _workers(_voice_worker, precisions, checkpoint, device, settings.voice.threads) as asked:
        rounds: dict[str, list[dict[str, float]]] = {precision: [] for precision in precisions}
        for number in range(ROUNDS + 1):
            for precision in precisions:
                figures = _ask(asked[precision], "round")
                if number:  # the first is for the caches
                    rounds[precision].append(figures)
            _progress(f"round {number} of {ROUNDS}")
        about = {precision: _ask(asked[precision], "end") for precision in precisions}
    from device.voice.measure import summary

    figures = {precision: {**summary(rounds[precision]), **about[precision]} for precision in precisions}
    print(f"{_name(checkpoint)} on {device}, {settings.voice.threads} threads, {os.cpu_count()} cores, {platform.machine()}")
    histories = list(figures[precisions[0]]["first_frame_s"])
    print(f"{'':<6}{'s/frame':>9}{'depth':>8}{'back.':>8}{'Mimi':>8}{'RTF':>7}  first sound after {' / '.join(histories)} rows  {'GB':>6}")
    for precision, row in figures.items():
        first = " / ".join(f"{value:.2f}" for value in row["first_frame_s"].values())
        print(
            f"{precision:<6}{row['seconds_per_frame']:>9.3f}{row['depth_s']:>8.3f}{row['backbone_s']:>8.3f}{row['mimi_decode_s']:>8.3f}"
            f"{row['rtf']:>7.2f}  {first:<{len(' / '.join(histories)) + 23}}{row['model_gb']:>6.2f}"
        )
    print("GB: weights, keys and values, and Mimi; the text table stays a mapped file. peak_memory_gb in the JSON is the whole process.")
    return _write(report, {"checkpoint": _name(checkpoint), "device": device, "threads": settings.voice.threads, "precisions": figures})


def bench_fidelity(settings: Settings, checkpoint: str, device: str, precisions: list[str], report: str | None) -> int:
    """Print KL divergence and arg-max agreement with bf16 for each codebook, the same codes forced upon each precision."""
    with _workers(_fidelity_worker, ["bf16"], checkpoint, device, settings.voice.threads) as asked:
        codes = _ask(asked["bf16"], "sample")
        wanted = _ask(asked["bf16"], codes)
        again = _ask(asked["bf16"], codes)
    from device.voice.measure import compare

    figures = {"bf16": compare(wanted, again)}
    for precision in precisions:
        with _workers(_fidelity_worker, [precision], checkpoint, device, settings.voice.threads) as asked:
            figures[precision] = compare(wanted, _ask(asked[precision], codes))
    print(f"{_name(checkpoint)} on {device}: {len(codes)} frames of bf16's own codes, forced upon each")
    print(f"{'codebook':<10}" + "".join(f"{precision + ' KL':>12}{'same':>8}" for precision in figures))
    books = len(wanted[0])
    for book in [*range(min(8, books)), *range(8, books, 8)]:
        row = "".join(f"{figure['kl'][book]:>12.5f}{figure['same'][book]:>8.3f}" for figure in figures.values())
        print(f"{book:<10}{row}")
    row = "".join(f"{sum(figure['kl']) / books:>12.5f}{sum(figure['same']) / books:>8.3f}" for figure in figures.values())
    print(f"{'all':<10}{row}")
    return _write(report, {"checkpoint": _name(checkpoint), "frames": len(codes), "against": "bf16", "precisions": figures})


def _voice_worker(pipe: Connection, precision: str, checkpoint: str, device: str) -> None:
    from device.voice.measure import Speed, weight_bytes
    from device.voice.pace import forget_peak, memory_gb
    from device.voice.random_weights import random_mimi

    csm, mimi = _model(checkpoint, precision, device)
    codec = mimi() if mimi else random_mimi(csm.shape.codebooks, device)
    loading = memory_gb()
    forget_peak()
    speed = Speed(csm, codec)
    pipe.send(None)
    while pipe.recv() == "round":
        pipe.send(speed.round())
    size = weight_bytes(csm)
    size["mimi"] = codec.memory
    model = (size["weights"] + size["cache"] + size["mimi"]) / 1e9
    pipe.send({"model_gb": round(model, 3), "loading_memory_gb": loading, "peak_memory_gb": memory_gb(), "bytes": size})


def _fidelity_worker(pipe: Connection, precision: str, checkpoint: str, device: str) -> None:
    from device.voice.measure import forced, sampled

    csm, _ = _model(checkpoint, precision, device)
    text = [number % csm.shape.text_ids for number in SENTENCE]
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        pipe.send(sampled(csm, text, FRAMES) if isinstance(asked, str) else forced(csm, text, asked))


def _model(checkpoint: str, precision: str, device: str) -> tuple[Any, Callable[[], Any] | None]:
    """(Csm, what loads its Mimi): the checkpoint's, or random CSM-1B without one."""
    from device.voice.shape import CSM_1B

    if checkpoint:
        from device.voice.build import build

        built = build(checkpoint, precision, device)
        return built.csm, built.mimi
    from device.voice.random_weights import random_csm

    return random_csm(CSM_1B, precision, device), None


@contextmanager
def _workers(
    work: Callable[..., None], precisions: list[str], checkpoint: str, device: str, threads: int
) -> Iterator[dict[str, Connection]]:
    """A process for each precision, loaded and ready, one after the other."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for precision in precisions:
            _progress(f"loading {precision}")
            pipes[precision], theirs = context.Pipe()
            process = context.Process(target=_run, args=(work, theirs, precision, checkpoint, device, threads), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
            _answer(pipes[precision])
        yield pipes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _run(work: Callable[..., None], pipe: Connection, precision: str, checkpoint: str, device: str, threads: int) -> None:
    """The worker's side: a failure is sent as its sentence."""
    from device.voice.load import hush_libraries

    try:
        hush_libraries()
        import torch

        torch.set_num_threads(threads)
        work(pipe, precision, checkpoint, device)
    except EOFError:
        return
    except Exception as error:
        pipe.send(BenchFault(f"{precision}: {error}"))


def _ask(pipe: Connection, what: Any) -> Any:
    pipe.send(what)
    return _answer(pipe)


def _answer(pipe: Connection) -> Any:
    try:
        answer = pipe.recv()
    except EOFError:
        raise BenchFault("the measuring process ended without a word; it may have run out of memory") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _name(checkpoint: str) -> str:
    return checkpoint or "CSM-1B's shape with random weights"


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(report: str | None, figures: dict[str, Any]) -> int:
    if report:
        Path(report).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0
