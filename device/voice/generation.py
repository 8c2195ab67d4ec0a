"""How a checkpoint wants its codes drawn: transformers' generation_config.json. It knows no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from device.voice.plain import VoiceFault

GENERATION = "generation_config.json"
TEMPERATURE, TOP_K = (0.05, 2.0), (1, 2051)  # what can be meant


def read_sampling(folder: Path) -> dict[str, Any]:
    """temperature and top_k of `folder`; nothing when it has no such file. Raises VoiceFault.

    do_sample is not asked: the most likely code each time is for comparing implementations, and speaks in loops.
    """
    file = folder / GENERATION
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        temperature, top_k = float(told.get("temperature") or 0.9), int(told.get("top_k") or 50)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise VoiceFault(f"{file} can't be read ({error}): fetch the checkpoint again.") from error
    for name, value, (least, most) in (("temperature", temperature, TEMPERATURE), ("top_k", top_k, TOP_K)):
        if not least <= value <= most:
            raise VoiceFault(f"{file}: {name} is {value}, and must be from {least} to {most}: fetch the checkpoint again.")
    return {"temperature": temperature, "top_k": top_k}
