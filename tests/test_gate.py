"""The gate: every reason counts, reviewers can only reject, nothing protected passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import gate
from pantheon.records import CheckResult, Decision, Verdict

A = Verdict(node="review-a", agent="a@1", verdict="pass", reason="ok")
B = Verdict(node="review-b", agent="b@1", verdict="pass", reason="ok")
OK = CheckResult(name="links", passed=True)


def decide(**changes: Any) -> Decision:
    values: dict[str, Any] = {
        "changed": ["docs/a.md"], "added": 3, "deleted": 0, "max_diff_lines": 10, "patch": b"+x\n", "checks": [OK],
        "wanted_checks": ["links"], "verdicts": [A, B],
    }  # fmt: skip
    return gate.decide(**{**values, **changes})


def test_everything_in_order_is_accepted() -> None:
    assert decide() == Decision(accepted=True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"changed": []}, "nothing changed"),
        ({"added": 11}, "the task allows 10"),
        ({"binary": ["docs/a.md"]}, "not text, so that nobody can review it: docs/a.md"),
        ({"checks": []}, "check links did not pass"),
        ({"checks": [CheckResult(name="links", passed=False)]}, "check links did not pass"),
        ({"checks": [OK, CheckResult(name="other", passed=False)]}, "check other failed"),
        ({"verdicts": [A]}, "1 of 2 reviewers"),
        ({"verdicts": [A, A]}, "reviewers"),
        (
            {"verdicts": [A, B.model_copy(update={"verdict": "fail", "reason": "wrong title"})]},
            "b@1 says fail: wrong title",
        ),
        ({"patch": "+a\u202eb\n".encode()}, "invisible"),
        ({"patch": "+a\u200bb\n".encode()}, "invisible"),
    ],
)
def test_each_reason_refuses(changes: dict[str, Any], why: str) -> None:
    decision = decide(**changes)
    assert not decision.accepted
    assert any(why in reason for reason in decision.reasons)


@pytest.mark.parametrize(
    "path",
    [
        ".gitattributes", "docs/.gitignore", ".pantheon/checks.toml", ".PANTHEON/x", "hooks/pre-commit",
        ".github/workflows/x.yml",
        ".GitHub/workflows/x.yml", "tests/test_a.py", "src/test_a.py", ".envrc", "AGENTS.md", "agents.md", "x/site.pth",
        ".p\u200bantheon/x", "\uff0epantheon/x", "conftest.py", "Makefile",
    ],
)  # fmt: skip
def test_protected_paths_are_refused_in_every_spelling(path: str) -> None:
    assert not decide(changed=["docs/a.md", path]).accepted


@given(st.lists(st.sampled_from(["pass", "fail"]), min_size=2, max_size=4), st.booleans())
def test_reviewers_can_reject_but_never_override_a_check(verdicts: list[str], passed: bool) -> None:
    spoken = [
        Verdict.model_validate({"node": f"r{i}", "agent": "x@1", "verdict": v, "reason": ""})
        for i, v in enumerate(verdicts)
    ]
    decision = decide(verdicts=spoken, checks=[CheckResult(name="links", passed=passed)])
    assert decision.accepted == (passed and set(verdicts) == {"pass"})


def test_an_invisible_character_that_was_there_before_is_no_reason() -> None:
    assert decide(patch="-a\u200bb\n+a\u200bc\n".encode()).accepted
