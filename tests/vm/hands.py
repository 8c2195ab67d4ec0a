"""The hands, the ears and the eye at the simulated bedside, inside the guest: presses lines, watches the light, hears the speaker.

It is asked by the host through a virtio port, one JSON object a line: {"do": verb, …} in, {"done": value} or {"failed": why} out. Of its
own accord it tells every change of the light {"light": [r, g, b], "at": s} and the companion's log {"log": line, "at": s}. Times are the
guest's CLOCK_MONOTONIC, which counts from its start. It knows no scenario.
"""

from __future__ import annotations

import audioop
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
import wave
from pathlib import Path
from typing import Any

from gpio_bench import OFFSETS, KernelBench
from systemd.journal import Reader

from device.beat import notify
from device.jetson_boards import ORIN_NANO

PORT = "/dev/virtio-ports/hands"
LINES = {line.board: line.name for line in ORIN_NANO}
TALK, CALL, RELAY = LINES["BOARD7"], LINES["BOARD15"], LINES["BOARD37"]
LIGHT = [LINES[pin] for pin in ("BOARD29", "BOARD31", "BOARD33")]
HERE_SIDE, CARD = "plughw:Bedside,1,0", "/sys/bus/platform/drivers/snd_aloop"
WORDS = "/tmp/words.wav"
UNIT = "bedside-companion.service"
LATE = 3.0  # s after the release in which the light may still follow, on a loaded host
Json = dict[str, Any]


class Hands:
    def __init__(self) -> None:
        self.bench = KernelBench()
        for button in (TALK, CALL):
            self.bench.pull(button, True)  # the resistors of the wiring
        self._lamps = [os.open(self.bench.hands / f"sim_gpio{OFFSETS[name]}/value", os.O_RDONLY) for name in LIGHT]
        self._mouth: subprocess.Popen[bytes] | None = None
        self._ear: subprocess.Popen[bytes] | None = None
        self.loud: list[tuple[float, int]] = []  # (when, peak) of each 20 ms that the speaker played
        self._port = open(PORT, "r+b", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()

    def tell(self, **what: Any) -> None:
        with self._lock:
            self._port.write(json.dumps(what).encode() + b"\n")

    def light(self) -> tuple[int, ...]:
        return tuple(int(os.pread(lamp, 4, 0)) for lamp in self._lamps)  # pread: two threads look

    def watch_light(self) -> None:
        shown: tuple[int, ...] = ()
        while True:
            if (now := self.light()) != shown:
                shown = now
                self.tell(light=list(now), at=time.monotonic())
            time.sleep(0.02)

    def watch_log(self) -> None:
        """A reader that has had no news for five seconds is opened anew, behind what it told last: "journalctl -f" once told nothing more
        of a boot, twice in a run whose journal had been cut and rotated. Not by the time: two lines that come at once have the same."""
        told = ""
        while True:
            journal, quiet = Reader(), 0
            journal.this_boot()
            journal.add_conjunction()
            journal.add_match(_SYSTEMD_UNIT=UNIT)
            journal.add_disjunction()
            journal.add_match(_PID="1", UNIT=UNIT)  # what systemd says of it
            if told:
                journal.seek_cursor(told)
            try:
                while quiet < 10:
                    for entry in journal:
                        if entry["__CURSOR"] != told:
                            told, quiet = entry["__CURSOR"], 0
                            at = entry["__MONOTONIC_TIMESTAMP"].timestamp  # when it was written: on a loaded host long ago
                            self.tell(log=str(entry["MESSAGE"]).strip(), at=at.total_seconds())
                    journal.wait(0.5)
                    quiet += 1
            except OSError as error:  # torn by a power cut
                print(f"journal: {error}", flush=True)
                time.sleep(0.5)

    # Verbs -------------------------------------------------------------------------------------

    def hello(self) -> Json:
        return {"uptime": time.monotonic()}

    def sh(self, command: str, seconds: float = 60) -> Json:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=seconds)
        return {"rc": done.returncode, "out": (done.stdout + done.stderr).strip()}

    def signal(self, pid: int, name: str) -> Json:
        """Send a signal such as SIGKILL; when."""
        at = time.monotonic()
        os.kill(pid, signal.Signals[name])
        return {"at": at}

    def press(self, seconds: float, button: str = "talk", chatter: int = 0) -> Json:
        """Hold a button; when it went down, and how long until the light was another (0: it stayed).

        `chatter`: bounces at both ends; `longest`: s that the contact stayed closed or open in them, at most.
        """
        line, before = TALK if button == "talk" else CALL, self.light()
        down = time.monotonic()
        longest, closed, changed, up = self._settle(line, False, chatter), time.monotonic(), 0.0, 0.0
        while not up or (not changed and time.monotonic() - up < LATE):
            if not changed and self.light() != before:
                changed = time.monotonic() - closed
            if not up and time.monotonic() - closed >= seconds:
                up = time.monotonic()
                longest = max(longest, self._settle(line, True, chatter))
            time.sleep(0.001)
        return {"down": down, "up": up, "held": up - closed, "to_light": changed, "longest": longest}

    def _settle(self, line: str, level: bool, bounces: int) -> float:
        """Move a contact to `level`, with so many bounces; the longest time that any of these levels may have lasted but the last."""
        moved = []
        for number in range(2 * bounces + 1):
            began = time.monotonic()
            self.bench.pull(line, level if number % 2 == 0 else not level)
            moved.append((began, time.monotonic()))
            if number < 2 * bounces:
                time.sleep(0.001)
        return max((after - began for (began, _), (_, after) in itertools.pairwise(moved)), default=0.0)

    def bounce(self, edges: int, seed: int, longest: float = 0.012) -> Json:
        """So many noisy edges of the talk line: chatter that a worn contact makes, in bursts, ending released."""
        dice, began, made = random.Random(seed), time.monotonic(), 0
        while made < edges:
            for _ in range(min(2 * dice.randint(2, 12), edges - made)):
                made += 1
                self.bench.pull(TALK, made % 2 == 0)
                time.sleep(dice.uniform(0, longest) if dice.random() < 0.6 else 0)
            self.bench.pull(TALK, True)
            time.sleep(dice.uniform(0.02, 0.1))
        self.bench.pull(TALK, True)
        return {"edges": made, "seconds": time.monotonic() - began}

    def speak(self, on: bool) -> None:
        """Somebody talks (a tone that a microphone hears) until told otherwise."""
        if self._mouth is not None:
            os.killpg(self._mouth.pid, signal.SIGKILL)
            self._mouth.wait()
            self._mouth = None
        if on:
            if not Path(WORDS).exists():
                with wave.open(WORDS, "wb") as out:
                    out.setparams((1, 2, 16000, 0, "NONE", ""))
                    out.writeframes(b"".join((3000 * (1 if n // 18 % 2 else -1)).to_bytes(2, "little", signed=True) for n in range(16000)))
            play = f"while true; do aplay -q -D {HERE_SIDE} {' '.join(60 * [WORDS])} || sleep 0.2; done"
            self._mouth = subprocess.Popen(["sh", "-c", play], stderr=subprocess.DEVNULL, start_new_session=True)

    def heard(self) -> Json:
        """When the speaker was loud since `hear` was asked for: the start of each 20 ms."""
        return {"loud": [at for at, peak in list(self.loud) if peak > 500]}

    def hear(self, on: bool) -> Json:
        """Hear the speaker from now on, or no more; then what was `heard`."""
        if self._ear is not None:
            self._ear.kill()
            self._ear.wait()
            self._ear = None
        if on:
            self.loud = []
            command = ["arecord", "-q", "-D", HERE_SIDE, "-f", "S16_LE", "-r", "16000", "-c", "1", "-t", "raw"]
            self._ear = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            threading.Thread(target=self._listen, args=(self._ear,), daemon=True).start()
        return self.heard()

    def _listen(self, ear: subprocess.Popen[bytes]) -> None:
        assert ear.stdout is not None
        while block := ear.stdout.read(640):
            self.loud.append((time.monotonic(), audioop.max(block, 2)))

    def card(self, on: bool) -> Json:
        """Take the sound card out of the machine, or put it back. Taking ends when nothing holds it any more, so it isn't waited for."""
        verb = "bind" if on else "unbind"
        subprocess.Popen(["sh", "-c", f"echo snd_aloop.0 > {CARD}/{verb}"])
        return {"at": time.monotonic()}

    def relay(self) -> Json:
        return {"calling": self.bench.level(RELAY)}

    def serve(self) -> None:
        for line in self._port:
            asked = json.loads(line)
            try:
                self.tell(done=getattr(self, asked.pop("do"))(**asked))
            except Exception as error:  # the host hears of it, and the bench goes on
                self.tell(failed=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    hands = Hands()
    threading.Thread(target=hands.watch_light, daemon=True).start()
    threading.Thread(target=hands.watch_log, daemon=True).start()
    subprocess.run(["udevadm", "settle"])
    notify("READY=1")
    hands.serve()
