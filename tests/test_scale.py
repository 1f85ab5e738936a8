"""Costs that must not grow with what is there, as counts: objects written, records made, reads of one thing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeRepo, git
from sample_night import morning as sample

from pantheon import desk, morning, nights, plan, prs, redact, screen
from pantheon.git import Repo
from pantheon.places import places
from pantheon.records import Agent, Finding, Flow, FlowNode, Look, Repair, Runtime, Task, TaskSpec, pretty

NOTES = "refs/notes/pantheon/artifacts"
WHEN = desk.now()


def objects(root: Path) -> int:
    lines = git("count-objects", "-v", cwd=root).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("count:", "in-pack:")))


def listened(monkeypatch: pytest.MonkeyPatch, method: str) -> list[str]:
    """The last argument of every call of a method of a repository from now on."""
    heard: list[str] = []
    true: Callable[..., object] = getattr(Repo, method)

    def listening(repo: Repo, *args: str) -> object:
        heard.append(args[-1])
        return true(repo, *args)

    monkeypatch.setattr(Repo, method, listening)
    return heard


def name(number: int) -> str:
    return hashlib.sha1(b"%d" % number).hexdigest()


def noted(repo: Repo, start: int, count: int) -> None:
    lines = {name(n): [f'{{"n":{n}}}'] for n in range(start, start + count)}
    repo.append_notes(NOTES, lines, "notes\n", WHEN)


def test_one_more_note_writes_as_much_beside_2000_as_beside_20(make_repo: MakeRepo) -> None:
    written = []
    for there in (20, 2000):
        root = make_repo(name=f"with-{there}")
        repo = Repo.discover(root)
        noted(repo, 0, there)
        before = objects(root)
        noted(repo, 5000, 1)
        written.append(objects(root) - before)
    assert written == [4, 4]  # the note, its directory, the root, the commit


def test_a_note_is_read_without_the_others(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = Repo.discover(make_repo())
    noted(repo, 0, 2000)
    read = listened(monkeypatch, "_items")
    assert repo.read_note(NOTES, name(7)) == b'{"n":7}\n'
    assert len(read) == 2


def a_plan(count: int) -> plan.Plan:
    spec = TaskSpec(flow="tidy", scope=("**/*.md",))
    task = Task(uuid="u", title="T", slug="t", status="ready", path="tasks/t.md", spec=spec)
    flow = Flow(
        name="tidy", nodes=(FlowNode(id="do", agent=("doer",)), FlowNode(id="merge", inputs=("do",), gate=True))
    )
    agents = {"doer": Agent(name="doer", version=1, summary="", runtime=Runtime(origin="local"))}

    def judge(flow: str, path: str) -> list[Finding]:
        return [Finding(rule="title", message="title is missing", repair=Repair.CHOOSE)]

    blobs = {f"docs/{n}.md": "b" * 40 for n in range(count)}
    return plan.freeze([task], blobs, judge, {"tidy": flow}, agents, ready=["ready"])


def test_items_share_what_is_the_same_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found = a_plan(300)
    assert len(found.items) == 300
    assert len({id(item.findings[0]) for item in found.items}) == 1
    assert len({id(item.agents) for item in found.items}) == 1
    assert [redact.clean_item(item) for item in found.items] == list(found.items)
    assert all(redact.clean_item(item) is item for item in found.items)
    assert found.items[0] == type(found.items[0]).model_validate(found.items[0].model_dump())


def test_a_secret_in_an_item_is_still_hidden() -> None:
    item = a_plan(1).items[0]
    token = "ghp_" + "Ab1" * 12
    dirty = item.model_copy(update={"hint": f"use {token}"})
    assert token not in redact.clean_item(dirty).to_json()


def pulls(repo: Repo, count: int) -> None:
    base = repo.head().commit
    for n in range(count):
        tip = repo.commit(repo.tree_of(base), [base], f"{n}\n", WHEN)
        named = {"task": "t", "slug": "tidy", "title": f"Part {n}", "night": "", "onto": "main", "base": base}
        prs.open_pull(repo, **named, tip=tip, items=(), when=WHEN, signer=None)


def test_a_record_of_a_pr_is_read_once_by_a_command(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_repo()
    pulls(Repo.discover(root), 5)
    repo = Repo.discover(root)
    read = listened(monkeypatch, "read_path")
    for _ in range(3):
        assert len(prs.load_all(repo)) == 5 and not prs.look(repo).damaged and not prs.torn(repo, prs.look(repo))
    assert read.count("pr.json") == 5


def test_a_long_list_says_what_a_short_one_says(
    make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = Repo.discover(make_repo())
    pulls(repo, 3)
    found = prs.load_all(repo)
    look = {pull.id: Look(word="base moved", said=f"{pull.id} moved", hint="do it") for pull in found}
    screen.pulls(found, False, look)
    short = capsys.readouterr().out
    monkeypatch.setattr(screen, "MANY", 2)
    screen.pulls(found, False, look)
    long = capsys.readouterr().out
    assert [line.split() for line in long.splitlines()] == [line.split() for line in short.splitlines()]


def test_status_lists_some_prs_and_counts_the_others(
    make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = Repo.discover(make_repo())
    pulls(repo, 4)
    monkeypatch.setattr(desk, "SHOWN", 3)
    desk.status(repo, places({"HOME": str(repo.root)}), as_json=False)
    assert "and 1 more PRs: git pantheon pr" in capsys.readouterr().out


def with_report(repo: Repo) -> str:
    report = sample().report
    data = pretty(report.model_dump(mode="json"))
    tree = repo.write_tree(None, {"report.json": (0o100644, repo.write_blob(data))})
    commit = repo.commit(tree, [repo.head().commit], "night\n", WHEN)
    repo.move_ref(f"{nights.NIGHTS}{report.night.id}", commit, None, "x")
    return report.night.id


def test_an_outline_says_of_a_night_what_its_report_says(make_repo: MakeRepo) -> None:
    repo = Repo.discover(make_repo())
    with_report(repo)
    whole, short = nights.load_report(repo), nights.outline(repo)
    assert sum(short.outcomes.values()) == len(whole.runs) and not short.report.runs
    assert all(short.outcomes[run.outcome] for run in whole.runs)
    assert (short.report.night, short.report.quality, short.report.left) == (whole.night, whole.quality, whole.left)


def test_a_report_is_parsed_once_by_a_command(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = Repo.discover(make_repo())
    night = with_report(repo)
    read = listened(monkeypatch, "read_path")
    morning.gather(repo, night, WHEN)
    assert read.count("report.json") == 1


def test_a_checkpoint_writes_what_changed(make_repo: MakeRepo) -> None:
    """The queue of a night is written once, whatever comes after."""
    root = make_repo({"docs/a.md": "# A\n"})
    repo = Repo.discover(root)
    report = sample().report
    frozen = nights.Frozen(report.night, tuple(run.item for run in report.runs), {}, None, ())  # type: ignore[arg-type]
    object.__setattr__(frozen, "night", report.night.model_copy(update={"base": repo.head().commit}))
    signer = desk.signer(repo)
    nights.checkpoint(repo, frozen, {}, "freeze", WHEN, signer)
    first = {path: entry.oid for path, entry in repo.entries(frozen.ref_at or "").items()}
    before = objects(root)
    frozen.items = ()  # were it written again, it would be another one
    frozen.runs = list(report.runs[:2])
    nights.checkpoint(repo, frozen, {}, "checkpoint", WHEN, signer)
    after = {path: entry.oid for path, entry in repo.entries(frozen.ref_at or "").items()}
    assert {path for path in after if after[path] != first[path]} == {"journal.jsonl"}
    assert objects(root) - before == 3  # the journal, the tree, the commit
