"""What of a night is drawn and tabulated: each chart with the table of its numbers, in the order of the page. Pure.

Takes the figures as tally.py and quality.py made them and gives charts.py values and words; computes no statistic of
its own. A chart without data is left out, and what cannot be known yet is not invented.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from pantheon import capacity, charts, growth, quality, report, tally
from pantheon.charts import Series
from pantheon.growth import Growth
from pantheon.records import FlowQuality, NightReport, Outcome, Share
from pantheon.report import Morning, brief, percent, span
from pantheon.tally import NodeFigures

TABLE_ROWS = 40
STEPS = 24  # rows of a timeline's table
NIGHTS = 30


@dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of each names it. `numbers`: the columns that are aligned as numbers."""

    key: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numbers: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Chart:
    """A drawing and the numbers that it shows."""

    svg: Markup
    table: Table


def _between(found: Share) -> str:
    return f"{100 * found.low:.0f} to {percent(found.high)}"


def _chart(svg: Markup, table: Table) -> list[Chart]:
    """None where there was nothing to draw."""
    return [Chart(svg, table)] if svg else []


def _numbers(head: Sequence[str]) -> tuple[int, ...]:
    return tuple(range(1, len(head)))


# --- a gate ----------------------------------------------------------------------------------------------------------


def gate_charts(gate: FlowQuality, key: str) -> list[Chart]:
    """How its reviewers did on canaries, and where they disagree."""
    known: list[tuple[str, Share]] = []
    for one in gate.reviewers:
        known += [(f"{one.node}: bad refused", one.sensitivity), (f"{one.node}: good passed", one.specificity)]
    known += [("both: bad passed", gate.false_pass), ("both: good passed", gate.true_pass)]
    rows = [(name, share.value, share.low, share.high) for name, share in known if share.of]
    if gate.precision.value is not None and gate.precision.low is not None and gate.precision.high is not None:
        rows.append(("accepted: right", gate.precision.value, gate.precision.low, gate.precision.high))
    table = Table(
        key=f"{key}-known",
        title="Measured on known-bad and known-good changes",
        head=("What", "Share", "95 % interval", "Of"),
        rows=tuple(
            (name, percent(value), f"{100 * low:.0f} to {percent(high)}", of)
            for (name, value, low, high), of in zip(
                rows, [*(str(share.of) for _, share in known if share.of), "estimated"], strict=False
            )
        ),
        note=f"{_seats(gate)} The line: 95 % interval.",
        numbers=(1, 2, 3),
    )  # fmt: skip
    desc = "; ".join(" ".join(row[:3]) for row in table.rows)
    found = _chart(charts.intervals(table.key, table.title, desc, rows), table)
    return found + _disagreement(gate, key)


def _seats(gate: FlowQuality) -> str:
    return " ".join(f"{one.node} is {one.agent}." for one in gate.reviewers[:4])


def _disagreement(gate: FlowQuality, key: str) -> list[Chart]:
    if len(gate.pair) < 2:
        return []
    first, second = gate.pair[:2]
    both, only_first, only_second, neither = gate.table
    kappa = f"kappa {report.estimate_text(gate.kappa)}; adjusted for prevalence {report.estimate_text(gate.adjusted)}"
    table = Table(
        key=f"{key}-apart",
        title="Where the two reviewers disagree",
        head=("Reviewer", f"{second}: pass", f"{second}: fail"),
        rows=((f"{first}: pass", str(both), str(only_first)), (f"{first}: fail", str(only_second), str(neither))),
        note=f"{sum(gate.table)} criteria that both judged; {kappa}.",
        numbers=(1, 2),
    )
    desc = f"both pass {both}, only {first} {only_first}, only {second} {only_second}, both fail {neither}"
    return _chart(charts.matrix(table.key, table.title, desc, (first, second), gate.table), table)


def canary_table(gate: FlowQuality, key: str) -> Table:
    """What became of the seeded changes, kind by kind."""
    return Table(
        key=key,
        title=f"Seeded changes of {gate.flow}",
        head=("Kind", "Seeded", "Stopped by checks", "By reviewers", "Passed", "Not judged"),
        rows=tuple(
            (
                f"{c.kind} (right)" if c.good else c.kind,
                *(str(n) for n in (c.seeded, c.by_checks, c.by_reviewers, c.passed, c.broken)),
            )
            for c in gate.canaries[:TABLE_ROWS]
        ),
        note="None of those who judged could tell them from real ones.",
        numbers=(1, 2, 3, 4, 5),
    )


# --- the night -------------------------------------------------------------------------------------------------------


def night_charts(found: NightReport, nodes: Sequence[NodeFigures]) -> list[Chart]:
    """Throughput and queue over the night, where the time went, what tools refused, how agents did. `nodes`: those of
    its runs."""
    return [*_timeline(found), *_where_time_went(nodes), *_tool_errors(nodes), *_agents(found)]


def night_tables(found: NightReport, nodes: Sequence[NodeFigures]) -> list[Table]:
    """Every node of every flow, what it used, and how directories did."""
    return [table for table in (_nodes(nodes), _costs(nodes), _directories(found)) if table.rows]


def _nodes(found: Sequence[NodeFigures]) -> Table:
    head = ("Node", "Agent", "Runs", "Passed", "p50", "p95", "Retries", "Ended")
    rows = tuple(
        (
            f"{one.flow}/{one.node}",
            one.agent or "none",
            str(one.runs),
            percent(one.passed / one.runs) if one.runs else "",
            brief(one.p50_s),
            brief(one.p95_s),
            str(max(0, one.total.attempts - one.runs)),
            ", ".join(f"{count} {name}" for name, count in one.exits.items() if name != "passed") or "all passed",
        )
        for one in found[:TABLE_ROWS]
    )
    return Table("nodes", "Nodes", head, rows, "p50, p95: half and 95 % of the runs took no longer.", (2, 3, 4, 5, 6))


def _costs(found: Sequence[NodeFigures]) -> Table:
    head = ("Node", "Tokens in", "Cached", "Out", "Engine", "CPU", "Memory", "Schema errors", "Tool errors")
    note = "Sums over all runs; memory: the largest child."
    return Table("costs", "What the nodes used", head, tuple(map(_cost, found[:TABLE_ROWS])), note, _numbers(head))


def _cost(one: NodeFigures) -> tuple[str, ...]:
    """A row; what a node has nothing to do with stays empty."""
    total = one.total
    calls, refused = sum(total.tool_calls.values()), sum(sum(causes.values()) for causes in total.tool_errors.values())
    model = (
        _count(total.prompt_tokens),
        _count(total.cached_tokens),
        _count(total.completion_tokens),
        brief(total.engine_s),
    )
    return (
        f"{one.flow}/{one.node}",
        *(model if total.model_calls else ("", "", "", "")),
        brief(total.cpu_s),
        f"{total.memory_bytes / (1 << 20):.0f} MiB" if total.memory_bytes else "",
        str(total.schema_errors) if total.model_calls else "",
        f"{refused} of {calls}" if calls else "",
    )


def _directories(found: NightReport) -> Table:
    shares = sorted(tally.by_directory(found.runs).items(), key=lambda one: (-one[1].of, one[0]))
    head = ("Directory", "Passed", "Of", "Share", "95 % interval")
    rows = tuple(
        (name, str(share.hits), str(share.of), percent(share.value), _between(share))
        for name, share in shares[:TABLE_ROWS]
    )
    more = len(shares) - len(rows)
    return Table("places", "By directory", head, rows, f"And {more} more." if more else "", _numbers(head))


def _count(value: int) -> str:
    return charts.number(float(min(value, 10**15)))


PARTS = ("queue", "prefill", "decode", "tools")


def _where_time_went(found: Sequence[NodeFigures]) -> list[Chart]:
    nodes = [
        (f"{one.flow}/{one.node}", (t.queue_s, t.prefill_s, t.decode_s, t.tool_s))
        for one in found
        for t in (one.total,)
        if t.queue_s + t.prefill_s + t.decode_s + t.tool_s > 0
    ]
    nodes = sorted(nodes, key=lambda one: (-sum(one[1]), one[0]))[:12]
    head = ("Node", *(part.capitalize() for part in PARTS))
    table = Table(
        "spent", "Where the time went", head,
        tuple((name, *(brief(part) for part in parts)) for name, parts in nodes),
        "Seconds of all runs together: waiting for a slot, reading the prompt, writing, in tools and checks.",
        _numbers(head),
    )  # fmt: skip
    desc = ", ".join(f"{name} {brief(sum(parts))}" for name, parts in nodes[:6])
    return _chart(charts.bars(table.key, table.title, desc, nodes, PARTS, " s"), table)


def _tool_errors(found: Sequence[NodeFigures]) -> list[Chart]:
    called = tally.tool_errors(found)
    tools = {name: one for name, one in called.items() if one.errors}
    names = sorted(tools, key=lambda name: (-sum(tools[name].errors.values()), name))[:12]
    sums: dict[str, int] = {}
    for name in names:
        for cause, count in tools[name].errors.items():
            sums[cause] = sums.get(cause, 0) + count
    causes = sorted(sums, key=lambda cause: (-sums[cause], cause))[:6]
    cells = [[tools[name].errors.get(cause, 0) for cause in causes] for name in names]
    calls = sum(one.calls for one in called.values())
    head = ("Tool", *causes, "Calls")
    table = Table(
        "refused", "What tools refused", head,
        tuple(
            (name, *(str(count) for count in row), str(tools[name].calls))
            for name, row in zip(names, cells, strict=True)
        ),
        f"Failed calls by tool and cause, of {calls} calls in all.", _numbers(head),
    )  # fmt: skip
    desc = "; ".join(
        f"{name}: {', '.join(f'{count} {cause}' for count, cause in zip(row, causes, strict=True) if count)}"
        for name, row in zip(names, cells, strict=True)
    )
    return _chart(charts.heatmap(table.key, table.title, desc, names, causes, cells), table)


def _agents(found: NightReport) -> list[Chart]:
    shares = sorted(tally.by_agent(found.runs).items(), key=lambda one: (-one[1].of, one[0]))[:14]
    head = ("Agent", "Passed", "Of", "Share", "95 % interval")
    table = Table(
        "agents", "Passed the gate, by agent", head,
        tuple((name, str(share.hits), str(share.of), percent(share.value), _between(share)) for name, share in shares),
        "Of the items that each took part in; the line: 95 % interval.", _numbers(head),
    )  # fmt: skip
    desc = ", ".join(f"{row[0]} {row[3]}" for row in table.rows)
    rows = [(name, share.value, share.low, share.high) for name, share in shares]
    return _chart(charts.intervals(table.key, table.title, desc, rows), table)


def _timeline(found: NightReport) -> list[Chart]:
    samples = [one for one in found.timeline if one.t_s >= 0]
    unit, size = ("hours", 3600.0) if found.wall_s > 2.5 * 3600 else ("minutes", 60.0)
    times = [one.t_s / size for one in samples]
    kept = (
        samples
        if len(samples) <= STEPS
        else [samples[round(n * (len(samples) - 1) / (STEPS - 1))] for n in range(STEPS)]
    )
    axis = f"{unit} since the start"

    def table(key: str, title: str, note: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
        return Table(key, title, (unit.capitalize(), *head), tuple(rows), note, _numbers(("", *head)))

    def at(t_s: float) -> str:
        return f"{t_s / size:.1f}"

    done = [
        Series("accepted", tuple(zip(times, [float(s.accepted) for s in samples], strict=True))),
        Series("not accepted", tuple(zip(times, [float(s.done - s.accepted) for s in samples], strict=True))),
    ]
    progress = table(
        "done", "Items done over the night", f"{len(found.runs)} in the end.", ("Accepted", "Not accepted"),
        [(at(s.t_s), str(s.accepted), str(s.done - s.accepted)) for s in kept],
    )  # fmt: skip
    queue = [
        Series("in the engine", tuple(zip(times, [float(s.requests) for s in samples], strict=True))),
        Series("waiting for a slot", tuple(zip(times, [float(s.waiting) for s in samples], strict=True))),
    ]
    waits = table(
        "queue", "Requests at the engine", "Waiting ones keep its batch full.",
        ("In the engine", "Waiting", "Items in flight", "Items left"),
        [(at(s.t_s), str(s.requests), str(s.waiting), str(s.running), str(s.left)) for s in kept],
    )  # fmt: skip
    pairs = [(a, b) for a, b in pairwise(samples) if b.t_s > a.t_s]
    speed = tuple((b.t_s / size, max(0, b.tokens - a.tokens) / (b.t_s - a.t_s)) for a, b in pairs)
    thinned = [(a, b) for a, b in pairwise(kept) if b.t_s > a.t_s]
    tokens = table(
        "speed", "Tokens a second", f"{found.tokens_per_s:g} on average.", ("Tokens/s",),
        [(at(b.t_s), f"{max(0, b.tokens - a.tokens) / (b.t_s - a.t_s):.0f}") for a, b in thinned],
    )  # fmt: skip
    last = samples[-1] if samples else None
    said = f"{last.done} items done after {span(last.t_s)}, {last.accepted} of them accepted" if last else ""
    deep = max((s.waiting for s in samples), default=0)
    busy = max((s.requests for s in samples), default=0)
    return [
        *_chart(charts.area("done", progress.title, said, done, x_name=axis, y_name="items"), progress),
        *_chart(
            charts.line(
                "speed", tokens.title, f"on average {found.tokens_per_s:g}", [Series("tokens/s", speed)],
                x_name=axis, y_name="tokens/s",
            ),
            tokens,
        ),
        *_chart(
            charts.area(
                "queue", waits.title, f"at most {busy} busy, {deep} waiting", queue, x_name=axis, y_name="requests"
            ),
            waits,
        ),
    ]  # fmt: skip


# --- trends ----------------------------------------------------------------------------------------------------------


def trend_charts(morning: Morning) -> list[Chart]:
    """Over the past nights and this one, none without a second night; and what agents learned with each version."""
    nights = [*morning.past[-NIGHTS:], morning.report]
    grown = [one for number, agent in enumerate(morning.learned.agents[:6]) for one in _growth(agent, number)]
    if len(nights) < 2:
        return grown
    return [*_rates(nights), *_precision(nights), *_forecasts(nights), *_learning(nights), *grown]


def _days(nights: Sequence[NightReport]) -> list[tuple[float, str]]:
    return [(float(n), f"{one.night.started_at.day} {one.night.started_at:%b}") for n, one in enumerate(nights)]


def _yield(one: NightReport) -> Share:
    return quality.share(report.counts(one)[Outcome.ACCEPTED], len(one.runs))


def _rates(nights: Sequence[NightReport]) -> list[Chart]:
    shares = [(n, one, _yield(one)) for n, one in enumerate(nights)]
    ran = [(n, one, share) for n, one, share in shares if share.value is not None]
    series = Series(
        "accepted",
        tuple((float(n), share.value or 0.0) for n, _, share in ran),
        tuple((share.low, share.high) for _, _, share in ran),
    )
    head = ("Night", "Accepted", "Of", "Share", "95 % interval")
    table = Table(
        "yield", "Accepted, of the items that ran", head,
        tuple(
            (one.night.id, str(share.hits), str(share.of), percent(share.value), _between(share))
            for _, one, share in ran
        ),
        "The band: 95 % interval of each night.", _numbers(head),
    )  # fmt: skip
    desc = ", ".join(f"{row[0]}: {row[3]}" for row in table.rows[-8:])
    svg = charts.line(
        table.key, table.title, desc, [series], x_name="night", y_name="share", top=1.0, marks=_days(nights)
    )
    return _chart(svg, table)


def _precision(nights: Sequence[NightReport]) -> list[Chart]:
    flows = sorted({q.flow for one in nights for q in one.quality if q.precision.value is not None})[:6]
    series, rows = [], []
    for flow in flows:
        points, band = [], []
        for n, one in enumerate(nights):
            for q in one.quality:
                found = q.precision
                if q.flow == flow and found.value is not None and found.low is not None and found.high is not None:
                    points.append((float(n), found.value))
                    band.append((found.low, found.high))
                    rows.append(
                        (one.night.id, flow, percent(found.value), f"{100 * found.low:.0f} to {percent(found.high)}")
                    )
        series.append(Series(flow, tuple(points), tuple(band)))
    table = Table(
        "precision", "Precision of what was accepted", ("Night", "Flow", "Precision", "95 % interval"),
        tuple(sorted(rows)), "Estimated from canaries; the band: 95 % interval.", (2, 3),
    )  # fmt: skip
    desc = ", ".join(f"{row[1]} {row[2]}" for row in table.rows[-len(flows) :])
    svg = charts.line(
        table.key, table.title, desc, series, x_name="night", y_name="share", top=1.0, marks=_days(nights)
    )
    return _chart(svg, table)


def _forecasts(nights: Sequence[NightReport]) -> list[Chart]:
    told = [(n, one, f) for n, one in enumerate(nights) if (f := one.night.forecast) and f.nights]  # guesses are none
    size, unit = (
        (3600.0, "hours") if max((one.wall_s for _, one, _ in told), default=0) > 2.5 * 3600 else (60.0, "minutes")
    )
    series = [
        Series(
            "expected",
            tuple((float(n), sum(f.seconds) / 2 / size) for n, _, f in told if f),
            tuple((f.seconds[0] / size, f.seconds[1] / size) for _, _, f in told if f),
        ),
        Series("taken", tuple((float(n), one.wall_s / size) for n, one, _ in told)),
    ]
    head = ("Night", "Time expected", "Time taken", "Forecast", "Accepted expected", "Accepted")
    table = Table(
        "forecast", "Forecast against actual", head,
        tuple(
            (
                one.night.id,
                f"{span(f.seconds[0])} to {span(f.seconds[1])}",
                span(one.wall_s),
                report.error_text(capacity.error(f, one).seconds),
                f"{f.accepted[0]:.0f} to {f.accepted[1]:.0f}",
                str(report.counts(one)[Outcome.ACCEPTED]),
            )
            for _, one, f in told if f
        ),
        "The band is the range that was told before the night.", (1, 2, 4, 5),
    )  # fmt: skip
    desc = ", ".join(f"{row[0]}: {row[1]} expected, {row[2]} taken" for row in table.rows[-6:])
    svg = charts.line(table.key, table.title, desc, series, x_name="night", y_name=unit, marks=_days(nights))
    return _chart(svg, table)


def _learning(nights: Sequence[NightReport]) -> list[Chart]:
    """Of the agents that think and do not judge, the four that did most."""
    judges = {verdict.agent.rpartition("@")[0] for one in nights for run in one.runs for verdict in run.verdicts}
    thinking = {
        one.agent.rpartition("@")[0]
        for night in nights[-3:]
        for one in tally.nodes(night.runs)
        if one.total.model_calls
    }
    curves = {name: points for name, points in tally.learning(nights).items() if name in thinking - judges}
    names = sorted(curves, key=lambda name: (-sum(p.share.of for p in curves[name]), name))[:4]
    series = [
        Series(
            name,
            tuple((float(p.accepted), p.share.value or 0.0) for p in curves[name] if p.share.of),
            tuple((p.share.low, p.share.high) for p in curves[name] if p.share.of),
        )
        for name in names
    ]
    head = ("Agent", "Night", "Accepted before", "Passed", "95 % interval")
    table = Table(
        "learning", "Learning curves", head,
        tuple(
            (
                f"{name}@{p.version}",
                p.night,
                str(p.accepted),
                f"{percent(p.share.value)} of {p.share.of}",
                _between(p.share),
            )
            for name in names
            for p in curves[name]
        ),
        "Passed the gate, over the accepted runs that an agent had to learn from.", (2, 3, 4),
    )  # fmt: skip
    desc = "; ".join(
        f"{name}: {percent(points[0].share.value)} at first, {percent(points[-1].share.value)} now"
        for name in names
        if (points := curves[name])
    )
    svg = charts.line(table.key, table.title, desc, series, x_name="accepted runs before", y_name="share", top=1.0)
    return _chart(svg, table)


def _growth(one: Growth, number: int) -> list[Chart]:
    """What an agent's versions passed of the held-out items, the curve through it, and what is held against that."""
    if len(one.points) < 2:
        return []
    measured = Series(
        "held-out items",
        tuple((float(p.rows), p.passed.value or 0.0) for p in one.points),
        tuple((p.passed.low, p.passed.high) for p in one.points),
        apart=True,
    )
    curve = growth.band(one)
    series = [
        measured,
        Series(
            "the curve",
            tuple((rows, found.value or 0.0) for rows, found in curve),
            tuple((found.low or 0.0, found.high or 0.0) for rows, found in curve),
        ),
    ]
    rows = [
        (
            f"{one.agent}@{p.version}",
            str(p.rows),
            str(p.passed.hits),
            str(p.passed.of),
            percent(p.passed.value),
            _between(p.passed),
        )
        for p in one.points
    ]
    if one.drift and one.now:
        live = one.drift.live
        series.append(
            Series("new items", ((float(one.now.rows), live.value or 0.0),), ((live.low, live.high),), apart=True)
        )
        rows.append(("new items", str(one.now.rows), str(live.hits), str(live.of), percent(live.value), _between(live)))
    head = ("Version", "Rows learned", "Passed", "Of", "Share", "95 % interval")
    outlook = growth.outlook(one)
    note = f"{outlook[:1].upper()}{outlook[1:]}."
    table = Table(f"growth{number}", f"What {one.agent} learned", head, tuple(rows), note, _numbers(head))
    desc = ", ".join(f"{row[0]} {row[4]}" for row in rows)
    return _chart(
        charts.line(table.key, table.title, desc, series, x_name="rows learned", y_name="share", top=1.0), table
    )


def shape(morning: Morning, name: str) -> Markup:
    """The line of one headline figure over the nights; nothing for a figure that has none."""
    nights = [*morning.past[-NIGHTS:], morning.report]
    values = {
        "yield": [share.value for one in nights if (share := _yield(one)).value is not None],
        "tokens/s": [one.tokens_per_s for one in nights],
        "mean batch": [one.mean_batch for one in nights],
        "prefix-cache hits": [one.prefix_hit_rate for one in nights],
        "time": [one.wall_s for one in nights],
    }.get(name, [])
    key = f"spark-{name.replace(' ', '-').replace('/', '-')}"
    return charts.spark(key, f"{name} over {len(values)} nights", [value for value in values if value is not None])
