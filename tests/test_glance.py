"""What was said last is said again only while nothing that it was made from has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TASK, MakeRepo, git

from pantheon import desk, doorbell, glance, prdesk
from pantheon.cli import main
from pantheon.git import Repo
from pantheon.places import GLANCE, places
from pantheon.prs import open_pull

HEAVY = {"argparse", "pydantic", "pygit2", "rich", "jinja2", "httpx", "dulwich", "yaml", "pathspec", "json"}
NEVER = {"torch", "transformers", "peft", "bitsandbytes", "vllm"}
FILES = {"docs/tides.md": "# Tide tables\n\nThey are loaded every night.\n", "docs/tasks/tidy.md": TASK}
WHEN = desk.now()


class Place:
    """A prepared repository, and how often a look really looked."""

    def __init__(self, root: Path, home: Path, capfd: pytest.CaptureFixture[str], counted: list[str]) -> None:
        self.root, self.home, self.capfd, self.looked = root, home, capfd, counted

    def __call__(self, *words: str) -> str:
        self.capfd.readouterr()
        assert main(list(words)) == 0
        return self.capfd.readouterr().out

    def new_pull(self) -> None:
        repo = Repo.discover(self.root)
        head = repo.head().commit
        tip = repo.commit(repo.tree_of(head), [head], "x\n", WHEN)
        open_pull(
            repo, task="t", slug="tidy", title="Tidy", night="", onto="main", base=head, tip=tip, items=(), when=WHEN,
            signer=None,
        )  # fmt: skip


@pytest.fixture
def place(
    make_repo: MakeRepo, sealed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Place:
    root = make_repo(FILES)
    monkeypatch.chdir(root)
    monkeypatch.setattr(glance, "RACY_S", -5.0)  # what was written a moment ago is believed
    assert main(["init", "--no-fetch"]) == 0
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "init", cwd=root)
    counted: list[str] = []
    for module, name in ((desk, "status"), (prdesk, "pr_list")):
        true: Callable[..., int] = getattr(module, name)

        def counting(*args: object, true: Callable[..., int] = true, name: str = name, **named: object) -> int:
            counted.append(name)
            return true(*args, **named)

        monkeypatch.setattr(module, name, counting)
    return Place(root, sealed, capfd, counted)


@pytest.mark.parametrize("words", list(glance.LOOKS), ids=lambda words: " ".join(words) or "bare")
def test_it_looks_once_and_says_the_same_again(place: Place, words: tuple[str, ...]) -> None:
    place.new_pull()
    first = place(*words)
    assert len(place.looked) == 1 and "idy" in first
    assert place(*words) == first
    assert len(place.looked) == 1


def a_commit(place: Place) -> None:
    git("commit", "-q", "--allow-empty", "-m", "x", cwd=place.root)


def another_branch(place: Place) -> None:
    git("switch", "-q", "-c", "other", cwd=place.root)


def packed(place: Place) -> None:
    git("pack-refs", "--all", cwd=place.root)


def a_setting(place: Place) -> None:
    (place.home / "config" / "git-pantheon").mkdir(parents=True)
    (place.home / "config" / "git-pantheon" / "config.toml").write_text("[limits]\nmax_open_prs = 3\n")


def trusted(place: Place) -> None:
    (place.home / "state" / "git-pantheon" / "trust").mkdir(parents=True)


def a_remote(place: Place) -> None:
    git("remote", "add", "origin", "/nowhere", cwd=place.root)


def placed(place: Place) -> None:
    (place.root / ".git" / "pantheon" / "placed").mkdir()


def killed(place: Place) -> None:
    (place.root / ".git" / "pantheon" / glance.UNDER_WAY).write_text("")


def damaged(place: Place) -> None:
    ref = place.root / ".git" / "refs" / "pantheon" / "nights" / "x"
    ref.parent.mkdir(parents=True)
    ref.write_text("")


CHANGES = (a_commit, another_branch, packed, a_setting, trusted, a_remote, placed, killed, damaged, Place.new_pull)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_changes_it_looks_again(place: Place, change: Callable[[Place], None]) -> None:
    place("status")
    change(place)
    place("status")
    assert len(place.looked) == 2


def test_another_terminal_is_another_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place("status")
    monkeypatch.setenv("COLUMNS", "33")
    place("status")
    assert len(place.looked) == 2


def test_what_was_put_off_comes_back_in_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.new_pull()
    place("later", "1", "--until", "1d")
    assert "put off" in place("pr") and "put off" in place("pr") and len(place.looked) == 1
    look = glance.of(["pr"], places(os.environ), os.environ, lambda: WHEN.timestamp() + 90_000)
    assert look is not None and look.again(lambda _: None) is None
    look = glance.of(["pr"], places(os.environ), os.environ)
    assert look is not None and look.again(lambda _: None) is not None


def test_a_clock_that_went_back_is_not_believed(place: Place) -> None:
    place("status")
    for clock, known in ((lambda: 1e9, False), (lambda: 4e9, False)):
        look = glance.of(["status"], places(os.environ), os.environ, clock)
        assert look is not None and (look.again(lambda _: None) is not None) is known


def test_what_changed_a_moment_ago_is_not_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within one tick of the file system's clock."""
    monkeypatch.setattr(glance, "RACY_S", 3600.0)
    place("status")
    assert not (place.root / ".git" / "pantheon" / GLANCE).exists()


def test_what_changed_meanwhile_is_not_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def committing(*_: object, **__: object) -> int:
        a_commit(place)
        return 0

    monkeypatch.setattr(desk, "status", committing)
    place("status")
    assert not (place.root / ".git" / "pantheon" / GLANCE).exists()


@pytest.mark.parametrize("text", ["", "x", "1 2", "1e9 9e9\n[]\nforged\n", "nan nan\n\n"])
def test_a_damaged_answer_is_none(place: Place, text: str) -> None:
    said = place("status")
    (place.root / ".git" / "pantheon" / GLANCE / "status").write_text(text)
    assert place("status") == said and len(place.looked) == 2


def test_the_daemon_speaks_for_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.root / ".git" / "pantheon" / glance.PID).write_text("1\n")
    monkeypatch.setattr(desk, "_daemon_says", lambda *_: "the next night begins at 22:00")
    place("status"), place("status", "--json")
    monkeypatch.setattr(doorbell, "standing", lambda *_: "a night runs: 3 of 7")
    assert "\ndaemon: a night runs: 3 of 7\n" in place("status")
    assert json.loads(place("status", "--json"))["daemon"] == "a night runs: 3 of 7"
    assert len(place.looked) == 2
    monkeypatch.setattr(doorbell, "standing", lambda *_: None)
    place("status")
    assert len(place.looked) == 3


def test_uninstall_takes_it_away(place: Place) -> None:
    place("status")
    place("uninstall")
    assert not (place.root / ".git" / "pantheon" / GLANCE).exists()


def modules(place: Place, *words: str) -> tuple[set[str], str]:
    """What one command in a Python of its own imported, and what it said."""
    code = (
        "import sys\nfrom pantheon.cli import main\ncode = main(sys.argv[1:])\n"
        "print(*sorted(sys.modules), file=sys.stderr)\nsys.exit(code)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(glance.__file__).parent.parent)}
    argv = [sys.executable, "-P", "-c", code, *words]
    done = subprocess.run(argv, cwd=place.root, env=env, capture_output=True, text=True, check=True)
    return set(done.stderr.split()), done.stdout


@pytest.mark.parametrize("words", [(), ("status",), ("pr",), ("pr", "--json")], ids=" ".join)
def test_what_a_look_does_not_import(place: Place, words: tuple[str, ...]) -> None:
    for path in [*(place.root / ".git").rglob("*"), place.root / ".git"]:
        os.utime(path, (1e9, 1e9))
    source = Path(glance.__file__).parent
    young = max(path.stat().st_mtime for path in [*source.rglob("*"), *(source.parent / "templates").rglob("*")])
    first, said = modules(place, *words)
    assert not first & NEVER
    if not (place.root / ".git" / "pantheon" / GLANCE).exists():
        pytest.skip(f"our own sources were written a moment ago ({young})")
    again, same = modules(place, *words)
    assert same == said
    assert not again & (HEAVY | NEVER)
    assert {name for name in again if name.startswith("pantheon.")} == {
        "pantheon.cli", "pantheon.errors", "pantheon.glance", "pantheon.places",
    }  # fmt: skip
