"""An engine that is started again when it dies in mid-night, a few times, with growing pauses.

Part of engine.py, around a server of our own. A request that was under way when the server died is asked once more of
the next one, within its own deadline; one that comes while there is none waits for it. A server that refuses lives: its
error is the caller's. What is left of a dead one is ended before the next is started. Decides nothing about items.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from pantheon.engine import Engine
from pantheon.errors import ContextOverflow, DeadlineExceeded, EngineError, Refused, SandboxError
from pantheon.records import Completion, EngineMetrics, Runtime
from pantheon.slots import Load

PAUSES_S = (1.0, 4.0, 16.0)  # before each restart of a night; then the night ends, and resumes another day
DYING_S = 10.0  # how long a server that lost its engine, and with it our requests, may take to end
Start = Callable[[], Awaitable[Engine]]


class Lives:
    """How often the engines of a night were started again: one count for all of its servers."""

    def __init__(self, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self.pauses_s = tuple(pauses_s)
        self.lost: list[str] = []  # why each restart was needed
        self.again = 0  # requests that were asked a second time

    def told(self) -> tuple[str, ...]:
        """What a person should know of it."""
        if not self.lost:
            return ()
        times = "once" if len(self.lost) == 1 else f"{len(self.lost)} times"
        asked = f"{self.again} request{'' if self.again == 1 else 's'} under way asked once more"
        return (f"the engine died {times} in mid-night and was started again, {asked}: {self.lost[-1]}",)


class Revived:
    """An engine that is one server after the other, all alike. Make one with `open_revived`."""

    def __init__(
        self,
        first: Engine,
        start: Start,
        lives: Lives,
        sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.window = first.name, first.window
        self._now, self._start, self._lives, self._sleep, self._clock = first, start, lives, sleep, clock
        self._life = 0
        self._rebirth: asyncio.Task[None] | None = None
        self._error: EngineError | None = None
        self._closed = False
        self._ended, self._last = EngineMetrics(), EngineMetrics()  # of servers that are gone; of this one when asked

    # --- what an engine does ---

    @property
    def model(self) -> str:
        return self._now.model

    @property
    def max_model_len(self) -> int:
        return self._now.max_model_len

    def alive(self) -> bool:
        """Whether there is a server, or will be one."""
        return not self._closed and self._error is None

    def of(self, runtime: Runtime) -> Engine:
        return _Voice(self, runtime)

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    def render(self, system: str, user: str) -> str:
        return self._now.render(system, user)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        wanted = {"schema": schema, "max_tokens": max_tokens, "logprobs": logprobs}
        return await self.ask(lambda server: server, prompt, wanted, deadline_s)

    async def metrics(self) -> EngineMetrics:
        """The sums over all servers so far; of one that died what it said last."""
        life = self._life
        with contextlib.suppress(EngineError):
            now = await self._now.metrics()
            if life == self._life and (self._rebirth is None or self._rebirth.done()):
                self._last = now
        return summed(self._ended, self._last)

    def load(self) -> Load:
        return self._now.load()

    async def close(self) -> None:
        self._closed = True
        if self._rebirth is not None:
            self._rebirth.cancel()
            await asyncio.gather(self._rebirth, return_exceptions=True)
        await self._now.close()

    # --- lives ---

    async def ask(
        self, speaks: Callable[[Engine], Engine], prompt: str, wanted: dict[str, Any], deadline_s: float
    ) -> Completion:
        """One answer by the server as it `speaks`: asked again exactly once when the server dies over it."""
        until = self._clock() + deadline_s
        for attempt in (1, 2):
            if not self._now.alive():
                await self._wait(self._life, EngineError("no answer", self.model, "the server has ended"), until)
            life, server = self._life, self._now
            try:
                return await speaks(server).complete(prompt, deadline_s=max(0.0, until - self._clock()), **wanted)
            except (ContextOverflow, Refused):
                raise
            except EngineError as error:
                if attempt == 2 or not await self._dead(server):
                    raise
                await self._wait(life, error, until)
                self._lives.again += 1
        raise AssertionError("two attempts end in an answer or in an error")

    async def _dead(self, server: Engine) -> bool:
        """Whether a server that failed us is gone: what is left of it may answer a moment longer."""
        until = self._clock() + DYING_S
        while server.alive() and self._clock() < until:
            await asyncio.sleep(0.02)
        return not server.alive()

    async def _wait(self, life: int, lost: EngineError, until: float) -> None:
        """Wait for the server after that of `life`. Raises EngineError where there is none, DeadlineExceeded."""
        if self._life == life and self.alive() and (self._rebirth is None or self._rebirth.done()):
            self._rebirth = asyncio.create_task(self._revive(lost))
        if self._rebirth is not None:
            await asyncio.wait([self._rebirth], timeout=max(0.0, until - self._clock()))
        if self._error is not None:
            raise self._error
        if self._closed:
            raise lost
        if self._life == life:
            raise DeadlineExceeded("no answer", self.model, "the engine died, and the next one was not there in time")

    async def _revive(self, lost: EngineError) -> None:
        """End what is left of the server, and start another one. Where that cannot be, the engine is dead."""
        self._ended, self._last = summed(self._ended, self._last), EngineMetrics()
        while not self._closed:
            with contextlib.suppress(SandboxError):  # what cannot be killed is told by the start after it
                await self._now.close()
            if len(self._lives.lost) >= len(self._lives.pauses_s):
                self._error = EngineError("the engine keeps dying", self.model, lost.why, lost.hint)
                return
            pause_s = self._lives.pauses_s[len(self._lives.lost)]
            self._lives.lost.append(lost.why)
            await self._sleep(pause_s)
            try:
                self._now = await self._start()
            except (EngineError, DeadlineExceeded, SandboxError) as error:
                lost = EngineError(error.what, error.thing, error.why, error.hint)
                continue
            self._life += 1
            return


class _Voice:
    """A Revived as it speaks for an agent, whichever server there is."""

    def __init__(self, revived: Revived, runtime: Runtime) -> None:
        self._revived, self._runtime = revived, runtime
        self.name, self.window = revived.name, revived.window

    @property
    def model(self) -> str:
        return self._revived.model

    @property
    def max_model_len(self) -> int:
        return self._revived.max_model_len

    def alive(self) -> bool:
        return self._revived.alive()

    def of(self, runtime: Runtime) -> Engine:
        return self._revived.of(runtime)

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._revived.turn()

    def render(self, system: str, user: str) -> str:
        return self._revived.render(system, user)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        wanted = {"schema": schema, "max_tokens": max_tokens, "logprobs": logprobs}
        return await self._revived.ask(lambda server: server.of(self._runtime), prompt, wanted, deadline_s)

    async def metrics(self) -> EngineMetrics:
        return await self._revived.metrics()

    def load(self) -> Load:
        return self._revived.load()

    async def close(self) -> None:
        await self._revived.close()


async def open_revived(
    start: Start,
    lives: Lives,
    sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Engine:
    """Start the first server; an error at that is the caller's. `lives`: the night's count."""
    return Revived(await start(), start, lives, sleep, clock)


def summed(one: EngineMetrics, other: EngineMetrics) -> EngineMetrics:
    """Counters added up; how many requests there are now is the other's."""
    counters = ("prompt_tokens", "generation_tokens", "engine_steps", "prefix_cache_queries", "prefix_cache_hits")
    return other.model_copy(update={name: getattr(one, name) + getattr(other, name) for name in counters})
