"""Finds the words of a reply in the reviewed bank, by meaning (chat_model.py: those that a chat model writes).

It does not know safety rules, sound or memory: the caller checks what it says and what it heard.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device.voice.replies import OTHER, Persona, Reply, WordsFault, load_persona, load_replies, short

__all__ = ["Bank", "Meaning", "Persona", "Reply", "WordsFault", "load_persona", "load_replies"]

# Figures chosen on tests/data/utterances.tsv and the bank's own examples (see tests/test_words.py).
FLOOR = 0.42  # cosine below which nothing in the bank resembles what was heard
STRANGE = 0.1  # added to it for a statement that is not about the patient: a passage read aloud
THEME = 0.3  # weight of the theme's best example: a used reply's neighbours come next
BEFORE = 0.1  # weight of the utterance before
QUESTION = "question"  # the theme whose replies fit any question
STATEMENT = "interesting"  # the theme whose replies fit anything read aloud or reported
ABOUT_SELF = re.compile(r"\b(i|i'\w+|me|my|mine|myself|we|we'\w+|us|our|you|your)\b", re.IGNORECASE)


class Meaning:
    """Sentence embeddings of all-MiniLM-L6-v2 (mean pooling, unit length), on the CPU.

    `folder` holds config.json, model.safetensors and tokenizer.json. Source of the pooling:
    https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
    """

    def __init__(self, folder: Path | str, *, threads: int = 2) -> None:
        try:
            from tokenizers import Tokenizer
            from transformers import AutoModel

            self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
            self.model = AutoModel.from_pretrained(str(folder), local_files_only=True).float().eval()
        except Exception as error:  # the loaders raise bare Exception, OSError and their own types
            raise WordsFault(f"{folder}: the sentence model could not be loaded ({short(error)}); fetch it again.") from None
        self.tokenizer.enable_truncation(128)  # what the model was trained on
        self.tokenizer.enable_padding()
        self.threads = threads

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[len(texts), 384] unit vectors. Deterministic on one machine."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        out = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        # Sorted by length: a batch is padded to its longest text, and most examples are short.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        try:
            with torch.inference_mode():
                for i in range(0, len(order), 64):
                    rows = order[i : i + 64]
                    coded = self.tokenizer.encode_batch([texts[r] for r in rows])
                    ids = torch.tensor([c.ids for c in coded])
                    mask = torch.tensor([c.attention_mask for c in coded])
                    hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
                    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                    out[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        finally:
            torch.set_num_threads(before)
        return out


class Bank:
    """The reviewed replies, found by meaning. Its examples' embeddings are kept beside the model."""

    def __init__(self, file: Path, minilm: Path, *, threads: int = 2) -> None:
        self.replies = load_replies(file)
        self.meaning = Meaning(minilm, threads=threads)
        examples = [h for r in self.replies for h in r.hears]
        self._examples = _kept(self.meaning, Path(minilm), examples)
        self._first = np.cumsum([0] + [len(r.hears) for r in self.replies[:-1]])
        themes = sorted({r.theme for r in self.replies})
        self._theme = np.array([themes.index(r.theme) for r in self.replies])
        self._themes = len(themes)

    def reply(self, heard: str, before: Sequence[str] = (), avoid: Collection[str] = ()) -> str:
        """The reply nearest in meaning to `heard` that is not in `avoid`.

        `before`: the patient's earlier utterances, newest last; the last one weighs a little.
        `avoid`: replies already said, oldest first. Once every reply has been said, the one said
        longest ago is said again. Deterministic.
        """
        near, score = self._scores(heard, before)
        order = np.argsort(-score, kind="stable")
        free = [int(i) for i in order if self.replies[i].says not in avoid]
        if not free:
            last = {says: age for age, says in enumerate(avoid)}
            return min((r.says for r in self.replies), key=lambda says: last[says])
        fallback = _fallback(heard)
        floor = FLOOR + (STRANGE if fallback[0] == STATEMENT else 0)
        close = [i for i in free if near[i] >= floor]
        for choice in (close, *([i for i in free if self.replies[i].theme == t] for t in fallback), free):
            if choice:
                return self.replies[choice[0]].says
        raise AssertionError("unreachable: free is not empty")

    def theme(self, says: str) -> str:
        """The theme of a reply of this bank, "" for any other text."""
        return next((r.theme for r in self.replies if r.says == says), "")

    def _scores(self, heard: str, before: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """For each reply: cosine of its nearest example to `heard`, and the score that ranks it."""
        vectors = self.meaning.embed([heard, *before[-1:]])
        near = self._nearest(vectors[0])
        best = np.full(self._themes, -1, np.float32)
        np.maximum.at(best, self._theme, near)
        score = near + THEME * best[self._theme]
        if len(vectors) > 1:
            score = score + BEFORE * self._nearest(vectors[1])
        return near, score

    def _nearest(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.maximum.reduceat(self._examples @ vector, self._first), np.float32)


def _kept(meaning: Meaning, folder: Path, texts: list[str]) -> NDArray[np.float32]:
    """Embeddings of `texts`, kept beside the model: 570 take 3 to 12 s on two busy cores."""
    weights = (folder / "model.safetensors").stat()
    key = hashlib.sha256("\n".join([str(weights.st_size), str(weights.st_mtime_ns), *texts]).encode()).hexdigest()[:16]
    file = folder / f"replies-{key}.npy"
    try:
        known: NDArray[np.float32] = np.load(file, allow_pickle=False)
        if known.shape == (len(texts), meaning.model.config.hidden_size):
            return known
    except (OSError, ValueError, EOFError):
        pass  # not kept yet, or cut short by a power loss: computed again
    vectors = meaning.embed(texts)
    with contextlib.suppress(OSError):  # a read-only model folder only costs the seconds
        part = folder / f"replies-{key}.{os.getpid()}.part.npy"
        np.save(part, vectors)
        part.replace(file)
    return vectors


def _fallback(heard: str) -> tuple[str, str]:
    """The general themes to try: a long statement that names nobody in the room is not about them."""
    if heard.rstrip().endswith("?"):
        return QUESTION, OTHER
    if len(heard.split()) >= 8 and not ABOUT_SELF.search(heard.replace("\u2019", "'")):
        return STATEMENT, OTHER
    return OTHER, STATEMENT
