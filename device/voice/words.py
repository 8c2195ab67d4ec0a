"""Finds the words of a reply: from the reviewed bank by meaning, or from a chat model piece by piece.

It does not know safety rules, sound or memory: the caller checks what it says and what it heard.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.voice.replies import OTHER, Persona, Reply, WordsFault, load_persona, load_replies

__all__ = ["Bank", "Chat", "Meaning", "Persona", "Reply", "WordsFault", "load_persona", "load_replies", "measured"]

# Figures chosen on tests/data/utterances.tsv and the bank's own examples (see tests/test_words.py).
FLOOR = 0.42  # cosine below which nothing in the bank resembles what was heard
STRANGE = 0.1  # added to it for a statement that is not about the patient: a passage read aloud
THEME = 0.3  # weight of the theme's best example: a used reply's neighbours come next
GROUP = 128  # weights that share an int4 scale
BEFORE = 0.1  # weight of the utterance before
QUESTION = "question"  # the theme whose replies fit any question
STATEMENT = "interesting"  # the theme whose replies fit anything read aloud or reported
ABOUT_SELF = re.compile(r"\b(i|i'\w+|me|my|mine|myself|we|we'\w+|us|our|you|your)\b", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?…][\"')\u201d\u2019]*\s*$")


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
            raise WordsFault(f"{folder}: the sentence model could not be loaded ({_short(error)}); fetch it again.") from None
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


class Chat:
    """Any causal chat model of transformers: a hub name, a folder, or one .gguf file."""

    def __init__(self, model: str, *, device: str, persona: Persona, status: Callable[[str], None], precision: str = "auto") -> None:
        """`precision`: auto, int8 or int4 (words.precision). Raises WordsFault in one sentence."""
        self.persona = persona
        self.device = device
        status(f"loading the words: {Path(model).name}")
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            source, extra = model, {}
            if model.endswith(".gguf"):
                source, extra = str(Path(model).parent), {"gguf_file": Path(model).name}
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, **extra)
            dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
            self.model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **extra).eval()
        except Exception as error:  # hub, safetensors, gguf and torch each raise types of their own
            raise WordsFault(
                f"words.model = '{model}' could not be loaded ({_short(error)}); "
                "give a chat model's hub name or folder, or 'bank'."
            ) from None
        try:
            _quantise(self.model, precision, device)
            self.model.to(device)
        except Exception as error:  # torchao's kernels too
            raise WordsFault(
                f"words.precision = '{precision}' does not run on {device} ({_short(error)}); choose another, or a smaller words.model."
            ) from None
        self._ends = self._end_tokens()

    def stream(self, messages: list[dict[str, str]], max_words: int, *, seed: int | None = None) -> Generator[str, None, None]:
        """The reply to `messages` ({"role", "content"}, newest last) in pieces of text.

        The persona's system prompt is put first unless a system message is there. The first
        sentence comes as it is written, so that speech starts early, each later one when complete:
        so a sentence that would pass `max_words` is left out. Close the generator to stop the model.
        """
        yield from measured(self._pieces(messages, _tokens(max_words), seed), max_words)

    def count(self, text: str) -> int:
        """Tokens of `text`."""
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def room(self, max_words: int) -> int:
        """Tokens that a prompt may have beside a reply of `max_words`."""
        return int(getattr(self.model.config, "max_position_embeddings", 1 << 20)) - _tokens(max_words)

    def _pieces(self, messages: list[dict[str, str]], tokens: int, seed: int | None) -> Iterator[str]:
        """Text as it is sampled (temperature 0.7, top-p 0.9), at most `tokens` tokens of it: nothing for a token without text."""
        import torch

        # An own loop, not TextIteratorStreamer: no thread is left running when the patient interrupts.
        generator = torch.Generator(self.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        ids = self.tokenizer(self.prompt(messages), add_special_tokens=False, return_tensors="pt").input_ids.to(self.device)
        cache, written, told = None, [], 0
        for _ in range(tokens):
            with torch.inference_mode():  # never across a yield: it would leak into the caller
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
                ids, cache = _sample(out.logits[:, -1].float(), generator), out.past_key_values
            token = int(ids)
            if token in self._ends:
                return
            written.append(token)
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            if not self.tokenizer.chat_template and "\n" in text[told:]:  # a plain transcript's next line
                yield text[told : text.index("\n", told)]
                return
            if len(text) > told and not text.endswith("\ufffd"):  # half a character waits for the rest
                yield text[told:]
                told = len(text)
            else:
                yield ""  # so that whoever waits can look at the clock

    def prompt(self, messages: list[dict[str, str]]) -> str:
        """The model's own chat format; a plain transcript when its tokenizer has none."""
        if not messages or messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.persona.system}, *messages]
        if not self.tokenizer.chat_template:
            names = {"system": "", "user": "Patient: ", "assistant": f"{self.persona.name}: "}
            lines = [names[m["role"]] + m["content"] for m in messages]
            return "\n".join([*lines, f"{self.persona.name}:"])
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError:  # Gemma's template refuses the system role: its words open the first turn
            first = {"role": "user", "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
            messages = [first, *messages[2:]]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _end_tokens(self) -> set[int]:
        """Every token that ends a turn; models differ in which of the places names it."""
        ends = self.model.generation_config.eos_token_id
        out = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        vocabulary = self.tokenizer.get_vocab()
        out |= {vocabulary.get(t) for t in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")}
        return {int(t) for t in out if t is not None}


def _quantise(model: Any, precision: str, device: str) -> None:
    """torchao's weights in every linear layer, one layer at a time on `device`; the embedding stays as it is."""
    if precision == "auto":
        return
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_  # type: ignore[import-untyped,import-not-found,unused-ignore]

    if precision == "int8":
        config: Any = Int8WeightOnlyConfig(version=2, set_inductor_config=False)
    elif device.startswith("cuda"):
        config = Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=False)
    else:
        raise ValueError("it needs a GPU")
    quantize_(model, config, device=device)


def _tokens(max_words: int) -> int:
    return 16 + 4 * max_words


def _sample(logits: Any, generator: Any, temperature: float = 0.7, top_p: float = 0.9) -> Any:
    """One token [1, 1] from [1, vocabulary] logits, out of the nucleus of the 64 likeliest."""
    import torch

    top, index = torch.topk(logits, min(64, logits.shape[-1]))
    share = torch.softmax(top / temperature, -1)
    share = share.masked_fill(share.cumsum(-1) - share > top_p, 0)
    return index.gather(-1, torch.multinomial(share, 1, generator=generator))


def measured(pieces: Iterable[str], max_words: int) -> Iterator[str]:
    """`pieces` up to `max_words` words: the first sentence at once, each later one whole or not at all."""
    text, told, first = "", 0, True
    for piece in pieces:
        text += piece
        if len(text.split()) > max_words:
            if first:  # one endless sentence: its words up to the limit
                kept = re.match(rf"\s*(?:\S+\s*){{{max_words}}}", text)
                if kept and kept.end() > told:
                    yield text[told : kept.end()].rstrip()
            return
        ended = bool(SENTENCE_END.search(text))
        if first or ended:
            yield text[told:]
            told, first = len(text), first and not ended
    if len(text) > told:
        yield text[told:]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
