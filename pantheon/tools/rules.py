"""The rules of a note's front matter as data, and which of them a note breaks.

Owns the shape of `.pantheon/rules/frontmatter.toml` and the ids of findings (`missing:title`, `enum:status`, `name`,
`mojibake`, `blank-runs`, `history`, `unparsable`). Pure: what a broken rule becomes is repair.py's and candidates.py's.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Literal

from pydantic import Field

from pantheon import tomlfile
from pantheon.errors import ConfigError, InputError
from pantheon.frontmatter import MAX_FILE, Document, Value, parse
from pantheon.frontmatter import Field as NoteField
from pantheon.records import Finding, Record, Repair
from pantheon.tools import damage

RULES_PATH = ".pantheon/rules/frontmatter.toml"

Type = Literal["string", "list", "date", "uuid", "slug", "mapping"]
Source = Literal[
    "default", "path_uuid", "first_commit", "slug_of_title", "old", "heading", "filename", "sentences", "vocabulary"
]
COMPUTED: frozenset[str] = frozenset({"default", "path_uuid", "first_commit", "slug_of_title"})
MAX_MATCHED = 400  # characters of a value shown to a pattern from the rules: a bound on bad regular expressions

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_SLUG = re.compile(r"[a-z0-9]+(?:[-_.]+[a-z0-9]+)*")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?: ?(?:Z|[+-]\d\d:?\d\d))?)?")


class FieldRule(Record):
    """What one field must hold, and where a missing value comes from. The shipped rules file explains every key."""

    required: bool = False
    type: Type = "string"
    also: tuple[str, ...] = ()
    enum: tuple[str, ...] = ()
    aliases: dict[str, str] = Field(default_factory=dict)
    pattern: str = ""
    min_length: int = Field(default=0, ge=0)
    max_length: int = Field(default=10_000, ge=1)
    min_items: int = Field(default=0, ge=0)
    max_items: int = Field(default=1_000, ge=1)
    sources: tuple[Source, ...] = Field(default=(), alias="from")
    default: str | tuple[str, ...] | None = None
    choose: int = Field(default=6, ge=1, le=32)
    wanted: int = Field(default=1, ge=1, le=32)
    replace: bool = False
    free_text: bool = False

    @property
    def computed(self) -> bool:
        """Whether a missing value has one right answer."""
        return bool(self.sources) and (self.choose == 1 or all(s in COMPUTED for s in self.sources))


class NameRule(Record):
    """What a note's file name must look like. An empty pattern allows every name."""

    pattern: str = ""
    max_length: int = Field(default=255, ge=8, le=255)
    sources: tuple[Literal["title", "heading", "filename"], ...] = Field(
        default=("title", "heading", "filename"), alias="from"
    )
    choose: int = Field(default=4, ge=1, le=32)


class RepairRule(Record):
    """Damage that is looked for. `blank_runs` is the longest run of blank lines allowed, 0 for any length."""

    mojibake: bool = True
    blank_runs: int = Field(default=4, ge=0)
    history: tuple[str, ...] = ()


class Rules(Record):
    """Everything in `.pantheon/rules/frontmatter.toml`."""

    kind: Literal["frontmatter"] = "frontmatter"
    order: tuple[str, ...] = ()
    field: dict[str, FieldRule] = Field(default_factory=dict)
    name: NameRule = NameRule()
    repair: RepairRule = RepairRule()

    def ordered(self) -> tuple[tuple[str, FieldRule], ...]:
        """The fields with their rules in the order of `order`, the others behind."""
        names = [n for n in self.order if n in self.field]
        return tuple((n, self.field[n]) for n in [*names, *(n for n in self.field if n not in self.order)])


def parse_rules(raw: bytes, path: str = RULES_PATH) -> Rules:
    """Read a rules file. Raises ConfigError with the line of what is wrong."""
    what = "cannot use the rules"
    text, values = tomlfile.read(raw, path, what)
    rules = tomlfile.validated(Rules, values, text, path, what=what)
    for name, rule in rules.field.items():
        why, key = _contradiction(rule)
        if why:
            raise ConfigError(what, path, f"field.{name}: {why}", tomlfile.line_of(text, ("field", name, key)))
    if not _compiles(rules.name.pattern):
        raise ConfigError(
            what, path, "name.pattern: not a regular expression", tomlfile.line_of(text, ("name", "pattern"))
        )
    return rules


def _contradiction(rule: FieldRule) -> tuple[str, str]:
    """What contradicts itself in a rule, and in which key."""
    if not _compiles(rule.pattern):
        return "not a regular expression", "pattern"
    if "default" in rule.sources and rule.default is None:
        return 'the source "default" needs a default', "from"
    if "vocabulary" in rule.sources and rule.type != "list":
        return 'the source "vocabulary" fills lists only', "from"
    if rule.enum and not set(rule.aliases.values()) <= set(rule.enum):
        return "an alias for a value that is not allowed", "aliases"
    if rule.enum and isinstance(rule.default, str) and rule.default not in rule.enum:
        return "the default is not an allowed value", "default"
    if rule.wanted > rule.max_items or rule.min_items > rule.max_items or rule.min_length > rule.max_length:
        return "a smallest number above the largest", "max_items" if rule.type == "list" else "max_length"
    return "", ""


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


# --- findings --------------------------------------------------------------------------------------------------------


def check_note(path: str, raw: bytes, rules: Rules) -> tuple[Finding, ...]:
    """Every rule the note breaks, in the order they are repaired. Never raises on a note's content."""
    findings = list(_damage(raw, rules)) if len(raw) <= MAX_FILE else []
    try:
        doc = parse(raw, path)
    except InputError as error:
        findings.append(Finding(rule="unparsable", message=error.why, line=error.line or 1))
        return tuple(findings)
    findings += _history(doc, rules)
    for name, rule in rules.ordered():
        finding = check_field(doc, name, rule)
        if finding is not None:
            findings.append(finding)
    if not name_is_right(path, rules):
        message = "the file name does not match the rule"
        findings.append(Finding(rule="name", message=message, repair=Repair.CHOOSE))
    return tuple(findings)


def check_field(doc: Document, name: str, rule: FieldRule) -> Finding | None:
    """The rule that one field of a note breaks, if any."""
    field = doc.field(name)
    if field is None or is_empty(field.value):
        others = (doc.get(other) for other in rule.also)
        if not rule.required or any(other is not None and not is_empty(other) for other in others):
            return None
        repair = _repair_of(rule)
        return Finding(
            rule=f"missing:{name}",
            message=f"{name} is {'missing' if field is None else 'empty'}",
            field=name,
            line=field.line if field else 1,
            repair=repair,
        )
    broken = _broken(field.value, rule)
    if not broken:
        return None
    kind, why = broken
    certain = isinstance(field.value, str) and field.value in rule.aliases
    certain = certain or (kind == "type" and rule.type == "list" and isinstance(field.value, str))
    repair = Repair.CERTAIN if certain else _repair_of(rule) if rule.replace else Repair.REPORT
    return Finding(rule=f"{kind}:{name}", message=f"{name} {why}", field=name, line=field.line, repair=repair)


def _repair_of(rule: FieldRule) -> Repair:
    if not rule.sources:
        return Repair.CHOOSE if rule.free_text else Repair.REPORT
    return Repair.CERTAIN if rule.computed else Repair.CHOOSE


def is_empty(value: Value) -> bool:
    """An empty text, list or mapping, and a list of nothing but empty texts."""
    if isinstance(value, list):
        return all(is_empty(item) for item in value)
    return not (value.strip() if isinstance(value, str) else value)


def is_right(value: Value, rule: FieldRule) -> bool:
    """Whether a value that is there obeys the rule."""
    return not is_empty(value) and not _broken(value, rule)


def fault(value: Value, rule: FieldRule) -> str:
    """What is wrong with a value, in words that follow the name of its field; "" for nothing."""
    broken = ("empty", "is empty") if is_empty(value) else _broken(value, rule)
    return broken[1] if broken else ""


def name_is_right(path: str, rules: Rules) -> bool:
    name = path.rpartition("/")[2]
    if not rules.name.pattern:
        return True
    return len(name) <= rules.name.max_length and bool(_compiled(rules.name.pattern).fullmatch(name))


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _broken(value: Value, rule: FieldRule) -> tuple[str, str] | None:
    """(kind of rule, what is wrong) of a value that is not empty."""
    wanted = list if rule.type == "list" else dict if rule.type == "mapping" else str
    if not isinstance(value, wanted):
        return "type", f"should be a {'text' if wanted is str else rule.type}"
    if isinstance(value, dict):
        return None
    if isinstance(value, list):
        if not rule.min_items <= len(value) <= rule.max_items:
            return "length", f"has {len(value)} values, allowed are {rule.min_items} to {rule.max_items}"
        if not all(isinstance(item, str) for item in value):
            return "type", "should be a list of texts"
        if rule.pattern and not all(_compiled(rule.pattern).fullmatch(str(item)[:MAX_MATCHED]) for item in value):
            return "pattern", "has a value that does not match its pattern"
        return None
    return _broken_text(value, rule)


def _broken_text(value: str, rule: FieldRule) -> tuple[str, str] | None:
    if rule.type == "uuid" and not _UUID.fullmatch(value):
        return "type", "is not a UUID"
    if rule.type == "slug" and not (len(value) <= MAX_MATCHED and _SLUG.fullmatch(value)):
        return "type", "is not a slug (lower case letters, digits, dashes)"
    if rule.type == "date" and not is_date(value):
        return "type", "is not a date (2026-01-31 or 2026-01-31T12:00:00Z)"
    if rule.enum and value not in rule.enum:
        return "enum", f"is {value[:40]!r}, allowed are {', '.join(rule.enum)}"
    if not rule.min_length <= len(value) <= rule.max_length:
        return "length", f"has {len(value)} characters, allowed are {rule.min_length} to {rule.max_length}"
    if rule.pattern and not (len(value) <= MAX_MATCHED and _compiled(rule.pattern).fullmatch(value)):
        return "pattern", "does not match its pattern"
    return None


def is_date(value: str) -> bool:
    """A date or a date with a time, as ISO 8601 and git write them."""
    if len(value) > 40 or not _DATE.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value[:19].replace(" ", "T") if len(value) >= 19 else value[:10])
    except ValueError:
        return False
    return True


def _damage(raw: bytes, rules: Rules) -> list[Finding]:
    findings = []
    if rules.repair.mojibake:
        certain, doubtful = damage.mojibake_lines(raw)
        for lines, repair in ((certain, Repair.CERTAIN), (doubtful, Repair.REPORT)):
            if lines:
                message = f"UTF-8 read as Mac Roman on {len(lines)} line{'s' * (len(lines) > 1)}"
                findings.append(Finding(rule="mojibake", message=message, line=lines[0], repair=repair))
    if rules.repair.blank_runs:
        runs = damage.blank_runs(raw, rules.repair.blank_runs)
        if runs:
            message = f"{sum(n for _, n in runs)} blank lines in {len(runs)} runs"
            findings.append(Finding(rule="blank-runs", message=message, line=runs[0][0], repair=Repair.CERTAIN))
    return findings


def _history(doc: Document, rules: Rules) -> list[Finding]:
    findings = []
    for where in rules.repair.history:
        name, _, inner = where.partition(".")
        field: NoteField | None = doc.field(name)
        if field is None or not damage.overlong_stamps(field.value, inner):
            continue
        repair = Repair.CERTAIN if damage.cut_history(doc, name, inner) is not None else Repair.REPORT
        message = f"{where} holds more than a timestamp"
        findings.append(Finding(rule="history", message=message, field=name, line=field.line, repair=repair))
    return findings
