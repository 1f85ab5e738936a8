"""What a tool is, and what a kind of rules is: two records of functions that the registry lists.

A tool is a function over one worktree with schemas for its arguments and its result. A kind of rules says what a rules
file of that kind holds, what in one file breaks it, and what a change may look like. Sameness by signature: no class to
derive from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pantheon.records import Finding, Offer, Record, Repair
from pantheon.tools.facts import Facts
from pantheon.tools.workspace import Workspace


def _no_offer(ws: Workspace) -> tuple[Offer, ...]:
    return ()


class Nothing(Record):
    """A tool without arguments."""


@dataclass(frozen=True)
class Tool:
    """A named function over one worktree. `args` and `result` are its schemas, `example` one call that fits them,
    `offer` its narrowed next calls (none: it is not to be called now). Calling it twice with the same arguments changes
    nothing the second time. A refusal is a ToolError; `timeout_s` bounds one call."""

    name: str
    summary: str
    args: type[Record]
    result: type[Record]
    example: Mapping[str, str]
    run: Callable[[Workspace, Any], Record | Awaitable[Record]]
    offer: Callable[[Workspace], tuple[Offer, ...] | Awaitable[tuple[Offer, ...]]] = _no_offer
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Tree:
    """A whole tree, for judging one file in it: its paths, and a reader of regular files (None: no such file)."""

    paths: frozenset[str]
    read: Callable[[str], bytes | None]
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, key: Hashable, work: Callable[[], Any]) -> Any:
        """What `work` gives, computed once per tree: what all files of a tree share (a licence, a list of symbols)."""
        if key not in self._known:
            self._known[key] = work()
        return self._known[key]


class Problem(NamedTuple):
    """One thing against a change, as a check prints it."""

    path: str
    line: int
    rule: str
    message: str


@dataclass(frozen=True)
class Change:
    """One changed path between two trees. None: it is not there."""

    path: str
    before: bytes | None
    after: bytes | None
    base: Tree
    now: Tree


@dataclass(frozen=True)
class Seed:
    """A change whose worth is known, to measure the reviewers with. `before`: files put into the base that it starts
    from, so that the target breaks the rules there as a real one does; `after`: what the change makes of that base
    (None: no such file). `kind`: what is wrong with it (wrong-title, lost-paragraph, ...); of a right one `restored`.
    """

    kind: str
    good: bool
    before: Mapping[str, bytes | None]
    after: Mapping[str, bytes | None]


def _no_seeds(path: str, raw: bytes, rules: Any, tree: Tree, facts: Facts) -> tuple[Seed, ...]:
    return ()


def _nothing_more(path: str, rules: Any, tree: Tree) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Kind:
    """A kind of rules. `parse` reads a rules file (ConfigError with its line). `about`: whether a path is one that the
    rules judge. `check`: every rule that a file breaks; never raises on its content. `verify`: what is wrong with a
    changed path, run in the sandbox by the check `rules`; None: nothing may be broken any more but what was left to a
    person. `companions`: further paths that an item on a file may create or change (a test beside its module). `seeds`:
    changes of a file of the tree whose worth is known, made from what people wrote; never raises on its content."""

    name: str
    parse: Callable[[bytes, str], Record]
    about: Callable[[str, Any], bool]
    check: Callable[[str, bytes, Any, Tree], tuple[Finding, ...]]
    verify: Callable[[Change, Any], Iterable[Problem]] | None = None
    companions: Callable[[str, Any, Tree], tuple[str, ...]] = _nothing_more
    seeds: Callable[[str, bytes, Any, Tree, Facts], Iterable[Seed]] = _no_seeds

    def problems(self, change: Change, rules: Any) -> Iterable[Problem]:
        """What the check `rules` says of one changed path."""
        if self.verify is not None:
            yield from self.verify(change, rules)
        elif change.after is not None and self.about(change.path, rules):
            old = self.check(change.path, change.before, rules, change.base) if change.before is not None else ()
            left = {finding.rule for finding in old if finding.repair is Repair.REPORT}
            for finding in self.check(change.path, change.after, rules, change.now):
                if finding.rule not in left:
                    yield Problem(change.path, finding.line, finding.rule, finding.message)
