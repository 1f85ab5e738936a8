"""Task files: Markdown with YAML front matter. Pure.

Only the `pantheon` block is strict; every other key belongs to the user and is kept byte for byte. Scopes are gitignore
patterns relative to the repository. Damaged files end in a TaskError with the line, never in a crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from slugify import slugify

from pantheon import frontmatter
from pantheon.errors import TaskError
from pantheon.names import MAX_PATTERN, name_fault, path_spec, pattern_fault
from pantheon.records import Task, TaskSpec

_UUID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{3,63}\Z")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,99}\Z")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_VALUE = 500  # characters of a title, an id or a status
PRIORITIES = ("P0", "P1", "P2", "P3", "P4")


def parse(raw: bytes, path: str) -> Task | None:
    """The task in a file, or None when the file has no front matter (a note among the tasks). Raises TaskError."""
    doc = frontmatter.parse(raw, path, error=TaskError)
    if not doc.has_front_matter:
        return None
    fields = doc.mapping()
    spec = _spec(doc) if "pantheon" in fields else None
    title = _text(fields, "title")
    uuid = _text(fields, "uuid")
    slug = _text(fields, "slug") or slugify(title)[:100]
    if spec is not None:
        fault = next((why for part in path.split("/") if (why := name_fault(part))), "")
        if fault:
            raise TaskError("cannot use the task", path, f"its path is refused: {fault}")
        for key, value in (("title", title), ("uuid", uuid), ("status", _text(fields, "status"))):
            if not value:
                raise TaskError("cannot use the task", path, f"{key} is missing", _line(doc, key))
            if _CONTROL.search(value) or len(value) > MAX_VALUE:
                why = f"{key} holds a control character or more than {MAX_VALUE} characters"
                raise TaskError("cannot use the task", path, why, _line(doc, key))
        if not _UUID.match(uuid):
            raise TaskError("cannot use the task", path, f"uuid {uuid!r} is not an id", _line(doc, "uuid"))
        if not _SLUG.match(slug):
            why = f"slug {slug[:MAX_PATTERN]!r} must be lower-case letters, digits and hyphens"
            raise TaskError("cannot use the task", path, why, _line(doc, "slug"))
    labels = fields.get("labels", fields.get("tags", []))
    return Task(
        uuid=uuid,
        title=title,
        slug=slug,
        status=_text(fields, "status"),
        priority=_text(fields, "priority") or "P3",
        labels=tuple(label for label in labels if isinstance(label, str)) if isinstance(labels, list) else (),
        path=path,
        body=doc.body.decode(),
        spec=spec,
    )


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key, "")
    return value if isinstance(value, str) else ""


def _line(doc: frontmatter.Document, key: str) -> int:
    found = doc.field(key)
    return found.line if found else 1


def _spec(doc: frontmatter.Document) -> TaskSpec:
    field = doc.field("pantheon")
    assert field is not None
    if not isinstance(field.value, dict):
        raise TaskError("cannot use the task", doc.path, "the pantheon block must be a mapping", field.line)
    values = {key: value for key, value in field.value.items() if value != ""}
    try:
        spec = TaskSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(key) for key in first["loc"]]
        why = f"pantheon.{'.'.join(keys)}: {first['msg']}"
        if first["type"] == "extra_forbidden":
            why = f"unknown key {keys[-1]!r} in the pantheon block; known: {', '.join(TaskSpec.model_fields)}"
        raise TaskError("cannot use the task", doc.path, why, _inner_line(doc, field, keys)) from error
    for pattern in (*spec.scope, *spec.exclude):
        problem = pattern_fault(pattern)
        if problem:
            why = f"scope {pattern[:MAX_PATTERN]!r} {problem}"
            raise TaskError("cannot use the task", doc.path, why, _inner_line(doc, field, ["scope"]))
    if not spec.scope:
        raise TaskError("cannot use the task", doc.path, "pantheon.scope is missing or empty", field.line)
    return spec


def _inner_line(doc: frontmatter.Document, field: frontmatter.Field, keys: Sequence[str]) -> int:
    lines = doc.raw[field.start : field.end].decode(errors="replace").splitlines()
    for key in reversed([k for k in keys if not k.isdigit()]):
        for offset, line in enumerate(lines):
            if re.match(rf"\s*(- )?[\"']?{re.escape(key)}[\"']?\s*:", line) or re.search(
                rf"[{{,]\s*{re.escape(key)}\s*:", line
            ):
                return doc.raw.count(b"\n", 0, field.start) + offset + 1
    return field.line


def select(paths: Iterable[str], scope: Sequence[str], exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """The paths that match `scope` and not `exclude` (gitignore patterns), in the order given."""
    inside, outside = path_spec(tuple(scope)), path_spec(tuple(exclude))
    return tuple(path for path in paths if inside.match_file(path) and not outside.match_file(path))


def duplicates(tasks: Iterable[Task]) -> dict[str, tuple[str, ...]]:
    """uuid -> the paths of the tasks that share it, where more than one does."""
    seen: dict[str, list[str]] = {}
    for task in tasks:
        if task.uuid:
            seen.setdefault(task.uuid.lower(), []).append(task.path)
    return {uuid: tuple(paths) for uuid, paths in seen.items() if len(paths) > 1}


def with_status(raw: bytes, path: str, status: str) -> bytes:
    """The file with another status; every other byte as it was."""
    return frontmatter.set_field(frontmatter.parse(raw, path, error=TaskError), "status", status)
