"""The tools for any agent: what they show is bounded and right; what they change is exact, parses, and is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from note_samples import RULES

from pantheon.errors import ConfigError, ToolError
from pantheon.records import CheckResult, Record
from pantheon.tools import syntax
from pantheon.tools.facts import build_facts
from pantheon.tools.registry import TOOLS
from pantheon.tools.workspace import MAX_BYTES, Workspace

MODULE = b'''"""Backups."""

import os


class Backup:
    made = 0

    @property
    def age(self):
        return now() - self.made


def load(path):
    return os.stat(path)
'''
FILES: dict[str, bytes] = {
    "src/backup.py": MODULE,
    "src/clock.py": b"def now(): ...\n",
    "tests/test_backup.py": b"from backup import load\n",
    "docs/backup.md": b"---\ntitle: Old\ntags: [a]\nmap: {x: 1}\n---\n# Backup\n\nSee [keys](keys.md).\n",
    "docs/keys.md": b"# Keys\r\n\r\nSee [the backup](backup.md#top) and [again][b].\r\n\r\n[b]: ./backup.md\r\n",
    "docs/taken.md": b"x\n",
    "data/log.txt": b"".join(b"line %d\n" % number for number in range(1, 251)),
    "data/picture.png": b"\x89PNG",
    "data/latin.txt": b"caf\xe9\n",
    "far/away.txt": b"load the van\npayload\n",
}
PAGES = {path: raw for path, raw in FILES.items() if path.endswith(".md")}
FACTS = build_facts(PAGES, FILES, {})


def workspace(root: Path, target: str, files: Mapping[str, bytes] = FILES) -> Workspace:
    return Workspace(root, target, RULES, FACTS, files.get)


def call(ws: Workspace, tool: str, /, **args: str) -> dict[str, Any]:
    result = TOOLS[tool].run(ws, TOOLS[tool].args.model_validate(args))
    assert isinstance(result, Record)
    return result.model_dump(mode="json")


def offered(ws: Workspace, tool: str) -> dict[str, tuple[str, ...] | None] | None:
    """What the tool's one offer lets a model say; None when it offers nothing."""
    offers = TOOLS[tool].offer(ws)
    assert isinstance(offers, tuple)
    assert len(offers) <= 1
    return offers[0].args if offers else None


# --- looking ---------------------------------------------------------------------------------------------------------


def test_a_file_is_read_from_its_beginning_and_cut_at_a_line(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "src/backup.py", {**FILES, "src/backup.py": b"# a line of text\n" * 1000})
    found = call(ws, "read_file")
    assert (found["lines"], found["whole"]) == (1000, False)
    assert len(found["text"]) <= 8000
    assert found["text"].endswith("# a line of text")
    assert call(ws, "read_file", path="src/clock.py")["whole"]
    for path in ("data/latin.txt", "data/none.txt", "../x", "/etc/passwd", ".git/config"):
        with pytest.raises(ToolError):
            call(ws, "read_file", path=path)
    assert ws.changes() == {}
    assert not (tmp_path / "src").exists(), "looking brings nothing in"


def test_the_nearest_files_are_offered(tmp_path: Path) -> None:
    near = offered(workspace(tmp_path, "src/backup.py"), "read_file") or {}
    first = ("tests/test_backup.py", "docs/backup.md", "src/clock.py", "docs/keys.md")
    assert (near["path"] or ())[:4] == first
    page = (offered(workspace(tmp_path, "docs/backup.md"), "read_file") or {})["path"] or ()
    assert page[0] == "docs/keys.md"
    assert "data/picture.png" not in page


def test_a_search_is_for_the_text_as_it_stands(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "src/backup.py")
    hits = [(hit["path"], hit["line"]) for hit in call(ws, "search", text="load")["hits"]]
    assert hits == [("src/backup.py", 14), ("tests/test_backup.py", 1), ("far/away.txt", 1), ("far/away.txt", 2)]
    word = [(hit["path"], hit["line"]) for hit in call(ws, "search", text="load", word="true")["hits"]]
    assert word == hits[:-1]
    assert call(ws, "search", text=".*")["hits"] == []
    assert call(ws, "search", text="line ")["more"]
    ws.write("src/backup.py", b"x = 'fresh words'\n")
    assert call(ws, "search", text="fresh words")["hits"][0]["path"] == "src/backup.py"


def test_windows_cover_a_file_and_a_line_stands_in_the_middle_of_its_own(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "data/log.txt")
    seen = [call(ws, "view", window=str(number)) for number in (1, 2, 3)]
    assert [(one["first"], one["last"], one["windows"], one["lines"]) for one in seen] == [
        *((1, 100, 3, 250), (101, 200, 3, 250), (201, 250, 3, 250)),
    ]
    assert "\n".join(one["text"] for one in seen).splitlines()[120] == "  121  line 121"
    around = call(ws, "view", line="130")
    assert (around["first"], around["last"], around["window"]) == (80, 179, 2)
    for wrong in ({"window": "4"}, {"line": "251"}):
        with pytest.raises(ToolError, match="250 lines"):
            call(ws, "view", **wrong)
    assert offered(ws, "view") == {"window": ("1", "2", "3")}
    assert offered(workspace(tmp_path, "docs/taken.md"), "view") is None


def test_a_view_begins_where_the_focus_is(tmp_path: Path) -> None:
    raw = b"x = 1\n" * 300 + MODULE
    ws = workspace(tmp_path, "src/backup.py", {**FILES, "src/backup.py": raw}).focused("load")
    assert "def load(path):" in call(ws, "view")["text"]


def test_symbols_are_listed(tmp_path: Path) -> None:
    found = call(workspace(tmp_path, "src/backup.py"), "list_symbols")["symbols"]
    assert [(one["name"], one["kind"], one["line"]) for one in found] == [
        *(("Backup", "class", 6), ("Backup.age", "method", 9), ("load", "function", 14)),
    ]
    with pytest.raises(ToolError, match="no language"):
        call(workspace(tmp_path, "docs/keys.md"), "list_symbols")


def test_a_check_is_run_by_its_name(tmp_path: Path) -> None:
    async def checker(names: Any) -> tuple[CheckResult, ...]:
        if names != ["tests"]:
            raise ConfigError("no such check", names[0], "known: tests")
        return (CheckResult(name="tests", passed=False, detail="1 failed"),)

    async def run(ws: Workspace, name: str) -> Any:
        tool = TOOLS["run_check"]
        return await tool.run(ws, tool.args.model_validate({"name": name}))  # type: ignore[misc]

    known = Workspace(tmp_path, "src/backup.py", RULES, FACTS, FILES.get, checker, ("tests",))
    assert asyncio.run(run(known, "tests")).model_dump() == {"passed": False, "detail": "1 failed"}
    assert offered(known, "run_check") == {"name": ("tests",)}
    for ws in (known, Workspace(tmp_path, "src/backup.py", RULES, FACTS, FILES.get, checker)):
        with pytest.raises(ToolError, match="known: tests"):
            asyncio.run(run(ws, "lint"))
    with pytest.raises(ToolError, match="no checks"):
        asyncio.run(run(workspace(tmp_path, "src/backup.py"), "tests"))


# --- editing ---------------------------------------------------------------------------------------------------------


def test_an_edit_replaces_one_exact_text_once(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "src/backup.py")
    assert call(ws, "edit", old="made = 0", new="made = 0.0") == {"path": ws.target, "line": 7, "changed": True}
    after = ws.read(ws.target)
    assert after == MODULE.replace(b"made = 0", b"made = 0.0")
    assert not call(ws, "edit", old="made = 0", new="made = 0.0")["changed"], "the new text holds the old one"
    assert ws.read(ws.target) == after
    assert call(ws, "edit", old="    made = 0.0\n", new="")["changed"]
    assert not call(workspace(tmp_path, "docs/taken.md"), "edit", old="x", new="x")["changed"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("nowhere", "x = 'unlike'", "not there"),
        ("self", "me", "2 places"),
        ("class Backup:", "class Backup", "does not parse: line "),
        ("import os", "import os\u202e", "u202e"),
        ("import os", "import os\0", "x00"),
    ],
)
def test_a_refused_edit_leaves_every_byte(tmp_path: Path, old: str, new: str, why: str) -> None:
    ws = workspace(tmp_path, "src/backup.py")
    with pytest.raises(ToolError, match=why):
        call(ws, "edit", old=old, new=new)
    assert ws.changes() == {}


def test_a_file_that_did_not_parse_before_may_be_repaired_in_steps(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "src/backup.py", {"src/backup.py": b"def f(:\n  pas s\n"})
    assert call(ws, "edit", old="(:", new="():")["changed"]
    assert call(ws, "edit", old="pas s", new="pass")["changed"]
    with pytest.raises(ToolError, match="parse"):
        call(ws, "edit", old="pass", new="pas s")


def test_an_edit_keeps_the_line_ends_of_the_file(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "docs/keys.md")
    call(ws, "edit", old="# Keys\n", new="# Keys\n\nKept safe.\n")
    assert ws.read(ws.target).startswith(b"# Keys\r\n\r\nKept safe.\r\n\r\n")
    assert not call(ws, "edit", old="# Keys\n", new="# Keys\n\nKept safe.\n")["changed"]


SMALL = st.text("ab\n", min_size=0, max_size=12)


@settings(deadline=None, max_examples=400, derandomize=True)
@given(text=SMALL, old=SMALL.filter(bool), new=SMALL)
def test_any_edit_is_done_once_or_refused(text: str, old: str, new: str) -> None:
    """A small alphabet: texts that overlap themselves and hold each other are the rule."""
    with TemporaryDirectory() as place:
        ws = workspace(Path(place), "a.txt", {"a.txt": text.encode()})
        try:
            changed = call(ws, "edit", old=old, new=new)["changed"]
        except ToolError:
            assert ws.changes() == {}
            return
        after = ws.read("a.txt").decode()
        assert changed == (after != text)
        if changed:
            places = [n for n in range(len(text)) if text[:n] + new + text[n:][len(old) :] == after]
            assert any(text.startswith(old, n) for n in places)
        assert not call(ws, "edit", old=old, new=new)["changed"]
        assert ws.read("a.txt").decode() == after


def test_the_lines_of_a_short_file_are_offered(tmp_path: Path) -> None:
    assert offered(workspace(tmp_path, "src/clock.py"), "edit") == {"old": ("def now(): ...",), "new": None}
    assert offered(workspace(tmp_path, "data/log.txt"), "edit") == {"old": None, "new": None}


def test_a_symbol_is_replaced_whole_and_indented_as_it_was(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "src/backup.py")
    fresh = "def age(self):\n    if self.made:\n        return 1\n    return 0\n"
    assert call(ws, "edit_symbol", symbol="Backup.age", text=fresh)["changed"]
    text = ws.read(ws.target).decode()
    assert (
        "    made = 0\n\n    def age(self):\n        if self.made:\n            return 1\n        return 0\n\n\n"
        in text
    )
    assert "@property" not in text
    assert not call(ws, "edit_symbol", symbol="Backup.age", text=fresh)["changed"]
    script = workspace(tmp_path, "a.ts", {"a.ts": b"let x = 1;\r\nexport function f() {}\r\n"})
    call(script, "edit_symbol", symbol="f", text="export function f(): number {\n  return 1\n}")
    assert script.read("a.ts") == b"let x = 1;\r\nexport function f(): number {\r\n  return 1\r\n}\r\n"


@pytest.mark.parametrize(
    ("symbol", "text"),
    [
        ("load", "def load(path):\n    return 1\n\n\ndef more(): pass"),
        ("load", "def other(path): pass"),
        ("load", "load = 1"),
        ("load", "class load: pass"),
        ("load", "def load(path: return 1"),
        ("load", "x = 1\ndef load(path): pass"),
        ("none", "def none(): pass"),
    ],
)
def test_only_that_symbol_may_come_in_its_place(tmp_path: Path, symbol: str, text: str) -> None:
    ws = workspace(tmp_path, "src/backup.py")
    with pytest.raises(ToolError):
        call(ws, "edit_symbol", symbol=symbol, text=text)
    assert ws.changes() == {}


BODIES = st.sampled_from(
    ["pass", "return 1", 'return """a\n  b"""', "if x:\n    return 2", "def inner(): ...", "# no", "("]
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    name=st.sampled_from(["Backup.age", "Backup", "load"]),
    head=st.sampled_from(["def", "async def", "class"]),
    body=BODIES,
)
def test_any_symbol_put_in_twice_is_put_in_once(name: str, head: str, body: str) -> None:
    text = f"{head} {name.rpartition('.')[2]}{'' if head == 'class' else '()'}:\n    " + body.replace("\n", "\n    ")
    with TemporaryDirectory() as place:
        ws = workspace(Path(place), "src/backup.py")
        try:
            call(ws, "edit_symbol", symbol=name, text=text)
        except ToolError:
            assert ws.changes() == {}
            return
        after = ws.read(ws.target)
        assert syntax.fault(ws.target, after) == ""
        call(ws, "edit_symbol", symbol=name, text=text)
        assert ws.read(ws.target) == after


def test_symbols_are_offered_by_name_and_the_one_in_focus_alone(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "src/backup.py")
    assert offered(ws, "edit_symbol") == {"symbol": ("Backup", "Backup.age", "load"), "text": None}
    assert offered(ws.focused("load"), "edit_symbol") == {"symbol": ("load",), "text": None}
    assert offered(workspace(tmp_path, "docs/keys.md"), "edit_symbol") is None


# --- front matter and names, whatever the flow's rules ---------------------------------------------------------------


def test_front_matter_is_set_and_of_a_list_a_value_is_added(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "docs/backup.md")
    assert call(ws, "set_front_matter", field="title", value="Backups: all")["changed"]
    assert call(ws, "set_front_matter", field="tags", value="mail")["changed"]
    assert call(ws, "set_front_matter", field="owner", value="ann")["changed"]
    text = ws.read(ws.target).decode()
    assert text.startswith('---\ntitle: "Backups: all"\ntags: ["a", "mail"]\nmap: {x: 1}\nowner: "ann"\n---\n# Bac')
    for field, value in (("title", "Backups: all"), ("tags", "mail"), ("owner", "ann")):
        assert not call(ws, "set_front_matter", field=field, value=value)["changed"]
    for target, field, value in (
        ("docs/backup.md", "map", "x"),
        ("src/clock.py", "a", "b"),
        ("docs/keys.md", "a", "b\nc"),
    ):
        with pytest.raises(ToolError):
            call(workspace(tmp_path, target), "set_front_matter", field=field, value=value)


def test_a_renamed_file_takes_its_links_along_also_a_second_time(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "docs/backup.md")
    assert call(ws, "rename_file", name="restic.md") == {"path": "docs/restic.md", "relinked": ["docs/keys.md"]}
    assert b"](restic.md#top)" in ws.read("docs/keys.md")
    assert b"[b]: ./restic.md\r\n" in ws.read("docs/keys.md")
    assert call(ws, "rename_file", name="restic.md") == {"path": "docs/restic.md", "relinked": []}
    assert call(ws, "rename_file", name="nightly.md")["relinked"] == ["docs/keys.md"]
    assert b"](nightly.md#top)" in ws.read("docs/keys.md")
    assert sorted(ws.changes()) == ["docs/backup.md", "docs/keys.md", "docs/nightly.md"]


@pytest.mark.parametrize(
    "name", ["taken.md", "TAKEN.md", "a/b.md", "../b.md", "b.txt", "b", ".git", "b\n.md", "b\u202e.md"]
)
def test_a_name_that_will_not_do_is_refused(tmp_path: Path, name: str) -> None:
    ws = workspace(tmp_path, "docs/backup.md")
    with pytest.raises(ToolError):
        call(ws, "rename_file", name=name)
    assert ws.changes() == {}
    assert ws.target == "docs/backup.md"


def test_nothing_grows_beyond_what_a_file_may_be(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "a.txt", {"a.txt": b"x" * (MAX_BYTES - 10) + b"\nend\n"})
    with pytest.raises(ToolError, match="more than"):
        call(ws, "edit", old="\nend\n", new="\nthe end of all this\n")
    assert ws.changes() == {}
