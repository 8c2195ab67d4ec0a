"""The simulated card under a hand-moved clock, and the real one on a PulseAudio of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pulse import until

from device import config
from device.audio import SoundLost, WavCard, open_audio
from device.bench_sound import Pulse
from device.cards import quiet
from device.limiter import CEILING, Limiter
from device.soundcard import JITTER, ON_ITS_WAY, SoundCard
from device.turn import MIC_RATE, VOICE_RATE
from device.volume import VOLUMES, at_volume


class HandClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ramp(samples: int, start: int = 1) -> np.ndarray:
    """Samples that are all different, so that a shift by one is seen."""
    return np.arange(start, start + samples, dtype=np.int16)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def card(clock: HandClock, *inputs: np.ndarray, speed: float = 1.0) -> WavCard:
    """A simulated card with half a second of pre-roll and 0.3 s of tail."""
    made = open_audio(config.Audio(kind="wav"), inputs, speed=speed, clock=clock)
    made.open()
    assert isinstance(made, WavCard)
    return made


def test_a_clip_is_preroll_then_the_words_then_the_tail(clock: HandClock) -> None:
    """Taken every 20 ms, the pieces join without a sample lost, doubled or added."""
    words = ramp(MIC_RATE)
    mic = card(clock, words)
    mic.listen(True)
    pieces, done, released = [], False, False
    for tick in range(100):
        pcm, done = mic.take()
        pieces.append(pcm)
        if mic.clip_over and not released:
            released = True
            assert tick == 50  # 1 s of words, at 20 ms a look
            mic.listen(False)
        if done:
            break
        clock.now += 0.02
    heard = np.concatenate(pieces)
    assert heard.dtype == np.int16
    assert len(heard) == int((0.5 + 1.0 + 0.3) * MIC_RATE)
    np.testing.assert_array_equal(heard[8000:24000], words)
    assert not heard[:8000].any()
    assert not heard[24000:].any()
    rest, still_done = mic.take()
    assert (len(rest), still_done) == (0, True)


def test_a_release_in_mid_word_still_hears_the_tail(clock: HandClock) -> None:
    """The tail is what was said after the release, not silence; late takes add nothing to it."""
    words = ramp(MIC_RATE)
    mic = card(clock, words)
    mic.listen(True)
    clock.now += 0.25
    mic.listen(False)
    clock.now += 60
    heard, done = mic.take()
    assert done
    np.testing.assert_array_equal(heard[8000:], words[: int(0.55 * MIC_RATE)])


def test_each_press_hears_the_next_clip_and_then_silence(clock: HandClock) -> None:
    """A third press with two clips hears silence, and its clip is over at once."""
    mic = card(clock, ramp(100), ramp(100, start=500))
    firsts = []
    for left in (1, 0, 0):
        mic.listen(True)
        assert mic.clips_left == left
        clock.now += 0.1
        firsts.append(int(mic.take()[0][8000]))
    assert firsts == [1, 500, 0]
    assert mic.clip_over


def test_playback_follows_the_clock(clock: HandClock) -> None:
    """Played and pending add up at every moment, and begin() counts anew."""
    speaker = card(clock)
    speaker.begin()
    speaker.play(ramp(VOICE_RATE))
    assert (speaker.played, speaker.pending) == (0.0, 1.0)
    clock.now += 0.25
    assert (speaker.played, speaker.pending) == (0.25, 0.75)
    clock.now += 5
    assert (speaker.played, speaker.pending) == (1.0, 0.0)
    speaker.begin()
    assert speaker.played == 0.0
    np.testing.assert_array_equal(speaker.heard_by_patient, ramp(VOICE_RATE))


def test_a_barge_in_cuts_to_the_sample(clock: HandClock) -> None:
    """What was queued is never heard, and stop() says how much was."""
    speaker = card(clock)
    speaker.begin()
    speaker.play(ramp(12_000))
    speaker.play(ramp(12_000, start=12_001))
    clock.now += 12_345 / VOICE_RATE
    assert speaker.stop() == 12_345 / VOICE_RATE
    assert (speaker.played, speaker.pending) == (0.0, 0.0)
    clock.now += 1
    np.testing.assert_array_equal(speaker.heard_by_patient, ramp(12_345))
    speaker.play(ramp(10))
    clock.now += 1
    assert len(speaker.heard_by_patient) == 12_355


def test_late_words_are_heard_after_silence(clock: HandClock) -> None:
    """A gap inside an utterance is silence and no speech; between utterances it is nothing."""
    speaker = card(clock)
    speaker.begin()
    speaker.play(ramp(2_400))
    clock.now += 0.15
    speaker.play(ramp(2_400))
    clock.now += 1
    assert speaker.played == 0.2
    assert speaker.underrun == pytest.approx(0.05)
    heard = speaker.heard_by_patient
    assert len(heard) == 6_000
    assert not heard[2_400:3_600].any()
    np.testing.assert_array_equal(heard[3_600:], ramp(2_400))
    speaker.begin()
    clock.now += 1
    speaker.play(ramp(2_400))
    clock.now += 1
    assert len(speaker.heard_by_patient) == 8_400


def test_ten_times_faster_is_ten_times_faster(clock: HandClock) -> None:
    """Speed moves the microphone and the speaker alike."""
    sound = card(clock, ramp(MIC_RATE), speed=10)
    sound.listen(True)
    sound.play(ramp(VOICE_RATE))
    clock.now += 0.05
    assert len(sound.take()[0]) == int(1.0 * MIC_RATE)
    assert sound.played == 0.5


def test_five_volumes_grow_and_the_last_is_the_voice_itself() -> None:
    sound = tone(0.1)
    loudness = [np.abs(at_volume(sound, volume)).max() for volume in range(1, len(VOLUMES) + 1)]
    assert loudness == sorted(set(loudness))
    assert at_volume(sound, 5) is sound
    assert at_volume(sound, 1).dtype == np.int16
    turned = at_volume(np.full(VOICE_RATE, 10_000, np.int16), 1, before=5)  # at night, in the middle of a sentence
    assert (turned[0], turned[-1]) == (10_000, 2_000)
    assert np.abs(np.diff(turned.astype(int))).max() < 40
    assert loudness[0] > 1000  # the softest is still to be heard


def test_a_muted_simulated_card_gives_silence(clock: HandClock) -> None:
    sound = card(clock, ramp(2 * MIC_RATE))
    sound.listen(True)
    clock.now += 1.0
    assert sound.take()[0].any()
    sound.mute(True)
    clock.now += 0.2
    assert not sound.take()[0].any()
    sound.mute(False)
    clock.now += 0.2
    assert sound.take()[0].any()


def test_what_is_too_loud_is_limited_on_the_way_out_of_either_card(clock: HandClock) -> None:
    """And a card of 48 kHz gets none of the peaks that lie between the samples of a voice that was clipped."""
    square = np.tile(np.repeat(np.array([32767, -32768], np.int16), 12), 500)
    speaker = card(clock)
    speaker.play(square)
    assert speaker.pending == len(square) / VOICE_RATE
    clock.now += 2
    assert len(speaker.heard_by_patient) == len(square)
    assert np.abs(speaker.heard_by_patient.astype(int)).max() == CEILING
    for rate in (VOICE_RATE, 44_100, 48_000):
        real = SoundCard(config.Audio(kind="card"))
        real._speaker_rate, real._limiter = rate, Limiter(rate)
        real.play(square)
        seconds = len(real._queue) / 2 / rate
        assert real.pending == pytest.approx(seconds, abs=1e-6)  # there is much in it: nothing is flushed
        assert CEILING - 1 <= np.abs(np.frombuffer(bytes(real._queue), np.int16).astype(int)).max() <= CEILING


# --- the real card -------------------------------------------------------------------------------


@pytest.fixture
def sound(pulse: Pulse) -> Iterator[SoundCard]:
    """The opened default card, whose microphone hears its own speaker."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    if pulse.process is None:
        pulse.start()
    opened = open_audio(config.Audio(kind="card", tail_seconds=0.3, preroll_seconds=0.5, half_duplex=False))
    opened.open()
    assert isinstance(opened, SoundCard)
    yield opened
    opened.close()


def tone(seconds: float, hertz: float = 440.0) -> np.ndarray:
    t = np.arange(int(seconds * VOICE_RATE)) / VOICE_RATE
    return (8000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16)


def peak_hertz(pcm: np.ndarray) -> float:
    """The strongest frequency of a piece of microphone sound."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return float(np.argmax(spectrum) * MIC_RATE / len(pcm))


def taken(sound: SoundCard, enough: Callable[[np.ndarray, bool], bool]) -> np.ndarray:
    """Every 20 ms what the microphone has, until `enough(all of it, complete)`."""
    heard = np.zeros(0, np.int16)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        pcm, complete = sound.take()
        assert pcm.dtype == np.int16
        heard = np.concatenate([heard, pcm])
        if enough(heard, complete):
            return heard
        time.sleep(0.02)
    pytest.fail(f"the microphone gave {len(heard)} samples in 15 s, and that was not enough")


def loud(pcm: np.ndarray) -> bool:
    return bool(len(pcm)) and int(np.abs(pcm.astype(np.int32)).max()) > 1000


def test_a_tone_comes_back_with_its_frequency_and_its_length(sound: SoundCard) -> None:
    """One second of 440 Hz, in 80 ms pieces, heard whole; then the speaker is drained."""
    sound.listen(True)
    sound.begin()
    for piece in np.array_split(tone(1.0), 13):
        sound.play(piece)
    assert sound.pending > 0.5
    until(lambda: sound.pending == 0, "the speaker drains")
    assert sound.played == pytest.approx(1.0, abs=0.002)
    sound.listen(False)
    heard = taken(sound, lambda _, complete: complete)
    at = np.flatnonzero(np.abs(heard.astype(np.int32)) > 1000)
    assert (at[-1] - at[0]) / MIC_RATE == pytest.approx(1.0, abs=0.01)
    middle = heard[at[0] + 1600 : at[-1] - 1600]
    assert peak_hertz(middle) == pytest.approx(440, abs=2)
    turns = np.flatnonzero(np.diff(np.signbit(middle).astype(int)) == 1)
    assert set(np.diff(turns)) <= {36, 37}  # 36.36 samples a wave: no jump anywhere


def test_a_muted_card_gives_silence_and_forgets_what_it_heard(sound: SoundCard) -> None:
    """The ring holds nothing from before the switch; and on again, what sounds now is heard."""
    sound.begin()
    sound.play(tone(5.0))
    until(lambda: sound.played > 0.8, "the tone has sounded for a while")
    sound.mute(True)
    sound.listen(True)
    sound.listen(False)
    heard = taken(sound, lambda _, complete: complete)
    assert len(heard) > 0.2 * MIC_RATE
    assert np.abs(heard).max() <= 1  # the resampler's own dither
    sound.mute(False)
    sound.listen(True)
    assert loud(taken(sound, lambda heard, _: loud(heard)))
    sound.stop()


def test_the_preroll_holds_what_sounded_before_the_press(sound: SoundCard) -> None:
    """A press in the middle of a tone begins with half a second of it, and a clip is exact."""
    sound.begin()
    sound.play(tone(3.0))
    until(lambda: sound.played > 1.5, "the tone has sounded for a while")
    sound.listen(True)
    sound.listen(False)
    heard = taken(sound, lambda _, complete: complete)
    sound.stop()
    assert -2 <= len(heard) - (0.5 + 0.3) * MIC_RATE < (ON_ITS_WAY + JITTER) * MIC_RATE  # and what was on its way at the release
    assert peak_hertz(heard[: MIC_RATE // 2]) == pytest.approx(440, abs=3)


def test_stop_silences_the_speaker(sound: SoundCard) -> None:
    """Of ten seconds of tone, only what was out before stop() is heard."""
    sound.listen(True)
    sound.begin()
    sound.play(tone(10.0))
    taken(sound, lambda heard, _: loud(heard))
    played = sound.stop()
    assert 0 < played < 5
    assert sound.played == 0.0
    assert sound.pending <= 0.0101  # the fade: cut off in its middle, a tone would click
    taken(sound, lambda heard, _: len(heard) > MIC_RATE and not loud(heard[-MIC_RATE // 2 :]))


def test_an_underflow_swallows_none_of_the_words_that_follow(sound: SoundCard) -> None:
    """The speaker's callback stands still for 0.3 s; afterwards the sound goes on no faster than time."""
    sound.begin()
    sound.play(tone(30.0))
    until(lambda: sound.played > 0.2, "the tone sounds")
    for _ in range(3):  # not every stall does it
        with sound._lock:
            time.sleep(0.3)
        before, began = sound.played, time.monotonic()
        time.sleep(1.0)
        assert sound.played - before < time.monotonic() - began + 0.5
    sound.stop()


def test_a_voice_that_is_cut_off_leaves_a_fade_of_10_ms_for_the_card() -> None:
    """What stop() leaves in the queue of a card that nobody drains: the beginning of what was to come, down to nothing."""
    card = SoundCard(config.Audio(kind="card"))
    card._speaker_rate = VOICE_RATE
    card.begin()
    card.play(np.full(VOICE_RATE, 8000, np.int16))
    card.stop()
    left = np.frombuffer(bytes(card._queue), np.int16)
    assert len(left) == VOICE_RATE // 100
    assert (left[0], left[-1]) == (8000, 0)


def test_a_wrong_name_lists_the_cards(pulse: Pulse) -> None:
    """The sentence names the setting, the value and what is there."""
    pytest.importorskip("pyaudio", reason="the audio extra is not installed")
    with pytest.raises(SoundLost, match=r"audio\.input = 'Jabra'.*'default'"):
        open_audio(config.Audio(kind="card", input="Jabra")).open()


def test_a_card_that_disappears_is_noticed_and_comes_back(pulse: Pulse, sound: SoundCard) -> None:
    """PulseAudio dies: alive() says so, reopen() fails in words; it returns: sound again."""
    assert sound.alive()
    pulse.kill()
    until(lambda: not sound.alive(), "the loss is noticed", seconds=5)
    sound.play(tone(0.1))
    sound.listen(True)
    sound.take()
    with pytest.raises(SoundLost):
        sound.reopen()
    assert not sound.alive()
    pulse.start()
    sound.reopen()
    assert sound.alive()
    sound.listen(True)
    sound.play(tone(0.5))
    heard = taken(sound, lambda heard, _: loud(heard))
    assert len(heard)


def test_quiet_silences_libraries_and_gives_the_descriptor_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What C code writes inside is gone; what is written afterwards is not."""
    with quiet():
        os.write(2, b"ALSA lib confmisc.c: noise\n")
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_what_is_logged_while_a_card_is_looked_for_is_not_lost() -> None:
    program = (
        "import os; from device import logs; from device.cards import quiet; logs.setup()\n"
        "with quiet():\n    logs.log('state', now='fault'); os.write(2, b'ALSA lib')\nlogs.log('after')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines() == ["state now=fault", "after"]
