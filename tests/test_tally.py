"""Tally: sums over runs, and none of them counts twice or forgets a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import tally
from pantheon.records import CheckResult, Item, Night, NightReport, NodeMetrics, Outcome, Run, Verdict

WHEN = datetime(2026, 3, 1, tzinfo=UTC)


def run(
    target: str = "docs/a.md",
    outcome: Outcome = Outcome.ACCEPTED,
    nodes: dict[str, str] | None = None,
    agents: dict[str, str] | None = None,
    metrics: dict[str, NodeMetrics] | None = None,
    flow: str = "docops",
    checks: tuple[CheckResult, ...] = (),
    verdicts: tuple[Verdict, ...] = (),
) -> Run:
    item = Item(id="i", task="t", flow=flow, target=target, blob="0" * 40, findings=())
    return Run(
        id="r", night="n", item=item, base="0" * 40, outcome=outcome,
        node="" if outcome is Outcome.ACCEPTED else "merge",
        nodes={"edit": "passed", "merge": "passed"} if nodes is None else nodes,
        node_agents={"edit": "doc.edit@1"} if agents is None else agents, metrics=metrics or {}, checks=checks,
        verdicts=verdicts,
    )  # fmt: skip


def night(number: int, *runs: Run) -> NightReport:
    frozen = Night(
        id=f"n{number}", started_at=WHEN + timedelta(days=number), base="0" * 40, branch="main", budget_s=60, window=4,
        engine="vllm", model="m",
    )  # fmt: skip
    return NightReport(night=frozen, finished_at=WHEN, ended="finished", runs=runs, left=0)


def test_the_quantile_is_the_nearest_rank() -> None:
    assert [tally.quantile([15, 20, 35, 40, 50], part) for part in (0.05, 0.3, 0.4, 0.5, 1)] == [15, 20, 20, 35, 50]
    assert tally.quantile([], 0.5) is None


def test_a_node_is_summed_up_per_agent_that_did_it() -> None:
    cost = NodeMetrics(
        seconds=2, decode_s=1, memory_bytes=10, tool_calls={"read": 3}, tool_errors={"read": {"tool": 1}}, attempts=2,
        exit="passed",
    )  # fmt: skip
    dear = cost.model_copy(update={"seconds": 4.0, "memory_bytes": 30, "exit": "deadline"})
    figures = tally.nodes(
        [
            run(metrics={"edit": cost}),
            run(nodes={"edit": "failed"}, metrics={"edit": dear}, outcome=Outcome.FAILED),
            run(agents={"edit": "doc.edit@2"}),
            run(nodes={"edit": "skipped", "merge": "passed"}),
        ]
    )
    assert [(one.node, one.agent, one.runs, one.passed) for one in figures] == [
        ("edit", "doc.edit@1", 2, 1), ("edit", "doc.edit@2", 1, 1), ("merge", "", 3, 3)
    ]  # fmt: skip
    first = figures[0]
    assert (first.p50_s, first.p95_s, figures[1].p50_s) == (2, 4, None)
    assert first.total == NodeMetrics(
        seconds=6, decode_s=2, memory_bytes=30, tool_calls={"read": 6}, tool_errors={"read": {"tool": 2}}, attempts=4
    )
    assert first.exits == {"deadline": 1, "passed": 1}


def test_the_elements_of_a_fan_out_are_counted_and_their_sum_is_not() -> None:
    one = run(
        nodes={"edit.1": "passed", "edit.2": "failed", "edit": "failed"},
        agents={"edit.1": "doc.edit@1", "edit.2": "doc.edit@1", "edit": "doc.edit@1"},
        metrics={name: NodeMetrics(seconds=1) for name in ("edit.1", "edit.2", "edit")},
    )
    (figures,) = tally.nodes([one])
    assert (figures.node, figures.runs, figures.passed, figures.total.seconds) == ("edit", 2, 1, 2)


def test_a_node_that_was_stopped_counts_for_the_agent_it_was_given_to_and_unmeasured_is_not_zero() -> None:
    stopped = run(nodes={"edit.1": "failed", "edit": "failed"}, agents={}, metrics={"edit.1": NodeMetrics()})
    stopped = stopped.model_copy(update={"item": stopped.item.model_copy(update={"agents": {"edit": "doc.edit@4"}})})
    (figures,) = tally.nodes([stopped])
    assert (figures.agent, figures.runs, figures.p50_s) == ("doc.edit@4", 1, None)
    assert list(tally.by_agent([stopped])) == ["doc.edit@4"]


def test_pass_rates_leave_out_what_is_parked() -> None:
    runs = [
        run("a.md"), run("docs/b.md"), run("docs/c.md", Outcome.FAILED), run("docs/d.md", Outcome.PARKED),
        run("docs/e.md", agents={"edit": "doc.edit@2"}),
    ]  # fmt: skip
    directories = {name: (share.hits, share.of) for name, share in tally.by_directory(runs).items()}
    assert directories == {".": (1, 1), "docs": (2, 3)}
    agents = {name: (share.hits, share.of) for name, share in tally.by_agent(runs).items()}
    assert agents == {"doc.edit@1": (2, 3), "doc.edit@2": (1, 1)}


def test_tool_errors_stand_beside_the_calls_by_cause() -> None:
    cost = NodeMetrics(
        tool_calls={"read": 3, "list": 1}, tool_errors={"read": {"tool": 1, "timeout": 1}, "gone": {"x": 1}}
    )
    found = tally.tool_errors(
        tally.nodes([run(metrics={"edit": cost}), run(metrics={"merge": NodeMetrics(tool_calls={"read": 1})})])
    )
    assert found == {
        "gone": tally.ToolFigures(0, {"x": 1}),
        "list": tally.ToolFigures(1, {}),
        "read": tally.ToolFigures(4, {"timeout": 1, "tool": 1}),
    }


def test_reviewers_that_met_are_compared() -> None:
    def said(a: str, b: str) -> tuple[Verdict, ...]:
        return (
            Verdict(node="review-a", agent="peer-a@1", verdict="pass", reason=""),
            Verdict(node="review-b", agent=f"{a}@1", verdict="pass" if b == "pass" else "fail", reason=""),
        )

    runs = [
        run(verdicts=said("peer-b", "pass")),
        run(verdicts=said("peer-b", "fail")),
        run(verdicts=said("peer-c", "pass")),
    ]
    assert tally.disagreement(runs) == {("peer-a@1", "peer-b@1"): (1, 1, 0, 0), ("peer-a@1", "peer-c@1"): (1, 0, 0, 0)}
    assert tally.disagreement([]) == {}


def test_tests_broken_and_fixed_are_summed_over_checks() -> None:
    checks = (
        CheckResult(name="suite", passed=True, tests_fixed=3),
        CheckResult(name="more", passed=False, tests_broken=2, tests_fixed=1),
    )
    assert tally.tests([run(checks=checks), run(checks=checks[:1]), run()]) == (2, 7)


def test_a_learning_curve_knows_what_was_accepted_before() -> None:
    newer = {"edit": "doc.edit@2"}
    curves = tally.learning(
        [
            night(3, run(agents=newer), run(agents=newer, outcome=Outcome.FAILED)),
            night(1, run(), run(), run(outcome=Outcome.FAILED)),
            night(2, run(outcome=Outcome.FAILED)),
        ]
    )
    points = [(p.night, p.version, p.accepted, p.share.hits, p.share.of) for p in curves["doc.edit"]]
    assert points == [("n1", 1, 0, 2, 3), ("n2", 1, 2, 0, 1), ("n3", 2, 2, 1, 2)]


seconds = st.floats(0, 1e5, allow_nan=False)
costs = st.builds(
    NodeMetrics, seconds=seconds, queue_s=seconds, model_calls=st.integers(0, 9), memory_bytes=st.integers(0, 2**40),
    tool_calls=st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    tool_errors=st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xy"), st.integers(0, 9))),
)  # fmt: skip


@given(st.lists(costs, max_size=6), st.lists(costs, max_size=6))
def test_costs_add_up_in_any_grouping(some: list[NodeMetrics], others: list[NodeMetrics]) -> None:
    whole = tally.added([*some, *others])
    grouped = tally.added([tally.added(some), tally.added(others)])
    for name in ("seconds", "queue_s", "model_calls", "memory_bytes", "attempts"):
        assert getattr(whole, name) == pytest.approx(getattr(grouped, name))
    assert (whole.tool_calls, whole.tool_errors) == (grouped.tool_calls, grouped.tool_errors)


@given(
    st.lists(
        st.builds(run, st.sampled_from(["a.md", "d/a.md", "d/e/a.md"]), st.sampled_from(list(Outcome))), max_size=9
    )
)
def test_directories_count_every_run_that_is_not_parked_once(runs: list[Run]) -> None:
    shares = tally.by_directory(runs).values()
    judged = [one for one in runs if one.outcome is not Outcome.PARKED]
    assert (sum(s.of for s in shares), sum(s.hits for s in shares)) == (len(judged), sum(one.passed for one in judged))
