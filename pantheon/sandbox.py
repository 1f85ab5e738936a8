"""What a sandboxed child sees and may call: mounts, environment, system-call filter. Values only; process.py starts it.

Does not cover: limits of time and memory (process.py), and what a child may do to its own writable directories.
"""

from __future__ import annotations

import errno
import os
import platform
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
    """What a sandboxed child sees besides the system, this Python and this package. Pairs are (host, inside)."""

    readable: tuple[tuple[Path, Path], ...] = ()
    writable: tuple[tuple[Path, Path], ...] = ()
    devices: tuple[Path, ...] = ()
    cwd: Path = Path(TMP_INSIDE)
    env: dict[str, str] = Field(default_factory=dict)
    hostname: str = "pantheon"
    tmp_bytes: int = Field(default=256 * MIB, ge=MIB)  # of each private tmpfs: /tmp, home, /dev/shm


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


def sandbox_env(sandbox: Sandbox, extra: Mapping[str, str] | None) -> dict[str, str]:
    """PYTHONSAFEPATH: `python -m` must not import modules that an agent left in its working directory."""
    env = {
        "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": HOME_INSIDE,
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
    }
    return {**env, **sandbox.env, **(extra or {})}


def seccomp() -> bytes | None:
    """A filter for what namespaces leave open: vsock and other odd socket families reach the host of a virtual
    machine, key rings are shared, io_uring opens sockets unseen. None on a processor we have no numbers for."""
    table = {  # arch, socket, (add_key, request_key, keyctl, io_uring_setup)
        "x86_64": (0xC000003E, 41, (248, 249, 250, 425)),
        "aarch64": (0xC00000B7, 198, (217, 218, 219, 425)),
    }
    if platform.machine() not in table:
        return None
    arch, sock, denied = table[platform.machine()]
    load, equal, at_least, ret = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
    refuse, allow = 0x00050000, 0x7FFF0000  # SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (ret, 0, 0, refuse | errno.ENOSYS)]
    code += [(load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (ret, 0, 0, refuse | errno.ENOSYS)]  # the x32 ABI
    for number in denied:
        code += [(equal, 0, 1, number), (ret, 0, 0, refuse | errno.ENOSYS)]
    code += [(equal, 1, 0, sock), (ret, 0, 0, allow), (load, 0, 0, 16)]  # the low half of the first argument
    for family in families:
        code += [(equal, 0, 1, int(family)), (ret, 0, 0, allow)]
    code.append((ret, 0, 0, refuse | errno.EAFNOSUPPORT))
    return b"".join(struct.pack("=HBBI", *step) for step in code)
