"""`verify` on what came from several clones: commits that bring two lines together, and PRs that got another number.

Owns what such a commit may do: a merge of notes holds the lines of both sides and no others; one of a PR leaves the
record of its first side but for words on items, whose stack it is; a renumbering changes names alone. Told apart by
their messages, like all operations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pantheon.ledger import NOTES, Ledger, lines_of, parse_json
from pantheon.reader import Commit, Unreadable
from pantheon.records import PullRequest

RENUMBER, MERGE = "renumber: ", "merge: "
WORD = {"verdict", "reason", "said_at", "until"}  # of an item
NAMES = {"id", "branch"}


# --- notes ------------------------------------------------------------------------------------------------------------


def check_notes(ledger: Ledger, commit: Commit, name: str) -> None:
    """A merge of a notes ref: of each commit the lines of both sides; of a summary that of one of them."""
    ref = NOTES + name
    where = f"{ref} in {commit.oid}"
    try:
        after = ledger.listed(commit.tree, ref)
        one, other = (ledger.listed(ledger.store.commit(parent, ref).tree, ref) for parent in commit.parents)
    except Unreadable:
        return
    for home in sorted(one.keys() | other.keys() | after.keys()):
        found, sides = after.get(home), [side[home][1] for side in (one, other) if home in side]
        if found is None:
            if home not in ledger.bare:
                ledger.fault("note", f"{where} {home}", "the note was removed")
        elif found[1] not in sides or (name != "summary" and len({*sides}) > 1):
            wanted = {line for blob in sides for line in _lines(ledger, blob, where)}
            lines = _lines(ledger, found[1], where)
            if name == "summary" or wanted != {*lines}:
                ledger.fault("note", f"{where} {home}", "it is not what both sides had")


def _lines(ledger: Ledger, blob: str, where: str) -> Collection[str]:
    try:
        return lines_of(ledger.store.read(blob, "blob", where))
    except Unreadable:
        return ()


# --- PRs --------------------------------------------------------------------------------------------------------------


def check_step(ledger: Ledger, where: str, commit: Commit, after: PullRequest, sides: Sequence[PullRequest]) -> None:
    """A merge or a renumbering of a PR: `sides` are the records of its parents, that whose stack it has first."""
    loose = NAMES if commit.message.startswith(RENUMBER) else {*NAMES, "items"}
    place = f"{where}, commit {commit.oid}"
    ledger.differs(_plain(sides[0], loose), _plain(after, loose), "pr", place)
    if commit.message.startswith(RENUMBER):
        return
    if (after.id, after.branch) not in {(side.id, side.branch) for side in sides}:
        ledger.fault("pr", place, f"neither side was PR {after.id} on {after.branch}")
    had = [item.model_dump(mode="json", exclude=WORD) for item in sides[0].items]
    ledger.differs(had, [item.model_dump(mode="json", exclude=WORD) for item in after.items], "pr", f"{place}, items")
    for number, item in enumerate(after.items):
        words = [item.model_dump(include=WORD)]
        words += [old.model_dump(include=WORD) for side in sides for old in side.items if old.run == item.run]
        if words[0] not in words[1:]:
            ledger.fault("pr", f"{place}, items[{number}]", f"neither side said {item.verdict!r} of {item.target}")


def _plain(pull: PullRequest, without: Collection[str]) -> Mapping[str, object]:
    return pull.model_dump(mode="json", exclude=set(without))


def words(ledger: Ledger, commits: Collection[str], numbers: Collection[int], run: str) -> set[str]:
    """All that people said of an item, whichever commit it was and whatever number its PR had."""
    found: set[str] = set()
    for commit in commits:
        for line in lines_of(ledger.note("decisions", commit) or b""):
            try:
                said = parse_json(line.encode("utf-8", "surrogateescape"))
                if said["pr"] in numbers and said["run"] == run:
                    found.add(str(said["verdict"]))
            except (ValueError, KeyError, TypeError):
                continue  # told elsewhere
    return found


def renamed(history: Sequence[PullRequest], now: PullRequest) -> list[PullRequest]:
    """Records of a PR from before it got other names, as an `undo` puts them back."""
    names = {name: getattr(now, name) for name in NAMES}
    return [old.model_copy(update=names) for old in history]
