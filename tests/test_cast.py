"""Who speaks in a night: adapters are verified before anything starts, a teacher speaks for those that edit, and how
they are served follows from what nights measured."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import MakeRepo

from pantheon import cast as casting
from pantheon import config, route
from pantheon.cast import Cast, Voice
from pantheon.engine import Engine, ScriptedEngine
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.records import TEACHER, Agent, Item, Runtime, Serving, Task
from pantheon.voices import Voices

MINE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
FOUND = config.load(lambda _: None, ())


def learned(name: str, adapter: str) -> Agent:
    agent = FOUND.agents[name]
    return agent.model_copy(update={"runtime": agent.runtime.model_copy(update={"adapter": adapter})})


def with_agents(*agents: Agent) -> config.Config:
    return FOUND.model_copy(update={"agents": {**FOUND.agents, **{agent.name: agent for agent in agents}}})


def queue(count: int) -> list[Item]:
    nodes = {"frontmatter": "doc.frontmatter@1", "review-a": "review.peer-a@2", "review-b": "review.peer-b@2"}
    return [
        Item(id=f"{n:032x}", task="t", flow="docops", target=f"{n}.md", blob="0" * 40, findings=(), agents=nodes)
        for n in range(count)
    ]


def voice(name: str, adapter: str, place: Path) -> Voice:
    return Voice(agent=name, adapter=adapter, directory=place, merged=place / "merged")


def test_a_night_without_adapters_has_one_server(tmp_path: Path) -> None:
    found = casting.choose(Cast(model=tmp_path), FOUND, queue(50), [])
    assert (found.mode, found.in_flight) == ("one", 0)


def test_on_a_cpu_voices_take_turns_and_all_of_the_queue_is_under_way(tmp_path: Path) -> None:
    cast = Cast(model=tmp_path, voices=(voice("doc.frontmatter", MINE, tmp_path),), cpu=True)
    taken = with_agents(learned("doc.frontmatter", MINE))
    found = casting.choose(cast, taken, queue(120), [])
    assert (found.mode, found.in_flight) == ("phases", casting.IN_FLIGHT)
    assert casting.choose(cast.model_copy(update={"cpu": False}), taken, queue(120), []).mode == "adapters"


def test_an_adapter_of_an_agent_that_has_nothing_to_do_costs_nothing(tmp_path: Path) -> None:
    cast = Cast(model=tmp_path, voices=(voice("code.header", MINE, tmp_path),), cpu=True)
    assert casting.choose(cast, with_agents(learned("code.header", MINE)), queue(120), []).mode == "one"


def test_a_teacher_answers_for_those_that_edit_and_for_nobody_else(tmp_path: Path) -> None:
    cast = Cast(model=tmp_path / "small", teacher=tmp_path / "large")
    taken = casting.taught(with_agents(learned("doc.frontmatter", MINE)), cast)
    assert taken.agents["doc.frontmatter"].runtime.model == TEACHER
    assert taken.agents["doc.frontmatter"].runtime.adapter is None
    assert taken.agents["review.peer-a"].runtime.model == "default"
    assert taken.agents["plan.validate"].runtime == FOUND.agents["plan.validate"].runtime
    assert taken.digest == FOUND.digest
    task = Task(uuid="t", title="t", slug="t", status="ready", path="t.md", labels=("docops",))
    assert route.agent_for(["doc.frontmatter"], taken.agents, task, "a.md", {}, "default").name == "doc.frontmatter@1"
    assert casting.choose(cast, taken, queue(1), []).mode == "phases"


def test_an_adapter_that_is_not_here_is_refused_before_anything_starts(tmp_path: Path, make_repo: MakeRepo) -> None:
    repo = Repo.discover(make_repo())

    with pytest.raises(EngineError, match="trained in another clone, or deleted"):
        casting.prepare(repo, [learned("doc.frontmatter", MINE)], tmp_path, tmp_path, quiet=True)


def opened(cast: Cast, mode: str) -> tuple[Engine, list[tuple[str, list[str]]]]:
    """The engine, and (directory, adapters) of every server that was started."""
    started: list[tuple[str, list[str]]] = []

    async def start(model: Path, adapters: Mapping[str, Path], name: str) -> Engine:
        started.append((model.name, sorted(adapters)))
        return ScriptedEngine()

    async def job() -> Engine:
        engine = await casting.open_engine(cast, Serving.model_validate({"mode": mode}), start)
        if isinstance(engine, Voices):
            for runtime in (Runtime(origin="local", adapter=MINE), Runtime(origin="local")):
                async with engine.of(runtime).turn():
                    pass
            await engine.close()
        return engine

    return asyncio.run(job()), started


def test_each_way_of_serving_starts_what_it_says(tmp_path: Path) -> None:
    model = tmp_path / "small"
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 512}')
    cast = Cast(model=model, voices=(voice("doc.frontmatter", MINE, tmp_path / "own"),), cpu=True)
    assert opened(cast, "one")[1] == [("small", [])]
    assert opened(cast, "adapters")[1] == [("small", [MINE])]
    engine, started = opened(cast, "phases")
    assert started == [("merged", []), ("small", [])]
    assert not engine.alive()
    assert opened(cast.model_copy(update={"cpu": False}), "phases")[1] == [("small", [MINE])]


def test_two_adapters_of_one_agent_have_a_server_each(tmp_path: Path) -> None:
    """As in a bench: one that answered for both versions would compare it with itself."""
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    voices = tuple(voice("doc.frontmatter", one, tmp_path / one[7:10]) for one in (MINE, OTHER))
    started: list[Path] = []

    async def start(model: Path, adapters: Mapping[str, Path], name: str) -> Engine:
        started.append(model)
        return ScriptedEngine()

    async def job() -> None:
        engine = await casting.open_engine(Cast(model=tmp_path, voices=voices), Serving(mode="phases"), start)
        for adapter in (MINE, OTHER, None):
            async with engine.of(Runtime(origin="local", adapter=adapter)).turn():
                pass
        await engine.close()

    asyncio.run(job())
    assert started == [tmp_path / "aaa" / "merged", tmp_path / "bbb" / "merged", tmp_path]


def test_a_voice_is_shown_to_the_night_with_all_that_it_needs(tmp_path: Path) -> None:
    cast = Cast(model=tmp_path, voices=(voice("doc.frontmatter", OTHER, tmp_path / "own"),), teacher=tmp_path / "big")
    assert cast.shown == (tmp_path / "own", tmp_path / "own" / "merged", tmp_path / "big")
