"""Flows: DAGs of nodes over one target, and what may run next. Pure.

A node runs when everything it depends on is done; one whose `when` is false is skipped and counts as done; a failed one
stops the flow (no success, no merge) unless it is tolerated. Sub-flows are put in place before anything runs. The order
comes from graphlib.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pantheon import expression
from pantheon.gate import REVIEWERS
from pantheon.records import Agent, Flow, FlowNode, NodeResult, NodeState

MAX_NODES = 200  # of a flow with its sub-flows in place
_WANT = re.compile(r"([a-z0-9][a-z0-9._-]*)(?:\s*(@|>=)\s*(\d{1,9}))?\Z")
# What the output of a node holds, by what kind of node it is: an expression may look at nothing else.
_EDIT = frozenset({"target", "open", "choose", "rename", "report", "results"})
_REVIEW = frozenset({"verdict", "reason"})
_CHECKS = frozenset({"checks", "passed", "failed"})
_EACH = frozenset({"each", "failed"})
_ALWAYS = frozenset({"state"})


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a flow; `where` is its place in the file, below `flow`."""

    where: tuple[str | int, ...]
    why: str


# --- agents by name and version --------------------------------------------------------------------------------------


def wanted_agent(text: str) -> tuple[str, str, int]:
    """`name`, `name@3` or `name >= 3` as (name, "" or "@" or ">=", version). Raises ValueError."""
    found = _WANT.match(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no agent: write its name, name@3 or name >= 3")
    return found[1], found[2] or "", int(found[3] or 0)


def unmet(text: str, agents: Mapping[str, Agent]) -> str:
    """Why no agent in force satisfies `text`; "" when one does."""
    try:
        name, operator, version = wanted_agent(text)
    except ValueError as error:
        return str(error)
    agent = agents.get(name)
    if agent is None:
        near = get_close_matches(name, agents, n=1)
        return f"there is no agent {name!r}" + (f"; did you mean {near[0]!r}?" if near else "") + _known(agents)
    fits = not operator or agent.version == version or (operator == ">=" and agent.version > version)
    return "" if fits else f"needs {text}, and {agent.label} is in force"


def _known(names: Mapping[str, object]) -> str:
    return f"; known: {', '.join(sorted(names))}"


# --- sub-flows -------------------------------------------------------------------------------------------------------


def expand(flow: Flow, flows: Mapping[str, Flow]) -> Flow:
    """The flow with every sub-flow's nodes in its place, named `node-inner`. Raises ValueError for what cannot be."""
    return flow.model_copy(update={"nodes": tuple(node for node, _ in _expanded(flow, flows, (flow.name,)))})


def _expanded(flow: Flow, flows: Mapping[str, Flow], above: tuple[str, ...]) -> list[tuple[FlowNode, int]]:
    """The nodes, each with the index of the node of `flow` that it came from."""
    found: list[tuple[FlowNode, int]] = []
    ends: dict[str, tuple[str, ...]] = {}
    for index, node in enumerate(flow.nodes):
        if node.flow is None:
            found.append((node, index))
            continue
        if node.flow in above:
            raise ValueError(f"flow {node.flow!r} would hold itself: {' -> '.join((*above, node.flow))}")
        part = flows.get(node.flow)
        if part is None:
            raise ValueError(f"there is no flow {node.flow!r}{_known(flows)}")
        if part.whole:
            raise ValueError(f"flow {node.flow!r} has a gate of its own, so that it cannot be a part of another")
        inner = [one for one, _ in _expanded(part, flows, (*above, node.flow))]
        placed = _placed(node, inner)
        found += [(one, index) for one in placed]
        ends[node.id] = tuple(f"{node.id}-{name}" for name in _ends(inner))
        if len(found) > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} nodes with its sub-flows")
    return [(_behind(node, ends), index) for node, index in found]


def _placed(outer: FlowNode, inner: Sequence[FlowNode]) -> list[FlowNode]:
    names = {node.id: f"{outer.id}-{node.id}" for node in inner}

    def renamed(text: str | None) -> str | None:
        return expression.renamed(text, names) if text else None

    return [
        node.model_copy(
            update={
                "id": names[node.id],
                "inputs": tuple(names.get(name, name) for name in node.inputs) or outer.inputs,
                "when": _both(outer.when, renamed(node.when)),
                "each": renamed(node.each),
                "success": renamed(node.success),
                "tolerated": node.tolerated or outer.tolerated,
                "timeout_s": min(node.timeout_s, outer.timeout_s),
            }
        )
        for node in inner
    ]


def _both(one: str | None, other: str | None) -> str | None:
    return f"({one}) and ({other})" if one and other else one or other


def _ends(nodes: Sequence[FlowNode]) -> list[str]:
    """The nodes that no other depends on."""
    used = {name for node in nodes for name in depends_on(node)}
    return [node.id for node in nodes if node.id not in used]


def _behind(node: FlowNode, ends: Mapping[str, tuple[str, ...]]) -> FlowNode:
    """The node with a sub-flow among its inputs replaced by that sub-flow's ends."""
    if not any(name in ends for name in node.inputs):
        return node
    inputs = [end for name in node.inputs for end in ends.get(name, (name,))]
    return node.model_copy(update={"inputs": tuple(dict.fromkeys(inputs))})


# --- what is wrong with a flow ---------------------------------------------------------------------------------------


def faults(
    flow: Flow, flows: Mapping[str, Flow], agents: Mapping[str, Agent], checks: Mapping[str, object]
) -> list[Fault]:
    """Everything that keeps `flow` from being a DAG of known agents and checks that ends in one gate."""
    found = [fault for index, node in enumerate(flow.nodes) for fault in _alone(node, index, agents, checks)]
    ids = [node.id for node in flow.nodes]
    found += [Fault(("node", n, "id"), f"node id {i!r} is used twice") for n, i in enumerate(ids) if i in ids[:n]]
    for n, node in enumerate(flow.nodes):
        for name in node.inputs:
            if name not in ids:
                near = get_close_matches(name, ids, n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                found.append(Fault(("node", n, "inputs"), f"node {node.id!r} has input {name!r}, no node{meant}"))
    gates = [node.id for node in flow.nodes if node.gate]
    if len(gates) > 1:
        found.append(Fault(("node",), f"a flow has one gate, this one has {len(gates)}"))
    if found:
        return found
    try:
        placed = _expanded(flow, flows, (flow.name,))
    except ValueError as error:
        index = next(n for n, node in enumerate(flow.nodes) if node.flow is not None)
        return [Fault(("node", index, "flow"), str(error))]
    return list(_together(flow, placed, agents))


def _alone(node: FlowNode, index: int, agents: Mapping[str, Agent], checks: Mapping[str, object]) -> Iterator[Fault]:
    where = ("node", index)
    kinds = [bool(node.agent), bool(node.checks), node.flow is not None, node.gate]
    if sum(kinds) != 1:
        yield Fault((*where, "id"), f"node {node.id!r} must have exactly one of agent, checks, flow and gate")
    for text in node.agent:
        if why := unmet(text, agents):
            yield Fault((*where, "agent"), f"node {node.id!r}: {why}")
    for name in node.checks:
        if name not in checks:
            yield Fault((*where, "checks"), f"node {node.id!r}: there is no check {name!r}{_known(checks)}")
    for key, kinds_for, said in (
        ("each", ("agent",), node.each is not None),
        ("success", ("agent", "checks"), node.success is not None),
        ("retries", ("agent", "checks"), node.retries > 0),
        ("when", ("agent", "checks", "flow"), node.when is not None),
        ("tolerated", ("agent", "checks", "flow"), node.tolerated),
    ):
        if said and not any(getattr(node, kind) for kind in kinds_for):
            yield Fault((*where, key), f"node {node.id!r}: {key} goes with {' or '.join(kinds_for)}")
    for key, text in _expressions(node):
        try:
            expression.parse(text)
        except ValueError as error:
            yield Fault((*where, key), f"node {node.id!r}: {key}: {error}")


def _expressions(node: FlowNode) -> list[tuple[str, str]]:
    pairs = (("when", node.when), ("each", node.each), ("success", node.success))
    return [(key, text) for key, text in pairs if text]


def _together(flow: Flow, placed: Sequence[tuple[FlowNode, int]], agents: Mapping[str, Agent]) -> Iterator[Fault]:
    """What is wrong with nodes that are right each by itself."""
    nodes = {node.id: node for node, _ in placed}
    if len(nodes) < len(placed):
        yield Fault(("node",), "two nodes have the same id once its sub-flows are in place")
        return
    for node, index in placed:
        for key, text in _expressions(node):
            for path in expression.parse(text).paths:
                if path[0] not in nodes:
                    yield Fault(
                        ("node", index, key), f"node {node.id!r}: {key} looks at {path[0]!r}, no node of this flow"
                    )
                    return
    try:
        list(TopologicalSorter({name: depends_on(node) for name, node in nodes.items()}).static_order())
    except CycleError as error:
        yield Fault(("node",), f"the nodes form a cycle: {' -> '.join(error.args[1])}")
        return
    before = {name: _before(name, nodes) for name in nodes}
    for node, index in placed:
        for key, text in _expressions(node):
            for path in expression.parse(text).paths:
                if why := _unseen(node, key, path, nodes, before, agents):
                    yield Fault(("node", index, key), f"node {node.id!r}: {key}: {why}")
    if flow.whole:
        yield from _ending(placed, before, agents)


def _before(name: str, nodes: Mapping[str, FlowNode]) -> set[str]:
    """Every node that is done when `name` starts."""
    found: set[str] = set()
    waiting = list(depends_on(nodes[name]))
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += depends_on(nodes[one])
    return found


def _unseen(
    node: FlowNode,
    key: str,
    path: tuple[str, ...],
    nodes: Mapping[str, FlowNode],
    before: Mapping[str, set[str]],
    agents: Mapping[str, Agent],
) -> str:
    """Why an expression cannot look at `path`."""
    source = nodes[path[0]]
    if key != "success" and path[0] == node.id:
        return "it looks at its own output, which is not there yet"
    if path[0] != node.id and path[0] not in before[node.id]:
        return f"it looks at {path[0]!r}, which does not run before it"
    keys = _keys(source, agents)
    if len(path) > 1 and path[1] not in keys:
        return f"the output of {path[0]!r} has no {path[1]!r}; it has: {', '.join(sorted(keys))}"
    return ""


def _keys(node: FlowNode, agents: Mapping[str, Agent]) -> frozenset[str]:
    if node.checks or node.gate:
        return _CHECKS | _ALWAYS
    reviews = all(agents[wanted_agent(text)[0]].output == "review" for text in node.agent)
    return (_REVIEW if reviews else _EDIT) | (_EACH if node.each else frozenset()) | _ALWAYS


def _ending(
    placed: Sequence[tuple[FlowNode, int]], before: Mapping[str, set[str]], agents: Mapping[str, Agent]
) -> Iterator[Fault]:
    """A flow that runs by itself: everything leads to its gate, checks see the last edit, two peers are asked."""
    gate = next(node.id for node, _ in placed if node.gate)
    reviewers = 0
    checkers = [node for node, _ in placed if node.checks and not node.tolerated]
    for node, index in placed:
        if node.id != gate and node.id not in before[gate]:
            yield Fault(("node", index, "id"), f"node {node.id!r} does not lead to the gate {gate!r}")
        outputs = {agents[wanted_agent(text)[0]].output for text in node.agent}
        reviewers += outputs == {"review"}
        for check in checkers:
            if outputs - {"review"} and node.id not in before[check.id]:
                why = f"it may edit while or after {check.id!r} checks, which has to come behind it"
                yield Fault(("node", index, "id"), f"node {node.id!r}: {why}")
    if reviewers < REVIEWERS:
        yield Fault(
            ("node",), f"{REVIEWERS} peer reviewers must agree, this flow has {reviewers}; add the flow `peers`"
        )
    if not checkers:
        yield Fault(("node",), "nothing checks the result: a flow has a node with checks before its gate")


# --- running ---------------------------------------------------------------------------------------------------------


def depends_on(node: FlowNode) -> tuple[str, ...]:
    """The nodes that must be done first: its inputs, and what its `when` and `each` look at."""
    looked = [name for text in (node.when, node.each) if text for name in expression.parse(text).nodes]
    return tuple(dict.fromkeys((*node.inputs, *looked)))


def order(flow: Flow) -> tuple[FlowNode, ...]:
    """The nodes in a topological order that is stable for one flow. Raises graphlib.CycleError."""
    by_id = {node.id: node for node in flow.nodes}
    graph = {node.id: depends_on(node) for node in flow.nodes}
    return tuple(by_id[name] for name in TopologicalSorter(graph).static_order())


def layers(flow: Flow) -> list[list[FlowNode]]:
    """The nodes by when they can start at the earliest: those of one layer run side by side."""
    sorter = TopologicalSorter({node.id: depends_on(node) for node in flow.nodes})
    sorter.prepare()
    found: list[list[FlowNode]] = []
    while sorter.is_active():
        names = sorter.get_ready()
        found.append([node for node in flow.nodes if node.id in names])
        sorter.done(*names)
    return found


def ready(flow: Flow, done: Mapping[str, NodeResult], running: frozenset[str] = frozenset()) -> tuple[FlowNode, ...]:
    """The nodes that may start now; empty when the flow is over or waits. A failure anywhere stops the flow."""
    if any(result.state is NodeState.FAILED for result in done.values()):
        return ()
    return tuple(
        node
        for node in order(flow)
        if node.id not in done and node.id not in running and all(name in done for name in depends_on(node))
    )


def outputs(done: Mapping[str, NodeResult]) -> dict[str, dict[str, Any]]:
    """What expressions look at: the output of every node that is done, with its state."""
    return {name: {**result.output, "state": result.state.value} for name, result in done.items()}


def wanted(node: FlowNode, done: Mapping[str, NodeResult]) -> bool:
    """Whether `node.when` holds; a skipped node's output is empty, so that what it would hold is false."""
    return node.when is None or expression.holds(node.when, outputs(done))


def parts(node: FlowNode, done: Mapping[str, NodeResult]) -> tuple[str, ...]:
    """The elements a fan-out runs over, each once and as a text. Anything but a list is none."""
    value = expression.parse(node.each or "").value(outputs(done)) if node.each else None
    return tuple(dict.fromkeys(str(one) for one in value)) if isinstance(value, list | tuple) else ()


def succeeded(node: FlowNode, result: NodeResult, done: Mapping[str, NodeResult]) -> bool:
    """Whether an attempt is good: it did not fail, and `success` holds of what it gave."""
    if result.state is not NodeState.PASSED:
        return False
    return node.success is None or expression.holds(node.success, outputs({**done, node.id: result}))


def failed(done: Mapping[str, NodeResult]) -> NodeResult | None:
    """The first failed node, or None."""
    return next((result for result in done.values() if result.state is NodeState.FAILED), None)
