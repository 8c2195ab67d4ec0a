"""`bedside eeg report`: one page of a recording that a clinician reads in ten seconds, as HTML or PNG. It judges nothing."""

from __future__ import annotations

import base64
import html
from collections import Counter
from pathlib import Path

import numpy as np

from device.bdf import Reader
from device.recording import GAP
from device.report_picture import COLOURS, EVENTS, draw
from device.review import BANDS, VERDICTS, Array, Review, Span, choose_baseline, review

NOT = "A companion, not a medical device: this page is no diagnosis, and says nothing about feelings, pain or another person."


class ReportError(Exception):
    """Why there is no report, and the way out."""


def report(file: Path, out: Path | None, baseline: Path | None, usual: Path | None, quiet: Span | None, closed: Span | None = None) -> Path:
    """Write the page beside `file`, or to `out` (.html or .png), and return where. Raises BdfError, BaselineError, ReportError."""
    target = out or file.with_suffix(".html")
    if target.suffix not in (".html", ".png"):
        raise ReportError(f"{target}: give --out a name that ends in .html or .png.")
    recording = Reader(file)
    if recording.seconds < 10:
        raise ReportError(f"{file} holds {recording.seconds:.0f} s: a report needs 10 s at least.")
    seen = review(recording, *choose_baseline(recording, baseline, usual, quiet, closed))
    picture = draw(seen, figures(seen), NOT)
    try:
        if target.suffix == ".png":
            target.write_bytes(picture)
        else:
            target.write_text(page(seen, picture), encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{target} can't be written ({error.strerror}): name another with --out.") from None
    return target


def span(seconds: float) -> str:
    """3 h 5 min, 12 min 30 s or 42 s."""
    hours, minutes, rest = int(seconds) // 3600, int(seconds) % 3600 // 60, int(seconds) % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def figures(seen: Review) -> list[tuple[str, str, str]]:
    """(large figure, what it is, why it is what it is), for the top of the picture and of the page."""
    estimated = float(np.isfinite(seen.relaxation).mean())
    engaged = float(np.isfinite(seen.engagement).mean())
    counted = Counter(m.text.split(":")[0] for m in seen.marks)
    told = [f"{counted[text]} {plural(text) if counted[text] > 1 else text}" for text in EVENTS if counted[text]]
    lost = sum(m.seconds for m in seen.marks if m.text == GAP and m.seconds >= 1)
    best = [name for name, share in zip(seen.names, seen.clean(), strict=True) if share >= 0.5]
    shown = f"{len(best)} of {len(seen.names)} channels clean most of the time"
    return [
        (span(seen.seconds), f"recorded on {seen.began:%d %b %Y} from {seen.began:%H:%M}", f"{span(lost)} without signal" if lost else ""),
        (f"{seen.usable():.0%}", "of the time the signal was usable", shown),
        (f"{estimated:.0%}", "of the time relaxation was estimated", _sure(seen, seen.relaxation)),
        (f"{engaged:.0%}", "of the time engagement was estimated", _sure(seen, seen.engagement)),
        (str(sum(counted[text] for text in EVENTS)), "events at the bedside", ", ".join(told) or "none marked"),
    ]


def _sure(seen: Review, values: Array) -> str:
    there = np.isfinite(values)
    return f"confidence {seen.confidence[there].mean():.2f}, where 1 is certain" if there.any() else "left blank, not zero"


def plural(word: str) -> str:
    return f"{word}es" if word.endswith("s") else f"{word[:-1]}ies" if word.endswith("ly") else f"{word}s"


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22303c;max-width:1180px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin-bottom:.1em} h2{font-size:1.1em;margin-top:2em} .not{color:#9a2f28;margin-top:0} .soft{color:#6b7885}
img{width:100%;height:auto} table{border-collapse:collapse}
td,th{padding:.25em .9em .25em 0;text-align:left;border-bottom:1px solid #e3e7ea}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} i{display:inline-block;width:.8em;height:.8em;border:1px solid #b5bdc5}
"""


def page(seen: Review, picture: bytes) -> str:
    """One HTML file with everything in it: no script, nothing fetched."""
    image = base64.b64encode(picture).decode("ascii")
    name = html.escape(seen.file.name)
    cut = "" if seen.whole else "<p>The recording ended without being closed (a power cut, perhaps); every whole second of it is here.</p>"
    told = "; ".join(f"{large} {what}" for large, what, _ in figures(seen))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>EEG session {seen.began:%d %b %Y, %H:%M}</title><style>{STYLE}</style></head><body>
<h1>EEG session of {seen.began:%d %b %Y, %H:%M}</h1>
<p class="not">{html.escape(NOT)}</p>{cut}
<img alt="{html.escape(told)}" src="data:image/png;base64,{image}">
<h2>Channels</h2>{_channels(seen)}
<h2>Why nothing was estimated</h2>{_reasons(seen)}
<h2>At the bedside</h2>{_marks(seen)}
<h2>How to read it</h2>
<p>Each second is judged by the 4 s that end with it. Relaxation compares alpha above the 1/f background with the wearer's own quiet
baseline; more alpha also comes from closing the eyes and from drowsiness. {html.escape(seen.reference)} Valence is not estimated from
EEG. Where the signal is poor the page is blank: blank is not zero.</p>
<p class="soft">{name}, {seen.rate:g} Hz, {len(seen.names)} channels, {seen.seconds} s. Written by Bedside Companion.</p>
</body></html>
"""


def _table(heads: list[str], rows: list[list[str]], words: int = 1) -> str:
    """The first `words` columns are text, the others numbers. Cells are HTML already."""
    kinds = ["" if i < words else ' class="n"' for i in range(len(heads))]
    head = "".join(f"<th{k}>{h}</th>" for k, h in zip(kinds, heads, strict=True))
    body = "".join("<tr>" + "".join(f"<td{k}>{c}</td>" for k, c in zip(kinds, row, strict=True)) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _channels(seen: Review) -> str:
    codes = [code for code in range(len(VERDICTS)) if (seen.verdicts == code).any()]
    heads = ["channel", *(f'<i style="background:{COLOURS[VERDICTS[c]]}"></i> {VERDICTS[c]}' for c in codes)]
    rows = [[html.escape(n), *(f"{(v == c).mean():.0%}" for c in codes)] for n, v in zip(seen.names, seen.verdicts, strict=True)]
    middle = [f"{name} {np.nanmedian(seen.bands[name]):.1f}" for name in BANDS if np.isfinite(seen.bands[name]).any()]
    bands = f"<p>Middle band power, µV rms: {', '.join(middle)}.</p>" if middle else "<p>No second had a clean signal on two channels.</p>"
    return _table(heads, rows) + bands


def _reasons(seen: Review) -> str:
    rows = [[html.escape(reason), str(count)] for reason, count in seen.reasons.most_common(8)]
    return _table(["reason", "seconds"], rows) if rows else "<p>Every second with signal had an estimate.</p>"


def _marks(seen: Review, most: int = 500) -> str:
    rows = [[span(m.onset), html.escape(m.text), f"{m.seconds:.1f} s" if m.seconds else ""] for m in seen.marks[:most]]
    more = f"<p>… and {len(seen.marks) - most} more.</p>" if len(seen.marks) > most else ""
    return _table(["after", "what", "length"], rows, 2) + more if rows else "<p>Nothing was marked.</p>"
