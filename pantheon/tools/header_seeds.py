"""Canaries of headers: a file whose writer said who holds the rights, without that and with it again, right or wrong.

The notice at the top of a file goes; what comes in is the header that the rules want, with the holder whom the notice
names. Where that was such a header, it is what the writer had. Pure and deterministic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pantheon import testpaths
from pantheon.records import Repair
from pantheon.tools import headers, licences, seeding
from pantheon.tools.facts import Facts
from pantheon.tools.headers import HeaderRules, Style
from pantheon.tools.tool import Seed, Tree

KIND = headers.KIND
STRANGERS = ("Harbour Lights Ltd", "Nora Quist", "The Tidewater Society", "Emil Sand")
NONSENSE = (
    "This file keeps the boats in the harbour and the lamps on the pier.",
    "It may be read by all who like the sea, as long as the tide is in.",
)
_YEAR = re.compile(r"(?:19|20)\d\d")
_MARK = {"#": b"#", "//": b"//", "--": b"--", "/* */": b"", "<!-- -->": b""}
_BLOCKS = ((b"/*", b"*/"), (b"<!--", b"-->"))


class _Case(NamedTuple):
    """A file without its notice, and what the header says that comes in."""

    before: bytes
    base: Tree
    style: Style
    rules: HeaderRules
    year: str
    holder: str
    license: str

    def header(self, holder: str = "", license_: str = "", raw: bytes | None = None) -> bytes | None:
        said = headers.filled(self.rules, self.year, holder or self.holder, license_ or self.license)
        return headers.with_header(self.before if raw is None else raw, self.style, said)


def seeds(path: str, raw: bytes, rules: HeaderRules, tree: Tree, facts: Facts) -> Iterator[Seed]:
    """A right change of the file, then wrong ones, each as far as the file gives it."""
    if len(raw) > seeding.MOST or not KIND.about(path, rules) or headers.check(path, raw, rules, tree):
        return
    if testpaths.is_test(path) or testpaths.steering(path):  # no item changes a test that was there
        return
    case = _case(path, raw, rules, tree, facts)
    after = case.header() if case else None
    if case is None or after is None:
        return
    good = seeding.restored(KIND, path, {path: case.before}, {path: after}, rules, case.base)
    if good is None:
        return
    yield good
    for kind, bad in _wrong(path, case, headers.holders(rules, case.base)):
        if bad is not None:
            yield from seeding.wrong(kind, good, {path: bad})


def _wrong(path: str, case: _Case, known: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
    said = "".join(case.rules.lines)
    if "{holder}" in said:
        # Another holder that the repository names is no canary: nothing in it says that this one is wrong.
        strangers = [name for name in STRANGERS if name.casefold() not in {each.casefold() for each in known}]
        yield "wrong-holder", case.header(seeding.turned(strangers, path, "holder")[0]) if strangers else None
    if "{license}" in said:
        alike = licences.names(case.license)
        others = [name for name in licences.WELL_KNOWN if not licences.names(name) & alike]
        yield "wrong-licence", case.header(license_=seeding.turned(others, path, "licence")[0]) if others else None
    lost = seeding.lost_line(path, case.before)
    yield "lost-line", case.header(raw=lost) if lost is not None else None
    changed = seeding.changed_code(path, case.before)
    yield "changed-code", case.header(raw=changed) if changed is not None else None
    yield "plausible-nonsense", headers.with_header(case.before, case.style, NONSENSE)


def _case(path: str, raw: bytes, rules: HeaderRules, tree: Tree, facts: Facts) -> _Case | None:
    """The file without the notice it opens with, where all that a header says is known from that."""
    style, cut = headers.style_of(path, rules), None
    if style is not None and headers.notice(raw, rules) is not None:
        cut = _cut(raw, style)
    if style is None or cut is None:
        return None
    before = raw[: cut[0]] + raw[cut[1] :]
    base = seeding.laid(tree, {path: before})
    if all(f.repair is Repair.REPORT for f in headers.check(path, before, rules, base)):
        return None
    text = raw[cut[0] : cut[1]].decode("utf-8", "replace")
    known = headers.holders(rules, base)
    named = [name for name in known if name.casefold() in " ".join(text.casefold().split())]
    named = named or (list(known) if not any(licences.holder_in(text)) else [])
    year, first = _YEAR.search(text), facts.first_commit.get(path)
    when = year[0] if year else str(first.year) if first else ""
    said = "".join(rules.lines)
    if ("{holder}" in said and len(named) != 1) or ("{year}" in said and not when):
        return None
    license_ = rules.license if rules.license != "auto" else licences.grant(base).license
    return _Case(before, base, style, rules, when or "2000", named[0] if named else "", license_)


def _cut(raw: bytes, style: Style) -> tuple[int, int] | None:
    """From where to where the comment stands that a file opens with, an empty line behind it counted in."""
    at = headers.place(raw)
    if at is None:
        return None
    while (gap := re.compile(rb"[ \t]*\r?\n").match(raw, at)) is not None:
        at = gap.end()
    head, end = raw[at : at + headers.HEAD], at
    opened = next(((start, close) for start, close in _BLOCKS if head.startswith(start)), None)
    if opened is not None:
        closed = raw.find(opened[1], at + 2, at + headers.HEAD)
        end = headers.line_after(raw, closed + len(opened[1]) - 1) if closed >= 0 else -1
    elif _MARK[style]:
        for line in head.splitlines(keepends=True):
            if not line.startswith(_MARK[style]):
                break
            end += len(line)
    if end <= at:
        return None
    gap = re.compile(rb"[ \t]*\r?\n").match(raw, end)
    return at, gap.end() if gap is not None else end
