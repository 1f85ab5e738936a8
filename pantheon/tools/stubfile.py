"""How a test stub looks: tests from what is known of a module, and a stub read back into the tests that were chosen.

Owns the text of both languages. A stub is exactly what `render` gives for a module and a list of cases; `read` finds
the cases of such a file, and nothing in any other. Each assertion holds by construction and can fail. Pure.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pantheon.tools.interfaces import ERRORS, Public, listed, words_of
from pantheon.tools.scripts import DEFAULT, is_free

MAX_NAMES = 20  # that the first test looks for
MAX_TITLE = 80
WIDTH = 88
_TEST = re.compile(r"def (test_\w+)\(\)(?: -> None)?:")
_DOC = re.compile(r'    """([^"\\]{1,200})"""')
_TITLE = re.compile(r"test\((?:'([^'\\]{1,200})'|\"([^\"\\]{1,200})\"), (?:t|\(t\)) => \{")


PENDING = "tests of single symbols are still to be chosen"  # a comment at the end of a stub that is not done


class Case(NamedTuple):
    """One chosen test. `title` "": not chosen yet; `more`: lines of assertions besides what is known."""

    symbol: str
    title: str = ""
    more: str = ""


class Stub(NamedTuple):
    """The tests of a stub behind its first, and whether some are still to be chosen."""

    cases: tuple[Case, ...] = ()
    pending: bool = False


@dataclass(frozen=True)
class Look:
    """What a stub takes over from its surroundings: `annotated` tests in Python; in scripts indentation, quotes and the
    like. `strict`: TypeScript that a compiler may check."""

    annotated: bool = False
    indent: str = "\t"
    quote: str = "'"
    semicolon: str = ";"
    spaced: bool = False
    arrow: str = "t"


@dataclass(frozen=True)
class Module:
    """The module under test. `source`: its dotted name, or in scripts the specifier that leads from the test to it;
    `called`: its file's name without an ending; `commonjs`: it has one export, which holds the others."""

    public: tuple[Public, ...]
    source: str
    called: str
    language: str = "python"
    commonjs: bool = False

    def find(self, name: str) -> Public | None:
        return next((each for each in self.public if each.name == name), None)

    @property
    def telling(self) -> tuple[Public, ...]:
        """The symbols of which a test can say more than that they are there."""
        return tuple(each for each in self.public if each.telling)


def render(module: Module, stub: Stub, look: Look) -> bytes:
    """The file: a test that the module has its public names, then one per case."""
    python = module.language == "python"
    text = _python(module, stub.cases, look) if python else _script(module, stub.cases, look)
    return f"{text}\n{_pending(module)}\n".encode() if stub.pending else text.encode()


def _pending(module: Module) -> str:
    return f"# {PENDING}" if module.language == "python" else f"// {PENDING}"


def read(raw: bytes, module: Module, look: Look) -> Stub | None:
    """The stub that a file is for this module; None for any other file."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    if len(text) > 65_536:
        return None
    last = f"\n{_pending(module)}\n"
    pending = text.endswith(last)
    bare = text.removesuffix(last)
    cases = tuple(_python_cases(bare, module) if module.language == "python" else _script_cases(bare, module, look))
    stub = Stub(cases, pending)
    twice = len({case.symbol for case in cases}) < len(cases)
    return stub if not twice and render(module, stub, look) == raw else None


def titles(symbol: Public, module: Module) -> tuple[str, ...]:
    """Sentences that may say what the test of a symbol is for: its own first sentence, and what is known of it."""
    found = [symbol.doc, _summary(symbol, shown_name(symbol, module))]
    plain = (each.strip().rstrip(".") for each in found if each)
    usable = [each for each in plain if is_title(each) and each not in placeholders(module)]
    return tuple(dict.fromkeys(usable))


def is_title(text: str) -> bool:
    """Whether a text can stand in a docstring and in a test's title."""
    odd = set(text) & set('"\\#`*/{}<>|$')
    return bool(text) and len(text) <= MAX_TITLE and text.isprintable() and not odd and text == " ".join(text.split())


def placeholders(module: Module) -> frozenset[str]:
    """The titles that tests have before one is chosen."""
    return frozenset(shown_name(each, module) for each in module.public)


def shown_name(symbol: Public, module: Module) -> str:
    return module.called if symbol.name == DEFAULT and module.language != "python" else symbol.name


def _summary(symbol: Public, shown: str) -> str:
    """What the assertions say of a symbol, in a sentence."""
    if symbol.parent:
        return f"{shown} is a kind of {symbol.parent}"
    if symbol.members:
        return f"{shown} has {listed(symbol.members[:3])}"
    if symbol.fields:
        return f"{shown} has the fields {listed(symbol.fields[:4])}"
    if symbol.kind == "class" and symbol.methods:
        return f"{shown} can {listed([words_of(name) for name in symbol.methods[:3]])}"
    if symbol.parameters is not None or symbol.arity is not None:
        return f"{shown} takes {_taken(symbol)}"
    return f"{shown} can be awaited" if symbol.coroutine else ""


def _taken(symbol: Public) -> str:
    """A function's parameters in words: by name where they are few and have telling ones."""
    names = symbol.parameters or ()
    count = len(names) if symbol.parameters is not None else symbol.arity or 0
    if count == 0:
        return "no arguments" if symbol.parameters is not None else "no required arguments"
    if names and all(re.search(r"[^\W\d_]", name) for name in names):
        few = names if count <= 4 else names[:2]
        return listed(few) if count <= 4 else f"{count} arguments, {listed(few)} first"
    return f"{count} argument{'' if count == 1 else 's'}"


# --- Python ----------------------------------------------------------------------------------------------------------


def variable(module: Module) -> str:
    """The name by which a Python stub knows its module: its own, or `module` where that is taken."""
    name = module.source.rpartition(".")[2]
    taken = {"inspect", "module"} | {f"test_{each.name}" for each in module.public}
    return "module" if name in taken or name.startswith("test_") else name


def _imported(module: Module) -> str:
    package, _, name = module.source.rpartition(".")
    known = variable(module)
    alias = f" as {known}" if known != name else ""
    return f"from {package} import {name}{alias}" if package else f"import {name}{alias}"


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _wrapped(front: str, items: Sequence[str], back: str, indent: str, width: int = WIDTH) -> list[str]:
    """A list on one line where it fits, else an item per line."""
    line = f"{front}{', '.join(items)}{back}"
    if len(line) <= width or not items:
        return [line]
    lead = re.match(r"\s*", front)[0]  # type: ignore[index]  # it matches always
    return [front.rstrip(), *(f"{lead}{indent}{item}," for item in items), f"{lead}{back.lstrip()}"]


def _python(module: Module, cases: Sequence[Case], look: Look) -> str:
    bodies = [_python_test(module, case, look) for case in cases]
    back = " -> None:" if look.annotated else ":"
    names = [_quoted(each.name) for each in module.public[:MAX_NAMES]]
    known = variable(module)
    first = [f"def test_{_named(module)}(){back}", *_wrapped("    assert {", names, f"}} <= set(dir({known}))", "    ")]
    uses_inspect = any("inspect." in line for body in bodies for line in body)
    head = [
        f'"""Tests of {module.source}."""',
        "",
        *(["import inspect", ""] if uses_inspect else []),
        _imported(module),
    ]
    return "\n\n\n".join("\n".join(part) for part in (head, first, *bodies)) + "\n"


def _named(module: Module) -> str:
    """The name of the first test, which no symbol's test has."""
    taken = {_function(each, module) for each in module.public}
    return next(name for name in ("public_names", "its_public_names", "all_of_its_public_names") if name not in taken)


def function_of(name: str, module: Module) -> str:
    """What the test of a symbol is called in Python."""
    symbol = module.find(name)
    return f"test_{_function(symbol, module)}" if symbol is not None else ""


def _function(symbol: Public, module: Module) -> str:
    """The name of a symbol's test, behind `test_`: snake case unless two symbols would share it."""
    snake = words_of(symbol.name).replace(" ", "_").lower()
    alike = [each for each in module.public if words_of(each.name).replace(" ", "_").lower() == snake]
    return snake if len(alike) == 1 and snake.isidentifier() else symbol.name


def _python_test(module: Module, case: Case, look: Look) -> list[str]:
    symbol = module.find(case.symbol)
    assert symbol is not None
    lines = [f"def test_{_function(symbol, module)}(){' -> None:' if look.annotated else ':'}"]
    if case.title:
        lines.append(f'    """{case.title}."""')
    return [*lines, *_python_facts(symbol, module), *(f"    {line}" for line in case.more.splitlines())]


def _python_facts(symbol: Public, module: Module) -> Iterator[str]:
    known = variable(module)
    name = f"{known}.{symbol.name}"
    if symbol.coroutine:
        yield f"    assert inspect.iscoroutinefunction({name})"
    if symbol.parent:
        own = module.find(symbol.parent)
        parent = symbol.parent if own is None and symbol.parent in ERRORS else f"{known}.{symbol.parent}"
        yield f"    assert issubclass({name}, {parent})"
    if symbol.members:
        yield from _wrapped(
            "    assert {", [_quoted(e) for e in symbol.members], f"}} <= set({name}.__members__)", "    "
        )
    if symbol.fields:
        comma = "," if len(symbol.fields) == 1 else ""
        yield from _wrapped(f"    assert {name}._fields == (", [_quoted(e) for e in symbol.fields], f"{comma})", "    ")
    if symbol.parameters is not None:
        names = [_quoted(each) for each in symbol.parameters]
        yield from _wrapped(f"    assert list(inspect.signature({name}).parameters) == [", names, "]", "    ")
    if symbol.methods:
        yield from _wrapped("    assert {", [_quoted(e) for e in symbol.methods], f"}} <= set(dir({name}))", "    ")


def _python_cases(text: str, module: Module) -> Iterator[Case]:
    """The cases of a Python stub, read from its blocks; whether they are all of it is for `read` to say."""
    by_function = {_function(each, module): each for each in module.public}
    for block in text.split("\n\n\n")[2:]:
        lines = block.rstrip("\n").split("\n")
        head = _TEST.fullmatch(lines[0])
        symbol = by_function.get(head[1].removeprefix("test_")) if head else None
        if symbol is None:
            continue
        doc = _DOC.fullmatch(lines[1]) if len(lines) > 1 else None
        body = lines[2:] if doc else lines[1:]
        more = body[len(list(_python_facts(symbol, module))) :]
        yield Case(symbol.name, doc[1].removesuffix(".") if doc else "", "\n".join(line.strip() for line in more))


def example_lines(symbol: Public, module: Module) -> tuple[str, ...]:
    """The examples of a symbol's own docstring as assertions."""
    known = variable(module)
    lines = []
    for call, want in symbol.examples:
        how = "is" if want in ("True", "False", "None") else "=="
        lines.append(f"assert {known}.{call} {how} {want}")
    usable = [line for line in lines if len(line) + 4 <= WIDTH and not assertion_fault(line, symbol, module)]
    return tuple(dict.fromkeys(usable))


def assertion_fault(text: str, symbol: Public, module: Module) -> str:
    """Why a written line cannot be the body of a symbol's test; "" when it can: one assertion about the symbol that
    runs nothing else."""
    if "\n" in text or not text.isprintable() or len(text) > 200:
        return "give one line of at most 200 characters"
    return _python_fault(text, symbol, module) if module.language == "python" else _script_fault(text, symbol, module)


_CALLS = frozenset(
    {"len", "list", "set", "dict", "tuple", "sorted", "repr", "str", "isinstance", "issubclass", "callable"}
)
_CALLS |= {"bool", "int", "float", "bytes", "abs", "min", "max", "sum", "round", "frozenset", "hasattr", "type"}


def _python_fault(text: str, symbol: Public, module: Module) -> str:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "it is not Python"
    if len(body) != 1 or not isinstance(body[0], ast.Assert) or body[0].msg is not None:
        return "give one assert statement"
    known, touched = variable(module), False
    for node in ast.walk(body[0]):
        if isinstance(node, ast.Lambda | ast.Await | ast.NamedExpr | ast.ListComp | ast.GeneratorExp):
            return "give a plain comparison"
        if isinstance(node, ast.Attribute):
            if node.attr.startswith("_"):
                return f"{node.attr} is private"
            touched = touched or (
                node.attr == symbol.name and isinstance(node.value, ast.Name) and node.value.id == known
            )
        if isinstance(node, ast.Name) and node.id not in _CALLS | ERRORS | {known}:
            return f"{node.id} is not known there"
    test = body[0].test
    if not touched or not isinstance(test, ast.Compare | ast.Call | ast.UnaryOp):
        return f"it says nothing of {known}.{symbol.name}"
    if isinstance(test, ast.Compare) and len({ast.dump(each) for each in (test.left, *test.comparators)}) == 1:
        return "it holds whatever the code does"
    return ""


# --- JavaScript and TypeScript ---------------------------------------------------------------------------------------


def local_name(symbol: Public, module: Module) -> str:
    """How a script stub calls an export: by its own name, or through the one export of a CommonJS module."""
    if module.commonjs:
        whole = _camel(module.called)
        return whole if symbol.name == DEFAULT else f"{whole}.{symbol.name}"
    return _camel(module.called) if symbol.name == DEFAULT else symbol.name


def _camel(name: str) -> str:
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]
    found = "".join([parts[0], *(part[0].upper() + part[1:] for part in parts[1:])]) if parts else "module"
    return (
        found if is_free(found) and not found[0].isdigit() else f"{found}Module" if found.isidentifier() else "module"
    )


def _importing(module: Module, look: Look) -> list[str]:
    names = [each.name for each in module.public[:MAX_NAMES]]
    inside = [] if module.commonjs else [name for name in names if name != DEFAULT]
    default = [_camel(module.called)] if module.commonjs or DEFAULT in names else []
    space = " " if look.spaced else ""
    front = f"import {', '.join([*default, '{' + space]) if inside else default[0]}"
    back = f"{space}}}" if inside else ""
    tail = f"{back} from {look.quote}{module.source}{look.quote}{look.semicolon}"
    return _wrapped(front, inside, tail, look.indent, 100) if inside else [f"{front}{tail}"]


def _script(module: Module, cases: Sequence[Case], look: Look) -> str:
    head = [f"import test from {look.quote}ava{look.quote}{look.semicolon}", *_importing(module, look)]
    first = [_kind(symbol, module, look) for symbol in module.public[:MAX_NAMES]]
    called = f"{module.called} " if is_title(module.called) else ""
    bodies = [_block(_quoted_title(f"{called}has its public names", look), first, look)]
    for case in cases:
        symbol = module.find(case.symbol)
        assert symbol is not None
        facts = [*_script_facts(symbol, module, look), *case.more.splitlines()]
        title = case.title or shown_name(symbol, module)
        bodies.append(_block(_quoted_title(title, look), facts, look))
    return "\n\n".join("\n".join(part) for part in (head, *bodies)) + "\n"


def _quoted_title(title: str, look: Look) -> str:
    quote = look.quote if look.quote not in title else "'" if "'" not in title else '"'
    return f"{quote}{title}{quote}"


def _block(title: str, lines: Sequence[str], look: Look) -> list[str]:
    return [f"test({title}, {look.arrow} => {{", *(f"{look.indent}{line}" for line in lines), f"}}){look.semicolon}"]


def _kind(symbol: Public, module: Module, look: Look) -> str:
    name = local_name(symbol, module)
    if symbol.kind in ("function", "class"):
        return f"t.is(typeof {name}, {look.quote}function{look.quote}){look.semicolon}"
    return f"t.not({name}, undefined){look.semicolon}"


def _script_facts(symbol: Public, module: Module, look: Look) -> Iterator[str]:
    name, end = local_name(symbol, module), look.semicolon
    if symbol.parent:
        yield f"t.true({name}.prototype instanceof {symbol.parent}){end}"
    if symbol.arity is not None:
        yield f"t.is({name}.length, {symbol.arity}){end}"
    for member in symbol.members:
        yield f"t.true({look.quote}{member}{look.quote} in {name}){end}"
    for method in symbol.methods:
        yield f"t.is(typeof {name}.prototype.{method}, {look.quote}function{look.quote}){end}"


def _script_cases(text: str, module: Module, look: Look) -> Iterator[Case]:
    for block in text.rstrip("\n").split("\n\n")[2:]:
        lines = block.split("\n")
        head = _TITLE.fullmatch(lines[0])
        body = [line.removeprefix(look.indent) for line in lines[1:-1]]
        if head is None or not body:
            continue
        for symbol in module.telling:
            facts = list(_script_facts(symbol, module, look))
            if body[: len(facts)] == facts:
                title = head[1] or head[2]
                chosen = "" if title == shown_name(symbol, module) else title
                yield Case(symbol.name, chosen, "\n".join(body[len(facts) :]))
                break


_ASSERTS = re.compile(
    r"t\.(?:is|not|deepEqual|notDeepEqual|like|true|false|truthy|falsy|regex|throws|notThrows)\(.+\);?"
)
_BARRED = re.compile(
    r"\b(?:import|require|eval|process|globalThis|Function|await|delete|new\s+Function)\b|=(?!=|>)|\+\+|--|[;`]"
)


def _script_fault(text: str, symbol: Public, module: Module) -> str:
    name = local_name(symbol, module)
    if not _ASSERTS.fullmatch(text):
        return "give one assertion of AVA: t.is(...), t.deepEqual(...), t.true(...)"
    bare = re.sub(r"===|!==|==|!=|<=|>=", " ", re.sub(r"'[^'\\]*'|\"[^\"\\]*\"", "''", text.rstrip(";")))
    if _BARRED.search(bare):
        return "give a plain assertion"
    if not re.search(rf"(?<![\w.$]){re.escape(name)}(?![\w$])", bare):
        return f"it says nothing of {name}"
    inside = bare[bare.index("(") + 1 : -1]
    left, _, right = inside.partition(",")
    return "it holds whatever the code does" if left.strip() == right.strip() else ""
