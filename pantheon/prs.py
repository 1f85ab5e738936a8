"""Local PRs and human decisions in refs. Hides how they are stored; decides nothing.

A PR is `refs/pantheon/prs/<id>/meta`, a line of operation commits whose tree holds `pr.json`, beside one ref per
revision (`r1`, `r2`, ...) that keeps every version of the stack alive, and its review branch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from pydantic import ValidationError

from pantheon import redact
from pantheon.errors import RefMoved, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import HumanDecision, PullItem, PullRequest, pretty

PRS = "refs/pantheon/prs/"
DECISIONS = "refs/notes/pantheon/decisions"
PROMOTES = "Pantheon-Promotes"  # the trailer of a commit that puts a version of an agent in force
UNDO = "undo"  # the operation that takes the one before it away
OPERATIONS = 10_000  # of one PR
BRANCHES = "refs/heads/pantheon/"
_META = re.compile(re.escape(PRS) + r"(\d+)/meta\Z")
_NUMBER = re.compile(re.escape(PRS) + r"(\d+)/")  # a killed opening leaves a revision without a record


def load_all(repo: Repo) -> list[PullRequest]:
    """Every PR, by id."""
    found = {int(m[1]): oid for name, oid in repo.refs(PRS).items() if (m := _META.match(name))}
    return [_read(repo, oid, number) for number, oid in sorted(found.items())]


def load(repo: Repo, number: int) -> PullRequest:
    """One PR. Raises RepositoryError when there is none."""
    oid = repo.ref(f"{PRS}{number}/meta")
    if oid is None:
        raise RepositoryError("no such PR", str(number), hint="git pantheon pr")
    return _read(repo, oid, number)


def _read(repo: Repo, oid: str, number: int) -> PullRequest:
    data = repo.read_path(oid, "pr.json")
    try:
        return PullRequest.model_validate_json(data or b"")
    except ValidationError as error:
        raise RepositoryError("cannot read PR", str(number), f"pr.json in {oid[:12]} is damaged") from error


def open_pull(
    repo: Repo,
    *,
    task: str,
    slug: str,
    title: str,
    night: str,
    onto: str,
    base: str,
    tip: str,
    items: Sequence[PullItem],
    when: datetime,
    signer: Signer | None,
    text: str = "",
) -> PullRequest:
    """Open a PR on a new review branch at `tip`. The id and the branch number are the next free ones."""
    for _ in range(100):
        known = repo.refs(PRS)
        number = 1 + max((int(m[1]) for name in known if (m := _NUMBER.match(name))), default=0)
        branches = {*repo.refs(f"{BRANCHES}{slug}/"), *(f"refs/heads/{pull.branch}" for pull in load_all(repo))}
        names = [name.rpartition("/") for name in branches]  # a closed PR keeps its name: it may be opened again
        taken = [int(last) for first, _, last in names if first == f"{BRANCHES}{slug}" and last.isdigit()]
        branch = f"pantheon/{slug}/{1 + max(taken, default=0)}"
        pull = PullRequest(
            id=number,
            task=task,
            title=redact.scrub_text(title),
            night=night,
            branch=branch,
            onto=onto,
            base=base,
            tip=tip,
            created_at=when,
            items=tuple(items),
            text=redact.scrub_text(text),
        )
        try:
            repo.move_ref(f"{PRS}{number}/r1", tip, None, "pantheon: revision 1")
        except RefMoved:
            continue  # somebody took the number
        repo.move_ref(f"refs/heads/{branch}", tip, None, f"pantheon: PR {number}")
        repo.move_ref(f"{PRS}{number}/meta", _write(repo, pull, None, "open", when, signer), None, "pantheon: open")
        return pull
    raise RepositoryError("cannot open a PR", slug, "no free number after 100 tries", hint="git pantheon doctor")


def update(repo: Repo, pull: PullRequest, operation: str, when: datetime, signer: Signer | None) -> PullRequest:
    """Append an operation. A new revision also gets its ref and moves the review branch. Raises RefMoved."""
    items = tuple(item.model_copy(update={"reason": redact.scrub_text(item.reason)}) for item in pull.items)
    pull = pull.model_copy(update={"reason": redact.scrub_text(pull.reason), "items": items})
    meta = f"{PRS}{pull.id}/meta"
    before = repo.ref(meta)
    old = load(repo, pull.id)
    if pull.revision != old.revision:
        repo.move_ref(f"{PRS}{pull.id}/r{pull.revision}", pull.tip, None, f"pantheon: revision {pull.revision}")
        repo.move_ref(f"refs/heads/{pull.branch}", pull.tip, old.tip, f"pantheon: revision {pull.revision}")
    repo.move_ref(meta, _write(repo, pull, before, operation, when, signer), before, f"pantheon: {operation}")
    return pull


def history(repo: Repo, number: int) -> list[tuple[str, PullRequest]]:
    """The operations of a PR with the record that each left, oldest first. Raises RepositoryError."""
    lines = repo.history(f"{PRS}{number}/meta", OPERATIONS)
    return [(message.partition(":")[0], _read(repo, oid, number)) for oid, _, message in reversed(lines)]


def standing(operations: Sequence[tuple[str, PullRequest]]) -> list[PullRequest]:
    """What is left of a PR's operations when each `undo` takes the one before it away: the records, oldest first."""
    left: list[PullRequest] = []
    for operation, pull in operations:
        if operation == UNDO and len(left) > 1:
            del left[-2:]
        left.append(pull)
    return left


def _write(
    repo: Repo, pull: PullRequest, parent: str | None, operation: str, when: datetime, signer: Signer | None
) -> str:
    tree = repo.write_tree(None, {"pr.json": (0o100644, repo.write_blob(pretty(pull.model_dump(mode="json"))))})
    message = f"{operation}: PR {pull.id} {pull.title}\n"
    return repo.commit(tree, [parent] if parent else [], message, when, signer)


def open_branch(repo: Repo, pull: PullRequest) -> None:
    """Put the review branch of a closed PR back. Raises RefMoved when the name is somebody else's now."""
    name = f"refs/heads/{pull.branch}"
    if repo.ref(name) != pull.tip:
        repo.move_ref(name, pull.tip, None, "pantheon: open again")


def close_branch(repo: Repo, pull: PullRequest) -> None:
    """Delete the review branch of a closed PR, when it still is where we left it and nobody has it checked out; the
    revisions stay in refs."""
    name = f"refs/heads/{pull.branch}"
    if repo.ref(name) == pull.tip:
        with suppress(RepositoryError):
            repo.move_ref(name, None, pull.tip, "pantheon: closed")


def decide(
    repo: Repo, decisions: Sequence[tuple[str, HumanDecision]], when: datetime, signer: Signer | None = None
) -> None:
    """Append decisions as notes, one JSON line on each item's commit."""
    lines: dict[str, list[str]] = {}
    for commit, decision in decisions:
        clean = decision.model_copy(update={"reason": redact.scrub_text(decision.reason)})
        lines.setdefault(commit, []).append(clean.to_json())
    if lines:
        repo.append_notes(DECISIONS, lines, f"decisions on {len(lines)} commits", when, signer)
