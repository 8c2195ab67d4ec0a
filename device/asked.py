"""What a patient asks of the memory: to forget, or whether it remembers. Pure; only the whole utterance counts.

"I can't forget that day" and "don't forget that I take sugar" ask for nothing, nor does "forget it". It knows no file and says nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Wish(Enum):
    FORGET_LAST = "forget_last"  # what was said just before
    FORGET_ALL = "forget_all"  # to be asked again before it is done
    YES = "yes"  # only an answer to that
    RECALL = "recall"  # about the topic


@dataclass(frozen=True)
class Asked:
    wish: Wish
    topic: str = ""


_OPENED = {
    **{"don't": "do not", "let's": "let us", "i'm": "i am", "i'd": "i would"},
    **{"i've": "i have", "you've": "you have", "we've": "we have"},
}
_PLEASE = (
    r"(?:(?:ok|okay|oh|no|well|so|now|and|but|hey|please|just|companion|actually|sorry|wait|can you|could you|would you|will you|"
    r"i (?:want|need|would like) you to|you can|you should|let us) )*"
)
_END = r"(?: (?:please|now|again|thanks|thank you|will you|would you|for me|ok|okay|right away|then))*"
_ERASE = r"(?:forget|erase|delete|wipe|scrap)"
_SAID = r"(?: have| had)?(?: just| ever)? (?:said|told you|mentioned|talked about|spoken? about)"

# (what is wished, the whole utterance): the first row that fits.
_WISHES: tuple[tuple[Wish, re.Pattern[str]], ...] = tuple(
    (wish, re.compile(_PLEASE + pattern + _END))
    for wish, pattern in (
        (
            Wish.FORGET_ALL,
            rf"{_ERASE} (?:everything|it all|all that|all of (?:it|this|that)|the whole (?:thing|lot|conversation)"
            rf"|(?:everything|all)(?: that)? (?:i|we){_SAID}|(?:everything|all)(?: that)? you (?:know|have heard|remember)(?: about me)?"
            rf"|(?:everything|all) about me|our (?:whole )?conversations?|your memor(?:y|ies)(?: of me)?)",
        ),
        (
            Wish.FORGET_LAST,
            rf"{_ERASE} (?:that|this|what i{_SAID}|that(?: last)? (?:bit|thing|part|one)|the last (?:bit|thing|part)(?: i{_SAID})?"
            rf"|i(?: ever)? said (?:that|it|anything))",
        ),
        (Wish.FORGET_LAST, r"(?:do not|you must not) (?:remember|keep|store|save) (?:that|this|what i(?: just)? said)"),
        (Wish.YES, r"(?:yes|yeah|yep|go ahead|do it|i am sure)(?: (?:yes|please|do|do it|do that|i do|i am sure|go ahead))*"),
        (
            Wish.RECALL,
            r"do you (?:still )?remember (?:(?:when|that) i (?:told|spoke to|talked to) you about |what i (?:said|told you) about "
            r"|me (?:talking|telling you|speaking) about |about |that i |when i |my )?(?P<topic>.+)",
        ),
        (
            Wish.RECALL,
            r"(?:what (?:did|have) i|what was it i|did i|have i) (?:ever )?(?:tell|told|say|said|mention|mentioned)(?: to)?(?: you)?"
            r"(?: anything)?(?: about| of)? (?P<topic>.+)",
        ),
    )
)


def asked(heard: str) -> Asked | None:
    """What `heard` asks of the memory; None for all else."""
    words = " ".join(_OPENED.get(word, word) for word in re.sub(r"[^\w' ]+", " ", heard.lower().replace("’", "'")).split())
    for wish, pattern in _WISHES:
        if found := pattern.fullmatch(words):
            return Asked(wish, (found.groupdict().get("topic") or "").strip())
    return None
