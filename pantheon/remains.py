"""What is no longer there, as the archive tells it: PRs that it keeps in the place of their refs, refs that were taken
away. It lets a verification tell "collected" from "missing".

Owns what must be true of `refs/pantheon/archive/`: each commit signed like all of ours, lines only added, every retired
tip held by the archive itself. What nobody signed explains nothing. The writer (archive.py) is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from pantheon.ledger import Ledger, lines_of
from pantheon.reader import Unreadable
from pantheon.records import Collected, Retired

PULLS, COLLECTED = "refs/pantheon/archive/prs", "refs/pantheon/archive/collected"
PULLS_FILE, COLLECTED_FILE = "prs.jsonl", "collected.jsonl"
BEGIN = "archive: begin\n"
TAKEN = re.compile(r"refs/pantheon/(nights/.+|runs/.+)")  # of other refs nothing is ever taken away


def read_remains(ledger: Ledger, namespace: str) -> None:
    """Tell the ledger what the archive says, where it is signed: the refs of retired PRs (`namespace` is theirs) are
    as if they were there, and what was collected is known. What is wrong with the archive is told."""
    for line in _lines(ledger, COLLECTED, COLLECTED_FILE):
        one = ledger.record(Collected, line.encode("utf-8", "surrogateescape"), "archive", COLLECTED)
        if one is None:
            continue
        if not TAKEN.fullmatch(one.ref):
            ledger.fault("archive", COLLECTED, f"{one.ref} is of a kind that is never taken away")
            continue
        ledger.taken[one.ref] = one.oid
        ledger.bare.update(one.homes)
    kept, held = set[str](), dict[str, str]()
    for line in _lines(ledger, PULLS, PULLS_FILE, kept):
        retired = ledger.record(Retired, line.encode("utf-8", "surrogateescape"), "archive", PULLS)
        if retired is None:
            continue
        for name, oid in {"meta": retired.meta, **retired.revisions}.items():
            held[f"{namespace}{retired.pr}/{name}"] = oid
            if oid not in kept:
                ledger.fault("archive", PULLS, f"it lists {oid} of PR {retired.pr} ({name}), and does not hold it")
    ledger.refs = {**held, **ledger.refs}


def _lines(ledger: Ledger, ref: str, name: str, kept: set[str] | None = None) -> list[str]:
    """The lines of the archive as it is now; none where its signature does not hold. All its commits are walked: what
    one of them lists is listed still. `kept`: gets the parents of all of them."""
    newest: list[str] | None = None
    waiting, seen = [ledger.refs.get(ref)], set[str]()
    while waiting:
        oid = waiting.pop()
        if oid is None or oid in seen:
            continue
        seen.add(oid)
        with suppress(Unreadable):
            commit = ledger.signed(oid, ref)
            files = ledger.store.files(commit.tree, f"{ref} in {oid}")
            if commit.message == BEGIN and not files and not commit.parents:
                continue
            if list(files) != [name]:
                ledger.fault("archive", f"{ref} in {oid}", f"its files are {', '.join(files)[:120]}")
                continue
            lines = lines_of(ledger.store.read(files[name], "blob", f"{ref} in {oid}, {name}"))
            if newest is None:
                newest = list(lines) if ledger.holds(oid) else []
                for number, line in enumerate(lines, 1):
                    raw = line.encode("utf-8", "surrogateescape")
                    ledger.one_line(raw, "archive", f"{ref} in {oid}, line {number}")
            if lost := _listed(lines, name) - _listed(newest, name):
                why = f"it lists {sorted(lost)[0][:120]}, and the archive does so no more"
                ledger.fault("archive", f"{ref} in {oid}", why)
            if kept is not None:
                kept.update(commit.parents)
            ours = (p for p in commit.parents if ledger.store.commit(p, ref).message.startswith("archive: "))
            waiting += ours if kept is not None else commit.parents
    return newest or []


def _listed(lines: Sequence[str], name: str) -> set[str]:
    """What may not leave a list: every line, but of a PR that came back and retired again the last line is enough."""
    if name == COLLECTED_FILE:
        return set(lines)
    return {found[1] for line in lines if (found := re.search(r'"pr":(\d+)', line))}
