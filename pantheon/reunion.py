"""The PRs of two clones, brought together: one record for one PR, one number for each.

Owns what `merge` and `renumber` operations are. A PR is the commit that opened it; its number and its branch are only
its names here. Records go through as the JSON they are, so that what a newer version wrote is kept. Review branches
follow from the records (prs.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pantheon import archive, merging, prs, review
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import CommitInfo, Repo
from pantheon.merging import Claim, Json, Operation
from pantheon.prs import MERGE, RENUMBER
from pantheon.records import PullRequest, PullState, pretty
from pantheon.weave import FILE, Loom, readable

_NAME = re.compile(re.escape(prs.PRS) + r"([1-9]\d*)/(meta|r[1-9]\d*(?:-[0-9a-f]{8})?)", re.ASCII)


@dataclass
class Line:
    """The operations of one PR up to `tip`, read once. `first` along first parents, newest first; `sides` what merges
    brought in."""

    repo: Repo
    tip: str

    @cached_property
    def first(self) -> tuple[CommitInfo, ...]:
        return tuple(_first_parents(self.repo, self.tip))

    @cached_property
    def sides(self) -> tuple[CommitInfo, ...]:
        seen, found = {info.oid for info in self.first}, []
        waiting = [parent for info in self.first for parent in info.parents[1:]]
        while waiting:
            oid = waiting.pop()
            if oid not in seen:
                seen.add(oid)
                info = self.repo.commit_info(oid)
                found.append(info)
                waiting += info.parents
        return tuple(found)

    @property
    def root(self) -> CommitInfo:
        return self.first[-1]

    @cached_property
    def record(self) -> Json:
        return read(self.repo, self.tip)

    @cached_property
    def tips(self) -> dict[str, str]:
        """The refs that keep every stack alive: `r2` of the line that stands, `r2-0123abcd` of one that lost."""
        found: dict[str, str] = {}
        for info in reversed(self.first):
            record = read(self.repo, info.oid)
            found[f"r{record.get('revision', 1)}"] = str(record.get("tip"))
        for info in self.sides:
            record = read(self.repo, info.oid)
            name, tip = f"r{record.get('revision', 1)}", str(record.get("tip"))
            if tip not in found.values():
                found[f"{name}-{tip[:8]}"] = tip
        return {name: tip for name, tip in found.items() if self.repo.knows(tip)}


def _first_parents(repo: Repo, tip: str) -> Iterator[CommitInfo]:
    oid: str | None = tip
    while oid is not None:
        info = repo.commit_info(oid)
        yield info
        oid = info.parents[0] if info.parents else None


def read(repo: Repo, operation: str) -> Json:
    """The record that an operation left, as it is stored; {} where it is none."""
    with suppress(ValueError):
        found = json.loads(repo.read_path(operation, "pr.json") or b"")
        return found if isinstance(found, dict) else {}
    return {}


@dataclass
class _Place:
    """One PR as refs have it: its number, the operation that it is at, its other refs by their last word."""

    number: int
    meta: str
    revisions: dict[str, str] = field(default_factory=dict)


def _places(refs: Mapping[str, str]) -> dict[int, _Place]:
    found: dict[int, _Place] = {}
    rest: list[tuple[int, str, str]] = []
    for name, oid in refs.items():
        match = _NAME.fullmatch(name)
        if match and match[2] == "meta":
            found[int(match[1])] = _Place(int(match[1]), oid)
        elif match:
            rest.append((int(match[1]), match[2], oid))
    for number, name, oid in rest:
        if number in found:
            found[number].revisions[name] = oid
    return found


@dataclass
class Reunion:
    """The PRs of this clone while those of a remote come in."""

    loom: Loom
    lines: dict[str, Line] = field(default_factory=dict)  # by tip
    off: dict[str, tuple[merging.Off, ...]] = field(default_factory=dict)  # root -> what has to leave its stack

    @property
    def repo(self) -> Repo:
        return self.loom.repo

    def line(self, tip: str) -> Line:
        return self.lines.setdefault(tip, Line(self.repo, tip))

    def by_root(self, places: Mapping[int, _Place]) -> dict[str, _Place]:
        """One side's PRs by the commit that opened them. A kill may have left one under two numbers: the further."""
        found: dict[str, _Place] = {}
        for place in places.values():
            root = self.line(place.meta).root.oid
            if root not in found or self.loom.descends(place.meta, found[root].meta):
                found[root] = place
        return found

    def retired(self, meta: str) -> bool:
        """Whether a PR that stands there has left the namespace for the archive."""
        held = self.repo.ref(archive.PULLS)
        return held is not None and self.loom.descends(held, meta)

    def bring(self, theirs: Mapping[str, str]) -> None:
        """Bring the other side's PRs in."""
        before = self.repo.refs(prs.PRS)
        ours, others = self.by_root(_places(before)), self.by_root(_places(theirs))
        tips: dict[str, str] = {}
        for root, place in ours.items():
            if root in others or not self.retired(place.meta):
                tips[root] = place.meta
        for root, place in others.items():
            if not readable(PullRequest, self.line(place.meta).record):
                self.loom.done.said.append(f"PR {place.number} was not taken: it holds no record of a PR")
            elif root in tips:
                tips[root] = self._joined(root, tips[root], place.meta)
            elif not self.retired(place.meta):
                tips[root] = place.meta
                self.loom.done.taken += 1
        for root in [root for root in tips if root in others and self.retired(tips[root])]:
            del tips[root]
        tips = self._named(tips)
        with prs.turn(self.repo):
            self._write(before, ours, tips)
        self._settle(ours, tips)

    # --- one PR -------------------------------------------------------------------------------------------------------

    def _joined(self, root: str, ours: str, theirs: str) -> str:
        """The operation that stands when both sides went on."""
        loom = self.loom
        if loom.descends(ours, theirs):
            return ours
        if loom.descends(theirs, ours):
            loom.done.taken += 1
            return theirs
        base = self.repo.merge_base(ours, theirs)
        sides = (self._since(ours, base), self._since(theirs, base))
        joined = merging.join_pulls(read(self.repo, base), *sides)
        parents = [(ours, theirs)[joined.first], (ours, theirs)[1 - joined.first]]
        if joined.off:
            self.off[root] = joined.off
        loom.done.merged += 1
        for line in joined.said:
            loom.done.said.append(f"PR {joined.record.get('id')}: {line}")
        return self._operation(MERGE, joined.record, parents, joined.said)

    def _since(self, tip: str, base: str) -> list[Operation]:
        """The operations of one side, oldest first; of what it merged itself only what stands."""
        found = []
        for info in self.line(tip).first:
            if self.loom.descends(base, info.oid):
                break
            found.append(Operation(int(info.when.timestamp()), read(self.repo, info.oid)))
        return found[::-1] or [Operation(0, read(self.repo, tip))]

    def _operation(self, verb: str, record: Json, parents: list[str], said: Sequence[str] = ()) -> str:
        tree = self.repo.write_tree(None, {"pr.json": (FILE, self.repo.write_blob(pretty(dict(record))))})
        more = "".join(f"\n{line}" for line in said)
        message = f"{verb}: PR {record.get('id')} {record.get('title')}\n" + (f"{more}\n" if said else "")
        return self.loom.commit(tree, parents, message)

    # --- names --------------------------------------------------------------------------------------------------------

    def _named(self, tips: Mapping[str, str]) -> dict[str, str]:
        """The operations with a number and a branch of its own for each PR."""
        claims = []
        for root, tip in tips.items():
            line = self.line(tip)
            number, branch = line.record.get("id"), line.record.get("branch")
            since = int(line.root.when.timestamp())
            claims.append(Claim(root, since, number if isinstance(number, int) else 0, str(branch)))
        found = dict(tips)
        held = archive.retired(self.repo)
        names = merging.assign(claims, {n for n, one in held.items() if self.line(one.meta).root.oid not in tips})
        for claim in claims:
            number, branch = names[claim.root]
            if (number, branch) != (claim.number, claim.branch):
                record: dict[str, Any] = {**self.line(tips[claim.root]).record, "id": number, "branch": branch}
                found[claim.root] = self._operation(RENUMBER, record, [tips[claim.root]])
                was = f"PR {claim.number}" if number != claim.number else claim.branch
                now = f"PR {number}" if number != claim.number else branch
                self.loom.done.said.append(f"{was} is {now} now: another clone had one of that name before")
        return found

    # --- refs ---------------------------------------------------------------------------------------------------------

    def _write(self, before: Mapping[str, str], ours: Mapping[str, _Place], tips: Mapping[str, str]) -> None:
        """Every ref of every PR as it is to be: the new ones first, so that nothing is out of reach on the way."""
        wanted: dict[str, str] = {}
        for root, tip in tips.items():
            if root in ours and ours[root].meta == tip:
                continue
            line = self.line(tip)
            number = line.record.get("id")
            wanted |= {f"{prs.PRS}{number}/{name}": oid for name, oid in line.tips.items()}
            wanted[f"{prs.PRS}{number}/meta"] = tip
        kept = {ours[root].number for root, tip in tips.items() if root in ours and ours[root].meta == tip}
        for name in sorted(wanted, key=lambda name: (name in before, name.endswith("/meta"), name)):
            if before.get(name) != wanted[name]:
                self.loom.move(name, wanted[name], before.get(name))
        for name, oid in before.items():
            match = _NAME.fullmatch(name)
            if match and name not in wanted and int(match[1]) not in kept:
                with suppress(RepositoryError):
                    self.loom.move(name, None, oid)

    def _settle(self, ours: Mapping[str, _Place], tips: Mapping[str, str]) -> None:
        """Review branches go where the records say, unless a person has moved them; what the other side took off a
        stack leaves it."""
        placed = self.repo.common_dir / "pantheon" / prs.PLACED
        for root, tip in tips.items():
            if root in ours and ours[root].meta != tip:
                self._release(placed, self.line(ours[root].meta), self.line(tip))
        for root, place in ours.items():
            if root not in tips:
                self._release(placed, self.line(place.meta), None)
        prs.mend(self.repo, self.loom.when, self.loom.signer() if self._any_rebuilt(tips) else None)
        for root, off in self.off.items():
            self._take_off(int(str(self.line(tips[root]).record.get("id"))), off)

    def _any_rebuilt(self, tips: Mapping[str, str]) -> bool:
        return any(self.line(tip).record.get("revision", 1) != 1 for tip in tips.values())

    def _release(self, placed: Path, old: Line, new: Line | None) -> None:
        """A branch that stands where some revision had it is ours to move: to the new tip, or away."""
        number, name = old.record.get("id"), f"refs/heads/{old.record.get('branch')}"
        after: Json = new.record if new else {}
        branch, stays = f"refs/heads/{after.get('branch')}", after.get("state") == PullState.OPEN
        at = self.repo.ref(name) if name.startswith(prs.BRANCHES) else None
        tips = {*old.tips.values(), *(new.tips.values() if new else ())}
        target = str(after.get("tip")) if stays and branch == name else None
        if at is not None and at in tips and at != target:
            try:
                self.loom.move(name, target, at)
            except RepositoryError as error:
                self.loom.done.said.append(f"PR {after.get('id', number)}: {error}")
                return
        if after.get("id") != number or branch != name or not stays:
            with suppress(OSError):
                (placed / str(number)).unlink(missing_ok=True)

    def _take_off(self, number: int, off: Sequence[merging.Off]) -> None:
        try:
            review.leave_out(
                self.repo, prs.load(self.repo, number), {one.run: (one.verdict, one.reason) for one in off},
                when=self.loom.when, signer=self.loom.signer(),
            )  # fmt: skip
        except PantheonError as error:
            why = f"what another clone took off it could not be taken off the stack: {error}"
            self.loom.done.said.append(f"PR {number}: {why}")


def contradictions(repo: Repo, number: int, since: datetime | None = None) -> tuple[str, ...]:
    """Where people contradicted each other in two clones, as long as nothing was said of the PR after both came
    together, and that was after `since`."""
    tip = repo.ref(f"{prs.PRS}{number}/meta")
    if tip is None:
        return ()
    for info in _first_parents(repo, tip):
        verb, _, rest = info.message.partition(":")
        if verb == MERGE and since is not None and info.when < since:
            break
        if verb == MERGE:
            return tuple(line for line in rest.split("\n")[1:] if line.strip())
        if verb not in (RENUMBER, prs.REFRESH, prs.PUSH):
            break
    return ()
