"""The night in words: the report in Markdown and for the terminal, commit messages, summary notes. Pure.

One record, `NightReport`, is rendered here, in screen.py and in page.py, in the same order: what needs a person, what
the night was worth, what happened. The words that the three share are made here; nothing is measured here.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pantheon import capacity, growth, measured, quality, tally
from pantheon.capacity import Compared
from pantheon.growth import NOTHING, Growth, Learned
from pantheon.plan import many, printable, settled
from pantheon.records import (
    CanaryFigures,
    Estimate,
    FlowQuality,
    Look,
    NightReport,
    Outcome,
    PullItem,
    PullRequest,
    PullState,
    Run,
    Share,
)

SUBJECT_WIDTH = 72
MOST_NODES = 40
NOBODY_LOOKED = Look(word="")  # of a PR: how it stands beside its branches is not known here


@dataclass(frozen=True)
class ItemView:
    """An item of a PR with its run and the patch of its commit against its parent."""

    item: PullItem
    run: Run
    patch: str


@dataclass(frozen=True)
class PullView:
    pull: PullRequest
    items: tuple[ItemView, ...]
    look: Look = NOBODY_LOOKED


@dataclass(frozen=True)
class Morning:
    """Everything the morning report shows. `past`: earlier nights, oldest first; `pulls`: the night's PRs as they are
    now, then open ones of earlier nights."""

    report: NightReport
    past: tuple[NightReport, ...] = ()
    pulls: tuple[PullView, ...] = ()
    learned: Learned = NOTHING

    @property
    def current(self) -> NightReport:
        """The night's report with its PRs as they are now."""
        now = {view.pull.id: view.pull for view in self.pulls}
        return self.report.model_copy(update={"prs": tuple(now.get(pull.id, pull) for pull in self.report.prs)})


@dataclass(frozen=True)
class Figure:
    """One of the night's headline numbers; `note` says how sure it is, or what follows from it."""

    name: str
    value: str
    note: str = ""
    alert: bool = False


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


# --- words that all forms share --------------------------------------------------------------------------------------


def counts(report: NightReport) -> Counter[Outcome]:
    return Counter(run.outcome for run in report.runs)


def failures(runs: Sequence[Run]) -> list[tuple[str, str, list[Run]]]:
    """Failed runs grouped by node and reason, the largest group first: (node, reason, runs). What a halted gate holds
    back did not fail."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.outcome is not Outcome.ACCEPTED and run.node != quality.HALTED:
            groups.setdefault((run.node or "gate", _cause(run)), []).append(run)
    return [(node, why, found) for (node, why), found in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))]


def _cause(run: Run) -> str:
    """Why a run failed without what is particular to one file, so that equal causes meet; of several reviewers that
    refuse it, what they refuse."""
    refused = sorted({one.name for said in run.verdicts for one in said.criteria if one.verdict == "fail"})
    if refused and all(" says fail: " in part for part in run.reason.split("; ")):
        return f"refused by a reviewer: {', '.join(map(printable, refused))}"[:160]
    return printable(run.reason.split("\n")[0])[:160]


def replay_command(run: Run) -> str:
    """How to see a failure again: its node from its artifacts, or the run where no node of the flow failed."""
    return (
        f"git pantheon replay {word(run.id[:12])} --node {word(run.node)}"
        if run.node in run.nodes
        else run_command(run)
    )


def run_command(run: Run) -> str:
    return f"git pantheon run {word(run.id[:12])}"


def word(text: str) -> str:
    """A record's text as one word of a command that a person pastes."""
    return shlex.quote(printable(text))


def span(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def brief(seconds: float | None) -> str:
    """A duration in a table: `0.04 s`, `12.3 s`, `3 min`; nothing where it was not measured."""
    if seconds is None:
        return ""
    return f"{seconds:.{2 if seconds < 1 else 1}f} s" if seconds < 60 else span(seconds)


def percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def share_text(share: Share) -> str:
    """`17 of 20, 85 % (64 to 95 %)`; of none only that."""
    if not share.of:
        return "none measured"
    return f"{share.hits} of {share.of}, {percent(share.value)} ({100 * share.low:.0f} to {percent(share.high)})"


def estimate_text(found: Estimate, *, per_cent: bool = False) -> str:
    """`0.71 (0.52 to 0.90)`, or in per cent; "unknown" where there is no number."""
    if found.value is None:
        return "unknown"
    factor, unit, form = (100.0, " %", ".0f") if per_cent else (1.0, "", ".2f")
    text = f"{factor * found.value:{form}}{unit}"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({factor * found.low:{form}} to {factor * found.high:{form}}{unit})"


def needs_you(
    pulls: Sequence[PullRequest], broken: int, problems: int, trusted: bool = True, halted: Sequence[FlowQuality] = ()
) -> str:
    """The first line of `status`: what needs a person now. `halted`: the gates of the last night that are."""
    parts = [] if trusted else [".pantheon/ is not trusted, nothing of it runs: git pantheon trust"]
    stopped = [printable(found.flow) for found in halted if found.state == "halted"]
    if stopped:
        gates = f"the gate of {stopped[0]} is" if len(stopped) == 1 else f"the gates of {', '.join(stopped)} are"
        parts.append(f"{gates} halted: git pantheon report")
    work = [pull for pull in pulls if not pull.promotes]
    if work:
        items = sum(len(pull.live) for pull in work)
        parts.append(f"{many(len(work), 'PR')} with {many(items, 'item')} to review: git pantheon pr")
    for pull in pulls:
        if pull.promotes:
            parts.append(f"{printable(pull.title)}: git pantheon pr show {pull.id}")
        if pull.troubles:
            parts.append(f"PR {pull.id} is in conflict with {printable(pull.onto)}: git pantheon pr show {pull.id}")
    if problems:
        parts.append(f"{many(problems, 'task file')} cannot be used: git pantheon status")
    if broken:
        parts.append(f"{many(broken, 'item')} failed last night: git pantheon report")
    return "; ".join(parts) if parts else "nothing needs you"


def ended_text(report: NightReport) -> str:
    return {
        "finished": "the queue was finished",
        "budget": "the budget was spent",
        "interrupted": "it was interrupted",
        "engine": "the engine failed",
    }[report.ended]


def tally_text(report: NightReport) -> str:
    """`31 accepted, 7 failed, 2 parked, 0 not started, of 40 items`."""
    outcomes = counts(report)
    return (
        f"{outcomes[Outcome.ACCEPTED]} accepted, {outcomes[Outcome.FAILED]} failed, {outcomes[Outcome.PARKED]} parked, "
        f"{report.left} not started, of {many(report.night.items, 'item')}"
    )


def troubled(report: NightReport) -> list[FlowQuality]:
    """The flows whose gate is halted, then those whose gate alerts."""
    return sorted(
        (q for q in report.quality if q.state in ("halted", "alert")), key=lambda q: (q.state != "halted", q.flow)
    )


def gate_lines(report: NightReport, found: FlowQuality) -> tuple[str, ...]:
    """Why a gate is halted or alerts, and what it holds back."""
    held = sum(run.node == quality.HALTED and run.item.flow == found.flow for run in report.runs)
    return (*found.why, *([f"{many(held, 'item')} passed it and must wait for another night"] if held else []))


def state_text(found: FlowQuality) -> str:
    """What a gate's state means for the morning."""
    return {
        "open": "open: its changes are offered",
        "alert": "open, with an alert: its changes are offered, read them with care",
        "halted": "halted: none of its changes is offered",
        "unmeasured": "open, unmeasured: nothing is known of its reviewers",
    }[found.state]


def canary_totals(found: Sequence[CanaryFigures], good: bool) -> CanaryFigures:
    """The known-good or the known-bad canaries, all kinds together."""
    some = [one for one in found if one.good is good]
    return CanaryFigures(
        kind="known-good" if good else "known-bad",
        good=good,
        seeded=sum(one.seeded for one in some),
        by_checks=sum(one.by_checks for one in some),
        by_reviewers=sum(one.by_reviewers for one in some),
        passed=sum(one.passed for one in some),
        broken=sum(one.broken for one in some),
    )


def worth(report: NightReport) -> list[Figure]:
    """What the night was worth: yield, precision, how far reviewers agree, canaries."""
    share = quality.share(counts(report)[Outcome.ACCEPTED], len(report.runs))
    found = [Figure("yield", percent(share.value), _around(share)) if share.of else Figure("yield", "nothing ran")]
    if not report.quality:
        found.append(Figure("precision", "not measured", "no canaries"))
    for q in report.quality:
        found.append(_precision(q, _of("precision", q, report)))
    for q in report.quality:
        doubtful, name = q.state in ("alert", "halted"), _of("agreement (kappa)", q, report)
        if q.kappa.value is not None:
            note = f"{_interval(q.kappa)}; adjusted for prevalence {estimate_text(q.adjusted)}"
            found.append(Figure(name, f"{q.kappa.value:.2f}", note, doubtful))
        elif sum(q.table):
            found.append(Figure(name, "unknown", f"both always said the same, {sum(q.table)} times", doubtful))
    said = decided(report.prs)
    if said.of:
        note = f"{100 * said.low:.0f} to {percent(said.high)} of what you decide on"
        found.append(Figure("you accepted", f"{said.hits} of {said.of}", note))
    kinds = [one for q in report.quality for one in q.canaries]
    if not kinds:
        return [*found, Figure("canaries", "none", "so nothing is known of the reviewers")]
    bad, good = canary_totals(kinds, False), canary_totals(kinds, True)
    notes = [f"{bad.passed} got past every check and reviewer"] if bad.passed else []
    notes += [f"{good.passed} of {good.seeded} right ones passed"] if good.seeded else []
    nights = max(q.nights for q in report.quality)
    notes += [f"over {nights} nights with these reviewers"] if nights > 1 else []
    caught = f"{bad.by_checks + bad.by_reviewers} of {bad.seeded}"
    return [*found, Figure("wrong canaries caught", caught, "; ".join(notes), bad.passed > 0)]


def decided(pulls: Sequence[PullRequest]) -> Share:
    """Of the items that a person decided on, those that were accepted. One to be tried again is not decided."""
    words = [
        item.verdict or {"accepted": "accepted", "rejected": "rejected"}.get(pull.state, "")
        for pull in pulls
        for item in pull.items
        if item.run
    ]
    known = [word for word in words if word not in ("", "retry")]
    return quality.share(known.count("accepted"), len(known))


def _precision(found: FlowQuality, name: str) -> Figure:
    if found.precision.value is None:
        judged = any(one.seeded > one.broken for one in found.canaries)
        return Figure(name, "not measured", "the canaries that were judged do not tell it" if judged else "no canaries")
    note = f"{_interval(found.precision, per_cent=True)} of what was accepted is right, as canaries tell"
    return Figure(name, percent(found.precision.value), note)


def _around(share: Share) -> str:
    return f"{share.hits} of {share.of}; {100 * share.low:.0f} to {percent(share.high)}"


def _interval(found: Estimate, *, per_cent: bool = False) -> str:
    if found.low is None or found.high is None:
        return "no interval"
    if per_cent:
        return f"{100 * found.low:.0f} to {percent(found.high)}"
    return f"{found.low:.2f} to {found.high:.2f}"


def _of(name: str, found: FlowQuality, report: NightReport) -> str:
    return name if len(report.quality) == 1 else f"{name}, {printable(found.flow)[:60]}"


def learning(learned: Learned) -> list[Figure]:
    """How agents grow: a line for each with measured adapters, and the lift of the week; nothing where nothing is
    known."""
    found = [_growth(one) for one in learned.agents]
    lift = learned.lift
    if lift.value is not None and lift.low is not None and lift.high is not None:
        value = f"{_signed(lift.value)} points"
        note = f"{_signed(lift.low)} to {_signed(lift.high)} against the week before, at equal difficulty"
        found.append(Figure("lift of the week", value, note, lift.high < 0))
    return found


def _growth(one: Growth) -> Figure:
    name, drifts = f"held-out pass, {printable(one.agent)}@{one.version}", bool(one.drift and one.drift.alarm)
    notes = [f"drift: {growth.drift_text(one.drift)}"] if one.drift and drifts else []
    if one.now is None:
        return Figure(name, "not measured", "; ".join([*notes, growth.outlook(one)]), drifts)
    share = one.now.passed
    rows = f", after {many(one.now.rows, 'row')}" if one.now.rows else ", the base model"
    known = f"{100 * share.low:.0f} to {percent(share.high)}{rows}"
    return Figure(name, percent(share.value), "; ".join([known, *notes, growth.outlook(one)]), drifts)


def _signed(value: float) -> str:
    return f"{round(100 * value):+d}"


def growth_lines(agents: Sequence[Growth]) -> list[str]:
    """What `status` says of agents that learn: which drift, and which became ready."""
    lines = []
    for one in agents:
        look = f"git pantheon agents show {word(one.agent)}"
        if one.drift and one.drift.alarm:
            lines.append(f"drift: {printable(one.agent)}@{one.version}: {growth.drift_text(one.drift)}: {look}")
        if one.ready:
            share = share_text(one.ready.passed)
            lines.append(f"ready: {printable(one.agent)}@{one.ready.version} passes held-out items: {share}: {look}")
    return lines


def served(report: NightReport) -> list[Figure]:
    """How the agents got their answers, where that was not from one server without adapters."""
    mode = report.night.serving
    if mode.mode == "one":
        return []
    phases = ", ".join(
        f"{printable(one.server)} {span(one.start_s)} to start and {span(one.seconds)} at work"
        for one in report.phases[:8]
    )
    value = many(len(report.phases), "phase") if mode.mode == "phases" else "adapters side by side"
    return [Figure("served", value, "; ".join(part for part in (phases, printable(mode.why)) if part))]


def pace(report: NightReport) -> list[Figure]:
    """How the night went: its forecast, its budget, what the engine gave."""
    night = report.night
    found = []
    if night.forecast:
        wrong = capacity.error(night.forecast, report)
        guess = "" if night.forecast.nights else " (a guess: the first night here)"
        low, high = (span(value) for value in night.forecast.seconds)
        found.append(Figure("time", span(report.wall_s), _expected(low, high, wrong.seconds) + guess))
        low, high = (f"{value:.0f}" for value in night.forecast.accepted)
        told = _expected(low, high, wrong.accepted) + guess
        found.append(Figure("accepted", f"{wrong.accepted.actual:.0f} items", told))
    used = report.wall_s / night.budget_s if night.budget_s else 0.0
    found += [
        Figure("time budget", f"{percent(used)} used", f"{span(report.wall_s)} of {span(night.budget_s)}"),
        Figure("tokens/s", f"{report.tokens_per_s:g}", f"{sum(r.completion_tokens for r in report.runs)} generated"),
    ]
    found += served(report)
    slots = measured.slots_of(night.window)
    known = measured.measure((report,), night.engine, night.model, slots, night.check_slots).nights
    advice = next((capacity.batch_advice(one) for one in known), "")
    hint = advice.partition(": ")[2] or "tokens per engine step"
    found.append(Figure("mean batch", f"{report.mean_batch:g}", hint, bool(advice)))
    broken, fixed = tally.tests(report.runs)
    if broken or fixed:
        found.append(Figure("tests", f"{fixed} fixed", f"{broken} broken, counted by checks over all items"))
    found.append(Figure("prefix-cache hits", f"{100 * report.prefix_hit_rate:.1f} %", "of the prompt tokens"))
    return found


def _expected(low: str, high: str, found: Compared) -> str:
    return (
        f"{low} to {high} {'' if found.inside else 'and not this '}were expected; the forecast was {error_text(found)}"
    )


def error_text(found: Compared) -> str:
    """How far off the middle of a forecast was: `8 % too high`."""
    if found.error is None or not abs(found.error) < 1e6:  # a stored report may hold any number, or none
        return "of something that did not come"
    off = round(100 * abs(found.error))
    return f"{off} % too {'high' if found.error > 0 else 'low'}" if off else "exact"


# --- Markdown --------------------------------------------------------------------------------------------------------


def left_out(report: NightReport) -> tuple[list[str], list[str]]:
    """What was not in the queue: notes that ask for something, and those about what was decided already."""
    quiet = [note for note in report.notes if settled(note)]
    return [note for note in report.notes if not settled(note)], quiet


def markdown(report: NightReport, learned: Learned = NOTHING) -> str:
    """The whole report as Markdown."""
    lines = [
        f"# Night {report.night.id}",
        "",
        f"**{tally_text(report)}**; {ended_text(report)} after {span(report.wall_s)}.",
        "",
        "## What needs you",
        "",
        *_md_pulls(report.prs),
        *_md_gates(report),
        *_md_failures(report),
    ]
    asking, quiet = left_out(report)
    if asking:
        lines += ["", "### Not in the queue", ""] + [f"- {_md(note)}" for note in asking]
    lines += ["", "## What it was worth", ""]
    lines += [_md_figure(figure) for figure in [*worth(report), *learning(learned)]]
    lines += _md_quality(report)
    lines += ["", "## What happened", "", *(_md_figure(figure) for figure in pace(report))]
    lines += _md_nodes(report)
    if quiet:
        lines += ["", "### Left out, as you decided", ""] + [f"- {_md(note)}" for note in quiet]
    lines += ["", "## Figures", "", *(f"- {name}: {_md(value)}" for name, value in figures(report))]
    return "\n".join(lines) + "\n"


def _md_pulls(pulls: Sequence[PullRequest]) -> list[str]:
    if not pulls:
        return ["No PR was opened."]
    lines = ["| PR | state | branch | items | title |", "| ---: | --- | --- | ---: | --- |"]
    lines += [f"| {p.id} | {p.word} | {_code(p.branch)} | {len(p.live)} | {_cell(p.title)} |" for p in pulls]
    waiting = [pull.id for pull in pulls if pull.state is PullState.OPEN]
    if not waiting:
        return [*lines, "", "All of them are decided."]
    one = waiting[0] if len(waiting) == 1 else "N"
    look = f"Look: `git pantheon pr show {one}`, `git pantheon pr diff {one}`. "
    return [*lines, "", f"{look}Then `git pantheon accept {one}` or `git pantheon reject {one} -m WHY`."]


def _md_gates(report: NightReport) -> list[str]:
    lines: list[str] = []
    for found in troubled(report):
        lines += ["", f"### The gate of {_md(found.flow)} {'is halted' if found.state == 'halted' else 'alerts'}", ""]
        lines += [f"- {_md(why)}" for why in gate_lines(report, found)] + [
            f"- it opens when: {_md(what)}" for what in found.opens
        ]
    return lines


def _md_failures(report: NightReport) -> list[str]:
    lines = ["", "### What did not pass", ""]
    groups = failures(report.runs)
    for node, why, runs in groups:
        lines.append(f"- **{_md(node)}** ({len(runs)}): {_md(why)}")
        lines += [f"  - {_code(run.item.target)}, {_code(run_command(run))}" for run in runs[:5]]
        if len(runs) > 5:
            lines.append(f"  - and {len(runs) - 5} more")
        if replay_command(runs[0]) != run_command(runs[0]):
            lines.append(f"  - again: {_code(replay_command(runs[0]))}")
    return lines if groups else ["", "Everything that ran passed."] if report.runs else []


def _md_quality(report: NightReport) -> list[str]:
    lines: list[str] = []
    for found in report.quality:
        lines += ["", f"### The gate of {_md(found.flow)}", "", f"{state_text(found).capitalize()}."]
        if any(one.sensitivity.of or one.specificity.of for one in found.reviewers):
            lines += ["", "| reviewer | refused known-bad | passed known-good |", "| --- | --- | --- |"]
            lines += [
                f"| {_cell(r.agent)} | {share_text(r.sensitivity)} | {share_text(r.specificity)} |"
                for r in found.reviewers
            ]
        if found.canaries:
            lines += [
                "",
                "| canary | seeded | by checks | by reviewers | passed |",
                "| --- | ---: | ---: | ---: | ---: |",
            ]
            lines += [
                f"| {_cell(c.kind)}{' (right)' if c.good else ''} | {c.seeded} | {c.by_checks} | {c.by_reviewers} "
                f"| {c.passed} |"
                for c in found.canaries
            ]
    return lines


def _md_figure(found: Figure) -> str:
    return f"- {_md(found.name)}: **{found.value}**{f'; {_md(found.note)}' if found.note else ''}"


def _md_nodes(report: NightReport) -> list[str]:
    found = tally.nodes(report.runs)[:MOST_NODES]
    if not found:
        return []
    head = ["| node | agent | runs | passed | p50 | p95 |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    rows = [
        f"| {_cell(f'{one.flow}/{one.node}')} | {_cell(one.agent)} | {one.runs} | {percent(one.passed / one.runs)} "
        f"| {brief(one.p50_s)} | {brief(one.p95_s)} |"
        for one in found
    ]
    return ["", *head, *rows]


_PUNCTUATION = re.compile(r"\\(?=[!-/:-@\[-`{-~])|[`*<>\[\]]")


def _md(text: str) -> str:
    """A text of others as Markdown that shows just it: no HTML, no link, no picture, no emphasis, one line."""
    return _PUNCTUATION.sub(r"\\\g<0>", printable(text))


def _cell(text: str) -> str:
    return _md(text).replace("|", "\\|")


def _code(text: str) -> str:
    """A code span that no backtick in the text ends."""
    shown = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|")


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
