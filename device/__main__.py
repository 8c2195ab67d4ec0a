"""The command line, `bedside …`: each command imports only what it needs. It decides nothing itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from device.config import Settings


def main(argv: list[str] | None = None) -> int:
    """0: done; 1: it could not be done, with one sentence on standard error; 2: wrong usage."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.do(arguments) or 0)
    except KeyboardInterrupt:
        return 130
    except Exception as caught:
        error: BaseException = caught
        while len(getattr(error, "exceptions", ())) == 1:  # a task group wraps its one failure
            error = error.exceptions[0]  # type: ignore[attr-defined]
        if type(error).__module__.startswith("device.") or isinstance(error, OSError):
            print(f"bedside: {error}", file=sys.stderr)
            if arguments.do is _run:
                from device.fault_light import show_fault

                show_fault(arguments.config, str(error))
            return 1
        raise


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="bedside", description="A bedside voice companion. Not a medical device.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do, text: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(do=do)
        return sub

    run = command("run", _run, "start the companion, as systemd does")
    run.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")
    run.add_argument("--with-voice", action="store_true", help="start the voice process too (a laptop)")
    voice = command("voice", _voice, "start the voice process, as systemd does")
    voice.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")

    demo = command("demo", _demo, "one conversation with simulated edges and real models")
    demo.add_argument("--wav", action="append", default=[], metavar="FILE", help="what the microphone hears; repeat for more turns")
    demo.add_argument("--eeg", metavar="FILE", help="BrainFlow recording that the headset streams")
    demo.add_argument("--out", default="demo-out", metavar="DIR", help="where reply.wav, turn.json and turn.png go")
    demo.add_argument("--live", action="store_true", help="this machine's sound card and the space bar")
    demo.add_argument("--config", metavar="FILE", help="TOML settings to start from")

    say = command("say", _say, "speak TEXT into a WAV file")
    say.add_argument("text", metavar="TEXT")
    say.add_argument("--engine", choices=["csm", "plain"], help="which voice; default: the settings' own")
    say.add_argument("--out", required=True, metavar="FILE.wav")
    say.add_argument("--config", metavar="FILE")
    listen = command("listen", _listen, "write what is said in FILE")
    listen.add_argument("file", metavar="FILE")
    listen.add_argument("--json", action="store_true", help="text, confidence and seconds")
    listen.add_argument("--config", metavar="FILE")

    csm = command("csm", _csm, "the codes that CSM gives, to check them against another implementation")
    csm.add_argument("what", choices=["codes"])
    csm.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or hub name")
    csm.add_argument("--conversation", metavar="FILE.json", help="segments before: speaker, text, and audio (a file) or codes")
    csm.add_argument("--prompt-ids", metavar="FILE.json", help='raw text ids {"prompt_ids": [...]} in place of words')
    csm.add_argument("--text", default="", help="what to say")
    csm.add_argument("--speaker", default="0", metavar="N")
    csm.add_argument("--frames", type=int, default=64, metavar="N", help="at most so many frames of 80 ms")
    csm.add_argument("--greedy", action="store_true", help="the most likely code each time, as transformers with do_sample=False")
    csm.add_argument("--seed", type=int, metavar="N", help="of the sampling")
    csm.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "int8", "int4"])
    csm.add_argument("--json", action="store_true", help='{"codes": [[...], ...]}')
    csm.add_argument("--config", metavar="FILE")
    config = command("config", _config, "check or show the settings")
    config.add_argument("what", choices=["check", "show"])
    config.add_argument("--config", metavar="FILE")
    models = command("models", _models, "list, fetch or verify the embedded models; quantize a CSM checkpoint")
    models.add_argument("what", choices=["list", "fetch", "verify", "quantize"])
    models.add_argument("names", nargs="*", metavar="NAME", help="default: all; quantize: the checkpoint, folder or hub name")
    models.add_argument("--precision", choices=["bf16", "int8", "int4"], default="int8", help="quantize: of the weights")
    models.add_argument("--out", metavar="DIR", help="quantize: the folder to write")
    models.add_argument("--config", metavar="FILE")
    from device import audio_commands, eeg_commands

    audio_commands.add_parser(commands)
    eeg_commands.add_parser(commands)
    bench = command("bench", _bench, "measure on this machine")
    bench.add_argument(
        "what",
        choices=["turn", "score", "voice", "fidelity", "load", "consistency", "eeg"],
        help="turn: latency; score: word errors of a demo's folder; voice: CSM's speed and memory; fidelity: what quantising loses; "
        "load: button, loop and sound beside a voice that speaks without a pause; "
        "consistency: does the voice stay itself through a long conversation; eeg: headset and estimate, on a fake Cyton and recordings",
    )
    bench.add_argument("--checkpoint", "--csm", default="", metavar="NAME", help="CSM, folder or hub name (consistency: or the settings')")
    bench.add_argument("--shape", choices=["csm-1b"], help="voice, fidelity, load: without a checkpoint, with --random-weights")
    bench.add_argument("--random-weights", action="store_true", help="voice, fidelity, load: the cost of the real ones, and noise")
    bench.add_argument("--precisions", metavar="LIST", help="some of fp32,bf16,int8,int4; load, consistency: one")
    bench.add_argument("--device", choices=["cpu", "cuda"], help="all but turn and score: default: the settings' own")
    bench.add_argument("--demo", metavar="DIR", help="score: the folder that 'bedside demo --out DIR' wrote")
    bench.add_argument("--transcripts", metavar="FILE.tsv", help="score: file and text of each clip, in the order of the turns")
    bench.add_argument("--turns", type=int, metavar="N", help="turn: default 20; consistency: default 40")
    bench.add_argument("--seed", type=int, default=0, metavar="N", help="consistency: of the replies and the sampling")
    bench.add_argument("--out", metavar="DIR", help="consistency: keep what was said, a WAV for each turn")
    bench.add_argument("--seconds", type=float, metavar="N", help="load: of each setting in each of two rounds; eeg: of long_run")
    bench.add_argument("--parts", default="", metavar="LIST", help="eeg: some of what it measures, as 'unplug,cost'; none: all")
    bench.add_argument("--peers", choices=["transformers"], help="voice: time transformers' own CSM in the same run (10 GB more)")
    bench.add_argument("--picture", metavar="FILE", help="voice: draw the figures (.svg, .png)")
    bench.add_argument("--json", metavar="FILE", help="write the figures there too")
    bench.add_argument("--config", metavar="FILE")
    return top


def _settings(arguments: argparse.Namespace, **sections):  # type: ignore[no-untyped-def]
    from device import config, logs

    settings = config.load(arguments.config, **sections)
    logs.setup(settings.log.level)
    return settings


def _run(arguments: argparse.Namespace) -> int:
    from device.run import run

    return run(_settings(arguments), arguments.config, with_voice=arguments.with_voice)


def _voice(arguments: argparse.Namespace) -> None:
    from device.config import make_socket_folder
    from device.voice.load import load
    from device.voice.server import Server

    settings = _settings(arguments)
    make_socket_folder(settings)
    Server(settings.voice.socket, lambda status: load(settings, status)).run()


def _demo(arguments: argparse.Namespace) -> int:
    from device.demo import demo

    return demo(_settings(arguments), [Path(w) for w in arguments.wav], arguments.eeg, Path(arguments.out), live=arguments.live)


def _say(arguments: argparse.Namespace) -> None:
    import numpy as np

    from device import wavs
    from device.turn import VOICE_RATE
    from device.voice.load import choose_device, hush_libraries, load_throat

    # What is tried out here is no part of a patient's conversation.
    engine = {"voice": {"engine": arguments.engine}} if arguments.engine else {}
    settings = _settings(arguments, memory={"conversation": ""}, **engine)
    hush_libraries()
    throat, stand_in = load_throat(settings, choose_device(settings.voice.device), lambda text: None)
    if stand_in:
        print(f"bedside: {stand_in}", file=sys.stderr)
    frames = list(throat.frames(arguments.text))
    if not frames:
        raise OSError(f"nothing to say in {arguments.text!r}: give a sentence with letters")
    pcm = np.concatenate(frames)
    wavs.write(Path(arguments.out), pcm, VOICE_RATE)
    print(f"{arguments.out}: {len(pcm) / VOICE_RATE:.2f} s, engine {throat.name}, precision {throat.precision}")


def _listen(arguments: argparse.Namespace) -> None:
    import json

    from device import wavs
    from device.turn import MIC_RATE
    from device.voice.load import choose_device, hush_libraries

    settings = _settings(arguments)
    pcm = wavs.read(Path(arguments.file), MIC_RATE)
    hush_libraries()
    from device.voice.listen import Listener

    folder = Path(settings.models.folder)
    ears = Listener(settings.listen.model, folder, device=choose_device(settings.voice.device), threads=settings.voice.threads)
    heard = ears.transcribe(pcm)
    if arguments.json:
        print(json.dumps({"text": heard.text, "confidence": round(heard.confidence, 4), "seconds": round(heard.seconds, 3)}))
    else:
        print(heard.text)


def _csm(arguments: argparse.Namespace) -> None:
    import json

    from device.voice.load import choose_device, hush_libraries

    settings = _settings(arguments)
    hush_libraries()
    from device.voice.build import build
    from device.voice.codes import codes

    built = build(arguments.checkpoint, arguments.precision, choose_device(settings.voice.device))
    conversation, prompt = (Path(file) if file else None for file in (arguments.conversation, arguments.prompt_ids))
    found = codes(built, conversation, prompt, arguments.text, arguments.speaker, arguments.frames, arguments.greedy, arguments.seed)
    print(json.dumps({"codes": found}) if arguments.json else "\n".join(" ".join(map(str, frame)) for frame in found))


def _config(arguments: argparse.Namespace) -> None:
    from device.config import dump

    settings = _settings(arguments)
    print(dump(settings) if arguments.what == "show" else f"{arguments.config or 'the defaults'}: every setting is good")


def _models(arguments: argparse.Namespace) -> int:
    from device import models

    settings = _settings(arguments)
    folder = Path(settings.models.folder)
    if arguments.what == "quantize":
        _quantize(arguments, settings.voice.device)
    elif arguments.what == "list":
        for line in models.listing(folder):
            print(line)
    elif arguments.what == "fetch":
        for name in arguments.names or list(models.TABLE):
            models.fetch(name, folder)
    else:
        found = models.verify(folder)
        for _, _, text in found:
            print(text)
        return 0 if all(good for _, good, _ in found) else 1
    return 0


def _quantize(arguments: argparse.Namespace, device: str) -> None:
    from device.voice.load import choose_device, hush_libraries

    if len(arguments.names) != 1 or not arguments.out:
        raise OSError("models quantize needs one checkpoint and --out DIR")
    hush_libraries()
    from device.voice.build import quantise_to

    quantise_to(arguments.names[0], arguments.precision, choose_device(device), Path(arguments.out), print)
    print(f"{arguments.out}: {arguments.precision}; name it in voice.csm_model")


def _bench(arguments: argparse.Namespace) -> int:
    from device.bench import bench_score, bench_turn

    if arguments.what == "score":
        if not (arguments.demo and arguments.transcripts):
            raise OSError("bench score needs --demo DIR and --transcripts FILE.tsv")
        return bench_score(_settings(arguments), Path(arguments.demo), Path(arguments.transcripts), arguments.json)
    if arguments.what == "turn":
        return bench_turn(_settings(arguments), 20 if arguments.turns is None else arguments.turns, arguments.json)
    if arguments.what == "eeg":
        from device.bench_eeg import bench_eeg

        _settings(arguments, log={"level": "warning"})
        return bench_eeg([part for part in arguments.parts.split(",") if part], arguments.json, arguments.seconds or 120)
    return _bench_csm(arguments)


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


if __name__ == "__main__":
    sys.exit(main())
