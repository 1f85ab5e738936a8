"""Repairs with one right answer: damage undone, missing values computed, other spellings rewritten.

Pure and idempotent. The order is fixed: damage first (it may hide front matter), then the fields in the rules' order,
so that a slug follows its title. What needs a choice is left for candidates.py, what is doubtful for a person.
"""

from __future__ import annotations

import re
from datetime import UTC
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from pantheon.errors import InputError
from pantheon.frontmatter import Document, parse, set_field
from pantheon.records import Repair
from pantheon.tools import damage
from pantheon.tools.candidates import candidates, filename_title, slug_of
from pantheon.tools.facts import Facts
from pantheon.tools.rules import FieldRule, Rules, check_field, is_right

_COMMAS = re.compile(r"[,;]")


def repair(path: str, raw: bytes, rules: Rules, facts: Facts) -> tuple[bytes, tuple[str, ...]]:
    """The note with every certain repair made, and what was done, one line each. `path` is the one of the base tree."""
    fixed, done = undamage(path, raw, rules)
    for name, rule in rules.ordered():
        try:
            doc = parse(fixed, path)
        except InputError:
            break
        finding = check_field(doc, name, rule)
        if finding is None or finding.repair is not Repair.CERTAIN:
            continue
        value = _value(name, rule, path, doc, facts, rules)
        if value is not None and is_right(value if isinstance(value, str) else [*value], rule):
            fixed = set_field(doc, name, value, order=rules.order)
            done.append(f"{name}: {_shown(value)}")
    return fixed, tuple(done)


def undamage(path: str, raw: bytes, rules: Rules) -> tuple[bytes, list[str]]:
    """The file with certain damage undone, and what was done."""
    done = []
    fixed = raw
    if rules.repair.mojibake:
        fixed = damage.fix_mojibake(raw)
        if fixed != raw:
            done.append("text that was decoded wrongly is put right")
    if rules.repair.blank_runs:
        cut = damage.cut_blank_runs(fixed, rules.repair.blank_runs)
        if cut != fixed:
            done.append(f"{_lines(fixed) - _lines(cut)} blank lines cut")
        fixed = cut
    for where in rules.repair.history:
        name, _, key = where.partition(".")
        try:
            doc = parse(fixed, path)
        except InputError:
            break
        field = doc.field(name)
        if field is not None and damage.overlong_stamps(field.value, key):
            cut_history = damage.cut_history(doc, name, key)
            if cut_history is not None:
                fixed = cut_history
                done.append(f"{where} cut back to its timestamp")
    return fixed, done


def _value(name: str, rule: FieldRule, path: str, doc: Document, facts: Facts, rules: Rules) -> str | list[str] | None:
    """The one right value of a field, or None while it cannot be computed."""
    have = doc.get(name)
    if isinstance(have, str) and have in rule.aliases:
        return rule.aliases[have]
    if isinstance(have, str) and have.strip() and rule.type == "list":
        return [part for part in (p.strip().lstrip("#") for p in _COMMAS.split(have)) if part]
    for source in rule.sources:
        if source == "default" and rule.default is not None:
            return rule.default if isinstance(rule.default, str) else list(rule.default)
        if source == "path_uuid":
            return note_uuid(path, facts)
        if source == "first_commit" and path in facts.first_commit:
            return facts.first_commit[path].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if source == "slug_of_title":
            return _slug(path, doc, rules)
    if rule.choose == 1:
        best = candidates(name, path, doc, facts, rules)[:1]
        return list(best) if rule.type == "list" and best else next(iter(best), None)
    return None


def note_uuid(path: str, facts: Facts) -> str:
    """A name-based UUID (version 5, RFC 9562) of the path and the second of its first commit."""
    when = facts.first_commit.get(path)
    stamp = "" if when is None else when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(uuid5(NAMESPACE_URL, f"{quote(path.encode('utf-8', 'surrogateescape'))}#{stamp}"))


def _slug(path: str, doc: Document, rules: Rules) -> str | None:
    """The slug of the title, or of the file name where the title has no letters; None while the title is not right."""
    title = doc.get("title")
    if not isinstance(title, str) or ("title" in rules.field and not is_right(title, rules.field["title"])):
        return None
    return slug_of(title) or slug_of(filename_title(path, doc)) or "note"


def _shown(value: str | list[str]) -> str:
    text = value if isinstance(value, str) else ", ".join(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _lines(raw: bytes) -> int:
    return raw.count(b"\n")
