"""How many items are in flight: enough that somebody waits for the engine, few enough that few do."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.flight import CUT, FEW, LOOK_S, STEP, Flight, closing, planned

LOOKS = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 500), st.booleans()), max_size=60)


@given(st.integers(1, 400), st.integers(0, 1200), st.integers(1, 200), LOOKS)
def test_it_never_leaves_its_bounds_and_moves_at_most_once_a_look(
    window: int, widest: int, batch: int, looks: list[tuple[float, int, bool]]
) -> None:
    flight, t_s, moves = planned(window, widest, batch), 0.0, 0
    assert flight.size == window
    for wait, waiting, more in looks:
        t_s += wait
        before, flight = flight, flight.seen(t_s, waiting, more)
        assert min(window, flight.least) <= flight.size <= max(window, widest)
        moves += flight.size != before.size
        if flight.size > before.size:
            assert more and waiting < max(1, batch // FEW)
            assert flight.size - before.size <= max(1, batch // STEP)
        if flight.size < before.size:
            assert waiting > batch
            assert before.size - flight.size <= max(1, before.size // CUT)
    assert moves == flight.grown + flight.cut
    assert moves <= t_s / LOOK_S + 1


@given(st.integers(1, 400), st.integers(1, 200), LOOKS)
def test_a_window_that_a_person_chose_stays(window: int, batch: int, looks: list[tuple[float, int, bool]]) -> None:
    flight = planned(window, 0, batch)
    for number, (_, waiting, more) in enumerate(looks):
        flight = flight.seen(10.0 * number, waiting, more)
    assert (flight.size, flight.grown, flight.cut) == (window, 0, 0)
    assert flight.due(0.0) == float("inf"), "and nobody has to wake up for it"


def played(flight: Flight, tool_s: float, answer_s: float, until_s: float) -> tuple[Flight, list[int]]:
    """A made-up night, by its own clock: items that ask, answer by answer, with tools in between, as long as there is
    time. The flight at its end, and at each look how many waited."""
    chance, now, slots = random.Random(7), 0.0, flight.batch
    number = itertools.count()
    events: list[tuple[float, int, str]] = []  # when, a tie breaker, what: an item asks, an answer is there, a look
    waiting: deque[int] = deque()
    alive = busy = 0
    seen = []
    heapq.heappush(events, (LOOK_S, next(number), "look"))
    while now < until_s:
        while alive < flight.size:
            alive += 1
            heapq.heappush(events, (now + chance.uniform(0, tool_s), next(number), "ask"))
        now, _, what = heapq.heappop(events)
        if what == "look":
            flight = flight.seen(now, len(waiting))
            seen.append(len(waiting))
            heapq.heappush(events, (now + LOOK_S, next(number), "look"))
        elif what == "ask":
            waiting.append(1)
        else:
            busy -= 1
            if chance.random() < 0.2:
                alive -= 1
            else:
                heapq.heappush(events, (now + chance.uniform(0.5, 1.5) * tool_s, next(number), "ask"))
        while waiting and busy < slots:
            waiting.popleft()
            busy += 1
            heapq.heappush(events, (now + chance.uniform(0.5, 1.5) * answer_s, next(number), "answer"))
    return flight, seen


@pytest.mark.parametrize(("tool_s", "most"), [(0.1, 60), (4.0, 100), (8.0, 120)])
def test_it_finds_the_number_at_which_few_wait(tool_s: float, most: int) -> None:
    """Slots of 4 s an answer, 32 of them: tools of 4 s keep another 32 items busy, of 8 s another 64."""
    flight, seen = played(planned(40, 160, 32), tool_s, 4.0, 400.0)
    late = sorted(seen[len(seen) // 2 :])
    assert 32 * (1 + tool_s / 4.0) * 0.9 <= flight.size <= most + 16
    assert late[0] > 0, "the engine has the next request at hand"
    assert late[-1] <= 40, "and not many behind it"


def test_the_last_items_go_with_most_work_first() -> None:
    assert closing([3, 1, 4, 1, 5, 9, 2, 6], lambda one: one, 4) == [3, 1, 4, 1, 9, 6, 5, 2]
    assert closing([1, 2], lambda one: one, 9) == [2, 1]
    assert closing([2, 1], lambda one: 0, 9) == [2, 1], "equals stay in the plan's order"
    assert closing(list[int](), lambda one: one, 9) == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99))), st.integers(0, 40))
def test_the_order_loses_no_item_and_touches_only_the_last(queue: list[tuple[int, int]], last: int) -> None:
    found = closing(queue, lambda one: one[0], last)
    assert sorted(found) == sorted(queue)
    assert found[: max(0, len(queue) - last)] == queue[: max(0, len(queue) - last)]
