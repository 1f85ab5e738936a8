"""What a person does with a local PR: accept, drop, reject, retry, never, undo. The only place that touches the user's
branch.

Accepting merges with the user's own git, configuration and identity; nothing is half-merged. A decision is written
three times, in this order: a note on each item's commit, the PR's record, its review branch. Nothing of it is ever
rewritten: `undo` puts an earlier record on top, and of an accepted PR the user's branch back, while nobody built on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pantheon import artifacts, attest, children, prs, usergit
from pantheon.errors import InputError, MergeConflict, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.plan import HINT_LENGTH, printable
from pantheon.records import HumanDecision, PullItem, PullRequest, PullState

OffVerdict = Literal["dropped", "rejected", "retry", "never"]


@dataclass(frozen=True)
class Standing:
    """What people's last words mean for the next night, by the items' ids: the blob that an item was rejected for, the
    items that nobody wants again, and what was said of those that are wanted again."""

    rejected: dict[str, str]
    never: frozenset[str]
    hints: dict[str, str]


def standing(repo: Repo, pulls: Sequence[PullRequest]) -> Standing:
    """The last word on every item, from the PRs' records. An item that waits in an open PR keeps the word before."""
    last: dict[str, PullItem] = {}
    verdicts: dict[str, str] = {}
    for pull in sorted(pulls, key=lambda pull: pull.id):
        for item in pull.items:
            verdict: str = item.verdict or ("rejected" if item.dropped or pull.state is PullState.REJECTED else "")
            verdict = verdict or ("accepted" if pull.state is PullState.ACCEPTED else "")
            if item.run and verdict:
                last[item.item], verdicts[item.item] = item, verdict
    off = [name for name, verdict in verdicts.items() if verdict in ("rejected", "dropped")]
    return Standing(
        rejected={name: artifacts.load_run(repo, last[name].run).item.blob for name in off},
        never=frozenset(name for name, verdict in verdicts.items() if verdict == "never"),
        hints={name: last[name].reason for name, verdict in verdicts.items() if verdict == "retry"},
    )


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


# --- deciding --------------------------------------------------------------------------------------------------------


def accept(
    repo: Repo,
    pull: PullRequest,
    *,
    drop: Sequence[str],
    strategy: Literal["merge", "ff", "rebase"],
    when: datetime,
    signer: Signer | None,
) -> PullRequest:
    """Merge a PR into the branch it was made for, without the dropped items. Raises RepositoryError; items that were
    dropped before a merge was refused stay dropped."""
    _must_be_open(repo, pull)
    head = _must_stand_on(repo, pull, "accept")
    dropped = find_items(pull, drop)
    if dropped and len(dropped) == len(pull.live):
        raise RepositoryError(
            f"cannot accept PR {pull.id}", "", "every item was dropped", f"git pantheon reject {pull.id} -m WHY"
        )
    if dropped:
        pull = _take_off(repo, pull, drop, "dropped", "", when, signer)
    count = "" if pull.promotes else f" ({len(pull.live)} items)"
    message = f"Merge PR {pull.id}: {pull.title}{count}"
    landed = usergit.merge(repo, pull.branch, strategy=strategy, message=message)
    closed = pull.model_copy(update={"state": PullState.ACCEPTED, "landed_on": head, "landed": landed})
    _decide(repo, closed, closed.live, "accepted", "", when, signer)
    prs.update(repo, closed, "accept", when, signer)
    prs.close_branch(repo, closed)
    return closed


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
) -> PullRequest:
    """The PR without some of its items (all of them without `names`), each with a word on it; closed when none is
    left."""
    _must_be_open(repo, pull)
    chosen = find_items(pull, names) if names else pull.live
    runs = {item.run for item in chosen}
    said = {"verdict": verdict, "reason": reason}
    items = tuple(item.model_copy(update=said) if item.run in runs else item for item in pull.items)
    if len(chosen) == len(pull.live):
        after = pull.model_copy(update={"items": items, "state": PullState.REJECTED, "reason": reason})
    else:
        after = _without(repo, pull.model_copy(update={"items": items}), runs, when, signer)
    _decide(repo, pull, chosen, verdict, reason, when, signer)
    after = prs.update(repo, after, verdict, when, signer)
    if after.state is PullState.REJECTED:
        prs.close_branch(repo, after)
    return after


def _must_be_open(repo: Repo, pull: PullRequest) -> None:
    if pull.state is not PullState.OPEN:
        raise RepositoryError(f"PR {pull.id} is closed", pull.title, f"it was {pull.state}", "git pantheon pr")
    at = repo.ref(f"refs/heads/{pull.branch}")
    if at != pull.tip:
        why = "the review branch was deleted" if at is None else "somebody committed to the review branch: hands off"
        hint = f"git branch -f {pull.branch} {pull.tip[:12]}"
        raise RepositoryError(f"cannot touch PR {pull.id}", pull.branch, why, hint)


def _must_stand_on(repo: Repo, pull: PullRequest, verb: str) -> str:
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
    moved: dict[str, str] = {}
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
        moved[item.commit] = commit
        tip = commit
        items.append(item.model_copy(update={"commit": commit}))
    artifacts.copy_notes(repo, moved, when, signer)
    if signer is not None:
        attest.restate(repo, moved, when, signer)
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
        _must_be_open(repo, pull)
    elif (at := repo.ref(f"refs/heads/{pull.branch}")) not in (None, pull.tip):
        why = f"a branch of that name is at {at}"
        raise RepositoryError(f"cannot undo in PR {pull.id}", pull.branch, why, f"git branch -m {pull.branch} NAME")
    if pull.state is PullState.ACCEPTED:
        _take_back(repo, pull)
    here = {item.run for item in (pull.live if pull.state is PullState.OPEN else ())}
    undone = [item for item in pull.items if item.run in {old.run for old in again.live} - here]
    _decide(repo, pull, undone, "undone", "", when, signer)
    if pull.state is not PullState.OPEN:
        prs.open_branch(repo, pull)
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


def _take_back(repo: Repo, pull: PullRequest) -> None:
    """The user's branch as it was before the merge of this PR, by their own git. Raises RepositoryError."""
    head = _must_stand_on(repo, pull, "undo the merge of")
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
