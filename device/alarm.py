"""What happens on an alert: light, recorded message, relay, call, and a voice that stays until a caregiver has come.

It knows no rule and no network, and nothing in it waits for a model or a disk. The states and their light are device/states.py's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from device import control
from device.audit import Audit, note_what_runs
from device.caregiver import Caregiver
from device.config import Settings
from device.logs import log
from device.safety import MESSAGES
from device.sounds import PROMPTS, with_numbers
from device.states import Event, State
from device.turn import Alert

BUTTON = Alert("call_someone", "call button", "calling")


class Home(Protocol):
    """Where an alert happens: the companion, or safe mode."""

    settings: Settings
    panel: Any
    audio: Any
    state: State

    @property
    def watch(self) -> Callable[[str, Any], None]: ...
    def post(self, event: Event) -> None: ...
    def take(self, event: Event) -> None: ...
    def in_thread(self, work: Callable[..., Any], *arguments: Any) -> None: ...
    def beside(self, work: Callable[..., Any], *arguments: Any) -> None: ...
    def facts(self) -> dict[str, Any]: ...


class Alarm:
    """`sounds`: the recorded messages (device/sounds.py). `began` is in monotonic seconds."""

    def __init__(self, home: Home, sounds: dict[str, Any]) -> None:
        safety = home.settings.safety
        self._home, self._door = home, Path(safety.socket)
        self._audit = Audit(safety.folder)
        self._caregiver = Caregiver((Path(safety.folder), self._door.parent), self._audit)
        self._messages = with_numbers(sounds, safety.emergency_number, safety.crisis_number)
        self._alert: Alert | None = None
        self._prompts = 0  # said since it began
        self._came = "button"  # what said that a caregiver is here
        self.began = 0.0
        self.refusals: Counter[str] = Counter()  # of clauses, by the rule that they broke, since the start

    @property
    def kind(self) -> str:
        """Of the alert that runs, "" when none does."""
        return self._alert.kind if self._alert else ""

    def start(self) -> None:
        """Open the door for commands; and where nobody had come when we ended, go on calling."""
        self._home.beside(control.serve, self._door, self.asked)
        self._home.in_thread(note_what_runs, self._audit, self._home.settings)
        if (call := self._caregiver.call) is not None:
            self.heard(call.alert(MESSAGES.get(call.kind, "calling")))

    def heard(self, alert: Alert) -> None:
        """A rule fired on what was heard."""
        self._alert = alert
        self._home.post(Event.ALERT)

    def begin(self) -> None:
        """The light shows it already. First the message, at full volume, then the relay, then the call."""
        home, self.began, self._prompts, self._came = self._home, time.monotonic(), 0, "button"
        self._alert = self._alert or BUTTON
        self._say(self._alert.message)
        home.panel.nurse_call(True)
        old = self._caregiver.call
        call = old or self._caregiver.begin(self._alert)
        home.in_thread(self._caregiver.keep, call, old is not None)
        home.watch("call", self._alert)

    def refused(self, rule: str) -> None:
        """A reply broke a rule of device/reply_rules.py and was not said."""
        self.refusals[rule] += 1
        log("reply_refused", rule=rule, count=self.refusals[rule])
        self._home.in_thread(partial(self._audit.note, "reply refused", rule=rule, count=self.refusals[rule]))

    def goes_on(self) -> None:
        """Nobody has come yet: say what helps meanwhile. `bedside caller` tells people again by itself."""
        prompts = PROMPTS.get(self.kind, PROMPTS["call_someone"])
        self._say(prompts[self._prompts % len(prompts)])
        self._prompts += 1

    def end(self) -> None:
        """A caregiver is here."""
        self._home.audio.stop()
        self._home.panel.nurse_call(False)
        self._alert = None
        self._home.in_thread(self._caregiver.forget, self._caregiver.acknowledge(), self._came)

    def asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a command at our door is answered (device/control.py)."""
        if "status" in request:
            call = self._caregiver.call
            known = {"state": self._home.state.value, "call": asdict(call) if call else None, "refused": self.refusals}
            return {**known, "facts": self._home.facts()}
        if "told" in request:
            self._home.in_thread(self._caregiver.told, str(request["told"])[:40], str(request.get("result", ""))[:80])
            return {"noted": True}
        if "acknowledge" in request:
            if self._home.state is not State.ALERTING:
                return {"error": f"nobody is being called; it is {self._home.state.value}"}
            self._came, self.began = "command", 0.0  # it is no hold of the button that may have begun the alert
            self._home.take(Event.ACKNOWLEDGE)
            return {"acknowledged": True}
        return {"error": "known are status, told and acknowledge"}

    def _say(self, name: str) -> None:
        """At full volume, whatever was chosen. Nothing but a caregiver's acknowledgement stops it (device/states.py)."""
        self._home.audio.begin()
        self._home.audio.play(self._messages[name])
