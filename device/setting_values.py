"""What a setting's text may be: a path, a time of day, a telephone number, an address. It knows no setting."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

# A path may begin with ~, as in the defaults: a laptop needs no root.
Local = Annotated[str, AfterValidator(lambda value: str(Path(value).expanduser()) if value else value)]


def _clock(value: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError("a time of day is needed, such as 21:30")
    return value


Clock = Annotated[str, AfterValidator(_clock)]


def _number(value: str) -> str:
    if value and not re.fullmatch(r"\d[\d -]{1,18}\d", value):
        raise ValueError("a telephone number is needed, digits with spaces or dashes, such as 112 or 116 123")
    return value


def _webhook(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise ValueError("an address is needed that begins with https:// or http://")
    return value


Number = Annotated[str, AfterValidator(_number)]
Webhook = Annotated[str, AfterValidator(_webhook)]
