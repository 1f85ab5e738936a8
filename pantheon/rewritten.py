"""Commits that the user's own git made from the bot's: which notes may stand on them, though they prove nothing there.

Part of `verify`, and shares no code with what writes. A commit is kin of one of the bot's when its message names the
same run, or when it does to each file what that one does, wherever the lines stand now. A commit that is gone misleads
nobody.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pantheon.reader import TREE_MODE, Store, Unreadable

_RUN = re.compile(r"^[ \t]*Pantheon-Run: ([0-9a-f]{8,64})[ \t]*\r?$", re.MULTILINE)
MOST = 100_000  # directories of two trees that are compared
LARGE = 4 << 20  # bytes of a file that is compared as a whole
Side = tuple[int, str]  # mode and object; (0, ""): no file


@dataclass
class Kinship:
    """What was found out about commits so far."""

    store: Store
    _named: dict[str, frozenset[str]] = field(default_factory=dict)
    _done: dict[str, Mapping[str, tuple[Side, Side]]] = field(default_factory=dict)
    _prints: dict[tuple[Side, Side], bytes] = field(default_factory=dict)

    def may_carry(self, commit: str, lines: Collection[int], notes: Mapping[str, Collection[int]]) -> bool:
        """Whether a note of these lines (as hashes) may stand on a commit: each stands in a note of `notes`, and of the
        commits of those the commit is kin to one."""
        wanted = set(lines)
        sources = [other for other, have in notes.items() if other != commit and not wanted.isdisjoint(have)]
        if wanted - {line for other in sources for line in notes[other]}:
            return False
        return not self.store.has(commit) or any(self.kin(commit, other) for other in sources)

    def kin(self, commit: str, other: str) -> bool:
        if self.named(commit) & self.named(other):
            return True
        part, whole = self.done(other), self.done(commit)
        return bool(part) and all(path in whole and self._same(done, whole[path]) for path, done in part.items())

    def named(self, commit: str) -> frozenset[str]:
        """The runs that the message of a commit names."""
        if commit not in self._named:
            self._named[commit] = frozenset()
            if self.store.has(commit):
                with suppress(Unreadable):
                    message = self.store.commit(commit, "a commit with a note").message
                    self._named[commit] = frozenset(_RUN.findall(message))
        return self._named[commit]

    def done(self, commit: str) -> Mapping[str, tuple[Side, Side]]:
        """path -> what was there before and after, of a commit with one parent; nothing of another."""
        if commit not in self._done:
            self._done[commit] = {}
            if self.store.has(commit):
                with suppress(Unreadable):
                    self._done[commit] = self._compare(commit)
        return self._done[commit]

    def _compare(self, commit: str) -> dict[str, tuple[Side, Side]]:
        now = self.store.commit(commit, "a commit with a note")
        if len(now.parents) != 1 or not self.store.has(now.parents[0]):
            return {}
        where = f"commit {commit}"
        waiting = [("", self.store.commit(now.parents[0], where).tree, now.tree)]
        found: dict[str, tuple[Side, Side]] = {}
        for _ in range(MOST):
            if not waiting:
                return found
            above, old, new = waiting.pop()
            had = self.store.tree(old, where) if old else {}
            has = self.store.tree(new, where) if new else {}
            for name in had.keys() | has.keys():
                was, is_ = had.get(name, (0, "")), has.get(name, (0, ""))
                path = above + name.decode("utf-8", "surrogateescape")
                if was == is_:
                    continue
                below = [side[1] if side[0] == TREE_MODE else "" for side in (was, is_)]
                if any(below):
                    waiting.append((path + "/", below[0], below[1]))
                files = [(0, "") if side[0] == TREE_MODE else side for side in (was, is_)]
                if files[0] != files[1]:
                    found[path] = (files[0], files[1])
        return {}

    def _same(self, one: tuple[Side, Side], other: tuple[Side, Side]) -> bool:
        if one == other:
            return True
        if [side[0] for side in one] != [side[0] for side in other]:
            return False
        try:
            return self._print(one) == self._print(other)
        except Unreadable:
            return False

    def _print(self, change: tuple[Side, Side]) -> bytes:
        """The lines that go and come; of what is no text, or only changes places, both sides as a whole."""
        if change not in self._prints:
            old, new = (self._content(side) for side in change)
            gone, come = Counter(old.split(b"\n")), Counter(new.split(b"\n"))
            less, more = sorted((gone - come).elements()), sorted((come - gone).elements())
            if b"\0" in old or b"\0" in new or not (less or more):
                less, more = [old], [new]
            told = hashlib.sha256()
            for sign, lines in ((b"-", less), (b"+", more)):
                for line in lines:
                    told.update(sign + hashlib.sha256(line).digest())
            self._prints[change] = told.digest()
        return self._prints[change]

    def _content(self, side: Side) -> bytes:
        mode, oid = side
        if not mode:
            return b""
        if mode == 0o160000:
            return b"\0" + oid.encode("ascii")
        data = self.store.read(oid, "blob", "a file of a commit with a note")
        return data if len(data) <= LARGE else b"\0" + oid.encode("ascii")
