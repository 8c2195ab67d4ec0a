"""The edges that come and go: the voice process, the sound card, the headset, time and night. Each is watched by one task of the loop.

They post events and touch no state: `states.py` decides what an event means.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from device.audio import SoundLost, SoundStuck
from device.beat import Beat, notify
from device.logs import log
from device.night import Night
from device.soundcard import unquiet
from device.states import TIMEOUTS, TRANSITIONS, Event, State
from device.voice.link import Message, Voice, VoiceLost

if TYPE_CHECKING:
    from device.daemon import Companion

LOOK = 0.25  # seconds between two looks
AGAIN = 0.5  # seconds before a lost card is tried again; opening it may take 2, and deaf it must be 3 at most
STUCK = 15.0  # seconds that an attempt may take: 6 for the first sample, and whatever a driver needs to close
GONE = 300.0  # seconds without a card, after which PortAudio may be what is broken
SOUND_PATIENCE = 8.0  # seconds that a card may take to give its first sample


async def keep_voice(home: Companion) -> None:
    """Connect, read, and connect again for ever; the state table says what the light shows meanwhile."""
    said = ""
    while True:
        voice: Voice | None = None
        about: dict[str, Any] = {}
        try:
            voice = await Voice.connect(home.settings.voice.socket)
            async for message in voice.messages():
                if message.kind == "busy":
                    raise VoiceLost(message.fields["text"])
                said = ""
                if message.kind == "ready":
                    about = message.fields
                    if await home.remembering.resume(voice, about):
                        continue  # it is ready once it knows what was said before
                if message.kind in ("ready", "resumed"):
                    _voice_ready(home, voice, about)
                else:
                    await _hear_voice(home, message)
        except VoiceLost as error:
            if home.voice is not None or str(error) != said:
                log("voice_lost", reason=error)
                said = str(error)
            if home.about is not None:
                home.post(Event.LOST)
            home.voice, home.about = None, None
            if home.exchange is not None:
                home.exchange.lost()
        finally:
            if voice is not None:
                await voice.close()  # when the companion ends, too: the voice serves one at a time
        await anyio.sleep(2 * LOOK)


def _voice_ready(home: Companion, voice: Voice, about: dict[str, Any]) -> None:
    if home.voice is None and about.get("stand_in"):
        log("stand_in", voice=about["engine"], reason=about["stand_in"])
        home.watch("stand_in", about["stand_in"])
    home.voice, home.about = voice, about


async def _hear_voice(home: Companion, message: Message) -> None:
    if message.kind == "kept":
        home.remembering.kept(message)
    elif message.kind == "summary":
        await home.remembering.summarised(message)
    elif message.kind == "status":
        home.watch("status", message.fields["text"])
        notify(f"STATUS={message.fields['text']}")
    elif home.exchange is not None:
        home.exchange.deliver(message)


async def keep_sound(home: Companion) -> None:
    """Open the card, and open it again by its name, PortAudio begun anew, whenever its samples stop.

    Raises SoundStuck, under systemd alone, where only a new process may help (`beyond_us`).
    """
    said, lost_since = "", 0.0
    again = home.audio.open
    while True:
        if not home.audio.alive():
            waiting = home.state is State.STARTING and time.monotonic() - home.since < SOUND_PATIENCE
            if not waiting and (home.state, Event.LOST) in TRANSITIONS:
                home.post(Event.LOST)
            lost_since = lost_since or time.monotonic()
            reason = await _attempt(home, again)
            if reason and reason != said:
                log("sound_lost", reason=reason)
            if reason and (why := beyond_us(time.monotonic() - lost_since, 0.0, home.state)) and notify(f"STATUS={why}"):
                raise SoundStuck(f"{why}; the last reason was: {reason}")
            again, said = home.audio.reopen, reason
            if reason:
                await anyio.sleep(AGAIN)
                continue
            log("sound_back", seconds=time.monotonic() - lost_since)
            lost_since = 0.0
        await anyio.sleep(LOOK)


def beyond_us(lost: float, attempt: float, state: State) -> str:
    """Why only a new process can bring the sound back, or "". `lost`: s without a card, `attempt`: s that this one took so far.

    An alert that runs is left alone while the loop can go on trying: its call would pause with the process.
    """
    if attempt > STUCK:
        return f"the sound card's driver has not answered for {attempt:.0f} s"
    if lost > GONE and state is not State.ALERTING:
        return f"the sound card has not come back in {lost:.0f} s"
    return ""


async def _attempt(home: Companion, work: Callable[[], None]) -> str:
    """Why `work` could not open the card, or "". It may take seconds, or hang: never on the loop, nor in a thread that an end waits for."""
    outcome: list[str | Exception] = []

    def run() -> None:
        try:
            work()
            outcome.append("")
        except SoundLost as error:
            outcome.append(str(error))
        except Exception as error:
            outcome.append(error)

    threading.Thread(target=run, name="sound", daemon=True).start()
    began = time.monotonic()
    while not outcome:
        await anyio.sleep(LOOK / 10)
        if (why := beyond_us(0.0, time.monotonic() - began, home.state)) and notify(f"STATUS={why}"):
            unquiet()
            raise SoundStuck(f"{why}: it hangs.")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


async def keep_night(home: Companion) -> None:
    """The light's night profile, by the clock or the room."""
    night = Night(home.settings.panel, lambda: home.panel.dark)
    while True:
        if home.night != night.now():
            home.night = not home.night
            log("night", on=home.night)
            home.show()
        await anyio.sleep(1.0)


async def keep_time(home: Companion) -> None:
    """Time-outs, the way back to READY, and the watchdog's beat."""
    watchdog = Beat()
    while True:
        now = time.monotonic()
        if now - home.since > TIMEOUTS.get(home.state, float("inf")) and not home.overdue:
            home.overdue = True  # said once; entering a state, be it the same, takes it back
            home.post(Event.TIMEOUT)
        whole = home.about is not None and home.audio.alive() and home.audio.pending == 0
        if whole and home.state in (State.STARTING, State.FAULT):
            home.post(Event.VOICE_READY)
        watchdog.beat()
        await anyio.sleep(LOOK)


async def keep_headset(home: Companion) -> None:
    """What the headset sent since the last look, into the estimate and the recording: well under 10 ms each time."""
    if home.recording.wanted:
        home.recording.start()
    while True:
        blocks = home.headset.blocks()
        home.recording.hear(blocks)
        home.feed.hear(blocks)
        await anyio.sleep(LOOK)
