"""What a person does with a local PR: accept, drop, reject, retry, never, later, undo. The only place that touches the
user's branch.

Accepting merges with the user's own git, configuration and identity; nothing is half-merged. A decision is written
three times, in this order: a note on each item's commit, the PR's record, its review branch. Nothing of it is ever
rewritten: `undo` puts an earlier record on top, and of an accepted PR the user's branch back, while nobody built on it.
What is about to happen to the user's branch stands in `pantheon/under-way` below the common git dir until it is
recorded: after a kill `finish` knows what to record, and nothing is merged twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pantheon import artifacts, children, faults, prs, reindex, turns, usergit
from pantheon.errors import InputError, MergeConflict, PantheonError, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.plan import HINT_LENGTH, printable
from pantheon.records import HumanDecision, PullItem, PullRequest, PullState, Record

OffVerdict = Literal["dropped", "rejected", "retry", "never", "later"]
Strategy = Literal["merge", "ff", "rebase"]
RUN, TASK = "Pantheon-Run", "Pantheon-Task"  # trailers of an item's commit; of that which ends a task only the second
DECIDE_S = 10.0  # how long one decision waits for another


@dataclass(frozen=True)
class Standing:
    """What people's last words mean for the next night, by the items' ids: the blob that an item was rejected for, the
    items that nobody wants again, what was said of those that are wanted again, and until when some are put off."""

    rejected: dict[str, str]
    never: frozenset[str]
    hints: dict[str, str]
    later: dict[str, datetime]


def standing(repo: Repo, pulls: Sequence[PullRequest]) -> Standing:
    """The last word on every item, from the PRs' records. An item that waits in an open PR keeps the word before."""
    last: dict[str, PullItem] = {}
    bases: dict[str, str] = {}
    verdicts: dict[str, str] = {}
    for pull in sorted(pulls, key=lambda pull: pull.id):
        for item in pull.items:
            verdict: str = item.verdict or ("rejected" if item.dropped or pull.state is PullState.REJECTED else "")
            verdict = verdict or ("accepted" if pull.state is PullState.ACCEPTED else "")
            if item.run and verdict:
                last[item.item], verdicts[item.item], bases[item.item] = item, verdict, pull.base
    off = [name for name, verdict in verdicts.items() if verdict in ("rejected", "dropped")]
    return Standing(
        rejected={name: _blob_of(repo, last[name], bases[name]) for name in off},
        never=frozenset(name for name, verdict in verdicts.items() if verdict == "never"),
        hints={name: last[name].reason for name, verdict in verdicts.items() if verdict == "retry"},
        later={name: until for name, v in verdicts.items() if v == "later" and (until := last[name].until) is not None},
    )


def _blob_of(repo: Repo, item: PullItem, base: str) -> str:
    """What an item found in its target; of a run that was collected what the base of its PR has there."""
    try:
        return artifacts.load_run(repo, item.run).item.blob
    except RepositoryError:
        return found.oid if (found := repo.entries(base).get(item.target)) else ""


def refused(pulls: Sequence[PullRequest]) -> dict[tuple[str, str, str], PullItem]:
    """(task, target, patch-id) of every change that a person rejected, with the item that it was."""
    return {
        (pull.task, item.target, item.patch): item
        for pull in pulls
        for item in pull.items
        if item.verdict == "rejected" and item.patch
    }


def patch_id(repo: Repo, commit: str) -> str:
    """The name that `git patch-id --stable` gives a commit's change; "" where it changes nothing."""
    info = repo.commit_info(commit)
    patch = repo.diff(repo.tree_of(info.parents[0]), info.tree).patch if info.parents else b""
    words = children.quiet(repo.root, "patch-id", "--stable", stdin=patch).stdout.split()
    return words[0].decode("ascii") if words else ""


def find_items(pull: PullRequest, names: Sequence[str]) -> tuple[PullItem, ...]:
    """The items a person means by id (or its beginning) or by path. Raises RepositoryError for an unknown one."""
    found: dict[str, PullItem] = {}
    for name in names:
        matches = [i for i in pull.live if i.target == name or i.run.startswith(name) or i.item.startswith(name)]
        if len(matches) != 1:
            why = "no item of this PR has that path or id" if not matches else "more than one item begins so"
            raise RepositoryError(f"cannot find the item in PR {pull.id}", name, why, f"git pantheon pr show {pull.id}")
        found[matches[0].run] = matches[0]
    return tuple(found.values())


def not_left_out(pull: PullRequest, names: Sequence[str]) -> list[str]:
    """Those names that are not of an item which was left out already: to say it twice is no fault."""
    gone = [item for item in pull.items if item.run and item.verdict == "dropped"]
    return [
        name
        for name in names
        if not any(i.target == name or i.run.startswith(name) or i.item.startswith(name) for i in gone)
    ]


# --- deciding --------------------------------------------------------------------------------------------------------


@contextmanager
def alone(repo: Repo, wait_s: float = DECIDE_S) -> Iterator[None]:
    """One decision at a time in this repository, whatever it is about. Raises RepositoryError."""
    with turns.hold(repo.common_dir / "pantheon" / "decide.lock", "cannot decide now", wait_s):
        yield


def accept(
    repo: Repo,
    pull: PullRequest,
    *,
    drop: Sequence[str],
    strategy: Strategy,
    when: datetime,
    signer: Signer | None,
) -> PullRequest:
    """Merge a PR into the branch it was made for, without the dropped items; where a person merged it there already,
    only the record is written. Raises RepositoryError; items that were dropped before a merge was refused stay
    dropped."""
    must_be_undecided(pull)
    head = must_stand_on(repo, pull, "accept")
    if found := landing(repo, pull, head, ""):
        if drop:
            why = f"all of it is on {pull.onto} already"
            raise RepositoryError(f"cannot drop from PR {pull.id}", "", why, f"git pantheon accept {pull.id}")
        return _follow(repo, _record_accepted(repo, pull, found, when, signer), when, signer)
    must_be_ours(repo, pull)
    drop = not_left_out(pull, drop)
    must_leave_some(pull, drop)
    if drop:
        pull = _take_off(repo, pull, drop, "dropped", "", when, signer)
    count = "" if pull.promotes else f" ({len(pull.live)} items)"
    message = f"Merge PR {pull.id}: {pull.title}{count}"
    with _under_way(repo, UnderWay(verb="accept", pr=pull.id, onto=pull.onto, head=head)):
        landed = usergit.merge(repo, pull.branch, strategy=strategy, message=message)
        faults.point("accept merged")
        closed = _record_accepted(repo, pull, (head, landed), when, signer)
    return _follow(repo, closed, when, signer)


def _follow(repo: Repo, closed: PullRequest, when: datetime, signer: Signer | None) -> PullRequest:
    """The notes of an accepted PR also on the commits that a rebase made of its own. What fails here does not undo the
    merge: `git pantheon reindex` does it again."""
    if signer is not None and closed.landed_on != closed.landed:
        with suppress(RepositoryError):
            reindex.follow(repo, closed.landed, [closed.landed_on], when, signer)
    return closed


def must_leave_some(pull: PullRequest, drop: Sequence[str]) -> None:
    """Something is left to accept without the dropped items. Raises RepositoryError."""
    dropped = find_items(pull, drop)
    if dropped and len(dropped) == len(pull.live):
        raise RepositoryError(
            f"cannot accept PR {pull.id}", "", "every item was dropped", f"git pantheon reject {pull.id} -m WHY"
        )


def _record_accepted(
    repo: Repo, pull: PullRequest, found: tuple[str, str], when: datetime, signer: Signer | None
) -> PullRequest:
    """That a PR is on the user's branch: `found` are the commit before it, and that which brought it there."""
    gone = {"troubles": (), "tried": "", "later": None}
    closed = pull.model_copy(update={"state": PullState.ACCEPTED, "landed_on": found[0], "landed": found[1], **gone})
    _decide(repo, closed, closed.live, "accepted", "", when, signer)
    faults.point("decision noted")
    return prs.update(repo, closed, "accept", when, signer)


def drop(repo: Repo, pull: PullRequest, *, items: Sequence[str], when: datetime, signer: Signer | None) -> PullRequest:
    """Leave items out of a PR; they are offered again when their file changes."""
    return _take_off(repo, pull, items, "dropped", "", when, signer)


def reject(
    repo: Repo, pull: PullRequest, *, items: Sequence[str], reason: str, when: datetime, signer: Signer | None
) -> PullRequest:
    """Reject a whole PR, or some of its items with a reason; the PR stays open while items are left."""
    return _take_off(repo, pull, items, "rejected", reason, when, signer)


def never(repo: Repo, pull: PullRequest, *, items: Sequence[str], when: datetime, signer: Signer | None) -> PullRequest:
    """Reject items for good: they are not offered again, also when their file changes."""
    return _take_off(repo, pull, items, "never", "", when, signer)


def later(
    repo: Repo, pull: PullRequest, *, items: Sequence[str], until: datetime, when: datetime, signer: Signer | None
) -> PullRequest:
    """Put a PR off: until then it needs nobody. Items of it are taken off, and offered again once that time came."""
    if items:
        return _take_off(repo, pull, items, "later", "", when, signer, until)
    must_be_undecided(pull)
    return prs.update(repo, pull.model_copy(update={"later": until}), "later", when, signer)


def retry(
    repo: Repo, pull: PullRequest, *, items: Sequence[str], note: str, when: datetime, signer: Signer | None
) -> PullRequest:
    """Take items off a PR and offer them again next night, with a note for the agents: one line, at most HINT_LENGTH
    characters. Raises InputError for another note."""
    hint = printable(" ".join(note.split()))
    if not hint or len(hint) > HINT_LENGTH:
        why = "it is empty" if not hint else f"it has {len(hint)} characters"
        raise InputError(
            "cannot use the note", "-m", f"{why}; the agents read one line of at most {HINT_LENGTH} characters"
        )
    return _take_off(repo, pull, items, "retry", hint, when, signer)


def _take_off(
    repo: Repo,
    pull: PullRequest,
    names: Sequence[str],
    verdict: OffVerdict,
    reason: str,
    when: datetime,
    signer: Signer | None,
    until: datetime | None = None,
) -> PullRequest:
    """The PR without some of its items (all of them without `names`), each with a word on it; closed when none is
    left, which needs no review branch."""
    must_be_undecided(pull)
    chosen = find_items(pull, names) if names else pull.live
    whole = len(chosen) == len(pull.live)
    if not whole:
        must_be_ours(repo, pull)
    said = {"verdict": verdict, "reason": reason, "said_at": when, "until": until}
    patches = {item.run: patch_id(repo, item.commit) for item in chosen}
    items = tuple(
        item.model_copy(update={**said, "patch": patches[item.run]}) if item.run in patches else item
        for item in pull.items
    )
    kept = tuple(trouble for trouble in pull.troubles if trouble.run not in patches)
    after = pull.model_copy(update={"items": items, "troubles": () if whole else kept})
    if whole:
        after = after.model_copy(update={"state": PullState.REJECTED, "reason": reason, "later": None})
    else:
        after = _without(repo, after, set(patches), when, signer)
    _decide(repo, pull, chosen, verdict, reason, when, signer)
    faults.point("decision noted")
    return prs.update(repo, after, verdict, when, signer)


def leave_out(
    repo: Repo, pull: PullRequest, off: Mapping[str, tuple[str, str]], *, when: datetime, signer: Signer | None
) -> PullRequest:
    """The PR without the runs that were taken off in another clone, where that was noted. `off`: run -> the verdict and
    the reason there."""
    must_be_undecided(pull)
    must_be_ours(repo, pull)
    items = tuple(
        item.model_copy(update={"verdict": off[item.run][0], "reason": off[item.run][1], "said_at": when})
        if item.run in off
        else item
        for item in pull.items
    )
    after = pull.model_copy(update={"items": items})
    if all(item.run in off for item in pull.live):
        after = after.model_copy(update={"state": PullState.REJECTED, "troubles": (), "later": None})
    else:
        after = _without(repo, after, set(off), when, signer)
    return prs.update(repo, after, next(iter(off.values()))[0], when, signer)


def must_be_undecided(pull: PullRequest) -> None:
    if pull.state is not PullState.OPEN:
        raise RepositoryError(f"PR {pull.id} is closed", pull.title, f"it was {pull.state}", "git pantheon pr")


def must_be_ours(repo: Repo, pull: PullRequest) -> None:
    """The review branch is where we left it. Raises RepositoryError with what a person can do in its place."""
    reject, tip = f"git pantheon reject {pull.id} -m WHY", pull.tip[:12]
    match prs.branch_of(repo, pull):
        case "ours":
            return
        case "deleted":
            why, hint = "the review branch was deleted", f"git branch {pull.branch} {tip} (or {reject})"
        case "behind":
            why, hint = "the review branch is at an older revision, and checked out", "git switch -"
        case _:
            why = "somebody committed to the review branch: hands off, it is yours from now on"
            hint = f"git merge {pull.branch}; git pantheon accept {pull.id} (or git branch -f {pull.branch} {tip})"
    raise RepositoryError(f"cannot touch PR {pull.id}", pull.branch, why, hint)


def must_stand_on(repo: Repo, pull: PullRequest, verb: str) -> str:
    """The commit of HEAD, which is on the branch that a PR was made for."""
    head = repo.head()
    if head.branch != pull.onto:
        where = head.branch or "a detached HEAD"
        why = f"it was made for {pull.onto}, you are on {where}"
        raise RepositoryError(f"cannot {verb} PR {pull.id}", pull.onto, why, f"git switch {pull.onto}")
    return head.commit


def _decide(
    repo: Repo,
    pull: PullRequest,
    items: Sequence[PullItem],
    verdict: str,
    reason: str,
    when: datetime,
    signer: Signer | None,
) -> None:
    said = {"pr": pull.id, "verdict": verdict, "reason": reason, "who": repo.user_identity(), "when": when}
    said["step"] = len(prs.history(repo, pull.id)) + 1
    lines = [
        (item.commit, HumanDecision.model_validate({**said, "item": item.item, "run": item.run})) for item in items
    ]
    prs.decide(repo, lines, when, signer)


# --- building the stack anew -----------------------------------------------------------------------------------------


def _without(repo: Repo, pull: PullRequest, gone: set[str], when: datetime, signer: Signer | None) -> PullRequest:
    """The PR as a new revision whose stack leaves out the runs in `gone`, not written yet. Raises RepositoryError when
    later items need them."""
    tip = pull.base
    items: list[PullItem] = []
    for item in pull.items:
        if item.dropped or item.run in gone or not item.run:  # with an item gone, the task is not done either
            items.append(item.model_copy(update={"dropped": True}))
            continue
        info = repo.commit_info(item.commit)
        try:
            commit = put(repo, info.parents[0], tip, info.tree, info.message, when, signer)
        except MergeConflict as error:
            raise RepositoryError(
                f"cannot drop from PR {pull.id}",
                item.target,
                f"it builds on a dropped item ({error})",
                f"git pantheon pr show {pull.id}",
            ) from error
        tip = commit
        items.append(item.model_copy(update={"commit": commit}))
    return pull.model_copy(update={"items": tuple(items), "tip": tip, "revision": pull.revision + 1})


def put(repo: Repo, base: str, tip: str, tree: str, message: str, when: datetime, signer: Signer | None) -> str:
    """A new commit on `tip` with the change from `base` to `tree`, by a three-way merge. Raises MergeConflict."""
    merged = tree if tip == base else repo.merge_trees(repo.tree_of(base), repo.tree_of(tip), tree)
    return repo.commit(merged, [tip], message, when, signer)


# --- taking back -----------------------------------------------------------------------------------------------------


def undo(repo: Repo, pull: PullRequest, *, when: datetime, signer: Signer | None) -> PullRequest:
    """Take back the last decision on a PR that was not taken back yet: it is open again as it was before.

    What was accepted leaves the user's branch only while that branch is where the merge put it and nothing of it was
    pushed. Raises RepositoryError, with the `git revert` to type in its place.
    """
    left = prs.standing(prs.history(repo, pull.id))
    if len(left) < 2:
        raise RepositoryError(
            f"nothing to undo in PR {pull.id}", pull.title, "nothing was decided", f"git pantheon pr show {pull.id}"
        )
    before = left[-2]
    revision = pull.revision + (before.revision != pull.revision)  # a revision never comes back, its stack does
    again = before.model_copy(update={"revision": revision})
    _must_be_alone(repo, again)
    if pull.state is PullState.OPEN:
        must_be_ours(repo, pull)
    elif prs.branch_of(repo, pull) == "theirs":
        why = "a branch of that name is somebody's"
        raise RepositoryError(f"cannot undo in PR {pull.id}", pull.branch, why, f"git branch -m {pull.branch} NAME")
    if pull.state is not PullState.ACCEPTED:
        return _put_back(repo, pull, again, when, signer)
    head = must_stand_on(repo, pull, "undo the merge of")
    with _under_way(repo, UnderWay(verb="undo", pr=pull.id, onto=pull.onto, head=head)):
        _take_back(repo, pull, head)
        faults.point("accept taken back")
        return _put_back(repo, pull, again, when, signer)


def _put_back(repo: Repo, pull: PullRequest, again: PullRequest, when: datetime, signer: Signer | None) -> PullRequest:
    here = {item.run for item in (pull.live if pull.state is PullState.OPEN else ())}
    undone = [item for item in pull.items if item.run in {old.run for old in again.live} - here]
    _decide(repo, pull, undone, "undone", "", when, signer)
    faults.point("decision noted")
    return prs.update(repo, again, prs.UNDO, when, signer)


def _must_be_alone(repo: Repo, pull: PullRequest) -> None:
    """No later PR has an item that would be offered a second time."""
    items = {item.item for item in pull.live}
    for other in prs.load_all(repo):
        if other.id > pull.id and other.state in (PullState.OPEN, PullState.ACCEPTED):
            for item in other.live:
                if item.item in items:
                    why = f"{item.target} came again in PR {other.id}, which is {other.state}"
                    raise RepositoryError(f"cannot undo in PR {pull.id}", "", why, f"git pantheon pr show {other.id}")


def _take_back(repo: Repo, pull: PullRequest, head: str) -> None:
    """The user's branch as it was before the merge of this PR, by their own git. Raises RepositoryError."""
    merge = bool(pull.landed) and len(repo.commit_info(pull.landed).parents) > 1
    revert = f"git revert -m 1 {pull.landed[:12]}" if merge else f"git revert {pull.landed_on[:12]}..{pull.landed[:12]}"
    what = f"cannot undo the merge of PR {pull.id}"
    if not pull.landed or pull.landed == pull.landed_on:
        why = "where it begins was not recorded"
        raise RepositoryError(what, pull.onto, why, f"git log --oneline --grep='PR {pull.id}:' {pull.onto}")
    if head == pull.landed_on:
        return  # an undo that was killed in the middle
    if head != pull.landed:
        why = f"{pull.onto} went on to {head[:12]} since it was accepted"
        raise RepositoryError(what, pull.onto, why, revert)
    if where := _published(repo, pull.landed):
        raise RepositoryError(what, pull.onto, f"it was pushed: {', '.join(where)} has it", revert)
    _refuse_dirty(repo, pull)
    # What `git reset --keep` does, but what is staged of other files stays staged, and no ignored file is overwritten.
    done = children.users_own(
        repo.root, "switch", "-q", "--no-overwrite-ignore", "--no-track", "-C", pull.onto, pull.landed_on
    )
    if repo.head().commit != pull.landed_on:
        why = os.fsdecode(done.stderr + done.stdout).strip() or "it did not end in 30 minutes"
        raise RepositoryError(what, pull.onto, why, revert)


def _published(repo: Repo, commit: str) -> list[str]:
    """The remote-tracking branches that have a commit, but for pushed review branches."""
    found = children.quiet(repo.root, "for-each-ref", "--format=%(refname)", f"--contains={commit}", "refs/remotes/")
    names = [os.fsdecode(line).removeprefix("refs/remotes/") for line in found.stdout.splitlines()]
    return [printable(name) for name in names if "/pantheon/" not in name]


def _refuse_dirty(repo: Repo, pull: PullRequest) -> None:
    changes = repo.diff(pull.landed, pull.landed_on).files
    paths = {path for change in changes for path in (change.path, change.old_path) if path is not None}
    here = repo.entries(pull.landed)
    dirty = set(repo.dirty_paths(sorted(paths)))
    dirty |= {path for path in paths if path not in here and os.path.lexists(repo.root / path)}
    if dirty:
        why = f"your changes to {', '.join(sorted(dirty))} would be overwritten"
        raise RepositoryError(f"cannot undo the merge of PR {pull.id}", pull.onto, why, "git stash")


# --- what a kill left ------------------------------------------------------------------------------------------------


class UnderWay(Record):
    """What is about to happen to the user's branch: `head` is where it is before."""

    verb: Literal["accept", "undo"]
    pr: int
    onto: str
    head: str


@contextmanager
def _under_way(repo: Repo, what: UnderWay) -> Iterator[None]:
    """Have it written down until it is recorded. A refusal that left the branch as it was leaves nothing behind."""
    path = repo.common_dir / "pantheon" / "under-way"
    fresh = path.with_name(f"under-way.{os.getpid()}")
    try:
        fresh.write_text(what.to_json() + "\n", encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        why = str(error.strerror)
        raise RepositoryError(f"cannot {what.verb} PR {what.pr}", str(path), why, f"ls -ld {path.parent}") from error
    faults.point("accept begins")
    try:
        yield
    except PantheonError:
        if repo.ref(f"refs/heads/{what.onto}") == what.head and not usergit.under_way(repo):
            path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
    faults.point("accept recorded")


def finish(repo: Repo, when: datetime, signer: Signer | None) -> PullRequest | None:
    """Record what was done to the user's branch by an accept or an undo that was killed: the PR, or None where there
    was none, or where git's part of it did not come to its end."""
    path = repo.common_dir / "pantheon" / "under-way"
    try:
        what = UnderWay.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        with suppress(OSError):
            path.unlink()
        return None
    pull, done = prs.load(repo, what.pr), None
    at = repo.ref(f"refs/heads/{what.onto}") or ""
    if usergit.under_way(repo):
        return None  # a person ends it or takes it back: git status says how
    if what.verb == "accept" and pull.state is PullState.OPEN and at and at != what.head:
        found = landing(repo, pull, at, what.head)
        done = _record_accepted(repo, pull, found, when, signer) if found else None
    elif what.verb == "undo" and pull.state is PullState.ACCEPTED and at == pull.landed_on:
        left = prs.standing(prs.history(repo, pull.id))
        revision = pull.revision + (left[-2].revision != pull.revision)
        done = _put_back(repo, pull, left[-2].model_copy(update={"revision": revision}), when, signer)
    path.unlink(missing_ok=True)
    return done


def interrupted(repo: Repo) -> bool:
    """Whether there is something for `finish`."""
    return (repo.common_dir / "pantheon" / "under-way").exists()


def landing(repo: Repo, pull: PullRequest, at: str, since: str) -> tuple[str, str] | None:
    """(before, landed) of a PR whose whole work is in `at`, a commit of the user's branch; else None.

    `since`: a commit of that branch from before, where it is known; after it commits that were picked count as well.
    """
    if not _within(repo, pull.tip, at):
        return _picked(repo, pull, at, since) if since else None
    landed = at
    while landed != pull.tip:
        parents = repo.commit_info(landed).parents
        if not _within(repo, pull.tip, parents[0]):
            return parents[0], landed
        landed = parents[0]
    return since or pull.base, landed


def _within(repo: Repo, commit: str, tip: str) -> bool:
    try:
        return repo.merge_base(commit, tip) == commit
    except RepositoryError:  # they have nothing in common
        return False


def _picked(repo: Repo, pull: PullRequest, at: str, since: str) -> tuple[str, str] | None:
    """The same by trailers: the strategy `rebase` makes new commits."""
    wanted = [item for item in pull.items if not item.dropped]
    one, every = (prs.PROMOTES, prs.PROMOTES) if pull.promotes else (RUN, TASK)
    found = repo.trailers(every, at, [since])
    names = {name for _, values in repo.trailers(one, at, [since]) for name in values}
    need = {item.item if pull.promotes else item.run for item in wanted} - {""}
    return (since, found[0][0]) if len(found) >= len(wanted) and need <= names else None
