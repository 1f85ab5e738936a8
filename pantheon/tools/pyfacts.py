"""What can be told of a Python definition without running it: parameters, results, exceptions, bases, comments.

Pure, over trees of pysource.py. Bodies are walked without recursion and without the functions inside them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pantheon.tools import english
from pantheon.tools.pysource import Definition, Function, Source, doc_of

MAX_WALKED = 20_000  # nodes of one body
_DIRECTIVE = re.compile(
    r"#\s*(?:type:|noqa|pragma|pylint|flake8|mypy|isort|fmt:|yapf|ruff|nosec|TODO|FIXME|XXX|HACK|NOTE|BUG|!|:|-\*-)",
    re.I,
)
_CODE = re.compile(r"[=;{}\[\]|<>~^@$%*\\]|\w\(|\)\w|\b(?:def|return|import|self|elif)\b|->|://")
_CONTAINERS = frozenset({"list", "tuple", "set", "frozenset", "dict", "Sequence", "Iterable", "Mapping", "Collection"})
_TYPE_NOUNS = {
    "bool": "boolean",
    "bytes": "bytes object",
    "dict": "dictionary",
    "float": "float",
    "frozenset": "frozen set",
    "int": "integer",
    "list": "list",
    "set": "set",
    "str": "string",
    "tuple": "tuple",
    "Path": "path",
    "datetime": "datetime",
    "date": "date",
    "timedelta": "time delta",
}


@dataclass(frozen=True)
class Body:
    """What a function's body does: `raises` are names of exceptions, `fluent`: all it returns is `self`."""

    returns: bool = False
    yields: bool = False
    fluent: bool = False
    unwritten: bool = False  # it only raises NotImplementedError
    truth: bool = False  # all it returns is a comparison, a negation or a boolean
    wraps: bool = False  # it returns a function that it defines
    changes: bool = False  # it sets a public attribute
    raises: tuple[str, ...] = ()


def body_of(node: Function) -> Body:
    """Look through a function's own statements."""
    results: list[ast.expr] = []
    raised: dict[str, None] = {}
    inner: set[str] = set()
    yields = changes = False
    for child in walk(node):
        if isinstance(child, ast.Return) and child.value is not None:
            if not (isinstance(child.value, ast.Constant) and child.value.value is None):
                results.append(child.value)
        elif isinstance(child, ast.Yield | ast.YieldFrom):
            yields = True
        elif isinstance(child, ast.Raise) and child.exc is not None:
            call = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            raised[last_name(call)] = None
        elif isinstance(child, Function):
            inner.add(child.name)
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
            changes = changes or not child.attr.startswith("_")
    raises = tuple(name for name in raised if name[:1].isupper())
    return Body(
        returns=bool(results),
        yields=yields,
        fluent=bool(results) and all(isinstance(r, ast.Name) and r.id == "self" for r in results),
        unwritten=raises == ("NotImplementedError",) and len(node.body) == 1,
        truth=bool(results) and all(_is_truth(result) for result in results),
        wraps=any(isinstance(r, ast.Name) and r.id in inner for r in results),
        changes=changes,
        raises=raises,
    )


def _is_truth(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return all(isinstance(v, ast.Compare | ast.UnaryOp) for v in node.values)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    return isinstance(node, ast.Compare) or (isinstance(node, ast.Constant) and isinstance(node.value, bool))


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """A function's nodes; of functions and classes inside it only their heads."""
    stack = list(ast.iter_child_nodes(node))
    for _ in range(MAX_WALKED):
        if not stack:
            return
        child = stack.pop()
        yield child
        if not isinstance(child, ast.ClassDef | ast.Lambda | Function):
            stack += ast.iter_child_nodes(child)


def last_name(node: ast.AST | None) -> str:
    """The last name of a dotted one, also of one that is called or subscripted; "" for anything else."""
    for _ in range(8):
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Subscript):
            node = node.value
        else:
            break
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def decorators(node: ast.AST) -> list[str]:
    """The last names of its decorators."""
    return [last_name(each) for each in getattr(node, "decorator_list", ())]


def bases(node: ast.ClassDef) -> list[str]:
    return [name for name in map(last_name, node.bases) if name]


def is_method(definition: Definition) -> bool:
    return isinstance(definition.node, Function) and isinstance(definition.parents[-1], ast.ClassDef)


def parameters(definition: Definition) -> list[ast.arg]:
    """A function's parameters by name, without `self`, `cls`, `*args` and `**kwargs`."""
    node = definition.node
    if not isinstance(node, Function):
        return []
    found = [*node.args.posonlyargs, *node.args.args]
    if is_method(definition) and "staticmethod" not in decorators(node):
        found = found[1:]
    return [*found, *node.args.kwonlyargs]


def required(definition: Definition) -> list[ast.arg]:
    """The parameters that a caller must give."""
    node = definition.node
    if not isinstance(node, Function):
        return []
    positional = [*node.args.posonlyargs, *node.args.args]
    optional = (
        {id(arg) for arg in positional[len(positional) - len(node.args.defaults) :]} if node.args.defaults else set()
    )
    optional |= {id(a) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None}
    return [arg for arg in parameters(definition) if id(arg) not in optional]


def type_noun(annotation: ast.expr | None) -> str:
    """What an annotation names, as a noun: `str` is a string, `list[str]` a list; "" where that is not plain."""
    name = last_name(annotation)
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str) and annotation.value.isidentifier():
        name = annotation.value
    if name in _TYPE_NOUNS:
        return _TYPE_NOUNS[name]
    plain = isinstance(annotation, ast.Name | ast.Attribute | ast.Constant)
    known = name in ("Any", "Self", "None", "Optional", "Union", "NoReturn", "Never", "object") or len(name) < 3
    return name if plain and name[:1].isupper() and not known and not name.isupper() else ""


def is_container(annotation: ast.expr | None) -> bool:
    return last_name(annotation) in _CONTAINERS


def or_none(annotation: ast.expr | None) -> bool:
    """Whether an annotation says `X | None` or `Optional[X]`."""
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return any(
            isinstance(side, ast.Constant) and side.value is None for side in (annotation.left, annotation.right)
        )
    return isinstance(annotation, ast.Subscript) and last_name(annotation) == "Optional"


def parameter_noun(arg: ast.arg) -> str:
    """A parameter as a noun; by its type where its name says nothing; "" when both do not."""
    parts = english.words(arg.arg)
    if parts and all(len(part) > 2 or english.spoken([part]) != part for part in parts):
        return english.spoken(parts)
    return type_noun(arg.annotation)


def comment_above(source: Source, definition: Definition) -> str:
    """The comment right above a definition, as one text; "" where there is none that is prose."""
    node = definition.node
    if isinstance(node, ast.Module):
        return ""
    lines = source.lines
    at = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 2
    indent = lines[at + 1][: len(lines[at + 1]) - len(lines[at + 1].lstrip())]
    found: list[str] = []
    while at >= 0 and lines[at].startswith(f"{indent}#") and len(found) < 6:
        found.append(lines[at].strip())
        at -= 1
    if not found or len(found) == 6 or any(_DIRECTIVE.match(line) for line in found):
        return ""
    text = " ".join(line.lstrip("#").strip() for line in reversed(found))
    first = re.split(r"(?<=[a-z)][.!?])\s+(?=[A-Z])", text, maxsplit=1)[0]
    prose = len(first.split()) >= 4 and first[:1].isalpha() and not _CODE.search(first) and '"' not in first
    return first if prose else ""


@lru_cache(maxsize=4)
def _classes(source: Source) -> Mapping[str, ast.ClassDef]:
    return {d.node.name: d.node for d in source.definitions if isinstance(d.node, ast.ClassDef)}


def inherited(source: Source, definition: Definition) -> list[str]:
    """First lines of docstrings of the methods with that name in the classes above it and beside it, in the file."""
    if not is_method(definition):
        return []
    owner = definition.parents[-1]
    assert isinstance(owner, ast.ClassDef)
    classes = _classes(source)
    above: list[ast.ClassDef] = []
    stack = bases(owner)
    while stack and len(above) < 20:
        found = classes.get(stack.pop())
        if found is not None and found is not owner and found not in above:
            above.append(found)
            stack += bases(found)
    shared = set(bases(owner)) - {"object"}
    beside = [c for c in classes.values() if c is not owner and shared & set(bases(c))] if len(classes) < 200 else []
    texts = []
    for each in [*above, *beside]:
        for method in each.body:
            if isinstance(method, Function) and method.name == definition.node.name:  # type: ignore[union-attr]
                texts.append((doc_of(method) or "").strip().split("\n")[0].strip())
    return [text for text in dict.fromkeys(texts) if len(text.split()) >= 2 and text.endswith(".")]


@lru_cache(maxsize=4)
def raisers(source: Source) -> Mapping[str, tuple[str, ...]]:
    """For each exception, the public functions of the source that raise it."""
    found: dict[str, list[str]] = {}
    for definition in source.definitions:
        hidden = any(part.startswith("_") for part in definition.name.split("."))
        if isinstance(definition.node, Function) and not hidden:
            for name in body_of(definition.node).raises:
                found.setdefault(name, []).append(definition.name)
    return {name: tuple(dict.fromkeys(names)) for name, names in found.items()}


@lru_cache(maxsize=4)
def spoken_names(source: Source) -> set[str]:
    """The words that the source uses for things: of its variables and parameters, its docstrings and its comments."""
    found: set[str] = set()
    for node in source.nodes:
        if isinstance(node, ast.arg):
            found.update(english.words(node.arg))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.update(english.words(node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.update(english.words(node.attr))
    for definition in source.definitions:
        found.update(re.findall(r"[a-z]+", (doc_of(definition.node) or "")[:2000].lower()))
    for line in source.lines:
        if line.lstrip().startswith("#"):
            found.update(re.findall(r"[a-z]+", line[:200].lower()))
    return found
