"""What is proven in the virtual machine of faults of the machine itself: power, processes, disk and clock. As in scenarios.py."""

from __future__ import annotations

import random
import re
import time

from acts import COMPANION, HELD, VOICE, YELLOW, Row, Sizes, main_pid, restarts, speaking, stored, turn
from guest import GREEN, Failed, Guest

from device.states import TIMEOUTS, State

LONG = "I am glad that you are telling me about it, and " * 4 + "I am here."  # some 11 s of tones
CUT = 0.5  # s in which the last of a sentence that was cut has left the loopback and the recorder
CALM = 40  # times 20 ms: a sentence, and no click


def power_cut(guest: Guest, sizes: Sizes) -> Row:
    """The power goes at a random moment while turns are being spoken and stored; what the log had called stored is there afterwards."""
    dice, lost, acked_in_all = random.Random(11), 0, 0
    for number in range(sizes.cuts):
        guest.ask("speak", on=True)
        before, since = stored(guest), guest.uptime()
        wanted, deadline = dice.randint(2, 6), time.monotonic() + 120
        while len(guest.logged("turn number=", since)) < wanted:
            if guest.lights[-1][1] == GREEN:
                guest.ask("press", seconds=0.3)
            if time.monotonic() > deadline:
                raise Failed(f"no {wanted} turns in two minutes before cut {number + 1}")
            time.sleep(0.05)
        guest.ask("press", seconds=0.3)  # and one that is somewhere on its way
        time.sleep(dice.uniform(0, 2.5))
        guest.cut()
        acked = len(guest.logged("turn number=", since))
        guest.power_on()
        guest.ready(0, 240, f"READY after cut {number + 1}")
        kept, acked_in_all = stored(guest) - before, acked_in_all + acked
        lost += max(0, acked - kept)
        if kept > acked + 1:
            raise Failed(f"cut {number + 1}: {kept} turns are there, of which only {acked} were told of")
        _clean(guest, number + 1)
    return f"{sizes.cuts} cuts: {acked_in_all} turns called stored, {lost} lost; every next boot clean", lost == 0


def _clean(guest: Guest, number: int) -> None:
    if found := guest.sh("ls /var/lib/bedside | grep damaged; dmesg | grep -E 'EXT4-fs (error|warning)'", check=False):
        raise Failed(f"after cut {number}: {found}")
    if guest.logged("memory_fault") or guest.logged("memory_damaged"):
        raise Failed(f"after cut {number} the memory was not whole")
    state = guest.sh("systemctl is-system-running --wait; systemctl --failed --plain --no-legend", 90, check=False)
    if state.split("\n")[0] != "running" or restarts(guest):
        raise Failed(f"after cut {number} the system is {state}, the companion restarted {restarts(guest)} times")


def killed(guest: Guest, sizes: Sizes) -> Row:
    """kill -9: of the voice in the middle of a sentence, of the companion; both come back and nothing is forgotten."""
    guest.sh(f"echo '{LONG}' > /run/bedside/reply")
    voice = main_pid(guest, VOICE)
    with speaking(guest):
        guest.ask("hear", on=True)
        down = guest.ask("press", seconds=HELD)["down"]
        guest.told("now=speaking", down, 60, "the long answer")
        time.sleep(1.0)
        at = guest.ask("signal", pid=voice, name="SIGKILL")["at"]
        fault = guest.shows(YELLOW, at, 10, "the light of a fault after the voice was killed") - at
        said = guest.until(
            lambda: (loud := [t for t in guest.ask("heard")["loud"] if t > at + fault + CUT])[CALM:] and loud,
            "a calm sentence, recorded",
            15,
        )
        guest.ask("hear", on=False)
        guest.sh("rm /run/bedside/reply")
        calm = said[0] - at
        back = guest.ready(at, 90, "READY after the voice was killed") - at
        turn(guest, "a turn with the new voice")
        before, pid = stored(guest), main_pid(guest)
        killed_at = guest.ask("signal", pid=pid, name="SIGKILL")["at"]
        again = guest.ready(killed_at, 90, "READY after the companion was killed") - killed_at
        if main_pid(guest) == pid or stored(guest) != before:
            raise Failed(f"{before} turns before kill -9, {stored(guest)} after it")
        turn(guest, "a turn with the new companion")
    first = f"voice: fault light in {fault:.1f} s, calm sentence in {calm:.1f} s, READY after {back:.0f} s"
    return f"{first}; companion: READY after {again:.0f} s, no turn lost", True


def frozen(guest: Guest, sizes: Sizes) -> Row:
    """SIGSTOP of the companion: nothing moves, so the watchdog's beat stops, and systemd starts another."""
    return _watched(guest, COMPANION, "another companion", *_freeze(guest, COMPANION))


def frozen_voice(guest: Guest, sizes: Sizes) -> Row:
    """SIGSTOP of the voice: a press into it becomes a fault in its time, and the watchdog starts another voice."""
    pid, at = _freeze(guest, VOICE)
    with speaking(guest):
        down = guest.ask("press", seconds=HELD)["down"]
        fault = guest.shows(YELLOW, down, 60, "the light of a fault after a press into a frozen voice") - down
    figure, passed = _watched(guest, VOICE, "another voice", pid, at)
    return f"a press ends in FAULT after {fault:.0f} s; {figure}", passed and fault < TIMEOUTS[State.THINKING] + 10


def _freeze(guest: Guest, unit: str) -> tuple[int, float]:
    """(its process, when) of a unit that is stopped from now on."""
    pid = main_pid(guest, unit)
    return pid, guest.ask("signal", pid=pid, name="SIGSTOP")["at"]


def _watched(guest: Guest, unit: str, what: str, pid: int, at: float) -> Row:
    period = _seconds(guest.sh(f"systemctl show -p WatchdogUSec --value {unit}"))
    guest.until(lambda: main_pid(guest, unit) not in (0, pid), what, period + 60)
    new = guest.uptime()
    back, gone = guest.ready(new, 120, f"READY with {what}") - at, new - at
    if not int(guest.sh(f"journalctl --no-pager -o cat -u {unit} | grep -c 'Watchdog timeout'", check=False)):
        raise Failed(f"there is {what}, but not because of the watchdog")
    with speaking(guest):
        turn(guest, f"a turn with {what}")
    # The kill, RestartSec and the start, under emulation, come on top of the period.
    return f"WatchdogSec={period}: {what} after {gone:.0f} s, READY after {back:.0f} s", gone < period + 15


def _seconds(text: str) -> int:
    """systemd's spelling of a span, such as 20s or 2min, in seconds."""
    return sum(int(number) * {"s": 1, "min": 60}[unit] for number, unit in re.findall(r"(\d+)(min|s)", text))


def disk_full(guest: Guest, sizes: Sizes) -> Row:
    """Not one block is left: the device still answers, its light says that nothing is kept, and the turns follow once there is room."""
    before, at, pid = stored(guest), guest.uptime(), main_pid(guest)
    guest.sh("fallocate -l $(df --output=avail -B1 / | tail -1) /fill; cat /dev/zero > /fill2 2>/dev/null; sync", 120, check=False)
    with speaking(guest):
        guest.until(lambda: guest.lights[-1][1] == GREEN, "READY on a full disk", 30)
        count = 0
        while not guest.logged("memory_fault", at):
            count += 1
            turn(guest, f"turn {count} on a full disk")
            if count >= 40:
                raise Failed("40 turns on a full disk, and none was missed: it was not full")
        turn(guest, "another turn on a full disk")
        count += 1
    guest.sh("rm /fill /fill2")
    freed = guest.uptime()
    whole = guest.told("memory_whole", freed, 120, "the turns to be kept after all") - freed
    kept = stored(guest) - before
    if main_pid(guest) != pid:
        raise Failed("the companion was restarted")
    return f"{count} turns answered on a full disk; {whole:.0f} s after there was room {kept} of {count} were kept", kept == count


def clock(guest: Guest, sizes: Sizes) -> Row:
    """The clock jumps by two days and back by three; there is no network at all."""
    pid = main_pid(guest)
    interfaces = guest.sh("ls /sys/class/net").split()
    with speaking(guest):
        for jump in ("+2 days", "-3 days", "+1 day"):
            guest.sh(f"date -s \"$(date -d '{jump}')\"")
            turn(guest, f"a turn after the clock jumped {jump}")
    if main_pid(guest) != pid:
        raise Failed("the companion was restarted")
    return f"3 jumps, a turn after each, no restart; network interfaces: {', '.join(interfaces)}", interfaces == ["lo"]
