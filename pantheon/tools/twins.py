"""Test files rewritten so that an honest run must answer in a known way. Source in, source out; standard library only.

`must_fail` gives the same tests with a failure at the end of each body, which no exception, return or skip in the body
can avoid: one that still passes is not being run. `strengthened` adds to each equality that a test asserts the claim
that the values do not equal a slightly different one as well: an object that equals everything is found out.
`canary` is a file of new tests that must fail.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

EQUALITIES = ("assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual")

# For exact built-in types a value of the same type that is not equal; else an object that equals nothing.
PROBE = """
def {name}(left, right, depth=0):
    for one, two in ((left, right), (right, left)):
        kind = type(two)
        try:
            if kind is bool:
                twin = not two
            elif kind in (int, float, complex):
                twin = two * 2 + 1
            elif kind is str:
                twin = two + chr(0)
            elif kind is bytes:
                twin = two + bytes(1)
            elif kind in (list, tuple):
                twin = two + kind([None])
            elif kind in (set, frozenset):
                twin = two | kind([object()])
            elif kind is dict:
                twin = {{**two, object(): None}}
            else:
                twin = object()
            fooled = (one == twin) is True and not (kind in (int, float, complex) and kind.__eq__(two, twin) is True)
        except Exception:
            fooled = False
        if fooled:
            raise AssertionError({marker!r})
    if depth < 3 and type(left) is type(right) and type(left) in (list, tuple) and len(left) == len(right):
        for one, two in list(zip(left, right))[:100]:
            {name}(one, two, depth + 1)
    if depth < 3 and type(left) is dict and type(right) is dict:
        for key in [key for key in left if key in right][:100]:
            {name}(left[key], right[key], depth + 1)
"""


def must_fail(source: bytes, names: Collection[str], marker: str) -> bytes:
    """The file with every test function called one of `names` made to fail. SyntaxError when it is not Python."""
    tree = ast.parse(source)
    for node in _functions(tree, names):
        failure = ast.parse(f"raise AssertionError({marker!r})").body
        node.body = [ast.Try(body=node.body, handlers=[], orelse=[], finalbody=list(failure))]
    return _text(tree)


def covered(source: bytes) -> frozenset[str]:
    """The names of all functions that `must_fail` can reach. SyntaxError when it is not Python."""
    return frozenset(node.name for node in _functions(ast.parse(source), None))


def strengthened(source: bytes, name: str, marker: str) -> bytes:
    """The file with a probe, a function called `name`, behind every asserted equality; a fooled one says `marker`."""
    tree = ast.parse(source)
    changed = 0
    for function in list(_functions(tree, None)):
        rewrite = _Strengthen(name)
        function.body = [each for node in function.body for each in rewrite.lines(node)]
        changed += rewrite.count
    if not changed:
        return source
    probe = ast.parse(PROBE.format(name=name, marker=marker)).body
    tree.body.extend(probe)  # at the end: `from __future__` and the docstring stay first
    return _text(tree)


def canary(word: str) -> bytes:
    """A file of three tests that must fail, each in another way."""
    return (
        f"import unittest\n\n\ndef test_{word}_compares():\n    assert len({word!r}) == 0\n\n\n"
        f"def test_{word}_raises():\n    raise ValueError({word!r})\n\n\n"
        f"class Test_{word}(unittest.TestCase):\n"
        f"    def test_{word}_says(self):\n        self.assertEqual({word!r}, '')\n"
    ).encode()


def _text(tree: ast.Module) -> bytes:
    return (ast.unparse(ast.fix_missing_locations(tree)) + "\n").encode("utf-8", "surrogatepass")


def _functions(tree: ast.AST, names: Collection[str] | None) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions at the level of a module or class, also below `if` and `try`; None: whatever they are called."""
    found: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if names is None or node.name in names:
                found.append(node)
        elif isinstance(node, ast.stmt | ast.ExceptHandler):
            waiting.extend(ast.iter_child_nodes(node))
    return found


class _Strengthen(ast.NodeTransformer):
    """Puts the probe behind `assert a == b`, alone or in an `and`, and behind `self.assertEqual(a, b)`."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def lines(self, node: ast.stmt) -> list[ast.stmt]:
        changed = self.visit(node)
        return changed if isinstance(changed, list) else [changed]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST | list[ast.stmt]:
        parts = (
            node.test.values if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And) else [node.test]
        )
        after: list[ast.stmt] = []
        kept: list[ast.expr] = []
        for part in parts:
            if isinstance(part, ast.Compare) and len(part.ops) == 1 and isinstance(part.ops[0], ast.Eq):
                left, right = self._held(part.left), self._held(part.comparators[0])
                kept.append(ast.Compare(left=left[0], ops=[ast.Eq()], comparators=[right[0]]))
                after.append(self._probe(left[1], right[1]))
            else:
                kept.append(part)
        if not after:
            return node
        test = kept[0] if len(kept) == 1 else ast.BoolOp(op=ast.And(), values=kept)
        return [ast.Assert(test=test, msg=node.msg), *after]

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.stmt]:
        call = node.value
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in EQUALITIES):
            return node
        if len(call.args) < 2 or any(isinstance(each, ast.Starred) for each in call.args):
            return node
        left, right = self._held(call.args[0]), self._held(call.args[1])
        call.args[:2] = [left[0], right[0]]
        return [node, self._probe(left[1], right[1])]

    def _held(self, value: ast.expr) -> tuple[ast.expr, str]:
        """The value evaluated once, in its place, under a new name."""
        self.count += 1
        name = f"{self.name}_{self.count}"
        return ast.NamedExpr(target=ast.Name(id=name, ctx=ast.Store()), value=value), name

    def _probe(self, left: str, right: str) -> ast.stmt:
        return ast.parse(f"{self.name}({left}, {right})").body[0]
