"""The quiet minute on the device: asked for by a hand, led by voice and light, left by any button; a fake Cyton wears the headset."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eeg_data import CLOSED, RATE, cyton
from home import SENTENCE, SOUNDS, SPEECH, becomes, bedside, ends_with, heard, lines, press, until

from device import guide
from device.config import load as settings_of
from device.fake_cyton import FakeCyton
from device.quiet import load
from device.states import LIGHTS, State
from device.voice.tone import ToneVoice

pytestmark = pytest.mark.anyio
PANEL = {"louder_pin": "BOARD18", "mute_pin": "BOARD22"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def away(tmp_path: Path) -> dict[str, str]:
    """A headset that is not plugged in."""
    return {"board": "cyton", "port": str(tmp_path / "none")}


async def ask(home: Any) -> None:
    """Hold the louder button until the quiet minute begins or ends."""
    before = home.companion.state
    home.panel.switch_mute(False)
    home.panel.hold("louder_pin")
    await until(lambda: home.companion.state is not before, "the hold to be seen")
    home.panel.let_go("louder_pin")


async def test_a_wearer_is_led_through_it_and_the_baseline_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every sentence in its order, the light, the file; and a second one that is broken off leaves the first."""
    pytest.importorskip("brainflow")
    caplog.set_level(logging.INFO, logger="bedside")
    port = tmp_path / "cyton"
    quiet = cyton()[:, round(CLOSED[0] * RATE) : round(CLOSED[1] * RATE)]
    headset = {"board": "cyton", "port": str(port)}
    with FakeCyton(np.concatenate([quiet, quiet[:, ::-1]], axis=1), port, speed=20.0, loop=True):
        async with bedside(tmp_path, [SPEECH], headset=headset, panel=PANEL) as home:
            await ask(home)
            assert home.panel.lit() == LIGHTS[State.QUIET].rgb
            await becomes(home, State.READY, 60)
            said = ("listening", "quiet_begin", "quiet_open", "quiet_closed", "quiet_done")
            assert np.array_equal(heard(home), np.concatenate([SOUNDS[name] for name in said]))
            kept, estimator = load(tmp_path / "eeg-baseline.json"), home.companion.feed.estimator
            assert (kept.windows, kept.made) == (estimator.baseline.windows, estimator.baseline.made)
            assert 30 <= kept.windows <= 75  # a look is 5 s of signal at this speed
            assert kept.reactivity is not None  # eyes were closed all the while, so alpha can't rise
            assert "no baseline" not in home.companion.affect().reason
            first = estimator.baseline
            await ask(home)
            await until(lambda: estimator.baseline is None, "the second minute")
            await ask(home)
            assert home.companion.state is State.READY
            await until(lambda: estimator.baseline is first, "the older baseline")
            await press(home)
            await becomes(home, State.SPEAKING)
    assert len(lines(caplog, "baseline windows=")) == 1


async def test_without_a_signal_it_says_so_and_ends(
    tmp_path: Path, away: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guide, "PATIENCE", 0.2)
    async with bedside(tmp_path, [], headset=away, panel=PANEL) as home:
        await ask(home)
        await becomes(home, State.READY)
        assert ends_with(heard(home), "quiet_no_signal")
    assert "not plugged in" in lines(caplog, "baseline")[0]


async def test_a_press_leaves_it_and_is_answered(tmp_path: Path, away: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "PATIENCE", 0.0)  # whoever went on leading would speak into the turn
    async with bedside(tmp_path, [SPEECH], headset=away, panel=PANEL) as home:
        await ask(home)
        await until(lambda: home.card.pending > 0, "the sentence")
        await press(home)
        await becomes(home, State.SPEAKING)
        await becomes(home, State.READY)
        (turn,) = home.memory.recent(5)
        assert turn.heard.text == SENTENCE
        assert home.seen.count(State.QUIET) == 1
        reply = np.concatenate([frame for clause in ("That sounds hard.", "Tell me more.") for frame in ToneVoice().frames(clause)])
        led, reached = heard(home)[len(SOUNDS["listening"]) : -len(reply)], heard(home)[-len(reply) :]
        assert np.array_equal(reached, reply)
        assert 0 < len(led) < len(SOUNDS["quiet_begin"])
        assert np.array_equal(led, SOUNDS["quiet_begin"][: len(led)])  # cut off, and nothing else was said


async def test_a_press_while_muted_leaves_it_and_says_why_nobody_listens(tmp_path: Path, away: dict[str, str]) -> None:
    async with bedside(tmp_path, [], headset=away, panel=PANEL) as home:
        await ask(home)
        home.panel.switch_mute(True)
        home.panel.press_talk()
        await becomes(home, State.READY)
        await until(lambda: home.card.pending == 0, "the sentence")
        assert ends_with(heard(home), "muted")


async def test_the_call_button_leaves_it_at_once(tmp_path: Path, away: dict[str, str]) -> None:
    async with bedside(tmp_path, [], headset=away, panel=PANEL) as home:
        await ask(home)
        home.panel.press_call()
        await becomes(home, State.ALERTING)
        await until(lambda: home.card.pending == 0, "the message")
        assert ends_with(heard(home), "calling")


async def test_without_a_headset_nobody_is_led(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="bedside")
    async with bedside(tmp_path, [], panel=PANEL) as home:
        home.panel.hold("louder_pin")
        await until(lambda: lines(caplog, "ignored state=ready event=quiet"), "the hold to be refused")
        assert home.companion.state is State.READY


def test_a_command_speaks_the_same_sentences(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from device import audio

    card = audio.WavCard([], tail=0, preroll=0, speed=50.0)
    monkeypatch.setattr(audio, "open_audio", lambda settings: card)
    with guide.spoken(settings_of(None, {}), aloud=True) as say:
        say("quiet_open")
        whole = card.heard_by_patient
    with guide.spoken(settings_of(None, {}), aloud=True, over=lambda: True) as say:
        say("quiet_open")  # Ctrl-C came: not spoken to its end
    assert np.array_equal(whole, SOUNDS["quiet_open"])
    assert len(card.heard_by_patient) < 2 * len(whole)
    assert "one point in front of you" in capsys.readouterr().out
