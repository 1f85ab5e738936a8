"""Python functions as a spec asks for them: signatures, examples, skeletons, tests, and bodies that a model wrote.

Pure: texts in, texts out; nothing is run here. A body comes in as whatever a model said, is cut out, put to the right
depth and guarded: what it imports, what it names. A change of a module is judged by its lines: outside of the bodies
that are asked for nothing may differ but imports that the rules allow.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import textwrap
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

IMPORTS = (
    *("bisect", "calendar", "collections", "copy", "datetime", "decimal", "difflib", "fractions", "functools", "heapq"),
    *("html", "itertools", "json", "math", "numbers", "operator", "re", "statistics", "string", "textwrap", "typing"),
    *("unicodedata", "urllib.parse"),
)
# Names that reach beyond the arguments: what a function of a spec has no need of, whatever it is used for.
FORBIDDEN = frozenset(
    {
        *("eval", "exec", "compile", "open", "input", "globals", "locals", "vars", "getattr", "setattr", "delattr"),
        *("breakpoint", "exit", "quit", "help", "print", "super", "SystemExit", "KeyboardInterrupt", "BaseException"),
    }
)
REACH = frozenset(  # modules that other modules hold as attributes
    {
        *("sys", "os", "builtins", "io", "codecs", "types", "inspect", "importlib", "subprocess", "socket", "ctypes"),
        *("gc", "threading", "signal", "shutil", "marshal", "pickle", "posix", "pathlib", "tempfile", "warnings"),
        *("linecache", "attrgetter", "methodcaller"),
    }
)
STUB = "raise NotImplementedError"
WIDTH = 88
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Limits:
    """What a body may import, and how many lines it may have."""

    imports: tuple[str, ...] = IMPORTS
    max_lines: int = 60


@dataclass(frozen=True)
class Signature:
    """`def name(...) -> ...` as text. Two are the same when their syntax trees are."""

    name: str
    text: str

    @classmethod
    def of(cls, node: ast.FunctionDef) -> Signature | str:
        """The signature of a function that has no body, or what is wrong with it."""
        if node.decorator_list:
            return f"{node.name}: a signature has no decorator"
        if node.name.startswith("__"):
            return f"{node.name}: not a name that a module gives to others"
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
        empty = all(
            isinstance(one, ast.Pass)
            or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and one.value.value is ...)
            or _is_stub(one)
            for one in body
        )
        if not empty:
            return f"{node.name}: a signature has no body, write ... there"
        defaults = [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]
        if any(isinstance(part, ast.Call | ast.Lambda | ast.NamedExpr) for one in defaults for part in ast.walk(one)):
            return f"{node.name}: a default is a plain value"
        return cls(node.name, _head(node))


@dataclass(frozen=True)
class Example:
    """A doctest: `source` is run, its last line gives `want` or raises `raised`. `line` is that of the spec."""

    source: str
    want: str
    raised: str
    line: int = 0

    def statements(self) -> list[str]:
        """Its statements, each as one text: the last one is the expression that tells."""
        tree = parsed(self.source)
        return [ast.unparse(node) for node in tree.body] if tree else [self.source]

    def fault(self) -> str:
        """What is wrong with it, "" for nothing."""
        tree = parsed(self.source)
        if tree is None or not tree.body or not isinstance(tree.body[-1], ast.Expr):
            return "the example is not an expression with a value"
        if isinstance(tree.body[-1].value, ast.Call) and _name(tree.body[-1].value.func) == "print":
            return "the example prints: write the value itself"
        if self.raised:
            kind = getattr(builtins, self.raised, None)
            known = isinstance(kind, type) and issubclass(kind, Exception)
            return "" if known else f"the example raises {self.raised!r}, which is no error of Python's own"
        try:
            ast.literal_eval(self.want)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return f"the result {self.want[:60]!r} is not a literal: a number, a text, a list and so on"
        return ""

    def text(self) -> str:
        """One line for a prompt."""
        said = f"raises {self.raised}" if self.raised else self.want
        return f"{'; '.join(self.source.splitlines())} -> {' '.join(said.split())}"


def parsed(text: str | bytes) -> ast.Module | None:
    """The syntax tree; None when it is not Python, or nested beyond reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def calls(source: str) -> frozenset[str] | None:
    """The plain names that a text calls or mentions; None when it is not Python."""
    tree = parsed(source)
    return None if tree is None else frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _is_stub(node: ast.stmt) -> bool:
    raised = node.exc if isinstance(node, ast.Raise) else None
    raised = raised.func if isinstance(raised, ast.Call) else raised
    return raised is not None and _name(raised) == "NotImplementedError"


def unparsed(name: str, node: ast.FunctionDef, body: Sequence[ast.stmt]) -> str:
    """The function with another name and body, without decorators and comments."""
    bare = ast.FunctionDef(name, node.args, list(body), [], node.returns, None)
    bare.type_params = getattr(node, "type_params", [])  # type: ignore[attr-defined,unused-ignore]
    return ast.unparse(ast.fix_missing_locations(bare))


def _head(node: ast.FunctionDef) -> str:
    """The line `def ...:` of a function, as Python itself would write it."""
    return unparsed(node.name, node, [ast.Pass()]).partition("\n")[0]


def _functions(tree: ast.Module) -> dict[str, Function]:
    return {node.name: node for node in tree.body if isinstance(node, Function)}


def is_stub(node: Function) -> bool:
    """Whether a function has no body but a docstring and `raise NotImplementedError`."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return not body or (len(body) == 1 and _is_stub(body[0]))


def module_fault(raw: bytes) -> str:
    """Why a module is not one that we add to; "" when it is."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8"
    if "\r" in text or text.startswith("\ufeff"):
        return "has carriage returns or a byte order mark"
    return "" if parsed(text) is not None else "is not Python"


def states(raw: bytes | None, wanted: Sequence[Signature]) -> dict[str, str] | str:
    """For every signature "missing", "stub", "" when it is there, or how it differs. A text when the module is not one
    that we can add to."""
    if raw is None:
        return {one.name: "missing" for one in wanted}
    if fault := module_fault(raw):
        return fault
    tree = parsed(raw.decode())
    assert tree is not None
    there = _functions(tree)
    other = {name for node in tree.body if not isinstance(node, Function) for name in _bound(node)}
    found = {}
    for one in wanted:
        node = there.get(one.name)
        if node is None:
            found[one.name] = f"{one.name} is there, and is no function" if one.name in other else "missing"
        elif isinstance(node, ast.AsyncFunctionDef) or node.decorator_list or _head(node) != one.text:
            found[one.name] = f"{one.name} is there with another signature, not {one.text}"
        else:
            found[one.name] = "stub" if is_stub(node) else ""
    return found


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module gives a value."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.alias):
            yield part.asname or part.name.partition(".")[0]


# --- the skeleton, and the tests --------------------------------------------------------------------------------------


def skeleton(raw: bytes | None, title: str, wanted: Sequence[tuple[Signature, str]], imports: Sequence[str]) -> bytes:
    """The module with a stub for every function that it does not have. `wanted`: signatures with what to say of each;
    `imports`: lines that their annotations need."""
    text = raw.decode() if raw is not None else f'"""{_quoted(title)}"""\n'
    there = states(raw, [signature for signature, _ in wanted])
    assert isinstance(there, dict)
    stubs = [_stub(signature, said) for signature, said in wanted if there[signature.name] == "missing"]
    if not stubs:
        return text.encode()
    for line in imports:
        text = with_import(text, line)
    tree, lines = parsed(text), text.split("\n")
    at = next((node.lineno - 1 for node in tree.body if _is_main(node)), len(lines)) if tree else len(lines)
    parts = ["\n".join(lines[:at]).rstrip(), *stubs, "\n".join(lines[at:]).rstrip()]
    return ("\n\n\n".join(part for part in parts if part) + "\n").encode()


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "'__main__'" in ast.dump(node.test)


def _stub(signature: Signature, said: str) -> str:
    text = _quoted(textwrap.shorten(said, 600, placeholder=" ...") or f"{signature.name}.")
    lines = textwrap.wrap(f'"""{text}"""', WIDTH, initial_indent="    ", subsequent_indent="    ")
    if len(lines) > 1:
        lines[-1:] = [lines[-1].removesuffix('"""'), '    """']
    return "\n".join([signature.text, *lines, f"    {STUB}"])


def _quoted(text: str) -> str:
    """Text that can stand in a docstring."""
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text.replace("\\", "\\\\").replace('"""', "'''")
    return text + " " if text.endswith('"') else text


def with_import(text: str, line: str) -> str:
    """The module's text with an import, unless it has it: behind the imports that it opens with, or its docstring."""
    tree = parsed(text)
    if tree is None or any(ast.unparse(node) == line for node in tree.body):
        return text
    opening = list(takewhile(_opens, tree.body))
    at = (opening[-1].end_lineno or 0) if opening else 0
    lines = text.split("\n")
    before = [""] if opening and isinstance(opening[-1], ast.Expr) else []
    return "\n".join([*lines[:at], *before, line, *([] if at else ["", ""]), *lines[at:]])


def _opens(node: ast.stmt) -> bool:
    """Whether a statement is what a module opens with: its docstring, its imports."""
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def head_of_tests(spec: str) -> str:
    return f'"""The examples of {_quoted(spec)}: change them there."""\n'


def tests(spec: str, module: str, examples: Mapping[str, Sequence[Example]]) -> str:
    """A pytest file with one test per function."""
    raises = any(one.raised for every in examples.values() for one in every)
    parts = [head_of_tests(spec), "\nimport pytest\n" if raises else "", "\n"]
    parts.append(f"from {module} import {', '.join(sorted(examples))}\n")
    for name, every in examples.items():
        parts.append(f"\n\ndef test_{name.lstrip('_')}() -> None:\n")
        parts.extend(textwrap.indent("\n".join(_asserted(one)), "    ") + "\n" for one in every)
    return "".join(parts)


def _asserted(one: Example) -> list[str]:
    *before, last = one.statements()
    if one.raised:
        return [*before, f"with pytest.raises({one.raised}):", f"    {last}"]
    value = ast.literal_eval(one.want)
    sign = "is" if value is None or isinstance(value, bool) else "=="
    return [*before, f"assert {last} {sign} {value!r}"]


# --- bodies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """A body that a model wrote: its lines at depth 0, and the imports that stood above the function."""

    lines: tuple[str, ...]
    imports: tuple[str, ...] = ()


def body_of(text: str, signature: Signature) -> Body | str:
    """The body in a model's answer, or why there is none. The answer may be a body or the whole function, fenced or
    not, at any depth."""
    text = _unfenced(text.replace("\r\n", "\n")).expandtabs(4)
    if "\r" in text:
        return "it has carriage returns"
    shapes = (text, *_levelled(text))
    for shape in shapes:
        tree = parsed(shape)
        if tree is not None and signature.name in _functions(tree):
            return _cut(tree, shape, signature)
    for shape in shapes:
        whole = f"{signature.text}\n{textwrap.indent(shape, '    ')}\n"
        tree = parsed(whole)
        if tree is not None and len(tree.body) == 1:
            return _cut(tree, whole, signature)
    return "it is not Python"


def _unfenced(text: str) -> str:
    """Without the Markdown fence that models like to put around code."""
    found = re.search(r"```[a-z]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return found[1] if found else text


def _levelled(text: str) -> tuple[str, ...]:
    """The text moved to depth 0, also when its first line alone lost its blanks."""
    first, _, rest = text.strip("\n").partition("\n")
    rest = textwrap.dedent(rest)
    return textwrap.dedent(text), f"{first.strip()}\n{rest}", f"{first.strip()}\n{textwrap.indent(rest, '    ')}"


def _cut(tree: ast.Module, text: str, signature: Signature) -> Body | str:
    node = _functions(tree)[signature.name]
    if isinstance(node, ast.AsyncFunctionDef) or node.decorator_list:
        return "it is not a plain function"
    names = [one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)]
    head = parsed(f"{signature.text}\n    pass")
    assert head is not None and isinstance(head.body[0], ast.FunctionDef)
    if names != [one.arg for one in ast.walk(head.body[0].args) if isinstance(one, ast.arg)]:
        return f"its arguments are not those of {signature.text}"
    imports, others = [], []
    for one in tree.body:
        if isinstance(one, ast.Import | ast.ImportFrom):
            imports.append(ast.unparse(one))
        elif one is not node and not isinstance(one, ast.Expr):
            others.append(one)
    if others:
        return f"it defines more than {signature.name}: put helpers inside of it"
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    while body and isinstance(body[0], ast.Import | ast.ImportFrom):
        imports.append(ast.unparse(body[0]))
        body = body[1:]
    if not body:
        return "it has no statement"
    return Body(tuple(_lines(body, text)), tuple(imports))


def _lines(body: Sequence[ast.stmt], text: str) -> list[str]:
    """The text of statements at depth 0: as it was written, where moving it changes nothing."""
    lines = text.split("\n")
    own = lines[body[0].lineno - 1 : body[-1].end_lineno]
    if own and not own[0][: body[0].col_offset].strip():
        found = "\n".join(line.rstrip() for line in textwrap.dedent("\n".join(own)).split("\n"))
        moved = parsed(f"def _():\n{textwrap.indent(found, '    ')}")
        if moved is not None and isinstance(moved.body[0], ast.FunctionDef) and _same(moved.body[0].body, body):
            return found.split("\n")
    return [line for node in body for line in ast.unparse(node).split("\n")]


def _same(one: Sequence[ast.stmt], other: Sequence[ast.stmt]) -> bool:
    return [ast.dump(node) for node in one] == [ast.dump(node) for node in other]


def spliced(raw: bytes, name: str, body: Body) -> bytes:
    """The module with this body in the function's place; its docstring stays."""
    text = raw.decode()
    tree = parsed(text)
    node = _functions(tree)[name] if tree else None
    assert node is not None
    lines = text.split("\n")
    first = node.body[0]
    keep = (first.end_lineno or 0) if ast.get_docstring(node, clean=False) is not None else first.lineno - 1
    lines[keep : node.end_lineno] = [f"    {line}" if line else "" for line in body.lines]
    text = "\n".join(lines)
    for line in body.imports:
        text = with_import(text, line)
    return text.encode()


def stubbed(raw: bytes, names: Collection[str]) -> bytes:
    """The module with these functions' bodies taken out again."""
    for name in names:
        raw = spliced(raw, name, Body((STUB,)))
    return raw


# --- the guard --------------------------------------------------------------------------------------------------------


def guard(body: Sequence[ast.stmt], limits: Limits) -> Iterator[tuple[int, str]]:
    """What a body may not hold: (line, why)."""
    for part in (part for one in body for part in ast.walk(one)):
        line = getattr(part, "lineno", 0)
        if isinstance(part, ast.Import | ast.ImportFrom):
            yield from ((line, why) for why in import_faults(part, limits))
        elif isinstance(part, ast.Name) and (part.id in FORBIDDEN or part.id.startswith("__")):
            yield line, f"it names {part.id}"
        elif isinstance(part, ast.Attribute) and (part.attr.startswith("_") or part.attr in REACH):
            yield line, f"it reaches for .{part.attr}"
        elif isinstance(part, ast.ClassDef | ast.AsyncFunctionDef | ast.Await | ast.Global):
            yield line, "it defines a class, is async or uses global names"
        elif isinstance(part, ast.FunctionDef | ast.arg) and _own_name(part).startswith("__"):
            yield line, f"it defines {_own_name(part)}"
        elif isinstance(part, ast.Call) and _name(part.func) == "type" and len(part.args) != 1:
            yield line, "it makes a class"


def _own_name(node: ast.FunctionDef | ast.arg) -> str:
    return node.name if isinstance(node, ast.FunctionDef) else node.arg


def unknown_names(text: str, names: Collection[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of what these functions of a module read and nobody gives: no argument, no name of the module or of
    Python. Nothing where the module takes over names that are not written in it."""
    tree = parsed(text)
    try:
        table = symtable.symtable(text, "module", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    nodes = list(ast.walk(tree)) if tree is not None else []
    if tree is None or any(isinstance(e, ast.ImportFrom) and e.names[0].name == "*" for e in nodes):
        return
    known = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
    known |= {*dir(builtins), *(name for e in nodes if isinstance(e, ast.Global) for name in e.names)}
    for node in tree.body:
        if isinstance(node, Function) and node.name in names:
            tables = [each for each in table.get_children() if each.get_name() == node.name]
            unknown = {name for each in tables for name in _read(each) if name not in known} - {"__file__", "__path__"}
            annotations = {id(part) for each in ast.walk(node) for part in _annotation(each)}
            lines = {e.id: e.lineno for e in ast.walk(node) if isinstance(e, ast.Name) and id(e) not in annotations}
            yield from ((lines[name], name) for name in sorted(unknown & lines.keys()))


def _annotation(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in an annotation, which is not always read."""
    for said in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        if isinstance(said, ast.AST):
            yield from ast.walk(said)


def _read(table: symtable.SymbolTable) -> Iterator[str]:
    """The names of the module that a function reads, and those inside of it."""
    for one in table.get_symbols():
        if one.is_referenced() and one.is_global():
            yield one.get_name()
    for inner in table.get_children():
        yield from _read(inner)


def import_faults(node: ast.Import | ast.ImportFrom, limits: Limits) -> Iterator[str]:
    """Why an import is not allowed."""
    modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    if isinstance(node, ast.ImportFrom) and node.level:
        yield "it imports from its own package"
        return
    for module in modules:
        if not any(module == one or module.startswith(f"{one}.") for one in limits.imports):
            yield f"it imports {module}; allowed: {', '.join(limits.imports)}"
    if isinstance(node, ast.ImportFrom):
        bad = [alias.name for alias in node.names if alias.name == "*" or alias.name in REACH or alias.name[0] == "_"]
        yield from (f"it imports {name} from {node.module}" for name in bad)


def problems(
    before: bytes | None, after: bytes, wanted: Sequence[Signature], imports: Sequence[str], limits: Limits
) -> Iterator[tuple[int, str]]:
    """What is wrong with a change of a module: (line, why). `imports`: lines that the spec itself asks for."""
    was, now = states(before, wanted), states(after, wanted)
    tree = parsed(after)
    if isinstance(was, str) or isinstance(now, str) or tree is None:
        yield 0, f"the module {was if isinstance(was, str) else now}"
        return
    asked = {one.name for one in wanted if was[one.name] in ("missing", "stub")}
    there = _functions(tree)
    for one in wanted:
        if one.name not in asked:
            continue
        if now[one.name]:
            words = {"missing": "is not there", "stub": "has no body yet"}
            yield 0, f"{one.name} {words.get(now[one.name], now[one.name])}"
            continue
        node = there[one.name]
        if sum(isinstance(each, Function) and each.name == one.name for each in tree.body) > 1:
            yield node.lineno, f"{one.name} is defined twice"
        yield from guard(node.body, limits)
        if (node.end_lineno or 0) - node.lineno > limits.max_lines:
            yield node.lineno, f"{one.name} is longer than {limits.max_lines} lines"
    for line, name in unknown_names(after.decode(), asked):
        yield line, f"it names {name}, which is not there"
    yield from _beyond(before, after, asked, imports, limits)


def _beyond(
    before: bytes | None, after: bytes, asked: Collection[str], imports: Sequence[str], limits: Limits
) -> Iterator[tuple[int, str]]:
    """Lines that changed outside of the functions that are asked for."""
    old, new = before or b"", after
    then, now = parsed(old), parsed(new)
    assert then is not None and now is not None
    kept = list(_outside(old, then, asked, frozenset()))
    had = {ast.unparse(node) for node in then.body if isinstance(node, ast.Import | ast.ImportFrom)}
    fresh = set()
    for node in now.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and ast.unparse(node) not in had:
            fresh.add(node.lineno)
            if ast.unparse(node) not in imports:
                yield from ((node.lineno, why) for why in import_faults(node, limits))
    left = list(_outside(new, now, asked, fresh))
    if before is None and now.body and ast.get_docstring(now, clean=False) is not None:
        end = now.body[0].end_lineno or 0
        left = [(line, text) for line, text in left if line > end]
    for (line, text), (_, was) in zip(left, kept, strict=False):
        if text != was:
            yield line, "changed beyond the bodies that the spec asks for"
            return
    if len(left) != len(kept):
        yield (left[len(kept)][0] if len(left) > len(kept) else 0), "changed beyond the bodies that the spec asks for"


def _outside(
    raw: bytes, tree: ast.Module, asked: Collection[str], imports: Collection[int]
) -> Iterator[tuple[int, str]]:
    """The lines, without empty ones, that belong to no function that is asked for and to no new import."""
    inside: set[int] = set()
    for node in tree.body:
        if (isinstance(node, Function) and node.name in asked) or node.lineno in imports:
            start = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            inside.update(range(start, (node.end_lineno or node.lineno) + 1))
    for number, text in enumerate(raw.decode("utf-8", "replace").split("\n"), 1):
        if number not in inside and text.strip():
            yield number, text.rstrip()
