"""Notes after history was rewritten: the matrix on real git, notes refs that are gone, and what `verify` says then."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import provenance
import pytest
from provenance import DAYS, Copy, own_git

from pantheon import artifacts, attest, desk, hooks, notary, prs, reindex, review
from pantheon.errors import RepositoryError
from pantheon.git import Repo

KINDS = (artifacts.NOTES, artifacts.SUMMARY, attest.ATTESTATIONS)
TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


@pytest.fixture
def field(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Copy:
    """The two nights with `main` back at its start, and `init` done."""
    copy = provenance.copy(tmp_path_factory, tmp_path / "repo")
    repo = Repo.discover(copy.root)
    hooks.apply_init(repo, hooks.plan_init(repo, TEMPLATES, "/nowhere/git-pantheon", {}))
    return copy


def run_reindex(copy: Copy, dry_run: bool = False) -> reindex.Found:
    repo = Repo.discover(copy.root)
    return reindex.reindex(repo, DAYS[3], desk.signer(repo), dry_run=dry_run)


def test_nothing_is_missing_where_nothing_was_rewritten(field: Copy) -> None:
    before = field.git("for-each-ref")
    found = run_reindex(field)
    assert not found.wrote, found
    assert field.git("for-each-ref") == before
    assert found.lost == ()
    assert found.unreadable == ()


# --- the matrix ------------------------------------------------------------------------------------------------------


def items(copy: Copy) -> list[str]:
    """The commits of the accepted PR that are on `main`, oldest first."""
    pull = prs.load(copy.repo, 1)
    return [item.commit for item in pull.live]


def onto(copy: Copy) -> str:
    """A branch `work` at the first commit, checked out; the branch of PR 1 is merged nowhere in it."""
    first = copy.git("rev-list", "--max-parents=0", "main").strip()
    copy.git("switch", "-q", "-c", "work", first)
    copy.git("branch", "-q", "-D", "main")
    return first


def scripted(copy: Copy, base: str, edit: str, *options: str, editor: str = "true") -> None:
    """`git rebase -i` with a sed script in the place of a person."""
    sequence = f"sed -i -E {edit!r}"
    copy.git("-c", f"sequence.editor={sequence}", "-c", f"core.editor={editor}", "rebase", "-q", "-i", *options, base)


def start(copy: Copy) -> str:
    """`work` with the accepted commits on top, as a fast-forward accept leaves them."""
    base = onto(copy)
    copy.git("merge", "-q", "--ff-only", items(copy)[-1])
    return base


def amend_message(copy: Copy) -> None:
    start(copy)
    message = copy.git("log", "-1", "--format=%B").replace("docs", "documents", 1)
    copy.git("commit", "-q", "--amend", "-m", message)


def amend_away_the_trailers(copy: Copy) -> None:
    start(copy)
    copy.git("commit", "-q", "--amend", "-m", "my own words")


def amend_the_change(copy: Copy) -> None:
    start(copy)
    target = prs.load(copy.repo, 1).live[-1].target
    path = copy.root / target
    path.write_text(path.read_text() + "One line more.\n")
    copy.git("commit", "-q", "--amend", "--no-edit", "-a")


def rebase_onto(copy: Copy) -> None:
    base = start(copy)
    (copy.root / "other.txt").write_text("other\n")
    copy.git("switch", "-q", "-c", "side", base)
    copy.git("add", "other.txt")
    copy.git("commit", "-q", "-m", "other")
    copy.git("rebase", "-q", "--onto", "side", base, "work")


def reword(copy: Copy) -> None:
    scripted(copy, start(copy), "s/^pick/reword/", editor="sed -i '1s/^/again: /'")


def edit_and_continue(copy: Copy) -> None:
    scripted(copy, start(copy), "1s/^pick/edit/")
    copy.git("commit", "-q", "--amend", "--no-edit")
    copy.git("-c", "core.editor=true", "rebase", "--continue")


def squash(copy: Copy) -> None:
    scripted(copy, start(copy), "2,$s/^pick/squash/")


def fixup(copy: Copy) -> None:
    scripted(copy, start(copy), "2,$s/^pick/fixup/")


def fixup_autosquash(copy: Copy) -> None:
    base = start(copy)
    path = copy.root / prs.load(copy.repo, 1).live[0].target
    path.write_text(path.read_text() + "One line more.\n")
    copy.git("commit", "-q", "-a", "--fixup", items(copy)[0])
    scripted(copy, base, "", "--autosquash")


def cherry_pick(copy: Copy) -> None:
    onto(copy)
    copy.git("cherry-pick", *items(copy))


def cherry_pick_without_words(copy: Copy) -> None:
    onto(copy)
    for commit in items(copy):
        copy.git("cherry-pick", "--no-commit", commit)
        copy.git("commit", "-q", "-m", "picked")


def squash_merge(copy: Copy) -> None:
    onto(copy)
    copy.git("merge", "-q", "--squash", items(copy)[-1])
    copy.git("-c", "core.editor=true", "commit", "-q", "--no-edit")


def squash_merge_without_words(copy: Copy) -> None:
    onto(copy)
    copy.git("merge", "-q", "--squash", items(copy)[-1])
    copy.git("commit", "-q", "-m", "everything at once")


def mail(copy: Copy) -> None:
    base = onto(copy)
    copy.git("format-patch", "-q", "-o", str(copy.root.parent / "mail"), f"{base}..{items(copy)[-1]}")
    copy.git("am", "-q", *map(str, sorted((copy.root.parent / "mail").iterdir())))


def merge(copy: Copy) -> None:
    onto(copy)
    copy.git("merge", "-q", "--no-ff", "-m", "merge", items(copy)[-1])


def filter_branch(copy: Copy) -> None:
    start(copy)
    copy.git("-c", "core.hooksPath=/dev/null", "filter-branch", "-f", "--env-filter", "GIT_AUTHOR_NAME=Eve", "work")
    copy.git("update-ref", "-d", "refs/original/refs/heads/work")


def filter_subdirectory(copy: Copy) -> None:
    """As filter-repo does with `--subdirectory-filter`: other paths, other trees, the messages stay."""
    start(copy)
    copy.git("filter-branch", "-f", "--subdirectory-filter", "docs", "work")
    copy.git("update-ref", "-d", "refs/original/refs/heads/work")


CASES: dict[Callable[[Copy], None], tuple[bool, bool]] = {  # notes follow by themselves, the message still says so
    amend_message: (True, True),
    amend_away_the_trailers: (True, False),
    amend_the_change: (True, True),
    rebase_onto: (True, True),
    reword: (True, True),
    edit_and_continue: (True, True),
    squash: (True, True),
    fixup: (True, False),
    fixup_autosquash: (True, True),
    cherry_pick: (False, True),
    cherry_pick_without_words: (False, False),
    squash_merge: (False, True),
    squash_merge_without_words: (False, False),
    mail: (False, True),
    merge: (True, True),
    filter_branch: (False, True),
    filter_subdirectory: (False, True),
}


def noted(copy: Copy) -> dict[str, dict[str, set[str]]]:
    """commit of `work` -> kind of note -> the runs that it speaks of."""
    repo = Repo.discover(copy.root)
    found: dict[str, dict[str, set[str]]] = {}
    for commit in copy.git("rev-list", "work").split():
        listed = (repo.read_note(artifacts.NOTES, commit) or b"").splitlines()
        found[commit] = {
            artifacts.NOTES: {json.loads(line)["run"] for line in listed},
            artifacts.SUMMARY: set((repo.read_note(artifacts.SUMMARY, commit) or b"").decode().splitlines()),
            attest.ATTESTATIONS: {run_of(line) for line in attest.read(repo, commit)},
        }
    return found


def run_of(envelope: str) -> str:
    said = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    return str(said["predicate"]["runDetails"]["metadata"]["invocationId"])


def users_own(copy: Copy) -> tuple[object, ...]:
    """What is the user's: HEAD, branches, tags, index, configuration, hooks, the working tree."""
    heads = [line for line in copy.git("for-each-ref").splitlines() if "pantheon/" not in line]
    files = {p: p.read_bytes() for p in copy.root.rglob("*") if p.is_file() and ".git" not in p.parts}
    stubs = {p.name: (p.stat().st_mode, p.read_bytes()) for p in (copy.common / "hooks").iterdir()}
    state = [(copy.common / name).read_bytes() for name in ("HEAD", "config", "index")]
    return heads, files, stubs, state


@pytest.mark.parametrize("rewrite", CASES, ids=lambda case: case.__name__)
def test_every_run_is_found_again(field: Copy, tmp_path: Path, rewrite: Callable[[Copy], None]) -> None:
    follows, _ = CASES[rewrite]
    wanted = {item.run for item in prs.load(field.repo, 1).live}
    assert len(wanted) == 2
    with own_git(tmp_path):
        rewrite(field)
        before = noted(field)
        for kind in (artifacts.NOTES, attest.ATTESTATIONS):
            there = set().union(*(notes[kind] for notes in before.values()))
            assert there == (wanted if follows else set()), kind
        mine = users_own(field)
        dry = run_reindex(field, dry_run=True)
        assert noted(field) == before
        found = run_reindex(field)
        assert users_own(field) == mine
        assert [one.model_dump() for one in dry.carriers] == [one.model_dump() for one in found.carriers]
    after = noted(field)
    for kind in (artifacts.NOTES, attest.ATTESTATIONS):
        assert set().union(*(notes[kind] for notes in after.values())) == wanted, kind
        assert all(before[commit][kind] <= after[commit][kind] for commit in before), "nothing is lost"
    carrying = {commit for commit, notes in after.items() if notes[artifacts.NOTES]}
    summaries = {line for commit in carrying for line in after[commit][artifacts.SUMMARY]}
    assert {line for line in summaries if line.startswith("pantheon: accepted")}
    assert found.lost == ()
    assert found.unreadable == ()
    for commit in carrying:
        assert set(reindex.runs_of(field.repo, commit)) == after[commit][artifacts.NOTES]
    again = run_reindex(field)
    assert not again.wrote, again
    assert field.repo.fsck() == ()
    assert field.lines() == []


def test_what_a_statement_on_a_rewritten_commit_says(field: Copy, tmp_path: Path) -> None:
    """It speaks of the original, and verify says that it proves nothing there."""
    with own_git(tmp_path):
        cherry_pick(field)
        run_reindex(field)
    original, rewritten = items(field)[-1], field.ref("work")
    assert attest.read(field.repo, rewritten) == attest.read(field.repo, original)
    assert any("on commits that you rewrote: no proof there" in text for text in field.verify().said)


def test_a_squash_has_the_notes_of_all_its_runs(field: Copy, tmp_path: Path) -> None:
    with own_git(tmp_path):
        squash_merge_without_words(field)
        found = run_reindex(field)
    (one,) = [one for one in found.carriers if one.commit == field.ref("work")]
    assert set(one.runs) == {item.run for item in prs.load(field.repo, 1).live}
    assert set(one.runs.values()) == {"change"}
    text = field.git("notes", f"--ref={artifacts.SUMMARY}", "show", "work")
    assert text.count("pantheon: accepted in night 2026-03-01-1") == 2
    assert text.count("nodes: ") == 2


def test_what_is_in_no_branch_is_said(field: Copy, tmp_path: Path) -> None:
    with own_git(tmp_path):
        onto(field)
    found = run_reindex(field)
    assert {one.run for one in found.lost} == {item.run for item in prs.load(field.repo, 1).live}
    assert {one.pr for one in found.lost} == {1}


def test_a_run_that_is_not_here_is_said(field: Copy, tmp_path: Path) -> None:
    with own_git(tmp_path):
        field.git("switch", "-q", "main")
        field.git("commit", "-q", "--allow-empty", "-m", f"pasted\n\nPantheon-Run: {'ab' * 16}")
    assert run_reindex(field).unknown == {field.ref("main"): ("ab" * 16,)}


# --- notes refs that are gone or damaged -----------------------------------------------------------------------------


def all_notes(copy: Copy, ref: str) -> dict[str, bytes | None]:
    repo = Repo.discover(copy.root)
    names = copy.git("ls-tree", "-r", "--name-only", ref).split()
    return {commit: repo.read_note(ref, commit) for commit in (name.replace("/", "") for name in names)}


@pytest.mark.parametrize("ref", reindex.GROWING)
@pytest.mark.parametrize("collected", [False, True], ids=["objects-there", "objects-gone"])
def test_a_notes_ref_that_is_gone_comes_back(field: Copy, ref: str, collected: bool) -> None:
    before, tip = all_notes(field, ref), field.ref(ref)
    field.git("update-ref", "-d", ref)
    if collected:
        field.git("reflog", "expire", "--expire=now", "--all")
        field.git("gc", "-q", "--prune=now")
    found = run_reindex(field)
    assert not run_reindex(field).wrote
    if not collected:
        assert field.ref(ref) == tip
        assert [one.back_to for one in found.mended] == [tip]
        assert all_notes(field, ref) == before
    else:
        assert set(all_notes(field, ref)) == set(before)
        if ref == artifacts.NOTES:
            lines = {c: {json.loads(x)["oid"] for x in (n or b"").splitlines()} for c, n in before.items()}
            now = {c: {json.loads(x)["oid"] for x in (n or b"").splitlines()} for c, n in all_notes(field, ref).items()}
            assert now == lines
    assert field.lines() == []
    assert field.repo.fsck() == ()


@pytest.mark.parametrize("ref", reindex.GROWING)
def test_a_damaged_notes_ref_is_put_together_from_what_can_be_read(field: Copy, ref: str) -> None:
    before, tip = all_notes(field, ref), field.ref(ref)
    blob = field.git("ls-tree", "-r", ref).split()[2]
    path = provenance.object_path(field.common, blob)
    path.chmod(0o644)
    path.write_bytes(b"not an object")
    found = run_reindex(field)
    assert [one.ref for one in found.mended] == [ref]
    assert set(all_notes(field, ref)) == set(before)
    kept = [commit for commit, note in all_notes(field, ref).items() if note == before[commit]]
    hurt = field.git("ls-tree", "-r", tip).count(blob)  # some notes are the same
    assert len(kept) >= len(before) - hurt
    assert not run_reindex(field).wrote
    lost = [line for line in field.lines() if not line.startswith("object: ")]
    assert lost == []
    if ref == artifacts.NOTES:  # what the runs give is what was there, to the byte
        assert all_notes(field, ref) == before
        assert field.lines() == []


# --- the commands ----------------------------------------------------------------------------------------------------


def test_an_accept_by_rebase_takes_the_notes_along(field: Copy, tmp_path: Path) -> None:
    with own_git(tmp_path):
        provenance.write_and_commit(field.root, {"docs/other.txt": "other\n"}, "meanwhile")
        pull = prs.load(field.repo, 2)
        when, signer = DAYS[4], desk.signer(field.repo)
        review.accept(field.repo, pull, drop=(), strategy="rebase", when=when, signer=signer)
    landed = field.ref("main")
    assert landed != pull.live[-1].commit
    assert {one.run for one in artifacts.read_notes(field.repo, landed)} == {pull.live[-1].run}
    assert attest.read(field.repo, landed) == attest.read(field.repo, pull.live[-1].commit)
    assert not run_reindex(field).wrote
    assert field.lines() == []


def test_run_finds_the_runs_of_a_commit(field: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [item.run for item in prs.load(field.repo, 1).live]
    with own_git(tmp_path):
        cherry_pick(field)
        assert desk.run(field.repo, "work", None, as_json=True) == 0
        assert json.loads(capsys.readouterr().out)["id"] == wanted[-1]
        field.git("reset", "-q", "--hard", "HEAD~2")
        squash_again = field.git("log", "-1", "--format=%H", f"--grep={wanted[0]}", "refs/pantheon/prs/1/r1")
        field.git("merge", "-q", "--squash", squash_again.strip())
        field.git("commit", "-q", "-m", "no words")
    assert desk.run(field.repo, "work", None, as_json=False) == 0
    assert wanted[0] in capsys.readouterr().out
    with pytest.raises(RepositoryError, match="no commit of that name carries one"):
        desk.run(field.repo, "work~1", None, as_json=False)


def test_reindex_says_what_it_found_and_what_it_could_not(
    field: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with own_git(tmp_path):
        cherry_pick(field)
    repo, signer = field.repo, desk.signer(field.repo)
    assert notary.reindex(repo, DAYS[3], signer, dry_run=True, as_json=False) == 0
    said = capsys.readouterr().out
    assert "1 run found by its trailer" in said
    assert "notes written: artifacts, summary, attestations" in said
    assert said.endswith("dry run: nothing was written\n")
    assert notary.reindex(repo, DAYS[3], signer, dry_run=False, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["wrote"] is True
    assert notary.reindex(repo, DAYS[3], signer, dry_run=False, as_json=False) == 0
    assert capsys.readouterr().out.endswith("every note is in its place: nothing is written\n")
    field.git("switch", "-q", "--detach", "work~2")
    field.git("branch", "-q", "-D", "work")
    assert notary.reindex(repo, DAYS[3], signer, dry_run=False, as_json=False) == 1
    assert "in no branch: docs/" in capsys.readouterr().out
