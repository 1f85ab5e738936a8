"""Who speaks in a night: the model, the adapters of its agents, a teacher; and from which servers.

Ring 3. What can only be done with the user's disk in sight (verify adapters, merge them) is done before the night
starts; the choice between servers is made when the queue is known, and frozen with it. Trains nothing; engine.py and
voices.py run the servers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from pantheon import adapters, serving
from pantheon.config import Config
from pantheon.engine import Engine, batch, on_cpu
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.models import read_json
from pantheon.records import TEACHER, Agent, Digest, Item, NightReport, Record, Serving
from pantheon.training import tune
from pantheon.voices import Key, Voices

IN_FLIGHT = 256  # items, where voices take turns: each phase should last, and a worktree is small


class Voice(Record):
    """An adapter that an agent speaks with: verified, and on a CPU merged into a model of its own."""

    agent: str
    adapter: Digest
    directory: Path
    merged: Path | None = None


class Cast(Record):
    """The model of a night with everything that is asked beside it."""

    model: Path
    voices: tuple[Voice, ...] = ()
    teacher: Path | None = None
    cpu: bool = True

    @property
    def shown(self) -> tuple[Path, ...]:
        """Directories besides the model's that the night has to see."""
        own = [path for voice in self.voices for path in (voice.directory, voice.merged) if path is not None]
        return (*own, *([self.teacher] if self.teacher else []))

    @property
    def alone(self) -> Serving:
        """How to serve everybody in it."""
        return self.served({"", *(voice.adapter for voice in self.voices)}, 2 if self.teacher else 1)

    def served(self, voices: Collection[str], models: int, start_s: float = serving.START_S) -> Serving:
        """How to serve these voices (serving.choose); where they take turns, with all of the queue under way."""
        chosen = serving.choose(voices, cpu=self.cpu, models=models, start_s=start_s)
        return chosen.model_copy(update={"in_flight": IN_FLIGHT}) if chosen.mode == "phases" else chosen


# How a server is started: a model's directory, adapters by digest, the name that the model goes by.
Start = Callable[[Path, Mapping[str, Path], str], Awaitable[Engine]]


def prepare(
    repo: Repo, agents: Iterable[Agent], model: Path, cache: Path, *, teacher: Path | None = None, quiet: bool
) -> Cast:
    """Verify the adapters of these agents and, on a CPU, merge them. Raises EngineError, and what tune.merged does."""
    cpu = on_cpu()
    voices = []
    for agent in agents:
        digest = agent.runtime.adapter
        if digest is None or agent.runtime.engine == "none" or (teacher and agent.output == "edit"):
            continue
        directory = adapters.verified(repo, agent.name, digest)
        merged = tune.merged(model, directory, digest, cache, quiet=quiet) if cpu else None
        voices.append(Voice(agent=agent.name, adapter=digest, directory=directory, merged=merged))
    return Cast(model=model, voices=tuple(voices), teacher=teacher, cpu=cpu)


def taught(found: Config, cast: Cast) -> Config:
    """The configuration with the teacher in the place of the model, for every agent that edits."""
    if cast.teacher is None:
        return found
    answered = {"model": TEACHER, "adapter": None}
    agents = {
        name: agent.model_copy(update={"runtime": agent.runtime.model_copy(update=answered)})
        if agent.output == "edit" and agent.runtime.engine == "vllm"
        else agent
        for name, agent in found.agents.items()
    }
    return found.model_copy(update={"agents": agents})


def choose(cast: Cast, found: Config, items: Iterable[Item], past: Iterable[NightReport]) -> Serving:
    """How to serve a queue. `found`: with the teacher in its place; `past`: what a start of a server took."""
    voices: set[str] = set()
    models: set[str] = set()
    for item in items:
        for label in item.agents.values():
            agent = found.agents.get(label.rpartition("@")[0])
            if agent is not None and agent.runtime.engine == "vllm":
                voices.add(agent.runtime.adapter or "")
                models.add(TEACHER if agent.runtime.model == TEACHER else "")
    starts = [phase.start_s for report in past for phase in report.phases]
    return cast.served(voices, len(models), sum(starts) / len(starts) if starts else serving.START_S)


async def open_engine(cast: Cast, chosen: Serving, start: Start) -> Engine:
    """The engine of a night, or of a bench: one server, or servers that take turns. Raises EngineError."""
    known = {voice.adapter: voice.directory for voice in cast.voices}
    if chosen.mode == "one":
        return await start(cast.model, MappingProxyType({}), cast.model.name)
    if chosen.mode == "adapters":
        return await start(cast.model, known, cast.model.name)
    plan: dict[str, tuple[Path, Mapping[str, Path], str]] = {}
    servers: dict[Key, str] = {}
    base = cast.model.name
    plan[base] = (cast.model, {} if cast.cpu else known, base)
    servers["default", None] = base
    for voice in cast.voices:
        server = base
        if cast.cpu:
            if voice.merged is None:
                raise EngineError("cannot use the adapter", voice.adapter[:19], "it was not merged")
            server = f"{base} + {voice.agent}"
            if server in plan:  # a bench has two versions of one agent
                server += f" {voice.adapter.removeprefix('sha256:')[:12]}"
            plan[server] = (voice.merged, {}, base)
        servers["default", voice.adapter] = server
    if cast.teacher is not None:
        plan[cast.teacher.name] = (cast.teacher, {}, cast.teacher.name)
        servers[TEACHER, None] = cast.teacher.name

    async def run(server: str) -> Engine:
        return await start(*plan[server])

    names = {server: name for server, (_, _, name) in plan.items()}
    return Voices(servers, run, names=names, window=batch(cast.model, cast.cpu), context=_context(cast))


def _context(cast: Cast) -> int:
    """The context of the model, as its configuration has it; the server that runs says it better."""
    own = read_json(cast.model / "config.json").get("max_position_embeddings")
    return own if isinstance(own, int) else 0
