"""The independent reader of `verify`: objects and refs as they lie on disk, every byte of them checked.

Owns the second use of dulwich and shares no code with what writes. Each object is hashed again and must be the one its
name says, in every copy that is there; a loose file must be the compression that its content gives, bit for bit; packs
and their indexes must match their trailing checksums; a ref is 40 hexadecimal digits and a newline, nothing else.
What is wrong is told to `complain` once; it judges no content and no signature, and writes nothing.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from dulwich.errors import (
    ApplyDeltaError,
    ChecksumMismatch,
    FileFormatException,
    NotGitRepository,
    ObjectFormatException,
)
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID, parse_tree
from dulwich.pack import Pack
from dulwich.refs import DiskRefsContainer, Ref

from pantheon.records import Record

Kind = Literal[
    "object",
    "ref",
    "signature",
    "key",
    "note",
    "artifact",
    "statement",
    "run",
    "night",
    "seal",
    "pr",
    "card",
    "archive",
    "adapter",
]
OURS = ("refs/pantheon/", "refs/notes/pantheon/", "refs/heads/pantheon/")
TREE_MODE = 0o040000
LEVELS = (1, 6, 9, 0, 2, 3, 4, 5, 7, 8)  # of zlib, the usual ones first
SMALL = 8192  # bytes of a loose file
LARGEST = 1 << 29  # bytes of a loose object
ALTERNATES = 16  # object stores, borrowed ones included
MOST = 100_000  # files in a tree of ours
REMEMBERED = 256  # trees: a notes ref has a large one per commit
ODD = 20  # one loose file in so many may be compressed otherwise before we say that zlib is another here
_HEX = re.compile(r"[0-9a-f]{40}", re.ASCII)
_PACKED_HEADER = re.compile(rb"# pack-refs with:( peeled| fully-peeled| sorted)+ ?")
_PACKED_LINE = re.compile(rb"([0-9a-f]{40}) (\S+)|\^[0-9a-f]{40}")
_IDENTITY = re.compile(rb"([^<>\n\0]*) <([^<>\n\0]*)> (0|[1-9][0-9]{0,17}) ([+-][0-9]{4})")
_TYPES = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
DAMAGE = (  # what dulwich and zlib raise on bytes that are not what they should be
    *(ApplyDeltaError, ChecksumMismatch, FileFormatException, NotGitRepository, ObjectFormatException),
    *(zlib.error, struct.error, KeyError, ValueError, IndexError, TypeError, AttributeError, AssertionError),
    *(EOFError, OSError, OverflowError, RecursionError, MemoryError, NotImplementedError),
)


class Fault(Record):
    """One thing that is wrong: what kind, where exactly, and what was expected and found."""

    kind: Kind
    where: str
    why: str


class Unreadable(Exception):
    """An object that cannot be read as what it should be. The fault was told; the caller goes on elsewhere."""


@dataclass(frozen=True)
class Commit:
    """A commit as its bytes say. `payload` is what its signature covers; `signature` the armour with its last newline,
    which libgit2 writes as an empty line of the header, or ""."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: str
    committer: str
    when: int  # seconds, of the committer
    message: str
    signature: str
    payload: bytes


Tree = dict[bytes, tuple[int, str]]


class Store:
    """The object store and the refs of one repository, by its common git dir. Close it."""

    def __init__(self, common_dir: Path, complain: Callable[[Fault], None]) -> None:
        self.path, self.complain = common_dir, complain
        self._stores = [DiskObjectStore(str(common_dir / "objects"))]
        for store in self._stores:  # grows as it goes: an alternate may have alternates
            if len(self._stores) < ALTERNATES:
                self._stores += [one for one in store.alternates if isinstance(one, DiskObjectStore)]
        self.packed: dict[str, str] = {}  # every line of packed-refs, once `refs` was asked
        self._packs: list[Pack] | None = None
        self._sound: dict[str, bool] = {}  # pack file -> its checksum holds
        self._seen: dict[str, str] = {}  # oid -> type, or "" when it cannot be read
        self._trees: dict[str, Tree] = {}
        self._commits: dict[str, Commit] = {}
        self._levels: dict[str, int | None] = {}  # loose object -> the zlib level that gives its file
        self.reads = 0

    def close(self) -> None:
        for store in self._stores:
            store.close()

    @property
    def objects(self) -> int:
        """How many objects were read and hashed."""
        return sum(1 for kind in self._seen.values() if kind)

    # --- objects ------------------------------------------------------------------------------------------------------

    def read(self, oid: str, kind: str, where: str) -> bytes:
        """The content of an object of this type. Raises Unreadable; `where` says in the fault what needed it."""
        known = self._seen.get(oid)
        if known is not None and known != kind:
            if known:
                self.complain(Fault(kind="object", where=oid, why=f"{where}: a {known}, not a {kind}"))
            raise Unreadable(oid)
        found: tuple[str, bytes] | None = None
        for source, copy in self._copies(oid):
            self.reads += 1
            try:
                name, data = copy()
                digest = hashlib.sha1(b"%s %d\0" % (name.encode(), len(data)) + data, usedforsecurity=False).hexdigest()
                if digest != oid:
                    raise ValueError(f"its content is that of {digest}")
                found = found or (name, data)
            except DAMAGE as error:
                if known is None:
                    self._damaged(oid, f"{where}: {source}: {error or type(error).__name__}")
        if found is None:
            if known is None:
                self._seen[oid] = ""
                self._damaged(oid, f"{where}: no sound copy is there")
            raise Unreadable(oid)
        self._seen[oid] = found[0]
        if found[0] != kind:
            self.complain(Fault(kind="object", where=oid, why=f"{where}: a {found[0]}, not a {kind}"))
            raise Unreadable(oid)
        return found[1]

    def has(self, oid: str) -> bool:
        """Whether some copy of an object is here, sound or not."""
        return next(self._copies(oid), None) is not None

    def _damaged(self, oid: str, why: str) -> None:
        self.complain(Fault(kind="object", where=oid, why=why))

    def _copies(self, oid: str) -> Iterator[tuple[str, Callable[[], tuple[str, bytes]]]]:
        """Every copy of an object: where it lies, and how to read it."""
        for store in self._stores:
            path = os.path.join(os.fsdecode(store.path), oid[:2], oid[2:])
            if os.path.isfile(path):
                yield f"loose file {path}", lambda path=path: self._loose(oid, path)  # type: ignore[misc]
        for pack in self._all_packs():
            try:
                here = ObjectID(oid.encode("ascii")) in pack
            except DAMAGE:
                continue  # told when the index was opened
            if here:
                yield f"pack {pack._data_path}", lambda pack=pack: self._packed(oid, pack)  # type: ignore[misc]

    def _loose(self, oid: str, path: str) -> tuple[str, bytes]:
        with open(path, "rb") as file:
            kind, data, level = inflate(file.read())
        self._levels[oid] = level
        return kind, data

    def _packed(self, oid: str, pack: Pack) -> tuple[str, bytes]:
        if not self._checksum(Path(pack._data_path), 20):
            raise ValueError("the pack is damaged")
        number, data = pack.get_raw(ObjectID(oid.encode("ascii")))
        return _TYPES[number], data

    def _all_packs(self) -> list[Pack]:
        if self._packs is None:
            self._packs = []
            for store in self._stores:
                try:
                    packs = list(store.packs)
                except DAMAGE as error:
                    self.complain(
                        Fault(kind="object", where=str(store.pack_dir), why=f"cannot list its packs: {error}")
                    )
                    continue
                self._packs += [pack for pack in packs if self._checksum(Path(pack._idx_path), 20)]
        return self._packs

    def _checksum(self, path: Path, size: int) -> bool:
        """Whether a file ends in the sha1 of what comes before; told once when it does not."""
        if str(path) not in self._sound:
            try:
                with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    found = hashlib.sha1(memoryview(data)[:-size], usedforsecurity=False).digest()
                    sound = found == data[-size:]
            except (OSError, ValueError):
                sound = False
            self._sound[str(path)] = sound
            if not sound:
                self.complain(Fault(kind="object", where=str(path), why="its trailing checksum does not fit its bytes"))
        return self._sound[str(path)]

    def check_derived(self) -> None:
        """The files that git makes from objects and believes: commit graphs, pack indexes of every kind."""
        place = self.path / "objects"
        for pattern in ("info/commit-graph", "info/commit-graphs/*.graph", "pack/multi-pack-index*", "pack/*.rev"):
            for path in sorted(place.glob(pattern)):
                self._checksum(path, 20)

    def odd_files(self) -> tuple[int, int]:
        """Tell of loose files whose compression is not the one that zlib gives here: their content is right, but a byte
        of them was changed. (how many could not be judged, of how many): where many differ, zlib or its level does."""
        levels = Counter(self._levels.values())
        usual = levels.most_common(1)[0][0] if levels else None
        odd = [oid for oid, level in self._levels.items() if level is None or level != usual]
        if not odd:
            return 0, len(self._levels)
        if usual is None or len(odd) * ODD > len(self._levels):
            return len(odd), len(self._levels)
        for oid in odd:
            self._damaged(oid, "its loose file inflates to the right content, but is not the compression of it")
        return 0, len(self._levels)

    # --- trees and commits --------------------------------------------------------------------------------------------

    def tree(self, oid: str, where: str) -> Tree:
        """The entries of one tree, by name."""
        found = self._trees.get(oid)
        if found is None:
            data = self.read(oid, "tree", where)
            try:
                entries = [(name, mode, sha.decode("ascii")) for name, mode, sha in parse_tree(data, 20, strict=True)]
            except DAMAGE as error:
                self._damaged(oid, f"{where}: not a tree: {error}")
                raise Unreadable(oid) from error
            if len({name for name, _, _ in entries}) != len(entries):
                self._damaged(oid, f"{where}: a tree with one name twice")
                raise Unreadable(oid)
            found = {name: (mode, sha) for name, mode, sha in entries}
            if len(self._trees) >= REMEMBERED:
                self._trees.clear()
            self._trees[oid] = found
        return found

    def files(self, oid: str, where: str) -> dict[str, str]:
        """path -> blob of a tree of ours: regular files only, anything else is told."""
        found: dict[str, str] = {}
        waiting = [("", oid)]
        while waiting:
            above, tree = waiting.pop()
            if len(found) + len(waiting) > MOST:
                self._damaged(oid, f"{where}: a tree of more than {MOST} files")
                raise Unreadable(oid)
            for name, (mode, entry) in self.tree(tree, where).items():
                path = above + os.fsdecode(name)
                if mode == TREE_MODE:
                    waiting.append((f"{path}/", entry))
                elif mode == 0o100644:
                    found[path] = entry
                else:
                    self._damaged(tree, f"{where}: {path!a} has mode {mode:o}")
        return dict(sorted(found.items()))

    def commit(self, oid: str, where: str) -> Commit:
        """A commit, its headers in the order that git writes them."""
        if oid not in self._commits:
            data = self.read(oid, "commit", where)
            try:
                self._commits[oid] = parse_commit(oid, data)
            except ValueError as error:
                self._damaged(oid, f"{where}: not a commit as we write one: {error}")
                raise Unreadable(oid) from error
        return self._commits[oid]

    # --- refs ---------------------------------------------------------------------------------------------------------

    def refs(self) -> dict[str, str]:
        """Every ref of Pantheon's with its target, loose before packed; what is not a ref's form is told."""
        self.packed = self._packed_refs()
        found = {name: oid for name, oid in self.packed.items() if name.startswith(OURS)}
        container = DiskRefsContainer(str(self.path))
        for prefix in OURS:
            for path in sorted((self.path / prefix).rglob("*")):
                name = os.fsdecode(path.relative_to(self.path))
                if path.is_dir() or name.endswith(".lock"):
                    continue
                value = self._loose_ref(container, name, path)
                if value is None:
                    found.pop(name, None)
                else:
                    if name in found and found[name] != value:  # a packed line that no longer counts is ours as well
                        self.require(found[name], f"{name} in packed-refs")
                    found[name] = value
        return dict(sorted(found.items()))

    def tracked(self, branch: str) -> set[str]:
        """What remote-tracking branches of this name hold: in a clone a review branch is there and not a head."""
        names = re.compile(rf"refs/remotes/[^/]+/{re.escape(branch)}")
        found = {name: oid for name, oid in self.packed.items() if names.fullmatch(name)}
        with suppress(OSError):
            for remote in (self.path / "refs" / "remotes").iterdir():
                with suppress(OSError):  # loose before packed
                    found[f"refs/remotes/{remote.name}/{branch}"] = (remote / branch).read_text("latin-1").strip()
        return set(found.values())

    def _loose_ref(self, container: DiskRefsContainer, name: str, path: Path) -> str | None:
        try:
            raw = path.read_bytes()
            value = container.read_loose_ref(Ref(os.fsencode(name)))
        except DAMAGE as error:
            self.complain(Fault(kind="ref", where=name, why=f"cannot be read: {error}"))
            return None
        text = raw.decode("latin-1")
        if not _HEX.fullmatch(text[:-1]) or text[-1:] != "\n" or value != raw[:-1]:
            at = next((n for n, c in enumerate(text) if n >= 40 or c not in "0123456789abcdef"), len(text))
            why = f"its file is not 40 hexadecimal digits and a newline: byte {at} of {len(raw)} bytes {raw[:60]!r}"
            self.complain(Fault(kind="ref", where=name, why=why))
            return None
        return text[:-1]

    def _packed_refs(self) -> dict[str, str]:
        path = self.path / "packed-refs"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            self.complain(Fault(kind="ref", where="packed-refs", why=f"cannot be read: {error}"))
            return {}
        found: dict[str, str] = {}
        lines = data.split(b"\n")
        if lines.pop() != b"":
            self.complain(Fault(kind="ref", where="packed-refs", why="its last line has no end"))
        for number, line in enumerate(lines, 1):
            match = _PACKED_LINE.fullmatch(line)
            if match is None and not (number == 1 and _PACKED_HEADER.fullmatch(line)):
                why = f"line {number} is not an object id and a ref: {line[:100]!r}"
                self.complain(Fault(kind="ref", where="packed-refs", why=why))
            elif match is not None and match[2] is not None:
                name = os.fsdecode(match[2])
                if name in found:
                    self.complain(Fault(kind="ref", where=name, why=f"twice in packed-refs, again in line {number}"))
                found[name] = match[1].decode("ascii")
        return found

    def require(self, oid: str, ref: str) -> None:
        """Tell of a ref whose object is not there at all."""
        if next(self._copies(oid), None) is None:
            self.complain(Fault(kind="ref", where=ref, why=f"names {oid}, which is not there"))

    def replaced(self) -> set[str]:
        """Objects for which git would show others: replace refs and grafts."""
        names = [*(name for name in self._packed_refs() if name.startswith("refs/replace/"))]
        names += [path.name for path in (self.path / "refs/replace").rglob("*")]
        found = {name.rsplit("/", 1)[-1] for name in names}
        with suppress(OSError, IndexError):
            found |= {line.split()[0] for line in (self.path / "info/grafts").read_text("latin-1").splitlines() if line}
        return found & {oid for oid, kind in self._seen.items() if kind}


def inflate(raw: bytes) -> tuple[str, bytes, int | None]:
    """(type, content, zlib level) of a loose object's file; the level is None when no level gives just these bytes.
    ValueError or zlib.error when it is not one. Small ones are remembered, by their bytes."""
    return _inflate_small(raw) if len(raw) <= SMALL else _inflate(raw)


@lru_cache(maxsize=4096)
def _inflate_small(raw: bytes) -> tuple[str, bytes, int | None]:
    return _inflate(raw)


def _inflate(raw: bytes) -> tuple[str, bytes, int | None]:
    stream = zlib.decompressobj()
    data = stream.decompress(raw, LARGEST)
    if not stream.eof:
        raise ValueError(f"its compressed stream is cut short, or gives more than {LARGEST} bytes")
    if stream.unused_data:
        raise ValueError(f"{len(stream.unused_data)} bytes follow its compressed stream")
    head, zero, content = data.partition(b"\0")
    kind, space, size = head.partition(b" ")
    if not zero or not space or kind.decode("latin-1") not in _TYPES.values() or size != b"%d" % len(content):
        raise ValueError(f"its header is {head[:40]!r}, for {len(content)} bytes")
    level = next((level for level in LEVELS if zlib.compress(data, level) == raw), None)
    return kind.decode("ascii"), content, level


def parse_commit(oid: str, data: bytes) -> Commit:
    """Raises ValueError for a commit whose headers are not tree, parents, author, committer and perhaps a signature."""
    head, blank, body = data.partition(b"\n\n")
    if not blank:
        raise ValueError("no empty line after its headers")
    headers: list[tuple[bytes, bytes]] = []
    for line in head.split(b"\n"):
        if line.startswith(b" ") and headers:
            headers[-1] = (headers[-1][0], headers[-1][1] + b"\n" + line[1:])
        else:
            key, _, value = line.partition(b" ")
            headers.append((key, value))
    parents = [value for key, value in headers if key == b"parent"]
    names = [b"tree", *[b"parent"] * len(parents), b"author", b"committer"]
    signed = [key for key, _ in headers] == [*names, b"gpgsig"]
    if not signed and [key for key, _ in headers] != names:
        raise ValueError(f"its headers are {b' '.join(key for key, _ in headers)[:120]!r}")
    ids = [headers[0][1].decode("latin-1"), *(value.decode("latin-1") for value in parents)]
    if not all(_HEX.fullmatch(one) for one in ids):
        raise ValueError("its tree or a parent is not an object id")
    author, committer = (_IDENTITY.fullmatch(headers[len(names) - back][1]) for back in (2, 1))
    if author is None or committer is None:
        raise ValueError("its author or committer")
    payload = b"".join(key + b" " + value + b"\n" for key, value in headers[: len(names)]) + b"\n" + body
    return Commit(
        oid=oid,
        tree=ids[0],
        parents=tuple(ids[1:]),
        author=f"{author[1].decode('utf-8', 'replace')} <{author[2].decode('utf-8', 'replace')}>",
        committer=f"{committer[1].decode('utf-8', 'replace')} <{committer[2].decode('utf-8', 'replace')}>",
        when=int(committer[3]),
        message=body.decode("utf-8", "surrogateescape"),
        signature=headers[-1][1].decode("latin-1") if signed else "",
        payload=payload,
    )
