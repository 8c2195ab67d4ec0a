"""`bedside bench safety FILE.tsv`: how many sentences of people at risk the rules catch, and how many others they mistake.

It knows no rule: whatever device/safety.py's `check` raises counts as caught.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.safety import check
from device.turn import Alert

if TYPE_CHECKING:
    from device.config import Settings

COLUMNS = ("risk", "source", "text")


class BenchSafetyError(ValueError):
    """The file can't be measured. The message names the line, the value and the way out."""


@dataclass(frozen=True)
class Row:
    risk: bool
    source: str
    text: str


def read(file: Path) -> list[Row]:
    """The sentences of a tab-separated file with the columns risk (1 or 0), source and text. Raises BenchSafetyError.

    Lines end with a newline alone: a text may hold a carriage return or quotation marks.
    """
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BenchSafetyError(f"{file} is no text in UTF-8: save it as such.") from None
    except OSError as error:
        raise BenchSafetyError(f"{file}: {error.strerror}: name a tab-separated file with the columns {', '.join(COLUMNS)}.") from None
    head = tuple(lines[0].strip().split("\t"))
    if head != COLUMNS:
        raise BenchSafetyError(f"{file}:1: the columns are {', '.join(head)!r}: they must be {', '.join(COLUMNS)}, parted by tabs.")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        parts = line.split("\t", 2)
        if len(parts) < 3 or parts[0] not in ("0", "1"):
            raise BenchSafetyError(f"{file}:{number}: {line[:40]!r}: needed are 0 or 1, a tab, the source, a tab, the text.")
        rows.append(Row(parts[0] == "1", parts[1], parts[2]))
    if not rows:
        raise BenchSafetyError(f"{file}: no sentence in it.")
    return rows


def wilson(hits: int, n: int) -> list[float]:
    """The 95 % interval of a proportion (Wilson 1927, JASA 22:209), [low, high]."""
    z = 1.959964
    middle, half = hits + z * z / 2, z * (hits * (n - hits) / n + z * z / 4) ** 0.5
    return [round(max(0.0, (middle - half) / (n + z * z)), 4), round(min(1.0, (middle + half) / (n + z * z)), 4)]


def figures(rows: Iterable[Row], judge: Callable[[str], Alert | None] = check) -> dict[str, Any]:
    """`recall` and `false_positive_rate` over all and of each source, each with its Wilson interval; absent where there is none."""
    caught = [(row, judge(row.text) is not None) for row in rows]
    out = _rates(caught)
    names = dict.fromkeys(row.source for row, _ in caught)
    out["sources"] = {name: _rates([(row, hit) for row, hit in caught if row.source == name]) for name in names}
    return out


def _rates(caught: list[tuple[Row, bool]]) -> dict[str, Any]:
    out: dict[str, Any] = {"n": len(caught)}
    for name, risk in (("recall", True), ("false_positive_rate", False)):
        hits = [hit for row, hit in caught if row.risk is risk]
        if hits:
            out[name] = round(sum(hits) / len(hits), 4)
            out[f"{name}_interval"] = wilson(sum(hits), len(hits))
            out[f"{name}_counts"] = [sum(hits), len(hits)]
    return out


def table(found: dict[str, Any]) -> list[str]:
    lines = [f"{'source':<22}{'recall':>28}{'false positives':>30}"]
    for name, part in [*found["sources"].items(), ("over all", found)]:
        cells = [_cell(part, key) for key in ("recall", "false_positive_rate")]
        lines.append(f"{name:<22}{cells[0]:>28}{cells[1]:>30}")
    return lines


def _cell(part: dict[str, Any], key: str) -> str:
    if key not in part:
        return "-"
    (hits, n), (low, high) = part[f"{key}_counts"], part[f"{key}_interval"]
    return f"{hits}/{n} = {part[key]:.3f} ({low:.3f}-{high:.3f})"


def bench_safety(file: Path, report: str | None, wrong: bool, aloud: Settings | None = None) -> int:
    """Print the table; `wrong`: also each sentence that was missed or mistaken. 0 unless the file can't be read.

    `aloud`: also what is left of the figures when the sentences are spoken and heard by these settings' recogniser.
    """
    rows = read(file)
    found = figures(rows)
    print("\n".join(table(found)))
    if wrong:
        for row in rows:
            alert = check(row.text)
            if (alert is not None) != row.risk:
                print(f"{'missed' if row.risk else alert.rule if alert else ''}\t{row.source}\t{row.text}")
    if aloud is not None:
        from device.bench_speech import bench_speech

        found["speech"] = bench_speech(rows, aloud, wrong)
    if report:
        Path(report).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0
