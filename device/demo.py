"""`bedside demo`: the real companion and the real voice process, with simulated edges on real recordings.

It presses the button, prints a time line, and writes reply.wav, turn.json and turn.png.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio

from device import logs, sounds, wavs
from device.audio import Sound, WavCard
from device.config import FIRMWARE, ROOT, Settings
from device.daemon import Companion
from device.eeg import open_headset
from device.memory import Memory
from device.panel import SimulatedPanel, open_panel
from device.run import voice_process
from device.states import State, light
from device.turn import MIC_RATE, VOICE_RATE, Turn

PATIENCE = 90.0  # seconds that one turn may take before the demo says what it waited for
LOADING = 300.0
CLIP = ROOT / "tests/data/speech/jfk.flac"
EEG = FIRMWARE / "eeg/cyton-eyes-open-closed.csv"


class DemoFault(Exception):
    """The demo can't go on; the message says why and what to do."""


@dataclass
class Story:
    """What happened, as it happened: times in seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    states: list[tuple[float, str]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    told: list[list[tuple[float, str]]] = field(default_factory=list)  # the states of each turn
    calls: int = 0
    eeg: list[tuple[float, Any]] = field(default_factory=list)  # (second of its end, window, rate, names)
    stand_in: bool = False  # the plain voice speaks because CSM, which was asked for, can't
    _press: list[tuple[float, str]] = field(default_factory=list)

    def watch(self, kind: str, value: Any) -> None:
        if kind == "state":
            at, state = value
            self.states.append((at - self.began, state.value))
            if state is State.LISTENING:
                self._press = []  # this press's own list, which grows until the next press
            self._press.append((round(at - self.began, 3), state.value))
            self.line(at, f"{state.value:<9}  light {light(state, self.stand_in).words}")
        elif kind == "status":
            self.line(time.monotonic(), f"voice: {value}")
        elif kind == "stand_in":
            self.stand_in = True
            self.line(time.monotonic(), f"STAND-IN: {value}")
        elif kind == "call":
            self.calls += 1
            self.line(time.monotonic(), f"CALLING A PERSON ({value.kind}, rule {value.rule})")
        elif kind == "turn":
            self.turns.append(value)
            self.told.append(self._press)
            self.tell(value)

    def tell(self, turn: Turn) -> None:
        now = time.monotonic()
        self.line(now, f"heard      “{turn.heard.text}”  ({turn.heard.seconds:.1f} s, confidence {turn.heard.confidence:.2f})")
        words = turn.affect.reason or f"confidence {turn.affect.confidence:.2f}"
        self.line(now, f"affect     {words}")
        voice = "recorded message" if turn.alert else f"{turn.engine}, {turn.precision}"
        self.line(now, f"reply      “{spoken_words(turn)}”  ({voice})")
        self.line(now, "latency    " + ", ".join(f"{k.replace('_', ' ')} {v:.2f} s" for k, v in turn.latency.items()))

    def line(self, at: float, text: str) -> None:
        print(f"{at - self.began:7.2f}  {text}", flush=True)


@contextlib.asynccontextmanager
async def home(settings: Settings, card: Sound, watch: Callable[[str, Any], None]) -> AsyncIterator[tuple[Companion, SimulatedPanel]]:
    """The companion running on simulated buttons and `card`."""
    holder: list[Companion] = []
    panel = open_panel(settings.panel, lambda event: holder[0].post(event))
    assert isinstance(panel, SimulatedPanel)
    memory = Memory(settings.memory.file, settings.memory.key)
    companion = Companion(settings, panel, card, open_headset(settings.headset), memory, sounds.load(FIRMWARE / "sounds"), watch)
    holder.append(companion)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(companion.run)
        try:
            yield companion, panel
        finally:
            tasks.cancel_scope.cancel()
    panel.close()
    memory.close()


@contextlib.asynccontextmanager
async def stage(settings: Settings, clips: list[Any], story: Story) -> AsyncIterator[tuple[Companion, SimulatedPanel, WavCard]]:
    """The companion running on simulated edges, beside a voice process that is already starting."""
    card = WavCard(clips, tail=settings.audio.tail_seconds, preroll=settings.audio.preroll_seconds)
    async with home(settings, card, story.watch) as (companion, panel):
        yield companion, panel, card


async def until(ready: Any, seconds: float, what: str, voice: Any = None) -> None:
    """Wait until `ready()`, with a deadline and an end when the voice process dies while loading."""
    deadline = time.monotonic() + seconds
    while not ready():
        if voice is not None and voice.poll() is not None:
            raise DemoFault(f"the voice process ended with code {voice.returncode}; its last line above says why")
        if time.monotonic() > deadline:
            raise DemoFault(f"waited {seconds:.0f} s for {what}")
        await anyio.sleep(0.02)


async def press_and_wait(story: Story, companion: Companion, panel: SimulatedPanel, card: WavCard) -> None:
    """One press: hold until the clip is over, then wait until the device is ready again."""
    panel.press_talk()
    await until(lambda: companion.state is State.LISTENING, 5, "the light to turn to listening")
    await until(lambda: card.clip_over or companion.state is not State.LISTENING, 600, "the end of the recording")
    panel.release_talk()
    await until(lambda: companion.state is not State.LISTENING, 5, "the release to be seen")
    await until(lambda: companion.state in (State.READY, State.ALERTING), PATIENCE, "the answer to be spoken")
    if story.states[-1][1] == State.ALERTING.value:
        await until(lambda: card.pending == 0, PATIENCE, "the recorded message")
        await anyio.sleep(companion.settings.panel.acknowledge_seconds + 0.6)  # a caregiver takes time to come
        panel.press_call()
        await until(lambda: companion.state is not State.ALERTING, 10, "the caregiver's acknowledgement")
        panel.release_call()
        await until(lambda: companion.state is State.READY, PATIENCE, "the device to be ready again")


def spoken_words(turn: Turn) -> str:
    """What the turn was answered with: its reply, or the words of the recorded message."""
    return sounds.texts(FIRMWARE / "sounds")[turn.alert.message] if turn.alert else turn.reply


def longest_window(headset: Any) -> Any:
    """As much of the last minute as the headset has: it gives a whole window or none."""
    for seconds in (60.0, 45.0, 30.0, 20.0, 10.0, 5.0, 2.0):
        window, rate, names = headset.window(seconds)
        if window is not None:
            return window, rate, names
    return None, 0.0, []


def demo(settings: Settings, wav: list[Path], eeg: str | None, out: Path, live: bool = False) -> int:
    if live:
        from device.live import live_demo

        return live_demo(settings)
    clips = [wavs.read(file, MIC_RATE) for file in wav or [CLIP]]
    if eeg and not Path(eeg).is_file():
        raise DemoFault(f"{eeg}: no such recording; --eeg wants a BrainFlow CSV of a Cyton, like {EEG.name}")
    out.mkdir(parents=True, exist_ok=True)
    story = Story()
    with tempfile.TemporaryDirectory(prefix="bedside-demo-") as folder:
        settings = simulated(settings, Path(folder), eeg or str(EEG))
        logs.setup(settings.log.level)  # the time line is what a person reads here
        with voice_process(settings) as voice:
            heard, about = anyio.run(_conversation, settings, clips, story, voice)
    write(out, story, clips, heard, about)
    print(f"\n{out}/reply.wav  {len(heard) / VOICE_RATE:.1f} s\n{out}/turn.json  {len(story.turns)} turns\n{out}/turn.png")
    return 0


def simulated(settings: Settings, folder: Path, eeg: str) -> Settings:
    """These settings with simulated edges, in a folder of their own."""
    return settings.model_copy(
        update={
            "panel": settings.panel.model_copy(update={"kind": "simulated"}),
            "audio": settings.audio.model_copy(update={"kind": "wav"}),
            "headset": settings.headset.model_copy(update={"board": "playback" if eeg else "none", "file": eeg}),
            "voice": settings.voice.model_copy(update={"socket": str(folder / "voice.sock")}),
            "memory": settings.memory.model_copy(
                update={"file": str(folder / "memory.db"), "key": str(folder / "memory.key")}
            ),
            "safety": settings.safety.model_copy(update={"folder": str(folder / "safety"), "socket": str(folder / "companion.sock")}),
            "log": settings.log.model_copy(update={"level": "warning"}),
        }
    )


async def _conversation(settings: Settings, clips: list[Any], story: Story, voice: Any) -> tuple[Any, dict[str, Any]]:
    async with stage(settings, clips, story) as (companion, panel, card):
        await until(lambda: companion.state is State.READY, LOADING, "the voice to load", voice)
        about = dict(companion.about or {})
        for _ in clips:
            await press_and_wait(story, companion, panel, card)
            story.eeg.append((time.monotonic() - story.began, longest_window(companion.headset)))
        return card.heard_by_patient, about


def write(out: Path, story: Story, clips: list[Any], heard: Any, about: dict[str, Any]) -> None:
    from device.picture import draw

    wavs.write(out / "reply.wav", heard, VOICE_RATE)
    turns = []
    for turn, states in zip(story.turns, story.told, strict=True):
        turns.append(
            {
                "heard": asdict(turn.heard),
                "reply": spoken_words(turn),
                "states": states,
                "affect": asdict(turn.affect),
                "alert": asdict(turn.alert) if turn.alert else None,
                "latency": turn.latency,
                "voice": {"engine": turn.engine, "precision": turn.precision},
            }
        )
    report = {"turns": turns, "models": about.get("models", {}), "stand_in": about.get("stand_in", ""), "calls": story.calls}
    (out / "turn.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(out / "turn.png", story, clips, _answers(story, heard))


def _answers(story: Story, heard: Any) -> list[tuple[float, Any]]:
    """(second, samples) of each answer: all that was played, cut at the turns."""
    recorded = sounds.load(FIRMWARE / "sounds")
    out, at = [], 0
    for turn, states in zip(story.turns, story.told, strict=True):
        size = len(recorded[turn.alert.message]) if turn.alert else round(turn.played * VOICE_RATE)
        began = [t for t, name in states if name in ("speaking", "alerting")]
        if began:
            out.append((began[0], heard[at : at + size]))
        at += size
    return out
