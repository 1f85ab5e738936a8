"""What a tree says of its own licence and of who holds the rights: licence texts, package metadata, headers in use.

Pure over a tree. A licence is told apart by phrases that its text alone has; what metadata declares must agree with it.
It decides nothing that is open: where sources contradict each other or leave a choice of law, it says why.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from pantheon.records import Record
from pantheon.tools import syntax
from pantheon.tools.tool import Tree

MAX_TEXT = 128 * 1024  # of a licence or a metadata file
MAX_HOLDER = 100
HEAD = 2_048  # bytes of a file whose header is read
EARLY = 2_000  # characters in which a licence text says what it is
BEGINNING = 80  # characters of it that a reviewer reads
HABITS = 60  # files that are asked how headers look here
_TEXTS = re.compile(r"(?:licen[cs]e|copying|unlicense)(?:[.-][\w.-]{1,40})?", re.IGNORECASE)
_SOURCES = (".py", ".js", ".mjs", ".ts", ".tsx", ".c", ".h", ".java", ".go", ".rs", ".sh", ".css", ".rb")
# What a text must hold, and must not; in lower case, white space as one space.
_PHRASES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("MIT", ("permission is hereby granted, free of charge, to any person", "this permission notice"), ("font",)),
    ("MIT-0", ("permission is hereby granted, free of charge, to any person",), ("this permission notice",)),
    ("Apache-2.0", ("apache license", "version 2.0, january 2004"), ()),
    ("BSD-3-Clause", ("redistributions of source code must", "neither the name"), ("advertising materials",)),
    ("BSD-2-Clause", ("redistributions of source code must",), ("neither the name", "advertising materials")),
    ("ISC", ("and/or distribute this software for any purpose", "provided that the above copyright notice"), ()),
    ("0BSD", ("and/or distribute this software for any purpose",), ("provided that the above copyright notice",)),
    ("GPL-3.0", ("gnu general public license version 3, 29 june 2007",), ()),
    ("GPL-2.0", ("gnu general public license version 2, june 1991",), ()),
    ("LGPL-3.0", ("gnu lesser general public license version 3, 29 june 2007",), ()),
    ("LGPL-2.1", ("gnu lesser general public license version 2.1, february 1999",), ()),
    ("AGPL-3.0", ("gnu affero general public license version 3, 19 november 2007",), ()),
    ("MPL-2.0", ("mozilla public license version 2.0", "covered software"), ()),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",), ()),
    ("CC0-1.0", ("cc0 1.0 universal",), ()),
    ("BSL-1.0", ("boost software license - version 1.0",), ()),
    ("EPL-2.0", ("eclipse public license - v 2.0",), ()),
    ("Zlib", ("altered source versions must be plainly marked", "provided 'as-is'"), ()),
)
_GNU = ("GPL-3.0", "GPL-2.0", "LGPL-3.0", "LGPL-2.1", "AGPL-3.0")
WELL_KNOWN = ("Apache-2.0", "MIT", "BSD-3-Clause", "GPL-3.0-only", "MPL-2.0", "ISC", "Unlicense", "CC0-1.0")
# How people write licences in metadata that came before SPDX expressions.
_SPELLED = {
    **dict.fromkeys(("mit license", "the mit license", "expat"), "MIT"),
    **dict.fromkeys(("apache 2", "apache 2.0", "apache license 2.0", "apache license, version 2.0"), "Apache-2.0"),
    **dict.fromkeys(("apache license version 2.0", "apache-2", "apache2"), "Apache-2.0"),
    **dict.fromkeys(("bsd 3-clause", "new bsd", "3-clause bsd", "bsd 3-clause license"), "BSD-3-Clause"),
    **dict.fromkeys(("simplified bsd", "bsd 2-clause", "2-clause bsd"), "BSD-2-Clause"),
    **dict.fromkeys(("isc license", "iscl"), "ISC"),
    **dict.fromkeys(("gplv3+", "gpl-3.0+", "gpl-3+"), "GPL-3.0-or-later"),
    **dict.fromkeys(("gplv2+", "gpl-2.0+", "gpl-2+"), "GPL-2.0-or-later"),
    **dict.fromkeys(("mpl 2.0", "mpl2"), "MPL-2.0"),
}
_IDENTIFIER = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{1,100}?)[ \t]*(?:\*/|-->|$)", re.MULTILINE)
_YEARS = r"(?:(?:19|20)\d\d(?:[ \t]*[-,\u2013][ \t]*(?:(?:19|20)?\d\d|present|now))*[ \t]*,?)"
_MARK = r"(?:\([cC]\)|\u00a9)"
_NOTICE = re.compile(
    rf"[^\w\n(\u00a9]{{0,8}}(?:SPDX-FileCopyrightText:|[Cc]opyright|COPYRIGHT(?=[ \t]*(?:{_MARK}|\d))|"
    rf"{_MARK}(?=[ \t]*\d{{4}}))"
    rf"(?=[ \t:(\u00a9])[ \t:]*{_MARK}?[ \t]*({_YEARS})?[ \t]*(?:by[ \t]+)?(?![ \t])([^\n]{{2,200}})"
)
_NO_HOLDER = re.compile(
    r"(?i)[\[{]|<(?:name|year|owner)|\byyyy\b|name of|your name|free software foundation|"
    r"^(?:holders?|notices?|owners?|laws?|licen[cs]es?|statements?|and|or|in|is|of|disclaimer|interest|"
    r"the (?:above|holder|owner|author)s?)\b"
)
_LEFT_OUT = re.compile(
    r"(?i)[ \t]*(?:<[^<>\n]{0,100}>|\([^()\n]{0,40}[@/][^()\n]{0,80}\)|https?://[^ \t\n]{1,200}|"
    r",?[ \t]*all rights reserved\b.*)"
)


class Grant(Record):
    """`license` is an SPDX expression, "" where `why` says why it is not known; `holders` are all that may be meant.
    `said`: how the licence texts begin, for a reviewer."""

    license: str = ""
    why: str = ""
    holders: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def grant(tree: Tree) -> Grant:
    """What the tree says, read once."""
    found: Grant = tree.once("licences.grant", lambda: _grant(tree))
    return found


def expression(text: str) -> str | None:
    """An SPDX expression in its canonical spelling; None for what is none."""
    return _expression(text) if len(text) <= 200 else None


@lru_cache(maxsize=512)
def _expression(text: str) -> str | None:
    known = _SPELLED.get(" ".join(text.casefold().split()))
    try:
        return known or str(canonicalize_license_expression(text.replace("/", " OR ")))
    except (InvalidLicenseExpression, RecursionError):
        return None


def names(text: str) -> frozenset[str]:
    """The licences in an expression, without what says which later versions are meant."""
    parts = re.split(r"[\s()]+", text)
    return frozenset(re.sub(r"(?:-only|-or-later|\+)$", "", part) for part in parts) - {"OR", "AND", "WITH", ""}


def identify(text: str) -> str | None:
    """The licence that a text is: an SPDX identifier, for the GNU licences without -only or -or-later."""
    plain = " ".join(text.casefold().split())
    found = [
        name
        for name, has, lacks in _PHRASES
        if has[0] in plain[:EARLY] and all(p in plain for p in has) and not any(p in plain for p in lacks)
    ]
    first = " ".join(plain.split()[:40])
    if len(found) > 1:  # a licence that quotes another: the one that it opens with
        found = [name for name, has, _ in _PHRASES if name in found and any(p in first for p in has)]
    return found[0] if len(found) == 1 else None


def identifier(text: str) -> str | None:
    """What a file's header says of its licence."""
    match = _IDENTIFIER.search(text)
    return None if match is None else expression(match[1]) or match[1]


def holder_in(text: str) -> Iterator[str]:
    """Who holds the rights, by the copyright lines of a text."""
    for line in text.splitlines()[:400]:
        match = _NOTICE.match(line[:300])
        if match is None:
            continue
        name = tidy(match[2])
        titled = name[:1].isupper() or not name[:1].isalpha()
        if name and not _NO_HOLDER.search(match[2]) and (match[1] or titled):
            yield name


def tidy(name: str) -> str:
    """A name as it stands in a header; "" for what cannot stand in one."""
    text = re.sub(r"[ \t]*(?:\*/|-->|#+)[ \t]*$", "", _LEFT_OUT.sub("", name))
    text = " ".join(text.split()).strip(" ,;:-*")
    text = text if re.search(r"\b(?:Inc|Ltd|Co|Corp|Jr|Sr)\.$", text) else text.rstrip(" .")
    sound = text.isprintable() and not any(mark in text for mark in ("*/", "/*", "--", "<", ">", "{", "}"))
    return text if 2 <= len(text) <= MAX_HOLDER and sound and any(map(str.isalpha, text)) else ""


# --- sources ---------------------------------------------------------------------------------------------------------


def _grant(tree: Tree) -> Grant:
    texts = {path: _text(tree, path) for path in sorted(tree.paths) if "/" not in path and _TEXTS.fullmatch(path)}
    declared, authors = _metadata(tree)
    habits, owners = _habits(tree)
    license_, why = _license({path: identify(text) for path, text in texts.items()}, declared, habits)
    holders = [*(name for text in texts.values() for name in holder_in(text)), *authors]
    if owners:
        holders.append(owners.most_common(1)[0][0])
    said = [_beginning(text) for text in texts.values()]
    distinct = {name.casefold(): name for name in reversed(holders)}
    return Grant(license=license_, why=why, holders=tuple(reversed(distinct.values()))[:8], said=tuple(said[:4]))


def _beginning(text: str) -> str:
    """How a licence begins, without who gives it: the words by which people know it."""
    lines = (line.strip() for line in text[:HEAD].splitlines())
    kept = (line for line in lines if not re.match(r"(?i)\W*(?:copyright\b|\(c\)|\u00a9|all rights reserved)", line))
    plain = " ".join(re.sub(r"[=*_-]{3,}", " ", " ".join(kept)).split())
    return plain[:BEGINNING].rpartition(" ")[0] or plain


def _license(texts: Mapping[str, str | None], declared: Mapping[str, str], habits: Counter[str]) -> tuple[str, str]:
    """The licence, or why it is not known."""
    known = {name for name in texts.values() if name}
    said = sorted(set(declared.values()))
    if len(said) > 1:
        return "", "it is declared in two ways: " + "; ".join(f"{path}: {name}" for path, name in declared.items())
    if said:
        odd = known - names(said[0])
        return (
            ("", f"{' and '.join(texts)}: {', '.join(sorted(odd))}; {next(iter(declared))}: {said[0]}")
            if odd
            else (said[0], "")
        )
    if len(known) != 1 or None in texts.values():
        why = f"{' and '.join(texts)}: not one licence that can be told by its text" if texts else "no licence file"
        return "", why
    (name,) = known
    if name not in _GNU:
        return name, ""
    used = [each for each, _ in habits.most_common() if name in names(each)]
    return (used[0], "") if len(set(used)) == 1 else ("", f"the text is the {name}: only it, or later ones too?")


def _text(tree: Tree, path: str) -> str:
    return (tree.read(path) or b"")[:MAX_TEXT].decode("utf-8", "replace")


def _habits(tree: Tree) -> tuple[Counter[str], Counter[str]]:
    """The identifiers and the holders in the headers of the tree's own files."""
    licences: Counter[str] = Counter()
    holders: Counter[str] = Counter()
    own = [p for p in sorted(tree.paths) if p.endswith(_SOURCES) and "vendor" not in p and "node_modules" not in p]
    for path in own[:: max(1, len(own) // HABITS)][:HABITS]:
        head = (tree.read(path) or b"")[:HEAD].decode("utf-8", "replace")
        found = identifier(head)
        if found:
            licences[found] += 1
        holders.update(set(holder_in(head)))
    return licences, Counter({name: n for name, n in holders.items() if n > 1})


def _metadata(tree: Tree) -> tuple[dict[str, str], list[str]]:
    """What package metadata declares, per file, and the authors that it names."""
    declared: dict[str, str] = {}
    authors: list[str] = []
    for path, reader in _READERS.items():
        if path not in tree.paths:
            continue
        text = _text(tree, path)
        if syntax.fault(path, text.encode()):
            continue  # a damaged file is another flow's matter
        try:
            license_, people = reader(text)
        except (ValueError, TypeError, AttributeError, RecursionError, configparser.Error):
            continue
        found = expression(license_) if isinstance(license_, str) else None
        if found:
            declared[path] = found
        authors += [name for name in map(_author, people) if name]
    return declared, authors


def _author(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name")
    return tidy(value) if isinstance(value, str) and not _NO_HOLDER.search(value) else ""


def _pyproject(text: str) -> tuple[Any, list[Any]]:
    document = tomllib.loads(text)
    project, poetry = document.get("project", {}), document.get("tool", {}).get("poetry", {})
    license_ = project.get("license") or poetry.get("license")
    if isinstance(license_, Mapping):
        license_ = license_.get("text")
    return license_ or _classified(project.get("classifiers", ())), [
        *project.get("authors", ()),
        *poetry.get("authors", ()),
    ]


def _classified(classifiers: Iterable[Any]) -> str | None:
    names_ = [c.rpartition(" :: ")[2] for c in classifiers if isinstance(c, str) and c.startswith("License :: ")]
    found = [_CLASSIFIERS.get(name) for name in names_]
    return found[0] if len(found) == 1 else None


_CLASSIFIERS = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "The Unlicense (Unlicense)": "Unlicense",
}


def _setup_cfg(text: str) -> tuple[Any, list[Any]]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    table = parser["metadata"] if parser.has_section("metadata") else {}
    classifiers = [line.strip() for line in table.get("classifiers", "").splitlines()]
    license_ = table.get("license", "")
    return license_ if expression(license_) else _classified(classifiers), [table.get("author", "")]


def _setup_py(text: str) -> tuple[Any, list[Any]]:
    """The words that are written out in a call of setup(); nothing is run."""
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    setups = (
        call for call in calls if isinstance(call.func, ast.Name | ast.Attribute) and _called(call.func) == "setup"
    )
    given = next(({key.arg: key.value for key in call.keywords} for call in setups), {})
    words = {name: node.value for name, node in given.items() if isinstance(node, ast.Constant)}
    listed = given.get("classifiers")
    classifiers = [e.value for e in listed.elts if isinstance(e, ast.Constant)] if isinstance(listed, ast.List) else []
    license_ = words.get("license")
    known = isinstance(license_, str) and expression(license_)
    return license_ if known else _classified(classifiers), [words.get("author")]


def _called(function: ast.Name | ast.Attribute) -> str:
    return function.id if isinstance(function, ast.Name) else function.attr


def _package_json(text: str) -> tuple[Any, list[Any]]:
    document = json.loads(text)
    return document.get("license"), [document.get("author")]


def _cargo(text: str) -> tuple[Any, list[Any]]:
    package = tomllib.loads(text).get("package", {})
    return package.get("license"), list(package.get("authors", ()))


_READERS: dict[str, Callable[[str], tuple[Any, list[Any]]]] = {
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "setup.py": _setup_py,
    "package.json": _package_json,
    "Cargo.toml": _cargo,
}
