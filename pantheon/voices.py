"""Voices that take turns: one model server at a time, each with its own weights, started when its turn comes.

Part of engine.py, for where one server cannot speak for all agents at once: on a CPU, where adapters have to be
merged (serving.py says why), and for two models. A node holds the turn of its voice while it asks; when nobody holds it
and others wait, the server is ended and theirs is started. Decides nothing about which voices there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from pantheon.engine import Engine
from pantheon.errors import EngineError
from pantheon.records import Completion, EngineMetrics, Phase, Runtime
from pantheon.revive import summed
from pantheon.slots import Load

SETTLE_S = 2.0  # a voice whose last node has ended may have more to say: items come out of their checks meanwhile
Key = tuple[str, str | None]  # model, adapter
Start = Callable[[str], Awaitable[Engine]]


class Voices:
    """An engine that is one server after the other. `servers`: what each pair of model and adapter is served by, as a
    name that `start` knows; `names`: the model that each has; `window`, `context` (tokens) as of any engine."""

    name = "vllm"

    def __init__(
        self,
        servers: Mapping[Key, str],
        start: Start,
        *,
        names: Mapping[str, str],
        window: int,
        context: int,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.window, self.max_model_len = names[servers["default", None]], window, context
        self.names = dict(names)
        self._servers, self._start, self._settle_s, self._clock = dict(servers), start, settle_s, clock
        self._now: Engine | None = None
        self._active = ""
        self._holders = 0
        self._waiting: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._switch: asyncio.Task[None] | None = None
        self._error: EngineError | None = None
        self._closed = False
        self._ended = EngineMetrics()  # the counters of servers that are gone
        self._opened_at, self._tokens = clock(), 0  # when the server that runs was ready, what it generated so far
        self._phases: list[Phase] = []

    # --- what an engine does ---

    def alive(self) -> bool:
        return not self._closed and self._error is None and (self._now is None or self._now.alive())

    def of(self, runtime: Runtime) -> Engine:
        """The voice of a model and an adapter. A model that is no voice of its own is the night's. Raises EngineError
        for an adapter that was not prepared."""
        found = self._servers.get((runtime.model, runtime.adapter), self._servers.get(("default", runtime.adapter)))
        if found is None:
            raise EngineError("no such voice", f"{runtime.model} {runtime.adapter or ''}", "it was not prepared")
        return _Voice(self, found)

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Nobody in particular asks: the turn of whoever has it."""
        return contextlib.nullcontext()

    def render(self, system: str, user: str) -> str:
        return self.speaking().render(system, user)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        return await self.speaking().complete(
            prompt, schema=schema, max_tokens=max_tokens, deadline_s=deadline_s, logprobs=logprobs
        )

    async def metrics(self) -> EngineMetrics:
        """The sums over all servers so far."""
        if self._now is None:
            return self._ended
        with contextlib.suppress(EngineError):
            now = await self._now.metrics()
            self._tokens = int(now.generation_tokens)
            return summed(self._ended, now)
        return self._ended

    def load(self) -> Load:
        return Load() if self._now is None else self._now.load()

    async def close(self) -> None:
        self._closed = True
        if self._switch is not None:
            self._switch.cancel()
            await asyncio.gather(self._switch, return_exceptions=True)
        await self._end()

    def phases(self) -> tuple[Phase, ...]:
        """The turns so far; of the one that runs what is known of it."""
        if self._now is None or not self._phases:
            return tuple(self._phases)
        known = {"seconds": round(self._clock() - self._opened_at, 3), "tokens": self._tokens}
        last = self._phases[-1].model_copy(update=known)
        return (*self._phases[:-1], last)

    # --- turns ---

    def speaking(self) -> Engine:
        """The server that runs now. Raises EngineError when there is none."""
        if self._error is not None:
            raise self._error
        if self._now is None:
            raise EngineError("no answer", self.model, "no model is loaded: ask within a turn")
        return self._now

    @contextlib.asynccontextmanager
    async def turn_of(self, server: str) -> AsyncIterator[None]:
        """Wait until `server` runs, and keep it running."""
        async with self._changed:
            self._waiting[server] += 1
            self._plan()
            try:
                await self._changed.wait_for(lambda: self._ready(server))
            finally:
                self._waiting[server] -= 1
                if not self._ready(server):
                    self._plan()  # it was cancelled: others may wait
            if self._error is not None:
                raise self._error
            self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            self._plan()

    def _ready(self, server: str) -> bool:
        return self._error is not None or (self._active == server and self._now is not None)

    def _plan(self) -> None:
        """See to it that somebody looks whether the turn has to pass on."""
        if (self._switch is None or self._switch.done()) and not self._closed and self._wanted():
            self._switch = asyncio.create_task(self._pass_on())

    def _wanted(self) -> str:
        """The server that most wait for, where nobody holds or wants the one that runs; "" for none."""
        if self._holders or self._error is not None or self._waiting[self._active]:
            return ""
        most = [(count, name) for name, count in self._waiting.items() if count and name != self._active]
        return max(most)[1] if most else ""

    async def _pass_on(self) -> None:
        """End the server whose turn is over and start the next, as long as that is wanted."""
        while True:
            if self._now is not None:
                await asyncio.sleep(self._settle_s)
            wanted = self._wanted()
            if not wanted:
                return
            started = self._clock()
            try:
                await self._end()
                self._now = await self._start(wanted)
                self.max_model_len = self._now.max_model_len
            except EngineError as error:
                self._error = error
            self._active = wanted
            self._opened_at, self._tokens = self._clock(), 0
            self._phases.append(Phase(server=wanted, start_s=round(self._opened_at - started, 3)))
            async with self._changed:
                self._changed.notify_all()

    async def _end(self) -> None:
        """End the server that runs, and count what it did."""
        if self._now is None:
            return
        now, self._now = self._now, None
        before = self._ended
        with contextlib.suppress(EngineError):
            self._ended = summed(before, await now.metrics())
        if self._phases:
            tokens = int(self._ended.generation_tokens - before.generation_tokens)
            seconds = round(self._clock() - self._opened_at, 3)
            self._phases[-1] = self._phases[-1].model_copy(update={"seconds": seconds, "tokens": tokens})
        await now.close()


class _Voice:
    """One voice of `Voices`: an engine like any other, within its turns."""

    def __init__(self, voices: Voices, server: str) -> None:
        self._voices, self._server = voices, server
        self.name, self.window, self.model = voices.name, voices.window, voices.names[server]

    @property
    def max_model_len(self) -> int:
        return self._voices.max_model_len

    def alive(self) -> bool:
        return self._voices.alive()

    def of(self, runtime: Runtime) -> Engine:
        return self._voices.of(runtime)

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._voices.turn_of(self._server)

    def render(self, system: str, user: str) -> str:
        return self._voices.render(system, user)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        return await self._voices.complete(
            prompt, schema=schema, max_tokens=max_tokens, deadline_s=deadline_s, logprobs=logprobs
        )

    async def metrics(self) -> EngineMetrics:
        return await self._voices.metrics()

    def load(self) -> Load:
        return self._voices.load()

    async def close(self) -> None:
        await self._voices.close()
