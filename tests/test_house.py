"""The rules of the house, held by parsing our own sources (the README names the rings)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pantheon"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def words(*lines: str) -> set[str]:
    return {word for line in lines for word in line.split()}


RINGS = {
    0: words("errors faults forms records pulls lessons frontmatter names places testpaths tomlfile"),
    1: words(
        "tasks capacity flow plan loop prompt gate testguard sourceguard report quality tally telemetry",
        "serving inforce promotion curriculum growth families",  # of learning
        "retention charts figures page",  # of the morning report
        "window",  # of the daemon
        "clusters drafts drawing",  # of the day
        "merging",  # of what clones wrote apart
        "measured queueing flight expression route kinship",  # parts of capacity.py, flow.py and plan.py
    ),
    2: words(
        "config process git engine artifacts prs turns redact tools beacon",
        "sandbox egress limits watch cgroup meter owner warm",  # parts of process.py
        "roster machine doorbell refwatch",  # parts of daemon.py
        "models relay server slots logprobs voices revive gpu wire",  # parts of engine.py
        "adapters lora attic",
        "signing signers keys attest reader worktrees trees children usergit",  # parts of git.py
        "disk gcpid archive upkeep lease remotes",  # and of it, what keeps it in order
    ),
    3: words(
        "ledger rewritten evidence cards remains entwined verify",  # share nothing with what writes
        "agent item checks trust enclosure publish night nights morning stack canaries cast learned",
        "daemon patrol hooks stubs firing reindex survey review refresh schemas registry training planner past",
        "leftovers collect damage losses",
        "weave reunion vouching",  # of two clones
        "recorded replay shadow versions",  # runs again, and nothing is written
    ),
    4: words(
        "nightwatch",
        "cli usage desk prdesk cleanup session engines screen notary demo catalog lint scaffold daytime __main__",
        "sync rehearsal webdesk outlook shelf school glance",
    ),
}
RING_OF = {name: ring for ring, names in RINGS.items() for name in names}
IMPURE = {
    "os",
    "subprocess",
    "socket",
    "time",
    "random",
    "secrets",
    "asyncio",
    "threading",
    "shutil",
    "tempfile",
    "httpx",
}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, at the top level?) of every import, `from pantheon import x` as pantheon.x."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return found


def inner(path: Path) -> set[str]:
    """The modules of ours that a source imports."""
    return {name.split(".")[1] for name, _ in imports(path) if name.startswith("pantheon.")} - {"__version__"}


def test_every_module_has_a_ring() -> None:
    assert {module_of(path) for path in SOURCES} - {"__init__"} <= set(RING_OF)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_inwards_and_rings_one_and_two_never_meet(path: Path) -> None:
    ring = RING_OF.get(module_of(path))
    if ring is None:
        pytest.skip("the package itself")
    for name in inner(path):
        assert RING_OF[name] <= ring, f"{path.name} (ring {ring}) imports {name} (ring {RING_OF[name]})"
        assert {ring, RING_OF[name]} != {1, 2}, f"{path.name} and {name}: rings 1 and 2 never meet"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_doors_have_one_keeper(path: Path) -> None:
    roots = {name.split(".")[0] for name, _ in imports(path)}
    module = path.relative_to(PACKAGE).as_posix()
    if "pygit2" in roots:
        assert module in {"git.py", "trees.py"}, f"{module} imports pygit2: only git.py writes"
    if "dulwich" in roots:
        assert module == "reader.py", f"{module} imports dulwich: the verifying reader only"
    if roots & {"subprocess", "multiprocessing", "pty"}:  # these are programs in a sandbox
        assert module in {"process.py", "tools/suite.py", "tools/runner.py"}, f"{module} starts children"
    if roots & {"torch", "peft", "bitsandbytes", "transformers"}:
        assert module == "training/weights.py", f"{module} imports the heavy stack"
    assert "vllm" not in roots, "vllm is a program, never imported"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_stand_at_the_top_except_in_the_command_line(path: Path) -> None:
    late = [name for name, top in imports(path) if not top and name.startswith("pantheon")]
    assert not late or module_of(path) == "cli", f"{path.name}: {late}"


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if RING_OF.get(module_of(p)) == 1], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_decisions_are_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name, _ in imports(path)} & IMPURE


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_importing_does_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
            pytest.fail(f"{path.name}:{node.lineno}: a statement with an effect at the top level")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sizes_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 700, "a file of more than about 600 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= 66, f"{path.name}:{node.lineno} {node.name}: {size} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_open_with_what_they_own(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} has no docstring"


def test_broad_catches_stand_in_three_places_only() -> None:
    found = [
        f"{path.relative_to(PACKAGE).as_posix()}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert set(found) <= {"cli.py", "agent.py", "item.py"}


VERIFYING = {"reader", "entwined", "ledger", "rewritten", "evidence", "cards", "remains", "verify", "signers"}


@pytest.mark.parametrize("name", sorted(VERIFYING))
def test_verify_shares_no_code_with_what_it_verifies(name: str) -> None:
    """`report` renders the summaries that are compared, and renders them for nobody's signature."""
    assert inner(PACKAGE / f"{name}.py") <= VERIFYING | {"errors", "records", "lessons", "names", "report"}


def test_one_writer_per_ref_namespace() -> None:
    owners = {
        "refs/pantheon/keys": "keys.py",
        "refs/notes/pantheon/attestations": "attest.py",
        "refs/pantheon/nights/": "nights.py",
        "refs/pantheon/prs/": "prs.py",
        "refs/pantheon/runs/": "artifacts.py",
        "refs/notes/pantheon/artifacts": "artifacts.py",
        "refs/notes/pantheon/summary": "artifacts.py",
        "refs/notes/pantheon/decisions": "prs.py",
        "refs/pantheon/adapters/": "adapters.py",
        "refs/pantheon/archive/": "archive.py",
    }
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in owners:
                if module_of(path) in VERIFYING:
                    continue  # they read every namespace and spell it themselves: a writer's constant proves nothing
                assert path.name == owners[node.value], f"{path.name}:{node.lineno} spells {node.value}"
