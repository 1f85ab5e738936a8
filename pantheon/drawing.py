"""A flow as a picture: boxes for a terminal, Mermaid for a page. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pantheon.flow import depends_on, layers
from pantheon.records import Flow, FlowNode

GAP = 3  # columns between two boxes


def about(node: FlowNode) -> list[str]:
    """What a node does, a line each."""
    if node.gate:
        lines = ["gate"]
    elif node.checks:
        lines = [f"checks {', '.join(node.checks)}"]
    elif node.flow:
        lines = [f"flow {node.flow}"]
    else:
        lines = [" or ".join(node.agent)]
    lines += [f"when {node.when}"] if node.when else []
    lines += [f"each of {node.each}"] if node.each else []
    if node.retries:
        times = "once" if node.retries == 1 else f"{node.retries} times"
        lines.append(f"again, at most {times}" + (f", until {node.success}" if node.success else ""))
    elif node.success:
        lines.append(f"only if {node.success}")
    lines += ["may fail"] if node.tolerated else []
    return lines


def boxes(flow: Flow, width: int) -> list[str]:
    """The flow for a terminal of `width` columns: nodes that can run side by side stand side by side, and what a node
    waits for is named in it when it is not all of the row above."""
    rows: list[str] = []
    above: tuple[str, ...] = ()
    for layer in layers(flow):
        drawn = [_box(node, above, max(16, width - 2)) for node in layer]
        for line in _beside(drawn, width):
            if rows:
                rows += _arrow(rows[-1], line)
            rows += line
        above = tuple(node.id for node in layer)
    return [row.rstrip() for row in rows]


def _box(node: FlowNode, above: tuple[str, ...], width: int) -> list[str]:
    waits = depends_on(node)
    lines = about(node)
    if set(waits) != set(above):
        lines.append(f"after {', '.join(waits)}" if waits else "at once")
    inner = min(width - 4, max(len(node.id) + 2, *(len(line) for line in lines)))
    text = [part for line in lines for part in _wrapped(line, inner)]
    head = f"┌─ {node.id} " + "─" * max(0, inner - len(node.id) - 1) + "┐"
    body = [f"│ {line:{len(head) - 4}} │" for line in text]
    return [head, *body, "└" + "─" * (len(head) - 2) + "┘"]


def _wrapped(line: str, width: int) -> list[str]:
    """A line cut at spaces, its later parts indented."""
    parts: list[str] = []
    while len(line) > width:
        at = line.rfind(" ", 3, width + 1)
        at = at if at > 2 else width
        parts.append(line[:at])
        line = "  " + line[at:].lstrip()
    return [*parts, line]


def _beside(drawn: Sequence[list[str]], width: int) -> list[list[str]]:
    """Boxes side by side while they fit, else in further rows."""
    rows: list[list[list[str]]] = [[]]
    for box in drawn:
        used = sum(len(one[0]) + GAP for one in rows[-1])
        if rows[-1] and used + len(box[0]) > width:
            rows.append([])
        rows[-1].append(box)
    merged = []
    for row in rows:
        height = max(len(box) for box in row)
        filled = [[*box, *[" " * len(box[0])] * (height - len(box))] for box in row]
        merged.append([(" " * GAP).join(lines) for lines in zip(*filled, strict=True)])
    return merged


def _arrow(above: str, below: list[str]) -> list[str]:
    """The line between two rows: under the middle of the first box that both have."""
    middle = max(2, min(above.find("┘") if "┘" in above else len(above), below[0].find("┐")) // 2)
    return [" " * middle + "│", " " * middle + "▼"]


_PLAIN = re.compile(r"[^A-Za-z0-9_]")


def mermaid(flow: Flow) -> str:
    """The flow as a Mermaid flowchart."""
    lines = ["flowchart TD"]
    for node in flow.nodes:
        text = "<br>".join([f"<b>{node.id}</b>", *(_escaped(line) for line in about(node))])
        left, right = ("{{", "}}") if node.gate else ("[", "]")
        lines.append(f'    {_name(node.id)}{left}"{text}"{right}')
    for node in flow.nodes:
        for source in depends_on(node):
            arrow = "-.->" if node.when or node.tolerated else "-->"
            lines.append(f"    {_name(source)} {arrow} {_name(node.id)}")
    return "\n".join(lines) + "\n"


def _name(node: str) -> str:
    """An identifier that is no word of Mermaid's own, such as `end`."""
    return "n_" + _PLAIN.sub("_", node)


def _escaped(text: str) -> str:
    for char, entity in (("&", "&amp;"), ('"', "&quot;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(char, entity)
    return text
