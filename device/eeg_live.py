"""The headset while a technician's command runs: samples as they come, Ctrl-C as the end. It prints only why there are none."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from device.blocks import Block
    from device.config import Settings

LOOK = 0.1  # seconds between two looks at the headset
PATIENCE = 30.0  # seconds that a headset may take to send its first sample
SILENT = 2.0  # seconds without a sample, after which the reason is told


class EegFault(Exception):
    """What a command can't do, and the way out, in one sentence."""


class Told:
    """Within the block Ctrl-C and SIGTERM are not raised but noted: a second must not be cut while it goes to the disk.

    True once one came; the next one is raised, should the first find nobody who looks.
    """

    def __init__(self) -> None:
        self._came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Told:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True

    def __bool__(self) -> bool:
        return self._came


class LiveHeadset:
    """The configured headset, open for a `with` block that Ctrl-C or SIGTERM may end. Raises EegFault without one."""

    def __init__(self, settings: Settings) -> None:
        from device.boards import BOARDS
        from device.eeg import open_headset

        self._own = settings.headset
        if self._own.board == "none":
            raise EegFault("no headset is configured: set headset.board in the file of --config, or give --board, such as --board cyton.")
        if BOARDS[self._own.board].port == "serial" and not self._own.port:
            raise EegFault(f"{self._own.board} needs its serial port: set headset.port, or give --port, a path in /dev/serial/by-id.")
        self._headset = open_headset(settings.headset)
        self._drain = self._headset.blocks
        self._told, self._newest, self._closed = Told(), time.monotonic(), ""

    def __enter__(self) -> LiveHeadset:
        self._told.__enter__()
        self._headset.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = self.reason or "it was ended too early."
        self._headset.close()
        self._told.__exit__()

    @property
    def ended(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        return bool(self._told)

    @property
    def state(self) -> str:
        return str(self._headset.state.value)

    @property
    def reason(self) -> str:
        """Why there is no signal, in one sentence; after the block, as it was at its end."""
        return self._closed or str(self._headset.reason)

    @property
    def silent(self) -> float:
        """Seconds since the newest sample, or since the start."""
        return time.monotonic() - self._newest

    def listen(self, tell: bool = True) -> Iterator[list[Block]]:
        """What came, every 0.1 s, be it nothing, until Ctrl-C. With `tell` each new reason for nothing is printed once."""
        said = ""
        while not self._told:
            blocks = self._drain()
            if blocks:
                self._newest, said = time.monotonic(), ""
            elif tell and self.silent > SILENT and self.reason != said:
                said = self.reason
                print(f"bedside: {said}", file=sys.stderr)
            yield blocks
            time.sleep(LOOK)

    def blocks(self) -> list[Block]:
        """What came and was not yet looked at."""
        return self._drain()

    def collect(self, seconds: float) -> tuple[NDArray[np.float32], float, list[str]]:
        """(samples [channels, seconds * rate] in uV, rate in Hz, names) without a gap. Raises EegFault, or KeyboardInterrupt."""
        import numpy as np

        held: list[Block] = []
        for blocks in self.listen():
            if any(block.gap for block in (held + blocks)[1:]):
                raise EegFault("the signal was interrupted: see to the headset, then begin again.")
            if self.silent > PATIENCE:
                raise EegFault(f"there was no signal: {self.reason}")
            held += blocks
            if held and sum(block.samples.shape[1] for block in held) >= seconds * held[0].rate:
                samples = np.concatenate([block.samples for block in held], axis=1)
                return samples[:, : round(seconds * held[0].rate)], held[0].rate, held[0].names
        raise KeyboardInterrupt
