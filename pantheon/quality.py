"""What the gate may trust: reviewers measured on changes whose worth is known, and on each other. Pure.

Owns the statistics (Wilson intervals, Cohen's kappa, the precision after Rogan and Gladen) and the states of a flow's
gate. It counts what runs recorded; it neither seeds canaries nor holds anything back: who publishes asks for `state`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from math import ceil, cos, exp, log, pi, sin, sqrt
from statistics import NormalDist
from typing import Literal

from pantheon.gate import REVIEWERS
from pantheon.plan import many
from pantheon.records import (
    Bounds,
    CanaryFigures,
    Estimate,
    FlowQuality,
    NightReport,
    ReviewerFigures,
    Run,
    Share,
)

LEVEL = 0.95  # of every interval here
Table = tuple[int, int, int, int]  # both passed, only the first, only the second, neither
Seat = tuple[str, str]  # a reviewer: its node, and its agent as name@version
# The nodes that a run is parked at which the gate had passed: it met another on its stack, or its flow is halted.
STACK, HALTED = "stack", "halted"
_SLACK = 1e-9  # 3 of 15 are 20 %, also in floating point
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


# --- shares and agreement --------------------------------------------------------------------------------------------


def share(hits: int, of: int) -> Share:
    """`hits` of `of` with the 95% score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209). Raises ValueError when the
    counts are none."""
    if not 0 <= hits <= of:
        raise ValueError(f"{hits} of {of} is no share")
    if not of:
        return Share()
    rate, shrink = hits / of, 1 + _Z * _Z / of
    middle = (rate + _Z * _Z / (2 * of)) / shrink
    half = _Z * sqrt(rate * (1 - rate) / of + _Z * _Z / (4 * of * of)) / shrink
    low = 0.0 if not hits else min(rate, max(0.0, middle - half))
    high = 1.0 if hits == of else max(rate, min(1.0, middle + half))
    return Share(hits=hits, of=of, low=low, high=high)


def kappa(table: Table) -> Estimate:
    """Agreement beyond chance, (po - pe) / (1 - pe) (Cohen 1960, Educ. Psychol. Meas. 20:37), with the 95% interval of
    the large-sample standard error (Fleiss, Cohen and Everitt 1969, Psychol. Bull. 72:323), cut at -1 and 1.

    None without ratings, and where it is 0/0: both always gave one and the same word. The interval takes ratings as
    independent; criteria of one change are not quite, so that it is a little narrow, and it has no width at kappa 1.
    """
    n = sum(table)
    rows, columns = _margins(table)
    expected = sum(row * column for row, column in zip(rows, columns, strict=True))  # pe times n squared
    if expected == n * n:
        return Estimate()
    both, first, second, neither = (count / n for count in table)
    pe = expected / (n * n)
    value = (both + neither - pe) / (1 - pe)
    lost = 1 - value
    agree = sum(
        p * (1 - (row + column) / n * lost) ** 2 for p, row, column in zip((both, neither), rows, columns, strict=True)
    )
    disagree = lost**2 * (first * ((columns[0] + rows[1]) / n) ** 2 + second * ((columns[1] + rows[0]) / n) ** 2)
    variance = (agree + disagree - (value - pe * lost) ** 2) / (n * (1 - pe) ** 2)
    half = _Z * sqrt(max(0.0, variance))
    return Estimate(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))


def adjusted(table: Table) -> Estimate:
    """The prevalence-adjusted and bias-adjusted kappa, 2 po - 1 (Byrt, Bishop and Carlin 1993, J. Clin. Epidemiol.
    46:423), with the Wilson interval of po. None without ratings."""
    agreed = share(table[0] + table[3], sum(table))
    if agreed.value is None:
        return Estimate()
    return Estimate(value=2 * agreed.value - 1, low=2 * agreed.low - 1, high=2 * agreed.high - 1)


def _margins(table: Table) -> tuple[tuple[int, int], tuple[int, int]]:
    """How often (the first, the second) said (pass, fail)."""
    both, first, second, neither = table
    return (both + first, second + neither), (both + second, first + neither)


# --- the precision of what was accepted ------------------------------------------------------------------------------

_POINTS = 16  # of each rate known from canaries
_RIGHT = 64  # of the share that is right
_FINE = 400  # where the quantiles of a rate are looked for
_BINS = 1000  # of the precision


def precision(passed: Share, true_pass: Share, false_pass: Share) -> Estimate:
    """The share of right changes among those that both reviewers passed, with a 95% interval.

    `passed`: own items, `true_pass` and `false_pass`: known-good and known-bad ones that got past both, each of those
    that reached both. With a, s and f for the three, pi = (a - f) / (s - f) of the judged changes are right (Rogan and
    Gladen 1978, Am. J. Epidemiol. 107:71), cut at 0 and 1, and pi s / (pi s + (1 - pi) f) of the passed ones. That
    canaries are as hard to judge as the own items is an assumption. None where nothing passed, where one of the shares
    is of none, and where s <= f: such reviewers tell nothing.

    The interval holds the middle 95% of the posterior under uniform priors on pi, s and f, summed up over a fixed grid,
    without chance. Simulated with 20 to 200 items and 10 to 20 canaries of each sort it covers the truth in 95% or more
    of the nights. Worst and best case over the three Wilson intervals would be far wider.
    """
    a, s, f = passed.value, true_pass.value, false_pass.value
    if a is None or s is None or f is None or s <= f or not a:
        return Estimate()
    right = min(1.0, max(0.0, (a - f) / (s - f)))
    value = right * s / (right * s + (1 - right) * f)
    low, high = _middle(_posterior(passed, _spread(true_pass), _spread(false_pass)))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _spread(known: Share) -> list[float]:
    """`_POINTS` equally likely values of a rate: middles of the quantiles of Beta(hits + 1, misses + 1). As the squared
    sine of an angle the rate has room at both ends."""
    angles = [(n + 0.5) * pi / (2 * _FINE) for n in range(_FINE)]
    yes, no = 2 * known.hits + 1, 2 * (known.of - known.hits) + 1
    logs = [yes * log(sin(angle)) + no * log(cos(angle)) for angle in angles]
    top = max(logs)
    sums = list(accumulate(exp(one - top) for one in logs))
    wanted = ((n + 0.5) / _POINTS * sums[-1] for n in range(_POINTS))
    return [sin(angles[bisect_left(sums, below)]) ** 2 for below in wanted]


def _posterior(passed: Share, trues: Sequence[float], falses: Sequence[float]) -> list[float]:
    """The weight of each of `_BINS` equal steps of the precision."""
    rights = [(n + 0.5) / _RIGHT for n in range(_RIGHT)]
    missed = passed.of - passed.hits
    found: list[tuple[float, float]] = []
    for s in trues:
        for f in falses:
            for right in rights:
                good = right * s
                rate = good + (1 - right) * f
                found.append((good / rate, passed.hits * log(rate) + missed * log(1 - rate)))
    top = max(weight for _, weight in found)
    bins = [0.0] * _BINS
    for value, weight in found:
        bins[min(_BINS - 1, int(value * _BINS))] += exp(weight - top)
    return bins


def _middle(bins: Sequence[float]) -> tuple[float, float]:
    """Where the middle 95% of the weight begins and ends, on a scale from 0 to 1."""
    sums = list(accumulate(bins))
    tail = sums[-1] * (1 - LEVEL) / 2
    return bisect_left(sums, tail) / len(bins), (bisect_left(sums, sums[-1] - tail) + 1) / len(bins)


# --- what runs say ---------------------------------------------------------------------------------------------------


def seats_of(run: Run) -> frozenset[Seat]:
    """The reviewers that judged a run."""
    return frozenset((verdict.node, verdict.agent) for verdict in run.verdicts)


def reached(run: Run) -> bool:
    """Whether all reviewers that a gate needs spoke."""
    return len({verdict.node for verdict in run.verdicts}) >= REVIEWERS


def agreed(run: Run) -> bool:
    """Whether they all said pass."""
    return reached(run) and all(verdict.verdict == "pass" for verdict in run.verdicts)


def ratings(run: Run, first: Seat, second: Seat) -> list[tuple[bool, bool]]:
    """What two reviewers said of one run, criterion by criterion as far as both judged them by name, else as a whole:
    (the first passed, the second passed)."""
    said = {(verdict.node, verdict.agent): verdict for verdict in run.verdicts}
    if first not in said or second not in said:
        return []
    ones, others = ({c.name: c.verdict == "pass" for c in said[seat].criteria} for seat in (first, second))
    shared = [(ones[name], others[name]) for name in sorted(ones.keys() & others.keys())]
    return shared or [(said[first].verdict == "pass", said[second].verdict == "pass")]


def table_of(runs: Iterable[Run], first: Seat, second: Seat) -> Table:
    """All ratings of two reviewers."""
    said = [rating for run in runs for rating in ratings(run, first, second)]
    return (
        said.count((True, True)),
        said.count((True, False)),
        said.count((False, True)),
        said.count((False, False)),
    )


def fate(run: Run) -> Literal["by_checks", "by_reviewers", "passed", "broken"]:
    """What became of a canary. A reviewer that said fail refused it, whatever else was against it. Else, unless it
    passed: a check that failed refused it, or the gate where all reviewers said pass. The rest was not judged: a node
    was stopped or failed in another way before all had spoken."""
    if any(verdict.verdict == "fail" for verdict in run.verdicts):
        return "by_reviewers"
    if run.passed:
        return "passed"
    return "by_checks" if reached(run) or any(not check.passed for check in run.checks) else "broken"


def canary_figures(canaries: Sequence[Run]) -> tuple[CanaryFigures, ...]:
    """The fates of canaries by kind: known-bad ones first, each in order of name."""
    kinds = sorted({(run.item.canary.good, run.item.canary.kind) for run in canaries if run.item.canary})
    found = []
    for good, kind in kinds:
        fates = [fate(run) for run in canaries if run.item.canary and _sort(run) == (good, kind)]
        found.append(
            CanaryFigures(
                kind=kind,
                good=good,
                seeded=len(fates),
                by_checks=fates.count("by_checks"),
                by_reviewers=fates.count("by_reviewers"),
                passed=fates.count("passed"),
                broken=fates.count("broken"),
            )
        )
    return tuple(found)


def _sort(run: Run) -> tuple[bool, str]:
    return (run.item.canary.good, run.item.canary.kind) if run.item.canary else (True, "")


def reviewer_figures(seat: Seat, own: Sequence[Run], canaries: Sequence[Run]) -> ReviewerFigures:
    """One reviewer, over the changes that reached it."""

    def passes(runs: Iterable[Run]) -> list[bool]:
        return [v.verdict == "pass" for run in runs for v in run.verdicts if (v.node, v.agent) == seat]

    bad = passes(run for run in canaries if run.item.canary and not run.item.canary.good)
    good = passes(run for run in canaries if run.item.canary and run.item.canary.good)
    mine = passes(own)
    return ReviewerFigures(
        node=seat[0],
        agent=seat[1],
        sensitivity=share(len(bad) - sum(bad), len(bad)),
        specificity=share(sum(good), len(good)),
        passed=share(sum(mine), len(mine)),
    )


def _past_both(runs: Iterable[Run]) -> Share:
    judged = [agreed(run) for run in runs if reached(run)]
    return share(sum(judged), len(judged))


def _through(runs: Iterable[Run]) -> Share:
    """Of the runs that came to a decision, those that the whole gate let through, wherever they went from there."""
    judged = [run for run in runs if run.passed or run.node in (STACK, HALTED) or fate(run) != "broken"]
    return share(sum(run.passed or run.node in (STACK, HALTED) for run in judged), len(judged))


def _precision(own: Sequence[Run], known: Sequence[Run], true_pass: Share, false_pass: Share) -> Estimate:
    """At the reviewers, where what the checks find is out of the way already. Where no known-bad change came so far, of
    the gate as a whole."""
    if false_pass.of:
        return precision(_past_both(own), true_pass, false_pass)
    good = [run for run in known if run.item.canary and run.item.canary.good]
    bad = [run for run in known if run.item.canary and not run.item.canary.good]
    return precision(_through(own), _through(good), _through(bad))


# --- a flow's gate ---------------------------------------------------------------------------------------------------


def measure_all(
    own: Sequence[Run], canaries: Sequence[Run], past: Sequence[NightReport], bounds: Bounds
) -> tuple[FlowQuality, ...]:
    """Every flow of a night, in order of name; `past`: reports of earlier nights, in any order."""
    earlier = sorted(past, key=lambda report: report.night.started_at, reverse=True)
    nights = [(*report.runs, *report.canaries) for report in earlier]
    flows = sorted({run.item.flow for run in (*own, *canaries)})
    return tuple(measure(flow, own, canaries, nights, bounds) for flow in flows)


def measure(
    flow: str, own: Sequence[Run], canaries: Sequence[Run], past: Sequence[Sequence[Run]], bounds: Bounds
) -> FlowQuality:
    """One flow's gate as tonight's runs and earlier nights' show it, `past` newest first.

    Agreement is that on canaries: half of them are wrong, so that kappa is not about how rare wrong changes are. Of own
    items nearly every word is a pass; with them the same two reviewers have a kappa near 0 (Feinstein and Cicchetti
    1990, J. Clin. Epidemiol. 43:543), and a better agent would make it worse.
    Earlier runs count as far as tonight's reviewers judged them: a new version of one starts anew. A change that was
    judged again counts once, with its newest verdicts: the same answer to the same question is no new evidence. Of
    more than two reviewers, `pair` and the table are those of the two that agree least.
    """
    nights = [[run for run in night if run.item.flow == flow] for night in ((*own, *canaries), *past)]
    seats = _seats(nights)
    runs, counted = _pooled(nights, seats)
    mine = [run for run in runs if run.item.canary is None]
    known = [run for run in runs if run.item.canary is not None]
    pair, table = _least(known, seats, bounds)
    false_pass = _past_both(run for run in known if run.item.canary and not run.item.canary.good)
    true_pass = _past_both(run for run in known if run.item.canary and run.item.canary.good)
    figures = FlowQuality(
        flow=flow,
        pair=pair,
        reviewers=tuple(reviewer_figures(seat, mine, known) for seat in seats),
        canaries=canary_figures(known),
        table=table,
        kappa=kappa(table),
        adjusted=adjusted(table),
        false_pass=false_pass,
        true_pass=true_pass,
        precision=_precision(mine, known, true_pass, false_pass),
        nights=counted,
    )
    word = judge(figures, bounds)
    return figures.model_copy(update={"state": word.state, "why": word.why, "opens": word.opens})


def _seats(nights: Sequence[Sequence[Run]]) -> list[Seat]:
    """Tonight's reviewers. Where they did not all come to speak: those of the newest night where they did, unless
    tonight's items name others in their place."""
    named = {seat for run in nights[0] for seat in (*run.item.agents.items(), *run.node_agents.items())}
    replaced = {node for node, _ in named}
    for night in nights:
        seats = {seat for run in night for seat in seats_of(run)}
        seats = {seat for seat in seats if night is nights[0] or seat in named or seat[0] not in replaced}
        if len({node for node, _ in seats}) >= REVIEWERS:
            return sorted(seats)
    return sorted({seat for run in nights[0] for seat in seats_of(run)})


def _pooled(nights: Sequence[Sequence[Run]], seats: Sequence[Seat]) -> tuple[list[Run], int]:
    """The runs to count, and over how many nights: tonight's, and of each earlier one what these reviewers judged."""
    pooled, counted = list(nights[0]), 1
    seen = {_change(run) for run in pooled}
    for night in nights[1:]:
        runs = [run for run in night if seats_of(run) <= set(seats) and _change(run) not in seen]
        if any(run.verdicts for run in runs):
            pooled += runs
            seen |= {_change(run) for run in runs}
            counted += 1
    return pooled, counted


def _change(run: Run) -> tuple[str, str, str]:
    return run.item.id, run.item.blob, run.item.canary.tree if run.item.canary else ""


def _least(runs: Sequence[Run], seats: Sequence[Seat], bounds: Bounds) -> tuple[tuple[str, ...], Table]:
    """The two reviewers that agree least, among those with enough ratings where there are such, and their table."""
    pairs = [(one, other, table_of(runs, one, other)) for one, other in combinations(seats, 2) if one[0] != other[0]]
    if not pairs:
        return tuple(agent for _, agent in seats), (0, 0, 0, 0)
    enough = [pair for pair in pairs if sum(pair[2]) >= bounds.min_ratings]
    one, other, table = (
        min(enough, key=lambda pair: kappa(pair[2]).value or 0.0)
        if enough
        else max(pairs, key=lambda pair: sum(pair[2]))
    )
    return (one[1], other[1]), table


# --- its state -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """The state of a gate, why it is in it, and what would open it where it is halted; in words for people."""

    state: Literal["open", "alert", "halted", "unmeasured"]
    why: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()


def judge(figures: FlowQuality, bounds: Bounds) -> Judgement:
    """What the figures allow. Too few of them never halt: kappa counts from `min_ratings` on, a false-pass rate from
    `min_canaries` on or once even its lower limit is above the bound, so that two reviewers that pass everything are
    found by their first canaries.

    A kappa of 0/0 counts as 0, since two that always say the same word show no agreement beyond chance. It only alerts
    where known-bad changes were seeded and checks refused them before the reviewers saw any: then the gate did hold,
    and the reviewers had nothing to refuse.
    """
    false, seen = figures.false_pass, sum(figures.table)
    over = not _allowed(false.hits, false.of, bounds.max_false_pass)
    passed = f"{_passed(false)}; the bound is {_percent(bounds.max_false_pass)}"
    agreement = (figures.kappa.value or 0.0) + _SLACK if seen >= bounds.min_ratings else 1.0
    held = figures.kappa.value is None and any(one.by_checks for one in figures.canaries if not one.good)
    causes: list[_Cause] = []
    if over and (false.of >= bounds.min_canaries or false.low > bounds.max_false_pass):
        causes.append(_Cause(passed, _refusals(false, bounds.max_false_pass), "gate.max_false_pass", "more"))
    if agreement < bounds.kappa_halt and not held:
        why = f"{_agreement(figures)}; the bound is {bounds.kappa_halt:.2f}"
        causes.append(_Cause(why, _agreements(figures.table, bounds.kappa_halt), "gate.kappa_halt", "less"))
    if causes:
        return Judgement("halted", tuple(cause.why for cause in causes), _opens(causes, figures.pair))
    doubts = []
    if over:
        doubts.append(f"{passed}, and below {bounds.min_canaries} of them it may be chance")
    if agreement < bounds.kappa_alert:
        doubts.append(f"{_agreement(figures)}; below {bounds.kappa_alert:.2f} it is doubtful")
    if doubts:
        return Judgement("alert", tuple(doubts))
    if seen < bounds.min_ratings and all(one.seeded == one.broken for one in figures.canaries):
        return Judgement("unmeasured", (f"no canary was judged; {_too_few(seen, bounds.min_ratings)}",))
    return Judgement("open")


@dataclass(frozen=True)
class _Cause:
    """What halts a gate: `step` is the evidence that would lift it, "" where none can; `key` the setting of its bound,
    which a person may put so as to accept `more` or `less`."""

    why: str
    step: str
    key: str
    accept: str


def _opens(causes: Sequence[_Cause], pair: Sequence[str]) -> tuple[str, ...]:
    """What would open a gate, each by itself; several causes have to go together."""
    steps = [cause.step for cause in causes]
    evidence = [", and ".join(steps)] if all(steps) else []
    keys, accept = " and ".join(cause.key for cause in causes), causes[0].accept if len(causes) == 1 else "that"
    return (
        *evidence,
        f"a new version of {_names(pair)}, which is measured anew",
        f"{keys} in .pantheon/pantheon.toml on the branch, if you accept {accept}",
    )


def _allowed(hits: int, of: int, bound: float) -> bool:
    return hits <= bound * of + _SLACK


def _refusals(false: Share, bound: float) -> str:
    """How many known-bad changes, all refused, bring the rate down to the bound for good; "" where none do."""
    if not bound:
        return ""
    more = max(1, ceil(false.hits / bound - false.of - 1e-6))
    of = false.of + more
    rate = _percent(false.hits / of)
    return f"{many(more, 'more known-bad change')} refused in a row: {false.hits} of {of} ({rate}) would be within it"


def _agreements(table: Table, bound: float) -> str:
    """How many ratings of the word that both gave more rarely bring kappa up to the bound, said by both in a row; ""
    where none do.

    With m more of them kappa is (N + 2 c m) / (D + (2 c + b) m), where c is the count of the other agreed word, b of
    the ratings in dispute, N / D is kappa now."""
    both, first, second, neither = table
    rows, columns = _margins(table)
    common, disputed = max(both, neither), first + second
    gain = 2 * common - bound * (2 * common + disputed)
    if gain <= 0:
        return ""
    above = 2 * (both * neither - first * second)
    below = rows[0] * columns[1] + rows[1] * columns[0]
    more = max(1, ceil((bound * below - above) / gain - 1e-6))
    found = kappa((both, first, second, neither + more) if both >= neither else (both + more, first, second, neither))
    word = "refuse, as of known-bad changes," if both >= neither else "pass, as of known-good changes,"
    return f"{many(more, 'more judgement')} in a row where both {word} would bring kappa to {found.value or 0.0:.2f}"


def _agreement(figures: FlowQuality) -> str:
    seen, found = sum(figures.table), figures.kappa
    if found.value is None or found.low is None or found.high is None:
        word = "pass" if figures.table[0] else "fail"
        return (
            f"both reviewers said {word} in all of {seen} judgements, which shows no agreement beyond chance: "
            "kappa is 0/0 and counts as 0"
        )
    return f"kappa of the reviewers is {found.value:.2f} ({found.low:.2f} to {found.high:.2f}) over {seen} judgements"


def _passed(false: Share) -> str:
    return (
        f"both reviewers passed {false.hits} of {many(false.of, 'known-bad change')} "
        f"({_percent(false.value or 0.0)}, {_percent(false.low)} to {_percent(false.high)})"
    )


def _too_few(seen: int, wanted: int) -> str:
    return f"kappa counts from {wanted} judgements of both reviewers on, and there are {seen}"


def _names(pair: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(label.rpartition("@")[0] or label for label in pair)) or "a reviewer"


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f} %"
