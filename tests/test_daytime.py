"""Survey and breakdown as a person meets them, on real git; the planner, which is hostile, and never there at night."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TASK, MakeRepo, git
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pantheon import daytime, enclosure, nights, planner, process, tasks
from pantheon.cli import main
from pantheon.errors import PantheonError, TaskError
from pantheon.git import Repo
from pantheon.places import places
from pantheon.records import Item

Type = Callable[..., tuple[int, str, str]]
NOTES = {f"docs/a/n{n}.md": f"# Note {n}\n\nThe boat number {n} lies in the harbour.\n" for n in range(7)}
NOTES |= {f"docs/b/n{n}.md": f"---\ntitle: Berth {n} of the harbour\n---\nBerth {n} is free.\n" for n in range(6)}
FUNCTION = "def {}(rows):\n" + "".join(f"    if rows[{n}] > {n}:\n        print(rows, {n})\n" for n in range(6))
CODE = {"lib/a.py": FUNCTION.format("one") + FUNCTION.format("two"), "lib/b.py": FUNCTION.format("three")}
PLANNER = '[planner]\ncommand = [{}]\nenv = ["PLAN_KEY"]\n'


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """`typed(root, *words)`: exit code, stdout and stderr of one command."""

    def go(root: Path, *words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(root)
        code = main(words)
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return go


def data(said: tuple[int, str, str]) -> Any:
    assert said[0] == 0, said
    return json.loads(said[1])


# --- survey ----------------------------------------------------------------------------------------------------------


def test_a_survey_shows_clusters_largest_first_and_writes_nothing(typed: Type, make_repo: MakeRepo) -> None:
    root = make_repo({**NOTES, **CODE})
    code, out, _ = typed(root, "survey")
    assert code == 0
    assert "git pantheon survey --write" in out
    found = data(typed(root, "survey", "--json"))["clusters"]
    assert [(c["count"], c["directory"]) for c in found if c["flow"] == "docops"] == [(7, "docs/a"), (6, "docs/b")]
    (alike,) = [c for c in found if c["rules"] == ["repetition"]]
    assert (alike["count"], alike["flow"], alike["draft"]) == (3, "", None)
    assert alike["examples"][0] == "lib/a.py:1: one"
    assert git("status", "--porcelain", cwd=root) == ""


def test_drafts_are_tasks_that_no_night_takes_and_a_second_run_writes_nothing(typed: Type, make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    first = data(typed(root, "survey", "--write", "--json"))["written"]
    assert all(path.startswith("docs/tasks/docops-docs-") for path in first)
    for path in first:
        task = tasks.parse((root / path).read_bytes(), path)
        assert task is not None
        assert task.status == "draft"
    assert git("diff", "--cached", "--name-only", cwd=root) == ""
    assert data(typed(root, "survey", "--write", "--json"))["written"] == []
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "drafts", cwd=root)
    again = data(typed(root, "survey", "--write", "--json"))
    assert (again["written"], again["covered_files"]) == ([], 13)
    assert data(typed(root, "plan", "--json"))["items"] == []
    for path in first:
        (root / path).write_bytes(tasks.with_status((root / path).read_bytes(), path, "ready"))
    git("commit", "-qam", "ready", cwd=root)
    queue = data(typed(root, "plan", "--json"))["items"]
    assert sorted(item["target"] for item in queue) == sorted(NOTES)


def test_limits_draft_the_largest_and_then_the_next(typed: Type, make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    assert "docops-docs-a-" in data(typed(root, "survey", "--write", "--limit", "1", "--json"))["written"][0]
    assert "docops-docs-b-" in data(typed(root, "survey", "--write", "--limit", "1", "--json"))["written"][0]


@pytest.mark.parametrize("status", ["ready", "done", "rejected", "blocked"])
def test_what_a_task_of_any_status_covers_is_not_offered_again(typed: Type, make_repo: MakeRepo, status: str) -> None:
    task = TASK.replace('"ready"', f'"{status}"').replace("docs/*.md", "docs/a/*.md")
    root = make_repo({**NOTES, "docs/tasks/t.md": task})
    found = data(typed(root, "survey", "--json"))
    assert [c["directory"] for c in found["clusters"]] == ["docs/b"]
    assert found["covered_files"] == 7


def test_a_file_that_is_there_is_never_written_over(typed: Type, make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    path = root / data(typed(root, "survey", "--json", "--limit", "1"))["clusters"][0]["draft"]["path"]
    path.parent.mkdir()
    path.write_text("mine")
    typed(root, "survey", "--write")
    assert path.read_text() == "mine"


def test_a_link_in_the_place_of_the_tasks_is_refused(typed: Type, make_repo: MakeRepo, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = make_repo(NOTES)
    (root / "docs/tasks").symlink_to(outside)
    code, _, err = typed(root, "survey", "--write")
    assert code == 1
    assert "is a link" in err
    assert list(outside.iterdir()) == []


def test_without_a_directory_for_tasks_drafts_are_refused(typed: Type, make_repo: MakeRepo) -> None:
    root = make_repo({**NOTES, ".pantheon/pantheon.toml": '[tasks]\npaths = ["**/*.task.md"]\n'})
    code, _, err = typed(root, "survey", "--write")
    assert code == 1
    assert "begins with a directory" in err


@pytest.mark.parametrize(
    ("patterns", "folder"),
    [(["docs/tasks/**/*.md"], "docs/tasks"), (["*.md", "todo/*.md"], "todo"), (["a/*/b/*.md"], ""), (["x/t.md"], "")],
)
def test_drafts_go_to_the_first_directory_of_task_files(patterns: list[str], folder: str) -> None:
    assert daytime.draft_folder(patterns) == folder


def test_names_that_drive_a_terminal_are_shown_escaped(typed: Type, make_repo: MakeRepo) -> None:
    root = make_repo({"docs/\x1b[2J\u202e.md": "# X\n", b"docs/\xff.md".decode("utf-8", "surrogateescape"): "# Y\n"})
    code, out, err = typed(root, "survey", "--write")
    assert code == 0
    assert not [c for c in out + err if c != "\n" and not c.isprintable()]


# --- breakdown -------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(make_repo: MakeRepo) -> Path:
    settings_ = "[night]\nmax_items_per_pr = 5\n"
    task = TASK.replace("docs/*.md", "docs/**/*.md")
    return make_repo({**NOTES, "docs/tasks/tidy.md": task, ".pantheon/pantheon.toml": settings_})


def targets(root: Path, path: str) -> list[str]:
    task = tasks.parse((root / path).read_bytes(), path)
    assert task is not None
    assert task.spec is not None
    return list(tasks.select(sorted(NOTES), task.spec.scope, task.spec.exclude))


@pytest.mark.parametrize("name", ["tidy", "docs/tasks/tidy.md", "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"])
def test_a_task_falls_into_parts_that_share_its_items_out(typed: Type, root: Path, name: str) -> None:
    planned = {item["target"] for item in data(typed(root, "plan", "--json"))["items"]}
    assert planned == set(NOTES)
    proposed = data(typed(root, "breakdown", name, "--json"))
    assert proposed["written"] == []
    assert git("status", "--porcelain", cwd=root) == ""
    code, out, _ = typed(root, "breakdown", name, "--yes")
    assert code == 0
    children = [child["path"] for child in proposed["children"]]
    assert all(f"wrote {path}" in out for path in children)
    shared = [targets(root, path) for path in children]
    assert sorted(target for each in shared for target in each) == sorted(NOTES)
    assert max(map(len, shared)) <= 5
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "split", cwd=root)
    plan_ = data(typed(root, "plan", "--json"))
    assert sorted(item["target"] for item in plan_["items"]) == sorted(NOTES)
    assert len(plan_["tasks"]) == len(children)
    assert any("tidy.md: waits for tidy-" in note for note in plan_["notes"])
    code, _, err = typed(root, "breakdown", name)
    assert code == 1
    assert "it is split already" in err


def test_when_its_parts_are_done_a_task_takes_what_is_left(typed: Type, root: Path) -> None:
    typed(root, "breakdown", "tidy", "--yes")
    for path in (root / "docs/tasks").glob("tidy-*.md"):
        path.write_bytes(tasks.with_status(path.read_bytes(), path.name, "done"))
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "done", cwd=root)
    found = data(typed(root, "plan", "--json"))
    assert found["tasks"] == ["docs/tasks/tidy.md"]
    assert len(found["items"]) == len(NOTES)


def test_without_a_terminal_nothing_is_written_and_the_next_command_is_said(typed: Type, root: Path) -> None:
    code, out, err = typed(root, "breakdown", "tidy")
    assert code == 1
    assert "13 items" in out
    assert "git pantheon breakdown tidy --into tasks --yes" in err
    assert git("status", "--porcelain", cwd=root) == ""


def test_items_are_listed_in_the_task_itself(typed: Type, root: Path) -> None:
    assert typed(root, "breakdown", "tidy", "--into", "items", "--yes")[0] == 0
    once = (root / "docs/tasks/tidy.md").read_text()
    assert once.startswith(TASK.replace("docs/*.md", "docs/**/*.md"))
    assert once.count("- [ ] `docs/") == 13
    typed(root, "breakdown", "tidy", "--into", "items", "--yes")
    assert (root / "docs/tasks/tidy.md").read_text() == once


def test_a_draft_that_is_not_committed_can_be_split(typed: Type, make_repo: MakeRepo) -> None:
    root = make_repo({**NOTES, ".pantheon/pantheon.toml": "[night]\nmax_items_per_pr = 3\n"})
    path = data(typed(root, "survey", "--write", "--limit", "1", "--json"))["written"][0]
    split = data(typed(root, "breakdown", path, "--json", "--yes"))
    assert [len(child["targets"]) for child in split["children"]] == [3, 3, 1]
    assert all((root / child["path"]).exists() for child in split["children"])
    assert data(typed(root, "survey", "--json"))["covered_files"] == 7


@pytest.mark.parametrize(
    ("name", "why"), [("nothing", "no task has that path"), ("board", "no pantheon block"), ("empty", "0 items")]
)
def test_what_cannot_be_split_is_said(typed: Type, root: Path, name: str, why: str) -> None:
    (root / "docs/tasks/board.md").write_text('---\nuuid: abcd\ntitle: "B"\nslug: board\nstatus: todo\n---\n')
    empty = TASK.replace("docs/*.md", "none/*.md").replace("tidy", "empty").replace("0f0e8a52", "1f0e8a52")
    (root / "docs/tasks/empty.md").write_text(empty)
    _, out, err = typed(root, "breakdown", name)
    assert why in out + err


def test_a_link_in_the_place_of_a_task_is_not_read(typed: Type, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text(TASK)
    (root / "docs/tasks/tidy.md").unlink()
    (root / "docs/tasks/tidy.md").symlink_to(tmp_path / "secret.md")
    code, _, err = typed(root, "breakdown", "tidy", "--yes")
    assert code == 1
    assert "not a regular file" in err
    assert (tmp_path / "secret.md").read_text() == TASK


# --- the planner -----------------------------------------------------------------------------------------------------

HALVES = """
import json, os, sys
asked = json.load(sys.stdin)
assert sorted(asked) == ["items", "max_items", "schema_version", "task"]
ids = [item["id"] for item in asked["items"]]
most = asked["max_items"]
parts = [ids[at : at + most] for at in range(0, len(ids), most)]
children = [{"title": f"Step {n}", "items": each, "after": list(range(n))} for n, each in enumerate(parts)]
print(json.dumps({"children": children}))
"""


def configure(sealed: Path, code: str) -> None:
    program = sealed / "plan.py"
    program.write_text(code)
    directory = sealed / "config" / "git-pantheon"
    directory.mkdir(parents=True, exist_ok=True)
    words = ", ".join(json.dumps(word) for word in (sys.executable, "-I", str(program)))
    (directory / "config.toml").write_text(PLANNER.format(words))


def test_a_planner_decides_the_parts_and_their_order(
    typed: Type, root: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAN_KEY", "marker-4711")
    monkeypatch.setenv("OTHER_TOKEN", "marker-4712")
    configure(sealed, f"import os\nopen({str(sealed / 'seen')!r}, 'w').write(repr(dict(os.environ)))\n{HALVES}")
    split = data(typed(root, "breakdown", "tidy", "--planner", "--yes", "--json"))
    assert [len(child["targets"]) for child in split["children"]] == [5, 5, 3]
    last = tasks.parse((root / split["children"][2]["path"]).read_bytes(), "x.md")
    assert last is not None
    assert last.spec is not None
    assert last.title == "Step 2"
    assert last.spec.depends_on == (split["children"][0]["slug"], split["children"][1]["slug"])
    seen = (sealed / "seen").read_text()
    assert "marker-4711" in seen
    assert "marker-4712" not in seen


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('{}')", "children: Field required"),
        ("print('not json')", "its answer is refused"),
        ("print('[' * 100000)", "its answer is refused"),
        ("print('{\"children\": []}')", "children"),
        (HALVES.replace("asked['max_items']", "99").replace('asked["max_items"]', "99"), "allowed are 5"),
        (HALVES.replace("ids = [", "ids = ['0' * 16] + ["), "which is no item of the task"),
        (HALVES.replace('asked["items"]]', 'asked["items"]][:-1]'), "1 items are in no part"),
        (HALVES.replace("range(n)", "range(n + 1)"), "waits for one that does not come before it"),
        (HALVES.replace("Step {n}", "Step\\x1b[2J"), "printable"),
        (HALVES.replace('"after"', '"run": "rm", "after"'), "Extra inputs"),
        ("import sys; sys.stderr.write('no credit\\n'); sys.exit(3)", "it ended with 3: no credit"),
        ("print('x' * (2 << 20))", "more than 1 MiB"),
    ],
)
def test_a_bad_answer_is_refused_and_writes_nothing(
    typed: Type, root: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    monkeypatch.setenv("PLAN_KEY", "k")
    configure(sealed, code)
    status, _, err = typed(root, "breakdown", "tidy", "--planner", "--yes")
    assert status == 1
    assert why in err
    assert git("status", "--porcelain", cwd=root) == ""


def test_a_planner_that_never_answers_is_ended(
    typed: Type, root: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAN_KEY", "k")
    configure(sealed, "import time; time.sleep(600)")
    with (sealed / "config/git-pantheon/config.toml").open("a") as stream:
        stream.write("timeout_s = 0.5\n")
    code, _, err = typed(root, "breakdown", "tidy", "--planner", "--yes")
    assert code == 1
    assert "longer than 0.5 s" in err


def test_a_planner_that_is_not_there_and_a_variable_that_is_not_set_are_named(
    typed: Type, root: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "none is configured" in typed(root, "breakdown", "tidy", "--planner", "--yes")[2]
    configure(sealed, HALVES)
    assert "export PLAN_KEY" in typed(root, "breakdown", "tidy", "--planner", "--yes")[2]
    monkeypatch.setenv("PLAN_KEY", "k")
    (sealed / "config/git-pantheon/config.toml").write_text('[planner]\ncommand = ["no-such-planner"]\n')
    assert "no-such-planner" in typed(root, "breakdown", "tidy", "--planner", "--yes")[2]


def test_a_repository_cannot_name_a_planner(typed: Type, make_repo: MakeRepo, tmp_path: Path) -> None:
    settings_ = f'[planner]\ncommand = ["touch", "{tmp_path / "ran"}"]\n'
    root = make_repo({**NOTES, "docs/tasks/tidy.md": TASK, ".pantheon/pantheon.toml": settings_})
    typed(root, "breakdown", "tidy", "--planner", "--yes")
    assert not (tmp_path / "ran").exists()


def test_while_a_night_runs_no_planner_does_and_a_night_waits_for_a_planner(
    typed: Type, root: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAN_KEY", "k")
    lock = root / ".git/pantheon/night.lock"
    code = f"import fcntl\nhandle = open({str(lock)!r})\ntry:\n    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    configure(sealed, f"{code}except BlockingIOError:\n    pass\nelse:\n    raise SystemExit('free')\n{HALVES}")
    assert typed(root, "breakdown", "tidy", "--planner", "--json")[0] == 0
    with nights.alone(Repo.discover(root)):
        code_, _, err = typed(root, "breakdown", "tidy", "--planner", "--yes")
    assert code_ == 1
    assert "for the day only, and a night runs here" in err


def test_a_night_sees_neither_the_key_nor_the_configuration_and_refuses_a_planner(
    root: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLAN_KEY", "marker-4711")
    configure(sealed, f"open({str(sealed / 'ran')!r}, 'w')\n{HALVES}")
    repo, where = Repo.discover(root), places(os.environ)
    sandbox = enclosure.night_sandbox(repo, where, None, dict(os.environ))
    code = (
        "import os, socket; line = socket.socket(fileno=os.dup(0)); line.sendall(b'h')\n"
        "from pathlib import Path; from pantheon import cli, config, planner; from pantheon.git import Repo\n"
        "seen = []\n"
        "for path in Path('/proc').glob('[0-9]*/environ'):\n"
        "    try:\n"
        "        seen.append(path.read_bytes())\n"
        "    except OSError:\n"
        "        pass\n"
        "print('processes', len(seen) > 0, any(b'PLAN_KEY' in each or b'marker-4711' in each for each in seen))\n"
        f"print('configuration', os.path.exists({str(where.config / 'config.toml')!r}))\n"
        f"settings = config.PlannerSettings(command=({sys.executable!r}, '-c', 'print(1)'))\n"
        "try:\n"
        f"    repo = Repo.discover(Path({str(root)!r}))\n"
        "    planner.ask(repo, settings, None, (), 1, environ={}, directory=Path('/'))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    argv = [sys.executable, "-P", "-c", code]
    assert process.enclosed(argv, sandbox=sandbox, order=b"", keep=(), on_ready=lambda: None) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[:2] == ["processes True False", "configuration False"]
    assert said[2].startswith("PantheonError cannot use the planner")
    assert "for the day only" in said[2]
    assert not (sealed / "ran").exists()


ITEMS = [Item(id=f"{n:016x}", task="t", flow="f", target=f"{n}.md", blob="", findings=()) for n in range(4)]
IDS = [item.id for item in ITEMS]
part = st.fixed_dictionaries(
    {"title": st.text(max_size=5), "items": st.lists(st.sampled_from([*IDS, "x"]), max_size=3)},
    optional={"after": st.lists(st.integers(-1, 3), max_size=2), "more": st.none()},
)


@given(
    st.one_of(st.binary(max_size=60), st.lists(part, max_size=4).map(lambda p: json.dumps({"children": p}).encode()))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_a_partition_passes(answer: bytes) -> None:
    try:
        parts = planner.read(answer, ITEMS, 2, "p")
    except PantheonError as error:
        assert "its answer is refused" in str(error)
        return
    assert sorted(item for each in parts for item in each.items) == IDS
    assert all(0 < len(each.items) <= 2 for each in parts)
    assert all(number > before >= 0 for number, each in enumerate(parts) for before in each.after)


def test_a_hint_can_be_typed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    (root / "docs/tasks/tidy.md").rename(root / "docs/tasks/my tidy.md")
    with pytest.raises(PantheonError) as caught:
        daytime.breakdown(
            Repo.discover(root),
            places(os.environ),
            "docs/tasks/my tidy.md",
            {},
            into="tasks",
            use_planner=False,
            yes=False,
            as_json=False,
        )
    assert shlex.split(caught.value.hint)[:4] == ["git", "pantheon", "breakdown", "docs/tasks/my tidy.md"]
    assert not isinstance(caught.value, TaskError)
