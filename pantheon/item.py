"""One item through its flow, in its own worktree: nodes run as the DAG allows, then the gate decides.

Owns the worktree's life, the harvest and the checks. The host builds the tree from what it read from the worktree,
never from what a model says; checks run in the sandbox on a clean export of that tree. Does not commit, does not know
of stacks or PRs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pantheon import canaries, flow, gate, redact, tally, tasks, testguard
from pantheon.agent import Seat, edit_output, run_agent
from pantheon.checks import CheckRoom
from pantheon.config import Config
from pantheon.errors import DiskFull, EngineError, InputError, RepositoryError, SandboxError, ToolError, is_full
from pantheon.git import Diff, Entry, Repo
from pantheon.plan import printable
from pantheon.records import (
    CheckResult,
    Decision,
    Finding,
    Flow,
    FlowNode,
    Item,
    NodeMetrics,
    NodeResult,
    NodeState,
    Task,
    Verdict,
    pretty,
)
from pantheon.registry import Ruled
from pantheon.tools.facts import Facts
from pantheon.tools.tool import Tree
from pantheon.tools.workspace import Workspace

FILE, EXECUTABLE = 0o100644, 0o100755


@dataclass
class Shop:
    """What all items of a night share. Its scratch directory, outside the repository, is the room's."""

    repo: Repo
    config: Config
    base: str
    entries: Mapping[str, Entry]
    rules: Mapping[str, Ruled]
    facts: Facts
    seats: Mapping[str, Seat]
    room: CheckRoom
    protected: tuple[str, ...] = ()  # patterns of paths that no item may change, besides the gate's own

    @cached_property
    def paths(self) -> frozenset[str]:
        """Every path of the base."""
        return frozenset(self.entries)

    def ruled(self, item: Item) -> Ruled:
        """The rules of the item's flow."""
        return self.rules[self.config.flows[item.flow].rules]

    def read_base(self, path: str) -> bytes | None:
        """A regular file of the base commit."""
        entry = self.entries.get(path)
        return self.repo.read_blob(entry.oid) if entry and entry.mode in (FILE, EXECUTABLE) else None


@dataclass
class Trip:
    """One item on its way: what its nodes said so far and, once harvested, its tree."""

    item: Item
    task: Task
    run: str
    done: dict[str, NodeResult] = field(default_factory=dict)
    tree: str | None = None
    diff: Diff | None = None
    target: str = ""
    checks: list[CheckResult] = field(default_factory=list)
    decision: Decision = field(default_factory=lambda: Decision(accepted=False, reasons=("the flow did not end",)))

    def verdicts(self) -> list[Verdict]:
        """What the reviewers said so far."""
        return [
            Verdict(
                node=r.node,
                agent=r.agent,
                verdict=r.output["verdict"],
                reason=r.output["reason"],
                criteria=r.output.get("criteria", ()),
                confidence=r.output.get("confidence"),
            )
            for r in self.done.values()
            if "verdict" in r.output
        ]


async def run_item(shop: Shop, item: Item, task: Task, run: str) -> Trip:
    """The item's whole way. A failing node ends it, unless it is tolerated. Raises EngineError when the engine is
    gone."""
    trip = Trip(item=item, task=task, run=run, target=item.target)
    place = shop.room.work / "worktrees" / run[:16]
    name = f"pantheon-{run[:16]}"
    shop.repo.remove_worktree(place, name)
    shop.repo.add_worktree(place, shop.base, name)
    try:
        ws = open_workspace(shop, trip, place)
        if item.canary is not None:
            for path, data in canaries.change_of(shop.repo, shop.base, item.canary).items():
                ws.write(path, data) if data is not None else ws.remove(path)
        graph = shop.config.flows[item.flow]
        while nodes := flow.ready(graph, trip.done):
            for results in await asyncio.gather(*(_run_node(shop, trip, ws, node) for node in nodes)):
                trip.done.update({result.node: result for result in results})
    except (EngineError, DiskFull):
        raise
    except Exception as error:  # a bug met by one item must not end the others
        if is_full(error):
            raise DiskFull("an item cannot go on", str(place), str(error), "free some disk space") from error
        why = f"bug: {type(error).__name__}: {error}"
        log = {"stderr.log": traceback.format_exc().encode("utf-8", "replace")}
        trip.done["item"] = NodeResult(node="item", state=NodeState.FAILED, reason=why, files=log)
    finally:
        shop.repo.remove_worktree(place, name)
    return trip


def open_workspace(shop: Shop, trip: Trip, place: Path) -> Workspace:
    """The item's worktree for its tools; checks that a tool asks for run on what it holds at that moment."""

    async def checker(names: Sequence[str]) -> tuple[CheckResult, ...]:
        tree, diff = _grown(shop, ws)
        label = f"{trip.run}-asked-{ascii(ws.focus).encode().hex()[:32]}"
        results, _, _ = await shop.room.run(
            tree, label, names, kept_paths(diff), confirmed(trip.task), shop.config.flows[trip.item.flow].rules
        )
        return tuple(results)

    ruled = shop.ruled(trip.item)
    checks = tuple(gating_checks(shop.config.flows[trip.item.flow], trip.task))
    ws = Workspace(place, trip.item.target, ruled.rules, shop.facts, shop.read_base, checker, checks)
    return ws


def judge(shop: Shop, trip: Trip, ws: Workspace) -> tuple[Finding, ...]:
    """What the target breaks as it is now."""
    changes = ws.changes()
    gone, fresh = {path for path, data in changes.items() if data is None}, changes.keys() - shop.paths
    paths = shop.paths.union(changes) - gone if gone or fresh else shop.paths
    tree = Tree(paths, lambda path: changes[path] if path in changes else shop.read_base(path))
    ruled = shop.ruled(trip.item)
    raw = tree.read(ws.target)
    return () if raw is None else ruled.kind.check(ws.target, raw, ruled.rules, tree)


# --- nodes -----------------------------------------------------------------------------------------------------------


async def _run_node(shop: Shop, trip: Trip, ws: Workspace, node: FlowNode) -> list[NodeResult]:
    """A node with all its attempts; of a fan-out one result per element, and one that sums them up."""
    if trip.item.canary is not None and node.agent and _seat(shop, trip, node).agent.output == "edit":
        output = edit_output(ws, judge(shop, trip, ws), {})  # what it would have done is there already
        return [NodeResult(node=node.id, state=NodeState.PASSED, output=output)]
    if not flow.wanted(node, trip.done):
        return [NodeResult(node=node.id, state=NodeState.SKIPPED, reason=f"{node.when} is false")]
    if node.each is None:
        return [await _attempts(shop, trip, ws, node, node.id)]
    parts = flow.parts(node, trip.done)
    if not parts:
        return [NodeResult(node=node.id, state=NodeState.SKIPPED, reason=f"{node.each} is empty")]
    results = await asyncio.gather(
        *(_attempts(shop, trip, ws.focused(part), node, f"{node.id}.{n}") for n, part in enumerate(parts, 1))
    )
    return [*results, _summed(shop, trip, ws, node, parts, results)]


def _summed(
    shop: Shop, trip: Trip, ws: Workspace, node: FlowNode, parts: Sequence[str], results: Sequence[NodeResult]
) -> NodeResult:
    """A fan-out as one result: what the rules still say, what each element gave, and which of them failed."""
    bad = [part for part, result in zip(parts, results, strict=True) if result.state is not NodeState.PASSED]
    output: dict[str, Any] = {"each": [result.output for result in results], "failed": bad}
    if _seat(shop, trip, node).agent.output == "edit":
        output = {**edit_output(ws, judge(shop, trip, ws), {}), **output}
    failed = bool(bad) and not node.tolerated
    return NodeResult(
        node=node.id,
        state=NodeState.FAILED if failed else NodeState.PASSED,
        reason=f"{len(bad)} of {len(parts)} failed: {', '.join(bad[:5])}" if failed else "",
        output=output,
        files={"output.json": pretty(output)},
        seconds=max(result.seconds for result in results),
    )


async def _attempts(shop: Shop, trip: Trip, ws: Workspace, node: FlowNode, name: str) -> NodeResult:
    """A node until it succeeds, at most `retries` times more; every attempt stays in its artifacts."""
    files: dict[str, bytes] = {}
    spent: list[NodeMetrics] = []
    started = time.monotonic()
    failure = ""
    for attempt in range(1, node.retries + 2):
        left = node.timeout_s - sum(one.seconds for one in spent)  # a wait for a turn of its model is not its own time
        async with _turn(shop, trip, node):
            result = await run_once(shop, trip, ws, node, Attempt(name, attempt, failure), left)
        spent.append(result.metrics)
        good = flow.succeeded(node, result, trip.done)
        if good or attempt > node.retries or left <= 0:
            break
        failure = result.reason or f"{node.success} does not hold"
        files.update({f"attempt-{attempt}.{file}": data for file, data in result.files.items()})
    reason = result.reason
    if result.state is NodeState.PASSED and not good:
        reason = f"after {attempt} attempt{'s' if attempt > 1 else ''} this does not hold: {node.success}"
    state = NodeState.PASSED if good else NodeState.TOLERATED if node.tolerated else NodeState.FAILED
    seconds = time.monotonic() - started
    whole = tally.added(spent).model_copy(
        update={"attempts": attempt, "seconds": round(seconds, 3), "exit": _ended(result, state)}
    )
    return result.model_copy(
        update={
            "state": state,
            "reason": reason,
            "files": {**files, **result.files},
            "seconds": seconds,
            "prompt_tokens": whole.prompt_tokens,
            "completion_tokens": whole.completion_tokens,
            "attempts": attempt,
            "metrics": whole,
        }
    )


def _ended(result: NodeResult, state: NodeState) -> str:
    """How a node ended: what stopped its last attempt, else its state, which a condition on it may have turned."""
    turned = result.state is NodeState.PASSED and state is not NodeState.PASSED
    return state.value if turned else result.metrics.exit or state.value


def _turn(shop: Shop, trip: Trip, node: FlowNode) -> contextlib.AbstractAsyncContextManager[None]:
    """The turn of the model that a node asks, if it asks one."""
    seat = _seat(shop, trip, node) if node.agent else None
    return contextlib.nullcontext() if seat is None or seat.agent.runtime.engine == "none" else seat.engine.turn()


@dataclass(frozen=True)
class Attempt:
    """Which try of a node this is: its name in the artifacts, its number from 1, what the one before said."""

    name: str
    number: int = 1
    failure: str = ""


async def run_once(
    shop: Shop, trip: Trip, ws: Workspace, node: FlowNode, attempt: Attempt, seconds: float
) -> NodeResult:
    """One attempt at one node, on what the worktree holds now; a timeout or a refusal is a failed result."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            if node.agent:
                values = _values(trip, ws, attempt)
                return await run_agent(
                    _seat(shop, trip, node), ws, attempt.name, values, lambda ws: judge(shop, trip, ws)
                )
            harvest(shop, trip, ws)
            if node.gate:
                return _gate(shop, trip, node)
            return await _check(shop, trip, node)
    except TimeoutError:
        why, ended = f"timeout of {node.timeout_s:g} s passed", "timeout"
    except (ToolError, RepositoryError, SandboxError, InputError) as error:
        if is_full(error):
            raise DiskFull("an item cannot go on", node.id, str(error), "free some disk space") from error
        why, ended = str(error), type(error).__name__
    seconds = time.monotonic() - started
    spent = NodeMetrics(seconds=round(seconds, 3), exit=ended)
    return NodeResult(node=attempt.name, state=NodeState.FAILED, reason=why, seconds=seconds, metrics=spent)


def _seat(shop: Shop, trip: Trip, node: FlowNode) -> Seat:
    """The agent that the router gave the node when the queue was frozen."""
    label = trip.item.agents.get(node.id, "")
    return shop.seats[label.rpartition("@")[0] or flow.wanted_agent(node.agent[0])[0]]


def _values(trip: Trip, ws: Workspace, attempt: Attempt) -> dict[str, Any]:
    return {
        "target": printable(trip.target),
        "findings": [finding.message for finding in trip.item.findings],
        "before": flow.outputs(trip.done),
        "focus": ws.focus,
        "attempt": attempt.number,
        "failure": attempt.failure or trip.item.hint,  # a person's note, on an item that they want tried again
    }


def _grown(shop: Shop, ws: Workspace, known: tuple[str | None, Diff | None] = (None, None)) -> tuple[str, Diff]:
    """The worktree as a tree object, and what differs from the base; `known`: a tree whose diff is there already."""
    changes: dict[str, tuple[int, str] | None] = {}
    for path, data in ws.changes().items():
        mode = shop.entries[path].mode if path in shop.entries else FILE
        changes[path] = None if data is None else (mode, shop.repo.write_blob(data))
    base_tree = shop.repo.tree_of(shop.base)
    tree = shop.repo.write_tree(base_tree, changes)
    return tree, known[1] if known[1] is not None and known[0] == tree else shop.repo.diff(base_tree, tree)


def harvest(shop: Shop, trip: Trip, ws: Workspace) -> None:
    """The worktree as it is now. What checks said of another tree counts no more."""
    before = trip.tree
    trip.tree, trip.diff = _grown(shop, ws, (before, trip.diff))
    trip.target = ws.target
    if trip.tree != before:
        trip.checks.clear()


async def _check(shop: Shop, trip: Trip, node: FlowNode) -> NodeResult:
    started = time.monotonic()
    assert trip.tree is not None and trip.diff is not None
    names = list(node.checks) if node.tolerated else wanted_checks(node.checks, trip.task)
    rules = shop.config.flows[trip.item.flow].rules
    results, out, err = await shop.room.run(
        trip.tree, f"{trip.run}-{node.id}", names, kept_paths(trip.diff), confirmed(trip.task), rules
    )
    if not node.tolerated:  # else it informs the nodes behind it, and the gate has others to ask
        trip.checks.extend(results)
    bad = [result for result in results if not result.passed]
    spent = NodeMetrics(
        tool_s=round(sum(result.seconds for result in results), 3),
        cpu_s=round(sum(result.cpu_s for result in results), 3),
        memory_bytes=max((result.memory_bytes for result in results), default=0),
        tool_calls={f"check {result.name}": 1 for result in results},
    )
    output = {
        "checks": [result.model_dump(mode="json") for result in results],
        "passed": not bad,
        "failed": [result.name for result in bad],
    }
    return NodeResult(
        node=node.id,
        state=NodeState.FAILED if bad else NodeState.PASSED,
        reason="; ".join(f"check {r.name}: {r.detail}" for r in bad),
        output=output,
        files={
            "stdout.log": out,
            "stderr.log": err,
            "output.json": pretty(output["checks"]),
            "diff.patch": trip.diff.patch,
            "metrics.json": pretty(spent.model_dump(mode="json")),
        },
        seconds=time.monotonic() - started,
        metrics=spent,
    )


# --- gate ------------------------------------------------------------------------------------------------------------


def confirmed(task: Task) -> tuple[str, ...]:
    """The paths that a task names, which a person so allowed to change."""
    return task.spec.confirm if task.spec else ()


def wanted_checks(checks: Sequence[str], task: Task) -> list[str]:
    """The flow's checks, then those of the task's acceptance that are not among them."""
    accepted = [criterion.run for criterion in task.spec.acceptance] if task.spec else []
    return list(dict.fromkeys((*checks, *accepted)))


def gating_checks(graph: Flow, task: Task) -> list[str]:
    """Every check that must have passed before the gate."""
    return wanted_checks([name for node in graph.nodes if not node.tolerated for name in node.checks], task)


def kept_paths(diff: Diff) -> list[str]:
    """The paths a diff leaves in the tree."""
    return [change.path for change in diff.files if change.status != "deleted"]


def edits(repo: Repo, base: str, tree: str, diff: Diff) -> list[testguard.Edit]:
    """The diff's files with their contents, as the guard of the tests reads them."""
    return [
        testguard.Edit(
            path=change.path,
            base=repo.read_path(base, change.old_path or change.path) if change.status != "added" else None,
            new=repo.read_path(tree, change.path) if change.status != "deleted" else None,
            old_path=change.old_path,
        )
        for change in diff.files
    ]


def _outside(shop: Shop, trip: Trip, changed: Sequence[str]) -> list[str]:
    """Changed paths that are neither the item's own, nor linked to it, nor beside it, nor in its task's scope."""
    ruled, target = shop.ruled(trip.item), trip.item.target
    tree = Tree(shop.paths, shop.read_base)
    beside = ruled.kind.companions(target, ruled.rules, tree)
    own = {target, trip.target, *shop.facts.inbound.get(target, ()), *beside}
    rest = [path for path in changed if path not in own]
    inside = tasks.select(rest, trip.task.spec.scope, trip.task.spec.exclude) if trip.task.spec else ()
    return [path for path in rest if path not in inside]


def secret_reasons(edited: Sequence[testguard.Edit]) -> list[str]:
    """The secrets that a diff adds: kind and place, never the value."""
    reasons = []
    for path, secret in redact.added(edited):
        shown = printable(redact.scrub_text(path))
        where = f"{shown}, line {secret.line}" if secret.line else f"the name of {shown}"
        reasons.append(f"a secret is added: {secret.kind} in {where}")
    return reasons


def _gate(shop: Shop, trip: Trip, node: FlowNode) -> NodeResult:
    assert trip.tree is not None and trip.diff is not None
    graph = shop.config.flows[trip.item.flow]
    verdicts = trip.verdicts()
    wanted = gating_checks(graph, trip.task)
    edited = edits(shop.repo, shop.base, trip.tree, trip.diff)
    named = confirmed(trip.task)
    changed = sorted({p for c in trip.diff.files for p in (c.path, c.old_path) if p is not None})
    trip.decision = gate.decide(
        changed=changed,
        added=trip.diff.added,
        deleted=trip.diff.deleted,
        max_diff_lines=trip.task.spec.max_diff_lines if trip.task.spec else 200,
        patch=trip.diff.patch,
        checks=trip.checks,
        wanted_checks=wanted,
        verdicts=verdicts,
        protected=shop.protected,
        outside=_outside(shop, trip, changed),
        weakened=testguard.findings(edited, named),
        secrets=secret_reasons(edited),
        allowed_tests=testguard.allowed(edited, named),
        confirmed=named,
        binary=[e.path for e in edited if e.new is not None and e.new != e.base and b"\0" in e.new],
    )
    output = {**trip.decision.model_dump(mode="json"), "verdicts": [v.model_dump(mode="json") for v in verdicts]}
    return NodeResult(
        node=node.id,
        state=NodeState.PASSED if trip.decision.accepted else NodeState.FAILED,
        reason="; ".join(trip.decision.reasons),
        output=output,
        files={"output.json": pretty(output), "diff.patch": trip.diff.patch},
    )
