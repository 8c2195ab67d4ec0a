"""CSM's text side: what is said, as ids of the checkpoint's own tokenizer. It knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from device.voice.phonemes import phonemes
from device.voice.plain import VoiceFault

BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
PHONEMES = "<|phonemes|>"  # a tokenizer that knows this one was taught sounds: CSM-small's


class Tokens:
    """The tokenizer of a checkpoint: Llama 3's, whose ids CSM-1B was trained on, or CSM-small's, which reads phonemes."""

    def __init__(self, folder: Path) -> None:
        """Raises VoiceFault when the folder has no tokenizer.json that can be read."""
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise VoiceFault(f"{folder} has no tokenizer.json: fetch the checkpoint again, or copy Llama 3.2's tokenizer.json there.")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise VoiceFault(f"{file} can't be read as a tokenizer ({error}): fetch the checkpoint again.") from error
        self._tokenizer.no_padding()  # a file may have been saved with either on
        self._tokenizer.no_truncation()
        begin, end = (self._tokenizer.token_to_id(token) for token in (BEGIN, END))
        if begin is None or end is None:
            raise VoiceFault(f"{file} does not know {BEGIN} and {END}: it is not the tokenizer of CSM.")
        self._begin, self._end = begin, end
        self._reads_phonemes = self._tokenizer.token_to_id(PHONEMES) is not None

    @property
    def count(self) -> int:
        """How many ids there are."""
        return int(self._tokenizer.get_vocab_size())

    def ids(self, speaker: str, text: str) -> list[int]:
        """The text rows of one segment: begin, "[speaker]text", end."""
        return [self._begin, *self._read(speaker, text).ids, self._end]

    def spans(self, speaker: str, text: str) -> list[tuple[int, int]]:
        """For each of `ids`, from which to which character of what is read it stands for; below nothing for what is not said."""
        before = len(f"[{speaker}]")
        read = [(begin - before, end - before) for begin, end in self._read(speaker, text).offsets]
        return [(-before, -before), *read, (max((end for _, end in read), default=0),) * 2]

    def _read(self, speaker: str, text: str) -> Any:
        said = phonemes(text) if self._reads_phonemes else text
        return self._tokenizer.encode(f"[{speaker}]{said}", add_special_tokens=False)
