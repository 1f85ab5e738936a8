"""What earlier nights of one engine and one model showed: what an item costs, how agents did, how busy the engine was.

Pure. Takes night reports and gives one record, `Measured`; the forecast made of it is in capacity.py. It judges no
reviewer (quality.py does) and reads no repository (outlook.py does).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pydantic import Field

from pantheon import quality, queueing
from pantheon.records import NightReport, NodeMetrics, Outcome, Record, Run, Share

KNEE = 11.0  # in flight: where sharing stops paying on a CPU (FACTS.md: 11 tokens/s alone, 100 at 32); until measured
EXPORT = 1.1  # a check's slot is held for its tree to be written and removed, too, where nobody measured that
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
        r for r in ordered if _runs(r) and (r.night.engine == engine if engine else r.night.engine != "scripted")
    ]
    if ordered:
        last = next((r.night for r in reversed(ordered) if not model or r.night.model == model), ordered[-1].night)
        engine, model = last.engine, model or last.model
    mine = [r for r in ordered if (r.night.engine, r.night.model) == (engine, model)]
    if not mine:
        return Measured(engine=engine, model=model)
    told = [report for report in mine if any(_busy(run) > 0 for run in _runs(report))]
    runs = [run for report in told for run in _runs(report)]
    metrics = [one for run in runs for one in run.metrics.values()]
    busy, in_engine = sum(_busy(run) for run in runs), sum(m.engine_s for m in metrics)
    batch = busy / in_engine if in_engine > 0 else weighted((r.mean_batch, len(r.runs)) for r in mine if r.mean_batch)
    rise = _rise(runs, batch) if batch else None
    notes = []
    if len(told) < len(mine):
        notes.append(f"{_many(len(mine) - len(told), 'night')} measured no engine time: wall time per item is used")
    nights = tuple(_night(report, check_slots) for report in mine)
    if any(not night.timed for night in nights):
        notes.append(f"{_many(sum(not n.timed for n in nights), 'night')} resumed after an interruption: not timed")
    found = Measured(
        engine=engine,
        model=model,
        slots=slots or slots_of(mine[-1].night.window),
        check_slots=check_slots,
        nights=nights,
        agents=_agents(mine),
        flows=_flows(mine),
        calls=sum(m.model_calls for m in metrics),
        busy_s=busy,
        queue_s=sum(m.queue_s for m in metrics),
        wall_s=sum(report.wall_s for report in told),
        batch=batch,
        rise=rise if rise is not None else (batch / (batch + KNEE) if batch else 0.0),
        rise_measured=rise is not None,
        notes=tuple(notes),
    )
    return found.model_copy(update={"free": _free(found, [r for r in told if _night(r, check_slots).timed])})


def _free(found: Measured, reports: Sequence[NightReport]) -> float:
    """How much of the time outside engine and checks is no waiting for a check.

    The nodes of checks measured their wait; or else so much that the closed system of queueing.py, with as many items
    in flight as there were on average, takes as long for one as they took.
    """
    runs = [run for report in reports for run in _runs(report)]
    check_s = _mean(map(_checking, runs))
    outside_s = _mean(map(_outside, runs)) - check_s
    if not found.check_slots or check_s <= 0 or outside_s <= 0 or found.busy_s <= 0:
        return 1.0
    rooms = [_rooms(run) for run in runs]
    if any(rooms):
        waited = _mean(sum(one.seconds - one.tool_s for one in nodes) for nodes in rooms)
        return min(1.0, max(0.0, 1 - waited / outside_s))
    took = _mean(run.seconds for run in runs)
    in_flight = max(1, round(queueing.in_system(len(runs) / sum(r.wall_s for r in reports), took)))
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        place = queueing.Stations(
            busy_s=_mean(map(_busy, runs)),
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


def _runs(report: NightReport) -> tuple[Run, ...]:
    return (*report.runs, *report.canaries)


def _busy(run: Run) -> float:
    """Seconds that a run's requests spent in slots of the engine."""
    return sum(one.prefill_s + one.decode_s for one in run.metrics.values())


def _rooms(run: Run) -> list[NodeMetrics]:
    """The nodes of a run that are checks and measured it: their seconds are the wait for a slot and the work in it."""
    return [one for name, one in run.metrics.items() if name not in run.node_agents and one.tool_s > 0]


def _checking(run: Run) -> float:
    """Seconds that a run held slots for checks."""
    return sum(one.tool_s for one in _rooms(run)) or EXPORT * sum(check.seconds for check in run.checks)


def _outside(run: Run) -> float:
    """Seconds of a run in which it was neither in the engine nor waiting for it."""
    return max(0.0, run.seconds - _busy(run) - sum(one.queue_s for one in run.metrics.values()))


def weighted(pairs: Iterable[tuple[float, float]]) -> float | None:
    found = list(pairs)
    whole = sum(weight for _, weight in found)
    return sum(value * weight for value, weight in found) / whole if whole > 0 else None


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _tally(runs: Iterable[Run]) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in runs:
        found[run.item.flow] = found.get(run.item.flow, 0) + 1
    return found


def _night(report: NightReport, check_slots: int) -> NightFigures:
    runs = _runs(report)
    in_engine = sum(one.engine_s for run in runs for one in run.metrics.values())
    busy = sum(_busy(run) for run in runs)
    checking = sum(map(_checking, runs))
    return NightFigures(
        night=report.night.id,
        items=_tally(report.runs),
        canaries=_tally(report.canaries),
        accepted=_tally(run for run in report.runs if run.outcome is Outcome.ACCEPTED),
        queued=max(len(runs), report.night.items + report.night.canaries),
        window=max(1, report.night.window),
        wall_s=report.wall_s,
        timed=report.wall_s > 0 and sum(run.seconds for run in runs) <= 1.05 * report.night.window * report.wall_s + 1,
        drained=report.ended == "finished",
        batch=report.mean_batch or (busy / in_engine if in_engine > 0 else None),
        checks=checking / (check_slots * report.wall_s) if check_slots and report.wall_s > 0 else 0.0,
    )


def _agents(reports: Sequence[NightReport]) -> tuple[AgentFigures, ...]:
    worked = [run for report in reports for run in report.runs]
    nodes = [
        (run.node_agents[node], one)
        for report in reports
        for run in _runs(report)
        for node, one in run.metrics.items()
        if node in run.node_agents
    ]
    found = []
    for label in sorted({label for run in worked for label in run.agents} | {label for label, _ in nodes}):
        items = [run for run in worked if label in run.agents]
        mine = [one for name, one in nodes if name == label]
        calls, busy = sum(m.model_calls for m in mine), sum(m.prefill_s + m.decode_s for m in mine)
        engine_s = sum(m.engine_s for m in mine)
        own = [m for run in items for node, m in run.metrics.items() if run.node_agents.get(node) == label]
        outside = [max(0.0, m.seconds - m.queue_s - m.prefill_s - m.decode_s) for m in mine if m.seconds > 0]
        found.append(
            AgentFigures(
                agent=label,
                nodes=len(mine),
                calls=calls,
                mu=calls / busy if busy > 0 else None,
                engine_s=engine_s / calls if engine_s > 0 and calls else None,
                tau=sum(outside) / len(outside) if outside else None,
                batch=busy / engine_s if engine_s > 0 else None,
                passed=quality.share(sum(run.outcome is Outcome.ACCEPTED for run in items), len(items)),
                calls_per_item=sum(m.model_calls for m in own) / len(items) if own else None,
                tokens_per_call=sum(m.completion_tokens for m in mine) / calls if calls else None,
            )
        )
    return tuple(found)


def _flows(reports: Sequence[NightReport]) -> tuple[FlowFigures, ...]:
    groups: dict[tuple[str, bool], list[tuple[Run, float]]] = {}
    for report in reports:
        runs = _runs(report)
        work = [_busy(run) or run.seconds for run in runs]
        whole = sum(work)
        for run, part in zip(runs, work, strict=True):  # a night's wall time, shared in proportion to the work
            wall = report.wall_s * part / whole if whole > 0 else report.wall_s / len(runs)
            groups.setdefault((run.item.flow, run.item.canary is not None), []).append((run, wall))
    found = []
    for (name, seeded), rows in sorted(groups.items()):
        runs = tuple(run for run, _ in rows)
        told = [run for run in runs if run.metrics]
        count = max(1, len(told))
        judged = next((q for report in reversed(reports) for q in report.quality if q.flow == name), None)
        found.append(
            FlowFigures(
                flow=name,
                seeded=seeded,
                items=len(runs),
                passed=quality.share(sum(run.outcome is Outcome.ACCEPTED for run in runs), 0 if seeded else len(runs)),
                busy_s=sum(map(_busy, told)) / count,
                engine_s=sum(m.engine_s for run in told for m in run.metrics.values()) / count,
                tool_s=sum(m.tool_s for run in told for m in run.metrics.values()) / count,
                check_s=sum(map(_checking, told)) / count,
                outside_s=sum(map(_outside, told)) / count,
                wall_s=sum(wall for _, wall in rows) / len(rows),
                spread=_spread([run.seconds for run in runs]),
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


def _rise(runs: Sequence[Run], batch: float) -> float | None:
    """How much of a request's time in the engine grows with the batch, from nodes that met different batches.

    An engine step costs f + g b: the time per token is fitted by least squares as a line over the batch that each node
    met (its time in the engine by its share of the engine's time), after division by its agent's mean; the answer is
    g b / (f + g b) at the mean batch. None where the batches hardly differed.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for node, one in run.metrics.items():
            busy, tokens = one.prefill_s + one.decode_s, one.completion_tokens
            if one.engine_s > 0 and busy > 0 and tokens > 0:
                rows.setdefault(run.node_agents.get(node, ""), []).append((busy / one.engine_s / batch, busy / tokens))
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
    if found.calls <= 0 or found.busy_s <= 0 or found.wall_s <= 0:
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
