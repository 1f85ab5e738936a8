"""What a night will run: tasks and findings become a frozen queue. Pure.

An item is made only where a target breaks a rule that can be repaired, so a file that is right costs nothing. The
order is the tasks' priority, then their path, then the target's path.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pantheon import route, tasks
from pantheon.names import name_fault
from pantheon.records import Agent, Finding, Flow, Item, PullRequest, PullState, Repair, Task

Judge = Callable[[str, str], Sequence[Finding]]  # (flow, path) -> what the file breaks
HINT_LENGTH = 400  # characters of what a person says to the next try
PERSON, WAITING = "needs a person", "waiting for your review"
_FIELDS = set(Item.model_fields)  # all are said; one set for all items
_REST = {name: field.default for name, field in Item.model_fields.items() if not field.is_required()}
TAKEN, NO, NEVER, LATER = "already taken by", "you rejected this", "you never want this", "you put this off"


@dataclass(frozen=True)
class Plan:
    """The queue in its order, the tasks it came from, and what a person should know of what is not in it."""

    items: tuple[Item, ...]
    tasks: tuple[Task, ...]
    notes: tuple[str, ...]


def freeze(
    found: Sequence[Task],
    blobs: Mapping[str, str],
    judge: Judge,
    flows: Mapping[str, Flow],
    agents: Mapping[str, Agent],
    *,
    ready: Sequence[str],
    model: str = "default",
    rates: route.Rates | None = None,
    prs: Sequence[PullRequest] = (),
    rejected: Mapping[str, str] | None = None,
    never: Collection[str] = (),
    hints: Mapping[str, str] | None = None,
    later: Mapping[str, str] | None = None,
) -> Plan:
    """The night's queue.

    `blobs` maps every path of the base commit to its blob, `judge` says what a path breaks of a flow's rules, `rates`
    how well each agent did so far, `rejected` maps an item's id to the blob a person rejected it for, `never` are those
    that nobody wants to see again, `hints` what a person said of those to be tried again, `later` until when some are
    put off. Tasks that cannot run become notes, never errors.
    """
    items: list[Item] = []
    taken: list[Task] = []
    notes: list[str] = []
    claimed: dict[str, str] = {}
    known: dict[Finding, Finding] = {}  # the same few things are wrong with most files: each is kept once
    held: Counter[int] = Counter()
    own = task_files(found)
    doubled = tasks.duplicates(found)
    waiting = {item.item: pr.id for pr in prs if pr.state is PullState.OPEN for item in pr.items if not item.dropped}
    done = {task.uuid for task in found if task.status == "done"} | {t.slug for t in found if t.status == "done"}
    for task in sorted(found, key=urgency):
        obstacle = _obstacle(task, flows, ready, doubled, done)
        if obstacle is not None:
            if obstacle:
                notes.append(f"{task.path}: {obstacle}")
            continue
        assert task.spec is not None
        flow = flows[route.flow_of(task, flows).name]
        inside = tasks.select(sorted(blobs), task.spec.scope, task.spec.exclude)
        if not inside:
            notes.append(f"{task.path}: its scope matches no file: {', '.join(task.spec.scope)}")
            continue
        taken.append(task)
        choose = _chooser(flow, agents, task, rates or {}, model)
        for target in targets(flow, inside, own):
            broken = tuple(known.setdefault(one, one) for one in judge(flow.name, target))
            item = _item(task, flow, target, blobs[target], broken)
            if item.findings and item.id in waiting:
                held[waiting[item.id]] += 1
                continue
            note = _why_not(item, claimed, rejected or {}, never, later or {})
            if note is None:
                chosen, why, nobody = choose(target)
                if nobody:
                    notes.append(f"{printable(target)}: {nobody}")
                    continue
                claimed[target] = task.path
                hint = printable((hints or {}).get(item.id, ""))[:HINT_LENGTH]
                items.append(_made(**{**item.__dict__, "agents": chosen, "why": why, "hint": hint}))
            elif note:
                notes.append(note)
    notes += [f"{count} file{'s' if count > 1 else ''} {WAITING} in PR {pr}" for pr, count in sorted(held.items())]
    return Plan(tuple(items), tuple(taken), tuple(notes))


def _chooser(
    flow: Flow, agents: Mapping[str, Agent], task: Task, rates: route.Rates, model: str
) -> Callable[[str], tuple[dict[str, str], tuple[str, ...], str]]:
    """The router, for each target of a task; asked once where it would say the same of all."""
    if route.whatever_target(flow, agents):
        same = route.agents_of(flow, agents, task, "", rates, model)
        return lambda _: same
    return lambda target: route.agents_of(flow, agents, task, target, rates, model)


def task_files(found: Sequence[Task]) -> frozenset[str]:
    """The files of tasks that Pantheon takes: they follow rules of their own."""
    return frozenset(task.path for task in found if task.spec is not None)


def targets(flow: Flow, inside: Sequence[str], own: Collection[str]) -> list[str]:
    """Those of a task's files that its flow is about, `own` being the task files."""
    return [path for path in tasks.select(inside, flow.match.paths or ("**",)) if path not in own]


def urgency(task: Task) -> tuple[str, str]:
    """What orders tasks: their priority, then their path."""
    return (task.priority if task.priority in tasks.PRIORITIES else "P9", task.path)


def _obstacle(
    task: Task, flows: Mapping[str, Flow], ready: Sequence[str], doubled: Mapping[str, tuple[str, ...]], done: set[str]
) -> str | None:
    """None: it runs. "": it is left alone without a word. Else what a person should know."""
    if task.spec is None:
        if task.status not in ready:
            return ""
        hint = route.flow_of(task, flows).name
        return f"has no pantheon block, left alone; add one with flow: {hint}" if hint else ""
    if task.uuid.lower() in doubled:
        return f"its uuid is used by {', '.join(doubled[task.uuid.lower()])}; give each task its own"
    if task.status not in ready:
        return ""
    choice = route.flow_of(task, flows)
    if not choice.name:
        return choice.why[0]
    missing = [name for name in task.spec.depends_on if name not in done]
    return f"waits for {', '.join(missing)}" if missing else None


def _item(task: Task, flow: Flow, target: str, blob: str, found: tuple[Finding, ...]) -> Item:
    digest = hashlib.sha256("\0".join((task.uuid, flow.name, target)).encode(errors="surrogateescape"))
    return _made(id=digest.hexdigest()[:16], task=task.uuid, flow=flow.name, target=target, blob=blob, findings=found)


def _made(**values: Any) -> Item:
    """An item of records and texts that were checked when they were read: not once more, a hundred thousand times."""
    return Item.model_construct(_FIELDS, **{**_REST, "agents": {}, **values})  # nor is a default looked up


def _why_not(
    item: Item,
    claimed: Mapping[str, str],
    rejected: Mapping[str, str],
    never: Collection[str],
    later: Mapping[str, str],
) -> str | None:
    """None: it runs. "": nothing to do. Else the reason it does not run tonight."""
    if not item.findings:
        return ""
    shown = printable(item.target)
    fault = next((why for part in item.target.split("/") if (why := name_fault(part))), "")
    if fault:
        return f"{shown}: {PERSON}: its file name is refused ({fault})"
    blocking = [f for f in item.findings if f.repair is Repair.REPORT]
    if len(blocking) == len(item.findings):
        first = blocking[0]
        return (
            f"{shown}:{first.line}: {PERSON}: {first.message}" if first.line else f"{shown}: {PERSON}: {first.message}"
        )
    if item.target in claimed:
        return f"{shown}: {TAKEN} {claimed[item.target]}"
    if item.id in never:
        return f"{shown}: {NEVER}; it is not offered again"
    if item.id in later:
        return f"{shown}: {LATER} until {later[item.id]}"
    if rejected.get(item.id) == item.blob:
        return f"{shown}: {NO}; it is offered again when the file changes"
    return None


def settled(note: str) -> bool:
    """Whether a note of a plan is about what somebody decided already, so that nobody has to do anything."""
    return any(f" {word}" in note for word in (TAKEN, NO, NEVER, LATER, WAITING))


def within_debt(planned: Plan, waiting: Mapping[str, int], *, most: int, per_task: int, per_pr: int) -> Plan:
    """The plan without what would open more PRs than may wait for a person.

    `waiting`: task -> its open PRs, those of no task by another name; a queue promises one PR for each `per_pr` items
    of a task. `most` in all, `per_task` of one task (0: no such limit). What is left for later becomes notes.
    """
    room, taken, left = most - sum(waiting.values()), Counter[str](), Counter[str]()
    full: set[str] = set()
    items = []
    for item in planned.items:
        if taken[item.task] % per_pr == 0:  # it would begin another PR
            if 0 < per_task <= waiting.get(item.task, 0) + taken[item.task] // per_pr:
                full.add(item.task)
            if item.task in full or room <= 0:
                left[item.task] += 1
                continue
            room -= 1
        taken[item.task] += 1
        items.append(item)
    notes = []
    for task in planned.tasks:
        if left[task.uuid]:
            why = f"with tonight's, {most} PRs are {WAITING} (night.max_open_prs)"
            if task.uuid in full:
                why = f"with tonight's, {per_task} of its PRs are {WAITING} (night.max_open_prs_per_task)"
            notes.append(f"{task.path}: {many(left[task.uuid], 'item')} left for later: {why}")
    return Plan(tuple(items), planned.tasks, (*planned.notes, *notes))


def many(count: int, noun: str) -> str:
    """`1 item`, `2 items`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(path: str) -> str:
    """A text for people: control, invisible, bidirectional and unassigned characters and undecodable bytes escaped."""
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in path)
