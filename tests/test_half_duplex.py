"""The clock that counts captured samples, and what it keeps of the device's own voice out of a turn."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device import config, wavs
from device.half_duplex import ECHO, HalfDuplex
from device.soundcard import MIC_BLOCK, SoundCard
from device.turn import MIC_RATE

SPEECH = sorted((Path(__file__).parent / "data/speech").glob("*.wav"))
BLOCK = round(MIC_BLOCK * MIC_RATE)


def test_only_blocks_of_the_own_voice_and_its_echo_are_its_own() -> None:
    duplex = HalfDuplex(MIC_RATE, latency=0.02)
    duplex.spoke(10.0, 10.5)
    duplex.spoke(10.5, 11.0)
    own = [round(now, 2) for now in np.arange(9.0, 12.0, MIC_BLOCK) if duplex.hear(float(now), BLOCK, lost=False)]
    assert own[0] == pytest.approx(10.04, abs=0.03)
    assert own[-1] == pytest.approx(11.0 + 0.02 + ECHO + MIC_BLOCK, abs=0.03)
    assert len(own) == pytest.approx((own[-1] - own[0]) / MIC_BLOCK + 1, abs=0.1)


def test_a_block_that_comes_late_is_no_later_sound() -> None:
    """The machine stood still for two seconds while the device spoke: what it hears then is from then."""
    duplex = HalfDuplex(MIC_RATE)
    for now in np.arange(9.0, 10.0, MIC_BLOCK):
        assert not duplex.hear(float(now), BLOCK, lost=False)
    duplex.spoke(10.0, 10.6)
    own = [duplex.hear(12.0 + n * 1e-3, BLOCK, lost=False) for n in range(49)]
    assert own[2:18] == [True] * 16
    duplex.spoke(12.1, 12.2)
    assert all(duplex.hear(12.11 + n * MIC_BLOCK, BLOCK, lost=False) for n in range(3))


def test_a_loss_that_is_told_sets_the_clock() -> None:
    duplex = HalfDuplex(MIC_RATE)
    for now in (1.0, 1.04, 1.08):
        duplex.hear(now, BLOCK, lost=False)
    assert duplex.behind(1.1) == pytest.approx(0.02, abs=1e-3)
    duplex.hear(3.0, BLOCK, lost=True)
    assert duplex.behind(3.0) == 0.0


@pytest.mark.parametrize("number", range(20))
def test_no_word_is_lost_when_the_button_comes_300_ms_late_or_leaves_300_ms_early(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real speech through the real ring, whose blocks come up to 10 ms late: all of its samples are in the clip, and in order."""
    chance = random.Random(number)
    words = wavs.read(SPEECH[number % len(SPEECH)], MIC_RATE)
    loud = np.flatnonzero(np.abs(words.astype(int)) > np.abs(words.astype(int)).max() / 100)
    room = np.random.default_rng(number).integers(-30, 30, len(words) + 4 * MIC_RATE).astype(np.int16)
    begin = 2 * MIC_RATE + chance.randrange(BLOCK)
    room[begin : begin + len(words)] += words
    first, last = begin + int(loud[0]), begin + int(loud[-1])
    offset = -0.3 + 0.6 * number / 19
    pressed, released = first / MIC_RATE + offset, last / MIC_RATE - offset

    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("device.soundcard.time", SimpleNamespace(monotonic=lambda: clock.now))
    card = SoundCard(config.Audio(kind="card"))
    card._mic_rate, card._preroll_bytes = MIC_RATE, MIC_RATE
    card._ring = type(card._ring)(maxlen=-(-MIC_RATE // 2 // BLOCK))
    moments = [(pressed, "press"), (released, "release")]
    moments += [((n + 1) * MIC_BLOCK + chance.uniform(0, 0.01), n) for n in range(len(room) // BLOCK)]
    heard = np.zeros(0, np.int16)
    for clock.now, what in sorted(moments, key=lambda moment: moment[0]):
        if isinstance(what, int):
            card._hear(room[what * BLOCK : (what + 1) * BLOCK].tobytes(), BLOCK, None, 0)
        else:
            card.listen(what == "press")
        pcm, complete = card.take()
        heard = np.concatenate([heard, pcm])
    assert complete
    at = room.tobytes().find(heard.tobytes())
    assert at >= 0, "the clip is no piece of what was said"
    assert at // 2 <= first
    assert at // 2 + len(heard) > last
