"""CUDA graphs: on a GPU a frame of CSM is two launches, one for the backbone's step and one for all of its codes.

A graph is a list of kernels on memory that stays where it is, recorded once and replayed by one call of the driver;
one at a time a frame of CSM-1B would be some 6000 operations of ATen, each a launch. So whatever changes from frame
to frame lies in buffers: the row, its position, the hidden state, the chance. It does not know whose turn it is, or Mimi.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from device.voice.csm import Csm, Sampling

ROOM = 256  # positions that the shortest step looks at; each longer one looks at twice as many
WARM = 3  # runs before a recording, as torch's notes on CUDA graphs ask: compiled code is made in them, and libraries load

Work = Callable[[], None]
Record = Callable[[Work], Work]  # of work on buffers, what repeats it


def fuse(csm: Csm, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let torch.compile fuse what lies between two attentions, for the few rows of a frame. int8 is only fast so."""
    for module, name, rows in _between(csm):
        setattr(module, name, _fused(getattr(module, name), rows, backend))


def loosen(csm: Csm) -> None:
    """Undo `fuse`."""
    for module, name, _ in _between(csm):
        delattr(module, name)


def _between(csm: Csm) -> list[tuple[nn.Module, str, int]]:
    """What lies between two attentions: modules, their methods, and how many rows a frame has there at most."""
    layer, alone = ("project", "finish"), ("forward",)
    backbone = [*product(csm.backbone.layers, layer, (1,)), *product((csm.backbone.norm, *csm.heads), alone, (1,))]
    return [*backbone, *product(csm.depth.layers, layer, (2,)), *product((csm.depth.norm, csm.projection), alone, (2,))]


def _fused(work: Callable[..., Tensor], rows: int, backend: str | Callable[..., Any]) -> Callable[..., Tensor]:
    """`work`, compiled for up to so many rows; a prefill, which would be compiled anew for each length, takes it as it is.

    Without coordinate descent cuBLAS multiplies one row, and a bf16 copy of an int8 weight (torch/_inductor/decomposition.py, mm).
    """
    options = {"coordinate_descent_tuning": True} if backend == "inductor" else None
    quick = torch.compile(work, backend=backend, dynamic=False, options=options)
    return lambda x, *rest: quick(x, *rest) if len(x) <= rows else work(x, *rest)


class Recorder:
    """Records CUDA graphs that share their memory: they are replayed one after the other, and keep nothing in it."""

    def __init__(self) -> None:
        self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """A replay runs on its caller's stream, and may come from another thread. Raises RuntimeError."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()  # the weights were perhaps written on another stream
        # Outside torch.cuda.graph too, which after a recording that failed would leave this thread on its stream.
        with torch.cuda.stream(self._stream):
            for _ in range(WARM):
                work()
            # Other threads may go on using the GPU: speech recognition has one of its own.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                work()
        return graph.replay


class Graphs:
    """An Engine for `csm`, whose weights and caches must stay where they are. One row and one frame are graphs.

    More rows take Csm's own way through the same caches: a prefill is long enough to hide its launches.
    """

    name = "CUDA graphs"

    def __init__(self, csm: Csm, record: Record, room: int = ROOM) -> None:
        """`record`: a Recorder, or a test's own. Raises RuntimeError where it can't."""
        self._csm, self._record = csm, record
        self._end = 0  # of what was listened to last
        wide = torch.zeros(3, 1, csm.shape.backbone.width, device=csm.device, dtype=csm.dtype)
        self._row, self._heard, self._hidden = wide.unbind()
        self._position = torch.zeros(1, dtype=torch.long, device=csm.device)
        self._codes = torch.zeros(csm.shape.codebooks, dtype=torch.long, device=csm.device)
        self._readings = torch.zeros(2, device=csm.device)
        positions = csm.shape.backbone.positions
        rooms = {min(room << times, positions) for times in range(positions.bit_length())}
        self._steps = {end: record(partial(self._step, end)) for end in sorted(rooms)}
        self._draws: dict[tuple[float, ...], tuple[Tensor, Work]] = {}
        self._drawing(Sampling(csm.shape.sounds))

    def listen(self, rows: Tensor, start: int) -> Tensor:
        """As Csm.listen. What lay behind these rows is forgotten, for it was heard without them."""
        csm, end = self._csm, start + len(rows)
        assert 0 <= start < end <= csm.shape.backbone.positions
        if end < self._end:  # What follows is masked, but a number that broke would come through: 0 · NaN is NaN.
            for cache in (csm.backbone.keys, csm.backbone.values):
                cache[:, :, end : self._end] = 0
        self._end = end
        if len(rows) > 1:
            return csm.backbone(rows, start)
        self._row.copy_(rows)
        self._position.fill_(start)
        next(step for room, step in self._steps.items() if end <= room)()
        return self._heard.clone()

    def frame(self, hidden: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """As Csm.frame, with the same chance from the same generator."""
        noise, draw = self._drawing(sampling)
        noise.copy_(sampling.noise(len(noise), noise.device))
        self._hidden.copy_(hidden)
        draw()
        return self._codes.clone(), self._readings.clone()

    def forced_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """As Csm.forced_logits, in its own way: nobody waits for it."""
        return self._csm.force(hidden, codes)

    def _drawing(self, sampling: Sampling) -> tuple[Tensor, Work]:
        """The chance that a frame will be drawn with, to be filled, and its graph: recorded when such settings first come."""
        key = (sampling.sounds, sampling.temperature, sampling.top_k, sampling.greedy)
        if key not in self._draws:
            noise = torch.ones(self._csm.shape.codebooks, min(sampling.top_k, sampling.sounds), device=self._csm.device)
            self._draws[key] = noise, self._record(partial(self._draw, replace(sampling, generator=None), noise))
        return self._draws[key]

    # What is recorded: only work for the device, from buffers into buffers ------------------------

    @torch.inference_mode()
    def _step(self, end: int) -> None:
        self._heard.copy_(self._csm.backbone.step(self._row, self._position, end))

    @torch.inference_mode()
    def _draw(self, sampling: Sampling, noise: Tensor) -> None:
        codes, readings = self._csm.draw(self._hidden, sampling, noise)
        self._codes.copy_(codes)
        self._readings.copy_(readings)
