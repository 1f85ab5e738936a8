"""What canaries of every kind of rules are made with: a seeded tree, what a kind says of a seed, and damage to code.

A canary is right when its kind says so on the seeded base, and the base is one when its kind finds something there that
can be repaired. Damage is one small edit, chosen by a hash, that leaves Python a different syntax tree which still
parses. Pure and deterministic; nothing is run, and what is too large is left alone.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from pantheon.records import Repair
from pantheon.tools import syntax
from pantheon.tools.bodies import parsed
from pantheon.tools.tool import Change, Kind, Problem, Seed, Tree

MOST = 64 * 1024  # bytes of a file that is used
TRIES = 8  # edits that are tried for one piece of damage
_SWAPPED = {
    **{b"==": b"!=", b"!=": b"==", b"<": b">=", b">=": b"<", b">": b"<=", b"<=": b">", b"is": b"is not"},
    **{b"is not": b"is", b"in": b"not in", b"not in": b"in", b"+": b"-", b"-": b"+", b"and": b"or", b"or": b"and"},
    **{b"===": b"!==", b"!==": b"==="},
}
_ELSEWHERE = re.compile(rb"===|!==|==|!=|<=|>=|(?<![\w.#-])\d{1,6}(?![\w.%-])")
_COMMENT = (b"#", b"//", b"/*", b"*", b"--", b"<!--", b";", b"%", b'"""', b"'''")
_MARKED = re.compile(rb"['\"`#]|//|/\*|--")
Files = Mapping[str, bytes | None]
Edit = tuple[int, int, bytes]  # the bytes from .. to become these
T = TypeVar("T")


def turned(values: Iterable[T], *key: str) -> list[T]:
    """The values in an order of this key's own."""
    salt = "\0".join(key)

    def rank(value: T) -> bytes:
        return hashlib.sha256(f"{salt}\0{value}".encode("utf-8", "surrogateescape")).digest()

    return sorted(values, key=rank)


# --- seeded trees ----------------------------------------------------------------------------------------------------


def laid(tree: Tree, files: Files) -> Tree:
    """The tree with these files put in; None: without that one."""
    there = {path for path, raw in files.items() if raw is not None}
    paths = (tree.paths - files.keys()) | there
    return Tree(frozenset(paths), lambda path: files[path] if path in files else tree.read(path))


def problems(kind: Kind, seed: Seed, rules: Any, base: Tree) -> list[Problem]:
    """What a kind says of a seed's change, over every path of it. `base`: the tree with `seed.before` in it."""
    now = laid(base, seed.after)
    changes = [Change(path, base.read(path), raw, base, now) for path, raw in seed.after.items()]
    return [p for change in changes if change.before != change.after for p in kind.problems(change, rules)]


def is_broken(kind: Kind, path: str, rules: Any, tree: Tree) -> bool:
    """Whether a file of the tree breaks a rule in a way that can be repaired."""
    raw = tree.read(path)
    return raw is not None and any(f.repair is not Repair.REPORT for f in kind.check(path, raw, rules, tree))


def restored(kind: Kind, path: str, before: Files, after: Files, rules: Any, base: Tree) -> Seed | None:
    """The right change, when the target breaks the rules without it and the kind has nothing to say against it."""
    seed = Seed("restored", True, before, after)
    return seed if is_broken(kind, path, rules, base) and not problems(kind, seed, rules, base) else None


def wrong(kind: str, good: Seed, after: Files | None) -> Iterator[Seed]:
    """A seed that differs from the good one and does something; none where it does not."""
    if after is not None:
        every = {**good.after, **after}
        changes = any(good.before.get(path, b"") != raw for path, raw in every.items())
        if every != good.after and changes:
            yield Seed(kind, False, good.before, every)


# --- damage ----------------------------------------------------------------------------------------------------------


def changed_code(path: str, raw: bytes, names: Collection[str] = ()) -> bytes | None:
    """The file with one operator turned or one number counted up. `names`: only in these functions of a Python file."""
    edits = _python(raw, names) if path.endswith((".py", ".pyi")) else _elsewhere(raw)
    return _first(path, raw, turned(edits, path, "changed-code"))


def same_result(path: str, raw: bytes, name: str, constant: str) -> bytes | None:
    """The file in which everything that a function gives back is one constant."""
    edits = [
        (place[0], place[1], constant.encode())
        for function in _functions(raw, (name,))
        for node in _own(function)
        if isinstance(node, ast.Return) and node.value is not None
        for place in _place(raw, node.value)
    ]
    found = raw
    for start, end, text in sorted(set(edits), reverse=True):
        found = found[:start] + text + found[end:]
    return found if edits and _differs(path, raw, found) else None


def lost_line(path: str, raw: bytes) -> bytes | None:
    """The file without one line of code."""
    edits = _statements(raw) if path.endswith((".py", ".pyi")) else _lines(raw)
    return _first(path, raw, turned(edits, path, "lost-line"))


def lost_function(path: str, raw: bytes, names: Collection[str] = ()) -> bytes | None:
    """The Python file without one of its functions, none of `names`, beside which something is left."""
    tree = parsed(raw) if len(raw) <= MOST else None
    edits = []
    for owner in ast.walk(tree) if tree else ():
        body = owner.body if isinstance(owner, ast.Module | ast.ClassDef) else []
        functions = [e for e in body if isinstance(e, ast.FunctionDef | ast.AsyncFunctionDef) and e.name not in names]
        edits += [edit for node in functions if len(body) > 1 for edit in _whole(raw, node)]
    return _first(path, raw, turned(edits, path, "lost-function"))


def _first(path: str, raw: bytes, edits: Sequence[Edit]) -> bytes | None:
    """The first edit that leaves another file which is no worse to parse."""
    for start, end, text in edits[:TRIES]:
        found = raw[:start] + text + raw[end:]
        if _differs(path, raw, found):
            return found
    return None


def _differs(path: str, raw: bytes, found: bytes) -> bool:
    if path.endswith((".py", ".pyi")):
        old, new = _dump(raw), _dump(found)
        return bool(old) and bool(new) and old != new
    return found.split() != raw.split() and (bool(syntax.fault(path, raw)) or not syntax.fault(path, found))


@lru_cache(maxsize=4)
def _dump(raw: bytes) -> str:
    """The syntax tree as text; "" for what is not Python."""
    tree = parsed(raw)
    try:
        return ast.dump(tree) if tree is not None else ""
    except RecursionError:
        return ""


@lru_cache(maxsize=4)
def _starts(raw: bytes) -> list[int]:
    """The offset of each line, as Python counts them."""
    found = [3 if raw.startswith(b"\xef\xbb\xbf") else 0]
    found += [match.end() for match in re.finditer(rb"\n", raw)]
    return found


def _place(raw: bytes, node: ast.expr | ast.stmt) -> Iterator[tuple[int, int]]:
    """From where to where a node stands in the text."""
    starts = _starts(raw)
    if node.end_lineno is not None and node.end_col_offset is not None and node.end_lineno <= len(starts):
        yield starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _functions(raw: bytes, names: Collection[str]) -> list[ast.AST]:
    """The functions of these names at the top of a Python file; without names, all of the file."""
    tree = parsed(raw) if len(raw) <= MOST and not re.search(rb"\r(?!\n)", raw) else None
    if tree is None:
        return []
    if not names:
        return [tree]
    return [e for e in tree.body if isinstance(e, ast.FunctionDef | ast.AsyncFunctionDef) and e.name in names]


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """What belongs to a function itself, and not to one inside of it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _python(raw: bytes, names: Collection[str]) -> list[Edit]:
    """Every operator that can be turned and every number, by where the syntax tree has them."""
    starts = _starts(raw)

    def at(line: int | None, column: int | None) -> int:
        return starts[line - 1] + (column or 0) if line is not None and line <= len(starts) else 0

    edits: list[Edit] = []
    for top in _functions(raw, names):
        for node in _code(top):
            pairs: list[tuple[ast.expr, ast.expr]] = []
            if isinstance(node, ast.Compare):
                pairs = [(node.left, node.comparators[0])]
            elif isinstance(node, ast.BinOp):
                pairs = [(node.left, node.right)]
            elif isinstance(node, ast.BoolOp):
                pairs = [(node.values[0], node.values[1])] if len(node.values) == 2 else []
            elif isinstance(node, ast.Constant) and type(node.value) is int:
                start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
                if raw[start:end] == str(node.value).encode():
                    edits.append((start, end, str(node.value + 1).encode()))
            for one, other in pairs:
                start, end = at(one.end_lineno, one.end_col_offset), at(other.lineno, other.col_offset)
                text = raw[start:end]
                sign = text.strip()
                if sign in _SWAPPED:
                    edits.append((start, end, text.replace(sign, _SWAPPED[sign])))
    return edits


def _code(top: ast.AST) -> Iterator[ast.AST]:
    """The nodes of code that runs: no annotation, no text with values in it, whose places are not known everywhere."""
    waiting = [top]
    while waiting:
        node = waiting.pop()
        yield node
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns") and not isinstance(node, ast.JoinedStr):
                waiting += [e for e in (value if isinstance(value, list) else [value]) if isinstance(e, ast.AST)]


def _elsewhere(raw: bytes) -> list[Edit]:
    """Operators and numbers on lines that look like code, outside of texts and comments."""
    edits: list[Edit] = []
    for start, line in _code_lines(raw):
        for match in _ELSEWHERE.finditer(line):
            if _MARKED.search(line, 0, match.start()) is None:
                turned_ = _SWAPPED.get(match[0]) or str(int(match[0]) + 1).encode()
                edits.append((start + match.start(), start + match.end(), turned_))
    return edits


def _code_lines(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for line in raw.splitlines(keepends=True) if len(raw) <= MOST else ():
        text = line.strip()
        if text and len(line) <= 400 and not text.startswith(_COMMENT):
            yield at, line
        at += len(line)


def _lines(raw: bytes) -> list[Edit]:
    """Each line of code that opens and closes nothing."""
    return [(start, start + len(line), b"") for start, line in _code_lines(raw) if len(line.strip()) > 3]


def _statements(raw: bytes) -> list[Edit]:
    """Each statement of one line beside which another stands."""
    edits: list[Edit] = []
    for top in _functions(raw, ()):
        for node in ast.walk(top):
            body = getattr(node, "body", None)
            if isinstance(body, list) and len(body) > 1:
                plain = [e for e in body if isinstance(e, ast.stmt) and e.lineno == e.end_lineno]
                told = [e for e in plain if not (isinstance(e, ast.Expr) and isinstance(e.value, ast.Constant))]
                edits += [edit for each in told for edit in _whole(raw, each)]
    return edits


def _whole(raw: bytes, node: ast.stmt) -> Iterator[Edit]:
    """A statement with its decorators as lines, where nothing else stands on them."""
    starts = _starts(raw)
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    if last > len(starts):
        return
    start, end = starts[first - 1], starts[last] if last < len(starts) else len(raw)
    before = raw[start : starts[node.lineno - 1] + node.col_offset] if first == node.lineno else b""
    behind = raw[starts[last - 1] + (node.end_col_offset or 0) : end].strip()
    if not before.strip() and (not behind or behind.startswith(b"#")):
        yield start, end, b""


# --- tests that are made to say less ---------------------------------------------------------------------------------

_AVA = re.compile(rb"^([ \t]*)t\.\w+\((.*)\)(;?)[ \t]*$", re.MULTILINE)


def weakened(path: str, raw: bytes) -> bytes | None:
    """A test file whose assertions hold whatever the code does: of pytest, or of AVA."""
    if len(raw) > MOST:
        return None
    if not path.endswith(".py"):
        found = _AVA.sub(lambda m: m[1] + b"t.is(" + (one := _argument(m[2])) + b", " + one + b")" + m[3], raw)
        return found if found != raw else None
    edits = [
        (start, end, b"True")
        for top in _functions(raw, ())
        for node in ast.walk(top)
        if isinstance(node, ast.Assert)
        for start, end in _place(raw, node.test)
    ]
    found = raw
    for start, end, text in sorted(edits, reverse=True):
        found = found[:start] + text + found[end:]
    return found if edits and _differs(path, raw, found) else None


def _argument(text: bytes) -> bytes:
    """The first of some arguments."""
    depth, quote = 0, ""
    for n, sign in enumerate(text.decode("latin-1")):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"`":
            quote = sign
        elif sign == "," and not depth:
            return text[:n]
        else:
            depth += (sign in "([{") - (sign in ")]}")
    return text
