"""The FAULT light of a device that can't start: its settings or its pins are wrong, and nobody may have to guess.

It reads no more than which pins the light is on, and decides nothing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from device.beat import notify
from device.config import Panel as PanelSettings
from device.config import light_of
from device.states import LIGHTS, State

SECONDS = 45.0  # below the unit's TimeoutStartSec, and long enough that its restarts never reach StartLimitBurst


def show_fault(config: str | None, reason: str, seconds: float = SECONDS) -> bool:
    """Show FAULT on the light that `config` names, as far as it can be read, until SIGTERM or SIGINT. False: there is no light.

    systemd shows `reason` beside the unit meanwhile; the restart that follows reads the settings again.
    """
    settings = light_of(config)
    if settings is None:
        return False
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with contextlib.suppress(Exception), _lamp(settings):  # the light's own pins may be what is wrong
            notify(f"STATUS={reason.splitlines()[0]}")
            ended.wait(seconds)
            return True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return False


@contextlib.contextmanager
def _lamp(settings: PanelSettings) -> Iterator[None]:
    from device.lamp import Lamp
    from device.panel_pins import pin_library

    lamp = Lamp(settings.light_pins, pin_library(settings))
    try:
        lamp.show(LIGHTS[State.FAULT])
        yield
    finally:
        lamp.close()
