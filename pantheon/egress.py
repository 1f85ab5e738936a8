"""The proof that nothing can leave: children of the night try every way out, and each must fail.

Owns the probe and its record; the sandboxes are process.py's. It is run where the night runs (the orchestrator's own
namespaces) and in a sandbox of its tools, while the host really listens: on loopback, on an abstract and on a pathname
socket, each proved by reaching it from the host first. Where one of those is reached nothing further is tried: a probe
that gets out would itself be a leak. The names of variables that look like credentials are recorded, never their
values.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pantheon.errors import SandboxError
from pantheon.process import Limits, run
from pantheon.records import Record
from pantheon.sandbox import Sandbox

CREDENTIAL = re.compile(
    r"(^|_)(API_?KEY|KEYS?|TOKENS?|SECRETS?|PASS(WORD|WD|PHRASE)?|CREDENTIALS?|AUTH|COOKIE|PAT|NETRC|ASKPASS|AUTH_SOCK)(_|$)"
    r"|^(AWS|AZURE|GOOGLE|GCP|KUBE|SSH|GPG|HF|OPENAI|ANTHROPIC)_|^KUBECONFIG$"
)
MOST = 40  # of the host's own sockets that are tried, of each kind
_SOCKETS = (
    *("/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/snapd.socket"),
    *("/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/resolve/io.systemd.Resolve"),
)

Place = Literal["host", "night", "tool"]


class Targets(Record):
    """What the host listens on while the probe runs, and what listens there anyway. Names of abstract sockets are
    hexadecimal, since they are bytes."""

    tcp: int
    tcp6: int  # 0: the host has no IPv6
    udp: int
    abstract: tuple[str, ...]  # the first is ours
    paths: tuple[str, ...]  # the first is ours
    resolvers: tuple[str, ...] = ()


class Attempt(Record):
    """One try to reach something. `error` is empty when it was reached."""

    place: Place = "tool"
    kind: str
    target: str
    error: str


class EgressProof(Record):
    """What happened when children of the night tried to get out. `controls` were made on the host and must succeed,
    `attempts` must all fail. `stripped` holds names only, never values. What the relay leads to is told, not tried."""

    attempts: tuple[Attempt, ...]
    interfaces: tuple[str, ...]
    closed: bool
    controls: tuple[Attempt, ...] = ()
    stripped: tuple[str, ...] = ()
    relay: str = ""  # the one local address that the night's model server has, and its model; empty: none

    @property
    def ways(self) -> tuple[str, ...]:
        """What is wrong: the ways out that were open, and the controls that proved nothing."""
        reached = [
            f"{one.target} (from the {one.place}: {one.error or 'reached'})" for one in self.attempts if _open(one)
        ]
        deaf = [f"{one.target} (not even the host reached it: {one.error})" for one in self.controls if one.error]
        links = [f"interface {name}" for name in self.interfaces if name != "lo"]
        return (*reached, *links, *deaf)


def stripped_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the variables that look like credentials; no child of ours gets them."""
    return tuple(sorted(name for name in environ if CREDENTIAL.search(name.upper())))


_PROBE = r"""
import errno, json, socket, sys
t, host = json.loads(sys.argv[1]), sys.argv[2] == "host"
def attempt(kind, target, family, type_, address, data=None, proto=0):
    try:
        with socket.socket(family, type_, proto) as s:
            s.settimeout(2)
            s.connect(address)
            if data is not None:
                s.send(data)
                s.recv(16)  # the host echoes; a port where nobody listens says so at once
        error = ""
    except OSError as e:
        error = errno.errorcode.get(e.errno, "") or type(e).__name__
    return {"kind": kind, "target": target, "error": error}
I, I6, U, T, D = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.SOCK_STREAM, socket.SOCK_DGRAM
def name(text): return bytes.fromhex(text).decode("utf-8", "backslashreplace")
out = [
    attempt("tcp", "a listening port on the host's 127.0.0.1", I, T, ("127.0.0.1", t["tcp"])),
    attempt("udp", "an echoing port on the host's 127.0.0.1", I, D, ("127.0.0.1", t["udp"]), b"x"),
    attempt("abstract", "a listening abstract socket on the host", U, T, b"\0" + bytes.fromhex(t["abstract"][0])),
    attempt("path", "a listening socket in the host's /tmp", U, T, t["paths"][0]),
]
if t["tcp6"]:
    out.append(attempt("tcp6", "a listening port on the host's [::1]", I6, T, ("::1", t["tcp6"])))
links = [name for _, name in socket.if_nameindex()]
if not host and links == ["lo"] and all(one["error"] for one in out):  # else the walls do not stand: send nothing
    out += [
        attempt("tcp", "203.0.113.1:443", I, T, ("203.0.113.1", 443)),
        attempt("udp", "203.0.113.1:53", I, D, ("203.0.113.1", 53), b"x"),
        attempt("tcp6", "[2001:db8::1]:443", I6, T, ("2001:db8::1", 443)),
        attempt("udp6", "[2001:db8::1]:53", I6, D, ("2001:db8::1", 53), b"x"),
        attempt("metadata", "169.254.169.254:80", I, T, ("169.254.169.254", 80)),
        attempt("metadata", "[fd00:ec2::254]:80", I6, T, ("fd00:ec2::254", 80)),
        attempt("raw", "icmp", I, socket.SOCK_RAW, ("203.0.113.1", 0), b"x", socket.IPPROTO_ICMP),
        attempt("packet", "a raw frame", getattr(socket, "AF_PACKET", 17), socket.SOCK_RAW, ("lo", 0)),
        attempt("vsock", "the host of a virtual machine", getattr(socket, "AF_VSOCK", 40), T, (2, 1)),
    ]
    for one in t["resolvers"]:
        family = I6 if ":" in one else I
        out.append(attempt("dns", one + ":53", family, D, (one, 53), b"x"))
    out += [attempt("abstract", "@" + name(one), U, T, b"\0" + bytes.fromhex(one)) for one in t["abstract"][1:]]
    out += [attempt("path", one.encode("utf-8", "backslashreplace").decode(), U, T, one) for one in t["paths"][1:]]
    try:
        socket.getaddrinfo("example.com", 443)
        out.append({"kind": "dns", "target": "example.com", "error": ""})
    except socket.gaierror as e:
        out.append({"kind": "dns", "target": "example.com", "error": "EAI_%d" % e.errno})
print(json.dumps({"attempts": out, "interfaces": links}))
"""
# An error that comes back at once from the kernel is proof; a time-out could be a firewall's and is none.
_REFUSALS = {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EPERM", "EACCES"}


def _open(one: Attempt) -> bool:
    """Whether an attempt got out, or failed in a way that proves nothing."""
    if one.kind == "path":
        return one.error not in ("ENOENT", "ENOTDIR", "EACCES")
    return one.error not in _REFUSALS and not one.error.startswith("EAI_")


@contextlib.contextmanager
def listening(environ: Mapping[str, str], others: Sequence[str] = ()) -> Iterator[Targets]:
    """Listen on the host, for as long as the probe needs it, on sockets that nothing but the probe knows. `others`:
    pathname sockets that are to be tried in any case."""
    abstract, paths = _of_the_host(environ)
    name = f"pantheon-probe-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as held:
        place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="pantheon-probe-", dir="/tmp")))
        tcp, udp = _bound(held, socket.AF_INET, socket.SOCK_STREAM), _bound(held, socket.AF_INET, socket.SOCK_DGRAM)
        try:
            tcp6 = int(_bound(held, socket.AF_INET6, socket.SOCK_STREAM).getsockname()[1])
        except OSError:
            tcp6 = 0
        for address in (f"\0{name}", str(place / "socket")):
            unix = held.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind(address)
            unix.listen(8)
        echo = threading.Thread(target=_echo, args=(udp,), daemon=True)
        echo.start()
        held.callback(echo.join)
        held.callback(udp.sendto, b"", udp.getsockname())
        yield Targets(
            tcp=tcp.getsockname()[1],
            tcp6=tcp6,
            udp=udp.getsockname()[1],
            abstract=(name.encode().hex(), *abstract),
            paths=tuple(dict.fromkeys((str(place / "socket"), *others, *paths))),
            resolvers=_resolvers(),
        )


def _bound(held: contextlib.ExitStack, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    made = held.enter_context(socket.socket(family, kind))
    made.bind(("::1" if family is socket.AF_INET6 else "127.0.0.1", 0))
    if kind is socket.SOCK_STREAM:
        made.listen(8)
    return made


def _echo(udp: socket.socket) -> None:
    while True:
        data, sender = udp.recvfrom(16)
        if not data:  # from ourselves, at the end
            return
        udp.sendto(data, sender)


def _of_the_host(environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Sockets that others listen on here: abstract ones (hexadecimal), and the pathname ones an attacker would want."""
    abstract, paths = [], [path for path in _SOCKETS if os.path.exists(path)]
    home, runtime = environ.get("HOME", ""), environ.get("XDG_RUNTIME_DIR", "")
    wanted = [environ.get("SSH_AUTH_SOCK", ""), f"{home}/.gnupg/S.gpg-agent", f"{runtime}/gnupg/S.gpg-agent"]
    wanted += [f"{runtime}/bus", f"{runtime}/keyring/control", f"{runtime}/docker.sock"]
    paths += [path for path in wanted if path.startswith("/") and os.path.exists(path)]
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/unix").read_bytes().splitlines()[1:]:
            fields = line.split(None, 7)
            if len(fields) == 8 and fields[3] == b"00010000":  # it accepts connections
                if fields[7].startswith(b"@"):
                    abstract.append(fields[7][1:].hex())
                elif os.fsdecode(fields[7]) not in paths and fields[7].startswith(b"/"):
                    paths.append(os.fsdecode(fields[7]))
    return abstract[:MOST], paths[:MOST]


def _resolvers() -> tuple[str, ...]:
    with contextlib.suppress(OSError):
        text = Path("/etc/resolv.conf").read_text("utf-8", "replace")
        return tuple(re.findall(r"^\s*nameserver\s+([0-9a-fA-F.:]+)\s*$", text, re.MULTILINE))[:3]
    return ()


def attempts(targets: Targets, place: Place) -> tuple[tuple[Attempt, ...], tuple[str, ...]]:
    """Try every way from one place: the host (our own listeners only), the process's own namespaces, a tool's sandbox.
    (attempts, names of the network interfaces). Raises SandboxError when the probe itself cannot run."""
    sandbox = Sandbox() if place == "tool" else None
    argv = [sys.executable, "-I", "-c", _PROBE, targets.to_json(), place]
    done = run(argv, limits=Limits(wall_s=60.0, cpu_s=10), sandbox=sandbox)
    if done.returncode != 0:
        why = done.stderr.decode("utf-8", "replace").strip()[-400:] or f"exit status {done.returncode}"
        raise SandboxError("cannot probe the sandbox", sys.executable, why, "git pantheon doctor")
    found = json.loads(done.stdout)
    return tuple(Attempt(place=place, **one) for one in found["attempts"]), tuple(found["interfaces"])


def prove(targets: Targets, controls: tuple[Attempt, ...], stripped: tuple[str, ...], *, inside: bool) -> EgressProof:
    """The proof, made where the night runs. `inside`: this process is in the night's namespaces; else only a tool's
    sandbox is tried. `closed` is true only when each try was refused by the kernel, `lo` is the only interface, and the
    controls, made on the host, all succeeded."""
    tried, links = attempts(targets, "tool")
    if inside:
        own, more = attempts(targets, "night")
        tried, links = (*own, *tried), tuple(dict.fromkeys((*more, *links)))
    proof = EgressProof(attempts=tried, interfaces=links, controls=controls, stripped=stripped, closed=False)
    return proof.model_copy(update={"closed": not proof.ways and bool(controls)})


def probe_egress(environ: Mapping[str, str]) -> EgressProof:
    """The proof for a tool's sandbox started from here."""
    with listening(environ) as targets:
        return prove(targets, attempts(targets, "host")[0], stripped_names(environ), inside=False)
