"""What is done with the user's own git to the user's own branch, index and worktree: the merge that they asked for.

Part of git.py. Refuses before it starts where it could lose something; a failure is undone.
"""

from __future__ import annotations

import os
from typing import Literal

from pantheon import children
from pantheon.errors import RepositoryError
from pantheon.git import Repo

_IN_PROGRESS = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "sequencer")


def merge(repo: Repo, branch: str, *, strategy: Literal["merge", "ff", "rebase"] = "merge", message: str = "") -> str:
    """Bring a review branch into the user's checked-out branch with the user's own git; the new HEAD.

    `merge`: a merge commit; `ff`: fast-forward only; `rebase`: its commits picked onto HEAD, which leaves the
    review branch as it is. Refused before it starts where another operation is under way or the changes touch
    files that are dirty; a failure is undone, and git's own words are the reason.
    """
    tip = repo.ref(f"refs/heads/{branch}") or repo.resolve(branch)
    head = repo.head().commit
    _refuse(repo, branch, head, tip)
    if strategy == "merge":
        argv, undo = ["merge", "--no-ff", "--no-edit", "-m", message or f"Merge {branch}", tip], "merge"
    elif strategy == "ff" or repo.merge_base(head, tip) == head:
        argv, undo = ["merge", "--ff-only", tip], "merge"
    else:
        argv, undo = ["cherry-pick", "--keep-redundant-commits", f"{head}..{tip}"], "cherry-pick"
    done = children.users_own(repo.root, *argv)
    if done.returncode == 0 and not done.timed_out:
        return repo.head().commit
    if under_way(repo):
        children.users_own(repo.root, undo, "--abort")
    why = "it did not end in 30 minutes" if done.timed_out else os.fsdecode(done.stderr + done.stdout).strip()
    if repo.head().commit != head or under_way(repo):
        raise RepositoryError("git could not merge, and could not undo it", branch, why, f"git {undo} --abort")
    raise RepositoryError("git could not merge; your branch is as it was", branch, why, f"git diff HEAD...{branch}")


def under_way(repo: Repo) -> str:
    """What shows that a merge, a cherry-pick or the like stopped in the middle; "" for nothing."""
    return next((name for name in _IN_PROGRESS if (repo.git_dir / name).exists()), "")


def _refuse(repo: Repo, branch: str, head: str, tip: str) -> None:
    if name := under_way(repo):
        raise RepositoryError("cannot merge", branch, f"{name} shows an operation under way", "git status")
    changes = repo.diff(repo.merge_base(head, tip), tip).files
    paths = {path for change in changes for path in (change.path, change.old_path) if path is not None}
    dirty = set(repo.dirty_paths(sorted(paths)))
    here = repo.entries(head)
    dirty |= {path for path in paths if path not in here and os.path.lexists(repo.root / path)}
    if dirty:
        names = ", ".join(sorted(dirty))
        raise RepositoryError("cannot merge", branch, f"your changes to {names} would be overwritten", "git stash")
