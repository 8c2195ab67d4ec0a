"""What `bedside bench consistency` found: the means, the gates, the table. It measures nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

OWN = 0.75  # similarity below which it is not the reference's voice; two people reach 0.67 in tests/data/speech, short clips of one 0.77
DROP = 0.05  # of similarity that any quarter may lose against turn 1
FALL, CHANCE, SHUFFLES, ENOUGH = 0.1, 95, 5000, 8  # points of DistillMOS; per cent; orders; turns
SILENCE = 1.0  # s inside a reply


@dataclass
class Reply:
    """One turn's figures. `ended`: why each clause did (device/voice/ending.py); anything but "end" is a runaway."""

    turn: int
    seconds: float
    to_reference: float
    to_first: float
    mos: float
    silence: float
    wrong: int  # words, of
    words: int
    ended: list[str]
    positions: int  # of the history, at the end of the reply


# The judgement -------------------------------------------------------------------------------------


def quarters(replies: list[Reply]) -> list[dict[str, float]]:
    """The means of each quarter of the run (of each turn, where there are fewer than four)."""
    parts = np.array_split(np.arange(len(replies)), min(4, len(replies)))
    return [_means([replies[n] for n in part]) for part in parts]


def _means(replies: list[Reply]) -> dict[str, float]:
    names = ("to_reference", "to_first", "mos", "silence")
    means = {name: round(float(np.mean([getattr(reply, name) for reply in replies])), 4) for name in names}
    return {**means, "wer": round(sum(reply.wrong for reply in replies) / max(1, sum(reply.words for reply in replies)), 4)}


def fall(values: list[float]) -> tuple[float, float]:
    """(how far the line of least squares falls from the first of `values` to the last, what chance alone makes of it).

    The second is the 95th percentile over random orders of the same values: no assumption of how they are spread.
    """
    place = np.arange(len(values)) - (len(values) - 1) / 2
    along = -place * (len(values) - 1) / np.sum(place**2)
    orders = np.random.default_rng(0).permuted(np.tile(values, (SHUFFLES, 1)), axis=1)
    return float(along @ values), float(np.percentile(orders @ along, CHANCE))


def gates(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """{"met", "text"} of each gate. What could not be tried in this run is not met."""
    turns = figures["turns"]
    first, lowest = turns[0]["to_reference"], min(part["to_reference"] for part in figures["quarters"])
    mean = float(np.mean([turn["to_reference"] for turn in turns]))
    out = [
        (mean >= OWN, f"the voice is the reference's: mean similarity {mean:.3f}, at least {OWN}"),
        (first - lowest <= DROP, f"it stays so: {first:.3f} in turn 1, {lowest:.3f} in the lowest quarter; at most {DROP} may be lost"),
    ]
    if len(turns) < ENOUGH:
        out.append((False, f"DistillMOS does not fall: {len(turns)} turns can't show it; give at least --turns {ENOUGH}"))
    else:
        fell, chance = fall([turn["mos"] for turn in turns])
        limit = max(FALL, chance)
        bound = f"{limit:.2f} ({FALL}, or what chance alone stays below in {CHANCE} of 100 orders of these turns)"
        out.append((fell <= limit, f"DistillMOS does not fall: by {fell:.2f} along its line, first turn to last; at most {bound}"))
    silence, longest = max((turn["silence"], turn["turn"]) for turn in turns)
    mute = sum(turn["seconds"] == 0 for turn in turns)
    text = f"no silence above {SILENCE:.0f} s inside a reply: {silence:.2f} s in turn {longest}; replies without any sound: {mute}"
    out.append((silence <= SILENCE and not mute, text))
    if figures["remembers"]:
        times, segments = len(figures["forgot"]), sum(figures["forgot"])
        out.append((times > 0, f"the history was full: segments were forgotten {times} times, {segments} in all"))
        resumed = sum(count > 0 for count in figures["resumed"])
        out.append((resumed == len(figures["restarts"]), f"it went on after every restart: {resumed} of {len(figures['restarts'])}"))
    return [{"met": bool(met), "text": text} for met, text in out]


# The report --------------------------------------------------------------------------------------


def row(reply: Reply) -> None:
    """The line of one turn, under the head of the table."""
    words, positions = f"{reply.wrong} of {reply.words}", reply.positions or "-"
    print(
        f"{reply.turn:>4}{reply.seconds:>7.1f}{reply.to_reference:>9.3f}{reply.to_first:>11.3f}{reply.mos:>6.2f}{reply.silence:>12.2f}"
        f"{words:>13}{positions:>11}  {' '.join(reply.ended) or '-'}",
        flush=True,
    )


def show(figures: dict[str, Any]) -> None:
    """The means, what ran away, and the verdicts."""
    first, parts = figures["turns"][0], figures["quarters"]
    start = {**first, "wer": first["wrong"] / max(1, first["words"])}
    print(f"{'':<16}{'to ref.':>9}{'to turn 1':>11}{'MOS':>7}{'silence, s':>12}{'wrong':>8}")
    rows = {"turn 1": start, "first quarter": parts[0], "last quarter": parts[-1]}
    rows["against turn 1"] = {name: parts[-1][name] - start[name] for name in parts[-1]}
    for name, line in rows.items():
        sign = "+" if name.startswith("against") else ""
        print(
            f"{name:<16}{line['to_reference']:>{sign}9.3f}{line['to_first']:>{sign}11.3f}{line['mos']:>{sign}7.2f}{line['silence']:>{sign}12.2f}"
            f"{line['wer']:>{sign}8.1%}"
        )
    if figures["remembers"]:
        spoken = sum(len(turn["ended"]) for turn in figures["turns"])
        print(f"{figures['runaways']} of {spoken} clauses did not end by CSM's own end frame (not judged, nor are word errors)")
    for gate in figures["gates"]:
        print(f"{'met   ' if gate['met'] else 'MISSED'}  {gate['text']}")
