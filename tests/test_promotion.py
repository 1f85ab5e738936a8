"""Whether a new version takes the place of the old: the exact test against another's, and what people are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pantheon.lessons import Comparison, Trial
from pantheon.promotion import POWER, _fewer, compare, mcnemar, needed
from pantheon.quality import share

COUNTS = st.integers(0, 120)


def trials(passed: str, **more: object) -> list[Trial]:
    """One trial per character, `x` for one that passed. `more`: a value for all, or a list with one for each."""

    def one(n: int, mark: str) -> Trial:
        own = {name: value[n] if isinstance(value, list) else value for name, value in more.items()}
        return Trial.model_validate({"item": f"i{n}", "family": f"f{n}", "base": "b", "passed": mark == "x", **own})

    return [one(n, mark) for n, mark in enumerate(passed)]


def versus(before: list[Trial], after: list[Trial], **more: object) -> Comparison:
    return compare(before, after, agent="a", labels=("a@1", "a@2"), p_value=0.05, **more)  # type: ignore[arg-type]


@given(COUNTS, COUNTS)
def test_the_exact_test_is_the_two_sided_binomial_test(only_before: int, only_after: int) -> None:
    of = only_before + only_after
    expected = stats.binomtest(only_after, of, 0.5).pvalue if of else 1.0
    assert mcnemar(only_before, only_after) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(only_before, only_after) == mcnemar(only_after, only_before)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_fewer_hits_than_chance_deals_out_is_fishers_test(a: int, b: int, c: int, d: int) -> None:
    if a + b and c + d:
        expected = stats.fisher_exact([[a, b], [c, d]], alternative="less").pvalue
        assert _fewer(a, a + b, c, c + d) == pytest.approx(expected, rel=1e-7)


def test_no_count_is_below_nothing() -> None:
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 3)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.floats(0.001, 0.5))
def test_it_is_promoted_only_when_more_pass_and_chance_would_not(
    pairs: list[tuple[bool, bool]], p_value: float
) -> None:
    marks = ["".join("x" if pair[side] else "." for pair in pairs) for side in (0, 1)]
    found = compare(trials(marks[0]), trials(marks[1]), agent="a", labels=("a@1", "a@2"), p_value=p_value)
    assert found.promote == (found.only_after > found.only_before and found.p_value < p_value)
    assert found.after_pass.hits - found.before_pass.hits == found.only_after - found.only_before
    assert found.promote != any(line.startswith("kept") for line in found.why)
    back = compare(trials(marks[1]), trials(marks[0]), agent="a", labels=("a@1", "a@2"), p_value=p_value)
    assert back.p_value == found.p_value
    assert not (back.promote and found.promote)


def test_the_numbers_are_told_as_people_say_them() -> None:
    before = trials("x" * 42 + "." * 14 + "xx" + "." * 14)
    after = trials("x" * 42 + "x" * 14 + ".." + "." * 14)
    found = versus(before, after)
    assert found.promote
    assert found.why[0] == "56 of 72 held-out items instead of 44: 14 only now, 2 only before, p = 0.0042"
    assert found.why[-1].startswith("how much of what the gate accepts is right is unknown")


def test_a_difference_that_chance_gives_is_kept_and_told_how_many_items_it_takes() -> None:
    found = versus(trials("xx......"), trials("xxxxx..."))
    assert not found.promote
    assert found.why[0] == "5 of 8 held-out items instead of 2: 3 only now, 0 only before, p = 0.25"
    assert found.why[-1] == (
        "kept: chance alone gives such a difference too often; to see 38 points four times out of five it takes "
        "about 19 held-out items, and there are 8"
    )
    assert (
        versus(trials("xx"), trials("xx")).why[-1] == "kept: it passes no more held-out items than the version in force"
    )
    assert versus([], []).why[-1] == "kept: no held-out item to measure it on"


@given(st.integers(1, 40), st.integers(0, 10), st.integers(1, 100))
def test_as_many_items_as_it_says_would_show_the_difference(more: int, fewer: int, same: int) -> None:
    """Against a normal approximation of the same test: the power at that many items is what was promised."""
    items = more + fewer + same
    wanted = needed(items, fewer, fewer + more, 0.05)
    assert wanted is not None
    assert wanted > items
    apart, gain = (2 * fewer + more) / items, more / items
    sigma = (apart - gain * gain) ** 0.5
    z = (gain * wanted**0.5 - stats.norm.ppf(0.975) * apart**0.5) / sigma
    assert stats.norm.cdf(z) > POWER - 1e-9
    assert needed(items, fewer + more, fewer, 0.05) is None


def test_more_tool_errors_than_chance_gives_keep_the_old_version() -> None:
    before, after = "." * 20, "x" * 12 + "." * 8
    worse = versus(trials(before, calls=10), trials(after, calls=10, tool_errors=[1] * 6 + [0] * 14))
    assert not worse.promote
    assert worse.after_errors == share(6, 200)
    assert "tool errors: 6 of 200 calls (3.0 %) instead of 0 of 200 calls (0.0 %); more in 6 items" in worse.why[1]
    assert worse.why[-1] == "kept, although more items pass: tool errors got worse by more than chance gives"
    # All in one item: the calls of one item fail together, which says nothing of the others.
    one = versus(trials(before, calls=10), trials(after, calls=10, tool_errors=[6] + [0] * 19))
    assert one.promote
    assert one.why[1] == "tool errors: 6 of 200 calls (3.0 %) instead of 0 of 200 calls (0.0 %)"
    assert versus(trials(before, calls=10, tool_errors=1), trials(after, calls=12)).promote


def test_a_gate_that_accepts_more_of_what_is_wrong_keeps_the_old_version() -> None:
    known = {"true_pass": share(19, 20), "false_pass": share(1, 20)}
    before = trials("x" * 20 + "." * 80, reviewed=["pass"] * 20 + ["fail"] * 2 + [""] * 78)
    after = trials("x" * 40 + "." * 60, reviewed=["pass"] * 40 + ["fail"] * 40 + [""] * 20)
    found = versus(before, after, **known)
    assert not found.promote
    assert found.after_precision.value is not None
    assert found.before_precision.value is not None
    assert found.after_precision.value < found.before_precision.value
    assert found.why[-1] == "kept, although more items pass: precision got worse by more than chance gives"
    assert "the reviewers passed 40 of 80 changes (50.0 %) instead of 20 of 22 changes (90.9 %)" in found.why[2]
    assert versus(before, after).promote  # nobody measured the reviewers: it is said, and holds nothing up
    little = trials("x" * 40 + "." * 60, reviewed=["pass"] * 40 + ["fail"] * 5 + [""] * 55)
    assert versus(before, little, **known).promote


def test_the_same_items_are_compared_or_none() -> None:
    for before, after in (("x", "xx"), ("xx", "x")):
        with pytest.raises(ValueError, match="each item once"):
            versus(trials(before), trials(after))
    with pytest.raises(ValueError, match="each item once"):
        versus(trials("x") * 2, trials("x") * 2)
