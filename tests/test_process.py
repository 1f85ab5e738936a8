"""`pantheon.process` against the real bubblewrap: one escape or limit per test."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import process
from pantheon.errors import SandboxError
from pantheon.process import Completed, Limits, run
from pantheon.sandbox import Sandbox
from pantheon.watch import CUT_BYTES, Stream

MIB = 1 << 20
QUICK = Limits(wall_s=10.0, cpu_s=10)


def shell(script: str, sandbox: Sandbox | None = None, limits: Limits = QUICK, stdin: bytes = b"") -> Completed:
    return run(["sh", "-c", script], limits=limits, sandbox=sandbox or Sandbox(), stdin=stdin)


def python(script: str, sandbox: Sandbox | None = None, limits: Limits = QUICK) -> Completed:
    return run([sys.executable, "-c", script], limits=limits, sandbox=sandbox or Sandbox())


def work(place: Path) -> Sandbox:
    return Sandbox(writable=((place, Path("/place")),), cwd=Path("/place"))


def marked(marker: str) -> list[int]:
    """Living processes of the whole machine whose command line holds the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def none_left(marker: str, wait_s: float = 2.0) -> bool:
    deadline = time.monotonic() + wait_s
    while marked(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# --- what a child gets and gives -------------------------------------------------------------------------------------


def test_output_exit_code_and_input_pass_through() -> None:
    done = shell("cat; echo err >&2; exit 7", stdin=b"in\0put" * 50_000)
    assert (done.stdout, done.stderr, done.returncode) == (b"in\0put" * 50_000, b"err\n", 7)


def test_without_a_sandbox_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("MY_API_KEY", "marker-4711")
    done = run(["env"], limits=QUICK)
    assert b"GIT_DIR" not in done.stdout
    assert b"marker-4711" not in done.stdout
    assert b"LANG=C.UTF-8" in done.stdout


def test_a_missing_program_is_an_error_outside_and_exit_127_inside() -> None:
    with pytest.raises(SandboxError):
        run(["/no/such/program"], limits=Limits(memory_bytes=None), cwd=Path("/no/such/place"))
    assert run(["no-such-program"], limits=QUICK, sandbox=Sandbox()).returncode == 127


def test_a_sandbox_that_cannot_stand_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="missing"):
        shell("true", Sandbox(readable=((tmp_path / "missing", Path("/x")),)))


def test_the_package_runs_inside_without_the_clone_around_it() -> None:
    done = python("import pantheon, os; print(pantheon.__file__, os.listdir('/opt/pantheon'))")
    assert done.stdout == b"/opt/pantheon/pantheon/__init__.py ['pantheon']\n", done.stderr


def test_modules_left_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    sandbox = Sandbox(writable=((tmp_path, Path("/place")),), cwd=Path("/place"))
    done = run([sys.executable, "-m", "json.tool"], limits=QUICK, sandbox=sandbox)
    assert b"hijacked" not in done.stderr


def test_cpu_time_and_memory_are_measured() -> None:
    done = python("x = bytearray(64 << 20); n = sum(range(5_000_000)); import time; time.sleep(0.15)")
    assert done.cpu_seconds > 0.02
    assert done.peak_memory > 60 * MIB


# --- walls -----------------------------------------------------------------------------------------------------------


def test_home_is_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("marker-4711")
    monkeypatch.setenv("HOME", str(tmp_path))
    done = shell(f"cat ~/.netrc {tmp_path}/.netrc; ls -A ~")
    assert b"marker-4711" not in done.stdout
    assert done.stdout == b""


def test_secrets_of_the_environment_are_nowhere_in_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "marker-4711")
    done = shell("cat /proc/*/environ /proc/*/cmdline; env; ls /run 2>/dev/null")
    assert b"PATH=" in done.stdout
    assert b"marker-4711" not in done.stdout
    assert b"AWS" not in done.stdout


def test_no_descriptor_is_inherited(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as handle:
        os.set_inheritable(handle.fileno(), True)
        done = shell("ls /proc/self/fd")
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls reading the directory


def test_no_capability_and_no_new_namespace() -> None:
    done = shell("grep CapEff /proc/self/status; unshare -U true && echo nested")
    assert done.stdout.split() == [b"CapEff:", b"0" * 16]


def test_writes_outside_the_writable_paths_fail(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    sandbox = Sandbox(writable=((inside, Path("/place")),), readable=((outside, Path("/base")),), cwd=Path("/place"))
    done = shell("echo x > ok; for f in /base/f /usr/f /f /opt/f /etc/passwd; do (echo x > $f); done", sandbox)
    assert (inside / "ok").exists()
    assert done.stderr.count(b"cannot create") == 5
    assert not list(outside.iterdir())


def test_a_pathname_socket_of_the_host_is_out_of_reach(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen(1)
        done = python(f"import socket; socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'engine.sock')!r})")
    assert b"FileNotFoundError" in done.stderr


def test_netlink_finds_only_lo_and_key_rings_are_closed() -> None:
    done = python(
        "import ctypes, os; l = ctypes.CDLL(None, use_errno=True); l.syscall.restype = ctypes.c_long\n"
        "print(l.syscall({'x86_64': 250, 'aarch64': 219}[os.uname()[4]], 0, -3, 0), ctypes.get_errno())\n"
        "import socket; print([n for _, n in socket.if_nameindex()])"
    )
    assert done.stdout == b"-1 38\n['lo']\n", done.stderr


CALLS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *args):
    ctypes.set_errno(0)
    done = libc.syscall(ctypes.c_long(number), *args)
    print("ok" if done >= 0 else errno.errorcode[ctypes.get_errno()])
"""
needs_numbers = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers here are those of x86-64")


@needs_numbers
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("the kernel's log", "call(103, 3, ctypes.create_string_buffer(4096), 4096)"),
        ("key rings", "call(250, 0, -3, 0)"),
        ("io_uring", "call(425, 8, ctypes.create_string_buffer(256))"),
        ("programs in the kernel", "call(321, 0, ctypes.create_string_buffer(b'\\2\\0\\0\\0\\4\\0\\0\\0', 128), 128)"),
        (
            "performance counters",
            "call(298, ctypes.create_string_buffer(b'\\1\\0\\0\\0\\x80\\0\\0\\0', 128), 0, -1, -1, 0)",
        ),
        ("page faults in user space", "call(323, 1)"),
        ("a new user namespace", "call(272, 0x10000000)"),
        ("a new mount namespace", "call(272, 0x20000)"),
        ("another's namespace", "call(308, os.open('/proc/self/ns/ipc', 0), 0)"),
        ("a mount", "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)"),
        ("a mount, the new way", "call(430, b'tmpfs', 0)"),
        ("a file by its handle", "call(304, -100, ctypes.create_string_buffer(64), 0)"),
        ("a kernel module", "call(313, 0, b'', 0)"),
        ("the clock", "call(227, 0, ctypes.create_string_buffer(16))"),
        ("watching whole file systems", "call(300, 0x200, 0)"),
    ],
)
def test_a_system_call_that_no_namespace_divides_is_closed(name: str, call: str) -> None:
    assert python(CALLS + call).stdout == b"ENOSYS\n", name


@needs_numbers
def test_clone_makes_processes_but_no_namespaces() -> None:
    done = python(
        CALLS + "call(56, 17 | 0x10000000, 0, 0, 0, 0)\ncall(56, 17 | 0x40000000, 0, 0, 0, 0)\ncall(435, 0, 0)"
    )
    assert done.stdout == b"EPERM\nEPERM\nENOSYS\n"
    script = "import os, threading; t = threading.Thread(target=os.write, args=(1, b't')); t.start(); t.join()\n"
    done = python(script + "if os.fork(): os.wait()")
    assert (done.stdout, done.returncode) == (b"t", 0), done.stderr


def test_words_cannot_be_typed_into_a_terminal() -> None:
    script = "import fcntl, os, pty\n_, end = pty.openpty()\nfor number in (0x5412, 0x541C, 0x541200000000 + 0x5412):\n"
    script += (
        " try: fcntl.ioctl(end, number & 0xFFFFFFFF, b'x')\n except OSError as e: print(e.errno)\nprint(os.isatty(end))"
    )
    assert python(script).stdout == b"1\n1\n1\nTrue\n"


def test_a_device_node_cannot_be_made_nor_used(tmp_path: Path) -> None:
    assert b"not permitted" in shell("mknod /tmp/mem c 1 1").stderr
    if os.geteuid() == 0:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        assert b"Permission denied" in shell("echo x > /place/null", work(tmp_path)).stderr


def test_a_file_with_set_user_id_gives_nothing() -> None:
    done = shell("grep -E 'NoNewPrivs|CapBnd|CapPrm|CapAmb' /proc/self/status")
    assert done.stdout.split()[1::2] == [b"0" * 16, b"0" * 16, b"0" * 16, b"1"]


@needs_numbers
def test_no_process_outside_can_be_seen_signalled_or_traced() -> None:
    ours = os.getpid()
    script = f"call(62, {ours}, 0)\ncall(101, 16, {ours}, 0, 0)\nprint(os.path.exists('/proc/{ours}'))"
    assert python(CALLS + script).stdout == b"ESRCH\nESRCH\nFalse\n"


def test_a_crash_reaches_no_core_handler_of_the_host() -> None:
    """A handler runs as root outside whatever the limit is, unless it is 1; and the child cannot change that."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core files are off here for good")
    script = "import resource as r; core = r.RLIMIT_CORE; r.setrlimit(core, (0, 0)); r.prlimit(0, core, (0, 0))\n"
    script += "print(r.getrlimit(core)); r.setrlimit(r.RLIMIT_NOFILE, (50, 50)); print(r.getrlimit(r.RLIMIT_NOFILE))"
    assert python(script).stdout == b"(1, 1)\n(50, 50)\n"


@pytest.mark.parametrize(
    "path", ["/proc/sysrq-trigger", "/proc/kmsg", "/proc/kcore", "/dev/kmsg", "/dev/mem", "/dev/fuse"]
)
def test_the_kernel_s_own_files_are_closed(path: str) -> None:
    done = shell(f"head -c 1 {path}; echo h > {path}")
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 2


def test_nothing_of_proc_dev_or_the_system_is_writable() -> None:
    """All files that can be opened for writing; those of the process itself and the harmless devices are known."""
    script = """
import os
found = set()
for top in ("/proc", "/dev", "/usr", "/etc", "/opt", "/sys"):
    for place, below, files in os.walk(top):
        below[:] = [name for name in below if not (place == "/proc" and name.isdigit())]
        for path in (os.path.join(place, name) for name in files):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
                found.add(path)
            except OSError:
                pass
print(*sorted(found))
"""
    done = python(script, limits=Limits(wall_s=60, cpu_s=60))
    known = {
        "/dev/ptmx",
        "/dev/pts/ptmx",
        *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")),
    }
    assert {*done.stdout.decode().split()} <= known, done.stderr


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_timeout_kills_grandchildren_that_left_the_session() -> None:
    marker = "86413.4711"
    script = f"setsid sh -c 'setsid sleep {marker} & exec sleep {marker}' & sleep {marker}"
    done = shell(script, limits=Limits(wall_s=0.5))
    assert done.timed_out
    assert done.stopped_for == "wall"
    assert done.seconds < 3
    assert none_left(marker, 0.5)


def test_a_daemon_does_not_outlive_a_finished_command() -> None:
    marker = "86413.4712"
    done = shell(f"setsid sleep {marker} >/dev/null 2>&1 & exit 0")
    assert done.returncode == 0
    assert not done.timed_out
    assert none_left(marker, 0.5)


def test_a_pipe_held_open_outside_a_sandbox_does_not_hang() -> None:
    marker = "86413.4713"
    done = run(["sh", "-c", f"sleep {marker} & echo done"], limits=QUICK)
    assert done.stdout == b"done\n"
    assert done.seconds < 3
    assert none_left(marker)


def test_output_is_capped_while_it_is_read() -> None:
    done = shell("echo begin; yes | head -c 30000000; echo last; echo end >&2", limits=Limits(output_bytes=1000))
    assert done.truncated and 900 < len(done.stdout) <= 1000
    assert done.stdout.startswith(b"begin\ny\n") and done.stdout.endswith(b"y\nlast\n")
    whole = b"begin\n" + b"y\n" * 15_000_000 + b"last\n"
    left_out = len(whole) - 800
    assert f"[pantheon: {left_out} of {len(whole)} bytes left out here; ".encode() in done.stdout
    assert hashlib.sha256(whole).hexdigest().encode() in done.stdout
    assert done.stderr == b"end\n"
    assert done.returncode == 0


def test_one_allocation_above_the_limit_fails() -> None:
    done = python("bytearray(1 << 30)", limits=Limits(memory_bytes=512 * MIB))
    assert done.returncode == 1
    assert b"MemoryError" in done.stderr


@pytest.fixture(params=["cgroup", "rlimit"])
def limiter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The kernel's groups hold the limits, or the fallback does, as on a machine where none can be made."""
    process._groups.cache_clear()
    if request.param == "rlimit":
        monkeypatch.setenv(process.GROUPS, str(tmp_path))
    elif process.groups() is None:
        pytest.skip("this process may make no control groups")
    yield request.param
    process._groups.cache_clear()


def test_memory_of_many_processes_is_limited_as_one(limiter: str) -> None:
    script = "import os, time; [os.fork() for _ in range(3)]; x = bytearray(b'x' * (40 << 20)); time.sleep(8)"
    done = python(script, limits=Limits(memory_bytes=200 * MIB, wall_s=10))
    assert (done.stopped_for, done.limited_by) == ("memory", limiter)
    assert done.why() == "ended: it used more than 200 MiB of memory"
    assert done.seconds < 8


def test_a_full_private_tmp_is_memory_where_the_kernel_counts() -> None:
    if process.groups() is None:
        pytest.skip("this process may make no control groups")
    done = shell("head -c 100000000 /dev/zero > /tmp/big; true", limits=Limits(memory_bytes=40 * MIB, wall_s=10))
    assert done.stopped_for == "memory"


def test_a_process_that_the_kernel_killed_for_memory_fails_a_child_that_goes_on() -> None:
    if process.groups() is None:
        pytest.skip("this process may make no control groups")
    hog = f"{sys.executable} -c 'import time; x = b\"x\" * (40 << 20); time.sleep(2)'"  # each within its own limit
    done = shell(f"{hog} & {hog} & {hog} & wait; exit 0", limits=Limits(memory_bytes=100 * MIB, wall_s=10))
    assert done.stopped_for == "memory"


BOMB = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"


def test_a_fork_bomb_ends_at_once(limiter: str) -> None:
    done = python(BOMB, limits=Limits(processes=40, wall_s=20.0))
    assert (done.stopped_for, done.limited_by) == ("processes", limiter)
    assert done.returncode != 0
    assert done.seconds < 10
    assert "more than 40 processes" in done.why()
    assert none_left(BOMB, 0.5)


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    sandbox = Sandbox(writable=((tmp_path, Path("/place")),), cwd=Path("/place"))
    done = shell("head -c 20000000 /dev/zero > big", sandbox, Limits(file_bytes=MIB))
    assert done.returncode != 0
    assert (tmp_path / "big").stat().st_size == MIB
    assert done.stopped_for == "file"
    assert done.why() == "ended: it wrote a file of more than 1 MiB"


@pytest.mark.parametrize(
    "script",
    [
        "i=0; while :; do i=$((i+1)); head -c 100000 /dev/zero > f$i; done",  # many small files
        "while :; do mkdir d; cd d; head -c 100000 /dev/zero > f; done",  # ever deeper
        "exec 3>gone; rm gone; while :; do head -c 100000 /dev/zero >&3; done",  # a file without a name
        "i=0; while :; do i=$((i+1)); : > f$i; done",  # nothing but names
        "head -c 9000000 /dev/zero > f; exit 0",  # faster than the watchdog looks
    ],
    ids=["many", "deep", "nameless", "empty", "fast"],
)
def test_what_a_child_writes_to_disk_is_limited(tmp_path: Path, script: str) -> None:
    limits = Limits(wall_s=30.0, disk_bytes=4 * MIB)
    done = shell(script, work(tmp_path), limits)
    assert done.stopped_for == "disk"
    assert done.seconds < 20
    assert done.why() == "ended: it wrote more than 4 MiB to disk, or hid what it wrote"


def test_what_was_on_disk_before_does_not_count_nor_what_a_link_points_to(tmp_path: Path) -> None:
    place, other = tmp_path / "work", tmp_path / "other"
    for directory in (place, other):
        directory.mkdir()
        (directory / "big").write_bytes(b"x" * (9 * MIB))
    (place / "link").symlink_to(other)
    script = "ln big big2; ln -s /usr usr; cp big new; rm new; head -c 1000000 /dev/zero > ok"
    done = shell(script, work(place), Limits(wall_s=20.0, disk_bytes=4 * MIB))
    assert (done.stopped_for, done.returncode) == ("", 0), done.stderr


def test_a_directory_that_hides_what_was_written_fails(tmp_path: Path) -> None:
    deep = "import os\nfor _ in range(140): os.mkdir('d'); os.chdir('d')\nopen('f', 'w').write('x')"
    done = python(deep, work(tmp_path), Limits(wall_s=20.0, disk_bytes=64 * MIB))
    assert done.stopped_for == "disk"


def test_private_tmp_is_bounded() -> None:
    done = shell("head -c 20000000 /dev/zero > /tmp/big", Sandbox(tmp_bytes=2 * MIB))
    assert b"No space left" in done.stderr


def test_cpu_time_is_limited() -> None:
    done = python("while True: pass", limits=Limits(cpu_s=1, wall_s=20.0))
    assert done.returncode != 0
    assert done.stopped_for == "cpu"
    assert done.why() == "ended: it used more than 1 s of processor time"


def test_cpu_time_of_many_processes_is_limited_as_one(limiter: str) -> None:
    script = "import os\nfor _ in range(5): os.fork()\nwhile True: pass"
    done = python(script, limits=Limits(cpu_s=1, wall_s=20.0))
    assert (done.stopped_for, done.limited_by) == ("cpu", limiter)
    assert done.seconds < 10


def test_an_endless_print_ends() -> None:
    done = shell("yes", limits=Limits(output_bytes=1000, wall_s=60.0))
    assert done.stopped_for == "output"
    assert done.truncated
    assert len(done.stdout) <= 1000
    assert done.why() == "ended: it printed more than 64 MiB"
    assert done.seconds < 20


HOARD = "import time; x = bytearray(60 << 20); x[::4096] = bytes(15360); time.sleep(9)"
Someone = Callable[[str, Limits], dict[str, Any]]


@pytest.fixture(scope="module")
def someone() -> Iterator[Someone]:
    """Runs a shell script in a sandbox with limits, as an ordinary user when we are root; how it ended. The user sees
    nothing of ours, so it gets a copy of the package and of what that imports, and the system's own Python."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from pantheon.process import Limits, run\nfrom pantheon.sandbox import Sandbox\n"
        "box = Sandbox(writable=((Path(sys.argv[1]), Path('/place')),), cwd=Path('/place'))\n"
        "done = run(['sh', '-c', sys.argv[2]], limits=Limits.model_validate_json(sys.argv[3]), sandbox=box)\n"
        "print(done.model_dump_json(include={'stopped_for', 'limited_by', 'seconds', 'returncode'}))"
    )
    python3, prefix = sys.executable, []
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        library, room = Path(place, "library"), Path(place, "room")
        room.mkdir()
        if os.geteuid() == 0:
            python3, prefix = "/usr/bin/python3", ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            show = [python3, "-c", "import sys; print(sys.version_info[:2])"]
            if (
                not os.access(python3, os.X_OK)
                or subprocess.check_output(show, text=True) != f"{sys.version_info[:2]}\n"
            ):
                pytest.skip(f"no {python3} of this Python's version for a user that may not see ours")
            os.chown(room, 65534, 65534)
            os.chmod(place, 0o755)
        for name in ("pantheon", "pathspec", "pydantic", "pydantic_core", "annotated_types", "typing_inspection"):
            (source,) = importlib.import_module(name).__path__
            shutil.copytree(source, library / name)
        shutil.copy(str(importlib.import_module("typing_extensions").__file__), library)

        def run_as(script: str, limits: Limits) -> dict[str, Any]:
            argv = [*prefix, python3, "-c", program, str(room), script, limits.model_dump_json()]
            env = {"PYTHONPATH": str(library), "HOME": place, "PATH": "/usr/bin:/bin"}
            done = subprocess.run(argv, capture_output=True, env=env, cwd="/", check=False, timeout=60)
            for left in room.iterdir():
                left.chmod(0o700)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            assert done.returncode == 0, done.stderr.decode()
            return dict(json.loads(done.stdout))

        yield run_as


@pytest.mark.parametrize(
    ("reason", "script", "changed"),
    [
        ("processes", f"exec python3 -c '{BOMB}'", {"processes": 40}),
        ("memory", f"for i in 1 2 3 4; do python3 -c '{HOARD}' & done; wait", {"memory_bytes": 150 * MIB}),
        ("cpu", "for i in 1 2 3 4; do while :; do :; done & done; wait", {"cpu_s": 1}),
        ("output", "yes", {"output_bytes": 1000}),
        ("file", "head -c 20000000 /dev/zero > big", {"file_bytes": MIB}),
        ("disk", "i=0; while :; do i=$((i+1)); head -c 100000 /dev/zero > f$i; done", {"disk_bytes": 4 * MIB}),
        ("disk", "mkdir d; head -c 90000 /dev/zero > d/f; chmod 0 d; sleep 9", {"disk_bytes": 4 * MIB}),
        ("wall", "sleep 9", {"wall_s": 0.5}),
        ("", "head -c 20000000 /dev/zero", {"output_bytes": 1000}),
    ],
    ids=["processes", "memory", "cpu", "output", "file", "disk", "hidden", "wall", "none"],
)
def test_an_ordinary_user_s_child_ends_the_same_way(
    someone: Someone, reason: str, script: str, changed: dict[str, Any]
) -> None:
    ended = someone(script, Limits(wall_s=30.0).model_copy(update=changed))
    assert ended["stopped_for"] == reason
    assert (ended["returncode"] == 0) == (reason == "")
    assert ended["seconds"] < 15


def test_only_a_child_that_was_stopped_has_something_to_explain() -> None:
    assert shell("exit 3").why() == ""
    assert shell("sleep 9", limits=Limits(wall_s=0.2)).why() == "ended: it took longer than 0.2 s"


def test_cancelling_kills_at_once() -> None:
    marker = "86413.4714"

    async def cancelled() -> float:
        job = asyncio.create_task(process.run_async(["sleep", marker], limits=Limits(wall_s=30), sandbox=Sandbox()))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        return time.monotonic() - began

    assert asyncio.run(cancelled()) < 1.0
    assert none_left(marker, 0.1)


def test_many_at_once() -> None:
    async def many() -> list[Completed]:
        jobs = [process.run_async(["echo", str(n)], limits=QUICK, sandbox=Sandbox()) for n in range(24)]
        return await asyncio.gather(*jobs)

    assert [done.stdout for done in asyncio.run(many())] == [f"{n}\n".encode() for n in range(24)]


def test_a_run_inside_a_sandbox_uses_the_groups_it_was_given(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As a night does: the parent is made outside and bound, the children of the inner one get groups below it."""
    parent = process.groups()
    if parent is None:
        pytest.skip("this process may make no control groups")
    script = "import os, sys\nos.write(0, b'h')\nfrom pantheon.process import Limits, run\n"
    script += f"from pantheon.sandbox import Sandbox\nfor code in ({BOMB!r}, 'print()'):\n"
    script += " done = run([sys.executable, '-c', code], limits=Limits(processes=20, wall_s=20), sandbox=Sandbox())\n"
    script += " print(done.limited_by, done.stopped_for, flush=True)"
    sandbox = Sandbox(
        nests=True,
        writable=tuple((path, path) for path in parent.paths),
        env={process.GROUPS: ":".join(map(str, parent.paths))},
    )
    argv = [sys.executable, "-c", script]
    code = process.enclosed(argv, sandbox=sandbox, order=b"x", keep=(), on_ready=lambda: None)
    assert (code, capfd.readouterr().out) == (0, "cgroup processes\ncgroup \n")
    for path in parent.paths:
        assert [below for below in path.iterdir() if below.is_dir()] == []


# --- long-running children -------------------------------------------------------------------------------------------


def test_a_child_outlives_the_thread_that_started_it_and_stops_whole(tmp_path: Path) -> None:
    marker = "86413.4715"
    started: list[process.Child] = []
    argv = ["sh", "-c", f"echo up; setsid sleep {marker} & exec sleep {marker}"]
    thread = threading.Thread(
        target=lambda: started.append(process.start(argv, sandbox=Sandbox(), stdout_path=tmp_path / "log"))
    )
    thread.start()
    thread.join()
    time.sleep(0.3)
    (child,) = started
    assert child.alive()
    assert len(marked(marker)) >= 2
    assert child.log_path.read_text() == "up\n"
    assert child.log_path.stat().st_mode & 0o777 == 0o600
    child.stop(0.5)
    child.stop(0.5)
    assert not child.alive()
    assert none_left(marker, 0.1)


def test_a_child_may_end_in_order(tmp_path: Path) -> None:
    argv = ["sh", "-c", "trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done"]
    child = process.start(argv, sandbox=Sandbox(), stdout_path=tmp_path / "log")
    time.sleep(0.2)
    child.stop(2.0)
    assert child.log_path.read_text() == "bye\n"


def test_a_child_that_ends_by_itself_is_noticed(tmp_path: Path) -> None:
    child = process.start(["false"], sandbox=Sandbox(), stdout_path=tmp_path / "log")
    deadline = time.monotonic() + 3
    while child.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.alive()
    assert child.returncode == 1
    child.stop()


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="log"):
        process.start(["true"], sandbox=Sandbox(), stdout_path=tmp_path / "no" / "log")


def test_kill_minus_nine_of_the_parent_ends_the_child(tmp_path: Path) -> None:
    marker = "86413.4716"
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from pantheon import process\nfrom pantheon.sandbox import Sandbox\n"
        f"argv = ['sh', '-c', 'setsid sleep {marker} & exec sleep {marker}']\n"
        f"process.start(argv, sandbox=Sandbox(), stdout_path=Path({str(tmp_path / 'log')!r}))\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    root = str(Path(process.__file__).parent.parent)
    env = {"PYTHONPATH": root, "HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        time.sleep(0.2)
        assert len(marked(marker)) >= 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert none_left(marker, 2.0)


# --- the proof -------------------------------------------------------------------------------------------------------


OLD = "#!/bin/sh\necho '  --unshare-all  --seccomp FD  --json-status-fd FD' >&2\n"
DEAF = """#!/bin/sh
[ "$1" != --help ] || { echo "--size --disable-userns --json-status-fd --seccomp"; exit 0; }
echo 'setting up uid map: Permission denied' >&2
exit 1
"""


@pytest.mark.parametrize(
    ("program", "machine", "words"),
    [
        ("", "x86_64", "apt-get install bubblewrap"),
        (OLD, "x86_64", "it does not know --disable-userns, --size"),
        (DEAF, "x86_64", "user namespaces"),
        (None, "riscv64", "no system-call filter was written for it: x86_64, aarch64 have one"),
    ],
    ids=["missing", "too old", "not allowed", "another processor"],
)
def test_there_is_no_weaker_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str | None, machine: str, words: str
) -> None:
    assert process.require_sandbox().endswith("bwrap")
    fake = tmp_path / "bwrap"
    fake.write_text(program or "")
    fake.chmod(0o755)
    if program is not None:
        monkeypatch.setattr("pantheon.process.shutil.which", lambda *_, **__: str(fake) if program else None)
    monkeypatch.setattr("platform.machine", lambda: machine)
    process.require_sandbox.cache_clear()
    try:
        with pytest.raises(SandboxError, match="no sandbox, no night") as caught:
            process.require_sandbox()
        assert words in caught.value.render()
    finally:
        process.require_sandbox.cache_clear()


def test_what_runs_use_is_added_up_where_they_were_started(tmp_path: Path) -> None:
    script = "import time\nwhile time.process_time() < 0.2: pass"

    async def one() -> float:
        with process.used() as mine:
            await process.run_async([sys.executable, "-c", script], limits=QUICK)
        return mine.cpu_s

    async def both() -> tuple[float, float]:
        return await asyncio.gather(one(), one())

    with process.used() as all_of_it:
        each = asyncio.run(both())
        run([sys.executable, "-c", "x = bytearray(100 << 20); import time; time.sleep(0.5)"], limits=QUICK)
    run([sys.executable, "-c", script], limits=QUICK)
    assert all(found >= 0.2 for found in each)
    assert sum(each) <= all_of_it.cpu_s < sum(each) + 5
    assert all_of_it.memory_bytes > 50 << 20


@given(st.lists(st.binary(max_size=700), max_size=30), st.integers(1, 1200))
def test_of_a_long_stream_head_and_tail_are_kept(parts: list[bytes], most: int) -> None:
    stream, whole = Stream(most), b"".join(parts)
    for part in parts:
        stream.take(part)
    kept, half = stream.kept(), max(0, most - CUT_BYTES) // 2
    assert stream.cut == (len(whole) > most)
    if not stream.cut:
        assert kept == whole
    else:
        assert kept.startswith(whole[:half]) and kept.endswith(whole[len(whole) - half :])
        assert hashlib.sha256(whole).hexdigest().encode() in kept
        assert len(kept) <= max(most, CUT_BYTES)
