"""What the morning report gathers from git, and where `git pantheon report` puts it."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import test_growth
from conftest import git
from morning_after import copy

from pantheon import adapters, desk, morning, nights, page, past, plan, review
from pantheon.config import Config
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.places import places
from pantheon.records import Finding, Item, NightReport, Outcome, PullState, Record, Repair, Run
from pantheon.report import Morning
from pantheon.survey import survey

WHEN = datetime(2026, 11, 27, 7, tzinfo=UTC)


@pytest.fixture
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return copy(tmp_path_factory)


def later_night(repo: Repo, **changes: object) -> Record:
    """A second report in git, as another night would leave it."""
    first = nights.load_report(repo)
    night = first.night.model_copy(
        update={"id": "2026-12-01-1", "started_at": datetime(2026, 12, 1, tzinfo=UTC), **changes}
    )
    report = first.model_copy(update={"night": night, "prs": (), "runs": ()})
    blob = repo.write_blob(report.to_json().encode())
    tree = repo.write_tree(None, {"report.json": (0o100644, blob)})
    commit = repo.commit(tree, [first.night.base], "night\n", WHEN)
    repo.move_ref("refs/pantheon/nights/2026-12-01-1", commit, None, "test")
    return report


def test_a_pr_comes_with_the_runs_and_diffs_of_its_items(repo: Repo) -> None:
    found = morning.gather(repo)
    (view,) = found.pulls
    assert [item.item for item in view.items] == [item for item in view.pull.items if item.run]
    for item in view.items:
        assert item.run.id == item.item.run
        shown = git("show", "--format=", "--no-ext-diff", "-M", item.item.commit, cwd=repo.root)
        assert [line for line in item.patch.splitlines() if line[:1] in "+-"] == [
            line for line in shown.splitlines() if line[:1] in "+-"
        ]
    assert found.report == nights.load_report(repo)


def test_a_decision_shows_in_the_report_though_the_record_of_the_night_stays(repo: Repo) -> None:
    before = nights.load_report(repo)
    pull = morning.gather(repo).pulls[0].pull
    review.reject(repo, pull, items=(), reason="no", when=WHEN, signer=None)
    found = morning.gather(repo)
    assert found.report == before
    assert found.current.prs[0].state is PullState.REJECTED
    assert morning.current(repo) == found.current
    assert "git pantheon accept" not in page.html(found, morning.templates())


def test_an_open_pr_of_an_earlier_night_still_waits(repo: Repo) -> None:
    first = nights.load_report(repo)
    later_night(repo)
    found = morning.gather(repo)
    assert found.report.night.id == "2026-12-01-1"
    assert [one.night.id for one in found.past] == [first.night.id]
    assert len(found.pulls[0].items) == 4
    assert f"From night {first.night.id}." in page.html(found, morning.templates())
    assert morning.gather(repo, first.night.id).past == ()


def test_a_night_of_another_engine_is_no_past(repo: Repo) -> None:
    later_night(repo, engine="vllm")
    assert morning.gather(repo).past == ()


def test_a_run_that_is_gone_costs_its_item_and_no_more(repo: Repo) -> None:
    later_night(repo)
    run = morning.gather(repo).pulls[0].items[0].run
    repo.move_ref(
        f"refs/pantheon/runs/{run.id[:2]}/{run.id}", None, repo.ref(f"refs/pantheon/runs/{run.id[:2]}/{run.id}"), ""
    )
    assert len(morning.gather(repo).pulls[0].items) == 3


def test_what_the_night_keeps_of_its_page_has_no_secret(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    monkeypatch.setattr(morning, "_patch", lambda repo, item: f"@@ -1 +1 @@\n+token: {secret}\n".encode())
    report = nights.load_report(repo)
    assert secret in page.html(morning.compose(repo, report), morning.templates())
    assert secret.encode() not in morning.written(repo, report)


# --- where it goes ---------------------------------------------------------------------------------------------------


def report(repo: Repo, page_to: str, night: str | None = None) -> int:
    return desk.report(repo, night, as_json=False, markdown=False, page_to=page_to)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_into_a_pipe_the_page_is_printed(repo: Repo, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for to in ("", "-"):
        assert report(repo, to) == 0
        assert capsys.readouterr().out.startswith("<!doctype html>")
    assert os.listdir(here) == []


def test_at_a_terminal_it_is_a_file_here_and_it_says_which(
    repo: Repo, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    night = nights.load_report(repo).night.id
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    precious = here / "precious"
    precious.write_text("mine")
    name = f"pantheon-report-{night}.html"
    (here / name).symlink_to(precious)
    assert report(repo, "") == 0
    assert capsys.readouterr().out.startswith(f"wrote {name} (")
    assert precious.read_text() == "mine"
    assert (here / name).read_text().startswith("<!doctype html>")
    (here / name).unlink()
    assert report(repo, night) == 0  # the option takes the word that follows it
    assert (here / name).exists()


def test_a_file_of_your_own_choice(repo: Repo, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(repo, "x.html") == 0
    assert "wrote x.html" in capsys.readouterr().out
    with pytest.raises(PantheonError, match=r"cannot write the report: no/x\.html: No such file or directory"):
        report(repo, "no/x.html")


def test_a_night_that_there_is_not_is_said(repo: Repo) -> None:
    with pytest.raises(RepositoryError, match="no such night"):
        report(repo, "-", "2020-01-01-1")


def test_text_and_json_as_before(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.report(repo, None, as_json=True, markdown=False) == 0
    assert '"schema_version"' in capsys.readouterr().out
    assert desk.report(repo, None, as_json=False, markdown=True) == 0
    assert capsys.readouterr().out.startswith("# Night ")
    assert desk.report(repo, None, as_json=False, markdown=False) == 0
    assert "What needs you" in capsys.readouterr().out


def test_an_empty_morning_has_only_its_report(repo: Repo) -> None:
    found = nights.load_report(repo)
    assert Morning(found).current == found


# --- learning --------------------------------------------------------------------------------------------------------


def promoted(repo: Repo, held: tuple[int, int], *, adapter: str, live: tuple[int, int]) -> None:
    """An adapter of doc.frontmatter with a card, and a night in which it was in force and the first to try new items,
    of which so many passed."""
    card = test_growth.card(1, 200, (30, 100), held).model_copy(update={"adapter": adapter})
    adapters.write_card(repo, card, WHEN, desk.signer(repo))
    first = nights.load_report(repo)
    runs = tuple(
        first.runs[0].model_copy(
            update={
                "outcome": Outcome.ACCEPTED if n < live[0] else Outcome.FAILED,
                "node": "" if n < live[0] else "merge",
                "item": first.runs[0].item.model_copy(
                    update={"id": f"new{n}", "agents": {"frontmatter": "doc.frontmatter@2"}}
                ),
            }
        )
        for n in range(live[1])
    )
    in_force = {"agents": ("doc.frontmatter@2",), "adapters": {"doc.frontmatter@2": adapter}}
    report_of(repo, first, runs, **in_force)


def test_the_report_tells_what_was_learned_and_whether_it_lasts(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    assert morning.gather(repo).learned.agents == ()
    promoted(repo, (70, 100), adapter=test_growth.digest(1), live=(6, 30))
    (found,) = morning.gather(repo).learned.agents
    assert (found.version, found.per_night > 0) == (2, True)
    assert found.drift is not None and found.drift.alarm
    desk.report(repo, None, as_json=False, markdown=True)
    shown = capsys.readouterr().out
    assert "held-out pass, doc.frontmatter@2: **70 %**" in shown
    assert "drift: 6 of 30 new items passed, 20 % (10 to 37 %), where its held-out items have 70 %" in shown
    desk.report(repo, None, as_json=False, markdown=False)
    assert "doc.frontmatter@2" in capsys.readouterr().out
    assert "held-out pass, doc.frontmatter@2" in page.html(morning.gather(repo), morning.templates()).lower()


def test_status_says_that_a_version_is_ready(repo: Repo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promoted(repo, (85, 100), adapter=test_growth.digest(1), live=(0, 0))
    desk.status(repo, places({"HOME": str(tmp_path)}), as_json=False)
    assert "ready: doc.frontmatter@2 passes held-out items: 85 of 100" in capsys.readouterr().out


def test_what_nights_tried_is_cached_and_the_cache_may_be_lost(repo: Repo) -> None:
    engine = nights.load_report(repo).night.engine
    cache = repo.common_dir / "pantheon" / "tries"
    first = past.tried(repo, engine)
    assert [t.item for t in first[0].tries] == [run.item.id for run in nights.load_report(repo).runs]
    (kept,) = cache.iterdir()
    assert past.tried(repo, engine) == first
    kept.write_bytes(b"{}")
    (cache / ("0" * 40 + ".json")).write_bytes(b"old")
    assert past.tried(repo, engine) == first
    assert [path.name for path in cache.iterdir()] == [kept.name]
    shutil.rmtree(cache)
    cache.write_bytes(b"in the way")
    assert past.tried(repo, engine) == first
    assert past.tried(repo, "openai") == []


def test_rows_get_levels_from_what_nights_tried(repo: Repo) -> None:
    found = nights.load_report(repo)
    assert set(past.levels(repo, found.night.engine, 3)) == {run.item.id for run in found.runs}


def test_the_team_of_tonight_is_that_of_the_night_until_something_of_it_changes(repo: Repo) -> None:
    (night,) = past.tried(repo, "scripted")
    items = [run.item for run in nights.load_report(repo).runs]
    found = scripted(repo)
    tonight = past.teams(found, items, "")
    assert tonight == {one.item: one.team for one in night.tries}
    assert not set(tonight.values()) & set(past.teams(found, items, "", "larger").values())
    agent = found.agents["doc.frontmatter"]
    runtime = agent.runtime.model_copy(update={"adapter": test_growth.digest(1)})
    with_adapter = {**found.agents, agent.name: agent.model_copy(update={"runtime": runtime})}
    others = past.teams(found.model_copy(update={"agents": with_adapter}), items, "")
    assert not set(tonight.values()) & set(others.values())


def scripted(repo: Repo) -> Config:
    """The configuration of HEAD, with the engine that the night had and two levels."""
    found = survey(repo, repo.head().commit).config
    settings = found.settings.model_copy(
        update={
            "engine": found.settings.engine.model_copy(update={"kind": "scripted"}),
            "training": found.settings.training.model_copy(update={"levels": 2}),
        }
    )
    return found.model_copy(update={"settings": settings})


def test_what_a_night_tried_in_vain_waits_in_the_plan(repo: Repo) -> None:
    first = nights.load_report(repo)
    base = first.runs[0]

    def item(name: str, rule: str) -> Item:
        told = (Finding(rule=rule, message="m", repair=Repair.CHOOSE),)
        return base.item.model_copy(update={"id": name, "target": f"{name}.md", "findings": told})

    easy = [item(f"easy{n}", "missing:tags") for n in range(9)]
    hard = [item(f"hard{n}", "missing:title") for n in range(6)]
    failed = {"outcome": Outcome.FAILED, "node": "merge"}
    runs = [base.model_copy(update={"item": one, **(failed if one.id != "easy0" else {})}) for one in (*easy, *hard)]
    report_of(repo, first, tuple(runs))
    queue = plan.Plan((*hard, item("new", "missing:title")), (), ())
    shown = past.staged(repo, scripted(repo), queue).plan
    assert [one.id for one in shown.items] == ["new"]
    assert "6 items of level 2 of 2 wait" in shown.notes[0]
    assert len(past.staged(repo, scripted(repo), queue, "larger").plan.items) == 7


def report_of(repo: Repo, first: NightReport, runs: tuple[Run, ...], **changes: object) -> None:
    """A later night with these runs, in git."""
    night = first.night.model_copy(
        update={"id": "2026-12-01-1", "started_at": datetime(2026, 12, 1, tzinfo=UTC), **changes}
    )
    report = first.model_copy(update={"night": night, "prs": (), "runs": runs})
    tree = repo.write_tree(None, {"report.json": (0o100644, repo.write_blob(report.to_json().encode()))})
    repo.move_ref("refs/pantheon/nights/2026-12-01-1", repo.commit(tree, [night.base], "night\n", WHEN), None, "test")
