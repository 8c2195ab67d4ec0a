"""`bedside bench sound` on the real PortAudio and PulseAudio; the device's own voice, the end of a voice, a card that hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from home import REPLY, SOUNDS, becomes, bedside
from pulse import until

from device import config, heartbeat
from device.bench_sound import Pulse, sound_server
from device.half_duplex import ECHO
from device.heartbeat import GONE, STUCK, beyond_us
from device.levels import SILENT
from device.soundcard import SoundCard
from device.states import State
from device.turn import VOICE_RATE
from device.volume import VOLUMES, at_volume

MESSAGE = SOUNDS["starting"]


@pytest.fixture(scope="module")
def sound(pulse: Pulse) -> Iterator[SoundCard]:
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    card = SoundCard(config.Audio(kind="card"))
    card.open()
    yield card
    card.close()


def heard(card: SoundCard, seconds: float = 0.0) -> np.ndarray:
    """What a press of so many seconds gives."""
    card.listen(True)
    time.sleep(seconds)
    card.listen(False)
    pieces: list[np.ndarray] = []
    done: list[bool] = []

    def whole() -> bool:
        pcm, complete = card.take()
        pieces.append(pcm)
        done.append(complete)
        return complete

    until(whole, "the clip")
    return np.concatenate(pieces)


def test_a_press_into_its_own_voice_hears_nothing_of_it_at_any_volume(sound: SoundCard) -> None:
    """Its middle and its end: the pre-roll, the press and the tail are silent, but for the resampler's own dither."""
    for volume in range(1, len(VOLUMES) + 1):
        sound.begin()
        sound.play(at_volume(MESSAGE[:VOICE_RATE], volume))
        if volume % 2:
            until(lambda: sound.played > 0.5, "the middle of the message")
            sound.stop()
        else:
            until(lambda: sound.pending == 0, "its end")
        assert np.abs(heard(sound).astype(int)).max() <= 1, volume
    level = sound.meter.level()
    assert level is not None
    assert level.peak <= SILENT  # nor is it measured as the room


def test_what_is_said_once_the_own_voice_and_its_echo_are_over_is_heard(pulse: Pulse, sound: SoundCard, tmp_path: Path) -> None:
    """Somebody speaks all the time: silence while the device does, and their words again soon after."""
    import soundfile

    chance = np.random.default_rng(0)
    soundfile.write(tmp_path / "room.wav", chance.integers(-3000, 3000, VOICE_RATE * 20).astype(np.int16), VOICE_RATE)
    somebody = subprocess.Popen(["paplay", tmp_path / "room.wav"], env={**os.environ, **pulse.environment})
    try:
        until(lambda: sound._ring and any(sound._ring[-1]), "somebody who speaks")
        sound.begin()
        sound.play(MESSAGE[:VOICE_RATE])
        until(lambda: sound.played > 0.5, "the message")
        assert not any(sound._ring[-1])
        until(lambda: sound.pending == 0, "its end")
        drained = time.monotonic()
        until(lambda: any(sound._ring[-1]), "the words after it")
        assert ECHO * 0.9 < time.monotonic() - drained < ECHO + 0.5
    finally:
        somebody.kill()
        somebody.wait(10)


def test_what_is_said_while_it_is_muted_is_not_even_measured(pulse: Pulse, sound: SoundCard, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "room.wav", np.full(VOICE_RATE * 20, 30_000, np.int16), VOICE_RATE)  # louder than any test of this file
    sound.mute(True)
    somebody = subprocess.Popen(["paplay", tmp_path / "room.wav"], env={**os.environ, **pulse.environment})
    try:
        ring = subprocess.run(["timeout", "1", "parec", "-d", "loop.monitor", "--raw"], capture_output=True).stdout
        assert np.abs(np.frombuffer(ring[: len(ring) // 2 * 2], np.int16).astype(int)).max() > 20_000  # it was in the room
        muted = sound.meter.level()
    finally:
        somebody.kill()
        somebody.wait(10)
        until(lambda: not sound.pending, "silence")
        sound.mute(False)
    assert muted is not None
    assert muted.peak < -9  # the somebody before spoke at -21 dB, the device at -12 and more, not heard


def test_a_press_leaves_no_more_than_100_ms_of_a_voice_in_the_speaker(sound: SoundCard) -> None:
    """By the count of samples: those that the card has already, and the fade. A try in which this test was held up counts nothing."""
    counted = 0
    for _ in range(20):
        sound.begin()
        sound.play(MESSAGE)
        until(lambda: sound.played > 0.3, "the voice")
        began = time.monotonic()
        before, after = sound.played, sound.stop()
        left = after - before + sound.pending
        if time.monotonic() - began < 0.02:  # stop() takes 5 ms at most (device/audio.py)
            counted += 1
            assert 0 < left < 0.1
        until(lambda: sound.pending == 0, "the end of the fade")
        if counted == 5:
            return
    raise AssertionError(f"only {counted} of 20 tries were not held up")


@pytest.mark.anyio
async def test_its_own_voice_never_becomes_a_turn(pulse: Pulse, tmp_path: Path) -> None:
    """The whole device on a card that hears itself: pressed into it, it answers that nothing was said, and keeps no turn."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    card = SoundCard(config.Audio(kind="card"))
    async with bedside(tmp_path, [], replies=(REPLY,), card=card) as home:
        home.companion.say(MESSAGE[:VOICE_RATE])
        await anyio.sleep(0.6)
        assert card.pending > 0
        home.panel.press_talk()
        await becomes(home, State.LISTENING)
        await anyio.sleep(0.7)
        home.panel.release_talk()
        await becomes(home, State.THINKING)
        await becomes(home, State.SPEAKING)  # "please say it again"
        assert home.memory.recent(5) == []
        assert home.pen.asked == []


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_server_that_dies_under_a_late_reader_can_be_left(tmp_path: Path) -> None:
    """In a process of its own, for libpulse may hang in it: it did in more than half of such deaths, with memory that both share."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    program = """
import sys, time
from device import config
from device.bench_sound import sound_server
from device.soundcard import SoundCard
with sound_server() as pulse:
    for number in range(4):
        card = SoundCard(config.Audio(kind="card"))
        card.open()
        time.sleep(0.4)
        for late in (0.05, 0.09, 0.12, 0.16, 0.1):
            with card._lock:  # its callbacks wait
                time.sleep(late)
                if late == 0.1:
                    pulse.kill()
                    time.sleep(0.05)
            time.sleep(0.02)
        card.close()
        pulse.start()
print("closed")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "closed\n", done.stderr[-500:]


def test_a_card_that_is_pulled_under_the_running_companion_is_heard_again(tmp_path: Path) -> None:
    """The bench itself, with one pull; no figure is judged but that it was heard."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    command = [sys.executable, "-m", "device", "bench", "sound", "--parts", "pulls", "--pulls", "1", "--json", tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = json.loads((tmp_path / "out.json").read_text())["pulls"]
    assert (found["heard"], len(found["deaf_s"])) == (1, 1), done.stderr
    assert "card pulled 1 times: deaf p50" in done.stdout


@pytest.mark.parametrize(
    ("lost", "attempt", "state", "says"),
    [
        (0, 0, State.READY, ""),
        (GONE - 1, STUCK - 1, State.FAULT, ""),
        (GONE + 1, 0, State.FAULT, "the sound card has not come back in 301 s"),
        (GONE + 1, 0, State.ALERTING, ""),
        (0, STUCK + 1, State.ALERTING, "the sound card's driver has not answered for 16 s"),
    ],
)
def test_a_new_process_is_the_last_resort(lost: float, attempt: float, state: State, says: str) -> None:
    assert beyond_us(lost, attempt, state) == says
    assert heartbeat.AGAIN + heartbeat.LOOK < 1.0  # of the 3 s, of which a card may need 2 to open


def test_a_driver_that_hangs_ends_the_process_for_systemd_and_says_why(tmp_path: Path) -> None:
    """The sound server stands still: opening it again never returns, and no thread keeps the process from its end."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    (tmp_path / "s.toml").write_text(
        f'[panel]\nkind = "simulated"\n[voice]\nsocket = "{tmp_path}/v.sock"\n'
        f'[memory]\nfile = "{tmp_path}/m.db"\nkey = "{tmp_path}/m.key"\n'
        f'[safety]\nfolder = "{tmp_path}/safety"\nsocket = "{tmp_path}/c.sock"\n'
    )
    program = "import sys; from device import heartbeat; heartbeat.STUCK = 4.0; from device.__main__ import main; sys.exit(main())"
    with sound_server() as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        assert server is not None
        assert server.process is not None
        notify = server.folder / "n"
        systemd.bind(str(notify))
        systemd.settimeout(30)
        command = [sys.executable, "-c", program, "run", "--config", tmp_path / "s.toml"]
        child = subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": str(notify)}, stderr=subprocess.PIPE, text=True)
        try:
            assert child.stderr is not None
            for line in child.stderr:
                if line.startswith("sound_back"):
                    break
            server.process.send_signal(signal.SIGSTOP)
            said = child.communicate(timeout=40)[1]
        finally:
            server.process.send_signal(signal.SIGCONT)
            child.kill()
            child.wait(10)
    assert child.returncode == 1
    assert said.strip().splitlines()[-1].startswith("bedside: the sound card's driver has not answered for 4 s")
