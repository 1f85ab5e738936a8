"""Git's tree objects as values: parse, render, edit, and find a note in one.

Owns the byte format of a tree and the rules for what may be written into one. It reads and writes objects only through
the functions it is given (`git.py`'s), so nothing here touches a disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping

import pygit2
from pygit2.enums import DiffOption

from pantheon.errors import RepositoryError
from pantheon.names import fold_name, name_fault

DIRECTORY, FILE = 0o040000, 0o100644
MAX_DEPTH = 100  # directories in a path that we write
Items = dict[bytes, tuple[int, str]]  # name -> (mode, oid)
Changed = tuple[bytes, tuple[int, str] | None, tuple[int, str] | None]  # path, old and new entry
_REPOSITORY = frozenset({"head", "objects", "refs"})  # what git takes a directory for a repository by
Change = tuple[int, str] | None  # (mode, blob), or None to delete
_ENTRY = re.compile(rb"([0-7]+) ([^\0]*)\0(.{20})|(.+)", re.DOTALL)  # or all the rest, which is none


def parse_tree(raw: bytes) -> Items:
    """The entries of one tree object as they are; nothing is judged. ValueError when it is cut short."""
    found = _ENTRY.findall(raw)
    if found and found[-1][3]:
        raise ValueError("no tree, or cut short")
    return {name: (int(mode, 8), oid.hex()) for mode, name, oid, _ in found}


def render_tree(items: Mapping[bytes, tuple[int, str]]) -> bytes:
    """Git's order: by bytes, a directory as if its name ended in a slash."""
    ordered = sorted(items.items(), key=lambda item: item[0] + b"/" if item[1][0] == DIRECTORY else item[0])
    return b"".join(b"%o %s\0%s" % (mode, name, bytes.fromhex(oid)) for name, (mode, oid) in ordered)


class _Edit:
    """The changes below one path: `leaf` is what is set there, if anything is; `children` what lies beneath."""

    def __init__(self) -> None:
        self.change: Change = None
        self.is_leaf = False
        self.children: dict[str, _Edit] = {}

    @property
    def deletes(self) -> bool:
        return self.is_leaf and self.change is None

    def sets_anything(self) -> bool:
        return self.change is not None or any(child.sets_anything() for child in self.children.values())


def _edits(changes: Mapping[str, Change]) -> _Edit:
    root = _Edit()
    for path, change in changes.items():
        parts = path.split("/")
        if len(parts) > MAX_DEPTH:
            raise RepositoryError("cannot write a tree", path[:200], f"deeper than {MAX_DEPTH} directories")
        if change is not None and change[0] not in (0o100644, 0o100755):
            raise RepositoryError("cannot write a tree", path, f"mode {change[0]:o} is not that of a regular file")
        node = root
        for part in parts:
            node = node.children.setdefault(part, _Edit())
        node.change, node.is_leaf = change, True
    return root


def edit_tree(
    tree: str | None, changes: Mapping[str, Change], read: Callable[[str], Items], write: Callable[[Items], str]
) -> str:
    """The tree with the changes made; only the directories on the way are read and written.

    Directories that become empty vanish. New names are judged by `name_fault` and must not be one file with a sibling
    where case or Unicode form is ignored. A file never replaces a directory, nor a directory a file, unless the changes
    also delete what is there. Deleting what is not there is no error.
    """

    def apply(oid: str | None, edit: _Edit, where: str) -> str | None:
        items = {} if oid is None else read(oid)
        before = frozenset(items)
        for name, child in edit.children.items():  # deletions first: a file may make room for a directory
            mode = items.get(os.fsencode(name), (0, ""))[0]
            if child.deletes and mode == DIRECTORY:
                raise RepositoryError("cannot delete a file", where + name, "it is a directory")
            if child.deletes:
                items.pop(os.fsencode(name), None)
        for name, child in edit.children.items():
            if child.children:
                descend(items, name, child, where)
        for name, child in edit.children.items():
            if child.change is not None:
                if items.get(os.fsencode(name), (0, ""))[0] == DIRECTORY:
                    raise RepositoryError("cannot write a file", where + name, "a directory is there")
                items[os.fsencode(name)] = child.change
        _refuse_names(items, before, where)
        return write(items) if items else None

    def descend(items: Items, name: str, child: _Edit, where: str) -> None:
        key = os.fsencode(name)
        mode, oid = items.get(key, (0, ""))
        if mode not in (0, DIRECTORY):
            if child.sets_anything() and child.change is None:
                raise RepositoryError("cannot write a tree", where + name, "a file is where a directory is needed")
            return  # only deletions, below a file: nothing is there
        below = apply(oid or None, child, f"{where}{name}/")
        if below is None:
            items.pop(key, None)
        else:
            items[key] = (DIRECTORY, below)

    return apply(tree, _edits(changes), "") or write({})


def _refuse_names(items: Items, before: frozenset[bytes], where: str) -> None:
    """Judge the names that are new in a directory; those that were there may stay. A directory that git would take for
    a repository is refused: its configuration names programs that git runs for whoever enters it."""
    added = items.keys() - before
    if not added:
        return
    folds: dict[str, bytes] = {}
    for key in items:
        name = os.fsdecode(key)
        fault = name_fault(name) if key in added else ""
        other = folds.setdefault(fold_name(name), key)
        if not fault and other != key and (key in added or other in added):
            fault = f"one file with {os.fsdecode(other)!a} where case or Unicode form is ignored"
        if fault:
            raise RepositoryError("will not write this name", ascii(where + name), fault)
    if folds.keys() >= _REPOSITORY and not {fold_name(os.fsdecode(key)) for key in before} >= _REPOSITORY:
        why = "an embedded git repository: it holds HEAD, objects and refs"
        raise RepositoryError("will not write this directory", ascii(where[:-1]), why)


def merge_apart(
    base: str | None, ours: str, theirs: str, read: Callable[[str], Items], write: Callable[[Items], str]
) -> str | None:
    """The three-way merge of trees whose sides changed different paths; None where they did not, or where both took the
    same one away, which a rename may be: that takes a merge that looks into files. Only what differs is read."""
    before = read(base) if base else {}
    mine, other = read(ours), read(theirs)
    merged = dict(mine)
    for name in before.keys() | mine.keys() | other.keys():
        was, here, there = before.get(name), mine.get(name), other.get(name)
        if there == was or (here == there and here is not None):
            continue
        if here == was:
            merged.pop(name, None)
            merged |= {name: there} if there else {}
        elif here and there and here[0] == there[0] == DIRECTORY and (was is None or was[0] == DIRECTORY):
            below = merge_apart(was[1] if was else None, here[1], there[1], read, write)
            if below is None:
                return None
            merged[name] = DIRECTORY, below
        else:
            return None
    return write(merged) if merged else None


def judge_merge(before: str | None, after: str, read: Callable[[str], Items], where: str = "") -> None:
    """The rules for names over what a merge made of a tree: two changes that are sound alone may not be together. Only
    directories that differ are read. Raises RepositoryError."""
    if before == after:
        return
    old, new = read(before) if before else {}, read(after)
    _refuse_names(new, frozenset(old), where)
    for key, (mode, oid) in new.items():
        if mode == DIRECTORY:
            was = old.get(key, (0, ""))
            judge_merge(was[1] if was[0] == DIRECTORY else None, oid, read, f"{where}{os.fsdecode(key)}/")


def find_note(tree: str | None, commit: str, read: Callable[[str], Items]) -> tuple[list[tuple[str, str]], str]:
    """The (path, blob) of a commit's note at any depth of fan-out, and the path where it should be.

    A new note goes as deep as the tree already fans out there, at least one level: libgit2 itself never fans out.
    """
    found: list[tuple[str, str]] = []
    prefix, rest = "", commit
    for items in _levels(tree, commit, read):
        flat = items.get(rest.encode("ascii"))
        if flat is not None and flat[0] != DIRECTORY:
            found.append((prefix + rest, flat[1]))
        if items.get(rest[:2].encode("ascii"), (0, ""))[0] == DIRECTORY:
            prefix, rest = f"{prefix}{rest[:2]}/", rest[2:]
    if found:
        return found, found[-1][0]
    return found, prefix + rest if prefix else f"{commit[:2]}/{commit[2:]}"


def _levels(tree: str | None, commit: str, read: Callable[[str], Items]) -> Iterator[Items]:
    """The directories on the way to a note, the root first."""
    rest = commit
    while tree is not None and rest:
        items = read(tree)
        yield items
        mode, oid = items.get(rest[:2].encode("ascii"), (0, ""))
        tree, rest = (oid, rest[2:]) if mode == DIRECTORY else (None, rest)


def changed_paths(
    old: str | None, new: str | None, read: Callable[[str], Items], where: bytes = b""
) -> Iterator[Changed]:
    """(path, old entry, new entry) of what is not a directory and differs; only what differs is read."""
    before, after = (read(tree) if tree else {} for tree in (old, new))
    for name in sorted(dict(before.items() ^ after.items())):
        sides = [side.get(name) for side in (before, after)]
        folders = [item[1] if item and item[0] == DIRECTORY else None for item in sides]
        files = [item if item and item[0] != DIRECTORY else None for item in sides]
        if any(folders):
            yield from changed_paths(folders[0], folders[1], read, where + name + b"/")
        if any(files):
            yield where + name, files[0], files[1]


def diff_trees(old: str, new: str, read: Callable[[str], Items], repo: pygit2.Repository) -> list[pygit2.Patch]:
    """The patch of every changed path, renames found, as text unless a side holds a NUL.

    Attributes have a say in libgit2's own idea of text: marked `-diff`, a note would change without a line to count or
    to read. So every diff is made twice, and what its bytes say is text is taken from the one where all is text.
    """
    changed = sorted(changed_paths(old, new, read), key=lambda change: change[0])
    rewritten = all(_is_rewritten(change) for change in changed)

    def patches(text: DiffOption) -> list[pygit2.Patch]:
        flags = DiffOption.SHOW_BINARY | DiffOption.INCLUDE_TYPECHANGE | text
        if rewritten:
            return [_rewrite(change, flags, repo) for change in changed]
        return _compare(old, new, flags, repo)

    plain = patches(DiffOption.NORMAL)
    if not any(patch.delta.is_binary for patch in plain):  # nor would the second say anything else
        return plain
    text = patches(DiffOption.FORCE_TEXT)
    return [one if _is_binary(one, repo) else other for one, other in zip(plain, text, strict=True)]


def _is_rewritten(change: Changed) -> bool:
    """Whether a file was and is one, of the usual mode and with a name in UTF-8. Where only such changes are there is
    no rename to find, and libgit2's walk over all directories of both trees is spared."""
    path, old, new = change
    usual = old is not None and new is not None and old[0] == new[0] == FILE
    return usual and path.decode(errors="ignore").encode() == path


def _rewrite(change: Changed, flags: DiffOption, repo: pygit2.Repository) -> pygit2.Patch:
    path, *sides = change
    name = path.decode()
    old, new = (repo[side[1]].peel(pygit2.Blob) for side in sides if side is not None)
    return pygit2.Patch.create_from(old, new, name, name, flags)


def _compare(old: str, new: str, flags: DiffOption, repo: pygit2.Repository) -> list[pygit2.Patch]:
    before, after = (repo[tree].peel(pygit2.Tree) for tree in (old, new))
    diff = before.diff_to_tree(after, flags=flags)
    diff.find_similar()
    return [patch for patch in diff if patch is not None]


def _is_binary(patch: pygit2.Patch, repo: pygit2.Repository) -> bool:
    sides = [side.id for side in (patch.delta.old_file, patch.delta.new_file)]
    return any(b"\0" in repo.read(oid)[1] for oid in sides if oid in repo)
