"""Candidates for what a note lacks: titles, descriptions, tags, slugs and file names, all taken from the note itself.

Pure. A small model only picks, so every candidate must be acceptable as it stands; it tends to pick the first, so their
order is turned by a hash of the path. Values with one right answer are in repair.py.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from slugify import slugify

from pantheon.forms import TEXTS_AT_ONCE
from pantheon.frontmatter import Document, Value
from pantheon.tools import prose
from pantheon.tools.facts import Facts
from pantheon.tools.rules import FieldRule, Rules, is_right
from pantheon.tools.words import is_topic, root, stem, tag_of

MAX_SLUG = 72

_FLAG = re.compile(r"(?:^|\s)--?[A-Za-z][\w-]*(?=\s|$)")
_DATE = re.compile(
    r"(?:^|(?<=[\s_.(-]))(?:19|20)\d\d[-._]?(?:0[1-9]|1[0-2])[-._]?(?:[0-3]\d)(?:[-._T]\d{2}){0,3}(?!\d)"
)
_CODE_PREFIX = re.compile(r"^(?:[A-Za-z]{1,3}-)?\d{1,4}[-_. ]+(?=\D)")
_EMPTY_PARENS = re.compile(r"[(\[][\s\W]*[)\]]")
_PARENTHESIS = re.compile(r"\s*\((?:[^()]{0,60})\)\s*$")
_HEX = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:spec|goal|goals|summary|purpose|objective|overview|context|description|problem|status|note|tl;dr|"
    r"scope|question|answer|vision|motivation|symptom|outcome|intent|why|what)\s*[:\u2014-]\s+",
    re.IGNORECASE,
)
_TITLE_LABEL = re.compile(r"^(?:spec draft|draft spec|spec|draft|report)(?:\s*\([^()]{1,30}\))?\s*:\s+", re.IGNORECASE)
_URL = re.compile(r"https?://|www\.", re.IGNORECASE)
_PATHLIKE = re.compile(
    r"\S*[/\\{}=<>$|~]\S*|\S+\(\)|\S+\.(?:ts|js|py|md|json|ya?ml|clj[sc]?|mjs|sh|toml|txt|edn)\b|\S+_\S+|\S+:\d+"
)
_META = re.compile(r"^[A-Z][\w /-]{1,24}:\s+\S+(?:\s+\S+){0,3}$")
_CHATTY = re.compile(
    r"\b(?:i|i['\u2019](?:m|ll|ve|d)|me|my|you|your|you['\u2019](?:re|ll|ve)|let me|let['\u2019]s|we|"
    r"we['\u2019](?:ll|re)|us)\b",
    re.IGNORECASE,
)
_REFERS = re.compile(
    r"^(?:this|that|these|those|it|they|he|she|here|there|then|also|so|but|and|or|however|below|above|now)\b",
    re.IGNORECASE,
)
_OPENING_WORDS = """
goal goals summary purpose overview context vision objective objectives introduction description abstract problem
background motivation thesis mission intent scope why what tl;dr executive
"""
_ASIDE_WORDS = """
risk risks question questions task tasks todo references reference files existing blocked blocks source sources done
status log changelog issues prs next links related appendix acceptance criteria definition verification commands notes
example examples usage license estimates
"""
_DANGLING = frozenset({"a", "an", "and", "as", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to"})
_STATES = frozenset({"icebox", "incoming", "accepted", "backlog", "review", "readme", "skill", "index", "untitled"})
_OPENING = frozenset(_OPENING_WORDS.split())
_ASIDE = frozenset(_ASIDE_WORDS.split())
_Weight = tuple[str, str, float]  # a word, the form that it shares with its relatives, what it weighs
_GENERIC = _OPENING | _ASIDE | _STATES | {"by", "blockers", "requirements", "plan", "phases", "phase", "steps"}


def candidates(field: str, path: str, doc: Document, facts: Facts, rules: Rules) -> tuple[str, ...]:
    """What field `field` of the note may be set to, at most the rule's `choose`; each obeys the rule.

    For a list these are values to add; those that are there are not among them.
    """
    rule = rules.field[field]
    if not rule.sources:
        return ()
    if rule.type == "list":
        have = doc.get(field)
        taken = [v for v in have if isinstance(v, str)] if isinstance(have, list) else []
        return _turned(tags(path, doc, facts, rule, taken), path, field)
    if "sentences" in rule.sources:
        return _turned(descriptions(path, doc, rule), path, field)
    found = [t for t in titles(path, doc, rule.sources, doc.get(field)) if is_right(t, rule)]
    return _turned(found[: rule.choose], path, field)


def _turned(values: list[str], path: str, salt: str) -> tuple[str, ...]:
    """The values turned by a stable hash of the path, so that a habit of taking the first favours none."""
    if len(values) < 2:
        return tuple(values)
    digest = hashlib.sha256(f"{salt}\0{path}".encode("utf-8", "surrogateescape")).digest()
    by = int.from_bytes(digest[:4], "big") % len(values)
    return tuple(values[by:] + values[:by])


def _distinct(values: Iterable[str]) -> list[str]:
    seen: dict[str, str] = {}
    for value in values:
        seen.setdefault(prose.folded(value), value)
    return [value for key, value in seen.items() if key]


# --- titles ----------------------------------------------------------------------------------------------------------


def titles(path: str, doc: Document, sources: Iterable[str], old: Value | None = None) -> list[str]:
    """Titles from the sources in their order: the cleaned old title, the first heading, the file name."""
    found: list[str] = []
    for source in sources:
        if source == "old" and isinstance(old, str):
            found.append(_unflagged(old))
        elif source == "heading":
            found += _headings(doc)
        elif source == "filename":
            name = filename_title(path, doc)
            if not found or (2 < len(name.split()) < 8 and not _is_generic(name)):
                found.append(name)
    found = _distinct(t for t in found if sum(c.isalpha() for c in t) > 2)
    return found or [s[:80].rstrip() for s in _all_sentences(doc)[:1]] or ["Untitled note"]


def _unflagged(text: str) -> str:
    return _spaced(_EMPTY_PARENS.sub("", _HEX.sub("", _FLAG.sub(" ", _DATE.sub("", text)))))


def _headings(doc: Document) -> list[str]:
    """The heading that names the note: its first of level 1, else its first that is more than a word or a commonplace.

    As it is and without a date, a label (Spec:) or a remark in parentheses.
    """
    heads = [b for b in prose.blocks(doc.body) if b.kind == "heading" and not _is_generic(b.text)]
    first = next((h for h in heads if h.level == 1), None) or next((h for h in heads if len(h.text.split()) > 1), None)
    if first is None:
        return []
    text = _FLAG.sub(" ", first.text) if first.text.startswith("-") else first.text
    whole = _spaced(_EMPTY_PARENS.sub("", _DATE.sub("", text)))
    bare = _spaced(_TITLE_LABEL.sub("", whole))
    bare = bare if len(bare.split()) > 1 else whole
    shorter = _spaced(_PARENTHESIS.sub("", bare))
    return [t for t in (bare, shorter if len(shorter.split()) > 1 else "") if t]


def _spaced(text: str) -> str:
    return prose.trimmed(re.sub(r"\s+", " ", text))


def _is_generic(heading: str) -> bool:
    found = [w for w in prose.words(heading) if not w.isdigit()]
    return not found or all(w in _GENERIC for w in found)


def filename_title(path: str, doc: Document) -> str:
    """The file name as words, with the capitals its text writes them with."""
    name = posixpath.splitext(posixpath.basename(path))[0]
    name = _FLAG.sub(" ", name)
    name = _CODE_PREFIX.sub("", _HEX.sub("", _DATE.sub("", name)).strip(" -_."))
    spaced = name if " " in name.strip() else re.sub(r"[-_.]+", " ", name)
    text = _spaced(spaced)
    forms = prose.casing(doc.body)
    written = [forms.get(word.casefold(), word) for word in text.split(" ")]
    title = " ".join(written)
    return title[:1].upper() + title[1:] if written and written[0].islower() else title


# --- descriptions ----------------------------------------------------------------------------------------------------


def descriptions(path: str, doc: Document, rule: FieldRule) -> list[str]:
    """The note's own sentences that say best what it is about; fragments where there is no sentence."""
    blocks = prose.blocks(doc.body)
    topic = {stem(tag_of(w)) for t in titles(path, doc, ("heading", "filename"), None) for w in prose.words(t)}
    topic = {w for w in topic if is_topic(w)}
    scored: list[tuple[float, int, str]] = []
    position = 0
    for block in blocks:
        if block.kind == "heading":
            continue
        for sentence in prose.sentences(block.text):
            position += 1
            text = _fitted(_unlabelled(sentence), rule)
            if text:
                lead = 5.0 if sentence.rstrip().endswith(":") else 0.0
                scored.append((_worth(text, block, position, topic) - lead, -position, text))
    scored.sort(reverse=True)
    floor = max(0.5, scored[0][0] - 3.0) if scored else 0.0
    best = _distinct(text for worth, _, text in scored if worth >= floor)[: rule.choose]
    best = best or [text for worth, _, text in scored[:1] if worth > -4]
    return [t for t in best if is_right(t, rule)] or _about(path, doc, rule)


def _unlabelled(text: str) -> str:
    """The sentence without a label in front (Goal:, Triage read:)."""
    rest = _LABEL.sub("", text)
    if rest == text:
        label, _, rest = text.partition(": ")
        if not (rest[:1].isupper() and len(label.split()) < 3 and len(rest.split()) > 5):
            return text
    return rest


def _fitted(text: str, rule: FieldRule) -> str:
    """The text as a description within the rule's length, cut at a clause where it is too long; "" if it cannot be."""
    text = text.strip().lstrip("-*>\u2022\u2192 ").rstrip()
    text = text[:-1].rstrip() if text.endswith((":", ";", ",", "\u2014")) else text
    if len(text) > rule.max_length:
        head = text[: rule.max_length]
        ends = [head.rfind(sign) for sign in ("; ", ": ", " \u2014 ", " \u2013 ", " - ", ", ", " (")]
        cut = max((e for e in ends if e >= max(rule.min_length, 50)), default=0)
        text = head[:cut].rstrip(" ,;:-\u2013\u2014(") if cut else ""
    text = text[:1].upper() + text[1:] if re.match(r"[a-z]+(?:\s|$)", text) else text
    balanced = text.count("(") == text.count(")") and text.count('"') % 2 == 0
    return text if balanced and is_right(text, rule) and len(text.split()) >= 4 else ""


def _worth(text: str, block: prose.Block, position: int, topic: set[str]) -> float:
    """How well a sentence describes its note; what is not above 0 is offered only for want of better."""
    found = prose.words(text)
    worth = 3.0 if block.kind == "paragraph" else 0.5
    worth += 1.5 if text.endswith((".", "!")) else -2.0 if text.endswith("?") else -1.0
    worth -= min(position, 60) / 12
    section = set(prose.words(block.section))
    aside = section & _ASIDE or {"out", "scope"} <= section or any(w.startswith("non") for w in section)
    worth += -2.5 if aside else 1.5 if section & _OPENING else 0.0
    worth += 0.8 * min(3, len({stem(tag_of(w)) for w in found} & topic))
    worth -= 1.2 * len(_PATHLIKE.findall(text)) + (4.0 if _URL.search(text) else 0.0)
    worth -= 1.5 * min(2, len(_CHATTY.findall(text))) + (1.5 if _REFERS.match(text) else 0.0)
    worth -= 3.0 if _META.match(text) else 0.0
    worth -= 1.0 if len(text) < 40 or len(found) < 6 else 0.0
    worth -= 2.0 if text.startswith(("[", "(", '"', "\u201c")) or not text[:1].isupper() else 0.0
    letters = sum(c.isalpha() or c == " " for c in text)
    return worth - (4.0 if letters < 0.8 * len(text) else 0.0)


def _all_sentences(doc: Document) -> list[str]:
    return [s for b in prose.blocks(doc.body) if b.kind != "heading" for s in prose.sentences(b.text)]


def _about(path: str, doc: Document, rule: FieldRule) -> list[str]:
    """What can be said of a note without usable text: its headings, or its name."""
    title = doc.get("title")
    name = _unflagged(title) if isinstance(title, str) else ""
    name = name or titles(path, doc, ("heading", "filename"))[0]
    heads = [prose.trimmed(b.text) for b in prose.blocks(doc.body) if b.kind == "heading" and not _is_generic(b.text)]
    others = [h for h in _distinct(heads) if prose.folded(h) != prose.folded(name)][:4]
    lines = [f"{name}: {', '.join(others)}."] if others else []
    lines += [f"Notes on {name}.", "A note that has no text of its own yet."]
    return [line for line in lines if is_right(line, rule)][:1]


# --- tags ------------------------------------------------------------------------------------------------------------


def tags(path: str, doc: Document, facts: Facts, rule: FieldRule, taken: Iterable[str] = ()) -> list[str]:
    """Tags for the note: the repository's vocabulary weighed by this text, then the text's own topic words."""
    words, pairs = _weighed(tuple(titles(path, doc, ("heading", "filename"))), doc.body)
    spelled = facts.spelled
    scores: dict[str, float] = {}
    for word, form, weight in [*words, *(pair for pair in pairs if pair[1] in spelled)]:
        tag = spelled.get(form, word)
        if not _is_tag(tag):
            continue
        known = facts.vocabulary.get(tag, 0.0)
        scores[tag] = scores.get(tag, 0.0) + min(weight, 12.0) ** 0.5 * (1.0 + known if known else 0.8)
    have = {stem(tag_of(t)) for t in taken}
    ranked = sorted(scores.items(), key=lambda kv: (-kv[1], kv[0]))
    chosen: list[str] = []
    for tag, score in ranked:
        if len(chosen) + len(have) >= 5 and score < 0.35 * ranked[0][1]:
            break
        if stem(tag) not in have and not any(overlap(tag, other) for other in chosen):
            chosen.append(tag)
        if len(chosen) == rule.choose:
            break
    return chosen


@lru_cache(TEXTS_AT_ONCE)  # each tag of a note is a question of its own, asked for its offer and for its answer
def _weighed(names: tuple[str, ...], body: bytes) -> tuple[Sequence[_Weight], Sequence[_Weight]]:
    """How often a note's words, and the pairs of words that it has twice, stand in its names, headings and text."""
    weights: defaultdict[str, float] = defaultdict(float)
    pairs: defaultdict[str, float] = defaultdict(float)
    blocks = prose.blocks(body)
    heads = [*names, *(b.text for b in blocks if b.kind == "heading")]
    texts = [(5.0 if n < 3 else 1.0, t) for n, t in enumerate(heads)]
    texts += [(1.0, _PATHLIKE.sub(" ", b.text)) for b in blocks if b.kind != "heading"]
    for weight, text in texts:
        found = [tag_of(w) for w in prose.words(text)]
        for word in found:
            weights[word] += weight
        for first, second in pairwise(found):
            pairs[f"{first}-{second}"] += weight
    return [(w, stem(w), n) for w, n in weights.items()], [(p, stem(p), n) for p, n in pairs.items() if n >= 2]


@lru_cache(1 << 12)
def _is_tag(word: str) -> bool:
    return is_topic(word) and not any(part.isdigit() for part in word.split("-"))


def overlap(tag: str, other: str) -> bool:
    """Whether two tags say one thing: a part of the other (knowledge, knowledge-graph), a form of it (fit, fitting)."""
    return root(tag) == root(other) or bool({tag, other} & (set(tag.split("-")) & set(other.split("-"))))


# --- slugs and names -------------------------------------------------------------------------------------------------


def slug_of(text: str, longest: int = MAX_SLUG) -> str:
    """The text as a slug, cut at a word; "" when nothing is left of it."""
    slug = slugify(text, max_length=longest, word_boundary=True, save_order=True)
    while len(slug) > longest - 10 and slug.rpartition("-")[2] in _DANGLING:
        slug = slug.rpartition("-")[0]
    return slug


def names(path: str, doc: Document, facts: Facts, rules: Rules) -> tuple[str, ...]:
    """New names (of the file alone) for a note whose name breaks the rule; none is taken, not even in another case."""
    folder, _, old = path.rpartition("/")
    title = doc.get("title")
    found: list[str] = []
    for source in rules.name.sources:
        if source == "title" and isinstance(title, str):
            found.append(_unflagged(title))
        elif source == "heading":
            found += _headings(doc)[:1]
        elif source == "filename":
            found.append(filename_title(path, doc))
    ending = posixpath.splitext(old)[1] or ".md"
    free: list[str] = []
    for slug in dict.fromkeys(slug_of(text) for text in found):
        for suffix in ("", "-2", "-3", "-4", "-5"):
            name = f"{slug}{suffix}{ending}"
            whole = f"{folder}/{name}" if folder else name
            if slug and _fits(name, rules) and whole.casefold() not in facts.tree.lower:
                free.append(name)
                break
    return _turned(free[: rules.name.choose], path, "name")


def _fits(name: str, rules: Rules) -> bool:
    return len(name) <= rules.name.max_length and bool(re.fullmatch(rules.name.pattern or ".*", name))
