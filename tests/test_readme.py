"""The README says what the code does: its tables are read back."""

from __future__ import annotations

from pathlib import Path

from device.__main__ import parser
from device.config import OVERRIDES, rows
from device.engagement import FILE, tomllib
from device.states import LIGHTS, TIMEOUTS, Event, State, step

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_table_with_its_default_and_meaning() -> None:
    wanted = [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in rows()]
    table = README.split("| setting | default | meaning |")[1].split("\n\n")[0].splitlines()[2:]
    assert table == wanted


def test_every_state_is_in_the_table_with_its_light_and_time_out() -> None:
    for state in State:
        limit = f"{TIMEOUTS[state]:.0f} s" if state in TIMEOUTS else "no limit"
        then = step(state, Event.TIMEOUT).value if state in TIMEOUTS else ""
        assert f"| {state.value} | {LIGHTS[state].words} | {limit} | {then} |" in README


def test_every_command_and_override_is_named() -> None:
    (commands,) = parser()._subparsers._group_actions  # type: ignore[union-attr]
    for name in commands.choices:  # type: ignore[union-attr]
        assert f"bedside {name}" in README or f"scripts/{name}" in README
    for variable in OVERRIDES:
        assert variable in README


def test_the_estimates_figures_are_those_of_its_training() -> None:
    """The table is engagement.toml's own figures, rounded."""
    for layout, name in (("cyton8", "8, as a Cyton"), ("muse4", "4, as a Muse")):
        figures = tomllib.loads(FILE.read_text(encoding="utf-8"))[layout]["figures"]
        each, curve = figures["auc_subjects"], figures["accuracy_by_coverage"]
        people = f"{each['median']:.2f} ({each['quartiles'][0]:.2f}–{each['quartiles'][1]:.2f}), {each['lowest']:.2f}"
        accuracy = "/".join(f"{curve[share]:.2f}" for share in ("100%", "80%", "60%", "40%"))
        assert f"| {name} | {figures['auc']:.2f} | {figures['auc_null']:.2f} | {figures['ece']:.2f} | {people} | {accuracy} |" in README
