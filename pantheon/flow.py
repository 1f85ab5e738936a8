"""Flows: the order of nodes and what may run next. Pure.

A flow is a DAG. A node runs when all its inputs are done; a failed node stops the flow (no success, no merge); a node
whose `when` is false is skipped, and counts as done for the nodes behind it. The order comes from graphlib.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pantheon.errors import ConfigError
from pantheon.records import Flow, FlowNode, NodeResult, NodeState


def check(flow: Flow, path: str, agents: Mapping[str, object], checks: Mapping[str, object]) -> None:
    """Raise ConfigError when `flow` (from file `path`) is not a DAG of known agents and checks ending in one gate."""
    problem = _problem(flow, agents, checks)
    if problem:
        raise ConfigError("cannot use the flow", path, problem, hint="git pantheon flow")


def _problem(flow: Flow, agents: Mapping[str, object], checks: Mapping[str, object]) -> str:
    ids = [node.id for node in flow.nodes]
    for name in ids:
        if ids.count(name) > 1:
            return f"node id {name!r} is used twice"
    for node in flow.nodes:
        kinds = [node.agent is not None, bool(node.checks), node.gate]
        if sum(kinds) != 1:
            return f"node {node.id!r} must have exactly one of agent, checks and gate"
        if node.agent is not None and node.agent not in agents:
            return f"node {node.id!r} names agent {node.agent!r}; known: {', '.join(sorted(agents))}"
        for check_name in node.checks:
            if check_name not in checks:
                return f"node {node.id!r} names check {check_name!r}; known: {', '.join(sorted(checks))}"
        sources = [*node.inputs, *([node.when.split(".")[0]] if node.when else [])]
        for source in sources:
            if source not in ids:
                return f"node {node.id!r} refers to {source!r}, which is no node of this flow"
    gates = [node.id for node in flow.nodes if node.gate]
    if len(gates) != 1:
        return f"a flow has exactly one gate node, this one has {len(gates)}"
    try:
        order(flow)
    except CycleError as error:
        return f"the nodes form a cycle: {' -> '.join(error.args[1])}"
    return ""


def order(flow: Flow) -> tuple[FlowNode, ...]:
    """The nodes in a topological order that is stable for one flow. Raises graphlib.CycleError."""
    by_id = {node.id: node for node in flow.nodes}
    graph = {node.id: {*node.inputs, *([node.when.split(".")[0]] if node.when else [])} for node in flow.nodes}
    return tuple(by_id[name] for name in TopologicalSorter(graph).static_order())


def ready(flow: Flow, done: Mapping[str, NodeResult], running: frozenset[str] = frozenset()) -> tuple[FlowNode, ...]:
    """The nodes that may start now; empty when the flow is over or waits. A failure anywhere stops the flow."""
    if any(result.state is NodeState.FAILED for result in done.values()):
        return ()
    return tuple(
        node
        for node in order(flow)
        if node.id not in done and node.id not in running and all(name in done for name in node.inputs)
    )


def wanted(node: FlowNode, done: Mapping[str, NodeResult]) -> bool:
    """Whether `node.when` holds: `node-id.key`, true when that output's value is truthy (a skipped node has none)."""
    if node.when is None:
        return True
    source, _, key = node.when.partition(".")
    value: Any = done[source].output if source in done else {}
    return bool(value.get(key)) if key else bool(value)


def failed(done: Mapping[str, NodeResult]) -> NodeResult | None:
    """The first failed node, or None."""
    return next((result for result in done.values() if result.state is NodeState.FAILED), None)
