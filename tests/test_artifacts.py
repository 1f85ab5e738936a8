"""Run refs and notes: what is stored comes back, survives gc, and reads with plain git."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import MakeRepo, dulwich_note, git
from hypothesis import given
from hypothesis import strategies as st

from pantheon import artifacts
from pantheon.errors import RefMoved, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import Item, Outcome, Run

WHEN = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def repo(make_repo: MakeRepo) -> Repo:
    return Repo.discover(make_repo())


def a_run(repo: Repo, run_id: str = "ab12cd34", target: str = "a.md") -> Run:
    item = Item(id="1", task="t", flow="docops", target=target, blob="0" * 40, findings=())
    return Run(id=run_id, night="n", item=item, base=repo.head().commit, outcome=Outcome.ACCEPTED, seconds=1.5)


def a_result(repo: Repo, text: bytes = b"x") -> str:
    head = repo.head().commit
    tree = repo.write_tree(repo.tree_of(head), {"r": (0o100644, repo.write_blob(text))})
    return repo.commit(tree, [head], "result", WHEN)


def test_a_run_comes_back_and_survives_gc(repo: Repo) -> None:
    result = a_result(repo)
    files = {"doc": {"output.json": b"{}", "raw": b"\xff"}, "merge": {"diff.patch": b"x" * 3000}}
    signer = Signer.load_or_create(repo.common_dir / "pantheon/keys")
    run, listed = artifacts.store_run(repo, a_run(repo), files, result, WHEN, signer)
    assert repo.refs(artifacts.RUNS) == {"refs/pantheon/runs/ab/ab12cd34": run.run_commit}
    assert repo.commit_info(run.run_commit or "").parents == (run.base, result)
    assert run.result == result
    git("reflog", "expire", "--expire=now", "--all", cwd=repo.root)
    git("gc", "-q", "--prune=now", cwd=repo.root)
    again = Repo.discover(repo.root)
    assert artifacts.load_run(again, run.id) == run
    assert list(artifacts.list_runs(again)) == [run]
    assert {(a.node, a.name): a.content for a in listed} == {
        ("doc", "output.json"): "{}",
        ("doc", "raw"): None,
        ("merge", "diff.patch"): None,
    }
    for artifact in listed:
        data = artifacts.read_artifact(again, run.id, artifact.node, artifact.name)
        assert data == files[artifact.node][artifact.name] == again.read_blob(artifact.oid)
        assert (artifact.size, artifact.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert json.loads(git("show", f"{run.run_commit}:run.json", cwd=repo.root))["id"] == run.id
    assert again.fsck() == ()
    with pytest.raises(RefMoved):
        artifacts.store_run(repo, a_run(repo), {}, None, WHEN)


def test_a_failed_run_has_the_base_alone(repo: Repo) -> None:
    failed = a_run(repo, target="b\udcff.md").model_copy(update={"outcome": Outcome.FAILED, "reason": "checks\n"})
    run, _ = artifacts.store_run(repo, failed, {}, None, WHEN)
    assert repo.commit_info(run.run_commit or "").parents == (run.base,)
    assert artifacts.load_run(repo, run.id) == run


def test_a_large_artifact_is_clipped_and_its_full_digest_kept(repo: Repo) -> None:
    data = b"head" + bytes(3 << 20) + b"tail"
    _, (artifact,) = artifacts.store_run(repo, a_run(repo), {"n": {"log": data}}, None, WHEN)
    assert (artifact.size, artifact.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    kept = artifacts.read_artifact(repo, "ab12cd34", "n", "log")
    assert len(kept) <= artifacts.MAX_BYTES
    assert kept.startswith(b"head")
    assert kept.endswith(b"tail")
    assert b"bytes left out here" in kept


@given(st.integers(0, 5000))
def test_clip_keeps_what_fits(over: int) -> None:
    data = bytes(artifacts.MAX_BYTES + over)
    kept = artifacts.clip(data)
    assert len(kept) <= artifacts.MAX_BYTES
    assert (kept == data) == (over == 0)


def test_notes_list_artifacts_one_line_each(repo: Repo) -> None:
    results = [a_result(repo, b"%d" % number) for number in range(3)]
    notes = {}
    for number, result in enumerate(results):
        run = a_run(repo, f"{number}" * 8)
        files = {"n": {"ü": "a\r\nb\u2028\x85".encode(), "b": b""}}
        _, notes[result] = artifacts.store_run(repo, run, files, result, WHEN)
    tip = artifacts.note_runs(repo, notes, WHEN)
    assert len(repo.history(artifacts.NOTES, 9)) == 1
    assert artifacts.note_run(repo, notes[results[0]], results[0], WHEN) == tip
    for result in results:
        shown = git("notes", "--ref=pantheon/artifacts", "show", result, cwd=repo.root)
        assert shown.encode() == dulwich_note(repo, artifacts.NOTES, result)
        lines = [json.loads(line) for line in shown.rstrip("\n").split("\n")]
        assert [line["name"] for line in lines] == ["b", "ü"]
        assert all(list(line) == sorted(line) for line in lines)
        assert artifacts.read_notes(repo, result) == notes[result]
    assert artifacts.read_notes(repo, repo.head().commit) == []


def test_summaries_are_replaced_and_shown_by_git_log(repo: Repo) -> None:
    head = repo.head().commit
    artifacts.summarise(repo, {head: "first"}, WHEN)
    artifacts.summarise(repo, {head: "accepted by two\n\n"}, WHEN)
    shown = git("log", "-1", "--notes=refs/notes/pantheon/summary", "--format=%N", cwd=repo.root)
    assert shown == "accepted by two\n\n"


def test_bad_names_and_broken_stores_say_so(repo: Repo, tmp_path: Path) -> None:
    for bad in ("", "../../heads/main", "AB12CD34", "ab", "g" * 8, "ab12cd34\n"):
        with pytest.raises(RepositoryError, match="not a run id"):
            artifacts.load_run(repo, bad)
    with pytest.raises(RepositoryError, match="no such run"):
        artifacts.load_run(repo, "ffffffff")
    for name in ("../x", ".git", "a\nb"):
        with pytest.raises(RepositoryError):
            artifacts.store_run(repo, a_run(repo), {"n": {name: b""}}, None, WHEN)
    artifacts.store_run(repo, a_run(repo), {}, None, WHEN)
    with pytest.raises(RepositoryError, match="no such artifact"):
        artifacts.read_artifact(repo, "ab12cd34", "n", "none")
    for number, content in enumerate((b"{", b'{"x": 1}', b"\xff", None)):
        changes = {"run.json" if content is not None else "x": (0o100644, repo.write_blob(content or b""))}
        name = artifacts.run_ref(f"0000000{number}")
        repo.move_ref(name, repo.commit(repo.write_tree(None, changes), [], "r", WHEN), None, "r")
        with pytest.raises(RepositoryError, match="cannot read a run"):
            artifacts.load_run(repo, f"0000000{number}")
    repo.append_notes(artifacts.NOTES, {repo.head().commit: ["not json"]}, "n", WHEN)
    with pytest.raises(RepositoryError, match="artifact note"):
        artifacts.read_notes(repo, repo.head().commit)
