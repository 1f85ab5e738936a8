"""The reviewers of any change: two blind questions about one line of it, whatever flow made it.

Reviewer A sees the file without the change: which of these texts was written for it? Reviewer B sees the text: which of
these symbols, headings or files does it belong to? The true answer stands among lines and places of other files of the
base tree that look alike, and neither reviewer knows it. A small model reads little: one short, telling line stands for
the change, and each value is led by its word that is most at home in what the reviewer sees, by the same rule for the
true one and the others. Says nothing of style or truth: only whether the text and its place belong together.
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
from pantheon.testpaths import is_test
from pantheon.tools.match import Matched
from pantheon.tools.tool import Nothing, Tool
from pantheon.tools.words import is_topic, root
from pantheon.tools.workspace import Workspace

OTHERS = 3
ALIKE = 0.25  # the share of its words that another value may have in common with what the reviewer sees
TEXT = 120  # characters of a line that stands for a change
PLACE = 80  # of a symbol, a heading or a path
AROUND = 700  # of the file that is shown
WORD = 40  # characters
LEADS = 8  # words that a reviewer is given
MAX_LINES = 20_000
LINE = 400  # characters of a line that are looked at
OTHER_FILES = 16  # of the base tree, searched for what to compare with
OTHER_BYTES = 24_000  # of each
BLOCK = 30  # lines that say what a place is about
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
_PROSE = (".md", ".markdown", ".rst", ".txt")
# Words of programming languages: no code is about these.
_KEYWORD_TEXT = """
and any args async await bool case cls class const def dict elif else except false for from func function import int
kwargs let list new none not null obj pass private public raise return self static str string that the this true try
type var void while with yield
"""
_KEYWORDS = frozenset(_KEYWORD_TEXT.split())
_SYMBOL = re.compile(
    r"\s{0,40}(?:(?:export|default|public|private|protected|static|final|abstract|async|pub|unsafe|local)\s+){0,4}"
    r"(?:def|class|function|func|fn|interface|struct|enum|trait|impl|module|sub)\s+(?:\([^()]{0,80}\)\s*)?([\w$.]+)"
)
_HEADING = re.compile(r" {0,3}#{1,6} +(\S.*)")
_UNDERLINE = re.compile(r"([=~^\"*#+-])\1{2,}\s*")
_LEAD = re.compile(r"[^\w@$]*")
_MARK = re.compile(r"\"\"\"|'''|//[/!]?|/\*\*?|<!--|--|[#*;%>-]")
_WORD = re.compile(r"[^\W\d_A-Z]+|[A-Z][^\W\d_A-Z]+|[A-Z]+")


class TextArgs(Record):
    text: str = Field(min_length=1, max_length=400)


class PlaceArgs(Record):
    place: str = Field(min_length=1, max_length=400)


class Around(Record):
    """The file without the change, near the place: its text, and the words that stand there."""

    path: str
    place: str
    text: str
    words: tuple[str, ...]


class Written(Record):
    text: str
    words: tuple[str, ...]


class Passage(NamedTuple):
    """The line that stands for a change: its text, what sort of line it is, the place that it belongs to (`kind`:
    symbol, heading or file), and what stands around it without the change."""

    path: str
    text: str
    sort: str
    place: str
    kind: str
    around: str


class Values(NamedTuple):
    """What a reviewer may answer, and the one that is true."""

    all: tuple[str, ...]
    true: str


# --- words -----------------------------------------------------------------------------------------------------------


def spoken(text: str) -> dict[str, str]:
    """The words of prose and of the names in code: root -> the word as it stands first."""
    found = (word.casefold()[:WORD] for word in reversed(_WORD.findall(text)) if len(word) > 2)
    return {root(low): low for low in found if low not in _KEYWORDS}


def words(text: str) -> frozenset[str]:
    """The words of a text, each in one form."""
    return frozenset(spoken(text))


def plain(text: str) -> str:
    """Text that a prompt and a terminal can hold."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def bare(line: str) -> str:
    """A line without the marks of comments, strings and lists around it; no longer than a small model reads."""
    text = " ".join(plain(line[:LINE]).split())
    text = text[len(_LEAD.match(text)[0]) :].rstrip("\"'*/<>{(=,;-# ")  # type: ignore[index]  # it matches always
    return text if len(text) <= TEXT else text[:TEXT].rpartition(" ")[0] or text[:TEXT]


def sort_of(line: str) -> str:
    """Lines of one sort look alike: the mark they start with, and whether they read as text or as code."""
    text = line[:LINE].strip()
    mark = _MARK.match(text)
    letters = sum(c.isalpha() or c in " ,.'" for c in text)
    return (mark[0] if mark else "") + ("text" if letters >= 0.85 * len(text) or mark else "code")


def _given(text: str, known: Mapping[str, int]) -> tuple[str, ...]:
    """The words that say most of what a text is about, in its order."""
    own = spoken(text)
    best = set(sorted(own, key=lambda w: (not is_topic(own[w]), known.get(w, 0), w))[:LEADS])
    return tuple(own[word] for word in reversed(own) if word in best)


def _led(value: str, about: str, here: Mapping[str, str], known: Mapping[str, int]) -> str:
    """A value behind that word of it, or of what it is about, that is most at home here, in the form it has here."""
    mine, own = spoken(value), {**spoken(about), **spoken(value)}
    if not own:
        return value

    def rank(word: str) -> tuple[bool, bool, bool, int, str]:
        topic = is_topic(own[word])
        return word not in here or not topic, word not in mine, not topic, known.get(word, 0), word

    lead = min(own, key=rank)
    return f"{here.get(lead, own[lead])}: {value}"


# --- lines and places ------------------------------------------------------------------------------------------------


def _lines(raw: bytes | None) -> list[str]:
    return (raw or b"").decode("utf-8", "replace").splitlines()[:MAX_LINES]


def _path(path: str) -> str:
    """A path as it is shown: its end, where it is long."""
    return plain(path)[-PLACE:]


def _kind(path: str) -> str:
    return "heading" if path.endswith(_PROSE) else "symbol"


def places(lines: Sequence[str], path: str) -> dict[int, str]:
    """The lines at which a symbol or a heading starts, with its name; a method has its class before it."""
    found: dict[int, str] = {}
    if path.endswith(_PROSE):
        for n, line in enumerate(lines):
            match = _HEADING.match(line[:LINE])
            under = lines[n + 1][:LINE].strip() if n + 1 < len(lines) else ""
            if match is not None:
                found[n] = " ".join(plain(match[1]).split()).rstrip(" #:")[:PLACE]
            elif _UNDERLINE.fullmatch(under) and len(under) >= 0.8 * len(line.rstrip()) and line[:1].isalnum():
                found[n] = " ".join(plain(line[:LINE]).split())[:PLACE]
        return {n: name for n, name in found.items() if name}
    owners: list[tuple[int, str]] = []
    for n, line in enumerate(lines):
        match = _SYMBOL.match(line[:LINE])
        if match is None:
            continue
        depth = _indent(line)
        while owners and owners[-1][0] >= depth:
            owners.pop()
        found[n] = f"{owners[-1][1]}.{match[1]}"[:PLACE] if owners else match[1][:PLACE]
        owners.append((depth, match[1]))
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


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


def _owner(lines: Sequence[str], at: int, fresh: frozenset[int], known: Mapping[int, str], path: str) -> int | None:
    """The line of the symbol or heading that a line belongs to: what it stands in, or stands directly above."""
    prose, depth = path.endswith(_PROSE), _indent(lines[at])
    below = next((n for n in range(at + 1, min(at + 40, len(lines))) if n not in fresh and lines[n].strip()), None)
    if not prose and below is not None and below in known and _indent(lines[below]) == depth:
        return below
    above = (n for n in sorted(known, reverse=True) if n < at and n not in fresh)
    return next((n for n in above if prose or _indent(lines[n]) < depth), None)


def _shown(lines: Sequence[str], at: int, fresh: frozenset[int], owner: int | None) -> str:
    """What stands around a line, without what was written there."""
    first = max(0, at - 6) if owner is None else min(owner, at)
    kept = [n for n in range(first, min(len(lines), max(first, at) + BLOCK)) if n not in fresh and lines[n].strip()]
    before, after = [n for n in kept if n < at and (n == owner or n >= at - 4)], [n for n in kept if n > at]
    if owner is not None:
        depth = _indent(lines[owner])
        ends = (n for n in after if n != owner and _indent(lines[n]) <= depth and lines[n].strip()[0].isalpha())
        end = next(ends, len(lines))
        after = [n for n in after if n < end or n == owner]
    return plain("\n".join(lines[n].rstrip()[:TEXT] for n in (*before, *after[:8]))[:AROUND])


def _outline(lines: Sequence[str], path: str) -> str:
    heads = [lines[n].rstrip()[:TEXT] for n in places(lines, path)]
    return plain("\n".join(heads or [line.rstrip()[:TEXT] for line in lines[:BLOCK] if line.strip()])[:AROUND])


# --- the change ------------------------------------------------------------------------------------------------------


def passage(ws: Workspace) -> Passage | None:
    """The most telling line of the change: of the target where it changed, else of a file beside it. Where nothing was
    added it is one that was taken away; where nothing but its name changed, the name."""
    now, base = _lines(ws.look(ws.target)), _lines(ws.base(ws.origin))
    topics = words(f"{ws.origin}\n{_outline(base, ws.origin)}")
    for path, lines, other in ((ws.target, now, base), (ws.origin, base, now)):
        found = _telling(path, lines, _fresh(lines, other), topics)
        if found is not None:
            return found
    for path, raw in ws.changes().items():
        if path in (ws.target, ws.origin):
            continue
        lines, old = _lines(raw), ws.base(path)
        found = _telling(path, lines, _fresh(lines, _lines(old)), topics)
        if found is not None and old is None:
            return found._replace(place=_path(ws.origin), kind="file", around=_outline(base, ws.origin))
        if found is not None:
            return found
    if ws.target == ws.origin:
        return None
    first = next(iter(places(now, ws.target).values()), "")
    where = (first, _kind(ws.target)) if first else (_path(ws.origin), "file")
    return Passage(ws.target, _path(ws.target), "name", *where, _outline(now, ws.target))


def _telling(path: str, lines: Sequence[str], fresh: Sequence[int], topics: frozenset[str]) -> Passage | None:
    """The new line that says most: one that speaks of what the target does, in words rather than code, the first."""

    def weight(n: int) -> tuple[bool, bool, int, int]:
        said = words(bare(lines[n]))
        return bool(said & topics), sort_of(lines[n]).endswith("text"), min(len(said), 8), -n

    useful = [n for n in fresh if spoken(bare(lines[n]))]
    if not useful:
        return None
    at, new, known = max(useful, key=weight), frozenset(fresh), places(lines, path)
    owner = _owner(lines, at, new, known, path)
    place, kind = (_path(path), "file") if owner is None else (known[owner], _kind(path))
    return Passage(path, bare(lines[at]), sort_of(lines[at]), place, kind, _shown(lines, at, new, owner))


# --- what it is compared with ----------------------------------------------------------------------------------------


def _elsewhere(ws: Workspace, path: str) -> list[tuple[str, list[str]]]:
    """Other files of the base tree with the same ending, in an order of this item's own; the target comes last."""
    ending, test = path.rpartition(".")[2], is_test(path)
    others = [
        other
        for other in ws.facts.paths
        if other.rpartition(".")[2] == ending and other not in (path, ws.origin) and is_test(other) == test
    ]
    chosen = [*sorted(others, key=lambda other: _hash("file", ws.origin, other))[:OTHER_FILES], ws.origin]
    found = ((other, ws.base(other)) for other in chosen)
    return [(other, _lines(raw[:OTHER_BYTES])) for other, raw in found if raw is not None and b"\0" not in raw]


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).digest()


def _values(
    ws: Workspace,
    here: str,
    known: Mapping[str, int],
    true: tuple[str, str],
    others: Iterable[tuple[str, str]],
    spare: Sequence[str],
) -> Values:
    """The true value among others that have few words in common with what the reviewer sees. Each value comes with a
    text that says what it is about."""
    seen = spoken(here)
    about: dict[str, str] = {}
    for value, text in others:
        own = spoken(value)
        if value != true[0] and len(own.keys() & seen.keys()) <= ALIKE * len(own):
            about[value] = text

    def order(value: str) -> tuple[int, int, bytes]:
        return (
            len(spoken(value).keys() & seen.keys()),
            len(spoken(about[value]).keys() & seen.keys()),
            _hash("pick", ws.origin, value),
        )

    picked = sorted(about, key=order)[:OTHERS]
    picked += [value for value in spare if value != true[0]][: OTHERS - len(picked)]
    about[true[0]] = true[1]
    led = {value: _led(value, about.get(value, ""), seen, known) for value in (true[0], *picked)}
    return Values(tuple(sorted(led.values(), key=lambda v: _hash("order", ws.origin, v))), led[true[0]])


def _counted(files: Iterable[tuple[str, Sequence[str]]]) -> Counter[str]:
    """In how many lines each word stands."""
    found: Counter[str] = Counter()
    for _, lines in files:
        for line in lines:
            found.update(spoken(line[:LINE]).keys())
    return found


def _texts(files: Iterable[tuple[str, Sequence[str]]], here: Passage, own: str) -> Iterator[tuple[str, str]]:
    """Lines of other files, of the same sort and about the same length."""
    low, high = len(here.text) // 2, max(24, len(here.text) * 2)
    for path, lines in files:
        for line in lines if path != own else ():
            if len(line) <= LINE and sort_of(line) == here.sort:
                text = bare(line)
                if low <= len(text) <= high and spoken(text):
                    yield text, ""


def _places(files: Iterable[tuple[str, Sequence[str]]], here: Passage) -> Iterator[tuple[str, str]]:
    """Places of the same kind, with what stands in them."""
    for path, lines in files:
        if here.kind == "file":
            yield _path(path), _block(lines, 0)
            continue
        known = places(lines, path)
        for n, name in known.items():
            end = next((m for m in range(n + 1, min(n + BLOCK, len(lines))) if m in known), n + BLOCK)
            yield name, _block(lines[:end], n)


def _block(lines: Sequence[str], start: int) -> str:
    return "\n".join(line[:TEXT] for line in lines[start : start + BLOCK])


# --- the tools -------------------------------------------------------------------------------------------------------


def _sight(here: Passage, ws: Workspace) -> str:
    """What reviewer A sees."""
    return f"{here.place if here.kind != 'file' else ws.origin}\n{here.around}"


def read_around(ws: Workspace, args: Nothing) -> Around:
    """The file without the change."""
    here, path = passage(ws), ascii(ws.origin)[1:-1]
    if here is None:
        return Around(path=path, place="", text="", words=())
    words = _given(_sight(here, ws), _counted(_elsewhere(ws, here.path)))
    return Around(path=path, place=here.place, text=here.around, words=words)


def read_written(ws: Workspace, args: Nothing) -> Written:
    """What was written."""
    here = passage(ws)
    if here is None:
        return Written(text="", words=())
    return Written(text=here.text, words=_given(here.text, _counted(_elsewhere(ws, here.path))))


def _change(ws: Workspace) -> Values | None:
    here = passage(ws)
    if here is None:
        return None
    files = _elsewhere(ws, here.path)
    return _values(ws, _sight(here, ws), _counted(files), (here.text, ""), _texts(files, here, ws.origin), SPARE_TEXTS)


def _place(ws: Workspace) -> Values | None:
    here = passage(ws)
    if here is None:
        return None
    files = _elsewhere(ws, here.path)
    true, spare = (here.place, here.around), SPARE_PLACES[here.kind]
    return _values(ws, here.text, _counted(files), true, _places(files, here), spare)


def offer_change(ws: Workspace) -> tuple[Offer, ...]:
    """The line that was written among lines of other files."""
    values = _change(ws)
    return () if values is None else (Offer(tool="match_change", args={"text": values.all}),)


def offer_place(ws: Workspace) -> tuple[Offer, ...]:
    """Where it was written among other places."""
    values = _place(ws)
    return () if values is None else (Offer(tool="match_place", args={"place": values.all}),)


def match_change(ws: Workspace, args: TextArgs) -> Matched:
    return _match(ws, args.text, _change)


def match_place(ws: Workspace, args: PlaceArgs) -> Matched:
    return _match(ws, args.place, _place)


def _match(ws: Workspace, chosen: str, question: Callable[[Workspace], Values | None]) -> Matched:
    """Both reviewers judge one thing, from its two ends: whether the text is in its place."""
    values = question(ws)
    if values is None or chosen not in values.all:
        raise ToolError("cannot match", ascii(chosen), "it is not among the values")
    return Matched(field="place", chosen=chosen, proposed=(values.true,), same=chosen == values.true)


TOOLS = (
    Tool("read_around", "read the file without the change", Nothing, Around, {}, read_around),
    Tool("read_written", "read what was written", Nothing, Written, {}, read_written),
    Tool(
        "match_change",
        "give the text that was written for the file",
        TextArgs,
        Matched,
        {"text": "harbour: Load the tide tables of a harbour"},
        match_change,
        offer_change,
    ),
    Tool(
        "match_place",
        "give the place that the text belongs to",
        PlaceArgs,
        Matched,
        {"place": "harbour: load_tides"},
        match_place,
        offer_place,
    ),
)
