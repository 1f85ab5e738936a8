"""Runs one agent on one item: the loop's decisions meet the engine and the tools.

Owns nothing but the conversation: prompts are rendered by prompt.py, transitions decided by loop.py, files touched by
tools, tokens made by the engine. The artifacts it returns are the bytes the model got and gave.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pantheon import loop, prompt
from pantheon.engine import Engine
from pantheon.errors import ContextOverflow, DeadlineExceeded, EngineError, ToolError
from pantheon.records import Agent, Finding, NodeResult, NodeState, Offer, Repair, ToolCall, pretty
from pantheon.tools.tool import Tool
from pantheon.tools.workspace import Workspace

Judge = Callable[[Workspace], Sequence[Finding]]


@dataclass(frozen=True)
class Seat:
    """What an agent needs to run: its record, its prompt, the engine, the tools in force, and the part of the prompt
    that all items share."""

    agent: Agent
    template: prompt.Template | None
    engine: Engine
    tools: Mapping[str, Tool]
    shared: Mapping[str, Any]


async def run_agent(seat: Seat, ws: Workspace, node: str, item_values: Mapping[str, Any], judge: Judge) -> NodeResult:
    """One agent's whole loop on `ws`. `judge`: what the target still breaks. Never raises for what an agent can do
    wrong: a failure is a result."""
    started = time.monotonic()
    talk = _Talk(seat, ws, dict(item_values), judge)
    try:
        async with asyncio.timeout(seat.agent.limits.deadline_s):
            action = await talk.run()
    except (TimeoutError, DeadlineExceeded):
        talk.state, action = loop.advance(talk.state, loop.TimedOut(seat.agent.limits.deadline_s))
    except (ToolError, ContextOverflow) as error:
        action = loop.Fail(str(error))
    except EngineError as error:
        if not seat.engine.alive():
            raise  # the engine is gone: that is the night's matter, not this item's
        action = loop.Fail(str(error))
    return talk.result(node, action, time.monotonic() - started)


class _Talk:
    """The conversation of one agent: its state, its prompts, what the host fetched before."""

    def __init__(self, seat: Seat, ws: Workspace, values: dict[str, Any], judge: Judge) -> None:
        self.seat, self.ws, self.values, self.judge = seat, ws, values, judge
        self.state = loop.Loop(limits=seat.agent.limits)
        self.host_calls: list[ToolCall] = []
        self.prompts: list[str] = []
        self.schemas: list[dict[str, Any]] = []  # what each answer had to obey
        self.results: list[Mapping[str, Any]] = []
        self.latest: dict[str, Any] = {}  # tool -> its last result
        self.answered: set[str] = set()  # a reviewer is asked each question once

    async def run(self) -> loop.Action:
        fetched: dict[str, Any] = {}
        for name in self.seat.agent.prefetch:
            result = await call_tool(self.seat.tools, self.ws, name, {})
            fetched[name] = self.latest[name] = result
            self.host_calls.append(
                ToolCall(step=len(self.host_calls) + 1, by="host", tool=name, args={}, result=result)
            )
        self.values["fetched"] = fetched
        self.state, action = loop.advance(self.state, loop.Offered(await self._offers()))
        while isinstance(action, loop.Ask | loop.CallTool):
            self.state, action = loop.advance(self.state, await self._obey(action))
        return action

    async def _obey(self, action: loop.Ask | loop.CallTool) -> loop.Event:
        if isinstance(action, loop.CallTool):
            try:
                result = await call_tool(self.seat.tools, self.ws, action.tool, action.args)
                self.answered.add(action.tool)
                self.results.append(result)
                self.latest[action.tool] = result
            except ToolError as error:
                return loop.Offered(await self._offers(), error=str(error))
            return loop.Offered(await self._offers(), result=result)
        text = self._prompt()
        self.prompts.append(text)
        self.schemas.append(action.schema)
        completion = await self.seat.engine.complete(
            text,
            schema=action.schema,
            max_tokens=self.seat.agent.limits.max_tokens,
            deadline_s=self.seat.agent.limits.deadline_s,
        )
        return loop.Answered(completion, hashlib.sha256(text.encode()).hexdigest())

    async def _offers(self) -> tuple[Offer, ...]:
        agent = self.seat.agent
        review = agent.output == "review"
        offers: list[Offer] = []
        for name in agent.tools:
            if not (review and name in self.answered):
                offers += await _offered(self.seat.tools[name], self.ws)
        if offers and agent.finish == "forced":
            return tuple(offers)
        args: dict[str, tuple[str, ...] | None] = {}
        if review:
            args = {key: (value,) for key, value in verdict(self.results).items()}
        return (*offers, Offer(tool=loop.FINALIZE, args=args))

    def _prompt(self) -> str:
        assert self.seat.template is not None, f"{self.seat.agent.label} asks a model but has no prompt"
        own = {
            **self.values,
            "recent": prompt.recent(self.state.calls),
            "results": prompt.results(self.state.calls),
            "goals": prompt.goals(self.state.offers),
            "offers": [offer.model_dump() for offer in self.state.offers],
        }
        system, user = self.seat.template.render(self.seat.shared, own)
        return self.seat.engine.render(system, user)

    def result(self, node: str, action: loop.Action, seconds: float) -> NodeResult:
        calls = [*self.host_calls, *self.state.calls]
        failed = isinstance(action, loop.Fail)
        output: dict[str, Any] = {}
        if isinstance(action, loop.Finish):
            output = (
                dict(action.output)
                if self.seat.agent.output == "review"
                else edit_output(self.ws, self.judge(self.ws), self.latest)
            )
        metrics: dict[str, Any] = {
            "seconds": round(seconds, 3),
            "model_calls": self.state.asked,
            "failed_calls": self.state.failures,
            "prompt_tokens": sum(call.prompt_tokens for call in calls),
            "cached_tokens": sum(call.cached_tokens for call in calls),
            "completion_tokens": sum(call.completion_tokens for call in calls),
        }
        files = {
            "input.json": pretty(
                {
                    "agent": self.seat.agent.label,
                    "node": node,
                    "engine": self.seat.engine.name,
                    "model": self.seat.engine.model,
                    "template_sha256": self.seat.template.digest if self.seat.template else None,
                    "values": self.values,
                }
            ),
            "tool_calls.jsonl": "".join(call.to_json() + "\n" for call in calls).encode("utf-8", "backslashreplace"),
            "output.json": pretty(output),
            "metrics.json": pretty(metrics),
        }
        if self.prompts:
            files["llm_prompt.txt"] = prompt.record(self.prompts)
            lines = [json.dumps(schema, ensure_ascii=False, separators=(",", ":")) for schema in self.schemas]
            files["schemas.jsonl"] = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
        if self.seat.agent.output == "review":
            files["review.json"] = pretty({"agent": self.seat.agent.label, **output})
        return NodeResult(
            node=node,
            agent=self.seat.agent.label,
            state=NodeState.FAILED if failed else NodeState.PASSED,
            reason=action.reason if isinstance(action, loop.Fail) else "",
            output=output,
            files=files,
            seconds=seconds,
            prompt_tokens=metrics["prompt_tokens"],
            completion_tokens=metrics["completion_tokens"],
        )


async def call_tool(tools: Mapping[str, Tool], ws: Workspace, name: str, args: Mapping[str, str]) -> dict[str, Any]:
    """Call a tool by name with arguments checked against its schema, within its time. Raises ToolError."""
    tool = tools.get(name)
    if tool is None:
        raise ToolError("no such tool", name, f"known: {', '.join(sorted(tools))}")
    try:
        typed = tool.args.model_validate(dict(args))
    except ValidationError as error:
        raise ToolError("wrong arguments", name, error.errors()[0]["msg"]) from error
    try:
        with _interrupted(tool):
            result = tool.run(ws, typed)
        if isinstance(result, Awaitable):
            async with asyncio.timeout(tool.timeout_s):
                result = await result
    except TimeoutError as error:
        raise ToolError("gave up on the tool", name, f"its timeout of {tool.timeout_s:g} s passed") from error
    return result.model_dump(mode="json")


async def _offered(tool: Tool, ws: Workspace) -> tuple[Offer, ...]:
    try:
        with _interrupted(tool):
            offers = tool.offer(ws)
        if isinstance(offers, Awaitable):
            async with asyncio.timeout(tool.timeout_s):
                offers = await offers
    except TimeoutError as error:
        raise ToolError("gave up on the tool", tool.name, f"its timeout of {tool.timeout_s:g} s passed") from error
    return offers


@contextmanager
def _interrupted(tool: Tool) -> Iterator[None]:
    """Raise TimeoutError inside a tool that computes for too long: an alarm reaches Python code and its regular
    expressions, which nothing else in a single thread does. Elsewhere than in the main thread there is none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, tool.timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def verdict(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A reviewer's word, from its answers to blind questions: pass only when each named a proposed value."""
    wrong = [result for result in results if not result.get("same")]
    if not results:
        return {"verdict": "fail", "reason": "there was nothing to compare with"}
    if wrong:
        return {"verdict": "fail", "reason": f"wrong {wrong[0]['field']}"}
    return {"verdict": "pass", "reason": f"{results[0]['field']} fits the text"}


def edit_output(ws: Workspace, findings: Sequence[Finding], latest: Mapping[str, Any]) -> dict[str, Any]:
    """The output of an agent that edits: what the rules still say of the target, and what its tools gave last."""
    return {
        "target": ws.target,
        "open": [f.rule for f in findings if f.repair is not Repair.REPORT],
        "choose": [f.field or f.rule for f in findings if f.repair is Repair.CHOOSE and f.rule != "name"],
        "rename": any(f.rule == "name" for f in findings),
        "report": [f.message for f in findings if f.repair is Repair.REPORT],
        "results": dict(latest),
    }
