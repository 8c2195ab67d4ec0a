"""The plain voice: the small neural voice that is packaged with the device and always works.

It does not know the conversation, the loudspeaker, or why a sentence is said.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import unicodedata
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from device.turn import FRAME, VOICE_RATE

# hibari-tts 0.2.1, Apache-2.0, distilled from Kokoro's af_heart. The package is by one person,
# so the files it speaks with are pinned here and not only by version.
ASSETS = {
    "hibari.onnx": "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
    "oov.onnx": "d3cfd8122c5f172a98c8de38268bf1213ee09f2c2ae4df6e055fc6532590fe76",
}
LEAD, TRAIL = 0.08, 0.30  # s of silence kept around a piece of speech
GAIN = 1.6  # hibari peaks at 0.2 to 0.45 of full scale; this leaves 3 dB of headroom
CLAUSE = 160  # phonemes: a longer sentence is cut at its commas, so that sound comes early
PACE = {"neutral": 1.0, "calm": 0.82}  # by tone: hibari's speed; 0.82 takes a tenth longer (measured on three sentences)
LONGEST = 400  # phonemes that hibari was made for at once


class VoiceFault(RuntimeError):
    """The voice can't speak. The message names what is wrong and the way out."""


def as_fault(error: BaseException) -> VoiceFault:
    """Any failure of a model as one sentence."""
    if isinstance(error, VoiceFault):
        return error
    if out_of_memory(error):
        return VoiceFault("CSM ran out of memory: stop other programs, or set voice.precision to 'int8' or 'int4'.")
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return VoiceFault(f"CSM failed ({type(error).__name__}: {why}).")


def out_of_memory(error: BaseException) -> bool:
    """Python's, and torch's on a GPU and on a CPU, where it is an ordinary RuntimeError."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "allocate memory" in str(error)


# What hibari 0.2.1 reads wrong, found by listening to its phonemes: "911" as nine hundred eleven,
# "120/80" without the "over", "e.g." as letters, "1-800-273-8255" as eight thousand.
_EMERGENCY = re.compile(r"(?<![\d.,:/$£€-])(000|111|112|911|988|99[59])(?![\d%/:°]|[.,-]\d)")
_PHONE = re.compile(r"(?<![\d.,$£€])\+?\d{1,4}(?:[ -]\d{2,4}){2,5}(?!\d)")
_COUNTED = re.compile(r"\s+(?:mg|ml|mL|kg|g|km|m|cm|%|percent|steps|people|minutes|hours|days)\b")
_PRESSURE = re.compile(r"\b(\d{2,3})/(\d{2,3})\b")
_WORDS = [
    (re.compile(r"\be\.\s?g\.,?", re.I), "for example"),
    (re.compile(r"\bi\.\s?e\.,?", re.I), "that is"),
    (re.compile(r"\betc\.", re.I), "and so on"),
    (re.compile(r"(?<=[A-Za-z])/(?=[A-Za-z])"), " or "),
]
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_MARKUP = [
    (re.compile(r"```.*?(?:```|\Z)", re.S), " "),  # code is never said
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),  # a link is said by its label
    (re.compile(r"https?://\S+|www\.\S+"), " "),
    (re.compile(r"</?[A-Za-z][^<>]{0,80}>"), " "),
    (re.compile(r"^[ \t]*(?:#{1,6}|[-*+•>]|\d{1,2}[.)])[ \t]+", re.M), ""),
    (re.compile(r"[*_`~#|\\{}\[\]<>^]+"), " "),
]


def _one_by_one(match: re.Match[str]) -> str:
    return " ".join(_DIGITS[int(c)] for c in match.group() if c.isdigit())


def _phone(match: re.Match[str]) -> str:
    # "count 10 20 30" is not a number to dial; the shortest local ones have seven digits.
    return _one_by_one(match) if sum(c.isdigit() for c in match.group()) >= 7 else match.group()


def _emergency(match: re.Match[str]) -> str:
    # "112 mg" is an amount, "call 112" a number to dial.
    if _COUNTED.match(match.string, match.end()):
        return match.group()
    return _one_by_one(match)


def clean(text: str) -> str:
    """`text` as it should be read aloud: markup and emoji gone, numbers to dial digit by digit."""
    text = unicodedata.normalize("NFC", text)
    for pattern, instead in _MARKUP:
        text = pattern.sub(instead, text)
    text = "".join(c if _is_said(c) else " " for c in text)
    text = _PHONE.sub(_phone, text)
    text = _EMERGENCY.sub(_emergency, text)
    text = _PRESSURE.sub(r"\1 over \2", text)
    for pattern, instead in _WORDS:
        text = pattern.sub(instead, text)
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines())
    text = "\n".join(line for line in lines if any(c.isalnum() for c in line))
    return re.sub(r" (?=[,.;:!?])", "", text)


def _is_said(character: str) -> bool:
    if character in "\n\t°":
        return True
    if "\ufe00" <= character <= "\ufe0f":  # variation selectors, left over from emoji
        return False
    return unicodedata.category(character) not in {"So", "Sk", "Cs", "Co", "Cn", "Cf", "Cc", "Me"}


def _pieces(phonemes: str) -> list[str]:
    """`phonemes` cut at clause ends beyond CLAUSE, and at a space beyond LONGEST."""
    if len(phonemes) <= CLAUSE:
        return [phonemes]
    out = [""]
    for clause in re.split(r"(?<=[,;:—])\s+", phonemes):
        if out[-1] and len(out[-1]) + len(clause) >= CLAUSE:
            out.append("")
        out[-1] = f"{out[-1]} {clause}".strip()
        while len(out[-1]) > LONGEST:
            cut = out[-1].rfind(" ", 1, LONGEST)
            cut = cut if cut > 0 else LONGEST
            out[-1:] = [out[-1][:cut], out[-1][cut:].strip()]
    return [piece for piece in out if piece]


class PlainVoice:
    """One female American voice at 24 kHz, about 50 times faster than real time on one core."""

    name = "plain"
    precision = "int8"

    def __init__(self, threads: int = 1) -> None:
        """Load the packaged model on `threads` CPU threads. Raises VoiceFault unless whole."""
        spec = importlib.util.find_spec("hibari")
        if spec is None or spec.origin is None:
            raise VoiceFault("The package hibari-tts is not installed: run scripts/setup again.")
        folder = Path(spec.origin).parent / "assets"
        check_assets(folder)
        from hibari import Hibari

        self._hibari: Any = Hibari(model=str(folder / "hibari.onnx"), threads=threads)
        self._pace = PACE["neutral"]

    def warm_up(self) -> None:
        """Say something unheard once: the first call loads 5 MB of dictionaries (0.3 s)."""
        for _ in self.frames("Hello, this is a test of an unheardofword."):
            pass

    def tone(self, name: str) -> None:
        """Calm is a tenth slower."""
        self._pace = PACE.get(name, PACE["neutral"])

    def start(self) -> None:
        """The plain voice has no ear: what the patient says does not change how it speaks."""

    def feed(self, pcm: np.ndarray) -> None:
        """Nor does it hear the sound."""

    def hear(self, text: str) -> None:
        """Nor the words."""

    def said(self, text: str, frames_played: int) -> None:
        """The plain voice keeps no history."""

    def frames(self, text: str) -> Generator[np.ndarray, None, None]:
        """int16 mono frames of (1920,) samples at 24 kHz; the last one is padded with zeros.

        Each sentence is made when its first frame is asked for, so closing stops the work.
        """
        rest = np.zeros(0, np.int16)
        for sound in self.sounds(text, self._pace):
            rest = np.concatenate([rest, sound])
            whole = len(rest) // FRAME * FRAME
            yield from rest[:whole].reshape(-1, FRAME)
            rest = rest[whole:]
        if len(rest):
            yield np.pad(rest, (0, FRAME - len(rest)))

    def sounds(self, text: str, speed: float = 1.0) -> Iterator[np.ndarray]:
        """int16 mono pieces of any length at 24 kHz, a sentence or a clause each. `speed` above 1 is faster speech."""
        breath = self.breath()
        for piece in self.pieces(text):
            sound = self.speak(piece, speed, breath)
            begin, end = bounds(sound)
            yield sound[begin:end]

    def breath(self) -> np.random.Generator:
        """The noise in the voice: the same text sounds the same."""
        return np.random.default_rng(0)

    def pieces(self, text: str) -> Iterator[str]:
        """The phonemes of `text`, as much as is spoken at once."""
        for sentence in self._hibari.split_sentences(clean(text)):
            for phonemes in self._hibari.phonemize(sentence):
                yield from _pieces(phonemes)

    def speak(self, phonemes: str, speed: float, breath: np.random.Generator) -> np.ndarray:
        """int16 samples, silence around them."""
        return to_int16(self._hibari.from_ids(self._hibari.ids(phonemes), speed=speed, rng=breath) * GAIN)


def bounds(sound: np.ndarray) -> tuple[int, int]:
    """Where speech begins and ends in int16 samples: LEAD seconds before the first loud one, TRAIL after the last.

    The model gives 0.24 to 0.32 s before and 0.34 to 0.51 s after (measured): the first is waiting
    for nothing, together they part two sentences by 0.8 s.
    """
    loud = np.flatnonzero(np.abs(sound) > 300)
    if not len(loud):
        return 0, len(sound)
    return max(0, int(loud[0] - LEAD * VOICE_RATE)), min(len(sound), int(loud[-1] + TRAIL * VOICE_RATE))


def to_int16(sound: np.ndarray) -> np.ndarray:
    """Float samples in [-1, 1] as int16, clipped."""
    return np.round(np.clip(sound, -1.0, 1.0) * 32767).astype(np.int16)


def check_assets(folder: Path) -> None:
    """Raise VoiceFault unless every file of the plain voice is byte for byte the pinned one."""
    for name, wanted in ASSETS.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            why = f"{folder / name}: {error.strerror}: run scripts/setup again."
            raise VoiceFault(why) from None
        if found != wanted:
            raise VoiceFault(
                f"{folder / name} has sha256 {found[:12]}…, not {wanted[:12]}…: "
                "install hibari-tts==0.2.1 again."
            )
