"""Whisper: one stretch of speech in, English words and their probabilities out.

It doesn't know where the speech came from or where it starts and ends: `listen.py` finds that.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device import models
from device.turn import MIC_RATE

EMBEDDED = "embedded:"
FULL = 30.0  # s: what Whisper was trained on
# What the encoder sees instead: the speech and a margin of silence, and never less than a floor, in s.
# 24 LJ clips: 6.5 % WER (tiny) and 6.2 % (base) in a third of the encoder's time, 6.9 and 6.2 % in
# full. With less context the decoder loops: 8 (tiny) and 2 (base) of 24 clips at margin 1, floor 0.
MARGIN, FLOOR = 2.0, 12.0
TOKENS_PER_SECOND, TOKENS_AT_LEAST = 9, 12  # fast English is 6 tokens a second
SQUEEZE = 2.4  # text that compresses better than this is a loop; openai/whisper's transcribe.py
# Together they mean nothing was said. Tiny and base on silence, noise, hum, chords: no_speech 0.75
# to 0.99, mean -0.58 ("you") to -2.5; on four short spoken sentences: at most 0.11, from -0.12 up.
NO_SPEECH, LOW_LOGPROB = 0.6, -0.45


@dataclass(frozen=True)
class Words:
    """What was read out of one stretch. `logprobs` has one natural logarithm a token, end included.

    `no_speech` is the model's own probability that nobody speaks, in [0, 1].
    """

    text: str
    logprobs: tuple[float, ...]
    no_speech: float = 0.0

    @property
    def mean(self) -> float:
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else -math.inf

    @property
    def loops(self) -> bool:
        raw = self.text.encode()
        return len(raw) > 0 and len(raw) / len(zlib.compress(raw)) > SQUEEZE

    @property
    def believable(self) -> bool:
        silent = self.no_speech > NO_SPEECH and self.mean < LOW_LOGPROB
        return (
            bool(self.text)
            and not silent
            and not self.loops
            and any(c.isalnum() for c in self.text)
        )


class Whisper:
    """A loaded model. One call at a time: it isn't thread-safe."""

    def __init__(self, model: str, folder: Path, device: str = "cpu") -> None:
        """`model` is embedded:NAME, a local folder or a hub name.

        Raises ModelMissing or ValueError in one sentence when it can't be loaded.
        """
        from transformers import (
            AutoFeatureExtractor,
            AutoTokenizer,
            WhisperForConditionalGeneration,
        )

        place, local = _place(model, folder)
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        try:
            self.ears = AutoFeatureExtractor.from_pretrained(place, local_files_only=local)
            self.tokens = AutoTokenizer.from_pretrained(place, local_files_only=local)
            self.net = WhisperForConditionalGeneration.from_pretrained(
                place, local_files_only=local, dtype=dtype
            )
        except (OSError, ValueError, KeyError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise models.ModelMissing(f"Whisper can't be loaded from '{model}': {first}") from None
        self.net = self.net.to(device).eval()
        self.device, self.dtype = device, dtype
        self._positions = self.net.model.encoder.embed_positions.weight
        self._prepare_tokens()

    def _prepare_tokens(self) -> None:
        settings = self.net.generation_config
        find = self.tokens.convert_tokens_to_ids
        self.start = int(settings.decoder_start_token_id)
        prompt = [self.start]
        if getattr(settings, "is_multilingual", False):
            prompt += [find("<|en|>"), find("<|transcribe|>")]
        unstamped = int(settings.no_timestamps_token_id)
        self.prompt = torch.tensor([[*prompt, unstamped]], device=self.device)
        # <|nospeech|> or <|nocaptions|>, by the tokenizer's age; always before <|notimestamps|>.
        self.nobody = unstamped - 1
        end = settings.eos_token_id
        self.end = int(end[0] if isinstance(end, list) else end)
        banned = torch.zeros(self.net.config.vocab_size, dtype=torch.bool, device=self.device)
        banned[list(settings.suppress_tokens or [])] = True
        banned[self.start :] = True  # languages, tasks and time stamps are no words
        banned[self.end] = False
        self.banned = banned
        self.banned_first = banned.clone()  # a sentence can't begin with a blank or be empty
        self.banned_first[list(settings.begin_suppress_tokens or [])] = True

    @torch.inference_mode()
    def write_down(self, pcm: np.ndarray, full: bool = False) -> Words:
        """Words of int16 samples at MIC_RATE, at most 30 s.

        The encoder sees the speech and a margin, not 30 s of padding; a text that loops is read
        again in full context (`full`), the context Whisper was trained on.
        """
        seconds = len(pcm) / MIC_RATE
        context = FULL if full else min(FULL, max(FLOOR, math.ceil((seconds + MARGIN) * 50) / 50))
        heard = self._encode(pcm, context)
        words = self._decode(heard, int(TOKENS_AT_LEAST + TOKENS_PER_SECOND * seconds))
        if words.loops and not full:
            return self.write_down(pcm, full=True)
        return words

    def _encode(self, pcm: np.ndarray, context: float) -> torch.Tensor:
        """(1, 50 · context, width): one vector for every 20 ms."""
        samples = np.zeros(int(context * MIC_RATE), np.float32)
        kept = pcm[: len(samples)]
        samples[: len(kept)] = kept.astype(np.float32) / 32768
        mel = self.ears(
            samples,
            sampling_rate=MIC_RATE,
            return_tensors="pt",
            padding="longest",
            truncation=False,
        ).input_features.to(self.device, self.dtype)
        # The encoder refuses any length but its own, so it's told that its own is shorter.
        encoder = self.net.model.encoder
        steps = mel.shape[-1] // 2
        own = encoder.config.max_source_positions
        try:
            encoder.config.max_source_positions = steps
            encoder.embed_positions = torch.nn.Embedding.from_pretrained(self._positions[:steps])
            return encoder(mel[..., : 2 * steps]).last_hidden_state
        finally:
            encoder.config.max_source_positions = own
            encoder.embed_positions = torch.nn.Embedding.from_pretrained(self._positions)

    def _decode(self, heard: torch.Tensor, most: int) -> Words:
        """Greedy, with a cache of keys and values."""
        room = self.net.config.max_target_positions - self.prompt.shape[1]
        tokens: list[int] = []
        logprobs: list[float] = []
        feed, cache, no_speech = self.prompt, None, 0.0
        for step in range(min(most, room)):
            out: Any = self.net(
                encoder_outputs=(heard,),
                decoder_input_ids=feed,
                past_key_values=cache,
                use_cache=True,
            )
            logits = out.logits[0].float()
            if step == 0:
                no_speech = float(logits[0].softmax(-1)[self.nobody])
            last = logits[-1].masked_fill(self.banned if step else self.banned_first, -math.inf)
            best = int(last.argmax())
            logprobs.append(float(last.log_softmax(-1)[best]))
            if best == self.end:
                break
            tokens.append(best)
            cache, feed = out.past_key_values, torch.tensor([[best]], device=self.device)
        text = " ".join(self.tokens.decode(tokens, skip_special_tokens=True).split())
        return Words(text, tuple(logprobs), no_speech)


def _place(model: str, folder: Path) -> tuple[str, bool]:
    """(what from_pretrained takes, whether it is on this disk)."""
    if model.startswith(EMBEDDED):
        name = model.removeprefix(EMBEDDED)
        if not name.startswith("whisper-"):
            raise ValueError(
                f"'{model}' isn't a Whisper; known are embedded:whisper-tiny and -base."
            )
        return str(models.path(name, folder)), True
    place = Path(model).expanduser()
    if place.is_dir():
        return str(place), True
    if place.is_absolute() or model.startswith(("~", ".")):
        raise models.ModelMissing(f"The folder {model} for Whisper doesn't exist.")
    return model, False
