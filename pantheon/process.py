"""Children: the only module that starts one.

Owns bounded runs (wall clock, CPU, memory, processes, output, file size), the bubblewrap sandbox with its proof, the
proof that no byte leaves, and long-running children (the engine). A sandboxed child sees a read-only system, this
Python, this package and what its `Sandbox` binds; it has no network, no capabilities and no inherited descriptor.

The kernel holds a sandboxed child's memory and processes where control groups can be made (cgroup.py); elsewhere
rlimits and a watchdog do. Does not cover: a child that is run *without* a sandbox and leaves its process group (use
that for trusted programs such as git only); what a child writes in the fractions of a second between two looks at its
disk; side channels; kernel bugs.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import math
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pantheon import cgroup, faults, machine, meter
from pantheon.errors import SandboxError
from pantheon.limits import Completed as Completed
from pantheon.limits import Limits as Limits
from pantheon.sandbox import (
    PACKAGE_INSIDE,
    SHM_INSIDE,
    TMP_INSIDE,
    Sandbox,
    kernel_files,
    sandbox_env,
    seccomp,
    system_paths,
)
from pantheon.watch import GRACE_S, POLL_S, Capture, Started

GROUPS = "PANTHEON_CGROUP"  # the parent of our control groups, made by who started us: paths, with colons between
OWN_PROCESSES = 2  # bwrap's, outside and inside
KEPT = ("PATH", "HOME", "TZ", "TMPDIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")


# --- environment -----------------------------------------------------------------------------------------------------


def base_env(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child outside the sandbox: an allow-list, never a copy."""
    source = os.environ if environ is None else environ
    env = {name: source[name] for name in KEPT if name in source}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", **env, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


# --- the sandbox's command line --------------------------------------------------------------------------------------


def _sandbox_argv(bwrap: str, sandbox: Sandbox, env: Mapping[str, str]) -> list[str]:
    """The bwrap command up to `--`; the caller adds the descriptors' options. Later mounts hide earlier ones."""
    size = str(sandbox.tmp_bytes)
    tmpfs = ["--size", size, "--tmpfs"]
    system, pythons = system_paths()
    argv, proc = _namespaces(bwrap, sandbox.nests)
    argv += ["--new-session", "--die-with-parent", "--clearenv", "--cap-drop", "ALL", "--hostname", sandbox.hostname]
    argv += [*tmpfs, TMP_INSIDE, *tmpfs, str(sandbox.home), *system, *proc, "--dev", "/dev", *tmpfs, SHM_INSIDE]
    package = Path(__file__).resolve().parent
    binds = [("--ro-bind", path, path) for path in pythons]
    binds.append(("--ro-bind", package, Path(PACKAGE_INSIDE, package.name)))
    binds += [("--ro-bind", *pair) for pair in sandbox.readable] + [("--bind", *pair) for pair in sandbox.writable]
    for option, host, inside in sorted(binds, key=lambda bind: len(bind[2].parts)):
        argv += [option, str(host), str(inside)]
    for device in sandbox.devices:
        argv += ["--dev-bind", str(device), str(device)]
    if sandbox.nests:  # what it may keep is bound there; nothing else shall look kept
        argv += ["--remount-ro", str(sandbox.home)]
    argv += ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", str(sandbox.cwd)]
    for name, value in env.items():
        argv += ["--setenv", name, value]
    return argv


def _namespaces(bwrap: str, nests: bool) -> tuple[list[str], list[str]]:
    """The command's beginning with all namespaces unshared, and the options for /proc.

    /proc is read-only: to root's sandboxes the files below /proc/sys would be the machine's own (`core_pattern` alone
    would be a way out). Where sandboxes nest, the kernel wants a /proc that nothing covers: bwrap makes such a one for
    an ordinary user, but covers parts of root's, so root gets it from `unshare`, and another user id, since a further
    user namespace may not map root again.
    """
    if not nests:
        hidden = [word for path in kernel_files() for word in ("--ro-bind", "/dev/null", path)]
        proc = ["--proc", "/proc", *hidden, "--remount-ro", "/proc"]
        return [bwrap, "--unshare-user", "--unshare-all", "--disable-userns"], proc
    shared = ["--unshare-user", "--unshare-ipc", "--unshare-net", "--unshare-uts"]  # the cgroup namespace stays
    if os.geteuid() != 0:
        return [bwrap, *shared, "--unshare-pid"], ["--proc", "/proc"]
    before = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
    return [*before, bwrap, *shared, "--uid", "1000", "--gid", "1000"], ["--bind", "/proc", "/proc"]


def _limit_argv(limits: Limits | None, sandboxed: bool, grouped: bool) -> list[str]:
    """A `prlimit` prefix: a `preexec_fn` is unsafe under threads. The process count of a user counts per namespace,
    so it is set inside a sandbox only; it does not bind root, which is why the watchdog counts as well. Without a
    control group the child yields to the watchdog and to its own namespace's first process: of a fork bomb's thousands
    these two would otherwise get their turn when it has taken the machine."""
    if limits is None:
        return []
    prlimit = next((p for p in ("/usr/bin/prlimit", "/bin/prlimit") if os.access(p, os.X_OK)), None)
    if prlimit is None:
        raise SandboxError("cannot limit a child", "prlimit", "it is not installed", "apt-get install util-linux")
    argv = [prlimit, *([] if sandboxed else ["--core=0:0"])]
    if limits.cpu_s is not None:
        argv.append(f"--cpu={limits.cpu_s}:{limits.cpu_s + 1}")
    if limits.memory_bytes is not None and limits.address_space:
        argv.append(f"--as={limits.memory_bytes}:{limits.memory_bytes}")
    if limits.file_bytes is not None:
        argv.append(f"--fsize={limits.file_bytes}:{limits.file_bytes}")
    if limits.processes is not None and sandboxed:
        most = limits.processes + OWN_PROCESSES  # above what is allowed, so that the watchdog can see it reached
        argv.append(f"--nproc={most}:{most}")
    return [*argv, "--", *(["nice", "-n", str(machine.CHILD_BEHIND)] if sandboxed and not grouped else [])]


def _no_core() -> list[str]:
    """A prefix for a sandboxed child: no core file, and no core handler of the host, which would run as root outside
    and write to its disk. A limit of 0 does not hold for a handler; 1 does, and the system-call filter keeps it so. A
    hard limit that is 0 already cannot be raised: a handler still runs there."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 or not os.access("/usr/bin/prlimit", os.X_OK):
        return []
    return ["/usr/bin/prlimit", "--core=1:1", "--"]


_TIED = '[ "$PPID" = "$0" ] || exit 125; exec "$@"'


def _tied() -> list[str]:
    """A prefix for a child that ends with us from its first instant: bwrap sees to that only when it is under way, and
    whoever dies before leaves it behind. The shell looks for a parent that died before the kernel was told."""
    setpriv = next((p for p in ("/usr/bin/setpriv", "/bin/setpriv") if os.access(p, os.X_OK)), None)
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "/bin/sh", "-c", _TIED, str(os.getpid())]


_NEEDED = frozenset(("--size", "--disable-userns", "--json-status-fd", "--seccomp"))


@functools.cache
def _options(bwrap: str) -> frozenset[str]:
    """The options this bwrap knows: --disable-userns came with 0.8, --size with 0.7."""
    argv = [bwrap, "--help"]
    done = subprocess.run(argv, capture_output=True, env={}, stdin=subprocess.DEVNULL, check=False, timeout=10)
    return frozenset(re.findall(r"--[a-z0-9-]+", (done.stdout + done.stderr).decode("utf-8", "replace")))


# --- starting and ending one child -----------------------------------------------------------------------------------


def _filter(held: contextlib.ExitStack, nests: bool) -> tuple[list[str], list[int]]:
    """bwrap's option for the system-call filter and the descriptor it names, open as long as `held`."""
    program = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    held.callback(os.close, program)
    os.write(program, seccomp(nests))
    os.lseek(program, 0, os.SEEK_SET)
    return ["--seccomp", str(program)], [program]


class _Launch(Started):
    """Starts one child, in a sandbox or not."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        sandbox: Sandbox | None,
        limits: Limits | None,
        env: Mapping[str, str] | None,
        cwd: Path | None,
        stdin: int,
        stdout: int,
        stderr: int,
        umask: int,
    ) -> None:
        super().__init__()
        passed: list[int] = []
        bwrap = "" if sandbox is None else require_sandbox()
        self.group = None if sandbox is None or limits is None else _group(limits)
        command = [*_limit_argv(limits, sandbox is not None, self.group is not None), *argv]
        child_env = dict(env) if env is not None else base_env()
        faults.point("child to start")
        with contextlib.ExitStack() as held:
            if sandbox is not None:
                full = _sandbox_argv(bwrap, sandbox, sandbox_env(sandbox, env))
                child_env, cwd = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, Path("/")
                self.status, theirs = os.pipe2(os.O_CLOEXEC)
                held.callback(os.close, theirs)
                passed.append(theirs)
                full += ["--json-status-fd", str(theirs)]
                options, programs = _filter(held, nests=False)
                passed += programs
                enter = [] if self.group is None else self.group.prefix()
                command = [*_tied(), *_no_core(), *enter, *full, *options, "--", *command]
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env=child_env,
                    cwd=cwd,
                    umask=umask,
                    start_new_session=True,
                    close_fds=True,
                    pass_fds=passed,
                )
            except (OSError, ValueError) as error:
                self.close()
                raise SandboxError("cannot start", str(argv[0]), str(error)) from error
        faults.point("child started")
        self.began(self.process.pid, self.process.stdin, self.process.stdout, self.process.stderr)


# --- what children used ----------------------------------------------------------------------------------------------


@dataclass
class Used:
    """Processor seconds, and the most memory in bytes that one child had."""

    cpu_s: float = 0.0
    memory_bytes: int = 0


_USED: ContextVar[tuple[Used, ...]] = ContextVar("used", default=())


@contextlib.contextmanager
def used() -> Iterator[Used]:
    """What the bounded runs use that end in this context, tasks and threads that it starts included."""
    found = Used()
    token = _USED.set((*_USED.get(), found))
    try:
        yield found
    finally:
        _USED.reset(token)


def count(cpu_s: float, memory_bytes: int = 0) -> None:
    """Add to what is used in this context: so does every run, and who computes something itself."""
    for one in _USED.get():
        one.cpu_s += cpu_s
        one.memory_bytes = max(one.memory_bytes, memory_bytes)


# --- bounded runs ----------------------------------------------------------------------------------------------------


def run(
    argv: Sequence[str],
    *,
    limits: Limits,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    sandbox: Sandbox | None = None,
) -> Completed:
    """Run to the end, for at most `limits.wall_s` and a short grace. Raises SandboxError when it cannot start.

    Outside a sandbox `env` replaces `base_env()`; inside it is added to the sandbox's own. `cwd` is for outside.
    """
    return _run(argv, limits, env, cwd, stdin, sandbox, None)


async def run_async(
    argv: Sequence[str],
    *,
    limits: Limits,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    sandbox: Sandbox | None = None,
) -> Completed:
    """`run` on a worker thread. Cancelling kills the child and waits until it is gone."""
    wake = os.eventfd(0, os.EFD_CLOEXEC)
    job = asyncio.ensure_future(asyncio.to_thread(_run, argv, limits, env, cwd, stdin, sandbox, wake))
    try:
        return await asyncio.shield(job)
    finally:
        if not job.done():
            os.eventfd_write(wake, 1)
            await asyncio.wait([job])
        os.close(wake)


def _run(
    argv: Sequence[str],
    limits: Limits,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: bytes,
    sandbox: Sandbox | None,
    cancel: int | None,
) -> Completed:
    started = time.monotonic()
    disk = None
    if sandbox is not None and sandbox.writable and limits.disk_bytes is not None:
        disk = meter.Growth((host for host, _ in sandbox.writable), limits.disk_bytes)
    launch = _Launch(
        argv,
        sandbox=sandbox,
        limits=limits,
        env=env,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        umask=-1,
    )
    capture = Capture(launch, limits, stdin, cancel, disk)
    limited_by: Literal["cgroup", "rlimit"] = "rlimit" if launch.group is None else "cgroup"
    try:
        capture.loop()
    finally:
        launch.kill()
        launch.gone(GRACE_S * 5)
        capture.counted()  # before it is reaped: a limit that was met kills
        _, wait_status, usage = os.wait4(launch.process.pid, 0)
        launch.process.returncode = os.waitstatus_to_exitcode(wait_status)
        capture.settle(launch.process.returncode)
        capture.selector.close()
        launch.close_streams()
        reached = launch.ran()
        faults.point("child ended")
        launch.close()
        faults.point("child closed")
    kept = {name: stream.kept() for name, stream in capture.streams.items()}
    if not reached and not capture.stopped_for:
        why = kept["stderr"].decode("utf-8", "replace").strip() or f"bwrap ended with {launch.process.returncode}"
        raise SandboxError("cannot start the sandbox", str(argv[0]), why, "git pantheon doctor")
    cpu_seconds = max(capture.cpu, usage.ru_utime + usage.ru_stime)
    count(cpu_seconds, capture.peak)
    return Completed(
        argv=tuple(map(str, argv)),
        returncode=launch.process.returncode,
        stdout=kept["stdout"],
        stderr=kept["stderr"],
        timed_out=capture.stopped_for == "wall",
        truncated=any(stream.cut for stream in capture.streams.values()),
        stopped_for=capture.stopped_for,
        seconds=time.monotonic() - started,
        cpu_seconds=cpu_seconds,
        peak_memory=capture.peak,
        limits=limits,
        limited_by=limited_by,
    )


# --- long-running children -------------------------------------------------------------------------------------------


class Child:
    """A child that outlives the call that started it. It dies with us, however we die.

    The kernel ties "die with parent" to the *thread* that started the child, so each child gets a thread of its own,
    which starts it, waits for it and ends with it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        sandbox: Sandbox | None,
        limits: Limits | None,
        log_path: Path,
        env: Mapping[str, str] | None,
        umask: int,
        stdin: int,
    ) -> None:
        self.log_path, self._stdin = log_path, stdin
        self._settled = threading.Event()
        self._failure: SandboxError | None = None
        self._thread = threading.Thread(target=self._live, args=(argv, sandbox, limits, env, umask), daemon=True)
        self._thread.start()
        self._settled.wait()
        if self._failure is not None:
            raise self._failure

    def _live(
        self,
        argv: Sequence[str],
        sandbox: Sandbox | None,
        limits: Limits | None,
        env: Mapping[str, str] | None,
        umask: int,
    ) -> None:
        try:
            log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                self._launch = _Launch(
                    argv,
                    sandbox=sandbox,
                    limits=limits,
                    env=env,
                    cwd=None,
                    stdin=self._stdin,
                    stdout=log,
                    stderr=log,
                    umask=umask,
                )
            finally:
                os.close(log)
        except OSError as error:
            self._failure = SandboxError("cannot write the log", str(self.log_path), str(error))
            self._failure.__cause__ = error
        except SandboxError as error:
            self._failure = error
        if self._failure is not None:
            self._settled.set()
            return
        if self._launch.status is not None:
            self._launch.read_status()  # blocks until the sandbox stands or bwrap has ended
        self._settled.set()
        while self._launch.process.poll() is None and not self._launch.evened():
            time.sleep(POLL_S)
        self._launch.process.wait()

    @property
    def pid(self) -> int:
        """The process we started; in a sandbox bwrap, whose end is the end of everything in it."""
        return self._launch.process.pid

    @property
    def returncode(self) -> int | None:
        return self._launch.process.returncode

    def alive(self) -> bool:
        return self._launch.process.returncode is None

    def wait(self) -> None:
        """Until it has ended."""
        self._thread.join()

    def stop(self, grace_s: float = 5.0) -> None:
        """Ask the program to end, then kill all of it; returns when nothing is left. Calling it again is harmless."""
        if self._launch.outer is None:
            return
        inner = self._launch.inner_pid
        if self.alive() and grace_s > 0:
            asked = map(int, Path(f"/proc/{inner}/task/{inner}/children").read_text().split()) if inner else [self.pid]
            for member in asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(member, signal.SIGTERM)
            self._launch.gone(grace_s)
        self._launch.kill()
        complete = self._launch.gone(GRACE_S * 5)
        self._thread.join(GRACE_S)
        if not complete:
            raise SandboxError("cannot stop", str(self.pid), "processes of it are still there after SIGKILL")
        self._launch.close()


def start(
    argv: Sequence[str],
    *,
    stdout_path: Path,
    sandbox: Sandbox | None = None,
    limits: Limits | None = None,
    env: Mapping[str, str] | None = None,
    umask: int = 0o077,
    stdin: int = subprocess.DEVNULL,
) -> Child:
    """Start a long-running child; both its streams go to the end of `stdout_path` (mode 0600). Of `limits` the wall
    clock, the whole tree's memory and the output do not apply here."""
    return Child(argv, sandbox=sandbox, limits=limits, log_path=stdout_path, env=env, umask=umask, stdin=stdin)


def attended() -> list[str]:
    """What to put in front of a command without a sandbox so that the kernel kills it when we die, however we die. It
    holds as long as the thread lives that starts it."""
    check = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'  # we may have died before the kernel was told
    return ["setpriv", "--pdeathsig", "KILL", "/bin/sh", "-c", check, "sh", str(os.getpid())]


def detached(argv: Sequence[str], *, env: Mapping[str, str], log_path: Path) -> None:
    """Start a program that outlives us, in a session of its own; what it prints goes to the end of `log_path`. Whether
    it runs is for the caller to find out. Raises SandboxError."""
    command = ["setsid", "--fork", *argv]
    try:
        with log_path.open("ab") as log:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(env), cwd="/", check=False
            )
    except OSError as error:
        raise SandboxError("cannot start", str(argv[0]), str(error)) from error
    if done.returncode != 0:
        raise SandboxError("cannot start", str(argv[0]), f"setsid ended with {done.returncode}")


# --- control groups --------------------------------------------------------------------------------------------------


def groups() -> cgroup.Parent | None:
    """The parent of the control groups of this process's children, proved by a child in one; None: rlimits only. The
    variable PANTHEON_CGROUP names one that was made outside; one that we made is removed when we end, and made again
    when somebody removed it before."""
    found = _groups()
    if found is not None and not all(path.is_dir() for path in found.paths):
        _groups.cache_clear()
        found = _groups()
    return found


@functools.cache
def _groups() -> cgroup.Parent | None:
    given = os.environ.get(GROUPS, "")
    if given:
        return cgroup.parent_at([Path(path) for path in given.split(":")], _enters)
    parent = cgroup.make_parent(_enters)
    if parent is not None:
        atexit.register(parent.close)
    return parent


def _enters(prefix: Sequence[str]) -> bool:
    command = [*prefix, "/bin/sh", "-c", ":"]
    try:
        return subprocess.run(command, capture_output=True, env={}, check=False, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _group(limits: Limits) -> cgroup.Group | None:
    """A group for one sandboxed child, or None where there can be none."""
    if limits.memory_bytes is None and limits.processes is None:
        return None
    parent = groups()
    if parent is None:
        return None
    processes = None if limits.processes is None else limits.processes + OWN_PROCESSES
    try:
        group = parent.open_group(memory_bytes=limits.memory_bytes, processes=processes)
        faults.point("group made")
        return group
    except OSError:  # somebody removed it: Completed.limited_by tells
        return None


# --- proofs ----------------------------------------------------------------------------------------------------------


@functools.cache
def require_sandbox() -> str:
    """The path of a bwrap that works here, proved by running `true` in a sandbox. Raises SandboxError with the cure."""
    bwrap = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin") or shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError(
            "no sandbox, no night", "bwrap", "bubblewrap is not installed", "sudo apt-get install bubblewrap"
        )
    lacking = _NEEDED - _options(bwrap)
    if lacking:
        why = f"it is too old, it does not know {', '.join(sorted(lacking))}"
        raise SandboxError("no sandbox, no night", bwrap, why, "install bubblewrap 0.8 or newer")
    seccomp()  # proves that there is a filter for this processor
    argv = [*_sandbox_argv(bwrap, Sandbox(), {}), "--", "/usr/bin/true"]
    try:
        done = subprocess.run(argv, capture_output=True, env={}, stdin=subprocess.DEVNULL, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(
            "no sandbox, no night", bwrap, str(error), "sudo apt-get install --reinstall bubblewrap"
        ) from error
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip() or f"it ended with {done.returncode}"
        raise SandboxError("no sandbox, no night", bwrap, why, _cure())
    return bwrap


def _cure() -> str:
    """The command that most likely makes bwrap work, from what the kernel says of user namespaces."""
    knobs = (
        ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0  (or an AppArmor profile that lets bwrap)",
        ),
    )
    for name, bad, cure in knobs:
        path = Path("/proc/sys", name)
        if path.exists() and path.read_text().strip() == bad:
            return cure
    return "in a container: allow user namespaces (docker run --security-opt seccomp=unconfined --cap-add SYS_ADMIN)"


def foreground(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> int:
    """A program of the user's on their own terminal: no limits, no sandbox; its exit status (128 + signal)."""
    try:
        code = subprocess.run(list(argv), env=dict(env), cwd=cwd, check=False).returncode
    except OSError as error:
        raise SandboxError("cannot start", argv[0], str(error)) from error
    return code if code >= 0 else 128 - code


HELLO, READY = b"h", b"r"
STOP_S = 120.0  # how long an enclosed run may take to end after it was asked to


def enclosed(
    argv: Sequence[str], *, sandbox: Sandbox, order: bytes, keep: Sequence[int], on_ready: Callable[[], None]
) -> int:
    """Run Pantheon itself inside a sandbox that nests, on this terminal, to its end; its exit status.

    Its stdin is a socket. It gets `order`, one line, and says HELLO when it runs and READY once (`on_ready` is called).
    The end of the stream means stop: it comes with SIGINT or SIGTERM, and when we die; a second signal kills. `keep`
    are descriptors that it inherits. Call it on the main thread. Raises SandboxError when it did not get to HELLO.
    """
    full = _sandbox_argv(require_sandbox(), sandbox, sandbox_env(sandbox, None))
    ours, theirs = socket.socketpair()
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    said = b""
    with contextlib.ExitStack() as held, theirs:
        held.callback(os.close, stop)
        held.enter_context(ours)
        options, passed = _filter(held, nests=True)
        try:
            child = subprocess.Popen(
                [*_tied(), *full, *options, "--", *argv],
                stdin=theirs.fileno(),
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
                pass_fds=[*passed, *keep],
            )
        except OSError as error:
            raise SandboxError("cannot start", full[0], str(error), "git pantheon doctor") from error
        held.callback(child.wait)
        held.callback(child.kill)  # a no-op once it was waited for
        faults.point("enclosure started")
        theirs.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            held.callback(signal.signal, number, signal.signal(number, lambda *_: os.eventfd_write(stop, 1)))
        with contextlib.suppress(BrokenPipeError):
            ours.sendall(order.rstrip(b"\n") + b"\n")
        said = _attend(child, ours, stop, on_ready)
    if HELLO not in said:
        raise SandboxError("no sandbox, no night", full[0], f"it ended with {child.returncode} at its start", _cure())
    code = int(child.returncode)
    return code if code >= 0 else 128 - code


def _attend(child: subprocess.Popen[bytes], line: socket.socket, stop: int, on_ready: Callable[[], None]) -> bytes:
    """Wait for an enclosed child; what it said."""
    said, asked, deadline = b"", 0, math.inf
    ended = os.pidfd_open(child.pid)
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        for file in (line, stop, ended):
            selector.register(file, selectors.EVENT_READ)
        while child.poll() is None:
            wait_s = deadline - time.monotonic()
            for key, _ in selector.select(None if wait_s == math.inf else max(0.0, wait_s)):
                if key.fd == stop:
                    os.eventfd_read(stop)
                    asked += 1
                    line.shutdown(socket.SHUT_WR)
                    deadline = time.monotonic() + STOP_S
                elif key.fileobj is line:
                    part = _hear(line)
                    if not part:
                        selector.unregister(line)
                    if READY in part and READY not in said:
                        on_ready()
                        faults.point("enclosure ready")
                    said += part
            if asked > 1 or time.monotonic() > deadline:
                child.kill()
                child.wait()
    os.close(ended)
    return said or _hear(line)


def _hear(line: socket.socket) -> bytes:
    """What came; nothing at the end of the stream, also when the other end died with our order unread."""
    try:
        return line.recv(16)
    except ConnectionResetError:
        return b""
