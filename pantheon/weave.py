"""What another clone wrote, brought together with what this one did: one ref after the other, by compare-and-swap.

Owns which namespace is merged how; the rules themselves are merging.py's, PRs are reunion.py's. A merge is a commit of
the bot's with both sides as parents, so nothing of either is ever out of reach. Objects are here already when it
starts, and a kill between two refs leaves what the next pull ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pantheon import adapters, archive, artifacts, attest, keys, merging, nights, prs, remotes
from pantheon.errors import RepositoryError
from pantheon.git import Repo, Signer
from pantheon.names import is_night
from pantheon.records import Collected, Record, Run, newer

FILE = 0o100644
LINES = (artifacts.NOTES, attest.ATTESTATIONS, prs.DECISIONS)  # notes that are lines
_STEM = re.compile(r"([0-9a-f]{64})(\.json|/.*)", re.ASCII | re.DOTALL)


@dataclass
class Woven:
    """What came of it. `taken` refs that were new or further on, `merged` such that both sides had moved; `said`: what
    a person should know."""

    taken: int = 0
    merged: int = 0
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Loom:
    """One repository while what a remote has is woven in. `signer` makes the bot's key on the first merge."""

    repo: Repo
    signer: Callable[[], Signer]
    when: datetime
    done: Woven

    def descends(self, oid: str, ancestor: str) -> bool:
        """Whether the one is the other or came after it."""
        if oid == ancestor:
            return True
        with suppress(RepositoryError):  # nothing in common
            return self.repo.merge_base(oid, ancestor) == ancestor
        return False

    def base(self, one: str, other: str) -> str | None:
        with suppress(RepositoryError):
            return self.repo.merge_base(one, other)
        return None

    def move(self, name: str, new: str | None, expected: str | None) -> None:
        self.repo.move_ref(name, new, expected, "pantheon: pull")

    def commit(self, tree: str, parents: list[str], message: str) -> str:
        return self.repo.commit(tree, parents, message, self.when, self.signer())

    def forward(self, name: str, theirs: str) -> tuple[str, str] | None:
        """Take what is new or further on there. The two sides, where both went on."""
        ours = self.repo.ref(name)
        if ours == theirs:
            return None
        if ours is None or self.descends(theirs, ours):
            self.move(name, theirs, ours)
            self.done.taken += 1
            return None
        return None if self.descends(ours, theirs) else (ours, theirs)

    def union(self, name: str, theirs: str, combine: Callable[[str, str, str | None], str], what: str) -> None:
        """Bring one ref together, `combine` gives the tree of (ours, theirs, what both had)."""
        sides = self.forward(name, theirs)
        if sides is not None:
            tree = combine(*sides, self.base(*sides))
            self.move(name, self.commit(tree, list(sides), f"{prs.MERGE}: {what}\n"), sides[0])
            self.done.merged += 1


def weave(loom: Loom, theirs: Mapping[str, str]) -> dict[str, str]:
    """Bring everything but the PRs together; the PRs' refs of the other side, which are reunion.py's."""
    later: dict[str, str] = {}
    known: dict[str, str] = dict(
        sorted(theirs.items(), key=lambda one: (not one[0].startswith(archive.ARCHIVE), one[0]))
    )
    gone: dict[str, Collected] | None = None
    lost: dict[str, bool] = {}
    runs: dict[str, str] = {}
    for name, oid in known.items():
        if name.startswith(archive.ARCHIVE):
            what = name.removeprefix("refs/pantheon/")
            loom.union(name, oid, lambda a, b, base: union_tree(loom.repo, a, b, base), what)
            continue
        gone = archive.collected(loom.repo) if gone is None else gone
        if name in gone:
            continue  # it was taken away for good: here, or by whoever told us
        if name.startswith(nights.NIGHTS):
            _night(loom, name, oid, lost)
        elif name.startswith(artifacts.RUNS):
            runs[name] = oid
        elif name.startswith(prs.PRS):
            later[name] = oid
        else:
            _other(loom, name, oid)
    for name, oid in runs.items():
        _run(loom, name, oid, lost)
    return later


def _other(loom: Loom, name: str, theirs: str) -> None:
    repo = loom.repo
    if name in LINES:
        loom.union(
            name, theirs, lambda a, b, base: union_notes(repo, a, b, name == prs.DECISIONS), name.rpartition("/")[2]
        )
    elif name == artifacts.SUMMARY:
        loom.union(name, theirs, lambda a, b, base: choose_notes(repo, a, b, base), name.rpartition("/")[2])
    elif name == keys.KEYS:
        if loom.forward(name, theirs) is not None:
            keys.join(repo, theirs, loom.signer(), loom.when)
            loom.done.merged += 1
    elif name.startswith(adapters.CARDS):
        agent = name.removeprefix(adapters.CARDS)
        loom.union(name, theirs, lambda a, b, base: choose_cards(repo, a, b, base), f"adapter {agent}")
    elif loom.forward(name, theirs) is not None:
        why = "both clones wrote to it, and this version does not know what it is: yours was left as it is"
        loom.done.said.append(f"{name}: {why}; upgrade git-pantheon")


# --- trees ------------------------------------------------------------------------------------------------------------


def _blob(repo: Repo, oid: str | None) -> bytes | None:
    return None if oid is None else repo.read_blob(oid)


def union_notes(repo: Repo, ours: str, theirs: str, kept: bool) -> str:
    """The tree of two notes refs, of each commit the lines of both. `kept`: all of them, also of what was collected."""
    return _notes(repo, ours, theirs, lambda commit, one, other: merging.union_lines(one or b"", other or b""), kept)


def choose_notes(repo: Repo, ours: str, theirs: str, base: str | None) -> str:
    """The same of notes that are one text: the one that was changed since they parted."""

    def one_of(commit: str, one: bytes | None, other: bytes | None) -> bytes:
        slots = (f"{commit[:2]}/{commit[2:]}", commit)
        was = next((data for path in slots if base and (data := repo.read_path(base, path)) is not None), None)
        return merging.choose(was, one, other) or b""

    return _notes(repo, ours, theirs, one_of, kept=False)


def _notes(
    repo: Repo, ours: str, theirs: str, join: Callable[[str, bytes | None, bytes | None], bytes], kept: bool
) -> str:
    """Notes are found at any depth of fan-out, and stand where they are deepest. A note that went with what was taken
    away for good does not come back."""
    gone = set() if kept else {home for one in archive.collected(repo).values() for home in one.homes}
    sides: dict[str, list[list[tuple[str, str]]]] = {}
    for path, pair in repo.changed(ours, theirs).items():
        for side, oid in enumerate(pair):
            if oid is not None:
                sides.setdefault(path.replace("/", ""), [[], []])[side].append((path, oid))
    changes: dict[str, tuple[int, str] | None] = {}
    for commit, found in sides.items():
        texts = [b"".join(repo.read_blob(oid) for _, oid in some) if some else None for some in found]
        slot = max((path for some in found for path, _ in some), key=lambda path: (path.count("/"), path))
        changes |= {path: None for path, _ in found[0]}
        if commit in gone and None in texts:
            continue
        changes[slot] = (FILE, repo.write_blob(join(commit, texts[0], texts[1])))
    return repo.write_tree(repo.tree_of(ours), changes)


def choose_cards(repo: Repo, ours: str, theirs: str, base: str | None) -> str:
    """The cards of both; of one that both clones compared the one, with what stands beside it."""
    changed = repo.changed(ours, theirs)
    stems = {match[1] if (match := _STEM.fullmatch(path)) else path for path in changed}
    changes: dict[str, tuple[int, str] | None] = {}
    for stem in stems:
        card = f"{stem}.json" if f"{stem}.json" in changed else next(p for p in changed if p.startswith(stem))
        one, other = (_blob(repo, oid) for oid in changed[card])
        was = repo.read_path(base, card) if base else None
        if merging.choose(was, one, other) != one:
            mine = {path: pair[1] for path, pair in changed.items() if path == card or path.startswith(f"{stem}/")}
            changes |= {path: (FILE, oid) if oid else None for path, oid in mine.items()}
    return repo.write_tree(repo.tree_of(ours), changes)


def union_tree(repo: Repo, ours: str, theirs: str, base: str | None) -> str:
    """The files of both; of a file that both have the lines of both."""
    changes: dict[str, tuple[int, str] | None] = {}
    for path, (one, other) in repo.changed(ours, theirs).items():
        if other is not None:
            data = merging.union_lines(_blob(repo, one) or b"", _blob(repo, other) or b"")
            changes[path] = (FILE, repo.write_blob(data))
    return repo.write_tree(repo.tree_of(ours), changes)


# --- nights and runs --------------------------------------------------------------------------------------------------


def _freeze(repo: Repo, tip: str) -> tuple[datetime, str]:
    """When a night's first commit was made, and that commit."""
    for oid, when, message in repo.history(tip, 100_000):
        if message.endswith(": freeze\n"):
            return when, oid
    return repo.commit_info(tip).when, tip


def _rank(repo: Repo, tip: str) -> tuple[bool, datetime, str]:
    info = repo.commit_info(tip)
    return repo.read_path(tip, "report.json") is not None, info.when, tip


def _night(loom: Loom, name: str, theirs: str, lost: dict[str, bool]) -> None:
    """Two nights of one name: both clones had no remote then, or went on with the same one. The older one keeps the
    name (of one night that which came further), the other gets a second name."""
    repo, night = loom.repo, name.removeprefix(nights.NIGHTS)
    if not is_night(night):
        _other(loom, name, theirs)
        return
    sides = loom.forward(name, theirs)
    if sides is None:
        return
    starts = [_freeze(repo, side) for side in sides]
    if starts[0] == starts[1]:
        first = 0 if _rank(repo, sides[0]) >= _rank(repo, sides[1]) else 1
        mark = sides[1 - first]
    else:
        first = 0 if starts[0] < starts[1] else 1
        mark = starts[1 - first][1]
    second = f"{name}-{mark[:4]}"
    if loom.forward(second, sides[1 - first]) is not None:
        why = "a third night has that name as well, and it was left where it is"
        loom.done.said.append(f"night {night}: {why}: {sides[1 - first][:12]}")
        return
    if first == 1:
        loom.move(name, theirs, sides[0])
    lost[night] = first == 1
    loom.done.said.append(f"two clones had a night {night}: the later one is {second.removeprefix(nights.NIGHTS)} now")


def _run(loom: Loom, name: str, theirs: str, lost: Mapping[str, bool]) -> None:
    """One run of which two clones wrote the record again: the later record stands, both histories stay."""
    repo = loom.repo
    if repo.ref(name) == theirs:
        return
    if not readable(Run, _record(repo, theirs)):
        loom.done.said.append(f"{name} was not taken: it holds no record of a run")
        return
    sides = loom.forward(name, theirs)
    if sides is None:
        return
    records = [_record(repo, side) for side in sides]
    known = lost.get(str(records[0].get("night")))
    later = max((0, 1), key=lambda side: (repo.commit_info(sides[side]).when, sides[side]))
    first = later if known is None else int(known)
    record = records[first]
    named = [oid for key in ("base", "result") if isinstance(oid := record.get(key), str)]
    parents = [*dict.fromkeys(named), sides[first], sides[1 - first]]
    run = name.rpartition("/")[2]
    message = f"{prs.MERGE}: run {run}\n\nPantheon-Run: {run}\n"
    loom.move(name, loom.commit(repo.tree_of(sides[first]), parents, message), sides[0])
    loom.done.merged += 1


def _record(repo: Repo, commit: str) -> Mapping[str, Any]:
    with suppress(ValueError):
        found = json.loads((repo.read_path(commit, artifacts.RUN_FILE) or b"").decode("utf-8", "surrogateescape"))
        return found if isinstance(found, dict) else {}
    return {}


def readable(kind: type[Record], record: Mapping[str, Any]) -> bool:
    """Whether stored JSON is such a record, of this version or a newer one: what is none would stop whoever reads."""
    try:
        kind.model_validate(record)
    except ValidationError as error:
        return newer(json.dumps(record).encode(), error)
    return True


# --- what differs -----------------------------------------------------------------------------------------------------


def ahead(repo: Repo, remote: str) -> tuple[int, int]:
    """How many refs a remote lacked when we last looked, and how many of its it had otherwise than we do."""
    ours = {name: oid for prefix in remotes.SHARED for name, oid in repo.refs(prefix).items()}
    theirs = remotes.tracked(repo, remote)
    moved = sum(1 for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])
    return len(ours.keys() - theirs.keys()), moved
