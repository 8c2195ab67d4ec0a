"""Builds a tiny CSM checkpoint with random weights and its processor, offline, in a second or two.

It does not know the tests; what it makes speaks noise in the right shapes.
"""

from __future__ import annotations

from pathlib import Path

CODEBOOKS, CODEBOOK = 4, 64  # CSM-1B: 32 and 2048
TEMPLATE = (
    "{% for message in messages %}<|begin_of_text|>[{{ message['role'] }}]"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|end_of_text|>"
    "{% for part in message['content'] if part['type'] == 'audio' %}"
    "<|AUDIO|><|audio_eos|>{% endfor %}{% endfor %}"
)
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>"]


def build(folder: Path, positions: int = 2048, seed: int = 0) -> Path:
    """A checkpoint as save_pretrained writes it; `positions` is its longest prompt and answer."""
    import torch
    from transformers import CsmForConditionalGeneration

    torch.manual_seed(seed)
    model = CsmForConditionalGeneration(_config(positions)).eval()
    model.generation_config.update(do_sample=True, temperature=0.9, top_k=50)
    model.save_pretrained(folder)
    _processor().save_pretrained(folder)
    return folder


def _config(positions: int):  # type: ignore[no-untyped-def]
    from transformers import CsmConfig, MimiConfig

    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    # Mimi's strides stay: 8·6·5·4·2 = 1920 samples a frame, which the processor counts with.
    mimi = MimiConfig(
        **(small | {"num_key_value_heads": 2}),
        num_filters=4,
        codebook_size=CODEBOOK,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=CODEBOOKS,
        upsample_groups=32,
        sliding_window=250,
    )
    start = 256
    return CsmConfig(
        **small,
        num_codebooks=CODEBOOKS,
        vocab_size=CODEBOOK + 3,
        codebook_pad_token_id=CODEBOOK + 2,
        codebook_eos_token_id=0,
        text_vocab_size=start + len(SPECIALS),
        bos_token_id=start,
        eos_token_id=None,
        audio_token_id=start + 2,
        pad_token_id=start + 2,
        audio_eos_token_id=start + 3,
        max_position_embeddings=positions,
        depth_decoder_config={
            **small,
            "num_codebooks": CODEBOOKS,
            "backbone_hidden_size": 32,
            "vocab_size": CODEBOOK + 3,
            "max_position_embeddings": CODEBOOKS + 1,
        },
        codec_config=mimi.to_dict(),
    )


def _processor():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CsmProcessor, EncodecFeatureExtractor, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*alphabet, *SPECIALS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
        pad_token=SPECIALS[2],
    )
    ears = EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000)
    return CsmProcessor(ears, fast, chat_template=TEMPLATE)
