"""The held-out items, each through the same flow with two versions of one agent: the whole way, with checks, reviewers
and gate, and nothing of it is kept but the outcome.

Ring 3. Items are those of past nights, at the base that their night had, and those of HEAD that no night had; all go by
the `.pantheon/` of HEAD, so that only the version differs. Everything is written to the repository that it is given,
which is a shadow. It neither chooses what is held out (lineage.py does) nor judges the outcome (promotion.py does).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from pantheon import checks, config, flow, nights, plan, quality, tally
from pantheon import night as runner
from pantheon.agent import Seat
from pantheon.cast import IN_FLIGHT
from pantheon.checks import CheckRoom
from pantheon.engine import Engine
from pantheon.gate import REVIEWERS
from pantheon.git import Entry, Repo
from pantheon.item import Shop, Trip, run_item
from pantheon.lessons import Trial
from pantheon.records import Agent, Finding, Item, Night, Record, Run, Share, Task
from pantheon.survey import Survey, survey
from pantheon.training.lineage import Lineage
from pantheon.voices import Voices

R = TypeVar("R", bound=Record)
Side = Literal["before", "after"]
SIDES: tuple[Side, Side] = ("before", "after")


class Outcome(Record):
    """One trial with the side that it was of. `asked`: the agent had something to do."""

    side: Side
    asked: bool
    trial: Trial


@dataclass(frozen=True)
class Held:
    """One held-out item as it will be run: `found` is its base with the `.pantheon/` of HEAD, `base` the commit that a
    night had."""

    item: Item
    task: Task
    family: str
    base: str
    found: Survey


@dataclass(frozen=True)
class Paper:
    """What there is to be run, and what a person should know of what is left out."""

    items: tuple[Held, ...]
    notes: tuple[str, ...] = ()

    def reviewers(self) -> dict[str, frozenset[quality.Seat]]:
        """Of each flow among the items, every agent at its node."""
        found: dict[str, set[quality.Seat]] = {}
        for held in self.items:
            found.setdefault(held.item.flow, set()).update(held.item.agents.items())
        return {name: frozenset(seats) for name, seats in found.items()}


# --- which items -----------------------------------------------------------------------------------------------------


@dataclass
class _Candidates:
    """Base commit -> the paths in it that are asked for, by family; the newest night's come first."""

    families: set[str] = field(default_factory=set)
    wanted: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, base: str, path: str, family: str) -> None:
        if family not in self.families:
            self.families.add(family)
            self.wanted.setdefault(base, {})[path] = family


def choose(
    own: Repo,
    shadow: Repo,
    head: Survey,
    lineage: Lineage,
    agent: str,
    *,
    trained: Collection[str],
    most: int | None = None,
) -> Paper:
    """The held-out items that this agent has a part in: the latest of each family, where its file still breaks a rule.

    `trained`: the families that either version or one before it learned from; they never count, nor what is like them.
    Of more than `most` those count whose family's hash comes first, whatever happened to them.
    """
    candidates = _Candidates()
    for commit in nights.latest(own):
        try:
            night = Night.model_validate_json(own.read_path(commit, "night.json") or b"")
        except ValidationError:  # of a later version
            continue
        runs = {run.item.id: run for run in _lines(Run, own.read_path(commit, "journal.jsonl"))}
        for item in _lines(Item, own.read_path(commit, "queue.jsonl")):
            if item.canary is None and _has_a_part(item, agent, runs.get(item.id)) and lineage.held_out(item.target):
                candidates.add(night.base, item.target, lineage.families.family(item.target))
    for path in head.entries:
        if lineage.held_out(path):
            candidates.add(head.base, path, lineage.families.family(path))
    notes: list[str] = []
    planned = list(_planned(shadow, head, candidates, agent))
    fresh = [held for held in planned if not lineage.families.met(held.item.target, trained)]
    if trained and fresh:
        taught = lineage.likeness({Path(held.item.target).suffix.casefold() for held in fresh}, trained)
        fresh = [held for held in fresh if not taught.alike(_text(held))]
    if len(fresh) < len(planned):
        notes.append(f"{plan.many(len(planned) - len(fresh), 'item')} left out: something was learned from them")
    chosen = sorted(fresh, key=lambda held: hashlib.sha256(held.family.encode("utf-8", "surrogateescape")).digest())
    return Paper(tuple(chosen[:most]), tuple(notes))


def _has_a_part(item: Item, agent: str, run: Run | None) -> bool:
    """Whether the agent works on the item, as far as its night tells: a node that was skipped asked nobody."""
    nodes = [node for node, label in item.agents.items() if label.rpartition("@")[0] == agent]
    return any(run is None or run.nodes.get(node) != "skipped" for node in nodes)


def _planned(shadow: Repo, head: Survey, candidates: _Candidates, agent: str) -> Iterator[Held]:
    """What a night with the configuration of HEAD would do about these files at their bases."""
    for base, wanted in candidates.wanted.items():
        found = head if base == head.base else _as_of(shadow, base, head)
        if found is None:
            continue

        def judge(name: str, path: str, here: Survey = found, wanted: Mapping[str, str] = wanted) -> Sequence[Finding]:
            return here.judge(name, path) if path in wanted else ()

        planned = plan.freeze(
            found.tasks,
            {path: entry.oid for path, entry in found.entries.items()},
            judge,
            found.config.flows,
            found.config.agents,
            ready=found.config.settings.tasks.ready,
            model=found.config.settings.engine.model,
        )
        by_uuid = {task.uuid: task for task in planned.tasks}
        for item in planned.items:
            if _has_a_part(item, agent, None):
                yield Held(item, by_uuid[item.task], wanted[item.target], base, found)


def _as_of(shadow: Repo, base: str, head: Survey) -> Survey | None:
    """A base commit with the `.pantheon/` of HEAD; None where the commit is gone."""
    if not shadow.knows(base):
        return None

    def ours(entries: Mapping[str, Entry]) -> dict[str, Entry]:
        return {path: entry for path, entry in entries.items() if path.startswith(config.DIRECTORY + "/")}

    old, new = ours(shadow.entries(base)), ours(head.entries)
    changes: dict[str, tuple[int, str] | None] = {path: None for path in old if path not in new}
    changes |= {path: (entry.mode, entry.oid) for path, entry in new.items() if old.get(path) != entry}
    if changes:
        tree = shadow.write_tree(shadow.tree_of(base), changes)
        base = shadow.commit(tree, [base], "a base with the configuration of now\n", shadow.commit_info(base).when)
    return survey(shadow, base, head.config.limits)


def _text(held: Held) -> str:
    return (held.found.read(held.item.target) or b"").decode("utf-8", "replace")


# --- both versions ---------------------------------------------------------------------------------------------------


@checks.warm()
async def run(
    own: Repo,
    shadow: Repo,
    paper: Paper,
    versions: tuple[Agent, Agent],
    engine: Engine,
    work: Path,
    *,
    protected: Sequence[str] = (),
    done: Iterable[Outcome] = (),
    told: Callable[[Outcome], None] = lambda _: None,
) -> tuple[list[Trial], list[Trial]]:
    """Run every item with both versions of the agent, in one go; the trials of each, in the same order.

    Items on which neither version was asked anything are left out. `done`: outcomes of an earlier part, of which whole
    pairs count; `told` gets each new one. Raises EngineError when the engine is gone, ConfigError.
    """
    found = pairs(done)
    left = [held for held in paper.items if (held.item.id, held.base) not in found]
    shops = _shops(Repo(own.root, shadow.git_dir, shadow.common_dir), left, versions, engine, work, protected)
    taking_turns = isinstance(engine, Voices)
    jobs = [(held, side) for held in left for side in SIDES]
    if taking_turns:  # whole phases: a server starts when the one before has nothing more to say
        jobs.sort(key=lambda job: SIDES.index(job[1]))
    slots = asyncio.Semaphore(IN_FLIGHT if taking_turns else max(1, engine.window * 5 // 4))

    async def one_job(held: Held, side: Side) -> None:
        async with slots:
            shop = shops[held.found.base][side]
            trip = await run_item(shop, held.item, held.task, _name(side, held))
        outcome = _outcome(side, held, trip, versions[0].name)
        found.setdefault((held.item.id, held.base), {})[side] = outcome
        told(outcome)

    running = [asyncio.create_task(one_job(*job)) for job in jobs]
    try:
        for job in running:
            await job
    finally:
        for job in running:
            job.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    whole = [found[held.item.id, held.base] for held in paper.items]
    asked = [pair for pair in whole if any(one.asked for one in pair.values())]
    return [pair["before"].trial for pair in asked], [pair["after"].trial for pair in asked]


def pairs(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], dict[Side, Outcome]]:
    """(item, base) -> both outcomes, of the items that were run with both versions."""
    found: dict[tuple[str, str], dict[Side, Outcome]] = {}
    for one in outcomes:
        found.setdefault((one.trial.item, one.trial.base), {})[one.side] = one
    return {key: pair for key, pair in found.items() if len(pair) == len(SIDES)}


def _name(side: Side, held: Held) -> str:
    return hashlib.sha256(f"{side}\0{held.base}\0{held.item.id}".encode()).hexdigest()[:32]


def _shops(
    mixed: Repo,
    items: Iterable[Held],
    versions: tuple[Agent, Agent],
    engine: Engine,
    work: Path,
    protected: Sequence[str],
) -> dict[str, dict[Side, Shop]]:
    """Of each base a shop per side: the same but for one seat. All of them share the slots for checks, which may need
    directories of the user's working tree: so `mixed` is the shadow, with that tree."""
    shops: dict[str, dict[Side, Shop]] = {}
    slots: asyncio.Semaphore | None = None
    for found in {held.found.base: held.found for held in items}.values():
        room = CheckRoom.open(mixed, found.config, found.base, work / found.base)
        room.slots = slots = slots or room.slots
        seats = runner.seats(_with(found.config, versions[0]), engine, found)
        shop = Shop(
            repo=mixed,
            config=found.config,
            base=found.base,
            entries=found.entries,
            rules=found.rules,
            facts=found.facts,
            seats=seats,
            room=room,
            protected=(*found.config.settings.night.protected, *protected),
        )
        other = runner.seats(_with(found.config, versions[1]), engine, found)
        changed: dict[str, Seat] = {**seats, versions[1].name: other[versions[1].name]}
        shops[found.base] = {"before": shop, "after": dataclasses.replace(shop, seats=changed)}
    return shops


def _with(found: config.Config, agent: Agent) -> config.Config:
    return found.model_copy(update={"agents": {**found.agents, agent.name: agent}})


def _outcome(side: Side, held: Held, trip: Trip, agent: str) -> Outcome:
    mine = [result for result in trip.done.values() if result.agent.rpartition("@")[0] == agent]
    spent = tally.added(result.metrics for result in mine)
    causes = [one for errors in spent.tool_errors.values() for one in errors.items()]
    refused = spent.schema_errors + sum(count for cause, count in causes if cause == "repeat")  # never became a call
    verdicts = trip.verdicts()
    reached = len({verdict.node for verdict in verdicts}) >= REVIEWERS
    broken = flow.failed(trip.done)
    trial = Trial(
        item=held.item.id,
        family=held.family,
        base=held.base,
        passed=trip.decision.accepted,
        reason=broken.reason if broken else "",
        calls=sum(spent.tool_calls.values()) + refused,
        tool_errors=sum(count for _, count in causes) + spent.schema_errors,
        reviewed=("pass" if all(one.verdict == "pass" for one in verdicts) else "fail") if reached else "",
        seconds=round(spent.engine_s + spent.tool_s, 3),
    )
    return Outcome(side=side, asked=bool(mine), trial=trial)


def read_outcomes(data: bytes) -> list[Outcome]:
    """What an earlier part of a bench wrote, one outcome a line; a line that a kill cut short is left out."""
    return list(_lines(Outcome, data))


def _lines(kind: type[R], data: bytes | None) -> Iterator[R]:
    """The records of a file with one on each line; what is none, or of a later version, is left out."""
    for line in (data or b"").splitlines():
        with contextlib.suppress(ValidationError):
            yield kind.model_validate_json(line)


# --- what nights measured --------------------------------------------------------------------------------------------


def measured(own: Repo, paper: Paper, engine: str, model: str) -> tuple[Share, Share]:
    """(known-good, known-bad changes that these reviewers passed, of those that reached them) in past nights with this
    engine and model. A change that was judged again counts once, as it was judged last."""
    seats = paper.reviewers()
    seen: set[tuple[str, str, str]] = set()
    words: dict[bool, list[bool]] = {True: [], False: []}
    for report in reversed(nights.reports(own, nights.RATED_NIGHTS)):
        if (report.night.engine, report.night.model) != (engine, model):
            continue
        for run in report.canaries:
            known, item = run.item.canary, run.item
            if known is None or not quality.reached(run) or not quality.seats_of(run) <= seats.get(item.flow, set()):
                continue
            if (key := (item.id, item.blob, known.tree)) not in seen:
                seen.add(key)
                words[known.good].append(quality.agreed(run))
    return quality.share(sum(words[True]), len(words[True])), quality.share(sum(words[False]), len(words[False]))
