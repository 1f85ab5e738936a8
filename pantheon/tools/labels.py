"""Blind reviewers of lines that were chosen, for rules of the kind `pattern`.

The value that came in stands among others that could have; the reviewer sees the text as it was and names the one that
belongs to it. Where nothing was chosen it is asked what was wrong with the file.
"""

from __future__ import annotations

import hashlib

from pydantic import Field

from pantheon.errors import ToolError
from pantheon.frontmatter import Document
from pantheon.records import Offer, Record, Repair
from pantheon.tools import prose
from pantheon.tools.facts import read
from pantheon.tools.match import Matched, known_topics, strangest
from pantheon.tools.pattern import LineRule, LineRules, check, text_lines
from pantheon.tools.tool import Nothing, Tool, Tree
from pantheon.tools.workspace import Workspace

OTHERS = 4
EXCERPT = 900  # characters
SPARE_TOPICS = ("sourdough", "opera", "volcano", "chess", "pottery", "gardening")
SPARE_FAULTS = ("names no composer", "has no map of the harbour", "lists no ingredients", "has no date of birth")


class LabelArgs(Record):
    label: str = Field(min_length=1, max_length=400)


class Before(Record):
    """The text of the target as it is in the base, without markup."""

    heading: str
    text: str


def _document(ws: Workspace) -> Document:
    doc = read(ws.origin, ws.base(ws.origin) or b"")
    if doc is None:
        raise ToolError("cannot read", ascii(ws.origin), "it is no text that can be parsed")
    return doc


def read_before(ws: Workspace, args: Nothing) -> Before:
    """The heading and the beginning of the target, as they were before anything was changed."""
    blocks = prose.blocks(_document(ws).body)
    heading = next((prose.trimmed(b.text)[:80] for b in blocks if b.kind == "heading"), "")
    text = " ".join(b.text for b in blocks if b.kind != "heading")[:EXCERPT]
    return Before(heading=heading or ascii(ws.origin)[1:-1], text=text)


def _repaired(ws: Workspace) -> list[LineRule]:
    """The rules that the target broke, and breaks no more."""
    rules = ws.ruled(LineRules)
    tree = Tree(frozenset(), lambda _: None)
    was = {f.rule for f in check(ws.origin, ws.base(ws.origin) or b"", rules, tree)}
    now = {f.rule for f in check(ws.target, ws.read(ws.target), rules, tree)}
    return [rule for rule in rules.rule if rule.name in was - now]


def _question(ws: Workspace) -> tuple[str, str, list[str]]:
    """(field, the true answer, wrong ones) about the first choice that was made, else about what was wrong."""
    done = _repaired(ws)
    known = set(text_lines(ws.base(ws.origin) or b"") or ())
    fresh = [line for line in text_lines(ws.read(ws.target)) or () if line not in known]
    for rule in done:
        values = [value for line in fresh if (value := rule.value_of(line)) is not None]
        if rule.repair is Repair.CHOOSE and values:
            others = [value for value in rule.values if value != values[0]]
            if rule.source is not None:
                others = [*strangest(ws, _document(ws), known_topics(ws))[:OTHERS], *SPARE_TOPICS]
            return rule.name, values[0], [value for value in others if value != values[0]]
    if done:
        return done[0].name, done[0].message or f"the rule {done[0].name}", list(SPARE_FAULTS)
    return "", "", []


def _offer(ws: Workspace, tool: str) -> tuple[Offer, ...]:
    _, true, others = _question(ws)
    if not others:
        return ()
    salt = f"{tool}\0{ws.origin}\0"
    values = sorted(
        [true, *others[:OTHERS]], key=lambda v: hashlib.sha256((salt + v).encode("utf-8", "replace")).digest()
    )
    return (Offer(tool=tool, args={"label": tuple(values)}),)


def offer_label(ws: Workspace) -> tuple[Offer, ...]:
    return _offer(ws, "match_label")


def offer_shelf(ws: Workspace) -> tuple[Offer, ...]:
    return _offer(ws, "match_shelf")


def _match(ws: Workspace, args: LabelArgs, offers: tuple[Offer, ...]) -> Matched:
    field, true, _ = _question(ws)
    if not offers or args.label not in (offers[0].args["label"] or ()):
        raise ToolError("cannot match", ascii(args.label), "it is not among the values")
    return Matched(field=field, chosen=args.label, proposed=(true,), same=args.label == true)


def match_label(ws: Workspace, args: LabelArgs) -> Matched:
    return _match(ws, args, offer_label(ws))


def match_shelf(ws: Workspace, args: LabelArgs) -> Matched:
    return _match(ws, args, offer_shelf(ws))


TOOLS = (
    Tool("read_before", "read the file as it was", Nothing, Before, {}, read_before),
    Tool(
        "match_label",
        "give the label that fits the text best",
        LabelArgs,
        Matched,
        {"label": "oven"},
        match_label,
        offer_label,
    ),
    Tool(
        "match_shelf",
        "give the shelf that the text belongs on",
        LabelArgs,
        Matched,
        {"label": "oven"},
        match_shelf,
        offer_shelf,
    ),
)
