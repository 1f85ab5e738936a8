"""Which modules of a tree its tests know, and where the test of a module belongs by the project's own habit.

A module counts as tested when a test file has its name, imports it, or imports a name that it gave to a package.
Everything is read from the tree, once per tree; nothing is run. How a test looks is no business of this module.
"""

from __future__ import annotations

import ast
import json
import keyword
import posixpath
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pantheon import testpaths
from pantheon.tools.interfaces import exported, parse, read_python
from pantheon.tools.scripts import DEFAULT, read_script
from pantheon.tools.tool import Tree

PYTHON = (".py",)
SCRIPT = (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts")
TYPED = (".ts", ".mts", ".cts")
MAX_TESTS = 4_000  # test files that are read
MAX_PASSED = 6  # how often a name may be passed on from package to package
_SOURCES = ("src", "lib", "source")  # directories of a package that hold nothing but its modules
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")

PYTHON_PLACES = (
    *("tests/test_{name}.py", "tests/{inner}/test_{name}.py", "tests/{package}/{inner}/test_{name}.py"),
    *("tests/unit/test_{name}.py", "tests/unit/{inner}/test_{name}.py", "{folder}/tests/test_{name}.py"),
    *("{folder}/test_{name}.py", "{folder}/{name}_test.py", "test/test_{name}.py", "test/{inner}/test_{name}.py"),
    *("tests/{name}_test.py", "tests/{inner}/{name}_test.py"),
)
SCRIPT_PLACES = (
    *("test/{name}.test{ext}", "test/{inner}/{name}.test{ext}", "tests/{name}.test{ext}"),
    *("tests/{inner}/{name}.test{ext}", "{folder}/{name}.test{ext}", "{folder}/__tests__/{name}.test{ext}"),
    *("{folder}/{name}.spec{ext}", "test/{name}.spec{ext}"),
)
FIELDS = {"name", "folder", "inner", "package", "ext"}  # of a place


@dataclass(frozen=True)
class Home:
    """Where a module lives: the directory that it is imported from, the package below that ("" for none), the
    directories below the package, and for Python the name it is imported by."""

    root: str
    package: str
    inner: str
    dotted: str = ""


@lru_cache(maxsize=4096)
def suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return name[name.rfind(".") :].lower() if "." in name.lstrip(".") else ""


def stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(suffix(path))


def python_home(path: str, paths: Collection[str]) -> Home | None:
    """A Python module's home; None for one that no test can import by a name."""
    folder, _, name = path.rpartition("/")
    parts = [name.removesuffix(".py")]
    while folder and f"{folder}/__init__.py" in paths:
        folder, _, last = folder.rpartition("/")
        parts.insert(0, last)
    if len(parts) == 1 and folder:  # a directory without __init__.py can be imported too
        root = "src" if folder == "src" or folder.startswith("src/") else ""
        below = folder[len(root) :].strip("/")
        parts = [*(below.split("/") if below else []), *parts]
        folder = root
    usable = all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    if not usable or parts[0] in sys.stdlib_module_names or parts[0] in testpaths.RUNNER_MODULES:
        return None
    package = parts[0] if len(parts) > 1 else ""
    return Home(folder, package, "/".join(parts[1:-1]), ".".join(parts))


def script_home(path: str, paths: Collection[str]) -> Home:
    """A script's home: the directory of the nearest package.json, and what lies below its sources."""
    root = package_root(path, paths)
    below = path[len(root) :].lstrip("/").rpartition("/")[0]
    first, _, rest = below.partition("/")
    return Home(root, first if first in _SOURCES else "", rest if first in _SOURCES else below)


def package_root(path: str, paths: Collection[str]) -> str:
    """The directory of the nearest package.json at or above a file; "" also where there is none."""
    folder = path.rpartition("/")[0]
    while folder and f"{folder}/package.json" not in paths:
        folder = folder.rpartition("/")[0]
    return folder


def package_json(root: str, tree: Tree) -> dict[str, Any]:
    """What the package.json in a directory says; nothing where it cannot be read."""

    def read() -> dict[str, Any]:
        raw = tree.read(f"{root}/package.json".lstrip("/"))
        try:
            found = json.loads(raw) if raw is not None and len(raw) < 256 * 1024 else {}
        except (ValueError, RecursionError):
            found = {}
        return found if isinstance(found, dict) else {}

    found: dict[str, Any] = tree.once(("package.json", root), read)
    return found


# --- where a test belongs --------------------------------------------------------------------------------------------


def test_path(path: str, paths: frozenset[str], place: str, ext: str = "") -> str:
    """Where the test of a module belongs: `place` is "detect" or a pattern with {name}, {folder}, {inner}, {package}
    and {ext}. Two modules never get one path. "" where it has none."""
    taken = _places(paths, place, "python" if suffix(path) in PYTHON else "script")
    found = taken.get(path, "")
    return found + ext if found and suffix(path) not in PYTHON else found


@lru_cache(maxsize=8)
def _places(paths: frozenset[str], place: str, language: str) -> Mapping[str, str]:
    """The test of each module of a language; of scripts without its ending."""
    modules = _modules(paths, language)
    chosen = _habit(paths, modules, language) if place == "detect" else place
    found = {path: _filled(chosen, path, home, "") for path, home in modules.items()}
    users = Counter(found.values())
    names = Counter(each.rpartition("/")[2] for each in found.values())
    names.update({each.rpartition("/")[2]: 1 for each in paths - set(found.values()) if testpaths.is_test(each)})
    for path, own in found.items():
        folder, _, name = own.rpartition("/")
        alike = language == "python" and names[name] > 1 and f"{folder}/__init__.py".lstrip("/") not in paths
        if users[own] > 1 or alike:
            found[path] = _filled(chosen, path, modules[path], "_".join(_above(path, modules[path])))
    doubled = Counter(found.values())
    ext = "" if language == "python" else ".js"
    return {path: own for path, own in found.items() if doubled[own] == 1 and testpaths.is_plain_test(own + ext)}


@lru_cache(maxsize=8)
def _modules(paths: frozenset[str], language: str) -> dict[str, Home]:
    found: dict[str, Home] = {}
    for path in sorted(paths):
        if suffix(path) not in (PYTHON if language == "python" else SCRIPT) or testpaths.is_test(path):
            continue
        home = python_home(path, paths) if language == "python" else script_home(path, paths)
        if home is not None and stem(path) != "__init__":
            found[path] = home
    return found


def _above(path: str, home: Home) -> list[str]:
    """The directories that tell modules of one name apart, as words of a name."""
    inner = home.inner.split("/") if home.inner else []
    return [re.sub(r"\W", "_", each) for each in (inner or [home.package or path.rpartition("/")[0]]) if each]


def _filled(place: str, path: str, home: Home, front: str) -> str:
    """A pattern with a module's values; for a script what is the same for each ending."""
    python = suffix(path) in PYTHON
    name = f"{front}_{stem(path)}" if front and python else f"{front}-{stem(path)}" if front else stem(path)
    values = {"name": name, "folder": path.rpartition("/")[0], "inner": home.inner, "package": home.package, "ext": ""}
    found = place.format_map(values).lstrip("/")
    root = "" if python or place.startswith("{folder}") else home.root
    return posixpath.normpath(f"{root}/{found}".lstrip("/"))


def _habit(paths: frozenset[str], modules: Mapping[str, Home], language: str) -> str:
    """The place where most tests of the project already are; without any, beside what is there."""
    python = language == "python"
    places = PYTHON_PLACES if python else SCRIPT_PLACES
    ends = ("",) if python else SCRIPT
    hits: Counter[str] = Counter()
    for path, home in modules.items():
        for place in places:
            own = _filled(place, path, home, "")
            hits[place] += any(own + end in paths for end in ends)
    best = max(places, key=lambda place: hits[place])
    if hits[best]:
        return best
    folders = {path.split("/", 1)[0] for path in paths if "/" in path and testpaths.is_test(path)}
    default = "tests" if python else "test"
    other = "test" if python else "tests"
    if other in folders and default not in folders:
        return places[0].replace(default, other, 1)
    return places[0]


# --- which modules tests know ----------------------------------------------------------------------------------------


def is_tested(path: str, tree: Tree) -> bool:
    """Whether a test file of the tree has the module's name or reaches it."""
    return bool(tests_of(path, tree))


def tests_of(path: str, tree: Tree) -> frozenset[str]:
    """The test files that have a module's name or reach it."""
    python = suffix(path) in PYTHON
    known: dict[str, set[str]] = (
        tree.once("tested python", lambda: _tested_python(tree))
        if python
        else tree.once("tested scripts", lambda: _tested_scripts(tree))
    )
    return frozenset(known.get(path, ()))


def _tests(tree: Tree, endings: Collection[str]) -> list[str]:
    return [p for p in sorted(tree.paths) if testpaths.is_test(p) and suffix(p) in endings][:MAX_TESTS]


def _named(tests: Iterable[str], modules: Mapping[str, Home]) -> Iterator[tuple[str, str]]:
    """(test, module that it is named after): the only one of that name, or one whose directory the test names too."""
    by_stem: dict[str, list[str]] = {}
    for path in modules:
        by_stem.setdefault(stem(path), []).append(path)
    for test in tests:
        name = stem(test).removesuffix(".test").removesuffix(".spec").removesuffix("_test")
        name = name.removeprefix("test_").removeprefix("test-")
        found = by_stem.get(name, [])
        folder = test.rpartition("/")[0]
        near = found if len(found) == 1 else [p for p in found if _above(p, modules[p])[-1:] == folder.split("/")[-1:]]
        yield from ((test, p) for p in near)
        for mark in re.finditer(r"[_-]", name):
            own = name[mark.end() :]
            whole = name.replace("-", "_")
            fitting = (p for p in by_stem.get(own, ()) if whole == "_".join([*_above(p, modules[p]), own]))
            yield from ((test, p) for p in fitting)


def _tested_python(tree: Tree) -> dict[str, set[str]]:
    modules = _modules(tree.paths, "python")
    tests = _tests(tree, PYTHON)
    dotted = {home.dotted: path for path, home in modules.items()}
    given = _given(tree)
    found: dict[str, set[str]] = {}
    for test, path in _named(tests, modules):
        found.setdefault(path, set()).add(test)
    reached: dict[str, frozenset[str]] = {}
    for test in tests:
        for name in _names_in(test, tree):
            if name not in reached:
                reached[name] = frozenset(_reached(name, dotted, given))
            for path in reached[name]:
                found.setdefault(path, set()).add(test)
    return found


def _reached(name: str, dotted: Mapping[str, str], given: Mapping[str, str]) -> Iterator[str]:
    """The modules that a dotted name leads to, also through packages that pass it on."""
    for _ in range(MAX_PASSED):
        yield from (dotted[front] for front in _fronts(name) if front in dotted)
        step = next((given[part] for part in _fronts(name) if part in given and given[part] != part), "")
        if not step:
            return
        name = step


def _fronts(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def _package_of(path: str, paths: Collection[str]) -> list[str]:
    """The package whose modules a file reaches by relative imports."""
    parts: list[str] = []
    folder = path.rpartition("/")[0]
    while folder and f"{folder}/__init__.py" in paths:
        folder, _, last = folder.rpartition("/")
        parts.insert(0, last)
    return parts


def _imported(node: ast.ImportFrom, package: list[str]) -> str:
    """The dotted module of a `from` import."""
    if not node.level:
        return node.module or ""
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _given(tree: Tree) -> dict[str, str]:
    """Names that a package passes on: `package.name` -> `package.module.name`."""
    found: dict[str, str] = {}
    for path in sorted(tree.paths):
        if not path.endswith("/__init__.py") or testpaths.is_test(path):
            continue
        module = parse(tree.read(path) or b"")
        package = _package_of(path, tree.paths)
        for node in module.body if module is not None else ():
            if not isinstance(node, ast.ImportFrom):
                continue
            source = _imported(node, package)
            for alias in node.names:
                if alias.name == "*":
                    inner = f"{path.rpartition('/')[0]}/{source.rpartition('.')[2]}.py"
                    listed = exported(parse(tree.read(inner) or b"") or ast.Module([], []))
                    names = listed or {each.name for each in read_python(tree.read(inner) or b"")}
                    found.update({".".join([*package, name]): f"{source}.{name}" for name in names})
                else:
                    found[".".join([*package, alias.asname or alias.name])] = f"{source}.{alias.name}"
    return found


def _names_in(path: str, tree: Tree) -> set[str]:
    """The dotted names of modules and their parts that a test file imports, uses or writes in a text."""
    module = parse(tree.read(path) or b"")
    if module is None:
        return set()
    package = _package_of(path, tree.paths)
    alias_of: dict[str, str] = {}
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.add(alias.name)
                alias_of[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            source = _imported(node, package)
            for alias in node.names:
                found.add(f"{source}.{alias.name}" if alias.name != "*" else source)
                alias_of[alias.asname or alias.name] = f"{source}.{alias.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.fullmatch(node.value[:200]):
            found.add(node.value)
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            parts = _chain(node)
            if parts and parts[0] in alias_of:
                found.add(".".join([alias_of[parts[0]], *parts[1:]]))
    return found


def _chain(node: ast.expr) -> list[str]:
    """`a.b.c` as its parts; nothing for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < 10:
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []


def _tested_scripts(tree: Tree) -> dict[str, set[str]]:
    tests = _tests(tree, SCRIPT)
    found: dict[str, set[str]] = {}
    for test, path in _named(tests, _modules(tree.paths, "script")):
        found.setdefault(path, set()).add(test)
    known: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for test in tests:
        waiting: list[tuple[str, str]] = []  # a module, and the name that is wanted of it
        for each in read_script(test, tree.read(test) or b"").imports:
            waiting += [(target, each.original) for target in resolved(test, each.source, tree)]
        seen: set[tuple[str, str]] = set()
        while waiting:
            step = waiting.pop()
            if step in seen:
                continue
            seen.add(step)
            found.setdefault(step[0], set()).add(test)
            if step not in known:
                known[step] = list(_passed_on(*step, tree))
            waiting += known[step]
    return found


def _passed_on(path: str, name: str, tree: Tree) -> Iterator[tuple[str, str]]:
    """Where a module has a name from that it gives to others: modules, and the name there."""
    for each in read_script(path, tree.read(path) or b"").passed_on:
        if name in ("*", each.name) or (each.name == "*" and name != DEFAULT):
            wanted = each.original if each.name != "*" else name
            yield from ((target, wanted) for target in resolved(path, each.source, tree))


def resolved(path: str, source: str, tree: Tree) -> Iterator[str]:
    """The file of the tree that an import leads to: relative, or the package's own name."""
    if source.startswith("."):
        yield from _file(posixpath.normpath(f"{path.rpartition('/')[0]}/{source}".lstrip("/")), tree)
        return
    root = package_root(path, tree.paths)
    said = package_json(root, tree)
    own = said.get("name")
    if isinstance(own, str) and own and (source == own or source.startswith(own + "/")):
        for entry in _entries(said, "." + source[len(own) :]):
            yield from _file(posixpath.normpath(f"{root}/{entry}".lstrip("/")), tree)


def _entries(said: Mapping[str, Any], key: str) -> Iterator[str]:
    """The files that a package's own name leads to."""
    exports = said.get("exports")
    if isinstance(exports, dict) and any(str(name).startswith(".") for name in exports):
        exports = exports.get(key)
    elif key != ".":
        exports = key
    waiting, steps = [exports if exports is not None else said.get("main", "index.js")], 0
    while waiting and steps < 50:
        steps += 1
        entry = waiting.pop()
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            waiting += entry.values()


def _file(target: str, tree: Tree) -> Iterator[str]:
    """A file by the path that an import gives: that one, with an ending, an index, or a `.ts` that is called `.js`."""
    bare = target.removesuffix(suffix(target)) if suffix(target) in SCRIPT else target
    tries = [target, *(target + end for end in SCRIPT), *(f"{target}/index{end}" for end in SCRIPT)]
    tries += [bare + end for end in TYPED if bare != target]
    yield from [each for each in tries if each in tree.paths][:1]
