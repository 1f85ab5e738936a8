"""`git pantheon capacity`: what earlier nights measured, what tonight can carry, and what would change it.

Ring 4: gathers, prints, returns an exit code; every figure comes from measured.py and capacity.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pantheon import capacity, config, desk, measured, nights, past, queueing, screen
from pantheon.capacity import Compared, ForecastError, Scenario
from pantheon.engine import expected_window
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.measured import Measured
from pantheon.places import Places
from pantheon.plan import printable
from pantheon.records import Forecast, NightReport, Share, seconds
from pantheon.report import span
from pantheon.survey import survey

FIRST = "git pantheon night --now --budget 10m"


@dataclass(frozen=True)
class Outlook:
    """Everything that the command says. `queue`: tonight's items by flow; `mix`: what scenarios are made for, which is
    last night's queue where tonight's is empty."""

    found: Measured
    queue: Mapping[str, int]
    mix: Mapping[str, int]
    canaries: int
    budget_s: float
    window: int
    load: measured.Load | None
    forecast: Forecast | None
    scenarios: tuple[Scenario, ...]
    advice: str
    last: ForecastError | None


def command(repo: Repo, where: Places, *, budget: str | None, as_json: bool) -> int:
    """Print the capacity of the coming night. Exit code 0, also before the first night."""
    limits = config.load_user(where.config).limits
    base = survey(repo, repo.head().commit, limits)
    settings = base.config.settings
    budget_s = min(seconds(budget or settings.night.budget), seconds(limits.budget))
    queue = Counter(item.flow for item in desk.make_plan(repo, base).items)
    reports = nights.reports(repo, nights.RATED_NIGHTS)
    found = past.measure(reports, settings.engine.kind, past.model_of(settings.engine))
    shown = look(found, reports, queue, settings.gate.canaries, budget_s, _window(settings))
    if as_json:
        return screen.print_json(_plain(shown))
    _print(shown, sum(report.night.engine == "scripted" for report in reports))
    return 0


def _window(settings: config.Settings) -> int:
    """Items in flight; 0 where neither the settings nor an engine on this machine say."""
    try:
        return settings.night.window or expected_window(settings.engine.kind)
    except EngineError:
        return 0


def look(
    found: Measured,
    reports: Iterable[NightReport],
    queue: Mapping[str, int],
    share: float,
    budget_s: float,
    window: int,
) -> Outlook:
    """The outlook for a queue of items by flow, of which canaries make `share` of the night."""
    mix = dict(queue) or (found.nights[-1].items if found.nights else {})
    canaries = past.canaries_for(mix, share)
    window = window or (found.nights[-1].window if found.nights else 0)
    told = [report for report in reports if found.nights and report.night.id == found.nights[-1].night]
    last = next((capacity.error(one.night.forecast, one) for one in told if one.night.forecast), None)
    return Outlook(
        found=found,
        queue=queue,
        mix=mix,
        canaries=canaries,
        budget_s=budget_s,
        window=window,
        load=measured.load(found),
        forecast=capacity.forecast(mix, canaries, budget_s, found, window) if queue else None,
        scenarios=_scenarios(found, mix, canaries, budget_s, window) if found.nights else (),
        advice=capacity.batch_advice(found.nights[-1]) if found.nights else "",
        last=last,
    )


def _scenarios(
    found: Measured, mix: Mapping[str, int], canaries: int, budget_s: float, window: int
) -> tuple[Scenario, ...]:
    def what_if(name: str, **other: float) -> Scenario | None:
        options = {"window": window, **other}
        return capacity.what_if(name, mix, canaries, budget_s, found, **options)  # type: ignore[arg-type]

    own = [flow for flow in found.flows if not flow.seeded and flow.flow in mix]
    busy = sum(flow.busy_s * flow.items for flow in own)
    tools = sum((flow.check_s + max(0.0, flow.outside_s - flow.check_s) * found.free) * flow.items for flow in own)
    wide = queueing.window(found.slots, tools, busy) if busy else window
    now = what_if("as it is")
    held = now is None or now.checks > capacity.BUSY  # then no window brings more to the engine
    rows = [
        now,
        what_if("engine twice as fast", speed=2),
        what_if("model with half the speed", speed=0.5),
        what_if(f"{2 * found.slots} slots, window {2 * window}", slots=2 * found.slots, window=2 * window),
        what_if(f"window {wide}, by its rule", window=wide)
        if not held and 0 < wide <= measured.WINDOW and wide != window
        else None,
        what_if("items cut in two", cut=2),
    ]
    return tuple(row for row in rows if row is not None)


def _plain(shown: Outlook) -> dict[str, object]:
    return {
        "measured": shown.found.model_dump(mode="json"),
        "queue": dict(shown.queue),
        "canaries": shown.canaries,
        "budget_s": shown.budget_s,
        "window": shown.window,
        "load": shown.load.model_dump(mode="json") if shown.load else None,
        "forecast": shown.forecast.model_dump(mode="json") if shown.forecast else None,
        "scenarios": [scenario.model_dump(mode="json") for scenario in shown.scenarios],
        "advice": shown.advice,
        "last_forecast": shown.last.model_dump(mode="json") if shown.last else None,
    }


# --- print -----------------------------------------------------------------------------------------------------------


def _print(shown: Outlook, dry_runs: int) -> None:
    out = Console(highlight=False)
    found = shown.found
    if not found.nights:
        kind = f"{found.engine}, model {found.model}" if found.model else found.engine
        out.print(f"nothing is measured yet: no night with {escape(printable(kind))} has ended here")
        if dry_runs:
            out.print("dry runs (scripted) measure no engine")
        out.print(f"in the queue for tonight: {_many(sum(shown.queue.values()), 'item')}")
        out.print(f"next: {FIRST}")
        return
    model = escape(printable(found.model))
    ids = [night.night for night in found.nights]
    which = ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
    out.print(f"[bold]Measured[/] in {_many(len(ids), 'night')}, {which}")
    out.print(f"{found.engine}, model {model}")
    for note in found.notes:
        out.print(f"note: {note}")
    out.print()
    out.print(_agents(found))
    out.print("mu: answers of one slot; engine: its own time; tau: outside it; b: batch", style="dim")
    out.print()
    out.print(_flows(found))
    _engine(out, shown)
    _tonight(out, shown)
    if shown.scenarios:
        out.print()
        out.print(_what_if(shown))
        out.print("fit: in the budget, of a queue without end; the rest is for the queue as it is", style="dim")
        if not found.rise_measured:
            out.print("how the engine slows under load is assumed: nights met too few batches")
    if shown.advice:
        out.print(f"\n[yellow]{escape(shown.advice)}[/]")
    if shown.last:
        _last(out, shown.last)


def _table(*columns: str) -> Table:
    """A plain table: the first column is text, the others numbers; a column's unit stands in its second line."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=bool(number), overflow="fold")
    return table


def _agents(found: Measured) -> Table:
    table = _table("agent", "calls", "mu\n1/s", "engine\ns/call", "tau\ns/node", "b", "p passed (95%)")
    for agent in found.agents:
        table.add_row(
            escape(printable(agent.agent)),
            f"{agent.calls:,}" if agent.calls else "",
            _number(agent.mu),
            _number(agent.engine_s),
            _number(agent.tau),
            _number(agent.batch),
            _share(agent.passed),
        )
    return table


def _flows(found: Measured) -> Table:
    rights = {flow.flow: capacity.right_of(flow).value for flow in found.flows if not flow.seeded}
    columns = [
        "flow",
        "items",
        "in a slot\ns/item",
        "engine\ns/item",
        "tools\ns/item",
        "checks\ns/item",
        "wall\ns/item",
    ]
    known = any(right is not None for right in rights.values())
    table = _table(*columns, *(["right of\naccepted"] if known else []))
    for flow in found.flows:
        costs = (flow.busy_s, flow.engine_s, flow.tool_s, flow.check_s, flow.wall_s)
        right = None if flow.seeded else rights[flow.flow]
        table.add_row(
            escape(printable(flow.flow)) + (", canaries" if flow.seeded else ""),
            f"{flow.items:,}",
            *(_number(cost or None) for cost in costs),
            *([("" if right is None else f"{100 * right:.0f}%")] if known else []),
        )
    return table


def _number(value: float | None) -> str:
    """Three digits, which is more than is known."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(4, max(0, digits))}f}"


def _share(share: Share) -> str:
    if share.value is None:
        return ""
    return f"{100 * share.value:.0f}% ({100 * share.low:.0f}-{100 * share.high:.0f}) of {share.of}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _engine(out: Console, shown: Outlook) -> None:
    queue = shown.load
    if queue is None:
        return
    low, high = queueing.AIM
    verdict = f"the aim is {low} to {high}"
    if shown.scenarios and shown.scenarios[0].checks > capacity.BUSY:
        verdict += ": the checks hold it back"
    elif queue.rho < low:
        verdict += ": more items or a wider window fill it"
    elif queue.rho > high:
        verdict += ": requests queue up"
    out.print(f"\n[bold]Engine[/]: rho {queue.rho:.2f} over {_many(queue.slots, 'slot')}; {verdict}")
    if queue.wait_s is None:
        out.print("Erlang C: an open stream of as many requests would wait without end")
    else:
        waits = "under 1%" if queue.waits < 0.01 else f"{100 * queue.waits:.0f}%"
        out.print(f"Erlang C: {waits} of requests would wait, {_time(queue.wait_s)} on average")
    out.print(f"measured: they waited {_time(queue.measured_wait_s)} on average")


def _tonight(out: Console, shown: Outlook) -> None:
    own = sum(shown.queue.values())
    extra = f" and about {_many(shown.canaries, 'canary').replace('canarys', 'canaries')}" if shown.canaries else ""
    if not own:
        out.print("\n[bold]Tonight[/]: nothing is in the queue; what follows is for last night's queue")
        return
    out.print(f"\n[bold]Tonight[/]: {_many(own, 'item')}{extra}, budget {span(shown.budget_s)}, window {shown.window}")
    if shown.scenarios:
        out.print(f"{'fits':10}{_many(shown.scenarios[0].items, 'item')} in the budget, were the queue long enough")
    expected = shown.forecast
    if expected is None:
        out.print(f"{'forecast':10}none: no night with this engine was timed from end to end")
        return
    low, high = expected.seconds
    out.print(
        f"{'forecast':10}{expected.items:,} of them run, in {_time(low)} to {_time(high)}; "
        f"{expected.accepted[0]:.0f} to {expected.accepted[1]:.0f} accepted"
    )
    out.print(f"{'':10}(90% ranges, from {_many(expected.nights, 'night')})")


def _what_if(shown: Outlook) -> Table:
    checked = any(one.checks > 0 for one in shown.scenarios)
    table = _table("what if", "fit", "time", "rho", "b", "wait", *(["checks"] if checked else []), "accepted")
    for one in shown.scenarios:
        table.add_row(
            escape(one.name),
            f"{one.items:,}",
            _time(one.seconds),
            f"{one.rho:.2f}",
            f"{one.batch:.1f}",
            _time(one.wait_s),
            *([f"{100 * one.checks:.0f}%"] if checked else []),
            f"{one.accepted:.0f}",
        )
    return table


def _time(value: float) -> str:
    """Two digits, which is what a forecast is good for."""
    if value < 0.1:
        return f"{1000 * value:.0f} ms"
    for unit, size in (("s", 1), ("min", 60), ("h", 3600)):
        if value < 100 * size or unit == "h":
            return f"{value / size:.1f} {unit}" if value < 10 * size else f"{value / size:.0f} {unit}"
    raise AssertionError("hours are the last unit")


def _last(out: Console, found: ForecastError) -> None:
    out.print(f"\n[bold]Last night's forecast[/] ({found.night})")

    def line(name: str, one: Compared, shown: str, actual: str) -> None:
        wrong = "" if one.error is None else f", its middle {100 * one.error:+.0f}%"
        inside = "[green]inside[/]" if one.inside else "[red]outside[/]"
        out.print(f"  {name:9} {shown}; was {actual}: {inside}{wrong}")

    items, time, accepted = found.items, found.seconds, found.accepted
    out.print(f"  {'items':9} {items.low:.0f}; were {items.actual:.0f}")
    line("time", time, f"{_time(time.low)} to {_time(time.high)}", _time(time.actual))
    line("accepted", accepted, f"{accepted.low:.0f} to {accepted.high:.0f}", f"{accepted.actual:.0f}")
