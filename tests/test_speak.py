"""The CSM voice on a tiny random checkpoint: what enters the conversation, what leaves, and how it ends."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import soxr  # noqa: E402
import tiny_csm  # noqa: E402

from device.memory_rows import Segment as Kept  # noqa: E402
from device.turn import FRAME, MIC_RATE, VOICE_RATE  # noqa: E402
from device.voice.build import Built, build  # noqa: E402
from device.voice.csm import Sampling  # noqa: E402
from device.voice.ending import frame_budget  # noqa: E402
from device.voice.plain import VoiceFault, to_int16  # noqa: E402
from device.voice.speak import SLICE, CsmVoice  # noqa: E402

POSITIONS = 512
REFERENCE = ("I am here.", (np.sin(np.arange(VOICE_RATE) / 20) * 0.3).astype(np.float32))
LONG = "one two three four five six"
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(str(tiny_csm.build(tmp_path_factory.mktemp("csm"), positions=POSITIONS)), "fp32", "cpu")


def voice_of(built: Built, **kwargs: Any) -> CsmVoice:
    return CsmVoice(built.csm, built.tokens(), built.mimi(), built.sampling(1), built.precision, REFERENCE, **kwargs)


@pytest.fixture
def voice(built: Built) -> CsmVoice:
    return voice_of(built)


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=int(seconds * MIC_RATE)) * 3000).astype(np.int16)


def settle(voice: CsmVoice) -> None:
    """Wait until the model's thread has done what waits, and what that asked for in turn (a slice of tidying each)."""
    for _ in range(20):
        voice._work.submit(lambda: None).result(timeout=30)


def say(voice: CsmVoice, text: str = "I can't sleep.", seconds: float = 1.0, block: int = 1280) -> None:
    """The patient says `text`, in blocks as the companion sends them."""
    sound = speech(seconds)
    voice.start()
    for begin in range(0, len(sound), block):
        voice.feed(sound[begin : begin + block])
    voice.hear(text)
    settle(voice)


def told(voice: CsmVoice) -> list[tuple[str, str, int]]:
    """(speaker, words, frames) of each segment after the reference."""
    settle(voice)
    return [(s.speaker, s.text, len(s.codes)) for s in voice.conversation.segments[voice.conversation.pinned :]]


class Scripted:
    """In front of the engine of a voice: its first `at` frames are the engine's own, then they are what `then` makes of them."""

    def __init__(self, voice: CsmVoice, at: int, then: Callable[[Any], Any]) -> None:
        self._engine, self._at, self._then = voice.csm.engine, at, then
        self.name = "scripted"

    def frame(self, hidden: Any, sampling: Sampling) -> Any:
        codes, readings = self._engine.frame(hidden, sampling)
        self._at -= 1
        return codes if self._at >= 0 else self._then(codes), readings

    def listen(self, rows: Any, start: int) -> Any:
        return self._engine.listen(rows, start)


@pytest.fixture
def script(voice: CsmVoice, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def of(at: int, then: Callable[[Any], Any]) -> None:
        monkeypatch.setattr(voice.csm, "engine", Scripted(voice, at, then))

    return of


def raise_(error: BaseException) -> Any:
    raise error


def test_a_sentence_is_int16_frames_within_its_budget(voice: CsmVoice) -> None:
    frames = list(voice.frames("Hello you."))
    assert 0 < len(frames) <= frame_budget("Hello you.")
    assert all(f.shape == (FRAME,) and f.dtype == np.int16 for f in frames)
    assert np.abs(np.concatenate(frames).astype(int)).max() > 0
    assert (voice.name, voice.precision) == ("csm", "fp32")


def test_nothing_is_done_twice(voice: CsmVoice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame: one backbone step (the first is the prefill), one depth loop, one step of Mimi.

    And one frame in vain, as the end frame is: how the sentence ends is known from its sound, when the next is made already.
    """
    done = {"listen": 0, "frame": 0, "decode": 0}

    def counted(part: Any, name: str) -> None:
        inner = getattr(part, name)
        monkeypatch.setattr(part, name, lambda *given: (done.update({name: done[name] + 1}), inner(*given))[1])

    counted(voice.csm, "listen")
    counted(voice.csm, "frame")
    counted(voice.mimi, "decode")
    say(voice, "I slept badly.")
    assert done == {"listen": 1, "frame": 0, "decode": 0}  # the reference and the patient's segment, in one batch
    made = len(list(voice.frames("Oh, that is hard.")))
    assert done == {"listen": 1 + made + 1, "frame": made + 1, "decode": made}


def test_what_is_heard_is_mimis_offline_decoding_of_the_codes(voice: CsmVoice, built: Built) -> None:
    frames = np.concatenate(list(voice.frames("Hello you.")))
    codes = voice.conversation.segments[-1].codes
    with torch.inference_mode():
        offline = built.mimi()._model  # a Mimi of its own, whose stream nobody has used
        offline._stop_streaming()
        wanted = offline.decode(codes.T[None])[0, 0].numpy()
    assert np.abs(frames.astype(int) - to_int16(wanted).astype(int)).max() <= 4  # 1e-4 of full scale
    assert len(frames) == len(wanted)


def test_two_hundred_sentences_all_end_within_their_budget_though_no_end_frame_comes(voice: CsmVoice, script: Callable[..., None]) -> None:
    script(0, lambda codes: codes.clamp(min=1))
    words = re.findall(r"[a-z]+", (Path(__file__).parent / "data/utterances.tsv").read_text())
    for number in range(200):
        text = " ".join(words[number : number + (9 if number % 40 == 0 else 1 + number % 2)])
        assert 0 < len(list(voice.frames(text))) <= frame_budget(text), text
        voice.said("", 0)
    assert told(voice) == []


def test_the_all_zero_frame_ends_the_sentence_unheard(voice: CsmVoice, script: Callable[..., None]) -> None:
    script(5, torch.zeros_like)
    assert len(list(voice.frames("Hello you, and you too."))) == 5
    assert told(voice) == [("0", "Hello you, and you too.", 5)]
    assert voice.conversation.segments[-1].closed


def test_the_patients_sound_enters_at_24_khz_encoded_while_they_speak(voice: CsmVoice, built: Built) -> None:
    say(voice, "I slept badly.", 1.03, block=700)
    assert told(voice) == [("1", "I slept badly.", 13)]
    sound = soxr.resample(speech(1.03).astype(np.float32) / 32768, MIC_RATE, VOICE_RATE)
    stream = soxr.ResampleStream(MIC_RATE, VOICE_RATE, 1, dtype="float32")
    streamed = stream.resample_chunk(speech(1.03).astype(np.float32) / 32768, last=True)
    assert len(streamed) == pytest.approx(len(sound), abs=2)
    assert torch.equal(voice.conversation.segments[-1].codes, built.mimi().encode_all(streamed))
    assert voice.conversation.filled == voice.conversation.rows  # listened to, before any reply is asked for


def test_a_press_without_words_leaves_nothing_and_the_next_one_starts_afresh(voice: CsmVoice) -> None:
    voice.start()
    voice.feed(speech(2.0))
    say(voice, "Hello.", 1.0)
    assert told(voice) == [("1", "Hello.", 13)]
    say(voice, "  ", 1.0)
    assert told(voice) == [("1", "Hello.", 13)]


def test_what_was_not_heard_of_a_reply_is_cut_from_words_and_sound(voice: CsmVoice) -> None:
    say(voice, "What now?")
    first, second = list(voice.frames("One two three.")), list(voice.frames("Four five six seven."))
    assert len(second) > 3
    list(voice.frames("Eight."))
    voice.said("One two three.", len(first))
    voice.said("Four", 3)
    voice.said("", 0)
    voice.said("and a fourth that never began", 0)
    assert told(voice) == [("1", "What now?", 13), ("0", "One two three.", len(first)), ("0", "Four", 3)]
    assert voice.conversation.filled == voice.conversation.rows  # listened to again, while nobody waits


def test_clauses_that_nobody_accounts_for_are_forgotten_at_the_next_turn(voice: CsmVoice) -> None:
    list(voice.frames("One two three."))
    list(voice.frames(" … "))
    say(voice, "Hello?")
    assert told(voice) == [("1", "Hello?", 13)]


def test_a_clause_without_words_takes_its_place_in_the_account(voice: CsmVoice) -> None:
    assert list(voice.frames("🙂 …")) == []
    made = len(list(voice.frames("One two.")))
    voice.said("", 0)
    voice.said("One two.", made)
    assert told(voice) == [("0", "One two.", made)]


def test_markup_and_emoji_are_not_read(voice: CsmVoice) -> None:
    list(voice.frames("**Hello** 🙂 <b>you</b>, call 112"))
    assert voice.conversation.segments[-1].ids == voice.tokens.ids("0", "Hello you, call one one two")


def test_warming_up_spends_no_chance(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many frames the model's thread made before it was stopped."""
    said = []
    for warm in (1, 3, 6):
        monkeypatch.setattr("device.voice.speak.WARM_FRAMES", warm)
        voice = voice_of(built)
        voice.warm_up()
        said.append(np.concatenate(list(voice.frames("Hello."))))
        voice.close()
    assert np.array_equal(said[0], said[1])
    assert np.array_equal(said[0], said[2])


def test_warming_up_leaves_no_trace(voice: CsmVoice) -> None:
    before = voice.conversation.rows
    voice.warm_up()
    assert told(voice) == []
    assert voice.conversation.rows == before


def test_closing_stops_the_model_within_a_frame_and_the_next_sentence_works(voice: CsmVoice) -> None:
    frames = voice.frames(LONG)
    next(frames)
    frames.close()
    made = len(voice.conversation.segments[-1].codes)
    assert made < frame_budget(LONG) - 10
    settle(voice)
    assert len(voice.conversation.segments[-1].codes) == made
    assert len(list(voice.frames("Hello."))) > 0


def test_old_turns_are_forgotten_between_turns_before_room_is_short(voice: CsmVoice) -> None:
    rows = []
    for number in range(12):
        say(voice, f"Sentence {number}.", 3.0)
        made = len(list(voice.frames("I see.")))
        voice.said("I see.", made)
        settle(voice)
        rows.append(voice.conversation.rows)
        assert voice.conversation.filled == voice.conversation.rows
    assert max(rows) <= 3 / 4 * POSITIONS
    assert any(after < before for before, after in itertools.pairwise(rows))
    assert voice.conversation.segments[0].text == REFERENCE[0]
    assert told(voice)[-2][1] == "Sentence 11."


def test_a_clip_longer_than_the_cache_is_not_remembered_and_answered_all_the_same(voice: CsmVoice) -> None:
    say(voice, "On and on and on.", 60.0)
    assert told(voice) == []
    assert len(list(voice.frames("I see."))) > 0


def test_a_text_of_four_hundred_words_is_refused_in_one_sentence_and_nothing_breaks(voice: CsmVoice) -> None:
    say(voice, "Hello.")
    with pytest.raises(VoiceFault, match=r"^A reply of up to \d+ positions does not fit CSM's \d+ free ones: lower words\.max_words\.$"):
        next(voice.frames("word " * 400))
    assert told(voice) == [("1", "Hello.", 13)]
    assert len(list(voice.frames("I see."))) > 0


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "CSM ran out of memory: stop other programs"),
        (MemoryError(), "CSM ran out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you"), "CSM ran out of memory"),
        (RuntimeError("shape\nmismatch"), r"CSM failed \(RuntimeError: shape\)"),
    ],
)
def test_a_failure_amid_a_sentence_is_one_sentence_and_the_conversation_is_whole(
    voice: CsmVoice, script: Callable[..., None], error: BaseException, says: str
) -> None:
    say(voice, "Hello.")
    before = told(voice)
    engine = voice.csm.engine
    script(3, lambda _: raise_(error))
    frames = voice.frames(LONG)
    assert [len(next(frames)) for _ in range(3)] == [FRAME] * 3
    with pytest.raises(VoiceFault, match=says) as fault:
        next(frames)
    assert "\n" not in str(fault.value)
    voice.csm.engine = engine
    voice.said("one", 2)
    assert told(voice) == before
    assert len(list(voice.frames("I see."))) > 0


def test_numbers_that_are_none_are_one_sentence(built: Built) -> None:
    voice = voice_of(built)
    weight = built.csm.backbone.norm.weight
    kept = weight.clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    try:
        with pytest.raises(VoiceFault, match=r"CSM's numbers broke \(NaN\)"):
            list(voice.frames("Hello."))
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert told(voice) == []
    assert len(list(voice.frames("Hello."))) > 0


def test_a_failure_that_nobody_waited_for_is_told_with_the_next_clause(voice: CsmVoice, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(voice.conversation, "catch_up", lambda *_: raise_(MemoryError()))
        say(voice, "Hello.")
    with pytest.raises(VoiceFault, match="ran out of memory"):
        next(voice.frames("I see."))
    assert len(list(voice.frames("I see."))) > 0


def test_a_restart_goes_on_from_what_each_turn_left(built: Built) -> None:
    voice, kept = voice_of(built), []
    assert voice.resume([]) == 0
    for words, reply in (("I am Anna.", "Hello Anna."), ("I am tired.", "It sounds as if you are.")):
        voice.start()
        say(voice, words)
        made = len(list(voice.frames(reply)))
        voice.said("Hello" if reply == "Hello Anna." else reply, made - 2 if reply == "Hello Anna." else made)
        kept += voice.spoken()
    assert [(k.speaker, k.text, len(k.codes)) for k in kept] == told(voice)
    assert [k.text for k in kept] == ["I am Anna.", "Hello", "I am tired.", "It sounds as if you are."]
    again = voice_of(built)
    assert again.resume(kept) == 4
    assert told(again) == told(voice)
    assert again.conversation.filled == again.conversation.rows == voice.conversation.rows
    greedy = []
    for each in (voice, again):
        each.sampling = Sampling(tiny_csm.CODEBOOK, top_k=1)
        list(each.frames("And then?"))
        greedy.append(each.conversation.segments[-1].codes)
    assert torch.equal(*greedy)


def test_what_is_remembered_already_is_not_listened_to_again(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory knows more than the voice, which forgot the oldest for room; and one turn less, which the patient took back."""
    voice = voice_of(built)
    for words in ("I am Anna.", "I am tired.", "I hate soup."):
        voice.start()
        say(voice, words)
    all_of_it = voice.history()
    voice.conversation.remove(voice.conversation.segments[1])
    voice.conversation.catch_up()
    given: list[int] = []
    rows = voice.conversation._rows
    monkeypatch.setattr(voice.conversation, "_rows", lambda first, last: given.append(last - first) or rows(first, last))
    assert voice.resume(all_of_it[:2]) == 1
    assert [text for _, text, _ in told(voice)] == ["I am tired."]
    assert given == []
    assert voice.resume(all_of_it) == 2
    assert [text for _, text, _ in told(voice)] == ["I am tired.", "I hate soup."]
    assert sum(given) == voice.conversation.segments[-1].rows
    assert voice.resume([]) == 0  # all is forgotten
    assert told(voice) == []


@pytest.mark.parametrize("wrong", [np.ones((3, 5), np.int16), np.full((3, tiny_csm.CODEBOOKS), 9999, np.int16)])
def test_what_is_of_another_model_is_left_out_with_a_line_in_the_log(built: Built, wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    voice = voice_of(built)
    assert voice.resume([Kept("1", "Hello.", wrong)]) == 0
    assert "conversation_not_resumed" in caplog.text
    made = len(list(voice.frames("Hello.")))
    voice.said("Hello.", made)
    assert told(voice) == [("0", "Hello.", made)]


def test_closing_finishes_what_waits(built: Built, caplog: pytest.LogCaptureFixture) -> None:
    """The first clause is cut, so the second is listened to again, in more than one slice: closing waits for all of it."""
    voice = voice_of(built)
    say(voice, "I am Anna.")
    for _ in range(2):
        list(voice.frames(LONG))
    voice.said("one", 1)
    voice.said(LONG, 10**6)
    voice.close()
    talk = voice.conversation
    assert talk.segments[-1].rows > SLICE
    assert talk.filled == talk.rows
    assert [s.text for s in talk.segments[1:]] == ["I am Anna.", "one", LONG]
    assert "voice_fault" not in caplog.text


def test_frames_leave_as_they_are_made(voice: CsmVoice, script: Callable[..., None]) -> None:
    gate, waiting = threading.Semaphore(0), threading.Event()

    def wait(codes: Any) -> Any:
        waiting.set()
        assert gate.acquire(timeout=20)
        return codes

    script(1, wait)
    frames = voice.frames(LONG)
    assert len(next(frames)) == FRAME
    assert waiting.wait(20)  # the second frame is not finished
    gate.release(10**6)
    assert len(list(frames)) > 1


def test_another_tone_is_another_reference_before_the_same_history(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listened to while nothing waits; one that is not known, or the same again, asks for nothing."""
    calm = ("sit comfortably", np.sin(np.arange(2 * FRAME) / 9).astype(np.float32))
    voice = voice_of(built, tones={"calm": calm})
    say(voice, "I slept badly.")
    talk, neutral, before = voice.conversation, voice.conversation.reference, told(voice)
    voice.tone("calm")
    settle(voice)
    assert talk.reference is not None
    assert (talk.reference.text, talk.filled) == ("sit comfortably", talk.rows)
    assert told(voice) == before
    voice.tone("unheard of")
    settle(voice)
    assert talk.reference.text == "sit comfortably"
    voice.tone("neutral")
    settle(voice)
    assert talk.reference is neutral
    monkeypatch.setattr("device.voice.speak.TONE_ROWS", talk.rows - 1)  # a CPU would be late with the answer
    voice.tone("calm")
    settle(voice)
    assert talk.reference is neutral
