"""The router: labels and paths first, then the measured rate; only what is local; and it says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import route
from pantheon.records import Agent, Flow, FlowMatch, FlowNode, Runtime, Task, TaskSpec


def flow(name: str, *labels: str, gate: bool = True) -> Flow:
    node = FlowNode(id="g", gate=True) if gate else FlowNode(id="g", checks=("links",))
    return Flow(name=name, match=FlowMatch(labels=labels), nodes=(node,))


FLOWS = {f.name: f for f in (flow("docs", "docs", "notes"), flow("code", "code"), flow("part", "docs", gate=False))}


def task(*labels: str, named: str | None = None) -> Task:
    spec = TaskSpec(flow=named, scope=("**",))
    return Task(uuid="u-1", title="t", slug="t", status="ready", path="t.md", labels=labels, spec=spec)


def agent(name: str, version: int = 1, match: FlowMatch | None = None, **runtime: str) -> Agent:
    given = Runtime.model_validate({"origin": "local", **runtime})
    return Agent(name=name, version=version, summary="", runtime=given, match=match or FlowMatch())


AGENTS = {
    a.name: a
    for a in (
        agent("plain"),
        agent("other", 4),
        agent("labelled", match=FlowMatch(labels=("docs",))),
        agent("placed", match=FlowMatch(paths=("docs/**",))),
        agent("away", origin="https://example.org"),
        agent("large", model="big"),
    )
}


def choose(*wants: str, target: str = "a.md", rates: route.Rates | None = None, labels: str = "") -> route.Choice:
    return route.agent_for(wants, AGENTS, task(*labels.split()), target, rates or {}, "default")


def test_a_named_flow_is_taken_and_one_without_a_gate_is_not() -> None:
    assert route.flow_of(task("code", named="docs"), FLOWS).name == "docs"
    assert route.flow_of(task(named="part"), FLOWS) == route.Choice(
        "", ("flow 'part' has no gate: it is a part of others; known flows: code, docs",)
    )
    assert "there is no flow 'nope'" in route.flow_of(task(named="nope"), FLOWS).why[0]


def test_without_a_name_the_flow_that_shares_the_most_labels_is_taken() -> None:
    assert route.flow_of(task("code", "docs", "notes"), FLOWS).name == "docs"
    assert route.flow_of(task("opera"), FLOWS).name == ""


def test_the_more_particular_agent_comes_before_the_better_measured_one() -> None:
    rates = {"plain@1": (90, 100), "labelled@1": (1, 100)}
    assert choose("plain", "labelled", labels="docs", rates=rates).name == "labelled@1"
    assert choose("plain", "labelled", rates=rates).name == "plain@1"
    assert choose("plain", "placed", target="docs/a.md").name == "placed@1"
    assert choose("plain", "placed", target="src/a.md").name == "plain@1"


def test_among_equals_the_measured_rate_decides_then_the_order() -> None:
    assert choose("plain", "other", rates={"plain@1": (1, 10), "other@4": (9, 10)}).name == "other@4"
    assert choose("plain", "other", rates={"plain@1": (1, 10)}).name == "other@4", "a bad record is worse than none"
    assert choose("plain", "other").name == "plain@1"
    assert (
        choose("plain", "other", rates={"other@4": (9, 10)}).why[0] == "other@4: fits everything; 9 of 10 runs accepted"
    )


@pytest.mark.parametrize(
    ("want", "why"),
    [
        ("away", "only a local one may"),
        ("large", "'default' is served"),
        ("other >= 5", "other@4 is in force"),
        ("nobody", "there is no agent"),
        ("labelled", "none of its labels"),
    ],
)
def test_what_cannot_be_chosen_is_left_out_with_the_reason(want: str, why: str) -> None:
    found = choose(want)
    assert found.name == ""
    assert why in found.why[0]
    assert choose(want, "plain").name == "plain@1"


@given(st.lists(st.sampled_from(["plain", "other", "away", "large", "labelled", "nobody", "away@1"]), max_size=6))
def test_no_order_of_wishes_ever_ends_at_an_agent_that_is_not_local(wants: list[str]) -> None:
    found = choose(*wants, labels="docs")
    assert found.name.rpartition("@")[0] in ("", "plain", "other", "labelled")
    assert bool(found.name) == bool({"plain", "other", "labelled"} & set(wants))
