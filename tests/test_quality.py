"""Quality: the statistics against published tables and other implementations, the counts, the states of a gate."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import sqrt
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from pantheon import quality
from pantheon.records import (
    Bounds,
    Canary,
    CheckResult,
    Criterion,
    FlowQuality,
    Item,
    Night,
    NightReport,
    Outcome,
    Run,
    Share,
    Verdict,
)

Word = Literal["pass", "fail"]
BOUNDS = Bounds()
SEATS = (("review-a", "review.peer-a@1"), ("review-b", "review.peer-b@1"))
WHEN = datetime(2026, 3, 1, tzinfo=UTC)


def verdict(seat: tuple[str, str], word: bool, *criteria: bool) -> Verdict:
    said: dict[bool, Word] = {True: "pass", False: "fail"}
    parts = tuple(Criterion(name=f"c{n}", verdict=said[one], reason="") for n, one in enumerate(criteria))
    return Verdict(node=seat[0], agent=seat[1], verdict=said[word], reason="", criteria=parts)


def run(
    name: str,
    *words: bool,
    good: bool | None = None,
    kind: str = "wrong-title",
    node: str | None = None,
    checks: tuple[bool, ...] = (True,),
    seats: Sequence[tuple[str, str]] = SEATS,
    flow: str = "docops",
) -> Run:
    """A run that the reviewers judged with `words`; of no words and no node, it passed without them."""
    item = Item(
        id=name, task="t", flow=flow, target=f"{name}.md", blob="0" * 40, findings=(),
        canary=None if good is None else Canary(good=good, kind=kind, tree=name.ljust(40, "0")),
    )  # fmt: skip
    if node is None:
        node = "" if all(words) and all(checks) else "merge" if all(checks) else "checks"
    own = Outcome.FAILED if node else Outcome.ACCEPTED
    return Run(
        id=name, night="n", item=item, base="0" * 40, outcome=own if good is None else Outcome.SEEDED, node=node,
        verdicts=tuple(verdict(seat, word) for seat, word in zip(seats, words, strict=False)),
        checks=tuple(CheckResult(name=f"k{n}", passed=passed) for n, passed in enumerate(checks)),
        nodes={"checks": "passed", **{name: "passed" for name, _ in seats}, **({node: "failed"} if node else {})},
        node_agents=dict(seats),
    )  # fmt: skip


def night(number: int, *runs: Run) -> NightReport:
    frozen = Night(
        id=f"n{number}", started_at=WHEN + timedelta(days=number), base="0" * 40, branch="main", budget_s=60, window=4,
        engine="vllm", model="m",
    )  # fmt: skip
    return NightReport(
        night=frozen, finished_at=WHEN, ended="finished", left=0,
        runs=tuple(r for r in runs if not r.item.canary), canaries=tuple(r for r in runs if r.item.canary),
    )  # fmt: skip


def figures(
    table: quality.Table = (0, 0, 0, 0), false_pass: tuple[int, int] = (0, 0), pair: tuple[str, ...] = ()
) -> FlowQuality:
    found = quality.share(*false_pass)
    return FlowQuality(flow="docops", pair=pair, table=table, kappa=quality.kappa(table), false_pass=found)


def state(table: quality.Table = (0, 0, 0, 0), false_pass: tuple[int, int] = (0, 0)) -> str:
    return quality.judge(figures(table, false_pass), BOUNDS).state


counts = st.integers(0, 60)
tables = st.tuples(counts, counts, counts, counts)
shares = st.integers(0, 300).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of)))


# --- shares ----------------------------------------------------------------------------------------------------------


@given(shares.filter(lambda pair: pair[1] > 0))
def test_the_wilson_interval_is_that_of_scipy(pair: tuple[int, int]) -> None:
    found, known = quality.share(*pair), binomtest(*pair).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-9)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_wilson_interval_is_that_of_newcombe_1998(hits: int, of: int, low: float, high: float) -> None:
    """Statistics in Medicine 17:857, table I, method 3."""
    found = quality.share(hits, of)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(shares)
def test_an_interval_contains_its_rate_and_more_hits_raise_it(pair: tuple[int, int]) -> None:
    hits, of = pair
    found = quality.share(hits, of)
    assert 0 <= found.low <= (found.value if found.value is not None else 0.5) <= found.high <= 1
    if hits < of:
        more = quality.share(hits + 1, of)
        assert more.low >= found.low and more.high >= found.high
    missed = quality.share(hits, of + 1)
    assert missed.high <= found.high and missed.low <= found.low + 1e-12


def test_counts_that_are_no_share_are_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2 is no share"):
        quality.share(3, 2)
    assert quality.share(0, 0) == Share(low=0.0, high=1.0)


# --- kappa -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "agreement", "found"),
    [
        ((40, 9, 6, 45), 0.85, 0.70),
        ((80, 10, 5, 5), 0.85, 0.32),
        ((45, 15, 25, 15), 0.60, 0.13),
        ((25, 35, 5, 35), 0.60, 0.26),
    ],
)
def test_kappa_is_that_of_the_paradoxes_and_the_adjusted_one_is_free_of_them(
    table: quality.Table, agreement: float, found: float
) -> None:
    """Feinstein and Cicchetti 1990, J. Clin. Epidemiol. 43:543: the same agreement, and another kappa."""
    assert quality.kappa(table).value == pytest.approx(found, abs=0.005)
    assert quality.adjusted(table).value == pytest.approx(2 * agreement - 1)


@given(tables.filter(lambda t: sum(t) > 0))
def test_prevalence_and_bias_account_for_the_difference_of_the_two(table: quality.Table) -> None:
    """Byrt, Bishop and Carlin 1993: kappa = (PABAK - PI^2 + BI^2) / (1 - PI^2 + BI^2)."""
    both, first, second, neither = table
    n = sum(table)
    prevalence, bias = ((both - neither) / n) ** 2, ((first - second) / n) ** 2
    found, free = quality.kappa(table).value, quality.adjusted(table).value
    assert free is not None
    if found is None:
        assert 1 - prevalence + bias == pytest.approx(0)
    else:
        assert found == pytest.approx((free - prevalence + bias) / (1 - prevalence + bias))


def _delta(table: quality.Table) -> float:
    """The standard error by the delta method, with a numerical gradient: no formula of Fleiss, Cohen and Everitt."""
    n = sum(table)
    shares = [count / n for count in table]

    def value(p: Sequence[float]) -> float:
        chance = (p[0] + p[1]) * (p[0] + p[2]) + (p[2] + p[3]) * (p[1] + p[3])
        return ((p[0] + p[3]) / sum(p) - chance / sum(p) ** 2) / (1 - chance / sum(p) ** 2)

    step = 1e-6
    slopes = []
    for cell in range(4):
        up, down = list(shares), list(shares)
        up[cell] += step
        down[cell] -= step
        slopes.append((value(up) - value(down)) / (2 * step))
    mean = sum(p * slope for p, slope in zip(shares, slopes, strict=True))
    square = sum(p * slope * slope for p, slope in zip(shares, slopes, strict=True))
    return sqrt(max(0.0, square - mean * mean) / n)


@given(st.tuples(*[st.integers(1, 60)] * 4))
def test_the_standard_error_of_kappa_is_that_of_the_delta_method(table: quality.Table) -> None:
    found = quality.kappa(table)
    assert found.value is not None and found.low is not None and found.high is not None
    half = 1.959964 * _delta(table)
    assert found.low == pytest.approx(max(-1, found.value - half), abs=1e-4)
    assert found.high == pytest.approx(min(1, found.value + half), abs=1e-4)


@given(tables)
def test_kappa_lies_in_its_interval_and_whose_words_they_are_does_not_matter(table: quality.Table) -> None:
    both, first, second, neither = table
    for measure in (quality.kappa, quality.adjusted):
        found = measure(table)
        if found.value is None:
            assert found.low is found.high is None
            continue
        assert found.low is not None and found.high is not None
        assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
        for other in ((both, second, first, neither), (neither, second, first, both)):
            assert measure(other).value == pytest.approx(found.value)


def test_kappa_of_one_word_only_is_undefined() -> None:
    nothing = quality.kappa((0, 0, 0, 0))
    assert nothing == quality.kappa((40, 0, 0, 0)) == quality.kappa((0, 0, 0, 7))
    assert nothing.value is None
    assert quality.kappa((40, 0, 0, 1)).value == 1
    assert quality.kappa((40, 3, 0, 0)).value == 0  # one of them never refused


# --- precision -------------------------------------------------------------------------------------------------------


def test_precision_is_that_of_rogan_and_gladen() -> None:
    found = quality.precision(quality.share(66, 100), quality.share(9, 10), quality.share(1, 10))
    assert found.value == pytest.approx(0.7 * 0.9 / 0.66)  # 0.66 = 0.7 * 0.9 + 0.3 * 0.1
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low < 0.9 < found.value < found.high


@pytest.mark.parametrize(
    ("passed", "true_pass", "false_pass"),
    [
        ((0, 9), (9, 9), (0, 9)),
        ((0, 0), (9, 9), (0, 9)),
        ((9, 9), (0, 0), (0, 9)),
        ((9, 9), (9, 9), (0, 0)),
        ((9, 9), (5, 9), (5, 9)),
    ],
)
def test_precision_is_unknown_where_nothing_passed_or_the_reviewers_tell_nothing(
    passed: tuple[int, int], true_pass: tuple[int, int], false_pass: tuple[int, int]
) -> None:
    assert quality.precision(*(quality.share(*pair) for pair in (passed, true_pass, false_pass))).value is None


@given(shares, shares, shares)
@settings(max_examples=40, deadline=None)
def test_precision_lies_in_its_interval(a: tuple[int, int], s: tuple[int, int], f: tuple[int, int]) -> None:
    found = quality.precision(quality.share(*a), quality.share(*s), quality.share(*f))
    if found.value is None:
        assert found.low is found.high is None
    else:
        assert found.low is not None and found.high is not None
        assert 0 <= found.low <= found.value <= found.high <= 1


@given(shares)
@settings(deadline=None)
def test_what_a_rate_may_be_is_spread_as_its_posterior(pair: tuple[int, int]) -> None:
    hits, of = pair
    values = quality._spread(quality.share(hits, of))
    quantiles = beta.ppf([(n + 0.5) / len(values) for n in range(len(values))], hits + 1, of - hits + 1)
    assert len(values) == quality._POINTS
    assert values == pytest.approx(list(quantiles), abs=0.006)


@pytest.mark.parametrize(
    ("items", "canaries", "right", "s", "f"),
    [(20, 10, 0.7, 0.9, 0.15), (200, 20, 0.9, 0.95, 0.1), (100, 20, 0.6, 0.9, 0.25)],
)
def test_the_interval_of_the_precision_covers_the_truth(
    items: int, canaries: int, right: float, s: float, f: float
) -> None:
    truth = right * s / (right * s + (1 - right) * f)
    chance = random.Random(7)
    known: dict[tuple[int, ...], bool | None] = {}

    def covered() -> bool | None:
        key = tuple(
            sum(chance.random() < rate for _ in range(of))
            for rate, of in ((right * s + (1 - right) * f, items), (s, canaries), (f, canaries))
        )
        if key not in known:
            found = quality.precision(
                *(quality.share(k, of) for k, of in zip(key, (items, canaries, canaries), strict=True))
            )
            known[key] = None if found.low is None or found.high is None else found.low <= truth <= found.high
        return known[key]

    looks = [word for word in (covered() for _ in range(100)) if word is not None]
    assert sum(looks) / len(looks) >= 0.93


# --- counting --------------------------------------------------------------------------------------------------------


def test_reviewers_are_compared_by_the_criteria_that_both_judged_else_as_a_whole() -> None:
    one = run("x", True, True).model_copy(
        update={"verdicts": (verdict(SEATS[0], False, True, False), verdict(SEATS[1], False, True, True, False))}
    )
    assert quality.ratings(one, *SEATS) == [(True, True), (False, True)]
    assert quality.ratings(run("y", True, False), *SEATS) == [(True, False)]
    assert quality.ratings(run("z", True), *SEATS) == []
    assert quality.table_of([one, run("y", True, False), run("w", False, False)], *SEATS) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("one", "fate"),
    [
        (run("a", True, True, good=False), "passed"),
        (run("a", True, False, good=False), "by_reviewers"),
        (run("a", False, False, good=False, checks=(False,)), "by_reviewers"),
        (run("a", good=False, checks=(True, False), seats=()), "by_checks"),
        (run("a", True, True, good=False, node="merge"), "by_checks"),  # the gate saw what no reviewer did
        (run("a", good=False, node="checks", checks=()), "broken"),  # stopped before it said anything
        (run("a", True, good=False, node="review-b"), "broken"),  # one said pass, the other said nothing
        (run("a", good=False, node="item", checks=()), "broken"),
        (run("a", good=False, node="edit", checks=(), seats=(("edit", "doc.edit@1"),)), "broken"),
    ],
)
def test_a_canary_has_one_fate(one: Run, fate: str) -> None:
    assert quality.fate(one) == fate


word = st.booleans()
canaries = st.builds(
    lambda n, words, good, kind, node, checks: run(
        f"{n}", *words, good=good, kind=kind, node=node, checks=tuple(checks)
    ),
    st.integers(0, 10**6),
    st.lists(word, max_size=2),
    word,
    st.sampled_from(["restored", "wrong-title", "broken-link"]),
    st.sampled_from([None, "", "checks", "merge", "review-a", "item", "gone"]),
    st.lists(word, max_size=2),
)


@given(st.lists(canaries, max_size=12))
def test_canary_figures_add_up(known: list[Run]) -> None:
    rows = quality.canary_figures(known)
    assert sum(row.seeded for row in rows) == len(known)
    for row in rows:
        assert row.seeded == row.by_checks + row.by_reviewers + row.passed + row.broken > 0
    found = quality.measure("docops", [], known, [], BOUNDS)
    bad = [one for one in known if one.item.canary and not one.item.canary.good]
    assert found.false_pass.of == sum(quality.reached(one) for one in bad)
    assert sum(found.table) == sum(quality.reached(one) for one in known)
    for reviewer in found.reviewers:
        assert reviewer.sensitivity.of + reviewer.specificity.of <= len(known)


def test_a_flow_is_measured_on_what_reached_its_reviewers() -> None:
    own = [run(f"o{n}", True, True) for n in range(8)] + [run("o8", False, True), run("o9", checks=(False,))]
    known = [
        *(run(f"b{n}", False, n > 2, good=False) for n in range(4)),
        *(run(f"p{n}", True, True, good=False, kind="plausible") for n in range(1)),
        run("k", good=False, kind="broken-link", checks=(False,)),
        *(run(f"g{n}", True, True, good=True, kind="restored") for n in range(5)),
    ]
    found = quality.measure("docops", own, known, [], BOUNDS)
    assert found.pair == ("review.peer-a@1", "review.peer-b@1")
    first, second = found.reviewers
    assert (first.sensitivity.hits, first.sensitivity.of) == (4, 5)
    assert (second.sensitivity.hits, second.sensitivity.of) == (3, 5)
    assert (first.specificity.hits, first.specificity.of) == (5, 5)
    assert (first.passed.hits, first.passed.of) == (8, 9)
    assert (found.false_pass.hits, found.false_pass.of) == (1, 5)
    assert (found.true_pass.hits, found.true_pass.of) == (5, 5)
    assert found.table == (6, 0, 1, 3)  # of the canaries that reached both
    assert [(row.kind, row.seeded) for row in found.canaries] == [
        ("broken-link", 1), ("plausible", 1), ("wrong-title", 4), ("restored", 5)
    ]  # fmt: skip
    assert found.precision.value == pytest.approx(((8 / 9 - 0.2) / 0.8) / (8 / 9))
    assert found.state == "open"


def test_where_checks_find_every_wrong_change_the_whole_gate_is_measured() -> None:
    own = [run(f"o{n}", True, True) for n in range(18)] + [run(f"x{n}", checks=(False,)) for n in range(2)]
    bad = [run(f"b{n}", good=False, kind="wrong-holder", checks=(False,)) for n in range(12)]
    good = [run(f"g{n}", True, True, good=True, kind="restored") for n in range(12)]
    found = quality.measure("docops", own, bad + good, [], BOUNDS)
    assert found.false_pass.of == 0
    assert found.precision.value == 1.0
    assert found.precision.low is not None and 0.5 < found.precision.low < 1.0
    parked = own[0].model_copy(update={"outcome": Outcome.PARKED, "node": "halted"})
    assert quality.measure("docops", [parked, *own[1:]], bad + good, [], BOUNDS).precision == found.precision
    assert quality.measure("docops", own, good, [], BOUNDS).precision.value is None


def test_earlier_nights_count_with_the_same_reviewers_and_no_change_twice() -> None:
    newer = (("review-a", "review.peer-a@2"), SEATS[1])
    nights = [
        night(1, run("one", True, True, good=False), run("two", False, False, good=False)),
        night(2, run("one", False, False, good=False), run("own", True, True)),
        night(3, run("three", False, False, good=False, seats=newer)),
    ]
    tonight = [run("four", False, True, good=False)]
    (found,) = quality.measure_all([], tonight, nights, BOUNDS)
    assert (found.nights, found.false_pass.hits, found.false_pass.of) == (3, 0, 3)  # "one" as night 2 saw it
    assert found.table == (0, 0, 1, 2)
    (anew,) = quality.measure_all([], [run("five", True, True, good=False, seats=newer)], nights, BOUNDS)
    assert (anew.nights, anew.false_pass.hits, anew.false_pass.of) == (2, 1, 2)


def test_a_night_that_no_reviewer_spoke_in_shows_the_one_before_unless_the_reviewers_are_others() -> None:
    past = [night(1, run("one", True, True, good=False))]
    silent = run("two", good=False, checks=(False,), seats=())
    assert quality.measure_all([], [silent], past, BOUNDS)[0].state == "halted"
    named = silent.item.model_copy(update={"agents": {"review-a": "review.peer-a@2"}})
    (anew,) = quality.measure_all([], [silent.model_copy(update={"item": named})], past, BOUNDS)
    assert (anew.state, anew.false_pass.of) == ("open", 0)


def test_of_three_reviewers_the_two_that_agree_least_are_told() -> None:
    seats = (*SEATS, ("review-c", "review.peer-c@1"))
    runs = [run(f"{n}", n % 2 == 0, n % 2 == 0, n % 4 < 2, good=n % 2 == 0, seats=seats) for n in range(40)]
    found = quality.measure("docops", [], runs, [], BOUNDS)
    assert found.pair == ("review.peer-a@1", "review.peer-c@1")
    assert found.kappa.value == pytest.approx(0)
    assert len(found.reviewers) == 3


def test_each_flow_is_measured_by_itself() -> None:
    found = quality.measure_all([run("a", True, True)], [run("b", True, True, good=False, flow="headers")], [], BOUNDS)
    assert [(one.flow, one.state) for one in found] == [("docops", "unmeasured"), ("headers", "halted")]


# --- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "false_pass", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "unmeasured"),
        ((19, 0, 0, 0), (0, 0), "unmeasured"),  # all right, and too few to say so
        ((20, 0, 0, 0), (0, 0), "halted"),  # they never said anything else
        ((19, 0, 0, 1), (0, 1), "open"),
        ((9, 5, 5, 0), (0, 0), "unmeasured"),
        ((20, 5, 5, 5), (0, 5), "halted"),  # kappa 0.30
        ((20, 4, 4, 10), (0, 5), "alert"),  # kappa 0.55
        ((20, 1, 1, 10), (0, 5), "open"),
        ((1, 0, 0, 0), (1, 1), "halted"),
        ((1, 0, 0, 3), (1, 4), "alert"),  # may be chance
        ((1, 0, 0, 4), (1, 5), "open"),
        ((2, 0, 0, 5), (2, 7), "halted"),
    ],
)
def test_the_state_of_a_gate(table: quality.Table, false_pass: tuple[int, int], expected: str) -> None:
    found = figures(table, false_pass)
    if false_pass[1]:
        rows = quality.canary_figures([run(f"{n}", True, True, good=False) for n in range(false_pass[1])])
        found = found.model_copy(update={"canaries": rows})
    assert quality.judge(found, BOUNDS).state == expected


def test_a_halted_gate_says_why_and_what_would_open_it() -> None:
    word = quality.judge(figures((20, 5, 5, 5), (3, 7), ("review.peer-a@1", "review.peer-b@3")), BOUNDS)
    assert word.why == (
        "both reviewers passed 3 of 7 known-bad changes (43 %, 16 % to 75 %); the bound is 20 %",
        "kappa of the reviewers is 0.30 (-0.04 to 0.64) over 35 judgements; the bound is 0.40",
    )
    assert word.opens == (
        "8 more known-bad changes refused in a row: 3 of 15 (20 %) would be within it, and "
        "3 more judgements in a row where both refuse, as of known-bad changes, would bring kappa to 0.42",
        "a new version of review.peer-a or review.peer-b, which is measured anew",
        "gate.max_false_pass and gate.kappa_halt in .pantheon/pantheon.toml on the branch, if you accept that",
    )
    assert quality.judge(figures(false_pass=(1, 1)), BOUNDS).opens == (
        "4 more known-bad changes refused in a row: 1 of 5 (20 %) would be within it",
        "a new version of a reviewer, which is measured anew",
        "gate.max_false_pass in .pantheon/pantheon.toml on the branch, if you accept more",
    )


def test_reviewers_that_never_had_anything_to_refuse_only_alert_where_the_checks_refused_it() -> None:
    good = [run(f"{n}", True, True, good=True, kind="restored") for n in range(20)]
    caught = run("bad", good=False, checks=(False,), seats=())
    assert quality.measure("docops", [], good, [], BOUNDS).state == "halted"
    found = quality.measure("docops", [], [*good, caught], [], BOUNDS)
    assert found.state == "alert"
    assert "kappa is 0/0 and counts as 0" in found.why[0]
    worse = [*good, caught, run("worse", True, True, good=False)]
    assert quality.measure("docops", [], worse, [], BOUNDS).state == "halted"


def test_two_reviewers_that_always_say_pass_are_halted_by_their_first_canary() -> None:
    own = [run(f"{n}", True, True) for n in range(3)]
    found = quality.measure("docops", own, [run("bad", True, True, good=False)], [], BOUNDS)
    assert found.state == "halted"
    assert "1 of 1 known-bad change" in found.why[0]


@given(tables, shares)
def test_no_number_of_known_bad_changes_let_through_opens_a_halted_gate(
    table: quality.Table, false_pass: tuple[int, int]
) -> None:
    hits, of = false_pass
    states = [state(table, (hits + more, of + more)) == "halted" for more in (0, 1, 2, 5, 20)]
    assert all(later or not earlier for earlier, later in pairwise(states))


@given(st.tuples(st.integers(1, 60), counts, counts, counts), st.integers(1, 20))
def test_no_number_of_disputes_opens_a_gate_that_kappa_halted(table: quality.Table, more: int) -> None:
    both, first, second, neither = table
    if state(table) == "halted" and quality.kappa(table).value is not None:
        assert state((both, first + more, second + more, neither)) == "halted"


@given(tables, shares, st.sampled_from([0.05, 0.2, 0.35]), st.sampled_from([0.2, 0.4, 0.6]))
def test_what_is_said_to_open_a_gate_does(
    table: quality.Table, false_pass: tuple[int, int], most: float, least: float
) -> None:
    bounds = Bounds(max_false_pass=most, kappa_halt=least)
    hits, of = false_pass
    both, first, second, neither = table
    word = quality.judge(figures(table, false_pass), bounds)
    steps = word.opens[0].split(", and ") if len(word.opens) == 3 else []
    for step in steps:
        more = int(step.split()[0])
        if "refused in a row" in step:
            of += more
        elif "where both refuse" in step:
            neither += more
        else:
            both += more
    if steps:
        assert quality.judge(figures((both, first, second, neither), (hits, of)), bounds).state != "halted"
