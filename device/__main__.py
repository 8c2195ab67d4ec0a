"""The command line, `bedside …`: each command imports only what it needs. It decides nothing itself."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def main(argv: list[str] | None = None) -> int:
    """0: done; 1: it could not be done, with one sentence on standard error; 2: wrong usage."""
    words = sys.argv[1:] if argv is None else argv
    # Safe mode is for a device that is broken: it loads no command but its own.
    arguments = parser(every=words[:1] != ["safe"]).parse_args(words)
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
            if arguments.do in (_run, _safe):
                _show_fault(arguments, error)
            return 1
        raise


def _show_fault(arguments: argparse.Namespace, error: BaseException) -> None:
    """Until a person has put the settings or the wires right. Anything else is for systemd's restarts, and then for safe mode."""
    from device.config import ConfigError
    from device.fault_light import show_fault
    from device.panel_pins import PanelLost

    if isinstance(error, (ConfigError, PanelLost)):
        show_fault(arguments.config, str(error))


def parser(every: bool = True) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="bedside", description="A bedside voice companion. Not a medical device.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do, text: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(do=do)
        return sub

    run = command("run", _run, "start the companion, as systemd does")
    run.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")
    run.add_argument("--with-voice", action="store_true", help="start the voice process too (a laptop)")
    safe = command("safe", _safe, "safe mode, as systemd does: a recorded sentence and the call button, where the companion can't run")
    safe.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")
    if not every:
        return top
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

    chat = command("chat", _chat, "what the device would say to the lines that you type; nothing is kept, nobody is called")
    chat.add_argument("--config", metavar="FILE")

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
    doctor = command("doctor", _doctor, "what a technician checks of a unit, a line each, with the way out; 1 where something is wrong")
    doctor.add_argument("--json", metavar="FILE", help="write the findings there too")
    doctor.add_argument("--config", metavar="FILE", help="TOML settings; none: the defaults")
    models = command("models", _models, "list, fetch or verify the embedded models; quantize a CSM checkpoint")
    models.add_argument("what", choices=["list", "fetch", "verify", "quantize"])
    models.add_argument("names", nargs="*", metavar="NAME", help="default: all; quantize: the checkpoint, folder or hub name")
    models.add_argument("--precision", choices=["bf16", "int8", "int4"], default="int8", help="quantize: of the weights")
    models.add_argument("--out", metavar="DIR", help="quantize: the folder to write")
    models.add_argument("--config", metavar="FILE")
    from device import audio_commands, bench_commands, eeg_commands, memory_commands, safety_commands

    audio_commands.add_parser(commands)
    eeg_commands.add_parser(commands)
    bench_commands.add_parser(commands)
    memory_commands.add_parser(commands)
    safety_commands.add_parser(commands)
    return top


def _settings(arguments: argparse.Namespace, **sections):  # type: ignore[no-untyped-def]
    from device import config, logs

    settings = config.load(arguments.config, **sections)
    logs.setup(settings.log.level)
    return settings


def _run(arguments: argparse.Namespace) -> int:
    from device.run import run

    return run(_settings(arguments), arguments.config, with_voice=arguments.with_voice)


def _safe(arguments: argparse.Namespace) -> int:
    from device.safe import safe

    return safe(_settings(arguments))


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

    from device import logs, wavs
    from device.turn import VOICE_RATE
    from device.voice.load import choose_device, hush_libraries, load_throat

    engine = {"voice": {"engine": arguments.engine}} if arguments.engine else {}
    settings = _settings(arguments, **engine)
    hush_libraries()
    logs.setup("warning")  # the command itself says what was spoken
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


def _chat(arguments: argparse.Namespace) -> int:
    from device.chat import chat

    return chat(_settings(arguments))


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
    from device.provisioning import check_provisioned

    settings = _settings(arguments)
    if arguments.what == "check":
        check_provisioned(settings)
    print(dump(settings) if arguments.what == "show" else f"{arguments.config or 'the defaults'}: every setting is good")


def _doctor(arguments: argparse.Namespace) -> int:
    from device import logs
    from device.doctor import doctor

    settings = _settings(arguments)
    logs.setup("error")  # the findings say it
    return doctor(settings, arguments.json)


def _models(arguments: argparse.Namespace) -> int:
    from device import models

    settings = _settings(arguments)
    folder = Path(settings.models.folder)
    if arguments.what == "quantize":
        _quantize(arguments, settings.voice.device)
    elif arguments.what == "list":
        for line in [*models.listing(folder), models.words_line(settings.words.model)]:
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


if __name__ == "__main__":
    sys.exit(main())
