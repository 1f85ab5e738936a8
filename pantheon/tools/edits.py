"""The tools that change: a text for another, a whole symbol, a field of front matter, the name of a file.

For agents of any flow. An edit is refused, and leaves every byte, where its place is not exact, where a file that
parsed would not parse any more, and where the same call would change something a second time.
"""

from __future__ import annotations

import posixpath
import re
import textwrap

from pydantic import Field

from pantheon.errors import InputError, ToolError
from pantheon.frontmatter import Document, parse, set_field
from pantheon.names import name_fault
from pantheon.records import Offer, Record
from pantheon.tools import links, syntax
from pantheon.tools.files import text_of
from pantheon.tools.tool import Tool
from pantheon.tools.workspace import Workspace

MAX_TEXT = 4_000  # characters that one edit replaces or puts in
MAX_OFFERED = 40
MAX_PLACES = 1_000  # at which a text is looked for
TYPED = 400  # characters that a model is asked to write
MARKDOWN = (".md", ".markdown")
_ODD = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")  # what no editor shows


class EditArgs(Record):
    old: str = Field(min_length=1, max_length=MAX_TEXT)
    new: str = Field(max_length=MAX_TEXT)


class SymbolArgs(Record):
    symbol: str = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1, max_length=4 * MAX_TEXT)


class FrontArgs(Record):
    field: str = Field(min_length=1, max_length=60, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")
    value: str = Field(min_length=1, max_length=400)


class RenameArgs(Record):
    name: str = Field(min_length=1, max_length=255)


class Edited(Record):
    path: str
    line: int  # of the first byte that differs, 0: none does
    changed: bool


class FrontSet(Record):
    field: str
    value: str
    changed: bool


class Moved(Record):
    path: str
    relinked: tuple[str, ...]


def put(ws: Workspace, text: str) -> Edited:
    """Make `text` the target's. ToolError: it holds characters that nobody sees and that were not there, or the file
    parsed and would not any more."""
    before = text_of(ws, ws.target)
    if text == before:
        return Edited(path=ws.target, line=0, changed=False)
    strange = set(_ODD.findall(text)) - set(_ODD.findall(before))
    if strange:
        raise ToolError("cannot edit", ascii(ws.target), f"the new text holds {min(strange)!a}")
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as cause:
        raise ToolError("cannot edit", ascii(ws.target), "the new text is not valid UTF-8") from cause
    why = syntax.fault(ws.target, raw)
    if why and not syntax.fault(ws.target, before.encode("utf-8")):
        raise ToolError("cannot edit", ascii(ws.target), f"the result does not parse: {why}")
    ws.read(ws.target)  # brings it in, and refuses what may not be written
    ws.write(ws.target, raw)
    same = next((n for n, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), min(len(before), len(text)))
    return Edited(path=ws.target, line=text.count("\n", 0, same) + 1, changed=True)


# --- a text for another ----------------------------------------------------------------------------------------------


def edit(ws: Workspace, args: EditArgs) -> Edited:
    """Replace a text that stands at one place by another. Where the other stands already, nothing changes."""
    text, old, new = text_of(ws, ws.target), args.old, args.new
    if "\r\n" in text:
        old, new = (re.sub(r"\r?\n", "\r\n", one) for one in (old, new))
    places = _places(text, old, new)
    if len(places) > 1:
        raise ToolError("cannot edit", ascii(ws.target), f"the text stands at {len(places)} places: give more of it")
    if places:
        result = text[: places[0]] + new + text[places[0] + len(old) :]
        if _places(result, old, new):
            raise ToolError("cannot edit", ascii(ws.target), "the old text would stand there again: give more of it")
        return put(ws, result)
    if new in text if new else old in (ws.base(ws.origin) or b"").decode("utf-8", "replace"):
        return Edited(path=ws.target, line=0, changed=False)
    raise ToolError("cannot edit", ascii(ws.target), "the text to replace is not there")


def _places(text: str, old: str, new: str) -> list[int]:
    """Where `old` stands and is not a part of `new` already."""
    inside = [] if old not in new else _all(text, new)
    found, at = [], 0
    for place in _all(text, old):
        while at < len(inside) and inside[at] + len(new) < place + len(old):
            at += 1
        if at == len(inside) or inside[at] > place:
            found.append(place)
    return found


def _all(text: str, part: str) -> list[int]:
    """Every index of `part`, also of those that overlap."""
    found, at = [], text.find(part)
    while at >= 0:
        found.append(at)
        if len(found) > MAX_PLACES:
            raise ToolError("cannot edit", ascii(part[:40]), f"it stands at more than {MAX_PLACES} places")
        at = text.find(part, at + 1)
    return found


def offer_edit(ws: Workspace) -> tuple[Offer, ...]:
    """Its lines to choose from where they are few; what comes in their place is written."""
    text = text_of(ws, ws.target)
    lines = [line.strip() for line in text.splitlines()]
    alone = tuple(dict.fromkeys(one for one in lines if 0 < len(one) <= TYPED and text.count(one) == 1))
    old = alone if 0 < len(alone) <= MAX_OFFERED and len(lines) <= 4 * MAX_OFFERED else None
    return (Offer(tool="edit", args={"old": old, "new": None}, max_length=TYPED),) if text.strip() else ()


# --- a whole symbol --------------------------------------------------------------------------------------------------


def _named(ws: Workspace, text: str) -> dict[str, syntax.Symbol]:
    """The symbols of the target whose name no other has; those of the focus where it is one."""
    found: dict[str, syntax.Symbol] = {}
    twice = set()
    for symbol in syntax.symbols(ws.target, text.encode("utf-8")):
        twice |= {symbol.name} & found.keys()
        found[symbol.name] = symbol
    return {name: symbol for name, symbol in found.items() if name not in twice}


def edit_symbol(ws: Workspace, args: SymbolArgs) -> Edited:
    """Replace a function, class or method by another of the same name, indented as the old one is."""
    text = text_of(ws, ws.target)
    raw = text.encode("utf-8")
    if not syntax.has_symbols(ws.target) or syntax.fault(ws.target, raw):
        why = syntax.fault(ws.target, raw) or "it is in no language that is known here"
        raise ToolError("cannot edit", ascii(ws.target), why)
    symbol = _named(ws, text).get(args.symbol)
    if symbol is None:
        raise ToolError("cannot edit", ascii(args.symbol), "the file has not exactly one symbol of that name")
    before = raw[: symbol.start]
    margin = before[before.rfind(b"\n") + 1 :].decode("utf-8")
    fresh = textwrap.dedent(args.text.replace("\r\n", "\n")).strip("\n")
    if not margin.strip():
        fresh = textwrap.indent(fresh, margin).removeprefix(margin)
    fresh = fresh.replace("\n", "\r\n") if b"\r\n" in raw else fresh
    result = before + fresh.encode("utf-8") + raw[symbol.end :]
    made = [one for one in syntax.symbols(ws.target, result) if one.name == symbol.name]
    if [(one.kind, one.start, one.end) for one in made] != [
        (symbol.kind, symbol.start, symbol.start + len(fresh.encode("utf-8")))
    ]:
        raise ToolError("cannot edit", ascii(args.symbol), f"the new text is not that {symbol.kind} and nothing else")
    return put(ws, result.decode("utf-8"))


def offer_symbol(ws: Workspace) -> tuple[Offer, ...]:
    """The symbols of the target; the one in focus where one is."""
    text = text_of(ws, ws.target)
    names = tuple(_named(ws, text))
    names = (ws.focus,) if ws.focus in names else names[:MAX_OFFERED]
    if not names or syntax.fault(ws.target, text.encode("utf-8")):
        return ()
    return (Offer(tool="edit_symbol", args={"symbol": names, "text": None}, max_length=4 * TYPED),)


# --- front matter ----------------------------------------------------------------------------------------------------


def _document(ws: Workspace) -> Document:
    try:
        return parse(text_of(ws, ws.target).encode("utf-8"), ws.target)
    except InputError as cause:
        raise ToolError("cannot edit", ascii(ws.target), cause.why) from cause


def set_front_matter(ws: Workspace, args: FrontArgs) -> FrontSet:
    """Set a field of the front matter; of a list, add the value."""
    if not ws.target.lower().endswith(MARKDOWN):
        raise ToolError("cannot set", ascii(args.field), "front matter is for Markdown files")
    if not args.value.isprintable():
        raise ToolError("cannot set", ascii(args.field), "the value is not one line of text")
    doc = _document(ws)
    have = doc.get(args.field)
    if have == args.value or (isinstance(have, list) and args.value in have):
        return FrontSet(field=args.field, value=args.value, changed=False)
    if isinstance(have, dict) or (isinstance(have, list) and not all(isinstance(one, str) for one in have)):
        raise ToolError("cannot set", ascii(args.field), "it holds more than text, or than a list of texts")
    value = [*(one for one in have if isinstance(one, str)), args.value] if isinstance(have, list) else args.value
    try:
        made = set_field(doc, args.field, value)
        found = parse(made, ws.target).get(args.field)
    except InputError as cause:
        raise ToolError("cannot set", ascii(args.field), cause.why) from cause
    if found != value:
        raise ToolError("cannot set", ascii(args.field), "it would not be read back as it was set")
    return FrontSet(field=args.field, value=args.value, changed=put(ws, made.decode("utf-8")).changed)


def offer_front_matter(ws: Workspace) -> tuple[Offer, ...]:
    """The fields that the target has, and a text for one of them."""
    if not ws.target.lower().endswith(MARKDOWN):
        return ()
    names = tuple(one.key for one in _document(ws).fields if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,59}", one.key))
    offer = Offer(tool="set_front_matter", args={"field": names[:MAX_OFFERED], "value": None})
    return (offer,) if names else ()


# --- the name --------------------------------------------------------------------------------------------------------


def move(ws: Workspace, name: str) -> tuple[str, ...]:
    """Give the target another name in its folder and make the links of other files follow; the files they are in."""
    folder, _, now = ws.target.rpartition("/")
    if name == now:
        return ()
    old, new = ws.target, f"{folder}/{name}" if folder else name
    tree = ws.facts.tree
    if old != ws.origin:
        tree = links.Tree((tree.files - {ws.origin}) | {old})
    moved = {old: new}
    rewritten = {
        path: links.rewrite(ws.read(path), path, moved, tree)
        for path in ws.facts.inbound.get(ws.origin, ())
        if path != ws.origin
    }
    raw = ws.read(old)
    own = links.rewrite(raw, old, moved, tree)
    ws.rename(old, new)
    if own != raw:
        ws.write(new, own)
    changed = tuple(path for path, data in rewritten.items() if data != ws.read(path))
    for path in changed:
        ws.write(path, rewritten[path])
    return changed


def rename_file(ws: Workspace, args: RenameArgs) -> Moved:
    """Rename the target; its ending stays, and links to it follow."""
    fault = name_fault(args.name)
    if fault:
        raise ToolError("cannot rename", ascii(args.name), fault)
    ending = posixpath.splitext(ws.target)[1]
    if posixpath.splitext(args.name)[1] != ending:
        raise ToolError("cannot rename", ascii(args.name), f"its ending has to stay {ending!a}")
    relinked = move(ws, args.name)
    return Moved(path=ws.target, relinked=relinked)


def offer_rename(ws: Workspace) -> tuple[Offer, ...]:
    return (Offer(tool="rename_file", args={"name": None}, max_length=100),) if not ws.focus else ()


TOOLS = (
    Tool(
        "edit",
        "replace a text that stands once in the file by another",
        EditArgs,
        Edited,
        {"old": "Back up every night.", "new": "Back up every night at two."},
        edit,
        offer_edit,
    ),
    Tool(
        "edit_symbol",
        "replace a whole function, class or method",
        SymbolArgs,
        Edited,
        {"symbol": "Backup.age", "text": "def age(self) -> int:\n    return self.now - self.made"},
        edit_symbol,
        offer_symbol,
    ),
    Tool(
        "set_front_matter",
        "set a field of the front matter",
        FrontArgs,
        FrontSet,
        {"field": "title", "value": "Nightly backups"},
        set_front_matter,
        offer_front_matter,
    ),
    Tool(
        "rename_file",
        "rename the file; links to it follow",
        RenameArgs,
        Moved,
        {"name": "nightly-backups.md"},
        rename_file,
        offer_rename,
    ),
)
