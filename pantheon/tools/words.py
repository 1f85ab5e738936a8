"""Which words can be a tag: what a topic word is, how a tag is written, when two words are one.

Pure data and three small functions. The list is for English notes; words of other languages simply pass.
"""

from __future__ import annotations

import re
from functools import lru_cache

_TAG_SIGNS = re.compile(r"[^a-z0-9]+")
_DATED = re.compile(r"\d{4}-?\d\d|phase-?\d")
_HEX = re.compile(r"(?=.*\d)[0-9a-f]{6,}")

# Function words, verbs of everyday work, and the furniture of notes: no note is about these.
_STOP_TEXT = """
consequences dependencies dependency prs affected log logs logging failures failure definitions accepted exit
considered alternatives deprecated negative neutral observations considerations conceptual scenarios scenario trigger
triggers tools candidates comparison truth mapping message messages handling conflicts accessible tracked owner origin
configured lives changing fetch split principles shared refresh recovered external category xxxx a about above
absolutely accept acceptance according across action actionable actions actual actually add added adding additional
after again against all allow allowed almost alone along already also although always am among an and another any
anyone anything append applied apply appropriate are area areas around artifact artifacts as aside ask assume
assumption assumptions at attach author available avoid away back background bad based basic basically be because
become been before began behavior being below best better between beyond big bit blocked blocker blockers blocking
blocks both bottom break brief broken build building built but by call called can cannot capture case cases cause
certain change changed changes check checked checklist checks choice choose clean cleanup clear clearly close code
codebase come comes command commands comment comments common complete completed completion concern concerns conclusion
confirm consider consistent constraint constraints contain contains content contents context continue could count
create created creates creating criteria criterion current currently cut data date day days deal debug decide decision
decisions deep default define defined definition deliverable deliverables description design desired detail detailed
details detect determine did different direct direction directly directory discovery do doc docs document documents
does doing done down draft drop due during each early easy edge edit effort either else empty enable end ensure entire
entries entry epic especially etc even every everything exact exactly example examples except execute execution
executive exist existing exists expand expect expected explicit extra fact fail failed false far fast feature few
field fields file files final find finding findings fine first fix fixed fixes fixing focus folder follow following
follows for form format found from full fully function further future generate generated get gets give given go goal
goals goes going good got great group guide had handle happen hard has have having he help helper helpers her here
high higher his hold how however i idea ideas if immediate impact implement implementation implemented implementing
implements important improve in include included includes including info information initial input inputs inside
install instead intent into introduction investigate investigation is issue issues it item items its itself job just
keep kept key kind know known large last later latest layout least left less let level like likely limit line lines
link links list lists little live local location long look lot low made main maintain major make makes making manual
many map mark match matters may me mean means medium meta method might minimal minor missing mode model more most move
moved moving much multiple must my name named names need needed needs never new next no non none nor not note notes
nothing notice now number object objective objectives of off often ok old on once one ones only onto open option
optional options or order original other others our out output outputs outside over overall overview own page part
parts pass path paths pattern patterns per perform phase phases piece place plan planned planning plans please plus
point points possible potential practical prefer present previous primary prio priority probably problem problems
process produce project projects proper proposal propose proposed provide provided provides purpose put question
questions quick quickly rather rationale read readme ready real really reason reasons receipt receipts recent
recommendation recommendations recommended refactor reference references refine refined reflect related relevant
remain remaining remove removed report reports represent request require required requirement requirements requires
resolve resolved respect rest result results return returns review right risk risks role root rough roughly rule rules
run running runs safe said same save say scan scope second section sections see seed seem select separate serve set
sets setup several shall she should show shows side similar simple simply since single small so solid some something
soon source sources spec specs specific specification specifications specified standard start started state statement
status stay step steps still stop story strategy strict structure stuff subject success such suggest suggested
suggestion suggestions summary support supported supports sure system systems table take taken takes target targets
task tasks technical tell template test tested tests than that the their them then there these they thing things think
this those three through thus time timeline title titles to today todo together too took tool top total toward towards
treat true try turn two type types typically under understand unit unless until up update updated updates updating
upon us usage use used useful user users uses using usually valid validate validation value values various
verification verify version very via view vision want wants was way ways we week weeks well were what when where
whether which while who whole why will with within without word words work worked working works would write writes
written wrong year years yes yet you your yourself don't won't can't isn't it's let's that's there's we'll you're i'll
i'm md txt json yaml yml com org www http https src lib bin tmp dist index node modules packages package repo repos
repository services service module script scripts lightly legacy cross mini pre post sub hoc misc self vs tbd na min
max ex ie eg alignment design-inputs docops autogenerated labeled incoming icebox docs-labeled p0 p1 p2 p3 p4 v0 v1 v2
v3 jan feb mar apr jun jul aug sep oct nov dec ii iii iv vi vii viii four five six seven eight nine ten zero non-goals
nongoals non-goal out-of-scope in-scope backlog bug bugs done-definition invariants inventory analysis audit matrix
manifest contract-summary deliver
"""
_STOP = frozenset(_STOP_TEXT.split())
_SHORT = frozenset({"ai", "ci", "ui", "ux", "qa", "nx", "go", "ml", "db", "os", "k8s"})


@lru_cache(1 << 14)
def tag_of(text: str) -> str:
    """A tag's spelling: lower case, digits and dashes."""
    return _TAG_SIGNS.sub("-", text.casefold().replace("'", "").replace("+", "p")).strip("-")


@lru_cache(1 << 14)
def is_topic(tag: str) -> bool:
    """Whether a note can be about this word."""
    if not 2 < len(tag) <= 32 or not any(map(str.isalpha, tag)):
        return tag in _SHORT
    if tag in _STOP or _DATED.search(tag) or _HEX.fullmatch(tag):
        return False
    if tag[0].isdigit() or tag.count("-") > 2:
        return False
    return not all(part in _STOP or part.isdigit() for part in tag.split("-")) and not tag.endswith("ly")


@lru_cache(1 << 14)
def stem(tag: str) -> str:
    """What singular and plural, and tags that differ in dashes, have in common."""
    tag = tag.replace("-", "")
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("xes", "x"), ("s", "")):
        if tag.endswith(ending) and len(tag) > len(ending) + 2 and not tag.endswith(("ss", "us", "is", "ops")):
            return tag[: -len(ending)] + rest
    return tag


def root(tag: str) -> str:
    """What the forms of one word have in common, roughly: calibrate, calibrated, calibrating; fit, fitting."""
    word = stem(tag)
    for ending in ("ing", "ed", "er", "e"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
