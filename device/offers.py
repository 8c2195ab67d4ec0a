"""When an exercise is offered, short of a crisis, and whether it was taken: a table and pure rules. Crises are safety.py's.

It is offered, never begun unasked, and only to somebody who has talked with the device in the last half hour. The sentence that
offers is the same whatever the reason: nobody is told what they feel, least of all from their EEG. It says nothing itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time

from device.conditioning import SPEAK_OF_AFFECT
from device.memory import BREAK
from device.safety import plain
from device.turn import Affect

APART = 600.0  # seconds between two offers, whatever their reasons
REST = 3600.0  # seconds before the same reason counts again, and after a no
STANDS = 120.0  # seconds that an offer waits for its answer
LATE = (time(22), time(6))  # of the wall clock
NOTHING = Affect(reason="nobody looked")
WORRIES, AMONG = 3, 5  # so many of the last so many turns


@dataclass(frozen=True)
class Spoke:
    """What was in the patient's words of a turn."""

    sad: bool = False
    worried: bool = False


@dataclass(frozen=True)
class Moment:
    """All that the rows may look at, in seconds of the companion's clock. `spoken`: when the patient and the device last spoke with
    each other, whether or not it was a turn to keep; `offers`: (when, name of the row); `busy`: an alert is open, or an offer
    would disturb."""

    now: float
    spoken: float
    late: bool = False
    affect: Affect = NOTHING
    turns: tuple[Spoke, ...] = ()
    offers: tuple[tuple[float, str], ...] = ()
    declined: float = float("-inf")
    busy: bool = False


@dataclass(frozen=True)
class Row:
    """`when` holds, and nobody has spoken for `after` to `before` seconds: `exercise` (device/exercises.py) is offered."""

    name: str
    exercise: str
    after: float
    before: float
    when: Callable[[Moment], bool]


# The first row that holds. Within a few seconds of a reply the patient may be about to answer it.
ROWS: tuple[Row, ...] = (
    Row("rising arousal", "breathing", 10.0, BREAK, lambda m: _rises(m.affect)),
    # By day: whoever is silent late at night is asleep, one hopes.
    Row("silence after a sad turn", "grounding", 180.0, BREAK, lambda m: m.turns[-1].sad and not m.late),
    Row("repeated worry", "grounding", 20.0, 180.0, lambda m: m.turns[-1].worried and sum(t.worried for t in m.turns[-AMONG:]) >= WORRIES),
    Row("late at night", "breathing", 20.0, 180.0, lambda m: m.late),
)


def choose(moment: Moment) -> Row | None:
    """The row whose exercise is offered now; None for nearly always."""
    if moment.busy or not moment.turns or moment.now - moment.declined < REST:
        return None
    if any(moment.now - at < APART for at, _ in moment.offers):
        return None
    silent = moment.now - moment.spoken
    lately = {name for at, name in moment.offers if moment.now - at < REST}
    return next((row for row in ROWS if row.name not in lately and row.after <= silent < row.before and row.when(moment)), None)


def _rises(affect: Affect) -> bool:
    """Over the last minute, against the wearer's own quiet one, and sure: an estimate that abstains has no arousal."""
    return affect.arousal_trend == "rising" and (affect.arousal or 0.0) > 0 and affect.confidence >= SPEAK_OF_AFFECT


_OFTEN = r"(?: (?:so|very|a bit|a little|quite|too|all|always|feeling|getting|terribly|rather|pretty|still))*"
_I_AM = rf"\bi (?:am|feel|was|have been|have felt|get|keep){_OFTEN} "
_SADLY = "sad|lonely|alone|down|low|miserable|unhappy|heartbroken|empty|lost|tearful|depressed|blue|hopeless|crying"
_AFRAID = "worried|worrying|scared|afraid|frightened|anxious|nervous|terrified|panicking|dreading"
_NEAR = "wife|husband|son|daughter|mother|father|mum|mom|dad|brother|sister|friend|partner|dog|cat|baby"
_SAD = re.compile(
    rf"{_I_AM}(?:{_SADLY})\b|\bmakes me (?:so |very )?sad\b"
    r"|\bi miss (?:my|him|her|them|home|you|us|it|being|having)\b"
    r"|\b(?:can|could) not stop crying\b|\bi (?:cried|could cry|want to cry)\b"
    r"|\b(?:nobody|no one|they never) (?:ever )?(?:came|comes|come|visits?|calls?|cares|loves|needs)\b"
    rf"|\bmy (?:\w+ ){{1,2}}(?:died|passed away|is dead|is gone)\b|\bi (?:have )?lost my (?:\w+ )?(?:{_NEAR})\b"
)
_WORRIED = re.compile(
    rf"{_I_AM}(?:{_AFRAID})\b|\b(?:worries|worrying|frightens|frightening|scares|scaring) me\b"
    r"|\bi (?:can|could) not stop (?:thinking|worrying)\b|\bi keep (?:on )?(?:thinking|worrying)\b|\bi (?:worry|dread|panic)\b"
    r"|\bon my mind\b|\bwhat if\b|\bgoing (?:round|around) (?:and round )?in my head\b"
)
_NEITHER = re.compile(rf"\bnot(?: \w+)? (?:{_SADLY}|{_AFRAID})\b")
# The whole utterance, or it was no answer.
_YES = re.compile(
    r"(?:(?:oh|well|companion|thank you|thanks) )*"
    r"(?:yes|yeah|yep|yup|ok|okay|sure|of course|all right|alright|please(?: do)?|go on|go ahead|let's|let us"
    r"|i would(?: like (?:that|to|it))?)"
    r"(?: (?:yes|yeah|please|ok|okay|sure|all right|then|do|let's|let us|try|begin|start|it|that|go on|go ahead|i would|i will|like"
    r"|love|to|that would be (?:nice|good|lovely)|why not|breathe|together|thank you|thanks|companion))*"
)
_NO = re.compile(
    r"(?:(?:oh|well) )*(?:no|nope|nah|not|never|later|maybe later|another time|i would rather not|i do not want (?:to|that|it))"
    r"(?: (?:no|not|thanks|thank you|now|today|tonight|yet|later|maybe|right|another time|i would rather not|please|companion|for me"
    r"|i do not want (?:to|that|it)|i am (?:fine|ok|okay|all right|good)|i do not think so))*"
)


def spoke(heard: str) -> Spoke:
    """What a turn's words say of sadness and worry; a plain "I'm not worried" says neither."""
    words = _NEITHER.sub("", plain(heard))
    return Spoke(bool(_SAD.search(words)), bool(_WORRIED.search(words)))


def taken(heard: str) -> bool | None:
    """Whether an offer is taken by these words (True) or declined (False); None where they are about something else."""
    words = " ".join(word for word in plain(heard).split() if word != ".")
    return True if _YES.fullmatch(words) else False if _NO.fullmatch(words) else None
