"""Links between files of a repository: found, resolved, rewritten when a file moves, reported when broken.

Inline Markdown links and images, reference definitions and wiki links; code, web addresses and bare anchors are no
links here. Pure: bytes and sets of paths. A rewrite changes the bytes of link targets and no other.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote, unquote_to_bytes

MAX_LINE = 20_000  # bytes: links on longer lines are not looked for

_FENCE = re.compile(rb" {0,3}(?:> ?)*(`{3,}|~{3,})")
_TICKS = re.compile(rb"`+")
_TARGET = rb"(?:<([^<>\n]{1,1000})>|((?:[^\s()<>\\]|\\.|\([^\s()]{0,300}\)){1,1000}+))"
_INLINE = re.compile(rb"\]\([ \t]*" + _TARGET + rb"(?:[ \t]+[\"'(][^\n]{0,500}?)?[ \t]*\)")
_DEFINITION = re.compile(rb" {0,3}\[[^\]\n]{1,300}\]:[ \t]*(?:<([^<>\n]{1,1000})>|([^\s<>]{1,1000}))")
_WIKI = re.compile(rb"\[\[([^\[\]|#\n]{1,500})(?:#[^\[\]|\n]{0,300})?(?:\|[^\[\]\n]{0,500})?\]\]")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]{1,30}:|//")


@dataclass(frozen=True, slots=True)
class Link:
    """A link target: its bytes at `start`..`end` of the file, on `line`; `kind` is inline, angle or wiki."""

    target: bytes
    start: int
    end: int
    line: int
    kind: str


@dataclass(frozen=True)
class Tree:
    """The paths of a tree with the two indexes that links need."""

    paths: Iterable[str]
    files: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", frozenset(self.paths))

    @cached_property
    def folders(self) -> frozenset[str]:
        found: set[str] = set()
        for path in self.files:
            while (path := posixpath.dirname(path)) and path not in found:
                found.add(path)
        return frozenset(found)

    @cached_property
    def lower(self) -> frozenset[str]:
        """All paths in lower case: names that a case-blind disk takes for one."""
        return frozenset(path.casefold() for path in self.files)

    @cached_property
    def stems(self) -> Mapping[str, tuple[str, ...]]:
        """Notes by file name without its ending, in lower case: what wiki links name."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.files):
            name = posixpath.basename(path)
            if name.lower().endswith(".md"):
                found.setdefault(name[:-3].casefold(), []).append(path)
        return {stem: tuple(paths) for stem, paths in found.items()}


def marked(raw: bytes) -> bool:
    """Whether a file holds what some link cannot be written without; most notes do not."""
    return b"](" in raw or b"[[" in raw or b"]:" in raw


def find(raw: bytes) -> Iterator[Link]:
    """Every link of a Markdown file, from the top."""
    if not marked(raw):
        return
    fence, offset = b"", 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        start, offset = offset, offset + len(line) + 1
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip(b" \t\r>").strip(fence[:1]):
                fence = b""
            continue
        if mark:
            fence = mark[1]
            continue
        if b"[" not in line or len(line) > MAX_LINE:
            continue
        shown = _without_code(line)
        definition = _DEFINITION.match(shown)
        for match in [definition] if definition else [*_INLINE.finditer(shown), *_WIKI.finditer(shown)]:
            wiki = match.re is _WIKI
            group = 1 if wiki or match[1] is not None else 2
            kind = "wiki" if wiki else "angle" if group == 1 else "inline"
            yield Link(match[group], start + match.start(group), start + match.end(group), number, kind)


def _without_code(line: bytes) -> bytes:
    """The line with its code spans blanked: from a run of backticks to the next run of the same length."""
    runs = [match.span() for match in _TICKS.finditer(line)]
    following: dict[int, int] = {}
    partner: dict[int, int] = {}
    for index in range(len(runs) - 1, -1, -1):
        length = runs[index][1] - runs[index][0]
        if length in following:
            partner[index] = following[length]
        following[length] = index
    shown = bytearray(line)
    index = 0
    while index < len(runs):
        if index in partner:
            start, end = runs[index][0], runs[partner[index]][1]
            shown[start:end] = b" " * (end - start)
            index = partner[index]
        index += 1
    return bytes(shown)


def resolve(path: str, link: Link, tree: Tree) -> str | None:
    """The file of the tree that a link in `path` leads to; None when it leads elsewhere or nowhere."""
    if link.kind == "wiki":
        name = _text(link.target).strip()
        exact = name if name in tree.files else f"{name}.md"
        if exact in tree.files:
            return exact
        stem = posixpath.basename(name)
        found = tree.stems.get((stem[:-3] if stem.lower().endswith(".md") else stem).casefold(), ())
        return found[0] if len(found) == 1 else None
    wanted = _wanted(path, link)
    return wanted if wanted in tree.files else None


def _wanted(path: str, link: Link) -> str | None:
    """The repository path an inline link names; None for web addresses, anchors and paths out of the tree."""
    target = link.target.partition(b"#")[0].partition(b"?")[0]
    if not target or _SCHEME.match(target) or target.startswith(b"~"):
        return None
    name = _text(re.sub(rb"\\([!-/:-@\[-`{-~])", rb"\1", target), percent=True)
    whole = name.lstrip("/") if name.startswith("/") else posixpath.join(posixpath.dirname(path), name)
    normal = posixpath.normpath(whole)
    return None if normal.startswith("..") or "\0" in normal else normal


def _text(target: bytes, percent: bool = False) -> str:
    return (unquote_to_bytes(target) if percent else target).decode("utf-8", "surrogateescape")


def broken(path: str, raw: bytes, tree: Tree) -> tuple[tuple[int, str], ...]:
    """(line, target) of every link to a file of this repository that is not there."""
    found = []
    for link in find(raw):
        if resolve(path, link, tree) is not None:
            continue
        if link.kind == "wiki":
            stem = posixpath.basename(_text(link.target).strip())
            ambiguous = len(tree.stems.get(stem.casefold(), ())) > 1
            missing = not ambiguous
        else:
            wanted = _wanted(path, link)
            missing = wanted is not None and wanted not in tree.folders and wanted != "."
        if missing:
            found.append((link.line, _text(link.target)))
    return tuple(found)


def rewrite(raw: bytes, path: str, moved: Mapping[str, str], tree: Tree) -> bytes:
    """The file with its links following the files in `moved` (old path: new path); `tree` is the tree before.

    `path` is the file's own path before; where it is moved into another folder itself, its relative links follow.
    """
    here = moved.get(path, path)
    if path not in moved and not moved:
        return raw
    parts: list[bytes] = []
    at = 0
    for link in sorted(find(raw), key=lambda found: found.start):
        target = resolve(path, link, tree)
        if target is None or (target not in moved and posixpath.dirname(here) == posixpath.dirname(path)):
            continue
        new = _retarget(link, here, moved.get(target, target), tree)
        if new is not None and new != link.target:
            parts += [raw[at : link.start], new]
            at = link.end
    return b"".join([*parts, raw[at:]]) if parts else raw


def _retarget(link: Link, here: str, target: str, tree: Tree) -> bytes | None:
    """The bytes of a link from `here` to `target`, in the manner of the old ones."""
    if link.kind == "wiki":
        old = _text(link.target).strip()
        stem = target[:-3] if target.lower().endswith(".md") else target
        name = stem if "/" in old else posixpath.basename(stem)
        return (name + (".md" if old.lower().endswith(".md") else "")).encode("utf-8", "surrogateescape")
    _, hash_, anchor = link.target.partition(b"#")
    rooted = link.target.startswith(b"/")
    name = "/" + target if rooted else posixpath.relpath(target, posixpath.dirname(here) or ".")
    if link.target.startswith(b"./") and not name.startswith(("../", "/")):
        name = "./" + name
    raw = name.encode("utf-8", "surrogateescape")
    written = raw if link.kind == "angle" and b"%" not in raw else quote(raw, safe="/@:+,;=!$&'*~").encode()
    return written + hash_ + anchor
