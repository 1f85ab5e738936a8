"""The kind `stubs` and its tools: which modules want a test, where it belongs, what it says, what a change may be."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pantheon.config import packaged
from pantheon.errors import ConfigError, ToolError
from pantheon.records import Repair
from pantheon.testguard import Edit, allowed, findings
from pantheon.tools import stubfile, stubs, syntax, testmap
from pantheon.tools.facts import Facts
from pantheon.tools.interfaces import Public, read_python
from pantheon.tools.scripts import is_free, read_script
from pantheon.tools.stubfile import Look, Module, Stub
from pantheon.tools.tool import Change, Nothing, Tree
from pantheon.tools.workspace import Workspace

RULES = stubs.parse(packaged("rules", "stubs.toml").read_bytes(), "stubs.toml")
TIDES = '''"""Tide tables."""
import re
from dataclasses import dataclass

_HIDDEN = 1
MAXIMUM = 3
log = print


@dataclass(frozen=True)
class Tide:
    """One reading of a gauge."""
    hour: int
    height: float = 0.0


class GaugeError(ValueError):
    """The gauge gave nothing."""


class Table(Base):
    def __init__(self, name): ...
    def add(self, tide): ...
    def _secret(self): ...


def load(path, /, *rest, strict=False, **more):
    """Load a table of tides. It raises OSError."""


@decorated
def unsure(a): ...


async def fetch(url): ...


def twice(a): ...


def twice(b): ...
'''
PACKAGE = '{"name": "harbour", "type": "module", "devDependencies": {"ava": "7.0.0"}}'


def tree(files: Mapping[str, str]) -> Tree:
    return Tree(frozenset(files), lambda path: files[path].encode() if path in files else None)


def judged(files: Mapping[str, str], path: str, rules: stubs.StubRules = RULES) -> list[str]:
    return [finding.rule for finding in stubs.check(path, files[path].encode(), rules, tree(files))]


def place(files: Mapping[str, str], path: str) -> str:
    return next(iter(stubs.companions(path, RULES, tree(files))), "")


# --- what a module offers --------------------------------------------------------------------------------------------


def test_python_says_only_what_holds_when_the_module_is_imported() -> None:
    found = {each.name: each for each in read_python(TIDES.encode())}
    assert list(found) == ["MAXIMUM", "Tide", "GaugeError", "Table", "load", "unsure", "fetch", "twice"]
    assert found["Tide"].parameters == ("hour", "height")
    assert found["GaugeError"].parent == "ValueError"
    assert (found["Table"].parameters, found["Table"].methods) == (None, ("add",))
    assert found["load"].parameters == ("path", "rest", "strict", "more")
    assert found["load"].doc == "Load a table of tides"
    assert found["fetch"].coroutine
    assert not found["unsure"].telling
    assert not found["twice"].telling


def test_examples_of_docstrings_are_calls_with_plain_values() -> None:
    source = """def half(a, b=1):
    '''Half of it.

    >>> half(4)
    2
    >>> half("it's", b=[1, 'x'])
    {'y': None}
    >>> half(half(4))
    1
    >>> half(open('x'))
    1
    >>> other(4)
    2
    >>> half(4) + 1
    3
    >>> half(9)
    >>> half(None)
    True
    >>> half(1)
    ...
    <object at 0x7f>
    '''
"""
    (half,) = read_python(source.encode())
    module = Module((half,), "harbour.tides", "tides")
    assert stubfile.example_lines(half, module) == (
        "assert tides.half(4) == 2",
        """assert tides.half("it's", b=[1, "x"]) == {"y": None}""",
        "assert tides.half(None) is True",
    )


def test_a_builtin_name_that_was_imported_is_another_class() -> None:
    (error,) = read_python(b"from requests import ConnectionError\n\n\nclass Gone(ConnectionError): ...\n")
    assert error.parent == ""


def test_all_decides_what_is_public() -> None:
    source = b"__all__ = ['_odd', 'gone', 'kept']\n\n\ndef _odd(): ...\n\n\ndef kept(): ...\n\n\ndef other(): ...\n"
    assert [each.name for each in read_python(source)] == ["_odd", "kept"]


def test_scripts_say_what_they_export_borrow_and_pass_on() -> None:
    source = b"""
import fallback, {half as part} from './half.js';
/** Load a table of tides.
 * @param path where */
export async function load(path, {strict}, mode = 1, ...rest) {}
export default class Table extends Error { constructor(name) {} add() {} get size() {} static of() {} #own() {} }
export const between = (low, high) => low, MAXIMUM = 3, unknown = half();
export {part, fallback as spare};
export * from './more.js';
"""
    script = read_script("src/tides.js", source)
    found = {each.name: each for each in script.public}
    assert list(found) == ["load", "default", "between", "MAXIMUM"]
    assert (found["load"].arity, found["load"].doc) == (2, "Load a table of tides")
    assert (found["default"].arity, found["default"].methods, found["default"].parent) == (1, ("add",), "Error")
    assert (found["between"].arity, found["between"].parameters) == (2, ("low", "high"))
    assert {(each.name, each.source, each.original) for each in script.passed_on} == {
        ("part", "./half.js", "half"),
        ("spare", "./half.js", "default"),
        ("*", "./more.js", "*"),
    }
    assert (script.esm, script.commonjs) == (True, False)


def test_types_are_no_exports() -> None:
    source = (
        b"export interface A {}\nexport type B = 1;\nexport declare function c(): void;\nexport const enum D { X }\n"
    )
    typed = b"export function e(this: A, a: string, b?: number, c = 1) {}\nexport enum F { Up, Down }\n"
    found = {each.name: each for each in read_script("a.ts", source + typed).public}
    assert list(found) == ["e", "F"]
    assert (found["e"].arity, found["F"].members) == (2, ("Up", "Down"))


@given(st.binary(max_size=300))
def test_no_content_breaks_a_reader(raw: bytes) -> None:
    read_python(raw)
    read_script("a.js", raw)
    read_script("a.ts", raw)


# --- which modules want a test, and where ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "tested"),
    [
        ({"tests/test_tides.py": ""}, True),
        ({"tests/other.py": "from harbour import tides\n"}, True),
        ({"tests/test_all.py": "import harbour.tides as t\n"}, True),
        ({"tests/test_all.py": "import harbour\n\nharbour.tides.load(1)\n"}, True),
        ({"tests/test_all.py": "from harbour import load\n"}, True),
        ({"tests/test_all.py": "import harbour\n\nharbour.load(1)\n"}, True),
        ({"tests/test_all.py": "patch('harbour.tides.load')\n"}, True),
        ({"tests/test_all.py": "import harbour\n"}, False),
        ({"tests/test_all.py": "from harbour import boats\n"}, False),
        ({"tests/test_all.py": "harbour = (\n"}, False),
        ({}, False),
    ],
)
def test_a_python_module_is_tested_when_a_test_has_its_name_or_reaches_it(test: dict[str, str], tested: bool) -> None:
    files = {
        "harbour/__init__.py": "from .tides import load\n",
        "harbour/tides.py": TIDES,
        "harbour/boats.py": "",
        **test,
    }
    assert (judged(files, "harbour/tides.py") == []) is tested


@pytest.mark.parametrize(
    ("test", "tested"),
    [
        ({"test/tides.test.js": ""}, True),
        ({"test/all.js": "import {load} from '../src/tides.js';"}, True),
        ({"test/all.js": "import {load} from '../index.js';"}, True),
        ({"test/all.js": "import * as all from 'harbour';"}, True),
        ({"test/all.js": "const x = await import('../src/tides.js');"}, True),
        ({"test/all.js": "import {boats} from '../index.js';"}, False),
        ({"test/all.js": "import test from 'ava';"}, False),
    ],
)
def test_a_script_is_tested_when_a_test_has_its_name_or_reaches_it(test: dict[str, str], tested: bool) -> None:
    files = {
        "package.json": '{"name": "harbour", "type": "module", "main": "./index.js", "devDependencies": {"ava": "7"}}',
        "index.js": "export {load} from './src/tides.js';\nexport {boats} from './src/boats.js';\n",
        "src/tides.js": "export function load(path) {}\n",
        "src/boats.js": "export function boats() {}\n",
        **test,
    }
    assert (judged(files, "src/tides.js") == []) is tested


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("harbour/__init__.py", TIDES),
        ("harbour/_hidden.py", TIDES),
        ("setup.py", TIDES),
        ("docs/conf.py", TIDES),
        ("harbour/generated.py", "# Generated by a tool. DO NOT EDIT.\n" + TIDES),
        ("harbour/empty.py", "X = 1\n"),
        ("harbour/broken.py", "def x(:\n"),
        ("harbour/not-a-name.py", TIDES),
        ("types.py", TIDES),
        ("cli.js", "#!/usr/bin/env node\nexport function run(a) {}\n"),
        ("types.d.ts", "export function run(a) {}\n"),
        ("mixed.js", "export function run(a) {}\nmodule.exports = {run};\n"),
        ("old.js", "module.exports = function (a) {};\n"),
        ("harbour.config.js", "export function run(a) {}\n"),
        ("typed.ts", "export function run(a: string) {}\n"),
    ],
)
def test_what_needs_no_test_or_cannot_have_one(path: str, source: str) -> None:
    assert judged({"package.json": PACKAGE, path: source}, path) == []


def test_scripts_without_ava_are_said_once() -> None:
    files = {
        "package.json": '{"type": "module", "devDependencies": {"jest": "1"}}',
        "a.js": "export function a(b) {}\n",
    }
    assert judged(files, "a.js") == []
    assert judged(files, "package.json") == ["runner"]
    assert judged({**files, "package.json": PACKAGE}, "package.json") == []


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ({}, "tests/test_tides.py"),
        ({"tests/test_boats.py": ""}, "tests/test_tides.py"),
        ({"tests/sea/test_boats.py": ""}, "tests/sea/test_tides.py"),
        ({"tests/harbour/sea/test_boats.py": ""}, "tests/harbour/sea/test_tides.py"),
        ({"harbour/sea/tests/test_boats.py": ""}, "harbour/sea/tests/test_tides.py"),
        ({"harbour/sea/boats_test.py": ""}, "harbour/sea/tides_test.py"),
        ({"test/something.py": ""}, "test/test_tides.py"),
        ({"harbour/tides.py": TIDES}, "tests/test_sea_tides.py"),
    ],
)
def test_a_test_goes_where_the_project_has_its_tests(there: dict[str, str], wanted: str) -> None:
    package = {"harbour/__init__.py": "", "harbour/sea/__init__.py": "", "harbour/sea/boats.py": ""}
    assert place({**package, "harbour/sea/tides.py": TIDES, **there}, "harbour/sea/tides.py") == wanted


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ({}, "test/tides.test.js"),
        ({"test/sea/boats.test.js": ""}, "test/sea/tides.test.js"),
        ({"src/sea/boats.test.js": ""}, "src/sea/tides.test.js"),
        ({"src/sea/__tests__/boats.test.mjs": ""}, "src/sea/__tests__/tides.test.js"),
        ({"src/tides.js": "export function b(c) {}\n"}, "test/sea-tides.test.js"),
    ],
)
def test_a_script_test_goes_where_the_package_has_its_tests(there: dict[str, str], wanted: str) -> None:
    files = {"package.json": PACKAGE, "src/sea/boats.js": "", "src/sea/tides.js": "export function a(b) {}\n", **there}
    assert place(files, "src/sea/tides.js") == wanted


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), st.integers(1, 6))
def test_no_two_modules_share_a_test(parts: list[str], count: int) -> None:
    files = {f"{'/'.join(parts[: n % 3])}/m{n % 2}.py".lstrip("/"): TIDES for n in range(count)}
    found = [place(files, path) for path in files]
    assert len({each for each in found if each}) == len([each for each in found if each])


# --- the stub --------------------------------------------------------------------------------------------------------


def build(tmp_path: Path, files: Mapping[str, str], target: str, rules: stubs.StubRules = RULES) -> Workspace:
    return Workspace(tmp_path, target, rules, Facts(paths=tuple(files)), tree(files).read)


def fill(ws: Workspace) -> bytes:
    """Write the stub, and take the first of each offer to its end."""
    done = stubs.write_stub(ws, Nothing())
    for _ in range(20):
        offers = (*stubs.offer_test(ws), *stubs.offer_title(ws))
        if not offers:
            break
        (offer,) = offers
        chosen = {name: values[0] for name, values in offer.args.items() if values}
        if offer.tool == "add_test":
            stubs.add_test(ws, stubs.SymbolArgs(**chosen))
        else:
            stubs.title_test(ws, stubs.TitleArgs(**chosen))
    return ws.read(done.path)


PYTHON = {"harbour/__init__.py": "", "harbour/tides.py": TIDES}
SCRIPT = {"package.json": PACKAGE, "src/tides.js": "export function load(a) {}\nexport class B { add() {} }\n"}


@pytest.mark.parametrize(("files", "target"), [(PYTHON, "harbour/tides.py"), (SCRIPT, "src/tides.js")])
def test_a_filled_stub_parses_passes_its_check_and_stays(tmp_path: Path, files: dict[str, str], target: str) -> None:
    ws = build(tmp_path, files, target)
    raw = fill(ws)
    test = place(files, target)
    assert syntax.fault(test, raw) == ""
    assert stubs.write_stub(ws, Nothing()).changed is False
    assert set(ws.changes()) == {test}
    base, now = tree(files), tree({**files, test: raw.decode()})
    assert list(stubs.verify(Change(test, None, raw, base, now), RULES)) == []
    assert stubs.check(target, files[target].encode(), RULES, now) == ()
    assert allowed([Edit(test, None, raw)]) == (test,)
    assert findings([Edit(test, None, raw)]) == ()


def test_what_is_pending_is_found_and_offered(tmp_path: Path) -> None:
    ws = build(tmp_path, PYTHON, "harbour/tides.py")
    written = stubs.write_stub(ws, Nothing())
    now = tree({**PYTHON, written.path: ws.read(written.path).decode()})
    (finding,) = stubs.check("harbour/tides.py", TIDES.encode(), RULES, now)
    assert (finding.field, finding.repair) == ("tests", Repair.CHOOSE)
    (offer,) = stubs.offer_test(ws)
    assert set(offer.args["symbol"] or ()) == {"Tide", "GaugeError", "Table", "load", "fetch"}
    stubs.add_test(ws, stubs.SymbolArgs(symbol="load"))
    assert stubs.offer_test(ws) == ()
    (offer,) = stubs.offer_title(ws)
    assert set(offer.args["title"] or ()) == {"Load a table of tides", "load takes path, rest, strict and more"}
    with pytest.raises(ToolError, match="not among"):
        stubs.title_test(ws, stubs.TitleArgs(symbol="load", title="Something else"))
    with pytest.raises(ToolError, match="no such symbol"):
        stubs.add_test(ws, stubs.SymbolArgs(symbol="unsure"))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("def test_load", "import os\n\n\ndef test_load", "is not what is computed"),
        ('"path",\n        "rest"', '"rest",\n        "path"', "is not what is computed"),
        ("    assert list(inspect", "    assert 1 == 1 or list(inspect", "is not what is computed"),
        ('    """Load a table of tides."""', '    """Anything."""', "title of its own"),
        ('    """Load a table of tides."""\n', "", "title of its own"),
    ],
)
def test_another_text_than_the_computed_is_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    source = TIDES.split("@decorated", maxsplit=1)[0].replace("class", "class ").partition("class  ")[2]
    files = {"harbour/__init__.py": "", "harbour/tides.py": f"class {source}"}
    ws = build(tmp_path, files, "harbour/tides.py")
    fill(ws)
    stub = stubs._stub(ws, stubs._subject(ws)[0])
    cases = tuple(
        case._replace(title="Load a table of tides") if case.symbol == "load" else case for case in stub.cases
    )
    found, _ = stubs._subject(ws)
    text = stubfile.render(found.module, stub._replace(cases=cases), found.look).decode()
    assert old in text
    raw = text.replace(old, new, 1)
    test = "tests/test_tides.py"
    problems = list(stubs.verify(Change(test, None, raw.encode(), tree(files), tree({**files, test: raw})), RULES))
    assert any(why in problem.message for problem in problems), problems


def test_modules_and_other_files_may_not_change() -> None:
    base = tree(PYTHON)
    changed = tree({**PYTHON, "harbour/tides.py": "X = 1\n"})
    for path, before, after in (("harbour/tides.py", TIDES, "X = 1\n"), ("tests/test_other.py", None, "")):
        change = Change(path, before.encode() if before else None, after.encode(), base, changed)
        assert list(stubs.verify(change, RULES))


NAMES = st.from_regex(r"[a-z][a-z_]{0,8}|[A-Z][a-zA-Z]{0,8}", fullmatch=True)
SYMBOLS = st.lists(
    st.builds(
        Public,
        name=NAMES,
        kind=st.sampled_from(["function", "class"]),
        doc=st.sampled_from(["", "Load a table of tides", "What doesn't fit is left out"]),
        parameters=st.none() | st.lists(NAMES, max_size=7, unique=True).map(tuple),
        arity=st.none() | st.integers(0, 3),
        parent=st.sampled_from(["", "Error"]),
        methods=st.lists(NAMES, max_size=3, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.name,
)


@given(SYMBOLS, st.booleans(), st.booleans(), st.sampled_from(["'", '"']), st.data())
def test_every_stub_parses_and_is_read_back(
    symbols: list[Public], python: bool, pending: bool, quote: str, data: st.DataObject
) -> None:
    symbols = [each for each in symbols if not keyword.iskeyword(each.name) and is_free(each.name)]
    assume(symbols)
    if python:
        symbols = [replace(e, arity=None) for e in symbols]
    else:  # a script's function has both or neither
        symbols = [replace(e, parameters=e.parameters if e.arity is None else None) for e in symbols]
        symbols = [replace(e, arity=len(e.parameters)) if e.parameters is not None else e for e in symbols]
    source, language = ("harbour.tides", "python") if python else ("../tides.js", "script")
    module = Module(tuple(symbols), source, "tides", language)
    cases: list[stubfile.Case] = []
    for each in module.telling:
        free = [title for title in stubfile.titles(each, module) if title not in {case.title for case in cases}]
        cases.append(stubfile.Case(each.name, data.draw(st.sampled_from([*free, ""]))))
    stub, look = Stub(tuple(cases), pending), Look(quote=quote, indent="  ", spaced=pending)
    raw = stubfile.render(module, stub, look)
    assert syntax.fault("tests/test_tides.py" if python else "test/tides.test.js", raw) == ""
    assert stubfile.read(raw, module, look) == stub
    assert stubfile.read(raw + b"# more\n", module, look) is None


# --- free text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("assert tides.load(1) == 2", ""),
        ('assert isinstance(tides.load("x"), str)', ""),
        ("assert tides.load == tides.load", "holds whatever"),
        ("assert True", "says nothing"),
        ("assert tides.other(1) == 2", "says nothing"),
        ("assert __import__('os').system('x') == tides.load(1)", "not known there"),
        ("assert tides.load.__globals__ == 1", "private"),
        ("x = tides.load(1)", "one assert"),
        ("assert tides.load(1), 'why'", "one assert"),
        ("assert (lambda: tides.load(1))() == 1", "plain comparison"),
        ("assert tides.load(1)\nassert 1", "one line"),
        ("assert tides.load(", "not Python"),
    ],
)
def test_a_written_assertion_is_about_the_symbol_and_nothing_else(line: str, why: str) -> None:
    module = Module((Public("load", "function", parameters=("a",)),), "harbour.tides", "tides")
    found = stubfile.assertion_fault(line, module.public[0], module)
    assert (why in found) if why else found == ""


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("t.is(load(1), 2);", True),
        ("t.deepEqual(load('a;b'), ['x'])", True),
        ("t.is(1, 1);", False),
        ("t.is(load, load);", False),
        ("t.true(true);", False),
        ("t.is(load(1), process.exit(0));", False),
        ("t.is(load(x = 2), 2);", False),
        ("load(1);", False),
    ],
)
def test_a_written_assertion_of_a_script(line: str, good: bool) -> None:
    module = Module((Public("load", "function", arity=1),), "../tides.js", "tides", "script")
    assert (stubfile.assertion_fault(line, module.public[0], module) == "") is good


# --- the rules file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why", "line"),
    [
        ('kind = "stubs"\ntests = 99\n', "tests", 2),
        ('kind = "stubs"\n\nodd = 1\n', "odd", 3),
        ('kind = "stubs"\npython = "tests/test_{nam}.py"\n', "known in braces", 2),
        ('kind = "stubs"\npython = "../test_{name}.py"\n', "inside the repository", 2),
        ('kind = "stubs"\npython = "checks/{name}.py"\n', "no test run collects it", 2),
        ('kind = "stubs"\njavascript = "test/{name}.js"\n', "must end in {ext}", 2),
    ],
)
def test_what_is_wrong_with_a_rules_file_is_said_with_its_line(text: str, why: str, line: int) -> None:
    with pytest.raises(ConfigError, match=why.replace("{", r"\{")) as caught:
        stubs.parse(text.encode(), "stubs.toml")
    assert caught.value.line == line


def test_a_pattern_decides_where_tests_are() -> None:
    rules = RULES.model_copy(update={"python": "checks/{inner}/test_{name}.py"})
    assert stubs.companions("harbour/tides.py", rules, tree(PYTHON)) == ("checks/test_tides.py",)


def test_python_stubs_hold_of_this_very_package() -> None:
    """Every fact about our own modules, evaluated."""
    root = Path(stubs.__file__).resolve().parents[2]
    paths = [path.relative_to(root).as_posix() for path in sorted((root / "pantheon").rglob("*.py"))]
    real = Tree(frozenset(paths), lambda path: (root / path).read_bytes())
    count = 0
    for path in paths:
        home = testmap.python_home(path, real.paths)
        public = read_python((root / path).read_bytes())
        if home is None or not public or "weights" in path or path.endswith(("__init__.py", "witness.py")):
            continue
        module = Module(public, home.dotted, testmap.stem(path))
        raw = stubfile.render(module, Stub(tuple(stubfile.Case(each.name) for each in module.telling)), Look())
        scope: dict[str, Any] = {}
        exec(compile(ast.parse(raw), path, "exec"), scope)
        for name in [name for name in scope if name.startswith("test_")]:
            scope[name]()
            count += 1
    assert count > 100
