"""The night in words: the report in Markdown and for the terminal, commit messages, summary notes. Pure.

One record, `NightReport`, is rendered here in every form; nothing is measured here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pantheon.plan import printable
from pantheon.records import NightReport, Outcome, PullRequest, Run

SUBJECT_WIDTH = 72


def commit_message(run: Run, target: str, task: str, subject: str) -> str:
    """The message of an accepted item: the flow's subject, what was repaired, the trailers by which it is found."""
    path = printable(run.item.target)
    if target != run.item.target:
        subject = "docs: rename {target}"
    line = subject.replace("{target}", path)
    if len(line) > SUBJECT_WIDTH:
        rest = len(subject.replace("{target}", ""))
        line = subject.replace("{target}", f"…{path[-max(8, SUBJECT_WIDTH - rest - 1) :]}")
    body = [f"- {printable(f.message)}" for f in run.item.findings]
    if target != run.item.target:
        body.append(f"- renamed to {printable(target)}; links to it follow")
    trailers = [f"Pantheon-Task: {task}", f"Pantheon-Run: {run.id}"]
    trailers += [f"Pantheon-Agent: {agent}" for agent in run.agents]
    return f"{line}\n\n" + "\n".join(body) + "\n\n" + "\n".join(trailers) + "\n"


def summary_note(run: Run) -> str:
    """What `git log` shows under the commit."""
    nodes = " ".join(f"{name}={state}" for name, state in run.nodes.items())
    lines = [f"pantheon: {run.outcome} in night {run.night} ({run.seconds:.0f} s)", f"nodes: {nodes}"]
    if run.reason:
        lines.append(f"reason: {printable(run.reason)}")
    lines.append(f"agents: {', '.join(run.agents)}")
    return "\n".join(lines) + "\n"


def counts(report: NightReport) -> Counter[Outcome]:
    return Counter(run.outcome for run in report.runs)


def failures(runs: Sequence[Run]) -> list[tuple[str, str, list[Run]]]:
    """Failed runs grouped by node and reason, the largest group first: (node, reason, runs)."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.outcome is not Outcome.ACCEPTED:
            groups.setdefault((run.node or "gate", _cause(run.reason)), []).append(run)
    return [(node, why, found) for (node, why), found in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))]


def _cause(reason: str) -> str:
    """A reason without what is particular to one file, so that equal causes meet."""
    return printable(reason.split("\n")[0])[:160]


def span(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def needs_you(pulls: Sequence[PullRequest], broken: int, problems: int, trusted: bool = True) -> str:
    """The first line of `status`: what needs a person now."""
    parts = [] if trusted else [".pantheon/ is not trusted, nothing of it runs: git pantheon trust"]
    if pulls:
        items = sum(len(pull.live) for pull in pulls)
        parts.append(f"{_many(len(pulls), 'PR')} with {_many(items, 'item')} to review: git pantheon pr")
    if problems:
        parts.append(f"{_many(problems, 'task file')} cannot be used: git pantheon status")
    if broken:
        parts.append(f"{_many(broken, 'item')} failed last night: git pantheon report")
    return "; ".join(parts) if parts else "nothing needs you"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ended_text(report: NightReport) -> str:
    return {
        "finished": "the queue was finished",
        "budget": "the budget was spent",
        "interrupted": "it was interrupted",
        "engine": "the engine failed",
    }[report.ended]


def markdown(report: NightReport) -> str:
    """The whole report as Markdown."""
    night, tally = report.night, counts(report)
    lines = [
        f"# Night {night.id}",
        "",
        f"**{tally[Outcome.ACCEPTED]} accepted**, {tally[Outcome.FAILED]} failed, {tally[Outcome.PARKED]} parked, "
        f"{report.left} not started, of {night.items} items; {ended_text(report)} after {span(report.wall_s)}.",
        "",
        "## For you",
        "",
    ]
    if report.prs:
        lines += ["| PR | branch | items | title |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {p.id} | `{p.branch}` | {sum(1 for i in p.items if i.run)} | {_cell(p.title)} |" for p in report.prs
        ]
        lines += [
            "",
            "Look: `git pantheon pr show N`, `git pantheon pr diff N`. "
            "Then `git pantheon accept N` or `git pantheon reject N -m WHY`.",
        ]
    else:
        lines.append("No PR was opened.")
    lines += ["", "## What did not pass", ""]
    groups = failures(report.runs)
    for node, why, runs in groups:
        lines.append(f"- **{node}** ({len(runs)}): {why}")
        lines += [f"  - `{printable(run.item.target)}`, `git pantheon run {run.id[:12]}`" for run in runs[:5]]
        if len(runs) > 5:
            lines.append(f"  - and {len(runs) - 5} more")
    if not groups:
        lines.append("Everything passed.")
    if report.notes:
        lines += ["", "## Not in the queue", ""] + [f"- {printable(note)}" for note in report.notes]
    lines += ["", "## Figures", "", *(f"- {name}: {value}" for name, value in figures(report))]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")


def figures(report: NightReport) -> list[tuple[str, str]]:
    """The night's numbers, named and with units."""
    night = report.night
    tokens = sum(run.completion_tokens for run in report.runs)
    cost = report.host_cpu_s / len(report.runs) if report.runs else 0.0
    return [
        ("engine", f"{night.engine}, model {night.model}, window {night.window}"),
        ("base", f"{night.branch} at {night.base[:12]}"),
        ("wall time", f"{report.wall_s:.1f} s"),
        ("generated", f"{tokens} tokens, {report.tokens_per_s:g} tokens/s"),
        ("mean batch", f"{report.mean_batch:g} tokens per engine step"),
        ("prefix-cache hit rate", f"{100 * report.prefix_hit_rate:.1f} %"),
        ("host CPU", f"{cost:.2f} s per item outside the engine"),
    ]
