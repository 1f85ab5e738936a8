"""Three clones over one bare remote, each with nights of its own: they come to the same, and nothing of any is lost."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import provenance
import pytest
from conftest import MakeRepo, git

from pantheon import artifacts, desk, keys, nights, prs, remotes, review, reunion, sync
from pantheon.engine import ScriptedEngine
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.records import PullRequest, PullState
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
            assert nights.night_tag(report.night.id) == keys.own_tag(Repo.discover(work / name)) != ""
    return work


def settle(clones: dict[str, Clone], order: list[str]) -> None:
    for name in order:
        clones[name].push()
    for name in reversed(order):
        clones[name].pull()


def accept_keys(clones: dict[str, Clone]) -> None:
    for clone in clones.values():
        keys.accept(clone.repo, [key.fingerprint for key in keys.listed(clone.repo) if key.published])


def same_everywhere(clones: dict[str, Clone]) -> dict[str, str]:
    found = [clone.kept() for clone in clones.values()]
    remote = refs(clones["ann"].root.parent / "remote.git")
    for name in NAMES:
        assert clones[name].kept() == remote, name
    assert not any(prs.torn(clone.repo) for clone in clones.values())
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
