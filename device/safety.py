"""What a patient may not be left alone with: `check(heard)`. (The rules: firmware_config/safety.toml; what the device may not say:
reply_rules.)

It knows no model, no sound and no clock: the same words always give the same answer. A false alarm costs a visit, a miss may cost a
life, so a doubtful phrase fires. Only idioms, plain denials and another person's past are spared.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

from device.safety_table import LEVELS, Rule, Table, shipped
from device.slack import near
from device.turn import Alert

_SHORT = {  # what is said -> what the rules are written in
    "n't": " not", "'m": " am", "'ve": " have", "'d": " would", "'ll": " will", "'re": " are",
}  # fmt: skip
_WORDS = {
    "wanna": "want to", "gonna": "going to", "gotta": "have to", "cannot": "can not", "cant": "can not", "dont": "do not",
    "wont": "will not", "didnt": "did not", "im": "i am", "ive": "i have", "id": "i would", "meself": "myself", "anymore": "any more",
    "its": "it is", "lemme": "let me", "theres": "there is", "isnt": "is not", "wasnt": "was not", "couldnt": "could not",
    "wouldnt": "would not", "doesnt": "does not", "youre": "you are", "hes": "he is", "shes": "she is", "theyre": "they are",
    "cuz": "because", "cos": "because",
}  # fmt: skip
_FILLERS = r"\b(?:um+|uh+|er+m?|ah+|hmm+|just|really|actually|literally|honestly|even|simply|ever so|i mean(?! it| to))\b"
_SAYING = re.compile(r"\b(" + "|".join(map(re.escape, _WORDS)) + r")\b")
_LETTERS = str.maketrans({"@": "a", "!": "i", "0": "o", "$": "s", "3": "e", "1": "i"})
_DISGUISED = re.compile(r"(?<!\w)(?=[^\s]*[a-z])[a-z@!0$31]*[a-z][@!0$31]+[a-z][a-z@!0$31]*(?!\w)")
CLAUSE = 200  # letters on either side of a match that a sparing word may stand in


def plain(text: str) -> str:
    """`text` in lower case, contractions opened, fillers and commas gone, sentences parted by '.'."""
    out = unicodedata.normalize("NFKC", text).lower()
    out = re.sub("[\u2018\u2019\u02bc`\u00b4]", "'", out).replace("can't", "can not")
    out = _DISGUISED.sub(lambda m: m[0].translate(_LETTERS), out)
    out = out.replace("won't", "will not").replace("shan't", "shall not")
    for short, long in _SHORT.items():
        out = out.replace(short, long)
    out = re.sub(r"\b(it|that|there|what|where|he|she|life|who|how|nobody|everybody|everyone)'s\b", r"\1 is", out)
    out = re.sub(r"[.!?;:\n]+", " . ", out)
    out = re.sub(r"[^\w.' ]+|'(?!\w)|(?<!\w)'", " ", out)
    out = " ".join(re.sub(_FILLERS, " ", out).split())
    out = _SAYING.sub(lambda m: _WORDS[m[1]], out)
    return re.sub(r"\bm[ye] self\b(?! (?:harm|injur|mutilat|destruct|esteem))", "myself", out)


@functools.cache
def _misheard(table: Table) -> re.Pattern[str]:
    return re.compile(r"\b(" + "|".join(re.escape(wrong) for wrong, _ in table.misheard) + r")\b")


def mend(words: str, table: Table) -> str:
    """`words`, plain, with what the recogniser wrote in a key term's place put right."""
    if table.misheard:
        right = dict(table.misheard)
        words = _misheard(table).sub(lambda m: right[m[1]], words)
    return near(words, table.terms, table.not_terms)


_DENIED = re.compile(
    r"(?: (?:(?:would|will|do|did|does|am|was|were|have|has|had|is|are) (?:\w+ )?(?:not|never)|never|no|not trying to|without)"
    r"(?: (?:ever|going to|want to|wanted to|wanting to|wish to|mean to|meant to|plan to|planning to|trying to|tried to|thinking of|"
    r"thinking about|thought of|thought about|feel|feeling|felt|thoughts of|have|had|having|got|any|a|in|plans? to|intention of|"
    r"and will never|be|been|i|like|need|needed|the))*) $"
)
_NOT_DENIED = re.compile(r"\b(?:why|promise|sure|know|pretend\w*|can not say|wonder)\b")
_JOIN = re.compile(r" (?:but|and|because|so(?! hard| much| many| loud)|now|then) ")


def _clause(sentence: str, start: int, end: int) -> str:
    """The part between two joining words that a match lies in: where a sparing word must stand."""
    first = max((m.end() - 1 for m in _JOIN.finditer(sentence, max(0, start - CLAUSE), start + 1)), default=0)
    after = _JOIN.search(sentence, max(start, end - 1), end + CLAUSE)
    return sentence[max(first, start - CLAUSE) : min(after.start() + 1 if after else end + CLAUSE, end + CLAUSE)]


def _denies(sentence: str, start: int, end: int) -> bool:
    """Whether the words before `start` are a plain denial, and nothing takes it back."""
    before = sentence[max(0, start - 80) : start]
    if not _DENIED.search(before) or _NOT_DENIED.search(before):
        return False
    return not re.match(r"(?:unless|until|yet|any ?more than)\b", sentence[end : end + 16])


def _fires(rule: Rule, sentences: list[str], whole: str) -> bool:
    if rule.also is not None and not rule.also.search(whole):
        return False
    if rule.says is None:
        return sum(sign.search(whole) is not None for sign in rule.signs) >= rule.need
    for sentence in sentences:
        for match in rule.says.finditer(sentence):
            spared = rule.unless is not None and rule.unless.search(_clause(sentence, *match.span()))
            if not spared and not _denies(sentence, *match.span()):
                return True
    return False


def _sentences(words: str) -> list[str]:
    """Each ' < sentence > ', and beside a very short one the two as one: a recogniser puts a full stop at a breath."""
    parts = [part for part in words.split(" . ") if part.strip(". ")]
    parts = [part.removesuffix(" .").strip(". ") for part in parts]
    out = [f" < {part} > " for part in parts]
    out += [f" < {a} {b} > " for a, b in itertools.pairwise(parts) if min(a.count(" "), b.count(" ")) < 3]
    return out


def check(heard: str, table: Table | None = None) -> Alert | None:
    """The alert that `heard` calls for, or None. Of the rules of the first kind that fires, the gravest. Pure, linear in the text."""
    table = table or shipped()
    sentences = _sentences(mend(plain(heard), table))
    whole = "".join(sentences)
    fired = [rule for rule in table.rules if _fires(rule, sentences, whole)]
    if not fired:
        return None
    gravest = max((rule for rule in fired if rule.kind == fired[0].kind), key=lambda rule: LEVELS.index(rule.level))
    return Alert(gravest.kind, gravest.name, MESSAGES[gravest.kind], gravest.level)


# What is played for each kind (device/sounds.py).
MESSAGES = {
    "suicide": "crisis", "self_harm": "crisis", "harm_to_others": "danger", "abuse": "danger", "medical": "medical",
    "call_someone": "calling",
}  # fmt: skip
