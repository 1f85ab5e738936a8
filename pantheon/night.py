"""One night over one frozen queue: probe, run a rolling window of items, stack, open PRs, seal, report.

Where decisions meet doors; makes no choices of its own. Everything is in git before the next step: the queue before
the first item, each run as it ends, PRs when their stacks are complete, the report last. A night that was interrupted
is resumed from its frozen queue: what has a run ref is not run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import resource
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pantheon import (
    artifacts,
    attest,
    checks,
    flight,
    flow,
    hooks,
    losses,
    nights,
    prompt,
    quality,
    redact,
    registry,
    report,
)
from pantheon.agent import Seat
from pantheon.checks import CheckRoom
from pantheon.config import Config
from pantheon.egress import EgressProof
from pantheon.engine import Engine, ScriptedEngine
from pantheon.errors import DiskFull, EngineError, RefMoved, RepositoryError, SandboxError
from pantheon.git import Repo, Signer
from pantheon.item import Shop, Trip, run_item
from pantheon.records import (
    Artifact,
    Bounds,
    Decision,
    EngineMetrics,
    FlowQuality,
    Item,
    Night,
    NightReport,
    Outcome,
    Run,
    Sample,
    pretty,
)
from pantheon.stack import Stacks
from pantheon.survey import Survey
from pantheon.voices import Voices

EGRESS = "egress.json"
CHECKPOINT_S, CHECKPOINT_SHARE = 10.0, 0.01  # between two checkpoints at least; of the time, what they take at most
STORED = 5  # tries to store a run
LEAST = 256 << 10  # bytes of disk without which no failure of an item means anything
GRACE_S = 30.0  # how long running items may finish once the budget is spent
Now = Callable[[], datetime]


@dataclass
class Progress:
    """What a progress bar shows; the night calls `changed` after every step."""

    total: int = 0
    accepted: int = 0
    failed: int = 0
    parked: int = 0
    seeded: int = 0
    running: int = 0
    phase: str = ""
    sample: Sample | None = None  # the last look at the night
    changed: Callable[[Progress], None] = lambda _: None

    @property
    def done(self) -> int:
        return self.accepted + self.failed + self.parked + self.seeded

    def say(self, phase: str) -> None:
        self.phase = phase
        self.changed(self)

    def count(self, outcome: Outcome) -> None:
        match outcome:
            case Outcome.ACCEPTED:
                self.accepted += 1
            case Outcome.PARKED:
                self.parked += 1
            case Outcome.FAILED:
                self.failed += 1
            case Outcome.SEEDED:
                self.seeded += 1
        self.changed(self)


# --- run -------------------------------------------------------------------------------------------------------------


class _Runner:
    """The moving parts of one night."""

    def __init__(
        self,
        repo: Repo,
        frozen: nights.Frozen,
        engine: Engine,
        work: Path,
        signer: Signer,
        now: Now,
        progress: Progress,
    ) -> None:
        self.repo, self.frozen, self.engine, self.signer, self.now, self.progress = (
            repo,
            frozen,
            engine,
            signer,
            now,
            progress,
        )
        self.shop = _open_shop(repo, frozen, engine, work)
        self.sown_shop = _sown_shop(self.shop, frozen, work)
        data = repo.read_path(frozen.ref_at or "", EGRESS) or b""
        self.egress = attest.Egress(sha256=hashlib.sha256(data).hexdigest(), closed=True)
        self.stacks = Stacks(
            repo,
            frozen.night,
            self.shop,
            frozen.items,
            frozen.tasks,
            frozen.notes,
            frozen.runs,
            signer,
            now,
            self._attest,
        )
        self.ended: Literal["finished", "budget", "interrupted", "engine"] = "finished"
        self.started = time.monotonic()
        self.timeline = Timeline()
        self.keep_at = CHECKPOINT_S
        night = frozen.night
        self.flight = flight.planned(max(night.window, night.serving.in_flight), night.widest, engine.window)
        self.stacks.restore()
        for run in frozen.runs:
            progress.count(run.outcome)

    async def run_window(self, until: float) -> None:
        """Keep as many items going as the engine wants (flight.py), until the queue is empty or the monotonic clock
        says `until`."""
        done = {run.item.id for run in self.frozen.runs}
        left = [item for item in self.frozen.items if item.id not in done]
        queue = deque(flight.closing(left, _work, self.frozen.night.window))
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                while queue and len(running) < self.flight.size and time.monotonic() < until:
                    running.add(asyncio.create_task(self._one(queue.popleft())))
                self.progress.running = len(running)
                self.progress.changed(self.progress)
                if not running:
                    break
                over = until + min(GRACE_S, self.frozen.night.budget_s) - time.monotonic()
                finished, running = await asyncio.wait(
                    running, timeout=max(0.0, min(over, self._pause())), return_when=asyncio.FIRST_COMPLETED
                )
                failed = [error for task in finished if (error := task.exception()) is not None]  # each is looked at
                if failed:
                    raise failed[0]
                if over <= 0:
                    self.ended = "budget"
                    break
                self.flight = self.flight.seen(self._t_s, self.engine.load().waiting, more=bool(queue))
                await self._look(len(running))
                self._keep()
        except EngineError:
            self.ended = "engine"
            raise
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if queue:
            self.ended = "budget"
        await self._look(0, last=True)

    def _keep(self) -> None:
        """A checkpoint of the journal, when one is due."""
        began = self._t_s
        if began >= self.keep_at:
            nights.checkpoint(self.repo, self.frozen, {}, "checkpoint", self.now(), self.signer)
            self.keep_at = self._t_s + rest_s(self._t_s - began)

    @property
    def _t_s(self) -> float:
        """Seconds since this part of the night began."""
        return time.monotonic() - self.started

    def _pause(self) -> float:
        """Until something is to be looked at, though no item ends."""
        return min(CHECKPOINT_S, self.timeline.due(self._t_s), self.flight.due(self._t_s))

    async def _one(self, item: Item) -> None:
        started = time.monotonic()
        run_id = nights.run_name(self.frozen.night.id, item.id)
        shop = self.sown_shop if item.canary else self.shop
        assert shop is not None
        trip = await run_item(shop, item, self.frozen.tasks[item.task], run_id)
        if not trip.decision.accepted:
            _need_room(self.repo.common_dir, shop.room.work)
        run = self._settle(trip, shop.base, started)
        self.frozen.runs.append(run)
        self.progress.count(run.outcome)

    async def _look(self, running: int, *, last: bool = False) -> None:
        """A sample of the night, when one is due, and the last one in any case: it is how the night ended."""
        t_s = self._t_s
        if self.timeline.due(t_s) > 0 and not last:
            return
        engine = EngineMetrics()
        with contextlib.suppress(EngineError):  # it may be ending: the runs will say
            engine = await self.engine.metrics()
        left = len(self.frozen.items) - len(self.frozen.runs) - running
        self.timeline.add(t_s, self.progress, running, max(0, left), engine, self.flight.size)
        self.progress.sample = self.timeline.samples[-1]

    def _settle(self, trip: Trip, base: str, started: float) -> Run:
        """Stack what the gate accepted and store the run. No await in here: the stack is touched by one at a time."""
        broken = flow.failed(trip.done)
        run = Run(
            id=trip.run,
            night=self.frozen.night.id,
            item=trip.item,
            base=base,
            outcome=Outcome.SEEDED if trip.item.canary else _outcome(trip.decision),
            node=broken.node if broken else "",
            reason=broken.reason if broken else "",
            nodes={name: result.state.value for name, result in trip.done.items()},
            agents=tuple(dict.fromkeys(r.agent for r in trip.done.values() if r.agent)),
            node_agents={name: r.agent for name, r in trip.done.items() if r.agent},
            seconds=round(time.monotonic() - started, 3),
            prompt_tokens=sum(r.prompt_tokens for r in trip.done.values()),
            completion_tokens=sum(r.completion_tokens for r in trip.done.values()),
            started_s=round(max(0.0, started - self.started), 3),
            verdicts=tuple(trip.verdicts()),
            checks=tuple(trip.checks),
            metrics={name: r.metrics for name, r in trip.done.items()},
        )
        if trip.decision.accepted and trip.item.canary is None:
            run = self._sound(self.stacks.push(run, trip))
        files = {name: result.files for name, result in trip.done.items() if result.files}
        run, listed = self._stored(run, files)
        artifacts.note_runs(self.repo, {run.noted_on: listed}, self.now(), self.signer)
        self._attest(run)
        return run

    def _stored(self, run: Run, files: Mapping[str, Mapping[str, bytes]]) -> tuple[Run, list[Artifact]]:
        """Store a run; once more where a prune took what was written of it before its ref was there."""
        for _ in range(STORED):
            try:
                return artifacts.store_run(self.repo, run, files, run.result, self.now(), self.signer)
            except RefMoved:
                raise
            except RepositoryError as error:
                why = error
        raise why

    def _sound(self, run: Run) -> Run:
        """A run as it went on its stack, or parked where what it made was deleted meanwhile."""
        if run.result is None or artifacts.is_whole(self.repo.afresh(), run):
            return run
        self.stacks.take_back(run)
        return run.model_copy(update={"outcome": Outcome.PARKED, "result": None, "reason": losses.WHY})

    def drop_lost(self) -> None:
        """Take away the runs whose objects were deleted beside us; the stacks are built again from the others."""
        if missing := losses.lost(self.repo, self.frozen.runs):
            losses.strike(self.repo, missing, self.now(), self.signer)
            names = {run.id for run in missing}
            self.frozen.runs[:] = [run for run in self.frozen.runs if run.id not in names]
            self.stacks.by_task.clear()
            self.stacks.restore()

    @property
    def checks_cpu_s(self) -> float:
        return sum(shop.room.cpu_s for shop in (self.shop, self.sown_shop) if shop is not None)

    def mend(self) -> None:
        """The notes of runs of an earlier part, where a kill came between a run's ref and its notes."""
        for run in self.frozen.runs:
            if self.repo.read_note(artifacts.NOTES, run.noted_on) is None:
                listed = artifacts.describe_stored(self.repo, run)
                artifacts.note_runs(self.repo, {run.noted_on: listed}, self.now(), self.signer)
            if not attest.covers(self.repo, run.noted_on, run.run_commit or ""):
                self._attest(run)

    def _attest(self, run: Run) -> None:
        """A signed statement over a stored run, on the commit that carries its artifact note."""
        said = attest.state(self.repo, run, self.frozen.night, self.egress, self.now())
        attest.attest(self.repo, {run.noted_on: [said]}, self.now(), self.signer)


def rest_s(took_s: float) -> float:
    """Seconds until the next checkpoint after one that took so long: the journal grows, and meanwhile no request is
    sent. Nothing depends on it: a run that is stored counts when a night is resumed, whatever the journal says."""
    return max(CHECKPOINT_S, took_s / CHECKPOINT_SHARE)


def _work(item: Item) -> int:
    """How much an item asks of the model, beside others: about one answer for each finding. A canary's work is done."""
    return 0 if item.canary else len(item.findings)


def _need_room(*places: Path) -> None:
    """Raise DiskFull where nothing is left: what failed beside a full disk may have failed of that, and counts not."""
    for place in places:
        if (free := shutil.disk_usage(place).free) < LEAST:
            raise DiskFull(
                "an item failed on a full disk", str(place), f"{free} bytes are free", "free some disk space"
            )


def _outcome(decision: Decision) -> Outcome:
    if decision.accepted:
        return Outcome.ACCEPTED
    return Outcome.PARKED if decision.held else Outcome.FAILED


SAMPLE_S = 2.0  # between two looks at a night, at first
SAMPLES = 240  # kept of a night


class Timeline:
    """Looks at a running night, evenly spread however long it takes: when there are too many, every second one goes and
    the next ones are twice as far apart."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.every_s = SAMPLE_S
        self._tokens: float | None = None

    def due(self, t_s: float) -> float:
        """Seconds until the next look; 0 or less: now."""
        return self.samples[-1].t_s + self.every_s - t_s if self.samples else 0.0

    def add(
        self, t_s: float, progress: Progress, running: int, left: int, engine: EngineMetrics, window: int = 0
    ) -> None:
        self._tokens = engine.generation_tokens if self._tokens is None else self._tokens
        self.samples.append(
            Sample(
                t_s=round(t_s, 3),
                done=progress.done,
                accepted=progress.accepted,
                running=running,
                left=left,
                requests=engine.running,
                waiting=engine.waiting,
                window=window,
                tokens=max(0, int(engine.generation_tokens - self._tokens)),
            )
        )
        if len(self.samples) > SAMPLES:
            self.samples, self.every_s = self.samples[::2], 2 * self.every_s


def _sown_shop(shop: Shop, frozen: nights.Frozen, work: Path) -> Shop | None:
    """The shop of the canaries: the same people and rules on the seeded base; None for a night without canaries."""
    base = frozen.night.seeded_base
    if base is None:
        return None
    entries = shop.repo.entries(base)
    room = CheckRoom.open(shop.repo, shop.config, base, work / "sown")
    room.slots = shop.room.slots
    facts = shop.facts.model_copy(update={"paths": tuple(entries)})
    return dataclasses.replace(shop, base=base, entries=entries, facts=facts, room=room)


def _open_shop(repo: Repo, frozen: nights.Frozen, engine: Engine, work: Path) -> Shop:
    survey = frozen.survey
    config = survey.config
    return Shop(
        repo=repo,
        config=config,
        base=frozen.night.base,
        entries=survey.entries,
        rules=survey.rules,
        facts=survey.facts,
        seats=seats(config, engine, survey),
        protected=(*config.settings.night.protected, *hooks.inside(repo)),
        room=CheckRoom.open(repo, config, frozen.night.base, work),
    )


def seats(config: Config, engine: Engine, survey: Survey) -> dict[str, Seat]:
    """Every agent with its compiled prompt and the tools in force. Raises ConfigError."""
    tools = registry.tools_of(config)
    templates = registry.templates(config, tools)
    rules = {name: ruled.rules for name, ruled in survey.rules.items()}
    found: dict[str, Seat] = {}
    for agent in config.agents.values():
        cards = [prompt.card(name, tools[name].summary, tools[name].example) for name in agent.tools]
        shared = {"agent": agent.name, "cards": cards, "rules": rules}
        voices = {"none": engine, "scripted": ScriptedEngine()}
        voice = voices.get(agent.runtime.engine) or engine.of(agent.runtime)
        found[agent.name] = Seat(
            agent=agent, template=templates.get(agent.name), engine=voice, tools=tools, shared=shared
        )
    return found


@checks.warm()
async def run(
    repo: Repo,
    frozen: nights.Frozen,
    engine: Engine,
    proof: EgressProof,
    *,
    work: Path,
    signer: Signer,
    now: Now,
    progress: Progress,
    page: Callable[[NightReport], bytes] | None = None,
    told: Callable[[], tuple[str, ...]] = tuple,
) -> NightReport:
    """Run a frozen night to its report; `page` renders it for browsers, `told` has at the end what else a person should
    know. Raises EngineError, SandboxError; what ended before is in git."""
    if not proof.closed:
        raise SandboxError("no night", "the network", "a sandboxed process could reach it", "git pantheon doctor")
    started = time.monotonic()
    progress.total = len(frozen.items)
    nights.checkpoint(repo, frozen, {EGRESS: pretty(proof.model_dump(mode="json"))}, "probe", now(), signer)
    progress.say("reading the base")
    before = await engine.metrics()
    cpu = _host_cpu()
    runner = _Runner(repo, frozen, engine, work, signer, now, progress)
    runner.mend()
    progress.say("running")
    try:
        await runner.run_window(started + frozen.night.budget_s)
    except (KeyboardInterrupt, asyncio.CancelledError):
        runner.ended = "interrupted"
        nights.checkpoint(repo, frozen, {}, "interrupted", now(), signer)
        raise
    except EngineError:
        nights.checkpoint(repo, frozen, {}, "engine", now(), signer)
        raise
    after = await engine.metrics()
    working = time.monotonic() - started
    runner.drop_lost()
    progress.say("opening PRs")
    past = [one for one in nights.reports(repo, nights.RATED_NIGHTS) if _alike(one.night, frozen.night)]
    measured = quality.measure_all(frozen.own, frozen.sown, past, frozen.night.bounds or Bounds())
    runner.stacks.halt({one.flow: _halted(one) for one in measured if one.state == "halted"})
    pulls = await runner.stacks.open_pulls()
    noted = {run.noted_on: report.summary_note(run) for run in frozen.runs}
    artifacts.summarise(repo, noted, now(), signer)
    finished = NightReport(
        night=frozen.night,
        finished_at=now(),
        ended=runner.ended,
        runs=frozen.own,
        left=frozen.night.items - len(frozen.own),
        prs=tuple(pulls),
        notes=(*frozen.notes, *map(redact.scrub_text, told())),
        host_cpu_s=round(_host_cpu() - cpu + runner.checks_cpu_s, 3),
        wall_s=round(working, 3),
        canaries=frozen.sown,
        quality=measured,
        timeline=tuple(runner.timeline.samples),
        phases=engine.phases() if isinstance(engine, Voices) else (),
        **_rates(before, after, working),
    )
    files = {"report.json": pretty(finished.model_dump(mode="json")), "report.md": report.markdown(finished).encode()}
    if page is not None:
        files["report.html"] = page(finished)
    nights.seal(repo, frozen, files, now(), signer)
    return finished


def _rates(before: EngineMetrics, after: EngineMetrics, seconds: float) -> dict[str, Any]:
    """Tokens per second, mean batch (tokens per engine step of the decode phase), prefix-cache hit rate."""
    generated = after.generation_tokens - before.generation_tokens
    steps = after.engine_steps - before.engine_steps
    queries = after.prefix_cache_queries - before.prefix_cache_queries
    hits = after.prefix_cache_hits - before.prefix_cache_hits
    return {
        "tokens_per_s": round(generated / seconds, 2) if seconds else 0.0,
        "mean_batch": round(generated / steps, 2) if steps else 0.0,
        "prefix_hit_rate": round(hits / queries, 4) if queries else 0.0,
    }


def _host_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _alike(one: Night, other: Night) -> bool:
    """Whether what was measured in one night says something of another: the same engine and model."""
    return (one.engine, one.model) == (other.engine, other.model)


def _halted(found: FlowQuality) -> str:
    """Why a flow's gate is halted, and what would open it, in one line."""
    return f"the gate is halted: {'; '.join(found.why)}. It opens with {'; or '.join(found.opens)}"
