"""The report: one record, rendered; what a person reads first, and nothing a file name can break."""

from __future__ import annotations

from datetime import UTC, datetime

from pantheon import report
from pantheon.records import Finding, Item, Night, NightReport, Outcome, PullItem, PullRequest, Repair, Run

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
FOUND = (Finding(rule="missing:title", message="title is missing", field="title", repair=Repair.CHOOSE),)


def run(target: str, outcome: Outcome, node: str = "", reason: str = "") -> Run:
    item = Item(id="a" * 16, task="t", flow="docops", target=target, blob="0" * 40, findings=FOUND)
    return Run(
        id="b" * 32, night="2026-03-01-1", item=item, base="0" * 40, outcome=outcome, node=node, reason=reason,
        completion_tokens=100,
    )  # fmt: skip


def make(*runs: Run) -> NightReport:
    night = Night(
        id="2026-03-01-1", started_at=WHEN, base="0" * 40, branch="main", budget_s=60, window=4, engine="vllm",
        model="m", items=len(runs),
    )  # fmt: skip
    pull = PullRequest(
        id=1, task="t", title="A | B", night=night.id, branch="pantheon/t/1", onto="main", base="0" * 40, tip="1" * 40,
        created_at=WHEN, items=(PullItem(item="i", run="r", target="docs/a.md", commit="1" * 40),),
    )  # fmt: skip
    return NightReport(
        night=night, finished_at=WHEN, ended="finished", runs=runs, left=0, prs=(pull,), notes=("x\ny",), wall_s=50,
        host_cpu_s=1.0,
    )  # fmt: skip


def test_failures_with_one_cause_stand_together_largest_first() -> None:
    runs = [run(f"{n}.md", Outcome.FAILED, "checks", "links") for n in range(3)]
    groups = report.failures([run("x.md", Outcome.FAILED, "merge", "wrong"), *runs, run("y.md", Outcome.ACCEPTED)])
    assert [(node, why, len(found)) for node, why, found in groups] == [("checks", "links", 3), ("merge", "wrong", 1)]


def test_the_markdown_says_what_to_do_and_survives_odd_names() -> None:
    text = report.markdown(make(run("a\n# b.md", Outcome.FAILED, "merge", "wrong"), run("c.md", Outcome.ACCEPTED)))
    assert "git pantheon accept 1" in text
    assert "A \\| B" in text
    assert "a\\n# b.md" in text
    assert "x\\ny" in text
    assert "host CPU: 0.50 s per item" in text


def test_a_commit_message_has_a_short_subject_and_the_trailers() -> None:
    message = report.commit_message(
        run("docs/" + "x" * 90 + ".md", Outcome.ACCEPTED), "docs/new.md", "uuid", "docs: normalise {target}"
    )
    subject, body = message.split("\n", 1)
    assert len(subject) <= 72
    assert "renamed to docs/new.md" in body
    assert f"Pantheon-Run: {'b' * 32}" in message.splitlines()


def test_what_needs_a_person_comes_first_and_nothing_is_said_plainly() -> None:
    assert report.needs_you([], 0, 0) == "nothing needs you"
    assert report.needs_you(list(make().prs), 2, 0).startswith("1 PR with 1 item to review")
