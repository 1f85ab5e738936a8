"""Canaries of rules for lines: a text with the lines that they want, without them and with them again, right or wrong.

A line that a person wrote is taken out where the rules would put it back in the same place. Pure and deterministic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pantheon.tools import pattern, seeding
from pantheon.tools.facts import Facts
from pantheon.tools.pattern import LineRule, LineRules
from pantheon.tools.tool import Seed, Tree

KIND = pattern.KIND
OTHERS = 12  # files whose values are looked at
PARAGRAPH = 40  # characters that are missed when they are lost
_NUMBER = re.compile(r"(?<![\w.:/#-])[1-9]\d{0,5}(?![\w.:/-])")
_WORD = re.compile(r"(?<![\w-])[a-z]{4,}(?![\w-])")


def seeds(path: str, raw: bytes, rules: LineRules, tree: Tree, facts: Facts) -> Iterator[Seed]:
    """A right change of the file, then wrong ones, each as far as the file gives it."""
    if len(raw) > seeding.MOST or not KIND.about(path, rules) or seeding.is_broken(KIND, path, rules, tree):
        return
    whole = pattern.text_lines(raw)
    if whole is None:
        return
    lines, taken = whole, []
    for rule in rules.rule:
        without = _without(lines, rule)
        if without is not None:
            taken.append((rule, *without))
            lines = without[0]
    if not taken:
        return
    good = _good(path, lines, raw, rules, tree)
    if good is None and len(taken) > 1:  # two that would change places: only one of them
        lines, taken = taken[0][1], taken[:1]
        good = _good(path, lines, raw, rules, tree)
    if good is None:
        return
    yield good
    fresh = {line for _, _, line in taken}
    for kind, bad in _wrong(path, whole, [(rule, line) for rule, _, line in taken], rules, tree):
        if bad is not None:
            yield from seeding.wrong(kind, good, {path: _joined(bad)})
    body = [n for n, line in enumerate(whole) if line not in fresh and line.strip()]
    for kind, bad in (("changed-body", _changed(path, whole, body)), ("lost-paragraph", _lost(path, whole, fresh))):
        if bad is not None and bad != lines:
            yield from seeding.wrong(kind, good, {path: _joined(bad)})


def _good(path: str, lines: Sequence[str], raw: bytes, rules: LineRules, tree: Tree) -> Seed | None:
    before = {path: _joined(lines)}
    return seeding.restored(KIND, path, before, {path: raw}, rules, seeding.laid(tree, before))


def _joined(lines: Sequence[str]) -> bytes:
    return "\n".join(lines).encode()


def _fits(rule: LineRule, line: str) -> bool:
    return pattern.matches(rule.missing or "", line.rstrip("\r"))


def _without(lines: list[str], rule: LineRule) -> tuple[list[str], str] | None:
    """The lines without the one that a rule wants, and that one, where the rule would put it back just there."""
    found = [n for n, line in enumerate(lines) if rule.missing is not None and _fits(rule, line)]
    if rule.insert is None or len(found) != 1:
        return None
    (at,) = found
    line = lines[at].rstrip("\r")
    value = rule.value_of(line) if "{value}" in rule.insert else None
    if (value is None) == ("{value}" in rule.insert) or (rule.values and value not in rule.values):
        return None
    for start, end in ((at, at + 1), (at - 1, at + 1), (at, at + 2)):
        left = lines[:start] + lines[end:]
        inside = (
            start >= 0 and end <= len(lines) and not any(e.strip() for e in (*lines[start:at], *lines[at + 1 : end]))
        )
        if inside and left and pattern.repaired(left, rule, value) == lines:
            return left, lines[at]
    return None


def _wrong(
    path: str, lines: list[str], taken: Sequence[tuple[LineRule, str]], rules: LineRules, tree: Tree
) -> Iterator[tuple[str, list[str] | None]]:
    """The text with another value in one of its lines: another one that is allowed, or one of another file."""
    for rule, line in taken:
        own = rule.value_of(line.rstrip("\r"))
        if own is None:
            continue
        others = [value for value in rule.values if value.casefold() != own.casefold()]
        others = others or _values(path, rule, own, rules, tree)
        for value in seeding.turned(others, path, rule.name)[:1]:
            end = "\r" if line.endswith("\r") else ""
            yield (
                "wrong-value",
                [(rule.insert or "").replace("{value}", value) + end if e == line else e for e in lines],
            )
            return


def _values(path: str, rule: LineRule, own: str, rules: LineRules, tree: Tree) -> list[str]:
    """The values of the same rule in other files."""
    places = [each for each in tree.paths if each != path and KIND.about(each, rules)]
    for place in seeding.turned(places, path, "strange")[:OTHERS]:
        raw = tree.read(place)
        lines = pattern.text_lines(raw) if raw is not None and len(raw) <= seeding.MOST else None
        given = (rule.value_of(line.rstrip("\r")) for line in lines or () if _fits(rule, line))
        found = [value for value in given if value is not None and value.casefold() != own.casefold()]
        if found:
            return found
    return []


def _changed(path: str, lines: Sequence[str], body: Sequence[int]) -> list[str] | None:
    """The text with one number counted up, or one word left out, in a line that no rule speaks of."""
    for pick in (_NUMBER, _WORD):
        places = [(n, m.start(), m.end()) for n in body for m in pick.finditer(lines[n][:400])]
        for n, start, end in seeding.turned(places, path, "changed-body")[:1]:
            text = str(int(lines[n][start:end]) + 1) if pick is _NUMBER else ""
            return [*lines[:n], lines[n][:start] + text + lines[n][end:], *lines[n + 1 :]]
    return None


def _lost(path: str, lines: list[str], fresh: set[str]) -> list[str] | None:
    """The text without one paragraph, where it has several and none of it is code."""
    blocks: list[tuple[int, int]] = []
    start = 0
    for n, line in enumerate([*lines, ""]):
        if not line.strip():
            blocks += [(start, n)] if n > start else []
            start = n + 1
    if any("```" in line or "~~~" in line for line in lines):
        return None
    told = [(a, b) for a, b in blocks if not fresh & set(lines[a:b]) and not lines[a].startswith(("#", "---"))]
    told = [(a, b) for a, b in told if sum(map(len, lines[a:b])) >= PARAGRAPH]
    for a, b in seeding.turned(told, path, "lost-paragraph")[:1] if len(told) > 1 else ():
        return lines[:a] + lines[b + 1 :]
    return None
