"""Formulas of queues, yield and learning, each with its source. Pure arithmetic: it knows no record of ours.

Rates are per second, times are seconds, a load is in erlangs (arrivals times seconds of service). What is measured,
forecast or advised from them is in capacity.py.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

AIM = (0.7, 0.8)  # of the utilisation: below it the engine idles, above it waits grow faster than work


def utilisation(arrivals: float, service: float, servers: int) -> float:
    """rho = lambda / (c mu): the share of the servers that is busy. From 1 on a queue without end grows.

    Kendall, Stochastic processes occurring in the theory of queues, Ann. Math. Stat. 24 (1953)."""
    return arrivals / (servers * service)


def erlang_b(servers: int, load: float) -> float:
    """The probability that all of `servers` are busy where nobody waits.

    Erlang, Solution of some problems in the theory of probabilities of significance in automatic telephone exchanges
    (1917), by the recursion B(n) = a B(n-1) / (n + a B(n-1)): every value lies between 0 and 1, nothing overflows.
    """
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """The probability that a request has to wait, Poisson arrivals and exponential service (M/M/c); 1 from rho = 1 on.

    Erlang (1917), through Erlang B: C = B / (1 - rho (1 - B)); Cooper, Introduction to Queueing Theory, 2nd ed. (1981).
    """
    rho = load / servers
    if rho >= 1:
        return 1.0
    blocked = erlang_b(servers, load)
    return blocked / (1 - rho * (1 - blocked))


def mean_wait(arrivals: float, service: float, servers: int) -> float:
    """The mean wait before service in an M/M/c queue, C / (c mu - lambda); infinite from rho = 1 on. Erlang (1917)."""
    spare = servers * service - arrivals
    return erlang_c(servers, arrivals / service) / spare if spare > 0 else math.inf


def in_system(rate: float, seconds: float) -> float:
    """How many are inside on average, L = lambda W. Little, A proof for the queuing formula, Oper. Res. 9 (1961)."""
    return rate * seconds


def amortised_latency(outside_s: float, prefill_s: float, decode_s: float, batch: float) -> float:
    """tau + s_prefill / b + s_decode: what one item costs when `batch` of them share the prefill of their common
    prefix. `prefill_s` is that of the prefix alone, once. Our own accounting: DESIGN.md, section 7."""
    return outside_s + prefill_s / max(1.0, batch) + decode_s


def window(batch: float, tool_s: float, model_s: float) -> int:
    """How many items to keep in flight so that `batch` of them are with the model: W = B (1 + t_tool / t_llm).

    Little's law on both stages; measured in FACTS.md, "Engine profile on a CPU"."""
    return math.ceil(batch * (1 + tool_s / model_s)) if model_s > 0 else math.ceil(batch)


@dataclass(frozen=True)
class Stage:
    """A closed system in its steady state: completions per second, requests in the engine, of them waiting."""

    rate: float
    inside: float
    waiting: float


Rate = Callable[[int], float]


def closed(population: int, rest: Rate, rate: Rate, slots: int) -> Stage:
    """`population` items that go round between an engine and everything else.

    `rate(n)` is the engine's completions per second with n requests in its `slots`, `rest(m)` how many items come back
    per second with m of them elsewhere: m / z where each stays for z seconds. The machine-repair model (Palm 1943;
    Gross et al., Fundamentals of Queueing Theory, 4th ed., section 2.8): a birth-death chain, exact for exponential
    service and any distribution of the time elsewhere; `rest` as a station of its own by Norton's theorem for queueing
    networks (Chandy, Herzog and Woo, IBM J. Res. Dev. 19, 1975). By logarithms, so that no population overflows.
    """
    speeds = [rate(min(n, slots)) for n in range(1, population + 1)]
    weights = [0.0]
    for n, speed in enumerate(speeds, 1):
        weights.append(weights[-1] + math.log(rest(population - n + 1)) - math.log(speed))
    top = max(weights)
    shares = [math.exp(weight - top) for weight in weights]
    whole = sum(shares)
    flow = sum(share * speed for share, speed in zip(shares[1:], speeds, strict=True)) / whole
    inside = sum(share * n for n, share in enumerate(shares)) / whole
    waiting = sum(share * max(0, n - slots) for n, share in enumerate(shares)) / whole
    return Stage(flow, inside, waiting)


@dataclass(frozen=True)
class Stations:
    """Where an item of a night spends its time, in seconds: `busy_s` in one of the engine's `slots` when `met` requests
    are in it, of which the share `rise` grows with their number; `check_s` in one of `check_slots` (0: as many as there
    are items); `outside_s` elsewhere, where nobody waits."""

    busy_s: float
    slots: int
    met: float = 1.0
    rise: float = 0.0
    check_s: float = 0.0
    check_slots: int = 0
    outside_s: float = 0.0

    def rate(self, inside: int) -> float:
        """Items per second that leave the engine with so many in it: a step costs a fixed part and one per request."""
        return inside / (self.busy_s * (1 - self.rise + self.rise * inside / self.met))

    def stage(self, population: int) -> Stage:
        """The steady state with so many items in flight, at least one."""
        if self.check_s + self.outside_s <= 0:
            inside = min(population, self.slots)
            return Stage(self.rate(inside), population, population - inside)
        return closed(population, _table(self._rest, population), self.rate, self.slots)

    def _rest(self, elsewhere: int) -> float:
        if self.check_s <= 0 or not self.check_slots:
            return elsewhere / (self.outside_s + self.check_s)

        def checked(inside: int) -> float:
            return inside / self.check_s

        if self.outside_s <= 0:
            return checked(min(elsewhere, self.check_slots))
        return closed(elsewhere, lambda m: m / self.outside_s, checked, self.check_slots).rate


def _table(rate: Rate, most: int) -> Rate:
    """The same function, worked out at every number up to 64 and at some beyond, straight lines between them."""
    marks = list(range(min(most, 64) + 1))
    while marks[-1] < most:
        marks.append(min(most, marks[-1] * 9 // 8))
    values: list[float] = [0.0, *(rate(mark) for mark in marks[1:])]

    def between(number: int) -> float:
        right = bisect_left(marks, number)
        if marks[right] == number:
            return values[right]
        left = right - 1
        part = (number - marks[left]) / (marks[right] - marks[left])
        return values[left] + part * (values[right] - values[left])

    return between


# --- yield -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Yield:
    """What comes through the gate: changes, right ones among them, and their share (None where nothing comes)."""

    accepted: float
    right: float
    precision: float | None


def right_share(passed: float, true_pass: float, false_pass: float) -> float | None:
    """The share of right work before the gate, from the share that passed it: (p - f) / (t - f), within 0 and 1.

    Rogan and Gladen, Estimating prevalence from the results of a screening test, Am. J. Epidemiol. 107 (1978). None
    where the gate passes wrong work as readily as right work: then passing tells nothing.
    """
    if true_pass <= false_pass:
        return None
    return min(1.0, max(0.0, (passed - false_pass) / (true_pass - false_pass)))


def accepted_work(items: float, right: float, true_pass: float, false_pass: float) -> Yield:
    """What two reviewers let through of `items` of which the share `right` is right.

    `true_pass` and `false_pass` are joint: both reviewers said pass, of right and of wrong work. They are measured on
    canaries, and never p^2. That would square the worker's success as if it were the reviewers', and take them to be
    independent: two prompts of one model are wrong about the same changes, so the joint rate lies well above the
    product of the two single ones (1 - sensitivity), which is only its value under independence.
    """
    good, bad = items * right * true_pass, items * (1 - right) * false_pass
    return Yield(good + bad, good, good / (good + bad) if good + bad > 0 else None)


# --- learning --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learning:
    """p(N) = p0 + (pmax - p0)(1 - exp(-alpha N)), and the root of its mean squared error, weighted by trials."""

    p0: float
    pmax: float
    alpha: float
    error: float

    def at(self, examples: float) -> float:
        """The pass rate after so many examples."""
        return self.p0 + (self.pmax - self.p0) * -math.expm1(-self.alpha * examples)


def fit_learning(points: Sequence[tuple[float, float, float]]) -> Learning | None:
    """The learning curve through points (examples N, pass rate p, weight: its trials) by weighted least squares.

    For a given alpha the curve is linear in p0 and pmax, which are solved exactly within 0 <= p0 <= pmax <= 1; the one
    parameter left is searched on a logarithmic grid and then by golden section: variable projection (Golub and Pereyra,
    SIAM J. Numer. Anal. 10, 1973). The exponential form: Heathcote, Brown and Mewhort, Psychon. Bull. Rev. 7 (2000).
    None with fewer than three different N: three parameters need them.
    """
    used = [(n, p, w) for n, p, w in points if w > 0]
    scale = max((n for n, _, _ in used), default=0.0)
    if len({n for n, _, _ in used}) < 3 or scale <= 0:
        return None

    def loss(exponent: float) -> float:
        return levels(used, math.exp(exponent) / scale)[0]

    steps = [math.log(0.01) + k * math.log(1e5) / 60 for k in range(61)]  # alpha N from 0.01 to 1,000 at the largest N
    best = min(range(len(steps)), key=lambda k: loss(steps[k]))
    low, high = steps[max(0, best - 1)], steps[min(len(steps) - 1, best + 1)]
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    alpha = math.exp((low + high) / 2) / scale
    squares, p0, gain = levels(used, alpha)
    return Learning(p0, p0 + gain, alpha, math.sqrt(squares / sum(w for _, _, w in used)))


def levels(points: Sequence[tuple[float, float, float]], alpha: float) -> tuple[float, float, float]:
    """(squared error, p0, pmax - p0) of the best curve with this alpha: the free optimum where it is allowed, else the
    best one on an edge of what is."""
    rows = [(-math.expm1(-alpha * n), p, w) for n, p, w in points]
    s0 = sum(w for _, _, w in rows)
    s1 = sum(w * x for x, _, w in rows)
    s2 = sum(w * x * x for x, _, w in rows)
    t0 = sum(w * p for _, p, w in rows)
    t1 = sum(w * x * p for x, p, w in rows)
    candidates = [(min(1.0, max(0.0, t0 / s0)), 0.0), (0.0, 1.0)]  # flat; from nothing to everything
    if s0 * s2 - s1 * s1 > 1e-12 * s0 * s2:
        gain = (s0 * t1 - s1 * t0) / (s0 * s2 - s1 * s1)
        candidates.append(((t0 - gain * s1) / s0, gain))
    if s2 > 0:
        candidates.append((0.0, t1 / s2))
    left = [(1 - x, 1 - p, w) for x, p, w in rows]  # pmax = 1: what is missing shrinks from 1 - p0
    below = sum(w * y * y for y, _, w in left)
    if below > 0:
        p0 = 1 - sum(w * y * q for y, q, w in left) / below
        candidates.append((p0, 1 - p0))
    allowed = [(a, g) for a, g in candidates if a >= 0 and g >= 0 and a + g <= 1 + 1e-12]
    return min((sum(w * (a + g * x - p) ** 2 for x, p, w in rows), a, g) for a, g in allowed)
