"""The named checks of the docops flow as a program: front matter, links and body of the changed notes.

    python -m pantheon.tools.check {frontmatter|links|body} --base DIR [--rules FILE] -- TARGET...

Runs in a clean export of the committed tree; DIR is an export of the base tree. One line per problem,
`path:line: rule: message`. Exit 0: nothing to say, 1: problems, 2: wrong usage. Reads both trees, writes nothing.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pantheon.errors import ConfigError, InputError
from pantheon.frontmatter import parse
from pantheon.records import Repair
from pantheon.tools import links, prose
from pantheon.tools.disk import Exported, View, shown
from pantheon.tools.evidence import body_of, expected_bodies
from pantheon.tools.repair import undamage
from pantheon.tools.rules import RULES_PATH, Rules, check_note, is_right, parse_rules

MARKDOWN = (".md", ".markdown")
_ESCAPED = re.compile(rb"%[0-9A-Fa-f]{2}|\\[!-/:-@\[-`{-~]")  # in a link: another spelling
Problem = tuple[str, int, str, str]  # path, line, rule, message


@dataclass
class Trees:
    """The two trees, read lazily."""

    base: View
    rules: Rules
    here: View

    @cached_property
    def before(self) -> links.Tree:
        return _linked(self.base.paths)

    @cached_property
    def after(self) -> links.Tree:
        return _linked(self.here.paths)

    def old(self, path: str) -> bytes | None:
        return self.base.read(path)

    def new(self, path: str) -> bytes | None:
        return self.here.read(path)

    @cached_property
    def moved(self) -> dict[str, str]:
        """Base paths that vanished and the new paths they became: the same uuid, else the same body."""
        gone = sorted(p for p in self.before.files - self.after.files if p.lower().endswith(MARKDOWN))
        fresh = sorted(p for p in self.after.files - self.before.files if p.lower().endswith(MARKDOWN))
        found: dict[str, str] = {}
        for test in (self._same_uuid, self._same_body):
            for old in gone:
                matches = [new for new in fresh if new not in found.values() and test(old, new)]
                if old not in found and len(matches) == 1:
                    found[old] = matches[0]
        return found

    def _same_uuid(self, old: str, new: str) -> bool:
        return bool(uuid := _uuid(old, self.old(old) or b"")) and uuid == _uuid(new, self.new(new) or b"")

    def _same_body(self, old: str, new: str) -> bool:
        raw = self.new(new) or b""
        return body_of(new, raw) in expected_bodies(old, self.old(old) or b"", {old: new}, self.before, self.rules)

    def origin(self, path: str) -> str | None:
        """The base path of a file of the new tree."""
        if path in self.before.files:
            return path
        return next((old for old, new in self.moved.items() if new == path), None)


def check_frontmatter(trees: Trees, targets: Sequence[str]) -> Iterator[Problem]:
    """Every target obeys the rules, and what was right stays as it was. Faults for a person may stay; so may all, where
    links alone changed."""
    for path in targets:
        raw = trees.new(path)
        if raw is None or not path.lower().endswith(MARKDOWN):
            continue
        origin = trees.origin(path)
        old = trees.old(origin) if origin else None
        excused: set[str] = set()
        if old is not None and origin is not None:
            relinked = bool(trees.moved) and raw == links.rewrite(old, origin, trees.moved, trees.before)
            findings = check_note(origin, old, trees.rules)
            excused = {f.rule for f in findings if f.repair is Repair.REPORT or (relinked and origin == path)}
        for finding in check_note(path, raw, trees.rules):
            if finding.rule not in excused:
                yield path, finding.line, finding.rule, finding.message
        if old is not None and origin is not None:
            yield from _altered(path, raw, origin, old, trees.rules)
            yield from _invented(path, raw, old, trees.rules)


def _altered(path: str, raw: bytes, origin: str, old: bytes, rules: Rules) -> Iterator[Problem]:
    """Fields that are others than before although nothing was wrong with them. Keys that the rules do not name belong
    to the note's writer."""
    repaired, _ = undamage(origin, old, rules)
    try:
        was, now = parse(repaired, origin), parse(raw, path)
    except InputError:
        return
    for field in was.fields:
        rule = rules.field.get(field.key)
        right = rule is None or is_right(field.value, rule)
        if right and now.get(field.key) != field.value:
            found = now.field(field.key)
            word = "was changed" if found else "was removed"
            yield path, found.line if found else 1, f"kept:{field.key}", f"{field.key} was right before, and {word}"


def _invented(path: str, raw: bytes, old: bytes, rules: Rules) -> Iterator[Problem]:
    """Texts that a model was free to write and that are not about the note: an example of its prompt, for one."""
    try:
        was, now = parse(old, path), parse(raw, path)
    except InputError:
        return
    for field in now.fields:
        rule, value = rules.field.get(field.key), field.value
        if rule is None or not rule.free_text or not isinstance(value, str) or value == was.get(field.key):
            continue
        if not prose.grounded(value, now.body, str(now.get("title") or "")):
            yield path, field.line, f"invented:{field.key}", f"most words of {field.key} are not in the note"


def check_links(trees: Trees, targets: Sequence[str]) -> Iterator[Problem]:
    """No link is broken that was whole: in the targets, and in any file towards a path that vanished."""
    gone = trees.before.files - trees.after.files
    others = sorted(trees.after.files - set(targets)) if gone else []
    lost = _lost(gone, trees.after)
    for path in [*targets, *others]:
        if not path.lower().endswith(MARKDOWN):
            continue
        raw = trees.new(path)
        if raw is None:
            continue
        origin = trees.origin(path)
        old = trees.old(origin) if origin else None
        if path == origin and raw == old and not _may_name(raw, lost):
            continue  # nearly all of a tree, of which every link is looked at otherwise, twice
        was = {t for _, t in links.broken(origin, old, trees.before)} if origin and old is not None else set()
        for line, target in links.broken(path, raw, trees.after):
            if target not in was:
                yield path, line, "link", f"leads nowhere: {target}"


def _lost(gone: Iterable[str], after: links.Tree) -> frozenset[str]:
    """The last part, in lower case and without `.md`, of every path that vanished: of files and of folders."""
    names = set()
    for path in gone:
        names.add(posixpath.basename(path).casefold().removesuffix(".md"))
        while (path := posixpath.dirname(path)) and path not in after.folders:
            names.add(posixpath.basename(path).casefold())
    return frozenset(names)


def _may_name(raw: bytes, names: frozenset[str]) -> bool:
    """Whether a file may link to something with one of these names, however it spells that."""
    if not names or not links.marked(raw):
        return False
    if _ESCAPED.search(raw):
        return True
    text = raw.decode("utf-8", "surrogateescape").casefold()
    return any(name in text for name in names)


def check_body(trees: Trees, targets: Sequence[str]) -> Iterator[Problem]:
    """Below the front matter nothing changed but certain repairs and links that follow a rename."""
    for path in targets:
        raw = trees.new(path)
        if raw is None or not path.lower().endswith(MARKDOWN):
            continue
        origin = trees.origin(path)
        old = trees.old(origin) if origin else None
        if origin is None or old is None:
            yield path, 0, "body", "no file of the base tree has this body or uuid"
            continue
        body = body_of(path, raw)
        wanted = expected_bodies(origin, old, trees.moved, trees.before, trees.rules)
        if body not in wanted:
            line = raw[: len(raw) - len(body)].count(b"\n") + 1
            pairs = zip(body.split(b"\n"), wanted[1].split(b"\n"), strict=False)
            line += next((n for n, (is_, was) in enumerate(pairs) if is_ != was), 0)
            yield path, line, "body", "differs from the base tree"


CHECKS = {"frontmatter": check_frontmatter, "links": check_links, "body": check_body}


def _uuid(path: str, raw: bytes) -> str:
    try:
        value = parse(raw, path).get("uuid")
    except InputError:
        return ""
    return value if isinstance(value, str) else ""


@lru_cache(2)
def _linked(paths: frozenset[str]) -> links.Tree:
    return links.Tree(paths)


@lru_cache
def _parsed(raw: bytes, path: str) -> Rules:
    return parse_rules(raw, path)


def warm(base: View, rules: str) -> None:
    """Have what all checks of a base share; rules that are not of this kind are no concern of theirs."""
    tree = _linked(base.paths)
    _ = tree.folders, tree.stems
    with suppress(OSError, ConfigError), open(rules, "rb") as file:
        _parsed(file.read(), rules)


def main(arguments: Sequence[str], trees: tuple[View, View] | None = None) -> int:
    """Run one check; the exit code. `trees`: the base and what became of it, where they are not on the disk."""
    words, targets = list(arguments), []
    if "--" in words:
        at = words.index("--")
        words, targets = words[:at], words[at + 1 :]
    options = dict(zip(words[1::2], words[2::2], strict=False))
    named = len(words) in (3, 5) and words[0] in CHECKS and options.keys() <= {"--base", "--rules"}
    if not named or "--base" not in options:
        print((__doc__ or "").split("\n\n")[1].strip(), file=sys.stderr)
        return 2
    path = options.get("--rules", os.path.join(options["--base"], RULES_PATH))
    try:
        with open(path, "rb") as file:
            rules = _parsed(file.read(), path)
    except (OSError, ConfigError) as error:
        print(shown(str(error)), file=sys.stderr)
        return 2
    base, here = trees or (Exported(options["--base"]), Exported("."))
    found = list(CHECKS[words[0]](Trees(base, rules, here), targets))
    for where, line, rule, message in found:
        print(shown(f"{where}:{line}: {rule}: {message}"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
