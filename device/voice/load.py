"""Which ears, pen and throat the settings ask for, loaded with a status that a technician understands."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device import models, sounds
from device.config import FIRMWARE, ConfigError, Settings
from device.logs import log
from device.planner import begun, messages, to_sum_up
from device.spoken import spoken
from device.voice.parts import Ears, Pen, Throat

if TYPE_CHECKING:
    from device.voice.speak import CsmVoice


SUMMARY_WORDS = 60


class Writer:
    """The pen: a chat model where one is set, and the reviewed bank always."""

    def __init__(self, settings: Settings, folder: Path, device: str, status: Callable[[str], None]) -> None:
        from device.voice import chat_model, words

        status("loading the reply bank")
        self._bank = words.Bank(FIRMWARE / "replies.toml", models.path("minilm", folder), threads=settings.voice.threads)
        self._aloud = {reply.says: spoken(reply.says) for reply in self._bank.replies}  # here, not while a patient waits
        self._persona = words.load_persona(FIRMWARE / "persona.toml")
        self._settings = settings.words
        self._chat: chat_model.Chat | None = None
        self.stand_in = ""  # why the bank writes although a chat model was asked for
        if settings.words.model != "bank":
            status(f"loading the chat model {settings.words.model}")
            try:
                self._chat = chat_model.Chat(
                    settings.words.model, device=device, persona=self._persona, status=status, precision=settings.words.precision
                )
            except words.WordsFault as error:
                log("words_fault", level=logging.WARNING, reason=error)
                self.stand_in = f"The reply bank stands in for the chat model. {error}"
        self.name = settings.words.model if self._chat else "bank"

    @property
    def count(self) -> Callable[[str], int] | None:
        """Tells the chat model's tokens of a text; None for the bank."""
        return self._chat.count if self._chat else None

    def plan(self, request: dict[str, Any], bank: bool) -> Iterator[str]:
        """Text pieces of the reply. A chat model that is late gives way to the bank before it has spoken."""
        before = [tuple(pair) for pair in request["before"]]
        if self._chat is not None and not bank:
            yield from self._chat_or_bank(request, before)
        else:
            yield self._from_bank(request["heard"], before, request["avoid"])

    def summarise(self, said: list[list[str]]) -> Iterator[str]:
        """A short summary of a session, piece by piece. Only where a chat model was loaded."""
        if self._chat is not None:
            yield from self._chat.stream(to_sum_up(said), SUMMARY_WORDS)

    def _from_bank(self, heard: str, before: list[tuple[str, str]], avoid: list[str]) -> str:
        """`avoid` holds what was said; a barge-in may have cut it, so its beginning is enough."""
        said = [says for start in avoid if start for says, aloud in self._aloud.items() if aloud.startswith(start)]
        return self._bank.reply(heard, [patient for patient, _ in before], said)

    def _chat_or_bank(self, request: dict[str, Any], before: list[tuple[str, str]]) -> Iterator[str]:
        assert self._chat is not None
        began, first = time.monotonic(), ""
        chat, limits = self._chat, self._settings
        budget = min(limits.prompt_tokens, chat.room(limits.max_words))
        prompt = messages(
            self._persona.system, before, request["heard"], request["affect"], request.get("remembered", ()), chat.count, budget
        )
        stream = chat.stream(prompt, limits.max_words)
        for piece in stream:
            # The first clause decides: once it is out, the chat model has the turn.
            first += piece
            if begun(first):
                yield first
                yield from stream
                return
            if time.monotonic() - began > self._settings.late_seconds:
                log("chat_late", seconds=time.monotonic() - began)
                stream.close()
                yield self._from_bank(request["heard"], before, request["avoid"])
                return
        yield first if first.strip() else self._from_bank(request["heard"], before, request["avoid"])


def hush_libraries() -> None:
    """Their notices are for developers: a technician reads STATUS. Errors still come through."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")  # CUDA kernels, which can't load here
    logging.getLogger("torch").setLevel(logging.ERROR)
    logging.getLogger("torchao").setLevel(logging.ERROR)
    from transformers.utils import logging as chatter

    chatter.set_verbosity_error()
    chatter.disable_progress_bar()


def choose_device(wanted: str) -> str:
    """cpu or cuda. Raises ConfigError when cuda is asked for and torch sees none."""
    if wanted == "cpu":
        return wanted
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise ConfigError("voice.device = 'cuda' (or CSM_DEVICE), but torch sees no GPU here: set it to 'auto' or 'cpu'")
    return "cuda" if cuda else "cpu"


def load(settings: Settings, status: Callable[[str], None]) -> tuple[Ears, Pen, Throat, dict[str, Any]]:
    """Load and warm up everything. Raises models.ModelMissing and the like with one clear sentence."""
    import numpy as np

    status("loading PyTorch")
    from device.voice.hub import label
    from device.voice.listen import Listener

    hush_libraries()
    folder = Path(settings.models.folder)
    device = choose_device(settings.voice.device)
    status("loading speech recognition")
    ears = Listener(
        settings.listen.model,
        folder,
        device=device,
        threads=settings.voice.threads,
        min_speech=settings.listen.min_speech_seconds,
        status=status,
    )
    pen = Writer(settings, folder, device, status)
    throat, stand_in = load_throat(settings, device, status)
    status("warming up")
    ears.transcribe(np.zeros(16_000, np.int16))
    reasons = " ".join(reason for reason in (stand_in, pen.stand_in) if reason)
    voice = label(settings.voice.csm_model) if throat.name == "csm" else throat.name
    models_named = {"listen": settings.listen.model, "words": pen.name, "voice": voice}
    about: dict[str, Any] = {"models": models_named, "stand_in": reasons, "codebooks": getattr(throat, "codebooks", 0)}
    return ears, pen, throat, about


REFERENCES = {"neutral": "cant_answer", "calm": "quiet_open"}  # recorded messages, by the tone in which they are spoken


def reference(tone: str = "neutral") -> tuple[str, Any]:
    """The voice that CSM keeps: a recorded message and its words, so that the device sounds like one being."""
    name = REFERENCES[tone]
    recorded = sounds.load(FIRMWARE / "sounds")[name]
    return sounds.texts(FIRMWARE / "sounds")[name], recorded.astype("float32") / 32768


def load_throat(settings: Settings, device: str, status: Callable[[str], None]) -> tuple[Throat, str]:
    """(a voice that has spoken unheard, what a technician should know of it or nothing)."""
    from device.voice.plain import PlainVoice, as_fault

    reason = ""
    if settings.voice.engine == "csm":
        try:
            return load_csm(settings, device, status)
        except (RuntimeError, MemoryError) as error:  # a VoiceFault, or whatever torch says of a GPU
            log("csm_fault", level=logging.WARNING, reason=as_fault(error))
            reason = f"The plain voice stands in for CSM. {as_fault(error)}"
    status("loading the plain voice")
    plain = PlainVoice(threads=settings.voice.threads)
    plain.warm_up()
    return plain, reason


def load_csm(settings: Settings, device: str, status: Callable[[str], None], seed: int | None = None) -> tuple[CsmVoice, str]:
    """(CSM with its reference, warm; why it is slower than it could be or nothing).

    `seed` makes its sampling repeatable. Raises VoiceFault in one sentence.
    """
    import torch

    from device.voice.build import build
    from device.voice.speak import CsmVoice

    torch.set_num_threads(settings.voice.threads)
    status(f"loading CSM from {settings.voice.csm_model or 'nowhere: voice.csm_model is empty'}")
    built = build(settings.voice.csm_model, settings.voice.precision, device, status, settings.voice.compile)
    status("loading Mimi and the reference voice")
    tones = {"calm": reference("calm")}
    voice = CsmVoice(built.csm, built.tokens(), built.mimi(), built.sampling(seed), built.precision, reference(), tones)
    status("warming up CSM")
    voice.warm_up()
    return voice, built.slow
