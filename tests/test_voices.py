"""Voices take turns on one machine: a node asks the server that speaks for it, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.engine import Engine, ScriptedEngine
from pantheon.errors import EngineError
from pantheon.records import Runtime
from pantheon.voices import Key, Voices

ANY: dict[str, Any] = {"type": "string"}
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SERVERS: dict[Key, str] = {("default", None): "base", ("default", A): "a", ("default", B): "b"}


class House:
    """Starts scripted servers that say their own name, one at a time, and keeps the order."""

    def __init__(self, fails: str = "") -> None:
        self.started: list[str] = []
        self.running: list[ScriptedEngine] = []
        self.fails = fails

    async def start(self, server: str) -> Engine:
        assert not any(engine.alive() for engine in self.running), "the one before has ended"
        await asyncio.sleep(0)
        if server == self.fails:
            raise EngineError("cannot start the engine", server, "no memory")
        self.started.append(server)
        self.running.append(ScriptedEngine(lambda prompt, schema: json.dumps(server)))
        return self.running[-1]

    def voices(self, settle_s: float = 0.0) -> Voices:
        names = {server: f"model {server}" for server in SERVERS.values()}
        return Voices(SERVERS, self.start, names=names, window=4, context=512, settle_s=settle_s)


def runtime(adapter: str | None) -> Runtime:
    return Runtime(origin="local", adapter=adapter)


async def ask(engine: Engine) -> str:
    done = await engine.complete("who?", schema=ANY, max_tokens=9, deadline_s=5)
    return str(json.loads(done.text))


async def node(engine: Engine, heard: list[str], calls: int = 1) -> None:
    async with engine.turn():
        for _ in range(calls):
            heard.append(await ask(engine))
            await asyncio.sleep(0)


def run(job: Callable[[Voices], Awaitable[None]], house: House, settle_s: float = 0.0) -> None:
    async def whole() -> None:
        voices = house.voices(settle_s)
        try:
            async with asyncio.timeout(20):
                await job(voices)
        finally:
            await voices.close()
        assert not any(engine.alive() for engine in house.running)

    asyncio.run(whole())


def test_items_that_go_from_one_voice_to_another_need_one_server_after_the_other_once() -> None:
    house, heard = House(), [list[str]() for _ in range(12)]

    async def item(voices: Voices, mine: list[str]) -> None:
        await node(voices.of(runtime(A)), mine, calls=3)
        await asyncio.sleep(0.01)  # its checks
        await node(voices.of(runtime(None)), mine)

    async def job(voices: Voices) -> None:
        await asyncio.gather(*(item(voices, mine) for mine in heard))
        assert [phase.server for phase in voices.phases()] == ["a", "base"]

    run(job, house)
    assert house.started == ["a", "base"]
    assert all(mine == ["a", "a", "a", "base"] for mine in heard)


def test_a_voice_says_whose_it_is() -> None:
    async def job(voices: Voices) -> None:
        assert (voices.of(runtime(A)).model, voices.model) == ("model a", "model base")
        assert voices.of(Runtime(origin="local", model="another")).model == "model base"
        with pytest.raises(EngineError, match="no such voice"):
            voices.of(runtime("sha256:" + "c" * 64))

    run(job, House())


def test_the_server_stays_while_a_node_holds_its_turn() -> None:
    house = House()

    async def job(voices: Voices) -> None:
        mine, other = voices.of(runtime(A)), voices.of(runtime(B))
        async with mine.turn():
            waiting = asyncio.create_task(node(other, []))
            await asyncio.sleep(0.05)
            assert await ask(mine) == "a" and house.started == ["a"]
        await waiting

    run(job, house)
    assert house.started == ["a", "b"]


def test_a_voice_that_may_have_more_to_say_is_given_time() -> None:
    house = House()

    async def job(voices: Voices) -> None:
        async def twice() -> None:
            await node(voices.of(runtime(A)), [])
            await asyncio.sleep(0.02)
            await node(voices.of(runtime(A)), [])

        await asyncio.gather(twice(), node(voices.of(runtime(B)), []))

    run(job, house, settle_s=0.2)
    assert house.started == ["a", "b"] or house.started == ["b", "a"]


def test_a_server_that_does_not_start_is_everybody_s_error() -> None:
    house = House(fails="b")

    async def job(voices: Voices) -> None:
        await node(voices.of(runtime(A)), [])
        said = await asyncio.gather(*(node(voices.of(runtime(B)), []) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in said] == [EngineError] * 3
        assert not voices.alive()
        with pytest.raises(EngineError, match="no memory"):
            await node(voices.of(runtime(A)), [])

    run(job, house)


def test_who_gives_up_waiting_does_not_hold_up_the_others() -> None:
    house = House()

    async def job(voices: Voices) -> None:
        async with voices.of(runtime(A)).turn():
            gone = [asyncio.create_task(node(voices.of(runtime(B)), [])) for _ in range(3)]
            left = asyncio.create_task(node(voices.of(runtime(None)), []))
            await asyncio.sleep(0.01)
            for task in gone:
                task.cancel()
        await left
        await asyncio.gather(*gone, return_exceptions=True)

    run(job, house)
    assert "b" not in house.started


def test_outside_of_a_turn_nobody_is_asked() -> None:
    async def job(voices: Voices) -> None:
        with pytest.raises(EngineError, match="within a turn"):
            await ask(voices.of(runtime(A)))

    run(job, House())


def test_counters_go_on_over_all_servers() -> None:
    async def job(voices: Voices) -> None:
        await node(voices.of(runtime(A)), [], calls=2)
        first = await voices.metrics()
        await node(voices.of(runtime(B)), [], calls=3)
        second = await voices.metrics()
        assert 0 < first.generation_tokens < second.generation_tokens
        assert sum(phase.tokens for phase in voices.phases()) == second.generation_tokens

    run(job, House())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([None, A, B]), min_size=1, max_size=4), min_size=1, max_size=12))
def test_every_item_comes_to_its_end_whatever_it_asks(items: list[list[str | None]]) -> None:
    house, names = House(), {None: "base", A: "a", B: "b"}

    async def item(voices: Voices, asked: list[str | None]) -> None:
        heard: list[str] = []
        for adapter in asked:
            await node(voices.of(runtime(adapter)), heard)
        assert heard == [names[adapter] for adapter in asked]

    async def job(voices: Voices) -> None:
        await asyncio.gather(*(item(voices, asked) for asked in items))

    run(job, house)
    assert len(house.started) <= sum(map(len, items))
