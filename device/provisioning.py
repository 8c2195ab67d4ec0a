"""What a device must know before it may stand at a bed: whom it calls, and which numbers it says. It asks nobody and stores nothing."""

from __future__ import annotations

from device.config import ConfigError, Settings


def check_provisioned(settings: Settings) -> None:
    """Raise ConfigError naming each setting that a real panel needs and lacks. A simulated one needs none.

    No number is built in: one that rings in one country is silence in the next.
    """
    if settings.panel.kind == "simulated":
        return
    safety = settings.safety
    wrong = [
        f"safety.{name} = '': {what} of the place where the bed stands; call it once, and write it here."
        for name, what in (("emergency_number", "the emergency number"), ("crisis_number", "a crisis line, open day and night,"))
        if not getattr(safety, name)
    ]
    if not (settings.panel.nurse_call_pin or safety.webhook or safety.command):
        wrong.append("panel.nurse_call_pin, safety.webhook and safety.command are all empty: an alert would reach nobody. Set one.")
    if wrong:
        raise ConfigError("\n".join(wrong))
