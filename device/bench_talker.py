"""A voice at full load, for `bedside bench load`: a process that serves its socket as always and makes CSM frames without a pause.

It answers every turn with the same words and a tone, so that no turn waits for the frames.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from device.bench_voice import _model
from device.turn import Heard

SENTENCE, REPLY = "I slept badly", "That sounds hard. Tell me more."


class Ears:
    """Understands the same sentence in everything."""

    def start(self) -> None: ...

    def feed(self, pcm: Any) -> None: ...

    def finish(self) -> Heard:
        return Heard(SENTENCE, 1.0, 0.9)


class Pen:
    name = "bank"

    def plan(self, request: dict[str, Any], bank: bool) -> Iterator[str]:
        yield REPLY


def talk(pipe: Connection, path: str, nice: int, checkpoint: str, precision: str, device: str) -> None:
    """Asked for a number of threads, makes frames with them until asked how many a second those were. "end": what made them, and where."""
    os.setsid()  # as a service: the kernel shares the cores out among sessions (autogroup), and by nice values only inside one
    os.nice(nice)
    import torch

    from device.voice.build import start_engine
    from device.voice.load import choose_device
    from device.voice.measure import chatter
    from device.voice.random_weights import random_mimi
    from device.voice.server import Server
    from device.voice.tone import ToneVoice

    device = choose_device(device)
    csm, mimi = _model(checkpoint, precision, device)
    frames = chatter(csm, mimi() if mimi else random_mimi(csm.shape.codebooks, device))
    threading.Thread(target=Server(path, lambda status: (Ears(), Pen(), ToneVoice(), {})).run, daemon=True).start()
    pipe.send(None)
    while (threads := pipe.recv()) != "end":
        if threads:
            torch.set_num_threads(threads)
            if device == "cpu":
                start_engine(csm)  # anew: its threads are its own
            next(frames)
        made, began = 0, time.monotonic()
        while threads and not pipe.poll():
            next(frames)
            made += 1
        pipe.recv()
        pipe.send(made / (time.monotonic() - began))
    pipe.send({"engine": csm.engine.name if csm.engine else "torch", "device": device})
