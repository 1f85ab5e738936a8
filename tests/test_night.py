"""A whole night with the scripted engine on real git: frozen queue to local PR, and everything a person does next."""

from __future__ import annotations

import asyncio
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Bench, MakeRepo, dulwich_note, git

from pantheon import artifacts, attest, desk, flight, nights, process, prs, review
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.errors import EngineError, RepositoryError, SandboxError
from pantheon.git import Repo
from pantheon.records import NightReport, Outcome, PullState
from pantheon.survey import survey

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes"
slug: "tidy"
status: "ready"
labels: ["docops"]
pantheon:
  scope: ["docs/*.md"]
  acceptance:
    - run: "frontmatter"
    - run: "links"
---
Please.
"""
NOTES = {
    "docs/tides.md": "# Tide tables\n\nTide tables are loaded every night from the harbour office. "
    "The loader tries twice and then waits for the morning. See [the boats](<--title Boats.md>).\n",
    "docs/--title Boats.md": "# Boats in the harbour\n\nEvery boat in the harbour has a berth with a number. "
    "The berth is painted on the quay. Back to [tides](tides.md).\n",
    "docs/ropes.md": "---\ntitle: 'Ropes and knots'\nmine: 4930e12   # kept\n---\n# Ropes and knots\n\n"
    "A rope that holds a boat is looked at every spring. A worn rope is cut and thrown away.\n",
    "docs/oven.md": "# Care of the oven\n\nThe oven in the boathouse is cleaned every Friday. "
    "Bread is baked there on Saturday morning for the crew.\n",
}


def build(make_repo: MakeRepo, **more: str) -> Repo:
    root = make_repo({**NOTES, "docs/tasks/tidy.md": TASK, **more})
    return Repo.discover(root)


def freeze(repo: Repo, window: int = 4, widest: int = 0) -> nights.Frozen:
    found = survey(repo, repo.head().commit)
    return nights.freeze(
        repo,
        found,
        desk.make_plan(repo, found),
        budget_s=300,
        engine="scripted",
        model="scripted",
        window=window,
        widest=widest,
        now=WHEN,
        signer=desk.signer(repo),
    )


def play(
    repo: Repo,
    frozen: nights.Frozen,
    engine: ScriptedEngine,
    work: Path,
    proof: EgressProof = CLOSED,
    progress: runner.Progress | None = None,
) -> NightReport:
    progress = progress or runner.Progress()
    return asyncio.run(
        runner.run(
            repo, frozen, engine, proof, work=work, signer=desk.signer(repo), now=lambda: WHEN, progress=progress
        )
    )


def night(repo: Repo, tmp_path: Path, engine: ScriptedEngine | None = None) -> NightReport:
    return play(repo, freeze(repo), engine or ScriptedEngine(), tmp_path / "work")


def test_a_night_ends_in_a_local_pr_and_touches_nothing_of_the_user(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    (repo.root / "docs/ropes.md").write_text("half-finished work\n")
    (repo.root / "new.md").write_text("untracked\n")
    git("stash", "list", cwd=repo.root)
    look = [
        ("status", "--porcelain"),
        ("diff",),
        ("rev-parse", "HEAD"),
        ("for-each-ref", "refs/heads/main"),
        ("stash", "list"),
    ]
    before = [git(*args, cwd=repo.root) for args in look]
    index = (repo.git_dir / "index").read_bytes()
    report = night(repo, tmp_path)
    assert [run.outcome for run in report.runs] == [Outcome.ACCEPTED] * 4, [run.reason for run in report.runs]
    assert [git(*args, cwd=repo.root) for args in look] == before
    assert (repo.git_dir / "index").read_bytes() == index
    (pull,) = report.prs
    assert pull.branch == "pantheon/tidy/1"
    assert git("rev-parse", pull.branch, cwd=repo.root).strip() == pull.tip
    assert git("fsck", "--strict", "--no-dangling", cwd=repo.root) == ""
    assert git("worktree", "list", cwd=repo.root).count("\n") == 1
    names = git("ls-tree", "-r", "--name-only", pull.tip, "docs/", cwd=repo.root)
    assert "docs/--title" not in names
    assert "boats" in git("show", f"{pull.tip}:docs/tides.md", cwd=repo.root)
    ropes = git("show", f"{pull.tip}:docs/ropes.md", cwd=repo.root)
    assert "title: 'Ropes and knots'\n" in ropes
    assert "mine: 4930e12   # kept\n" in ropes
    assert 'status: "done"' in git("show", f"{pull.tip}:docs/tasks/tidy.md", cwd=repo.root)


def test_every_commit_is_signed_and_its_notes_hold_the_artifacts(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    report = night(repo, tmp_path)
    signers = repo.common_dir / "pantheon" / "allowed_signers"
    for item in report.prs[0].items:
        git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", item.commit, cwd=repo.root)
        if not item.run:
            continue
        note = git("notes", f"--ref={artifacts.NOTES}", "show", item.commit, cwd=repo.root)
        listed = [json.loads(line) for line in note.splitlines()]
        assert {"frontmatter/llm_prompt.txt", "checks/diff.patch", "review-a/review.json"} <= {
            f"{each['node']}/{each['name']}" for each in listed
        }
        for each in listed:
            data = artifacts.read_artifact(repo, item.run, each["node"], each["name"])
            assert len(data) == each["size"]
        assert dulwich_note(repo, artifacts.NOTES, item.commit) == note.encode()
        trailers = git("log", "-1", "--format=%(trailers:only)", item.commit, cwd=repo.root)
        assert f"Pantheon-Run: {item.run}" in trailers


def test_accept_merges_with_the_users_git_and_records_decisions(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    pull = night(repo, tmp_path).prs[0]
    dropped = next(item for item in pull.items if item.target == "docs/oven.md")
    done = review.accept(repo, pull, drop=["docs/oven.md"], strategy="merge", when=WHEN, signer=desk.signer(repo))
    assert done.state is PullState.ACCEPTED
    assert git("log", "-1", "--format=%an %s", cwd=repo.root).startswith("A U Thor Merge PR 1") or "Merge PR 1" in git(
        "log", "-1", "--format=%s", cwd=repo.root
    )
    assert "uuid" not in (repo.root / "docs/oven.md").read_text()
    assert "uuid" in (repo.root / "docs/tides.md").read_text()
    assert 'status: "ready"' in (repo.root / "docs/tasks/tidy.md").read_text()
    assert git("status", "--porcelain", cwd=repo.root) == ""
    assert '"verdict":"dropped"' in git("notes", f"--ref={prs.DECISIONS}", "show", dropped.commit, cwd=repo.root)
    with pytest.raises(RepositoryError, match="closed"):
        review.accept(repo, done, drop=[], strategy="merge", when=WHEN, signer=desk.signer(repo))
    assert "docs/oven.md" not in [item.target for item in desk.make_plan(repo, survey(repo, repo.head().commit)).items]


def test_reject_is_remembered_and_a_dirty_overlap_is_refused(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    pull = night(repo, tmp_path).prs[0]
    (repo.root / "docs/oven.md").write_text("mine\n")
    with pytest.raises(RepositoryError, match="oven"):
        review.accept(repo, pull, drop=[], strategy="merge", when=WHEN, signer=desk.signer(repo))
    assert (repo.root / "docs/oven.md").read_text() == "mine\n"
    git("checkout", "-q", "docs/oven.md", cwd=repo.root)
    left = review.reject(
        repo, prs.load(repo, 1), items=["docs/oven.md"], reason="no", when=WHEN, signer=desk.signer(repo)
    )
    assert left.state is PullState.OPEN
    assert "docs/oven.md" not in git("diff", "--name-only", "main", left.branch, cwd=repo.root)
    done = review.reject(repo, prs.load(repo, 1), items=[], reason="all", when=WHEN, signer=desk.signer(repo))
    assert done.state is PullState.REJECTED
    planned = desk.make_plan(repo, survey(repo, repo.head().commit))
    assert planned.items == ()
    assert sum("you rejected this" in note for note in planned.notes) == 4


def test_a_reviewer_that_finds_another_title_stops_the_item(make_repo: MakeRepo, tmp_path: Path) -> None:
    def wrong(prompt: str, schema: dict[str, object]) -> str | None:
        properties = schema["properties"]
        assert isinstance(properties, dict)
        if "Heading: Care of the oven" not in prompt.rpartition("<user>")[2] or properties["tool"] != {
            "const": "match_title"
        }:
            return None
        other = next(title for title in properties["title"]["enum"] if title != "Care of the oven")
        return json.dumps({"tool": "match_title", "title": other})

    repo = build(make_repo)
    report = night(repo, tmp_path, ScriptedEngine(wrong))
    failed = [run for run in report.runs if run.outcome is Outcome.FAILED]
    assert [(run.item.target, run.node) for run in failed] == [("docs/oven.md", "merge")], [
        run.reason for run in failed
    ]
    assert "review.peer-a@2 says fail: wrong title" in failed[0].reason
    assert "docs/oven.md" not in [item.target for item in report.prs[0].items]
    assert failed[0].run_commit is not None
    assert git("notes", f"--ref={artifacts.NOTES}", "show", failed[0].run_commit, cwd=repo.root)


def test_a_persons_note_reaches_the_agent_that_tries_again(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    (pull,) = night(repo, tmp_path).prs
    oven = next(item for item in pull.items if item.target == "docs/oven.md")
    note = "Say what is baked."
    review.retry(repo, pull, items=[oven.item], note=note, when=WHEN, signer=desk.signer(repo))
    again = night(repo, tmp_path / "again")
    assert [run.item.target for run in again.runs] == ["docs/oven.md"]
    prompts = artifacts.read_artifact(repo, again.runs[0].id, "frontmatter", "llm_prompt.txt").decode()
    assert prompts.count(f"Mind this: {note}") == prompts.count("<user>") > 0
    first = artifacts.read_artifact(repo, oven.run, "frontmatter", "llm_prompt.txt").decode()
    assert "Mind this" not in first


def test_a_night_that_was_interrupted_is_resumed_and_nothing_runs_twice(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    frozen = freeze(repo)

    asked: list[str] = []

    def dies(prompt: str, schema: dict[str, object]) -> str | None:
        asked.append(prompt)
        if len(asked) > 20:
            raise EngineError("the machine went down")
        return None

    engine = ScriptedEngine(dies, window=1)
    engine.alive = lambda: len(asked) <= 20  # type: ignore[method-assign]
    with pytest.raises(EngineError):
        play(repo, frozen, engine, tmp_path / "one")
    assert nights.unfinished(repo) == frozen.night.id
    ended = {run.id for run in artifacts.list_runs(repo)}
    again = nights.thaw(repo, frozen.night.id, lambda base: survey(repo, base))
    assert {run.id for run in again.runs} == ended
    report = play(repo, again, ScriptedEngine(), tmp_path / "two")
    assert len({run.id for run in report.runs}) == len(report.runs) == 4
    assert [run.outcome for run in report.runs].count(Outcome.ACCEPTED) == 4
    assert len(report.prs) == 1
    assert nights.unfinished(repo) is None


@pytest.mark.parametrize(("widest", "most"), [(0, 1), (3, 3)])
def test_the_window_grows_while_nobody_waits_for_the_engine_and_as_far_as_the_night_says(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widest: int, most: int
) -> None:
    monkeypatch.setattr(flight, "LOOK_S", 0.0)  # whenever an item ends: the clock of the test
    more = {f"docs/{name}.md": NOTES["docs/oven.md"].replace("oven", name) for name in ("pans", "jugs", "mugs", "pots")}
    repo = build(make_repo, **more)
    frozen = freeze(repo, window=1, widest=widest)
    assert nights.load_night(repo, frozen.night.id).widest == widest, "one that is resumed goes on like that"
    flying: list[int] = []
    progress = runner.Progress(changed=lambda state: flying.append(state.running))
    report = play(repo, frozen, ScriptedEngine(window=8), tmp_path / "work", progress=progress)
    assert max(flying) == most
    assert {sample.window for sample in report.timeline} <= set(range(1, most + 1))
    assert report.timeline[-1].done == len(report.runs) + len(report.canaries), "the last look is at how it ended"
    assert len(report.runs) == len(NOTES) + len(more)


def test_checkpoints_never_write_the_queue_again_and_are_a_small_part_of_the_time(
    make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = build(make_repo)
    frozen = freeze(repo)
    first = {path: repo.entries(frozen.ref_at or "")[path].oid for path in ("queue.jsonl", "tasks.jsonl", "notes.json")}
    written: list[bytes] = []
    write = Repo.write_blob

    def counted(self: Repo, data: bytes) -> str:
        written.append(data)
        return write(self, data)

    monkeypatch.setattr(Repo, "write_blob", counted)
    for _ in range(3):
        nights.checkpoint(repo, frozen, {}, "checkpoint", WHEN, desk.signer(repo))
    assert len(written) == 3 * len(("night.json", "journal.jsonl"))
    entries = repo.entries(frozen.ref_at or "")
    assert first == {path: entries[path].oid for path in first}
    assert nights.thaw(repo, frozen.night.id, lambda base: survey(repo, base)).items == frozen.items
    assert runner.rest_s(0.01) == runner.CHECKPOINT_S
    assert runner.rest_s(3.0) == 300.0, "a hundredth of the time"


def test_an_item_asks_as_often_with_many_in_flight_as_alone(make_repo: MakeRepo, tmp_path: Path) -> None:
    """Nothing is asked but what the items ask: no request warms anything up."""
    asked: list[list[str]] = []
    for number, window in enumerate((1, 4)):
        asked.append([])

        def hears(prompt: str, schema: dict[str, object], heard: list[str] = asked[-1]) -> str | None:
            heard.append(prompt)
            return None

        repo = Repo.discover(make_repo({**NOTES, "docs/tasks/tidy.md": TASK}, name=f"repo-{number}"))
        report = play(repo, freeze(repo, window=window), ScriptedEngine(hears), tmp_path / f"work-{number}")
        calls = [metrics.model_calls for run in (*report.runs, *report.canaries) for metrics in run.metrics.values()]
        assert sum(calls) == len(asked[-1])
    assert sorted(asked[0]) == sorted(asked[1])


def test_a_bug_met_by_one_item_does_not_end_the_others(make_repo: MakeRepo, tmp_path: Path) -> None:
    def breaks(prompt: str, schema: dict[str, object]) -> str | None:
        if "Note: docs/oven.md" in prompt.rpartition("<user>")[2]:
            raise KeyError("a bug")
        return None

    report = night(build(make_repo), tmp_path, ScriptedEngine(breaks))
    assert {run.item.target: run.outcome for run in report.runs}["docs/oven.md"] is Outcome.FAILED
    assert [run.outcome for run in report.runs].count(Outcome.ACCEPTED) == 3
    assert any(run.reason.startswith("bug: KeyError") for run in report.runs)


def test_an_open_network_means_no_night(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo)
    with pytest.raises(SandboxError, match="network"):
        play(repo, freeze(repo), ScriptedEngine(), tmp_path / "work", CLOSED.model_copy(update={"closed": False}))


def test_two_nights_at_once_are_refused(make_repo: MakeRepo) -> None:
    repo = build(make_repo)
    with nights.alone(repo), pytest.raises(RepositoryError, match="another one"), nights.alone(repo):
        pass


def test_stacks_are_split_at_their_size(make_repo: MakeRepo, tmp_path: Path) -> None:
    settings = "schema_version = 1\n[night]\nmax_items_per_pr = 2\n"
    repo = build(make_repo, **{".pantheon/pantheon.toml": settings})
    report = night(repo, tmp_path)
    assert sorted(len([i for i in pull.items if i.run]) for pull in report.prs) == [2, 2]
    for pull in report.prs:
        subprocess.run(["git", "merge", "-q", "--no-edit", pull.branch], cwd=repo.root, check=True)


@pytest.mark.live
def test_the_real_model_brings_an_item_to_a_local_pr(make_repo: MakeRepo, tmp_path: Path, live: Bench) -> None:
    repo = build(make_repo)
    frozen = freeze(repo)
    when = {"signer": desk.signer(repo), "now": lambda: WHEN, "progress": runner.Progress()}
    report = live.run(runner.run(repo, frozen, live.engine, CLOSED, work=tmp_path / "work", **when))  # type: ignore[arg-type]
    accepted = [run for run in report.runs if run.outcome is Outcome.ACCEPTED]
    assert accepted, [run.reason for run in report.runs]
    assert len(report.prs) == 1
    assert report.tokens_per_s > 0
    assert report.prefix_hit_rate > 0
    assert git("fsck", "--strict", "--no-dangling", cwd=repo.root) == ""


def test_what_a_night_starts_opens_and_writes_for_its_items(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts, since time cannot be asserted: one process for all packaged checks, none of git's for an item, nothing
    exported; of each run a ref and two notes."""
    repo = build(make_repo)
    frozen = freeze(repo)
    started: list[str] = []
    moved: list[str] = []
    launch, swap = process._Launch.__init__, Repo._swap

    def launched(self: process._Launch, argv: list[str], **named: object) -> None:
        started.append(next((word for word in argv if word.startswith("pantheon.")), argv[0]))
        launch(self, argv, **named)  # type: ignore[arg-type]

    def swapped(self: Repo, name: str, *more: str | None) -> None:
        moved.append(name)
        swap(self, name, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(process._Launch, "__init__", launched)
    monkeypatch.setattr(Repo, "_swap", swapped)
    monkeypatch.setattr(Repo, "export", None)
    found = play(repo, frozen, ScriptedEngine(), tmp_path / "work")
    assert len(found.runs) == 4
    assert sorted(started) == ["git", "git", "pantheon.tools.worker"]  # git: once a night, for the base's dates
    assert sum(name.startswith(artifacts.RUNS) for name in moved) == len(found.runs)
    assert moved.count(artifacts.NOTES) == moved.count(attest.ATTESTATIONS) == len(found.runs)
    assert moved.count(artifacts.SUMMARY) == 1
