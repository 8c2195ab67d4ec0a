"""A tiny random chat model, saved as any chat model on the hub is: a two-layer Llama over characters."""

from __future__ import annotations

from pathlib import Path


def build(folder: Path) -> Path:
    """Write the model, its tokenizer and chat template into `folder`, in a second and offline."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({c: i for i, c in enumerate(["<|im_end|>", *alphabet])}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="<|im_end|>")
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(alphabet) + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    )
    with torch.no_grad():  # sharper than a fresh model, so that seeds and not ties decide
        model.lm_head.weight.mul_(8)
    model.save_pretrained(folder)
    return folder
