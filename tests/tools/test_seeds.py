"""Canaries of headers, docstrings, first tests, specs and line rules: right ones are right, wrong ones are not, and
neither depends on anything but what the tree holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rich
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pantheon.config import packaged
from pantheon.records import Repair
from pantheon.tools import seeding
from pantheon.tools.facts import Facts
from pantheon.tools.registry import KINDS, parse_rules
from pantheon.tools.tool import Kind, Seed, Tree

MIT = (
    b"MIT License\n\nCopyright (c) 2019 Jane Doe\n\nPermission is hereby granted, free of charge, to any person\n"
    b"obtaining a copy. The above copyright notice and this permission notice shall be\nincluded in all copies.\n"
)
HEADER = b"# SPDX-FileCopyrightText: 2020 Jane Doe\n# SPDX-License-Identifier: MIT\n"
BOATS = b'''"""Boats in a harbour."""

LIMIT = 12


class Harbour:
    """A place where boats are safe."""

    def __init__(self):
        self.boats = []

    def add_boat(self, boat):
        """Add a boat."""
        if len(self.boats) >= LIMIT:
            raise ValueError(boat)
        self.boats.append(boat)

    def remove_boat(self, boat):
        """Remove a boat."""
        count = len(self.boats) - 1
        self.boats.remove(boat)
        assert len(self.boats) == count


def load_table(path):
    """Load a table."""
    with open(path) as file:
        lines = file.readlines()
    return [line.strip() for line in lines if line]
'''
WEATHER = b'''"""Weather."""


def measured_wind(gauge, times):
    """Ask three gauges upstream and believe the median."""
    values = [gauge.read() for _ in range(times)]
    values.sort()
    return values[len(values) // 2]
'''
CODE = {
    "LICENSE": MIT,
    "src/harbour/__init__.py": b"",
    "src/harbour/boats.py": HEADER + b"\n" + BOATS,
    "src/harbour/weather.py": HEADER + b"\n" + WEATHER,
    "tests/test_boats.py": HEADER
    + b"""
import pytest

from harbour.boats import Harbour


def test_a_boat_comes_in():
    harbour = Harbour()
    harbour.add_boat("Nelly")
    assert harbour.boats == ["Nelly"]


def test_a_boat_leaves():
    assert Harbour().boats == []
""",
    "tests/test_weather.py": HEADER
    + b"\nfrom harbour import weather\n\n\ndef test_wind():\n    assert weather.measured_wind\n",
    "web/sum.js": b"/* Copyright 2021 Jane Doe, under the MIT license */\n\nexport const sum = (a, b) => {\n"
    b"  if (a === 0) {\n    return b;\n  }\n  return a + 12;\n};\n",
    "web/page.css": b"/*\n * SPDX-FileCopyrightText: 2020 Jane Doe\n * SPDX-License-Identifier: MIT\n */\n\n"
    b"body {\n  margin: 12px;\n}\n",
}
SCRIPTS = {
    "package.json": b'{"name": "harbour", "type": "module", "devDependencies": {"ava": "7.0.0"}}',
    "lib/tides.js": b"/** The tide at an hour. */\nexport function tide(hour, moon) {\n"
    b"  if (hour >= 12) {\n    return moon;\n  }\n  return hour + 1;\n}\n",
    "lib/ropes.js": b"export function ropes(length) {\n  return length + 1;\n}\n",
    "test/tides.test.js": b"import test from 'ava';\nimport {tide} from '../lib/tides.js';\n\n"
    b"test('tide rises', t => {\n\tt.is(tide(1, 2), 2);\n\tt.deepEqual([tide(12, 'a')], ['a']);\n});\n",
    "test/ropes.test.js": b"import test from 'ava';\nimport {ropes} from '../lib/ropes.js';\n\ntest('ropes', t => {\n"
    b"\tt.is(ropes(1), 2);\n});\n",
}
TIDES = b'''"""Tides."""

import math


def between(low: float, high: float) -> float:
    """Half way."""
    if low >= high:
        return high
    return low + (high - low) / 2


def rounds(value: float) -> int:
    return math.floor(value) + 1
'''
SPECS = {
    "spec/tides.md": b"---\nimplements: src/harbour/tides.py\n---\n# Tides\n\nHalf way.\n\n```python\n"
    b"def between(low: float, high: float) -> float: ...\n```\n\n```python\n>>> between(1.0, 3.0)\n2.0\n"
    b">>> between(5.0, 3.0)\n3.0\n```\n\n```python\ndef rounds(value: float) -> int: ...\n```\n\n"
    b"| call | result |\n|---|---|\n| `rounds(1.5)` | `2` |\n| `rounds(7.0)` | `8` |\n",
    "spec/ropes.md": b"---\nimplements: src/harbour/ropes.py\n---\n# Ropes\n\n```python\n"
    b"def ropes(distance: int, length: int) -> int: ...\n```\n\n```python\n>>> ropes(7, 2)\n4\n"
    b">>> ropes(0, 2)\n0\n```\n",
    "src/harbour/__init__.py": b"",
    "src/harbour/tides.py": TIDES,
    "src/harbour/ropes.py": b'"""Ropes."""\n\nBEST = 3\n\n\ndef ropes(distance: int, length: int) -> int:\n'
    b"    if distance == 0:\n        return 0\n    return -(-distance // length)\n\n\n"
    b"def tied(rope):\n    return rope\n",
    "tests/test_tides_spec.py": b"# a person's own\n\n\ndef test_between():\n    assert True\n",
}
LINES = b"""kind = "pattern"
files = ["docs/**/*.md"]
[[rule]]
name = "area"
missing = 'Area: \\w+'
insert = "Area: {value}"
at = "heading"
values = ["storage", "radio", "harbour"]
[[rule]]
name = "topic"
missing = 'Topic: [\\w-]+'
insert = "Topic: {value}"
at = "end"
from = "topics"
[[rule]]
name = "todo"
present = 'TODO.*'
"""
NOTES = {
    "docs/boats.md": b"# Boats\n\nArea: harbour\n\nBoats have 12 berths. Every boat has a berth.\n\n"
    b"The boats that come in the evening get the berths at the end of the long pier.\n\nTopic: boats\n",
    "docs/radio.md": b"# Antennas\n\nArea: radio\n\nAntennas are long, and an antenna of 7 metres is not enough "
    b"for ships.\n\nTopic: antennas\n",
}
WANTED = {
    "headers": ("src/harbour/boats.py", CODE),
    "docstrings": ("src/harbour/boats.py", CODE),
    "stubs": ("src/harbour/boats.py", CODE),
    "spec": ("spec/tides.md", SPECS),
    "pattern": ("docs/boats.md", NOTES),
}
BAD = {
    "headers": {"wrong-holder", "wrong-licence", "lost-line", "changed-code", "plausible-nonsense"},
    "docstrings": {"plausible-nonsense", "changed-code", "lost-function"},
    "stubs": {"weakened-assertion", "deleted-test", "plausible-nonsense", "changed-code"},
    "spec": {"wrong-code", "plausible-nonsense", "deleted-test", "weakened-assertion"},
    "pattern": {"wrong-value", "changed-body", "lost-paragraph"},
}


def ruled(name: str) -> tuple[Kind, Any]:
    return parse_rules(LINES if name == "pattern" else packaged("rules", f"{name}.toml").read_bytes(), f"{name}.toml")


def tree_of(files: Mapping[str, bytes]) -> Tree:
    return Tree(frozenset(files), dict(files).get)


def facts_of(files: Mapping[str, bytes]) -> Facts:
    return Facts(paths=tuple(files), first_commit=dict.fromkeys(files, datetime(2020, 5, 1, tzinfo=UTC)))


def sown(name: str, path: str, files: Mapping[str, bytes], rules: Any = None) -> list[Seed]:
    """The seeds of a file, held to all that is promised of seeds."""
    kind, own = ruled(name)
    rules, tree, facts = rules or own, tree_of(files), facts_of(files)
    raw = files[path]
    found = list(kind.seeds(path, raw, rules, tree, facts))
    assert found == list(kind.seeds(path, raw, rules, tree_of(files), facts)), "the same again"
    if not found:
        return []
    good, *bad = found
    assert (good.kind, good.good) == ("restored", True)
    assert not any(seed.good for seed in bad)
    assert all(finding.repair is Repair.REPORT for finding in kind.check(path, raw, rules, tree))
    base = seeding.laid(tree, good.before)
    assert any(finding.repair is not Repair.REPORT for finding in kind.check(path, base.read(path) or b"", rules, base))
    assert seeding.problems(kind, good, rules, base) == []
    after = seeding.laid(base, good.after)
    assert not seeding.is_broken(kind, path, rules, after) or name == "docstrings"
    for seed in bad:
        assert seed.before == good.before
        now = seeding.laid(base, seed.after)
        changed = [p for p in seed.after if now.read(p) != after.read(p)]
        assert changed, seed.kind
        assert any(now.read(p) != base.read(p) for p in seed.after), seed.kind
        if seed.kind in ("changed-code", "wrong-code", "lost-function"):
            assert all(differs(p, now.read(p), after.read(p)) for p in changed), seed.kind
    return found


def differs(path: str, one: bytes | None, other: bytes | None) -> bool:
    assert one is not None and other is not None
    return (
        ast.dump(ast.parse(one)) != ast.dump(ast.parse(other)) if path.endswith(".py") else one.split() != other.split()
    )


@pytest.mark.parametrize("name", WANTED)
def test_a_file_that_is_right_gives_a_right_change_and_each_wrong_one(name: str) -> None:
    path, files = WANTED[name]
    found = sown(name, path, files)
    assert {seed.kind for seed in found} == {"restored", *BAD[name]}


@pytest.mark.parametrize("name", WANTED)
def test_a_file_that_is_not_right_gives_none(name: str) -> None:
    path, files = WANTED[name]
    seeds = sown(name, path, files)
    kind, rules = ruled(name)
    base = {**files, **seeds[0].before}
    there = {p: raw for p, raw in base.items() if raw is not None}
    assert list(kind.seeds(path, there[path], rules, tree_of(there), facts_of(there))) == []


@pytest.mark.parametrize("name", WANTED)
def test_seeds_are_made_one_by_one(name: str) -> None:
    path, files = WANTED[name]
    kind, rules = ruled(name)
    found = kind.seeds(path, files[path], rules, tree_of(files), facts_of(files))
    assert isinstance(found, Iterator)
    assert next(found).good


def test_every_kind_that_a_model_works_by_has_seeds() -> None:
    made = [kind.seeds.__module__ for kind in KINDS.values()]
    assert len(set(made)) == len(made) == len(KINDS)
    assert not any(module.endswith(".tool") for module in made)


# --- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["src/harbour/boats.py", "src/harbour/weather.py", "web/page.css"])
def test_a_header_comes_back_byte_for_byte(path: str) -> None:
    good, *_ = sown("headers", path, CODE)
    assert good.after == {path: CODE[path]}
    assert b"SPDX" not in (good.before[path] or b"")


def test_a_notice_of_another_form_comes_back_as_the_header_that_the_rules_want() -> None:
    good, *bad = sown("headers", "web/sum.js", CODE)
    assert (good.before["web/sum.js"] or b"").startswith(b"export const sum")
    assert (good.after["web/sum.js"] or b"").startswith(
        b"// SPDX-FileCopyrightText: 2021 Jane Doe\n// SPDX-License-Identifier: MIT\n\nexport"
    )
    assert {seed.kind for seed in bad} == BAD["headers"]


def test_another_holder_that_the_repository_names_is_never_called_wrong() -> None:
    files = {**CODE, "LICENSE": MIT.replace(b"Doe\n", b"Doe\nCopyright (c) 2021 The Harbour Office\n", 1)}
    for seed in sown("headers", "src/harbour/boats.py", files):
        assert b"2020 The Harbour Office\n" not in (seed.after["src/harbour/boats.py"] or b"")


def test_a_notice_that_names_nobody_of_several_gives_nothing() -> None:
    files = {
        **CODE,
        "LICENSE": MIT.replace(b"Doe\n", b"Doe\nCopyright (c) 2021 The Harbour Office\n", 1),
        "a.py": b"# SPDX-License-Identifier: MIT\n\nx = 1\n",
    }
    assert sown("headers", "a.py", files) == []


def test_a_test_file_gives_none_because_no_item_may_change_it() -> None:
    assert sown("headers", "tests/test_boats.py", CODE) == []


# --- docstrings ------------------------------------------------------------------------------------------------------


def test_what_comes_back_says_what_the_person_said() -> None:
    path = "src/harbour/boats.py"
    good, *_ = sown("docstrings", path, CODE)
    fresh = set((good.after[path] or b"").splitlines()) - set((good.before[path] or b"").splitlines())
    assert fresh == {b'        """Add a boat."""', b'        """Remove the boat."""'}
    rules = ruled("docstrings")[1].model_copy(update={"free_text": True})
    assert sown("docstrings", path, CODE, rules)[0].after == {path: CODE[path]}


def test_a_strange_docstring_has_little_to_do_with_its_place() -> None:
    path = "src/harbour/boats.py"
    (strange,) = [seed for seed in sown("docstrings", path, CODE) if seed.kind == "plausible-nonsense"]
    fresh = set((strange.after[path] or b"").splitlines()) - set((strange.before[path] or b"").splitlines())
    assert fresh
    assert not any(word in line for line in fresh for word in (b"boat", b"harbour", b"Add", b"Remove"))


def test_with_text_of_a_models_own_a_strange_docstring_reaches_the_reviewers() -> None:
    raw = packaged("rules", "docstrings.toml").read_bytes().replace(b"free_text = false", b"free_text = true")
    kind, rules = parse_rules(raw, "docstrings.toml")
    path = "src/harbour/boats.py"
    seeds = {seed.kind: seed for seed in sown("docstrings", path, CODE, rules)}
    base = seeding.laid(tree_of(CODE), seeds["restored"].before)
    caught = {name: bool(seeding.problems(kind, seed, rules, base)) for name, seed in seeds.items()}
    assert caught == {"restored": False, "plausible-nonsense": False, "changed-code": True, "lost-function": True}


# --- first tests -----------------------------------------------------------------------------------------------------


def test_a_stub_that_was_accepted_comes_back_byte_for_byte() -> None:
    path, test = "src/harbour/boats.py", "tests/test_boats.py"
    computed = sown("stubs", path, CODE)[0].after[test]
    assert computed is not None and computed != CODE[test]
    again = sown("stubs", path, {**CODE, test: computed})
    assert again[0].after == {test: computed}


def test_wrong_tests_say_less_or_are_of_another_module() -> None:
    test = "tests/test_boats.py"
    good, *bad = sown("stubs", "src/harbour/boats.py", CODE)
    after = {seed.kind: seed.after for seed in bad}
    right, weak = good.after[test] or b"", after["weakened-assertion"][test] or b""
    assert weak.count(b"assert True\n") == right.count(b"assert ") > 1
    assert after["deleted-test"][test] == b"import inspect\nfrom harbour import boats\n"
    assert after["plausible-nonsense"][test] == CODE["tests/test_weather.py"]
    assert after["changed-code"][test] == right
    assert set(after["changed-code"]) == {test, "src/harbour/boats.py"}


def test_a_script_with_a_test_of_ava_gives_the_same_kinds() -> None:
    found = {seed.kind: seed.after for seed in sown("stubs", "lib/tides.js", SCRIPTS)}
    assert set(found) == {"restored", *BAD["stubs"]}
    weak = found["weakened-assertion"]["test/tides.test.js"] or b""
    assert b"t.is(typeof tide, typeof tide);\n" in weak and b"t.is(tide.length, tide.length);\n" in weak
    assert seeding.weakened("a.test.js", b"\tt.deepEqual([f(1, 2), ')'], [3]);\n") == (
        b"\tt.is([f(1, 2), ')'], [f(1, 2), ')']);\n"
    )


def test_a_module_that_other_tests_know_gives_none() -> None:
    files = {**CODE, "tests/test_all.py": b"import harbour.boats\n\n\ndef test_all():\n    assert harbour.boats\n"}
    assert sown("stubs", "src/harbour/boats.py", files) == []


# --- specs -----------------------------------------------------------------------------------------------------------


def test_a_module_of_one_spec_goes_whole_and_a_persons_test_stays() -> None:
    good, *_ = sown("spec", "spec/tides.md", SPECS)
    assert good.before == {"src/harbour/tides.py": None}
    assert good.after["src/harbour/tides.py"] == TIDES
    assert set(good.after) == {"src/harbour/tides.py", "tests/test_tides_spec_2.py"}


def test_tests_that_were_written_from_the_spec_go_with_it() -> None:
    written = sown("spec", "spec/tides.md", SPECS)[0].after["tests/test_tides_spec_2.py"] or b""
    files = {**SPECS, "tests/test_tides_spec.py": written}
    good, *_ = sown("spec", "spec/tides.md", files)
    assert good.before == {"src/harbour/tides.py": None, "tests/test_tides_spec.py": None}
    assert good.after["tests/test_tides_spec.py"] == written


def test_of_a_module_with_more_in_it_only_the_bodies_go() -> None:
    good, *_ = sown("spec", "spec/ropes.md", SPECS)
    before = good.before["src/harbour/ropes.py"] or b""
    assert b"raise NotImplementedError\n\n\ndef tied(rope):\n    return rope\n" in before


def test_a_wrong_body_passes_the_rules_and_only_examples_can_tell() -> None:
    kind, rules = ruled("spec")
    seeds = sown("spec", "spec/tides.md", SPECS)
    base = seeding.laid(tree_of(SPECS), seeds[0].before)
    said = {seed.kind: {p.rule for p in seeding.problems(kind, seed, rules, base)} for seed in seeds}
    assert said["wrong-code"] == said["plausible-nonsense"] == set()
    assert said["deleted-test"] == said["weakened-assertion"] == {"tests"}
    constants = [seed for seed in seeds if seed.kind == "wrong-code"]
    assert len(constants) == 2


# --- line rules ------------------------------------------------------------------------------------------------------


def test_a_line_comes_back_where_it_was_and_another_value_is_wrong() -> None:
    path = "docs/boats.md"
    kind, rules = ruled("pattern")
    seeds = sown("pattern", path, NOTES)
    good, wrong = seeds[:2]
    assert good.after == {path: NOTES[path]}
    assert b"Area" not in (good.before[path] or b"") and b"Topic" not in (good.before[path] or b"")
    assert wrong.kind == "wrong-value"
    base = seeding.laid(tree_of(NOTES), good.before)
    assert {seed.kind for seed in seeds if not seeding.problems(kind, seed, rules, base)} == {"restored", "wrong-value"}


def test_a_line_that_the_rules_would_put_elsewhere_stays() -> None:
    moved = b"# Boats\n\nBoats have berths.\n\nArea: harbour\n\nMore of boats.\n\nTopic: boats\n"
    good, *_ = sown("pattern", "docs/boats.md", {**NOTES, "docs/boats.md": moved})
    assert b"Area: harbour" in (good.before["docs/boats.md"] or b"")


# --- whatever the bytes are ------------------------------------------------------------------------------------------

ALL = {**CODE, **SCRIPTS, **SPECS, **NOTES}
TARGETS = [
    *((name, path) for name, (path, _) in WANTED.items()),
    *(("headers", path) for path in ("web/sum.js", "web/page.css")),
    ("stubs", "lib/tides.js"),
    ("spec", "spec/ropes.md"),
]
PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\0",
        b"\xff",
        b'"""',
        b"(",
        b"\t",
        b"\xef\xbb\xbf",
        b"# coding: latin-1\n",
        b"def f(:\n",
        b"  ",
        b"\x0c",
        b"1",
    ]
)


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(TARGETS), st.data())
def test_no_mutation_of_a_file_breaks_a_promise(target: tuple[str, str], data: st.DataObject) -> None:
    name, path = target
    files = dict(SPECS if name == "spec" else NOTES if name == "pattern" else SCRIPTS if path in SCRIPTS else CODE)
    victim = data.draw(st.sampled_from(sorted({path, *files})))
    raw = files[victim]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(start, min(len(raw), start + 40)))
        raw = raw[:start] + data.draw(PIECES | st.binary(max_size=6)) + raw[end:]
    files[victim] = raw
    sown(name, path, files)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(TARGETS),
    st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")),
)
def test_any_bytes_are_taken(target: tuple[str, str], raw: bytes) -> None:
    name, path = target
    sown(name, path, {**ALL, path: raw})


def test_what_is_too_large_is_left_alone() -> None:
    for name, (path, files) in WANTED.items():
        assert sown(name, path, {**files, path: files[path] + b"\n# more" * 20_000}) == []


@pytest.mark.parametrize("name", ["docstrings", "headers", "stubs"])
def test_of_sources_that_others_wrote_every_seed_keeps_the_promises(name: str) -> None:
    """A library with a notice in each file, and one test for each that names its module."""
    notice = b"# Copyright 2019 Jane Doe\n# Licensed under the MIT license\n\n"
    sources = {p.name: p.read_bytes() for p in sorted(Path(rich.__file__).parent.glob("[m-s]*.py"))}
    files = {f"src/term/{name}": notice + raw for name, raw in sources.items() if len(raw) < 12_000}
    tests = {f"tests/test_{Path(p).name}": f"import term.{Path(p).stem}\n".encode() for p in files}
    every = {**files, **tests, "LICENSE": MIT, "src/term/__init__.py": b""}
    given = [path for path in files if sown(name, path, every)]
    assert len(given) >= 3
