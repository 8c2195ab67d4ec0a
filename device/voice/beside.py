"""Where Mimi makes a frame's sound while CSM makes the next frame's codes. It knows neither."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import torch


class Beside(Executor):
    """A thread of its own on a CPU; on a GPU the caller's, at once, for CUDA graphs are captured alone.

    Two cores gain 3 % of a frame by it, for both are CSM's already; each further core takes more of Mimi's share.
    """

    def __init__(self, device: torch.device) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mimi") if device.type == "cpu" else None

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        if self._pool:
            return self._pool.submit(work, *arguments, **named)
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._pool:
            self._pool.shutdown(wait, cancel_futures=cancel_futures)
