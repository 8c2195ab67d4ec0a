"""The conversation as CSM hears it: segments of text and sound, and the cache that holds them.

The history is a list of segments; each is a run of rows: its text ids, its frames, and an all-zero row that
closes it. `filled` says how many of the rows are in the model's cache. Whatever changes the history only lowers
`filled`; `catch_up` lets the model listen to the rest, all of it in one batch. So nothing is computed twice, and
the cache can't disagree with the history. It knows no sound card, no Mimi and no thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from device.voice.csm import Csm
from device.voice.plain import VoiceFault

DEVICE, PATIENT = "0", "1"  # speakers, written into the text as [0] and [1]


@dataclass(eq=False)
class Segment:
    """One thing that was said: who, the words, their ids, and its frames (n, codebooks)."""

    speaker: str
    text: str
    ids: list[int]
    codes: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    closed: bool = True  # False while it is still being spoken

    @property
    def rows(self) -> int:
        return len(self.ids) + len(self.codes) + self.closed


class Conversation:
    """The history and its cache. A `reference` segment comes first and is never forgotten."""

    def __init__(self, csm: Csm, reference: Segment | None = None) -> None:
        self.csm = csm
        self.capacity = csm.shape.backbone.positions
        self.segments: list[Segment] = []
        self.pinned = 0
        self.filled = 0  # rows of the history that are in the cache
        if reference is not None:
            if reference.rows > self.capacity // 2:
                raise VoiceFault(
                    f"The reference voice takes {reference.rows} of CSM's {self.capacity} positions: give a shorter one."
                )
            self.append(reference)
            self.pinned = 1

    @property
    def rows(self) -> int:
        """Rows of the whole history."""
        return sum(segment.rows for segment in self.segments)

    @property
    def pinned_rows(self) -> int:
        return sum(segment.rows for segment in self.segments[: self.pinned])

    @property
    def reference(self) -> Segment | None:
        return self.segments[0] if self.pinned else None

    def refer_to(self, reference: Segment) -> None:
        """Another one in its place; all that follows must be listened to again. Without room for it nothing changes."""
        rows = self.rows - self.pinned_rows + reference.rows
        if self.pinned and reference.rows <= self.capacity // 2 and rows <= self.capacity:
            self.segments[0], self.filled = reference, 0

    def append(self, segment: Segment) -> Segment:
        self.segments.append(segment)
        return segment

    def add_frame(self, segment: Segment, codes: Tensor) -> None:
        """One more frame (codebooks,) of the segment that is being spoken, the last one."""
        segment.codes = codes[None] if not len(segment.codes) else torch.cat([segment.codes, codes[None]])

    @torch.inference_mode()
    def catch_up(self, most: int | None = None) -> Tensor | None:
        """Let the model listen to the rows that are not in its cache, at most `most` of them.

        (1, width): what it makes of the last one; None when there was nothing to listen to. Raises
        VoiceFault when the history is longer than the cache.
        """
        end = self.rows
        if end > self.capacity:
            raise VoiceFault(f"The conversation takes {end} positions and CSM has {self.capacity}: give it a shorter one.")
        if most is not None:
            end = min(end, self.filled + most)
        if end == self.filled:
            return None
        hidden = self.csm.listen(self._rows(self.filled, end), self.filled)[-1:]
        self.filled = end
        return hidden

    def _rows(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of the history as embeddings (last - first, width)."""
        out, at = [], 0
        for segment in self.segments:
            begin, end = max(first - at, 0), min(last - at, segment.rows)
            if begin < end:
                out.append(self._segment_rows(segment, begin, end))
            at += segment.rows
        return torch.cat(out)

    def _segment_rows(self, segment: Segment, first: int, last: int) -> Tensor:
        """Rows of one segment: text, then frames, then the all-zero frame."""
        text, frames = len(segment.ids), len(segment.codes)
        out = []
        if first < text:
            out.append(self.csm.text_rows(segment.ids[first:last]))
        begin, end = max(first - text, 0), min(last - text, frames)
        if begin < end:
            out.append(self.csm.sound_rows(segment.codes[begin:end]))
        if last > text + frames:
            out.append(self.csm.sound_rows(torch.zeros(1, self.csm.shape.codebooks, dtype=torch.long)))
        return torch.cat(out)

    def starts_at(self, segment: Segment) -> int:
        """The row at which a segment begins."""
        return sum(s.rows for s in self.segments[: self._index(segment)])

    def _index(self, segment: Segment) -> int:
        return next(number for number, s in enumerate(self.segments) if s is segment)

    def remove(self, segment: Segment) -> None:
        """Forget a segment. What follows must be listened to again: it was heard after it."""
        self.filled = min(self.filled, self.starts_at(segment))
        del self.segments[self._index(segment)]

    def cut(self, segment: Segment, text: str, ids: list[int], frames: int) -> None:
        """Only `frames` frames of the segment, and of its words `text`, were really heard."""
        begin = self.starts_at(segment)
        same = ids == segment.ids
        if same and frames >= len(segment.codes):
            return
        self.filled = min(self.filled, begin + len(ids) + frames if same else begin)
        segment.text, segment.ids, segment.codes = text, ids, segment.codes[:frames]

    def make_room(self, rows: int, keep: int = 0) -> int:
        """Forget the oldest whole turns until `rows` more fit, but for the newest `keep`. Returns the segments that went.

        A turn is what the patient said and what was answered. Raises VoiceFault, and forgets nothing, when it can't fit.
        """
        if not keep and self.pinned_rows + rows > self.capacity:
            free = self.capacity - self.pinned_rows
            raise VoiceFault(f"A reply of up to {rows} positions does not fit CSM's {free} free ones: lower words.max_words.")
        gone = 0
        while self.rows + rows > self.capacity and len(turns := self.turns()) > keep:
            for segment in turns[0]:
                self.remove(segment)
            gone += len(turns[0])
        return gone

    def turns(self) -> list[list[Segment]]:
        """The segments after the reference, each turn beginning where somebody else than the device speaks."""
        out: list[list[Segment]] = []
        for segment in self.segments[self.pinned :]:
            if not out or segment.speaker != DEVICE:
                out.append([])
            out[-1].append(segment)
        return out


def read_segments(data: Any, name: str, codebooks: int, ids: int) -> list[dict[str, Any]]:
    """Check a conversation as JSON: {"segments": [{"speaker", "text", "codes" or "audio"}]} or the bare list.

    `codes` is frames of `codebooks` integers below `ids`. Returns the segments with speaker and text as strings and
    codes as a tensor (frames, codebooks). Raises VoiceFault naming the segment, the key and what is right.
    """
    listed = data.get("segments") if isinstance(data, Mapping) else data
    if not isinstance(listed, list):
        raise VoiceFault(f'{name} is no conversation: it must hold {{"segments": [{{"speaker": 0, "text": "…", "codes": […]}}]}}.')
    return [_read_segment(item, f"{name}, segment {number}", codebooks, ids) for number, item in enumerate(listed, 1)]


def _read_segment(item: Any, where: str, codebooks: int, ids: int) -> dict[str, Any]:
    if not isinstance(item, Mapping) or not {"speaker", "text"} <= set(item):
        raise VoiceFault(f"{where}: it must have a speaker and a text.")
    unknown = sorted(set(item) - {"speaker", "text", "codes", "audio"})
    if unknown:
        raise VoiceFault(f"{where}: the key {unknown[0]!r} is unknown; known are speaker, text, codes and audio.")
    if ("codes" in item) == ("audio" in item):
        raise VoiceFault(f"{where}: it must have either codes or audio.")
    out = {**item, "speaker": str(item["speaker"]), "text": str(item["text"])}
    if "codes" in item:
        out["codes"] = _read_codes(item["codes"], where, codebooks, ids)
    return out


def _read_codes(codes: Any, where: str, codebooks: int, ids: int) -> Tensor:
    frames: Iterable[Any] = codes if isinstance(codes, list) else [codes]
    for number, frame in enumerate(frames, 1):
        if not isinstance(frame, list) or len(frame) != codebooks:
            found = len(frame) if isinstance(frame, list) else repr(frame)
            raise VoiceFault(f"{where}: frame {number} has {found} codes and not {codebooks}.")
        wrong = [code for code in frame if type(code) is not int or not 0 <= code < ids]
        if wrong:
            raise VoiceFault(f"{where}: frame {number} holds {wrong[0]!r}, which is no code from 0 to {ids - 1}.")
    return torch.tensor(codes, dtype=torch.long).reshape(-1, codebooks)
