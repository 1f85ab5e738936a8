"""What the command line shows: tables, the night's progress bar, errors. Ring 4; prints, decides nothing.

Honours NO_COLOR and the terminal's width through rich. Without a terminal the progress bar becomes a line now and
then, and with `quiet` nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pantheon import night as nights
from pantheon import report
from pantheon.plan import printable
from pantheon.records import NightReport, Outcome, PullRequest, PullState

PLAIN_EVERY_S = 15.0


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
def night_bar(quiet: bool) -> Iterator[nights.Progress]:
    """The night's progress: items done of all, accepted, failed, parked, in flight."""
    shown = console(stderr=True)
    if quiet:
        yield nights.Progress()
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

            def draw(state: nights.Progress) -> None:
                done = state.accepted + state.failed + state.parked
                bar.update(
                    job,
                    description=f"night: {state.phase}",
                    total=state.total or None,
                    completed=done,
                    tally=_tally(state),
                )

            yield nights.Progress(changed=draw)
    else:
        yield nights.Progress(changed=_plain_bar())


def _tally(state: nights.Progress) -> str:
    parts = [f"{state.accepted} accepted", f"{state.failed} failed"]
    if state.parked:
        parts.append(f"{state.parked} parked")
    return ", ".join([*parts, f"{state.running} in flight"])


def _plain_bar() -> Callable[[nights.Progress], None]:
    last_time, last_phase = [0.0], [""]

    def draw(state: nights.Progress) -> None:
        now = time.monotonic()
        done = state.accepted + state.failed + state.parked
        if state.phase != last_phase[0] or now - last_time[0] > PLAIN_EVERY_S:
            last_time[0], last_phase[0] = now, state.phase
            print(f"night: {state.phase}: {done} of {state.total}; {_tally(state)}", file=sys.stderr, flush=True)

    return draw


def pulls(found: list[PullRequest], everything: bool) -> None:
    """The list of local PRs."""
    shown = [pull for pull in found if everything or pull.state is PullState.OPEN]
    if not shown:
        print("no open PRs" if not everything else "no PRs yet")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PR", justify="right")
    for name in ("state", "items", "branch", "night"):
        table.add_column(name, no_wrap=True)
    table.add_column("title", overflow="ellipsis")
    for pull in shown:
        live = len(pull.live)
        table.add_row(str(pull.id), pull.state, str(live), pull.branch, pull.night, escape(printable(pull.title)))
    Console(highlight=False).print(table)


def pull(found: PullRequest) -> None:
    """One PR with its items and the commands a person may type next."""
    out = console()
    out.print(f"[bold]PR {found.id}[/] {escape(printable(found.title))} [dim]({found.state})[/]")
    out.print(
        f"branch {found.branch}, onto {found.onto}, base {found.base[:12]}, "
        f"night {found.night}, revision {found.revision}"
    )
    if found.reason:
        out.print(f"reason: {escape(printable(found.reason))}")
    for item in found.items:
        mark = "dropped " if item.dropped else ""
        name = item.run[:12] if item.run else "status"
        out.print(f"  {name:12}  {item.commit[:12]}  {mark}{escape(printable(item.target))}")
    if found.state is PullState.OPEN:
        out.print(
            f"next: git pantheon pr diff {found.id}; git pantheon accept {found.id} [--drop ITEM]; "
            f"git pantheon reject {found.id} -m WHY"
        )


def night_report(found: NightReport) -> None:
    """The morning report: what needs you, what happened, figures."""
    out = Console(highlight=False)
    tally = report.counts(found)
    out.print(f"[bold]Night {found.night.id}[/]: {report.ended_text(found)} after {report.span(found.wall_s)}")
    out.print(
        f"[green]{tally[Outcome.ACCEPTED]} accepted[/], [red]{tally[Outcome.FAILED]} failed[/], "
        f"[yellow]{tally[Outcome.PARKED]} parked[/], {found.left} not started, of {found.night.items} items"
    )
    out.print()
    if found.prs:
        pulls(list(found.prs), everything=True)
        out.print(
            "look: [bold]git pantheon pr diff N[/]   take: [bold]git pantheon accept N[/]   "
            "refuse: [bold]git pantheon reject N -m WHY[/]"
        )
    else:
        out.print("no PR was opened")
    groups = report.failures(found.runs)
    if groups:
        out.print("\n[bold]What did not pass[/]")
        for node, why, runs in groups:
            out.print(f"  {len(runs):3}  {node}: {escape(why)}")
            out.print(
                f"       {escape(printable(runs[0].item.target))}: git pantheon run {runs[0].id[:12]}", style="dim"
            )
    if found.notes:
        out.print("\n[bold]Not in the queue[/]")
        for note in found.notes[:10]:
            out.print(f"  {escape(printable(note))}")
        if len(found.notes) > 10:
            out.print(f"  and {len(found.notes) - 10} more: git pantheon report --markdown")
    out.print("\n[bold]Figures[/]")
    for name, value in report.figures(found):
        out.print(f"  {name:22} {escape(value)}")
