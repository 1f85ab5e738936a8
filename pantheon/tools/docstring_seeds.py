"""Canaries of docstrings: a file whose definitions people described, without some of that and with it again.

What comes back is a person's own text where the rules would have it so, else the one among the computed sentences that
says what the person's did: the same verb, only words of theirs, and most of those. Pure and deterministic.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from pantheon.errors import ToolError
from pantheon.tools import docstrings, pysource, seeding
from pantheon.tools.docstrings import DocRules
from pantheon.tools.facts import Facts
from pantheon.tools.peers import words
from pantheon.tools.pysource import MODULE, Definition, Source
from pantheon.tools.tool import Seed, Tree
from pantheon.tools.words import root

KIND = docstrings.KIND
TOGETHER = 3  # docstrings that one seed takes away
LOOKED_AT = 24  # definitions of a file that are tried
OTHERS = 8  # files from which a strange docstring may come
ALIKE = 0.2  # the share of its words that a strange docstring may have in common with the place it gets
TOLD = 0.6  # the share of a person's words that a computed sentence has at least


class _Case(NamedTuple):
    """A file without some docstrings, and what they say."""

    path: str
    before: bytes
    texts: Mapping[str, str]
    persons: Mapping[str, str]
    rules: DocRules

    def described(self, texts: Mapping[str, str]) -> bytes | None:
        """The file with these docstrings in their place."""
        raw = self.before
        try:
            for name, text in texts.items():
                raw = pysource.with_docstring(pysource.parse(raw), name, text)
        except ToolError:
            return None
        return raw


def seeds(path: str, raw: bytes, rules: DocRules, tree: Tree, facts: Facts) -> Iterator[Seed]:
    """A right change of the file, then wrong ones, each as far as the file gives it."""
    if len(raw) > seeding.MOST or not KIND.about(path, rules) or seeding.is_broken(KIND, path, rules, tree):
        return
    try:
        case = _case(path, raw, rules)
        after = case.described(case.texts) if case is not None else None
    except ToolError:
        return
    if case is None or after is None:
        return
    before = {path: case.before}
    good = seeding.restored(KIND, path, before, {path: after}, rules, seeding.laid(tree, before))
    if good is None:
        return
    yield good
    nonsense = _nonsense(case, tree)
    yield from seeding.wrong("plausible-nonsense", good, {path: nonsense} if nonsense is not None else None)
    for kind, bad in (
        ("changed-code", seeding.changed_code(path, after)),
        ("lost-function", seeding.lost_function(path, after, {name.rpartition(".")[2] for name in case.texts})),
    ):
        yield from seeding.wrong(kind, good, {path: bad} if bad is not None else None)


def _case(path: str, raw: bytes, rules: DocRules) -> _Case | None:
    source = pysource.parse(raw)
    said = {d.name: inspect.cleandoc(text) for d in source.definitions if (text := pysource.doc_of(d.node)) is not None}
    bare = _without(source, seeding.turned(said, path, "docstring")[:LOOKED_AT])
    wanted = {d.name: d for d in docstrings.undocumented(bare, rules) if d.name in said}
    texts: dict[str, str] = {}
    for name in seeding.turned(wanted, path, "docstring"):
        text = _text(path, bare, wanted[name], said[name], rules) if len(texts) < min(TOGETHER, rules.most) else None
        if text is not None:
            texts[name] = text
    kept = {name: texts[name] for name in said if name in texts}
    if not kept:
        return None
    before = _without(source, list(kept)).text.encode(source.encoding)
    return _Case(path, before, kept, {name: said[name] for name in kept}, rules)


def _without(source: Source, names: Collection[str]) -> Source:
    """The source without these docstrings, as far as each stands on lines of its own before something else."""
    places = [place for d in source.definitions if d.name in names and (place := _place(source, d)) is not None]
    lines = list(source.lines)
    for start, end in sorted(places, reverse=True):
        del lines[start:end]
    return pysource.parse("\n".join(lines).encode(source.encoding)) if places else source


def _place(source: Source, definition: Definition) -> tuple[int, int] | None:
    """The lines of a docstring and the empty ones behind it."""
    node = definition.node
    if len(node.body) < 2 or source.marked:
        return None
    first, second = node.body[0], node.body[1]
    last = first.end_lineno or first.lineno
    begins = min([second.lineno, *(each.lineno for each in getattr(second, "decorator_list", ()))])
    if begins <= last or first.lineno == getattr(node, "lineno", 0):
        return None
    lines = source.lines
    alone = not lines[first.lineno - 1].encode("utf-8", "replace")[: first.col_offset].strip()
    behind = lines[last - 1].encode("utf-8", "replace")[first.end_col_offset or 0 :].strip()
    if not alone or behind:
        return None
    while last < len(lines) and not lines[last].strip():
        last += 1
    return first.lineno - 1, last


def _text(path: str, source: Source, definition: Definition, person: str, rules: DocRules) -> str | None:
    """What comes back: the person's text, or what it confirms."""
    offered = docstrings.choices(path, source, definition, rules)
    first = person.partition("\n\n")[0]
    if docstrings.is_allowed(path, source, definition, person, rules):
        return person
    if not offered and not rules.free_text:
        return None
    own, begins = words(first), root(first.split(" ", 1)[0].casefold())
    for text in offered:
        said, verb = words(text), root(text.split(" ", 1)[0].casefold())
        alike = verb == begins or (verb == "return" and begins in ("the", "a", "an"))
        if alike and said <= own and len(said) >= TOLD * len(own):
            return text
    return None


def _nonsense(case: _Case, tree: Tree) -> bytes | None:
    """The file with docstrings of definitions that it has nothing to do with, and no right one beside them."""
    strange: dict[str, str] = {}
    for name in case.texts:
        definition = pysource.define(pysource.parse(case.before), name)
        text = _strange(case, definition, tree)
        if text is not None and text not in strange.values():
            strange[name] = text
    return case.described(strange) if strange else None


def _strange(case: _Case, definition: Definition, tree: Tree) -> str | None:
    node = definition.node
    body = ast.unparse(node)[:4_000]
    own = words(f"{definition.name} {case.persons[definition.name]} {body}")
    source = pysource.parse(case.before)
    places = [path for path in tree.paths if KIND.about(path, case.rules) and path != case.path]
    for path in (case.path, *seeding.turned(places, case.path, "strange")[:OTHERS]):
        raw = case.before if path == case.path else tree.read(path)
        try:
            other = pysource.parse(raw) if raw is not None and len(raw) <= seeding.MOST else None
        except ToolError:
            continue
        told = [inspect.cleandoc(t).partition("\n\n")[0] for t in _docs(other) if t] if other is not None else []
        for text in seeding.turned(set(told), case.path, definition.name):
            said = words(text)
            few = len(said) >= 2 and len(said & own) <= ALIKE * len(said)
            if few and docstrings.is_sentence(source, definition, text, case.rules):
                return text
    return None


def _docs(source: Source) -> Iterator[str]:
    for definition in source.definitions:
        if definition.name != MODULE:
            yield (pysource.doc_of(definition.node) or "")[: pysource.MAX_NESTED * 100]
