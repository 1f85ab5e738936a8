"""The commands of learning: mine, train, bench, and what agents show and agents rollback do.

Ring 4: opens the doors, hands them on, prints the result. A training runs by day, never while a night does.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from pantheon import (
    adapters,
    artifacts,
    attic,
    config,
    desk,
    engines,
    growth,
    hooks,
    nights,
    past,
    prdesk,
    prs,
    screen,
    serving,
    session,
    trust,
)
from pantheon import cast as casting
from pantheon.config import Config
from pantheon.engine import Engine
from pantheon.errors import EngineError, InputError, RepositoryError
from pantheon.git import Repo
from pantheon.lessons import Card, Comparison, Trial, Tuned
from pantheon.models import find_model
from pantheon.places import Places
from pantheon.plan import many, printable
from pantheon.promotion import compare
from pantheon.records import Agent, PullRequest, PullState, Record, Tuning, seconds
from pantheon.rehearsal import stoppable
from pantheon.shadow import shadow_of
from pantheon.survey import Survey, read_config, survey
from pantheon.training import lineage, promote, trials, tune
from pantheon.training import mine as mining

SIZE = re.compile(r"(\d{1,6})\s*([kmgt])i?b?", re.IGNORECASE | re.ASCII)
UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}  # powers of two


def mine(repo: Repo, where: Places, agent: str, *, teacher: bool, as_json: bool) -> int:
    """Gather what an agent can learn: prints what there is, what was left out and why, and where it lies."""
    found, learner = learner_of(repo, agent)
    mined = gathered(repo, where, found, learner, teacher=teacher, quiet=as_json)
    if as_json:
        return screen.print_json({**mined.dataset.model_dump(mode="json"), "directory": str(mined.directory)})
    out, data = screen.console(), mined.dataset
    out.print(f"{data.agent}: {many(data.rows, 'row')} to learn from, of {many(data.runs, 'run')}", markup=False)
    out.print(f"  {many(data.dev, 'row')} of other targets tell when to stop", markup=False)
    if data.negatives:
        out.print(f"  {many(data.negatives, 'row')} that you refused are kept as negatives", markup=False)
    if data.teachers:
        out.print(f"  work of {', '.join(data.teachers)} is among them", markup=False)
    for why, count in sorted(data.left_out.items(), key=lambda one: (-one[1], one[0])):
        out.print(f"  left out: {count:>4}  {why}", markup=False)
    out.print(f"  dataset:  {mined.directory}", markup=False)
    out.print(f"next: git pantheon train {data.agent}", markup=False)
    return 0


def gathered(repo: Repo, where: Places, found: Config, learner: Agent, *, teacher: bool, quiet: bool) -> mining.Mined:
    """What an agent can learn, gathered from what happened so far, from easy to hard as nights measured it. Where
    nothing else tells whether a call helped, the model's own loss does, if what could compute it is installed."""
    model = model_of(found, learner, where)

    def losses(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        return tune.losses(model, pairs, work=repo.common_dir / "pantheon" / "training", quiet=True)

    with reading(quiet) as step:
        return mining.mine(
            repo,
            found,
            learner,
            model,
            teacher=teacher,
            commit=repo.head().commit,
            when=desk.now(),
            levels=past.levels(repo, found.settings.engine.kind, found.settings.training.levels),
            losses=losses if importlib.util.find_spec("torch") else None,
            step=step,
        )


def learner_of(repo: Repo, name: str) -> tuple[Config, Agent]:
    """The configuration in force and an agent of it that can learn. Raises RepositoryError for an unknown one,
    InputError for one that there is nothing to teach."""
    head = repo.head().commit
    found = read_config(repo, head, repo.entries(head))
    if name not in found.agents:
        able = [one.name for one in found.agents.values() if one.output == "edit" and one.runtime.engine != "none"]
        raise RepositoryError(
            "no such agent", name, f"those that can learn: {', '.join(sorted(able))}", "git pantheon agents"
        )
    mining.refuse(found.agents[name])
    return found, found.agents[name]


def model_of(found: Config, agent: Agent, where: Places) -> Path:
    """The directory of the model that an agent thinks with. Raises EngineError."""
    own = agent.runtime.model
    return find_model(found.settings.engine.model if own == "default" else own, where.models)


@contextmanager
def reading(quiet: bool) -> Iterator[mining.Step]:
    """How far a mining is, on the terminal."""
    with screen.waiting("mine", quiet) as say:
        yield lambda done, total: say(f"reading runs, {done} of {total}")


# --- train -----------------------------------------------------------------------------------------------------------


class Made(Record):
    """What the training that ended last was of, and how it ended; kept beside its files until the adapter has a card,
    so that nothing is trained twice."""

    dataset: str
    tuning: Tuning
    base_sha256: dict[str, str]
    tuned: Tuned


def train(
    repo: Repo,
    where: Places,
    agent: str,
    *,
    teacher: bool,
    budget: str | None,
    memory: str | None,
    items: int | None,
    no_bench: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Mine, train, bench, and offer the new version when it is better; else keep the old one, and say the numbers. Each
    step is kept: called again after it was stopped, it goes on there."""
    found, learner = learner_of(repo, agent)
    if found.settings.engine.kind != "vllm":
        why = f"the engine is {found.settings.engine.kind}: adapters are trained for a local model of vLLM's"
        raise InputError("cannot train", learner.name, why, hint="git pantheon model")
    budget_s, memory_bytes = seconds(budget) if budget else None, size_of(memory) if memory else None
    model = model_of(found, learner, where)
    with by_day(repo, "cannot train", learner.name):
        mined = gathered(repo, where, found, learner, teacher=teacher, quiet=quiet or as_json)
        card = _trained(repo, learner, model, mined, budget_s, memory_bytes, quiet or as_json)
        attic.sweep(repo, learner.name, [one for one in (learner.runtime.adapter,) if one])
        if card is None:
            said = "kept: nothing was learned, the base model has the least loss on the rows that it was not trained on"
            return screen.print_json({"card": None, "why": [said]}) if as_json else _say([said])
        if not no_bench:
            return _examined(repo, where, learner.name, card, items, quiet, as_json)
    if as_json:
        return screen.print_json({"card": card.model_dump(mode="json"), "comparison": None, "pr": None})
    named = f"{learner.name}: {promote.named(card.adapter)}"
    return _say([f"{named} is trained and not in force"], f"git pantheon bench {learner.name}")


def size_of(text: str) -> int:
    """`512m`, `4g` in bytes. Raises InputError."""
    found = SIZE.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise InputError("cannot read the size", repr(text[:80]), "give a number and one of k, m, g, t, such as 4g")
    return int(found[1]) << UNITS[found[2].lower()]


@contextmanager
def by_day(repo: Repo, what: str, thing: str) -> Iterator[None]:
    """Hold the night's lock: no night starts meanwhile. Raises RepositoryError where one runs."""
    with ExitStack() as held:
        try:
            held.enter_context(nights.alone(repo))
        except RepositoryError as error:
            raise RepositoryError(what, thing, "a night or another training is running here", error.hint) from error
        yield


def _trained(
    repo: Repo,
    learner: Agent,
    model: Path,
    mined: mining.Mined,
    budget_s: float | None,
    memory_bytes: int | None,
    quiet: bool,
) -> Card | None:
    """The card of an adapter that was trained on exactly this, now or before; None when nothing was learned."""
    base = session.weights(model)
    wanted = (mined.dataset.digest, learner.training, base)
    for card in adapters.cards(repo, learner.name):
        if (card.dataset.digest, card.tuning, card.base_sha256) == wanted:
            adapters.verified(repo, learner.name, card.adapter)
            return card
    room = repo.common_dir / "pantheon" / "trained"
    out, note = room / learner.name, room / f"{learner.name}.json"
    made = _read_made(note)
    if made is None or (made.dataset, made.tuning, made.base_sha256) != wanted:
        shutil.rmtree(out, ignore_errors=True)
        tuned = tune.tune(
            mined.directory,
            model,
            learner.training,
            agent=learner.name,
            out=out,
            work=repo.common_dir / "pantheon" / "training",
            budget_s=budget_s,
            memory_bytes=memory_bytes,
            quiet=quiet,
        )
        made = Made(dataset=wanted[0], tuning=wanted[1], base_sha256=base, tuned=tuned)
        room.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = note.with_suffix(".new")
        scratch.write_text(made.to_json() + "\n", encoding="utf-8")
        scratch.replace(note)
    if not made.tuned.best:
        return None
    digest, _ = adapters.keep(repo, learner.name, out)
    card = Card(
        agent=learner.name,
        version=learner.version + 1,
        adapter=digest,
        parent=learner.runtime.adapter,
        base_model=model.name,
        base_sha256=base,
        dataset=mined.dataset,
        tuning=learner.training,
        tuned=made.tuned,
        created_at=desk.now(),
    )
    sheet = mined.directory / "DATASHEET.md"
    extra = {sheet.name: sheet.read_bytes()} if sheet.is_file() else {}
    adapters.write_card(repo, card, desk.now(), desk.signer(repo), extra)
    shutil.rmtree(out, ignore_errors=True)
    note.unlink(missing_ok=True)
    return card


def _read_made(note: Path) -> Made | None:
    with suppress(OSError, ValidationError):
        return Made.model_validate_json(note.read_bytes())
    return None


# --- bench -----------------------------------------------------------------------------------------------------------


def bench(
    repo: Repo, where: Places, agent: str, adapter: str | None, *, items: int | None, quiet: bool, as_json: bool
) -> int:
    """Compare an adapter, by default the newest, with the version in force on held-out items; offer it when it is
    better."""
    cards = adapters.cards(repo, agent)
    if not cards:
        head = repo.head().commit
        promote.agent_of(read_config(repo, head, repo.entries(head)), agent)
        raise RepositoryError("cannot bench", agent, "it has no adapter yet", f"git pantheon train {agent}")
    digest = promote.find(repo, agent, adapter) if adapter else cards[-1].adapter
    with by_day(repo, "cannot bench", agent):
        return _examined(repo, where, agent, adapters.card(repo, agent, digest), items, quiet, as_json)


def _examined(repo: Repo, where: Places, name: str, card: Card, items: int | None, quiet: bool, as_json: bool) -> int:
    """Bench, put the comparison on the card, and offer the version or say why it is kept."""
    adapters.verified(repo, name, card.adapter)
    head = survey(repo, repo.head().commit, config.load_user(where.config).limits, hooks.inside(repo))
    trust.require(trust.look(repo, head.entries, where.state))
    agent = promote.agent_of(head.config, name)
    if agent.runtime.adapter == card.adapter:
        why = f"it is in force, as {agent.label}; name another one"
        raise RepositoryError("cannot bench", promote.named(card.adapter), why, f"git pantheon agents show {name}")
    versions = (agent, promote.successor(agent, card.adapter))
    sides, comparison, notes = _compared(repo, where, head, versions, items, quiet or as_json)
    if card.comparison is not None:
        notes.append(f"it was compared before: {card.comparison.why[0]}; each further look finds more by chance")
    if comparison.items and comparison != card.comparison:
        card = card.model_copy(update={"comparison": comparison})
        lines = "".join(f"{one.to_json()}\n" for one in sides).encode("utf-8", "backslashreplace")
        adapters.write_card(repo, card, desk.now(), desk.signer(repo), {"trials.jsonl": lines})
    pull = _offer(repo, name, card, comparison, notes) if comparison.promote else None
    if as_json:
        said = {"card": card.model_dump(mode="json"), "comparison": comparison.model_dump(mode="json")}
        return screen.print_json({**said, "notes": notes, "pr": pull.id if pull else None})
    head_line = f"{comparison.after} against {comparison.before}, which is in force"
    lines_ = [head_line, *(f"  {line}" for line in (*comparison.why, *notes))]
    if pull is None:
        return _say(lines_, f"git pantheon agents show {name}")
    return _say(
        [*lines_, f"PR {pull.id} offers it: {pull.branch}"],
        f"git pantheon pr show {pull.id}; git pantheon accept {pull.id}",
    )


def _offer(repo: Repo, name: str, card: Card, comparison: Comparison, notes: Sequence[str]) -> PullRequest:
    """The PR that puts the adapter in force: the one that is open already, or a new one."""
    for pull in prs.load_all(repo):
        if pull.promotes and pull.state is PullState.OPEN and card.adapter in repo.commit_info(pull.tip).message:
            return pull
    passed = f"{comparison.after_pass.hits} of {many(comparison.items, 'held-out item')}"
    title = f"{passed} instead of {comparison.before_pass.hits}"
    data = card.dataset
    learned = f"learned from {many(data.rows, 'row')} of {many(data.runs, 'run')}: dataset {data.digest[:12]}"
    why = (*comparison.why, *notes, learned)
    return promote.offer(repo, name, card.adapter, title=title, why=why, when=desk.now(), signer=desk.signer(repo))


def _compared(
    repo: Repo, where: Places, head: Survey, versions: tuple[Agent, Agent], items: int | None, quiet: bool
) -> tuple[list[trials.Outcome], Comparison, list[str]]:
    """Both versions on the held-out items: every outcome, the comparison, and what a person should know of it."""
    name, settings = versions[0].name, head.config.settings
    learned, unknown = _learned(repo, name, [version.runtime.adapter for version in versions])
    notes = [f"{promote.named(one)} has no card here: what it learned from may be among the items" for one in unknown]
    results = [run.result for run in artifacts.list_runs(repo) if run.result]
    line = lineage.read(repo, head.base, settings.training, results)
    model = find_model(settings.engine.model, where.models) if settings.engine.kind == "vllm" else None
    with shadow_of(repo, where.cache) as shadow:
        paper = trials.choose(repo, shadow, head, line, name, trained=learned, most=items)
        notes += paper.notes
        sides: tuple[list[Trial], list[Trial]] = ([], [])
        if paper.items:
            speaking = _speaking(repo, where, head, versions, paper, model, quiet)
            sides = _run(repo, where, shadow, head, versions, paper, session.weights(model), speaking, quiet)
        known = trials.measured(repo, paper, settings.engine.kind, model.name if model else settings.engine.kind)
    if len(sides[0]) < len(paper.items):
        without = len(paper.items) - len(sides[0])
        notes.append(f"{many(without, 'item')} left out: there was nothing for the agent to do")
    labels = tuple(f"{version.label} with {promote.named(version.runtime.adapter)}" for version in versions)
    found = compare(
        *sides,
        agent=name,
        labels=(labels[0], labels[1]),
        p_value=settings.training.p_value,
        true_pass=known[0],
        false_pass=known[1],
    )
    outcomes = [
        trials.Outcome(side=side, asked=True, trial=one)
        for side, told in zip(trials.SIDES, sides, strict=True)
        for one in told
    ]
    return outcomes, found, notes


def _learned(repo: Repo, name: str, digests: Sequence[str | None]) -> tuple[set[str], list[str]]:
    """The families that these adapters and those before them learned from, and the adapters of which nothing tells."""
    known = {card.adapter: card for card in adapters.cards(repo, name)}
    todo, seen = [one for one in digests if one], set[str]()
    families: set[str] = set()
    unknown: list[str] = []
    while todo:
        if (digest := todo.pop()) in seen:
            continue
        seen.add(digest)
        if digest not in known:
            unknown.append(digest)
            continue
        families |= set(known[digest].dataset.families)
        todo += [known[digest].parent or ""] if known[digest].parent else []
    return families, unknown


def _run(
    repo: Repo,
    where: Places,
    shadow: Repo,
    head: Survey,
    versions: tuple[Agent, Agent],
    paper: trials.Paper,
    weights: Mapping[str, str],
    speaking: AbstractAsyncContextManager[Engine],
    quiet: bool,
) -> tuple[list[Trial], list[Trial]]:
    """Run the trials in one go. What ended is kept in the cache until all have: after Ctrl-C or a kill it goes on."""
    identity = [str(repo.common_dir), head.config.digest, weights, *(version.to_json() for version in versions)]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    log = where.cache / "benches" / f"{key}.jsonl"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = trials.read_outcomes(log.read_bytes() if log.is_file() else b"")
    pairs = trials.pairs(done)
    left = 2 * sum((held.item.id, held.base) not in pairs for held in paper.items)
    log.write_text("".join(f"{one.to_json()}\n" for one in done), encoding="utf-8", errors="backslashreplace")

    async def go() -> tuple[list[Trial], list[Trial]]:
        async with speaking as engine:
            with (
                screen.counting(f"bench of {versions[0].name}", left, quiet) as step,
                log.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as stream,
            ):

                def told(one: trials.Outcome) -> None:
                    stream.write(f"{one.to_json()}\n")
                    step()

                return await trials.run(
                    repo,
                    shadow,
                    paper,
                    versions,
                    engine,
                    shadow.root / "bench",
                    protected=hooks.inside(repo),
                    done=done,
                    told=told,
                )

    found = asyncio.run(stoppable(go()))
    log.unlink()
    return found


def _speaking(
    repo: Repo,
    where: Places,
    head: Survey,
    versions: tuple[Agent, Agent],
    paper: trials.Paper,
    model: Path | None,
    quiet: bool,
) -> AbstractAsyncContextManager[Engine]:
    """An engine for a bench, with every voice that its items need: adapters are verified here, and merged where they
    take turns."""
    kind = head.config.settings.engine.kind
    if kind == "openai":
        why = "your own server is not given adapters: a bench needs a local model of vLLM's"
        raise EngineError("cannot bench", versions[0].name, why, "git pantheon model")
    if model is None:
        return engines.engine_by_day(kind, None, where, quiet)
    agents = {**head.config.agents, versions[0].name: versions[0]}
    cast = casting.prepare(repo, [*agents.values(), versions[1]], model, where.cache, quiet=quiet)
    named = {label.rpartition("@")[0] for held in paper.items for label in held.item.agents.values()}
    asked = [one for name, one in agents.items() if name in named and one.runtime.engine == "vllm"]
    voices = {one.runtime.adapter or "" for one in (*asked, *versions)}
    return engines.engine_by_day(kind, model, where, quiet, cast, serving.choose(voices, cpu=cast.cpu))


# --- agents: show, rollback ------------------------------------------------------------------------------------------


def show(repo: Repo, agent: str, *, as_json: bool) -> int:
    """An agent's versions: what each learned from, how it did, which is in force, and how it learns."""
    head = repo.head().commit
    found = read_config(repo, head, repo.entries(head))
    one = promote.agent_of(found, agent)
    cards = adapters.cards(repo, agent)
    current, settings = one.runtime.adapter, found.settings
    tried = past.tried(repo, settings.engine.kind)
    grown = growth.look(agent, one.version, current or "", cards, tried, settings.training.aim)
    if as_json:
        return screen.print_json(
            {
                "agent": one.label,
                "adapter": current,
                "cards": [card.model_dump(mode="json") for card in cards],
                "outlook": growth.outlook(grown) if grown else None,
            }
        )
    lines = [f"{one.label}: {one.summary}", f"in force: {promote.named(current)}"]
    if current is not None and all(card.adapter != current for card in cards):
        lines.append("its card is not here: it was trained in another clone")
    _say(lines)
    if not cards:
        return _say(["no adapter was trained for it yet"], f"git pantheon train {agent}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("adapter", "for", "trained", "rows", "after", "held-out items", ""):
        table.add_column(name, no_wrap=True)
    for card in cards:
        parent = card.parent.removeprefix("sha256:")[:12] if card.parent else "the base"
        mark = "in force" if card.adapter == current else ""
        cells = (card.adapter.removeprefix("sha256:")[:12], f"{agent}@{card.version}", f"{card.created_at:%Y-%m-%d}")
        table.add_row(*cells, str(card.dataset.rows), parent, scored(card), mark)
    screen.console().print(table)
    latest = cards[-1]
    if latest.comparison is not None:
        _say([f"  {line}" for line in latest.comparison.why])
    if grown is not None:
        _say([growth.outlook(grown)])
        if grown.drift is not None and grown.drift.alarm:
            _say([f"it drifts: {growth.drift_text(grown.drift)}"])
    back = f"; git pantheon agents rollback {agent}" if current else ""
    return _say(
        [], f"git pantheon bench {agent}{back}" if latest.adapter != current else f"git pantheon train {agent}{back}"
    )


def scored(card: Card) -> str:
    """How an adapter did on held-out items."""
    found = card.comparison
    if found is None:
        return "not compared"
    word = "better" if found.promote else "kept"
    return f"{found.after_pass.hits} of {found.items} ({found.before_pass.hits} before): {word}"


def rollback(repo: Repo, where: Places, agent: str, *, to: str | None, at_once: bool) -> int:
    """Go back to the adapter before, or to another one: as a local PR, which `at_once` is accepted at once."""
    pull = promote.roll_back(repo, agent, to, when=desk.now(), signer=desk.signer(repo))
    if at_once:
        return prdesk.say(repo, pull.id, prdesk.Wish("accept"), where)
    return _say([f"PR {pull.id}: {pull.title}"], f"git pantheon pr diff {pull.id}; git pantheon accept {pull.id}")


def _say(lines: Sequence[str], then: str = "") -> int:
    """Print lines of anybody's text, and the next command. 0."""
    out = screen.console()
    for line in lines:
        out.print(printable(line), markup=False)
    if then:
        out.print(f"next: {then}", markup=False)
    return 0
