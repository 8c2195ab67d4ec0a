"""The wire: what is packed comes back the same, and what is not ours ends the link in one sentence."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.memory_rows import Segment
from device.voice.link import MAX_LINE, MAX_PCM, Message, Voice, VoiceLost, Wire, build, pack, pack_segments, unpack_head, unpack_segments

FIELDS = st.dictionaries(
    st.text(min_size=1).filter(lambda key: key not in ("kind", "turn", "bytes")),
    st.one_of(st.text(), st.integers(), st.booleans(), st.lists(st.text())),
)
NOT_HEADERS = [
    b"\n",
    b"not json\n",
    b"[1, 2]\n",
    b'"text"\n',
    b"{}\n",
    b'{"kind": "audio", "turn": 1}\n',
    b'{"kind": "audio", "turn": "x", "bytes": 0}\n',
    b'{"kind": "audio", "turn": 1, "bytes": null}\n',
    b'{"kind": "audio", "turn": 1, "bytes": 1e999}\n',
    b'{"kind": "audio", "turn": 1, "bytes": 3}\n',
    b'{"kind": "audio", "turn": 1, "bytes": -2}\n',
    b'{"kind": "audio", "turn": 1, "bytes": %d}\n' % (MAX_PCM + 2),
    b"[" * 60_000 + b"\n",
    b"\xff\xfe\x00\n",
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    ours.settimeout(5)
    yield Wire(ours), theirs
    ours.close()
    theirs.close()


@given(kind=st.text(), turn=st.integers(0, 2**40), fields=FIELDS, samples=st.lists(st.integers(-32768, 32767)))
def test_a_message_comes_back_as_it_was(kind: str, turn: int, fields: dict[str, object], samples: list[int]) -> None:
    data = pack(Message(kind, turn, fields, np.array(samples, np.int16)))
    line, body = data.split(b"\n", 1)
    head, size = unpack_head(line)
    assert size == len(body)
    back = build(head, body)
    assert (back.kind, back.turn, back.fields, back.pcm.tolist()) == (kind, turn, fields, samples)
    assert back.pcm.dtype == np.int16


@pytest.mark.parametrize("line", NOT_HEADERS, ids=range(len(NOT_HEADERS)))
def test_what_is_no_header_is_refused_in_one_sentence(line: bytes) -> None:
    with pytest.raises(VoiceLost, match="the voice socket"):
        unpack_head(line)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(line: bytes) -> None:
    try:
        head, size = unpack_head(line)
    except VoiceLost:
        return
    assert {"kind", "turn"} <= set(head)
    assert size % 2 == 0


def test_the_refusal_does_not_repeat_what_the_line_held() -> None:
    with pytest.raises(VoiceLost) as told:
        unpack_head(b'{"heard": "I want marmalade", "kind"\n')
    assert "marmalade" not in str(told.value)


def test_messages_follow_one_another_on_the_blocking_end(ends: tuple[Wire, socket.socket]) -> None:
    wire, peer = ends
    peer.sendall(pack(Message("press", 1)) + pack(Message("block", 1, {}, np.arange(-3, 4, dtype=np.int16))))
    first, second = wire.receive(), wire.receive()
    assert first is not None
    assert second is not None
    assert (first.kind, second.kind, second.pcm.tolist()) == ("press", "block", [-3, -2, -1, 0, 1, 2, 3])


@pytest.mark.parametrize("cut", [0, 5, -1, -4])
def test_half_a_message_is_none_on_the_blocking_end(ends: tuple[Wire, socket.socket], cut: int) -> None:
    wire, peer = ends
    peer.sendall(pack(Message("block", 1, {}, np.arange(4, dtype=np.int16)))[:cut])
    peer.close()
    assert wire.receive() is None


def test_an_endless_line_is_none_on_the_blocking_end(ends: tuple[Wire, socket.socket]) -> None:
    wire, peer = ends
    peer.sendall(b"x" * MAX_LINE)
    assert wire.receive() is None


def test_sending_to_a_peer_that_has_gone_is_voice_lost(ends: tuple[Wire, socket.socket]) -> None:
    wire, peer = ends
    peer.close()
    with pytest.raises(VoiceLost, match="gone"):
        wire.send(Message("audio", 1, {}, np.zeros(1920, np.int16)))


async def _read_all(folder: Path, data: bytes) -> tuple[list[Message], str]:
    """What the companion's end makes of `data` followed by the end of the connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "s"))
    listener.listen(1)
    got: list[Message] = []
    with listener, anyio.fail_after(10):
        voice = await Voice.connect(str(folder / "s"))
        peer, _ = listener.accept()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, _send_and_close, peer, data)
            try:
                async for message in voice.messages():
                    got.append(message)
            except VoiceLost as error:
                why = str(error)
            await voice.close()
    return got, why


def _send_and_close(peer: socket.socket, data: bytes) -> None:
    try:
        peer.sendall(data)
    except OSError:
        pass  # the companion hung up on an endless line
    finally:
        peer.close()


WHOLE = pack(Message("audio", 3, {}, np.arange(2000, dtype=np.int16)))


@pytest.mark.anyio
@pytest.mark.parametrize("cut", [3, -1, -3999])
async def test_half_a_message_is_voice_lost_at_the_companion(tmp_path: Path, cut: int) -> None:
    got, why = await _read_all(tmp_path, WHOLE + WHOLE[:cut])
    assert [(m.kind, m.turn, len(m.pcm)) for m in got] == [("audio", 3, 2000)]
    assert "gone" in why


@pytest.mark.anyio
async def test_an_endless_line_is_voice_lost_at_the_companion(tmp_path: Path) -> None:
    got, why = await _read_all(tmp_path, b"x" * (4 * MAX_LINE))
    assert got == []
    assert "without an end" in why


@pytest.mark.anyio
async def test_nobody_on_the_path_is_voice_lost(tmp_path: Path) -> None:
    with pytest.raises(VoiceLost, match=r"no voice process on .*s \(No such file"):
        await Voice.connect(str(tmp_path / "s"))


def test_segments_come_back_with_their_codes_the_newest_where_there_is_no_room_for_all() -> None:
    told = [Segment("1", f"Grüße {n} " + "x" * 400, np.full((n, 4), n, np.int16)) for n in range(1, 40)]
    fields, codes = pack_segments(told, 4)
    line, body = pack(Message("resume", 0, fields, codes)).split(b"\n", 1)
    assert len(line) < MAX_LINE
    back = unpack_segments(build(unpack_head(line)[0], body))
    assert 10 < len(back) < 39
    for ours, theirs in zip(told[-len(back) :], back, strict=True):
        assert (ours.speaker, ours.text) == (theirs.speaker, theirs.text)
        assert np.array_equal(ours.codes, theirs.codes)
    assert unpack_segments(Message("resume", 0, *pack_segments([], 4))) == []
    for wrong in ({**fields, "codebooks": 3}, {"codebooks": 4}, {**fields, "segments": [["1", "x", -5]]}, {**fields, "segments": "x"}):
        with pytest.raises(VoiceLost, match="codes are of another length"):
            unpack_segments(Message("resume", 0, wrong, codes))
