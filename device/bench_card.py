"""`bedside bench sound`: a card that comes and goes, words at the edges of a press, the device's own voice, silence after a press.

All on the real PortAudio and a private PulseAudio whose null sink's monitor is the microphone: what is played is heard.
It measures no converter and no room.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from device import logs, sounds, wavs
from device.audio import SoundLost
from device.bench_report import check
from device.bench_sound import CountingCard, Pulse, sound_server
from device.config import FIRMWARE, ROOT, Settings
from device.demo import home, simulated, until
from device.levels import decibels
from device.turn import MIC_RATE, VOICE_RATE
from device.volume import VOLUMES, at_volume

PARTS = ("pulls", "words", "own", "silence")
LIMIT = 3.0  # s that the device may be deaf after the card is back, at p95
SILENT = 0.1  # s from stop() to the last sound
AWAY = 0.2, 1.7  # s that a card is away, in turn; less than a look, and longer than it takes to be missed
LOUD = 300  # of 32,767: what is no longer silence
UTTERANCES = 20
PATIENCE = 30.0  # s that anything may take
SPEECH = ROOT / "tests/data/speech"


class Probe(CountingCard):
    """Also remembers when it spoke and heard something loud, by the count of samples. All in monotonic seconds."""

    heard_at = 0.0  # the end of the last block
    spoke_at = loud_from = loud_at = 0.0  # since begin(): the first sample of sound leaves; the first and last loud one that came back

    def begin(self) -> None:
        super().begin()
        self.spoke_at = self.loud_from = 0.0

    @property
    def way(self) -> float:
        """Seconds from the speaker to the microphone, as it was at the beginning of this utterance."""
        return self.loud_from - self.spoke_at

    def _speak(self, raw: None, frames: int, when: Any, status: int) -> tuple[bytes, int]:
        if self._queue and not self.spoke_at:
            self.spoke_at = time.monotonic() + self._latency
        return super()._speak(raw, frames, when, status)

    def _hear(self, raw: bytes, frames: int, when: Any, status: int) -> tuple[None, int]:
        out = super()._hear(raw, frames, when, status)
        now = time.monotonic()
        end, self.heard_at = now - self._duplex.behind(now), now
        loud = np.flatnonzero(np.abs(np.frombuffer(raw, np.int16)[:: self._mic_width // 2].astype(int)) > LOUD)
        if len(loud):
            self.loud_at = end - (frames - int(loud[-1])) / self._mic_rate
            self.loud_from = self.loud_from or end - (frames - int(loud[0])) / self._mic_rate
        return out


def bench_sound(settings: Settings, parts: list[str], pulls: int, report: str | None) -> int:
    """Print the figures of `parts` (none: all). 1: a limit is missed. Raises OSError where there is no PulseAudio or PyAudio."""
    check(report, None)
    logs.setup("error")
    figures: dict[str, Any] = {}
    measure: dict[str, Callable[[Settings, Pulse], dict[str, Any]]] = {
        "pulls": lambda settings, server: anyio.run(_pulls, settings, server, pulls),
        "words": _words,
        "own": _own,
        "silence": _silence,
    }
    for part in parts or PARTS:
        with sound_server() as server, tempfile.TemporaryDirectory(prefix="bedside-sound-") as folder:
            if server is None:
                raise OSError("bench sound needs PulseAudio and PyAudio: apt-get install pulseaudio pulseaudio-utils, pip install pyaudio")
            own = simulated(settings, Path(folder), "")
            audio = own.audio.model_copy(update={"kind": "card", "input": "", "output": "", "half_duplex": False})
            figures[part] = measure[part](own.model_copy(update={"audio": audio}), server)
            print(figures[part].pop("line"), flush=True)
    if report:
        Path(report).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    missed = [sentence for part in figures.values() for sentence in part["missed"]]
    for sentence in missed:
        print(f"MISSED: {sentence}")
    return 1 if missed else 0


async def _pulls(settings: Settings, server: Pulse, pulls: int) -> dict[str, Any]:
    """The card goes `pulls` times, by its sink and by its whole server in turn, under the running companion.

    It runs in this process: where PortAudio's own threads crash, the bench dies with it.
    """
    card, deaf, noticed, heard = Probe(settings.audio), [], [], 0
    async with home(settings, card, lambda kind, value: None) as (companion, _):
        await until(card.alive, 20, "the sound card")
        for number, away in zip(range(pulls), itertools.cycle(AWAY), strict=False):
            whole = number // 2 % 2 == 1
            gone = time.monotonic()
            await anyio.to_thread.run_sync(server.kill if whole else server.pull)
            await anyio.sleep(away)
            if away > 1:
                noticed.append(not card.alive())
            await anyio.to_thread.run_sync(server.start if whole else server.plug)
            back = time.monotonic()
            await until(lambda: card.alive() and card.heard_at > back, 60, f"the sound after pull {number + 1}")  # noqa: B023
            deaf.append(time.monotonic() - back)
            companion.audio.play(_tone(0.2))
            began = time.monotonic()
            while card.loud_at < began and time.monotonic() < began + 2:
                await anyio.sleep(0.02)
            heard += card.loud_at > began
            print(f"\rpull {number + 1} of {pulls}: away {back - gone:.1f} s, deaf {deaf[-1]:.2f} s", end="", flush=True)
    print("\r", end="")
    p50, p95, most = np.percentile(deaf, (50, 95, 100))
    missed = [f"deaf for {p95:.2f} s (p95) after the card was back; the limit is {LIMIT:.0f} s"] if p95 > LIMIT else []
    missed += [f"after {pulls - heard} of {pulls} pulls its own tone was not heard"] if heard < pulls else []
    missed += [f"{noticed.count(False)} of {len(noticed)} cards that were away were not missed"] if not all(noticed) else []
    line = (
        f"card pulled {pulls} times: deaf p50 {p50:.2f} s, p95 {p95:.2f} s, longest {most:.2f} s; a tone was heard after {heard}"
    )
    return {"line": line, "missed": missed, "pulls": pulls, "deaf_s": [round(value, 3) for value in deaf], "heard": heard}


def _words(settings: Settings, server: Pulse) -> dict[str, Any]:
    """Speech through the speaker; the button -300 to +300 ms around its first and last sample. What of it is missing in the clip."""
    card = _opened(settings)
    lost = []
    clips = sorted(SPEECH.glob("*.wav"), key=lambda file: file.stat().st_size)[:4]
    for number in range(UTTERANCES):
        offset = 0.6 * number / (UTTERANCES - 1) - 0.3
        words, original = wavs.read(clips[number % 4], VOICE_RATE), wavs.read(clips[number % 4], MIC_RATE)
        loud = np.flatnonzero(np.abs(original.astype(int)) > np.abs(original.astype(int)).max() / 100) / MIC_RATE
        card.begin()
        card.play(np.concatenate([np.zeros(VOICE_RATE, np.int16), words, np.zeros(VOICE_RATE, np.int16)]))
        heard: list[np.ndarray] = []
        for at, on in ((1 + loud[0] + offset, True), (1 + loud[-1] - offset, False)):
            _wait(card, at, heard)
            card.listen(on)
        while True:
            pcm, complete = card.take()
            heard.append(pcm)
            if complete:
                break
            time.sleep(0.01)
        card.stop()
        clip = np.concatenate(heard)
        begin = _place(clip, original) / MIC_RATE  # of the first sample of `original` in the clip
        lost.append(max(0.0, -(begin + loud[0]), begin + loud[-1] - len(clip) / MIC_RATE))
        time.sleep(0.3)
    card.close()
    whole = sum(value == 0 for value in lost)
    line = f"words at the edges: {whole} of {UTTERANCES} utterances whole, at most {max(lost) * 1000:.0f} ms of one lost"
    missed = [] if whole == UTTERANCES else [f"of {UTTERANCES - whole} utterances up to {max(lost) * 1000:.0f} ms were lost"]
    return {"line": line, "missed": missed, "lost_ms": [round(value * 1000, 1) for value in lost]}


def _own(settings: Settings, server: Pulse) -> dict[str, Any]:
    """What a press hears of the device's own voice, in its middle and at its end, at each volume; and what it would hear without."""
    rows, message = {}, sounds.load(FIRMWARE / "sounds")["starting"]
    for half in (False, True):
        card = _opened(settings.model_copy(update={"audio": settings.audio.model_copy(update={"half_duplex": half})}))
        for volume in range(1, len(VOLUMES) + 1):
            peaks = []
            for at_end in (False, True):
                card.begin()
                card.play(at_volume(message, volume))
                _wait(card, len(message) / VOICE_RATE if at_end else 1.0)
                card.stop()
                peaks.append(int(np.abs(_clip(card, 0.5).astype(int)).max()))
                time.sleep(0.8)
            rows[f"{volume}{'' if half else ' without'}"] = [round(decibels(peak / 32768), 1) for peak in peaks]
        card.close()
    worst = max(value for name, row in rows.items() if "without" not in name for value in row)
    without = min(row[0] for name, row in rows.items() if "without" in name)
    line = f"its own voice in a press, at five volumes: at most {worst:.0f} dB of full scale; without half duplex {without:.0f} dB and more"
    missed = [f"a press heard the device's own voice at {worst:.0f} dB"] if worst > -80 else []
    return {"line": line, "missed": missed, "db": rows}


def _silence(settings: Settings, server: Pulse) -> dict[str, Any]:
    """From stop() to the last loud sample, by the microphone's count of samples, less the way to it."""
    card, after = _opened(settings), []
    for number in range(20):
        card.begin()
        card.play(_tone(10.0))
        _wait(card, 0.5 + 0.013 * number)
        stopped = time.monotonic()
        card.stop()
        time.sleep(0.6)
        after.append(card.loud_at - stopped - card.way)
    card.close()
    most = max(after)
    line = f"silence after a press into the voice: {np.median(after) * 1000:.0f} ms (p50), at most {most * 1000:.0f} ms, of 20"
    missed = [f"the voice sounded for {most * 1000:.0f} ms after a press"] if most > SILENT else []
    return {"line": line, "missed": missed, "ms": [round(value * 1000, 1) for value in after]}


def _wait(card: Probe, played: float, heard: list[np.ndarray] | None = None) -> None:
    """Until so many seconds, or all, are played; what the card hears meanwhile is added to `heard`. Raises SoundLost."""
    deadline = time.monotonic() + PATIENCE
    while card.played < played and card.pending:
        if heard is not None:
            heard.append(card.take()[0])
        if time.monotonic() > deadline or not card.alive():
            raise SoundLost("The sound card stopped playing.")
        time.sleep(0.002)


def _opened(settings: Settings) -> Probe:
    card = Probe(settings.audio)
    card.open()
    time.sleep(1.0)  # the ring is full
    return card


def _clip(card: Probe, seconds: float) -> np.ndarray:
    """What a press of so many seconds hears, from now on, pre-roll and tail with it."""
    card.listen(True)
    time.sleep(seconds)
    card.listen(False)
    heard, complete = [], False
    while not complete:
        pcm, complete = card.take()
        heard.append(pcm)
        time.sleep(0.01)
    return np.concatenate(heard)


def _place(clip: np.ndarray, original: np.ndarray) -> int:
    """Where the first sample of `original` lies in `clip`, which may lack its ends."""
    size = 1 << (len(clip) + len(original)).bit_length()
    alike = np.fft.irfft(np.fft.rfft(clip.astype(float), size) * np.conj(np.fft.rfft(original.astype(float), size)), size)
    at = int(np.argmax(alike))
    return at if at < len(clip) else at - size


def _tone(seconds: float) -> np.ndarray:
    at = np.arange(int(seconds * VOICE_RATE)) / VOICE_RATE
    return (8000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)
