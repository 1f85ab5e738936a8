"""One item through its flow, in its own worktree: nodes run as the DAG allows, then the gate decides.

Owns the worktree's life, the harvest and the checks. The host builds the tree from what it read from the worktree,
never from what a model says; checks run in the sandbox on a clean export of that tree. Does not commit, does not know
of stacks or PRs.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pantheon import flow, gate, redact, tasks, testguard
from pantheon.agent import Seat, run_agent
from pantheon.checks import CheckRoom
from pantheon.config import Config
from pantheon.errors import EngineError, InputError, RepositoryError, SandboxError, ToolError
from pantheon.git import Diff, Entry, Repo
from pantheon.plan import printable
from pantheon.records import CheckResult, Decision, FlowNode, Item, NodeResult, NodeState, Task, Verdict, pretty
from pantheon.tools.facts import Facts
from pantheon.tools.rules import Rules
from pantheon.tools.workspace import Workspace

FILE, EXECUTABLE = 0o100644, 0o100755


@dataclass
class Shop:
    """What all items of a night share. Its scratch directory, outside the repository, is the room's."""

    repo: Repo
    config: Config
    base: str
    entries: Mapping[str, Entry]
    rules: Rules
    facts: Facts
    seats: Mapping[str, Seat]
    room: CheckRoom
    protected: tuple[str, ...] = ()  # patterns of paths that no item may change, besides the gate's own

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


async def run_item(shop: Shop, item: Item, task: Task, run: str) -> Trip:
    """The item's whole way. A failing node ends it; nothing is retried. Raises EngineError when the engine is gone."""
    trip = Trip(item=item, task=task, run=run, target=item.target)
    place = shop.room.work / "worktrees" / run[:16]
    name = f"pantheon-{run[:16]}"
    shop.repo.remove_worktree(place, name)
    shop.repo.add_worktree(place, shop.base, name)
    try:
        ws = Workspace(place, item.target, shop.rules, shop.facts, shop.read_base)
        graph = shop.config.flows[item.flow]
        while nodes := flow.ready(graph, trip.done):
            results = await asyncio.gather(*(_run_node(shop, trip, ws, node) for node in nodes))
            trip.done.update({result.node: result for result in results})
    except EngineError:
        raise
    except Exception as error:  # noqa: BLE001 - a bug met by one item must not end the others
        why = f"bug: {type(error).__name__}: {error}"
        log = {"stderr.log": traceback.format_exc().encode("utf-8", "replace")}
        trip.done["item"] = NodeResult(node="item", state=NodeState.FAILED, reason=why, files=log)
    finally:
        shop.repo.remove_worktree(place, name)
    return trip


async def _run_node(shop: Shop, trip: Trip, ws: Workspace, node: FlowNode) -> NodeResult:
    if not flow.wanted(node, trip.done):
        return NodeResult(node=node.id, state=NodeState.SKIPPED, reason=f"{node.when} is false")
    started = time.monotonic()
    try:
        async with asyncio.timeout(node.timeout_s):
            if node.agent is not None:
                return await run_agent(shop.seats[node.agent], ws, node.id, _values(trip))
            _harvest(shop, trip, ws)
            if node.gate:
                return _gate(shop, trip, node)
            return await _check(shop, trip, node)
    except TimeoutError:
        why = f"timeout of {node.timeout_s:g} s passed"
    except (ToolError, RepositoryError, SandboxError, InputError) as error:
        why = str(error)
    return NodeResult(node=node.id, state=NodeState.FAILED, reason=why, seconds=time.monotonic() - started)


def _values(trip: Trip) -> dict[str, Any]:
    return {"target": printable(trip.target), "findings": [finding.message for finding in trip.item.findings]}


def _harvest(shop: Shop, trip: Trip, ws: Workspace) -> None:
    """The worktree as a tree object, once."""
    if trip.tree is not None:
        return
    changes: dict[str, tuple[int, str] | None] = {}
    for path, data in ws.changes().items():
        mode = shop.entries[path].mode if path in shop.entries else FILE
        changes[path] = None if data is None else (mode, shop.repo.write_blob(data))
    base_tree = shop.repo.tree_of(shop.base)
    trip.tree = shop.repo.write_tree(base_tree, changes)
    trip.diff = shop.repo.diff(base_tree, trip.tree)
    trip.target = ws.target


async def _check(shop: Shop, trip: Trip, node: FlowNode) -> NodeResult:
    started = time.monotonic()
    assert trip.tree is not None and trip.diff is not None
    names = wanted_checks(node.checks, trip.task)
    results, out, err = await shop.room.run(trip.tree, trip.run, names, kept_paths(trip.diff), confirmed(trip.task))
    trip.checks.extend(results)
    bad = [result for result in results if not result.passed]
    return NodeResult(
        node=node.id,
        state=NodeState.FAILED if bad else NodeState.PASSED,
        reason="; ".join(f"check {r.name}: {r.detail}" for r in bad),
        output={"checks": [result.model_dump(mode="json") for result in results]},
        files={
            "stdout.log": out,
            "stderr.log": err,
            "output.json": pretty([result.model_dump(mode="json") for result in results]),
            "diff.patch": trip.diff.patch,
        },
        seconds=time.monotonic() - started,
    )


def confirmed(task: Task) -> tuple[str, ...]:
    """The paths that a task names, which a person so allowed to change."""
    return task.spec.confirm if task.spec else ()


def wanted_checks(checks: Sequence[str], task: Task) -> list[str]:
    """The flow's checks, then those of the task's acceptance that are not among them."""
    accepted = [criterion.run for criterion in task.spec.acceptance] if task.spec else []
    return list(dict.fromkeys((*checks, *accepted)))


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
    """Changed paths that are neither the item's own, nor linked to it, nor in its task's scope."""
    own = {trip.item.target, trip.target, *shop.facts.inbound.get(trip.item.target, ())}
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
    verdicts = [
        Verdict(node=r.node, agent=r.agent, verdict=r.output["verdict"], reason=r.output["reason"])
        for r in trip.done.values()
        if "verdict" in r.output
    ]
    wanted = wanted_checks([name for each in graph.nodes for name in each.checks], trip.task)
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
