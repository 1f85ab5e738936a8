"""An agent: its tools are held to their arguments and their time, its word and its cost are told in parts."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pantheon import process
from pantheon.agent import Seat, call_tool, run_agent
from pantheon.engine import HANG, ScriptedEngine
from pantheon.errors import ContextOverflow, EngineError, ToolError
from pantheon.prompt import Template
from pantheon.records import Agent, AgentLimits, NodeResult, NodeState, Offer, Record, Runtime
from pantheon.tools.facts import Facts
from pantheon.tools.match import Matched
from pantheon.tools.tool import Nothing, Tool
from pantheon.tools.workspace import Workspace


class Said(Record):
    text: str


def spin(ws: Workspace, args: Nothing) -> Said:
    while True:
        pass


def backtrack(ws: Workspace, args: Nothing) -> Said:
    re.fullmatch("(a|aa)+b", "a" * 60)
    return Said(text="done")


async def wait(ws: Workspace, args: Nothing) -> Said:
    await asyncio.sleep(60)
    return Said(text="done")


async def answer(ws: Workspace, args: Nothing) -> Said:
    await asyncio.sleep(0)
    return Said(text="done")


def call(run: Callable[[Workspace, Any], Record | Awaitable[Record]], place: Path) -> dict[str, Any]:
    tool = Tool("t", "a tool", Nothing, Said, {}, run, timeout_s=0.3)
    ws = Workspace(place, "a.md", Said(text=""), Facts(), lambda _: None)
    return asyncio.run(call_tool({"t": tool}, ws, "t", {}))


@pytest.mark.parametrize("run", [spin, backtrack, wait], ids=["a loop", "a regular expression", "a wait"])
def test_a_tool_that_does_not_end_is_stopped_in_words(
    run: Callable[[Workspace, Any], Record | Awaitable[Record]], tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"its timeout of 0.3 s passed"):
        call(run, tmp_path)
    assert time.monotonic() - started < 30


def test_a_tool_may_wait_for_what_it_does(tmp_path: Path) -> None:
    assert call(answer, tmp_path) == {"text": "done"}


# --- a whole agent ---------------------------------------------------------------------------------------------------


TEMPLATE = Template("{% block system %}You review.{% endblock %}{% block user %}{{ offers }}{% endblock %}", "t.j2")
TIDES, BOATS, ROPES = "Tides in the harbour", "Boats", "Ropes"


class Named(Record):
    value: str


def question(name: str, values: tuple[str, ...], proposed: tuple[str, ...]) -> Tool:
    """A blind question: which of these values?"""

    def ask(ws: Workspace, args: Named) -> Matched:
        return Matched(field=name, chosen=args.value, proposed=proposed, same=args.value in proposed)

    def offer(ws: Workspace) -> tuple[Offer, ...]:
        return (Offer(tool=f"match_{name}", args={"value": values}),)

    return Tool(f"match_{name}", "name it", Named, Matched, {"value": values[0]}, ask, offer)


def run(engine: ScriptedEngine, place: Path, *tools: Tool, **more: Any) -> NodeResult:
    agent = Agent(
        name="review.a",
        version=1,
        summary="x",
        runtime=Runtime(origin="local"),
        tools=tuple(tool.name for tool in tools),
        **{"output": "review", "limits": AgentLimits(max_failures=1, deadline_s=20), **more},
    )
    seat = Seat(agent, TEMPLATE, engine, {tool.name: tool for tool in tools}, {})
    ws = Workspace(place, "a.md", Said(text=""), Facts(), lambda _: None)
    return asyncio.run(run_agent(seat, ws, "review-a", {}, lambda _: ()))


def naming(**answers: str) -> ScriptedEngine:
    """A reviewer that answers these, one per tool."""
    script = [(f"match_{name}", f'{{"tool":"match_{name}","value":"{value}"}}') for name, value in answers.items()]
    return ScriptedEngine(script, confidence=0.5, latency_s=0.02)


def test_each_question_is_a_criterion(tmp_path: Path) -> None:
    title = question("title", (TIDES, BOATS), (TIDES,))
    done = run(naming(title=TIDES), tmp_path, title)
    criterion = {"name": "title", "verdict": "pass", "reason": f"named '{TIDES}', as proposed", "confidence": 0.5}
    wanted = {"verdict": "pass", "reason": "title fits the text", "criteria": [criterion], "confidence": 0.5}
    assert done.output == wanted
    assert json.loads(done.files["review.json"]) == {"agent": "review.a@1", **wanted}


def test_one_wrong_criterion_is_enough_and_is_named(tmp_path: Path) -> None:
    title, tags = question("title", (TIDES, BOATS), (TIDES,)), question("tags", (BOATS, ROPES), (ROPES,))
    done = run(naming(title=TIDES, tags=BOATS), tmp_path, title, tags)
    assert (done.output["verdict"], done.output["reason"]) == ("fail", "wrong tags")
    found = [(one["name"], one["verdict"], one["reason"]) for one in done.output["criteria"]]
    assert found == [
        ("title", "pass", f"named '{TIDES}', as proposed"),
        ("tags", "fail", f"named '{BOATS}', proposed was '{ROPES}'"),
    ]


@pytest.mark.parametrize("values", [(TIDES,), (TIDES, BOATS)], ids=["one value", "all of them proposed"])
def test_a_question_that_cannot_be_answered_wrongly_is_no_yes(tmp_path: Path, values: tuple[str, ...]) -> None:
    done = run(naming(title=TIDES), tmp_path, question("title", values, values))
    assert done.output["verdict"] == "fail"
    assert done.output["criteria"][0]["reason"] == f"named '{TIDES}', but there was nothing to compare with"


def test_without_a_question_there_is_no_yes(tmp_path: Path) -> None:
    done = run(ScriptedEngine(), tmp_path, Tool("t", "a tool", Nothing, Said, {}, answer))
    assert (done.output["verdict"], done.output["criteria"], done.output["confidence"]) == ("fail", [], None)


def test_a_reviewer_that_gives_no_answer_says_no(tmp_path: Path) -> None:
    done = run(ScriptedEngine([("", "Sure!")]), tmp_path, question("title", (TIDES, BOATS), (TIDES,)))
    assert (done.state, done.output["verdict"], done.output["reason"]) == (NodeState.FAILED, "fail", "wrong answer")
    (only,) = done.output["criteria"]
    assert (only["name"], only["verdict"]) == ("answer", "fail")
    assert "not JSON" in only["reason"]
    assert (done.metrics.schema_errors, done.metrics.exit, done.metrics.tool_errors) == (2, "failures", {})


def test_what_a_criterion_shows_of_a_repository_is_short_and_plain(tmp_path: Path) -> None:
    hostile = "\x1b[31m\u202e" + "x" * 300
    done = run(naming(title=BOATS), tmp_path, question("title", (BOATS, hostile), (hostile,)))
    reason = done.output["criteria"][0]["reason"]
    assert reason.isprintable()
    assert len(reason) <= 160
    assert reason.startswith("named 'Boats', proposed was '\\x1b[31m\\u202exx")


def test_what_a_node_cost_is_told_in_parts(tmp_path: Path) -> None:
    title, tags = question("title", (TIDES, BOATS), (TIDES,)), question("tags", (BOATS, ROPES), (ROPES,))
    done = run(naming(title=TIDES, tags=BOATS), tmp_path, title, tags)
    cost = done.metrics
    assert json.loads(done.files["metrics.json"]) == cost.model_dump(mode="json")
    assert (cost.exit, cost.model_calls, cost.tool_calls) == ("passed", 2, {"match_title": 1, "match_tags": 1})
    assert cost.prefill_s >= 0.02
    assert cost.decode_s >= 0.02
    assert cost.engine_s == pytest.approx(cost.prefill_s + cost.decode_s, rel=0.2)
    assert cost.queue_s + cost.prefill_s + cost.decode_s + cost.tool_s <= cost.seconds + 0.01
    assert (cost.prompt_tokens, cost.completion_tokens) == (done.prompt_tokens, done.completion_tokens)
    calls = [json.loads(line) for line in done.files["tool_calls.jsonl"].splitlines()]
    assert sum(call["engine_s"] for call in calls) == pytest.approx(cost.engine_s, abs=1e-5)


def test_a_tools_own_errors_are_told_by_tool_and_cause(tmp_path: Path) -> None:
    def refuse(ws: Workspace, args: Named) -> Matched:
        raise ToolError("no", args.value, "never")

    title = question("title", (TIDES, BOATS), (TIDES,))
    slow, no = replace(title, run=spin, timeout_s=0.1), replace(title, run=refuse)
    for tool, cause in ((slow, "timeout"), (no, "tool")):
        cost = run(naming(title=TIDES), tmp_path, tool, limits=AgentLimits(max_failures=0, deadline_s=20)).metrics
        assert (cost.exit, cost.tool_errors, cost.schema_errors) == ("failures", {"match_title": {cause: 1}}, 0)
        assert cost.tool_calls == {"match_title": 1}


def test_what_ends_an_agent_is_told(tmp_path: Path) -> None:
    title = question("title", (TIDES, BOATS), (TIDES,))
    short = AgentLimits(deadline_s=0.05)
    cost = run(ScriptedEngine([("", HANG)]), tmp_path, title, limits=short).metrics
    assert (cost.exit, cost.model_calls) == ("deadline", 0)
    assert run(ScriptedEngine([("", ContextOverflow("too long"))]), tmp_path, title).metrics.exit == "context"
    assert run(ScriptedEngine([("", EngineError("refused"))]), tmp_path, title).metrics.exit == "engine"


def test_the_time_of_a_tool_and_of_its_children_is_counted(tmp_path: Path) -> None:
    async def work(ws: Workspace, args: Named) -> Matched:
        script = "x = bytearray(80 << 20)\nimport time\nwhile time.process_time() < 0.3: pass"
        await process.run_async([sys.executable, "-c", script], limits=process.Limits())
        return Matched(field="title", chosen=args.value, proposed=(TIDES,), same=True)

    tool = replace(question("title", (TIDES, BOATS), (TIDES,)), run=work)
    cost = run(naming(title=TIDES), tmp_path, tool).metrics
    assert cost.tool_s >= 0.3
    assert cost.cpu_s >= 0.3
    assert cost.memory_bytes > 20 << 20
