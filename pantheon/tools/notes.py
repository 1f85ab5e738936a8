"""The tools of the docops flow, each a function from a worktree and typed arguments to a typed result.

Their offers narrow the model's next call to verified values: the first field that is still open, in the rules' order.
Calling a tool twice with the same arguments changes nothing the second time.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from pantheon.errors import InputError, ToolError
from pantheon.frontmatter import Document, parse, set_field
from pantheon.records import Finding, Offer, Record, Repair
from pantheon.tools import candidates, note_seeds, prose
from pantheon.tools.edits import move
from pantheon.tools.evidence import Evidence, evidence
from pantheon.tools.repair import repair
from pantheon.tools.rules import (
    FieldRule,
    Rules,
    check_field,
    check_note,
    fault,
    is_empty,
    is_right,
    name_is_right,
    parse_rules,
)
from pantheon.tools.tool import Kind, Nothing, Tool, Tree
from pantheon.tools.workspace import Workspace

EXCERPT = 600  # characters
MARKDOWN = (".md", ".markdown")


class FieldArgs(Record):
    field: str = Field(min_length=1, max_length=60)
    value: str = Field(min_length=1, max_length=400)


class NameArgs(Record):
    name: str = Field(min_length=1, max_length=255)


class Repaired(Record):
    done: tuple[str, ...]
    open: tuple[str, ...]
    report: tuple[str, ...]


class Excerpt(Record):
    path: str
    title: str
    headings: tuple[str, ...]
    text: str


class Choices(Record):
    fields: dict[str, tuple[str, ...]]


class FieldSet(Record):
    field: str
    value: str
    changed: bool


class Names(Record):
    names: tuple[str, ...]


class Renamed(Record):
    path: str
    relinked: tuple[str, ...]


def _rules(ws: Workspace) -> Rules:
    return ws.ruled(Rules)


def document(ws: Workspace) -> Document:
    """The target, parsed; a ToolError says why it cannot be."""
    try:
        return parse(ws.read(ws.target), ws.target)
    except InputError as cause:
        raise ToolError("cannot edit", ascii(ws.target), cause.why) from cause


def repair_note(ws: Workspace, args: Nothing) -> Repaired:
    """Make every certain repair of the target."""
    raw = ws.read(ws.target)
    fixed, done = repair(ws.origin, raw, _rules(ws), ws.facts)
    if fixed != raw:
        ws.write(ws.target, fixed)
    findings = check_note(ws.target, fixed, _rules(ws))
    return Repaired(
        done=done,
        open=tuple(f.rule for f in findings if f.repair is not Repair.REPORT),
        report=tuple(f"line {f.line}: {f.message}" for f in findings if f.repair is Repair.REPORT),
    )


def read_note(ws: Workspace, args: Nothing) -> Excerpt:
    """The heading and the beginning of the target, as text without markup."""
    doc = document(ws)
    blocks = prose.blocks(doc.body)
    heads = tuple(h[:80] for h in (prose.trimmed(b.text) for b in blocks if b.kind == "heading") if h)
    text = " ".join(b.text for b in blocks if b.kind != "heading")
    cut = text[:EXCERPT].rpartition(" ")[0] if len(text) > EXCERPT else text
    title = doc.get("title")
    rule = _rules(ws).field.get("title", FieldRule())
    shown = title if isinstance(title, str) and is_right(title, rule) else next(iter(heads), "")
    return Excerpt(path=ascii(ws.target)[1:-1], title=shown, headings=heads[:6], text=cut or text[:EXCERPT])


def open_fields(ws: Workspace, doc: Document) -> tuple[tuple[str, FieldRule], ...]:
    """The fields a choice is still to be made for, in the rules' order."""

    def is_open(name: str, rule: FieldRule) -> bool:
        finding = check_field(doc, name, rule)
        return (finding is not None and finding.repair is Repair.CHOOSE) or _wants_more(ws, doc, name, rule)

    rules = _rules(ws)
    return ws.once(("open", doc.raw), lambda: tuple(one for one in rules.ordered() if is_open(*one)))


def _wants_more(ws: Workspace, doc: Document, name: str, rule: FieldRule) -> bool:
    """Whether a list that was empty in the base tree has fewer values than wanted."""
    value = doc.get(name)
    if rule.type != "list" or not rule.required or rule.computed or not isinstance(value, list) or is_empty(value):
        return False
    if len(value) >= min(rule.wanted, rule.max_items):
        return False
    before = ws.base(ws.origin)
    try:
        was = parse(before, ws.origin).get(name) if before is not None else None
    except InputError:
        return False
    return was is None or is_empty(was)


def suggest_fields(ws: Workspace, args: Nothing) -> Choices:
    """The open fields with their candidates."""
    doc = document(ws)
    return Choices(fields={name: _candidates(ws, doc, name) for name, _ in open_fields(ws, doc)})


def _candidates(ws: Workspace, doc: Document, field: str) -> tuple[str, ...]:
    """Those of one field: each question is asked for its offer, and again for its answer."""
    work = partial(candidates.candidates, field, ws.origin, doc, ws.facts, _rules(ws))
    return ws.once(("candidates", field, doc.raw), work)


def offer_fields(ws: Workspace) -> tuple[Offer, ...]:
    """The next choice: one field, its candidates (or a short text where the rule allows it)."""
    doc = document(ws)
    for name, rule in open_fields(ws, doc):
        values = _candidates(ws, doc, name)
        if values:
            return (Offer(tool="set_field", args={"field": (name,), "value": values}),)
        if rule.free_text and rule.type != "list":
            length = min(rule.max_length, 400)
            return (Offer(tool="set_field", args={"field": (name,), "value": None}, max_length=length),)
    return ()


def set_note_field(ws: Workspace, args: FieldArgs) -> FieldSet:
    """Set an open field to one of its candidates; of a list, add it."""
    rule = _rules(ws).field.get(args.field)
    if rule is None:
        raise ToolError("cannot set", args.field, "the rules have no such field")
    doc = document(ws)
    have = doc.get(args.field)
    if have == args.value or (isinstance(have, list) and args.value in have):
        return FieldSet(field=args.field, value=args.value, changed=False)
    if args.field not in [name for name, _ in open_fields(ws, doc)]:
        raise ToolError("cannot set", args.field, "the field is right as it is")
    if args.value not in _candidates(ws, doc, args.field):
        if not rule.free_text or rule.type == "list" or not args.value.isprintable():
            raise ToolError("cannot set", args.field, "the value is not among the candidates")
        if why := fault(args.value, rule):
            raise ToolError("cannot set", args.field, f"it {why}")
        if not prose.grounded(args.value, doc.body, str(doc.get("title") or "")):
            raise ToolError("cannot set", args.field, "most of its words are not in the note")
    value: str | list[str] = args.value
    if rule.type == "list":
        value = [*(v for v in have if isinstance(v, str) and v), args.value] if isinstance(have, list) else [args.value]
    fixed, _ = repair(ws.origin, set_field(doc, args.field, value, order=_rules(ws).order), _rules(ws), ws.facts)
    ws.write(ws.target, fixed)
    return FieldSet(field=args.field, value=args.value, changed=True)


def suggest_names(ws: Workspace, args: Nothing) -> Names:
    """Names the target may get; none when its name is right."""
    if name_is_right(ws.target, _rules(ws)):
        return Names(names=())
    return Names(names=candidates.names(ws.origin, document(ws), ws.facts, _rules(ws)))


def offer_names(ws: Workspace) -> tuple[Offer, ...]:
    found = suggest_names(ws, Nothing()).names
    return (Offer(tool="rename_note", args={"name": found}),) if found else ()


def rename_note(ws: Workspace, args: NameArgs) -> Renamed:
    """Rename the target and make the links of other files follow."""
    if ws.target.rpartition("/")[2] != args.name and args.name not in suggest_names(ws, Nothing()).names:
        raise ToolError("cannot rename", ascii(args.name), "the name is not among the candidates")
    relinked = move(ws, args.name)
    return Renamed(path=ws.target, relinked=relinked)


def show_change(ws: Workspace, args: Nothing) -> Evidence:
    """What was done to the target, as facts."""
    before, after = (ws.origin, ws.base(ws.origin) or b""), (ws.target, ws.read(ws.target))
    work = partial(evidence, before, after, _rules(ws), ws.facts.tree)
    return ws.once(("evidence", *after), work)  # every reviewer is told the same


def _about(path: str, rules: Rules) -> bool:
    return path.lower().endswith(MARKDOWN)


def _check(path: str, raw: bytes, rules: Rules, tree: Tree) -> tuple[Finding, ...]:
    return check_note(path, raw, rules)


KIND = Kind("frontmatter", parse_rules, _about, _check, seeds=note_seeds.seeds)

TOOLS = (
    Tool("repair_note", "make every certain repair", Nothing, Repaired, {}, repair_note),
    Tool("read_note", "read the beginning of the note", Nothing, Excerpt, {}, read_note),
    Tool("suggest_fields", "list open fields and candidates", Nothing, Choices, {}, suggest_fields),
    Tool(
        "set_field",
        "set an open field to the candidate that fits the note best",
        FieldArgs,
        FieldSet,
        {"field": "title", "value": "Nightly backups of the mail server"},
        set_note_field,
        offer_fields,
    ),
    Tool("suggest_names", "list names the file may get", Nothing, Names, {}, suggest_names),
    Tool(
        "rename_note",
        "give the file the name that says best what it is about; links follow",
        NameArgs,
        Renamed,
        {"name": "nightly-backups.md"},
        rename_note,
        offer_names,
    ),
    Tool("show_change", "state what was changed, as facts", Nothing, Evidence, {}, show_change),
)
