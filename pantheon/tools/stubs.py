"""The kind of rules that wants a test for each module: pytest for Python, AVA for JavaScript and TypeScript.

    kind = "stubs"
    files = ["**/*.py", "**/*.js"]     # the modules
    skip = ["setup.py", "docs/"]       # but not these
    private = false                    # also modules whose name starts with _
    python = "detect"                  # where tests are; or a pattern such as "tests/{inner}/test_{name}.py"
    javascript = "detect"              # or "{folder}/{name}.test{ext}"
    tests = 3                          # of single symbols, besides the one of the public names
    free_text = false                  # whether a model may write one assertion itself, which must pass

A module without a test gets one beside it in the project's own way: the first test is computed, of which symbols there
are more and what they are called a model chooses. The module itself stays as it is.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from pydantic import Field

from pantheon import testpaths, tomlfile
from pantheon.errors import ConfigError, ToolError
from pantheon.names import path_spec
from pantheon.records import Finding, Glob, Offer, Record, Repair
from pantheon.tools import testmap
from pantheon.tools.interfaces import Public, read_python
from pantheon.tools.scripts import DEFAULT, is_free, read_script
from pantheon.tools.stubfile import (
    Case,
    Look,
    Module,
    Stub,
    assertion_fault,
    example_lines,
    function_of,
    local_name,
    read,
    render,
    shown_name,
    titles,
)
from pantheon.tools.tool import Change, Kind, Nothing, Problem, Tool, Tree
from pantheon.tools.workspace import Workspace

OFFERED = 8  # symbols that a model chooses among
EXAMPLES = 3  # of one docstring, that are tested
SHOWN = 1_500  # characters of a module that it reads
MAX_LINE = 200
CHECK = "stub"  # the named check that runs a stub
_GENERATED = re.compile(rb"(?i)\bgenerated (?:by|from|code|file)|\bdo not edit\b|@generated")
_MANIFEST = "package.json"


class StubRules(Record):
    """A rules file of the kind `stubs`."""

    kind: Literal["stubs"]
    files: tuple[Glob, ...] = ("**",)
    skip: tuple[Glob, ...] = ()
    private: bool = False
    python: str = "detect"
    javascript: str = "detect"
    tests: int = Field(default=3, ge=0, le=20)
    free_text: bool = False


def parse(raw: bytes, path: str) -> StubRules:
    """Read a rules file of this kind. Raises ConfigError with the line of what is wrong."""
    what = "cannot use the rules"
    text, values = tomlfile.read(raw, path, what)
    rules = tomlfile.validated(StubRules, values, text, path, what=what)
    for key, place in (("python", rules.python), ("javascript", rules.javascript)):
        why = _place_fault(key, place)
        if why:
            raise ConfigError(what, path, f"{key}: {why}", tomlfile.line_of(text, (key,)))
    return rules


def _place_fault(key: str, place: str) -> str:
    """Why a pattern cannot say where tests are."""
    if place == "detect":
        return ""
    if set(re.findall(r"\{(.*?)\}", place)) - testmap.FIELDS or re.search(r"[{}]", re.sub(r"\{\w+\}", "", place)):
        return f"known in braces: {', '.join(sorted(testmap.FIELDS))}"
    example = place.format_map(dict.fromkeys(testmap.FIELDS, "x"))
    if "{name}" not in place or example.startswith("/") or ".." in example.split("/"):
        return "give a path inside the repository that holds {name}"
    ending = ".py" if key == "python" else "{ext}"
    if not place.endswith(ending):
        return f"it must end in {ending}"
    return "" if testpaths.is_plain_test(example + (".js" if key != "python" else "")) else "no test run collects it"


# --- modules ---------------------------------------------------------------------------------------------------------


class Subject(NamedTuple):
    """A module with the place of its test and how that looks."""

    module: Module
    test: str
    look: Look


def _about(path: str, rules: StubRules) -> bool:
    name = path.rpartition("/")[2]
    if name == _MANIFEST:
        return path_spec(rules.files).match_file(path) and not path_spec(rules.skip).match_file(path)
    if testmap.suffix(path) not in (*testmap.PYTHON, *testmap.SCRIPT) or testpaths.is_test(path):
        return False
    hidden = name.startswith(".") or (name.startswith("_") and not rules.private)
    return not hidden and path_spec(rules.files).match_file(path) and not path_spec(rules.skip).match_file(path)


def subject(path: str, raw: bytes, rules: StubRules, tree: Tree) -> Subject | None:
    """What a stub for a module is made from; None for one that gets none."""
    if not _about(path, rules) or _GENERATED.search(b"\n".join(raw.split(b"\n", 6)[:5])):
        return None
    found = (
        _python(path, raw, rules, tree) if testmap.suffix(path) in testmap.PYTHON else _script(path, raw, rules, tree)
    )
    offers = found is not None and any(each.kind != "value" or each.telling for each in found.module.public)
    return found if offers else None


def _python(path: str, raw: bytes, rules: StubRules, tree: Tree) -> Subject | None:
    home = testmap.python_home(path, tree.paths)
    test = testmap.test_path(path, tree.paths, rules.python)
    if home is None or not test:
        return None
    module = Module(read_python(raw), home.dotted, testmap.stem(path))
    return Subject(module, test, Look(annotated=b") -> " in raw))


def _script(path: str, raw: bytes, rules: StubRules, tree: Tree) -> Subject | None:
    root = testmap.package_root(path, tree.paths)
    system, typed = _system(path, root, tree), testmap.suffix(path) in testmap.TYPED
    if not system or raw.startswith(b"#!") or not _runs(root, tree, typed):
        return None
    script = read_script(path, raw)
    if script.esm == script.commonjs or script.commonjs != (system == "commonjs"):
        return None
    strict = testmap.package_json(root, tree).get("type") == "module"
    test = testmap.test_path(path, tree.paths, rules.javascript, (".ts" if typed else ".js") if strict else ".mjs")
    if not test:
        return None
    source = posixpath.relpath(path, posixpath.dirname(test) or ".")
    source = source if source.startswith(".") else f"./{source}"
    if typed and not re.search(rb"""['"]\.[^'"\n]*\.[mc]?ts['"]""", raw):  # a compiler's habit: the name of its output
        source = re.sub(r"\.([mc]?)ts$", r".\1js", source)
    commonjs = system == "commonjs"
    public = [each for each in script.public if each.name == DEFAULT or commonjs or is_free(each.name)]
    module = Module(tuple(public), source, testmap.stem(path), "script", commonjs)
    default = module.find(DEFAULT)
    if default is not None and module.find(local_name(default, module)) is not None and not commonjs:
        module = replace(module, public=tuple(each for each in public if each is not default))
    return Subject(module, test, _look(raw))


def _system(path: str, root: str, tree: Tree) -> str:
    """How node reads a script: "esm", "commonjs", "" for what it cannot run as it is."""
    end = testmap.suffix(path)
    if end in (".mjs", ".mts") or path.endswith((".d.ts", ".d.mts", ".d.cts")):
        return "" if path.endswith((".d.ts", ".d.mts", ".d.cts")) else "esm"
    if end == ".cjs":
        return "commonjs"
    if testmap.package_json(root, tree).get("type") == "module":
        return "esm" if end in (".js", ".ts") else ""
    return "commonjs" if end == ".js" else ""


def _runs(root: str, tree: Tree, typed: bool) -> bool:
    """Whether the package's tests are AVA's, and can be in TypeScript."""
    for place in dict.fromkeys((root, "")):
        said = testmap.package_json(place, tree)
        settings = said.get("ava")
        needed = [said.get(name) for name in ("dependencies", "devDependencies")]
        if settings is None and not any("ava" in each for each in needed if isinstance(each, dict)):
            continue
        if not typed:
            return True
        text = repr(settings).encode()
        for name in ("ava.config.js", "ava.config.mjs", "ava.config.cjs"):
            text += tree.read(f"{place}/{name}".lstrip("/")) or b""
        return re.search(rb"\bts\b|typescript", text) is not None
    return False


def _look(raw: bytes) -> Look:
    """How a script is written, as its test shall be."""
    text = raw[: 64 * 1024].decode("utf-8", "replace")
    indent = re.search(r"^(\t| {2,8})\S", text, re.MULTILINE)
    ends = len(re.findall(r";[ \t]*$", text, re.MULTILINE))
    bare = len(re.findall(r"^\s*(?:import|const|let|return|throw)\b.*[\w)\]'\"`]$", text, re.MULTILINE))
    return Look(
        indent=indent[1] if indent else "\t",
        quote='"' if text.count('"') > text.count("'") else "'",
        semicolon=";" if ends >= bare else "",
        spaced=len(re.findall(r"\{ \w", text)) > len(re.findall(r"\{\w", text)),
        arrow="(t)" if len(re.findall(r"\(\w+\) =>", text)) > len(re.findall(r"(?<![\w)]) ?\b\w+ =>", text)) else "t",
    )


# --- findings --------------------------------------------------------------------------------------------------------


def check(path: str, raw: bytes, rules: StubRules, tree: Tree) -> tuple[Finding, ...]:
    """Whether a module lacks a test, and whether its stub is still to be filled."""
    if path.rpartition("/")[2] == _MANIFEST:
        return _manifest(path, rules, tree)
    found = subject(path, raw, rules, tree)
    if found is None:
        return ()
    choose = Finding(rule="unchosen", message="its test says little", field="tests", repair=Repair.CHOOSE)
    there = tree.read(found.test)
    if there is not None:
        stub = read(there, found.module, found.look)
        return (choose,) if stub is not None and stub.pending else ()
    if testmap.is_tested(path, tree):
        return ()
    missing = Finding(rule="untested", message="no test knows it", field="test", repair=Repair.CERTAIN)
    return (missing, choose) if _first(found, rules).pending else (missing,)


def _manifest(path: str, rules: StubRules, tree: Tree) -> tuple[Finding, ...]:
    """A package with modules whose tests have no runner: said once, not for each module."""
    root = path.rpartition("/")[0]
    said = testmap.package_json(root, tree)
    scripts = [p for p in sorted(tree.paths) if testmap.suffix(p) in testmap.SCRIPT and _about(p, rules)]
    own = [p for p in scripts if testmap.package_root(p, tree.paths) == root and not p.endswith(".d.ts")]
    if not own or said.get("type") != "module":
        return ()
    typed = all(testmap.suffix(p) in testmap.TYPED for p in own)
    if _runs(root, tree, typed):
        return ()
    if typed and _runs(root, tree, False):
        why = "AVA is not told of TypeScript: npm install --save-dev tsx, and `ava` in it: extensions and nodeArguments"
    else:
        why = "its tests have no AVA: npm install --save-dev ava"
    return (Finding(rule="runner", message=why),)


def _turned(values: Sequence[str], *key: str) -> tuple[str, ...]:
    """The values in an order of this item's own: a small model favours the first."""
    return tuple(sorted(values, key=lambda v: hashlib.sha256("\0".join((*key, v)).encode()).digest()))


def _wanted(found: Subject, rules: StubRules) -> int:
    return min(rules.tests, len(found.module.telling))


def _first(found: Subject, rules: StubRules) -> Stub:
    """The stub before anything was chosen: with the tests of all symbols where there are few enough."""
    few = found.module.telling if len(found.module.telling) <= rules.tests else ()
    return _settled(found, rules, Stub(tuple(Case(each.name) for each in few)))


def _settled(found: Subject, rules: StubRules, stub: Stub, asked: bool = False) -> Stub:
    """The stub with each title that leaves nothing to choose; not pending when nothing is left to do."""
    cases = list(stub.cases)
    for n, case in enumerate(cases):
        free = _titles(found, cases, case.symbol)
        if not case.title and len(free) == 1:
            cases[n] = case._replace(title=free[0])
    untitled = any(not case.title and _titles(found, cases, case.symbol) for case in cases)
    unasked = rules.free_text and not asked and bool(found.module.telling)
    return Stub(tuple(cases), untitled or len(cases) < _wanted(found, rules) or unasked)


def _titles(found: Subject, cases: Sequence[Case], name: str) -> tuple[str, ...]:
    """The titles that the test of a symbol may get: no two tests have the same."""
    symbol = found.module.find(name)
    taken = {case.title for case in cases if case.symbol != name}
    return tuple(each for each in titles(symbol, found.module) if each not in taken) if symbol is not None else ()


def complete(found: Subject, rules: StubRules) -> bytes:
    """A stub that leaves nothing to choose: of the symbols that say most of themselves, each by its own first sentence.
    It holds whatever a model would have chosen."""
    told = sorted(found.module.telling, key=lambda each: (not each.examples, not each.doc))[: _wanted(found, rules)]
    cases = [Case(each.name) for each in found.module.public if each in told]
    for n, case in enumerate(cases):
        cases[n] = case._replace(title=next(iter(_titles(found, cases, case.symbol)), ""))
    return render(found.module, Stub(tuple(cases)), found.look)


def companions(path: str, rules: StubRules, tree: Tree) -> tuple[str, ...]:
    found = subject(path, tree.read(path) or b"", rules, tree)
    return (found.test,) if found is not None else ()


# --- tools -----------------------------------------------------------------------------------------------------------


class StubWritten(Record):
    path: str
    tests: tuple[str, ...]
    changed: bool


class ModuleRead(Record):
    name: str
    summary: str
    symbols: tuple[str, ...]
    text: str


class SymbolArgs(Record):
    symbol: str = Field(min_length=1, max_length=100)


class TitleArgs(SymbolArgs):
    title: str = Field(min_length=1, max_length=200)


class LineArgs(SymbolArgs):
    line: str = Field(min_length=1, max_length=MAX_LINE)


class LineTried(Record):
    kept: bool
    why: str = ""


class ExamplesTried(Record):
    kept: tuple[str, ...] = ()
    why: str = ""


def _tree(ws: Workspace) -> Tree:
    return Tree(frozenset(ws.facts.paths), ws.base)


def _subject(ws: Workspace) -> tuple[Subject, StubRules]:
    rules = ws.ruled(StubRules)
    found = subject(ws.target, ws.read(ws.target), rules, _tree(ws))
    if found is None:
        raise ToolError("cannot write a test", ascii(ws.target), "it offers nothing that a test could name")
    return found, rules


def _stub(ws: Workspace, found: Subject) -> Stub:
    raw = ws.look(found.test)
    stub = read(raw, found.module, found.look) if raw is not None else None
    if stub is None:
        raise ToolError("cannot edit", ascii(found.test), "it is not the stub that was written")
    return stub


def _put(ws: Workspace, found: Subject, stub: Stub) -> StubWritten:
    raw = render(found.module, stub, found.look)
    changed = ws.look(found.test) != raw
    if changed:
        ws.write(found.test, raw)
    return StubWritten(path=found.test, tests=tuple(case.symbol for case in stub.cases), changed=changed)


def write_stub(ws: Workspace, args: Nothing) -> StubWritten:
    """Write the test that leaves nothing to choose; one that is there stays as it is."""
    found, rules = _subject(ws)
    if ws.look(found.test) is not None:
        return StubWritten(path=found.test, tests=(), changed=False)
    return _put(ws, found, _first(found, rules))


def read_module(ws: Workspace, args: Nothing) -> ModuleRead:
    """What a model needs to choose: the module's name and summary, its symbols, the beginning of its text."""
    found, _ = _subject(ws)
    text = ws.read(ws.target).decode("utf-8", "replace")
    lines = [_described(each, found.module) for each in found.module.telling[: 2 * OFFERED]]
    doc = re.match(r"\s*(?:'''|\"\"\"|/\*\*?)\s*(.{1,200})", text)
    summary = doc[1].strip(" \"'*/.") if doc else ""
    return ModuleRead(name=found.module.called, summary=summary, symbols=tuple(lines), text=text[:SHOWN])


def _described(symbol: Public, module: Module) -> str:
    shown = shown_name(symbol, module)
    return f"{shown}: {symbol.doc}" if symbol.doc else shown


def _untitled(found: Subject, stub: Stub) -> str:
    """The first symbol whose test has a title to choose; "" when there is none."""
    return next((c.symbol for c in stub.cases if not c.title and _titles(found, stub.cases, c.symbol)), "")


def offer_test(ws: Workspace) -> tuple[Offer, ...]:
    """Which symbol gets a test next."""
    found, rules = _subject(ws)
    stub = _stub(ws, found)
    if not stub.pending or _untitled(found, stub) or len(stub.cases) >= _wanted(found, rules):
        return ()
    chosen = {case.symbol for case in stub.cases}
    left = [each for each in found.module.telling if each.name not in chosen]
    best = sorted(left, key=lambda each: (not each.examples, not each.doc))[
        :OFFERED
    ]  # those that say most of themselves
    return (Offer(tool="add_test", args={"symbol": _turned([e.name for e in best], ws.target, str(len(chosen)))}),)


def add_test(ws: Workspace, args: SymbolArgs) -> StubWritten:
    """Add the test of one symbol."""
    found, rules = _subject(ws)
    stub = _stub(ws, found)
    if args.symbol in {case.symbol for case in stub.cases}:
        return _put(ws, found, stub)
    symbol = found.module.find(args.symbol)
    if symbol is None or not symbol.telling or len(stub.cases) >= _wanted(found, rules):
        raise ToolError("cannot add a test", ascii(args.symbol), "no such symbol, or there are enough tests")
    order = [each.name for each in found.module.public]
    cases = sorted((*stub.cases, Case(args.symbol)), key=lambda case: order.index(case.symbol))
    return _put(ws, found, _settled(found, rules, Stub(tuple(cases))))


def offer_title(ws: Workspace) -> tuple[Offer, ...]:
    """What the first test without a title is called."""
    found, _ = _subject(ws)
    stub = _stub(ws, found)
    name = _untitled(found, stub) if stub.pending else ""
    if not name:
        return ()
    return (
        Offer(tool="title_test", args={"symbol": (name,), "title": _turned(_titles(found, stub.cases, name), name)}),
    )


def title_test(ws: Workspace, args: TitleArgs) -> StubWritten:
    """Give the test of a symbol its title."""
    found, rules = _subject(ws)
    stub = _stub(ws, found)
    if args.title not in _titles(found, stub.cases, args.symbol):
        raise ToolError("cannot give the title", ascii(args.title), "it is not among those offered")
    if all(case.symbol != args.symbol for case in stub.cases):
        raise ToolError("cannot give a title", ascii(args.symbol), "it has no test")
    cases = [case._replace(title=args.title) if case.symbol == args.symbol else case for case in stub.cases]
    return _put(ws, found, _settled(found, rules, Stub(tuple(cases))))


def offer_line(ws: Workspace) -> tuple[Offer, ...]:
    """One assertion in the model's own words, where the rules allow it and all else is chosen."""
    found, rules = _subject(ws)
    stub = _stub(ws, found)
    if not rules.free_text or not stub.pending or not stub.cases or offer_test(ws) or _untitled(found, stub):
        return ()
    symbols = _turned([case.symbol for case in stub.cases], ws.target)
    return (Offer(tool="write_assertion", args={"symbol": symbols, "line": None}, max_length=MAX_LINE),)


async def write_assertion(ws: Workspace, args: LineArgs) -> LineTried:
    """Try one more assertion; it stays only when it can be one and the stub passes with it. There is one try."""
    found, rules = _subject(ws)
    stub = _stub(ws, found)
    symbol = found.module.find(args.symbol)
    if symbol is None or all(case.symbol != args.symbol for case in stub.cases):
        raise ToolError("cannot write", ascii(args.symbol), "it has no test")
    without = _settled(found, rules, stub, asked=True)
    why = assertion_fault(args.line, symbol, found.module)
    if not why and ws.checker is not None:
        cases = [case._replace(more=args.line) if case.symbol == args.symbol else case for case in without.cases]
        _put(ws, found, without._replace(cases=tuple(cases)))
        (result,) = await ws.checker([CHECK])
        if result.passed:
            return LineTried(kept=True)
        why = result.detail
    _put(ws, found, without)
    return LineTried(kept=False, why=why or "nothing can be run here")


async def try_examples(ws: Workspace, args: Nothing) -> ExamplesTried:
    """Add to each test the examples of its symbol's own docstring, where they pass."""
    found, _ = _subject(ws)
    stub = _stub(ws, found)
    tried = {case.symbol: "\n".join(lines) for case in stub.cases if (lines := _examples_of(found, case))}
    if not tried or stub.pending or ws.checker is None:
        return ExamplesTried()
    for _ in range(1 + len(tried)):
        cases = tuple(case._replace(more=tried.get(case.symbol, case.more)) for case in stub.cases)
        _put(ws, found, stub._replace(cases=cases))
        (result,) = await ws.checker([CHECK])
        if result.passed:
            return ExamplesTried(kept=tuple(tried))
        bad = set(re.findall(r"::(\w+)", result.detail))
        good = {name: line for name, line in tried.items() if function_of(name, found.module) not in bad}
        if not good or good == tried:
            break
        tried = good
    _put(ws, found, stub)
    return ExamplesTried(why=result.detail)


def _examples_of(found: Subject, case: Case) -> tuple[str, ...]:
    symbol = found.module.find(case.symbol)
    return example_lines(symbol, found.module)[:EXAMPLES] if symbol is not None and not case.more else ()


# --- the check -------------------------------------------------------------------------------------------------------


def verify(change: Change, rules: StubRules) -> Iterable[Problem]:
    """The change is one new stub, complete, of a module that stayed as it is."""
    if _about(change.path, rules):
        yield Problem(change.path, 0, "module", "a module changed; only tests are written here")
        return
    known = change.base.once(("stubs", rules.to_json()), lambda: _homes(rules, change.base))
    path = known.get(change.path)
    if path is None or change.before is not None or change.after is None:
        yield Problem(change.path, 0, "stub", "is not the new test of a module")
        return
    if change.now.read(path) != (change.base.read(path) or b""):
        yield Problem(change.path, 0, "stub", f"is not what is computed for {path}")
    else:
        yield from faults(path, change.path, change.after, rules, change.base)


def faults(path: str, test: str, text: bytes, rules: StubRules, tree: Tree) -> Iterable[Problem]:
    """What is wrong with a text as the new test of a module."""
    found = subject(path, tree.read(path) or b"", rules, tree)
    stub = read(text, found.module, found.look) if found is not None and found.test == test else None
    if found is None or stub is None:
        yield Problem(test, 0, "stub", f"is not what is computed for {path}")
        return
    yield from _faults(test, found, stub, rules)


def _homes(rules: StubRules, tree: Tree) -> dict[str, str]:
    """Which module each test path belongs to."""
    modules = [path for path in sorted(tree.paths) if _about(path, rules) and path.rpartition("/")[2] != _MANIFEST]
    return {test: path for path in modules for test in companions(path, rules, tree)}


def _faults(path: str, found: Subject, stub: Stub, rules: StubRules) -> Iterable[Problem]:
    if stub.pending or len(stub.cases) != _wanted(found, rules):
        yield Problem(path, 0, "unchosen", "tests are still to be chosen")
    names = [case.title for case in stub.cases if case.title]
    if len(set(names)) < len(names):
        yield Problem(path, 0, "title", "two tests have the same title")
    for case in stub.cases:
        symbol = found.module.find(case.symbol)
        assert symbol is not None  # read() saw to it
        if case.title not in (titles(symbol, found.module) or ("",)):
            yield Problem(path, 0, "title", f"the test of {case.symbol} has a title of its own")
        own = [line for line in case.more.splitlines() if line not in example_lines(symbol, found.module)]
        if own and (not rules.free_text or len(own) > 1 or assertion_fault(own[0], symbol, found.module)):
            yield Problem(path, 0, "assertion", f"the test of {case.symbol} asserts what nobody computed")


KIND = Kind("stubs", parse, _about, check, verify, companions)

TOOLS = (
    Tool("write_stub", "write the test that leaves nothing to choose", Nothing, StubWritten, {}, write_stub),
    Tool("read_module", "read what a module offers", Nothing, ModuleRead, {}, read_module),
    Tool(
        "add_test",
        "add a test for the symbol that matters most to those who use the module",
        SymbolArgs,
        StubWritten,
        {"symbol": "load_tides"},
        add_test,
        offer_test,
    ),
    Tool(
        "title_test",
        "give a test the sentence that says best what the symbol does",
        TitleArgs,
        StubWritten,
        {"symbol": "load_tides", "title": "Load the tide tables of a harbour"},
        title_test,
        offer_title,
    ),
    Tool(
        "write_assertion",
        "write one more assertion about a symbol in a single line",
        LineArgs,
        LineTried,
        {"symbol": "load_tides", "line": 'assert tides.load_tides("") == []'},
        write_assertion,
        offer_line,
        timeout_s=300.0,
    ),
    Tool(
        "try_examples",
        "add to each test the example of its symbol's docstring that passes",
        Nothing,
        ExamplesTried,
        {},
        try_examples,
        timeout_s=600.0,
    ),
)
