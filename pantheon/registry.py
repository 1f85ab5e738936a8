"""What is in force in one commit, checked as a whole: agents, flows, rules, prompts and tools that fit each other.

Ring 3: config.py reads each file, flow.py knows what a flow may be, the tools know their schemas; here they meet. Every
error names the file and the line. Nothing runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

from pantheon import config, flow, prompt, tomlfile
from pantheon.config import Config
from pantheon.errors import ConfigError, InputError
from pantheon.records import Agent, Record
from pantheon.tools import command
from pantheon.tools.registry import TOOLS, parse_rules
from pantheon.tools.tool import Kind, Tool

SHARED = ("agent", "cards", "rules")  # variables of a prompt's system block
OWN = ("target", "findings", "fetched", "before", "focus", "attempt", "failure", "recent", "results", "goals", "offers")


@dataclass(frozen=True)
class Ruled:
    """A rules file in force: its kind, and what it says."""

    kind: Kind
    rules: Record


def read(found: Config) -> Config:
    """The configuration with its sub-flows in place. Raises ConfigError for the first thing that does not fit."""
    for error in problems(found):
        raise error
    return expanded(found)


def expanded(found: Config) -> Config:
    """Every flow that ends in a gate, with its sub-flows in place; the parts are left as they are."""
    flows = {name: flow.expand(one, found.flows) if one.whole else one for name, one in found.flows.items()}
    return found.model_copy(update={"flows": flows})


def problems(found: Config) -> Iterable[ConfigError]:
    """What does not fit, file by file: agents that are not local, flows that are no DAG of known nodes."""
    try:
        tools = set(tools_of(found))
    except ConfigError as error:
        yield error
        tools = {*TOOLS, *(name.removesuffix(".toml") for name in found.tools)}
    for agent in found.agents.values():
        yield from _agent_problems(found, agent, tools)
    for name, one in found.flows.items():
        path, text = found.sources[f"flows/{name}.toml"], found.texts[f"flows/{name}.toml"]
        for fault in flow.faults(one, found.flows, found.agents, found.checks):
            line = tomlfile.line_of(text, ("flow", *fault.where))
            yield ConfigError("cannot use the flow", path, fault.why, line, f"git pantheon flow show {name}")
        if one.whole and f"{one.rules}.toml" not in found.rules:
            known = ", ".join(sorted(rule.removesuffix(".toml") for rule in found.rules))
            why = f"there are no rules {one.rules!r} below {config.DIRECTORY}/rules/; known: {known}"
            yield ConfigError("cannot use the flow", path, why, tomlfile.line_of(text, ("flow", "rules")))


def _agent_problems(found: Config, agent: Agent, tools: set[str]) -> Iterable[ConfigError]:
    path, text = found.sources[f"agents/{agent.name}.toml"], found.texts[f"agents/{agent.name}.toml"]

    def problem(key: str, why: str, hint: str = "") -> ConfigError:
        line = tomlfile.line_of(text, ("agent", *key.split(".")))
        return ConfigError("cannot use the agent", path, why, line, hint)

    if agent.runtime.origin != "local":
        why = f"runtime.origin is {agent.runtime.origin!r}; only 'local' may run at night"
        yield problem("runtime", why, f"edit {path}")
    for key, names in (("tools", agent.tools), ("prefetch", agent.prefetch)):
        for name in names:
            if name not in tools:
                near = get_close_matches(name, tools, n=1)
                meant = f"; did you mean {near[0]!r}?" if near else ""
                yield problem(key, f"unknown tool {name!r}{meant}; known: {', '.join(sorted(tools))}")
    asks = agent.runtime.engine != "none"
    if asks and (agent.prompt is None or agent.prompt not in found.prompts):
        named = "it names no prompt" if agent.prompt is None else f"prompt {agent.prompt!r} is not there"
        yield problem("prompt", f"{named}; prompts are below {config.DIRECTORY}/prompts/: {', '.join(found.prompts)}")
    if not asks and agent.tools:
        yield problem("tools", 'runtime.engine is "none", so that no model is asked: put its tools into prefetch')


# --- rules, tools, prompts -------------------------------------------------------------------------------------------


def rules_of(found: Config) -> dict[str, Ruled]:
    """The rules that flows name, by name, parsed. Raises ConfigError."""
    names = dict.fromkeys(one.rules for one in found.flows.values() if one.whole)
    return {
        name: Ruled(*parse_rules(found.rules[f"{name}.toml"], found.sources[f"rules/{name}.toml"])) for name in names
    }


def tools_of(found: Config) -> dict[str, Tool]:
    """The packaged tools and the repository's own. Raises ConfigError."""
    folder = f"{config.DIRECTORY}/{config.TOOLS}"
    return {**TOOLS, **command.load_all(found.tools, TOOLS.keys(), folder)}


def templates(found: Config, tools: Mapping[str, Tool]) -> dict[str, prompt.Template]:
    """Every agent's compiled prompt, by the agent's name. Raises ConfigError."""
    compiled = {}
    for agent in found.agents.values():
        if agent.runtime.engine != "none" and agent.prompt in found.prompts:
            compiled[agent.name] = template(found, agent, tools)
    return compiled


def template(found: Config, agent: Agent, tools: Mapping[str, Tool]) -> prompt.Template:
    """An agent's prompt, compiled; a variable that it will not have is an error. Raises ConfigError with the line."""
    name = agent.prompt or ""
    compiled = prompt.Template(found.prompts[name], found.sources[f"prompts/{name}"])
    for block, known in (("system", SHARED), ("user", (*SHARED, *OWN))):
        for line, path in compiled.looks(block):
            why = _unknown(path, known, agent, tools)
            if why:
                raise ConfigError("cannot use the prompt", compiled.path, f"{why} (agent {agent.name})", line)
    return compiled


def _unknown(path: tuple[str, ...], known: tuple[str, ...], agent: Agent, tools: Mapping[str, Tool]) -> str:
    """Why a prompt cannot look at `path`; "" when it can."""
    if path[0] not in known:
        return f"there is no variable {path[0]!r} here; known: {', '.join(known)}"
    if path[0] != "fetched" or len(path) < 2:
        return ""
    if path[1] not in agent.prefetch:
        return f"fetched has no {path[1]!r}: the agent's prefetch is {', '.join(agent.prefetch) or 'empty'}"
    result: Any = tools[path[1]].result
    fields = {**result.model_fields, **result.model_computed_fields}
    if len(path) > 2 and path[2] not in fields:
        return f"the result of {path[1]} has no {path[2]!r}; it has: {', '.join(fields)}"
    return ""


def inspect(read_file: Callable[[str], bytes | None], names: tuple[str, ...]) -> tuple[Config | None, list[InputError]]:
    """The configuration, as far as it can be read, and all that is wrong with what lies below `.pantheon/`: for a
    person who edits it."""
    faults: list[ConfigError] = []
    try:
        found = config.load(read_file, names, faults)
    except ConfigError as error:
        return None, [*faults, error]
    said: list[InputError] = [*faults, *problems(found)]

    def own(name: str) -> bool:  # what is packaged was checked when it was packaged
        return found.sources[name].startswith(f"{config.DIRECTORY}/")

    steps: list[Callable[[], object]] = [
        partial(parse_rules, found.rules[name], found.sources[f"rules/{name}"])
        for name in found.rules
        if own(f"rules/{name}")
    ]
    try:
        tools = tools_of(found)
    except ConfigError:  # said above
        tools = dict(TOOLS)
    asking = [
        agent
        for agent in found.agents.values()
        if agent.prompt in found.prompts and (own(f"agents/{agent.name}.toml") or own(f"prompts/{agent.prompt}"))
    ]
    steps += [
        partial(template, found, agent, tools) for agent in asking if {*agent.tools, *agent.prefetch} <= set(tools)
    ]
    for step in steps:
        try:
            step()
        except ConfigError as error:
            said.append(error)
    return found, said
