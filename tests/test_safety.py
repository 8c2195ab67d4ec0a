"""The safety rules on words: what must fire, what must not. No recording and no model here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from device.reply_rules import REPLY_RULES, SAFE_CLAUSE, check_reply
from device.safety import MESSAGES, check, plain
from device.safety_table import KINDS, Rule, SafetyTableError, read, shipped
from device.slack import distance, near, sounds

RULES = shipped().rules
HEARS = [(rule, words) for rule in RULES for words in rule.hears]
SPARES = [(rule, words) for rule in RULES for words in rule.spares]


@pytest.mark.parametrize(("rule", "words"), HEARS, ids=lambda x: getattr(x, "name", x))
def test_every_example_of_a_rule_fires(rule: Rule, words: str) -> None:
    """The kind decides what is played; an earlier rule of the same kind may be the one to match."""
    alert = check(words)
    assert alert is not None
    assert alert.kind == rule.kind


@pytest.mark.parametrize(("rule", "words"), SPARES, ids=lambda x: getattr(x, "name", x))
def test_every_spared_example_is_spared(rule: Rule, words: str) -> None:
    assert check(words) is None


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_every_rule_is_needed(rule: Rule) -> None:
    """At least one of its examples is found by this rule; without it, one would be missed or called less grave."""
    assert rule.name in {alert.rule for words in rule.hears if (alert := check(words))}


def test_every_kind_has_a_message_and_a_rule() -> None:
    assert {rule.kind for rule in RULES} == set(KINDS) == set(MESSAGES)
    assert {kind: MESSAGES[kind] for kind in ("suicide", "self_harm", "call_someone")} == {
        "suicide": "crisis", "self_harm": "crisis", "call_someone": "calling",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "level"),
    [("I wish I was dead", "low"), ("I think about killing myself", "moderate"), ("I've decided to kill myself tonight", "high"),
     ("I wish I was dead and I have saved up my sleeping pills", "high"), ("my chest feels tight", "high")],
)  # fmt: skip
def test_the_gravest_rule_that_fires_gives_the_level(words: str, level: str) -> None:
    alert = check(words)
    assert alert is not None
    assert alert.level == level


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
    assert MESSAGES[alert.kind] == alert.message
    assert alert.kind in ("medical", "call_someone")


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


@pytest.mark.parametrize(
    ("heard", "kind"),
    [("I want to kil myself", "suicide"), ("I keep thinking of sue a side", "suicide"), ("I want. To die.", "suicide"),
     ("I want to end. My life", "suicide"), ("I took an over dose", "suicide"), ("I wanna hert myself", "self_harm"),
     ("I've got chess pain", "medical"), ("I can not breeve", "medical"), ("a hart attack I think", "medical"),
     ("get me an ambulence", "call_someone"), ("sh00t!ng my h3ad is quick", "suicide")],
)  # fmt: skip
def test_a_slip_of_the_recogniser_hides_nothing(heard: str, kind: str) -> None:
    alert = check(heard)
    assert alert is not None
    assert alert.kind == kind


@pytest.mark.parametrize(
    "heard", ["I call myself lucky", "I can't bear the draught", "my left side is warm", "he hurt himself", "make myself tea"]
)
def test_what_only_sounds_alike_calls_nobody(heard: str) -> None:
    assert check(heard) is None


def test_slack_is_an_edit_or_a_sound_and_never_crosses_a_sentence() -> None:
    assert distance("suicide", "sucide", 2) == 1
    assert distance("suicied", "suicide", 2) == 1
    assert distance("abcd", "wxyz", 2) == 3
    assert sounds("suicide") == sounds("sueaside") != sounds("side")
    assert near("a sue a side note", ("suicide",), frozenset()) == "a suicide note"
    assert near("a sue . a side", ("suicide",), frozenset()) == "a sue . a side"
    assert near("call myself", ("kill myself",), frozenset({"call myself"})) == "call myself"


GOOD = """
[words]
hurt = ["hurt/harm*"]
[rule.one]
kind = "self_harm"
level = "low"
reason = "for the test"
says = ["[hurt] ... (my own) self >"]
hears = ["x"]
spares = ["y"]
"""


def test_a_phrase_is_words_lists_gaps_and_ends(tmp_path: Path) -> None:
    file = tmp_path / "safety.toml"
    file.write_text(GOOD)
    table = read(file)
    for heard in ("I harmed self", "they hurt once or twice my own self", "hurt self."):
        assert check(heard, table) is not None, heard
    for heard in ("hurt one two three four five self", "hurt self again", "it does hurt a bit now. Nothing else but self", "shurt self"):
        assert check(heard, table) is None, heard


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ("[hurt] ...", "[harm] ...", r"rule 'one', says: .*no list of words is called \[harm\]"),
        ('kind = "self_harm"', 'kind = "sadness"', r"rule 'one': kind = 'sadness': it must be one of suicide, "),
        ('level = "low"', 'level = "grave"', r"level = 'grave'.*low, moderate, high"),
        ('hears = ["x"]', "hears = []", r"rule 'one' has no 'hears'"),
        ('hears = ["x"]', 'hear = ["x"]', r"unknown key 'hear'; known are "),
        ("(my own) self >", "(self)", r"every word of it may be missing"),
        ("(my own) self >", "sel(f", r"'sel\(f' is no word"),
        ("[words]", "[words", r"safety\.toml: .*restore it from the release"),
        (GOOD[GOOD.index("[rule") :], "", r"it has no rule"),
    ],
)  # fmt: skip
def test_a_table_that_would_leave_a_rule_silent_is_refused(tmp_path: Path, was: str, becomes: str, told: str) -> None:
    file = tmp_path / "safety.toml"
    if "(self)" in becomes:
        was = "[hurt] ... (my own) self >"
    assert was in GOOD
    file.write_text(GOOD.replace(was, becomes))
    with pytest.raises(SafetyTableError, match=told):
        read(file)


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
