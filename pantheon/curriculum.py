"""How hard items are, as measured: a Rasch model over who tried what, and levels from easy to hard. Pure.

Owns the fit, the levels, which items wait because their level is closed, and the lift from week to week. It reads what
nights reported and orders what plan.py made; it runs nothing and keeps nothing. The statistics of trials that an
adapter was compared in are promotion.py's, the learning curve is growth.py's.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import exp, log, log1p, sqrt
from statistics import fmean

from pantheon import quality
from pantheon.plan import Plan, many, urgency
from pantheon.records import SCHEMA_VERSION, Estimate, Item, Night, NightReport, Outcome, Record, Share

SPREAD = 1.0  # standard deviations of the priors, in logits: of items that break the same rules,
TEAM_SPREAD, FLOW_SPREAD, KIND_SPREAD = 1.0, 2.0, 1.0  # of teams, of flows, of the rules that an item breaks
LEAST = 5  # items that must be measured before a level is closed for failing
PATIENCE = 7  # nights that an item waits at most
WEEK = timedelta(days=7)
_NODES = tuple(-3.0 + 0.6 * n for n in range(11))  # where the normal distribution of difficulties is summed up
_WEIGHTS = tuple(log(exp(-z * z / 2) / sum(exp(-y * y / 2) for y in _NODES)) for z in _NODES)
_FACTORS = tuple(exp(SPREAD * z) for z in _NODES)
_Z = 1.959964


@dataclass(frozen=True)
class Try:
    """One item that a team tried in a night that began at `at`. `kinds`: the rules that its file broke; `team`: who
    tried, as the function of that name has it."""

    item: str
    flow: str
    kinds: tuple[str, ...]
    team: str
    blob: str
    passed: bool
    at: datetime


def team(
    agents: Mapping[str, str], model: str, adapters: Mapping[str, str], templates: Mapping[str, str], teacher: str = ""
) -> str:
    """The name of those who work on an item: the same only for the same agents, in the same versions, with the same
    adapters and prompts, on the same model. `agents`: node -> name@version; the other mappings as Night has them."""
    members = sorted({f"{one} {adapters.get(one, '')} {templates.get(one, '')}" for one in agents.values()})
    return hashlib.sha256("\n".join((model, teacher, *members)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Tried(Record):
    """What a night says of its own items, in few bytes. `members`: team -> its agents -> their adapters, "" for none;
    `kinds`: (flow, rules, team) that occur; `rows`: (item, blob, number of its kind, whether it passed)."""

    schema_version: int = SCHEMA_VERSION
    engine: str
    model: str
    at: datetime
    teacher: str = ""
    members: dict[str, dict[str, str]]
    kinds: tuple[tuple[str, tuple[str, ...], str], ...]
    rows: tuple[tuple[str, str, int, bool], ...]

    @property
    def tries(self) -> tuple[Try, ...]:
        """One by one."""
        return tuple(Try(item, *self.kinds[kind], blob, passed, self.at) for item, blob, kind, passed in self.rows)


def tried(report: NightReport) -> Tried:
    """What a night says of its own items. Parked ones are left out: they passed, and wait for something else."""
    night = report.night
    runs = [run for run in report.runs if run.outcome is not Outcome.PARKED]
    number: dict[tuple[str, tuple[str, ...], str], int] = {}
    members: dict[str, dict[str, str]] = {}
    teams: dict[tuple[str, ...], str] = {}
    rows = []
    for run in runs:
        agents = tuple(run.item.agents.values())
        if agents not in teams:
            teams[agents] = team_of(run.item, night)
            members[teams[agents]] = {label: night.adapters.get(label, "") for label in sorted(agents)}
        kind = (run.item.flow, kinds_of(run.item), teams[agents])
        rows.append((run.item.id, run.item.blob, number.setdefault(kind, len(number)), run.passed))
    return Tried(
        engine=night.engine,
        model=night.model,
        at=night.started_at,
        teacher=night.teacher,
        members=members,
        kinds=tuple(number),
        rows=tuple(rows),
    )


def kinds_of(item: Item) -> tuple[str, ...]:
    """The rules that an item breaks, each once."""
    return tuple(sorted({finding.rule for finding in item.findings}))


def team_of(item: Item, night: Night) -> str:
    """Those who worked on an item in a night."""
    return team(item.agents, night.model, night.adapters, night.templates, night.teacher)


# --- the fit ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Logit:
    """A difficulty or an ability in logits, with its standard error. P(pass) = 1 / (1 + exp(difficulty - ability))."""

    value: float
    error: float


@dataclass(frozen=True)
class Scale:
    """What was measured: item -> difficulty, team -> ability, and the parts that difficulties are expected from."""

    difficulties: Mapping[str, Logit]
    abilities: Mapping[str, Logit]
    _index: Mapping[str, int]
    _values: Sequence[float]
    _covariance: Sequence[Sequence[float]]

    def expected(self, flow: str, kinds: Sequence[str]) -> Logit:
        """The difficulty of an item that nobody tried, from its flow and the rules that it breaks."""
        names = _features(flow, kinds)
        known = [self._index[name] for name in names if name in self._index]
        new = FLOW_SPREAD**2 * (names[0] not in self._index)
        new += KIND_SPREAD**2 * sum(name not in self._index for name in names[1:])
        value = sum(self._values[n] for n in known)
        spread = sum(self._covariance[a][b] for a in known for b in known)
        return Logit(value, sqrt(max(0.0, spread) + new + SPREAD**2))

    def of(self, item: Item) -> Logit:
        """The difficulty of an item, measured where it was tried, else expected."""
        return self.difficulties.get(item.id) or self.expected(item.flow, kinds_of(item))

    def apart(self, one: str, other: str) -> Logit | None:
        """How much abler one team is than another; None where one of them was never seen."""
        if one not in self.abilities or other not in self.abilities:
            return None
        a, b, cov = self._index[f"team {one}"], self._index[f"team {other}"], self._covariance
        return Logit(self._values[a] - self._values[b], sqrt(max(0.0, cov[a][a] + cov[b][b] - 2 * cov[a][b])))


def _features(flow: str, kinds: Sequence[str]) -> list[str]:
    return [f"flow {flow}", *(f"kind {flow} {kind}" for kind in kinds)]


@dataclass(frozen=True)
class _Group:
    """Items that cannot be told apart: they break the same rules and did the same under the same teams."""

    features: tuple[int, ...]
    teams: tuple[tuple[int, int, int], ...]  # (team, passed, tried)
    items: tuple[str, ...]


def measure(found: Iterable[Try]) -> Scale:
    """Difficulties and abilities from who passed what.

    The model of Rasch (Probabilistic models for some intelligence and attainment tests, 1960): the log odds of passing
    are the team's ability less the item's difficulty. Difficulties are normal around the sum of their flow's and their
    rules' parts (the linear logistic test model, Fischer, Acta Psychol. 37, 1973, with a residual), abilities around 0,
    so that what was tried once stays finite. The few parts and abilities maximise the marginal likelihood, in which the
    residuals are summed up over a fixed grid (Bock and Aitkin, Psychometrika 46, 1981), times their normal priors, by
    Newton's method; an item's difficulty is the mean of its posterior. Items that cannot be told apart are computed
    once. Deterministic, in any order of `found`.
    """
    groups, index, prior = _grouped(found)
    values = [0.0] * len(index)
    best = _objective(groups, values, prior)
    covariance: list[list[float]] = []
    for _ in range(40):
        slope, whole, complete = _derivatives(groups, values, prior)
        covariance = _inverse(whole) or _inverse(complete) or []
        step = [sum(a * b for a, b in zip(row, slope, strict=True)) for row in covariance]
        if max(map(abs, step), default=0.0) < 1e-6:
            break
        for _ in range(30):
            tried = [value + part for value, part in zip(values, step, strict=True)]
            reached = _objective(groups, tried, prior)
            if reached >= best - 1e-9:
                values, best = tried, reached
                break
            step = [part / 2 for part in step]
        else:
            break
    difficulties: dict[str, Logit] = {}
    for group in groups:
        middle = sum(values[n] for n in group.features)
        weights = _posterior(group, values)[0]
        mean = sum(w * z for w, z in zip(weights, _NODES, strict=True))
        own = SPREAD**2 * (sum(w * z * z for w, z in zip(weights, _NODES, strict=True)) - mean * mean)
        parts = sum(covariance[a][b] for a in group.features for b in group.features)
        told = Logit(middle + SPREAD * mean, sqrt(max(0.0, own) + max(0.0, parts)))
        difficulties.update(dict.fromkeys(group.items, told))
    abilities = {
        name.removeprefix("team "): Logit(values[n], sqrt(max(0.0, covariance[n][n])))
        for name, n in index.items()
        if name.startswith("team ")
    }
    return Scale(difficulties, abilities, index, values, covariance)


def _grouped(found: Iterable[Try]) -> tuple[list[_Group], dict[str, int], list[float]]:
    """The groups, what each parameter stands for, and the precisions of their priors. Of an item that changed the
    last state counts: what it breaks now."""
    told: dict[str, Try] = {}
    history: defaultdict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)
    for one in _distinct(found):
        history[one.item][one.team, one.passed] += 1
        if one.item not in told or one.at >= told[one.item].at:
            told[one.item] = one
    names = sorted(
        {f"team {name}" for words in history.values() for name, _ in words}
        | {name for one in told.values() for name in _features(one.flow, one.kinds)}
    )
    index = {name: number for number, name in enumerate(names)}
    spreads = {"team": TEAM_SPREAD, "flow": FLOW_SPREAD, "kind": KIND_SPREAD}
    same: defaultdict[tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]], list[str]] = defaultdict(list)
    for item in sorted(history):
        words = history[item]
        teams = tuple(
            (index[f"team {name}"], words[name, True], words[name, True] + words[name, False])
            for name in sorted({name for name, _ in words})
        )
        features = tuple(index[name] for name in _features(told[item].flow, told[item].kinds))
        same[features, teams].append(item)
    groups = [_Group(features, teams, tuple(items)) for (features, teams), items in same.items()]
    return groups, index, [spreads[name.partition(" ")[0]] ** -2 for name in names]


def _distinct(found: Iterable[Try]) -> list[Try]:
    """The last try of each team on each state of a file: answers are those of temperature 0, so that the same team
    on the same file says nothing new."""
    last: dict[tuple[str, str, str], Try] = {}
    for one in found:
        key = (one.item, one.blob, one.team)
        if key not in last or (one.at, one.passed) >= (last[key].at, last[key].passed):
            last[key] = one
    return sorted(last.values(), key=lambda one: (one.item, one.at, one.blob, one.team))


def _posterior(group: _Group, values: Sequence[float]) -> tuple[list[float], list[list[float]], float]:
    """Where the residual of an item of the group lies: the weight of each node, P(pass) of each team at each node, and
    the log of the marginal likelihood."""
    middle = sum(values[n] for n in group.features)
    logs = list(_WEIGHTS)
    chances: list[list[float]] = []
    for t, hits, tried in group.teams:
        apart = max(-40.0, min(40.0, middle - values[t]))
        odds = exp(apart)
        against = [odds * factor for factor in _FACTORS]  # exp(difficulty - ability)
        chances.append([1 / (1 + one) for one in against])
        missed = tried - hits
        logs = [
            told - tried * log1p(one) + missed * (apart + SPREAD * z)
            for told, one, z in zip(logs, against, _NODES, strict=True)
        ]
    top = max(logs)
    weights = [exp(one - top) for one in logs]
    total = sum(weights)
    return [one / total for one in weights], chances, top + log(total)


def _objective(groups: Sequence[_Group], values: Sequence[float], prior: Sequence[float]) -> float:
    told = sum(len(group.items) * _posterior(group, values)[2] for group in groups)
    return told - sum(p * value * value for p, value in zip(prior, values, strict=True)) / 2


Matrix = list[list[float]]


def _derivatives(
    groups: Sequence[_Group], values: Sequence[float], prior: Sequence[float]
) -> tuple[list[float], Matrix, Matrix]:
    """The slope of the objective, minus its curvature, and the same if the residuals were known (which is never less
    than positive definite)."""
    size = len(values)
    slope = [-p * value for p, value in zip(prior, values, strict=True)]
    whole = [[prior[n] if n == m else 0.0 for m in range(size)] for n in range(size)]
    complete = [list(row) for row in whole]
    for group in groups:
        count, weights, chances = len(group.items), *_posterior(group, values)[:2]
        scores = [
            [hits - tried * chance for chance in row]
            for (_, hits, tried), row in zip(group.teams, chances, strict=True)
        ]
        weighted = [[w * one for w, one in zip(weights, row, strict=True)] for row in scores]
        means = [sum(row) for row in weighted]
        inside = [
            tried * sum(w * chance * (1 - chance) for w, chance in zip(weights, row, strict=True))
            for (_, _, tried), row in zip(group.teams, chances, strict=True)
        ]
        shared = [0.0] * len(means)  # the covariance of each team's score with that of all of them
        for k, (t, _, _) in enumerate(group.teams):
            for j, (other, _, _) in enumerate(group.teams[: k + 1]):
                both = sum(a * b for a, b in zip(weighted[k], scores[j], strict=True)) - means[k] * means[j]
                shared[k] += both
                whole[t][other] -= count * both
                if j != k:
                    shared[j] += both
                    whole[other][t] -= count * both
        for k, (t, _, _) in enumerate(group.teams):
            slope[t] += count * means[k]
            complete[t][t] += count * inside[k]
            whole[t][t] += count * inside[k]
            for f in group.features:
                for matrix, part in ((complete, inside[k]), (whole, inside[k] - shared[k])):
                    matrix[t][f] -= count * part
                    matrix[f][t] -= count * part
        for f in group.features:
            slope[f] -= count * sum(means)
            for g in group.features:
                complete[f][g] += count * sum(inside)
                whole[f][g] += count * (sum(inside) - sum(shared))
    return slope, whole, complete


def _inverse(matrix: Matrix) -> Matrix | None:
    """The inverse of a symmetric matrix by its Cholesky factor; None where it is not positive definite."""
    size = len(matrix)
    lower: Matrix = [[0.0] * size for _ in range(size)]
    for n in range(size):
        row = lower[n]
        for m in range(n + 1):
            other = lower[m]
            rest = matrix[n][m] - sum(a * b for a, b in zip(row[:m], other[:m], strict=True))
            if n == m:
                if rest <= 1e-12:
                    return None
                row[n] = sqrt(rest)
            else:
                row[m] = rest / other[m]
    turned: Matrix = []  # the columns of the factor's inverse
    for k in range(size):
        column = [0.0] * size
        for n in range(k, size):
            rest = (1.0 if n == k else 0.0) - sum(a * b for a, b in zip(lower[n][k:n], column[k:n], strict=True))
            column[n] = rest / lower[n][n]
        turned.append(column)
    found: Matrix = [[0.0] * size for _ in range(size)]
    for n in range(size):
        for m in range(n + 1):
            found[n][m] = found[m][n] = sum(a * b for a, b in zip(turned[n][n:], turned[m][n:], strict=True))
    return found


# --- levels ----------------------------------------------------------------------------------------------------------


def levels(found: Iterable[Try], count: int) -> dict[str, int]:
    """Item -> its level, from 0, the easiest, within its flow; of all items that were tried."""
    known = list(found)
    scale = measure(known)
    by_flow: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for one in known:
        by_flow[one.flow][one.item] = scale.difficulties[one.item].value
    return {item: level for items in by_flow.values() for item, level in leveled(items, count).items()}


def leveled(difficulties: Mapping[str, float], count: int) -> dict[str, int]:
    """Item -> its level: `count` parts of equal size by difficulty. Equal difficulties are of one level, the lowest
    that one of them would be in."""
    rounded = {item: round(value, 6) for item, value in difficulties.items()}
    values = sorted(rounded.values())
    return {item: bisect_left(values, value) * count // len(values) for item, value in rounded.items()}


@dataclass(frozen=True)
class Level:
    """A level of a flow: how those who are in force did on its items, and whether it is open."""

    flow: str
    number: int
    passed: Share
    open: bool


@dataclass(frozen=True)
class Staged:
    """A plan in its order, and the levels that it was ordered by."""

    plan: Plan
    levels: tuple[Level, ...] = ()


def stage(planned: Plan, found: Sequence[Try], now: Mapping[str, str], count: int, least: float) -> Staged:
    """The plan with its items from easy to hard within each priority, without those that wait.

    An item waits when its level is closed and its file, as it is, was tried without success by the very team that would
    try it now; but no longer than `PATIENCE` nights, never when a person asked for another try, and not when there is
    nothing else to do. `now`: item -> the team that would try it tonight (others of its flow count by it too), `count`
    and `least` as in the settings of training. A level is open when the one below is, and of that one's items at least
    the share `least` passed the last time that a team of tonight tried them; or fewer than `LEAST` were tried by it.
    """
    if not found or not planned.items:
        return Staged(planned)
    scale = measure(found)
    flows: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for one in found:
        flows[one.flow][one.item] = scale.difficulties[one.item].value
    for item in planned.items:
        flows[item.flow][item.id] = scale.of(item).value
    of = {item: level for items in flows.values() for item, level in leveled(items, count).items()}
    told = _levels(found, of, {item.flow for item in planned.items}, set(now.values()), count, least)
    tried: defaultdict[str, list[Try]] = defaultdict(list)
    for one in sorted(found, key=lambda one: one.at):
        tried[one.item].append(one)
    nights = {one.at for one in found}
    shut = {(level.flow, level.number) for level in told if not level.open}
    waits = {
        item.id
        for item in planned.items
        if (item.flow, of[item.id]) in shut
        and not item.hint
        and _in_vain(item, tried[item.id], now.get(item.id, ""))
        and sum(night > tried[item.id][-1].at for night in nights) < PATIENCE
    }
    if len(waits) == len(planned.items):
        waits = set()
    place = {task.uuid: (urgency(task)[0], number) for number, task in enumerate(sorted(planned.tasks, key=urgency))}
    rank = {item.id: number for number, item in enumerate(planned.items)}

    def order(item: Item) -> tuple[str, int, int, float, int]:
        urgent, task = place.get(item.task, ("", 0))
        return urgent, of[item.id], task, round(scale.of(item).value, 6), rank[item.id]

    items = tuple(sorted((item for item in planned.items if item.id not in waits), key=order))
    notes = tuple(_waiting(planned.items, waits, of, told, count, least))
    return Staged(Plan(items, planned.tasks, (*planned.notes, *notes)), told)


def _levels(
    found: Sequence[Try], of: Mapping[str, int], flows: Iterable[str], teams: set[str], count: int, least: float
) -> tuple[Level, ...]:
    last: dict[str, Try] = {}
    for one in found:
        if one.team in teams and (one.item not in last or one.at >= last[one.item].at):
            last[one.item] = one
    told: list[Level] = []
    for flow in sorted(flows):
        is_open = True
        for number in range(count):
            words = [one.passed for item, one in last.items() if one.flow == flow and of[item] == number]
            passed = quality.share(sum(words), len(words))
            told.append(Level(flow, number, passed, is_open))
            is_open = is_open and (passed.of < LEAST or passed.hits >= least * passed.of)
    return tuple(told)


def _in_vain(item: Item, tried: Sequence[Try], now: str) -> bool:
    """Whether the team tried this very file, and never with success."""
    mine = [one.passed for one in tried if one.blob == item.blob and one.team == now]
    return bool(mine) and not any(mine)


def _waiting(
    items: Sequence[Item], waits: set[str], of: Mapping[str, int], told: Sequence[Level], count: int, least: float
) -> Iterable[str]:
    """A note for every closed level with items that wait."""
    for level in told:
        held = sum(item.id in waits and item.flow == level.flow and of[item.id] == level.number for item in items)
        if not held:
            continue
        below = next(
            one for one in reversed(told) if one.flow == level.flow and one.number < level.number and _fails(one, least)
        )
        wait = f"{many(held, 'item')} of level {level.number + 1} of {count} {'waits' if held == 1 else 'wait'}"
        share = f"{below.passed.hits} of {below.passed.of}"
        yield (
            f"{level.flow}: {wait}: the versions in force tried them in vain, and of level {below.number + 1} "
            f"{share} passed. It opens from {100 * least:.0f} % on; a new version of an agent or a changed file is "
            f"tried at once, everything after {PATIENCE} nights or when nothing else is to do"
        )


def _fails(level: Level, least: float) -> bool:
    return level.passed.of >= LEAST and level.passed.hits < least * level.passed.of


# --- the lift --------------------------------------------------------------------------------------------------------


def lift(found: Iterable[Try], now: datetime) -> Estimate:
    """How many more of equally hard items pass in the week before `now` than in the week before that, as a share, with
    its 95% interval: the difference of the two weeks' abilities, where the chance to pass is that of an item of mean
    difficulty. Nothing is known without items in both weeks."""
    weeks = ("this", "last")
    known = [one for one in found if one.at <= now]
    if not {(now - one.at) // WEEK for one in known}.issuperset(range(len(weeks))):
        return Estimate()
    named = [
        replace(one, team=weeks[back] if (back := (now - one.at) // WEEK) < len(weeks) else "before") for one in known
    ]
    scale = measure(named)
    apart = scale.apart("this", "last")
    if apart is None:
        return Estimate()
    middle = fmean(scale.difficulties[item].value for item in sorted({o.item for o in named if o.team in weeks}))
    before = scale.abilities["last"].value - middle

    def gained(by: float) -> float:
        return _chance(before + by) - _chance(before)

    wide = _Z * apart.error
    return Estimate(value=gained(apart.value), low=gained(apart.value - wide), high=gained(apart.value + wide))


def _chance(logit: float) -> float:
    return 1 / (1 + exp(-logit)) if logit > -700 else 0.0
