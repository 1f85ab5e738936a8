"""A specialist and a flow that a repository brings along, without a line of Python: a whole night of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from conftest import MakeRepo, git
from test_night import CLOSED, WHEN

from pantheon import artifacts, desk, nights, notary
from pantheon import night as runner
from pantheon.engine import ScriptedEngine
from pantheon.git import Repo
from pantheon.records import NightReport, Outcome, Run
from pantheon.survey import survey

TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Sort the notes"
slug: "sort"
status: "ready"
labels: ["big"]
pantheon:
  flow: sort
  scope: ["docs/*.md"]
---
"""
RULES = """
kind = "pattern"
[[rule]]
name = "area"
missing = 'Area: (sea|land)'
insert = "Area: {value}"
values = ["sea", "land"]
[[rule]]
name = "mood"
missing = 'Mood: (calm|wild)'
insert = "Mood: {value}"
values = ["calm", "wild"]
"""
AGENT = """
[agent]
name = "NAME"
version = 2
summary = "Choose"
runtime = {engine = "vllm", origin = "local"}
tools = ["set_line"]
prompt = "sort.j2"
limits = {max_steps = 4, max_failures = 0}
MORE
"""
PROMPT = """{% block system %}Sort.{% endblock %}
{% block user %}{{ target }} {{ focus }} try {{ attempt }} {{ failure }} {{ before.plan.open|join(",") }}{% endblock %}
"""
HEAD = """
[flow]
name = "sort"
rules = "sort"
subject = "docs: sort {target}"
match = {paths = ["**/*.md"]}
[[flow.node]]
id = "plan"
agent = "plan.lines"
"""
TAIL = """
[[flow.node]]
id = "checks"
checks = ["rules"]
inputs = ["work"]
[[flow.node]]
id = "review"
flow = "peers"
inputs = ["checks"]
[[flow.node]]
id = "merge"
gate = true
inputs = ["review"]
"""
WORK = '[[flow.node]]\nid = "work"\nagent = "sort"\ninputs = ["plan"]\n'


class Model:
    """Answers like a good model, but for what `wrong` says; keeps what it was asked."""

    def __init__(self, **wrong: str) -> None:
        self.wrong = wrong
        self.asked: list[str] = []

    def __call__(self, prompt: str, schema: dict[str, Any]) -> str | None:
        self.asked.append(prompt)
        values = {
            name: one["const"] if "const" in one else self._choose(one.get("enum", []))
            for name, one in schema["properties"].items()
        }
        for word, answer in self.wrong.items():
            if word in prompt.rpartition("<user>")[2]:
                return answer
        return json.dumps(values)

    @staticmethod
    def _choose(choices: list[str]) -> str:
        ours = [one for one in choices if any(word in one for word in ("Area:", "Mood:", "docs/a.md"))]
        return (ours or choices)[0]


def build(make_repo: MakeRepo, work: str, head: str = HEAD, **files: str) -> Repo:
    base = {
        "docs/a.md": "# Boats\n\nBoats sail at dawn.\n",
        "docs/tasks/sort.md": TASK,
        ".pantheon/rules/sort.toml": RULES,
        ".pantheon/agents/sort.toml": AGENT.replace("NAME", "sort").replace("MORE", ""),
        ".pantheon/prompts/sort.j2": PROMPT,
        ".pantheon/flows/sort.toml": head + work + TAIL,
    }
    return Repo.discover(make_repo({**base, **files}))


def run(repo: Repo, tmp_path: Path, model: Model) -> tuple[Run, NightReport]:
    found = survey(repo, repo.head().commit)
    frozen = nights.freeze(
        repo,
        found,
        desk.make_plan(repo, found),
        budget_s=300,
        engine="scripted",
        model="scripted",
        window=4,
        now=WHEN,
        signer=desk.signer(repo),
    )
    report = asyncio.run(
        runner.run(
            repo,
            frozen,
            ScriptedEngine(model),
            CLOSED,
            work=tmp_path / "work",
            signer=desk.signer(repo),
            now=lambda: WHEN,
            progress=runner.Progress(),
        )
    )
    (done,) = report.runs
    return done, report


def verified(repo: Repo) -> bool:
    """Whether every claim of the night holds, its parts' and attempts' artifacts included."""
    return notary.verify(repo, "all", signers=None, as_json=False) == 0


def test_an_agent_and_a_flow_of_the_repository_s_own_make_a_pr(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, WORK)
    done, report = run(repo, tmp_path, Model())
    assert done.outcome is Outcome.ACCEPTED, done.reason
    assert done.node_agents["work"] == "sort@2"
    (pull,) = report.prs
    text = git("show", f"{pull.tip}:docs/a.md", cwd=repo.root)
    assert "Area: sea" in text and "Mood: calm" in text
    assert git("log", "-1", "--format=%s", pull.live[0].commit, cwd=repo.root).strip() == "docs: sort docs/a.md"


def test_a_fan_out_asks_once_per_part_and_each_part_has_its_artifacts(make_repo: MakeRepo, tmp_path: Path) -> None:
    model = Model()
    repo = build(make_repo, WORK + 'each = "plan.choose"\n')
    done, _ = run(repo, tmp_path, model)
    assert done.outcome is Outcome.ACCEPTED, done.reason
    assert {"work", "work.1", "work.2"} <= set(done.nodes)
    assert any("area try 1" in prompt for prompt in model.asked)
    assert b"mood try 1" in artifacts.read_artifact(repo, done.id, "work.2", "llm_prompt.txt")
    summed = json.loads(artifacts.read_artifact(repo, done.id, "work", "output.json"))
    assert summed["open"] == []
    assert verified(repo)
    assert len(summed["each"]) == 2


def test_a_failing_part_fails_the_node(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, WORK + 'each = "plan.choose"\n')
    done, _ = run(repo, tmp_path, Model(**{"mood try": "{}"}))
    assert (done.outcome, done.node) == (Outcome.FAILED, "work.2")


def test_a_failing_part_that_is_tolerated_is_said_and_the_flow_goes_on(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, WORK + 'each = "plan.choose"\ntolerated = true\n')
    done, _ = run(repo, tmp_path, Model(**{"mood try": "{}"}))
    assert done.nodes["work.2"] == "tolerated"
    assert done.node == "checks", "the flow went on, and the rules still ask for a mood"


def test_a_node_is_tried_again_with_what_went_wrong_and_every_attempt_is_kept(
    make_repo: MakeRepo, tmp_path: Path
) -> None:
    model = Model(**{"try 1": "not JSON"})
    repo = build(make_repo, WORK + 'retries = 2\nsuccess = "len(work.open) == 0"\n')
    done, _ = run(repo, tmp_path, model)
    assert done.outcome is Outcome.ACCEPTED, done.reason
    assert any("try 2" in prompt and "not JSON" in prompt for prompt in model.asked)
    assert b"not JSON" in artifacts.read_artifact(repo, done.id, "work", "attempt-1.tool_calls.jsonl")
    assert verified(repo)


def test_a_success_that_never_holds_fails_the_node_and_says_so(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, WORK + 'retries = 1\nsuccess = "len(work.open) == 7"\n')
    done, _ = run(repo, tmp_path, Model())
    assert (done.outcome, done.node) == (Outcome.FAILED, "work")
    assert done.reason == "after 2 attempts this does not hold: len(work.open) == 7"


def test_a_condition_that_does_not_hold_skips_the_node(make_repo: MakeRepo, tmp_path: Path) -> None:
    extra = '[[flow.node]]\nid = "extra"\nagent = "sort"\ninputs = ["plan"]\nwhen = "plan.rename"\n'
    repo = build(make_repo, extra + WORK.replace('["plan"]', '["plan", "extra"]'))
    done, _ = run(repo, tmp_path, Model())
    assert done.nodes["extra"] == "skipped"
    assert done.outcome is Outcome.ACCEPTED, done.reason


def test_among_several_agents_the_one_for_the_task_s_label_is_chosen_and_the_reason_kept(
    make_repo: MakeRepo, tmp_path: Path
) -> None:
    big = AGENT.replace("NAME", "sort.big").replace("MORE", 'match = {labels = ["big"]}')
    work = WORK.replace('agent = "sort"', 'agent = ["sort >= 1", "sort.big@2", "sort.big >= 1"]')
    repo = build(make_repo, work, **{".pantheon/agents/sort.big.toml": big})
    done, _ = run(repo, tmp_path, Model())
    assert done.node_agents["work"] == "sort.big@2"
    assert "work: sort.big@2: fits label big" in done.item.why[0]
