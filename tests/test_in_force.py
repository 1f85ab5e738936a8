"""What is in force, checked as a whole: every file that does not fit the others is named with its line."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pantheon import config, registry
from pantheon.errors import InputError

AGENT = """[agent]
name = "x"
version = 2
summary = "s"
runtime = {origin = "local"}
prefetch = ["read_file"]
tools = ["set_line"]
prompt = "x.j2"
"""
PROMPT = "{% block system %}{{ agent }}{% endblock %}\n{% block user %}{{ target }}{% endblock %}\n"
FLOW = """[flow]
name = "f"
rules = "f"
[[flow.node]]
id = "work"
agent = "x >= 2"
[[flow.node]]
id = "checks"
checks = ["rules"]
inputs = ["work"]
[[flow.node]]
id = "review"
flow = "peers"
inputs = ["checks"]
[[flow.node]]
id = "merge"
gate = true
inputs = ["review"]
"""
RULES = 'kind = "pattern"\n[[rule]]\nname = "a"\nmissing = "A"\ninsert = "A"\n'
FILES = {"agents/x.toml": AGENT, "prompts/x.j2": PROMPT, "flows/f.toml": FLOW, "rules/f.toml": RULES}


def problems(changed: Mapping[str, str] | None = None) -> list[InputError]:
    files = {f".pantheon/{name}": text.encode() for name, text in {**FILES, **(changed or {})}.items()}
    return registry.inspect(files.get, tuple(files))[1]


def test_what_is_packaged_and_a_whole_set_of_one_s_own_fit() -> None:
    assert problems() == []
    assert registry.inspect(lambda _: None, ())[1] == []
    packaged = config.load(lambda _: None, ())
    assert set(registry.templates(packaged, registry.tools_of(packaged))) >= {"doc.frontmatter", "review.change-a"}
    assert set(registry.rules_of(packaged)) >= {"frontmatter", "headers", "stubs", "docstrings", "spec"}


@pytest.mark.parametrize(
    ("name", "old", "new", "line", "why"),
    [
        ("agents/x.toml", '["set_line"]', '["set_lime"]', 7, "did you mean 'set_line'?"),
        ("agents/x.toml", '["read_file"]', '["nothing"]', 6, "unknown tool 'nothing'"),
        ("agents/x.toml", '"x.j2"', '"y.j2"', 8, "prompt 'y.j2' is not there"),
        ("agents/x.toml", 'origin = "local"', 'origin = "https://api.example.org"', 5, "only 'local'"),
        ("agents/x.toml", 'origin = "local"', 'origin = "local", engine = "none"', 7, "no model is asked"),
        ("agents/x.toml", "version = 2", "version = 0", 3, "greater than or equal to 1"),
        ("agents/x.toml", "version = 2", "verison = 2", 3, "did you mean 'version'?"),
        ("agents/x.toml", "version = 2", "version = 1", 0, ""),
        ("prompts/x.j2", "{{ target }}", "{{ target }}\n{{ fetched.read_file.txt }}", 3, "has no 'txt'; it has: path"),
        ("prompts/x.j2", "{{ target }}", "{{ fetched.view.text }}", 2, "the agent's prefetch is read_file"),
        ("prompts/x.j2", "{{ agent }}", "{{ target }}", 1, "no variable 'target' here; known: agent, cards, rules"),
        ("prompts/x.j2", "{{ target }}", "{% for o in offers %}{{ o.tool }}{{ p }}{% endfor %}", 2, "variable 'p'"),
        ("prompts/x.j2", "{{ target }}", "{% if findings %}{{ targte }}{% endif %}", 2, "variable 'targte'"),
        ("prompts/x.j2", "{{ target }}", "{{ target", 2, ""),
        ("prompts/x.j2", "block user", "block usr", 0, "block 'user' is missing"),
        ("flows/f.toml", '"x >= 2"', '"x >= 3"', 6, "needs x >= 3, and x@2 is in force"),
        ("flows/f.toml", '"peers"', '"pears"', 13, "there is no flow 'pears'"),
        ("flows/f.toml", 'rules = "f"', 'rules = "g"', 3, "no rules 'g' below .pantheon/rules/"),
        ("flows/f.toml", 'checks = ["rules"]', 'checks = ["rulez"]', 9, "there is no check 'rulez'"),
        ("flows/f.toml", 'inputs = ["checks"]', 'inputs = ["checks"]\nwhen = "work.opne"', 15, "it has: choose"),
        ("flows/f.toml", 'flow = "peers"', 'checks = ["links"]', 0, "2 peer reviewers must agree"),
        ("rules/f.toml", '"pattern"', '"patern"', 1, "no such kind: 'patern'; known: "),
        ("rules/f.toml", '"pattern"', '"pattern"\nfiles = ["docs/[z-a].md"]', 2, "is no pattern: bad character range"),
        ("flows/f.toml", 'rules = "f"', 'rules = "f"\nmatch = {paths = ["../**"]}', 4, "leaves the repository"),
        ("rules/f.toml", 'insert = "A"', 'insert = "B"', 2, "would not satisfy"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_line(name: str, old: str, new: str, line: int, why: str) -> None:
    found = problems({name: FILES[name].replace(old, new, 1)})
    assert found, "nothing was said"
    hits = [p for p in found if p.path in (f".pantheon/{name}", ".pantheon/flows/f.toml") and why in p.why]
    assert hits, [str(p) for p in found]
    assert line in (0, hits[0].line), [str(p) for p in found]


def test_everything_that_is_wrong_is_said_not_only_the_first() -> None:
    found = problems(
        {
            "agents/x.toml": AGENT.replace("set_line", "set_lime").replace("read_file", "raed_file"),
            "flows/f.toml": FLOW.replace('"peers"', '"pears"'),
            "rules/f.toml": "kind = [",
        }
    )
    assert {p.path for p in found} >= {".pantheon/agents/x.toml", ".pantheon/flows/f.toml", ".pantheon/rules/f.toml"}
    assert len(found) >= 4
