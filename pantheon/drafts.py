"""Task files that are written for a person to read: a draft for a cluster, the parts of a task. Pure.

Owns the words of a new task file, scopes that match exactly the files they are meant for, and the split of a task's
items into parts. A draft's uuid comes from its content, so the same cluster is the same task each time. Who writes the
files, and whether a person wants them, is daytime.py's.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from slugify import slugify

from pantheon import clusters, frontmatter, tasks
from pantheon.clusters import Cluster
from pantheon.errors import TaskError
from pantheon.names import name_fault, pattern_fault
from pantheon.plan import printable
from pantheon.records import Flow, Item, Record, Task, TaskSpec

SPACE = uuid.UUID("6f2b9f4e-6a35-5d0e-8f63-0a5a53c1d9b7")  # of the uuids we derive
MAX_TITLE = 160
MAX_TAKEN_OUT = 50  # files that a scope may name as exceptions
PARTS = "## Parts"
ITEMS = "## Items"


class Scope(Record):
    """Patterns of a task, and the files that no pattern can name (they are left to a person)."""

    scope: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    nameless: tuple[str, ...] = ()


class Draft(Record):
    """A new task file: its path, its bytes, and what is known of it without reading them."""

    path: str
    uuid: str
    slug: str
    title: str
    targets: tuple[str, ...]
    raw: bytes


# --- scopes ----------------------------------------------------------------------------------------------------------


def literal(path: str) -> str:
    """The gitignore pattern that names one file; empty where a task's scope cannot name it."""
    if not path.isprintable() or path[:1] in "!~*?[" or any(name_fault(part) for part in path.split("/")):
        return ""
    pattern = "".join(f"\\{c}" if c in "*?[" else c for c in path)
    pattern = f"[#]{pattern[1:]}" if pattern.startswith("#") else pattern
    return pattern if _fits(pattern) else ""


def _fits(pattern: str) -> bool:
    """Whether a task's scope takes the pattern."""
    return not pattern_fault(pattern)


def exact(paths: Collection[str], others: Collection[str], *, patterns: bool = True) -> Scope:
    """A scope that matches all of `paths` and none of `others`. With `patterns` whole directories are named by the
    ending of their files where that is as exact; else each file by its own name."""
    left = {path: name for path in sorted(paths) if (name := literal(path))}
    nameless = [path for path in sorted(paths) if path not in left]
    found: list[str] = []
    if patterns:
        kinds: dict[str, list[str]] = defaultdict(list)
        for path in left:
            kinds[_ending(path)].append(path)
        for ending, inside in sorted(kinds.items()):
            for pattern, covered in _globs(ending, inside, [o for o in others if _ending(o) == ending]):
                found.append(pattern)
                for path in covered:
                    del left[path]
    found += left.values()
    top = {path for path in left if "/" not in path}  # their names match at every depth
    strangers = [other for other in sorted(others) if top and not top.isdisjoint(other.split("/"))]
    exclude = tuple(name for other in strangers if (name := literal(other)))
    if len(exclude) < len(strangers) or len(exclude) > MAX_TAKEN_OUT:
        found = [pattern for pattern in found if pattern not in {left[path] for path in top}]
        nameless, exclude = sorted((*nameless, *top)), ()
    missed = set(nameless).difference(tasks.select(nameless, found, exclude))  # a pattern may match what has no name
    return Scope(scope=tuple(found), exclude=exclude, nameless=tuple(sorted(missed)))


def _ending(path: str) -> str:
    """`.md` of `docs/a.md`; empty for a name without one, or with one that no pattern should hold."""
    stem, dot, ending = path.rpartition("/")[2].rpartition(".")
    return f".{ending}" if stem and dot and ending.isascii() and ending.isalnum() else ""


def _globs(ending: str, paths: Sequence[str], others: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Patterns with the paths they cover: one for the whole tree below the common directory where no other file of
    this ending lies, else one for each directory that holds several of the paths and no other."""
    if not ending or len(paths) < 2:
        return []
    top = clusters.common_directory(paths)
    below = f"{top}/" if top else ""
    name = literal(top) if top else ""
    if len({_folder(path) for path in paths}) > 1 and (name or not top):
        pattern = f"{name}/**/*{ending}" if top else f"**/*{ending}"
        if _fits(pattern) and not any(other.startswith(below) for other in others):
            return [(pattern, list(paths))]
    taken = {_folder(other) for other in others}
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[_folder(path)].append(path)
    found = []
    for folder, inside in sorted(folders.items()):
        pattern = f"{literal(folder)}/*{ending}"
        if folder and folder not in taken and len(inside) > 1 and literal(folder) and _fits(pattern):
            found.append((pattern, inside))
    return found


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


# --- a draft of a cluster --------------------------------------------------------------------------------------------


def draft(cluster: Cluster, flow: Flow, others: Collection[str], directory: str, when: datetime) -> Draft | None:
    """The task file for a cluster that `flow` repairs; None where no scope can name its files. `others` are the flow's
    files with findings outside of the cluster."""
    scope = exact(cluster.paths, [*others, f"{directory}/new.md"])  # no pattern may take a task file for a target
    if not scope.scope:
        return None
    content = json.dumps([flow.name, cluster.rules, scope.scope, scope.exclude], ensure_ascii=True)
    name = str(uuid.uuid5(SPACE, content))
    slug = f"{slugify(f'{flow.name} {cluster.directory}')[:80].strip('-') or 'task'}-{name[:8]}"
    title = title_of(flow.name, cluster.rules, cluster.paths)
    targets = tuple(path for path in cluster.paths if path not in scope.nameless)
    checks = list(dict.fromkeys(check for node in flow.nodes for check in node.checks))
    lines = [
        "---",
        f"uuid: {_text(name)}",
        f"title: {_text(title)}",
        f"slug: {_text(slug)}",
        'status: "draft"',
        'priority: "P3"',
        f"labels: [{_text(flow.name)}]",
        f'created_at: "{when:%Y-%m-%dT%H:%M:%SZ}"',
        f'estimates: {{complexity: "", scale: "{_files(len(targets))}", time_to_completion: ""}}',
        "pantheon:",
        f"  flow: {_text(flow.name)}",
        *_listed("scope", scope.scope),
        *_listed("exclude", scope.exclude),
        "  depends_on: []",
        f"  max_diff_lines: {TaskSpec().max_diff_lines}",
        "  standing: false",
        *(["  acceptance:", *(f"    - run: {_text(check)}" for check in checks)] if checks else []),
        "---",
        f"{_files(len(targets))} break the same rules: {printable(', '.join(cluster.rules))}.",
        "",
        *(f"- {printable(example)}" for example in cluster.examples),
        "",
        "Drafted by `git pantheon survey`. No night takes it until its status is `ready`.",
        "",
    ]
    raw = "\n".join(lines).encode()
    return Draft(path=f"{directory}/{slug}.md", uuid=name, slug=slug, title=title, targets=targets, raw=raw)


def title_of(flow: str, rules: Sequence[str], paths: Sequence[str]) -> str:
    """What a person reads in lists: the flow, the most frequent rules, the place."""
    more = f" and {len(rules) - 3} more" if len(rules) > 3 else ""
    return printable(f"{flow}: {', '.join(rules[:3])}{more} in {clusters.place_of(paths)}")[:MAX_TITLE]


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"


def _text(value: str) -> str:
    """A printable text as YAML, in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _listed(key: str, values: Sequence[str], indent: str = "  ") -> list[str]:
    """A list of the `pantheon` block: on one line while it is short."""
    if sum(map(len, values)) <= 80:
        return [f"{indent}{key}: [{', '.join(map(_text, values))}]"]
    return [f"{indent}{key}:", *(f"{indent}  - {_text(value)}" for value in values)]


# --- the parts of a task ---------------------------------------------------------------------------------------------


class Part(Record):
    """Some of a task's items, as a task of their own. `after`: numbers (from 0) of parts that must be done first."""

    title: str
    items: tuple[str, ...]  # their ids
    after: tuple[int, ...] = ()


def split(task: Task, items: Sequence[Item], most: int) -> tuple[Part, ...]:
    """A task's items by cluster, none of more than `most`; small clusters share parts. Each item is in exactly one."""
    by_target = {item.target: item for item in items}
    named: list[tuple[str, Sequence[str]]] = []
    rest: list[str] = []
    for cluster in clusters.group({"": {item.target: item.findings for item in items}}):
        if cluster.count < clusters.SMALLEST:
            rest += cluster.paths
        else:
            named.append((f"{', '.join(cluster.rules[:3])} in {clusters.place_of(cluster.paths)}", cluster.paths))
    if rest:
        named.append((f"others in {clusters.place_of(rest)}", sorted(rest)))
    parts = []
    for words, paths in named:
        for at in range(0, len(paths), most):
            title = task.title if words in task.title else f"{task.title}: {words}"
            numbered = f"{title} ({at // most + 1})" if len(paths) > most else title
            ids = tuple(by_target[path].id for path in paths[at : at + most])
            parts.append(Part(title=printable(numbered)[:MAX_TITLE], items=ids))
    return tuple(parts)


def children(
    task: Task, raw: bytes, items: Sequence[Item], parts: Sequence[Part], broken: Collection[str]
) -> tuple[Draft, ...]:
    """The parts as task files beside their parent: its own file with another id, title, scope and body. `broken`: all
    files with findings of its flow, which no part may take from others. What no pattern can name stays with the parent.
    Raises TaskError when the parent's file cannot be edited."""
    assert task.spec is not None
    targets_of = {item.id: item.target for item in items}
    ids = [str(uuid.uuid5(SPACE, json.dumps([task.uuid, sorted(part.items)]))) for part in parts]
    slugs = [f"{task.slug[:88].strip('-')}-{each[:8]}" for each in ids]
    folder = f"{_folder(task.path)}/" if "/" in task.path else ""
    targets = [{targets_of[item] for item in part.items} for part in parts]
    scopes = [exact(each, [path for path in broken if path not in each], patterns=False) for each in targets]
    found = []
    for number, (part, scope) in enumerate(zip(parts, scopes, strict=True)):
        if not scope.scope:
            continue
        waits = (*task.spec.depends_on, *(slugs[each] for each in part.after if scopes[each].scope))
        block = {"scope": scope.scope, "exclude": scope.exclude, "depends_on": waits, "standing": None}
        edited = _with_block(raw, task.path, block)
        for key, value in (("uuid", ids[number]), ("title", part.title), ("slug", slugs[number])):
            doc = frontmatter.parse(edited, task.path, error=TaskError)
            edited = frontmatter.set_field(doc, key, value, order=ORDER)
        doc = frontmatter.parse(edited, task.path, error=TaskError)
        body = without_section(without_section(doc.body.decode(), PARTS), ITEMS)
        words = f"Part {number + 1} of {len(parts)} of `{task.slug}`.{doc.newline.decode()}"
        found.append(
            Draft(
                path=f"{folder}{slugs[number]}.md",
                uuid=ids[number],
                slug=slugs[number],
                title=part.title,
                targets=tuple(sorted(targets[number].difference(scope.nameless))),
                raw=edited[: doc.body_start] + words.encode() + body.encode(),
            )
        )
    return tuple(found)


ORDER = ("uuid", "title", "slug", "status")


def parent(task: Task, raw: bytes, parts: Sequence[Draft]) -> bytes:
    """The parent's file once it is split: it waits for its parts, and lists them."""
    assert task.spec is not None
    waits = tuple(dict.fromkeys((*task.spec.depends_on, *(part.slug for part in parts))))
    lines = [f"- [{part.slug}]({part.path.rpartition('/')[2]}): {_files(len(part.targets))}" for part in parts]
    return with_section(_with_block(raw, task.path, {"depends_on": waits}), task.path, PARTS, lines)


def with_items(task: Task, raw: bytes, items: Sequence[Item]) -> bytes:
    """The task's file with its items as a list to tick off in its body."""
    lines = [
        f"- [ ] `{printable(item.target)}`: {', '.join(dict.fromkeys(finding.rule for finding in item.findings))}"
        for item in items
    ]
    return with_section(raw, task.path, ITEMS, lines)


def with_section(raw: bytes, path: str, heading: str, lines: Sequence[str]) -> bytes:
    """The file with a section at the end of its body, in place of one with the same heading."""
    doc = frontmatter.parse(raw, path, error=TaskError)
    body = without_section(doc.body.decode(), heading).rstrip().encode()
    section = doc.newline.join(line.encode() for line in (heading, "", *lines, ""))
    return raw[: doc.body_start] + (body + doc.newline * 2 if body else b"") + section


def without_section(body: str, heading: str) -> str:
    """The text without the section below a heading of the second level."""
    kept: list[str] = []
    inside = False
    for line in body.splitlines(keepends=True):
        if line.startswith(("# ", "## ")):
            inside = line.rstrip() == heading
        if not inside:
            kept.append(line)
    return "".join(kept)


def _with_block(raw: bytes, path: str, values: Mapping[str, Sequence[str] | None]) -> bytes:
    """The file with lists of its `pantheon` block replaced, or taken out (None); every other byte as it was."""
    doc = frontmatter.parse(raw, path, error=TaskError)
    field = doc.field("pantheon")
    if field is None or field.style != "block":
        line = field.line if field else 1
        raise TaskError("cannot split the task", path, "its pantheon block must have one key per line", line)
    start = raw.index(b"\n", field.colon) + 1
    for key, value in values.items():
        fence = b"---" + doc.newline
        block = frontmatter.parse(fence + raw[start : field.end] + fence, path, error=TaskError)
        old = block.field(key)
        if (old is None and not value) or (old is not None and value is not None and old.value == list(value)):
            continue
        at, end = (old.start, old.end) if old else (block.block_end, block.block_end)
        text = [] if value is None else _listed(key, value, block.indent.decode())
        inner = (
            block.raw[:at] + b"".join(line.encode() + doc.newline for line in text) + block.raw[end : block.block_end]
        )
        raw = raw[:start] + inner[len(fence) :] + raw[field.end :]
        doc = frontmatter.parse(raw, path, error=TaskError)
        field = doc.field("pantheon")
        assert field is not None
    return raw
