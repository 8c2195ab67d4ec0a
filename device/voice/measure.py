"""What the voice costs and what its precision loses, measured on a CSM in memory. It prints nothing.

Speed: each part of a frame apart, and the wait from a text to its first sound at several lengths of history.
Fidelity: the same codes forced upon two precisions, and their logits compared codebook by codebook.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from device.turn import FRAME
from device.voice.beside import Beside
from device.voice.csm import Csm, Sampling
from device.voice.mimi import Mimi

HEARD = 5  # frames that Mimi encodes at once while the patient speaks
SPOKEN = 4  # frames of a sentence in a round
HISTORIES = (0, 500, 1000, 1900)  # positions
PREFILL = 60  # rows: what a patient says in 3 s, text and frames
TEXT = 20  # rows of a short clause: "[0]That sounds hard. Tell me more." and its two marks


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long `work` takes, with what a GPU has been given to do."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def read_speed(device: str) -> float:
    """GB/s of torch's own sum over memory that no cache holds: the best of three."""
    memory = torch.ones((1 << 30) // 4 if device != "cpu" else 1 << 27, device=device)
    memory.sum()
    return max(memory.nbytes / seconds(memory.sum, memory.device) / 1e9 for _ in range(3))


class Speed:
    """One round is one look at every figure; rounds of several models may alternate."""

    def __init__(self, csm: Csm, mimi: Mimi, text: int = TEXT) -> None:
        self.csm, self.mimi = csm, mimi
        self._codes = torch.randint(1, csm.shape.sounds, (csm.shape.codebooks,), generator=torch.Generator().manual_seed(0))
        self._text = list(range(1, text + 1))
        self._batch = torch.zeros(min(PREFILL, csm.shape.backbone.positions), csm.shape.backbone.width, device=csm.device, dtype=csm.dtype)
        self._batch.normal_()
        self._sampling = Sampling(csm.shape.sounds, generator=torch.Generator(csm.device).manual_seed(0))
        self._sound = np.random.default_rng(0).normal(0, 0.1, HEARD * FRAME).astype(np.float32)
        self._decoding = Beside(csm.device)
        limit = csm.shape.backbone.positions - text - 1
        self.histories = [rows for rows in HISTORIES if rows <= limit]
        # What the history holds does not change how long it takes, but zeros may be faster to add than numbers.
        for cache in (csm.backbone.keys, csm.backbone.values):
            cache.normal_()

    @torch.inference_mode()
    def round(self) -> dict[str, float]:
        """Seconds of: depth (32 codes), backbone (a step at 500), decode and encode (Mimi, a frame), spoken (a frame of a
        sentence, all told), prefill (PREFILL rows), and first_N (text to sound after N rows)."""
        csm, device = self.csm, self.csm.device
        hidden = self._hidden = csm.listen(csm.text_rows(self._text), 0)[-1:]
        row, middle = csm.sound_rows(self._codes[None]), self.histories[min(1, len(self.histories) - 1)]
        self.mimi.start_decoding()
        self.mimi.decode(self._codes)
        out = {
            "depth": seconds(lambda: csm.frame(hidden, self._sampling), device),
            "backbone": seconds(lambda: csm.listen(row, middle), device),
            "decode": seconds(lambda: self.mimi.decode(self._codes), device),
        }
        self.mimi.start_encoding()
        out["encode"] = seconds(lambda: self.mimi.encode(self._sound), device) / HEARD
        out["spoken"] = seconds(lambda: self._speak(middle), device) / SPOKEN
        rows, start = self._batch, min(middle, csm.shape.backbone.positions - len(self._batch))
        out["prefill"] = seconds(lambda: csm.listen(rows, start), device)
        for history in self.histories:
            out[f"first_{history}"] = seconds(lambda history=history: self._first(history), device)  # type: ignore[misc]
        return out

    def _speak(self, position: int) -> None:
        """SPOKEN frames as a sentence has them: Mimi's step beside the next frame's codes."""
        hidden, decoding = self._hidden, None
        for number in range(SPOKEN):
            codes, _ = self.csm.frame(hidden, self._sampling)
            if decoding:
                decoding.result()
            decoding = self._decoding.submit(self.mimi.decode, codes)
            hidden = self.csm.listen(self.csm.sound_rows(codes[None]), position + number)
        assert decoding
        decoding.result()

    def _first(self, history: int) -> None:
        hidden = self.csm.listen(self.csm.text_rows(self._text), history)[-1:]
        codes, _ = self.csm.frame(hidden, self._sampling)
        self.mimi.start_decoding()
        self.mimi.decode(codes)


@torch.inference_mode()
def chatter(csm: Csm, mimi: Mimi, text: int = TEXT) -> Iterator[None]:
    """Frames without end: a depth loop, a Mimi step, a backbone step, one after the other. Yields after each frame."""
    sampling = Sampling(csm.shape.sounds, generator=torch.Generator(csm.device).manual_seed(0))
    while True:
        mimi.start_decoding()
        hidden = csm.listen(csm.text_rows(list(range(1, text + 1))), 0)[-1:]
        for position in range(text, csm.shape.backbone.positions):
            codes, _ = csm.frame(hidden, sampling)
            mimi.decode(codes)
            hidden = csm.listen(csm.sound_rows(codes[None]), position)
            yield


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, object]:
    """Medians: seconds_per_frame of CSM, rtf of a sentence with Mimi, their parts, prefill_s of PREFILL rows, first_frame_s by history."""
    middle = {name: median(r[name] for r in rounds) for name in rounds[0]}
    frame = middle["depth"] + middle["backbone"]
    return {
        "seconds_per_frame": round(frame, 4),
        "depth_s": round(middle["depth"], 4),
        "backbone_s": round(middle["backbone"], 4),
        "mimi_decode_s": round(middle["decode"], 4),
        "mimi_encode_s": round(middle["encode"], 4),
        "prefill_s": round(middle["prefill"], 4),
        "rtf": round(middle["spoken"] / 0.08, 2),
        "first_frame_s": {name.removeprefix("first_"): round(value, 3) for name, value in middle.items() if name.startswith("first_")},
    }


def weight_bytes(csm: Csm) -> dict[str, int]:
    """Bytes of the weights on the device, of the keys and values, and of the text table that stays a mapped file."""
    seen: set[int] = set()
    total = 0
    for tensor in csm.state_dict().values():
        for part in _inner(tensor):
            if part.data_ptr() not in seen:
                seen.add(part.data_ptr())
                total += part.nbytes
    caches = [cache for stack in (csm.backbone, csm.depth) for cache in (stack.keys, stack.values)]
    return {"weights": total, "cache": sum(cache.nbytes for cache in caches), "text_on_disk": csm.text.nbytes}


def frame_bytes(csm: Csm, history: int = 500) -> int:
    """Bytes that one frame reads: the backbone and every head once, the depth decoder for each further code, and the cache.

    (csm.md, roofline.) What the caches of the processor keep of it is not taken off.
    """
    times = csm.shape.codebooks - 1
    backbone, depth = (sum(_nbytes(tensor) for tensor in stack.state_dict().values()) for stack in (csm.backbone, csm.depth))
    heads = sum(_nbytes(head.weight) for head in csm.heads)  # type: ignore[arg-type]
    kept = sum(cache.nbytes for cache in (csm.backbone.keys, csm.backbone.values)) * history // csm.shape.backbone.positions
    return int(backbone + heads + times * (depth + _nbytes(csm.projection.weight)) + kept)


def prefill_flop(csm: Csm, rows: int, history: int = 500) -> float:
    """Multiplications and additions of `rows` rows through the backbone, with their attention."""
    s = csm.shape.backbone
    weights = s.layers * s.width * (2 * (s.heads + s.kv_heads) * s.head + 3 * s.ffn)
    attention = s.layers * s.heads * s.head * 2 * (history + rows / 2)
    return 2.0 * rows * (weights + attention)


def _inner(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a quantised one is made of."""
    parts = tensor.__tensor_flatten__()[0] if hasattr(tensor, "__tensor_flatten__") else []
    return [getattr(tensor, name) for name in parts] or [tensor]


def _nbytes(tensor: Tensor) -> int:
    return sum(part.nbytes for part in _inner(tensor))


@torch.inference_mode()
def forced(csm: Csm, text: list[int], codes: Tensor) -> Tensor:
    """Log-probabilities (frames, codebooks, ids) in fp32 of each frame of `codes` (frames, codebooks), the ones before it given."""
    rows = torch.cat([csm.text_rows(text), csm.sound_rows(codes[:-1])])
    hidden = csm.listen(rows, 0)[len(text) - 1 :]
    return torch.stack([F.log_softmax(csm.forced_logits(hidden[n : n + 1], codes[n]), -1).cpu() for n in range(len(codes))])


@torch.inference_mode()
def sampled(csm: Csm, text: list[int], frames: int, seed: int = 0) -> Tensor:
    """(frames, codebooks) that this model says after `text`; they are what is forced upon the others."""
    sampling = Sampling(csm.shape.sounds, generator=torch.Generator(csm.device).manual_seed(seed))
    hidden, out = csm.listen(csm.text_rows(text), 0)[-1:], []
    for number in range(frames):
        codes, _ = csm.frame(hidden, sampling)
        out.append(codes)
        hidden = csm.listen(csm.sound_rows(codes[None]), len(text) + number)
    return torch.stack(out).cpu()


def compare(wanted: Tensor, found: Tensor) -> dict[str, list[float]]:
    """Per codebook: mean KL divergence of `found` from `wanted` in nats, and the share of frames with the same arg-max."""
    kl = (wanted.exp() * (wanted - found)).sum(-1).mean(0)
    same = (wanted.argmax(-1) == found.argmax(-1)).float().mean(0)
    return {"kl": [round(float(x), 5) for x in kl], "same": [round(float(x), 4) for x in same]}
