"""English text as phonemes, for a voice that was taught sounds and not letters.

The packaged voice's own reading (hibari: misaki's lexicon and rules, Apache-2.0). It knows no model.
"""

from __future__ import annotations

import functools
from typing import Any


def phonemes(text: str) -> str:
    """`text` in misaki's alphabet, a sentence after the other: "həlˈO ðˈɛɹ." Raises VoiceFault without the package."""
    reads, sentences = _reader()
    return " ".join(read for sentence in sentences(text) if (read := reads(sentence)))


@functools.cache
def _reader() -> tuple[Any, Any]:
    """Loaded once: 5 MB of dictionaries, 0.3 s."""
    from device.voice.plain import VoiceFault

    try:
        from hibari import Hibari
        from hibari.g2p import G2P
    except ImportError:
        raise VoiceFault("The package hibari-tts is not installed: run scripts/setup again.") from None
    return G2P(british=False), Hibari.split_sentences
