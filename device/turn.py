"""What flows through the house in one turn. Plain frozen data; it knows no hardware and no model."""

from __future__ import annotations

from dataclasses import dataclass, field

MIC_RATE = 16_000  # Hz: what speech recognition hears
VOICE_RATE = 24_000  # Hz: what CSM and Mimi speak
FRAME = 1_920  # samples at VOICE_RATE: 80 ms, one Mimi frame
BLOCK = 1_280  # samples at MIC_RATE: 80 ms, one block of the microphone


@dataclass(frozen=True)
class Heard:
    """What speech recognition made of one press.

    `seconds` is the length of speech, silence trimmed; `confidence` is in [0, 1], the geometric
    mean probability of the recognised tokens. `text` is empty when nobody spoke.
    """

    text: str
    seconds: float
    confidence: float


@dataclass(frozen=True)
class Affect:
    """An estimate of the wearer's state relative to their own quiet baseline, or the reason for none.

    Each value is None while the estimate abstains; `reason` then says why in one sentence.
    `engagement`, `relaxation` and `arousal` are in [-1, 1], 0 being the wearer's usual quiet. `usable` is the share of channels
    with a clean signal in the last window, in [0, 1]; `at` is in seconds of the headset's stream, and `held` says for how many
    seconds one direction of engagement has been sure. `trend` is the last minute's: "rising", "falling", "steady", or "" where
    there is too little to say; its slope and interval are of engagement per minute, and `arousal_trend` is arousal's own word.
    `minute` is the trajectory itself: (seconds
    before `at`, engagement, relaxation) of each estimate in the last minute, smoothed; a second without one is missing.
    """

    engagement: float | None = None
    relaxation: float | None = None
    arousal: float | None = None
    valence: float | None = None
    confidence: float = 0.0
    usable: float = 0.0
    reason: str = ""
    at: float = 0.0
    held: float = 0.0
    trend: str = ""
    slope: float = 0.0
    slope_low: float = 0.0
    slope_high: float = 0.0
    minute: tuple[tuple[float, float, float], ...] = ()
    arousal_trend: str = ""


@dataclass(frozen=True)
class Alert:
    """A crisis that a rule of `safety.py` recognised. `message` names a recorded sound."""

    kind: str
    rule: str
    message: str
    level: str = "high"


@dataclass(frozen=True)
class Turn:
    """One finished exchange, as memory keeps it. `played` is in seconds of audio really heard."""

    heard: Heard
    reply: str
    affect: Affect
    alert: Alert | None = None
    engine: str = ""
    precision: str = ""
    played: float = 0.0
    states: tuple[tuple[float, str], ...] = ()
    latency: dict[str, float] = field(default_factory=dict)
