"""`git pantheon capacity` as a person meets it: before the first night, after some, and with damaged reports."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import TASK, MakeRepo, git
from rich.cells import cell_len

from pantheon import nights, past
from pantheon.cli import main
from pantheon.config import EngineSettings
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.records import Forecast, Item, Night, NightReport, NodeMetrics, Outcome, Run

NOTES = {f"docs/note-{n}.md": f"# Note {n}\n\nThe harbour keeps a log of every boat, number {n}.\n" for n in range(12)}
WIDTH = 80
Capfd = pytest.CaptureFixture[str]


@pytest.fixture
def root(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with twelve items in its queue, seen in a terminal of 80 columns."""
    found = make_repo({**NOTES, "docs/tasks/tidy.md": TASK})
    monkeypatch.chdir(found)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    return found


def report(number: int, *, wall_s: float = 100.0, engine: str = "vllm", runs: int = 30, **more: object) -> NightReport:
    """A night of `runs` items on a model of an engine, all alike."""
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    cost = NodeMetrics(
        seconds=60, queue_s=4, prefill_s=6, decode_s=40, engine_s=2, tool_s=9, model_calls=8, completion_tokens=230
    )
    name = f"{began:%Y-%m-%d}-1"
    model = "SmolLM2-135M-Instruct" if engine == "vllm" else engine
    night = Night(
        id=name, started_at=began, base="0" * 40, branch="main", budget_s=3600, window=40, engine=engine, model=model,
        items=runs,
    )  # fmt: skip
    ran = tuple(
        Run(
            id=f"{n:032x}", night=name, base="0" * 40, outcome=Outcome.ACCEPTED if n % 3 else Outcome.FAILED,
            item=Item(id=f"{n:016x}", task="t", flow="docops", target=f"docs/{n}.md", blob="1" * 40, findings=()),
            agents=("doc.frontmatter@1",), node_agents={"frontmatter": "doc.frontmatter@1"}, seconds=80 + n % 7,
            metrics={"frontmatter": cost},
        )
        for n in range(runs)
    )  # fmt: skip
    base = NightReport(
        night=night, finished_at=began + timedelta(seconds=wall_s), ended="finished", runs=ran, left=0, wall_s=wall_s,
        mean_batch=14.0,
    )  # fmt: skip
    return base.model_copy(update=more)


def end(root: Path, night: str, content: str) -> None:
    """A night's ref, with this as its report."""
    blob = git("hash-object", "-w", "--stdin", cwd=root, stdin=content.encode()).strip()
    tree = git("mktree", cwd=root, stdin=f"100644 blob {blob}\treport.json\n".encode()).strip()
    commit = git("commit-tree", tree, "-m", night, cwd=root).strip()
    git("update-ref", f"refs/pantheon/nights/{night}", commit, cwd=root)


def end_all(root: Path, *reports: NightReport) -> None:
    for one in reports:
        end(root, one.night.id, one.model_dump_json())


def shown(capfd: Capfd, *words: str) -> str:
    assert main(["capacity", *words]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert max(map(cell_len, said.out.splitlines())) <= WIDTH
    return said.out


def test_before_the_first_night_it_says_so_and_what_to_type(root: Path, capfd: Capfd) -> None:
    said = shown(capfd)
    assert "nothing is measured yet" in said
    assert "in the queue for tonight: 12 items" in said
    assert said.endswith("next: git pantheon night --now --budget 10m\n")
    found = json.loads(shown(capfd, "--json"))
    assert (found["forecast"], found["scenarios"], found["queue"]) == (None, [], {"docops": 12})


def test_a_dry_run_measures_no_engine(root: Path, capfd: Capfd) -> None:
    end_all(root, report(1, engine="scripted"))
    said = " ".join(shown(capfd).split())
    assert "nothing is measured yet: no night with vllm, model SmolLM2-135M-Instruct has ended here" in said
    assert "dry runs (scripted) measure no engine" in said


def test_after_some_nights_it_shows_what_they_measured(root: Path, capfd: Capfd) -> None:
    end_all(root, *(report(n, wall_s=95 + 5 * n) for n in (1, 2, 3)))
    said = shown(capfd)
    assert said.startswith("Measured in 3 nights, 2026-01-02-1 to 2026-01-04-1\nvllm, model SmolLM2-135M-Instruct\n")
    agent = next(line for line in said.splitlines() if line.startswith("doc.frontmatter@1"))
    assert agent.split() == ["doc.frontmatter@1", "720", "0.174", "0.250", "10.0", "23.0", "67%", "(56-76)", "of", "90"]
    assert "Erlang C: " in said
    assert "Tonight: 12 items and about 1 canary, budget 6.0 h" in said
    assert "(90% ranges, from 3 nights)" in said
    for name in ("as it is", "engine twice as fast", "items cut in two"):
        assert name in said
    found = json.loads(shown(capfd, "--json"))
    assert found["forecast"]["nights"] == 3
    assert found["forecast"]["items"] == 12
    assert found["measured"]["agents"][0]["calls"] == 720
    assert found["load"]["rho"] == pytest.approx(90 * 46 / 315 / found["load"]["slots"])


def test_a_budget_of_ones_own(root: Path, capfd: Capfd) -> None:
    end_all(root, report(1))
    long, short = (json.loads(shown(capfd, "--json", "--budget", text)) for text in ("6h", "30s"))
    assert short["budget_s"] == 30
    assert short["forecast"]["seconds"][1] <= 60
    assert short["scenarios"][0]["items"] < long["scenarios"][0]["items"]
    assert main(["capacity", "--budget", "tomorrow"]) == 1
    assert "cannot read the budget" in capfd.readouterr().err


def test_last_nights_forecast_is_compared_with_it(root: Path, capfd: Capfd) -> None:
    last = report(2, wall_s=150)
    told = Forecast(items=30, seconds=(80, 120), accepted=(15, 24), nights=1)
    end_all(root, report(1), last.model_copy(update={"night": last.night.model_copy(update={"forecast": told})}))
    said = shown(capfd)
    assert "Last night's forecast (2026-01-03-1)" in said
    assert "80 s to 2.0 min; was 2.5 min: outside, its middle -35%" in said
    assert "15 to 24; was 20: inside" in said


def test_a_short_queue_is_not_blamed_on_the_cut(root: Path, capfd: Capfd) -> None:
    end_all(root, report(1, mean_batch=3.0))
    said = " ".join(shown(capfd).split())
    assert "too few items in the queue to fill the batch (30 for a window of 40)" in said
    assert "too coarse" not in said


def test_an_empty_queue_shows_last_nights(root: Path, capfd: Capfd) -> None:
    end_all(root, report(1))
    (root / "docs/tasks/tidy.md").unlink()
    git("commit", "-q", "-a", "-m", "no task", cwd=root)
    said = " ".join(shown(capfd).split())
    assert "nothing is in the queue; what follows is for last night's queue" in said
    assert "as it is" in said


def test_no_colour_where_none_is_wanted(root: Path, capfd: Capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    end_all(root, report(1, mean_batch=3.0))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[33m" in colours(capfd)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in colours(capfd)


def colours(capfd: Capfd) -> str:
    assert main(["capacity"]) == 0
    return capfd.readouterr().out


def test_reports_that_cannot_be_read_are_left_out(root: Path, capfd: Capfd) -> None:
    end_all(root, report(1), report(2))
    end(root, "2026-02-01-1", '{"night": 7}')
    end(root, "odd", "no json")
    git("update-ref", "refs/pantheon/nights/2026-02-02-1", "HEAD", cwd=root)
    assert [one.night.id for one in nights.reports(Repo.discover(root), 10)] == ["2026-01-02-1", "2026-01-03-1"]
    assert "in 2 nights" in shown(capfd)


def test_the_latest_nights_count_in_their_order(root: Path) -> None:
    ended = [report(1), report(1), report(3)]
    for number, one in zip(("2", "10", "1"), ended, strict=True):
        end(root, f"{one.night.id[:10]}-{number}", one.model_dump_json())
    repo = Repo.discover(root)
    assert [one.finished_at.day for one in nights.reports(repo, 10)] == [2, 2, 4]
    assert len(nights.reports(repo, 2)) == 2


def test_plan_takes_its_time_from_the_nights_that_were(root: Path, capfd: Capfd) -> None:
    assert main(["plan"]) == 0
    assert ", a guess: no night has ended here yet" in capfd.readouterr().out
    end_all(root, report(1), report(2))
    assert main(["plan"]) == 0
    assert ", from 2 nights measured here" in capfd.readouterr().out
    assert main(["plan", "--json"]) == 0
    low, high = json.loads(capfd.readouterr().out)["forecast_s"]
    assert 0 < low < high


def test_a_night_about_to_be_frozen_gets_the_same_forecast(root: Path, capfd: Capfd) -> None:
    end_all(root, report(1), report(2))
    assert main(["plan", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    items = [Item.model_validate(item) for item in told["items"]]
    model = past.model_of(EngineSettings())
    repo = Repo.discover(root)
    expected = past.expected(repo, items, 0.1, budget_s=21_600, engine="vllm", model=model, window=0)
    assert expected is not None
    assert list(expected.seconds) == told["forecast_s"]
    guess = past.expected(repo, items, 0.1, budget_s=60, engine="openai", model="", window=0)
    assert guess is not None and guess.nights == 0  # no night with that engine was measured here
    assert past.expected(repo, [], 0.1, budget_s=60, engine="vllm", model=model, window=0) is None


def test_figures_need_no_engine_on_this_machine(root: Path, capfd: Capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(kind: str) -> int:
        raise EngineError("cannot start the engine", kind, "it is not installed")

    monkeypatch.setattr(past, "expected_window", missing)
    monkeypatch.setattr("pantheon.outlook.expected_window", missing)
    end_all(root, report(1))
    assert "budget 6.0 h, window 40" in shown(capfd)


def test_the_model_is_named_as_nights_name_it() -> None:
    assert past.model_of(EngineSettings()) == "SmolLM2-135M-Instruct"
    assert past.model_of(EngineSettings(model="/models/qwen")) == "qwen"
    assert past.model_of(EngineSettings(kind="scripted")) == "scripted"
    assert past.model_of(EngineSettings(kind="openai")) == ""


def test_canaries_are_a_share_of_the_whole_night() -> None:
    assert past.canaries_for({"docops": 80, "headers": 9}, 0.2) == 22
    assert past.canaries_for({"docops": 80}, 0.0) == 0
