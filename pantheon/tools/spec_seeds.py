"""Canaries of specs: a spec whose functions are there, without them and with them again, right or wrong.

The module goes, or where more than the spec's functions is in it, their bodies; so do the tests that were written from
the spec. Both come back. A wrong body is one whose results differ from the right one's as far as its text can tell:
only the examples can say whether somebody would notice. Pure and deterministic; nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from pantheon.tools import bodies, seeding, specs
from pantheon.tools.bodies import Body
from pantheon.tools.facts import Facts
from pantheon.tools.specs import Spec, SpecRules
from pantheon.tools.tool import Seed, Tree

KIND = specs.KIND
OTHERS = 8  # specs from which a strange body may come


class _Case(NamedTuple):
    """A spec with its module as it is in the tree."""

    path: str
    spec: Spec
    module: bytes
    rules: SpecRules
    tree: Tree

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.spec.functions)


def seeds(path: str, raw: bytes, rules: SpecRules, tree: Tree, facts: Facts) -> Iterator[Seed]:
    """A right change of the tree, then wrong ones, each as far as the spec gives it."""
    if not KIND.about(path, rules) or len(raw) > seeding.MOST:
        return
    spec = specs.read_spec(path, raw, rules)
    module = tree.read(spec.module) if spec.module and not spec.faults else None
    if module is None or len(module) > seeding.MOST or KIND.check(path, raw, rules, tree):
        return
    case = _Case(path, spec, module, rules, tree)
    good = next(_good(case), None)
    if good is None:
        return
    yield good
    tests = next(place for place in good.after if place != spec.module)
    written = good.after[tests] or b""
    for kind, place, bad in (
        *(("wrong-code", spec.module, each) for each in _wrong_code(case)),
        ("plausible-nonsense", spec.module, _nonsense(case)),
        ("deleted-test", tests, _deleted(written)),
        ("weakened-assertion", tests, seeding.weakened(tests, written)),
    ):
        if bad is not None:
            yield from seeding.wrong(kind, good, {place: bad})


def _good(case: _Case) -> Iterator[Seed]:
    """The module and its tests as they are, over a base without them."""
    spec, tree = case.spec, case.tree
    head = bodies.head_of_tests(spec.path).encode()
    written = [path for path in _numbered(spec, tree) if (tree.read(path) or b"").startswith(head)]
    for module in (None, bodies.stubbed(case.module, case.names)):
        before: dict[str, bytes | None] = {spec.module: module, **dict.fromkeys(written)}
        base = seeding.laid(tree, before)
        tests, text = specs.tests_of(spec, case.rules, base)
        good = seeding.restored(KIND, case.path, before, {spec.module: case.module, tests: text}, case.rules, base)
        if good is not None:
            yield good


def _numbered(spec: Spec, tree: Tree) -> Iterator[str]:
    """The test files that were written from a spec, the first and those with a number."""
    own = re.compile(re.escape(spec.tests.removesuffix(".py")) + r"(?:_\d{1,4})?\.py")
    return (path for path in sorted(tree.paths) if own.fullmatch(path))


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _wrong_code(case: _Case) -> Iterator[bytes]:
    """The module with one function that gives a constant, and with one operator or number changed."""
    for name in seeding.turned(case.names, case.path, "constant")[:3]:
        function = case.spec.function(name)
        wants = {one.want for one in function.examples if not one.raised} if function is not None else set()
        if len(wants) > 1:  # no constant gives both
            found = seeding.same_result(case.spec.module, case.module, name, min(wants))
            if found is not None:
                yield found
                break
    for name in seeding.turned(case.names, case.path, "changed")[:3]:
        found = seeding.changed_code(case.spec.module, case.module, (name,))
        if found is not None:
            yield found
            break


def _nonsense(case: _Case) -> bytes | None:
    """The module with the body of another spec's function under a name, its arguments called as the own ones."""
    others = [each for each in specs.specs_of(case.tree, case.rules) if each.path != case.path]
    name = seeding.turned(case.names, case.path, "nonsense")[0]
    mine = _function(case.module, name)
    for spec in [each for each in others if each.path in seeding.turned([o.path for o in others], case.path)[:OTHERS]]:
        raw = case.tree.read(spec.module)
        for other in spec.functions if raw is not None and len(raw) <= seeding.MOST else ():
            node = _function(raw or b"", other.name)
            if mine is not None and node is not None and other.name not in case.names and not bodies.is_stub(node):
                body = _renamed(node, mine)
                if body is not None:
                    return bodies.spliced(case.module, name, Body(tuple(body)))
    return None


def _function(raw: bytes, name: str) -> ast.FunctionDef | None:
    tree = bodies.parsed(raw)
    found = [e for e in tree.body if isinstance(e, ast.FunctionDef) and e.name == name] if tree is not None else []
    return found[-1] if found else None


def _arguments(node: ast.FunctionDef) -> list[str]:
    return [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]


def _renamed(node: ast.FunctionDef, mine: ast.FunctionDef) -> list[str] | None:
    """The lines of a body with the names of another function's arguments; None where it is the same as the own one."""
    new = dict(zip(_arguments(node), _arguments(mine), strict=False))
    if not new:
        return None
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    own = mine.body[1:] if ast.get_docstring(mine, clean=False) is not None else mine.body
    text = "\n".join(ast.unparse(each) for each in body)
    again = bodies.parsed(text.encode("utf-8", "surrogatepass")) if body else None
    if again is None or [ast.dump(e) for e in body] == [ast.dump(e) for e in own]:
        return None
    for part in ast.walk(again):
        if isinstance(part, ast.Name) and part.id in new:
            part.id = new[part.id]
    if [ast.dump(e) for e in again.body] == [ast.dump(e) for e in own]:
        return None
    return "\n".join(ast.unparse(each) for each in again.body).split("\n")


def _deleted(tests: bytes) -> bytes | None:
    """The generated tests without their last function."""
    at = tests.rfind(b"\n\n\ndef ")
    return tests[: at + 1] if at > 0 else None
