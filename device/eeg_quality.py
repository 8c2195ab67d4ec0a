"""The gate: which channels of a 2 s window are a resting brain, and for the others one word that says why not.

Pure. A refused window is never estimated from: blinks, a jaw and a turned head look like every feeling there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.eeg_features import Spectrum

Array = NDArray[np.float64]

RAIL_UV = 187_500.0  # full scale of a Cyton; device/boards.py has the others'
RAILED_SHARE = 0.01  # this share of samples within 5 % of full scale, and the electrode is off
FLAT_UV = 0.3  # SD of a shorted or unplugged input
SWING_UV = 120.0  # peak to peak, 1-45 Hz: above it are blinks and movement, not a resting brain
CONTACT_UV = 200.0  # rms, 1-45 Hz: no brain, blink or jaw is that large; an electrode in the air is
MAINS_UV = 2_000.0  # rms of raw mains: the Cyton recording carries 188 and is fine behind the notch, an open input carries more
MAINS_SHARE = 0.25  # of conditioned power that is still mains: the notch is overcome, or mains is off its frequency
# rms, 30-45 Hz, where there is no baseline. On the Cyton recording rest is 5-7.5 and a clenched jaw 12-35 at C3 C4 P7 P8.
MUSCLE_UV = 10.0
MUSCLE_RISE = 0.45  # log10 power of 30-45 Hz above the wearer's own baseline
MUSCLE_Z = 4.0  # on one channel alone the rise must be unusual for this channel, too
MIN_GOOD = 2  # channels
FRONTAL = ("fp1", "fp2", "af7", "af8")
POSTERIOR = ("o1", "o2", "oz", "po7", "po8", "p7", "p8", "t5", "t6", "pz", "tp9", "tp10")


@dataclass(frozen=True)
class Channel:
    """One channel of one 2 s window. `fault` is "" for a clean signal, else one of:
    missing, railed, flat, no contact, mains, moving, muscle.

    `swing` is peak to peak and `mains` the raw mains rms, both in uV; `muscle` is log10 uV^2 of 30-45 Hz.
    """

    name: str
    fault: str = ""
    swing: float = 0.0
    mains: float = 0.0
    muscle: float = 0.0


def inspect(
    raw: Array,
    clean: Array,
    missing: NDArray[np.bool_],
    names: Sequence[str],
    spectrum: Spectrum,
    power: Array,
    rail_uv: float = RAIL_UV,
    usual: Sequence[tuple[float, float] | None] | None = None,
) -> list[Channel]:
    """One Channel for each row of `raw` and `clean` [channels, samples] in uV; `power` is `clean`'s spectrum.

    `missing` [channels] marks rows with samples that never came; `usual` is (median, spread) of the wearer's own log10 power
    of 30-45 Hz by channel, None where there is no baseline.
    """
    railed = (np.abs(raw) >= 0.95 * rail_uv).mean(axis=1) >= RAILED_SHARE
    deviation, swing = clean.std(axis=1), np.ptp(clean, axis=1)
    flat = (deviation < FLAT_UV) | (raw.std(axis=1) < FLAT_UV)
    straight = spectrum.power(raw)
    mains = np.sqrt(sum(spectrum.share(straight, f - 1, f + 1) for f in (50.0, 60.0)))
    left = sum(spectrum.share(power, f - 2, f + 2) for f in (50.0, 60.0))
    humming = (mains > MAINS_UV) | (left > MAINS_SHARE * (spectrum.share(power, 1, 62) + 1e-12))
    muscle = spectrum.muscle(power)
    tense = _tense(muscle, usual or [None] * len(names))
    verdicts = (
        ("missing", missing),
        ("railed", railed),
        ("flat", flat),
        ("no contact", deviation > CONTACT_UV),
        ("mains", humming),
        ("moving", swing > SWING_UV),
        ("muscle", tense),
    )
    out = []
    for row, name in enumerate(names):
        fault = next((word for word, found in verdicts if found[row]), "")
        out.append(Channel(name, fault, float(swing[row]), float(mains[row]), float(muscle[row])))
    return out


def _tense(muscle: Array, usual: Sequence[tuple[float, float] | None]) -> NDArray[np.bool_]:
    """By channel. Two channels that rise together are a muscle; one alone must be out of its own range as well."""
    rise = np.array([m - (2 * np.log10(MUSCLE_UV) - MUSCLE_RISE if u is None else u[0]) for m, u in zip(muscle, usual, strict=True)])
    spread = np.array([0.0 if u is None else u[1] for u in usual])
    high = rise > MUSCLE_RISE
    return high & ((high.sum() >= 2) | (rise > MUSCLE_Z * spread))


def refused(channels: Sequence[Channel]) -> str:
    """Why this window can't be used as a whole, or "".

    Too poor: fewer than 2 clean channels, more than a quarter of them bad (3 of 8, 2 of 4), or every frontal one bad (a blink
    reaches the others too, below their gates).
    """
    if not channels:
        return "no signal: the window is empty."
    bad = [c for c in channels if c.fault]
    frontal = [c for c in channels if c.name.lower() in FRONTAL]
    blink = bool(frontal) and all(c.fault for c in frontal)
    if len(channels) - len(bad) >= MIN_GOOD and len(bad) <= len(channels) / 4 and not blink:
        return ""
    if not bad:
        return f"too few channels: {len(channels)}, at least {MIN_GOOD} are needed."
    return f"signal too poor: {', '.join(f'{c.name} {c.fault}' for c in bad)}."
