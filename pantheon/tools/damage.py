"""Damage that real notes come with: text decoded wrongly, floods of blank lines, timestamps with a diff in them.

Pure functions over bytes; each finds its damage and puts right what has one right answer. What is doubtful is only
reported. All passes are linear in the size of the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pantheon.errors import InputError
from pantheon.forms import TEXTS_AT_ONCE
from pantheon.frontmatter import Document, Value, parse

LAYERS = 3  # how often a text may have gone through the wrong decoder
MAX_LINE = 20_000  # characters: a longer line is not examined
_SEEN = 16  # blank lines that a first look for a long run asks for, at most

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_STAMP = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?: ?(?:Z|[+-]\d\d:?\d\d))?)?")


def mojibake_lines(raw: bytes) -> tuple[list[int], list[int]]:
    """Line numbers of text that was UTF-8 read as Mac Roman: (repair is certain, repair is doubtful)."""
    if raw.isascii():
        return [], []
    fixed, doubtful = _repaired(raw)
    return [number + 1 for number in fixed], [number + 1 for number in doubtful]


def fix_mojibake(raw: bytes) -> bytes:
    """The file with every line put right whose repair is certain; all other bytes as they are."""
    if raw.isascii():
        return raw
    fixed, _ = _repaired(raw)
    if not fixed:
        return raw
    return "\n".join(fixed.get(n, line) for n, line in enumerate(_lines(raw))).encode("utf-8", "surrogateescape")


def _lines(raw: bytes) -> list[str]:
    return raw.decode("utf-8", "surrogateescape").split("\n")


@lru_cache(TEXTS_AT_ONCE)  # each tool, rule and check of an item looks for damage in the same few texts
def _repaired(raw: bytes) -> tuple[Mapping[int, str], Sequence[int]]:
    """(index: repaired line, indexes of doubtful lines).

    A repair must round-trip through the wrong decoder, and ftfy's model of what text looks like must agree on at least
    one line of the file: what it misses on its own (a short heading that starts with an emoji) is then put right too.
    """
    lines = _lines(raw)
    odd = {n: line for n, line in enumerate(lines) if not line.isascii() and len(line) <= MAX_LINE}
    decoded = {n: text for n, line in odd.items() if (text := _undone(line)) is not None}
    suspects = [n for n, line in odd.items() if n not in decoded and _looks_roman(line)]
    if not decoded and not suspects:
        return {}, []
    from ftfy import fix_encoding  # here, for it takes as long to load as all rules together
    from ftfy.badness import is_bad

    doubtful = [n for n in suspects if is_bad(lines[n])]
    if any(fix_encoding(lines[n]) == text for n, text in decoded.items()):
        return decoded, doubtful
    return {}, sorted([*doubtful, *(n for n in decoded if is_bad(lines[n]))])


def _undone(line: str) -> str | None:
    """The line before it went through the wrong decoder, up to LAYERS times; None when it did not."""
    text = line
    for _ in range(LAYERS):
        try:
            text = text.encode("mac_roman").decode("utf-8")
        except UnicodeError:
            break
        if text.isascii():
            break
    if text == line or any((c < " " and c not in "\t\r") or "\x7f" <= c <= "\x9f" for c in text):
        return None
    return text


def _looks_roman(line: str) -> bool:
    """Whether a stretch of the line, read as Mac Roman bytes, is UTF-8."""
    for run in re.findall(r"[^\x00-\x7f]{2,}", line):
        try:
            run.encode("mac_roman").decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False


def blank_runs(raw: bytes, longest: int) -> list[tuple[int, int]]:
    """(first line, length) of every run of more than `longest` blank lines outside fenced code."""
    return [(start + 1, count) for start, count in _runs(raw, longest)]


def cut_blank_runs(raw: bytes, longest: int) -> bytes:
    """The file with one blank line in the place of every run of more than `longest`."""
    runs = _runs(raw, longest)
    if not runs:
        return raw
    lines = raw.split(b"\n")
    kept: list[bytes] = []
    at = 0
    for start, count in runs:
        kept += lines[at : start + 1]
        at = start + count
    return b"\n".join(kept + lines[at:])


def _runs(raw: bytes, longest: int) -> list[tuple[int, int]]:
    """(index, count) of the long runs. A fence that is never closed does not hide what is behind it."""
    if not re.search(rb"\n(?:[^\S\n]*\n){%d}" % max(0, min(longest - 1, _SEEN)), raw):
        return []  # so are nearly all, and line by line it takes a hundred times as long
    found: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    fence, start, count = "", 0, 0
    for number, line in enumerate([*raw.split(b"\n"), b"x"]):
        if not line.strip():
            start, count = (start, count + 1) if count else (number, 1)
            continue
        if count > longest:
            (inside if fence else found).append((start, count))
        count = 0
        match = _FENCE.match(line[:200].decode("utf-8", "replace"))
        if match and not fence:
            fence, inside = match[1], []
        elif match and match[1].startswith(fence) and not line.strip().strip(fence[:1].encode()):
            fence = ""
    return found + inside if fence else found


def overlong_stamps(value: Value, key: str) -> list[str]:
    """The texts under `key` in a list of mappings that start with a timestamp and go on with something else."""
    entries = value if isinstance(value, list) else [value]
    stamps = [entry.get(key) for entry in entries if isinstance(entry, dict)]
    return [s for s in stamps if isinstance(s, str) and s and not _STAMP.fullmatch(s)]


def cut_history(doc: Document, name: str, key: str) -> bytes | None:
    """The file with every overlong stamp under `name` cut back to its timestamp, or None when that is not certain.

    Certain means: one double-quoted text on one line, and reading the result again gives the same entries with the
    stamps cut.
    """
    field = doc.field(name)
    if field is None:
        return None
    head = rb"^([ \t-]*" + re.escape(key).encode() + rb':[ \t]*")(' + _STAMP.pattern.encode() + rb")"
    line = re.compile(head + rb'\\n[^\n]*"[ \t]*(\r?)$', re.MULTILINE)
    fixed = line.sub(rb'\1\2"\3', doc.raw[field.start : field.end])
    raw = doc.raw[: field.start] + fixed + doc.raw[field.end :]
    try:
        after = parse(raw, doc.path)
    except InputError:
        return None
    return raw if after.get(name) == _cut(field.value, key) and after.body == doc.body else None


def _cut(value: Value, key: str) -> Value:
    if isinstance(value, list):
        return [_cut(entry, key) for entry in value]
    if not isinstance(value, dict):
        return value
    stamp = value.get(key)
    match = _STAMP.match(stamp) if isinstance(stamp, str) else None
    return {**value, key: match[0]} if match else value
