"""The flow docstrings on real git and in the real sandbox: from undocumented code to a local PR, and what stops it."""

from __future__ import annotations

import ast
import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, MakeRepo, git

from pantheon import artifacts, desk, nights
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import Engine, ScriptedEngine
from pantheon.git import Repo
from pantheon.records import NightReport, Outcome
from pantheon.survey import survey

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Describe the harbour"
slug: "docstrings"
status: "ready"
labels: ["docstrings"]
pantheon:
  scope: ["harbour/*.py"]
---
Please.
"""
BOATS = '''"""Boats and where they lie."""

from dataclasses import dataclass


@dataclass
class Boat:  # one of ours
    name: str
    length: int


class BerthNotFound(LookupError):
    def __str__(self): return "no berth"


def load_boats(path):
    """Load the boats."""
    with open(path) as lines:
        return [Boat(*line.split(",")) for line in lines]


def get_berth(boats, name):
    # the first one wins
    for number, boat in enumerate(boats):
        if boat.name == name:
            return number
    raise BerthNotFound(name)
'''
TIDES = """import json


class TideTable:
    def __init__(self, heights):
        self.heights = heights

    def to_json(self):
        heights = sorted(self.heights)
        data = {"heights": heights}
        return json.dumps(data)

    def is_empty(self):
        first = self.heights[:1]
        rest = self.heights[1:]
        return not first and not rest
"""
REPO = {
    "harbour/__init__.py": '"""A harbour."""\n',
    "harbour/boats.py": BOATS,
    "harbour/tides.py": TIDES,
    "harbour/ropes.py": '"""Ropes."""\n\n\ndef knot(rope):\n    """Tie a knot."""\n    return rope\n',
    "kitchen/soup.py": '"""Soup."""\n\n\ndef stir(pot):\n    """Stir the pot with a spoon."""\n    return pot\n',
    "docs/tasks/docstrings.md": TASK,
}


def scripted(answer: Callable[[str, dict[str, Any]], str | None] = lambda prompt, schema: None) -> ScriptedEngine:
    """An engine whose reviewers name what was written; the rest is `answer`'s, else the engine's own choice."""

    def say(prompt: str, schema: dict[str, Any]) -> str | None:
        given = answer(prompt, schema)
        properties = schema.get("properties", {})
        tool = properties.get("tool", {}).get("const", "")
        if given is None and tool == "match_change":
            known = "".join(REPO.values())
            fresh = [text for text in properties["text"]["enum"] if text.rpartition(": ")[2] not in known]
            return json.dumps({"tool": tool, "text": _closest(BOATS + TIDES, fresh)})
        if given is None and tool == "match_place":
            return json.dumps({"tool": tool, "place": _place(prompt, properties["place"]["enum"])})
        return given

    return ScriptedEngine(say)


def _closest(text: str, values: list[str]) -> str:
    """The value with the largest share of its words in a text."""
    seen = words(text)
    return max(values, key=lambda value: len(words(value) & seen) / len(words(value)))


def words(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+", text)}


def _place(prompt: str, places: list[str]) -> str:
    return _closest(prompt.rpartition("<user>")[2], places)


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
    signer, progress, work = desk.signer(repo), runner.Progress(), tmp_path / "work"
    job = runner.run(repo, frozen, engine, CLOSED, work=work, signer=signer, now=lambda: WHEN, progress=progress)
    report: NightReport = run(job)
    return report


def build(make_repo: MakeRepo, **more: str) -> Repo:
    return Repo.discover(make_repo({**REPO, **more}))


def stripped(text: str) -> str:
    """The syntax tree without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def test_undocumented_code_is_described_and_nothing_else_changes(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    report = night(repo, tmp_path, scripted())
    assert {run.item.target: run.reason for run in report.runs if run.outcome is not Outcome.ACCEPTED} == {}
    assert sorted(run.item.target for run in report.runs) == ["harbour/boats.py", "harbour/tides.py"]
    (pull,) = report.prs
    changed = git("diff", "--name-only", "main", pull.branch, cwd=repo.root).split()
    assert changed == ["docs/tasks/docstrings.md", "harbour/boats.py", "harbour/tides.py"]
    boats = git("show", f"{pull.tip}:harbour/boats.py", cwd=repo.root)
    tides = git("show", f"{pull.tip}:harbour/tides.py", cwd=repo.root)
    assert stripped(boats) == stripped(BOATS)
    assert stripped(tides) == stripped(TIDES)
    assert 'class Boat:  # one of ours\n    """' in boats
    assert '"""Load the boats."""' in boats
    assert '    def is_empty(self):\n        """Return whether the tide table is empty."""\n' in tides
    diff = git("diff", "--numstat", "main", pull.branch, "--", "harbour", cwd=repo.root)
    assert all(line.split()[1] == "0" for line in diff.splitlines())
    assert "docs: describe what harbour/boats.py defines" in git("log", "--format=%s", pull.tip, cwd=repo.root)
    run = next(run for run in report.runs if run.item.target == "harbour/tides.py")
    nodes = [name for name in run.nodes if name.startswith("describe.")]
    assert nodes
    assert {run.nodes[name] for name in nodes} == {"passed"}


def test_one_that_cannot_be_described_does_not_stop_the_others(make_repo: MakeRepo, tmp_path: Path) -> None:
    def stubborn(prompt: str, schema: dict[str, Any]) -> str | None:
        return "no json" if "Goal: add_docstring get_berth" in prompt.rpartition("<user>")[2] else None

    repo = build(make_repo, **{"harbour/tides.py": '"""No tides."""\n'})
    report = night(repo, tmp_path, scripted(stubborn))
    (run,) = report.runs
    assert run.outcome is Outcome.ACCEPTED, run.reason
    assert "tolerated" in run.nodes.values()
    boats = git("show", f"{report.prs[0].tip}:harbour/boats.py", cwd=repo.root)
    assert 'class Boat:  # one of ours\n    """' in boats
    assert "def get_berth(boats, name):\n    # the first" in boats


def test_a_sentence_that_nobody_offered_never_comes_in(make_repo: MakeRepo, tmp_path: Path) -> None:
    def invents(prompt: str, schema: dict[str, Any]) -> str | None:
        user = prompt.rpartition("<user>")[2]
        if "Goal: add_docstring " not in user:
            return None
        name = user.partition("Goal: add_docstring ")[2].split()[0]
        return json.dumps({"tool": "add_docstring", "name": name, "text": '"""; import os; os.remove("x")  # """'})

    repo = build(make_repo)
    report = night(repo, tmp_path, scripted(invents))
    for pull in report.prs:  # what left nothing to choose is described all the same
        patch = git("diff", "main", pull.branch, cwd=repo.root)
        assert "import os" not in patch
    assert all("import os" not in run.reason for run in report.runs)


def test_a_reviewer_that_finds_another_place_stops_the_item(make_repo: MakeRepo, tmp_path: Path) -> None:
    def wrong(prompt: str, schema: dict[str, Any]) -> str | None:
        properties = schema.get("properties", {})
        if properties.get("tool", {}).get("const") != "match_place":
            return None
        places = properties["place"]["enum"]
        other = next(value for value in places if value != _place(prompt, places))
        return json.dumps({"tool": "match_place", "place": other})

    report = night(build(make_repo), tmp_path, scripted(wrong))
    assert {run.outcome for run in report.runs} == {Outcome.FAILED}
    assert all("review.change-b@1 says fail" in run.reason for run in report.runs)
    assert report.prs == ()


def test_the_check_in_the_sandbox_sees_more_than_docstrings(make_repo: MakeRepo, tmp_path: Path) -> None:
    """A hand in the worktree, while the flow runs, changes a number."""

    def meddles(prompt: str, schema: dict[str, Any]) -> str | None:
        for path in (tmp_path / "work").glob("worktrees/*/harbour/boats.py"):
            path.write_text(path.read_text().replace('return "no berth"', 'return "no boat"'))
        return None

    repo = build(make_repo, **{"harbour/tides.py": '"""No tides."""\n'})
    report = night(repo, tmp_path, scripted(meddles))
    (run,) = report.runs
    assert (run.outcome, run.node) == (Outcome.FAILED, "checks")
    assert "changes more than missing docstrings" in run.reason
    assert artifacts.read_artifact(repo, run.id, "checks", "diff.patch")


@pytest.mark.live
def test_a_live_night_describes_code(make_repo: MakeRepo, tmp_path: Path, live: Bench) -> None:
    repo = build(make_repo)
    report = night(repo, tmp_path, live.engine, live.run)
    assert len(report.runs) == 2
    assert any(run.outcome is Outcome.ACCEPTED for run in report.runs), [run.reason for run in report.runs]
    for pull in report.prs:
        for path, text in (("harbour/boats.py", BOATS), ("harbour/tides.py", TIDES)):
            assert stripped(git("show", f"{pull.tip}:{path}", cwd=repo.root)) == stripped(text)
