"""Runs a node of a stored run again: with the same prompt bytes, or its old inputs through another agent.

Owns the way back from a run's artifacts to the worktree that a node found: the base commit, then the recorded calls of
the nodes before it. Flow, rules, prompts and tools are those of the base commit. Everything that it writes goes to the
repository that the stage was opened on, which is a shadow; it decides nothing about the run.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pantheon import artifacts, flow, item, loop, prompt, redact
from pantheon import cast as casting
from pantheon import night as runner
from pantheon.agent import Seat, call_tool, run_agent
from pantheon.cast import Cast
from pantheon.checks import CheckRoom
from pantheon.config import Config, UserLimits
from pantheon.engine import Engine
from pantheon.errors import ConfigError, DeadlineExceeded, EngineError, RepositoryError, ToolError
from pantheon.git import Repo
from pantheon.item import Attempt, Shop, Trip
from pantheon.plan import printable
from pantheon.recorded import Stored, Take
from pantheon.records import (
    AgentLimits,
    CheckResult,
    Completion,
    EngineMetrics,
    Flow,
    FlowNode,
    NodeResult,
    NodeState,
    Record,
    Runtime,
    Task,
    ToolCall,
    pretty,
)
from pantheon.slots import Load
from pantheon.survey import Survey, survey
from pantheon.tools.registry import TOOLS
from pantheon.tools.tool import Tool
from pantheon.tools.workspace import Workspace

AROUND = 30  # characters that are shown of a difference
MAX_PATCH = 32_768  # characters that are kept of one
_COST = {  # of a call, which no replay can repeat
    *("prompt_tokens", "cached_tokens", "completion_tokens", "seconds", "queue_s", "prefill_s", "engine_s"),
    "cause",  # its error tells it
}
_LATER = ("criteria", "confidence")  # in outputs of reviewers: runs from before they were kept have none
Allowed = Callable[[str], None]  # raises TrustError when nobody trusts the commands of this commit


class Answer(Record):
    """One stored prompt, sent again byte for byte. `intact`: it has the digest that was noted when it was sent."""

    prompt: int
    state: Literal["same", "different", "unsent"]
    intact: bool
    recorded: str | None
    answer: str | None = None
    why: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Side(Record):
    """What a node did, once: as it was recorded, or as it came out of a replay. `files`: path -> sha256, None: gone."""

    agent: str
    state: str
    reason: str
    output: dict[str, Any]
    calls: tuple[str, ...] = ()
    files: dict[str, str | None] = Field(default_factory=dict)
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Replay(Record):
    """One node run again. `rebuilt`: whether its worktree and its recorded answers gave the same prompts, calls and
    output again; None where that was not tried or not possible. `why` says what differs; `patch` how the files do."""

    run: str
    night: str
    target: str
    node: str
    before: Side
    after: Side | None = None
    rebuilt: bool | None = None
    answers: tuple[Answer, ...] = ()
    why: tuple[str, ...] = ()
    patch: str = ""
    same: bool


# --- the stage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One base commit, ready to replay its runs on. Seats hold the engine that replays ask."""

    shop: Shop
    tasks: Mapping[str, Task]
    engine: Engine
    allowed: Allowed
    survey: Survey

    def seat(self, config: Config, name: str) -> Seat:
        """An agent of another commit's configuration, under the rules of this base. Raises ConfigError."""
        return runner.seats(config, self.engine, self.survey)[name]

    def voice(self, label: str) -> Engine:
        """The engine as it speaks for an agent of the base; for one that is not there as it speaks for nobody."""
        seat = self.shop.seats.get(label.rpartition("@")[0])
        return seat.engine if seat else self.engine

    @property
    def tools(self) -> Mapping[str, Tool]:
        return next(iter(self.shop.seats.values())).tools

    def graph(self, stored: Stored) -> Flow:
        """The run's flow. Raises ConfigError when the base no longer has it: a packaged one went with its version."""
        name = stored.run.item.flow
        if name not in self.shop.config.flows:
            raise ConfigError("cannot rebuild", f"flow {name}", "neither the base commit nor this version has it")
        return self.shop.config.flows[name]

    def order(self, stored: Stored) -> tuple[str, ...]:
        """The run's nodes and parts of nodes, in the order in which the flow came to them."""
        layers = flow.layers(self.graph(stored))
        return tuple(
            name
            for layer in layers
            for one in layer
            for name in dict.fromkeys((*stored.parts(one.id), one.id))
            if name in stored.run.nodes
        )


@dataclass
class _Room(CheckRoom):
    """Opens when a check is asked for, if the base commit's commands are trusted."""

    base: str = ""
    allowed: Allowed = lambda commit: None
    opened: bool = False

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        self.allowed(self.base)
        if not self.opened:
            CheckRoom.open(self.repo, self.config, self.base, self.work)
            self.opened = True
        return await super().run(*args, **kwargs)


def open_stage(
    repo: Repo,
    base: str,
    engine: Engine,
    work: Path,
    *,
    limits: UserLimits,
    protected: Sequence[str],
    allowed: Allowed,
    cast: Cast | None = None,
) -> Stage:
    """Read a base commit. `repo` is a shadow, `work` a directory for this base alone, `cast` who speaks beside the
    model. Raises ConfigError."""
    found = survey(repo, base, limits, tuple(protected))
    if cast is not None:
        found = replace(found, config=casting.taught(found.config, cast))
    shop = Shop(
        repo=repo,
        config=found.config,
        base=base,
        entries=found.entries,
        rules=found.rules,
        facts=found.facts,
        seats=runner.seats(found.config, engine, found),
        room=_Room(repo, found.config, work, base=base, allowed=allowed),
        protected=found.config.settings.night.protected,
    )
    return Stage(shop, {task.uuid: task for task in found.tasks}, engine, allowed, found)


@contextlib.contextmanager
def _worktree(stage: Stage, stored: Stored, label: str) -> Iterator[tuple[Trip, Workspace]]:
    """A worktree at the base commit for one replay, and the item that is under way in it."""
    run, repo = stored.run, stage.shop.repo
    name = f"replay-{run.id[:16]}-{label}"
    place = stage.shop.room.work / "worktrees" / name
    task = stage.tasks.get(run.item.task)
    if task is None:
        raise RepositoryError("cannot rebuild", f"run {run.id[:12]}", "its task is not in the base commit")
    repo.add_worktree(place, stage.shop.base, name)
    try:
        trip = Trip(item=run.item, task=task, run=run.id, target=run.item.target)
        yield trip, item.open_workspace(stage.shop, trip, place)
    finally:
        repo.remove_worktree(place, name)


async def _walk(stage: Stage, stored: Stored, trip: Trip, ws: Workspace, node: str, take: Take | None) -> list[str]:
    """Bring a fresh worktree to what an attempt at `node` found; what came out otherwise on the way."""
    graph = stage.graph(stored)
    owner = next((one.id for one in graph.nodes if node in stored.parts(one.id)), None)
    if owner is None:
        why = "the flow has no such node in this version"
        raise ConfigError("cannot rebuild", f"node {node} of flow {graph.name}", why)
    before = take.values.get("before") if take else None
    if isinstance(before, dict):  # exact: what was done when the node's inputs were put together
        earlier = set(before)
    else:
        layers = [[one.id for one in layer] for layer in flow.layers(graph)]
        level = next(n for n, layer in enumerate(layers) if owner in layer)
        earlier = {name for layer in layers[:level] for one in layer for name in (one, *stored.parts(one))}
    done = stored.done()
    notes: list[str] = []
    for name in stage.order(stored):
        if name in earlier and name in done:
            trip.done[name] = done[name]
            for one in stored.takes(name):
                notes += await _apply(stage, ws, one)
    for one in stored.takes(node):
        if take is not None and one.attempt < take.attempt:
            notes += await _apply(stage, ws, one)
    return notes


async def _apply(stage: Stage, ws: Workspace, take: Take) -> list[str]:
    """Make an attempt's recorded calls again, without asking anyone; the calls whose result is another now."""
    notes = []
    place = _placed(ws, take)
    for call in take.calls:
        if call.error is not None or call.result is None:
            continue
        _require(stage, (call.tool,))
        result = await call_tool(stage.tools, place, call.tool, call.args)
        if result != call.result:
            notes.append(f"{take.node}: {call.tool} gives another result than the one recorded")
    return notes


def _placed(ws: Workspace, take: Take) -> Workspace:
    return ws.focused(take.focus) if take.focus else ws


def _require(stage: Stage, tools: Sequence[str]) -> None:
    """Raise TrustError when one of these tools is the repository's own, and nobody trusts what it would run."""
    if not set(tools) <= set(TOOLS):
        stage.allowed(stage.shop.base)


# --- the same bytes again --------------------------------------------------------------------------------------------


@dataclass
class _Tape:
    """Stands in for the engine: renders as it does, gives the recorded answers in turn, keeps what it is asked."""

    engine: Engine
    take: Take
    asked: list[str] = field(default_factory=list)
    schemas: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.model = self.engine.name, self.engine.model
        self.max_model_len, self.window = self.engine.max_model_len, self.engine.window

    def alive(self) -> bool:
        return True

    def of(self, runtime: Runtime) -> _Tape:
        return self

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    def render(self, system: str, user: str) -> str:
        return self.engine.render(system, user)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        self.asked.append(prompt)
        self.schemas.append(schema)
        call = self.take.asks[len(self.asked) - 1] if len(self.asked) <= len(self.take.asks) else None
        if call is None or call.answer is None:
            raise EngineError("no answer", self.model, "none was recorded")
        cut = call.error is not None and call.completion_tokens >= max_tokens
        return Completion(
            text=call.answer,
            finish_reason="length" if cut else "stop",
            prompt_tokens=call.prompt_tokens,
            cached_tokens=call.cached_tokens,
            completion_tokens=call.completion_tokens,
            seconds=call.seconds,
            confidence=call.confidence,
        )

    async def metrics(self) -> EngineMetrics:
        return EngineMetrics()

    def load(self) -> Load:
        return Load()

    async def close(self) -> None:
        """Nothing was opened."""


async def replay_node(stage: Stage, stored: Stored, node: str, other: Seat | None = None) -> Replay:
    """Run one node of a run again, on a worktree as it found it.

    Without `other`: its prompts are rebuilt and, if a model answered them, sent again byte for byte; checks and the
    gate are run again. With `other`: its first inputs go through that agent's whole loop, with the stage's engine.
    Raises RepositoryError for artifacts that do not fit together, TrustError, and EngineError when the engine is gone.
    """
    takes = stored.takes(node)
    if other is not None:
        return await _through(stage, stored, node, takes, other)
    if not takes:
        return await _judged(stage, stored, node)
    answers: list[Answer] = []
    why: list[str] = []
    rebuilt: bool | None = True
    after = None
    for take in takes:
        marked = f"attempt {take.attempt}, " if len(takes) > 1 else ""
        async with stage.voice(take.agent).turn():
            try:
                after, differences = await _rebuilt(stage, stored, take)
            except (ToolError, ConfigError) as error:
                after, differences, rebuilt = None, [f"cannot be rebuilt: {error}"], None
            answers += await _ask(stage, take)
        if rebuilt and differences:
            rebuilt = False
        why += [marked + text for text in differences]
    same = rebuilt is True and not any(one.state == "different" or not one.intact for one in answers)
    return _replay(stored, node, takes, after, rebuilt=rebuilt, answers=tuple(answers), why=tuple(why), same=same)


async def _rebuilt(stage: Stage, stored: Stored, take: Take) -> tuple[Side, list[str]]:
    """An attempt run again with the answers that were recorded: what came out, and how it differs."""
    seat = stage.shop.seats.get(take.agent.rpartition("@")[0])
    if seat is None:
        raise ConfigError("no such agent", take.agent, "neither the base commit nor this version has it")
    _require(stage, (*seat.agent.tools, *seat.agent.prefetch))
    tape = _Tape(seat.engine, take)
    with _worktree(stage, stored, f"{take.node}-{take.attempt}") as (trip, ws):
        notes = await _walk(stage, stored, trip, ws, take.node, take)
        place = _placed(ws, take)
        values = {key: value for key, value in take.values.items() if key != "fetched"}
        result = await run_agent(
            replace(seat, engine=tape), place, take.node, values, lambda w: item.judge(stage.shop, trip, w)
        )
        scrubber = _scrubber(stage, stored, result)
        after = _side(result, ws.changes(), scrubber)
    found = _differences(take, tape, result, scrubber)
    if found and seat.agent.label != take.agent:
        found.append(f"{seat.agent.label} is in force there now, {take.agent} ran: it came with another version")
    elif found and seat.template and take.template != seat.template.digest:
        found.append("its prompt template is another now: it came with another version, or the artifact was changed")
    beside = [name for name in stored.run.nodes if name.rpartition(".")[0] == take.node.rpartition(".")[0] != ""]
    if found and len(beside) > 1:
        found.append("it ran beside other parts of a fan-out, which may have been ahead of it or behind")
    return after, found + (notes if found else [])


def _scrubber(stage: Stage, stored: Stored, result: NodeResult) -> redact.Scrubber:
    """What hides in a result the secrets that were hidden when the run was stored."""
    return redact.Scrubber([stage.shop.read_base(stored.run.item.target) or b"", *result.files.values()])


def _differences(take: Take, tape: _Tape, result: NodeResult, scrubber: redact.Scrubber) -> list[str]:
    """How a rebuilt attempt differs from its record, secrets hidden in both."""

    def kept(data: bytes) -> str:
        return scrubber.scrub(data)[0].decode("utf-8", "backslashreplace")

    found = []
    asked = prompt.read_record(scrubber.scrub(prompt.record(tape.asked))[0])
    for number, (old, new) in enumerate(zip_longest(take.prompts, asked), 1):
        if old != new:
            found.append(f"prompt {number} {_difference(old, new)}")
            break
    if not found and list(take.schemas) != tape.schemas:
        found.append("the schemas of its answers are others")
    calls = [ToolCall.model_validate(json.loads(line)) for line in _lines(result)]
    for number, (one, two) in enumerate(zip_longest(map(_call_text, take.calls), map(_call_text, calls)), 1):
        if one != (None if two is None else kept(two.encode("utf-8", "backslashreplace"))):
            found.append(f"call {number} {_difference(one, two)}")
            break
    output = {key: value for key, value in result.output.items() if key in take.output or key not in _LATER}
    old, new = pretty(dict(take.output)).decode(), kept(pretty(output))
    if old != new:
        found.append(f"the output {_difference(old, new)}")
    return found


def _lines(result: NodeResult) -> list[bytes]:
    return result.files.get("tool_calls.jsonl", b"").splitlines()


def _call_text(call: ToolCall) -> str:
    return json.dumps(call.model_dump(mode="json", exclude=_COST), sort_keys=True, ensure_ascii=False)


def _difference(old: str | None, new: str | None) -> str:
    """Where two texts part, for people."""
    if old is None or new is None:
        return "was not there" if old is None else "is not there any more"
    at = next((n for n, (one, two) in enumerate(zip(old, new, strict=False)) if one != two), min(len(old), len(new)))
    start = max(0, at - AROUND // 2)
    shown = [printable(text[start : at + AROUND]) for text in (old, new)]
    return f"differs at character {at + 1}: {shown[0]!r} is now {shown[1]!r}"


async def _ask(stage: Stage, take: Take) -> list[Answer]:
    """Send each stored prompt again, one after the other."""
    seat = stage.shop.seats.get(take.agent.rpartition("@")[0])
    limits = seat.agent.limits if seat else AgentLimits()
    answers = []
    for number, (text, schema) in enumerate(zip(take.prompts, take.schemas, strict=True), 1):
        call = take.asks[number - 1] if number <= len(take.asks) else None
        intact = call is None or hashlib.sha256(text.encode()).hexdigest() == call.prompt_sha256
        hidden = not intact and redact.MARKER in text
        recorded = call.answer if call else None
        found = Answer(prompt=number, state="unsent", intact=intact or hidden, recorded=recorded)
        if hidden or recorded is None:
            why = "a secret was hidden in it when it was stored" if hidden else "no answer to it was recorded"
            answers.append(found.model_copy(update={"why": why}))
        else:
            answers.append(await _send(stage.voice(take.agent), text, schema, limits, found))
    return answers


async def _send(engine: Engine, text: str, schema: dict[str, Any], limits: AgentLimits, found: Answer) -> Answer:
    why = [] if found.intact else ["the stored prompt is not the one that was sent then"]
    try:
        got = await engine.complete(text, schema=schema, max_tokens=limits.max_tokens, deadline_s=limits.deadline_s)
    except (EngineError, DeadlineExceeded) as error:
        if not engine.alive():
            raise
        return found.model_copy(update={"state": "different", "why": "; ".join((*why, str(error)))})
    answer = got.text[: loop.MAX_ANSWER]
    same = answer == found.recorded
    if not same:
        why.append(f"the answer {_difference(found.recorded, answer)}")
    return found.model_copy(
        update={
            "state": "same" if same else "different",
            "answer": answer,
            "why": "; ".join(why),
            "prompt_tokens": got.prompt_tokens,
            "completion_tokens": got.completion_tokens,
            "seconds": round(got.seconds, 3),
        }
    )


# --- nodes without an agent ------------------------------------------------------------------------------------------


async def _judged(stage: Stage, stored: Stored, node: str) -> Replay:
    """Checks run again on the rebuilt tree, or the gate's word again on what the other nodes said."""
    graph = stage.graph(stored)
    spec = next((one for one in graph.nodes if one.id == node and (one.checks or one.gate)), None)
    if spec is None:
        raise RepositoryError("cannot replay", f"node {node}", "neither an agent nor checks left artifacts of it")
    with _worktree(stage, stored, node) as (trip, ws):
        try:
            await _walk(stage, stored, trip, ws, node, None)
        except ToolError as error:
            return _replay(stored, node, (), None, why=(f"cannot be rebuilt: {error}",), same=False)
        item.harvest(stage.shop, trip, ws)
        for one in graph.nodes:
            if spec.gate and one.checks and not one.tolerated and one.id in trip.done:
                trip.checks += _results(trip.done[one.id])
        result = await item.run_once(stage.shop, trip, ws, spec, Attempt(node), spec.timeout_s)
        scrubber = _scrubber(stage, stored, result)
        after = _side(result, ws.changes(), scrubber)
    why = []
    old, new = stored.read(node, "diff.patch"), scrubber.scrub(result.files.get("diff.patch", b""))[0]
    if old is not None and old != artifacts.clip(new):
        texts = [data.decode("utf-8", "backslashreplace") for data in (old, new)]
        why.append(f"diff.patch {_difference(texts[0], texts[1])}")
    old_word, new_word = _word(spec, stored.done()[node]), _word(spec, result)
    if old_word != new_word:
        why.append(f"what it said {_difference(old_word, new_word)}")
    return _replay(stored, node, (), after, rebuilt=not why, why=tuple(why), same=not why)


def _results(result: NodeResult) -> list[CheckResult]:
    return [CheckResult.model_validate(one) for one in result.output.get("checks", ())]


def _word(spec: FlowNode, result: NodeResult) -> str:
    """What a node with checks or a gate said, without what no replay can repeat."""
    if spec.gate:
        return json.dumps(result.output, sort_keys=True)
    return ", ".join(f"{one.name}: {'passed' if one.passed else 'failed'}" for one in _results(result))


# --- through another version -----------------------------------------------------------------------------------------


async def _through(stage: Stage, stored: Stored, node: str, takes: Sequence[Take], other: Seat) -> Replay:
    """The inputs of a node's first attempt through another agent, beside what was recorded of it."""
    if not takes:
        raise RepositoryError("cannot replay", f"node {node}", "no agent left artifacts of it")
    first = takes[0]
    with _worktree(stage, stored, f"{node}-new") as (trip, ws):
        await _walk(stage, stored, trip, ws, node, first)
        values = {key: value for key, value in first.values.items() if key != "fetched"}
        async with other.engine.turn():
            result = await run_agent(other, _placed(ws, first), node, values, lambda w: item.judge(stage.shop, trip, w))
        spec = next(one for one in stage.graph(stored).nodes if one.id in (node, node.rpartition(".")[0]))
        if result.state is NodeState.PASSED and not flow.succeeded(spec, result, trip.done):
            result = result.model_copy(
                update={"state": NodeState.FAILED, "reason": f"this does not hold: {spec.success}"}
            )
        new = ws.changes()
    with _worktree(stage, stored, f"{node}-old") as (trip, ws):
        await _walk(stage, stored, trip, ws, node, first)
        for take in takes:
            await _apply(stage, ws, take)
        old = ws.changes()
    scrubber = _scrubber(stage, stored, result)
    after = _side(result, new, scrubber)
    replayed = _replay(stored, node, takes, after, old=old, same=False)
    why = []
    if replayed.before.output != after.output:
        texts = [pretty(side.output).decode() for side in (replayed.before, after)]
        why.append(f"the output {_difference(texts[0], texts[1])}")
    changed = [path for path in sorted({*old, *new}) if _end(stage, path, old) != _end(stage, path, new)]
    why += [f"{printable(path)} ends otherwise" for path in changed]
    if (replayed.before.state == NodeState.PASSED) != (after.state == NodeState.PASSED):
        why.append(f"it {replayed.before.state} then and {after.state} now")
    patch = scrubber.text("".join(_patch(stage, path, old, new) for path in changed))[0][:MAX_PATCH]
    return replayed.model_copy(update={"why": tuple(why), "patch": patch, "same": not why})


def _end(stage: Stage, path: str, changes: Mapping[str, bytes | None]) -> bytes | None:
    """A file as it is after these changes."""
    return changes[path] if path in changes else stage.shop.read_base(path)


def _patch(stage: Stage, path: str, old: Mapping[str, bytes | None], new: Mapping[str, bytes | None]) -> str:
    """How a file differs between the recorded end and the new one."""
    ends = [(_end(stage, path, side) or b"").decode("utf-8", "backslashreplace") for side in (old, new)]
    left, right, name = ends[0].splitlines(), ends[1].splitlines(), printable(path)
    shown = difflib.unified_diff(left, right, f"recorded/{name}", f"replayed/{name}", lineterm="")
    return "".join(f"{printable(line)}\n" for line in shown)


# --- records ---------------------------------------------------------------------------------------------------------


def _side(result: NodeResult, changes: Mapping[str, bytes | None], scrubber: redact.Scrubber) -> Side:
    """What came out of a replay, for people: without the secrets that no artifact shows either."""
    calls = [ToolCall.model_validate(json.loads(line)) for line in _lines(result)]
    return Side(
        agent=result.agent,
        state=result.state,
        reason=scrubber.text(result.reason)[0],
        output=json.loads(scrubber.scrub(pretty(result.output))[0]),
        calls=tuple(scrubber.text(_said(call))[0] for call in calls),
        files={path: None if data is None else hashlib.sha256(data).hexdigest() for path, data in changes.items()},
        model_calls=sum(call.prompt_sha256 is not None for call in calls),
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        seconds=round(result.seconds, 3),
    )


def _said(call: ToolCall) -> str:
    args = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in call.args.items())
    return printable(f"{call.by}: {call.tool} {args}".rstrip() + (f" (refused: {call.error})" if call.error else ""))


def _replay(
    stored: Stored,
    node: str,
    takes: Sequence[Take],
    after: Side | None,
    *,
    old: Mapping[str, bytes | None] | None = None,
    **more: Any,
) -> Replay:
    """The record of a replay, with the recorded side read from the artifacts."""
    calls = [call for take in takes for call in take.calls]
    run = stored.run
    before = Side(
        agent=takes[-1].agent if takes else "",
        state=run.nodes[node],
        reason=run.reason if run.node == node else "",
        output=dict(takes[-1].output) if takes else stored.done()[node].output,
        calls=tuple(map(_said, calls)),
        files={p: None if data is None else hashlib.sha256(data).hexdigest() for p, data in (old or {}).items()},
        model_calls=sum(len(take.asks) for take in takes),
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        completion_tokens=sum(call.completion_tokens for call in calls),
        seconds=round(sum(call.seconds for call in calls), 3),
    )
    return Replay(run=run.id, night=run.night, target=run.item.target, node=node, before=before, after=after, **more)
