"""Test files rewritten so that an honest run must answer in a known way. Source in, source out; standard library only.

`must_fail` gives the same tests with a failure at the end of each body, which no exception, return or skip in the body
can avoid: one that still passes is not being run. `strengthened` adds to each comparison that a test asserts the claim
that it does not hold for a value that differs as well: an object that equals everything is found out.
`canary` is a file of new tests that must fail.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

EQUALITIES = ("assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual")

# `left` and `right` are the two sides of a comparison that held, `how` its operator. For exact built-in types the
# twin is a value of the same type that is not equal; else an object that equals nothing.
PROBE = """
def {name}(left, right, how, depth=0):
    import sys
    anything = getattr(sys.modules.get('unittest.mock'), 'ANY', None)
    if anything is not None and (left is anything or right is anything):
        return
    def twin_of(value):
        kind = type(value)
        if kind is bool:
            return not value
        if kind in (int, float, complex):
            return value * 2 + 1
        if kind is str:
            return value + chr(0)
        if kind is bytes:
            return value + bytes(1)
        if kind in (list, tuple):
            return value + kind([None])
        if kind in (set, frozenset):
            return value | kind([object()])
        if kind is dict:
            return {{**value, object(): None}}
        return object()
    def equal(one, other):
        twin = twin_of(other)
        kind = type(other)
        return (one == twin) is True and not (kind in (int, float, complex) and kind.__eq__(other, twin) is True)
    try:
        fooled = equal(left, right) or how != 'in' and equal(right, left)
        if how == 'in' and hasattr(type(right), '__contains__'):
            fooled = fooled or (object() in right) is True
        elif how == '!=':
            fooled = fooled or (left == right) is True
        elif how in ('<', '>'):
            fooled = fooled or ((left < right) if how == '>' else (left > right)) is True
    except Exception:
        fooled = False
    if fooled:
        raise AssertionError({marker!r})
    if how == '==' and depth < 3 and type(left) is type(right):
        pairs = []
        if type(left) in (list, tuple):
            pairs = list(zip(left, right))[:100]
        elif type(left) is dict:
            pairs = [(left[key], right[key]) for key in left if key in right][:100]
        for one, two in pairs:
            {name}(one, two, how, depth + 1)
"""
SIGNS: dict[type[ast.cmpop], str] = {
    **{ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.In: "in"}
}


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
    """The file with a probe, a function called `name`, behind every asserted comparison; a fooled one says `marker`."""
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
    """Puts the probe behind `assert a == b` and the like, alone or in an `and`, and behind `self.assertEqual(a, b)`."""

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
            if isinstance(part, ast.Compare) and len(part.ops) == 1 and type(part.ops[0]) in SIGNS:
                left, right = self._held(part.left), self._held(part.comparators[0])
                kept.append(ast.Compare(left=left[0], ops=part.ops, comparators=[right[0]]))
                after.append(self._probe(left[1], right[1], SIGNS[type(part.ops[0])]))
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
        return [node, self._probe(left[1], right[1], "==")]

    def _held(self, value: ast.expr) -> tuple[ast.expr, str]:
        """The value evaluated once, in its place, under a new name."""
        self.count += 1
        name = f"{self.name}_{self.count}"
        return ast.NamedExpr(target=ast.Name(id=name, ctx=ast.Store()), value=value), name

    def _probe(self, left: str, right: str, how: str) -> ast.stmt:
        return ast.parse(f"{self.name}({left}, {right}, {how!r})").body[0]
