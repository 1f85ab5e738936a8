"""The packaged check of a Python project's tests: broken code cannot pass it by changing the tests or their run.

    python -P -m pantheon.tools.suite --base DIR [--timeout S] [--named=PATH]... -- [TARGET...]

Runs in a clean export of the committed tree; DIR is an export of the base tree. Each run of pytest has a private copy
of a tree, no plugin that installs itself, no bytecode, no `addopts`, a fixed hash seed and its own process. The runs:

1. the base tree: which node ids pass there;
2. the result with every test, conftest and test setting put back as on the base (only `--named` files stay): what
   passed must pass, by node id; skipped or missing is not passed. Data files that a test file opens itself count as
   its own. Each asserted comparison is asked once more with a value that differs (twins.py), so an object that equals
   everything is found;
3. the same again with a failure built into every test: a test that still passes is not being run;
4. the result with its own tests, when they differ: new tests must pass, and nothing may pass here only.

Beside the tests of each directory lies a file of new tests, under a random name, that must fail in every run. A
process that ends without its report, or with an exit status other than the report's, has failed. Exit 0: passed (also
with no tests on the base, and says so), 1: refused, 2: wrong usage. The first line is the reason, the last one counts:
`tests: 2 broken, 1 fixed`, of the base's tests. About a third of a second of processor time per run, plus three or four
times what the tests take.

A test that failed on the base may fail on; it may not be skipped. Does not cover: code that is right only for the
inputs that the tests have; code written against this very file (it shares a process with the code under test: the
guard in testguard.py looks at the source for that); native code; doctests; what needs a plugin or a library that the
running Python lacks: then give the check the project's own Python, which needs pytest and nothing of Pantheon's.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pantheon import testpaths
from pantheon.tools import twins

TIMEOUT_S = 150.0  # of one run
END_S = 10.0  # for killed processes to be gone
SHOWN_LINES = 60
# What tests also read to check it; every other file that a test opens itself holds what it compares with.
NO_DATA = (".py", ".pyi", ".md", ".rst", ".toml", ".cfg", ".ini", "LICENSE", "package.json")
CONFIGURED = re.compile(
    r"^\s*\[(tool\.pytest(\.ini_options)?|tool:pytest|pytest)\]", re.MULTILINE
)  # in a file that pytest reads only then
IMPORT_MODE = re.compile(r"--import-mode[= ](prepend|append|importlib)")
INI_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "USER": "agent",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
Files = dict[str, Path | bytes]  # path in the tree -> where to copy it from, or its content


@dataclass
class Report:
    """What one run of pytest said. `fault`: why it cannot be believed, "" when it can; `text`: its last lines."""

    outcomes: dict[str, str] = field(default_factory=dict)
    marked: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    read: list[tuple[str, str]] = field(default_factory=list)  # files of the tree, and the code of it that opened each
    fault: str = ""
    text: str = ""

    def ids(self, outcome: str) -> set[str]:
        return {each for each, found in self.outcomes.items() if found == outcome}


@dataclass
class Verdict:
    """The reasons against the result, the first one the most telling, and what else is worth a line. `broken`: how many
    of the base's tests passed there and do not now; `fixed`: failed there and pass."""

    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: str = ""
    broken: int = 0
    fixed: int = 0


# --- trees -----------------------------------------------------------------------------------------------------------


def walk(root: Path) -> Iterator[str]:
    """The regular files of an exported tree, links and `.git` left out."""
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name != ".git" and not Path(folder, name).is_symlink()]
        for name in files:
            place = Path(folder, name)
            if name != ".git" and place.is_file() and not place.is_symlink():
                yield place.relative_to(root).as_posix()


def source_files(root: Path) -> Files:
    """A tree without its bytecode."""
    found: Files = {path: root / path for path in walk(root)}
    return {path: place for path, place in found.items() if not testpaths.steering(path).startswith("is bytecode")}


def restored(
    base: Files, after: Files, named: Collection[str], import_roots: tuple[str, ...], data: Collection[str] = ()
) -> Files:
    """The result with all that is a test, steers tests or is `data` of them as on the base, but for named files."""

    def of_tests(path: str) -> bool:
        return path not in named and bool(path in data or testpaths.is_test(path) or testpaths.steering(path))

    found: Files = {}
    for path, place in after.items():
        hides = path not in base and path not in named and testpaths.shadow(path, import_roots)
        if not (of_tests(path) or hides):
            found[path] = place
    for path, place in base.items():
        whole = of_tests(path)
        if whole or (testpaths.is_mixed(path) and _settings(path, base) != _settings(path, found)):
            found[path] = place
    for path in [path for path in found if testpaths.is_mixed(path) and path not in base]:
        if _settings(path, found):
            del found[path]
    return found


def _settings(path: str, files: Files) -> str:
    return testpaths.settings(path, _read(files[path]) if path in files else None)


def _read(place: Path | bytes) -> bytes:
    return place if isinstance(place, bytes) else place.read_bytes()


def same_files(one: Files, other: Files) -> bool:
    return one.keys() == other.keys() and all(_read(one[path]) == _read(other[path]) for path in one)


def test_folders(files: Collection[str]) -> dict[str, str]:
    """Each directory that holds Python test files, with the name of one of them."""
    found: dict[str, str] = {}
    for path in sorted(files):
        if path.endswith(".py") and testpaths.is_plain_test(path):
            folder, _, name = path.rpartition("/")
            found.setdefault(folder, name)
    return found


def canaries(files: Collection[str]) -> Files:
    """A file of tests that must fail beside the test files of each directory, named like one of them."""
    found: Files = {}
    for folder, name in test_folders(files).items():
        word, stem = secrets.token_hex(5), name.removesuffix(".py")
        like = f"{word}_{stem}" if stem.endswith("test") and not stem.startswith("test") else f"{stem}_{word}"
        found[f"{folder}/{like}.py" if folder else f"{like}.py"] = twins.canary(word)
    return found


def rewritten(files: Files, paths: Collection[str], rewrite: Callable[[bytes], bytes]) -> Files:
    """The tree with these files rewritten; one that cannot be stays as it is."""
    found = dict(files)
    for path in paths:
        if path in files and path.endswith(".py"):
            with contextlib.suppress(SyntaxError, ValueError, RecursionError):
                found[path] = rewrite(_read(files[path]))
    return found


# --- one run ---------------------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """Where runs happen: a directory of its own for each, gone afterwards with every process it left. `python` runs
    them; `only`: the test files that are run, all without any."""

    timeout_s: float = TIMEOUT_S
    import_roots: Sequence[str] = ("",)  # directories of the tree that modules are imported from, in order
    python: str = sys.executable
    only: Sequence[str] = ()

    def run(self, files: Files, marker: str = "") -> Report:
        """One pytest over a copy of `files`. `marker`: words in a failure that the report shall point out."""
        marker = marker or secrets.token_hex(8)  # every run has one: code under test can read it
        with tempfile.TemporaryDirectory(prefix="suite-", ignore_cleanup_errors=True) as scratch:
            place = Path(scratch)
            tree = place / "tree"
            for path, content in files.items():
                target = tree / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(_read(content))
                executable = isinstance(content, Path) and content.stat().st_mode & 0o100
                target.chmod(0o755 if executable else 0o644)
            for name in ("home", "tmp"):
                (place / name).mkdir()
            return self._start(place, tree, marker, [*_arguments(place, tree), *self.only])

    def _start(self, place: Path, tree: Path, marker: str, arguments: Sequence[str]) -> Report:
        nonce, log = secrets.token_hex(16), place / "log"
        answer = place / secrets.token_hex(16)
        roots = [str(tree / root) for root in self.import_roots]
        order = {"nonce": nonce, "report": str(answer), "marker": marker, "import_roots": roots, "tree": str(tree)}
        witness = str(Path(__file__).with_name("witness.py"))
        env = {**ENVIRONMENT, "HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
        with log.open("wb") as out:
            child = subprocess.Popen(
                [self.python, "-B", "-P", witness],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=tree,
                env=env,
                start_new_session=True,
            )
            try:
                child.communicate(json.dumps({**order, "arguments": list(arguments)}).encode(), self.timeout_s)
                fault = ""
            except subprocess.TimeoutExpired:
                fault = f"the test run did not end within {self.timeout_s:g} s"
            except BrokenPipeError:
                fault = "the test run did not start"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                if not end_all():
                    fault = "the test run left processes that do not end"
        text = _tail(log)
        return Report(fault=fault, text=text) if fault else _believed(answer, nonce, child.returncode, text)


def _arguments(place: Path, tree: Path) -> list[str]:
    """pytest's arguments. Without settings in the tree it gets an empty file: it would look in the parents for one."""
    found = [tree / name for name in INI_FILES if (tree / name).is_file()]
    texts = [path.read_text("utf-8", "replace") for path in found]
    configured = any(path.suffix not in (".cfg", "") and "pytest." in path.name for path in found)
    configured = configured or any(CONFIGURED.search(text) for text in texts)
    mode = next((match[1] for match in map(IMPORT_MODE.search, texts) if match), "prepend")
    arguments = ["-o", "addopts=", "-o", "required_plugins=", "-p", "no:cacheprovider", f"--rootdir={tree}"]
    arguments += [f"--confcutdir={tree}", f"--import-mode={mode}", "--continue-on-collection-errors", "--tb=short"]
    arguments += ["-W", "ignore::pytest.PytestConfigWarning", f"--basetemp={place / 'tmp' / 'pytest'}"]
    if not configured:
        (place / "empty.ini").write_text("[pytest]\n", encoding="utf-8")
        arguments += ["-c", str(place / "empty.ini")]
    return arguments


def _believed(answer: Path, nonce: str, status: int, text: str) -> Report:
    """The report a run wrote, or why it counts for nothing."""
    how = f"exit status {status}" if status >= 0 else f"signal {-status}"
    try:
        said = json.loads(answer.read_bytes())
        report = Report(dict(said["outcomes"]), list(said["marked"]), dict(said["errors"]), text=text)
        report.read = [(str(path), str(opener)) for path, opener in said["read"]]
        if not secrets.compare_digest(str(said["nonce"]), nonce):
            report.fault = "the test run's report is forged"
        failed = bool(report.errors or report.ids("failed"))
        expected = 1 if failed else 0 if report.outcomes else 5
        if not report.fault and (status != said["code"] or status != expected):
            report.fault = f"the test run ended with {how}; its tests say {expected}"
    except (OSError, ValueError, KeyError, TypeError):
        return Report(fault=f"the test run ended without its report, with {how}", text=text)
    return report


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 16)))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-SHOWN_LINES:])


def own() -> None:
    """Orphans of a run come to us, not to init, so that they can be ended; and they cannot read our memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def end_all() -> bool:
    """Kill every descendant; whether none is left."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        waiting, below = [os.getpid()], []
        while waiting:
            current = waiting.pop()
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{current}/task").iterdir():
                    found = [int(each) for each in (task / "children").read_text().split()]
                    below += found
                    waiting += found
        if not below:
            return True
        for member in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)
    return False


# --- the judgement ---------------------------------------------------------------------------------------------------


def judge(base: Path, here: Path, bench: Bench, named: Collection[str] = ()) -> Verdict:
    """Run the base, the result, its twin and its own tests; what speaks against the result."""
    before, after = source_files(base), source_files(here)
    birds = canaries(before)
    bench.import_roots = ("src", "") if any(p.startswith("src/") and p.endswith(".py") for p in before) else ("",)
    first = bench.run({**before, **birds})
    outcomes = {each: found for each, found in first.outcomes.items() if _file(each) not in birds}
    folders = {_folder(each) for each in first.ids("failed") if _file(each) in birds}  # where a canary is found at all
    if first.fault:
        return Verdict([f"the tests do not run on the base: {first.fault}"], text=first.text)
    if not outcomes and not first.errors:
        return Verdict(notes=["no tests on the base"])
    first.outcomes = outcomes
    plan = _Plan(bench, before, after, named, first, folders)
    verdict = plan.verdict()
    if not verdict.reasons and not plan.passed:
        why = next(iter(first.errors.values()), "every test fails or is skipped")
        verdict.reasons.append(f"no test passes, on the base or now: {why}")
    return verdict


def _file(node: str) -> str:
    return node.partition("::")[0]


def _folder(node: str) -> str:
    return _file(node).rpartition("/")[0]


@dataclass
class _Plan:
    """The runs over one result, and what they mean beside the base's."""

    bench: Bench
    before: Files
    after: Files
    named: Collection[str]
    first: Report
    folders: Collection[str]
    passed: Collection[str] = ()
    marker: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        roots = ("", "src", *test_folders(self.before))
        opened = [path for path, opener in self.first.read if testpaths.is_test(opener)]
        data = [path for path in opened if not path.endswith(NO_DATA)]
        self.tree = restored(self.before, self.after, self.named, tuple(dict.fromkeys(roots)), data)
        self.differs = not same_files(self.tree, self.after)
        self.tests = {_file(each) for each in self.first.outcomes}

    def result(self) -> Report:
        return self._run(self._strong(self.tree), self.marker)

    def twin(self) -> Report:
        return self._run(self._failing(self.tree))

    def own(self) -> Report:
        return self._run(self.after)

    def _run(self, files: Files, marker: str = "") -> Report:
        birds = {path: text for path, text in canaries(self.before).items() if path.rpartition("/")[0] in self.folders}
        report = self.bench.run({**files, **birds}, marker)
        flown = {each for each in report.ids("failed") if _file(each) in birds}
        if not report.fault and len(flown) != 3 * len(birds):
            report.fault = "tests made to fail did not fail: the change takes hold of the test run"
        report.outcomes = {each: found for each, found in report.outcomes.items() if _file(each) not in birds}
        return report

    def _strong(self, files: Files) -> Files:
        name = f"probe_{secrets.token_hex(4)}"
        return rewritten(files, self.tests, lambda source: twins.strengthened(source, name, self.marker))

    def _failing(self, files: Files) -> Files:
        names = {_function(each) for each in self.first.outcomes}
        word = secrets.token_hex(6)
        tests = {path for path in files if path.endswith(".py") and (testpaths.is_test(path) or path in self.tests)}
        return rewritten(files, tests, lambda source: twins.must_fail(source, names, word))

    def verdict(self) -> Verdict:
        """Run what is needed, up to the first run that speaks against the result."""
        found = Verdict()
        mixed = [path for path in sorted(self.tests) if not testpaths.is_test(path) and path not in self.named]
        changed = [path for path in mixed if self._content(self.before, path) != self._content(self.after, path)]
        found.reasons.extend(f"{path} holds tests and changed" for path in changed)
        reports: dict[str, Report] = {}
        for run in random.SystemRandom().sample(
            [self.result, self.twin], 2
        ):  # code that counts its runs learns nothing
            report = reports[run.__name__] = run()
            found.text = report.text
            if report.fault:
                found.reasons.append(report.fault)
                return found
        result = reports["result"]
        found.text = result.text
        self._fooled(result, reports["twin"], found)
        self._asked(result, found)
        found.broken = len(self.first.ids("passed") - result.ids("passed"))
        found.fixed = len(self.first.ids("failed") & result.ids("passed"))
        found.reasons.extend(_worse(self.first, result, set(result.marked)))
        if self.differs and not found.reasons:
            own = self.own()
            found.text = own.text
            found.reasons.extend([own.fault] if own.fault else self._own_tests(result, own))
        self.passed = result.ids("passed")
        still = self.first.ids("failed") & result.ids("failed")
        if still:
            found.notes.append(f"{len(still)} tests fail as on the base: {_some(still)}")
        found.notes.append(f"{len(self.passed)} tests pass, {len(self.first.ids('passed'))} did on the base")
        return found

    def _content(self, files: Files, path: str) -> bytes | None:
        return _read(files[path]) if path in files else None

    def _fooled(self, result: Report, twin: Report, found: Verdict) -> None:
        """Tests that cannot fail on the result, though they can on the base (asked only when there are any)."""
        reach: set[str] = set()
        for path in self.tree:
            if path.endswith(".py") and (testpaths.is_test(path) or path in self.tests):
                with contextlib.suppress(SyntaxError, ValueError, RecursionError):
                    reach |= twins.covered(_read(self.tree[path]))
        alive = {each for each in result.ids("passed") if twin.outcomes.get(each) != "failed"}
        alive = {each for each in alive if _function(each) in reach or each not in twin.outcomes}
        if alive:
            alive &= self._run(self._failing(self.before)).ids("failed")
        if alive:
            found.reasons.append(f"do not fail although they were made to: {_some(alive)}")

    def _asked(self, result: Report, found: Verdict) -> None:
        """Tests that fail only because they were strengthened: by a fooled comparison, or as they do on the base."""
        worse = (self.first.ids("passed") & result.ids("failed")) | set(result.marked)
        if not worse:
            return
        control = self._run(self._strong(self.before), self.marker)
        fooled = set(result.marked) - set(control.marked)
        if fooled:
            found.reasons.append(f"a value compares as no honest value does: {_some(fooled)}")
        unfit = (worse - fooled) & (control.ids("failed") | set(control.marked))
        if unfit:
            plain = self._run(self.tree)
            result.outcomes |= {each: plain.outcomes.get(each, "") for each in unfit}
            if plain.fault:
                found.reasons.append(plain.fault)
        result.marked = sorted(fooled)

    def _own_tests(self, result: Report, own: Report) -> Iterator[str]:
        """What the change's own tests and settings say, beside the base's."""
        yield from _worse(self.first, own, set())
        better = (own.ids("passed") & self.first.outcomes.keys()) - result.ids("passed")
        better = {each for each in better if _file(each) not in self.named}
        if better:
            yield f"pass only with the change's own tests or test settings: {_some(better)}"


def _function(node: str) -> str:
    return node.rpartition("::")[2].partition("[")[0]


def _worse(base: Report, now: Report, excused: Collection[str]) -> Iterator[str]:
    """One reason per way of getting worse. `excused`: ids whose failure has a reason of its own."""
    words = {"failed": "fail", "skipped": "are skipped", "": "are gone", "not called": "did not run"}
    for path in sorted(now.errors.keys() - base.errors.keys()):
        yield f"{path} cannot be collected: {now.errors[path]}"
    worse: dict[str, set[str]] = {}
    for each, was in base.outcomes.items():
        is_ = now.outcomes.get(each, "")
        bad = (
            is_ != "passed"
            if was == "passed"
            else is_ not in ("passed", "failed")
            if was == "failed"
            else is_ == "failed"
        )
        if bad and each not in excused:
            worse.setdefault(f"{was} on the base and now {words.get(is_, is_)}", set()).add(each)
    fresh = {each for each in now.ids("failed") if each not in base.outcomes and each not in excused}
    if fresh:
        worse["are new and fail"] = fresh
    for how, ids in sorted(worse.items()):
        yield f"tests that {how}: {_some(ids)}"


def _some(ids: Collection[str]) -> str:
    shown = sorted(ids)
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more


def _shown(text: str) -> str:
    """Text that cannot drive a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def main(arguments: Sequence[str]) -> int:
    """Run the check; the exit code."""
    words = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    named = [word.removeprefix("--named=") for word in words if word.startswith("--named=")]
    words = [word for word in words if not word.startswith("--named=")]
    values = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or not values.keys() <= {"--base", "--timeout"} or "--base" not in values:
        print((__doc__ or "").split("\n\n")[1].strip(), file=sys.stderr)
        return 2
    if importlib.util.find_spec("pytest") is None:
        print(f"pytest is not installed for {sys.executable}, so no test can be run")
        return 1
    own()
    warnings.simplefilter("ignore")  # of the sources that are parsed here
    bench = Bench(timeout_s=float(values.get("--timeout", TIMEOUT_S)))
    try:
        verdict = judge(Path(values["--base"]), Path.cwd(), bench, named)
    except OSError as error:
        print(_shown(f"the tests cannot be run here: {error}"))
        return 1
    print(_shown("\n".join([*verdict.reasons, *verdict.notes])))
    if verdict.reasons:
        print(_shown(verdict.text))
    print(f"tests: {verdict.broken} broken, {verdict.fixed} fixed")
    return 1 if verdict.reasons else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
