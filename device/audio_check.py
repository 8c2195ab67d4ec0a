"""Which sound cards there are, whether ours works both ways, how the microphone's gain should stand: `bedside audio`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from device.audio import SoundLost
from device.levels import SILENT, Level, advice, level, tone
from device.turn import MIC_RATE, VOICE_RATE
from device.volume import at_volume

if TYPE_CHECKING:
    from device.config import Settings
    from device.soundcard import SoundCard

HERTZ, LOUD = 1000.0, 0.3  # of the tone, and its share of full scale
TONE, QUIET, SPEECH = 1.5, 2.0, 5.0  # s
HEARD = 12.0  # dB that the tone must stand above what was there without it
LOOK = 0.02  # s between two looks at the card
PATIENCE = 5.0  # s beyond what was asked for that a recording may take


def devices(arguments: argparse.Namespace) -> int:
    from device.cards import quiet

    settings = _settings(arguments)
    try:
        import pyaudio
    except ImportError:
        raise SoundLost("audio.kind = 'card' needs PyAudio: pip install 'bedside-companion[audio]'.") from None
    with quiet():
        pa = pyaudio.PyAudio()
    try:
        cards = [dict(pa.get_device_info_by_index(i)) for i in range(pa.get_device_count())]
        chosen = {way: _chosen(pa, cards, way, getattr(settings.audio, way)) for way in ("input", "output")}
    finally:
        with quiet():
            pa.terminate()
    if not cards:
        raise SoundLost("There is no sound card at all: plug one in, or see 'aplay -l'.")
    print(f"{'':2}{'in':>3}{'out':>4}{'Hz':>8}  name")
    for card in cards:
        mark = "".join(letter if chosen[way] == card["index"] else " " for letter, way in (("<", "input"), (">", "output")))
        print(f"{mark}{card['maxInputChannels']:>3}{card['maxOutputChannels']:>4}{card['defaultSampleRate']:>8.0f}  {card['name']}")
    for way, sign in (("input", "<"), ("output", ">")):
        part = getattr(settings.audio, way)
        found = "marked " + sign if chosen[way] is not None else "which fits none of them"
        print(f"audio.{way} = '{part}', {found}" if part else f"audio.{way} is empty: the default, {found}")
    keys = ("index", "name", "maxInputChannels", "maxOutputChannels", "defaultSampleRate")
    _write(arguments.json, {"cards": [{key: card[key] for key in keys} for card in cards], "chosen": chosen})
    return 0 if None not in chosen.values() else 1


def _chosen(pa: Any, cards: list[dict[str, Any]], way: str, part: str) -> int | None:
    key = "maxInputChannels" if way == "input" else "maxOutputChannels"
    if part:
        fitting = [card for card in cards if card[key] > 0 and part.lower() in str(card["name"]).lower()]
        return int(fitting[0]["index"]) if fitting else None
    try:
        return int(getattr(pa, f"get_default_{way}_device_info")()["index"])
    except OSError:
        return None


def test(arguments: argparse.Namespace) -> int:
    """1 unless the microphone gives sound and hears the tone."""
    settings = _settings(arguments)
    with opened(settings) as card:
        print(f"The card gave its first sample after {card.opened:.1f} s. Be quiet for {QUIET + TONE:.0f} s, please.", flush=True)
        room = card.record(QUIET)
        at = np.arange(int(TONE * VOICE_RATE))
        sound = (np.sin(2 * np.pi * HERTZ * at / VOICE_RATE) * LOUD * 32767).astype(np.int16)
        card.play(at_volume(sound, settings.audio.volume))
        heard = card.record(TONE)
    before, during = tone(room, MIC_RATE, HERTZ), tone(heard[len(heard) // 4 : len(heard) // 2], MIC_RATE, HERTZ)
    found = level(room, MIC_RATE)
    print(_line("room", found))
    print(f"tone of {HERTZ:.0f} Hz at volume {settings.audio.volume}: {during:.0f} dB heard, {before:.0f} dB without it")
    wrong = ""
    if during - before < HEARD:
        deaf = "The microphone does not hear the speaker: is it on, its volume up (alsamixer), and audio.output the right card?"
        wrong = advice(found) if found.peak <= SILENT else deaf
    _write(arguments.json, {"opened_s": card.opened, "room": asdict(found), "tone_db": during, "without_db": before, "wrong": wrong})
    return _verdict(wrong, "The card works, both ways.")


def calibrate(arguments: argparse.Namespace) -> int:
    """1 while something should be done about the microphone."""
    settings = _settings(arguments)
    with opened(settings) as card:
        print(f"Be quiet for {QUIET:.0f} s, please.", flush=True)
        room = level(card.record(QUIET), MIC_RATE)
        print(_line("room", room))
        wrong, speech = advice(room), None
        if not wrong:
            print(f"Now speak as the patient would, from where they lie, for {SPEECH:.0f} s.", flush=True)
            speech = level(card.record(SPEECH), MIC_RATE)
            print(_line("speech", speech))
            wrong = advice(room, speech)
    _write(arguments.json, {"room": asdict(room), "speech": speech and asdict(speech), "wrong": wrong})
    return _verdict(wrong, "The gain is right.")


class opened:
    """The settings' card for a `with` block. `opened`: s that it took to its first sample. Entering raises SoundLost."""

    def __init__(self, settings: Settings) -> None:
        from device.soundcard import SoundCard

        if settings.audio.kind != "card":
            raise SoundLost(f"audio.kind is '{settings.audio.kind}': these commands measure a card; set it to 'card'.")
        self._card: SoundCard = SoundCard(settings.audio.model_copy(update={"half_duplex": False}))  # it is to hear itself
        self.opened = 0.0

    def __enter__(self) -> opened:
        began = time.monotonic()
        self._card.open()
        self.opened = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._card.close()

    def play(self, pcm: np.ndarray) -> None:
        self._card.play(pcm)

    def record(self, seconds: float) -> np.ndarray:
        """int16 samples at MIC_RATE of `seconds` from now on, without the pre-roll. Raises SoundLost."""
        self._card.listen(True)
        began, parts, ended = time.monotonic(), [], False
        while True:
            pcm, complete = self._card.take()
            parts.append(pcm)
            now = time.monotonic() - began
            if complete:
                break
            if now >= seconds and not ended:
                self._card.listen(False)
                ended = True
            if now > seconds + PATIENCE or not self._card.alive():
                raise SoundLost("The sound card stopped giving samples: is it still plugged in?")
            time.sleep(LOOK)
        return np.concatenate(parts)[-round(seconds * MIC_RATE) :]


def _line(name: str, found: Level) -> str:
    clipped = f", {found.clipped:.1%} clipped" if found.clipped else ""
    return f"{name}: {found.rms:.0f} dB, peak {found.peak:.0f} dB, floor {found.floor:.0f} dB{clipped}"


def _verdict(wrong: str, right: str) -> int:
    print(wrong or right, file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


def _settings(arguments: argparse.Namespace) -> Settings:
    from device import config, logs

    settings = config.load(arguments.config)
    logs.setup("warning")  # the command itself says how the card stands
    return settings


def _write(file: str | None, figures: dict[str, Any]) -> None:
    if file:
        Path(file).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
