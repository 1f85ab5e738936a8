"""The check program over two trees on disk: passes what the tools made, names what they did not."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from note_samples import BROKEN, FLAGGED_PATH, NOTES, RULES_FILE, call, offered, workspace

from pantheon.tools import check
from pantheon.tools.registry import TOOLS
from pantheon.tools.rules import RULES_PATH
from pantheon.tools.tool import Nothing

ALL = {**NOTES, **BROKEN}


def put(root: Path, files: Mapping[str, bytes | None]) -> None:
    for path, data in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            place.unlink()
        else:
            place.write_bytes(data)


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """base/ and tree/ hold the samples; the current directory is tree/, as in the sandbox."""
    for name in ("base", "tree"):
        put(tmp_path / name, {**ALL, RULES_PATH: RULES_FILE.read_bytes()})
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path


def run(trees: Path, *targets: str) -> dict[str, int]:
    return {name: check.main([name, "--base", str(trees / "base"), "--", *targets]) for name in check.CHECKS}


def finished(trees: Path, path: str) -> list[str]:
    """Do the item in a worktree, put its result into tree/, give the changed paths."""
    ws = workspace(trees / "work", path)
    chance = random.Random(path)
    call("repair_note", ws, Nothing())
    for name in ("set_field", "rename_note"):
        while offers := offered(name, ws):
            args = {key: chance.choice(values or ("x",)) for key, values in offers[0].args.items()}
            call(name, ws, TOOLS[name].args.model_validate(args))
    changes = ws.changes()
    put(trees / "tree", changes)
    return [changed for changed, data in changes.items() if data is not None]


@pytest.mark.parametrize("path", [p for p in sorted(NOTES) if "empty" not in p])
def test_what_the_tools_made_passes_every_check(trees: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    targets = finished(trees, path)
    assert run(trees, *targets) == {"frontmatter": 0, "links": 0, "body": 0}, capsys.readouterr().out


def test_a_base_note_fails_and_says_where(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(trees, "docs/backups.md")["frontmatter"] == 1
    assert "docs/backups.md:1: missing:title: title is missing" in capsys.readouterr().out


def test_faults_for_a_person_may_stay(trees: Path) -> None:
    assert run(trees, "bad/yaml.md") == {"frontmatter": 0, "links": 0, "body": 0}
    put(trees / "tree", {"docs/keys.md": b"---\ntitle: 'x\n---\n"})
    assert run(trees, "docs/keys.md")["frontmatter"] == 1


def test_a_changed_word_in_the_body_is_found(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(trees / "tree", {"docs/keys.md": NOTES["docs/keys.md"].replace(b"again", b"never")})
    assert run(trees, "docs/keys.md")["body"] == 1
    assert "docs/keys.md:13: body" in capsys.readouterr().out


def test_a_new_broken_link_is_found_and_an_old_one_is_not(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("base", "tree"):
        put(trees / name, {"docs/old.md": b"[x](gone.md)\n"})
    assert run(trees, "docs/old.md")["links"] == 0
    put(trees / "tree", {"docs/old.md": b"[x](gone.md)\n[y](lost.md)\n"})
    assert run(trees, "docs/old.md")["links"] == 1
    assert "docs/old.md:2: link: leads nowhere: lost.md" in capsys.readouterr().out


def test_a_rename_without_its_inbound_links_is_found(trees: Path) -> None:
    put(trees / "tree", {FLAGGED_PATH: None, "docs/drills.md": NOTES[FLAGGED_PATH]})
    codes = run(trees, "docs/drills.md")
    assert codes["links"] == 1
    assert codes["body"] == 0


def test_a_file_out_of_nowhere_has_no_base(trees: Path) -> None:
    put(trees / "tree", {"docs/new.md": b"# Something new\n"})
    assert run(trees, "docs/new.md")["body"] == 1


@pytest.mark.parametrize(
    "link",
    [
        "[a](Old%4Eame.md)",
        "[a](OldName\\.md)",
        "[a](./OldName.md#x)",
        "[a]: <../gone/OldName.md>",
        "[[oldname]]",
        "[[gone/OldName]]",
        "[a](../gone)",
    ],
)
def test_a_link_to_what_a_rename_took_away_is_found_however_it_is_spelled(trees: Path, link: str) -> None:
    folder = "docs" if link.endswith("gone)") else "gone"
    old, text = "gone/OldName.md", b"# Old\n\nText.\n"
    for name in ("base", "tree"):
        put(trees / name, {f"{folder}/other.md": f"{link}\n".encode(), old: text})
    assert run(trees, f"{folder}/other.md")["links"] == 0
    put(trees / "tree", {old: None, "new.md": text})
    assert run(trees, "new.md")["links"] == 1


def test_links_on_disk_are_not_followed(trees: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    os.symlink(tmp_path / "secret.md", trees / "tree/docs/sneaky.md")
    assert run(trees, "docs/sneaky.md")["frontmatter"] == 0  # nothing is read


def test_control_characters_do_not_reach_the_terminal(trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(trees / "tree", {"docs/\x1b[31m.md": b"x"})
    run(trees, "docs/\x1b[31m.md")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["links"], ["nope", "--base", "x"], ["links", "--base"], ["links", "--base", "/none", "--"]]
)
def test_wrong_usage_is_two(words: list[str], trees: Path) -> None:
    assert check.main(words) == 2
