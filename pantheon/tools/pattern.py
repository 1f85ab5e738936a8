"""The kind of rules that needs no code: lines that must be there, with the values to choose from, and lines that must
not be there, with what to write instead.

    kind = "pattern"
    files = ["docs/**/*.md"]
    [[rule]]
    name = "area"
    missing = 'Area: \\w+'                 # a line must match it whole
    insert = "Area: {value}"              # else this line comes in
    at = "heading"                        # behind the first heading; or "top", "end"
    values = ["storage", "radio"]         # what the model may choose (one value: it is certain)
    from = "topics"                       # or: values are computed, the topics of the file's own text
    [[rule]]
    name = "tabs"
    present = '\\t.*'                      # no line may match it whole
    replace = ""                          # what stands in its place; without it a person is asked

Owns the parsing of such a file, its findings, and the tools that repair them. Lines are matched one by one, bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field

from pantheon import tomlfile
from pantheon.errors import ConfigError, ToolError
from pantheon.names import path_spec
from pantheon.records import Finding, Glob, Offer, Record, Repair
from pantheon.tools import prose
from pantheon.tools.candidates import tags
from pantheon.tools.facts import read
from pantheon.tools.rules import FieldRule
from pantheon.tools.tool import Change, Kind, Nothing, Problem, Tool, Tree
from pantheon.tools.words import stem, tag_of
from pantheon.tools.workspace import Workspace

MAX_LINES = 20_000  # of a file that is judged
MAX_MATCHED = 400  # characters of a line shown to a pattern: a bound on bad regular expressions
_HEADING = re.compile(r"#{1,6}\s")


class LineRule(Record):
    """One rule: exactly one of `missing` and `present`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    missing: str | None = None
    present: str | None = None
    message: str = ""
    insert: str | None = None
    at: Literal["top", "heading", "end"] = "top"
    values: tuple[str, ...] = ()
    source: Literal["topics"] | None = Field(default=None, alias="from")
    choose: int = Field(default=6, ge=2, le=16)  # computed values that are offered at most
    replace: str | None = None

    @property
    def repair(self) -> Repair:
        if self.present is not None:
            return Repair.REPORT if self.replace is None else Repair.CERTAIN
        if self.insert is None:
            return Repair.REPORT
        return Repair.CHOOSE if self.source or len(self.values) > 1 else Repair.CERTAIN

    def lines(self) -> tuple[str, ...]:
        """The lines that may come in."""
        if self.insert is None:
            return ()
        values = ("topic",) if self.source else self.values
        return tuple(self.insert.replace("{value}", value) for value in values) or (self.insert,)

    def value_of(self, line: str) -> str | None:
        """The value of a line that came in; None of another line."""
        before, _, behind = (self.insert or "").partition("{value}")
        fits = line.startswith(before) and line.endswith(behind) and len(line) > len(before) + len(behind)
        return line[len(before) : len(line) - len(behind)] if fits else None


class LineRules(Record):
    """A rules file of the kind `pattern`."""

    kind: Literal["pattern"]
    files: tuple[Glob, ...] = ("**",)
    rule: tuple[LineRule, ...] = Field(min_length=1)


def parse(raw: bytes, path: str) -> LineRules:
    """Read a rules file of this kind. Raises ConfigError with the line of what is wrong."""
    what = "cannot use the rules"
    text, values = tomlfile.read(raw, path, what)
    rules = tomlfile.validated(LineRules, values, text, path, what=what)
    for number, rule in enumerate(rules.rule):
        why = _contradiction(rule)
        if why:
            raise ConfigError(what, path, f"rule {rule.name}: {why}", tomlfile.line_of(text, ("rule", number)))
    names = [rule.name for rule in rules.rule]
    if len(set(names)) < len(names):
        raise ConfigError(what, path, "two rules have the same name", tomlfile.line_of(text, ("rule", 1)))
    return rules


def _contradiction(rule: LineRule) -> str:
    pattern = rule.missing if rule.missing is not None else rule.present
    if pattern is None or (rule.missing is not None and rule.present is not None):
        return "give exactly one of missing and present"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        return f"not a regular expression: {error}"
    if rule.present is not None and (rule.insert is not None or rule.values or rule.source):
        return "insert, values and from go with missing"
    if rule.values and rule.source:
        return "give values, or where they come from"
    if rule.missing is not None and rule.replace is not None:
        return "replace goes with present"
    if (rule.values or rule.source) and "{value}" not in (rule.insert or ""):
        return "values need an insert that holds {value}"
    if not rule.values and not rule.source and "{value}" in (rule.insert or ""):
        return "insert holds {value}, and there are no values"
    for line in rule.lines():
        if "\n" in line or not line.isprintable() or not compiled.fullmatch(line):
            return f"the line {line!r} would not satisfy {pattern!r}"
    if rule.replace is not None and ("\n" in rule.replace or compiled.fullmatch(rule.replace)):
        return f"what replaces it matches {pattern!r} again"
    return ""


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _about(path: str, rules: LineRules) -> bool:
    return path_spec(rules.files).match_file(path)


def matches(pattern: str, line: str) -> bool:
    return len(line) <= MAX_MATCHED and _compiled(pattern).fullmatch(line) is not None


def text_lines(raw: bytes) -> list[str] | None:
    """The lines of a file, without their ends; None where it is no text that we edit."""
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None
    return None if len(lines) > MAX_LINES or "\0" in raw.decode() else lines


def check(path: str, raw: bytes, rules: LineRules, tree: Tree) -> tuple[Finding, ...]:
    """Every rule the file breaks, in their order."""
    lines = text_lines(raw)
    if lines is None:
        return (Finding(rule="unparsable", message="not UTF-8 text, or too long"),)
    found = []
    for rule in rules.rule:
        line = _broken(lines, rule)
        if line is not None:
            message = rule.message or (f"has no line {rule.missing}" if rule.missing else f"has a line {rule.present}")
            found.append(Finding(rule=rule.name, message=message, field=rule.name, line=line, repair=rule.repair))
    return tuple(found)


def _broken(lines: list[str], rule: LineRule) -> int | None:
    """The line of what is wrong, 0 when a line is missing; None when all is well."""
    if rule.missing is not None:
        return None if any(matches(rule.missing, line.rstrip("\r")) for line in lines) else 0
    pattern = rule.present or ""
    return next((n for n, line in enumerate(lines, 1) if matches(pattern, line.rstrip("\r"))), None)


# --- repair ----------------------------------------------------------------------------------------------------------


def _place(lines: list[str], rule: LineRule) -> int:
    """The index at which a line comes in: behind front matter or a first heading, or at the end."""
    start = 0
    if lines[0].rstrip() == "---":
        start = next((n + 1 for n in range(1, len(lines)) if lines[n].rstrip() == "---"), 0)
    if rule.at == "end":
        return len(lines) - 1 if lines[-1] == "" else len(lines)
    if rule.at == "heading":
        return next((n + 1 for n in range(start, len(lines)) if _HEADING.match(lines[n])), start)
    return start


def _inserted(lines: list[str], rule: LineRule, line: str) -> list[str]:
    """The lines with `line` put in, an empty line between it and a heading's text."""
    at = _place(lines, rule)
    end = "\r" if any(one.endswith("\r") for one in lines) else ""
    fresh = [end, line + end] if rule.at == "heading" and at else [line + end]
    if rule.at == "end" and at == len(lines) and lines:
        return [*lines, line, ""]
    return [*lines[:at], *fresh, *lines[at:]]


def repaired(lines: list[str], rule: LineRule, value: str | None) -> list[str]:
    if rule.missing is None:
        pattern = rule.present or ""
        return [rule.replace or "" if matches(pattern, line.rstrip("\r")) else line for line in lines]
    wanted = rule.insert or ""
    return _inserted(lines, rule, wanted if value is None else wanted.replace("{value}", value))


class LineArgs(Record):
    rule: str = Field(min_length=1, max_length=60)
    value: str = Field(min_length=1, max_length=400)


class LinesRepaired(Record):
    done: tuple[str, ...]
    open: tuple[str, ...]


class LineSet(Record):
    rule: str
    value: str
    changed: bool


def _lines(ws: Workspace) -> list[str]:
    lines = text_lines(ws.read(ws.target))
    if lines is None:
        raise ToolError("cannot edit", ascii(ws.target), "not UTF-8 text, or too long")
    return lines


def repair_lines(ws: Workspace, args: Nothing) -> LinesRepaired:
    """Make every repair that leaves nothing to choose."""
    rules = ws.ruled(LineRules)
    lines, done = _lines(ws), []
    for rule in rules.rule:
        if rule.repair is Repair.CERTAIN and _broken(lines, rule) is not None:
            lines = repaired(lines, rule, rule.values[0] if rule.values else None)
            done.append(rule.name)
    if done:
        ws.write(ws.target, "\n".join(lines).encode())
    left = tuple(rule.name for rule in rules.rule if _broken(lines, rule) is not None)
    return LinesRepaired(done=tuple(done), open=left)


def _open(ws: Workspace) -> list[LineRule]:
    lines = _lines(ws)
    rules = [rule for rule in ws.ruled(LineRules).rule if rule.repair is Repair.CHOOSE]
    return [rule for rule in rules if _broken(lines, rule) is not None and ws.focus in ("", rule.name)]


def choices(ws: Workspace, rule: LineRule) -> tuple[str, ...]:
    """The values a rule's line may get: its own, or the topics of the text as it is in the base."""
    if rule.source is None:
        return rule.values
    doc = read(ws.origin, ws.base(ws.origin) or b"")
    if doc is None:
        return ()
    found = tags(ws.origin, doc, ws.facts, FieldRule(type="list", choose=rule.choose))
    fitting = [v for v in found if matches(rule.missing or "", (rule.insert or "").replace("{value}", v))]
    return tuple(sorted(fitting, key=lambda v: hashlib.sha256(f"{ws.origin}\0{v}".encode("utf-8", "replace")).digest()))


def offer_lines(ws: Workspace) -> tuple[Offer, ...]:
    """The next choice: the values of the first rule that is still broken."""
    found = [(rule, choices(ws, rule)) for rule in _open(ws)[:1]]
    return tuple(Offer(tool="set_line", args={"rule": (r.name,), "value": values}) for r, values in found if values)


def set_line(ws: Workspace, args: LineArgs) -> LineSet:
    """Put in the line that a rule misses, with one of its values."""
    rule = next((rule for rule in ws.ruled(LineRules).rule if rule.name == args.rule), None)
    if rule is None or rule.insert is None or args.value not in choices(ws, rule):
        raise ToolError("cannot set", ascii(args.rule), "no rule has that name and value")
    lines = _lines(ws)
    line = rule.insert.replace("{value}", args.value)
    if line in [one.rstrip("\r") for one in lines]:
        return LineSet(rule=args.rule, value=args.value, changed=False)
    if _broken(lines, rule) is None:
        raise ToolError("cannot set", ascii(args.rule), "the rule is satisfied as it is")
    ws.write(ws.target, "\n".join(repaired(lines, rule, args.value)).encode())
    return LineSet(rule=args.rule, value=args.value, changed=True)


def _chosen(rule: LineRule, before: Sequence[str], after: Sequence[str]) -> str | None:
    """The value of the line that came in for a rule: one that it has, or a topic of which the text speaks."""
    here = [line.rstrip("\r") for line in after]
    if rule.source is None:
        return next((v for v in rule.values if (rule.insert or "").replace("{value}", v) in here), None)
    known = {line.rstrip("\r") for line in before}
    fresh = [rule.value_of(line) for line in here if line not in known and matches(rule.missing or "", line)]
    spoken = {stem(tag_of(word)) for line in before for word in prose.words(line)}
    return next((v for v in fresh if v and {stem(part) for part in (v, *v.split("-"))} & spoken), None)


def verify(change: Change, rules: LineRules) -> Iterable[Problem]:
    """The change is exactly the rules' repairs, with some of the values, and nothing repairable is left."""
    if not _about(change.path, rules):
        return
    before, after = (text_lines(raw) if raw is not None else None for raw in (change.before, change.after))
    if before is None or after is None:
        yield Problem(change.path, 0, "pattern", "is not text in both trees")
        return
    wanted = before
    for rule in rules.rule:
        if rule.repair is Repair.REPORT or _broken(wanted, rule) is None:
            continue
        value = _chosen(rule, before, after)
        if rule.repair is Repair.CHOOSE and value is None:
            yield Problem(change.path, 0, rule.name, rule.message or "is still broken")
            return
        wanted = repaired(wanted, rule, value)
    if wanted != after:
        line = next((n for n, (a, b) in enumerate(zip(wanted, after, strict=False), 1) if a != b), len(wanted))
        yield Problem(change.path, line, "pattern", "changed beyond what the rules ask for")


KIND = Kind("pattern", parse, _about, check, verify)

TOOLS = (
    Tool("repair_lines", "make every repair with one answer", Nothing, LinesRepaired, {}, repair_lines),
    Tool(
        "set_line",
        "put in the missing line with the value that fits the file best",
        LineArgs,
        LineSet,
        {"rule": "topic", "value": "storage"},
        set_line,
        offer_lines,
    ),
)
