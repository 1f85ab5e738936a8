"""`git pantheon gc`: what old nights leave goes, what somebody needs stays, and `verify` can tell the two apart."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import git, write_files
from hypothesis import given
from hypothesis import strategies as st
from provenance import own_git

from pantheon import archive, artifacts, cleanup, collect, desk, faults, nights, past, prs, retention, review
from pantheon import night as runner
from pantheon.config import UserLimits
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.errors import RepositoryError
from pantheon.git import Repo
from pantheon.records import NightReport, PullItem, PullRequest, PullState
from pantheon.retention import NightSeen, decide
from pantheon.survey import survey
from pantheon.verify import Verdict, load_trust, verify

START = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes"
slug: "tidy"
status: "ready"
labels: ["docops"]
pantheon:
  scope: ["docs/*.md"]
  standing: true
---
Please.
"""
NOTE = "# {name} in the harbour\n\nEvery {name} in the harbour has a berth with a number, painted on the quay.\n"


# --- deciding --------------------------------------------------------------------------------------------------------


def pull(number: int, state: PullState, *runs: str, dropped: Sequence[str] = ()) -> PullRequest:
    items = [PullItem(item=f"i{run}", run=run, target=run, commit="c" * 40, dropped=run in dropped) for run in runs]
    return PullRequest(
        id=number, task="t", title="T", night="n", branch=f"pantheon/t/{number}", onto="main", base="b" * 40,
        tip="c" * 40, state=state, created_at=START, items=tuple(items),
    )  # fmt: skip


def test_the_newest_nights_stay_whole_and_pins_hold_the_old_ones() -> None:
    seen = [NightSeen(id=name, ended=name != "open") for name in ("1", "2", "open", "3", "4", "5")]
    runs = {f"{night}{letter}": night for night in ("1", "2", "open", "3", "4", "5") for letter in "ab"}
    pulls = [
        pull(1, PullState.ACCEPTED, "1a", "1b", dropped=["1b"]),
        pull(2, PullState.REJECTED, "2a"),
        pull(3, PullState.OPEN, "3a", "3b", dropped=["3b"]),
    ]
    found = decide(seen, runs, pulls, {"2b"}, (), keep_nights=1, keep_closed=1)
    assert found.runs == ("1b", "2a", "4a", "4b")
    assert found.nights == ("4",)
    assert found.pulls == (1,)
    assert found.pinned == {"accepted": 1, "in an open PR": 2, "mined": 1}
    assert decide(seen, runs, pulls, (), (), keep_nights=6, keep_closed=2).runs == ()


def test_runs_of_a_night_that_went_before_go_after_it() -> None:
    seen = [NightSeen(id="9", ended=True)]
    found = decide(seen, {"x": "1", "y": "unknown", "z": "9"}, [], (), {"1"}, keep_nights=1, keep_closed=0)
    assert (found.runs, found.nights) == (("x",), ())


@given(
    st.integers(0, 12),
    st.integers(1, 12),
    st.sets(st.integers(0, 11)),
    st.lists(st.sampled_from(list(PullState)), max_size=12),
    st.integers(0, 12),
)
def test_nothing_that_is_needed_ever_goes(
    count: int, keep: int, unended: set[int], states: list[PullState], keep_closed: int
) -> None:
    seen = [NightSeen(id=str(n), ended=n not in unended) for n in range(count)]
    runs = {f"r{n}": str(n) for n in range(count)}
    pulls = [pull(n, state, f"r{n}") for n, state in enumerate(states)]
    found = decide(seen, runs, pulls, (), (), keep_nights=keep, keep_closed=keep_closed)
    assert set(map(str, range(max(0, count - keep), count))).isdisjoint(found.nights)
    for one in pulls:
        if one.state not in retention.CLOSED or one.state is PullState.ACCEPTED:
            assert f"r{one.id}" not in found.runs
        assert one.state in retention.CLOSED or one.id not in found.pulls
    for run, night in runs.items():
        assert run in found.runs or night not in found.nights, "a run that stays keeps the night that it is verified by"
        assert night not in map(str, unended) or run not in found.runs


# --- doing -----------------------------------------------------------------------------------------------------------


class Ground:
    """A repository with a night a day, each of which has one new note to tidy."""

    def __init__(self, root: Path, work: Path) -> None:
        self.repo, self.work, self.day = Repo.discover(root), work, 0

    @property
    def when(self) -> datetime:
        return START + timedelta(days=self.day)

    def night(self, *names: str, engine: ScriptedEngine | None = None) -> NightReport:
        self.day += 1
        for name in names:
            (self.repo.root / f"docs/{name}.md").write_text(NOTE.format(name=name))
        git("add", "-A", cwd=self.repo.root)
        git("commit", "-q", "--allow-empty", "-m", "notes", cwd=self.repo.root)
        found = survey(self.repo, self.repo.head().commit)
        key = desk.signer(self.repo)
        frozen = nights.freeze(
            self.repo, found, desk.make_plan(self.repo, found), budget_s=300, engine="scripted", model="scripted",
            window=4, now=self.when, signer=key, sowing=False,
        )  # fmt: skip
        return asyncio.run(
            runner.run(
                self.repo, frozen, engine or ScriptedEngine(), CLOSED, work=self.work / str(self.day), signer=key,
                now=lambda: self.when, progress=runner.Progress(),
            )
        )  # fmt: skip

    def say(self, number: int, verb: str) -> None:
        one, key = prs.load(self.repo, number), desk.signer(self.repo)
        if verb == "accept":
            review.accept(self.repo, one, drop=[], strategy="merge", when=self.when, signer=key)
        elif verb == "undo":
            review.undo(self.repo, one, when=self.when, signer=key)
        else:
            review.reject(self.repo, one, items=[], reason="not so", when=self.when, signer=key)

    def collect(self, keep: int, closed: int = 0, dry: bool = False) -> collect.Gathering:
        key = desk.signer(self.repo)
        return collect.collect(self.repo, keep_nights=keep, keep_closed=closed, when=self.when, signer=key, dry=dry)

    def verify(self) -> Verdict:
        found = verify(self.repo.common_dir, load_trust(self.repo.common_dir), "all")
        assert found.faults == ()
        assert self.repo.fsck() == ()
        return found


def fails(prompt: str, schema: dict[str, object]) -> str | None:
    return "not what was asked for" if "oven" in prompt.rpartition("<user>")[2] else None


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five nights: accepted; rejected; with a failed item beside an accepted one; still open; the newest."""
    root = tmp_path_factory.mktemp("lived") / "repo"
    with own_git(tmp_path_factory.mktemp("home")):
        root.mkdir()
        git("init", "-q", "-b", "main", cwd=root)
        write_files(root, {"docs/tasks/tidy.md": TASK})
        git("add", "-A", cwd=root)
        git("commit", "-q", "-m", "first", cwd=root)
        ground = Ground(root, tmp_path_factory.mktemp("work"))
        ground.night("boat")
        ground.say(1, "accept")
        ground.night("rope")
        ground.say(2, "reject")
        ground.night("oven", "tide", engine=ScriptedEngine(fails))
        ground.say(3, "accept")
        ground.night("quay")
        ground.night("sail")
    return root


@pytest.fixture
def ground(lived: Path, tmp_path: Path) -> Ground:
    root = tmp_path / "repo"
    shutil.copytree(lived, root)
    found = Ground(root, tmp_path / "work")
    found.day = 10
    return found


def refs(repo: Repo) -> dict[str, str]:
    return {name: oid for prefix in ("refs/pantheon/", "refs/notes/") for name, oid in repo.refs(prefix).items()}


def test_what_nobody_needs_goes_and_everything_else_still_verifies(ground: Ground) -> None:
    repo = ground.repo
    before, runs = refs(repo), {run.id: run for run in artifacts.list_runs(repo)}
    users = git("for-each-ref", "refs/heads/main", cwd=repo.root), git("status", "--porcelain", cwd=repo.root)
    ground.verify()
    dry = ground.collect(keep=1, dry=True)
    assert refs(repo) == before, "a dry run takes nothing"
    found = ground.collect(keep=1)
    assert found.model_copy(update={"dry": True, "packed": ""}) == dry
    assert found.nights == ("2026-03-03-1",), "the first and the third hold what was accepted, the fourth is open"
    assert (found.runs, found.pulls, found.old) == (2, (1, 2, 3), 4)
    assert found.pinned == {"accepted": 2, "in an open PR": 2}
    assert found.bytes is not None and found.bytes > 1000
    left = {run.id for run in artifacts.list_runs(repo)}
    gone = [runs[name] for name in runs.keys() - left]
    assert sorted(run.item.target for run in gone) == ["docs/oven.md", "docs/rope.md"]
    for run in gone:
        assert repo.read_note(artifacts.NOTES, run.noted_on) is None
        assert repo.read_note("refs/notes/pantheon/attestations", run.noted_on) is None
    assert not [name for name in repo.refs(prs.PRS) if not name.startswith((f"{prs.PRS}4/", f"{prs.PRS}5/"))]
    told = ground.verify()
    assert "3 refs were taken away by `git pantheon gc`, as refs/pantheon/archive/ tells" in told.said
    git("gc", "--quiet", "--prune=now", cwd=repo.root)
    for run in gone:
        git("cat-file", "-e", run.run_commit or "", cwd=repo.root, ok=(1, 128))
    ground.verify()
    assert (git("for-each-ref", "refs/heads/main", cwd=repo.root), git("status", "--porcelain", cwd=repo.root)) == users
    again = ground.collect(keep=1)
    assert again.nothing
    assert len(archive.collected(repo)) == 3, "told once"


def test_the_bytes_that_it_says_are_those_that_go(ground: Ground) -> None:
    repo = ground.repo
    git("gc", "--quiet", "--prune=now", cwd=repo.root)
    found = ground.collect(keep=1, closed=9)
    kept = git("rev-list", "--objects", "--all", "--no-object-names", cwd=repo.root).split()
    packed = git("cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objectsize:disk)", cwd=repo.root)
    rest = [int(line.split()[1]) for line in packed.splitlines() if line.split()[0] not in kept]
    assert (found.objects, found.bytes) == (len(rest), sum(rest))


def test_closed_prs_leave_their_refs_and_are_found_as_before(ground: Ground) -> None:
    repo = ground.repo
    seen, history = prs.load_all(repo), [prs.history(repo, n) for n in (1, 2, 3)]
    words = [repo.read_note(prs.DECISIONS, item.commit) for one in seen for item in one.items]
    plan = desk.make_plan(repo, survey(repo, repo.head().commit))
    assert any("you rejected this" in note for note in plan.notes)
    ground.collect(keep=1)
    git("gc", "--quiet", "--prune=now", cwd=repo.root)
    assert prs.load_all(repo) == seen
    assert [prs.history(repo, n) for n in (1, 2, 3)] == history
    assert [repo.read_note(prs.DECISIONS, item.commit) for one in seen for item in one.items] == words
    assert desk.make_plan(repo, survey(repo, repo.head().commit)) == plan, "what was rejected is not offered again"
    report = ground.night("mast")
    assert [one.id for one in report.prs] == [6], "no number is used twice"
    assert len({one.branch for one in prs.load_all(repo)}) == 6
    ground.verify()


def test_a_retired_pr_can_be_undone_and_retires_again(ground: Ground) -> None:
    ground.collect(keep=1)
    ground.say(2, "undo")
    assert prs.load(ground.repo, 2).state is PullState.OPEN
    assert f"{prs.PRS}2/meta" in ground.repo.refs(prs.PRS)
    ground.verify()
    assert ground.collect(keep=1).pulls == (), "it is open"
    ground.say(2, "reject")
    assert ground.collect(keep=1).pulls == (2,)
    assert [operation for operation, _ in prs.history(ground.repo, 2)][-2:] == ["undo", "rejected"]
    ground.verify()


def test_what_statistics_read_is_there_or_not_missed(ground: Ground) -> None:
    repo, limits = ground.repo, UserLimits()
    ground.collect(keep=1)
    git("gc", "--quiet", "--prune=now", cwd=repo.root)
    assert [one.night.id for one in nights.reports(repo, 10)] == [f"2026-03-0{day}-1" for day in (2, 4, 5, 6)]
    assert len(past.tried(repo, "scripted")) == 4
    assert nights.rates(repo) == {}
    found = survey(repo, repo.head().commit, limits)
    assert past.grown_now(repo, found.config) == ()
    assert nights.unfinished(repo) is None
    with pytest.raises(RepositoryError, match="no report"):
        nights.load_report(repo, "2026-03-03-1")


def test_it_never_runs_beside_a_night(ground: Ground) -> None:
    before = refs(ground.repo)
    with nights.alone(ground.repo), pytest.raises(RepositoryError, match=r"cannot collect what is old.*another one"):
        ground.collect(keep=1)
    assert refs(ground.repo) == before


@pytest.mark.parametrize("step", ["pulls archived", "collected told", "refs listed", "collected"])
def test_a_kill_at_any_step_loses_nothing_and_the_next_one_goes_on(ground: Ground, step: str) -> None:
    class Killed(BaseException):
        pass

    def strike(name: str) -> None:
        if name == step:
            raise Killed

    faults.arm(strike)
    try:
        with pytest.raises(Killed):
            ground.collect(keep=1)
    finally:
        faults.arm(None)
    ground.verify()
    ground.collect(keep=1)
    ground.verify()
    assert sorted(run.item.target for run in artifacts.list_runs(ground.repo)) == [
        f"docs/{name}.md" for name in ("boat", "oven", "quay", "sail", "tide")
    ]
    noted = git("notes", f"--ref={artifacts.NOTES}", "list", cwd=ground.repo.root).count("\n")
    assert noted == 5


def test_a_run_that_only_an_unsigned_list_calls_collected_is_missing(ground: Ground) -> None:
    repo = ground.repo
    run = next(run for run in artifacts.list_runs(repo) if run.item.target == "docs/tide.md")
    ref = artifacts.run_ref(run.id)
    line: dict[str, object] = {
        "homes": [],
        "oid": run.run_commit,
        "ref": ref,
        "schema_version": 1,
        "when": "2026-03-01T00:00:00Z",
        "why": "x",
    }
    blob = repo.write_blob(json.dumps(line, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    tree = repo.write_tree(None, {"collected.jsonl": (0o100644, blob)})
    repo.move_ref(archive.COLLECTED, repo.commit(tree, [], "archive: 1 refs\n", START), None, "forged")
    repo.move_ref(ref, None, run.run_commit, "gone")
    found = verify(repo.common_dir, load_trust(repo.common_dir), "all")
    assert {(fault.kind, fault.where) for fault in found.faults} >= {("ref", ref)}
    assert any(fault.kind == "signature" and archive.COLLECTED in fault.where for fault in found.faults)


def test_a_retired_tip_that_the_archive_does_not_hold_is_named(ground: Ground) -> None:
    repo = ground.repo
    ground.collect(keep=9)
    at = repo.ref(archive.PULLS)
    assert at is not None
    other = repo.head().commit
    data = (repo.read_path(at, archive.PULLS_FILE) or b"").replace(prs.load(repo, 1).tip.encode(), other.encode())
    tree = repo.write_tree(None, {archive.PULLS_FILE: (0o100644, repo.write_blob(data))})
    key = desk.signer(repo)
    repo.move_ref(archive.PULLS, repo.commit(tree, [at], "archive: 1 closed PRs\n", START, key), at, "another tip")
    found = verify(repo.common_dir, load_trust(repo.common_dir), "all")
    assert any(fault.kind == "archive" and "does not hold it" in fault.why for fault in found.faults)


def test_the_command_says_what_goes_and_why_the_rest_stays(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    def typed(keep: int | None, dry: bool, as_json: bool = False) -> str:
        cleanup.command(ground.repo, keep=keep, dry_run=dry, when=ground.when, as_json=as_json)
        return capsys.readouterr().out

    assert typed(None, True) == "nothing to take away: 90 nights are kept\n"
    said = typed(1, True)
    assert said.startswith("1 night, 2 runs would go\nolder runs that stay: 2 accepted, 2 in an open PR; with them the")
    assert "3 refs fewer; " in said
    assert said.endswith("next: git pantheon gc\n")
    assert json.loads(typed(1, True, as_json=True))["nights"] == ["2026-03-03-1"]
    settings = ground.repo.root / ".pantheon/pantheon.toml"
    settings.parent.mkdir()
    settings.write_text("schema_version = 1\n[retention]\nnights = 1\nclosed_prs = 1\n")
    git("add", "-A", cwd=ground.repo.root)
    git("commit", "-q", "-m", "keep less", cwd=ground.repo.root)
    said = typed(None, False)
    assert said.startswith("1 night, 2 runs, the refs of 2 closed PRs, whose record stays in the archive are gone\n")
    assert "git gc --prune=now" in said
