"""What a file declares and whether it parses, and that no file makes the parsers hang or fail."""

from __future__ import annotations

import ast
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pantheon
from pantheon.tools.syntax import MAX_CODE, MAX_DATA, Symbol, fault, has_symbols, language_of, shape, symbols

PYTHON = b'''"""A module."""
__all__ = ["Backup", "load"]


@register
class Backup(Base):
    """Kept."""

    @property
    def age(self): return 1

    async def make(self, /, path, *, at: int = 2, **more):
        # first
        r"""Made."""

    class Inner:
        def deep(cls, x): ...

    def _hidden(self): ...


if sys.version_info > (3, 12):
    def load(path: str, *rest): return path
else:
    def load(path): return path

try:
    def spare():
        def inside(): ...
except ImportError:
    pass
'''
SCRIPT = b"""/** Adds. */
export function sum(a, b = 1, ...rest) {}
export async function* walk({ from, to }, [first]) {}
const twice = (x) => x * 2, half = function named(y) {};
export { twice, half as split };
export const later = async x => x;
export default class Shape extends Base {
  /** The area. */
  area() {}
  #side() {}
  static of(x) {}
  onClick = (event) => {};
  [Symbol.iterator]() {}
}
"""
COMMON = b"""const load = (path) => path;
class Store { get(key) {} }
module.exports = { load, Shop: Store, find(a) {}, keep: () => 1, /** Kept. */ drop: function (z) {} };
exports.more = function (q) {};
module.exports.rest = load;
"""
TYPED = b"""@Injectable()
export class Service {
  constructor(private readonly http: Http) {}
  @Input()
  name(this: Service, first?: string): void {}
  private hidden() {}
}
export abstract class Shape { abstract area(): number }
function over(a: string): void;
function over(a: any) {}
export = over;
"""


def told(path: str, raw: bytes) -> dict[str, Symbol]:
    assert fault(path, raw) == ""
    return {one.name: one for one in symbols(path, raw)}


def test_languages_go_by_the_ending() -> None:
    known = {"a.py": "python", "a.JSX": "javascript", "x/a.mts": "typescript", "a.tsx": "tsx", "a.yml": "yaml"}
    assert {path: language_of(path) for path in known} == known
    assert [language_of(path) for path in ("py", ".py", "a.b/py", "a/.py", "Makefile", "a.md", "")] == [None] * 7
    assert has_symbols("a.ts")
    assert not has_symbols("a.json")


def test_python_symbols() -> None:
    found = told("a.py", PYTHON)
    assert list(found) == [
        *("Backup", "Backup.age", "Backup.make", "Backup.Inner", "Backup.Inner.deep", "Backup._hidden", "load", "spare")
    ]
    made = found["Backup.make"]
    assert (made.kind, made.parent, made.parameters) == ("method", "Backup", ("path", "at", "**more"))
    assert [one.name for one in found.values() if one.documented] == ["Backup", "Backup.make"]
    assert [one.name for one in found.values() if not one.exported] == ["Backup._hidden", "spare"]
    assert PYTHON[found["Backup"].start :].startswith(b"@register\nclass")
    assert PYTHON[: found["Backup.age"].end].endswith(b"return 1")
    assert [one.parameters for one in symbols("a.py", PYTHON) if one.name == "load"] == [("path", "*rest"), ("path",)]


def test_javascript_symbols_and_every_way_to_export_one() -> None:
    found = told("a.js", SCRIPT)
    assert {one.name: one.exported for one in found.values()} == {
        **{"sum": "sum", "walk": "walk", "twice": "twice", "half": "split", "later": "later", "Shape": "default"},
        **{"Shape.area": "area", "Shape.#side": "", "Shape.of": "of", "Shape.onClick": "onClick"},
    }
    assert found["walk"].parameters == ("{ from, to }", "[first]")
    assert found["sum"].parameters == ("a", "b", "...rest")
    assert [one.name for one in found.values() if one.documented] == ["sum", "Shape.area"]
    assert (found["Shape"].line, found["Shape"].end_line) == (7, 14)


def test_commonjs_exports() -> None:
    found = told("a.cjs", COMMON)
    wanted = {"load": "load", "Store": "Shop", "Store.get": "get", "find": "find", "keep": "keep", "drop": "drop"}
    assert {one.name: one.exported for one in found.values()} == {**wanted, "more": "more"}
    assert found["drop"].documented
    for text, name in ((b"function top(a) {}", "top"), (b"class {}", "default"), (b"(a) => a", "default")):
        (one,) = symbols("a.js", b"module.exports = " + text)
        assert (one.name, one.exported) == (name, "module.exports")


@pytest.mark.parametrize("text", ["function () {}", "() => 1", "class {}", "async function* () {}"])
def test_a_default_export_without_a_name_is_called_default(text: str) -> None:
    (one,) = symbols("a.mjs", f"export default {text}".encode())
    assert (one.name, one.exported) == ("default", "default")


def test_typescript_symbols() -> None:
    found = told("a.ts", TYPED)
    assert {name: one.exported for name, one in found.items()} == {
        **{"Service": "Service", "Service.constructor": "constructor", "Service.name": "name"},
        **{"Service.hidden": "", "Shape": "Shape", "over": "module.exports"},
    }
    assert (found["Service"].line, found["Service.name"].line, found["Service.name"].end_line) == (1, 4, 5)
    assert found["Service.name"].parameters == ("first",)
    assert symbols("a.tsx", b"export const Page = () => <p>x</p>;")[0].name == "Page"


def test_a_shape_is_what_is_left_without_names_and_values() -> None:
    one, two, other = symbols(
        "a.py", b"def f(a):\n    return a + 1\ndef g(b):  # no\n    return b + 2\ndef h(a): pass\n"
    )
    raw = b"def f(a):\n    return a + 1\ndef g(b):  # no\n    return b + 2\ndef h(a): pass\n"
    one, two, other = symbols("a.py", raw)
    assert shape("a.py", raw, one) == shape("a.py", raw, two) != shape("a.py", raw, other)
    assert shape("a.py", raw, one)[0] == "function_definition"


@pytest.mark.parametrize(
    ("path", "raw", "said"),
    [
        ("a.py", b"x = 1\ndef f(:\n", "line 2: "),
        ("a.py", b"x = '\\d'\n", ""),  # a warning is no fault
        ("a.py", b"x = 1\0\n", "line 1: "),
        ("a.py", b"# -*- coding: latin-1 -*-\nx = '\xe9'\n", ""),
        ("a.js", b"let a = 1;\nfunction (", "line 2: "),
        ("a.js", b"let a = '\xe9'", "line 1: not UTF-8"),
        ("a.ts", b"const a: number = 1;\ninterface A { b?: string }\n", ""),
        ("a.ts", b"const a: = 1;\n", "line 1: "),
        ("a.json", b'{"a": 1,\n}', "line 2: "),
        ("a.json", b"\n\n[", "line 3: "),
        ("a.toml", b"a = 1\nb = \n", "line 2: "),
        ("a.toml", b"a = 1\n[b\n", "line 2: "),
        ("a.yaml", b"a: 1\nb: [1\n", "line 3: "),
        ("a.yaml", b"a: 1\n---\nb: *x\n", ""),
        ("a.yaml", b"a: \x07\n", "line "),
        ("a.md", b"\xff(((", ""),
    ],
)
def test_a_fault_has_its_line(path: str, raw: bytes, said: str) -> None:
    found = fault(path, raw)
    assert found.startswith(said) if said else found == ""


HOSTILE = {
    "deep.py": b"(" * 300_000,
    "minus.py": b"-" * 300_000 + b"1",
    "chain.py": b"a" + b".a" * 150_000,
    "sum.py": b"a" + b"+a" * 150_000,
    "number.py": b"x = " + b"9" * 300_000,
    "deep.js": b"[{(" * 60_000,
    "mixed.js": b"a ] } ) " * 20_000,
    "tags.jsx": b"<a " * 40_000,
    "types.tsx": b"a<b>(" * 40_000,
    "wrong.ts": b"class function if ( " * 8_000,
    "deep.json": b"[" * 200_000,
    "number.json": b"9" * 200_000,
    "deep.toml": b"a = " + b"[" * 200_000,
    "key.toml": b"a." * 100_000 + b"a = 1",
    "deep.yaml": b"[" * 200_000,
    "maps.yaml": b"{a: " * 60_000,
    "lists.yaml": b"- " * 100_000,
    "laughs.yaml": b"a: &a [x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(2000)),
}


@pytest.mark.parametrize("path", sorted(HOSTILE))
def test_no_file_makes_a_parser_hang(path: str) -> None:
    started = time.process_time()
    found = fault(path, HOSTILE[path])
    assert symbols(path, HOSTILE[path]) is not None
    assert len(found) < 300
    assert time.process_time() - started < 10


def test_a_file_that_is_too_large_is_a_fault_and_has_no_symbols() -> None:
    assert "more than" in fault("a.py", b"#" * (MAX_CODE + 1))
    assert "more than" in fault("a.json", b" " * (MAX_DATA + 1))
    assert symbols("a.py", b"def f(): pass\n" * MAX_CODE) == ()


SNIPPETS = st.lists(
    st.sampled_from([PYTHON, SCRIPT, COMMON, TYPED]).flatmap(
        lambda raw: st.tuples(st.integers(0, len(raw)), st.integers(0, len(raw))).map(lambda at: raw[min(at) : max(at)])
    ),
    max_size=3,
).map(b"".join)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    raw=st.one_of(st.binary(max_size=200), SNIPPETS),
    ending=st.sampled_from(["py", "js", "ts", "tsx", "json", "yaml", "toml"]),
)
def test_any_bytes_have_a_fault_or_none_and_symbols_lie_inside(raw: bytes, ending: str) -> None:
    path = f"a.{ending}"
    assert fault(path, raw) == "" or fault(path, raw).startswith("line ")
    for one in symbols(path, raw):
        assert 0 <= one.start < one.end <= len(raw)
        assert 1 <= one.line <= one.end_line <= raw.count(b"\n") + 1
        assert one.line == raw.count(b"\n", 0, one.start) + 1
        assert one.name == (f"{one.parent}.{one.name.rpartition('.')[2]}" if one.parent else one.name)
        assert shape(path, raw, one)


@pytest.mark.parametrize("module", ["syntax", "files", "edits", "links", "notes", "workspace", "suite", "testpaths"])
def test_our_own_sources_have_the_symbols_that_python_sees(module: str) -> None:
    place = f"{pantheon.__path__[0]}/{'' if module == 'testpaths' else 'tools/'}{module}.py"
    with open(place, "rb") as file:
        raw = file.read()
    wanted = {}
    tree = ast.parse(raw)
    for node in tree.body:
        for inner, front in (
            [(node, ""), *((each, f"{node.name}.") for each in node.body)]
            if isinstance(node, ast.ClassDef)
            else [(node, "")]
        ):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                wanted[front + inner.name] = (inner.end_lineno, ast.get_docstring(inner) is not None)
    assert {one.name: (one.end_line, one.documented) for one in symbols(place, raw)} == wanted


def test_no_grammar_is_loaded_before_a_file_needs_it() -> None:
    script = "import sys, pantheon.tools.syntax as s; s.fault('a.py', b'x = 1'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "tree_sitter" in done.stdout.split()
    assert not [name for name in done.stdout.split() if name.startswith("tree_sitter_")]
