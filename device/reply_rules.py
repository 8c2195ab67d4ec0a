"""What a reply must never say, as a table, and the safe sentence in its place. Pure; it knows no model."""

from __future__ import annotations

import re

from device.safety import plain
from device.spoken import spoken

SAFE_CLAUSE = "I am here, and I am listening."
_ASK = "That is a question for your nurse or doctor."
_MACHINE = "I am a voice in a machine, here to keep you company."

_FEELING = (
    r"(?:sad|anxious|angry|afraid|scared|depressed|lonely|upset|stressed|happy|calm|worried|nervous|"
    r"hopeless|frustrated|relaxed|tense|miserable|frightened|distressed|overwhelmed|bored|tired)"
)
_ILLNESS = (
    r"(?:cancer|depression|anxiety|dementia|diabetes|pneumonia|sepsis|an infection|a stroke|"
    r"a heart attack|a tumou?r|ptsd|a blood clot|a disorder|bipolar|\w+itis)"
)
# (name, pattern over plain(clause), what is said in its place)
REPLY_RULES: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (name, re.compile(rf"\b(?:{pattern})\b"), instead)
    for name, pattern, instead in (
        ("harm",
         r"(?:kill|hurt|harm|cut|hang|drown|burn|starve) yourself|(?:end|take|finish) your (?:own )?life|"
         r"you (?:should|could|can|may|must|ought to) (?:\w+ )?(?:die|overdose|jump|end it)|better off dead|"
         r"(?:go ahead|fine|okay|ok|right) (?:and |to )(?:die|jump|end it|overdose)|way to die|"
         r"world (?:would|will) be better without you|no one (?:would|will) miss you",
         SAFE_CLAUSE),
        ("dose",
         r"\d+(?:\.\d+)? ?(?:mg|mcg|ml|milligrams?|micrograms?|millilit\w+|units?|tablets?|pills?)|"
         r"(?:milligrams?|micrograms?)|(?:take|try|swallow|have) (?:\w+ )?(?:one|two|three|four|half|a|an|another|some|"
         r"extra|more|your) (?:\w+ )?(?:tablets?|pills?|doses?|aspirin|paracetamol|ibuprofen|morphine|medication)|"
         r"(?:stop|skip|start|double|increase|reduce|lower|change) (?:taking )?your (?:\w+ )?(?:dose|medication|medicine|"
         r"insulin|tablets?|pills?|treatment)",
         _ASK),
        ("diagnosis",
         rf"you (?:\w+ )?(?:have|have got|are having|suffer from|are suffering from) (?:\w+ )?{_ILLNESS}|"
         r"your diagnosis is|you (?:are|have been) (?:\w+ )?(?:diagnosed|depressive|bipolar|psychotic|schizophrenic)|"
         rf"(?:sounds|looks) like (?:\w+ )?{_ILLNESS}|it is (?:probably |only |surely )?{_ILLNESS}",
         _ASK),
        ("human",
         r"i am (?!not )(?:also |actually )?(?:a |an |your )?(?:\w+ )?(?:human|person|nurse|doctor|therapist|clinician|"
         r"psychologist|counsell?or|man|woman)|as (?:a|your) (?:nurse|doctor|therapist|clinician|human|counsell?or)|"
         r"i am not (?:an? )?(?:ai|machine|robot|computer|program)",
         _MACHINE),
        ("feeling",
         rf"(?<!if )(?<!when )(?<!are )(?<!do )(?<!that )you (?:are|feel|must be|must feel)(?: (?:so|very|clearly|obviously|"
         rf"feeling|a bit|quite|too))* {_FEELING}|i (?:can )?(?:see|tell|sense|know) (?:that )?you (?:are|feel)|"
         r"your (?:brain|brainwaves?|eeg|headset|signals?) (?:\w+ )?(?:shows?|says?|tells?|suggests?)",
         SAFE_CLAUSE),
    )
)  # fmt: skip


INSTEAD = {name: instead for name, _, instead in REPLY_RULES}


def broken(clause: str) -> str:
    """The name of the rule that `clause` breaks, as written or as spoken; "" where it may be said."""
    for words in (plain(clause), plain(spoken(clause))):
        for name, pattern, _ in REPLY_RULES:
            if pattern.search(words):
                return name
    return ""


def check_reply(clause: str) -> str:
    """`clause` itself, or a safe sentence where it would harm, treat, pretend or tell a feeling."""
    return INSTEAD.get(broken(clause), clause)
