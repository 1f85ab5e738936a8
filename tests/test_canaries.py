"""Canaries in a night: how many, made of what, unseen by who judges them, offered to nobody, and what they halt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeRepo, git
from test_night import NOTES, TASK, WHEN, freeze, night, play

from pantheon import artifacts, canaries, desk, nights, prs, recorded
from pantheon.engine import ScriptedEngine
from pantheon.errors import RepositoryError
from pantheon.git import Repo
from pantheon.records import Item, Outcome, Record
from pantheon.survey import survey
from pantheon.tools import registry
from pantheon.tools.match import Matched
from pantheon.tools.workspace import Workspace
from pantheon.verify import load_trust, verify

HALF = "[gate]\ncanaries = 0.5\n"
MORE = {
    "docs/lamps.md": "# Lamps of the lighthouse\n\nThe lamps of the lighthouse burn oil. A keeper trims the lamps, "
    "and the lighthouse is dark by day.\n",
    "docs/nets.md": "# Mending nets\n\nNets are mended on the quay. Torn nets are hung up, and mending starts in March "
    "with 12 needles.\n\nWhoever mends two nets a day is paid for three, as the harbour office wrote.\n",
    "docs/seals.md": "# Seals on the sandbank\n\nSeals rest on the sandbank at low water. Nobody walks to the seals, "
    "and the sandbank is closed in June.\n",
    "docs/salt.md": "# Salt for the winter\n\nSalt is stored dry. In winter the salt is strewn on the stairs, "
    "and a sack of salt lasts for 30 days.\n",
}


def built(make_repo: MakeRepo, settings: str = HALF, **more: str) -> Repo:
    files = {**NOTES, **MORE, "docs/tasks/tidy.md": TASK, ".pantheon/pantheon.toml": settings, **more}
    return Repo.discover(make_repo(files))


def sown(frozen: nights.Frozen) -> list[Item]:
    return [item for item in frozen.items if item.canary is not None]


@pytest.fixture
def yes_men(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reviewers whose every answer is taken for the proposed one."""
    for name in ("match_title", "match_tags", "pick_title", "pick_topic"):
        field = "title" if name.endswith("title") else "tags"
        found = Matched(field=field, chosen="yes", proposed=("yes",), same=True)

        def yes(ws: Workspace, args: Record, found: Matched = found) -> Matched:
            return found

        monkeypatch.setitem(registry.TOOLS, name, dataclasses.replace(registry.TOOLS[name], run=yes))
    yield


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 1), (0.2, 2), (0.35, 4)])
def test_so_many_of_a_night_are_canaries_and_half_of_them_are_wrong(
    make_repo: MakeRepo, share: float, count: int
) -> None:
    frozen = freeze(built(make_repo, f"[gate]\ncanaries = {share}\n"))
    found = sown(frozen)
    assert (len(found), frozen.night.canaries, frozen.night.items) == (count, count, 8)
    assert len(frozen.items) == 8 + count
    assert [item.canary.good for item in found if item.canary].count(False) == (count + 1) // 2
    assert len({item.target for item in found}) == count
    assert (frozen.night.seeded_base is None) == (count == 0)


def test_the_same_night_gets_the_same_canaries_and_another_night_others(make_repo: MakeRepo) -> None:
    repo = built(make_repo, "[gate]\ncanaries = 0.2\n")
    found = survey(repo, repo.head().commit)
    planned = desk.make_plan(repo, found)
    one, again, other = (
        canaries.sow(found, planned, 0.3, name, WHEN, desk.signer(repo)) for name in ("n-1", "n-1", "n-2")
    )
    assert one == again
    assert {item.target for item in one.items} != {item.target for item in other.items}
    assert canaries.mixed(planned.items, one.items, "n-1") == canaries.mixed(planned.items, one.items, "n-1")
    assert [i for i in canaries.mixed(planned.items, one.items, "n-1") if i.canary is None] == list(planned.items)
    assert git("for-each-ref", "refs/pantheon", cwd=repo.root) == ""


def test_who_judges_a_canary_is_told_nothing_of_it(make_repo: MakeRepo, tmp_path: Path) -> None:
    """Its target breaks the rules where it starts from, as an item's does; no prompt, input or verdict names it."""
    repo = built(make_repo)
    report = night(repo, tmp_path)
    assert report.canaries
    for run in report.canaries:
        assert run.item.findings and run.item.canary is not None
        names = ("canary", "seeded", "sown", run.item.canary.kind)
        files = repo.entries(repo.refs(artifacts.RUNS)[artifacts.run_ref(run.id)])
        for path, entry in files.items():
            if path.endswith(("llm_prompt.txt", "input.json", "review.json", "tool_calls.jsonl")):
                text = repo.read_blob(entry.oid).decode()
                assert not [name for name in names if name in text], path


def test_right_canaries_pass_and_wrong_ones_do_not_and_nobody_is_offered_one(
    make_repo: MakeRepo, tmp_path: Path
) -> None:
    repo = built(make_repo)
    report = night(repo, tmp_path)
    assert len(report.runs) == 8
    assert {run.outcome for run in report.canaries} == {Outcome.SEEDED}
    assert all(run.result is None for run in report.canaries)
    offered = {item.run for pull in prs.load_all(repo) for item in pull.items}
    assert not offered & {run.id for run in report.canaries}
    (pull,) = report.prs
    assert {item.target for item in pull.items if item.run} == {r.item.target for r in report.runs if r.passed}
    (docops,) = report.quality
    assert sum(kind.seeded for kind in docops.canaries) == len(report.canaries)
    found = verify(repo.common_dir, load_trust(repo.common_dir), "all")
    assert not found.faults, found.faults
    assert {run.id for run in recorded.runs_of(repo, report.night.id)} == {run.id for run in report.runs}
    with pytest.raises(RepositoryError, match="it is a canary"):
        recorded.find_run(repo, report.canaries[0].id)
    for run in report.canaries:
        assert run.item.canary is not None
        assert run.passed == run.item.canary.good, (run.item.canary.kind, run.item.target, run.node, run.reason)
    assert (docops.state, docops.false_pass.hits) == ("open", 0)
    assert docops.precision.value == 1.0


def test_reviewers_that_always_say_pass_halt_the_night(make_repo: MakeRepo, tmp_path: Path, yes_men: None) -> None:
    repo = built(make_repo)
    report = night(repo, tmp_path)
    (docops,) = report.quality
    assert docops.state == "halted"
    assert docops.false_pass.hits == docops.false_pass.of > 0
    assert docops.opens
    assert report.prs == ()
    assert prs.load_all(repo) == []
    assert git("for-each-ref", "refs/heads/pantheon", cwd=repo.root) == ""
    assert {(run.outcome, run.node) for run in report.runs} == {(Outcome.PARKED, "halted")}
    assert all("the gate is halted: both reviewers passed" in run.reason for run in report.runs)
    assert all("It opens with" in run.reason for run in report.runs)
    assert len(desk.make_plan(repo, survey(repo, repo.head().commit)).items) == 8  # they come again
    found = verify(repo.common_dir, load_trust(repo.common_dir), "all")
    assert not found.faults, found.faults


def test_a_night_that_was_interrupted_keeps_its_canaries(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = built(make_repo)
    frozen = freeze(repo)
    again = nights.thaw(repo, frozen.night.id, lambda base: survey(repo, base))
    assert again.items == frozen.items
    report = play(repo, again, ScriptedEngine(), tmp_path / "work")
    assert len(report.canaries) == frozen.night.canaries > 3


def test_a_flow_that_makes_files_is_measured_too(make_repo: MakeRepo, tmp_path: Path) -> None:
    """Its seeded base lacks the files that a person wrote: to the rules they are not there."""
    module = 'def {0}(hour: int) -> int:\n    """The {0} of the tide."""\n    return hour * 2\n'
    test = "from {0} import {0}\n\n\ndef test_{0}() -> None:\n    assert {0}(3) == 6\n"
    named = ("height", "depth", "current", "range")
    files = {f"{name}.py": module.format(name) for name in (*named, "swell", "ebb", "flood")}
    files |= {f"tests/test_{name}.py": test.format(name) for name in named}
    task = TASK.replace('labels: ["docops"]', 'labels: ["test-stub"]').replace("docs/*.md", "*.py")
    task = task.replace('  acceptance:\n    - run: "frontmatter"\n    - run: "links"\n', "")
    repo = Repo.discover(make_repo({**files, "docs/tasks/tidy.md": task, ".pantheon/pantheon.toml": HALF}))
    found = survey(repo, repo.head().commit)
    planned = desk.make_plan(repo, found)
    assert {item.target for item in planned.items} == {"swell.py", "ebb.py", "flood.py"}
    sown_ = canaries.sow(found, planned, 0.5, "n-1", WHEN, desk.signer(repo))
    assert len(sown_.items) == 3 and sown_.notes == ()
    assert {item.flow for item in sown_.items} == {"test-stub"}
    assert {item.canary.good for item in sown_.items if item.canary} == {True, False}
    assert sown_.base is not None
    for item in sown_.items:
        assert item.target.removesuffix(".py") in named
        assert f"tests/test_{item.target}" not in repo.entries(sown_.base)
