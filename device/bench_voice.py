"""`bedside bench voice` and `bedside bench fidelity`: what CSM costs here at each precision, and what each loses.

Each precision has a process of its own, so that its memory is its own; they take their rounds in turn (A B A B).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from device.config import Settings

Job = tuple[Callable[..., None], tuple[Any, ...]]  # what a process does, and with what, after its pipe

ROUNDS = 5
FRAMES = 48  # of forced speech in `bench fidelity`: 3.8 s
SENTENCE = list(range(1000, 1024))  # text ids; with random weights any are as good


class BenchFault(RuntimeError):
    """A measurement could not be made. The message says which and why."""


def bench_voice(
    settings: Settings,
    checkpoint: str,
    device: str,
    precisions: list[str],
    report: str | None,
    peers: bool = False,
    picture: str | None = None,
) -> int:
    """Print what CSM costs here at each precision, held against the memory's bandwidth and against transformers.

    `checkpoint` "": random weights of CSM-1B's shape. Every figure is a median over ROUNDS rounds of all processes in turn.
    """
    from device import bench_report

    bench_report.check(report, picture)
    threads = settings.voice.threads
    jobs: dict[str, Job] = {each: (_voice_worker, (each, checkpoint, device, settings.voice.compile)) for each in precisions}
    jobs["memory"] = (_memory_worker, (device, threads))
    for dtype in ("fp32", "bf16") if peers else ():
        jobs[f"transformers {dtype}"] = (_peer_worker, (checkpoint, dtype, device))
    with _workers(jobs, threads) as asked:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
        for number in range(ROUNDS + 1):
            for name in jobs:
                figures = _ask(asked[name], "round")
                if number:  # the first is for the caches
                    rounds[name].append(figures)
            _progress(f"round {number} of {ROUNDS}")
        about = {name: _ask(asked[name], "end") for name in jobs}
    figures = bench_report.gather(rounds, about, precisions)
    figures = {"checkpoint": _name(checkpoint), "device": device, "threads": threads, "cores": os.cpu_count(), **figures}
    bench_report.show(figures)
    if picture:
        bench_report.draw(Path(picture), figures)
    return _write(report, figures)


def bench_fidelity(settings: Settings, checkpoint: str, device: str, precisions: list[str], report: str | None) -> int:
    """Print KL divergence and arg-max agreement with bf16 for each codebook, the same codes forced upon each precision."""
    threads = settings.voice.threads
    with _workers({"bf16": (_fidelity_worker, ("bf16", checkpoint, device))}, threads) as asked:
        codes = _ask(asked["bf16"], "sample")
        wanted = _ask(asked["bf16"], codes)
        again = _ask(asked["bf16"], codes)
    from device.voice.measure import compare

    figures = {"bf16": compare(wanted, again)}
    for precision in precisions:
        with _workers({precision: (_fidelity_worker, (precision, checkpoint, device))}, threads) as asked:
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


def _voice_worker(pipe: Connection, precision: str, checkpoint: str, device: str, fuse: bool) -> None:
    from device.voice.measure import PREFILL, Speed, frame_bytes, prefill_flop, weight_bytes
    from device.voice.pace import forget_peak, memory_gb
    from device.voice.random_weights import random_mimi

    csm, mimi = _model(checkpoint, precision, device, fuse)
    codec = mimi() if mimi else random_mimi(csm.shape.codebooks, device)
    loading = memory_gb()
    forget_peak()
    speed = Speed(csm, codec)
    _rounds(pipe, speed.round)
    size = weight_bytes(csm)
    size["mimi"] = codec.memory
    model = (size["weights"] + size["cache"] + size["mimi"]) / 1e9
    engine = csm.engine.name if csm.engine else "torch"
    work = {"frame_bytes": frame_bytes(csm), "prefill_rows": PREFILL, "prefill_flop": prefill_flop(csm, PREFILL)}
    memory = {"model_gb": round(model, 3), "loading_memory_gb": loading, "peak_memory_gb": memory_gb()}
    pipe.send({"engine": engine, **memory, **work, "bytes": size})


def _memory_worker(pipe: Connection, device: str, threads: int) -> None:
    """How fast this machine's memory can be read at all, and how fast the engine's product is in registers."""
    from device.voice import native
    from device.voice.measure import read_speed

    own = device == "cpu" and native.reason() is None

    def look() -> dict[str, float]:
        if own:
            return {"gb_per_s": native.bandwidth(threads), "gflop_per_s": native.peak_gflops(threads)}
        return {"gb_per_s": read_speed(device), "gflop_per_s": 0.0}

    _rounds(pipe, look)
    pipe.send({"kernel": f"native {native.kernels()}" if own else "torch.sum"})


def _peer_worker(pipe: Connection, checkpoint: str, dtype: str, device: str) -> None:
    from device.bench_peers import Peer

    _rounds(pipe, Peer(checkpoint, dtype, device).round)
    pipe.send({})


def _rounds(pipe: Connection, look: Callable[[], dict[str, float]]) -> None:
    pipe.send(None)
    while pipe.recv() == "round":
        pipe.send(look())


def _fidelity_worker(pipe: Connection, precision: str, checkpoint: str, device: str) -> None:
    from device.voice.measure import forced, sampled

    csm, _ = _model(checkpoint, precision, device)
    text = [number % csm.shape.text_ids for number in SENTENCE]
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        pipe.send(sampled(csm, text, FRAMES) if isinstance(asked, str) else forced(csm, text, asked))


def _model(checkpoint: str, precision: str, device: str, fuse: bool = False) -> tuple[Any, Callable[[], Any] | None]:
    """(Csm, what loads its Mimi): the checkpoint's, or random CSM-1B without one."""
    from device.voice.shape import CSM_1B

    if checkpoint:
        from device.voice.build import build

        built = build(checkpoint, precision, device, fuse=fuse)
        return built.csm, built.mimi
    from device.voice.build import start_engine
    from device.voice.random_weights import random_csm

    csm = random_csm(CSM_1B, precision, device)
    start_engine(csm, fuse=fuse)
    return csm, None


@contextmanager
def _workers(jobs: dict[str, Job], threads: int) -> Iterator[dict[str, Connection]]:
    """A process for each job, loaded and ready, one after the other."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for name, (work, words) in jobs.items():
            _progress(f"loading {name}")
            pipes[name], theirs = context.Pipe()
            process = context.Process(target=_run, args=(work, theirs, name, words, threads), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
            _answer(pipes[name])
        yield pipes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _run(work: Callable[..., None], pipe: Connection, name: str, words: tuple[Any, ...], threads: int) -> None:
    """The worker's side: a failure is sent as its sentence."""
    from device.voice.load import hush_libraries

    try:
        hush_libraries()
        import torch

        torch.set_num_threads(threads)
        work(pipe, *words)
    except EOFError:
        return
    except Exception as error:
        pipe.send(BenchFault(f"{name}: {error}"))


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
