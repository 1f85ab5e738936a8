"""Python sources as text and tree: what they define, and how a docstring comes in without anything else changing.

Pure. Sources are hostile: size, depth and encodings are bounded, and every parser's failure is a ToolError. Nothing is
printed from the tree: an edit adds lines to the text. Only a body that stands on the line of its `def` is opened.
"""

from __future__ import annotations

import ast
import codecs
import inspect
import io
import re
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pantheon.errors import ToolError

MAX_BYTES = 300_000
MAX_NESTED = 12  # definitions inside definitions
MAX_DEFINITIONS = 5_000
MODULE = "<module>"  # Python's own name for a module's code

_ENCODINGS = frozenset({"utf-8", "ascii", "iso8859-1"})
_LAYOUT = frozenset(
    {tokenize.ENCODING, tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)
_FIRST_LINES = re.compile(r"#!|[ \t\f]*#.*?coding[:=]")
_TYPE_COMMENT = re.compile(r"#\s*type:")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Described = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Source:
    """A parsed source. `lines` have no line feeds (a carriage return stays); `encoding` is a codec's own name."""

    text: str
    tree: ast.Module
    encoding: str
    marked: bool  # it opens with a byte order mark

    @cached_property
    def lines(self) -> tuple[str, ...]:
        return tuple(self.text.split("\n"))

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """The module and everything it defines by a name, in the order of the text, also under `if`, `try` and the
        like."""
        return tuple(_definitions(self.tree))

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def tokens(self) -> tuple[tokenize.TokenInfo, ...]:
        """Every token of the text. Raises ToolError."""
        try:
            return tuple(tokenize.generate_tokens(io.StringIO(self.text, newline="").readline))
        except (tokenize.TokenError, SyntaxError, RecursionError) as cause:
            raise ToolError("cannot read", "the source", f"cannot be split into tokens: {cause}") from cause

    @cached_property
    def quotes(self) -> str:
        """The quotes that its docstrings are written with."""
        documented = [d.node.body[0] for d in self.definitions if doc_of(d.node) is not None]
        opened = [self.lines[first.lineno - 1].strip() for first in documented]
        single = sum(line.startswith("'''") for line in opened)
        return "'''" if single > len(opened) - single else '"""'


@dataclass(frozen=True)
class Definition:
    """A module, class or function with its dotted name; `parents` from the module inwards."""

    name: str
    node: Described
    parents: tuple[Described, ...] = ()


@lru_cache(maxsize=8)
def parse(raw: bytes) -> Source:
    """Read a source. Raises ToolError with the reason why it cannot be edited."""
    if len(raw) > MAX_BYTES:
        raise ToolError("cannot read", "the source", f"{len(raw)} bytes, more than the {MAX_BYTES} allowed")
    marked = raw.startswith(codecs.BOM_UTF8)
    body = raw[len(codecs.BOM_UTF8) :] if marked else raw
    try:
        named, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        encoding = codecs.lookup("utf-8" if named == "utf-8-sig" else named).name
        if encoding not in _ENCODINGS:
            raise ToolError("cannot read", "the source", f"its encoding is {encoding}")
        text = body.decode(encoding)
        if re.search(r"\r(?!\n)", text):
            raise ToolError("cannot read", "the source", "a carriage return without a line feed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the source's own escapes and comparisons
            tree = ast.parse(text)
    except SyntaxError as cause:
        where = f"line {cause.lineno}: " if cause.lineno else ""
        raise ToolError("cannot read", "the source", f"{where}not Python here: {cause.msg}") from cause
    except (ValueError, LookupError, RecursionError, MemoryError) as cause:
        raise ToolError("cannot read", "the source", str(cause) or "nested too deeply") from cause
    return Source(text, tree, encoding, marked)


def doc_of(node: Described) -> str | None:
    """The docstring as it stands in the source; None where there is none."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.value.value
    return None


def _definitions(tree: ast.Module) -> list[Definition]:
    module = Definition(MODULE, tree)
    found = [module]
    stack: list[tuple[ast.AST, Definition]] = [(child, module) for child in reversed(tree.body)]
    while stack and len(found) < MAX_DEFINITIONS:
        node, owner = stack.pop()
        if isinstance(node, ast.ClassDef | Function):
            if len(owner.parents) >= MAX_NESTED:
                continue
            name = node.name if owner is module else f"{owner.name}.{node.name}"
            owner = Definition(name, node, (*owner.parents, owner.node))
            found.append(owner)
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            stack += [(child, owner) for child in reversed(list(_statements(node)))]
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield child


def define(source: Source, name: str) -> Definition:
    """The one definition of that name. Raises ToolError where there is none or more than one."""
    found = [definition for definition in source.definitions if definition.name == name]
    if len(found) != 1:
        raise ToolError("cannot find", ascii(name), "the source defines it more than once" if found else "no such name")
    return found[0]


# --- comparing -------------------------------------------------------------------------------------------------------


def added(before: Source, after: Source) -> list[tuple[str, str]]:
    """The docstrings that came in: dotted names and texts, without their indentation. Raises ToolError where the two
    differ in anything else: another syntax tree, a comment, a docstring that was there."""
    fresh: dict[int, str] = {}
    pairs: list[tuple[object, object]] = [(before.tree, after.tree)]
    while pairs:
        old, new = pairs.pop()
        if isinstance(old, Described) and isinstance(new, Described) and doc_of(old) is None:
            text = doc_of(new)
            if text is not None:
                fresh[id(new)] = text
                pairs.append((old.body, new.body[1:]))
                pairs += [(getattr(old, f, None), getattr(new, f, None)) for f in old._fields if f != "body"]
                if type(old) is type(new):
                    continue
        pairs += _parts(old, new)
    _compare_tokens(before, after, fresh)
    return [(d.name, inspect.cleandoc(fresh[id(d.node)])) for d in after.definitions if id(d.node) in fresh]


def _parts(old: object, new: object) -> list[tuple[object, object]]:
    """What is left to compare of two nodes, lists or values that are alike so far."""
    if type(old) is not type(new):
        raise _differs()
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            raise _differs()
        return list(zip(old, new, strict=True))
    if isinstance(old, ast.AST) and isinstance(new, ast.AST):
        return [(getattr(old, f, None), getattr(new, f, None)) for f in old._fields]
    if isinstance(old, float | complex):  # a zero has a sign
        old, new = repr(old), repr(new)
    if old != new:
        raise _differs()
    return []


def _differs() -> ToolError:
    return ToolError("refused edit", "the source", "it changes more than missing docstrings")


def _compare_tokens(before: Source, after: Source, fresh: dict[int, str]) -> None:
    """All tokens but layout are the same and in the same order once the new docstrings are left out."""
    places = set()
    for definition in after.definitions:
        if id(definition.node) in fresh:
            first = definition.node.body[0]
            places.add((first.lineno, first.col_offset))
    old = [(t.type, t.string) for t in before.tokens if t.type not in _LAYOUT]
    new = [
        (t.type, t.string.rstrip("\r") if t.type == tokenize.COMMENT else t.string)
        for t in after.tokens
        if t.type not in _LAYOUT and not (t.type == tokenize.STRING and t.start in places)
    ]
    if [(kind, text.rstrip("\r") if kind == tokenize.COMMENT else text) for kind, text in old] != new:
        raise _differs()


# --- editing ---------------------------------------------------------------------------------------------------------


def indentation(source: Source, definition: Definition) -> str:
    """What stands before the docstring of a definition, as far as it can be told without tokens."""
    if isinstance(definition.node, ast.Module):
        return ""
    first = definition.node.body[0]
    line: str = source.lines[min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", ()))]) - 1]
    own = line[: len(line) - len(line.lstrip(" \t"))]
    return own if first.lineno > definition.node.lineno else own + "    "


def with_docstring(source: Source, name: str, text: str) -> bytes:
    """The source with a docstring for a definition that has none: `text` without indentation, in lines. Raises
    ToolError; what it gives differs from the source by that docstring alone."""
    definition = define(source, name)
    if doc_of(definition.node) is not None:
        raise ToolError("cannot add", ascii(name), "it has a docstring")
    lines = list(source.lines)
    if isinstance(definition.node, ast.Module):
        at, fresh = _module_place(lines), rendered(text, "", source.quotes)
        end = "\r" if at < len(lines) and lines[at].endswith("\r") else ""
        follows = lines[at].strip() if at < len(lines) else ""
        above = [""] if at and not follows and not _FIRST_LINES.match(lines[at - 1]) else []
        apart = 2 if follows.startswith(("def ", "class ", "async ", "@")) else 1
        block = [*above, *fresh, *([""] * apart if follows else [])]
        lines[at:at] = [line + end for line in block]
    else:
        _put(source, lines, definition, text)
    found = "\n".join(lines)
    try:
        raw = (codecs.BOM_UTF8 if source.marked else b"") + found.encode(source.encoding)
    except UnicodeEncodeError as cause:
        raise ToolError("cannot add", ascii(name), f"the text does not fit the encoding {source.encoding}") from cause
    if added(source, parse(raw)) != [(name, text)]:
        raise _differs()
    return raw


def rendered(text: str, indent: str, quotes: str = '"""') -> list[str]:
    """A docstring's lines in the source. Raises ToolError for a text that could end or escape its string."""
    first, *rest = text.split("\n")
    unsafe = "\\" in text or quotes in text or text != text.strip() or text.endswith(quotes[0])
    if unsafe or not text or not all(line.isprintable() for line in (first, *rest)):
        raise ToolError("cannot add", ascii(text[:60]), "it holds what a docstring here may not")
    if not rest:
        return [f"{indent}{quotes}{first}{quotes}"]
    return [f"{indent}{quotes}{first}", *(f"{indent}{line}" if line else "" for line in rest), f"{indent}{quotes}"]


def _module_place(lines: Sequence[str]) -> int:
    """The index of the line before which a module's docstring comes: behind the first block of comments."""
    at = 0
    while at < len(lines) and lines[at].lstrip(" \t\f").startswith("#"):
        at += 1
    return at


def _put(source: Source, lines: list[str], definition: Definition, text: str) -> None:
    """Put a class's or function's docstring behind its header."""
    stream = source.tokens
    colon = _colon(stream, definition)
    following = [token for token in stream[colon + 1 : colon + 3] if token.type != tokenize.COMMENT]
    row = stream[colon].start[0]
    end = "\r" if lines[row - 1].endswith("\r") else ""
    blank = [end] if isinstance(definition.node, ast.ClassDef) else []
    if following and following[0].type == tokenize.NEWLINE:
        at = following[0].start[0]
        while at < len(lines) and _TYPE_COMMENT.match(lines[at].strip()):
            at += 1  # it must stay next to the header
        indent = next(t.string for t in stream[colon:] if t.type == tokenize.INDENT)
        blank = blank if at < len(lines) and lines[at].strip() else []
        lines[at:at] = [*(line + end for line in rendered(text, indent, source.quotes)), *blank]
        return
    start = stream[colon + 1].start
    line = lines[start[0] - 1]
    own = line[: len(line) - len(line.lstrip(" \t"))]
    indent = own + _unit(stream, own)
    head = line[: stream[colon].end[1]] + end
    body = [*(one + end for one in rendered(text, indent, source.quotes)), *blank, indent + line[start[1] :]]
    if start[0] != row:  # a backslash stands between them
        raise ToolError("cannot add", ascii(definition.name), "its body begins behind a continued line")
    lines[row - 1 : row] = [head, *body]


def _colon(stream: Sequence[tokenize.TokenInfo], definition: Definition) -> int:
    """The index of the colon that ends the header: not one in brackets, nor one of a lambda."""
    assert isinstance(definition.node, ast.ClassDef | Function)
    row, lambdas, depth = definition.node.lineno, 0, 0
    opening = next(
        (n for n, t in enumerate(stream) if t.start[0] == row and t.string in ("def", "class", "async")), len(stream)
    )
    for n in range(opening, len(stream)):
        string = stream[n].string
        if stream[n].type == tokenize.NAME:
            lambdas += string == "lambda" and depth == 0
        elif stream[n].type == tokenize.OP:
            depth += (string in "([{") - (string in ")]}")
            if string == ":" and depth == 0:
                if not lambdas:
                    return n
                lambdas -= 1
    raise ToolError("cannot add", ascii(definition.name), "its header has no end")


def _unit(stream: Sequence[tokenize.TokenInfo], own: str) -> str:
    """One step of indentation, as the source takes its first."""
    first = next((t.string for t in stream if t.type == tokenize.INDENT), "    ")
    return "\t" if "\t" in own else first if first.isspace() and "\f" not in first else "    "
