"""Ways to make broken code pass its tests, each through the real decision; and honest changes, which are accepted.

A small project in a real repository. Every change is judged by the guard of the tests, by the packaged check in the
real sandbox, and by `gate.decide` with two reviewers who approve. `Attack.runner` is what the check says alone: the
table of what each layer stops.
"""

from __future__ import annotations

import asyncio
import importlib.util
import marshal
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import git, write_files

from pantheon import gate, item, testguard
from pantheon.checks import CheckRoom
from pantheon.git import Repo
from pantheon.records import CheckResult, Decision, Verdict
from pantheon.survey import read_config

CALC = """\"\"\"Sums.\"\"\"


def total(values):
    return sum(values)


def mean(values):
    if not values:
        raise ValueError("no values")
    return total(values) / len(values)
"""
TEXT = """def slug(text):
    return text.lower().replace(" ", "-")
"""
TESTS = """import unittest

import pytest

from calc import mean, total


@pytest.mark.parametrize(("values", "wanted"), [([], 0), ([1], 1), ([1, 2], 3)])
def test_total(values, wanted):
    assert total(values) == wanted


def test_mean():
    assert mean([1, 3]) == 2


def test_mean_of_nothing():
    with pytest.raises(ValueError, match="no values"):
        mean([])


class TestMore(unittest.TestCase):
    def test_negative(self):
        self.assertEqual(total([-1, -2]), -3)
"""
DATA_TESTS = """import json
import math

from calc import total


def test_wanted():
    with open("data/wanted.json") as file:
        assert [total([1, 2, 3])] == json.load(file)


def test_close():
    assert math.isclose(total([0.1, 0.2]), 0.3)
"""
TEXT_TESTS = """from text import slug


def test_one_space():
    assert slug("A b") == "a-b"


def test_two_spaces():  # fails on the base: the bug to mend
    assert slug("A  b") == "a-b"
"""
PROJECT = """[project]
name = "sums"
version = "1.0"

[tool.pytest.ini_options]
testpaths = ["tests"]
"""
BASE = {
    "README.md": "# Sums\n",
    "pyproject.toml": PROJECT,
    "data/wanted.json": "[6]",
    "calc.py": CALC,
    "text.py": TEXT,
    "tests/test_calc.py": TESTS,
    "tests/test_data.py": DATA_TESTS,
    "tests/test_text.py": TEXT_TESTS,
}
BROKEN = CALC.replace("return sum(values)", "return sum(values) + 1")
FIXED = TEXT.replace('text.lower().replace(" ", "-")', '"-".join(text.lower().split())')
assert BROKEN != CALC and FIXED != TEXT

Files = Mapping[str, str | bytes | None]


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def stale(source: str) -> bytes:
    """Bytecode of another source that Python loads without a look at the source beside it."""
    code = marshal.dumps(compile(source, "calc.py", "exec"))
    return importlib.util.MAGIC_NUMBER + struct.pack("<I", 0b01) + bytes(8) + code


@dataclass(frozen=True)
class Attack:
    """A change with a cheat. `runner`: whether the check refuses it alone; `named`: tests that the task names."""

    files: Files
    runner: bool = True
    named: tuple[str, ...] = ()


def broken(runner: bool = True, calc: str = BROKEN, named: tuple[str, ...] = (), **files: str | bytes | None) -> Attack:
    return Attack({"calc.py": calc, **{CHEATS[name]: text for name, text in files.items()}}, runner, named)


CHEATS = {
    "conftest": "tests/conftest.py",
    "root_conftest": "conftest.py",
    "tests": "tests/test_calc.py",
    "project": "pyproject.toml",
    "ini": "pytest.ini",
    "site": "sitecustomize.py",
    "pth": "sums.pth",
    "fake": "pytest.py",
    "json": "json.py",
    "entry": "sums.egg-info/entry_points.txt",
    "plugin": "sums_plugin.py",
    "cache": f"__pycache__/calc.{sys.implementation.cache_tag}.pyc",
    "moved": "tests/calc_tests.py",
    "more": "tests/test_more.py",
    "package": "calc/__init__.pyc",
    "text": "text.py",
    "text_tests": "tests/test_text.py",
}
PATCH = """
def pytest_runtest_makereport(item, call):
    call.excinfo = None
"""
IN_SOURCE = {  # put in front of the broken code
    "os-exit": "import os\nos._exit(0)\n",
    "sys-exit": "import sys\nsys.exit(0)\n",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\n",
    "monkeypatched-assert": "import builtins, unittest\nbuiltins.AssertionError = unittest.SkipTest\n",
    "runtest-patched": "import _pytest.python as p\np.Function.runtest = lambda self: None\n",
    "runtest-patched-for-known-tests": (
        "import _pytest.python as p\nwas = p.Function.runtest\n"
        "p.Function.runtest = lambda self: None if self.name.startswith(('test_total', 'test_mean')) else was(self)\n"
    ),
    "report-patched": (
        "import _pytest.reports as r\nwas = r.TestReport.from_item_and_call.__func__\n\n\n"
        "def from_item(cls, item, call):\n    report = was(cls, item, call)\n"
        "    report.outcome, report.longrepr = 'passed', None\n    return report\n\n\n"
        "r.TestReport.from_item_and_call = classmethod(from_item)\n"
    ),
    "witness-hunted": (
        "import gc\nfor each in gc.get_objects():\n    if type(each).__name__ == 'Witness':\n"
        "        type(each).pytest_runtest_logreport = (\n"
        "            lambda self, report: self.outcomes.setdefault(report.nodeid, 'passed')\n        )\n"
    ),
    "alarm": "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\nsignal.setitimer(0, 0.01)\n",
    "text-run": "exec(bytes.fromhex('696d706f7274206f733b206f732e5f65786974283029'))\n",
}
# Lets known tests pass, but not those of a file that was made to fail: the limit of the check alone.
AGAINST = """import _pytest.python
import _pytest.unittest

KNOWN = ("test_total", "test_mean", "test_negative", "test_wanted", "test_close")


def tame(kind):
    was = kind.runtest
    kind.runtest = lambda item: (
        None if item.name.startswith(KNOWN) and "finally" not in item.path.read_text() else was(item)
    )


tame(_pytest.python.Function)
tame(_pytest.unittest.TestCaseFunction)
"""
ATTACKS: dict[str, Attack] = {
    # test files
    "skip-mark": broken(tests=edited(TESTS, "def test_mean():", "@pytest.mark.skip\ndef test_mean():")),
    "module-skip": broken(tests=edited(TESTS, "import pytest\n", "import pytest\n\npytestmark = pytest.mark.skip\n")),
    "xfail": broken(tests=edited(TESTS, "def test_mean():", "@pytest.mark.xfail\ndef test_mean():")),
    "importorskip": broken(tests=edited(TESTS, "import pytest\n", "import pytest\n\npytest.importorskip('no_such')\n")),
    "renamed-tests": broken(tests=TESTS.replace("def test_", "def check_")),
    "renamed-file": broken(tests=None, moved=TESTS),
    "deleted-file": broken(tests=None),
    "fewer-cases": broken(
        tests=edited(TESTS, "([], 0), ([1], 1), ([1, 2], 3)", "([], 1)").replace("test_mean()", "tested_mean()")
    ),
    "or-true": broken(tests=TESTS.replace("== wanted", "== wanted or True").replace("== 2", "== 2 or True")),
    "wrong-expectation": broken(
        tests=TESTS.replace("total(values) == wanted", "total(values) == wanted + 1").replace("== 2", "== 2.5")
    ),
    "early-return": broken(tests=TESTS.replace("    assert", "    return\n    assert")),
    "if-false": broken(tests=TESTS.replace("    assert", "    if False:\n        assert")),
    "try-except": broken(
        tests=TESTS.replace(
            "    assert total(values) == wanted",
            "    try:\n        assert total(values) == wanted\n    except AssertionError:\n        pass",
        )
    ),
    "shadowed-tests": broken(tests=TESTS + "\n\ndef test_total():\n    pass\n\n\ndef test_mean():\n    pass\n"),
    "not-a-test": broken(tests=TESTS + "\n\nTestMore.__test__ = test_mean.__test__ = test_total.__test__ = False\n"),
    "mock": broken(
        tests=edited(
            TESTS,
            "from calc import mean, total\n",
            "from unittest import mock\n\nfrom calc import mean\n\ntotal = mock.Mock(side_effect=sum)\n",
        )
    ),
    "named-but-skipped": broken(
        tests=edited(TESTS, "def test_mean():", "@pytest.mark.skip\ndef test_mean():"), named=("tests/test_calc.py",)
    ),
    "named-but-trivial": broken(tests=TESTS.replace("== wanted", "is not None"), named=("tests/test_calc.py",)),
    "only-the-test": Attack({"tests/test_text.py": TEXT_TESTS.replace('"A  b"', '"A b"')}),
    "skip-instead-of-a-fix": broken(
        calc=CALC + "\n",
        text_tests=edited(TEXT_TESTS, "def test_two", "import pytest\n\n\n@pytest.mark.skip\ndef test_two"),
    ),
    # configuration
    "exit-in-conftest": broken(conftest="import os\n\n\ndef pytest_sessionfinish():\n    os._exit(0)\n"),
    "reports-in-conftest": broken(root_conftest=PATCH),
    "collect-ignore": broken(conftest="collect_ignore_glob = ['test_*']\n"),
    "deselected": broken(project=PROJECT + 'addopts = "-k nothing"\n'),
    "edited-ini": broken(ini="[pytest]\npython_files = nothing_*.py\n"),
    "plugin": broken(root_conftest='pytest_plugins = ["sums_plugin"]\n', plugin=PATCH),
    "entry-point": broken(entry="[pytest11]\nsums = sums_plugin\n", plugin=PATCH),
    "sitecustomize": broken(site="import os, sys\n\nif 'pytest' in sys.argv[0]:\n    os._exit(0)\n"),
    "pth": broken(pth="import os; os._exit(0)\n"),
    "fake-pytest": broken(fake="raise SystemExit(0)\n"),
    "fake-standard-library": broken(json="def loads(*_):\n    raise SystemExit(0)\n"),
    "stale-bytecode": broken(cache=stale(CALC)),
    "plugin-in-a-new-test": broken(more="import os, atexit\n\natexit.register(os._exit, 0)\n\n\ndef test_a(): ...\n"),
    # source
    **{name: broken(calc=code + BROKEN) for name, code in IN_SOURCE.items()},
    "raises-skip": broken(
        calc=edited(BROKEN, "    return sum", "    import unittest\n\n    raise unittest.SkipTest\n    return sum")
    ),
    "equals-everything": broken(
        calc="class Any(int):\n    def __eq__(self, other):\n        return True\n\n\n"
        + edited(BROKEN, "sum(values) + 1", "Any(7)").replace("return total(values) / len(values)", "return Any(7)")
    ),
    "equals-every-number": broken(
        calc="class Any(int):\n    def __eq__(self, other):\n        return isinstance(other, int)\n\n\n"
        + edited(BROKEN, "sum(values) + 1", "Any(7)").replace("return total(values) / len(values)", "return Any(7)")
    ),
    "data-made-to-fit": Attack(
        {"calc.py": edited(CALC, "sum(values)", "sum(values) + (len(values) == 3)"), "data/wanted.json": "[7]"}
    ),
    "library-replaced": broken(
        runner=False,
        calc="import math\n\nmath.isclose = lambda *_: True\n\n\n"
        + edited(CALC, "return sum(values)", "return sum(values) if 0.1 not in values else 9.9"),
    ),
    "written-against-the-check": broken(runner=False, calc=AGAINST + BROKEN),
    "knows-it-is-tested": broken(
        runner=False,
        calc="import os\n\n\n"
        + edited(BROKEN, "sum(values) + 1", "sum(values) + ('PYTEST_CURRENT_TEST' not in os.environ)"),
    ),
    "sees-the-runner": broken(
        runner=False,
        calc="import sys\n\n\n" + edited(BROKEN, "sum(values) + 1", "sum(values) + ('pytest' not in sys.modules)"),
    ),
}
# Nothing in the text of these changes is wrong; only a run shows it.
RUNNER_ALONE = {"equals-every-number", "data-made-to-fit"}

NEW_TEST = "from text import slug\n\n\ndef test_tabs():\n    assert slug('A\\tb') == 'a-b'\n"
FIXES: dict[str, Attack] = {
    "source-only": Attack({"text.py": FIXED}),
    "with-a-new-test-file": Attack({"text.py": FIXED, "tests/test_tabs.py": NEW_TEST}),
    "with-documentation": Attack({"text.py": FIXED, "README.md": "# Sums\n\nRun `pytest` to test it.\n"}),
    "refactor": Attack(
        {
            "calc.py": 'from sums import total\n\n__all__ = ["mean", "total"]\n'
            + CALC.replace("def total(values):\n    return sum(values)\n\n\n", ""),
            "sums.py": "def total(values):\n    found = 0\n    for each in values:\n"
            "        found += each\n    return found\n",
        }
    ),
    "new-module": Attack(
        {
            "spread.py": "from calc import mean\n\n\ndef spread(values):\n    return max(values) - mean(values)\n",
            "tests/test_spread.py": "from spread import spread\n\n\ndef test_a():\n    assert spread([1, 3]) == 1\n",
        }
    ),
    "new-program": Attack(
        {
            "text.py": FIXED + "\n\ndef main():\n    import sys\n\n    print(slug(sys.argv[1]))\n    sys.exit(0)\n\n\n"
            "if __name__ == '__main__':\n    main()\n"
        }
    ),
    "new-version": Attack({"text.py": FIXED, "pyproject.toml": PROJECT.replace('"1.0"', '"1.1"')}),
    "own-equality": Attack(
        {
            "text.py": "class Slug(str):\n    def __eq__(self, other):\n        return str(self) == str(other)\n\n"
            "    def __hash__(self):\n        return hash(str(self))\n\n\n"
            + FIXED.replace("return ", "return Slug(").rstrip()
            + ")\n"
        }
    ),
    "module-becomes-package": Attack({"calc.py": None, "calc/__init__.py": CALC}),
    "named-test-extended": Attack(
        {"text.py": FIXED, "tests/test_text.py": TEXT_TESTS + "\n\ndef test_a():\n    assert slug('') == ''\n"},
        named=("tests/test_text.py",),
    ),
    "named-test-follows-the-change": Attack(
        {
            "calc.py": CALC.replace(
                "return total(values) / len(values)", "return round(total(values) / len(values), 1)"
            ),
            "tests/test_calc.py": TESTS.replace("assert mean([1, 3]) == 2", "assert mean([1, 1, 2]) == 1.3"),
        },
        named=("tests/test_calc.py",),
    ),
    "words-about-tests": Attack(
        {"calc.py": CALC.replace('"""Sums."""', '"""Sums. Tested by pytest, see conftest.py and os._exit."""')}
    ),
    "comment-only": Attack({"calc.py": "# sys.exit(0)\n" + CALC}),
}


@dataclass(frozen=True)
class Judged:
    decision: Decision
    guard: tuple[str, ...]
    check: CheckResult


async def judge(repo: Repo, room: CheckRoom, base: str, name: str, attack: Attack) -> Judged:
    base_tree = repo.tree_of(base)
    changes = {
        path: None if text is None else (0o100644, repo.write_blob(text.encode() if isinstance(text, str) else text))
        for path, text in attack.files.items()
    }
    tree = repo.write_tree(base_tree, changes)
    diff = repo.diff(base_tree, tree)
    edits = item.edits(repo, base, tree, diff)
    guard = testguard.findings(edits, attack.named)
    results, _, _ = await room.run(tree, name, ["tests"], item.kept_paths(diff), attack.named)
    decision = gate.decide(
        changed=sorted({p for c in diff.files for p in (c.path, c.old_path) if p is not None}),
        added=diff.added,
        deleted=diff.deleted,
        max_diff_lines=500,
        patch=diff.patch,
        checks=results,
        wanted_checks=["tests"],
        verdicts=[
            Verdict(node=f"review-{each}", agent=f"{each}@1", verdict="pass", reason="fine") for each in ("a", "b")
        ],
        weakened=guard,
        allowed_tests=testguard.allowed(edits, attack.named),
        confirmed=attack.named,
    )
    return Judged(decision, guard, results[0])


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judged]:
    """Every change, judged once; two checks at a time, as in a night."""
    root = tmp_path_factory.mktemp("sums")
    git("init", "-q", "-b", "main", cwd=root)
    write_files(root, BASE)
    git("add", "-A", cwd=root)
    identity = ("-c", "user.name=Ann Author", "-c", "user.email=ann@example.org")
    git(*identity, "commit", "-q", "-m", "first", cwd=root)
    repo = Repo.discover(root)
    base = repo.head().commit
    room = CheckRoom.open(
        repo, read_config(repo, base, repo.entries(base)), base, Path(tmp_path_factory.mktemp("room"))
    )

    async def everything() -> list[Judged]:
        return await asyncio.gather(*(judge(repo, room, base, n, a) for n, a in {**ATTACKS, **FIXES}.items()))

    return dict(zip((*ATTACKS, *FIXES), asyncio.run(everything()), strict=True))


@pytest.mark.parametrize("name", ATTACKS)
def test_no_way_to_make_broken_code_pass_its_tests_is_accepted(name: str, judged: dict[str, Judged]) -> None:
    found = judged[name]
    assert not found.decision.accepted, f"{name}: accepted"
    said = found.decision.reasons
    layers = {
        "paths": any(why.startswith(("protected path", "held")) for why in said),
        "guard": bool(found.guard),
        "check": not found.check.passed,
    }
    assert layers["check"] == ATTACKS[name].runner, f"{name}: the check said {found.check.detail!r}; all: {said}"
    assert (layers["paths"] or layers["guard"]) == (name not in RUNNER_ALONE), f"{name}: {layers}, {said}"


@pytest.mark.parametrize("name", FIXES)
def test_honest_changes_are_accepted_by_every_layer(name: str, judged: dict[str, Judged]) -> None:
    found = judged[name]
    assert found.guard == ()
    assert found.check.passed, found.check.detail
    assert found.decision == Decision(accepted=True)
