"""What left the ref namespaces: closed PRs, kept by one ref in the place of many, and the list of all that was taken
away for good.

Owns `refs/pantheon/archive/`. `prs` is a line of commits whose further parents are the tips of the PRs that retired;
its tree holds `prs.jsonl`, one line per PR. `collected` is a line of commits whose tree holds `collected.jsonl`, one
line per ref that was taken away. Lines are only added. Decides nothing: retention.py does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from pydantic import ValidationError

from pantheon.errors import RefMoved, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import Collected, Record, Retired

ARCHIVE = "refs/pantheon/archive/"
PULLS, COLLECTED = f"{ARCHIVE}prs", f"{ARCHIVE}collected"
PULLS_FILE, COLLECTED_FILE = "prs.jsonl", "collected.jsonl"
AT_ONCE = 200  # PRs that one commit of the archive holds the tips of
R = TypeVar("R", bound=Record)


def retired(repo: Repo) -> dict[int, Retired]:
    """Every PR that ever left the ref namespace, by its number; one that came back may have refs of its own again."""
    return {one.pr: one for one in _read(repo, PULLS, PULLS_FILE, Retired)}


def refs_of(repo: Repo, namespace: str) -> dict[str, str]:
    """The refs that retired PRs had below `namespace`, as if they were still there."""
    found: dict[str, str] = {}
    for number, one in retired(repo).items():
        found[f"{namespace}{number}/meta"] = one.meta
        found |= {f"{namespace}{number}/{name}": oid for name, oid in one.revisions.items()}
    return found


def retire(repo: Repo, pulls: Sequence[Retired], when: datetime, signer: Signer | None) -> None:
    """Keep the tips of PRs, which their own refs may then leave. Raises RefMoved when another process archives."""
    known = retired(repo)
    fresh = [one for one in pulls if known.get(one.pr) != one]
    for start in range(0, len(fresh), AT_ONCE):
        some = fresh[start : start + AT_ONCE]
        known |= {one.pr: one for one in some}
        tips = dict.fromkeys(oid for one in some for oid in (one.meta, *one.revisions.values()))
        _write(
            repo, PULLS, PULLS_FILE, [known[n] for n in sorted(known)], f"{len(some)} closed PRs", when, signer, tips
        )


def collected(repo: Repo) -> dict[str, Collected]:
    """Every ref that was taken away, by its name: the last one counts where a name was used again."""
    return {one.ref: one for one in _read(repo, COLLECTED, COLLECTED_FILE, Collected)}


def tell(repo: Repo, lines: Iterable[Collected], when: datetime, signer: Signer | None) -> None:
    """List refs that are about to be taken away: what is listed and still there was not taken away, after all."""
    known = _read(repo, COLLECTED, COLLECTED_FILE, Collected)
    there = {(one.ref, one.oid) for one in known}
    fresh = [one for one in lines if (one.ref, one.oid) not in there]
    if fresh:
        _write(repo, COLLECTED, COLLECTED_FILE, [*known, *fresh], f"{len(fresh)} refs", when, signer, {})


def _read(repo: Repo, ref: str, name: str, kind: type[R]) -> list[R]:
    at = repo.ref(ref)
    data = repo.read_path(at, name) if at else None
    found = []
    for number, line in enumerate((data or b"").splitlines(), 1):
        try:
            found.append(kind.model_validate(json.loads(line.decode("utf-8", "surrogateescape"))))
        except (ValueError, ValidationError) as error:
            why = f"line {number} of {name} is damaged"
            raise RepositoryError("cannot read the archive", ref, why, "git pantheon verify --all") from error
    return found


def _write(
    repo: Repo,
    ref: str,
    name: str,
    lines: Sequence[Record],
    what: str,
    when: datetime,
    signer: Signer | None,
    tips: Mapping[str, object],
) -> None:
    """One more commit on a line of the archive: objects first, ref last, on what is there. Its beginning is an empty
    commit, so that the first parent of each is the one before it."""
    at = repo.ref(ref)
    before = at or repo.commit(repo.write_tree(None, {}), [], "archive: begin\n", when, signer)
    blob = repo.write_blob("".join(f"{one.to_json()}\n" for one in lines).encode("utf-8", "surrogateescape"))
    tree = repo.write_tree(None, {name: (0o100644, blob)})
    commit = repo.commit(tree, [before, *(tip for tip in tips if tip != before)], f"archive: {what}\n", when, signer)
    try:
        repo.move_ref(ref, commit, at, f"pantheon: archive {what}")
    except RefMoved as error:
        raise RefMoved("cannot archive", ref, "another process does", "git pantheon gc") from error
