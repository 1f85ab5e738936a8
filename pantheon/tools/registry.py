"""The one table of tools: name, schemas, an example, what it does and what it offers next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pantheon.records import Offer, Record
from pantheon.tools import match, notes
from pantheon.tools.evidence import Evidence
from pantheon.tools.workspace import Workspace


def _nothing(ws: Workspace) -> tuple[Offer, ...]:
    return ()


@dataclass(frozen=True)
class Tool:
    """A named function over one worktree. `args` and `result` are its schemas, `offer` its narrowed next calls."""

    name: str
    summary: str
    args: type[Record]
    result: type[Record]
    example: Mapping[str, str]
    run: Callable[[Workspace, Any], Record]
    offer: Callable[[Workspace], tuple[Offer, ...]] = _nothing


_ALL = (
    Tool("repair_note", "make every certain repair", notes.Nothing, notes.Repaired, {}, notes.repair_note),
    Tool("read_note", "read the beginning of the note", notes.Nothing, notes.Excerpt, {}, notes.read_note),
    Tool("suggest_fields", "list open fields and candidates", notes.Nothing, notes.Choices, {}, notes.suggest_fields),
    Tool(
        "set_field",
        "set an open field to the candidate that fits the note best",
        notes.FieldArgs,
        notes.FieldSet,
        {"field": "title", "value": "Nightly backups of the mail server"},
        notes.set_note_field,
        notes.offer_fields,
    ),
    Tool("suggest_names", "list names the file may get", notes.Nothing, notes.Names, {}, notes.suggest_names),
    Tool(
        "rename_note",
        "give the file the name that says best what it is about; links follow",
        notes.NameArgs,
        notes.Renamed,
        {"name": "nightly-backups.md"},
        notes.rename_note,
        notes.offer_names,
    ),
    Tool(
        "match_title",
        "give the title that belongs to the note",
        match.TitleArgs,
        match.Matched,
        {"title": "Nightly backups of the mail server"},
        match.match_title,
        match.offer_title,
    ),
    Tool(
        "match_tags",
        "give the topic that belongs to the note",
        match.TopicArgs,
        match.Matched,
        {"topic": "backup"},
        match.match_tags,
        match.offer_topic,
    ),
    Tool("show_change", "state what was changed, as facts", notes.Nothing, Evidence, {}, notes.show_change),
)

TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in _ALL}
