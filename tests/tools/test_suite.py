"""The packaged test check as a program on two small trees: what passed must pass, and must be able to fail."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pantheon import testpaths
from pantheon.tools import suite, twins

PACKAGE = Path(suite.__file__).resolve().parents[2]
Files = Mapping[str, str | None]
Run = Callable[..., tuple[int, str]]
BASE = {
    "calc.py": "def total(values):\n    return sum(values)\n",
    "tests/test_calc.py": "from calc import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n",
}
READS = (
    "import json\n\n\ndef total(v):\n    with open('factor.json') as file:\n        return sum(v) * json.load(file)\n"
)
RED = {**BASE, "tests/test_red.py": "from calc import total\n\n\ndef test_red():\n    assert total('') == ''\n"}


def write(root: Path, files: Files) -> None:
    root.mkdir()
    for path, text in files.items():
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(base, changes, *options)`: (exit code, output) of the check."""

    def go(base: Files, changes: Files, *options: str) -> tuple[int, str]:
        write(tmp_path / "base", base)
        write(tmp_path / "tree", {**base, **changes})
        (tmp_path / "tmp").mkdir()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pantheon.tools.suite", "--base", str(tmp_path / "base"), *options, "--"],
            cwd=tmp_path / "tree",
            env={"PYTHONPATH": str(PACKAGE), "TMPDIR": str(tmp_path / "tmp"), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert list((tmp_path / "tmp").iterdir()) == [], "every run cleans up"
        return done.returncode, done.stdout + done.stderr

    return go


def test_an_equal_tree_passes_and_says_how_many(run: Run) -> None:
    assert run(BASE, {"README.md": "x\n"}) == (0, "1 tests pass, 1 did on the base\ntests: 0 broken, 0 fixed\n")


def test_without_tests_there_is_nothing_to_pass(run: Run) -> None:
    said = "no tests on the base\ntests: 0 broken, 0 fixed\n"
    assert run({"calc.py": "x = 1\n"}, {"calc.py": "x = 2\n"}) == (0, said)


def test_the_last_line_counts_what_the_change_broke_and_fixed(run: Run) -> None:
    code, text = run(RED, {"calc.py": "def total(values):\n    return values if values == '' else 0\n"})
    assert (code, text.splitlines()[-1]) == (1, "tests: 1 broken, 1 fixed")


def test_the_first_line_is_the_reason(run: Run) -> None:
    code, text = run(BASE, {"calc.py": "def total(values):\n    return 0\n"})
    assert code == 1
    assert text.splitlines()[0] == "tests that passed on the base and now fail: tests/test_calc.py::test_total"
    assert "assert 0 == 3" in text


@pytest.mark.parametrize(
    ("calc", "why"),
    [
        ("import os\nos._exit(0)\n", "without its report, with exit status 0"),
        ("import os, atexit\natexit.register(os._exit, 0)\n\n\ndef total(v): ...\n", "ended with exit status 0"),
        ("import time\n\n\ndef total(v):\n    time.sleep(60)\n", "did not end within 3 s"),
        ("import os, signal\n\n\ndef total(v):\n    os.kill(os.getpid(), signal.SIGKILL)\n", "with signal 9"),
        ("def total(v):\n    import pytest\n\n    pytest.skip()\n", "now are skipped"),
        ("def total(v):\n    import pytest\n\n    pytest.xfail()\n", "now xfailed"),
        ("def total(v:\n", "cannot be collected: "),
        ("raise SystemExit(0)\n", "ended with exit status 3"),
        ("def total(v):\n    raise SystemExit(0)\n", "and now fail: "),
        ("def total(v):\n    __import__('pytest').exit(returncode=0)\n", "made to fail did not fail"),
        ("class All:\n    __eq__ = lambda *_: True\n\n\ntotal = lambda v: All()\n", "compares as no honest value does"),
        (
            "import _pytest.python\n_pytest.python.Function.runtest = lambda self: None\n\n\ndef total(v): ...\n",
            "made to fail did not fail",
        ),
        (
            "import _pytest.python\nwas = _pytest.python.Function.runtest\n"
            "_pytest.python.Function.runtest = lambda self: self.name == 'test_total' or was(self)\ntotal = len\n",
            "do not fail although they were made to: tests/test_calc.py::test_total",
        ),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_believed_has_failed(run: Run, calc: str, why: str) -> None:
    code, text = run(BASE, {"calc.py": calc}, "--timeout", "3")
    assert code == 1
    assert why in text.splitlines()[0], text


def test_a_forged_report_is_none(run: Run) -> None:
    forge = """
import gc, json, os
for each in gc.get_objects():
    if type(each) is dict and "report" in each and "import_roots" in each:
        with open(each["report"], "w") as file:
            json.dump({"nonce": "0" * 32, "code": 0, "outcomes": {"tests/test_calc.py::test_total": "passed"},
                       "marked": [], "errors": {}, "read": []}, file)
        os._exit(0)
"""
    code, text = run(BASE, {"calc.py": forge})
    assert (code, text.splitlines()[0]) == (1, "the test run's report is forged")


def test_processes_that_a_test_leaves_are_ended(run: Run, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    calc = f"""
import os

def total(values):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open({str(mark)!r}, "a").write(f"{{os.getpid()}}\\n")
            import time
            time.sleep(100)
        os._exit(0)
    return sum(values)
"""
    code, text = run(BASE, {"calc.py": calc})
    assert code == 0, text
    pids = mark.read_text().split()
    assert len(pids) == 2  # one per run of the result
    assert not [pid for pid in pids if Path("/proc", pid).exists()]


def test_a_red_base_may_stay_red_but_not_be_skipped(run: Run) -> None:
    code, text = run(RED, {"README.md": "x\n"})
    assert (code, text.splitlines()[0]) == (0, "1 tests fail as on the base: tests/test_red.py::test_red")


def test_a_red_test_that_is_skipped_is_not_mended(run: Run) -> None:
    skip = (
        BASE["calc.py"]
        + "\nimport unittest\n\n\ndef sum(v):\n    if v == '':\n        raise unittest.SkipTest\n    return 3\n"
    )
    code, text = run(RED, {"calc.py": skip})
    assert (code, text.splitlines()[0]) == (
        1,
        "tests that failed on the base and now are skipped: tests/test_red.py::test_red",
    )


def test_a_red_test_passes_by_its_own_settings_only(run: Run) -> None:
    conftest = (
        "def pytest_runtest_makereport(item, call):\n    if item.name == 'test_red':\n        call.excinfo = None\n"
    )
    code, text = run(RED, {"conftest.py": conftest})
    assert (code, text.splitlines()[0]) == (
        1,
        "pass only with the change's own tests or test settings: tests/test_red.py::test_red",
    )


def test_a_mended_test_may_compare_with_anything(run: Run) -> None:
    wild = "from unittest.mock import ANY\nfrom calc import total\n\n\n"
    wild += "def test_any():\n    assert [total([]), 1] == [ANY, total('')]\n"
    mended = "def total(values):\n    return sum(values) if values != '' else 1\n"
    assert run({**BASE, "tests/test_any.py": wild}, {"calc.py": mended})[0] == 0


def test_a_mended_test_counts(run: Run) -> None:
    mended = "def total(values):\n    return sum(values) if values else values\n"
    assert run(RED, {"calc.py": mended}) == (0, "2 tests pass, 1 did on the base\ntests: 0 broken, 1 fixed\n")


def test_new_tests_must_pass(run: Run) -> None:
    fresh = "from calc import total\n\n\ndef test_new():\n    assert total([5]) == 6\n"
    code, text = run(BASE, {"tests/test_new.py": fresh})
    assert (code, text.splitlines()[0]) == (1, "tests that are new and fail: tests/test_new.py::test_new")


def test_a_named_test_is_run_as_the_change_has_it(run: Run) -> None:
    files = {"calc.py": "def total(values):\n    return list(values)\n"}
    files["tests/test_calc.py"] = BASE["tests/test_calc.py"].replace("== 3", "== [1, 2]")
    assert run(BASE, files, "--named=tests/test_calc.py")[0] == 0


def test_settings_of_the_base_hold_but_not_its_addopts(run: Run) -> None:
    base = {
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--cov=calc -x"\nrequired_plugins = ["pytest-cov"]\n'
        'python_files = ["check_*.py"]\npython_functions = ["check_*"]\nasyncio_mode = "auto"\n'
        'filterwarnings = ["error"]\n',
        "src/calc.py": BASE["calc.py"],
        "spec/check_calc.py": "from calc import total\n\n\ndef check_total():\n    assert total([1, 2]) == 3\n",
    }
    assert run(base, {"pyproject.toml": base["pyproject.toml"].replace("-x", "-k no")}) == (
        0,
        "1 tests pass, 1 did on the base\ntests: 0 broken, 0 fixed\n",
    )


def test_a_file_of_tests_and_code_that_changed_is_for_a_person(run: Run) -> None:
    base = {
        "pytest.ini": "[pytest]\npython_files = *.py\n",
        "calc.py": BASE["calc.py"] + "\n\ndef test_it():\n    assert total([]) == 0\n",
    }
    code, text = run(base, {"calc.py": base["calc.py"] + "\n"})
    assert (code, text.splitlines()[0]) == (1, "calc.py holds tests and changed")


def test_tests_that_never_ran_prove_nothing(run: Run) -> None:
    base = {**BASE, "calc.py": "import no_such_library\n" + BASE["calc.py"]}
    code, text = run(base, {"README.md": "x\n"})
    assert code == 1
    assert text.startswith("no test passes, on the base or now: ModuleNotFoundError")


def test_odd_tests_are_judged_too(run: Run) -> None:
    """Inherited, generated, fixture-heavy and nested tests: what cannot be rewritten is still run."""
    base = {
        "calc.py": BASE["calc.py"],
        "tests/common.py": "class Common:\n    def test_common(self):\n        assert self.made() == 3\n",
        "tests/test_odd.py": '''"""Odd."""
from __future__ import annotations
import os, sys, unittest
from unittest import mock
import pytest
sys.path.insert(0, os.path.dirname(__file__))
from common import Common
from calc import total

class TestHere(Common):
    def made(self):
        return total([1, 2])

    class TestInner:
        def test_inner(self, tmp_path):
            assert tmp_path.is_dir() and total([1]) == 1

test_made = lambda: None

@pytest.fixture(params=[1, 2])
def number(request):
    yield request.param

def test_number(number):
    """Words."""
    try:
        assert total([number]) == number == int(f"{number}")
        return
    finally:
        pass

def test_any():
    assert mock.ANY == total([1])
    assert {"a": [1.5, float("inf"), -1, True, None]} == {"a": [1.5, float("inf"), -1, True, None]}

@pytest.mark.xfail(strict=False)
def test_xfail():
    assert total([]) == 1

class Plain(unittest.TestCase):
    def setUp(self):
        self.value = total([2])

    def test_value(self):
        self.assertEqual(self.value, 2, "said")
        with self.subTest("x"):
            self.assertEqual([self.value], [2])
''',
    }
    code, text = run(base, {"calc.py": base["calc.py"] + "\n"})
    assert (code, text) == (0, "7 tests pass, 7 did on the base\ntests: 0 broken, 0 fixed\n")


def test_wrong_words_are_a_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["--nonsense", "x"]) == 2
    assert "--base DIR" in capsys.readouterr().err


def test_restoring_puts_back_what_steers_and_nothing_else() -> None:
    base: suite.Files = {
        "a.py": b"1",
        "tests/test_a.py": b"1",
        "pyproject.toml": b"[tool.pytest]\n[project]\n",
        "tox.ini": b"",
    }
    after: suite.Files = {
        **{
            "a.py": b"2",
            "tests/test_a.py": b"2",
            "tests/test_b.py": b"2",
            "conftest.py": b"",
            "json.py": b"",
            "b.py": b"",
        },
        **{
            "pyproject.toml": b'[tool.pytest]\naddopts = "x"\n',
            "lib/json.py": b"",
            "x.so": b"",
            "setup.cfg": b"[tool:pytest]\nx=1\n",
        },
    }
    found = suite.restored(base, after, (), ("", "src"))
    assert found == {**base, "a.py": b"2", "b.py": b"", "lib/json.py": b""}
    kept = suite.restored(base, after, ("tests/test_a.py",), ("", "src", "lib"))
    assert kept == {**base, "a.py": b"2", "b.py": b"", "tests/test_a.py": b"2"}


def test_data_that_a_test_compares_with_is_the_tests_own(run: Run) -> None:
    base = {
        "calc.py": READS,
        "factor.json": "1",
        "expected/total.json": "3",
        "tests/test_calc.py": "import json\nfrom calc import total\n\n\ndef test_total():\n"
        "    with open('expected/total.json') as file:\n        assert total([1, 2]) == json.load(file)\n",
    }
    files = {"calc.py": base["calc.py"].replace("sum(v)", "(sum(v) + 1)"), "expected/total.json": "4"}
    code, text = run(base, files)
    assert (code, text.splitlines()[0]) == (
        1,
        "tests that passed on the base and now fail: tests/test_calc.py::test_total",
    )


def test_a_change_of_data_that_the_code_reads_is_tested(run: Run) -> None:
    base = {
        "calc.py": READS,
        "factor.json": "2",
        "tests/test_calc.py": BASE["tests/test_calc.py"],
    }
    assert run(base, {"factor.json": "1"}) == (0, "1 tests pass, 0 did on the base\ntests: 0 broken, 1 fixed\n")


def test_tests_that_look_at_themselves_are_judged_as_they_are(run: Run) -> None:
    look = "import inspect\nfrom calc import total\n\n\ndef test_look():\n    assert total([]) == 0\n"
    look += "    assert 'assert total([]) == 0' in inspect.getsource(test_look)\n"
    assert run({**BASE, "tests/test_look.py": look}, {"calc.py": BASE["calc.py"] + "\n"}) == (
        0,
        "2 tests pass, 2 did on the base\ntests: 0 broken, 0 fixed\n",
    )


def test_a_new_module_does_not_stand_in_for_the_one_that_is_tested(run: Run) -> None:
    base = {"src/calc.py": BASE["calc.py"], "tests/test_calc.py": BASE["tests/test_calc.py"]}
    files = {"calc.py": BASE["calc.py"], "src/calc.py": "def total(v):\n    return 4\n"}
    assert run(base, files)[0] == 1


def test_bytecode_is_no_source(tmp_path: Path) -> None:
    write(
        tmp_path / "t", {"a.py": "", "__pycache__/a.cpython-311.pyc": "", "b.pyc": "", ".git/config": "", "c/d.txt": ""}
    )
    os.symlink("a.py", tmp_path / "t/link.py")
    assert sorted(suite.source_files(tmp_path / "t")) == ["a.py", "c/d.txt"]


def test_twins_say_what_they_must() -> None:
    source = b"def test_a():\n    '''Doc.'''\n    return 1\n\n\n"
    source += b"async def test_b():\n    assert 1 == 1\n\n\ndef helper(): ...\n"
    space: dict[str, object] = {}
    exec(compile(twins.must_fail(source, {"test_a", "test_b"}, "twin"), "x", "exec"), space)
    test_a = space["test_a"]
    assert callable(test_a)
    with pytest.raises(AssertionError, match="twin"):
        test_a()
    assert twins.covered(source) == {"test_a", "test_b", "helper"}
    assert twins.strengthened(b"def test_a():\n    assert f()\n", "p", "m") == b"def test_a():\n    assert f()\n"
    for word in ("abc", "0f"):
        ast.parse(twins.canary(word))


@pytest.mark.parametrize(
    "value",
    [0, -1, 1, 1.5, float("inf"), True, False, None, "", "x", b"x", [], [1], (), {}, {"a": [1]}, {1}, object(), 2j],
)
def test_the_probe_lets_honest_values_pass(value: object) -> None:
    source = b"def test_a(x):\n    assert x == x and 1 == 1\n    assert (x, [x]) == (x, [x])\n"
    space: dict[str, object] = {}
    exec(compile(twins.strengthened(source, "probe", "fooled"), "x", "exec"), space)
    test_a = space["test_a"]
    assert callable(test_a)
    test_a(value)


@pytest.mark.parametrize(
    ("claim", "honest"),
    [
        ("x == 3", 3),
        ("x != 4", 3),
        ("x < 4", 3),
        ("x > 2", 3),
        ("x <= 3 and x >= 3", 3),
        ("x in [3]", 3),
        ("1 in x", [1]),
    ],
)
def test_the_probe_tells_what_compares_with_everything(claim: str, honest: object) -> None:
    class Any:
        def yes(self, other: object) -> bool:
            return True

        __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = yes
        __hash__ = None  # type: ignore[assignment]

    space: dict[str, object] = {}
    exec(
        compile(twins.strengthened(f"def test_a(x):\n    assert {claim}\n".encode(), "p", "fooled"), "x", "exec"), space
    )
    test_a = space["test_a"]
    assert callable(test_a)
    test_a(honest)
    with pytest.raises(AssertionError, match="fooled"):
        test_a(Any())


def test_importing_needs_no_more_than_pytest() -> None:
    """The check runs under a project's own Python, where nothing of Pantheon's is installed."""
    hide = "import sys\nfor name in ('pydantic', 'pygit2', 'pathspec', 'tomlkit', 'httpx'): sys.modules[name] = None\n"
    code = hide + "import pantheon.tools.suite, pantheon.tools.witness"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(PACKAGE)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert time.monotonic() - start < 30
    assert testpaths.is_plain_test("tests/test_suite.py")
