"""Words through the whole device: answered aloud, heard to their edges, and its own voice no turn. Scenarios of the container's bench.

The device hears with whisper-tiny; what it answers is written down here with whisper-base.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import soxr

from device import wavs
from device.bench import normaliser, word_errors
from device.turn import MIC_RATE, VOICE_RATE
from device.volume import VOLUMES
from vm.bench_files import CONFIG
from vm.nspawn import MODELS, ROOT, Container, until
from vm.person import CLIPS, CYAN, GREEN, LOAD, Recorder, place, ready, shows

UTTERANCES, EDGE = 20, 0.3  # s that the button is late or early at most
CLEAR = ("LJ001-0002.wav", "LJ001-0008.wav", "LJ001-0013.wav", "LJ001-0020.wav")  # of tests/data/speech
AROUND = 1.0  # s of silence before and after a clip
MISHEARD = 0.25  # share of the answers' words that whisper-base may write otherwise
PRESS = 1.0  # s
Words = Callable[[str], list[str]]


def answer(home: Container) -> str:
    """Recordings are said; what leaves the speaker is written down and held against the words that the memory has."""
    from device.voice.listen import Listener
    from device.voice.load import hush_libraries

    hush_libraries()
    ears, words, wrong, count = Listener("embedded:whisper-base", MODELS), normaliser(), 0, 0
    ready(home)
    for name in CLEAR:
        record = Recorder(home, 25)
        _heard(home, words, name, -EDGE)
        reply = words(home.turns()[-1]["reply"])
        spoken = soxr.resample(record.sound().astype(np.int16), VOICE_RATE, MIC_RATE)
        heard = words(ears.transcribe(spoken).text)
        print(f"  answered: {' '.join(reply)}\n  heard:    {' '.join(heard)}", flush=True)
        wrong, count = wrong + word_errors(reply, heard), count + len(reply)
    assert wrong <= MISHEARD * count, f"{wrong} of {count} words of the answers were not understood"
    return f"{len(CLEAR)} recordings said, {len(CLEAR)} answered aloud; {wrong} of the answers' {count} words written down otherwise"


def edges(home: Container) -> str:
    """The button from 300 ms before to 300 ms after the first sound of an utterance, and as much around its last one."""
    words, off, lost = normaliser(), [], []
    ready(home)
    wide = {name: _heard(home, words, name, -2 * EDGE)[0] for name in CLEAR}
    for number, name in zip(range(UTTERANCES), itertools.cycle(CLEAR), strict=False):
        said, begun, ended = _heard(home, words, name, 2 * EDGE * number / (UTTERANCES - 1) - EDGE)
        off += [begun, ended]
        print(f"  {name} pressed {begun * 1000:+.0f} ms, released {ended * 1000:+.0f} ms: {' '.join(said)}", flush=True)
        if said[:1] != wide[name][:1] or said[-1:] != wide[name][-1:]:
            lost.append(f"{name} ({begun * 1000:+.0f}, {ended * 1000:+.0f} ms): {' '.join(said)}, not {' '.join(wide[name])}")
    range_ = f"{min(off) * 1000:+.0f} to {max(off) * 1000:+.0f} ms"
    assert max(min(off), -max(off)) < 0.05 - EDGE, f"the bench's own hand was off: {range_}"
    assert not lost, "; ".join(lost)
    return f"{UTTERANCES} utterances, the button {range_} around the first and the last sound: none lost a word"


def own_voice(home: Container) -> str:
    """The speaker sounds into the microphone; a press into an answer and one at its end, at each volume, are no turn."""
    wrong: list[str] = []
    try:
        for volume in range(1, len(VOLUMES) + 1):
            wrong += [f"volume {volume}: {said!r}" for said in _echoed(home, volume, "")]
        without = _echoed(home, len(VOLUMES), "half_duplex = false")
    finally:
        home.configure(CONFIG)
        home.run("systemctl", "restart", "bench-sound", "bedside-companion", timeout=LOAD)
    assert not wrong, "; ".join(wrong)
    assert without, "without half duplex nothing was heard, either: the bench's echo does not work"
    meter = f"without half duplex {len(without)}: {without[0]!r}"
    return f"{len(VOLUMES)} volumes, a press into the answer and one at its end: 0 turns; {meter}"


def _echoed(home: Container, volume: int, more: str) -> list[str]:
    """What of its own voice became turns."""
    home.configure(CONFIG.replace('kind = "card"', f'kind = "card"\nvolume = {volume}\n{more}'))
    home.run("systemctl", "restart", "bedside-companion", timeout=LOAD)
    ready(home)
    home.run("sh", "-c", "pactl list short modules | grep -q loopback || "
             "pactl load-module module-loopback source=speaker.monitor sink=microphone latency_msec=20")  # fmt: skip
    out = []
    for into in (True, False):
        before = len(home.turns())
        spoke = shows(home, CYAN, 60, _say(home, CLEAR[0], -EDGE)[2])
        if into:
            time.sleep(max(0.0, spoke + PRESS - time.monotonic()))
        else:
            shows(home, GREEN, 60, spoke)
        home.hands("BOARD7 0")
        time.sleep(PRESS)
        home.hands("BOARD7 1")
        time.sleep(PRESS)
        ready(home)
        asked, *echoes = home.turns()[before:]
        print(f"  volume {volume} {more}: {asked['heard']['text']!r}, then {[turn['heard']['text'] for turn in echoes]}", flush=True)
        out += [turn["heard"]["text"] for turn in echoes]
    return out


def _heard(home: Container, words: Words, name: str, late: float) -> tuple[list[str], float, float]:
    """(the words that the device heard of a clip, by how many seconds the button was late at its first and at its last sound)."""
    before = len(home.turns())
    begun, ended, _ = _say(home, name, late)
    until(lambda: len(home.turns()) > before, f"a turn of {name}", 60)
    ready(home)
    return words(home.turns()[-1]["heard"]["text"]), begun, ended


def _say(home: Container, name: str, late: float) -> tuple[float, float, float]:
    """Say a clip, and hold the button from `late` s after its first sound to as much before its last.

    (s by which it really was late at the first sound, and at the last; the release in monotonic s).
    """
    clip = wavs.read(ROOT / "tests/data/speech" / name, VOICE_RATE)
    level = np.abs(clip.astype(int))
    first, *_, last = np.flatnonzero(level > level.max() / 50) / VOICE_RATE
    silence, done = np.zeros(int(AROUND * VOICE_RATE), np.int16), []
    wavs.write(home.root / str(CLIPS)[1:] / name, np.concatenate([silence, clip, silence]), VOICE_RATE)
    record = Recorder(home, 3 * AROUND + len(clip) / VOICE_RATE, "microphone.monitor")
    player = home.start("paplay", "--device=microphone", "--latency-msec=20", str(CLIPS / name))
    begins = time.monotonic() + AROUND
    for wanted, pin in ((first + late, 0), (last - late, 1)):
        time.sleep(max(0.0, begins + wanted - time.monotonic()))
        home.hands(f"BOARD7 {pin}")
        done.append(time.monotonic())
    player.wait(30)
    began = record.began + place(record.sound(), clip, name, 0.5)  # a recorder on a busy machine has gaps
    return done[0] - began - first, done[1] - began - last, done[1]
