"""The flow test-stub on real git and in the real sandbox: a module without tests gets one that really runs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ava_modules import installed
from conftest import Bench, MakeRepo, git

from pantheon import artifacts, desk, nights
from pantheon import night as runner
from pantheon.config import packaged
from pantheon.egress import EgressProof
from pantheon.engine import Engine, ScriptedEngine
from pantheon.git import Repo
from pantheon.records import NightReport, Outcome, Run
from pantheon.survey import survey

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "First tests"
slug: "first-tests"
status: "ready"
labels: ["test-stub"]
pantheon:
  scope: ["src/**"]
---
Please.
"""
TIDES = '''"""Tide tables of a harbour."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tide:
    """One reading of the gauge at the quay."""

    hour: int
    height: float


class GaugeError(ValueError):
    """The gauge gave no height."""


def load_tides(path, strict=False):
    """Load the tide table of a harbour from a file."""
    with open(path) as file:
        return [Tide(*map(int, line.split())) for line in file]


def highest(tides):
    """The highest reading of a day."""
    return max(tides, key=lambda tide: tide.height)


def as_text(tides, unit="m"):
    return ", ".join(f"{tide.height} {unit}" for tide in tides)
'''
PYTHON = {
    "src/harbour/__init__.py": '"""A harbour."""\n',
    "src/harbour/boats.py": '"""Boats."""\n\n\ndef longest(boats):\n    """The name of the longest boat."""\n'
    "    return max(boats, key=lambda name: boats[name])\n",
    "src/harbour/tides.py": TIDES,
    "src/harbour/lights.py": '"""Lights on the pier."""\n\n\ndef blink(times):\n    """Turn the lamp on and off."""\n'
    "    return [True, False] * times\n",
    "tests/test_boats.py": "from harbour.boats import longest\n\n\ndef test_longest():\n"
    '    """The longest boat wins."""\n    assert longest({"Ann": 3, "Bea": 7}) == "Bea"\n',
    "docs/tasks/stubs.md": TASK,
}
SCRIPTS = {
    "package.json": '{"name": "harbour", "type": "module", "devDependencies": {"ava": "7.0.0"}}\n',
    ".gitignore": "node_modules/\n",
    "src/ropes.js": "/** How many ropes reach over a distance. */\nexport function ropes(distance, length) {\n"
    "  return Math.ceil(distance / length);\n}\n\nexport const LONGEST = 40;\n",
    "src/knots.cjs": "/** The name of a knot for a use. */\nfunction knot(use, wet) {\n  return use;\n}\n"
    "module.exports = {knot};\n",
    "src/boats.js": "export const boats = () => ['Ann', 'Bea'];\n",
    "test/boats.test.js": "import test from 'ava';\nimport {boats} from '../src/boats.js';\n\n"
    "test('there are boats in the harbour', t => {\n  t.is(boats().length, 2);\n});\n",
    "docs/tasks/stubs.md": TASK,
}
OURS = {  # words of what is written for each module
    "src/harbour/tides.py": ("tide", "gauge", "reading"),
    "src/harbour/lights.py": ("lamp", "lights.", "harbour/lights"),
    "src/ropes.js": ("ropes", "reach"),
    "src/knots.cjs": ("knot",),
}


def answers(choose: Callable[[str, list[str]], str] | None = None, line: str = "") -> ScriptedEngine:
    """An engine whose reviewers name what was proposed; `choose` gets the argument and its values, `line` is what it
    writes itself."""

    def answer(prompt: str, schema: dict[str, Any]) -> str | None:
        properties = schema["properties"]
        tool = properties["tool"]["const"]
        user = prompt.rpartition("<user>")[2]
        if tool in ("match_change", "match_place"):
            argument = "text" if tool == "match_change" else "place"
            values = properties[argument]["enum"]
            about = user if tool == "match_change" else next(p for p in OURS if any(w in user.lower() for w in OURS[p]))
            module = next(path for path in OURS if path in about)
            known = [value for value in values if any(word in value.lower() for word in OURS[module])]
            known.sort(key=lambda value: not any(word in value for word in ("assert", "test(")))
            return json.dumps({"tool": tool, argument: known[0]})
        if tool == "write_assertion":
            symbol = properties["symbol"].get("const") or properties["symbol"]["enum"][0]
            return json.dumps({"tool": tool, "symbol": symbol, "line": line})
        if choose is not None and tool in ("add_test", "title_test"):
            argument = "symbol" if tool == "add_test" else "title"
            chosen = {name: spec.get("const") for name, spec in properties.items()}
            return json.dumps({**chosen, argument: choose(argument, properties[argument]["enum"])})
        return None

    return ScriptedEngine(answer)


def night(repo: Repo, tmp_path: Path, engine: Engine, run: Callable[[Any], Any] = asyncio.run) -> NightReport:
    found = survey(repo, repo.head().commit)
    frozen = nights.freeze(
        repo,
        found,
        desk.make_plan(repo, found),
        budget_s=600,
        engine=engine.name,
        model=engine.model,
        window=4,
        now=WHEN,
        signer=desk.signer(repo),
    )
    signer, progress = desk.signer(repo), runner.Progress()
    job = runner.run(
        repo, frozen, engine, CLOSED, work=tmp_path / "work", signer=signer, now=lambda: WHEN, progress=progress
    )
    report: NightReport = run(job)
    return report


def outcomes(report: NightReport) -> dict[str, Run]:
    return {run.item.target: run for run in report.runs}


def accepted(report: NightReport) -> set[str]:
    return {run.item.target for run in report.runs if run.outcome is Outcome.ACCEPTED}


def test_modules_without_a_test_get_one_that_runs(make_repo: MakeRepo, tmp_path: Path) -> None:
    def choose(argument: str, values: list[str]) -> str:
        wanted = ("load_tides", "highest", "Tide", "Load the tide table of a harbour from a file")
        return next((value for value in wanted if value in values), values[0])

    repo = Repo.discover(make_repo(PYTHON))
    report = night(repo, tmp_path, answers(choose))
    reasons = [(run.item.target, run.node, run.reason) for run in report.runs]
    assert accepted(report) == {"src/harbour/tides.py", "src/harbour/lights.py"}, reasons
    (pull,) = report.prs
    changed = git("diff", "--name-only", "main", pull.branch, cwd=repo.root).split()
    assert changed == ["docs/tasks/stubs.md", "tests/test_lights.py", "tests/test_tides.py"]
    stub = git("show", f"{pull.tip}:tests/test_tides.py", cwd=repo.root)
    assert 'assert list(inspect.signature(tides.load_tides).parameters) == ["path", "strict"]\n' in stub
    assert '    """Load the tide table of a harbour from a file."""\n' in stub
    assert 'assert list(inspect.signature(tides.Tide).parameters) == ["hour", "height"]\n' in stub
    assert "as_text)" not in stub
    out = artifacts.read_artifact(repo, outcomes(report)["src/harbour/tides.py"].id, "test", "stdout.log").decode()
    assert "tests/test_tides.py: 4 tests pass, and fail without the module" in out
    assert "test: a first test of src/harbour/tides.py" in git("log", "--format=%s", pull.tip, cwd=repo.root)
    git("merge", "-q", pull.branch, cwd=repo.root)
    assert desk.make_plan(repo, survey(repo, repo.head().commit)).items == ()


def test_examples_of_docstrings_are_tested_where_they_are_true(make_repo: MakeRepo, tmp_path: Path) -> None:
    lights = '"""Lights on the pier."""\n\n\ndef blink(times):\n    """Turn the lamp on and off.\n\n    >>> blink(1)\n'
    lights += '    [True, False]\n    """\n    return [True, False] * times\n\n\n'
    lights += 'def shine(times):\n    """Turn the lamp on.\n\n    >>> shine(2)\n    [True]\n    """\n'
    lights += "    return [True] * times\n"
    repo = Repo.discover(make_repo({**PYTHON, "src/harbour/tides.py": "", "src/harbour/lights.py": lights}))
    (run,) = night(repo, tmp_path, answers()).runs
    tried = artifacts.read_artifact(repo, run.id, "examples", "tool_calls.jsonl").decode()
    assert '"kept":["blink"]' in tried, tried
    patch = artifacts.read_artifact(repo, run.id, "test", "diff.patch").decode()
    assert "+    assert lights.blink(1) == [True, False]\n" in patch
    assert "shine(2)" not in patch
    assert run.node in ("", "merge"), run.reason


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("assert lights.blink(1) == [True, False]", True),
        ("assert lights.blink(1) == [False]", False),
        ("assert lights.blink(1) == open('/etc/passwd')", False),
    ],
)
def test_a_model_may_write_an_assertion_where_the_rules_say_so(
    make_repo: MakeRepo, tmp_path: Path, line: str, kept: bool
) -> None:
    rules = packaged("rules", "stubs.toml").read_text().replace("free_text = false", "free_text = true")
    repo = Repo.discover(make_repo({**PYTHON, "src/harbour/tides.py": "", ".pantheon/rules/stubs.toml": rules}))
    (run,) = night(repo, tmp_path, answers(lambda _, values: values[0], line)).runs
    patch = artifacts.read_artifact(repo, run.id, "test", "diff.patch").decode()
    assert (f"+    {line}\n" in patch) is kept, patch
    assert run.node in ("", "merge"), run.reason


def test_a_module_that_cannot_be_imported_ends_in_a_breadcrumb(make_repo: MakeRepo, tmp_path: Path) -> None:
    lights = PYTHON["src/harbour/lights.py"].replace("\n\n\n", "\n\nimport a_library_of_theirs\n\n\n", 1)
    repo = Repo.discover(make_repo({**PYTHON, "src/harbour/tides.py": "", "src/harbour/lights.py": lights}))
    (run,) = night(repo, tmp_path, answers()).runs
    assert (run.outcome, run.node) == (Outcome.FAILED, "test")
    assert "No module named 'a_library_of_theirs'; install what the project needs" in run.reason


def test_a_module_that_ends_the_process_when_imported_passes_no_test(make_repo: MakeRepo, tmp_path: Path) -> None:
    lights = PYTHON["src/harbour/lights.py"] + "\n\nimport os\n\nos._exit(0)\n"
    repo = Repo.discover(make_repo({**PYTHON, "src/harbour/tides.py": "", "src/harbour/lights.py": lights}))
    (run,) = night(repo, tmp_path, answers()).runs
    assert (run.outcome, run.node) == (Outcome.FAILED, "test"), run.reason
    assert "without its report" in run.reason


@pytest.fixture
def ava(make_repo: MakeRepo) -> Callable[..., Repo]:
    """`ava(files)`: a repository whose working tree has AVA installed."""
    modules = installed()

    def make(files: dict[str, str]) -> Repo:
        root = make_repo(files)
        shutil.copytree(modules, root / "node_modules", symlinks=True, copy_function=_linked)
        return Repo.discover(root)

    return make


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def test_scripts_get_tests_that_ava_runs(ava: Callable[..., Repo], tmp_path: Path) -> None:
    repo = ava(SCRIPTS)
    report = night(repo, tmp_path, answers())
    reasons = [(run.item.target, run.node, run.reason) for run in report.runs]
    assert accepted(report) == {"src/ropes.js", "src/knots.cjs"}, reasons
    (pull,) = report.prs
    stub = git("show", f"{pull.tip}:test/ropes.test.js", cwd=repo.root)
    assert "import {ropes, LONGEST} from '../src/ropes.js';\n" in stub
    assert "  t.is(ropes.length, 2);\n" in stub
    stub = git("show", f"{pull.tip}:test/knots.test.js", cwd=repo.root)
    assert "import knots from '../src/knots.cjs';\n" in stub
    assert "  t.is(knots.knot.length, 2);\n" in stub
    assert git("status", "--porcelain", cwd=repo.root) == ""
    assert not (repo.root / "node_modules/.cache").exists()


def test_without_the_installed_packages_the_reason_says_so(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = Repo.discover(make_repo(SCRIPTS))
    report = night(repo, tmp_path, answers())
    assert accepted(report) == set()
    assert {run.node for run in report.runs} == {"test"}
    words = ("AVA is not in node_modules of your working tree", "node is not on the sandbox's PATH")
    assert all(any(word in run.reason for word in words) for run in report.runs), [r.reason for r in report.runs]


@pytest.mark.live
def test_the_real_model_chooses_what_is_tested(make_repo: MakeRepo, tmp_path: Path, live: Bench) -> None:
    repo = Repo.discover(make_repo(PYTHON))
    report = night(repo, tmp_path, live.engine, live.run)
    assert report.ended == "finished"
    runs = outcomes(report)
    assert set(runs) == {"src/harbour/tides.py", "src/harbour/lights.py"}
    for run in runs.values():
        assert run.outcome is Outcome.ACCEPTED or run.node == "merge", run.reason
    assert artifacts.read_artifact(repo, runs["src/harbour/tides.py"].id, "stub", "llm_prompt.txt")
