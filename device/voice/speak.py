"""The CSM voice: what the server's worker calls to let CSM hear the patient and speak.

Everything that touches the model runs on one thread, in order: Mimi encodes while the patient speaks, their segment
is listened to while the reply is planned, frames leave as they are made, and history is tidied when nothing waits.
It does not know the socket, the loudspeaker, or what the words mean.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
import torch

from device.logs import log
from device.memory_rows import Segment as Kept
from device.voice.beside import Beside
from device.voice.conversation import DEVICE, PATIENT, Conversation, Segment
from device.voice.csm import Csm, Sampling, is_end
from device.voice.ending import Ending, frame_budget
from device.voice.hearing import Hearing
from device.voice.mimi import Mimi
from device.voice.plain import VoiceFault, as_fault, clean, to_int16
from device.voice.resumed import kept, resume
from device.voice.tokens import Tokens

SLICE = 32  # rows that are listened to at once when history is tidied: what comes in meanwhile waits for one slice (0.3 s on a CPU)
ANSWER = 8  # one part in eight of the positions is kept free for an answer
FULL, ROOMY = 3 / 4, 1 / 2  # of the positions: where forgetting begins, and how far it goes
TONE_ROWS = 512  # of history that another tone may make a CPU listen to anew: up to 5 s, about what a patient speaks
WARM_FRAMES = 3


class CsmVoice:
    """Speaks with CSM in the voice and mood of the conversation so far.

    `reference`: (words, float32 sound at 24 kHz) of the voice to keep, or None; `tones` are others of it, by the tone's name.
    `precision` is for the record.
    """

    name = "csm"

    def __init__(
        self,
        csm: Csm,
        tokens: Tokens,
        mimi: Mimi,
        sampling: Sampling,
        precision: str,
        reference: tuple[str, np.ndarray] | None = None,
        tones: Mapping[str, tuple[str, np.ndarray]] | None = None,
    ) -> None:
        self.csm, self.tokens, self.mimi, self.sampling, self.precision = csm, tokens, mimi, sampling, precision
        pinned = self._segment(DEVICE, reference[0], mimi.encode_all(reference[1])) if reference else None
        self.conversation = Conversation(csm, pinned)
        self.codebooks = csm.shape.codebooks
        self._tones = {name: self._segment(DEVICE, words, mimi.encode_all(spoken)) for name, (words, spoken) in (tones or {}).items()}
        if pinned is not None:
            self._tones["neutral"] = pinned
        self._turn: list[Segment] = []  # what the turn that runs has put into the conversation
        self._unsaid: deque[Segment | None] = deque()  # clauses spoken since the last `hear`, until `said` takes them
        self._hearing = Hearing(mimi)
        self._fault: VoiceFault | None = None  # of work that nobody waited for; the next clause tells it
        # One thread, because streaming state and the buffers of CUDA graphs are there once.
        self._work = ThreadPoolExecutor(1, thread_name_prefix="csm")
        self._decoding = Beside(csm.device)

    def _segment(self, speaker: str, text: str, codes: torch.Tensor | None = None) -> Segment:
        """With the ids of `text` as it is read aloud: markup and emoji gone, numbers to dial digit by digit."""
        frames = torch.zeros(0, self.csm.shape.codebooks, dtype=torch.long) if codes is None else codes
        return Segment(speaker, text, self.tokens.ids(speaker, clean(text)), frames.to(self.csm.device))

    def warm_up(self) -> None:
        """Make a few frames unheard: kernels are loaded and the reference is listened to before the first turn.

        How many are made before it stops is the threads' affair, so the chance that they took is given back.
        """
        chance = self.sampling.generator
        before = chance.get_state() if chance is not None else None
        with closing(self.frames("Hello.")) as frames:
            for _, _ in zip(range(WARM_FRAMES), frames, strict=False):
                pass
        self.said("", 0)
        self._work.submit(lambda: None).result()
        if chance is not None:
            chance.set_state(before)

    def close(self) -> None:
        """Finish what waits and end the thread. Nothing may be asked of it afterwards."""

        def settle() -> None:
            self._tidy()
            self.conversation.catch_up()  # all of it: what that tidying asked for finds nothing left to do
            self._tidy()

        try:
            self._work.submit(settle).result()
        except Exception as error:
            raise as_fault(error) from error
        finally:
            self._work.shutdown()
            self._decoding.shutdown()

    def tone(self, name: str) -> None:
        """Speak from now on as this tone's reference does; the history is listened to anew while nothing else waits."""
        self._quietly(self._tone, name)

    def _tone(self, name: str) -> None:
        talk, wanted = self.conversation, self._tones.get(name)
        if wanted is None or wanted is talk.reference or (self.csm.device.type == "cpu" and talk.rows > TONE_ROWS):
            return
        talk.refer_to(wanted)
        log("voice_tone", tone=name, positions=talk.rows)
        self._quietly(self._tidy)

    # What the patient says ---------------------------------------------------------------------

    def start(self) -> None:
        """The patient begins to speak: what they said before and was not answered is forgotten."""
        self._quietly(self._start)

    def feed(self, pcm: np.ndarray) -> None:
        """A block of what they say, int16 (n,) at 16 kHz: encoded while they go on."""
        self._quietly(self._hearing.feed, pcm)

    def hear(self, text: str) -> None:
        """Their words. The segment enters the conversation in one batch, while the reply is being planned."""
        self._quietly(self._hear, text)

    def _start(self) -> None:
        self._turn.clear()
        self._hearing.start()

    def _hear(self, text: str) -> None:
        # Clauses of a turn whose companion went away: nobody will say what was heard of them.
        while self._unsaid:
            self._said("", 0)
        codes = self._hearing.finish()
        if not text.strip() or not len(codes):
            return
        segment = self._segment(PATIENT, text.strip(), codes)
        talk, answer = self.conversation, self.conversation.capacity // ANSWER
        if talk.pinned_rows + segment.rows + answer > talk.capacity:
            log("voice_too_long_to_remember", positions=segment.rows)
            return
        self._make_room(segment.rows + answer)
        self._turn.append(talk.append(segment))
        talk.catch_up()

    # What the device says ----------------------------------------------------------------------

    def frames(self, text: str) -> Generator[np.ndarray, None, None]:
        """int16 mono frames of (1920,) samples at 24 kHz, each as soon as it exists. Closing it stops between two.

        Raises VoiceFault: for a text that does not fit, numbers that are none, memory that ran out.
        """
        if fault := self._fault:
            self._fault = None
            raise fault
        if not any(c.isalnum() for c in clean(text)):
            self._quietly(self._unsaid.append, None)
            return
        out: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        stop = threading.Event()
        work = self._work.submit(self._speak, text.strip(), out.put, stop)
        work.add_done_callback(lambda _: out.put(None))
        try:
            while (frame := out.get()) is not None:
                yield frame
            work.result()
        finally:
            stop.set()
            work.exception()  # at most one frame of waiting: the model is free for what comes next

    def said(self, text: str, frames_played: int) -> None:
        """What was really heard of one clause: the part of its words, and how many of its frames.

        Once for each clause, in the order in which `frames` spoke them. The rest is cut from the conversation.
        """
        self._quietly(self._said, text, frames_played)
        self._quietly(self._tidy)

    def _speak(self, text: str, give: Callable[[np.ndarray], None], stop: threading.Event) -> None:
        segment = self._segment(DEVICE, text)
        segment.closed, budget = False, frame_budget(clean(text))
        self._make_room(segment.rows + budget + 1)
        self._unsaid.append(self.conversation.append(segment))
        self._turn.append(segment)
        try:
            reason = self._make_frames(segment, Ending(budget), give, stop)
        except Exception as error:
            self.conversation.remove(segment)
            raise as_fault(error) from error
        segment.closed = True
        log("voice_clause", frames=len(segment.codes), budget=budget, ended=reason, positions=self.conversation.rows)

    @torch.inference_mode()
    def _make_frames(self, segment: Segment, ending: Ending, give: Callable[[np.ndarray], None], stop: threading.Event) -> str:
        """One prefill, then a frame at a time: a depth loop and a backbone step, beside Mimi's step for the frame before.

        So a sentence that ends by its sound has had one frame made in vain. Returns why it ended.
        """
        self.mimi.start_decoding()
        decoding: Future[str] | None = None  # of the frame before
        try:
            while not stop.is_set():
                hidden = self.conversation.catch_up()
                assert hidden is not None  # there is always the text, or the last frame, to listen to
                codes, readings = self.csm.frame(hidden, self.sampling)
                *found, finite, end = torch.cat([codes.float(), readings]).tolist()  # the only wait for the device
                if decoding and (reason := decoding.result()):
                    return reason
                if not math.isfinite(finite):
                    raise VoiceFault("CSM's numbers broke (NaN): its checkpoint is damaged; fetch it again, or set voice.engine = 'plain'.")
                if is_end(found):
                    return "end"
                self.conversation.add_frame(segment, codes)
                decoding = self._decoding.submit(self._decode, codes, end, ending, give)
            return "stopped"
        finally:
            if decoding:
                decoding.result()  # what was given is all there is

    def _decode(self, codes: torch.Tensor, end: float, ending: Ending, give: Callable[[np.ndarray], None]) -> str:
        """One frame's sound. Returns why the sentence ends with it, or ""."""
        sound = self.mimi.decode(codes)
        give(to_int16(sound))
        return ending.over(sound, end) or ""

    def _said(self, text: str, frames: int) -> None:
        segment = self._unsaid.popleft() if self._unsaid else None
        if segment is None or not any(segment is s for s in self.conversation.segments):
            return
        if frames > 0 and any(c.isalnum() for c in clean(text)):
            self.conversation.cut(segment, text.strip(), self._segment(DEVICE, text.strip()).ids, frames)
        else:
            self.conversation.remove(segment)

    # Between turns -----------------------------------------------------------------------------

    def spoken(self) -> list[Kept]:
        """What the last turn left in the conversation, for the memory: it waits for the thread to have cut what was not heard."""
        return self._work.submit(self._spoken).result()

    def history(self) -> list[Kept]:
        """The whole conversation but for the reference, oldest first."""
        return self._work.submit(lambda: [kept(s) for s in self.conversation.segments[self.conversation.pinned :]]).result()

    def resume(self, told: Sequence[Kept]) -> int:
        """Go on from what was said before (device/voice/resumed.py). Returns how many segments that are."""
        try:
            return self._work.submit(self._resume, told).result()
        except Exception as error:
            raise as_fault(error) from error

    def _spoken(self) -> list[Kept]:
        return [kept(segment) for segment in self._turn if any(segment is s for s in self.conversation.segments) and len(segment.codes)]

    def _resume(self, told: Sequence[Kept]) -> int:
        talk = self.conversation
        self._unsaid.clear()
        self._turn.clear()
        resume(talk, told, self.csm.shape, self._segment)
        self._make_room(talk.capacity // ANSWER)
        talk.catch_up()
        log("conversation_resumed", segments=len(talk.segments) - talk.pinned, positions=talk.rows)
        return len(talk.segments) - talk.pinned

    def _tidy(self) -> None:
        """Forget old turns before room is short, and listen again to what is left."""
        talk = self.conversation
        if talk.rows > FULL * talk.capacity:
            self._make_room(int(talk.capacity * (1 - ROOMY)), keep=1)
        talk.catch_up(SLICE)
        if talk.filled < talk.rows:
            self._quietly(self._tidy)  # behind whatever came in meanwhile

    def _make_room(self, rows: int, keep: int = 0) -> None:
        if gone := self.conversation.make_room(rows, keep):
            log("voice_forgot", segments=gone, positions=self.conversation.rows)

    def _quietly(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do `work` on the model's thread without waiting; its failure is told with the next clause."""

        def done(future: Future[None]) -> None:
            if error := future.exception():
                self._fault = as_fault(error)
                log("voice_fault", level=logging.WARNING, reason=self._fault)

        self._work.submit(work, *arguments).add_done_callback(done)

