"""How hard items are: the fit finds what was simulated, levels open and close, and nothing waits for ever."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from math import exp, isfinite
from statistics import correlation, fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_night import morning

from pantheon import curriculum, plan
from pantheon.curriculum import LEAST, PATIENCE, Try
from pantheon.records import Finding, Item, Outcome, Repair, Task

START = datetime(2026, 1, 1, tzinfo=UTC)
TRIES = st.lists(
    st.builds(
        Try,
        item=st.sampled_from("abcdefgh"),
        flow=st.sampled_from(("docops", "headers")),
        kinds=st.sampled_from(((), ("title",), ("tags", "title"))),
        team=st.sampled_from(("one", "two")),
        blob=st.sampled_from("12"),
        passed=st.booleans(),
        at=st.integers(0, 20).map(lambda day: START + timedelta(days=day)),
    ),
    max_size=40,
)


def one(item: str, passed: bool, *, team: str = "t", day: int = 0, kinds: tuple[str, ...] = (), blob: str = "b") -> Try:
    return Try(item, "docops", kinds, team, blob, passed, START + timedelta(days=day))


def simulated(
    seed: int, items: int, abilities: tuple[float, ...], *, again: bool = False
) -> tuple[dict[str, float], list[Try]]:
    """Difficulties around the parts of what items break, and a week of tries per team; with `again` a team gets only
    what the one before failed at, as real nights do."""
    dice = random.Random(seed)
    parts = {f"kind{n}": dice.gauss(0, 1) for n in range(6)}
    truth, found, left = {}, [], []
    for number in range(items):
        kinds = tuple(sorted(kind for kind in parts if dice.random() < 0.3))
        truth[str(number)] = sum(parts[kind] for kind in kinds) + dice.gauss(0, 1)
        left.append((str(number), kinds))
    for week, ability in enumerate(abilities):
        failed = []
        for item, kinds in left:
            passed = dice.random() < 1 / (1 + exp(truth[item] - ability))
            found.append(one(item, passed, team=f"team{week}", day=7 * week, kinds=kinds))
            failed += [] if passed and again else [(item, kinds)]
        left = failed
    return truth, found


# --- the fit ---------------------------------------------------------------------------------------------------------


def test_the_fit_recovers_difficulties_and_abilities() -> None:
    truth, found = simulated(1, 300, (0.0, 0.5, 1.0, 1.5))
    scale = curriculum.measure(found)
    names = sorted(truth)
    assert correlation([truth[n] for n in names], [scale.difficulties[n].value for n in names]) > 0.8
    middle, told = fmean(truth.values()), fmean(one.value for one in scale.difficulties.values())
    inside = [
        abs(truth[n] - middle - (scale.difficulties[n].value - told)) < 1.96 * scale.difficulties[n].error
        for n in names
    ]
    assert fmean(inside) > 0.93
    for number in range(1, 4):
        apart = scale.apart(f"team{number}", "team0")
        assert apart is not None
        assert abs(apart.value - 0.5 * number) < 2.5 * apart.error < 1.0


@pytest.mark.parametrize("again", [False, True], ids=["all items", "only what failed"])
def test_the_interval_between_two_teams_covers_the_truth(again: bool) -> None:
    held = []
    for seed in range(40):
        _, found = simulated(100 + seed, 120, (0.0, 0.8), again=again)
        apart = curriculum.measure(found).apart("team1", "team0")
        assert apart is not None
        held.append(abs(apart.value - 0.8) < 1.96 * apart.error)
    assert sum(held) >= 36


def test_what_an_item_breaks_tells_how_hard_it_is_before_anybody_tried() -> None:
    truth, found = simulated(5, 400, (0.0,))
    kinds = {t.item: t.kinds for t in found}
    known = curriculum.measure([t for t in found if int(t.item) < 300])
    new = sorted(item for item in truth if int(item) >= 300)
    told = [known.expected("docops", kinds[item]).value for item in new]
    assert correlation(told, [truth[item] for item in new]) > 0.5
    assert all(known.expected("docops", kinds[item]).error >= curriculum.SPREAD for item in new)
    unknown = known.expected("another flow", ("another kind",))
    assert unknown.value == 0 and unknown.error > 2


@given(TRIES)
@settings(max_examples=60, deadline=None)
def test_the_fit_is_finite_and_knows_no_order(found: list[Try]) -> None:
    scale = curriculum.measure(found)
    told = [*scale.difficulties.values(), *scale.abilities.values()]
    assert all(isfinite(t.value) and isfinite(t.error) and t.error > 0 and abs(t.value) < 12 for t in told)
    assert set(scale.difficulties) == {t.item for t in found}
    unique = {(t.item, t.at, t.blob, t.team, t.passed, t.flow, t.kinds) for t in found}
    if len(unique) == len({(t.item, t.at) for t in found}):
        other = curriculum.measure(list(reversed(found)))
        assert all(abs(scale.difficulties[n].value - other.difficulties[n].value) < 1e-6 for n in scale.difficulties)


def test_whoever_passes_more_is_abler_and_what_fails_more_is_harder() -> None:
    found = [one(str(n), n < 8, team="a") for n in range(10)] + [one(str(n), n < 3, team="b") for n in range(10)]
    scale = curriculum.measure(found)
    assert scale.abilities["a"].value > scale.abilities["b"].value
    assert scale.difficulties["0"].value < scale.difficulties["5"].value < scale.difficulties["9"].value


def test_the_same_team_on_the_same_file_says_nothing_new() -> None:
    once = curriculum.measure([one("x", False), one("y", True)])
    often = curriculum.measure([*(one("x", False, day=day) for day in range(20)), one("y", True)])
    changed = curriculum.measure([*(one("x", False, blob=str(n)) for n in range(20)), one("y", True)])
    assert often.difficulties == once.difficulties
    assert changed.difficulties["x"].value > once.difficulties["x"].value


def test_ten_thousand_outcomes_take_about_a_second() -> None:
    _, found = simulated(1, 2500, (0.0, 0.5, 1.0, 1.5))
    before = time.process_time()
    curriculum.measure(found)
    assert len(found) == 10_000
    assert time.process_time() - before < 4  # of a slow machine


def test_a_night_is_kept_small_and_whole() -> None:
    report = morning(nights=0).report
    kept = curriculum.Tried.model_validate_json(curriculum.tried(report).to_json())
    own = [run for run in report.runs if run.outcome is not Outcome.PARKED]
    assert [(t.item, t.passed, t.flow, t.blob) for t in kept.tries] == [
        (run.item.id, run.passed, run.item.flow, run.item.blob) for run in own
    ]
    assert {t.team for t in kept.tries} == set(kept.members)
    assert len(kept.to_json()) < len(report.to_json()) / 10


def test_a_team_is_another_with_another_adapter_prompt_model_or_teacher() -> None:
    agents = {"edit": "a@1", "review": "r@1"}
    names = {
        curriculum.team(agents, "m", {}, {}),
        curriculum.team(agents, "m", {"a@1": "sha256:1"}, {}),
        curriculum.team(agents, "m", {}, {"r@1": "9"}),
        curriculum.team(agents, "n", {}, {}),
        curriculum.team(agents, "m", {}, {}, "larger"),
        curriculum.team({"edit": "a@2", "review": "r@1"}, "m", {}, {}),
    }
    assert len(names) == 6
    other = {"a@9": "sha256:2"}  # of an agent that does not take part
    assert curriculum.team(agents, "m", other, {}) == curriculum.team(agents, "m", {}, {})


# --- levels ----------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=3), st.floats(-5, 5), max_size=30), st.integers(1, 10))
def test_levels_go_from_easy_to_hard_in_equal_parts(difficulties: dict[str, float], count: int) -> None:
    levels = curriculum.leveled(difficulties, count)
    assert set(levels) == set(difficulties)
    assert all(0 <= level < count for level in levels.values())
    in_order = sorted(difficulties, key=lambda item: round(difficulties[item], 6))
    assert [levels[item] for item in in_order] == sorted(levels.values())
    if len({round(value, 6) for value in difficulties.values()}) == len(difficulties) and difficulties:
        sizes = [list(levels.values()).count(level) for level in range(count)]
        assert max(sizes) - min(sizes) <= 1


def test_equal_difficulties_are_of_one_level() -> None:
    assert set(curriculum.leveled(dict.fromkeys("abcd", 1.0), 3).values()) == {0}
    assert curriculum.leveled({"a": 0.0, "b": 1.0, "c": 1.0, "d": 2.0}, 2) == {"a": 0, "b": 0, "c": 0, "d": 1}


def test_rows_get_the_level_of_their_item() -> None:
    found = [one(f"easy{n}", True, kinds=("tags",)) for n in range(6)]
    found += [one(f"hard{n}", False, kinds=("title",)) for n in range(6)]
    levels = curriculum.levels(found, 2)
    assert {levels[f"easy{n}"] for n in range(6)} == {0}
    assert {levels[f"hard{n}"] for n in range(6)} == {1}


def item(name: str, *, blob: str = "b", kinds: tuple[str, ...] = (), hint: str = "", task: str = "t") -> Item:
    found = tuple(Finding(rule=kind, message="m", repair=Repair.CHOOSE) for kind in kinds)
    return Item(id=name, task=task, flow="docops", target=f"{name}.md", blob=blob, findings=found, hint=hint)


def planned(*items: Item) -> plan.Plan:
    task = Task(uuid="t", title="T", slug="t", status="ready", path="t.md")
    return plan.Plan(items, (task,), ())


def ladder(passed: int, *, team: str = "t", day: int = 0) -> list[Try]:
    """Ten easy items of which so many passed, and ten hard ones that never do."""
    found = [one(f"easy{n}", n < passed, team=team, day=day, kinds=("tags",)) for n in range(10)]
    return found + [one(f"hard{n}", False, team=team, day=day, kinds=("title", "name")) for n in range(10)]


HARD = tuple(item(f"hard{n}", kinds=("title", "name")) for n in range(10))
NEW = item("new", kinds=("tags",))


def staged(found: list[Try], *items: Item, now: str = "t", least: float = 0.5) -> curriculum.Staged:
    return curriculum.stage(planned(*items), found, {one.id: now for one in items}, 2, least)


def test_a_closed_level_waits_and_says_for_what() -> None:
    shown = staged(ladder(2), *HARD, NEW)
    assert [one.id for one in shown.plan.items] == ["new"]
    (note,) = shown.plan.notes
    assert note.startswith("docops: 10 items of level 2 of 2 wait: the versions in force tried them in vain")
    assert "of level 1 2 of 10 passed. It opens from 50 % on" in note
    assert not plan.settled(note)


def test_a_level_opens_when_the_one_below_passes() -> None:
    shown = staged(ladder(6), *HARD, NEW)
    assert {one.id for one in shown.plan.items} == {"new", *(one.id for one in HARD)}
    assert [level.open for level in shown.levels] == [True, True]
    assert not staged(ladder(6), *HARD, NEW, least=0.7).levels[1].open


def test_too_few_measured_items_close_nothing() -> None:
    found = [t for t in ladder(0) if t.item.startswith("hard")] + ladder(0)[: LEAST - 1]
    assert len(staged(found, *HARD, NEW).plan.items) == 11


def test_a_changed_file_a_hint_a_new_item_and_a_new_version_run_at_once() -> None:
    others = [item("hard0", blob="c", kinds=("title", "name")), item("hard1", kinds=("title", "name"), hint="use X")]
    others.append(item("never seen", kinds=("title", "name")))
    assert {one.id for one in staged(ladder(2), *others, *HARD[2:]).plan.items} == {"hard0", "hard1", "never seen"}
    assert len(staged(ladder(2), *HARD, NEW, now="t2").plan.items) == 11


def test_with_nothing_else_to_do_they_run() -> None:
    shown = staged(ladder(2), *HARD)
    assert len(shown.plan.items) == 10 and not shown.plan.notes


def test_nothing_starves() -> None:
    """A new item comes every day, so that there is always something else to do; the hard ones run all the same."""
    found, ran = ladder(2), []
    for day in range(1, 3 * PATIENCE):
        shown = staged(found, *HARD, item(f"day{day}", kinds=("tags",)))
        ids = [one.id for one in shown.plan.items]
        ran += [day] if "hard3" in ids else []
        found += [one(name, False, day=day, kinds=("tags",) if name[0] == "d" else ("title", "name")) for name in ids]
    assert ran and all(after - before <= PATIENCE + 1 for before, after in zip([0, *ran], ran, strict=False))


def test_items_go_from_easy_to_hard_within_a_priority() -> None:
    urgent = Task(uuid="u", title="U", slug="u", status="ready", path="u.md", priority="P0")
    later = Task(uuid="t", title="T", slug="t", status="ready", path="a.md", priority="P2")
    items = (item("hard1", kinds=("title", "name"), task="u"), item("a", kinds=("title",)), item("b", kinds=("tags",)))
    shown = curriculum.stage(plan.Plan(items, (urgent, later), ()), ladder(9), {}, 2, 0.5)
    assert [one.id for one in shown.plan.items] == ["hard1", "b", "a"]


def test_without_a_measurement_the_order_stays() -> None:
    items = (item("b"), item("a"))
    assert curriculum.stage(planned(*items), [], {}, 3, 0.5) == curriculum.Staged(planned(*items))


# --- the lift --------------------------------------------------------------------------------------------------------


def test_the_lift_is_that_of_equally_hard_items() -> None:
    held, values = [], []
    for seed in range(30):
        truth, found = simulated(seed, 150, (0.0, 0.5), again=True)
        raw = [fmean(t.passed for t in found if t.team == team) for team in ("team0", "team1")]
        lift = curriculum.lift(found, START + timedelta(days=7))
        assert lift.value is not None and lift.low is not None and lift.high is not None
        middle = fmean(truth.values())
        real = 1 / (1 + exp(middle - 0.5)) - 1 / (1 + exp(middle))
        held.append(lift.low <= real <= lift.high)
        values.append((raw[1] - raw[0], lift.value))
    assert sum(held) >= 27
    assert fmean(raw for raw, _ in values) < 0 < fmean(lift for _, lift in values)  # the hard ones are left over


def test_without_two_weeks_there_is_no_lift() -> None:
    found = ladder(5)
    assert curriculum.lift(found, START).value is None
    assert curriculum.lift([], START).value is None
    assert curriculum.lift([*found, *ladder(7, day=8)], START + timedelta(days=8)).value is not None
