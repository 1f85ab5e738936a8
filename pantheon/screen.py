"""What the command line shows: tables, the night's progress bar, errors. Ring 4; prints, decides nothing.

Honours NO_COLOR and the terminal's width through rich. Without a terminal the progress bar becomes a line now and
then, and with `quiet` nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pantheon import figures, report, tally
from pantheon import night as runner
from pantheon.growth import NOTHING, Learned
from pantheon.plan import many, printable
from pantheon.records import Look, NightReport, PullRequest, PullState

PLAIN_EVERY_S = 15.0
MANY = 200  # PRs of a list that is drawn as a table
FAILURES, NOTES = 12, 10  # causes and notes that are shown before the rest is only counted


def console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def print_json(value: object) -> int:
    """What a command prints with --json, in ASCII: names may drive a terminal or be no text. Exit code 0."""
    print(json.dumps(value, sort_keys=True, indent=1))
    return 0


@contextmanager
def waiting(text: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner for what has no known length; yields a function that changes its text."""
    shown = console(stderr=True)
    if quiet:
        yield lambda _: None
    elif shown.is_terminal:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=shown, transient=True
        ) as bar:
            job = bar.add_task(escape(text), total=None)
            yield lambda message: bar.update(job, description=escape(f"{text}: {message}"))
    else:
        last = [""]

        def say(message: str) -> None:
            phase = message.rpartition(",")[0] or message  # without the seconds: a log wants a line per phase
            if phase != last[0]:
                last[0] = phase
                print(f"{text}: {phase}", file=sys.stderr, flush=True)

        yield say


@contextmanager
def counting(what: str, total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """A progress bar over things that are done one by one; yields what moves it by one."""
    shown = console(stderr=True)
    if quiet:
        yield lambda: None
    elif shown.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=shown, transient=True) as bar:
            job = bar.add_task(escape(what), total=total)
            yield lambda: bar.advance(job)
    else:
        done = [0]

        def step() -> None:
            done[0] += 1
            if done[0] % max(1, total // 10) == 0:
                print(f"{what}: {done[0]} of {total}", file=sys.stderr, flush=True)

        yield step


@contextmanager
def night_bar(quiet: bool) -> Iterator[runner.Progress]:
    """The night's progress: items done of all, accepted, failed, parked, in flight."""
    shown = console(stderr=True)
    if quiet:
        yield runner.Progress()
    elif shown.is_terminal:
        with Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tally]}"),
            TimeElapsedColumn(),
            console=shown,
        ) as bar:
            job = bar.add_task("night", total=None, tally="")

            def draw(state: runner.Progress) -> None:
                bar.update(
                    job,
                    description=f"night: {state.phase}",
                    total=state.total or None,
                    completed=state.done,
                    tally=_tally(state),
                )

            yield runner.Progress(changed=draw)
    else:
        yield runner.Progress(changed=_plain_bar())


def _tally(state: runner.Progress) -> str:
    parts = [f"{state.accepted} accepted", f"{state.failed} failed"]
    if state.parked:
        parts.append(f"{state.parked} parked")
    if state.seeded:
        parts.append(f"{state.seeded} canaries")
    return ", ".join([*parts, f"{state.running} in flight"])


def _plain_bar() -> Callable[[runner.Progress], None]:
    last_time, last_phase = [0.0], [""]

    def draw(state: runner.Progress) -> None:
        now = time.monotonic()
        if state.phase != last_phase[0] or now - last_time[0] > PLAIN_EVERY_S:
            last_time[0], last_phase[0] = now, state.phase
            print(f"night: {state.phase}: {state.done} of {state.total}; {_tally(state)}", file=sys.stderr, flush=True)

    return draw


def pulls(found: Sequence[PullRequest], everything: bool, looks: Mapping[int, Look]) -> None:
    """The list of local PRs, and what some of them need."""
    shown = [pull for pull in found if everything or pull.state is PullState.OPEN]
    if not shown:
        print("no open PRs" if not everything else "no PRs yet")
        return
    if len(shown) > MANY:
        return _many_pulls(shown, looks)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PR", justify="right")
    for name in ("state", "items", "branch", "night"):
        table.add_column(name, no_wrap=True)
    table.add_column("title", overflow="ellipsis")
    for pull in shown:
        live = "" if pull.promotes else str(len(pull.live))
        table.add_row(str(pull.id), looks[pull.id].word, live, pull.branch, pull.night, escape(printable(pull.title)))
    out = Console(highlight=False)
    out.print(table)
    for pull in shown:
        _look(out, looks[pull.id], f"PR {pull.id}: ")


def _many_pulls(shown: Sequence[PullRequest], looks: Mapping[int, Look]) -> None:
    """The same, a line each and without style: for thousands a table that fits itself to a terminal takes seconds."""
    rows = [("PR", "state", "items", "branch", "night", "title")]
    for pull in shown:
        live = "" if pull.promotes else str(len(pull.live))
        rows.append((str(pull.id), looks[pull.id].word, live, pull.branch, pull.night, printable(pull.title)))
    first, *widths = (max(map(len, column)) for column in zip(*(row[:5] for row in rows), strict=True))
    lines = []
    for number, *cells, title in rows:
        filled = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join((number.rjust(first), *filled, title)).rstrip())
    for pull in shown:
        look = looks[pull.id]
        lines += [printable(f"PR {pull.id}: {look.said}")] if look.said else []
        lines += [f"  next: {printable(look.hint)}"] if look.hint else []
    print("\n".join(lines))


def _look(out: Console, look: Look, name: str = "") -> None:
    if look.said:
        out.print(Text(printable(f"{name}{look.said}"), style="yellow"), soft_wrap=True)
    if look.hint:
        out.print(Text(f"  next: {printable(look.hint)}"), soft_wrap=True)


def pull(found: PullRequest, look: Look, revisions: Mapping[int, tuple[datetime, str]]) -> None:
    """One PR with its items, its revisions (when and why each was made), and the commands a person may type next."""
    out = console()
    out.print(f"[bold]PR {found.id}[/] {escape(printable(found.title))} [dim]({look.word})[/]")
    out.print(
        f"branch {found.branch}, onto {found.onto}, base {found.base[:12]}, "
        f"{f'night {found.night}, ' if found.night else ''}revision {found.revision}"
    )
    for line in found.text.splitlines():
        out.print(escape(printable(line)), soft_wrap=True)
    if found.reason:
        out.print(f"reason: {escape(printable(found.reason))}")
    _look(out, look)
    for trouble in found.troubles:
        paths = f" ({', '.join(trouble.paths)})" if trouble.paths else ""
        out.print(Text(printable(f"conflict: {trouble.target}: {trouble.why}{paths}"), style="yellow"))
    for item in found.items:
        mark = f"{item.verdict or 'dropped'} " if item.dropped else ""
        name = item.run[:12] if item.run else "agent" if found.promotes else "status"
        out.print(f"  {name:12}  {item.commit[:12]}  {mark}{escape(printable(item.target))}")
    for number, (when, why) in revisions.items() if len(revisions) > 1 else ():
        out.print(Text(printable(f"  r{number}  {when:%Y-%m-%d %H:%M}  {why}"), style="dim"))
    for pushed in found.pushed:
        out.print(
            Text(printable(f"pushed to {pushed.remote}: {pushed.commit[:12]}, {pushed.when:%Y-%m-%d}"), style="dim")
        )
    if found.state is PullState.OPEN and not look.hint:
        drop = "" if found.promotes else " [--drop ITEM]"
        out.print(
            f"next: git pantheon pr diff {found.id}; git pantheon accept {found.id}{drop}; "
            f"git pantheon reject {found.id} -m WHY"
        )


def night_report(found: NightReport, learned: Learned = NOTHING) -> None:
    """The morning report: what needs you, what it was worth, what happened, as the other forms have it."""
    out = Console(highlight=False)
    head = Text(f"Night {found.night.id}", style="bold")
    out.print(head.append(f": {report.ended_text(found)} after {report.span(found.wall_s)}", style="not bold"))
    out.print(Text(report.tally_text(found)))
    _needs(out, found)
    _title(out, "What it was worth")
    _rows(out, [*report.worth(found), *report.learning(learned)])
    _title(out, "What happened")
    _rows(out, report.pace(found))
    for table in figures.night_tables(found, tally.nodes(found.runs))[:1]:
        _nodes(out, table)
    for name, value in report.figures(found)[:2]:
        _put(out, f"{name}: {value}", 2, "dim")
    _put(out, "with charts and diffs: git pantheon report --html", 2, "dim")


def _title(out: Console, text: str) -> None:
    out.print()
    out.print(Text(text, style="bold underline"))


def _put(out: Console, text: str, indent: int, style: str = "") -> None:
    """A line of anybody's text: no markup in it counts, what drives a terminal is escaped, wrapped below itself."""
    out.print(Padding(Text(printable(text), style=style), (0, 0, 0, indent), expand=False))


def _needs(out: Console, found: NightReport) -> None:
    _title(out, "What needs you")
    waiting = [pull for pull in found.prs if pull.state is PullState.OPEN]
    troubled, groups = report.troubled(found), report.failures(found.runs)
    for pull_ in waiting:
        count = "" if pull_.promotes else f"  ({many(len(pull_.live), 'item')})"
        _put(out, f"PR {pull_.id}  {pull_.title}{count}", 2, "cyan")
        _put(out, f"git pantheon pr diff {pull_.id}", 5)
        _put(out, f"git pantheon accept {pull_.id}", 5)
        _put(out, f"git pantheon reject {pull_.id} -m WHY", 5)
    for gate in troubled:
        halted = gate.state == "halted"
        _put(out, f"the gate of {gate.flow}: {report.state_text(gate)}", 2, "red" if halted else "yellow")
        for why in report.gate_lines(found, gate):
            _put(out, why, 5)
        for what in gate.opens:
            _put(out, f"opens with {what}", 5, "dim")
    for node, why, runs in groups[:FAILURES]:
        _put(out, f"{len(runs)} x {node}: {why}", 2, "red")
        _put(out, report.replay_command(runs[0]), 5)
    if len(groups) > FAILURES:
        _put(out, f"and {len(groups) - FAILURES} more causes: git pantheon report --markdown", 2)
    asking, quiet = report.left_out(found)
    for note in asking[:NOTES]:
        _put(out, f"not in the queue: {note}", 2, "yellow")
    if len(asking) > NOTES:
        _put(out, f"and {len(asking) - NOTES} more: git pantheon report --markdown", 2)
    if not (waiting or troubled or groups or asking):
        _put(out, "nothing needs you", 2)
    if quiet:
        _put(out, f"left out, as you decided: {len(quiet)}, see git pantheon plan", 2, "dim")


def _rows(out: Console, found: list[report.Figure]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=out.width >= 70)
    table.add_column()
    for figure in found:
        value = Text(figure.value, style="bold yellow" if figure.alert else "bold")
        note = f"  {figure.note}" if figure.note else ""
        table.add_row(Text(figure.name), value.append(printable(note), style="not bold"))
    out.print(Padding(table, (0, 0, 0, 2), expand=False))


def _nodes(out: Console, found: figures.Table) -> None:
    """The first columns of a table that fit: the others are in the wider forms."""
    room = max(3, min(len(found.head), (out.width - 24) // 9))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, name in enumerate(found.head[:room]):
        table.add_column(name, justify="right" if number in found.numbers else "left", overflow="fold")
    for row in found.rows:
        table.add_row(*(Text(printable(cell)) for cell in row[:room]))
    out.print(Padding(table, (1, 0, 1, 2), expand=False))
