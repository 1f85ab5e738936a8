"""Which paths of a repository are tests, and which steer how tests run.

Owns the one list of both; the gate, the guard and the test runner ask here. Values only, standard library only: the
runner imports it under a project's own Python. Does not judge a change, only names what a path or a file is.
"""

from __future__ import annotations

import configparser
import json
import re
import sys
import tomllib
import unicodedata
from fnmatch import fnmatchcase

# Files that hold tests, by their last component.
TEST_NAMES = (
    "test_*.py",
    "*_test.py",
    "tests.py",
    "*.test.*",
    "*.snap",
    *(f"*.spec.{end}" for end in ("js", "jsx", "ts", "tsx", "mjs", "cjs", "mts", "cts")),
)
TEST_DIRECTORIES = (
    *("tests", "test", "__tests__", "__mocks__", "__fixtures__", "__snapshots__"),
    *("testdata", "test_data", "test-data", "fixtures", "golden", "goldens", "snapshots", "cassettes"),
)
PROSE = (".md", ".markdown", ".rst")  # below a nested `tests` directory these are read by people

# Files that decide what a test run collects, loads or reports, by their last component.
STEERING_NAMES = (
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "tox.ini",
    "tox.toml",
    "noxfile.py",
    ".coveragerc",
    "sitecustomize.py",
    "usercustomize.py",
    "*.pth",
    "*.egg-link",
    "jest.config.*",
    "vitest.config.*",
    "vitest.workspace.*",
    "ava.config.*",
    "karma.conf.*",
    "playwright.config.*",
    "cypress.config.*",
    ".mocharc*",
    ".nycrc*",
)
BYTECODE = ("*.pyc", "*.pyo")
NATIVE = ("*.so", "*.so.*", "*.pyd", "*.dylib")  # found before a module's source
METADATA = ("*.egg-info", "*.dist-info")  # directories whose entry points load plugins
PATTERNS = (*STEERING_NAMES, *BYTECODE, *NATIVE, "__pycache__/", *(f"{name}/" for name in METADATA))

# What a test run imports besides the project: a module of the project with such a name is loaded instead of it.
RUNNER_MODULES = frozenset(
    {
        *("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "coverage", "exceptiongroup"),
        *("hypothesis", "nose", "assertpy", "xdist", "execnet", "mock", "tomli", "attr", "attrs", "anyio"),
        *("pytest_asyncio", "pytest_cov", "pytest_mock"),
    }
)
SECTIONS = re.compile(r"pytest|tool:pytest|coverage($|:)|options\.entry_points|testenv|nosetests|unittest")


def folded(path: str) -> str:
    """The path as it looks to a careless file system or eye: no invisible characters, one case, and of each component
    neither an NTFS stream (`x::$DATA`) nor dots and spaces at its end."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", path) if unicodedata.category(c) not in ("Cf", "Cc"))
    parts = [part.partition(":")[0].rstrip(". ") or part for part in visible.split("/")]
    return "/".join(parts).casefold()


def _named(path: str, patterns: tuple[str, ...]) -> bool:
    name = folded(path).rpartition("/")[2]
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_plain_test(path: str) -> bool:
    """Whether a file holds tests itself by its name: `test_*.py`, `*.test.ts` and the like."""
    return _named(path, TEST_NAMES)


def is_test(path: str) -> bool:
    """Whether a file belongs to the tests: one that holds tests, or anything in a directory of tests."""
    parents = folded(path).split("/")[:-1]
    if is_plain_test(path) or (parents and parents[0] == "tests"):
        return True
    return any(part in TEST_DIRECTORIES for part in parents) and not folded(path).endswith(PROSE)


def steering(path: str) -> str:
    """What the file at `path` is when it steers test runs as a whole, in words; "" when it does not."""
    parents = folded(path).split("/")[:-1]
    if _named(path, BYTECODE) or "__pycache__" in parents:
        return "is bytecode, which is loaded instead of the source"
    if _named(path, NATIVE):
        return "is a compiled module, which is loaded instead of the source"
    if any(fnmatchcase(part, pattern) for part in parents for pattern in METADATA):
        return "is package metadata, which can load plugins"
    if _named(path, STEERING_NAMES):
        return "decides what test runs load, collect or report"
    return ""


def shadow(path: str, import_roots: tuple[str, ...] = ("", "src")) -> str:
    """The module outside the project that a Python file hides when its directory is searched first; "" when none.

    `import_roots`: the directories, without a slash at the end, that a test run imports from.
    """
    folder, _, name = folded(path).rpartition("/")
    if name == "__init__.py":
        folder, _, name = folder.rpartition("/")
        name += ".py"
    stem = name.removesuffix(".py")
    known = stem in RUNNER_MODULES or stem in sys.stdlib_module_names
    return stem if known and stem != name and folder in import_roots else ""


def is_mixed(path: str) -> bool:
    """Whether a file holds settings of test runs among others, so that `settings` says which."""
    return folded(path).rpartition("/")[2] in ("pyproject.toml", "setup.cfg", "setup.py", "package.json")


def settings(path: str, data: bytes | None) -> str:
    """The part of a mixed file that steers test runs, as comparable text; "" when it has none.

    A file that cannot be read counts whole: what it would do is not known.
    """
    if data is None:
        return ""
    name = folded(path).rpartition("/")[2]
    try:
        text = data.decode()
        if name == "setup.py":
            return "\n".join(line.strip() for line in text.splitlines() if "pytest11" in line)
        found = _toml(text) if name == "pyproject.toml" else _ini(text) if name == "setup.cfg" else _package(text)
    except (ValueError, configparser.Error, RecursionError):
        return f"unreadable: {data.hex()}"
    return json.dumps(found, sort_keys=True, default=str) if found else ""


def _toml(text: str) -> dict[str, object]:
    document = tomllib.loads(text)
    tools = document.get("tool", {})
    found = {name: tools[name] for name in ("pytest", "coverage", "tox", "nox", "hatch") if name in tools}
    if "hatch" in found:
        found["hatch"] = tools["hatch"].get("envs", {})
    plugins = document.get("project", {}).get("entry-points", {}).get("pytest11")
    poetry = tools.get("poetry", {}).get("plugins", {}).get("pytest11")
    found |= {"pytest11": plugins} if plugins else {}
    found |= {"poetry": poetry} if poetry else {}
    return {name: value for name, value in found.items() if value}


def _ini(text: str) -> dict[str, object]:
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    found = {name: dict(parser[name]) for name in parser.sections() if SECTIONS.match(name)}
    entries = found.get("options.entry_points")
    if entries is not None:
        found["options.entry_points"] = {name: value for name, value in entries.items() if "pytest11" in name}
    return {name: value for name, value in found.items() if value}


def _package(text: str) -> dict[str, object]:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    scripts = document.get("scripts")
    found = {
        name: document[name] for name in ("jest", "vitest", "mocha", "nyc", "ava", "c8", "tap") if name in document
    }
    tests = {name: line for name, line in scripts.items() if "test" in name} if isinstance(scripts, dict) else {}
    return {**found, **({"scripts": tests} if tests else {})}
