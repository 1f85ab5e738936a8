"""Init and uninstall on real repositories: byte for byte there and back; the stubs under a real git; pre-push."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from adapter_files import WHEN, card_of, write_adapter
from conftest import MakeRepo, git

from pantheon import adapters, hooks, stubs
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.places import TRIES

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
FILES = {"pantheon.toml": b"schema_version = 1\n", "flows/docops.toml": b'[flow]\nname = "docops"\n'}
ODD = "a 'single' \"double\" $HOME\nnew line é"
STUBS = {stubs.render_stub((TEMPLATES.parent / "hooks" / name).read_bytes(), "/x") for name in stubs.NAMES}
Snapshot = dict[str, tuple[str, int, bytes]]


def snapshot(*roots: Path) -> Snapshot:
    """Every path below the roots: kind, mode, bytes. The directories count, times do not."""
    found: Snapshot = {}
    for root in roots:
        for path in [root, *sorted(root.rglob("*"))]:
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode):
                found[str(path)] = ("link", 0, os.fsencode(path.readlink()))
            elif stat.S_ISDIR(info.st_mode):
                found[str(path)] = ("dir", stat.S_IMODE(info.st_mode), b"")
            else:
                found[str(path)] = ("file", stat.S_IMODE(info.st_mode), path.read_bytes())
    return found


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(mode)
    return path


def init(root: Path, command: str = "/nowhere/git-pantheon") -> hooks.InitPlan:
    repo = Repo.discover(root)
    plan = hooks.plan_init(repo, TEMPLATES, command, FILES)
    hooks.apply_init(repo, plan)
    return plan


def uninstall(root: Path, purge: bool = False) -> hooks.UninstallPlan:
    return hooks.apply_uninstall(Repo.discover(root), purge)


def actions(plan: hooks.InitPlan | hooks.UninstallPlan) -> dict[str, str]:
    return {one.target: one.action for one in plan.writes}


def program(tmp_path: Path, text: str = "") -> tuple[str, Path]:
    """A stand-in for git-pantheon that notes its arguments, standard input and environment."""
    log = tmp_path / "called"
    line = shlex.quote(str(log))
    text = f'echo "$*" >>{line}; case $2 in pre-push) cat >>{line} ;; esac; env >{line}.env; {text}'
    return str(script(tmp_path / "it's a dir" / "git-pantheon", text)), log


TASK = "---\npantheon:\n  flow: docops\n---\n# A\n"


def commit(root: Path, name: str, text: str = TASK, ok: tuple[int, ...] = (0,)) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    git("add", name, cwd=root)
    done = subprocess.run(["git", "commit", "-qm", name], cwd=root, capture_output=True, check=False, timeout=60)
    assert done.returncode in ok, done.stderr
    return os.fsdecode(done.stdout + done.stderr)


# --- there and back --------------------------------------------------------------------------------------------------


def with_hooks(root: Path) -> None:
    folder = root / ".git" / "hooks"
    script(folder / "post-commit", "exit 0")
    script(folder / "pre-commit", "exit 0", 0o644)
    script(root / ".git" / "shared.sh", "exit 0", 0o700)
    (folder / "pre-push").symlink_to("../shared.sh")
    (folder / "post-merge").symlink_to("/nowhere/at/all")
    script(folder / "commit-msg", "exit 0", 0o711)


def with_tracked_hooks_path(root: Path) -> None:
    script(root / ".husky" / "post-commit", "exit 0")
    git("config", "core.hooksPath", ".husky", cwd=root)


def with_inner_hooks_path(root: Path) -> None:
    git("config", "core.hooksPath", ".git/my hooks", cwd=root)


def with_linked_hooks(root: Path) -> None:
    script(root / "githooks" / "pre-commit", "exit 0")
    for path in (root / ".git" / "hooks").iterdir():
        path.unlink()
    (root / ".git" / "hooks").rmdir()
    (root / ".git" / "hooks").symlink_to("../githooks")


def with_odd_config(root: Path) -> None:
    path = root / ".git" / "config"
    odd = "; mine\n[core]  bare=false ; why\n\n\n[ALIAS]\n x = !echo \\\n  two\r\n"
    odd += "[notes]\n displayRef=refs/notes/a\n\trewriteRef"
    path.write_bytes(path.read_bytes() + odd.encode() + b" = refs/notes/\xc3\xa9 # no new line at the end")
    path.chmod(0o640)


def with_own_settings(root: Path) -> None:
    git("config", "notes.rewriteMode", "overwrite", cwd=root)
    git("config", "gpg.ssh.allowedSignersFile", "~/signers", cwd=root)
    (root / ".pantheon").mkdir()
    (root / ".pantheon" / "pantheon.toml").write_text("mine = true\n", encoding="utf-8")


def without_hooks_folder(root: Path) -> None:
    for path in (root / ".git" / "hooks").iterdir():
        path.unlink()
    (root / ".git" / "hooks").rmdir()


CASES = (
    with_hooks,
    with_tracked_hooks_path,
    with_inner_hooks_path,
    with_linked_hooks,
    with_odd_config,
    with_own_settings,
    without_hooks_folder,
)


@pytest.mark.parametrize("prepare", [None, *CASES], ids=lambda case: getattr(case, "__name__", "plain"))
@pytest.mark.parametrize("name", ["repo", ODD], ids=["plain-path", "odd-path"])
def test_uninstall_puts_back_byte_for_byte(make_repo: MakeRepo, prepare: object, name: str) -> None:
    root = make_repo(name=name)
    if callable(prepare):
        prepare(root)
    before = snapshot(root)
    planned = hooks.plan_init(Repo.discover(root), TEMPLATES, "/nowhere/git-pantheon", FILES)
    assert snapshot(root) == before  # planning writes nothing
    assert all(line.isprintable() for line in planned.lines())
    init(root)
    after = snapshot(root)
    assert after != before
    again = init(root)
    assert again.changes == ()
    assert again.lines()[0] == "everything is in place: nothing is written"
    assert snapshot(root) == after
    uninstall(root)
    assert snapshot(root) == before
    uninstall(root)
    assert snapshot(root) == before


def test_a_linked_worktree_there_and_back(make_repo: MakeRepo, tmp_path: Path) -> None:
    main = make_repo()
    with_hooks(main)
    linked = tmp_path / "linked wörk"
    git("worktree", "add", "-q", str(linked), "-b", "side", cwd=main)
    before = snapshot(main, linked)
    plan = init(linked)
    assert (linked / ".pantheon" / "flows" / "docops.toml").is_file()
    assert not (main / ".pantheon").exists()
    assert str(main / ".git") in "\n".join(plan.lines())
    assert (main / ".git" / "hooks" / "post-commit").read_bytes().splitlines()[1].startswith(b"# pantheon hook v2")
    uninstall(linked)
    assert snapshot(main, linked) == before


def test_what_is_shown_is_what_is_written(make_repo: MakeRepo) -> None:
    root = make_repo()
    before = snapshot(root)
    plan = init(root)
    text = "\n".join(plan.lines())
    made = {Path(path).relative_to(root).as_posix() for path, was in snapshot(root).items() if before.get(path) != was}
    folders = {".pantheon", ".pantheon/flows", ".git", ".git/hooks", "."}
    assert made - folders - {".git/config", ".git/pantheon/init.json"} == {
        *(f".git/hooks/{name}" for name in stubs.NAMES),
        ".git/pantheon",
        ".pantheon/pantheon.toml",
        ".pantheon/flows/docops.toml",
    }
    for path in made - folders - {".git/config", ".git/pantheon/init.json"}:
        assert path in text
    for key in ("notes.displayRef", "notes.rewriteRef", "notes.rewriteMode", "gpg.ssh.allowedSignersFile", "init.json"):
        assert key in text
    assert plan.lines()[-1].startswith("then: git add .pantheon && git commit")
    assert stat.S_IMODE((root / ".git" / "pantheon").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / ".git" / "pantheon" / "init.json").stat().st_mode) == 0o600
    assert git("status", "--porcelain", cwd=root) == "?? .pantheon/\n"
    assert git("log", "--oneline", cwd=root).count("\n") == 1


def test_git_reads_the_settings(make_repo: MakeRepo) -> None:
    root = make_repo(name=ODD)
    init(root)
    assert git("config", "notes.displayRef", cwd=root) == "refs/notes/pantheon/summary\n"
    assert git("config", "notes.rewriteMode", cwd=root) == "cat_sort_uniq\n"
    signers = git("config", "-z", "--type=path", "gpg.ssh.allowedSignersFile", cwd=root)
    assert signers == f"{root}/.git/pantheon/allowed_signers\0"
    revoked = git("config", "-z", "--type=path", "gpg.ssh.revocationFile", cwd=root)
    assert revoked == f"{root}/.git/pantheon/revoked_keys\0"


def test_settings_of_the_user_are_kept_and_said(make_repo: MakeRepo) -> None:
    root = make_repo()
    git("config", "--global", "notes.rewriteMode", "overwrite", cwd=root)
    git("config", "--global", "gpg.ssh.allowedSignersFile", "/mine", cwd=root)
    git("config", "--global", "notes.displayRef", "refs/notes/mine", cwd=root)
    plan = init(root)
    assert actions(plan)["notes.rewriteMode"] == "differs"
    assert "overwrite (global)" in "\n".join(plan.lines())
    assert git("config", "gpg.ssh.allowedSignersFile", cwd=root) == "/mine\n"
    shown = git("config", "--get-all", "notes.displayRef", cwd=root).split()
    assert shown == ["refs/notes/mine", "refs/notes/pantheon/summary"]


@pytest.mark.parametrize("scope", ["--local", "--global"])
def test_a_hooks_path_of_the_user_is_not_written_to(make_repo: MakeRepo, tmp_path: Path, scope: str) -> None:
    root = make_repo()
    shared = tmp_path / "shared"
    mine = script(shared / "post-commit", "true")
    git("config", scope, "core.hooksPath", str(shared), cwd=root)
    command, log = program(tmp_path)
    before = snapshot(shared)
    text = "\n".join(init(root, command).lines())
    assert snapshot(shared) == before
    assert stubs.ONE_LINE in text
    assert f"{scope[2:]} configuration" in text
    with mine.open("a", encoding="utf-8") as file:  # what the line promises
        file.write(stubs.ONE_LINE + "\n")
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8") == "hook post-commit\n"
    log.unlink()
    uninstall(root)
    commit(root, "b.md")
    assert not log.exists()


def test_nothing_is_written_through_a_link(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    (tmp_path / "elsewhere").mkdir()
    (root / ".pantheon").symlink_to(tmp_path / "elsewhere")
    plan = init(root)
    assert actions(plan)[".pantheon/pantheon.toml"] == "differs"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_of_the_user_is_kept(make_repo: MakeRepo) -> None:
    root = make_repo({".pantheon/pantheon.toml": "mine = true\n"})
    plan = init(root)
    assert actions(plan)[".pantheon/pantheon.toml"] == "keep"
    assert (root / ".pantheon" / "pantheon.toml").read_text(encoding="utf-8") == "mine = true\n"


def test_the_real_templates_install(make_repo: MakeRepo) -> None:
    root = make_repo()
    plan = hooks.plan_init(Repo.discover(root), TEMPLATES, "/nowhere/git-pantheon")
    assert [name for name in actions(plan) if name.startswith(".pantheon/")] == [".pantheon/pantheon.toml"]


def test_a_relative_program_is_refused(make_repo: MakeRepo) -> None:
    with pytest.raises(PantheonError, match="not absolute"):
        hooks.plan_init(Repo.discover(make_repo()), TEMPLATES, "git-pantheon", FILES)


# --- uninstall after life went on ------------------------------------------------------------------------------------


def test_a_cache_goes_with_uninstall(make_repo: MakeRepo) -> None:
    root = make_repo()
    before = snapshot(root)
    init(root)
    cache = root / ".git" / "pantheon" / TRIES
    cache.mkdir()
    (cache / "0.json").write_bytes(b"{}")
    uninstall(root)
    assert snapshot(root) == before


def test_changed_settings_outlive_uninstall(make_repo: MakeRepo) -> None:
    root = make_repo()
    before = (root / ".git" / "config").read_text(encoding="utf-8")
    init(root)
    git("config", "--add", "notes.displayRef", "refs/notes/mine", cwd=root)
    git("config", "notes.rewriteMode", "union", cwd=root)
    git("config", "user.name", "Someone", cwd=root)
    uninstall(root)
    assert (root / ".git" / "config").read_text(encoding="utf-8") == (
        before + "[notes]\n\trewriteMode = union\n\tdisplayRef = refs/notes/mine\n[user]\n\tname = Someone\n"
    ) or git("config", "--local", "--get-regexp", "^(notes|gpg|user)", cwd=root).splitlines() == [
        "notes.rewritemode union",
        "notes.displayref refs/notes/mine",
        "user.name Someone",
    ]
    assert "pantheon" not in (root / ".git" / "config").read_text(encoding="utf-8")


def test_a_later_section_leaves_the_rest_exact(make_repo: MakeRepo) -> None:
    root = make_repo()
    path = root / ".git" / "config"
    before = path.read_bytes()
    init(root)
    later = b'[remote "x"]\n\turl = /x ; odd\n'
    path.write_bytes(path.read_bytes() + later)
    uninstall(root)
    assert path.read_bytes() == before + later


def test_changed_and_tracked_files_stay(make_repo: MakeRepo) -> None:
    root = make_repo()
    init(root)
    git("add", ".pantheon/pantheon.toml", cwd=root)
    (root / ".pantheon" / "flows" / "docops.toml").write_text("mine\n", encoding="utf-8")
    plan = uninstall(root)
    said = {one.target: one.detail for one in plan.writes}
    assert said[".pantheon/flows/docops.toml"] == "changed since init"
    assert "tracked" in said[".pantheon/pantheon.toml"]
    assert (root / ".pantheon" / "pantheon.toml").is_file()


def test_an_edited_stub_stays(make_repo: MakeRepo) -> None:
    root = make_repo()
    init(root)
    path = root / ".git" / "hooks" / "post-merge"
    path.write_text("#!/bin/sh\n# mine now\n", encoding="utf-8")
    assert actions(uninstall(root))["hooks/post-merge"] == "differs"
    assert path.read_text(encoding="utf-8") == "#!/bin/sh\n# mine now\n"


def test_a_moved_program_updates_the_stubs(make_repo: MakeRepo) -> None:
    root = make_repo()
    with_hooks(root)
    before = snapshot(root)
    init(root, "/old/git-pantheon")
    plan = init(root, "/new/git-pantheon")
    assert actions(plan)["hooks/post-commit"] == "update"
    assert "/new/git-pantheon" in (root / ".git" / "hooks" / "post-commit").read_text(encoding="utf-8")
    uninstall(root)
    assert snapshot(root) == before


def test_a_lost_chained_hook_comes_back_from_the_journal(make_repo: MakeRepo) -> None:
    root = make_repo()
    with_hooks(root)
    before = snapshot(root)
    init(root)
    for name in ("pre-commit", "pre-push"):
        (root / ".git" / "hooks" / (name + stubs.CHAINED)).unlink()
    uninstall(root)
    assert snapshot(root) == before


def test_a_half_done_init_is_undone_and_redone(make_repo: MakeRepo) -> None:
    root = make_repo()
    with_hooks(root)
    before = snapshot(root)
    repo = Repo.discover(root)
    plan = hooks.plan_init(repo, TEMPLATES, "/x", FILES)
    hooked = [one for one in plan.writes if one.kind == "dir" or one.target.endswith(("post-commit", "pre-push"))]
    half = plan.model_copy(update={"writes": tuple(hooked), "config_next": plan.config_now})
    hooks.apply_init(repo, half)
    init(root, "/x")
    uninstall(root)
    assert snapshot(root) == before


def test_a_locked_configuration_is_said(make_repo: MakeRepo) -> None:
    root = make_repo()
    lock = root / ".git" / "config.lock"
    lock.touch()
    with pytest.raises(RepositoryError, match="another git writes it"):
        init(root)
    lock.unlink()
    init(root)
    uninstall(root)
    assert not (root / ".git" / "pantheon").exists()


def test_purge_takes_refs_and_keys_with_it(make_repo: MakeRepo) -> None:
    root = make_repo()
    before = git("for-each-ref", cwd=root)
    init(root)
    ours = ("refs/pantheon/runs/ab/1", "refs/notes/pantheon/summary", "refs/heads/pantheon/notes/1")
    for name in ours:
        git("update-ref", name, "HEAD", cwd=root)
    keys = root / ".git" / "pantheon" / "keys"
    keys.mkdir()
    kept = uninstall(root)
    assert actions(kept)["refs/pantheon/*"] == "keep"
    assert "git pantheon uninstall --purge" in "\n".join(kept.lines())
    assert keys.is_dir()
    assert all(name in git("for-each-ref", cwd=root) for name in ours)
    uninstall(root, purge=True)
    assert git("for-each-ref", cwd=root) == before
    assert not (root / ".git" / "pantheon").exists()


def test_purge_takes_what_was_learned_with_it_and_without_it_that_is_named(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    init(root)
    repo = Repo.discover(root)
    digest, place = adapters.keep(repo, "doc.frontmatter", write_adapter(tmp_path / "made"))
    adapters.write_card(repo, card_of("doc.frontmatter", digest), WHEN, None)
    rows = root / ".git/pantheon/datasets/doc.frontmatter" / ("d" * 64)
    rows.mkdir(parents=True)
    (rows / "train.jsonl").write_text("{}\n")
    kept = uninstall(root)
    (state,) = [one for one in kept.writes if one.kind == "dir"]
    assert "kept: adapters (8 KiB, only here), datasets (4 KiB, only here), " in state.detail
    assert actions(kept)["refs/pantheon/*"] == "keep"
    assert place.is_dir()
    purged = uninstall(root, purge=True)
    assert actions(purged)["refs/pantheon/adapters/doc.frontmatter"] == "remove"
    (state,) = [one for one in purged.writes if one.kind == "dir" and one.action == "remove"]
    assert state.detail == "adapters (8 KiB, only here), datasets (4 KiB, only here), refs.lock"
    assert not (root / ".git/pantheon").exists()
    assert "adapters" not in git("for-each-ref", cwd=root)


def test_purge_keeps_a_branch_that_is_checked_out(make_repo: MakeRepo) -> None:
    root = make_repo()
    git("switch", "-qc", "pantheon/notes/1", cwd=root)
    plan = uninstall(root, purge=True)
    assert actions(plan)["refs/heads/pantheon/notes/1"] == "keep"
    assert git("branch", "--show-current", cwd=root) == "pantheon/notes/1\n"


# --- the stubs -------------------------------------------------------------------------------------------------------


KEYS = ["pantheon:", "pantheon :", '"pantheon": {flow: docops}', "'pantheon':"]


@pytest.mark.parametrize("key", KEYS)
def test_the_program_is_called_for_what_is_or_was_a_task_file(make_repo: MakeRepo, tmp_path: Path, key: str) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    init(root, command)
    commit(root, "docs/one.MD", f"---\ntitle: x\n{key}\n---\n")
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"
    commit(root, "docs/one.MD", "no task any more\n")
    assert log.read_text(encoding="utf-8").count("hook post-commit\n") == 2


def test_after_a_commit_of_a_note_without_our_key_no_python_is_started(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    init(root, command)
    bell = hooks.doorbell(root / ".git")
    assert commit(root, "docs/note.md", "# A note\n\nthe pantheon: a temple\n  pantheon: no key of the file\n") == ""
    assert log.read_text(encoding="utf-8") == "hook pre-commit\n"
    assert bell.read_text(encoding="utf-8") == "post-commit\n"


def test_the_program_is_called_for_settings(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    init(root, command)
    commit(root, ".pantheon/pantheon.toml", "schema_version = 1\n")
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"


def test_the_program_is_called_for_markdown_only(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path, "echo 'pantheon: 1 task, 37 items for tonight'")
    init(root, command)
    bell = hooks.doorbell(root / ".git")
    said = commit(root, "code.py")
    assert "pantheon" not in said
    assert not log.exists()
    assert bell.read_text(encoding="utf-8") == "post-commit\n"
    said = commit(root, "docs/tasks/one.md")
    assert said.count("pantheon: 1 task, 37 items for tonight") == 2  # pre-commit and post-commit
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"


@pytest.mark.parametrize("hook", ["post-checkout", "post-merge", "post-rewrite"])
def test_the_doorbell_rings(make_repo: MakeRepo, hook: str) -> None:
    root = make_repo()
    git("branch", "side", cwd=root)
    commit(root, "a.txt")
    init(root)
    doing = {
        "post-checkout": ("switch", "-q", "side"),
        "post-merge": ("merge", "-q", "--no-ff", "-m", "m", "topic"),
        "post-rewrite": ("commit", "-q", "--amend", "-m", "again"),
    }
    if hook == "post-merge":
        git("branch", "topic", cwd=root)
        git("reset", "-q", "--hard", "side", cwd=root)
    git(*doing[hook], cwd=root)
    assert hooks.doorbell(root / ".git").read_text(encoding="utf-8") == f"{hook}\n"


def test_a_linked_worktree_rings_the_common_bell(make_repo: MakeRepo, tmp_path: Path) -> None:
    main = make_repo()
    command, log = program(tmp_path)
    init(main, command)
    git("worktree", "add", "-q", str(tmp_path / "linked"), "-b", "side", cwd=main)
    hooks.doorbell(main / ".git").unlink()
    commit(tmp_path / "linked", "a.md")
    assert hooks.doorbell(main / ".git").exists()
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"


def test_the_program_does_not_inherit_gits_environment(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    init(root, command)
    (root / "a.md").write_text(TASK, encoding="utf-8")
    git("add", "a.md", cwd=root)
    git("-c", "user.name=Other", "commit", "-qm", "a", "--author", "Eve <e@example.org>", cwd=root)
    env = Path(f"{log}.env").read_text(encoding="utf-8")
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_AUTHOR_NAME", "GIT_AUTHOR_DATE", "GIT_CONFIG_PARAMETERS"):
        assert f"\n{name}=" not in f"\n{env}"


def test_pre_commit_sees_the_index_it_needs(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo({"a.md": "# A\n", "b.md": "# B\n"})
    command, log = program(tmp_path, f'[ "$2" = post-commit ] || git diff --cached --name-only >>{tmp_path}/seen')
    init(root, command)
    for name in ("a.md", "b.md"):
        (root / name).write_text("# Changed\n", encoding="utf-8")
    git("commit", "-qm", "only a", "a.md", cwd=root)
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "a.md\n"
    assert log.exists()


def test_pre_commit_refuses_on_its_plain_no_only(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, _ = program(tmp_path, 'echo "bad task" >&2; exit 64')
    init(root, command)
    assert "bad task" in commit(root, "a.md", ok=(1,))
    for status in (1, 3):  # 1: a Python that cannot import us
        program(tmp_path, f"exit {status}")
        said = commit(root, f"a{status}.md")
        assert f"pantheon: hook pre-commit failed (exit {status}), skipped" in said
    assert "pantheon: hook post-commit failed, skipped" in said


def test_a_missing_program_is_one_line(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without a git-pantheon that is installed here
    root = make_repo()
    init(root)
    said = commit(root, "a.md").splitlines()
    assert said == ["pantheon: git-pantheon not found, hook skipped"] * 2
    assert git("log", "-1", "--format=%s", cwd=root) == "a.md\n"


def test_the_program_is_found_on_path(make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    init(root)
    monkeypatch.setenv("PATH", f"{Path(command).parent}:{os.environ['PATH']}")
    commit(root, "a.md")
    assert log.exists()


def test_a_failing_post_commit_prints_one_line(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, _ = program(tmp_path, '[ "$2" = pre-commit ] || { echo Traceback; echo "No module" >&2; exit 3; }')
    init(root, command)
    assert commit(root, "a.md") == "pantheon: hook post-commit failed, skipped: No module\n"


def test_chained_hooks_run_first_and_decide(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    folder = root / ".git" / "hooks"
    order = shlex.quote(str(log))
    script(folder / "post-commit", f"echo mine >>{order}")
    script(folder / "pre-commit", "[ ! -e stop ]")
    script(folder / "post-checkout", f'echo "$1 $3" | wc -w >{order}.args; exit 7')
    script(folder / "pre-push", f"cat >>{order}.refs; exit 9", 0o644)  # git would not run it
    init(root, command)
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nmine\nhook post-commit\n"
    (root / "stop").touch()
    commit(root, "b.md", ok=(1,))
    assert log.read_text(encoding="utf-8").count("hook pre-commit") == 1
    git("switch", "-q", "-c", "side", cwd=root, ok=(1,))
    assert Path(f"{log}.args").read_text(encoding="utf-8").strip() == "2"
    git("init", "-q", "--bare", str(tmp_path / "remote"), cwd=root)
    git("push", "-q", str(tmp_path / "remote"), "main", cwd=root)
    assert not Path(f"{log}.refs").exists()


def test_pre_push_hands_on_what_git_says(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path, "exit 64")
    script(root / ".git" / "hooks" / "pre-push", f"cat >{shlex.quote(str(log))}.refs")
    init(root, command)
    remote = str(tmp_path / "remote")
    git("init", "-q", "--bare", remote, cwd=root)
    head = git("rev-parse", "HEAD", cwd=root).strip()
    git("push", "-q", remote, "main", cwd=root)
    line = f"refs/heads/main {head} refs/heads/main {'0' * 40}\n"
    assert Path(f"{log}.refs").read_text(encoding="utf-8") == line
    assert not log.exists()  # nothing of ours: not even asked
    git("branch", "pantheon/notes/1", cwd=root)
    git("push", "-q", remote, "pantheon/notes/1", cwd=root, ok=(1,))
    name = "refs/heads/pantheon/notes/1"
    assert log.read_text(encoding="utf-8") == f"hook pre-push {remote} {remote}\n{name} {head} {name} {'0' * 40}\n"
    assert git("for-each-ref", "--format=%(refname)", cwd=Path(remote)) == "refs/heads/main\n"


def test_another_tool_may_move_our_stub(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    folder = root / ".git" / "hooks"
    script(folder / "post-commit", f"echo mine >>{shlex.quote(str(log))}")
    init(root, command)
    (folder / "post-commit").rename(folder / "post-commit.legacy")
    script(folder / "post-commit", '"$0.legacy" "$@"')
    assert actions(init(root, command))["hooks/post-commit"] == "differs"
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nmine\nhook post-commit\n"


def test_the_stubs_are_plain_and_short() -> None:
    assert len(STUBS) == len(stubs.NAMES)
    for stub in STUBS:
        assert stub.startswith(b"#!/bin/sh\n# pantheon hook v2")
        assert len(stub.splitlines()) <= 40
        assert b"[[" not in stub
