"""The words of a reply as a chat model writes them, piece by piece.

It does not know safety rules, sound or memory: the caller checks what it says and what it heard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from device.planner import aloud
from device.voice.replies import Persona, WordsFault, short

GROUP = 128  # weights that share an int4 scale
SENTENCE_END = re.compile(r"[.!?…][\"')\u201d\u2019]*\s*$")


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
                f"words.model = '{model}' could not be loaded ({short(error)}); "
                "give a chat model's hub name or folder, or 'bank'."
            ) from None
        try:
            _quantise(self.model, precision, device)
            self.model.to(device)
        except Exception as error:  # torchao's kernels too
            raise WordsFault(
                f"words.precision = '{precision}' does not run on {device} ({short(error)}); choose another, or a smaller words.model."
            ) from None
        self._ends = self._end_tokens()

    def stream(self, messages: list[dict[str, str]], max_words: int, *, seed: int | None = None) -> Generator[str, None, None]:
        """The reply to `messages` ({"role", "content"}, newest last) in pieces of text.

        The persona's system prompt is put first unless a system message is there. The first
        sentence comes as it is written, so that speech starts early, each later one when complete:
        so a sentence that would pass `max_words` is left out. Close the generator to stop the model.
        """
        yield from measured(aloud(self._pieces(messages, _tokens(max_words), seed)), max_words)

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
