"""The real sound card, through PyAudio: callbacks that only copy and measure, resampling outside them.

It does not know what is said or why, and it never re-opens itself: the loop looks at `alive()`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np

from device.audio import SoundLost, SoundSilent
from device.cards import find_card, quiet
from device.config import Audio as AudioSettings
from device.half_duplex import HalfDuplex
from device.levels import MINUTE, Meter
from device.limiter import Limiter
from device.turn import MIC_RATE, VOICE_RATE
from device.wavs import faded

# Blocks of the card, in seconds. Up to four are on their way, and the fade follows: 22 ms keeps a barge-in's silence at 98 ms, 25 ms
# had 110 when the press came just behind a block. 20 ms blocks at 24 kHz lost phase 3 times in 6 s of load. The microphone can wait.
SPEAKER_BLOCK = 0.022
MIC_BLOCK = 0.04
INPUT_LOST = 2  # PortAudio's paInputOverflow: samples of the microphone were lost before this block
FADE = 0.01  # s in which a voice that is cut off dies away
ON_ITS_WAY = 0.5  # s of sound that may be captured and not delivered: a machine that stood still for a moment
JITTER = 0.03  # s by which blocks come earlier or later, and that the card keeps them: with 0.01, 15 ms of 1 word in 20 were lost
QUIET_TOO_LONG = 1.5  # s without a sample: the card is gone
FIRST_SAMPLE = 6.0  # s that a card may take to start; PulseAudio takes 1.1 to 1.9
# What PulseAudio holds of the speaker. Left to ALSA's plugin it is two blocks, and then one late block never comes
# alone: PortAudio starts again with one block, which runs dry at once, and so on: 250 to 2000 blocks a second that
# nobody hears, for seconds where other programs are busy (28 s of speech were swallowed after a stall of 0.3 s).
# With this a stall of 80 ms is none, a longer one is one underflow, and a voice cut off is silent no later.
PULSE_LATENCY = 80  # ms


class SoundCard:
    """A PyAudio card at its own rate: a stream each way (one full-duplex stream lost phase 13 times in 6 s where two lost none)."""

    def __init__(self, settings: AudioSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()  # held for a copy at most
        self._muted = False
        self._pa: Any = None
        self._streams: list[Any] = []
        self._door = threading.Lock()  # a stream is asked or taken away to be closed, never both
        self._forget()

    def _forget(self) -> None:
        """A fresh card: nothing heard, nothing queued."""
        self._mic_at = self._speaker_at = 0.0
        self._mic_rate, self._speaker_rate = MIC_RATE, VOICE_RATE
        self._mic_width = self._speaker_width = 2  # bytes a frame
        self._preroll_bytes = 0
        self._duplex = HalfDuplex(MIC_RATE)
        self._ring: deque[bytes] = deque(maxlen=1)  # in memory only, and never longer
        self.meter = Meter(round(MINUTE / MIC_BLOCK))  # of what a clip may have: not its own voice, nothing while muted
        self._fresh: list[bytes] = []
        self._clip_on, self._complete = False, False
        self._left: int | None = None  # bytes of the clip still to be taken, once released
        self._queue = bytearray()
        self._leaving: deque[tuple[float, int]] = deque()  # (when it has left, frames)
        self._latency = 0.0
        self._played = 0
        self._to_mic_rate: Any = None
        self._to_card_rate: Any = None  # lives while the queue does not run dry
        self._limiter = Limiter(VOICE_RATE)

    def open(self) -> None:
        """Start both streams and wait for the first sample (about 2 s). Raises SoundLost."""
        self._forget()
        try:
            import pyaudio

            os.environ.setdefault("PULSE_LATENCY_MSEC", str(PULSE_LATENCY))  # libpulse reads it
            with quiet():
                self._pa = pyaudio.PyAudio()
                self._open_mic(pyaudio)
                self._open_speaker(pyaudio)
        except ImportError:
            raise SoundLost("audio.kind = 'card' needs PyAudio: pip install 'bedside-companion[audio]'.") from None
        except SoundLost:
            self.close()
            raise
        except Exception as error:  # PortAudio raises OSError, and others for a card that left
            self.close()
            raise SoundLost(f"The sound card won't open ({error}): is it plugged in?") from error
        deadline = time.monotonic() + FIRST_SAMPLE
        while not (self._mic_at and self._speaker_at):
            if not all(stream.is_active() for stream in self._streams):
                self.close()
                raise SoundLost("The sound card left while it was being opened: is it plugged in?")
            if time.monotonic() > deadline:
                self.close()
                raise SoundSilent(f"The sound card gave no sample in {FIRST_SAMPLE:.0f} s: is another program holding it?")
            time.sleep(0.01)

    def reopen(self) -> None:
        """Close, look for the cards anew and open. Raises SoundLost."""
        self.close()
        self.open()

    def close(self) -> None:
        with self._door:
            streams, self._streams = self._streams, []
        pa, self._pa = self._pa, None
        with quiet():
            for stream in streams:
                with suppress(Exception):  # a card that left can't be closed properly
                    stream.close()
            if pa is not None:
                with suppress(Exception):
                    pa.terminate()

    def alive(self) -> bool:
        """Whether samples flowed both ways within the last 1.5 s, and PortAudio has not given up a card that left (it does at once)."""
        oldest = min(self._mic_at, self._speaker_at)
        if time.monotonic() - oldest >= QUIET_TOO_LONG:
            return False
        with self._door:
            return bool(self._streams) and all(stream.is_active() for stream in self._streams)

    def flow(self) -> tuple[float, float]:
        """When the last sample came and the last one went, in monotonic seconds."""
        return self._mic_at, self._speaker_at

    def listen(self, on: bool) -> None:
        """True: a clip begins, with the pre-roll. False: it ends once the tail is in."""
        with self._lock:
            if on:
                before = b"".join(self._ring)
                self._fresh = [before[max(len(before) - self._preroll_bytes, 0) :]]
                self._to_mic_rate = _resampler(self._mic_rate, MIC_RATE)
                self._clip_on, self._complete, self._left = True, False, None
            elif self._clip_on and self._left is None:
                now = sum(map(len, self._fresh))
                # What was said before the release and is still on its way is not the tail yet.
                seconds = self._settings.tail_seconds + min(self._duplex.behind(time.monotonic()), ON_ITS_WAY) + JITTER
                self._left = now + int(seconds * self._mic_rate) * self._mic_width

    def take(self) -> tuple[np.ndarray, bool]:
        """(samples captured since the last take, whether the clip is complete)."""
        with self._lock:
            if not self._clip_on:
                return np.zeros(0, np.int16), self._complete
            raw, self._fresh = b"".join(self._fresh), []
            if self._left is not None:
                raw = raw[: self._left]
                self._left -= len(raw)
                self._complete = self._left == 0
                self._clip_on = not self._complete
        pcm = np.frombuffer(raw, np.int16)[:: self._mic_width // 2]
        if self._to_mic_rate is not None:
            pcm = self._to_mic_rate.resample_chunk(pcm, last=self._complete)
        return pcm, self._complete

    def mute(self, on: bool) -> None:
        """True: from now on the microphone gives silence, and what the ring holds from before is forgotten. From any thread."""
        with self._lock:
            self._muted = on
            self._ring.clear()
            self._fresh = [bytes(len(block)) for block in self._fresh]

    def begin(self) -> None:
        """A new utterance: `played` counts from zero."""
        with self._lock:
            self._settle()
            self._played = 0

    def play(self, pcm: np.ndarray) -> None:
        """Append to the speaker's queue (a frame takes 0.2 ms to 48 kHz, a message of 10 s 20 ms)."""
        sound = np.ascontiguousarray(pcm, np.float32)  # whole numbers stay what they are
        if self._to_card_rate is None and self._speaker_rate != VOICE_RATE:
            self._to_card_rate = _resampler(VOICE_RATE, self._speaker_rate, "float32")
        if self._to_card_rate is not None:
            sound = self._to_card_rate.resample_chunk(sound)  # peaks between the samples may be over full scale now
        sound = self._limiter.limit(sound)
        with self._lock:
            self._enqueue(sound)

    def stop(self) -> float:
        """Drop the queue but for a fade; silence within 100 ms. Returns what `played` ends at, then resets it.

        The blocks that the card holds already can't be recalled, so they count as played.
        """
        with self._lock:
            fade = int(FADE * self._speaker_rate) * self._speaker_width // 2
            self._queue[:] = faded(np.frombuffer(bytes(self._queue), np.int16), fade).tobytes()
            played = self._played + sum(frames for _, frames in self._leaving)
            self._leaving.clear()
            self._played = 0
            self._to_card_rate, self._limiter = None, Limiter(self._speaker_rate)
        return played / self._speaker_rate

    @property
    def played(self) -> float:
        """Seconds of audio that left the speaker since begin() or stop()."""
        with self._lock:
            self._settle()
            return self._played / self._speaker_rate

    @property
    def pending(self) -> float:
        """Seconds that have not left the speaker yet; 0 is drained."""
        with self._lock:
            self._settle()
            return (len(self._queue) // self._speaker_width + sum(n for _, n in self._leaving)) / self._speaker_rate

    def _open_mic(self, pyaudio: Any) -> None:
        index, self._mic_rate = find_card(self._pa, "input", self._settings.input)
        block = round(MIC_BLOCK * self._mic_rate)
        stream, channels = self._start(pyaudio, block, self._mic_rate, self._hear, input=True, input_device_index=index)
        self._mic_width = 2 * channels
        preroll = int(self._settings.preroll_seconds * self._mic_rate)
        with self._lock:
            self._duplex = HalfDuplex(self._mic_rate, stream.get_input_latency())
            self._preroll_bytes = preroll * self._mic_width
            self._ring = deque(maxlen=-(-preroll // block) or 1)
        stream.start_stream()

    def _open_speaker(self, pyaudio: Any) -> None:
        index, self._speaker_rate = find_card(self._pa, "output", self._settings.output)
        block = round(SPEAKER_BLOCK * self._speaker_rate)
        stream, channels = self._start(pyaudio, block, self._speaker_rate, self._speak, output=True, output_device_index=index)
        self._speaker_width, self._limiter = 2 * channels, Limiter(self._speaker_rate)
        self._latency = stream.get_output_latency()
        stream.start_stream()

    def _start(self, pyaudio: Any, block: int, rate: int, callback: Any, **way: Any) -> tuple[Any, int]:
        """A stream, not started, and its channels: one, or two on a card that has no mono."""
        common = {"rate": rate, "format": pyaudio.paInt16, "frames_per_buffer": block, "stream_callback": callback, "start": False}
        for channels in (1, 2):
            try:
                stream = self._pa.open(channels=channels, **common, **way)
            except (OSError, ValueError):
                if channels == 2:
                    raise
            else:
                self._streams.append(stream)
                return stream, channels
        raise AssertionError("unreachable")

    def _hear(self, raw: bytes, frames: int, when: Any, status: int) -> tuple[None, int]:
        now = time.monotonic()
        with self._lock:
            own = self._duplex.hear(now, frames, bool(status & INPUT_LOST)) and self._settings.half_duplex
            if self._muted or own:
                raw = bytes(len(raw))
            elif frames:
                self.meter.hear(np.frombuffer(raw, np.int16)[:: self._mic_width // 2])
            self._ring.append(raw)
            if self._clip_on:
                self._fresh.append(raw)
        self._mic_at = now
        return None, 0  # paContinue

    def _speak(self, raw: None, frames: int, when: Any, status: int) -> tuple[bytes, int]:
        wanted = frames * self._speaker_width
        now = time.monotonic()
        with self._lock:
            sound = bytes(self._queue[:wanted])
            del self._queue[:wanted]
            if sound:
                size = len(sound) // self._speaker_width
                left = now + self._latency + size / self._speaker_rate  # its last sample
                self._leaving.append((left, size))
                self._duplex.spoke(now, left)
        self._speaker_at = now
        return sound.ljust(wanted, b"\0"), 0  # paContinue

    def _enqueue(self, pcm: np.ndarray) -> None:
        self._queue += np.repeat(pcm, self._speaker_width // 2).tobytes()

    def _settle(self) -> None:
        """Count the blocks that have left the speaker by now. Called with the lock held."""
        ahead = len(self._queue) / self._speaker_width / self._speaker_rate
        if ahead < 2 * SPEAKER_BLOCK:
            # soxr keeps the last 14 ms until it is told that the end has come, the limiter 5.
            if self._to_card_rate is not None:
                self._enqueue(self._limiter.limit(self._to_card_rate.resample_chunk(np.zeros(0, np.float32), last=True)))
                self._to_card_rate = None
            self._enqueue(self._limiter.flush())
        now = time.monotonic()
        while self._leaving and self._leaving[0][0] <= now:
            self._played += self._leaving.popleft()[1]


def _resampler(source: int, target: int, kind: str = "int16") -> Any:
    """A streaming resampler, or None where there is nothing to do."""
    import soxr

    if source == target:
        return None
    return soxr.ResampleStream(source, target, 1, dtype=kind)
