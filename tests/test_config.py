"""Configuration: packaged defaults, overridden file by file from one commit, refused with file, line and known keys."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pantheon import config, registry
from pantheon.errors import ConfigError


def load(files: Mapping[str, str] | None = None) -> config.Config:
    given = {name: text.encode() for name, text in (files or {}).items()}
    return config.load(given.get, tuple(given))


def test_the_packaged_defaults_are_whole() -> None:
    found = load()
    assert list(registry.problems(found)) == []
    assert set(found.agents) >= {"plan.validate", "doc.frontmatter", "doc.rename", "review.peer-a", "review.peer-b"}
    assert all(agent.prompt in found.prompts for agent in found.agents.values() if agent.prompt)


def test_a_repository_overrides_one_file_and_keeps_the_rest() -> None:
    found = load({".pantheon/pantheon.toml": "schema_version = 1\n[night]\nwindow = 3\n"})
    assert found.settings.night.window == 3
    assert found.agents == load().agents
    assert found.digest != load().digest


def test_a_repository_adds_an_agent() -> None:
    agent = '[agent]\nname = "x"\nversion = 2\nsummary = "s"\nruntime = {origin = "local"}\n'
    assert load({".pantheon/agents/x.toml": agent}).agents["x"].label == "x@2"


@pytest.mark.parametrize(
    ("name", "text", "why", "line"),
    [
        (
            "pantheon.toml",
            "schema_version = 1\n[tasks]\npath = []\n",
            "unknown key 'path'; known here: paths, ready; did you mean 'paths'?",
            3,
        ),
        ("pantheon.toml", "schema_version = 2\n", "schema_version", 1),
        ("pantheon.toml", "schema_version = 1\n[night]\nwindow = -1\n", "night.window", 3),
        ("pantheon.toml", "schema_version = \n", "", 1),
        ("agents/x.toml", '[agent]\nname = "x"\n', "version", 1),
        ("agents/x.toml", "[agnet]\n", "one table", 1),
        ("agents/x.toml", '[agent]\nname = "y"\nversion = 1\nsummary = ""\nruntime = {origin = "local"}\n', "same", 2),
        ("flows/x.toml", '[flow]\nname = "x"\n[[flow.node]]\nid = "a"\nagnet = "b"\n', "unknown key 'agnet'", 5),
        ("checks.toml", '[check.x]\nrun = "not a list"\n', "run", 2),
    ],
)
def test_a_mistake_names_the_file_the_line_and_what_is_known(name: str, text: str, why: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load({f".pantheon/{name}": text})
    assert caught.value.path == f".pantheon/{name}"
    assert why in str(caught.value)
    assert caught.value.line == line


def test_a_file_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load({".pantheon/prompts/x.j2": b"\xff"}.get, (".pantheon/prompts/x.j2",))


def test_a_runtime_that_is_not_local_is_refused_by_name() -> None:
    agent = '[agent]\nname = "spy"\nversion = 1\nsummary = "s"\nruntime = {origin = "remote"}\n'
    (problem,) = registry.problems(load({".pantheon/agents/spy.toml": agent + 'prompt = "doc.rename.j2"\n'}))
    assert problem.path == ".pantheon/agents/spy.toml"
    assert "only 'local' may run at night" in problem.why
    with pytest.raises(ConfigError):
        registry.read(load({".pantheon/agents/spy.toml": agent}))
