"""What a verification knows so far: the faults, the signatures that held, notes and lines of commits read once.

Owns the checks that every record of Pantheon's shares: a commit is the bot's and signed by a key of the trust root, a
line of commits is unbroken, a notes ref only grew. It reads through reader.py and trusts nothing that it did not hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pantheon.reader import TREE_MODE, Commit, Fault, Kind, Store, Unreadable
from pantheon.records import Record
from pantheon.rewritten import Kinship
from pantheon.signers import NAMESPACE, SignatureFault, Trust, check_ssh, open_envelope

BOT = "Pantheon <pantheon@localhost>"
NOTES = "refs/notes/pantheon/"
DEEP = 32  # levels of JSON
MANY = 1_000_000  # entries of a tree of ours: more is a bomb
R = TypeVar("R", bound=Record)
_HEX = re.compile(r"[0-9a-f]{40}", re.ASCII)


class Ledger:
    """One verification under way. `said` is what a person should know that is no fault."""

    def __init__(self, common_dir: Path, trust: Trust, step: Callable[[str], None]) -> None:
        self.faults: dict[Fault, None] = {}
        self.said: list[str] = []
        self.store = Store(common_dir, self.complain)
        self.trust, self.step = trust, step
        self.refs = self.store.refs()
        self.signers: set[str] = set()
        self.noted: set[tuple[str, str]] = set()  # (notes ref, commit) whose note was looked at
        self.taken: dict[str, str] = {}  # ref -> what it held when it was collected
        self.bare: set[str] = set()  # commits of collected runs: their notes may be gone
        self._signed: dict[str, bool] = {}
        self._lines: dict[str, tuple[str, ...]] = {}
        self._strands: dict[str, tuple[str, ...]] = {}
        self._notes: dict[str, dict[str, tuple[str, str]]] = {}
        self.kinship = Kinship(self.store)
        self._line_hashes: dict[str, frozenset[int]] = {}  # by blob
        self._copied: dict[str, tuple[str, ...] | None] = {}  # commit of a person's git -> what it copied notes to

    def complain(self, fault: Fault) -> None:
        self.faults[fault] = None

    def fault(self, kind: Kind, where: str, why: str) -> None:
        self.complain(Fault(kind=kind, where=where, why=why))

    @property
    def commits(self) -> int:
        """How many commits bear a signature that holds."""
        return sum(self._signed.values())

    # --- commits ------------------------------------------------------------------------------------------------------

    def signed(self, oid: str, where: str) -> Commit:
        """A commit of the bot's, with its signature checked. Raises Unreadable when it is no commit at all."""
        commit = self.store.commit(oid, where)
        if oid not in self._signed:
            self._signed[oid] = self._check(commit, where)
        return commit

    def _check(self, commit: Commit, where: str) -> bool:
        name = f"commit {commit.oid} ({where})"
        if commit.author != BOT or commit.committer != BOT:
            whose = commit.author if commit.author != BOT else commit.committer
            self.fault("signature", name, f"made by {whose}, not by {BOT}")
            return False
        if not commit.signature:
            self.fault("signature", name, "it is not signed")
            return False
        try:
            self.signers.add(check_ssh(commit.signature, commit.payload, NAMESPACE, commit.when, self.trust))
        except SignatureFault as fault:
            self.fault(fault.kind, name, fault.why)
            return False
        return True

    def holds(self, oid: str) -> bool:
        """Whether a commit that `signed` looked at bears a signature that counts."""
        return self._signed.get(oid, False)

    def envelope(self, text: str, payload_type: str, where: str) -> tuple[bytes, bytes] | None:
        """(payload, key) of a DSSE envelope by a trusted key; None, told, when it does not hold."""
        try:
            return open_envelope(text, payload_type, self.trust)
        except SignatureFault as fault:
            self.fault(fault.kind, where, fault.why)
            return None

    def in_time(self, key: bytes, when: int, where: str) -> None:
        """Tell when a key of an envelope was not valid at the time its payload names."""
        try:
            self.signers.add(self.trust.require(key, NAMESPACE, when))
        except SignatureFault as fault:
            self.fault(fault.kind, where, fault.why)

    def line(self, ref: str) -> tuple[str, ...]:
        """The commits of an append-only ref, newest first, each signed and with one parent or none; of a merge of what
        two clones wrote the first one (`strands` has the rest).

        A commit that starts elsewhere (a night's, on its base) ends it: `ends` of the caller checks where.
        """
        if ref not in self._lines:
            found: list[str] = []
            oid: str | None = self.refs.get(ref)
            while oid is not None and oid not in found:
                try:
                    commit = self.noting(oid, ref) if ref.startswith(NOTES) else self.signed(oid, ref)
                except Unreadable:
                    break
                found.append(oid)
                if len(commit.parents) > 1 and not merges(commit):
                    self.fault("ref", ref, f"commit {oid} has {len(commit.parents)} parents, its line has one")
                oid = commit.parents[0] if commit.parents else None
                if commit.message.endswith(": freeze\n"):
                    break
            self._lines[ref] = tuple(found)
        return self._lines[ref]

    def strands(self, ref: str) -> tuple[str, ...]:
        """The commits that merges brought into an append-only ref, each signed."""
        if ref not in self._strands:
            line = self.line(ref)
            seen, found, waiting = set(line), dict[str, None](), list[str]()
            for oid in line:
                waiting += self.store.commit(oid, ref).parents[1:] if merges(self.store.commit(oid, ref)) else ()
            while waiting:
                oid = waiting.pop()
                if oid in seen:
                    continue
                seen.add(oid)
                try:
                    commit = self.noting(oid, ref) if ref.startswith(NOTES) else self.signed(oid, ref)
                except Unreadable:
                    continue
                if len(commit.parents) > 1 and not merges(commit):
                    self.fault("ref", ref, f"commit {oid} has {len(commit.parents)} parents, its line has one")
                found[oid] = None
                waiting += commit.parents[: 2 if merges(commit) else 1]
            self._strands[ref] = tuple(found)
        return self._strands[ref]

    def reaches(self, present: str, sealed: str) -> bool:
        """Whether `sealed` is `present` or an ancestor of it, through commits of the bot's only."""
        waiting, seen = [present], set[str]()
        while waiting:
            oid = waiting.pop()
            if oid == sealed:
                return True
            if oid in seen:
                continue
            seen.add(oid)
            try:
                commit = self.store.commit(oid, "an ancestor")
            except Unreadable:
                continue
            if commit.author == BOT:
                waiting += commit.parents
        return False

    # --- records ------------------------------------------------------------------------------------------------------

    def record(self, kind: type[R], data: bytes, what: Kind, where: str) -> R | None:
        """Stored JSON as a record; None, told, when it is not one."""
        try:
            return kind.model_validate(parse_json(data))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            self.fault(what, where, f"field {field or '(whole)'}: {first['msg']}")
        except ValueError as error:
            self.fault(what, where, f"not JSON: {error}")
        return None

    def one_line(self, data: bytes, what: Kind, where: str) -> dict[str, Any]:
        """Parsed JSON of one line in its one form (sorted keys, no blanks); {} when it is no object. Told when not."""
        return self._one_form(data, what, where, None)

    def one_file(self, data: bytes, what: Kind, where: str) -> dict[str, Any]:
        """The same for a stored file, which has one line per entry."""
        return self._one_form(data, what, where, 1)

    def _one_form(self, data: bytes, what: Kind, where: str, indent: int | None) -> dict[str, Any]:
        separators = (",", ":") if indent is None else None
        try:
            value = parse_json(data)
            text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=indent, separators=separators)
            form = text.encode("utf-8", "surrogateescape") if indent is None else file_form(text)
        except ValueError as error:
            self.fault(what, where, f"not JSON: {error}")
            return {}
        if form != data:
            at = next(
                (n for n, (a, b) in enumerate(zip(form, data, strict=False)) if a != b), min(len(form), len(data))
            )
            self.fault(what, where, f"its JSON is not in the one form, from byte {at}")
        return value if isinstance(value, dict) else {}

    def differs(self, expected: Any, found: Any, what: Kind, where: str) -> None:
        """Tell every field in which two JSON values differ, by its path."""
        for path, want, have in differences(expected, found):
            self.fault(what, where, f"field {path or '(whole)'}: expected {_short(want)}, found {_short(have)}")

    # --- notes --------------------------------------------------------------------------------------------------------

    def note(self, name: str, commit: str) -> bytes | None:
        """The note of a commit under refs/notes/pantheon/NAME; None when there is none, or none that can be read."""
        found = self.notes(name).get(commit)
        self.noted.add((name, commit))
        if found is None:
            return None
        try:
            return self.store.read(found[1], "blob", f"{NOTES}{name} {found[0]}")
        except Unreadable:
            return None

    def notes(self, name: str) -> dict[str, tuple[str, str]]:
        """commit -> (path, blob) of a notes ref as it is now."""
        if name not in self._notes:
            self._notes[name] = {}
            ref = NOTES + name
            if ref in self.refs:
                try:
                    tip = self.noting(self.refs[ref], ref)
                    self._notes[name] = self.listed(tip.tree, ref)
                except Unreadable:
                    pass
        return self._notes[name]

    def listed(self, tree: str, ref: str) -> dict[str, tuple[str, str]]:
        """commit -> (path, blob) of a tree of notes."""
        found: dict[str, tuple[str, str]] = {}
        for number, (path, blob) in enumerate(self._leaves(tree, "", ref)):
            commit = path.replace("/", "")
            if number >= MANY:
                self.fault("note", ref, f"it lists more than {MANY} notes")
                break
            if not _HEX.fullmatch(commit):
                self.fault("note", f"{ref} {path}", "its path is not the id of a commit")
            elif commit in found:
                self.fault("note", f"{ref} {path}", f"a second note of one commit, beside {found[commit][0]}")
            else:
                found[commit] = (path, blob)
        return found

    def _leaves(self, tree: str, above: str, ref: str) -> Iterator[tuple[str, str]]:
        try:
            items = self.store.tree(tree, f"{ref} {above}")
        except Unreadable:
            return
        for name, (mode, oid) in items.items():
            path = above + name.decode("utf-8", "backslashreplace")
            if mode == TREE_MODE and len(path) < 60:
                yield from self._leaves(oid, path + "/", ref)
            elif mode == 0o100644:
                yield path, oid
            else:
                self.fault("note", f"{ref} {path}", f"it has mode {mode:o}, a note has 100644")

    def noting(self, oid: str, ref: str) -> Commit:
        """A commit of a notes ref: the bot's, or the one that git itself makes when a person rebases what they accepted
        (`notes.rewriteRef`). Such a one may only copy notes to the rewritten commits, where they prove nothing."""
        commit = self.store.commit(oid, ref)
        if commit.committer == BOT or oid in self._signed:
            return self.signed(oid, ref)
        if oid not in self._copied:
            copied = self._copied[oid] = self._copies(commit, ref)
            if copied:
                self.noted |= {(ref.removeprefix(NOTES), one) for one in copied}
                many = f"{len(copied)} notes of {ref}"
                self.said.append(f"{many} were copied by git to commits that you rewrote ({oid[:12]}): no proof there")
        return self.signed(oid, ref) if self._copied[oid] is None else commit

    def _copies(self, commit: Commit, ref: str) -> tuple[str, ...] | None:
        """The commits that got copies of notes from this one, if any; None when it did anything else."""
        if len(commit.parents) != 1:
            return None
        before = self.listed(self.store.commit(commit.parents[0], ref).tree, ref)
        after = self.listed(commit.tree, ref)
        if before.keys() - after.keys():
            return None
        changed = sorted(one for one, (_, blob) in after.items() if before.get(one, ("", ""))[1] != blob)
        for one in changed:
            blob, had = after[one][1], self._hashed(before[one][1], ref) if one in before else frozenset()
            new = self._hashed(blob, ref) - had
            same = {other: at for other, at in before.items() if at[1] == blob} or before  # most are copied as they are
            if not had <= self._hashed(blob, ref):
                return None
            if new and not self.kinship.may_carry(one, new, {at: self._hashed(b, ref) for at, (_, b) in same.items()}):
                return None
        return tuple(changed)

    def _hashed(self, blob: str, ref: str) -> frozenset[int]:
        """The lines of a note, told apart by their hashes."""
        if blob not in self._line_hashes:
            self._line_hashes[blob] = frozenset()
            with suppress(Unreadable):
                data = self.store.read(blob, "blob", f"a note of {ref}")
                self._line_hashes[blob] = frozenset(hash(line) for line in data.split(b"\n") if line)
        return self._line_hashes[blob]

    def strangers(self, name: str) -> list[str]:
        """The commits that have a note and that nothing led to, but for those that carry, rewritten by their user, what
        the others are about: these are told."""
        ref = NOTES + name
        notes = {one: blob for one, (_, blob) in self.notes(name).items()}
        left = [one for one in notes if (name, one) not in self.noted and one not in self.bare]
        if not left:
            return []
        known = {one: self._hashed(blob, ref) for one, blob in notes.items() if (name, one) in self.noted}
        carried = {one for one in left if self.kinship.may_carry(one, self._hashed(notes[one], ref), known)}
        self.noted |= {(name, one) for one in carried}
        if carried:
            self.said.append(f"{len(carried)} notes of {ref} are on commits that you rewrote: no proof there")
        return [one for one in left if one not in carried]

    def grown(self, name: str, until: str | None, joined: Callable[[Commit], None]) -> None:
        """Walk a notes ref back (to `until`, not included): each commit signed; of append-only notes no line lost.
        `joined` gets the commits that merge what two clones wrote."""
        ref = NOTES + name
        line = self.line(ref)
        recent = line[: line.index(until)] if until in line else line
        for oid in (*recent, *self.strands(ref)):
            self.step(f"{ref} {oid[:12]}")
            if self._copied.get(oid) is not None:
                continue  # git may have moved every note of the tree: it was looked at as a whole
            try:
                commit = self.store.commit(oid, ref)
                if merges(commit):
                    joined(commit)
                    continue
                old = self.store.commit(commit.parents[0], ref).tree if commit.parents else None
                self._compare(old, commit.tree, "", f"{ref} in {oid}", name != "summary")
            except Unreadable:
                continue

    def _compare(self, old: str | None, new: str, above: str, where: str, append: bool) -> None:
        before = self.store.tree(old, where) if old else {}
        after = self.store.tree(new, where)
        for key in sorted(before.keys() | after.keys()):
            was, now = before.get(key), after.get(key)
            path = above + key.decode("utf-8", "backslashreplace")
            if was == now:
                continue
            if now is None:
                self._check_removed(was or (0, ""), path, where)
            elif now[0] == TREE_MODE and len(path) < 60:
                self._compare(was[1] if was and was[0] == TREE_MODE else None, now[1], path + "/", where, append)
            elif now[0] != TREE_MODE:
                text = self.store.read(now[1], "blob", f"{where} {path}")
                had = self.store.read(was[1], "blob", f"{where} {path}") if was and was[0] != TREE_MODE else b""
                if append and not text.startswith(had):
                    self.fault("note", f"{where} {path}", "lines were changed or taken away; it may only grow")

    def _check_removed(self, was: tuple[int, str], path: str, where: str) -> None:
        """Only the notes of collected runs may go, and never what a person said."""
        lost = [path] if was[0] != TREE_MODE else [at for at, _ in self._leaves(was[1], path + "/", where)]
        for one in lost:
            if where.startswith(f"{NOTES}decisions ") or one.replace("/", "") not in self.bare:
                self.fault("note", f"{where} {one}", "the note was removed")


def merges(commit: Commit) -> bool:
    """Whether a commit says that it brings together what two clones wrote."""
    return commit.message.startswith("merge: ") and len(commit.parents) == 2


def parse_json(data: bytes) -> Any:
    """The value of JSON text; bytes of a path that are not UTF-8 come back as they went in. ValueError when it is not
    JSON, or nested deeper than any record of ours."""
    try:
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    except RecursionError as error:
        raise ValueError(f"nested deeper than {DEEP}") from error
    level = [value]
    for _ in range(DEEP):
        level = [
            v for one in level if isinstance(one, dict | list) for v in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return value
    raise ValueError(f"nested deeper than {DEEP}")


def differences(expected: Any, found: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, expected, found) of every leaf that differs."""
    if expected == found and type(expected) is type(found):
        return
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys(), key=str):
            below = f"{path}.{key}" if path else str(key)
            yield from differences(expected.get(key, _NOTHING), found.get(key, _NOTHING), below)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, two) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, two, f"{path}[{number}]")
    elif type(expected) is not type(found) or expected != found:
        yield path, expected, found


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, _Nothing) else json.dumps(value, sort_keys=True, ensure_ascii=True)
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)} characters)"


def file_form(text: str) -> bytes:
    """Indented JSON as a stored file has it: what is no UTF-8 stands there as the escape that JSON has for it."""
    return (text + "\n").encode("utf-8", "backslashreplace")


def lines_of(data: bytes) -> Sequence[str]:
    """The lines of a note or a JSON Lines file, kept as they are."""
    return [line for line in data.decode("utf-8", "surrogateescape").split("\n") if line]
