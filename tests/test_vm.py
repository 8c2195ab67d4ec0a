"""The eye of the virtual machine's bench, without the machine: it must see a light that lies. The bench itself is tests/vm/machine.py."""

from __future__ import annotations

import random
import struct
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
    assert (figure, passed) == ("3 states that lasted compared with the pins, 0 lies", True)


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


@pytest.fixture
def torn(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "vm"))
    import torn

    return torn


def written(file: Path, writes: list[tuple[int, bytes, int]]) -> Path:
    """A log of (place, what, flags), as QEMU's blklogwrites writes it."""
    log = struct.pack("<QQQI", 0x6A736677736872, 1, len(writes), 512).ljust(512, b"\0")
    for place, what, flags in writes:
        log += struct.pack("<QQQQ", place // 512, len(what) // 512, flags, 0).ljust(512, b"\0") + what
    file.write_bytes(log)
    return file


def test_a_disk_keeps_what_was_flushed_and_any_part_of_what_came_after(torn: ModuleType, tmp_path: Path) -> None:
    flush, fua = (0, b"", torn.FLUSH), (8192, b"f" * 512, torn.FUA)
    log = written(tmp_path / "log", [(0, b"a" * 4096, 0), flush, *((4096 + 512 * n, b"b" * 1024, 0) for n in range(40)), fua, flush, fua])
    writes = list(torn.entries(log))
    assert [log.read_bytes()[w.at : w.at + w.size][:1] for w in writes[:3]] == [b"a", b"", b"b"]
    assert writes[-1].end == log.stat().st_size
    for seed in range(20):
        kept = list(torn.survivors(writes, 1, random.Random(seed)))
        assert kept[0] == (writes[0], 4096)  # before the flush: whole
        assert kept[-1] == (writes[-3], 512)  # past the cache; and nothing from behind the next flush
        assert 5 < len(kept) < 40
        assert {size for _, size in kept[1:-1]} <= {512, 1024}
    assert any(size == 512 for seed in range(20) for _, size in list(torn.survivors(writes, 1, random.Random(seed)))[1:-1])
    assert len(list(torn.survivors(writes, len(writes) - 2, random.Random(0)))) == 43
    log.write_bytes(b"nothing of that kind".ljust(1024))
    with pytest.raises(ValueError, match="no log of writes"):
        list(torn.entries(log))
