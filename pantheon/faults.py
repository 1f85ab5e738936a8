"""Where a kill can come between two steps of what must not be half done: named points in git.py and process.py.

Nothing happens at a point, unless a test or `bench/faults.py` armed one. Ring 0.
"""

from __future__ import annotations

from collections.abc import Callable

_armed: list[Callable[[str], None]] = []


def point(name: str) -> None:
    """We are about to take the step `name`, or have just taken it."""
    for strike in _armed:
        strike(name)


def arm(strike: Callable[[str], None] | None) -> None:
    """Have `strike` called with the name of each point from now on; None: with none any more."""
    _armed[:] = [] if strike is None else [strike]
