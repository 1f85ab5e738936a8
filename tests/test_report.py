"""The report: one record, rendered; what a person reads first, and nothing a file name can break."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from markdown_it import MarkdownIt
from sample_night import HOSTILE, learned, morning, poisoned

from pantheon import growth, report, screen
from pantheon.capacity import Compared
from pantheon.records import (
    Finding,
    Item,
    Night,
    NightReport,
    Outcome,
    Phase,
    PullItem,
    PullRequest,
    PullState,
    Repair,
    Run,
    Serving,
)

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


def test_a_halted_gate_comes_before_prs_in_what_needs_a_person() -> None:
    found = morning(halted=True).report
    said = report.needs_you(list(found.prs), 0, 0, halted=found.quality)
    assert said.startswith("the gate of docstrings is halted: git pantheon report; 1 PR with ")


def test_worth_is_measured_or_said_to_be_unmeasured() -> None:
    measured = {figure.name: figure for figure in report.worth(morning(nights=2).report)}
    assert measured["yield"].value.endswith(" %")
    assert re.fullmatch(r"\d+ of \d+", measured["wrong canaries caught"].value)
    assert re.search(r"\d to \d+ % of what was accepted is right", measured["precision, docops"].note)
    assert "adjusted for prevalence" in measured["agreement (kappa), docops"].note
    bare = {figure.name: figure for figure in report.worth(morning(nights=0, canaries=0).report)}
    assert (bare["precision, docops"].value, bare["precision, docops"].note) == ("not measured", "no canaries")
    assert bare["canaries"].value == "none"


def test_pace_tells_the_forecast_the_budget_and_items_that_are_cut_too_coarse() -> None:
    found = {figure.name: figure for figure in report.pace(morning(nights=1).report)}
    assert re.fullmatch(r".+ to .+ were expected; the forecast was (\d+ % too (high|low)|exact)", found["time"].note)
    assert found["accepted"].value.endswith(" items")
    assert found["mean batch"].alert and "cut too coarse" in found["mean batch"].note
    assert "mean batch" in {f.name for f in report.pace(morning().report) if not f.alert}


@pytest.mark.parametrize(("error", "said"), [(0.081, "8 % too high"), (-0.5, "50 % too low"), (0.001, "exact")])
def test_how_far_a_forecast_was_off(error: float, said: str) -> None:
    assert report.error_text(Compared(low=1, high=2, actual=3, inside=False, error=error)) == said


def test_a_failure_is_replayed_at_its_node_and_a_park_only_shown() -> None:
    failed = run("a.md", Outcome.FAILED, "checks", "links").model_copy(update={"nodes": {"checks": "failed"}})
    assert report.replay_command(failed) == f"git pantheon replay {'b' * 12} --node checks"
    assert report.replay_command(run("a.md", Outcome.PARKED, "stack", "conflict")) == f"git pantheon run {'b' * 12}"


def test_a_command_to_paste_holds_no_command_of_others() -> None:
    odd = run("a.md", Outcome.FAILED, "x; rm -rf ~", "links").model_copy(update={"nodes": {"x; rm -rf ~": "failed"}})
    assert report.replay_command(odd) == f"git pantheon replay {'b' * 12} --node 'x; rm -rf ~'"


def test_markdown_of_hostile_records_is_text_in_every_viewer() -> None:
    text = report.markdown(poisoned(morning(nights=1, halted=True)).current)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    kinds = {child.type for token in tokens for child in token.children or ()} | {token.type for token in tokens}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "fence", "code_block"}
    assert not set("\u202e\u2066\u200b\x1b\x00") & set(text)
    shown = "".join(child.content for token in tokens for child in token.children or ())
    assert "<script>window.pwned=1</script>" in shown


def test_markdown_has_the_order_of_the_page() -> None:
    text = report.markdown(morning(halted=True).current)
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        *("# Night 2026-11-26-1", "## What needs you", "### The gate of docstrings is halted", "### What did not pass"),
        *("### Not in the queue", "## What it was worth", "### The gate of docops", "### The gate of docstrings"),
        *("## What happened", "## Figures"),
    ]
    assert "| review.peer-a@2 |" in text
    assert "| docops/checks |" in text


@pytest.mark.parametrize("width", [80, 50])
def test_the_terminal_form_fits_and_obeys_no_color(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    screen.night_report(morning(halted=True).current)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    heads = [line for line in lines if line.startswith("What ")]
    assert heads == ["What needs you", "What it was worth", "What happened"]
    assert any("git pantheon replay" in line for line in lines)


def test_the_terminal_form_of_hostile_records_drives_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "5000")
    screen.night_report(poisoned(morning(nights=1, halted=True)).current)
    text = capsys.readouterr().out
    assert not set("\u202e\u2066\u200b\x1b\x00") & set(text)
    assert HOSTILE[:31] in text


def test_what_you_decided_is_told_beside_what_canaries_tell() -> None:
    found = morning().report
    assert found.prs
    pull = found.prs[0]
    words = ["", "rejected", "retry", "never", *[""] * len(pull.items)]
    items = tuple(
        item.model_copy(update={"verdict": word, "dropped": bool(word)})
        for item, word in zip(pull.items, words, strict=False)
    )
    assert report.decided([pull.model_copy(update={"items": items})]).of == 2  # an open PR: only what was taken off it
    said = report.decided([pull.model_copy(update={"items": items, "state": PullState.ACCEPTED})])
    assert (said.hits, said.of) == (len(items) - 3, len(items) - 1)
    assert report.decided([]).of == 0


# --- learning --------------------------------------------------------------------------------------------------------


def test_every_agent_that_learns_has_a_line_and_drift_raises_it() -> None:
    found = {figure.name: figure for figure in report.learning(learned())}
    drifting, other = found["held-out pass, doc.frontmatter@4"], found["held-out pass, code.docstring@2"]
    assert (drifting.value, drifting.alert, other.alert) == ("71 %", True, False)
    assert "62 to 78 %, after 1530 rows; drift: 11 of 31 new items passed, 35 % (21 to 53 %)" in drifting.note
    assert "80 % not with this curve: it levels off at" in drifting.note
    assert "no curve yet" in other.note
    lift = found["lift of the week"]
    assert (lift.value, lift.alert) == ("+6 points", False)
    assert lift.note == "-2 to +14 against the week before, at equal difficulty"
    assert report.learning(growth.NOTHING) == []


def test_learning_stands_in_the_markdown_and_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    found = morning(nights=1)
    assert "- held-out pass, doc.frontmatter@4: **71 %**; 62 to 78 %" in report.markdown(found.current, found.learned)
    assert "held-out pass" not in report.markdown(found.current)
    screen.night_report(found.current, found.learned)
    assert "lift of the week" in capsys.readouterr().out
    screen.night_report(found.current, poisoned(found).learned)
    assert "\x1b" not in capsys.readouterr().out


def test_status_tells_of_drift_and_of_what_became_ready() -> None:
    drifting, other = learned().agents
    (line,) = report.growth_lines([drifting, other])
    assert line.startswith("drift: doc.frontmatter@4: 11 of 31 new items passed")
    assert line.endswith("git pantheon agents show doc.frontmatter")
    (line,) = report.growth_lines([replace(other, aim=0.5)])
    assert line.startswith("ready: code.docstring@2 passes held-out items: 70 of 120, 58 % (49 to 67 %)")


def test_how_a_night_was_served_is_said_where_it_is_not_the_usual_way() -> None:
    found = morning(nights=0).report
    assert not report.served(found)
    phases = (Phase(server="base", start_s=36, seconds=420), Phase(server="doc.frontmatter@4", start_s=37, seconds=310))
    night = found.night.model_copy(update={"serving": Serving(mode="phases", why="it costs less")})
    (figure,) = report.served(found.model_copy(update={"night": night, "phases": phases}))
    assert (figure.name, figure.value) == ("served", "2 phases")
    assert figure.note == (
        "base 36 s to start and 7 min at work, doc.frontmatter@4 37 s to start and 5 min at work; it costs less"
    )
    assert figure in report.pace(found.model_copy(update={"night": night, "phases": phases}))
