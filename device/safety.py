"""What a patient may not be left alone with, as a table of rules. (What the device may not say: reply_rules.)

It knows no model, no sound and no clock: the same words always give the same answer.
A false alarm costs a visit, a miss may cost a life, so a doubtful phrase fires. Only idioms, plain
denials and another person's past are spared; each rule carries its own examples of both.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from device.turn import Alert

_SHORT = {  # what is said -> what the rules are written in
    "n't": " not", "'m": " am", "'ve": " have", "'d": " would", "'ll": " will", "'re": " are",
}  # fmt: skip
_WORDS = {
    "wanna": "want to", "gonna": "going to", "gotta": "have to", "cannot": "can not",
    "cant": "can not", "dont": "do not", "wont": "will not", "didnt": "did not", "im": "i am",
    "ive": "i have", "meself": "myself", "anymore": "any more", "its": "it is", "lemme": "let me",
    "breath": "breathe", "chess pain": "chest pain", "sue a side": "suicide", "theres": "there is",
    "isnt": "is not", "wasnt": "was not", "couldnt": "could not", "wouldnt": "would not",
}  # fmt: skip
_FILLERS = r"\b(?:um+|uh+|er+m?|hmm+|just|really|actually|literally|honestly|even|simply)\b"
_SAYING = re.compile(r"\b(" + "|".join(map(re.escape, _WORDS)) + r")\b")


def plain(text: str) -> str:
    """`text` in lower case, contractions opened, fillers and commas gone, sentences parted by '.'."""
    out = unicodedata.normalize("NFKC", text).lower()
    out = re.sub("[\u2018\u2019\u02bc`\u00b4]", "'", out).replace("can't", "can not")
    out = out.replace("won't", "will not")
    for short, long in _SHORT.items():
        out = out.replace(short, long)
    out = re.sub(r"\b(it|that|there|what|where|he|she|life)'s\b", r"\1 is", out)
    out = re.sub(r"[.!?;:\n]+", " . ", out)
    out = re.sub(r"[^\w.' ]+", " ", out)
    out = " ".join(re.sub(_FILLERS, " ", out).split())
    out = _SAYING.sub(lambda m: _WORDS[m[1]], out)
    return re.sub(r"\bm[ye] self\b(?! (?:harm|injur|mutilat|esteem))", "myself", out)


@dataclass(frozen=True)
class Rule:
    """One thing to recognise. `pattern` and `unless` (searched in the same sentence) read plain()."""

    kind: str
    name: str
    pattern: str
    reason: str
    hears: tuple[str, ...]
    spares: tuple[str, ...] = ()
    unless: str = ""
    found: re.Pattern[str] = field(init=False, repr=False, compare=False)
    spared: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", re.compile(rf"\b(?:{self.pattern})\b"))
        object.__setattr__(
            self, "spared", re.compile(rf"\b(?:{self.unless})\b") if self.unless else None
        )


_W = r"(?:\w+ )"  # one word between two others: people and speech recognition both put them in
_SELF = r"(?:myself|my own self)"
_WANT = r"(?:want|wanted|wants|wish|wishing|ready|hoping|pray|praying|prefer|longing|begging|like)"
_WHO = r"(?:me )?(?:a |the |my |another |some )?"
_PERSON = (
    r"(?:nurses?|doctors?|carers?|caregivers?|ambulance|paramedics?|somebody|someone|anybody|"
    r"anyone|help)"
)
_DRUG = r"(?:pills|tablets|meds|medication|medicine|morphine|painkillers|insulin|sleeping pills)"

RULES: tuple[Rule, ...] = (
    Rule(
        "suicide", "kill_myself",
        rf"(?:(?:kill(?:ed|ing)?|murder|shoot(?:ing)?|hang(?:ing)?|drown(?:ing)?|poison(?:ing)?)"
        rf" {_SELF}|(?:off|top|unalive) myself|do(?:ing)? (?:myself in(?! the)|away with myself))"
        r"(?! in the foot| laughing| with laughter)",
        "names the wearer's own death by their own hand",
        ("I want to kill myself", "I keep thinking about killing my self", "I'm gonna hang myself",
         "I can't even kill myself properly", "I would not kill myself unless it got worse"),
        ("I would never kill myself", "my brother killed himself", "I could kill for a coffee",
         "I shot myself in the foot there", "this headache is killing me", "I did it all myself"),
        r"(?:am|was|were|been) killing myself (?:trying|working|at work)",
    ),
    Rule(
        "suicide", "end_my_life",
        r"(?:tak(?:e|ing)|took|end(?:ing|ed)?|finish(?:ing)?) my (?:own )?life|end(?:ing)? it all|(?:of|about) ending things(?! with)|"
        rf"put an end to (?:it all|my life|myself)|{_WANT} {_W}{{0,2}}to end it(?! with| by| there)|"
        r"(?:decided|going|ready|need|time) to end (?:it|everything)(?! with| by| there)",
        "speaks of ending their life",
        ("I'm going to take my own life", "I just want to end it all", "I'm ready to end it"),
        ("the party took my life savings", "I want to end it with my landlord"),
        r"life (?:savings?|story|jacket|insurance)|my whole life",
    ),
    Rule(
        "suicide", "want_to_die",
        rf"{_WANT} {_W}{{0,2}}(?:to )?(?:die|be dead|(?:go to )?sleep forever|never wake up)"
        r"(?! for(?! real| good)| of (?:embarrass|shame|boredom|laugh)| laughing)|"
        r"(?:wish|wished|wishing|hope) (?:that )?i (?:was|were|am|would|could|did|had|will) "
        rf"{_W}{{0,3}}(?:dead|die|died|born|never woken up|wake up|disappear)|"
        r"(?:better off|rather be) dead|better off without me|let me die|help me (?:to )?die|"
        r"waiting to die|(?:please|somebody|someone|can you|could you|will you|^|just|and) ?kill me(?! if)|"
        r"put me out of my misery|nobody would miss me|as well be dead|rather die(?! of)",
        "wishes to be dead",
        ("I want to die", "I wish I was dead", "I wish I'd never been born", "just let me die",
         "everyone would be better off without me", "please kill me", "I, um, want to just die"),
        ("I'm dying to see them", "I don't want to die", "that cake is to die for",
         "I wanted to die of embarrassment", "my wife will kill me if I forget"),
        r"(?:they|he|she) (?:wants?|wanted) (?:him|her|them|it|the) to die",
    ),
    Rule(
        "suicide", "no_wish_to_live",
        r"(?:do|did|does) not (?:want to|wanna|wish to|care to|feel like) "
        r"(?:live|living|be alive|exist|go on|carry on|wake up|be here any ?more|be here any longer)|"
        r"(?:no (?:reason|point|use)|what is the point) (?:in |of |to |for )?(?:me )?(?:living|live|going on|go on|being alive|"
        r"carrying on|carry on)|nothing (?:left )?to live for|not worth living|"
        r"can not (?:go on|carry on|keep going)(?! holiday| the | a | about| to )|"
        r"(?:tired|sick|done|fed up|finished|enough) (?:of|with) (?:living|(?:this )?life(?! drawing| insurance)|being alive)|out of this life|"
        r"(?:stop|hate|hating) (?:existing|being alive|living)(?! here| in | with )|"
        r"never wake up|not (?:to )?wake up (?:again|tomorrow|in the morning|any more)|"
        r"(?:giv\w+|gave) up on (?:my )?life|no longer (?:want|wish) to (?:live|be alive)",
        "has lost the wish to live",
        ("I don't want to live anymore", "there's no point in going on", "I cannot go on",
         "I do not want to wake up tomorrow", "I’m tired of living", "life's not worth living"),
        ("I can't go on holiday this year", "I don't want to live in Leeds", "I live for Sundays"),
        r"not want to live (?:in|at|near|with|there|next|on)",
    ),
    Rule(
        "suicide", "suicide_named",
        r"suicidal|commit(?:ting)? suicide|suicide (?:notes?|plans?|pact|methods?)|"
        r"(?:i|me) (?:\w+ ){0,6}suicide(?! bomb| squad)|(?:how|way|ways|time|place|method|methods|help)"
        rf" {_W}{{0,6}}(?:suicide(?! bomb| squad)|kill yourself|overdose)",
        "names suicide as their own or asks about ways",
        ("I feel suicidal", "I have been thinking about suicide", "how do people commit suicide",
         "what is the best way to kill yourself", "I think I might commit sue a side"),
        ("my brother committed suicide in 1980", "I watched Suicide Squad", "he died by suicide",
         "I lost my brother to suicide"),
        r"lost \w+ \w+ to suicide|(?:brother|sister|mother|father|mum|mom|dad|son|daughter|friend|uncle|aunt|cousin|husband|"
        r"wife|he|she|they|neighbou?r) (?:who )?(?:had )?(?:committed|died by|died of|attempted) suicide",
    ),
    Rule(
        "suicide", "method",
        rf"(?:jump|jumping|throw myself|step)(?! on ) {_W}{{0,4}}(?:bridge|window|roof|building|cliff|train|"
        rf"traffic)|(?:take|took|taken|taking|swallow\w*|save up|saving up) (?:all )?(?:of )?"
        rf"(?:all|too many|a whole bottle|the whole bottle|every one)(?: of)? (?:my |the |those )?{_DRUG}|"
        rf"(?:i|me|will|let me|to|an) overdosed?|lethal dose|how (?:many|much) {_W}{{0,6}}"
        r"(?:kill me|to die|overdose|end it|kill a person)|(?:slit|slash|cut)\w* my (?:own )?"
        r"(?:wrists?|throat|veins?)|nooses?|painless (?:way|death)|easiest way to (?:die|go)",
        "names a way to die",
        ("I want to jump off a bridge", "I have taken all my tablets", "I took too many pills",
         "how many pills would it take to kill me", "I'll slit my wrists"),
        ("I took my tablets this morning", "we saw a cat jump on the table", "I used to step aerobics"),
        r"bungee|(?:have|told me|supposed|need|remember\w*|meant) to take|with (?:food|water|my tea)|film|movie|\w+ horse",
    ),
    Rule(
        "suicide", "someone_else_now",
        r"(?:wants?|going|plans?|planning|threaten\w*|trying|about) (?:to )?(?:kill|hurt|harm|hang)(?:ing)?"
        r" (?:himself|herself|themselves|themself)",
        "another person is in danger now, and a caregiver can act",
        ("my roommate wants to kill himself",),
        ("my brother killed himself", "she wanted to kill herself once, years ago"),
    ),
    Rule(
        "self_harm", "hurt_myself",
        r"(?:hurt(?:ing)?|harm(?:ing|ed)?|cut(?:ting)?|burn(?:ing|ed|t)?|injur(?:e|ed|ing)|scratch(?:ing|ed)?"
        r"|punish(?:ing)?|stab(?:bing|bed)?|slic(?:e|ing|ed)|starv(?:e|ing|ed)|hit(?:ting)?) "
        rf"{_SELF}|stop(?:ped|ping)? myself (?:from )?eating|make myself (?:bleed|sick|vomit|throw up)",
        "hurts themselves or wants to",
        ("I want to hurt myself", "I cut myself again last night", "I've been burning myself",
         "I keep starving myself", "I cut myself on the arm to feel something"),
        ("I cut myself shaving", "I burnt myself on the kettle", "I'd never hurt myself",
         "he hurt himself playing football"),
        r"(?:myself (?:shaving|on (?:the|a|my|some) (?!arms?|legs?|wrists?|thighs?)|off |some |a slice|"
        r"while |when i |cooking|chopping|opening|playing))|accident\w*|by mistake",
    ),
    Rule(
        "self_harm", "self_harm_named",
        r"self (?:harm(?:ing|ed|s)?|injur\w+|mutilat\w+)|(?:with|my) (?:anorexia|bulimia)|cutting again|cuts on my (?:wrists?|arms?|legs?)|"
        r"(?:urge|want|need|going) to (?:cut|bleed|feel (?:physical )?pain)(?! the| my hair| a | some| it| down| back| out| grass)",
        "names self-harm or the urge to it",
        ("I started to self-harm again", "I have the urge to cut", "there are cuts on my wrists"),
        ("I want to cut the cake", "I need to cut down on sugar"),
        r"to (?:cut|bleed) (?:the|my hair|a|some|it|down|back|out|grass|off|costs?|bread|flowers) ?\w*",
    ),
    Rule(
        "call_someone", "wants_a_person",
        rf"(?:call|get|fetch|ring|find|send|page|bring|phone|ask) (?:for )?{_WHO}{_PERSON}"
        r"(?! to (?:understand|explain)| with (?!my (?:breathing|pain)))|"
        rf"(?:i|we) (?:\w+ )?(?:need|want) {_WHO}{_PERSON}(?! with (?!my (?:breathing|pain))| s |'s| choos| decid| find"
        r"| remember| understand| writ| who| to (?:understand|choose|remember|write|talk about))|"
        rf"where is (?:the|my) (?:nurse|doctor|carer)(?! from)|(?:^|\. )(?:please )?help(?: me)?"
        rf"(?: please| now| me| help)*(?= \.|$)|(?:someone|somebody) (?:please )?(?:help|come)|(?:can|could|will|would) {_WHO}{_PERSON} (?:please )?(?:come|help)|"
        r"come quick(?:ly)?|^(?:please )?(?:nurse|doctor)(?: please| nurse| help| quick\w*)*(?=$)|is (?:anyone|anybody|someone|somebody) there",
        "asks for a person",
        ("call the nurse please", "can you get someone", "I need a doctor", "Help! Help me!",
         "please help me", "I need help", "is anybody there", "I need help now"),
        ("my daughter is a nurse", "help me with the crossword", "don't call the nurse",
         "I need help with the crossword", "I don't need a doctor", "where is the nurse from"),
        r"not (?:want|need) (?:you )?to (?:call|get|ask)",
    ),
    Rule(
        "call_someone", "body_in_danger",
        r"can ?not (?:get my |catch my )?breathe?(?: properly)?|hard to breathe|can not move my (?:arms?|legs?|face)|(?:trouble|difficulty|"
        r"struggling) (?:to )?breath\w*|short of breathe|chest pains?|pains? (?:\w+ ){0,3}in my chest|"
        r"my chest (?:is |feels |really )*(?:hurt\w*|tight\w*|ach\w*|burning|pain\w*|crush\w*)|"
        r"i am (?:\w+ )?(?:choking|bleeding|passing out|having a (?:heart attack|stroke|seizure|fit))|"
        r"(?:having|had) a (?:heart attack|stroke|seizure)|my (?:face|arm) (?:has )?(?:dropped|gone numb|is numb)|"
        r"i (?:think|feel like) i am dying(?! to| of| for)",
        "a sign that cannot wait",
        ("I can't breathe", "I cant breath", "I've got chess pain", "there's a pain in my chest",
         "my chest feels tight", "I'm bleeding", "I think I'm having a heart attack"),
        ("I couldn't breathe for laughing", "I had chest pain years ago", "I have no chest pain",
         "why can asexual people not resurrect the dead"),
        r"laugh\w*|years ago|last year|when i was (?:a |young)|in space|my (?:brother|sister|father|mother|"
        r"dad|mum|husband|wife) (?:had|was)|(?:he|she|they) (?:had|was)",
    ),
    Rule(
        "call_someone", "fallen",
        r"i have (?:\w+ )?fallen(?! asleep| in love| out| for| behind)|i (?:\w+ )?fell "
        r"(?:out of (?:my |the )?bed|down|over|off|on the|to the)|i fell(?= \.|$)|(?:am|lying|stuck) on "
        r"the floor|(?:can not|unable to) (?:get|stand) up(?! early| before)|i have hurt myself(?= \.|$)|i (?:have )?had a (?:\w+ )?fall(?! out)",
        "has fallen or cannot get up",
        ("I've fallen", "I fell out of bed", "I'm on the floor", "I have fallen over", "I can't get up"),
        ("I have fallen in love", "I fell asleep", "I fell over once, years ago"),
        r"years ago|last year|when i was (?:a |young|little)",
    ),
    Rule(
        "call_someone", "at_the_end",
        r"can not (?:take|bear|stand|cope with|do) (?:it|this|the pain) (?:any ?more|any longer|much longer)|"
        r"(?:pain is |in )(?:unbearable|agony|too much)|in (?:terrible|awful|so much|severe|a lot of) pain|pull(?:ing)? out my (?:iv|drip|tubes?|line|catheter)",
        "can bear no more, or means to pull out a line",
        ("I can't take it anymore", "I am in agony", "I want to pull out my drip"),
        ("I can't take this parcel back", "I can't bear the cold"),
    ),
)  # fmt: skip

_MESSAGES = {"suicide": "crisis", "self_harm": "crisis", "call_someone": "calling"}
_DENIED = re.compile(
    r"(?:\b(?:(?:would|will|do|did|am|was|have) (?:\w+ )?(?:not|never)|never|no|do not|not trying to)"
    r"(?: (?:ever|going to|want to|wanting to|wish to|mean to|plan to|planning to|trying to|tried to|"
    r"thinking of|thinking about|thought of|thought about|feel|feeling|thoughts of|have|had|having|"
    r"any|plans? to|intention of|and will never|be))*) $"
)
_NOT_DENIED = re.compile(r"\b(?:why|promise|sure|know|pretend\w*|cannot say|can not say)\b")


_JOIN = re.compile(r" (?:but|and|because|so|now|then) ")


def _clause(sentence: str, start: int, end: int) -> str:
    """The part between two joining words that a match lies in: where a sparing word must stand."""
    first = max((m.end() for m in _JOIN.finditer(sentence, max(0, start - 200), start)), default=0)
    after = _JOIN.search(sentence, end, end + 200)
    return sentence[max(first, start - 200) : min(after.start() if after else end + 200, end + 200)]


def _denies(sentence: str, start: int, end: int) -> bool:
    """Whether the words before `start` are a plain denial, and nothing takes it back."""
    before = sentence[max(0, start - 80) : start]
    if not _DENIED.search(before) or _NOT_DENIED.search(before):
        return False
    return not re.match(r" (?:unless|until|yet|any ?more than)\b", sentence[end : end + 16])


def check(heard_text: str) -> Alert | None:
    """The alert that the first rule to match calls for, or None. Pure, linear in the text."""
    sentences = [s for s in plain(heard_text).split(" . ") if s]
    for rule in RULES:
        for sentence in sentences:
            for match in rule.found.finditer(sentence):
                spared = rule.spared and rule.spared.search(_clause(sentence, *match.span()))
                if not spared and not _denies(sentence, *match.span()):
                    return Alert(rule.kind, rule.name, _MESSAGES[rule.kind])
    return None
