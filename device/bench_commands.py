"""`bedside bench …`: which figures are measured, and what each needs. Each imports only what it measures with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from device.config import Settings


def add_parser(commands: Any) -> None:
    """`bench` and its options, as a subparser of `commands`."""
    text = "measure on this machine"
    bench = commands.add_parser("bench", help=text, description=text)
    bench.add_argument(
        "what",
        choices=["turn", "score", "planner", "voice", "fidelity", "load", "consistency", "eeg", "safety", "sound"],
        help="turn: latency; score: word errors of a demo's folder; planner: how soon words are there; "
        "voice: CSM's speed and memory; fidelity: what quantising loses; "
        "load: button, loop and sound beside a voice that speaks without a pause; "
        "consistency: does the voice stay itself through a long conversation; eeg: headset and estimate, on a fake Cyton and recordings; "
        "safety: what the safety rules catch and mistake in FILE.tsv; sound: a card that comes and goes, words at the edges of a press, "
        "its own voice, silence after a press, on a private PulseAudio",
    )
    bench.add_argument("file", nargs="?", metavar="FILE.tsv", help="safety: columns risk (1 or 0), source, text")
    bench.add_argument("--wrong", action="store_true", help="safety: print each sentence that was missed or mistaken")
    bench.add_argument("--speech", action="store_true", help="safety: speak them too, at two speeds in noise, and judge what is heard")
    bench.add_argument("--checkpoint", "--csm", default="", metavar="NAME", help="CSM, folder or hub name (consistency: or the settings')")
    bench.add_argument("--shape", choices=["csm-1b"], help="voice, fidelity, load: without a checkpoint, with --random-weights")
    bench.add_argument("--random-weights", action="store_true", help="voice, fidelity, load: the cost of the real ones, and noise")
    bench.add_argument("--precisions", metavar="LIST", help="some of fp32,bf16,int8,int4; load, consistency: one")
    bench.add_argument("--device", choices=["cpu", "cuda"], help="all but turn and score: default: the settings' own")
    bench.add_argument("--demo", metavar="DIR", help="score: the folder that 'bedside demo --out DIR' wrote")
    bench.add_argument("--transcripts", metavar="FILE.tsv", help="score: file and text of each clip, in the order of the turns")
    bench.add_argument("--turns", type=int, metavar="N", help="turn: default 20; planner: default 30; consistency: default 40")
    bench.add_argument("--seed", type=int, default=0, metavar="N", help="consistency: of the replies and the sampling")
    bench.add_argument("--out", metavar="DIR", help="consistency: keep what was said, a WAV for each turn")
    bench.add_argument("--seconds", type=float, metavar="N", help="load: of each setting in each of two rounds; eeg: of long_run")
    bench.add_argument("--parts", default="", metavar="LIST", help="eeg, sound: some of what it measures, as 'unplug,cost'; none: all")
    bench.add_argument("--pulls", type=int, default=100, metavar="N", help="sound: how often the card is pulled (default 100)")
    bench.add_argument("--peers", choices=["transformers"], help="voice: time transformers' own CSM in the same run (10 GB more)")
    bench.add_argument("--picture", metavar="FILE", help="voice: draw the figures (.svg, .png)")
    bench.add_argument("--json", metavar="FILE", help="write the figures there too")
    bench.add_argument("--config", metavar="FILE")
    bench.set_defaults(do=_bench)


def _settings(arguments: argparse.Namespace, **sections: dict[str, Any]) -> Settings:
    from device import config, logs

    settings = config.load(arguments.config, **sections)
    logs.setup(settings.log.level)
    return settings


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.what == "safety":
        from device.bench_safety import bench_safety

        if not arguments.file:
            raise OSError("bench safety needs a FILE.tsv with the columns risk, source and text")
        aloud = _settings(arguments, log={"level": "warning"}) if arguments.speech else None
        return bench_safety(Path(arguments.file), arguments.json, arguments.wrong, aloud)
    from device.bench import bench_score, bench_turn

    if arguments.what == "score":
        if not (arguments.demo and arguments.transcripts):
            raise OSError("bench score needs --demo DIR and --transcripts FILE.tsv")
        return bench_score(_settings(arguments), Path(arguments.demo), Path(arguments.transcripts), arguments.json)
    if arguments.what == "turn":
        return bench_turn(_settings(arguments), 20 if arguments.turns is None else arguments.turns, arguments.json)
    if arguments.what == "planner":
        from device.bench_planner import bench_planner

        return bench_planner(_settings(arguments, log={"level": "warning"}), arguments.turns or 30, arguments.json)
    if arguments.what == "eeg":
        from device.bench_eeg import bench_eeg

        _settings(arguments, log={"level": "warning"})
        return bench_eeg([part for part in arguments.parts.split(",") if part], arguments.json, arguments.seconds or 120)
    if arguments.what == "sound":
        return _bench_sound(arguments)
    return _bench_csm(arguments)


def _bench_sound(arguments: argparse.Namespace) -> int:
    from device.bench_card import PARTS, bench_sound

    parts = [part for part in arguments.parts.split(",") if part]
    if set(parts) - set(PARTS) or not 1 <= arguments.pulls <= 10_000:
        raise OSError(f"bench sound takes --parts of {','.join(PARTS)}, and --pulls from 1 to 10000")
    return bench_sound(_settings(arguments), parts, arguments.pulls, arguments.json)


def _bench_csm(arguments: argparse.Namespace) -> int:
    if arguments.what != "consistency" and bool(arguments.checkpoint) == bool(arguments.shape and arguments.random_weights):
        raise OSError(f"bench {arguments.what} needs either --checkpoint NAME or --shape csm-1b --random-weights")
    known, settings = ["fp32", "bf16", "int8", "int4"], _settings(arguments)
    usual = {"voice": "bf16,int8,int4", "fidelity": "int8,int4", "load": "int8", "consistency": ""}
    precisions = (arguments.precisions or usual[arguments.what]).split(",")
    if wrong := [precision for precision in precisions if precision and precision not in known]:
        raise OSError(f"--precisions {wrong[0]!r} is not known; known are {', '.join(known)}")
    if arguments.what == "load":
        return _bench_load(arguments, settings, precisions)
    if arguments.what == "consistency":
        return _bench_consistency(arguments, settings, precisions)
    from device.bench_voice import bench_fidelity, bench_voice
    from device.voice.load import choose_device

    device = choose_device(arguments.device or settings.voice.device)
    if arguments.what == "voice":
        return bench_voice(settings, arguments.checkpoint, device, precisions, arguments.json, bool(arguments.peers), arguments.picture)
    return bench_fidelity(settings, arguments.checkpoint, device, precisions, arguments.json)


def _bench_consistency(arguments: argparse.Namespace, settings: Settings, precisions: list[str]) -> int:
    from device.bench_consistency import bench_consistency

    turns = 40 if arguments.turns is None else arguments.turns
    if len(precisions) > 1 or not 3 <= turns <= 1000:
        raise OSError("bench consistency takes one of --precisions, and --turns from 3 to 1000")
    voice = {"engine": "csm", "csm_model": arguments.checkpoint} if arguments.checkpoint else {}
    voice |= {"precision": precisions[0]} if precisions[0] else {}
    own = settings.model_copy(update={"voice": settings.voice.model_copy(update=voice)})
    return bench_consistency(own, arguments.device or own.voice.device, turns, arguments.seed, arguments.out, arguments.json)


def _bench_load(arguments: argparse.Namespace, settings: Settings, precisions: list[str]) -> int:
    from device.bench_load import bench_load

    seconds = 30 if arguments.seconds is None else arguments.seconds
    if len(precisions) > 1 or not 1 <= seconds <= 3600:
        raise OSError("bench load takes one of --precisions, and --seconds from 1 to 3600")
    device = arguments.device or settings.voice.device
    return bench_load(settings, arguments.checkpoint, device, precisions[0], seconds, arguments.json)
