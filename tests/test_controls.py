"""Mute, volume, tap-to-talk and the night in the whole device: what the hand does is what the patient hears and sees."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import numpy as np
import pytest
from home import LONG, REPLY, SENTENCE, SOUNDS, SPEECH, acknowledge, becomes, bedside, ends_with, heard, press, until

from device.states import LIGHTS, MUTED, State
from device.voice.tone import ToneVoice
from device.volume import at_volume

pytestmark = pytest.mark.anyio
SWITCH = {"mute_pin": "BOARD18", "mute_light_pin": "BOARD22"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_press_while_muted_is_heard_by_nobody_and_told_why(tmp_path: Path) -> None:
    """Violet instead of green, the switch's own light, a recorded sentence; the call button works; and on again, a whole turn."""
    async with bedside(tmp_path, [SPEECH], panel=SWITCH) as home:
        assert (home.panel.lit(), home.panel.mute_lit()) == (MUTED.rgb, True)
        home.panel.press_talk()
        await until(lambda: len(heard(home)), "the sentence")
        home.panel.release_talk()
        await until(lambda: home.card.pending == 0, "its end")
        assert ends_with(heard(home), "muted")
        assert State.LISTENING not in home.seen
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        await acknowledge(home)
        await becomes(home, State.READY)
        home.panel.switch_mute(False)
        await until(lambda: home.panel.lit() == LIGHTS[State.READY].rgb, "green")
        assert not home.panel.mute_lit()
        assert home.card.clips_left == 1
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
        assert turn.heard.text == SENTENCE


async def test_the_switch_ends_what_is_being_said_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    """And what the loop asks of the microphone afterwards gives silence: the switch is beneath the software."""
    async with bedside(tmp_path, [np.tile(SPEECH, 60)] * 2, panel=SWITCH) as home:
        home.panel.switch_mute(False)
        await until(lambda: not home.companion.muted, "the microphone on")
        home.panel.press_talk()
        await becomes(home, State.LISTENING)
        await until(lambda: home.companion.exchange is not None, "the turn")
        home.panel.switch_mute(True)
        await becomes(home, State.READY)
        assert home.panel.lit() == MUTED.rgb
        home.panel.release_talk()
        home.card.listen(True)
        await anyio.sleep(0.1)
        samples, _ = home.card.take()
        assert len(samples)
        assert not samples.any()
        assert home.memory.recent(5) == []
    assert home.pen.asked == []


async def test_a_press_while_muted_silences_a_reply_all_the_same(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH], replies=(LONG,), panel=SWITCH) as home:
        home.panel.switch_mute(False)
        await until(lambda: not home.companion.muted, "the microphone on")
        await press(home)
        await becomes(home, State.SPEAKING)
        home.panel.switch_mute(True)
        await until(lambda: home.companion.muted, "the switch")
        assert home.companion.state is State.SPEAKING
        home.panel.press_talk()
        await becomes(home, State.READY)
        home.panel.release_talk()
        await until(lambda: home.card.pending == 0 and home.memory.recent(5), "silence, and the turn stored")
        assert home.memory.recent(5)[0].reply != LONG


async def test_two_taps_are_a_turn_for_who_can_not_hold_the_button(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH], panel={"talk": "toggle"}) as home:
        home.panel.press_talk()
        home.panel.release_talk()
        await becomes(home, State.LISTENING)
        await until(lambda: home.card.clip_over, "the end of the recording")
        home.panel.press_talk()
        home.panel.release_talk()
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
        assert (turn.heard.text, turn.reply) == (SENTENCE, REPLY)


async def test_the_volume_turns_the_voice_but_never_an_alert(tmp_path: Path) -> None:
    async with bedside(tmp_path, [SPEECH], panel={"louder_pin": "BOARD18", "quieter_pin": "BOARD22"}) as home:
        for _ in range(7):
            home.panel.press("quieter_pin")
        await until(lambda: home.companion.volume.chosen == 1, "the softest")
        await until(lambda: home.card.pending == 0, "the sound that shows it")
        home.panel.press("louder_pin")
        await until(lambda: home.companion.volume.chosen == 2 and home.card.pending == 0, "a step up")
        cue = at_volume(SOUNDS["listening"], 2)
        assert np.array_equal(heard(home)[-len(cue) :], cue)
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        reply = heard(home)[-24_000:]
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        await until(lambda: home.card.pending == 0, "the message")
        assert ends_with(heard(home), "calling")
        assert np.abs(reply).max() < 0.5 * np.abs(SOUNDS["calling"]).max()
        await acknowledge(home)


async def test_by_the_clock_the_night_caps_the_voice_but_never_an_alert(tmp_path: Path) -> None:
    """Louder goes as far as the cap and leaves the day's volume alone; the call is as loud as by day, sample for sample."""
    now = datetime.now()
    night = {f"night_{what}": (now + timedelta(hours=hours)).strftime("%H:%M") for what, hours in (("begins", -1), ("ends", 2))}
    panel = {"night": "clock", "louder_pin": "BOARD18", "quieter_pin": "BOARD22", **night}
    async with bedside(tmp_path, [SPEECH], panel=panel, audio={"night_volume": 3}) as home:
        await until(lambda: home.companion.night, "the night")
        home.panel.press("louder_pin")
        await until(lambda: home.card.pending == 0 and len(heard(home)), "the sound that shows it")
        assert home.companion.volume.chosen == 5
        assert np.array_equal(heard(home), at_volume(SOUNDS["listening"], 3))
        home.panel.press("quieter_pin")
        await until(lambda: home.companion.volume.chosen == 2, "softer than the cap")
        home.panel.press("louder_pin")
        home.panel.press("louder_pin")
        await until(lambda: home.companion.volume.chosen == 3 and home.card.pending == 0, "back to the cap")
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        spoken = [at_volume(frame, 3) for clause in ("That sounds hard.", "Tell me more.") for frame in ToneVoice().frames(clause)]
        assert np.array_equal(heard(home)[-sum(map(len, spoken)) :], np.concatenate(spoken))
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        await until(lambda: home.card.pending == 0, "the message")
        assert ends_with(heard(home), "calling")
        await acknowledge(home)


async def test_in_a_dark_room_the_light_glimmers_and_an_alert_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.night.SETTLED", 0.5)

    async def share(rgb: tuple[float, float, float]) -> float:
        """Of one second, how long the light had this colour."""
        over, seen = time.monotonic() + 1.0, []
        while time.monotonic() < over:
            seen.append(home.panel.lit() == rgb)
            await anyio.sleep(0.005)
        return sum(seen) / len(seen)

    async with bedside(tmp_path, [], panel={"night": "ambient", "ambient_pin": "BOARD18"}) as home:
        assert await share(LIGHTS[State.READY].rgb) == 1.0
        home.panel.darken(True)
        await until(lambda: home.companion.night, "the night")
        assert await share(LIGHTS[State.READY].rgb) < 0.25
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        assert 0.3 < await share(LIGHTS[State.ALERTING].rgb) < 0.7


async def test_a_device_set_to_night_is_dim_by_itself(tmp_path: Path) -> None:
    async with bedside(tmp_path, [], panel={"night": "always"}) as home:
        await until(lambda: home.companion.night, "the night")
        await until(lambda: home.panel.lit() == (0, 0, 0), "the dark between two glimmers")
