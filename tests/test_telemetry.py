"""Telemetry: what a scraper reads is well formed, counts right, and gives no path away."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime

import sample_night
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pantheon import quality, telemetry
from pantheon.records import (
    Bounds,
    Canary,
    CheckResult,
    Forecast,
    Item,
    Night,
    NightReport,
    NodeMetrics,
    Outcome,
    Run,
    Sample,
    Verdict,
)

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "docs/private/salaries.md"
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def read(text: bytes) -> Samples:
    """Every sample by its name and labels; fails on one that comes twice."""
    found: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation and family.type != "unknown", family.name
        for sample in family.samples:
            key = tuple(sorted(sample.labels.items()))
            assert key not in found[sample.name], f"{sample.name} {key} twice"
            found[sample.name][key] = sample.value
    return found


def one(samples: Samples, name: str, **labels: str) -> float:
    values = [v for key, v in samples[name].items() if labels.items() <= dict(key).items()]
    assert len(values) == 1, f"{name} {labels}: {values}"
    return values[0]


def run(
    outcome: Outcome = Outcome.ACCEPTED,
    seconds: float = 1.0,
    metrics: NodeMetrics | None = None,
    agent: str = "doc.edit@3",
    flow: str = "docops",
    canary: Canary | None = None,
    words: tuple[bool, ...] = (),
) -> Run:
    item = Item(id="i", task="t", flow=flow, target=SECRET, blob="0" * 40, findings=(), canary=canary)
    bad = outcome is Outcome.FAILED
    return Run(
        id="r", night="n", item=item, base="0" * 40, outcome=outcome, node="edit" if bad else "", reason=SECRET,
        nodes={"edit": "failed" if bad else "passed", "merge": "passed"}, node_agents={"edit": agent}, seconds=seconds,
        metrics={"edit": metrics} if metrics else {}, checks=(CheckResult(name="suite", passed=True, tests_fixed=2),),
        verdicts=tuple(
            Verdict(node=f"review-{n}", agent=f"peer-{n}@1", verdict="pass" if word else "fail", reason=SECRET)
            for n, word in enumerate(words)
        ),
    )  # fmt: skip


NIGHT = Night(
    id="2026-03-01-1", started_at=WHEN, base="0" * 40, branch="main", budget_s=3600, window=8, engine="vllm",
    model="tiny", items=9, forecast=Forecast(items=9, seconds=(60, 90), accepted=(5, 8), nights=2),
)  # fmt: skip
COST = NodeMetrics(
    seconds=3, queue_s=1, prefill_s=0.5, decode_s=2, tool_s=0.25, engine_s=0.75, cpu_s=0.5, memory_bytes=2**20,
    prompt_tokens=1000, cached_tokens=800, completion_tokens=60, model_calls=4, schema_errors=1,
    tool_calls={"read_note": 5}, tool_errors={"read_note": {"timeout": 2}}, attempts=2, exit="passed",
)  # fmt: skip


def report(runs: tuple[Run, ...], canaries: tuple[Run, ...] = ()) -> NightReport:
    return NightReport(
        night=NIGHT, finished_at=WHEN, ended="budget", runs=runs, canaries=canaries, left=3, tokens_per_s=25,
        mean_batch=6.5, prefix_hit_rate=0.8, host_cpu_s=4, wall_s=75,
        quality=quality.measure_all(runs, canaries, [], Bounds()),
    )  # fmt: skip


def test_a_night_can_be_read_back() -> None:
    bad = Canary(good=False, kind="wrong-title", tree="0" * 40)
    slow = COST.model_copy(update={"seconds": 30.0, "exit": "deadline"})
    found = read(
        telemetry.exposition(
            report(
                (run(metrics=COST), run(Outcome.FAILED, 40, metrics=slow), run(Outcome.PARKED)),
                (run(Outcome.SEEDED, canary=bad, words=(True, True)),),
            )
        )
    )
    assert one(found, "pantheon_night_info", night="2026-03-01-1", engine="vllm", gen_ai_request_model="tiny") == 1
    assert one(found, "pantheon_night_start_time_seconds") == WHEN.timestamp()
    assert one(found, "pantheon_night_ended", reason="budget") == 1
    assert [one(found, "pantheon_items_total", outcome=word) for word in ("accepted", "failed", "parked")] == [1, 1, 1]
    assert one(found, "pantheon_queue_items", state="left") == 3
    assert one(found, "pantheon_forecast_seconds", at="high") == 90
    assert one(found, "pantheon_night_wall_seconds") == 75
    assert one(found, "pantheon_tests_total", change="fixed") == 6
    node = {"flow": "docops", "node": "edit", "gen_ai_agent_name": "doc.edit", "gen_ai_agent_version": "3"}
    assert one(found, "pantheon_node_runs_total", **node, state="failed") == 1
    assert one(found, "pantheon_node_exits_total", **node, exit="deadline") == 1
    assert one(found, "pantheon_node_part_seconds_total", **node, part="decode") == 4
    assert one(found, "pantheon_node_memory_bytes", **node) == 2**20
    assert one(found, "pantheon_node_attempts_total", **node) == 4
    assert one(found, "pantheon_tool_errors_total", gen_ai_tool_name="read_note", error_type="timeout") == 4
    assert one(found, "pantheon_canaries_total", kind="wrong-title", worth="bad", fate="passed") == 1
    assert one(found, "pantheon_gate_state", flow="docops", state="halted") == 1
    assert one(found, "pantheon_false_pass_ratio", flow="docops", at="value") == 1
    assert "pantheon_kappa" not in found  # one word only: there is none to show


def test_names_are_those_of_the_genai_conventions() -> None:
    found = read(telemetry.exposition(report((run(metrics=COST), run(Outcome.FAILED, 40, metrics=COST)))))
    assert sorted(name for name in found if name.startswith("gen_ai")) == [
        "gen_ai_client_operation_duration_seconds_count",
        "gen_ai_client_operation_duration_seconds_sum",
        "gen_ai_client_token_usage_bucket",
        "gen_ai_client_token_usage_count",
        "gen_ai_client_token_usage_sum",
        "gen_ai_invoke_agent_duration_seconds_bucket",
        "gen_ai_invoke_agent_duration_seconds_count",
        "gen_ai_invoke_agent_duration_seconds_sum",
        "gen_ai_server_request_duration_seconds_count",
        "gen_ai_server_request_duration_seconds_sum",
        "gen_ai_server_time_to_first_token_seconds_count",
        "gen_ai_server_time_to_first_token_seconds_sum",
        "gen_ai_workflow_duration_seconds_bucket",
        "gen_ai_workflow_duration_seconds_count",
        "gen_ai_workflow_duration_seconds_sum",
    ]
    usage = {"gen_ai_token_type": "input", "gen_ai_operation_name": "invoke_agent", "gen_ai_provider_name": "vllm"}
    assert one(found, "gen_ai_client_token_usage_sum", **usage) == 2000
    assert one(found, "gen_ai_client_token_usage_bucket", **usage, le="256.0") == 0
    assert one(found, "gen_ai_client_token_usage_bucket", **usage, le="1024.0") == 2
    assert one(found, "gen_ai_workflow_duration_seconds_bucket", le="30.0", error_type="") == 1
    assert one(found, "gen_ai_workflow_duration_seconds_count", gen_ai_workflow_name="docops", error_type="edit") == 1
    asked = {"gen_ai_operation_name": "text_completion", "gen_ai_request_model": "tiny"}
    assert one(found, "gen_ai_client_operation_duration_seconds_count", **asked) == 8
    assert one(found, "gen_ai_client_operation_duration_seconds_sum", **asked) == 7
    assert one(found, "gen_ai_server_time_to_first_token_seconds_sum", **asked) == 3


def test_a_night_under_way_tells_of_its_queue_and_not_of_its_end() -> None:
    sample = Sample(t_s=20, done=1, accepted=1, running=6, left=2, requests=5, waiting=1, tokens=500)
    found = read(telemetry.live(NIGHT, [run(metrics=COST)], [], sample))
    assert one(found, "pantheon_queue_items", state="running") == 6
    assert one(found, "pantheon_engine_requests", state="waiting") == 1
    assert one(found, "pantheon_tokens_per_second") == 25
    assert "pantheon_night_ended" not in found
    assert one(read(telemetry.live(NIGHT, [], [], None)), "pantheon_night_budget_seconds") == 3600


words = st.text(max_size=12) | st.sampled_from(['a"b', "a\\b", "a\nb", "a{b}", "\udcff", "x@1", "@", "\r", "\u2028"])
costs = st.builds(
    NodeMetrics, seconds=st.floats(0, 1e6), queue_s=st.floats(0, 1e6), prefill_s=st.floats(0, 10), exit=words,
    prompt_tokens=st.integers(0, 10**9), completion_tokens=st.integers(0, 10**6), model_calls=st.integers(0, 50),
    tool_calls=st.dictionaries(words, st.integers(0, 9), max_size=3),
    tool_errors=st.dictionaries(words, st.dictionaries(words, st.integers(0, 9), max_size=2), max_size=2),
)  # fmt: skip
runs = st.builds(
    run, st.sampled_from([Outcome.ACCEPTED, Outcome.FAILED, Outcome.PARKED]), st.floats(0, 1e5), costs | st.none(),
    words, words,
)  # fmt: skip


@given(st.lists(runs, max_size=6))
@settings(deadline=None, max_examples=60)
def test_whatever_a_run_says_the_text_can_be_read_and_adds_up(given_runs: list[Run]) -> None:
    text = telemetry.exposition(report(tuple(given_runs)))
    found = read(text)
    assert sum(found["pantheon_items_total"].values()) == len(given_runs)
    assert sum(found["pantheon_node_runs_total"].values()) == 2 * len(given_runs)
    assert sum(found["gen_ai_workflow_duration_seconds_count"].values()) == len(given_runs)
    assert all(re.fullmatch(r"(pantheon|gen_ai)_[a-z0-9_]+", name) for name in found)
    for name in [name for name in found if name.endswith("_bucket")]:
        rows: defaultdict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = defaultdict(list)
        for key, value in found[name].items():
            rows[tuple(pair for pair in key if pair[0] != "le")].append((float(dict(key)["le"]), value))
        for key, buckets in rows.items():
            counts = [count for _, count in sorted(buckets)]
            assert counts == sorted(counts) and max(buckets)[0] == float("inf")
            assert counts[-1] == found[name.removesuffix("_bucket") + "_count"][key]


def test_no_path_is_given_away() -> None:
    canary = run(Outcome.SEEDED, canary=Canary(good=True, kind="restored", tree="0" * 40), words=(True, False))
    text = telemetry.exposition(report((run(metrics=COST), run(Outcome.FAILED)), (canary,)))
    assert b"private" not in text and b"salaries" not in text


def test_what_agents_learned_and_how_they_were_served_can_be_read_back() -> None:
    found = read(telemetry.exposition(sample_night.morning(nights=1).report, sample_night.learned()))
    assert one(found, "pantheon_night_serving", mode="phases") == 1
    assert one(found, "pantheon_phase_seconds_total", server="doc.frontmatter@4", part="serve") == 310
    assert one(found, "pantheon_phase_tokens_total", server="doc.frontmatter@4") == 24_000
    agent = {"gen_ai_agent_name": "doc.frontmatter", "gen_ai_agent_version": "4"}
    assert one(found, "pantheon_agent_held_out_ratio", **agent, at="value") == 85 / 120
    assert one(found, "pantheon_agent_learned_rows", **agent) == 1530
    assert one(found, "pantheon_agent_live_ratio", **agent, at="value") == 11 / 31
    assert one(found, "pantheon_agent_drift", **agent) == 1
    expected = one(found, "pantheon_agent_expected_ratio", **agent, at="value")
    assert one(found, "pantheon_agent_ceiling_ratio", **agent, at="value") >= expected > 0.6
    assert one(found, "pantheon_lift_ratio", at="low") == -0.021
    other = {"gen_ai_agent_name": "code.docstring", "gen_ai_agent_version": "2"}
    assert one(found, "pantheon_agent_aim_ratio", **other) == 0.8
    assert not any(dict(labels)["gen_ai_agent_name"] == "code.docstring" for labels in found["pantheon_agent_drift"])
