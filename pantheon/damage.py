"""What of Pantheon's records a bad disk has spoilt: refs whose file is no ref any more, PRs and nights that cannot be
read. Named one by one, with the next command; all else goes on. Ring 3: it looks, and repairs nothing.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator

from pantheon import nights, prs
from pantheon.errors import RepositoryError
from pantheon.git import NAMESPACES, Repo
from pantheon.records import Record

SEAL = "seal.json"
FROM_ELSEWHERE = "git fsck; a clone may have it still: git pantheon pull"


class Damage(Record):
    """One thing that cannot be read. `ref`: what names it."""

    ref: str
    why: str
    hint: str

    def __str__(self) -> str:
        return f"{self.ref}: {self.why}"


def look(repo: Repo, seen: prs.Seen | None = None) -> tuple[Damage, ...]:
    """Everything that is damaged among refs, PRs' records and nights. Runs and notes are held against their signatures
    by `git pantheon verify --all`. `seen`: the PRs, where they were read."""
    return (*_refs(repo), *_records(repo, seen or prs.look(repo)))


def require_sound(repo: Repo) -> None:
    """Raise RepositoryError where a night would work beside what it cannot see: it would offer the items of a lost PR a
    second time."""
    for one in look(repo):
        raise RepositoryError("cannot start a night", one.ref, one.why, one.hint)


def _refs(repo: Repo) -> Iterator[Damage]:
    """Loose refs that hold no id: git's classic after a power loss is an empty file."""
    for prefix in NAMESPACES:
        walk = os.walk(repo.common_dir / prefix)
        loose = [os.path.join(folder, name) for folder, _, names in walk for name in sorted(names)]
        known = repo.refs(prefix) if loose else {}
        for path in loose:
            ref = os.path.relpath(path, repo.common_dir)
            if ref in known or path.endswith(".lock") or not os.path.isfile(path):
                continue
            size = os.stat(path).st_size
            last = _sealed(repo, ref)
            remove = f"rm {shlex.quote(path)}"
            back = f" && git update-ref {ref} {last}" if last else f"; {FROM_ELSEWHERE}"
            why = "its file is empty" if size == 0 else f"its file holds {size} bytes that are no id"
            yield Damage(ref=ref, why=why, hint=remove + back)


def _records(repo: Repo, seen: prs.Seen) -> Iterator[Damage]:
    for number, why in seen.damaged.items():
        hint = f"{FROM_ELSEWHERE}; to give its record up: git update-ref -d {prs.PRS}{number}/meta"
        yield Damage(ref=f"PR {number}", why=why, hint=hint)
    for ref, oid in repo.refs(nights.NIGHTS).items():
        try:
            repo.read_path(oid, "night.json")
        except RepositoryError as error:
            hint = f"{FROM_ELSEWHERE}; to give it up: git update-ref -d {ref}"
            yield Damage(ref=ref, why=error.why, hint=hint)


def _sealed(repo: Repo, ref: str) -> str:
    """Where the latest seal that can be read has a ref, if its object is here."""
    for commit in nights.latest(repo):
        try:
            data = repo.read_path(commit, SEAL)
            found = str(json.loads(data)["refs"].get(ref, "")) if data else ""
            if found and repo.knows(found):
                return found
        except (RepositoryError, ValueError, KeyError, TypeError):
            continue
    return ""
