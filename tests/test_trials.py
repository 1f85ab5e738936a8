"""Two versions of an agent on the held-out items: which items, what each came to, and that nothing else happened."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from conftest import MakeRepo, git, write_files
from held_out_notes import AGENT, HELD, TAUGHT, Learned, build, note
from provenance import TASK
from test_night import night
from test_replay import snapshot
from test_warm import processes

from pantheon import artifacts
from pantheon.engine import ScriptedEngine
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.lessons import Trial
from pantheon.records import Agent
from pantheon.shadow import shadow_of
from pantheon.survey import survey
from pantheon.training import lineage, trials
from pantheon.training.promote import successor

BEFORE, AFTER = None, "sha256:" + "1" * 64


def choose(own: Repo, shadow: Repo, trained: tuple[str, ...] = (), most: int | None = None) -> trials.Paper:
    head = survey(own, own.head().commit)
    results = [run.result for run in artifacts.list_runs(own) if run.result]
    line = lineage.read(own, head.base, head.config.settings.training, results)
    return trials.choose(own, shadow, head, line, AGENT, trained=trained, most=most)


def in_force(repo: Repo) -> Agent:
    return survey(repo, repo.head().commit).config.agents[AGENT]


def compared(
    own: Repo, engine: ScriptedEngine, tmp_path: Path, trained: tuple[str, ...] = ()
) -> tuple[list[Trial], list[Trial], trials.Paper]:
    """The whole way of a bench, which leaves the repository as it was."""
    seen = snapshot(own.root)
    with shadow_of(own, tmp_path / "cache") as shadow:
        paper = choose(own, shadow, trained)
        agent = in_force(own)
        versions = (agent, successor(agent, AFTER))
        before, after = asyncio.run(trials.run(own, shadow, paper, versions, engine, shadow.root / "work"))
    assert snapshot(own.root) == seen
    return before, after, paper


def targets(paper: trials.Paper) -> set[str]:
    return {held.item.target for held in paper.items}


def test_held_out_items_run_with_both_versions_and_nothing_is_left_of_it(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 6)
    bad = HELD[:4]
    engine = Learned({BEFORE: bad, AFTER: bad[3:]})
    before, after, paper = compared(repo, engine, tmp_path)
    assert targets(paper) == set(HELD[:6])
    assert [one.item for one in before] == [one.item for one in after]
    failed = [{one.family for one in side if not one.passed} for side in (before, after)]
    assert failed == [set(bad), set(bad[3:])]
    assert all(one.reviewed == ("pass" if one.passed else "") for one in (*before, *after))
    assert sum(one.tool_errors for one in before) > sum(one.tool_errors for one in after) > 0
    assert all(0 <= one.tool_errors <= one.calls for one in (*before, *after))
    assert all(one.reason and one.tool_errors for one in before if not one.passed)
    assert engine.asked[BEFORE]
    assert engine.asked[AFTER]


def test_one_worker_makes_the_checks_of_both_versions(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = processes(monkeypatch)
    before, after, _ = compared(build(make_repo, 4), Learned({}), tmp_path)
    assert len(before) == len(after) > 1
    assert [one.split()[0] for one in started if one.startswith("pantheon.")] == ["pantheon.tools.worker"]


def test_what_one_was_trained_on_never_measures_it(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 5)
    git("mv", HELD[0], "docs/moved.md", cwd=repo.root)
    write_files(repo.root, {HELD[9]: note(HELD[1]) + "One line more.\n"})  # another file with the text of one
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "moved", cwd=repo.root)
    _, _, paper = compared(repo, Learned({}), tmp_path, trained=(HELD[0], HELD[1]))
    assert targets(paper) == set(HELD[2:5])
    assert paper.notes == ("3 items left out: something was learned from them",)
    assert not targets(paper) & set(TAUGHT)


def test_an_item_of_a_night_is_run_at_its_base_the_latest_of_each_family(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 3)
    first = repo.head().commit
    report = night(repo, tmp_path, Learned({BEFORE: HELD[:1]}))
    assert len(report.prs[0].live) == 5
    git("merge", "-q", report.prs[0].tip, cwd=repo.root)  # what was accepted breaks no rule any more
    git("mv", HELD[0], "docs/elsewhere.md", cwd=repo.root)
    write_files(repo.root, {HELD[3]: note(HELD[3])})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "on", cwd=repo.root)
    _, _, paper = compared(repo, Learned({}), tmp_path)
    bases = {held.item.target: held.base for held in paper.items}
    assert bases == {**dict.fromkeys(HELD[:3], first), HELD[3]: repo.head().commit}
    (again,) = (held for held in paper.items if held.item.target == HELD[0])
    assert again.family == HELD[0]


def test_all_items_go_by_the_configuration_of_head(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 2)
    first = repo.head().commit
    night(repo, tmp_path)
    packaged = Path(__file__).parent.parent / "templates/pantheon/rules/frontmatter.toml"
    assert packaged.is_file()
    agent = Path(__file__).parent.parent / f"templates/pantheon/agents/{AGENT}.toml"
    text = agent.read_text().replace("version = 1", "version = 7")
    write_files(repo.root, {f".pantheon/agents/{AGENT}.toml": text})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "seven", cwd=repo.root)
    before, _, paper = compared(repo, Learned({}), tmp_path)
    assert {held.base for held in paper.items} == {first}
    assert {label for held in paper.items for label in held.item.agents.values() if AGENT in label} == {f"{AGENT}@7"}
    assert all(one.passed for one in before)


def test_of_too_many_items_the_same_ones_count_every_time(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 6)
    with shadow_of(repo, tmp_path / "cache") as shadow:
        some = [targets(choose(repo, shadow, most=3)) for _ in range(2)]
        every = choose(repo, shadow)
    assert some[0] == some[1]
    assert some[0] == {held.item.target for held in every.items[:3]}


def test_a_note_on_which_the_agent_has_nothing_to_do_tells_nothing(make_repo: MakeRepo, tmp_path: Path) -> None:
    whole = "---\ntitle: 'The anchor log'\nslug: 'Wrong Slug'\n---\n# The anchor log\n\nIt is kept here.\n"
    repo = build(make_repo, 2)
    write_files(repo.root, {HELD[5]: whole})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "more", cwd=repo.root)
    before, after, paper = compared(repo, Learned({}), tmp_path)
    asked = {one.family for one in before}
    assert asked == {one.family for one in after}
    assert asked >= set(HELD[:2])
    assert all(one.calls for one in before)
    assert len(paper.items) >= len(before)


def test_a_bench_goes_on_where_it_was_killed(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 4)
    agent = in_force(repo)
    versions = (agent, successor(agent, AFTER))
    log: list[trials.Outcome] = []

    class Dies(Learned):
        def alive(self) -> bool:
            return len(log) < 5

    with shadow_of(repo, tmp_path / "cache") as shadow:
        paper = choose(repo, shadow)

        def go(engine: ScriptedEngine, name: str, done: list[trials.Outcome]) -> tuple[list[Trial], list[Trial]]:
            engine.window = 1
            told = log.append if not done else lambda _: None
            job = trials.run(repo, shadow, paper, versions, engine, shadow.root / name, done=done, told=told)
            return asyncio.run(job)

        whole = go(Learned({BEFORE: HELD[:2]}), "whole", [])
        text = "".join(f"{one.to_json()}\n" for one in log[:5]).encode() + b'{"side": "bef'
        engine = Learned({BEFORE: HELD[:2]})
        again = go(engine, "again", trials.read_outcomes(text))
    assert [one.model_copy(update={"seconds": 0.0}) for side in again for one in side] == [
        one.model_copy(update={"seconds": 0.0}) for side in whole for one in side
    ]
    kept = {(one.trial.item, one.side) for one in log[:5]}
    pairs = [held for held in paper.items if {(held.item.id, side) for side in trials.SIDES} <= kept]
    assert len(pairs) == 2  # a pair counts as a whole or not at all


def test_an_engine_that_is_gone_ends_it(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 2)

    class Gone(Learned):
        def of(self, runtime: object) -> ScriptedEngine:
            asyncio.get_running_loop().create_task(self.close())
            return self

    with pytest.raises(EngineError):
        compared(repo, Gone({}), tmp_path)


def test_what_nights_measured_of_these_reviewers_is_counted(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 3, **{".pantheon/pantheon.toml": "[gate]\ncanaries = 0.5\n", "docs/tasks/tidy.md": TASK})
    report = night(repo, tmp_path)
    git("merge", "-q", report.prs[0].tip, cwd=repo.root)
    write_files(repo.root, {path: note(path) for path in HELD[3:6]})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "more", cwd=repo.root)
    shutil.rmtree(tmp_path / "work")
    second = night(repo, tmp_path)
    assert second.canaries
    with shadow_of(repo, tmp_path / "cache") as shadow:
        paper = choose(repo, shadow)
        found = trials.measured(repo, paper, "scripted", "scripted")
        assert trials.measured(repo, paper, "vllm", "scripted")[0].of == 0
    quality = second.quality[0]
    assert found == (quality.true_pass, quality.false_pass)
    assert found[0].of + found[1].of > 0
