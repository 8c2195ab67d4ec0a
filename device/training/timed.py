"""The packaged voice with a clock: when each phoneme of a text sounds. For training alone.

hibari's graph decides for each phoneme how many steps of 25 ms it takes, and keeps that to itself. Here it tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from device.voice.plain import PlainVoice, bounds

STEPS = b"/Cast_32_output_0"  # of hibari 0.2.1, pinned in plain.py: int64 (ids,), how many steps each id takes
STEP = 600  # samples at 24 kHz


class Timed(NamedTuple):
    """`sound` int16 (samples,) of `phonemes`; `ends` int (characters,): the sample at which each character's sound is over."""

    phonemes: str
    sound: np.ndarray
    ends: np.ndarray


class TimedVoice(PlainVoice):
    """The plain voice, bit for bit."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._hibari.sess = self._session = _Telling(Path(self._hibari.model_path), threads)

    def timed(self, text: str) -> Timed:
        """`text` as `sounds` says it, with the time of each of its phonemes."""
        chance, said, ends, at = self.breath(), list[np.ndarray](), list[int](), 0
        pieces = list(self.pieces(text))
        for piece in pieces:
            sound = self.speak(piece, 1.0, chance)
            begin, end = bounds(sound)
            over = iter(np.clip(np.cumsum(self._session.steps) * STEP - begin, 0, end - begin)[1:])  # the first id is a pause
            for character in piece:
                ends.append(at + int(next(over)) if character in self._hibari.vocab else ends[-1] if ends else at)
            at += end - begin
            if piece is not pieces[-1]:
                ends.append(at)  # the space that joins two pieces
            said.append(sound[begin:end])
        return Timed(" ".join(pieces), np.concatenate([np.zeros(0, np.int16), *said]), np.array(ends, np.int64))


class _Telling:
    """hibari's session, with one more output, which it keeps in `steps`."""

    def __init__(self, model: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(model.read_bytes() + _output(STEPS), options, providers=["CPUExecutionProvider"])
        self.steps = np.zeros(0, np.int64)

    def run(self, names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        *sound, self.steps = self._session.run(names, feeds)
        return sound


def _output(name: bytes) -> bytes:
    """A ModelProto that holds nothing but one output of its graph: two protocol buffers one after the other are merged.

    (protobuf.dev, "Encoding": "Last One Wins"; onnx.proto: ModelProto.graph 7, GraphProto.output 12, ValueInfoProto.name 1.)
    """
    for field in (1, 12, 7):
        name = bytes([field << 3 | 2, len(name)]) + name
    return name
