"""What becomes of records that two clones wrote apart: unions of lines, one record of a PR, one name for each.

Owns the rules and nothing else; weave.py and reunion.py read and write. Every rule gives the same in whichever order
clones meet, and whoever applies it: no side is "ours" here. Records are plain JSON objects, so that what a newer
version wrote goes through unharmed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pantheon.plan import printable

Json = Mapping[str, Any]
ACCEPTED, REJECTED, SUPERSEDED = "accepted", "rejected", "superseded"
WORD = ("verdict", "reason", "said_at", "until")  # of an item: what a person said of it
_RANK = {ACCEPTED: 3, REJECTED: 2, SUPERSEDED: 1}  # of a PR's state; what waits, in whatever way, gives way to all
_BRANCH = re.compile(r"(.*/)([1-9]\d*)", re.DOTALL)


def union_lines(one: bytes, other: bytes) -> bytes:
    """Every line of two notes once, sorted, as git's `cat_sort_uniq` has it; two notes that are equal stay as they
    are."""
    if one == other or not other:
        return one
    if not one:
        return other
    return b"".join(line + b"\n" for line in sorted({*one.split(b"\n"), *other.split(b"\n")} - {b""}))


def choose(base: bytes | None, one: bytes | None, other: bytes | None) -> bytes | None:
    """Of a text that can only be one: what changed since `base`; where both did, the greater."""
    if one == other or other == base:
        return one
    if one == base:
        return other
    return max((text for text in (one, other) if text is not None), default=None)


# --- one PR, of which two clones wrote the record ---------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """One operation on a PR: when, in seconds, and the record that it left."""

    when: int
    record: Json


@dataclass(frozen=True)
class Off:
    """An item that is to leave the stack, with the word that a person said of it."""

    run: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Joined:
    """One record of a PR. `first`: which side's stack it has, 0 or 1; `off`: items that the other side took off its
    own; `said`: where people contradicted each other, a line each."""

    record: Json
    first: int
    off: tuple[Off, ...] = ()
    said: tuple[str, ...] = ()


def join_pulls(base: Json, one: Sequence[Operation], other: Sequence[Operation]) -> Joined:
    """The record that two lines of operations since `base` (oldest first, neither empty) come to.

    Accepted goes before rejected, and either before open; of two that are alike the stack with more revisions, then
    the later one. That side's record stands; of each item the last word by time is taken as far as that stack allows.
    """
    sides = (one, other)
    first = 0 if _weight(one) >= _weight(other) else 1
    record, lost = dict(sides[first][-1].record), sides[1 - first][-1].record
    said: list[str] = []
    if _closed(record) and _closed(lost) and record.get("state") != lost.get("state"):
        said.append(f"it was {record.get('state')} in one clone and {lost.get('state')} in another")
    whole = bool(said)  # that says it of every item
    words = (_words(base, sides[first]), _words(base, sides[1 - first]))
    items, off = [], []
    for item in _items(record):
        after, gone, why = _last_word(record, item, words[0].get(_key(item)), words[1].get(_key(item)))
        items.append(after)
        off += [gone] if gone else []
        said += [why] if why and not whole else []
    if "items" in record:
        record["items"] = items
    number = max(sides, key=lambda side: (_number(side[-1].record), str(side[-1].record.get("branch"))))[-1].record
    record |= {name: number[name] for name in ("id", "branch") if name in number}
    return Joined(record, first, tuple(off), tuple(said))


def _weight(side: Sequence[Operation]) -> tuple[Any, ...]:
    last = side[-1]
    state, landed = _RANK.get(str(last.record.get("state")), 0), bool(last.record.get("landed"))
    revision = last.record.get("revision")
    return state, landed, revision if isinstance(revision, int) else 0, last.when, canonical(last.record)


def canonical(record: Json) -> str:
    return json.dumps(record, sort_keys=True, ensure_ascii=True)


def _closed(record: Json) -> bool:
    return record.get("state") in _RANK


def _number(record: Json) -> int:
    number = record.get("id")
    return number if isinstance(number, int) else 0


def _items(record: Json) -> list[dict[str, Any]]:
    found = record.get("items")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _key(item: Json) -> str:
    return str(item.get("run") or item.get("item"))


def _word(item: Json | None) -> tuple[bool, str, str]:
    item = item or {}
    return bool(item.get("dropped") or item.get("verdict")), str(item.get("verdict") or ""), str(item.get("reason", ""))


@dataclass(frozen=True)
class _Word:
    """What was last said of an item since the sides parted. `off`: it is not wanted; `item`: as it then was."""

    when: int
    off: bool
    verdict: str
    reason: str
    item: Json


def _words(base: Json, side: Sequence[Operation]) -> dict[str, _Word]:
    """The items of which something was said since `base`, by run."""
    found: dict[str, _Word] = {}
    before = {_key(item): _word(item) for item in _items(base)}
    for operation in side:
        items = {_key(item): item for item in _items(operation.record)}
        for key, item in items.items():
            if _word(item) != before.get(key, (False, "", "")):
                found[key] = _Word(operation.when, *_word(item), item)
        before = {key: _word(item) for key, item in items.items()}
    return found


def _last_word(record: Json, item: dict[str, Any], kept: _Word | None, other: _Word | None) -> tuple[Any, ...]:
    """(item, what has to go from the stack, the contradiction) of one item in the record that stands."""
    if other is None:
        return item, None, ""
    off, verdict, _ = _word(item)
    name = printable(str(item.get("target", "")))[:120]
    if not off and other.off:
        if record.get("state") == ACCEPTED:
            return item, None, f"{name} was accepted in one clone and {other.verdict or 'dropped'} in another"
        if _closed(record):
            return item, None, ""
        why = f"{name} was {other.verdict or 'dropped'} in one clone and taken back in another" if kept else ""
        return item, Off(_key(item), other.verdict or "dropped", other.reason), why
    if off and not other.off:
        return item, None, f"{name} was taken back in one clone and is {verdict or 'dropped'} all the same"
    if off and (other.verdict, other.reason) != (verdict, str(item.get("reason", ""))):
        mine = _Word(kept.when if kept else -1, off, verdict, str(item.get("reason", "")), item)
        last = max((mine, other), key=lambda word: (word.when, word.verdict, word.reason))
        both = kept is not None and other.verdict != verdict
        said = f"{name} was {' and '.join(sorted({verdict or 'dropped', other.verdict or 'dropped'}))}" if both else ""
        return item | {name: last.item[name] for name in WORD if name in last.item}, None, said
    return item, None, ""


# --- names ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A PR, by the commit that opened it, and the names that its record has. `since`: when that was, in seconds."""

    root: str
    since: int
    number: int
    branch: str


def assign(claims: Iterable[Claim], retired: Iterable[int] = ()) -> dict[str, tuple[int, str]]:
    """root -> (number, branch): the older PR keeps its names, the other gets the next free ones. `retired`: numbers of
    PRs that are in the archive; they stay theirs."""
    ordered = sorted(claims, key=lambda claim: (claim.since, claim.root))
    had_numbers, had_branches = set(retired), set[str]()
    numbers = had_numbers | {claim.number for claim in ordered}
    branches = {claim.branch for claim in ordered}
    found: dict[str, tuple[int, str]] = {}
    for claim in ordered:
        number, branch = claim.number, claim.branch
        if number in had_numbers:
            number = 1 + max(numbers)
        if branch in had_branches:
            branch = _free_branch(branch, branches)
        for names, name in ((numbers, number), (had_numbers, number)):
            names.add(name)
        for taken, one in ((branches, branch), (had_branches, branch)):
            taken.add(one)
        found[claim.root] = (number, branch)
    return found


def _free_branch(branch: str, taken: Iterable[str]) -> str:
    match = _BRANCH.fullmatch(branch)
    stem = match[1] if match else f"{branch}/"
    used = [int(m[2]) for name in taken if (m := _BRANCH.fullmatch(name)) and m[1] == stem]
    return f"{stem}{1 + max(used, default=0)}"
