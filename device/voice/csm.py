"""The CSM voice: Sesame's conversational speech model through transformers, with audio context.

It does not know the socket, the loudspeaker, or what the words mean. The voice it speaks with is
the one of its reference segment; without one a base checkpoint takes a voice by chance and this
class keeps the first thing it said as the reference.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from device.turn import FRAME, MIC_RATE, VOICE_RATE
from device.voice.plain import VoiceFault, to_int16

DEVICE, PATIENT = "0", "1"  # CSM's speaker ids, written into the prompt as [0] and [1]
FRAME_RATE = VOICE_RATE / FRAME  # 12.5 Mimi frames a second
CONTEXT_SECONDS = 60.0  # older whole segments are dropped: about 750 of CSM-1B's 2048 positions
FIRST_DECODE = 2  # frames decoded before the first sound; then twice as many each time


@dataclass(frozen=True)
class Segment:
    """One thing that was said: who, the words, and its sound as float32 (samples,) at 24 kHz."""

    speaker: str
    text: str
    sound: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.sound) / VOICE_RATE


class _Stopped(Exception):
    """Raised inside generate() to leave it between two frames."""


class _Codes:
    """What generate() calls a streamer: passes on each frame's codes, or stops the generation."""

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.stop = threading.Event()
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        if self.stop.is_set():
            raise _Stopped
        if not self._prompt_seen:  # transformers 4.57 and 5.23 pass the prompt's text ids first
            self._prompt_seen = True
            return
        self.ready.put(value[0])  # (codebooks,)

    def cancel(self) -> None:
        self.stop.set()
        self.ready.put(None)

    def end(self) -> None:
        pass


class CsmVoice:
    """Speaks with CSM in the voice and mood of the conversation so far.

    `model`: hub name or folder; `device`: auto, cpu or cuda; `reference`: (words, float32 sound at
    24 kHz) of the voice to keep, never dropped from the context. Raises VoiceFault.
    """

    name = "csm"

    def __init__(
        self,
        model: str,
        device: str = "auto",
        compile: bool = False,
        threads: int = 2,
        context_seconds: float = CONTEXT_SECONDS,
        reference: tuple[str, np.ndarray] | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self.device = _choose(device, torch.cuda.is_available())
        self.precision = "bf16" if self.device == "cuda" else "fp32"
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self._model, self._processor = _load(model, self.device, dtype)
        config = self._model.config
        # Ids past Mimi's codebook (padding and such) crash its decoder: IndexError.
        self._unspoken = list(range(int(config.codec_config.codebook_size), int(config.vocab_size)))
        self._positions = int(config.max_position_embeddings)
        if compile and self.device == "cuda":
            self._model.backbone_model.forward = torch.compile(self._model.backbone_model.forward)
        self._context_seconds = context_seconds
        self._reference = Segment(DEVICE, *reference) if reference else None
        self._past: list[Segment] = []
        self._codes: _Codes | None = None  # of the turn that is being spoken
        # The sound of each clause since the last `hear`, one (1920,) per frame, until `said` takes it.
        self._made: deque[list[np.ndarray]] = deque()
        # One thread for every generation, because compiled code and CUDA graphs belong to a thread.
        self._work = ThreadPoolExecutor(1, thread_name_prefix="csm")

    def warm_up(self) -> None:
        """Make a few frames unheard: kernels are loaded or compiled before the first turn."""
        with closing(self.frames("Hello.")) as frames:
            for _ in islice(frames, FIRST_DECODE + 1):
                pass
        self._made.clear()

    def hear(self, text: str, pcm: np.ndarray) -> None:
        """The patient's words and sound, int16 (samples,) at 16 kHz, enter the conversation."""
        import soxr

        self._made.clear()  # of a turn whose companion went away: nobody will say what was heard of it
        if text.strip() and len(pcm):
            # A context segment at the wrong rate is heard as another, slower person.
            sound = soxr.resample(pcm.astype(np.float32) / 32768, MIC_RATE, VOICE_RATE)
            self._past.append(Segment(PATIENT, text.strip(), sound.astype(np.float32)))

    def said(self, text: str, frames_played: int) -> None:
        """What was really heard of one clause enters the conversation, its sound cut to `frames_played`.

        Once for each clause, in the order in which `frames` spoke them; `text` is the part that was heard.
        """
        made = self._made.popleft() if self._made else []
        sound = made[: max(0, frames_played)]
        if not sound or not text.strip():
            return
        segment = Segment(DEVICE, text.strip(), np.concatenate(sound))
        if self._reference is None:
            self._reference = segment
        else:
            self._past.append(segment)

    def frames(self, text: str) -> Generator[np.ndarray, None, None]:
        """int16 mono frames of (1920,) samples at 24 kHz. Closing it stops between two frames.

        Mimi's decoder is causal, so all codes so far are decoded again at 2, 4, 8, … frames and
        only the new frames are passed on: no seams, at most twice the work. Raises VoiceFault.
        """
        made: list[np.ndarray] = []
        self._made.append(made)
        if not any(c.isalnum() for c in text):
            return
        prompt, budget = self._prompt(text.strip())
        codes = self._codes = _Codes()
        work = self._work.submit(self._generate, prompt, budget, codes)
        work.add_done_callback(lambda _: codes.ready.put(None))
        try:
            for frame in self._decoded(codes):
                made.append(frame)
                yield to_int16(frame)
            _raise_fault(work)
        finally:
            codes.cancel()
            self._codes = None
            work.exception()  # at most one frame of waiting: the model is free for the next turn

    def cancel(self) -> None:
        """End a running `frames` from another thread, within one frame of the model's work."""
        if codes := self._codes:
            codes.cancel()

    def _generate(self, prompt: Any, budget: int, codes: _Codes) -> None:
        with self._torch.inference_mode():
            self._model.generate(
                **prompt,
                max_new_tokens=budget,
                do_sample=True,
                suppress_tokens=self._unspoken,
                # Stays in the depth decoder's own settings for later calls: the same every time.
                depth_decoder_suppress_tokens=self._unspoken,
                streamer=codes,
            )

    def _decoded(self, codes: _Codes) -> Iterator[np.ndarray]:
        """float32 (1920,) frames of the sound, until the end frame or the end of the generation."""
        got: list[Any] = []
        done, wanted = 0, FIRST_DECODE
        eos = self._model.config.codebook_eos_token_id
        while (code := codes.ready.get()) is not None and not bool((code == eos).all()):
            if codes.stop.is_set():
                return
            got.append(code)
            if len(got) == wanted:
                yield from self._decode(got)[done:]
                done, wanted = wanted, wanted * 2
        if len(got) > done and not codes.stop.is_set():
            yield from self._decode(got)[done:]

    def _decode(self, codes: list[Any]) -> np.ndarray:
        """Sound of all `codes` as float32 (frames, 1920)."""
        torch = self._torch
        with torch.inference_mode():
            stack = torch.stack(codes, dim=-1)[None].to(self.device)
            sound = self._model.codec_model.decode(stack).audio_values[0, 0]
        return np.asarray(sound.float().cpu().numpy()).reshape(-1, FRAME)

    def _prompt(self, text: str) -> tuple[Any, int]:
        """The model's inputs and the frame budget; forgets the oldest segments that do not fit."""
        budget = frame_budget(text)
        pinned = self._reference.seconds if self._reference else 0.0
        while self._past and pinned + sum(s.seconds for s in self._past) > self._context_seconds:
            self._past.pop(0)
        while True:
            inputs = self._inputs(text)
            free = self._positions - int(inputs["input_ids"].shape[1])
            if free >= budget or not self._past:
                break
            self._past.pop(0)
        if free < budget and self._reference is not None:
            self._reference = None
            return self._prompt(text)
        if free < 1:
            raise VoiceFault(
                f"The reply fills all {self._positions} positions of CSM: lower words.max_words."
            )
        return inputs, min(budget, free)

    def _inputs(self, text: str) -> Any:
        past = [self._reference, *self._past] if self._reference else self._past
        talk = [_entry(s.speaker, s.text, s.sound) for s in past] + [_entry(DEVICE, text)]
        inputs = self._processor.apply_chat_template(talk, tokenize=True, return_dict=True)
        inputs = inputs.to(self.device)
        if "input_values" in inputs:
            inputs["input_values"] = inputs["input_values"].to(self._model.dtype)
        return inputs


def frame_budget(text: str) -> int:
    """Most frames that `text` may take: 1 s and half a second a word (speech has 2 to 3 words a
    second). CSM now and then never samples its end frame and babbles on."""
    return math.ceil(FRAME_RATE * (1.0 + 0.5 * len(text.split())))


def _entry(speaker: str, text: str, sound: np.ndarray | None = None) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if sound is not None:
        content.append({"type": "audio", "audio": sound})
    return {"role": speaker, "content": content}


def _raise_fault(work: Future[None]) -> None:
    error = work.exception()
    if error is not None and not isinstance(error, _Stopped):
        raise VoiceFault(f"CSM failed while speaking: {type(error).__name__}: {error}") from error


def _choose(device: str, cuda: bool) -> str:
    if device == "cuda" and not cuda:
        raise VoiceFault("voice.device = 'cuda', but torch sees no CUDA device: set it to 'auto'.")
    return ("cuda" if cuda else "cpu") if device == "auto" else device


def _load(name: str, device: str, dtype: Any) -> tuple[Any, Any]:
    """(model, processor) of the checkpoint `name`. Raises VoiceFault in one sentence."""
    if not name:
        raise VoiceFault("voice.csm_model is empty: name a CSM checkpoint, as sesame/csm-1b.")
    if name.startswith(("/", ".", "~")) and not Path(name).expanduser().is_dir():
        raise VoiceFault(f"{name} (voice.csm_model): no folder: name a folder or hub model of CSM.")
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    from transformers import AutoConfig, AutoProcessor, CsmForConditionalGeneration

    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind != "csm":
            raise ValueError(f"it is a {kind} checkpoint")
        processor = AutoProcessor.from_pretrained(name)
        model = CsmForConditionalGeneration.from_pretrained(name, dtype=dtype)
    # A broken file shows as one of many types (safetensors, json, tokenizers, huggingface_hub).
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VoiceFault(f"{name} can't be loaded as CSM: {_way_out(why, error)}") from error
    return model.to(device).eval(), processor


def _way_out(why: str, error: BaseException) -> str:
    if "gated" in str(error).lower() or "401" in str(error) or "403" in str(error):
        return f"it is gated ({why}): accept its licence on huggingface.co and set HF_TOKEN."
    return f"{why.rstrip('.')}; give the folder or hub name of a CSM checkpoint in voice.csm_model."
