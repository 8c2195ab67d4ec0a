"""The conversation's cache: whatever happened to the history, the next codes are those of a history heard afresh."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import tiny_csm  # noqa: E402

from device.voice.build import Built, build  # noqa: E402
from device.voice.conversation import DEVICE, PATIENT, Conversation, Segment  # noqa: E402
from device.voice.csm import Sampling  # noqa: E402
from device.voice.plain import VoiceFault  # noqa: E402
from device.voice.tokens import Tokens  # noqa: E402

POSITIONS = 512
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(str(tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=POSITIONS)), "fp32", "cpu")


@pytest.fixture
def tokens(built: Built) -> Tokens:
    return built.tokens()


class Counted(Conversation):
    """Counts the rows that the model is given."""

    given = 0

    def _rows(self, first: int, last: int):  # type: ignore[no-untyped-def]
        self.given += last - first
        return super()._rows(first, last)


def sound(frames: int, seed: int):  # type: ignore[no-untyped-def]
    return torch.randint(0, tiny_csm.CODEBOOK, (frames, tiny_csm.CODEBOOKS), generator=torch.Generator().manual_seed(seed))


def segment(tokens: Tokens, speaker: str, text: str, frames: int = 0, seed: int = 0) -> Segment:
    return Segment(speaker, text, tokens.ids(speaker, text), sound(frames, seed))


def answer(talk: Conversation, tokens: Tokens, text: str, frames: int) -> Segment:
    """The device says `text` in `frames` greedy frames."""
    spoken = talk.append(Segment(DEVICE, text, tokens.ids(DEVICE, text), sound(0, 0), closed=False))
    with torch.inference_mode():
        for _ in range(frames):
            hidden = talk.catch_up()
            assert hidden is not None
            talk.add_frame(spoken, talk.csm.frame(hidden, Sampling(64, greedy=True))[0])
    spoken.closed = True
    return spoken


def afresh(talk: Conversation) -> Conversation:
    """The same history, heard by a new cache from its first row on."""
    new = Conversation(talk.csm)
    for old in talk.segments:
        new.append(Segment(old.speaker, old.text, list(old.ids), old.codes.clone(), old.closed))
    return new


def test_after_ten_turns_with_forgetting_and_a_barge_in_the_codes_are_those_of_a_history_heard_afresh(built: Built, tokens: Tokens) -> None:
    talk = Conversation(built.csm, segment(tokens, DEVICE, "I am here.", 12))
    forgotten = 0
    for turn in range(10):
        heard = segment(tokens, PATIENT, f"This is what I say in turn {turn}.", 15 + turn, turn)
        forgotten += talk.make_room(heard.rows + 80)
        talk.append(heard)
        talk.catch_up()
        first = answer(talk, tokens, "It sounds hard.", 14)
        second = answer(talk, tokens, "Tell me more of it.", 9)
        if turn in (4, 9):  # the patient speaks into it: half of the first clause was heard, nothing of the second
            talk.cut(first, "It sounds", tokens.ids(DEVICE, "It sounds"), 6)
            talk.remove(second)
    assert forgotten > 6
    assert talk.segments[0].text == "I am here."
    kept = talk.rows
    with_reuse = answer(talk, tokens, "And what then?", 32).codes.clone()
    talk.remove(talk.segments[-1])
    fresh = afresh(talk)
    assert fresh.rows == kept
    assert torch.equal(with_reuse, answer(fresh, tokens, "And what then?", 32).codes)


def test_nothing_is_listened_to_twice(built: Built, tokens: Tokens) -> None:
    talk = Counted(built.csm, segment(tokens, DEVICE, "I am here.", 12))
    for turn in range(4):
        talk.append(segment(tokens, PATIENT, "Hello you.", 20, turn))
        answer(talk, tokens, "Oh.", 10)
    assert talk.given == talk.filled == talk.rows - 2  # the last frame and the closing row wait for the next batch


def test_what_the_device_said_is_never_encoded_again_and_ends_with_the_zero_frame(built: Built, tokens: Tokens) -> None:
    talk = Conversation(built.csm)
    spoken = answer(talk, tokens, "Oh.", 10)
    hidden = answer(talk, tokens, "Yes.", 1).codes
    by_hand = Conversation(built.csm)
    zero = torch.zeros(1, tiny_csm.CODEBOOKS, dtype=torch.long)
    by_hand.append(Segment(DEVICE, "Oh.", spoken.ids, torch.cat([spoken.codes, zero]), closed=False))
    assert torch.equal(hidden, answer(by_hand, tokens, "Yes.", 1).codes)


def test_a_cut_within_the_same_words_keeps_what_was_heard_before_it(built: Built, tokens: Tokens) -> None:
    talk = Counted(built.csm)
    spoken = answer(talk, tokens, "A longer sentence.", 20)
    talk.catch_up()
    before = talk.given
    talk.cut(spoken, spoken.text, list(spoken.ids), 15)
    assert talk.filled == len(spoken.ids) + 15
    talk.catch_up()
    assert talk.given == before + 1  # the closing row alone
    talk.cut(spoken, "A longer", tokens.ids(DEVICE, "A longer"), 10)
    assert talk.filled == 0
    assert len(spoken.codes) == 10


def test_a_cut_that_cuts_nothing_changes_nothing(built: Built, tokens: Tokens) -> None:
    talk = Conversation(built.csm)
    spoken = answer(talk, tokens, "All of it.", 8)
    filled = talk.filled
    talk.cut(spoken, spoken.text, list(spoken.ids), 8)
    assert (talk.filled, len(spoken.codes)) == (filled, 8)


def test_whole_turns_are_forgotten_the_oldest_first_and_the_reference_never(built: Built, tokens: Tokens) -> None:
    talk = Conversation(built.csm, segment(tokens, DEVICE, "I am here.", 12))
    for turn in range(4):
        talk.append(segment(tokens, PATIENT, f"Turn {turn}.", 30, turn))
        talk.append(segment(tokens, DEVICE, f"Answer {turn}.", 20, turn))
        talk.append(segment(tokens, DEVICE, f"And {turn}.", 20, turn))
    assert talk.make_room(POSITIONS - talk.rows) == 0
    assert talk.make_room(POSITIONS - talk.rows + 1) == 3
    assert [s.text for s in talk.segments][:3] == ["I am here.", "Turn 1.", "Answer 1."]
    assert talk.make_room(POSITIONS, keep=1) == 6
    assert [s.text for s in talk.segments] == ["I am here.", "Turn 3.", "Answer 3.", "And 3."]
    with pytest.raises(VoiceFault, match=r"does not fit CSM's \d+ free ones: lower words\.max_words"):
        talk.make_room(POSITIONS)
    assert [s.text for s in talk.segments] == ["I am here.", "Turn 3.", "Answer 3.", "And 3."]
    assert talk.make_room(POSITIONS - talk.pinned_rows) == 3
    assert [s.text for s in talk.segments] == ["I am here."]


def test_a_history_in_slices_is_the_history_in_one_batch(built: Built, tokens: Tokens) -> None:
    talk = Conversation(built.csm, segment(tokens, DEVICE, "I am here.", 12))
    talk.append(segment(tokens, PATIENT, "Hello.", 60))
    while talk.catch_up(17) is not None:
        pass
    assert talk.filled == talk.rows
    codes = answer(talk, tokens, "Yes.", 16).codes.clone()
    talk.remove(talk.segments[-1])
    assert torch.equal(codes, answer(afresh(talk), tokens, "Yes.", 16).codes)


def test_a_history_longer_than_the_cache_is_one_sentence(built: Built, tokens: Tokens) -> None:
    talk = Conversation(built.csm)
    talk.append(segment(tokens, PATIENT, "On and on.", POSITIONS))
    with pytest.raises(VoiceFault, match=rf"takes \d+ positions and CSM has {POSITIONS}: give it a shorter one"):
        talk.catch_up()


def test_a_reference_that_leaves_no_room_is_one_sentence(built: Built, tokens: Tokens) -> None:
    with pytest.raises(VoiceFault, match=r"The reference voice takes \d+ of CSM's 512 positions"):
        Conversation(built.csm, segment(tokens, DEVICE, "I am here.", 300))


def test_after_another_reference_the_codes_are_those_of_a_history_heard_afresh(built: Built, tokens: Tokens) -> None:
    talk = Conversation(built.csm, segment(tokens, DEVICE, "I am here.", 12))
    talk.append(segment(tokens, PATIENT, "Hello.", 20))
    before = answer(talk, tokens, "Yes.", 12).codes.clone()
    talk.remove(talk.segments[-1])
    calm = segment(tokens, DEVICE, "Sit comfortably.", 17, 3)
    talk.refer_to(calm)
    assert (talk.reference, talk.filled, talk.pinned) == (calm, 0, 1)
    codes = answer(talk, tokens, "Yes.", 12).codes.clone()
    assert not torch.equal(codes, before)
    talk.remove(talk.segments[-1])
    assert torch.equal(codes, answer(afresh(talk), tokens, "Yes.", 12).codes)


def test_another_reference_without_room_changes_nothing(built: Built, tokens: Tokens) -> None:
    own = segment(tokens, DEVICE, "I am here.", 12)
    talk = Conversation(built.csm, own)
    talk.append(segment(tokens, PATIENT, "On and on.", POSITIONS - talk.rows - 40))
    talk.refer_to(segment(tokens, DEVICE, "Sit comfortably.", 100))
    assert talk.reference is own
