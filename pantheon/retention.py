"""What of old nights is kept and what goes, decided from values alone.

A night goes with its runs once it is not among the newest, but for the runs that somebody still needs: each of those
keeps its night, by whose record it is verified. A night that did not end, and one that is open to a decision, never
goes. Closed PRs leave the ref namespace, and nothing of them is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pantheon.records import PullRequest, PullState, Record

ACCEPTED, OPEN, MINED = "accepted", "in an open PR", "mined"
CLOSED = (PullState.ACCEPTED, PullState.REJECTED, PullState.SUPERSEDED)


class NightSeen(Record):
    id: str
    ended: bool


class Keeping(Record):
    """What goes, and why the old that stays stays. `runs` by id; `nights` in order; `pulls` leave their refs."""

    runs: tuple[str, ...]
    nights: tuple[str, ...]
    pulls: tuple[int, ...]
    old: tuple[str, ...]  # nights that are not among the newest
    pinned: dict[str, int]  # why -> how many old runs stay for that


def decide(
    nights: Sequence[NightSeen],
    runs: Mapping[str, str],
    pulls: Sequence[PullRequest],
    mined: Collection[str],
    gone: Collection[str],
    *,
    keep_nights: int,
    keep_closed: int,
) -> Keeping:
    """`nights`: oldest first. `runs`: run -> its night. `gone`: nights that went before, of which a kill may have left
    runs. `keep_nights`: how many of the newest stay whole; `keep_closed`: how many closed PRs keep refs of their own.
    """
    newest = nights[len(nights) - min(len(nights), keep_nights) :]
    stay = {night.id for night in newest}
    old = [night.id for night in nights if night.id not in stay and night.ended]
    pins = _pins(pulls, mined)
    going = set(old) | (set(gone) - {night.id for night in nights})
    candidates = {run: night for run, night in runs.items() if night in going}
    pinned = Counter(pins[run] for run in candidates if run in pins)
    needed = {night for run, night in candidates.items() if run in pins}
    closed = sorted(pull.id for pull in pulls if pull.state in CLOSED)
    return Keeping(
        runs=tuple(sorted(run for run in candidates if run not in pins)),
        nights=tuple(night for night in old if night not in needed),
        pulls=tuple(closed[: max(0, len(closed) - keep_closed)]),
        old=tuple(old),
        pinned=dict(sorted(pinned.items())),
    )


def _pins(pulls: Sequence[PullRequest], mined: Collection[str]) -> dict[str, str]:
    """Run -> why it stays. Of an open PR also what was taken off it: that can be undone."""
    pins = dict.fromkeys(mined, MINED)
    for pull in pulls:
        if pull.state is PullState.ACCEPTED:
            pins |= {item.run: ACCEPTED for item in pull.live}
        elif pull.state not in CLOSED:
            pins |= {item.run: OPEN for item in pull.items if item.run}
    return pins
