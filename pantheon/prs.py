"""Local PRs and human decisions in refs. Hides how they are stored; decides nothing.

A PR is `refs/pantheon/prs/<id>/meta`, a line of operation commits whose tree holds `pr.json`, beside one ref per
revision (`r1`, `r2`, ...) that keeps every version of the stack alive, and its review branch.

Every change is written in one order: objects, the revision's ref, the record, and then what follows from the record:
the review branch and the notes of commits that were built anew. A kill leaves no more than `mend` puts right. Where we
put the branch stands in `pantheon/placed/<id>` below the common git dir: a branch that is gone from where it was put
was deleted by a person, and one that was never put is ours to make.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from pantheon import archive, artifacts, attest, faults, redact, turns
from pantheon.errors import DiskFull, NewerRecord, RefMoved, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import HumanDecision, PullItem, PullRequest, PullState, Retired, newer, pretty

PRS = "refs/pantheon/prs/"
DECISIONS = "refs/notes/pantheon/decisions"
PROMOTES = "Pantheon-Promotes"  # the trailer of a commit that puts a version of an agent in force
UNDO = "undo"  # the operation that takes the one before it away
REFRESH, PUSH = "refresh", "push"  # no decisions: `undo` leaves them as they are
MERGE, RENUMBER = "merge", "renumber"  # of two clones, and neither are these; the PR may have another name since
OPERATIONS = 10_000  # of one PR
BRANCHES = "refs/heads/pantheon/"
PLACED = "placed"  # below `pantheon/` in the common git dir
TURN_S = 60.0  # how long one writer waits for another
Branch = Literal["ours", "behind", "deleted", "theirs"]
_META = re.compile(re.escape(PRS) + r"(\d+)/meta\Z")
_REVISION = re.compile(re.escape(PRS) + r"(\d+)/r(\d+)\Z")


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Every PR, read once. `own`: the refs that they have; `refs`: those too that retired ones had; `pulls` by id;
    `damaged`: those whose record cannot be read, and why; `newer`: those that a newer version wrote, to which nothing
    here writes. The last two are not among `pulls`."""

    own: Mapping[str, str]
    refs: Mapping[str, str]
    pulls: list[PullRequest]
    damaged: dict[int, str]
    newer: list[int]


def look(repo: Repo) -> Seen:
    """Every PR as it is now."""
    own = repo.refs(PRS)
    seen = Seen(own, {**archive.refs_of(repo, PRS), **own}, [], {}, [])
    found = {int(m[1]): oid for name, oid in seen.refs.items() if (m := _META.match(name))}
    for number, oid in sorted(found.items()):
        try:
            seen.pulls.append(_read(repo, oid, number))
        except NewerRecord:
            seen.newer.append(number)
        except RepositoryError as error:
            seen.damaged[number] = error.why
    return seen


def load_all(repo: Repo) -> list[PullRequest]:
    """Every PR that can be read, by id."""
    return look(repo).pulls


def wakes(pulls: Iterable[PullRequest]) -> list[datetime]:
    """When what was put off comes back: PRs, and items of theirs."""
    moments = [moment for pull in pulls for moment in (pull.later, *(item.until for item in pull.items))]
    return sorted(moment for moment in moments if moment is not None)


def load(repo: Repo, number: int) -> PullRequest:
    """One PR. Raises RepositoryError when there is none."""
    oid = meta_of(repo, number)
    if oid is None:
        raise RepositoryError("no such PR", str(number), hint="git pantheon pr")
    return _read(repo, oid, number)


def _read(repo: Repo, oid: str, number: int) -> PullRequest:
    known = repo.memory.get(oid)
    if isinstance(known, PullRequest):
        return known
    data = repo.read_path(oid, "pr.json") or b""
    if newer(data):
        raise NewerRecord("cannot read PR", str(number))
    try:
        found = PullRequest.model_validate_json(data)
    except ValidationError as error:
        if newer(data, error):
            raise NewerRecord("cannot read PR", str(number)) from error
        raise RepositoryError("cannot read PR", str(number), f"pr.json in {oid[:12]} is damaged") from error
    repo.memory[oid] = found
    return found


def history(repo: Repo, number: int) -> list[tuple[str, PullRequest]]:
    """The operations of a PR with the record that each left, oldest first. Raises RepositoryError."""
    return [(operation, pull) for operation, _, pull in operations(repo, number)]


def operations(repo: Repo, number: int) -> list[tuple[str, datetime, PullRequest]]:
    """The same with the time of each."""
    lines = repo.history(meta_of(repo, number) or f"{PRS}{number}/meta", OPERATIONS)
    return [(message.partition(":")[0], when, _read(repo, oid, number)) for oid, when, message in reversed(lines)]


def standing(operations: Sequence[tuple[str, PullRequest]]) -> list[PullRequest]:
    """What is left of a PR's operations when each `undo` takes the decision before it away: the records, oldest
    first."""
    left: list[PullRequest] = []
    for operation, pull in operations:
        if operation == UNDO and len(left) > 1:
            del left[-2:]
        elif operation in (REFRESH, PUSH) and left:
            del left[-1]
        elif operation in (MERGE, RENUMBER):
            left = [old.model_copy(update={"id": pull.id, "branch": pull.branch}) for old in left[:-1]]
        left.append(pull)
    return left


def branch_of(repo: Repo, pull: PullRequest) -> Branch:
    """Whose the review branch of a PR is: where we left it; behind, where a kill left it; deleted; or somebody's."""
    at = repo.ref(f"refs/heads/{pull.branch}")
    if at == pull.tip:
        return "ours"
    if at is None:
        return "deleted" if _placed(repo, pull.id) else "behind"
    return "behind" if at in _tips(repo, pull) else "theirs"


def _tips(repo: Repo, pull: PullRequest) -> list[str]:
    """Where the review branch was after each revision."""
    return [oid for n in range(1, pull.revision + 1) if (oid := repo.ref(f"{PRS}{pull.id}/r{n}"))]


# --- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def turn(repo: Repo) -> Iterator[None]:
    """One writer of PRs' records at a time. Not to be taken twice. Raises RepositoryError."""
    with turns.hold(repo.common_dir / "pantheon" / "prs.lock", "cannot write a PR's record", TURN_S):
        yield


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
    with turn(repo):
        seen = look(repo)
        pull = PullRequest(
            id=1 + max((int(m[1]) for name in seen.refs if (m := _META.match(name))), default=0),
            task=task,
            title=redact.scrub_text(title),
            night=night,
            branch=_free_branch(repo, slug, seen.pulls),
            onto=onto,
            base=base,
            tip=tip,
            created_at=when,
            items=tuple(items),
            text=redact.scrub_text(text),
        )
        record = _write(repo, pull, None, "open", when, signer)
        faults.point("pull written")
        _keep(repo, pull)
        repo.move_ref(f"{PRS}{pull.id}/meta", record, None, "pantheon: open")
        faults.point("pull recorded")
        _settle(repo, pull, when, signer)
    return pull


def _free_branch(repo: Repo, slug: str, pulls: Sequence[PullRequest]) -> str:
    if at := repo.ref(f"{BRANCHES}{slug}"):
        why = f"a branch of that name is at {at[:12]}, and git has none below it"
        raise RepositoryError(
            "cannot open a PR", f"pantheon/{slug}", why, f"git branch -m pantheon/{slug} {slug}-of-mine"
        )
    branches = {*repo.refs(f"{BRANCHES}{slug}/"), *(f"refs/heads/{pull.branch}" for pull in pulls)}
    names = [name.rpartition("/") for name in branches]  # a closed PR keeps its name: it may be opened again
    taken = [int(last) for first, _, last in names if first == f"{BRANCHES}{slug}" and last.isdigit()]
    return f"pantheon/{slug}/{1 + max(taken, default=0)}"


def update(repo: Repo, pull: PullRequest, operation: str, when: datetime, signer: Signer | None) -> PullRequest:
    """Append an operation. A new revision also gets its ref; an open PR's review branch goes to its tip, where we left
    the branch, that of a closed one is deleted. Raises RefMoved, and RepositoryError for a branch that is checked
    out."""
    items = tuple(item.model_copy(update={"reason": redact.scrub_text(item.reason)}) for item in pull.items)
    pull = pull.model_copy(update={"reason": redact.scrub_text(pull.reason), "items": items})
    meta = f"{PRS}{pull.id}/meta"
    with turn(repo):
        _revive(repo, pull.id)
        before = repo.ref(meta)
        old = load(repo, pull.id)
        if pull.revision - old.revision not in (0, 1):
            why = f"it is at revision {old.revision}, not at {pull.revision - 1}"
            raise RefMoved("a PR has changed meanwhile", f"PR {pull.id}", why, "run it again")
        _must_be_movable(repo, old, pull)
        record = _write(repo, pull, before, operation, when, signer)
        faults.point("pull written")
        if pull.revision != old.revision:
            _keep(repo, pull)
        repo.move_ref(meta, record, before, f"pantheon: {operation}")
        faults.point("pull recorded")
        _settle(repo, pull, when, signer)
    return pull


def _must_be_movable(repo: Repo, old: PullRequest, new: PullRequest) -> None:
    """Before anything is written: the branch of a PR that is open afterwards can follow its record."""
    name = f"refs/heads/{old.branch}"
    at, was_open = repo.ref(name), old.state is PullState.OPEN
    if was_open and at == old.tip:
        _place(repo, old)  # an older version put it there
    if new.state is not PullState.OPEN or (was_open and new.tip == old.tip):
        return
    if was_open and at != old.tip:
        why = f"it does not hold {old.tip}"
        raise RefMoved("a review branch has moved", name, why, f"git pantheon pr show {old.id}")
    if at not in (None, new.tip) and (where := repo.checked_out(name)):
        raise RepositoryError("will not move a branch that is checked out", name, where, "git switch -")


def _keep(repo: Repo, pull: PullRequest) -> None:
    """The ref of a revision; over one that a killed writer left there."""
    name = f"{PRS}{pull.id}/r{pull.revision}"
    if (held := repo.ref(name)) != pull.tip:
        repo.move_ref(name, pull.tip, held, f"pantheon: revision {pull.revision}")
    faults.point("pull kept")


def _write(
    repo: Repo, pull: PullRequest, parent: str | None, operation: str, when: datetime, signer: Signer | None
) -> str:
    tree = repo.write_tree(None, {"pr.json": (0o100644, repo.write_blob(pretty(pull.model_dump(mode="json"))))})
    message = f"{operation}: PR {pull.id} {pull.title}\n"
    return repo.commit(tree, [parent] if parent else [], message, when, signer)


def decide(
    repo: Repo, decisions: Sequence[tuple[str, HumanDecision]], when: datetime, signer: Signer | None = None
) -> None:
    """Append decisions as notes, one JSON line on each item's commit; what is said there already is not said again."""
    lines: dict[str, list[str]] = {}
    for commit, decision in decisions:
        clean = decision.model_copy(update={"reason": redact.scrub_text(decision.reason)})
        if not any(clean == said.model_copy(update={"when": clean.when}) for said in decided(repo, commit)):
            lines.setdefault(commit, []).append(clean.to_json())
    if lines:
        repo.append_notes(DECISIONS, lines, f"decisions on {len(lines)} commits", when, signer)


def decided(repo: Repo, commit: str) -> list[HumanDecision]:
    """What was said of a commit; lines that are none of ours are left out."""
    found = []
    for line in (repo.read_note(DECISIONS, commit) or b"").splitlines():
        with suppress(ValidationError):
            found.append(HumanDecision.model_validate_json(line))
    return found


# --- what follows from a record --------------------------------------------------------------------------------------


def mend(repo: Repo, when: datetime, signer: Signer | None) -> list[PullRequest]:
    """Put right what a kill left: the review branch of a record that it does not fit, revisions without a record,
    notes of commits that were built anew. What a person did stays. Every PR, by id."""
    seen = look(repo)
    if not torn(repo, seen):
        return seen.pulls
    with turn(repo):
        seen = look(repo)
        _sweep(repo, _orphans(seen.refs, seen.pulls), seen.pulls)
        for pull in seen.pulls:
            if _torn(repo, pull):
                with suppress(RepositoryError, DiskFull):  # it is checked out: the next one tries again
                    _settle(repo, pull, when, signer)
    return seen.pulls


def torn(repo: Repo, seen: Seen) -> bool:
    """Whether `mend` has anything to do."""
    return bool(_orphans(seen.refs, seen.pulls)) or any(_torn(repo, pull) for pull in seen.pulls)


def _torn(repo: Repo, pull: PullRequest) -> bool:
    """Whether the last operation on a PR did not come to its end, so far as it is ours to end it."""
    if pull.state is not PullState.OPEN:
        return _placed(repo, pull.id) is not None
    where = branch_of(repo, pull)
    return where == "behind" or (where == "ours" and _placed(repo, pull.id) != pull.tip)


def _orphans(known: Mapping[str, str], pulls: Sequence[PullRequest]) -> dict[str, str]:
    """The revisions that no record tells of: their writer was killed."""
    last = {pull.id: pull.revision for pull in pulls}
    found = [(name, m) for name in known if (m := _REVISION.match(name))]
    found = [(name, m) for name, m in found if int(m[1]) in last or f"{PRS}{m[1]}/meta" not in known]
    return {name: known[name] for name, m in found if int(m[2]) > last.get(int(m[1]), 0)}


def _sweep(repo: Repo, orphans: Mapping[str, str], pulls: Sequence[PullRequest]) -> None:
    """Delete them; an older version put the branch before the record: where no PR has it and nobody touched it, it
    goes as well."""
    owned = {f"refs/heads/{pull.branch}" for pull in pulls}
    tips = set(orphans.values())
    for name, oid in repo.refs(BRANCHES).items() if orphans else ():
        if name not in owned and oid in tips:
            with suppress(RepositoryError):  # it is checked out
                repo.move_ref(name, None, oid, "pantheon: its PR was never opened")
    for name, oid in orphans.items():
        with suppress(RefMoved):
            repo.move_ref(name, None, oid, "pantheon: its operation was killed")


def _settle(repo: Repo, pull: PullRequest, when: datetime, signer: Signer | None) -> None:
    """What follows from a record, step by step; a step that was done is not done again."""
    _carry_notes(repo, pull, when, signer)
    faults.point("pull noted")
    name = f"refs/heads/{pull.branch}"
    at, placed = repo.ref(name), _placed(repo, pull.id)
    ours = at in _tips(repo, pull) if at else False
    if pull.state is PullState.OPEN:
        if at != pull.tip and (ours or (at is None and placed is None)):
            repo.move_ref(name, pull.tip, at, f"pantheon: PR {pull.id}, revision {pull.revision}")
            at = pull.tip
        faults.point("pull branched")
        if at == pull.tip:
            _place(repo, pull)
        return
    if placed is not None and at is not None and ours:
        with suppress(RepositoryError):  # it is checked out: once it is not, `mend` takes it away
            repo.move_ref(name, None, at, "pantheon: closed")
            at = None
    faults.point("pull branched")
    if not (at is not None and ours):
        _forget_place(repo, pull.id)


def _carry_notes(repo: Repo, pull: PullRequest, when: datetime, signer: Signer | None) -> None:
    """The notes and statements of commits that were built anew, from what they were before."""
    if pull.revision == 1 or _placed(repo, pull.id) == pull.tip:
        return
    older = [record for _, record in history(repo, pull.id)][-2::-1]
    moved: dict[str, str] = {}
    for item in pull.live:
        was = (old.commit for record in older for old in record.items if old.run == item.run)
        before = next((commit for commit in was if commit != item.commit), None)
        if before is not None:
            moved[before] = item.commit
    kinds = (artifacts.NOTES, artifacts.SUMMARY)
    bare = {
        old: new
        for old, new in moved.items()
        if any(repo.read_note(kind, new) is None and repo.read_note(kind, old) is not None for kind in kinds)
    }
    artifacts.copy_notes(repo, bare, when, signer)
    faults.point("pull noted in part")
    unsaid = {old: new for old, new in moved.items() if not attest.read(repo, new)}
    if signer is not None and unsaid:
        attest.restate(repo, unsaid, when, signer)


def _placed(repo: Repo, number: int) -> str | None:
    """Where we last put the review branch of a PR; None where we did not, or took it away."""
    try:  # no Path: `status` asks for every PR
        file = os.open(f"{repo.common_dir}/pantheon/{PLACED}/{number}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 1000).decode("ascii", "replace").strip() or None
        finally:
            os.close(file)
    except OSError:
        return None


def _place(repo: Repo, pull: PullRequest) -> None:
    """Note that the branch is at the tip. Where that cannot be written it is only less sure who moved it later."""
    if _placed(repo, pull.id) == pull.tip:
        return
    path = repo.common_dir / "pantheon" / PLACED / str(pull.id)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f"{pull.id}.{os.getpid()}")
        fresh.write_text(f"{pull.tip}\n", encoding="ascii")
        os.replace(fresh, path)


def _forget_place(repo: Repo, number: int) -> None:
    with suppress(OSError):
        (repo.common_dir / "pantheon" / PLACED / str(number)).unlink(missing_ok=True)


# --- PRs that left the namespace -------------------------------------------------------------------------------------


def held(repo: Repo) -> dict[int, int]:
    """PR -> how many refs of its own it has."""
    return dict(Counter(int(name.removeprefix(PRS).partition("/")[0]) for name in repo.refs(PRS)))


def meta_of(repo: Repo, number: int) -> str | None:
    """The last operation on a PR, whether its ref is there or the archive keeps it; None when there is none."""
    at = repo.ref(f"{PRS}{number}/meta")
    if at is None and (one := archive.retired(repo).get(number)) is not None:
        return one.meta
    return at


def _revive(repo: Repo, number: int) -> None:
    """Give a retired PR its refs again, the record last: something is to be said of it."""
    one = archive.retired(repo).get(number) if repo.ref(f"{PRS}{number}/meta") is None else None
    for name, oid in {**one.revisions, "meta": one.meta}.items() if one else ():
        if repo.ref(f"{PRS}{number}/{name}") is None:
            repo.move_ref(f"{PRS}{number}/{name}", oid, None, "pantheon: back from the archive")


def retire(repo: Repo, numbers: Sequence[int], when: datetime, signer: Signer | None) -> list[str]:
    """Put closed PRs into the archive and delete their refs; the names of the refs. What a person says of one
    meanwhile keeps its refs. Raises RefMoved, and then every ref is as it was."""
    with turn(repo):
        seen = look(repo)
        known = seen.own
        closed = {pull.id for pull in seen.pulls if pull.state is not PullState.OPEN}
        leaving: list[Retired] = []
        for number in sorted(n for n in closed.intersection(numbers) if f"{PRS}{n}/meta" in known):
            prefix = f"{PRS}{number}/"
            tips = {name.removeprefix(prefix): oid for name, oid in known.items() if name.startswith(prefix)}
            leaving.append(Retired(pr=number, meta=tips.pop("meta"), revisions=tips))
        archive.retire(repo, leaving, when, signer)
        faults.point("pulls archived")
        prefixes = tuple(f"{PRS}{one.pr}/" for one in leaving)
        gone = {name: oid for name, oid in known.items() if name.startswith(prefixes)} if leaving else {}
        repo.delete_refs(gone)
    return sorted(gone)
