"""What a sandboxed child sees and may call: mounts, environment, system-call filter. Values only; process.py starts it.

Does not cover: limits of time and memory (process.py), and what a child may do to its own writable directories.
"""

from __future__ import annotations

import errno
import os
import platform
import resource
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from pantheon.errors import SandboxError
from pantheon.records import Record

MIB = 1 << 20
TMP_INSIDE = "/tmp"
SHM_INSIDE = "/dev/shm"
HOME_INSIDE = "/home/agent"
PACKAGE_INSIDE = "/opt/pantheon"
ETC = ("passwd", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime")


class Sandbox(Record):
    """What a sandboxed child sees besides the system, this Python and this package. Pairs are (host, inside); of two
    binds the deeper one counts. `nests`: the child is Pantheon itself and starts sandboxes of its own."""

    readable: tuple[tuple[Path, Path], ...] = ()
    writable: tuple[tuple[Path, Path], ...] = ()
    devices: tuple[Path, ...] = ()
    cwd: Path = Path(TMP_INSIDE)
    home: Path = Path(HOME_INSIDE)  # an empty tmpfs
    env: dict[str, str] = Field(default_factory=dict)
    hostname: str = "pantheon"
    tmp_bytes: int = Field(default=256 * MIB, ge=MIB)  # of each private tmpfs: /tmp, home, /dev/shm
    nests: bool = False


def system_paths() -> tuple[list[str], list[Path]]:
    """bwrap arguments for the read-only system, and the directories of this Python that lie outside /usr."""
    args = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            args += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            args += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        args += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    home = Path.home()
    pythons: list[Path] = []
    for prefix in dict.fromkeys((sys.base_prefix, os.path.realpath(sys.base_prefix), sys.prefix)):
        path = Path(prefix)
        if path.is_relative_to("/usr"):
            continue
        if home.is_relative_to(path):
            raise SandboxError(
                "cannot show Python to the sandbox",
                prefix,
                "it would show the whole home directory",
                "install Pantheon in a virtual environment of a Python with its own directory",
            )
        pythons.append(path)
    return args, pythons


_KERNEL_FILES = (
    *("kcore", "keys", "key-users", "kmsg", "kallsyms", "iomem", "ioports", "modules", "slabinfo", "vmallocinfo"),
    *("kpagecount", "kpageflags", "kpagecgroup", "timer_list", "sched_debug", "latency_stats", "config.gz"),
)


def kernel_files() -> list[str]:
    """Files of the whole machine in /proc, which root's sandboxes could read; a device that may not be opened hides
    them."""
    return [f"/proc/{name}" for name in _KERNEL_FILES if os.path.exists(f"/proc/{name}")]


def sandbox_env(sandbox: Sandbox, extra: Mapping[str, str] | None) -> dict[str, str]:
    """PYTHONSAFEPATH: `python -m` must not import modules that an agent left in its working directory."""
    env = {
        "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(sandbox.home),
        "TMPDIR": TMP_INSIDE,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "USER": "agent",
        "PYTHONPATH": PACKAGE_INSIDE,
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "SSL_CERT_DIR": TMP_INSIDE,  # nothing can be reached, but libgit2 does not start without a directory
    }
    return {**env, **sandbox.env, **(extra or {})}


# Numbers of system calls: (x86_64, aarch64); -1: there is none.
_CLOSED = {
    # what namespaces do not divide: key rings, the kernel's log, programs in the kernel, its clocks, disks and modules
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "syslog": (103, 116)},
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262)},
    **{"settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "reboot": (169, 142)},
    **{"init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "acct": (163, 89)},
    **{"kexec_load": (246, 104), "kexec_file_load": (320, 294), "swapon": (167, 224), "swapoff": (168, 225)},
    **{"quotactl": (179, 60), "quotactl_fd": (443, 443), "open_by_handle_at": (304, 265), "lookup_dcookie": (212, 18)},
    **{"iopl": (172, -1), "ioperm": (173, -1)},
    # sockets that no filter sees
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
}
_NAMESPACES = {  # what makes or enters a namespace or changes a mount; clone3 hides its flags: libc then calls clone
    **{"unshare": (272, 97), "setns": (308, 268), "clone3": (435, 435), "mount": (165, 40), "umount2": (166, 39)},
    **{"pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429)},
    **{"fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433)},
    **{"mount_setattr": (442, 442), "open_tree_attr": (467, 467)},
}
_CLONE, _IOCTL, _SETRLIMIT, _PRLIMIT, _SOCKET = (56, 220), (16, 29), (160, 164), (302, 261), (41, 198)
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_NEW = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_TYPING = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX: they put words into a terminal's mouth
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# What a child of the warm check worker may call: read, compute, print, end. (x86_64, aarch64)
_READING = {
    **{"read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "lseek": (8, 62)},
    **{"close": (3, 57), "fcntl": (72, 25), "ioctl": (16, 29), "poll": (7, -1), "ppoll": (271, 73)},
    **{"stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1), "newfstatat": (262, 79), "statx": (332, 291)},
    **{"access": (21, -1), "faccessat": (269, 48), "readlink": (89, -1), "readlinkat": (267, 78), "getcwd": (79, 17)},
    **{"getdents64": (217, 61), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226)},
    **{"brk": (12, 214), "madvise": (28, 233), "futex": (202, 98), "sched_yield": (24, 124), "getrandom": (318, 278)},
    **{"rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132)},
    **{"restart_syscall": (219, 128), "getpid": (39, 172), "gettid": (186, 178), "getrusage": (98, 165)},
    **{"getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160)},
    **{"clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, -1)},
    **{"clock_nanosleep": (230, 115), "exit": (60, 93), "exit_group": (231, 94)},
}
_OPENS = ((2, -1), 1), ((257, 56), 2)  # open and openat, and which argument holds the flags
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | (os.O_TMPFILE & ~os.O_DIRECTORY)

_Step = tuple[int, int, int, int]  # one BPF instruction: code, jump if true, jump if false, operand


def seccomp(nests: bool = False) -> bytes:
    """A filter for what namespaces leave open, for root above all: odd socket families (vsock reaches the host of a
    virtual machine), key rings, the kernel's log, io_uring, and whatever makes a namespace or a mount. A child that
    `nests` keeps the last, since it starts sandboxes itself. A closed call looks like one the kernel does not have; it
    never kills. Raises SandboxError on a processor we have no numbers for."""
    if platform.machine() not in _MACHINES:
        why = f"no system-call filter was written for it: {', '.join(_MACHINES)} have one"
        raise SandboxError("no sandbox, no night", platform.machine(), why, "run the night on another machine")
    column, arch = _MACHINES[platform.machine()]
    load, equal, at_least, any_bit, ret = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ, JGE, JSET, BPF_RET
    allow: _Step = (ret, 0, 0, 0x7FFF0000)

    def refuse(number: int) -> _Step:
        return (ret, 0, 0, 0x00050000 | number)  # SECCOMP_RET_ERRNO

    def half(argument: int, high: bool = False) -> _Step:
        return (load, 0, 0, 16 + 8 * argument + 4 * high)

    code: list[_Step] = [(load, 0, 0, 4), (equal, 1, 0, arch), refuse(errno.ENOSYS)]
    code += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), refuse(errno.ENOSYS)]  # the x32 ABI
    for numbers in [*_CLOSED.values(), *(() if nests else _NAMESPACES.values())]:
        if numbers[column] >= 0:
            code += [(equal, 0, 1, numbers[column]), refuse(errno.ENOSYS)]
    # What depends on an argument: each ends by itself. Flags and numbers of 32 bits are the low halves.
    typing = [step for number in _TYPING for step in ((equal, 0, 1, number), refuse(errno.EPERM))]
    sockets = [step for family in _FAMILIES for step in ((equal, 0, 1, int(family)), allow)]
    rules = [
        (_IOCTL, [half(1), *typing, allow]),
        (_SOCKET, [half(0), *sockets, refuse(errno.EAFNOSUPPORT)]),
    ]
    if not nests:
        # The size of a core file stays 1, which no core handler of the host accepts; 0 would let it run. Setting it
        # looks done.
        sets = [half(2), (any_bit, 2, 0, 0xFFFFFFFF), half(2, high=True), (any_bit, 0, 1, 0xFFFFFFFF), refuse(0), allow]
        rules += [
            (_CLONE, [half(0), (any_bit, 0, 1, _NEW), refuse(errno.EPERM), allow]),
            (_SETRLIMIT, [half(0), (equal, 0, 1, resource.RLIMIT_CORE), refuse(0), allow]),
            (_PRLIMIT, [half(1), (equal, 1, 0, resource.RLIMIT_CORE), allow, *sets]),
        ]
    for numbers, steps in rules:
        code += [(equal, 0, len(steps), numbers[column]), *steps]
    code.append(allow)
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def reading_only() -> bytes:
    """A filter for a process that has begun already: what it was given and what is there may be read, memory used, its
    streams written, and that is all. No file is made or opened to be written, no process or socket made, no signal
    sent, nobody looked into. A closed call looks like one the kernel does not have."""
    column, arch = _MACHINES[platform.machine()]
    load, equal, at_least, any_bit, ret = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, never = (ret, 0, 0, 0x7FFF0000), (ret, 0, 0, 0x00050000 | errno.ENOSYS), 0xFFFFFFFF
    code: list[_Step] = [(load, 0, 0, 4), (equal, 1, 0, arch), refuse]
    code += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), refuse]
    for numbers in _READING.values():
        code += [(equal, 0, 1, numbers[column] if numbers[column] >= 0 else never), allow]
    for numbers, argument in _OPENS:
        steps = [
            (load, 0, 0, 16 + 8 * argument),
            (any_bit, 1, 0, _WRITES),
            allow,
            (ret, 0, 0, 0x00050000 | errno.EROFS),
        ]
        code += [(equal, 0, len(steps), numbers[column] if numbers[column] >= 0 else never), *steps]
    code.append(refuse)
    return b"".join(struct.pack("=HBBI", *step) for step in code)
