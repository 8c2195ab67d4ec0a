"""What is proven in the virtual machine of pins, light, card and headset: one function each, named in the table at the end.

Each does something to the bedside, sees what follows, and returns (figure, whether the promise was kept) or raises Failed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
from acts import YELLOW, Row, Sizes, green, main_pid, percentile, restarts, speaking, spread, turn
from faults import clock, disk_full, frozen, frozen_voice, killed, power_cut
from guest import Failed, Guest
from torn import torn_writes

from device.fake_cyton import FakeCyton

DEAF = 3.0  # s that the device may be deaf once its card is back


def boot(guest: Guest, sizes: Sizes) -> Row:
    """Power on, READY, and a press in that very moment ends in sound."""
    times, first = [], []
    for number in range(sizes.boots):
        guest.cut()
        guest.power_on()
        with speaking(guest):
            times.append(guest.ready(0, 240))
            first.append(turn(guest, f"a press at READY of boot {number + 1}"))
        if n := restarts(guest):
            raise Failed(f"the companion was restarted {n} times before READY")
    sound = [t["first_sound"] - t["up"] for t in first]
    return f"{len(times)} boots: kernel to READY {', '.join(f'{t:.0f}' for t in times)} s; release to sound {spread(sound)}", True


def press(guest: Guest, sizes: Sizes) -> Row:
    """Edge to light, through the kernel's debounce of 10 ms, the loop and the light's pin."""
    times = []
    for number in range(sizes.presses):
        green(guest, f"READY before press {number + 1}")
        done = guest.ask("press", seconds=0.3)
        if not done["to_light"]:
            raise Failed(f"press {number + 1} of 300 ms did not change the light")
        times.append(done["to_light"])
    green(guest, "READY at the end")
    return f"{len(times)} presses: {spread(times, 'ms', 1000)}", True


def call(guest: Guest, sizes: Sizes) -> Row:
    """The call button: red light and nurse-call relay until a caregiver holds it, then READY again."""
    green(guest, "READY before the call")
    down = guest.ask("press", seconds=0.3, button="call")["down"]
    red = guest.shows((1, 0, 0), down, 10, "the red light of a call") - down
    guest.until(lambda: guest.ask("relay")["calling"], "the nurse-call relay", 10)
    time.sleep(4)
    held = guest.ask("press", seconds=3.0, button="call")["down"]
    ready = guest.ready(held, 60, "READY after the acknowledgement")
    if guest.ask("relay")["calling"]:
        raise Failed("the nurse-call relay is still held after the acknowledgement")
    return f"red after {red * 1000:.0f} ms, relay held until acknowledged, READY {ready - held:.0f} s after the hold began", True


def bounce(guest: Guest, sizes: Sizes) -> Row:
    """Noise on the talk line, and after each hundred edges a press of 200 to 400 ms with chattering ends: heard whole, and once."""
    rounds, dice, edges, since = max(1, sizes.edges // 100), random.Random(7), 0, guest.uptime()
    for number in range(rounds):
        edges += guest.ask("bounce", edges=100, seed=number)["edges"]
        green(guest, f"READY after {edges} noisy edges")
        done = guest.ask("press", seconds=dice.uniform(0.2, 0.4), chatter=dice.randint(1, 6))
        guest.told("event=release", done["down"], 20, f"the press after {edges} edges, {done['held']:.3f} s long")
        # An emulated hand may be held up in its chatter for longer than the debounce: then it did press twice.
        heard = len(guest.logged("event=press", done["down"]))
        if heard > 1 and done["longest"] < 0.008:
            log = [f"{at:.3f} {line}" for at, line in guest.log if at >= done["down"]]
            raise Failed(f"one press, whose chatter was never longer than {done['longest'] * 1000:.0f} ms, became {heard}: {done} {log}")
    green(guest, "READY at the end")
    taken = len(guest.logged("event=press", since)) - rounds
    return f"{edges} noisy edges ({taken} long enough to be a press), then {rounds} of {rounds} presses whole; READY at the end", True


def card(guest: Guest, sizes: Sizes) -> Row:
    """The card leaves the machine with both streams open, as an unplugged USB card does, and comes back."""
    pid, deaf, seen = main_pid(guest), [], []
    for number in range(sizes.vanish):
        green(guest, f"READY before the card leaves ({number + 1})")
        gone = guest.ask("card", on=False)["at"]
        seen.append(guest.shows(YELLOW, gone, 20, f"the light of a fault without a card ({number + 1})") - gone)
        time.sleep(random.uniform(0.5, 3.0))
        back = guest.ask("card", on=True)["at"]
        deaf.append(guest.ready(back, 40, f"READY after the card came back ({number + 1})") - back)
    ended = int(main_pid(guest) != pid)
    with speaking(guest):
        turn(guest, "a turn after the last return of the card")
    figure = f"{sizes.vanish} times: fault shown in {spread(seen)}; deaf once it is back {spread(deaf)}; {ended} exits"
    return figure, percentile(deaf, 0.95) <= DEAF and not ended


def plug(guest: Guest, cyton: FakeCyton) -> None:
    cyton.resume()
    guest.monitor.do("chardev-add", id="eeg", backend={"type": "serial", "data": {"device": str(cyton.link.resolve())}})
    guest.monitor.plug("usb-serial", "headset", chardev="eeg", bus="xhci.0", **{"always-plugged": True})


def pull(guest: Guest, cyton: FakeCyton) -> None:
    cyton.stall()
    time.sleep(0.1)  # QEMU 7.2 crashes where a byte comes for a device that it has just taken away
    guest.monitor.pull("headset")
    deadline = time.monotonic() + 10
    while True:
        try:
            return guest.monitor.do("chardev-remove", id="eeg")
        except RuntimeError:  # the guest has not let go of it yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def headset(guest: Guest, sizes: Sizes) -> Row:
    """The dongle is plugged in for the first time since power on, pulled and plugged again; samples come each time."""
    pid, came, noticed = main_pid(guest), [], []
    recording = np.random.default_rng(1).normal(0, 20, (8, 2500))
    with FakeCyton(recording, guest.folder / "cyton", loop=True) as cyton:
        for number in range(sizes.plugs):
            since = guest.uptime()
            plug(guest, cyton)
            came.append(guest.told("headset state=settling", since, 60, f"samples after plugging in ({number + 1})") - since)
            guest.told("headset state=streaming", since, 30, f"a settled signal ({number + 1})")
            since = guest.uptime()
            pull(guest, cyton)
            noticed.append(guest.told("headset state=stale", since, 20, "the pulled headset to be stale") - since)
    if main_pid(guest) != pid:
        raise Failed("the companion was restarted")
    return f"{sizes.plugs} plugs: samples after {spread(came)}; stale after {spread(noticed)}", True


SCENARIOS: dict[str, tuple[str, Callable[[Guest, Sizes], Row]]] = {
    "headset": ("Headset plugged, pulled, plugged", headset),
    "boot": ("Power on to a READY that holds", boot),
    "press": ("Talk button to light", press),
    "call": ("The call button and the nurse-call relay", call),
    "bounce": ("A bouncing button", bounce),
    "power-cut": ("Power cut while turns are stored", power_cut),
    "torn-writes": ("A disk that loses and tears what it had not flushed", torn_writes),
    "card": ("The sound card vanishes", card),
    "killed": ("kill -9 of each process", killed),
    "frozen": ("The companion is frozen", frozen),
    "frozen-voice": ("The voice is frozen", frozen_voice),
    "disk-full": ("Disk full", disk_full),
    "clock": ("Clock jumps, no network", clock),
}
