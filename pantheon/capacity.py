"""What the next night can carry: its forecast as a range, how wrong that was, and what another engine would change.

Pure. The formulas are in queueing.py, what earlier nights showed in measured.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from pantheon import queueing
from pantheon.measured import TINY, FlowFigures, Measured, NightFigures, weighted
from pantheon.records import Estimate, Forecast, NightReport, Outcome, Record, Share

GRACE_S = 30.0  # how long running items may finish once the budget is spent, as in night.py
BUSY = 0.75  # a place whose slots are in use for more of the time is what the night waits for
COARSE = 8.0  # a mean batch below this leaves most of the engine's arithmetic unused
SWING, SWING_NIGHTS = 0.15, 3  # what nights on one machine differ by before we saw several, and what that counts for
STRETCH = 0.08  # and by how much more for every factor e by which a night is larger or smaller than those
# Student's t for 90% of a two-sided interval, by degrees of freedom from 1
T90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)
Z90 = 1.645


class Compared(Record):
    """One figure of a forecast beside what came: `error` is that of the range's middle, relative to what came."""

    low: float
    high: float
    actual: float
    inside: bool
    error: float | None = None


class ForecastError(Record):
    """How wrong a night's forecast was. The middle of the seconds is the geometric one: their range is a factor either
    way."""

    night: str
    items: Compared
    seconds: Compared
    accepted: Compared


class Scenario(Record):
    """A night as it would be with another engine, model, window or cut. `items`: how many fit into the budget;
    `seconds`: for tonight's queue; `wait_s`: of a request for a slot; `accepted`: of tonight's queue, if work passed as
    often as it did. `checks`: the share of the time in which the slots for checks are in use."""

    name: str
    slots: int
    window: int
    items: int
    seconds: float
    rho: float
    batch: float
    wait_s: float
    checks: float
    accepted: float


# --- forecast --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mix:
    """An average item of a queue in its night: where it spends its time, what it costs of the wall time, how much items
    differ. Without seconds in the engine only the wall time per item is known."""

    place: queueing.Stations
    wall_s: float
    spread: float
    window: int

    @property
    def known(self) -> bool:
        return self.place.busy_s > TINY

    def seconds(self, count: int, drained: bool = True) -> float:
        """How long `count` items take: at the pace of a full window, and until the slowest of the last ones is done.
        Not `drained`: until the budget ended a longer queue, the inverse of `fits`.

        The pace is Little's law over the closed system; of m items that end together the last one comes about
        spread * sqrt(2 ln m) later than the mean (the extreme of m normal values; Cramer 1946, section 28.6).
        """
        if count <= 0:
            return 0.0
        if not self.known:
            return count * self.wall_s
        together = min(count, self.window)
        rate = self.place.stage(together).rate
        if not drained:
            return (count + together / 2 - min(together, GRACE_S * rate)) / rate + GRACE_S
        return count / rate + self.spread * math.sqrt(2 * math.log(together)) / self.place.stage(1).rate

    def fits(self, budget_s: float) -> int:
        """How many items end in a budget, of a queue that is longer: the first ones come only after their whole time
        (half a window is missing), and what runs at its end may finish within GRACE_S."""
        if not self.known:
            return int(budget_s / self.wall_s) if self.wall_s > 0 else 0
        rate, grace = self.place.stage(self.window).rate, min(GRACE_S, budget_s)
        return max(0, int(budget_s * rate - self.window / 2 + min(self.window, grace * rate)))


def _mix(found: Measured, items: Mapping[str, float], canaries: Mapping[str, float], window: int, slots: int) -> _Mix:
    """The average over a queue; a flow that never ran costs what the others cost."""
    known = {(one.flow, one.seeded): one for one in found.flows}
    own = [one for one in found.flows if not one.seeded] or list(found.flows)

    def mean(name: str) -> float:
        usual = weighted((getattr(one, name), one.items) for one in own) or 0.0
        rows = []
        for seeded, counts in ((False, items), (True, canaries)):
            for flow, count in counts.items():
                one = known.get((flow, seeded)) or known.get((flow, False))
                rows.append((getattr(one, name) if one else usual, count))
        return (weighted(rows) if rows else None) or usual

    check_s = mean("check_s")
    outside_s = max(0.0, mean("outside_s") - check_s) * found.free
    place = queueing.Stations(
        busy_s=mean("busy_s"),
        slots=slots,
        met=found.batch or 1.0,
        rise=found.rise,
        check_s=check_s if check_s > TINY else 0.0,
        check_slots=found.check_slots,
        outside_s=outside_s if outside_s > TINY else 0.0,
    )
    return _Mix(place, mean("wall_s"), mean("spread"), window)


@dataclass(frozen=True)
class _Pace:
    """How much longer nights took than the model says: the middle, and the factor to either end of 90%."""

    scale: float
    factor: float


def _pace(found: Measured, count: int, spread: float) -> _Pace | None:
    """Calibrated on the nights themselves. None when no night was timed.

    The logarithm of (measured / modelled) is taken as normal. Its variance between nights is pooled with a prior of
    SWING over SWING_NIGHTS nights, so that one night already gives a range; to it comes the chance of which items the
    night gets, spread^2 (1/n + 1/n0), and STRETCH ln(n / n0) for what the model does not know of other sizes. A
    prediction interval by Student's t.
    """
    ratios, seen = [], 0
    for night in found.nights:
        total = sum(night.items.values()) + sum(night.canaries.values())
        if not night.timed or not total:
            continue
        mix = _mix(found, night.items, night.canaries, night.window, found.slots)
        expected = mix.seconds(total, night.drained)
        if expected > TINY:
            ratios.append(math.log(night.wall_s / expected))
            seen += total
    if not ratios:
        return None
    middle = sum(ratios) / len(ratios)
    freedom = SWING_NIGHTS + len(ratios) - 1
    between = (SWING_NIGHTS * SWING**2 + sum((ratio - middle) ** 2 for ratio in ratios)) / freedom
    chance = spread**2 * (1 / max(1, count) + 1 / seen) + (STRETCH * math.log(max(1, count) * len(ratios) / seen)) ** 2
    quantile = T90[freedom - 1] if freedom <= len(T90) else Z90
    return _Pace(math.exp(middle), math.exp(quantile * math.sqrt(between * (1 + 1 / len(ratios)) + chance)))


@dataclass(frozen=True)
class _Queue:
    """Tonight's queue on an engine, ready to be asked how much of it fits."""

    items: Mapping[str, int]
    own: int
    canaries: int
    mix: _Mix

    def fits(self, budget_s: float, scale: float) -> int:
        """How many items, canaries among them, end within the budget, were the queue long enough."""
        return self.mix.fits(budget_s / scale)

    def own_of(self, fitting: int) -> float:
        """Of so many items the night's own, the canaries lying evenly among them."""
        whole = self.own + self.canaries
        return min(self.own, fitting * self.own / whole) if whole else 0.0

    def done(self, budget_s: float, scale: float) -> float:
        """How many of the night's own items run within the budget, at a pace."""
        whole = self.own + self.canaries
        if scale * self.mix.seconds(whole) <= budget_s + min(GRACE_S, budget_s):
            return float(self.own)
        return self.own_of(self.fits(budget_s, scale))


def _queue(found: Measured, items: Mapping[str, int], canaries: int, window: int, slots: int) -> _Queue:
    window = window or (found.nights[-1].window if found.nights else 1)
    own = sum(items.values())
    seeded = {flow: canaries * count / own for flow, count in items.items()} if own else {}
    return _Queue(items, own, canaries, _mix(found, items, seeded, window, slots or found.slots))


def forecast(
    items_by_flow: Mapping[str, int],
    canaries: int,
    budget_s: float,
    found: Measured,
    window: int = 0,
) -> Forecast | None:
    """What the night will do: of its own items those that run, and 90% ranges of its seconds and accepted items.

    Seconds are wall time from the first item to the last, as a report has them, canaries included. The range of the
    accepted ones is that of a beta-binomial count (Jeffreys prior) per flow, widened by how much nights differed. None
    before the first night that was timed. `window` of 0: as last night.
    """
    own = sum(items_by_flow.values())
    queue = _queue(found, items_by_flow, canaries, window, found.slots)
    pace = _pace(found, own + canaries, queue.mix.spread)
    if pace is None:
        return None
    low_s, high_s = (pace.scale * queue.mix.seconds(own + canaries) * by for by in (1 / pace.factor, pace.factor))
    over = budget_s + min(GRACE_S, budget_s)
    done = [queue.done(budget_s, pace.scale * by) for by in (pace.factor, 1.0, 1 / pace.factor)]
    (mean_low, swing_low), (mean_high, swing_high) = (
        _passing(found, {flow: count * part / own for flow, count in items_by_flow.items()} if own else {})
        for part in (done[0], done[2])
    )
    return Forecast(
        items=round(done[1]),
        seconds=(round(min(low_s, budget_s), 1), round(min(high_s, over), 1)),
        accepted=(
            float(max(0, math.floor(mean_low - Z90 * swing_low))),
            float(min(own, math.ceil(mean_high + Z90 * swing_high))),
        ),
        nights=len(found.nights),
    )


GUESS_S = {True: (0.1, 3.0), False: (0.5, 15.0)}  # seconds per item, of a dry run and with a model: seen on two cores
GUESS_SHARE = 0.2  # of the items are accepted at least


def guess(items: int, canaries: int, budget_s: float, dry: bool) -> Forecast:
    """What a first night may do, before any night was timed here: ranges so wide that they hold on most machines, and
    marked by `nights` of 0. No measurement of this one."""
    low_s, high_s = ((items + canaries) * each for each in GUESS_S[dry])
    middle = math.sqrt(math.prod(GUESS_S[dry]))
    runs = min(items, int(budget_s / middle * items / max(1, items + canaries)))
    return Forecast(
        items=runs,
        seconds=(round(min(low_s, budget_s), 1), round(min(high_s, budget_s + min(GRACE_S, budget_s)), 1)),
        accepted=(float(math.floor(GUESS_SHARE * runs)), float(items)),
        nights=0,
    )


def _passing(found: Measured, counts: Mapping[str, float]) -> tuple[float, float]:
    """Mean and standard deviation of how many of these items are accepted."""
    shares = {one.flow: one.passed for one in found.flows if not one.seeded}
    mean = variance = 0.0
    for flow, count in counts.items():
        passed = shares.get(flow, Share())
        a, b = passed.hits + 0.5, passed.of - passed.hits + 0.5
        p = a / (a + b)
        mean += count * p
        variance += count * p * (1 - p) * (a + b + count) / (a + b + 1)
    return mean, math.sqrt(variance * _dispersion(found, shares))


def _dispersion(found: Measured, shares: Mapping[str, Share]) -> float:
    """By what factor accepted counts vary more from night to night than binomial ones: Pearson's chi-squared by its
    degrees of freedom (McCullagh and Nelder, Generalized Linear Models, section 4.5), with three degrees of 1.5 before
    there are nights to compare."""
    squares, cells = 0.0, 0
    for night in found.nights:
        for flow, count in night.items.items():
            passed = shares[flow]
            p = (passed.hits + 0.5) / (passed.of + 1)
            squares += (night.accepted.get(flow, 0) - count * p) ** 2 / (count * p * (1 - p))
            cells += 1
    freedom = max(0, cells - len(shares))
    return max(1.0, (3 * 1.5 + (squares if freedom else 0.0)) / (3 + freedom))


def error(expected: Forecast, report: NightReport) -> ForecastError:
    """A forecast beside the night that came."""
    accepted = sum(run.outcome is Outcome.ACCEPTED for run in report.runs)
    return ForecastError(
        night=report.night.id,
        items=_compared((expected.items, expected.items), len(report.runs), expected.items),
        seconds=_compared(expected.seconds, report.wall_s, math.sqrt(max(0.0, math.prod(expected.seconds)))),
        accepted=_compared(expected.accepted, accepted, sum(expected.accepted) / 2),
    )


def _compared(span: tuple[float, float], actual: float, middle: float) -> Compared:
    low, high = span
    wrong = (middle - actual) / actual if actual else None
    return Compared(low=low, high=high, actual=actual, inside=low <= actual <= high, error=wrong)


# --- what if ---------------------------------------------------------------------------------------------------------


def what_if(
    name: str,
    items_by_flow: Mapping[str, int],
    canaries: int,
    budget_s: float,
    found: Measured,
    *,
    window: int = 0,
    slots: int = 0,
    speed: float = 1.0,
    cut: float = 1.0,
) -> Scenario | None:
    """The night on another engine. `slots`, `window`: 0 is as last night; `speed`: tokens per second against today's,
    of a faster machine or a smaller model; `cut`: pieces that an item of today becomes, each with checks of its own.

    None when no night measured its engine: wall time alone does not say what would change.
    """
    queue = _queue(found, items_by_flow, canaries, window, slots)
    pace = _pace(found, queue.own + canaries, queue.mix.spread)
    if pace is None or not queue.mix.known:
        return None
    old = queue.mix.place
    place = dataclasses.replace(
        old,
        busy_s=old.busy_s / speed / cut,
        outside_s=old.outside_s / cut,
    )
    mix = dataclasses.replace(queue.mix, place=place)
    other = dataclasses.replace(queue, mix=mix)
    whole = round((queue.own + canaries) * cut)
    steady = place.stage(min(mix.window, max(1, whole)))
    calls = max(1.0, found.calls / max(1, sum(flow.items for flow in found.flows)))
    done = min(float(queue.own), other.own_of(math.floor(other.fits(budget_s, pace.scale) / cut)))
    mean, _ = _passing(found, {f: count * done / queue.own for f, count in items_by_flow.items()} if queue.own else {})
    return Scenario(
        name=name,
        slots=place.slots,
        window=mix.window,
        items=math.floor(other.fits(budget_s, pace.scale) / cut),
        seconds=pace.scale * mix.seconds(whole),
        rho=(steady.inside - steady.waiting) / place.slots,
        batch=steady.inside - steady.waiting,
        wait_s=steady.waiting / steady.rate / calls,
        checks=steady.rate * place.check_s / place.check_slots if place.check_slots else 0.0,
        accepted=mean,
    )


def right_of(flow: FlowFigures) -> Estimate:
    """The share of right changes among the accepted ones, from the gate's joint rates on canaries; None without."""
    passed, true, false = flow.passed.value, flow.true_pass.value, flow.false_pass.value
    if passed is None or true is None or false is None:
        return Estimate()
    right = queueing.right_share(passed, true, false)
    return Estimate(value=queueing.accepted_work(1, right, true, false).precision if right is not None else None)


def batch_advice(night: NightFigures) -> str:
    """Why a night's mean batch was below COARSE, and what to do; "" when it was not, or was not measured."""
    if night.batch is None or night.batch >= COARSE:
        return ""
    said = f"the mean batch was {night.batch:.1f}, under {COARSE:.0f}"
    if night.checks > BUSY:
        return (
            f"{said}: the checks hold it back, their slots were in use {100 * night.checks:.0f}% of the time; "
            "make them faster, or ask fewer of each item"
        )
    if night.queued < night.window:
        return (
            f"{said}: too few items in the queue to fill the batch ({night.queued} for a window of {night.window}); "
            "give the night more tasks, or wider scopes"
        )
    if night.window < COARSE:
        return f"{said}: the window is {night.window}; set night.window in .pantheon/pantheon.toml higher"
    return (
        f"{said}: items are cut too coarse; make them smaller (narrower scopes, fewer steps per agent), "
        "or set night.window in .pantheon/pantheon.toml higher"
    )
