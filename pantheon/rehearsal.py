"""The commands that run a night's work again or ahead of time, and write nothing: replay, and night --dry-run.

Ring 4: opens the doors on a shadow of the repository, hands them on, prints the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pantheon import artifacts, config, engines, flow, hooks, nights, screen, session, trust
from pantheon import cast as casting
from pantheon.cast import Cast
from pantheon.config import Config
from pantheon.engine import Engine, ScriptedEngine
from pantheon.errors import RepositoryError, TrustError
from pantheon.git import Repo
from pantheon.models import find_model
from pantheon.places import Places
from pantheon.plan import printable
from pantheon.recorded import Stored, find_run, runs_of
from pantheon.records import Flow, Night, NightReport, NodeState, Run, Serving
from pantheon.replay import Replay, Stage, open_stage, replay_node
from pantheon.shadow import shadow_of
from pantheon.survey import read_config
from pantheon.tools.registry import TOOLS
from pantheon.versions import find_agent

T = TypeVar("T")
LISTED = 10  # replays of a whole night that are told one by one
BATCHING = "the engine is not bitwise deterministic under batching: an answer can differ with nothing else changed"


@dataclass(frozen=True)
class Job:
    """One run with the nodes of it that are to be replayed."""

    stored: Stored
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Other:
    """The agent that replays go through: its name, the commit that has it so, and that commit's configuration."""

    name: str
    commit: str
    config: Config


# --- replay ----------------------------------------------------------------------------------------------------------


def replay(
    own: Repo,
    where: Places,
    name: str | None,
    *,
    node: str | None,
    agent: str | None,
    all_of: str | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run nodes of a run, or of every run of a night, again. 0: all came out the same, 1: not."""
    if (name is None) == (all_of is None):
        raise RepositoryError(
            "cannot replay", "", "name either a run or, with --all-of, a night", "git pantheon report"
        )
    runs = runs_of(own, all_of) if all_of else [find_run(own, name or "")]
    night = _night(own, runs[0].night)
    other = Other(*find_agent(own, agent)) if agent else None
    jobs = [job for run in runs if (job := _job(Stored.load(own, run), node, other, bool(all_of))).nodes]
    if not jobs:
        asked = f"node {node}" if node else f"agent {other.name}" if other else "nodes with artifacts"
        raise RepositoryError("nothing to replay", runs[0].night, f"no run has {asked}", "git pantheon report")
    notes: list[str] = []
    found = _replayed(own, where, night, jobs, other, notes, quiet or as_json)
    same = all(one.same for one in found)
    if as_json:
        screen.print_json(
            {
                "night": night.id,
                "engine": night.engine,
                "model": night.model,
                "agent_from": other.commit if other else None,
                "notes": notes,
                "nodes": [one.model_dump(mode="json") for one in found],
                "same": same,
            }
        )
        return 0 if same else 1
    _tell(night, found, other, notes)
    return 0 if same else 1


def _night(own: Repo, night_id: str) -> Night:
    if own.ref(nights.NIGHTS + night_id) is None:
        raise RepositoryError("cannot replay", f"night {night_id}", "its record is not here", "git pantheon report")
    return nights.load_night(own, night_id)


def _job(stored: Stored, node: str | None, other: Other | None, many: bool) -> Job:
    """The nodes of a run that are asked for. Raises RepositoryError when it is the only run and has none."""
    run = stored.run
    if node is not None:
        names = stored.parts(node) if not stored.ran_an_agent(node) else (node,)
        found = tuple(one for one in names if one in stored.nodes)
        if not found and not many:
            state = run.nodes.get(node)
            why = f"it was {state} and left no artifacts" if state else f"its nodes: {', '.join(run.nodes)}"
            thing = f"node {node} of run {run.id[:12]}"
            raise RepositoryError("cannot replay", thing, why, f"git pantheon run {run.id[:12]}")
        return Job(stored, found)
    agents = stored.agents()
    if other is not None:
        found = tuple(one for one, label in agents.items() if label.rpartition("@")[0] == other.name)
        if not found and not many:
            had = ", ".join(f"{one} ({label})" for one, label in agents.items())
            why = f"no node of run {run.id[:12]} has it: {had}"
            raise RepositoryError("cannot replay", f"agent {other.name}", why, "name one with --node")
        return Job(stored, found)
    sums = {one.rpartition(".")[0] for one in run.nodes if "." in one}
    return Job(stored, tuple(one for one in stored.nodes if one not in sums))


def _replayed(
    own: Repo,
    where: Places,
    night: Night,
    jobs: Sequence[Job],
    other: Other | None,
    notes: list[str],
    quiet: bool,
) -> list[Replay]:
    """Every job's replays, on one shadow and with one engine. What a person should know goes into `notes`."""

    @functools.cache
    def allowed(commit: str) -> None:
        look = trust.look(own, own.entries(commit), where.state)
        try:
            trust.require(look)
        except TrustError as error:
            hint = error.hint if commit == own.head().commit else f"git switch --detach {commit[:12]}; {error.hint}"
            raise TrustError(error.what, error.thing, error.why, hint) from error

    asks = any(f"{node}/llm_prompt.txt" in job.stored.entries for job in jobs for node in job.nodes)
    if other is not None:
        agent = other.config.agents[other.name]
        if not {*agent.tools, *agent.prefetch} <= set(TOOLS):
            allowed(other.commit)
        asks = agent.runtime.engine != "none"
    model, cast = None, None
    if asks and night.engine == "vllm":
        found = read_config(own, night.base, own.entries(night.base))
        model = find_model(found.settings.engine.model, where.models)
        cast = _cast(own, where, night, found, other, model, quiet)
        if session.weights(model) != night.model_sha256:
            notes.append(f"the weights of {model.name} are not those that night {night.id} ran with")
    limits = config.load_user(where.config).limits
    with shadow_of(own, where.cache) as borrowed:
        repo = Repo(own.root, borrowed.git_dir, borrowed.common_dir)

        def stage_at(base: str, engine: Engine) -> Stage:
            work = borrowed.root / "replay" / base
            work.mkdir(parents=True)
            protected = hooks.inside(own)
            return open_stage(repo, base, engine, work, limits=limits, protected=protected, allowed=allowed, cast=cast)

        async def run() -> list[Replay]:
            async with _engine(night.engine if asks else None, model, where, quiet, cast) as engine:
                bases = dict.fromkeys(job.stored.run.base for job in jobs)
                stages = {base: stage_at(base, engine) for base in bases}
                with screen.counting("replaying", len(jobs), quiet or len(jobs) == 1) as step:
                    return await _each(jobs, stages, other, engine.window, step)

        return asyncio.run(stoppable(run()))


@contextlib.asynccontextmanager
async def _engine(
    kind: str | None, model: Path | None, where: Places, quiet: bool, cast: Cast | None = None
) -> AsyncIterator[Engine]:
    """The night's engine; where nothing is asked, one that answers without a model."""
    if kind is None:
        yield ScriptedEngine()
        return
    chosen = cast.alone if cast else Serving()
    async with engines.engine_by_day(kind, model, where, quiet, cast, chosen) as engine:
        yield engine


def _cast(own: Repo, where: Places, night: Night, found: Config, other: Other | None, model: Path, quiet: bool) -> Cast:
    """Who spoke in a night, and for the agent that its inputs go through now."""
    agents = {agent.label: agent for agent in found.agents.values()}
    if other is not None:
        agents[f"{other.name}, now"] = other.config.agents[other.name]
    teacher = find_model(night.teacher, where.models) if night.teacher else None
    return casting.prepare(own, agents.values(), model, where.cache, teacher=teacher, quiet=quiet)


async def stoppable(job: Coroutine[Any, Any, T]) -> T:
    """Wait for a job that SIGTERM ends as cleanly as Ctrl-C does."""
    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    try:
        return await job
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


async def _each(
    jobs: Sequence[Job], stages: Mapping[str, Stage], other: Other | None, window: int, step: Callable[[], None]
) -> list[Replay]:
    """A rolling window of runs; the nodes of one run one after the other."""
    slots = asyncio.Semaphore(window)

    async def one(job: Job) -> list[Replay]:
        stage = stages[job.stored.run.base]
        seat = stage.seat(other.config, other.name) if other else None
        async with slots:
            found = [await replay_node(stage, job.stored, node, seat) for node in _ordered(stage, job)]
        step()
        return found

    running = [asyncio.create_task(one(job)) for job in jobs]
    try:
        return [replayed for task in running for replayed in await task]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _ordered(stage: Stage, job: Job) -> list[str]:
    """In the flow's order, as far as the base still has the flow."""
    if job.stored.run.item.flow not in stage.shop.config.flows:
        return list(job.nodes)
    order = {name: n for n, name in enumerate(stage.order(job.stored))}
    return sorted(job.nodes, key=lambda name: order.get(name, len(order)))


# --- what a replay says ----------------------------------------------------------------------------------------------


def _tell(night: Night, found: Sequence[Replay], other: Other | None, notes: Sequence[str]) -> None:
    out = Console(highlight=False)
    runs = dict.fromkeys(one.run for one in found)
    first = found[0]
    what = f"run {first.run[:12]}, {printable(first.target)}" if len(runs) == 1 else f"{len(runs)} runs"
    out.print(escape(f"{what}, of night {night.id} with {night.engine}, model {printable(night.model)}"))
    for note in notes:
        out.print(escape(f"note: {printable(note)}"))
    if len(runs) > 1:
        _counts(out, found)
    elif other is not None:
        for one in found:
            _sides(out, one)
    else:
        _nodes(out, found)
    told = [one for one in found if not one.same]
    for one in told[:LISTED]:
        label = one.node if len(runs) == 1 else f"{one.run[:12]} {one.node}"
        answers = [f"prompt {a.prompt}: {a.why}" for a in one.answers if a.why and a.state != "unsent"]
        for text in (*one.why, *answers):
            out.print(escape(f"{label}: {text}"), soft_wrap=True)
    if len(told) > LISTED:
        out.print(f"and {len(told) - LISTED} more: --json has them all")
    _end(out, night, found, other)


def _end(out: Console, night: Night, found: Sequence[Replay], other: Other | None) -> None:
    """The last lines: the same or not, and the next command."""
    bad = next((one for one in found if not one.same), None)
    if bad is None:
        out.print("same: what was recorded came out again")
        return
    if other is not None:
        out.print(f"different; look: git pantheon run {bad.run[:12]} {bad.node}/tool_calls.jsonl")
        return
    torn = [one for one in found if one.rebuilt is not True or not all(answer.intact for answer in one.answers)]
    if not torn and night.engine != "scripted":
        out.print(f"different ({BATCHING})")
    else:
        out.print("different")
    if torn:
        out.print(f"next: git pantheon verify --all; git pantheon run {torn[0].run[:12]}")
    else:
        out.print(f"next: git pantheon run {bad.run[:12]} {bad.node}/llm_prompt.txt")


def _nodes(out: Console, found: Sequence[Replay]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("node", "agent", "rebuilt", "answers"):
        table.add_column(name)
    for name in ("tokens", "seconds"):
        table.add_column(name, justify="right")
    for one in found:
        tokens = sum(answer.completion_tokens for answer in one.answers)
        spent = sum(answer.seconds for answer in one.answers)
        rebuilt = "no" if one.rebuilt is None else "same" if one.rebuilt else "different"
        table.add_row(one.node, one.before.agent, rebuilt, _answers(one), str(tokens or ""), f"{spent:.1f}")
    out.print(table)


def _answers(one: Replay) -> str:
    tally = Counter(answer.state for answer in one.answers)
    return ", ".join(f"{count} {state}" for state, count in sorted(tally.items(), reverse=True))


def _counts(out: Console, found: Sequence[Replay]) -> None:
    """Replays of a whole night by node."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("node")
    names = ("runs", "same", "different", "failed", "answers", "tokens")
    for name in names:
        table.add_column(name, justify="right")
    groups: dict[str, list[Replay]] = {}
    for one in found:
        groups.setdefault(one.node.partition(".")[0], []).append(one)
    for node, some in groups.items():
        failed = [one for one in some if not _came_out(one)]
        same = [one for one in some if one.same]
        told = Counter(answer.state for one in some for answer in one.answers)
        answers = f"{told['same']}/{told['same'] + told['different']} same" if told else ""
        tokens = sum(one.after.completion_tokens if one.after else 0 for one in some)
        cells = (len(some), len(same), len(some) - len(same) - len([one for one in failed if not one.same]))
        table.add_row(node, *map(str, (*cells, len(failed), answers, tokens)))
    out.print(table)


def _came_out(one: Replay) -> bool:
    """Whether the replay ended as the node may end."""
    return one.after is not None and one.after.state != NodeState.FAILED


def _sides(out: Console, one: Replay) -> None:
    """A node as it was recorded beside how it went through another version."""
    assert one.after is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(one.node)
    table.add_column("recorded")
    table.add_column("now")
    pairs = (one.before, one.after)
    rows: list[tuple[str, list[str]]] = [
        ("agent", [side.agent for side in pairs]),
        ("state", [side.state for side in pairs]),
        ("reason", [side.reason for side in pairs]),
        ("model calls", [str(side.model_calls) for side in pairs]),
        ("prompt tokens", [str(side.prompt_tokens) for side in pairs]),
        ("answer tokens", [str(side.completion_tokens) for side in pairs]),
        ("seconds", [f"{side.seconds:.1f}" for side in pairs]),
        ("files", ["\n".join(side.files) for side in pairs]),
        ("calls", ["\n".join(side.calls) for side in pairs]),
    ]
    for name, cells in rows:
        if any(cells):
            shown = (escape("\n".join(map(printable, cell.split("\n")))) for cell in cells)
            table.add_row(name, *shown)
    out.print(table)
    if one.patch:
        out.print(escape(one.patch.rstrip("\n")), soft_wrap=True)


# --- dry run ---------------------------------------------------------------------------------------------------------


def dry_run(
    own: Repo,
    where: Places,
    environ: Mapping[str, str],
    *,
    budget: str | None,
    quiet: bool,
    as_json: bool,
    branch: str | None = None,
) -> int:
    """A whole night with the scripted engine, in a shadow of the repository: nothing of the repository changes."""
    head = own.head(branch)
    if head.branch is None:
        why = "it is detached; PRs need a branch to go to"
        raise RepositoryError("cannot start a night", "HEAD", why, "git switch main")
    resumed = nights.unfinished(own)
    with shadow_of(own, where.cache, _refs(own, resumed), head.branch) as repo:
        before = set(repo.refs(nights.NIGHTS))
        code = session.start_night(
            repo, own, where, environ, budget=budget, engine="scripted", quiet=quiet or as_json, rehearsed=True
        )
        if code != 0:
            return code
        fresh = set(repo.refs(nights.NIGHTS)) - before
        report = nights.load_report(repo, fresh.pop().removeprefix(nights.NIGHTS)) if fresh else None
    if as_json:
        return screen.print_json(_as_data(report, resumed))
    if not quiet:
        base = report.night.base if report else head.commit
        _tell_night(report, resumed, read_config(own, base, own.entries(base)).flows)
    return 0


def _refs(own: Repo, unfinished: str | None) -> dict[str, str]:
    """What a night looks at, without the night that was interrupted: a dry run begins one of its own."""
    prefixes = ("refs/heads/", "refs/pantheon/", "refs/notes/pantheon/")
    found = {name: oid for prefix in prefixes for name, oid in own.refs(prefix).items()}
    if unfinished is not None:
        gone = {run.id for run in artifacts.list_runs(own) if run.night == unfinished}
        found = {name: oid for name, oid in found.items() if name.rpartition("/")[2] not in gone}
        del found[nights.NIGHTS + unfinished]
    return found


def _as_data(report: NightReport | None, resumed: str | None) -> dict[str, Any]:
    runs = report.runs if report else ()
    return {
        "engine": "scripted",
        "unfinished_night": resumed,
        "ended": report.ended if report else "nothing to do",
        "left": report.left if report else 0,
        "items": [
            {
                "target": run.item.target,
                "flow": run.item.flow,
                "outcome": run.outcome,
                "node": run.node,
                "reason": run.reason,
                "nodes": run.nodes,
                "agents": run.node_agents,
            }
            for run in runs
        ],
        "prs": [
            {"title": pull.title, "items": [item.target for item in pull.live]}
            for pull in (report.prs if report else ())
        ],
        "notes": list(report.notes) if report else [],
    }


def _tell_night(report: NightReport | None, resumed: str | None, flows: Mapping[str, Flow]) -> None:
    out = Console(highlight=False)
    if report is not None:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("item", "flow", "outcome", "nodes"):
            table.add_column(name)
        for run in report.runs:
            cells = (run.item.target, run.item.flow, run.outcome, _way(run, flows))
            table.add_row(*(escape(printable(cell)) for cell in cells))
        out.print(table)
        for run in report.runs:
            if run.reason:
                why = f"{printable(run.item.target)}: {run.node}: {printable(run.reason)}"
                out.print(escape(why), soft_wrap=True)
        for pull in report.prs:
            out.print(escape(f"a PR would open: {printable(pull.title)}, {len(pull.live)} items"))
        for note in report.notes:
            out.print(escape(f"note: {printable(note)}"), soft_wrap=True)
        if report.left:
            out.print(f"{report.left} items were not started: the budget was spent")
    if resumed is not None:
        out.print(f"night {resumed} was interrupted: the next night resumes it first")
    last = "dry run: a scripted engine stood in for the model; nothing was written to this repository"
    out.print(last, soft_wrap=True)


def _way(run: Run, flows: Mapping[str, Flow]) -> str:
    """The nodes that an item went through in the flow's order, with their state where it is not that they passed."""
    rank = {node.id: n for n, node in enumerate(flow.order(flows[run.item.flow]))}
    names = sorted(run.nodes, key=lambda name: (rank.get(name.partition(".")[0], len(rank)), name))
    return ", ".join(name if run.nodes[name] == NodeState.PASSED else f"{name} {run.nodes[name]}" for name in names)
