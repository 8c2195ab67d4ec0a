"""What the model learns from: utterances one after another, as rows of text and sound, and what should follow each row.

A row is one position of the backbone, as in `device/voice/conversation.py`: text ids, then frames, then the all-zero frame
that ends the speech. It knows no file and no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Utterance:
    """One thing that was said: text ids, codes (frames, codebooks), and whether the model should learn to say it.

    `ends`, where it is known: for each id the frame at which its sound is over, from the utterance's first; the last id has the end.
    """

    ids: tuple[int, ...]
    codes: np.ndarray
    learn: bool = True
    ends: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.ids) + len(self.codes) + 1


class Batch(NamedTuple):
    """Some sequences: ids (batch, rows), -1 where a row is sound; codes (batch, rows, codebooks); `after` (the same), the codes of
    the frame that follows; `learn` (batch, rows), true where a frame should follow.

    Where it is known what is read when: `sounds` (batch, rows, 2), from which frame to which a row of text sounds, and `reads`
    (batch, rows), which frame should follow a row, or -1. Frames are counted through a sequence, whoever speaks.
    """

    ids: Tensor
    codes: Tensor
    after: Tensor
    learn: Tensor
    sounds: Tensor
    reads: Tensor


def sequence(said: Sequence[Utterance]) -> tuple[np.ndarray, ...]:
    """The parts of a Batch for one sequence."""
    size, books = sum(one.rows for one in said), said[0].codes.shape[1]
    ids, learn = np.full(size, -1, np.int64), np.zeros(size, bool)
    codes = np.zeros((size, books), np.int64)
    sounds, reads = np.zeros((size, 2), np.float32), np.full(size, -1, np.float32)
    at = frame = 0
    for one in said:
        text, frames = len(one.ids), len(one.codes)
        asks = slice(at + text - 1, at + text + frames)  # the last text row is followed by sound, the last frame by the end
        ids[at : at + text] = one.ids
        codes[at + text : at + text + frames] = one.codes
        learn[asks] = one.learn
        if one.learn and one.ends:
            sounds[at : at + text] = frame + np.stack([[0, *one.ends[:-1]], one.ends], 1)
            reads[asks] = frame + np.arange(frames + 1)
        at, frame = at + one.rows, frame + frames + 1
    return ids, codes, np.concatenate([codes[1:], np.zeros_like(codes[:1])]), learn, sounds, reads


def batch(sequences: Iterable[Sequence[Utterance]]) -> Batch:
    """Sequences of different lengths, the shorter ones filled up with text that nothing follows."""
    made = [sequence(said) for said in sequences]
    longest = max(len(ids) for ids, *_ in made)
    out = []
    for part in range(len(made[0])):
        filled = [np.pad(m[part], [(0, longest - len(m[part]))] + [(0, 0)] * (m[part].ndim - 1)) for m in made]
        out.append(torch.from_numpy(np.stack(filled)))
    return Batch(*out)


def cut(said: Sequence[Utterance], positions: int) -> Iterator[list[Utterance]]:
    """A long conversation as sequences of at most `positions` rows: whole utterances, each learnt once.

    Half of a sequence comes again as the context of the next. An utterance longer than `positions` is left out.
    """
    start = learnt = 0
    while learnt < len(said):
        end, rows = start, 0
        while end < len(said) and rows + said[end].rows <= positions:
            rows += said[end].rows
            end += 1
        if end <= learnt:  # more of what came before must go, or this one alone is too long
            start, learnt = (start + 1, learnt) if start < learnt else (learnt + 1, learnt + 1)
            continue
        yield [replace(one, learn=one.learn and number >= learnt) for number, one in enumerate(said[start:end], start)]
        learnt = end
        start = max(start + 1, end - (end - start + 1) // 2)


class Mixer:
    """Conversations made up of single utterances without end: the device's, here and there after a patient's."""

    def __init__(self, device: Sequence[Utterance], patient: Sequence[Utterance], positions: int, seed: int, answers: float = 0.3) -> None:
        """`answers`: share of the device's utterances that come after a patient's."""
        self.device = [one for one in device if one.rows <= positions]
        self.patient, self.positions, self.answers = patient, positions, answers
        if not self.device:
            raise ValueError(f"none of the {len(device)} utterances fits into {positions} positions")
        self.chance = np.random.default_rng(seed)
        self._order: list[int] = []

    def _next(self) -> int:
        if not self._order:  # each once, then again in another order
            self._order = self.chance.permutation(len(self.device)).tolist()
        return self._order.pop()

    def draw(self) -> list[Utterance]:
        """One sequence of at most `positions` rows."""
        said: list[Utterance] = []
        rows = 0
        while True:
            number = self._next()
            one, before = self.device[number], self._before()
            size = one.rows + sum(other.rows for other in before)
            if not said and size > self.positions:
                before, size = [], one.rows
            if rows + size > self.positions:
                self._order.insert(int(self.chance.integers(len(self._order) + 1)), number)  # its turn comes later
                return said
            said += [*before, one]
            rows += size

    def _before(self) -> list[Utterance]:
        asked = bool(self.patient) and self.chance.random() < self.answers
        return [self.patient[int(self.chance.integers(len(self.patient)))]] if asked else []


class Deck:
    """Whole conversations without end: each is learnt once, then again in another order and cut at another length.

    So that what is said is learnt after much context and after little: a voice must also begin well.
    """

    def __init__(self, conversations: Sequence[Sequence[Utterance]], positions: int, batch: int, seed: int, rank: int = 0) -> None:
        """`rank`: of this process, each having an order of its own. Raises ValueError where there is nothing to learn."""
        self.conversations, self.positions, self.batch = conversations, positions, batch
        self.chance = np.random.default_rng([seed, rank])
        self._left: list[list[Utterance]] = []
        if not learnable(conversations, positions):
            raise ValueError(f"nothing of {len(conversations)} conversations can be learnt in {positions} positions")

    def _deal(self) -> list[list[Utterance]]:
        out = []
        for said in self.conversations:
            least = max((one.rows for one in said if one.rows <= self.positions), default=self.positions)
            out += learnable([said], int(self.chance.integers(least, self.positions + 1)))
        self.chance.shuffle(out)  # type: ignore[arg-type]
        return out

    def draw(self) -> Batch:
        """The next `batch` sequences."""
        while len(self._left) < self.batch:
            self._left += self._deal()
        drawn, self._left = self._left[: self.batch], self._left[self.batch :]
        return batch(drawn)


def learnable(conversations: Iterable[Sequence[Utterance]], positions: int) -> list[list[Utterance]]:
    """All conversations as sequences of at most `positions` rows, but for those that hold nothing to learn."""
    return [said for whole in conversations for said in cut(whole, positions) if any(one.learn for one in said)]
