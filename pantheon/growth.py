"""How agents grow: the learning curve of their adapters, when it reaches the aim, and whether the work of today still
lies on it. Pure.

Owns the curve with its intervals, the forecast, the alarm of drift and the words for them. It reads cards and what
nights said of their items; who trains, compares and promotes is elsewhere, and the formula itself is queueing.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cos, exp, expm1, inf, isfinite, log, log1p, pi, sin, sqrt

from pantheon import quality, queueing
from pantheon.curriculum import Tried
from pantheon.lessons import Card
from pantheon.queueing import Learning
from pantheon.records import Estimate, Share

NEEDED = 3  # different numbers of rows, before three parameters can be told
FRESH = 10  # new items that a version must have tried, before they are held against its curve
BEYOND = 20.0  # times the rows so far: further than this nothing is forecast
UNKNOWN = Estimate()
_CUT = 1.920729  # half the 95% quantile of chi-square with one degree of freedom
_ALPHAS = 32  # of the curve's speed, tried from slower to faster than can be told apart
_RAYS = tuple((cos(2 * pi * n / 24), sin(2 * pi * n / 24)) for n in range(24))


@dataclass(frozen=True)
class Point:
    """A version that was measured on held-out items, after so many rows. `adapter`: "" for the base."""

    adapter: str
    version: int
    rows: int
    passed: Share


@dataclass(frozen=True)
class Reach:
    """After how many rows something is reached, with its 95% interval; infinite: not at all, or further than can be
    told."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """A learning curve, the most likely one and those on the edge of what is not much less likely."""

    best: Learning
    edge: tuple[Learning, ...]

    def at(self, rows: float) -> Estimate:
        """The pass rate after so many rows."""
        return self._between(self.best.at(rows), [one.at(rows) for one in self.edge])

    @cached_property
    def top(self) -> Estimate:
        """What it levels off at."""
        return self._between(self.best.pmax, [one.pmax for one in self.edge])

    def reaches(self, aim: float) -> Reach:
        """After how many rows the pass rate is `aim`."""
        best = _reached(self.best, aim)
        others = [_reached(one, aim) for one in self.edge]
        return Reach(best, min([best, *others]), max([best, *others]))

    @staticmethod
    def _between(value: float, others: Sequence[float]) -> Estimate:
        return Estimate(value=value, low=min([value, *others]), high=max([value, *others]))


@dataclass(frozen=True)
class Drift:
    """The work of the version in force on new items, and what was to be expected of it: by its curve, else by its own
    held-out items. `alarm`: it is worse by more than chance."""

    live: Share
    expected: Estimate
    by: str
    alarm: bool


@dataclass(frozen=True)
class Growth:
    """What is known of how an agent learns. `version` is in force, `adapter` its adapter or ""; `aim` the share that
    it is to pass; `per_night`: rows that a night brings, 0 where that is unknown."""

    agent: str
    version: int
    adapter: str
    aim: float
    points: tuple[Point, ...]
    curve: Curve | None = None
    drift: Drift | None = None
    per_night: float = 0.0

    @property
    def now(self) -> Point | None:
        """The measurement of the version in force."""
        return next((point for point in self.points if point.adapter == self.adapter), None)

    @property
    def ready(self) -> Point | None:
        """The newest version, where it reaches the aim."""
        last = self.points[-1] if self.points else None
        return (
            last if last and last.adapter and last.passed.of and last.passed.hits >= self.aim * last.passed.of else None
        )


@dataclass(frozen=True)
class Learned:
    """What agents learned: each with a measured adapter, and the lift of all from the week before to this one."""

    agents: tuple[Growth, ...] = ()
    lift: Estimate = UNKNOWN


NOTHING = Learned()


# --- what was measured -----------------------------------------------------------------------------------------------


def points(cards: Iterable[Card]) -> tuple[Point, ...]:
    """What was measured on held-out items of an agent's versions on the base model of the newest card, by rows. A
    version that was measured more than once counts as on the most items, the last time."""
    known = sorted(cards, key=lambda card: card.created_at)
    known = [card for card in known if card.comparison and card.base_model == known[-1].base_model]
    trained = {card.adapter: card for card in known}
    found: dict[str, Point] = {}

    def add(adapter: str, version: int, rows: int, passed: Share) -> None:
        if passed.of and (adapter not in found or passed.of >= found[adapter].passed.of):
            found[adapter] = Point(adapter, version, rows, passed)

    for card in known:
        if card.comparison is None:
            continue
        if not card.parent:
            add("", card.version - 1, 0, card.comparison.before_pass)
        elif card.parent in trained:
            add(
                card.parent,
                trained[card.parent].version,
                trained[card.parent].dataset.rows,
                card.comparison.before_pass,
            )
        add(card.adapter, card.version, card.dataset.rows, card.comparison.after_pass)
    order = {adapter: number for number, adapter in enumerate(trained)}
    return tuple(sorted(found.values(), key=lambda point: (point.rows, order.get(point.adapter, -1))))


def live(nights: Sequence[Tried], agent: str, version: int, adapter: str) -> Share:
    """How many of the items that it was the first to try passed under a version; of the last nights, oldest first. What
    an earlier version failed at is harder than a new item: it says nothing against this one."""
    seen: set[str] = set()
    passed = tried = 0
    for night in nights:
        teams = {
            team for team, members in night.members.items()
            if not night.teacher and members.get(f"{agent}@{version}") == adapter
        }  # fmt: skip
        for item, _, kind, good in night.rows:
            if item not in seen and night.kinds[kind][2] in teams:
                passed, tried = passed + good, tried + 1
        seen |= {row[0] for row in night.rows}
    return quality.share(passed, tried)


def look(
    agent: str, version: int, adapter: str, cards: Sequence[Card], nights: Sequence[Tried], aim: float
) -> Growth | None:
    """What is known of an agent whose `version` with `adapter` ("" for none) is in force; None where nothing is."""
    found = points(cards)
    if not found:
        return None
    grown = curve(found)
    here = next((point for point in found if point.adapter == adapter), None)
    drift = None
    if here is not None:
        told = grown.at(here.rows) if grown else _estimate(here.passed)
        drift = drifts(live(nights, agent, version, adapter), told, "its curve" if grown else "its held-out items")
    return Growth(agent, version, adapter, aim, found, grown, drift, _per_night(agent, cards, nights))


def _estimate(share: Share) -> Estimate:
    return Estimate(value=share.value, low=share.low, high=share.high)


def _per_night(agent: str, cards: Sequence[Card], nights: Sequence[Tried]) -> float:
    """Rows that a night brings: accepted items of the agent in the last nights, as far as their targets are not held
    out, by the rows of a run in the newest dataset."""
    data = max(cards, key=lambda card: card.created_at).dataset
    counts = []
    for night in nights[-10:]:
        teams = {team for team, members in night.members.items() if any(one.startswith(f"{agent}@") for one in members)}
        rows = [good for _, _, kind, good in night.rows if night.kinds[kind][2] in teams]
        counts += [sum(rows)] if rows else []
    if not counts or not data.runs:
        return 0.0
    return sum(counts) / len(counts) * (1 - data.held_out) * data.rows / data.runs


# --- the curve -------------------------------------------------------------------------------------------------------


def curve(found: Sequence[Point]) -> Curve | None:
    """The most likely curve p(N) = p0 + (pmax - p0)(1 - exp(-alpha N)) through binomial counts, and the edge of the
    region in which the log likelihood is at most 1.92 less: so the least and the greatest value of anything that the
    curve tells are the ends of its 95% profile likelihood interval (Venzon and Moolgavkar, Appl. Stat. 37, 1988). None
    with fewer than three different numbers of rows.

    For a given alpha the likelihood is concave in p0 and pmax; its top is found by least squares with the weights of
    the binomial distribution, again and again, and the edge by bisection along rays from there. All versions try the
    same held-out items, so that the points are not quite independent: the intervals are those of different items.
    """
    used = [(float(point.rows), point.passed.hits, point.passed.of) for point in found if point.passed.of]
    if len({rows for rows, _, _ in used}) < NEEDED:
        return None
    most = max(rows for rows, _, _ in used)
    alphas = [exp(log(0.02) + n * log(50 / 0.02) / (_ALPHAS - 1)) / most for n in range(_ALPHAS)]
    tops = [(_likelihood(used, *shape), shape) for shape in ((*_top(used, alpha), alpha) for alpha in alphas)]
    fit = _fit(used)
    if fit is not None:
        tops.append((_likelihood(used, *fit), fit))
    best, shape = max(tops)
    edge = [
        one
        for height, top in tops
        if height > best - _CUT
        for one in _edge(used, top, best - _CUT)
    ]  # fmt: skip
    p0, gain, alpha = shape
    squares = sum(of * (p0 + gain * -expm1(-alpha * rows) - hits / of) ** 2 for rows, hits, of in used)
    error = sqrt(squares / sum(of for _, _, of in used))
    return Curve(Learning(p0, p0 + gain, alpha, error), tuple(Learning(a, a + g, speed, 0.0) for a, g, speed in edge))


Counts = Sequence[tuple[float, int, int]]  # rows, passed, tried
Shape = tuple[float, float, float]  # p0, pmax - p0, alpha


def _likelihood(used: Counts, p0: float, gain: float, alpha: float) -> float:
    """The binomial log likelihood; minus infinity where a chance of 0 or 1 was not kept."""
    told = 0.0
    for rows, hits, of in used:
        chance = min(1.0, max(0.0, p0 + gain * -expm1(-alpha * rows)))
        if (hits and chance <= 0) or (hits < of and chance >= 1):
            return -inf
        told += (hits * log(chance) if hits else 0.0) + ((of - hits) * log1p(-chance) if hits < of else 0.0)
    return told


def _weighted(used: Counts, shape: Shape | None) -> list[tuple[float, float, float]]:
    """The points with the weights of their binomial errors under a curve; without one, under what was measured."""
    found = []
    for rows, hits, of in used:
        p = shape[0] + shape[1] * -expm1(-shape[2] * rows) if shape else (hits + 1) / (of + 2)
        p = min(1 - 0.25 / of, max(0.25 / of, p))
        found.append((rows, hits / of, of / (p * (1 - p))))
    return found


def _top(used: Counts, alpha: float) -> tuple[float, float]:
    """The most likely p0 and pmax - p0 with this alpha."""
    shape: Shape | None = None
    for _ in range(8):
        _, p0, gain = queueing.levels(_weighted(used, shape), alpha)
        shape = (p0, gain, alpha)
    return (p0, gain)


def _fit(used: Counts) -> Shape | None:
    """The most likely curve, by least squares with the weights of the curve before."""
    shape: Shape | None = None
    for _ in range(4):
        found = queueing.fit_learning(_weighted(used, shape))
        if found is None:
            return None
        shape = (found.p0, found.pmax - found.p0, found.alpha)
    return shape


def _edge(used: Counts, top: Shape, floor: float) -> list[Shape]:
    """Where rays from a top, within 0 <= p0 <= pmax <= 1, come to the floor of the log likelihood; a ray that meets a
    bound before ends there."""
    p0, gain, alpha = top
    wide, across = _axes(used, top)
    found = []
    for x, y in _RAYS:
        a, g = x * wide[0] + y * across[0], x * wide[1] + y * across[1]
        least, most = 0.0, _room(p0, gain, a, g)
        if _likelihood(used, p0 + most * a, gain + most * g, alpha) < floor:
            for _ in range(16):
                middle = (least + most) / 2
                inside = _likelihood(used, p0 + middle * a, gain + middle * g, alpha) >= floor
                least, most = (middle, most) if inside else (least, middle)
            most = least
        found.append((max(0.0, p0 + most * a), max(0.0, gain + most * g), alpha))
    return found


def _room(p0: float, gain: float, a: float, g: float) -> float:
    """How far one can go from (p0, gain) along (a, g) within p0 >= 0, gain >= 0 and p0 + gain <= 1."""
    left = [(p0, -a), (gain, -g), (1 - p0 - gain, a + g)]
    return max(0.0, min([value / speed for value, speed in left if speed > 1e-12], default=0.0))


def _axes(used: Counts, top: Shape) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two directions of (p0, pmax - p0) along which the likelihood falls about as fast: the inverse of the Cholesky
    factor of its curvature, so that the rays leave no side out."""
    rows = [(-expm1(-top[2] * n), weight) for n, _, weight in _weighted(used, top)]
    s0, s1, s2 = (sum(w * x**k for x, w in rows) for k in range(3))
    s2 += 1e-9 * s0
    first = sqrt(s0)
    slope = s1 / first
    second = sqrt(max(1e-9 * s0, s2 - slope * slope))
    return (1 / first, 0.0), (-slope / (first * second), 1 / second)


def _reached(shape: Learning, aim: float) -> float:
    if aim <= shape.p0:
        return 0.0
    if aim >= shape.pmax:
        return inf
    return -log1p(-(aim - shape.p0) / (shape.pmax - shape.p0)) / shape.alpha


# --- drift -----------------------------------------------------------------------------------------------------------


def drifts(found: Share, expected: Estimate, by: str) -> Drift | None:
    """Whether what a version does now is worse than what was to be expected by more than chance: the 95% interval of
    the difference lies below 0, made from both intervals by the square-and-add rule (Newcombe, Stat. Med. 17, 1998;
    for any two intervals: Zou and Donner, Stat. Med. 27, 2008). None with fewer than `FRESH` new items."""
    if found.value is None or found.of < FRESH or expected.value is None or expected.low is None:
        return None
    apart = found.value - expected.value
    high = apart + sqrt((found.high - found.value) ** 2 + (expected.value - expected.low) ** 2)
    return Drift(found, expected, by, high < 0)


# --- words -----------------------------------------------------------------------------------------------------------


def outlook(grown: Growth) -> str:
    """When the agent reaches its aim, as a range, or why that cannot be told; one line."""
    aim, last = f"{100 * grown.aim:.0f} %", grown.points[-1]
    if grown.ready:
        return f"the aim of {aim} is reached"
    if grown.curve is None:
        known = len({point.rows for point in grown.points})
        return f"no curve yet: it takes {NEEDED} measured versions, the base among them, and there {_are(known)}"
    reach, top = grown.curve.reaches(grown.aim), grown.curve.top
    far = BEYOND * last.rows
    if not isfinite(reach.value):
        return f"{aim} not with this curve: it levels off at {_range(top)}"
    if reach.value > far:
        return f"{aim} after more rows than can be told: the curve is at {_range(grown.curve.at(last.rows))} and slow"
    least = max(reach.low, last.rows)
    high = _thousands(reach.high) if reach.high <= far else "more than can be told"
    text = f"{aim} after about {_thousands(max(reach.value, last.rows))} rows ({_thousands(least)} to {high})"
    if grown.per_night <= 0:
        return text
    soon, late = (max(0.0, rows - last.rows) / grown.per_night for rows in (least, reach.high))
    nights = f"{_up(soon)} to {_up(late)} nights" if reach.high <= far else f"{_up(soon)} or more nights"
    return f"{text}: {nights} at {grown.per_night:.0f} rows a night"


def _are(count: int) -> str:
    return f"is {count}" if count == 1 else f"are {count}"


def _up(nights: float) -> int:
    return max(1, int(-(-nights // 1)))


def _range(found: Estimate) -> str:
    value, low, high = (100 * (one or 0.0) for one in (found.value, found.low, found.high))
    return f"{value:.0f} % ({low:.0f} to {high:.0f} %)"


def _thousands(rows: float) -> str:
    """Two significant digits, which is more than such a forecast has."""
    if rows < 100:
        return f"{rows:.0f}"
    digits = 10 ** (len(f"{rows:.0f}") - 2)
    return f"{round(rows / digits) * digits:,.0f}"


def drift_text(found: Drift) -> str:
    """What drifts, with the numbers."""
    live = f"{found.live.hits} of {found.live.of} new items passed, {_range(_estimate(found.live))}"
    return f"{live}, where {found.by} {'has' if found.by == 'its curve' else 'have'} {_range(found.expected)}"


def band(grown: Growth, steps: int = 48) -> tuple[tuple[float, Estimate], ...]:
    """(rows, pass rate) along the curve from no rows to half as many again as there were; nothing without a curve."""
    if grown.curve is None:
        return ()
    most = 1.5 * grown.points[-1].rows
    return tuple((most * n / steps, grown.curve.at(most * n / steps)) for n in range(steps + 1))
