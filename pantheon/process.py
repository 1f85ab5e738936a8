"""Children: the only module that starts one.

Owns bounded runs (wall clock, CPU, memory, processes, output, file size), the bubblewrap sandbox with its proof, the
proof that no byte leaves, and long-running children (the engine). A sandboxed child sees a read-only system, this
Python, this package and what its `Sandbox` binds; it has no network, no capabilities and no inherited descriptor.

Does not cover: a child that is run *without* a sandbox and leaves its process group (use that for trusted programs
such as git only); the disk space of a writable bind in many small files; side channels; kernel bugs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import resource
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from pydantic import Field

from pantheon.errors import SandboxError
from pantheon.records import Record
from pantheon.sandbox import (
    HOME_INSIDE,
    MIB,
    PACKAGE_INSIDE,
    SHM_INSIDE,
    TMP_INSIDE,
    Sandbox,
    sandbox_env,
    seccomp,
    system_paths,
)

POLL_S = 0.05  # how often the watchdog counts processes and memory
GRACE_S = 2.0  # how long a kill may take to be complete
KEPT = ("PATH", "HOME", "TZ", "TMPDIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")


class Limits(Record):
    """What a child may use. None: not limited. `memory_bytes` holds for each process and for the whole tree."""

    wall_s: float = Field(default=60.0, gt=0)
    cpu_s: int | None = Field(default=60, ge=1)  # of each process
    memory_bytes: int | None = Field(default=1024 * MIB, ge=MIB)
    processes: int | None = Field(default=64, ge=1)  # of a sandboxed tree, threads counted
    output_bytes: int = Field(default=MIB, ge=0)  # kept of each stream; the rest is read and dropped
    file_bytes: int | None = Field(default=64 * MIB, ge=0)  # the size of any file it writes


class Completed(Record):
    """How a child ended. `stopped_for` names the limit that ended it: wall, memory, processes or cancel."""

    argv: tuple[str, ...]
    returncode: int  # negative: the signal that ended it; from inside a sandbox 128 + signal
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    truncated: bool = False
    stopped_for: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0  # bytes, of the whole tree, sampled


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
    tmpfs = ["--size", size, "--tmpfs"] if "--size" in _options(bwrap) else ["--tmpfs"]
    system, pythons = system_paths()
    argv = [bwrap, "--unshare-user", "--unshare-all", "--new-session", "--die-with-parent", "--clearenv"]
    argv += ["--cap-drop", "ALL", "--hostname", sandbox.hostname]
    if "--disable-userns" in _options(bwrap):
        argv.append("--disable-userns")
    argv += [*tmpfs, TMP_INSIDE, *tmpfs, HOME_INSIDE, *system, "--proc", "/proc", "--dev", "/dev", *tmpfs, SHM_INSIDE]
    package = Path(__file__).resolve().parent
    for host, inside in [*((p, p) for p in pythons), (package, Path(PACKAGE_INSIDE, package.name)), *sandbox.readable]:
        argv += ["--ro-bind", str(host), str(inside)]
    for host, inside in sandbox.writable:
        argv += ["--bind", str(host), str(inside)]
    for device in sandbox.devices:
        argv += ["--dev-bind", str(device), str(device)]
    argv += ["--remount-ro", "/", "--remount-ro", "/dev", "--chdir", str(sandbox.cwd)]
    for name, value in env.items():
        argv += ["--setenv", name, value]
    return argv


def _limit_argv(limits: Limits | None, sandboxed: bool) -> list[str]:
    """A `prlimit` prefix: a `preexec_fn` is unsafe under threads. The process count of a user counts per namespace,
    so it is set inside a sandbox only; it does not bind root, which is why the watchdog counts as well."""
    if limits is None:
        return []
    prlimit = next((p for p in ("/usr/bin/prlimit", "/bin/prlimit") if os.access(p, os.X_OK)), None)
    if prlimit is None:
        raise SandboxError("cannot limit a child", "prlimit", "it is not installed", "apt-get install util-linux")
    argv = [prlimit, "--core=0:0"]
    if limits.cpu_s is not None:
        argv.append(f"--cpu={limits.cpu_s}:{limits.cpu_s + 1}")
    if limits.memory_bytes is not None:
        argv.append(f"--as={limits.memory_bytes}:{limits.memory_bytes}")
    if limits.file_bytes is not None:
        argv.append(f"--fsize={limits.file_bytes}:{limits.file_bytes}")
    if limits.processes is not None and sandboxed:
        argv.append(f"--nproc={limits.processes}:{limits.processes}")
    return [*argv, "--"]


@functools.cache
def _options(bwrap: str) -> frozenset[str]:
    """The options this bwrap knows: --disable-userns came with 0.8, --size with 0.7."""
    argv = [bwrap, "--help"]
    done = subprocess.run(argv, capture_output=True, env={}, stdin=subprocess.DEVNULL, check=False, timeout=10)
    return frozenset(re.findall(r"--[a-z0-9-]+", (done.stdout + done.stderr).decode("utf-8", "replace")))


# --- starting and ending one child -----------------------------------------------------------------------------------


class _Launch:
    """One started child: the process itself and, in a sandbox, the first process of its namespace (`inner`).

    Killing `inner` kills everything in the namespace, and it ends only when all of it is gone: waiting for its
    descriptor is the proof that nothing survived.
    """

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
        self.inner: int | None = None  # pidfd
        self.inner_pid = 0
        self.report = b""
        self.status: int | None = None
        passed: list[int] = []
        command = [*_limit_argv(limits, sandbox is not None), *argv]
        child_env = dict(env) if env is not None else base_env()
        with contextlib.ExitStack() as held:
            if sandbox is not None:
                full = _sandbox_argv(require_sandbox(), sandbox, sandbox_env(sandbox, env))
                child_env, cwd = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, Path("/")
                self.status, theirs = os.pipe2(os.O_CLOEXEC)
                held.callback(os.close, theirs)
                passed.append(theirs)
                full += ["--json-status-fd", str(theirs)]
                rules = seccomp()
                if rules is not None:
                    program = os.memfd_create("seccomp", os.MFD_CLOEXEC)
                    held.callback(os.close, program)
                    os.write(program, rules)
                    os.lseek(program, 0, os.SEEK_SET)
                    passed.append(program)
                    full += ["--seccomp", str(program)]
                command = [*full, "--", *command]
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
        self.outer = os.pidfd_open(self.process.pid)

    def read_status(self) -> bool:
        """Take what bwrap reported; False at its end."""
        assert self.status is not None
        part = os.read(self.status, 4096)
        self.report += part
        if self.inner is None and (found := re.search(rb'"child-pid": (\d+)', self.report)):
            self.inner_pid = int(found[1])
            with contextlib.suppress(ProcessLookupError):
                self.inner = os.pidfd_open(self.inner_pid)
        return bool(part)

    def ran(self) -> bool:
        """Whether the sandboxed program was reached at all."""
        return self.status is None or b'"exit-code"' in self.report

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.inner is not None:
                signal.pidfd_send_signal(self.inner, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.outer, signal.SIGKILL)

    def gone(self, wait_s: float) -> bool:
        """Wait until the child, and in a sandbox every process of it, has ended."""
        deadline = time.monotonic() + wait_s
        for descriptor in filter(None, (self.outer, self.inner)):
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return False
        return True

    def close(self) -> None:
        for name in ("inner", "status", "outer"):
            descriptor = getattr(self, name, None)
            if descriptor is not None:
                os.close(descriptor)
                setattr(self, name, None)


def _tree(pid: int, most: int) -> Iterator[int]:
    """Process ids of a process and everything below it, at most `most` + 1 of them."""
    queue, seen = [pid], 0
    while queue and seen <= most:
        current = queue.pop()
        seen += 1
        yield current
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{current}/task").iterdir():
                queue += map(int, (task / "children").read_text().split())


def _usage(pid: int, most: int) -> tuple[int, int, float]:
    """(threads, bytes of private resident memory, CPU seconds so far) of a tree right now."""
    threads = memory = ticks = 0
    page = resource.getpagesize()
    for member in _tree(pid, most):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{member}/statm").read_text().split()
            memory += (int(fields[1]) - int(fields[2])) * page
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # of the process and of the children it has waited for
            threads += int(fields[17])
    return threads, memory, ticks / os.sysconf("SC_CLK_TCK")


# --- bounded runs ----------------------------------------------------------------------------------------------------


class _Capture:
    """The loop of one bounded run: feeds stdin, keeps the first bytes of each stream, watches the limits."""

    def __init__(self, launch: _Launch, limits: Limits, stdin: bytes, cancel: int | None) -> None:
        self.launch, self.limits, self.stdin, self.cancel = launch, limits, memoryview(stdin), cancel
        self.kept: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.truncated, self.stopped_for, self.peak, self.cpu = False, "", 0, 0.0
        self.selector = selectors.DefaultSelector()

    def loop(self) -> None:
        process, deadline = self.launch.process, time.monotonic() + self.limits.wall_s
        for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr")):
            assert pipe is not None
            self.selector.register(pipe, selectors.EVENT_READ, name)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self.selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
        self.selector.register(self.launch.outer, selectors.EVENT_READ, "exit")
        for descriptor, name in ((self.launch.status, "status"), (self.cancel, "cancel")):
            if descriptor is not None:
                self.selector.register(descriptor, selectors.EVENT_READ, name)
        watched = time.monotonic()
        running = True
        while running or {"stdout", "stderr", "status"} & {str(k.data) for k in self.selector.get_map().values()}:
            now = time.monotonic()
            if now >= deadline:
                if not running:  # a process that left the group holds a pipe open
                    return
                self._stop("wall")
                running, deadline = False, now + GRACE_S
            if running and now - watched >= POLL_S:
                watched = now
                self._watch()
            for key, _ in self.selector.select(min(POLL_S, max(0.0, deadline - now))):
                if key.data == "exit":
                    self.selector.unregister(key.fileobj)
                    running, deadline = False, time.monotonic() + GRACE_S
                    self.launch.kill()  # what is left of its group, so that the pipes end
                else:
                    self._take(key)

    def _take(self, key: selectors.SelectorKey) -> None:
        if key.data == "stdin":
            self._feed()
        elif key.data == "status":
            if not self.launch.read_status():
                self.selector.unregister(key.fileobj)
            self._watch()  # at its end: the last look at what the tree used
        elif key.data == "cancel":
            self.selector.unregister(key.fileobj)
            self._stop("cancel")
        else:
            part = os.read(key.fd, 1 << 16)
            if not part:
                self.selector.unregister(key.fileobj)
                return
            kept = self.kept[key.data]
            room = self.limits.output_bytes - len(kept)
            kept += part[:room]
            self.truncated |= len(part) > room

    def _feed(self) -> None:
        pipe = self.launch.process.stdin
        assert pipe is not None
        try:
            self.stdin = self.stdin[os.write(pipe.fileno(), self.stdin[: 1 << 16]) :] if self.stdin else self.stdin
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.stdin = self.stdin[:0]
        if not self.stdin:
            self.selector.unregister(pipe)
            pipe.close()

    def _watch(self) -> None:
        root = self.launch.inner_pid if self.launch.status is not None else self.launch.process.pid
        if not root:
            return
        most = self.limits.processes if self.limits.processes is not None else 1 << 16
        threads, memory, cpu = _usage(root, most + 1)
        self.peak, self.cpu = max(self.peak, memory), max(self.cpu, cpu)
        if self.limits.memory_bytes is not None and memory > self.limits.memory_bytes:
            self._stop("memory")
        if self.launch.status is not None and threads > most + 1:  # the sandbox's own first process does not count
            self._stop("processes")

    def _stop(self, reason: str) -> None:
        self.stopped_for = self.stopped_for or reason
        self.launch.kill()


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
    capture = _Capture(launch, limits, stdin, cancel)
    try:
        capture.loop()
    finally:
        launch.kill()
        launch.gone(GRACE_S)
        _, wait_status, usage = os.wait4(launch.process.pid, 0)
        launch.process.returncode = os.waitstatus_to_exitcode(wait_status)
        capture.selector.close()
        for pipe in (launch.process.stdin, launch.process.stdout, launch.process.stderr):
            _close(pipe)
        reached = launch.ran()
        launch.close()
    kept = {name: bytes(data) for name, data in capture.kept.items()}
    if not reached and not capture.stopped_for:
        why = kept["stderr"].decode("utf-8", "replace").strip() or f"bwrap ended with {launch.process.returncode}"
        raise SandboxError("cannot start the sandbox", str(argv[0]), why, "git pantheon doctor")
    return Completed(
        argv=tuple(map(str, argv)),
        returncode=launch.process.returncode,
        stdout=kept["stdout"],
        stderr=kept["stderr"],
        timed_out=capture.stopped_for == "wall",
        truncated=capture.truncated,
        stopped_for=capture.stopped_for,
        seconds=time.monotonic() - started,
        cpu_seconds=max(capture.cpu, usage.ru_utime + usage.ru_stime),
        peak_memory=capture.peak,
    )


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None and not pipe.closed:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


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
    ) -> None:
        self.log_path = log_path
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
                    stdin=subprocess.DEVNULL,
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
) -> Child:
    """Start a long-running child; both its streams go to the end of `stdout_path` (mode 0600). Of `limits` the wall
    clock, the whole tree's memory and the output do not apply here."""
    return Child(argv, sandbox=sandbox, limits=limits, log_path=stdout_path, env=env, umask=umask)


# --- proofs ----------------------------------------------------------------------------------------------------------


@functools.cache
def require_sandbox() -> str:
    """The path of a bwrap that works here, proved by running `true` in a sandbox. Raises SandboxError with the cure."""
    bwrap = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin") or shutil.which("bwrap")
    if bwrap is None:
        raise SandboxError(
            "no sandbox, no night", "bwrap", "bubblewrap is not installed", "sudo apt-get install bubblewrap"
        )
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


# An error that comes back at once from the kernel is proof; a time-out could be a firewall's and is none.
def foreground(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> int:
    """A program of the user's on their own terminal: no limits, no sandbox; its exit status (128 + signal)."""
    try:
        code = subprocess.run(list(argv), env=dict(env), cwd=cwd, check=False).returncode
    except OSError as error:
        raise SandboxError("cannot start", argv[0], str(error)) from error
    return code if code >= 0 else 128 - code
