"""The slots of an engine: how many requests it works on at once, and its time shared among them.

What waits for a slot waits here and not inside the server, so that the wait can be told from the work. Asks nothing and
knows no server; one event loop uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from pantheon.records import Completion


class Ticket:
    """One request's time in a slot, up to now. `queue_s`: the wait before it."""

    def __init__(self, slots: Slots, queue_s: float) -> None:
        self.queue_s = queue_s
        self._slots, self._share, self._started = slots, slots.share(), slots.clock()
        self._first: float | None = None

    def first(self) -> None:
        """The first token is here; later calls change nothing."""
        if self._first is None:
            self._first = self._slots.clock()

    def stamped(self, done: Completion) -> Completion:
        """An answer with its times. Without a first token `prefill_s` is 0."""
        now = self._slots.clock()
        times = {
            "seconds": self.queue_s + now - self._started,
            "queue_s": self.queue_s,
            "prefill_s": 0.0 if self._first is None else self._first - self._started,
            "engine_s": self._slots.share() - self._share,
        }
        return done.model_copy(update=times)


class Slots:
    """`count` slots. `running` requests have one, `waiting` ones want one; who came first is served first."""

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.running = self.waiting = 0
        self._free = asyncio.Semaphore(count)
        self._share, self._at = 0.0, clock()

    def share(self) -> float:
        """The integral of dt / running until now: what one request would have got that had a slot all the time. The
        differences that requests see add up to the time in which any request ran."""
        now = self.clock()
        if self.running:
            self._share += (now - self._at) / self.running
        self._at = now
        return self._share

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Ticket]:
        """Wait for a slot and hold it."""
        came = self.clock()
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            self.share()  # up to now it was for those who were here
            self.running += 1
            yield Ticket(self, self.clock() - came)
        finally:
            self.share()
            self.running -= 1
            self._free.release()
