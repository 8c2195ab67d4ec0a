"""The units under a real systemd, once: the companion before the voice, in its cage, killed and back. The rest: scripts/test-vm."""

from __future__ import annotations

import pytest
from vm.nspawn import Container, Unable, check, until


def test_the_companion_starts_before_the_voice_is_ready_and_comes_back_when_it_is_killed() -> None:
    try:
        check()
        home = Container().__enter__()
    except Unable as reason:
        pytest.skip(str(reason))
    try:
        home.boot()
        until(lambda: home.show("bedside-companion", "ActiveState") == "active", "the companion", 60)
        assert home.show("bedside-voice", "ActiveState") == "activating"  # its models are still loading
        until(home.light, "the light", 20)
        first = home.pid("bedside-companion")
        status = home.run("cat", f"/proc/{first}/status").stdout
        assert "Seccomp:\t2\n" in status
        assert "CapEff:\t0000000000000000\n" in status
        assert "starting" in home.show("bedside-companion", "StatusText")
        home.kill("bedside-companion", "KILL")
        until(lambda: home.pid("bedside-companion") not in (0, first), "another companion", 20)
        home.run("systemctl", "stop", "bedside-voice")
        home.run("systemctl", "start", "bedside-safe")
        assert home.show("bedside-companion", "ActiveState") == "inactive"  # never both at the pins
        assert home.show("bedside-safe", "StatusText").startswith("SAFE MODE")
    finally:
        home.__exit__()
