"""The reviewers' tools: blind questions. Which of these titles, which of these topics belong to the note?

The proposed value stands among values of other notes; the model names one and does not know which was proposed. A
reviewer that is asked "is this right?" says yes; one that has to find the right value among wrong
ones shows what it knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import Field

from pantheon.errors import ToolError
from pantheon.frontmatter import Document
from pantheon.records import Offer, Record
from pantheon.tools import prose
from pantheon.tools.facts import TAG_FIELDS
from pantheon.tools.notes import document
from pantheon.tools.tool import Tool
from pantheon.tools.words import is_topic, stem, tag_of
from pantheon.tools.workspace import Workspace

OTHER_TITLES = 3
OTHER_TAGS = 6
# For a repository with too few notes to compare with.
SPARE_TITLES = ("Minutes of the garden club", "Recipes for sourdough bread", "A short history of the opera house")
SPARE_TOPICS = ("gardening", "sourdough", "opera", "volcano", "chess", "pottery")


class TitleArgs(Record):
    title: str = Field(min_length=1, max_length=400)


class TopicArgs(Record):
    topic: str = Field(min_length=1, max_length=400)


class Matched(Record):
    """`same`: the model named a proposed value."""

    field: str
    chosen: str
    proposed: tuple[str, ...]
    same: bool


def offer_title(ws: Workspace) -> tuple[Offer, ...]:
    """The note's title among the titles of notes that share the least with it."""
    doc = document(ws)
    title = doc.get("title")
    if not isinstance(title, str) or not title:
        return ()
    others = [
        text
        for path, text in ws.facts.titles.items()
        if path != ws.origin and prose.folded(text) != prose.folded(title)
    ]
    strange = [*strangest(ws, doc, others)[:OTHER_TITLES], *strangest(ws, doc, SPARE_TITLES)]
    return _offer("match_title", "title", (title,), strange[:OTHER_TITLES])


def offer_topic(ws: Workspace) -> tuple[Offer, ...]:
    """The note's tags among topics of the repository that its text does not hold."""
    doc = document(ws)
    have = _tags(doc)
    if not have:
        return ()
    strange = [*strangest(ws, doc, known_topics(ws))[:OTHER_TAGS], *strangest(ws, doc, SPARE_TOPICS)]
    return _offer("match_tags", "topic", have, strange[:OTHER_TAGS])


def known_topics(ws: Workspace) -> list[str]:
    """The topics of the repository: its vocabulary, and the words of its notes' titles."""
    words = {tag_of(w) for title in ws.facts.titles.values() for w in prose.words(title)}
    return [*ws.facts.vocabulary, *(word for word in words if is_topic(word))]


def match_title(ws: Workspace, args: TitleArgs) -> Matched:
    return _match("title", args.title, offer_title(ws), "title", (str(document(ws).get("title")),))


def match_tags(ws: Workspace, args: TopicArgs) -> Matched:
    return _match("tags", args.topic, offer_topic(ws), "topic", _tags(document(ws)))


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


def strangest(ws: Workspace, doc: Document, values: Iterable[str]) -> list[str]:
    """Values of other notes, those with the fewest words of this note first; equal ones by a hash of both."""
    text = {stem(tag_of(w)) for b in prose.blocks(doc.body) for w in prose.words(b.text)}
    text |= {stem(tag_of(w)) for w in prose.words(f"{doc.get('title')} {' '.join(_tags(doc))}")}

    def shared(value: str) -> float:
        own = [stem(tag_of(w)) for w in prose.words(value.replace("-", " "))]
        return sum(w in text for w in own) / max(1, len(own))

    def order(value: str) -> tuple[float, bytes]:
        return shared(value), hashlib.sha256(f"{ws.origin}\0{value}".encode("utf-8", "surrogateescape")).digest()

    return [value for value in sorted(set(values), key=order) if shared(value) < 0.5]


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
)
