"""What runs add up to: cost per node, pass rates, tool errors, disagreement, learning. Pure.

Owns the sums that the report, its charts and the telemetry share; renders nothing. Intervals and the tables of
reviewers are quality.py's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from operator import itemgetter
from posixpath import dirname

from pantheon import quality
from pantheon.records import NightReport, NodeMetrics, NodeState, Outcome, Run, Share


@dataclass(frozen=True)
class NodeFigures:
    """A node of a flow as one agent did it ("" for checks and gates), over the runs that came to it. `p50_s`, `p95_s`:
    of its seconds, None where no run measured them. `total`: the sum of what was measured; its `memory_bytes` is the
    largest, its `exit` is empty. `exits`: how it ended -> how often, where that was measured."""

    flow: str
    node: str
    agent: str
    runs: int
    passed: int
    p50_s: float | None
    p95_s: float | None
    total: NodeMetrics
    exits: dict[str, int]


@dataclass(frozen=True)
class ToolFigures:
    """Calls of a tool, and by cause those that failed."""

    calls: int
    errors: dict[str, int]


@dataclass(frozen=True)
class Point:
    """A night on an agent's learning curve: `accepted` runs came before it, `share` of its own runs passed."""

    night: str
    version: int
    accepted: int
    share: Share


def quantile(values: Sequence[float], part: float) -> float | None:
    """The smallest value that `part` of them do not exceed (nearest rank); None of none."""
    return sorted(values)[max(0, ceil(part * len(values)) - 1)] if values else None


_NOTHING = NodeMetrics()
_NUMBERS = tuple(name for name, field in NodeMetrics.model_fields.items() if field.annotation in (int, float))
_numbers = itemgetter(*_NUMBERS)


def steps(run: Run) -> Iterator[tuple[str, str, str, NodeMetrics | None]]:
    """What ran in a run: (node, agent or "", state, its metrics or None where nothing was measured). Elements of a
    fan-out come one by one under the name of their node, whose sum is left out; a skipped node did not run."""
    every, agents, planned = run.metrics, run.node_agents, run.item.agents
    spread = {name.partition(".")[0] for name in run.nodes if "." in name}
    for name, state in run.nodes.items():
        if name not in spread and state != NodeState.SKIPPED:
            node, metrics = name.partition(".")[0], every.get(name)
            agent = agents.get(name) or planned.get(node, "")  # of one that was stopped, who should
            yield node, agent, state, metrics if metrics and (metrics.seconds or metrics != _NOTHING) else None


def nodes(runs: Iterable[Run]) -> tuple[NodeFigures, ...]:
    """Every (flow, node, agent), in that order."""
    states: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    measured: defaultdict[tuple[str, str, str], list[NodeMetrics]] = defaultdict(list)
    for run in runs:
        flow = run.item.flow
        for node, agent, state, metrics in steps(run):
            key = flow, node, agent
            states[key].append(state)
            if metrics is not None:
                measured[key].append(metrics)
    return tuple(
        NodeFigures(
            *key,
            runs=len(states[key]),
            passed=states[key].count(NodeState.PASSED),
            p50_s=quantile([one.seconds for one in measured[key]], 0.5),
            p95_s=quantile([one.seconds for one in measured[key]], 0.95),
            total=added(measured[key]),
            exits=dict(sorted(Counter(one.exit for one in measured[key] if one.exit).items())),
        )
        for key in sorted(states)
    )


def added(metrics: Iterable[NodeMetrics]) -> NodeMetrics:
    """Several nodes' costs as one: sums, of memory the largest. `exit` is empty; of none, `attempts` is 0."""
    found = list(metrics)
    calls, errors = _calls(found), _errors(found)
    columns = zip(*[_numbers(one.__dict__) for one in found], strict=True) if found else [()] * len(_NUMBERS)
    numbers = dict(zip(_NUMBERS, map(sum, columns), strict=True))
    numbers["memory_bytes"] = max((one.memory_bytes for one in found), default=0)
    return NodeMetrics.model_validate({**numbers, "tool_calls": calls, "tool_errors": errors})


def _calls(metrics: Iterable[NodeMetrics]) -> dict[str, int]:
    calls: defaultdict[str, int] = defaultdict(int)  # a Counter is ten times slower with what holds one or two
    for one in metrics:
        for name, count in one.tool_calls.items():
            calls[name] += count
    return dict(sorted(calls.items()))


def _errors(metrics: Iterable[NodeMetrics]) -> dict[str, dict[str, int]]:
    errors: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in metrics:
        for tool, causes in one.tool_errors.items():
            errors[tool].update(causes)
    return {tool: dict(sorted(errors[tool].items())) for tool in sorted(errors)}


def tool_errors(found: Iterable[NodeFigures]) -> dict[str, ToolFigures]:
    """Tool -> its calls and their errors over all nodes, in order of name."""
    totals = [one.total for one in found]
    calls, errors = _calls(totals), _errors(totals)
    return {name: ToolFigures(calls.get(name, 0), errors.get(name, {})) for name in sorted({*calls, *errors})}


def by_agent(runs: Iterable[Run]) -> dict[str, Share]:
    """Agent@version -> the share that the gate passed of the runs that it took part in."""
    return _passed(runs, lambda run: sorted({agent for _, agent, _, _ in steps(run) if agent}))


def by_directory(runs: Iterable[Run]) -> dict[str, Share]:
    """Directory of the target, "." for the root -> the share that the gate passed."""
    return _passed(runs, lambda run: [dirname(run.item.target) or "."])


def _passed(runs: Iterable[Run], keys: Callable[[Run], Iterable[str]]) -> dict[str, Share]:
    """Without parked runs: they are sound, and wait for something that says nothing of who did them."""
    words: defaultdict[str, list[bool]] = defaultdict(list)
    for run in runs:
        if run.outcome is not Outcome.PARKED:
            for key in keys(run):
                words[key].append(run.passed)
    return {key: quality.share(sum(words[key]), len(words[key])) for key in sorted(words)}


def disagreement(runs: Sequence[Run]) -> dict[tuple[str, str], quality.Table]:
    """Two reviewers, agent@version -> how often both passed, only the first, only the second, neither; over what
    `quality.ratings` compares. Pairs that never met are left out."""
    seats = sorted({seat for run in runs for seat in quality.seats_of(run)})
    found: dict[tuple[str, str], quality.Table] = {}
    for first, second in combinations(seats, 2):
        table, pair = quality.table_of(runs, first, second), (first[1], second[1])
        if sum(table):
            one, only_first, only_second, neither = found.get(pair, (0, 0, 0, 0))
            found[pair] = (one + table[0], only_first + table[1], only_second + table[2], neither + table[3])
    return found


def tests(runs: Iterable[Run]) -> tuple[int, int]:
    """How many tests the changes broke and fixed, as their checks counted."""
    checks = [check for run in runs for check in run.checks]
    return sum(check.tests_broken for check in checks), sum(check.tests_fixed for check in checks)


def learning(reports: Iterable[NightReport]) -> dict[str, tuple[Point, ...]]:
    """Agent's name -> a point per night and version, oldest first; reports in any order."""
    curves: defaultdict[str, list[Point]] = defaultdict(list)
    accepted: Counter[str] = Counter()
    for report in sorted(reports, key=lambda one: one.night.started_at):
        gained: Counter[str] = Counter()
        for label, share in by_agent(report.runs).items():
            name, _, version = label.rpartition("@")
            if name and version.isdecimal():
                curves[name].append(Point(report.night.id, int(version), accepted[name], share))
                gained[name] += share.hits
        accepted += gained
    return {name: tuple(curves[name]) for name in sorted(curves)}
