"""Safe mode: what a bedside keeps when the companion fails again and again. The light says FAULT, the talk button gets a recorded
sentence, the call button calls a person.

It opens no microphone and knows no voice process, headset, memory or network, so that none of them can be what breaks it too.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import anyio

from device import sounds
from device.alarm import Alarm
from device.audio import Sound, open_audio
from device.audit import Audit
from device.beat import notify
from device.config import FIRMWARE, Settings, make_socket_folder
from device.heartbeat import LOOK, LOOP, PLAYBACK, Heartbeat
from device.logs import log
from device.loop import Loop
from device.panel import open_panel
from device.soundcard import SoundCard
from device.states import TIMEOUTS, Control, Event, State, light, step

# Until the companion is tried again: longer than bedside-companion's StartLimitIntervalSec, so that it may fail as often again,
# and short enough that a bad hour (a full disk, a card that was pulled) does not cost the night.
MINUTES = 10.0


class Speaker(SoundCard):
    """The card's speaker alone."""

    def _open_mic(self, pyaudio: Any) -> None:
        self._mic_at = math.inf


class Safe(Loop):
    """FAULT, or ALERTING while a person is being called. `recorded`: the messages; `wrong`: what of them is lost."""

    def __init__(self, settings: Settings, panel: Any, audio: Sound, recorded: dict[str, Any], wrong: str = "") -> None:
        super().__init__()
        self.settings, self.panel, self.audio, self._recorded, self._wrong = settings, panel, audio, recorded, wrong
        self.watch: Callable[[str, Any], None] = lambda kind, value: None
        self.state, self.since = State.FAULT, time.monotonic()
        self.alarm, self.heartbeat = Alarm(self, recorded), Heartbeat(self, (LOOP, PLAYBACK))
        self._overdue, self._told = False, ""

    async def run(self, seconds: float) -> None:
        """Returns after `seconds`, but never while a person is being called."""
        self.begin()
        over = time.monotonic() + seconds
        self.panel.show(light(self.state))
        notify("READY=1")
        try:
            async with anyio.create_task_group() as self._tasks:
                for keep in (self.heartbeat.keep_sound, self.heartbeat.keep_beat, self.take_events):
                    self._tasks.start_soon(keep)
                self.in_thread(Audit(self.settings.safety.folder).note, "safe mode")
                self.alarm.start()
                while self.state is State.ALERTING or time.monotonic() < over:
                    self._tell(over - time.monotonic())
                    if self.state is State.ALERTING and time.monotonic() - self.since > TIMEOUTS[self.state] and not self._overdue:
                        self._overdue = True
                        self.post(Event.TIMEOUT)
                    await anyio.sleep(LOOK)
                self._tasks.cancel_scope.cancel()
        finally:
            notify("STOPPING=1")
            self.audio.close()

    def handle(self, event: Event | Control) -> None:
        if isinstance(event, Event):  # of the controls none is for here: nothing listens, and what is said is as loud as it gets
            self.take(event)

    def take(self, event: Event) -> None:
        """Never waits, as the companion's."""
        before, after = self.state, step(self.state, event)
        if event is Event.PRESS and before is State.FAULT:
            if self.audio.pending == 0:
                self.audio.begin()
                self.audio.play(self._recorded["cant_answer"])
        elif event is Event.ACKNOWLEDGE and before is State.ALERTING:
            # The hold that began an alert must not end it.
            if time.monotonic() - self.alarm.began >= self.settings.panel.acknowledge_seconds + 0.5:
                self._enter(State.FAULT, event)
                self.alarm.end()
        elif after is State.ALERTING:
            self._enter(after, event)
            if before is not State.ALERTING:
                self.audio.stop()
                self.alarm.begin()
            elif event is Event.TIMEOUT:
                self.alarm.goes_on()

    def _enter(self, state: State, event: Event) -> None:
        log("state", was=self.state.value, now=state.value, event=event.value, mode="safe")
        self.state, self.since, self._overdue = state, time.monotonic(), False
        self.panel.show(light(state))

    def facts(self) -> dict[str, Any]:
        return {"says": self._told}

    def _tell(self, left: float) -> None:
        """systemd, and so a technician, how it stands."""
        said = (
            "ALERT: a person is being called, until the call button is held or 'bedside acknowledge' is run"
            if self.state is State.ALERTING
            else "the talk button gets a recorded sentence, the call button calls; the companion failed again and again (journalctl -u "
            f"bedside-companion) and is tried again in {max(math.ceil(left / 60), 1)} min, or by systemctl start bedside-companion"
        )
        notes = [f"no sound: {self.heartbeat.refused}" if self.heartbeat.refused else "", self._wrong]
        now = "; ".join([f"SAFE MODE: {said}", *(note for note in notes if note)])
        if now != self._told:
            self._told = now
            notify(f"STATUS={now}")


def safe(settings: Settings) -> int:
    """0 after MINUTES, SIGTERM or SIGINT. Raises PanelLost where there are no buttons and no light."""
    make_socket_folder(settings)
    recorded, wrong = sounds.whole(FIRMWARE / "sounds")
    for reason in wrong:
        log("sound_damaged", reason=reason)
    homes: list[Safe] = []
    with contextlib.closing(open_panel(settings.panel, lambda event: homes[0].post(event) if homes else None)) as panel:
        card = Speaker(settings.audio) if settings.audio.kind == "card" else open_audio(settings.audio)
        homes.append(Safe(settings, panel, card, recorded, wrong[0] if wrong else ""))
        anyio.run(_until_signal, homes[0])
    return 0


async def _until_signal(home: Safe) -> None:
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await home.run(MINUTES * 60)
        tasks.cancel_scope.cancel()
