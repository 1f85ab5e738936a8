"""The check `stub` as a program: new test files really run, and one that asserts nothing is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from ava_modules import installed

from pantheon.limits import Limits
from pantheon.process import run as run_child
from pantheon.sandbox import Sandbox
from pantheon.tools import runner

PACKAGE = Path(runner.__file__).resolve().parents[2]
Files = Mapping[str, str]
Run = Callable[..., tuple[int, str]]
BASE = {"harbour/__init__.py": "", "harbour/tides.py": "def load(path):\n    return [path]\n"}
TEST = "tests/test_tides.py"
HEAD = "from harbour import tides\n\n\n"
GOOD = HEAD + "def test_load():\n    assert tides.load(1) == [1]\n"


def write(root: Path, files: Files) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run(changes, *targets, base=BASE)`: (exit code, output) of the check."""

    def go(changes: Files, *targets: str, base: Files = BASE) -> tuple[int, str]:
        write(tmp_path / "base", base)
        write(tmp_path / "tree", {**base, **changes})
        (tmp_path / "tmp").mkdir()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pantheon.tools.runner", "--base", str(tmp_path / "base"), "--", *targets],
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


def test_a_test_that_passes_and_can_fail_is_good(run: Run) -> None:
    assert run({TEST: GOOD}, TEST) == (0, f"{TEST}: 1 tests pass, and fail without the module\n")


MORE = "\n\ndef test_more():\n    assert 1 + 1 == 2\n"
INSIDE = (
    "from harbour.tides import load\n\n\ndef test_load():\n    from harbour import tides\n\n    assert tides.load\n"
)
CLASS = "class TestMore:\n    def test_more(self):\n        assert tides.load(1)\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (HEAD + "def test_load():\n    assert tides.load(1) == [2]\n", "fails: tests/test_tides.py::test_load"),
        (HEAD + "def test_load():\n    pass\n", "passes without what it tests"),
        (HEAD + "def test_load():\n    assert tides\n", "passes without what it tests"),
        (GOOD + MORE, "passes without what it tests: tests/test_tides.py::test_more"),
        (INSIDE, "passes without"),
        (HEAD + "import pytest\n\n\n@pytest.mark.skip\ndef test_load():\n    assert tides.load(1)\n", "fails: "),
        (HEAD + CLASS, "has no test"),
        (GOOD + "\n\n" + CLASS, "not the tests that it declares"),
        (GOOD + GOOD.removeprefix(HEAD), "has two tests of one name"),
        (GOOD + "\n\ndef test_more(missing):\n    assert tides\n", "fails: tests/test_tides.py::test_more"),
        ("import gone\n\n\ndef test_load():\n    assert gone\n", "'gone'; install what the project needs"),
        (HEAD + "def test_load(:\n", "cannot be collected"),
        (HEAD + "import os\n\nos._exit(0)\n\n\ndef test_load():\n    assert tides\n", "without its report"),
    ],
)
def test_a_test_that_says_nothing_or_does_not_run_is_refused(run: Run, text: str, why: str) -> None:
    code, said = run({TEST: text}, TEST)
    assert code == 1
    assert why in said.splitlines()[0], said


def test_only_new_test_files_count(run: Run) -> None:
    assert run({"harbour/more.py": "x = 1\n"}, "harbour/more.py") == (1, "the change has no new test file\n")


def test_a_test_of_the_base_is_not_new(run: Run) -> None:
    assert run({TEST: GOOD}, TEST, base={**BASE, TEST: GOOD})[0] == 1


def test_the_projects_own_settings_and_fixtures_count(run: Run) -> None:
    base = {
        **BASE,
        "conftest.py": "import pytest\n\n\n@pytest.fixture\ndef one():\n    return 1\n",
        "pytest.ini": "[pytest]\naddopts = --collect-only\n",
    }
    test = HEAD + "def test_load(one):\n    assert tides.load(one) == [1]\n"
    assert run({TEST: test}, TEST, base=base)[0] == 0


def test_a_conftest_for_another_pytest_is_left_out(run: Run) -> None:
    base = {**BASE, "conftest.py": "def pytest_ignore_collect(path, config):\n    return False\n"}
    assert run({TEST: GOOD}, TEST, base=base)[0] == 0


@pytest.mark.parametrize("root", ["src", "backend"])
def test_a_package_below_another_directory_is_found(run: Run, root: str) -> None:
    assert run({TEST: GOOD}, TEST, base={f"{root}/{path}": text for path, text in BASE.items()})[0] == 0


def test_the_projects_own_python_runs_the_tests_where_it_has_pytest(run: Run, tmp_path: Path) -> None:
    """A `.venv` beside the tree, with a library that only it has."""
    own = tmp_path / "tree" / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
    (site,) = (own / "lib").glob("python*/site-packages")
    (site / "a_library_of_theirs.py").write_text("VALUE = 7\n")
    ours = Path(pytest.__file__).resolve().parents[1]
    base = {
        **BASE,
        "harbour/tides.py": "from a_library_of_theirs import VALUE\n\n\ndef load(path):\n    return [VALUE]\n",
    }
    test = HEAD + "def test_load():\n    assert tides.load(1) == [7]\n"
    code, said = run({TEST: test}, TEST, base=base)
    assert (code, ".venv has no pytest" in said) == (1, True)
    (site / "ours.pth").write_text(f"{ours}\n")
    shutil.rmtree(tmp_path / "tmp")
    assert run({TEST: test}, TEST, base=base)[0] == 0


def test_wrong_usage_says_how(run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pantheon.tools.runner", "--odd"],
        env={"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--base DIR" in done.stderr


# --- what is read and written, without a run -------------------------------------------------------------------------


def test_the_twin_has_nothing_behind_its_imports() -> None:
    source = (
        b"import inspect\nimport a.b\nfrom c import d as e, f\nfrom . import g\nimport pytest\n\n\ndef test_x(): ...\n"
    )
    text = runner.without_module(source).decode()
    assert [line.split(" = ")[0] for line in text.splitlines()[-4:]] == ["a", "e", "f", "g"]


@pytest.mark.parametrize(
    ("source", "twin"),
    [
        ("import {a} from '../a.js';", "const a = undefined; "),
        (
            "import b, {a, default as c} from '../a.js'",
            "const b = undefined; const a = undefined; const c = undefined; ",
        ),
        ("import {\n\ta,\n\tb,\n} from '../a.js';", "const a = undefined; const b = undefined; "),
        ("import * as all from './a.js';", "const all = undefined; "),
        ("import test from 'ava';", "import test from 'ava';"),
    ],
)
def test_the_twin_of_a_script_has_nothing_behind_its_imports(source: str, twin: str) -> None:
    assert runner.without_imports(source, "a.test.js") == twin


def test_points_of_tap_count_when_they_are_ok_and_only_once() -> None:
    text = "TAP version 13\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP\nok 4 - d\nok 5 - d\n  ok 6 - e\n1..6\n"
    assert runner.points(text) == {"a": True, "b": False, "c": False, "d": False}


# --- AVA, in the real sandbox with what a check may have -------------------------------------------------------------

SCRIPTS = {
    "package.json": '{"type": "module", "devDependencies": {"ava": "7.0.0"}}',
    "src/tides.js": "export function load(path) {\n  return [path];\n}\n",
    "src/knots.cjs": "module.exports = {knot(use) { return use; }};\n",
    "src/typed.ts": "export function half(value: number): number {\n  return value / 2;\n}\n",
}
TYPED = '{"type": "module", "ava": {"extensions": {"js": true, "ts": "module"}, "nodeArguments": ["--import=tsx"]}}'
SCRIPT_TEST = "test/tides.test.js"
AVA = "import test from 'ava';\nimport {load} from '../src/tides.js';\n\n"


@pytest.fixture
def ava(tmp_path: Path) -> Run:
    """`ava(changes, target)`: (exit code, output) of the check in the sandbox, with AVA in its place."""
    modules = installed()

    def go(changes: Files, target: str, base: Files = SCRIPTS) -> tuple[int, str]:
        write(tmp_path / "base", base)
        write(tmp_path / "tree", {**base, **changes})
        (tmp_path / "tree" / "node_modules").mkdir()
        inside = Path("/check/tree")
        sandbox = Sandbox(
            readable=(
                (tmp_path / "tree", inside),
                (tmp_path / "base", Path("/check/base")),
                (modules, inside / "node_modules"),
            ),
            cwd=inside,
        )
        words = [sys.executable, "-P", "-m", "pantheon.tools.runner", "--base", "/check/base", "--", target]
        done = run_child(words, limits=Limits(wall_s=120, cpu_s=200), sandbox=sandbox)
        return done.returncode, done.why() + (done.stdout + done.stderr).decode()

    return go


def test_ava_runs_a_test_that_can_fail(ava: Run) -> None:
    text = AVA + "test('it loads', t => {\n\tt.deepEqual(load(1), [1]);\n});\n"
    assert ava({SCRIPT_TEST: text}, SCRIPT_TEST) == (0, f"{SCRIPT_TEST}: 1 tests pass, and fail without the module\n")


def test_ava_runs_tests_of_commonjs(ava: Run) -> None:
    text = "import test from 'ava';\nimport knots from '../src/knots.cjs';\n\n"
    text += "test('it ties', t => {\n\tt.is(knots.knot(1), 1);\n});\n"
    assert ava({"test/knots.test.js": text}, "test/knots.test.js")[0] == 0


def test_ava_runs_typescript_as_the_package_says(ava: Run) -> None:
    text = "import test from 'ava';\nimport {half} from '../src/typed.js';\n\n"
    text += "test('it halves', t => {\n\tt.is(half(4), 2);\n});\n"
    code, said = ava({"test/typed.test.ts": text}, "test/typed.test.ts", {**SCRIPTS, "package.json": TYPED})
    assert code == 0, said


LOADS = "test('it loads', t => {\n\tt.is(load.length, 1);\n});\n"
HIDDEN = "const more = test;\nmore('b', t => {\n\tt.is(load.length, 1);\n});\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("test('it loads', t => {\n\tt.deepEqual(load(1), [2]);\n});\n", "fails: it loads"),
        ("test('it loads', t => {\n\tt.pass();\n});\n", "passes without what it tests: it loads"),
        (LOADS.replace("test(", "test.skip("), "has no test"),
        (LOADS + HIDDEN, "not the tests that it declares were run: b"),
        ("import {gone} from '../src/tides.js';\n\n" + LOADS, "test/tides.test.js"),
        ("console.log('ok 1 - it loads');\nprocess.exit(0);\n" + LOADS, "test/tides.test.js"),
    ],
)
def test_what_ava_does_not_run_or_cannot_fail_is_refused(ava: Run, text: str, why: str) -> None:
    code, said = ava({SCRIPT_TEST: AVA + text}, SCRIPT_TEST)
    assert code == 1, said
    assert why in said.splitlines()[0], said


def test_without_ava_the_reason_says_where_it_should_be(run: Run) -> None:
    code, said = run({SCRIPT_TEST: AVA}, SCRIPT_TEST, base=SCRIPTS)
    assert code == 1
    if shutil.which("node", path="/usr/bin:/bin"):
        assert said.startswith("AVA is not in node_modules of your working tree: npm install")
    else:
        assert said.startswith("node is not on the sandbox's PATH (/usr/bin:/bin)")
    assert os.sep not in said.partition(":")[0].replace("node_modules", "")
