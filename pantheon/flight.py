"""How many items are in flight: as many as keep a few requests waiting for the engine, and not more. Pure.

Fewer, and the engine runs half empty while items are with their tools and checks; more, and what is in flight only
waits, and is lost for this night where its budget ends. How long tools and checks take beside the model is not known
before a night and changes within it, so the number is found by looking at who waits: it grows by a step while nobody
does, and shrinks by a part while many do (additive increase, multiplicative decrease: Chiu and Jain, Computer Networks
and ISDN Systems 17, 1989). The order of the queue is the plan's, but for the last items of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

T = TypeVar("T")

LOOK_S = 1.0  # between two looks: an item that was started asks within a fraction of it
STEP, CUT = 8, 8  # of the batch is one step up, of the items in flight one cut down
FEW = 8  # of the batch: fewer that wait are too few; more than a whole batch of them is too many
WIDEST = 3  # times what a night begins with: what is in flight when the budget ends was begun in vain


@dataclass(frozen=True)
class Flight:
    """`size` items may be in flight, never fewer than `least` nor more than `most`; `batch` requests are in the engine
    at once. `grown`, `cut`: how often it moved; `looked_s`: when it last could."""

    size: int
    least: int
    most: int
    batch: int
    grown: int = 0
    cut: int = 0
    looked_s: float = float("-inf")

    def due(self, t_s: float) -> float:
        """Seconds until the next look; 0 or less: now. A number that cannot move is never looked at."""
        return self.looked_s + LOOK_S - t_s if self.least < self.most else float("inf")

    def seen(self, t_s: float, waiting: int, more: bool = True) -> Flight:
        """After a look at time `t_s`, with so many requests waiting for the engine. Without `more` items to start it
        does not grow: nobody waits for another reason."""
        if self.due(t_s) > 0:
            return self
        if more and waiting < max(1, self.batch // FEW):
            size = min(self.most, self.size + max(1, self.batch // STEP))
            return replace(self, size=size, grown=self.grown + (size > self.size), looked_s=t_s)
        if waiting > self.batch:
            size = max(self.least, self.size - max(1, self.size // CUT))
            return replace(self, size=size, cut=self.cut + (size < self.size), looked_s=t_s)
        return replace(self, looked_s=t_s)


def planned(window: int, widest: int, batch: int) -> Flight:
    """The flight of a night that begins with `window` items and may have `widest` (0, or fewer: it stays as it is)."""
    most = max(window, widest)
    return Flight(size=window, least=min(window, batch) if most > window else window, most=most, batch=max(1, batch))


def closing(queue: Sequence[T], work: Callable[[T], int], last: int) -> list[T]:
    """The queue with its `last` items in another order: those with most work first. They are in flight together at the
    end of a night, whatever their order is; so none that is long is begun last and then goes on alone, with the engine
    nearly empty (longest processing time first: Graham, SIAM J. Appl. Math. 17, 1969)."""
    kept = max(0, len(queue) - last)
    return [*queue[:kept], *sorted(queue[kept:], key=work, reverse=True)]
