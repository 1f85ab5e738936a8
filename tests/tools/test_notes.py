"""The tools end to end: certain repairs and any picks give a note that passes the checks."""

from __future__ import annotations

import random
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import pytest
from note_samples import BROKEN, FACTS, FLAGGED_PATH, NOTES, RULES, call, offered, workspace

from pantheon.errors import ToolError
from pantheon.frontmatter import parse
from pantheon.tools.notes import FieldArgs, NameArgs
from pantheon.tools.registry import TOOLS
from pantheon.tools.repair import note_uuid, repair
from pantheon.tools.rules import check_note
from pantheon.tools.tool import Nothing
from pantheon.tools.workspace import Workspace

NOTHING = Nothing()
NAMED = "docs/printer.md#2025-11-05T10:22:07Z"


def work(ws: Workspace, seed: int) -> int:
    """Do what a night does, picking at random; the number of picks."""
    chance = random.Random(seed)
    call("repair_note", ws, NOTHING)
    picks = 0
    for name in ("set_field", "rename_note"):
        tool = TOOLS[name]
        for _ in range(12):
            offers = offered(name, ws)
            if not offers:
                break
            args = {key: chance.choice(values or ("a text",)) for key, values in offers[0].args.items()}
            tool.run(ws, tool.args.model_validate(args))
            picks += 1
        assert not tool.offer(ws)
    return picks


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("path", sorted(NOTES))
def test_repairs_and_any_picks_leave_no_finding(tmp_path: Path, path: str, seed: int) -> None:
    ws = workspace(tmp_path, path)
    work(ws, seed)
    raw = ws.read(ws.target)
    assert check_note(ws.target, raw, RULES) == () or path == "docs/2025-11-05_empty.md"
    shown = call("show_change", ws, NOTHING).model_dump()
    assert shown["body_unchanged"] and shown["links_ok"]
    assert len(call("show_change", ws, NOTHING).to_json()) <= 900
    before = ws.changes()
    assert work(ws, seed + 100) == 0
    assert ws.changes() == before


@pytest.mark.parametrize("path", sorted(NOTES))
def test_repair_is_idempotent_and_keeps_fields_that_are_right(path: str) -> None:
    once, _ = repair(path, NOTES[path], RULES, FACTS)
    assert repair(path, once, RULES, FACTS) == (once, ())
    broken = {f.field for f in check_note(path, NOTES[path], RULES)}
    before, after = parse(NOTES[path], path).mapping(), parse(once, path).mapping()
    assert all(after[key] == value for key, value in before.items() if key not in broken)


def test_computed_values_are_the_same_on_every_machine() -> None:
    fixed, done = repair("docs/printer.md", NOTES["docs/printer.md"], RULES, FACTS)
    doc = parse(fixed, "docs/printer.md")
    assert doc.get("created_at") == "2025-11-05T10:22:07Z"
    assert doc.get("uuid") == note_uuid("docs/printer.md", FACTS) == str(uuid5(NAMESPACE_URL, NAMED))
    assert doc.get("slug") is None  # its title is not chosen yet
    assert [line.partition(":")[0] for line in done] == ["uuid", "status", "priority", "created_at"]


def test_a_note_that_is_right_stays_byte_for_byte(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "docs/keys.md")
    assert work(ws, 1) == 0
    assert ws.changes() == {}


def test_the_slug_follows_the_chosen_title(tmp_path: Path) -> None:
    ws = workspace(tmp_path, FLAGGED_PATH)
    call("repair_note", ws, NOTHING)
    offer = offered("set_field", ws)[0]
    assert offer.single() == {"field": "title", "value": "Phase 1 — Restore drills"}
    call("set_field", ws, FieldArgs(field="title", value="Phase 1 — Restore drills"))
    assert parse(ws.read(ws.target), "x").get("slug") == "phase-1-restore-drills"
    assert b'priority: "P1"   # from the board\n' in ws.read(ws.target)


def test_a_tag_that_was_chosen_is_not_offered_again_and_three_are_enough(tmp_path: Path) -> None:
    ws = workspace(tmp_path, FLAGGED_PATH)
    work_title = offered("set_field", ws)[0].single() or {}
    call("set_field", ws, FieldArgs.model_validate(work_title))
    seen: list[str] = []
    while (offers := offered("set_field", ws)) and offers[0].args["field"] == ("tags",):
        values = offers[0].args["value"] or ()
        assert not set(seen) & set(values)
        call("set_field", ws, FieldArgs(field="tags", value=values[0]))
        seen.append(values[0])
    assert len(seen) == 3
    assert parse(ws.read(ws.target), "x").get("tags") == seen


def test_values_that_were_not_offered_are_refused(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "docs/backups.md")
    for field, value in (("title", "Something else"), ("nope", "x"), ("tags", "the"), ("status", "done")):
        with pytest.raises(ToolError):
            call("set_field", ws, FieldArgs(field=field, value=value))
    with pytest.raises(ToolError):
        call("rename_note", ws, NameArgs(name="other.md"))
    assert ws.changes() == {}


def test_a_rename_takes_the_links_of_other_files_along(tmp_path: Path) -> None:
    ws = workspace(tmp_path, FLAGGED_PATH)
    work(ws, 0)
    changes = ws.changes()
    assert ws.target == "docs/phase-1-restore-drills.md"
    assert changes[FLAGGED_PATH] is None
    keys = changes["docs/keys.md"] or b""
    assert b"(<phase-1-restore-drills.md>)" in keys
    assert b'[d]: phase-1-restore-drills.md "Drills"' in keys


@pytest.mark.parametrize("path", sorted(BROKEN))
def test_a_note_that_cannot_be_read_is_refused_and_kept(tmp_path: Path, path: str) -> None:
    ws = workspace(tmp_path, path)
    assert call("repair_note", ws, NOTHING).model_dump()["report"]
    with pytest.raises(ToolError):
        offered("set_field", ws)
    assert ws.changes() == {}


def test_every_tool_has_a_valid_example_and_a_schema() -> None:
    for name, tool in TOOLS.items():
        assert tool.name == name
        tool.args.model_validate(dict(tool.example))
        assert tool.args.model_json_schema()["additionalProperties"] is False


def test_an_excerpt_is_short_and_free_of_markup(tmp_path: Path) -> None:
    excerpt = call("read_note", workspace(tmp_path, "docs/backups.md"), NOTHING).model_dump()
    assert excerpt["title"].startswith("Nightly backups")
    assert len(excerpt["text"]) <= 600 and "](" not in excerpt["text"] and "restic backup /var" not in excerpt["text"]
