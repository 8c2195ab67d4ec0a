"""The peer that CSM's speed is held against: transformers' own CsmForConditionalGeneration, in every setting that it has.

It runs in a process of its own and knows nothing of ours.
"""

from __future__ import annotations

import itertools
import time
from statistics import median
from typing import Any

CACHES = ("dynamic", "static")
FRAMES = 4  # of a round that are timed; the first of a sentence, with its prefill, is not
PROMPT = 20  # text ids before them


class Peer:
    """transformers' CSM at one dtype, sampling as it does by default. A round times each kind of cache."""

    def __init__(self, checkpoint: str, dtype: str, device: str) -> None:
        """`checkpoint` "": CSM-1B's shape with random weights. dtype: fp32 or bf16."""
        import torch

        self._dtype, self._device = dtype, device
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self._model = _random(kind, device) if not checkpoint else _stored(checkpoint, kind, device)
        how: Any = self._model.generation_config
        how.update(do_sample=True, temperature=0.9, top_k=50)
        inner: Any = self._model.depth_decoder.generation_config
        inner.update(do_sample=True, temperature=0.9, top_k=50)
        for config in (how, inner):
            config.disable_compile = True  # on a CPU it would not compile; elsewhere it would for minutes
        vocabulary = self._model.config.text_vocab_size
        self._ids = torch.arange(1, PROMPT + 1, device=device)[None] % vocabulary

    def round(self) -> dict[str, float]:
        """Seconds a frame by setting: "fp32 dynamic" and "fp32 static"."""
        return {f"{self._dtype} {cache}": self._seconds(cache) for cache in CACHES}

    def _seconds(self, cache: str) -> float:
        import torch

        static = "static" if cache == "static" else None
        self._model.depth_decoder.generation_config.cache_implementation = static
        asked = {"cache_implementation": static} if static else {}
        times = _Times()
        with torch.inference_mode():
            self._model.generate(
                input_ids=self._ids,
                attention_mask=torch.ones_like(self._ids),
                max_new_tokens=FRAMES + 1,
                min_new_tokens=FRAMES + 1,
                streamer=times,
                output_audio=False,
                **asked,
            )
        after = times.at[1:]  # the first is the prompt
        return median(b - a for a, b in itertools.pairwise(after))


class _Times:
    """A streamer that only looks at the clock."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: Any) -> None:
        value.cpu()
        self.at.append(time.perf_counter())

    def end(self) -> None:
        pass


def _stored(checkpoint: str, dtype: Any, device: str) -> Any:
    from transformers import CsmForConditionalGeneration

    return CsmForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype).to(device).eval()


def _random(dtype: Any, device: str) -> Any:
    """CSM-1B's shape, filled with repeated noise: drawing a thousand million numbers would take minutes."""
    import torch
    from transformers import CsmConfig, CsmForConditionalGeneration
    from transformers.initialization import no_init_weights

    from device.voice.random_weights import Noise

    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = CsmForConditionalGeneration(CsmConfig(tie_codebooks_embeddings=True))
    finally:
        torch.set_default_dtype(torch.float32)
    noise = Noise()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.ones(()) if parameter.ndim == 1 else noise.tensor(tuple(parameter.shape), 0.02))
    return model.to(device).eval()
