"""Attack 21: task files. Each is a typed error with its path and line, soon; the other tasks run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from conftest import git

from attacks.conftest import TASK, VICTIM, Field
from pantheon import tasks
from pantheon.errors import TaskError
from pantheon.records import Outcome

SOON_S = 10.0
UUID = "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"


def bomb() -> str:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "---\na0: &a0 [x, x]\n" + "\n".join(levels) + "\npantheon: *a11\n---\n"


def with_(old: str, new: str) -> bytes:
    assert old in TASK
    return TASK.replace(old, new).encode("utf-8", "surrogateescape")


# name -> the file, the words of the refusal
DAMAGED: dict[str, tuple[bytes, str]] = {
    "alias bomb": (bomb().encode(), "anchors and aliases"),
    "merge key bomb": (with_("status:", "<<: &x {a: b}\nstatus:"), "anchors and aliases"),
    "50 MB": (TASK.encode() + b"x" * (50 << 20), "more than the"),
    "50 MB of front matter": (with_("status:", f"long: {'x' * (50 << 20)}\nstatus:"), "more than the"),
    "a block of 300 kB": (with_("status:", f"long: {'x' * (300 << 10)}\nstatus:"), "front matter"),
    "duplicate key": (with_('status: "ready"', 'status: "ready"\nstatus: "done"'), "twice"),
    "duplicate key in the block": (with_("  scope:", "  standing: false\n  standing: true\n  scope:"), "twice"),
    "duplicate key in disguise": (with_('status: "ready"', 'status: "ready"\n"\\x73tatus": done'), "twice"),
    "invalid UTF-8": (with_("Please.", "\udcff\udcfe"), "not UTF-8"),
    "UTF-16": (TASK.encode("utf-16"), "not UTF-8"),
    "NUL": (with_("Tidy the notes", "Tidy\0"), "not allowed|not YAML"),
    "NUL in disguise": (with_("Tidy the notes", "Tidy \\0"), "control character"),
    "escape in the title": (with_("Tidy the notes", "\\e]0;x\\a"), "control character"),
    "newline in the title": (with_("Tidy the notes", "Tidy\\n\\nPantheon-Run: x"), "control character"),
    "surrogate in the title": (with_("Tidy the notes", "\\ud800"), "not YAML|control character|Unicode"),
    "a title of 10 kB": (with_("Tidy the notes", "x" * 10_000), "more than"),
    "deep flow": (with_("status:", f"deep: {'[' * 5000}{']' * 5000}\nstatus:"), "nested deeper"),
    "deep blocks": (
        with_("status:", "\n".join(" " * n + f"k{n}:" for n in range(300)) + " x\nstatus:"),
        "nested deeper",
    ),
    "a list": (b"---\n- a\n- b\n---\n", "not a mapping"),
    "two documents": (with_("status:", "--- {}\nstatus:"), "not YAML|document|mapping"),
    "an unclosed block": (b"---\ntitle: x\n", "not closed|end|close"),
    "a tab": (with_("  scope:", "\tscope:"), "not YAML"),
    "wrong types": (with_('  scope: ["docs/**/*.md"]', "  scope: {a: b}"), "scope"),
    "an unknown key": (with_("  scope:", "  engine: cloud\n  scope:"), "unknown key 'engine'"),
    "an infinite number": (with_("  scope:", "  max_diff_lines: .inf\n  scope:"), "max_diff_lines"),
    "a huge number": (with_("  scope:", f"  max_diff_lines: {'9' * 5000}\n  scope:"), "max_diff_lines"),
    **{
        f"uuid {name}": (with_(UUID, text), "uuid")
        for name, text in {
            **{"slash": "a/b/c/d", "dots": "../../../x", "dash": "-rf-rf-rf", "lock": "abcd.lock", "at": "@{upstream}"},
            **{"range": "aaaa..bbbb", "control": "abc\\x1bdef", "newline": "abcdef\\n", "empty": "", "long": "a" * 65},
            **{"digits": "\u0661\u0662\u0663\u0664", "space": "abc def", "star": "abcd*", "caret": "abcd^{}"},
        }.items()
    },
    **{
        f"slug {name}": (with_('slug: "tidy"', f'slug: "{text}"'), "slug")
        for name, text in {
            **{"slash": "a/b", "dots": "..", "dash": "-x", "lock": "x.lock", "at": "@{", "range": "a..b", "dot": ".x"},
            **{"control": "a\\x07b", "newline": "tidy\\n", "upper": "Tidy", "long": "a" * 101, "cyrillic": "t\u0456dy"},
        }.items()
    },
    **{
        f"scope {name}": (with_('"docs/**/*.md"', f'"{text}"'), "scope")
        for name, text in {
            **{"root": "/etc/*", "up": "../**", "inner up": "docs/../../x", "home": "~/.ssh/*", "drive": "C:/x"},
            **{"control": "docs/\\x1b*", "backslash": "\\\\\\\\host\\\\x", "blank": " "},
            **{"stars": "*a" * 40 + "b", "double stars": "**/a/" * 30 + "b", "long": "a" * 5000},
        }.items()
    },
}
# name -> the file: odd, but what it says is clear
USABLE = {
    "BOM": b"\xef\xbb\xbf" + TASK.encode(),
    "CRLF": TASK.replace("\n", "\r\n").encode(),
    "10,000 keys": with_("status:", "\n".join(f"key{n}: {n}" for n in range(10_000)) + "\nstatus:"),
    "a Python object": with_(
        "status:", "boom: !!python/object/apply:os.system ['touch /tmp/owned']\nother: !!python/name:os.system\nstatus:"
    ),
    "dates and numbers": with_("status:", "a: 2026-03-01\nb: 0x1F\nc: 1e400\nd: .nan\ne: 4930e12\nstatus:"),
    "a body of fences": TASK.encode() + b"---\n" * 5000,
    "a body of brackets": TASK.encode() + b"[" * 200_000,
    "a body that closes nothing": TASK.encode() + b"[[" * 50_000 + b"](" * 50_000 + b"`" * 50_000,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_21_a_damaged_task_file_is_a_typed_error_with_its_line(name: str) -> None:
    raw, words = DAMAGED[name]
    began = time.monotonic()
    with pytest.raises(TaskError, match=words) as caught:
        tasks.parse(raw, "docs/tasks/bad.md")
    assert time.monotonic() - began < SOON_S
    error = caught.value
    assert error.path == "docs/tasks/bad.md"
    assert len(str(error)) < 2000
    if "50 MB" not in name and "300 kB" not in name:
        assert error.line > 0
        assert error.line <= raw.count(b"\n") + 1


@pytest.mark.parametrize("name", USABLE)
def test_21_an_odd_task_file_is_read_as_text_and_constructs_nothing(name: str) -> None:
    began = time.monotonic()
    task = tasks.parse(USABLE[name], "docs/tasks/odd.md")
    assert task is not None
    assert (task.uuid, task.slug, task.status) == (UUID, "tidy", "ready")
    tasks.select(["docs/" + "a" * 250 + ".md"] * 100, task.spec.scope if task.spec else ())
    assert time.monotonic() - began < SOON_S


def test_21_the_other_tasks_run_beside_every_damaged_one(make_field: Callable[..., Field]) -> None:
    """All damaged files in one repository: a person reads of each, the good task's item is accepted."""
    bad = {f"docs/tasks/bad-{n:03}.md": raw for n, (raw, _) in enumerate(DAMAGED.values())}
    field = make_field({k: v[:3_000_000] for k, v in bad.items()}, alone=True)
    began = time.monotonic()
    report = field.night()
    assert [run.outcome for run in report.runs] == [Outcome.ACCEPTED]
    assert time.monotonic() - began < 30
    noted = "\n".join(report.notes)
    for path in bad:
        assert re.search(rf"{re.escape(path)}:", noted), path
    text = field.shown("status")
    assert f"{len(bad)} task files cannot be used" in text
    field.look()


def test_21_one_id_twice_runs_neither_and_names_both(make_field: Callable[..., Field]) -> None:
    field = make_field({"docs/tasks/twin.md": TASK.replace(UUID, UUID.upper()).replace('"tidy"', '"twin"')}, alone=True)
    text = field.shown("plan")
    assert "0 tasks, 0 items" in text
    assert text.count("its uuid is used by docs/tasks/tidy.md, docs/tasks/twin.md") == 2


def test_21_a_scope_over_everything_takes_no_task_file_as_its_target(
    make_field: Callable[..., Field],
) -> None:
    """And the user's other task stays byte for byte."""
    wide = TASK.replace('["docs/**/*.md"]', '["**"]').replace('  exclude: ["docs/tasks/**"]\n', "")
    other = TASK.replace("0f0e8a52", "0f0e8a53").replace('"tidy"', '"other"').replace('"ready"', '"draft"')
    field = make_field({"docs/tasks/tidy.md": wide, "docs/tasks/other.md": other}, alone=True)
    report = field.night()
    assert {run.item.target for run in report.runs} == {VICTIM}
    (pull,) = report.prs
    changed = git("diff", "--name-only", pull.base, pull.tip, cwd=field.root).split()
    assert set(changed) == {VICTIM, "docs/tasks/tidy.md"}


def test_21_a_note_of_3_mb_and_notes_of_one_line_hold_nobody_up(make_field: Callable[..., Field]) -> None:
    notes = {
        "docs/huge.md": b"# Huge\n" + b"[x](y.md) word " * (3 << 16),
        "docs/line.md": b"# Line\n" + b"[[a]](b) " * 100_000,
        "docs/brackets.md": b"# Brackets\n" + b"[" * 500_000 + b"](" * 100_000,
        "docs/ticks.md": b"# Ticks\n" + b"`" * 300_001 + b" " + b"``` " * 50_000,
        "docs/stars.md": b"# Stars\n" + b"*_" * 200_000,
        "docs/quotes.md": b"> " * 100_000,
    }
    field = make_field(notes, alone=True)
    began = time.monotonic()
    field.night(victims=tuple(notes))
    assert field.run_of(VICTIM).outcome is Outcome.ACCEPTED
    assert time.monotonic() - began < 45
