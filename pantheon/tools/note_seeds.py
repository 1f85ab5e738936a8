"""Canaries of notes: front matter as a person would have it, and the same with one thing wrong.

What a note is about is known from what its writer put there: the title and the tags where they are, else its heading
and the words that heading and text share. Everything a model would choose is taken out of the base; the change puts it
back, right or wrong in a named way. Pure and deterministic; a note that tells too little, or is damaged, gives nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from pantheon.errors import InputError
from pantheon.frontmatter import Document, parse, remove_field, set_field
from pantheon.records import Repair
from pantheon.tools import candidates, links, prose
from pantheon.tools.facts import Facts
from pantheon.tools.repair import repair
from pantheon.tools.rules import FieldRule, Rules, check_field, check_note, is_empty, is_right
from pantheon.tools.tool import Seed, Tree
from pantheon.tools.words import is_topic, stem, tag_of

MOST = 256 * 1024  # bytes of a note that is used
TOPICS = 3
OTHERS = 12  # notes that are looked at for something wrong
ALIKE = 0.34  # the share of its words that a wrong title may have in common with the note
PARAGRAPH = 60  # characters that are missed when they are lost

_PARAGRAPHS = re.compile(rb"(?:\r?\n[ \t]*){2,}")
_NUMBER = re.compile(rb"(?<![\w.:/#-])[1-9]\d{0,5}(?![\w.:/-])")
_DAY = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|1[0-2])(?!\d)")

Values = Mapping[str, "str | list[str]"]


@dataclass(frozen=True)
class _Case:
    """One note: as it is without what a model chooses, and what it has to say there."""

    path: str
    before: bytes
    values: Values
    rules: Rules
    tree: Tree
    facts: Facts

    def with_values(self, values: Values) -> bytes | None:
        """The note with these values and every certain repair; None where it still breaks a rule."""
        raw = self.before
        for name, value in values.items():
            raw = set_field(parse(raw, self.path), name, value, order=self.rules.order)
        fixed, _ = repair(self.path, raw, self.rules, self.facts)
        return None if check_note(self.path, fixed, self.rules) else fixed


def seeds(path: str, raw: bytes, rules: Rules, tree: Tree, facts: Facts) -> Iterator[Seed]:
    """A right change of the note, then wrong ones, each as far as the note gives it."""
    try:
        case = _case(path, raw, rules, tree, facts)
        good = case.with_values(case.values) if case else None
        if case is None or good is None or good == case.before:
            return
        before = {path: case.before}
        yield Seed("restored", True, before, {path: good})
        for kind, make in _WRONG.items():
            bad = make(case, good)
            if bad is not None and bad not in (good, case.before):
                yield Seed(kind, False, before, {path: bad})
    except InputError:
        return


def _case(path: str, raw: bytes, rules: Rules, tree: Tree, facts: Facts) -> _Case | None:
    """The note without what a model chooses, where all of that is known; None where it is not, or too little."""
    if len(raw) > MOST:
        return None
    doc = parse(raw, path)
    found = check_note(path, raw, rules)
    if any(f.repair is Repair.REPORT or not f.field or f.rule == "history" for f in found):
        return None
    values: dict[str, str | list[str]] = {}
    bare = raw
    for name, rule in rules.ordered():
        if not _chosen(doc, name, rule):
            continue
        value = _known(path, doc, name, rule)
        if value is None:
            return None
        values[name] = value
        field = parse(bare, path)
        bare = remove_field(field, name) if field.field(name) else bare
    if not values or not any(f.repair is Repair.CHOOSE for f in check_note(path, bare, rules)):
        return None
    return _Case(path, bare, values, rules, tree, facts)


def _chosen(doc: Document, name: str, rule: FieldRule) -> bool:
    """Whether a model would choose the value if it were not there."""
    if not rule.required or rule.computed or not rule.sources:
        return False
    return not any((other := doc.get(key)) is not None and not is_empty(other) for key in rule.also)


def _known(path: str, doc: Document, name: str, rule: FieldRule) -> str | list[str] | None:
    """What the note's writer says of itself: the value that is there, else one that its heading or its text gives."""
    have = doc.get(name)
    if have is not None and check_field(doc, name, rule) is None:
        if isinstance(have, str):
            return have
        if isinstance(have, list):
            return [value for value in have if isinstance(value, str)]
        return None
    if rule.type == "list":
        return topics(path, doc)[: rule.max_items] or None
    given = (
        candidates.descriptions(path, doc, rule)
        if "sentences" in rule.sources
        else candidates.titles(path, doc, ("heading",))
        if "heading" in rule.sources and _headed(doc)
        else []
    )
    return next((value for value in given if is_right(value, rule)), None)


def _headed(doc: Document) -> bool:
    return any(block.kind == "heading" for block in prose.blocks(doc.body))


def topics(path: str, doc: Document) -> list[str]:
    """The topic words that a note's heading or title shares with its text, in the heading's order."""
    title = doc.get("title")
    heads = " ".join(candidates.titles(path, doc, ("heading",)) if _headed(doc) else [])
    said = [tag_of(word) for word in prose.words(f"{title if isinstance(title, str) else ''} {heads}")]
    text = [
        stem(tag_of(w)) for block in prose.blocks(doc.body) if block.kind != "heading" for w in prose.words(block.text)
    ]
    found = [word for word in dict.fromkeys(said) if is_topic(word) and text.count(stem(word)) >= 2]
    return found[:TOPICS]


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _stranger(case: _Case) -> Document | None:
    """Another note of the tree that has next to nothing in common with this one."""
    mine = prose.stems(" ".join(block.text for block in prose.blocks(parse(case.before, case.path).body)))
    mine |= prose.stems(
        " ".join(value if isinstance(value, str) else " ".join(value) for value in case.values.values())
    )

    def order(path: str) -> bytes:
        return hashlib.sha256(f"{case.path}\0{path}".encode("utf-8", "surrogateescape")).digest()

    others = sorted((path for path in case.facts.titles if path != case.path), key=order)[:OTHERS]
    best: tuple[float, Document] | None = None
    for path in others:
        own = prose.stems(case.facts.titles[path])
        alike = len(own & mine) / max(1, len(own))
        raw = case.tree.read(path)
        if raw is None or len(raw) > MOST or (best is not None and alike >= best[0]):
            continue
        try:
            doc = parse(raw, path)
        except InputError:
            continue
        if set(map(stem, topics(path, doc))) & mine or not topics(path, doc):
            continue
        best = (alike, doc)
    return best[1] if best is not None and best[0] <= ALIKE else None


def _from_stranger(case: _Case, wanted: Callable[[str, FieldRule], bool]) -> bytes | None:
    """The right values, but those of a strange note in the fields that are `wanted`."""
    strange = _stranger(case)
    if strange is None:
        return None
    values = dict(case.values)
    taken = False
    for name in values:
        rule = case.rules.field[name]
        if wanted(name, rule):
            value = topics(strange.path, strange) if rule.type == "list" else _known(strange.path, strange, name, rule)
            if value and is_right([*value] if isinstance(value, list) else value, rule):
                values[name], taken = value, True
    return case.with_values(values) if taken else None


def _is_list(name: str, rule: FieldRule) -> bool:
    return rule.type == "list"


def _is_title(name: str, rule: FieldRule) -> bool:
    return rule.type != "list" and "sentences" not in rule.sources


def _wrong_title(case: _Case, good: bytes) -> bytes | None:
    return _from_stranger(case, _is_title)


def _wrong_topics(case: _Case, good: bytes) -> bytes | None:
    return _from_stranger(case, _is_list)


def _nonsense(case: _Case, good: bytes) -> bytes | None:
    return _from_stranger(case, lambda name, rule: True)


def _swapped_dates(case: _Case, good: bytes) -> bytes | None:
    """Day and month change places, in a date that a person wrote."""
    doc, was = parse(good, case.path), parse(case.before, case.path)
    for name, rule in case.rules.ordered():
        value = doc.get(name)
        if rule.type == "date" and isinstance(value, str) and was.get(name) == value:
            found = _DAY.match(value)
            if found and found[2] != found[3]:
                return set_field(doc, name, f"{found[1]}-{found[3]}-{found[2]}{value[10:]}", order=case.rules.order)
    return None


def _edited(case: _Case, good: bytes, edit: Callable[[bytes], bytes | None]) -> bytes | None:
    doc = parse(good, case.path)
    body = edit(doc.body)
    return None if body is None else good[: doc.body_start] + body


def _lost_paragraph(case: _Case, good: bytes) -> bytes | None:
    def edit(body: bytes) -> bytes | None:
        if b"```" in body or b"~~~" in body:
            return None
        ends = [0, *(match.end() for match in _PARAGRAPHS.finditer(body)), len(body)]
        parts = [body[a:b] for a, b in pairwise(ends)]
        long = [n for n, part in enumerate(parts) if len(part.strip()) >= PARAGRAPH and not part.startswith(b"#")]
        if len(long) < 2:
            return None
        lost = long[_pick(case.path, "paragraph", len(long))]
        return b"".join(part for n, part in enumerate(parts) if n != lost)

    return _edited(case, good, edit)


def _changed_body(case: _Case, good: bytes) -> bytes | None:
    def edit(body: bytes) -> bytes | None:
        found = list(_NUMBER.finditer(body))
        if not found:
            return None
        number = found[_pick(case.path, "number", len(found))]
        return body[: number.start()] + str(int(number[0]) + 1).encode() + body[number.end() :]

    return _edited(case, good, edit)


def _broken_link(case: _Case, good: bytes) -> bytes | None:
    doc = parse(good, case.path)
    for link in links.find(good):
        if link.start >= doc.body_start and links.resolve(case.path, link, case.facts.tree) is not None:
            cut = good[link.start : link.end].rpartition(b"#")[0] or good[link.start : link.end]
            return good[: link.start] + cut.rpartition(b".")[0] + b"-gone.md" + good[link.end :]
    return _edited(case, good, lambda body: body.rstrip(b"\n") + b"\n\n[More on this](gone/nowhere.md)\n")


def _pick(path: str, salt: str, count: int) -> int:
    digest = hashlib.sha256(f"{salt}\0{path}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4]) % count


_WRONG: dict[str, Callable[[_Case, bytes], bytes | None]] = {
    "wrong-title": _wrong_title,
    "wrong-topics": _wrong_topics,
    "plausible-nonsense": _nonsense,
    "lost-paragraph": _lost_paragraph,
    "swapped-dates": _swapped_dates,
    "broken-link": _broken_link,
    "changed-body": _changed_body,
}
