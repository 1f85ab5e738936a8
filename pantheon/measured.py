"""What earlier nights of one engine and one model showed: what an item costs, how agents did, how busy the engine was.

Pure. Takes night reports and gives one record, `Measured`; the forecast made of it is in capacity.py. It judges no
reviewer (quality.py does) and reads no repository (outlook.py does).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from pantheon import quality, queueing
from pantheon.plan import many
from pantheon.records import Night, NightReport, NodeMetrics, Outcome, Record, Run, Share

KNEE = 11.0  # in flight: where sharing stops paying on a CPU (FACTS.md: 11 tokens/s alone, 100 at 32); until measured
SOUND = 1e9  # seconds, calls and tokens of one run or night lie below it; what does not is not believed
TINY = 1e-6  # seconds; what is shorter was not measured
WINDOW = 4096  # the widest that the settings allow
EXPORT = 1.1  # a slot for checks is held while their tree is written and removed, too, which nobody measures
FEW = 20  # nodes, before the engine's behaviour under load is read off them


class AgentFigures(Record):
    """One agent. `mu`: answers per second of one slot of the engine while it is busy; `engine_s`: of the whole engine's
    time, per answer; `tau`: seconds outside the engine per node; `batch`: requests in the engine beside its own, itself
    included. None: those nights did not measure it. `passed`: of the items it worked on."""

    agent: str
    nodes: int = 0
    calls: int = 0
    mu: float | None = None
    engine_s: float | None = None
    tau: float | None = None
    batch: float | None = None
    passed: Share = Share()
    calls_per_item: float | None = None
    tokens_per_call: float | None = None


class FlowFigures(Record):
    """What an item of a flow costs, in seconds: in a slot of the engine, of the engine's own time, in tools, in checks,
    all in all outside the engine (waiting for a check included), of the night's wall time. `seeded`: of its canaries.
    `spread`: how much items differ, standard deviation by mean. The rates are the gate's, on canaries, in the last
    night that had some."""

    flow: str
    seeded: bool = False
    items: int = 0
    passed: Share = Share()
    busy_s: float = 0.0
    engine_s: float = 0.0
    tool_s: float = 0.0
    check_s: float = 0.0
    outside_s: float = 0.0
    wall_s: float = 0.0
    spread: float = 0.0
    sensitivity: dict[str, Share] = Field(
        default_factory=dict
    )  # reviewer -> the share of known-bad changes that it refused
    true_pass: Share = Share()
    false_pass: Share = Share()


class NightFigures(Record):
    """One night that was measured: what ran by flow, what was accepted of it, how long it took. `timed`: its wall time
    covers all of its items; not so of a night that was resumed. `queued`: all that stood in its queue."""

    night: str
    items: dict[str, int]
    canaries: dict[str, int] = Field(default_factory=dict)
    accepted: dict[str, int] = Field(default_factory=dict)
    queued: int = 0
    window: int = 1
    wall_s: float = 0.0
    timed: bool = True
    drained: bool = True  # the queue was finished: the last items ran beside fewer and fewer others
    batch: float | None = None
    checks: float = 0.0  # the share of the time in which the slots for checks were in use


class Measured(Record):
    """What earlier nights of one engine and one model say. `slots`: how many requests the engine works on at once.
    `rise`: the share of a request's time in it that grows with the batch, at the batch that was measured;
    `rise_measured`: or else it is assumed. `check_slots`: how many checks run at once, 0 for any number; `free`: the
    share of an item's time outside engine and checks in which it does not wait for a check."""

    engine: str = ""
    model: str = ""
    slots: int = 1
    check_slots: int = 0
    nights: tuple[NightFigures, ...] = ()
    agents: tuple[AgentFigures, ...] = ()
    flows: tuple[FlowFigures, ...] = ()
    calls: int = 0
    busy_s: float = 0.0  # all requests' time in the engine
    queue_s: float = 0.0  # all requests' wait for a slot
    wall_s: float = 0.0  # of the nights that measured it
    batch: float | None = None
    rise: float = 0.0
    rise_measured: bool = False
    free: float = 1.0
    notes: tuple[str, ...] = ()


class Load(Record):
    """The engine as a queue. `waits`: the probability that a request waits; `wait_s`: the mean wait, both by Erlang C,
    None where no steady state exists; `measured_wait_s`: what requests really waited."""

    slots: int
    arrivals: float  # requests per second
    mu: float
    rho: float
    waits: float
    wait_s: float | None
    measured_wait_s: float


def slots_of(window: int) -> int:
    """The engine's batch behind a window that it suggested itself: a quarter more items are kept in flight."""
    return max(1, window * 4 // 5)


def measure(
    reports: Sequence[NightReport], engine: str = "", model: str = "", slots: int = 0, check_slots: int = 0
) -> Measured:
    """What nights of this engine and model showed; without names those of the latest night, which is no dry run where
    no engine is named. `slots`: how many requests the engine works on at once; 0: as the latest window suggests.
    `check_slots`: how many checks run at once; 0: any number.

    A scripted night is no evidence for a real engine, nor one model for another. An interrupted night's runs count, but
    its wall time only where it can cover them: with a window of W items their seconds add up to at most W times it.
    """
    ordered = sorted(reports, key=lambda report: report.finished_at)
    ordered = [
        r
        for r in ordered
        if _runs(r) and _sound(r.wall_s) and (r.night.engine == engine if engine else r.night.engine != "scripted")
    ]
    if ordered:
        last = next((r.night for r in reversed(ordered) if not model or r.night.model == model), ordered[-1].night)
        engine, model = last.engine, model or last.model
    mine = [r for r in ordered if (r.night.engine, r.night.model) == (engine, model)]
    if not mine:
        return Measured(engine=engine, model=model)
    spent = [[_cost(run) for run in _runs(report)] for report in mine]
    told = [(report, costs) for report, costs in zip(mine, spent, strict=True) if any(c.busy_s > TINY for c in costs)]
    every = [cost for _, costs in told for cost in costs]
    busy, in_engine = sum(cost.busy_s for cost in every), sum(cost.engine_s for cost in every)
    batch = _per(busy, in_engine) or weighted((r.mean_batch, len(r.runs)) for r in mine if 1 <= r.mean_batch < SOUND)
    batch = min(WINDOW, max(1.0, batch)) if batch else None
    rise = _rise(every, batch) if batch else None
    notes = []
    if len(told) < len(mine):
        notes.append(f"{many(len(mine) - len(told), 'night')} measured no engine time: wall time per item is used")
    nights = tuple(_night(report, costs, check_slots) for report, costs in zip(mine, spent, strict=True))
    timed = {night.night for night in nights if night.timed}
    if any(not night.timed for night in nights):
        notes.append(f"{many(sum(not n.timed for n in nights), 'night')} resumed after an interruption: not timed")
    found = Measured(
        engine=engine,
        model=model,
        slots=slots or slots_of(nights[-1].window),
        check_slots=check_slots,
        nights=nights,
        agents=_agents([cost for costs in spent for cost in costs]),
        flows=_flows(mine, spent),
        calls=sum(cost.calls for cost in every),
        busy_s=busy,
        queue_s=sum(cost.queue_s for cost in every),
        wall_s=sum(report.wall_s for report, _ in told),
        batch=batch,
        rise=rise if rise is not None else (batch / (batch + KNEE) if batch else 0.0),
        rise_measured=rise is not None,
        notes=tuple(notes),
    )
    whole = [(report.wall_s, costs) for report, costs in told if report.night.id in timed]
    return found.model_copy(update={"free": _free(found, whole)})


def _free(found: Measured, nights: Sequence[tuple[float, Sequence[_Cost]]]) -> float:
    """How much of the time outside engine and checks is no waiting for a check; of nights as (wall time, runs).

    The nodes of checks measured their wait; or else so much that the closed system of queueing.py, with as many items
    in flight as there were on average, takes as long for one as they took.
    """
    costs = [cost for _, night in nights for cost in night]
    check_s = _mean(cost.check_s for cost in costs)
    outside_s = _mean(cost.outside_s for cost in costs) - check_s
    if not found.check_slots or min(check_s, outside_s, found.busy_s) <= TINY:
        return 1.0
    waits = [cost.check_wait_s for cost in costs if cost.check_wait_s is not None]
    if waits:
        return min(1.0, max(0.0, 1 - _mean(waits) / outside_s))
    took = _mean(cost.seconds for cost in costs)
    in_flight = max(1, round(queueing.in_system(len(costs) / sum(wall for wall, _ in nights), took)))
    busy_s = _mean(cost.busy_s for cost in costs)
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        place = queueing.Stations(
            busy_s=busy_s,
            slots=found.slots,
            met=found.batch or 1.0,
            rise=found.rise,
            check_s=check_s,
            check_slots=found.check_slots,
            outside_s=middle * outside_s,
        )
        low, high = (low, middle) if in_flight / place.stage(in_flight).rate > took else (middle, high)
    return (low + high) / 2


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _sound(figure: float) -> bool:
    """Whether a figure of a stored report is possible: a repository can hold anything."""
    return 0 <= figure < SOUND


def _per(amount: float, of: float) -> float | None:
    """A ratio, or None where there is nothing to divide by."""
    return amount / of if of > TINY else None


def _runs(report: NightReport) -> tuple[Run, ...]:
    return (*report.runs, *report.canaries)


@dataclass(frozen=True, slots=True)
class _Cost:
    """Where one run spent its seconds: its requests in slots of the engine and waiting for them, their share of the
    engine's time, tools, slots for checks and waiting for those (None: not measured), all in all outside the engine."""

    run: Run
    seconds: float
    metrics: dict[str, NodeMetrics]
    calls: int
    busy_s: float
    queue_s: float
    engine_s: float
    tool_s: float
    check_s: float
    check_wait_s: float | None
    outside_s: float


def _cost(run: Run) -> _Cost:
    seconds, metrics = run.seconds if _sound(run.seconds) else 0.0, _metrics(run)
    nodes = metrics.values()
    busy = sum([one.prefill_s + one.decode_s for one in nodes])
    queue = sum([one.queue_s for one in nodes])
    checks = [one for name, one in metrics.items() if name not in run.node_agents and one.seconds >= one.tool_s > 0]
    listed = sum(check.seconds for check in run.checks if _sound(check.seconds))
    return _Cost(
        run=run,
        seconds=seconds,
        metrics=metrics,
        calls=sum([one.model_calls for one in nodes]),
        busy_s=busy,
        queue_s=queue,
        engine_s=sum([one.engine_s for one in nodes]),
        tool_s=sum([one.tool_s for one in nodes]),
        check_s=EXPORT * (sum(one.tool_s for one in checks) or listed),
        check_wait_s=sum(max(0.0, one.seconds - EXPORT * one.tool_s) for one in checks) if checks else None,
        outside_s=max(0.0, seconds - busy - queue),
    )


def _metrics(run: Run) -> dict[str, NodeMetrics]:
    """A run's metrics that can be believed; spelled out, since there are many."""
    return {
        node: m
        for node, m in run.metrics.items()
        if 0 <= m.seconds < SOUND
        and 0 <= m.queue_s < SOUND
        and 0 <= m.prefill_s < SOUND
        and 0 <= m.decode_s < SOUND
        and 0 <= m.tool_s < SOUND
        and 0 <= m.engine_s < SOUND
        and 0 <= m.model_calls < SOUND
        and 0 <= m.completion_tokens < SOUND
    }


def weighted(pairs: Iterable[tuple[float, float]]) -> float | None:
    found = list(pairs)
    whole = sum(weight for _, weight in found)
    return sum(value * weight for value, weight in found) / whole if whole > 0 else None


def _tally(runs: Iterable[Run]) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in runs:
        found[run.item.flow] = found.get(run.item.flow, 0) + 1
    return found


def _most(night: Night) -> int:
    """How many items were in flight at most."""
    return min(WINDOW, max(night.window, night.widest, night.serving.in_flight))


def _night(report: NightReport, costs: Sequence[_Cost], check_slots: int) -> NightFigures:
    flying = sum(cost.seconds for cost in costs)
    return NightFigures(
        night=report.night.id,
        items=_tally(report.runs),
        canaries=_tally(report.canaries),
        accepted=_tally(run for run in report.runs if run.outcome is Outcome.ACCEPTED),
        queued=max(len(costs), report.night.items + report.night.canaries),
        window=min(WINDOW, max(1, report.night.window)),
        wall_s=report.wall_s,
        timed=report.wall_s > TINY and flying <= 1.05 * _most(report.night) * report.wall_s + 1,
        drained=report.ended == "finished",
        batch=report.mean_batch
        if 0 < report.mean_batch < SOUND
        else _per(sum(cost.busy_s for cost in costs), sum(cost.engine_s for cost in costs)),
        checks=sum(cost.check_s for cost in costs) / (check_slots * report.wall_s)
        if check_slots and report.wall_s > TINY
        else 0.0,
    )


@dataclass
class _Sum:
    """What is added up of one agent: its nodes, of canaries too, and the night's own items that it worked on."""

    nodes: int = 0
    calls: int = 0
    busy_s: float = 0.0
    engine_s: float = 0.0
    tokens: int = 0
    outside_s: float = 0.0
    measured: int = 0
    items: int = 0
    accepted: int = 0
    own_calls: int = 0

    def add(self, one: NodeMetrics, own: bool) -> None:
        busy = one.prefill_s + one.decode_s
        self.nodes += 1
        self.calls += one.model_calls
        self.busy_s += busy
        self.engine_s += one.engine_s
        self.tokens += one.completion_tokens
        self.own_calls += one.model_calls if own else 0
        if one.seconds > 0:
            self.measured += 1
            self.outside_s += max(0.0, one.seconds - one.queue_s - busy)


def _agents(costs: Iterable[_Cost]) -> tuple[AgentFigures, ...]:
    sums: dict[str, _Sum] = {}
    for cost in costs:
        run, own = cost.run, cost.run.item.canary is None
        for label in set(run.agents) if own else ():
            one = sums.setdefault(label, _Sum())
            one.items += 1
            one.accepted += run.outcome is Outcome.ACCEPTED
        for node, metrics in cost.metrics.items():
            if node in run.node_agents:
                sums.setdefault(run.node_agents[node], _Sum()).add(metrics, own)
    return tuple(
        AgentFigures(
            agent=label,
            nodes=one.nodes,
            calls=one.calls,
            mu=_per(one.calls, one.busy_s),
            engine_s=_per(one.engine_s, one.calls) if one.engine_s > TINY else None,
            tau=one.outside_s / one.measured if one.measured else None,
            batch=_per(one.busy_s, one.engine_s),
            passed=quality.share(one.accepted, one.items),
            calls_per_item=one.own_calls / one.items if one.nodes and one.items else None,
            tokens_per_call=one.tokens / one.calls if one.calls else None,
        )
        for label, one in sorted(sums.items())
    )


def _flows(reports: Sequence[NightReport], spent: Sequence[Sequence[_Cost]]) -> tuple[FlowFigures, ...]:
    groups: dict[tuple[str, bool], list[tuple[_Cost, float]]] = {}
    for report, costs in zip(reports, spent, strict=True):
        flying = sum(cost.seconds for cost in costs)
        for cost in costs:  # a night's wall time, shared in proportion to the time in flight
            wall = report.wall_s * cost.seconds / flying if flying > 0 else report.wall_s / len(costs)
            groups.setdefault((cost.run.item.flow, cost.run.item.canary is not None), []).append((cost, wall))
    found = []
    for (name, seeded), rows in sorted(groups.items()):
        told = [cost for cost, _ in rows if cost.metrics]
        own = 0 if seeded else len(rows)
        judged = next((q for report in reversed(reports) for q in report.quality if q.flow == name), None)
        found.append(
            FlowFigures(
                flow=name,
                seeded=seeded,
                items=len(rows),
                passed=quality.share(sum(cost.run.outcome is Outcome.ACCEPTED for cost, _ in rows), own),
                busy_s=_mean(cost.busy_s for cost in told),
                engine_s=_mean(cost.engine_s for cost in told),
                tool_s=_mean(cost.tool_s for cost in told),
                check_s=_mean(cost.check_s for cost in told),
                outside_s=_mean(cost.outside_s for cost in told),
                wall_s=_mean(wall for _, wall in rows),
                spread=_spread([cost.seconds for cost, _ in rows]),
                sensitivity={one.node: one.sensitivity for one in judged.reviewers} if judged else {},
                true_pass=judged.true_pass if judged else Share(),
                false_pass=judged.false_pass if judged else Share(),
            )
        )
    return tuple(found)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation by mean; 0.5 where fewer than three values say nothing of it."""
    mean = sum(values) / len(values) if values else 0.0
    if len(values) < 3 or mean <= 0:
        return 0.5
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / mean


def _rise(costs: Sequence[_Cost], batch: float) -> float | None:
    """How much of a request's time in the engine grows with the batch, from nodes that met different batches.

    An engine step costs f + g b: the time per token is fitted by least squares as a line over the batch that each node
    met (its time in the engine by its share of the engine's time), after division by its agent's mean; the answer is
    g b / (f + g b) at the mean batch. None where the batches hardly differed.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    for cost in costs:
        for node, one in cost.metrics.items():
            busy, tokens = one.prefill_s + one.decode_s, one.completion_tokens
            if one.engine_s > TINY and busy > TINY and tokens > 0:
                rows.setdefault(cost.run.node_agents.get(node, ""), []).append(
                    (busy / one.engine_s / batch, busy / tokens)
                )
    points = []
    for pairs in rows.values():
        mean = sum(pace for _, pace in pairs) / len(pairs)
        points += [(met, pace / mean) for met, pace in pairs]
    if len(points) < FEW:
        return None
    x, y = (sum(column) / len(points) for column in zip(*points, strict=True))
    across = sum((met - x) ** 2 for met, _ in points)
    if math.sqrt(across / len(points)) < 0.1 * x:
        return None
    slope = sum((met - x) * (pace - y) for met, pace in points) / across
    return min(1.0, max(0.0, slope / (y + slope * (1 - x)) if y + slope * (1 - x) > 0 else 1.0))


def load(found: Measured) -> Load | None:
    """The engine of those nights as an M/M/c queue, c its slots. None when no night measured its requests.

    The night is a closed system and its engine shares its speed: Erlang C says how long an open stream of as many
    requests would wait, and is an upper estimate for ours.
    """
    if not found.calls or min(found.busy_s, found.wall_s) <= TINY:
        return None
    arrivals, mu = found.calls / found.wall_s, found.calls / found.busy_s
    wait = queueing.mean_wait(arrivals, mu, found.slots)
    return Load(
        slots=found.slots,
        arrivals=arrivals,
        mu=mu,
        rho=queueing.utilisation(arrivals, mu, found.slots),
        waits=queueing.erlang_c(found.slots, arrivals / mu),
        wait_s=None if math.isinf(wait) else wait,
        measured_wait_s=found.queue_s / found.calls,
    )
