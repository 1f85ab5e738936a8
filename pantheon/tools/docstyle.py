"""How a project writes docstrings, and the section on arguments in that style, from what is known of each.

Pure. A section is made only where there is something true to say of every argument: its type, its default, or the words
that another docstring of the same file has for an argument of that name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from pantheon.tools import pyfacts
from pantheon.tools.pysource import Definition, Function, Source, doc_of

Style = Literal["plain", "google", "numpy"]
STYLES: tuple[Style, ...] = ("plain", "google", "numpy")
MAX_SHOWN = 60  # characters of an annotation or a default
MAX_DOC = 4_000  # characters of a docstring that are looked at

_GOOGLE = re.compile(r"(?m)^ *(?:Args|Arguments|Returns|Raises|Yields):\s*$")
_NUMPY = re.compile(r"(?m)^ *(?:Parameters|Returns|Raises|Yields)\n *-{4,}\s*$")
_ENTRY = re.compile(r"(?m)^ +(\w{1,60})(?: \([^()\n]{0,80}\))?: ([^\n]{3,200}\.)$")
_NUMPY_ENTRY = re.compile(r"(?m)^ *(\w{1,60}) ?:[^\n]{0,80}\n +([^\n]{3,200}\.)$")


def docs(source: Source) -> list[str]:
    """The docstrings of a source, each as far as it is looked at."""
    return [text[:MAX_DOC] for text in (doc_of(d.node) for d in source.definitions) if text is not None]


def style_of(texts: Iterable[str]) -> Style | None:
    """The style that docstrings are written in; None where none of them has a section."""
    google = numpy = 0
    for text in texts:
        google += _GOOGLE.search(text) is not None
        numpy += _NUMPY.search(text) is not None
    if not google and not numpy:
        return None
    return "google" if google >= numpy else "numpy"


def known(texts: Iterable[str]) -> Mapping[str, str]:
    """What docstrings say of arguments, by name; an argument of which they say different things is left out."""
    found: dict[str, set[str]] = {}
    for text in texts:
        for name, words in (*_ENTRY.findall(text), *_NUMPY_ENTRY.findall(text)):
            found.setdefault(name, set()).add(words.strip())
    return {name: min(words) for name, words in found.items() if len(words) == 1}


def section(definition: Definition, style: Style, said: Mapping[str, str], width: int) -> list[str]:
    """The section on arguments, in lines; none where nothing is to be said, or not of all of them."""
    node = definition.node
    arguments = pyfacts.parameters(definition)
    if style == "plain" or not isinstance(node, Function) or not arguments or node.args.vararg or node.args.kwarg:
        return []
    defaults = _defaults(node)
    lines = ["Args:"] if style == "google" else ["Parameters", "----------"]
    for argument in arguments:
        kind, default = _shown(argument.annotation), defaults.get(argument.arg, "")
        words = said.get(argument.arg, "")
        if style == "google":
            text = words or (f"Defaults to {default}." if default else "")
            if not text:
                return []
            lines.append(f"    {argument.arg}{f' ({kind})' if kind else ''}: {text}")
        else:
            if not kind and not words:
                return []
            lines.append(f"{argument.arg} : {kind or 'object'}{f', default {default}' if default else ''}")
            lines += [f"    {words}"] if words else []
    fits = all(len(line) <= width and line.isprintable() and "\\" not in line and '"' not in line for line in lines)
    return lines if fits and ">>>" not in "".join(lines) else []


def _defaults(node: Function) -> dict[str, str]:
    positional = [*node.args.posonlyargs, *node.args.args]
    tail = positional[len(positional) - len(node.args.defaults) :]
    pairs = [
        *zip(tail, node.args.defaults, strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    return {arg.arg: _shown(value) for arg, value in pairs if value is not None}


def _shown(node: ast.expr | None) -> str:
    """Plain annotations and constants as they are written; "" for anything longer."""
    if node is None or sum(1 for _ in pyfacts.walk(node)) > 12:
        return ""
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value.bit_length() > 64:
        return ""
    text = ast.unparse(node)
    return text if len(text) <= MAX_SHOWN and "\n" not in text and "'''" not in text else ""
