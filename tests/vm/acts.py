"""What every scenario does: a whole turn, a steady green light, a look at what is stored. It knows no scenario."""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from guest import BLUE, CYAN, GREEN, Failed, Guest

from device.states import LIGHTS, State

YELLOW = (1, 1, 0)
HELD = 0.6  # s of an ordinary press
COMPANION, VOICE = "bedside-companion.service", "bedside-voice.service"
SETTLED, LASTS = 0.5, 0.15  # s that the log may be later than the light; s that a colour lasts if it is no step from one to another
Row = tuple[str, bool]


@dataclass(frozen=True)
class Sizes:
    """How much of each: more takes longer and says more."""

    boots: int = 3
    presses: int = 20
    edges: int = 10_000
    cuts: int = 20
    vanish: int = 100
    plugs: int = 3
    torn: int = 12


def percentile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


def spread(values: list[float], unit: str = "s", scale: float = 1.0) -> str:
    a, b, c = (f"{v * scale:.{1 if unit == 's' else 0}f}" for v in (statistics.median(values), percentile(values, 0.95), max(values)))
    return f"median {a}, p95 {b}, longest {c} {unit}"


def lights_and_states(guest: Guest) -> Row:
    """Every state that lasted, in all boots: whether the light's pins showed that state's own light, and nothing else."""
    looked, lies = 0, []
    for lights, log in guest.boots:
        ends = [(at, state_of(line)) for at, line in log if state_of(line) is not None]
        ends.append((max((at for at, _ in [*lights, *log]), default=0.0), ""))  # the last one is known until something was told last
        for (at, name), (until, _) in itertools.pairwise(ends):
            if not name or until - at < 2 * SETTLED + LASTS:
                continue
            looked += 1
            mine = LIGHTS[State(name)]
            allowed = {mine.rgb, (0, 0, 0)} if mine.blink or name == "ready" else {mine.rgb}  # READY blinks where nothing is kept
            for colour, a, b in spans(lights):
                if min(b, until - SETTLED) - max(a, at + SETTLED) > LASTS and colour not in allowed:
                    lies.append(f"{name} showed {colour} from {a - at:+.2f} to {b - at:+.2f} of {until - at:.2f} s;")
    figure = f"{looked} states that lasted compared with the pins, {len(lies)} lies {' '.join(lies[:3])}"
    return figure.strip(), bool(guest.boots) and not lies


def state_of(line: str) -> str | None:
    """The state that a line of the log begins; "" where the process ends or begins, None for any other line."""
    if line.startswith("state was="):
        return line.split(" now=")[1].split()[0]
    return "" if "bedside-companion.service" in line or "what=started" in line else None


def spans(lights: list[tuple[float, tuple[int, ...]]]) -> list[tuple[tuple[int, ...], float, float]]:
    """(colour, from, to) of each light that was shown."""
    return [(colour, at, until) for (at, colour), (until, _) in itertools.pairwise([*lights, (float("inf"), ())])]


def main_pid(guest: Guest, unit: str = COMPANION) -> int:
    return int(guest.sh(f"systemctl show -p MainPID --value {unit}"))


def restarts(guest: Guest) -> int:
    return int(guest.sh(f"systemctl show -p NRestarts --value {COMPANION}"))


def green(guest: Guest, what: str, seconds: float = 60.0) -> None:
    """Steady green: for longer than any blink is dark or lit."""

    def steady() -> bool:
        at, shown = guest.lights[-1]
        return shown == GREEN and guest.uptime() - at > 0.6

    guest.until(steady, what, seconds)


@contextlib.contextmanager
def speaking(guest: Guest) -> Iterator[None]:
    """Somebody talks at the bedside; only a press makes it a turn."""
    guest.ask("speak", on=True)
    yield
    guest.ask("speak", on=False)


def turn(guest: Guest, what: str, held: float = HELD) -> dict[str, float]:
    """One whole turn: the press lights blue, the answer is heard at the loopback, READY follows. The guest's times of each.

    Somebody must be speaking (`speak`). Nothing is recorded but how loud the speaker is.
    """
    guest.ask("hear", on=True)
    pressed = guest.ask("press", seconds=held)
    down = pressed["down"]
    if not pressed["to_light"]:
        raise Failed(f"{what}: the light did not follow the press; log: {[line for at, line in guest.log if at > down]}")
    guest.told("now=speaking", down, 60, f"the answer ({what})")
    guest.told("turn number=", down, 60, f"the turn to be stored ({what})")
    ready = guest.ready(down, 60, f"READY after {what}")
    loud = [at for at in guest.ask("hear", on=False)["loud"] if at > pressed["up"]]
    if len(loud) < 10:
        raise Failed(f"{what}: only {len(loud) * 20} ms of sound came out of the speaker")
    for colour, name in ((BLUE, "listening"), (CYAN, "speaking")):
        guest.shows(colour, down, 1, f"the light of {name} ({what})")
    return {"down": down, "up": pressed["up"], "to_light": pressed["to_light"], "first_sound": loud[0], "ready": ready}


def stored(guest: Guest) -> int:
    """Turns on the disk, as the project's own command counts them."""
    said = guest.sh("/opt/bedside/.venv/bin/bedside memory patients --config /etc/bedside/companion.toml", 90)
    return int(said.split()[-2])
