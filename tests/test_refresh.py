"""A PR while the world goes on: its base moves, people put it off, push it, commit to its branch or delete it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from conftest import git
from morning_after import TARGETS, copy
from provenance import DAYS, TASK, write_and_commit

from pantheon import artifacts, desk, nights, prdesk, prs, refresh, review, trust, turns
from pantheon import faults as kills
from pantheon.cli import main
from pantheon.errors import InputError, PantheonError, RepositoryError, TrustError
from pantheon.git import Repo
from pantheon.item import Shop, Trip
from pantheon.places import places
from pantheon.plan import Plan, within_debt
from pantheon.records import Item, Outcome, PullRequest, PullState, Task, TaskSpec
from pantheon.stack import Stacks
from pantheon.survey import survey
from pantheon.verify import load_trust, verify

Out = pytest.CaptureFixture[str]
OVEN = "docs/oven.md"
NO_OVENS = """[check.no-ovens]
run = ["{python}", "-c", "import sys; sys.exit(any('oven' in word for word in sys.argv[1:]))", "{targets}"]
"""


@pytest.fixture
def repo(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Repo:
    found = copy(tmp_path_factory)
    monkeypatch.chdir(found.root)
    monkeypatch.setenv("COLUMNS", "200")
    return found


def do(repo: Repo, verb: str, *items: str, text: str = "", checked: bool = True) -> str:
    return prdesk.decide(repo, 1, prdesk.Wish(verb, items, text, checked), places(os.environ))


def look(repo: Repo) -> str:
    return refresh.look(repo, prs.load(repo, 1), desk.now()).word


def faults(repo: Repo, what: str = "1") -> list[str]:
    return [f"{one.where}: {one.why}" for one in verify(repo.common_dir, load_trust(repo.common_dir), what).faults]


def at(repo: Repo, path: str, rev: str = "HEAD") -> str:
    return git("show", f"{rev}:{path}", cwd=repo.root)


def meanwhile(repo: Repo, files: dict[str, str] | None = None) -> str:
    write_and_commit(repo.root, files or {"other.md": "# Other\n"}, "meanwhile")
    return repo.head().commit


def trusted(repo: Repo) -> None:
    where = places(os.environ)
    trust.record(trust.look(repo, repo.entries(repo.head().commit), where.state), where.state, DAYS[0])


# --- the base moves ---------------------------------------------------------------------------------------------------


def test_a_pr_whose_base_moved_is_built_anew_and_checked_before_it_is_merged(repo: Repo, capsys: Out) -> None:
    first = prs.load(repo, 1)
    base = meanwhile(repo)
    assert look(repo) == "base moved"
    assert main(["status"]) == 0
    assert "main moved since it was checked" in capsys.readouterr().out
    assert do(repo, "accept", OVEN).startswith("PR 1 accepted: 3 items are on main")
    merge = git("log", "-1", "--format=%P", cwd=repo.root).split()
    assert merge[0] == base
    after = prs.load(repo, 1)
    assert (after.base, after.revision, merge[1]) == (base, 3, after.tip)  # without the oven, then on the new base
    assert git("merge-base", after.tip, base, cwd=repo.root).strip() == base
    assert faults(repo) == []
    again = do(repo, "undo")
    assert "is open again with 3 items" in again
    assert repo.head().commit == base
    assert "open again with 4 items" in do(repo, "undo")
    assert prs.load(repo, 1).base == first.base  # as it was before anything was said
    with pytest.raises(RepositoryError, match="nothing to undo"):
        do(repo, "undo")
    assert faults(repo) == []


def test_a_refresh_is_a_revision_that_undo_leaves_alone(repo: Repo, capfd: pytest.CaptureFixture[str]) -> None:
    do(repo, "reject", OVEN, text="no")
    base = meanwhile(repo)
    assert main(["pr", "refresh"]) == 0
    assert f"PR 1 is on main at {base[:12]} and the checks pass there: revision 3" in capfd.readouterr().out
    assert main(["pr", "refresh"]) == 0
    assert "every open PR is on what its branch is now" in capfd.readouterr().out
    assert do(repo, "refresh") == "PR 1 is on what main is now"
    assert faults(repo) == []
    assert main(["pr", "show", "1"]) == 0
    shown = capfd.readouterr().out
    assert "r1 " in shown and "open" in shown
    assert f"rejected {OVEN}" in shown
    assert f"refresh onto main at {base[:12]}" in shown
    assert main(["pr", "show", "1", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["revisions"]
    assert [row["revision"] for row in rows] == [1, 2, 3]
    assert main(["pr", "range-diff", "1"]) == 0
    assert capfd.readouterr().out.count(" = ") == 3  # the same three changes on another base
    assert main(["pr", "range-diff", "1", "1", "2"]) == 0
    assert "docs/oven.md" in capfd.readouterr().out
    assert main(["pr", "range-diff", "1", "1", "9"]) == 1
    assert "it has 3 revisions" in capfd.readouterr().err
    assert "open again with 4 items" in do(repo, "undo")  # of the word on the oven, not of the refresh
    assert prs.load(repo, 1).revision == 4
    assert faults(repo) == []


def test_a_conflict_is_a_state_that_a_word_on_the_item_resolves(repo: Repo, capsys: Out) -> None:
    before = prs.load(repo, 1)
    meanwhile(repo, {OVEN: "---\ntitle: 'My oven'\n---\n# My oven\n\nIt is mine.\n"})
    assert main(["pr", "refresh", "1"]) == 1
    said = capsys.readouterr().out
    assert f"PR 1 is in conflict: {OVEN} does not go with main as it is now" in said
    pull = prs.load(repo, 1)
    assert [(one.target, one.paths) for one in pull.troubles] == [(OVEN, (OVEN,))]
    assert (pull.tip, pull.revision, pull.state) == (before.tip, 1, PullState.OPEN)
    assert repo.ref(f"refs/heads/{pull.branch}") == before.tip
    assert main(["pr"]) == 0
    assert "conflict" in capsys.readouterr().out
    assert main(["status"]) == 0
    assert "PR 1 is in conflict with main: git pantheon pr show 1" in capsys.readouterr().out
    head = repo.head().commit
    with pytest.raises(RepositoryError, match="does not go with main") as caught:
        do(repo, "accept")
    assert "git pantheon retry 1" in caught.value.render()
    assert repo.head().commit == head
    assert faults(repo) == []
    operations = len(prs.history(repo, 1))
    do(repo, "refresh")  # says the same again, and writes nothing
    assert len(prs.history(repo, 1)) == operations
    do(repo, "retry", OVEN, text="the title changed")
    assert prs.load(repo, 1).troubles == ()
    assert do(repo, "accept") == "PR 1 accepted: 3 items are on main"
    assert "My oven" in at(repo, OVEN)
    assert faults(repo) == []


def test_a_conflict_ends_when_the_branch_goes_back(repo: Repo) -> None:
    base = repo.head().commit
    meanwhile(repo, {OVEN: "# Another\n"})
    do(repo, "refresh")
    assert look(repo) == "conflict"
    git("reset", "-q", "--hard", base, cwd=repo.root)
    assert "revision 2" in do(repo, "refresh")
    assert look(repo) == "open"
    assert faults(repo) == []


def test_an_item_that_breaks_a_check_of_the_new_base_is_found(repo: Repo) -> None:
    wanted = TASK.replace('    - run: "frontmatter"\n', '    - run: "frontmatter"\n    - run: "no-ovens"\n')
    meanwhile(repo, {".pantheon/checks.toml": NO_OVENS, "docs/tasks/tidy.md": wanted})
    with pytest.raises(TrustError):  # the checks are the repository's own: nobody has read them yet
        do(repo, "accept")
    assert prs.load(repo, 1).revision == 1
    trusted(repo)
    with pytest.raises(RepositoryError, match="check no-ovens"):
        do(repo, "accept")
    assert [one.target for one in prs.load(repo, 1).troubles] == [OVEN]
    do(repo, "reject", OVEN, text="no ovens here")
    assert do(repo, "accept") == "PR 1 accepted: 3 items are on main"
    assert faults(repo) == []


def test_a_person_can_merge_it_as_it_is(repo: Repo) -> None:
    meanwhile(repo, {".pantheon/checks.toml": NO_OVENS})
    assert do(repo, "accept", checked=False) == "PR 1 accepted: 4 items are on main"
    assert prs.load(repo, 1).revision == 1
    assert faults(repo) == []


def test_a_task_that_is_gone_cannot_be_checked_and_says_what_can_be_done(repo: Repo) -> None:
    git("rm", "-q", "docs/tasks/tidy.md", cwd=repo.root)
    git("commit", "-q", "-m", "no more", cwd=repo.root)
    with pytest.raises(RepositoryError, match="its task no more") as caught:
        do(repo, "accept")
    assert "--no-check" in caught.value.render()


def test_one_decision_at_a_time(repo: Repo) -> None:
    with review.alone(repo), pytest.raises(RepositoryError, match="another git pantheon"), review.alone(repo, 0.05):
        pytest.fail("two at once")
    again = turns.hold(repo.common_dir / "pantheon" / "prs.lock", "cannot write", 0.05)
    with prs.turn(repo), pytest.raises(RepositoryError, match="another git pantheon"), again:
        pytest.fail("two at once")


# --- whose branch it is -----------------------------------------------------------------------------------------------


def test_a_human_commit_makes_the_branch_theirs_until_they_merge_it(repo: Repo, capsys: Out) -> None:
    pull = prs.load(repo, 1)
    git("switch", "-q", pull.branch, cwd=repo.root)
    write_and_commit(repo.root, {OVEN: "# Mine\n"}, "by hand")
    theirs = repo.head().commit
    git("switch", "-q", "main", cwd=repo.root)
    assert look(repo) == "yours"
    assert main(["pr"]) == 0
    assert "it is yours from now on" in capsys.readouterr().out
    for verb, items in (("accept", ()), ("drop", (OVEN,)), ("refresh", ()), ("retry", (OVEN,)), ("push", ())):
        with pytest.raises(RepositoryError, match="hands off") as caught:
            do(repo, verb, *items, text="x")
        assert f"git merge {pull.branch}" in caught.value.render()
    assert repo.ref(f"refs/heads/{pull.branch}") == theirs
    git("merge", "-q", "--no-ff", "--no-edit", pull.branch, cwd=repo.root)
    assert look(repo) == "merged"
    assert do(repo, "accept") == "PR 1 accepted: 4 items are on main"
    assert git("rev-parse", "HEAD^2", cwd=repo.root).strip() == theirs  # nothing was merged a second time
    assert repo.ref(f"refs/heads/{pull.branch}") == theirs
    assert faults(repo) == []


def test_a_deleted_branch_stays_deleted_and_can_be_rejected_or_brought_back(repo: Repo) -> None:
    pull = prs.load(repo, 1)
    desk.mended(repo)
    git("branch", "-D", pull.branch, cwd=repo.root)
    assert look(repo) == "branch deleted"
    desk.mended(repo)
    assert repo.ref(f"refs/heads/{pull.branch}") is None
    with pytest.raises(RepositoryError, match="was deleted") as caught:
        do(repo, "accept")
    (command,) = [line for line in caught.value.render().splitlines() if "next:" in line]
    git(*command.split("git ")[1].split(" (")[0].split(), cwd=repo.root)
    assert look(repo) == "open"
    git("branch", "-D", pull.branch, cwd=repo.root)
    assert "rejected" in do(repo, "reject", text="I deleted it")
    assert faults(repo) == []
    assert "open again" in do(repo, "undo")
    assert repo.ref(f"refs/heads/{pull.branch}") == pull.tip
    assert faults(repo) == []


# --- later, limits, push ----------------------------------------------------------------------------------------------


def test_what_is_put_off_needs_nobody_until_then(repo: Repo, capsys: Out) -> None:
    assert main(["later", "1", "--until", "2d"]) == 0
    assert "put off until" in capsys.readouterr().out
    assert look(repo) == "later"
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("nothing needs you\n")
    assert "later" in said
    pull = prs.load(repo, 1)
    assert pull.later is not None
    assert refresh.look(repo, pull, pull.later + timedelta(seconds=1)).word == "open"
    assert faults(repo) == []
    do(repo, "undo")
    assert look(repo) == "open"
    do(repo, "later", text="3d")
    assert do(repo, "accept") == "PR 1 accepted: 4 items are on main"
    assert faults(repo) == []


def test_an_item_put_off_comes_back_when_its_time_has_come(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    said = do(repo, "later", OVEN, text="3d")
    assert "1 item is put off, to be offered again after" in said
    planned = desk.make_plan(repo, survey(repo, repo.head().commit))
    assert planned.items == ()
    assert any(f"{OVEN}: you put this off until" in note for note in planned.notes)
    assert faults(repo) == []
    monkeypatch.setattr(desk, "now", lambda: datetime.now(UTC) + timedelta(days=4))
    assert [item.target for item in desk.make_plan(repo, survey(repo, repo.head().commit)).items] == [OVEN]


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("3d", NOW + timedelta(days=3)),
        ("12h", NOW + timedelta(hours=12)),
        ("2026-03-04", datetime(2026, 3, 4, tzinfo=UTC)),
        ("2026-03-01T18:00+01:00", datetime(2026, 3, 1, 17, tzinfo=UTC)),
    ],
)
def test_when_it_is_put_off_to(text: str, until: datetime) -> None:
    assert prdesk.until_of(text, NOW) == until


@pytest.mark.parametrize("text", ["", "soon", "0d", "2026-02-30", "2026-02-01", "99999999999d", "-3d", "3"])
def test_a_time_that_is_none_or_has_passed(text: str) -> None:
    with pytest.raises(InputError):
        prdesk.until_of(text, NOW)


def queue(*counts: int) -> Plan:
    tasks = tuple(
        Task(path=f"tasks/{n}.md", uuid=f"u{n}", slug=f"s{n}", title="t", status="ready", spec=TaskSpec(scope=("**",)))
        for n in range(len(counts))
    )
    items = [
        Item(id=f"{n:08d}{k:08d}", task=f"u{n}", flow="docops", target=f"{n}-{k}.md", blob="b", findings=())
        for n, count in enumerate(counts)
        for k in range(count)
    ]
    return Plan(tuple(items), tasks, ())


@pytest.mark.parametrize(
    ("waiting", "most", "per_task", "kept"),
    [
        ({}, 20, 0, [5, 3]),
        ({"u0": 1}, 20, 1, [0, 2]),
        ({"u0": 1}, 20, 2, [2, 3]),
        ({"u1": 2, "": 1}, 4, 0, [2, 0]),
        ({"": 4}, 4, 0, [0, 0]),
        ({}, 4, 1, [2, 2]),
    ],
)
def test_a_queue_promises_no_more_prs_than_may_wait(
    waiting: dict[str, int], most: int, per_task: int, kept: list[int]
) -> None:
    planned = queue(5, 3)
    found = within_debt(planned, waiting, most=most, per_task=per_task, per_pr=2)
    counts = [sum(item.task == f"u{n}" for item in found.items) for n in range(2)]
    assert counts == kept
    assert len(found.notes) == sum(count != whole for count, whole in zip(kept, (5, 3), strict=True))
    assert all("waiting for your review" in note for note in found.notes)  # so that no task counts as done with it
    promised = sum(-(-count // 2) for count in counts)
    assert promised == 0 or sum(waiting.values()) + promised <= most


def test_a_task_at_its_limit_waits_and_is_no_failed_night(repo: Repo, capsys: Out) -> None:
    settings = "schema_version = 1\n[night]\nmax_open_prs_per_task = 1\n"
    do(repo, "retry", OVEN, text="again")
    meanwhile(repo, {".pantheon/pantheon.toml": settings})
    assert main(["plan"]) == 0
    said = capsys.readouterr().out
    assert "1 task, 0 items for tonight" in said
    assert "docs/tasks/tidy.md: 1 item left for later: with tonight's, 1 of its PRs are waiting for your review" in said


def test_a_review_branch_is_pushed_when_told_to_and_replaced_where_we_pushed_it(repo: Repo, tmp_path: Path) -> None:
    there = tmp_path / "there.git"
    git("init", "-q", "--bare", str(there), cwd=tmp_path)
    git("remote", "add", "origin", str(there), cwd=repo.root)
    branch = prs.load(repo, 1).branch
    assert main(["init"]) == 0  # with our own hook in the way
    assert do(repo, "push") == f"PR 1: {branch} is on origin"
    assert git("rev-parse", branch, cwd=there) == git("rev-parse", branch, cwd=repo.root)
    do(repo, "drop", OVEN)
    do(repo, "push")
    assert git("rev-parse", branch, cwd=there) == git("rev-parse", branch, cwd=repo.root)
    assert [one.remote for one in prs.load(repo, 1).pushed] == ["origin", "origin"]
    assert faults(repo) == []
    git("update-ref", f"refs/heads/{branch}", git("rev-parse", f"{branch}~1", cwd=there).strip(), cwd=there)
    do(repo, "drop", "docs/boats.md")
    with pytest.raises(RepositoryError, match="cannot push PR 1"):  # somebody moved it there
        do(repo, "push")
    head = repo.head().commit
    with pytest.raises(RepositoryError, match="cannot push"):
        prdesk.decide(repo, 1, prdesk.Wish("accept", push_to="origin"), places(os.environ))
    assert repo.head().commit == head
    assert "open again with 3 items" in do(repo, "undo")
    assert faults(repo) == []
    with pytest.raises(RepositoryError, match="no such remote"):
        prdesk.decide(repo, 1, prdesk.Wish("push", push_to="elsewhere"))


# --- what was rejected ------------------------------------------------------------------------------------------------


def test_a_change_that_was_rejected_is_not_offered_again_when_its_file_changed(repo: Repo) -> None:
    do(repo, "reject", OVEN, text="the oven needs no title")
    (rejected,) = [item for item in prs.load(repo, 1).items if item.target == OVEN]
    shown = git("show", rejected.commit, cwd=repo.root)
    assert rejected.patch == git("patch-id", "--stable", cwd=repo.root, stdin=shown.encode()).split()[0]
    base = meanwhile(repo, {OVEN: at(repo, OVEN) + "\nA line was added at the end.\n"})
    found = survey(repo, base)
    (item,) = desk.make_plan(repo, found).items
    (task,) = found.tasks
    run = artifacts.load_run(repo, rejected.run).model_copy(update={"item": item, "base": base})
    stacks = Stacks(
        repo,
        nights.load_night(repo, run.night).model_copy(update={"base": base}),
        cast(Shop, SimpleNamespace(config=found.config)),  # a stack asks its shop for nothing else until it is proved
        items=[item],
        tasks={task.uuid: task},
        notes=(),
        runs=[],
        signer=desk.signer(repo),
        now=lambda: DAYS[3],
        attested=lambda run: None,
    )
    parent = git("rev-parse", f"{rejected.commit}^", cwd=repo.root).strip()
    same = repo.merge_trees(parent, base, rejected.commit)
    again = stacks.push(run, Trip(item=item, task=task, run=run.id, tree=same, target=OVEN))
    assert (again.outcome, again.node) == (Outcome.PARKED, "stack")
    assert re.fullmatch(r"you rejected this change on 20\d\d-\d\d-\d\d: the oven needs no title", again.reason)
    assert stacks.by_task == {}
    blob = repo.write_blob(at(repo, OVEN, same).replace("Care of", "All of").encode())
    other = repo.write_tree(same, {OVEN: (0o100644, blob)})
    assert stacks.push(run, Trip(item=item, task=task, run=run.id, tree=other, target=OVEN)).outcome is run.outcome
    do(repo, "undo")  # of the rejection
    assert review.refused(prs.load_all(repo)) == {}


# --- kills ------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As good as a kill: nothing of ours catches it."""


def strike_at(number: int, seen: list[str]) -> Callable[[str], None]:
    def strike(name: str) -> None:
        if name.startswith(("pull ", "accept ", "decision ")):
            seen.append(name)
            if len(seen) == number:
                raise Killed(name)

    return strike


WORDS = {
    "accept": lambda repo: do(repo, "accept", OVEN),
    "reject": lambda repo: do(repo, "reject", text="none"),
    "drop": lambda repo: do(repo, "drop", OVEN),
    "later": lambda repo: do(repo, "later"),
    "undo": lambda repo: do(repo, "undo"),
}


@pytest.mark.parametrize("verb", WORDS)
def test_a_decision_that_is_killed_at_any_step_is_whole_afterwards(
    tmp_path_factory: pytest.TempPathFactory, verb: str
) -> None:
    """Killed before each step, then typed again: as if it had been typed once."""
    for number in range(1, 40):
        repo = copy(tmp_path_factory)
        desk.mended(repo)
        if verb == "undo":
            do(repo, "accept", OVEN)
        seen: list[str] = []
        kills.arm(strike_at(number, seen))
        try:
            WORDS[verb](repo)
            break
        except Killed:
            pass
        finally:
            kills.arm(None)
        desk.mended(repo)
        pull = prs.load(repo, 1)
        owned = {f"refs/heads/{pull.branch}": pull.tip} if pull.state is PullState.OPEN else {}
        assert repo.refs(prs.BRANCHES) == owned, f"killed at {seen[-1]}"
        assert {name for name in repo.refs(prs.PRS) if "/r" in name} == {
            f"{prs.PRS}1/r{n}" for n in range(1, pull.revision + 1)
        }
        wanted = {"accept": PullState.ACCEPTED, "reject": PullState.REJECTED}.get(verb, PullState.OPEN)
        done = pull.state is wanted and (verb != "drop" or len(pull.live) == 3) and (verb != "later" or pull.later)
        if not done:
            WORDS[verb](repo)
        pull = prs.load(repo, 1)
        assert pull.state is wanted
        assert faults(repo) == [], f"killed at {seen[-1]}"
        merges = git("log", "--merges", "--format=%s", cwd=repo.root).splitlines()
        assert len(merges) == (verb == "accept"), f"killed at {seen[-1]}"
        assert git("status", "--porcelain", cwd=repo.root) == ""
    else:
        pytest.fail("it never got through")
    assert number > 3


def test_another_word_after_a_decision_that_was_killed_is_the_one_that_counts(repo: Repo) -> None:
    desk.mended(repo)

    def strike(name: str) -> None:
        if name == "decision noted":
            raise Killed(name)

    kills.arm(strike)
    try:
        with pytest.raises(Killed):
            do(repo, "reject", OVEN, text="no")
    finally:
        kills.arm(None)
    assert len(prs.load(repo, 1).live) == 4
    assert do(repo, "accept") == "PR 1 accepted: 4 items are on main"
    oven = next(item.commit for item in prs.load(repo, 1).items if item.target == OVEN)
    assert [one.verdict for one in prs.decided(repo, oven)] == ["rejected", "accepted"]
    assert faults(repo) == []


def test_a_pr_whose_opening_is_killed_is_opened_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    repo = copy(tmp_path_factory)
    pull = prs.load(repo, 1)
    rest = {"task": pull.task, "slug": "tidy", "title": "t", "night": "n", "onto": "main", "base": pull.base}

    def opened() -> PullRequest:
        return prs.open_pull(repo, **rest, tip=pull.tip, items=pull.items, when=DAYS[2], signer=desk.signer(repo))

    for number in range(1, 20):
        seen: list[str] = []
        kills.arm(strike_at(number, seen))
        try:
            opened()
            break
        except Killed:
            pass
        finally:
            kills.arm(None)
        desk.mended(repo)
        branches = {f"refs/heads/{one.branch}": one.tip for one in prs.load_all(repo)}
        assert repo.refs(prs.BRANCHES) == branches, f"killed at {seen[-1]}"
        assert {name.rpartition("/")[0] for name in repo.refs(prs.PRS)} == {
            f"{prs.PRS}{one.id}" for one in prs.load_all(repo)
        }
    assert number > 3
    ids = [one.id for one in prs.load_all(repo)]
    assert ids == list(range(1, len(ids) + 1))


def test_what_an_older_version_left_of_an_opening_is_swept(repo: Repo) -> None:
    pull = prs.load(repo, 1)
    repo.move_ref(f"{prs.PRS}7/r1", pull.base, None, "older")
    repo.move_ref("refs/heads/pantheon/tidy/7", pull.base, None, "older")
    repo.move_ref("refs/heads/pantheon/mine", pull.tip, None, "a person's")
    desk.mended(repo)
    assert repo.refs(prs.BRANCHES) == {"refs/heads/pantheon/mine": pull.tip, f"refs/heads/{pull.branch}": pull.tip}
    assert all(name.startswith(f"{prs.PRS}1/") for name in repo.refs(prs.PRS))


def test_decisions_refuse_an_unknown_word(repo: Repo) -> None:
    with pytest.raises(PantheonError, match="no such decision"):
        do(repo, "burn")
    assert [item.target for item in prs.load(repo, 1).live] == TARGETS
