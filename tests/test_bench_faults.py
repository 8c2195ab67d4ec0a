"""Every fault of a headset and its port, at a whole bedside: one message, and the button is answered all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from home import REPLY, SPEECH, becomes, bedside, lines, press, until

from device.bench_faults import CONNECTING, FAULTS
from device.eeg import HeadsetState
from device.states import State

pytest.importorskip("brainflow")
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_ends_in_one_message_and_the_companion_answers(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay, words = FAULTS[name]
    caplog.set_level("INFO", logger="bedside")
    with lay(tmp_path) as laid:
        async with bedside(tmp_path, [SPEECH], headset=laid.settings) as home:
            headset = home.companion.headset
            if laid.then is not None:
                await until(lambda: headset.arriving, "samples")
                laid.then()
            await until(lambda: any(word in headset.reason for word in words), f"{words}, not {headset.reason!r}")
            assert headset.state in (HeadsetState.ABSENT, HeadsetState.STALE)
            said = headset.reason
            await press(home)
            await becomes(home, State.READY)
            (turn,) = home.companion.turns
            assert turn.reply == REPLY  # as without a headset, and not a word of it
            assert turn.affect.engagement is None
            assert turn.affect.reason in (said, CONNECTING, headset.reason)
            assert home.memory.recent(1)[0].affect == turn.affect
    told: list[Any] = [line for line in lines(caplog, "headset ") if any(word in line for word in words)]
    assert len(told) == 1
