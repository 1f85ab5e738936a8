"""Names and places: what a file may be called, what is shown of it, and which paths no item may touch."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import git

from attacks.conftest import BYSTANDER, NOTES, TASK, VICTIM, Field
from pantheon import gate
from pantheon.records import CheckResult, Decision, Outcome, Verdict

PASSED = [Verdict(node=f"review-{side}", agent=f"{side}@1", verdict="pass", reason="fine") for side in "ab"]
NFC, NFD = unicodedata.normalize("NFC", "caf\u00e9.md"), unicodedata.normalize("NFD", "caf\u00e9.md")
HOSTILE = {
    "newline": "a\nb.md",
    "return": "a\rb.md",
    "escape": "a\x1b]0;owned\x07.md",
    "csi": "a\x9b2J.md",
    "bidi": "a\u202edm.md",
    "isolate": "a\u2066b.md",
    "zero-width": "a\u200bb.md",
    "line-separator": "a\u2028b.md",
    "tag": "a\U000e0041b.md",
    "private": "a\ue000b.md",
    "unassigned": "a\U000eeeeeb.md",
    "invalid-utf8": "a\udcff\udcfeb.md",
    "dot-git": ".GIT",
    "short-name": "GIT~1",
    "short-name-2": "gi7eba~1",
    "fullwidth-git": "\uff0egit",
    "hfs-git": ".g\u200cit",
    "hfs-git-bom": ".gi\ufefft",
    "stream-git": ".git::$INDEX_ALLOCATION",
    "dotted-git": ".git. .",
    "dotless-i": ".g\u0131t",
    "trailing-dot": "note.md.",
    "trailing-space": "note.md ",
    "backslash": "a\\..\\..\\b.md",
    "scratch": ".pantheon-write",
}


def make(place: Path, name: str) -> None:
    folder = os.open(place / "docs", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder))
    finally:
        os.close(folder)


# --- 9: names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_09_a_hostile_name_left_by_an_agent_is_refused_by_rule(lone: Field, name: str) -> None:
    lone.night(lambda place: make(place, name))
    run = lone.refused("refused path|will not write this name" if name != ".pantheon-write" else "calls failed")
    assert run.reason.isascii()
    assert run.reason.isprintable()


@pytest.mark.parametrize("pair", [("note.md", "NOTE.md"), (NFC, NFD), ("stra\u00dfe.md", "STRASSE.md")])
def test_09_two_names_that_are_one_file_elsewhere_are_refused(lone: Field, pair: tuple[str, str]) -> None:
    def attack(place: Path) -> None:
        for name in pair:
            make(place, name)

    lone.night(attack)
    lone.refused("one file with")


@pytest.mark.parametrize("name", ["OVEN.md", "Oven.MD"])
def test_09_a_case_twin_of_a_file_of_the_base_is_refused(lone: Field, name: str) -> None:
    lone.night(lambda place: make(place, name))
    lone.refused("one file with")


def test_09_the_longest_name_and_the_longest_path_end_their_item_only(arena: Field) -> None:
    def attack(place: Path) -> None:
        make(place, "n" * 252 + ".md")
        deep = place / "docs" / "/".join(["d" * 200] * 15)
        deep.mkdir(parents=True, exist_ok=True)
        (deep / "x.md").write_text("x")

    arena.night(attack)
    assert arena.run_of().outcome is Outcome.FAILED
    assert "bug:" not in arena.run_of().reason
    arena.look()


def test_09_names_that_the_user_committed_are_shown_escaped_and_end_no_night(make_field: Callable[..., Field]) -> None:
    """Notes, folders and task files with names that drive a terminal or are no text; each command, each form."""
    odd = [name.removesuffix(".md") for label, name in HOSTILE.items() if "git" not in label and "short" not in label]
    field = make_field({f"docs/{name}.md": f"# Note {n}\n\nText.\n" for n, name in enumerate(odd)})
    field.commit({f"docs/tasks/{name}.md": "---\nbroken: [\n---\n" for name in odd}, "tasks")
    field.commit({f"docs/tasks/x{name}.md": TASK.replace("0f0e8a52", "0f0e8a53") for name in odd[:1]}, "a task")
    field.commit({"docs/tasks/no\udcfftext.md": TASK.replace("0f0e8a52", "0f0e8a54")}, "a task")
    report = field.night(others=False)
    assert {run.item.target for run in report.runs if run.outcome is Outcome.ACCEPTED} >= {VICTIM, BYSTANDER}
    field.look()
    for words in ("status", "report", "plan --json"):
        field.program(*words.split())


def test_09_a_title_that_drives_the_terminal_is_shown_escaped(make_field: Callable[..., Field]) -> None:
    title = r'title: "Tidy \u202e \u2066 [bold red]x[/] | `x` <b> Pantheon-Task: forged"'
    field = make_field({"docs/tasks/tidy.md": TASK.replace('title: "Tidy the notes"', title)})
    field.night()
    field.look()
    (pull,) = field.report.prs if field.report else ()
    for commit in (pull.tip, field.repo.ref("refs/pantheon/prs/1/meta") or ""):
        assert "forged" not in git("log", "-1", "--format=%(trailers)", commit, cwd=field.root)


# --- 22, 23: protected paths -----------------------------------------------------------------------------------------

PLACES = (
    *(".git/config", ".gitattributes", ".gitmodules", ".gitignore", ".github/workflows/ci.yml", ".gitlab-ci.yml"),
    *(".pantheon/checks.toml", ".pantheon/agents/doc.frontmatter.toml", "hooks/pre-commit", ".husky/pre-commit"),
    *(".circleci/config.yml", ".ci/run.sh", ".envrc", ".vscode/tasks.json", ".idea/workspace.xml", "AGENTS.md"),
    *("CLAUDE.md", "docs/AGENTS.md", "site.pth", "conftest.py", "Makefile", "Jenkinsfile", "azure-pipelines.yml"),
    *("test_a.py", "a_test.py", "a.test.ts", "a.spec.js", "tests/a.py", "docs/.gitattributes"),
)
VARIANTS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "fullwidth": lambda path: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and c != "/" else c for c in path),
    "ignorable": lambda path: path.replace("i", "i\u200d").replace("e", "e\u200c").replace("A", "A\ufeff"),
    "trailing dot": lambda path: "/".join(part + "." for part in path.split("/")),
    "trailing space": lambda path: "/".join(part + " " for part in path.split("/")),
    "stream": lambda path: "/".join(part + "::$INDEX_ALLOCATION" for part in path.split("/")),
    "data stream": lambda path: path + "::$DATA",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_22_no_spelling_of_a_protected_path_passes_two_reviewers_that_approve(variant: str) -> None:
    for path in PLACES:
        decision = gate.decide(
            changed=["docs/a.md", VARIANTS[variant](path)],
            added=1,
            deleted=0,
            max_diff_lines=10,
            patch=b"+x\n",
            checks=[CheckResult(name="links", passed=True)],
            wanted_checks=["links"],
            verdicts=PASSED,
        )
        assert not decision.accepted, VARIANTS[variant](path)
        assert any("protected path" in reason or reason.startswith("held: ") for reason in decision.reasons)


def judged(path: str, confirmed: str) -> Decision:
    return gate.decide(
        changed=[path],
        added=1,
        deleted=0,
        max_diff_lines=10,
        patch=b"+x\n",
        checks=[CheckResult(name="links", passed=True)],
        wanted_checks=["links"],
        verdicts=PASSED,
        confirmed=[confirmed],
    )


def test_23_only_the_very_path_confirms_and_what_git_or_pantheon_obeys_cannot_be_confirmed() -> None:
    assert judged(".github/workflows/ci.yml", ".github/workflows/ci.yml").accepted
    assert judged("AGENTS.md", "AGENTS.md").accepted
    for confirmed in (
        ".github/**",
        ".github/",
        "**",
        ".GITHUB/workflows/ci.yml",
        "./.github/workflows/ci.yml",
        "ci.yml",
    ):
        assert not judged(".github/workflows/ci.yml", confirmed).accepted
    for path in (
        *(".gitattributes", ".gitmodules", ".github/.gitattributes", ".pantheon/checks.toml", ".pantheon/Makefile"),
        *("hooks/pre-commit", "hooks/.envrc", ".husky/AGENTS.md", ".github/workflows/.git/config", ".pantheon/.env"),
    ):
        assert not judged(path, path).accepted, path


def test_23_a_confirmed_path_is_accepted_and_another_beside_it_is_held(make_field: Callable[..., Field]) -> None:
    wide = TASK.replace('scope: ["docs/**/*.md"]', 'scope: ["**"]\n  confirm: [".envrc"]')
    for extra, outcome in ((), Outcome.ACCEPTED), (("Makefile",), None):
        field = make_field({"docs/tasks/tidy.md": wide}, alone=True, name=f"repo-{len(extra)}")

        def attack(place: Path, names: tuple[str, ...] = (".envrc", *extra)) -> None:
            for name in names:
                (place / name).write_text("x\n")

        field.night(attack)
        if outcome is None:
            field.refused("held: Makefile;")
        else:
            assert field.run_of().outcome is outcome, field.run_of().reason


@pytest.mark.parametrize(
    "path",
    [
        *(".github/workflows/ci.yml", ".GitHub/workflows/ci.yml", ".pantheon/checks.toml", ".envrc", "AGENTS.md"),
        *("docs/.vscode/tasks.json", "site.pth", "Makefile", "tests/conftest.py", "docs/hooks/run.sh"),
    ],
)
def test_22_23_a_whole_night_that_touches_one_is_refused(make_field: Callable[..., Field], path: str) -> None:
    """The task's scope is everything; checks pass, both reviewers approve; the gate alone stands."""
    wide = TASK.replace('scope: ["docs/**/*.md"]', 'scope: ["**"]')
    field = make_field({"docs/tasks/tidy.md": wide}, alone=True)
    if path.startswith("docs/hooks"):
        field.config("core.hooksPath=docs/hooks")

    def attack(place: Path) -> None:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text("on: push\n")

    field.night(attack)
    if path.endswith(".md"):  # a new note is refused by the checks already
        assert field.run_of().outcome is Outcome.FAILED
    else:
        field.refused(f"(protected path changed: |held: ).*{re.escape(path.rpartition('/')[2])}")
    assert field.report is not None
    assert field.report.prs == ()


def test_22_a_file_outside_the_tasks_scope_is_refused_whatever_it_is(lone: Field) -> None:
    """No list of protected paths names it; it is simply none of the item's business."""
    lone.night(lambda place: (place / "run.sh").write_text("x\n"))
    lone.refused(r"outside the task's scope: run\.sh")


def test_22_a_deleted_or_emptied_bystander_is_refused(lone: Field) -> None:
    lone.commit({"docs/tasks/second.md": NOTES[BYSTANDER], "README.md": "# Hello\n"})

    def attack(place: Path) -> None:
        (place / "README.md").write_text("")

    lone.night(attack)
    assert lone.run_of().outcome is Outcome.FAILED
