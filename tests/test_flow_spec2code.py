"""The flow spec2code on real git and in the real sandbox: from a spec to a local PR, and what stops it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
title: "Write what the specs ask for"
slug: "specs"
status: "ready"
labels: ["spec2code"]
pantheon:
  scope: ["spec/*.md"]
---
Please.
"""
TIDES = '''---
implements: src/harbour/tides.py
---
# Tides

## Between

The height in metres half way between two readings.

```python
def between(low: float, high: float) -> float: ...
```

```python
>>> between(1.0, 3.0)
2.0
>>> between(2.0, 2.0)
2.0
```

## Highest

```python
def highest(heights: list[float]) -> float:
    """The highest of all readings. Without readings it raises ValueError."""
```

| call | result |
|---|---|
| `highest([1.0, 2.5])` | `2.5` |
| `highest([4.0])` | `4.0` |
| `highest([])` | raises ValueError |
'''
ROPES = """---
implements: src/harbour/ropes.py
---
# Ropes

How many ropes of a length are needed to reach over a distance.

```python
def ropes(distance: int, length: int) -> int: ...
```

```python
>>> ropes(10, 5)
2
>>> ropes(11, 5)
3
>>> ropes(1, 5)
1
>>> ropes(0, 5)
0
```
"""
LOOSE = """---
implements: src/harbour/loose.py
---
# Loose

```python
def loose(end: str) -> str: ...
```
"""
REPO = {
    "src/harbour/__init__.py": '"""A harbour."""\n',
    "src/harbour/boats.py": '"""Boats."""\n\n\ndef longest(boats: dict[str, int]) -> str:\n'
    '    """The name of the longest boat."""\n    return max(boats, key=lambda name: boats[name])\n',
    "tests/test_boats.py": "from harbour.boats import longest\n\n\ndef test_longest() -> None:\n"
    "    assert longest({'Ann': 3, 'Bea': 7}) == 'Bea'\n",
    "docs/tasks/specs.md": TASK,
    "spec/tides.md": TIDES,
}
GOOD = {
    "between": "def between(low, high):\n    return (low + high) / 2",
    "highest": "    if not heights:\n        raise ValueError('no readings')\n    return max(heights)",
    "ropes": "    return -(-distance // length)",
}
LINES = {"between": "low + high", "highest": "no readings", "ropes": "distance // length"}
PURPOSES = {
    "between": "The height in metres half way between two readings.",
    "highest": "The highest of all readings.",
    "ropes": "How many ropes of a length are needed to reach over a distance.",
}
Coder = Callable[[str, str], str]


def scripted(code: Coder) -> ScriptedEngine:
    """An engine whose reviewers name what was proposed, and whose coder says `code(function, prompt)`."""

    def answer(prompt: str, schema: dict[str, Any]) -> str | None:
        properties = schema["properties"]
        tool = properties["tool"]["const"]
        user = prompt.rpartition("<user>")[2]
        if tool == "write_function":
            name = user.partition("Write: def ")[2].partition("(")[0]
            return json.dumps({"tool": tool, "code": code(name, user)})
        if tool == "match_name":
            return json.dumps({"tool": tool, "name": next(name for name, line in LINES.items() if line in user)})
        return json.dumps({"tool": tool, "purpose": next(p for n, p in PURPOSES.items() if LINES[n] in user)})

    return ScriptedEngine(answer)


def night(repo: Repo, tmp_path: Path, engine: Engine, run: Callable[[Any], Any] = asyncio.run) -> NightReport:
    found = survey(repo, repo.head().commit)
    plan = desk.make_plan(repo, found)
    frozen = nights.freeze(
        repo,
        found,
        plan,
        budget_s=600,
        engine=engine.name,
        model=engine.model,
        window=4,
        now=WHEN,
        signer=desk.signer(repo),
    )
    work = tmp_path / "work"
    signer, progress = desk.signer(repo), runner.Progress()
    job = runner.run(repo, frozen, engine, CLOSED, work=work, signer=signer, now=lambda: WHEN, progress=progress)
    report: NightReport = run(job)
    return report


def build(make_repo: MakeRepo, **more: str) -> Repo:
    return Repo.discover(make_repo({**REPO, **more}))


def only(report: NightReport) -> Run:
    (run,) = report.runs
    return run


def test_a_spec_becomes_a_module_with_its_tests(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    report = night(repo, tmp_path, scripted(lambda name, _: GOOD[name]))
    assert only(report).outcome is Outcome.ACCEPTED, only(report).reason
    (pull,) = report.prs
    changed = git("diff", "--name-only", "main", pull.branch, cwd=repo.root).split()
    assert changed == ["docs/tasks/specs.md", "src/harbour/tides.py", "tests/test_tides_spec.py"]
    module = git("show", f"{pull.tip}:src/harbour/tides.py", cwd=repo.root)
    assert '"""The height in metres half way between two readings."""\n    return (low + high) / 2\n' in module
    assert "raise ValueError('no readings')" in module
    assert "NotImplementedError" not in module
    tests = git("show", f"{pull.tip}:tests/test_tides_spec.py", cwd=repo.root)
    assert "assert between(1.0, 3.0) == 2.0\n" in tests
    assert "with pytest.raises(ValueError):\n        highest([])\n" in tests
    assert "feat: implement spec/tides.md" in git("log", "--format=%s", pull.tip, cwd=repo.root)


def test_the_right_answer_comes_at_the_second_try(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    prompts: list[str] = []

    def code(name: str, user: str) -> str:
        if name == "between":
            prompts.append(user)
            return GOOD[name] if "Your last try was wrong" in user else "    return low + high"
        return GOOD[name]

    report = night(repo, tmp_path, scripted(code))
    assert only(report).outcome is Outcome.ACCEPTED, only(report).reason
    assert len(prompts) == 2
    assert "between(1.0, 3.0) gave 4.0, expected 2.0" in prompts[1]
    calls = artifacts.read_artifact(repo, only(report).id, "codegen.1", "tool_calls.jsonl").decode().splitlines()
    assert [bool(json.loads(line)["error"]) for line in calls] == [False, True, False, False]


def test_wrong_answers_end_in_a_breadcrumb(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    tried: list[str] = []

    def code(name: str, user: str) -> str:
        tried.append(name)
        return f"    return {len(tried)}.5" if name == "highest" else GOOD[name]

    report = night(repo, tmp_path, scripted(code))
    run = only(report)
    assert (run.outcome, run.node) == (Outcome.FAILED, "codegen.2")
    assert "wrong code: highest: highest([1.0, 2.5]) gave " in run.reason
    assert report.prs == ()
    assert "src/harbour/tides.py" not in git("ls-tree", "-r", "--name-only", "main", cwd=repo.root)
    calls = artifacts.read_artifact(repo, run.id, "codegen.2", "tool_calls.jsonl").decode()
    assert "expected 2.5" in calls


def test_code_for_the_examples_alone_fails_on_the_one_that_was_held_out(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, **{"spec/tides.md": "# No spec\n", "spec/ropes.md": ROPES})
    seen: list[str] = []

    def code(name: str, user: str) -> str:
        seen.append(user)
        return "    return {10: 2, 11: 3, 1: 1}.get(distance, 99) + " + str(len(seen) - 1) + " * 0"

    run = only(night(repo, tmp_path, scripted(code)))
    assert (run.outcome, run.node) == (Outcome.FAILED, "codegen.1")
    assert "ropes(0, 5)" not in "".join(seen)
    assert "held out" in seen[-1]


def test_what_a_body_must_not_hold_is_refused_before_it_runs(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, **{"spec/tides.md": "# No spec\n", "spec/ropes.md": ROPES})
    bad = iter(
        [
            "    import os\n    os.system('touch /tmp/pwned')\n    return 1",
            "    return eval('-(-distance // length)')",
            "    return ropes.__globals__['__builtins__']",
            "def ropes(distance: int, length: int) -> int:\n    return 1\n\ndef other():\n    pass",
        ]
    )
    seen: list[str] = []

    def code(name: str, user: str) -> str:
        seen.append(user)
        return next(bad, GOOD[name])

    report = night(repo, tmp_path, scripted(code))
    assert only(report).outcome is Outcome.ACCEPTED, only(report).reason
    said = "".join(seen)
    for why in ("it imports os", "it names eval", "it reaches for .__globals__", "it defines more than ropes"):
        assert why in said, why


def test_a_spec_that_is_not_sound_is_a_note_to_a_person(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, **{"spec/loose.md": LOOSE})
    plan = desk.make_plan(repo, survey(repo, repo.head().commit))
    assert [item.target for item in plan.items] == ["spec/tides.md"]
    assert any("loose" in note for note in plan.notes), plan.notes


def test_a_live_night_ends_cleanly(make_repo: MakeRepo, tmp_path: Path, live: Bench) -> None:
    """The embedded model writes no such code; it gets one short try, and what comes of it is kept."""
    agent = packaged("agents", "code.spec.toml").read_text().partition("limits")[0]
    agent += "limits = {max_steps = 1, max_failures = 0, deadline_s = 600, max_tokens = 100}\n"
    more = {"spec/tides.md": "# No spec\n", "spec/ropes.md": ROPES, ".pantheon/agents/code.spec.toml": agent}
    repo = build(make_repo, **more)
    report = night(repo, tmp_path, live.engine, live.run)
    assert report.ended == "finished"
    run = only(report)
    assert run.outcome is Outcome.ACCEPTED or run.node.partition(".")[0] in ("codegen", "test", "merge"), run.reason
    assert artifacts.read_artifact(repo, run.id, "codegen.1", "llm_prompt.txt")
