"""A Markdown body as a reader sees it: headings, paragraphs, list items, sentences and words, without markup.

Pure and linear in the size of the text; only the first 64 KiB are read. It reads for excerpts and candidates and is no
Markdown parser: code, tables, HTML comments and link definitions are left out.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pantheon.forms import TEXTS_AT_ONCE
from pantheon.tools.words import stem, tag_of

MAX_TEXT = 65_536  # characters that are read
MAX_LINE = 4_000  # characters of one line
GROUNDED = 0.6  # of the words of a text that somebody wrote of a note, that stand in the note

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+|$)")
_ITEM = re.compile(r"\s*(?:[-*+\u2022]|\d{1,3}[.)])\s+(?:\[[ xX]\]\s+)?")
_RULE = re.compile(r"[ \t]*(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,}|=+)$")
_DEFINITION = re.compile(r" {0,3}\[[^\]\n]{1,200}\]:")
_IMAGE = re.compile(r"!\[[^\]\n]{0,200}\]\([^)\n]{0,500}\)")
_WIKI = re.compile(r"\[\[([^\]|\n]{1,200})(?:\|([^\]\n]{1,200}))?\]\]")
_LINK = re.compile(r"\[([^\]\[\n]{0,300})\](?:\([^)\n]{0,500}\)|\[[^\]\n]{0,200}\])")
_CITATION = re.compile(r"[ \t]*\(\[[^\]\[\n]{1,80}\]\[[^\]\n]{0,80}\]\)|\[\^[^\]\n]{1,40}\]")
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,200}>|<!--[^\n]{0,500}?-->")
_AUTOLINK = re.compile(r"<(https?://[^<>\s]{1,300})>")
_CODE = re.compile(r"`{1,2}([^`\n]{1,300})`{1,2}")
_STRONG = re.compile(r"\*{1,3}|~~|(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_SPACE = re.compile(r"\s+")
_EDGE = re.compile("^[^\\w(\"'\u201c\u2018@.]+|[\\s:,;\u2013\u2014-]+$")
_STOP = re.compile("(?<=[.!?])[\"')\\]\u201d\u2019]{0,2}\\s+(?=[\"'(\\[\u201c\u2018]?[A-Z0-9\u00c0-\u00de])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|approx|no|fig|incl|al|[A-Z])|^\W*\d{1,3})\.$", re.IGNORECASE)
_WORD = re.compile("[^\\W_](?:[^\\W_]|['\u2019.+#-](?=[^\\W_])|[+#](?!\\w))*")


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of text without markup. `kind`: heading, paragraph or item; `section` is the heading it stands under.

    `codes` counts its code spans: a sentence full of them makes a poor description.
    """

    kind: str
    text: str
    section: str
    level: int = 0
    codes: int = 0


def blocks(body: bytes) -> tuple[Block, ...]:
    """The body's blocks from the top; the last few bodies are remembered."""
    return _blocks(body[: MAX_TEXT * 2])


@lru_cache(TEXTS_AT_ONCE)
def _blocks(body: bytes) -> tuple[Block, ...]:
    found: list[Block] = []
    gathered: list[str] = []
    kind, section, fence, comment = "paragraph", "", "", False

    def flush() -> None:
        if gathered:
            raw = " ".join(gathered)
            text = plain(raw)
            if text:
                found.append(Block(kind, text, section, codes=len(_CODE.findall(raw))))
            gathered.clear()

    text = body.decode("utf-8", "ignore")[:MAX_TEXT]
    for line in text.splitlines():
        line = line[:MAX_LINE]
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if comment or line.lstrip().startswith("<!--"):
            comment = "-->" not in line
            flush()
            continue
        if mark:
            flush()
            fence = mark[1]
            continue
        bare = line.strip()
        quoted = bare.lstrip("> ").strip() if bare.startswith(">") else bare
        heading = _HEADING.match(line)
        item = _ITEM.match(line)
        if not quoted or _RULE.match(line) or quoted[0] == "|" or _DEFINITION.match(line) or _drawn(quoted):
            flush()
            kind = "paragraph"
        elif heading:
            flush()
            section = plain(line[heading.end() :].rstrip("# \t"))
            found.append(Block("heading", section, section, level=len(heading[1])))
            kind = "paragraph"
        elif item:
            flush()
            kind = "item"
            gathered.append(line[item.end() :].strip())
        elif not gathered and line.startswith(("    ", "\t")) and kind != "item":
            continue  # indented code
        else:
            gathered.append(quoted)
    flush()
    return tuple(found)


def _drawn(line: str) -> bool:
    """Box drawings and rows of arrows are pictures, not text."""
    return any("\u2500" <= c <= "\u259f" for c in line[:200])


def plain(text: str) -> str:
    """One line of text without markup: links reduced to their text, emphasis and code marks gone."""
    text = _IMAGE.sub("", text)
    text = _CITATION.sub("", text)
    text = _WIKI.sub(lambda m: m[2] or m[1], text)
    text = _AUTOLINK.sub(r"\1", text)
    parts = _CODE.split(text)
    for n in range(0, len(parts), 2):  # what is not between code marks
        part = _TAG.sub("", _LINK.sub(r"\1", parts[n]))
        parts[n] = html.unescape(_ESCAPE.sub(r"\1", _STRONG.sub("", part)))
    text = "".join(c for c in _LINK.sub(r"\1", "".join(parts)).replace("\ufe0f", "") if c.isprintable() or c.isspace())
    return _SPACE.sub(" ", text).strip()


def trimmed(text: str) -> str:
    """A heading without leading symbols, trailing punctuation and trailing symbols."""
    text = _EDGE.sub("", text)
    while text and unicodedata.category(text[-1]) in ("So", "Sk", "Cf", "Mn"):
        text = text[:-1].rstrip()
    return _EDGE.sub("", text).strip()


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph; abbreviations do not end one."""
    found: list[str] = []
    start = 0
    for match in _STOP.finditer(text):
        head = text[start : match.start()]
        if _ABBREVIATION.search(head[-12:]) and not head.endswith(("etc.", "al.")):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    found.append(text[start:].strip())
    return [s for s in found if s]


def words(text: str) -> list[str]:
    """Lower-case words."""
    if text.isascii():
        return _WORD.findall(text.casefold())
    return [w.replace("\u2019", "'").casefold() for w in _WORD.findall(text)]


def stems(text: str) -> set[str]:
    """The words of a text, each in the form that it shares with its relatives."""
    return {stem(tag_of(word)) for word in words(text)}


@lru_cache(TEXTS_AT_ONCE)
def stemmed(body: bytes) -> tuple[str, ...]:
    """The same of a note's body, in the order of its text."""
    return tuple(stem(tag_of(word)) for block in blocks(body) for word in words(block.text))


@lru_cache(TEXTS_AT_ONCE)
def body_stems(body: bytes) -> frozenset[str]:
    """The same without an order."""
    return frozenset(stemmed(body))


def grounded(text: str, body: bytes, title: str = "") -> bool:
    """Whether a text that somebody wrote of a note is about it: of its words of four letters and more (one form each)
    most stand in the note's title or text. What says nothing at all is not."""
    own = stems(" ".join(word for word in words(text) if len(word) > 3))
    note = stems(title) | body_stems(body)
    return bool(own) and len(own & note) >= GROUNDED * len(own)


def folded(text: str) -> str:
    """Letters and digits only, lower case: two texts that differ in markup or punctuation alone are equal."""
    return "".join(filter(str.isalnum, text.casefold()))


@lru_cache(TEXTS_AT_ONCE)
def casing(body: bytes) -> Mapping[str, str]:
    """How a note's text writes its words (GitHub, CLI): the most common form that is not all lower case."""
    forms: dict[str, tuple[int, str]] = {}
    for word, count in Counter[str](_WORD.findall(" ".join(block.text for block in blocks(body)))).items():
        if count > forms.get(low := word.casefold(), (0, ""))[0]:  # of two as common the one that is met first
            forms[low] = count, word
    found = {}
    for low, (_, form) in forms.items():
        inner = any(c.isupper() for c in form[1:])
        if inner and not (form.isupper() and len(form) > 5):
            found[low] = form
    return found
