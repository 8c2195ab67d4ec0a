#!/usr/bin/env python3
"""The bedside in a virtual machine: real units, kernel pins, ALSA, USB headset and power cuts. One table last; 0 where all passed.

.venv/bin/python tests/vm/machine.py                          # everything; half an hour on two cores
.venv/bin/python tests/vm/machine.py boot card --vanish 5     # only these, and five times in place of a hundred
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from dataclasses import fields
from pathlib import Path

from acts import Sizes, lights_and_states
from guest import Failed, Guest
from image import CannotRun, build
from scenarios import SCENARIOS

BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.0f} s  {text}", flush=True)


def main() -> int:
    """0: all passed; 1: a scenario failed; 3: the bench can't run here."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machine is switched off
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/bedside/vm"), help="where the image is built and kept")
    for size in fields(Sizes):
        parser.add_argument(f"--{size.name}", type=int, default=size.default, metavar="N")
    arguments = parser.parse_args()
    wanted = arguments.scenario or list(SCENARIOS)
    if unknown := [name for name in wanted if name not in SCENARIOS]:
        parser.error(f"no scenario is called {', '.join(unknown)}: there are {', '.join(SCENARIOS)}")
    sizes = Sizes(**{size.name: getattr(arguments, size.name) for size in fields(Sizes)})
    try:
        cache = arguments.cache.expanduser().resolve()
        guest = Guest(*build(cache, say), cache / "run")
        rows = play(guest, wanted, sizes)
    except CannotRun as error:
        print(f"The virtual machine can't run here: {error}", file=sys.stderr)
        return 3
    return table(rows)


def play(guest: Guest, wanted: list[str], sizes: Sizes) -> list[tuple[str, str, bool]]:
    """(title, figure, passed) of each; one that fails costs a restart, and the next begins on a fresh boot."""
    rows: list[tuple[str, str, bool]] = []
    fresh = False
    try:
        for name in wanted:
            title, scenario = SCENARIOS[name]
            try:
                if not (fresh and guest.on):
                    guest.cut()
                    guest.power_on()
                    guest.ready(0, 240, "READY before the scenario")
                    say(f"booted; load {os.getloadavg()[0]:.1f}")
                figure, passed = scenario(guest, sizes)
                fresh = True
            except (Failed, RuntimeError, OSError) as error:
                figure, passed, fresh = str(error), False, False
                if not isinstance(error, Failed):
                    traceback.print_exc()
            rows.append((title, figure, passed))
            say(f"{name}: {'passed' if passed else 'FAILED'}: {figure}")
    finally:
        guest.cut()
    rows.append(("The light and the state", *lights_and_states(guest)))
    return rows


def table(rows: list[tuple[str, str, bool]]) -> int:
    print("\n| scenario | | figure |\n|---|---|---|")
    for title, figure, passed in rows:
        print(f"| {title} | {'pass' if passed else 'FAIL'} | {figure} |")
    return 0 if all(passed for _, _, passed in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
