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
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pantheon import loop, process, prompt
from pantheon.engine import Engine
from pantheon.errors import ContextOverflow, DeadlineExceeded, DiskFull, EngineError, ToolError, is_full
from pantheon.plan import printable
from pantheon.records import (
    Agent,
    Criterion,
    Finding,
    NodeMetrics,
    NodeResult,
    NodeState,
    Offer,
    Repair,
    ToolCall,
    pretty,
)
from pantheon.tools.tool import Tool
from pantheon.tools.workspace import Workspace

REASON, SHOWN = 160, 60  # characters of a criterion's reason, and of one value in it
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
    with process.used() as used:
        try:
            async with asyncio.timeout(seat.agent.limits.deadline_s):
                action = await talk.run()
        except (TimeoutError, DeadlineExceeded):
            talk.state, action = loop.advance(talk.state, loop.TimedOut(seat.agent.limits.deadline_s))
        except ContextOverflow as error:
            action = loop.Fail(str(error), "context")
        except ToolError as error:
            if is_full(error):
                raise _pause(error) from error
            action = loop.Fail(str(error), "tool")
        except EngineError as error:
            if not seat.engine.alive():
                raise  # the engine is gone: that is the night's matter, not this item's
            action = loop.Fail(str(error), "engine")
    return talk.result(node, action, time.monotonic() - started, used)


def _pause(error: ToolError) -> DiskFull:
    return DiskFull("a tool cannot go on", error.thing, str(error), "free some disk space")


class _Talk:
    """The conversation of one agent: its state, its prompts, what the host fetched before."""

    def __init__(self, seat: Seat, ws: Workspace, values: dict[str, Any], judge: Judge) -> None:
        self.seat, self.ws, self.values, self.judge = seat, ws, values, judge
        self.state = loop.Loop(limits=seat.agent.limits)
        self.host_calls: list[ToolCall] = []
        self.prompts: list[str] = []
        self.schemas: list[dict[str, Any]] = []  # what each answer had to obey
        self.criteria: list[Criterion] = []  # a reviewer's, one for each question that was answered
        self.tool_s = 0.0
        self.latest: dict[str, Any] = {}  # tool -> its last result
        self.answered: set[str] = set()  # a reviewer is asked each question once

    async def run(self) -> loop.Action:
        fetched: dict[str, Any] = {}
        for name in self.seat.agent.prefetch:
            with self._on_tools():
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
                with self._on_tools():
                    result = await call_tool(self.seat.tools, self.ws, action.tool, action.args)
            except ToolError as error:
                if is_full(error):
                    raise _pause(error) from error
                cause = "timeout" if isinstance(error.__cause__, TimeoutError) else "tool"
                return loop.Offered(await self._offers(), error=str(error), cause=cause)
            self.answered.add(action.tool)
            self.latest[action.tool] = result
            if self.seat.agent.output == "review":
                asked = [offer for offer in self.state.offers if offer.tool == action.tool]
                self.criteria.append(criterion(asked, result, self.state.calls[-1].confidence))
            return loop.Offered(await self._offers(), result=result)
        text = self._prompt()
        self.prompts.append(text)
        self.schemas.append(action.schema)
        completion = await self.seat.engine.complete(
            text,
            schema=action.schema,
            max_tokens=self.seat.agent.limits.max_tokens,
            deadline_s=self.seat.agent.limits.deadline_s,
            logprobs=self.seat.agent.output == "review",
        )
        return loop.Answered(completion, hashlib.sha256(text.encode()).hexdigest())

    async def _offers(self) -> tuple[Offer, ...]:
        agent = self.seat.agent
        review = agent.output == "review"
        offers: list[Offer] = []
        for name in agent.tools:
            if not (review and (offers or name in self.answered)):  # a reviewer gets one question after the other
                with self._on_tools():
                    offers += await _offered(self.seat.tools[name], self.ws)
        if offers and agent.finish == "forced":
            return tuple(offers)
        args: dict[str, tuple[str, ...] | None] = {}
        if review:
            args = {key: (value,) for key, value in verdict(self.criteria).items()}
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

    @contextmanager
    def _on_tools(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.tool_s += time.monotonic() - started

    def _output(self, action: loop.Action) -> dict[str, Any]:
        """What the agent made of it. A reviewer that gave no answer which counts says no to that, and so to all."""
        if self.seat.agent.output == "review":
            criteria = list(self.criteria)
            if isinstance(action, loop.Fail):
                if not self.state.calls or self.state.calls[-1].cause not in {*loop.REFUSED, "repeat"}:
                    return {}
                criteria.append(Criterion(name="answer", verdict="fail", reason=_cut(action.reason, REASON)))
            sure = [one.confidence for one in criteria if one.confidence is not None]
            said = [one.model_dump(mode="json") for one in criteria]
            return {**verdict(criteria), "criteria": said, "confidence": min(sure, default=None)}
        if isinstance(action, loop.Finish):
            return edit_output(self.ws, self.judge(self.ws), self.latest)
        return {}

    def _metrics(
        self, calls: Sequence[ToolCall], action: loop.Action, seconds: float, used: process.Used
    ) -> NodeMetrics:
        """What all of it cost. A request that ended without an answer is in `seconds` only."""
        ran = [call for call in calls if call.tool != loop.FINALIZE and call.cause not in {*loop.REFUSED, "repeat"}]
        errors: dict[str, dict[str, int]] = {}
        for call in calls:
            if call.cause and call.cause not in loop.REFUSED:
                causes = errors.setdefault(call.tool, {})
                causes[call.cause] = causes.get(call.cause, 0) + 1
        return NodeMetrics(
            seconds=round(seconds, 3),
            queue_s=round(sum(call.queue_s for call in calls), 6),
            prefill_s=round(sum(call.prefill_s for call in calls), 6),
            decode_s=round(sum(call.seconds - call.queue_s - call.prefill_s for call in calls), 6),
            tool_s=round(self.tool_s, 6),
            engine_s=round(sum(call.engine_s for call in calls), 6),
            cpu_s=round(used.cpu_s, 6),
            memory_bytes=used.memory_bytes,
            prompt_tokens=sum(call.prompt_tokens for call in calls),
            cached_tokens=sum(call.cached_tokens for call in calls),
            completion_tokens=sum(call.completion_tokens for call in calls),
            model_calls=self.state.asked,
            schema_errors=sum(call.cause in loop.REFUSED for call in calls),
            tool_calls=dict(Counter(call.tool for call in ran)),
            tool_errors=errors,
            exit=action.cause if isinstance(action, loop.Fail) else NodeState.PASSED.value,
        )

    def result(self, node: str, action: loop.Action, seconds: float, used: process.Used) -> NodeResult:
        calls = [*self.host_calls, *self.state.calls]
        failed = isinstance(action, loop.Fail)
        output = self._output(action)
        metrics = self._metrics(calls, action, seconds, used)
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
            "metrics.json": pretty(metrics.model_dump(mode="json")),
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
            prompt_tokens=metrics.prompt_tokens,
            completion_tokens=metrics.completion_tokens,
            metrics=metrics,
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
        with _counted(), _interrupted(tool):
            result = tool.run(ws, typed)
        if isinstance(result, Awaitable):
            async with asyncio.timeout(tool.timeout_s):
                result = await result
    except TimeoutError as error:
        raise ToolError("gave up on the tool", name, f"its timeout of {tool.timeout_s:g} s passed") from error
    return result.model_dump(mode="json")


async def _offered(tool: Tool, ws: Workspace) -> tuple[Offer, ...]:
    try:
        with _counted(), _interrupted(tool):
            offers = tool.offer(ws)
        if isinstance(offers, Awaitable):
            async with asyncio.timeout(tool.timeout_s):
                offers = await offers
    except TimeoutError as error:
        raise ToolError("gave up on the tool", tool.name, f"its timeout of {tool.timeout_s:g} s passed") from error
    return offers


@contextmanager
def _counted() -> Iterator[None]:
    """Count what is computed here as used. What a tool computes between its waits is not seen."""
    started = time.thread_time()
    try:
        yield
    finally:
        process.count(time.thread_time() - started)


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


def criterion(asked: Sequence[Offer], result: Mapping[str, Any], confidence: float | None) -> Criterion:
    """What the answer to a blind question says of the proposed value. `asked`: the offers that it was chosen from;
    where they hold nothing but proposed values there was no question, and so no yes."""
    proposed = result.get("proposed")
    true = list(map(str, proposed)) if isinstance(proposed, list) else [str(proposed or "")]
    rivals = any(values is None or set(values) - set(true) for offer in asked for values in offer.args.values())
    passed = result.get("same") is True and rivals
    if passed:
        how = "as proposed"
    elif result.get("same") is True:
        how = "but there was nothing to compare with"
    else:
        how = f"proposed was {', '.join(map(_quoted, true))}"
    reason = f"named {_quoted(str(result.get('chosen', '')))}, {how}"
    return Criterion(
        name=_cut(str(result.get("field") or asked[0].tool), SHOWN),
        verdict="pass" if passed else "fail",
        reason=_cut(reason, REASON),
        confidence=None if confidence is None else round(confidence, 4),
    )


def verdict(criteria: Sequence[Criterion]) -> dict[str, str]:
    """A reviewer's word: pass only when every criterion passes, and there is one."""
    wrong = [one.name for one in criteria if one.verdict != "pass"]
    if not criteria:
        return {"verdict": "fail", "reason": "there was nothing to compare with"}
    if wrong:
        return {"verdict": "fail", "reason": f"wrong {', '.join(wrong)}"}
    named = ", ".join(one.name for one in criteria)
    return {"verdict": "pass", "reason": f"{named} fit{'s' if len(criteria) == 1 else ''} the text"}


def _quoted(value: str) -> str:
    return f"'{_cut(value, SHOWN)}'"


def _cut(text: str, most: int) -> str:
    """For people: printable, and no longer than `most` characters."""
    shown = printable(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


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
