"""The one table of tools and the one of kinds of rules: each module names its own, here they are gathered."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

from pantheon.errors import ConfigError
from pantheon.records import Record
from pantheon.tools import codegen, docstrings, edits, files, headers, match, notes, pattern, peers, specs, stubs
from pantheon.tools.tool import Kind, Tool

DEFAULT_KIND = "frontmatter"  # of a rules file that names none

TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for module in (files, edits, notes, match, peers, pattern, codegen, stubs, docstrings, headers)
    for tool in module.TOOLS
}
KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in (notes.KIND, pattern.KIND, specs.KIND, stubs.KIND, docstrings.KIND, headers.KIND)
}


def parse_rules(raw: bytes, path: str) -> tuple[Kind, Record]:
    """A rules file and its kind. Raises ConfigError with the line of what is wrong."""
    kind = KINDS.get(kind_of(raw, path))
    if kind is None:
        line = next((n for n, text in enumerate(raw.splitlines(), 1) if re.match(rb"\s*kind\s*=", text)), 0)
        raise ConfigError(
            "cannot use the rules", path, f"no such kind: {kind_of(raw, path)!r}; known: {', '.join(KINDS)}", line
        )
    return kind, kind.parse(raw, path)


def kind_of(raw: bytes, path: str) -> str:
    """The kind that a rules file names. Raises ConfigError for what is not TOML."""
    try:
        found = tomllib.loads(raw.decode()).get("kind", DEFAULT_KIND)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        at = re.search(r"at line (\d+)", str(error))
        raise ConfigError("cannot use the rules", path, f"not TOML: {error}", int(at[1]) if at else 0) from error
    return found if isinstance(found, str) else repr(found)
