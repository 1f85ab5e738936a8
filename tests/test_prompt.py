"""Prompts: a shared prefix with nothing volatile in it, and a record that gives the bytes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import prompt
from pantheon.config import packaged
from pantheon.errors import ConfigError
from pantheon.records import Offer, ToolCall

SOURCE = "{% block system %}You are {{ agent }}.{% endblock %}{% block user %}Note: {{ target }}{% endblock %}"


def test_the_system_part_sees_only_what_all_items_share() -> None:
    assert prompt.Template(SOURCE, "p.j2").render({"agent": "A"}, {"target": "x"}) == ("You are A.", "Note: x")
    leaky = "{% block system %}{{ target }}{% endblock %}{% block user %}{% endblock %}"
    with pytest.raises(ConfigError, match="target"):
        prompt.Template(leaky, "p.j2").render({"agent": "A"}, {"target": "x"})


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% block system %}{% endblock %}", "'user' is missing"),
        ("{% block system %}{% endblock", "expected .end of statement block"),
        (SOURCE.replace("target", "nobody"), "nobody"),
        (SOURCE.replace("{{ target }}", "{{ ''.__class__.__mro__ }}"), "unsafe"),
    ],
)
def test_a_bad_template_is_an_error_with_its_name(source: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        prompt.Template(source, "p.j2").render({"agent": "A"}, {"target": "x"})


def test_text_of_a_note_is_data_not_template() -> None:
    _, user = prompt.Template(SOURCE, "p.j2").render({"agent": "A"}, {"target": "{{ 7 * 7 }} {% raw %}"})
    assert user == "Note: {{ 7 * 7 }} {% raw %}"


@pytest.mark.parametrize("path", sorted(packaged("prompts").glob("*.j2")), ids=lambda p: p.name)
def test_every_shipped_prompt_compiles(path: object) -> None:
    from pathlib import Path

    assert isinstance(path, Path)
    assert len(prompt.Template(path.read_text(), path.name).digest) == 64


@given(st.lists(st.text(max_size=200), max_size=5))
def test_the_record_gives_every_prompt_back_byte_for_byte(prompts: list[str]) -> None:
    assert prompt.read_record(prompt.record(prompts)) == prompts


def test_a_flipped_byte_in_the_record_is_noticed() -> None:
    data = bytearray(prompt.record(["hello"]))
    data[-3] ^= 1
    with pytest.raises(ValueError, match="does not match"):
        prompt.read_record(bytes(data))


def test_only_the_last_three_results_are_shown() -> None:
    calls = [ToolCall(step=i, by="model", tool="set_field", args={"value": f"v{i}"}, result={}) for i in range(5)]
    assert [line.split('"')[1] for line in prompt.recent(calls)] == ["v2", "v3", "v4"]


def test_a_goal_names_what_is_fixed_and_what_is_open() -> None:
    offer = Offer(tool="set_field", args={"field": ("title",), "value": ("A", "B")})
    assert prompt.goals([offer]) == ["set_field title - choose value"]
