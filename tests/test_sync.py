"""Three clones over one bare remote, each with nights of its own: they come to the same, and nothing of any is lost."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import provenance
import pytest
from conftest import MakeRepo, git

from pantheon import archive, artifacts, desk, keys, nights, prdesk, prs, remotes, reunion, review, sync
from pantheon.engine import ScriptedEngine
from pantheon.errors import NewerRecord, PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.names import night_tag
from pantheon.records import Collected, PullRequest, PullState, pretty
from pantheon.verify import load_trust, verify

NAMES = ("ann", "ben", "eva")
NOON = datetime(2026, 3, 9, 12, 0, tzinfo=UTC)
NOTES = ("artifacts", "attestations", "decisions", "summary")


@dataclass
class Clone:
    """One person's clone."""

    root: Path

    @cached_property
    def repo(self) -> Repo:
        return Repo.discover(self.root)

    def git(self, *args: str) -> str:
        return git(*args, cwd=self.root)

    def push(self, when: datetime = NOON) -> int:
        return sync.push(self.repo, None, when, as_json=False)

    def pull(self, when: datetime = NOON) -> int:
        return sync.pull(self.repo, None, when, as_json=False)

    def decide(self, pull: int, verb: str, *items: str, when: datetime = NOON) -> PullRequest:
        signer, found = desk.signer(self.repo), prs.load(self.repo, pull)
        match verb:
            case "accept":
                return review.accept(self.repo, found, drop=items, strategy="merge", when=when, signer=signer)
            case "undo":
                return review.undo(self.repo, found, when=when, signer=signer)
            case "never":
                return review.never(self.repo, found, items=items, when=when, signer=signer)
            case _:
                return review.reject(self.repo, found, items=items, reason=f"{self.root.name} says no", when=when,
                                     signer=signer)  # fmt: skip

    def kept(self) -> dict[str, str]:
        """Every ref of the bot's."""
        return refs(self.root)

    def faults(self) -> list[str]:
        found = verify(self.repo.common_dir, load_trust(self.repo.common_dir), "all")
        return [f"{fault.kind}: {fault.where}: {fault.why}" for fault in found.faults]


def refs(root: Path) -> dict[str, str]:
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/pantheon", "refs/notes/pantheon", cwd=root)
    return dict(line.split() for line in listed.splitlines())


def notes(root: Path, name: str) -> dict[str, set[str]]:
    """commit -> the lines of its note."""
    ref = f"refs/notes/pantheon/{name}"
    if ref not in refs(root):
        return {}
    listed = [line.split() for line in git("ls-tree", "-r", ref, cwd=root).splitlines()]
    return {words[3].replace("/", ""): {*git("cat-file", "blob", words[2], cwd=root).splitlines()} for words in listed}


_BUILT: list[Path] = []


@pytest.fixture
def clones(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clone]:
    """A bare remote, and three clones that had a night each before any of them pushed. Made once, then copied."""
    if not _BUILT:
        _BUILT.append(_build(tmp_path_factory.mktemp("clones")))
    shutil.copytree(_BUILT[0], tmp_path / "work", symlinks=True)
    return {name: Clone(tmp_path / "work" / name) for name in NAMES}


def _build(place: Path) -> Path:
    work = place / "work"
    work.mkdir()
    with provenance.own_git(place):
        git("init", "-q", "--bare", "-b", "main", "remote.git", cwd=work)
        git("clone", "-q", "remote.git", "first", cwd=work)
        git("switch", "-q", "-C", "main", cwd=work / "first")
        provenance.write_and_commit(
            work / "first", {**provenance.NOTES, "docs/tasks/tidy.md": provenance.TASK}, "first"
        )
        git("push", "-q", "origin", "main", cwd=work / "first")
        shutil.rmtree(work / "first")
        for number, name in enumerate(NAMES):
            git("clone", "-q", "remote.git", name, cwd=work)
            git("config", "remote.origin.url", "../remote.git", cwd=work / name)
            git("config", "user.name", name, cwd=work / name)
            engine = ScriptedEngine(provenance.wrong_title)
            report = provenance.play(Repo.discover(work / name), place / name, provenance.DAYS[number], engine)
            assert len(report.prs) == 1
            assert night_tag(report.night.id) == keys.own_tag(Repo.discover(work / name)) != ""
    return work


def settle(clones: dict[str, Clone], order: list[str]) -> None:
    for name in order:
        clones[name].push()
    for name in reversed(order):
        clones[name].pull()


def standing(clone: Clone, when: datetime = NOON) -> list[str]:
    return sync.standing(clone.repo, when, prs.look(clone.repo))


def accept_keys(clones: dict[str, Clone]) -> None:
    for clone in clones.values():
        keys.accept(clone.repo, [key.fingerprint for key in keys.listed(clone.repo) if key.published])


def same_everywhere(clones: dict[str, Clone]) -> dict[str, str]:
    found = [clone.kept() for clone in clones.values()]
    remote = refs(clones["ann"].root.parent / "remote.git")
    for name in NAMES:
        assert clones[name].kept() == remote, name
    assert not any(prs.torn(clone.repo, prs.look(clone.repo)) for clone in clones.values())
    return found[0]


def objects(clone: Clone) -> set[str]:
    """The commits that the bot's refs reach."""
    return {*clone.git("rev-list", "--glob=refs/pantheon", "--glob=refs/notes/pantheon").split()}


@pytest.mark.parametrize("seed", range(3))
def test_clones_that_all_worked_come_to_the_same_in_any_order(clones: dict[str, Clone], seed: int) -> None:
    chance = random.Random(seed)
    before = {name: objects(clone) for name, clone in clones.items()}
    said = {kind: [notes(clone.root, kind) for clone in clones.values()] for kind in NOTES}
    for _ in range(4):
        clone = clones[chance.choice(NAMES)]
        chance.choice((clone.push, clone.pull))()
    settle(clones, chance.sample(NAMES, 3))
    kept = same_everywhere(clones)
    there = objects(clones["ann"])
    for name in NAMES:
        assert before[name] <= there, f"of what {name} had, commits are lost"
    for kind, some in said.items():
        now = notes(clones["ann"].root, kind)
        for one in some:
            assert all(lines <= now[commit] for commit, lines in one.items())
    numbers = sorted(int(name.split("/")[3]) for name in kept if name.endswith("/meta"))
    assert numbers == [1, 2, 3]
    pulls = [prs.load(clones["eva"].repo, number) for number in numbers]
    assert len({pull.night for pull in pulls}) == 3
    assert len({pull.branch for pull in pulls}) == 3
    assert pulls[0].night.startswith("2026-03-01-1-"), "the oldest keeps its number"
    for clone in clones.values():
        for pull in pulls:
            assert clone.git("rev-parse", f"refs/heads/{pull.branch}").strip() == pull.tip
        assert clone.git("fsck", "--strict", "--no-dangling") == ""
    accept_keys(clones)
    for clone in clones.values():
        assert clone.faults() == []


# --- what people decided apart ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [["ann", "ben", "eva"], ["eva", "ben", "ann"]])
def test_accepted_in_one_clone_and_rejected_in_another(clones: dict[str, Clone], order: list[str]) -> None:
    settle(clones, list(NAMES))
    accept_keys(clones)
    ann, ben, eva = clones.values()
    ann.decide(1, "accept", when=NOON)
    ben.decide(1, "reject", when=NOON + timedelta(minutes=5))
    taken = prs.load(eva.repo, 1).live[0]
    eva.decide(1, "never", taken.item, when=NOON + timedelta(minutes=9))
    before = {name: objects(clone) for name, clone in clones.items()}
    settle(clones, order)
    settle(clones, order)
    same_everywhere(clones)
    for clone in clones.values():
        pull = prs.load(clone.repo, 1)
        assert pull.state is PullState.ACCEPTED
        assert pull.landed
        assert clone.repo.ref(f"refs/heads/{pull.branch}") is None
        said = reunion.contradictions(clone.repo, 1)
        assert said, "people contradicted each other"
        assert all(objects_before <= objects(clone) for objects_before in before.values())
        words = {json.loads(line)["verdict"] for lines in notes(clone.root, "decisions").values() for line in lines}
        assert words == {"accepted", "rejected", "never"}
        assert clone.faults() == []
        assert [line for line in standing(clone) if line.startswith("PR 1: ")]
        assert not [line for line in standing(clone, NOON + timedelta(days=9)) if line.startswith("PR 1: ")]


def act(clone: Clone, chance: random.Random, when: datetime) -> str:
    """Something that a person may do in their clone: "" when there was nothing to do it to."""
    verb = chance.choice(("push", "pull", "reject", "never", "accept", "undo", "whole"))
    if verb in ("push", "pull"):
        (clone.push if verb == "push" else clone.pull)(when)
        return verb
    pulls = [pull for pull in prs.load_all(clone.repo) if verb == "undo" or pull.state is PullState.OPEN]
    if not pulls:
        return ""
    pull = chance.choice(pulls)
    items = [chance.choice(pull.live).item] if verb in ("reject", "never") else []
    try:
        clone.decide(pull.id, "reject" if verb == "whole" else verb, *items, when=when)
    except RepositoryError as error:
        return f"{verb} {pull.id} refused: {error}"
    return f"{verb} {pull.id} {items}"


@pytest.mark.parametrize("seed", range(2))
def test_whatever_people_do_in_whichever_order_all_come_to_the_same(clones: dict[str, Clone], seed: int) -> None:
    chance = random.Random(seed)
    done = []
    for step in range(10):
        name = chance.choice(NAMES)
        done.append(f"{name}: {act(clones[name], chance, NOON + timedelta(minutes=step))}")
    before = [objects(clone) for clone in clones.values()]
    lines = [notes(clone.root, "decisions") for clone in clones.values()]
    for _ in range(2):
        settle(clones, chance.sample(NAMES, 3))
    same_everywhere(clones)
    accept_keys(clones)
    eva = clones["eva"]
    assert all(some <= objects(eva) for some in before), done
    kept = notes(eva.root, "decisions")
    assert all(said <= kept[commit] for one in lines for commit, said in one.items()), done
    assert eva.faults() == [], done
    for clone in clones.values():
        for pull in prs.load_all(clone.repo):
            tip = clone.repo.ref(f"refs/heads/{pull.branch}")
            assert tip == (pull.tip if pull.state is PullState.OPEN else None), done


def test_items_that_two_clones_took_off_are_both_off(clones: dict[str, Clone]) -> None:
    settle(clones, list(NAMES))
    accept_keys(clones)
    ann, ben, eva = clones.values()
    first, second, third = prs.load(ann.repo, 2).live
    ann.decide(2, "reject", first.item)
    ben.decide(2, "never", second.item, when=NOON + timedelta(minutes=5))
    settle(clones, ["ann", "ben", "eva"])
    settle(clones, ["eva", "ann", "ben"])
    same_everywhere(clones)
    for clone in clones.values():
        pull = prs.load(clone.repo, 2)
        assert pull.state is PullState.OPEN
        assert [item.target for item in pull.live] == [third.target]
        words = {item.target: item.verdict for item in pull.items}
        assert (words[first.target], words[second.target]) == ("rejected", "never")
        assert clone.git("rev-parse", f"refs/heads/{pull.branch}").strip() == pull.tip
        assert clone.faults() == []
    eva.decide(2, "accept")
    assert eva.faults() == []


def test_an_undo_goes_back_past_another_number(clones: dict[str, Clone]) -> None:
    eva = clones["eva"]
    item = prs.load(eva.repo, 1).live[0]
    eva.decide(1, "reject", item.item)
    settle(clones, list(NAMES))
    accept_keys(clones)
    mine = next(pull for pull in prs.load_all(eva.repo) if any(one.run == item.run for one in pull.items))
    assert mine.id != 1
    eva.decide(mine.id, "undo")
    again = prs.load(eva.repo, mine.id)
    assert (again.id, again.branch) == (mine.id, mine.branch)
    assert item.run in {one.run for one in again.live}
    assert eva.faults() == []
    settle(clones, ["eva", "ann", "ben"])
    same_everywhere(clones)


def test_the_decisions_of_two_on_one_commit_are_both_there(clones: dict[str, Clone]) -> None:
    settle(clones, list(NAMES))
    ann, ben = clones["ann"], clones["ben"]
    item = prs.load(ann.repo, 3).live[0]
    ann.decide(3, "reject", item.item)
    ben.decide(3, "reject", item.item, when=NOON + timedelta(minutes=1))
    settle(clones, ["ben", "ann", "eva"])
    settle(clones, ["ben", "ann", "eva"])
    same_everywhere(clones)
    reasons = {json.loads(line)["reason"] for line in notes(clones["eva"].root, "decisions")[item.commit]}
    assert reasons == {"ann says no", "ben says no"}


def test_a_review_branch_that_a_person_moved_is_left_alone(clones: dict[str, Clone]) -> None:
    settle(clones, list(NAMES))
    ann, ben = clones["ann"], clones["ben"]
    pull = prs.load(ann.repo, 1)
    ben.git("switch", "-q", pull.branch)
    ben.git("commit", "-q", "--allow-empty", "-m", "mine")
    ben.git("switch", "-q", "main")
    own = ben.git("rev-parse", f"refs/heads/{pull.branch}")
    ann.decide(1, "reject", pull.live[0].item)
    ann.push()
    ben.pull()
    assert ben.git("rev-parse", f"refs/heads/{pull.branch}") == own
    assert prs.load(ben.repo, 1).revision == 2


# --- a new clone ------------------------------------------------------------------------------------------------------


def test_clone_and_init_see_everything_and_a_stranger_is_not_accepted(
    clones: dict[str, Clone], capsys: pytest.CaptureFixture[str]
) -> None:
    clones["ann"].push()
    place = clones["ann"].root.parent
    git("clone", "-q", str(place / "remote.git"), "new", cwd=place)
    new = Clone(place / "new")
    config = (new.root / ".git/config").read_bytes()
    sync.first(new.repo, NOON)
    said = capsys.readouterr().out
    assert "from origin: " in said
    assert "git pantheon keys accept" in said
    assert new.kept() == clones["ann"].kept()
    assert nights.load_report(new.repo).night.id == nights.load_report(clones["ann"].repo).night.id
    pull = prs.load(new.repo, 1)
    assert new.git("rev-parse", f"refs/heads/{pull.branch}").strip() == pull.tip
    assert (new.root / ".git/config").read_bytes() == config, "no refspec of ours in the user's configuration"
    assert nights.unfinished(new.repo) is None
    with pytest.raises(PantheonError, match="nobody here vouches for it") as caught:
        prdesk.decide(new.repo, 1, prdesk.Wish("accept"))
    assert "git pantheon keys accept" in caught.value.hint
    accept_keys({"new": new})
    assert "accepted" in prdesk.decide(new.repo, 1, prdesk.Wish("accept"))
    assert new.faults() == []


def test_a_stranger_cannot_put_more_on_a_stack(clones: dict[str, Clone]) -> None:
    settle(clones, list(NAMES))
    ann, ben, eva = clones.values()
    keys.accept(ben.repo, [desk.signer(ann.repo).fingerprint])
    pull = prs.load(eva.repo, 1)
    more = eva.repo.commit(eva.repo.tree_of(pull.tip), [pull.tip], "more\n", NOON, desk.signer(eva.repo))
    eva.repo.move_ref(f"{prs.PRS}1/r2", more, None, "x")
    rewrite(eva, 1, tip=more, revision=2)
    eva.push()
    ben.pull()
    assert prs.load(ben.repo, 1).tip == more
    with pytest.raises(PantheonError, match="nobody here vouches for it"):
        prdesk.decide(ben.repo, 1, prdesk.Wish("accept"))
    assert prs.load(ben.repo, 1).state is PullState.OPEN


def test_a_remote_that_cannot_be_reached_is_no_failure_of_init(
    clones: dict[str, Clone], capsys: pytest.CaptureFixture[str]
) -> None:
    ann = clones["ann"]
    ann.git("remote", "add", "gone", "../nowhere.git")
    sync.first(ann.repo, NOON)
    assert "cannot fetch from gone" in capsys.readouterr().out


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_remote_has_to_be_named_where_no_branch_says_it(make_repo: MakeRepo, clones: dict[str, Clone]) -> None:
    repo = Repo.discover(make_repo())
    with pytest.raises(RepositoryError, match="no remote"):
        sync.pull(repo, None, NOON, as_json=False)
    ann = clones["ann"]
    with pytest.raises(RepositoryError, match="no such remote") as caught:
        sync.push(ann.repo, "elsewhere", NOON, as_json=False)
    assert "origin" in caught.value.why
    ann.git("remote", "rename", "origin", "one")
    assert remotes.chosen(ann.repo, None) == "one"
    ann.git("remote", "add", "two", "../two.git")
    ann.git("switch", "-q", "-c", "local")
    with pytest.raises(RepositoryError, match="which remote"):
        remotes.chosen(ann.repo, None)
    ann.git("switch", "-q", "main")
    assert remotes.chosen(ann.repo, None) == "one", "the branch's own"


def test_what_the_server_refuses_is_told_and_nothing_is_changed(clones: dict[str, Clone]) -> None:
    ann = clones["ann"]
    bare = ann.root.parent / "remote.git"
    hook = bare / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho refs here are protected >&2\nexit 1\n")
    hook.chmod(0o755)
    before = ann.kept()
    with pytest.raises(RepositoryError, match="did not take") as caught:
        ann.push()
    assert "pre-receive hook declined" in caught.value.why
    assert refs(bare) == {}
    assert ann.kept() == before
    hook.unlink()
    shutil.move(bare, bare.with_name("moved.git"))
    with pytest.raises(RepositoryError, match="cannot fetch from origin") as caught:
        ann.pull()
    assert caught.value.hint.startswith("git ls-remote origin")


def test_a_push_sets_only_what_it_saw(clones: dict[str, Clone]) -> None:
    ann, ben = clones["ann"], clones["ben"]
    seen = remotes.fetch(ann.repo, "origin")
    ben.push()
    changes = sync.differences(ann.repo, seen, [], NOON)
    there = refs(ann.root.parent / "remote.git")
    refused = remotes.push(ann.repo, "origin", changes, print)
    assert refused
    assert any(one.stale for one in refused)
    assert refs(ann.root.parent / "remote.git") == there, "all or nothing"
    ann.push()
    assert set(there) - {name for name in there if "/prs/" in name} <= set(refs(ann.root.parent / "remote.git"))


def test_no_branch_and_no_tag_of_the_users_is_pushed(clones: dict[str, Clone]) -> None:
    ann = clones["ann"]
    ann.git("tag", "-a", "-m", "mine", "v1")
    ann.git("switch", "-q", "-c", "secret-plans")
    bare = ann.root.parent / "remote.git"
    before = git("for-each-ref", "refs/heads", "refs/tags", cwd=bare)
    ann.git("config", "push.followTags", "true")
    ann.push()
    assert git("for-each-ref", "refs/heads", "refs/tags", cwd=bare) == before


def test_nothing_is_merged_while_a_night_runs(clones: dict[str, Clone]) -> None:
    ann, ben = clones["ann"], clones["ben"]
    ann.push()
    with nights.alone(ben.repo), pytest.raises(RepositoryError, match="a night runs here"):
        ben.pull()


def test_another_clones_unfinished_night_is_not_resumed_here(clones: dict[str, Clone]) -> None:
    ann, ben = clones["ann"], clones["ben"]
    name = next(ref for ref in ann.kept() if ref.startswith(nights.NIGHTS))
    started = next(oid for oid, _, message in ann.repo.history(name, 100) if message.endswith(": freeze\n"))
    ann.repo.move_ref(name, started, ann.repo.ref(name), "as if it had been killed")
    assert nights.unfinished(ann.repo) == name.removeprefix(nights.NIGHTS)
    ann.push()
    ben.pull()
    assert ben.repo.ref(name) == started
    assert nights.unfinished(ben.repo) is None


# --- what this version does not know ----------------------------------------------------------------------------------


def rewrite(clone: Clone, number: int, **more: Any) -> bytes:
    """As if a newer version had written one more operation; the record's bytes."""
    name = f"{prs.PRS}{number}/meta"
    at = clone.repo.ref(name) or ""
    data = pretty({**reunion.read(clone.repo, at), **more})
    tree = clone.repo.write_tree(None, {"pr.json": (0o100644, clone.repo.write_blob(data))})
    signer = desk.signer(clone.repo)
    clone.repo.move_ref(name, clone.repo.commit(tree, [at], "hover: PR 1 x\n", NOON, signer), at, "hover")
    return data


@pytest.mark.parametrize("more", [{"schema_version": 9}, {"weather": {"wind": [1]}}])
def test_a_pr_of_a_newer_version_is_told_and_carried_unharmed(clones: dict[str, Clone], more: dict[str, Any]) -> None:
    settle(clones, list(NAMES))
    ann, ben, _ = clones.values()
    data = rewrite(ann, 2, **more)
    ben.decide(1, "reject")
    settle(clones, ["ann", "ben", "eva"])
    same_everywhere(clones)
    for clone in clones.values():
        assert [pull.id for pull in prs.load_all(clone.repo)] == [1, 3]
        assert prs.look(clone.repo).newer == [2]
        assert any("PR 2 was written by a newer version: upgrade" in line for line in standing(clone))
        with pytest.raises(NewerRecord):
            prs.load(clone.repo, 2)
        prs.mend(clone.repo, NOON, desk.signer(clone.repo))
        assert clone.repo.ref(f"{prs.PRS}2/r1"), "no revision of it is swept away"
        assert clone.repo.read_path(clone.repo.ref(f"{prs.PRS}2/meta") or "", "pr.json") == data


def test_two_versions_that_both_went_on_lose_nothing(clones: dict[str, Clone]) -> None:
    settle(clones, list(NAMES))
    ann, ben, eva = clones.values()
    ben.decide(2, "reject")
    rewrite(ann, 2, schema_version=9, weather="fair", state="accepted")
    settle(clones, ["ben", "ann", "eva"])
    settle(clones, ["ann", "ben", "eva"])
    same_everywhere(clones)
    record = reunion.read(eva.repo, eva.repo.ref(f"{prs.PRS}2/meta") or "")
    assert (record["schema_version"], record["weather"], record["state"]) == (9, "fair", "accepted")


def test_a_namespace_of_a_newer_version_is_carried_but_never_rewritten(
    clones: dict[str, Clone], capsys: pytest.CaptureFixture[str]
) -> None:
    ann, ben, eva = clones.values()
    name = "refs/pantheon/weather/today"
    one = ann.repo.commit(ann.repo.write_tree(None, {}), [], "one\n", NOON)
    ann.repo.move_ref(name, one, None, "x")
    settle(clones, list(NAMES))
    assert {clone.repo.ref(name) for clone in clones.values()} == {one}
    two, three = (ann.repo.commit(ann.repo.write_tree(None, {}), [one], f"{word}\n", NOON) for word in ("two", "three"))
    ann.repo.move_ref(name, two, one, "x")
    ann.push()
    ben.git("fetch", "-q", str(ann.root), three)  # not of ours, and nothing points to it yet
    ben.repo.move_ref(name, three, one, "x")
    ben.push()
    assert "upgrade git-pantheon" in capsys.readouterr().out
    assert ben.repo.ref(name) == three
    assert refs(ann.root.parent / "remote.git")[name] == two
    eva.pull()
    assert eva.repo.ref(name) == two


def test_what_is_no_record_is_not_taken(clones: dict[str, Clone], capsys: pytest.CaptureFixture[str]) -> None:
    ann, ben, _ = clones.values()
    repo = ann.repo
    for name, file in ((f"{prs.PRS}9/meta", "pr.json"), (artifacts.run_ref("abcdef0123456789"), "run.json")):
        tree = repo.write_tree(None, {file: (0o100644, repo.write_blob(b"[1]"))})
        repo.move_ref(name, repo.commit(tree, [], "open: PR 9 x\n", NOON), None, "x")
    ann.git("push", "-q", "origin", "refs/pantheon/*:refs/pantheon/*")
    ben.pull()
    said = capsys.readouterr().out
    assert "PR 9 was not taken" in said
    assert "abcdef0123456789 was not taken" in said
    assert len(prs.load_all(ben.repo)) == 2, "its own, and that of the other clone"
    assert len(list(artifacts.list_runs(ben.repo))) == 8


# --- names that two clones used ---------------------------------------------------------------------------------------


def fake_night(clone: Clone, when: datetime) -> str:
    """A night that a clone without a remote had: its id does not say whose it is."""
    repo, base = clone.repo, clone.repo.head().commit
    tree = repo.write_tree(None, {"night.json": (0o100644, repo.write_blob(clone.root.name.encode()))})
    start = repo.commit(tree, [base], "night 2026-03-05-1: freeze\n", when, desk.signer(repo))
    repo.move_ref(f"{nights.NIGHTS}2026-03-05-1", start, None, "x")
    run = "abcdef0123456789"
    newer = {"schema_version": 9, "base": base, "night": "2026-03-05-1", "by": clone.root.name}
    record = json.dumps(newer).encode()
    tree = repo.write_tree(None, {"run.json": (0o100644, repo.write_blob(record))})
    made = repo.commit(tree, [base], f"run {run}: failed\n", when, desk.signer(repo))
    repo.move_ref(artifacts.run_ref(run), made, None, "x")
    return start


@pytest.mark.parametrize("order", [["ann", "ben"], ["ben", "ann"]])
def test_two_nights_of_one_name_are_both_kept(clones: dict[str, Clone], order: list[str]) -> None:
    ann, ben = clones["ann"], clones["ben"]
    older, later = fake_night(ann, NOON), fake_night(ben, NOON + timedelta(minutes=1))
    settle(clones, [*order, "eva"])
    settle(clones, [*order, "eva"])
    same_everywhere(clones)
    for clone in clones.values():
        assert clone.repo.ref(f"{nights.NIGHTS}2026-03-05-1") == older
        assert clone.repo.ref(f"{nights.NIGHTS}2026-03-05-1-{later[:4]}") == later
        run = clone.repo.ref(artifacts.run_ref("abcdef0123456789")) or ""
        assert json.loads(clone.repo.read_path(run, "run.json") or b"")["by"] == "ann"
        sides = clone.repo.commit_info(run).parents[-2:]
        assert [json.loads(clone.repo.read_path(side, "run.json") or b"")["by"] for side in sides] == ["ann", "ben"]


def test_what_was_collected_does_not_come_back(clones: dict[str, Clone]) -> None:
    settle(clones, list(NAMES))
    ann, ben = clones["ann"], clones["ben"]
    name = next(ref for ref in ann.kept() if ref.startswith(artifacts.RUNS))
    oid = ann.repo.ref(name) or ""
    home = ann.git("rev-list", "-1", oid).strip()
    archive.tell(
        ann.repo, [Collected(ref=name, oid=oid, why="old", when=NOON, homes=(home,))], NOON, desk.signer(ann.repo)
    )
    ann.repo.move_ref(name, None, oid, "collected")
    ann.pull()
    assert ann.repo.ref(name) is None
    ann.push()
    bare = ann.root.parent / "remote.git"
    assert name not in refs(bare)
    ben.push()
    assert name not in refs(bare)
    assert ben.repo.ref(name) == oid, "ours stays until our own gc"
    ann.pull()
    assert ann.repo.ref(name) is None


def test_a_second_pull_and_push_do_nothing(clones: dict[str, Clone], capsys: pytest.CaptureFixture[str]) -> None:
    settle(clones, list(NAMES))
    before = same_everywhere(clones)
    capsys.readouterr()
    for clone in clones.values():
        clone.pull()
        clone.push()
    said = capsys.readouterr().out
    assert said.count("nothing new in origin") == 3
    assert said.count("origin has everything") == 3
    assert same_everywhere(clones) == before
    assert standing(clones["ann"]) == []
