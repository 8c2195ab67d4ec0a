"""The edges that come and go: the voice process, the headset, time and night (the sound card: heartbeat.py). One task of the loop each.

They post events and touch no state: `states.py` decides what an event means.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio

from device.logs import log
from device.night import Night
from device.states import TIMEOUTS, Event, State
from device.voice.link import Message, Voice, VoiceLost

if TYPE_CHECKING:
    from device.daemon import Companion

LOOK = 0.25  # seconds between two looks
SOON = 0.01  # the same, for what a person waits for


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
            home.voice, home.about, home.voice_says = None, None, str(error)
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
        home.voice_says = message.fields["text"]
        home.tell()
    elif home.exchange is not None:
        home.exchange.deliver(message)


async def keep_night(home: Companion) -> None:
    """The light's night profile, by the clock or the room."""
    night = Night(home.settings.panel, lambda: home.panel.dark)
    while True:
        if home.night != night.now():
            home.night = not home.night
            log("night", on=home.night)
            home.show()
        await anyio.sleep(1.0)


def hears(home: Companion) -> bool:
    """Whether a sample was captured since the present state began."""
    return bool(home.audio.flow()[0] >= home.since)


async def cue(home: Companion) -> None:
    """The light says that it listens once a sample has come since the press, not before."""
    press = home.since
    while home.since == press and not hears(home):
        await anyio.sleep(SOON)
    if home.since == press:  # and not another one
        home.show()
        home.watch("cue", time.monotonic())


async def keep_time(home: Companion) -> None:
    """Time-outs, and the way back to READY."""
    while True:
        now = time.monotonic()
        if now - home.since > TIMEOUTS.get(home.state, float("inf")) and not home.overdue:
            home.overdue = True  # said once; entering a state, be it the same, takes it back
            home.post(Event.TIMEOUT)
        whole = home.about is not None and home.audio.alive() and home.audio.pending == 0
        if whole and home.state in (State.STARTING, State.FAULT):
            home.post(Event.VOICE_READY)
        home.tell()
        await anyio.sleep(LOOK)


async def keep_headset(home: Companion) -> None:
    """What the headset sent since the last look, into the estimate and the recording: well under 10 ms each time."""
    if home.settings.headset.board != "none":
        await anyio.to_thread.run_sync(home.feed.load, abandon_on_cancel=True)
    if home.recording.wanted:
        home.recording.start()
    while True:
        blocks = home.headset.blocks()
        home.recording.hear(blocks)
        home.feed.hear(blocks)
        await anyio.sleep(LOOK)
