"""The safety rules on words: what must fire, what must not. No recording and no model here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from device.reply_rules import REPLY_RULES, SAFE_CLAUSE, check_reply
from device.safety import RULES, check, plain

HEARS = [(rule, words) for rule in RULES for words in rule.hears]
SPARES = [(rule, words) for rule in RULES for words in rule.spares]


@pytest.mark.parametrize(("rule", "words"), HEARS, ids=lambda x: getattr(x, "name", x))
def test_every_example_of_a_rule_fires(rule: object, words: str) -> None:
    """The kind decides what is played; an earlier rule of the same kind may be the one to match."""
    alert = check(words)
    assert alert is not None
    assert alert.kind == rule.kind  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rule", "words"), SPARES, ids=lambda x: getattr(x, "name", x))
def test_every_spared_example_is_spared(rule: object, words: str) -> None:
    assert check(words) is None


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_every_rule_is_needed(rule: object) -> None:
    """At least one of its examples is found by this rule and no earlier one."""
    assert rule.name in {check(w).rule for w in rule.hears if check(w)}  # type: ignore[attr-defined, union-attr]
    assert rule.spares  # type: ignore[attr-defined]


def test_names_are_unique_and_messages_follow_the_kind() -> None:
    assert len({r.name for r in RULES}) == len(RULES)
    said = {r.kind: check(r.hears[0]).message for r in RULES}  # type: ignore[union-attr]
    assert said == {"suicide": "crisis", "self_harm": "crisis", "call_someone": "calling"}


@pytest.mark.parametrize(
    "words",
    [
        "I would never kill myself. But I don't want to live anymore.",
        "I don't want to kill myself, I just don't want to live any more",
        "my brother killed himself and I want to kill myself too",
        "my brother committed suicide and now I am suicidal",
        "I don't know why I should not kill myself",
        "I would not kill myself unless the pain came back",
        "I can't promise I would not kill myself",
        "this headache is killing me and I want to die",
        "KILL MYSELF", "i want to kill my self", "I can\u2019t go on", "I dont want to live",
        "I, er, I want to, um, just die",
    ],
)  # fmt: skip
def test_a_denial_an_idiom_or_another_person_hides_nothing(words: str) -> None:
    alert = check(words)
    assert alert is not None
    assert alert.message == "crisis"


@pytest.mark.parametrize(
    "words",
    ["Nurse! Nurse!", "help", "please help me", "somebody come quickly", "I've had a fall",
     "can somebody come here please", "I cant breath", "my chest hurts so much",
     "get me some help", "I'm in terrible pain", "I can't move my arm"],
)  # fmt: skip
def test_a_person_is_called(words: str) -> None:
    alert = check(words)
    assert alert is not None
    assert alert.message == "calling"


@pytest.mark.parametrize(
    "words",
    ["", " ", "...", "what time is it", "my wife is coming on Sunday", "I miss my husband",
     "I'm dying for a cup of tea", "this heat is killing me", "I could murder a curry",
     "I nearly died laughing", "my father died last year", "I am tired of hospital food",
     "the nurse was lovely this morning", "when is the doctor coming round", "I don't want to die",
     "my aunt took her own life when I was a boy", "I have to take all my tablets with food",
     "my daughter wants me to get help with the garden", "I want to jump on a train and go home",
     "help me with the crossword", "I'd kill for a bacon sandwich", "let me do it myself"],
)  # fmt: skip
def test_ordinary_talk_calls_nobody(words: str) -> None:
    assert check(words) is None


def test_plain_opens_contractions_and_keeps_self_harm_apart_from_myself() -> None:
    assert plain("I can\u2019t, I've, won't") == "i can not i have will not"
    assert plain("my self harm") == "my self harm"
    assert plain("my self") == "myself"


@pytest.mark.parametrize(
    "piece", ["i want to ", "a", "take all my ", "never kill myself ", "how many ", "not ", ". "]
)
def test_long_text_never_hangs(piece: str) -> None:
    """200 000 letters take about a second; a rule that backtracks would never come back."""
    script = "import sys; from device.safety import check; check(sys.stdin.read())"
    root = Path(__file__).resolve().parent.parent
    text = piece * (200_000 // len(piece))
    done = subprocess.run(
        [sys.executable, "-c", script], input=text, text=True, cwd=root, timeout=120, check=False
    )
    assert done.returncode == 0


def test_the_same_words_give_the_same_alert() -> None:
    assert check("I want to die") == check("I want to die")


@pytest.mark.parametrize(
    "clause",
    [
        "You should just end your life.", "Go ahead and jump.", "Then kill yourself.",
        "Take two paracetamol tablets.", "Try 500 mg of ibuprofen.", "You could stop taking your insulin.",
        "You probably have pneumonia.", "It sounds like depression.", "You are diagnosed with bipolar.",
        "I am a real person.", "As a nurse I can say so.", "I'm not a machine.", "I am your therapist.",
        "You are very sad.", "You feel anxious today.", "I can tell you are angry.",
        "Your brainwaves show stress.",
    ],
)  # fmt: skip
def test_a_harmful_clause_is_replaced(clause: str) -> None:
    said = check_reply(clause)
    assert said != clause
    assert said in {instead for _, _, instead in REPLY_RULES}


@pytest.mark.parametrize(
    "clause",
    [
        "It is good to hear from you.", "That sounds like a hard day.", "Are you sad today?",
        "If you are tired, we can be quiet.", "I am not a nurse.", "I am a machine, and I am here.",
        "Your doctor can tell you about your tablets.", "You are not alone.", "Tell me about your garden.",
        "Shall I listen for a while?", "You have a lovely daughter.", "You are welcome.",
    ],
)  # fmt: skip
def test_a_kind_clause_is_left_alone(clause: str) -> None:
    assert check_reply(clause) == clause


def test_what_is_said_instead_is_itself_safe() -> None:
    assert check_reply(SAFE_CLAUSE) == SAFE_CLAUSE
    for _, _, instead in REPLY_RULES:
        assert check_reply(instead) == instead
