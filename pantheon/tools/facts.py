"""What the tools know of the whole repository: paths, dates, vocabulary and who links to whom; once per night.

Pure builders over the bytes of the base tree. Nothing here is read from an agent's worktree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property, lru_cache

from pydantic import Field

from pantheon.errors import InputError
from pantheon.frontmatter import Document, Value, parse
from pantheon.records import Record
from pantheon.tools import links, prose
from pantheon.tools.words import is_topic, stem, tag_of

TAG_FIELDS = ("tags", "labels")
VOCABULARY = 600  # words and tags kept


class Facts(Record):
    """`first_commit` says when a path first came in, `vocabulary` weighs tags and topic words, `inbound` lists the
    files that link to a path, `titles` the heading of each note. All of it is of the base commit.
    """

    paths: tuple[str, ...] = ()
    first_commit: dict[str, datetime] = Field(default_factory=dict)
    vocabulary: dict[str, float] = Field(default_factory=dict)
    inbound: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    titles: dict[str, str] = Field(default_factory=dict)

    @cached_property
    def tree(self) -> links.Tree:
        """The paths, ready for resolving links and for asking whether a name is taken."""
        return links.Tree(self.paths)

    @cached_property
    def titled(self) -> tuple[tuple[str, str], ...]:
        """The paths with their titles, in order."""
        return tuple(self.titles.items())

    @cached_property
    def spelled(self) -> dict[str, str]:
        """The form that the words of one stem share -> the heaviest tag of the vocabulary that has it."""
        return {stem(tag): tag for tag in reversed(self.vocabulary)}

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """The vocabulary, then the topic words of the titles."""
        words = {tag_of(word) for title in self.titles.values() for word in prose.words(title)}
        return (*self.vocabulary, *sorted(filter(is_topic, words)))


def build_facts(notes: Mapping[str, bytes], paths: Iterable[str], first_commit: Mapping[str, datetime]) -> Facts:
    """Everything at once: `notes` are the Markdown files, `paths` all files of the base tree."""
    return gather_facts(notes.items(), paths, first_commit)


def gather_facts(
    notes: Iterable[tuple[str, bytes]], paths: Iterable[str], first_commit: Mapping[str, datetime]
) -> Facts:
    """The same in one pass over the Markdown files, of which only one is held at a time. `paths`: all files of the
    base tree."""
    every = tuple(paths)
    tree, words = links.Tree(every), _Words()
    inbound: dict[str, set[str]] = {}
    titles: dict[str, str] = {}
    for path, raw in notes:
        blocks = words.add(path, raw)
        _linked(path, raw, tree, inbound)
        if title := _title(blocks):
            titles[path] = title
    return Facts(
        paths=every,
        first_commit=dict(first_commit),
        vocabulary=words.weighed(),
        inbound=_ordered(inbound),
        titles=titles,
    )


def build_vocabulary(notes: Iterable[tuple[str, bytes]]) -> dict[str, float]:
    """Tags and topic words of the repository with their weights, the heaviest first.

    A tag people used weighs 2 and more; a word of several notes' titles or names weighs 1 and more. The weight falls
    with the share of notes whose text holds the word: what stands everywhere says nothing.
    """
    words = _Words()
    for path, raw in notes:
        words.add(path, raw)
    return words.weighed()


class _Words:
    """What was counted so far."""

    def __init__(self) -> None:
        self.tags, self.heads, self.texts = Counter[str](), Counter[str](), Counter[str]()
        self.count = 0

    def add(self, path: str, raw: bytes) -> tuple[prose.Block, ...]:
        """Count one note; its blocks."""
        self.count += 1
        doc = read(path, raw)
        self.tags.update({tag_of(t) for name in TAG_FIELDS for t in _texts(doc.get(name) if doc else None)})
        blocks = prose.blocks(doc.body) if doc else ()
        name = path.rpartition("/")[2].rpartition(".")[0].replace("-", " ").replace("_", " ")
        title = next((b.text for b in blocks if b.kind == "heading" and b.level == 1), "")
        self.heads.update({_tag(w) for w in prose.words(f"{name} {title}")})
        self.texts.update({_stem(_tag(w)) for b in blocks for w in prose.words(b.text)})
        return tuple(blocks)

    def weighed(self) -> dict[str, float]:
        tags, heads, texts, count = self.tags, self.heads, self.texts, self.count
        weights = {t: 2.0 + math.log2(n) for t, n in tags.items() if is_topic(t) and n <= max(8, count // 4)}
        known = {stem(t) for t in weights}
        for word, n in heads.items():
            if n > 1 and is_topic(word) and stem(word) not in known:
                weights[word] = 1.0 + math.log2(n) / 4
        if count > 20:
            for word in weights:
                share = max(texts[part] for part in (stem(word), *map(stem, word.split("-")))) or 1
                weights[word] *= min(1.0, 0.2 + math.log(count / share) / math.log(count))
        kept = sorted(weights.items(), key=lambda kv: (-kv[1], kv[0]))[:VOCABULARY]
        return {word: round(weight, 3) for word, weight in kept}


def build_inbound(notes: Iterable[tuple[str, bytes]], paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For every path that is linked to, the files whose links resolve to it."""
    tree = links.Tree(tuple(paths))
    found: dict[str, set[str]] = {}
    for path, raw in notes:
        _linked(path, raw, tree, found)
    return _ordered(found)


def _linked(path: str, raw: bytes, tree: links.Tree, found: dict[str, set[str]]) -> None:
    for link in links.find(raw):
        target = links.resolve(path, link, tree)
        if target is not None and target != path:
            found.setdefault(target, set()).add(path)


def _ordered(found: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {target: tuple(sorted(sources)) for target, sources in sorted(found.items())}


def build_titles(notes: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """The heading of every note that has one, as text."""
    docs = ((path, read(path, raw)) for path, raw in notes)
    found = ((path, _title(prose.blocks(doc.body) if doc else ())) for path, doc in docs)
    return {path: title for path, title in found if title}


def _title(blocks: Iterable[prose.Block]) -> str:
    heading = next((prose.trimmed(b.text) for b in blocks if b.kind == "heading"), "")
    return heading if 3 <= len(heading) <= 120 else ""


_tag, _stem = lru_cache(maxsize=1 << 16)(tag_of), lru_cache(maxsize=1 << 16)(stem)  # notes have most words in common


def read(path: str, raw: bytes) -> Document | None:
    """The parsed note, or None where it cannot be parsed."""
    try:
        return parse(raw, path)
    except InputError:
        return None


def _texts(value: Value | None) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []
