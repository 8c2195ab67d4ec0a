"""Once the companion's loop runs, it imports nothing: a press would wait for it, and on a slow machine the watchdog would end the process.

(Importing scipy for the first estimate took 1 s here, and more than the watchdog's 20 s in an emulated machine.)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BEDSIDE = """
import sys, threading
from pathlib import Path
import anyio, numpy as np
from home import SPEECH, State, acknowledge, becomes, bedside, press, until
from device.fake_cyton import FakeCyton

class Note:
    on = False
    def find_spec(self, name, path=None, target=None):
        if self.on and threading.current_thread() is threading.main_thread():
            print("imported:", name)

async def main(folder):
    with FakeCyton(np.random.default_rng(1).normal(0, 20, (8, 2500)), folder / "port", loop=True):
        headset = {"board": "cyton", "port": str(folder / "port"), "record": str(folder / "eeg")}
        async with bedside(folder, 2 * [SPEECH], headset=headset) as home:
            Note.on = True
            await press(home)
            await until(lambda: home.memory.recent(5), "a turn")
            await becomes(home, State.READY)
            await until(lambda: home.companion.feed.estimator is not None, "a settled headset", 60)
            await until(lambda: home.companion.affect().reason != "the signal is settling.", "an estimate", 60)
            await press(home)
            await until(lambda: len(home.memory.recent(5)) == 2, "a turn with an estimate")
            await becomes(home, State.READY)
            home.panel.press_call()
            await becomes(home, State.ALERTING)
            await acknowledge(home)
            await becomes(home, State.READY)
            Note.on = False
    print("done")

sys.meta_path.insert(0, Note())
anyio.run(main, Path(sys.argv[1]))
"""


def test_turns_an_estimate_and_a_call_import_nothing_on_the_loop(tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", BEDSIDE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=here, env={"PYTHONPATH": f"{here}:{here.parent}"})
    told = [line for line in done.stdout.splitlines() if line == "done" or line.startswith("imported:")]
    assert told == ["done"], done.stdout + done.stderr
