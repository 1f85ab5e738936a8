"""What the object store costs and how refs lie: git children that weigh and pack. Decides nothing, deletes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pantheon import children
from pantheon.git import NAMESPACES, Repo
from pantheon.records import Record


class Weight(Record):
    """Objects that nothing else reaches, and their bytes on disk, compressed as they lie there now."""

    objects: int
    bytes: int


def weigh(repo: Repo, tips: Iterable[str], without: Iterable[str]) -> Weight | None:
    """What would be free if only the refs `without` were gone, which hold `tips`; None where git cannot tell (an object
    is missing or damaged)."""
    named = set(without)
    lines = children.quiet(repo.root, "for-each-ref", "--format=%(objectname) %(refname)").stdout.splitlines()
    kept = {os.fsdecode(name): oid for oid, name in (line.split(b" ", 1) for line in lines)}
    theirs = {oid for name, oid in kept.items() if not name.startswith(NAMESPACES)}
    ours = {oid for name, oid in kept.items() if name.startswith(NAMESPACES) and name not in named}
    going = _reached(repo, {oid.encode() for oid in tips}, theirs | ours)
    # git leaves out what the excluded tips hold, not what their histories held: notes and nights have long ones
    staying = _reached(repo, ours, theirs)
    if going is None or staying is None:
        return None
    only = sorted(going - staying)
    wanted = b"".join(b"%s\n" % oid for oid in only)
    sizes = children.quiet(repo.root, "cat-file", "--batch-check=%(objectsize:disk)", stdin=wanted, check=False)
    numbers = [int(line) for line in sizes.stdout.split(b"\n") if line.isdigit()]
    return Weight(objects=len(only), bytes=sum(numbers)) if len(numbers) == len(only) else None


def _reached(repo: Repo, tips: set[bytes], excluded: set[bytes]) -> set[bytes] | None:
    """The objects that `tips` reach and `excluded` do not; None where one cannot be read."""
    wanted = b"".join(b"%s\n" % oid for oid in tips) + b"".join(b"^%s\n" % oid for oid in excluded - tips)
    options = ("rev-list", "--objects", "--no-object-names", "--stdin")
    done = children.quiet(repo.root, *options, stdin=wanted, check=False) if tips else None
    if done is None:
        return set()
    return None if done.returncode != 0 or done.truncated or done.timed_out else set(done.stdout.split())


def pack_refs(repo: Repo) -> str:
    """Put refs into one file, as git does it: only ours where git can tell them apart (2.42), else all of them, whose
    values stay. What was packed, in words; "" where a lock was in the way."""
    include = [word for name in NAMESPACES for word in ("--include", f"{name}*")]
    if children.quiet(repo.root, "pack-refs", *include, check=False).returncode == 0:
        return "Pantheon's"
    done = children.quiet(repo.root, "pack-refs", "--all", check=False)
    return "all" if done.returncode == 0 else ""
