"""The reviewers of any change: two blind questions about one line of it, whatever flow made it.

Reviewer A sees the file without the change: which of these texts was written for it? Reviewer B sees the text: which of
these symbols, headings or files does it belong to? The true answer stands among lines and places of other files of the
base tree that look alike, and neither reviewer knows it. A small model reads little, so that one short, telling line
stands for the change. Says nothing of style or truth: only whether the text and its place belong together.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from pantheon.errors import ToolError
from pantheon.records import Offer, Record
from pantheon.tools.match import Matched
from pantheon.tools.tool import Nothing, Tool
from pantheon.tools.words import stem
from pantheon.tools.workspace import Workspace

OTHERS = 3
TEXT = 120  # characters of a line that stands for a change
PLACE = 80  # of a symbol, a heading or a path
AROUND = 700  # of the file that is shown
MAX_LINES = 20_000
OTHER_FILES = 40  # of the base tree, searched for what to compare with
OTHER_BYTES = 65_536  # of each
# For a repository with too little to compare with.
SPARE_TEXTS = (
    "Water the tomatoes in the morning",
    "Tune the piano before the concert",
    "Knead the dough and let it rest",
)
SPARE_PLACES = {
    "symbol": ("water_tomatoes", "tune_piano", "knead_dough"),
    "heading": ("Minutes of the garden club", "Recipes for sourdough bread", "A short history of the opera house"),
    "file": ("garden/tomatoes", "concert/piano", "kitchen/sourdough"),
}

_SYMBOL = re.compile(
    r"\s{0,40}(?:(?:export|default|public|private|protected|static|final|abstract|async|pub|unsafe|local)\s+){0,4}"
    r"(?:def|class|function|func|fn|interface|struct|enum|trait|impl|module|sub)\s+(?:\([^()]{0,80}\)\s*)?([\w$.]+)"
)
_HEADING = re.compile(r" {0,3}#{1,6} +(\S.*)")
_LEAD = re.compile(r"[^\w@$]*")
_MARK = re.compile(r"\"\"\"|'''|//[/!]?|/\*\*?|<!--|--|[#*;%>-]")
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+")
_PROSE = (".md", ".markdown", ".rst", ".txt")


class TextArgs(Record):
    text: str = Field(min_length=1, max_length=400)


class PlaceArgs(Record):
    place: str = Field(min_length=1, max_length=400)


class Around(Record):
    path: str
    place: str
    text: str
    words: str


class Written(Record):
    text: str


class Passage(NamedTuple):
    """The line that stands for a change: where it is, what kind of line, what stands around it without the change."""

    path: str
    text: str
    sort: str
    place: str
    kind: str  # of the place: symbol, heading or file
    around: str


# --- lines and places ------------------------------------------------------------------------------------------------


def words(text: str) -> frozenset[str]:
    """The words of prose or of names in code, in one form."""
    return frozenset(stem(word.casefold()) for word in _WORD.findall(text) if len(word) > 2)


def bare(line: str) -> str:
    """A line without the marks of comments, strings and lists around it; the length of what a small model reads."""
    text = " ".join(line[_LEAD.match(line).end() :].split())  # type: ignore[union-attr]  # it matches always
    text = text.rstrip("\"'*/<>{-# ").strip()
    return text if len(text) <= TEXT else text[:TEXT].rpartition(" ")[0] or text[:TEXT]


def sort_of(line: str) -> str:
    """Lines of one sort look alike: the mark they start with, and whether they read as text or as code."""
    text = line.strip()
    mark = _MARK.match(text)
    letters = sum(c.isalpha() or c in " ,.'" for c in text)
    return (mark[0] if mark else "") + ("text" if letters >= 0.85 * len(text) or mark else "code")


def places(lines: Sequence[str], path: str) -> dict[int, str]:
    """The lines at which a symbol or a heading starts, with its name; a method has its class before it."""
    found: dict[int, str] = {}
    prose = path.endswith(_PROSE)
    open_: list[tuple[int, str]] = []
    for n, line in enumerate(lines):
        match = (_HEADING if prose else _SYMBOL).match(line[:400])
        if match is None:
            continue
        name, depth = " ".join(match[1].split()).rstrip(" #:")[:PLACE], _indent(line)
        while open_ and open_[-1][0] >= depth:
            open_.pop()
        found[n] = name if prose or not open_ else f"{open_[-1][1]}.{name}"[:PLACE]
        open_.append((depth, name))
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _lines(raw: bytes | None) -> list[str]:
    return (raw or b"").decode("utf-8", "replace").splitlines()[:MAX_LINES]


def _fresh(lines: Sequence[str], other: Sequence[str]) -> list[int]:
    """The lines that the other version has not, or has less often."""
    left = Counter(other)
    found = []
    for n, line in enumerate(lines):
        if left[line] > 0:
            left[line] -= 1
        elif line.strip():
            found.append(n)
    return found


def _owner(lines: Sequence[str], at: int, fresh: frozenset[int], known: Mapping[int, str], prose: bool) -> int | None:
    """The line of the symbol or heading that a line belongs to: what it stands in, or stands directly above."""
    below = next((n for n in range(at + 1, min(at + 40, len(lines))) if n not in fresh and lines[n].strip()), None)
    depth = _indent(lines[at])
    if not prose and below is not None and below in known and _indent(lines[below]) == depth:
        return below
    above = (n for n in sorted(known, reverse=True) if n < at and n not in fresh)
    return next((n for n in above if prose or _indent(lines[n]) < depth), None)


def _shown(lines: Sequence[str], at: int, fresh: frozenset[int], owner: int | None) -> str:
    """What stands around a line, without what was written there."""
    first = max(0, at - 6) if owner is None else min(owner, at)
    kept = [n for n in range(first, min(len(lines), at + 30)) if n not in fresh and lines[n].strip()]
    before, after = [n for n in kept if n < at], [n for n in kept if n > at]
    if owner is not None:
        before = [n for n in before if n == owner or n >= at - 4]
        depth = _indent(lines[owner])
        end = next(
            (n for n in after if n != owner and _indent(lines[n]) <= depth and lines[n].strip()[0].isalpha()), None
        )
        after = [n for n in after if end is None or n < end]
    text = "\n".join(lines[n].rstrip()[:TEXT] for n in (*before, *after[:8]))
    return text[:AROUND]


# --- the change ------------------------------------------------------------------------------------------------------


def passage(ws: Workspace) -> Passage | None:
    """The most telling line of the change: of the target where it changed, else of a file beside it. Where nothing was
    added it is one that was taken away; where nothing but its name changed, the name."""
    now, base = _lines(ws.read(ws.target)) if ws.exists(ws.target) else [], _lines(ws.base(ws.origin))
    for path, lines, other in ((ws.target, now, base), (ws.origin, base, now)):
        found = _telling(path, lines, _fresh(lines, other))
        if found is not None:
            return found
    for path, raw in ws.changes().items():
        lines = _lines(raw)
        found = None if path in (ws.target, ws.origin) else _telling(path, lines, _fresh(lines, _lines(ws.base(path))))
        if found is not None:
            known = ws.base(path) is not None
            return found if known else found._replace(place=ws.origin, kind="file", around=_outline(base, ws.origin))
    if ws.target == ws.origin:
        return None
    first = next(iter(places(now, ws.target).values()), None)
    where = (first, _kind(ws.target)) if first else (ws.origin, "file")
    return Passage(ws.target, ws.target, "name", *where, _outline(now, ws.target))


def _telling(path: str, lines: Sequence[str], fresh: Sequence[int]) -> Passage | None:
    def weight(n: int) -> tuple[bool, int, int]:
        return sort_of(lines[n]).endswith("text"), min(len(words(bare(lines[n]))), 8), -n

    useful = [n for n in fresh if words(bare(lines[n]))]
    if not useful:
        return None
    at, new = max(useful, key=weight), frozenset(fresh)
    known = places(lines, path)
    owner = _owner(lines, at, new, known, path.endswith(_PROSE))
    place, kind = (path, "file") if owner is None else (known[owner], _kind(path))
    return Passage(path, bare(lines[at]), sort_of(lines[at]), place, kind, _shown(lines, at, new, owner))


def _kind(path: str) -> str:
    return "heading" if path.endswith(_PROSE) else "symbol"


def _outline(lines: Sequence[str], path: str) -> str:
    heads = [lines[n].rstrip()[:TEXT] for n in places(lines, path)]
    return "\n".join(heads or [line.rstrip()[:TEXT] for line in lines[:30] if line.strip()])[:AROUND]


# --- what it is compared with ----------------------------------------------------------------------------------------


def _elsewhere(ws: Workspace, path: str) -> Iterator[tuple[str, list[str]]]:
    """Other files of the base tree with the same ending, in an order of this item's own; the target comes last."""
    ending = path.rpartition(".")[2]
    others = [p for p in ws.facts.paths if p.rpartition(".")[2] == ending and p not in (path, ws.origin, ws.target)]
    for other in [*sorted(others, key=lambda p: _hash(ws.origin, p))[:OTHER_FILES], ws.origin]:
        raw = ws.base(other)
        if raw is not None and b"\0" not in raw:
            yield other, _lines(raw[:OTHER_BYTES])


def _strange(ws: Workspace, known: str, found: Iterable[str], spare: Sequence[str], true: str) -> tuple[str, ...]:
    """The true value among others that have few words in common with what the reviewer sees."""
    here = words(known)

    def shared(value: str) -> float:
        own = words(value)
        return len(own & here) / max(1, len(own))

    usable = {value for value in found if value != true and shared(value) <= 0.25}
    picked = sorted(usable, key=lambda v: _hash("pick", ws.origin, v))[:OTHERS]
    picked += [value for value in spare if value != true][: OTHERS - len(picked)]
    return tuple(sorted({true, *picked}, key=lambda v: _hash("order", ws.origin, v)))


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()


def _texts(ws: Workspace, here: Passage) -> Iterator[str]:
    low, high = len(here.text) // 2, max(24, len(here.text) * 2)
    for _, lines in _elsewhere(ws, here.path):
        for line in lines:
            if len(line) <= 400 and sort_of(line) == here.sort:
                text = bare(line)
                if low <= len(text) <= high and words(text):
                    yield text


def _places(ws: Workspace, here: Passage) -> Iterator[str]:
    for path, lines in _elsewhere(ws, here.path):
        if here.kind == "file":
            yield path
        else:
            yield from places(lines, path).values()


# --- the tools -------------------------------------------------------------------------------------------------------


def read_around(ws: Workspace, args: Nothing) -> Around:
    here = passage(ws)
    if here is None:
        return Around(path=ascii(ws.origin)[1:-1], place="", text="", words="")
    told = [here.place, *here.around.split("\n")] if here.kind != "file" else [ws.origin, *here.around.split("\n")]
    names = dict.fromkeys(w.casefold() for line in told for w in _WORD.findall(line) if len(w) > 2)
    return Around(path=ascii(ws.origin)[1:-1], place=here.place, text=here.around, words=", ".join(list(names)[:24]))


def read_written(ws: Workspace, args: Nothing) -> Written:
    here = passage(ws)
    return Written(text=here.text if here else "")


def offer_change(ws: Workspace) -> tuple[Offer, ...]:
    """The line that was written among lines of other files."""
    here = passage(ws)
    if here is None:
        return ()
    values = _strange(ws, f"{ws.origin} {here.around}", _texts(ws, here), SPARE_TEXTS, here.text)
    return (Offer(tool="match_change", args={"text": values}),)


def offer_place(ws: Workspace) -> tuple[Offer, ...]:
    """Where it was written among other places."""
    here = passage(ws)
    if here is None:
        return ()
    values = _strange(ws, here.text, _places(ws, here), SPARE_PLACES[here.kind], here.place)
    return (Offer(tool="match_place", args={"place": values}),)


def match_change(ws: Workspace, args: TextArgs) -> Matched:
    return _match(ws, args.text, offer_change, "text", lambda here: here.text)


def match_place(ws: Workspace, args: PlaceArgs) -> Matched:
    return _match(ws, args.place, offer_place, "place", lambda here: here.place)


def _match(
    ws: Workspace,
    chosen: str,
    offer: Callable[[Workspace], tuple[Offer, ...]],
    argument: str,
    true: Callable[[Passage], str],
) -> Matched:
    here, offers = passage(ws), offer(ws)
    if here is None or not offers or chosen not in (offers[0].args[argument] or ()):
        raise ToolError("cannot match", ascii(chosen), "it is not among the values")
    return Matched(field=argument, chosen=chosen, proposed=(true(here),), same=chosen == true(here))


TOOLS = (
    Tool("read_around", "read the file without the change", Nothing, Around, {}, read_around),
    Tool("read_written", "read what was written", Nothing, Written, {}, read_written),
    Tool(
        "match_change",
        "give the text that was written for the file",
        TextArgs,
        Matched,
        {"text": "Load the tide tables of a harbour"},
        match_change,
        offer_change,
    ),
    Tool(
        "match_place",
        "give the place that the text belongs to",
        PlaceArgs,
        Matched,
        {"place": "def load_tides(harbour)"},
        match_place,
        offer_place,
    ),
)
