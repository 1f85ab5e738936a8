"""Flows: order, readiness, when, fan-out, retries, sub-flows; what is wrong with one is said with its place."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import flow
from pantheon.records import Agent, Flow, FlowNode, NodeResult, NodeState, Runtime


def agent(name: str, output: str = "edit", version: int = 1) -> Agent:
    return Agent.model_validate(
        {"name": name, "version": version, "summary": "", "runtime": Runtime(origin="local"), "output": output}
    )


AGENTS = {"a": agent("a"), "b": agent("b", version=3), "r": agent("r", "review")}
CHECKS = {"links": 1}


def make(*nodes: FlowNode, name: str = "f") -> Flow:
    return Flow(name=name, nodes=nodes)


def node(name: str, *inputs: str, agent: str = "a", **more: object) -> FlowNode:
    return FlowNode.model_validate({"id": name, "agent": agent, "inputs": inputs, **more})


def check(name: str, *inputs: str) -> FlowNode:
    return FlowNode(id=name, checks=("links",), inputs=inputs)


def gate(*inputs: str) -> FlowNode:
    return FlowNode(id="gate", gate=True, inputs=inputs)


def done(name: str, state: NodeState = NodeState.PASSED, **output: object) -> NodeResult:
    return NodeResult(node=name, state=state, output=output)


def names(found: tuple[FlowNode, ...]) -> set[str]:
    return {each.id for each in found}


PEERS = make(node("x", agent="r"), node("y", agent="r"), name="peers")
WHOLE = make(
    node("one"), check("checks", "one"), FlowNode(id="review", flow="peers", inputs=("checks",)), gate("review")
)
DIAMOND = make(node("one"), node("left", "one"), node("right", "one"), gate("left", "right"))


def faults(graph: Flow, flows: Mapping[str, Flow] | None = None) -> list[flow.Fault]:
    return flow.faults(graph, flows or {"peers": PEERS, "f": graph}, AGENTS, CHECKS)


def test_a_whole_flow_has_no_fault() -> None:
    assert faults(WHOLE) == []


def test_parallel_nodes_are_ready_together() -> None:
    assert names(flow.ready(DIAMOND, {"one": done("one")})) == {"left", "right"}
    assert [[n.id for n in layer] for layer in flow.layers(DIAMOND)] == [["one"], ["left", "right"], ["gate"]]


def test_a_failure_stops_everything() -> None:
    assert flow.ready(DIAMOND, {"one": done("one"), "left": done("left", NodeState.FAILED)}) == ()


def test_a_tolerated_failure_counts_as_done() -> None:
    results = {"one": done("one"), "left": done("left", NodeState.TOLERATED), "right": done("right")}
    assert names(flow.ready(DIAMOND, results)) == {"gate"}
    assert flow.failed(results) is None


def test_when_reads_an_earlier_output_and_a_skipped_node_has_none() -> None:
    conditional = node("left", "one", when="one.rename")
    assert flow.wanted(conditional, {"one": done("one", rename=True)})
    assert not flow.wanted(conditional, {"one": done("one", rename=False)})
    assert not flow.wanted(conditional, {"one": done("one", NodeState.SKIPPED)})
    assert flow.wanted(node("left", "one", when='one.state == "skipped"'), {"one": done("one", NodeState.SKIPPED)})


def test_a_fan_out_runs_over_each_element_once() -> None:
    many = node("left", "one", each="one.choose")
    assert flow.parts(many, {"one": done("one", choose=["b", "a", "b"])}) == ("b", "a")
    assert flow.parts(many, {"one": done("one", choose="text")}) == ()


def test_an_attempt_succeeds_when_it_passed_and_its_check_holds() -> None:
    retried = node("one", retries=2, success="len(one.open) == 0")
    assert flow.succeeded(retried, done("one", open=[]), {})
    assert not flow.succeeded(retried, done("one", open=["x"]), {})
    assert not flow.succeeded(retried, done("one", NodeState.FAILED, open=[]), {})


def test_a_sub_flow_takes_its_node_s_place() -> None:
    found = flow.expand(WHOLE, {"peers": PEERS})
    assert [n.id for n in found.nodes] == ["one", "checks", "review-x", "review-y", "gate"]
    assert found.nodes[2].inputs == ("checks",)
    assert set(found.nodes[4].inputs) == {"review-x", "review-y"}


def test_a_sub_flow_keeps_its_own_order_and_conditions() -> None:
    part = make(node("p"), node("q", "p", when="p.rename and not p.report"), name="part")
    outer = make(node("one"), FlowNode(id="sub", flow="part", inputs=("one",), when="one.open"), node("z", "sub"))
    inner = {n.id: n for n in flow.expand(outer, {"part": part}).nodes}
    assert inner["sub-q"].inputs == ("sub-p",)
    assert inner["sub-q"].when == "(one.open) and (sub-p.rename and not sub-p.report)"
    assert inner["z"].inputs == ("sub-q",)


@pytest.mark.parametrize(
    ("broken", "where", "why"),
    [
        (make(node("x"), node("x"), gate("x")), ("node", 1, "id"), "used twice"),
        (make(node("x", "y"), node("y", "x"), gate("y")), ("node",), "cycle"),
        (make(node("left", "one"), node("lift"), gate("left")), ("node", 0, "inputs"), "'one', no node"),
        (make(node("x", when="missing.key"), gate("x")), ("node", 0, "when"), "no node of this flow"),
        (make(node("x", agent="nobody"), gate("x")), ("node", 0, "agent"), "known: a, b, r"),
        (make(node("x", agent="a >= 2"), gate("x")), ("node", 0, "agent"), "a@1 is in force"),
        (make(node("x", agent="b@2"), gate("x")), ("node", 0, "agent"), "b@3 is in force"),
        (make(node("x", agent="b > 2"), gate("x")), ("node", 0, "agent"), "name >= 3"),
        (make(FlowNode(id="x", checks=("nothing",)), gate("x")), ("node", 0, "checks"), "known: links"),
        (make(FlowNode(id="x"), gate("x")), ("node", 0, "id"), "exactly one of"),
        (make(FlowNode(id="x", agent=("a",), gate=True)), ("node", 0, "id"), "exactly one of"),
        (make(node("x"), gate("x"), FlowNode(id="g", gate=True)), ("node",), "one gate, this one has 2"),
        (make(check("x"), FlowNode(id="g", gate=True, tolerated=True)), ("node", 1, "tolerated"), "goes with agent"),
        (make(FlowNode(id="x", checks=("links",), each="x.failed")), ("node", 0, "each"), "goes with agent"),
        (make(node("x", when="len("), gate("x")), ("node", 0, "when"), "column"),
        (make(node("x"), node("y", when="x.opne"), gate("y")), ("node", 1, "when"), "it has: choose, open"),
        (make(node("x", when="y.open"), node("y"), gate("x", "y")), ("node", 0, "when"), ""),
        (make(node("x", success="y.open"), node("y"), gate("x", "y")), ("node", 0, "success"), "does not run before"),
        (make(FlowNode(id="x", flow="nothing")), ("node", 0, "flow"), "there is no flow 'nothing'"),
        (make(FlowNode(id="x", flow="f")), ("node", 0, "flow"), "hold itself"),
        (make(node("x"), node("y"), gate("x")), ("node", 1, "id"), "does not lead to the gate"),
        (make(check("c"), node("late", "c"), gate("late")), ("node", 1, "id"), "has to come behind it"),
        (make(node("x"), check("c", "x"), gate("c")), ("node",), "2 peer reviewers must agree, this flow has 0"),
        (make(node("x", agent="r"), node("y", agent="r"), gate("x", "y")), ("node",), "nothing checks the result"),
    ],
)
def test_a_broken_flow_is_refused_with_the_reason(broken: Flow, where: tuple[str | int, ...], why: str) -> None:
    found = faults(broken)
    if not why:  # an implicit edge makes it right
        assert all(fault.where != where for fault in found)
        return
    assert any(fault.where == where and why in fault.why for fault in found), found


def test_a_flow_with_a_gate_is_no_part_of_another() -> None:
    outer = make(FlowNode(id="x", flow="f"), name="outer")
    assert "gate of its own" in faults(outer, {"f": WHOLE, "peers": PEERS})[0].why


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
    graph = make(*nodes, gate(*[n.id for n in nodes]))
    results: dict[str, NodeResult] = {}
    while ready := flow.ready(graph, results):
        chosen = data.draw(st.sampled_from(ready))
        assert chosen.id not in results
        assert set(chosen.inputs) <= set(results)
        state = data.draw(st.sampled_from([NodeState.PASSED, NodeState.SKIPPED, NodeState.TOLERATED]))
        results[chosen.id] = done(chosen.id, state)
    assert set(results) == {n.id for n in graph.nodes}


def test_the_first_failed_node_is_found() -> None:
    results: Mapping[str, NodeResult] = {"a": done("a"), "b": done("b", NodeState.FAILED)}
    found = flow.failed(results)
    assert found is not None
    assert found.node == "b"
