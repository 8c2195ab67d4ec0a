"""The command line, `bedside …`: each command imports only what it needs. It decides nothing itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


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

    config = command("config", _config, "check or show the settings")
    config.add_argument("what", choices=["check", "show"])
    config.add_argument("--config", metavar="FILE")
    models = command("models", _models, "list, fetch or verify the embedded models")
    models.add_argument("what", choices=["list", "fetch", "verify"])
    models.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    models.add_argument("--config", metavar="FILE")
    bench = command("bench", _bench, "measure on this machine")
    bench.add_argument("what", choices=["turn", "score"], help="turn: latency; score: word errors of a demo's folder")
    bench.add_argument("--demo", metavar="DIR", help="score: the folder that 'bedside demo --out DIR' wrote")
    bench.add_argument("--transcripts", metavar="FILE.tsv", help="score: file and text of each clip, in the order of the turns")
    bench.add_argument("--turns", type=int, default=20, metavar="N")
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

    settings = _settings(arguments, **({"voice": {"engine": arguments.engine}} if arguments.engine else {}))
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


def _config(arguments: argparse.Namespace) -> None:
    from device.config import dump

    settings = _settings(arguments)
    print(dump(settings) if arguments.what == "show" else f"{arguments.config or 'the defaults'}: every setting is good")


def _models(arguments: argparse.Namespace) -> int:
    from device import models

    folder = Path(_settings(arguments).models.folder)
    if arguments.what == "list":
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


def _bench(arguments: argparse.Namespace) -> int:
    from device.bench import bench_score, bench_turn

    if arguments.what == "score":
        if not (arguments.demo and arguments.transcripts):
            raise OSError("bench score needs --demo DIR and --transcripts FILE.tsv")
        return bench_score(_settings(arguments), Path(arguments.demo), Path(arguments.transcripts), arguments.json)
    return bench_turn(_settings(arguments), arguments.turns, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
