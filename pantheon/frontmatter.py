"""Markdown files with YAML front matter, read with their byte offsets and edited byte for byte.

Ring 0: pure syntax. `parse` says where every top-level field stands; `set_field` and `remove_field` return new bytes in
which only that field's bytes differ. Every scalar is text: `4930e12`, `0123`, `12:30` and `yes` are never resolved.
What a field should hold is no business of this module (tools/rules.py, tasks.py), nor is the Markdown below the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, TypeAlias

import yaml

from pantheon.errors import InputError
from pantheon.forms import TEXTS_AT_ONCE

Value: TypeAlias = "str | list[Value] | dict[str, Value]"

MAX_FILE = 2 * 1024 * 1024  # bytes
MAX_BLOCK = 256 * 1024  # bytes of front matter
MAX_DEPTH = 16
BOM = b"\xef\xbb\xbf"

_ENVELOPE = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OPEN = re.compile(rb"---[ \t]*\r?(?:\n|\Z)")
_CLOSE = re.compile(rb"^(?:---|\.\.\.)[ \t]*\r?$", re.MULTILINE)
_COMMENT = re.compile(rb"[ \t]*#")
_UNPRINTABLE = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]")
_PLAIN = re.compile(r"[^\W\d_](?:[^\n#:,\[\]{}\"'\\|>&*!%@`]|[:#](?=\S))*\Z")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_COLON = re.compile(r"[ \t]*:")
_HEAD_COMMENT = re.compile(rb"[ \t]*?(?:[|>][0-9+-]*)?([ \t]+#[^\r\n]*)")
_STYLES = {"": "plain", "'": "single", '"': "double", "|": "literal", ">": "folded"}
_SHORT = {"\0": "\\0", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\x1b": "\\e", "\x85": "\\N", "\xa0": "\\_"}


@dataclass(frozen=True, slots=True)
class Field:
    """A top-level field. Offsets are bytes of the file; `line` counts from 1.

    `start`..`end` are whole lines, with the comment lines directly above and the indented ones directly below;
    `colon` is the offset just after the key's colon; `value_start`..`value_end` the value without a comment behind it.
    `style` is one of plain, single, double, literal, folded, empty, flow, block; `item_style` that of a list's first.
    """

    key: str
    value: Value
    line: int
    start: int
    end: int
    colon: int
    value_start: int
    value_end: int
    style: str
    item_style: str = ""
    keeps_blanks: bool = False  # `|+` and `>+`: blank lines behind it belong to the value


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. The block's text is `raw[block_start:block_end]`, the Markdown below it `raw[body_start:]`."""

    path: str
    raw: bytes
    fields: tuple[Field, ...]
    newline: bytes
    has_front_matter: bool
    block_start: int
    block_end: int
    body_start: int
    indent: bytes = b""

    @property
    def body(self) -> bytes:
        return self.raw[self.body_start :]

    @property
    def body_line(self) -> int:
        """The line number of the body's first line."""
        return self.raw.count(b"\n", 0, self.body_start) + 1

    def field(self, key: str) -> Field | None:
        return next((f for f in self.fields if f.key == key), None)

    def get(self, key: str) -> Value | None:
        found = self.field(key)
        return None if found is None else found.value

    def mapping(self) -> dict[str, Value]:
        return {f.key: f.value for f in self.fields}


@dataclass(slots=True)
class _Node:
    """A YAML node: its value, its extent in characters, and where its last character with content ends."""

    value: Value
    start: int
    end: int
    style: str
    item_style: str = ""


@lru_cache(TEXTS_AT_ONCE)  # an item's tools, rules and reviewers ask for the same few texts a hundred times
def parse(raw: bytes, path: str, *, error: type[InputError] = InputError) -> Document:
    """Read a file. A file whose first line is not `---` has no front matter. The values are not the caller's to change.

    Raises `error` (path, line) when the file is not UTF-8 or too large, and when the block is not closed, not YAML, not
    a block mapping at the top, nested too deep, or uses anchors, aliases or a key twice.
    """

    def refuse(why: str, line: int = 0) -> InputError:
        return error("cannot read the front matter", path, why, line)

    if len(raw) > MAX_FILE:
        raise refuse(f"{len(raw)} bytes, more than the {MAX_FILE} allowed")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise refuse(f"not UTF-8 at byte {cause.start}", raw.count(b"\n", 0, cause.start) + 1) from cause
    newline = b"\r\n" if raw[: raw.find(b"\n") + 1].endswith(b"\r\n") else b"\n"
    top = len(BOM) if raw.startswith(BOM) else 0
    opened = _OPEN.match(raw, top)
    if opened is None:
        return Document(path, raw, (), newline, False, top, top, top)
    closed = _CLOSE.search(raw, opened.end())
    if closed is None:
        raise refuse("front matter opened with --- is never closed", 1)
    start, end = opened.end(), closed.start()
    if end - start > MAX_BLOCK:
        raise refuse(f"front matter of {end - start} bytes, more than the {MAX_BLOCK} allowed", 1)
    body = closed.end() + 1 if closed.end() < len(raw) else len(raw)
    fields, indent = _fields(raw, start, end, refuse)
    return Document(path, raw, fields, newline, True, start, end, body, indent)


def _fields(raw: bytes, start: int, end: int, refuse: Any) -> tuple[tuple[Field, ...], bytes]:
    """The block's fields and the indentation of its keys."""
    text = raw[start:end].decode("utf-8")
    pairs = _compose(text, refuse)
    widths = None if text.isascii() else [0, *accumulate(len(c.encode()) for c in text)]
    fields: list[Field] = []
    floor, column = start, 0
    line, counted = 1, 0
    for key, value in pairs:
        at = [n if widths is None else widths[n] for n in (key.start, key.end, value.start, value.end)]
        k0, k1, v0, v1 = (start + n for n in at)
        row = raw.rfind(b"\n", 0, k0) + 1
        line += raw.count(b"\n", counted, k0)
        counted = k0
        if raw[row:k0].strip(b" ") or (fields and row < fields[-1].end):
            raise refuse("two fields on one line, or a key that is not at the start of its line", line)
        column = k0 - row
        colon = raw.index(b":", k1) + 1
        bottom = _line_end(raw, max(v1, colon), end)
        while bottom < end and _COMMENT.match(raw, bottom) and raw[bottom : bottom + column + 1].isspace():
            bottom = _line_end(raw, bottom, end)
        above = row
        while above > floor:
            previous = raw.rfind(b"\n", 0, above - 1) + 1
            if previous < floor or not _COMMENT.match(raw, previous, above):
                break
            above = previous
        header = text[value.start : value.end].partition("\n")[0].partition("#")[0]
        keeps = value.style in ("literal", "folded") and "+" in header
        fields.append(
            Field(str(key.value), value.value, line, above, bottom, colon, v0, v1, value.style, value.item_style, keeps)
        )
        floor = bottom
    return tuple(fields), b" " * column


def _line_end(raw: bytes, offset: int, limit: int) -> int:
    """The offset behind the newline of the line that `offset` is on (or ends)."""
    found = raw.find(b"\n", offset, limit)
    return limit if found < 0 else found + 1


def _compose(text: str, refuse: Any) -> list[tuple[_Node, _Node]]:
    """The top mapping's keys and values from YAML's event stream: no resolving, no recursion into Python objects."""
    try:
        events = _events(text, refuse)
        first = next(events, None)
        if first is None:
            return []
        if not isinstance(first, yaml.MappingStartEvent):
            raise refuse("the front matter is not a mapping of fields", _line(first))
        if first.flow_style:
            raise refuse("the front matter is one {...} mapping: write one field per line", _line(first))
        pairs, _ = _pairs(events, text, 1, refuse)
        if next(events, None) is not None:
            raise refuse("more than one YAML document", 2)
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        raise refuse(f"not YAML: {cause.problem or cause.context}", 2 + (mark.line if mark else 0)) from cause
    except yaml.reader.ReaderError as cause:
        raise refuse(f"not YAML: character {cause.character!r} is not allowed", 1) from cause
    except yaml.YAMLError as cause:
        raise refuse(f"not YAML: {cause}", 1) from cause
    return pairs


def _events(text: str, refuse: Any) -> Iterator[Any]:
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise refuse("anchors and aliases are not allowed", _line(event))
        if not isinstance(event, _ENVELOPE):
            yield event


def _line(event: Any) -> int:
    """The line of the file that an event of the block is on; the block starts on line 2."""
    return 2 + int(event.start_mark.line)


def _span(event: Any) -> tuple[int, int]:
    """An event's first character and the one behind it."""
    return int(event.start_mark.index), int(event.end_mark.index)


def _pairs(events: Iterator[Any], text: str, depth: int, refuse: Any) -> tuple[list[tuple[_Node, _Node]], int]:
    """A mapping's pairs, and the character offset behind its end."""
    seen: set[str] = set()
    pairs: list[tuple[_Node, _Node]] = []
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            return pairs, _span(event)[1]
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise refuse("a key that is not text", line)
        key = _node(event, events, text, depth, refuse)
        if not _COLON.match(text, _span(event)[1]):
            raise refuse("a key without a colon behind it", line)
        if str(key.value) in seen:
            raise refuse(f"the key {key.value!r} is there twice", line)
        seen.add(str(key.value))
        pairs.append((key, _node(next(events), events, text, depth, refuse)))
    raise AssertionError("YAML events end inside a mapping")


def _node(event: Any, events: Iterator[Any], text: str, depth: int, refuse: Any) -> _Node:
    start, end = _span(event)
    if isinstance(event, yaml.ScalarEvent):
        style = _STYLES[event.style or ""]
        if style in ("literal", "folded"):
            end = start + len(text[start:end].rstrip(" \t\r\n"))
        value = "" if style == "plain" and event.value in ("~", "null", "Null", "NULL") else event.value
        return _Node(value, start, end, style if end > start else "empty")
    if depth >= MAX_DEPTH:
        raise refuse(f"nested deeper than {MAX_DEPTH}", _line(event))
    style = "flow" if event.flow_style else "block"
    last = end
    if isinstance(event, yaml.MappingStartEvent):
        pairs, behind = _pairs(events, text, depth + 1, refuse)
        last = max(last, *(max(node.end, text.index(":", key.end) + 1) for key, node in pairs)) if pairs else last
        values = {str(key.value): node.value for key, node in pairs}
        return _Node(values, start, behind if style == "flow" else last, style)
    items: list[_Node] = []
    for inner in events:
        if isinstance(inner, yaml.SequenceEndEvent):
            last = _span(inner)[1] if style == "flow" else last
            break
        items.append(_node(inner, events, text, depth + 1, refuse))
        last = max(last, items[-1].end)
    return _Node([i.value for i in items], start, last, style, items[0].style if items else "")


# --- editing ---------------------------------------------------------------------------------------------------------


def set_field(doc: Document, key: str, value: str | list[str], *, order: Sequence[str] = ()) -> bytes:
    """The file with field `key` set to `value`; every other byte as it was. The same value again changes nothing.

    A new field goes behind the nearest field that stands before it in `order`, else before the nearest that follows,
    else last. A file without front matter gets a block at its top (behind a byte order mark).
    """
    field = doc.field(key)
    if field is None:
        return _insert(doc, key, value, order)
    if field.value == value:
        return doc.raw
    raw = doc.raw
    if field.style in ("block", "literal", "folded"):
        if isinstance(value, list) and value and field.style == "block" and isinstance(field.value, list):
            items = [_scalar(item, field.item_style or _house_style(doc)) for item in value]
            first = raw.rfind(b"\n", 0, field.value_start) + 1
            dash = raw[first : field.value_start]
            if not dash.strip(b" \t"):  # `tags:` and its items on lines of their own
                lines = doc.newline.join(dash + b"- " + item for item in items)
                return raw[:first] + lines + raw[_value_end(field) :]
        comment = _HEAD_COMMENT.match(raw, field.colon)
        text = _render(doc, value, "") + (comment[1] if comment else b"")
        return raw[: field.colon] + b" " + text + raw[_value_end(field) :]
    style = field.style if field.style in ("single", "double") else ""
    gap = b"" if field.style != "empty" and field.value_start > field.colon else b" "
    at = field.colon if field.style == "empty" else field.value_start
    return raw[:at] + gap + _render(doc, value, style) + raw[field.value_end if field.style != "empty" else at :]


def remove_field(doc: Document, key: str) -> bytes:
    """The file without field `key` and the comment lines directly above it; unchanged when there is no such field."""
    field = doc.field(key)
    return doc.raw if field is None else doc.raw[: field.start] + doc.raw[field.end :]


def _value_end(field: Field) -> int:
    return max(field.value_end, field.colon)


def _insert(doc: Document, key: str, value: str | list[str], order: Sequence[str]) -> bytes:
    name = key if _PLAIN_KEY.match(key) and not _resolves(key) else _quoted(key)
    text = name.encode() + b": " + _render(doc, value, "")
    if not doc.has_front_matter:
        block = b"---" + doc.newline + text + doc.newline + b"---" + doc.newline
        return doc.raw[: doc.body_start] + block + doc.raw[doc.body_start :]
    at = _place(doc, key, order)
    return doc.raw[:at] + doc.indent + text + doc.newline + doc.raw[at:]


def _place(doc: Document, key: str, order: Sequence[str]) -> int:
    def behind(index: int) -> int:
        field = doc.fields[index]
        if not field.keeps_blanks:
            return field.end
        return doc.fields[index + 1].start if index + 1 < len(doc.fields) else doc.block_end

    if not doc.fields:
        return doc.block_end
    at = {f.key: n for n, f in enumerate(doc.fields)}
    if key in order:
        rank = list(order).index(key)
        for name in reversed(order[:rank]):
            if name in at:
                return behind(at[name])
        for name in order[rank + 1 :]:
            if name in at:
                return doc.fields[at[name]].start
    return behind(len(doc.fields) - 1)


def _house_style(doc: Document) -> str:
    """How the file quotes its own fields: double, single or plain, whichever is most common."""
    styles = [f.style for f in doc.fields if f.style in ("plain", "single", "double")]
    return max(("double", "plain", "single"), key=styles.count) if styles else "double"


def _render(doc: Document, value: str | list[str], style: str) -> bytes:
    if isinstance(value, str):
        return _scalar(value, style or _house_style(doc))
    return ("[" + ", ".join(_quoted(item) for item in value) + "]").encode()


def _scalar(value: str, style: str) -> bytes:
    if style == "single" and "'" not in value and not _UNPRINTABLE.search(value):
        return f"'{value}'".encode()
    plain = style == "plain" and _PLAIN.match(value) and value == value.strip() and not _resolves(value)
    if plain and not _UNPRINTABLE.search(value):
        return value.encode()
    return _quoted(value).encode()


def _resolves(value: str) -> bool:
    """Whether another YAML reader would take the plain text for a number, a date, a boolean or null."""
    found = yaml.SafeLoader.yaml_implicit_resolvers.get(value[:1], [])
    return not value or value.lower() in ("y", "n") or any(pattern.match(value) for _, pattern in found)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _UNPRINTABLE.sub(_escape, escaped) + '"'


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in _SHORT:
        return _SHORT[match[0]]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
