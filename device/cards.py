"""Which card is meant, and the noise that ALSA makes while it is looked for. It opens none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from device.audio import SoundLost


def find_card(pa: Any, way: str, part: str) -> tuple[int, int]:
    """(index, own rate in Hz) of PyAudio's card for `way`, "input" or "output", with `part` in its name; "" is the default one.

    Raises SoundLost.
    """
    key = "maxInputChannels" if way == "input" else "maxOutputChannels"
    every = [pa.get_device_info_by_index(i) for i in range(pa.get_device_count())]
    cards = [card for card in every if card[key] > 0]
    names = ", ".join(f"'{card['name']}'" for card in cards)
    if not cards:
        raise SoundLost(f"There is no sound card for {way}: plug one in.")
    if part:
        cards = [card for card in cards if part.lower() in str(card["name"]).lower()]
    else:
        cards = [getattr(pa, f"get_default_{way}_device_info")()]
    if not cards:
        raise SoundLost(f"audio.{way} = '{part}' fits no sound card: there is {names}; name a part of one, or none for the default.")
    return int(cards[0]["index"]), int(cards[0]["defaultSampleRate"])


@contextmanager
def quiet() -> Iterator[None]:
    """File descriptor 2 into /dev/null: ALSA and JACK write dozens of lines while they probe."""
    kept = os.dup(2)
    _kept.append(kept)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        _kept.remove(kept)
        os.close(kept)


_kept: list[int] = []  # what descriptor 2 was, for each quiet() that runs


def unquiet() -> None:
    """Descriptor 2 as it was, though a library hangs inside quiet(): why the process ends must be read by somebody."""
    if _kept:
        os.dup2(_kept[0], 2)
