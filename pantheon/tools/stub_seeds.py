"""Canaries of first tests: a module that has a test, without it and with one again, right or wrong.

What comes back is the test that was there where it is one that the rules would have; else the computed one, whose
titles are what the module's writer said of each symbol. Pure and deterministic; nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from pantheon import testpaths
from pantheon.tools import bodies, seeding, stubs, testmap
from pantheon.tools.facts import Facts
from pantheon.tools.stubs import StubRules
from pantheon.tools.tool import Seed, Tree

KIND = stubs.KIND
OTHERS = 8  # test files of which one may be taken
_FIRST_TEST = re.compile(rb"^test(?:\.\w+)?\(", re.MULTILINE)


def seeds(path: str, raw: bytes, rules: StubRules, tree: Tree, facts: Facts) -> Iterator[Seed]:
    """A right change of the tree, then wrong ones, each as far as the module and its test give it."""
    if len(raw) > seeding.MOST or path.endswith(".json"):
        return
    found = stubs.subject(path, raw, rules, tree)
    test = tree.read(found.test) if found is not None else None
    if found is None or test is None or len(test) > seeding.MOST or testmap.tests_of(path, tree) != {found.test}:
        return
    before = {found.test: None}
    base = seeding.laid(tree, before)
    alone = stubs.subject(path, raw, rules, base)  # where tests are may have been told by this one
    if alone is None or alone.test != found.test:
        return
    for text in (test, stubs.complete(found, rules)):
        if not any(stubs.faults(path, found.test, text, rules, base)):
            break
    else:
        return
    good = Seed("restored", True, before, {found.test: text})
    yield good
    for kind, bad in (
        ("weakened-assertion", seeding.weakened(found.test, text)),
        ("deleted-test", _emptied(found.test, text)),
        ("plausible-nonsense", _strange(path, found.test, test, tree)),
    ):
        if bad is not None:
            yield from seeding.wrong(kind, good, {found.test: bad})
    changed = seeding.changed_code(path, raw)
    if changed is not None:
        yield from seeding.wrong("changed-code", good, {path: changed})


def _emptied(path: str, raw: bytes) -> bytes | None:
    """A test file of which nothing is left but what it imports."""
    if not path.endswith(".py"):
        first = _FIRST_TEST.search(raw)
        return raw[: first.start()].rstrip() + b"\n" if first is not None and first.start() else None
    tree = bodies.parsed(raw)
    kept = [e for e in tree.body if isinstance(e, ast.Import | ast.ImportFrom)] if tree is not None else []
    return ("\n".join(ast.unparse(each) for each in kept) + "\n").encode("utf-8", "replace") if kept else None


def _strange(path: str, own: str, test: bytes, tree: Tree) -> bytes | None:
    """The test file of another module in the same language."""
    end = testmap.suffix(own)
    others = [p for p in tree.paths if testmap.suffix(p) == end and p != own and testpaths.is_plain_test(p)]
    for other in seeding.turned(others, path, "strange")[:OTHERS]:
        raw = tree.read(other)
        if raw and len(raw) <= seeding.MOST and raw.split() != test.split() and b"test" in raw:
            return raw
    return None
