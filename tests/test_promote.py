"""An agent's new version on its way: offered, read, accepted, in force the next night, and back again."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import MakeRepo, git, write_files
from held_out_notes import AGENT, FILE, HELD, Learned, add_adapter, build
from morning_after import copy
from test_night import WHEN, freeze, play
from test_replay import snapshot
from test_webdesk import Client

from pantheon import adapters, desk, engines, prdesk, prs, publish, school, trust
from pantheon.cli import main
from pantheon.errors import ConfigError, EngineError, InputError, RepositoryError
from pantheon.git import Repo
from pantheon.lessons import Trial
from pantheon.places import places
from pantheon.promotion import compare
from pantheon.records import PullRequest, PullState
from pantheon.survey import read_config, survey
from pantheon.training import promote
from pantheon.verify import load_trust, verify

Out = pytest.CaptureFixture[str]


def offer(repo: Repo, adapter: str | None, *why: str) -> PullRequest:
    title = "5 of 6 held-out items instead of 2"
    return promote.offer(repo, AGENT, adapter, title=title, why=why, when=WHEN, signer=desk.signer(repo))


def agent_at(repo: Repo, commit: str = "HEAD") -> tuple[int, str | None]:
    oid = repo.resolve(commit)
    found = read_config(repo, oid, repo.entries(oid)).agents[AGENT]
    return found.version, found.runtime.adapter


def accept(repo: Repo, number: int) -> str:
    return prdesk.decide(repo, number, prdesk.Wish("accept"), places(os.environ))


def trusted(repo: Repo) -> bool:
    return trust.look(repo, repo.entries(repo.head().commit), places(os.environ).state).trusted


def faults(repo: Repo, what: str = "1") -> list[str]:
    return [f"{one.where}: {one.why}" for one in verify(repo.common_dir, load_trust(repo.common_dir), what).faults]


def test_an_offer_is_a_pr_like_any_other(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    repo = build(make_repo, 1)
    card = add_adapter(repo)
    head, index = repo.head(), (repo.git_dir / "index").read_bytes()
    pull = offer(repo, card.adapter, "5 of 6 held-out items instead of 2: 3 only now, 0 only before, p = 0.25")
    assert (repo.head(), (repo.git_dir / "index").read_bytes()) == (head, index)
    assert git("status", "--porcelain", cwd=repo.root) == ""
    assert pull.branch == f"pantheon/agents-{AGENT}/1"
    changed = git("diff", "--name-only", "main", pull.tip, cwd=repo.root).split()
    assert changed == [FILE, f".pantheon/prompts/{AGENT}.j2"]
    assert agent_at(repo, pull.tip) == (2, card.adapter)
    message = git("log", "-1", "--format=%B", pull.tip, cwd=repo.root)
    assert message.startswith(f"agents: {AGENT}@2: 5 of 6 held-out items instead of 2\n\n5 of 6 held-out items")
    assert f"Pantheon-Promotes: {AGENT}@2\nPantheon-Adapter: {card.adapter}\n" in message
    assert faults(repo) == []
    monkeypatch.chdir(repo.root)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["pr", "show", "1"]) == 0
    shown = capsys.readouterr().out
    assert "3 only now, 0 only before, p = 0.25" in shown
    assert "[--drop ITEM]" not in shown
    for args in (["pr"], ["status"], ["explain", "1"], ["pr", "diff", "1"], ["agents", "show", AGENT]):
        assert main(args) == 0
    said = capsys.readouterr().out
    assert f"{AGENT}@2: 5 of 6 held-out items instead of 2: git pantheon pr show 1" in said
    assert "0 items" not in said
    assert main(["reject", "1", "docs/anchor-log.md", "-m", "no"]) == 1
    assert main(["never", "1", "x"]) == 1
    assert "it has no items" in capsys.readouterr().err
    assert main(["reject", "1", "-m", "not yet"]) == 0
    assert "PR 1 is rejected; the version in force stays" in capsys.readouterr().out
    assert main(["undo", "1"]) == 0
    assert prs.load(repo, 1).state is PullState.OPEN
    assert faults(repo) == []


def test_what_is_accepted_is_in_force_the_next_night_and_stays_trusted(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 3)
    card = add_adapter(repo)
    offer(repo, card.adapter)
    assert accept(repo, 1) == "PR 1 accepted: it is in force on main from the next night on"
    assert agent_at(repo) == (2, card.adapter)
    assert trusted(repo)
    assert repo.ref(f"refs/heads/pantheon/agents-{AGENT}/1") is None
    frozen = freeze(repo)
    assert frozen.night.adapters == {f"{AGENT}@2": card.adapter}
    engine = Learned({})
    report = play(repo, frozen, engine, tmp_path / "work")
    assert engine.asked.keys() == {card.adapter}
    assert {label for run in report.runs for label in run.agents if AGENT in label} == {f"{AGENT}@2"}
    assert faults(repo) == []
    said = prdesk.decide(repo, 1, prdesk.Wish("undo"), places(os.environ))
    assert "is open again; main is back at" in said
    assert trusted(repo)
    assert agent_at(repo) == (1, None)


def test_a_file_of_ones_own_keeps_its_comments_and_other_changes_ask_for_trust(make_repo: MakeRepo) -> None:
    packaged = Path(__file__).parent.parent / f"templates/pantheon/agents/{AGENT}.toml"
    own = (
        packaged.read_text()
        .replace("[agent]\n", "# mine\n[agent]  # the one\n")
        .replace("version = 1", "version = 4 # v")
    )
    repo = build(make_repo, 1, **{FILE: own})
    state = places(os.environ).state
    card = add_adapter(repo)
    first = offer(repo, card.adapter)
    text = git("show", f"{first.tip}:{FILE}", cwd=repo.root)
    assert text == own.replace("version = 4", "version = 5").replace(
        'origin = "local"}', f'origin = "local", adapter = "{card.adapter}"}}'
    )
    said = accept(repo, 1)
    assert said.endswith("nothing of it runs until you trust it: git pantheon trust")  # nobody had trusted it before
    assert not trusted(repo)
    trust.record(trust.look(repo, repo.entries(repo.head().commit), state), state, WHEN)
    other = add_adapter(repo, 2, created_at=WHEN + timedelta(days=1), parent=card.adapter)
    second = offer(repo, other.adapter)
    write_files(repo.root, {".pantheon/pantheon.toml": "[gate]\ncanaries = 0.2\n"})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "settings", cwd=repo.root)
    assert "until you trust it" in accept(repo, second.id)  # the settings came before, and nobody read them


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (FILE, 'summary = "Choose', 'summary = "Chose'),
        (FILE, "max_steps = 8", "max_steps = 9"),
        (f".pantheon/prompts/{AGENT}.j2", "{% block", "{# more #}{% block"),
        (".pantheon/agents/doc.rename.toml", "version = 1", "version = 2"),
        (FILE, 'summary = "', '\xff = "'),
    ],
)
def test_trust_goes_on_for_a_version_and_an_adapter_only(make_repo: MakeRepo, name: str, old: str, new: str) -> None:
    repo = build(make_repo, 1)
    card = add_adapter(repo)
    pull = offer(repo, card.adapter)
    git("merge", "-q", pull.tip, cwd=repo.root)
    path = repo.root / name
    if not path.exists():
        packaged = Path(__file__).parent.parent / "templates/pantheon" / name.removeprefix(".pantheon/")
        write_files(repo.root, {name: packaged.read_bytes()})
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("latin-1"))
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "more than that", cwd=repo.root)
    state, after = places(os.environ).state, repo.head().commit
    assert not trust.carry(repo, pull.base, after, FILE, state, WHEN)
    assert trust.carry(repo, pull.base, pull.tip, FILE, state, WHEN)
    assert not trust.carry(repo, pull.tip, after, FILE, state, WHEN)


def test_a_newer_offer_takes_the_place_of_the_older_one(make_repo: MakeRepo) -> None:
    repo = build(make_repo, 1)
    first, second = (add_adapter(repo, n, created_at=WHEN + timedelta(days=n)) for n in (1, 2))
    offer(repo, first.adapter)
    assert offer(repo, second.adapter).id == 2
    assert [pull.state for pull in prs.load_all(repo)] == [PullState.SUPERSEDED, PullState.OPEN]
    assert prs.load(repo, 1).reason == "PR 2 takes its place"
    assert faults(repo, "2") == faults(repo, "1") == []
    with pytest.raises(RepositoryError, match="it was superseded"):
        accept(repo, 1)


def test_what_cannot_be_offered_is_refused_before_anything_is_written(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = build(make_repo, 1)
    card = add_adapter(repo)
    desk.signer(repo)
    seen = git("for-each-ref", cwd=repo.root)
    weights = adapters.place(repo, AGENT, card.adapter) / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\1")
    with pytest.raises(EngineError, match="cannot use the adapter"):
        offer(repo, card.adapter)
    weights.write_bytes(whole)
    with pytest.raises(RepositoryError, match="in force already"):
        offer(repo, None)
    with pytest.raises(ConfigError, match="no such agent"):
        promote.offer(repo, "doc.nobody", None, title="", why=(), when=WHEN, signer=None)
    flow = (Path(__file__).parent.parent / "templates/pantheon/flows/docops.toml").read_text()
    write_files(repo.root, {".pantheon/flows/docops.toml": flow.replace(f'"{AGENT}"', f'"{AGENT}@1"')})
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "-m", "pinned", cwd=repo.root)
    with pytest.raises(ConfigError, match=f"needs {AGENT}"):
        offer(repo, card.adapter)
    git("switch", "-q", "--detach", cwd=repo.root)
    with pytest.raises(RepositoryError, match="detached"):
        offer(repo, card.adapter)
    git("switch", "-q", "main", cwd=repo.root)
    git("reset", "-q", "--hard", "HEAD~", cwd=repo.root)
    assert git("for-each-ref", cwd=repo.root) == seen


def test_back_to_the_one_before_by_a_pr_or_at_once(
    make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    repo = build(make_repo, 1)
    monkeypatch.chdir(repo.root)
    assert main(["agents", "rollback", AGENT]) == 1
    assert "it has no adapter" in capsys.readouterr().err
    first = add_adapter(repo)
    second = add_adapter(repo, 2, created_at=WHEN + timedelta(days=1), parent=first.adapter)
    for number, card in enumerate((first, second), 1):
        offer(repo, card.adapter)
        accept(repo, number)
    assert agent_at(repo) == (3, second.adapter)
    assert main(["agents", "rollback", AGENT]) == 0
    assert "next: git pantheon pr diff 3; git pantheon accept 3" in capsys.readouterr().out
    assert agent_at(repo) == (3, second.adapter)
    accept(repo, 3)
    assert agent_at(repo) == (4, first.adapter)  # a version is never given twice
    assert main(["agents", "rollback", AGENT, "--now"]) == 0
    assert "PR 4 accepted" in capsys.readouterr().out
    assert agent_at(repo) == (5, None)
    assert "adapter" not in git("show", f"HEAD:{FILE}", cwd=repo.root)
    assert trusted(repo)
    assert main(["agents", "rollback", AGENT, "--to", second.adapter[7:19], "--now"]) == 0
    assert agent_at(repo) == (6, second.adapter)
    assert main(["agents", "rollback", AGENT, "--to", "none", "--now"]) == 0
    assert main(["agents", "rollback", AGENT, "--to", "abc"]) == 1
    assert "0 of its 2 adapters" in capsys.readouterr().err
    assert faults(repo, "6") == []


def test_a_version_that_nobody_accepted_is_not_pushed(make_repo: MakeRepo) -> None:
    repo = build(make_repo, 1)
    pull = offer(repo, add_adapter(repo).adapter)
    base = pull.base
    git("merge", "-q", pull.tip, cwd=repo.root)
    line = f"refs/heads/main {repo.head().commit} refs/heads/main {base}"
    refused, said = publish.answer(repo, [line], remote="origin", protected=("main",), allow=False)
    assert refused
    assert f"{pull.tip[:12]}, which nobody accepted (open): PR 1" in said[0]
    git("reset", "-q", "--hard", base, cwd=repo.root)
    accept(repo, 1)
    line = f"refs/heads/main {repo.head().commit} refs/heads/main {base}"
    assert publish.answer(repo, [line], remote="origin", protected=("main",), allow=False) == (False, [])


def test_at_the_desk_it_is_read_and_accepted_like_any_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    repo = copy(tmp_path_factory)
    card = add_adapter(repo)
    pull = offer(repo, card.adapter, "5 of 6 held-out items instead of 2: 3 only now, 0 only before, p = 0.25")
    client = Client(repo, where=places(os.environ))
    csrf = client.enter()
    shown = client.get("/").text
    assert f"PR {pull.id}: {AGENT}@2: 5 of 6 held-out items instead of 2" in shown
    assert "3 only now, 0 only before, p = 0.25" in shown
    assert "0 items" not in shown
    assert AGENT in client.get(f"/pr/{pull.id}/diff").text
    done = client.post(f"/pr/{pull.id}", {"csrf": csrf, "verb": "accept", "back": ""})
    assert done.status_code in (200, 303)
    assert "it is in force on main from the next night on" in client.get("/").text
    assert agent_at(repo) == (2, card.adapter)
    assert trusted(repo)


# --- the commands ----------------------------------------------------------------------------------------------------


SCRIPTED = '[engine]\nkind = "scripted"\n'


@pytest.fixture
def scripted(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A repository whose engine is the scripted one: no adapter makes a difference to it."""
    repo = build(make_repo, 3, **{".pantheon/pantheon.toml": SCRIPTED})
    state = places(os.environ).state
    trust.record(trust.look(repo, repo.entries(repo.head().commit), state), state, WHEN)
    monkeypatch.chdir(repo.root)
    return repo


def test_a_bench_that_finds_no_difference_keeps_and_says_the_numbers(scripted: Repo, capsys: Out) -> None:
    card = add_adapter(scripted)
    look = ("for-each-ref", "--format=%(refname) %(objectname)")
    refs = git(*look, cwd=scripted.root)
    files = {name: digest for name, digest in snapshot(scripted.root).items() if not name.startswith(".git/")}
    index = (scripted.git_dir / "index").read_bytes()
    assert main(["bench", AGENT]) == 0
    said = capsys.readouterr().out
    assert f"{AGENT}@2 with adapter {card.adapter[7:19]} against {AGENT}@1 with no adapter, which is in force" in said
    assert "3 of 3 held-out items instead of 3: 0 only now, 0 only before, p = 1" in said
    assert "kept: it passes no more held-out items than the version in force" in said
    changed = set(git(*look, cwd=scripted.root).splitlines()) ^ set(refs.splitlines())
    assert {line.partition(" ")[0] for line in changed} == {f"refs/pantheon/adapters/{AGENT}"}  # its card
    assert {n: d for n, d in snapshot(scripted.root).items() if not n.startswith(".git/")} == files
    assert (scripted.git_dir / "index").read_bytes() == index
    assert not list((places(os.environ).cache / "benches").iterdir())
    kept = adapters.card(scripted, AGENT, card.adapter)
    assert kept.comparison is not None
    assert not kept.comparison.promote
    assert faults(scripted, "all") == []
    trials = git("show", f"refs/pantheon/adapters/{AGENT}:{card.adapter[7:]}/trials.jsonl", cwd=scripted.root)
    assert [json.loads(line)["side"] for line in trials.splitlines()] == ["before"] * 3 + ["after"] * 3
    assert main(["bench", AGENT, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["pr"] is None
    assert again["notes"][-1].startswith("it was compared before: 3 of 3 held-out items")
    assert faults(scripted, "all") == []
    assert main(["agents", "--json"]) == 0
    assert [row["held_out"] for row in json.loads(capsys.readouterr().out) if row["agent"].startswith(AGENT)] == [None]
    assert main(["agents", "show", AGENT]) == 0
    assert "3 of 3 (3 before): kept" in capsys.readouterr().out


def test_what_is_benched_is_what_was_trained(scripted: Repo, capsys: Out) -> None:
    assert main(["bench", AGENT]) == 1
    assert "it has no adapter yet" in capsys.readouterr().err
    card = add_adapter(scripted)
    weights = adapters.place(scripted, AGENT, card.adapter) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert main(["bench", AGENT, card.adapter]) == 1
    said = capsys.readouterr()
    assert "cannot use the adapter" in said.err
    assert not said.out
    assert adapters.card(scripted, AGENT, card.adapter).comparison is None


def test_nothing_is_benched_or_trained_while_a_night_runs(scripted: Repo, capsys: Out) -> None:
    add_adapter(scripted)
    with school.by_day(scripted, "cannot train", AGENT):
        assert main(["bench", AGENT]) == 1
        assert "a night or another training is running here" in capsys.readouterr().err
    assert main(["train", AGENT]) == 1
    assert "adapters are trained for a local model of vLLM's" in capsys.readouterr().err


def test_a_version_that_is_better_is_offered_once(make_repo: MakeRepo) -> None:
    repo = build(make_repo, 1)
    card = add_adapter(repo)

    def trials(passed: int) -> list[Trial]:
        return [Trial(item=f"i{n}", family=f"f{n}", base="b", passed=n < passed) for n in range(20)]

    found = compare(trials(2), trials(12), agent=AGENT, labels=("a@1", "a@2"), p_value=0.05)
    assert found.promote
    first = school._offer(repo, AGENT, card, found, ["a note"])
    assert first.title == f"{AGENT}@2: 12 of 20 held-out items instead of 2"
    assert first.text.splitlines()[0] == found.why[0]
    assert first.text.splitlines()[-2:] == ["a note", "learned from 40 rows of 20 runs: dataset dddddddddddd"]
    assert school._offer(repo, AGENT, card, found, []).id == first.id


@pytest.mark.parametrize(("text", "found"), [("4g", 4 << 30), ("512 MiB", 512 << 20), ("1T", 1 << 40)])
def test_sizes(text: str, found: int) -> None:
    assert school.size_of(text) == found


def test_what_is_no_size() -> None:
    for text in ("", "4", "0g", "-1g", "4gg"):
        with pytest.raises(InputError, match="such as 4g"):
            school.size_of(text)


@pytest.mark.parametrize("bad", [8, 3])
def test_better_by_more_than_chance_is_offered_and_by_chance_only_is_kept(
    make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch, capsys: Out, bad: int
) -> None:
    repo = build(make_repo, 10, **{".pantheon/pantheon.toml": SCRIPTED})
    state = places(os.environ).state
    trust.record(trust.look(repo, repo.entries(repo.head().commit), state), state, WHEN)
    monkeypatch.chdir(repo.root)
    card = add_adapter(repo)
    engine = Learned({None: HELD[:bad]})

    @asynccontextmanager
    async def by_day(*_: object) -> AsyncIterator[Learned]:
        yield engine

    monkeypatch.setattr(engines, "engine_by_day", by_day)
    assert main(["bench", AGENT]) == 0
    said = capsys.readouterr().out
    if bad == 3:
        assert "10 of 10 held-out items instead of 7: 3 only now, 0 only before, p = 0.25" in said
        assert "it takes about 24 held-out items, and there are 10" in said
        assert prs.load_all(repo) == []
        return
    assert "10 of 10 held-out items instead of 2: 8 only now, 0 only before, p = 0.0078" in said
    assert "next: git pantheon pr show 1; git pantheon accept 1" in said
    assert main(["accept", "1"]) == 0
    assert trusted(repo)
    assert agent_at(repo) == (2, card.adapter)
    planned = desk.make_plan(repo, survey(repo, repo.head().commit))
    assert {label for item in planned.items for label in item.agents.values() if AGENT in label} == {f"{AGENT}@2"}
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["agents"]) == 0
    assert f"+ adapter {card.adapter[7:19]}, 10 of 10 held-out items" in capsys.readouterr().out
    assert main(["agents", "show", AGENT]) == 0
    assert "10 of 10 (2 before): better  in force" in capsys.readouterr().out
    assert main(["bench", AGENT]) == 1
    assert f"it is in force, as {AGENT}@2" in capsys.readouterr().err
    assert faults(repo, "all") == []
