"""Our hooks beside those of other tools, and in every layout of a repository; how little they do; doctor fires them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MakeRepo, git
from test_hooks import FILES, TASK, TEMPLATES, actions, commit, program, script, snapshot, uninstall

from pantheon import firing, hooks, stubs
from pantheon.errors import RepositoryError
from pantheon.git import Repo

OLD_GIT, NEW_GIT = (2, 39), (2, 54)
POST = [name for name in stubs.NAMES if name.startswith("post-")]


def init(root: Path, command: str = "/nowhere/git-pantheon", version: stubs.Version = OLD_GIT) -> hooks.InitPlan:
    repo = Repo.discover(root)
    plan = hooks.plan_init(repo, TEMPLATES, command, FILES, version)
    hooks.apply_init(repo, plan)
    return plan


def folder(root: Path) -> Path:
    return root / ".git" / "hooks"


def shims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have every program that a hook finds on PATH noted in a file: its path."""
    log, place = tmp_path / "started", tmp_path / "shims"
    place.mkdir()
    text = f'echo "${{0##*/}}" >>{shlex.quote(str(log))}\nPATH=/usr/bin:/bin exec "${{0##*/}}" "$@"'
    one = script(tmp_path / "shim", text)
    for name in {path.name for above in ("/bin", "/usr/bin") for path in Path(above).iterdir()}:
        (place / name).symlink_to(one)
    monkeypatch.setenv("PATH", str(place))
    return log


def daemon(root: Path, pid: object) -> None:
    (root / ".git" / "pantheon" / "daemon.pid").write_text(f"{pid}\n", encoding="utf-8")


# --- how little they do ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POST)
def test_a_ring_starts_no_process(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = make_repo({"a.md": "# A\n"})
    init(root)
    daemon(root, os.getpid())
    log = shims(tmp_path, monkeypatch)
    subprocess.run([f".git/hooks/{name}", "x", "y", "1"], cwd=root, check=True, timeout=60)
    assert hooks.doorbell(root / ".git").read_text(encoding="utf-8") == f"{name}\n"
    assert not log.exists()
    (root / ".git" / "pantheon" / "daemon.pid").unlink()
    subprocess.run([".git/hooks/post-commit"], cwd=root, check=True, timeout=60)
    assert "git" in log.read_text(encoding="utf-8").split()  # the shims note what is started


def test_post_commit_only_rings_while_a_daemon_watches(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    command, log = program(tmp_path, "echo said")
    init(root, command)
    daemon(root, os.getpid())
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8") == "hook pre-commit\n"
    assert hooks.doorbell(root / ".git").read_text(encoding="utf-8") == "post-commit\n"


@pytest.mark.parametrize("pid", ["dead", "", "0", "-1", "1 2", "x", "999999999999999999999"])
def test_without_a_living_daemon_post_commit_says_what_was_queued(
    make_repo: MakeRepo, tmp_path: Path, pid: str
) -> None:
    root = make_repo()
    command, log = program(tmp_path)
    init(root, command)
    if pid == "dead":
        ended = subprocess.Popen(["true"])
        ended.wait()
        pid = str(ended.pid)
    daemon(root, pid)
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"


def test_a_ring_that_cannot_be_written_fails_nothing(make_repo: MakeRepo) -> None:
    root = make_repo()
    init(root)
    hooks.doorbell(root / ".git").mkdir()
    assert commit(root, "a.txt") == ""
    git("switch", "-q", "-c", "side", cwd=root)


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_a_submodule_has_hooks_and_a_bell_of_its_own(make_repo: MakeRepo, tmp_path: Path) -> None:
    above, inner = make_repo(name="above"), make_repo(name="inner")
    git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "sub", cwd=above)
    before = snapshot(above)
    command, log = program(tmp_path)
    init(above / "sub", command)
    common = above / ".git" / "modules" / "sub"
    assert (common / "hooks" / "post-commit").is_file()
    commit(above / "sub", "a.md")
    assert hooks.doorbell(common).read_text(encoding="utf-8") == "post-commit\n"
    assert not (above / ".git" / "pantheon").exists()
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"
    git("reset", "-q", "--hard", "HEAD^", cwd=above / "sub")
    uninstall(above / "sub")
    after = snapshot(above)
    changed = {path for path in before if before[path] != after.get(path)}
    assert not {path for path in changed if "/hooks/" in path or path.endswith("config")}


def test_a_bare_repository_with_a_linked_worktree(make_repo: MakeRepo, tmp_path: Path) -> None:
    source = make_repo()
    bare = tmp_path / "bare.git"
    git("clone", "-q", "--bare", str(source), str(bare), cwd=tmp_path)
    linked = tmp_path / "linked"
    git("worktree", "add", "-q", str(linked), "-b", "side", cwd=bare)
    command, log = program(tmp_path)
    init(linked, command)
    commit(linked, "a.md")
    assert hooks.doorbell(bare).read_text(encoding="utf-8") == "post-commit\n"
    assert log.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"
    with pytest.raises(RepositoryError, match="bare repository"):
        Repo.discover(bare)


def test_a_copied_repository_rings_its_own_bell(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    init(root)
    subprocess.run(["cp", "-a", str(root), str(tmp_path / "copy")], check=True)
    commit(tmp_path / "copy", "a.txt")
    assert hooks.doorbell(tmp_path / "copy" / ".git").exists()
    assert not hooks.doorbell(root / ".git").exists()


def test_a_hook_in_another_language_and_one_behind_a_link_run_first(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    log = tmp_path / "log"
    place = folder(root)
    (place / "post-commit").write_text(f"#!{sys.executable}\nopen({str(log)!r}, 'a').write('python\\n')\n", "utf-8")
    (place / "post-commit").chmod(0o755)
    script(tmp_path / "elsewhere", f"echo linked >>{shlex.quote(str(log))}")
    (place / "post-checkout").symlink_to(tmp_path / "elsewhere")
    before = snapshot(root)
    init(root)
    commit(root, "a.txt")
    git("switch", "-q", "-c", "side", cwd=root)
    assert log.read_text(encoding="utf-8") == "python\nlinked\n"
    assert hooks.doorbell(root / ".git").read_text(encoding="utf-8") == "post-checkout\n"
    uninstall(root)
    after = snapshot(root)
    assert {p: v for p, v in after.items() if "/hooks/" in p or p.endswith("config")} == {
        p: v for p, v in before.items() if "/hooks/" in p or p.endswith("config")
    }


# --- pre-commit ------------------------------------------------------------------------------------------------------


def pre_commit_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pre-commit` on PATH that does with hooks what the tool does: it runs the one that it moved aside first, and
    refuses to be run by it."""
    log = tmp_path / "tool"
    text = f"""
for word; do case $word in --hook-type=*) kind=${{word#*=}} ;; esac; done
while [ "$1" != --hook-dir ]; do shift; done; dir=$2; shift 3
[ -z "$PRE_COMMIT_RUNNING_LEGACY" ] || {{ echo "bug: installed in migration mode" >&2; exit 1; }}
echo "tool $kind" >>{shlex.quote(str(log))}
[ ! -x "$dir/$kind.legacy" ] || PRE_COMMIT_RUNNING_LEGACY=1 "$dir/$kind.legacy" "$@\""""
    place = script(tmp_path / "bin" / "pre-commit", text).parent
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    return log


def install_pre_commit(root: Path, *names: str) -> None:
    """What `pre-commit install -t NAME` leaves: the hook that was there, if it is not its own, at `.legacy`."""
    for name in names:
        path = folder(root) / name
        if path.exists() and b"138fd403232d2ddd5efb44317e38bf03" not in path.read_bytes():
            path.replace(stubs.beside(path, ".legacy"))
        path.unlink(missing_ok=True)
        script(
            path,
            "# File generated by pre-commit: https://pre-commit.com\n# ID: 138fd403232d2ddd5efb44317e38bf03\n"
            f'# start templated\n# end templated\nhere=$(cd "$(dirname "$0")" && pwd)\n'
            f'exec pre-commit hook-impl --config=.pre-commit-config.yaml --hook-type={name} --hook-dir "$here" -- "$@"',
        )


@pytest.mark.parametrize("mine", [False, True], ids=["alone", "with-a-hook-of-mine"])
def test_pre_commit_installed_over_ours(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mine: bool
) -> None:
    root, twin = make_repo(name="root"), make_repo(name="twin")
    log = pre_commit_tool(tmp_path, monkeypatch)
    command, ours = program(tmp_path)
    for each in (root, twin):
        if mine:
            script(folder(each) / "pre-commit", f"echo mine >>{shlex.quote(str(log))}")
    init(root, command)
    install_pre_commit(root, "pre-commit", "post-commit")
    install_pre_commit(twin, "pre-commit", "post-commit")
    commit(root, "a.md")
    wanted = ["tool pre-commit", *(["mine"] if mine else []), "tool post-commit"]
    assert log.read_text(encoding="utf-8").splitlines() == wanted
    assert ours.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n"
    plan = init(root, command)
    assert plan.changes == ()
    assert "pre-commit's hook stands there and runs ours" in "\n".join(plan.lines())
    newer, _ = program(tmp_path / "newer")
    assert actions(init(root, newer))["hooks/pre-commit.legacy"] == "update"
    assert newer.replace("'", "").split("/")[-1].encode() in (folder(root) / "pre-commit.legacy").read_bytes()
    uninstall(root)
    assert snapshot(folder(root)).keys() == {path.replace("/twin/", "/root/") for path in snapshot(folder(twin))}
    for name in ("pre-commit", "pre-commit.legacy", "post-commit", "post-commit.legacy"):
        there, without = folder(root) / name, folder(twin) / name
        assert (there.read_bytes() if there.exists() else None) == (without.read_bytes() if without.exists() else None)


def test_pre_commit_installed_before_ours_and_once_more(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_repo()
    log = pre_commit_tool(tmp_path, monkeypatch)
    command, ours = program(tmp_path)
    install_pre_commit(root, "pre-commit", "post-commit")
    before = snapshot(folder(root))
    init(root, command)
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8").splitlines() == ["tool pre-commit", "tool post-commit"]
    install_pre_commit(root, "pre-commit", "post-commit")  # `pre-commit autoupdate && pre-commit install`
    commit(root, "b.md")  # in the place of its own hook it runs ours, which must not run it again
    assert log.read_text(encoding="utf-8").splitlines() == ["tool pre-commit", "tool post-commit"] * 2
    assert ours.read_text(encoding="utf-8") == "hook pre-commit\nhook post-commit\n" * 2
    assert init(root, command).changes == ()
    uninstall(root)
    assert snapshot(folder(root)) == before


# --- lefthook --------------------------------------------------------------------------------------------------------


def install_lefthook(root: Path, log: Path, *names: str, version: int = 1) -> bool:
    """What `lefthook install` leaves: a hook that does not name it goes to `.old`; False when there is one already."""
    for name in names:
        path = folder(root) / name
        if path.exists() and b"LEFTHOOK" not in path.read_bytes():
            if stubs.beside(path, ".old").exists():
                return False
            path.replace(stubs.beside(path, ".old"))
        path.unlink(missing_ok=True)
        said = f'echo "lefthook {version} $2" >>{shlex.quote(str(log))}'
        text = f'[ "$LEFTHOOK" = 0 ] && exit 0\ncall_lefthook() {{ {said}; }}'
        script(path, f'{text}\ncall_lefthook run "{name}" "$@"')
    return True


def test_lefthook_before_ours_and_installed_again(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    log, (command, ours) = tmp_path / "lefthook", program(tmp_path)
    install_lefthook(root, log, "pre-commit", "post-commit")
    init(root, command)
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8") == "lefthook 1 pre-commit\nlefthook 1 post-commit\n"
    assert install_lefthook(root, log, "pre-commit", "post-commit", version=2)
    assert install_lefthook(root, log, "pre-commit", "post-commit", version=2)
    commit(root, "b.md")
    assert ours.read_text(encoding="utf-8").count("hook post-commit") == 1  # not ours any more, until:
    plan = init(root, command)
    assert actions(plan)["hooks/pre-commit"] == "chain"
    assert "lefthook was installed again" in "\n".join(plan.lines())
    commit(root, "c.md")
    assert ours.read_text(encoding="utf-8").count("hook post-commit") == 2
    assert log.read_text(encoding="utf-8").splitlines()[-2:] == ["lefthook 2 pre-commit", "lefthook 2 post-commit"]
    assert not stubs.beside(folder(root) / "pre-commit", ".old").exists()
    uninstall(root)
    assert b"lefthook 2" in (folder(root) / "pre-commit").read_bytes()
    assert not [path for path in folder(root).iterdir() if path.name.endswith((stubs.CHAINED, ".old"))]


def test_lefthook_over_ours_leaves_my_hook_where_it_would(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    log = tmp_path / "lefthook"
    mine = script(folder(root) / "pre-commit", "echo mine").read_bytes()
    init(root)
    install_lefthook(root, log, "pre-commit")
    plan = init(root)
    assert actions(plan)["hooks/pre-commit.old"] == "restore"
    assert (folder(root) / "pre-commit.old").read_bytes() == mine
    assert init(root).changes == ()
    uninstall(root)
    assert (folder(root) / "pre-commit.old").read_bytes() == mine
    assert b"call_lefthook" in (folder(root) / "pre-commit").read_bytes()


# --- husky -----------------------------------------------------------------------------------------------------------


def install_husky(root: Path) -> None:
    """What husky 9 leaves: a directory of hooks of its own that is written anew each time, and runs those beside it."""
    place = root / ".husky" / "_"
    (root / ".husky").mkdir(exist_ok=True)
    for name in ("pre-commit", "post-commit", "post-checkout", "post-merge", "post-rewrite", "pre-push"):
        script(place / name, '. "$(dirname "$0")/h"')
    h = 'n=$(basename "$0")\ns=$(dirname "$(dirname "$0")")/$n\n[ ! -f "$s" ] && exit 0\nsh -e "$s" "$@"\nexit $?\n'
    (place / "h").write_text(h, encoding="utf-8")
    (place / ".gitignore").write_text("*", encoding="utf-8")
    git("config", "core.hooksPath", ".husky/_", cwd=root)


def test_husky_calls_ours_by_a_line(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    install_husky(root)
    before = snapshot(root / ".husky")
    command, log = program(tmp_path)
    text = "\n".join(init(root, command).lines())
    assert f"in {root}/.husky (" in text  # not in the directory that husky writes anew
    assert snapshot(root / ".husky") == before
    for name in stubs.NAMES:
        (root / ".husky" / name).write_text(f"echo husky >>{log}\n{stubs.ONE_LINE}\n", encoding="utf-8")
    install_husky(root)
    commit(root, "a.md")
    assert log.read_text(encoding="utf-8") == "husky\nhook pre-commit\nhusky\nhook post-commit\n"
    assert hooks.doorbell(root / ".git").read_text(encoding="utf-8") == "post-commit\n"


# --- hooks in the configuration --------------------------------------------------------------------------------------


def fire_as_new_git(root: Path, event: str, *args: str) -> str:
    """What git does from 2.54 on: the commands whose event this is, in order, then the one in the hooks directory."""
    said = ""
    for line in git("config", "--get-regexp", r"^hook\..*\.event$", cwd=root, ok=(0, 1)).splitlines():
        key, _, value = line.partition(" ")
        if value == event:
            text = git("config", "--get", key.removesuffix(".event") + ".command", cwd=root).rstrip("\n")
            argv = ["sh", "-c", f'{text} "$@"' if args else text, text, *args]
            said += subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True, timeout=60).stdout
    path = folder(root) / event
    if os.access(path, os.X_OK):
        said += subprocess.run([str(path), *args], cwd=root, capture_output=True, text=True, check=True).stdout
    return said


@pytest.mark.parametrize("name", ["repo", 'it\'s a "repo" $HOME #1'])
def test_a_new_git_finds_our_hooks_in_its_configuration(make_repo: MakeRepo, tmp_path: Path, name: str) -> None:
    root = make_repo(name=name)
    script(folder(root) / "post-commit", "echo mine")
    install_husky(root)
    before = snapshot(root)
    command, log = program(tmp_path)
    plan = init(root, command, NEW_GIT)
    assert not [one for one in plan.writes if one.action == "differs"]
    assert actions(plan)["hook.pantheon-post-commit.command"] == "set"
    assert snapshot(folder(root)) == {p: v for p, v in before.items() if p.startswith(str(folder(root)))}
    assert init(root, command, NEW_GIT).changes == ()
    (root / "a.md").write_text(TASK, encoding="utf-8")
    git("add", "a.md", cwd=root)
    git("commit", "-qm", "a", cwd=root)
    assert fire_as_new_git(root, "post-commit") == "mine\n"
    assert log.read_text(encoding="utf-8") == "hook post-commit\n"
    fire_as_new_git(root, "post-checkout", "a", "b", "1")
    assert hooks.doorbell(root / ".git").read_text(encoding="utf-8") == "post-checkout\n"
    git("reset", "-q", "--hard", "HEAD^", cwd=root)
    uninstall(root)
    for path, was in before.items():
        if "/hooks" in path or path.endswith("/config") or ".husky" in path:
            assert snapshot(Path(path))[path] == was, path
    assert not (root / ".git" / "pantheon").exists()


def test_a_repository_that_was_moved_does_not_stop_a_commit(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    init(root, version=NEW_GIT)
    root.rename(tmp_path / "moved")
    for name in stubs.NAMES:
        assert fire_as_new_git(tmp_path / "moved", name, "x") == ""


def test_hooks_that_are_in_a_hooks_directory_stay_there_with_a_newer_git(make_repo: MakeRepo) -> None:
    root = make_repo()
    init(root)
    assert init(root, version=NEW_GIT).changes == ()


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("git version 2.39.5\n", (2, 39)),
        ("git version 2.54.0.rc1", (2, 54)),
        ("git version 3.1 (x 9)", (3, 1)),
        ("", (0, 0)),
    ],
)
def test_the_version_of_git(said: str, version: stubs.Version) -> None:
    assert stubs.parse_version(said) == version


# --- doctor ----------------------------------------------------------------------------------------------------------

JUDGE = 'case $2 in pre-commit) git show :docs/tasks/trial.md | grep -q "uuid: 2" && exit 64 ;; esac; exit 0'


def fire(root: Path, version: stubs.Version = OLD_GIT) -> str:
    return firing.fire(Repo.discover(root), version)


def test_doctor_fires_every_hook_and_makes_a_commit(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    assert "git pantheon init" in fire(root)
    script(folder(root) / "post-commit", f"touch {shlex.quote(str(tmp_path / 'mine ran'))}")
    command, log = program(tmp_path, JUDGE)
    init(root, command)
    before = {p: v for p, v in snapshot(root).items() if "doorbell" not in p}
    assert fire(root).startswith("6 fire here; a commit in a trial repository rang")
    assert "hook post-commit" in log.read_text(encoding="utf-8")
    after = {p: v for p, v in snapshot(root).items() if "doorbell" not in p}
    assert after == before
    assert not (tmp_path / "mine ran").exists()


@pytest.mark.parametrize(
    ("harm", "name", "why"),
    [
        (lambda place: (place / "post-merge").chmod(0o644), "post-merge", "does not answer"),
        (lambda place: (place / "pre-push").unlink(), "pre-push", "is gone"),
        (lambda place: script(place / "post-commit", "exit 0"), "post-commit", "is not ours any more"),
        (
            lambda place: (place / "post-rewrite").write_text("#!/nowhere\n# pantheon hook v2\n"),
            "post-rewrite",
            "answer",
        ),
    ],
)
def test_doctor_names_the_hook_that_does_not_fire(
    make_repo: MakeRepo, tmp_path: Path, harm: object, name: str, why: str
) -> None:
    root = make_repo()
    init(root, program(tmp_path, JUDGE)[0])
    assert callable(harm)
    harm(folder(root))
    with pytest.raises(RepositoryError, match=why) as raised:
        fire(root)
    assert raised.value.thing == name


def test_doctor_says_that_a_program_does_not_answer(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    init(root, program(tmp_path, "exit 3")[0])
    with pytest.raises(RepositoryError, match="hook pre-commit failed"):
        fire(root)
    program(tmp_path, "exit 0")
    with pytest.raises(RepositoryError, match="was let through"):
        fire(root)


def test_doctor_knows_whether_husky_calls_ours(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    install_husky(root)
    init(root, program(tmp_path, JUDGE)[0])
    with pytest.raises(RepositoryError, match="does not call ours; add this line"):
        fire(root)
    for name in stubs.NAMES:
        (root / ".husky" / name).write_text(f"{stubs.ONE_LINE}\n", encoding="utf-8")
    assert fire(root).startswith("6 fire here")


def test_doctor_fires_what_pre_commit_runs_and_what_the_configuration_names(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = make_repo(), make_repo(name="other")
    log = pre_commit_tool(tmp_path, monkeypatch)
    command = program(tmp_path, JUDGE)[0]
    init(root, command)
    install_pre_commit(root, "pre-commit")
    assert fire(root).startswith("6 fire here")
    assert not log.exists()
    init(other, command, NEW_GIT)
    assert fire(other, NEW_GIT).startswith("6 fire here")
    with pytest.raises(RepositoryError, match="does not call ours"):
        fire(other)  # a git that does not know of hooks in the configuration
