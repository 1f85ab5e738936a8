"""Out of the worktree through git: pointers, hooks, drivers, modules; none of them has a say, none of them runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import git

from attacks.conftest import BYSTANDER, NOTES, VICTIM, Field, said
from pantheon.records import Outcome

DRIVERS = ("clean", "smudge", "process", "textconv", "merge", "diff")
ATTRIBUTES = "*.md filter=evil diff=evil merge=evil text ident working-tree-encoding=UTF-16\n"


def drivers(field: Field) -> None:
    """Every driver that git knows, configured to run the canary; attributes in each place git reads."""
    run = str(field.canary)
    field.config(
        *(f"filter.evil.{name}={run}" for name in ("clean", "smudge", "process")),
        "filter.evil.required=true",
        f"diff.evil.textconv={run}",
        f"diff.evil.command={run}",
        f"diff.external={run}",
        f"merge.evil.driver={run} %O %A %B",
        f"core.attributesFile={field.tmp}/attributes",
    )
    (field.tmp / "attributes").write_text(ATTRIBUTES)
    (field.root / ".git/info/attributes").write_text(ATTRIBUTES)


# --- 1: the pointer --------------------------------------------------------------------------------------------------


def test_01_a_pointer_to_a_git_dir_of_the_agent_is_recorded_as_tampering_and_runs_nothing(arena: Field) -> None:
    """Its git dir has a monitor, hooks and drivers that would run at the first git command in the worktree."""

    def attack(place: Path) -> None:
        evil = place / "docs/evil"
        if evil.exists():
            return
        git("init", "-q", str(evil), cwd=arena.tmp)
        for key, value in {
            "core.fsmonitor": str(arena.canary),
            "core.hooksPath": str(arena.tmp),
            "core.worktree": str(place),
            "core.sshCommand": str(arena.canary),
            "core.editor": str(arena.canary),
            "core.pager": str(arena.canary),
            "gpg.program": str(arena.canary),
            "log.showSignature": "true",
        }.items():
            git("config", "--file", str(evil / ".git/config"), key, value, cwd=arena.tmp)
        (evil / ".git/hooks/post-checkout").write_text(f"#!/bin/sh\nexec {arena.canary}\n")
        (evil / ".git/hooks/post-checkout").chmod(0o755)
        (place / ".git").write_text(f"gitdir: {evil}/.git\n")

    arena.night(attack)
    arena.refused("tampered")
    (pull,) = arena.report.prs if arena.report else ()
    assert git("cat-file", "-t", pull.tip, cwd=arena.root).strip() == "commit"  # in the user's object store
    arena.look()


@pytest.mark.parametrize("how", ["removed", "directory", "link", "fifo-free rewrite"])
def test_01_every_way_to_replace_the_pointer_is_tampering(lone: Field, how: str) -> None:
    def attack(place: Path) -> None:
        pointer = place / ".git"
        old = pointer.read_bytes() if pointer.is_file() and not pointer.is_symlink() else b""
        if pointer.is_dir() and not pointer.is_symlink():
            return
        pointer.unlink(missing_ok=True)
        if how == "directory":
            git("init", "-q", str(place), cwd=lone.tmp)
            git("config", "--file", str(place / ".git/config"), "core.fsmonitor", str(lone.canary), cwd=lone.tmp)
        elif how == "link":
            (lone.tmp / "pointer").write_bytes(old)  # the same bytes, but elsewhere
            pointer.symlink_to(lone.tmp / "pointer")
        elif how != "removed":
            pointer.write_bytes(old.rstrip(b"\n") + b"x\n")

    lone.night(attack)
    lone.refused("tampered")


def test_01_the_admin_directory_of_another_worktree_is_not_removed(lone: Field) -> None:
    """The user has a linked worktree of their own; nothing an item does may end it."""
    git("worktree", "add", "-q", "--detach", str(lone.tmp / "mine"), cwd=lone.root)
    admin = lone.root / ".git/worktrees/mine"
    before = {path.name: path.read_bytes() for path in admin.iterdir() if path.is_file()}
    lone.night(lambda place: (place / ".git").write_text(f"gitdir: {admin}\n"))
    lone.refused("tampered")
    assert {path.name: path.read_bytes() for path in admin.iterdir() if path.is_file()} == before
    assert git("status", "--porcelain", cwd=lone.tmp / "mine") == ""


# --- 2: hooks --------------------------------------------------------------------------------------------------------


def test_02_hooks_that_the_agent_puts_where_a_relative_hooks_path_points_never_run(lone: Field) -> None:
    lone.config("core.hooksPath=docs/hooks")

    def attack(place: Path) -> None:
        for name in ("pre-commit", "post-commit", "reference-transaction", "post-checkout", "post-index-change"):
            hook = place / "docs/hooks" / name
            hook.parent.mkdir(exist_ok=True)
            hook.write_text(f"#!/bin/sh\nexec {lone.canary}\n")
            hook.chmod(0o755)

    lone.night(attack)
    assert lone.run_of().outcome is Outcome.FAILED
    lone.look()


def test_02_the_users_own_hooks_are_not_run_by_the_night(arena: Field) -> None:
    """Every hook that git has, in both places; a night moves many refs and starts none of them."""
    names = (
        *("applypatch-msg", "pre-commit", "pre-merge-commit", "prepare-commit-msg", "commit-msg", "post-commit"),
        *("post-checkout", "post-merge", "pre-push", "reference-transaction", "post-rewrite", "post-index-change"),
        *("pre-auto-gc", "fsmonitor-watchman", "post-update", "update"),
    )
    for name in names:
        hook = arena.root / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\nexec {arena.canary}\n")
        hook.chmod(0o755)
    arena.config(f"core.fsmonitor={arena.canary}", f"core.alternateRefsCommand={arena.canary}")
    report = arena.night()
    assert {run.outcome for run in report.runs} == {Outcome.ACCEPTED}
    for words in ("status", "report", "pr diff 1"):
        arena.shown(*words.split())


# --- 4: drivers ------------------------------------------------------------------------------------------------------


def test_04_no_driver_of_the_user_starts_and_blobs_are_the_raw_bytes(make_field: object, arena: Field) -> None:
    drivers(arena)
    report = arena.night()
    assert {run.outcome for run in report.runs} == {Outcome.ACCEPTED}
    (pull,) = report.prs
    for path, text in NOTES.items():
        raw = arena.repo.read_path(pull.tip, path) or b""
        assert raw.endswith(text.encode())  # no filter, no encoding, no keyword
        assert raw.startswith(b"---\n")
    arena.look()


def test_04_attributes_that_the_agent_writes_are_refused_and_have_no_say(lone: Field) -> None:
    drivers(lone)

    def attack(place: Path) -> None:
        (place / ".gitattributes").write_text(ATTRIBUTES)
        (place / "docs/.gitattributes").write_text("* -diff\n")

    lone.night(attack)
    assert lone.run_of().outcome is Outcome.FAILED
    assert lone.report is not None
    assert lone.report.prs == ()
    lone.look()


def test_04_attributes_that_hide_a_diff_do_not_hide_it_from_the_gate(make_field: type, tmp_path: Path) -> None:
    """A note marked as binary, by the user or in secret: its diff still counts its lines and shows them."""
    field: Field = make_field({".gitattributes": "*.md binary -diff\n"}, alone=True)
    (field.root / ".git/info/attributes").write_text("*.md binary -diff\n")
    report = field.night()
    (pull,) = report.prs
    found = field.repo.diff(field.repo.tree_of(pull.base), field.repo.tree_of(pull.tip))
    assert found.added > 5
    assert b"+title:" in found.patch


# --- 5, 6: repositories and modules in the tree ----------------------------------------------------------------------


def test_05_an_embedded_bare_repository_is_refused_by_name(lone: Field) -> None:
    def attack(place: Path) -> None:
        bare = place / "docs/bare"
        if not bare.exists():
            git("init", "-q", "--bare", str(bare), cwd=lone.tmp)
            git("config", "--file", str(bare / "config"), "core.fsmonitor", str(lone.canary), cwd=lone.tmp)
            git("config", "--file", str(bare / "config"), "core.worktree", "..", cwd=lone.tmp)

    lone.night(attack)
    lone.refused("embedded.*docs/bare|docs/bare.*repository")
    lone.look()


@pytest.mark.parametrize("where", ["", "docs", "docs/deep/er"])
def test_05_a_bare_repository_without_its_config_is_one_all_the_same(lone: Field, where: str) -> None:
    """HEAD, objects/ and refs/ are all that git looks for; the rest may come later, file by file."""

    def attack(place: Path) -> None:
        top = place / where
        for name in ("objects", "refs"):
            (top / name).mkdir(parents=True, exist_ok=True)
            (top / name / "x.md").write_text("x")
        (top / "HEAD").write_text("ref: refs/heads/main\n")

    lone.night(attack)
    lone.refused("embedded")


def test_06_modules_with_a_carriage_return_and_a_link_are_refused(lone: Field) -> None:
    """The path of CVE-2025-48384: it ends in CR, a link takes its place, and hooks/ lies behind."""

    def attack(place: Path) -> None:
        (place / ".gitmodules").write_bytes(b'[submodule "x"]\n\tpath = "docs/sub\r"\n\turl = ../x\n')
        link = place / "docs/sub\r"
        if not link.is_symlink():
            link.symlink_to("../.git")

    lone.night(attack)
    lone.refused("control character|not a regular file")
    lone.look()


def test_06_modules_alone_are_a_protected_path(lone: Field) -> None:
    lone.night(lambda place: (place / ".gitmodules").write_text('[submodule "x"]\n\tpath = docs/sub\n\turl = ../x\n'))
    assert lone.run_of().outcome is Outcome.FAILED
    assert "protected path changed: .gitmodules" in lone.run_of().reason or lone.run_of().node == "checks"


def test_06_links_and_modules_that_the_user_has_stay_as_they_are(make_field: type) -> None:
    """A symlink and a gitlink of the base tree: neither read, nor exported, nor changed, nor followed."""
    field: Field = make_field()
    secret = field.secret
    (field.root / "docs/link.md").symlink_to(secret)
    (field.root / "docs/folder.md").symlink_to("/etc")
    git("add", "-A", cwd=field.root)
    head = git("rev-parse", "HEAD", cwd=field.root).strip()
    git("update-index", "--add", "--cacheinfo", f"160000,{head},docs/module.md", cwd=field.root)
    git("commit", "-q", "-m", "links", cwd=field.root)
    field.marker, told = "no such text", field.marker  # the path of the secret stands in the link's blob
    report = field.night()
    assert {run.item.target for run in report.runs} == {VICTIM, BYSTANDER}
    (pull,) = report.prs
    for name, mode in (("link.md", "120000"), ("folder.md", "120000"), ("module.md", "160000")):
        line = git("ls-tree", pull.tip, f"docs/{name}", cwd=field.root)
        assert line.startswith(mode)
        assert line == git("ls-tree", "HEAD", f"docs/{name}", cwd=field.root)
    field.marker = told
    field.sound()


# --- refs ------------------------------------------------------------------------------------------------------------


def test_a_branch_or_tag_of_the_user_in_our_place_is_never_moved(arena: Field) -> None:
    """The user already has a branch where the PR's would go, and refs with our names spelled otherwise."""
    head = git("rev-parse", "HEAD", cwd=arena.root).strip()
    mine = ("refs/heads/pantheon/tidy/1", "refs/heads/Pantheon/tidy/1", "refs/tags/pantheon/tidy/2")
    for ref in mine:
        git("update-ref", ref, head, cwd=arena.root)
    report = arena.night()
    assert [pull.branch for pull in report.prs] == ["pantheon/tidy/2"]
    assert [git("rev-parse", ref, cwd=arena.root).strip() for ref in mine] == [head] * 3


def test_a_branch_that_blocks_ours_is_a_typed_error_and_loses_nothing(arena: Field) -> None:
    """`refs/heads/pantheon` is a branch, so `pantheon/tidy/1` cannot be one."""
    head = git("rev-parse", "HEAD", cwd=arena.root).strip()
    git("update-ref", "refs/heads/pantheon", head, cwd=arena.root)
    code, text = said(arena.root, "night", "--now", "--engine", "scripted", "--budget", "60s", "-q")
    assert code == 1, text
    assert "refs/heads/pantheon" in text
    assert git("rev-parse", "refs/heads/pantheon", cwd=arena.root).strip() == head
    git("update-ref", "-d", "refs/heads/pantheon", cwd=arena.root)
    code, text = said(arena.root, "night", "--now", "--engine", "scripted", "-q")
    assert code == 0, text
    assert "2 items to review" in said(arena.root, "status")[1]
