"""What a person does with a local PR: accept, drop, reject. The only place that touches the user's branch.

Accepting merges with the user's own git, configuration and identity; nothing is half-merged. Every item gets a decision
note; the PR's record and its review branch follow last.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pantheon import artifacts, attest, prs
from pantheon.errors import MergeConflict, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import HumanDecision, PullItem, PullRequest, PullState


def find_items(pull: PullRequest, names: Sequence[str]) -> tuple[PullItem, ...]:
    """The items a person means by id (or its beginning) or by path. Raises RepositoryError for an unknown one."""
    found = []
    for name in names:
        matches = [i for i in pull.live if i.target == name or i.run.startswith(name) or i.item.startswith(name)]
        if len(matches) != 1:
            why = "no item of this PR has that path or id" if not matches else "more than one item begins so"
            raise RepositoryError(f"cannot find the item in PR {pull.id}", name, why, f"git pantheon pr show {pull.id}")
        found.append(matches[0])
    return tuple(found)


def accept(
    repo: Repo,
    pull: PullRequest,
    *,
    drop: Sequence[str],
    strategy: Literal["merge", "ff", "rebase"],
    when: datetime,
    signer: Signer | None,
) -> PullRequest:
    """Merge a PR into the branch it was made for, without the dropped items. Raises RepositoryError."""
    _must_be_open(repo, pull)
    head = repo.head()
    if head.branch != pull.onto:
        where = head.branch or "a detached HEAD"
        raise RepositoryError(
            f"cannot accept PR {pull.id}",
            pull.onto,
            f"it was made for {pull.onto}, you are on {where}",
            f"git switch {pull.onto}",
        )
    if drop:
        pull = without(repo, pull, find_items(pull, drop), when, signer)
    kept = pull.live
    if not kept:
        raise RepositoryError(
            f"cannot accept PR {pull.id}", "", "every item was dropped", f"git pantheon reject {pull.id} -m WHY"
        )
    message = f"Merge PR {pull.id}: {pull.title} ({len(kept)} items)"
    repo.user_merge(pull.branch, strategy=strategy, message=message)
    closed = pull.model_copy(update={"state": PullState.ACCEPTED})
    _decide(repo, closed, kept, "accepted", "", when, signer)
    _decide(repo, closed, [item for item in pull.items if item.dropped and item.run], "dropped", "", when, signer)
    prs.update(repo, closed, "accept", when, signer)
    prs.close_branch(repo, closed)
    return closed


def reject(
    repo: Repo, pull: PullRequest, *, items: Sequence[str], reason: str, when: datetime, signer: Signer | None
) -> PullRequest:
    """Reject a whole PR, or some of its items with a reason; the PR stays open while items are left."""
    _must_be_open(repo, pull)
    chosen = find_items(pull, items) if items else pull.live
    if len(chosen) < len(pull.live):
        shorter = without(repo, pull, chosen, when, signer)
        _decide(repo, pull, chosen, "rejected", reason, when, signer)
        return prs.update(repo, shorter.model_copy(update={"reason": reason}), "reject items", when, signer)
    _decide(repo, pull, chosen, "rejected", reason, when, signer)
    closed = pull.model_copy(update={"state": PullState.REJECTED, "reason": reason})
    prs.update(repo, closed, "reject", when, signer)
    prs.close_branch(repo, closed)
    return closed


def _must_be_open(repo: Repo, pull: PullRequest) -> None:
    if pull.state is not PullState.OPEN:
        raise RepositoryError(f"PR {pull.id} is closed", pull.title, f"it was {pull.state}", "git pantheon pr")
    at = repo.ref(f"refs/heads/{pull.branch}")
    if at != pull.tip:
        why = "the review branch was deleted" if at is None else "somebody committed to the review branch: hands off"
        hint = f"git branch -f {pull.branch} {pull.tip[:12]}"
        raise RepositoryError(f"cannot touch PR {pull.id}", pull.branch, why, hint)


def _decide(
    repo: Repo,
    pull: PullRequest,
    items: Sequence[PullItem],
    verdict: str,
    reason: str,
    when: datetime,
    signer: Signer | None,
) -> None:
    who = repo.user_identity()
    lines = [
        (
            item.commit,
            HumanDecision.model_validate(
                {
                    "pr": pull.id,
                    "item": item.item,
                    "run": item.run,
                    "verdict": verdict,
                    "reason": reason,
                    "who": who,
                    "when": when,
                }
            ),
        )
        for item in items
    ]
    prs.decide(repo, lines, when, signer)


def without(
    repo: Repo, pull: PullRequest, dropped: Sequence[PullItem], when: datetime, signer: Signer | None
) -> PullRequest:
    """The PR as a new revision whose stack leaves `dropped` out. Raises RepositoryError when later items need them."""
    gone = {item.run for item in dropped}
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
    shorter = pull.model_copy(update={"items": tuple(items), "tip": tip, "revision": pull.revision + 1})
    if tip == pull.base:
        return shorter
    return prs.update(repo, shorter, "drop items", when, signer)


def put(repo: Repo, base: str, tip: str, tree: str, message: str, when: datetime, signer: Signer | None) -> str:
    """A new commit on `tip` with the change from `base` to `tree`, by a three-way merge. Raises MergeConflict."""
    merged = tree if tip == base else repo.merge_trees(repo.tree_of(base), repo.tree_of(tip), tree)
    return repo.commit(merged, [tip], message, when, signer)
