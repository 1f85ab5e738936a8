"""The door to git: objects, refs, notes, worktrees and the few git children.

Owns every use of pygit2, which writes (reader.py is the door of `verify`, all dulwich). Objects and refs are handled
through the common git dir opened as bare, so that no attribute file, filter, hook or index of a worktree has a say.
Refs are moved by compare-and-swap and only in our namespaces. The user's branch, index and worktree are touched by
usergit.py alone.
It decides nothing: what to build, when to move a ref and what to merge is told to it.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal, TypeVar

import pygit2
from pygit2.enums import DeltaStatus, ObjectType, ReferenceType, RepositoryOpenFlag

from pantheon import children, disk, faults, trees, turns, worktrees
from pantheon.errors import DiskFull, MergeConflict, RefMoved, RepositoryError, is_full
from pantheon.names import valid_name
from pantheon.records import Record
from pantheon.signing import Signer
from pantheon.trees import (
    DIRECTORY,
    Items,
    diff_trees,
    edit_tree,
    find_note,
    judge_merge,
    merge_apart,
    parse_tree,
    render_tree,
)

__all__ = ["CommitInfo", "Diff", "Entry", "FileChange", "Head", "Repo", "Signer", "valid_name"]

NAME, EMAIL = "Pantheon", "pantheon@localhost"
NAMESPACES = ("refs/pantheon/", "refs/notes/pantheon/", "refs/heads/pantheon/")
T = TypeVar("T")
BUSY_S = 2.0  # how long a lock of somebody else's git is waited for
STALE_S = 1.0  # a lock that a dead process of ours may have left is removed at this age
TURN_S = 600.0  # for the ref or note that somebody else of ours is writing
_FLUSHED = disk.Flushed()
_SYNCED = threading.Lock()  # the setting is the whole library's
_BUSY = re.compile(  # another git has the ref, or pack-refs just removed its directory: before we look, or after
    r"failed to lock file|failed to make directory|failed to create locked file .*(File exists|No such file)", re.DOTALL
)


class Entry(Record):
    path: str
    mode: int
    oid: str


class FileChange(Record):
    path: str
    old_path: str | None
    status: Literal["added", "deleted", "modified", "renamed", "typechange"]
    added: int
    deleted: int
    mode: int  # the new mode; of a deleted file the old one


class Diff(Record):
    patch: bytes
    files: tuple[FileChange, ...]
    added: int
    deleted: int


class Head(Record):
    commit: str
    branch: str | None  # None when detached


class CommitInfo(Record):
    oid: str
    tree: str
    parents: tuple[str, ...]
    message: str
    when: datetime  # of the committer
    author: str  # Name <email>


@contextmanager
def _door(what: str, thing: str = "", hint: str = "", place: Path | None = None) -> Iterator[None]:
    """Make the errors of pygit2 ours. KeyError: no such object; ValueError: a bad name, id or text. `place`: where it
    writes; on a full disk libgit2 says of what it could not write that it cannot find it."""
    try:
        yield
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        why = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if is_full(error) or (place is not None and disk.is_full(place)):
            raise DiskFull(what, thing, f"no space left on the disk ({why})", "free some disk space") from error
        locked = place is not None and ("Read-only file system" in why or "Permission denied" in why)
        raise RepositoryError(what, thing, why, f"findmnt -T {place}" if locked else hint) from error


def _aware(seconds: int, offset: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone(timedelta(minutes=offset)))


def _signature(when: datetime) -> pygit2.Signature:
    offset = when.utcoffset()
    if offset is None:
        raise ValueError("a commit's time must be timezone-aware")
    return pygit2.Signature(NAME, EMAIL, int(when.timestamp()), int(offset.total_seconds() // 60), "utf-8")


class Repo:
    """One repository, seen from one of its worktrees. `root` is that worktree, `common_dir` the main git dir."""

    def __init__(self, root: Path, git_dir: Path, common_dir: Path) -> None:
        """Use `discover`: it refuses what cannot be worked on."""
        self.root, self.git_dir, self.common_dir = root, git_dir, common_dir
        self._work = pygit2.Repository(str(git_dir))  # HEAD and revisions, as seen from this worktree
        self._repo = pygit2.Repository(str(common_dir), RepositoryOpenFlag.BARE)
        self._repo.set_ident(NAME, EMAIL)  # of reflog lines
        self.memory: dict[str, Record] = {}  # commit -> the record in it, for who reads many again: it never changes

    @classmethod
    def discover(cls, path: Path) -> Repo:
        """The repository that `path` lies in. RepositoryError says what kind of repository is refused and why."""
        with _door("cannot open the repository", str(path), "git config --global --add safe.directory <path>"):
            found = pygit2.discover_repository(str(path))
            if found is None:
                raise RepositoryError("not a git repository", str(path), "", "git init")
            git_dir = Path(found)
            pointer = git_dir / "commondir"
            common_dir = git_dir
            if pointer.is_file():
                common_dir = (git_dir / os.fsdecode(pointer.read_bytes().rstrip(b"\n"))).resolve()
            _refuse_formats(common_dir)
            opened = pygit2.Repository(found)
            if opened.is_bare or opened.workdir is None:
                raise RepositoryError(
                    "cannot work in a bare repository", str(git_dir), "pantheon needs a worktree", "git clone <it>"
                )
            return cls(Path(opened.workdir), git_dir, common_dir)

    def afresh(self) -> Repo:
        """The same repository, past what this one remembers of its objects."""
        return Repo(self.root, self.git_dir, self.common_dir)

    # --- reading ------------------------------------------------------------------------------------------------------

    def head(self, branch: str | None = None) -> Head:
        """What is checked out; given `branch`, that branch with its tip, whatever is."""
        if branch is not None:
            return self._tip(branch)
        with _door("cannot read HEAD", str(self.root), "git status"):
            if self._work.head_is_unborn:
                raise RepositoryError("no commit yet", str(self.root), "HEAD is unborn", "git commit")
            head = self._work.head
            branch = None if self._work.head_is_detached else os.fsdecode(head.raw_name).removeprefix("refs/heads/")
            return Head(commit=str(head.peel(pygit2.Commit).id), branch=branch)

    def _tip(self, branch: str) -> Head:
        name = f"refs/heads/{branch}"
        held = self.ref(name) if pygit2.reference_is_valid_name(name) else None
        if held is None or name.startswith(NAMESPACES):
            why = "there is none of that name" if held is None else "that is a review branch of ours"
            raise RepositoryError("cannot use the branch", branch, why, "git branch --list")
        return Head(commit=self.resolve(held), branch=branch)

    def resolve(self, rev: str) -> str:
        """The commit that a revision means. RepositoryError when there is none."""
        with _door("unknown revision", rev, "git log --oneline --all"):
            return str(self._work.revparse_single(rev).peel(pygit2.Commit).id)

    def tree_of(self, commit: str) -> str:
        """The tree of a commit (or the tree itself)."""
        with _door("cannot read a tree", commit, "git fsck"):
            return str(self._tree(commit).id)

    def _tree(self, treeish: str) -> pygit2.Tree:
        return self._repo[pygit2.Oid(hex=treeish)].peel(pygit2.Tree)

    def _items(self, tree: str) -> Items:
        with _door("cannot read a tree", tree, "git fsck"):
            kind, raw = self._repo.read(pygit2.Oid(hex=tree))
            if kind != ObjectType.TREE:
                raise ValueError("not a tree")
            return parse_tree(raw)

    def entries(self, treeish: str) -> dict[str, Entry]:
        """Everything in a tree that is not a directory, by path, in git's order: files, symlinks and gitlinks."""
        found: dict[str, Entry] = {}
        waiting: list[tuple[bytes, int, str]] = [(b"", DIRECTORY, self.tree_of(treeish))]
        while waiting:
            path, mode, oid = waiting.pop()
            if mode == DIRECTORY:
                below = path + b"/" if path else b""
                waiting += [(below + name, *item) for name, item in reversed(self._items(oid).items())]
            else:
                text = os.fsdecode(path)
                found[text] = Entry(path=text, mode=mode, oid=oid)
        return found

    def read_blob(self, oid: str) -> bytes:
        with _door("cannot read a blob", oid, "git fsck"):
            kind, data = self._repo.read(pygit2.Oid(hex=oid))
            if kind != ObjectType.BLOB:
                raise ValueError("not a blob")
            return data

    def blob_size(self, oid: str) -> int:
        """The size in bytes, without reading the content."""
        with _door("cannot read a blob", oid, "git fsck"):
            kind, size = self._repo.odb.read_header(pygit2.Oid(hex=oid))
            if kind != ObjectType.BLOB:
                raise ValueError("not a blob")
            return int(size)

    def read_path(self, treeish: str, path: str) -> bytes | None:
        """The content of the regular file at `path`; None when there is none (a symlink is none)."""
        mode, oid = DIRECTORY, self.tree_of(treeish)
        for part in os.fsencode(path).split(b"/"):
            if mode != DIRECTORY:
                return None
            item = self._items(oid).get(part)
            if item is None:
                return None
            mode, oid = item
        return self.read_blob(oid) if stat.S_IFMT(mode) == stat.S_IFREG else None

    def commit_info(self, oid: str) -> CommitInfo:
        with _door("cannot read a commit", oid, "git fsck"):
            return self._info(self._repo[pygit2.Oid(hex=oid)].peel(pygit2.Commit))

    def _info(self, commit: pygit2.Commit) -> CommitInfo:
        author = commit.author
        return CommitInfo(
            oid=str(commit.id),
            tree=str(commit.tree_id),
            parents=tuple(str(parent) for parent in commit.parent_ids),
            message=commit.raw_message.decode("utf-8", "replace"),
            when=_aware(commit.commit_time, commit.commit_time_offset),
            author=f"{author.raw_name.decode('utf-8', 'replace')} <{author.raw_email.decode('utf-8', 'replace')}>",
        )

    def history(self, ref_or_oid: str, limit: int) -> list[tuple[str, datetime, str]]:
        """(oid, time, message) along first parents, newest first, at most `limit`."""
        lines: list[tuple[str, datetime, str]] = []
        step: str | None = self.ref(ref_or_oid) if ref_or_oid.startswith("refs/") else self.resolve(ref_or_oid)
        while step is not None and len(lines) < limit:
            info = self.commit_info(step)
            lines.append((info.oid, info.when, info.message))
            step = info.parents[0] if info.parents else None
        return lines

    def trailers(self, key: str, tip: str, excluded: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        """(commit, values) of the commits with this trailer that `tip` reaches and `excluded` (revisions or options of
        `git log` that name such) do not, newest first."""
        pretty = f"--format=%H %(trailers:key={key},valueonly,separator=%x20)"
        log = children.quiet(self.root, "log", pretty, f"--grep=^{key}:", tip, "--not", *excluded, "--")
        lines = (os.fsdecode(line).split() for line in log.stdout.splitlines())
        return [(words[0], tuple(words[1:])) for words in lines if len(words) > 1]

    def knows(self, oid: str) -> bool:
        """Whether this object is here."""
        with _door("cannot look for an object", oid):
            return pygit2.Oid(hex=oid) in self._repo

    def first_commit_dates(self, commit: str) -> dict[str, datetime]:
        """path -> author date of the oldest commit that added it, for every path ever added before `commit`."""
        return children.first_dates(self.root, self.resolve(commit))

    # --- writing objects ----------------------------------------------------------------------------------------------

    def write_blob(self, data: bytes) -> str:
        with _door("cannot write a blob", place=self.common_dir):
            oid = str(self._again(lambda: self._repo.create_blob(data)))
        faults.point("blob")
        return oid

    def write_tree(self, base_tree: str | None, changes: Mapping[str, tuple[int, str] | None]) -> str:
        """`base_tree` with paths set to (mode, blob) or deleted (None), by the rules of `trees.edit_tree`."""
        for change in changes.values():
            if change is not None:
                self.blob_size(change[1])  # refuses what is no blob of this repository
        return edit_tree(base_tree, changes, self._items, self._write_items)

    def _write_items(self, items: Items) -> str:
        with _door("cannot write a tree", place=self.common_dir):
            data = render_tree(items)
            oid = str(self._again(lambda: self._repo.write(ObjectType.TREE, data)))
        faults.point("tree")
        return oid

    def _again(self, write: Callable[[], T]) -> T:
        """Write an object, once more where a prune took its directory away in between. It is on the disk before a ref
        is moved."""
        until = time.monotonic() + BUSY_S
        while True:
            try:
                written = write()
                _FLUSHED.soil(self.common_dir)
                return written
            except (pygit2.GitError, OSError) as error:
                if "No such file or directory" not in str(error) or time.monotonic() > until:
                    raise

    def commit(
        self, tree: str, parents: Sequence[str], message: str, when: datetime, signer: Signer | None = None
    ) -> str:
        """A commit object by Pantheon, signed when a signer is given. No ref is moved."""
        with _door("cannot write a commit", tree, place=self.common_dir):
            if "\0" in message:
                raise ValueError("the message holds a NUL")
            identity = _signature(when)
            oids: list[str | pygit2.Oid] = [pygit2.Oid(hex=parent) for parent in parents]
            text = self._repo.create_commit_string(
                identity, identity, message.rstrip("\n") + "\n", pygit2.Oid(hex=tree), oids
            )
            content = str(text)  # the stub says Oid; it is the commit's text
            if signer is None:
                oid = self._again(lambda: self._repo.write(ObjectType.COMMIT, content.encode("utf-8")))
            else:
                signature = signer.sign(content.encode("utf-8"))
                oid = self._again(lambda: self._repo.create_commit_with_signature(content, signature))
        faults.point("commit")
        return str(oid)

    def merge_trees(self, base: str, ours: str, theirs: str) -> str:
        """Three-way merge of trees (or commits' trees) in memory. MergeConflict names the paths; RepositoryError: the
        sides together make a name or a directory that neither may make."""
        sides = self.tree_of(base), self.tree_of(ours), self.tree_of(theirs)
        merged = merge_apart(*sides, self._items, self._write_items) or self._merged(*sides)
        judge_merge(sides[1], merged, self._items)
        return merged

    def _merged(self, base: str, ours: str, theirs: str) -> str:
        """The same by libgit2, which reads every path of the trees."""
        with _door("cannot merge trees", f"{ours} and {theirs}", place=self.common_dir):
            index = self._repo.merge_trees(self._tree(base), self._tree(ours), self._tree(theirs))
            if index.conflicts is not None:
                sides = [side for conflict in index.conflicts for side in conflict if side is not None]
                raise MergeConflict("cannot merge", tuple(sorted({side.path for side in sides})))
            return str(self._again(lambda: index.write_tree(self._repo)))

    def diff(self, old_tree: str, new_tree: str) -> Diff:
        """Tree against tree, renames found; the patch is raw bytes (no filter, no text conversion) and applies."""
        with _door("cannot compare trees", f"{old_tree} and {new_tree}", "git fsck"):
            patches = diff_trees(self.tree_of(old_tree), self.tree_of(new_tree), self._items, self._repo)
            files = tuple(_change(patch) for patch in patches)
            return Diff(
                patch=b"".join(patch.data for patch in patches),
                files=files,
                added=sum(change.added for change in files),
                deleted=sum(change.deleted for change in files),
            )

    def changed(self, old: str, new: str) -> dict[str, tuple[str | None, str | None]]:
        """Path -> the blob before and after, of everything that differs between two trees; renames are not looked for,
        and only directories that differ are read."""
        found = trees.changed_paths(self.tree_of(old), self.tree_of(new), self._items)
        return {os.fsdecode(path): (old and old[1], new and new[1]) for path, old, new in found}

    # --- refs ---------------------------------------------------------------------------------------------------------

    def refs(self, prefix: str) -> dict[str, str]:
        """Refs whose name starts with `prefix`, sorted; symbolic refs are left out."""
        wanted = os.fsencode(prefix)
        with _door("cannot list refs", prefix, "git fsck"):
            found = {
                os.fsdecode(ref.raw_name): str(ref.target)
                for ref in self._repo.references.iterator()
                if ref.raw_name.startswith(wanted) and ref.type == ReferenceType.DIRECT
            }
            return dict(sorted(found.items()))

    def ref(self, name: str) -> str | None:
        """What a ref holds now; None when it does not exist."""
        with _door("cannot read a ref", name, "git fsck"):
            found = self._repo.references.get(name)
            return None if found is None else str(found.resolve().target)

    def move_ref(self, name: str, new: str | None, expected: str | None, message: str) -> None:
        """Compare-and-swap: `expected` None means the ref must not exist, `new` None deletes it.

        Only in our namespaces, and never a branch that is checked out. Our moves take turns under a flock whose file
        names the ref while it moves; finding a name there means that its holder died, and the `.lock` files it may
        have left are removed once they are older than STALE_S. RefMoved when the ref does not hold `expected`.
        """
        if not name.startswith(NAMESPACES):
            raise RepositoryError("will not move a ref that is not ours", name, f"only {', '.join(NAMESPACES)}")
        hint = f"if no git runs: rm '{self.common_dir / name}.lock'"
        turn = self.common_dir / "pantheon" / "refs.lock"
        with (
            _door("cannot move a ref", name, hint, self.common_dir),
            turns.hold(turn, "cannot move a ref", TURN_S) as intent,
        ):
            self._recover(intent)
            _FLUSHED.flush(self.common_dir)
            if name.startswith("refs/heads/") and (place := self.checked_out(name)):
                raise RepositoryError("will not move a branch that is checked out", name, place, "git switch -")
            os.pwrite(intent, name.encode("utf-8"), 0)
            faults.point("ref locked")
            try:
                self._swapped(name, new, expected, message)
                faults.point("ref moved")
            finally:
                os.ftruncate(intent, 0)
        faults.point("ref left")

    def _swapped(self, name: str, new: str | None, expected: str | None, message: str) -> None:
        """`_swap`, tried again for BUSY_S while a git of somebody else's holds the lock: pack-refs, gc and fetch do."""
        until = time.monotonic() + BUSY_S
        while True:
            try:
                with _SYNCED:
                    pygit2.settings.enable_fsync_gitdir(True)
                    try:
                        return self._swap(name, new, expected, message)
                    finally:
                        pygit2.settings.enable_fsync_gitdir(False)
            except (pygit2.GitError, OSError) as error:
                if not _BUSY.search(str(error)) or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _swap(self, name: str, new: str | None, expected: str | None, message: str) -> None:
        current = self._repo.references.get(name)
        held = None if current is None else str(current.target)
        if held != expected:
            raise RefMoved("a ref has moved", name, f"it holds {held}, not {expected}", "run it again")
        target = None if new is None else pygit2.Oid(hex=new)
        if target is not None and target not in self._repo:
            raise ValueError(f"no object {new}")
        try:
            if current is None and target is not None:
                self._repo.create_reference_direct(name, target, False, message=message)
            elif current is not None and target is not None:
                current.set_target(target, message)
            elif current is not None:
                current.delete()
        except pygit2.AlreadyExistsError as error:
            raise RefMoved("a ref has moved", name, "it was created meanwhile", "run it again") from error
        except pygit2.GitError as error:
            if "old reference value does not match" not in str(error):
                raise
            raise RefMoved("a ref has moved", name, f"it no longer holds {expected}", "run it again") from error

    def delete_refs(self, names: Mapping[str, str]) -> None:
        """Delete many refs, name -> what it holds, all of them or none. Raises RefMoved when one holds another value:
        git does it, which rewrites packed-refs once; no branch among them, nor a ref that is not ours."""
        if strangers := [name for name in names if not name.startswith(NAMESPACES) or name.startswith("refs/heads/")]:
            raise RepositoryError("will not delete a ref that is not ours", strangers[0])
        turn = self.common_dir / "pantheon" / "refs.lock"
        with (
            _door("cannot delete refs", f"{len(names)} of them"),
            turns.hold(turn, "cannot delete refs", TURN_S) as intent,
        ):
            self._recover(intent)
            os.pwrite(intent, "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"), 0)
            faults.point("refs listed")
            try:
                wanted = b"".join(b"delete %s\0%s\0" % (os.fsencode(n), oid.encode()) for n, oid in names.items())
                done = children.quiet(self.common_dir, "update-ref", "--stdin", "-z", check=False, stdin=wanted)
            finally:
                os.ftruncate(intent, 0)
            if done.returncode != 0:
                why = os.fsdecode(done.stderr).strip()
                raise RefMoved("cannot delete refs", f"{len(names)} of them", why, "run it again")

    def recover(self) -> None:
        """Remove the `.lock` files that a killed process of ours left; our next move would, if there were one."""
        with (
            _door("cannot look for locks", str(self.common_dir)),
            turns.hold(self.common_dir / "pantheon" / "refs.lock", "cannot look at locks", TURN_S) as it,
        ):
            self._recover(it)

    def _recover(self, intent: int) -> None:
        """Remove what a process of ours left when it was killed in the middle of a move (we hold the flock)."""
        size = os.fstat(intent).st_size
        left = os.pread(intent, size, 0).decode("utf-8", "replace").splitlines()
        names = [name for name in left if name.startswith(NAMESPACES) and ".." not in name]
        locks = [self.common_dir / f"{name}.lock" for name in names] + [self.common_dir / "packed-refs.lock"]
        disk.clear_locks(locks if names else [], STALE_S)
        os.ftruncate(intent, 0)

    def checked_out(self, name: str) -> str:
        """Where a branch is checked out; "" when nowhere."""
        heads = [self.common_dir / "HEAD", *(self.common_dir / "worktrees").glob("*/HEAD")]
        line = b"ref: " + os.fsencode(name)
        for head in heads:
            with suppress(OSError):
                if head.read_bytes().strip() == line:
                    return f"by {head.parent}"
        return ""

    # --- notes --------------------------------------------------------------------------------------------------------

    def append_notes(
        self,
        ref: str,
        lines: Mapping[str, Sequence[str]],
        message: str,
        when: datetime,
        signer: Signer | None = None,
    ) -> str:
        """Add lines to the notes of commits, those already there left out, in one notes commit; the ref's new value.

        Nothing is written when every line is there. Writers take turns under a lock; a foreign writer costs a retry.
        """

        def grown(commit: str, old: bytes) -> bytes:
            have = old.splitlines()
            new = [line for line in dict.fromkeys(os.fsencode(text) for text in lines[commit]) if line not in have]
            text = old if not old or old.endswith(b"\n") else old + b"\n"
            return text + b"".join(line + b"\n" for line in new) if new else old

        return self._rewrite_notes(ref, list(lines), grown, message, when, signer)

    def set_notes(
        self, ref: str, texts: Mapping[str, bytes], message: str, when: datetime, signer: Signer | None = None
    ) -> str:
        """Replace the notes of commits, in one notes commit; the ref's new value."""
        return self._rewrite_notes(ref, list(texts), lambda commit, old: texts[commit], message, when, signer)

    def remove_notes(
        self, ref: str, commits: Sequence[str], message: str, when: datetime, signer: Signer | None = None
    ) -> str:
        """Take away the notes of commits, in one notes commit; the ref's new value. What they said stays in the ref's
        history."""
        return self._rewrite_notes(ref, commits, lambda commit, old: b"", message, when, signer)

    def _rewrite_notes(
        self,
        ref: str,
        commits: Sequence[str],
        edit: Callable[[str, bytes], bytes],
        message: str,
        when: datetime,
        signer: Signer | None,
    ) -> str:
        for _ in range(20):
            with (
                _door("cannot write notes", ref, place=self.common_dir),
                turns.hold(self.common_dir / "pantheon" / "notes.lock", "cannot write notes", TURN_S),
            ):
                faults.point("notes locked")
                tip = self.ref(ref)
                tree = None if tip is None else self.tree_of(tip)
                changes: dict[str, tuple[int, str] | None] = {}
                for commit in commits:
                    found, slot = find_note(tree, commit, self._items)
                    old = b"".join(self.read_blob(oid) for _, oid in found)
                    new = edit(commit, old)
                    if new != old or len(found) > 1:
                        changes |= {path: None for path, _ in found}
                        changes |= {slot: (0o100644, self.write_blob(new))} if new else {}
                if not changes:
                    return tip or ""
                parents = [tip] if tip else []
                new_tip = self.commit(self.write_tree(tree, changes), parents, message, when, signer)
                try:
                    self.move_ref(ref, new_tip, tip, message)
                except RefMoved:
                    continue
                return new_tip
        raise RefMoved("cannot write notes", ref, "another program keeps moving the ref", "run it again")

    def read_note(self, ref: str, commit: str) -> bytes | None:
        tip = self.ref(ref)
        found = [] if tip is None else find_note(self.tree_of(tip), commit, self._items)[0]
        return b"".join(self.read_blob(oid) for _, oid in found) if found else None

    # --- worktrees and exports ----------------------------------------------------------------------------------------

    def add_worktree(self, path: Path, commit: str, name: str) -> None:
        """A real linked worktree at `commit`, detached, nothing checked out. `name` is that of its admin directory."""
        oid = self.commit_info(commit).oid
        faults.point("worktree to add")
        worktrees.add(self.common_dir, path, oid, name)
        faults.point("worktree added")

    def remove_worktree(self, path: Path, name: str) -> None:
        """Remove it, also when half-made or hostile; git is never run inside."""
        faults.point("worktree to remove")
        worktrees.remove(self.common_dir, path, name)
        faults.point("worktree removed")

    def export(self, treeish: str, target: Path, store: Path) -> tuple[str, ...]:
        """Regular files of a tree below the new directory `target`; the paths left out (links, unsafe names)."""
        files = ((entry.path, entry.mode, entry.oid) for entry in self.entries(treeish).values())
        left_out = worktrees.export(files, self.read_blob, target, store)
        faults.point("exported")
        return left_out

    # --- git children -------------------------------------------------------------------------------------------------

    def dirty_paths(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Which of `paths` differ from HEAD in the index or the worktree, or are there without being tracked."""
        wanted, dirty = list(paths), set()
        for start in range(0, len(wanted), 400):
            some = wanted[start : start + 400]
            done = children.quiet(
                self.root,
                *("--literal-pathspecs", "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all"),
                *("--ignored=traditional", "--ignore-submodules=dirty", "--", *some),
            )
            dirty |= {os.fsdecode(line[3:]) for line in done.stdout.split(b"\0") if line}
        return tuple(sorted({p for p in wanted if p in dirty or any(f"{up}/" in dirty for up in _parents(p))}))

    def staged(self, index_file: Path | None = None) -> dict[str, bytes]:
        """Path and content of what a commit would add or change. `index_file`: the one git named to a hook."""
        with _door("cannot read the index", str(self.root)):
            index = pygit2.Index(str(index_file)) if index_file else self._repo.index
            unborn = self._repo.head_is_unborn
            before = {} if unborn else self.entries(self.head().commit)
            return {
                entry.path: self.read_blob(str(entry.id))
                for entry in index
                if int(entry.mode) in (0o100644, 0o100755)
                and (entry.path not in before or before[entry.path].oid != str(entry.id))
            }

    def user_identity(self) -> str:
        """Name <email> as the user's git would write it; the login where git has none."""
        return children.identity(self.root)

    def fsck(self) -> tuple[str, ...]:
        """What `git fsck --strict` complains about; empty when clean."""
        return children.fsck(self.root)

    def merge_base(self, one: str, two: str) -> str:
        with _door("cannot find a common ancestor", f"{one} and {two}"):
            base = self._repo.merge_base(pygit2.Oid(hex=one), pygit2.Oid(hex=two))
            if base is None:
                raise ValueError("unrelated histories")
            return str(base)


# --- helpers that need no repository ----------------------------------------------------------------------------------


def _refuse_formats(common_dir: Path) -> None:
    """Object formats, ref stores and clones that libgit2 cannot read: said by name."""
    config = pygit2.Config(str(common_dir / "config"))
    values = {item.name.lower(): (item.value or "").lower() for item in config}
    faults = (
        (values.get("extensions.objectformat", "sha1") != "sha1", "its object ids are SHA-256, not SHA-1", "git init"),
        (values.get("extensions.refstorage", "files") != "files", "its refs are in the reftable format", "git init"),
        (
            "extensions.partialclone" in values
            or any(re.fullmatch(r"remote\..*\.promisor", key) and values[key] != "false" for key in values),
            "it is a partial clone: objects may be missing",
            "git clone without --filter",
        ),
    )
    for bad, why, hint in faults:
        if bad:
            raise RepositoryError("cannot work in this repository", str(common_dir), why, hint)


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


_STATUS: dict[int, Literal["added", "deleted", "modified", "renamed", "typechange"]] = {
    DeltaStatus.ADDED: "added",
    DeltaStatus.DELETED: "deleted",
    DeltaStatus.RENAMED: "renamed",
    DeltaStatus.TYPECHANGE: "typechange",
}


def _change(patch: pygit2.Patch) -> FileChange:
    delta = patch.delta
    status = _STATUS.get(delta.status, "modified")
    old, new = os.fsdecode(delta.old_file.raw_path), os.fsdecode(delta.new_file.raw_path)
    _, added, deleted = patch.line_stats
    mode = delta.old_file.mode if status == "deleted" else delta.new_file.mode
    return FileChange(
        path=new,
        old_path=old if status == "renamed" else None,
        status=status,
        added=added,
        deleted=deleted,
        mode=int(mode),
    )
