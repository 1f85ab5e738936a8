"""What a module offers to others, read from its source: public functions, classes and values, with what holds for them
by construction. Owns the record and its reading of Python; JavaScript and TypeScript are read by scripts.py.

Nothing is imported or run. What a decorator, a metaclass or a second definition may change is left unsaid, so that each
fact is true of the module when it is imported.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

MAX_SOURCE = 512 * 1024  # bytes of a module that is read
MAX_SYMBOLS = 200
MAX_FACTS = 12  # names in one fact: members, methods

Function = ast.FunctionDef | ast.AsyncFunctionDef
_KEEPS = frozenset(  # decorators that leave a function's signature as it is written
    {"contextmanager", "asynccontextmanager", "lru_cache", "cache", "override", "final", "staticmethod"}
)
_KEEPS_CLASS = frozenset({"dataclass", "total_ordering", "final", "runtime_checkable", "unique", "verify"})
_ENUMS = frozenset({"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"})
_PLAIN_BASES = frozenset({"object", "ABC"})
ERRORS = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
)
_MARKUP = re.compile(r":[a-z]+(?::[a-z]+)?:`[~!]?([^`<]{1,80})`|``([^`]{1,80})``|`([^`]{1,80})`")
_STOP = re.compile(r"(?<=[.!?])\s")


@dataclass(frozen=True)
class Public:
    """One public name. `parameters`: their names in order; `arity`: what JavaScript says of a function's length;
    `parent`: the class it is known to come from; `members`: of an enumeration; `fields`: of a named tuple. None and
    empty: not known."""

    name: str
    kind: Literal["function", "class", "value"]
    doc: str = ""
    parameters: tuple[str, ...] | None = None
    arity: int | None = None
    coroutine: bool = False
    parent: str = ""
    examples: tuple[tuple[str, str], ...] = ()  # a call with plain values, and what its docstring says it gives
    methods: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    @property
    def telling(self) -> bool:
        """Whether more is known of it than that it is there."""
        known = self.parameters is not None or self.arity is not None
        return known or bool(self.coroutine or self.parent or self.methods or self.members or self.fields)


def parse(raw: bytes) -> ast.Module | None:
    """The syntax tree of a Python source of a bounded size; None when it is none."""
    if len(raw) > MAX_SOURCE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(raw)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


@lru_cache(maxsize=64)
def read_python(raw: bytes) -> tuple[Public, ...]:
    """The public symbols that a Python module defines itself, in their order."""
    tree = parse(raw)
    if tree is None:
        return ()
    public = exported(tree)
    bound = Counter(_bound(tree))
    found: dict[str, Public] = {}
    for node in tree.body:
        for each in _symbols(node):
            listed = each.name in public if public is not None else _is_public(each)
            if not listed or not each.name.isidentifier() or bound[each.name] == 0:
                continue
            found[each.name] = each if bound[each.name] == 1 else Public(each.name, "value", each.doc)
    known = (ERRORS - bound.keys()) | {each.name for each in found.values() if each.kind == "class"}
    return tuple(e if e.parent in known else replace(e, parent="") for e in found.values())[:MAX_SYMBOLS]


def _is_public(each: Public) -> bool:
    if each.name.startswith("_"):
        return False
    return each.kind != "value" or each.name.isupper()  # loggers and type variables are nobody's interface


def exported(tree: ast.Module) -> frozenset[str] | None:
    """The names in `__all__`; None without one that can be read."""
    names: set[str] = set()
    seen = False
    for node in tree.body:
        value: ast.expr | None = None
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = node.value if [_last(target) for target in targets] == ["__all__"] else None
        if value is not None and isinstance(value, ast.List | ast.Tuple):
            seen = True
            names |= {e.value for e in value.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)}
    return frozenset(names) if seen else None


def _bound(tree: ast.Module) -> Iterator[str]:
    """Each time a statement of the module, also below `if`, `try`, `with` and loops, binds a name; a deletion hides it
    for good."""
    waiting: list[ast.AST] = list(tree.body)
    deleted: set[str] = set()
    names: list[str] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
            deleted.add(node.id)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            waiting.extend(ast.iter_child_nodes(node))
    yield from (name for name in names if name not in deleted)


def _symbols(node: ast.stmt) -> Iterator[Public]:
    """What one statement at the top of a module defines."""
    if isinstance(node, Function):
        yield _function(node)
    elif isinstance(node, ast.ClassDef):
        yield _class(node)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield Public(target.id, "value")
    elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        yield Public(node.target.id, "value")


def _function(node: Function) -> Public:
    known = _decorators(node) <= _KEEPS - {"staticmethod"}
    alone = isinstance(node, ast.AsyncFunctionDef) and not node.decorator_list and not _yields(node)
    parameters = _parameters(node.args) if known else None
    text = ast.get_docstring(node)
    examples = () if isinstance(node, ast.AsyncFunctionDef) else tuple(_examples(node.name, text or ""))
    return Public(node.name, "function", sentence(text), parameters, coroutine=alone, examples=examples)


def _examples(name: str, text: str) -> Iterator[tuple[str, str]]:
    """The examples of a docstring that are one call of the function with plain values and give a plain value."""
    if ">>>" not in text or len(text) > 20_000:
        return
    try:
        found = doctest.DocTestParser().get_examples(text)[:20]
    except ValueError:
        return
    for each in found:
        call = _expression(each.source)
        want = _expression(each.want)
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != name:
            continue
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        if want is not None and all(map(_is_plain, [*values, want])) and all(k.arg for k in call.keywords):
            yield _written(call), _written(want)


def _expression(source: str) -> ast.expr | None:
    try:
        return ast.parse(source.strip(), mode="eval").body if len(source) < 200 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_plain(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return not any(isinstance(each, ast.Constant) and each.value is ... for each in ast.walk(node))


def _written(node: ast.expr) -> str:
    """An expression on one line, its texts in double quotes where that needs no escape."""
    return re.sub(r"'([^'\"\\]*)'", r'"\1"', ast.unparse(node))


def _decorators(node: Function | ast.ClassDef) -> set[str]:
    """The last names of the decorators; what has no name counts as "?"."""
    found = set()
    for each in node.decorator_list:
        target = each.func if isinstance(each, ast.Call) else each
        found.add(_last(target) or "?")
    return found


def _last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _yields(node: Function) -> bool:
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(inner, Function | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(inner))
    return False


def _parameters(args: ast.arguments) -> tuple[str, ...]:
    """The names of a function's parameters in the order that `inspect.signature` gives."""
    found = [*args.posonlyargs, *args.args, *([args.vararg] if args.vararg else []), *args.kwonlyargs]
    return tuple(each.arg for each in (*found, *([args.kwarg] if args.kwarg else [])))


def _class(node: ast.ClassDef) -> Public:
    bases = [_last(base) for base in node.bases]
    doc = sentence(ast.get_docstring(node))
    if node.keywords or not _decorators(node) <= _KEEPS_CLASS or "" in bases:
        return Public(node.name, "class", doc)
    if "Protocol" in bases or "TypedDict" in bases:
        return Public(node.name, "class", doc)
    methods = tuple(sorted(_methods(node)))[:MAX_FACTS]
    if bases and bases[0] in _ENUMS:
        return Public(node.name, "class", doc, methods=methods, members=_members(node)[:MAX_FACTS])
    if bases == ["NamedTuple"]:
        return Public(node.name, "class", doc, methods=methods, fields=tuple(_annotated(node)))
    parent = bases[0] if bases and isinstance(node.bases[0], ast.Name) else ""
    parameters = None
    if set(bases) <= _PLAIN_BASES:
        parameters = _dataclass(node) if node.decorator_list else _constructor(node)
    return Public(node.name, "class", doc, parameters, parent=parent, methods=methods)


def _defined(node: ast.ClassDef) -> dict[str, list[Function]]:
    found: dict[str, list[Function]] = {}
    for each in node.body:
        if isinstance(each, Function):
            found.setdefault(each.name, []).append(each)
    return found


def _methods(node: ast.ClassDef) -> Iterator[str]:
    """Public methods of its own; a name that a statement of the class deletes is not there."""
    gone = {_last(target) for each in node.body if isinstance(each, ast.Delete) for target in each.targets}
    yield from (name for name in _defined(node) if not name.startswith("_") and name not in gone)


def _constructor(node: ast.ClassDef) -> tuple[str, ...] | None:
    """The parameters of a class without decorators and bases; None where more than `__init__` decides them."""
    own = _defined(node)
    stored = {_last(target) for each in node.body if isinstance(each, ast.Assign) for target in each.targets}
    if "__new__" in own or stored & {"__init__", "__new__", "__signature__"}:
        return None
    inits = own.get("__init__", [])
    if len(inits) != 1 or inits[0].decorator_list or not (inits[0].args.posonlyargs or inits[0].args.args):
        return None
    return _parameters(inits[0].args)[1:]


def _dataclass(node: ast.ClassDef) -> tuple[str, ...] | None:
    """The fields of a plain dataclass; None where an option or a special field decides more."""
    if len(node.decorator_list) != 1 or _decorators(node) != {"dataclass"}:
        return None
    call = node.decorator_list[0]
    options = {keyword.arg for keyword in call.keywords} if isinstance(call, ast.Call) else set()
    if not options <= {"frozen", "order", "eq", "repr", "slots"} or {"__init__", "__new__"} & _defined(node).keys():
        return None
    for each in node.body:
        if isinstance(each, ast.AnnAssign):
            text = ast.dump(each.annotation)
            special = any(word in text for word in ("ClassVar", "InitVar", "KW_ONLY"))
            call_of = _last(each.value.func) if isinstance(each.value, ast.Call) else ""
            if special or (call_of == "field" and any(k.arg in ("init", "kw_only") for k in each.value.keywords)):  # type: ignore[union-attr]
                return None
    return tuple(_annotated(node))


def _annotated(node: ast.ClassDef) -> Iterator[str]:
    """The annotated names of a class body, in their order."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id


def _members(node: ast.ClassDef) -> tuple[str, ...]:
    """The members of an enumeration that are plain constants or `auto()`."""
    found = []
    for each in node.body:
        if isinstance(each, ast.Assign) and len(each.targets) == 1 and isinstance(each.targets[0], ast.Name):
            name, value = each.targets[0].id, each.value
            plain = isinstance(value, ast.Constant) or (isinstance(value, ast.Call) and _last(value.func) == "auto")
            if plain and not name.startswith("_"):
                found.append(name)
    return tuple(found)


def sentence(text: str | None) -> str:
    """The first sentence of a docstring or comment on one line, without markup; "" where there is none worth it."""
    paragraph = re.split(r"\n\s*\n", (text or "").strip()[:1000], maxsplit=1)[0]
    line = _MARKUP.sub(lambda match: match[1] or match[2] or match[3], " ".join(paragraph.split()))
    line = _STOP.split(line, maxsplit=1)[0].rstrip(".: ")
    usable = 8 <= len(line) <= 80 and line.isprintable() and not set(line) & set('"\\{}<>`#*|')
    return line if usable and line[0].isalnum() and " " in line else ""


def words_of(name: str) -> str:
    """A name in code as words: `loadTides` and `load_tides` as "load tides"."""
    spaced = re.sub(r"([a-z0-9])([A-Z])|([A-Z]+)([A-Z][a-z])", r"\1\3 \2\4", name).replace("_", " ")
    return " ".join(word if word.isupper() else word.lower() for word in spaced.split())


def listed(names: Sequence[str]) -> str:
    """Names as prose: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
