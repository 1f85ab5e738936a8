"""Nights as git keeps them: the lock, ids, the frozen queue, checkpoints, the seal, reports.

Owns `refs/pantheon/nights/`, one commit per checkpoint. Runs nothing: night.py does. What is written here decides
everything that a night will do, so that one that was interrupted goes on from it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from pantheon import artifacts, attest, canaries, children, keys, lease, plan, redact
from pantheon.checks import AT_ONCE
from pantheon.config import Config
from pantheon.errors import Busy, NewerRecord, RefMoved, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.names import next_night, night_tag
from pantheon.names import night_order as order
from pantheon.records import (
    Bounds,
    Forecast,
    Item,
    Night,
    NightReport,
    Outcome,
    Record,
    Run,
    Serving,
    Task,
    newer,
    pretty,
)
from pantheon.survey import FILE, Survey

NIGHTS = "refs/pantheon/nights/"
RATED_NIGHTS = 10
LOCK = "pantheon/night.lock"  # below the common git dir
T = TypeVar("T")


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cycles, where a hundred thousand records are made and none of them is to go: it would
    look through all of them again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass
class Frozen:
    """A night that can run: the record, the queue, and what was read from the base commit. Holds no secret in a text,
    so that nothing written from it does; ids and paths are exact."""

    night: Night
    items: tuple[Item, ...]
    tasks: Mapping[str, Task]
    survey: Survey
    notes: tuple[str, ...]
    runs: list[Run] = field(default_factory=list)  # of an earlier, interrupted part
    ref_at: str | None = None

    @property
    def own(self) -> tuple[Run, ...]:
        """The runs of the night's own items."""
        return tuple(run for run in self.runs if run.item.canary is None)

    @property
    def sown(self) -> tuple[Run, ...]:
        """The runs of its canaries."""
        return tuple(run for run in self.runs if run.item.canary is not None)

    def __post_init__(self) -> None:
        self.items = tuple(redact.clean_item(item) for item in self.items)
        self.tasks = {uuid: redact.clean_task(task) for uuid, task in self.tasks.items()}
        self.notes = tuple(redact.scrub_text(note) for note in self.notes)
        self.runs = [redact.clean_run(run) for run in self.runs]


@contextlib.contextmanager
def alone(repo: Repo, *, lease_s: float = lease.LEASE_S, told: Callable[[str], None] = lambda _: None) -> Iterator[int]:
    """Hold the repository's night lock; its descriptor. A holder that is stopped for longer than `lease_s` is ended,
    and `told` hears of it. Raises RepositoryError when another night runs."""
    path = repo.common_dir / LOCK
    what, place = "cannot start a night", str(repo.root)
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = held.enter_context(lease.hold(path, lease_s=lease_s, told=told))
        except Busy as error:
            why = f"another one is running here: the lock is held {error.why}"
            raise RepositoryError(what, place, why, error.hint or "git pantheon status") from error
        except OSError as error:
            raise RepositoryError(what, str(path), str(error.strerror), f"df -h {path.parent}") from error
        yield descriptor


def holder(repo: Repo) -> int | None:
    """The process that holds the night lock of a repository: a night's, or a training's."""
    held = lease.read(repo.common_dir / LOCK)
    return held.owner.pid if held is not None and held.owner.alive() else None


def load_night(repo: Repo, night_id: str) -> Night:
    """A frozen night's record."""
    data = repo.read_path(repo.ref(NIGHTS + night_id) or "", "night.json") or b""
    try:
        return Night.model_validate_json(data)
    except ValidationError as error:
        raise _unreadable("cannot read a night", night_id, data, error) from error


def _unreadable(what: str, night_id: str, data: bytes, error: ValidationError) -> RepositoryError:
    if newer(data, error):
        return NewerRecord(what, night_id)
    return RepositoryError(
        what, night_id, f"its record is damaged: {error.errors()[0]['msg']}", "git pantheon verify --all"
    )


def unfinished(repo: Repo) -> str | None:
    """The id of the latest night of this clone's when it has a queue but no report. Another clone's goes on there."""
    own = ("", keys.own_tag(repo))
    nights = {ref: at for ref, at in repo.refs(NIGHTS).items() if night_tag(ref.removeprefix(NIGHTS)) in own}
    if not nights:
        return None
    name = max(nights, key=lambda ref: order(ref.removeprefix(NIGHTS)))
    return None if repo.read_path(nights[name], "report.json") else name.removeprefix(NIGHTS)


def freeze(
    repo: Repo,
    survey: Survey,
    planned: plan.Plan,
    *,
    budget_s: float,
    engine: str,
    model: str,
    window: int,
    now: datetime,
    signer: Signer,
    model_sha256: Mapping[str, str] | None = None,
    forecast: Forecast | None = None,
    sowing: bool = True,
    serving: Serving | None = None,
    teacher: str = "",
    teacher_sha256: Mapping[str, str] | None = None,
    branch: str | None = None,
    widest: int = 0,
) -> Frozen:
    """Write the queue to `refs/pantheon/nights/<id>`: one signed commit that decides everything that will run, canaries
    among the items unless there is to be no `sowing`. `branch`: where the PRs go to, if not to the one checked out;
    `widest`: to how many items in flight the night may grow from `window`, 0 for never."""
    onto = _onto(repo, branch)
    keys.publish(repo, signer, now)
    settings = survey.config.settings.gate
    for _ in range(100):
        night_id = _free_id(repo, now, signer)
        share = settings.canaries if sowing else 0.0
        sown = canaries.sow(survey, planned, share, night_id, now, signer, rates(repo) if choosing(survey) else {})
        night = Night(
            id=night_id,
            started_at=now,
            base=survey.base,
            branch=onto,
            budget_s=budget_s,
            window=window,
            engine=engine,
            model=model,
            agents=tuple(sorted(agent.label for agent in survey.config.agents.values())),
            tasks=tuple(task.uuid for task in planned.tasks),
            items=len(planned.items),
            config_sha256=survey.config.digest,
            model_sha256=dict(model_sha256 or {}),
            templates=template_digests(survey.config),
            adapters={a.label: a.runtime.adapter for a in survey.config.agents.values() if a.runtime.adapter},
            canaries=len(sown.items),
            seeded_base=sown.base,
            bounds=Bounds(**settings.model_dump(exclude={"canaries"})),
            forecast=forecast,
            check_slots=AT_ONCE,
            widest=widest,
            scripted=_scripted(survey.config, engine),
            serving=serving or Serving(),
            teacher=teacher,
            teacher_sha256=dict(teacher_sha256 or {}),
        )
        queue = canaries.mixed(planned.items, sown.items, night_id)
        by_uuid = {task.uuid: task for task in planned.tasks}
        frozen = Frozen(night, queue, by_uuid, survey, (*planned.notes, *sown.notes))
        try:
            checkpoint(repo, frozen, {}, "freeze", now, signer)
        except RefMoved:
            continue
        return frozen
    raise RepositoryError("cannot start a night", str(repo.root), "no free night id", "git pantheon status")


def _onto(repo: Repo, branch: str | None) -> str:
    """The branch that the PRs go to. Raises RepositoryError."""
    onto = repo.head(branch).branch
    if onto is None:
        why = "it is detached; PRs need a branch to go to"
        raise RepositoryError("cannot start a night", "HEAD", why, "git switch main")
    return onto


def _scripted(config: Config, engine: str) -> tuple[str, ...]:
    """The agents that no model answers although there is one."""
    found = (agent.label for agent in config.agents.values() if agent.runtime.engine == "scripted")
    return tuple(sorted(found)) if engine != "scripted" else ()


def _free_id(repo: Repo, now: datetime, signer: Signer) -> str:
    """Where there is a remote, other clones may have nights as well: the id then says whose it is. Of a clock that went
    back the day of the last night counts: a night is after all those before it."""
    tag = keys.tag(signer.blob)
    shared = children.quiet(repo.root, "remote").stdout.strip()
    known = [name.removeprefix(NIGHTS) for name in repo.refs(NIGHTS)]
    days = [order(name)[0] for name in known if night_tag(name) in ("", tag)]
    return next_night(max([now.strftime("%Y-%m-%d"), *days]), known, tag if shared else "")


def run_name(night: str, item: str) -> str:
    """The id of a run: 32 hex digits, the same whenever the same item of the same night is started again."""
    return hashlib.sha256(f"{night}\0{item}".encode()).hexdigest()[:32]


def thaw(repo: Repo, night_id: str, survey_at: Callable[[str], Survey]) -> Frozen:
    """An interrupted night again: its frozen queue, and the runs that ended before."""
    at = repo.ref(NIGHTS + night_id)
    data = {
        name: repo.read_path(at or "", name) or b""
        for name in ("night.json", "queue.jsonl", "tasks.jsonl", "notes.json")
    }
    night = Night.model_validate_json(data["night.json"])
    items = tuple(Item.model_validate_json(line) for line in data["queue.jsonl"].splitlines())
    found = [Task.model_validate_json(line) for line in data["tasks.jsonl"].splitlines()]
    notes = TypeAdapter(tuple[str, ...]).validate_json(data["notes.json"])
    mine = {artifacts.run_ref(run_name(night.id, item.id)) for item in items}
    runs = [artifacts.load_run(repo, ref.rpartition("/")[2]) for ref in repo.refs(artifacts.RUNS) if ref in mine]
    return Frozen(night, items, {task.uuid: task for task in found}, survey_at(night.base), notes, runs, at)


def _frozen_once(frozen: Frozen) -> dict[str, bytes]:
    """The files of a night that are written when it is frozen, and stay as they are: of a long queue they are most."""
    return {
        "queue.jsonl": _lines(frozen.items),
        "tasks.jsonl": _lines(frozen.tasks.values()),
        "notes.json": pretty(list(frozen.notes)),
    }


def _so_far(frozen: Frozen) -> dict[str, bytes]:
    """Those that say how far it came; a night that is taken up again may have another budget."""
    return {"night.json": pretty(frozen.night.model_dump(mode="json")), "journal.jsonl": _lines(frozen.runs)}


def _lines(records: Iterable[Record]) -> bytes:
    """JSON Lines; of a path that is no text the escape that JSON has for it stays. One line at a time: there may be a
    hundred thousand."""
    found = bytearray()
    for record in records:
        found += record.to_json().encode("utf-8", "backslashreplace")
        found += b"\n"
    return bytes(found)


def checkpoint(
    repo: Repo, frozen: Frozen, files: Mapping[str, bytes], message: str, now: datetime, signer: Signer
) -> None:
    """One commit on the night's ref: objects first, ref last, on the value we left there."""
    name = NIGHTS + frozen.night.id
    before = frozen.ref_at
    content = {**({} if before else _frozen_once(frozen)), **_so_far(frozen), **files}
    tree = repo.write_tree(
        repo.tree_of(before) if before else None,
        {path: (FILE, repo.write_blob(data)) for path, data in content.items()},
    )
    parents = [before] if before else [frozen.night.base]
    commit = repo.commit(tree, parents, f"night {frozen.night.id}: {message}\n", now, signer)
    repo.move_ref(name, commit, before, f"pantheon: {message}")
    frozen.ref_at = commit


def template_digests(config: Config) -> dict[str, str]:
    """agent@version -> the digest of its prompt's source; an agent without a prompt is left out."""
    return {
        agent.label: hashlib.sha256(config.prompts[agent.prompt].encode()).hexdigest()
        for agent in config.agents.values()
        if agent.prompt in config.prompts
    }


def seal(repo: Repo, frozen: Frozen, files: Mapping[str, bytes], now: datetime, signer: Signer) -> None:
    """The last commit of the night, and the last thing that the night writes."""
    left = {path: entry.oid for path, entry in repo.entries(frozen.ref_at or "").items()}
    content = {**{path: repo.read_blob(oid) for path, oid in left.items()}, **_so_far(frozen), **files}
    others = [name for name in repo.refs(NIGHTS) if name != NIGHTS + frozen.night.id]
    before = max(others, key=lambda name: order(name.removeprefix(NIGHTS)), default=None)
    previous = repo.ref(before) if before else None
    sealed = attest.seal(repo, frozen.night.id, content, previous, now, signer)
    checkpoint(repo, frozen, {**files, **sealed}, "seal", now, signer)


def load_report(repo: Repo, night_id: str | None = None) -> NightReport:
    """The report of a night, or of the latest that has one. Raises RepositoryError."""

    def read(data: bytes, commit: str) -> NightReport:
        repo.memory[commit] = found = NightReport.model_validate_json(data)
        return found

    return _reported(repo, night_id, read)


@dataclass(frozen=True)
class Outline:
    """What is told of a night in a line: its report without its runs, and what became of its own items."""

    report: NightReport
    outcomes: Counter[Outcome]


def outline(repo: Repo) -> Outline:
    """Of the latest night that has a report. Its runs are counted, not made records of: there may be thousands. Raises
    RepositoryError."""
    return _reported(repo, None, lambda data, _: _outlined(data))


class _Ended(BaseModel):
    """All that an outline wants to know of a run, a canary, a sample."""

    outcome: Outcome | None = None


class _Outlined(NightReport):
    """A report of which most is passed over and never made: ten times cheaper than the whole."""

    runs: tuple[_Ended, ...]  # type: ignore[assignment]
    canaries: tuple[_Ended, ...] = ()  # type: ignore[assignment]
    timeline: tuple[_Ended, ...] = ()  # type: ignore[assignment]


def _outlined(data: bytes) -> Outline:
    with contextlib.suppress(ValidationError):
        found = _Outlined.model_validate_json(data)
        outcomes = Counter(run.outcome for run in found.runs if run.outcome)
        if outcomes.total() == len(found.runs):
            return Outline(found.model_copy(update={"runs": (), "canaries": (), "timeline": ()}), outcomes)
    whole = NightReport.model_validate_json(data)  # no report of ours: what is wrong with it the record says
    return Outline(whole, Counter(run.outcome for run in whole.runs))


def _reported(repo: Repo, night_id: str | None, read: Callable[[bytes, str], T]) -> T:
    nights = repo.refs(NIGHTS)
    names = (
        [NIGHTS + night_id] if night_id else sorted(nights, key=lambda n: order(n.removeprefix(NIGHTS)), reverse=True)
    )
    for name in names:
        data = repo.read_path(nights[name], "report.json") if name in nights else None
        if not data:
            continue
        try:
            return read(data, nights[name])
        except ValidationError as error:
            if night_id or not newer(data, error):  # of the others the latest that can be read
                raise _unreadable("cannot read the report", name.removeprefix(NIGHTS), data, error) from error
    why = "no such night, or it did not end yet" if night_id else "no night has ended here yet"
    raise RepositoryError("no report", night_id or "", why, "git pantheon night --now --budget 10m")


def latest(repo: Repo) -> list[str]:
    """The commits of all nights, newest first."""
    names = repo.refs(NIGHTS)
    return [names[one] for one in sorted(names, key=lambda n: order(n.removeprefix(NIGHTS)), reverse=True)]


def reports(repo: Repo, most: int) -> list[NightReport]:
    """The reports of the last nights that have one, oldest first."""
    found: list[NightReport] = []
    for commit in latest(repo):
        with contextlib.suppress(ValidationError, RepositoryError):  # of a later version, or damaged: the others tell
            one = read_report(repo, commit) if len(found) < most else None
            found += [one] if one else []
    return found[::-1]


def read_report(repo: Repo, commit: str) -> NightReport | None:
    """The report in a commit of a night's; the one that `load_report` gave last is not read again, the others are not
    kept. Raises RepositoryError, ValidationError."""
    known = repo.memory.get(commit)
    if isinstance(known, NightReport):
        return known
    data = repo.read_path(commit, "report.json")
    return NightReport.model_validate_json(data) if data else None


def choosing(survey: Survey) -> bool:
    """Whether some flow leaves a choice between agents: only then their rates are worth reading."""
    return any(len(node.agent) > 1 for graph in survey.config.flows.values() for node in graph.nodes)


def rates(repo: Repo) -> dict[str, tuple[int, int]]:
    """agent@version -> (accepted runs, runs) that it worked in, over the last nights with a model."""
    found: dict[str, tuple[int, int]] = {}
    for finished in reports(repo, RATED_NIGHTS):
        for run in finished.runs if finished.night.engine != "scripted" and not finished.night.teacher else ():
            for label in set(run.agents):
                accepted, runs = found.get(label, (0, 0))
                found[label] = (accepted + (run.outcome is Outcome.ACCEPTED), runs + 1)
    return found
