"""`pantheon.process` against the real bubblewrap: one escape or limit per test."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pantheon import egress, process
from pantheon.errors import SandboxError
from pantheon.process import Completed, Limits, run
from pantheon.sandbox import Sandbox

MIB = 1 << 20
QUICK = Limits(wall_s=10.0, cpu_s=10)


def shell(script: str, sandbox: Sandbox | None = None, limits: Limits = QUICK, stdin: bytes = b"") -> Completed:
    return run(["sh", "-c", script], limits=limits, sandbox=sandbox or Sandbox(), stdin=stdin)


def python(script: str, sandbox: Sandbox | None = None, limits: Limits = QUICK) -> Completed:
    return run([sys.executable, "-c", script], limits=limits, sandbox=sandbox or Sandbox())


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
    sandbox = Sandbox(writable=((tmp_path, Path("/work")),), cwd=Path("/work"))
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
    sandbox = Sandbox(writable=((inside, Path("/work")),), readable=((outside, Path("/base")),), cwd=Path("/work"))
    done = shell("echo x > ok; for f in /base/f /usr/f /f /opt/f /etc/passwd; do (echo x > $f); done", sandbox)
    assert (inside / "ok").exists()
    assert done.stderr.count(b"cannot create") == 5
    assert not list(outside.iterdir())


def test_the_egress_probe_finds_every_way_closed() -> None:
    proof = egress.probe_egress({"GITHUB_TOKEN": "x", "PATH": "/bin", "SSH_AUTH_SOCK": "y", "KEYBOARD": "de"})
    assert proof.closed
    assert proof.interfaces == ("lo",)
    assert {a.kind for a in proof.attempts} == {"tcp", "tcp6", "udp", "dns", "raw", "vsock", "abstract"}
    assert proof.stripped == ("GITHUB_TOKEN", "SSH_AUTH_SOCK")


def test_the_probe_would_notice_an_open_network() -> None:
    """The same probe outside a sandbox reaches the host's loopback: it can tell open from closed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        script = egress._PROBE.replace("203.0.113.1", "127.0.0.1").replace("169.254.169.254", "127.0.0.1")
        script = script.replace("example.com", "localhost").replace("2001:db8::1", "::1")
        done = run([sys.executable, "-c", script, str(listener.getsockname()[1]), "none"], limits=QUICK)
    assert b'"target": "a listening port on the host\'s 127.0.0.1", "error": ""' in done.stdout


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
    done = shell("yes | head -c 30000000; echo end >&2", limits=Limits(output_bytes=1000))
    assert len(done.stdout) == 1000
    assert done.truncated
    assert done.stderr == b"end\n"
    assert done.returncode == 0


def test_one_allocation_above_the_limit_fails() -> None:
    done = python("bytearray(1 << 30)", limits=Limits(memory_bytes=512 * MIB))
    assert done.returncode == 1
    assert b"MemoryError" in done.stderr


def test_memory_of_many_processes_is_limited_as_one() -> None:
    script = "import os, time; [os.fork() for _ in range(3)]; x = bytearray(b'x' * (40 << 20)); time.sleep(8)"
    done = python(script, limits=Limits(memory_bytes=200 * MIB, wall_s=10))
    assert done.stopped_for == "memory"
    assert done.seconds < 8


def test_a_fork_bomb_ends() -> None:
    bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
    done = python(bomb, limits=Limits(processes=40, wall_s=4.0))
    assert done.stopped_for in {"processes", "wall"}
    assert done.returncode != 0
    assert none_left("while True:\n try: os.fork()", 20.0)  # the kernel needs a while for what a busy machine let grow


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    sandbox = Sandbox(writable=((tmp_path, Path("/work")),), cwd=Path("/work"))
    done = shell("head -c 20000000 /dev/zero > big", sandbox, Limits(file_bytes=MIB))
    assert done.returncode != 0
    assert (tmp_path / "big").stat().st_size == MIB


def test_private_tmp_is_bounded() -> None:
    done = shell("head -c 20000000 /dev/zero > /tmp/big", Sandbox(tmp_bytes=2 * MIB))
    assert b"No space left" in done.stderr


def test_cpu_time_is_limited() -> None:
    done = python("while True: pass", limits=Limits(cpu_s=1, wall_s=5.0))
    assert done.returncode != 0
    assert not done.timed_out


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


def test_require_sandbox_proves_and_names_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert process.require_sandbox().endswith("bwrap")
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    for found, words in ((None, "apt-get install bubblewrap"), (str(fake), "user")):
        monkeypatch.setattr("pantheon.process.shutil.which", lambda *_, found=found, **__: found)
        process.require_sandbox.cache_clear()
        with pytest.raises(SandboxError) as caught:
            process.require_sandbox()
        assert words in caught.value.render()
    process.require_sandbox.cache_clear()
