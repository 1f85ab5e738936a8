"""A PR on what the user's branch is now: its stack built anew, and the checks run once more on the result.

Ring 3. The rules come from the new base, and run only where they are trusted. An item that does not go with it puts the
PR in conflict, which its record tells and a later refresh, or a word on the item, resolves; its review branch then
stays as it was. Where everything goes, the PR has a new revision. Merges nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pantheon import artifacts, config, prs, review, trust
from pantheon.checks import CheckRoom
from pantheon.errors import ConfigError, MergeConflict, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.item import confirmed, gating_checks, kept_paths
from pantheon.places import Places
from pantheon.plan import many
from pantheon.process import require_sandbox
from pantheon.records import Look, PullItem, PullRequest, PullState, Trouble
from pantheon.survey import Survey, read_config, survey

Sound = Callable[[str], str]  # a commit -> what fails on it; "" where all checks pass
Checking = Callable[[PullRequest, str], AbstractContextManager[Sound]]  # of a PR, by what a new base says
Rest = Callable[[Sequence[str]], tuple[list["Part"], list[Trouble]]]  # without these runs: the stack, what conflicts


def moved(repo: Repo, pull: PullRequest) -> bool:
    """Whether the branch that an open PR was made for is another than when it was last checked."""
    return pull.state is PullState.OPEN and repo.ref(f"refs/heads/{pull.onto}") != pull.base


def look(repo: Repo, pull: PullRequest, now: datetime) -> Look:
    """How a PR stands now."""
    if pull.state is not PullState.OPEN:
        return Look(word=str(pull.state))
    at, number = repo.ref(f"refs/heads/{pull.onto}"), pull.id
    if at is not None and at != pull.base and review.landing(repo, pull, at, ""):
        return Look(word="merged", said=f"all of it is on {pull.onto} already", hint=f"git pantheon accept {number}")
    where = prs.branch_of(repo, pull)
    if where in ("theirs", "deleted"):
        said = "somebody committed to its branch: it is yours from now on"
        hint = f"git merge {pull.branch}; git pantheon accept {number}"
        if where == "deleted":
            said, hint = "its branch was deleted", f"git branch {pull.branch} {pull.tip[:12]}"
        word = "yours" if where == "theirs" else "branch deleted"
        return Look(word=word, said=f"{said}, or git pantheon reject {number} -m WHY", hint=hint)
    if pull.troubles:
        first = pull.troubles[0]
        more = f", and {many(len(pull.troubles) - 1, 'item')} more" if len(pull.troubles) > 1 else ""
        hint = f"git pantheon pr show {number}"
        hint = f"git pantheon retry {number} {first.run[:12]} -m NOTE" if first.run else hint
        return Look(word="conflict", said=f"with {pull.onto}: {first.target}: {first.why}{more}", hint=hint)
    if pull.later is not None and pull.asleep(now):
        return Look(word="later", said=f"put off until {pull.later:%Y-%m-%d %H:%M} UTC")
    if at != pull.base:
        said = f"{pull.onto} moved since it was checked: accept builds it anew and checks it first"
        return Look(word="base moved", said=said, hint=f"git pantheon pr refresh {number}")
    return Look(word="open")


def looks(repo: Repo, pulls: Sequence[PullRequest], now: datetime) -> dict[int, Look]:
    """The same of many, by id."""
    return {pull.id: look(repo, pull, now) for pull in pulls}


def refresh(repo: Repo, pull: PullRequest, checking: Checking, when: datetime, signer: Signer | None) -> PullRequest:
    """The PR on the tip of the branch that it was made for: as it is when that has not moved, with a new revision when
    everything goes with it, else in conflict. Raises RepositoryError, TrustError, SandboxError, ConfigError."""
    review.must_be_undecided(pull)
    review.must_be_ours(repo, pull)
    onto = repo.ref(f"refs/heads/{pull.onto}")
    what = f"cannot refresh PR {pull.id}"
    if onto is None:
        raise RepositoryError(what, pull.onto, "there is no such branch any more", f"git branch {pull.onto} COMMIT")
    if onto == pull.base and not pull.troubles:
        return pull
    if review.landing(repo, pull, onto, ""):
        raise RepositoryError(what, pull.onto, "all of it is there already", f"git pantheon accept {pull.id}")
    stack, troubles = rebuild(repo, pull, onto, when, signer)
    if pull.promotes:
        troubles = troubles or _promotion_troubles(repo, pull, stack, onto)
    elif any(part.item.run for part in stack):

        def rest(without: Sequence[str]) -> tuple[list[Part], list[Trouble]]:
            again, conflicts = rebuild(repo, pull, onto, when, signer, without)
            return again, [one for one in conflicts if one.run not in without]

        with checking(pull, onto) as sound:
            troubles = _prove(stack, troubles, sound, rest)
    if troubles:
        told = pull.model_copy(update={"troubles": tuple(troubles), "tried": onto})
        return pull if told == pull else prs.update(repo, told, prs.REFRESH, when, signer)
    commits = {part.item.commit: part.commit for part in stack}
    items = tuple(
        item
        if item.dropped
        else item.model_copy(update={"commit": commits[item.commit]})
        if item.commit in commits
        else item.model_copy(update={"dropped": True})
        for item in pull.items
    )
    fresh = {"base": onto, "tip": stack[-1].commit, "items": items, "revision": pull.revision + 1}
    after = pull.model_copy(update={**fresh, "troubles": (), "tried": ""})
    return prs.update(repo, after, prs.REFRESH, when, signer)


# --- the stack -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """An item with its new commit."""

    item: PullItem
    commit: str


def rebuild(
    repo: Repo, pull: PullRequest, onto: str, when: datetime, signer: Signer | None, without: Sequence[str] = ()
) -> tuple[list[Part], list[Trouble]]:
    """The live items on `onto`, by three-way merges, and those that do not go there. `without`: runs to leave out. The
    commit that ends a task goes only where all others do, and silently."""
    stack: list[Part] = []
    troubles: list[Trouble] = []
    tip, gone = onto, bool(without)
    for item in pull.items:
        if item.dropped or item.run in without or (not item.run and gone and not pull.promotes):
            continue
        info = repo.commit_info(item.commit)
        try:
            tip = review.put(repo, info.parents[0], tip, info.tree, info.message, when, signer)
        except RepositoryError as error:
            gone = True
            if item.run or pull.promotes:
                paths = error.paths if isinstance(error, MergeConflict) else ()
                troubles.append(Trouble(run=item.run, target=item.target, why=error.why or str(error), paths=paths))
            continue
        stack.append(Part(item, tip))
    return stack, troubles


def _promotion_troubles(repo: Repo, pull: PullRequest, stack: Sequence[Part], onto: str) -> list[Trouble]:
    """Another version of an agent still changes that agent and nothing else."""
    item, why = pull.items[0], ""
    name, _, version = item.item.rpartition("@")
    try:
        before = read_config(repo, onto, repo.entries(onto)).agents
        after = read_config(repo, stack[-1].commit, repo.entries(stack[-1].commit)).agents
        fresh = after.get(name)
        if fresh is None or str(fresh.version) != version or {**before, name: fresh} != after:
            why = f"with it the agents of {pull.onto} are not what {item.item} says"
    except ConfigError as error:
        why = str(error)
    return [Trouble(run="", target=item.target, why=why)] if why else []


# --- the checks ------------------------------------------------------------------------------------------------------


def _prove(stack: list[Part], troubles: list[Trouble], sound: Sound, rest: Rest) -> list[Trouble]:
    """`troubles` and the items that break a check on the new base: the first one, then of what is left the first one,
    and so on."""
    told = list(troubles)
    while runs := [part for part in stack if part.item.run]:
        why = sound(runs[-1].commit)
        if not why:
            break
        low, high = 0, len(runs)  # all is well below low, and not with high
        while high - low > 1:
            middle = (low + high) // 2
            bad = sound(runs[middle - 1].commit)
            low, high, why = (low, middle, bad) if bad else (middle, high, why)
        culprit = runs[high - 1].item
        told.append(Trouble(run=culprit.run, target=culprit.target, why=why))
        stack, conflicts = rest([trouble.run for trouble in told])
        told += conflicts
    return told


def checks(repo: Repo, where: Places) -> Checking:
    """The real ones: as the new base has them, where that is trusted, in the sandbox."""
    return lambda pull, onto: _checking(repo, pull, _trusted(repo, onto, where), where.cache)


def _trusted(repo: Repo, commit: str, where: Places) -> Survey:
    """What the new base says, within the user's limits. Raises TrustError, SandboxError."""
    trust.require(trust.look(repo, repo.entries(commit), where.state))
    require_sandbox()
    return survey(repo, commit, config.load_user(where.config).limits)


@contextmanager
def _checking(repo: Repo, pull: PullRequest, found: Survey, cache: Path) -> Iterator[Sound]:
    """The checks that gate the PR's task, as the new base has them, on clean exports."""
    flow = artifacts.load_run(repo, pull.live[0].run).item.flow
    task = next((task for task in found.tasks if task.uuid == pull.task), None)
    if task is None or flow not in found.config.flows:
        why = f"{pull.onto} has {'its task' if task is None else f'the flow {flow}'} no more"
        hint = f"git pantheon reject {pull.id} -m WHY (or git pantheon accept {pull.id} --no-check)"
        raise RepositoryError(f"cannot check PR {pull.id}", pull.title, why, hint)
    graph, named, base = found.config.flows[flow], confirmed(task), repo.tree_of(found.base)
    names = gating_checks(graph, task)
    work = cache / "checks" / f"pr-{pull.id}-{time.monotonic_ns()}"
    work.mkdir(mode=0o700, parents=True)
    try:
        room = CheckRoom.open(repo, found.config, found.base, work)

        def sound(commit: str) -> str:
            tree = repo.tree_of(commit)
            targets = kept_paths(repo.diff(base, tree))
            if not targets:
                return ""
            job = room.run(tree, f"tip-{tree[:16]}", names, targets, named, graph.rules)
            return "; ".join(f"check {one.name}: {one.detail}" for one in asyncio.run(job)[0] if not one.passed)

        yield sound
    finally:
        shutil.rmtree(work, ignore_errors=True)
