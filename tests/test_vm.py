"""The eye of the virtual machine's bench, without the machine: it must see a light that lies. The bench itself is tests/vm/machine.py."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

LOG = [
    (10.0, "state was=starting now=ready event=voice_ready seconds=3.000"),
    (20.0, "state was=ready now=fault event=lost seconds=10.000"),
    (30.0, "state was=fault now=ready event=voice_ready seconds=10.000"),
    (40.0, "bedside-companion.service: Watchdog timeout (limit 20s)!"),
]
GREEN, YELLOW, DARK = (0, 1, 0), (1, 1, 0), (0, 0, 0)
HONEST = [(10.0, GREEN), (20.1, YELLOW), (20.6, DARK), (21.1, YELLOW), (30.0, GREEN), (40.0, DARK)]


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "vm"))
    import acts

    return acts


def test_the_light_of_every_state_is_compared_until_the_process_ends(acts: ModuleType) -> None:
    figure, passed = acts.lights_and_states(SimpleNamespace(boots=[(HONEST, LOG)]))
    assert (figure, passed) == ("3 states compared with the pins, 0 lies", True)


@pytest.mark.parametrize(
    ("lights", "lie"),
    [
        ([(10.0, GREEN), (30.0, GREEN), (40.0, DARK)], "fault showed (0, 1, 0)"),  # stuck
        ([*HONEST[:2], (25.0, GREEN), *HONEST[4:]], "fault showed (0, 1, 0)"),  # READY too early
        ([], ""),  # nothing was seen at all
    ],
)
def test_a_light_that_lies_is_found(acts: ModuleType, lights: list[tuple[float, tuple[int, ...]]], lie: str) -> None:
    figure, passed = acts.lights_and_states(SimpleNamespace(boots=[(lights, LOG)] if lights else []))
    assert not passed
    assert lie in figure
