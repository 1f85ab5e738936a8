"""The slots of an engine: who waits, and whose the engine's time is. The clock is the test's own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.records import Completion
from pantheon.slots import Load, Slots, Ticket

ANSWER = Completion(text="", finish_reason="stop", prompt_tokens=1, completion_tokens=1, seconds=0.0)


@dataclass
class Stage:
    """Requests that come and go as they are told, at times that are told."""

    count: int
    ahead: int = 0
    now: float = 0.0
    ends: list[asyncio.Event] = field(default_factory=list)
    jobs: list[asyncio.Task[Completion]] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)  # of those that were sent

    def __post_init__(self) -> None:
        self.slots = Slots(self.count, lambda: self.now, self.ahead)

    async def come(self) -> None:
        end = asyncio.Event()
        self.ends.append(end)
        self.jobs.append(asyncio.ensure_future(self._stay(end)))
        await self.settle()

    async def go(self, number: int) -> Completion:
        self.ends[number].set()
        done = await self.jobs[number]
        await self.settle()
        return done

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _stay(self, end: asyncio.Event) -> Completion:
        async with self.slots.one() as ticket:
            self.tickets.append(ticket)
            await end.wait()
            return ticket.stamped(ANSWER)


def test_the_time_is_shared_by_those_in_flight() -> None:
    async def play() -> None:
        stage = Stage(2)
        await stage.come()
        stage.now = 1.0
        await stage.come()
        await stage.come()
        assert (stage.slots.running, stage.slots.waiting) == (2, 1)
        stage.now = 3.0
        first = await stage.go(0)
        assert (first.seconds, first.queue_s, first.engine_s) == (3.0, 0.0, 2.0)
        assert (stage.slots.running, stage.slots.waiting) == (2, 0)
        stage.now = 7.0
        third = await stage.go(2)
        assert (third.seconds, third.queue_s, third.engine_s) == (6.0, 2.0, 2.0)
        stage.now = 8.0
        second = await stage.go(1)
        assert (second.seconds, second.queue_s, second.engine_s) == (7.0, 0.0, 4.0)

    asyncio.run(play())


def test_the_first_token_parts_the_time() -> None:
    async def play() -> Completion:
        stage = Stage(1)
        async with stage.slots.one() as ticket:
            stage.now = 2.0
            ticket.first()
            stage.now = 5.0
            ticket.first()
            return ticket.stamped(ANSWER)

    done = asyncio.run(play())
    assert (done.prefill_s, done.seconds) == (2.0, 5.0)


def test_who_gives_up_waiting_takes_no_slot_along() -> None:
    async def play() -> None:
        stage = Stage(1)
        await stage.come()
        await stage.come()
        stage.jobs[1].cancel()
        await stage.settle()
        assert (stage.slots.running, stage.slots.waiting) == (1, 0)
        await stage.go(0)
        await stage.come()
        assert (stage.slots.running, stage.slots.waiting) == (1, 0)
        await stage.go(2)

    asyncio.run(play())


COMINGS = st.lists(st.tuples(st.floats(0.0, 10.0), st.booleans()), min_size=1, max_size=24)


@given(st.integers(1, 3), st.integers(0, 2), COMINGS)
def test_the_shares_add_up_to_the_time_in_which_anything_ran(
    count: int, ahead: int, script: list[tuple[float, bool]]
) -> None:
    async def play() -> None:
        stage, busy = Stage(count, ahead), 0.0
        left: list[int] = []
        shares: list[Completion] = []
        for wait, comes in script:
            busy += wait if stage.slots.running else 0.0
            stage.now += wait
            if comes or not left:
                await stage.come()
                left.append(len(stage.jobs) - 1)
            else:
                shares.append(await stage.go(left.pop(0)))
            assert stage.slots.running == min(count, len(left))
            assert stage.slots.waiting == max(0, len(left) - count)
        for number in left:
            shares.append(await stage.go(number))
        assert sum(done.engine_s for done in shares) == pytest.approx(busy)
        assert all(done.engine_s <= done.seconds - done.queue_s + 1e-9 for done in shares)

    asyncio.run(play())


def test_what_is_sent_ahead_waits_until_a_slot_is_free() -> None:
    async def play() -> None:
        stage = Stage(1, ahead=1)
        for _ in range(3):
            await stage.come()
        assert stage.slots.load == Load(running=1, waiting=2)
        assert [ticket.begun for ticket in stage.tickets] == [True, False], "two are sent, one of them works"
        stage.now = 4.0
        first = await stage.go(0)
        assert (first.seconds, first.queue_s, first.engine_s) == (4.0, 0.0, 4.0)
        assert [ticket.begun for ticket in stage.tickets] == [True, True, False]
        stage.now = 7.0
        second = await stage.go(1)
        assert (second.seconds, second.queue_s, second.engine_s) == (7.0, 4.0, 3.0)
        stage.now = 8.0
        third = await stage.go(2)
        assert (third.seconds, third.queue_s) == (8.0, 7.0)
        assert stage.slots.load == Load()

    asyncio.run(play())


def test_an_answer_that_comes_before_we_know_of_its_slot_began_then() -> None:
    async def play() -> None:
        stage = Stage(1, ahead=1)
        await stage.come()
        await stage.come()
        stage.now = 2.0
        stage.tickets[1].first()
        assert stage.slots.load == Load(running=2, waiting=0)
        stage.now = 3.0
        second = await stage.go(1)
        assert (second.queue_s, second.prefill_s, second.seconds) == (2.0, 0.0, 3.0)
        assert stage.slots.load == Load(running=1, waiting=0)
        await stage.go(0)

    asyncio.run(play())


def test_what_was_sent_ahead_and_given_up_leaves_no_trace() -> None:
    async def play() -> None:
        stage = Stage(1, ahead=1)
        for _ in range(3):
            await stage.come()
        stage.jobs[1].cancel()
        await stage.settle()
        assert stage.slots.load == Load(running=1, waiting=1)
        await stage.go(0)
        assert stage.slots.load == Load(running=1, waiting=0)
        await stage.go(2)

    asyncio.run(play())
