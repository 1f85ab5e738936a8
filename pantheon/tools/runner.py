"""The packaged check `stub`: new test files really run, pass, and fail without the module that they test.

    python -P -m pantheon.tools.runner --base DIR [--timeout S] -- TARGET...

Runs in a clean export of the committed tree; DIR is an export of the base tree. Each new test file is run twice in a
private copy of the tree, by pytest or by AVA as its ending says: as it is, where exactly its tests must pass, and with
nothing behind what it imports from the project, where each of them must fail. So a test that asserts nothing is found.

Python runs in the `.venv` of the working tree where one is shown and has pytest, else in ours; scripts need `node` on
the PATH and AVA in `node_modules`. Both are shown by the check's `needs`, which no tree holds. The project's settings
and conftest count, the conftest only where something runs with it. Exit 0: passed, 1:
refused, 2: wrong usage. The first line is the reason. Does not judge what the tests say: stubs.py does.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pantheon import testpaths
from pantheon.tools.suite import ENVIRONMENT, TIMEOUT_S, Bench, Files, end_all, own

SCRIPT = (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts")
VENVS = (".venv", "venv")
SHOWN = frozenset({".git", "node_modules", *VENVS})  # of the working tree
SHOWN_LINES = 40
TEST_S = 60  # of one test in AVA
# A check may have 1 GiB of address space. Measured: a node with the C library's usual arenas takes 1.2 GB and one more
# thread with JavaScript 0.5 GB; without compiled code and with one arena it is 0.2 GB. WebAssembly is not there then.
SPARING = {"MALLOC_ARENA_MAX": "1", "UV_THREADPOOL_SIZE": "2"}
JITLESS = "--jitless"
AVA = "node_modules/ava/entrypoints/cli.mjs"
_POINT = re.compile(r"(not )?ok \d+ - (.*?)(?: # (SKIP|TODO).*)?")
_TITLE = re.compile(r"^test\((['\"])((?:(?!\1)[^\\\n]){1,200})\1,", re.MULTILINE)
_IMPORT = re.compile(r"^import\s+([^;'\"]{1,4000}?)\s+from\s+(['\"])(\.[^'\"\n]*)\2;?", re.MULTILINE)


def main(arguments: Sequence[str]) -> int:
    """Run every new test file; the exit code."""
    words = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    targets = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    values = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or not values.keys() <= {"--base", "--timeout"} or "--base" not in values:
        print((__doc__ or "").split("\n\n")[1].strip(), file=sys.stderr)
        return 2
    own()
    base, here = Path(values["--base"]), Path.cwd()
    fresh = [path for path in targets if testpaths.is_plain_test(path) and not os.path.lexists(base / path)]
    fresh = [path for path in fresh if path.endswith((".py", *SCRIPT)) and (here / path).is_file()]
    if not fresh:
        print("the change has no new test file")
        return 1
    timeout_s = float(values.get("--timeout", TIMEOUT_S))
    files = committed(here)
    for path in fresh:
        try:
            reason, text = _python(path, files, timeout_s) if path.endswith(".py") else _ava(path, files, timeout_s)
        except OSError as error:
            reason, text = f"{path} cannot be run here: {error}", ""
        if reason:
            print(_shown(reason))
            print(_shown(text))
            return 1
        print(_shown(f"{path}: {text}"))
    return 0


def committed(root: Path) -> Files:
    """The regular files of an export, without bytecode and what the working tree shows besides."""
    found: Files = {}
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in SHOWN and not os.path.islink(os.path.join(folder, name))]
        for name in files:
            place = Path(folder, name)
            path = place.relative_to(root).as_posix()
            if place.is_file() and not place.is_symlink() and not testpaths.steering(path).startswith("is bytecode"):
                found[path] = place
    return found


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def _judged(path: str, declared: Sequence[str], real: Mapping[str, bool], twin: Mapping[str, bool]) -> str:
    """The reason against a file, from what its tests did as it is and without its module: name -> passed."""
    if not declared:
        return f"{path} has no test"
    if len(set(declared)) < len(declared):
        return f"{path} has two tests of one name"
    failed = [name for name in declared if real.get(name) is False]
    if failed:
        return f"{path}: fails: {', '.join(failed[:3])}"
    if set(real) != set(declared):
        odd = sorted(set(real) ^ set(declared))
        return f"{path}: not the tests that it declares were run: {', '.join(odd[:3])}"
    empty = [name for name in declared if twin.get(name) is not False]
    return f"{path}: passes without what it tests: {', '.join(empty[:3])}" if empty else ""


# --- pytest ----------------------------------------------------------------------------------------------------------


def _python(path: str, files: Files, timeout_s: float) -> tuple[str, str]:
    """(reason, text) of one file of Python tests."""
    python, hint = _interpreter()
    source = Path(path).read_bytes()
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{path} cannot be collected: {error}", ""
    declared = [f"{path}::{name}" for name in _declared(source)]
    bench = Bench(timeout_s, _import_roots(source, files), python, (path,))
    real = bench.run(files)
    if not real.outcomes and path not in real.errors and any(name.endswith("conftest.py") for name in files):
        bench.only = (path, "--noconftest")  # written for another pytest, or for what is not installed
        real = bench.run(files)
    if path in real.errors:
        lacks = f"; {hint}" if "No module named" in real.errors[path] else ""
        return f"{path} cannot be collected: {real.errors[path]}{lacks}", real.text
    if real.fault:
        return f"{path}: {real.fault}", real.text
    outcomes = {each: found == "passed" for each, found in real.outcomes.items()}
    twin = bench.run({**files, path: without_module(source)})
    if twin.fault:
        return f"{path}: without what it tests: {twin.fault}", twin.text
    reason = _judged(path, declared, outcomes, {each: found != "failed" for each, found in twin.outcomes.items()})
    return reason, real.text if reason else f"{len(declared)} tests pass, and fail without the module"


def _interpreter() -> tuple[str, str]:
    """The Python that runs the tests, and what helps when it lacks a module: that of the project where the working tree
    shows one with pytest, else ours."""
    hint = "install what the project needs, and pytest, in .venv of the working tree"
    for folder in VENVS:
        if not os.path.lexists(f"{folder}/bin/python"):
            continue
        python = os.path.abspath(f"{folder}/bin/python")
        if not os.path.exists(python):
            leads = os.path.realpath(python)
            return sys.executable, f"{folder}/bin/python leads to {leads}, which the sandbox does not show"
        probe = "import sys, pytest; sys.exit(0 if sys.version_info >= (3, 10) else 3)"
        done = subprocess.run(
            [python, "-P", "-c", probe], capture_output=True, check=False, timeout=60, env=ENVIRONMENT
        )
        if done.returncode == 0:
            return python, hint
        hint = f"{folder} has no pytest, or a Python older than 3.11: {folder}/bin/python -m pip install pytest"
    return sys.executable, hint


def _declared(source: bytes) -> list[str]:
    """The tests of a file: functions at its top. Anything else that pytest finds there is not declared."""
    functions = [e for e in ast.parse(source).body if isinstance(e, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [each.name for each in functions if each.name.startswith("test")]


def _import_roots(source: bytes, files: Files) -> tuple[str, ...]:
    """Where what the file imports lies: the top of the tree, `src`, or a directory that holds the package."""
    found = ["src"] if any(path.startswith("src/") and path.endswith(".py") for path in files) else []
    names = {name.split(".")[0] for name, _ in _imports(source)}
    for path in sorted(files, key=lambda each: each.count("/")):
        folder, _, name = path.rpartition("/")
        package, _, last = folder.rpartition("/")
        if name == "__init__.py" and last in names and f"{package}/__init__.py".lstrip("/") not in files:
            found.append(package)
    return tuple(dict.fromkeys((*found, "")))


def _imports(source: bytes) -> Iterator[tuple[str, str]]:
    """(module, name in the file) of each import at the top that is not of the standard library or pytest."""
    for node in ast.parse(source).body:
        names: list[tuple[str, str]] = []
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name.split(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or ".", alias.asname or alias.name) for alias in node.names]
        yield from (each for each in names if each[0].split(".")[0] not in sys.stdlib_module_names | {"pytest"})


def without_module(source: bytes) -> bytes:
    """The file with an empty object for everything that it imports from the project."""
    names = sorted({name for _, name in _imports(source)})
    empty = "".join(f"{name} = __import__('types').SimpleNamespace()\n" for name in names)
    return source.rstrip(b"\n") + b"\n\n\n" + empty.encode()


# --- AVA -------------------------------------------------------------------------------------------------------------


def _ava(path: str, files: Files, timeout_s: float) -> tuple[str, str]:
    """(reason, text) of one file of AVA's tests."""
    node = shutil.which("node")
    if node is None:
        return f"node is not on the sandbox's PATH ({os.environ.get('PATH', '')}): install it for the whole machine", ""
    package = _above(path, "package.json")
    if package is None:
        return f"{path}: there is no package.json above it", ""
    if _above(f"{package}/x".lstrip("/"), AVA) is None:
        return "AVA is not in node_modules of your working tree: npm install (a link in its place is not followed)", ""
    source = Path(path).read_text("utf-8", "replace")
    declared = [match[2] for match in _TITLE.finditer(source)]
    real, why, text = _ava_run(node, path, package, files, timeout_s)
    if why:
        return f"{path}: {why}", text
    empty = {**files, path: without_imports(source, path).encode()}
    twin, why, more = _ava_run(node, path, package, empty, timeout_s)
    if why:
        return f"{path}: without what it tests: {why}", more
    reason = _judged(path, declared, real, twin)
    return reason, text if reason else f"{len(declared)} tests pass, and fail without the module"


def _above(path: str, wanted: str) -> str | None:
    """The nearest directory at or above a file's that holds `wanted`."""
    folder = path.rpartition("/")[0]
    while folder and not os.path.isfile(f"{folder}/{wanted}"):
        folder = folder.rpartition("/")[0]
    return folder if os.path.isfile(f"{folder}/{wanted}".lstrip("/")) else None


def without_imports(source: str, path: str) -> str:
    """The file with nothing behind each name that it imports from the project."""
    typed = ": any" if path.endswith((".ts", ".mts", ".cts")) else ""

    def nothing(match: re.Match[str]) -> str:
        clause, _, inside = match[1].partition("{")
        names = [part.split(" as ")[-1].strip() for part in (clause + "," + inside.rstrip("} \n")).split(",")]
        known = [name for name in names if re.fullmatch(r"[A-Za-z_$][\w$]*", name)]
        return "".join(f"const {name}{typed} = undefined; " for name in known)

    return _IMPORT.sub(nothing, source)


def _ava_run(node: str, path: str, package: str, files: Files, timeout_s: float) -> tuple[dict[str, bool], str, str]:
    """One run over a copy of the tree: title -> passed, why it cannot be believed, and its last lines."""
    with tempfile.TemporaryDirectory(prefix="runner-", ignore_cleanup_errors=True) as scratch:
        tree, home = Path(scratch, "tree"), Path(scratch, "home")
        for name, content in files.items():
            target = tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        home.mkdir()
        _link_packages(tree, files)
        inside = path.removeprefix(f"{package}/") if package else path
        words = [node, JITLESS, _nearest(tree / package, AVA), "--tap", "--serial", "--concurrency=1"]
        words += ["--no-worker-threads", f"--node-arguments={JITLESS}"]
        env = {**ENVIRONMENT, **SPARING, "PATH": os.environ.get("PATH", ""), "HOME": str(home), "TMPDIR": scratch}
        log = Path(scratch, "log")
        with log.open("wb") as err, Path(scratch, "tap").open("wb") as out:
            child = subprocess.Popen(
                [*words, f"--timeout={TEST_S}s", inside],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=tree / package,
                env=env,
                start_new_session=True,
            )
            why = ""
            try:
                child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                why = f"the test run did not end within {timeout_s:g} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                end_all()
        said = Path(scratch, "tap").read_text("utf-8", "replace")
        found = points(said)
        text = "\n".join((said + log.read_text("utf-8", "replace")).splitlines()[-SHOWN_LINES:])
        bad = not found or re.search(r"^not ok ", said, re.MULTILINE) is not None
        if not why and child.returncode != int(bad):
            why = f"AVA ended with exit status {child.returncode}: {_telling(text)}"
        return found, why or ("" if found else f"AVA ran no test: {_telling(text)}"), text


def _telling(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if re.search(r"[A-Za-z]", line)]
    said = [line for line in lines if re.search(r"(?i)error|cannot|couldn|fail", line)]
    return (said or lines or ["it said nothing"])[0][:200]


def points(text: str) -> dict[str, bool]:
    """The test points of TAP output by title; one that is skipped, or of a title said twice, has not passed."""
    found: dict[str, bool] = {}
    for line in text.splitlines():
        match = _POINT.fullmatch(line)
        if match:
            title = match[2].strip()
            found[title] = not (match[1] or match[3]) and title not in found
    return found


def _nearest(folder: Path, wanted: str) -> str:
    while not (folder / wanted).is_file() and folder != folder.parent:
        folder = folder.parent
    return str(folder / wanted)


def _link_packages(tree: Path, files: Files) -> None:
    """Each package of the tree gets its installed packages by links: AVA keeps a cache beside them, and they are
    read-only where they are."""
    for folder in sorted({Path(), *(Path(path).parent for path in files if path.endswith("package.json"))}):
        installed = folder / "node_modules"
        if not installed.is_dir() or not (tree / folder).is_dir():
            continue
        (tree / installed).mkdir(exist_ok=True)
        for each in sorted(installed.iterdir()):
            if each.name != ".cache" and not os.path.lexists(tree / each):
                (tree / each).symlink_to(each.absolute())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
