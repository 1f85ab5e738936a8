"""The morning report as one HTML page that asks nothing of anybody: no script, no network, its style within. Pure.

Says what the page shows and how much of it; figures.py has the charts and tables, report.py the words. Every
text from a record passes `printable` and the escaping of the templates, whose text is an argument. What would make the
page too large is cut, diffs first, with the command that shows the whole.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup, escape

from pantheon import figures, report, tally
from pantheon.plan import many, printable
from pantheon.records import FlowQuality, NightReport, Outcome, PullRequest, PullState, Run
from pantheon.report import ItemView, Morning, PullView, percent, span

NOTHING = Markup()
PAGE, STYLE = "report.html.j2", "style.css"
Controls = Callable[[PullView, ItemView | None], Markup]

DETAILED = 300  # items that are shown with their diff and evidence; of the others only the name
NAMED = 2000
DIFF_BYTES = 1_300_000  # of HTML, all diffs together
ONE_DIFF = 24_000
LINE = 400  # characters of one line of a diff
OPEN_LINES = 240  # diffs stand open when they have together no more lines
BINS, BIN_RUNS, NOTES = 20, 12, 20
TEXT = 300  # characters of a reason


@dataclass(frozen=True)
class Diff:
    """What is shown of a patch: (kind, text) per line; `cut` says what was left out, `command` shows the whole."""

    lines: tuple[tuple[str, str], ...]
    added: int
    deleted: int
    cut: str
    command: str


@dataclass(frozen=True)
class Card:
    """One thing that needs a person."""

    title: str
    kind: str
    tag: str = ""
    tone: str = "plain"
    lines: tuple[str, ...] = ()
    lead: str = ""
    points: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Pull:
    """A PR as the page shows it: words, the lines that its live items change, and its items (`entries`)."""

    view: PullView
    anchor: str
    is_open: bool
    word: str
    tone: str
    words: str
    added: int
    deleted: int
    commands: tuple[str, ...]
    entries: tuple[dict[str, object], ...]
    unfolded: bool
    rest: str

    @property
    def pull(self) -> PullRequest:
        return self.view.pull


def style(templates: Mapping[str, str]) -> str:
    """The stylesheet, for who serves it as a file of its own."""
    return templates[STYLE]


def html(
    morning: Morning,
    templates: Mapping[str, str],
    *,
    controls: Controls | None = None,
    head: Markup = NOTHING,
    top: Markup = NOTHING,
    stylesheet: str = "",
) -> str:
    """The whole page. `templates`: file name -> text of `templates/report/`. `controls` gives the markup that stands
    with a PR (its item None) and with each item; `head` goes to the end of the page's head, `top` before what needs
    a person. `stylesheet`: an address to fetch the style from; without one the style and a policy that allows only it
    stand in the page."""
    environment = Environment(
        loader=DictLoader(dict(templates)),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clip"] = clip
    environment.filters["capital"] = _capital
    found, text = morning.current, style(templates)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    bins, pulls, nodes = report.failures(found.runs), _pulls(morning.pulls), tally.nodes(found.runs)
    asking, quiet = report.left_out(found)
    shown = {
        "night": found.night,
        "report": found,
        "date": f"{found.night.started_at.day} {found.night.started_at:%B %Y}",
        "lede": _lede(found),
        "stylesheet": stylesheet,
        "style": Markup(text),  # ours
        "policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        "head": head,
        "top": top,
        "source": f"git pantheon report {report.word(found.night.id)} --json",
        "controls": controls or (lambda pull, item: NOTHING),
        "many": many,
        "run_command": report.run_command,
        "cards": [*(_pull_card(one, found.night.id) for one in pulls if one.is_open), *_gate_cards(found)],
        "bins": [_bin(node, why, runs) for node, why, runs in bins[:BINS]],
        "more_bins": max(0, len(bins) - BINS),
        "failed": sum(len(runs) for _, _, runs in bins),
        "notes": {"shown": [clip(note, TEXT) for note in asking[:NOTES]], "count": len(asking), "quiet": len(quiet)},
        "worth": [(figure, figures.shape(morning, figure.name)) for figure in _worth(morning)],
        "pace": [(figure, figures.shape(morning, figure.name)) for figure in report.pace(found)],
        "gates": [_gate(one, number) for number, one in enumerate(found.quality)],
        "pulls": pulls,
        "happened": figures.night_charts(found, nodes),
        "tables": figures.night_tables(found, nodes),
        "trends": figures.trend_charts(morning),
    }
    return environment.get_template(PAGE).render(shown)


def _worth(morning: Morning) -> list[report.Figure]:
    return [*report.worth(morning.current), *report.learning(morning.learned)]


def _final(value: object) -> object:
    """What every expression of a template goes through, before it is escaped."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def clip(text: str, most: int) -> str:
    """The text, cut where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def anchor(pull: PullView, item: ItemView | None = None) -> str:
    """The stable id of a PR or of one of its items: `pr-3`, `pr-3-item-0f3a`."""
    name = f"pr-{pull.pull.id}"
    return name if item is None else f"{name}-item-{re.sub('[^A-Za-z0-9_-]', '', item.item.item or item.item.run)[:64]}"


def _lede(found: NightReport) -> str:
    tally = report.counts(found)
    ran = len(found.runs)
    if not ran:
        return f"No item ran; {report.ended_text(found)} after {span(found.wall_s)}."
    rest = [f"{tally[Outcome.FAILED]} failed"] if tally[Outcome.FAILED] else []
    rest += [f"{tally[Outcome.PARKED]} wait for another night"] if tally[Outcome.PARKED] else []
    rest += [f"{found.left} did not start"] if found.left else []
    tail = f"; {' and '.join([', '.join(rest[:-1]), rest[-1]] if len(rest) > 1 else rest)}" if rest else ""
    ended = _sentence(f"{report.ended_text(found)} after {span(found.wall_s)}")
    return f"{tally[Outcome.ACCEPTED]} of {ran} items passed the gate{tail}. {ended}"


# --- what needs a person ---------------------------------------------------------------------------------------------


def _pull_card(shown: Pull, night: str) -> Card:
    pull = shown.pull
    older = "" if pull.night == night else f" From night {pull.night}."
    lines = (f"{many(len(pull.live), 'item')} for {pull.onto}: +{shown.added} -{shown.deleted} lines.{older}",)
    return Card(
        title=f"PR {pull.id}: {clip(pull.title, 200)}",
        kind="offer",
        lines=tuple(clip(line, TEXT) for line in pull.text.splitlines()) if pull.promotes else lines,
        commands=(f"git pantheon accept {pull.id}", f"git pantheon reject {pull.id} -m WHY"),
        anchor=shown.anchor,
    )


def _gate_cards(found: NightReport) -> Iterable[Card]:
    for gate in report.troubled(found):
        halted = gate.state == "halted"
        yield Card(
            title=f"The gate of {clip(gate.flow, 60)}",
            kind=gate.state,
            tag=gate.state,
            tone="bad" if halted else "warn",
            lines=tuple(_sentence(clip(why, TEXT)) for why in report.gate_lines(found, gate)),
            lead="It opens with any of these:" if gate.opens else "",
            points=tuple(clip(what, TEXT) for what in gate.opens),
        )


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _sentence(text: str) -> str:
    return f"{_capital(text)}{'' if text.endswith('.') else '.'}"


def _bin(node: str, why: str, runs: Sequence[Run]) -> dict[str, object]:
    commands = dict.fromkeys((report.replay_command(runs[0]), report.run_command(runs[0])))
    return {
        "node": clip(node, 80),
        "why": clip(why, TEXT),
        "runs": runs,
        "shown": runs[:BIN_RUNS],
        "commands": tuple(commands),
    }


# --- the gates -------------------------------------------------------------------------------------------------------


def _gate(gate: FlowQuality, number: int) -> dict[str, object]:
    tones = {"open": "good", "alert": "warn", "halted": "bad", "unmeasured": "plain"}
    nights = f" Measured over {many(gate.nights, 'night')}." if gate.nights > 1 else ""
    why = "" if gate.state in ("halted", "alert") or not gate.why else f" {_sentence(gate.why[0])}"
    return {
        "flow": clip(gate.flow, 60),
        "state": gate.state,
        "tone": tones[gate.state],
        "words": f"{_sentence(report.state_text(gate))}{why}{nights}",
        "charts": figures.gate_charts(gate, f"gate{number}"),
        "canaries": figures.canary_table(gate, f"gate{number}-canaries"),
    }


# --- pull requests ---------------------------------------------------------------------------------------------------


def _pulls(views: Sequence[PullView]) -> list[Pull]:
    total = sum(len(view.items) for view in views)
    each = min(ONE_DIFF, DIFF_BYTES // max(1, min(total, DETAILED)))
    few = sum(item.patch.count("\n") for view in views for item in view.items) <= OPEN_LINES
    left, found = DETAILED, []
    for view in views:
        found.append(_pull(view, left, each, few))
        left = max(0, left - len(view.items))
    return found


def _pull(view: PullView, room: int, each: int, few: bool) -> Pull:
    pull = view.pull
    diffs = [cut_patch(item.patch, each if n < room else 0, item.item.commit) for n, item in enumerate(view.items)]
    kept = [diff for diff, item in zip(diffs, view.items, strict=True) if not item.item.dropped]
    is_open = pull.state is PullState.OPEN
    status = " The task is done with it." if any(not item.run and not item.dropped for item in pull.items) else ""
    hidden = max(0, len(view.items) - room)
    words = f"{many(len(pull.live), 'item')} on {pull.branch} for {pull.onto}, night {pull.night}.{status}"
    if pull.promotes:
        words = f"On {pull.branch} for {pull.onto}. {clip(' '.join(map(_sentence, pull.text.splitlines())), TEXT)}"
    if view.look.said:
        words = f"{words} {clip(_sentence(view.look.said), TEXT)}"
    return Pull(
        view=view,
        anchor=anchor(view),
        is_open=is_open,
        word=view.look.word or pull.word,
        tone={"open": "good", "rejected": "bad", **dict.fromkeys(_UNUSABLE, "bad")}.get(
            view.look.word or pull.word, "plain"
        ),
        words=words,
        added=sum(diff.added for diff in kept),
        deleted=sum(diff.deleted for diff in kept),
        commands=_pull_commands(view) if is_open else (),
        entries=tuple(_item(view, item, diff, is_open) for item, diff in zip(view.items[:room], diffs, strict=False)),
        unfolded=few,
        rest=f"And {many(hidden, 'more item')}:" if hidden else "",
    )


_UNUSABLE = ("conflict", "yours", "branch deleted")  # looks of a PR that cannot be accepted as it is
_TONES = {"open": "good", "rejected": "bad", **dict.fromkeys(_UNUSABLE, "bad")}


def _pull_commands(view: PullView) -> tuple[str, ...]:
    number = view.pull.id
    if view.look.hint and view.look.word in (*_UNUSABLE, "merged"):
        return (f"git pantheon pr diff {number}", view.look.hint)
    return (f"git pantheon pr diff {number}", f"git pantheon accept {number}", f"git pantheon reject {number} -m WHY")


def _item(view: PullView, item: ItemView, diff: Diff, is_open: bool) -> dict[str, object]:
    live = is_open and not item.item.dropped
    name = report.word(item.item.item[:12] or item.item.run[:12])
    return {
        "view": item,
        "anchor": anchor(view, item),
        "diff": diff,
        "words": _evidence_words(item.run),
        "evidence": {"title": f"Evidence, run {item.run.id[:12]}", "rows": _evidence(item.run)},
        "commands": (
            (
                f"git pantheon accept {view.pull.id} --drop {name}",
                f"git pantheon reject {view.pull.id} {name} -m WHY",
                f"git pantheon retry {view.pull.id} {name} -m NOTE",
                report.run_command(item.run),
            )
            if live
            else (report.run_command(item.run),)
        ),
    }


def _evidence_words(run: Run) -> str:
    """One line: how many checks and reviewers passed, and how sure the least sure was."""
    parts = []
    if run.checks:
        parts.append(f"{sum(check.passed for check in run.checks)} of {many(len(run.checks), 'check')} passed")
    if run.verdicts:
        said = sum(verdict.verdict == "pass" for verdict in run.verdicts)
        sure = [verdict.confidence for verdict in run.verdicts if verdict.confidence is not None]
        least = f", the least sure {percent(min(sure))}" if sure else ""
        parts.append(f"{said} of {many(len(run.verdicts), 'reviewer')} said pass{least}")
    return " · ".join(parts) if parts else "no evidence was recorded"


def _evidence(run: Run) -> list[tuple[str, str, str, str, str]]:
    """(criterion, by whom, verdict, how sure, what was said): checks, those that passed without a word in one row, then
    each criterion as each reviewer saw it."""
    rows, silent = [], []
    for check in run.checks[:20]:
        words = _check_words(check.detail, check.tests_broken, check.tests_fixed)
        if check.passed and not words:
            silent.append(clip(check.name, 80))
        else:
            rows.append((clip(check.name, 80), "check", "pass" if check.passed else "fail", "", clip(words, TEXT)))
    if silent:
        rows.insert(0, (", ".join(silent), "check" if len(silent) == 1 else "checks", "pass", "", ""))
    said = [
        (criterion.name, verdict.agent, criterion.verdict, criterion.confidence, criterion.reason)
        for verdict in run.verdicts
        for criterion in verdict.criteria
    ]
    said += [("as a whole", v.agent, v.verdict, v.confidence, v.reason) for v in run.verdicts if not v.criteria]
    order = {name: place for place, name in reversed(list(enumerate(name for name, *_ in said)))}
    for name, agent, verdict, sure, why in sorted(said, key=lambda row: order[row[0]])[:40]:
        rows.append(
            (
                clip(name, 80),
                clip(agent, 80),
                verdict,
                "" if sure is None else f"sure to {percent(sure)}",
                clip(why, TEXT),
            )
        )
    return rows


def _check_words(detail: str, broken: int, fixed: int) -> str:
    parts = [detail] if detail else []
    parts += [f"{many(broken, 'test')} broken"] if broken else []
    parts += [f"{many(fixed, 'test')} fixed"] if fixed else []
    return ", ".join(parts)


# --- diffs -----------------------------------------------------------------------------------------------------------


def cut_patch(patch: str, most: int, commit: str) -> Diff:
    """What a page shows of a patch, at most about `most` bytes of HTML: hunks, and of the headers only what says more
    than the item's path does. The whole is counted."""
    lines: list[tuple[str, str]] = []
    size, left_out, body, full = 0, 0, False, False
    counted = {"add": 0, "del": 0}
    for line in patch.split("\n"):
        if line.startswith("diff --git "):
            body = False
            continue
        kind = _kind(line, body)
        body = body or line.startswith("@@")
        if kind in counted:
            counted[kind] += 1
        if kind and not full:
            text = clip(line.replace("\t", "    "), LINE)
            size += len(str(escape(printable(text))).encode()) + 26
            full = size > most
            if not full:
                lines.append((kind, text))
        left_out += bool(kind and full)
    if not patch:
        cut = "No diff to show; the whole:"
    else:
        cut = f"{many(left_out, 'line')} left out here; the whole:" if left_out else ""
    return Diff(tuple(lines), counted["add"], counted["del"], cut, f"git show {report.word(commit[:12])}")


_TELLING = ("rename ", "new file", "deleted file", "old mode", "new mode", "Binary ", "GIT binary")


def _kind(line: str, body: bool) -> str:
    """add, del, at (a hunk's head, a header that matters), same; "" for what is not shown."""
    if line.startswith("@@"):
        return "at"
    if not body:
        return "at" if line.startswith(_TELLING) else ""
    return {"+": "add", "-": "del", " ": "same", "\\": "at"}.get(line[:1], "")
