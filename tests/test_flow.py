"""Flows: order, readiness, when, failure stops."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import flow
from pantheon.errors import ConfigError
from pantheon.records import Flow, FlowNode, NodeResult, NodeState

AGENTS = {"a": 1, "b": 1}
CHECKS = {"links": 1}


def make(*nodes: FlowNode) -> Flow:
    return Flow(name="f", nodes=nodes)


def node(name: str, *inputs: str, when: str | None = None, gate: bool = False) -> FlowNode:
    return FlowNode(id=name, agent=None if gate else "a", inputs=inputs, when=when, gate=gate)


def done(name: str, state: NodeState = NodeState.PASSED, **output: object) -> NodeResult:
    return NodeResult(node=name, state=state, output=output)


def names(found: tuple[FlowNode, ...]) -> set[str]:
    return {each.id for each in found}


DIAMOND = make(node("one"), node("left", "one"), node("right", "one"), node("gate", "left", "right", gate=True))


def test_parallel_nodes_are_ready_together() -> None:
    assert names(flow.ready(DIAMOND, {"one": done("one")})) == {"left", "right"}


def test_a_failure_stops_everything() -> None:
    assert flow.ready(DIAMOND, {"one": done("one"), "left": done("left", NodeState.FAILED)}) == ()


def test_when_reads_an_earlier_output_and_a_skipped_node_has_none() -> None:
    conditional = node("left", "one", when="one.rename")
    assert flow.wanted(conditional, {"one": done("one", rename=True)})
    assert not flow.wanted(conditional, {"one": done("one", rename=False)})
    assert not flow.wanted(conditional, {"one": done("one", NodeState.SKIPPED)})


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (make(node("x"), node("x"), node("g", gate=True)), "used twice"),
        (make(node("x", "y"), node("y", "x"), node("g", "y", gate=True)), "cycle"),
        (make(node("x", "missing"), node("g", gate=True)), "no node of this flow"),
        (make(node("x", when="missing.key"), node("g", gate=True)), "no node of this flow"),
        (make(FlowNode(id="x", agent="nobody"), node("g", gate=True)), "known: a, b"),
        (make(FlowNode(id="x", checks=("nothing",)), node("g", gate=True)), "known: links"),
        (make(FlowNode(id="x"), node("g", gate=True)), "exactly one of"),
        (make(node("x")), "exactly one gate"),
    ],
)
def test_a_broken_flow_is_refused_with_the_reason(broken: Flow, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        flow.check(broken, "f.toml", AGENTS, CHECKS)


@given(st.data())
def test_running_what_is_ready_visits_every_node_once_after_its_inputs(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    nodes = [
        node(
            f"n{i}",
            *data.draw(st.lists(st.sampled_from([f"n{j}" for j in range(i)]), unique=True) if i else st.just([])),
        )
        for i in range(count)
    ]
    graph = make(*nodes, node("gate", *[n.id for n in nodes], gate=True))
    results: dict[str, NodeResult] = {}
    while ready := flow.ready(graph, results):
        chosen = data.draw(st.sampled_from(ready))
        assert chosen.id not in results
        assert set(chosen.inputs) <= set(results)
        results[chosen.id] = done(chosen.id)
    assert set(results) == {n.id for n in graph.nodes}


def test_the_first_failed_node_is_found() -> None:
    results: Mapping[str, NodeResult] = {"a": done("a"), "b": done("b", NodeState.FAILED)}
    found = flow.failed(results)
    assert found is not None
    assert found.node == "b"
