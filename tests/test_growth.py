"""How agents grow: intervals that hold the truth, forecasts that say what they do not know, drift that is no chance."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import exp, inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon import growth, quality
from pantheon.curriculum import Tried
from pantheon.growth import Growth, Point
from pantheon.lessons import Card, Comparison, Dataset, Tuned
from pantheon.records import Estimate, Tuning

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
BASE = "SmolLM2-135M-Instruct"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def card(number: int, rows: int, before: tuple[int, int], after: tuple[int, int], *, parent: int = 0) -> Card:
    """The card of adapter `number` of doc.frontmatter; of `parent` 0 the base was compared with it."""
    told = Comparison(
        agent="doc.frontmatter", before="doc.frontmatter@1", after=f"doc.frontmatter@{number + 1}", items=after[1],
        before_pass=quality.share(*before), after_pass=quality.share(*after), only_before=0, only_after=0, p_value=1.0,
        before_errors=quality.share(0, 1), after_errors=quality.share(0, 1), promote=True,
    )  # fmt: skip
    data = Dataset(
        agent="doc.frontmatter", digest="0" * 64, rows=rows, dev=10, negatives=0, runs=rows // 4, families=("a",),
        held_out=0.25, template_sha256="0" * 64, model=BASE,
    )  # fmt: skip
    return Card(
        agent="doc.frontmatter", version=number + 1, adapter=digest(number), parent=digest(parent) if parent else None,
        base_model=BASE, base_sha256={}, dataset=data, tuning=Tuning(),
        tuned=Tuned(steps=1, best=1, ended="epochs", losses=(), rows=rows, tokens=1, row_tokens=1, seconds=1.0),
        created_at=WHEN + timedelta(days=number), comparison=told,
    )  # fmt: skip


CARDS = (card(1, 200, (30, 100), (55, 100)), card(2, 500, (55, 100), (68, 100), parent=1))


def measured(dice: random.Random, rows: tuple[int, ...], of: int, p0: float, pmax: float, alpha: float) -> list[Point]:
    found = []
    for number, n in enumerate(rows):
        hits = sum(dice.random() < p0 + (pmax - p0) * (1 - exp(-alpha * n)) for _ in range(of))
        found.append(Point(digest(number) if number else "", number + 1, n, quality.share(hits, of)))
    return found


# --- the curve -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "of", "p0", "pmax", "alpha"),
    [
        ((0, 200, 500), 100, 0.3, 0.8, 0.004),
        ((0, 200, 500, 900, 1500), 150, 0.45, 0.7, 0.003),
        ((0, 100, 300, 500, 800, 1200), 100, 0.2, 0.95, 0.001),
        ((0, 100, 300, 500, 800), 80, 0.5, 0.5, 0.003),
    ],
)
def test_intervals_cover_simulated_curves(rows: tuple[int, ...], of: int, p0: float, pmax: float, alpha: float) -> None:
    dice, tries = random.Random(5), 30
    covered = {"first": 0, "middle": 0, "last": 0, "top": 0, "aim": 0}
    aim = p0 + 0.8 * (pmax - p0) if pmax > p0 else 0.8
    when = log(5) / alpha if pmax > p0 else inf
    for _ in range(tries):
        found = growth.curve(measured(dice, rows, of, p0, pmax, alpha))
        assert found is not None
        for name, n in (("first", 0), ("middle", rows[-1] / 2), ("last", rows[-1])):
            told, truth = found.at(n), p0 + (pmax - p0) * (1 - exp(-alpha * n))
            assert told.low is not None and told.value is not None and told.high is not None
            assert told.low <= told.value <= told.high
            covered[name] += told.low <= truth <= told.high
        top, reach = found.top, found.reaches(aim)
        assert top.low is not None and top.high is not None
        covered["top"] += top.low <= pmax <= top.high
        covered["aim"] += reach.low <= when <= reach.high
    assert min(covered.values()) >= 0.85 * tries  # of 95 %, in 30 tries
    assert sum(covered.values()) >= 0.92 * 5 * tries


COUNTS = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(1, 150)).flatmap(
        lambda one: st.tuples(st.just(one[0]), st.integers(0, one[1]), st.just(one[1]))
    ),
    max_size=7,
)


@given(COUNTS)
@settings(max_examples=60, deadline=None)
def test_every_curve_rises_within_its_interval(counts: list[tuple[int, int, int]]) -> None:
    points = [Point(digest(n), n + 1, rows, quality.share(hits, of)) for n, (rows, hits, of) in enumerate(counts)]
    found = growth.curve(points)
    if len({rows for rows, _, _ in counts}) < growth.NEEDED:
        assert found is None
        return
    assert found is not None
    told = [found.at(n) for n in (0, 10, 100, 1000, 10_000)]
    for before, after in pairwise(told):
        for one, other in ((before.low, after.low), (before.value, after.value), (before.high, after.high)):
            assert one is not None and other is not None and 0 <= one <= other + 1e-9 <= 1 + 1e-6
    reach = found.reaches(0.8)
    assert 0 <= reach.low <= reach.value <= reach.high


def test_the_curve_is_the_same_every_time() -> None:
    points = measured(random.Random(2), (0, 200, 500, 900), 100, 0.3, 0.8, 0.004)
    assert growth.curve(points) == growth.curve(points)


def test_more_held_out_items_make_the_interval_narrower() -> None:
    few, many = (
        growth.curve([Point("", 1, n, quality.share(round(of * p), of)) for n, p in ((0, 0.3), (200, 0.6), (600, 0.7))])
        for of in (40, 400)
    )
    assert few is not None and many is not None

    def width(found: Estimate) -> float:
        return (found.high or 0) - (found.low or 0)

    assert width(many.at(600)) < width(few.at(600)) / 2.5


# --- what was measured -----------------------------------------------------------------------------------------------


def test_the_base_is_the_point_without_rows() -> None:
    points = growth.points(CARDS)
    assert [(p.adapter, p.version, p.rows, p.passed.hits) for p in points] == [
        ("", 1, 0, 30), (digest(1), 2, 200, 55), (digest(2), 3, 500, 68),
    ]  # fmt: skip


def test_a_version_measured_twice_counts_once_on_the_most_items() -> None:
    again = card(3, 500, (80, 150), (90, 150), parent=1)
    points = growth.points([*CARDS, again])
    assert [(p.adapter, p.passed.of) for p in points if p.adapter == digest(1)] == [(digest(1), 150)]
    smaller = card(3, 500, (8, 15), (9, 15), parent=1)
    assert [p.passed.of for p in growth.points([*CARDS, smaller]) if p.adapter == digest(1)] == [100]


def test_cards_of_another_base_or_without_a_comparison_are_no_points() -> None:
    other = card(3, 900, (1, 10), (2, 10)).model_copy(update={"base_model": "another"})
    assert [p.rows for p in growth.points([*CARDS, other])] == [0, 900]
    assert growth.points([CARDS[0].model_copy(update={"comparison": None})]) == ()


# --- forecasts -------------------------------------------------------------------------------------------------------


def grown(points: list[Point], *, per_night: float = 200.0, aim: float = 0.8) -> Growth:
    return Growth("a", 1, points[-1].adapter, aim, tuple(points), growth.curve(points), None, per_night)


def exact(of: int, *points: tuple[int, float]) -> list[Point]:
    return [
        Point(digest(n) if n else "", n + 1, rows, quality.share(round(of * p), of))
        for n, (rows, p) in enumerate(points)
    ]


def test_a_forecast_is_a_range_of_rows_and_nights() -> None:
    told = growth.outlook(grown(exact(3000, (0, 0.3), (300, 0.48), (700, 0.64), (1100, 0.74))))
    assert told.startswith("80 % after about 1,") and "nights at 200 rows a night" in told
    low, high = (int(n.replace(",", "")) for n in told[told.index("(") + 1 : told.index(")")].split(" to "))
    assert 1100 <= low < high < 3000


def test_a_curve_that_levels_off_says_so() -> None:
    told = growth.outlook(grown(exact(150, (0, 0.3), (300, 0.62), (700, 0.64), (1100, 0.64))))
    assert told.startswith("80 % not with this curve: it levels off at 64 % (")


def test_two_points_make_no_curve_and_an_aim_that_is_reached_is_said() -> None:
    assert growth.outlook(grown(exact(100, (0, 0.3), (300, 0.5)))).startswith(
        "no curve yet: it takes 3 measured versions"
    )
    assert growth.outlook(grown(exact(100, (0, 0.3), (300, 0.85)))) == "the aim of 80 % is reached"
    assert grown(exact(100, (0, 0.9))).ready is None  # the base learned nothing


# --- drift -----------------------------------------------------------------------------------------------------------


def night(day: int, rows: dict[str, bool], *, version: int = 3, adapter: str = digest(2), teacher: str = "") -> Tried:
    return Tried(
        engine="vllm", model=BASE, at=WHEN + timedelta(days=day), teacher=teacher,
        members={"t": {f"doc.frontmatter@{version}": adapter, "review.peer-a@2": ""}},
        kinds=(("docops", ("tags",), "t"),), rows=tuple((item, "b", 0, passed) for item, passed in rows.items()),
    )  # fmt: skip


def looked(nights: list[Tried], *cards: Card) -> Growth:
    found = growth.look("doc.frontmatter", 3, digest(2), cards or CARDS, nights, 0.8)
    assert found is not None
    return found


def test_drift_is_told_when_new_items_fail_more_than_chance_explains() -> None:
    bad = looked([night(9, {f"i{n}": n < 10 for n in range(30)})])
    assert bad.drift is not None and bad.drift.alarm
    assert growth.drift_text(bad.drift).startswith(
        "10 of 30 new items passed, 33 % (19 to 51 %), where its curve has 6"
    )
    good = looked([night(9, {f"i{n}": n < 19 for n in range(30)})])
    assert good.drift is not None and not good.drift.alarm


def test_what_an_earlier_version_failed_at_says_nothing_of_drift() -> None:
    hard = {f"i{n}": False for n in range(30)}
    assert looked([night(8, hard, version=2, adapter=digest(1)), night(9, hard)]).drift is None
    assert looked([night(9, hard, teacher="larger")]).drift is None
    assert looked([night(9, {f"i{n}": False for n in range(growth.FRESH - 1)})]).drift is None


def test_with_too_few_points_for_a_curve_the_held_out_items_are_the_measure() -> None:
    found = growth.look("doc.frontmatter", 2, digest(1), CARDS[:1], [
        night(9, {f"i{n}": n < 4 for n in range(40)}, version=2, adapter=digest(1))
    ], 0.8)  # fmt: skip
    assert found is not None and found.curve is None and found.drift is not None and found.drift.alarm
    assert "where its held-out items have 55 %" in growth.drift_text(found.drift)


def test_false_alarms_are_rare() -> None:
    dice = random.Random(4)
    alarms = 0
    for _ in range(300):
        live = quality.share(sum(dice.random() < 0.6 for _ in range(40)), 40)
        held = quality.share(sum(dice.random() < 0.6 for _ in range(100)), 100)
        told = growth.drifts(live, Estimate(value=held.value, low=held.low, high=held.high), "x")
        alarms += told is not None and told.alarm
    assert alarms <= 300 * 0.05


def test_rows_a_night_come_from_accepted_items_that_are_not_held_out() -> None:
    nights = [night(day, {f"{day}-{n}": n < 20 for n in range(30)}) for day in range(3)]
    assert looked(nights).per_night == pytest.approx(20 * 0.75 * 500 / 125)
    assert looked([]).per_night == 0


def test_an_agent_without_a_compared_adapter_has_no_growth() -> None:
    assert growth.look("doc.frontmatter", 1, "", [], [], 0.8) is None
