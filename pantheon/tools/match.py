"""The reviewers' tools: blind questions. Which of these titles, which of these topics belong to the note?

The proposed value stands among values of other notes; the model names one and does not know which was proposed. A
reviewer that is asked "is this right?" says yes; one that has to find the right value among wrong ones shows what it
knows. Where the proposed value has little to do with the note, what the note says of itself stands among them too: a
wrong value must not win because the others are worse. The second reviewer is asked the same of other values, and sees
the words that weigh most instead of the text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

from pydantic import Field

from pantheon.errors import ToolError
from pantheon.forms import TEXTS_AT_ONCE
from pantheon.frontmatter import Document
from pantheon.records import Offer, Record
from pantheon.tools import prose
from pantheon.tools.candidates import titles
from pantheon.tools.facts import TAG_FIELDS
from pantheon.tools.notes import document
from pantheon.tools.tool import Nothing, Tool
from pantheon.tools.words import is_topic, stem, tag_of
from pantheon.tools.workspace import Workspace

OTHER_TITLES = 3
OTHER_TAGS = 6
GIST = 8  # words
LOOKED_AT = 200  # of the repository's titles, and of its topics, when one note is asked about
MOST_TITLE = 120  # characters
# For a repository with too few notes to compare with.
SPARE_TITLES = ("Minutes of the garden club", "Recipes for sourdough bread", "A short history of the opera house")
SPARE_TOPICS = ("gardening", "sourdough", "opera", "volcano", "chess", "pottery")
T = TypeVar("T")


class TitleArgs(Record):
    title: str = Field(min_length=1, max_length=400)


class TopicArgs(Record):
    topic: str = Field(min_length=1, max_length=400)


class Gist(Record):
    words: tuple[str, ...]


class Matched(Record):
    """`same`: the model named a proposed value."""

    field: str
    chosen: str
    proposed: tuple[str, ...]
    same: bool


def offer_title(ws: Workspace) -> tuple[Offer, ...]:
    """The note's title among the titles of notes that share the least with it."""
    return _titles(ws, "match_title", 0)


def offer_second_title(ws: Workspace) -> tuple[Offer, ...]:
    """The same among the titles of other notes than the first reviewer saw."""
    return tuple(
        offer.model_copy(update={"args": {"title": tuple(led(ws, title) for title in offer.args["title"] or ())}})
        for offer in _titles(ws, "pick_title", OTHER_TITLES)
    )


def offer_topic(ws: Workspace) -> tuple[Offer, ...]:
    """The note's tags among topics of the repository that its text does not hold."""
    return _topics(ws, "match_tags", 0)


def offer_second_topic(ws: Workspace) -> tuple[Offer, ...]:
    """The same among other topics than the first reviewer saw."""
    return _topics(ws, "pick_topic", OTHER_TAGS)


def _titles(ws: Workspace, tool: str, start: int) -> tuple[Offer, ...]:
    doc = document(ws)
    title = doc.get("title")
    if not isinstance(title, str) or not title:
        return ()
    own = _folded(title)
    near = _spread(ws, ws.facts.titled)
    found = strangest(ws, doc, [text for path, text in near if path != ws.origin and _folded(text) != own])
    strange = [*_own_titles(ws, doc, title), *(found[start:] or found), *strangest(ws, doc, SPARE_TITLES)]
    return _offer(tool, "title", (title,), strange[:OTHER_TITLES])


def _topics(ws: Workspace, tool: str, start: int) -> tuple[Offer, ...]:
    doc = document(ws)
    have = _tags(doc)
    if not have:
        return ()
    found = strangest(ws, doc, known_topics(ws))
    strange = [*_own_topics(ws, doc, have), *(found[start:] or found), *strangest(ws, doc, SPARE_TOPICS)]
    return _offer(tool, "topic", have, strange[:OTHER_TAGS])


def _own_titles(ws: Workspace, doc: Document, title: str) -> list[str]:
    """What the note calls itself, where the proposed title has little in common with it."""
    mine = prose.stems(title)
    own = [text for text in titles(ws.origin, doc, ("heading", "filename")) if len(text) <= MOST_TITLE]
    if any(2 * len(prose.stems(text) & mine) >= min(len(prose.stems(text)), len(mine)) for text in own):
        return []
    return own[:1]


def led(ws: Workspace, title: str) -> str:
    """A title behind that word of it which weighs most in the note, or where none does its first that says something:
    a small model finds a word again rather than a thought."""
    own = {stem(tag_of(word)): tag_of(word) for word in reversed(prose.words(title))}
    found = [word for word in gist(document(ws).body) if stem(word) in own]
    said = [word for word in reversed(own.values()) if is_topic(word)]
    return f"{next(iter([*found, *said, *own.values()]), title)}: {title}"


def _own_topics(ws: Workspace, doc: Document, have: Iterable[str]) -> list[str]:
    """What the note's text is about, where none of the proposed tags stands in it."""
    text = prose.body_stems(doc.body)
    if any(prose.stems(tag.replace("-", " ")) & text for tag in have):
        return []
    return list(gist(doc.body)[: OTHER_TAGS // 2])


@lru_cache(TEXTS_AT_ONCE)
def gist(body: bytes) -> tuple[str, ...]:
    """The topic words of a note that stand most often in its headings and its text, the heaviest first."""
    weights: Counter[str] = Counter()
    forms: dict[str, str] = {}
    for block in prose.blocks(body):
        for word in map(tag_of, prose.words(block.text)):
            if is_topic(word):
                weights[stem(word)] += 3 if block.kind == "heading" else 1
                forms.setdefault(stem(word), word)
    return tuple(forms[word] for word, _ in weights.most_common(GIST))


def read_gist(ws: Workspace, args: Nothing) -> Gist:
    """The words that weigh most in the target's text."""
    return Gist(words=gist(document(ws).body))


def known_topics(ws: Workspace) -> Sequence[str]:
    """Topics of the repository: of its vocabulary, and of the words of its notes' titles."""
    return _spread(ws, ws.facts.topics)


def _spread(ws: Workspace, values: Sequence[T]) -> Sequence[T]:
    """Of many values some of everywhere, others for each note: what is offered is a handful, and to weigh every title
    of a large repository for each question costs more than the rest of an item."""
    step = len(values) // LOOKED_AT
    if step < 2:
        return values
    first = int.from_bytes(hashlib.sha256(ws.origin.encode("utf-8", "surrogateescape")).digest()[:8]) % step
    return values[first::step]


def match_title(ws: Workspace, args: TitleArgs) -> Matched:
    return _match("title", args.title, offer_title(ws), "title", (str(document(ws).get("title")),))


def match_tags(ws: Workspace, args: TopicArgs) -> Matched:
    return _match("tags", args.topic, offer_topic(ws), "topic", _tags(document(ws)))


def pick_title(ws: Workspace, args: TitleArgs) -> Matched:
    proposed = led(ws, str(document(ws).get("title")))
    return _match("title", args.title, offer_second_title(ws), "title", (proposed,))


def pick_topic(ws: Workspace, args: TopicArgs) -> Matched:
    return _match("tags", args.topic, offer_second_topic(ws), "topic", _tags(document(ws)))


def _match(field: str, chosen: str, offers: tuple[Offer, ...], argument: str, proposed: tuple[str, ...]) -> Matched:
    if not offers or chosen not in (offers[0].args[argument] or ()):
        raise ToolError("cannot match", ascii(chosen), "it is not among the values")
    return Matched(field=field, chosen=chosen, proposed=proposed, same=chosen in proposed)


def _offer(tool: str, argument: str, proposed: tuple[str, ...], others: list[str]) -> tuple[Offer, ...]:
    """Nothing to compare with is no question."""
    if not others:
        return ()
    values = sorted({*proposed, *others}, key=lambda v: hashlib.sha256(v.encode("utf-8", "surrogateescape")).digest())
    return (Offer(tool=tool, args={argument: tuple(values)}),)


def _tags(doc: Document) -> tuple[str, ...]:
    for name in TAG_FIELDS:
        value = doc.get(name)
        found = tuple(v for v in value if isinstance(v, str) and v) if isinstance(value, list) else ()
        if found:
            return found
    return ()


@lru_cache(1 << 12)
def _stems(value: str) -> tuple[str, ...]:
    """The words of a title or topic, each in the form that it shares with its relatives."""
    return tuple(stem(tag_of(word)) for word in prose.words(value.replace("-", " ")))


_folded = lru_cache(1 << 12)(prose.folded)


def strangest(ws: Workspace, doc: Document, values: Iterable[str]) -> list[str]:
    """Values of other notes, those with the fewest words of this note first; equal ones by a hash of both."""
    own = f"{doc.get('title')} {' '.join(_tags(doc))}"
    return list(_strangest(ws.origin, doc.body, own, tuple(values)))


@lru_cache(TEXTS_AT_ONCE)  # each question is asked for its offer, and again for its answer
def _strangest(origin: str, body: bytes, own: str, values: tuple[str, ...]) -> tuple[str, ...]:
    text = prose.body_stems(body) | {stem(tag_of(w)) for w in prose.words(own)}

    def shared(value: str) -> float:
        words = _stems(value)
        return sum(w in text for w in words) / max(1, len(words))

    def order(value: str) -> bytes:
        return hashlib.sha256(f"{origin}\0{value}".encode("utf-8", "surrogateescape")).digest()

    found = [(share, order(value), value) for value in set(values) if (share := shared(value)) < 0.5]
    return tuple(value for _, _, value in sorted(found))


TOOLS = (
    Tool(
        "match_title",
        "give the title that belongs to the note",
        TitleArgs,
        Matched,
        {"title": "Nightly backups of the mail server"},
        match_title,
        offer_title,
    ),
    Tool(
        "match_tags",
        "give the topic that belongs to the note",
        TopicArgs,
        Matched,
        {"topic": "backup"},
        match_tags,
        offer_topic,
    ),
    Tool("read_gist", "read the words that weigh most in the note", Nothing, Gist, {}, read_gist),
    Tool(
        "pick_title",
        "give the title that the words belong to",
        TitleArgs,
        Matched,
        {"title": "backups: Nightly backups of the mail server"},
        pick_title,
        offer_second_title,
    ),
    Tool(
        "pick_topic",
        "give the topic that the words belong to",
        TopicArgs,
        Matched,
        {"topic": "backup"},
        pick_topic,
        offer_second_topic,
    ),
)
