"""What a child may use and how it ended: values only, with the words for a person. process.py holds a child to them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pantheon.records import Record
from pantheon.sandbox import MIB


class Limits(Record):
    """What a child may use. None: not limited. `memory_bytes` holds for each process and for the whole tree."""

    wall_s: float = Field(default=60.0, gt=0)
    cpu_s: int | None = Field(default=60, ge=1)  # of the whole tree
    memory_bytes: int | None = Field(default=1024 * MIB, ge=MIB)  # private tmpfs counted where there are control groups
    address_space: bool = True  # memory_bytes bounds it too; torch maps far more than it ever uses
    processes: int | None = Field(default=64, ge=1)  # of a sandboxed tree, threads counted
    output_bytes: int = Field(default=MIB, ge=0)  # kept of each stream: of more the head and the tail
    file_bytes: int | None = Field(default=64 * MIB, ge=0)  # the size of any file it writes
    disk_bytes: int | None = Field(default=256 * MIB, ge=0)  # that a sandbox's writable binds may grow in all

    @property
    def printed_bytes(self) -> int:
        """What both streams together may bring before the child is stopped: output that ends is only cut."""
        return max(64 * self.output_bytes, 64 * MIB)


class Completed(Record):
    """How a child ended. `stopped_for` names the limit that ended it: wall, cpu, memory, processes, output, file or
    disk; or cancel."""

    argv: tuple[str, ...]
    returncode: int  # negative: the signal that ended it; from inside a sandbox 128 + signal
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    truncated: bool = False
    stopped_for: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0  # bytes, of the whole tree: sampled, or from its control group with the page cache it filled
    limits: Limits = Limits()
    limited_by: Literal["cgroup", "rlimit"] = "rlimit"

    def why(self) -> str:
        """One sentence for a person: which limit ended it; empty when none did."""
        most = self.limits
        return {
            "": "",
            "wall": f"ended: it took longer than {most.wall_s:g} s",
            "cpu": f"ended: it used more than {most.cpu_s} s of processor time",
            "memory": f"ended: it used more than {_size(most.memory_bytes)} of memory",
            "processes": f"ended: it started more than {most.processes} processes and threads at a time",
            "output": f"ended: it printed more than {_size(most.printed_bytes)}",
            "file": f"ended: it wrote a file of more than {_size(most.file_bytes)}",
            "disk": f"ended: it wrote more than {_size(most.disk_bytes)} to disk, or hid what it wrote",
            "cancel": "ended: it was cancelled",
        }[self.stopped_for]


def _size(size: int | None) -> str:
    return "unlimited" if size is None else f"{size >> 20} MiB" if size >= MIB else f"{size} bytes"
