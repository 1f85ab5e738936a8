"""Canaries: items whose change is known to be right or wrong, sown into a night to measure its reviewers.

Owns which files they are made of and the seeded base they start from: the night's base with what people wrote there
taken out again. Who judges a canary cannot tell it from another item; what becomes of it is nobody's to review. The
changes themselves come from each kind of rules (`Kind.seeds`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from types import MappingProxyType

from pantheon import gate, plan, route, tasks
from pantheon.git import Repo, Signer
from pantheon.records import Canary, Item, Repair, Task
from pantheon.survey import FILE, Survey
from pantheon.tools import seeding
from pantheon.tools.tool import Seed, Tree

SEEDS = 16  # of one file that are looked at
FILES = 200  # of one flow that are looked at
Files = dict[str, bytes | None]


@dataclass(frozen=True)
class Sown:
    """The canaries of a night: the commit they start from (None where there are none), the items, what a person should
    know of them."""

    base: str | None = None
    items: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Bed:
    """What was chosen so far: the files of the seeded base, and those of each change on it."""

    before: Files = field(default_factory=dict)
    chosen: list[tuple[str, Task, str, Seed]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    used: Counter[str] = field(default_factory=Counter)

    def add(self, flow: str, task: Task, target: str, seed: Seed) -> None:
        self.before.update(seed.before)
        self.touched |= {target, *seed.before, *seed.after}
        self.used[seed.kind] += 1
        self.chosen.append((flow, task, target, seed))


def sow(
    survey: Survey,
    planned: plan.Plan,
    share: float,
    night: str,
    now: datetime,
    signer: Signer,
    rates: route.Rates = MappingProxyType({}),
) -> Sown:
    """Canaries so that they are `share` (0 to 0.5) of the night, of every flow in its own measure: as many known-bad as
    known-good ones, the bad of every kind that its files give. `rates`: as the router has them for other items. Writes
    objects only."""
    bed = _Bed()
    asked = {flow: wanted(items, share) for flow, items in sorted(Counter(i.flow for i in planned.items).items())}
    for flow, count in asked.items():
        _choose(survey, planned, flow, count, night, bed)
    repo = survey.repo
    tree = repo.write_tree(repo.tree_of(survey.base), _entries(survey, bed.before))
    base = repo.commit(tree, [survey.base], f"night {night}: what its canaries start from\n", now, signer)
    items = tuple(_items(survey, bed, seeding.laid(survey.tree, bed.before), tree, rates))
    given = Counter(item.flow for item in items)
    notes = tuple(
        f"{flow}: {given[flow]} of {count} canaries: its files give no more whose right change is known"
        for flow, count in asked.items()
        if given[flow] < count
    )
    return Sown(base if items else None, items, notes)


def wanted(items: int, share: float) -> int:
    """How many canaries a flow's items get, so that they are `share` of both together."""
    return int(items * share / (1 - share) + 0.5)


def mixed(items: Sequence[Item], sown: Sequence[Item], night: str) -> tuple[Item, ...]:
    """The night's queue with its canaries at places that nobody can guess, the same whenever they are asked for."""
    queue = list(items)
    for item in sorted(sown, key=lambda one: _digest(night, one.id)):
        queue.insert(int.from_bytes(_digest(night, "place", item.id)[:8]) % (len(queue) + 1), item)
    return tuple(queue)


def _choose(survey: Survey, planned: plan.Plan, flow: str, count: int, night: str, bed: _Bed) -> None:
    """Put canaries of a flow into the bed: a bad one first, then a good one in turn."""
    ruled = survey.rules[survey.config.flows[flow].rules]
    bad = good = 0
    for task, target in islice(_targets(survey, planned, flow, night), FILES):
        if bad + good >= count:
            break
        raw = survey.read(target)
        if raw is None or not ruled.kind.about(target, ruled.rules):
            continue
        seeds = list(islice(ruled.kind.seeds(target, raw, ruled.rules, survey.tree, survey.facts), SEEDS))
        free = [seed for seed in seeds if not bed.touched & {target, *seed.before, *seed.after}]
        ranks = {seed.kind: rank for rank, seed in enumerate((s for s in free if not s.good), 1)}
        fitting = [seed for seed in free if seed.good == (bad > good)]
        if fitting:
            # What stands first in a kind's list only a reviewer can find: it comes most often, and every kind comes.
            best = min(fitting, key=lambda seed: (bed.used[seed.kind] + 1) * ranks.get(seed.kind, 1))
            bed.add(flow, task, target, best)
            bad, good = bad + (not best.good), good + best.good


def _targets(survey: Survey, planned: plan.Plan, flow: str, night: str) -> Iterator[tuple[Task, str]]:
    """The files of the flow's tasks of tonight, those too that are right, in an order of this night's own."""
    found: dict[str, Task] = {}
    paths, own = sorted(survey.entries), plan.task_files(survey.tasks)
    for task in planned.tasks:
        if survey.flow_of(task) == flow:
            assert task.spec is not None
            inside = tasks.select(paths, task.spec.scope, task.spec.exclude)
            for target in plan.targets(survey.config.flows[flow], inside, own):
                found.setdefault(target, task)
    for target in sorted(found, key=lambda path: _digest(night, flow, path)):
        yield found[target], target


def _items(survey: Survey, bed: _Bed, sown: Tree, tree: str, rates: route.Rates) -> Iterator[Item]:
    repo, config = survey.repo, survey.config
    for flow, task, target, seed in bed.chosen:
        ruled = survey.rules[config.flows[flow].rules]
        raw = sown.read(target)
        findings = ruled.kind.check(target, raw, ruled.rules, sown) if raw is not None else ()
        agents, _, nobody = route.agents_of(
            config.flows[flow], config.agents, task, target, rates, config.settings.engine.model
        )
        if raw is None or nobody or all(finding.repair is Repair.REPORT for finding in findings):
            continue  # no item of its kind would look like this
        change = repo.write_tree(tree, _entries(survey, seed.after))
        if not _fits(repo, task, tree, change):
            continue
        yield Item(
            id=_digest("canary", task.uuid, flow, target, seed.kind).hex()[:16],
            task=task.uuid,
            flow=flow,
            target=target,
            blob=repo.write_blob(raw),
            findings=findings,
            agents=agents,
            canary=Canary(good=seed.good, kind=seed.kind, tree=change),
        )


def _fits(repo: Repo, task: Task, tree: str, change: str) -> bool:
    """Whether the gate would let such a change through but for what it says: within the task's lines, nothing held."""
    assert task.spec is not None
    diff = repo.diff(tree, change)
    held = gate.held_paths([file.path for file in diff.files], task.spec.confirm)
    return diff.added + diff.deleted <= task.spec.max_diff_lines and not held


def _entries(survey: Survey, files: Mapping[str, bytes | None]) -> dict[str, tuple[int, str] | None]:
    return {path: None if data is None else _entry(survey, path, data) for path, data in files.items()}


def _entry(survey: Survey, path: str, data: bytes) -> tuple[int, str]:
    mode = survey.entries[path].mode if path in survey.entries else FILE
    return mode, survey.repo.write_blob(data)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()


def change_of(repo: Repo, base: str, canary: Canary) -> Files:
    """What a canary's change writes over the seeded base: path -> bytes; None: the file is gone."""
    found: Files = {}
    for change in repo.diff(repo.tree_of(base), canary.tree).files:
        if change.old_path is not None and change.old_path != change.path:
            found[change.old_path] = None
        found[change.path] = repo.read_path(canary.tree, change.path) if change.status != "deleted" else None
    return found
