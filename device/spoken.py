"""A written reply as it is spoken: no markup, numbers and units as words, abbreviations in full, brackets and quotes gone.

Pure. It knows no voice: what it returns holds letters, spaces and the marks of STOPS alone, which no voice stumbles over.
"""

from __future__ import annotations

import re
import unicodedata

from device.voice.plain import clean

STOPS = ".,;:?!'-"  # what may stand in a spoken text beside letters and spaces

# Our own: inflect, which does this and more, took 2.8 s to be imported on a busy machine, in the middle of a reply.
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_UNITS = {
    "mg": "milligram", "mcg": "microgram", "µg": "microgram", "μg": "microgram", "ml": "millilitre", "mL": "millilitre", "l": "litre",
    "L": "litre", "g": "gram", "kg": "kilogram", "cm": "centimetre", "mm": "millimetre", "m": "metre", "km": "kilometre",
    "mmHg": "millimetre of mercury", "h": "hour", "hr": "hour", "hrs": "hour", "min": "minute", "mins": "minute", "sec": "second",
    "secs": "second", "°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree", "IU": "unit", "lb": "pound", "lbs": "pound",
    "kcal": "kilocalorie", "bpm": "beat a minute", "£": "pound", "$": "dollar", "€": "euro",
}  # fmt: skip
_UNIT = "|".join(sorted((re.escape(unit) for unit in _UNITS if unit not in "£$€"), key=len, reverse=True))
_ABBREVIATIONS = {
    r"Dr\.?(?= [A-Z])": "Doctor", r"Mr\.?(?= [A-Z])": "Mister", r"Mrs\.?(?= [A-Z])": "Missus", r"Ms\.?(?= [A-Z])": "Miz",
    r"Prof\.?(?= [A-Z])": "Professor", r"St\.?(?= [A-Z])": "Saint", r"[Nn]o\.(?= ?\d)": "number ", r"approx\.": "about",
    r"vs\.?": "against", r"[Ee]\.\s?g\.,?": "for example", r"[Ii]\.\s?e\.,?": "that is", r"incl\.": "including",
    r"w/(?= )": "with", r"w/o": "without", r"24/7": "day and night",
}  # fmt: skip
_YEAR = re.compile(
    r"\b((?:in|since|from|until|by|before|after|January|February|March|April|May|June|July|August|September|October|November|December|"
    r"\d(?:st|nd|rd|th)?),?) (1[1-9]\d\d|20\d\d)\b(?![,.:]?\d)"
)


def spoken(text: str) -> str:
    """`text` in words that can be spoken as they stand; "" where it holds none."""
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'")
    text = re.sub(r"<think>.*?(?:</think>|\Z)", " ", text, flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\](\([^)]*\))?", lambda m: m[1] if m[2] else " ", text)  # a link's label; "[sighs]" is a stage direction
    text = re.sub(r"(?<=[A-Za-z]s)'(?= [a-z])|(?<=\w)'(?=\w)", "\0", text)  # apostrophes stay, quotes go
    text = re.sub(r"['\"“”‘«»„]", "", text).replace("\0", "'")
    for pattern, word in _ABBREVIATIONS.items():
        text = re.sub(rf"(?<![\w/]){pattern}(?!\w)", word, text)
    text = _amounts(text)
    text = re.sub(r"\s*&\s*", " and ", text)
    text = re.sub(r"(?<=\w)\s*\+\s*(?=\w)", " plus ", text)
    text = _numbers(clean(text))
    # A line of a list becomes a sentence, brackets and dashes become pauses.
    text = re.sub(r"(?<![.,;:?!\s])(?=[ \t]*\n)", ".", text)
    text = re.sub(r"\s*[()]\s*|\s*[—–]\s*|\s-+\s", ", ", text).replace("…", "... ")
    text = "".join(c if c.isalpha() or c in STOPS or unicodedata.category(c) == "Mn" else " " for c in text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+(?=[.,;:?!])", "", text)
    text = re.sub(r"[,;:]+(?=[,;:.?!])|(?<=[.?!])(?: ?,)+", "", text)
    text = re.sub(r"\.{2,}", "...", text).lstrip(" ,;:-").rstrip(" -")
    return text if any(c.isalpha() for c in text) else ""


def _amounts(text: str) -> str:
    """Times of day, money, doses and whatever else is counted in a unit."""
    text = re.sub(r"\b([01]?\d|2[0-4]):([0-5]\d)(?: ?([AaPp])\.?[Mm]\b\.?)?(?!\d|\.\d|%)", _clock, text)
    text = re.sub(r"\b(1[0-2]|0?[1-9])() ?([AaPp])\.?[Mm]\b\.?", _clock, text)
    text = re.sub(rf"([£$€])({_NUMBER})", lambda m: _amount(m[2], m[1]), text)
    text = re.sub(rf"(?<![\w.])({_NUMBER})[ -]?({_UNIT})(?:/({_UNIT}|day))?(?![\w/'])", lambda m: _amount(m[1], m[2], m[3]), text)
    text = re.sub(r"(?<=\d)\s?%", " percent", text)
    return re.sub(r"#(?=\d)", "number ", text)


def _clock(match: re.Match[str]) -> str:
    """10:30, 22:05, 8 am: ten thirty, ten oh five in the evening, eight in the morning."""
    hour, minute, half = int(match[1]), int(match[2] or 0), (match[3] or "").lower()
    known = bool(half) or hour > 12 or hour == 0
    hour = hour % 12 + 12 * (half == "p") if half else hour % 24
    part = "in the morning" if hour < 12 else "in the afternoon" if hour < 18 else "in the evening"
    part = "at night" if hour >= 22 or hour < 4 else part
    told = _words(hour % 12 or 12)
    if minute:
        told += f" {'oh ' if minute < 10 else ''}{_words(minute)}"
    return f"{told} {part}" if known else told if minute else f"{told} o'clock"


def _amount(number: str, unit: str, per: str | None = None) -> str:
    """"2.5", "mg", "kg": two point five milligrams a kilogram."""
    first, _, rest = _UNITS[unit].partition(" ")
    name = f"{first}{'' if number == '1' else 's'} {rest}".strip()
    return f"{_words(number)} {name}" + (f" a {_UNITS.get(per, per)}" if per else "")


def _numbers(text: str) -> str:
    """Every digit that is left, in words."""
    text = re.sub(r"(?<=\d)\s?[–—-]\s?(?=\d)", " to ", text)
    text = re.sub(r"\b(1[1-9]|20)([1-9])0s\b", lambda m: f"{_words(m[1])} {_TENS[int(m[2])]}s".replace("ys", "ies"), text)
    text = _YEAR.sub(lambda m: f"{m[1]} {_year(m[2])}", text)
    text = re.sub(r"\b1/2\b", "half", text)
    text = re.sub(r"\b(\d+)/(\d+)\b", lambda m: f"{_words(m[1])} over {_words(m[2])}", text)
    text = re.sub(r"\b(\d{1,9})(?:st|nd|rd|th)\b", lambda m: _ordinal(m[1]), text)
    text = re.sub(rf"(?<![\w.])-(?={_NUMBER})", "minus ", text)
    return re.sub(rf"([^\W\d]-?)?({_NUMBER})(?=([^\W\d])?)", _apart, text)


def _apart(match: re.Match[str]) -> str:
    """A number that touches letters, as in B12, is a word of its own."""
    before, number, after = match.groups()
    return (before.rstrip("-") + " " if before else "") + _words(number) + (" " if after else "")


def _year(digits: str) -> str:
    if digits[1:3] == "00":
        return _words(digits)
    last = "hundred" if digits.endswith("00") else ("oh " if digits[2] == "0" else "") + _words(digits[2:])
    return f"{_words(digits[:2])} {last}"


def _ordinal(digits: str) -> str:
    first, last = re.fullmatch(r"(.*?)(\w+)", _words(digits)).groups()  # type: ignore[union-attr]
    return first + _ORDINALS.get(last, last[:-1] + "ieth" if last.endswith("y") else last + "th")


def _words(number: str | int) -> str:
    """"1,200.5": one thousand two hundred point five. One of ten digits or more is said digit by digit."""
    whole, _, rest = str(number).replace(",", "").partition(".")
    told = " ".join(_ONES[int(digit)] for digit in whole) if len(whole) > 9 else _cardinal(int(whole))
    return told + (" point " + " ".join(_ONES[int(digit)] for digit in rest) if rest else "")


def _cardinal(number: int) -> str:
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand") if number < 1_000_000 else (1_000_000, "million")
    rest = number % size
    return f"{_cardinal(number // size)} {name}" + (f" {_cardinal(rest)}" if rest else "")
