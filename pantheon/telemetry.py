"""A night as Prometheus text: what a scraper of the daemon's socket reads. Pure.

Names and labels follow OpenTelemetry's GenAI conventions where these have one, as its rules of compatibility with
Prometheus spell them (dots become underscores, seconds a suffix, counts have none); ours begin with `pantheon_`. Counts
begin anew with each night. No label holds a path. The format is prometheus-client's; serving it is the daemon's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from pantheon import quality, tally
from pantheon.growth import NOTHING, Learned
from pantheon.plan import printable
from pantheon.records import (
    Estimate,
    FlowQuality,
    Night,
    NightReport,
    NodeMetrics,
    NodeState,
    Outcome,
    Run,
    Sample,
    Share,
)
from pantheon.tally import NodeFigures

Row = tuple[str, ...]  # the values of a family's labels
Rows = Iterable[tuple[Row, float]]
# The boundaries that the conventions advise, in seconds and in tokens.
_WORKFLOW_S = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_AGENT_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
_TOKENS = tuple(4**power for power in range(14))
_AGENT = ("gen_ai_agent_name", "gen_ai_agent_version")
_NODE = ("flow", "node", *_AGENT)
_MODEL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_FATES = ("by_checks", "by_reviewers", "passed", "broken")
_STATES = ("open", "alert", "halted", "unmeasured")


def exposition(report: NightReport, learned: Learned = NOTHING) -> bytes:
    """A night that ended, with what was measured of its gates, and what agents had learned by then."""
    last = Sample(t_s=report.wall_s, done=len(report.runs), accepted=0, running=0, left=report.left)
    families = [
        *_night(report.night, report.runs, report.canaries, last),
        _gauge("pantheon_night_ended", "Why the night ended, as the label says.", ("reason",), [((report.ended,), 1)]),
        _number("pantheon_tokens_per_second", "Generated tokens per second.", report.tokens_per_s),
        _number("pantheon_batch_mean", "Tokens per step of the engine.", report.mean_batch),
        _number("pantheon_prefix_cache_hit_ratio", "Prompt tokens that were found cached.", report.prefix_hit_rate),
        _number("pantheon_host_cpu_seconds", "Processor time outside the engine.", report.host_cpu_s),
    ]
    return _text([*families, *_served(report), *_gates(report.quality), *_learned(learned)])


def live(night: Night, runs: Sequence[Run], canaries: Sequence[Run], sample: Sample | None) -> bytes:
    """A night that is under way: its runs so far, and the last look at it."""
    families = list(_night(night, runs, canaries, sample))
    if sample is not None:
        speed = sample.tokens / sample.t_s if sample.t_s > 0 else 0.0
        requests = [(("running",), sample.requests), (("waiting",), sample.waiting)]
        families += [
            _gauge("pantheon_engine_requests", "Requests in the engine, or for a slot of it.", ("state",), requests),
            _number("pantheon_tokens_per_second", "Generated tokens per second.", speed),
        ]
    return _text(families)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        return (family for family in self.families if family.samples)


def _text(families: Iterable[Metric]) -> bytes:
    return generate_latest(_Families(families))


# --- families --------------------------------------------------------------------------------------------------------


def _number(name: str, about: str, value: float) -> Metric:
    return _gauge(name, about, (), [((), value)])


def _gauge(name: str, about: str, labels: Row, rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for row, value in rows:
        family.add_metric(_shown(row), value)
    return family


def _counter(name: str, about: str, labels: Row, rows: Rows) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for row, value in rows:
        family.add_metric(_shown(row), value)
    return family


def _histogram(name: str, about: str, bounds: Sequence[float], labels: Row, rows: Mapping[Row, list[float]]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=labels)
    for row, values in rows.items():
        family.add_metric(_shown(row), _buckets(values, bounds), sum(values))
    return family


def _buckets(values: Sequence[float], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """How many values are at most each bound."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[next((n for n, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    return list(zip((*(str(float(bound)) for bound in bounds), "+Inf"), accumulate(counts), strict=True))


def _shown(row: Row) -> list[str]:
    """Text that UTF-8 can hold: a lone surrogate would end the exposition."""
    return [printable(value) for value in row]


# --- a night and its nodes -------------------------------------------------------------------------------------------


def _night(night: Night, runs: Sequence[Run], canaries: Sequence[Run], sample: Sample | None) -> Iterator[Metric]:
    labels, about = ("night", "engine", "gen_ai_request_model"), (night.id, night.engine, night.model)
    yield _gauge("pantheon_night_info", "The night that is told of.", labels, [(about, 1)])
    started = night.started_at.timestamp()
    yield _number("pantheon_night_start_time_seconds", "When the night began, since 1970.", started)
    yield _number("pantheon_night_budget_seconds", "The time that the night may take.", night.budget_s)
    yield from _forecast(night)
    if sample is not None:
        yield _number("pantheon_night_wall_seconds", "The time that the night took.", sample.t_s)
        depth = [(("running",), sample.running), (("left",), sample.left)]
        yield _gauge("pantheon_queue_items", "Items in flight, and not started.", ("state",), depth)
    outcomes = Counter(run.outcome for run in runs)
    done = [((kind.value,), outcomes[kind]) for kind in (Outcome.ACCEPTED, Outcome.FAILED, Outcome.PARKED)]
    yield _counter("pantheon_items", "Items of the night that are done.", ("outcome",), done)
    if runs:
        share = outcomes[Outcome.ACCEPTED] / len(runs)
        yield _number("pantheon_yield_ratio", "Accepted items among those that are done.", share)
    broken, fixed = tally.tests(runs)
    tests = [(("broken",), broken), (("fixed",), fixed)]
    yield _counter("pantheon_tests", "Tests that changes broke or fixed.", ("change",), tests)
    yield from _canaries(canaries)
    yield from _agents(runs)
    nodes = tally.nodes(runs)
    yield from _nodes(runs, nodes)
    yield from _tools(nodes)
    yield from _conventions(night, runs)


def _forecast(night: Night) -> Iterator[Metric]:
    """Beside it stand the actual figures: pantheon_night_wall_seconds and pantheon_items_total."""
    if night.forecast is None:
        return
    yield _number("pantheon_forecast_items", "Items expected to be run.", night.forecast.items)
    for name, about, (low, high) in (
        ("seconds", "The time that the night was expected to take.", night.forecast.seconds),
        ("accepted_items", "Items expected to be accepted.", night.forecast.accepted),
    ):
        yield _gauge(f"pantheon_forecast_{name}", about, ("at",), [(("low",), low), (("high",), high)])


def _canaries(canaries: Sequence[Run]) -> Iterator[Metric]:
    rows = [
        ((flow, one.kind, "good" if one.good else "bad", fate), getattr(one, fate))
        for flow in sorted({run.item.flow for run in canaries})
        for one in quality.canary_figures([run for run in canaries if run.item.flow == flow])
        for fate in _FATES
    ]
    yield _counter("pantheon_canaries", "What became of seeded changes.", ("flow", "kind", "worth", "fate"), rows)


def _agents(runs: Sequence[Run]) -> Iterator[Metric]:
    shares = [(_agent(label), share) for label, share in tally.by_agent(runs).items()]
    about = "Runs that an agent took part in"
    yield _counter("pantheon_agent_runs", f"{about}.", _AGENT, [(agent, share.of) for agent, share in shares])
    passed = [(agent, share.hits) for agent, share in shares]
    yield _counter("pantheon_agent_passed", f"{about} and that the gate passed.", _AGENT, passed)


def _agent(label: str) -> tuple[str, str]:
    name, _, version = label.rpartition("@")
    return (name, version) if name and version.isdecimal() else (label, "")


def _nodes(runs: Sequence[Run], nodes: Sequence[NodeFigures]) -> Iterator[Metric]:
    figures = [((one.flow, one.node, *_agent(one.agent)), one) for one in nodes]
    states = [
        ((*key, state), count)
        for key, one in figures
        for state, count in (("passed", one.passed), ("failed", one.runs - one.passed))
    ]
    yield _counter("pantheon_node_runs", "Nodes that ran.", (*_NODE, "state"), states)
    exits = [((*key, word), count) for key, one in figures for word, count in one.exits.items()]
    yield _counter("pantheon_node_exits", "How nodes ended, or what stopped them.", (*_NODE, "exit"), exits)
    seconds: defaultdict[Row, list[float]] = defaultdict(list)
    for run in runs:
        for node, agent, _, metrics in tally.steps(run):
            if metrics is not None:
                seconds[run.item.flow, node, *_agent(agent)].append(metrics.seconds)
    yield _histogram("pantheon_node_duration_seconds", "A node with all its attempts.", _AGENT_S, _NODE, seconds)
    totals = [(key, one.total) for key, one in figures if key in seconds]
    parts = [((*key, part), value) for key, total in totals for part, value in _parts(total)]
    yield _counter("pantheon_node_part_seconds", "What a node's time went into.", (*_NODE, "part"), parts)
    tokens = [((*key, kind), value) for key, total in totals for kind, value in _tokens(total)]
    yield _counter("pantheon_node_tokens", "Tokens; cached are input too.", (*_NODE, "gen_ai_token_type"), tokens)
    for name, field, about in (
        ("engine_seconds", "engine_s", "The engine's time, shared among the requests in flight: on a GPU, GPU time."),
        ("cpu_seconds", "cpu_s", "Processor time of tools, checks and their children."),
        ("attempts", "attempts", "Attempts, the first ones included."),
        ("model_calls", "model_calls", "Questions to a model."),
        ("schema_errors", "schema_errors", "Answers that the schema does not allow."),
    ):
        rows = [(key, getattr(total, field)) for key, total in totals]
        yield _counter(f"pantheon_node_{name}", about, _NODE, rows)
    memory = [(key, total.memory_bytes) for key, total in totals if total.memory_bytes]
    yield _gauge("pantheon_node_memory_bytes", "The largest child's peak.", _NODE, memory)


def _parts(total: NodeMetrics) -> Iterator[tuple[str, float]]:
    yield "queue", total.queue_s
    yield "prefill", total.prefill_s
    yield "decode", total.decode_s
    yield "tool", total.tool_s


def _tokens(total: NodeMetrics) -> Iterator[tuple[str, int]]:
    yield "input", total.prompt_tokens
    yield "cached", total.cached_tokens
    yield "output", total.completion_tokens


def _tools(nodes: Sequence[NodeFigures]) -> Iterator[Metric]:
    figures = tally.tool_errors(nodes)
    calls = [((name,), one.calls) for name, one in figures.items()]
    errors = [((name, cause), count) for name, one in figures.items() for cause, count in one.errors.items()]
    yield _counter("pantheon_tool_calls", "Calls of tools.", ("gen_ai_tool_name",), calls)
    yield _counter("pantheon_tool_errors", "Calls that failed.", ("gen_ai_tool_name", "error_type"), errors)


def _conventions(night: Night, runs: Sequence[Run]) -> Iterator[Metric]:
    """What the GenAI conventions name. A workflow is a run, an agent's invocation one of its nodes. Of requests to a
    model a run records sums, not each: they are summaries, whose averages are those of the histograms advised."""
    flows: defaultdict[Row, list[float]] = defaultdict(list)
    agents: defaultdict[Row, list[float]] = defaultdict(list)
    tokens: defaultdict[Row, list[float]] = defaultdict(list)
    for run in runs:
        flows[run.item.flow, run.node].append(run.seconds)
        for _, agent, state, one in tally.steps(run):
            if agent and one is not None:
                error = "" if state == NodeState.PASSED else one.exit or state
                agents[*_agent(agent), night.model, error].append(one.seconds)
                if one.model_calls:
                    row = ("invoke_agent", night.engine, night.model, *_agent(agent))
                    tokens[*row, "input"].append(one.prompt_tokens)
                    tokens[*row, "output"].append(one.completion_tokens)
    labels: Row = ("gen_ai_workflow_name", "error_type")
    yield _histogram("gen_ai_workflow_duration_seconds", "A run of a flow.", _WORKFLOW_S, labels, flows)
    labels = (*_AGENT, "gen_ai_request_model", "error_type")
    yield _histogram("gen_ai_invoke_agent_duration_seconds", "An agent's work on a node.", _AGENT_S, labels, agents)
    labels = (*_MODEL, *_AGENT, "gen_ai_token_type")
    yield _histogram("gen_ai_client_token_usage", "Tokens of an agent's work on a node.", _TOKENS, labels, tokens)
    asked = tally.added(one for run in runs for _, _, _, one in tally.steps(run) if one is not None)
    if asked.model_calls:
        yield from _requests(
            ("text_completion" if night.engine == "vllm" else "chat", night.engine, night.model), asked
        )


def _requests(row: Row, asked: NodeMetrics) -> Iterator[Metric]:
    served = asked.prefill_s + asked.decode_s
    for name, about, seconds in (
        (
            "gen_ai_client_operation_duration_seconds",
            "A request, the wait for a slot included.",
            asked.queue_s + served,
        ),
        ("gen_ai_server_request_duration_seconds", "A request, from its slot to its last token.", served),
        ("gen_ai_server_time_to_first_token_seconds", "The queue and the prefill.", asked.queue_s + asked.prefill_s),
    ):
        if "first_token" not in name or asked.prefill_s:  # not every server tells
            family = SummaryMetricFamily(name, about, labels=_MODEL)
            family.add_metric(_shown(row), asked.model_calls, seconds)
            yield family


# --- gates -----------------------------------------------------------------------------------------------------------


def _gates(measured: Sequence[FlowQuality]) -> Iterator[Metric]:
    """An estimate is three samples, where it can be had: its value and the ends of its 95% interval."""
    states = [((one.flow, state), one.state == state) for one in measured for state in _STATES]
    yield _gauge("pantheon_gate_state", "1 for the state that a flow's gate is in.", ("flow", "state"), states)
    for name, field, about in (
        ("kappa", "kappa", "Cohen's kappa of the reviewers."),
        ("kappa_adjusted", "adjusted", "Kappa adjusted for prevalence and bias."),
        ("precision_ratio", "precision", "Right changes among the accepted ones."),
        ("false_pass_ratio", "false_pass", "Known-bad changes that got past both reviewers."),
        ("true_pass_ratio", "true_pass", "Known-good changes that got past both reviewers."),
    ):
        rows = [((one.flow, at), value) for one in measured for at, value in _bounds(getattr(one, field))]
        yield _gauge(f"pantheon_{name}", about, ("flow", "at"), rows)
    seats = [((one.flow, seat.node, *_agent(seat.agent)), seat) for one in measured for seat in one.reviewers]
    for name, about in (
        ("sensitivity", "Known-bad changes that the reviewer refused."),
        ("specificity", "Known-good changes that the reviewer passed."),
    ):
        found = [((*key, at), value) for key, seat in seats for at, value in _bounds(getattr(seat, name))]
        yield _gauge(f"pantheon_reviewer_{name}_ratio", about, (*_NODE, "at"), found)


# --- learning --------------------------------------------------------------------------------------------------------


def _served(report: NightReport) -> Iterator[Metric]:
    mode = report.night.serving.mode
    yield _gauge("pantheon_night_serving", "How agents were served, as the label says.", ("mode",), [((mode,), 1)])
    parts = [
        ((one.server, part), value)
        for one in report.phases
        for part, value in (("start", one.start_s), ("serve", one.seconds))
    ]
    yield _counter("pantheon_phase_seconds", "A server's turns: to start, and at work.", ("server", "part"), parts)
    tokens = [((one.server,), one.tokens) for one in report.phases]
    yield _counter("pantheon_phase_tokens", "Tokens that a server generated.", ("server",), tokens)


def _learned(learned: Learned) -> Iterator[Metric]:
    """As with gates, an estimate is three samples."""
    agents = [((one.agent, str(one.version)), one) for one in learned.agents]
    measured = [(key, one.now, one) for key, one in agents if one.now is not None]
    rows = [((*key, at), value) for key, now, _ in measured for at, value in _bounds(now.passed)]
    yield _gauge("pantheon_agent_held_out_ratio", "Held-out items that pass.", (*_AGENT, "at"), rows)
    learnt = [(key, now.rows) for key, now, _ in measured]
    yield _gauge("pantheon_agent_learned_rows", "Rows that the version in force was trained on.", _AGENT, learnt)
    aims = [(key, one.aim) for key, one in agents]
    yield _gauge("pantheon_agent_aim_ratio", "Held-out items that are to pass.", _AGENT, aims)
    tops = [((*key, at), value) for key, one in agents if one.curve for at, value in _bounds(one.curve.top)]
    yield _gauge("pantheon_agent_ceiling_ratio", "What the learning curve levels off at.", (*_AGENT, "at"), tops)
    drifts = [(key, one.drift) for key, one in agents if one.drift is not None]
    for name, about, field in (
        ("live", "New items that pass with the version in force.", "live"),
        ("expected", "What was to be expected of new items.", "expected"),
    ):
        found = [((*key, at), value) for key, one in drifts for at, value in _bounds(getattr(one, field))]
        yield _gauge(f"pantheon_agent_{name}_ratio", about, (*_AGENT, "at"), found)
    alarms = [(key, one.alarm) for key, one in drifts]
    yield _gauge("pantheon_agent_drift", "1 where new items fail more than chance explains.", _AGENT, alarms)
    lift = [((at,), value) for at, value in _bounds(learned.lift)]
    yield _gauge("pantheon_lift_ratio", "Passed more than in the week before, at equal difficulty.", ("at",), lift)


def _bounds(one: Estimate | Share) -> Iterator[tuple[str, float]]:
    for at, value in (("value", one.value), ("low", one.low), ("high", one.high)):
        if one.value is not None and value is not None:
            yield at, value
