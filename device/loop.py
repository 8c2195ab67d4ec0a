"""What the companion and safe mode have in common: one queue of events from any thread, taken in order, and work beside it.

It knows no state and no edge.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup

from device.states import Control, Event


class Loop(ABC):
    """A child says in `handle` what an event means; its `run` calls `begin`, and `take_events` within its `_tasks`."""

    _tasks: TaskGroup

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: deque[Event | Control] = deque()

    @abstractmethod
    def handle(self, event: Event | Control) -> None:
        """Never waits."""

    def post(self, event: Event | Control) -> None:
        """Tell the loop of an event, from any thread. (anyio.from_thread would wait for the loop.)"""
        if self._loop is None:
            self._early.append(event)  # a button pressed while we start is not lost
        else:
            self._loop.call_soon_threadsafe(self._events_in.send_nowait, event)

    def in_turn(self, work: Callable[[], None]) -> None:
        """Done by the loop when it has taken every event that waits."""
        self._events_in.send_nowait(work)

    def in_thread(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Work that may wait for a disk, beside the loop."""
        self._tasks.start_soon(anyio.to_thread.run_sync, work, *arguments)

    def beside(self, work: Callable[..., Any], *arguments: Any) -> None:
        """A task of the loop, as long as it runs."""
        self._tasks.start_soon(work, *arguments)

    def begin(self) -> None:
        """Events wait from now on in the order in which they come."""
        self._events_in, self._events = anyio.create_memory_object_stream[Event | Control | Callable[[], None]](1000)
        self._loop = asyncio.get_running_loop()

    async def take_events(self) -> None:
        """For ever."""
        while self._early:
            self.post(self._early.popleft())
        async for event in self._events:
            event() if callable(event) else self.handle(event)
