"""The kind of rules `headers`: every source file opens with who holds its rights and under which licence.

    kind = "headers"
    license = "auto"
    holder = "auto"

Owns the parsing of such a file, where a header goes and how it looks in each type of file, the tools that put one in,
and the check that a change is one header and nothing else. What the licence is, and who may hold the rights, is read
from the repository in licences.py; where that is open a person is asked, where several may hold the rights the model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator

from pantheon import tomlfile
from pantheon.errors import ToolError
from pantheon.names import path_spec
from pantheon.records import Finding, Offer, Record, Repair
from pantheon.tools import licences, syntax
from pantheon.tools.match import Matched
from pantheon.tools.tool import Change, Kind, Nothing, Problem, Tool, Tree
from pantheon.tools.workspace import Workspace

Style = Literal["#", "//", "--", "/* */", "<!-- -->"]
_BRACKETS: dict[str, tuple[bytes, bytes, bytes]] = {  # before, in front of each line, behind
    "/* */": (b"/*", b" * ", b" */"),
    "<!-- -->": (b"<!--", b"", b"-->"),
}
HEAD_LINES = 60  # where a header is looked for
HEAD = 8_192  # bytes
LONG = 2_000  # characters of a line that no person wrote
OTHERS = 3
_BOM = b"\xef\xbb\xbf"
_YEAR = r"(?:19|20)\d\d"
_CODING = re.compile(rb"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
# First lines that only work as first lines: an interpreter, modes of editors, pragmas of tools.
_FIRST = re.compile(
    rb"#!(?!\[)|[ \t\f]*#.*?(?:coding[:=]|-\*-)|#(?:cloud-config|compdef|autoload)\b|# *(?:syntax|escape|check) *=|"
    rb"[#/ *-]*(?:vim?|ex):|// *@(?:flow|format|prettier)\b|@charset\b|%YAML",
    re.IGNORECASE,
)
_DOCBLOCK = re.compile(rb"/\*\*?(?:[^*]|\*(?!/)){0,4000}?@(?:flow|jest|format|prettier|noflow)")
_NOTICE = re.compile(
    r"SPDX-License-Identifier:|SPDX-FileCopyrightText:|copyright\b.{0,40}(?:\(c\)|\u00a9|\d{4}|by\b)|^\W*copyright\b|\u00a9|"
    r"\(c\) *(?:19|20)\d\d|all rights reserved|licen[cs]ed (?:under|to)\b|@licen[cs]e\b|\blicen[cs]e *:|public domain|"
    r"under the terms of|permission is hereby|redistribution and use",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"\s*(?:#|//|/\*|\*|--|<!--|;|%|\"\"\"|'''|[rRuU]\"\"\")")
_MARKS = re.compile(r"^\s*(?:#+|//+|--+|/\*+|\*|<!--)?")
_OPENS = {"/*": "*/", "<!--": "-->", '"""': '"""', "'''": "'''"}
_STRICT = re.compile(r"\s*['\"]use \w+['\"];?\s*")
# Reviewers compare with these where the repository has nothing else.
SPARE_HOLDERS = ("Ada Lovelace", "The Harbour Office", "Garden Club of Utrecht", "Boole & Sons")


class HeaderRules(Record):
    """A rules file of the kind `headers`. `styles`: how comments look, and the endings or names of files that have them
    so. `lines` may hold {year}, {holder} and {license}."""

    kind: Literal["headers"]
    license: str = Field(default="auto", max_length=200)
    holder: str = Field(default="auto", max_length=licences.MAX_HOLDER)
    lines: tuple[str, ...] = Field(
        default=("SPDX-FileCopyrightText: {year} {holder}", "SPDX-License-Identifier: {license}"),
        min_length=1,
        max_length=20,
    )
    empty: bool = False
    exclude: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    styles: dict[Style, tuple[str, ...]] = Field(min_length=1)

    @field_validator("license")
    @classmethod
    def _known(cls, value: str) -> str:
        found = "auto" if value == "auto" else licences.expression(value)
        if found is None:
            raise ValueError('give an SPDX expression, such as "MIT", or "auto"')
        return found

    @field_validator("holder")
    @classmethod
    def _plain(cls, value: str) -> str:
        if licences.tidy(value) != value:
            raise ValueError('give a name that can stand in a comment, or "auto"')
        return value

    @field_validator("lines")
    @classmethod
    def _lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        said = {name for line in value for name in re.findall(r"{(\w*)}", line)}
        if not said & {"license", "holder"}:
            raise ValueError("some line must hold {license} or {holder}")
        for line in value:
            rest = re.sub(r"{(?:year|holder|license)}", "", line)
            twice = any(line.count(f"{{{name}}}") > 1 for name in ("year", "holder", "license"))
            if (
                twice
                or not line.strip()
                or len(line) > 200
                or not line.isprintable()
                or re.search(r"[{}<>]|\*/|/\*|--", rest)
            ):
                raise ValueError(
                    f"{line!r} cannot stand in a comment; {{year}}, {{holder}} and {{license}} are filled in once"
                )
        return value


def parse(raw: bytes, path: str) -> HeaderRules:
    """Read a rules file of this kind. Raises ConfigError with the line of what is wrong."""
    text, values = tomlfile.read(raw, path, "cannot use the rules")
    return tomlfile.validated(HeaderRules, values, text, path, what="cannot use the rules")


# --- which files -----------------------------------------------------------------------------------------------------


def style_of(path: str, rules: HeaderRules) -> Style | None:
    """How a comment looks in the file; None where the rules do not say."""
    name = path.rpartition("/")[2]
    endings = [name[n:] for n in range(len(name)) if name[n] == "."]  # the longest first: .d.ts before .ts
    for ending in (name, *endings):
        found = next((style for style, known in rules.styles.items() if ending in known), None)
        if found is not None:
            return found
    return None


def _about(path: str, rules: HeaderRules) -> bool:
    return style_of(path, rules) is not None and not path_spec(rules.exclude).match_file(path)


def _head(raw: bytes) -> list[str]:
    return raw[:HEAD].removeprefix(_BOM).decode("utf-8", "replace").splitlines()[:HEAD_LINES]


def _left_alone(raw: bytes, rules: HeaderRules) -> bool:
    """Whether nobody wrote the file, or there is nothing in it."""
    if not raw.removeprefix(_BOM).strip():
        return not rules.empty
    marks = tuple(mark.casefold() for mark in rules.generated)
    made = any(mark in line.casefold() for line in _opening(raw) for mark in marks)
    return made or any(len(line) > LONG for line in _head(raw))


# --- the header that is there ----------------------------------------------------------------------------------------


def _opening(raw: bytes) -> Iterator[str]:
    """The comments that a file opens with: up to its first line of code, a Python docstring counted in."""
    closing = ""
    for line in _head(raw):
        text = line.strip()
        if closing:
            yield line
            closing = "" if closing in text else closing
        elif _COMMENT.match(line):
            yield line
            start = next((mark for mark in _OPENS if text.lstrip("rRuU").startswith(mark)), "")
            if start and _OPENS[start] not in text.lstrip("rRuU")[len(start) :]:
                closing = _OPENS[start]
        elif (
            text
            and not _STRICT.fullmatch(line)
            and not text.startswith(("<?", "<!DOCTYPE", "<!doctype", "---", "@charset"))
        ):
            return


def notice(raw: bytes, rules: HeaderRules) -> str | None:
    """The comments that hold a file's copyright or licence; None where there is none. An SPDX line counts wherever it
    stands near the top, and so does what the rules themselves put in."""
    known = [_own(line) for line in rules.lines]
    for start in (0, place(raw) or 0):
        opening = list(_opening(raw[start:]))
        if any(_NOTICE.search(line[:400]) or any(own.fullmatch(_bare(line)) for own in known) for line in opening):
            return "\n".join(opening)
    lines = [line for line in _head(raw) if _COMMENT.match(line) and "SPDX-" in line]
    return "\n".join(lines) if any(_NOTICE.search(line[:400]) for line in lines) else None


@lru_cache(maxsize=256)
def _own(line: str, wanted: str = "") -> re.Pattern[str]:
    """What a header's line looks like, whatever was filled in; the `wanted` part of it is a group of that name."""
    pattern = re.escape(line)
    for name, value in (("year", _YEAR), ("holder", r"[^\n]{1,100}?"), ("license", r"[\w.+() -]{1,200}?")):
        pattern = pattern.replace(re.escape(f"{{{name}}}"), f"({value})" if name == wanted else value)
    return re.compile(pattern)


def _bare(line: str) -> str:
    """A line of a comment without its marks."""
    return _MARKS.sub("", line[:400]).strip()


# --- where a header goes, and how it looks ---------------------------------------------------------------------------


def place(raw: bytes) -> int | None:
    """The offset at which a header goes in: behind what only works at the very top. None: there is no such line."""
    start = len(_BOM) if raw.startswith(_BOM) else 0
    lines = raw[start : start + HEAD].splitlines(keepends=True)
    at = start
    if lines and lines[0].rstrip() == b"---":  # front matter of a page
        end = next((n for n in range(1, len(lines)) if lines[n].rstrip() == b"---"), 0)
        at += sum(map(len, lines[: end + 1])) if end else 0
    elif len(lines) > 1 and _CODING.match(lines[1]) and lines[0].lstrip()[:1] in (b"", b"#"):
        at += len(lines[0]) + len(lines[1])
    while at < len(raw):
        line = raw[at : at + HEAD].split(b"\n", 1)[0]
        if line.lstrip().lower().startswith((b"<?xml", b"<!doctype")):
            end = line_after(raw, raw.find(b"?>" if b"<?" in line else b">", at) + 1)
            at = end if b"[" not in raw[at:end] else -1
        elif _FIRST.match(line):
            at = min(at + len(line) + 1, len(raw))
        elif _DOCBLOCK.match(raw, at):
            at = line_after(raw, raw.find(b"*/", at) + 1)
        else:
            return at
        if at < 0:
            return None
    return at


def line_after(raw: bytes, mark: int) -> int:
    """Behind the line on which a mark of one or two bytes ends; -1 when something else stands on it."""
    end = raw.find(b"\n", mark)
    rest = raw[mark:] if end < 0 else raw[mark:end]
    if mark < 1 or rest.strip(b"/> \t\r"):
        return -1
    return len(raw) if end < 0 else end + 1


def rendered(style: Style, lines: Sequence[str], newline: bytes) -> bytes:
    """The header as a comment, each line ended."""
    texts = [line.encode() for line in lines]
    if style in _BRACKETS:
        start, middle, end = _BRACKETS[style]
        texts = [start, *(middle + text for text in texts), end]
    else:
        texts = [style.encode() + b" " + text for text in texts]
    return b"".join(text + newline for text in texts)


def _newline(raw: bytes) -> bytes:
    end = raw.find(b"\n")
    return b"\r\n" if end > 0 and raw[end - 1 : end] == b"\r" else b"\n"


def _apart(raw: bytes, at: int, newline: bytes) -> tuple[bytes, bytes]:
    """What goes before and behind a header: an end for an open line, an empty line before what follows."""
    before = newline if at and not raw[:at].endswith(b"\n") and raw[:at] != _BOM else b""
    rest = raw[at:].split(b"\n", 1)[0].strip()
    return before, newline if rest else b""


def with_header(raw: bytes, style: Style, lines: Sequence[str]) -> bytes | None:
    """The file with a header; None where it has no place for one."""
    at = place(raw)
    if at is None:
        return None
    newline = _newline(raw)
    before, behind = _apart(raw, at, newline)
    return raw[:at] + before + rendered(style, lines, newline) + behind + raw[at:]


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _license(rules: HeaderRules, tree: Tree) -> tuple[str, str]:
    """The licence, or why it is not known."""
    if rules.license != "auto":
        return rules.license, ""
    found = licences.grant(tree)
    return found.license, found.why


def holders(rules: HeaderRules, tree: Tree) -> tuple[str, ...]:
    """Who may stand in a header."""
    return (rules.holder,) if rules.holder != "auto" else licences.grant(tree).holders


def _says(rules: HeaderRules, name: str) -> bool:
    return any(f"{{{name}}}" in line for line in rules.lines)


def check(path: str, raw: bytes, rules: HeaderRules, tree: Tree) -> tuple[Finding, ...]:
    """A missing header, or one that names another licence."""
    if _left_alone(raw, rules) or f"{path}.license" in tree.paths:
        return ()
    license_, why = _license(rules, tree)
    there = notice(raw, rules)
    if there is not None:
        named = licences.identifier(there)
        if named is None or not license_ or licences.names(named) & licences.names(license_):
            return ()
        return (Finding(rule="license", message=f"its header names {named}, the repository {license_}", line=1),)
    fault = _fault(raw, rules, why, holders(rules, tree))
    if fault:
        return (Finding(rule="header", message=f"has no header, and none can be put in: {fault}"),)
    several = _says(rules, "holder") and len(holders(rules, tree)) > 1
    repair = Repair.CHOOSE if several else Repair.CERTAIN
    return (Finding(rule="header", message="has no licence header", field="holder", line=1, repair=repair),)


def _fault(raw: bytes, rules: HeaderRules, why: str, known: Sequence[str]) -> str:
    """Why no header can be put in; "" when one can."""
    if why and _says(rules, "license"):
        return f"the licence is not known ({why}); set `license` in the rules file"
    if not known and _says(rules, "holder"):
        return "no holder is named in LICENSE or in the metadata; set `holder` in the rules file"
    coded = next((m[1] for line in raw.splitlines()[:2] if (m := _CODING.match(line))), b"utf-8")
    plain = "".join((*known, *rules.lines)).isascii()
    if b"\0" in raw or not (plain or (coded.lower().startswith((b"utf-8", b"utf8")) and _is_utf8(raw))):
        return "its encoding cannot hold the text"
    if b"\r" in raw and b"\n" not in raw:
        return "its lines end as on an old Macintosh"
    return "" if place(raw) is not None else "it has no line of its own for one"


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def verify(change: Change, rules: HeaderRules) -> Iterable[Problem]:
    """The change is one header, as the rules want it, and nothing else."""
    path, before, after = change.path, change.before, change.after
    if not _about(path, rules):
        return
    if before is None or after is None:
        yield Problem(path, 0, "headers", "is not there in both trees")
        return
    if all(f.repair is Repair.REPORT for f in check(path, before, rules, change.base)):
        yield Problem(path, 0, "headers", "needed no header that could be put in")
        return
    style = style_of(path, rules)
    at = place(before)
    assert style is not None and at is not None
    license_, _ = _license(rules, change.base)
    size = len(after) - len(before)
    year = re.search(_YEAR, after[at : at + max(0, size)].decode("utf-8", "replace"))
    wanted = [
        with_header(before, style, filled(rules, year[0] if year else "2000", holder, license_))
        for holder in holders(rules, change.base) or ("",)
    ]
    if after not in wanted:
        yield Problem(path, 1, "headers", "is not the file with one header as the rules want it")
    elif not syntax.fault(path, before) and (fault := syntax.fault(path, after)):
        yield Problem(path, 1, "headers", f"does not parse any more: {fault}")


def filled(rules: HeaderRules, year: str, holder: str, license_: str) -> tuple[str, ...]:
    """The lines of a header."""
    values = {"year": year, "holder": holder, "license": license_}
    return tuple(re.sub(r"{(year|holder|license)}", lambda m: values[m[1]], line) for line in rules.lines)


KIND = Kind("headers", parse, _about, check, verify)


# --- tools -----------------------------------------------------------------------------------------------------------


class HolderArgs(Record):
    holder: str = Field(min_length=1, max_length=licences.MAX_HOLDER)


class LicenseArgs(Record):
    license: str = Field(min_length=1, max_length=200)


class Added(Record):
    added: bool
    holder: str = ""


class Rights(Record):
    """What a reviewer sees: how the licence text begins, what the repository's licence is, and whom it names."""

    path: str
    text: str
    license: str
    holders: str


def _tree(ws: Workspace) -> Tree:
    return Tree(frozenset(ws.facts.paths), ws.base)


def _missing(ws: Workspace) -> tuple[HeaderRules, Tree, Repair | None]:
    rules, tree = ws.ruled(HeaderRules), _tree(ws)
    found = check(ws.target, ws.read(ws.target), rules, tree)
    return rules, tree, next((f.repair for f in found if f.repair is not Repair.REPORT), None)


def _put(ws: Workspace, rules: HeaderRules, tree: Tree, holder: str) -> None:
    first = ws.facts.first_commit.get(ws.origin) or max(ws.facts.first_commit.values(), default=None)
    if first is None and _says(rules, "year"):
        raise ToolError("cannot add a header to", ascii(ws.target), "no commit says of which year it is")
    style = style_of(ws.target, rules)
    assert style is not None
    lines = filled(rules, str(first.year) if first else "", holder, _license(rules, tree)[0])
    data = with_header(ws.read(ws.target), style, lines)
    assert data is not None
    ws.write(ws.target, data)


def add_header(ws: Workspace, args: Nothing) -> Added:
    """Put in the header where nothing is left to choose."""
    rules, tree, repair = _missing(ws)
    if repair is not Repair.CERTAIN:
        return Added(added=False)
    holder = next(iter(holders(rules, tree)), "")
    _put(ws, rules, tree, holder)
    return Added(added=True, holder=holder)


def offer_holder(ws: Workspace) -> tuple[Offer, ...]:
    """Who may hold the rights, in an order of this file's own."""
    rules, tree, repair = _missing(ws)
    if repair is not Repair.CHOOSE:
        return ()
    known = sorted(holders(rules, tree), key=lambda name: _hash(ws.origin, name))
    return (Offer(tool="set_holder", args={"holder": tuple(known)}),)


def set_holder(ws: Workspace, args: HolderArgs) -> Added:
    """Put in the header with this holder."""
    rules, tree, repair = _missing(ws)
    if args.holder not in holders(rules, tree):
        raise ToolError("cannot set", ascii(args.holder), "the repository does not name them")
    if repair is None:
        return Added(added=False, holder=args.holder)
    _put(ws, rules, tree, args.holder)
    return Added(added=True, holder=args.holder)


def read_rights(ws: Workspace, args: Nothing) -> Rights:
    """What the repository says of its licence and of whom."""
    rules, tree = ws.ruled(HeaderRules), _tree(ws)
    said = licences.grant(tree).said
    return Rights(
        path=ascii(ws.origin)[1:-1],
        text=said[0] if said else "",
        license=_license(rules, tree)[0],
        holders="; ".join(holders(rules, tree)),
    )


# --- reviewers -------------------------------------------------------------------------------------------------------


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()


def _written(ws: Workspace, name: str) -> str:
    """What the header that was put in says of the licence or of the holder."""
    rules, now, base = ws.ruled(HeaderRules), ws.read(ws.target), ws.base(ws.origin) or b""
    at = place(base)
    if at is None or len(now) <= len(base):
        return ""
    fresh = now[at : at + len(now) - len(base)].decode("utf-8", "replace")
    wanted = [_own(line, name) for line in rules.lines if f"{{{name}}}" in line]
    found = (pattern.fullmatch(_bare(line)) for line in fresh.splitlines() for pattern in wanted)
    return next((match[1] for match in found if match), "")


def _among(ws: Workspace, tool: str, name: str, known: Sequence[str], others: Sequence[str]) -> tuple[Offer, ...]:
    """What was written among others that the repository does not name; where it does not name what was written, what
    it names is there as well."""
    written = _written(ws, name)
    if not written:
        return ()
    named = {each.casefold() for each in known if each}
    strange = sorted(
        (o for o in others if o.casefold() not in named and o != written), key=lambda o: _hash(ws.origin, o)
    )
    if written.casefold() not in named:
        strange = [*[each for each in known if each][:1], *strange]
    values = sorted({written, *strange[:OTHERS]}, key=lambda v: _hash("order", ws.origin, v))
    return (Offer(tool=tool, args={name: tuple(values)}),)


def offer_license(ws: Workspace) -> tuple[Offer, ...]:
    """The licence in the header among well-known ones."""
    license_, _ = _license(ws.ruled(HeaderRules), _tree(ws))
    alike = licences.names(license_)
    others = [name for name in licences.WELL_KNOWN if not licences.names(name) & alike]
    return _among(ws, "match_license", "license", (license_,), others)


def offer_owner(ws: Workspace) -> tuple[Offer, ...]:
    """The holder in the header among people that the repository does not name."""
    return _among(ws, "match_holder", "holder", holders(ws.ruled(HeaderRules), _tree(ws)), SPARE_HOLDERS)


def match_license(ws: Workspace, args: LicenseArgs) -> Matched:
    return _matched(ws, "license", args.license, offer_license(ws))


def match_holder(ws: Workspace, args: HolderArgs) -> Matched:
    return _matched(ws, "holder", args.holder, offer_owner(ws))


def _matched(ws: Workspace, name: str, chosen: str, offers: tuple[Offer, ...]) -> Matched:
    if not offers or chosen not in (offers[0].args[name] or ()):
        raise ToolError("cannot match", ascii(chosen), "it is not among the values")
    written = _written(ws, name)
    return Matched(field=name, chosen=chosen, proposed=(written,), same=chosen == written)


TOOLS = (
    Tool("add_header", "put in the header where nothing is left to choose", Nothing, Added, {}, add_header),
    Tool("read_rights", "read what the repository says of its licence", Nothing, Rights, {}, read_rights),
    Tool(
        "set_holder",
        "give the holder of the rights in the file",
        HolderArgs,
        Added,
        {"holder": "Ada Lovelace"},
        set_holder,
        offer_holder,
    ),
    Tool(
        "match_license",
        "give the licence that the repository has",
        LicenseArgs,
        Matched,
        {"license": "BSD-2-Clause"},
        match_license,
        offer_license,
    ),
    Tool(
        "match_holder",
        "give who holds the rights in the repository",
        HolderArgs,
        Matched,
        {"holder": "Grace Hopper"},
        match_holder,
        offer_owner,
    ),
)
