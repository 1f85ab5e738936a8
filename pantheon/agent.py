"""Runs one agent on one item: the loop's decisions meet the engine and the tools.

Owns nothing but the conversation: prompts are rendered by prompt.py, transitions decided by loop.py, files touched by
tools, tokens made by the engine. The artifacts it returns are the bytes the model got and gave.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pantheon import loop, prompt
from pantheon.engine import Engine
from pantheon.errors import ContextOverflow, DeadlineExceeded, EngineError, ToolError
from pantheon.records import Agent, NodeResult, NodeState, Offer, Repair, ToolCall, pretty
from pantheon.tools.registry import TOOLS
from pantheon.tools.rules import check_note
from pantheon.tools.workspace import Workspace


@dataclass(frozen=True)
class Seat:
    """What an agent needs to run: its record, its prompt, the engine, and the part of the prompt all items share."""

    agent: Agent
    template: prompt.Template | None
    engine: Engine
    shared: Mapping[str, Any]


async def run_agent(seat: Seat, ws: Workspace, node: str, item_values: Mapping[str, Any]) -> NodeResult:
    """One agent's whole loop on `ws`. Never raises for what an agent can do wrong: a failure is a result."""
    started = time.monotonic()
    talk = _Talk(seat, ws, dict(item_values))
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

    def __init__(self, seat: Seat, ws: Workspace, values: dict[str, Any]) -> None:
        self.seat, self.ws, self.values = seat, ws, values
        self.state = loop.Loop(limits=seat.agent.limits)
        self.host_calls: list[ToolCall] = []
        self.prompts: list[str] = []
        self.results: list[Mapping[str, Any]] = []
        self.answered: set[str] = set()  # a reviewer is asked each question once

    async def run(self) -> loop.Action:
        fetched: dict[str, Any] = {}
        for name in self.seat.agent.prefetch:
            result = call_tool(self.ws, name, {})
            fetched[name] = result
            self.host_calls.append(
                ToolCall(step=len(self.host_calls) + 1, by="host", tool=name, args={}, result=result)
            )
        self.values["fetched"] = fetched
        self.state, action = loop.advance(self.state, loop.Offered(self._offers()))
        while isinstance(action, loop.Ask | loop.CallTool):
            self.state, action = loop.advance(self.state, await self._obey(action))
        return action

    async def _obey(self, action: loop.Ask | loop.CallTool) -> loop.Event:
        if isinstance(action, loop.CallTool):
            try:
                result = call_tool(self.ws, action.tool, action.args)
                self.answered.add(action.tool)
                self.results.append(result)
            except ToolError as error:
                return loop.Offered(self._offers(), error=str(error))
            return loop.Offered(self._offers(), result=result)
        text = self._prompt()
        self.prompts.append(text)
        completion = await self.seat.engine.complete(
            text,
            schema=action.schema,
            max_tokens=self.seat.agent.limits.max_tokens,
            deadline_s=self.seat.agent.limits.deadline_s,
        )
        return loop.Answered(completion, hashlib.sha256(text.encode()).hexdigest())

    def _offers(self) -> tuple[Offer, ...]:
        review = self.seat.agent.output == "review"
        names = [name for name in self.seat.agent.tools if not (review and name in self.answered)]
        offers = tuple(offer for name in names for offer in TOOLS[name].offer(self.ws))
        if offers:
            return offers
        if review:
            return (Offer(tool=loop.FINALIZE, args={k: (v,) for k, v in verdict(self.results).items()}),)
        return (Offer(tool=loop.FINALIZE, args={}),)

    def _prompt(self) -> str:
        assert self.seat.template is not None, f"{self.seat.agent.label} asks a model but has no prompt"
        own = {
            **self.values,
            "recent": prompt.recent(self.state.calls),
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
            output = dict(action.output) if self.seat.agent.output == "review" else edited(self.ws)
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


def call_tool(ws: Workspace, name: str, args: Mapping[str, str]) -> dict[str, Any]:
    """Call a tool by name with arguments checked against its schema. Raises ToolError."""
    tool = TOOLS.get(name)
    if tool is None:
        raise ToolError("no such tool", name, f"known: {', '.join(sorted(TOOLS))}")
    try:
        typed = tool.args.model_validate(dict(args))
    except ValidationError as error:
        raise ToolError("wrong arguments", name, error.errors()[0]["msg"]) from error
    return tool.run(ws, typed).model_dump(mode="json")


def verdict(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A reviewer's word, from its answers to blind questions: pass only when each named a proposed value."""
    wrong = [result for result in results if not result.get("same")]
    if not results:
        return {"verdict": "fail", "reason": "there was nothing to compare with"}
    if wrong:
        return {"verdict": "fail", "reason": f"wrong {wrong[0]['field']}"}
    return {"verdict": "pass", "reason": f"{results[0]['field']} fits the text"}


def edited(ws: Workspace) -> dict[str, Any]:
    """The output of an agent that edits: what the rules still say of the target."""
    findings = check_note(ws.target, ws.read(ws.target), ws.rules)
    return {
        "target": ws.target,
        "choose": [f.field for f in findings if f.repair is Repair.CHOOSE and f.rule != "name"],
        "rename": any(f.rule == "name" for f in findings),
        "report": [f.message for f in findings if f.repair is Repair.REPORT],
    }
