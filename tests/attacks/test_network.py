"""Attempts to get a byte out: from a tool's sandbox and from the night's own enclosure. Every one must fail at once."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MakeRepo

from pantheon import enclosure, process
from pantheon.git import Repo
from pantheon.places import places
from pantheon.process import Limits
from pantheon.sandbox import Sandbox

Place = Callable[[str], str]
ATTEMPTS = {
    "tcp to the host's loopback": "s = socket.socket(); s.settimeout(3); s.connect(('127.0.0.1', PORT))",
    "tcp to another machine": "s = socket.socket(); s.settimeout(3); s.connect(('203.0.113.7', 80))",
    "tcp to a private address": "s = socket.socket(); s.settimeout(3); s.connect(('192.168.0.1', 80))",
    "ipv6": "s = socket.socket(socket.AF_INET6); s.settimeout(3); s.connect(('2001:db8::7', 80))",
    "ipv4 in ipv6": "s = socket.socket(socket.AF_INET6); s.settimeout(3); s.connect(('::ffff:203.0.113.7', 80))",
    "udp 53": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.53', 53))",
    "broadcast": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1);"
        " s.sendto(b'x', ('255.255.255.255', 9))"
    ),
    "multicast": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('224.0.0.251', 5353))",
    "the metadata address": "s = socket.socket(); s.settimeout(3); s.connect(('169.254.169.254', 80))",
    "a name": "socket.getaddrinfo('example.com', 443)",
    "raw ip": "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)",
    "raw frames": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)",
    "vsock to the hypervisor": "s = socket.socket(40, socket.SOCK_STREAM); s.settimeout(3); s.connect((2, 1024))",
    "vsock to itself": "s = socket.socket(40, socket.SOCK_STREAM); s.settimeout(3); s.connect((1, 1024))",
    "bluetooth": "socket.socket(31, socket.SOCK_RAW, 1)",
    "kernel crypto": "socket.socket(38, socket.SOCK_SEQPACKET).bind(('hash', 'sha256'))",
    "a new interface": (
        "import fcntl; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        " fcntl.ioctl(s, 0x89A0, b'br0'.ljust(16, bytes(1)))"
    ),
    "a tunnel": (
        "import fcntl; f = os.open('/dev/net/tun', os.O_RDWR);"
        " fcntl.ioctl(f, 0x400454CA, b'tun0'.ljust(16, bytes(1)) + bytes([1, 0x10]) + bytes(22))"
    ),
    "an abstract socket": "socket.socket(socket.AF_UNIX).connect(chr(0) + 'NAME')",
    "a pathname socket": "socket.socket(socket.AF_UNIX).connect('PATH')",
    "another network namespace": (
        "import ctypes; f = os.open('/proc/1/ns/net', os.O_RDONLY); os.stat('/proc/1/ns/net').st_ino !="
        " os.stat('/proc/self/ns/net').st_ino or 1 / 0; ctypes.CDLL(None).setns(f, 0) and 1 / 0"
    ),
}


@pytest.fixture(params=["tool", "night"])
def place(request: pytest.FixtureRequest, make_repo: MakeRepo, capfd: pytest.CaptureFixture[str]) -> Iterator[Place]:
    """Run Python code there; what it printed."""
    if request.param == "tool":

        def tool(code: str) -> str:
            done = process.run([sys.executable, "-I", "-c", code], limits=Limits(wall_s=20), sandbox=Sandbox())
            return done.stdout.decode() + done.stderr.decode()

        yield tool
        return
    sandbox = enclosure.night_sandbox(Repo.discover(make_repo()), places(os.environ), None, {})

    def night(code: str) -> str:
        hello = "import os, socket; line = socket.socket(fileno=os.dup(0)); line.sendall(b'h'); line.close()\n"
        argv = [sys.executable, "-I", "-c", hello + code]
        process.enclosed(argv, sandbox=sandbox, order=b"", keep=(), on_ready=lambda: None)
        said = capfd.readouterr()
        return said.out + said.err

    yield night


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_13_14_no_way_out(place: Place, attempt: str, tmp_path: Path) -> None:
    name = f"pantheon-attack-{os.getpid()}"
    with (
        socket.socket() as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        tcp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0{name}")
        unix.bind(str(tmp_path / "s"))
        for one in (tcp, abstract, unix):
            one.listen(4)
        for word, value in (("PORT", str(tcp.getsockname()[1])), ("NAME", name), ("PATH", str(tmp_path / "s"))):
            attempt = attempt.replace(word, value)
        code = f"import os, socket\ntry:\n    {attempt}\n    print('OUT')\n"
        code += "except (OSError, AttributeError, ZeroDivisionError) as e:\n    print('refused', type(e).__name__, e)\n"
        said = place(code)
    assert said.startswith("refused"), said
    assert "timed out" not in said, "a time-out is no wall"


def test_13_only_the_loopback_interface_is_there(place: Place) -> None:
    code = (
        "import socket; print([name for _, name in socket.if_nameindex()], open('/proc/net/route').read().count('\\n'))"
    )
    assert place(code) == "['lo'] 1\n"


def test_13_programs_of_the_system_get_no_further(place: Place) -> None:
    """bash's own /dev/tcp, and the resolver's command."""
    code = (
        "import subprocess\n"
        "for argv in (['bash', '-c', 'echo x > /dev/tcp/203.0.113.7/80'], ['getent', 'hosts', 'example.com']):\n"
        "    print(subprocess.run(argv, capture_output=True).returncode != 0)\n"
    )
    assert place(code) == "True\nTrue\n"
