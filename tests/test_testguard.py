"""The guard of the tests: every way to weaken one has its reason; honest edits have none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import gate, testguard, testpaths
from pantheon.testguard import Edit, findings

TEST = """import pytest
from calc import total


@pytest.mark.parametrize("values", [[1], [2]])
def test_cases(values):
    assert total(values) == values[0]


def test_sum():
    found = total([1, 2])
    assert found == 3
    assert found > 0


def test_error():
    with pytest.raises(ValueError, match="empty"):
        total(None)


def test_close():
    assert total([0.1, 0.2]) == pytest.approx(0.3, abs=0.001)


class TestMore:
    def test_method(self):
        assert total([]) == 0
"""
SOURCE = Edit("calc.py", b"def total(v):\n    return 1\n", b"def total(v):\n    return sum(v)\n")
NAMED = ("tests/test_calc.py",)


def weakened(old: str, new: str, text: str = TEST, path: str = "tests/test_calc.py") -> tuple[str, ...]:
    """What the guard says of one edit of a named test beside an honest one of the source."""
    assert old in text
    return findings([SOURCE, Edit(path, text.encode(), text.replace(old, new).encode())], (path,))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("def test_sum", "def tested_sum", "test_sum is removed"),
        ("def test_sum", "async def test_sum", "async"),
        ("    assert found == 3\n", "", "asserts less: 1 assertions"),
        ("assert found == 3", "assert True", "asserts less"),
        ("assert found == 3", "assert found == 3 or True", "asserts less"),
        ("assert found == 3", "assert found == found", "asserts less"),
        ("assert found == 3", "assert (found == 3, 'said')", "asserts less"),
        ("assert found == 3", "assert found == 3 or found != 3", "asserts less"),
        ("assert found == 3", "assert not None", "asserts less"),
        ("assert found == 3", "assert 3 == 3", "asserts less"),
        ("assert found == 3", "assert found is not None", "compares less for equality"),
        ("assert found == 3", "if found:\n        assert found == 3", "without a condition"),
        ("assert found == 3", "for _ in []:\n        assert found == 3", "without a condition"),
        ("assert found == 3", "while False:\n        assert found == 3", "asserts less"),
        ("assert found == 3", "try:\n        assert found == 3\n    except Exception:\n        pass", "asserts less"),
        ("assert found == 3", "try:\n        assert found == 3\n    except:\n        found = 0", "asserts less"),
        (
            "assert found == 3",
            "import contextlib\n    with contextlib.suppress(AssertionError):\n        assert found == 3",
            "asserts less",
        ),
        ("assert found == 3", "def later():\n        assert found == 3", "asserts less"),
        ("assert found == 3", "return\n    assert found == 3", "asserts less"),
        ("assert found == 3", "if found:\n        return\n    assert found == 3", "returns early"),
        ("assert found == 3", "yield\n    assert found == 3", "generator"),
        ("assert found == 3", "pytest.skip()\n    assert found == 3", "adds skip"),
        ("def test_sum", "@pytest.mark.xfail\ndef test_sum", "adds xfail"),
        ("def test_sum", "@pytest.mark.skipif(True, reason='')\ndef test_sum", "adds skipif"),
        ("def test_sum", "@lenient\ndef test_sum", "gains a decorator"),
        ("from calc", "pytestmark = []\nfrom calc", "adds pytestmark"),
        ("from calc", "pytest.importorskip('x')\nfrom calc", "adds importorskip"),
        ("from calc", "__test__ = False\nfrom calc", "adds __test__"),
        ("from calc", "collect_ignore = []\nfrom calc", "adds collect_ignore"),
        ("from calc", "import os\nos._exit(0)\nfrom calc", "adds _exit"),
        ("class TestMore:", "def test_sum():\n    assert total([1]) == 1\n\n\nclass TestMore:", "defined twice"),
        ("class TestMore:", "test_sum = None\n\n\nclass TestMore:", "is assigned or deleted"),
        ("class TestMore:", "del test_sum\n\n\nclass TestMore:", "is assigned or deleted"),
        ("class TestMore:", "setattr(pytest, 'test_sum', 0)\n\n\nclass TestMore:", "is assigned or deleted"),
        ("class TestMore:", "class More:", "TestMore.test_method is removed"),
        ("class TestMore:", "class TestMore:\n    def __init__(self): ...\n", "gains __init__"),
        ("[[1], [2]]", "[[1]]", "fewer cases: 1, 2 before"),
        ("[[1], [2]]", "[]", "fewer cases: 0, 2 before"),
        ("pytest.raises(ValueError, match", "pytest.raises(Exception, match", "broader exception"),
        ("pytest.raises(ValueError, match", "pytest.raises((ValueError, TypeError), match", "broader exception"),
        (', match="empty"', "", "fewer messages"),
        ("abs=0.001", "abs=0.1", "bigger tolerance"),
        ("abs=0.001", "rel=5", "bigger tolerance"),
        ("found == 3", "found == pytest.approx(3, abs=1)", "bigger tolerance"),
        ("def test_sum():", "def test_sum(monkeypatch):\n    monkeypatch.setattr('calc.total', sum)", "mock"),
        ("from calc import total", "from unittest.mock import MagicMock as total", "mock"),
        ("import pytest\n", "import pytest !\n", "not Python"),
    ],
)
def test_each_way_to_weaken_a_python_test_has_its_reason(old: str, new: str, why: str) -> None:
    said = weakened(old, new)
    assert any(why in each for each in said), said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class TestMore:", "def test_new():\n    assert total([5]) == 5\n\n\nclass TestMore:"),
        ("[[1], [2]]", "[[1], [2], [3]]"),
        ("assert found > 0", "assert found > 0, found"),
        ("assert found == 3", "assert found == 4"),  # the task names the file: its values may change
        ("abs=0.001", "abs=0.0001"),
        ("found = total([1, 2])", "found = total([1, 2])  # skip this? assert True"),
        ("    assert found > 0\n", "    assert found > 0\n    assert found < 9\n"),
        ("pytest.raises(ValueError, match", "pytest.raises(KeyError, match"),
    ],
)
def test_honest_edits_of_a_named_test_have_no_reason(old: str, new: str) -> None:
    assert weakened(old, new) == ()


def test_named_or_not_a_test_may_not_vanish() -> None:
    data = TEST.encode()
    for edit in (
        Edit("tests/test_calc.py", data, None),
        Edit("tests/calc_tests.py", data, data, old_path="tests/test_calc.py"),
        Edit("tests/test_sums.py", data, data, old_path="tests/test_calc.py"),
        Edit("attic/calc.py", data, data, old_path="tests/test_calc.py"),
    ):
        (why,) = findings([SOURCE, edit], (edit.path, "tests/test_calc.py"))
        assert why.startswith("tests/test_calc.py: ")


def test_what_tests_compare_with_is_theirs() -> None:
    for path in (
        "src/testdata/a.txt",
        "web/__snapshots__/a.snap",
        "fixtures/a.json",
        "golden/out.html",
        "pkg/tests/x.csv",
    ):
        assert testpaths.is_test(path)
        assert gate.protected_paths([path], (), testguard.allowed([Edit(path, b"1", b"2")])) == (path,)
    for path in ("docs/tests/notes.md", "src/testing/a.json", "latest/test.md", "contest.py"):
        assert not testpaths.is_test(path)


def test_a_change_of_tests_only_is_no_fix_unless_the_task_names_them() -> None:
    edit = Edit("tests/test_calc.py", TEST.encode(), TEST.replace("== 3", "== 4").encode())
    assert findings([edit]) == ("only tests change: an edit that makes tests pass is no fix",)
    assert findings([edit], NAMED) == ()
    assert findings([edit, Edit("tests/test_b.py", None, b"def test_b():\n    assert 1\n")], NAMED) != ()


def test_new_tests_come_with_a_change_and_steer_nothing() -> None:
    fresh = Edit("tests/test_new.py", None, b"import pytest\nfrom calc import total\n\n\n"
                 b"@pytest.mark.skip\ndef test_new():\n    assert total([]) == 0\n")  # fmt: skip
    assert findings([SOURCE, fresh]) == ()
    assert testguard.allowed([SOURCE, fresh]) == ("tests/test_new.py",)
    for path in ("tests/conftest.py", "tests/helper.py", "conftest.py"):
        assert testguard.allowed([Edit(path, None, b"")]) == ()
    for text in (
        "import atexit\n",
        "from _pytest import python\n",
        "def pytest_sessionfinish(): ...\n",
        "import builtins\n",
    ):
        assert findings([SOURCE, Edit("tests/test_new.py", None, text.encode())]) != ()


@pytest.mark.parametrize(
    "path",
    [
        "conftest.py", "a/b/conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", "tox.ini", "noxfile.py", "x.pth",
        "sitecustomize.py", "lib/usercustomize.py", "__pycache__/calc.cpython-311.pyc", "calc.pyc", "calc.so",
        "x.egg-info/entry_points.txt", "x-1.dist-info/METADATA", ".coveragerc", "jest.config.js", "CONFTEST.py",
        "Sitecustomize.PY", "conf\u200btest.py", "web/.mocharc.json", "calc.cpython-311-x86_64-linux-gnu.so",
    ],
)  # fmt: skip
def test_what_steers_test_runs_is_protected_everywhere(path: str) -> None:
    assert testpaths.steering(path)
    assert gate.held_paths([path]) == (path,)


@pytest.mark.parametrize(
    "path", ["pytest.py", "_pytest/__init__.py", "pluggy.py", "assertpy.py", "json.py", "src/decimal.py", "JSON.py"]
)
def test_a_new_module_may_not_hide_one_that_tests_import(path: str) -> None:
    assert any("hides the module" in why for why in findings([Edit(path, None, b"x = 1\n")]))
    assert not findings([Edit(path, b"x = 1\n", b"x = 2\n")])  # it was there before
    assert not findings([Edit(f"package/{path.rpartition('/')[2].replace('__init__', 'json')}", None, b"x = 1\n")])


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("pyproject.toml", '', '[tool.pytest.ini_options]\naddopts = "-k x"\n'),
        ("pyproject.toml", "[tool.coverage.run]\nbranch = true\n", "[tool.coverage.run]\nbranch = false\n"),
        ("pyproject.toml", "", '[project.entry-points.pytest11]\nx = "x"\n'),
        ("pyproject.toml", "", "not = [toml\n"),
        ("setup.cfg", "[metadata]\nname = x\n", "[metadata]\nname = x\n[tool:pytest]\naddopts = -x\n"),
        ("setup.cfg", "", "[options.entry_points]\npytest11 =\n  x = x\n"),
        ("setup.py", "setup()\n", "setup(entry_points={'pytest11': ['x = x']})\n"),
        ("package.json", "{}", '{"jest": {"testMatch": []}}'),
        ("package.json", '{"scripts": {"test": "jest"}}', '{"scripts": {"test": "true"}}'),
    ],
)  # fmt: skip
def test_settings_of_test_runs_among_others_do_not_change(path: str, old: str, new: str) -> None:
    assert any("its test settings change" in why for why in findings([Edit(path, old.encode(), new.encode())]))


def test_other_settings_change_freely() -> None:
    for path, old, new in (
        ("pyproject.toml", '[project]\nversion = "1"\n[tool.pytest.ini_options]\naddopts = "-q"\n',
         '[project]\nversion = "2"\n[tool.pytest.ini_options]\naddopts = "-q"\n'),
        ("setup.cfg", "[metadata]\nversion = 1\n", "[metadata]\nversion = 2\n"),
        ("package.json", '{"version": "1", "jest": {}}', '{"version": "2", "jest": {}}'),
    ):  # fmt: skip
        assert findings([Edit(path, old.encode(), new.encode())]) == ()


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)", "from os import _exit", "getattr(os, '_exit')(0)", "import sys\nsys.exit()",
        "raise SystemExit(0)", "if 1:\n    quit()", "class A:\n    exit(0)", "import atexit", "import pytest",
        "from _pytest import python", "import sys\nsys.modules['json'] = None", "x = 'PYTEST_CURRENT_TEST'",
        "import builtins", "__builtins__", "import gc\ngc.get_objects()", "import signal\nsignal.alarm(1)",
        "import ctypes", "from ctypes import util", "import sys\nsys.settrace(None)", "import sys\nsys._getframe()",
        "import inspect\ninspect.stack()", "exec('x')", "eval('x')", "__import__('x')",
        "import importlib\nimportlib.import_module('a' + 'b')", "import importlib\nimportlib.import_module('pytest')",
        "class A:\n    def __eq__(self, other):\n        return True", "class A:\n    __eq__ = lambda *_: True",
        "def pytest_configure(config): ...", "AssertionError = ValueError", "class AssertionError(Exception): ...",
        "import os\nos.kill(0, 9)", "import unittest\nraise unittest.SkipTest", "open('/proc/self/mem')",
        "import sys\nsys.meta_path.insert(0, None)", "pytest_plugins = ['x']", "def f(:",
        "import sys as s\ns.modules", "from sys import modules", "from os import kill", "x = __import__",
        "import sys\ngetattr(sys, 'mod' + 'ules')", "import math\nmath.isclose = max", "import math as m\nm.inf = 0",
        "import math\nsetattr(math, 'isclose', max)", "def f(g):\n    return g.__globals__", "import posix",
        "import importlib.util as u\nu.spec_from_file_location('a', 'b')", "import pathlib\npathlib.Path.read_text = 0",
        "import sys\nvars(sys)", "object.__subclasses__()", "def f(g, h):\n    g.__code__ = h",
    ],
)  # fmt: skip
def test_source_may_not_newly_reach_for_the_test_runner(code: str) -> None:
    said = findings([Edit("calc.py", b"import os\n", f"import os\n{code}\n".encode())])
    assert said and all(each.startswith("calc.py ") for each in said), said
    if code != "def f(:":
        assert findings([Edit("calc.py", f"{code}\n".encode(), f"{code}\nx = 1\n".encode())]) == (), (
            "it was there before"
        )
        moved = [Edit("calc.py", f"{code}\n".encode(), b"x = 1\n"), Edit("new.py", None, f"{code}\n".encode())]
        assert findings(moved) == (), "moved, not added"


@pytest.mark.parametrize(
    "code",
    [
        '"""Run pytest; os._exit, SkipTest and /proc/ are words."""', "# os._exit(0)", "import os, sys, signal, gc",
        "def main():\n    import sys\n    sys.exit(1)", "if __name__ == '__main__':\n    raise SystemExit(0)",
        "class A:\n    def __eq__(self, other):\n        return self is other", "import re\nre.compile('x')",
        "import importlib\nimportlib.import_module('json')", "signal = 3", "def run():\n    raise SystemExit(2)",
        "import sys\nsys.path.append('x')\nsys.stdout.write('')", "import os\nos.environ['A'] = ''\nos.remove('x')",
        "import settings\nsettings.debug = 1", "class A:\n    def f(self):\n        self.os = 1", "getattr(A, 'x')",
        "assert True", "raise AssertionError('no')", "latest = 'contest'",
    ],
)  # fmt: skip
def test_ordinary_source_has_no_reason(code: str) -> None:
    assert findings([Edit("calc.py", None, f"{code}\n".encode())]) == ()


SCRIPT = """import { total } from './calc'
// it('is only a comment', () => {})
describe('total', () => {
  it('adds', () => {
    expect(total([1, 2])).toBe(3)
  })
  test("nothing", () => { expect(total([])).toEqual(0) })
})
"""


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("it('adds'", "it('adds up'", "'adds' is removed"),
        ("it('adds'", "it.skip('adds'", "adds a skip"),
        ("it('adds'", "xit('adds'", "adds a skip"),
        ("it('adds'", "it.only('adds'", "runs alone"),
        ("describe('total'", "describe.skip('total'", "adds a skip"),
        ("    expect(total([1, 2])).toBe(3)\n", "", "has 1 assertions, 2 before"),
        ("    expect(total([1, 2])).toBe(3)\n", "    // expect(total([1, 2])).toBe(3)\n", "has 1 assertions"),
        ("expect(total([1, 2])).toBe(3)", "expect(total([1, 2])).toBeTruthy()", "exact comparisons"),
        ("expect(total([1, 2])).toBe(3)", "expect(true).toBe(true)", "cannot fail"),
        ("expect(total([1, 2]))", "expect(total([1, 2]) || true)", "cannot fail"),
        ("expect(total([1, 2]))", "return\n    expect(total([1, 2]))", "early return"),
        ("    expect(total([1, 2]))", "    if (false) expect(total([1, 2]))", "not run"),
        ("    expect(total([1, 2]))", "    process.exit(0)\n    expect(total([1, 2]))", "end of the process"),
        ("// it", "jest.mock('./calc')\n// it", "mock"),
        ("expect(total([1, 2])).toBe(3)", "try { expect(total([1, 2])).toBe(3) } catch {}", "catch"),
    ],
)
@pytest.mark.parametrize("path", ["src/calc.test.ts", "web/calc.spec.js", "__tests__/calc.js"])
def test_each_way_to_weaken_a_script_test_has_its_reason(path: str, old: str, new: str, why: str) -> None:
    said = weakened(old, new, SCRIPT, path)
    assert any(why in each for each in said), said


def test_an_honest_edit_of_a_script_test_has_no_reason() -> None:
    assert weakened("  test(", "  it('more', () => { expect(total([4])).toBe(4) })\n  test(", SCRIPT, "a.test.ts") == ()


@given(
    st.binary(max_size=200), st.binary(max_size=200), st.sampled_from(["test_a.py", "a.py", "a.test.ts", "setup.cfg"])
)
def test_no_content_makes_the_guard_fail(base: bytes, new: bytes, path: str) -> None:
    assert all(isinstance(each, str) for each in findings([Edit(path, base, new)]))
