"""The frozen queue: only what breaks a rule, in a stable order, with a word on everything left out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pantheon import plan
from pantheon.errors import ConfigError
from pantheon.records import Finding, Flow, FlowMatch, FlowNode, PullItem, PullRequest, Repair, Task, TaskSpec, seconds

FLOWS = {
    "docops": Flow(
        name="docops", match=FlowMatch(paths=("**/*.md",), labels=("docops",)), nodes=(FlowNode(id="g", gate=True),)
    )
}
BROKEN = (Finding(rule="missing:title", message="title is missing", field="title", repair=Repair.CHOOSE),)
PERSON = (Finding(rule="unparsable", message="not YAML", line=3, repair=Repair.REPORT),)
BLOBS = {"docs/a.md": "1" * 40, "docs/b.md": "2" * 40, "docs/c.py": "3" * 40, "docs/tasks/t.md": "4" * 40}


def task(**changes: object) -> Task:
    spec = TaskSpec(flow="docops", scope=("docs/**",))
    base = Task(uuid="0f0e8a52", title="T", slug="t", status="ready", path="docs/tasks/t.md", spec=spec)
    return base.model_copy(update=changes)


def freeze(*tasks: Task, **options: object) -> plan.Plan:
    findings = options.pop("findings", {"docs/a.md": BROKEN, "docs/b.md": BROKEN, "docs/tasks/t.md": BROKEN})
    assert isinstance(findings, dict)
    return plan.freeze(
        tasks,
        BLOBS,
        lambda _, path: findings.get(path, ()),
        FLOWS,
        {},
        ready=("ready", "todo"),
        **options,  # type: ignore[arg-type]
    )


def test_an_item_is_made_only_where_a_rule_is_broken() -> None:
    assert [item.target for item in freeze(task(), findings={"docs/b.md": BROKEN}).items] == ["docs/b.md"]


def test_the_task_file_itself_is_no_target() -> None:
    assert [item.target for item in freeze(task()).items] == ["docs/a.md", "docs/b.md"]


def test_items_keep_their_ids_from_night_to_night() -> None:
    assert [i.id for i in freeze(task()).items] == [i.id for i in freeze(task()).items]


def test_what_only_a_person_can_mend_is_said_and_not_queued() -> None:
    planned = freeze(task(), findings={"docs/a.md": PERSON})
    assert planned.items == ()
    assert planned.notes == ("docs/a.md:3: needs a person: not YAML",)


def test_a_target_belongs_to_the_more_urgent_task() -> None:
    urgent = task(uuid="11111111", path="docs/tasks/u.md", priority="P0")
    planned = freeze(task(), urgent)
    assert {item.task for item in planned.items} == {"11111111"}
    assert any("already taken by docs/tasks/u.md" in note for note in planned.notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec": TaskSpec(flow="docops", scope=("nowhere/**",))}, "matches no file"),
        ({"spec": TaskSpec(flow="missing", scope=("docs/**",))}, "known flows: docops"),
        ({"spec": TaskSpec(flow="docops", scope=("docs/**",), depends_on=("other",))}, "waits for other"),
        ({"spec": None, "labels": ("docops",)}, "no pantheon block"),
    ],
)
def test_a_task_that_cannot_run_says_why(changes: dict[str, object], said: str) -> None:
    planned = freeze(task(**changes))
    assert planned.items == ()
    assert said in planned.notes[0]


@pytest.mark.parametrize("status", ["draft", "done", "incoming"])
def test_a_task_that_is_not_ready_is_left_alone_silently(status: str) -> None:
    assert freeze(task(status=status)) == plan.Plan((), (), ())


def test_a_uuid_used_twice_stops_both() -> None:
    planned = freeze(task(), task(path="docs/tasks/u.md"))
    assert planned.items == ()
    assert len(planned.notes) == 2


def pull(item: str, **changes: object) -> PullRequest:
    base = PullRequest(
        id=7, task="0f0e8a52", title="T", night="n", branch="pantheon/t/1", onto="main", base="0" * 40, tip="1" * 40,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        items=(PullItem(item=item, run="r", target="docs/a.md", commit="1" * 40),),
    )  # fmt: skip
    return base.model_copy(update=changes)


def test_what_waits_for_review_is_not_offered_again() -> None:
    first = freeze(task()).items[0]
    planned = freeze(task(), prs=[pull(first.id)])
    assert [item.target for item in planned.items] == ["docs/b.md"]
    assert planned.notes == ("1 file waiting for your review in PR 7",)


def test_what_was_rejected_comes_back_only_when_the_file_changes() -> None:
    first = freeze(task()).items[0]
    assert len(freeze(task(), rejected={first.id: first.blob}).items) == 1
    assert len(freeze(task(), rejected={first.id: "9" * 40}).items) == 2


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("10m", 600), ("6h", 21600), ("1d", 86400), ("1.5h", 5400)])
def test_budgets(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "0m", "5 weeks", "1e9m"])
def test_bad_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        seconds(text)


def test_paths_are_shown_without_control_characters() -> None:
    shown = plan.printable("a\nb\x1b[31m\u202e\udcff.md")
    assert shown.isprintable()
    assert "\\n" in shown


def test_tasks_go_by_their_priority_then_by_their_path() -> None:
    found = [task(path="b.md", priority="P1"), task(path="a.md", priority="P1"), task(path="c.md", priority="P0")]
    found += [task(path="d.md", priority="someday")]
    assert [one.path for one in sorted(found, key=plan.urgency)] == ["c.md", "a.md", "b.md", "d.md"]
