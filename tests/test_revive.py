"""An engine that dies and is started again: what was asked is answered once, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import survivors

from pantheon.engine import SOCKET, Engine, ScriptedEngine, VllmEngine
from pantheon.errors import DeadlineExceeded, EngineError, Refused
from pantheon.records import Completion, EngineMetrics, Runtime
from pantheon.revive import Lives, Revived, open_revived
from pantheon.voices import Key, Voices

ANY: dict[str, Any] = {"type": "string"}


class Mortal(ScriptedEngine):
    """A scripted server that dies over a request which asks for it, or when it is told to."""

    def __init__(self, number: int, house: House) -> None:
        super().__init__(lambda prompt, schema: json.dumps(f"{prompt} by {number}"), latency_s=0.01)
        self.number, self.house, self.dead, self.closed = number, house, asyncio.Event(), 0

    def alive(self) -> bool:
        return not self.dead.is_set()

    def of(self, runtime: Runtime) -> ScriptedEngine:
        self.house.voices.append(runtime.adapter)
        return self

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        self.house.asked.append((self.number, prompt))
        if self.dead.is_set():
            raise EngineError("no answer", self.model, "it is dead")
        if prompt == "refused":
            raise Refused("the engine refused", self.model, "400")
        if prompt in self.house.deadly.get(self.number, ()):
            self.dead.set()
        answer = asyncio.ensure_future(
            super().complete(prompt, schema=schema, max_tokens=max_tokens, deadline_s=deadline_s)
        )
        death = asyncio.ensure_future(self.dead.wait())
        try:
            await asyncio.wait({answer, death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
        if self.dead.is_set():
            answer.cancel()
            raise EngineError("no answer", self.model, "ReadError")
        return await answer

    async def metrics(self) -> EngineMetrics:
        if self.dead.is_set():
            raise EngineError("no metrics", self.model, "it is dead")
        return await super().metrics()

    async def close(self) -> None:
        self.closed += 1
        self.dead.set()


class House:
    """Starts mortal servers. `deadly`: by server, the prompts that kill it; `stillborn`: those that do not start."""

    def __init__(self, deadly: dict[int, tuple[str, ...]] | None = None, stillborn: tuple[int, ...] = ()) -> None:
        self.deadly, self.stillborn = deadly or {}, stillborn
        self.servers: list[Mortal] = []
        self.tried = 0
        self.asked: list[tuple[int, str]] = []
        self.voices: list[str | None] = []
        self.paused: list[float] = []
        self.lives = Lives()

    async def start(self) -> Engine:
        assert all(server.closed for server in self.servers), "what is left of the one before was ended first"
        self.tried += 1
        await asyncio.sleep(0)
        if self.tried in self.stillborn:
            raise EngineError("cannot start the engine", "x", "no memory")
        self.servers.append(Mortal(self.tried, self))
        return self.servers[-1]

    async def sleep(self, seconds: float) -> None:
        self.paused.append(seconds)
        await asyncio.sleep(0)


def run(house: House, job: Callable[[Engine], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30):
            engine = await open_revived(house.start, house.lives, house.sleep)
            try:
                await job(engine)
            finally:
                await engine.close()
        assert all(server.closed for server in house.servers)

    asyncio.run(whole())


async def ask(engine: Engine, prompt: str, deadline_s: float = 20) -> str:
    done = await engine.complete(prompt, schema=ANY, max_tokens=50, deadline_s=deadline_s)
    return str(json.loads(done.text))


def test_what_was_under_way_when_the_server_died_is_asked_once_more_and_no_answer_is_lost() -> None:
    house = House({1: ("b",)})

    async def job(engine: Engine) -> None:
        said = await asyncio.gather(*(ask(engine, prompt) for prompt in "acb"))
        assert said == ["a by 2", "c by 2", "b by 2"]
        assert await ask(engine, "d") == "d by 2"
        assert engine.alive()

    run(house, job)
    assert sorted(house.asked) == [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b"), (2, "c"), (2, "d")]
    assert house.paused == [1.0]
    said = "the engine died once in mid-night and was started again, 3 requests under way asked once more: ReadError"
    assert house.lives.told() == (said,)


def test_an_answer_that_was_given_is_not_asked_again_and_a_request_that_comes_meanwhile_waits() -> None:
    house = House()

    async def job(engine: Engine) -> None:
        assert await ask(engine, "a") == "a by 1"
        house.servers[0].dead.set()
        assert list(await asyncio.gather(ask(engine, "b"), ask(engine, "c"))) == ["b by 2", "c by 2"]

    run(house, job)
    assert sorted(house.asked) == [(1, "a"), (2, "b"), (2, "c")]


def test_a_request_that_kills_two_servers_fails_and_the_next_one_is_answered() -> None:
    house = House({1: ("poison",), 2: ("poison",)})

    async def job(engine: Engine) -> None:
        with pytest.raises(EngineError, match="no answer"):
            await ask(engine, "poison")
        assert engine.alive(), "the night goes on without that item"
        assert await ask(engine, "a") == "a by 3"

    run(house, job)
    assert [number for number, prompt in house.asked if prompt == "poison"] == [1, 2]


def test_after_three_restarts_the_engine_is_dead_and_says_why() -> None:
    house = House(dict.fromkeys(range(1, 9), ("a", "b")))

    async def job(engine: Engine) -> None:
        for _ in range(2):
            with pytest.raises(EngineError):
                await ask(engine, "a")
        with pytest.raises(EngineError, match="the engine keeps dying"):
            await ask(engine, "b")
        assert not engine.alive()
        with pytest.raises(EngineError, match="the engine keeps dying"):
            await ask(engine, "c")

    run(house, job)
    assert house.paused == [1.0, 4.0, 16.0]
    assert len(house.servers) == 4


def test_a_restart_that_fails_counts_and_the_next_one_serves() -> None:
    house = House({1: ("a",)}, stillborn=(2, 3))

    async def job(engine: Engine) -> None:
        assert await ask(engine, "a") == "a by 4"

    run(house, job)
    assert house.paused == [1.0, 4.0, 16.0]


def test_a_refusal_is_no_death() -> None:
    house = House()

    async def job(engine: Engine) -> None:
        with pytest.raises(EngineError, match="400"):
            await ask(engine, "refused")
        assert await ask(engine, "a") == "a by 1"

    run(house, job)
    assert house.asked == [(1, "refused"), (1, "a")]


def test_a_deadline_holds_while_the_next_server_is_awaited() -> None:
    class Slow(House):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(20)

    house = Slow({1: ("a",)})

    async def job(engine: Engine) -> None:
        with pytest.raises(DeadlineExceeded):
            await ask(engine, "a", deadline_s=0.2)
        assert engine.alive()

    run(house, job)


def test_counters_add_up_over_lives() -> None:
    house = House({1: ("b",)})

    async def job(engine: Engine) -> None:
        await ask(engine, "a")
        before = await engine.metrics()
        assert before.generation_tokens > 0
        await ask(engine, "b")
        after = await engine.metrics()
        own = await house.servers[1].metrics()
        assert after.generation_tokens == before.generation_tokens + own.generation_tokens
        assert after.prompt_tokens == before.prompt_tokens + own.prompt_tokens

    run(house, job)


def test_every_voice_goes_on_with_the_new_server() -> None:
    house, adapter = House({1: ("a",)}), "sha256:" + "a" * 64

    async def job(engine: Engine) -> None:
        voice = engine.of(Runtime(origin="local", adapter=adapter))
        assert (voice.model, voice.window, voice.max_model_len) == (engine.model, engine.window, engine.max_model_len)
        assert voice.render("s", "u") == engine.render("s", "u")
        assert await ask(voice, "a") == "a by 2"
        assert voice.alive()

    run(house, job)
    assert house.voices == [adapter, adapter]


def test_servers_that_take_turns_are_revived_and_share_one_count() -> None:
    house = House({1: ("a",), 3: ("b",)})

    async def start(_: str) -> Engine:
        return await open_revived(house.start, house.lives, house.sleep)

    async def job() -> None:
        servers: dict[Key, str] = {("default", None): "base", ("teacher", None): "other"}
        names = {"base": "m", "other": "t"}
        voices = Voices(servers, start, names=names, window=4, context=512, settle_s=0.0)
        try:
            async with asyncio.timeout(30):
                for model, prompt, said in (("default", "a", "a by 2"), ("teacher", "b", "b by 4")):
                    voice = voices.of(Runtime(origin="local", model=model))
                    async with voice.turn():
                        assert await ask(voice, prompt) == said
                house.servers[-1].dead.set()
                house.lives.pauses_s = (0.0, 0.0)
                async with voice.turn():
                    with pytest.raises(EngineError, match="keeps dying"):
                        await ask(voice, "c")
                assert not voices.alive(), "the night ends as it does with one server"
        finally:
            await voices.close()

    asyncio.run(job())
    assert len(house.lives.lost) == 2


@pytest.mark.live
@pytest.mark.parametrize("victim", ["api_server", "EngineCore"])
def test_a_real_server_that_is_killed_is_started_again(
    victim: str, model_dir: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killing the server that listens ends its namespace; killing the process behind it leaves one that gives up."""
    short = tmp_path_factory.mktemp("e")
    lives, started = Lives((0.1, 0.1, 0.1)), list[VllmEngine]()

    async def start() -> Engine:
        engine = await VllmEngine.start(
            model_dir, runtime_dir=short, cache_dir=tmp_path / "cache", log_path=tmp_path / "engine.log",
            on_progress=lambda _: None, eager=True,
        )  # fmt: skip
        started.append(engine)
        return engine

    async def job() -> None:
        engine = await open_revived(start, lives)
        assert isinstance(engine, Revived)
        try:
            schema = {"type": "string", "minLength": 400, "maxLength": 400}
            asked = [
                asyncio.create_task(engine.complete(f"Say {n}.", schema=schema, max_tokens=200, deadline_s=600))
                for n in range(4)
            ]
            await asyncio.sleep(2)
            _kill_below(started[0]._child.pid, victim)
            done = await asyncio.gather(*asked)
            assert [one.finish_reason in ("stop", "length") for one in done] == [True] * 4
            assert len(started) == 2
            assert len(lives.lost) == 1
        finally:
            await engine.close()

    asyncio.run(job())
    assert not survivors(str(short))
    assert not (short / SOCKET).exists()


def _kill_below(root: int, name: str) -> None:
    """SIGKILL to the processes below `root` that go by this name."""
    waiting, found = [root], 0
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
            if name in line and "bwrap" not in line.split("\0", 1)[0]:
                os.kill(pid, signal.SIGKILL)
                found += 1
    assert found, f"no process named {name}"
