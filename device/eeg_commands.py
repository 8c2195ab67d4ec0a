"""`bedside eeg …`, for technicians: record, replay, quality, baseline, report, emulate. Each imports only what it needs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.eeg_live import PATIENCE, SILENT, EegFault, LiveHeadset, Told

if TYPE_CHECKING:
    from device.config import Settings

REACTIVITY = {  # (not tested, seen): what it means
    (False, True): ": more alpha with eyes closed, as it should be.",
    (False, False): "; some people have little. Estimates keep a low confidence.",
    (True, False): "; it needs clean signal at the back of the head with eyes closed. Estimates keep a low confidence.",
}


def add_parser(commands: Any) -> None:
    """`eeg` and what it does, as subparsers of `commands`."""
    text = "the EEG headset: record, replay, quality, baseline, report, emulate"
    whats = commands.add_parser("eeg", help=text, description=text).add_subparsers(required=True, metavar="WHAT")

    def command(name: str, do: Callable[[argparse.Namespace], int], text: str, headset: bool = False) -> Any:
        sub = whats.add_parser(name, help=text, description=text)
        sub.set_defaults(do=do)
        if headset:
            sub.add_argument("--board", metavar="NAME", help="in place of headset.board")
            sub.add_argument("--port", metavar="PORT", help="in place of headset.port")
        sub.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")
        return sub

    sub = command("record", record, "record the headset into a BDF+ file, until Ctrl-C", headset=True)
    sub.add_argument("file", metavar="FILE.bdf")
    sub.add_argument("--seconds", type=float, metavar="N", help="of signal; none: until Ctrl-C")
    sub = command("replay", replay, "the quality table of a recording, at its own speed")
    sub.add_argument("file", metavar="FILE", help="a BDF of ours, or a BrainFlow CSV of a Cyton")
    sub.add_argument("--speed", type=float, default=1.0, metavar="N", help="of a BDF: so many times faster")
    sub.add_argument("--seconds", type=float, metavar="N", help="of signal; none: all of a BDF, a CSV until Ctrl-C")
    sub = command("quality", quality, "a live table: what each channel sends, and what is wrong with it", headset=True)
    sub.add_argument("--seconds", type=float, metavar="N", help="none: until Ctrl-C")
    sub = command("baseline", baseline, "lead the wearer through a quiet baseline and keep it", headset=True)
    sub.add_argument("--open", type=float, default=60.0, metavar="N", help="seconds with eyes open (default 60)")
    sub.add_argument("--closed", type=float, default=30.0, metavar="N", help="seconds with eyes closed (default 30)")
    sub.add_argument("--silent", action="store_true", help="print the sentences and speak none")
    sub = command("report", report, "a page of a recording: quality, band powers, trajectory")
    sub.add_argument("file", metavar="SESSION.bdf")
    sub.add_argument("--out", metavar="FILE", help="FILE.html or FILE.png; default: beside the recording, .html")
    sub.add_argument("--baseline", metavar="FILE.json", help="default: the stored one, if it is of this sitting")
    sub.add_argument("--quiet", metavar="A-B", help="seconds of the recording itself that are the quiet baseline")
    sub.add_argument("--closed", metavar="C-D", help="and those with closed eyes, to test that alpha reacts")
    sub = command("emulate", emulate, "a pty that a real driver takes for a Cyton, fed from a recording")
    sub.add_argument("file", metavar="RECORDING")
    sub.add_argument("--link", required=True, metavar="PATH", help="where the port appears: headset.port")
    sub.add_argument("--speed", type=float, default=1.0, metavar="N")
    sub.add_argument("--fault", action="append", default=[], metavar="NAME", help="repeat for more")


def record(arguments: argparse.Namespace) -> int:
    from device.blocks import Block
    from device.recording import Recorder

    file, settings = Path(arguments.file), _settings(arguments)
    _positive(arguments)
    if file.suffix != ".bdf":
        raise EegFault(f"{file}: a recording's name ends in .bdf.")
    if file.exists():
        raise EegFault(f"{file} exists already, and no recording is overwritten: give another name.")
    if not os.access(file.parent, os.W_OK):
        raise EegFault(f"{file.parent} is no folder that may be written to: give another.")
    recorder: Recorder | None = None
    seconds = 0.0
    with LiveHeadset(settings) as headset:
        try:
            for blocks in headset.listen():
                now = time.monotonic()
                for block in blocks:
                    recorder = recorder or Recorder(file, block.names, block.rate, settings.headset.board)
                    room = None if arguments.seconds is None else round(arguments.seconds * block.rate) - recorder.samples
                    if room is not None and room <= 0:
                        break
                    recorder.take(Block(block.samples[:, :room], block.first, block.rate, block.names, block.gap), now)
                if recorder is not None:
                    recorder.tick(now)
                    if arguments.seconds and recorder.samples / recorder.rate >= arguments.seconds:
                        break
                elif arguments.seconds and headset.silent > arguments.seconds + PATIENCE:
                    raise EegFault(f"nothing was recorded: {headset.reason}")
        finally:
            if recorder is not None:
                seconds = recorder.samples / recorder.rate  # the last one is filled up then
                recorder.close(time.monotonic())
    if recorder is None:
        raise EegFault(f"nothing was recorded: {headset.reason}")
    lost = f", {recorder.missing / recorder.rate:.1f} s of it without signal" if recorder.missing > recorder.rate else ""
    print(f"{file}: {seconds:.1f} s, {len(recorder.names)} channels at {recorder.rate:g} Hz{lost}")
    return 0


def quality(arguments: argparse.Namespace) -> int:
    from device.boards import full_scale_uv
    from device.eeg_table import Table

    _positive(arguments)
    settings, seconds = _settings(arguments), arguments.seconds
    table = Table(sys.stdout, full_scale_uv(settings.headset.board))
    return _show(settings, table, seconds, PATIENCE if seconds else None)  # who watches may plug it in later


def replay(arguments: argparse.Namespace) -> int:
    from device.boards import CYTON_FULL_SCALE_UV
    from device.eeg import check_recording
    from device.eeg_table import Table

    _positive(arguments)
    file, settings = Path(arguments.file), _settings(arguments)
    if file.suffix == ".bdf":
        return _replay_bdf(file, arguments.speed, arguments.seconds)
    if arguments.speed != 1.0:
        raise EegFault("--speed is for BDF recordings: BrainFlow plays a CSV at its own speed.")
    check_recording(file, columns=24, timestamp=22)  # of BrainFlow's Cyton
    own = settings.headset.model_copy(update={"board": "playback", "file": str(file)})
    settings = settings.model_copy(update={"headset": own})
    return _show(settings, Table(sys.stdout, CYTON_FULL_SCALE_UV), arguments.seconds, PATIENCE)


def _replay_bdf(file: Path, speed: float, seconds: float | None) -> int:
    from device.bdf import Reader
    from device.blocks import Block
    from device.eeg_table import Table

    recording = Reader(file)
    table, rate = Table(sys.stdout, recording.full_scale_uv), recording.rate
    end = min(recording.seconds, seconds or recording.seconds)
    marks = [mark for mark in recording.marks if mark.onset < end]
    began = time.monotonic()
    with Told() as told:
        for second in range(int(end)):
            if told:
                break
            samples = recording.samples(round(second * rate), round((second + 1) * rate))
            table.hear(Block(samples, round(second * rate), rate, recording.names))
            time.sleep(max(0.0, began + (second + 1) / speed - time.monotonic()))
            said = "; ".join(mark.text for mark in marks if second <= mark.onset < second + 1)
            table.draw(f"{file.name}: {second + 1} of {recording.seconds:.0f} s{', ' + said if said else ''}")
    return 0


def _show(settings: Settings, table: Any, seconds: float | None, patience: float | None) -> int:
    """The table of a headset, each second; an error if there never was a signal within `patience` seconds."""
    board, drawn = settings.headset.board, 0.0
    with LiveHeadset(settings) as headset:
        for blocks in headset.listen(tell=False):
            for block in blocks:
                table.hear(block)
            if patience and not table.seconds and headset.silent > patience:
                break
            if (now := time.monotonic()) - drawn >= 1:
                drawn = now
                table.draw(f"{board}: {headset.state}, {table.seconds:.0f} s" + (f", {headset.reason}" if headset.silent > SILENT else ""))
            if seconds and table.seconds >= seconds:
                break
    if not table.seconds:
        raise EegFault(f"there was no signal: {headset.reason}")
    return 0


def baseline(arguments: argparse.Namespace) -> int:
    from device import quiet
    from device.boards import full_scale_uv
    from device.guide import spoken

    settings = _settings(arguments)
    if arguments.open < 10 or arguments.closed < 0:
        raise EegFault("a baseline needs 10 s with eyes open at least, 60 s to be worth anything.")
    with LiveHeadset(settings) as headset, spoken(settings, not arguments.silent, lambda: headset.ended) as say:
        headset.collect(1.0)  # the first sample may take a while
        say("quiet_open")
        print(f"Eyes OPEN, {arguments.open:.0f} s. Ctrl-C skips it: an older baseline stays.", flush=True)
        headset.blocks()  # what came while it was said
        opened, rate, names = headset.collect(arguments.open)
        closed = opened[:, :0]
        if arguments.closed:
            say("quiet_closed")
            print(f"Eyes CLOSED, {arguments.closed:.0f} s.", flush=True)
            headset.blocks()
            closed, _, _ = headset.collect(arguments.closed)
        learnt = quiet.learn(opened, closed, rate, names, full_scale_uv(settings.headset.board), time.time())
        say("quiet_done" if learnt.baseline else "quiet_failed")
    if learnt.baseline is None:
        raise EegFault(f"no baseline: {learnt.lacks}. See 'bedside eeg quality', then try again.")
    file = quiet.baseline_file(settings)
    quiet.save(file, learnt.baseline)
    print(f"{learnt.baseline.words.capitalize()}{REACTIVITY[learnt.baseline.reactivity is None, learnt.baseline.seen]}")
    print(f"{file}: {learnt.baseline.windows} clean windows. It holds for this fitting of the headset, an hour at most.")
    return 0


def report(arguments: argparse.Namespace) -> int:
    from device.quiet import baseline_file
    from device.report import report as write

    settings, spans = _settings(arguments), dict[str, tuple[float, float] | None](quiet=None, closed=None)
    for name in spans:
        if text := getattr(arguments, name):
            begin, _, end = text.partition("-")
            try:
                spans[name] = float(begin), float(end)
            except ValueError:
                raise EegFault(f"--{name} {text}: give seconds of the recording, such as 0-60.") from None
    given = Path(arguments.baseline) if arguments.baseline else None
    out = Path(arguments.out) if arguments.out else None
    print(write(Path(arguments.file), out, given, baseline_file(settings), **spans))
    return 0


def emulate(arguments: argparse.Namespace) -> int:
    if not Path(arguments.file).is_file():
        raise EegFault(f"{arguments.file}: no such recording; give a BrainFlow CSV of a Cyton.")
    if not 0 < arguments.speed <= 40:
        raise EegFault("--speed: from 0 to 40 times real time.")
    try:
        emulator = importlib.import_module("device.emulator")
    except ModuleNotFoundError:
        raise EegFault("the emulated Cyton is not part of this version.") from None
    return int(emulator.emulate(Path(arguments.file), Path(arguments.link), arguments.speed, arguments.fault))


def _settings(arguments: argparse.Namespace) -> Settings:
    from device import config, logs

    given = {key: getattr(arguments, key, None) for key in ("board", "port")}
    settings = config.load(arguments.config, headset={key: value for key, value in given.items() if value})
    logs.setup("warning")  # the command itself says how the headset stands
    return settings


def _positive(arguments: argparse.Namespace) -> None:
    for name in ("seconds", "speed"):
        if (value := getattr(arguments, name, None)) is not None and value <= 0:
            raise EegFault(f"--{name} {value:g}: give a number above 0.")
