"""The tokenizer of CSM-small: one id a phoneme, a stressed vowel being one. It knows no model and no sound."""

from __future__ import annotations

from pathlib import Path

from device.voice.tokens import BEGIN, END, PHONEMES

VOWELS = "AIOQWYaæɑɔəɛɜiɪuʊʌᵊᵻɚɐ"
CONSONANTS = "Tbdfhjklmnpstvwzðŋɡɹɾʃʒʤʧθʔ"
MARKS = ' ,.!?;:—…“”"()'
SPEAKERS = "[]0123456789"
STRESS = "ˈˌ"
AUDIO, AUDIO_END = "<|AUDIO|>", "<|audio_eos|>"  # transformers' processor asks for them


def write(folder: Path) -> int:
    """tokenizer.json in `folder`. Returns how many ids it has."""
    from tokenizers import Tokenizer, models

    stressed = [(mark, vowel) for mark in STRESS for vowel in VOWELS]
    letters = [*VOWELS, *CONSONANTS, *STRESS, *MARKS, *SPEAKERS]
    vocabulary = {token: number for number, token in enumerate([*letters, *(a + b for a, b in stressed)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=stressed))
    tokenizer.add_special_tokens([BEGIN, END, AUDIO, AUDIO_END, PHONEMES])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())
