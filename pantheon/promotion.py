"""Whether a new version of an agent takes the place of the one in force: two versions on the same held-out items. Pure.

Owns the exact paired test, what counts as no worse, and the sentences that say why. It runs nothing and edits nothing:
training/trials.py made the trials, training/promote.py does what is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, comb, sqrt
from statistics import NormalDist

from pantheon.lessons import Comparison, Trial
from pantheon.plan import many
from pantheon.quality import precision, share
from pantheon.records import Estimate, Share

POWER = 0.8  # how often a test with as many items as `needed` says would see the difference
UNKNOWN = Share()  # of none: nothing is known
_NORMAL = NormalDist()


# --- exact tests -----------------------------------------------------------------------------------------------------


def mcnemar(only_before: int, only_after: int) -> float:
    """The probability of a difference as large or larger between two versions that are equally good: McNemar's test,
    exact and two-sided. `only_before`, `only_after`: items that only one of them passed; a fair coin would decide each
    (McNemar 1947, Psychometrika 12:153). Raises ValueError for counts below 0."""
    if min(only_before, only_after) < 0:
        raise ValueError(f"{only_before} and {only_after} are no counts")
    of = only_before + only_after
    return min(1.0, 2 * _heads(max(only_before, only_after), of))


def _heads(least: int, of: int) -> float:
    """The probability that a fair coin shows `least` heads or more in `of` throws."""
    ways = sum(comb(of, hits) for hits in range(least, of + 1))
    return ways / (1 << of)


def _fewer(hits: int, of: int, other_hits: int, other_of: int) -> float:
    """The probability of as few hits or fewer among these `of`, where chance alone deals the hits out to both groups:
    Fisher's exact test, one-sided."""
    marked = hits + other_hits
    ways = sum(comb(of, n) * comb(other_of, marked - n) for n in range(max(0, marked - other_of), hits + 1))
    return ways / comb(of + other_of, marked)


def needed(items: int, only_before: int, only_after: int, p_value: float) -> int | None:
    """How many items would show this difference with probability `POWER` at this level, where the share of items that
    tell the versions apart stays as it is (Connor 1987, Biometrics 43:207). None where the new version is no better."""
    if only_after <= only_before:
        return None
    apart, gain = (only_before + only_after) / items, (only_after - only_before) / items
    sure, seen = _NORMAL.inv_cdf(1 - p_value / 2), _NORMAL.inv_cdf(POWER)
    found = (sure * sqrt(apart) + seen * sqrt(max(0.0, apart - gain * gain))) ** 2 / gain**2
    return max(items + 1, ceil(found))


# --- the comparison --------------------------------------------------------------------------------------------------


def compare(
    before: Sequence[Trial],
    after: Sequence[Trial],
    *,
    agent: str,
    labels: tuple[str, str],
    p_value: float,
    true_pass: Share = UNKNOWN,
    false_pass: Share = UNKNOWN,
) -> Comparison:
    """Two versions on the same items, and whether the new one takes the place of the old.

    It does when more items pass and the exact paired test says that chance alone would give so much with less than
    `p_value`, when tool errors per call are no worse and when the precision of what the gate accepts is no worse.
    No worse: not higher, or by no more than chance gives at the same level. Of tool errors: among the items whose rate
    of errors differs it is higher in no more of them than a fair coin would give (a sign test, since the calls of one
    item fail together). Of precision: it rises and falls with the share of changes that the reviewers pass, so that
    this share is compared (Fisher's exact test). `true_pass`, `false_pass`: known-good and known-bad changes that these
    reviewers passed in past nights; where nobody measured them precision is unknown, and that is said.

    `labels`: the versions as people read them. Raises ValueError when the two are not about the same items.
    """
    pairs = _paired(before, after)
    olds, news = [old for old, _ in pairs], [new for _, new in pairs]
    only_before = sum(old.passed and not new.passed for old, new in pairs)
    only_after = sum(new.passed and not old.passed for old, new in pairs)
    p = mcnemar(only_before, only_after)
    words, worse_errors = _errors(pairs, p_value)
    judged = [_judged(trials) for trials in (olds, news)]
    right = [precision(one, true_pass, false_pass) for one in judged]
    said, worse_precision = _precision(judged, right, p_value)
    better = only_after > only_before and p < p_value
    promote = better and not worse_errors and not worse_precision
    passed = [sum(one.passed for one in trials) for trials in (olds, news)]
    why = [
        f"{passed[1]} of {many(len(pairs), 'held-out item')} instead of {passed[0]}: "
        f"{only_after} only now, {only_before} only before, p = {_p(p)}",
        words,
        said,
    ]
    if not better:
        why.append(_no_better(len(pairs), only_before, only_after, p_value))
    elif not promote:
        bad = (("tool errors", worse_errors), ("precision", worse_precision))
        worse = " and ".join(name for name, is_worse in bad if is_worse)
        why.append(f"kept, although more items pass: {worse} got worse by more than chance gives")
    return Comparison(
        agent=agent,
        before=labels[0],
        after=labels[1],
        items=len(pairs),
        before_pass=share(passed[0], len(pairs)),
        after_pass=share(passed[1], len(pairs)),
        only_before=only_before,
        only_after=only_after,
        p_value=p,
        before_errors=_failing(olds),
        after_errors=_failing(news),
        before_precision=right[0],
        after_precision=right[1],
        before_rate=_rate(olds),
        after_rate=_rate(news),
        promote=promote,
        why=tuple(why),
    )


def _paired(before: Sequence[Trial], after: Sequence[Trial]) -> list[tuple[Trial, Trial]]:
    olds, news = ({(one.item, one.base): one for one in trials} for trials in (before, after))
    if len(olds) != len(before) or len(news) != len(after) or olds.keys() != news.keys():
        raise ValueError("both versions must have run each item once")
    return [(olds[key], news[key]) for key in olds]


def _no_better(items: int, only_before: int, only_after: int, p_value: float) -> str:
    wanted = needed(items, only_before, only_after, p_value) if items else None
    if not items:
        return "kept: no held-out item to measure it on"
    if wanted is None:
        return "kept: it passes no more held-out items than the version in force"
    points = 100 * (only_after - only_before) / items
    return (
        f"kept: chance alone gives such a difference too often; to see {points:.0f} points four times out of five it "
        f"takes about {wanted} held-out items, and there are {items}"
    )


# --- no worse --------------------------------------------------------------------------------------------------------


def _failing(trials: Sequence[Trial]) -> Share:
    calls = sum(one.calls for one in trials)
    return share(min(calls, sum(one.tool_errors for one in trials)), calls)


def _errors(pairs: Sequence[tuple[Trial, Trial]], p_value: float) -> tuple[str, bool]:
    """The tool errors of both in words, and whether they got worse."""
    old, new = _failing([one for one, _ in pairs]), _failing([one for _, one in pairs])
    more = sum(_per_call(after) > _per_call(before) for before, after in pairs)
    fewer = sum(_per_call(after) < _per_call(before) for before, after in pairs)
    text = f"tool errors: {_of(new, 'call')} instead of {_of(old, 'call')}"
    p = _heads(more, more + fewer)
    worse = (new.value or 0.0) > (old.value or 0.0) and p < p_value
    return f"{text}; more in {many(more, 'item')}, fewer in {fewer}, p = {_p(p)}" if worse else text, worse


def _per_call(trial: Trial) -> float:
    return trial.tool_errors / trial.calls if trial.calls else 0.0


def _judged(trials: Sequence[Trial]) -> Share:
    """Of the changes that reached the reviewers those that they passed."""
    words = [one.reviewed for one in trials if one.reviewed]
    return share(words.count("pass"), len(words))


def _precision(judged: Sequence[Share], right: Sequence[Estimate], p_value: float) -> tuple[str, bool]:
    """The precision of both in words, and whether it got worse."""
    old, new = judged
    if right[0].value is None or right[1].value is None:
        return "how much of what the gate accepts is right is unknown: no night has measured these reviewers", False
    p = _fewer(new.hits, new.of, old.hits, old.of)
    worse = right[1].value < right[0].value and p < p_value
    text = f"of what the gate accepts about {_estimate(right[1])} is right instead of {_estimate(right[0])}"
    passed = f"the reviewers passed {_of(new, 'change')} instead of {_of(old, 'change')}, p = {_p(p)}"
    return f"{text}: {passed}" if worse else text, worse


def _rate(trials: Sequence[Trial]) -> float:
    """Items per hour."""
    seconds = sum(one.seconds for one in trials)
    return round(3600 * len(trials) / seconds, 1) if seconds else 0.0


# --- words -----------------------------------------------------------------------------------------------------------


def _of(found: Share, thing: str) -> str:
    rate = f" ({100 * found.value:.1f} %)" if found.value is not None else ""
    return f"{found.hits} of {many(found.of, thing)}{rate}"


def _estimate(found: Estimate) -> str:
    assert found.value is not None and found.low is not None and found.high is not None
    return f"{100 * found.value:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f} %)"


def _p(value: float) -> str:
    """A probability as people write it: two digits that say something."""
    return f"{value:.2g}" if value >= 0.001 else "below 0.001"
