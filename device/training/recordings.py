"""Recorded conversations as a JSON file: a list of lists of {text, audio_path, speaker}, checked and turned into utterances.

Every mistake is one sentence that names the file, the conversation, the utterance, the key and the way out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device import wavs
from device.training.dialogues import Utterance
from device.turn import VOICE_RATE
from device.voice.mimi import Mimi
from device.voice.plain import VoiceFault, clean
from device.voice.tokens import Tokens

KEYS = ("text", "audio_path", "speaker")


@dataclass(frozen=True)
class Recording:
    """One utterance as the file tells it. `where` says at which place, for errors."""

    text: str
    audio: Path
    speaker: str
    where: str


def read(file: Path) -> list[list[Recording]]:
    """The conversations of `file`; a flat list of utterances is one. Paths are from the file's folder. Raises VoiceFault."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise VoiceFault(f"{file} can't be read ({error.strerror}): give a JSON list of conversations in --data.") from None
    except ValueError as error:
        raise VoiceFault(f"{file} is not JSON ({error}): correct it there.") from None
    shown = '[[{"text": "Hello.", "audio_path": "hello.wav", "speaker": 0}, …], …]'
    if not isinstance(told, list):
        raise VoiceFault(f"{file} holds {_kind(told)}, not a list of conversations: write {shown}.")
    listed = [told] if told and all(isinstance(item, Mapping) for item in told) else told
    out = []
    for number, conversation in enumerate(listed, 1):
        where = f"{file}, conversation {number}"
        if not isinstance(conversation, list):
            raise VoiceFault(f"{where} is {_kind(conversation)}, not a list of utterances: write {shown}.")
        out.append([_recording(item, f"{where}, utterance {at}", file.parent) for at, item in enumerate(conversation, 1)])
    out = [conversation for conversation in out if conversation]
    if not out:
        raise VoiceFault(f"{file} holds no conversation: write {shown}.")
    return out


def _recording(item: Any, where: str, folder: Path) -> Recording:
    if not isinstance(item, Mapping):
        raise VoiceFault(f"{where} is {_kind(item)}, not an object: it needs text, audio_path and speaker.")
    if unknown := sorted(map(str, set(item) - set(KEYS))):
        raise VoiceFault(f"{where}: the key {unknown[0]!r} is unknown; known are text, audio_path and speaker.")
    for key in KEYS:
        if key not in item:
            raise VoiceFault(f"{where}: the key {key!r} is missing; it needs text, audio_path and speaker.")
    text, audio, speaker = (item[key] for key in KEYS)
    if not isinstance(text, str) or not any(c.isalnum() for c in clean(text)):
        raise VoiceFault(f"{where}: text is {text!r}, which nobody can say: write what is said in the recording.")
    if not isinstance(audio, str) or not audio:
        raise VoiceFault(f"{where}: audio_path is {audio!r}: give the sound file's path, from the folder of this file.")
    if isinstance(speaker, bool) or not isinstance(speaker, int | str) or not str(speaker).isdecimal():
        raise VoiceFault(f"{where}: speaker is {speaker!r}: give a whole number; 0 is the device's voice, 1 a patient's.")
    path = folder / Path(audio).expanduser()
    if not path.is_file():
        raise VoiceFault(f"{where}: audio_path {audio!r} is no file ({path}): correct it, or take the utterance out.")
    return Recording(text, path, str(speaker), where)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), f"{value!r}")


class Encoder:
    """Recordings to utterances with a checkpoint's own tokenizer and Mimi. Codes are made once and kept in `cache`."""

    def __init__(self, tokens: Tokens, mimi: Mimi, cache: Path, tell: Callable[[str], None] = print) -> None:
        """Codes are known by the sound's bytes and by the codec's weights, wherever either lies. `tell` hears of progress."""
        self.tokens, self.mimi, self.cache, self.tell = tokens, mimi, cache, tell
        cache.mkdir(parents=True, exist_ok=True)
        weights = hashlib.sha256()
        for name, tensor in sorted(mimi.moshi.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self._codec = weights.digest()

    def utterances(self, conversations: Sequence[Sequence[Recording]], positions: int, speakers: Collection[str]) -> list[list[Utterance]]:
        """Of `speakers` (empty: of all) is learnt, the others are context. Raises VoiceFault: one does not fit, or nobody speaks."""
        heard = {one.speaker for conversation in conversations for one in conversation}
        if speakers and not heard & set(speakers):
            raise VoiceFault(f"Nobody of --speakers {','.join(sorted(speakers))} speaks in --data; it has {', '.join(sorted(heard))}.")
        total = sum(len(conversation) for conversation in conversations)
        out, done = [], 0
        for conversation in conversations:
            out.append([self._utterance(one, positions, not speakers or one.speaker in speakers) for one in conversation])
            done += len(conversation)
            if done // 100 > (done - len(conversation)) // 100 or done == total:
                self.tell(f"encoded {done} of {total} recordings")
        return out

    def _utterance(self, one: Recording, positions: int, learn: bool) -> Utterance:
        said = Utterance(tuple(self.tokens.ids(one.speaker, clean(one.text))), self._codes(one), learn)
        if said.rows > positions:
            text, frames = len(said.ids), len(said.codes)
            raise VoiceFault(
                f"{one.where}: {one.audio.name} takes {said.rows} positions ({text} of text, {frames} frames of sound, the end), "
                f"but there are {positions}: cut it into shorter utterances, or raise --positions."
            )
        return said

    def _codes(self, one: Recording) -> np.ndarray:
        """uint16 (frames, codebooks)."""
        kept = self.cache / f"{hashlib.sha256(self._codec + one.audio.read_bytes()).hexdigest()}.npy"
        if kept.is_file():
            return np.asarray(np.load(kept))
        try:
            sound = wavs.read(one.audio, VOICE_RATE)
        except wavs.WavError as error:
            raise VoiceFault(f"{one.where}: audio_path: {error}") from None
        codes = self.mimi.encode_all((sound / 32768).astype(np.float32)).numpy().astype(np.uint16)
        new = kept.with_suffix(".new")
        with new.open("wb") as file:
            np.save(file, codes)
        new.replace(kept)
        return codes


def split(conversations: list[list[Utterance]], share: float, seed: int) -> tuple[list[list[Utterance]], list[list[Utterance]]]:
    """(to learn from, to validate with): `share` of the conversations, at least one; of a single one, its last utterances.

    Raises VoiceFault where nothing to learn would be left on either side.
    """
    if not share:
        return conversations, []
    if len(conversations) > 1:
        held = set(np.random.default_rng(seed).permutation(len(conversations))[: max(1, round(share * len(conversations)))].tolist())
        learn = [said for number, said in enumerate(conversations) if number not in held]
        valid = [said for number, said in enumerate(conversations) if number in held]
    else:
        end = len(conversations[0]) - max(1, round(share * len(conversations[0])))
        learn, valid = [conversations[0][:end]], [conversations[0][end:]]
    if not all(any(one.learn for said in part for one in said) for part in (learn, valid)):
        raise VoiceFault("There are too few utterances to hold some out: give more, or --valid FILE, or --valid-share 0.")
    return learn, valid
