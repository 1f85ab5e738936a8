"""The slots of an engine: how many requests it works on at once, and its time shared among them.

What waits for a slot waits here and not inside the server, so that the wait can be told from the work; but for a few
that are sent ahead and wait in the server, so that it has the next one at hand while our own process is busy. The
server takes what it was sent in its order: the oldest of those begins when a slot gets free. Asks nothing and knows no
server; one event loop uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from pantheon.records import Completion


class Load(NamedTuple):
    """Requests of an engine: those it works on, and those that wait for a slot of it."""

    running: int = 0
    waiting: int = 0


class Ticket:
    """One request, from when it came. `queue_s`: the wait before its slot."""

    def __init__(self, slots: Slots, came: float) -> None:
        self.queue_s = 0.0
        self._slots, self._came = slots, came
        self._share = self._started = 0.0
        self._first: float | None = None
        self.begun = False

    def begin(self) -> None:
        """It has a slot from now on."""
        self.begun = True
        self._share, self._started = self._slots.share(), self._slots.clock()
        self.queue_s = self._started - self._came

    def first(self) -> None:
        """The first token is here; later calls change nothing."""
        if self._first is None:
            self._slots.met(self)
            self._first = self._slots.clock()

    def stamped(self, done: Completion) -> Completion:
        """An answer with its times. Without a first token `prefill_s` is 0."""
        self._slots.met(self)
        now = self._slots.clock()
        times = {
            "seconds": self.queue_s + now - self._started,
            "queue_s": self.queue_s,
            "prefill_s": 0.0 if self._first is None else self._first - self._started,
            "engine_s": self._slots.share() - self._share,
        }
        return done.model_copy(update=times)


class Slots:
    """`count` slots, and `ahead` places in the server's own queue. `running` requests have a slot, `waiting` ones want
    one; who came first is served first."""

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic, ahead: int = 0) -> None:
        self.clock = clock
        self.running = 0
        self._count, self._outside = count, 0
        self._free = asyncio.Semaphore(count + ahead)
        self._next: list[Ticket] = []  # in the server, behind those that run
        self._share, self._at = 0.0, clock()

    @property
    def waiting(self) -> int:
        return self._outside + len(self._next)

    @property
    def load(self) -> Load:
        """What is in it now."""
        return Load(running=self.running, waiting=self.waiting)

    def share(self) -> float:
        """The integral of dt / running until now: what one request would have got that had a slot all the time. The
        differences that requests see add up to the time in which any request ran."""
        now = self.clock()
        if self.running:
            self._share += (now - self._at) / self.running
        self._at = now
        return self._share

    def met(self, ticket: Ticket) -> None:
        """The server answers this one: it has a slot, though we have not heard yet of one that is free."""
        if not ticket.begun:
            self._next.remove(ticket)
            self._begin(ticket)

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Ticket]:
        """Wait until a request can be sent, and hold its place to its end."""
        ticket = Ticket(self, self.clock())
        self._outside += 1
        try:
            await self._free.acquire()
        finally:
            self._outside -= 1
        self._next.append(ticket)
        self._fill()
        try:
            yield ticket
        finally:
            self.share()  # up to now it was for those who were here
            if ticket.begun:
                self.running -= 1
            else:
                self._next.remove(ticket)
            self._fill()
            self._free.release()

    def _fill(self) -> None:
        """Free slots for the oldest of those that were sent."""
        while self._next and self.running < self._count:
            self._begin(self._next.pop(0))

    def _begin(self, ticket: Ticket) -> None:
        self.share()  # up to now it was for those who were here
        self.running += 1
        ticket.begin()
