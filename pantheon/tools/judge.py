"""The check `rules` as a program: what the rules of any kind say of a change.

    python -m pantheon.tools.judge --base DIR --rules FILE -- TARGET...

Runs in a clean export of the committed tree; DIR is an export of the base tree. One line per problem,
`path:line: rule: message`. Exit 0: nothing to say, 1: problems, 2: wrong usage. Reads both trees, writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from pantheon.errors import ConfigError
from pantheon.records import Record
from pantheon.tools.disk import Exported, View, shown
from pantheon.tools.registry import parse_rules
from pantheon.tools.tool import Change, Kind, Tree


def main(arguments: Sequence[str], trees: tuple[View, View] | None = None) -> int:
    """Judge every target; the exit code. `trees`: the base and what became of it, where they are not on the disk."""
    words, targets = list(arguments), []
    if "--" in words:
        at = words.index("--")
        words, targets = words[:at], words[at + 1 :]
    options = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 4 or options.keys() != {"--base", "--rules"}:
        print((__doc__ or "").split("\n\n")[1].strip(), file=sys.stderr)
        return 2
    try:
        with open(options["--rules"], "rb") as file:
            kind, rules = _parsed(file.read(), options["--rules"])
    except (OSError, ConfigError) as error:
        print(shown(str(error)), file=sys.stderr)
        return 2
    base, now = (Tree(view.paths, view.read) for view in trees or (Exported(options["--base"]), Exported(".")))
    bad = False
    for path in targets:
        for problem in kind.problems(Change(path, base.read(path), now.read(path), base, now), rules):
            print(shown(f"{problem.path}:{problem.line}: {problem.rule}: {problem.message}"))
            bad = True
    return 1 if bad else 0


@lru_cache
def _parsed(raw: bytes, path: str) -> tuple[Kind, Record]:
    return parse_rules(raw, path)


def warm(rules: str) -> None:
    """Read a rules file once for all checks to come; one that is damaged is theirs to tell of."""
    with suppress(OSError, ConfigError), open(rules, "rb") as file:
        _parsed(file.read(), rules)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
