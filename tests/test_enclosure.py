"""What the night sees and may write, tried from inside of its enclosure; how an enclosed run starts and ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TASK, MakeRepo, git, survivors

from pantheon import egress, enclosure, process, session, trust
from pantheon.config import UserLimits
from pantheon.errors import RepositoryError, SandboxError
from pantheon.git import Repo
from pantheon.places import Places, places
from pantheon.signing import Signer

Inside = Callable[[Repo, str], str]


@pytest.fixture
def where() -> Places:
    return places(os.environ)


@pytest.fixture
def inside(capfd: pytest.CaptureFixture[str], where: Places) -> Inside:
    """`inside(repo, code)`: what this Python code prints when it runs where the night would."""

    def go(repo: Repo, code: str) -> str:
        start = "import os, socket; line = socket.socket(fileno=os.dup(0)); line.sendall(b'h')\n"
        sandbox = enclosure.night_sandbox(repo, where, None, {"NO_COLOR": "1", "GITHUB_TOKEN": "marker-4711"})
        argv = [sys.executable, "-P", "-c", start + code]
        code_ = process.enclosed(argv, sandbox=sandbox, order=b"", keep=(), on_ready=lambda: None)
        said = capfd.readouterr()
        assert code_ == 0, said.err
        return said.out

    return go


def opened(root: Path) -> Repo:
    repo = Repo.discover(root)
    Signer.load_or_create(repo.common_dir / "pantheon" / "keys")
    return repo


def test_of_the_git_dir_the_night_writes_its_own_only(make_repo: MakeRepo, inside: Inside) -> None:
    root = make_repo()
    git("tag", "v1", cwd=root)
    common = root / ".git"
    repo = opened(root)
    kept = [
        "config",
        "HEAD",
        "index",
        "packed-refs",
        "hooks/pre-commit",
        "refs/heads/main",
        "refs/tags/v1",
        "info/exclude",
    ]
    kept += ["pantheon/allowed_signers", "pantheon/keys/pantheon_ed25519", "pantheon/init.json", "logs/HEAD", "new"]
    ours = ["objects/x", "refs/pantheon/x", "refs/notes/pantheon/x", "refs/heads/pantheon/x", "worktrees/x"]
    code = (
        "import errno, json\n"
        f"paths = {[str(common / name) for name in kept + ours]!r}\n"
        "for path in paths:\n"
        "    try:\n"
        "        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))\n"
        "        print('wrote', path)\n"
        "    except OSError as error:\n"
        "        print(errno.errorcode[error.errno], path)\n"
    )
    said = inside(repo, code).splitlines()
    assert said == [f"EROFS {common / name}" for name in kept] + [f"wrote {common / name}" for name in ours]


def test_home_working_tree_environment_and_processes_are_not_there(
    make_repo: MakeRepo, inside: Inside, sealed: Path
) -> None:
    (sealed / ".netrc").write_text("marker-4711")
    root = make_repo({"secret.txt": "marker-4711"})
    code = (
        "import json\n"
        f"print(json.dumps([sorted(os.listdir({str(root)!r})), os.path.exists({str(sealed / '.netrc')!r}),\n"
        "    [name for name in os.environ if 'TOKEN' in name], os.environ.get('NO_COLOR'),\n"
        "    len([one for one in os.listdir('/proc') if one.isdigit()]), os.path.exists('/run')]))\n"
    )
    assert json.loads(inside(opened(root), code)) == [[".git"], False, [], "1", pytest.approx(3, abs=1), False]


def test_what_was_trusted_is_out_of_the_nights_reach(make_repo: MakeRepo, inside: Inside, where: Places) -> None:
    (where.state / "trust").mkdir(parents=True)
    (where.state / "trust" / "x.json").write_text("{}")
    code = f"print(os.path.exists({str(where.state / 'trust')!r}), os.listdir({str(where.state)!r}))"
    assert inside(opened(make_repo()), code) == "False ['log']\n"


def test_a_linked_worktree_and_borrowed_objects_are_seen(make_repo: MakeRepo, inside: Inside, tmp_path: Path) -> None:
    lender = make_repo(name="lender")
    git("clone", "-q", "--shared", str(lender), str(tmp_path / "clone"), cwd=tmp_path)
    git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"), cwd=tmp_path / "clone")
    repo = opened(tmp_path / "side")
    code = (
        "from pathlib import Path; from pantheon.git import Repo\n"
        f"repo = Repo.discover(Path({str(tmp_path / 'side')!r}))\n"
        "commit = repo.head().commit\n"
        "print(repo.head().branch, *repo.entries(commit), *repo.first_commit_dates(commit))"
    )
    assert inside(repo, code) == "side README.md README.md\n"


def test_what_was_made_for_the_night_and_stayed_empty_goes(make_repo: MakeRepo, where: Places) -> None:
    root = make_repo()
    before = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if "objects" not in path.parts)
    repo = Repo.discover(root)
    enclosure.night_sandbox(repo, where, None, {})
    enclosure.tidy(repo)
    after = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if "objects" not in path.parts)
    assert [name for name in after if name not in before] == [
        ".git/pantheon",
        *(f".git/pantheon/{name}" for name in sorted(enclosure.LOCKS)),
    ]


def test_a_branch_in_the_way_is_named(make_repo: MakeRepo, where: Places) -> None:
    root = make_repo()
    git("branch", "pantheon", cwd=root)
    with pytest.raises(RepositoryError) as caught:
        enclosure.night_sandbox(Repo.discover(root), where, None, {})
    assert caught.value.hint == "git branch -m pantheon old-pantheon"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository away")
def test_another_users_repository_is_refused_by_name(make_repo: MakeRepo, where: Places) -> None:
    root = make_repo()
    repo = Repo.discover(root)
    os.chown(repo.common_dir, 4711, 4711)
    with pytest.raises(RepositoryError, match="belongs to user 4711"):
        enclosure.night_sandbox(repo, where, None, {})


def test_a_child_that_never_spoke_is_a_sandbox_that_did_not_stand(make_repo: MakeRepo, where: Places) -> None:
    sandbox = enclosure.night_sandbox(opened(make_repo()), where, None, {})
    with pytest.raises(SandboxError, match="no sandbox, no night"):
        process.enclosed(["false"], sandbox=sandbox, order=b"x" * 100_000, keep=(), on_ready=lambda: None)


# --- how an enclosed night ends --------------------------------------------------------------------------------------


def start_night(root: Path) -> subprocess.Popen[bytes]:
    """A night with the scripted engine in a process of its own, well on its way."""
    argv = [sys.executable, "-m", "pantheon.cli", "night", "--now", "--engine", "scripted"]
    child = subprocess.Popen(argv, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stderr is not None
    for line in child.stderr:
        if b"night: running" in line:
            return child
    raise AssertionError(f"the night did not start: {child.wait()}")


def many_notes(make_repo: MakeRepo) -> Path:
    body = "# Note {0}\n\nThe note with the number {0} says what the harbour keeps in the shed {0}. It is dry there.\n"
    notes = {f"docs/note-{n}.md": body.format(n) for n in range(40)}
    return make_repo({**notes, "docs/tasks/tidy.md": TASK})


def test_an_interrupt_ends_the_night_cleanly_and_it_resumes(make_repo: MakeRepo, sealed: Path) -> None:
    root = many_notes(make_repo)
    child = start_night(root)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert b"Traceback" not in out + err
    assert not survivors("--enclosed")
    assert git("worktree", "list", cwd=root).count("\n") == 1
    argv = [sys.executable, "-m", "pantheon.cli", "night", "--now", "--budget", "1s"]  # the engine is that of the night
    done = subprocess.run(argv, cwd=root, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert b"resuming night" in done.stdout
    assert git("fsck", "--strict", "--no-dangling", cwd=root) == ""


def test_a_killed_night_leaves_no_process(make_repo: MakeRepo) -> None:
    root = many_notes(make_repo)
    with start_night(root) as child:
        child.kill()
    deadline = time.monotonic() + 5
    while survivors("--enclosed") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not survivors("--enclosed")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_whole_night_opens_unix_sockets_only(make_repo: MakeRepo, tmp_path: Path) -> None:
    """A census by the kernel: but for the probe, which tries the others and fails, and bwrap, which sets up `lo`."""
    root = make_repo(
        {"docs/a.md": "# A note\n\nIt says what a note says, and no more than that.\n", "docs/tasks/t.md": TASK}
    )
    trace = tmp_path / "trace"
    argv = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=socket,execve", "-o", str(trace), sys.executable]
    argv += ["-m", "pantheon.cli", "night", "--now", "--engine", "scripted", "--quiet"]
    done = subprocess.run(argv, cwd=root, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    program: dict[str, str] = {}
    others: list[str] = []
    count = 0
    lines = trace.read_text("utf-8", "replace").splitlines()
    for line in lines:
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.startswith("execve("):
            program[pid] = call
        elif call.startswith("socket(") and pid != lines[0].split()[0]:  # that one is outside, with the listeners
            count += 1
            probe, loopback = '"-I", "-c"' in program.get(pid, ""), "SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE" in call
            others += [call] if "AF_UNIX" not in call and not probe and not loopback else []
    assert count > 10
    assert others == []


def test_a_person_cannot_start_the_inner_half(make_repo: MakeRepo) -> None:
    """Neither by typing it, nor by playing the outer half without an enclosure: the probe finds the network."""
    root = make_repo({"docs/tasks/tidy.md": TASK})
    argv = [sys.executable, "-m", "pantheon.cli", "night", "--enclosed", "0"]
    done = subprocess.run(argv, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"next: git pantheon night --now" in done.stderr
    repo = Repo.discover(root)
    with egress.listening(os.environ) as targets:
        order = session.Order(
            start=str(root),
            budget=None,
            engine="scripted",
            quiet=True,
            model=None,
            trusted=trust.look(repo, repo.entries(repo.head().commit), root).digest,
            limits=UserLimits(),
            protected=(),
            targets=targets.model_copy(update={"resolvers": ()}),
            controls=egress.attempts(targets, "host")[0],
            stripped=(),
        )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(order.to_json().encode() + b"\n")
            done = subprocess.run(argv, cwd=root, stdin=theirs.fileno(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"no night: the network: a listening port on the host's 127.0.0.1" in done.stderr
    assert git("for-each-ref", "refs/pantheon", cwd=root) == ""
