"""The one table of tools and the one of kinds of rules: each module names its own, here they are gathered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pantheon import tomlfile
from pantheon.errors import ConfigError
from pantheon.records import Record
from pantheon.tools import (
    codegen,
    docstring_seeds,
    docstrings,
    edits,
    files,
    header_seeds,
    headers,
    labels,
    match,
    notes,
    pattern,
    pattern_seeds,
    peers,
    spec_seeds,
    specs,
    stub_seeds,
    stubs,
)
from pantheon.tools.tool import Kind, Tool

WHAT = "cannot use the rules"
DEFAULT_KIND = "frontmatter"  # of a rules file that names none

TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for module in (files, edits, notes, match, peers, pattern, labels, codegen, stubs, docstrings, headers)
    for tool in module.TOOLS
}
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        notes.KIND,
        replace(pattern.KIND, seeds=pattern_seeds.seeds),
        replace(specs.KIND, seeds=spec_seeds.seeds),
        replace(stubs.KIND, seeds=stub_seeds.seeds),
        replace(docstrings.KIND, seeds=docstring_seeds.seeds),
        replace(headers.KIND, seeds=header_seeds.seeds),
    )
}


def parse_rules(raw: bytes, path: str) -> tuple[Kind, Record]:
    """A rules file and its kind. Raises ConfigError with the line of what is wrong."""
    text, values = tomlfile.read(raw, path, WHAT)
    name = values.get("kind", DEFAULT_KIND)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        why = f"no such kind: {name!r}; known: {', '.join(KINDS)}"
        raise ConfigError(WHAT, path, why, tomlfile.line_of(text, ("kind",)))
    return kind, kind.parse(raw, path)
