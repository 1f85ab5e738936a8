"""The git door against real git and dulwich: objects, trees, refs, notes, worktrees, exports, the user's merge."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pygit2
import pytest
from conftest import MakeRepo, dulwich_note, git, write_files
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pygit2.enums import DiffOption

from pantheon import usergit
from pantheon.errors import MergeConflict, RefMoved, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.names import fold_name, name_fault, valid_name

WHEN = datetime(2026, 3, 2, 1, 2, 3, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
NOTES = "refs/notes/pantheon/artifacts"
SHARED = "refs/pantheon/runs/ff/ff000000"
ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=ALLOWED)


@pytest.fixture
def repo(make_repo: MakeRepo) -> Repo:
    return Repo.discover(make_repo({"a.md": "one\ntwo\nthree\n", "docs/b.md": "b\n", "docs/deep/c.md": "c\n"}))


def put(repo: Repo, base: str | None, files: dict[str, bytes | None]) -> str:
    return repo.write_tree(
        base, {path: None if data is None else (0o100644, repo.write_blob(data)) for path, data in files.items()}
    )


def commit(repo: Repo, files: dict[str, bytes | None], parent: str | None = None, message: str = "work") -> str:
    parent = parent or repo.head().commit
    return repo.commit(put(repo, repo.tree_of(parent), files), [parent], message, WHEN)


def snapshot(root: Path) -> str:
    """What a user would notice: status, refs outside our namespaces, index, configuration, HEAD."""
    refs = [line for line in git("for-each-ref", cwd=root).splitlines() if "pantheon/" not in line]
    parts = [git("status", "--porcelain=v2", "--branch", "-z", cwd=root), git("stash", "list", cwd=root), *refs]
    return "\n".join([*parts, git("ls-files", "--stage", cwd=root), (root / ".git/config").read_text("utf-8")])


# --- discovery --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "with space", "new\nline", "q'uo\"te", "ünï-çødé", "-dash"])
def test_discovers_repositories_at_odd_paths(make_repo: MakeRepo, name: str) -> None:
    root = make_repo({"sub/x": "x"}, name=name)
    repo = Repo.discover(root / "sub")
    assert repo.root.samefile(root)
    assert repo.common_dir == repo.git_dir
    assert repo.head().branch == "main"
    assert repo.head().commit == git("rev-parse", "HEAD", cwd=root).strip()
    repo.move_ref("refs/pantheon/x", repo.head().commit, None, "x")
    assert repo.fsck() == ()


def test_linked_worktree_and_submodule(make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    git("worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"), cwd=root)
    linked = Repo.discover(tmp_path / "linked")
    assert linked.root.samefile(tmp_path / "linked")
    assert linked.common_dir.samefile(root / ".git")
    assert linked.head().branch == "side"
    outer = make_repo(name="outer")
    git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(root), "inner", cwd=outer)
    inner = Repo.discover(outer / "inner")
    assert inner.root.samefile(outer / "inner")
    assert inner.common_dir.samefile(outer / ".git/modules/inner")
    inner.move_ref("refs/pantheon/x", inner.head().commit, None, "x")
    assert git("rev-parse", "refs/pantheon/x", cwd=outer / "inner").strip() == inner.head().commit


@pytest.mark.parametrize(
    ("setup", "reason"),
    [
        ([], "not a git repository"),
        ([["init", "-q", "--bare"]], "bare"),
        ([["init", "-q", "--object-format=sha256"]], "SHA-256"),
        (
            [
                ["init", "-q"],
                ["config", "core.repositoryFormatVersion", "1"],
                ["config", "extensions.refStorage", "reftable"],
            ],
            "reftable",
        ),
        (
            [
                ["init", "-q"],
                ["config", "core.repositoryFormatVersion", "1"],
                ["config", "extensions.partialClone", "origin"],
            ],
            "partial clone",
        ),
        ([["init", "-q"], ["config", "remote.origin.promisor", "true"]], "partial clone"),
    ],
)
def test_refuses_what_it_cannot_work_in(tmp_path: Path, setup: list[list[str]], reason: str) -> None:
    place = tmp_path / "here"
    place.mkdir()
    for step in setup:
        if step[0] == "config":
            git("config", "--file", ".git/config", *step[1:], cwd=place)
        else:
            git(*step, cwd=place)
    with pytest.raises(RepositoryError, match=reason) as caught:
        Repo.discover(place)
    assert caught.value.hint


def test_unborn_and_detached(make_repo: MakeRepo, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    git("init", "-q", cwd=tmp_path / "new")
    with pytest.raises(RepositoryError, match="no commit yet") as caught:
        Repo.discover(tmp_path / "new").head()
    assert caught.value.hint == "git commit"
    root = make_repo()
    git("checkout", "-q", "--detach", cwd=root)
    assert Repo.discover(root).head().branch is None


# --- objects ----------------------------------------------------------------------------------------------------------


def test_reads(repo: Repo) -> None:
    (repo.root / "link").symlink_to("a.md")
    git("add", "link", cwd=repo.root)
    git("commit", "-qm", "link", cwd=repo.root)
    head = repo.head().commit
    listed = git("ls-tree", "-r", head, cwd=repo.root).splitlines()
    assert [f"{e.mode:06o} blob {e.oid}\t{e.path}" for e in repo.entries(head).values()] == listed
    assert repo.read_path(head, "docs/deep/c.md") == b"c\n"
    for absent in ("link", "docs", "docs/none", "a.md/x", ""):
        assert repo.read_path(head, absent) is None
    assert repo.blob_size(repo.entries(head)["a.md"].oid) == 14
    assert repo.resolve("HEAD~1") == repo.commit_info(head).parents[0]
    assert [line[0] for line in repo.history("HEAD", 5)] == git("rev-list", head, cwd=repo.root).split()
    for bad in ("nope", "", "HEAD:a.md", "a..b", "0" * 40):
        with pytest.raises(RepositoryError, match="unknown revision"):
            repo.resolve(bad)
    for wrong in (head, "0" * 40, "xyz"):
        with pytest.raises(RepositoryError):
            repo.read_blob(wrong)


def test_a_name_that_is_not_utf8_is_kept(repo: Repo) -> None:
    blob = repo.write_blob(b"x")
    tree = git("mktree", "-z", cwd=repo.root, stdin=b"100644 blob %s\ta\xff\0" % blob.encode()).strip()
    assert list(repo.entries(tree)) == ["a\udcff"]
    assert repo.diff(repo.write_tree(None, {}), tree).files[0].path == "a\udcff"
    assert repo.read_path(put(repo, tree, {"b": b"y"}), "a\udcff") == b"x"
    assert repo.write_tree(tree, {"a\udcff": None}) == repo.write_tree(None, {})


def test_commit_is_ours_and_keeps_its_time_zone(repo: Repo) -> None:
    head = repo.head().commit
    before = snapshot(repo.root)
    oid = commit(repo, {"ü.md": b"x"}, message="änderung\n\nbody\n\n")
    shown = git("show", "-s", "--format=%an <%ae>|%cn|%ad|%P|%B", "--date=iso", oid, cwd=repo.root)
    assert shown == f"Pantheon <pantheon@localhost>|Pantheon|2026-03-02 01:02:03 -0330|{head}|änderung\n\nbody\n\n"
    info = repo.commit_info(oid)
    assert (info.when, info.author, info.message) == (WHEN, "Pantheon <pantheon@localhost>", "änderung\n\nbody\n")
    assert snapshot(repo.root) == before
    with pytest.raises(RepositoryError, match="timezone"):
        repo.commit(repo.tree_of(head), [head], "m", datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(RepositoryError, match="NUL"):
        repo.commit(repo.tree_of(head), [head], "a\0b", WHEN)


def test_signature_is_accepted_by_git_and_ssh_keygen(repo: Repo, tmp_path: Path) -> None:
    keys = repo.common_dir / "pantheon/keys"
    signer = Signer.load_or_create(keys)
    assert Signer.load_or_create(keys).public == signer.public
    assert keys.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys.iterdir() if path.suffix != ".pub")
    head = repo.head().commit
    signed = repo.commit(repo.tree_of(head), [head], "signed: ü", WHEN, signer)
    trust = f"gpg.ssh.allowedSignersFile={signer.allowed_signers}"
    verify = ["git", "-c", trust, "verify-commit", signed]
    done = subprocess.run(verify, cwd=repo.root, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Good" in done.stderr
    signature = tmp_path / "sig"
    signature.write_text(signer.sign(b"payload", "test"), "ascii")
    check = ["ssh-keygen", "-Y", "check-novalidate", "-n", "test", "-s", str(signature)]
    assert subprocess.run(check, input=b"payload", capture_output=True, check=False).returncode == 0
    assert subprocess.run(check, input=b"other", capture_output=True, check=False).returncode != 0
    (keys / "pantheon_ed25519").write_bytes(b"junk")
    with pytest.raises(RepositoryError, match="signing key"):
        Signer.load_or_create(keys)


def test_first_commit_dates(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    root = repo.root
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2026-04-01T10:00:00+0200")
    write_files(root, {"new\nline.md": "x", "ü.md": "y"})
    (root / "a.md").rename(root / "renamed.md")
    git("add", "-A", cwd=root)
    git("commit", "-qm", "more", cwd=root)
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2026-05-01T10:00:00+0200")
    write_files(root, {"a.md": "again"})
    git("add", "-A", cwd=root)
    git("commit", "-qm", "again", cwd=root)
    dates = repo.first_commit_dates(repo.head().commit)
    april = datetime(2026, 4, 1, 8, tzinfo=UTC)
    assert dates["new\nline.md"] == dates["ü.md"] == dates["renamed.md"] == april
    assert dates["a.md"] == dates["docs/b.md"] == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert dates["ü.md"].utcoffset() == timedelta(hours=2)


# --- names and trees --------------------------------------------------------------------------------------------------

HOSTILE = [
    *("", ".", "..", ".git", ".GIT", ".Git", "git~1", "GIT~2", ".git ", ".git.", ".git. .", ".g\u200cit", "\u200b.git"),
    *(".gi\ufefft", ".git::$INDEX_ALLOCATION", ".git:x", "\uff0egit", ".g\u0131t", "a/b", "a\\b", ".git\\x", "a\0b"),
    *("a\nb", "a\x1b[31m", "a\u202eb", "a\u2066b", "a\u200bb", "a\u2028b", "a\udcff", "x" * 256, "é" * 128, "a ", "a."),
]
HARMLESS = [".gitignore", "git", "--title Phase 1 — …", "naïve.md", "日本.md", "x" * 255, "~", ".hidden", "a b"]
HARMLESS += ["\U0001f469\u200d\U0001f467.md"]


def test_hostile_names_are_refused(repo: Repo) -> None:
    blob = (0o100644, repo.write_blob(b"x"))
    for name in HOSTILE:
        assert not valid_name(name), ascii(name)
        with pytest.raises(RepositoryError):
            repo.write_tree(None, {f"d/{name}" if "/" not in name else f"d//{name}": blob})
    for name in HARMLESS:
        assert name_fault(name) == "", ascii(name)
    tree = repo.write_tree(None, dict.fromkeys(HARMLESS, blob))
    assert set(repo.entries(tree)) == set(HARMLESS)
    for pair in (("A.md", "a.md"), ("é", "e\u0301"), ("straße", "STRASSE")):
        with pytest.raises(RepositoryError, match="one file with"):
            repo.write_tree(None, dict.fromkeys(pair, blob))
    assert repo.write_tree(repo.write_tree(None, {"A.md": blob}), {"A.md": None, "a.md": blob})


def test_write_tree_refusals(repo: Repo) -> None:
    base = repo.tree_of(repo.head().commit)
    blob = repo.write_blob(b"x")
    bad: list[dict[str, tuple[int, str] | None]] = [
        {"l": (0o120000, blob)},
        {"l": (0o160000, blob)},
        {"l": (0o100664, blob)},
        {"l": (0o100644, base)},
        {"l": (0o100644, "1" * 40)},
        {"docs": (0o100644, blob)},
        {"docs": None},
        {"a.md/x": (0o100644, blob)},
        {"/".join(["d"] * 200): (0o100644, blob)},
        {"/a": (0o100644, blob)},
        {"x/": (0o100644, blob)},
    ]
    for changes in bad:
        with pytest.raises(RepositoryError):
            repo.write_tree(base, changes)
    assert repo.write_tree(base, {"none": None, "a.md/none": None, "no/such": None}) == base
    swapped = repo.write_tree(base, {"a.md": None, "a.md/x": (0o100755, blob)})
    assert git("ls-tree", "-r", "--format=%(objectmode) %(path)", swapped, "a.md", cwd=repo.root) == "100755 a.md/x\n"
    flat = repo.write_tree(base, {"docs/b.md": None, "docs/deep/c.md": None, "docs": (0o100644, blob)})
    assert git("ls-tree", "--name-only", flat, cwd=repo.root) == "a.md\ndocs\n"


LETTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))
PARTS = st.text(LETTERS, min_size=1, max_size=4).filter(valid_name)
PATHS = st.lists(st.sampled_from(["a", "b", "a.b", "a-b"]) | PARTS, min_size=1, max_size=3).map("/".join)


@SLOW
@given(st.dictionaries(PATHS, st.booleans(), max_size=8), st.dictionaries(PATHS, st.none() | st.booleans()))
def test_written_trees_are_those_of_git(
    make_repo: MakeRepo, tmp_path: Path, first: dict[str, bool], second: dict[str, bool | None]
) -> None:
    """Against `git update-index --index-info` and `git write-tree`, which know the order and the shape of trees."""
    repo = _shared(make_repo, tmp_path)
    blob = repo.write_blob(b"x")

    def changes(some: dict[str, bool | None]) -> dict[str, tuple[int, str] | None]:
        return {p: None if x is None else (0o100755 if x else 0o100644, blob) for p, x in some.items()}

    final = {p: x for p, x in {**first, **second}.items() if x is not None}
    folded = [fold_name(part) for part in sorted({p for path in final for p in _prefixes(path)})]
    clash = any(other.startswith(f"{path}/") for path in {**first, **second} for other in {**first, **second})
    assume(not clash and len(set(folded)) == len(folded))
    try:
        tree = repo.write_tree(repo.write_tree(None, changes(dict(first))), changes(second))
    except RepositoryError as error:
        assert "one file with" in error.why  # a pair that the second step undoes
        return
    index = repo.git_dir / "index.test"
    index.unlink(missing_ok=True)
    lines = b"".join(
        b"%o %s\t%s\0" % (0o100755 if x else 0o100644, blob.encode(), os.fsencode(p)) for p, x in final.items()
    )
    env = {**os.environ, "GIT_INDEX_FILE": str(index)}
    subprocess.run(["git", "update-index", "-z", "--index-info"], cwd=repo.root, input=lines, env=env, check=True)
    expected = subprocess.run(["git", "write-tree"], cwd=repo.root, env=env, capture_output=True, check=True)
    assert tree == expected.stdout.decode().strip()
    assert set(repo.entries(tree)) == set(final)


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _shared(make_repo: MakeRepo, tmp_path: Path) -> Repo:
    """One repository for all examples of a property test."""
    root = tmp_path / "shared"
    return Repo.discover(root if root.exists() else make_repo(name="shared"))


LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\n"]), min_size=3, max_size=7).map(b"".join)


@SLOW
@given(base=LINES, ours=LINES, theirs=LINES)
def test_merge_agrees_with_git_merge_file(
    make_repo: MakeRepo, tmp_path: Path, base: bytes, ours: bytes, theirs: bytes
) -> None:
    repo = _shared(make_repo, tmp_path)
    sides = {"ours": ours, "base": base, "theirs": theirs}
    write_files(repo.root, {f"m.{name}": text for name, text in sides.items()})
    names = [f"m.{name}" for name in sides]
    done = subprocess.run(["git", "merge-file", "-p", *names], cwd=repo.root, capture_output=True, check=False)
    trees = {name: put(repo, None, {"dir/f": text}) for name, text in sides.items()}
    try:
        merged = repo.merge_trees(trees["base"], trees["ours"], trees["theirs"])
    except MergeConflict as error:
        assert error.paths == ("dir/f",)
        assert done.returncode > 0
    else:
        assert done.returncode == 0
        assert repo.read_path(merged, "dir/f") == done.stdout


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ({"d/HEAD": b"x", "d/objects/a": b"x"}, {"d/refs/a": b"x"}, "embedded git repository"),
        ({"d/Note.md": b"x"}, {"d/note.md": b"y"}, "one file with"),
    ],
)
def test_two_sound_sides_do_not_make_together_what_neither_may(
    repo: Repo, ours: dict[str, bytes | None], theirs: dict[str, bytes | None], words: str
) -> None:
    base = put(repo, None, {"d/a.md": b"1"})
    with pytest.raises(RepositoryError, match=words):
        repo.merge_trees(base, put(repo, base, ours), put(repo, base, theirs))


def test_diff(repo: Repo) -> None:
    head = repo.head().commit
    body = b"".join(b"line %d\n" % number for number in range(50))
    old = commit(repo, {"big.md": body, "bin": bytes(range(256))})
    files: dict[str, bytes | None] = {"big.md": None, "moved.md": body + b"x\n", "a.md": None, "n": b"n\r\n"}
    new = commit(repo, {**files, "bin": bytes(200)}, old)
    diff = repo.diff(old, new)
    found = {c.path: (c.status, c.old_path, c.added, c.deleted) for c in diff.files}
    assert found == {
        "moved.md": ("renamed", "big.md", 1, 0),
        "a.md": ("deleted", None, 0, 3),
        "n": ("added", None, 1, 0),
        "bin": ("modified", None, 0, 0),
    }
    assert (diff.added, diff.deleted) == (2, 3)
    git("checkout", "-q", "--detach", cwd=repo.root)
    git("reset", "-q", "--hard", old, cwd=repo.root)
    git("apply", "--index", "--binary", "-", cwd=repo.root, stdin=diff.patch)
    assert git("write-tree", cwd=repo.root).strip() == repo.tree_of(new)
    assert repo.diff(head, head).patch == b""


CONTENTS = LINES | st.binary(max_size=12) | st.sampled_from([b"", b"a", b"a\r\n", b"a\0b\n"])


@SLOW
@given(st.dictionaries(PATHS | st.just("x.png"), st.tuples(CONTENTS, CONTENTS | st.none()), max_size=4))
def test_a_diff_says_what_a_walk_over_both_trees_would(
    make_repo: MakeRepo, tmp_path: Path, files: dict[str, tuple[bytes, bytes | None]]
) -> None:
    """Only what differs is read; libgit2's own comparison reads every directory. Attributes have a say in neither."""
    repo = _shared(make_repo, tmp_path)
    (repo.common_dir / "info" / "attributes").write_text("*.png -diff\n")
    old = repo.write_tree(None, {})
    new = old
    try:
        for path, (before, after) in {**files, "same": (b"x", b"x")}.items():
            old, new = put(repo, old, {path: before}), put(repo, new, {path: after})
    except RepositoryError:
        assume(False)
    library = pygit2.Repository(str(repo.common_dir))
    flags = DiffOption.SHOW_BINARY | DiffOption.INCLUDE_TYPECHANGE
    left, right = (library[tree].peel(pygit2.Tree) for tree in (old, new))
    walked = [left.diff_to_tree(right, flags=flags | more) for more in (DiffOption.NORMAL, DiffOption.FORCE_TEXT)]
    for diff in walked:
        diff.find_similar()
    plain, text = ([patch for patch in diff if patch] for diff in walked)
    nul = {path for path, sides in files.items() if any(b"\0" in (side or b"") for side in sides)}
    expected = [one if one.delta.new_file.path in nul else two for one, two in zip(plain, text, strict=True)]
    found = repo.diff(old, new)
    assert found.patch == b"".join(patch.data for patch in expected)
    assert [change.path for change in found.files] == [patch.delta.new_file.path for patch in expected]
    assert found.added == sum(patch.line_stats[1] for patch in expected)
    assert found.deleted == sum(patch.line_stats[2] for patch in expected)


def test_no_driver_of_the_user_runs(repo: Repo, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for kind in ("diff.x.textconv", "diff.x.command", "merge.x.driver", "filter.x.clean", "filter.x.smudge"):
        git("config", kind, f"touch {mark}; cat", cwd=repo.root)
    git("config", "filter.x.process", f"touch {mark}", cwd=repo.root)
    write_files(repo.root, {".gitattributes": "* diff=x merge=x filter=x\n", ".git/info/attributes": "* -text\n"})
    base = repo.head().commit
    one = commit(repo, {"a.md": b"ONE\ntwo\nthree\n", ".gitattributes": b"* merge=x filter=x\n"})
    two = commit(repo, {"a.md": b"one\ntwo\nTHREE\n"})
    assert repo.read_path(repo.merge_trees(base, one, two), "a.md") == b"ONE\ntwo\nTHREE\n"
    assert b"+ONE" in repo.diff(base, one).patch
    repo.export(one, tmp_path / "out", tmp_path / "store")
    repo.first_commit_dates(one)
    assert not mark.exists()


# --- refs -------------------------------------------------------------------------------------------------------------


def test_refs_are_moved_by_compare_and_swap(repo: Repo) -> None:
    one, two = repo.head().commit, commit(repo, {"x": b"x"})
    name = "refs/pantheon/runs/ab/x"
    repo.move_ref(name, one, None, "new")
    for new, expected in ((two, None), (two, two), (None, two), (None, None)):
        with pytest.raises(RefMoved):
            repo.move_ref(name, new, expected, "no")
    repo.move_ref(name, two, one, "move")
    git("pack-refs", "--all", cwd=repo.root)
    assert repo.refs("refs/pantheon/") == {name: two}
    repo.move_ref(name, None, two, "gone")
    assert repo.ref(name) is None
    with pytest.raises(RefMoved):
        repo.move_ref(name, one, two, "no")
    for foreign in ("refs/heads/main", "refs/tags/x", "HEAD", "refs/pantheon/../heads/main", "refs/pantheon/a b"):
        with pytest.raises(RepositoryError):
            repo.move_ref(foreign, one, repo.ref(foreign) if foreign == "refs/heads/main" else None, "no")
    with pytest.raises(RepositoryError, match="no object"):
        repo.move_ref(name, "1" * 40, None, "no")
    assert repo.fsck() == ()


def test_a_checked_out_branch_is_not_moved(repo: Repo) -> None:
    one = repo.head().commit
    repo.move_ref("refs/heads/pantheon/t/1", one, None, "new")
    git("checkout", "-q", "pantheon/t/1", cwd=repo.root)
    with pytest.raises(RepositoryError, match="checked out"):
        repo.move_ref("refs/heads/pantheon/t/1", commit(repo, {"x": b"x"}), one, "no")


def test_locks_of_a_dead_process_are_recovered(repo: Repo) -> None:
    name = "refs/pantheon/x"
    repo.move_ref(name, repo.head().commit, None, "new")
    for left in (f"{name}.lock", "packed-refs.lock"):
        (repo.common_dir / left).touch()
    (repo.common_dir / "pantheon/refs.lock").write_text(name, "ascii")  # what a killed holder leaves
    started = time.monotonic()
    repo.move_ref(name, None, repo.head().commit, "go on")
    assert time.monotonic() - started < 5
    foreign = repo.common_dir / f"{name}.lock"
    foreign.touch()  # nobody of ours died: the lock belongs to a living git
    with pytest.raises(RepositoryError) as caught:
        repo.move_ref(name, repo.head().commit, None, "no")
    assert "rm '" in caught.value.hint
    assert foreign.exists()


def test_many_refs_are_deleted_together_or_not_at_all(repo: Repo) -> None:
    one, two = repo.head().commit, commit(repo, {"x": b"x"})
    names = [f"refs/pantheon/runs/ab/ab{number:04x}" for number in range(40)]
    for name in names:
        repo.move_ref(name, one, None, "new")
    git("pack-refs", "--all", cwd=repo.root)
    repo.move_ref(names[7], two, one, "it moved meanwhile")
    wanted = dict.fromkeys(names, one)
    with pytest.raises(RefMoved):
        repo.delete_refs(wanted)
    assert list(repo.refs("refs/pantheon/")) == names
    for foreign in ("refs/heads/main", "refs/heads/pantheon/t/1", "refs/tags/x"):
        with pytest.raises(RepositoryError, match="not ours"):
            repo.delete_refs({**wanted, foreign: one})
    repo.delete_refs({**wanted, names[7]: two})
    assert repo.refs("refs/pantheon/") == {}
    assert repo.head().commit == one


def test_locks_of_a_deletion_that_was_killed_are_recovered_together(repo: Repo) -> None:
    head = repo.head().commit
    names = [f"refs/pantheon/runs/ab/ab{number:04x}" for number in range(30)]
    for name in names:
        repo.move_ref(name, head, None, "new")
    for left in (*names, "packed-refs"):
        (repo.common_dir / f"{left}.lock").touch()
    (repo.common_dir / "pantheon/refs.lock").write_text("\n".join(names), "ascii")
    started = time.monotonic()
    repo.delete_refs(dict.fromkeys(names, head))
    assert time.monotonic() - started < 20, "they are waited for together, not one after the other"
    assert repo.refs("refs/pantheon/") == {}
    assert [path.name for path in repo.common_dir.rglob("*.lock")] == ["refs.lock"], "which is ours"


def test_creating_one_ref_is_won_once(repo: Repo) -> None:
    head, wins = repo.head().commit, []

    def race() -> None:
        mine = Repo.discover(repo.root)
        for number in range(20):
            try:
                mine.move_ref(f"refs/pantheon/race/{number}", head, None, "race")
                wins.append(number)
            except RefMoved:
                pass

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(20))


# --- notes ------------------------------------------------------------------------------------------------------------


def test_notes_are_read_by_git_and_dulwich(repo: Repo) -> None:
    commits = [commit(repo, {"x": b"%d" % number}) for number in range(30)]
    before = snapshot(repo.root)
    tip = repo.append_notes(NOTES, {c: [f"line {c}", "ü"] for c in commits}, "notes\n", WHEN)
    assert repo.append_notes(NOTES, {commits[0]: ["ü"]}, "again\n", WHEN) == tip
    repo.append_notes(NOTES, {commits[0]: ["more", "ü", "more"]}, "more\n", WHEN)
    assert repo.read_note(NOTES, commits[0]) == f"line {commits[0]}\nü\nmore\n".encode()
    for c in commits:
        shown = git("notes", "--ref", NOTES, "show", c, cwd=repo.root)
        assert repo.read_note(NOTES, c) == dulwich_note(repo, NOTES, c) == shown.encode()
    assert repo.read_note(NOTES, repo.head().commit) is None
    assert dulwich_note(repo, NOTES, repo.head().commit) is None
    assert dulwich_note(repo, "refs/notes/pantheon/none", commits[0]) is None
    tree = repo.entries(repo.tree_of(repo.ref(NOTES) or ""))
    assert all(path[2] == "/" and len(path) == 41 for path in tree)
    assert len(repo.history(NOTES, 9)) == 2
    assert snapshot(repo.root) == before
    assert repo.fsck() == ()


def test_notes_at_any_fan_out_are_found_and_replaced_in_place(repo: Repo) -> None:
    one = repo.head().commit
    blob = (0o100644, repo.write_blob(b"old"))
    for path in (one, f"{one[:2]}/{one[2:]}", f"{one[:2]}/{one[2:4]}/{one[4:]}"):
        ref = f"refs/notes/pantheon/{len(path)}"
        repo.move_ref(ref, repo.commit(repo.write_tree(None, {path: blob}), [], "n", WHEN), None, "n")
        assert repo.read_note(ref, one) == dulwich_note(repo, ref, one) == b"old"
        repo.append_notes(ref, {one: ["new"]}, "n", WHEN)
        assert git("notes", "--ref", ref, "show", one, cwd=repo.root) == "old\nnew\n"
        repo.set_notes(ref, {one: b"set\n"}, "n", WHEN)
        assert git("notes", "--ref", ref, "show", one, cwd=repo.root) == "set\n"
        assert list(repo.entries(repo.ref(ref) or "")) == [path]
        git("notes", "--ref", ref, "append", "-m", "by git", one, cwd=repo.root)
        assert b"by git" in (repo.read_note(ref, one) or b"")


def _write_notes(root: str, commits: list[str], writer: int, count: int) -> None:
    repo = Repo.discover(Path(root))
    for number in range(count):
        repo.append_notes(NOTES, {commits[number % len(commits)]: [f"{writer}-{number}"]}, "n", WHEN)


def _write_refs(root: str, commits: list[str], writer: int, count: int) -> None:
    """Refs of its own, and one that all of them move: each move is one more commit on what was there."""
    repo = Repo.discover(Path(root))
    for number in range(count):
        repo.move_ref(f"refs/pantheon/runs/{writer:02x}/{writer:02x}{number:04x}", commits[0], None, "mine")
        while True:
            at = repo.ref(SHARED)
            grown = repo.commit(repo.tree_of(commits[0]), [at] if at else [], f"{writer}-{number}", WHEN)
            with contextlib.suppress(RefMoved):
                repo.move_ref(SHARED, grown, at, "one more")
                break


def _together(work: Callable[[str, list[str], int, int], None], repo: Repo, counts: Sequence[int]) -> None:
    """One process a count, all at once, while `git pack-refs` runs again and again; each ends well."""
    commits = [commit(repo, {"x": b"%d" % number}) for number in range(5)]
    context = multiprocessing.get_context("fork")
    args = [(str(repo.root), commits, writer, count) for writer, count in enumerate(counts)]
    writers = [context.Process(target=work, args=each) for each in args]
    for process in writers:
        process.start()
    while any(process.is_alive() for process in writers):
        git("pack-refs", "--all", "--prune", cwd=repo.root, ok=(0, 1, 128))
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0] * len(counts)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("counts", [(8, 8, 8, 8, 7, 7, 7, 7), (50,) * 8], ids=["60 of 60", "400 of 400"])
def test_eight_writers_lose_no_note(repo: Repo, counts: Sequence[int]) -> None:
    _together(_write_notes, repo, counts)
    noted = git("notes", f"--ref={NOTES}", "list", cwd=repo.root).split()[1::2]
    lines = [line for each in noted for line in (repo.read_note(NOTES, each) or b"").decode().split()]
    assert sorted(lines) == sorted(f"{w}-{n}" for w, count in enumerate(counts) for n in range(count))
    assert int(git("rev-list", "--count", NOTES, cwd=repo.root)) == sum(counts)
    assert repo.fsck() == ()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_eight_writers_lose_no_ref_and_no_move_of_one(repo: Repo) -> None:
    _together(_write_refs, repo, (50,) * 8)
    wanted = {f"refs/pantheon/runs/{w:02x}/{w:02x}{n:04x}" for w in range(8) for n in range(50)}
    assert set(repo.refs("refs/pantheon/runs/")) == wanted | {SHARED}
    subjects = git("log", "--format=%s", SHARED, cwd=repo.root).split()
    assert sorted(subjects) == sorted(f"{w}-{n}" for w in range(8) for n in range(50))
    assert repo.fsck() == ()


def test_notes_are_taken_away_and_stay_in_the_history(repo: Repo) -> None:
    commits = [commit(repo, {"x": b"%d" % number}) for number in range(3)]
    repo.append_notes(NOTES, {each: ["a", "b"] for each in commits}, "n", WHEN)
    before = repo.ref(NOTES)
    after = repo.remove_notes(NOTES, commits[:2], "gone", WHEN)
    assert [repo.read_note(NOTES, each) for each in commits] == [None, None, b"a\nb\n"]
    assert repo.commit_info(after).parents == (before,)
    assert repo.remove_notes(NOTES, commits[:2], "again", WHEN) == after, "nothing is left to take"
    git("notes", f"--ref={NOTES}", "show", commits[2], cwd=repo.root)
    assert repo.fsck() == ()


# --- worktrees and exports --------------------------------------------------------------------------------------------


def test_worktree_without_checkout(repo: Repo, tmp_path: Path) -> None:
    before = snapshot(repo.root)
    place = tmp_path / "ca che\nü" / "w1"
    repo.add_worktree(place, repo.head().commit, "item-1")
    assert [path.name for path in place.iterdir()] == [".git"]
    assert git("rev-parse", "HEAD", cwd=place).strip() == repo.head().commit
    assert git("worktree", "list", "--porcelain", "-z", cwd=repo.root).count("worktree ") == 2
    git("worktree", "prune", cwd=repo.root)
    assert Repo.discover(place).common_dir.samefile(repo.common_dir)
    assert snapshot(repo.root) == before
    with pytest.raises(RepositoryError, match="cannot add a worktree"):
        repo.add_worktree(tmp_path / "w2", repo.head().commit, "item-1")
    for bad in ("../x", "", ".", "a/b", "-x"):
        with pytest.raises(RepositoryError):
            repo.add_worktree(tmp_path / "w3", repo.head().commit, bad)
    outside = tmp_path / "outside"
    write_files(outside, {"keep": "x"})
    (place / "link").symlink_to(outside)
    (place / "locked/dir").mkdir(parents=True)
    (place / "locked").chmod(0)
    repo.remove_worktree(place, "item-1")
    assert not place.exists()
    assert not (repo.common_dir / "worktrees/item-1").exists()
    assert (outside / "keep").exists()
    repo.remove_worktree(place, "item-1")


def test_git_prunes_no_worktree_while_it_is_made(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither between two of its files nor with a directory that holds it, which git removes when it is empty."""
    write, mkdir, pruned, met = Path.write_bytes, Path.mkdir, 0, {"worktrees", ".pantheon"}

    def prune() -> None:
        nonlocal pruned
        git("worktree", "prune", "--expire=now", cwd=repo.root)
        pruned += 1

    def written(path: Path, data: bytes) -> int:
        if path.parent.name != ".pantheon":  # what locks all the rest; its directory was pruned once (`made`)
            prune()
        count = write(path, data)
        prune()
        return count

    def made(path: Path, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> None:
        mkdir(path, mode, parents, exist_ok)
        if path.name in met:
            met.remove(path.name)
            prune()

    monkeypatch.setattr(Path, "write_bytes", written)
    monkeypatch.setattr(Path, "mkdir", made)
    repo.add_worktree(tmp_path / "w", repo.head().commit, "w")
    assert pruned > 5 * 2 and not met
    monkeypatch.undo()
    assert git("rev-parse", "HEAD", cwd=tmp_path / "w").strip() == repo.head().commit


def test_a_worktree_of_the_user_is_not_removed(repo: Repo, tmp_path: Path) -> None:
    git("worktree", "add", "-q", "--detach", str(tmp_path / "mine"), cwd=repo.root)
    repo.remove_worktree(tmp_path / "other", "mine")
    assert (repo.common_dir / "worktrees/mine").exists()
    hostile = tmp_path / "w"
    repo.add_worktree(hostile, repo.head().commit, "w")
    (hostile / ".git").write_text(f"gitdir: {repo.common_dir}/worktrees/mine\n", "utf-8")
    repo.remove_worktree(hostile, "w")
    assert (repo.common_dir / "worktrees/mine").exists()
    assert not (repo.common_dir / "worktrees/w").exists()


def test_export(repo: Repo, tmp_path: Path) -> None:
    blob = repo.write_blob(b"x")
    listing = f"100644 blob {blob}\tf\n100755 blob {blob}\trun\n120000 blob {blob}\tlink\n"
    listing += f"160000 commit {'1' * 40}\tsub\n"
    tree = git("mktree", "--missing", cwd=repo.root, stdin=listing.encode()).strip()
    assert repo.export(tree, tmp_path / "one", tmp_path / "store") == ("link", "sub")
    assert repo.export(tree, tmp_path / "two", tmp_path / "store") == ("link", "sub")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["f", "run"]
    assert (tmp_path / "one/f").samefile(tmp_path / "two/f")
    assert not (tmp_path / "one/f").samefile(tmp_path / "one/run")
    assert os.access(tmp_path / "one/run", os.X_OK)
    (tmp_path / "one/f").chmod(0o644)
    (tmp_path / "one/f").write_text("spoilt", "ascii")
    repo.export(tree, tmp_path / "three", tmp_path / "store")
    assert (tmp_path / "three/f").read_bytes() == b"x"
    with pytest.raises(RepositoryError, match="not an empty directory"):
        repo.export(tree, tmp_path / "one", tmp_path / "store")
    raw = b"".join(b"100644 blob %s\t%s\0" % (blob.encode(), n) for n in (b"..", b".GIT", b"g\xff"))
    hostile = git("mktree", "-z", cwd=repo.root, stdin=raw).strip()
    assert set(repo.export(hostile, tmp_path / "four", tmp_path / "store")) == {"..", ".GIT"}


# --- identity -------------------------------------------------------------------------------------------------------


def test_identity_is_the_users_own(repo: Repo) -> None:
    assert repo.user_identity() == "Ann Author <ann@example.org>"


# --- the user's merge -------------------------------------------------------------------------------------------------


def branch(repo: Repo, files: dict[str, bytes | None], name: str = "pantheon/t/1") -> str:
    oid = commit(repo, files)
    repo.move_ref(f"refs/heads/{name}", oid, None, "new")
    return oid


def test_user_merge_strategies(repo: Repo) -> None:
    tip = branch(repo, {"docs/b.md": b"B\n", "docs/new.md": b"n\n"})
    write_files(repo.root, {"untracked": "u", "docs/deep/c.md": "dirty, elsewhere\n"})
    merged = usergit.merge(repo, "pantheon/t/1", strategy="merge", message="Accept 1")
    info = repo.commit_info(merged)
    assert info.parents[1] == tip
    assert info.author == "Ann Author <ann@example.org>"
    assert info.message == "Accept 1\n"
    assert git("status", "--porcelain", cwd=repo.root) == " M docs/deep/c.md\n?? untracked\n"
    ff = branch(repo, {"ff": b"x"}, "pantheon/t/2")
    assert usergit.merge(repo, "pantheon/t/2", strategy="ff") == ff
    branch(repo, {"pick": b"x"}, "pantheon/t/3")
    write_files(repo.root, {"own": "x"})
    git("add", "own", cwd=repo.root)
    git("commit", "-qm", "own", cwd=repo.root)
    with pytest.raises(RepositoryError, match="your branch is as it was"):
        usergit.merge(repo, "pantheon/t/3", strategy="ff")
    picked = repo.commit_info(usergit.merge(repo, "pantheon/t/3", strategy="rebase"))
    assert picked.author == "Pantheon <pantheon@localhost>"
    assert git("log", "-1", "--format=%cn", cwd=repo.root) == "Ann Author\n"
    assert (repo.root / "pick").exists()


@pytest.mark.parametrize("strategy", ["merge", "rebase"])
def test_a_conflict_leaves_nothing_half_merged(repo: Repo, strategy: str) -> None:
    branch(repo, {"a.md": b"theirs\n"})
    write_files(repo.root, {"a.md": "ours\n"})
    git("commit", "-qam", "ours", cwd=repo.root)
    before = snapshot(repo.root)
    with pytest.raises(RepositoryError, match=r"(?i)conflict"):
        usergit.merge(repo, "pantheon/t/1", strategy=strategy)  # type: ignore[arg-type]
    assert snapshot(repo.root) == before


def test_the_users_hooks_may_refuse_and_nothing_leaks_in(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    branch(repo, {"n": b"x"})
    hook = repo.git_dir / "hooks/commit-msg"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\necho "refused by hook $GIT_LEAK" >&2\nexit 1\n', "ascii")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_LEAK", "leaked")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    before = repo.head()
    with pytest.raises(RepositoryError, match="refused by hook") as caught:
        usergit.merge(repo, "pantheon/t/1", message="m")
    assert "leaked" not in str(caught.value)
    assert repo.head() == before
    assert repo.dirty_paths(["n"]) == ()
    assert not (repo.git_dir / "MERGE_HEAD").exists()


def test_a_dirty_overlap_is_refused_by_name(repo: Repo) -> None:
    branch(repo, {"a.md": b"new\n", "docs/b.md": b"new\n", "fresh.md": b"x", "ignored.md": b"x", "*": b"x"})
    write_files(repo.root, {"a.md": "dirty\n", "fresh.md": "mine", "ignored.md": "mine"})
    write_files(repo.root, {".git/info/exclude": "ignored.md\n"})
    git("rm", "-q", "--cached", "docs/b.md", cwd=repo.root)
    before = snapshot(repo.root)
    with pytest.raises(RepositoryError) as caught:
        usergit.merge(repo, "pantheon/t/1", message="m")
    assert "a.md, docs/b.md, fresh.md, ignored.md" in caught.value.why
    assert snapshot(repo.root) == before
    assert repo.dirty_paths(["*", "docs/deep/c.md"]) == ()


def test_an_operation_of_the_user_is_not_aborted(repo: Repo) -> None:
    branch(repo, {"n": b"x"})
    (repo.git_dir / "MERGE_HEAD").write_text(repo.head().commit + "\n", "ascii")
    with pytest.raises(RepositoryError, match="MERGE_HEAD"):
        usergit.merge(repo, "pantheon/t/1", message="m")
    assert (repo.git_dir / "MERGE_HEAD").exists()


def test_a_large_tree_is_listed_quickly(repo: Repo) -> None:
    blob = (0o100644, repo.write_blob(b"x"))
    tree = repo.write_tree(None, {f"d{n % 100}/f{n}": blob for n in range(20_000)})
    started = time.monotonic()
    assert len(repo.entries(tree)) == 20_000
    assert time.monotonic() - started < 2
