"""The attacks once more, as a user without any right: what holds for root must hold without it, and the reverse.

Root passes permission checks that stop everybody else, and its sandboxes are made in another way. So the suite runs
itself as uid 65534 without a capability, on a copy of the tree in a directory that this uid can read. Only traps that
an ordinary user cannot even set (a device node) may be skipped there, and they say so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import git

UID = 65534
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 1200.0


@pytest.mark.skipif(os.geteuid() != 0, reason="root only: an ordinary user runs all of this already")
def test_every_attack_is_repelled_for_an_ordinary_user_too(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="pantheon-ordinary-") as top:
        done = attacked_as_an_ordinary_user(Path(top))
    summary = done.stdout.strip().splitlines()[-1:]
    with capsys.disabled():
        print(f"\nas uid {UID}: {' '.join(summary)}")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\b\d{2,} passed", done.stdout)
    skipped = re.findall(r"^SKIPPED .*$", done.stdout, re.MULTILINE)
    assert not [line for line in skipped if "root only" not in line]


def attacked_as_an_ordinary_user(top: Path) -> subprocess.CompletedProcess[str]:
    """Run the attacks on a copy below `top`, which is made readable to all, as UID without capabilities."""
    tree, home = top / "tree", top / "home"
    tree.mkdir()
    home.mkdir()
    copy_tree(tree)
    os.chown(home, UID, UID)
    top.chmod(0o755)
    drop = f"setpriv --reuid={UID} --regid={UID} --clear-groups --bounding-set=-all --inh-caps=-all --ambient-caps=-all"
    options = f"tests/attacks -n 2 -rsfE --tb=short --color=no -p no:cacheprovider --basetemp={home}/tmp"
    command = [*drop.split(), "--no-new-privs", sys.executable, "-m", "pytest", *options.split(), "-m", "not live"]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(tree),  # for hooks: an editable install may lie where UID cannot look
    }
    return subprocess.run(
        [*reachable(top), *command],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=LIMIT_S,
    )


def copy_tree(tree: Path) -> None:
    """What git knows of the tree, and what it would: readable to all."""
    names = git(
        "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT
    )
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, tree / name
        if source.is_symlink() or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    for folder, _, _ in os.walk(tree):
        Path(folder).chmod(0o755)


def reachable(top: Path) -> list[str]:
    """A prefix after which everybody can enter this interpreter and its environment at the paths they have: in a
    namespace of its own a closed directory above them is covered by an open one that holds nothing else."""
    wanted = [Path(prefix) for prefix in dict.fromkeys((sys.prefix, sys.base_prefix))]
    closed = {
        next(folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001)
        for path in wanted
        if any(not folder.stat().st_mode & 0o001 for folder in path.parents)
    }
    steps = ["set -e"]
    for number, path in enumerate(wanted):
        held = top / f"held-{number}"
        held.mkdir(exist_ok=True)
        steps.append(f"mount --bind '{path}' '{held}'")
    for folder in sorted(closed):
        steps.append(f"mount -t tmpfs -o mode=755,size=1m none '{folder}'")
    for number, path in enumerate(wanted):
        if any(path.is_relative_to(folder) for folder in closed):
            steps.append(f"mkdir -p '{path}'; mount --bind '{top}/held-{number}' '{path}'")
    steps.append('exec "$@"')
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", "; ".join(steps), "sh"]
