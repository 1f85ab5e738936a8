"""Every stored record of every past schema number still loads: `fixtures/schema-N/` has one of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pantheon import forms
from pantheon.lessons import Card
from pantheon.records import (
    SCHEMA_VERSION,
    Artifact,
    Collected,
    HumanDecision,
    Item,
    Night,
    NightReport,
    Outcome,
    PullRequest,
    Record,
    Retired,
    Run,
    Task,
    newer,
)

FIXTURES = Path(__file__).parent / "fixtures"
KINDS: dict[str, type[Record]] = {
    "night.json": Night,
    "report.json": NightReport,
    "queue.jsonl": Item,
    "tasks.jsonl": Task,
    "run.json": Run,
    "pr.json": PullRequest,
    "decision.jsonl": HumanDecision,
    "artifact.jsonl": Artifact,
    "card.json": Card,
    "collected.jsonl": Collected,
    "retired.jsonl": Retired,
}


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION + 1))
@pytest.mark.parametrize("name", KINDS)
def test_a_record_of_a_past_schema_number_loads(number: int, name: str) -> None:
    data = (FIXTURES / f"schema-{number}" / name).read_bytes()
    texts = [line for line in data.splitlines() if line] if name.endswith(".jsonl") else [data]
    assert texts
    for text in texts:
        assert not newer(text)
        stored = json.loads(text)
        loaded = KINDS[name].model_validate(stored).model_dump(mode="json")
        assert stored.items() <= loaded.items() or _within(stored, loaded), "what is stored is what is read"


def _within(stored: object, loaded: object) -> bool:
    """Whether a value is in another that may have more keys: fields that came later have a default."""
    if isinstance(stored, dict) and isinstance(loaded, dict):
        return all(key in loaded and _within(value, loaded[key]) for key, value in stored.items())
    if isinstance(stored, list) and isinstance(loaded, list):
        return len(stored) == len(loaded) and all(_within(*pair) for pair in zip(stored, loaded, strict=True))
    return stored == loaded


def test_every_kind_of_stored_record_has_a_fixture() -> None:
    for number in range(1, SCHEMA_VERSION + 1):
        held = {path.name for path in (FIXTURES / f"schema-{number}").iterdir()}
        assert held >= set(KINDS)


def test_a_newer_number_is_seen_at_any_depth_but_not_in_a_text() -> None:
    assert newer(b'{"a": {"schema_version": 9}}')
    assert newer(f'{{"schema_version":{forms.SCHEMA_VERSION + 1}}}'.encode())
    assert not newer(b'{"schema_version": 1}')
    artifact = Artifact(run="r", node="n", name="x", size=1, sha256="0", oid="0", content='{"schema_version": 9}')
    assert not newer(artifact.to_json().encode())


_SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(st.integers(), inner)
    ),
    max_leaves=20,
)


@given(_SHAPES)
@example([0.0, -0.0, 1e-4, 9.999e-5, 1e-5, 1e15, 1e16, 9007199254740993.0, 9999999999999998.0, 1e22, 5e-324])
@example({"b": "\x00\x1f\x7f\u2028\ud800", "a": {"é": [], "": {}, "\U0001f600": ()}})
@example([Outcome.PARKED, {Outcome.PARKED: True}, float("nan"), float("-inf"), 1 << 70, -(1 << 63)])
def test_a_stored_file_has_the_bytes_of_pythons_own_writer(value: object) -> None:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n"
    assert forms.pretty(value) == text.encode("utf-8", "backslashreplace")


@given(st.floats(min_value=1e-4, max_value=1e16) | st.floats(min_value=-1e16, max_value=-1e-4))
def test_a_number_without_an_exponent_has_one_form(value: float) -> None:
    assert forms.pretty(value) == json.dumps(value).encode() + b"\n"
