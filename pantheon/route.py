"""The router: which flow a task takes, and which specialist a node gets among several, with the reasons. Pure.

It chooses among what is in force and local, by labels and paths first, then by the measured rate at which an agent's
work was accepted. It decides when the queue is frozen, so that a night makes no choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pantheon import tasks
from pantheon.flow import unmet, wanted_agent
from pantheon.records import TEACHER, Agent, Flow, FlowMatch, Task

Rates = Mapping[str, tuple[int, int]]  # name@version -> (accepted runs, all runs) that it worked in


@dataclass(frozen=True)
class Choice:
    """What was chosen ("" for nothing), and why in a line per candidate."""

    name: str
    why: tuple[str, ...]


def flow_of(task: Task, flows: Mapping[str, Flow]) -> Choice:
    """The flow of a task: the one it names, else the one whose labels, then whose paths fit it best."""
    whole = {name: flow for name, flow in sorted(flows.items()) if flow.whole}
    named = task.spec.flow if task.spec else None
    if named:
        if named in whole:
            return Choice(named, (f"the task names flow {named}",))
        why = f"flow {named!r} has no gate: it is a part of others" if named in flows else f"there is no flow {named!r}"
        return Choice("", (f"{why}; known flows: {', '.join(whole)}",))
    fitting = [(name, sorted(set(flow.match.labels) & set(task.labels))) for name, flow in whole.items()]
    fitting = [(name, labels) for name, labels in fitting if labels]
    if not fitting:
        said = ", ".join(f"{name} ({', '.join(flow.match.labels)})" for name, flow in whole.items())
        return Choice("", (f"names no flow and no label of it matches one; known flows: {said}",))
    fitting.sort(key=lambda one: (-len(one[1]), one[0]))
    lines = [f"flow {name} fits label {', '.join(labels)}" for name, labels in fitting]
    return Choice(fitting[0][0], tuple(lines))


def agent_for(
    wants: Sequence[str], agents: Mapping[str, Agent], task: Task, target: str, rates: Rates, model: str
) -> Choice:
    """The agent of one node for one target, `name@version`. `model`: the one that is served tonight.

    The most particular match goes first, then the better measured rate, then the order in which the flow names them.
    """
    lines: list[str] = []
    fitting: list[tuple[int, float, int, Agent, str]] = []
    for number, want in enumerate(wants):
        agent, why = _candidate(want, agents, task, target, model)
        if agent is None:
            lines.append(f"{want}: left out: {why}")
            continue
        accepted, runs = rates.get(agent.label, (0, 0))
        rate = (accepted + 1) / (runs + 2)  # Laplace's rule of succession: an agent without runs counts as one half
        measured = f"{accepted} of {runs} runs accepted" if runs else "not measured yet"
        fitting.append((_particular(agent.match, task, target), rate, -number, agent, f"{why}; {measured}"))
    fitting.sort(key=lambda one: one[:3], reverse=True)
    lines = [f"{agent.label}: {why}" for *_, agent, why in fitting] + lines
    return Choice(fitting[0][3].label if fitting else "", tuple(lines))


def _candidate(want: str, agents: Mapping[str, Agent], task: Task, target: str, model: str) -> tuple[Agent | None, str]:
    why = unmet(want, agents)
    if why:
        return None, why
    agent = agents[wanted_agent(want)[0]]
    if agent.runtime.origin != "local":
        return None, f"it runs at {agent.runtime.origin!r}, and only a local one may"
    if agent.runtime.engine != "none" and agent.runtime.model not in ("default", TEACHER, model):
        return None, f"it wants the model {agent.runtime.model!r}, and {model!r} is served"
    match = agent.match
    if match.labels and not set(match.labels) & set(task.labels):
        return None, f"none of its labels ({', '.join(match.labels)}) is the task's"
    if match.paths and not tasks.select([target], match.paths):
        return None, f"its paths ({', '.join(match.paths)}) do not hold {target}"
    said = [f"label {', '.join(sorted(set(match.labels) & set(task.labels)))}"] if match.labels else []
    said += [f"path {', '.join(match.paths)}"] if match.paths else []
    return agent, f"fits {' and '.join(said)}" if said else "fits everything"


def _particular(match: FlowMatch, task: Task, target: str) -> int:
    return len(set(match.labels) & set(task.labels)) + bool(match.paths)


def whatever_target(flow: Flow, agents: Mapping[str, Agent]) -> bool:
    """Whether the agents of a flow are the same for every target of a task: none that it names is for some paths."""
    wants = {wanted_agent(want)[0] for node in flow.nodes for want in node.agent}
    return not any(agents[name].match.paths for name in wants if name in agents)


def agents_of(
    flow: Flow, agents: Mapping[str, Agent], task: Task, target: str, rates: Rates, model: str
) -> tuple[dict[str, str], tuple[str, ...], str]:
    """Node -> `name@version` for every node with an agent; the reasons where there was a choice; and, when a node can
    have none, why ("" else)."""
    chosen: dict[str, str] = {}
    reasons: list[str] = []
    for node in flow.nodes:
        if not node.agent:
            continue
        choice = agent_for(node.agent, agents, task, target, rates, model)
        if not choice.name:
            return chosen, tuple(reasons), f"node {node.id} has no agent: {'; '.join(choice.why)}"
        chosen[node.id] = choice.name
        if len(node.agent) > 1:
            reasons.append(f"{node.id}: {'; '.join(choice.why)}")
    return chosen, tuple(reasons), ""
