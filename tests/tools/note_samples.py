"""Synthetic notes and a worktree over them, shared by the tests of the tools."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pantheon.records import Offer, Record
from pantheon.tools.facts import Facts, build_facts
from pantheon.tools.registry import TOOLS
from pantheon.tools.rules import Rules, parse_rules
from pantheon.tools.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
RULES_FILE = ROOT / "templates/pantheon/rules/frontmatter.toml"
RULES: Rules = parse_rules(RULES_FILE.read_bytes())
WHEN = datetime(2025, 11, 5, 10, 22, 7, tzinfo=UTC)

BARE = """# Nightly backups of the mail server (2025-11-05)

## Goal
Back up the mail server every night with restic and prove each week that a restore works.

- Mount the snapshot read-only.
- Restic runs as its own user; the backup key never leaves the mail server.

```sh
# not a heading
restic backup /var/mail  # [no link](nowhere.md)
```

See [the key rotation](keys.md#rotate) and [[--title Phase 1 — Restore drills|restore drills]].
"""
FLAGGED = """---
uuid: "c5ca5707-5ebe-443e-a2ff-b26e73f0ba3b"
title: "--title Phase 1 — Restore drills --debug"
slug: "--title Phase 1 — Restore drills --debug"
status: "incoming"
priority: "high"   # from the board
tags: []
created_at: "2025-11-05T16:52:57.837Z"
estimates:
  complexity: ""
---

Restore one mailbox from the backup each week and compare it with the original.

## Blocked By

[Backups](backups.md), see [above](#blocked-by)
"""
RIGHT = """---
uuid: 676b71ab-1d3d-4fa6-9594-afc6555f1e7d
title: Key rotation
slug: key-rotation
status: todo
priority: P2
labels: [keys, backup]
created_at: 2026-02-03
description: How the backup keys are rotated twice a year.
---
# Key rotation

Used by [the drills](<--title Phase 1 — Restore drills --debug.md>) and [again][d].

[d]: --title%20Phase%201%20%E2%80%94%20Restore%20drills%20--debug.md "Drills"
"""
PLAIN = "Just a line about the printer in the hall.\n"
EMPTY = ""
BLOCKS = (
    "---\r\ntitle: Größe der Server\r\ntags:\r\n  -\r\nfoo: |+\r\n  kept\r\n\r\n---\r\n"
    "Wir messen jede Nacht die Last.\r\n"
)
STAMPED = (
    '---\ntitle: "Stamps"\ncommitHistory:\n  -\n    sha: "4930e12"\n'
    '    timestamp: "2025-10-19 17:08:36 -0500\\n\\ndiff --git a/x b/x\\n' + "+ more \\\\n" * 900 + '"\n'
    '    message: "m"\n---\n# Stamps\n\nA note whose history holds a whole diff in its timestamp.\n'
)
MOJIBAKE = (
    "# Caf\u00e9 \u2014 the \u201cweekly\u201d list\n\nHere\u2019s what\u2019s served \u2014 and it\u2019s good.\n\n"
    "## \U0001f5c2 Source\n"
)
FLOODED = "# Flood control\n\nThe pumps start by themselves at two metres." + "\n" * 400 + "The end of it.\n"
BOARD = "---\nkanban-plugin: board\n---\n\n## icebox\n\n- [ ] [[keys|Key rotation]] #keys prio:P2 (uuid:676b71ab)\n"


def damaged(text: str, layers: int) -> str:
    """The text as it looks after its UTF-8 was read as Mac Roman so many times."""
    for _ in range(layers):
        text = text.encode().decode("mac_roman")
    return text


FLAGGED_PATH = "docs/--title Phase 1 — Restore drills --debug.md"
NOTES: dict[str, bytes] = {
    "docs/backups.md": BARE.encode(),
    FLAGGED_PATH: FLAGGED.encode(),
    "docs/keys.md": RIGHT.encode(),
    "docs/printer.md": PLAIN.encode(),
    "docs/2025-11-05_empty.md": EMPTY.encode(),
    "docs/bom.md": b"\xef\xbb\xbf" + BARE.encode(),
    "notes/last.md": BLOCKS.encode(),
    "notes/stamps.md": STAMPED.encode(),
    "notes/cafe.md": damaged(MOJIBAKE, 2).encode(),
    "notes/flood.md": FLOODED.encode(),
    "notes/board.md": BOARD.encode(),
    "notes/--Setup.md": b"# Setup of the build farm\n\nThe farm builds every branch each night.",
}
BROKEN: dict[str, bytes] = {
    "bad/open.md": b"---\ntitle: x\n\nno end\n",
    "bad/yaml.md": b"---\ntitle: 'x\n---\ntext\n",
    "bad/latin.md": b"---\ntitle: caf\xe9\n---\n",
    "bad/twice.md": b"---\ntitle: a\ntitle: b\n---\n",
}
FACTS: Facts = build_facts(NOTES, (*NOTES, "README.txt"), dict.fromkeys(NOTES, WHEN))


def workspace(root: Path, target: str) -> Workspace:
    """A fresh worktree in `root` over NOTES and BROKEN."""
    return Workspace(root, target, RULES, FACTS, {**NOTES, **BROKEN}.get)


def call(name: str, ws: Workspace, args: Record) -> Record:
    """One call of a tool that does not wait."""
    result = TOOLS[name].run(ws, args)
    assert isinstance(result, Record)
    return result


def offered(name: str, ws: Workspace) -> tuple[Offer, ...]:
    """The offers of a tool that does not wait."""
    found = TOOLS[name].offer(ws)
    assert isinstance(found, tuple)
    return found
