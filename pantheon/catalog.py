"""The commands that say what is in force and why: agents, flow, tools, explain. Ring 4; they read HEAD."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pantheon import adapters, artifacts, config, desk, drawing, flow, nights, prs, registry, route, screen
from pantheon.config import Config
from pantheon.errors import ConfigError, TaskError
from pantheon.git import Repo
from pantheon.plan import printable
from pantheon.records import Agent, Flow, Item, Task
from pantheon.schemas import describe
from pantheon.survey import Survey, read_config, survey

# --- agents ----------------------------------------------------------------------------------------------------------


def agents(repo: Repo, *, as_json: bool) -> int:
    """Which agents are in force, from which file, why, who uses them and how they did."""
    commit = repo.head().commit
    found = read_config(repo, commit, repo.entries(commit))
    packaged = config.load(lambda _: None, ()).agents
    rates = nights.rates(repo)
    rows: list[dict[str, Any]] = [
        {
            "agent": agent.label,
            "file": found.sources[f"agents/{agent.name}.toml"],
            "why": _why(agent, found, packaged),
            "engine": agent.runtime.engine,
            "model": agent.runtime.model if agent.runtime.engine != "none" else "",
            "adapter": agent.runtime.adapter or "",
            "held_out": _held_out(repo, agent),
            "flows": sorted(name for name, one in found.flows.items() if one.whole and _uses(one, agent)),
            "accepted": rates.get(agent.label, (0, 0))[0],
            "runs": rates.get(agent.label, (0, 0))[1],
            "summary": agent.summary,
        }
        for agent in sorted(found.agents.values(), key=lambda one: one.name)
    ]
    if as_json:
        return screen.print_json(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("agent", "in force because", "asks", "accepted", "flows"):
        table.add_column(name, no_wrap=name == "agent", overflow="fold")
    for row in rows:
        asks = row["model"]
        if row["adapter"]:
            score = row["held_out"]
            passed = f", {score['hits']} of {score['of']} held-out items" if score else ""
            asks += f" + adapter {row['adapter'].removeprefix('sha256:')[:12]}{passed}"
        accepted = f"{row['accepted']} of {row['runs']}" if row["runs"] else ""
        cells = (row["agent"], row["why"], asks or "no model", accepted, ", ".join(row["flows"]) or "none")
        table.add_row(*(escape(printable(str(cell))) for cell in cells))
    Console(highlight=False).print(table)
    return 0


def _held_out(repo: Repo, agent: Agent) -> dict[str, int] | None:
    """How many held-out items passed with the agent's adapter, when it was compared; None where nothing tells."""
    for card in adapters.cards(repo, agent.name) if agent.runtime.adapter else ():
        if card.adapter == agent.runtime.adapter and card.comparison is not None:
            return {"hits": card.comparison.after_pass.hits, "of": card.comparison.items}
    return None


def _why(agent: Agent, found: Config, packaged: Mapping[str, Agent]) -> str:
    """Why the agent is the one in force."""
    path = found.sources[f"agents/{agent.name}.toml"]
    if not path.startswith(f"{config.DIRECTORY}/"):
        return "packaged"
    known = packaged.get(agent.name)
    if known is None:
        return "this repository's own"
    return "packaged, with a copy here" if known == agent else f"this repository's, in place of {known.label}"


def _uses(one: Flow, agent: Agent) -> bool:
    return any(flow.wanted_agent(text)[0] == agent.name for node in one.nodes for text in node.agent)


# --- flows -----------------------------------------------------------------------------------------------------------


def flows(repo: Repo, *, as_json: bool) -> int:
    """The flows in force."""
    found = _in_force(repo)
    if as_json:
        return screen.print_json({name: one.model_dump(mode="json") for name, one in found.flows.items()})
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("flow", "rules", "labels", "file", "summary"):
        table.add_column(name, overflow="fold")
    for name, one in sorted(found.flows.items()):
        rules = one.rules if one.whole else "(a part)"
        cells = (f"{name}@{one.version}", rules, ", ".join(one.match.labels), found.sources[f"flows/{name}.toml"])
        table.add_row(*(escape(printable(cell)) for cell in (*cells, one.summary)))
    Console(highlight=False).print(table)
    return 0


def flow_show(repo: Repo, name: str, *, mermaid: bool, whole: bool, as_json: bool) -> int:
    """Draw a flow. `whole`: with the nodes of its sub-flows in place."""
    found = _in_force(repo)
    one = found.flows.get(name)
    if one is None:
        known = f"known: {', '.join(sorted(found.flows))}"
        raise ConfigError("no such flow", name, known, hint="git pantheon flow")
    if whole:
        one = flow.expand(one, found.flows)
    if as_json:
        return screen.print_json(one.model_dump(mode="json"))
    if mermaid:
        print(drawing.mermaid(one), end="")
        return 0
    print(printable(f"{name}@{one.version}: {one.summary}"))
    print(printable(f"from {found.sources[f'flows/{name}.toml']}"))
    if one.whole:
        print(printable(f"for files that break the rules {one.rules} ({found.sources[f'rules/{one.rules}.toml']})"))
        labels, paths = ", ".join(one.match.labels), ", ".join(one.match.paths)
        print(printable(f"taken for a task with label {labels or 'none'}; over {paths or 'every path'} in its scope"))
    print()
    for line in drawing.boxes(one, shutil.get_terminal_size((100, 24)).columns):
        print(printable(line))
    return 0


def _in_force(repo: Repo) -> Config:
    """The configuration of HEAD as written, sub-flows not in place. Raises ConfigError when it does not fit."""
    commit = repo.head().commit
    names = tuple(path for path in repo.entries(commit) if path.startswith(config.DIRECTORY + "/"))
    found = config.load(lambda path: repo.read_path(commit, path), names)
    registry.read(found)
    return found


def tools(repo: Repo, name: str | None, *, as_json: bool) -> int:
    """The tools in force; of one its schemas: what is decoded under, what other programs get, what prompts show."""
    found = registry.tools_of(_in_force(repo))
    if name is not None:
        if name not in found:
            raise ConfigError("no such tool", name, f"known: {', '.join(sorted(found))}", hint="git pantheon tools")
        return screen.print_json(describe(found[name]))
    if as_json:
        return screen.print_json([describe(tool) for _, tool in sorted(found.items())])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tool", "arguments", "summary"):
        table.add_column(column, overflow="fold")
    for tool in sorted(found.values(), key=lambda one: one.name):
        cells = (tool.name, ", ".join(tool.args.model_fields), tool.summary)
        table.add_row(*(escape(printable(cell)) for cell in cells))
    Console(highlight=False).print(table)
    return 0


# --- explain ---------------------------------------------------------------------------------------------------------


def explain(repo: Repo, what: str, *, as_json: bool) -> int:
    """Why a task takes its flow and each node its agent; of a PR, what was chosen when its night was frozen."""
    if what.isascii() and what.isdigit():
        return _explain_pr(repo, int(what), as_json)
    found = survey(repo, repo.head().commit)
    task = _task(found, what)
    choice = route.flow_of(task, found.config.flows)
    planned = desk.make_plan(repo, found)
    mine = [item for item in planned.items if item.task == task.uuid]
    notes = [note for note in planned.notes if note.startswith(f"{printable(task.path)}:")]
    rates = nights.rates(repo)
    nodes = _chosen(found, task, choice.name, mine, rates)
    if as_json:
        return screen.print_json(
            {
                "task": task.path,
                "flow": choice.name,
                "why": choice.why,
                "items": len(mine),
                "notes": notes,
                "nodes": nodes,
            }
        )
    print(printable(f"{task.path}: {task.title}"))
    print(f"flow: {choice.name or 'none'}")
    for line in choice.why:
        print(f"  {printable(line)}")
    print(f"items for tonight: {len(mine)}")
    for note in notes:
        print(f"  {printable(note)}")
    _print_nodes(nodes)
    return 0


def _task(found: Survey, name: str) -> Task:
    hits = [task for task in found.tasks if name in (task.path, task.slug, task.uuid)]
    if len(hits) != 1:
        why = "no task of HEAD has that path, slug or uuid" if not hits else "several tasks have it: give the path"
        raise TaskError("cannot explain", name, why, hint="git pantheon plan")
    return hits[0]


def _chosen(found: Survey, task: Task, name: str, items: Sequence[Item], rates: route.Rates) -> list[dict[str, Any]]:
    """For each node with an agent: which agent, for how many of the items, and the reasons for each candidate."""
    if not name:
        return []
    rows = []
    model = found.config.settings.engine.model
    for node in found.config.flows[name].nodes:
        if not node.agent:
            continue
        counts: dict[str, int] = {}
        for item in items:
            label = item.agents.get(node.id, "")
            counts[label] = counts.get(label, 0) + 1
        target = items[0].target if items else ""
        why = route.agent_for(node.agent, found.config.agents, task, target, rates, model).why
        rows.append({"node": node.id, "agents": counts, "why": list(why)})
    return rows


def _explain_pr(repo: Repo, number: int, as_json: bool) -> int:
    pull = prs.load(repo, number)
    if pull.promotes:
        print(printable(f"PR {pull.id}: {pull.title}") if not as_json else pull.to_json())
        for line in () if as_json else pull.text.splitlines():
            print(printable(line))
        return 0
    runs = [artifacts.load_run(repo, item.run) for item in pull.items if item.run]
    rows: list[dict[str, Any]] = [
        {
            "item": run.item.target,
            "flow": run.item.flow,
            "agents": run.node_agents or {f"({n})": label for n, label in enumerate(run.agents, 1)},
            "why": list(run.item.why),
        }
        for run in runs
    ]
    if as_json:
        return screen.print_json({"pr": pull.id, "night": pull.night, "items": rows})
    print(printable(f"PR {pull.id}: {pull.title}, frozen in night {pull.night}"))
    groups: dict[str, list[str]] = {}
    for run, row in zip(runs, rows, strict=True):
        said = ", ".join(f"{node} by {label}" for node, label in row["agents"].items() if "." not in node)
        text = "\n  ".join((f"flow {run.item.flow}: {said}", *(run.item.why or ("each node has one agent to go to",))))
        groups.setdefault(text, []).append(run.item.target)
    for text, targets in groups.items():
        print(f"{len(targets)} item{'s' if len(targets) > 1 else ''}, such as {printable(targets[0])}")
        print("  " + "\n".join(printable(line) for line in text.splitlines()))
    return 0


def _print_nodes(nodes: Sequence[Mapping[str, Any]]) -> None:
    for row in nodes:
        counts = dict(row["agents"])
        said = ", ".join(f"{label} ({count})" if len(counts) > 1 else label for label, count in counts.items())
        print(printable(f"{row['node']}: {said or 'nothing to do'}"))
        for line in row["why"]:
            print(f"  {printable(line)}")
