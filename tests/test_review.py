"""What a person decides on a PR, in any order: nothing is lost, nothing is accepted twice, and it always verifies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from conftest import git
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from morning_after import TARGETS, copy, right_title
from provenance import DAYS, play, write_and_commit

from pantheon import artifacts, desk, prs, review
from pantheon.cli import main
from pantheon.engine import ScriptedEngine
from pantheon.errors import InputError, PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.plan import Plan
from pantheon.records import HumanDecision, PullRequest, PullState
from pantheon.survey import survey
from pantheon.verify import load_trust, verify


@dataclass
class Desk:
    """One repository with PR 1 of four items, and the words a person may say."""

    repo: Repo
    clock: int = 0

    def say(self, verb: str, *items: str, note: str = "no") -> PullRequest:
        self.clock += 1
        pull, rest = prs.load(self.repo, 1), {"when": DAYS[2] + timedelta(seconds=self.clock)}
        signed = {**rest, "signer": desk.signer(self.repo)}
        said: dict[str, Callable[[], PullRequest]] = {
            "accept": lambda: review.accept(self.repo, pull, drop=items, strategy="merge", **signed),  # type: ignore[arg-type]
            "drop": lambda: review.drop(self.repo, pull, items=items, **signed),  # type: ignore[arg-type]
            "reject": lambda: review.reject(self.repo, pull, items=items, reason=note, **signed),  # type: ignore[arg-type]
            "retry": lambda: review.retry(self.repo, pull, items=items, note=note, **signed),  # type: ignore[arg-type]
            "never": lambda: review.never(self.repo, pull, items=items, **signed),  # type: ignore[arg-type]
            "undo": lambda: review.undo(self.repo, pull, **signed),  # type: ignore[arg-type]
        }
        return said[verb]()

    def git(self, *args: str) -> str:
        return git(*args, cwd=self.repo.root)

    def plan(self) -> Plan:
        return desk.make_plan(self.repo, survey(self.repo, self.repo.head().commit))

    def faults(self) -> list[str]:
        common = self.repo.common_dir
        return [f"{fault.kind}: {fault.where}: {fault.why}" for fault in verify(common, load_trust(common), "1").faults]


@pytest.fixture
def one(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(copy(tmp_path_factory))


def test_an_item_to_try_again_comes_back_with_the_note(one: Desk) -> None:
    left = one.say("retry", "docs/oven.md", note="  the title is\n in the   heading ")
    assert [item.target for item in left.live] == [target for target in TARGETS if "oven" not in target]
    assert one.faults() == []
    (item,) = one.plan().items
    assert (item.target, item.hint) == ("docs/oven.md", "the title is in the heading")
    one.say("accept")
    (again,) = play(one.repo, one.repo.root.parent / "again", DAYS[3], ScriptedEngine(right_title)).prs
    assert [item.target for item in again.live] == ["docs/oven.md"]
    given = json.loads(artifacts.read_artifact(one.repo, again.live[0].run, "frontmatter", "input.json"))
    assert given["values"]["failure"] == "the title is in the heading"
    assert (prs.load(one.repo, 1).branch, again.branch) == ("pantheon/tidy/1", "pantheon/tidy/2")  # no name twice
    assert one.plan().items == ()
    assert len(one.say("undo").live) == 3  # of the accepting
    with pytest.raises(RepositoryError, match="came again in PR 2"):  # of the word on the oven: twice is too often
        one.say("undo")


def test_the_words_as_they_are_typed(
    one: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(one.repo.root)
    for args, said in (
        (
            ["retry", "1", "docs/oven.md", "-m", "again"],
            "1 item is tried again next night, with your note; 3 items",
        ),
        (["never", "1", "docs/boats.md", "docs/ropes.md"], "2 items are not offered again"),
        (["undo", "1"], "PR 1 is open again with 3 items"),
        (["reject", "1", "docs/boats.md", "-m", "no"], "1 item is rejected"),
        (["accept", "1", "--drop", "docs/ropes.md"], "PR 1 accepted: 1 item is on main"),
        (["undo", "1"], "PR 1 is open again with 1 item; main is back at"),
        (["undo", "1"], "PR 1 is open again with 2 items"),
        (["reject", "1", "-m", "none"], "2 items are rejected; the same change is not offered again; nothing is left"),
    ):
        assert main(args) == 0
        assert said in capsys.readouterr().out
    assert main(["never", "1", "docs/oven.md"]) == 1
    assert "PR 1 is closed" in capsys.readouterr().err
    assert one.faults() == []


@pytest.mark.parametrize("note", ["", " \n ", "x" * 401])
def test_a_note_is_one_line_of_a_bounded_length(one: Desk, note: str) -> None:
    with pytest.raises(InputError, match="400"):
        one.say("retry", "docs/oven.md", note=note)
    assert prs.load(one.repo, 1).revision == 1


def test_never_holds_when_the_file_changes_and_a_rejection_does_not(one: Desk) -> None:
    one.say("never", "docs/oven.md")
    one.say("reject", "docs/ropes.md")
    one.say("drop", "docs/boats.md")
    assert one.plan().items == ()
    for name in ("oven", "ropes", "boats"):
        path = one.repo.root / f"docs/{name}.md"
        path.write_text(path.read_text() + "One more line, which was written by hand this morning.\n")
    one.git("commit", "-qam", "changed")
    planned = one.plan()
    assert [item.target for item in planned.items] == ["docs/boats.md", "docs/ropes.md"]
    assert any("oven.md: you never want this" in note for note in planned.notes)
    assert one.faults() == []


def test_undo_takes_decisions_back_one_by_one_until_nothing_was_decided(one: Desk) -> None:
    first = prs.load(one.repo, 1)
    one.say("retry", "docs/oven.md", note="again")
    one.say("never", "docs/boats.md")
    one.say("reject")
    assert prs.load(one.repo, 1).state is PullState.REJECTED
    assert one.repo.ref(f"refs/heads/{first.branch}") is None
    for live in (2, 3, 4):
        again = one.say("undo")
        assert (again.state, len(again.live)) == (PullState.OPEN, live)
        assert one.repo.ref(f"refs/heads/{first.branch}") == again.tip
        assert one.faults() == []
    assert again == first.model_copy(update={"revision": again.revision})
    assert one.plan().items == ()
    with pytest.raises(RepositoryError, match="nothing to undo"):
        one.say("undo")
    oven = next(item.commit for item in first.items if item.target == "docs/oven.md")
    lines = one.git("notes", f"--ref={prs.DECISIONS}", "show", oven).splitlines()
    said = [HumanDecision.model_validate_json(line) for line in lines]
    assert [(decision.verdict, decision.reason, decision.step) for decision in said] == [
        ("retry", "again", 2),
        ("undone", "", 7),
    ]


def test_an_accepted_pr_goes_back_with_everything_of_yours_in_place(one: Desk) -> None:
    (one.repo.root / ".gitignore").write_text("*.o\n*.tmp\n")
    before = one.git("rev-parse", "HEAD")
    one.say("accept", "docs/oven.md")
    assert one.git("rev-parse", "HEAD") != before
    (one.repo.root / "mine.md").write_text("staged\n")  # git merges only into an index that is as HEAD
    one.git("add", "mine.md")
    (one.repo.root / "mine.md").write_text("staged, then changed\n")
    status = one.git("status", "--porcelain")
    again = one.say("undo")
    assert (again.state, len(again.live)) == (PullState.OPEN, 3)
    assert (one.git("rev-parse", "HEAD"), one.git("status", "--porcelain")) == (before, status)
    assert one.git("show", ":mine.md") == "staged\n"
    assert one.git("symbolic-ref", "HEAD") == "refs/heads/main\n"
    assert one.faults() == []
    one.git("reset", "-q", "mine.md")
    assert one.say("accept").state is PullState.ACCEPTED
    assert one.faults() == []


@pytest.mark.parametrize("strategy", ["ff", "rebase"])
def test_a_merge_without_a_merge_commit_goes_back_as_well(one: Desk, strategy: str) -> None:
    before = one.git("rev-parse", "HEAD")
    if strategy == "rebase":
        write_and_commit(one.repo.root, {"other.md": "# Other\n"}, "meanwhile")
        before = one.git("rev-parse", "HEAD")
    rest = {"when": DAYS[2], "signer": desk.signer(one.repo)}
    review.accept(one.repo, prs.load(one.repo, 1), drop=(), strategy=strategy, **rest)  # type: ignore[arg-type]
    assert one.git("rev-parse", "HEAD") != before
    assert one.say("undo").state is PullState.OPEN
    assert one.git("rev-parse", "HEAD") == before
    assert one.faults() == []


def _commit(one: Desk) -> str:
    one.git("commit", "-q", "--allow-empty", "-m", "mine")
    return "git revert -m 1"


def _push(one: Desk) -> str:
    one.git("update-ref", "refs/remotes/origin/main", "HEAD")
    return "origin/main has it"


def _edit(one: Desk) -> str:
    (one.repo.root / "docs/oven.md").write_text("mine\n")
    return "docs/oven.md"


def _switch(one: Desk) -> str:
    one.git("switch", "-q", "-c", "side")
    return "git switch main"


def _merge(one: Desk) -> str:
    one.git("branch", "side", "HEAD~1")
    one.git("switch", "-q", "side")
    one.git("commit", "-q", "--allow-empty", "-m", "side")
    one.git("switch", "-q", "main")
    one.git("merge", "-q", "--no-ff", "--no-commit", "side")
    return "merging"


@pytest.mark.parametrize("meddle", [_commit, _push, _edit, _switch, _merge])
def test_an_accepted_pr_stays_where_somebody_built_on_it(one: Desk, meddle: Callable[[Desk], str]) -> None:
    one.say("accept")
    wanted = meddle(one)
    before = [one.git(*args) for args in (("rev-parse", "HEAD"), ("status", "--porcelain"), ("diff", "HEAD"))]
    refs = one.repo.refs("refs/")
    with pytest.raises(RepositoryError) as caught:
        one.say("undo")
    assert wanted in caught.value.render()
    assert [one.git(*args) for args in (("rev-parse", "HEAD"), ("status", "--porcelain"), ("diff", "HEAD"))] == before
    assert one.repo.refs("refs/") == refs


def test_a_review_branch_that_is_somebodys_now_stays_theirs(one: Desk) -> None:
    branch = one.say("reject").branch
    one.git("branch", branch, "main")
    with pytest.raises(RepositoryError, match="a branch of that name"):
        one.say("undo")
    assert one.git("rev-parse", branch) == one.git("rev-parse", "main")


def test_verify_tells_a_decision_that_was_put_back_by_another_hand(one: Desk) -> None:
    """Signed with the bot's key, but not what undoing it leaves."""
    one.say("reject", "docs/oven.md")
    pull = prs.load(one.repo, 1)
    prs.update(one.repo, pull.model_copy(update={"reason": "x"}), prs.UNDO, DAYS[3], desk.signer(one.repo))
    assert any("undoes what was not done" in fault for fault in one.faults())


WORDS = st.tuples(st.sampled_from(["accept", "drop", "reject", "retry", "never", "undo", "undo"]), st.integers(0, 15))


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(WORDS, min_size=3, max_size=7))
def test_whatever_is_decided_in_whatever_order(
    tmp_path_factory: pytest.TempPathFactory, words: list[tuple[str, int]]
) -> None:
    """Against a model: a stack of (live items, state, where the user's branch is)."""
    one = Desk(copy(tmp_path_factory))
    (one.repo.root / "mine.md").write_text("untracked\n")
    (one.repo.root / ".gitignore").write_text("*.o\n*.tmp\n")
    mine = one.git("status", "--porcelain")
    stack = [(frozenset(TARGETS), PullState.OPEN, one.git("rev-parse", "HEAD"))]
    for verb, mask in words:
        live, state, head = stack[-1]
        chosen = [target for number, target in enumerate(TARGETS) if mask >> number & 1]
        if verb != "accept" and not chosen:
            chosen = sorted(live)[:1]
        named = [] if verb == "accept" else chosen
        legal = len(stack) > 1 if verb == "undo" else state is PullState.OPEN and live.issuperset(named)
        if not legal:
            with pytest.raises(PantheonError):
                one.say(verb, *named)
        elif verb == "undo":
            stack.pop()
            one.say("undo")
        else:
            one.say(verb, *named)
            left = live - set(named)
            closed = PullState.ACCEPTED if verb == "accept" else PullState.OPEN if left else PullState.REJECTED
            stack.append((left or live, closed, one.git("rev-parse", "HEAD")))
            assert (stack[-1][2] != head) == (verb == "accept")
        live, state, head = stack[-1]
        pull = prs.load(one.repo, 1)
        assert (frozenset(item.target for item in pull.live), pull.state) == (live, state)
        assert (one.git("rev-parse", "HEAD"), one.git("status", "--porcelain")) == (head, mine)
        assert one.faults() == []
        merged = one.git("log", "--format=%(trailers:key=Pantheon-Run,valueonly,separator=)", "main").split()
        assert len(merged) == len(set(merged)) == (len(live) if state is PullState.ACCEPTED else 0)
    assert one.git("fsck", "--strict", "--no-dangling") == ""
